/* A program outside of this project that drives the memory: two sources, writes among the reads, a snapshot in the
 * middle, every completion printed. The testbench of verilog/testbench.sv sends the same requests.
 *
 *     cc host.c -lcptr_memory -lpthread -ldl -lm && ./a.out DDR5-4800 2000 */
#include <stdio.h>
#include <stdlib.h>

#include "cptr_memory.h"

static void must(cptr_memory_status status, const char *what)
{
    if (status != CPTR_MEMORY_OK) {
        fprintf(stderr, "%s: status %d\n", what, (int)status);
        exit(1);
    }
}

/* One in four requests is a write, two sources take turns; the lines are drawn at random. */
static uint32_t state = 1;

static uint64_t next_address(uint64_t lines, uint64_t access_bytes)
{
    state = state * 1664525u + 1013904223u;
    return (uint64_t)(state >> 8) % lines * access_bytes;
}

static unsigned long print_completions(cptr_memory *memory)
{
    unsigned long taken = 0;
    uint64_t id, cycle;
    uint32_t source;
    int32_t is_write;
    while (cptr_memory_pop(memory, &id, &cycle, NULL, &source, &is_write) == CPTR_MEMORY_OK) {
        printf("%lu %lu %lu %d\n", (unsigned long)cycle, (unsigned long)id, (unsigned long)source, (int)is_write);
        taken++;
    }
    return taken;
}

/* Far ahead and back again: nothing changes. */
static void there_and_back(cptr_memory *memory, uint64_t cycle)
{
    size_t length = 0;
    uint8_t *bytes;
    if (cptr_memory_snapshot(memory, NULL, 0, &length) != CPTR_MEMORY_ERROR_SIZE || !(bytes = malloc(length)))
        exit(1);
    must(cptr_memory_snapshot(memory, bytes, length, &length), "snapshot");
    must(cptr_memory_advance(memory, cycle + 12345), "advance");
    must(cptr_memory_restore(memory, bytes, length), "restore");
    free(bytes);
}

int main(int argc, char **argv)
{
    const char *device = argc > 1 ? argv[1] : "DDR5-4800";
    unsigned long requests = argc > 2 ? strtoul(argv[2], NULL, 10) : 2000, offered = 0, taken = 0;
    char message[200];
    cptr_memory *memory;
    cptr_memory_totals all, of_source;
    uint64_t capacity, access_bytes, cycle = 0, address;
    if (cptr_memory_open(device, "channels=2 stripe=256 priorities=0,1", &memory, message, sizeof message)
        != CPTR_MEMORY_OK) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    must(cptr_memory_geometry(memory, &capacity, &access_bytes, NULL), "geometry");
    address = next_address(capacity / access_bytes, access_bytes);
    while (taken < requests) {
        if (offered < requests) {
            /* One request in a cycle, as a bus brings them. */
            cptr_memory_status status =
                cptr_memory_offer(memory, address, offered % 4 == 3, (uint32_t)(offered % 2), NULL);
            if (status < 0)
                must(status, "offer");
            if (status == CPTR_MEMORY_OK) {
                offered++;
                address = next_address(capacity / access_bytes, access_bytes);
            }
            cycle++;
        } else {
            must(cptr_memory_next_event(memory, &cycle), "next_event");
        }
        must(cptr_memory_advance(memory, cycle), "advance");
        if (cycle % 100 == 0)
            there_and_back(memory, cycle);
        taken += print_completions(memory);
    }
    must(cptr_memory_counts(memory, &all), "counts");
    must(cptr_memory_source_counts(memory, 1, &of_source), "source_counts");
    fprintf(stderr, "%lu reads, %lu writes, %lu hits, %lu misses, %lu conflicts, latency %.1f, of source 1 %.1f\n",
            (unsigned long)(all.reads_served + all.reads_forwarded),
            (unsigned long)(all.writes_served + all.writes_merged), (unsigned long)all.row_hits,
            (unsigned long)all.row_misses, (unsigned long)all.row_conflicts, all.mean_latency,
            of_source.mean_latency);
    /* What must be refused. */
    if (cptr_memory_advance(memory, 0) != CPTR_MEMORY_ERROR_CYCLE
        || cptr_memory_advance(NULL, 0) != CPTR_MEMORY_ERROR_NULL
        || cptr_memory_offer(memory, 1, 0, 0, NULL) != CPTR_MEMORY_ERROR_ADDRESS
        || cptr_memory_offer(memory, 0, 0, 2, NULL) != CPTR_MEMORY_ERROR_INDEX
        || cptr_memory_completes(memory, 12345678, NULL) != CPTR_MEMORY_ERROR_ID
        || cptr_memory_channel_counts(memory, 2, &all) != CPTR_MEMORY_ERROR_INDEX
        || cptr_memory_restore(memory, (const uint8_t *)message, 8) != CPTR_MEMORY_ERROR_SNAPSHOT
        || cptr_memory_open("DDR9", NULL, &memory, message, 20) != CPTR_MEMORY_ERROR_OPTIONS)
        return 1;
    cptr_memory_close(memory);
    return 0;
}

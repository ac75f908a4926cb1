/* A memory of DRAM channels, exact to the cycle, as a part of another simulator. Guide: docs/dram.md.
 *
 * Generated from hw-model/ffi/src by `CPTR_BLESS=1 cargo test -p cptr-memory --test header`; do not edit.
 *
 * Offer requests, let time pass, take completions:
 *
 *     cptr_memory *memory;
 *     if (cptr_memory_open("DDR5-4800", "channels=2", &memory, message, sizeof message) != CPTR_MEMORY_OK)
 *         ... message says why ...
 *     cptr_memory_offer(memory, 0x1000, 0, 0, &id);
 *     cptr_memory_next_event(memory, &cycle);
 *     cptr_memory_advance(memory, cycle);
 *     while (cptr_memory_pop(memory, &id, &cycle, NULL, NULL, NULL) == CPTR_MEMORY_OK)
 *         ... the request with this id is complete ...
 *     cptr_memory_close(memory);
 *
 * A handle is for one thread at a time; different handles know nothing of each other. Every function but
 * cptr_memory_close returns a status: 0 if it was done, more if there is nothing or not now, negative for an error.
 * What is not done changes nothing. */
#ifndef CPTR_MEMORY_H
#define CPTR_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a function returns. */
typedef int32_t cptr_memory_status;
/* An engine. */
typedef struct cptr_memory cptr_memory;

/* Done. */
#define CPTR_MEMORY_OK 0
/* There is none: no completion, no event, no cycle that is known yet. */
#define CPTR_MEMORY_NONE 1
/* Not taken, because the queue is full: offer again after the next command. */
#define CPTR_MEMORY_FULL 2
/* Not taken, because this cycle takes no more: offer again in the next one. */
#define CPTR_MEMORY_NEXT_CYCLE 3
/* Not taken, because 65,536 completions of the channel wait to be taken. */
#define CPTR_MEMORY_UNREAD 4
/* A pointer is null. */
#define CPTR_MEMORY_ERROR_NULL (-1)
/* The device or an option is not what was expected; the message says why. */
#define CPTR_MEMORY_ERROR_OPTIONS (-2)
/* An address that is no whole access inside the memory. */
#define CPTR_MEMORY_ERROR_ADDRESS (-3)
/* There is no such source or channel. */
#define CPTR_MEMORY_ERROR_INDEX (-4)
/* A cycle that is past, or beyond 2^48. */
#define CPTR_MEMORY_ERROR_CYCLE (-5)
/* No request that waits, or whose completion was not taken, has this id. */
#define CPTR_MEMORY_ERROR_ID (-6)
/* The buffer is too short. */
#define CPTR_MEMORY_ERROR_SIZE (-7)
/* The snapshot is damaged, or of another device, configuration or version. */
#define CPTR_MEMORY_ERROR_SNAPSHOT (-8)
/* A fault of this library; the handle can only be closed. */
#define CPTR_MEMORY_ERROR_INTERNAL (-9)

/* Counts since the start. Latencies are cycles from acceptance to the end of the data, of reads. */
typedef struct cptr_memory_totals {
    /* Reads whose data command went out. */
    uint64_t reads_served;
    /* Writes whose data command went out. */
    uint64_t writes_served;
    /* Reads answered from the write queue. */
    uint64_t reads_forwarded;
    /* Writes swallowed by a waiting write to the same address. */
    uint64_t writes_merged;
    /* Requests that found their row open. */
    uint64_t row_hits;
    /* Requests that found the bank closed. */
    uint64_t row_misses;
    /* Requests that found another row open. */
    uint64_t row_conflicts;
    /* Those of them whose bank had been opened for another source; of a source only, else 0. */
    uint64_t conflicts_with_others;
    /* Mean latency. */
    double mean_latency;
    /* Latency that half of the reads do not exceed. */
    uint64_t p50_latency;
    /* Latency that 99 % of the reads do not exceed. */
    uint64_t p99_latency;
    /* Greatest latency. */
    uint64_t max_latency;
} cptr_memory_totals;

/* Where the energy went since the start, in picojoules; without data wires, physical layer and controller. */
typedef struct cptr_memory_energies {
    /* Rows opened and closed. */
    double activate_pj;
    /* Reads beyond standby. */
    double read_pj;
    /* Writes beyond standby. */
    double write_pj;
    /* Refreshes beyond standby. */
    double refresh_pj;
    /* Standby, with open rows and without. */
    double standby_pj;
} cptr_memory_energies;
/* Opens an idle memory at cycle 0 and writes its handle to memory.
 *
 * device is the name of a built-in device, the path of a device file (it ends in .toml), or the text of one (it has
 * more than one line). options is null or NAME=VALUE separated by white space: mapping, refresh (none, ab, sb), page
 * (open, closed), queue, offers, channels, stripe (bytes), priorities (0,1,... for each source; 0 goes first). Where
 * something is wrong, a sentence goes to message, cut to size bytes with the zero that ends it; null if it is not
 * wanted. */
cptr_memory_status cptr_memory_open(
    const char *device,
    const char *options,
    cptr_memory **memory,
    char *message,
    size_t size);

/* Closes a memory; null is left alone. */
void cptr_memory_close(cptr_memory *memory);

/* Offers a read (is_write 0) or write of one access in the current cycle; its id goes to id, if that is not null. */
cptr_memory_status cptr_memory_offer(
    cptr_memory *memory,
    uint64_t address,
    int32_t is_write,
    uint32_t source,
    uint64_t *id);

/* Goes to cycle and lets happen what happens up to then, that cycle included. */
cptr_memory_status cptr_memory_advance(cptr_memory *memory, uint64_t cycle);

/* Writes the current cycle to cycle. */
cptr_memory_status cptr_memory_now(cptr_memory *memory, uint64_t *cycle);

/* Writes the first cycle to cycle in which something can happen: a completion, or a command, after which there may
 * be room again. CPTR_MEMORY_NONE if nothing ever will. */
cptr_memory_status cptr_memory_next_event(cptr_memory *memory, uint64_t *cycle);

/* As cptr_memory_next_event, commands only: who was refused with CPTR_MEMORY_FULL need not ask before that. */
cptr_memory_status cptr_memory_next_command(cptr_memory *memory, uint64_t *cycle);

/* Takes the first completion whose cycle has come; CPTR_MEMORY_NONE if there is none. Id, cycle, latency from
 * acceptance, source and kind go where the pointers point that are not null. */
cptr_memory_status cptr_memory_pop(
    cptr_memory *memory,
    uint64_t *id,
    uint64_t *cycle,
    uint64_t *latency,
    uint32_t *source,
    int32_t *is_write);

/* Writes to cycle when the request completes or did; CPTR_MEMORY_NONE if that is not known yet. */
cptr_memory_status cptr_memory_completes(cptr_memory *memory, uint64_t id, uint64_t *cycle);

/* Writes how many cycles a clock has: 2 where commands use both edges (HBM3), else 1. */
cptr_memory_status cptr_memory_cycles_per_clock(cptr_memory *memory, uint64_t *cycles);

/* Writes what the memory is: bytes of all channels, bytes of an access, picoseconds of a clock. */
cptr_memory_status cptr_memory_geometry(
    cptr_memory *memory,
    uint64_t *capacity,
    uint64_t *access_bytes,
    uint64_t *clock_ps);

/* Writes the counts of all channels together. */
cptr_memory_status cptr_memory_counts(cptr_memory *memory, cptr_memory_totals *all);

/* Writes the counts of one channel. */
cptr_memory_status cptr_memory_channel_counts(cptr_memory *memory, uint32_t channel, cptr_memory_totals *of_channel);

/* Writes the counts of one source over all channels. */
cptr_memory_status cptr_memory_source_counts(cptr_memory *memory, uint32_t source, cptr_memory_totals *of_source);

/* Writes the energy of all channels up to now; CPTR_MEMORY_NONE if the device's currents are not known. */
cptr_memory_status cptr_memory_energy(cptr_memory *memory, cptr_memory_energies *all);

/* Writes the state to bytes and its length to length. CPTR_MEMORY_ERROR_SIZE if size is less; ask with a null
 * pointer and 0 for the length. */
cptr_memory_status cptr_memory_snapshot(cptr_memory *memory, uint8_t *bytes, size_t size, size_t *length);

/* Puts the memory where it, or another one of the same device and options, was at a snapshot. */
cptr_memory_status cptr_memory_restore(cptr_memory *memory, const uint8_t *bytes, size_t size);

#ifdef __cplusplus
}
#endif

#endif

/* What the C programs share: a seeded sequence through router, selection, dispatch, eviction and update, and a hash of
   all that comes out. */
#ifndef CHECKS_H
#define CHECKS_H
#include "cptr.h"

enum { EXPERTS = 64, K = 8, CAPACITY = 16, TOKENS = 2000, JOBS = 2 * K };

typedef struct {
    /* Counted in 64-bit words, so that it is aligned to CPTR_ALIGN. */
    uint64_t config[(CPTR_CONFIG_SIZE + 7) / 8];
    uint64_t tracker[(CPTR_TRACKER_SIZE(EXPERTS) + 7) / 8];
    uint64_t queue[CPTR_QUEUE_SIZE(JOBS) / 8];
    uint8_t bits[EXPERTS];
    uint32_t resident[CPTR_SET_WORDS(EXPERTS)];
    uint32_t residents;
    uint32_t random;
    uint32_t hash;
    /* Jobs on the units. */
    uint32_t running;
} layer;

static uint32_t next_random(layer *l) {
    l->random = l->random * 1664525u + 1013904223u;
    return l->random;
}

static void take(layer *l, uint32_t word) {
    l->hash = (l->hash ^ word) * 0x01000193u;
    l->hash ^= l->hash >> 15;
}

static void start(layer *l) {
    uint32_t i;
    for (i = 0; i < CPTR_SET_WORDS(EXPERTS); i++) l->resident[i] = 0;
    for (i = 0; i < EXPERTS; i++) l->bits[i] = (uint8_t)(1 + i % 4);
    l->residents = 0;
    l->random = 1;
    l->hash = 0x811C9DC5u;
    l->running = 0;
}

/* Three units; each is done with its job when it is asked. */
static int32_t submit_job(void *context, const cptr_job *job) {
    layer *l = (layer *)context;
    if (l->running == 3) return 0;
    l->running++;
    take(l, job->token * 64u + job->expert);
    take(l, job->weight + job->bits);
    return 1;
}

static int32_t poll_jobs(void *context) {
    layer *l = (layer *)context;
    if (l->running == 0) return 0;
    l->running--;
    return 1;
}

/* Sends what is not resident to the units. */
static cptr_status send(layer *l, uint32_t token, const uint16_t *chosen, const uint32_t *weights) {
    const cptr_units units = { l, submit_job, poll_jobs };
    uint16_t gpu[K];
    cptr_near_run runs[K];
    cptr_job jobs[K];
    uint32_t gpu_count, count, i;
    size_t finished;
    cptr_status status;
    status = cptr_dispatch(chosen, K, l->resident, CPTR_SET_WORDS(EXPERTS), l->bits, EXPERTS, gpu, &gpu_count, runs, &count);
    if (status < 0) return status;
    for (i = 0; i < gpu_count; i++) take(l, gpu[i]);
    for (i = 0; i < count; i++) {
        const cptr_job job = { token, 0, runs[i].expert, runs[i].bits, 0, weights[runs[i].rank], 0, 0 };
        jobs[i] = job;
    }
    while ((status = cptr_queue_push((uint8_t *)l->queue, jobs, count)) == CPTR_ERROR_FULL) {
        if ((status = cptr_queue_advance((uint8_t *)l->queue, &units, &finished)) < 0) return status;
        take(l, (uint32_t)finished);
    }
    return status;
}

/* One token; returns the first status that is an error. */
static cptr_status token(layer *l, uint32_t index) {
    static const cptr_router router = { .kind = CPTR_ROUTER_SOFTMAX_SELECTED, .k = K };
    int32_t scores[EXPERTS];
    uint16_t wanted[K], chosen[K], victim;
    uint32_t weights[K], substituted, i;
    cptr_step step;
    cptr_status status;
    for (i = 0; i < EXPERTS; i++) scores[i] = (int32_t)(next_random(l) >> 14) - (1 << 17) + (int32_t)(i % 7) * 20000;
    if ((status = cptr_router_top_k(&router, scores, EXPERTS, wanted, K)) < 0) return status;
    status = cptr_select(&router, 343597384u, 1, scores, EXPERTS, wanted, K, l->resident, CPTR_SET_WORDS(EXPERTS), chosen, &substituted);
    if (status < 0) return status;
    if ((status = cptr_router_weights(&router, scores, EXPERTS, chosen, K, weights)) < 0) return status;
    if ((status = send(l, index, chosen, weights)) < 0) return status;
    for (i = 0; i < K; i++) {
        uint32_t word = chosen[i] / 32u, bit = 1u << (chosen[i] % 32u);
        take(l, chosen[i]);
        take(l, weights[i]);
        if (l->resident[word] & bit) continue;
        if (l->residents == CAPACITY) {
            status = cptr_tracker_victim((const uint8_t *)l->tracker, l->resident, CPTR_SET_WORDS(EXPERTS), chosen, K, &victim);
            if (status < 0) return status;
            take(l, victim);
            l->resident[victim / 32u] &= ~(1u << (victim % 32u));
            l->residents--;
        }
        l->resident[word] |= bit;
        l->residents++;
    }
    if ((status = cptr_tracker_update((uint8_t *)l->tracker, (const uint8_t *)l->config, wanted, K, &step)) < 0) return status;
    take(l, (uint32_t)step.snr_log2);
    take(l, (uint32_t)step.angle);
    return CPTR_OK;
}
#endif

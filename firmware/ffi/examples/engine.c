/* How an engine keeps the experts of a model in bounded memory with cptr_cache_step: docs/engine.md. C90.

   The model is a small one that this program makes up: each expert adds its weights, multiplied by the router's, to the
   token. "Storage" holds all experts, the slots a few of each layer; a token may read slots only. The program prints
   how often it had to wait, and fails if a result differs from that of a model with all experts in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cptr.h"

enum { LAYERS = 4, EXPERTS = 16, K = 2, SLOTS = 6, WIDTH = 8, BATCH = 16, TOKENS = 960 };

static float storage[LAYERS][EXPERTS][WIDTH];
static float fast[LAYERS][SLOTS][WIDTH];
/* What lies in each slot, to check that nobody reads anything else. */
static int lies[LAYERS][SLOTS];
static float gate[LAYERS][EXPERTS][WIDTH];

static float noise(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 16) / 32768.0f - 1.0f;
}

static void make_model(void) {
    unsigned state = 1;
    int layer, expert, i;
    for (layer = 0; layer < LAYERS; layer++)
        for (expert = 0; expert < EXPERTS; expert++)
            for (i = 0; i < WIDTH; i++) {
                storage[layer][expert][i] = noise(&state);
                gate[layer][expert][i] = noise(&state);
            }
}

/* A text of 120 different tokens that comes again. */
static void embed(int token, float *x) {
    unsigned state = (unsigned)(token % 120) * 2654435761u + 7u;
    int i;
    for (i = 0; i < WIDTH; i++) x[i] = noise(&state);
}

static void route(int layer, const float *x, float *logits) {
    int expert, i;
    for (expert = 0; expert < EXPERTS; expert++) {
        logits[expert] = 0.0f;
        for (i = 0; i < WIDTH; i++) logits[expert] += gate[layer][expert][i] * x[i];
    }
}

/* The router's own weight of a choice: here its logit. */
static void add(const float *weights, float weight, float *sum) {
    int i;
    for (i = 0; i < WIDTH; i++) sum[i] += weight * weights[i];
}

static void copy(int layer, int expert, int slot) {
    memcpy(fast[layer][slot], storage[layer][expert], sizeof fast[layer][slot]);
    lies[layer][slot] = expert;
}

static void check(cptr_status status, const char *what) {
    if (status < 0) {
        printf("%s: %d\n", what, (int)status);
        exit(1);
    }
}

/* The same without a cache: what must come out. */
static void reference(float *x) {
    float logits[EXPERTS], sum[WIDTH];
    int layer, rank, expert, i, taken[EXPERTS];
    for (layer = 0; layer < LAYERS; layer++) {
        route(layer, x, logits);
        memset(sum, 0, sizeof sum);
        memset(taken, 0, sizeof taken);
        for (rank = 0; rank < K; rank++) {
            int best = -1;
            for (expert = 0; expert < EXPERTS; expert++)
                if (!taken[expert] && (best < 0 || logits[expert] > logits[best])) best = expert;
            taken[best] = 1;
            add(storage[layer][best], logits[best], sum);
        }
        for (i = 0; i < WIDTH; i++) x[i] = 0.5f * x[i] + 0.25f * sum[i];
    }
}

static uint16_t ids[BATCH * K], slots[BATCH * K], waves[BATCH * K];
static cptr_load loads[BATCH * K], fetches[8];

/* A batch goes through a layer. */
static void run_layer(uint8_t *cache, const cptr_router *router, int layer, int tokens, float (*x)[WIDTH]) {
    static float logits[BATCH][EXPERTS], sums[BATCH][WIDTH];
    size_t count = 0, fetched = 0, i;
    int token, choice, wave, last = 0;
    for (token = 0; token < tokens; token++) route(layer, x[token], logits[token]);
    check(cptr_cache_step(cache, router, (uint16_t)layer, (uint16_t)tokens, logits[0], EXPERTS, ids, slots, waves, loads,
                          BATCH * K, &count), "cptr_cache_step");
    for (choice = 0; choice < tokens * K; choice++) last = waves[choice] > last ? waves[choice] : last;
    memset(sums, 0, sizeof sums);
    for (wave = 0; wave <= last; wave++) {
        /* An engine starts these reads at once, runs what is there, and then waits for them. */
        for (i = 0; i < count; i++)
            if (loads[i].wave == wave) copy(layer, loads[i].expert, loads[i].slot);
        for (choice = 0; choice < tokens * K; choice++) {
            if (waves[choice] != wave) continue;
            token = choice / K;
            if (lies[layer][slots[choice]] != ids[choice]) {
                printf("slot %d holds another expert\n", (int)slots[choice]);
                exit(1);
            }
            add(fast[layer][slots[choice]], logits[token][ids[choice]], sums[token]);
        }
    }
    for (token = 0; token < tokens; token++)
        for (i = 0; i < WIDTH; i++) x[token][i] = 0.5f * x[token][i] + 0.25f * sums[token][i];
    /* While attention runs, and nothing else is read: */
    check(cptr_cache_fetch(cache, fetches, sizeof fetches / sizeof *fetches, &fetched), "cptr_cache_fetch");
    for (i = 0; i < fetched; i++) {
        copy(fetches[i].layer, fetches[i].expert, fetches[i].slot);
        check(cptr_cache_loaded(cache, fetches[i].layer, fetches[i].expert), "cptr_cache_loaded");
    }
}

static void run(int batch) {
    cptr_cache_parameters parameters;
    cptr_router router;
    cptr_counters counters;
    static float x[BATCH][WIDTH];
    float expected[WIDTH];
    size_t size = 0;
    uint8_t *cache;
    int first, token, layer;
    memset(&parameters, 0, sizeof parameters);
    parameters.layers = LAYERS;
    parameters.experts = EXPERTS;
    parameters.k = K;
    parameters.slots = SLOTS;
    parameters.tokens = (uint16_t)batch;
    parameters.fetches = 4;
    memset(&router, 0, sizeof router);
    router.kind = CPTR_ROUTER_SOFTMAX_ALL;
    router.k = K;
    check(cptr_cache_size(&parameters, &size), "cptr_cache_size");
    cache = malloc(size);
    check(cptr_cache_init(cache, size, CPTR_VERSION, &parameters), "cptr_cache_init");
    for (first = 0; first < TOKENS; first += batch) {
        for (token = 0; token < batch; token++) embed(first + token, x[token]);
        for (layer = 0; layer < LAYERS; layer++) run_layer(cache, &router, layer, batch, x);
        for (token = 0; token < batch; token++) {
            embed(first + token, expected);
            reference(expected);
            if (memcmp(expected, x[token], sizeof expected) != 0) {
                printf("batch %d: token %d differs\n", batch, first + token);
                exit(1);
            }
        }
    }
    check(cptr_cache_counters(cache, &counters), "cptr_cache_counters");
    printf("batch %2d: %lu tokens, %lu stalls, %lu fetches, %lu more waves\n", batch, (unsigned long)counters.tokens,
           (unsigned long)counters.stalls, (unsigned long)counters.fetches, (unsigned long)counters.more_waves);
    free(cache);
}

/* What a cache of a large model takes. */
static void print_size(void) {
    cptr_cache_parameters qwen3;
    size_t size = 0;
    memset(&qwen3, 0, sizeof qwen3);
    qwen3.layers = 48;
    qwen3.experts = 128;
    qwen3.k = 8;
    qwen3.slots = 32;
    qwen3.fetches = 8;
    check(cptr_cache_size(&qwen3, &size), "cptr_cache_size");
    printf("Qwen3-30B-A3B, 32 slots a layer: %lu bytes\n", (unsigned long)size);
}

int main(void) {
    make_model();
    print_size();
    run(1);
    run(4);
    run(16);
    return 0;
}

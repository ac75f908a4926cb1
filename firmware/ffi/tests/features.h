/* What the C programs share of low-bit experts, bits, changes of context and migration: a seeded sequence, whose
   results go into the hash. */
#ifndef FEATURES_H
#define FEATURES_H
#include "checks.h"

enum { COLUMNS = 96, HIDDEN = 9, OUTPUTS = 5, WIDE = 16 + HIDDEN * 60, NARROW = 16 + OUTPUTS * 12, COLD = 20 };

typedef struct {
    /* 4 bits in groups of 32; and 2 bits. */
    uint8_t gate[WIDE], up[WIDE], down[NARROW];
    int32_t x[COLUMNS];
    int64_t out[HIDDEN];
    uint64_t scratch[(CPTR_EXPERT_SCRATCH(COLUMNS, HIDDEN) + 7) / 8];
    uint64_t sums[CPTR_BITS_SCRATCH(COLD)];
    cptr_losses losses[COLD];
    uint64_t config[(CPTR_CONFIG_SIZE + 7) / 8];
    uint64_t context[(CPTR_TRACKER_SIZE(EXPERTS) + 7) / 8];
} features_memory;

static void take_long(layer *l, uint64_t number) {
    take(l, (uint32_t)number);
    take(l, (uint32_t)(number >> 32));
}

/* A matrix of random codes, scales and zero points. */
static cptr_matrix packed(layer *l, uint8_t *bytes, size_t length, uint8_t bits, uint8_t rows, uint8_t columns) {
    const uint8_t header[16] = { 'C', 'P', 'L', 'B', 1, bits, 32, 234, rows, 0, 0, 0, columns, 0, 0, 0 };
    cptr_matrix matrix = { bytes, length };
    size_t i;
    for (i = 0; i < length; i++) bytes[i] = i < 16 ? header[i] : (uint8_t)(next_random(l) >> 24);
    return matrix;
}

static cptr_expert make_expert(layer *l, features_memory *m) {
    cptr_expert expert;
    expert.gate = packed(l, m->gate, sizeof m->gate, 4, HIDDEN, COLUMNS);
    expert.up = packed(l, m->up, sizeof m->up, 4, HIDDEN, COLUMNS);
    expert.down = packed(l, m->down, sizeof m->down, 2, OUTPUTS, HIDDEN);
    return expert;
}

static cptr_status low_bit(layer *l, features_memory *m) {
    const cptr_expert expert = make_expert(l, m);
    const cptr_vector vector = { m->x, COLUMNS, -16 };
    cptr_matrix_shape shape;
    cptr_status status;
    int32_t exponent, i;
    for (i = 0; i < COLUMNS; i++) m->x[i] = (int32_t)(next_random(l) >> 13) - (1 << 18);
    if ((status = cptr_expert_shape(&expert.gate, &shape)) < 0) return status;
    take(l, shape.rows * 65536u + shape.columns * 256u + shape.bits * 16u + shape.group);
    status = cptr_expert_product(&expert.gate, &vector, (uint8_t *)m->scratch, sizeof m->scratch, m->out, HIDDEN, &exponent);
    if (status < 0) return status;
    take(l, (uint32_t)exponent);
    for (i = 0; i < HIDDEN; i++) take_long(l, (uint64_t)m->out[i]);
    status = cptr_expert_forward(&expert, &vector, (uint8_t *)m->scratch, sizeof m->scratch, m->out, OUTPUTS, &exponent);
    if (status < 0) return status;
    take(l, (uint32_t)exponent);
    for (i = 0; i < OUTPUTS; i++) take_long(l, (uint64_t)m->out[i]);
    return CPTR_OK;
}

static cptr_status cold_bits(layer *l, features_memory *m) {
    cptr_layer_losses layers[2];
    cptr_split splits[2];
    cptr_status status;
    uint32_t i, j, most;
    for (i = 0; i < COLD; i++) {
        most = next_random(l) >> 2;
        for (j = 0; j < 4; j++, most -= most / (2 + j + i % 3)) m->losses[i].at[j] = (int32_t)most;
    }
    layers[0].losses = m->losses, layers[0].experts = 8;
    layers[1].losses = m->losses + 8, layers[1].experts = COLD - 8;
    for (i = 0; i <= 3 * COLD; i += 7) {
        status = cptr_bits_split(m->losses, COLD, i, m->sums, CPTR_BITS_SCRATCH(COLD), splits);
        if (status < 0) return status;
        take_long(l, splits[0].gain);
        for (j = 0; j < 4; j++) take(l, splits[0].experts[j]);
        status = cptr_bits_split_layers(layers, 2, i, m->sums, CPTR_BITS_SCRATCH(COLD), splits);
        if (status < 0) return status;
        take_long(l, splits[0].gain);
        take_long(l, splits[1].gain);
        for (j = 0; j < 8; j++) take(l, splits[j / 4].experts[j % 4]);
    }
    return CPTR_OK;
}

/* Two contexts, each of which wants a half of the experts; what the alarm and the limit let through is exchanged. */
static cptr_status contexts(layer *l, features_memory *m) {
    static const cptr_parameters trackers = { CPTR_CHANGE_SLOW_GAIN, 0, CPTR_CHANGE_FAST_GAIN, 6, 12, 18, 10, 32 };
    static const cptr_change_config change = { 64, 32, 8, 16, 6, 0 };
    cptr_change_detector detector = { { 0, 0, 0, 0 } };
    cptr_allowance allowance;
    uint32_t resident[CPTR_SET_WORDS(EXPERTS)] = { 0xFFFF, 0 }, i, j, margin, changed, alarms = 0;
    cptr_status status;
    cptr_swap swap;
    if ((status = cptr_config_init((uint8_t *)m->config, sizeof m->config, CPTR_VERSION, &trackers)) < 0) return status;
    if ((status = cptr_tracker_init((uint8_t *)m->context, sizeof m->context, EXPERTS)) < 0) return status;
    if ((status = cptr_migration_margin(3, 40, 512, &margin)) != CPTR_OK) return status;
    if ((status = cptr_migration_limit(&allowance, 6554, 2)) < 0) return status;
    take(l, margin);
    for (i = 0; i < 800; i++) {
        uint16_t wanted[4];
        int32_t distance;
        for (j = 0; j < 4; j++) wanted[j] = (uint16_t)(i / 400 * 32 + j * 8 + (next_random(l) >> 31));
        if ((status = cptr_change_distance((uint8_t *)m->context, wanted, 4, &distance)) < 0) return status;
        if ((status = cptr_change_step(&detector, &change, &distance, 1, &changed)) < 0) return status;
        take(l, (uint32_t)distance);
        alarms += changed;
        status = cptr_tracker_update((uint8_t *)m->context, (const uint8_t *)m->config, wanted, 4, NULL);
        if (status < 0) return status;
        if ((status = cptr_migration_token(&allowance, 1)) < 0) return status;
        status = cptr_migration_swap((uint8_t *)m->context, resident, CPTR_SET_WORDS(EXPERTS), NULL, 0, margin, &swap);
        if (status < 0) return status;
        if (status == CPTR_OK && cptr_migration_take(&allowance) == CPTR_OK) {
            resident[swap.load / 32u] |= 1u << (swap.load % 32u);
            resident[swap.evict / 32u] &= ~(1u << (swap.evict % 32u));
            take(l, swap.load * 65536u + swap.evict);
            take(l, swap.gain);
        }
    }
    take(l, alarms);
    for (i = 0; i < 4; i++) take(l, detector.state[i]);
    return alarms == 1 ? CPTR_OK : CPTR_ERROR_RANGE;
}

static cptr_status features(layer *l, features_memory *m) {
    cptr_status status = low_bit(l, m);
    if (status == CPTR_OK) status = cold_bits(l, m);
    return status == CPTR_OK ? contexts(l, m) : status;
}
#endif

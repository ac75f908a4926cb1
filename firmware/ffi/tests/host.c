/* The library from C on the host: results, then everything that a caller can get wrong. Run under AddressSanitizer and
   UBSan. */
#include <stdio.h>
#include <stdlib.h>
#include <math.h>
#include <string.h>
#include "features.h"

static int failures;

static void expect(int line, const char *what, long found, long expected) {
    if (found == expected) return;
    printf("host.c:%d: %s is %ld, not %ld\n", line, what, found, expected);
    failures++;
}
#define EXPECT(call, expected) expect(__LINE__, #call, (long)(call), (long)(expected))

static layer l;
static uint8_t *const tracker = (uint8_t *)l.tracker;
static uint8_t *const config = (uint8_t *)l.config;

static void order(void) {
    static const uint16_t wanted[2] = { 1, 2 };
    uint16_t victim = 77;
    uint32_t slow = 77, fast = 77;
    uint64_t before[sizeof l.tracker / 8];
    memset(l.tracker, 0xA5, sizeof l.tracker);
    memcpy(before, l.tracker, sizeof before);
    /* Never initialised. */
    EXPECT(cptr_tracker_update(tracker, config, wanted, 2, NULL), CPTR_ERROR_STATE);
    EXPECT(cptr_tracker_victim(tracker, l.resident, 2, NULL, 0, &victim), CPTR_ERROR_STATE);
    EXPECT(cptr_tracker_level(tracker, 0, &slow, &fast), CPTR_ERROR_STATE);
    EXPECT(memcmp(before, l.tracker, sizeof before), 0);
    EXPECT(cptr_tracker_init(tracker, sizeof l.tracker, EXPERTS), CPTR_OK);
    /* The tracker is there, the configuration is not; or one stands for the other. */
    memcpy(before, l.tracker, sizeof before);
    EXPECT(cptr_tracker_update(tracker, config, wanted, 2, NULL), CPTR_ERROR_STATE);
    EXPECT(cptr_tracker_update(tracker, tracker, wanted, 2, NULL), CPTR_ERROR_STATE);
    EXPECT(cptr_config_init(config, sizeof l.config, CPTR_VERSION, NULL), CPTR_OK);
    EXPECT(cptr_tracker_update(config, config, wanted, 2, NULL), CPTR_ERROR_STATE);
    EXPECT(memcmp(before, l.tracker, sizeof before), 0);
    EXPECT(victim, 77);
    EXPECT(slow + fast, 154);
    /* A header that was overwritten. */
    l.tracker[0] ^= (uint64_t)1 << 40;
    EXPECT(cptr_tracker_update(tracker, config, wanted, 2, NULL), CPTR_ERROR_STATE);
    l.tracker[0] ^= (uint64_t)1 << 40;
}

static void states(void) {
    static const uint16_t twice[2] = { 3, 3 }, far[2] = { 3, EXPERTS };
    uint16_t many[CPTR_MAX_WANTED + 1];
    uint64_t before[sizeof l.tracker / 8], small[2];
    uint16_t victim = 77;
    uint32_t slow = 77, fast = 77, i;
    cptr_parameters p = { 1u << 26, 1u << 28, 1u << 29, 6, 12, 18, 10, 32 };
    for (i = 0; i <= CPTR_MAX_WANTED; i++) many[i] = (uint16_t)i;
    EXPECT(cptr_half_life(0) == 0xFFFFFFFFu, 1);
    EXPECT(cptr_half_life(44) > 66000000u && cptr_half_life(44) < 68000000u, 1);
    EXPECT(cptr_config_init(NULL, sizeof l.config, CPTR_VERSION, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_config_init(config + 1, sizeof l.config, CPTR_VERSION, NULL), CPTR_ERROR_ALIGN);
    EXPECT(cptr_config_init(config, CPTR_CONFIG_SIZE - 1, CPTR_VERSION, NULL), CPTR_ERROR_SIZE);
    EXPECT(cptr_config_init(config, sizeof l.config, CPTR_VERSION + 1, NULL), CPTR_ERROR_VERSION);
    EXPECT(cptr_config_init(config, sizeof l.config, CPTR_VERSION, &p), CPTR_OK);
    EXPECT(cptr_config_init(config, sizeof l.config, CPTR_VERSION, (const cptr_parameters *)((const uint8_t *)&p + 1)), CPTR_ERROR_ALIGN);
    p.proportional_shift = 16;
    EXPECT(cptr_config_init(config, sizeof l.config, CPTR_VERSION, &p), CPTR_ERROR_RANGE);
    p.proportional_shift = 6, p.integral_shift = 0;
    EXPECT(cptr_config_init(config, sizeof l.config, CPTR_VERSION, &p), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_init(NULL, sizeof l.tracker, EXPERTS), CPTR_ERROR_NULL);
    EXPECT(cptr_tracker_init(tracker + 4, sizeof l.tracker, EXPERTS), CPTR_ERROR_ALIGN);
    EXPECT(cptr_tracker_init(tracker, sizeof l.tracker, EXPERTS + 1), CPTR_ERROR_SIZE);
    EXPECT(cptr_tracker_init((uint8_t *)small, sizeof small, 1), CPTR_ERROR_SIZE);
    EXPECT(cptr_tracker_init(tracker, sizeof l.tracker, 0), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_init(tracker, (size_t)-1, (size_t)-1), CPTR_ERROR_RANGE);
    memcpy(before, l.tracker, sizeof before);
    EXPECT(cptr_tracker_update(NULL, config, twice, 1, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_tracker_update(tracker + 1, config, twice, 1, NULL), CPTR_ERROR_ALIGN);
    EXPECT(cptr_tracker_update(tracker, NULL, twice, 1, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_tracker_update(tracker, config, NULL, 1, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_tracker_update(tracker, config, (const uint16_t *)((const uint8_t *)twice + 1), 1, NULL), CPTR_ERROR_ALIGN);
    EXPECT(cptr_tracker_update(tracker, config, twice, 2, NULL), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_update(tracker, config, far, 2, NULL), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_update(tracker, config, many, CPTR_MAX_WANTED + 1, NULL), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_update(tracker, config, many, (size_t)-1, NULL), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_update(tracker, config, twice, 1, (cptr_step *)(tracker + 1)), CPTR_ERROR_ALIGN);
    EXPECT(cptr_tracker_victim(tracker, NULL, 1, NULL, 0, &victim), CPTR_ERROR_NULL);
    EXPECT(cptr_tracker_victim(tracker, l.resident, 2, NULL, 1, &victim), CPTR_ERROR_NULL);
    EXPECT(cptr_tracker_victim(tracker, l.resident, 2, NULL, 0, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_tracker_victim(tracker, l.resident, (size_t)-1, NULL, 0, &victim), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_level(tracker, EXPERTS, &slow, &fast), CPTR_ERROR_RANGE);
    EXPECT(cptr_tracker_level(tracker, 0, NULL, &fast), CPTR_ERROR_NULL);
    EXPECT(memcmp(before, l.tracker, sizeof before), 0);
    EXPECT(victim, 77);
    EXPECT(slow + fast, 154);
    /* None may go: nothing is resident. */
    EXPECT(cptr_tracker_victim(tracker, NULL, 0, NULL, 0, &victim), CPTR_NONE);
    EXPECT(victim, 77);
    /* The empty demand is a demand. */
    EXPECT(cptr_tracker_update(tracker, config, NULL, 0, NULL), CPTR_OK);
}

static void routers(void) {
    cptr_router r = { .kind = CPTR_ROUTER_SOFTMAX_SELECTED, .k = 2, .groups = 1, .top_groups = 1 };
    static const int32_t scores[4] = { 1 << 16, 3 << 16, 2 << 16, 0 };
    static const uint16_t far[2] = { 1, 4 }, twice[2] = { 1, 1 }, good[2] = { 1, 2 };
    uint16_t ids[2] = { 77, 77 };
    uint32_t weights[2] = { 77, 77 }, substituted = 77;
    EXPECT(cptr_router_top_k(NULL, scores, 4, ids, 2), CPTR_ERROR_NULL);
    EXPECT(cptr_router_top_k(&r, NULL, 4, ids, 2), CPTR_ERROR_NULL);
    EXPECT(cptr_router_top_k(&r, scores, 4, NULL, 2), CPTR_ERROR_NULL);
    EXPECT(cptr_router_top_k(&r, (const int32_t *)((const uint8_t *)scores + 2), 3, ids, 2), CPTR_ERROR_ALIGN);
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 1), CPTR_ERROR_SIZE);
    EXPECT(cptr_router_top_k(&r, scores, 1, ids, 2), CPTR_ERROR_RANGE);
    EXPECT(cptr_router_top_k(&r, scores, (size_t)-1, ids, 2), CPTR_ERROR_RANGE);
    r.k = 0;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.k = CPTR_MAX_WANTED + 1;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.k = 2, r.kind = 9;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.kind = CPTR_ROUTER_SIGMOID_GROUPED, r.groups = 3;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.groups = 0xFFFFFFFFu;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.groups = 2, r.bias = scores, r.bias_count = 3;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.bias = NULL, r.bias_count = 0;
    r.bias_place = 3;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.bias_place = 0, r.group_rating = 2;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.group_rating = 0, r.renormalise = 3;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.renormalise = 0, r.count = 3;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.count = 0, r.table = 2;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.table = 1;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_ROUTER);
    r.table = 0, r.expert_scale_count = 1;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_ERROR_NULL);
    r.expert_scale_count = 0;
    r.kind = CPTR_ROUTER_SOFTMAX_SELECTED, r.groups = 0, r.top_groups = 0;
    EXPECT(cptr_router_weights(&r, scores, 4, far, 2, weights), CPTR_ERROR_RANGE);
    EXPECT(cptr_router_weights(&r, scores, 4, good, 2, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_select(&r, 1u << 30, 0, scores, 4, twice, 2, NULL, 0, ids, &substituted), CPTR_ERROR_RANGE);
    EXPECT(cptr_select(&r, 1u << 30, 0, scores, 4, far, 2, NULL, 0, ids, &substituted), CPTR_ERROR_RANGE);
    EXPECT(cptr_select(&r, 1u << 30, 0, scores, 4, good, CPTR_MAX_WANTED + 1, NULL, 0, ids, &substituted), CPTR_ERROR_RANGE);
    EXPECT(cptr_select(&r, 1u << 30, 0, scores, 4, good, 2, NULL, 1, ids, &substituted), CPTR_ERROR_NULL);
    EXPECT(cptr_select(&r, 1u << 30, 0, scores, 4, good, 2, NULL, 0, ids, NULL), CPTR_ERROR_NULL);
    EXPECT(ids[0] + ids[1] + weights[0] + weights[1] + substituted, 5 * 77);
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_OK);
    EXPECT(ids[0] * 10 + ids[1], 12);
    EXPECT(cptr_router_weights(&r, scores, 4, ids, 2, weights), CPTR_OK);
    /* e / (1 + e) in steps of 2^-31. */
    EXPECT(weights[0] / 1000, 1569936);
}

/* One of each that the simplest router does not have. */
static void conventions(void) {
    static const int32_t scores[4] = { 1 << 16, 3 << 16, 2 << 16, 0 };
    static const int32_t bias[4] = { 0, 0, 0, 4 << 16 };
    static const uint16_t both[2] = { 1, 2 };
    static const uint32_t factors[4] = { 1u << 24, 1u << 23, 1u << 26, 0 };
    uint16_t ids[4] = { 77, 77, 77, 77 };
    uint32_t weights[2] = { 77, 77 }, substituted = 77, resident = 0;
    cptr_router r = { .kind = CPTR_ROUTER_SIGMOID_GROUPED, .k = 2, .groups = 2, .top_groups = 1, .bias = bias, .bias_count = 4 };
    /* Experts 2 and 3 are open: 0.881 + 4.5 against 0.731 + 0.953. */
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 4), CPTR_OK);
    EXPECT(ids[0] * 10 + ids[1], 32);
    EXPECT(ids[2], 77);
    /* Part of the logits: 4, 3, 2 and 1. */
    r.groups = r.top_groups = 0, r.bias_place = CPTR_BIAS_LOGITS, r.kind = CPTR_ROUTER_SOFTMAX_SELECTED;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 2), CPTR_OK);
    EXPECT(ids[0] * 10 + ids[1], 31);
    /* Fewer than k. */
    r.bias = NULL, r.bias_count = 0, r.k = 4, r.count = CPTR_COUNT_TOP_P, r.count_bound = 1u << 31;
    EXPECT(cptr_router_top_k(&r, scores, 4, ids, 4), CPTR_OK);
    EXPECT(ids[0], 1);
    EXPECT(ids[1] & ids[2] & ids[3], 0xFFFF);
    /* A null expert is at hand and loses less than allowed. */
    r.k = 2, r.count = CPTR_COUNT_FIXED, r.null_experts = 1, resident = 2;
    EXPECT(cptr_select(&r, 1u << 30, 1, scores, 4, both, 2, &resident, 1, ids, &substituted), CPTR_OK);
    EXPECT(ids[0] * 100 + ids[1] * 10 + substituted, 131);
    /* Scores that are no shares, a sum of others, and two that nothing is near. */
    r.null_experts = 0, r.kind = CPTR_ROUTER_SIGMOID_GROUPED, r.renormalise = CPTR_RENORMALISE_NO;
    EXPECT(cptr_router_weights(&r, scores, 4, both, 2, weights), CPTR_OK);
    EXPECT(weights[0] / 10000, 204563); /* 1 / (1 + exp(-3)) */
    r.kind = CPTR_ROUTER_SQRT_SOFTPLUS, r.renormalise = CPTR_RENORMALISE_USUAL;
    EXPECT(cptr_router_weights(&r, scores, 4, both, 2, weights), CPTR_OK);
    EXPECT(weights[0] / 10000, 117011); /* 1.746020 of 3.204420 */
    r.kind = CPTR_ROUTER_SPARSE_MIXER, r.jitter = 42949673u;
    EXPECT(cptr_router_weights(&r, scores, 4, both, 2, weights), CPTR_OK);
    EXPECT(weights[0] == 1u << 31 && weights[1] == 1u << 31, 1);
    r.kind = CPTR_ROUTER_SOFTMAX_SELECTED, r.expert_scale = factors, r.expert_scale_count = 4;
    EXPECT(cptr_router_weights(&r, scores, 4, both, 2, weights), CPTR_OK);
    EXPECT(weights[0] / 1000, 1569936);
    /* 0.75 times 1, 2.5 and 4; no more than fits. */
    EXPECT(cptr_router_scaled(&r, 0, 3u << 29, &substituted), CPTR_OK);
    EXPECT(substituted, 3u << 22);
    r.scale = 5u << 23;
    EXPECT(cptr_router_scaled(&r, 2, 3u << 29, &substituted), CPTR_OK);
    EXPECT(substituted, 15u << 23);
    r.scale = 0xFFFFFFFFu;
    EXPECT(cptr_router_scaled(&r, 2, 1u << 31, &substituted), CPTR_OK);
    EXPECT(substituted, 0xFFFFFFFFu);
    EXPECT(cptr_router_scaled(&r, 2, 1u << 31, NULL), CPTR_ERROR_NULL);
}

/* Weights of low scores keep their relative precision. */
static void low_scores(void) {
    static const uint16_t all[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    cptr_router r = { .kind = CPTR_ROUTER_SIGMOID_GROUPED, .k = 8 };
    int level, i;
    for (level = 0; level > -32000; level -= level > -40 ? 1 : 1000) {
        int32_t scores[8];
        uint32_t weights[8];
        double exact[8], sum = 0;
        for (i = 0; i < 8; i++) {
            scores[i] = level * 65536 + i * 8192;
            exact[i] = exp(i / 8.0) / (1 + exp(level + i / 8.0));
            sum += exact[i];
        }
        EXPECT(cptr_router_weights(&r, scores, 8, all, 8, weights), CPTR_OK);
        for (i = 0; i < 8; i++) EXPECT(fabs(weights[i] / 2147483648.0 / (exact[i] / sum) - 1) < 3e-7, 1);
    }
}

static void placement(void) {
    static const uint16_t chosen[2] = { 2, 0 }, far[2] = { 2, 4 }, once[1] = { 1 };
    static const uint32_t weights[2] = { 3u << 29, 1u << 29 };
    cptr_demand demand[4], before[4];
    cptr_candidate candidates[4] = { { 5, 0, 0 }, { 9, 0, 1 }, { 5, 1, 0 }, { 7, 1, 1 } };
    uint32_t importance[4], resident[2] = { 77, 77 }, hot = 77;
    uint16_t order[4] = { 77, 77, 77, 77 };
    size_t hot_of_all = 77;
    memset(demand, 0, sizeof demand);
    memcpy(before, demand, sizeof before);
    EXPECT(cptr_demand_observe(NULL, 4, chosen, 2, weights), CPTR_ERROR_NULL);
    EXPECT(cptr_demand_observe((cptr_demand *)((uint8_t *)demand + 4), 3, chosen, 2, weights), CPTR_ERROR_ALIGN);
    EXPECT(cptr_demand_observe(demand, 4, NULL, 2, weights), CPTR_ERROR_NULL);
    EXPECT(cptr_demand_observe(demand, 4, far, 2, weights), CPTR_ERROR_RANGE);
    EXPECT(cptr_demand_observe(demand, (size_t)-1, chosen, 2, weights), CPTR_ERROR_RANGE);
    EXPECT(cptr_demand_observe(demand, 4, chosen, CPTR_MAX_WANTED + 1, NULL), CPTR_ERROR_RANGE);
    EXPECT(memcmp(before, demand, sizeof before), 0);
    EXPECT(cptr_demand_observe(demand, 4, chosen, 2, weights), CPTR_OK);
    EXPECT(cptr_demand_observe(demand, 4, once, 1, NULL), CPTR_OK);
    EXPECT(CPTR_DEMAND_COUNT(demand[2]), 1);
    EXPECT(CPTR_DEMAND_SCORE(demand[2]) >> 18, 3);
    EXPECT(cptr_demand_importance(demand, 4, 0, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_demand_importance(demand, (size_t)-1, 0, importance), CPTR_ERROR_RANGE);
    /* By scores alone: 1/8, 1/2, 3/8 and none. */
    EXPECT(cptr_demand_importance(demand, 4, 0, importance), CPTR_OK);
    EXPECT(importance[0] >> 28, 1);
    EXPECT(importance[1] >> 28, 4);
    EXPECT(importance[2] >> 28, 3);
    EXPECT(importance[3], 0);
    EXPECT(cptr_place_layer(importance, 4, 10, 25, order, resident, 0, &hot), CPTR_ERROR_SIZE);
    EXPECT(cptr_place_layer(NULL, 4, 10, 25, order, resident, 1, &hot), CPTR_ERROR_NULL);
    EXPECT(cptr_place_layer(importance, 4, 10, 25, NULL, resident, 1, &hot), CPTR_ERROR_NULL);
    EXPECT(cptr_place_layer(importance, 4, 10, 25, order, resident, 1, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_place_layer(importance, CPTR_MAX_EXPERTS + 1, 10, 25, order, resident, 1000, &hot), CPTR_ERROR_RANGE);
    EXPECT(hot + order[0] + resident[0], 3 * 77);
    EXPECT(cptr_place_layer(importance, 4, 10, 25, order, resident, 2, &hot), CPTR_OK);
    EXPECT(hot, 2);
    EXPECT(order[0] * 1000 + order[1] * 100 + order[2] * 10 + order[3], 1203);
    EXPECT(resident[0], 1 << 1 | 1 << 2);
    EXPECT(resident[1], 77);
    EXPECT(cptr_place_layer(importance, 4, 0, 0, order, resident, 1, &hot), CPTR_OK);
    EXPECT(hot, 4);
    EXPECT(cptr_place_layers(NULL, 4, 10, 25, &hot_of_all), CPTR_ERROR_NULL);
    EXPECT(cptr_place_layers(candidates, 4, 10, 25, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_place_layers(candidates, 4, 10, 39, &hot_of_all), CPTR_OK);
    EXPECT(hot_of_all, 3);
    /* Of the two equal ones that of the lower layer is hot. */
    EXPECT(candidates[3].importance + candidates[3].layer, 6);
}

static void dispatch(void) {
    static const uint16_t chosen[4] = { 3, 0, 2, 1 }, twice[2] = { 1, 1 }, far[2] = { 1, 4 };
    static const uint8_t bits[4] = { 1, 4, 0, 4 }, none[2] = { 2, 0 }, many[2] = { 2, 17 };
    static const uint32_t resident[1] = { 1u << 2 };
    uint16_t gpu[4] = { 77, 77, 77, 77 };
    cptr_near_run near_data[4], before[4];
    uint32_t gpu_count = 77, near_count = 77;
    memset(near_data, 0xA5, sizeof near_data);
    memcpy(before, near_data, sizeof before);
    EXPECT(cptr_dispatch(NULL, 4, resident, 1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_NULL);
    EXPECT(cptr_dispatch(chosen, 4, NULL, 1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_NULL);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, NULL, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_NULL);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, 4, NULL, &gpu_count, near_data, &near_count), CPTR_ERROR_NULL);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, 4, gpu, NULL, near_data, &near_count), CPTR_ERROR_NULL);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, 4, gpu, &gpu_count, NULL, &near_count), CPTR_ERROR_NULL);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, 4, gpu, &gpu_count, near_data, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_dispatch((const uint16_t *)((const uint8_t *)chosen + 1), 3, resident, 1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_ALIGN);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, 4, gpu, (uint32_t *)((uint8_t *)&gpu_count + 2), near_data, &near_count), CPTR_ERROR_ALIGN);
    EXPECT(cptr_dispatch(chosen, CPTR_MAX_WANTED + 1, resident, 1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(cptr_dispatch(chosen, 4, resident, (size_t)-1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, (size_t)-1, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, 3, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(cptr_dispatch(twice, 2, resident, 1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(cptr_dispatch(far, 2, resident, 1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(cptr_dispatch(twice, 1, resident, 1, none, 2, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(cptr_dispatch(twice, 1, resident, 1, many, 2, gpu, &gpu_count, near_data, &near_count), CPTR_ERROR_RANGE);
    EXPECT(gpu[0] + gpu[1] + gpu[2] + gpu[3] + gpu_count + near_count, 6 * 77);
    EXPECT(memcmp(before, near_data, sizeof before), 0);
    /* Expert 2 is resident and needs no replica. Most bits first; 3 and 1 have as many, 3 was chosen first. */
    EXPECT(cptr_dispatch(chosen, 4, resident, 1, bits, 4, gpu, &gpu_count, near_data, &near_count), CPTR_OK);
    EXPECT(gpu_count * 10 + near_count, 13);
    EXPECT(gpu[0], 2);
    EXPECT(gpu[1], 77);
    EXPECT(near_data[0].expert * 100 + near_data[1].expert * 10 + near_data[2].expert, 310);
    EXPECT(near_data[0].rank * 100 + near_data[1].rank * 10 + near_data[2].rank, 31);
    EXPECT(near_data[0].bits * 100 + near_data[1].bits * 10 + near_data[2].bits, 441);
    EXPECT(memcmp(before + 3, near_data + 3, sizeof before[3]), 0);
    /* Nobody chosen, nobody there. */
    EXPECT(cptr_dispatch(NULL, 0, NULL, 0, NULL, 0, NULL, &gpu_count, NULL, &near_count), CPTR_OK);
    EXPECT(gpu_count + near_count, 0);
}

/* Units that finish a job at the next poll; at most `most` at a time. */
typedef struct {
    int most, running, calls;
    uint32_t order;
} units;

static int32_t start_job(void *context, const cptr_job *job) {
    units *u = (units *)context;
    u->calls++;
    if (u->running == u->most) return 0;
    u->running++;
    u->order = u->order * 10 + job->expert;
    return 1;
}

static int32_t end_job(void *context) {
    units *u = (units *)context;
    u->calls++;
    if (u->running == 0) return 0;
    u->running--;
    return 1;
}

/* Reports more than it was given. */
static int32_t boast(void *context) {
    ((units *)context)->calls++;
    return 1;
}

static void queue_refuses(uint8_t *queue, size_t size) {
    units u = { 1, 0, 0, 0 };
    const cptr_units driver = { &u, start_job, end_job }, no_submit = { &u, NULL, end_job }, no_poll = { &u, start_job, NULL };
    cptr_job jobs[4] = { { 1, 2, 3, 4, 0, 5, 0, 0 }, { 1, 2, 4, 4, 0, 5, 0, 0 }, { 1, 2, 5, 4, 0, 5, 0, 0 },
                         { 1, 2, 6, 4, 0, 5, 0, 0 } };
    uint64_t before[CPTR_QUEUE_SIZE(3) / 8];
    size_t count = 77;
    memset(queue, 0xA5, size);
    memcpy(before, queue, size);
    /* Never initialised. */
    EXPECT(cptr_queue_push(queue, jobs, 1), CPTR_ERROR_STATE);
    EXPECT(cptr_queue_advance(queue, &driver, &count), CPTR_ERROR_STATE);
    EXPECT(cptr_queue_outstanding(queue, &count), CPTR_ERROR_STATE);
    EXPECT(cptr_queue_clear(queue), CPTR_ERROR_STATE);
    EXPECT(cptr_queue_init(NULL, size, 3), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_init(queue + 4, size, 3), CPTR_ERROR_ALIGN);
    EXPECT(cptr_queue_init(queue, size - 1, 3), CPTR_ERROR_SIZE);
    EXPECT(cptr_queue_init(queue, size, 4), CPTR_ERROR_SIZE);
    EXPECT(cptr_queue_init(queue, size, 0), CPTR_ERROR_RANGE);
    EXPECT(cptr_queue_init(queue, (size_t)-1, (size_t)-1), CPTR_ERROR_RANGE);
    EXPECT(memcmp(before, queue, size), 0);
    EXPECT(cptr_queue_init(queue, size, 3), CPTR_OK);
    EXPECT(cptr_queue_push(queue, jobs, 2), CPTR_OK);
    memcpy(before, queue, size);
    /* A queue is no tracker, a tracker no queue. */
    EXPECT(cptr_tracker_update(queue, config, NULL, 0, NULL), CPTR_ERROR_STATE);
    EXPECT(cptr_queue_clear(tracker), CPTR_ERROR_STATE);
    EXPECT(cptr_queue_push(NULL, jobs, 1), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_push(queue + 1, jobs, 1), CPTR_ERROR_ALIGN);
    EXPECT(cptr_queue_push(queue, NULL, 1), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_push(queue, (const cptr_job *)((const uint8_t *)jobs + 2), 1), CPTR_ERROR_ALIGN);
    EXPECT(cptr_queue_push(queue, jobs, 2), CPTR_ERROR_FULL);
    EXPECT(cptr_queue_push(queue, jobs, (size_t)-1), CPTR_ERROR_FULL);
    jobs[0].bits = 0;
    EXPECT(cptr_queue_push(queue, jobs, 1), CPTR_ERROR_RANGE);
    jobs[0].bits = 17;
    EXPECT(cptr_queue_push(queue, jobs, 1), CPTR_ERROR_RANGE);
    jobs[0].bits = 4, jobs[0].weight = (1u << 31) + 1;
    EXPECT(cptr_queue_push(queue, jobs, 1), CPTR_ERROR_RANGE);
    EXPECT(cptr_queue_advance(NULL, &driver, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_advance(queue, NULL, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_advance(queue, &no_submit, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_advance(queue, &no_poll, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_advance(queue, &driver, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_outstanding(NULL, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_outstanding(queue, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_queue_clear(NULL), CPTR_ERROR_NULL);
    EXPECT(memcmp(before, queue, size), 0);
    EXPECT(count, 77);
    EXPECT(u.calls, 0);
    /* A header that was overwritten. */
    queue[4] ^= 1;
    EXPECT(cptr_queue_clear(queue), CPTR_ERROR_STATE);
    /* Nothing to add. */
    queue[4] ^= 1;
    EXPECT(cptr_queue_push(queue, NULL, 0), CPTR_OK);
}

static void queues(void) {
    uint64_t memory[CPTR_QUEUE_SIZE(3) / 8];
    uint8_t *const queue = (uint8_t *)memory;
    units u = { 2, 0, 0, 0 };
    const cptr_units driver = { &u, start_job, end_job }, boaster = { &u, start_job, boast };
    const cptr_job jobs[6] = { { 0, 0, 1, 16, 0, 1u << 31, 0, 0 }, { 0, 0, 2, 1, 0, 0, 0, 0 },
                               { 0, 0, 3, 2, 0, 9, 0, 0 }, { 0, 0, 4, 2, 0, 9, 0, 0 },
                               { 0, 0, 5, 2, 0, 9, 0, 0 }, { 0, 0, 6, 2, 0, 9, 0, 0 } };
    size_t count = 77;
    queue_refuses(queue, sizeof memory);
    EXPECT(cptr_queue_init(queue, sizeof memory, 3), CPTR_OK);
    EXPECT(cptr_queue_push(queue, jobs, 3), CPTR_OK);
    /* Two start; then both are done, the third starts. */
    EXPECT(cptr_queue_advance(queue, &driver, &count), CPTR_OK);
    EXPECT(count, 0);
    EXPECT(u.order, 12);
    EXPECT(cptr_queue_advance(queue, &driver, &count), CPTR_OK);
    EXPECT(count, 2);
    EXPECT(cptr_queue_outstanding(queue, &count), CPTR_OK);
    EXPECT(count, 1);
    /* Around the end of the ring. */
    EXPECT(cptr_queue_push(queue, jobs + 3, 3), CPTR_OK);
    EXPECT(cptr_queue_outstanding(queue, &count), CPTR_OK);
    EXPECT(count, 4);
    EXPECT(cptr_queue_advance(queue, &driver, &count), CPTR_OK);
    EXPECT(count, 1);
    EXPECT(u.order, 12345);
    EXPECT(cptr_queue_clear(queue), CPTR_OK);
    EXPECT(cptr_queue_advance(queue, &boaster, &count), CPTR_OK);
    EXPECT(count, 2);
    EXPECT(cptr_queue_outstanding(queue, &count), CPTR_OK);
    EXPECT(count, 0);
    EXPECT(u.order, 12345);
    /* Memory behind the header that somebody has overwritten: nothing sensible, but nothing outside of it either. */
    memset(queue + 16, 0xFF, sizeof memory - 16);
    u.running = 0;
    EXPECT(cptr_queue_push(queue, jobs, 1), CPTR_ERROR_FULL);
    EXPECT(cptr_queue_advance(queue, &driver, &count), CPTR_OK);
    EXPECT(count, 0);
    EXPECT(cptr_queue_outstanding(queue, &count), CPTR_OK);
    EXPECT(cptr_queue_clear(queue), CPTR_OK);
    EXPECT(cptr_queue_push(queue, jobs, 1), CPTR_OK);
    EXPECT(u.order, 12345);
}

/* A cache: who calls it wrongly is told so, and nothing changes. What it decides: ../examples/engine.c. */
static void caches(void) {
    cptr_cache_parameters p = { .layers = 2, .experts = 8, .k = 2, .slots = 3, .tokens = 2, .remembered = 64, .fetches = 2 };
    cptr_router r = { .kind = CPTR_ROUTER_SOFTMAX_ALL, .k = 2 };
    const cptr_cache_parameters good = p;
    float logits[2][8] = { { 1, 2, 3, 4, 5, 6, 7, 8 }, { 8, 7, 6, 5, 4, 3, 2, 1 } };
    uint16_t ids[4] = { 9, 9, 9, 9 }, slots[4] = { 0 }, waves[4] = { 0 };
    cptr_load loads[4];
    cptr_counters counters;
    size_t size = 0, count = 77, words = 0;
    uint8_t *memory, *other;
    uint32_t *saved;
    EXPECT(cptr_cache_size(NULL, &size), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_size(&p, NULL), CPTR_ERROR_NULL);
    p.slots = 9;
    EXPECT(cptr_cache_size(&p, &size), CPTR_ERROR_RANGE);
    p = good, p.k = CPTR_MAX_WANTED + 1, p.experts = 128, p.slots = 100;
    EXPECT(cptr_cache_size(&p, &size), CPTR_ERROR_RANGE);
    p = good, p.layers = 65535;
    EXPECT(cptr_cache_size(&p, &size), CPTR_ERROR_RANGE);
    p = good, p.remembered = 63;
    EXPECT(cptr_cache_size(&p, &size), CPTR_ERROR_RANGE);
    p = good, p.reserved = 1;
    EXPECT(cptr_cache_size(&p, &size), CPTR_ERROR_RANGE);
    p = good;
    EXPECT(cptr_cache_size(&p, &size), CPTR_OK);
    memory = malloc(size + 8), other = malloc(size);
    memset(memory, 0xA5, size + 8);
    EXPECT(cptr_cache_counters(memory, &counters), CPTR_ERROR_STATE);
    EXPECT(cptr_cache_init(NULL, size, CPTR_VERSION, &p), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_init(memory + 4, size, CPTR_VERSION, &p), CPTR_ERROR_ALIGN);
    EXPECT(cptr_cache_init(memory, size - 1, CPTR_VERSION, &p), CPTR_ERROR_SIZE);
    EXPECT(cptr_cache_init(memory, size, CPTR_VERSION + 1, &p), CPTR_ERROR_VERSION);
    EXPECT(cptr_cache_init(memory, size, CPTR_VERSION, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_init(memory, size, CPTR_VERSION, &p), CPTR_OK);
    EXPECT(cptr_cache_init(other, size, CPTR_VERSION, &p), CPTR_OK);
#define STEP(layer, tokens, l, stride, capacity) \
    cptr_cache_step(memory, &r, layer, tokens, l, stride, ids, slots, waves, loads, capacity, &count)
    EXPECT(cptr_cache_step(NULL, &r, 0, 1, logits[0], 8, ids, slots, waves, loads, 4, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_step(memory, NULL, 0, 1, logits[0], 8, ids, slots, waves, loads, 4, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_step(memory, &r, 0, 1, logits[0], 8, NULL, slots, waves, loads, 4, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_step(memory, &r, 0, 1, logits[0], 8, ids, slots, waves, NULL, 4, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_step(memory, &r, 0, 1, logits[0], 8, ids, slots, waves, loads, 4, NULL), CPTR_ERROR_NULL);
    EXPECT(STEP(0, 1, NULL, 8, 4), CPTR_ERROR_NULL);
    EXPECT(STEP(0, 1, logits[0], 7, 4), CPTR_ERROR_RANGE);
    EXPECT(STEP(0, 0, logits[0], 8, 4), CPTR_ERROR_RANGE);
    EXPECT(STEP(0, 3, logits[0], 8, 4), CPTR_ERROR_RANGE);
    EXPECT(STEP(0, 2, logits[0], (size_t)-1, 4), CPTR_ERROR_RANGE);
    EXPECT(STEP(0, 2, logits[0], 8, 3), CPTR_ERROR_SIZE);
    EXPECT(STEP(1, 1, logits[0], 8, 4), CPTR_ERROR_ORDER);
    logits[1][7] = (float)NAN;
    EXPECT(STEP(0, 2, logits[0], 8, 4), CPTR_ERROR_RANGE);
    logits[1][7] = -INFINITY;
    r.k = 3;
    EXPECT(STEP(0, 2, logits[0], 8, 4), CPTR_ERROR_ROUTER);
    r.k = 2, r.table = 1;
    EXPECT(STEP(0, 2, logits[0], 8, 4), CPTR_ERROR_RANGE);
    r.table = 0;
    EXPECT(ids[0] + ids[3] + (uint16_t)count, 9 + 9 + 77);
    EXPECT(cptr_cache_counters(memory, &counters), CPTR_OK);
    EXPECT(counters.stalls, 0);
    EXPECT(STEP(0, 2, logits[0], 8, 4), CPTR_OK);
    EXPECT(count, 4);
    EXPECT(ids[0] * 1000 + ids[1] * 100 + ids[2] * 10 + ids[3], 7601);
    EXPECT(waves[3], 1);
    EXPECT(loads[3].expert * 10 + loads[3].wave, 11);
    EXPECT(STEP(1, 1, logits[0], 8, 4), CPTR_ERROR_ORDER);
    EXPECT(cptr_cache_saved_words(&p, &words), CPTR_OK);
    saved = calloc(words, 4);
    EXPECT(cptr_cache_save(memory, 1, saved, words), CPTR_ERROR_ORDER);
    EXPECT(STEP(1, 2, logits[0], 8, 4), CPTR_OK);
    EXPECT(cptr_cache_pin(memory, 0, 7, 1), CPTR_OK);
    EXPECT(cptr_cache_pin(memory, 0, 5, 1), CPTR_ERROR_RANGE);
    EXPECT(cptr_cache_pin(memory, 2, 0, 1), CPTR_ERROR_ORDER);
    EXPECT(cptr_cache_lost(memory, 0, 5), CPTR_ERROR_RANGE);
    EXPECT(cptr_cache_lost(memory, 0, 1), CPTR_OK);
    EXPECT(cptr_cache_loaded(memory, 0, 0), CPTR_ERROR_RANGE);
    EXPECT(cptr_cache_fetch(memory, loads, 1, &count), CPTR_ERROR_SIZE);
    EXPECT(cptr_cache_fetch(memory, NULL, 4, &count), CPTR_ERROR_NULL);
    EXPECT(cptr_cache_fetch(memory, loads, 4, &count), CPTR_OK);
    EXPECT(count, 0);
    EXPECT(cptr_cache_save(memory, 1, saved, words - 1), CPTR_ERROR_SIZE);
    EXPECT(cptr_cache_save(memory, 1, saved, words), CPTR_OK);
    EXPECT(cptr_cache_restore(other, 2, saved, words), CPTR_ERROR_RANGE);
    EXPECT(cptr_cache_restore(other, 1, saved, words), CPTR_OK);
    saved[words / 2] ^= 1;
    EXPECT(cptr_cache_restore(other, 1, saved, words), CPTR_ERROR_RANGE);
    free(saved), free(memory), free(other);
}

#include "refusals.h"

int main(void) {
    int i;
    EXPECT(cptr_version(), CPTR_VERSION);
    EXPECT(cptr_features(), CPTR_FEATURE_SELECT | CPTR_FEATURE_TRACKER | CPTR_FEATURE_PLACEMENT | CPTR_FEATURE_DISPATCH
                                | CPTR_FEATURE_CACHE | CPTR_FEATURE_EXPERT | CPTR_FEATURE_BITS | CPTR_FEATURE_CHANGE
                                | CPTR_FEATURE_MIGRATION);
    order();
    states();
    routers();
    caches();
    conventions();
    low_scores();
    placement();
    dispatch();
    queues();
    experts();
    bits();
    changes();
    migrations();
    EXPECT(cptr_config_init(config, sizeof l.config, CPTR_VERSION, NULL), CPTR_OK);
    EXPECT(cptr_tracker_init(tracker, sizeof l.tracker, EXPERTS), CPTR_OK);
    EXPECT(cptr_queue_init((uint8_t *)l.queue, sizeof l.queue, JOBS), CPTR_OK);
    start(&l);
    for (i = 0; i < TOKENS; i++) EXPECT(token(&l, (uint32_t)i), CPTR_OK);
    EXPECT(features(&l, &f), CPTR_OK);
    printf("c %d %08lx\n", TOKENS, (unsigned long)l.hash);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* What a caller can get wrong with low-bit experts, bits, changes of context and migration; included by host.c. */
static features_memory f;

static void experts(void) {
    cptr_expert expert = make_expert(&l, &f);
    cptr_matrix matrix = expert.gate;
    cptr_vector vector = { f.x, COLUMNS, -16 };
    cptr_matrix_shape shape = { 77, 77, 77, 77 };
    uint8_t *const scratch = (uint8_t *)f.scratch;
    int32_t exponent = 77;
#define PRODUCT(bytes, rows) cptr_expert_product(&matrix, &vector, scratch, bytes, f.out, rows, &exponent)
#define FORWARD(bytes, rows) cptr_expert_forward(&expert, &vector, scratch, bytes, f.out, rows, &exponent)
    const size_t product = CPTR_PRODUCT_SCRATCH(COLUMNS), whole = CPTR_EXPERT_SCRATCH(COLUMNS, HIDDEN);
    memset(f.out, 0x4D, sizeof f.out);
    EXPECT(cptr_expert_shape(NULL, &shape), CPTR_ERROR_NULL);
    EXPECT(cptr_expert_shape(&matrix, NULL), CPTR_ERROR_NULL);
    matrix.length = 15;
    EXPECT(cptr_expert_shape(&matrix, &shape), CPTR_ERROR_VERSION);
    matrix.length = WIDE - 1;
    EXPECT(cptr_expert_shape(&matrix, &shape), CPTR_ERROR_SIZE);
    EXPECT(PRODUCT(product, HIDDEN), CPTR_ERROR_SIZE);
    matrix.length = WIDE, matrix.bytes = NULL;
    EXPECT(cptr_expert_shape(&matrix, &shape), CPTR_ERROR_NULL);
    matrix.bytes = f.gate;
    f.gate[5] = 5;
    EXPECT(cptr_expert_shape(&matrix, &shape), CPTR_ERROR_RANGE);
    f.gate[5] = 4, f.gate[4] = 2;
    EXPECT(PRODUCT(product, HIDDEN), CPTR_ERROR_VERSION);
    f.gate[4] = 1;
    EXPECT(cptr_expert_product(&matrix, NULL, scratch, product, f.out, HIDDEN, &exponent), CPTR_ERROR_NULL);
    EXPECT(cptr_expert_product(&matrix, &vector, NULL, product, f.out, HIDDEN, &exponent), CPTR_ERROR_NULL);
    EXPECT(cptr_expert_product(&matrix, &vector, scratch + 4, product, f.out, HIDDEN, &exponent), CPTR_ERROR_ALIGN);
    EXPECT(cptr_expert_product(&matrix, &vector, scratch, product, NULL, HIDDEN, &exponent), CPTR_ERROR_NULL);
    EXPECT(cptr_expert_product(&matrix, &vector, scratch, product, f.out, HIDDEN, NULL), CPTR_ERROR_NULL);
    EXPECT(PRODUCT(product, HIDDEN - 1), CPTR_ERROR_SIZE);
    EXPECT(PRODUCT(0, HIDDEN), CPTR_ERROR_SIZE);
    EXPECT(PRODUCT(product - 1, HIDDEN), CPTR_ERROR_SIZE);
    vector.count = COLUMNS - 1;
    EXPECT(PRODUCT(product, HIDDEN), CPTR_ERROR_RANGE);
    EXPECT(FORWARD(whole, OUTPUTS), CPTR_ERROR_RANGE);
    vector.count = COLUMNS, vector.values = NULL;
    EXPECT(PRODUCT(product, HIDDEN), CPTR_ERROR_NULL);
    vector.values = f.x;
    EXPECT(FORWARD(whole, OUTPUTS + 1), CPTR_ERROR_SIZE);
    EXPECT(FORWARD(whole - 1, OUTPUTS), CPTR_ERROR_SIZE);
    expert.down = expert.up;
    EXPECT(FORWARD(whole, HIDDEN), CPTR_ERROR_RANGE);
    EXPECT(f.out[0] == 0x4D4D4D4D4D4D4D4D, 1);
    EXPECT(exponent + (int32_t)shape.rows, 154);
    EXPECT(PRODUCT(product, HIDDEN), CPTR_OK);
    EXPECT(cptr_expert_shape(&matrix, &shape), CPTR_OK);
    EXPECT(shape.rows * 1000 + shape.columns, HIDDEN * 1000 + COLUMNS);
    EXPECT(shape.bits * 1000 + shape.group, 4032);
}

static void bits(void) {
    static const cptr_losses good[2] = { { { 8, 4, 2, 1 } }, { { 9, 3, 1, 0 } } };
    static const cptr_losses bad[2] = { { { 8, 4, 2, -1 } }, { { 1, 2, 1, 0 } } };
    cptr_layer_losses layers[2] = { { good, 1 }, { good, 2 } };
    cptr_split split[2] = { { 77, { 7, 7, 7, 7 } }, { 77, { 7, 7, 7, 7 } } };
    uint64_t sums[9];
    EXPECT(cptr_bits_split(NULL, 2, 2, sums, 9, split), CPTR_ERROR_NULL);
    EXPECT(cptr_bits_split(good, 2, 2, NULL, 9, split), CPTR_ERROR_NULL);
    EXPECT(cptr_bits_split(good, 2, 2, sums, 9, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_bits_split(good, 2, 2, sums, 8, split), CPTR_ERROR_SIZE);
    EXPECT(cptr_bits_split(good, 2, 7, sums, 9, split), CPTR_ERROR_RANGE);
    EXPECT(cptr_bits_split(good, (size_t)-1, 7, sums, 9, split), CPTR_ERROR_RANGE);
    EXPECT(cptr_bits_split(bad, 1, 1, sums, 9, split), CPTR_ERROR_RANGE);
    EXPECT(cptr_bits_split(bad + 1, 1, 1, sums, 9, split), CPTR_ERROR_RANGE);
    EXPECT(split[0].gain, 77);
    EXPECT(cptr_bits_split_layers(layers, 2, 10, sums, 9, split), CPTR_ERROR_RANGE);
    EXPECT(cptr_bits_split_layers(layers, 2, 3, sums, 5, split), CPTR_ERROR_SIZE);
    EXPECT(cptr_bits_split_layers(NULL, 2, 3, sums, 9, split), CPTR_ERROR_NULL);
    layers[1].experts = 0;
    EXPECT(cptr_bits_split_layers(layers, 2, 3, sums, 9, split), CPTR_ERROR_RANGE);
    layers[1].experts = 1, layers[1].losses = NULL;
    EXPECT(cptr_bits_split_layers(layers, 2, 3, sums, 9, split), CPTR_ERROR_NULL);
    EXPECT(cptr_bits_split(good, 2, 2, sums, 9, split), CPTR_OK);
    /* Both at 2 bits avoid 4 and 6; one at 3 bits avoids 6, and the other none. */
    EXPECT(split[0].gain, 10);
    EXPECT(split[0].experts[1], 2);
}

static void changes(void) {
    static const uint16_t twice[2] = { 3, 3 }, far[1] = { EXPERTS };
    static const int32_t distances[2] = { 1 << 28, 1 << 27 };
    cptr_change_detector detector = { { 0, 0, 0, 0 } };
    cptr_change_config config = { 1, 0, 8, 16, 20, 0 };
    uint8_t *const context = (uint8_t *)f.context;
    uint32_t changed = 77;
    int32_t distance = 77;
    memset(f.context, 0xA5, sizeof f.context);
    EXPECT(cptr_change_distance(context, twice, 1, &distance), CPTR_ERROR_STATE);
    EXPECT(cptr_tracker_init(context, sizeof f.context, EXPERTS), CPTR_OK);
    EXPECT(cptr_change_distance(NULL, twice, 1, &distance), CPTR_ERROR_NULL);
    EXPECT(cptr_change_distance(context + 1, twice, 1, &distance), CPTR_ERROR_ALIGN);
    EXPECT(cptr_change_distance(context, NULL, 1, &distance), CPTR_ERROR_NULL);
    EXPECT(cptr_change_distance(context, twice, 2, &distance), CPTR_ERROR_RANGE);
    EXPECT(cptr_change_distance(context, far, 1, &distance), CPTR_ERROR_RANGE);
    EXPECT(cptr_change_distance(context, twice, (size_t)-1, &distance), CPTR_ERROR_RANGE);
    EXPECT(cptr_change_distance(context, twice, 1, NULL), CPTR_ERROR_NULL);
    EXPECT(distance, 77);
    EXPECT(cptr_change_distance(context, twice, 1, &distance), CPTR_OK);
    EXPECT(distance, 3 << 27);
    EXPECT(cptr_change_step(NULL, NULL, distances, 2, &changed), CPTR_ERROR_NULL);
    EXPECT(cptr_change_step(&detector, NULL, NULL, 2, &changed), CPTR_ERROR_NULL);
    EXPECT(cptr_change_step(&detector, NULL, distances, 2, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_change_step(&detector, NULL, distances, 0, &changed), CPTR_ERROR_RANGE);
    EXPECT(cptr_change_step(&detector, NULL, distances, (size_t)-1, &changed), CPTR_ERROR_RANGE);
    config.acquire_tokens = 0;
    EXPECT(cptr_change_step(&detector, &config, distances, 2, &changed), CPTR_ERROR_RANGE);
    config.acquire_tokens = 1, config.gain_shift = 32;
    EXPECT(cptr_change_step(&detector, &config, distances, 2, &changed), CPTR_ERROR_RANGE);
    config.gain_shift = 8, config.reserved = 1;
    EXPECT(cptr_change_step(&detector, &config, distances, 2, &changed), CPTR_ERROR_RANGE);
    EXPECT(changed, 77);
    EXPECT(detector.state[0] | detector.state[3], 0);
    config.reserved = 0;
    EXPECT(cptr_change_step(&detector, &config, distances, 2, &changed), CPTR_OK);
    EXPECT(changed, 0);
}

static void migrations(void) {
    cptr_allowance allowance;
    cptr_swap swap = { 77, 77, 77 };
    uint32_t margin = 77;
    EXPECT(cptr_migration_margin(1, 1, 1, NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_migration_margin(0, 1, 1, &margin), CPTR_NONE);
    EXPECT(cptr_migration_margin(1, 8, 8, &margin), CPTR_NONE);
    EXPECT(margin, 77);
    EXPECT(cptr_migration_margin(2, 8, 8, &margin), CPTR_OK);
    EXPECT(margin, 1l << 30);
#define SWAP(words, margin) cptr_migration_swap((uint8_t *)f.context, l.resident, words, NULL, 0, margin, &swap)
    EXPECT(SWAP((size_t)-1, 0), CPTR_ERROR_RANGE);
    EXPECT(SWAP(2, 0x80000001u), CPTR_ERROR_RANGE);
    EXPECT(cptr_migration_swap((uint8_t *)f.context, NULL, 2, NULL, 0, 0, &swap), CPTR_ERROR_NULL);
    EXPECT(cptr_migration_swap((uint8_t *)f.context, l.resident, 2, NULL, 1, 0, &swap), CPTR_ERROR_NULL);
    EXPECT(cptr_migration_swap((uint8_t *)f.context, l.resident, 2, NULL, 0, 0, NULL), CPTR_ERROR_NULL);
    EXPECT(SWAP(2, 0), CPTR_NONE);
    EXPECT(swap.load, 77);
    EXPECT(cptr_migration_limit(NULL, 1, 1), CPTR_ERROR_NULL);
    EXPECT(cptr_migration_token(NULL, 1), CPTR_ERROR_NULL);
    EXPECT(cptr_migration_take(NULL), CPTR_ERROR_NULL);
    EXPECT(cptr_migration_limit(&allowance, 1u << 15, 2), CPTR_OK);
    EXPECT(cptr_migration_take(&allowance), CPTR_OK);
    EXPECT(cptr_migration_take(&allowance), CPTR_OK);
    EXPECT(cptr_migration_take(&allowance), CPTR_NONE);
    EXPECT(cptr_migration_token(&allowance, 2), CPTR_OK);
    EXPECT(cptr_migration_take(&allowance), CPTR_OK);
    EXPECT(cptr_migration_take(&allowance), CPTR_NONE);
    EXPECT(cptr_migration_token(&allowance, 0xFFFFFFFFu), CPTR_OK);
    EXPECT(allowance.left, 2l << 16);
}

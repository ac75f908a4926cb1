/* CPTR: tracking of expert demand, bounded-loss selection and eviction for mixture-of-experts routers, in fixed point.
 *
 * Generated from firmware/ffi/src by `cargo xtask firmware --bless`; do not edit. Guide: docs/c.md.
 *
 * No allocation, no floating point, no global state. All memory is the caller's: CPTR_TRACKER_SIZE(experts) bytes per
 * layer, CPTR_CONFIG_SIZE for all and CPTR_QUEUE_SIZE(jobs) for a queue, aligned to CPTR_ALIGN. Functions on different
 * states may run at the same time; one state is for one thread at a time. Functions may be called from interrupts under
 * the same rule.
 *
 * Every function returns a cptr_status: 0 or more for success, negative for an error, after which nothing has been
 * written. */

#ifndef CPTR_H
#define CPTR_H

#include <stddef.h>
#include <stdint.h>

/*
 Version of this interface. Pass it to `cptr_config_init`.
 */
#define CPTR_VERSION 2

/*
 Most wanted experts of a token, and most experts that a selection holds.
 */
#define CPTR_MAX_WANTED 64

/*
 Most experts of a layer.
 */
#define CPTR_MAX_EXPERTS 4096

/*
 Most jobs that a queue holds.
 */
#define CPTR_MAX_JOBS 4096

/*
 Alignment of trackers, configurations and queues in bytes.
 */
#define CPTR_ALIGN 8

/*
 Bytes of a tracker beside 8 for each expert; `CPTR_TRACKER_SIZE(experts)` is the sum.
 */
#define CPTR_TRACKER_BASE 64

/*
 Bytes of a configuration.
 */
#define CPTR_CONFIG_SIZE 56

/*
 Bytes of a queue beside 24 for each job; `CPTR_QUEUE_SIZE(jobs)` is the sum.
 */
#define CPTR_QUEUE_BASE 40

/*
 Feature: routers (`cptr_router_top_k`, `cptr_router_weights`) and `cptr_select`.
 */
#define CPTR_FEATURE_SELECT 1

/*
 Feature: trackers.
 */
#define CPTR_FEATURE_TRACKER 2

/*
 Feature: demand statistics and placement.
 */
#define CPTR_FEATURE_PLACEMENT 4

/*
 Feature: dispatch and queues to execution units.
 */
#define CPTR_FEATURE_DISPATCH 8

/*
 Feature: caches of whole models.
 */
#define CPTR_FEATURE_CACHE 16

/*
 Feature: low-bit experts.
 */
#define CPTR_FEATURE_EXPERT 32

/*
 Feature: bits of cold experts.
 */
#define CPTR_FEATURE_BITS 64

/*
 Feature: changes of context.
 */
#define CPTR_FEATURE_CHANGE 128

/*
 Feature: experts that change places while decoding.
 */
#define CPTR_FEATURE_MIGRATION 256

/*
 Slow gain of trackers whose levels `cptr_change_distance` takes: the long run, 1/4096.
 */
#define CPTR_CHANGE_SLOW_GAIN (1 << 20)

/*
 Fast gain of these trackers: the context, 1/64. What a loss of lock opens to is 0.
 */
#define CPTR_CHANGE_FAST_GAIN (1 << 26)

/*
 Score: softmax over all experts; weights are not renormalised (OLMoE, DeepSeek-V2, Switch with k = 1).
 */
#define CPTR_ROUTER_SOFTMAX_ALL 0

/*
 Score: softmax over the chosen (Mixtral, Qwen3-MoE, gpt-oss).
 */
#define CPTR_ROUTER_SOFTMAX_SELECTED 1

/*
 Score: sigmoid; weights are renormalised (DeepSeek-V3: k = 8, groups = 8, top_groups = 4; Llama 4 does not
 renormalise).
 */
#define CPTR_ROUTER_SIGMOID_GROUPED 2

/*
 Score: square root of softplus; weights are renormalised (DeepSeek-V4).
 */
#define CPTR_ROUTER_SQRT_SOFTPLUS 3

/*
 Score: sparse mixer (Phi-3.5-MoE).
 */
#define CPTR_ROUTER_SPARSE_MIXER 4

/*
 The bias is added to the scores, for the choice alone (to the logits, where the choice goes by logits).
 */
#define CPTR_BIAS_SCORES 0

/*
 The bias is added to the logits, for the choice alone.
 */
#define CPTR_BIAS_CHOICE_LOGITS 1

/*
 The bias is added to the logits before everything else.
 */
#define CPTR_BIAS_LOGITS 2

/*
 Groups are rated by the sum of their two best scores.
 */
#define CPTR_RATING_TWO_BEST 0

/*
 Groups are rated by their best score.
 */
#define CPTR_RATING_BEST 1

/*
 Weights are renormalised as the score says.
 */
#define CPTR_RENORMALISE_USUAL 0

/*
 Weights are renormalised.
 */
#define CPTR_RENORMALISE_YES 1

/*
 Weights are not renormalised.
 */
#define CPTR_RENORMALISE_NO 2

/*
 A token gets k experts.
 */
#define CPTR_COUNT_FIXED 0

/*
 A token gets as few of the k best as have the share `count_bound` of the mass (2^-32).
 */
#define CPTR_COUNT_TOP_P 1

/*
 A token gets those of the k best whose score is above `count_bound` (2^-31), and the best.
 */
#define CPTR_COUNT_ABOVE 2

/*
 What a function returns: 0 or more for success, negative for an error after which nothing has been written.
 */
typedef int32_t cptr_status;

/*
 Losses of one expert at 1, 2, 3 and 4 bits, in a unit of the table's own; not negative, not increasing.
 */
typedef struct cptr_losses {
  /*
   At 1, 2, 3 and 4 bits.
   */
  int32_t at[4];
} cptr_losses;

/*
 How many experts get how many bits, and what that gains. The most important ones get the most.
 */
typedef struct cptr_split {
  /*
   Loss avoided against 1 bit for all, in the unit of the table.
   */
  uint64_t gain;
  /*
   Experts at 1, 2, 3 and 4 bits.
   */
  uint16_t experts[4];
} cptr_split;

/*
 The losses of a layer's cold experts in order of falling importance.
 */
typedef struct cptr_layer_losses {
  /*
   One entry for each expert.
   */
  const struct cptr_losses *losses;
  /*
   Experts.
   */
  size_t experts;
} cptr_layer_losses;

/*
 What a cache is made for. Fields that are 0 are as said.
 */
typedef struct cptr_cache_parameters {
  /*
   Tokens that recall remembers, 64 to 65,536; 0 is 2,048.
   */
  uint32_t remembered;
  /*
   Share of the routing mass that a token may lose in a layer, in steps of 2^-32; 0: the model's own choice.
   */
  uint32_t eps;
  /*
   Estimated error of a layer's output that is allowed, in steps of 2^-32; 0: no bound.
   */
  uint32_t error;
  /*
   Share of forecasts that came true, at least, for a fetch, in steps of 2^-31; 0 is 0.68.
   */
  uint32_t sure;
  /*
   Layers that have a router.
   */
  uint16_t layers;
  /*
   Experts of a layer, null experts included, at most 1,024.
   */
  uint16_t experts;
  /*
   Most experts that a token chooses in a layer, at most `CPTR_MAX_WANTED`; at most 4,095 in all layers.
   */
  uint16_t k;
  /*
   Experts of a layer that fast memory holds.
   */
  uint16_t slots;
  /*
   Tokens of the largest batch; 0 is 1.
   */
  uint16_t tokens;
  /*
   Best experts of a token that are always chosen.
   */
  uint16_t keep_top;
  /*
   Most fetches for a layer; 0: none.
   */
  uint16_t fetches;
  /*
   0.
   */
  uint16_t reserved;
} cptr_cache_parameters;

/*
 How a model's router turns logits into a choice. Not opaque: fill it in, and the rest with 0; it is checked at every
 call.
 */
typedef struct cptr_router {
  /*
   One of `CPTR_ROUTER_…`.
   */
  uint32_t kind;
  /*
   Experts per token, 1 to `CPTR_MAX_WANTED`.
   */
  uint32_t k;
  /*
   Groups of equal size into which the experts are cut, 1 to 32; 0 is 1.
   */
  uint32_t groups;
  /*
   Groups that take part, 1 to `groups`; 0 is 1.
   */
  uint32_t top_groups;
  /*
   Bias, one entry per expert in steps of 2^-16, or null for none.
   */
  const int32_t *bias;
  /*
   Entries of `bias`; 0 for none.
   */
  size_t bias_count;
  /*
   One of `CPTR_BIAS_…`.
   */
  uint32_t bias_place;
  /*
   One of `CPTR_RATING_…`.
   */
  uint32_t group_rating;
  /*
   One of `CPTR_RENORMALISE_…`.
   */
  uint32_t renormalise;
  /*
   One of `CPTR_COUNT_…`.
   */
  uint32_t count;
  /*
   What `count` goes by.
   */
  uint32_t count_bound;
  /*
   1: the experts come from a table, and `cptr_router_top_k` has nothing to say.
   */
  uint32_t table;
  /*
   How many experts, the last ones, stand for doing nothing.
   */
  uint32_t null_experts;
  /*
   Jitter of a sparse mixer in steps of 2^-32.
   */
  uint32_t jitter;
  /*
   What the weights are multiplied with, in steps of 2^-24; 0 is 1.
   */
  uint32_t scale;
  /*
   What the weight of each expert is multiplied with besides, in steps of 2^-24, or null for nothing.
   */
  const uint32_t *expert_scale;
  /*
   Entries of `expert_scale`; 0 for none.
   */
  size_t expert_scale_count;
} cptr_router;

/*
 An expert to be loaded.
 */
typedef struct cptr_load {
  /*
   Layer of the expert.
   */
  uint16_t layer;
  /*
   The expert.
   */
  uint16_t expert;
  /*
   Slot that it is loaded into.
   */
  uint16_t slot;
  /*
   Expert that lay there, or 0xFFFF.
   */
  uint16_t victim;
  /*
   Wave that needs it.
   */
  uint16_t wave;
  /*
   1: it is on its way already (`cptr_cache_fetch`), and has only to be waited for.
   */
  uint16_t on_its_way;
} cptr_load;

/*
 What a cache has done since it was initialised.
 */
typedef struct cptr_counters {
  /*
   Tokens that went through all layers.
   */
  uint64_t tokens;
  /*
   Experts that had to be waited for, those on their way included.
   */
  uint64_t stalls;
  /*
   Of them, those on their way.
   */
  uint64_t on_their_way;
  /*
   Experts fetched before they were wanted.
   */
  uint64_t fetches;
  /*
   Experts that stood in for others.
   */
  uint64_t stand_ins;
  /*
   Waves beyond the first of each layer.
   */
  uint64_t more_waves;
} cptr_counters;

/*
 A detector of changes, one for all layers. Set to zero before the first token; every content is valid.
 */
typedef struct cptr_change_detector {
  /*
   For the library alone.
   */
  uint32_t state[4];
} cptr_change_detector;

/*
 Constants of a detector.
 */
typedef struct cptr_change_config {
  /*
   Tokens at the start from which the usual distance is learnt, without alarms; at least 1 (usual 64).
   */
  uint16_t acquire_tokens;
  /*
   Tokens after an alarm in which nothing is learnt and no alarm raised (usual 32).
   */
  uint16_t hold_tokens;
  /*
   Gain of the usual distance and deviation, as a shift (usual 8).
   */
  uint8_t gain_shift;
  /*
   Excess that counts as usual, in 1/16 of the usual deviation (usual 16).
   */
  uint8_t slack_16ths;
  /*
   Evidence that raises the alarm, in units of the usual deviation (usual 20).
   */
  uint8_t threshold;
  /*
   0.
   */
  uint8_t reserved;
} cptr_change_config;

/*
 An expert that runs near the data.
 */
typedef struct cptr_near_run {
  /*
   Its id in the layer.
   */
  uint16_t expert;
  /*
   Its index in the list of chosen experts, which the mixing weights follow.
   */
  uint16_t rank;
  /*
   Bits per weight of the replica to run, 1 to 16.
   */
  uint8_t bits;
} cptr_near_run;

/*
 One expert to run near the data for one token.
 */
typedef struct cptr_job {
  /*
   Your number of the token.
   */
  uint32_t token;
  /*
   Layer.
   */
  uint16_t layer;
  /*
   Expert of the layer.
   */
  uint16_t expert;
  /*
   Bits per weight of the replica to run, 1 to 16.
   */
  uint8_t bits;
  /*
   Index of the expert among the token's chosen: yours to use.
   */
  uint8_t rank;
  /*
   What the result is multiplied with, in steps of 2^-31, at most 1 (2^31).
   */
  uint32_t weight;
  /*
   Where the activation lies: yours to use.
   */
  uint32_t activation;
  /*
   Where results go: yours to use.
   */
  uint32_t result;
} cptr_job;

/*
 Your driver of the execution units. Its functions return at once and do not use the queue.
 */
typedef struct cptr_units {
  /*
   Handed to both functions; may be null.
   */
  void *context;
  /*
   Starts a job on a unit that is free: 1 if one has taken it, 0 if none is free. `job` is there for the call only.
   */
  int32_t (*submit)(void *context, const struct cptr_job *job);
  /*
   1 if a job has finished that was not reported before, 0 if there is none yet.
   */
  int32_t (*poll)(void *context);
} cptr_units;

/*
 A packed matrix, as `cptr quantize` writes it: docs/low-bit.md.
 */
typedef struct cptr_matrix {
  /*
   Header and rows.
   */
  const uint8_t *bytes;
  /*
   How many bytes these are: exactly the matrix.
   */
  size_t length;
} cptr_matrix;

/*
 What a packed matrix's header says.
 */
typedef struct cptr_matrix_shape {
  /*
   Outputs.
   */
  uint32_t rows;
  /*
   Inputs.
   */
  uint32_t columns;
  /*
   Bits of a weight, 1 to 4.
   */
  uint32_t bits;
  /*
   Columns that share a scale: 32, 64 or 128.
   */
  uint32_t group;
} cptr_matrix_shape;

/*
 Numbers `values[i] * 2^exponent`.
 */
typedef struct cptr_vector {
  /*
   As many as the matrix has columns.
   */
  const int32_t *values;
  /*
   How many.
   */
  size_t count;
  /*
   The power of two of all of them.
   */
  int32_t exponent;
} cptr_vector;

/*
 A SwiGLU expert, `down * (silu(gate * x) . (up * x))`; its matrices may have different bits.
 */
typedef struct cptr_expert {
  /*
   As many rows and columns, and as long groups, as `up`.
   */
  struct cptr_matrix gate;
  /*
   See `gate`.
   */
  struct cptr_matrix up;
  /*
   As many columns as `gate` has rows.
   */
  struct cptr_matrix down;
} cptr_expert;

/*
 One expert for another.
 */
typedef struct cptr_swap {
  /*
   The expert to copy into fast memory.
   */
  uint16_t load;
  /*
   The resident expert that makes room.
   */
  uint16_t evict;
  /*
   How much more often the new one is wanted, in steps of 2^-31.
   */
  uint32_t gain;
} cptr_swap;

/*
 A limit on copies: at most `burst + n * rate` in any n tokens. Made by `cptr_migration_limit`; every content is
 valid.
 */
typedef struct cptr_allowance {
  /*
   Most copies saved up, in steps of 2^-16.
   */
  uint64_t most;
  /*
   Copies left, in steps of 2^-16.
   */
  uint64_t left;
  /*
   Copies for each token, in steps of 2^-16.
   */
  uint32_t rate;
  /*
   0.
   */
  uint32_t reserved;
} cptr_allowance;

/*
 What prefill asked of one expert. Set to zero before the first token.
 */
typedef struct cptr_demand {
  /*
   Lowest 22 bits: tokens that chose it (`CPTR_DEMAND_COUNT`). The others: sum of its mixing weights in steps of
   2^-20 (`CPTR_DEMAND_SCORE`). Both saturate, after 2^22 tokens at the earliest.
   */
  uint64_t sums;
} cptr_demand;

/*
 One expert of one layer in a placement over all layers.
 */
typedef struct cptr_candidate {
  /*
   Its importance inside its layer, from `cptr_demand_importance`.
   */
  uint32_t importance;
  /*
   Index of its layer.
   */
  uint16_t layer;
  /*
   Its id in the layer.
   */
  uint16_t expert;
} cptr_candidate;

/*
 Constants of the filter. Gains in steps of 2^-32.
 */
typedef struct cptr_parameters {
  /*
   Gain of the slow level once it has settled (default 1/64).
   */
  uint32_t slow_gain;
  /*
   Gain that a loss of lock opens to (default 1/20).
   */
  uint32_t reopened_gain;
  /*
   Gain of the fast level (default 1/8).
   */
  uint32_t fast_gain;
  /*
   Proportional gain of the phase loop, as a shift, 1 to 15 (default 6).
   */
  uint8_t proportional_shift;
  /*
   Integral gain of the phase loop, as a shift, 1 to 23 (default 12).
   */
  uint8_t integral_shift;
  /*
   Error that the lock detector takes as normal, in 1/16 of the mean absolute error (default 18).
   */
  uint8_t slack_16ths;
  /*
   Evidence that loses lock, in units of the mean absolute error (default 10).
   */
  uint8_t threshold;
  /*
   Tokens from unlock to the first possible lock (default 32).
   */
  uint16_t acquire_tokens;
} cptr_parameters;

/*
 What an update saw.
 */
typedef struct cptr_step {
  /*
   log2 of the power of the tracked context over that of the innovation, in steps of 2^-24.
   */
  int32_t snr_log2;
  /*
   Angle between demand and context in radians, in steps of 2^-28.
   */
  int32_t angle;
  /*
   0 unlocked, 1 transition, 2 locked.
   */
  uint8_t lock;
  /*
   1 if lock was lost at this token: the context has changed.
   */
  uint8_t lost_lock;
} cptr_step;

/*
 Done.
 */
#define CPTR_OK 0

/*
 Done, and there is no result: no expert may be evicted.
 */
#define CPTR_NONE 1

/*
 A pointer is null.
 */
#define CPTR_ERROR_NULL -1

/*
 A pointer is not aligned to what it points to (states: `CPTR_ALIGN`).
 */
#define CPTR_ERROR_ALIGN -2

/*
 A buffer or state is too short.
 */
#define CPTR_ERROR_SIZE -3

/*
 A number, an expert id or a count is out of range, or an id stands twice.
 */
#define CPTR_ERROR_RANGE -4

/*
 A state or configuration was never initialised, or its first 16 bytes have been overwritten. What lies behind them
 is not looked at: any content is valid, and gives some decision.
 */
#define CPTR_ERROR_STATE -5

/*
 The header belongs to another version of the library, or the bytes are no packed matrix.
 */
#define CPTR_ERROR_VERSION -6

/*
 The router's fields contradict each other or do not fit the number of experts.
 */
#define CPTR_ERROR_ROUTER -7

/*
 The queue has no room for all of the jobs, or all slots of the cache are pinned; the same call later may succeed.
 */
#define CPTR_ERROR_FULL -8

/*
 Not the layer that is next, not the tokens of the layer before, or not between two tokens.
 */
#define CPTR_ERROR_ORDER -9

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/*
 Version of the library, to be compared with `CPTR_VERSION`.
 */
uint32_t cptr_version(void);

/*
 What the library can do: the sum of its `CPTR_FEATURE_…`.
 */
uint32_t cptr_features(void);

/*
 The best split of a layer's cold experts that spends exactly `increments` bits beyond the first of each:
 `experts * (bits - 1)` for an average.

 `scratch`: at least `CPTR_BITS_SCRATCH(experts)` entries. Of equal gains the split with the fewest experts at 4
 bits, then the fewest at 3. At most `experts^2 / 3` steps.

 Errors: `NULL`, `ALIGN`, `SIZE` (scratch), `RANGE` (experts; losses that are negative or grow with the bits; more
 than 3 increments for each expert).

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps.
 */
cptr_status cptr_bits_split(const struct cptr_losses *losses,
                            size_t experts,
                            uint32_t increments,
                            uint64_t *scratch,
                            size_t scratch_count,
                            struct cptr_split *split);

/*
 Splits for several layers under one budget of `increments` that they share, one entry of `splits` for each. Layers
 differ in how much they lose: at least as good as the same bits for every layer.

 `scratch`: at least `CPTR_BITS_SCRATCH` of the most experts of a layer. After an error `splits` holds anything.

 Errors: as `cptr_bits_split`.

 # Safety
 As `cptr_bits_split`; `splits` are initialised.
 */
cptr_status cptr_bits_split_layers(const struct cptr_layer_losses *layers,
                                   size_t layer_count,
                                   uint32_t increments,
                                   uint64_t *scratch,
                                   size_t scratch_count,
                                   struct cptr_split *splits);

/*
 Bytes that a cache takes in `cptr_cache_init`.

 Errors: `NULL`, `ALIGN`, `RANGE` (fields, and sizes beyond the address space).

 # Safety
 The pointers that are neither null nor misaligned point to what they say. `size` overlaps nothing.
 */
cptr_status cptr_cache_size(const struct cptr_cache_parameters *parameters, size_t *size);

/*
 Makes a cache of a whole model in the caller's memory, `cptr_cache_size` bytes aligned to `CPTR_ALIGN`, with all
 slots empty. It must not be moved: it points into itself. `version` is `CPTR_VERSION`.

 Errors: `NULL`, `ALIGN`, `SIZE`, `VERSION`, `RANGE` (fields).

 # Safety
 `size` bytes may be written at `memory`. `parameters` is null, misaligned, or points to parameters outside of it.
 Nobody else uses the memory for as long as the cache is used.
 */
cptr_status cptr_cache_init(uint8_t *memory,
                            size_t size,
                            uint32_t version,
                            const struct cptr_cache_parameters *parameters);

/*
 Decides a layer for `tokens` tokens that follow each other: one, or a batch (a prompt, tokens to be verified).
 Tokens of a batch choose together, so that few experts have to be loaded, each within its own bounds.

 `logits`: the router's, `experts` of each token, tokens `stride` numbers apart; may be null for a router with a
 table. `ids`, `slots`, `waves`: `tokens * k` entries each, token by token. `ids` says what each token runs (of a
 router with a table, before, what it wants), 0xFFFF where it gets fewer than k; `slots` where that lies; `waves`
 when it runs. Writes to `loads` what to load, in the order in which it is needed, and their number to `count`;
 `capacity` is at least the smaller of `tokens * k` and `experts`. A load of wave n may begin when all of wave n - 1
 has run; loads into one slot follow each other. What `loads` says counts as done at the next call.

 Errors: `NULL`, `ALIGN`, `STATE`, `SIZE` (capacity), `RANGE` (tokens, stride, a logit that is no number, a table's
 ids), `ORDER` (not the layer that is next, or not the tokens of the layer before), `ROUTER`, `FULL` (all slots are
 pinned).

 # Safety
 `cache` as for `cptr_cache_init`. The pointers that are neither null nor misaligned point to as many entries as said
 (`ids`, `slots`, `waves`: initialised ones). Nothing overlaps; nobody else uses the cache meanwhile.
 */
cptr_status cptr_cache_step(uint8_t *cache,
                            const struct cptr_router *router,
                            uint16_t layer,
                            uint16_t tokens,
                            const float *logits,
                            size_t stride,
                            uint16_t *ids,
                            uint16_t *slots,
                            uint16_t *waves,
                            struct cptr_load *loads,
                            size_t capacity,
                            size_t *count);

/*
 What to load for the layer that is next while nothing else is loaded: once behind a step, after which it is on its
 way until `cptr_cache_loaded` is called. Writes to `loads`, `capacity` of them, at least the parameter `fetches`,
 and their number to `count`. Nothing after a batch.

 Errors: `NULL`, `ALIGN`, `STATE`, `SIZE` (capacity).

 # Safety
 As `cptr_cache_step`.
 */
cptr_status cptr_cache_fetch(uint8_t *cache, struct cptr_load *loads, size_t capacity, size_t *count);

/*
 A fetch has arrived.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (it was not on its way), `ORDER` (no such layer).

 # Safety
 As `cptr_cache_step`.
 */
cptr_status cptr_cache_loaded(uint8_t *cache, uint16_t layer, uint16_t expert);

/*
 A load has failed, or what lay in a slot is lost: the expert is no longer there.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (it was not), `ORDER` (no such layer).

 # Safety
 As `cptr_cache_step`.
 */
cptr_status cptr_cache_lost(uint8_t *cache, uint16_t layer, uint16_t expert);

/*
 From now on an expert that is there stays (`stays` is not 0), or may go again.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (it is not there), `ORDER` (no such layer).

 # Safety
 As `cptr_cache_step`.
 */
cptr_status cptr_cache_pin(uint8_t *cache, uint16_t layer, uint16_t expert, uint32_t stays);

/*
 What a cache has done.

 Errors: `NULL`, `ALIGN`, `STATE`.

 # Safety
 As `cptr_cache_step`.
 */
cptr_status cptr_cache_counters(uint8_t *cache, struct cptr_counters *counters);

/*
 Words of 32 bits that `cptr_cache_save` takes.

 Errors: `NULL`, `ALIGN`, `RANGE` (fields).

 # Safety
 As `cptr_cache_size`.
 */
cptr_status cptr_cache_saved_words(const struct cptr_cache_parameters *parameters, size_t *words);

/*
 Writes the remembered trajectories to `words`: what is worth keeping when the engine stops; levels are known again
 after some hundred tokens. Between two tokens. `model` is a number by which the caller knows the model.

 Errors: `NULL`, `ALIGN`, `STATE`, `SIZE` (count), `ORDER` (inside a token).

 # Safety
 As `cptr_cache_step`; `words` are `count` initialised words.
 */
cptr_status cptr_cache_save(uint8_t *cache, uint64_t model, uint32_t *words, size_t count);

/*
 Takes over what `cptr_cache_save` wrote for the same model and the same parameters. Between two tokens.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (another model, other sizes, damage), `ORDER` (inside a token).

 # Safety
 As `cptr_cache_step`; `words` are `count` words.
 */
cptr_status cptr_cache_restore(uint8_t *cache, uint64_t model, const uint32_t *words, size_t count);

/*
 How far what a token wants is from the context of a layer, from 0 to 3, in steps of 2^-28; before
 `cptr_tracker_update`. The tracker is updated with a configuration of its own: gains `CPTR_CHANGE_SLOW_GAIN`, 0 and
 `CPTR_CHANGE_FAST_GAIN`.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (count, ids, an id twice).

 # Safety
 `tracker` is null, misaligned, or points to the memory that `cptr_tracker_init` was given (or would be). The other
 pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps; others
 may read the tracker meanwhile.
 */
cptr_status cptr_change_distance(const uint8_t *tracker,
                                 const uint16_t *wanted,
                                 size_t wanted_count,
                                 int32_t *distance);

/*
 Takes the distances of one token in all layers; writes 1 to `changed` if the context has changed, else 0. `config`
 may be null for the usual constants.

 Errors: `NULL`, `ALIGN`, `RANGE` (fields; no layers, or more than 65,535).

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps;
 nobody else uses the detector meanwhile.
 */
cptr_status cptr_change_step(struct cptr_change_detector *detector,
                             const struct cptr_change_config *config,
                             const int32_t *distances,
                             size_t layers,
                             uint32_t *changed);

/*
 Splits the chosen experts of a token by residency: those in fast memory run there, the others near the data.

 `chosen`: `chosen_count` distinct ids, as `cptr_select` writes them. `resident`: as `cptr_select` takes it. `bits`:
 bits per weight of each expert's replica near the data, `experts` entries, 1 to 16 for those that are not resident.
 Writes the residents to `gpu` in the order of `chosen`, the others to `near_data`, most bits first (they take
 longest), of equals in the order of `chosen`, and how many they are to `gpu_count` and `near_count`; both lists have
 room for `chosen_count` entries.

 Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids, an id twice, bits).

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. The four outputs
 overlap nothing.
 */
cptr_status cptr_dispatch(const uint16_t *chosen,
                          size_t chosen_count,
                          const uint32_t *resident,
                          size_t resident_words,
                          const uint8_t *bits,
                          size_t experts,
                          uint16_t *gpu,
                          uint32_t *gpu_count,
                          struct cptr_near_run *near_data,
                          uint32_t *near_count);

/*
 Makes an empty queue in the caller's memory: `CPTR_QUEUE_SIZE(jobs)` bytes, aligned to `CPTR_ALIGN`, for at most
 `jobs` jobs that wait. Any number may run. Also starts it anew.

 Errors: `NULL`, `ALIGN`, `SIZE`, `RANGE` (jobs 1 to `CPTR_MAX_JOBS`).

 # Safety
 `size` bytes may be written at `memory`. Nobody uses the queue meanwhile.
 */
cptr_status cptr_queue_init(uint8_t *memory, size_t size, size_t jobs);

/*
 Adds jobs behind those that wait, all or none.

 Errors: `NULL`, `ALIGN`, `STATE`, `FULL`, `RANGE` (bits, weight).

 # Safety
 `queue` is null, misaligned, or points to the memory that its `init` was given (or would be). `jobs` points to
 `count` entries, or to as many as fit if those are fewer, unless it is null or misaligned. Nothing overlaps; nobody
 else uses the queue meanwhile.
 */
cptr_status cptr_queue_push(uint8_t *queue, const struct cptr_job *jobs, size_t count);

/*
 Asks the driver what has finished, and hands it the jobs that wait, in their order, until it has no unit free. Waits
 for nothing: call it when there is time. Writes how many jobs have finished to `finished`; more than were started
 here are not believed.

 Errors: `NULL` (also one of the driver's functions), `ALIGN`, `STATE`; then no function of the driver was called.

 # Safety
 As `cptr_queue_push`. The driver's functions may be called with its context, and do not touch the queue.
 */
cptr_status cptr_queue_advance(uint8_t *queue, const struct cptr_units *units, size_t *finished);

/*
 Jobs that wait or run: those that have not been reported as finished.

 Errors: `NULL`, `ALIGN`, `STATE`.

 # Safety
 As `cptr_queue_push`; others may read the queue meanwhile.
 */
cptr_status cptr_queue_outstanding(const uint8_t *queue, size_t *outstanding);

/*
 Forgets the jobs that wait; those that run are still counted when they finish.

 Errors: `NULL`, `ALIGN`, `STATE`.

 # Safety
 As `cptr_queue_push`.
 */
cptr_status cptr_queue_clear(uint8_t *queue);

/*
 Reads and checks the header of a packed matrix.

 Errors: `NULL`, `ALIGN`, `VERSION` (no packed matrix of version 1), `RANGE` (its numbers), `SIZE` (not exactly the
 matrix).

 # Safety
 The pointers that are neither null nor misaligned point to what they say.
 */
cptr_status cptr_expert_shape(const struct cptr_matrix *matrix, struct cptr_matrix_shape *shape);

/*
 `matrix * vector`: output `r` is `out[r] * 2^*exponent`. The vector is rounded to 8 bits in groups of the matrix's;
 the product is exact, below 2^62 in magnitude.

 `scratch`: at least `CPTR_PRODUCT_SCRATCH(columns)` bytes, aligned to `CPTR_ALIGN`. `out`: `rows` entries, exactly
 those of the matrix.

 Errors: `NULL`, `ALIGN`, `SIZE` (scratch, rows, length of the matrix), `VERSION`, `RANGE` (the vector's count is not
 that of the columns; the header).

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say; `out` to initialised
 ones. Nothing overlaps; nobody else uses `scratch` meanwhile.
 */
cptr_status cptr_expert_product(const struct cptr_matrix *matrix,
                                const struct cptr_vector *vector,
                                uint8_t *scratch,
                                size_t scratch_bytes,
                                int64_t *out,
                                size_t rows,
                                int32_t *exponent);

/*
 Runs an expert on a vector: output `r` is `out[r] * 2^*exponent`. The same bits on every machine; where it rounds,
 and what that may be off: docs/low-bit.md.

 `scratch`: at least `CPTR_EXPERT_SCRATCH(columns, rows)` bytes by the columns and rows of `gate`, aligned to
 `CPTR_ALIGN`. `out`: `rows` entries, exactly those of `down`.

 Errors: `NULL`, `ALIGN`, `SIZE` (scratch, rows, lengths of matrices), `VERSION`, `RANGE` (the vector's count is not
 that of the columns, matrices that do not fit together; a header).

 # Safety
 As `cptr_expert_product`.
 */
cptr_status cptr_expert_forward(const struct cptr_expert *expert,
                                const struct cptr_vector *vector,
                                uint8_t *scratch,
                                size_t scratch_bytes,
                                int64_t *out,
                                size_t rows,
                                int32_t *exponent);

/*
 How much more often an expert must be wanted than another one so that exchanging them pays, in steps of 2^-31:
 `copy / (saving * horizon_tokens)`, rounded up. `saving` is what a token saves if an expert that it wants is in fast
 memory, `copy` what a copy costs, in the same unit, `horizon_tokens` how long a context lasts. Returns `CPTR_NONE`,
 and writes nothing, if it never pays.

 Errors: `NULL`, `ALIGN`.

 # Safety
 `margin` is null, misaligned, or may be written.
 */
cptr_status cptr_migration_margin(uint32_t saving, uint32_t copy, uint32_t horizon_tokens, uint32_t *margin);

/*
 The exchange with the largest gain by the tracker's slow levels, if that is above `margin`; of equals the lowest
 ids. Experts of `busy` (on their way in) count neither as resident nor as outside. Returns `CPTR_NONE`, and writes
 nothing, if there is none.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (words, margin above 1).

 # Safety
 As `cptr_change_distance`.
 */
cptr_status cptr_migration_swap(const uint8_t *tracker,
                                const uint32_t *resident,
                                size_t resident_words,
                                const uint32_t *busy,
                                size_t busy_words,
                                uint32_t margin,
                                struct cptr_swap *swap);

/*
 Makes a limit: `rate` copies for each token in steps of 2^-16, at most `burst` saved up, and so many there now.

 Errors: `NULL`, `ALIGN`.

 # Safety
 `allowance` is null, misaligned, or may be written.
 */
cptr_status cptr_migration_limit(struct cptr_allowance *allowance, uint32_t rate, uint32_t burst);

/*
 `tokens` tokens have passed. Errors: `NULL`, `ALIGN`.

 # Safety
 `allowance` is null, misaligned, or points to one that nobody else uses meanwhile.
 */
cptr_status cptr_migration_token(struct cptr_allowance *allowance, uint32_t tokens);

/*
 Takes one copy out; returns `CPTR_NONE` if there is none. Errors: `NULL`, `ALIGN`.

 # Safety
 As `cptr_migration_token`.
 */
cptr_status cptr_migration_take(struct cptr_allowance *allowance);

/*
 Counts one token of a layer's prefill: the experts it chose, and their mixing weights in steps of 2^-31 and in the
 same order (`cptr_router_weights`), or null if they are not known: every choice then counts as 1.

 `demand`: one entry per expert of the layer. Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids).

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say (`weights`:
 `chosen_count`). Nothing overlaps; nobody else uses `demand` meanwhile.
 */
cptr_status cptr_demand_observe(struct cptr_demand *demand,
                                size_t experts,
                                const uint16_t *chosen,
                                size_t chosen_count,
                                const uint32_t *weights);

/*
 Importance of every expert of a layer: `alpha` times its share of the choices and `1 - alpha` times its share of the
 mixing weights.

 `alpha` in steps of 2^-32, its largest value stands for 1. `importance`: `experts` entries, in steps of 2^-31; they
 sum to at most 1, and are 0 where nothing was asked. Errors: `NULL`, `ALIGN`, `RANGE` (experts).

 # Safety
 The pointers that are neither null nor misaligned point to `experts` entries. Nothing overlaps; nobody writes
 `demand` meanwhile.
 */
cptr_status cptr_demand_importance(const struct cptr_demand *demand,
                                   size_t experts,
                                   uint32_t alpha,
                                   uint32_t *importance);

/*
 The experts of one layer that lie in fast memory if each takes `expert_bytes` and the layer has `budget_bytes`: the
 most important ones.

 Writes all ids by falling importance to `order` (`experts` entries; of equals the lower id first), the resident set
 to the first `CPTR_SET_WORDS(experts)` words of `resident`, as `cptr_select` takes it, and their number to `hot`:
 the first `hot` of `order`.

 Errors: `NULL`, `ALIGN`, `SIZE` (words), `RANGE` (experts).

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps.
 */
cptr_status cptr_place_layer(const uint32_t *importance,
                             size_t experts,
                             uint64_t expert_bytes,
                             uint64_t budget_bytes,
                             uint16_t *order,
                             uint32_t *resident,
                             size_t resident_words,
                             uint32_t *hot);

/*
 The experts of all layers that lie in fast memory under one budget, if each takes `expert_bytes`: moves the most
 important candidates to the front and writes their number to `hot`. The order inside the two parts is not defined.

 Errors: `NULL`, `ALIGN`.

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps;
 nobody else uses `candidates` meanwhile.
 */
cptr_status cptr_place_layers(struct cptr_candidate *candidates,
                              size_t count,
                              uint64_t expert_bytes,
                              uint64_t budget_bytes,
                              size_t *hot);

/*
 The experts that the model wants, best first; of equal scores the lower id ranks higher. Writes `router->k` ids, the
 last of them 0xFFFF where the token gets fewer.

 `scores`: logits in steps of 2^-16, `experts` of them. `capacity`: entries of `wanted`, at least `router->k`.

 Errors: `NULL`, `ALIGN`, `SIZE` (capacity), `RANGE` (experts), `ROUTER`.

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. `wanted` overlaps
 nothing.
 */
cptr_status cptr_router_top_k(const struct cptr_router *router,
                              const int32_t *scores,
                              size_t experts,
                              uint16_t *wanted,
                              size_t capacity);

/*
 Mixing weights of `chosen` from the raw scores, in steps of 2^-31 and in the order of `chosen`: what the model would
 give them.

 `weights` has `chosen_count` entries, at most `CPTR_MAX_WANTED`.

 Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids), `ROUTER`.

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. `weights` overlaps
 nothing.
 */
cptr_status cptr_router_weights(const struct cptr_router *router,
                                const int32_t *scores,
                                size_t experts,
                                const uint16_t *chosen,
                                size_t chosen_count,
                                uint32_t *weights);

/*
 What the model multiplies the output of `expert` with, in steps of 2^-24: its `weight` of `cptr_router_weights`
 times the router's scales. Saturates.

 Errors: `NULL`, `ALIGN`, `ROUTER`.

 # Safety
 The pointers that are neither null nor misaligned point to what they say. `scaled` overlaps nothing.
 */
cptr_status cptr_router_scaled(const struct cptr_router *router, uint16_t expert, uint32_t weight, uint32_t *scaled);

/*
 Chooses the experts to run: resident ones may stand in for wanted ones that are not resident, while the chosen keep
 at least `1 - eps` of the wanted routing mass. The critical path.

 `eps` in steps of 2^-32; 0 returns `wanted`. The first `keep_top` of `wanted` are never replaced. `wanted`: the
 model's own choice, best first, `wanted_count` distinct ids. `resident`: a bit field, id `i` is bit `i % 32` of word
 `i / 32`. Writes `wanted_count` ids to `chosen`, a stand-in in the place of the one it stands in for, and the number
 of stand-ins to `substituted`.

 Errors: `NULL`, `ALIGN`, `RANGE` (counts, ids, an id twice), `ROUTER`.

 # Safety
 The pointers that are neither null nor misaligned point to as many entries as their counts say. `chosen`
 (`wanted_count` entries) and `substituted` overlap nothing.
 */
cptr_status cptr_select(const struct cptr_router *router,
                        uint32_t eps,
                        size_t keep_top,
                        const int32_t *scores,
                        size_t experts,
                        const uint16_t *wanted,
                        size_t wanted_count,
                        const uint32_t *resident,
                        size_t resident_words,
                        uint16_t *chosen,
                        uint32_t *substituted);

/*
 Makes a configuration in the caller's memory: `CPTR_CONFIG_SIZE` bytes, aligned to `CPTR_ALIGN`. One serves all
 layers.

 `version` is `CPTR_VERSION`; `parameters` may be null for the defaults.

 Errors: `NULL`, `ALIGN`, `SIZE`, `VERSION`, `RANGE` (shifts).

 # Safety
 `size` bytes may be written at `memory`. `parameters` is null or points to parameters outside of it. Nobody uses the
 configuration meanwhile.
 */
cptr_status cptr_config_init(uint8_t *memory, size_t size, uint32_t version, const struct cptr_parameters *parameters);

/*
 The gain of a level that forgets half of what it holds in so many tokens, in steps of 2^-32, for `cptr_parameters`;
 the largest for 0 tokens.
 */
uint32_t cptr_half_life(uint32_t tokens);

/*
 Makes a tracker of one layer in the caller's memory: `CPTR_TRACKER_SIZE(experts)` bytes, aligned to `CPTR_ALIGN`.
 Also starts it anew.

 Errors: `NULL`, `ALIGN`, `SIZE`, `RANGE` (experts 1 to `CPTR_MAX_EXPERTS`).

 # Safety
 `size` bytes may be written at `memory`. Nobody uses the tracker meanwhile.
 */
cptr_status cptr_tracker_init(uint8_t *memory, size_t size, size_t experts);

/*
 Takes what one token wanted: the model's own choice, not the selection. Off the critical path. Writes `step`, unless
 it is null.

 Errors: `NULL`, `ALIGN`, `STATE` (tracker or configuration), `RANGE` (count, ids, an id twice).

 # Safety
 `tracker` and `config` are null, misaligned, or point to the memory that their `init` was given (or would be). The
 other pointers that are neither null nor misaligned point to as many entries as their counts say. Nothing overlaps;
 nobody else uses the tracker meanwhile.
 */
cptr_status cptr_tracker_update(uint8_t *tracker,
                                const uint8_t *config,
                                const uint16_t *wanted,
                                size_t wanted_count,
                                struct cptr_step *step);

/*
 The resident expert that is least likely to be wanted soon, those of `keep` left out; the lowest id of equals.
 Returns `CPTR_NONE`, and writes nothing, if none may go.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (counts).

 # Safety
 As `cptr_tracker_update`; others may read the tracker meanwhile.
 */
cptr_status cptr_tracker_victim(const uint8_t *tracker,
                                const uint32_t *resident,
                                size_t resident_words,
                                const uint16_t *keep,
                                size_t keep_count,
                                uint16_t *victim);

/*
 How much the tracked context wants an expert: `slow` (the context) and `fast` (the last few tokens), in steps of
 2^-31, at most 1.

 Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (expert).

 # Safety
 As `cptr_tracker_victim`.
 */
cptr_status cptr_tracker_level(const uint8_t *tracker, uint16_t expert, uint32_t *slow, uint32_t *fast);

#ifdef __cplusplus
}  // extern "C"
#endif  /* __cplusplus */

#endif  /* CPTR_H */

/* Bytes of a tracker of a layer with that many experts. */
#define CPTR_TRACKER_SIZE(experts) (CPTR_TRACKER_BASE + 8 * (experts))
/* Bytes of a queue for that many jobs. */
#define CPTR_QUEUE_SIZE(jobs) (CPTR_QUEUE_BASE + 24 * (jobs))
/* The two sums of a cptr_demand: tokens, and mixing weights in steps of 2^-20. */
#define CPTR_DEMAND_COUNT(demand) ((uint32_t)((demand).sums & 0x3FFFFF))
#define CPTR_DEMAND_SCORE(demand) ((demand).sums >> 22)
/* Bytes of scratch memory for a matrix of that many columns, whatever its groups. */
#define CPTR_PRODUCT_SCRATCH(columns) (72 * (((columns) + 31) / 32))
/* Bytes of scratch memory for an expert of that many inputs and hidden values. */
#define CPTR_EXPERT_SCRATCH(columns, hidden) \
    (8 * (hidden) + CPTR_PRODUCT_SCRATCH(columns) + CPTR_PRODUCT_SCRATCH(hidden))
/* Entries of scratch memory for the bits of that many experts. */
#define CPTR_BITS_SCRATCH(experts) (3 * ((experts) + 1))
/* Words of a bit field of that many experts. */
#define CPTR_SET_WORDS(experts) (((experts) + 31) / 32)

/* The layouts that the library was built for, on every machine. */
#define CPTR_ASSERT_SIZE(type, bytes) typedef char type##_has_##bytes##_bytes[sizeof(type) == (bytes) ? 1 : -1]
CPTR_ASSERT_SIZE(cptr_parameters, 20);
CPTR_ASSERT_SIZE(cptr_step, 12);
CPTR_ASSERT_SIZE(cptr_demand, 8);
CPTR_ASSERT_SIZE(cptr_candidate, 8);
CPTR_ASSERT_SIZE(cptr_job, 24);
CPTR_ASSERT_SIZE(cptr_cache_parameters, 32);
CPTR_ASSERT_SIZE(cptr_load, 12);
CPTR_ASSERT_SIZE(cptr_counters, 48);
CPTR_ASSERT_SIZE(cptr_matrix_shape, 16);
CPTR_ASSERT_SIZE(cptr_losses, 16);
CPTR_ASSERT_SIZE(cptr_split, 16);
CPTR_ASSERT_SIZE(cptr_change_config, 8);
CPTR_ASSERT_SIZE(cptr_change_detector, 16);
CPTR_ASSERT_SIZE(cptr_swap, 8);
CPTR_ASSERT_SIZE(cptr_allowance, 24);
#undef CPTR_ASSERT_SIZE

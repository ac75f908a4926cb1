/* What a host and a near-data controller of CPTR say to each other (docs/device.md): frames, and the region of shared
 * memory with its rings.
 *
 * Generated from the Rust source by `cargo xtask firmware --bless`; do not edit.
 *
 * Structures are little-endian and as they lie in a frame, where they need not be aligned: copy them with memcpy. A
 * frame is a cptr_wire_header, a body, and the CRC-32/ISCSI of both. */
#ifndef CPTR_DEVICE_H
#define CPTR_DEVICE_H

#include <stdint.h>

/* Frames. */
#define CPTR_FRAME_MAGIC 0x7063
#define CPTR_FRAME_VERSION 4
#define CPTR_FRAME_OVERHEAD 20
#define CPTR_FRAME_ANSWER 128
#define CPTR_NOBODY 65535
#define CPTR_ALL_LAYERS 65535
#define CPTR_PART_WORDS 64

/* Kinds of requests. */
#define CPTR_COMMAND_IDENTIFY 1
#define CPTR_COMMAND_RESET 2
#define CPTR_COMMAND_CONFIGURE 3
#define CPTR_COMMAND_PREFILL 4
#define CPTR_COMMAND_PLACE 5
#define CPTR_COMMAND_TOKEN 6
#define CPTR_COMMAND_COUNTERS 7
#define CPTR_COMMAND_BIAS 8
#define CPTR_COMMAND_EVENTS 9
#define CPTR_COMMAND_SNAPSHOT 10
#define CPTR_COMMAND_RESTORE 11
#define CPTR_COMMAND_WRITE 12
#define CPTR_COMMAND_READ 13

/* Statuses of answers. */
/* done */
#define CPTR_FRAME_STATUS_DONE 0
/* the frame is damaged */
#define CPTR_FRAME_STATUS_FRAME 1
/* another version of the protocol */
#define CPTR_FRAME_STATUS_VERSION 2
/* no such command */
#define CPTR_FRAME_STATUS_COMMAND 3
/* a frame was lost or came late */
#define CPTR_FRAME_STATUS_SEQUENCE 4
/* lengths do not agree */
#define CPTR_FRAME_STATUS_LENGTH 5
/* the command cannot come now */
#define CPTR_FRAME_STATUS_ORDER 6
/* no such layer */
#define CPTR_FRAME_STATUS_LAYER 7
/* an expert is out of range or stands twice */
#define CPTR_FRAME_STATUS_ID 8
/* a value is out of its range */
#define CPTR_FRAME_STATUS_VALUE 9
/* the controller has no memory for so many layers or experts */
#define CPTR_FRAME_STATUS_CAPACITY 10
/* the queue to the execution units is full, or events wait to be taken */
#define CPTR_FRAME_STATUS_BUSY 11
/* the session is over */
#define CPTR_FRAME_STATUS_SESSION 12

/* Start of a frame, 16 bytes. */
typedef struct cptr_wire_header {
  /* MAGIC. */
  uint16_t magic;
  /* VERSION. */
  uint8_t version;
  /* Command, 128 more in its answer. */
  uint8_t kind;
  /* Session. */
  uint32_t session;
  /* Number of the request. */
  uint32_t sequence;
  /* Bytes of the body. */
  uint16_t length;
  /* Status. */
  uint8_t status;
  /* Queue. */
  uint8_t queue;
} cptr_wire_header;
typedef char cptr_wire_header_has_16_bytes[sizeof(cptr_wire_header) == 16 ? 1 : -1];

/* What a controller can hold, 24 bytes. */
typedef struct cptr_wire_identity {
  /* Most layers. */
  uint16_t layers;
  /* Most experts per layer. */
  uint16_t experts;
  /* Most experts per token. */
  uint8_t k;
  /* 1 if it counts instructions. */
  uint8_t counts;
  /* Jobs that may wait for the execution units. */
  uint16_t jobs;
  /* The session; 0: none has begun since the start. */
  uint32_t session;
  /* Another one after each start; Reset names it. */
  uint32_t generation;
  /* Lines of memory for activations, replicas and results that hosts can write and read. */
  uint32_t lines;
  /* Queues. */
  uint8_t queues;
  /* Most tokens of a request, 1 to MAX_TOKENS. */
  uint8_t tokens;
  /* 0. */
  uint8_t reserved[2];
} cptr_wire_identity;
typedef char cptr_wire_identity_has_24_bytes[sizeof(cptr_wire_identity) == 24 ? 1 : -1];

/* 4 bytes. */
typedef struct cptr_wire_reset {
  /* Identity::generation: a reset that was on its way when the device started anew is none any more. */
  uint32_t generation;
} cptr_wire_reset;
typedef char cptr_wire_reset_has_4_bytes[sizeof(cptr_wire_reset) == 4 ? 1 : -1];

/* Model and policy, 60 bytes. The router is that of cptr_core::router, where every field is explained. */
typedef struct cptr_wire_configure {
  /* Layers, at least 1. */
  uint16_t layers;
  /* Experts per layer, at least 1, null experts included. */
  uint16_t experts;
  /* Experts per token, 1 to the experts of a layer; most of them, where count is not 0. */
  uint8_t k;
  /* Best experts that are always chosen. */
  uint8_t keep;
  /* What a logit is worth: 0 softmax over all, 1 softmax over the chosen, 2 sigmoid, 3 square root of softplus,
   * 4 sparse mixer. */
  uint8_t score;
  /* 0: experts stay where a Place has put them. 1: those that a token misses are loaded, in place of the
   * tracked context's victim. */
  uint8_t on_demand;
  /* Experts per layer in fast memory, 1 to the experts of a layer. */
  uint16_t capacity;
  /* Bits per weight near the data of experts that nobody has placed, 1 to 16. */
  uint8_t bits;
  /* Evidence that loses lock, at least 1. */
  uint8_t threshold;
  /* Share of the routing mass that a token may lose in a layer, 2^-32; 0 is the raw router. */
  uint32_t eps;
  /* Whether error is a bound (1) or ignored (0). */
  uint8_t bounds_error;
  /* Where a bias is added: 0 there is none, 1 to the scores and 2 to the logits, for the choice alone, 3 to the
   * logits. It comes by Bias. */
  uint8_t bias_place;
  /* Groups of experts, 1 to 32; they divide the experts. */
  uint8_t groups;
  /* Groups that take part, 1 to groups. */
  uint8_t top_groups;
  /* Estimated error of a layer's output that is allowed, 2^-32 of an expert's output. */
  uint32_t error;
  /* Steady gain of the slow level, 2^-32. */
  uint32_t slow;
  /* Gain after a loss of lock, 2^-32. */
  uint32_t reopened;
  /* Gain of the fast level, 2^-32. */
  uint32_t fast;
  /* How groups are rated: 0 by their best score, 1 by the sum of their two best. */
  uint8_t group_rating;
  /* Whether mixing weights are renormalised (1). */
  uint8_t renormalise;
  /* Whether the experts come from a table (1): every Token brings them. */
  uint8_t table;
  /* How many experts a token gets: 0 k, 1 those that have the share bound, 2 those whose score is above
   * bound. */
  uint8_t count;
  /* 2^-32 (share) or 2^-31 (score); 0 where count is 0. */
  uint32_t bound;
  /* Jitter of a sparse mixer, 2^-32; 0 of other scores. */
  uint32_t jitter;
  /* What the mixing weights are multiplied with in the end, 2^-24, above 0. A Run's weight is without it: it
   * can be applied to the sum. */
  uint32_t scale;
  /* How many experts, the last ones, stand for doing nothing: they run on the GPU, at no cost. */
  uint16_t null_experts;
  /* Whether jobs that end are told as Events (1); then a host has to take them. */
  uint8_t events;
  /* 0. */
  uint8_t reserved;
  /* The line where the packed experts begin (cptr_core::expert::Replicas); 0: there are none, and jobs give no
   * results. */
  uint32_t replicas;
} cptr_wire_configure;
typedef char cptr_wire_configure_has_60_bytes[sizeof(cptr_wire_configure) == 60 ? 1 : -1];

/* 4 bytes, then experts i32 biases (2^-16). */
typedef struct cptr_wire_bias {
  /* Layer. */
  uint16_t layer;
  /* The configured experts per layer. */
  uint16_t experts;
} cptr_wire_bias;
typedef char cptr_wire_bias_has_4_bytes[sizeof(cptr_wire_bias) == 4 ? 1 : -1];

/* 4 bytes, then count u16 ids and, if weighted, count u32 mixing weights (2^-31). */
typedef struct cptr_wire_prefill {
  /* Layer. */
  uint16_t layer;
  /* Experts that the token chose, at most the configured k. */
  uint8_t count;
  /* Whether weights follow (1), or every choice counts as 1 (0). */
  uint8_t weighted;
} cptr_wire_prefill;
typedef char cptr_wire_prefill_has_4_bytes[sizeof(cptr_wire_prefill) == 4 ? 1 : -1];

/* 16 bytes. */
typedef struct cptr_wire_place {
  /* Layer. */
  uint16_t layer;
  /* Hot experts, at most the capacity. */
  uint16_t hot;
  /* Share of the counts in the importance, 2^-32; the rest is the share of the weights. */
  uint32_t alpha;
  /* How many of the other experts get 1, 2, 3 and 4 bits, the most important the most: all others together. Or
   * all 0: the others keep the configured bits. */
  uint16_t split[4];
} cptr_wire_place;
typedef char cptr_wire_place_has_16_bytes[sizeof(cptr_wire_place) == 16 ? 1 : -1];

/* 16 bytes, then experts i32 logits (2^-16), wanted u16 ids, best first, and loaded and failed u16
 * ids of experts that Loads of the layer have named. */
typedef struct cptr_wire_token {
  /* Layer. */
  uint16_t layer;
  /* The configured experts per layer. */
  uint16_t experts;
  /* The configured k (up to it, where a token may get fewer): the model's own choice follows; or 0: the
   * controller chooses. */
  uint8_t wanted;
  /* Whether the token starts a sequence (1) or has a predecessor (0). */
  uint8_t starts_sequence;
  /* Loads of the layer that are done: these experts are resident from here on, for this token too. */
  uint8_t loaded;
  /* Loads of the layer that have failed, or were not begun: nobody waits for them any more. */
  uint8_t failed;
  /* The line where the layer's input begins, numbers of single precision, for experts that run near the data.
   * It has to stay there until they are done. Without replicas it means nothing, and neither does result. */
  uint32_t activation;
  /* The line where results go, in single precision and times Run::weight: that of run r in whole lines,
   * behind those of the runs before it, whether these are near the data or not. */
  uint32_t result;
} cptr_wire_token;
typedef char cptr_wire_token_has_16_bytes[sizeof(cptr_wire_token) == 16 ? 1 : -1];

/* 16 bytes, then runs Runs and loads Loads. */
typedef struct cptr_wire_decision {
  /* Layer. */
  uint16_t layer;
  /* Experts to run, as many as are wanted. */
  uint8_t runs;
  /* How many of them stand in for a wanted one. */
  uint8_t substituted;
  /* Experts to load for later tokens. They count as resident when a Token says that they are there; who
   * makes room has gone at once. */
  uint8_t loads;
  /* Events that wait to be taken, at most 255. */
  uint8_t events;
  /* The device's number of this token: events of its jobs name it. */
  uint16_t turn;
  /* Instructions of the choice alone, 0 where they are not counted. */
  uint32_t select_instructions;
  /* Instructions from the checked frame to the answer. */
  uint32_t decide_instructions;
} cptr_wire_decision;
typedef char cptr_wire_decision_has_16_bytes[sizeof(cptr_wire_decision) == 16 ? 1 : -1];

/* An expert that runs, 8 bytes. */
typedef struct cptr_wire_run {
  /* Its id in the layer. */
  uint16_t expert;
  /* Bits per weight near the data; 0: on the GPU. */
  uint8_t bits;
  /* Whether it stands in for a wanted expert (1). */
  uint8_t stand_in;
  /* Mixing weight before the router's scale, 2^-31. */
  uint32_t weight;
} cptr_wire_run;
typedef char cptr_wire_run_has_8_bytes[sizeof(cptr_wire_run) == 8 ? 1 : -1];

/* An expert to copy into fast memory, 4 bytes. */
typedef struct cptr_wire_load {
  /* Its id in the layer. */
  uint16_t expert;
  /* Who makes room, or NOBODY. */
  uint16_t victim;
} cptr_wire_load;
typedef char cptr_wire_load_has_4_bytes[sizeof(cptr_wire_load) == 4 ? 1 : -1];

/* What came of a job, 8 bytes. */
typedef struct cptr_wire_event {
  /* 1: it is done, 2: it has failed, 3: the unit has not ended it in time. Of the last two there is no result. */
  uint8_t kind;
  /* Bits per weight that it ran at. */
  uint8_t bits;
  /* Decision::turn of its token. */
  uint16_t turn;
  /* Layer. */
  uint16_t layer;
  /* Expert. */
  uint16_t expert;
} cptr_wire_event;
typedef char cptr_wire_event_has_8_bytes[sizeof(cptr_wire_event) == 8 ? 1 : -1];

/* 4 bytes, then whole lines. */
typedef struct cptr_wire_write {
  /* The first line. */
  uint32_t line;
} cptr_wire_write;
typedef char cptr_wire_write_has_4_bytes[sizeof(cptr_wire_write) == 4 ? 1 : -1];

/* 8 bytes. */
typedef struct cptr_wire_read {
  /* The first line. */
  uint32_t line;
  /* How many, at least 1. */
  uint16_t lines;
  /* 0. */
  uint16_t reserved;
} cptr_wire_read;
typedef char cptr_wire_read_has_8_bytes[sizeof(cptr_wire_read) == 8 ? 1 : -1];

/* Which words of a layer's state, 4 bytes. */
typedef struct cptr_wire_part {
  /* Layer. */
  uint16_t layer;
  /* Number of the part, from 0. */
  uint16_t part;
} cptr_wire_part;
typedef char cptr_wire_part_has_4_bytes[sizeof(cptr_wire_part) == 4 ? 1 : -1];

/* What was counted since the configuration, 104 bytes. All saturate. */
typedef struct cptr_wire_counters {
  /* Tokens, once per layer. */
  uint64_t tokens;
  /* Experts run. */
  uint64_t runs;
  /* Of those, not resident. */
  uint64_t misses;
  /* Of those, stand-ins. */
  uint64_t substituted;
  /* Experts run by tokens with a predecessor. */
  uint64_t runs_with_predecessor;
  /* Of those, experts that the predecessor did not run. */
  uint64_t switches;
  /* Losses of lock. */
  uint64_t lost_locks;
  /* Instructions of all choices, all layers together, as the two below; 0 where they are not counted. */
  uint64_t select_instructions;
  /* Instructions from checked frames to answers. */
  uint64_t decide_instructions;
  /* Instructions of all updates. */
  uint64_t update_instructions;
  /* Jobs that the execution units have ended, all layers together. */
  uint64_t jobs;
  /* Jobs not finished yet. */
  uint32_t outstanding;
  /* Requests refused, since the start. */
  uint32_t refused;
  /* Jobs among those ended that have failed or took too long. */
  uint32_t failed;
  /* Requests that came again and got the answer that was kept, since the start. */
  uint32_t repeated;
} cptr_wire_counters;
typedef char cptr_wire_counters_has_104_bytes[sizeof(cptr_wire_counters) == 104 ? 1 : -1];

/* The region: words of 32 bits, in lines of 64 bytes. */
#define CPTR_LINE 16
#define CPTR_REGION_MAGIC UINT32_C(0x72747063)
#define CPTR_REGION_VERSIONS UINT32_C(0x40004)
#define CPTR_FEATURE_EVENTS 1
#define CPTR_FEATURE_NO_CHECKSUM 2
#define CPTR_DEVICE_WORD_MAGIC 0
#define CPTR_DEVICE_WORD_VERSIONS 1
#define CPTR_DEVICE_WORD_FEATURES 2
#define CPTR_DEVICE_WORD_QUEUES 3
#define CPTR_DEVICE_WORD_SLOTS 4
#define CPTR_DEVICE_WORD_REQUEST 5
#define CPTR_DEVICE_WORD_ANSWER 6
#define CPTR_DEVICE_WORD_GENERATION 7
#define CPTR_DEVICE_WORD_CHECK 8
#define CPTR_DEVICE_WORD_STATE 9
#define CPTR_DEVICE_WORD_ATTACHMENT 10
#define CPTR_DEVICE_WORD_VERSION 11
#define CPTR_DEVICE_WORD_AGREED 12
#define CPTR_DEVICE_WORD_EVENTS 13
#define CPTR_HOST_WORD_VERSIONS (CPTR_LINE + 0)
#define CPTR_HOST_WORD_FEATURES (CPTR_LINE + 1)
#define CPTR_HOST_WORD_ATTACHMENT (CPTR_LINE + 2)
#define CPTR_HOST_WORD_CHECK (CPTR_LINE + 3)

/* States in the device's line. */
#define CPTR_STATE_OFF 0
#define CPTR_STATE_READY 1
#define CPTR_STATE_ATTACHED 2
#define CPTR_STATE_REFUSED 3
#define CPTR_STATE_BROKEN 4

/* Words of a ring: the producer's index, the consumer's, whether the consumer wants to be called. */
#define CPTR_RING_PUT 0
#define CPTR_RING_TAKEN CPTR_LINE
#define CPTR_RING_WANTED (CPTR_LINE + 1)
#define CPTR_RING_SLOTS (2 * CPTR_LINE)

/* Words of a ring of that many slots for frames of at most that many bytes. */
#define CPTR_RING_WORDS(slots, bytes) \
  (2 * CPTR_LINE + (slots) * ((((bytes) + 3) / 4 + 1 + CPTR_LINE - 1) / CPTR_LINE * CPTR_LINE))
/* Words of a region. */
#define CPTR_REGION_WORDS(queues, slots, request, answer) \
  (2 * CPTR_LINE + (queues) * (CPTR_RING_WORDS(slots, request) + CPTR_RING_WORDS(slots, answer)))
/* A check word goes on with each word; it begins with CPTR_CHECK_START. */
#define CPTR_CHECK_START UINT32_C(0x811C9DC5)
static inline uint32_t cptr_check(uint32_t sum, uint32_t word) {
  sum = (sum ^ word) * UINT32_C(0x01000193);
  return sum ^ (sum >> 15);
}

#endif /* CPTR_DEVICE_H */

//! Columns of all that `cptr inspect` shows.

use crate::columns::Format::{Count, Number, Percent, Plain, Text};
use crate::columns::{Column, column};

pub(super) static WHOLE: [Column; 26] = [
    column("model", "model", Text, ""),
    column("source", "source", Text, ""),
    column("router", "router", Text, ""),
    column("knowledge", "recorded", Text, ""),
    column("tokens", "tokens", Count, ""),
    column("sequences", "sequences", Count, ""),
    column("prefill_tokens", "tokens read", Count, ""),
    column("decode_tokens", "tokens generated", Count, ""),
    column("layers", "layers", Count, ""),
    column("experts", "experts", Count, ""),
    column("k", "k", Count, ""),
    column("switch_rate", "switch rate", Percent, "choices that the token before did not run"),
    column(
        "switch_rate_memoryless",
        "switch rate, memoryless",
        Percent,
        "of independent draws with the same frequencies",
    ),
    column("switch_rate_lowest.switch_rate", "switch rate, lowest", Percent, "").if_any(),
    column("switch_rate_lowest.layer", "in layer", Plain, "").if_any(),
    column("switch_rate_highest.switch_rate", "switch rate, highest", Percent, "").if_any(),
    column("switch_rate_highest.layer", "in layer", Plain, "").if_any(),
    column("identical_sets", "identical sets", Percent, "tokens and layers whose choice is that of the token before"),
    column("reuse.median", "reuse distance, median", Count, "tokens").if_any(),
    column("reuse.quantile_90", "reuse distance, 90 %", Count, "tokens").if_any(),
    column("reuse.within_8", "reused within 8 tokens", Percent, "").if_any(),
    column("phases.prefill_decode_cosine", "cosine of prefill and decode", Number(3), "").if_any(),
    column("weights.sum_mean", "sum of the weights", Number(3), "").if_any(),
    column("logits.standard_deviation", "deviation of the logits", Number(3), "").if_any(),
    column("logits.gap_median", "gap after the k-th logit, median", Number(3), "").if_any(),
    column("logits.gap_quantile_10", "gap after the k-th logit, 10 %", Number(3), "").if_any(),
];

pub(super) static LAYERS: [Column; 3] = [
    column("layer", "layer", Plain, ""),
    column("switch_rate", "switch rate", Percent, ""),
    column("switch_rate_memoryless", "memoryless", Percent, ""),
];

pub(super) static DOMAINS: [Column; 6] = [
    column("domain", "domain", Text, ""),
    column("tokens", "tokens", Count, ""),
    column("switch_rate", "switch rate", Percent, ""),
    column("switch_rate_memoryless", "memoryless", Percent, ""),
    column("switch_rate_lowest.switch_rate", "lowest layer", Percent, ""),
    column("switch_rate_highest.switch_rate", "highest layer", Percent, ""),
];

pub(super) static OVERLAP: [Column; 2] =
    [column("lag", "tokens", Plain, ""), column("overlap", "overlap", Percent, "")];

pub(super) static REUSE: [Column; 3] = [
    column("from", "from", Plain, "tokens"),
    column("to", "to", Plain, "tokens"),
    column("share", "share", Percent, ""),
];

pub(super) static CACHE: [Column; 4] = [
    column("size", "experts", Plain, ""),
    column("lru", "LRU", Percent, ""),
    column("lfu", "LFU", Percent, ""),
    column("belady", "Belady", Percent, ""),
];

pub(super) static LOCALITY: [Column; 7] = [
    column("segment_tokens", "segment", Plain, ""),
    column("srp", "SRP", Percent, ""),
    column("srp_size_ratio", "SRP size ratio", Number(3), ""),
    column("sch.ratio", "slots of k", Plain, ""),
    column("sch.slots", "slots", Plain, ""),
    column("sch.sch_v1", "SCH v1/v2", Percent, ""),
    column("sch.sch_v3", "SCH v3", Percent, ""),
];

pub(super) static CORRELATION: [Column; 2] =
    [column("lag", "tokens", Plain, ""), column("correlation", "autocorrelation", Number(3), "")];

pub(super) static LOADS: [Column; 10] = [
    column("name", "table", Text, ""),
    column("model", "model", Text, ""),
    column("layers", "layers", Count, ""),
    column("experts", "experts", Count, ""),
    column("k", "k", Count, ""),
    column("choices", "choices", Count, ""),
    column("max_over_mean_load", "max/mean", Number(3), "load of the most wanted expert over the mean"),
    column("effective_experts", "effective", Number(3), "experts that would share the choices evenly"),
    column("coverage_quarter", "top E/4", Percent, "choices of the most wanted quarter"),
    column("coverage_half", "top E/2", Percent, "choices of the most wanted half"),
];

pub(super) static PAIRS: [Column; 7] = [
    column("name", "table", Text, ""),
    column("layers.0", "layer", Plain, ""),
    column("layers.1", "later layer", Plain, ""),
    column("choices", "pairs", Count, ""),
    column("mutual_information_bits", "information, bits", Number(3), ""),
    column("predictability", "predictable", Percent, ""),
    column("predictability_marginal", "without", Percent, ""),
];

pub(super) static SIGNAL: [Column; 5] = [
    column("token", "from token", Count, ""),
    column(
        "snr_db",
        "levels, dB",
        Number(1),
        "power of the tracked levels over that of the innovation, mean over layers",
    ),
    column("locked", "locked", Percent, "tokens and layers in which the tracker holds the context"),
    column("match_snr_db", "match, dB", Number(1), "margin of the best remembered place over the crowd of all"),
    column("match_locked", "moves along", Percent, "tokens whose best match moves along with the text"),
];

pub(super) static CHANGES: [Column; 7] = [
    column("detector", "detector", Text, ""),
    column("alarms", "alarms", Count, ""),
    column("false_alarms_per_10k", "false per 10k", Number(1), "alarms where the domain stays, in 10,000 tokens"),
    column("changes", "changes", Count, "of domain"),
    column("missed", "missed", Count, ""),
    column("median_delay", "median delay", Plain, "tokens from the change to the alarm"),
    column("longest_delay", "longest", Plain, ""),
];

pub(super) static FORECAST: [Column; 7] = [
    column("prompt", "prompt", Text, ""),
    column("answer", "answer", Text, ""),
    column("cosine", "cosine", Number(3), "of the counts of experts, mean over layers"),
    column("lowest_cosine", "lowest layer", Number(3), ""),
    column("coverage", "covered", Percent, "choices of the answer among the prompt's most wanted experts"),
    column("best_coverage", "best fixed set", Percent, ""),
    column("chance", "chance", Percent, ""),
];

pub(super) static BATCHES: [Column; 10] = [
    column("tokens", "tokens", Plain, "of a batch"),
    column("choice", "choice", Text, "what the model wants, each token in turn within its bound, all of them together"),
    column("batches", "batches", Count, "").detail(),
    column("distinct", "distinct", Number(2), "different experts of a layer that a batch runs, with nothing in memory"),
    column("distinct_saved", "fewer", Percent, "of them than the model wants").if_any(),
    column("loads", "loads", Number(2), "experts of a layer that a batch loads with the cache of engines"),
    column("loads_saved", "fewer loads", Percent, "than with what the model wants").if_any(),
    column("waves", "waves", Number(2), "parts that a layer of a batch runs in, as its experts have not room together"),
    column(
        "mass_loss",
        "mass loss",
        Percent,
        "wanted routing mass given up with that cache; mean over tokens and layers",
    ),
    column("worst_mass_loss", "worst", Percent, "most that a token lost in a layer"),
];

pub(super) static RECALL: [Column; 8] = [
    column("by", "by", Text, "what is varied: lag or window (tokens ahead), layer, memory (tokens), passages"),
    column("at", "at", Text, "its value"),
    column("recall_k", "recall, k", Percent, "choices among the k best of what followed like places"),
    column("recall_2k", "2k", Percent, "among the 2k best"),
    column("levels_k", "levels, k", Percent, "the same by tracked levels").if_any(),
    column("levels_2k", "2k", Percent, "").if_any(),
    column("ahead_k", "layer ahead, k", Percent, "by recall, when all layers before have run").if_any(),
    column("ahead_2k", "2k", Percent, "").if_any(),
];

pub(super) static EVICTED: [Column; 3] = [
    column(
        "by",
        "by",
        Text,
        "a strategy; levels, all, barred: the exact search without forecast, and with its forecasts",
    ),
    column("miss_rate", "miss", Percent, "of the raw router's choices"),
    column("gap", "gap closed", Percent, "of the way to Belady, from tracked or from levels").if_any(),
];

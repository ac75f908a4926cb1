//! Systems of the literature, and baselines, as names for five choices.
//!
//! ```
//! use cptr_sim::strategy::{PRESETS, Strategy};
//!
//! let monde = PRESETS.iter().find(|preset| preset.name == "monde").ok_or("no such preset")?;
//! assert_eq!(monde.text, "raw+empty+none+bandwidth+full");
//! assert!(Strategy::parse(monde.name)?.is(&Strategy::parse(monde.text)?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// A name for five choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// One line for help.
    pub summary: &'static str,
    /// The five choices as a text.
    pub text: &'static str,
}

const fn preset(name: &'static str, summary: &'static str, text: &'static str) -> Preset {
    Preset { name, summary, text }
}

/// All presets, in the order of tables.
pub const PRESETS: &[Preset] = &[
    preset("raw", "the router's choice, all on the GPU, the least recently used goes", "raw+lru+none+gpu+full"),
    preset("lru", "the same", "raw+lru+none+gpu+full"),
    preset("lfu", "the least frequently used goes", "raw+lfu+none+gpu+full"),
    preset("lrfu", "the expert goes whose uses, fading with time, weigh least", "raw+lrfu+none+gpu+full"),
    preset("arc", "recency or frequency, whichever lost what is wanted again (FAST'03)", "raw+arc+none+gpu+full"),
    preset("s3-fifo", "out of a small queue goes what was not used again (SOSP'23)", "raw+s3-fifo+none+gpu+full"),
    preset("sieve", "a hand goes round and takes what was not used (NSDI'24)", "raw+sieve+none+gpu+full"),
    preset("tracked", "the expert goes that the tracked context wants least", "raw+tracked+none+gpu+full"),
    preset("successor", "the same, and what followed this token's experts counts", "raw+successor+none+gpu+full"),
    preset(
        "successor-fetch",
        "the same, and what they expect next is fetched where that is expected to pay",
        "raw+successor+successor-fetch+gpu+full",
    ),
    preset(
        "moe-infinity",
        "the expert goes that activation matrices of sequences expect least (arXiv 2401.14361)",
        "raw+moe-infinity+none+gpu+full",
    ),
    preset(
        "moe-infinity-fetch",
        "the same, and what they expect next is fetched where that is expected to pay",
        "raw+moe-infinity+moe-infinity-fetch+gpu+full",
    ),
    preset(
        "finemoe",
        "the expert goes that expert maps of tokens expect least (arXiv 2502.05370)",
        "raw+finemoe+none+gpu+full",
    ),
    preset(
        "finemoe-fetch",
        "the same, and what they expect next is fetched where that is expected to pay",
        "raw+finemoe+finemoe-fetch+gpu+full",
    ),
    preset("recall", "the expert goes that remembered trajectories expect least", "raw+recall+none+gpu+full"),
    preset("safe", "recall, tracked or lru, whichever is measured to load least", "raw+safe+none+gpu+full"),
    preset(
        "recall-fetch",
        "the same, and what they expect next is fetched where that is expected to pay",
        "raw+recall+recall-fetch+gpu+full",
    ),
    preset("safe-fetch", "safe, and fetched ahead where that is measured to pay", "raw+safe+recall-fetch+gpu+full"),
    preset("belady", "the farthest next use goes: the bound of what is loaded on demand", "raw+belady+none+gpu+full"),
    preset("once", "placed once after the prompt or the first tokens", "raw+once+none+gpu+full"),
    preset("smoothing", "exponentially smoothed scores", "smoothing+lru+none+gpu+full"),
    preset("hysteresis", "a bonus for the experts of the previous token", "hysteresis+lru+none+gpu+full"),
    preset("max-rank", "residents out of the first ranks (arXiv 2412.00099)", "max-rank+lru+none+gpu+full"),
    preset("cumulative", "residents out of a window of probability (arXiv 2412.00099)", "cumulative+lru+none+gpu+full"),
    preset("substitute", "residents for missing experts of low weight", "substitute+lru+none+gpu+full"),
    preset("cache-prior", "a bonus for residents (arXiv 2412.00099)", "cache-prior+lru+none+gpu+full"),
    preset("drop", "missing experts of low weight left out, within a budget", "drop+lru+none+gpu+full"),
    preset("bounded", "selection under a bound on what is lost, tracked residency", "bounded+tracked+none+gpu+full"),
    preset("transition", "fetched ahead by co-occurrence with the layer before", "raw+lru+transition+gpu+full"),
    preset("hobbit", "missing experts at 16 bits, 4 bits or left out (arXiv 2411.01433)", "raw+lru+none+gpu+graded"),
    preset(
        "hobbit-prefetch",
        "the same with its prefetch, by stacked gates that are nearly always right",
        "raw+lru+perfect:accuracy=0.96:most=1+gpu+graded",
    ),
    preset("d2moe", "bit planes on demand (arXiv 2504.15299)", "raw+lru+none+gpu+nested"),
    preset(
        "monde",
        "the most wanted copied, by bandwidth, the others near the data (DAC'24)",
        "raw+empty+none+bandwidth+full",
    ),
    preset(
        "monde-resident",
        "the same with the experts that the prompt wanted most in GPU memory",
        "raw+once:alpha=0.5+none+bandwidth+full",
    ),
    preset("near-only", "every expert near the data", "raw+empty+none+near+uniform"),
    preset(
        "best-split",
        "placed once; each layer divided in the fastest way, all at full precision (arXiv 2609.00407)",
        "raw+once:alpha=0.5+none+fastest+full",
    ),
    preset(
        "best-split-slack",
        "the same with few bits near the data, and time given up for precision",
        "raw+once:alpha=0.5+none+fastest:slack=0.15+uniform",
    ),
    preset(
        "ctx-aware",
        "placed once after the prompt, the others near the data at few bits (arXiv 2512.04476)",
        "raw+once:alpha=0.5+none+in-place+mean:bits=4",
    ),
    preset(
        "ctx-aware-slack",
        "the same with residents near the data where that is faster",
        "raw+once:alpha=0.5+none+slack+mean:bits=4",
    ),
    preset("periodic", "placed anew every 64 tokens, copies behind decoding", "raw+periodic+none+slack+uniform"),
    preset("migrate", "placed anew as the tracked context moves", "raw+migrate+none+slack+uniform"),
    preset(
        "safe-migrate",
        "as migrate, or placed once where that is measured to be faster",
        "raw+safe-migrate+none+slack+uniform",
    ),
    preset("foresight", "as migrate, knowing the next tokens", "raw+foresight+none+slack+uniform"),
    preset("all-4bit", "all experts in GPU memory at 4 bits, where they fit", "raw+all+none+gpu+uniform:everywhere=on"),
    preset("all-full", "all experts in GPU memory at full precision, where they fit", "raw+all+none+gpu+full"),
];

/// The preset of a name.
pub(super) fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

//! What fuzzers run: [`TARGETS`] take any bytes and panic where a promise is broken.
//!
//! A fuzzer of `tests/fuzz` drives each of them (`cargo xtask fuzz`), and `tests/tests/fuzz.rs` replays what the
//! fuzzers have kept (`tests/fuzz/corpus`) in every test run. The C interface has a target of its own there, as it
//! needs `unsafe`.
//!
//! A new target is a function and one line in [`TARGETS`], and its three lines in `tests/fuzz/fuzz_targets`.

mod choice;
mod memory;
mod messages;
mod readers;
mod state;
mod texts;

pub use readers::READING_BYTES;

/// What a fuzzer drives.
#[derive(Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// Panics where the promise is broken.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "recording",
        promise: "a file is read or refused in a sentence; what is read runs, and is the same written and read again",
        run: readers::recording,
    },
    Target {
        name: "native",
        promise: "the same of native traces, any tensor of which may be wrong",
        run: readers::native,
    },
    Target {
        name: "tables",
        promise: "tables of losses and biases, and requests over time, are read or refused",
        run: readers::tables,
    },
    Target {
        name: "machine",
        promise: "a machine's file is refused, or gives a time to each layer, and no part of it more than the whole",
        run: texts::machine,
    },
    Target {
        name: "strategy",
        promise: "a strategy is refused, or runs, and serves every choice of a trace",
        run: texts::strategy,
    },
    Target { name: "config", promise: "a model's config.json gives sizes or is refused", run: texts::config },
    Target {
        name: "columns",
        promise: "a description of columns is refused, or reads or refuses a log",
        run: texts::columns,
    },
    Target {
        name: "device",
        promise: "a DRAM device's file is refused, or serves requests by legal commands, exact as fast",
        run: memory::device,
    },
    Target {
        name: "dram",
        promise: "exact and fast path agree to the cycle, engine and controller too",
        run: memory::dram,
    },
    Target {
        name: "select",
        promise: "distinct experts, the bound kept in real numbers, no more misses than any choice",
        run: choice::select,
    },
    Target {
        name: "filter",
        promise: "levels, gain and lock stay in range and near their definition, saved or not",
        run: state::filter,
    },
    Target {
        name: "recall",
        promise: "any memory and any tokens: shares within 0 and 1, saved and restored",
        run: state::recall,
    },
    Target {
        name: "cache",
        promise: "every chosen expert has its slot, no slot two, counts add up",
        run: state::cache,
    },
    Target { name: "expert", promise: "packed weights are refused, or products are exact", run: choice::expert },
    Target {
        name: "controller",
        promise: "whatever comes between, a host's requests are answered once and alike",
        run: messages::controller,
    },
    Target {
        name: "rings",
        promise: "whatever a host writes into shared memory, the device serves the next",
        run: messages::rings,
    },
];

/// Runs a target.
///
/// # Panics
/// Where its promise is broken, and if there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    (target.run)(data);
}

//! What a controller counts.
use super::command::CommandCounts;
use super::histogram::Histogram;

/// Counts of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Reads whose RD went out.
    pub reads_served: u64,
    /// Writes whose WR went out.
    pub writes_served: u64,
    /// Reads answered from the write queue.
    pub reads_forwarded: u64,
    /// Writes swallowed by a waiting write to the same address.
    pub writes_merged: u64,
    /// Requests that found their row open when their first command went out.
    pub row_hits: u64,
    /// Requests that found the bank closed.
    pub row_misses: u64,
    /// Requests that found another row open.
    pub row_conflicts: u64,
    /// Commands by kind.
    pub commands: CommandCounts,
    /// Cycles from acceptance to the end of the data, reads only.
    pub read_latency: Histogram,
}

//! What a controller counts.
use super::command::CommandCounts;
use super::histogram::{Histogram, SparseHistogram};

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
    /// Cycles that rows were open, of all banks together: for [`super::CommandEnergy`].
    pub open_cycles: u64,
    /// Cycles from acceptance to the end of the data, reads only.
    pub read_latency: Histogram,
}

/// What concerns one of several sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceStatistics {
    /// As in [`Statistics`], and so down to the conflicts.
    pub reads_served: u64,
    /// Writes whose WR went out.
    pub writes_served: u64,
    /// Reads answered from the write queue.
    pub reads_forwarded: u64,
    /// Writes swallowed by a waiting write to the same address.
    pub writes_merged: u64,
    /// Requests that found their row open.
    pub row_hits: u64,
    /// Requests that found the bank closed.
    pub row_misses: u64,
    /// Requests that found another row open.
    pub row_conflicts: u64,
    /// Those of them whose bank had been opened for another source.
    pub conflicts_with_others: u64,
    /// Cycles from acceptance to the end of the data, reads only.
    pub read_latency: Histogram,
}

impl SourceStatistics {
    /// Those of the only source.
    pub(super) fn of_all(all: &Statistics) -> Self {
        Self {
            reads_served: all.reads_served,
            writes_served: all.writes_served,
            reads_forwarded: all.reads_forwarded,
            writes_merged: all.writes_merged,
            row_hits: all.row_hits,
            row_misses: all.row_misses,
            row_conflicts: all.row_conflicts,
            conflicts_with_others: 0,
            read_latency: all.read_latency.clone(),
        }
    }

    /// Adds the counts of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        self.reads_served += other.reads_served;
        self.writes_served += other.writes_served;
        self.reads_forwarded += other.reads_forwarded;
        self.writes_merged += other.writes_merged;
        self.row_hits += other.row_hits;
        self.row_misses += other.row_misses;
        self.row_conflicts += other.row_conflicts;
        self.conflicts_with_others += other.conflicts_with_others;
        self.read_latency.merge(&other.read_latency);
    }
}

impl Statistics {
    /// Adds the counts of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        self.reads_served += other.reads_served;
        self.writes_served += other.writes_served;
        self.reads_forwarded += other.reads_forwarded;
        self.writes_merged += other.writes_merged;
        self.row_hits += other.row_hits;
        self.row_misses += other.row_misses;
        self.row_conflicts += other.row_conflicts;
        self.commands.add(&other.commands);
        self.open_cycles += other.open_cycles;
        self.read_latency.merge(&other.read_latency);
    }

    /// Counts everything in `part` once more.
    pub(super) fn add(&mut self, part: &Part) {
        self.reads_served += part.reads_served;
        self.row_hits += part.row_hits;
        self.row_misses += part.row_misses;
        self.row_conflicts += part.row_conflicts;
        self.commands.add(&part.commands);
        self.open_cycles += part.open_cycles;
        self.read_latency.add(&part.read_latency);
    }

    /// Takes what was counted and starts again from nothing. Only for runs without writes.
    pub(super) fn take(&mut self) -> Part {
        let part = Part {
            reads_served: self.reads_served,
            row_hits: self.row_hits,
            row_misses: self.row_misses,
            row_conflicts: self.row_conflicts,
            commands: self.commands,
            open_cycles: std::mem::take(&mut self.open_cycles),
            read_latency: self.read_latency.take(),
        };
        self.reads_served = 0;
        (self.row_hits, self.row_misses, self.row_conflicts) = (0, 0, 0);
        self.commands = CommandCounts::default();
        part
    }
}

/// Counts of a part of a run without writes, small enough to keep many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    reads_served: u64,
    row_hits: u64,
    row_misses: u64,
    row_conflicts: u64,
    commands: CommandCounts,
    open_cycles: u64,
    read_latency: SparseHistogram,
}

impl Part {
    /// Size in 32-bit words.
    pub(super) fn words(&self) -> usize {
        size_of::<Self>() / 4 + self.read_latency.words()
    }
}

//! What can be wrong with a call. An error changes nothing.

use std::fmt;

use super::super::error::AddressError;

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// Its queue is full; a place may be free after [`super::Engine::next_command`].
    QueueFull,
    /// As many requests as the channel takes in a cycle were taken in this one.
    NextCycle,
    /// Too many completions wait to be taken.
    Unread,
    /// No access inside the memory.
    Address(AddressError),
    /// The engine was not set up with this source.
    NoSuchSource {
        /// Which.
        source: u8,
        /// How many there are.
        sources: usize,
    },
}

impl NotTaken {
    /// True if the same request may be taken later.
    pub const fn is_busy(self) -> bool {
        matches!(self, Self::QueueFull | Self::NextCycle | Self::Unread)
    }
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull => f.write_str("the queue is full"),
            Self::NextCycle => f.write_str("the channel takes no more requests in this cycle"),
            Self::Unread => f.write_str("too many completions wait to be taken"),
            Self::Address(error) => error.fmt(f),
            Self::NoSuchSource { source, sources } => write!(f, "expected a source below {sources}, found {source}"),
        }
    }
}

impl std::error::Error for NotTaken {}

/// A call that the engine cannot follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// The cycle is past.
    Backwards {
        /// Current cycle.
        now: u64,
        /// The one that was asked for.
        to: u64,
    },
    /// The cycle is beyond the last one, 2^48.
    TooFar {
        /// The one that was asked for.
        to: u64,
    },
    /// No request that waits, or whose completion was not taken, has this number.
    UnknownId,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backwards { now, to } => write!(f, "expected a cycle from {now} on, found {to}, which is past"),
            Self::TooFar { to } => write!(f, "expected a cycle up to {}, found {to}", super::LAST_CYCLE),
            Self::UnknownId => f.write_str("no request that waits or was not taken has this number"),
        }
    }
}

impl std::error::Error for CallError {}

/// Why a snapshot cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotError {
    /// No snapshot, or one that is not as it was written.
    Damaged,
    /// Of another device, configuration or version of this library.
    OfAnother,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "expected a snapshot as it was written, found one that is damaged",
            Self::OfAnother => "expected a snapshot of the same device, configuration and version, found another one",
        })
    }
}

impl std::error::Error for SnapshotError {}

//! What is served and waits to be taken.

use std::collections::VecDeque;

use super::super::command::Command;
use super::super::controller::{Observer, Served};
use super::super::request::RequestKind;

/// Number of a request, as [`super::Engine::offer`] gave it. No other request of the engine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

impl Id {
    pub(super) const fn new(number: u64, channel: usize, channels: u64) -> Self {
        Self(number * channels + channel as u64)
    }

    /// Running number on its channel, and the channel.
    pub(super) const fn parts(self, channels: u64) -> (u64, usize) {
        (self.0 / channels, (self.0 % channels) as usize)
    }

    /// As a number, for languages that have no other.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The inverse of [`Self::raw`].
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

/// A request that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Which.
    pub id: Id,
    /// Who asked.
    pub source: u8,
    /// Read or write.
    pub kind: RequestKind,
    /// When.
    pub cycle: u64,
    /// Cycles from acceptance to that.
    pub latency: u64,
}

/// The completions of a channel in order of their cycles, those to come included.
#[derive(Debug, Clone, Default)]
pub(super) struct Completions(VecDeque<Served>);

impl Observer for Completions {
    fn command(&mut self, _: u64, _: Command) {}

    #[inline(always)]
    fn served(&mut self, served: Served) {
        // Reads come in order. A write's data ends sooner after its command than a read's: a few places further on.
        if self.0.back().is_none_or(|last| last.cycle <= served.cycle) {
            self.0.push_back(served);
        } else {
            let at = self.0.iter().rposition(|other| other.cycle <= served.cycle).map_or(0, |before| before + 1);
            self.0.insert(at, served);
        }
    }
}

impl Completions {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Cycle of the first; `u64::MAX` without any.
    #[inline(always)]
    pub(super) fn next(&self) -> u64 {
        self.0.front().map_or(u64::MAX, |first| first.cycle)
    }

    #[inline(always)]
    pub(super) fn take(&mut self) -> Option<Served> {
        self.0.pop_front()
    }

    /// Cycle of the request with this number.
    pub(super) fn find(&self, number: u64) -> Option<u64> {
        self.0.iter().find(|served| served.number == number).map(|served| served.cycle)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Served> {
        self.0.iter()
    }

    /// Replaces all; they must be in order.
    pub(super) fn set(&mut self, all: VecDeque<Served>) {
        self.0 = all;
    }
}

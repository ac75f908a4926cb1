//! Slices of time on tracks, and files that viewers open: [`perfetto`] for ui.perfetto.dev, [`waveform`] for GTKWave.
//!
//! What slices show is up to their maker: commands of a memory channel ([`crate::dram`]), the units of a machine
//! ([`crate::layer`]).
//!
//! ```
//! use std::borrow::Cow;
//!
//! use cptr_sim::timeline::{Shows, Slice, Track, perfetto::Trace};
//!
//! struct Step(u64);
//!
//! impl Shows for Step {
//!     fn name(&self) -> Cow<'static, str> {
//!         format!("step {}", self.0).into()
//!     }
//!
//!     fn numbers(&self) -> [Option<(&'static str, u64)>; 2] {
//!         [Some(("step", self.0)), None]
//!     }
//! }
//!
//! let slices = vec![Slice { shows: Step(0), start: 0, end: 5 }, Slice { shows: Step(1), start: 5, end: 9 }];
//! let mut trace = Trace::new(serde_json::Map::new());
//! trace.process("decoding", &[Track { name: "steps".into(), slices }], |tick| tick);
//! assert!(serde_json::to_string(&trace)?.contains("step 1"));
//! # Ok::<(), serde_json::Error>(())
//! ```

pub mod perfetto;
pub mod waveform;

use std::borrow::Cow;

/// What a slice shows.
pub trait Shows {
    /// Its name.
    fn name(&self) -> Cow<'static, str>;
    /// Numbers beside it, each with its name.
    fn numbers(&self) -> [Option<(&'static str, u64)>; 2];
}

/// A slice of time, in ticks of its maker's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice<S> {
    /// What it shows.
    pub shows: S,
    /// First tick.
    pub start: u64,
    /// First tick after it, at least one later.
    pub end: u64,
}

/// Slices in the order of their start. They do not overlap, but for slices that hold others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track<S> {
    /// Name, such as `group 3 bank 1`.
    pub name: String,
    /// The slices.
    pub slices: Vec<Slice<S>>,
}

impl<S> Track<S> {
    /// A track without slices.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), slices: Vec::new() }
    }
}

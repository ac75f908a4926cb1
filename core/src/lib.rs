//! The Contextual Phase-Tracking Filter for the routers of mixture-of-experts (MoE) models, in fixed point.
//!
//! A controller that holds some experts of a layer in fast memory links this crate and calls, for every token and
//! layer,
//!
//! 1. [`Router::top_k`] — which experts the model wants (or takes the list from the model's own router),
//! 2. [`select()`] — which experts run: resident ones may stand in for wanted ones while the chosen keep at least
//!    `1 - eps` of the wanted routing mass. This is the critical path; it reads only logits and residency,
//! 3. [`Tracker::victim`] — which resident expert to give up where one must be loaded,
//! 4. [`Tracker::update`] — off the critical path: tracks how often each expert is wanted (Kalman level at two time
//!    scales), the signal-to-noise ratio of that level and the phase between demand and level; loss of lock opens the
//!    filter's gain.
//!
//! [`recall`] forecasts from remembered trajectories what the next tokens will want: for eviction, and for fetching
//! ahead.
//!
//! [`cache`] does all of this for a whole model whose experts lie in slots of a bounded memory.
//!
//! [`lead`] lets the best of several ways to keep a memory lead, at a bound on what that may cost.
//!
//! Where experts are *placed* rather than cached, [`placement`] and [`bits`] decide once after prefill what lies in GPU
//! memory and how many bits the others get; [`context`] sees that the context has changed, and [`replace`] which expert
//! to bring in, if that pays; [`shares`] gives those who share a device equal parts of the copies.
//!
//! ```
//! use cptr_core::{select, words_for, Eps, ExpertSet, Logit, Router, Tracker, TrackerConfig};
//!
//! let config = TrackerConfig::default();
//! let mut tracker = Tracker::<[_; 8]>::new(); // one per layer, in the caller's memory
//! let mut resident = ExpertSet::<{ words_for(8) }>::new();
//! for expert in [0, 3, 5] {
//!     resident.insert(expert);
//! }
//!
//! let logits = [1.0, 0.2, 2.0, 1.9, -1.0, 0.0, 0.5, 0.3].map(Logit::from_num);
//! let router = Router::mixtral();
//! let wanted = router.top_k::<2>(&logits).unwrap();
//! assert_eq!(wanted, [2, 3]);
//! let selection = select::<2>(&router, Eps::from_num(0.7), 0, &logits, &wanted, &resident).unwrap();
//! assert_eq!(selection.experts, [0, 3]); // expert 0 is resident and stands in for 2
//! let step = tracker.update(&config, &wanted);
//! assert_eq!(tracker.victim(&resident, &selection.experts), Some(5));
//! # let _ = step;
//! ```
//!
//! [`dispatch`] sends what runs near the data to the units there. Cold experts run at 1 to 4 bits a weight with
//! [`expert::matvec`] and [`expert::Expert`].
//!
//! No allocation, no floating point in the token path, no `unsafe`. Configuration and state are separate types: one
//! configuration serves all layers. [`Tracker`] exists in `f32` too, behind the feature `f32`. Every operation names
//! its number formats, rounding and saturation ([`num`]). For tests of what is built on it, the feature `proptest` has
//! strategies for all types, and oracles.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "proptest"))]
extern crate std;

pub mod bits;
pub mod cache;
pub mod context;
pub mod dispatch;
pub mod expert;
#[cfg(feature = "f32")]
pub mod float;
pub mod lead;
pub mod level;
pub mod metrics;
pub mod num;
pub mod phase;
mod pieces;
pub mod placement;
pub mod recall;
pub mod replace;
pub mod router;
pub mod select;
pub mod set;
pub mod shares;
#[cfg(any(test, feature = "proptest"))]
pub mod testing;
pub mod topk;
pub mod tracker;

pub use level::{Kalman, KalmanConfig, Levels, ScaledLevels, half_life};
pub use metrics::Metrics;
pub use num::{Angle, Eps, Gain, Gate, Level, LogRatio, Logit};
pub use phase::{Lock, Phase, PhaseConfig};
pub use router::{Router, RouterError};
pub use select::{Bounds, SelectError, Selection, select, select_by_pairs, select_in_place, select_jointly};
pub use set::{ExpertSet, Experts, words_for};
pub use tracker::{Step, Tracker, TrackerConfig};

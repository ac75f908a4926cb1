//! What operations of this crate should answer, by definition: in 64-bit floating point, or by trying everything.
//!
//! | here | what it is the definition of | fixed point differs by |
//! |---|---|---|
//! | [`exp_neg`], [`sigmoid`], [`acos`], [`log2_ratio`] | functions of [`num`](crate::num) | the errors there |
//! | [`Router`] | [`top_k`](crate::Router::top_k), [`weights`](crate::Router::weights) | close comparisons; 2^-22 |
//! | [`loss`], [`fewest_misses`] | what [`select`](crate::select()) promises | 1e-6 of the mass |
//! | [`Tracker`] | [`Tracker`](crate::Tracker), [`Phase`](crate::Phase), [`Kalman`](crate::Kalman) | docs/filter.md |
//! | [`distance`] | [`context::distance`](crate::context::distance) | 2^-20 |
//! | [`importance`] | [`placement::importance`](crate::placement::importance) | 1e-8 |
//! | [`rank`] | [`placement::rank`](crate::placement::rank) | nothing |
//! | [`dispatch`], [`makespan`] | [`dispatch`](crate::dispatch::dispatch) | the order of units: 4/3 of the makespan |
//! | [`split`] | [`bits::split`](crate::bits::split) | nothing |
//! | [`swap`] | [`replace::swap`](crate::replace::swap()) | nothing |
//! | [`matvec`] | [`expert::matvec`](crate::expert::matvec) | nothing |
//! | [`Recall`] | [`Recall`](crate::recall::Recall) | close places |
//! | [`companions`] | [`Companions`](crate::recall::Companions) | 1e-6 |

mod decide;
mod number;
mod recall;
mod router;
mod tracker;

pub use decide::{dispatch, distance, importance, makespan, matvec, rank, split, swap};
pub use number::{acos, exp_neg, log2_ratio, sigmoid};
pub use recall::{Recall, companions};
pub use router::{Router, fewest_misses, log_score, loss};
pub use tracker::Tracker;

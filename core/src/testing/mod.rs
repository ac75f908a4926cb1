//! For the tests of what is built on this crate, behind the feature `proptest`: [`strategies`] draw values of all its
//! types, and [`oracle`] says what its operations should answer, in 64-bit floating point or by trying everything.
//!
//! The unit tests of this crate use the same. Needs the standard library, and never links into firmware.
//!
//! A selection that spends its budget once for each stand-in instead of once for the token, and how it is found out:
//!
//! ```
//! use cptr_core::router::Router;
//! use cptr_core::testing::{oracle, strategies};
//! use cptr_core::{Eps, ExpertSet, Logit, select};
//! use proptest::prelude::*;
//! use proptest::test_runner::TestRunner;
//!
//! type Select = fn(Eps, &[Logit], &[u16], &ExpertSet<1>) -> Vec<u16>;
//!
//! /// The fault: each missing expert is replaced as if it were the only one.
//! fn faulty(eps: Eps, logits: &[Logit], wanted: &[u16], resident: &ExpertSet<1>) -> Vec<u16> {
//!     let (mut chosen, mut free) = (wanted.to_vec(), *resident);
//!     wanted.iter().for_each(|&expert| _ = free.remove(expert));
//!     for (rank, &old) in wanted.iter().enumerate().filter(|&(_, &old)| !resident.contains(old)) {
//!         let best = free.iter().max_by_key(|&expert| logits.get(usize::from(expert)).copied());
//!         let Some(new) = best.filter(|&expert| usize::from(expert) < logits.len()) else { continue };
//!         let one = wanted.iter().map(|&expert| if expert == old { new } else { expert }).collect::<Vec<_>>();
//!         if oracle::loss(&Router::mixtral(), logits, wanted, &one) <= eps.to_num::<f64>() {
//!             chosen[rank] = new;
//!             free.remove(new);
//!         }
//!     }
//!     chosen
//! }
//!
//! fn sound(eps: Eps, logits: &[Logit], wanted: &[u16], resident: &ExpertSet<1>) -> Vec<u16> {
//!     select::<2>(&Router::mixtral(), eps, 0, logits, wanted, resident).unwrap().experts.to_vec()
//! }
//!
//! let holds = |select: Select| {
//!     let inputs = (strategies::logits(8), strategies::expert_set::<1>(8), strategies::eps());
//!     TestRunner::deterministic().run(&inputs, |(logits, resident, eps)| {
//!         let wanted = Router::mixtral().top_k::<2>(&logits).unwrap();
//!         let chosen = select(eps, &logits, &wanted, &resident);
//!         let loss = oracle::loss(&Router::mixtral(), &logits, &wanted, &chosen);
//!         prop_assert!(loss <= eps.to_num::<f64>() + 1e-6, "{} of {}", loss, eps);
//!         Ok(())
//!     })
//! };
//! assert!(holds(sound).is_ok());
//! assert!(holds(faulty).is_err());
//! ```

pub mod oracle;
pub mod strategies;

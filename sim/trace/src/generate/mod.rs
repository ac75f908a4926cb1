//! Traces made from others, and traces made to look like a model whose own are not public.
//!
//! ```
//! use cptr_trace::generate::mixtral::{LIKE, generate};
//!
//! let (trace, checks) = generate(LIKE[0], 4, 8, 1);
//! assert_eq!(trace.shape.tokens, 12);
//! assert!(!checks.is_empty());
//! ```

pub mod join;
pub mod mixtral;
pub mod piecewise;
mod random;

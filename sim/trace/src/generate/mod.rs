//! Traces made from others, and traces made to look like a model whose own are not public.

pub mod join;
pub mod mixtral;

//! The native format.

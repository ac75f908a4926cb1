//! Streams of requests through one memory channel: where they come from, how long they take, and pictures of the
//! command bus.
//!
//! The model of the channel is [`cptr_hw_model::dram`]; here are the files around it.

pub mod draw;
pub mod run;
pub mod stream_file;
pub mod timeline;

//! Faults on the way between host and device: whatever is lost, doubled, late, cut off, held up or changed, and
//! whenever the device or the host starts anew, every token is decided once, and as it is without faults.
//!
//! A fault is one of these; several may meet one request. A turn is one attempt of the host: send, wait, look. Behind
//! the last fault a request is answered within two turns.
#![cfg(not(loom))]

mod conversation;
mod line;
mod memory;

use conversation::{EXPERTS, LAYERS, QUEUES, TOKENS, run};
use cptr_protocol::{Controller, Layer, Uncounted, Untimed, wire};

/// The controller under test, on its first day.
pub(crate) type Engine = Controller<'static, Untimed, Uncounted, EXPERTS, 1>;

pub(crate) fn engine(generation: u32) -> Engine {
    let layers = Box::leak(Box::new([const { Layer::new() }; LAYERS]));
    let answers = Box::leak(vec![0; QUEUES * wire::max_answer_of(EXPERTS, TOKENS)].into_boxed_slice());
    Controller::new(layers, answers, Untimed::default(), Uncounted).with_tokens(TOKENS).with_generation(generation)
}

#[test]
fn ten_thousand_faults_on_a_line() {
    println!("{}", run(line::new(), line::new(), 10_000, 1));
}

#[test]
fn ten_thousand_faults_in_shared_memory() {
    println!("{}", run(memory::new(), memory::new(), 10_000, 2));
}

#[test]
#[ignore = "half a minute; cargo xtask test --full runs it"]
fn a_million_faults() {
    std::thread::scope(|scope| {
        scope.spawn(|| println!("{}", run(line::new(), line::new(), 500_000, 3)));
        scope.spawn(|| println!("{}", run(memory::new(), memory::new(), 500_000, 4)));
    });
}

//! A near-data controller on an emulated board: serves the descriptors of a host over the serial port, for ever.
//!
//! The engine is `cptr-protocol`; this image is its memory, the board and the main loop.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
#[cfg(all(feature = "defmt", target_os = "none"))]
mod log;

use cptr_core::Logit;
use cptr_protocol::{Controller, Layer, Serial, Untimed, serial, serve, wire, words_for};

cptr_rt::entry!(image);

/// Layers and experts per layer that there is memory for: 2.5 KiB a layer, and 1 KiB for the bias of its router.
const LAYERS: usize = 64;
const EXPERTS: usize = 256;
const REQUEST: usize = wire::max_request(EXPERTS);
const ANSWER: usize = wire::max_answer(EXPERTS);

static mut MEMORY: [Layer<EXPERTS, { words_for(EXPERTS) }>; LAYERS] = [const { Layer::new() }; LAYERS];

static mut BIAS: [Logit; LAYERS * EXPERTS] = [Logit::ZERO; LAYERS * EXPERTS];

fn image() -> bool {
    let (memory, bias) = (&raw mut MEMORY, &raw mut BIAS);
    // SAFETY: this function is called once, and nobody else names the memory.
    let (layers, bias) = unsafe { (&mut *memory, &mut *bias) };
    let (mut incoming, mut answer, mut outgoing) = ([0; REQUEST], [0; ANSWER], [0; serial::encoded(ANSWER)]);
    let mut controller = Controller::new(layers, Untimed::default(), board::Counter).with_bias(bias);
    let mut mailbox = Serial::new(board::Port::default(), &mut incoming, &mut answer, &mut outgoing);
    // The port cannot fail.
    let _ = serve(&mut controller, &mut mailbox, &mut board::Dog::start());
    false
}

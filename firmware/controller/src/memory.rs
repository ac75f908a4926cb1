//! The controller's memory: how many layers and experts there are places for, here and nowhere else.

use cptr_core::Logit;
use cptr_protocol::{Controller, Layer, Untimed, wire, words_for};

use crate::board::Counter;

/// Layers and experts per layer that there is memory for: 2.5 KiB a layer, and 1 KiB for the bias of its router.
const LAYERS: usize = 64;
const EXPERTS: usize = 256;
/// Words of a set of experts.
const WORDS: usize = words_for(EXPERTS);
/// Bytes of the longest request and answer.
pub(crate) const REQUEST: usize = wire::max_request(EXPERTS);
pub(crate) const ANSWER: usize = wire::max_answer(EXPERTS);

static mut MEMORY: [Layer<EXPERTS, WORDS>; LAYERS] = [const { Layer::new() }; LAYERS];

static mut BIAS: [Logit; LAYERS * EXPERTS] = [Logit::ZERO; LAYERS * EXPERTS];

/// The engine, with memory for the answers of its queues.
///
/// # Safety
/// To be called once.
pub(crate) unsafe fn engine(answers: &mut [u8]) -> Controller<'_, Untimed, Counter, EXPERTS, WORDS> {
    let (memory, bias) = (&raw mut MEMORY, &raw mut BIAS);
    // SAFETY: nobody else names the memory, and the caller is here once.
    let (layers, bias) = unsafe { (&mut *memory, &mut *bias) };
    Controller::new(layers, answers, Untimed::default(), Counter).with_bias(bias)
}

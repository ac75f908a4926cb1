//! The controller's memory: how many layers and experts there are places for, and how large an expert may be that runs
//! here; here and nowhere else.

use cptr_core::Logit;
use cptr_core::expert::{ActivationGroup, Scratch, Workspace};
use cptr_protocol::{Controller, Kernels, Layer, wire, words_for};

use crate::board::Counter;

/// Layers and experts per layer that there is memory for: 2.5 KiB a layer, and 1 KiB for the bias of its router.
const LAYERS: usize = 64;
const EXPERTS: usize = 256;
/// Most tokens of a request: each takes 1.3 KiB for it, and 0.8 for its answer in each queue.
const TOKENS: usize = 4;
/// Most inputs of an expert, and rows of its first two matrices, that there is a workspace for: 11 bytes for each.
const INPUTS: usize = 1024;
const INNER: usize = 1024;
/// Columns of the smallest group.
const GROUP: usize = 32;
/// Words of a set of experts.
const WORDS: usize = words_for(EXPERTS);
/// Bytes of the longest request and answer.
pub(crate) const REQUEST: usize = wire::max_request_of(EXPERTS, TOKENS);
pub(crate) const ANSWER: usize = wire::max_answer_of(EXPERTS, TOKENS);

/// What a job needs while it runs.
struct Buffers {
    values: [i64; INPUTS],
    codes: [i16; INPUTS],
    groups: [ActivationGroup; INPUTS / GROUP],
    hidden: [i64; INNER],
    hidden_codes: [i16; INNER],
    hidden_groups: [ActivationGroup; INNER / GROUP],
}

impl Buffers {
    const fn new() -> Self {
        let (groups, hidden_groups) = ([ActivationGroup::NONE; INPUTS / GROUP], [ActivationGroup::NONE; INNER / GROUP]);
        let (codes, hidden_codes) = ([0; INPUTS], [0; INNER]);
        Self { values: [0; INPUTS], codes, groups, hidden: [0; INNER], hidden_codes, hidden_groups }
    }

    const fn workspace(&mut self) -> Workspace<'_> {
        let Self { values, codes, groups, hidden, hidden_codes, hidden_groups } = self;
        Workspace { values, codes, groups, scratch: Scratch { hidden, codes: hidden_codes, groups: hidden_groups } }
    }
}

static mut MEMORY: [Layer<EXPERTS, WORDS>; LAYERS] = [const { Layer::new() }; LAYERS];

static mut BIAS: [Logit; LAYERS * EXPERTS] = [Logit::ZERO; LAYERS * EXPERTS];

static mut BUFFERS: Buffers = Buffers::new();

/// The engine, with memory for the answers of its queues.
///
/// # Safety
/// To be called once.
pub(crate) unsafe fn engine(answers: &mut [u8]) -> Controller<'_, Kernels<'static>, Counter, EXPERTS, WORDS> {
    let (memory, bias, buffers) = (&raw mut MEMORY, &raw mut BIAS, &raw mut BUFFERS);
    // SAFETY: nobody else names the memory, and the caller is here once.
    let (layers, bias, buffers, data) = unsafe { (&mut *memory, &mut *bias, &mut *buffers, cptr_rt::data()) };
    let controller = Controller::new(layers, answers, Kernels::new(data, buffers.workspace()), Counter);
    controller.with_tokens(TOKENS).with_bias(bias)
}

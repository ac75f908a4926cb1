//! The wire format: frames of a header, a descriptor with its arrays, and a checksum. Everything is little-endian;
//! nothing needs alignment.
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | `u16` magic | [`MAGIC`] |
//! | 2 | `u8` version | [`VERSION`] |
//! | 3 | `u8` kind | a [`Command`]; in its answer 128 more |
//! | 4 | `u32` session | the host's session; the answer has the request's |
//! | 8 | `u32` sequence | one more than in the last request of its queue that was done; the answer has the request's |
//! | 12 | `u16` length | bytes of the body |
//! | 14 | `u8` status | 0 in requests; a [`Status`] in answers, whose body is empty if it is not 0 |
//! | 15 | `u8` queue | the queue that the request is of; the answer has the request's |
//! | 16 | body | descriptor, then its arrays in the order of their documentation |
//! | 16 + length | `u32` | CRC-32/ISCSI (Castagnoli) of everything before, or 0 ([`Integrity`]) |
//!
//! # Exactly once
//! A host has at most one request on its way in each queue. It asks again, with the same bytes, until it has the
//! answer: the device does what is asked once, and gives the same answer, bit for bit, each time. [`Command::Reset`]
//! begins a session, whose number is higher than that of the one before (modulo 2^32); from there on everything of
//! other sessions is refused. In a session the first request of each queue has sequence number 1. [`judge`] is what a
//! host makes of a frame that comes back.

mod frame;
mod judge;
mod router;

use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use frame::{Body, Frame, Head, Integrity, Writer};
pub use judge::{Verdict, judge, judge_from};

/// First two bytes of every frame: "cp".
pub const MAGIC: u16 = 0x7063;
/// Version of this format; another one is refused.
pub const VERSION: u8 = 4;
/// Most experts per layer that a descriptor may speak of.
pub const MAX_EXPERTS: usize = 512;
/// Most experts per token.
pub const MAX_K: usize = 64;
/// Bytes around the body.
pub const OVERHEAD: usize = size_of::<Header>() + 4;
/// Added to the kind of a request in its answer.
pub const ANSWER: u8 = 128;
/// No expert: nobody has to go for the one that is loaded.
pub const NOBODY: u16 = u16::MAX;
/// Most loads that a token may say something of.
pub const MAX_LOADS: usize = 64;
/// Most tokens of a request.
pub const MAX_TOKENS: usize = 16;
/// Words of a part of a layer's state.
pub const PART: usize = 64;
/// Bytes of a line of the device's memory; places in it are numbers of lines.
pub const LINE: usize = 64;
/// All layers, where a layer is named.
pub const ALL_LAYERS: u16 = u16::MAX;

/// What a request asks for.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Empty body; answered by [`Identity`]. In any session and with any sequence number.
    Identify = 1,
    /// [`Reset`]: forget everything, as after the start, and begin the session of the frame, which is not 0 and higher
    /// than the one before. On queue 0, with sequence number 0.
    Reset = 2,
    /// [`Configure`]: once after a reset, before everything else.
    Configure = 3,
    /// [`Prefill`]: what one token of the prompt chose in one layer, where experts are placed. Until the next [`Place`]
    /// the layer tracks no tokens.
    Prefill = 4,
    /// [`Place`]: which experts of a layer are hot, from the prefill; answered by `u16` ids.
    Place = 5,
    /// [`Token`]: choose and dispatch the experts of a token in a layer; answered by a [`Decision`]. Or several of
    /// them, at most [`Identity::tokens`], of one sequence or of several, each but the last filled up with zeros to 4
    /// bytes: they are decided in order, as if they came one by one. The answer has a decision for each that is done,
    /// up to the first that cannot be; the request is refused if that is the first of all.
    Token = 6,
    /// `u16` layer or [`ALL_LAYERS`]; answered by [`Counters`].
    Counters = 7,
    /// [`Bias`]: the bias of a layer's router, where the configuration says that there is one; before the first
    /// [`Token`] of the layer, and again whenever it changes.
    Bias = 8,
    /// Empty body; answered by [`Event`]s, as many as there are and fit, which are told once.
    Events = 9,
    /// [`Part`]: a part of a layer's state; answered by at most [`PART`] words.
    Snapshot = 10,
    /// [`Part`], then its words: puts a part of a layer's state back, all parts in order. Until the last one the layer
    /// decides nothing.
    Restore = 11,
    /// [`Write`], then whole lines for the device's memory; nothing else is touched. For hosts that cannot write there
    /// themselves.
    Write = 12,
    /// [`Read`]; answered by whole lines of the device's memory.
    Read = 13,
}

impl TryFrom<u8> for Command {
    type Error = Status;

    fn try_from(kind: u8) -> Result<Self, Status> {
        use Command::{
            Bias, Configure, Counters, Events, Identify, Place, Prefill, Read, Reset, Restore, Snapshot, Token, Write,
        };
        let all =
            [Identify, Reset, Configure, Prefill, Place, Token, Counters, Bias, Events, Snapshot, Restore, Write, Read];
        all.into_iter().find(|&command| command as u8 == kind).ok_or(Status::Command)
    }
}

/// How a request went. Everything but [`Done`](Self::Done) has changed nothing.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// As asked.
    Done = 0,
    /// The frame is cut off, its checksum or magic is wrong.
    Frame = 1,
    /// Another version of this format.
    Version = 2,
    /// No such command.
    Command = 3,
    /// The sequence number is neither the next one of its queue nor that of the last request come again.
    Sequence = 4,
    /// Lengths do not agree: of the frame, of an array with the configuration, or with the memory for the answer.
    Length = 5,
    /// The command cannot come now: nothing configured yet, configured already, nothing placed, no prefill to place
    /// from, a prefill where experts are loaded on demand, a bias where there is none, a token before its layer's bias.
    Order = 6,
    /// No such layer.
    Layer = 7,
    /// An expert is out of range or stands twice.
    Id = 8,
    /// A value is out of its range, or a reserved field is not 0.
    Value = 9,
    /// More layers, experts, experts per token or biases than there is memory for.
    Capacity = 10,
    /// The queue to the execution units has no room, or events wait to be taken; the same request later may succeed.
    Busy = 11,
    /// The device has no session of that number: it has started anew, another session has begun since, or a reset is
    /// of one that is over.
    Session = 12,
}

impl Status {
    /// The status of a number; `None` for unknown ones.
    pub fn from_number(number: u8) -> Option<Self> {
        use Status::{
            Busy, Capacity, Command, Done, Frame, Id, Layer, Length, Order, Sequence, Session, Value, Version,
        };
        let all = [Done, Frame, Version, Command, Sequence, Length, Order, Layer, Id, Value, Capacity, Busy, Session];
        all.into_iter().find(|&status| status as u8 == number)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Frame => "the frame is damaged",
            Self::Version => "another version of the protocol",
            Self::Command => "no such command",
            Self::Sequence => "a frame was lost or came late",
            Self::Length => "lengths do not agree",
            Self::Order => "the command cannot come now",
            Self::Layer => "no such layer",
            Self::Id => "an expert is out of range or stands twice",
            Self::Value => "a value is out of its range",
            Self::Capacity => "the controller has no memory for so many layers or experts",
            Self::Busy => "the queue to the execution units is full, or events wait to be taken",
            Self::Session => "the session is over",
        })
    }
}

impl core::error::Error for Status {}

macro_rules! descriptors {
    ($($(#[doc = $doc:expr])* struct $name:ident { $($(#[doc = $about:expr])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
            #[repr(C)]
            pub struct $name { $($(#[doc = $about])* pub $field: $type,)* }
        )*

        /// All descriptors, for whoever writes them down in another language.
        pub const LAYOUT: &[Descriptor] = &[$(Descriptor {
            name: stringify!($name),
            bytes: size_of::<$name>(),
            about: &[$($doc),*],
            fields: &[$(Field {
                name: stringify!($field),
                kind: stringify!($type),
                offset: core::mem::offset_of!($name, $field),
                about: &[$($about),*],
            }),*],
        }),*];
    };
}

/// A structure of this format.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// Its name here.
    pub name: &'static str,
    /// Its size.
    pub bytes: usize,
    /// Lines of its documentation.
    pub about: &'static [&'static str],
    /// Its fields, in order.
    pub fields: &'static [Field],
}

/// A field of a [`Descriptor`].
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type here: `u8`, `U16`, `U32`, `U64`, or an array of them.
    pub kind: &'static str,
    /// Bytes before it.
    pub offset: usize,
    /// Lines of its documentation.
    pub about: &'static [&'static str],
}

descriptors! {
    /// Start of a frame, 16 bytes.
    struct Header {
        /// [`MAGIC`].
        magic: U16,
        /// [`VERSION`].
        version: u8,
        /// [`Command`], 128 more in its answer.
        kind: u8,
        /// Session.
        session: U32,
        /// Number of the request.
        sequence: U32,
        /// Bytes of the body.
        length: U16,
        /// [`Status`].
        status: u8,
        /// Queue.
        queue: u8,
    }

    /// What a controller can hold, 24 bytes.
    struct Identity {
        /// Most layers.
        layers: U16,
        /// Most experts per layer.
        experts: U16,
        /// Most experts per token.
        k: u8,
        /// 1 if it counts instructions.
        counts: u8,
        /// Jobs that may wait for the execution units.
        jobs: U16,
        /// The session; 0: none has begun since the start.
        session: U32,
        /// Another one after each start; [`Reset`] names it.
        generation: U32,
        /// Lines of memory for activations, replicas and results that hosts can write and read.
        lines: U32,
        /// Queues.
        queues: u8,
        /// Most tokens of a request, 1 to [`MAX_TOKENS`].
        tokens: u8,
        /// 0.
        reserved: [u8; 2],
    }

    /// 4 bytes.
    struct Reset {
        /// [`Identity::generation`]: a reset that was on its way when the device started anew is none any more.
        generation: U32,
    }

    /// Model and policy, 60 bytes. The router is that of `cptr_core::router`, where every field is explained.
    struct Configure {
        /// Layers, at least 1.
        layers: U16,
        /// Experts per layer, at least 1, null experts included.
        experts: U16,
        /// Experts per token, 1 to the experts of a layer; most of them, where `count` is not 0.
        k: u8,
        /// Best experts that are always chosen.
        keep: u8,
        /// What a logit is worth: 0 softmax over all, 1 softmax over the chosen, 2 sigmoid, 3 square root of softplus,
        /// 4 sparse mixer.
        score: u8,
        /// 0: experts stay where a [`Place`] has put them. 1: those that a token misses are loaded, in place of the
        /// tracked context's victim.
        on_demand: u8,
        /// Experts per layer in fast memory, 1 to the experts of a layer.
        capacity: U16,
        /// Bits per weight near the data of experts that nobody has placed, 1 to 16.
        bits: u8,
        /// Evidence that loses lock, at least 1.
        threshold: u8,
        /// Share of the routing mass that a token may lose in a layer, 2^-32; 0 is the raw router.
        eps: U32,
        /// Whether `error` is a bound (1) or ignored (0).
        bounds_error: u8,
        /// Where a bias is added: 0 there is none, 1 to the scores and 2 to the logits, for the choice alone, 3 to the
        /// logits. It comes by [`Bias`].
        bias_place: u8,
        /// Groups of experts, 1 to 32; they divide the experts.
        groups: u8,
        /// Groups that take part, 1 to `groups`.
        top_groups: u8,
        /// Estimated error of a layer's output that is allowed, 2^-32 of an expert's output.
        error: U32,
        /// Steady gain of the slow level, 2^-32.
        slow: U32,
        /// Gain after a loss of lock, 2^-32.
        reopened: U32,
        /// Gain of the fast level, 2^-32.
        fast: U32,
        /// How groups are rated: 0 by their best score, 1 by the sum of their two best.
        group_rating: u8,
        /// Whether mixing weights are renormalised (1).
        renormalise: u8,
        /// Whether the experts come from a table (1): every [`Token`] brings them.
        table: u8,
        /// How many experts a token gets: 0 k, 1 those that have the share `bound`, 2 those whose score is above
        /// `bound`.
        count: u8,
        /// 2^-32 (share) or 2^-31 (score); 0 where `count` is 0.
        bound: U32,
        /// Jitter of a sparse mixer, 2^-32; 0 of other scores.
        jitter: U32,
        /// What the mixing weights are multiplied with in the end, 2^-24, above 0. A [`Run`]'s weight is without it: it
        /// can be applied to the sum.
        scale: U32,
        /// How many experts, the last ones, stand for doing nothing: they run on the GPU, at no cost.
        null_experts: U16,
        /// Whether jobs that end are told as [`Event`]s (1); then a host has to take them.
        events: u8,
        /// 0.
        reserved: u8,
        /// The line where the packed experts begin (`cptr_core::expert::Replicas`); 0: there are none, and jobs give no
        /// results.
        replicas: U32,
    }

    /// 4 bytes, then `experts` `i32` biases (2^-16).
    struct Bias {
        /// Layer.
        layer: U16,
        /// The configured experts per layer.
        experts: U16,
    }

    /// 4 bytes, then `count` `u16` ids and, if `weighted`, `count` `u32` mixing weights (2^-31).
    struct Prefill {
        /// Layer.
        layer: U16,
        /// Experts that the token chose, at most the configured k.
        count: u8,
        /// Whether weights follow (1), or every choice counts as 1 (0).
        weighted: u8,
    }

    /// 16 bytes.
    struct Place {
        /// Layer.
        layer: U16,
        /// Hot experts, at most the capacity.
        hot: U16,
        /// Share of the counts in the importance, 2^-32; the rest is the share of the weights.
        alpha: U32,
        /// How many of the other experts get 1, 2, 3 and 4 bits, the most important the most: all others together. Or
        /// all 0: the others keep the configured bits.
        split: [U16; 4],
    }

    /// 16 bytes, then `experts` `i32` logits (2^-16), `wanted` `u16` ids, best first, and `loaded` and `failed` `u16`
    /// ids of experts that [`Load`]s of the layer have named.
    struct Token {
        /// Layer.
        layer: U16,
        /// The configured experts per layer.
        experts: U16,
        /// The configured k (up to it, where a token may get fewer): the model's own choice follows; or 0: the
        /// controller chooses.
        wanted: u8,
        /// Whether the token starts a sequence (1) or has a predecessor (0).
        starts_sequence: u8,
        /// Loads of the layer that are done: these experts are resident from here on, for this token too.
        loaded: u8,
        /// Loads of the layer that have failed, or were not begun: nobody waits for them any more.
        failed: u8,
        /// The line where the layer's input begins, numbers of single precision, for experts that run near the data.
        /// It has to stay there until they are done. Without replicas it means nothing, and neither does `result`.
        activation: U32,
        /// The line where results go, in single precision and times [`Run::weight`]: that of run `r` in whole lines,
        /// behind those of the runs before it, whether these are near the data or not.
        result: U32,
    }

    /// 16 bytes, then `runs` [`Run`]s and `loads` [`Load`]s.
    struct Decision {
        /// Layer.
        layer: U16,
        /// Experts to run, as many as are wanted.
        runs: u8,
        /// How many of them stand in for a wanted one.
        substituted: u8,
        /// Experts to load for later tokens. They count as resident when a [`Token`] says that they are there; who
        /// makes room has gone at once.
        loads: u8,
        /// Events that wait to be taken, at most 255.
        events: u8,
        /// The device's number of this token: events of its jobs name it.
        turn: U16,
        /// Instructions of the choice alone, 0 where they are not counted.
        select_instructions: U32,
        /// Instructions from the checked frame to the answer.
        decide_instructions: U32,
    }

    /// An expert that runs, 8 bytes.
    struct Run {
        /// Its id in the layer.
        expert: U16,
        /// Bits per weight near the data; 0: on the GPU.
        bits: u8,
        /// Whether it stands in for a wanted expert (1).
        stand_in: u8,
        /// Mixing weight before the router's scale, 2^-31.
        weight: U32,
    }

    /// An expert to copy into fast memory, 4 bytes.
    struct Load {
        /// Its id in the layer.
        expert: U16,
        /// Who makes room, or [`NOBODY`].
        victim: U16,
    }

    /// What came of a job, 8 bytes.
    struct Event {
        /// 1: it is done, 2: it has failed, 3: the unit has not ended it in time. Of the last two there is no result.
        kind: u8,
        /// Bits per weight that it ran at.
        bits: u8,
        /// [`Decision::turn`] of its token.
        turn: U16,
        /// Layer.
        layer: U16,
        /// Expert.
        expert: U16,
    }

    /// 4 bytes, then whole lines.
    struct Write {
        /// The first line.
        line: U32,
    }

    /// 8 bytes.
    struct Read {
        /// The first line.
        line: U32,
        /// How many, at least 1.
        lines: U16,
        /// 0.
        reserved: U16,
    }

    /// Which words of a layer's state, 4 bytes.
    struct Part {
        /// Layer.
        layer: U16,
        /// Number of the part, from 0.
        part: U16,
    }

    /// What was counted since the configuration, 104 bytes. All saturate.
    struct Counters {
        /// Tokens, once per layer.
        tokens: U64,
        /// Experts run.
        runs: U64,
        /// Of those, not resident.
        misses: U64,
        /// Of those, stand-ins.
        substituted: U64,
        /// Experts run by tokens with a predecessor.
        runs_with_predecessor: U64,
        /// Of those, experts that the predecessor did not run.
        switches: U64,
        /// Losses of lock.
        lost_locks: U64,
        /// Instructions of all choices, all layers together, as the two below; 0 where they are not counted.
        select_instructions: U64,
        /// Instructions from checked frames to answers.
        decide_instructions: U64,
        /// Instructions of all updates.
        update_instructions: U64,
        /// Jobs that the execution units have ended, all layers together.
        jobs: U64,
        /// Jobs not finished yet.
        outstanding: U32,
        /// Requests refused, since the start.
        refused: U32,
        /// Jobs among those ended that have failed or took too long.
        failed: U32,
        /// Requests that came again and got the answer that was kept, since the start.
        repeated: U32,
    }
}

/// Bytes of the longest request for layers of `experts` experts.
pub const fn max_request(experts: usize) -> usize {
    max_request_of(experts, 1)
}

/// [`max_request`] of so many tokens.
pub const fn max_request_of(experts: usize, tokens: usize) -> usize {
    let token = size_of::<Token>() + 4 * experts + 2 * (MAX_K + MAX_LOADS);
    let prefill = size_of::<Prefill>() + 6 * MAX_K;
    OVERHEAD + if tokens * token > prefill { tokens * token } else { prefill }
}

/// Bytes of the longest answer for layers of `experts` experts.
pub const fn max_answer(experts: usize) -> usize {
    max_answer_of(experts, 1)
}

/// [`max_answer`] of so many tokens.
pub const fn max_answer_of(experts: usize, tokens: usize) -> usize {
    let decision = tokens * (size_of::<Decision>() + MAX_K * (size_of::<Run>() + size_of::<Load>()));
    OVERHEAD + if 2 * experts > decision { 2 * experts } else { decision }
}

/// Lines that a request and an answer hold at most.
pub const fn max_lines(experts: usize) -> usize {
    let written = (max_request(experts) - OVERHEAD - size_of::<Write>()) / LINE;
    let read = (max_answer(experts) - OVERHEAD) / LINE;
    if written < read { written } else { read }
}

/// Events that an answer holds at most.
pub const fn max_events(experts: usize) -> usize {
    (max_answer(experts) - OVERHEAD) / size_of::<Event>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_table() {
        assert_eq!((size_of::<Header>(), size_of::<Identity>(), size_of::<Configure>()), (16, 24, 60));
        assert_eq!((size_of::<Prefill>(), size_of::<Place>(), size_of::<Token>()), (4, 16, 16));
        assert_eq!((size_of::<Decision>(), size_of::<Run>(), size_of::<Load>()), (16, 8, 4));
        assert_eq!((size_of::<Counters>(), size_of::<Bias>()), (104, 4));
        assert_eq!((size_of::<Event>(), size_of::<Part>()), (8, 4));
        assert_eq!((size_of::<Write>(), size_of::<Read>()), (4, 8));
    }

    #[test]
    fn statuses_and_commands_survive_their_numbers() {
        for number in 0..=u8::MAX {
            assert!(Status::from_number(number).is_none_or(|status| status as u8 == number));
            assert!(Command::try_from(number).is_ok_and(|c| c as u8 == number) == (1..=13).contains(&number));
        }
        assert_eq!((0..=u8::MAX).filter(|&number| Status::from_number(number).is_some()).count(), 13);
    }
}

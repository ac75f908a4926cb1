//! The script that the testbench of the hardware unit follows: words of 32 bits, what to do and what must come of it.

use std::io::{self, Write};

/// Words of the script, in the order of `firmware/rtl/unit/testbench.cpp`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    End,
    Write,
    Read,
    Stream,
    Expect,
    Idle,
    Reset,
    Cycles,
    Stalls,
    Label,
    Silent,
    Report,
}

/// Registers, by word; docs/unit.md has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    Name,
    Sizes,
    Status,
    Error,
    Doorbell,
    Experts,
    Chosen,
    Router,
    KeepTop,
    Capacity,
    EpsMass,
    EpsError,
    Process,
    Reopened,
    FastGain,
    Phase,
    Acquire,
    RecallShape,
    RecallTokens,
    RecallPlaces,
    Cycles,
    Snr,
    Angle,
    Lock,
    Found,
    NextLayer,
    Address,
    Data,
    RecallSizes,
    Groups,
}

/// Commands of the doorbell; a layer is in the upper half.
pub(super) mod command {
    pub(crate) const SELECT: u32 = 1;
    pub(crate) const LIST: u32 = 2;
    pub(crate) const END: u32 = 3;
    pub(crate) const CLEAR_LAYER: u32 = 4;
    pub(crate) const CLEAR_RECALL: u32 = 5;
    pub(crate) const ABORT: u32 = 6;
    pub(crate) const APPLY: u32 = 1 << 4;
    pub(crate) const LEARN: u32 = 1 << 5;
    pub(crate) const OBSERVE: u32 = 1 << 6;
}

/// Bits of the error register.
pub(super) mod error {
    pub(crate) const BUSY: u32 = 1;
    pub(crate) const RANGE: u32 = 1 << 1;
    pub(crate) const REFUSED: u32 = 1 << 2;
    pub(crate) const COMMAND: u32 = 1 << 3;
    pub(crate) const SHORT: u32 = 1 << 4;
    pub(crate) const LONG: u32 = 1 << 5;
    pub(crate) const ABORTED: u32 = 1 << 6;
    pub(crate) const ORDER: u32 = 1 << 7;
    pub(crate) const UNKNOWN: u32 = 1 << 8;
    pub(crate) const ID: u32 = 1 << 9;
}

/// What the window shows, by the upper four bits of its address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Space {
    Levels,
    State,
    Residents,
    Means,
    Signatures,
    Distances,
    Recall,
    Biases,
}

/// Writes a script; after an error nothing more is written, and the testbench says what was wrong.
pub(super) struct Script<W: Write> {
    to: W,
    state: io::Result<()>,
    steps: u32,
}

impl<W: Write> Script<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, state: Ok(()), steps: 0 }
    }

    fn put(&mut self, word: u32) {
        if self.state.is_ok() {
            self.state = self.to.write_all(&word.to_ne_bytes());
        }
    }

    fn words(&mut self, words: impl IntoIterator<Item = u32>) {
        words.into_iter().for_each(|word| self.put(word));
    }

    fn all(&mut self, word: Word, rest: &[u32]) {
        self.put(word as u32);
        self.words(rest.iter().copied());
    }

    /// Numbers what follows, for messages; returns the number.
    pub(super) fn step(&mut self) -> u32 {
        self.steps += 1;
        self.all(Word::Label, &[self.steps]);
        self.steps
    }

    pub(super) fn write(&mut self, register: Register, value: u32) {
        self.all(Word::Write, &[(register as u32) << 2, value]);
    }

    pub(super) fn read(&mut self, register: Register, expected: u32) {
        self.all(Word::Read, &[(register as u32) << 2, expected]);
    }

    /// Words of the stream, the last of which ends it if `last`.
    pub(super) fn stream(&mut self, words: &[u32], last: bool) {
        self.put(Word::Stream as u32);
        self.words([words.len() as u32, last.into()]);
        self.words(words.iter().copied());
    }

    /// The answer, to its end.
    pub(super) fn expect(&mut self, words: &[u32]) {
        self.put(Word::Expect as u32);
        self.put(words.len() as u32);
        self.words(words.iter().copied());
    }

    /// Waits until nothing goes on.
    pub(super) fn idle(&mut self) {
        self.all(Word::Idle, &[]);
    }

    pub(super) fn reset(&mut self) {
        self.all(Word::Reset, &[]);
    }

    pub(super) fn cycles(&mut self, cycles: u32) {
        self.all(Word::Cycles, &[cycles]);
    }

    /// How often stream and answers wait, in 256ths of cycles.
    pub(super) fn stalls(&mut self, stream: u32, answers: u32) {
        self.all(Word::Stalls, &[stream, answers]);
    }

    /// There is no answer now.
    pub(super) fn silent(&mut self) {
        self.all(Word::Silent, &[]);
    }

    /// Prints the cycles of the last request.
    pub(super) fn report(&mut self, kernel: u32, experts: usize, k: usize) {
        self.all(Word::Report, &[kernel, experts as u32, k as u32]);
    }

    /// A word that the window shows.
    pub(super) fn window(&mut self, space: Space, word: usize, expected: u32) {
        self.write(Register::Address, (space as u32) << 28 | word as u32);
        self.read(Register::Data, expected);
    }

    /// Writes a word through the window.
    pub(super) fn set(&mut self, space: Space, word: usize, value: u32) {
        self.write(Register::Address, (space as u32) << 28 | word as u32);
        self.write(Register::Data, value);
    }

    /// Clears errors, of which there are exactly these.
    pub(super) fn errors(&mut self, expected: u32) {
        self.read(Register::Error, expected);
        self.write(Register::Error, u32::MAX);
    }

    /// Ends the script.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.put(Word::End as u32);
        self.state?;
        self.to.flush()
    }
}

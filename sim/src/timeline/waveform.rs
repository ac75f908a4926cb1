//! Signals as a waveform (VCD, IEEE 1364), which GTKWave and others open. Times are picoseconds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use vcd::{IdCode, SimulationCommand, TimescaleUnit, Value, VarType, Writer};

use cptr_trace::error::Result;

/// Bits of a row number.
const ROW_BITS: u32 = 32;
/// What a signal with names shows when there is nothing to name.
pub const NOTHING: &str = "-";

/// Value of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A name; spaces are written as `_`.
    Name(Cow<'static, str>),
    /// An open row; high-impedance without one.
    Row(Option<u32>),
    /// A wire.
    Active(bool),
}

impl State {
    /// What a signal of names shows between them.
    pub const NOTHING: Self = Self::Name(Cow::Borrowed(NOTHING));

    const fn kind(&self) -> (VarType, u32) {
        match self {
            Self::Name(_) => (VarType::String, 1),
            Self::Row(_) => (VarType::Reg, ROW_BITS),
            Self::Active(_) => (VarType::Wire, 1),
        }
    }
}

#[derive(Debug)]
struct Signal {
    name: String,
    /// What it shows at first and where nothing else is said.
    idle: State,
}

/// Number of a signal in its waveform.
#[derive(Debug, Clone, Copy)]
pub struct SignalId(usize);

/// A waveform: scopes that hold signals.
#[derive(Debug)]
pub struct Waveform {
    comment: String,
    /// Name of each scope and the number of its first signal.
    scopes: Vec<(String, usize)>,
    signals: Vec<Signal>,
    /// Changes by time and signal.
    changes: BTreeMap<(u64, usize), State>,
}

impl Waveform {
    /// A waveform without signals.
    pub const fn new(comment: String) -> Self {
        Self { comment, scopes: Vec::new(), signals: Vec::new(), changes: BTreeMap::new() }
    }

    /// Opens a scope for the signals that follow.
    pub fn scope(&mut self, name: &str) {
        self.scopes.push((identifier(name), self.signals.len()));
    }

    /// Adds a signal that shows `idle` where nothing else is said; spaces in its name become `_`.
    pub fn signal(&mut self, name: &str, idle: State) -> SignalId {
        self.signals.push(Signal { name: identifier(name), idle });
        SignalId(self.signals.len() - 1)
    }

    /// `signal` shows `state` from `start_ps` to `end_ps`, unless something else starts before.
    pub fn show(&mut self, signal: SignalId, start_ps: u64, end_ps: u64, state: State) {
        let idle = self.signals[signal.0].idle.clone();
        self.changes.insert((start_ps, signal.0), state);
        self.changes.entry((end_ps, signal.0)).or_insert(idle);
    }

    /// Writes the waveform to `path`, whole or not at all.
    ///
    /// # Errors
    /// Any failed file operation.
    pub fn write(&self, path: &Path) -> Result<()> {
        cptr_trace::file::replace(path, |out| self.write_to(out))
    }

    fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut writer = Writer::new(out);
        writer.version(concat!("cptr ", env!("CARGO_PKG_VERSION")))?;
        writer.comment(&self.comment)?;
        writer.timescale(1, TimescaleUnit::PS)?;
        let mut ids = Vec::with_capacity(self.signals.len());
        for (index, (name, first)) in self.scopes.iter().enumerate() {
            let end = self.scopes.get(index + 1).map_or(self.signals.len(), |(_, next)| *next);
            writer.add_module(name)?;
            for signal in &self.signals[*first..end] {
                let (kind, bits) = signal.idle.kind();
                ids.push(writer.add_var(kind, bits, &signal.name, None)?);
            }
            writer.upscope()?;
        }
        writer.enddefinitions()?;
        writer.timestamp(0)?;
        writer.begin(SimulationCommand::Dumpvars)?;
        for (signal, &id) in self.signals.iter().zip(&ids) {
            change(&mut writer, id, &signal.idle)?;
        }
        writer.end()?;
        let mut time = 0;
        for (&(at, signal), state) in &self.changes {
            if at != time {
                writer.timestamp(at)?;
                time = at;
            }
            change(&mut writer, ids[signal], state)?;
        }
        Ok(())
    }
}

/// VCD separates by spaces.
fn identifier(name: &str) -> String {
    name.replace(char::is_whitespace, "_").replace(':', "")
}

fn change<W: Write>(writer: &mut Writer<W>, id: IdCode, state: &State) -> std::io::Result<()> {
    match state {
        State::Name(name) => writer.change_string(id, &identifier(name)),
        State::Row(None) => writer.change_vector(id, [Value::Z]),
        State::Row(Some(row)) => {
            writer.change_vector(id, (0..ROW_BITS).rev().map(|bit| Value::from(row >> bit & 1 == 1)))
        }
        State::Active(active) => writer.change_scalar(id, *active),
    }
}

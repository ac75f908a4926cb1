//! A timeline as a waveform (VCD, IEEE 1364), which GTKWave and others open. Times are real: picoseconds.
//!
//! Signals of the channel: `row_command` and `column_command` hold the name of the command on the bus, `-` while there is none. Each bank
//! has `…_row`, its open row, high-impedance while it is closed; `refresh` is 1 while a rank refreshes; `data` names what is on the
//! data wires.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use vcd::{IdCode, SimulationCommand, TimescaleUnit, Value, VarType, Writer};

use super::timeline::{Timeline, Track, What};
use crate::error::Result;

/// Bits of a row number.
const ROW_BITS: u32 = 32;
/// What a signal with names shows when there is nothing to name.
const NOTHING: &str = "-";

/// Value of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Name(&'static str),
    Row(Option<u32>),
    Active(bool),
}

/// A signal: what it is called and shows at first.
#[derive(Debug)]
struct Signal {
    name: String,
    kind: VarType,
    bits: u32,
    first: State,
}

/// Changes by cycle and signal.
type Changes = BTreeMap<(u64, usize), State>;

/// Writes the timeline to `path`, whole or not at all.
///
/// # Errors
/// Any failed file operation.
pub fn write(timeline: &Timeline, path: &Path) -> Result<()> {
    let (signals, changes) = signals(timeline);
    crate::file::replace(path, |out| write_to(timeline, &signals, &changes, out))
}

fn signals(timeline: &Timeline) -> (Vec<Signal>, Changes) {
    let names = |name: &str| Signal { name: name.into(), kind: VarType::String, bits: 1, first: State::Name(NOTHING) };
    let mut signals = vec![names("row_command"), names("column_command")];
    let mut changes = Changes::new();
    for &(cycle, length, command) in &timeline.commands {
        let signal = usize::from(command.kind.is_column());
        set(
            &mut changes,
            signal,
            cycle,
            cycle + u64::from(length),
            State::Name(command.kind.name()),
            State::Name(NOTHING),
        );
    }
    let mut add = |signal: Signal, track: &Track| {
        for slice in &track.slices {
            let state = match (slice.what, signal.first) {
                (What::Row, State::Row(_)) => State::Row(slice.row),
                (What::Command(kind), State::Active(_)) if kind.is_refresh() => State::Active(true),
                (What::Data(kind), State::Name(_)) => State::Name(kind.name()),
                _ => continue,
            };
            set(&mut changes, signals.len(), slice.start, slice.end, state, signal.first);
        }
        signals.push(signal);
    };
    let name = |track: &Track| track.name.replace(' ', "_");
    for track in &timeline.banks {
        add(Signal { name: name(track) + "_row", kind: VarType::Reg, bits: ROW_BITS, first: State::Row(None) }, track);
    }
    for track in &timeline.refresh {
        add(Signal { name: name(track), kind: VarType::Wire, bits: 1, first: State::Active(false) }, track);
    }
    for track in &timeline.data {
        add(names(&name(track)), track);
    }
    (signals, changes)
}

/// `signal` shows `state` from `start` to `end`, then `after`, unless something else starts there.
fn set(changes: &mut Changes, signal: usize, start: u64, end: u64, state: State, after: State) {
    changes.insert((start, signal), state);
    changes.entry((end, signal)).or_insert(after);
}

fn write_to(timeline: &Timeline, signals: &[Signal], changes: &Changes, out: &mut dyn Write) -> std::io::Result<()> {
    let mut writer = Writer::new(out);
    writer.version(concat!("cptr ", env!("CARGO_PKG_VERSION")))?;
    writer.comment(&format!("{}; clock {} ps", timeline.device, timeline.t_ck_ps))?;
    writer.timescale(1, TimescaleUnit::PS)?;
    writer.add_module("channel")?;
    let ids: Vec<IdCode> = signals
        .iter()
        .map(|signal| writer.add_var(signal.kind, signal.bits, &signal.name, None))
        .collect::<std::io::Result<_>>()?;
    writer.upscope()?;
    writer.enddefinitions()?;
    writer.timestamp(0)?;
    writer.begin(SimulationCommand::Dumpvars)?;
    for (signal, &id) in signals.iter().zip(&ids) {
        change(&mut writer, id, signal.first)?;
    }
    writer.end()?;
    let mut time = 0;
    for (&(cycle, signal), &state) in changes {
        let at = cycle * u64::from(timeline.t_ck_ps);
        if at != time {
            writer.timestamp(at)?;
            time = at;
        }
        change(&mut writer, ids[signal], state)?;
    }
    Ok(())
}

fn change<W: Write>(writer: &mut Writer<W>, id: IdCode, state: State) -> std::io::Result<()> {
    match state {
        State::Name(name) => writer.change_string(id, name),
        State::Row(None) => writer.change_vector(id, [Value::Z]),
        State::Row(Some(row)) => {
            writer.change_vector(id, (0..ROW_BITS).rev().map(|bit| Value::from(row >> bit & 1 == 1)))
        }
        State::Active(active) => writer.change_scalar(id, active),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::BufReader;

    use cptr_hw_model::dram::{Refresh, StreamKind, presets};

    use super::*;
    use crate::dram::timeline::tests::record;

    #[test]
    fn what_is_written_reads_back() {
        for device in [presets::ddr5_4800(), presets::hbm3_6400(), presets::lpddr5_6400()] {
            let recording = record(&device, Refresh::AllBank, false, StreamKind::Random);
            let timeline = Timeline::new(&device, &recording);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("waves.vcd");
            write(&timeline, &path).unwrap();
            let mut parser = vcd::Parser::new(BufReader::new(std::fs::File::open(&path).unwrap()));
            let header = parser.parse_header().unwrap();
            assert_eq!(header.timescale, Some((1, TimescaleUnit::PS)));
            let signal = |name: &str| header.find_var(&["channel", name]).unwrap_or_else(|| panic!("no {name}")).code;
            let (row, column) = (signal("row_command"), signal("column_command"));
            let (mut time, mut counts) = (0, HashMap::new());
            for command in parser {
                match command.unwrap() {
                    vcd::Command::Timestamp(at) => {
                        assert!(at >= time && at % u64::from(device.timing.t_ck_ps) == 0);
                        time = at;
                    }
                    vcd::Command::ChangeString(id, name) if id == row || id == column => {
                        *counts.entry(name).or_insert(0) += 1;
                    }
                    _ => {}
                }
            }
            assert!(time <= timeline.end * u64::from(device.timing.t_ck_ps));
            counts.remove(NOTHING);
            let mut wanted = HashMap::new();
            for (_, _, command) in &timeline.commands {
                *wanted.entry(command.kind.name().to_string()).or_insert(0) += 1;
            }
            assert_eq!(counts, wanted, "{}", device.name);
        }
    }
}

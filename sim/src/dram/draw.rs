//! A [`Timeline`] for viewers.
//!
//! In a trace for Perfetto each bank, rank and set of data wires is a track. In a waveform `row_command` and
//! `column_command` hold the name of the command on the bus, `-` while there is none. Each bank has `…_row`, its open
//! row, high-impedance while it is closed; `refresh` is 1 while a rank refreshes; `data` names what is on the data
//! wires.

use serde_json::json;

use super::timeline::{Timeline, What};
use crate::timeline::perfetto::Trace;
use crate::timeline::waveform::{State, Waveform};

impl Timeline {
    /// A trace of this channel alone. One microsecond of the viewer is one cycle of the command clock: cycles are what
    /// timings are given in. The clock period stands among the properties.
    pub fn trace(&self) -> Trace {
        let mut about = serde_json::Map::new();
        about.insert("device".into(), json!(self.device));
        about.insert("one_us_is".into(), json!("one cycle of the command clock"));
        about.insert("t_ck_ps".into(), json!(self.t_ck_ps));
        let mut trace = Trace::new(about);
        trace.process(&self.device, self.tracks(), |cycle| cycle * 1000);
        trace
    }

    /// A waveform of this channel alone, in picoseconds of its clock.
    pub fn waveform(&self) -> Waveform {
        let mut waveform = Waveform::new(format!("{}; clock {} ps", self.device, self.t_ck_ps));
        self.add_to(&mut waveform, "channel", |cycle| self.ps(cycle));
        waveform
    }

    /// Adds the signals of this channel to a waveform; `ps` is the time of a cycle.
    pub fn add_to(&self, waveform: &mut Waveform, scope: &str, ps: impl Fn(u64) -> u64) {
        waveform.scope(scope);
        let buses = ["row_command", "column_command"].map(|name| waveform.signal(name, State::NOTHING));
        for &(cycle, length, command) in &self.commands {
            let bus = buses[usize::from(command.kind.is_column())];
            let end = cycle + u64::from(length);
            waveform.show(bus, ps(cycle), ps(end), State::Name(command.kind.name().into()));
        }
        for track in &self.banks {
            let signal = waveform.signal(&format!("{}_row", track.name), State::Row(None));
            for slice in track.slices.iter().filter(|slice| slice.shows.what == What::Row) {
                waveform.show(signal, ps(slice.start), ps(slice.end), State::Row(slice.shows.row));
            }
        }
        for track in &self.refresh {
            let signal = waveform.signal(&track.name, State::Active(false));
            for slice in &track.slices {
                if matches!(slice.shows.what, What::Command(kind) if kind.is_refresh()) {
                    waveform.show(signal, ps(slice.start), ps(slice.end), State::Active(true));
                }
            }
        }
        for track in &self.data {
            let signal = waveform.signal(&track.name, State::NOTHING);
            for slice in &track.slices {
                if let What::Data(kind) = slice.shows.what {
                    waveform.show(signal, ps(slice.start), ps(slice.end), State::Name(kind.name().into()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::BufReader;

    use cptr_hw_model::dram::{Refresh, StreamKind, presets};
    use serde_json::Value;
    use vcd::TimescaleUnit;

    use super::*;
    use crate::dram::timeline::tests::record;
    use crate::timeline::waveform::NOTHING;

    #[test]
    fn a_trace_reads_back() {
        let device = presets::ddr5_4800();
        let recording = record(&device, Refresh::AllBank, false, StreamKind::Experts);
        let timeline = Timeline::new(&device, &recording);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        timeline.trace().write(&path).unwrap();
        let value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["otherData"]["t_ck_ps"], 416);
        let events = value["traceEvents"].as_array().unwrap();
        let names: Vec<&str> = events
            .iter()
            .filter(|event| event["name"] == "thread_name")
            .map(|event| event["args"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.len(), 32 + 2);
        assert_eq!(
            (names[0], names[31], names[32], names[33]),
            ("group 0 bank 0", "group 7 bank 3", "refresh", "data")
        );
        let slices: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(slices.len(), timeline.tracks().map(|track| track.slices.len()).sum::<usize>());
        let refresh = slices.iter().find(|slice| slice["name"] == "REFab").unwrap();
        assert!(refresh["ts"].as_u64().unwrap() >= 9375 && refresh["dur"] == 710 && refresh["tid"] == 33, "{refresh}");
        let activate = slices.iter().find(|slice| slice["name"] == "ACT").unwrap();
        assert!(activate["args"]["row"].is_u64() && activate["dur"] == 34, "{activate}");
    }

    #[test]
    fn a_waveform_reads_back() {
        for device in [presets::ddr5_4800(), presets::hbm3_6400(), presets::lpddr5_6400()] {
            let recording = record(&device, Refresh::AllBank, false, StreamKind::Random);
            let timeline = Timeline::new(&device, &recording);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("waves.vcd");
            timeline.waveform().write(&path).unwrap();
            let mut parser = vcd::Parser::new(BufReader::new(std::fs::File::open(&path).unwrap()));
            let header = parser.parse_header().unwrap();
            assert_eq!(header.timescale, Some((1, TimescaleUnit::PS)));
            let signal = |name: &str| header.find_var(&["channel", name]).unwrap_or_else(|| panic!("no {name}")).code;
            let (row, column) = (signal("row_command"), signal("column_command"));
            let (mut time, mut counts) = (0, HashMap::new());
            for command in parser {
                match command.unwrap() {
                    vcd::Command::Timestamp(at) => {
                        let cycle = (at * u64::from(timeline.cycles_per_clock)).div_ceil(u64::from(timeline.t_ck_ps));
                        assert!(at >= time && timeline.ps(cycle) == at);
                        time = at;
                    }
                    vcd::Command::ChangeString(id, name) if id == row || id == column => {
                        *counts.entry(name).or_insert(0) += 1;
                    }
                    _ => {}
                }
            }
            assert!(time <= timeline.ps(timeline.end));
            counts.remove(NOTHING);
            let mut wanted = HashMap::new();
            for (_, _, command) in &timeline.commands {
                *wanted.entry(command.kind.name().to_string()).or_insert(0) += 1;
            }
            assert_eq!(counts, wanted, "{}", device.name);
        }
    }
}

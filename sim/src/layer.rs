//! One layer on a machine, for viewers: a track for each unit, and the commands of one memory channel below.
//!
//! The tracks are [`System::layer_events`], the same schedule that gives the layer's time. Its memory is read at the
//! mean rate over many refresh phases. The channel beside it is one such phase, command by command: its share of the
//! first cold expert, from an idle start, without copies beside it.
//!
//! ```
//! use cptr_hw_model::{Model, System};
//! use cptr_sim::layer::{Counts, Picture};
//!
//! let system = System::find("offload").ok_or("no such machine")?;
//! let model = Model::find("olmoe").ok_or("no such model")?;
//! let picture = Picture::new(system, model, Counts { resident: 6, cold: 2, ..Counts::default() }, 0)?;
//! picture.trace().write(&std::env::temp_dir().join("cptr-doc-layer.json"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;

use cptr_hw_model::dram::{Command, Controller, Until, stream};
use cptr_hw_model::events::{Event, Unit};
use cptr_hw_model::{Cold, CopiedRun, ExpertRun, LayerWork, Model, System};
use serde_json::json;

use crate::dram::timeline::{Recording, Timeline};
use crate::timeline::perfetto::Trace;
use crate::timeline::waveform::{State, Waveform};
use crate::timeline::{Shows, Slice, Track};
use cptr_trace::error::{Error, Result};

impl Shows for Event {
    fn name(&self) -> Cow<'static, str> {
        match (self.expert, self.chunk) {
            (Some(expert), Some(chunk)) => format!("{} {expert}.{chunk}", self.task.name()).into(),
            (Some(expert), None) => format!("{} {expert}", self.task.name()).into(),
            _ => self.task.name().into(),
        }
    }

    fn numbers(&self) -> [Option<(&'static str, u64)>; 2] {
        [self.expert.map(|expert| ("expert", expert.into())), self.chunk.map(|chunk| ("chunk", chunk))]
    }
}

/// Numbers of experts in a layer for one token, at the bits of a machine and where it runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Chosen experts that are in GPU memory.
    pub resident: u32,
    /// Chosen experts that are not.
    pub cold: u32,
    /// Experts copied into GPU memory to stay there. Where cold experts run on the GPU, each of them is copied in any
    /// case.
    pub loads: u32,
    /// Experts whose scores the controller goes through to select; 0 where the router's choice is taken as it is.
    pub scored: u32,
    /// Experts whose levels the controller updates, behind the choice; 0 where nothing is tracked.
    pub tracked: u32,
    /// Tokens whose keys and values the attention reads.
    pub attended: u64,
}

impl Counts {
    /// What `ask` says of them on `system`.
    pub fn on<T>(self, system: &System, ask: impl FnOnce(&LayerWork<'_>) -> T) -> T {
        let (copied, near, loads) = match system.cold {
            Cold::Gpu => (self.cold, 0, self.loads.saturating_sub(self.cold)),
            Cold::Ndp | Cold::Host => (0, self.cold, self.loads),
        };
        ask(&LayerWork {
            tokens: 1,
            attended: self.attended,
            gpu: &vec![ExpertRun::at(system.gpu_bits); self.resident as usize],
            copied: &vec![CopiedRun::at(system.gpu_bits); copied as usize],
            near_data: &vec![ExpertRun::at(system.ndp_bits); near as usize],
            copies_bits: &vec![system.gpu_bits; loads as usize],
            migrating: false,
            scored: self.scored,
            tracked: self.tracked,
        })
    }
}

/// A layer laid out in time.
#[derive(Debug)]
pub struct Picture {
    title: String,
    /// Units that have something to do, in picoseconds.
    tracks: Vec<Track<Event>>,
    channel: Option<Channel>,
}

/// The first commands of one memory channel.
#[derive(Debug)]
struct Channel {
    name: String,
    timeline: Timeline,
    /// Start of cycle 0.
    start_ps: u64,
    /// Of the nominal clock, which the layer's times are in.
    clock_mhz: f64,
}

impl Channel {
    fn ps(&self, cycle: u64) -> u64 {
        self.start_ps + (cycle as f64 * 1e6 / self.clock_mhz).round() as u64
    }
}

impl Picture {
    /// Lays out the layer, and the first `cycles` cycles of one memory channel if a cold expert runs near the data.
    ///
    /// # Errors
    /// A memory channel that cannot be run; files of systems are checked for that when they are read.
    pub fn new(system: &System, model: &Model, counts: Counts, cycles: u64) -> Result<Self> {
        let events = counts.on(system, |work| system.layer_events(model, work));
        let first_read = events.iter().find(|event| event.unit == Unit::Memory).map(|event| event.start_ps);
        let channel = first_read.map(|start_ps| channel(system, model, start_ps, cycles)).transpose()?.flatten();
        let track = |unit: Unit| {
            let of_unit = events.iter().filter(|event| event.unit == unit);
            let slices = of_unit.map(|&shows| Slice { shows, start: shows.start_ps, end: shows.end_ps });
            Track { name: unit.name().into(), slices: slices.collect() }
        };
        let tracks = Unit::ALL.map(track).into_iter().filter(|track| !track.slices.is_empty()).collect();
        Ok(Self { title: format!("{}, one layer of {}", system.name, model.name), tracks, channel })
    }

    /// A trace for Perfetto. One microsecond of the viewer is one nanosecond, so that no picosecond is lost.
    pub fn trace(&self) -> Trace {
        let mut about = serde_json::Map::new();
        about.insert("layer".into(), json!(self.title));
        about.insert("one_us_is".into(), json!("one nanosecond"));
        let mut trace = Trace::new(about);
        trace.process(&self.title, &self.tracks, |ps| ps);
        if let Some(channel) = &self.channel {
            trace.process(&channel.name, channel.timeline.tracks(), |cycle| channel.ps(cycle));
        }
        trace
    }

    /// A waveform for GTKWave: each unit shows what it does.
    pub fn waveform(&self) -> Waveform {
        let mut waveform = Waveform::new(self.title.clone());
        waveform.scope("layer");
        for track in &self.tracks {
            let signal = waveform.signal(&track.name, State::NOTHING);
            for slice in &track.slices {
                waveform.show(signal, slice.start, slice.end, State::Name(slice.shows.name()));
            }
        }
        if let Some(channel) = &self.channel {
            channel.timeline.add_to(&mut waveform, "channel", |cycle| channel.ps(cycle));
        }
        waveform
    }
}

/// One channel with its share of the first expert; all channels do the same.
fn channel(system: &System, model: &Model, start_ps: u64, cycles: u64) -> Result<Option<Channel>> {
    let (Some(ndp), Some(expert)) = (system.ndp(), system.expert(model, ExpertRun::at(system.ndp_bits))) else {
        return Ok(None);
    };
    let memory = &ndp.memory;
    let (device, config) = memory.parts().map_err(|error| Error::new(error.to_string()))?;
    let mut recording = Recording::new(cycles);
    let see = |cycle: u64, command: Command| recording.see(cycle, command);
    let mut controller =
        Controller::with_observer(&device, config, see).map_err(|error| Error::new(error.to_string()))?;
    let access = device.organisation.access_bytes();
    // No more than one access a cycle can be served, and none that the channel does not have.
    let bytes =
        (expert.bytes / u64::from(memory.channels)).min(cycles * access).min(device.organisation.capacity_bytes);
    controller
        .run(stream::contiguous(0, bytes, access), Until::Served)
        .map_err(|error| Error::new(error.to_string()))?;
    drop(controller);
    let name = format!("one of {} channels, {}, first {cycles} cycles", memory.channels, device.name);
    let timeline = Timeline::new(&device, &recording);
    Ok(Some(Channel { name, timeline, start_ps, clock_mhz: memory.clock_mhz }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(name: &str, counts: Counts) -> (Picture, u64) {
        let (system, model) = (System::find(name).unwrap(), Model::find("olmoe").unwrap());
        let total_ps = counts.on(system, |work| system.layer_time(model, work).total_ps);
        (Picture::new(system, model, counts, 5_000).unwrap(), total_ps)
    }

    fn json(trace: &Trace) -> serde_json::Value {
        serde_json::to_value(trace).unwrap()
    }

    #[test]
    fn the_last_slice_ends_with_the_layer() {
        let counts = Counts { resident: 2, cold: 3, loads: 1, scored: 64, tracked: 64, attended: 100 };
        for system in System::all() {
            let (picture, total_ps) = picture(&system.name, counts);
            let last = picture.tracks.iter().flat_map(|track| &track.slices).map(|slice| slice.end).max();
            assert_eq!(last, Some(total_ps), "{}", system.name);
            assert_eq!(picture.channel.is_some(), system.ndp().is_some());
        }
    }

    /// Reads are the shortest times: picoseconds survive, and no two slices of a track overlap in the file.
    #[test]
    fn a_trace_keeps_picoseconds() {
        let (picture, total_ps) = picture("ndp", Counts { cold: 2, ..Counts::default() });
        let trace = json(&picture.trace());
        let ps = |value: &serde_json::Value| (value.as_f64().unwrap() * 1000.0).round() as u64;
        let mut ends = std::collections::HashMap::new();
        for event in
            trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X" && event["pid"] == 1)
        {
            let end = ends.entry(event["tid"].as_u64().unwrap()).or_insert(0);
            assert!(ps(&event["ts"]) >= *end, "{event}");
            *end = ps(&event["ts"]) + ps(&event["dur"]);
        }
        assert_eq!(ends.values().max(), Some(&total_ps));
        let second = |event: &&serde_json::Value| event["pid"] == 2 && event["name"] == "RD";
        assert!(trace["traceEvents"].as_array().unwrap().iter().filter(second).count() > 100);
    }

    /// The command-level channel and the mean that the layer's time is made of agree but for the phase of refresh.
    #[test]
    fn the_channel_reads_as_fast_as_the_layer_says() {
        let (system, model) = (System::find("ndp").unwrap(), Model::find("olmoe").unwrap());
        let found = channel(system, model, 0, 1_000_000).unwrap().unwrap();
        let bursts: usize = found.timeline.data.iter().map(|track| track.slices.len()).sum();
        let expert = system.expert(model, ExpertRun::at(system.ndp_bits)).unwrap();
        assert_eq!(bursts as u64 * 64 * 20, expert.bytes);
        let share = found.ps(found.timeline.end) as f64 / expert.stream_ps as f64;
        assert!((0.9..1.1).contains(&share), "{share}");
    }

    #[test]
    fn a_waveform_reads_back() {
        let (picture, total_ps) = picture("ndp", Counts { cold: 1, scored: 64, ..Counts::default() });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer.vcd");
        picture.waveform().write(&path).unwrap();
        let mut parser = vcd::Parser::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
        let header = parser.parse_header().unwrap();
        for name in ["GPU", "link_from_the_GPU", "link_to_the_GPU", "controller", "device_memory", "device_arrays"] {
            assert!(header.find_var(&["layer", name]).is_some(), "{name}");
        }
        assert!(header.find_var(&["channel", "row_command"]).is_some());
        let times = parser.filter_map(|command| match command.unwrap() {
            vcd::Command::Timestamp(at) => Some(at),
            _ => None,
        });
        assert_eq!(times.last(), Some(total_ps));
    }
}

//! Tracks as a trace in the JSON format of Chrome, which Perfetto (ui.perfetto.dev) opens.
//!
//! The viewer knows nothing shorter than a nanosecond. Whoever adds tracks says how many nanoseconds of the viewer a
//! tick is.

use std::borrow::Cow;
use std::path::Path;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Shows, Slice, Track};
use cptr_trace::error::Result;

/// A trace: processes that hold tracks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    display_time_unit: &'static str,
    other_data: Map<String, Value>,
    trace_events: Vec<Event>,
    #[serde(skip)]
    processes: u32,
}

/// `ph` is `X` for a slice and `M` for a name.
#[derive(Debug, Serialize)]
struct Event {
    name: Cow<'static, str>,
    ph: &'static str,
    pid: u32,
    tid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<Microseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<Microseconds>,
    args: Args,
}

/// Nanoseconds, written as microseconds with as many decimals as needed.
#[derive(Debug, Clone, Copy)]
struct Microseconds(u64);

impl Serialize for Microseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            serializer.serialize_u64(self.0 / 1000)
        } else {
            serializer.serialize_f64(self.0 as f64 / 1000.0)
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Args {
    Name { name: String },
    Order { sort_index: usize },
    Numbers(Numbers),
}

#[derive(Debug)]
struct Numbers([Option<(&'static str, u64)>; 2]);

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, number) in self.0.iter().flatten() {
            map.serialize_entry(name, number)?;
        }
        map.end()
    }
}

impl Trace {
    /// A trace without tracks. `about` is shown among its properties.
    pub const fn new(about: Map<String, Value>) -> Self {
        Self { display_time_unit: "ns", other_data: about, trace_events: Vec::new(), processes: 0 }
    }

    /// Adds a process with its tracks; `viewer_ns` is where a tick stands in the viewer.
    pub fn process<'a, S: Shows + 'a>(
        &mut self,
        name: &str,
        tracks: impl IntoIterator<Item = &'a Track<S>>,
        viewer_ns: impl Fn(u64) -> u64,
    ) {
        self.processes += 1;
        let pid = self.processes;
        let meta =
            |name: &'static str, tid, args| Event { name: name.into(), ph: "M", pid, tid, ts: None, dur: None, args };
        self.trace_events.push(meta("process_name", 0, Args::Name { name: name.into() }));
        self.trace_events.push(meta("process_sort_index", 0, Args::Order { sort_index: pid as usize }));
        for (tid, track) in (1..).zip(tracks) {
            self.trace_events.push(meta("thread_name", tid, Args::Name { name: track.name.clone() }));
            self.trace_events.push(meta("thread_sort_index", tid, Args::Order { sort_index: tid }));
            self.trace_events.extend(track.slices.iter().map(|Slice { shows, start, end }| {
                let (start, end) = (viewer_ns(*start), viewer_ns(*end));
                Event {
                    name: shows.name(),
                    ph: "X",
                    pid,
                    tid,
                    ts: Some(Microseconds(start)),
                    dur: Some(Microseconds(end - start)),
                    args: Args::Numbers(Numbers(shows.numbers())),
                }
            }));
        }
    }

    /// Writes the trace to `path`, whole or not at all.
    ///
    /// # Errors
    /// Any failed file operation.
    pub fn write(&self, path: &Path) -> Result<()> {
        cptr_trace::file::replace(path, |out| {
            serde_json::to_writer(&mut *out, self)?;
            out.write_all(b"\n")
        })
    }
}

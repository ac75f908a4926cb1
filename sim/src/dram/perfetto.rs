//! A timeline as a trace in the JSON format of Chrome, which Perfetto (ui.perfetto.dev) opens.
//!
//! One microsecond of the viewer is one cycle of the command clock: the viewer knows no picoseconds, and cycles are what timings are
//! given in. The clock period stands in `otherData`.

use std::borrow::Cow;
use std::path::Path;

use serde::Serialize;

use super::timeline::{Slice, Timeline, Track, What};
use crate::error::Result;

/// The one process of the trace.
const PROCESS: u32 = 1;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    display_time_unit: &'a str,
    other_data: About<'a>,
    trace_events: Vec<Event<'a>>,
}

#[derive(Debug, Serialize)]
struct About<'a> {
    device: &'a str,
    one_us_is: &'a str,
    t_ck_ps: u32,
}

/// `ph` is `X` for a slice and `M` for a name. `ts` and `dur` are in microseconds, that is, cycles.
#[derive(Debug, Serialize)]
struct Event<'a> {
    name: Cow<'a, str>,
    ph: &'a str,
    pid: u32,
    tid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u64>,
    args: Args<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Args<'a> {
    Name {
        name: &'a str,
    },
    Order {
        sort_index: usize,
    },
    Slice {
        bank: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        row: Option<u32>,
    },
}

/// Writes the timeline to `path`, whole or not at all.
///
/// # Errors
/// Any failed file operation.
pub fn write(timeline: &Timeline, path: &Path) -> Result<()> {
    let trace = trace(timeline);
    crate::file::replace(path, |out| {
        serde_json::to_writer(&mut *out, &trace)?;
        out.write_all(b"\n")
    })
}

fn trace(timeline: &Timeline) -> Trace<'_> {
    let names = meta("process_name", 0, Args::Name { name: &timeline.device });
    let mut trace_events = vec![names];
    for (thread, track) in (1..).zip(timeline.tracks()) {
        trace_events.push(meta("thread_name", thread, Args::Name { name: &track.name }));
        trace_events.push(meta("thread_sort_index", thread, Args::Order { sort_index: thread }));
        trace_events.extend(slices(thread, track));
    }
    let about =
        About { device: &timeline.device, one_us_is: "one cycle of the command clock", t_ck_ps: timeline.t_ck_ps };
    Trace { display_time_unit: "ns", other_data: about, trace_events }
}

fn meta<'a>(name: &'a str, tid: usize, args: Args<'a>) -> Event<'a> {
    Event { name: name.into(), ph: "M", pid: PROCESS, tid, ts: None, dur: None, args }
}

fn slices(tid: usize, track: &Track) -> impl Iterator<Item = Event<'_>> {
    track.slices.iter().map(move |slice| Event {
        name: name(slice),
        ph: "X",
        pid: PROCESS,
        tid,
        ts: Some(slice.start),
        dur: Some(slice.end - slice.start),
        args: Args::Slice { bank: slice.bank, row: slice.row },
    })
}

fn name(slice: &Slice) -> Cow<'static, str> {
    match (slice.what, slice.row) {
        (What::Row, Some(row)) => format!("row {row}").into(),
        (What::Row, None) => "row".into(),
        (What::Command(kind) | What::Data(kind), _) => kind.name().into(),
    }
}

#[cfg(test)]
mod tests {
    use cptr_hw_model::dram::{Refresh, StreamKind, presets};
    use serde_json::Value;

    use super::*;
    use crate::dram::timeline::tests::record;

    #[test]
    fn what_is_written_reads_back() {
        let device = presets::ddr5_4800();
        let recording = record(&device, Refresh::AllBank, false, StreamKind::Experts);
        let timeline = Timeline::new(&device, &recording);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        write(&timeline, &path).unwrap();
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
}

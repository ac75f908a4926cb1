//! The memory engine: DRAM channels, command by command.

use std::collections::HashMap;

use cptr_hw_model::dram::{Completion, Engine, Id, NotTaken, Request, RequestKind};
use cptr_memory::options;
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};

use crate::error::{MemoryBusyError, MemoryEngineError, usage};

fn refused(error: impl std::fmt::Display) -> PyErr {
    MemoryEngineError::new_err(error.to_string())
}

fn not_taken(error: NotTaken) -> PyErr {
    if error.is_busy() { MemoryBusyError::new_err(error.to_string()) } else { refused(error) }
}

/// The counts that statistics of all kinds have.
macro_rules! counts {
    ($s:expr) => {{
        let s = &$s;
        json!({
            "reads_served": s.reads_served, "writes_served": s.writes_served, "reads_forwarded": s.reads_forwarded,
            "writes_merged": s.writes_merged, "row_hits": s.row_hits, "row_misses": s.row_misses,
            "row_conflicts": s.row_conflicts, "mean_latency": s.read_latency.mean(),
            "p50_latency": s.read_latency.quantile(0.5), "p99_latency": s.read_latency.quantile(0.99),
            "max_latency": s.read_latency.max(),
        })
    }};
}
/// DRAM channels behind one controller each. Calls that are refused change nothing.
#[pyclass(module = "cptr._cptr")]
pub(crate) struct Memory {
    engine: Engine,
    /// Completions of single requests that came up in a run of many.
    kept: Vec<Completion>,
}

#[pymethods]
impl Memory {
    /// `device`: a built-in device, a file that ends in .toml, or the text of one; `options`: NAME=VALUE, separated by
    /// white space.
    #[new]
    #[pyo3(signature = (device, options=""))]
    fn new(device: &str, options: &str) -> PyResult<Self> {
        options::engine(device, options).map(|engine| Self { engine, kept: Vec::new() }).map_err(usage)
    }

    /// The current cycle.
    #[getter]
    fn now(&self) -> u64 {
        self.engine.now()
    }

    /// Bytes of all channels.
    #[getter]
    fn capacity(&self) -> u64 {
        self.engine.capacity()
    }

    /// Bytes of one access.
    #[getter]
    fn access_bytes(&self) -> u64 {
        self.engine.access_bytes()
    }

    /// Picoseconds of a clock.
    #[getter]
    fn clock_ps(&self) -> u64 {
        self.engine.clock_ps()
    }

    /// Cycles of a clock: 2 where commands use both edges, else 1.
    #[getter]
    fn cycles_per_clock(&self) -> u64 {
        self.engine.cycles_per_clock()
    }

    #[getter]
    fn channels(&self) -> usize {
        self.engine.channels()
    }

    /// Whether nothing waits.
    #[getter]
    fn idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// Gigabytes a second since the start.
    #[getter]
    fn bandwidth_gb_s(&self) -> f64 {
        self.engine.bandwidth_gb_s()
    }

    /// Offers one access in the current cycle; its id.
    #[pyo3(signature = (address, *, write=false, source=0))]
    fn offer(&mut self, address: u64, write: bool, source: u8) -> PyResult<u64> {
        self.engine.offer(request(address, write, source)).map(Id::raw).map_err(not_taken)
    }

    /// Goes to a cycle, and lets happen what happens up to then.
    fn advance(&mut self, py: Python<'_>, cycle: u64) -> PyResult<()> {
        py.detach(|| self.engine.advance(cycle)).map_err(refused)
    }

    /// The first cycle in which something can happen; None if nothing ever will.
    fn next_event(&mut self) -> Option<u64> {
        self.engine.next_event()
    }

    /// The first cycle of a command, after which there may be room again.
    fn next_command(&mut self) -> Option<u64> {
        self.engine.next_command()
    }

    /// Takes the completions whose cycle has come: id, cycle, latency, source, whether it was a write.
    fn completions(&mut self) -> Vec<(u64, u64, u64, u8, bool)> {
        let kept = std::mem::take(&mut self.kept).into_iter();
        kept.chain(std::iter::from_fn(|| self.engine.pop()))
            .map(|c| (c.id.raw(), c.cycle, c.latency, c.source, c.kind == RequestKind::Write))
            .collect()
    }

    /// The cycle in which a request completes or did; None while that is not known.
    fn completes(&self, id: u64) -> PyResult<Option<u64>> {
        self.engine.completes(Id::from_raw(id)).map_err(refused)
    }

    /// Offers accesses one after the other, each as soon as there is room and its cycle in `arrivals` has come, and
    /// goes on until the last is complete: cycle and latency of each, in their order.
    #[pyo3(signature = (addresses, *, writes=None, arrivals=None, source=0))]
    #[expect(clippy::type_complexity, reason = "two arrays")]
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        addresses: PyReadonlyArray1<'py, u64>,
        writes: Option<PyReadonlyArray1<'py, bool>>,
        arrivals: Option<PyReadonlyArray1<'py, u64>>,
        source: u8,
    ) -> PyResult<(Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u64>>)> {
        let addresses: Vec<u64> = addresses.as_array().iter().copied().collect();
        let writes: Vec<bool> = writes.map_or(Vec::new(), |list| list.as_array().iter().copied().collect());
        let arrivals: Vec<u64> = arrivals.map_or(Vec::new(), |list| list.as_array().iter().copied().collect());
        for (name, found) in [("writes", writes.len()), ("arrivals", arrivals.len())] {
            if found != 0 && found != addresses.len() {
                return Err(usage(format!("{name}: expected {} values, found {found}", addresses.len())));
            }
        }
        // Whatever is refused is put back.
        let (before, kept) = (self.engine.snapshot(), self.kept.len());
        match py.detach(|| bulk(&mut self.engine, &mut self.kept, &addresses, &writes, &arrivals, source)) {
            Ok((cycles, latencies)) => Ok((PyArray1::from_vec(py, cycles), PyArray1::from_vec(py, latencies))),
            Err(error) => {
                self.kept.truncate(kept);
                self.engine.restore(&before).map_err(refused)?;
                Err(error)
            }
        }
    }

    /// Counts since the start, of all channels, of one of them, or of one source, as JSON.
    #[pyo3(signature = (*, channel=None, source=None))]
    fn statistics(&self, channel: Option<usize>, source: Option<usize>) -> PyResult<String> {
        let missing = |what: &str, index: usize| refused(format!("expected a {what} that there is, found {index}"));
        let mut json = match (channel, source) {
            (Some(_), Some(_)) => return Err(usage("expected a channel or a source, found both")),
            (None, Some(source)) => {
                let s = self.engine.source_statistics(source).ok_or_else(|| missing("source", source))?;
                let mut counts = counts!(s);
                counts["conflicts_with_others"] = s.conflicts_with_others.into();
                counts
            }
            (Some(channel), None) => {
                let s = self.engine.channel_statistics(channel).ok_or_else(|| missing("channel", channel))?;
                counts!(s)
            }
            (None, None) => {
                let s = self.engine.statistics();
                counts!(s)
            }
        };
        if channel.is_none() && source.is_none() {
            json["bandwidth_gb_s"] = self.engine.bandwidth_gb_s().into();
            json["energy_pj"] = self.engine.energy().map_or(Value::Null, |e| {
                json!({
                    "activate": e.activate_pj, "read": e.read_pj, "write": e.write_pj, "refresh": e.refresh_pj,
                    "standby": e.standby_pj,
                })
            });
        }
        Ok(json.to_string())
    }

    /// The state as bytes.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if !self.kept.is_empty() {
            return Err(refused("expected all completions to be taken before a snapshot"));
        }
        Ok(PyBytes::new(py, &self.engine.snapshot()))
    }

    /// Goes where this memory, or one of the same device and options, was at a snapshot.
    fn restore(&mut self, snapshot: &[u8]) -> PyResult<()> {
        self.engine.restore(snapshot).map_err(refused)?;
        self.kept.clear();
        Ok(())
    }
}

fn request(address: u64, write: bool, source: u8) -> Request {
    let request = if write { Request::write(address) } else { Request::read(address) };
    request.from_source(source)
}

/// Accesses one after the other; cycle and latency of each.
fn bulk(
    engine: &mut Engine,
    kept: &mut Vec<Completion>,
    addresses: &[u64],
    writes: &[bool],
    arrivals: &[u64],
    source: u8,
) -> PyResult<(Vec<u64>, Vec<u64>)> {
    let (mut cycles, mut latencies) = (vec![0; addresses.len()], vec![0; addresses.len()]);
    let mut places: HashMap<u64, usize> = HashMap::new();
    let (mut offered, mut completed) = (0, 0);
    while completed < addresses.len() {
        let mut waits = None;
        while let Some(&address) = addresses.get(offered) {
            let arrival = arrivals.get(offered).copied().unwrap_or(0);
            if arrival > engine.now() {
                waits = Some(arrival);
                break;
            }
            match engine.offer(request(address, writes.get(offered).copied().unwrap_or(false), source)) {
                Ok(id) => {
                    places.insert(id.raw(), offered);
                    offered += 1;
                }
                Err(NotTaken::NextCycle) => {
                    waits = Some(engine.now() + 1);
                    break;
                }
                Err(error) if error.is_busy() => break,
                Err(error) => return Err(refused(format!("request {offered}: {error}"))),
            }
        }
        let next = [engine.next_event(), waits].into_iter().flatten().min();
        let next = next.ok_or_else(|| refused("expected the accesses to complete, found a memory at rest"))?;
        // An event of this very cycle has happened, and is followed by a later one.
        engine.advance(next.max(engine.now())).map_err(refused)?;
        while let Some(completion) = engine.pop() {
            match places.remove(&completion.id.raw()) {
                None => kept.push(completion),
                Some(place) => {
                    (cycles[place], latencies[place]) = (completion.cycle, completion.latency);
                    completed += 1;
                }
            }
        }
    }
    Ok((cycles, latencies))
}

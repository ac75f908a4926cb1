//! A controller that decides and runs: it executes the cold experts of a model that reads, on replicas in its memory.
//!
//! Every decision is held to the strategy's, and every result to that of the core's kernels in this process, bit for
//! bit.

use std::path::Path;

use cptr_core::Gate;
use cptr_core::expert::Replicas;
use cptr_hw_model::{ExpertRun, LayerTimes};
use cptr_protocol::Outcome;
use cptr_protocol::wire::{self, LINE};

use super::host::{Buffers, MOST_COLUMNS, Nanoseconds, Sizes};
use super::session::{Places, Session};
use super::{Controller, Loop, Report, check_strategy};
use crate::replay::{LayerOutcome, Setup};
use crate::strategy::Strategy;
use cptr_trace::error::{Error, Result};

/// A controller, and the replicas that it runs.
pub struct Device<'a> {
    beside: Loop<'a>,
    places: Places,
    /// The replicas, as they lie in its memory.
    replicas: &'a [u8],
    buffers: Buffers,
    /// Lines of an activation, which are those of a result.
    stride: usize,
    /// Inputs of an expert.
    hidden: usize,
    /// What the layer's experts are given.
    activation: Vec<[u8; 4]>,
    /// What the layer runs, and in which step.
    runs: Vec<wire::Run>,
    layer: usize,
    results: u64,
}

impl std::fmt::Debug for Device<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("results", &self.results).finish_non_exhaustive()
    }
}

/// Lets `read` have a model read with its cold experts on a controller. `setup` is that of the replay, `layer_ids` are
/// the model's own numbers of its layers, `hidden` the width of its stream, and `replicas` the packed experts
/// ([`Replicas`]).
///
/// # Errors
/// As [`run`](super::run), where it is not about traces; replicas for which the controller has no memory.
pub fn serve<T>(
    (setup, layer_ids): (&Setup<'_>, Vec<u32>),
    strategy: &Strategy,
    (controller, image): (Controller, Option<&Path>),
    (hidden, replicas): (usize, &[u8]),
    read: impl FnOnce(&mut Device<'_>) -> Result<T>,
) -> Result<(T, Report)> {
    check_strategy(strategy, setup.resident)?;
    let stride = (4 * hidden).div_ceil(LINE);
    let results = stride * setup.shape.k;
    let places = Places { activation: 0, result: stride as u32, replicas: (stride + results) as u32 };
    let in_loop = |link: &mut dyn super::session::Link| {
        let mut session = Session::new(link);
        let limits = session.begin()?;
        let needs = places.replicas as usize + replicas.len().div_ceil(LINE);
        if needs > limits.lines.get() as usize {
            let mib = |lines: usize| lines.div_ceil((1 << 20) / LINE);
            return Err(Error::new(format!(
                "--controller: expected replicas and results in its memory of {} MiB, found {} MiB",
                limits.lines.get() as usize / ((1 << 20) / LINE),
                mib(needs)
            )));
        }
        session.set_places(places);
        session.write(places.replicas, replicas)?;
        let mut device = Device {
            beside: Loop::new(setup, layer_ids, strategy, session)?,
            places,
            replicas,
            buffers: Buffers::new(MOST_COLUMNS),
            stride,
            hidden,
            activation: Vec::new(),
            runs: Vec::new(),
            layer: 0,
            results: 0,
        };
        let value = read(&mut device)?;
        Ok((value, device.beside.report()?))
    };
    let data = places.replicas as usize * LINE + replicas.len().next_multiple_of(LINE);
    let sizes = Sizes { layers: setup.shape.layers, data, times: times(setup) };
    let (value, mut report) = controller.with(sizes, image, in_loop)?;
    report.controller = controller.to_string();
    Ok((value, report))
}

/// What an expert of each number of bits takes on the setup's device; 0 without.
fn times(setup: &Setup<'_>) -> Nanoseconds {
    let machine = setup.machine.and_then(|machine| machine.model.map(|model| (machine.system, model)));
    machine.map_or(Nanoseconds::default(), |(system, model)| {
        let times = LayerTimes::new(system, model);
        std::array::from_fn(|bits| match bits {
            0 => 0,
            bits => (times.near_run_ps(ExpertRun::at(bits as f64)) / 1e3).round() as u32,
        })
    })
}

impl Device<'_> {
    /// The input of the next layer, `[D]`.
    ///
    /// # Errors
    /// What goes wrong on the way to the controller.
    pub fn input(&mut self, hidden: &[f32]) -> Result<()> {
        if hidden.len() != self.hidden {
            let (expected, found) = (self.hidden, hidden.len());
            return Err(Error::new(format!("--controller: expected {expected} values of one token, found {found}")));
        }
        self.activation = hidden.iter().map(|value| value.to_le_bytes()).collect();
        let mut lines = self.activation.as_flattened().to_vec();
        lines.resize(self.stride * LINE, 0);
        self.beside.session.write(self.places.activation, &lines)
    }

    /// Has a layer decided, which must be as the strategy has done it.
    ///
    /// # Errors
    /// As [`run`](super::run).
    pub fn layer(&mut self, seen: &LayerOutcome<'_>) -> Result<()> {
        self.layer = seen.layer;
        self.runs = self.beside.layer(seen)?;
        Ok(())
    }

    /// What the controller's experts have given for the layer: for each that ran there its place among the chosen, and
    /// its output times its mixing weight, `[D]`.
    ///
    /// # Errors
    /// An expert that has failed, or whose result is not that of the kernels in this process.
    pub fn results(&mut self) -> Result<Vec<(usize, Vec<f32>)>> {
        let runs = std::mem::take(&mut self.runs);
        let near: Vec<(usize, &wire::Run)> = runs.iter().enumerate().filter(|(_, run)| run.bits > 0).collect();
        let layer = self.layer;
        let at = |error: Error, expert: u16| error.at(format!("expert {expert}")).at(format!("layer {layer}"));
        for end in self.beside.session.ends(near.len())? {
            if end.kind != Outcome::Done as u8 {
                return Err(at(Error::new("the controller could not run it"), end.expert.get()));
            }
        }
        let mut all = Vec::with_capacity(near.len());
        for (rank, run) in near {
            let line = self.places.result as usize + rank * self.stride;
            let bytes = self.beside.session.read(line as u32, self.stride)?;
            let found: Vec<[u8; 4]> = bytes.as_chunks().0[..self.hidden].to_vec();
            if found != self.expected(run).map_err(|error| at(error, run.expert.get()))? {
                return Err(at(
                    Error::new("the controller's result is not that of the kernels here"),
                    run.expert.get(),
                ));
            }
            self.results += 1;
            all.push((rank, found.into_iter().map(f32::from_le_bytes).collect()));
        }
        Ok(all)
    }

    /// The result of an expert by the core in this process.
    fn expected(&mut self, run: &wire::Run) -> Result<Vec<[u8; 4]>> {
        let wrong = |error: cptr_core::expert::ExpertError| Error::new(error.to_string());
        let replicas = Replicas::new(self.replicas).map_err(wrong)?;
        let expert = replicas.expert(self.layer as u16, run.expert.get(), run.bits).map_err(wrong)?;
        let mut workspace = self.buffers.workspace();
        let output = expert.run(&self.activation, &mut workspace).map_err(wrong)?;
        Ok(output.weighted(Gate::from_bits(run.weight.get())).collect())
    }
}

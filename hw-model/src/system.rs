//! How long a layer takes on a machine of GPU, link and near-data device, and what energy it takes.
//!
//! [`System::layer_time`] puts the parts together: [`crate::gpu`] (roofline), [`crate::link`] (flits and copies), [`crate::ndp`]
//! (command-level DRAM behind a scratchpad and arrays), [`crate::controller`]. One token at a time, as in decoding for one user.
//! Machines are files, `data/systems/*.toml`; [`System::from_toml`] reads others.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::Deserialize;

use crate::breakdown::Breakdown;
use crate::controller::Controller;
use crate::dram::ConfigError;
use crate::energy::Energy;
use crate::gpu::Gpu;
use crate::link::{LINE_BYTES, Link};
use crate::model::Model;
use crate::ndp::{Expert, Ndp};
use crate::validate::within;

/// Where an expert runs that is not in GPU memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cold {
    /// On the GPU, after a copy over the link.
    Gpu,
    /// Near the data, where it lies; copies to the GPU go on behind it.
    Ndp,
}

/// The memory or drive that experts are copied from where there is no near-data device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Name for people.
    pub name: String,
    /// Energy per bit read, in picojoules.
    pub pj_per_bit: f64,
}

/// A machine.
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// As given to `--system`.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// Where experts run that are not in GPU memory.
    pub cold: Cold,
    /// Bits per weight in GPU memory and on the link.
    pub gpu_bits: f64,
    /// Bits per weight of the experts that run near the data.
    pub ndp_bits: f64,
    /// Where the numbers come from, as a whole; the file says it for each.
    pub source: String,
    hardware: Arc<Hardware>,
    known: Known,
}

#[derive(Debug, PartialEq)]
struct Hardware {
    gpu: Gpu,
    link: Link,
    store: Option<Store>,
    ndp: Option<Ndp>,
    controller: Option<Controller>,
}

/// Times of experts by parameters and bits (as their pattern), found once and shared by all clones of a system.
#[derive(Clone, Default)]
struct Known(Arc<Mutex<HashMap<(u64, u64), Expert>>>);

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

/// What is known already makes no difference.
impl PartialEq for Known {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What one layer has to do for one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerWork {
    /// Chosen experts that are in GPU memory.
    pub resident_runs: u32,
    /// Chosen experts that are not.
    pub cold_runs: u32,
    /// Experts copied into GPU memory to stay there. Where cold experts run on the GPU, each of them is copied in any case.
    pub loads: u32,
    /// Experts whose scores the controller goes through to select; 0 where the router's choice is taken as it is.
    pub scored_experts: u32,
    /// Experts whose levels the controller updates, behind the choice; 0 where nothing is tracked.
    pub tracked_experts: u32,
}

/// Time and energy of one layer for one token; times in picoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerTime {
    /// GPU busy: dense part and resident experts, and copied ones.
    pub gpu_ps: u64,
    /// Link busy, in either direction.
    pub link_ps: u64,
    /// Near-data device busy.
    pub ndp_ps: u64,
    /// Controller busy.
    pub controller_ps: u64,
    /// From the start of the layer to its end.
    pub total_ps: u64,
    /// Energy of all of it.
    pub energy: Energy,
}

/// What is wrong with the file of a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemError {
    /// Not such a file: syntax, a field that is missing or unknown, a value of the wrong type.
    Syntax {
        /// Line, counted from 1.
        line: usize,
        /// What was expected there.
        message: String,
    },
    /// A value that no machine can have.
    Value(ConfigError),
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, message } => write!(f, "line {line}: {message}"),
            Self::Value(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SystemError {}

impl From<ConfigError> for SystemError {
    fn from(error: ConfigError) -> Self {
        Self::Value(error)
    }
}

/// A system as its file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    summary: String,
    cold: Cold,
    gpu_bits: f64,
    ndp_bits: Option<f64>,
    source: String,
    gpu: Gpu,
    link: Link,
    store: Option<Store>,
    ndp: Option<Ndp>,
    controller: Option<Controller>,
}

const FILES: [&str; 8] = [
    include_str!("../data/systems/offload.toml"),
    include_str!("../data/systems/offload-a100.toml"),
    include_str!("../data/systems/laptop.toml"),
    include_str!("../data/systems/ndp.toml"),
    include_str!("../data/systems/ndp-fixed.toml"),
    include_str!("../data/systems/ndp-lpddr5x.toml"),
    include_str!("../data/systems/monde.toml"),
    include_str!("../data/systems/m2ndp.toml"),
];

static SYSTEMS: LazyLock<Vec<System>> = LazyLock::new(|| {
    let read = |text: &&str| System::from_toml(text).expect("the shipped files are right: a unit test reads them");
    FILES.iter().map(read).collect()
});

impl System {
    /// How times are computed, for people who read them.
    pub const METHOD: &'static str = "modelled: DRAM commands, link flits, array pipeline, GPU roofline";

    /// All systems that come with the crate.
    pub fn all() -> &'static [Self] {
        &SYSTEMS
    }

    /// The system called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        SYSTEMS.iter().find(|system| system.name == name)
    }

    /// The system that a file describes; `data/systems/ndp.toml` says what each field means.
    ///
    /// # Errors
    /// Unknown or missing fields, and values that no machine can have, by the name of the field.
    pub fn from_toml(text: &str) -> Result<Self, SystemError> {
        let file: File = toml::from_str(text).map_err(|error| SystemError::Syntax {
            line: error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
        })?;
        file.validate()?;
        Ok(Self {
            name: file.name,
            summary: file.summary,
            cold: file.cold,
            gpu_bits: file.gpu_bits,
            ndp_bits: file.ndp_bits.unwrap_or(file.gpu_bits),
            source: file.source,
            hardware: Arc::new(Hardware {
                gpu: file.gpu,
                link: file.link,
                store: file.store,
                ndp: file.ndp,
                controller: file.controller,
            }),
            known: Known::default(),
        })
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.hardware.gpu
    }

    /// The link.
    pub fn link(&self) -> &Link {
        &self.hardware.link
    }

    /// The near-data device, if experts run there.
    pub fn ndp(&self) -> Option<&Ndp> {
        self.hardware.ndp.as_ref()
    }

    /// The controller, if the system has one.
    pub fn controller(&self) -> Option<&Controller> {
        self.hardware.controller.as_ref()
    }

    /// One expert of `model` near the data at [`Self::ndp_bits`], for one token; `None` without a near-data device. The first call for a
    /// size simulates the DRAM, later ones remember.
    pub fn expert(&self, model: &Model) -> Option<Expert> {
        self.expert_at(model, self.ndp_bits)
    }

    /// As [`Self::expert`], at other bits per weight.
    pub fn expert_at(&self, model: &Model, bits: f64) -> Option<Expert> {
        let ndp = self.ndp()?;
        let key = (model.expert_parameters(), bits.to_bits());
        // The lock is held while simulating: whoever asks for the same meanwhile would only simulate it again.
        let mut known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = || ndp.expert(model, bits, 1).expect("the device was validated when its file was read");
        Some(*known.entry(key).or_insert_with(found))
    }

    /// What the time of one expert near the data is made of; `None` without a near-data device.
    pub fn expert_breakdown(&self, model: &Model) -> Option<Breakdown> {
        let (ndp, expert) = (self.ndp()?, self.expert(model)?);
        let validated = "the device was validated when its file was read";
        let without_refresh = ndp.stream_without_refresh_ps(model, self.ndp_bits).expect(validated) as i64;
        let peak = ndp.memory.peak_gb_s().expect(validated);
        let ideal_ps = (model.expert_bytes(self.ndp_bits) / peak * 1e3).round() as i64;
        let trip = Trip::new(self.link(), model, 1);
        Some(Breakdown {
            ideal_ps,
            rows_ps: without_refresh - ideal_ps,
            refresh_ps: expert.stream_ps as i64 - without_refresh,
            pipeline_ps: expert.run_ps() as i64 - expert.stream_ps as i64,
            link_ps: (trip.there_ps + trip.result_ps + 2 * self.link().one_way_ps()) as i64,
            launch_ps: self.link().launch_ps() as i64,
        })
    }

    /// Time and energy of one layer.
    ///
    /// The dense part comes first, as the router needs it, then the controller's selection. After that resident experts on the GPU, copies on the
    /// link, cold experts on the device and the controller's update go on side by side; where cold experts run on the GPU, each starts
    /// when it has arrived, so that mostly only the last one's run shows behind the copies. Copies out of the device's memory take their
    /// share of its bandwidth from the experts that run there. [`Self::layer_events`] shows the same layer piece by piece.
    pub fn layer_time(&self, model: &Model, work: LayerWork) -> LayerTime {
        let schedule = self.schedule(model, work);
        LayerTime {
            gpu_ps: schedule.dense_ps.saturating_add(schedule.on_gpu_ps()),
            link_ps: schedule.side.link_ps,
            ndp_ps: schedule.side.ndp_ps,
            controller_ps: schedule.select_ps.saturating_add(schedule.update_ps),
            total_ps: schedule.total_ps(),
            energy: self.energy(model, schedule.gpu_runs(), schedule.copies, work.cold_runs),
        }
    }

    /// When everything of a layer begins and ends.
    pub(crate) fn schedule(&self, model: &Model, work: LayerWork) -> Schedule {
        let expert_bytes = model.expert_bytes(self.gpu_bits);
        let run_ps = self.gpu().kernel_ps(expert_bytes, model.expert_parameters() as f64).round() as u64;
        let dense_parameters = model.dense_parameters as f64;
        let dense = self.gpu().kernel_ps(dense_parameters * self.gpu_bits / 8.0, dense_parameters);
        let k = work.resident_runs.saturating_add(work.cold_runs);
        let cycles = |experts: u32, ps: fn(&Controller, u32, u32) -> u64| {
            self.controller().filter(|_| experts > 0).map_or(0, |controller| ps(controller, experts, k))
        };
        let select_ps = cycles(work.scored_experts, Controller::select_ps);
        let update_ps = cycles(work.tracked_experts, Controller::update_ps);
        let (copied_runs, copies) = match self.cold {
            Cold::Gpu => (work.cold_runs, work.loads.max(work.cold_runs)),
            Cold::Ndp => (0, work.loads),
        };
        let copies_ps = |count: u32| self.link().copy_ps(f64::from(count) * expert_bytes);
        let copy_ps = copies_ps(copies);
        let near_data = self.near_data(model, work.cold_runs, copy_ps);
        let side = match (&near_data, self.cold) {
            (Some(near_data), _) => near_data.side(self.link()),
            (None, Cold::Ndp) => Side { link_ps: copy_ps, ndp_ps: 0, end_ps: copy_ps },
            (None, Cold::Gpu) => {
                Side { link_ps: copy_ps, ndp_ps: 0, end_ps: copied_end(copied_runs, copies, run_ps, copies_ps) }
            }
        };
        Schedule {
            dense_ps: dense.round() as u64,
            select_ps,
            update_ps,
            run_ps,
            resident_runs: work.resident_runs,
            copied_runs,
            copies,
            side,
            near_data,
        }
    }

    /// Cold experts near the data, beside copies that take `copy_ps`; `None` if there are none.
    fn near_data(&self, model: &Model, runs: u32, copy_ps: u64) -> Option<NearData> {
        let expert = self.expert(model).filter(|_| runs > 0 && self.cold == Cold::Ndp)?;
        let (link, trip) = (self.link(), Trip::new(self.link(), model, runs));
        let device_gb_s = expert.bytes as f64 / expert.stream_ps as f64 * 1e3;
        let taken = (link.copy_gb_s() / device_gb_s).min(0.9);
        Some(NearData {
            expert,
            runs,
            trip,
            one_way_ps: link.one_way_ps(),
            launch_ps: link.launch_ps(),
            copy_ps,
            taken,
        })
    }

    fn energy(&self, model: &Model, gpu_runs: u32, copies: u32, cold_runs: u32) -> Energy {
        let gpu_bytes = model.dense_parameters as f64 * self.gpu_bits / 8.0
            + f64::from(gpu_runs) * model.expert_bytes(self.gpu_bits);
        let copied_bytes = f64::from(copies) * model.expert_bytes(self.gpu_bits);
        let near_data = self.ndp().zip(self.expert(model)).filter(|_| self.cold == Cold::Ndp);
        let (flit_bytes, ndp_bytes, macs) = near_data.map_or((0, 0.0, 0.0), |(_, expert)| {
            let count = f64::from(cold_runs);
            (Trip::wire_bytes(self.link(), model, cold_runs), count * expert.bytes as f64, count * expert.macs as f64)
        });
        let far_pj_per_bit = match (&near_data, &self.hardware.store) {
            (Some((ndp, _)), _) => ndp.memory.pj_per_bit,
            (None, Some(store)) => store.pj_per_bit,
            (None, None) => 0.0,
        };
        let round = |pj: f64| pj.round() as u64;
        Energy {
            gpu_memory_pj: round(gpu_bytes * 8.0 * self.gpu().memory_pj_per_bit),
            gpu_compute_pj: round(gpu_bytes * self.gpu().on_chip_pj_per_byte),
            link_pj: round((copied_bytes + flit_bytes as f64) * 8.0 * self.link().pj_per_bit),
            far_memory_pj: round((copied_bytes + ndp_bytes) * 8.0 * far_pj_per_bit),
            ndp_compute_pj: round(near_data.map_or(0.0, |(ndp, _)| macs * ndp.arrays.pj_per_mac)),
        }
    }
}

/// When everything of a layer happens. [`LayerTime`] and [`crate::events`] are two views of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) dense_ps: u64,
    pub(crate) select_ps: u64,
    pub(crate) update_ps: u64,
    /// One expert on the GPU.
    pub(crate) run_ps: u64,
    pub(crate) resident_runs: u32,
    /// Cold experts that run on the GPU, each after its copy; copies that no run waits for go first.
    pub(crate) copied_runs: u32,
    pub(crate) copies: u32,
    pub(crate) side: Side,
    pub(crate) near_data: Option<NearData>,
}

/// What goes on beside the GPU's resident experts; times from the router's decision on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    /// Link busy.
    pub(crate) link_ps: u64,
    /// Device busy.
    ndp_ps: u64,
    /// End of the last cold expert's run on the GPU, or arrival of its result there.
    end_ps: u64,
}

impl Schedule {
    const fn gpu_runs(&self) -> u32 {
        self.resident_runs.saturating_add(self.copied_runs)
    }

    const fn on_gpu_ps(&self) -> u64 {
        self.run_ps.saturating_mul(self.gpu_runs() as u64)
    }

    /// From the start of the layer to the router's decision, as the controller has it.
    pub(crate) const fn decided_ps(&self) -> u64 {
        self.dense_ps.saturating_add(self.select_ps)
    }

    fn total_ps(&self) -> u64 {
        let side = self.side.end_ps.max(self.side.link_ps);
        self.decided_ps().saturating_add(self.on_gpu_ps().max(side).max(self.update_ps))
    }
}

/// When the last of `runs` copied experts has run, if the GPU does nothing else: bound by the copies, or, from the first that is
/// there, by the runs. `copies_ps` is the time of the first so many copies.
fn copied_end(runs: u32, copies: u32, run_ps: u64, copies_ps: impl Fn(u32) -> u64) -> u64 {
    if runs == 0 {
        return 0;
    }
    let first = copies_ps(copies - runs + 1).saturating_add(run_ps.saturating_mul(u64::from(runs)));
    first.max(copies_ps(copies).saturating_add(run_ps))
}

/// Cold experts of a layer near the data; times of the device from its first read on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NearData {
    pub(crate) expert: Expert,
    pub(crate) runs: u32,
    pub(crate) trip: Trip,
    pub(crate) one_way_ps: u64,
    pub(crate) launch_ps: u64,
    /// Copies out of the device's memory at the same time.
    copy_ps: u64,
    /// Share of the memory's rate that they take.
    taken: f64,
}

impl NearData {
    /// First read, from the router's decision on.
    pub(crate) const fn start_ps(&self) -> u64 {
        self.trip.there_ps.saturating_add(self.one_way_ps).saturating_add(self.launch_ps)
    }

    /// A time of the device that has its memory to itself, as it is beside the copies.
    pub(crate) fn shared(&self, alone_ps: u64) -> u64 {
        slowed(alone_ps, self.copy_ps, self.taken)
    }

    /// Start and end of each result on the wire: when its expert is done, behind the one before.
    pub(crate) fn results(&self) -> impl Iterator<Item = (u64, u64)> {
        self.expert.queue_ends(self.runs).scan(0, |free, done| {
            let start = self.shared(done).max(*free);
            *free = start.saturating_add(self.trip.result_ps);
            Some((start, *free))
        })
    }

    fn side(&self, link: &Link) -> Side {
        let (there_ps, runs) = (self.trip.there_ps, u64::from(self.runs));
        let last_ps = self.results().last().map_or(0, |(_, end)| end);
        Side {
            link_ps: link.both_ways_ps(self.copy_ps.saturating_add(self.trip.result_ps.saturating_mul(runs)), there_ps),
            ndp_ps: self.shared(self.expert.queue_ps(self.runs)),
            end_ps: self.start_ps().saturating_add(last_ps).saturating_add(self.one_way_ps),
        }
    }
}

/// Messages of a layer: the token's activations once (all experts read the same), a descriptor for each expert, a result of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trip {
    /// Activations and descriptors on the wire.
    pub(crate) there_ps: u64,
    /// One result on the wire.
    pub(crate) result_ps: u64,
}

impl Trip {
    fn bytes(model: &Model, experts: u32) -> (u64, u64) {
        let activation = (model.activation_bytes() as u64).next_multiple_of(LINE_BYTES);
        (activation + LINE_BYTES * u64::from(experts), activation)
    }

    pub(crate) fn new(link: &Link, model: &Model, experts: u32) -> Self {
        let (there, result) = Self::bytes(model, experts);
        Self { there_ps: link.send(there).serial_ps, result_ps: link.send(result).serial_ps }
    }

    pub(crate) fn wire_bytes(link: &Link, model: &Model, experts: u32) -> u64 {
        if experts == 0 {
            return 0;
        }
        let (there, result) = Self::bytes(model, experts);
        link.wire_bytes(there) + u64::from(experts) * link.wire_bytes(result)
    }
}

/// Time of work that takes `alone_ps` by itself, while something else takes the share `taken` of its rate for `other_ps`.
pub(crate) fn slowed(alone_ps: u64, other_ps: u64, taken: f64) -> u64 {
    let stretched = alone_ps as f64 / (1.0 - taken);
    stretched.min(alone_ps as f64 + taken * other_ps as f64).round() as u64
}

impl File {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError::new("name", "empty", "must be given"));
        }
        within("gpu_bits", self.gpu_bits, 1.0, 32.0)?;
        self.gpu.validate()?;
        self.link.validate()?;
        if let Some(store) = &self.store {
            within("store.pj_per_bit", store.pj_per_bit, 0.0, 1e3)?;
        }
        if let Some(controller) = &self.controller {
            controller.validate()?;
        }
        match (self.cold, &self.ndp, self.ndp_bits) {
            (Cold::Gpu, None, None) => Ok(()),
            (Cold::Gpu, _, _) => Err(ConfigError::new("cold", "gpu", "must be \"ndp\" where ndp or ndp_bits is given")),
            (Cold::Ndp, Some(ndp), Some(bits)) => {
                within("ndp_bits", bits, 1.0, 32.0)?;
                ndp.validate()?;
                self.validate_near_data(ndp)
            }
            (Cold::Ndp, _, _) => Err(ConfigError::new("cold", "ndp", "needs both ndp and ndp_bits")),
        }
    }

    fn validate_near_data(&self, ndp: &Ndp) -> Result<(), ConfigError> {
        if self.link.flit.is_none() {
            return Err(ConfigError::new(
                "link.flit",
                "absent",
                "must be \"cxl-68\" or \"cxl-256\" where cold is \"ndp\"",
            ));
        }
        if self.store.is_some() {
            return Err(ConfigError::new(
                "store",
                "given",
                "must be absent where cold is \"ndp\": copies come from the device",
            ));
        }
        let (peak, copies) = (ndp.memory.peak_gb_s()?, self.link.copy_gb_s());
        if peak < copies {
            let rule =
                format!("must give more than the {copies:.1} GB/s that copies over the link take, not {peak:.1}");
            return Err(ConfigError::new("ndp.memory.channels", ndp.memory.channels, rule));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;

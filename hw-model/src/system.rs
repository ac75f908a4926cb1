//! A machine: GPU, link, near-data device and controller, put together from its file.
//!
//! Machines are files, `data/systems/*.toml`, which say what each number is and where it comes from;
//! [`System::from_toml`] reads others. What a machine does with a layer is said by [`crate::layer`] (time and energy),
//! [`crate::events`] (piece by piece) and [`crate::breakdown`] (one cold expert).
//!
//! Two of a token's eight experts are in GPU memory, six run near the data at 2 bits:
//!
//! ```
//! use cptr_hw_model::{ExpertRun, LayerWork, Model, System};
//!
//! let system = System::find("ndp").ok_or("no such machine")?;
//! let model = Model::find("Qwen3-30B-A3B").ok_or("no such model")?;
//! let (gpu, near_data) = ([ExpertRun::at(16.0); 2], [ExpertRun::at(2.0); 6]);
//! let layer = LayerWork { tokens: 1, gpu: &gpu, near_data: &near_data, ..LayerWork::default() };
//! let time = system.layer_time(model, &layer);
//! // The device is the slower side, and the GPU waits for its results.
//! assert!(time.gpu_ps < time.total_ps && time.ndp_ps < time.total_ps);
//! assert_eq!(system.layer_events(model, &layer).iter().map(|event| event.end_ps).max(), Some(time.total_ps));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::Deserialize;

use crate::controller::Controller;
use crate::dram::{ConfigError, Device};
use crate::drive::Drive;
use crate::gpu::Gpu;
use crate::host::Host;
use crate::link::{LINE_BYTES, Link};
use crate::model::Model;
use crate::ndp::{Expert, Ndp};
use crate::switch::Switch;
use crate::validate::within;
use crate::work::ExpertRun;

/// Where an expert runs that is not in GPU memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cold {
    /// On the GPU, after a copy over the link.
    Gpu,
    /// On the host's processor, out of host memory, where they lie.
    Host,
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
    /// How a drive is read; absent where the memory gives what the link takes.
    pub drive: Option<Drive>,
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
    /// Bits per weight of experts in GPU memory and on the link.
    pub gpu_bits: f64,
    /// Bits per weight of what every token reads: attention, shared experts, output head.
    pub dense_bits: f64,
    /// Bits per weight of the experts that run near the data: in the device, or on the host.
    pub ndp_bits: f64,
    /// Share of the keys and values that lie behind the link, from where the GPU reads them.
    pub kv_far_share: f64,
    /// Where the numbers come from, as a whole; the file says it for each.
    pub source: String,
    hardware: Arc<Parts>,
    known: Known,
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Parts {
    /// The GPU.
    pub gpu: Gpu,
    /// The link.
    pub link: Link,
    /// Where copies come from, where no other part is that.
    pub store: Option<Store>,
    /// The host's processor and memory.
    pub host: Option<Host>,
    /// The near-data device.
    pub ndp: Option<Ndp>,
    /// The device's controller.
    pub controller: Option<Controller>,
    /// What connects several GPUs.
    pub switch: Option<Switch>,
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

/// What is wrong with the file of a system.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    dense_bits: Option<f64>,
    ndp_bits: Option<f64>,
    #[serde(default)]
    kv_far_share: f64,
    source: String,
    gpu: Gpu,
    link: Link,
    store: Option<Store>,
    host: Option<Host>,
    ndp: Option<Ndp>,
    controller: Option<Controller>,
    switch: Option<Switch>,
}

const FILES: [&str; 10] = [
    include_str!("../data/systems/offload.toml"),
    include_str!("../data/systems/offload-a100.toml"),
    include_str!("../data/systems/laptop.toml"),
    include_str!("../data/systems/workstation.toml"),
    include_str!("../data/systems/spark.toml"),
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
        Self::from_toml_with(text, |_| Err("a file is read only where the machine is one".into()))
    }

    /// As [`Self::from_toml`]; where `ndp.memory.device` names a file, `read` gives its text.
    ///
    /// # Errors
    /// As there, and what is wrong with that file.
    pub fn from_toml_with(text: &str, read: impl Fn(&str) -> Result<String, String>) -> Result<Self, SystemError> {
        let mut file: File = toml::from_str(text).map_err(|error| SystemError::Syntax {
            line: error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
        })?;
        if let Some(Ndp { memory, .. }) = &mut file.ndp
            && memory.device.ends_with(".toml")
        {
            let device =
                read(&memory.device).and_then(|text| Device::from_toml(&text).map_err(|error| error.to_string()));
            let wrong = |rule: String| {
                ConfigError::new("ndp.memory.device", &memory.device, format!("must be a device: {rule}"))
            };
            memory.own_device = Some(device.map_err(wrong)?);
        }
        match (file.cold, file.ndp_bits) {
            (Cold::Gpu, Some(_)) => {
                return Err(ConfigError::new("cold", "gpu", "must be \"ndp\" where ndp or ndp_bits is given").into());
            }
            (Cold::Ndp, None) => return Err(ConfigError::new("cold", "ndp", "needs both ndp and ndp_bits").into()),
            _ => {}
        }
        let system = Self {
            name: file.name,
            summary: file.summary,
            cold: file.cold,
            gpu_bits: file.gpu_bits,
            dense_bits: file.dense_bits.unwrap_or(file.gpu_bits),
            ndp_bits: file.ndp_bits.unwrap_or(file.gpu_bits),
            kv_far_share: file.kv_far_share,
            source: file.source,
            hardware: Arc::new(Parts {
                gpu: file.gpu,
                link: file.link,
                store: file.store,
                host: file.host,
                ndp: file.ndp,
                controller: file.controller,
                switch: file.switch,
            }),
            known: Known::default(),
        };
        system.validate()?;
        Ok(system)
    }

    /// The same machine with other parts: for studies that vary one number.
    ///
    /// ```
    /// use cptr_hw_model::System;
    ///
    /// let system = System::find("offload").ok_or("no such machine")?;
    /// let wider = system.changed(|parts| parts.link.gt_s = 32.0)?;
    /// assert_eq!(wider.link().coded_gb_s(), 2.0 * system.link().coded_gb_s());
    /// assert!(system.changed(|parts| parts.gpu.memory_share = 2.0).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Values that no machine can have, as in [`System::from_toml`].
    pub fn changed(&self, change: impl FnOnce(&mut Parts)) -> Result<Self, SystemError> {
        let mut hardware = Parts::clone(&self.hardware);
        change(&mut hardware);
        // What is known of experts in the device stays true as long as the device does.
        let known = if hardware.ndp == self.hardware.ndp { self.known.clone() } else { Known::default() };
        let changed = Self { hardware: Arc::new(hardware), known, ..self.clone() };
        changed.validate()?;
        Ok(changed)
    }

    /// The file of the system called `name`, for those who change something in it.
    pub fn file(name: &str) -> Option<&'static str> {
        SYSTEMS.iter().zip(FILES).find(|(system, _)| system.name == name).map(|(_, text)| text)
    }

    /// This machine, with what `other` knows of experts near the data, and from now on both learn together; nothing of
    /// it where their devices differ. For machines that differ in their links: the DRAM is simulated once.
    #[must_use]
    pub fn knowing(mut self, other: &Self) -> Self {
        if self.ndp() == other.ndp() {
            self.known = other.known.clone();
        }
        self
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

    /// The host's processor and memory, if the file describes them.
    pub fn host(&self) -> Option<&Host> {
        self.hardware.host.as_ref()
    }

    /// The drive that experts are read from, if they lie on one.
    pub fn drive(&self) -> Option<&Drive> {
        self.hardware.store.as_ref()?.drive.as_ref()
    }

    /// Rate in the long run of copies from where the experts lie, in GB/s (10^9 bytes).
    #[must_use]
    pub fn copy_gb_s(&self) -> f64 {
        let link_gb_s = self.link().copy_gb_s();
        self.drive().map_or(link_gb_s, |drive| drive.rate_gb_s(link_gb_s))
    }

    /// A batch of copies of `bytes` bytes in all from where the experts lie, in picoseconds.
    #[must_use]
    pub fn copy_ps(&self, bytes: f64) -> u64 {
        let Some(drive) = self.drive().filter(|_| bytes > 0.0) else { return self.link().copy_ps(bytes) };
        let (link, start_ns) = (self.link(), self.link().copy_launch_ns);
        ((start_ns + drive.read_ns(bytes, link.copy_gb_s())) * 1e3).round() as u64
    }

    /// What a copy of `bytes` bytes takes beside its bytes at the rate of many, in nanoseconds: its start, and what it
    /// waits for its first byte.
    #[must_use]
    pub fn copy_start_ns(&self, bytes: f64) -> f64 {
        if self.drive().is_none() {
            return self.link().copy_launch_ns;
        }
        (self.copy_ps(bytes) as f64 / 1e3 - bytes / self.copy_gb_s()).max(0.0)
    }

    /// The switch between several GPUs, if the file describes one.
    pub fn switch(&self) -> Option<&Switch> {
        self.hardware.switch.as_ref()
    }

    /// Whether experts run where they lie: in a device, or on the host.
    pub fn runs_near_data(&self) -> bool {
        self.cold != Cold::Gpu
    }

    /// The controller, if the system has one.
    pub fn controller(&self) -> Option<&Controller> {
        self.hardware.controller.as_ref()
    }

    /// A request on its way to the controller, and its answer until the GPU notices it, in picoseconds: none where
    /// there is no device that the controller sits in.
    pub(crate) fn controller_trip_ps(&self) -> (u64, u64) {
        if self.ndp().is_none() || self.controller().is_none() {
            return (0, 0);
        }
        let line_ps = self.link().send(LINE_BYTES).serial_ps;
        (line_ps.saturating_add(self.link().one_way_ps()), line_ps.saturating_add(self.link().back_ps()))
    }

    /// An expert of `model` near the data; `None` where none runs there. The first call for a size simulates the
    /// DRAM, later ones remember, for all clones of the system.
    pub fn expert(&self, model: &Model, run: ExpertRun) -> Option<Expert> {
        if let (Cold::Host, Some(host)) = (self.cold, self.host()) {
            return Some(host.expert(model, run));
        }
        let ndp = self.ndp()?;
        let key = (model.expert_parameters(), run.bits.to_bits());
        // The lock is held while simulating: whoever asks for the same meanwhile would only simulate it again.
        let mut known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = || ndp.expert(model, run.bits, 1).expect("the device was validated when its file was read");
        let one = known.entry(key).or_insert_with(found);
        Some(if run.tokens == 1 { *one } else { ndp.for_tokens(one, model, run.bits, run.tokens) })
    }

    /// A kernel that reads `parameters` weights from GPU memory and multiplies them with tokens, in picoseconds.
    pub(crate) fn kernel_ps(&self, parameters: u64, run: ExpertRun) -> f64 {
        let parameters = parameters as f64;
        self.gpu().kernel_ps(parameters * run.bits / 8.0, parameters * f64::from(run.tokens))
    }

    /// Energy per bit read from the memory behind the link, in picojoules; 0 where the file names none.
    pub(crate) fn far_pj_per_bit(&self) -> f64 {
        let store = self.hardware.store.as_ref().map(|store| store.pj_per_bit);
        let host = self.host().map(|host| host.pj_per_bit);
        self.ndp().map(|ndp| ndp.memory.pj_per_bit).or(store).or(host).unwrap_or(0.0)
    }
}

impl System {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError::new("name", "empty", "must be given"));
        }
        within("gpu_bits", self.gpu_bits, 1.0, 32.0)?;
        within("dense_bits", self.dense_bits, 1.0, 32.0)?;
        within("ndp_bits", self.ndp_bits, 1.0, 32.0)?;
        within("kv_far_share", self.kv_far_share, 0.0, 1.0)?;
        let Parts { gpu, link, store, host, ndp, controller, switch } = &*self.hardware;
        gpu.validate()?;
        link.validate()?;
        if let Some(store) = store {
            within("store.pj_per_bit", store.pj_per_bit, 0.0, 1e3)?;
            store.drive.as_ref().map_or(Ok(()), Drive::validate)?;
        }
        if let Some(controller) = controller {
            controller.validate()?;
        }
        if let Some(host) = host {
            host.validate()?;
        }
        switch.as_ref().map_or(Ok(()), Switch::validate)?;
        if host.is_some() && self.cold != Cold::Host {
            return Err(ConfigError::new("host", "given", "must be absent where cold is not \"host\""));
        }
        if controller.is_some() && ndp.is_none() {
            return Err(ConfigError::new("controller", "given", "must be absent where ndp is"));
        }
        match (self.cold, ndp) {
            (Cold::Gpu, None) => Ok(()),
            (Cold::Gpu, Some(_)) => Err(ConfigError::new("cold", "gpu", "must be \"ndp\" where ndp is given")),
            (Cold::Host, None) if host.is_some() => Ok(()),
            (Cold::Host, None) => Err(ConfigError::new("cold", "host", "needs a host")),
            (Cold::Host, Some(_)) => Err(ConfigError::new("cold", "host", "must be \"ndp\" where ndp is given")),
            (Cold::Ndp, Some(ndp)) => {
                ndp.validate()?;
                self.validate_near_data(ndp)
            }
            (Cold::Ndp, None) => Err(ConfigError::new("cold", "ndp", "needs both ndp and ndp_bits")),
        }
    }

    fn validate_near_data(&self, ndp: &Ndp) -> Result<(), ConfigError> {
        if self.link().flit.is_none() {
            return Err(ConfigError::new(
                "link.flit",
                "absent",
                "must be \"cxl-68\" or \"cxl-256\" where cold is \"ndp\"",
            ));
        }
        if self.hardware.store.is_some() {
            return Err(ConfigError::new(
                "store",
                "given",
                "must be absent where cold is \"ndp\": copies come from the device",
            ));
        }
        let (peak, copies) = (ndp.memory.peak_gb_s()?, self.link().copy_gb_s());
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

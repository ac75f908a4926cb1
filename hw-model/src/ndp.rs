//! The near-data processing (NDP) device: how long it takes to run experts where they lie.
//!
//! An expert is one contiguous range, striped over all channels. It streams through a scratchpad of two halves: while
//! the arrays work on one chunk, the next is read. So a run takes the DRAM stream, plus the work on the last chunk; or,
//! where the arrays are the slower side, their work plus the first chunk. Queued experts follow without a gap.
//!
//! - **Stream**: the command-level DRAM model ([`crate::dram`]), mean over experts read one after the other, across
//!   refreshes. Cycles are exact; the clock is the nominal one ([`Memory::clock_mhz`]).
//! - **Arrays**: each takes `columns` weights a cycle (`columns` x 16/bits under [`MacRate::ScalesWith16OverBits`]) and
//!   multiplies them with up to `rows` tokens at once. One token uses one row of the array: that is why up to `rows`
//!   tokens of an expert cost no more than one.
//! - **Chunks** cost the fill of the arrays (rows + columns - 2 cycles) and the latency of dequantisation once each.
//!
//! Left out: the activation function (inside the pipeline of the arrays), moving the intermediate vector between
//! matrices (it stays in the scratchpad), a stop of the DRAM stream while a slower array works (hidden by the array),
//! ranks beyond the first.
use serde::Deserialize;

use crate::dram::{Config, ConfigError, Device, FastChannels, MappingKind, Refresh, presets};
use crate::model::Model;
use crate::validate::within;

/// How many multiplications an array does per cycle at few bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MacRate {
    /// 16/bits times those at 16 bits: weights of b bits are multiplied at b/16 of the cost. The paper's speed-ups hold
    /// only so.
    #[serde(rename = "scales_with_16_over_bits")]
    ScalesWith16OverBits,
    /// The same at all bits: weights are expanded to 16 bits first.
    Fixed,
}

/// Processing elements: `count` arrays of `rows` x `columns`, one multiply-accumulate (MAC) of 16 bits per element and
/// cycle.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrays {
    /// Arrays of the device.
    pub count: u32,
    /// Tokens that an array takes at once.
    pub rows: u32,
    /// Weights of 16 bits that an array takes per cycle.
    pub columns: u32,
    /// Clock in MHz.
    pub clock_mhz: f64,
    /// What happens at fewer bits.
    pub mac_rate: MacRate,
    /// Weights of fewer than 16 bits that the device expands per cycle; absent: as many as the arrays take.
    pub dequantised_weights_per_cycle: Option<f64>,
    /// Cycles from a packed weight to its value.
    pub dequantise_latency_cycles: u32,
    /// Energy of one MAC with its operands' way from the scratchpad, in picojoules.
    pub pj_per_mac: f64,
}

/// The device's own memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Name in [`presets::NAMES`], or the file of a device of one's own, ending in `.toml`.
    pub device: String,
    /// That device, once its file was read.
    #[serde(skip)]
    pub own_device: Option<Device>,
    /// Name of a [`MappingKind`] inside a channel.
    pub mapping: String,
    /// `ab`, `sb` or `none`, see [`Refresh`].
    pub refresh: String,
    /// Channels (DDR5: 32-bit sub-channels, two for each of 64 bits).
    pub channels: u32,
    /// Bytes from each channel in turn.
    pub stripe_bytes: u64,
    /// Nominal command clock in MHz; the device table rounds its period to whole picoseconds.
    pub clock_mhz: f64,
    /// Energy per bit read, in picojoules.
    pub pj_per_bit: f64,
}

/// A near-data device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ndp {
    /// Name for people.
    pub name: String,
    /// Capacity of the device in GB (10^9 bytes). Times do not depend on it: the model has one rank per channel.
    pub capacity_gb: f64,
    /// Scratchpad of the whole device in KiB, half of it for the chunk in work, half for the next.
    pub scratchpad_kib: u64,
    /// Memory channels.
    pub memory: Memory,
    /// Processing elements.
    pub arrays: Arrays,
}

/// One chunk: how long it is read, how long it is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Chunk {
    load_ps: u64,
    work_ps: u64,
}

/// What the time of an expert is made of; see [`Ndp::expert`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expert {
    /// Bytes read, whole stripes over all channels.
    pub bytes: u64,
    /// Multiply-accumulates for all tokens.
    pub macs: u64,
    /// Reading it from DRAM, mean across refreshes.
    pub stream_ps: u64,
    /// Arrays at work.
    pub work_ps: u64,
    /// Chunks, the last of which may be shorter.
    pub chunks: u64,
    full: Chunk,
    last: Chunk,
}

/// Reads longer than this are timed by their first part.
const LONGEST_READ: u64 = 1 << 30;

/// A mean takes at least so many experts and so many refresh intervals.
const MEAN_EXPERTS: u64 = 8;
const MEAN_REFRESHES: u64 = 256;

impl Memory {
    /// Device and controller of one channel by their names.
    ///
    /// # Errors
    /// A name that does not exist, by its field.
    pub fn parts(&self) -> Result<(Device, Config), ConfigError> {
        let list = |names: &[&str]| format!("must be one of {}", names.join(", "));
        let device = self
            .own_device
            .clone()
            .or_else(|| presets::by_name(&self.device))
            .ok_or_else(|| ConfigError::new("ndp.memory.device", &self.device, list(&presets::NAMES)))?;
        let mapping = MappingKind::by_name(&self.mapping).ok_or_else(|| {
            ConfigError::new("ndp.memory.mapping", &self.mapping, list(&MappingKind::ALL.map(MappingKind::name)))
        })?;
        let refresh = Refresh::by_name(&self.refresh)
            .ok_or_else(|| ConfigError::new("ndp.memory.refresh", &self.refresh, "must be one of none, ab, sb"))?;
        Ok((device, Config::new(mapping, refresh)))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let (device, config) = self.parts()?;
        within("ndp.memory.channels", f64::from(self.channels), 1.0, 4096.0)?;
        let most = device.organisation.capacity_bytes;
        if !(1..=most).contains(&self.stripe_bytes) {
            let rule = format!("must lie between 1 and {most}, the bytes of a channel");
            return Err(ConfigError::new("ndp.memory.stripe_bytes", self.stripe_bytes, rule));
        }
        let rename = |error: ConfigError| match error.field {
            "stripe_bytes" => ConfigError { field: "ndp.memory.stripe_bytes", ..error },
            _ => error,
        };
        FastChannels::new(&device, config, self.channels, self.stripe_bytes).map_err(rename)?;
        let table_mhz = 1e6 / f64::from(device.timing.t_ck_ps);
        // The table's period is rounded to picoseconds: half a per cent covers that.
        within("ndp.memory.clock_mhz", self.clock_mhz, (table_mhz * 0.995).floor(), (table_mhz * 1.005).ceil())?;
        within("ndp.memory.pj_per_bit", self.pj_per_bit, 0.0, 1e3)
    }

    /// Greatest rate of all channels in GB/s (10^9 bytes), at the nominal clock.
    ///
    /// # Errors
    /// Names that do not exist.
    pub fn peak_gb_s(&self) -> Result<f64, ConfigError> {
        let (device, _) = self.parts()?;
        let nominal = self.clock_mhz * f64::from(device.timing.t_ck_ps) / 1e6;
        Ok(device.peak_gb_s() * nominal * f64::from(self.channels))
    }

    /// Bytes of the smallest range that all channels share equally.
    const fn unit(&self) -> u64 {
        self.stripe_bytes * self.channels as u64
    }

    /// Mean time in picoseconds of reading `bytes` bytes (whole units), over reads laid end to end and following each
    /// other.
    fn stream_ps(&self, bytes: u64, refresh: Option<Refresh>) -> Result<f64, ConfigError> {
        let (device, mut config) = self.parts()?;
        config.refresh = refresh.unwrap_or(config.refresh);
        let mut channels = FastChannels::new(&device, config, self.channels, self.stripe_bytes)?;
        let unit = self.unit();
        let most = (channels.capacity() / unit).min(LONGEST_READ / unit).max(1) * unit;
        let part = bytes.min(most);
        let places = channels.capacity() / part;
        let refresh_cycles = MEAN_REFRESHES * u64::from(device.timing.n_refi);
        let mut reads = 0;
        while reads < MEAN_EXPERTS || channels.cycle() < refresh_cycles {
            let start = reads % places * part;
            channels.read(start, part).map_err(|error| {
                ConfigError::new("ndp.memory.channels", self.channels, format!("cannot be read: {error}"))
            })?;
            reads += 1;
        }
        let cycles = channels.cycle() as f64 / reads as f64;
        Ok(cycles * 1e6 / self.clock_mhz * (bytes as f64 / part as f64))
    }
}

impl Arrays {
    fn validate(&self) -> Result<(), ConfigError> {
        within("ndp.arrays.count", f64::from(self.count), 1.0, 1e6)?;
        within("ndp.arrays.rows", f64::from(self.rows), 1.0, 1e6)?;
        within("ndp.arrays.columns", f64::from(self.columns), 1.0, 1e6)?;
        within("ndp.arrays.clock_mhz", self.clock_mhz, 1.0, 1e5)?;
        if let Some(rate) = self.dequantised_weights_per_cycle {
            within("ndp.arrays.dequantised_weights_per_cycle", rate, 0.001, 1e12)?;
        }
        within("ndp.arrays.dequantise_latency_cycles", f64::from(self.dequantise_latency_cycles), 0.0, 1e6)?;
        within("ndp.arrays.pj_per_mac", self.pj_per_mac, 0.0, 1e6)
    }

    /// Weights per cycle that all arrays take, with the limit of dequantisation.
    pub fn weights_per_cycle(&self, bits: f64) -> f64 {
        let at_16_bits = f64::from(self.count) * f64::from(self.columns);
        let rate = match self.mac_rate {
            MacRate::ScalesWith16OverBits => at_16_bits * 16.0 / bits,
            MacRate::Fixed => at_16_bits,
        };
        match self.dequantised_weights_per_cycle {
            Some(limit) if bits < 16.0 => rate.min(limit),
            _ => rate,
        }
    }

    /// Work on a chunk of `weights` weights for `tokens` tokens.
    fn work_ps(&self, weights: f64, bits: f64, tokens: u32) -> u64 {
        let passes = f64::from(tokens.div_ceil(self.rows));
        let latency = if bits < 16.0 { self.dequantise_latency_cycles } else { 0 };
        let fill = f64::from(self.rows) + f64::from(self.columns) - 2.0 + f64::from(latency);
        let cycles = (passes * weights / self.weights_per_cycle(bits)).ceil() + fill;
        (cycles * 1e6 / self.clock_mhz).round() as u64
    }
}

impl Ndp {
    /// The device with `times` as many channels, arrays that keep up, room for their stripes, and no less capacity.
    pub fn widen(&mut self, times: f64) {
        let scaled = |number: u32| (f64::from(number) * times).round().max(1.0) as u32;
        self.memory.channels = scaled(self.memory.channels);
        self.arrays.count = scaled(self.arrays.count);
        self.scratchpad_kib = (self.scratchpad_kib as f64 * times.max(1.0)).ceil() as u64;
        self.capacity_gb *= times.max(1.0);
    }

    /// Refuses impossible values; fields are named below `ndp`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.memory.validate()?;
        self.arrays.validate()?;
        let (device, _) = self.memory.parts()?;
        let modelled_gb = (device.organisation.capacity_bytes * u64::from(self.memory.channels)) as f64 / 1e9;
        if !(self.capacity_gb.is_finite() && self.capacity_gb >= modelled_gb * 0.99) {
            let rule = format!("must be at least {modelled_gb:.1}, one rank on each of its channels");
            return Err(ConfigError::new("ndp.capacity_gb", self.capacity_gb, rule));
        }
        if self.scratchpad_kib.saturating_mul(512) < self.memory.unit() {
            let rule = format!("must hold two stripes over all channels, {} bytes", 2 * self.memory.unit());
            return Err(ConfigError::new("ndp.scratchpad_kib", self.scratchpad_kib, rule));
        }
        within("ndp.scratchpad_kib", self.scratchpad_kib as f64, 1.0, 1e9)
    }

    /// Bytes that an expert takes in the device: padded to whole stripes over all channels.
    fn padded_bytes(&self, model: &Model, bits: f64) -> u64 {
        (model.expert_bytes(bits).ceil() as u64).max(1).next_multiple_of(self.memory.unit())
    }

    /// One expert of `model` at `bits` bits per weight for `tokens` tokens. Simulates the DRAM: some milliseconds; keep
    /// the result.
    ///
    /// # Errors
    /// Names that do not exist: what [`Self::validate`] refuses.
    pub fn expert(&self, model: &Model, bits: f64, tokens: u32) -> Result<Expert, ConfigError> {
        let bytes = self.padded_bytes(model, bits);
        let stream_ps = self.memory.stream_ps(bytes, None)?.round() as u64;
        Ok(self.chunked(model, bits, tokens, bytes, stream_ps))
    }

    /// `expert`, which is one of `model` at `bits`, for another number of tokens: the stream stays as it is, nothing is
    /// simulated.
    pub(crate) fn for_tokens(&self, expert: &Expert, model: &Model, bits: f64, tokens: u32) -> Expert {
        self.chunked(model, bits, tokens, expert.bytes, expert.stream_ps)
    }

    /// The stream without refresh, for comparison.
    ///
    /// # Errors
    /// As [`Self::expert`].
    pub(crate) fn stream_without_refresh_ps(&self, model: &Model, bits: f64) -> Result<u64, ConfigError> {
        Ok(self.memory.stream_ps(self.padded_bytes(model, bits), Some(Refresh::None))?.round() as u64)
    }

    /// Cuts an expert into chunks of half a scratchpad.
    fn chunked(&self, model: &Model, bits: f64, tokens: u32, bytes: u64, stream_ps: u64) -> Expert {
        let unit = self.memory.unit();
        let chunk_bytes = (self.scratchpad_kib * 512 / unit * unit).min(bytes);
        let chunks = bytes.div_ceil(chunk_bytes);
        let last_bytes = bytes - (chunks - 1) * chunk_bytes;
        let weights = model.expert_parameters() as f64;
        let chunk_weights = weights * chunk_bytes as f64 / bytes as f64;
        let load_ps = (u128::from(stream_ps) * u128::from(chunk_bytes) / u128::from(bytes)) as u64;
        let full = Chunk { load_ps, work_ps: self.arrays.work_ps(chunk_weights, bits, tokens) };
        let last_weights = weights * last_bytes as f64 / bytes as f64;
        let last = Chunk {
            load_ps: stream_ps - (chunks - 1) * load_ps,
            work_ps: self.arrays.work_ps(last_weights, bits, tokens),
        };
        Expert {
            bytes,
            macs: model.expert_parameters().saturating_mul(u64::from(tokens)),
            stream_ps,
            work_ps: full.work_ps.saturating_mul(chunks - 1).saturating_add(last.work_ps),
            chunks,
            full,
            last,
        }
    }
}

impl Expert {
    /// One that is read and worked on in one go, in `run_ps`.
    pub(crate) fn at_once(bytes: u64, macs: u64, run_ps: u64) -> Self {
        let whole = Chunk { load_ps: run_ps, work_ps: 0 };
        Self { bytes, macs, stream_ps: run_ps, work_ps: 0, chunks: 1, full: whole, last: whole }
    }
}

/// Two halves of the scratchpad: when the reader is free, when the arrays are done with the chunk before, and with the
/// one before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Pipeline {
    read: u64,
    worked: u64,
    worked_before: u64,
}

impl Pipeline {
    /// One chunk: it is read as soon as its half is free, worked on when it is there and the arrays are.
    fn step(self, chunk: Chunk) -> Self {
        let read = self.read.max(self.worked_before).saturating_add(chunk.load_ps);
        Self { read, worked: read.max(self.worked).saturating_add(chunk.work_ps), worked_before: self.worked }
    }

    /// `count` equal chunks. Once a step only shifts all three times by the same, all further steps do.
    fn steps(mut self, chunk: Chunk, count: u64) -> Self {
        for done in 0..count {
            let next = self.step(chunk);
            let shift = next.worked - self.worked;
            if next.read - self.read == shift && next.worked_before - self.worked_before == shift {
                let later = |time: u64| time.saturating_add(shift.saturating_mul(count - done));
                return Self {
                    read: later(self.read),
                    worked: later(self.worked),
                    worked_before: later(self.worked_before),
                };
            }
            self = next;
        }
        self
    }
}

/// A chunk on its way: when it is read and when it is worked on, in picoseconds from the first read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkTimes {
    /// Which of the queued experts, from 0.
    pub(crate) expert: u32,
    /// Which of its chunks, from 0.
    pub(crate) chunk: u64,
    /// Start and end of reading.
    pub(crate) read_ps: (u64, u64),
    /// Start and end of the work.
    pub(crate) work_ps: (u64, u64),
}

impl Expert {
    /// When each of some queued experts is done, from the first read on. Cost: some steps for each.
    pub(crate) fn queue_ends<'a>(experts: impl IntoIterator<Item = &'a Self>) -> impl Iterator<Item = u64> {
        experts.into_iter().scan(Pipeline::default(), |pipeline, expert| {
            *pipeline = pipeline.steps(expert.full, expert.chunks - 1).step(expert.last);
            Some(pipeline.worked)
        })
    }

    /// Time of `experts` such experts, queued, from the first read to the end of the last one's work. Cost: linear in
    /// `experts`.
    pub fn queue_ps(&self, experts: u32) -> u64 {
        Self::queue_ends(std::iter::repeat_n(self, experts as usize)).last().unwrap_or(0)
    }

    /// Every chunk of some queued experts.
    pub(crate) fn queue_chunks<'a>(experts: impl IntoIterator<Item = &'a Self>) -> impl Iterator<Item = ChunkTimes> {
        let numbered = (0..).zip(experts);
        let chunks = numbered.flat_map(|(number, expert)| (0..expert.chunks).map(move |chunk| (number, expert, chunk)));
        chunks.scan(Pipeline::default(), |pipeline, (number, expert, chunk)| {
            let times = if chunk + 1 == expert.chunks { expert.last } else { expert.full };
            *pipeline = pipeline.step(times);
            let (read, worked) = (pipeline.read, pipeline.worked);
            let read_ps = (read.saturating_sub(times.load_ps), read);
            let work_ps = (worked.saturating_sub(times.work_ps), worked);
            Some(ChunkTimes { expert: number, chunk, read_ps, work_ps })
        })
    }

    /// Time of one expert.
    pub fn run_ps(&self) -> u64 {
        self.queue_ps(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::System;
    use proptest::prelude::*;

    fn paper() -> Ndp {
        System::find("ndp").unwrap().ndp().unwrap().clone()
    }

    fn model(name: &str) -> &'static Model {
        Model::find(name).unwrap()
    }

    #[test]
    fn peak_is_512() {
        assert!((paper().memory.peak_gb_s().unwrap() - 512.0).abs() < 1e-9);
    }

    /// 64 arrays take as many FP16 weights as the memory gives: exactly balanced at one token.
    #[test]
    fn compute_and_memory_are_balanced_at_16_bits() {
        let arrays = paper().arrays;
        assert_eq!(arrays.weights_per_cycle(16.0) * arrays.clock_mhz * 1e6 * 2.0, 512e9);
    }

    #[test]
    fn fewer_bits_save_time_only_if_the_arrays_follow() {
        let scaling = paper();
        let mut fixed = scaling.clone();
        fixed.arrays.mac_rate = MacRate::Fixed;
        let time = |ndp: &Ndp, bits| ndp.expert(model("mixtral-8x7b"), bits, 1).unwrap().run_ps() as f64;
        for (bits, ratio) in [(3.0, 16.0 / 3.0), (2.0, 8.0)] {
            let found = time(&scaling, 16.0) / time(&scaling, bits);
            assert!((found / ratio - 1.0).abs() < 0.02, "{bits} bits: {found}");
            // All that is left is what refresh and row changes cost at 16 bits.
            let found = time(&fixed, 16.0) / time(&fixed, bits);
            assert!((1.0..1.1).contains(&found), "{bits} bits: {found}");
        }
    }

    #[test]
    fn four_tokens_are_free_at_16_bits() {
        let ndp = paper();
        let time = |tokens| ndp.expert(model("mixtral-8x7b"), 16.0, tokens).unwrap().run_ps();
        assert_eq!(time(1), time(4));
        assert!(time(5) as f64 > 1.7 * time(4) as f64);
    }

    /// Published times of one expert at 2 bits and 512 GB/s; the model adds refresh and rows.
    #[test]
    fn expert_times_are_the_published_ones_and_a_refresh() {
        let ndp = paper();
        for (name, microseconds) in [
            ("Mixtral-8x7B", 86.0),
            ("Mixtral-8x22B", 147.0),
            ("gpt-oss-20b", 12.15),
            ("DeepSeek-V3", 21.5),
            ("DeepSeek-V2-Lite", 4.22),
            ("OLMoE", 3.07),
            ("Qwen3-30B-A3B", 2.3),
        ] {
            let found = ndp.expert(model(name), 2.0, 1).unwrap().stream_ps as f64 / 1e6;
            assert!((1.07..1.16).contains(&(found / microseconds)), "{name}: {found}");
        }
    }

    #[test]
    fn a_dequantiser_that_is_slow_sets_the_pace() {
        let mut ndp = paper();
        let fast = ndp.expert(model("olmoe"), 2.0, 1).unwrap();
        ndp.arrays.dequantised_weights_per_cycle = Some(256.0);
        let slow = ndp.expert(model("olmoe"), 2.0, 1).unwrap();
        assert!(slow.work_ps > 7 * fast.work_ps && slow.run_ps() > slow.work_ps);
        let at_16 = |ndp: &Ndp| ndp.expert(model("olmoe"), 16.0, 1).unwrap().run_ps();
        assert_eq!(at_16(&ndp), at_16(&paper()));
    }

    #[test]
    fn experts_beyond_the_capacity_have_a_time() {
        let huge = Model::new("huge", 1 << 20, 1 << 20);
        let expert = paper().expert(&huge, 16.0, 1).unwrap();
        assert!((expert.stream_ps as f64 / 1e12 / (huge.expert_bytes(16.0) / 512e9) - 1.09).abs() < 0.03);
    }

    #[test]
    fn impossible_devices_are_refused() {
        let change = |change: fn(&mut Ndp)| {
            let mut ndp = paper();
            change(&mut ndp);
            ndp.validate().unwrap_err().field
        };
        assert_eq!(change(|ndp| ndp.memory.device = "DDR9".into()), "ndp.memory.device");
        assert_eq!(change(|ndp| ndp.memory.mapping = "best".into()), "ndp.memory.mapping");
        assert_eq!(change(|ndp| ndp.memory.refresh = "all".into()), "ndp.memory.refresh");
        assert_eq!(change(|ndp| ndp.memory.channels = 0), "ndp.memory.channels");
        assert_eq!(change(|ndp| ndp.memory.channels = u32::MAX), "ndp.memory.channels");
        assert_eq!(change(|ndp| ndp.memory.stripe_bytes = 100), "ndp.memory.stripe_bytes");
        assert_eq!(change(|ndp| ndp.memory.stripe_bytes = u64::MAX), "ndp.memory.stripe_bytes");
        assert_eq!(change(|ndp| ndp.memory.clock_mhz = 1600.0), "ndp.memory.clock_mhz");
        assert_eq!(change(|ndp| ndp.arrays.count = 0), "ndp.arrays.count");
        assert_eq!(change(|ndp| ndp.arrays.clock_mhz = f64::INFINITY), "ndp.arrays.clock_mhz");
        assert_eq!(
            change(|ndp| ndp.arrays.dequantised_weights_per_cycle = Some(0.0)),
            "ndp.arrays.dequantised_weights_per_cycle"
        );
        assert_eq!(change(|ndp| ndp.scratchpad_kib = 9), "ndp.scratchpad_kib");
        assert_eq!(change(|ndp| ndp.capacity_gb = 1.0), "ndp.capacity_gb");
    }

    /// Every chunk by itself, from the definition.
    fn chunk_by_chunk(chunks: &[Chunk]) -> u64 {
        let (mut read_end, mut work_end) = (Vec::new(), Vec::new());
        for (i, chunk) in chunks.iter().enumerate() {
            let reader = if i > 0 { read_end[i - 1] } else { 0 };
            let half = if i > 1 { work_end[i - 2] } else { 0 };
            read_end.push(u64::max(reader, half) + chunk.load_ps);
            let arrays = if i > 0 { work_end[i - 1] } else { 0 };
            work_end.push(u64::max(arrays, read_end[i]) + chunk.work_ps);
        }
        work_end.last().copied().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn jumps_agree_with_chunk_by_chunk(
            chunks in 1u64..60, experts in 0u32..5, load_ps in 0u64..50, work_ps in 0u64..50, last_load in 0u64..60, last_work in 0u64..60,
        ) {
            let (full, last) = (Chunk { load_ps, work_ps }, Chunk { load_ps: last_load, work_ps: last_work });
            let expert = Expert { bytes: 0, macs: 0, stream_ps: 0, work_ps: 0, chunks, full, last };
            let one: Vec<Chunk> = (1..chunks).map(|_| full).chain([last]).collect();
            let all = one.repeat(experts as usize);
            prop_assert_eq!(expert.queue_ps(experts), chunk_by_chunk(&all));
        }

        /// The closed forms: bound by memory, or by the arrays.
        #[test]
        fn equal_chunks_have_a_closed_form(chunks in 1u64..1000, load_ps in 0u64..1000, work_ps in 0u64..1000) {
            let chunk = Chunk { load_ps, work_ps };
            let expert = Expert { bytes: 0, macs: 0, stream_ps: 0, work_ps: 0, chunks, full: chunk, last: chunk };
            prop_assert_eq!(expert.run_ps(), chunks * load_ps.max(work_ps) + load_ps.min(work_ps));
        }
    }
}

//! How far a time of the model may be off: the numbers of a machine that are not known well, each from its least to its
//! greatest, and what a token takes then.
//!
//! The numbers are taken to be wrong independently of each other, and the logarithms of their effects are combined as
//! the root of the sum of their squares, slower and faster apart. Which values are likely was chosen on five published
//! decode rates and is held to others: [`super::published`], docs/plan.md.

use cptr_hw_model::{Drive, Model, Parts, System};
use cptr_trace::Shape;
use cptr_trace::error::{Error, Result};

use super::{Misses, Place, Placed, token};
use crate::replay::Budget;
use crate::serving::{Step, StepTimes};

/// A number of a machine, and its least and greatest value beside the one that its file has.
pub struct Unknown {
    /// What it is.
    pub name: &'static str,
    /// The slowest and the fastest machine that may be meant.
    pub slowest: fn(&mut Parts),
    /// See [`Self::slowest`].
    pub fastest: fn(&mut Parts),
}

/// Share of peak memory bandwidth that GPU kernels reach.
pub const GPU_SHARE: (f64, f64) = (0.6, 0.95);
/// Launches: from engines that launch every operation by itself to those that fuse a layer to a dozen kernels, in parts
/// of the file's number.
pub const LAUNCHES: (f64, f64) = (2.0, 0.4);
/// Share of peak memory bandwidth that a host's kernels reach. The greatest was raised from 0.65 so that this project's
/// own on one core lie in it, 15.6 of the 23.5 GiB/s that it reads (docs/low-bit.md), which is not its memory's peak.
pub const HOST_SHARE: (f64, f64) = (0.25, 0.7);
/// A host's arithmetic, in parts of the file's number: weights in a second of two projects' kernels on one core, beside
/// those of this project's at 1 bit. llama.cpp's q4_0, as it lies in the file, has 0.49 times as many, 2 bits in groups
/// of 128 have 1.13 times as many (medians of docs/low-bit.md).
pub const HOST_ARITHMETIC: (f64, f64) = (0.5, 1.2);
/// Waking a host's threads, in parts of the file's number.
pub const HOST_LAUNCH: (f64, f64) = (4.0, 0.25);
/// Share of the link's bandwidth that copies reach: from engines that wait for each copy, or copy from pageable memory,
/// to whole batches out of pinned memory.
pub const COPY_SHARE: (f64, f64) = (0.2, 0.9);

/// What a read waits for its first byte of a drive, in parts of the file's number.
pub const DRIVE_LATENCY: (f64, f64) = (2.0, 0.5);
/// A drive's bandwidth, in parts of the file's number: sixteen reads at a time on one machine with other work went from
/// 0.70 to 1.27 of their median in nine runs, rounded (`SLOW` in the tests below).
pub const DRIVE_BANDWIDTH: (f64, f64) = (0.7, 1.25);
/// What a message waits for in a switch and the ports behind it, and what a collective takes to start, in parts of the
/// file's numbers.
pub const SWITCH_LATENCY: [f64; 2] = [4.0, 0.5];

/// Of all of them the last so many are those of copies.
const OF_COPIES: usize = 3;

/// All of them.
pub const UNKNOWNS: [Unknown; 8] = [
    Unknown {
        name: "share of the GPU's bandwidth",
        slowest: |parts| parts.gpu.memory_share = GPU_SHARE.0,
        fastest: |parts| parts.gpu.memory_share = GPU_SHARE.1,
    },
    Unknown {
        name: "launches of kernels",
        slowest: |parts| parts.gpu.kernel_launch_ns *= LAUNCHES.0,
        fastest: |parts| parts.gpu.kernel_launch_ns *= LAUNCHES.1,
    },
    Unknown {
        name: "share of the host's bandwidth",
        slowest: |parts| parts.host.iter_mut().for_each(|host| host.memory_share = HOST_SHARE.0),
        fastest: |parts| parts.host.iter_mut().for_each(|host| host.memory_share = HOST_SHARE.1),
    },
    Unknown {
        name: "the host's arithmetic",
        slowest: |parts| parts.host.iter_mut().for_each(|host| host.tflop_s *= HOST_ARITHMETIC.0),
        fastest: |parts| parts.host.iter_mut().for_each(|host| host.tflop_s *= HOST_ARITHMETIC.1),
    },
    Unknown {
        name: "waking the host's threads",
        slowest: |parts| wake(parts, HOST_LAUNCH.0),
        fastest: |parts| wake(parts, HOST_LAUNCH.1),
    },
    Unknown {
        name: "share of the link's bandwidth",
        slowest: |parts| parts.link.copy_efficiency = parts.link.copy_efficiency.min(COPY_SHARE.0),
        fastest: |parts| parts.link.copy_efficiency = parts.link.copy_efficiency.max(COPY_SHARE.1),
    },
    Unknown {
        name: "latency of a drive",
        slowest: |parts| drives(parts).for_each(|drive| drive.latency_ns *= DRIVE_LATENCY.0),
        fastest: |parts| drives(parts).for_each(|drive| drive.latency_ns *= DRIVE_LATENCY.1),
    },
    Unknown {
        name: "bandwidth of a drive",
        slowest: |parts| drives(parts).for_each(|drive| drive.gb_s *= DRIVE_BANDWIDTH.0),
        fastest: |parts| drives(parts).for_each(|drive| drive.gb_s *= DRIVE_BANDWIDTH.1),
    },
];

fn drives(parts: &mut Parts) -> impl Iterator<Item = &mut Drive> {
    parts.store.iter_mut().filter_map(|store| store.drive.as_mut())
}

fn wake(parts: &mut Parts, times: f64) {
    if parts.host.is_some() {
        parts.link.launch_ns *= times;
    }
}

/// Factors on tokens per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// At most 1.
    pub low: f64,
    /// At least 1.
    pub high: f64,
}

/// What a time becomes at the ends of what is unknown: squares of the logarithms, slower and faster apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spread {
    slower: f64,
    faster: f64,
}

impl Spread {
    /// At one end a time is `times` what it is.
    pub fn add(&mut self, times: f64) {
        let effect = times.ln();
        *(if effect > 0.0 { &mut self.slower } else { &mut self.faster }) += effect * effect;
    }

    /// All of them together.
    #[must_use]
    pub fn band(self) -> Band {
        Band { low: (-f64::sqrt(self.slower)).exp(), high: f64::sqrt(self.faster).exp() }
    }
}

/// The machine at both ends of each of its unknowns. `copies`: the least and the greatest share of the link that copies
/// reach, where that was measured; else [`COPY_SHARE`].
///
/// # Errors
/// A machine that is none at the ends of its band.
pub fn ends(system: &System, copies: Option<[f64; 2]>) -> Result<Vec<System>> {
    let mut ends = Vec::new();
    let mut add = |change: &dyn Fn(&mut Parts)| match system.changed(change) {
        Ok(changed) => {
            ends.push(changed);
            Ok(())
        }
        // A device that the copies outrun is refused; its link may be as slow as the file's.
        Err(_) if system.ndp().is_some() => Ok(()),
        Err(error) => Err(Error::new(error.to_string())),
    };
    let unknown = if copies.is_some() { &UNKNOWNS[..UNKNOWNS.len() - OF_COPIES] } else { &UNKNOWNS[..] };
    for unknown in unknown {
        add(&unknown.slowest)?;
        add(&unknown.fastest)?;
    }
    for share in copies.into_iter().flatten() {
        add(&|parts| parts.link.copy_efficiency = share)?;
    }
    Ok(ends)
}

/// The band of a token's rate.
///
/// # Errors
/// As [`ends`].
pub fn of(
    system: &System,
    model: &Model,
    context: u64,
    placed: &Placed,
    misses: &Misses,
    copies: Option<[f64; 2]>,
) -> Result<Band> {
    let time = |system: &System, placed: &Placed| token::busy(system, model, context, placed).token_us;
    let base = time(system, placed);
    let mut spread = Spread::default();
    ends(system, copies)?.iter().for_each(|end| spread.add(time(end, placed) / base));
    misses.ends(placed).iter().for_each(|end| spread.add(time(system, end) / base));
    Ok(spread.band())
}

/// A time that was counted choice by choice, for [`counted`].
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// The machine.
    pub system: &'a System,
    /// Sizes of the model.
    pub model: &'a Model,
    /// The recording.
    pub shape: Shape,
    /// Fast memory for experts.
    pub resident: Budget,
    /// Where experts were that were not there, and how often that was.
    pub place: Place,
    /// See [`Self::place`].
    pub miss_rate: f64,
    /// Tokens before, in the middle of what was timed.
    pub context: u64,
    /// Sequences side by side.
    pub sequences: usize,
    /// The strategy, where the band is to hold other texts of the same kind too.
    pub strategy: Option<&'static str>,
    /// As [`ends`] takes it.
    pub copies: Option<[f64; 2]>,
}

/// The band of a rate that was counted choice by choice: that of a mean token, or step, of the same machine with as
/// many experts elsewhere.
///
/// # Errors
/// As [`ends`].
pub fn counted(counted: &Counted<'_>) -> Result<Band> {
    let Counted { system, shape, .. } = *counted;
    // Of a model whose sizes were given by hand only these are known.
    let mut model = counted.model.clone();
    model.experts_per_token = shape.k as u64;
    model.experts = shape.experts as u64;
    if model.layers == 0 {
        model.layers = shape.layers as u64;
    }
    let resident = match counted.resident {
        Budget::Experts(experts) => experts as f64,
        Budget::Bytes { bytes, .. } => bytes as f64 / (model.expert_bytes(system.gpu_bits) * shape.layers as f64),
    };
    let placed = Placed {
        place: counted.place,
        resident_share: (resident / shape.experts as f64).min(1.0),
        // Experts may be copied more often than they are wanted.
        miss_rate: counted.miss_rate.min(1.0),
        strategy: counted.strategy,
    };
    let misses = Misses::counted();
    if counted.sequences == 1 {
        return of(system, &model, counted.context, &placed, &misses, counted.copies);
    }
    let step = Step::decode(counted.sequences as u64);
    let attended = model.attended(counted.context) * counted.sequences as f64;
    let time = |system: &System, placed: &Placed| StepTimes::new(system, &model, *placed).step_us(step, attended);
    let base = time(system, &placed);
    let mut spread = Spread::default();
    ends(system, counted.copies)?.iter().for_each(|end| spread.add(time(end, &placed) / base));
    misses.ends(&placed).iter().for_each(|end| spread.add(time(system, end) / base));
    Ok(spread.band())
}

/// Reads of a piece of work of [`drive`].
const READS: f64 = 100.0;

/// How fast a machine copies from a drive that is put in the place of its own, a hundred reads at a time, in GB/s, and
/// the band of that.
///
/// # Errors
/// A machine whose experts lie on no drive, a drive that is none.
pub fn drive(system: &System, drive: &Drive) -> Result<(f64, Band)> {
    if system.drive().is_none() {
        let found = &system.name;
        return Err(Error::new(format!(
            "--system: expected a machine with [store.drive], as laptop is, found {found}"
        )));
    }
    let change = |parts: &mut Parts| parts.store.iter_mut().for_each(|store| store.drive = Some(drive.clone()));
    let machine = system.changed(change).map_err(|error| Error::new(error.to_string()))?;
    let bytes = READS * drive.read_kib * 1024.0;
    let rate = |system: &System| bytes / system.copy_ps(bytes) as f64 * 1e3;
    let mut spread = Spread::default();
    ends(&machine, None)?.iter().for_each(|end| spread.add(rate(&machine) / rate(end)));
    Ok((rate(&machine), spread.band()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Direct reads of 128 KiB all over a file on a virtual drive, so many at a time: the median of nine runs in GB/s,
    /// and their range (docs/hardware.md). The band of a drive's bandwidth was chosen on one number of the first.
    type Measured = [(u32, f64, [f64; 2]); 6];
    /// Other work on the machine, 2026-11-30.
    const SLOW: Measured = [
        (1, 0.092, [0.060, 0.138]),
        (2, 0.241, [0.193, 0.292]),
        (4, 0.506, [0.370, 0.551]),
        (8, 0.662, [0.494, 0.987]),
        (16, 0.690, [0.481, 0.877]),
        (32, 0.644, [0.445, 0.738]),
    ];
    /// By `cptr drive`.
    const QUICK: Measured = [
        (1, 0.337, [0.286, 0.970]),
        (2, 0.510, [0.349, 1.020]),
        (4, 0.531, [0.366, 0.747]),
        (8, 0.525, [0.384, 0.564]),
        (16, 0.465, [0.431, 0.532]),
        (32, 0.438, [0.347, 0.473]),
    ];

    /// Latency from few reads in flight and bandwidth from sixteen predict the others.
    #[test]
    fn drives_that_were_measured_are_in_their_bands() {
        let (_, sixteen, range) = SLOW[4];
        let [low, high] = range.map(|gb_s| gb_s / sixteen);
        assert!((low - DRIVE_BANDWIDTH.0).abs() < 0.03 && (high - DRIVE_BANDWIDTH.1).abs() < 0.03, "{low} {high}");
        let system = System::find("laptop").unwrap();
        for (measured, shallow) in [(SLOW, 1), (QUICK, 0)] {
            let fitted = Drive::fitted(128.0, (measured[shallow].0, measured[shallow].1), measured[4].1);
            for (reads, gb_s, range) in measured {
                // The link of the laptop is ten times as fast: what is unknown of it is not what bounds this drive.
                let (found, band) = drive(system, &Drive { reads_in_flight: reads, ..fitted.clone() }).unwrap();
                let [low, high] = [found * band.low, found * band.high];
                println!("{reads:2} {gb_s:.3} {range:?} {found:.3} [{low:.3}, {high:.3}]");
                // One at a time sleeps and wakes on a busy machine, which the model does not know.
                assert!(reads == 1 || (found / gb_s - 1.0).abs() < 0.15, "{reads} {found} {gb_s}");
                assert!((low..=high).contains(&gb_s), "{reads} {gb_s} {band:?}");
            }
        }
        let refused = drive(System::find("offload").unwrap(), &Drive::fitted(128.0, (1, 1.0), 2.0)).unwrap_err();
        assert!(refused.to_string().contains("expected a machine with [store.drive]"), "{refused}");
    }

    #[test]
    fn ends_are_two_of_each_unknown_that_a_machine_has() {
        let count = |name: &str, copies| ends(System::find(name).unwrap(), copies).unwrap().len();
        assert_eq!((count("offload", None), count("offload", Some([0.5, 0.7]))), (16, 12));
        let mut spread = Spread::default();
        [1.1, 1.2, 0.9, 1.0].into_iter().for_each(|times| spread.add(times));
        let Band { low, high } = spread.band();
        assert!((low - (-(1.1_f64.ln().powi(2) + 1.2_f64.ln().powi(2)).sqrt()).exp()).abs() < 1e-12);
        assert!((high - 1.0 / 0.9).abs() < 1e-12);
    }
}

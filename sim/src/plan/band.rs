//! How far a time of the model may be off: the numbers of a machine that are not known well, each from its least to its
//! greatest, and what a token takes then.
//!
//! The numbers are taken to be wrong independently of each other, and the logarithms of their effects are combined as
//! the root of the sum of their squares, slower and faster apart. Which values are likely was chosen on five published
//! decode rates and is held to others: [`super::published`], docs/plan.md.

use cptr_hw_model::{Model, Parts, System};
use cptr_trace::error::{Error, Result};

use super::{Misses, Placed, token};

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
/// Share of peak memory bandwidth that a host's kernels reach.
pub const HOST_SHARE: (f64, f64) = (0.25, 0.65);
/// Waking a host's threads, in parts of the file's number.
pub const HOST_LAUNCH: (f64, f64) = (4.0, 0.25);
/// Share of the link's bandwidth that copies reach: from engines that wait for each copy, or copy from pageable memory,
/// to whole batches out of pinned memory.
pub const COPY_SHARE: (f64, f64) = (0.2, 0.9);

/// All of them, the link's last.
pub const UNKNOWNS: [Unknown; 5] = [
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
        name: "waking the host's threads",
        slowest: |parts| wake(parts, HOST_LAUNCH.0),
        fastest: |parts| wake(parts, HOST_LAUNCH.1),
    },
    Unknown {
        name: "share of the link's bandwidth",
        slowest: |parts| parts.link.copy_efficiency = parts.link.copy_efficiency.min(COPY_SHARE.0),
        fastest: |parts| parts.link.copy_efficiency = parts.link.copy_efficiency.max(COPY_SHARE.1),
    },
];

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

/// The band of a token's rate. `copies`: the least and the greatest share of the link that copies reach, where that was
/// measured; else [`COPY_SHARE`].
///
/// # Errors
/// A machine that is none at the ends of its band.
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
    // A device that the copies outrun is refused; its link may be as slow as the file's.
    let at = |change: &dyn Fn(&mut Parts)| match system.changed(change) {
        Ok(changed) => Ok(time(&changed, placed)),
        Err(_) if system.ndp().is_some() => Ok(base),
        Err(error) => Err(Error::new(error.to_string())),
    };
    let (mut slower, mut faster) = (0.0, 0.0);
    let mut add = |us: f64| {
        let effect = (us / base).ln();
        *(if effect > 0.0 { &mut slower } else { &mut faster }) += effect * effect;
    };
    let unknown = if copies.is_some() { &UNKNOWNS[..UNKNOWNS.len() - 1] } else { &UNKNOWNS[..] };
    for unknown in unknown {
        add(at(&unknown.slowest)?);
        add(at(&unknown.fastest)?);
    }
    for share in copies.into_iter().flatten() {
        add(at(&|parts| parts.link.copy_efficiency = share)?);
    }
    if placed.strategy.is_some() {
        for miss_rate in misses.band(placed.miss_rate, placed.resident_share) {
            add(time(system, &Placed { miss_rate, ..*placed }));
        }
    }
    Ok(Band { low: (-f64::sqrt(slower)).exp(), high: f64::sqrt(faster).exp() })
}

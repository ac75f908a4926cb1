//! Which machine runs a model how fast, and how: every way to place its experts on a machine, whether it fits, and the
//! time of a token with an error band.
//!
//! ```
//! use cptr_hw_model::{Model, System};
//! use cptr_sim::plan::{Misses, Question};
//!
//! let model = Model::find("gpt-oss-20b").ok_or("no such model")?;
//! let question = Question { context: 4096, bits: vec![4.0], ..Question::new(model, Misses::typical()) };
//! let ways = question.ways(System::find("workstation").ok_or("no such machine")?)?;
//! // 21 billion weights of four bits fit into 24 GB, and nothing beats that.
//! assert!(ways[0].fits && ways[0].place.name() == "all on GPU");
//! assert!(ways.iter().all(|way| way.tokens_per_s <= ways[0].tokens_per_s));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A token is [`System::layer_time`] over the numbers of cold experts that a layer may have, each as often as misses
//! that do not depend on each other make it, plus [`System::outside_layers`]. Its band combines the numbers of a
//! machine that are not known well ([`band`]).

pub mod band;
pub mod map;
mod misses;
pub mod parallel;
pub mod published;
mod token;

use cptr_hw_model::{Cold, Model, Parts, System};
use serde::Serialize;

pub use misses::Misses;
pub use token::{Busy, Placed};

use band::Band;
use cptr_trace::error::{Error, Result};

/// GPU memory that weights, keys and values do not get, in GB (10^9 bytes): buffers of engines, assumed.
pub const RESERVED_GB: f64 = 1.0;

/// Where a model's routed experts lie and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// All in GPU memory.
    Gpu,
    /// As many as fit in GPU memory, as a cache; the others are copied when they are wanted.
    Copied,
    /// As many layers as fit with all their experts in GPU memory; the experts of the others run on the host.
    Layers,
    /// The hot ones in GPU memory, chosen once; the others run where they lie: on the host, or in the device.
    NearData,
}

impl Place {
    /// Name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "all on GPU",
            Self::Copied => "copied",
            Self::Layers => "host layers",
            Self::NearData => "near data",
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The model, of which all sizes must be known.
    pub model: &'a Model,
    /// Tokens before the one that is timed.
    pub context: u64,
    /// Bits per weight of the experts, one answer each.
    pub bits: Vec<f64>,
    /// Bits per weight of attention, shared experts and head; `None`: those of the machine, if its file names others
    /// than those of experts, else 8 or those of the experts, if more.
    pub dense_bits: Option<f64>,
    /// Sequences whose keys and values GPU memory has to hold, each with [`Self::context`] tokens.
    pub sequences: u64,
    /// Whether experts that run in a device may have fewer bits there than elsewhere, those that the machine names.
    pub fewer_bits_near: bool,
    /// How often an expert is not where it is wanted.
    pub misses: Misses,
}

/// Makes one part of a machine twice as good.
type Widen = fn(&mut Parts);

/// What a machine would do with twice as much of one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// Of what.
    pub twice: &'static str,
    /// Tokens per second of the fastest way that fits then, and the band that holds them.
    pub tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub low_tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub high_tokens_per_s: f64,
}

/// One way to run the model on a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Way {
    /// The machine.
    pub system: String,
    /// Where experts are.
    pub place: Place,
    /// Bits per weight of experts in GPU memory and of copies.
    pub bits: f64,
    /// Bits per weight of experts that run where they lie; `None` where none do.
    pub near_bits: Option<f64>,
    /// What keeps, or chooses, the experts in GPU memory.
    pub strategy: Option<&'static str>,
    /// Whether there is memory for it.
    pub fits: bool,
    /// GPU memory that it takes, in GB (10^9 bytes), with [`RESERVED_GB`].
    pub gpu_gb: f64,
    /// Memory that it takes beside the GPU, in GB.
    pub far_gb: f64,
    /// What does not fit.
    pub short_of: Option<String>,
    /// Share of the experts in GPU memory.
    pub resident_share: f64,
    /// Choices that are not there.
    pub miss_rate: f64,
    /// Microseconds of a token.
    pub token_us: f64,
    /// Tokens per second, and the band that holds them.
    pub tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub low_tokens_per_s: f64,
    /// See [`Self::tokens_per_s`].
    pub high_tokens_per_s: f64,
    /// Microseconds of a token in which each part is busy.
    pub busy: Busy,
}

impl<'a> Question<'a> {
    /// Experts of 16, 8 and 4 bits, no context.
    #[must_use]
    pub fn new(model: &'a Model, misses: Misses) -> Self {
        Self {
            model,
            context: 0,
            bits: vec![16.0, 8.0, 4.0],
            dense_bits: None,
            sequences: 1,
            fewer_bits_near: true,
            misses,
        }
    }

    /// All ways to run the model on `system`, those that fit first, the fastest first.
    ///
    /// # Errors
    /// A model of which layers, experts or vocabulary are not known; bits that no machine has.
    pub fn ways(&self, system: &System) -> Result<Vec<Way>> {
        self.all_known()?;
        let mut ways = Vec::new();
        for &bits in &self.bits {
            // Where all experts fit, there is nothing to place.
            let all = self.way(system, Place::Gpu, bits, None)?;
            let others = if all.fits { Vec::new() } else { places(system) };
            ways.push(all);
            for place in others {
                for near_bits in self.near_bits(system, place, bits) {
                    ways.push(self.way(system, place, bits, near_bits)?);
                }
            }
        }
        ways.sort_by(|a, b| b.fits.cmp(&a.fits).then(b.tokens_per_s.total_cmp(&a.tokens_per_s)));
        Ok(ways)
    }

    fn all_known(&self) -> Result<()> {
        let Model { name, layers, experts, experts_per_token, vocabulary, .. } = self.model;
        if [*layers, *experts, *experts_per_token, *vocabulary].contains(&0) {
            return Err(Error::new(format!(
                "model: expected one whose layers, experts and head are known, found {name}"
            )));
        }
        Ok(())
    }

    /// What the fastest way that fits would gain if the machine had twice as much of each of its parts.
    ///
    /// # Errors
    /// As [`Self::ways`].
    pub fn changes(&self, system: &System) -> Result<Vec<Change>> {
        let twice: [(&'static str, Widen); 5] = [
            ("memory of the GPU", |parts| parts.gpu.memory_gb *= 2.0),
            ("bandwidth of its memory", |parts| parts.gpu.memory_gb_s *= 2.0),
            ("bandwidth of the link", |parts| parts.link.gt_s *= 2.0),
            ("bandwidth of the host", |parts| parts.host.iter_mut().for_each(|host| host.memory_gb_s *= 2.0)),
            ("bandwidth of the device", |parts| parts.ndp.iter_mut().for_each(|ndp| ndp.widen(2.0))),
        ];
        let fastest = |system: &System| {
            self.ways(system).map(|ways| {
                let fits = ways.into_iter().find(|way| way.fits);
                fits.map_or([0.0; 3], |way| [way.tokens_per_s, way.low_tokens_per_s, way.high_tokens_per_s])
            })
        };
        let [now, ..] = fastest(system)?;
        let mut changes = Vec::new();
        for (twice, change) in twice {
            // Faster than the fastest link there is, for one.
            let Ok(changed) = system.changed(change) else { continue };
            let [tokens_per_s, low_tokens_per_s, high_tokens_per_s] = fastest(&changed)?;
            if tokens_per_s > now * 1.02 {
                changes.push(Change { twice, tokens_per_s, low_tokens_per_s, high_tokens_per_s });
            }
        }
        changes.sort_by(|a, b| b.tokens_per_s.total_cmp(&a.tokens_per_s));
        Ok(changes)
    }

    /// The bits of experts that run where they lie: those of all, and fewer, if the machine is one for that.
    fn near_bits(&self, system: &System, place: Place, bits: f64) -> Vec<Option<f64>> {
        match place {
            Place::NearData if self.fewer_bits_near && system.ndp_bits < bits && system.ndp().is_some() => {
                vec![Some(bits), Some(system.ndp_bits)]
            }
            Place::NearData | Place::Layers => vec![Some(bits)],
            Place::Gpu | Place::Copied => vec![None],
        }
    }

    /// The machine at the bits of a way, and how its experts lie: what a batch on it needs to know.
    ///
    /// # Errors
    /// As [`Self::ways`].
    pub fn machine(&self, system: &System, way: &Way) -> Result<(System, Placed)> {
        let system = self.at_bits(system, way.bits, way.near_bits)?;
        let (placed, _) = self.placed(&system, way.place);
        Ok((system, placed))
    }

    fn way(&self, system: &System, place: Place, bits: f64, near_bits: Option<f64>) -> Result<Way> {
        let system = self.at_bits(system, bits, near_bits)?;
        let (placed, memory) = self.placed(&system, place);
        let busy = token::busy(&system, self.model, self.context, &placed);
        let Band { low, high } = band::of(&system, self.model, self.context, &placed, &self.misses, None)?;
        let tokens_per_s = 1e6 / busy.token_us;
        Ok(Way {
            system: system.name.clone(),
            place,
            bits,
            near_bits,
            strategy: placed.strategy,
            fits: memory.short_of.is_none(),
            gpu_gb: memory.gpu_gb,
            far_gb: memory.far_gb,
            short_of: memory.short_of,
            resident_share: placed.resident_share,
            miss_rate: placed.miss_rate,
            token_us: busy.token_us,
            tokens_per_s,
            low_tokens_per_s: tokens_per_s * low,
            high_tokens_per_s: tokens_per_s * high,
            busy,
        })
    }

    fn at_bits(&self, system: &System, bits: f64, near_bits: Option<f64>) -> Result<System> {
        let mut system = system.clone();
        let own = Some(system.dense_bits).filter(|&dense| dense != system.gpu_bits);
        system.gpu_bits = bits;
        system.dense_bits = self.dense_bits.or(own).unwrap_or(bits.max(8.0));
        system.ndp_bits = near_bits.unwrap_or(bits);
        // Checks the bits too.
        system.changed(|_| ()).map_err(|error| Error::new(error.to_string()))
    }

    /// How much lies where.
    fn placed(&self, system: &System, place: Place) -> (Placed, Memory) {
        let gb = |parameters: u64, bits: f64| parameters as f64 * bits / 8e9;
        let experts_gb = gb(self.model.routed_parameters(), system.gpu_bits);
        // The embedding has as many weights as the head; a row of it is read per token.
        // Layers with a window keep no more than it.
        let kept = self.model.attended(self.context) * self.sequences as f64;
        let kv_gb = kept * self.model.kv_bytes(1) * self.model.all_layers() as f64 / 1e9;
        let dense_gb = gb(self.model.always_read() + self.model.head_parameters(), system.dense_bits);
        let other_gb = RESERVED_GB + dense_gb + kv_gb * (1.0 - system.kv_far_share);
        let free_gb = (system.gpu().memory_gb - other_gb).max(0.0);
        let per_layer = self.model.experts;
        // Whole experts in every layer, at least as many as a token takes: they run there.
        let fit = ((free_gb / experts_gb).min(1.0) * per_layer as f64).floor() as u64;
        let least = if place == Place::Copied { self.model.experts_per_token } else { 0 };
        let resident = match place {
            Place::Gpu => 1.0,
            // Layers as a whole, the experts of each of the same size.
            Place::Layers => {
                ((free_gb / experts_gb).min(1.0) * self.model.layers as f64).floor() / self.model.layers as f64
            }
            _ => fit.max(least) as f64 / per_layer as f64,
        };
        let far_gb = match place {
            Place::Gpu => 0.0,
            // Caches and placements that may change have all experts behind them.
            Place::Copied => experts_gb,
            Place::NearData => gb(self.model.routed_parameters(), system.ndp_bits),
            Place::Layers => experts_gb * (1.0 - resident),
        };
        let placed = Placed::new(place, resident, &self.misses);
        (placed, Memory::new(system, place, other_gb + experts_gb * resident, far_gb))
    }
}

/// What a way takes, and what it lacks.
struct Memory {
    gpu_gb: f64,
    far_gb: f64,
    short_of: Option<String>,
}

impl Memory {
    fn new(system: &System, place: Place, gpu_gb: f64, far_gb: f64) -> Self {
        let (gpu, far) = (system.gpu(), far_memory_gb(system));
        let short_of = if gpu_gb > gpu.memory_gb {
            Some(format!("{} has {:.0} GB", gpu.name, gpu.memory_gb))
        } else {
            far.filter(|&(_, gb)| place != Place::Gpu && far_gb > gb).map(|(name, gb)| format!("{name} has {gb:.0} GB"))
        };
        Self { gpu_gb, far_gb, short_of }
    }
}

/// Memory beside the GPU, where the machine says how much it has.
fn far_memory_gb(system: &System) -> Option<(&str, f64)> {
    let device = system.ndp().map(|ndp| (ndp.name.as_str(), ndp.capacity_gb));
    device.or_else(|| system.host().map(|host| (host.name.as_str(), host.memory_gb)))
}

/// What a machine can do with experts that are not all in GPU memory.
fn places(system: &System) -> Vec<Place> {
    match system.cold {
        Cold::Gpu => vec![Place::Copied],
        Cold::Host => vec![Place::Copied, Place::Layers, Place::NearData],
        Cold::Ndp => vec![Place::Copied, Place::NearData],
    }
}

#[cfg(test)]
mod tests;

//! At how many bits the experts of a row run.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use cptr_core::bits::{Losses, MAX_BITS, Split, scratch_for, split_globally};

use cptr_model::model::{Config, Expert};
use cptr_model::quantize::replicas::{LOSS_TABLE, Replicas};
use cptr_trace::LossTable;
use cptr_trace::error::{Error, Result};

/// Bits per weight, as the command line has them: `own`, `3`, `mean:2.5`, `cold:2`, `cold:mean:3`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    width: Width,
    /// Whether experts in fast memory run the model's own weights.
    cold_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    /// The model's own weights.
    Own,
    /// The same for all experts.
    Uniform(u8),
    /// This many on average over all experts of all layers, chosen from the loss table.
    Mean(f64),
}

impl Precision {
    /// The model's own weights everywhere.
    pub const OWN: Self = Self { width: Width::Own, cold_only: false };

    /// Bits of every expert `[L, E]`, 0 for the model's own weights.
    fn table(self, replicas: Option<&Quantised>, config: &Config) -> Result<Vec<u8>> {
        let count = config.moe_layers.len() * config.experts;
        let needed = || replicas.ok_or_else(|| Error::new("--replicas: expected the folder that cptr quantize wrote"));
        match self.width {
            Width::Own => Ok(vec![0; count]),
            Width::Uniform(bits) => needed()?.has(bits).map(|()| vec![bits; count]),
            Width::Mean(mean) => needed()?.select(mean, config),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cold = if self.cold_only { "cold:" } else { "" };
        match self.width {
            Width::Own => f.write_str("own"),
            Width::Uniform(bits) => write!(f, "{cold}{bits}"),
            Width::Mean(mean) => write!(f, "{cold}mean:{mean}"),
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (cold_only, rest) = match text.strip_prefix("cold:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mean = rest.strip_prefix("mean:").and_then(|number| number.parse::<f64>().ok());
        let width = match (rest, rest.parse::<u8>(), mean) {
            ("own", ..) if !cold_only => Width::Own,
            (_, Ok(bits @ 1..=4), _) => Width::Uniform(bits),
            (.., Some(mean)) if (1.0..=4.0).contains(&mean) => Width::Mean(mean),
            _ => {
                return Err(Error::new(format!(
                    "--expert-bits: expected own, 1 to 4, mean:1 to mean:4, or one of these but own behind cold:, found \"{text}\""
                )));
            }
        };
        Ok(Self { width, cold_only })
    }
}

/// Replicas of a model's experts with what they lose.
#[derive(Debug)]
pub struct Quantised {
    replicas: Mutex<Replicas>,
    table: LossTable,
}

impl Quantised {
    /// Opens what `cptr quantize` wrote for a model.
    ///
    /// # Errors
    /// If a file is missing or damaged, or made for another model.
    pub fn open(folder: &Path, config: &Config) -> Result<Self> {
        let path = folder.join(LOSS_TABLE);
        let table = LossTable::read(&path)?;
        let (expected, found) = ([config.moe_layers.len(), config.experts], [table.layers(), table.experts()]);
        if found != expected {
            let sizes = format!("expected losses of {expected:?} layers and experts as the model has, found {found:?}");
            return Err(Error::in_file(&path, sizes));
        }
        Ok(Self { replicas: Mutex::new(Replicas::open(folder, config)?), table })
    }

    fn has(&self, bits: u8) -> Result<()> {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        match replicas.bits() {
            there if there.contains(&bits) => Ok(()),
            there => Err(Error::new(format!(
                "--expert-bits: expected bits that there are replicas for, {there:?}, found {bits}"
            ))),
        }
    }

    /// An expert at some bits.
    pub(super) fn expert(&self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        Ok(self.replicas.lock().unwrap_or_else(PoisonError::into_inner).expert(layer, expert, bits)?)
    }

    /// Bits of every expert `[L, E]` so that their mean is `mean` and the loss, weighted by use, is least: the core's selector, which
    /// shares one budget over the layers and gives the most bits to the experts that lose most at few.
    fn select(&self, mean: f64, config: &Config) -> Result<Vec<u8>> {
        let (layers, experts) = (config.moe_layers.len(), config.experts);
        (1..=MAX_BITS as u8).try_for_each(|bits| self.has(bits))?;
        let loss = |layer: usize, expert: usize, bits: usize| {
            self.table.usage(layer, expert) * self.table.expert(layer, expert)[bits]
        };
        let largest =
            (0..layers * experts).map(|i| loss(i / experts, i % experts, 0)).fold(f64::MIN_POSITIVE, f64::max);
        let scaled = |layer, expert, bits| (loss(layer, expert, bits) / largest * f64::from(1 << 30)).round() as i32;
        let mut ranks: Vec<Vec<usize>> = Vec::new();
        let mut losses: Vec<Vec<Losses>> = Vec::new();
        for layer in 0..layers {
            let mut ranked: Vec<(usize, Losses)> =
                (0..experts).map(|expert| (expert, std::array::from_fn(|bits| scaled(layer, expert, bits)))).collect();
            ranked.sort_by_key(|(_, losses)| std::cmp::Reverse(losses[0] - losses[MAX_BITS - 1]));
            ranks.push(ranked.iter().map(|(expert, _)| *expert).collect());
            losses.push(ranked.into_iter().map(|(_, losses)| losses).collect());
        }
        let increments = ((mean - 1.0) * (layers * experts) as f64).round() as u32;
        let (mut scratch, mut splits) = (vec![0; scratch_for(experts)], vec![Split::default(); layers]);
        let slices: Vec<&[Losses]> = losses.iter().map(Vec::as_slice).collect();
        split_globally(&slices, increments, &mut scratch, &mut splits)
            .map_err(|error| Error::new(error.to_string()))?;
        let mut bits = vec![0; layers * experts];
        for (layer, (split, ranked)) in splits.iter().zip(&ranks).enumerate() {
            for (rank, expert) in ranked.iter().enumerate() {
                bits[layer * experts + expert] = split.bits(rank).unwrap_or(1);
            }
        }
        Ok(bits)
    }
}

/// What a row runs at which bits.
#[derive(Debug)]
pub(super) struct Widths<'a> {
    /// Bits of every expert `[L, E]`.
    bits: Vec<u8>,
    experts: usize,
    cold_only: bool,
    replicas: Option<&'a Quantised>,
}

impl<'a> Widths<'a> {
    pub(super) fn new(precision: Precision, replicas: Option<&'a Quantised>, config: &Config) -> Result<Self> {
        Ok(Self {
            bits: precision.table(replicas, config)?,
            experts: config.experts,
            cold_only: precision.cold_only,
            replicas,
        })
    }

    /// Bits of an expert, which was in fast memory or not.
    pub(super) fn of(&self, layer: usize, expert: u16, resident: bool) -> u8 {
        if self.cold_only && resident { 0 } else { self.bits[layer * self.experts + usize::from(expert)] }
    }

    /// Mean bits of all experts, where all run replicas.
    pub(super) fn mean(&self) -> f64 {
        self.bits.iter().map(|&bits| f64::from(bits)).sum::<f64>() / self.bits.len() as f64
    }

    pub(super) fn replica(&self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        match self.replicas {
            Some(replicas) => replicas.expert(layer, expert, bits),
            None => Err(Error::new(format!("expected replicas at {bits} bits, found none"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        for text in ["own", "1", "4", "mean:2.5", "cold:2", "cold:mean:3"] {
            assert_eq!(text.parse::<Precision>().unwrap().to_string(), text);
        }
        for text in ["", "0", "5", "cold:own", "mean:0.5", "mean:", "cold:", "mean:NaN", "cold:cold:2"] {
            assert!(text.parse::<Precision>().unwrap_err().to_string().contains("expected own, 1 to 4"), "{text}");
        }
    }
}

//! How much fast memory there is for experts.

use std::fmt;
use std::str::FromStr;

use cptr_core::placement::{Candidate, hot_globally};
use cptr_trace::error::{Error, Result};

use crate::strategy::residency::Ranking;

/// Fast memory for experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// So many experts at full precision in every layer.
    Experts(usize),
    /// So many bytes for all layers together.
    Bytes {
        /// How many.
        bytes: u64,
        /// How layers share them.
        split: Split,
    },
}

/// How layers share bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Every layer gets as many.
    Equal,
    /// Layers whose experts the prompt wanted more unequally get more.
    Global,
}

/// Units of bytes.
const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// `16`: experts per layer; `8GB` or `512MiB:split=global`: bytes for all layers together.
impl FromStr for Budget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(format!(
                "expected experts per layer (16), or bytes for all layers (8GB, 512MiB, 8GB:split=global), found \"{text}\""
            ))
        };
        let (size, split) = match text.split_once(':') {
            None => (text, Split::Equal),
            Some((size, "split=equal")) => (size, Split::Equal),
            Some((size, "split=global")) => (size, Split::Global),
            Some(_) => return Err(wrong()),
        };
        for (unit, factor) in UNITS {
            if let Some(number) = size.strip_suffix(unit) {
                let number = number.trim_end().parse::<f64>().ok().filter(|number| (0.0..1e6).contains(number));
                let bytes = number.ok_or_else(wrong)? * factor as f64;
                return Ok(Self::Bytes { bytes: bytes.round() as u64, split });
            }
        }
        match (size.parse(), text.contains(':')) {
            (Ok(experts), false) => Ok(Self::Experts(experts)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Experts(experts) => write!(f, "{experts}"),
            Self::Bytes { bytes, split } => {
                let unit = UNITS.iter().rev().find(|(_, factor)| *bytes >= *factor && bytes % factor == 0);
                match unit {
                    Some((unit, factor)) => write!(f, "{}{unit}", bytes / factor)?,
                    None => write!(f, "{}KB", *bytes as f64 / 1e3)?,
                }
                f.write_str(if *split == Split::Global { ":split=global" } else { "" })
            }
        }
    }
}

impl Budget {
    /// Bits per weight of an expert that fit in every layer, at first: a split by what the prompt wanted comes behind
    /// it.
    pub(crate) fn equal(self, layers: usize, expert_bytes: Option<f64>, full_bits: u8) -> Result<u32> {
        match self {
            Self::Experts(experts) => Ok(experts as u32 * u32::from(full_bits)),
            Self::Bytes { bytes, .. } => {
                let expert_bytes = expert_bytes.ok_or_else(|| {
                    Error::new(
                        "--resident: expected experts per layer, as the model's sizes are not known, found bytes",
                    )
                })?;
                Ok((bytes as f64 / layers as f64 / expert_bytes * f64::from(full_bits)) as u32)
            }
        }
    }

    /// Experts of each layer that fit if layers share by what the prompt wanted; `None` where they share equally.
    pub(crate) fn global(self, rankings: &[Ranking], expert_bytes: f64) -> Option<Vec<usize>> {
        let Self::Bytes { bytes, split: Split::Global } = self else { return None };
        let mut candidates: Vec<Candidate> = rankings
            .iter()
            .zip(0u16..)
            .flat_map(|(ranking, layer)| {
                let experts = ranking.importance.iter().zip(0u16..);
                experts.map(move |(&importance, expert)| Candidate { importance, layer, expert })
            })
            .collect();
        let hot = hot_globally(&mut candidates, expert_bytes.ceil() as u64, bytes);
        let mut counts = vec![0; rankings.len()];
        candidates[..hot].iter().for_each(|candidate| counts[usize::from(candidate.layer)] += 1);
        Some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_core::Gate;

    #[test]
    fn texts_survive() {
        for text in ["16", "8GB", "512MiB", "8GB:split=global", "1500MB", "3KiB"] {
            assert_eq!(text.parse::<Budget>().unwrap().to_string(), text);
        }
        assert_eq!("1.5GB".parse(), Ok(Budget::Bytes { bytes: 1_500_000_000, split: Split::Equal }));
        for text in ["", "-1", "1.5", "8GG", "GB", "16:split=global", "8GB:split=best", "-8GB"] {
            assert!(
                text.parse::<Budget>().unwrap_err().to_string().starts_with("expected experts per layer (16)"),
                "{text}"
            );
        }
    }

    #[test]
    fn bytes_are_shared() {
        let bytes = Budget::Bytes { bytes: 100, split: Split::Equal };
        assert_eq!(bytes.equal(2, Some(16.0), 16).unwrap(), 50);
        assert_eq!(Budget::Experts(3).equal(2, None, 16).unwrap(), 48);
        assert!(bytes.equal(2, None, 16).is_err());
        let ranking =
            |importance: [f64; 3]| Ranking { importance: importance.map(Gate::from_num).to_vec(), order: vec![] };
        let rankings = [ranking([0.9, 0.1, 0.0]), ranking([0.3, 0.3, 0.4])];
        let global = Budget::Bytes { bytes: 64, split: Split::Global };
        assert_eq!(global.global(&rankings, 16.0), Some(vec![1, 3]));
        assert_eq!(bytes.global(&rankings, 16.0), None);
    }
}

//! Parts of a sweep, for several machines.

use std::fmt;
use std::str::FromStr;

use cptr_trace::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Shards that a sweep may have.
const MOST: usize = 100_000;

/// Part `number` of `of`, counted from 1: every `of`th point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which part.
    pub number: usize,
    /// Of how many.
    pub of: usize,
}

impl Shard {
    /// The whole sweep.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// Whether a point is in this part.
    #[must_use]
    pub fn has(self, point: usize) -> bool {
        point % self.of == self.number - 1
    }

    /// Points of this part, of so many in all.
    #[must_use]
    pub fn share(self, points: usize) -> usize {
        (points + self.of - self.number) / self.of
    }

    /// The part that a task of an array of Slurm jobs has to do; `None` outside of one. `variable` gives environment
    /// variables.
    ///
    /// # Errors
    /// An array with gaps: which of the parts are to be done cannot be told from its tasks.
    pub fn of_slurm(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let Some(id) = variable("SLURM_ARRAY_TASK_ID") else { return Ok(None) };
        let number = |name: &str, default: Option<usize>| {
            let text = variable(name);
            let found = text.as_deref().map_or(default, |text| text.parse().ok());
            let wrong =
                || Error::new(format!("{name}: expected a number, found \"{}\"", text.as_deref().unwrap_or("")));
            found.ok_or_else(wrong)
        };
        let (count, least) = (number("SLURM_ARRAY_TASK_COUNT", None)?, number("SLURM_ARRAY_TASK_MIN", None)?);
        let (task, step) = (number("SLURM_ARRAY_TASK_ID", None)?, number("SLURM_ARRAY_TASK_STEP", Some(1))?.max(1));
        let place = task.checked_sub(least).filter(|place| place % step == 0).map(|place| place / step);
        // Without the last task it is taken that there are no gaps.
        let most = number("SLURM_ARRAY_TASK_MAX", Some(least + count.saturating_sub(1) * step))?;
        let gaps = most.checked_sub(least).is_none_or(|wide| wide / step + 1 != count);
        match place {
            Some(place) if place < count && !gaps => Ok(Some(Self { number: place + 1, of: count })),
            _ => Err(Error::new(format!(
                "--shard: expected an array of Slurm without gaps to take it from, found task {id} of {count} between \
                 {least} and {most}: say --shard I/N"
            ))),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// `3/8`.
impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) && of <= MOST => Ok(Self { number, of }),
            _ => Err(Error::new(format!("expected a part of all, such as 3/8, of at most {MOST}, found \"{text}\""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slurm(variables: &[(&str, &str)]) -> Result<Option<Shard>> {
        Shard::of_slurm(|name| {
            let name = name.strip_prefix("SLURM_ARRAY_TASK_")?;
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn tasks_of_slurm_are_parts() {
        assert_eq!(slurm(&[]), Ok(None));
        let whole = [("ID", "5"), ("COUNT", "8"), ("MIN", "1"), ("MAX", "8")];
        assert_eq!(slurm(&whole), Ok(Some(Shard { number: 5, of: 8 })));
        let stepped = [("ID", "10"), ("COUNT", "4"), ("MIN", "0"), ("MAX", "15"), ("STEP", "5")];
        assert_eq!(slurm(&stepped), Ok(Some(Shard { number: 3, of: 4 })));
        assert_eq!(slurm(&[("ID", "0"), ("COUNT", "2"), ("MIN", "0")]), Ok(Some(Shard { number: 1, of: 2 })));
        for gaps in [
            [("ID", "5"), ("COUNT", "3"), ("MIN", "1"), ("MAX", "5")],
            [("ID", "9"), ("COUNT", "8"), ("MIN", "1"), ("MAX", "8")],
            [("ID", "0"), ("COUNT", "8"), ("MIN", "1"), ("MAX", "8")],
        ] {
            assert!(slurm(&gaps).unwrap_err().to_string().starts_with("--shard: expected an array"), "{gaps:?}");
        }
        assert!(slurm(&[("ID", "x"), ("COUNT", "8"), ("MIN", "1")]).is_err());
        assert!(slurm(&[("ID", "1"), ("MIN", "1")]).unwrap_err().to_string().starts_with("SLURM_ARRAY_TASK_COUNT"));
    }

    #[test]
    fn texts() {
        assert_eq!("3/8".parse::<Shard>().unwrap().to_string(), "3/8");
        for text in ["", "3", "0/8", "9/8", "-1/8", "1/0", "1/1000000", "1/8/2", "a/b"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_point_is_in_one_part(points in 0usize..100, of in 1usize..20) {
            let shards: Vec<_> = (1..=of).map(|number| Shard { number, of }).collect();
            for point in 0..points {
                prop_assert_eq!(shards.iter().filter(|shard| shard.has(point)).count(), 1);
            }
            for shard in shards {
                prop_assert_eq!(shard.share(points), (0..points).filter(|point| shard.has(*point)).count());
            }
        }
    }
}

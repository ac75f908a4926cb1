//! What pages look like, coarsely: screenshots against those that were looked at and taken over.
//!
//! A picture is a digit for each part of it, of how much is drawn there. Numbers that change leave most digits as they
//! are; a plot that is missing, text over text or a column that has moved does not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::ROOT;

/// Largest share of digits that may be off by two and more, and largest difference in length.
const OTHERS: f64 = 0.04;
const LONGER: f64 = 0.05;

/// Pictures by name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pictures(BTreeMap<String, String>);

fn path() -> PathBuf {
    Path::new(ROOT).join("xtask/src/report/pictures.tsv")
}

impl Pictures {
    /// Those that were taken over.
    pub(super) fn read() -> Result<Self, String> {
        let text = fs::read_to_string(path()).map_err(|error| format!("{}: {error}", path().display()))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| line.split_once('\t').map(|(name, digits)| (name.to_owned(), digits.to_owned()));
        Self(text.lines().skip(1).filter_map(line).collect())
    }

    pub(super) fn add(&mut self, name: String, digits: &str) {
        self.0.insert(name, digits.to_owned());
    }

    /// Takes these over.
    pub(super) fn write(&self) -> Result<(), String> {
        let lines: String = self.0.iter().map(|(name, digits)| format!("{name}\t{digits}\n")).collect();
        fs::write(path(), format!("picture\tparts\n{lines}")).map_err(|error| format!("{}: {error}", path().display()))
    }

    /// What looks otherwise than these do.
    pub(super) fn differences(&self, found: &Self) -> Vec<String> {
        let missing = self.0.keys().filter(|name| !found.0.contains_key(*name));
        let missing = missing.map(|name| format!("{name}: no picture any more"));
        let others = found.0.iter().filter_map(|(name, digits)| match self.0.get(name) {
            None => Some(format!("{name}: a picture that nobody has looked at")),
            Some(known) => difference(known, digits).map(|what| format!("{name}: {what}")),
        });
        missing.chain(others).collect()
    }
}

/// How one picture differs from another one, if it does.
pub(super) fn difference(known: &str, found: &str) -> Option<String> {
    let (old, new) = (known.len().max(1) as f64, found.len().max(1) as f64);
    if (new / old - 1.0).abs() > LONGER && known.len().abs_diff(found.len()) > 12 {
        return Some(format!("{:.0} % of its length", 100.0 * new / old));
    }
    let off = known.bytes().zip(found.bytes()).filter(|(a, b)| a.abs_diff(*b) >= 2).count() as f64;
    let share = off / old.min(new);
    (share > OTHERS).then(|| format!("{:.1} % of its parts look otherwise", 100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_change_are_not_seen_and_plots_that_are_gone_are() {
        let page = "335544332211".repeat(40);
        let mut numbers = page.clone().into_bytes();
        numbers.iter_mut().step_by(3).for_each(|digit| *digit = if *digit < b'5' { *digit + 1 } else { *digit - 1 });
        assert_eq!(difference(&page, &String::from_utf8(numbers).unwrap()), None);
        let gone = [&page[..120], &"0".repeat(48), &page[168..]].concat();
        assert!(difference(&page, &gone).unwrap().contains("8.3 %"), "{:?}", difference(&page, &gone));
        assert!(difference(&page, &page[..400]).unwrap().contains("83 %"));
    }

    #[test]
    fn pictures_come_and_go() {
        let known = Pictures::parse("picture\tparts\na\t123\nb\t456\n");
        let mut found = Pictures::default();
        found.add("b".into(), "456");
        found.add("c".into(), "1");
        let said = known.differences(&found);
        assert!(said.len() == 2 && said[0].starts_with("a: no") && said[1].starts_with("c: a picture"), "{said:?}");
    }

    #[test]
    fn the_pictures_are_there() {
        assert!(Pictures::read().unwrap().0.len() >= 50);
    }
}

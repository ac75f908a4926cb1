//! Typed parameters: a number means something, and a value that cannot mean it is refused.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use cptr_trace::BiasTable;
use cptr_trace::error::{Error, Result};

use crate::nearest::hint;

/// What a parameter's number is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Unit {
    /// A whole number between two others.
    Count(u32, u32),
    /// A whole number between two others, or `auto`.
    CountOrAuto(u32, u32),
    /// A part of a whole, 0 to 1.
    Share,
    /// The gain of a filter, from 0 up to the second number.
    Gain(f64),
    /// Whole bits per weight between two others.
    Bits(u8, u8),
    /// `on` or `off`.
    Switch,
    /// Any number between two others, in the units of a router's logits.
    Nats(f64, f64),
    /// A factor or ratio between two others.
    Factor(f64, f64),
    /// One of these names, as its index.
    OneOf(&'static [&'static str]),
    /// The name of a file with a [`BiasTable`], or `none`: 1 or 0. A part has one at most.
    Biases,
}

/// `auto` as a number.
const AUTO: f64 = -1.0;
/// No file, and a file, as numbers.
const NO_FILE: f64 = 0.0;
const FILE: f64 = 1.0;

impl Unit {
    /// The number that a text means.
    fn parse(self, text: &str) -> Option<f64> {
        let number = || text.parse::<f64>().ok().filter(|number| number.is_finite());
        let within = |low: f64, high: f64| number().filter(|number| (low..=high).contains(number));
        let whole = |low: f64, high: f64| within(low, high).filter(|number| number.fract() == 0.0);
        match self {
            Self::CountOrAuto(..) if text == "auto" => Some(AUTO),
            Self::Count(low, high) | Self::CountOrAuto(low, high) => whole(low.into(), high.into()),
            Self::Bits(low, high) => whole(low.into(), high.into()),
            Self::Share => within(0.0, 1.0),
            Self::Gain(high) => within(0.0, high),
            Self::Switch => ["off", "on"].iter().position(|name| *name == text).map(|at| at as f64),
            Self::Nats(low, high) | Self::Factor(low, high) => within(low, high),
            Self::OneOf(names) => names.iter().position(|name| *name == text).map(|at| at as f64),
            Self::Biases => Some(NO_FILE).filter(|_| text == "none"),
        }
    }

    /// The text that [`Self::parse`] reads as `number`.
    fn text(self, number: f64) -> String {
        match self {
            Self::CountOrAuto(..) if number == AUTO => "auto".into(),
            Self::Switch => if number > 0.0 { "on" } else { "off" }.into(),
            Self::OneOf(names) => names.get(number as usize).copied().unwrap_or("").into(),
            Self::Biases => "none".into(),
            _ => number.to_string(),
        }
    }
}

/// As in `expected NAME as …`.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::CountOrAuto(low, high) => write!(f, "a whole number from {low} to {high}, or auto"),
            Self::Share => f.write_str("a share from 0 to 1"),
            Self::Gain(high) => write!(f, "a gain from 0 to {high}"),
            Self::Bits(low, high) => write!(f, "whole bits from {low} to {high}"),
            Self::Switch => f.write_str("on or off"),
            Self::Nats(low, high) => write!(f, "nats from {low} to {high}"),
            Self::Factor(low, high) => write!(f, "a number from {low} to {high}"),
            Self::OneOf(names) => write!(f, "one of {}", names.join(", ")),
            Self::Biases => f.write_str("the name of a file, or none"),
        }
    }
}

/// A number that a part of a strategy takes, or a file of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// Name in the text of a strategy.
    pub name: &'static str,
    /// Value where none is given: a count, share, …; a switch as 0 or 1, `auto` as -1, no file as 0.
    pub default: f64,
    /// What the number is.
    pub unit: Unit,
    /// What it does, for help.
    pub summary: &'static str,
    /// The value at which it does nothing, where it is a mechanism of its own inside its part: ablations switch it off
    /// with that. A value that makes the whole part do nothing is none: ablations leave the part out instead.
    pub neutral: Option<f64>,
}

impl Parameter {
    /// One for a part's list.
    pub(crate) const fn new(name: &'static str, default: f64, unit: Unit, summary: &'static str) -> Self {
        Self { name, default, unit, summary, neutral: None }
    }

    /// The same, for a mechanism that `value` switches off.
    pub(crate) const fn off_at(mut self, value: f64) -> Self {
        self.neutral = Some(value);
        self
    }

    /// The neutral value as its text.
    #[must_use]
    pub fn neutral_text(&self) -> Option<String> {
        self.neutral.map(|value| self.unit.text(value))
    }

    /// The default as its text.
    #[must_use]
    pub fn default_text(&self) -> String {
        self.unit.text(self.default)
    }
}

/// Values for a list of [`Parameter`]s.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    parameters: &'static [Parameter],
    values: Vec<f64>,
    /// What the file says that one of them names.
    biases: Option<Arc<BiasTable>>,
}

impl Values {
    /// Every parameter at its default.
    #[must_use]
    pub fn defaults(parameters: &'static [Parameter]) -> Self {
        Self { parameters, values: parameters.iter().map(|parameter| parameter.default).collect(), biases: None }
    }

    /// Sets what a text `name=value` says; `owner` is named where it cannot be.
    pub(crate) fn set(&mut self, owner: &str, pair: &str) -> Result<()> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(index) = self.parameters.iter().position(|parameter| parameter.name == name) else {
            let names: Vec<_> = self.parameters.iter().map(|parameter| parameter.name).collect();
            let hint = hint(name, names.iter().copied());
            let known = if names.is_empty() { "no parameters".into() } else { names.join(", ") };
            return Err(Error::new(format!("{owner}: expected {known}, found \"{pair}\"{hint}")));
        };
        let unit = self.parameters[index].unit;
        if unit == Unit::Biases {
            self.biases = None;
            if !matches!(value, "" | "none") {
                self.biases = Some(Arc::new(BiasTable::read(Path::new(value))?));
                self.values[index] = FILE;
                return Ok(());
            }
        }
        self.values[index] = unit
            .parse(value)
            .ok_or_else(|| Error::new(format!("{owner}: expected {name} as {unit}, found \"{value}\"")))?;
        Ok(())
    }

    /// The value of `name`.
    ///
    /// # Panics
    /// If the owner has no such parameter, which is a mistake in its code and met by its first test.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        let index = self.parameters.iter().position(|parameter| parameter.name == name);
        self.values[index.expect("a parameter of the owner's list")]
    }

    /// What there are values for.
    pub(super) fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }

    /// The parameters that are at work: they have a neutral value, and another one here.
    pub(crate) fn mechanisms(&self) -> Vec<&'static Parameter> {
        let all = self.parameters.iter().zip(&self.values);
        all.filter(|(parameter, value)| parameter.neutral.is_some_and(|off| off != **value)).map(|(p, _)| p).collect()
    }

    /// The same with those parameters at their neutral values that are `off`.
    pub(crate) fn without(&self, off: impl Fn(&Parameter) -> bool) -> Self {
        let value = |(parameter, &value): (&'static Parameter, &f64)| match parameter.neutral {
            Some(neutral) if off(parameter) => neutral,
            _ => value,
        };
        let values = self.parameters.iter().zip(&self.values).map(value).collect();
        Self { parameters: self.parameters, values, biases: self.biases.clone() }
    }

    /// A parameter with its value, as [`Self::set`] reads them.
    pub(crate) fn pair(&self, parameter: &Parameter) -> String {
        match &self.biases {
            Some(table) if parameter.unit == Unit::Biases && self.get(parameter.name) == FILE => {
                format!("{}={}", parameter.name, table.path().display())
            }
            _ => format!("{}={}", parameter.name, parameter.unit.text(self.get(parameter.name))),
        }
    }

    /// What the file says that is named, where one is.
    pub(crate) fn biases(&self) -> Option<&Arc<BiasTable>> {
        self.biases.as_ref()
    }

    /// The value of a count, or of bits.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.get(name) as usize
    }

    /// The value of a count that may be `auto`, which is `None`.
    pub(super) fn count_or_auto(&self, name: &str) -> Option<usize> {
        Some(self.get(name)).filter(|&value| value != AUTO).map(|value| value as usize)
    }

    /// Whether a switch is on.
    pub(super) fn on(&self, name: &str) -> bool {
        self.get(name) > 0.0
    }
}

/// What differs from the defaults, with a colon before each pair.
impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.parameters.iter().zip(&self.values);
        pairs
            .filter(|(parameter, value)| **value != parameter.default)
            .try_for_each(|(parameter, _)| write!(f, ":{}", self.pair(parameter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: &[Parameter] = &[
        Parameter::new("eps", 0.04, Unit::Share, ""),
        Parameter::new("keep", 1.0, Unit::Count(0, 16), ""),
        Parameter::new("hot", AUTO, Unit::CountOrAuto(0, 64), ""),
        Parameter::new("everywhere", 0.0, Unit::Switch, ""),
        Parameter::new("bonus", 0.5, Unit::Nats(0.0, 100.0), "").off_at(0.0),
        Parameter::new("file", NO_FILE, Unit::Biases, ""),
        Parameter::new("by", 1.0, Unit::OneOf(&["this", "that"]), ""),
    ];

    fn parse(text: &str) -> Result<Values> {
        let mut values = Values::defaults(PARAMETERS);
        text.split(':').filter(|pair| !pair.is_empty()).try_for_each(|pair| values.set("x", pair))?;
        Ok(values)
    }

    #[test]
    fn reads_and_prints() {
        for text in ["", ":eps=0.5", ":eps=0.5:keep=2", ":hot=3:everywhere=on", ":bonus=2.5:by=this"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let values = parse("hot=auto:keep=2:everywhere=off").unwrap();
        assert_eq!((values.count_or_auto("hot"), values.count("keep"), values.on("everywhere")), (None, 2, false));
        assert_eq!(values.to_string(), ":keep=2");
    }

    #[test]
    fn a_file_is_read_once_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.csv");
        std::fs::write(&path, "layer,expert,bias\n0,1,2\n").unwrap();
        let text = format!(":file={}", path.display());
        let values = parse(&text).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((values.to_string(), values.clone()), (text, values.clone()));
        assert_eq!(values.biases().unwrap().layer(0).collect::<Vec<_>>(), [(1, 2.0)]);
        assert_ne!(values, parse("").unwrap());
        let mut none = values;
        none.set("x", "file=none").unwrap();
        assert_eq!((none.to_string().as_str(), none), ("", parse("").unwrap()));
    }

    #[test]
    fn mechanisms_are_what_is_not_neutral() {
        let names = |text: &str| parse(text).unwrap().mechanisms().iter().map(|p| p.name).collect::<Vec<_>>();
        assert_eq!((names(""), names("bonus=0:eps=0.5")), (vec!["bonus"], vec![]));
        let values = parse("bonus=2:eps=0.5").unwrap();
        assert_eq!(values.without(|_| true).to_string(), ":eps=0.5:bonus=0");
        assert_eq!(values.without(|_| false), values);
        assert_eq!(values.pair(&PARAMETERS[4]), "bonus=2");
    }

    #[test]
    fn refuses_with_the_expected_kind() {
        for (text, part) in [
            ("lambda=1", "x: expected eps, keep, hot, everywhere, bonus, file, by, found \"lambda=1\""),
            ("keep=1.9", "x: expected keep as a whole number from 0 to 16, found \"1.9\""),
            ("hot=-0.5", "x: expected hot as a whole number from 0 to 64, or auto, found \"-0.5\""),
            ("hot=-1", "or auto, found \"-1\""),
            ("everywhere=0.4", "x: expected everywhere as on or off, found \"0.4\""),
            ("eps=1.5", "x: expected eps as a share from 0 to 1, found \"1.5\""),
            ("eps=NaN", "a share from 0 to 1"),
            ("eps", "found \"\""),
            ("bonus=inf", "nats from 0 to 100"),
            ("file", "x: expected file as the name of a file, or none, found \"\""),
            ("by=those", "x: expected by as one of this, that, found \"those\""),
            ("file=no/such.csv", "no/such.csv: "),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(part), "{text}");
        }
    }
}

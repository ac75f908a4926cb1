//! Names with parameters, as policies and placements are given on the command line: `cptr`, `cptr:eps=0.02:keep=1`.

use std::fmt;

use cptr_trace::error::{Error, Result};

/// A number that a policy or placement takes.
#[derive(Debug, PartialEq)]
pub struct Parameter {
    /// Name on the command line.
    pub name: &'static str,
    /// Value where none is given.
    pub default: f64,
    /// Smallest and largest allowed value.
    pub range: (f64, f64),
    /// What it does, for help.
    pub summary: &'static str,
}

/// Values for a list of [`Parameter`]s, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    parameters: &'static [Parameter],
    values: Vec<f64>,
}

impl Values {
    /// Every parameter at its default.
    pub fn defaults(parameters: &'static [Parameter]) -> Self {
        Self { parameters, values: parameters.iter().map(|parameter| parameter.default).collect() }
    }

    /// Reads `name=value` pairs.
    ///
    /// # Errors
    /// An unknown name, a value that is no number or out of range; `owner` is named in the message.
    pub fn parse<'a>(
        owner: &str,
        parameters: &'static [Parameter],
        pairs: impl Iterator<Item = &'a str>,
    ) -> Result<Self> {
        let mut values = Self::defaults(parameters);
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(index) = parameters.iter().position(|parameter| parameter.name == name) else {
                let names: Vec<_> = parameters.iter().map(|parameter| parameter.name).collect();
                let known = if names.is_empty() { "no parameters".into() } else { names.join(", ") };
                return Err(Error::new(format!("{owner}: expected {known}, found \"{pair}\"")));
            };
            let (low, high) = parameters[index].range;
            match value.parse::<f64>() {
                Ok(number) if (low..=high).contains(&number) => values.values[index] = number,
                _ => {
                    return Err(Error::new(format!(
                        "{owner}: expected {name} from {low} to {high}, found \"{value}\""
                    )));
                }
            }
        }
        Ok(values)
    }

    /// The first parameter, which is the one that people turn, with its value, and the others where they differ from the defaults.
    pub fn with_first(&self) -> String {
        match (self.parameters, &self.values[..]) {
            ([first, ..], [value, ..]) if *value == first.default => format!(":{}={value}{self}", first.name),
            _ => self.to_string(),
        }
    }

    /// The value of the first parameter, 0 where there is none.
    pub fn first(&self) -> f64 {
        self.values.first().copied().unwrap_or(0.0)
    }

    /// The value of `name`.
    ///
    /// # Panics
    /// If the owner has no such parameter, which is a mistake in its code and met by its first test.
    pub fn get(&self, name: &str) -> f64 {
        let index = self.parameters.iter().position(|parameter| parameter.name == name);
        self.values[index.expect("a parameter of the owner's list")]
    }
}

/// What differs from the defaults, as [`Values::parse`] reads it, with a colon before each pair.
impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.parameters.iter().zip(&self.values);
        pairs
            .filter(|(parameter, value)| **value != parameter.default)
            .try_for_each(|(p, value)| write!(f, ":{}={value}", p.name))
    }
}

/// A family of things that are chosen by name and parameters: policies, placements.
pub trait Kind: fmt::Debug + 'static {
    /// What the family is called, in the singular, with its article.
    const WHAT: &'static str;
    /// Whether the first parameter is shown even at its default.
    const SHOWS_FIRST: bool;

    /// Every member, in the order of tables.
    fn all() -> &'static [&'static Self];
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// Its parameters.
    fn parameters(&self) -> &'static [Parameter];
}

/// A member of a family with its parameters.
#[derive(Debug, Clone)]
pub struct Choice<K: Kind> {
    /// Which member.
    pub kind: &'static K,
    /// With which numbers.
    pub values: Values,
}

impl<K: Kind> Choice<K> {
    /// Reads `name` or `name:parameter=value:…`.
    ///
    /// # Errors
    /// Unknown names and values out of range.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or("");
        let Some(kind) = K::all().iter().find(|kind| kind.name() == name) else {
            let names: Vec<_> = K::all().iter().map(|kind| kind.name()).collect();
            return Err(Error::new(format!("expected {} ({}), found \"{name}\"", K::WHAT, names.join(", "))));
        };
        Ok(Self { kind, values: Values::parse(name, kind.parameters(), parts)? })
    }
}

impl<K: Kind> fmt::Display for Choice<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if K::SHOWS_FIRST { f.write_str(&self.values.with_first()) } else { self.values.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: &[Parameter] = &[
        Parameter { name: "eps", default: 0.04, range: (0.0, 1.0), summary: "" },
        Parameter { name: "keep", default: 1.0, range: (0.0, 16.0), summary: "" },
    ];

    fn parse(text: &str) -> Result<Values> {
        let (name, pairs) = text.split_once(':').unwrap_or((text, ""));
        Values::parse(name, PARAMETERS, pairs.split(':').filter(|pair| !pair.is_empty()))
    }

    #[test]
    fn reads_and_prints() {
        assert_eq!(parse("x").unwrap().to_string(), "");
        assert_eq!(parse("x").unwrap().with_first(), ":eps=0.04");
        assert_eq!(parse("x:keep=2").unwrap().with_first(), ":eps=0.04:keep=2");
        assert_eq!(parse("x:keep=2:eps=0.5").unwrap().with_first(), ":eps=0.5:keep=2");
        assert_eq!(parse("x:keep=2").unwrap().to_string(), ":keep=2");
        assert_eq!(parse("x:keep=2:eps=0.5").unwrap().get("eps"), 0.5);
    }

    #[test]
    fn refuses_with_the_reason() {
        for (text, part) in [
            ("x:lambda=1", "expected eps, keep, found \"lambda=1\""),
            ("x:eps=2", "expected eps from 0 to 1, found \"2\""),
            ("x:eps=NaN", "expected eps from 0 to 1"),
            ("x:eps", "found \"\""),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(part), "{text}");
        }
    }
}

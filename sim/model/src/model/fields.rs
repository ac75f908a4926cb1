//! Fields of a model's `config.json`, each checked when it is read.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Largest size that a field may state: beyond it no real model lies.
const MAX_SIZE: usize = 1 << 24;

/// A JSON object whose fields are asked for by name and type. A field that is `null` counts as absent.
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn new(value: &'a Value) -> Result<Self> {
        value.as_object().map(Self).ok_or_else(|| Error::new("expected a JSON object"))
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn read<T>(&self, name: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| Error::new(format!("expected {what}, found {value}")).at(name))
    }

    /// A size, 0 to 2²⁴.
    pub(super) fn size_if_any(&self, name: &str) -> Result<Option<usize>> {
        self.read(name, &format!("a whole number of 0 to {MAX_SIZE}"), |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= MAX_SIZE)
        })
    }

    /// A size of at least 1 that must be there.
    pub(super) fn size(&self, name: &str) -> Result<usize> {
        match self.size_if_any(name)? {
            Some(0) => Err(Error::new("expected at least 1, found 0").at(name)),
            Some(size) => Ok(size),
            None => Err(Error::new(format!("expected a field \"{name}\", found none"))),
        }
    }

    /// A size under the first of several names that is there: they changed over time.
    pub(super) fn size_of(&self, names: &[&str]) -> Result<usize> {
        self.size(names.iter().find(|name| self.value(name).is_some()).unwrap_or(&names[0]))
    }

    pub(super) fn number_if_any(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a finite number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    pub(super) fn number(&self, name: &str, default: f64) -> Result<f64> {
        self.number_if_any(name).map(|number| number.unwrap_or(default))
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        self.read(name, "true or false", Value::as_bool).map(|flag| flag.unwrap_or(default))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.read(name, "a text", Value::as_str)
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        self.read(name, "an object", Value::as_object).map(|object| object.map(Fields))
    }

    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.read(name, "a list of texts", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    /// Whole numbers in a list, or one alone.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<u32>> {
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let numbers = self.read(name, "a whole number or a list of them", |value| match value.as_array() {
            Some(list) => list.iter().map(number).collect(),
            None => number(value).map(|n| vec![n]),
        })?;
        Ok(numbers.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_fields_are_named() {
        let json = serde_json::json!({"a": 0, "b": "x", "c": null, "d": 1e30, "e": [1, 2], "f": -1});
        let fields = Fields::new(&json).unwrap();
        let message = |result: Result<usize>| result.unwrap_err().to_string();
        assert_eq!(message(fields.size("a")), "a: expected at least 1, found 0");
        assert_eq!(message(fields.size("b")), "b: expected a whole number of 0 to 16777216, found \"x\"");
        assert_eq!(message(fields.size_of(&["z", "c"])), "expected a field \"z\", found none");
        assert!(fields.size("d").is_err() && fields.size("f").is_err());
        assert_eq!((fields.size_of(&["z", "e", "c"]).is_err(), fields.numbers("e").unwrap()), (true, vec![1, 2]));
        assert!(fields.text("a").is_err() && fields.flag("b", true).is_err() && fields.flag("c", true).unwrap());
        assert!(Fields::new(&serde_json::json!([])).is_err());
    }
}

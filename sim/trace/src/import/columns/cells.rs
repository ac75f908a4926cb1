//! Records of CSV and JSON lines, and what is in their cells.

use std::borrow::Cow;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The names of the columns, from the beginning of a file: those of the first line of CSV, or of the first object. None
/// where it is neither.
pub(super) fn names(head: &[u8]) -> Option<Vec<String>> {
    let line = head.trim_ascii_start().split(|&b| b == b'\n').next()?.trim_ascii();
    if line.first() == Some(&b'{') {
        return Some(
            serde_json::from_slice::<Map<String, Value>>(line).ok()?.into_iter().map(|(name, _)| name).collect(),
        );
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(line);
    let names: Vec<String> = reader.headers().ok()?.iter().map(str::to_owned).collect();
    (names.len() > 1 && names.iter().all(|name| !name.is_empty())).then_some(names)
}

/// A line of JSON, or a row of CSV.
pub(super) enum Record<'a> {
    Json(&'a Map<String, Value>),
    Csv { names: &'a csv::StringRecord, cells: &'a csv::StringRecord },
}

/// Calls `take` with each record.
///
/// # Errors
/// The first line that is none, or that `take` refuses.
pub(super) fn records(bytes: &[u8], mut take: impl FnMut(&Record<'_>) -> Result<()>) -> Result<()> {
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        return super::rows::json_lines(bytes, |map: Map<String, Value>| take(&Record::Json(&map)));
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let names = reader.headers().map_err(|error| Error::new(format!("expected names of columns: {error}")))?.clone();
    let mut cells = csv::StringRecord::new();
    loop {
        let at = reader.position().line();
        let more = reader.read_record(&mut cells).map_err(|error| {
            Error::new(format!("expected {} columns: {error}", names.len())).at(format!("line {at}"))
        })?;
        if !more {
            return Ok(());
        }
        let line = cells.position().map_or(at, csv::Position::line);
        take(&Record::Csv { names: &names, cells: &cells }).map_err(|error| error.at(format!("line {line}")))?;
    }
}

impl Record<'_> {
    fn cell(&self, name: &str) -> Result<Cow<'_, Value>> {
        let missing = || Error::new(format!("expected a column \"{name}\", found none"));
        match self {
            Self::Json(map) => map.get(name).map(Cow::Borrowed).ok_or_else(missing),
            Self::Csv { names, cells } => {
                let index = names.iter().position(|found| found == name).ok_or_else(missing)?;
                Ok(Cow::Owned(value(cells.get(index).unwrap_or(""))))
            }
        }
    }

    /// A cell as text.
    pub(super) fn text(&self, name: &str) -> Result<String> {
        Ok(match self.cell(name)?.as_ref() {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// A whole number, or the one at `index` of a list.
    pub(super) fn number(&self, name: &str, index: usize) -> Result<u32> {
        let cell = self.cell(name)?;
        let found = match cell.as_ref() {
            Value::Array(list) => list.get(index).and_then(Value::as_u64),
            other => other.as_u64(),
        };
        found.and_then(|number| number.try_into().ok()).ok_or_else(|| wrong(name, "a whole number", &cell))
    }

    /// The one number in a cell, such as that of `model.layers.3.mlp`.
    pub(super) fn number_in(&self, name: &str) -> Result<u32> {
        let text = self.text(name)?;
        let mut digits = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
        match (digits.next().and_then(|number| number.parse().ok()), digits.next()) {
            (Some(number), None) if !text.contains('-') => Ok(number),
            _ => Err(wrong(name, "the number of a layer", &Value::String(text))),
        }
    }

    /// The list of each token: the cells of `names` side by side, or the list or the lists in a single one.
    pub(super) fn lists<T: Number>(&self, names: &[String], what: &str) -> Result<Vec<Vec<T>>> {
        if let [name] = names {
            let cell = self.cell(name)?;
            let all = |list: &[Value]| list.iter().map(T::of).collect::<Option<Vec<T>>>();
            let lists = match cell.as_ref() {
                Value::Array(outer) if outer.first().is_some_and(Value::is_array) => {
                    outer.iter().map(|inner| all(inner.as_array()?)).collect()
                }
                Value::Array(list) => all(list).map(|list| vec![list]),
                one => T::of(one).map(|one| vec![vec![one]]),
            };
            return lists.ok_or_else(|| wrong(name, &format!("a list, each {what}"), &cell));
        }
        let one = |name: &String| {
            let cell = self.cell(name)?;
            T::of(&cell).ok_or_else(|| wrong(name, what, &cell))
        };
        Ok(vec![names.iter().map(one).collect::<Result<_>>()?])
    }
}

/// A number of a list.
pub(super) trait Number: Sized {
    fn of(value: &Value) -> Option<Self>;
}

impl Number for u16 {
    fn of(value: &Value) -> Option<Self> {
        value.as_u64()?.try_into().ok()
    }
}

impl Number for f32 {
    fn of(value: &Value) -> Option<Self> {
        value.as_f64().map(|number| number as Self)
    }
}

fn wrong(name: &str, what: &str, found: &Value) -> Error {
    let text: String = found.to_string().chars().take(40).collect();
    Error::new(format!("{name}: expected {what}, found {text}"))
}

/// What a cell of CSV holds: a number, a list, or text. The numbers of a list are in brackets, or between blanks or
/// semicolons.
fn value(text: &str) -> Value {
    let number = |text: &str| serde_json::Number::from_str(text).ok().map(Value::Number);
    if text.starts_with('[') {
        return serde_json::from_str(text).unwrap_or_else(|_| list(text.trim_matches(['[', ']']), &number, text));
    }
    number(text).unwrap_or_else(|| list(text, &number, text))
}

fn list(inner: &str, number: &impl Fn(&str) -> Option<Value>, text: &str) -> Value {
    let parts = inner.split([' ', ';', ',', '\t']).filter(|part| !part.is_empty());
    let numbers: Option<Vec<Value>> = parts.map(number).collect();
    numbers.filter(|numbers| numbers.len() > 1).map_or_else(|| Value::String(text.into()), Value::Array)
}

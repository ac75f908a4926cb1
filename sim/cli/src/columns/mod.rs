//! One description of columns per kind of row: a key of the serialised row, its name and format for people, and what it
//! means.
//!
//! Rows are what `serde` makes of them, so that a machine reads all that there is; columns say what of it people see,
//! and how. All that shows rows reads the same columns: tables in the terminal, CSV, the report in HTML, and the axes
//! of its plots.

pub(crate) mod format;
mod markup;
mod page;
mod schema;
mod text;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use markup::{clean, escape, paragraphs};
pub(crate) use page::{Output, Page, Section};
pub(crate) use schema::{row_schema, schema};

/// One column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// Key in the row; a dot leads into an object inside it.
    pub(crate) key: Cow<'static, str>,
    /// Head of the column.
    pub(crate) name: Cow<'static, str>,
    pub(crate) format: Format,
    /// What the value is, for help and report; may be empty where the name says it.
    pub(crate) help: &'static str,
    show: Show,
}

/// How a value is written for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// As it is, to the left.
    Text,
    /// `yes`, or nothing.
    Flag,
    /// A whole number with commas.
    Count,
    /// A number as short as it can be written.
    Plain,
    /// A number with so many decimals.
    Number(usize),
    /// A share: 0.25 is 25.0%.
    Percent,
    /// A relative change: 0.0041 is +0.41%.
    Change,
    /// 0.83×.
    Ratio,
    Microseconds,
    Microjoules,
}

/// Where a column is seen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Show {
    /// In every table.
    Always,
    /// In tables in which a row has a value for it.
    IfAny,
    /// In tables in which a row has another value than this.
    Unless(f64),
    /// In tables in which a row has another value than it has under this key.
    UnlessAs(&'static str),
    /// Not in tables, unless it is asked for; in CSV.
    Never,
}

/// A column that every table has.
pub(crate) const fn column(key: &'static str, name: &'static str, format: Format, help: &'static str) -> Column {
    Column { key: Cow::Borrowed(key), name: Cow::Borrowed(name), format, help, show: Show::Always }
}

impl Column {
    /// Left out where no row has a value.
    pub(crate) const fn if_any(mut self) -> Self {
        self.show = Show::IfAny;
        self
    }

    /// Left out where all rows have this value.
    pub(crate) const fn unless(mut self, usual: f64) -> Self {
        self.show = Show::Unless(usual);
        self
    }

    /// Left out where all rows have the value that they have under another key.
    pub(crate) const fn unless_as(mut self, key: &'static str) -> Self {
        self.show = Show::UnlessAs(key);
        self
    }

    /// For machines, and for whom all columns are asked for.
    pub(crate) const fn detail(mut self) -> Self {
        self.show = Show::Never;
        self
    }

    /// A column of a list, for tables that are as wide as there are rows.
    pub(crate) fn at(index: usize, name: String, format: Format) -> Self {
        Self { key: index.to_string().into(), name: name.into(), ..column("", "", format, "") }
    }

    /// What machines are told of it, and [`Self::heard`] understands.
    pub(crate) fn said(&self) -> Value {
        let shown = self.show != Show::Never;
        json!({
            "key": self.key, "name": self.name, "format": self.format, "unit": self.format.unit(), "help": self.help,
            "shown": shown,
        })
    }

    /// A column that was [`said`](Self::said); `None` where it was not.
    pub(crate) fn heard(said: &Value) -> Option<Self> {
        let text = |key: &str| Some(said[key].as_str()?.to_owned());
        let format = Format::deserialize(&said["format"]).ok()?;
        let column = Self { key: text("key")?.into(), name: text("name")?.into(), ..column("", "", format, "") };
        Some(if said["shown"] == false { column.detail() } else { column.if_any() })
    }

    /// Whether people see it unless all columns are asked for.
    pub(crate) fn is_shown(&self) -> bool {
        self.show != Show::Never
    }

    /// A column whose key is only known when the program runs; rows may have no value for it.
    pub(crate) fn of_key(key: String, name: String, format: Format) -> Self {
        Self { key: key.into(), name: name.into(), ..column("", "", format, "") }
    }

    /// Whether rows may have no value for it.
    #[cfg(test)]
    pub(crate) fn is_optional(&self) -> bool {
        self.show != Show::Always
    }

    /// The value of a row, `Null` where it has none.
    pub(crate) fn of<'a>(&self, row: &'a Value) -> &'a Value {
        static NOTHING: Value = Value::Null;
        self.find(row).unwrap_or(&NOTHING)
    }

    /// The value of a row, `None` where it does not even have the key; what is not there at all has all keys.
    fn find<'a>(&self, row: &'a Value) -> Option<&'a Value> {
        self.key.split('.').try_fold(row, |value, key| match value {
            Value::Array(list) => key.parse().ok().and_then(|index: usize| list.get(index)),
            Value::Null => Some(value),
            other => other.get(key),
        })
    }

    /// The value as people read it.
    pub(crate) fn cell(&self, row: &Value) -> String {
        self.format.text(self.of(row))
    }

    /// One line of help: the key of machines, its unit, and what it is.
    fn described(&self) -> String {
        let unit = match self.format.unit() {
            "" => String::new(),
            unit => format!(" [{unit}]"),
        };
        format!("  {:<26} {}{unit}\n", self.key, if self.help.is_empty() { &self.name } else { self.help })
    }
}

impl Format {
    /// Numbers stand to the right.
    pub(crate) const fn is_number(self) -> bool {
        !matches!(self, Self::Text | Self::Flag)
    }

    /// Unit of the value in the row; what people see may be scaled.
    const fn unit(self) -> &'static str {
        match self {
            Self::Percent | Self::Change => "share",
            Self::Microseconds => "us",
            Self::Microjoules => "uJ",
            _ => "",
        }
    }

    /// A number of an axis in words.
    pub(crate) fn tick(self) -> fn(f64) -> String {
        match self {
            Self::Percent => format::percent,
            Self::Change => format::change,
            Self::Ratio => format::ratio,
            Self::Microseconds => format::microseconds,
            Self::Microjoules => format::microjoules,
            Self::Number(_) | Self::Plain | Self::Count | Self::Text | Self::Flag => format::short,
        }
    }

    pub(crate) fn text(self, value: &Value) -> String {
        let number = || value.as_f64().unwrap_or(f64::NAN);
        match (self, value) {
            (_, Value::Null) => format::NONE.into(),
            (Self::Flag, _) => if value.as_bool() == Some(true) { "yes" } else { "" }.into(),
            (_, Value::String(text)) => text.clone(),
            (Self::Plain, Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN).to_string(),
            (Self::Text | Self::Plain, _) => value.to_string(),
            (Self::Count, _) => value.as_u64().map_or_else(|| value.to_string(), |n| format::count(n as usize)),
            (Self::Number(decimals), _) => format::decimals(number(), decimals),
            (Self::Percent, _) => format::percent(number()),
            (Self::Change, _) => format::change(number()),
            (Self::Ratio, _) => format::ratio(number()),
            (Self::Microseconds, _) => format::microseconds(number()),
            (Self::Microjoules, _) => format::microjoules(number()),
        }
    }
}

/// Rows under columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// A line above it; may be empty.
    pub(crate) title: String,
    pub(crate) columns: Cow<'static, [Column]>,
    pub(crate) rows: Vec<Value>,
    /// One row, its columns below each other.
    upright: bool,
    /// A key of rows that is true where the name gets a star, and what the star means.
    star: Option<(&'static str, &'static str)>,
    /// Keys of the columns that people see, where not all that can be; others are for CSV.
    view: Option<&'static [&'static str]>,
}

impl Table {
    pub(crate) fn new(columns: &'static [Column], rows: &[impl Serialize]) -> Self {
        let rows = rows.iter().map(value).collect();
        Self { columns: Cow::Borrowed(columns), rows, ..Self::default() }.checked()
    }

    /// A table of what a report holds already.
    pub(crate) fn of(title: &str, columns: impl Into<Cow<'static, [Column]>>, rows: &Value) -> Self {
        let rows = rows.as_array().cloned().unwrap_or_default();
        Self { title: title.into(), columns: columns.into(), rows, ..Self::default() }.checked()
    }

    /// Every table that a test makes holds columns to the keys of its rows.
    fn checked(self) -> Self {
        for row in &self.rows {
            for column in self.columns.iter().filter(|column| column.show != Show::IfAny) {
                debug_assert!(column.find(row).is_some(), "no key {} in {row}", column.key);
            }
        }
        self
    }

    /// One row, written from top to bottom.
    pub(crate) fn upright(columns: &'static [Column], row: &impl Serialize) -> Self {
        Self { upright: true, ..Self::new(columns, std::slice::from_ref(row)) }
    }

    /// Marks the names of rows whose `key` is true.
    pub(crate) fn starred(self, key: &'static str, meaning: &'static str) -> Self {
        Self { star: Some((key, meaning)), ..self }
    }

    /// Shows people these columns only, in their order, and what of them has something to say.
    pub(crate) fn viewed(self, keys: &'static [&'static str]) -> Self {
        Self { view: Some(keys), ..self }
    }

    pub(crate) fn titled(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// Whether it is one row, its columns below each other.
    pub(crate) const fn is_upright(&self) -> bool {
        self.upright
    }

    /// What the star means, where a row has one.
    pub(crate) fn star_note(&self) -> Option<&'static str> {
        self.star.filter(|(key, _)| self.rows.iter().any(|row| row[*key] == true)).map(|(_, meaning)| meaning)
    }

    pub(crate) fn is_starred(&self, row: &Value) -> bool {
        self.star.is_some_and(|(key, _)| row[key] == true)
    }

    /// The columns that people see of these rows.
    pub(crate) fn shown(&self) -> Vec<&Column> {
        let any = |says: &dyn Fn(&Value) -> bool| self.rows.iter().any(says);
        let says = |column: &&Column| match column.show {
            Show::Always => true,
            Show::IfAny => any(&|row| !column.of(row).is_null()),
            Show::Unless(usual) => any(&|row| column.of(row).as_f64().is_some_and(|value| value != usual)),
            Show::UnlessAs(key) => any(&|row| column.of(row) != &row[key]),
            Show::Never => self.view.is_some(),
        };
        let Some(keys) = self.view else { return self.columns.iter().filter(says).collect() };
        let of = |key: &&str| self.columns.iter().find(|column| column.key == *key);
        keys.iter().filter_map(of).filter(says).collect()
    }
}

/// A row as machines read it.
pub(crate) fn value(row: &impl Serialize) -> Value {
    // Rows are structures with names; nothing of them can fail to be JSON.
    serde_json::to_value(row).unwrap_or_default()
}

/// The columns of a command's rows, for its help.
pub(crate) fn help(columns: &[Column]) -> String {
    columns.iter().map(Column::described).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_format_has_its_words() {
        for (format, value, text) in [
            (Format::Text, json!("a"), "a"),
            (Format::Text, json!(7), "7"),
            (Format::Flag, json!(true), "yes"),
            (Format::Flag, json!(false), ""),
            (Format::Count, json!(12_345), "12,345"),
            (Format::Plain, json!(2.5), "2.5"),
            (Format::Number(3), json!(2), "2.000"),
            (Format::Percent, json!(0.25), "25.0%"),
            (Format::Change, json!(-0.0041), "-0.41%"),
            (Format::Ratio, json!(0.834), "0.83×"),
            (Format::Microseconds, json!(39.5), "39.5 µs"),
            (Format::Microjoules, json!(0.5), "500 nJ"),
            (Format::Percent, Value::Null, format::NONE),
        ] {
            assert_eq!(format.text(&value), text, "{format:?}");
        }
    }

    #[test]
    fn columns_are_heard_as_they_are_said() {
        for format in [Format::Text, Format::Number(3), Format::Percent, Format::Microseconds, Format::Flag] {
            for told in [column("a.b", "name", format, "help"), column("a", "", format, "").detail()] {
                let heard = Column::heard(&told.said()).unwrap();
                assert_eq!((&heard.key, &heard.name, heard.format), (&told.key, &told.name, told.format));
                assert_eq!(heard.is_shown(), told.is_shown());
            }
        }
        for wrong in [json!(null), json!({"key": "a"}), json!({"key": "a", "name": "b", "format": "furlongs"})] {
            assert!(Column::heard(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn keys_lead_into_objects_and_lists() {
        let row = json!({"a": {"b": [1, {"c": 2}]}});
        assert_eq!(column("a.b.1.c", "", Format::Text, "").cell(&row), "2");
        assert_eq!(column("a.x.1", "", Format::Text, "").cell(&row), format::NONE);
    }
}

//! Results: a table for people, JSON for machines.

use serde_json::Value as Json;

/// What a command found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// Lines above the table.
    pub(crate) facts: Vec<String>,
    /// What people see of the rows.
    pub(crate) columns: Vec<Column>,
    /// All there is.
    pub(crate) rows: Vec<Json>,
    /// More for machines, by key.
    pub(crate) beside: Vec<(String, Json)>,
}

/// A column of the table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    key: &'static str,
    name: &'static str,
    format: Format,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Plain,
    Decimals(usize),
    Percent,
    Change,
}

/// A column of values as they are.
pub(crate) const fn column(key: &'static str, name: &'static str) -> Column {
    Column { key, name, format: Format::Plain }
}

impl Column {
    /// Numbers with so many decimals.
    pub(crate) const fn decimals(self, decimals: usize) -> Self {
        Self { format: Format::Decimals(decimals), ..self }
    }

    /// Shares in per cent.
    pub(crate) const fn percent(self) -> Self {
        Self { format: Format::Percent, ..self }
    }

    /// Relative changes in per cent.
    pub(crate) const fn change(self) -> Self {
        Self { format: Format::Change, ..self }
    }

    fn cell(&self, row: &Json) -> String {
        let value = &row[self.key];
        match (self.format, value.as_f64()) {
            // Text that a model wrote may have lines.
            (_, None) => value.as_str().unwrap_or("–").escape_debug().to_string(),
            (Format::Plain, Some(_)) => value.to_string(),
            (Format::Decimals(decimals), Some(number)) => format!("{number:.decimals$}"),
            (Format::Percent, Some(share)) => format!("{:.3}%", 100.0 * share),
            (Format::Change, Some(change)) => format!("{:+.3}%", 100.0 * change),
        }
    }
}

impl Page {
    /// The text for people, or one JSON object.
    pub(crate) fn text(&self, command: &str, json: bool) -> String {
        if json {
            let mut object = serde_json::json!({"schema": 1, "command": command, "facts": self.facts});
            for (key, value) in &self.beside {
                object[key] = value.clone();
            }
            object["rows"] = self.rows.clone().into();
            return format!("{object:#}\n");
        }
        let mut text: String = self.facts.iter().map(|fact| format!("{fact}\n")).collect();
        let head = self.columns.iter().map(|column| column.name.to_owned()).collect::<Vec<_>>();
        let body = self.rows.iter().map(|row| self.columns.iter().map(|column| column.cell(row)).collect::<Vec<_>>());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
        let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for line in &lines {
            let cell = |(at, cell): (usize, &String)| match at {
                0 => format!("{cell:<0$}", widths[at]),
                _ => format!("{cell:>0$}", widths[at]),
            };
            let cells: Vec<String> = line.iter().enumerate().map(cell).collect();
            text += cells.join("  ").trim_end();
            text += "\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_machines() {
        let page = Page {
            facts: vec!["a model".into()],
            columns: vec![column("name", "name"), column("share", "miss").percent()],
            rows: vec![serde_json::json!({"name": "raw", "share": 0.5}), serde_json::json!({"name": "b"})],
            beside: vec![("more".into(), 1.into())],
        };
        assert_eq!(page.text("eval", false), "a model\nname     miss\nraw   50.000%\nb           –\n");
        let json: Json = serde_json::from_str(&page.text("eval", true)).unwrap();
        assert_eq!((&json["rows"][0]["share"], &json["more"]), (&0.5.into(), &1.into()));
    }
}

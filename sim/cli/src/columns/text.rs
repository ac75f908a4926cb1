//! Tables as text: in the terminal, and for spreadsheets.

use comfy_table::{CellAlignment, Table as Grid, presets};
use serde_json::Value;

use super::Table;

impl Table {
    /// Title, table and the meaning of its stars, each on lines of their own; nothing without rows.
    pub(crate) fn text(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let columns = self.shown();
        let mut grid = Grid::new();
        grid.load_style(presets::ASCII_MARKDOWN);
        if self.upright {
            grid.set_header(["", "value"]);
            grid.add_rows(columns.iter().map(|column| [column.name.to_string(), column.cell(&self.rows[0])]));
            align(&mut grid, 1);
        } else {
            grid.set_header(columns.iter().map(|column| column.name.as_ref()));
            grid.add_rows(self.rows.iter().map(|row| {
                let star = if self.is_starred(row) { " *" } else { "" };
                columns.iter().enumerate().map(move |(i, column)| column.cell(row) + if i == 0 { star } else { "" })
            }));
            let numbers = columns.iter().enumerate().filter(|(_, column)| column.format.is_number());
            numbers.for_each(|(index, _)| align(&mut grid, index));
        }
        let title = if self.title.is_empty() { String::new() } else { format!("{}\n", self.title) };
        let star = self.star_note().map_or(String::new(), |meaning| format!("* {meaning}\n"));
        format!("{title}{grid}\n{star}")
    }

    /// All columns under their keys, values as machines read them.
    ///
    /// # Errors
    /// A failed write.
    pub(crate) fn csv(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(self.columns.iter().map(|column| column.key.replace('.', "_")))?;
        for row in &self.rows {
            let cells = self.columns.iter().map(|column| match column.of(row) {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            writer.write_record(cells)?;
        }
        writer.flush()
    }
}

fn align(grid: &mut Grid, column: usize) {
    if let Some(column) = grid.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Column, Format, column};
    use super::*;
    use serde_json::json;

    static COLUMNS: [Column; 4] = [
        column("name", "name", Format::Text, ""),
        column("share", "share", Format::Percent, "of all"),
        column("time_us", "time", Format::Microseconds, "").if_any(),
        column("seed", "seed", Format::Plain, "").detail(),
    ];

    #[test]
    fn text_has_what_is_shown_and_csv_everything() {
        let rows = [
            json!({"name": "a,b", "share": 0.5, "seed": 7, "best": true}),
            json!({"name": "c", "share": null, "seed": null}),
        ];
        let table = Table::new(&COLUMNS, &rows).titled("T").starred("best", "the best");
        assert_eq!(
            table.text(),
            "T\n| name  | share |\n|-------|-------|\n| a,b * | 50.0% |\n| c     |     – |\n* the best\n"
        );
        let mut csv = Vec::new();
        table.csv(&mut csv).unwrap();
        assert_eq!(String::from_utf8(csv).unwrap(), "name,share,time_us,seed\n\"a,b\",0.5,,7\nc,,,\n");
        assert_eq!(Table::new(&COLUMNS, &[] as &[Value]).text(), "");
        let upright = Table::upright(&COLUMNS, &rows[0]).text();
        assert_eq!(upright, "|       | value |\n|-------|-------|\n| name  |   a,b |\n| share | 50.0% |\n");
    }
}

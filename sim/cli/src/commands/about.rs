//! What every command says of itself beside its options: rows and examples at the end of its help, the schema of what
//! `--json` prints.

use clap::builder::Styles;
use serde_json::{Map, Value, json};

use crate::columns::{self, Column, row_schema, schema};

/// How a command ends.
pub(crate) const EXIT_CODES: [(u8, &str); 3] = [
    (0, "done"),
    (2, "refused: bad input or arguments, in one sentence on standard error; nothing is half-written"),
    (101, "a mistake in cptr itself, for which its makers want the command line"),
];

/// Of one command.
pub(crate) struct About {
    /// The kinds of rows that it has, one of them in a run; none: it has no rows, or their columns are the input's.
    pub(crate) rows: &'static [&'static [Column]],
    /// A command line, and what it does. They are run in the order of the commands, in a folder with the bundled data
    /// (`sim/data`).
    pub(crate) examples: &'static [(&'static str, &'static str)],
}

/// The command line with the end of the help of each command.
pub(crate) fn with_ends(command: clap::Command) -> clap::Command {
    let codes: String = EXIT_CODES.iter().map(|(code, meaning)| format!("  {code:<4} {meaning}\n")).collect();
    let first = format!("{}\n{}", part("Exit codes", &codes), examples(&super::EXAMPLES));
    super::ABOUT.iter().fold(command.after_help(first), |command, (name, about)| {
        command.mut_subcommand(name, |command| with_end(command, about))
    })
}

fn with_end(command: clap::Command, about: &About) -> clap::Command {
    let examples = examples(about.examples);
    let long = command.get_after_long_help().map(|text| format!("{text}\n")).unwrap_or_default();
    let rows: String =
        about.rows.iter().map(|rows| part("Rows (--json, --csv)", &columns::help(rows)) + "\n").collect();
    let long = format!("{long}{rows}{examples}");
    command.after_help(examples).after_long_help(long)
}

fn examples(examples: &[(&str, &str)]) -> String {
    let lines: String = examples.iter().map(|(line, does)| format!("  {line}\n      {does}\n")).collect();
    part("Examples", &lines)
}

/// Lines under a heading like those of the rest of the help.
fn part(heading: &str, lines: &str) -> String {
    let styles = Styles::styled();
    let style = styles.get_header();
    format!("{style}{heading}:{style:#}\n{lines}")
}

/// The JSON Schema (draft 2020-12) of what every command prints with `--json`.
pub(crate) fn json_schema() -> Value {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "array", "items": text()});
    // Of objects in which nothing is optional.
    let object = |properties: Value| {
        let required: Vec<String> = properties.as_object().into_iter().flat_map(Map::keys).cloned().collect();
        json!({"type": "object", "required": required, "properties": properties})
    };
    let file = json!({
        "argument": text(), "name": text(), "bytes": {"type": "integer", "minimum": 0},
        "sha256": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
    });
    let column = json!({
        "key": text(), "name": text(), "format": {}, "unit": text(), "help": text(), "shown": {"type": "boolean"},
    });
    let all = json!({
        "schema": text(),
        "command": text(),
        "version": {"type": "string", "description": "of cptr"},
        "command_line": {"type": "string", "description": "as typed, quoted for a shell"},
        "inputs": {"type": "object", "description": "all arguments, given or by default"},
        "files": {"type": "array", "items": object(file)},
        "answer": {"type": ["string", "null"], "description": "what comes out, in one sentence"},
        "columns": {"type": "array", "items": object(column)},
        "rows": {"type": "array", "items": {"type": "object"}},
        "notes": texts(),
    });
    let of_command = |(name, about): &(&str, &About)| {
        let mut properties = json!({"schema": {"const": schema(name)}});
        let mut kinds: Vec<Value> = about.rows.iter().map(|columns| row_schema(columns)).collect();
        if !kinds.is_empty() {
            let rows = if kinds.len() == 1 { kinds.remove(0) } else { json!({"anyOf": kinds}) };
            properties["rows"] = json!({"items": rows});
        }
        json!({"if": {"properties": {"command": {"const": name}}}, "then": {"properties": properties}})
    };
    let mut schema = object(all);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "What cptr COMMAND --json prints".into();
    schema["allOf"] = super::ABOUT.iter().map(of_command).collect();
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{ABOUT, command_line};

    #[test]
    fn every_command_says_what_it_is_about() {
        let commands = command_line();
        let named: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(named, ABOUT.map(|(name, _)| name));
        for command in commands.get_subcommands().chain([&commands]) {
            let helps = [command.get_after_help(), command.get_after_long_help().or(command.get_after_help())];
            for help in helps.map(|help| help.expect("examples").to_string()) {
                let (_, examples) = help.split_once("Examples:\n").expect("examples");
                let line = |line: &&str| line.starts_with("  cptr ") || line.starts_with("  cargo ");
                assert!(examples.lines().filter(line).count() >= 1, "{}", command.get_name());
            }
        }
    }

    /// Columns that are known to be optional are not required, the others are.
    #[test]
    fn rows_have_types_and_units() {
        use crate::columns::{Format, column};
        let columns = [
            column("name", "", Format::Text, ""),
            column("time.mean_us", "", Format::Microseconds, "of a token"),
            column("time.p99_us", "", Format::Microseconds, "").if_any(),
            column("range.0", "", Format::Count, ""),
            column("range.1", "", Format::Plain, ""),
        ];
        let found = row_schema(&columns);
        assert_eq!(found["required"], json!(["name", "time", "range"]));
        assert_eq!(found["properties"]["time"]["required"], json!(["mean_us"]));
        let mean = json!({"type": ["number", "null"], "description": "of a token", "unit": "us"});
        assert_eq!(found["properties"]["time"]["properties"]["mean_us"], mean);
        let range = json!([{"type": ["number", "null"]}, {"type": ["number", "null"]}]);
        assert_eq!(found["properties"]["range"]["prefixItems"], range);
    }
}

//! What a command has to say, and the ways to say it: text for people, JSON and CSV for machines, a page with plots.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Column, Table, schema, value};
use crate::commands::Answer;
use crate::commands::asked::Asked;
use crate::report;
use crate::terminal;
use cptr_trace::error::{Error, Result};
use cptr_trace::file::Written;

/// Where results go; every command has these options.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Print JSON: {"schema", "command", "inputs", "answer", "rows", …}; cptr report compares two
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// Write the rows as CSV; - prints them instead of the table
    #[arg(long, global = true, value_name = "FILE|-", conflicts_with = "json", help_heading = "Output")]
    csv: Option<PathBuf>,
    /// Write an HTML page with tables and plots
    #[arg(long, global = true, value_name = "FILE", help_heading = "Output")]
    report: Option<PathBuf>,
    /// Say nothing on standard error but why something is refused: no remarks, no progress
    #[arg(long, short, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Say on standard error what was read, its SHA-256, and how long it all took
    #[arg(long, short, global = true, help_heading = "Output")]
    pub(crate) verbose: bool,
}

impl Output {
    /// Whether anything else than the text is.
    pub(crate) const fn is_asked_for(&self) -> bool {
        self.json || self.csv.is_some() || self.report.is_some()
    }

    /// Whether a form is asked for that says which files were read.
    pub(crate) const fn names_files(&self) -> bool {
        self.json || self.report.is_some() || self.verbose
    }
}

/// A part of the text under a heading of its own.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Heading; may be empty.
    pub(crate) title: String,
    /// What the reader should know first; may be empty.
    pub(crate) introduction: String,
    /// Lines on what was run, above the tables.
    pub(crate) facts: Vec<String>,
    pub(crate) tables: Vec<Table>,
    /// Sentences below the tables.
    pub(crate) remarks: Vec<String>,
    /// Plots as HTML, for the report alone.
    pub(crate) figures: Vec<String>,
}

impl Section {
    /// A section of one table.
    pub(crate) fn of(facts: impl IntoIterator<Item = String>, table: Table) -> Self {
        Self { facts: facts.into_iter().collect(), tables: vec![table], ..Self::default() }
    }

    fn text(&self) -> String {
        let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let heading = [self.title.as_str(), &self.introduction].into_iter().filter(|line| !line.is_empty());
        let heading: String = heading.map(|line| format!("{line}\n")).collect();
        let gap = if heading.is_empty() { "" } else { "\n" };
        let tables: Vec<String> = self.tables.iter().map(Table::text).filter(|text| !text.is_empty()).collect();
        heading + gap + &lines(&self.facts) + &tables.join("\n") + &lines(&self.remarks)
    }
}

/// All that a command has to say.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// What machines read.
    rows: Table,
    /// What people read; empty: the rows.
    pub(crate) sections: Vec<Section>,
    /// What JSON has beside the rows.
    beside: Map<String, Value>,
    /// Remarks for people.
    notes: Vec<String>,
    /// What comes out, in one sentence.
    pub(crate) answer: Option<String>,
    /// Where the page is written if nothing is said.
    report: Option<PathBuf>,
}

impl Page {
    pub(crate) fn new(rows: Table) -> Self {
        Self { rows, ..Self::default() }
    }

    /// A line above the rows.
    pub(crate) fn with_facts(mut self, facts: impl IntoIterator<Item = String>) -> Self {
        let section = Section::of(facts, self.rows.clone());
        self.sections.push(section);
        self
    }

    pub(crate) fn section(mut self, section: Section) -> Self {
        self.sections.push(section);
        self
    }

    /// A key of the JSON beside the rows.
    pub(crate) fn beside(mut self, key: &str, part: &impl Serialize) -> Self {
        self.beside.insert(key.into(), value(part));
        self
    }

    pub(crate) fn notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// The rows as machines read them.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> &[Value] {
        &self.rows.rows
    }

    /// Remarks for people.
    pub(crate) fn said(&self) -> &[String] {
        &self.notes
    }

    /// What comes out, in one sentence made of the rows.
    pub(crate) fn answered(self, sentence: impl Into<Option<String>>) -> Self {
        Self { answer: sentence.into(), ..self }
    }

    /// Where the page goes if `--report` says nothing.
    pub(crate) fn reported(self, path: impl Into<PathBuf>) -> Self {
        Self { report: Some(path.into()), ..self }
    }

    /// Writes files first, all of them before one has its name, so that a path that cannot be written to leaves nothing
    /// behind; then prints.
    ///
    /// # Errors
    /// A failed write.
    pub(crate) fn show(mut self, asked: &Asked, output: &Output) -> Result<()> {
        if self.sections.is_empty() {
            self = self.with_facts([]);
        }
        let report = output.report.as_ref().or(self.report.as_ref());
        let to_file = output.csv.as_ref().filter(|path| path.as_os_str() != "-");
        let page = |path: &PathBuf| Written::new(path, |out| out.write_all(report::html(asked, &self).as_bytes()));
        let rows = |path: &PathBuf| Written::new(path, |out| self.rows.csv(out));
        let written = [report.map(page).transpose()?, to_file.map(rows).transpose()?];
        written.into_iter().flatten().try_for_each(Written::publish)?;
        if !output.quiet {
            terminal::remark(&self.notes);
        }
        match () {
            () if output.json => terminal::print_json(&self.json(asked)),
            () if output.csv.is_some() && to_file.is_none() => {
                let mut text = Vec::new();
                self.rows.csv(&mut text).map_err(|error| Error::new(format!("CSV: {error}")))?;
                terminal::print(&text)
            }
            () => {
                let written = self.report.as_ref().and(report);
                let written = written.map_or(String::new(), |path| format!("Report with plots: {}\n", path.display()));
                terminal::print((self.text() + &written).as_bytes())
            }
        }
    }

    /// What would be printed, as JSON and as text.
    pub(crate) fn answer(mut self, asked: &Asked) -> Answer {
        if self.sections.is_empty() {
            self = self.with_facts([]);
        }
        let text = self.text();
        Answer { json: self.json(asked), text }
    }

    /// What people read.
    pub(crate) fn text(&self) -> String {
        self.sections.iter().map(Section::text).collect::<Vec<_>>().join("\n")
    }

    fn json(self, asked: &Asked) -> Value {
        let mut all = Map::new();
        all.insert("schema".into(), schema(&asked.command).into());
        all.insert("command".into(), asked.command.as_str().into());
        all.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        all.insert("command_line".into(), asked.line.as_str().into());
        all.insert("inputs".into(), json!(asked.inputs));
        all.insert("files".into(), json!(asked.files));
        all.insert("answer".into(), json!(self.answer));
        all.insert("columns".into(), self.rows.columns.iter().map(Column::said).collect());
        all.insert("rows".into(), json!(self.rows.rows));
        all.extend(self.beside);
        all.insert("notes".into(), json!(self.notes));
        json!(all)
    }
}

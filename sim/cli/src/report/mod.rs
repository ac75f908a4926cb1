//! A page as HTML with plots: opens from disk, needs no network, reads in light and dark, without colour, without a
//! script, by keyboard, on a phone, and on paper (docs/report.md).
//!
//! [`html`] makes it out of a [`Page`]. The plots are SVG inside it, it is well-formed XML, and all text that comes
//! from a trace is escaped. One script of our own sorts, filters, enlarges and shows values; the page's policy lets the
//! browser run that script and no other, by its hash.

#[cfg(feature = "model")]
pub(crate) mod frontier;
pub(crate) mod heat;
mod layers;
pub(crate) mod lines;
mod loads;
pub(crate) mod map;
pub(crate) mod plot;
mod price;
pub(crate) mod recall;
mod roles;
pub(crate) mod signal;
pub(crate) mod strips;
mod timeline;
mod times;

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cptr_sim::replay::Context;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::columns::{Column, Page, Section, Table, escape, format, paragraphs, schema};
use crate::commands::asked::{Asked, InputFile};
use roles::Role;
pub(crate) use roles::{name, number};
pub(crate) use times::ENERGIES;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// A table of more rows stands behind the plots.
const MOST_ROWS: usize = 30;
/// Digits of a hash that people see.
const DIGITS: usize = 12;

/// What the plots of a run show.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// Rows as machines read them.
    pub(crate) rows: &'a [Value],
    pub(crate) tokens: usize,
    pub(crate) domains: &'a [String],
    /// What the tracker saw.
    pub(crate) context: &'a Context,
    pub(crate) time_method: &'a str,
}

/// The plots of a run, without those that it has no numbers for: times without model sizes, price against gain where no
/// row gives up routing mass, stalls over loads where none fetches, curves by layer of a single layer.
pub(crate) fn figures(run: &Run<'_>) -> Vec<String> {
    vec![
        price::misses(run),
        price::time(run),
        loads::figure(run),
        times::figure(run),
        times::percentiles(run),
        times::bands(run),
        times::energy(run),
        timeline::misses(run),
        timeline::stalls(run),
        signal::figure(run.tokens, run.context),
        layers::figure(run),
    ]
}

/// The whole page. Texts are plain text and are escaped here.
pub(crate) fn html(asked: &Asked, page: &Page) -> String {
    let title = format!("cptr {}", escape(&asked.command));
    let contents = contents(&page.sections);
    let body: String = page.sections.iter().enumerate().map(|(index, part)| section(index, part)).collect();
    let notes: String = page.said().iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))).collect();
    let (version, hash) = (env!("CARGO_PKG_VERSION"), BASE64.encode(Sha256::digest(SCRIPT)));
    // The policy forbids the browser every request and every other script, whatever a trace may have smuggled in.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'sha256-{hash}'\" />\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#results\">Skip to the results</a>\n<header>\n<h1>{title}</h1>\n{}{}</header>\n\
         {contents}<main id=\"results\">\n{body}{notes}</main>\n\
         <footer>Made by cptr {version}. Nothing on this page is fetched from anywhere.</footer>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n",
        page.answer.as_ref().map_or(String::new(), |answer| format!("<p class=\"answer\">{}</p>\n", escape(answer))),
        run_of(asked)
    )
}

/// What was run: the command line, versions, files.
fn run_of(asked: &Asked) -> String {
    let item = |name: &str, what: &str| format!("<div><dt>{name}</dt><dd>{what}</dd></div>\n");
    let file = |file: &InputFile| {
        let hash = file
            .sha256
            .as_ref()
            .map_or(String::new(), |hash| format!(", SHA-256 <code>{}…</code>", hash.get(..DIGITS).unwrap_or(hash)));
        format!("<code>{}</code>, {} bytes{hash}", escape(&file.name), format::count(file.bytes as usize))
    };
    let files: Vec<String> = asked.files.iter().map(file).collect();
    let command = item("Command", &format!("<code>{}</code>", escape(&asked.line)));
    let version = format!("cptr {}, rows as {}", env!("CARGO_PKG_VERSION"), schema(&asked.command));
    let files = if files.is_empty() { String::new() } else { item("Input", &files.join("<br />")) };
    format!("<dl class=\"asked\">\n{command}{}{files}</dl>\n", item("Version", &version))
}

/// Links to the sections, where there are several.
fn contents(sections: &[Section]) -> String {
    if sections.len() < 2 {
        return String::new();
    }
    let item = |(index, part): (usize, &Section)| {
        format!("<li><a href=\"#section-{index}\">{}</a></li>\n", escape(&part.title))
    };
    let items: String = sections.iter().enumerate().map(item).collect();
    format!("<nav aria-label=\"Sections\">\n<ol>\n{items}</ol>\n</nav>\n")
}

fn section(index: usize, part: &Section) -> String {
    let heading = if part.title.is_empty() { String::new() } else { format!("<h2>{}</h2>\n", escape(&part.title)) };
    let spans: String = part.facts.iter().map(|fact| format!("<span>{}</span>", escape(fact))).collect();
    let facts = if spans.is_empty() { spans } else { format!("<p class=\"facts\">{spans}</p>\n") };
    let remarks: String =
        part.remarks.iter().map(|remark| format!("<p class=\"note\">{}</p>\n", escape(remark))).collect();
    let introduction = paragraphs(&part.introduction);
    let figures = part.figures.concat();
    // The rows first, then plots; what is longer than a window comes behind them, as do tables that go into details.
    let long = part.tables.first().is_some_and(|table| table.rows.len() > MOST_ROWS);
    let mut tables = part.tables.iter().map(table);
    let rows = tables.next().unwrap_or_default();
    let rest: String = tables.collect();
    let results = match (long, rest.is_empty()) {
        (true, _) => remarks + &figures + &rows + &rest,
        (false, true) => rows + &remarks + &figures,
        (false, false) => rows + &figures + &rest + &remarks,
    };
    format!("<section id=\"section-{index}\">\n{heading}{introduction}{facts}{results}</section>\n")
}

/// The rows as a table, and below it what its columns mean.
fn table(table: &Table) -> String {
    let columns = table.shown();
    if table.rows.is_empty() {
        return "<p class=\"note\">No row was run.</p>\n".into();
    }
    let title = escape(&table.title);
    let label = if title.is_empty() { "Rows" } else { &title };
    let caption = if title.is_empty() { String::new() } else { format!("<caption>{title}</caption>\n") };
    let contents = if table.is_upright() { upright(table, &columns) } else { across(table, &columns) };
    let notes = meanings(table, &columns);
    format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\">\n<table>\n{caption}{contents}</table>\n\
         </div>\n{notes}"
    )
}

/// One row, its columns below each other.
fn upright(table: &Table, columns: &[&Column]) -> String {
    let line = |column: &&Column| {
        let (name, text) = (escape(&column.name), escape(&column.cell(&table.rows[0])));
        format!("<tr><th scope=\"row\" class=\"name\">{name}</th><td>{text}</td></tr>\n")
    };
    let body: String = columns.iter().map(line).collect();
    format!(
        "<thead class=\"hidden\"><tr><th scope=\"col\" class=\"name\">what</th><th scope=\"col\">value</th></tr></thead>\n\
         <tbody>\n{body}</tbody>\n"
    )
}

/// A row for each row.
fn across(table: &Table, columns: &[&Column]) -> String {
    let class = |number: bool| if number { "" } else { " class=\"name\"" };
    let head = |column: &&Column| {
        format!("<th scope=\"col\"{}>{}</th>", class(column.format.is_number()), escape(&column.name))
    };
    let row = |(index, row): (usize, &Value)| {
        let cells = columns.iter().enumerate().map(|(at, column)| {
            let text = escape(&column.cell(row));
            // What the script sorts by; people see units of different size.
            let sorted = match column.of(row) {
                Value::Number(number) if column.format.is_number() => format!(" data-value=\"{number}\""),
                _ => String::new(),
            };
            match at {
                0 if table.is_starred(row) => format!("<th scope=\"row\" class=\"name\"{sorted}>{text} *</th>"),
                0 => format!("<th scope=\"row\" class=\"name\"{sorted}>{text}</th>"),
                _ => format!("<td{}{sorted}>{text}</td>", class(column.format.is_number())),
            }
        });
        format!("<tr{}>{}</tr>\n", Role::of(index, row).class(), cells.collect::<String>())
    };
    let head: String = columns.iter().map(head).collect();
    let body: String = table.rows.iter().enumerate().map(row).collect();
    format!("<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n")
}

/// What the columns mean, and the star.
fn meanings(table: &Table, columns: &[&Column]) -> String {
    let star = table.star_note().map(|meaning| format!("<p class=\"note\">* {}.</p>\n", escape(meaning)));
    let help = columns.iter().filter(|column| !column.help.is_empty());
    let help = help.map(|column| {
        let name = if column.name.is_empty() { &column.key } else { &column.name };
        format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(column.help))
    });
    let help: String = help.collect();
    let help = match help.as_str() {
        "" => help,
        _ => format!(
            "<details class=\"meanings\"><summary>What the columns mean</summary>\n<dl>\n{help}</dl>\n</details>\n"
        ),
    };
    star.unwrap_or_default() + &help
}

//! A page as HTML with plots: opens from disk, needs no network, reads in light and dark, prints.
//!
//! [`html`] makes it out of a [`Page`]. The plots are SVG inside it, it is well-formed XML, and all text that comes
//! from a trace is escaped.

#[cfg(feature = "model")]
pub(crate) mod frontier;
mod layers;
mod loads;
pub(crate) mod map;
mod plot;
mod price;
pub(crate) mod recall;
mod roles;
mod signal;
mod timeline;
mod times;

#[cfg(test)]
mod tests;

use cptr_sim::replay::Context;
use serde_json::Value;

use crate::columns::{Page, Section, Table, escape, paragraphs};
use roles::Role;

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
        price::figure(run),
        loads::figure(run),
        times::figure(run),
        timeline::figure(run),
        signal::figure(run),
        layers::figure(run),
    ]
}

/// The whole page. Texts are plain text and are escaped here.
pub(crate) fn html(command: &str, page: &Page) -> String {
    let title = format!("cptr {}", escape(command));
    let style = include_str!("style.css");
    let contents = contents(&page.sections);
    let body: String = page.sections.iter().enumerate().map(|(index, part)| section(index, part)).collect();
    let version = env!("CARGO_PKG_VERSION");
    // The policy forbids the browser every request, whatever a trace may have smuggled in.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\" />\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n\
         <title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{contents}{body}\
         <footer>Made by cptr {version}.</footer>\n</body>\n</html>\n"
    )
}

/// Links to the sections, where there are several.
fn contents(sections: &[Section]) -> String {
    if sections.len() < 2 {
        return String::new();
    }
    let item = |(index, part): (usize, &Section)| {
        format!("<li><a href=\"#section-{index}\">{}</a></li>\n", escape(&part.title))
    };
    format!("<nav>\n<ol>\n{}</ol>\n</nav>\n", sections.iter().enumerate().map(item).collect::<String>())
}

fn section(index: usize, part: &Section) -> String {
    let heading = if part.title.is_empty() { String::new() } else { format!("<h2>{}</h2>\n", escape(&part.title)) };
    let spans: String = part.facts.iter().map(|fact| format!("<span>{}</span>", escape(fact))).collect();
    let facts = if spans.is_empty() { spans } else { format!("<p class=\"facts\">{spans}</p>\n") };
    let tables: String = part.tables.iter().map(table).collect();
    let remarks: String =
        part.remarks.iter().map(|remark| format!("<p class=\"note\">{}</p>\n", escape(remark))).collect();
    let introduction = paragraphs(&part.introduction);
    let figures = part.figures.concat();
    format!("<section id=\"section-{index}\">\n{heading}{introduction}{facts}{tables}{remarks}{figures}</section>\n")
}

/// The rows as a table, and below it what its columns mean.
fn table(table: &Table) -> String {
    let columns = table.shown();
    if table.rows.is_empty() {
        return "<p class=\"note\">No row was run.</p>\n".into();
    }
    let title = if table.title.is_empty() { String::new() } else { format!("<h3>{}</h3>\n", escape(&table.title)) };
    let class = |number: bool| if number { "" } else { " class=\"name\"" };
    let head = |column: &&_| {
        let column: &crate::columns::Column = column;
        format!("<th scope=\"col\"{}>{}</th>", class(column.format.is_number()), escape(&column.name))
    };
    let row = |(index, row): (usize, &Value)| {
        let cells = columns.iter().enumerate().map(|(at, column)| {
            let text = escape(&column.cell(row));
            match at {
                0 if table.is_starred(row) => format!("<th scope=\"row\" class=\"name\">{text} *</th>"),
                0 => format!("<th scope=\"row\" class=\"name\">{text}</th>"),
                _ => format!("<td{}>{text}</td>", class(column.format.is_number())),
            }
        });
        format!("<tr{}>{}</tr>\n", Role::of(index, row).class(), cells.collect::<String>())
    };
    let head: String = columns.iter().map(head).collect();
    let body: String = table.rows.iter().enumerate().map(row).collect();
    let help = columns.iter().filter(|column| !column.help.is_empty());
    let meanings = help.map(|column| format!("{}: {}.", column.name, column.help));
    let star = table.star_note().map(|meaning| format!("* {meaning}."));
    let notes = escape(&meanings.chain(star).collect::<Vec<_>>().join(" "));
    let notes = if notes.is_empty() { notes } else { format!("<p class=\"note\">{notes}</p>\n") };
    format!(
        "{title}<div class=\"wide\">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n{notes}"
    )
}

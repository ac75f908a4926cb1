//! A run as one HTML page with plots: opens from disk, needs no network, reads in light and dark, prints.
//!
//! [`html`] makes the page out of [`Section`]s, one per [`Outcome`]; [`write()`] puts it into a file. The plots are SVG inside the page,
//! the page is well-formed XML, and all text that comes from a trace is escaped.

pub mod frontier;
mod layers;
mod markup;
mod plot;
mod price;
mod rows;
mod table;
mod timeline;
mod times;

#[cfg(test)]
mod tests;

use std::path::Path;

use cptr_sim::run::outcome::Outcome;
use cptr_trace::error::Result;
use cptr_trace::file;
use markup::{escape, paragraphs};

/// One run in a report, under its own heading.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    /// Heading, plain text.
    pub title: String,
    /// What the reader should know first, plain text; an empty line starts a paragraph; may be empty.
    pub introduction: String,
    /// What to show.
    pub outcome: &'a Outcome,
}

/// The whole page. Texts are plain text and are escaped here.
///
/// Plots that the outcome has no numbers for are left out: times without model sizes, price against gain where no row gives up
/// routing mass, curves by layer of a single layer.
pub fn html(title: &str, sections: &[Section<'_>]) -> String {
    let title = escape(title);
    let style = include_str!("style.css");
    let contents = contents(sections);
    let body: String = sections.iter().enumerate().map(|(index, part)| section(index, part)).collect();
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

/// Writes [`html`] to `path`: to a temporary file beside it, then renamed, so that no half page is ever seen.
///
/// # Errors
/// Any failed file operation.
pub fn write(path: &Path, title: &str, sections: &[Section<'_>]) -> Result<()> {
    file::replace(path, |out| out.write_all(html(title, sections).as_bytes()))
}

/// Links to the sections, where there are several.
fn contents(sections: &[Section<'_>]) -> String {
    if sections.len() < 2 {
        return String::new();
    }
    let item = |(index, part): (usize, &Section<'_>)| {
        format!("<li><a href=\"#section-{index}\">{}</a></li>\n", escape(&part.title))
    };
    format!("<nav>\n<ol>\n{}</ol>\n</nav>\n", sections.iter().enumerate().map(item).collect::<String>())
}

fn section(index: usize, part: &Section<'_>) -> String {
    let outcome = part.outcome;
    let names = rows::names(&outcome.rows);
    let parts = [
        format!("<section id=\"section-{index}\">\n<h2>{}</h2>\n", escape(&part.title)),
        paragraphs(&part.introduction),
        table::facts(outcome),
        table::rows(outcome),
        table::skipped(outcome),
        price::figure(outcome, &names),
        times::figure(outcome, &names),
        timeline::figure(outcome, &names),
        layers::figure(outcome, &names),
        "</section>\n".into(),
    ];
    parts.concat()
}

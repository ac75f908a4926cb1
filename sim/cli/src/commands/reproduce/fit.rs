//! `cptr reproduce WHAT --fit`.

use std::path::Path;

use serde_json::{Value, json};

use crate::columns::Format::{Change, Flag, Number, Plain, Text};
use crate::columns::{Column, Page, Section, Table, column};
use cptr_sim::reproduce::fit::{
    self, FigureRow, Fitted, HypothesisRow, LayerRow, Paper, ParameterRow, Setting, ValueRow, Verdict, short,
};
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;

/// What machines read.
pub(super) static ROWS: [Column; 13] = [
    column("figure", "figure", Text, ""),
    column("unit", "unit", Text, "empty for ratios"),
    column("published_low", "published", Plain, ""),
    column("published_high", "to", Plain, ""),
    column("unfitted", "unfitted", Plain, "the machine before any fit"),
    column("fitted", "fitted", Plain, "the best fit to all figures"),
    column("off", "off", Change, "difference to the published value, or to the nearer end of its range"),
    column("off_sigma", "sigma", Number(1), "the same in standard deviations"),
    column("left_out", "left out", Plain, "what the fit to all other figures predicts"),
    column("left_out_low", "from", Plain, "its interval of 95 %"),
    column("left_out_high", "to", Plain, ""),
    column("verdict", "verdict", Text, "in (within 1.96 standard deviations), out, or not identifiable"),
    column("reason", "reason", Text, ""),
];

/// What people read, numbers written together.
static FIGURES: [Column; 8] = [
    column("figure", "figure", Text, ""),
    column("published", "published", Text, ""),
    column("unfitted", "unfitted", Text, "").if_any(),
    column("fitted", "fitted", Text, "").if_any(),
    column("off", "off", Change, "").if_any(),
    column("off_sigma", "sigma", Number(1), "").if_any(),
    column("left_out", "left out", Text, "").if_any(),
    column("verdict", "", Text, ""),
];

static PARAMETERS: [Column; 5] = [
    column("name", "parameter", Text, ""),
    column("best", "best", Text, ""),
    column("interval", "95 %", Text, "what it can be while the others are fitted anew"),
    column("range", "of", Text, "what it was allowed to be"),
    column("verdict", "", Text, "identified, partly, whole range, no influence"),
];

static VALUES: [Column; 4] = [
    column("name", "with", Text, ""),
    column("value", "at", Text, ""),
    column("chi2", "chi squared", Number(1), "of the best fit with this value"),
    column("possible", "possible", Flag, "within 3.84 of the least"),
];

static LAYERS: [Column; 8] = [
    column("figure", "mean layer, us", Text, ""),
    column("published_us", "published", Number(0), "what the published rate stands for"),
    column("unfitted_us", "unfitted", Number(0), ""),
    column("fitted_us", "fitted", Number(0), ""),
    column("machine_us", "of that machine", Number(0), ""),
    column("dispatch_us", "dispatch", Number(0), ""),
    column("copies_us", "copies", Number(0), "that the strategy does not say"),
    column("constant_us", "constant", Number(0), ""),
];

pub(super) fn main(what: &str) -> Result<Page> {
    let paper = read(what)?;
    let working = Progress::unknown("fitting");
    let fitted = fit::fit(&paper)?;
    drop(working);
    let figures = Table::new(&FIGURES, &fitted.figures.iter().map(figure).collect::<Vec<_>>());
    let parameters = Table::new(&PARAMETERS, &fitted.parameters.iter().map(parameter).collect::<Vec<_>>());
    let mut tables = vec![figures.titled("Figures"), parameters.titled("What the paper does not say")];
    if !fitted.values.is_empty() {
        tables.push(
            Table::new(&VALUES, &fitted.values.iter().map(with).collect::<Vec<_>>())
                .titled("Every value of every list"),
        );
    }
    if !fitted.layers.is_empty() {
        tables.push(Table::new(&LAYERS, &fitted.layers).titled("What the rates stand for"));
    }
    let section = Section {
        facts: vec![format!("{}, {}; machine {}", paper.title, paper.source, paper.system), counted(&fitted)],
        tables,
        remarks: remarks(&fitted),
        ..Section::default()
    };
    let rows = Table::new(&ROWS, &fitted.figures);
    let verdicts = |verdict: &str| rows.rows.iter().filter(|row| row["verdict"] == verdict).count();
    let answer = format!(
        "Of {} figures of the paper the fit to all others predicts {}, {} come out otherwise, and {} cannot be told.",
        rows.rows.len(),
        verdicts("in"),
        verdicts("out"),
        rows.rows.len() - verdicts("in") - verdicts("out")
    );
    Ok(Page::new(rows)
        .section(section)
        .answered(answer)
        .beside("parameters", &fitted.parameters)
        .beside("trade_offs", &fitted.trades)
        .beside("values", &fitted.values)
        .beside("hypotheses", &fitted.hypotheses)
        .beside("layers", &fitted.layers)
        .beside("chi2", &fitted.chi2)
        .beside("fitted_values", &fitted.fitted_values)
        .beside("fitted_ranges", &fitted.fitted_ranges)
        .beside("used_parameters", &fitted.used_parameters)
        .beside("degrees_of_freedom", &fitted.degrees_of_freedom)
        .beside("paper", &json!({"title": paper.title, "source": paper.source, "system": paper.system})))
}

fn read(what: &str) -> Result<Paper> {
    if what.ends_with(".toml") {
        let path = Path::new(what);
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
        return Paper::from_toml(&text).map_err(|error| error.or_file(path));
    }
    let names = || Paper::names().collect::<Vec<_>>().join(", ");
    Paper::find(what).ok_or_else(|| {
        Error::usage(format!("--fit: expected one of {}, or a file ending in .toml, found \"{what}\"", names()))
    })
}

fn counted(fitted: &Fitted) -> String {
    let &Fitted { chi2, fitted_values, fitted_ranges, used_parameters, degrees_of_freedom, .. } = fitted;
    let few = if degrees_of_freedom < 1 { "; only \"left out\" says what agreement is worth" } else { "" };
    format!(
        "values: {fitted_values}; ranges: {fitted_ranges}; parameters with influence: {used_parameters}; degrees of \
         freedom, values less parameters: {degrees_of_freedom}{few}; chi squared: {chi2:.1}"
    )
}

fn figure(row: &FigureRow) -> Value {
    let published = if row.published_low == row.published_high {
        row.published_low.to_string()
    } else {
        format!("{} to {}", row.published_low, row.published_high)
    };
    let left_out = row.left_out.zip(row.left_out_low.zip(row.left_out_high));
    let left_out = left_out.map(|(best, (low, high))| format!("{} ({} to {})", short(best), short(low), short(high)));
    json!({
        "figure": row.figure,
        "published": format!("{published} {}", row.unit).trim_end(),
        "unfitted": row.unfitted.map(short),
        "fitted": row.fitted.map(short),
        "off": row.off,
        "off_sigma": row.off_sigma,
        "left_out": left_out,
        "verdict": row.verdict.as_str(),
    })
}

fn parameter(row: &ParameterRow) -> Value {
    let join = |ends: &[Setting]| {
        ends.iter().map(Setting::to_string).collect::<Vec<_>>().join(if row.listed { ", " } else { " to " })
    };
    json!({
        "name": row.name,
        "best": format!("{} {}", row.best, row.unit).trim_end(),
        "interval": join(&row.interval),
        "range": join(&row.range),
        "verdict": row.verdict.as_str(),
    })
}

fn with(row: &ValueRow) -> Value {
    json!({"name": row.name, "value": row.value.to_string(), "chi2": row.chi2, "possible": row.possible})
}

/// What follows, in sentences.
fn remarks(fitted: &Fitted) -> Vec<String> {
    let mut lines: Vec<String> = fitted.hypotheses.iter().map(hypothesis).collect();
    lines.extend(slopes(&fitted.layers));
    let count = |verdict: Verdict| fitted.figures.iter().filter(|row| row.verdict == verdict).count();
    lines.push(format!(
        "{} figures: {} in, {} out, {} not identifiable.",
        fitted.figures.len(),
        count(Verdict::In),
        count(Verdict::Out),
        count(Verdict::NotIdentifiable)
    ));
    lines.extend(fitted.figures.iter().filter(|row| !row.reason.is_empty()).map(|row| {
        let state = if row.verdict == Verdict::NotIdentifiable { "not identifiable" } else { "not counted" };
        format!("{}: {state}: {}.", row.figure, row.reason)
    }));
    lines.extend(fitted.trades.iter().map(|trade| {
        format!(
            "Cannot be told apart: if {} were known, the interval of {} would more than halve.",
            trade.known, trade.then
        )
    }));
    lines
}

fn hypothesis(row: &HypothesisRow) -> String {
    let verdict = match (row.possible, row.only) {
        (true, true) => "the only value that the figures allow",
        (true, false) => "possible, and so are others",
        (false, _) => "excluded",
    };
    format!(
        "Hypothesis: {} ({} = {}): {verdict}; chi squared {:.1}, without it {:.1}.",
        row.hypothesis.text, row.hypothesis.parameter, row.hypothesis.value, row.chi2, row.chi2_without
    )
}

/// What a bit more costs a layer, where a rate is known at two numbers of bits.
fn slopes(layers: &[LayerRow]) -> Vec<String> {
    let few: Vec<&LayerRow> = layers.iter().filter(|row| row.bits.is_some_and(|bits| bits < 16)).collect();
    few.windows(2)
        .filter_map(|pair| {
            let bits = f64::from(pair[0].bits?) - f64::from(pair[1].bits?);
            let of = |us: fn(&LayerRow) -> f64| (us(pair[0]) - us(pair[1])) / bits;
            (bits != 0.0).then(|| {
                format!(
                    "A bit more costs a layer {:.0} us as published, {:.0} us unfitted, {:.0} us fitted.",
                    of(|row| row.published_us),
                    of(|row| row.unfitted_us),
                    of(|row| row.fitted_us)
                )
            })
        })
        .collect()
}

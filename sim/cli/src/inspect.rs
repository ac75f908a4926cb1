//! The reports as tables for people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use cptr_trace::statistics::{CountsInspection, Domains, Inspection, LayerRate, Locality, Phases};

/// The report of a trace as text, several tables, ending with a newline. Plain characters without colour.
pub fn print(report: &Inspection) -> String {
    let mut text = String::new();
    text += &overview(report);
    text += &by_layer(report);
    text += &by_domain(report);
    text += &overlap_and_reuse(report);
    text += &cache(report);
    text += &locality(&report.locality);
    text += &phases(&report.phases);
    text += &signal(report);
    text += &sentences("Note", &report.notes);
    text += &sentences("Warning", &report.warnings);
    text
}

/// The report of a count file as text.
pub fn print_counts(report: &CountsInspection) -> String {
    let mut text = String::new();
    let header = ["table", "model", "layers", "experts", "k", "choices", "max/mean", "effective", "top E/4", "top E/2"];
    let rows = report.tables.iter().map(|t| {
        let sizes = [t.layers.to_string(), t.experts.to_string(), t.k.to_string(), t.choices.to_string()];
        let figures = [t.max_over_mean_load, t.effective_experts, t.coverage_quarter, t.coverage_half].map(number);
        [t.name.clone(), t.model.clone()].into_iter().chain(sizes).chain(figures).collect()
    });
    text += &table("Load of the experts, mean over layers", &header, rows);
    for model in &report.models {
        let title = match model.model.as_str() {
            "" => "Cosine of the counts".to_owned(),
            name => format!("Cosine of the counts, {name}"),
        };
        text += &matrix(&title, &model.names, &model.cosine);
    }
    let rows = report.pairs.iter().map(|p| {
        let layers = format!("{} to {}", p.layers.0, p.layers.1);
        let figures = [p.mutual_information_bits, p.predictability, p.predictability_marginal].map(number);
        [p.name.clone(), layers, p.choices.to_string()].into_iter().chain(figures).collect()
    });
    let header = ["table", "layers", "pairs", "information, bits", "predictable", "without"];
    text += &table("What one layer says about a later one", &header, rows);
    text += &sentences("Note", &report.notes);
    text += &sentences("Warning", &report.warnings);
    text
}

fn overview(report: &Inspection) -> String {
    let Inspection { tokens, sequences, prefill_tokens, decode_tokens, layers, experts, k, .. } = report;
    let switching = &report.switching;
    let rows = [
        ("model", or_unknown(&report.model)),
        ("source", or_unknown(&report.source)),
        ("router", report.router.clone()),
        ("recorded", report.knowledge.clone()),
        ("tokens", format!("{tokens} in {sequences} sequences ({prefill_tokens} prefill, {decode_tokens} decode)")),
        ("shape", format!("{layers} layers, {experts} experts, top-{k}")),
        ("switch rate", number(switching.switch_rate)),
        ("switch rate, memoryless", number(switching.switch_rate_memoryless)),
        ("lowest layer", layer_rate(switching.switch_rate_lowest)),
        ("highest layer", layer_rate(switching.switch_rate_highest)),
        ("identical sets", number(switching.identical_sets)),
    ];
    table("Trace", &["", ""], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]))
}

fn layer_rate(rate: Option<LayerRate>) -> String {
    rate.map_or("-".to_owned(), |rate| format!("{} (layer {})", number(rate.switch_rate), rate.layer))
}

fn by_layer(report: &Inspection) -> String {
    let rows = report
        .switching
        .switch_rate_by_layer
        .iter()
        .map(|rate| vec![rate.layer.to_string(), number(rate.switch_rate), number(rate.switch_rate_memoryless)]);
    table("Switch rate by layer", &["layer", "switch rate", "memoryless"], rows)
}

fn by_domain(report: &Inspection) -> String {
    let domains = &report.switching.switch_rate_by_domain;
    if domains.len() < 2 {
        return String::new();
    }
    let rows = domains.iter().map(|d| {
        let rates = [d.switch_rate, Some(d.switch_rate_memoryless)].map(number);
        let layers = [d.switch_rate_lowest, d.switch_rate_highest].map(layer_rate);
        [d.domain.clone(), d.tokens.to_string()].into_iter().chain(rates).chain(layers).collect()
    });
    table("Switch rate by domain", &["domain", "tokens", "switch rate", "memoryless", "lowest", "highest"], rows)
}

fn overlap_and_reuse(report: &Inspection) -> String {
    let lags = report.switching.overlap_by_lag.iter();
    let lags = lags.map(|point| vec![point.lag.to_string(), number(point.overlap)]);
    let overlap = table("Overlap of the choices by distance", &["tokens", "overlap"], lags);
    let reuse = &report.reuse;
    let bins = reuse.histogram.iter().map(|bin| {
        let range = if bin.from == bin.to { bin.from.to_string() } else { format!("{} to {}", bin.from, bin.to) };
        vec![range, number(bin.share)]
    });
    let tokens = |quantile: Option<u64>| quantile.map_or("-".to_owned(), |tokens| tokens.to_string());
    let title = format!(
        "Reuse distance: median {}, 90 % {}, 99 % {} tokens; {} within 8",
        tokens(reuse.median),
        tokens(reuse.quantile_90),
        tokens(reuse.quantile_99),
        number(reuse.within_8)
    );
    overlap + &table(&title, &["tokens", "share"], bins)
}

fn cache(report: &Inspection) -> String {
    let rows = report
        .cache
        .iter()
        .map(|point| vec![point.size.to_string(), number(point.lru), number(point.lfu), number(point.belady)]);
    table("Hit rate, one cache per layer", &["slots", "LRU", "LFU", "Belady"], rows)
}

fn locality(points: &[Locality]) -> String {
    let rows = points.iter().flat_map(|point| {
        point.sch.iter().enumerate().map(|(i, sch)| {
            let once = |text: String| if i == 0 { text } else { String::new() };
            vec![
                once(point.segment_tokens.to_string()),
                once(number(point.srp)),
                once(number(point.srp_size_ratio)),
                format!("{} k = {}", sch.ratio, sch.slots),
                number(sch.sch_v1),
                number(sch.sch_v3),
            ]
        })
    });
    let header = ["segment", "SRP", "SRP size ratio", "slots", "SCH v1/v2", "SCH v3"];
    table("Segment routing (SRP) and segment caches (SCH) of arXiv 2505.16056, by version of the paper", &header, rows)
}

fn phases(phases: &Phases) -> String {
    let mut text = match &phases.prefill_decode_missing {
        Some(reason) => format!("Cosine of prefill and decode: none, {reason}.\n\n"),
        None => format!(
            "Cosine of prefill and decode: {}; within sequences {}.\n\n",
            number(phases.prefill_decode_cosine),
            number(phases.prefill_decode_cosine_within_sequences)
        ),
    };
    if let Some(Domains { names, cosine, coverage, hot_experts }) = &phases.domains {
        text += &matrix("Cosine of the domains", names, cosine);
        let title = format!(
            "Coverage of the later choices of a domain (column) by the top {hot_experts} experts of the first {} tokens of another (row)",
            cptr_trace::statistics::PROFILE_TOKENS
        );
        text += &matrix(&title, names, coverage);
    }
    text
}

fn signal(report: &Inspection) -> String {
    let mut text = String::new();
    if let Some(weights) = &report.weights {
        let _ = writeln!(
            text,
            "Weights of a token and layer sum to {:.3} in the mean ({:.3} to {:.3}).\n",
            weights.sum_mean, weights.sum_min, weights.sum_max
        );
    }
    if let Some(logits) = &report.logits {
        let title = format!(
            "Logits: standard deviation {:.3}; gap after the k-th: median {}, 10 % {}",
            logits.standard_deviation,
            number(logits.gap_median),
            number(logits.gap_quantile_10)
        );
        let rows = logits.autocorrelation.iter().map(|point| vec![point.lag.to_string(), number(point.correlation)]);
        text += &table(&title, &["tokens", "autocorrelation"], rows);
    }
    text
}

/// A square matrix; the columns carry the numbers of the rows, since names may be long.
fn matrix(title: &str, names: &[String], cells: &[Vec<Option<f64>>]) -> String {
    let numbers: Vec<String> = (1..=names.len()).map(|number| number.to_string()).collect();
    let header: Vec<&str> = std::iter::once("").chain(numbers.iter().map(String::as_str)).collect();
    let rows = names.iter().zip(&numbers).zip(cells).map(|((name, of_row), row)| {
        std::iter::once(format!("{of_row} {name}")).chain(row.iter().map(|&cell| number(cell))).collect()
    });
    table(title, &header, rows)
}

fn sentences(kind: &str, list: &[String]) -> String {
    list.iter().map(|sentence| format!("{kind}: {sentence}.\n").replace("..\n", ".\n")).collect()
}

/// A titled table, first column to the left and numbers to the right; nothing without rows.
fn table(title: &str, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    if header.iter().any(|name| !name.is_empty()) {
        table.set_header(header.to_vec());
    }
    table.add_rows(rows);
    if table.is_empty() {
        return String::new();
    }
    if table.header().is_some() {
        table.column_iter_mut().skip(1).for_each(|column| {
            column.set_cell_alignment(CellAlignment::Right);
        });
    }
    format!("{title}\n{}\n\n", table.trim_fmt())
}

fn or_unknown(text: &str) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}

/// Three decimals, `-` for what could not be computed.
fn number(value: impl Into<Option<f64>>) -> String {
    value.into().map_or("-".to_owned(), |value| format!("{value:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_trace::counts::{CountTable, Counts, PairTable};
    use cptr_trace::statistics::{Options, inspect, inspect_counts};
    use cptr_trace::{Phase, Shape, Trace};

    #[test]
    fn every_figure_of_a_trace_is_printed() {
        let shape = Shape { tokens: 1200, layers: 2, experts: 16, k: 2 };
        // Experts stay for three tokens and come again.
        let ids = (0..2400u16).flat_map(|i| [i / 6 % 16, (i / 6 + 3 + i % 2) % 16]).collect();
        let mut trace = Trace { phase: vec![Phase::Prefill; 1200], ..Trace::of_ids(shape, ids) };
        trace.sequence = [vec![0; 600], vec![1; 600]].concat();
        trace.position = (0..600).chain(0..600).collect();
        trace.meta.domains = vec!["prose".into(), "code".into()];
        trace.domain = [vec![0; 600], vec![1; 600]].concat();
        trace.notes.push("a remark of the importer.".into());
        let report = inspect(&trace, &Options { cache_sizes: vec![1, 4] });
        let text = print(&report);
        for part in [
            "1200 in 2 sequences (1200 prefill, 0 decode)",
            &number(report.switching.switch_rate),
            &number(report.cache[0].belady),
            &number(report.locality[0].srp),
            "none, the trace has prefill tokens only",
            "Coverage of the later choices",
            "Note: a remark of the importer.\n",
            "Warning: cache sizes 1 are left out: expected 2 (the experts of one token) to 16 slots per layer.\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\u{1b}') && text.ends_with('\n'));
    }

    #[test]
    fn counts_are_printed() {
        let counts = vec![vec![1, 2, 3, 6]];
        let table = |name: &str| CountTable {
            name: name.into(),
            model: "m".into(),
            k: 2,
            layer_ids: vec![5],
            counts: counts.clone(),
        };
        let text = print_counts(&inspect_counts(&Counts {
            tables: vec![table("prose"), table("code")],
            pairs: vec![PairTable { name: "both".into(), layers: (0, 7), counts: vec![vec![1, 0], vec![0, 1]] }],
            ..Counts::default()
        }));
        for part in ["prose", "2.000", "Cosine of the counts, m", "0 to 7"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}

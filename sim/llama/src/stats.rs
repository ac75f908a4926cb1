//! `cptr-llama stats`: which experts a text uses in which layer, how few cover most of it, and how much comes again.

use cptr_sim::recall;
use cptr_trace::Trace;
use cptr_trace::error::Result;
use serde_json::json;

use crate::capture::{self, Recording};
use crate::common::ModelArgs;
use crate::show::{Page, column};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    recording: Recording,
    /// Leave out how much of the routing comes again, which takes the longest
    #[arg(long)]
    no_recall: bool,
}

/// Shades of the heat map, from never to most.
const SHADES: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(crate) fn main(args: &Args) -> Result<Page> {
    let (trace, moe) = capture::record(&args.model, &args.recording, true)?;
    let mut rows = Vec::new();
    for (layer, &number) in moe.layers.iter().enumerate() {
        let uses = uses(&trace, layer);
        let (half, most) = (covers(&uses, 0.5), covers(&uses, 0.9));
        rows.push(json!({
            "layer": number, "uses": uses, "map": map(&uses), "never": uses.iter().filter(|&&count| count == 0).count(),
            "experts_for_half": half, "experts_for_90": most, "switch_rate": switches(&trace, layer),
            "cover_2k": covered(&uses, 2 * moe.k),
        }));
    }
    let mut facts = vec![format!(
        "{} ({}): {} layers x {} experts, top-{}; {} tokens",
        moe.name,
        moe.architecture,
        moe.layers.len(),
        moe.experts,
        moe.k,
        trace.shape.tokens
    )];
    let mut beside = Vec::new();
    if !args.no_recall {
        let study = recall::run(&trace)?;
        if let Some(next) = study.rows.first() {
            facts.push(format!(
                "the next token's experts: {:.1}% among the k best of what followed the places most like this one, \
                 {:.1}% among 2k; by tracked levels {}",
                100.0 * next.recall_k,
                100.0 * next.recall_2k,
                next.levels_k.map_or_else(|| "–".into(), |share| format!("{:.1}%", 100.0 * share)),
            ));
        }
        let row = serde_json::to_value(&study).unwrap_or_default();
        beside.push(("recall".into(), row));
    }
    let columns = vec![
        column("layer", "layer"),
        column("map", "use of each expert, least to most"),
        column("never", "never"),
        column("experts_for_half", "for half"),
        column("experts_for_90", "for 90%"),
        column("cover_2k", "most used 2k cover").percent(),
        column("switch_rate", "switch").percent(),
    ];
    Ok(Page { facts, columns, rows, beside })
}

/// How often each expert of a layer was chosen.
fn uses(trace: &Trace, layer: usize) -> Vec<u64> {
    let mut uses = vec![0; trace.shape.experts];
    for token in 0..trace.shape.tokens {
        trace.chosen(token, layer).iter().for_each(|&expert| uses[usize::from(expert)] += 1);
    }
    uses
}

/// Experts that hold this share of the choices, the most used first.
fn covers(uses: &[u64], share: f64) -> usize {
    let (all, mut sorted) = (uses.iter().sum::<u64>() as f64, uses.to_vec());
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let sums = sorted.iter().scan(0, |sum, count| {
        *sum += count;
        Some(*sum as f64)
    });
    sums.take_while(|sum| *sum < share * all).count() + usize::from(all > 0.0)
}

/// Share of the choices that the most used hold.
fn covered(uses: &[u64], most: usize) -> f64 {
    let mut sorted = uses.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.iter().take(most).sum::<u64>() as f64 / uses.iter().sum::<u64>().max(1) as f64
}

/// A sign for each expert, or for as many as fit beside each other.
fn map(uses: &[u64]) -> String {
    let each = uses.len().div_ceil(64);
    let sums: Vec<u64> = uses.chunks(each).map(|part| part.iter().sum()).collect();
    let most = sums.iter().copied().max().unwrap_or(0).max(1);
    let shade = |&count: &u64| SHADES[(count * 8).div_ceil(most) as usize];
    sums.iter().map(shade).collect()
}

/// Share of the choices that the token before did not make.
fn switches(trace: &Trace, layer: usize) -> f64 {
    let (mut all, mut new) = (0_u64, 0_u64);
    for token in (1..trace.shape.tokens).filter(|&token| !trace.starts_sequence(token)) {
        let before = trace.chosen(token - 1, layer);
        let now = trace.chosen(token, layer);
        all += now.len() as u64;
        new += now.iter().filter(|expert| !before.contains(expert)).count() as u64;
    }
    new as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_trace::Shape;

    #[test]
    fn counts_by_hand() {
        let trace = Trace::of_ids(Shape { tokens: 4, layers: 1, experts: 4, k: 1 }, vec![0, 0, 1, 0]);
        let uses = uses(&trace, 0);
        assert_eq!(uses, [3, 1, 0, 0]);
        assert_eq!((covers(&uses, 0.5), covers(&uses, 0.9), covers(&[0, 0], 0.5)), (1, 2, 0));
        assert_eq!((covered(&uses, 1), map(&uses).as_str()), (0.75, "█▃··"));
        assert!((switches(&trace, 0) - 2.0 / 3.0).abs() < 1e-12);
    }
}

//! What should the level filter observe? Misses of tracked eviction under the raw router, in floating point, when the
//! levels follow (a) whether a token wants an expert, (b) the mixing weights of the wanted experts, (c) the softmax
//! over all experts; each with slow gain 1/64, fast gain 1/8 and score slow + fast / 4; and (d) the softmax with gains
//! 0.05 and 0.5 and score slow + 0.7 fast.
//!
//! `cargo run --release -p cptr-tests --example observation -- TRACE…` prints the table of docs/filter.md. Cache of
//! twice the active experts.

use std::path::Path;

use cptr_trace::import::{self, Options, Recording};
use cptr_trace::{Shape, Trace};

#[derive(Clone, Copy)]
enum Observation {
    Wanted,
    Weights,
    Softmax,
}

/// Gains of the two levels and the weight of the fast one in the score.
#[derive(Clone, Copy)]
struct Filter {
    slow: f64,
    fast: f64,
    weight: f64,
}

const CHOSEN: Filter = Filter { slow: 1.0 / 64.0, fast: 1.0 / 8.0, weight: 0.25 };
const QUICK: Filter = Filter { slow: 0.05, fast: 0.5, weight: 0.7 };

fn main() {
    println!(
        "| trace | wanted or not | weights of the wanted | softmax over all | softmax, quick gains |\n|---|---|---|---|---|"
    );
    for path in std::env::args().skip(1) {
        let trace = match import::read(Path::new(&path), &Options::default()) {
            Ok(Recording::Tokens(trace)) => trace,
            Ok(Recording::Counts(_)) => continue,
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(2);
            }
        };
        let cell = |observation, filter, known: bool| {
            if known { format!("{:.4}", miss_rate(&trace, observation, filter)) } else { "-".into() }
        };
        let logits = trace.logits.is_some() && trace.meta.router.is_softmax();
        println!(
            "| {} | {} | {} | {} | {} |",
            if trace.meta.model.is_empty() { &path } else { &trace.meta.model },
            cell(Observation::Wanted, CHOSEN, true),
            cell(Observation::Weights, CHOSEN, logits || trace.weights.is_some()),
            cell(Observation::Softmax, CHOSEN, logits),
            cell(Observation::Softmax, QUICK, logits)
        );
    }
}

fn miss_rate(trace: &Trace, observation: Observation, filter: Filter) -> f64 {
    let Shape { tokens, layers, k, .. } = trace.shape;
    let misses: usize = (0..layers).map(|layer| misses(trace, layer, observation, filter)).sum();
    misses as f64 / (tokens * layers * k) as f64
}

fn misses(trace: &Trace, layer: usize, observation: Observation, filter: Filter) -> usize {
    let Shape { tokens, experts, k, .. } = trace.shape;
    let (mut slow, mut fast) = (vec![0.0f64; experts], vec![0.0f64; experts]);
    let mut resident = vec![false; experts];
    let mut count = 0;
    for token in 0..tokens {
        let wanted = trace.chosen(token, layer);
        for &expert in wanted {
            if resident[usize::from(expert)] {
                continue;
            }
            count += 1;
            if resident.iter().filter(|&&r| r).count() == (2 * k).min(experts) {
                let score = |e: usize| slow[e] + filter.weight * fast[e];
                let free = (0..experts).filter(|&e| resident[e] && !wanted.contains(&(e as u16)));
                let victim = free.min_by(|&a, &b| score(a).total_cmp(&score(b))).expect("the cache holds more than k");
                resident[victim] = false;
            }
            resident[usize::from(expert)] = true;
        }
        let observed = observe(trace, token, layer, observation);
        for (level, gain) in [(&mut slow, filter.slow), (&mut fast, filter.fast)] {
            level.iter_mut().zip(&observed).for_each(|(x, y)| *x += gain * (y - *x));
        }
    }
    count
}

fn observe(trace: &Trace, token: usize, layer: usize, observation: Observation) -> Vec<f64> {
    let Shape { experts, k, .. } = trace.shape;
    let wanted = trace.chosen(token, layer);
    let softmax = trace.logits.as_ref().map(|logits| {
        let mut row = vec![0.0f32; experts];
        logits.read_row(token, layer, &mut row);
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let mass: Vec<f64> = row.iter().map(|&z| f64::from(z - largest).exp()).collect();
        let sum: f64 = mass.iter().sum();
        mass.iter().map(|m| m / sum).collect::<Vec<f64>>()
    });
    let weight = |i: usize, expert: u16| match (observation, &softmax, &trace.weights) {
        (Observation::Wanted, _, _) => 1.0,
        (_, Some(softmax), _) => softmax[usize::from(expert)],
        (_, None, Some(weights)) => {
            let mut row = vec![0.0f32; k];
            weights.read_row(token, layer, &mut row);
            f64::from(row[i])
        }
        (_, None, None) => 0.0,
    };
    let mut observed = vec![0.0; experts];
    match (observation, &softmax) {
        (Observation::Softmax, Some(softmax)) => observed.clone_from(softmax),
        _ => wanted.iter().enumerate().for_each(|(i, &e)| observed[usize::from(e)] = weight(i, e)),
    }
    observed
}

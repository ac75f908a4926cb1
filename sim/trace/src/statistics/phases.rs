//! How far the experts used in one part of a trace predict those used in another: prefill against decode, domain
//! against domain.

use serde::Serialize;

use super::view::{Layer, View, cosine, mean, share, top};
use crate::Phase;

/// Tokens of a domain from which its hot experts are taken.
pub const PROFILE_TOKENS: usize = 512;

/// Similarity of the expert counts of different parts, each computed per layer; mean over layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phases {
    /// Cosine of the counts of all prefill tokens and of all decode tokens.
    pub prefill_decode_cosine: Option<f64>,
    /// The same inside each sequence that has both phases; mean over these sequences.
    pub prefill_decode_cosine_within_sequences: Option<f64>,
    /// Why there is no cosine of prefill and decode.
    pub prefill_decode_missing: Option<String>,
    /// Domain by domain; `None` for a single domain.
    pub domains: Option<Domains>,
}

/// Similarity of domains. Matrices are `[D][D]` in the order of `names`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Domains {
    /// Domains that have tokens.
    pub names: Vec<String>,
    /// Cosine of the counts.
    pub cosine: Vec<Vec<Option<f64>>>,
    /// Share of the choices of domain `column`, without its first 512 tokens, that fall on the `hot_experts` most
    /// chosen experts of the first 512 tokens of domain `row`: what a placement fixed after such a prefill still covers
    /// later, and elsewhere. `None` where the column has no further tokens.
    pub coverage: Vec<Vec<Option<f64>>>,
    /// Experts per layer taken as hot, `E / 4`, at least 1.
    pub hot_experts: usize,
}

/// Cost: `O(T L k)`, and `O(L D^2 E)` for the matrices.
pub(super) fn phases(view: &View, domain_names: &[String]) -> Phases {
    let of_phase = |phase: Phase| move |token: usize| view.phase[token] == phase;
    let both = |a: Phase, b: Phase| [a, b].map(|phase| view.phase.contains(&phase));
    let missing = match both(Phase::Prefill, Phase::Decode) {
        [true, true] => None,
        [true, false] => Some("the trace has prefill tokens only".to_owned()),
        [false, _] => Some("the trace has decode tokens only".to_owned()),
    };
    let pooled = mean(
        view.per_layer(|layer| {
            let all = 0..view.shape.tokens;
            cosine(
                &count(layer, all.clone().filter(|&t| of_phase(Phase::Prefill)(t))),
                &count(layer, all.filter(|&t| of_phase(Phase::Decode)(t))),
            )
        })
        .into_iter()
        .flatten(),
    );
    let within = missing.is_none().then(|| {
        mean(view.sequences.iter().filter_map(|sequence| {
            mean(view.layers.iter().filter_map(|layer| {
                let part = |phase| count(layer, sequence.clone().filter(|&t| of_phase(phase)(t)));
                cosine(&part(Phase::Prefill), &part(Phase::Decode))
            }))
        }))
    });
    Phases {
        prefill_decode_cosine: pooled,
        prefill_decode_cosine_within_sequences: within.flatten(),
        prefill_decode_missing: missing,
        domains: domains(view, domain_names),
    }
}

fn count(layer: &Layer, tokens: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut counts = vec![0; layer.experts];
    for token in tokens {
        layer.chosen(token).iter().for_each(|&e| counts[usize::from(e)] += 1);
    }
    counts
}

fn domains(view: &View, domain_names: &[String]) -> Option<Domains> {
    let mut tokens: Vec<(usize, Vec<usize>)> = Vec::new();
    for (token, &domain) in view.domain.iter().enumerate() {
        match tokens.iter_mut().find(|(d, _)| *d == usize::from(domain)) {
            Some((_, list)) => list.push(token),
            None => tokens.push((usize::from(domain), vec![token])),
        }
    }
    if tokens.len() < 2 {
        return None;
    }
    tokens.sort();
    let hot_experts = (view.shape.experts / 4).max(1);
    let layers: Vec<Vec<Part>> =
        view.per_layer(|layer| tokens.iter().map(|(_, list)| Part::new(layer, list)).collect());
    let matrix = |compare: &dyn Fn(&Part, &Part) -> Option<f64>| -> Vec<Vec<Option<f64>>> {
        let over_layers = |row, column| mean(layers.iter().filter_map(|parts| compare(&parts[row], &parts[column])));
        (0..tokens.len()).map(|row| (0..tokens.len()).map(|column| over_layers(row, column)).collect()).collect()
    };
    Some(Domains {
        names: tokens.iter().map(|(domain, _)| domain_names[*domain].clone()).collect(),
        cosine: matrix(&|row, column| cosine(&row.all, &column.all)),
        coverage: matrix(&|row, column| {
            let covered = top(&row.first, hot_experts).into_iter().map(|e| column.rest[e]).sum();
            share(covered, column.rest.iter().sum())
        }),
        hot_experts,
    })
}

/// Counts of one domain in one layer.
struct Part {
    /// Of the first [`PROFILE_TOKENS`] tokens.
    first: Vec<u64>,
    /// Of the others.
    rest: Vec<u64>,
    all: Vec<u64>,
}

impl Part {
    fn new(layer: &Layer, tokens: &[usize]) -> Self {
        let (first, rest) = tokens.split_at(PROFILE_TOKENS.min(tokens.len()));
        let (first, rest) = (count(layer, first.iter().copied()), count(layer, rest.iter().copied()));
        let all = first.iter().zip(&rest).map(|(a, b)| a + b).collect();
        Self { first, rest, all }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_traces::{single, trace, view};
    use super::*;
    use crate::Trace;

    fn of(trace: &Trace) -> Phases {
        phases(&view(trace), &trace.meta.domains)
    }

    #[test]
    fn one_phase_gives_a_reason() {
        let mut trace = single(2, &[&[0], &[1]]);
        let found = of(&trace);
        assert_eq!(found.prefill_decode_cosine, None);
        assert_eq!(found.prefill_decode_missing.unwrap(), "the trace has prefill tokens only");
        trace.phase = vec![Phase::Decode; 2];
        assert_eq!(of(&trace).prefill_decode_missing.unwrap(), "the trace has decode tokens only");
    }

    #[test]
    fn cosine_over_all_and_within_sequences() {
        // Sequence 0 uses expert 0 throughout, sequence 1 expert 1; prefill of 1 and 2 tokens, decode of 1 each.
        let mut trace = trace(2, 1, &[2, 3], |token, _| vec![u16::from(token >= 2)]);
        trace.phase = [0, 1, 0, 0, 1].map(|p| if p == 0 { Phase::Prefill } else { Phase::Decode }).to_vec();
        let found = of(&trace);
        // Counts (1, 2) and (1, 1).
        assert!((found.prefill_decode_cosine.unwrap() - 3.0 / 10_f64.sqrt()).abs() < 1e-12);
        assert!((found.prefill_decode_cosine_within_sequences.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!((found.prefill_decode_missing, found.domains), (None, None));
    }

    #[test]
    fn domains_cover_themselves() {
        // Domain a uses experts 0 and 1 in turn, domain b experts 4 and 5, three quarters of the time expert 0 though.
        let mut trace = trace(8, 1, &[600, 600], |token, _| match (token < 600, token % 4) {
            (true, t) => vec![t as u16 % 2],
            (false, 3) => vec![5],
            (false, _) => vec![0],
        });
        trace.meta.domains = vec!["a".into(), "b".into()];
        trace.domain = [vec![0; 600], vec![1; 600]].concat();
        let found = of(&trace).domains.unwrap();
        assert_eq!((found.names, found.hot_experts), (vec!["a".to_owned(), "b".to_owned()], 2));
        // Hot experts {0, 1} of a cover all of a and three quarters of b; {0, 5} of b cover half of a.
        assert_eq!(found.coverage, [[Some(1.0), Some(0.75)], [Some(0.5), Some(1.0)]]);
        let cosine = 3.0 / (2.0_f64 * 10.0).sqrt();
        assert!(
            (found.cosine[0][1].unwrap() - cosine).abs() < 1e-12 && (found.cosine[0][0].unwrap() - 1.0).abs() < 1e-12
        );
    }

    #[test]
    fn a_short_domain_has_no_rest() {
        let mut trace = trace(4, 1, &[4, 4], |token, _| vec![token as u16 / 4]);
        trace.meta.domains = vec!["a".into(), "b".into()];
        trace.domain = vec![0, 0, 0, 0, 1, 1, 1, 1];
        assert_eq!(of(&trace).domains.unwrap().coverage, [[None, None], [None, None]]);
    }
}

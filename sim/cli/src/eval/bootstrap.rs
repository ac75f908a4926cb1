//! How sure a change of perplexity is: percentile bootstrap over documents.
//!
//! Tokens of a document hang together, so documents are drawn and not tokens (Koehn 2004 draws sentences for the same
//! reason). Both models see the same documents, so what is drawn are the *differences*, which vary far less than
//! perplexities do.

/// Number of draws.
const DRAWS: usize = 2000;
/// Share of the draws inside the interval.
const COVERAGE: f64 = 0.95;
/// Every interval comes from the same draws, so that results can be repeated.
const SEED: u64 = 0x6370_7472;

/// One document: by how much the sum of its negative log-likelihoods differs from the reference, and its predicted
/// tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Difference {
    /// Nats, negative where the document became likelier.
    pub(super) nats: f64,
    /// Predicted tokens.
    pub(super) tokens: usize,
}

/// Relative change of perplexity, `exp(mean difference) - 1`.
pub(super) fn change(documents: &[Difference]) -> f64 {
    ratio(documents.iter())
}

/// The interval that 95 % of the draws of [`change`] fall into; `None` of a single document, of which every draw is the
/// same.
pub(super) fn interval(documents: &[Difference]) -> Option<[f64; 2]> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let count = documents.len();
    if count < 2 {
        return None;
    }
    let mut draws: Vec<f64> =
        (0..DRAWS).map(|_| ratio((0..count).map(|_| &documents[random.usize(..count)]))).collect();
    draws.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| draws[((share * (DRAWS - 1) as f64).round() as usize).min(DRAWS - 1)];
    Some([at((1.0 - COVERAGE) / 2.0), at(1.0 - (1.0 - COVERAGE) / 2.0)])
}

fn ratio<'a>(documents: impl Iterator<Item = &'a Difference>) -> f64 {
    let (nats, tokens) = documents.fold((0.0, 0), |(nats, tokens), d| (nats + d.nats, tokens + d.tokens));
    if tokens == 0 { 0.0 } else { (nats / tokens as f64).exp_m1() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_documents_leave_no_doubt() {
        let documents = vec![Difference { nats: 2.0, tokens: 100 }; 7];
        assert!((change(&documents) - 0.02f64.exp_m1()).abs() < 1e-12);
        let [low, high] = interval(&documents).unwrap();
        assert!((low - high).abs() < 1e-12 && (low - change(&documents)).abs() < 1e-12);
    }

    /// Against the normal approximation, which holds for many documents of equal length.
    #[test]
    fn many_documents_give_the_normal_interval() {
        let documents: Vec<Difference> =
            (0..400).map(|i| Difference { nats: f64::from(i % 20) - 9.5, tokens: 10 }).collect();
        let deviation = (documents.iter().map(|d| d.nats * d.nats).sum::<f64>() / 400.0).sqrt();
        let half = 1.96 * deviation / 20.0 / 10.0;
        let [low, high] = interval(&documents).unwrap();
        assert!((low / (-half).exp_m1() - 1.0).abs() < 0.1, "{low} {half}");
        assert!((high / half.exp_m1() - 1.0).abs() < 0.1, "{high} {half}");
    }

    #[test]
    fn nothing_to_draw_from() {
        assert_eq!((change(&[]), interval(&[])), (0.0, None));
        assert_eq!(interval(&[Difference { nats: 1.0, tokens: 10 }]), None);
        assert_eq!(change(&[Difference { nats: 0.0, tokens: 0 }]), 0.0);
    }
}

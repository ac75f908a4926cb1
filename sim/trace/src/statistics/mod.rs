//! What a trace says about itself: how local its routing is, what caches could make of it, and what looks wrong with
//! it.
//!
//! [`inspect`] computes everything `cptr inspect` shows; the report serialises to JSON as it stands. The command line
//! makes tables of it. One file per statistic; all of them read the trace through `View`, layer by layer.
//!
//! ```
//! use cptr_trace::statistics::{Options, inspect};
//! use cptr_trace::{Shape, Trace};
//!
//! let trace = Trace::of_ids(Shape { tokens: 3, layers: 1, experts: 4, k: 2 }, vec![0, 1, 1, 2, 1, 2]);
//! let report = inspect(&trace, &Options::default());
//! // Of the four choices that have one before them, expert 2 of the second token is new.
//! assert_eq!(report.switching.switch_rate, Some(0.25));
//! ```

mod cache_curve;
mod counts;
mod locality;
mod logits;
mod phases;
mod reuse;
mod switching;
mod traps;
mod view;
mod weights;

#[cfg(test)]
mod test_traces;

use serde::Serialize;

pub use cache_curve::{CachePoint, default_sizes};
pub use counts::{CountsInspection, ModelCosines, PairStatistics, TableStatistics, inspect_counts};
pub use locality::{Locality, SegmentCache};
pub use logits::{LagCorrelation, LogitStatistics};
pub use phases::{Domains, PROFILE_TOKENS, Phases};
pub use reuse::{Reuse, ReuseBin};
pub use switching::{DomainRate, LagOverlap, LayerRate, Switching};
pub use weights::WeightStatistics;

use crate::{Phase, Shape, Trace};
use view::View;

/// What to compute.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Cache sizes in slots per layer for the hit rates; empty: [`default_sizes`]. Sizes outside `k..=E` are left out,
    /// with a warning.
    pub cache_sizes: Vec<usize>,
}

/// Report on one trace. Rates and shares are in 0..=1; what cannot be computed is `None` (JSON `null`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Model name, empty if unknown.
    pub model: String,
    /// Where the data come from.
    pub source: String,
    /// Router convention, in the words of the native format.
    pub router: String,
    /// What was recorded of the router's output.
    pub knowledge: String,
    /// Tokens, all sequences together.
    pub tokens: usize,
    /// Sequences.
    pub sequences: usize,
    /// Tokens read.
    pub prefill_tokens: usize,
    /// Tokens generated.
    pub decode_tokens: usize,
    /// MoE layers.
    pub layers: usize,
    /// Experts per layer.
    pub experts: usize,
    /// Experts per token and layer.
    pub k: usize,
    /// Switch rates; their keys stand beside these.
    #[serde(flatten)]
    pub switching: Switching,
    /// Reuse distances.
    pub reuse: Reuse,
    /// Hit rates by cache size.
    pub cache: Vec<CachePoint>,
    /// SRP and SCH by segment length.
    pub locality: Vec<Locality>,
    /// Prefill against decode, domain against domain.
    pub phases: Phases,
    /// Recorded weights.
    pub weights: Option<WeightStatistics>,
    /// Recorded logits.
    pub logits: Option<LogitStatistics>,
    /// How far the router explains the recorded choice.
    pub evidence: Option<EvidenceReport>,
    /// Remarks of the importer.
    pub notes: Vec<String>,
    /// Traps found, one sentence each.
    pub warnings: Vec<String>,
}

/// [`Evidence`](crate::Evidence) in words and numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvidenceReport {
    /// Router in use, in the words of the native format.
    pub router: String,
    /// Whether it was found out rather than stated.
    pub inferred: bool,
    /// Share of the sets looked at that it explains, 0 to 1; `None` where the choice was not recorded.
    pub explained: Option<f64>,
    /// Sets looked at.
    pub sets: usize,
    /// Whether a bound on the loss can be promised.
    pub bound_promised: bool,
    /// All of it in a sentence.
    pub sentence: String,
}

impl EvidenceReport {
    fn new(evidence: &crate::Evidence) -> Self {
        Self {
            router: evidence.router.to_string(),
            inferred: evidence.inferred,
            explained: (!evidence.derived).then(|| evidence.share()),
            sets: evidence.total,
            bound_promised: evidence.bound_promised(),
            sentence: evidence.to_string(),
        }
    }
}

/// Computes the report. The trace must be [valid](Trace::validate).
///
/// Runs on all cores (layers in parallel); the result does not depend on their number.
pub fn inspect(trace: &Trace, options: &Options) -> Inspection {
    let view = View::new(trace);
    let Shape { tokens, layers, experts, k } = trace.shape;
    let (sizes, size_warning) = cache_sizes(options, k, experts);
    let weights = trace.weights.as_ref().map(weights::weight_statistics);
    let decode_tokens = trace.phase.iter().filter(|&&phase| phase == Phase::Decode).count();
    Inspection {
        model: trace.meta.model.clone(),
        source: trace.meta.source.clone(),
        router: trace.meta.router.to_string(),
        knowledge: trace.knowledge().to_string(),
        tokens,
        sequences: view.sequences.len(),
        prefill_tokens: tokens - decode_tokens,
        decode_tokens,
        layers,
        experts,
        k,
        switching: switching::switching(&view, &trace.meta.domains),
        reuse: reuse::reuse(&view),
        cache: cache_curve::cache_curve(&view, &sizes),
        locality: locality::locality(&view),
        phases: phases::phases(&view, &trace.meta.domains),
        logits: trace.logits.as_ref().map(|logits| logits::logit_statistics(&view, logits)),
        evidence: trace.evidence.as_ref().map(EvidenceReport::new),
        notes: trace.notes.clone(),
        warnings: traps::warnings(trace, &view, weights).into_iter().chain(size_warning).collect(),
        weights,
    }
}

fn cache_sizes(options: &Options, k: usize, experts: usize) -> (Vec<usize>, Option<String>) {
    if options.cache_sizes.is_empty() {
        return (default_sizes(k, experts), None);
    }
    let (mut fit, mut unfit): (Vec<usize>, Vec<usize>) =
        options.cache_sizes.iter().partition(|&&size| (k..=experts).contains(&size));
    for sizes in [&mut fit, &mut unfit] {
        sizes.sort_unstable();
        sizes.dedup();
    }
    let names: Vec<String> = unfit.iter().map(ToString::to_string).collect();
    let warning = format!(
        "cache sizes {} are left out: expected {k} (the experts of one token) to {experts} slots per layer",
        names.join(", ")
    );
    (fit, (!unfit.is_empty()).then_some(warning))
}

#[cfg(test)]
mod tests {
    use super::test_traces::sticky;
    use super::*;

    #[test]
    fn json_has_the_fixed_keys() {
        let trace = sticky(16, 2, 3, &[100, 20], 0.5);
        let json = serde_json::to_value(inspect(&trace, &Options::default())).unwrap();
        for (key, value) in [("tokens", 120), ("sequences", 2), ("layers", 3), ("experts", 16), ("k", 2)] {
            assert_eq!(json[key], value, "{key}");
        }
        for key in ["switch_rate", "switch_rate_memoryless"] {
            assert!(json[key].as_f64().is_some_and(|rate| (0.0..=1.0).contains(&rate)), "{key}");
        }
        assert_eq!(json["cache"][0]["size"], 2);
        assert!(json["phases"]["prefill_decode_cosine"].is_null());
        assert!(json["logits"].is_null());
    }

    #[test]
    fn the_result_does_not_depend_on_the_threads() {
        let trace = sticky(16, 2, 5, &[300, 200], 0.5);
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let views = [1, 3].map(|threads| {
            // A trace may hold a mapped file and stays on its thread; the statistics use the pool that is current where
            // they run.
            let ids = trace.ids.clone();
            pool(threads).install(move || {
                let shape = Shape { tokens: 500, layers: 5, experts: 16, k: 2 };
                let again = test_traces::trace(16, 5, &[300, 200], |token, layer| {
                    let at = (token * shape.layers + layer) * shape.k;
                    ids[at..at + shape.k].to_vec()
                });
                inspect(&again, &Options::default())
            })
        });
        assert_eq!(views[0], views[1]);
    }

    #[test]
    fn weights_decide_the_order() {
        let mut trace = test_traces::single(4, &[&[0, 1], &[2, 3], &[2, 0]]);
        let weights = [0.2, 0.8].repeat(3);
        trace.weights = Some(crate::array::FloatArray::owned([3, 1, 2], weights));
        let options = Options { cache_sizes: vec![3] };
        // Expert 1 is the better of the first token, so 0 leaves before it comes back.
        assert_eq!(inspect(&trace, &options).cache[0].lru, 1.0 / 6.0);
        trace.weights = None;
        assert_eq!(inspect(&trace, &options).cache[0].lru, 2.0 / 6.0);
    }

    #[test]
    fn one_token_is_enough() {
        let report = inspect(&test_traces::single(4, &[&[3, 1]]), &Options::default());
        assert_eq!((report.switching.switch_rate, report.reuse.median), (None, None));
        assert_eq!(report.cache.last().map(|point| (point.size, point.lru)), Some((4, 0.0)));
        assert!(report.locality.is_empty());
    }
}

//! The advice in sentences.

use cptr_hw_model::System;
use cptr_trace::Trace;

use super::{Advice, Kind, PARTS, Plan, SAME, advise};
use crate::replay::Budget;

/// What to do, how sure that is, what a change of the model would buy, and what would change the answer: half of the
/// memory, twice of it, twice the link. Each of the last is an [`advise`] of its own.
#[must_use]
pub fn sentences(trace: &Trace, plan: &Plan<'_>, advice: &Advice) -> Vec<String> {
    let mut said = vec![sentence(advice)];
    said.extend(how_sure(advice));
    said.extend(price(advice));
    said.extend(otherwise(trace, plan, advice));
    said
}

fn sentence(advice: &Advice) -> String {
    let best = advice.best();
    let what = match best.kind {
        Kind::Pin => "Pin the experts that the beginning of a text wants most; nothing that adapts is worth it",
        Kind::Lru => "Keep a cache, the least recently used goes; forecasts are not worth it",
        Kind::Forecast => "Keep a cache whose evictions go by a forecast",
        Kind::FetchAhead => "Keep a cache and fetch ahead",
        Kind::NearData => "Run the cold experts where they lie",
        Kind::Substitute => "Let residents stand in",
    };
    format!(
        "{what}: {}, {:.1} tokens/s ({:.1} to {:.1}).",
        best.strategy, best.tokens_per_s, best.low_tokens_per_s, best.high_tokens_per_s
    )
}

fn how_sure(advice: &Advice) -> Vec<String> {
    let (best, fastest) = (advice.best(), &advice.candidates[advice.fastest]);
    let mut lines = Vec::new();
    if advice.advised != advice.fastest {
        lines.push(format!(
            "The fastest, {}, is {:.1} % faster: less than {:.0} % is taken to be the same, and the simpler one is \
             advised.",
            fastest.strategy,
            (best.token_us / fastest.token_us - 1.0) * 100.0,
            SAME * 100.0
        ));
    }
    lines.push(if advice.sure {
        format!("Sure: each of {PARTS} parts of the recording by itself gives this advice.")
    } else {
        format!("Not sure: {PARTS} parts of the recording by themselves give different advice; record more.")
    });
    lines
}

fn price(advice: &Advice) -> Option<String> {
    let one = &advice.candidates[advice.with_loss?];
    Some(format!(
        "If the model may change: {} gives {:.1} tokens/s, at {:.2} % of the routing mass; `cptr run` on the model \
         itself says what that costs in perplexity.",
        one.strategy,
        one.tokens_per_s,
        one.mass_loss * 100.0
    ))
}

/// What would change the answer: half and twice the memory, twice the link.
fn otherwise(trace: &Trace, plan: &Plan<'_>, advice: &Advice) -> Vec<String> {
    let scaled = |factor: f64| match plan.resident {
        Budget::Experts(experts) => {
            let scaled = (experts as f64 * factor).round() as usize;
            Some(Budget::Experts(scaled)).filter(|_| (trace.shape.k..trace.shape.experts).contains(&scaled))
        }
        Budget::Bytes { bytes, split } => Some(Budget::Bytes { bytes: (bytes as f64 * factor) as u64, split }),
    };
    let faster = plan.system.changed(|parts| parts.link.gt_s *= 2.0).ok();
    let cases: [(&str, Option<Budget>, Option<&System>); 3] = [
        ("half of the memory", scaled(0.5), Some(plan.system)),
        ("twice the memory", scaled(2.0), Some(plan.system)),
        ("twice the link", Some(plan.resident), faster.as_ref()),
    ];
    let mut lines = Vec::new();
    for (what, resident, system) in cases {
        let (Some(resident), Some(system)) = (resident, system) else { continue };
        // Memory that holds too little for a token, in bytes, is found out here.
        let Ok(other) = advise(trace, &Plan { resident, system, ..*plan }) else { continue };
        let (now, then) = (advice.best(), other.best());
        let same = if now.kind == then.kind { "the same".into() } else { then.kind.name().to_string() };
        lines.push(format!("With {what}: {same}, {} at {:.1} tokens/s.", then.strategy, then.tokens_per_s));
    }
    lines
}

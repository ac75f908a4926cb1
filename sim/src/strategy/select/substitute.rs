//! Substitution of low-weight misses, as engines with expert caches do it: a missed expert whose gate is below a
//! threshold gives way to the best resident one.

use super::{Kind, Make, Select};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new("tau", 0.1, Unit::Share, "largest share of the wanted mass that is replaced")],
    needs: Knowledge::Logits,
    ..Kind::new(
        "substitute",
        "a missed expert whose share of the chosen softmax mass is below tau gives way to the best resident one",
        Make(make),
    )
};

struct Substitute {
    tau: f32,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Substitute { tau: values.get("tau") as f32 })
}

impl Select for Substitute {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let score = |expert: u16| token.scores[usize::from(expert)];
        let largest = token.wanted.iter().map(|&expert| score(expert)).fold(f32::MIN, f32::max);
        let mass = |expert: u16| (score(expert) - largest).exp();
        let all: f32 = token.wanted.iter().map(|&expert| mass(expert)).sum();
        let first = chosen.len();
        chosen.extend_from_slice(token.wanted);
        for place in first..chosen.len() {
            let expert = chosen[place];
            if token.resident.contains(expert) || mass(expert) >= self.tau * all {
                continue;
            }
            let absent = |&other: &u16| usize::from(other) < token.scores.len() && !chosen[first..].contains(&other);
            let stand_in = token.resident.iter().filter(absent).max_by(|&a, &b| score(a).total_cmp(&score(b)));
            if let Some(stand_in) = stand_in {
                chosen[place] = stand_in;
            }
        }
    }
}

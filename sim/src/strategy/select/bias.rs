//! A bias for every expert of every layer, out of a file: steering vectors, additive vectors that rewire a router,
//! masks.
//!
//! It is added to the logits before all that the router does with them: scores, groups, its own bias. An expert whose
//! bias is minus infinity is masked: it does not run while others are open. What the chosen experts weigh, and what
//! the choice costs, is by the logits as they were.

use std::sync::Arc;

use super::{Kind, Make, Select};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_core::router::Count;
use cptr_core::{Logit, Router};
use cptr_trace::{BiasTable, Knowledge, MAX_TOP_K};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new(
        "file",
        0.0,
        Unit::Biases,
        "CSV with layer, expert and bias, or a numpy array of floats [layers, experts]; -inf is a mask",
    )],
    needs: Knowledge::Logits,
    ..Kind::new(
        "bias",
        "the router's choice from logits plus a bias for each layer and expert, out of a file",
        Make(make),
    )
};

struct Bias {
    table: Option<Arc<BiasTable>>,
    logits: Vec<Logit>,
    /// The router's own bias, without masked experts.
    own: Vec<Logit>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Bias { table: values.biases().cloned(), logits: Vec::new(), own: Vec::new() })
}

impl Select for Bias {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let first = chosen.len();
        chosen.extend_from_slice(token.wanted);
        let mut biases = self.table.iter().flat_map(|table| table.layer(token.layer)).peekable();
        if biases.peek().is_none() {
            return;
        }
        self.logits.clear();
        self.logits.extend_from_slice(token.logits);
        self.own.clear();
        self.own.extend_from_slice(token.router.bias);
        for (expert, bias) in biases {
            let bias = Logit::saturating_from_num(bias);
            if let Some(logit) = self.logits.get_mut(usize::from(expert)) {
                *logit = logit.saturating_add(bias);
            }
            // Behind a sigmoid the least logit is a score of 0, which the router's own bias may lift above others.
            if let Some(own) = self.own.get_mut(usize::from(expert)).filter(|_| bias == Logit::MIN) {
                *own = Logit::MIN;
            }
        }
        // As many as the model wanted, however it counts.
        let router = Router { bias: &self.own, count: Count::Fixed, ..*token.router };
        // A layer that looks its experts up has no use for logits, and keeps what it wanted.
        if let Ok(best) = router.top_k::<MAX_TOP_K>(&self.logits) {
            chosen[first..].iter_mut().zip(best).for_each(|(chosen, best)| *chosen = best);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Part;
    use cptr_core::ExpertSet;
    use cptr_trace::router::{self, Row};
    use proptest::prelude::*;

    /// What the selection makes of logits under a router and the lines of a file.
    fn chosen(lines: &str, layer: usize, router: &Router<'_>, scores: &[f32]) -> Vec<u16> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bias.csv");
        std::fs::write(&path, format!("layer,expert,bias\n{lines}")).unwrap();
        let mut values = Part::new(&KIND).values;
        values.set("bias", &format!("file={}", path.display())).unwrap();
        let logits: Vec<Logit> = scores.iter().map(|&score| Logit::from_num(score)).collect();
        let wanted = router.top_k::<MAX_TOP_K>(&logits).unwrap_or([3, 0].into_iter().collect());
        let token = Token {
            layer,
            scores,
            logits: &logits,
            wanted: &wanted,
            shares: &[],
            experts: scores.len(),
            resident: &ExpertSet::<1>::new(),
            starts_sequence: false,
            router,
            expected: &[],
            committed: &[],
        };
        let mut chosen = vec![9];
        make(&values).select(&token, &mut chosen);
        chosen.split_off(1)
    }

    #[test]
    fn vectors_add_and_masks_hold() {
        let scores = [2.0, 1.0, 0.0, -1.0];
        let plain = Router::softmax_selected(2);
        assert_eq!(chosen("1,2,1.5\n", 1, &plain, &scores), [0, 2]);
        // Another layer's.
        assert_eq!(chosen("1,2,1.5\n", 0, &plain, &scores), [0, 1]);
        assert_eq!(chosen("0,0,-inf\n0,1,-inf\n", 0, &plain, &scores), [2, 3]);
        assert_eq!(chosen("0,3,inf\n", 0, &plain, &scores), [3, 0]);
        // Behind a sigmoid the router's own bias would lift expert 0 above all others.
        let own = [5.0, 0.0, 0.0, 0.0].map(Logit::from_num);
        let router = Router::sigmoid_grouped(2, 1, 1, &own);
        assert_eq!(chosen("0,1,0\n", 0, &router, &scores), [0, 1]);
        assert_eq!(chosen("0,0,-inf\n", 0, &router, &scores), [1, 2]);
        // Experts out of a table are as they are.
        assert_eq!(chosen("0,0,-inf\n", 0, &Router { table: true, ..plain }, &scores), [3, 0]);
    }

    proptest! {
        /// The choice of a router in real numbers whose logits have had the bias added.
        #[test]
        fn is_the_choice_from_biased_logits(
            // All differ, by far more than a score's error.
            order in Just((0..8u8).collect::<Vec<_>>()).prop_shuffle(),
            biases in prop::collection::vec(-4i8..=4, 8),
            text in prop::sample::select(vec!["softmax-all", "softmax-selected", "sigmoid", "softmax-all:4:2"]),
        ) {
            let scores: Vec<f32> = order.iter().map(|&place| f32::from(place) * 0.5 - 2.0).collect();
            let biases: Vec<f32> = biases.iter().zip(0u8..).map(|(&b, i)| f32::from(b) + f32::from(i) / 32.0).collect();
            let lines: String = biases.iter().enumerate().map(|(expert, bias)| format!("0,{expert},{bias}\n")).collect();
            let biased: Vec<f32> = scores.iter().zip(&biases).map(|(score, bias)| score + bias).collect();
            let description: router::Router = text.parse().unwrap();
            let expected = description.choose(Row::of(&biased), 3).ids;
            prop_assert_eq!(chosen(&lines, 0, &description.to_core(3, &[]).unwrap(), &scores), expected);
        }
    }
}

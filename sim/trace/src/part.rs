//! Parts of a trace: some domains, the first tokens of each.

use super::array::FloatArray;
use super::{Shape, Trace};
use crate::error::{Error, Result};

impl Trace {
    /// The tokens of the domains that are `wanted` (by index), of each at most `domain_tokens`, whole sequences only; a
    /// domain that is not wanted loses its name too.
    ///
    /// # Errors
    /// If nothing is left.
    pub fn part(&self, wanted: impl Fn(usize) -> bool, domain_tokens: usize) -> Result<Self> {
        let kept = self.kept_tokens(wanted, domain_tokens);
        if kept.is_empty() {
            return Err(Error::new(format!(
                "expected a sequence of at most {domain_tokens} tokens, found longer ones only"
            )));
        }
        Ok(self.pick(&kept))
    }

    /// The first `count` tokens, the last sequence perhaps cut off; domains that are gone lose their names.
    pub fn first(&self, count: usize) -> Self {
        self.pick(&(0..count.min(self.shape.tokens)).collect::<Vec<_>>())
    }

    /// The tokens `kept`, in order; where one is missing, a sequence ends and the next begins. Positions stay.
    pub(crate) fn keep(&self, kept: &[usize]) -> Self {
        let mut number = 0;
        let mut sequence = Vec::with_capacity(kept.len());
        for (i, &token) in kept.iter().enumerate() {
            let follows = i > 0 && kept[i - 1] + 1 == token && !self.starts_sequence(token);
            number += u32::from(i > 0 && !follows);
            sequence.push(number);
        }
        Self { sequence, ..self.pick(kept) }
    }

    /// The tokens `kept`, in order.
    fn pick(&self, kept: &[usize]) -> Self {
        let mut names = vec![None; self.meta.domains.len()];
        let mut domains = Vec::new();
        let domain = kept.iter().map(|&token| {
            let old = usize::from(self.domain[token]);
            *names[old].get_or_insert_with(|| {
                domains.push(self.meta.domains[old].clone());
                // At most as many as there were, which an u8 counted.
                (domains.len() - 1) as u8
            })
        });
        let domain = domain.collect();
        let Shape { layers, k, .. } = self.shape;
        let pick = |values: &[u32]| kept.iter().map(|&token| values[token]).collect::<Vec<u32>>();
        let rows = |array: &Option<FloatArray>| array.as_ref().map(|array| array.tokens(kept));
        let mut meta = self.meta.clone();
        meta.domains = domains;
        Self {
            shape: Shape { tokens: kept.len(), ..self.shape },
            meta,
            ids: kept
                .iter()
                .flat_map(|&token| &self.ids[token * layers * k..(token + 1) * layers * k])
                .copied()
                .collect(),
            weights: rows(&self.weights),
            logits: rows(&self.logits),
            bias: self.bias.clone(),
            expert_scale: self.expert_scale.clone(),
            hidden: rows(&self.hidden),
            sequence: pick(&self.sequence),
            position: pick(&self.position),
            phase: kept.iter().map(|&token| self.phase[token]).collect(),
            token: self.token.as_deref().map(pick),
            domain,
            notes: self.notes.clone(),
            evidence: self.evidence,
        }
    }

    fn kept_tokens(&self, wanted: impl Fn(usize) -> bool, domain_tokens: usize) -> Vec<usize> {
        let mut left = vec![domain_tokens; self.meta.domains.len()];
        let mut kept = Vec::new();
        let mut start = 0;
        while start < self.shape.tokens {
            let length = (start + 1..self.shape.tokens).take_while(|&token| !self.starts_sequence(token)).count() + 1;
            let domain = usize::from(self.domain[start]);
            if wanted(domain) && length <= left[domain] {
                left[domain] -= length;
                kept.extend(start..start + length);
            } else if wanted(domain) {
                // Later sequences must not slip in before this one: parts stay beginnings.
                left[domain] = 0;
            }
            start += length;
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Meta, Phase};

    /// Domains a, b, a with sequences of 3, 2, 1 and 2 tokens.
    fn trace() -> Trace {
        let domain = vec![0, 0, 0, 1, 1, 1, 0, 0];
        Trace {
            shape: Shape { tokens: 8, layers: 1, experts: 8, k: 1 },
            meta: Meta { domains: vec!["a".into(), "b".into()], layer_ids: vec![0], ..Meta::default() },
            ids: (0..8).collect(),
            weights: Some(FloatArray::owned([8, 1, 1], (0..8).map(|i| i as f32).collect())),
            logits: None,
            bias: None,
            expert_scale: None,
            hidden: None,
            sequence: vec![0, 0, 0, 1, 1, 2, 3, 3],
            position: vec![0, 1, 2, 0, 1, 0, 0, 1],
            phase: vec![Phase::Decode; 8],
            token: Some((10..18).collect()),
            domain,
            notes: Vec::new(),
            evidence: None,
        }
    }

    #[test]
    fn parts_are_whole_sequences_from_the_beginning() {
        let part = trace().part(|_| true, 3).unwrap();
        assert_eq!(part.ids, [0, 1, 2, 3, 4, 5]);
        assert_eq!(trace().part(|_| true, 5).unwrap().ids.len(), 8);
        let part = trace().part(|_| true, 2).unwrap();
        assert_eq!((part.ids, part.meta.domains), (vec![3, 4], vec!["b".to_owned()]));
        assert!(trace().part(|_| true, 1).is_err() && trace().part(|_| false, 9).is_err());
    }

    #[test]
    fn a_domain_alone_is_a_valid_trace() {
        let part = trace().part(|domain| domain == 1, usize::MAX).unwrap();
        part.validate().unwrap();
        assert_eq!((part.meta.domains, part.domain), (vec!["b".to_owned()], vec![0, 0, 0]));
        assert_eq!((part.token.unwrap(), part.sequence), (vec![13, 14, 15], vec![1, 1, 2]));
        let mut row = [0.0];
        part.weights.unwrap().read_row(2, 0, &mut row);
        assert_eq!(row, [5.0]);
    }
}

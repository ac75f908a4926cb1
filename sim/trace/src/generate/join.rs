//! Traces of different domains joined: segments of equal length in turn, so that the context changes at known tokens.

use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::{Meta, Shape, Trace};

/// Segments of `segment` tokens from each part in turn, each going on where the last one of its part ended, until a
/// part whose turn it is has no whole segment left, or until there are `segments` of them.
///
/// Parts are traces of one domain each; their layers, experts and k must agree. The domain of a token is its part;
/// sequences end where a segment does. Router inputs and token ids are left out, logits, weights and biases kept where
/// all parts have them.
///
/// # Errors
/// Fewer than two parts, parts of different shape, a part shorter than a segment.
pub fn join(parts: &[Trace], segment: usize, segments: usize) -> Result<Trace> {
    let [first, rest @ ..] = parts else { return Err(Error::new("expected at least two traces to join, found none")) };
    if rest.is_empty() || segment == 0 {
        return Err(Error::new(format!(
            "expected at least two traces (or domains) and segments of at least one token, found {} and {segment}",
            parts.len()
        )));
    }
    for part in parts {
        let name = || part.meta.domains.join("+");
        let same = |shape: Shape| (shape.layers, shape.experts, shape.k);
        if same(part.shape) != same(first.shape) {
            let text = |s: Shape| format!("{} layers x {} experts, top-{}", s.layers, s.experts, s.k);
            return Err(Error::new(format!(
                "{}: expected {} as in {}, found {}",
                name(),
                text(first.shape),
                first.meta.domains.join("+"),
                text(part.shape)
            )));
        }
        if part.shape.tokens < segment {
            return Err(Error::new(format!(
                "{}: expected at least one segment of {segment} tokens, found {} tokens",
                name(),
                part.shape.tokens
            )));
        }
    }
    let rounds =
        (0..).take_while(|round| (round / parts.len() + 1) * segment <= parts[round % parts.len()].shape.tokens);
    let places: Vec<(usize, usize)> =
        rounds.take(segments).map(|round| (round % parts.len(), round / parts.len() * segment)).collect();
    Ok(assemble(parts, &places, segment))
}

fn assemble(parts: &[Trace], places: &[(usize, usize)], segment: usize) -> Trace {
    let shape = Shape { tokens: places.len() * segment, ..parts[0].shape };
    let row = shape.layers * shape.k;
    let ids = places.iter().flat_map(|&(part, start)| &parts[part].ids[start * row..(start + segment) * row]);
    let floats = |field: fn(&Trace) -> &Option<FloatArray>| {
        let kept: Vec<usize> = (0..segment).collect();
        let slices: Option<Vec<FloatArray>> = places
            .iter()
            .map(|&(part, start)| {
                let kept: Vec<usize> = kept.iter().map(|token| token + start).collect();
                field(&parts[part]).as_ref().map(|array| array.tokens(&kept))
            })
            .collect();
        FloatArray::concatenate(&slices?.iter().collect::<Vec<_>>())
    };
    let mut sequence = Vec::with_capacity(shape.tokens);
    let mut number = 0;
    for &(part, start) in places {
        for token in start..start + segment {
            number += u32::from(!sequence.is_empty() && (token == start || parts[part].starts_sequence(token)));
            sequence.push(number);
        }
    }
    let mut domains: Vec<String> = Vec::new();
    for part in parts {
        let mut name = part.meta.domains.join("+");
        while domains.contains(&name) {
            name.push('\'');
        }
        domains.push(name);
    }
    let pick = |field: fn(&Trace) -> &[crate::Phase]| {
        places.iter().flat_map(|&(part, start)| field(&parts[part])[start..start + segment].iter().copied()).collect()
    };
    Trace {
        shape,
        meta: Meta { domains, source: format!("segments of {segment} tokens in turn"), ..parts[0].meta.clone() },
        ids: ids.copied().collect(),
        weights: floats(|trace| &trace.weights),
        logits: floats(|trace| &trace.logits),
        bias: parts[0].bias.clone(),
        hidden: None,
        position: crate::native::positions(&sequence),
        sequence,
        phase: pick(|trace| &trace.phase),
        token: None,
        domain: places.iter().flat_map(|&(part, _)| std::iter::repeat_n(part as u8, segment)).collect(),
        expert_scale: None,
        evidence: None,
        notes: vec![format!("Joined from {} parts in segments of {segment} tokens.", parts.len())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    fn part(name: &str, tokens: usize, first: u16) -> Trace {
        Trace {
            shape: Shape { tokens, layers: 1, experts: 100, k: 1 },
            meta: Meta { domains: vec![name.into()], layer_ids: vec![0], ..Meta::default() },
            ids: (0..tokens as u16).map(|token| first + token).collect(),
            weights: Some(FloatArray::owned([tokens, 1, 1], (0..tokens).map(|t| t as f32).collect())),
            logits: None,
            bias: None,
            expert_scale: None,
            hidden: None,
            sequence: (0..tokens as u32).map(|token| token / 3).collect(),
            position: (0..tokens as u32).map(|token| token % 3).collect(),
            phase: vec![Phase::Prefill; tokens],
            token: None,
            domain: vec![0; tokens],
            notes: Vec::new(),
            evidence: None,
        }
    }

    #[test]
    fn segments_go_on_where_they_ended() {
        let joined = join(&[part("a", 7, 0), part("b", 5, 50)], 2, usize::MAX).unwrap();
        joined.validate().unwrap();
        assert_eq!(joined.ids, [0, 1, 50, 51, 2, 3, 52, 53, 4, 5]);
        assert_eq!(joined.domain, [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]);
        // The part's own sequences end after three tokens, segments after two.
        assert_eq!(joined.sequence, [0, 0, 1, 1, 2, 3, 4, 5, 6, 6]);
        let mut row = [0.0];
        joined.weights.unwrap().read_row(7, 0, &mut row);
        assert_eq!(row, [3.0]);
        assert_eq!(joined.meta.domains, ["a", "b"]);
        let two = join(&[part("a", 7, 0), part("b", 5, 50)], 2, 2).unwrap();
        assert_eq!(two.ids, [0, 1, 50, 51]);
    }

    #[test]
    fn refuses_with_the_numbers() {
        let refusal = |parts: &[Trace], segment| join(parts, segment, usize::MAX).unwrap_err().to_string();
        assert!(refusal(&[part("a", 7, 0)], 2).contains("found 1 and 2"));
        assert!(
            refusal(&[part("a", 7, 0), part("b", 5, 50)], 6)
                .contains("b: expected at least one segment of 6 tokens, found 5")
        );
        let mut wide = part("b", 5, 50);
        wide.shape.experts = 101;
        assert!(
            refusal(&[part("a", 7, 0), wide], 2)
                .contains("expected 1 layers x 100 experts, top-1 as in a, found 1 layers x 101")
        );
    }
}

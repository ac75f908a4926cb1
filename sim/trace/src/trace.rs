//! A routing trace in memory: [`Trace`], its sizes and its names.

use std::fmt;

use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::gate;
use crate::router::{Router, Row};

/// Largest number of experts per layer that a trace may have.
pub const MAX_EXPERTS: usize = 1024;
/// Largest number of experts per token that a trace may have.
pub const MAX_TOP_K: usize = 64;
/// The id that fills a row up to k where a token chose fewer experts.
pub const NO_EXPERT: u16 = u16::MAX;

/// Sizes of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of tokens T, all sequences together.
    pub tokens: usize,
    /// Number of MoE layers L.
    pub layers: usize,
    /// Routed experts per layer E, null experts not counted.
    pub experts: usize,
    /// Experts chosen per token and layer, the most where tokens differ.
    pub k: usize,
}

/// What is known about a trace beside its numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Meta {
    /// Model name as the source gives it, empty if it does not.
    pub model: String,
    /// What the router does with its logits.
    pub router: Router,
    /// Where the data come from.
    pub source: String,
    /// Names of the parts that [`Trace::domain`] points into; at least one, at most 256.
    pub domains: Vec<String>,
    /// The model's own number of each traced layer, `[L]`.
    pub layer_ids: Vec<u32>,
}

/// Whether a token was read or generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Prompt, or teacher-forced text.
    Prefill = 0,
    /// Generated token.
    Decode = 1,
}

/// How much of the router's output a trace recorded; decides which policies may run on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    /// Which experts were chosen.
    Ids,
    /// And the mixing weights of those.
    Weights,
    /// The logits of all experts.
    Logits,
}

impl fmt::Display for Knowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ids => "expert ids only",
            Self::Weights => "expert ids and the weights of the chosen",
            Self::Logits => "all router logits",
        })
    }
}

/// A routing trace in memory. Every `[T]`, `[T, L, k]` … below is row-major in that order.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Sizes.
    pub shape: Shape,
    /// Names and conventions.
    pub meta: Meta,
    /// Chosen experts `[T, L, k]`, distinct within a token and layer and below E; best first where the source says so.
    /// After them may come null experts (E up to E plus the router's null experts) and [`NO_EXPERT`], in this order:
    /// [`Self::chosen`] has neither.
    pub ids: Vec<u16>,
    /// Mixing weights of the chosen experts `[T, L, k]`, in the order of `ids`; finite and not negative.
    pub weights: Option<FloatArray>,
    /// Raw router logits `[T, L, S]` with S = [`Self::scored`]; finite, or minus infinity where an expert is masked,
    /// but not all of a row.
    pub logits: Option<FloatArray>,
    /// The router's bias `[L, S]`, finite; the router says where it is added.
    pub bias: Option<Vec<f32>>,
    /// Factor on the weight of each expert `[L, S]`, finite and not negative.
    pub expert_scale: Option<Vec<f32>>,
    /// Router input `[T, L, D]` or `[T, 1, D]`, finite.
    pub hidden: Option<FloatArray>,
    /// Sequence number of each token `[T]`; tokens of a sequence are consecutive.
    pub sequence: Vec<u32>,
    /// Position of each token in its sequence `[T]`.
    pub position: Vec<u32>,
    /// Prefill or decode `[T]`.
    pub phase: Vec<Phase>,
    /// Token ids `[T]`.
    pub token: Option<Vec<u32>>,
    /// Index into [`Meta::domains`] `[T]`.
    pub domain: Vec<u8>,
    /// Remarks of the importer that a reader of results should see (dropped layers, inserted boundaries, …), one
    /// sentence each.
    pub notes: Vec<String>,
    /// How far the router explains the recorded choice; `None` where there is nothing to hold it against, and in a
    /// trace that was not read.
    pub evidence: Option<Evidence>,
}

impl Trace {
    /// One decoded sequence of one domain, ids only; `ids` are `[T, L, k]`. Other fields are set afterwards,
    /// [`Self::validate`] checks them.
    pub fn of_ids(shape: Shape, ids: Vec<u16>) -> Self {
        Self {
            shape,
            meta: Meta {
                domains: vec!["all".into()],
                layer_ids: (0..shape.layers as u32).collect(),
                ..Meta::default()
            },
            ids,
            weights: None,
            logits: None,
            bias: None,
            expert_scale: None,
            hidden: None,
            sequence: vec![0; shape.tokens],
            position: (0..shape.tokens as u32).collect(),
            phase: vec![Phase::Decode; shape.tokens],
            token: None,
            domain: vec![0; shape.tokens],
            notes: Vec::new(),
            evidence: None,
        }
    }

    /// What this trace recorded of the router's output.
    pub fn knowledge(&self) -> Knowledge {
        match (&self.logits, &self.weights) {
            (Some(_), _) => Knowledge::Logits,
            (None, Some(_)) => Knowledge::Weights,
            (None, None) => Knowledge::Ids,
        }
    }

    /// Chosen experts of one token in one layer, at most k: null experts and padding are left out.
    #[must_use]
    pub fn chosen(&self, token: usize, layer: usize) -> &[u16] {
        let row = self.recorded(token, layer);
        let runs = |&id: &u16| usize::from(id) < self.shape.experts;
        if row.last().is_none_or(runs) { row } else { &row[..row.partition_point(runs)] }
    }

    /// What was recorded of one token in one layer, `[k]`: [`Self::chosen`], then null experts, then [`NO_EXPERT`].
    #[must_use]
    pub fn recorded(&self, token: usize, layer: usize) -> &[u16] {
        let Shape { layers, k, .. } = self.shape;
        let start = (token * layers + layer) * k;
        &self.ids[start..start + k]
    }

    /// Scores that the router has for a token and layer: the experts and the null experts.
    #[must_use]
    pub fn scored(&self) -> usize {
        self.shape.experts + usize::from(self.meta.router.null_experts)
    }

    /// The bias of a layer `[S]`, empty where there is none.
    #[must_use]
    pub fn layer_bias(&self, layer: usize) -> &[f32] {
        self.bias.as_deref().map_or(&[], |bias| &bias[layer * self.scored()..(layer + 1) * self.scored()])
    }

    /// The factors on the experts of a layer `[S]`, empty where there are none.
    #[must_use]
    pub fn layer_scale(&self, layer: usize) -> &[f32] {
        self.expert_scale.as_deref().map_or(&[], |scale| &scale[layer * self.scored()..(layer + 1) * self.scored()])
    }

    /// Logits `[S]` of a token that were read from [`Self::logits`], with what the layer adds to them.
    #[must_use]
    pub fn row<'a>(&'a self, logits: &'a [f32], layer: usize) -> Row<'a> {
        Row { logits, bias: self.layer_bias(layer), scale: self.layer_scale(layer) }
    }

    /// Whether a selection under a bound can keep it here: the router explains what was recorded, or nothing
    /// contradicts it.
    #[must_use]
    pub fn bound_promised(&self) -> bool {
        self.evidence.as_ref().is_none_or(Evidence::bound_promised)
    }

    /// Whether `token` is the first of its sequence: its predecessor in the arrays is no predecessor in the text.
    pub fn starts_sequence(&self, token: usize) -> bool {
        token == 0 || self.sequence[token] != self.sequence[token - 1]
    }

    /// What a file with these fields would be read as: rows in order, tokens that were not recorded left out, foreign
    /// text printable, everything checked, and the choice held against the router.
    ///
    /// # Errors
    /// What [`Self::validate`] and [`crate::evidence::hold`] find.
    pub fn checked(mut self) -> Result<Self> {
        gate::pass(&mut self)?;
        Ok(self)
    }

    /// Checks everything that the field documentation promises; every importer ends with it.
    ///
    /// # Errors
    /// The first violation, with layer and token.
    pub fn validate(&self) -> Result<()> {
        let Shape { tokens, layers, .. } = self.shape;
        self.validate_sizes()?;
        for token in 0..tokens {
            for layer in 0..layers {
                self.validate_ids(self.recorded(token, layer))
                    .map_err(|error| error.at(format!("layer {layer}")).at(format!("token {token}")))?;
            }
        }
        if let Some(weights) = &self.weights {
            weights.check("weight", |value| value.is_finite() && value >= 0.0, "finite and not negative")?;
        }
        if let Some(logits) = &self.logits {
            logits.check("logit", |value| value < f32::INFINITY, "finite")?;
        }
        if let Some(hidden) = &self.hidden {
            hidden.check("hidden value", f32::is_finite, "finite")?;
        }
        self.validate_sequences()
    }

    fn validate_ids(&self, row: &[u16]) -> Result<()> {
        let Shape { experts, k, .. } = self.shape;
        let scored = self.scored();
        let kind = |id: u16| usize::from(usize::from(id) >= experts) + usize::from(id == NO_EXPERT);
        for (i, &id) in row.iter().enumerate() {
            if id != NO_EXPERT && usize::from(id) >= scored {
                return Err(Error::new(format!("expected expert ids below {scored}, found {id}")));
            }
            if id != NO_EXPERT && row[..i].contains(&id) {
                return Err(Error::new(format!("expected {k} different experts, found {id} twice")));
            }
            if i > 0 && kind(row[i - 1]) > kind(id) {
                return Err(Error::new(format!("expected expert {id} before null experts and padding")));
            }
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<()> {
        let Shape { tokens, layers, experts, k } = self.shape;
        let scored = self.scored();
        let expect = |what: &str, ok: bool, rule: String| {
            if ok { Ok(()) } else { Err(Error::new(format!("{what}: expected {rule}"))) }
        };
        expect("tokens", tokens > 0, "at least one token".into())?;
        expect("layers", layers > 0, "at least one layer".into())?;
        expect("experts", (1..=MAX_EXPERTS).contains(&experts), format!("1 to {MAX_EXPERTS}, found {experts}"))?;
        expect(
            "null experts",
            scored <= MAX_EXPERTS,
            format!("at most {MAX_EXPERTS} with the experts, found {scored}"),
        )?;
        expect(
            "experts per token",
            (1..=MAX_TOP_K.min(scored)).contains(&k),
            format!("1 to {}, found {k}", MAX_TOP_K.min(scored)),
        )?;
        let groups = usize::from(self.meta.router.groups.max(1));
        expect("groups", scored.is_multiple_of(groups), format!("a divisor of {scored} experts, found {groups}"))?;
        expect("domains", (1..=256).contains(&self.meta.domains.len()), "1 to 256".into())?;
        let lengths = [
            ("experts", self.ids.len(), tokens * layers * k),
            ("weights", self.weights.as_ref().map_or(tokens * layers * k, FloatArray::len), tokens * layers * k),
            (
                "logits",
                self.logits.as_ref().map_or(tokens * layers * scored, FloatArray::len),
                tokens * layers * scored,
            ),
            ("bias", self.bias.as_ref().map_or(layers * scored, Vec::len), layers * scored),
            ("expert scale", self.expert_scale.as_ref().map_or(layers * scored, Vec::len), layers * scored),
            ("sequence", self.sequence.len(), tokens),
            ("position", self.position.len(), tokens),
            ("phase", self.phase.len(), tokens),
            ("token", self.token.as_ref().map_or(tokens, Vec::len), tokens),
            ("domain", self.domain.len(), tokens),
            ("layer ids", self.meta.layer_ids.len(), layers),
        ];
        for (name, found, expected) in lengths {
            expect(name, found == expected, format!("{expected} values, found {found}"))?;
        }
        if let Some(bias) = &self.bias {
            expect("bias", bias.iter().all(|b| b.is_finite()), "finite values".into())?;
        }
        if let Some(scale) = &self.expert_scale {
            let fits = scale.iter().all(|s| s.is_finite() && *s >= 0.0);
            expect("expert scale", fits, "finite values of at least 0".into())?;
        }
        if let Some(&domain) = self.domain.iter().find(|&&d| usize::from(d) >= self.meta.domains.len()) {
            return Err(Error::new(format!(
                "domain: expected indices below {}, found {domain}",
                self.meta.domains.len()
            )));
        }
        Ok(())
    }

    fn validate_sequences(&self) -> Result<()> {
        let mut seen = std::collections::HashSet::new();
        for token in 0..self.shape.tokens {
            if self.starts_sequence(token) && !seen.insert(self.sequence[token]) {
                return Err(Error::new(format!(
                    "expected the tokens of sequence {} side by side, found them in two places",
                    self.sequence[token]
                ))
                .at(format!("token {token}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_experts_and_padding_are_not_chosen() {
        let shape = Shape { tokens: 4, layers: 1, experts: 4, k: 3 };
        let ids = vec![0, 1, 2, 3, 5, NO_EXPERT, 4, 5, NO_EXPERT, 1, NO_EXPERT, NO_EXPERT];
        let mut trace = Trace::of_ids(shape, ids);
        trace.meta.router.null_experts = 2;
        trace.validate().unwrap();
        assert_eq!((trace.chosen(0, 0), trace.chosen(1, 0), trace.chosen(2, 0)), (&[0, 1, 2][..], &[3][..], &[][..]));
        assert_eq!((trace.chosen(3, 0), trace.recorded(1, 0)), (&[1][..], &[3, 5, NO_EXPERT][..]));
        trace.ids[1] = 4;
        assert!(trace.validate().unwrap_err().to_string().contains("expected expert 2 before null experts"));
        trace.ids[1] = 6;
        assert!(trace.validate().unwrap_err().to_string().contains("expected expert ids below 6, found 6"));
    }
}

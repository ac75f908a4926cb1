//! A routing trace in memory: [`Trace`], its sizes and its names.

use std::fmt;
use std::str::FromStr;

use crate::array::FloatArray;
use crate::error::{Error, Result};

/// Largest number of experts per layer that a trace may have.
pub const MAX_EXPERTS: usize = 1024;
/// Largest number of experts per token that a trace may have.
pub const MAX_TOP_K: usize = 16;

/// Sizes of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of tokens T, all sequences together.
    pub tokens: usize,
    /// Number of MoE layers L.
    pub layers: usize,
    /// Routed experts per layer E.
    pub experts: usize,
    /// Experts chosen per token and layer.
    pub k: usize,
}

/// How the router turns logits into mixing weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Convention {
    /// Not recorded.
    #[default]
    Unknown,
    /// Softmax over all experts, then the k largest; weights sum to less than 1 (OLMoE, Qwen, DeepSeek-V2, Switch).
    SoftmaxAll,
    /// The k largest logits, then softmax over them; weights sum to 1 (Mixtral, gpt-oss, GLaM).
    SoftmaxSelected,
    /// Sigmoid of each logit; a bias that serves selection only; groups of experts of which the best `top_groups` take part
    /// (DeepSeek-V3). Weights are the sigmoids of the chosen, renormalised.
    Sigmoid {
        /// Number of groups that the experts are cut into, 1 where the router has none.
        groups: u16,
        /// Groups whose experts take part in the selection.
        top_groups: u16,
    },
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::SoftmaxAll => f.write_str("softmax-all"),
            Self::SoftmaxSelected => f.write_str("softmax-selected"),
            Self::Sigmoid { groups, top_groups } => write!(f, "sigmoid:{groups}:{top_groups}"),
        }
    }
}

impl FromStr for Convention {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "unknown" => Ok(Self::Unknown),
            "softmax-all" | "softmax over all" => Ok(Self::SoftmaxAll),
            "softmax-selected" | "softmax over the selected" => Ok(Self::SoftmaxSelected),
            "sigmoid" => Ok(Self::Sigmoid { groups: 1, top_groups: 1 }),
            _ => {
                let mut parts = text.split(':');
                let mut number = || parts.next().and_then(|part| part.parse::<u16>().ok());
                match (text.starts_with("sigmoid:"), number(), number(), number()) {
                    (true, None, Some(groups), Some(top_groups)) if top_groups >= 1 && top_groups <= groups => {
                        Ok(Self::Sigmoid { groups, top_groups })
                    }
                    _ => Err(Error::new(format!(
                        "expected a router convention (unknown, softmax-all, softmax-selected, sigmoid:GROUPS:TOP_GROUPS), found \"{text}\""
                    ))),
                }
            }
        }
    }
}

/// What is known about a trace beside its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Model name as the source gives it, empty if it does not.
    pub model: String,
    /// Router convention.
    pub router: Convention,
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
    pub ids: Vec<u16>,
    /// Mixing weights of the chosen experts `[T, L, k]`, in the order of `ids`; finite and not negative.
    pub weights: Option<FloatArray>,
    /// Raw router logits `[T, L, E]`, finite.
    pub logits: Option<FloatArray>,
    /// Selection bias `[L, E]` (DeepSeek-V3), finite.
    pub bias: Option<Vec<f32>>,
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
    /// Remarks of the importer that a reader of results should see (dropped layers, inserted boundaries, …), one sentence each.
    pub notes: Vec<String>,
}

impl Trace {
    /// One decoded sequence of one domain, ids only; `ids` are `[T, L, k]`. Other fields are set afterwards, [`Self::validate`] checks them.
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
            hidden: None,
            sequence: vec![0; shape.tokens],
            position: (0..shape.tokens as u32).collect(),
            phase: vec![Phase::Decode; shape.tokens],
            token: None,
            domain: vec![0; shape.tokens],
            notes: Vec::new(),
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

    /// Chosen experts of one token in one layer, `[k]`.
    pub fn chosen(&self, token: usize, layer: usize) -> &[u16] {
        let Shape { layers, k, .. } = self.shape;
        let start = (token * layers + layer) * k;
        &self.ids[start..start + k]
    }

    /// Whether `token` is the first of its sequence: its predecessor in the arrays is no predecessor in the text.
    pub fn starts_sequence(&self, token: usize) -> bool {
        token == 0 || self.sequence[token] != self.sequence[token - 1]
    }

    /// Checks everything that the field documentation promises; every importer ends with it.
    ///
    /// # Errors
    /// The first violation, with layer and token.
    pub fn validate(&self) -> Result<()> {
        let Shape { tokens, layers, experts, k } = self.shape;
        self.validate_sizes()?;
        for token in 0..tokens {
            for layer in 0..layers {
                let chosen = self.chosen(token, layer);
                for (i, &id) in chosen.iter().enumerate() {
                    let wrong = if usize::from(id) >= experts {
                        format!("expected expert ids below {experts}, found {id}")
                    } else if chosen[..i].contains(&id) {
                        format!("expected {k} different experts, found {id} twice")
                    } else {
                        continue;
                    };
                    return Err(Error::new(wrong).at(format!("layer {layer}")).at(format!("token {token}")));
                }
            }
        }
        if let Some(weights) = &self.weights {
            weights.check("weight", |value| value.is_finite() && value >= 0.0, "finite and not negative")?;
        }
        for (name, array) in [("logit", &self.logits), ("hidden value", &self.hidden)] {
            if let Some(array) = array {
                array.check(name, f32::is_finite, "finite")?;
            }
        }
        self.validate_sequences()
    }

    fn validate_sizes(&self) -> Result<()> {
        let Shape { tokens, layers, experts, k } = self.shape;
        let expect = |what: &str, ok: bool, rule: String| {
            if ok { Ok(()) } else { Err(Error::new(format!("{what}: expected {rule}"))) }
        };
        expect("tokens", tokens > 0, "at least one token".into())?;
        expect("layers", layers > 0, "at least one layer".into())?;
        expect("experts", (1..=MAX_EXPERTS).contains(&experts), format!("1 to {MAX_EXPERTS}, found {experts}"))?;
        expect(
            "experts per token",
            (1..=MAX_TOP_K.min(experts)).contains(&k),
            format!("1 to {}, found {k}", MAX_TOP_K.min(experts)),
        )?;
        expect("domains", (1..=256).contains(&self.meta.domains.len()), "1 to 256".into())?;
        let lengths = [
            ("experts", self.ids.len(), tokens * layers * k),
            ("weights", self.weights.as_ref().map_or(tokens * layers * k, FloatArray::len), tokens * layers * k),
            (
                "logits",
                self.logits.as_ref().map_or(tokens * layers * experts, FloatArray::len),
                tokens * layers * experts,
            ),
            ("bias", self.bias.as_ref().map_or(layers * experts, Vec::len), layers * experts),
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
    fn conventions_survive_their_text() {
        for convention in [
            Convention::Unknown,
            Convention::SoftmaxAll,
            Convention::SoftmaxSelected,
            Convention::Sigmoid { groups: 8, top_groups: 4 },
        ] {
            assert_eq!(convention.to_string().parse::<Convention>().unwrap(), convention);
        }
        for text in ["", "softmax", "sigmoid:4:8", "sigmoid:0:0", "sigmoid:x:1"] {
            assert!(text.parse::<Convention>().is_err(), "{text}");
        }
    }
}

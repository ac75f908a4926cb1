//! What the MoE blocks of one sequence see, put together as a trace.

use half::f16;

use super::Options;
use super::sketch::Sketch;
use crate::error::{Error, Result};
use crate::{Config, Model, MoeHook, Routing};
use cptr_trace::array::FloatArray;
use cptr_trace::{Meta, Phase, Shape, Trace};

/// Everything by layer, in the order of tokens.
pub(super) struct Record<'a> {
    model: &'a Model,
    config: &'a Config,
    wide: bool,
    sketch: Option<(Sketch, usize)>,
    layers: Vec<Layer>,
}

#[derive(Default)]
struct Layer {
    /// `[T, E]`.
    scores: Vec<f32>,
    /// `[T, k]`.
    ids: Vec<u16>,
    /// `[T, k]`.
    weights: Vec<f32>,
    /// `[T, d]`.
    sketch: Vec<f32>,
}

impl MoeHook for Record<'_> {
    fn input(&mut self, layer: usize, hidden: &[f32]) {
        if let Some((sketch, _)) = &self.sketch {
            sketch.extend(hidden, &mut self.layers[layer].sketch);
        }
    }

    fn route(&mut self, routing: &Routing<'_>, _chosen: &mut [u16]) {
        let layer = &mut self.layers[routing.layer];
        layer.scores.extend_from_slice(routing.scores);
        layer.ids.extend_from_slice(routing.wanted);
        for token in 0..routing.tokens() {
            let first = layer.weights.len();
            layer.weights.resize(first + routing.k, 0.0);
            routing.shares(token, routing.wanted(token), &mut layer.weights[first..]);
        }
    }
}

impl<'a> Record<'a> {
    pub(super) fn new(model: &'a Model, options: Options) -> Self {
        let config = &model.config;
        Self {
            model,
            config,
            wide: options.wide,
            sketch: options.sketch.map(|dims| (Sketch::new(config.hidden, dims), dims)),
            layers: config.moe_layers.iter().map(|_| Layer::default()).collect(),
        }
    }

    pub(super) fn trace(self, model: &str, domain: &str, tokens: Vec<u32>, phase: Vec<Phase>) -> Result<Trace> {
        let (config, count) = (self.config, tokens.len());
        let shape = Shape { tokens: count, layers: self.layers.len(), experts: config.experts, k: config.k };
        let floats = |name: &str, width: usize, get: fn(&Layer) -> &[f32]| -> Result<FloatArray> {
            let mut values = by_token(&self.layers, count, width, get);
            if !self.wide {
                narrow(&mut values).map_err(|error| error.at(name))?;
            }
            Ok(FloatArray::owned([count, shape.layers, width], values))
        };
        let hidden = self.sketch.as_ref().map(|(_, dims)| floats("hidden", *dims, |layer| &layer.sketch));
        Ok(Trace {
            meta: Meta {
                model: model.into(),
                router: config.router,
                source: "cptr capture".into(),
                domains: vec![domain.into()],
                layer_ids: config.moe_layers.iter().map(|&layer| layer as u32).collect(),
            },
            weights: Some(floats("weights", config.k, |layer| &layer.weights)?),
            logits: Some(floats("logits", config.experts, |layer| &layer.scores)?),
            bias: self.model.router_bias(),
            hidden: hidden.transpose()?,
            phase,
            token: Some(tokens),
            ..Trace::of_ids(shape, by_token(&self.layers, count, config.k, |layer| &layer.ids))
        })
    }
}

/// Rows `[T, width]` of every layer as `[T, L, width]`.
fn by_token<T: Copy>(layers: &[Layer], tokens: usize, width: usize, get: fn(&Layer) -> &[T]) -> Vec<T> {
    let rows = |token: usize| layers.iter().flat_map(move |layer| &get(layer)[token * width..(token + 1) * width]);
    (0..tokens).flat_map(rows).copied().collect()
}

/// Rounds to f16.
fn narrow(values: &mut [f32]) -> Result<()> {
    for value in values {
        let rounded = f16::from_f32(*value).to_f32();
        if !rounded.is_finite() {
            return Err(Error::new(format!("expected values that f16 can hold, found {value}: record f32")));
        }
        *value = rounded;
    }
    Ok(())
}

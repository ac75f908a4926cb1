//! Rotary position embeddings: plain (Su et al., arXiv 2104.09864), linear interpolation, and YaRN (Peng et al., arXiv
//! 2309.00071).

use std::f64::consts::PI;

use candle_core::{Device, Tensor};

use super::fields::Fields;
use crate::error::{Error, Result};

/// Rotations of one model.
#[derive(Debug, Clone)]
pub(super) struct Rope {
    /// Angle per position of each pair of dimensions `[d/2]`.
    frequencies: Vec<f32>,
    /// Factor on sine and cosine (YaRN's attention temperature), 1 for plain rotations.
    factor: f64,
    /// Factor on the attention scores by which DeepSeek-V2 makes up for that of the rotations; 1 elsewhere.
    pub(super) score_factor: f64,
}

/// Cosines and sines `[T, d/2]` of the positions of one call.
#[derive(Debug)]
pub(super) struct Rotation {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rope {
    /// Reads `rope_parameters`, or `rope_scaling` and `rope_theta` as configurations before transformers 5 have them.
    pub(super) fn read(fields: &Fields<'_>, dims: usize, default_theta: f64, default_kind: &str) -> Result<Self> {
        let (name, parameters) = match fields.object("rope_parameters")? {
            Some(parameters) => ("rope_parameters", Some(parameters)),
            None => ("rope_scaling", fields.object("rope_scaling")?),
        };
        let theta = match &parameters {
            Some(parameters) => parameters.number_if_any("rope_theta")?,
            None => None,
        };
        let theta = theta.map_or_else(|| fields.number("rope_theta", default_theta), Ok)?;
        if dims == 0 || !dims.is_multiple_of(2) || theta <= 1.0 {
            return Err(Error::new(format!(
                "expected an even number of rotated dimensions and rope_theta above 1, found {dims} and {theta}"
            )));
        }
        let plain: Vec<f64> = (0..dims / 2).map(|i| theta.powf(-((2 * i) as f64) / dims as f64)).collect();
        let Some(parameters) = parameters else {
            return if default_kind == "default" {
                Ok(Self::new(&plain, 1.0))
            } else {
                Err(Error::new("expected a field \"rope_parameters\" or \"rope_scaling\", found none"))
            };
        };
        let kind = match parameters.text("rope_type")? {
            Some(kind) => kind,
            None => parameters.text("type")?.unwrap_or(default_kind),
        };
        if parameters.number("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(Error::new("expected rotations of whole heads (partial_rotary_factor 1)").at(name));
        }
        let positive = |field: &str| match parameters.number_if_any(field)? {
            Some(number) if number > 0.0 => Ok(number),
            other => Err(Error::new(format!("expected a number above 0, found {other:?}")).at(field).at(name)),
        };
        match kind {
            "default" => Ok(Self::new(&plain, 1.0)),
            "linear" => {
                let factor = positive("factor")?;
                Ok(Self::new(&plain.iter().map(|frequency| frequency / factor).collect::<Vec<_>>(), 1.0))
            }
            "yarn" => {
                let original = positive("original_max_position_embeddings")?;
                yarn(&parameters, &plain, theta, positive("factor")?, original).map_err(|error| error.at(name))
            }
            other => Err(Error::new(format!("expected default, linear or yarn, found \"{other}\"")).at(name)),
        }
    }

    fn new(frequencies: &[f64], factor: f64) -> Self {
        Self { frequencies: frequencies.iter().map(|&f| f as f32).collect(), factor, score_factor: 1.0 }
    }

    /// Cosines and sines for some positions.
    pub(super) fn at(&self, positions: impl Iterator<Item = usize>) -> Result<Rotation> {
        let positions: Vec<f32> = positions.map(|position| position as f32).collect();
        let angles = || positions.iter().flat_map(|position| self.frequencies.iter().map(move |f| position * f));
        let shape = (positions.len(), self.frequencies.len());
        let table = |values: Vec<f32>| Tensor::from_vec(values, shape, &Device::Cpu);
        let factor = self.factor as f32;
        Ok(Rotation {
            cos: table(angles().map(|angle| angle.cos() * factor).collect())?,
            sin: table(angles().map(|angle| angle.sin() * factor).collect())?,
        })
    }
}

/// The temperature by which YaRN scales attention, for a context `scale` times as long (the paper's equation 22).
fn temperature(scale: f64, weight: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * weight * scale.ln() + 1.0 }
}

fn yarn(parameters: &Fields<'_>, plain: &[f64], theta: f64, factor: f64, original: f64) -> Result<Rope> {
    let dims = (2 * plain.len()) as f64;
    // Dimension that turns `rotations` times over the original context.
    let dimension = |rotations: f64| dims * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let mut low = dimension(parameters.number("beta_fast", 32.0)?);
    let mut high = dimension(parameters.number("beta_slow", 1.0)?);
    if parameters.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dims - 1.0));
    if low == high {
        high += 0.001;
    }
    let blend = |(i, frequency): (usize, &f64)| {
        let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / factor * interpolated + frequency * (1.0 - interpolated)
    };
    let frequencies: Vec<f64> = plain.iter().enumerate().map(blend).collect();
    let nonzero = |name: &str| -> Result<_> { Ok(parameters.number_if_any(name)?.filter(|&weight| weight != 0.0)) };
    let all_dims = nonzero("mscale_all_dim")?;
    let cosine_factor = match (parameters.number_if_any("attention_factor")?, nonzero("mscale")?, all_dims) {
        (Some(factor), _, _) => factor,
        (None, Some(weight), Some(all_dims)) => temperature(factor, weight) / temperature(factor, all_dims),
        _ => temperature(factor, 1.0),
    };
    let score_factor = all_dims.map_or(1.0, |all_dims| temperature(factor, all_dims).powi(2));
    Ok(Rope { score_factor, ..Rope::new(&frequencies, cosine_factor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_rotations_are_powers_of_theta() {
        let json = json!({"rope_theta": 100.0});
        let rope = Rope::read(&Fields::new(&json).unwrap(), 4, 10_000.0, "default").unwrap();
        assert_eq!(rope.frequencies, [1.0, 0.1]);
        let rotation = rope.at(3..4).unwrap();
        let cos = rotation.cos.to_vec2::<f32>().unwrap();
        assert_eq!(cos, [[3.0f32.cos(), 0.3f32.cos()]]);
    }

    #[test]
    fn yarn_keeps_fast_dimensions_and_stretches_slow_ones() {
        let json = json!({"rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}});
        let rope = Rope::read(&Fields::new(&json).unwrap(), 64, 10_000.0, "default").unwrap();
        assert_eq!(rope.frequencies[0], 1.0);
        let slowest = 10_000f64.powf(-62.0 / 64.0) / 8.0;
        assert!((f64::from(rope.frequencies[31]) / slowest - 1.0).abs() < 1e-6);
        assert!((rope.factor - (0.1 * 8f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn unknown_kinds_are_refused() {
        let refused = |json: serde_json::Value| {
            Rope::read(&Fields::new(&json).unwrap(), 8, 1e4, "default").unwrap_err().to_string()
        };
        let longrope = refused(json!({"rope_scaling": {"rope_type": "longrope"}}));
        assert_eq!(longrope, "rope_scaling: expected default, linear or yarn, found \"longrope\"");
        assert!(refused(json!({"rope_parameters": {"rope_type": "linear"}})).contains("factor"));
        assert!(refused(json!({"rope_theta": 0.5})).contains("rope_theta above 1"));
    }
}

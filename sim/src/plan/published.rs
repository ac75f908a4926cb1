//! Decode rates that others measured on real machines (`data/published.toml`), against the model and its band.

use std::sync::LazyLock;

use cptr_hw_model::{Model, System};
use cptr_trace::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::band::{self, Band};
use super::{Misses, Place, Placed, token};

/// One rate as the file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    name: String,
    source: String,
    #[serde(default)]
    chosen: bool,
    model: String,
    tokens_per_s: f64,
    expert_bits: f64,
    dense_bits: f64,
    context: u64,
    experts_per_token: Option<u64>,
    place: PlaceName,
    host_layers: Option<u64>,
    miss_rate: Option<f64>,
    gpu: f64,
    host: Option<f64>,
    #[serde(default)]
    own: bool,
    layers: Option<u64>,
    link: Option<f64>,
    link_band: Option<[f64; 2]>,
    #[serde(default)]
    note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PlaceName {
    Gpu,
    Layers,
    Copied,
}

#[derive(Deserialize)]
struct File {
    rate: Vec<Rate>,
}

static RATES: LazyLock<Vec<Rate>> = LazyLock::new(|| {
    toml::from_str::<File>(include_str!("../../data/published.toml"))
        .expect("the shipped table parses: a unit test reads it")
        .rate
});

/// A published rate and what the model says of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Held {
    /// What was run.
    pub name: String,
    /// Whether the bands were chosen on it.
    pub chosen: bool,
    /// Whether it is a measurement of this project, not a published one.
    pub own: bool,
    /// Where experts were.
    pub place: Place,
    /// Published.
    pub published_tokens_per_s: f64,
    /// The model's.
    pub tokens_per_s: f64,
    /// Its band.
    pub low_tokens_per_s: f64,
    /// See [`Self::low_tokens_per_s`].
    pub high_tokens_per_s: f64,
    /// Whether the band holds the published rate.
    pub holds: bool,
    /// Where it was published.
    pub source: String,
    /// What was assumed.
    pub note: String,
}

/// All published rates.
///
/// # Errors
/// None but in a table that a test refuses.
pub fn all() -> Result<Vec<Held>> {
    RATES.iter().map(Rate::hold).collect()
}

impl Rate {
    fn hold(&self) -> Result<Held> {
        let unknown = |what: &str| Error::new(format!("published.toml: expected a known {what} in {}", self.name));
        let mut model = Model::find(&self.model).ok_or_else(|| unknown("model"))?.clone();
        model.experts_per_token = self.experts_per_token.unwrap_or(model.experts_per_token);
        model.layers = self.layers.unwrap_or(model.layers);
        let (place, miss_rate) = match (self.place, self.host_layers, self.miss_rate) {
            (PlaceName::Gpu, None, None) => (Place::Gpu, 0.0),
            (PlaceName::Layers, Some(layers), None) => (Place::Layers, layers as f64 / model.layers as f64),
            (PlaceName::Copied, None, Some(miss_rate)) => (Place::Copied, miss_rate),
            _ => return Err(unknown("place")),
        };
        // Misses were counted, or follow from the placement: no strategy is guessed.
        let placed = Placed { place, resident_share: 1.0 - miss_rate, miss_rate, strategy: None };
        let system = self.system()?;
        let tokens_per_s = 1e6 / token::busy(&system, &model, self.context, &placed).token_us;
        // Shares of the link, where copies were measured.
        let copies = self.link_band.map(|band| band.map(|gb_s| gb_s / system.link().coded_gb_s()));
        let Band { low, high } = band::of(&system, &model, self.context, &placed, &Misses::typical(), copies)?;
        let (low, high) = (tokens_per_s * low, tokens_per_s * high);
        Ok(Held {
            name: self.name.clone(),
            chosen: self.chosen,
            own: self.own,
            place,
            published_tokens_per_s: self.tokens_per_s,
            tokens_per_s,
            low_tokens_per_s: low,
            high_tokens_per_s: high,
            holds: (low..=high).contains(&self.tokens_per_s),
            source: self.source.clone(),
            note: self.note.clone(),
        })
    }

    /// The workstation with this machine's bandwidths.
    fn system(&self) -> Result<System> {
        let base = System::find("workstation").ok_or_else(|| Error::new("expected the system workstation"))?;
        let wrong = |error: cptr_hw_model::SystemError| Error::new(error.to_string());
        let mut system = base
            .changed(|parts| {
                parts.gpu.memory_gb_s = self.gpu;
                if let Some(gb_s) = self.link {
                    parts.link.copy_efficiency = gb_s / parts.link.coded_gb_s();
                }
                if let (Some(host), Some(gb_s)) = (&mut parts.host, self.host) {
                    host.memory_gb_s = gb_s;
                }
            })
            .map_err(wrong)?;
        (system.gpu_bits, system.ndp_bits, system.dense_bits) = (self.expert_bits, self.expert_bits, self.dense_bits);
        system.changed(|_| ()).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measure that the bands are held to: of the rates that they were not chosen on, three of four.
    #[test]
    fn bands_hold_most_of_the_rates_that_they_were_not_chosen_on() {
        let held = all().unwrap();
        for rate in &held {
            println!(
                "{:70} {:7.1} {:7.1} [{:6.1}, {:6.1}] {} {}",
                rate.name,
                rate.published_tokens_per_s,
                rate.tokens_per_s,
                rate.low_tokens_per_s,
                rate.high_tokens_per_s,
                if rate.holds { "in" } else { "OUT" },
                if rate.chosen { "chosen" } else { "" }
            );
            assert!(!rate.source.is_empty() && rate.low_tokens_per_s <= rate.tokens_per_s);
        }
        let others: Vec<_> = held.iter().filter(|rate| !rate.chosen && !rate.own).collect();
        assert!(others.len() >= 8 && held.iter().filter(|rate| rate.chosen).count() <= 5);
        let inside = others.iter().filter(|rate| rate.holds).count();
        assert!(inside * 4 >= others.len() * 3, "{inside} of {}", others.len());
    }

    /// What was measured with this project's own engine: within 15 % of it, and in the band or next to it: where
    /// experts are fetched ahead, one that is under way when it is wanted counts as a whole wait.
    #[test]
    fn own_measurements_are_met_and_held() {
        let own: Vec<Held> = all().unwrap().into_iter().filter(|rate| rate.own).collect();
        assert_eq!(own.len(), 6);
        assert!(own.iter().filter(|rate| rate.holds).count() >= 5);
        for rate in own {
            let off = rate.tokens_per_s / rate.published_tokens_per_s - 1.0;
            assert!(off.abs() < 0.15 && !rate.chosen, "{off:.3} {rate:?}");
            assert!(rate.published_tokens_per_s < 1.01 * rate.high_tokens_per_s, "{rate:?}");
            assert!(rate.published_tokens_per_s > rate.low_tokens_per_s, "{rate:?}");
            assert!(rate.high_tokens_per_s / rate.low_tokens_per_s < 3.0, "{rate:?}");
        }
    }
}

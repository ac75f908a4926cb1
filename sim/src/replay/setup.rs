//! What a replay is made for, and whether there is memory for it.

use std::sync::Arc;

use cptr_trace::error::Result;
use cptr_trace::{LossTable, Shape};

use super::{Budget, Machine, Routers};
use crate::strategy::Strategy;
use crate::strategy::precision::{self, Precision};

/// What a replay is made for.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// Layers, experts, experts per token; `tokens` are the steps.
    pub shape: Shape,
    /// Sequences of the batch.
    pub sequences: usize,
    /// Most migrations, and as many fetches ahead, a step, of which the sequences have equal parts; `None`: no limit.
    pub fair: Option<f64>,
    /// Steps at the start that are prompts.
    pub prefill: usize,
    /// Fast memory for experts.
    pub resident: Budget,
    /// Routers of the layers.
    pub routers: Arc<Routers>,
    /// What it runs on.
    pub machine: Option<Machine<'a>>,
    /// Measured losses of all experts at few bits.
    pub losses: Option<&'a LossTable>,
}

impl<'a> Setup<'a> {
    /// Bits of full precision: those of the machine's GPU memory, or 16.
    pub(super) fn full_bits(&self) -> u8 {
        self.machine.map_or(16, |machine| machine.system.gpu_bits.ceil().clamp(1.0, 32.0) as u8)
    }

    /// Bytes of an expert at full precision, where the model's sizes are known.
    pub(super) fn expert_bytes(&self, bits: u8) -> Option<f64> {
        self.machine.and_then(|machine| machine.model).map(|model| model.expert_bytes(bits.into()))
    }

    /// Bits per weight of an expert that fit in a layer.
    pub(super) fn capacity(&self) -> Result<u32> {
        self.resident.equal(self.shape.layers, self.expert_bytes(self.full_bits()), self.full_bits())
    }

    pub(super) fn precision(&self, strategy: &Strategy) -> Box<dyn Precision> {
        let Shape { layers, experts, .. } = self.shape;
        let setup = precision::Setup { layers, experts, full_bits: self.full_bits(), losses: self.losses };
        (strategy.precision.kind.make.0)(&strategy.precision.values, &setup)
    }

    /// Bits at which a strategy runs what is not resident, on average.
    #[must_use]
    pub fn missing_bits(&self, strategy: &Strategy) -> u8 {
        if strategy.division.kind.name == "gpu" { self.full_bits() } else { self.precision(strategy).near_bits() }
    }

    /// Whether a file that a strategy names is one for this source.
    ///
    /// # Errors
    /// Biases for other layers or experts.
    pub fn accepts(&self, strategy: &Strategy) -> Result<()> {
        let Shape { layers, experts, k, .. } = self.shape;
        strategy.select.values.biases().map_or(Ok(()), |biases| biases.fits(layers, experts, k))
    }

    /// Why the memory does not suffice for a strategy, in one sentence without its name; `None` if it does.
    #[must_use]
    pub fn refusal(&self, strategy: &Strategy) -> Option<String> {
        let Shape { layers, experts, .. } = self.shape;
        let full = self.full_bits();
        let (residency, all) = (strategy.residency.kind.name, strategy.residency.kind.name == "all");
        let bits = self.precision(strategy).load_bits();
        let machine = self.machine.and_then(|machine| machine.model.map(|model| (machine.system, model)));
        let Some((system, model)) = machine else {
            let (needs, has) = (experts as u32 * u32::from(bits), self.capacity().unwrap_or(0));
            let whole = |bits: u32| f64::from(bits) / f64::from(full);
            return (all && needs > has).then(|| {
                let (needs, has) = (whole(needs), whole(has));
                format!("residency {residency} needs memory for {needs} experts a layer, and there is memory for {has}")
            });
        };
        let gb = |bytes: f64| bytes / 1e9;
        let per_layer = layers as f64 * model.expert_bytes(1.0);
        let dense = gb(model.dense_parameters() as f64 * system.gpu_bits / 8.0 * layers as f64);
        let gpu_gb = system.gpu().memory_gb;
        let (needs, has) = match self.resident {
            Budget::Bytes { bytes, .. } if all => {
                (gb(experts as f64 * f64::from(bits) * per_layer), (gpu_gb - dense).min(gb(bytes as f64)))
            }
            _ if all => (gb(experts as f64 * f64::from(bits) * per_layer), gpu_gb - dense),
            _ => (gb(f64::from(self.capacity().unwrap_or(0)) * per_layer), gpu_gb - dense),
        };
        if needs > has {
            let name = &system.gpu().name;
            return Some(format!(
                "residency {residency} needs {needs:.1} GB for experts, and {name} has {:.1} GB beside the dense layers",
                has.max(0.0)
            ));
        }
        // Replicas at 1 to 4 bits beside full precision, which copies come from.
        let near = gb(experts as f64 * f64::from(full + 10) * per_layer);
        let ndp = system.ndp().filter(|_| strategy.division.kind.device || strategy.division.kind.times)?;
        (near > ndp.capacity_gb).then(|| {
            let division = strategy.division.kind.name;
            format!(
                "division {division} needs a device for {near:.1} GB (all experts at {full}, 4, 3, 2 and 1 bits), and {} has {:.1} GB",
                ndp.name, ndp.capacity_gb
            )
        })
    }
}

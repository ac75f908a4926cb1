//! Replicas of a model's experts at few bits, as `cptr quantize` writes them.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cptr_model::quantise::{LOSS_TABLE, Replicas};
use cptr_model::{Config, Expert};
use cptr_trace::LossTable;
use cptr_trace::error::{Error, Result};

/// Replicas with what they lose.
#[derive(Debug)]
pub(crate) struct Quantised {
    replicas: Mutex<Replicas>,
    losses: LossTable,
}

impl Quantised {
    /// Opens what `cptr quantize` wrote for a model.
    ///
    /// # Errors
    /// If a file is missing or damaged, or made for another model.
    pub(crate) fn open(folder: &Path, config: &Config) -> Result<Self> {
        let path = folder.join(LOSS_TABLE);
        let losses = LossTable::read(&path)?;
        let (expected, found) = ([config.moe_layers.len(), config.experts], [losses.layers(), losses.experts()]);
        if found != expected {
            let sizes = format!("expected losses of {expected:?} layers and experts as the model has, found {found:?}");
            return Err(Error::in_file(&path, sizes));
        }
        Ok(Self { replicas: Mutex::new(Replicas::open(folder, config)?), losses })
    }

    /// What each expert loses.
    pub(super) const fn losses(&self) -> &LossTable {
        &self.losses
    }

    /// All experts at some bits in one memory, as a controller runs them.
    pub(super) fn memory(&self, bits: u8) -> cptr_model::Result<Vec<u8>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).memory(&[bits])
    }

    /// An expert at some bits.
    pub(super) fn expert(&self, layer: usize, expert: u16, bits: u8) -> cptr_model::Result<Expert> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).expert(layer, expert, bits)
    }
}

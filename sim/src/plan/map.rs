//! Which way is the fastest over the GPU's memory and the bandwidth of a near-data device.

use cptr_hw_model::System;
use cptr_trace::error::{Error, Result};
use serde::Serialize;

use super::{Place, Question, Way};

/// One machine of a map at some bits, and the fastest way there.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cell {
    /// Bits per weight of experts, wherever they lie.
    pub bits: f64,
    /// GPU memory in GB.
    pub gpu_gb: f64,
    /// Bandwidth of the device in GB/s, peak.
    pub device_gb_s: f64,
    /// The fastest way that fits, if one does.
    pub best: Option<Way>,
    /// The fastest without the device.
    pub without_device: Option<Way>,
    /// Tokens per second with all experts at 4 bits in GPU memory, where they fit: the rival of a device.
    pub all_at_4_bits_tokens_per_s: Option<f64>,
}

/// GPU memories in GB: of cards that are sold.
pub const GPU_GB: [f64; 8] = [8.0, 16.0, 24.0, 32.0, 48.0, 80.0, 141.0, 192.0];
/// Channels of the device, in parts of the machine's own.
pub const CHANNELS: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// The map of a model, around a machine with a device: its GPU with other memories of the same bandwidth, its device
/// with other numbers of channels and arrays.
///
/// # Errors
/// A machine without a device; what [`Question::ways`] refuses.
pub fn cells(question: &Question<'_>, system: &System) -> Result<Vec<Cell>> {
    let wrong = |error: &dyn std::fmt::Display| Error::new(error.to_string());
    if system.ndp().is_none() {
        return Err(Error::new(format!("--map: expected a system with a near-data device, found {}", system.name)));
    }
    let mut cells = Vec::new();
    for (&bits, times) in question.bits.iter().flat_map(|bits| CHANNELS.map(|times| (bits, times))) {
        // A device that a copy outruns is none.
        let Ok(wider) = system.changed(|parts| parts.ndp.iter_mut().for_each(|ndp| ndp.widen(times))) else { continue };
        let peak = wider.ndp().map(|ndp| ndp.memory.peak_gb_s()).transpose().map_err(|error| wrong(&error))?;
        for gpu_gb in GPU_GB {
            let machine = wider.changed(|parts| parts.gpu.memory_gb = gpu_gb).map_err(|error| wrong(&error))?;
            let at = |bits| {
                let question = Question { bits: vec![bits], fewer_bits_near: false, ..question.clone() };
                question.ways(&machine)
            };
            let ways = at(bits)?;
            let fastest = |of: &dyn Fn(&Way) -> bool| ways.iter().find(|way| way.fits && of(way)).cloned();
            let rival = at(4.0)?.into_iter().find(|way| way.fits && way.place == Place::Gpu);
            cells.push(Cell {
                bits,
                gpu_gb,
                device_gb_s: peak.unwrap_or(0.0),
                best: fastest(&|_| true),
                without_device: fastest(&|way| way.near_bits.is_none()),
                all_at_4_bits_tokens_per_s: rival.map(|way| way.tokens_per_s),
            });
        }
    }
    Ok(cells)
}

//! Low-bit replicas of experts: makes them, says what each loses, and runs them in a model.
//!
//! [`run`] does it all for a model: calibration, GPTQ or round-to-nearest of every expert at every number of bits, the
//! loss of each on held-out tokens, and a folder of files that has one writer at a time. [`Replicas`] opens the folder;
//! [`Uniform`] runs all experts at one number of bits. Matrices are packed in the format of [`cptr_core::expert`],
//! which says where every bit lies.
//!
//! The folder has `layer-000.safetensors` for MoE layer 0 and so on: tensors `EXPERT.gate.BITS`, `EXPERT.up.BITS` and
//! `EXPERT.down.BITS`, u8 `[bytes]`. The metadata `settings` and `experts` are JSON: what the replicas were made from,
//! and [`ExpertRecord`]s. `loss.csv` is the [`LossTable`]. Every file appears whole or not at all; a layer that is
//! there need not be made again.
//!
//! ```
//! use cptr_model::{Model, quantise};
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/olmoe");
//! let model = Model::load(folder.as_ref())?;
//! let sample = quantise::Sample::of(&model, &["It was the best of times, it was the worst of times."], 64)?;
//! let plan = quantise::Plan { bits: vec![2, 4], group: 32, method: quantise::Method::Rtn };
//! let folder = tempfile::tempdir()?;
//! let outcome = quantise::run(&model, &sample, &plan, folder.path())?;
//! let [at_2, at_4] = outcome.table.expert(0, 0) else { unreachable!() };
//! assert!(at_2 > at_4);
//! let mut replicas = quantise::Replicas::open(folder.path(), &model.config)?;
//! let mut all_at_4 = quantise::Uniform { replicas: &mut replicas, bits: 4 };
//! assert!(quantise::perplexity(&model, &sample, &mut all_at_4)? > 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod calibration;
mod grid;
mod hessian;
mod layer;
mod matrix;
mod replicas;

pub use calibration::{Sample, perplexity};
pub use cptr_trace::LossTable;
pub use layer::{ExpertRecord, Loss, Method, Packed};
pub use replicas::{LOSS_TABLE, Replicas, Uniform};

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Model;
use crate::error::{Error, Result};
use calibration::Calibration;
use cptr_trace::lock::Lock;
use cptr_trace::progress::Progress;
use layer::FEW;
use matrix::Format;
use replicas::Settings;

/// File in the folder that its one writer holds locked.
const LOCK: &str = "quantise.lock";

/// What [`run`] is asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Bits per weight, each 1 to 4, ascending.
    pub bits: Vec<u8>,
    /// Columns per scale: 32, 64 or 128.
    pub group: u8,
    /// How weights become codes.
    pub method: Method,
}

/// What [`run`] has made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The loss table, as written.
    pub table: LossTable,
    /// Records `[L, E]`.
    pub records: Vec<Vec<ExpertRecord>>,
    /// What readers should know.
    pub notes: Vec<String>,
}

/// Writes the replicas of all experts of a model into `folder`, layer by layer, and the loss table. Layers that are
/// there from an interrupted run are kept.
///
/// # Errors
/// If a file cannot be written, another process writes the folder, it holds replicas of other settings, or a weight is
/// not finite.
pub fn run(model: &Model, sample: &Sample, plan: &Plan, folder: &Path) -> Result<Outcome> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, &error))?;
    let lock = Lock::take(folder.join(LOCK), folder)?;
    let settings = settings(model, sample, plan);
    let layers = model.config.moe_layers.len();
    let mut records =
        (0..layers).map(|layer| replicas::finished_layer(folder, layer, &settings)).collect::<Result<Vec<_>>>()?;
    let kept = records.iter().flatten().count();
    if kept < layers {
        let calibration = Calibration::run(model, sample)?;
        let formats: Vec<Format> = plan.bits.iter().map(|&bits| Format { bits, group: plan.group }).collect();
        let progress = Progress::new(((layers - kept) * model.config.experts) as u64, "quantising");
        for (layer, records) in records.iter_mut().enumerate().filter(|(_, records)| records.is_none()) {
            let done = || progress.advance(1);
            let made = layer::quantise_layer(model, &calibration, layer, (&formats, plan.method), &done)?;
            replicas::write_layer(folder, layer, &settings, &made)?;
            // As a later run would find them: numbers that went through a file.
            *records = replicas::finished_layer(folder, layer, &settings)?;
        }
    }
    let records: Vec<Vec<ExpertRecord>> = records.into_iter().flatten().collect();
    let (table, raised) = table(&records, &plan.bits)?;
    write_table(&table, &records, &folder.join(LOSS_TABLE))?;
    lock.remove()?;
    Ok(Outcome { notes: notes(&records, kept, raised), table, records })
}

fn settings(model: &Model, sample: &Sample, plan: &Plan) -> Settings {
    let tokens = sample.windows().flat_map(|(window, _)| window).flat_map(|token| token.to_le_bytes());
    Settings {
        bits: plan.bits.clone(),
        group: plan.group,
        method: plan.method,
        tokens: sample.tokens(),
        calibration: hexadecimal(&Sha256::digest(tokens.collect::<Vec<u8>>())),
        model: hexadecimal(&model.fingerprint()),
    }
}

/// The first half of a digest, enough to tell things apart.
fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The loss table. Few held-out tokens may find an expert worse at more bits; then the replica of more bits is given
/// the loss of fewer, and counted.
fn table(records: &[Vec<ExpertRecord>], bits: &[u8]) -> Result<(LossTable, usize)> {
    let mut raised = 0;
    let mut losses = Vec::new();
    for record in records.iter().flatten() {
        let mut least = f64::INFINITY;
        for loss in &record.losses {
            raised += usize::from(loss.mse > least);
            least = least.min(loss.mse);
            losses.push(least);
        }
    }
    let experts = records.first().map_or(0, Vec::len);
    Ok((LossTable::new(records.len(), experts, bits, losses)?, raised))
}

fn write_table(table: &LossTable, records: &[Vec<ExpertRecord>], path: &Path) -> Result<()> {
    let names = ["relative", "round_to_nearest", "tokens", "held_out"];
    let values = |layer: usize, expert: usize, bits: u8| {
        let record = &records[layer][expert];
        let place = table.bits().iter().position(|&b| b == bits).unwrap_or_default();
        let loss = &record.losses[place];
        vec![
            loss.relative.to_string(),
            loss.rtn_mse.to_string(),
            record.tokens.to_string(),
            record.held_out.to_string(),
        ]
    };
    Ok(table.write(path, (&names, &values))?)
}

fn notes(records: &[Vec<ExpertRecord>], kept: usize, raised: usize) -> Vec<String> {
    let all = || records.iter().flatten();
    let (total, few) = (all().count(), all().filter(|record| record.tokens < FEW).count());
    let unseen = all().filter(|record| record.held_out == 0).count();
    let mut notes = Vec::new();
    if kept > 0 {
        notes.push(format!("{kept} of {} layers were there from an earlier run and are kept", records.len()));
    }
    if few > 0 {
        notes.push(format!(
            "{few} of {total} experts saw fewer than {FEW} calibration tokens: \
             they are calibrated on the inputs of their layer as well"
        ));
    }
    if unseen > 0 {
        notes.push(format!(
            "{unseen} of {total} experts saw no held-out token: \
             their losses are those on all held-out inputs of their layer"
        ));
    }
    if raised > 0 {
        notes.push(format!(
            "{raised} losses were larger than the same expert's at fewer bits, on its held-out tokens: \
             the table gives them the smaller one"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_writer() {
        let model = Model::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/olmoe").as_ref()).unwrap();
        let sample = Sample::of(&model, &["It was the spring of hope, it was the winter of despair."], 64).unwrap();
        let plan = Plan { bits: vec![2], group: 32, method: Method::Rtn };
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path().join(LOCK), folder.path()).unwrap();
        let error = run(&model, &sample, &plan, folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(": another process writes it: wait for it to end, or name another output"), "{error}");
        drop(lock);
        run(&model, &sample, &plan, folder.path()).unwrap();
        assert!(!folder.path().join(LOCK).exists() && folder.path().join(LOSS_TABLE).exists());
        let kept = run(&model, &sample, &plan, folder.path()).unwrap().notes;
        assert_eq!(kept[0], "2 of 2 layers were there from an earlier run and are kept");
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Random numbers that are the same everywhere.

    pub(crate) struct Numbers(u64);

    impl Numbers {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed)
        }

        /// Uniform in 0 to 1, 1 excluded.
        pub(crate) fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Close to a standard normal: the sum of twelve.
        pub(crate) fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }
}

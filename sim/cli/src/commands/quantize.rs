//! `cptr quantize`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::about::About;
use crate::columns::Format::{Change, Count, Number, Plain, Ratio};
use crate::columns::{Column, Page, Table, column, format};
use cptr_model::quantise::{self, Method, Outcome, Plan, Replicas, Sample, Uniform, perplexity};
use cptr_model::{Model, Unaltered};
use cptr_trace::error::Result;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a Hugging Face checkpoint
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Bits per weight, each 1 to 4
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,3,4", value_parser = clap::value_parser!(u8).range(1..=4))]
    bits: Vec<u8>,
    /// Weights that share a scale: 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = group)]
    group: u8,
    /// How weights become codes
    #[arg(long, default_value = "gptq", value_parser = PossibleValuesParser::new(["gptq", "rtn"]).map(method))]
    method: Method,
    /// Text that the experts are calibrated and judged on; a quarter is held out. Of folders all files that end in .txt
    /// are read
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    calibration: Vec<PathBuf>,
    /// Calibration tokens at most, held-out ones among them, spread over the files
    #[arg(long, value_name = "N", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(8..=1 << 24))]
    tokens: u32,
    /// Folder for replicas and loss table (default: MODEL with -low-bit at its end)
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

fn group(text: &str) -> std::result::Result<u8, String> {
    text.parse().ok().filter(|group| matches!(group, 32 | 64 | 128)).ok_or_else(|| "expected 32, 64 or 128".into())
}

/// One number of bits in the printed table.
#[derive(Debug, Serialize)]
struct Row {
    bits: u8,
    /// Packed bytes of an expert, with scales and headers.
    expert_bytes: usize,
    bits_per_weight: f64,
    /// Mean over the experts of the squared error by the squared output.
    relative_loss: f64,
    /// Geometric mean over the experts of the loss by that of round-to-nearest.
    loss_by_round_to_nearest: f64,
    /// Experts whose loss is larger than that of round-to-nearest.
    experts_worse: usize,
    /// Of the model with all experts at these bits, on the held-out tokens.
    perplexity: f64,
    perplexity_change: f64,
}

static COLUMNS: [Column; 8] = [
    column("bits", "bits", Plain, ""),
    column("expert_bytes", "bytes an expert", Count, "packed, with scales and headers"),
    column("bits_per_weight", "bits a weight", Number(3), ""),
    column("relative_loss", "relative loss", Number(5), "squared error over squared output, mean over the experts"),
    column("loss_by_round_to_nearest", "by rounding", Ratio, "loss over that of round-to-nearest"),
    column("experts_worse", "worse", Count, "experts that lose more than by round-to-nearest"),
    column("perplexity", "perplexity", Number(3), "of the model with all experts at these bits, on held-out tokens"),
    column("perplexity_change", "change", Change, ""),
];

fn method(name: String) -> Method {
    if name == "rtn" { Method::Rtn } else { Method::Gptq }
}

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[(
        "cptr quantize model --calibration calibration/rust --bits 2 --tokens 512 --out low-bit",
        "experts at 2 bits, and what each loses",
    )],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let mut bits = args.bits.clone();
    bits.sort_unstable();
    bits.dedup();
    let folder = args.out.clone().unwrap_or_else(|| beside(&args.model));
    let model = Model::load(&args.model)?;
    let sample = Sample::read(&model, &args.calibration, args.tokens as usize)?;
    let plan = Plan { bits, group: args.group, method: args.method };
    let outcome = quantise::run(&model, &sample, &plan, &folder)?;
    measure(&model, &sample, outcome, &folder)
}

/// `MODEL-low-bit`, where MODEL has a name.
fn beside(model: &Path) -> PathBuf {
    let mut name = model.components().as_path().as_os_str().to_owned();
    name.push("-low-bit");
    name.into()
}

fn measure(model: &Model, sample: &Sample, outcome: Outcome, folder: &Path) -> Result<Page> {
    let unaltered = perplexity(model, sample, &mut Unaltered)?;
    let mut replicas = Replicas::open(folder, &model.config)?;
    let config = &model.config;
    let weights = 3 * config.hidden * config.expert_inner;
    let records: Vec<_> = outcome.records.iter().flatten().collect();
    let mut rows = Vec::new();
    for (place, &bits) in outcome.table.bits().iter().enumerate() {
        let expert_bytes = replicas.packed(0, 0, bits)?.iter().map(Vec::len).sum();
        let losses = || records.iter().map(|record| record.losses[place]);
        let ratios: Vec<f64> =
            losses().filter(|loss| loss.rtn_mse > 0.0 && loss.mse > 0.0).map(|l| (l.mse / l.rtn_mse).ln()).collect();
        let perplexity = perplexity(model, sample, &mut Uniform { replicas: &mut replicas, bits })?;
        rows.push(Row {
            bits,
            expert_bytes,
            bits_per_weight: 8.0 * expert_bytes as f64 / weights as f64,
            relative_loss: losses().map(|loss| loss.relative).sum::<f64>() / records.len() as f64,
            loss_by_round_to_nearest: f64::exp(ratios.iter().sum::<f64>() / ratios.len().max(1) as f64),
            experts_worse: losses().filter(|loss| loss.mse > loss.rtn_mse).count(),
            perplexity,
            perplexity_change: perplexity / unaltered - 1.0,
        });
    }
    let fact = format!(
        "{}: replicas and loss table of {} experts; perplexity unaltered {unaltered:.3}, all on held-out tokens",
        folder.display(),
        records.len(),
    );
    let best = rows.iter().min_by(|a, b| a.perplexity_change.total_cmp(&b.perplexity_change));
    let least = rows.iter().min_by_key(|row| row.bits);
    let answer = best.zip(least).map(|(best, least)| {
        format!(
            "With all experts at {} bits perplexity changes by {}, at {} bits by {}.",
            best.bits,
            format::change(best.perplexity_change),
            least.bits,
            format::change(least.perplexity_change)
        )
    });
    let page = Page::new(Table::new(&COLUMNS, &rows)).with_facts([fact]).answered(answer).notes(outcome.notes);
    Ok(page.beside("folder", &folder).beside("experts", &records.len()).beside("perplexity", &unaltered))
}

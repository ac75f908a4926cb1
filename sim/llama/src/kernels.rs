//! `cptr-llama kernels`: the matrix-vector product of cptr's low-bit experts beside ggml's, on one thread.
//!
//! Matrices of one size, more of them than a cache holds, are all multiplied with a vector: by ggml in `q4_0`, by cptr
//! in each of its formats, in turns with reading those of one format and doing nothing with them. Both round the
//! vector to 8 bits for every product. The thread's processor time counts: what else the machine does matters less
//! then. The median of the turns' ratios is what is said.

use std::hint::black_box;

use cptr_core::expert::{ActivationGroup, Activations, ExpertError, Layout, Matrix, matvec};
use cptr_trace::error::{Error, Result};
use serde_json::json;

use crate::ffi::{Products, Rows, processor_time};
use crate::show::{Page, column};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Outputs of a matrix
    #[arg(long, value_name = "N", default_value_t = 768, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    rows: u32,
    /// Inputs of a matrix, a multiple of 32
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(32..=1 << 15))]
    columns: u32,
    /// MiB of all matrices of a format: more than a cache holds
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 14))]
    memory: u32,
    /// Turns of each
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    turns: u32,
}

/// Formats of cptr: bits and group length.
const FORMATS: [(u8, u8); 10] =
    [(4, 32), (4, 64), (4, 128), (3, 32), (3, 64), (3, 128), (2, 32), (2, 64), (2, 128), (1, 64)];
const GIB: f64 = (1 << 30) as f64;
/// How far a product may be from that of the unquantised weights, as a share of its length: 4 bits lose a tenth.
const FAR: f64 = 0.25;

/// Matrices of cptr in one format.
struct Ours {
    layout: Layout,
    matrices: Vec<Vec<u8>>,
    codes: Vec<i16>,
    groups: Vec<ActivationGroup>,
    out: Vec<i64>,
}

impl Ours {
    fn new(args: &Args, (bits, group): (u8, u8), random: &mut fastrand::Rng) -> Result<Self> {
        let layout = Layout::new(bits, group, -22, args.rows, args.columns).map_err(refused)?;
        let mut first = vec![0; layout.byte_len() as usize];
        random.fill(&mut first);
        layout.write(&mut first).map_err(refused)?;
        Ok(Self {
            layout,
            matrices: vec![first; count(args, layout.byte_len())],
            codes: vec![0; layout.padded_columns()],
            groups: vec![ActivationGroup::default(); layout.groups()],
            out: vec![0; layout.rows()],
        })
    }

    /// Reads all matrices.
    fn read(&self) {
        for bytes in &self.matrices {
            let words = black_box(bytes.as_slice()).as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            black_box(words.fold(0, u64::wrapping_add));
        }
    }

    fn run(&mut self, vector: &[i32]) -> Result<()> {
        for bytes in &self.matrices {
            let matrix = Matrix::new(bytes).map_err(refused)?;
            let x = Activations::quantise(vector, -16, &self.layout, &mut self.codes, &mut self.groups);
            matvec(&matrix, &x.map_err(refused)?, &mut self.out).map_err(refused)?;
            black_box(&self.out);
        }
        Ok(())
    }
}

fn refused(error: ExpertError) -> Error {
    Error::unsupported(error.to_string())
}

/// Matrices of so many bytes that the memory holds.
fn count(args: &Args, bytes: u64) -> usize {
    ((u64::from(args.memory) << 20) / bytes).clamp(1, 1 << 16) as usize
}

/// Processor time of one product.
fn time(count: usize, run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = processor_time();
    run()?;
    let time = processor_time().zip(start).and_then(|(end, start)| end.checked_sub(start));
    let time = time.filter(|time| !time.is_zero());
    let time = time.ok_or_else(|| Error::unsupported("expected a system that counts the processor time of threads"))?;
    Ok(time.as_secs_f64() / count as f64)
}

pub(crate) fn main(args: &Args) -> Result<Page> {
    let (rows, columns) = (args.rows as usize, args.columns as usize);
    if columns % 32 != 0 {
        return Err(Error::unsupported(format!("expected columns that are a multiple of 32, found {columns}")));
    }
    let mut random = fastrand::Rng::with_seed(1);
    let weights: Vec<f32> = (0..rows * columns).map(|_| random.f32() - random.f32()).collect();
    let fixed: Vec<i32> = (0..columns).map(|_| random.i32(-65_536..65_536)).collect();
    let vector: Vec<f32> = fixed.iter().map(|&x| x as f32 / 65_536.0).collect();
    let of_ggml = count(args, (rows * columns / 32 * 18) as u64);
    let mut theirs = Vec::new();
    for (name, kept) in [("ggml q4_0", Rows::Plain), ("ggml q4_0, repacked", Rows::Repacked)] {
        if let Some(mut products) = Products::new(&weights, columns, of_ggml, kept)? {
            products.run(&vector)?;
            check(&weights, &vector, &products.product())?;
            theirs.push((name, products));
        }
    }
    let mut ours = Vec::new();
    for format in FORMATS {
        ours.push(Ours::new(args, format, &mut random)?);
    }
    let mut times = vec![Vec::new(); theirs.len() + ours.len()];
    // Bytes per second.
    let mut reading = Vec::new();
    for _ in 0..args.turns {
        let (of_theirs, of_ours) = times.split_at_mut(theirs.len());
        for ((_, products), times) in theirs.iter_mut().zip(of_theirs) {
            times.push(time(of_ggml, || products.run(&vector))?);
        }
        let first = &ours[0];
        let time_of_matrix = time(first.matrices.len(), || {
            first.read();
            Ok(())
        })?;
        reading.push(first.layout.byte_len() as f64 / time_of_matrix);
        for (own, times) in ours.iter_mut().zip(of_ours) {
            times.push(time(own.matrices.len(), || own.run(&fixed))?);
        }
    }
    let named = theirs.iter().map(|(name, _)| ((*name).to_owned(), 4.5, (rows * columns / 32 * 18) as f64));
    let own = ours.iter().map(|own| {
        let bytes = own.layout.byte_len() as f64;
        let name = format!("cptr {} bits, groups of {}", own.layout.bits(), own.layout.group());
        (name, 8.0 * bytes / (rows * columns) as f64, bytes)
    });
    let of_plain = times[0].clone();
    let of_best = times[theirs.len() - 1].clone();
    let row = |((name, bits, bytes), own): ((String, f64, f64), &Vec<f64>)| {
        let time = median(own.clone());
        json!({
            "kernel": name,
            "bits": bits,
            "us": time * 1e6,
            "gib_s": bytes / time / GIB,
            "of_reading": median(own.iter().zip(&reading).map(|(own, reading)| bytes / own / reading).collect()),
            "to_plain": median(own.iter().zip(&of_plain).map(|(own, theirs)| own / theirs).collect()),
            "to_repacked": median(own.iter().zip(&of_best).map(|(own, theirs)| own / theirs).collect()),
        })
    };
    let rows_found = named.chain(own).zip(&times).map(row).collect();
    let columns_shown = vec![
        column("kernel", "kernel"),
        column("bits", "bits a weight").decimals(3),
        column("us", "µs").decimals(1),
        column("gib_s", "GiB/s").decimals(2),
        column("of_reading", "of reading").decimals(2),
        column("to_plain", "time to ggml's").decimals(3),
        column("to_repacked", "repacked").decimals(3),
    ];
    let facts = vec![format!(
        "matrices of {rows} x {columns}, {} MiB of each: processor time of one thread, median of {} turns; \
         reading {:.1} GiB/s",
        args.memory,
        args.turns,
        median(reading) / GIB
    )];
    Ok(Page { facts, columns: columns_shown, rows: rows_found, beside: Vec::new() })
}

/// That ggml has multiplied what it was given.
fn check(weights: &[f32], vector: &[f32], product: &[f32]) -> Result<()> {
    let exact = weights
        .chunks_exact(vector.len())
        .map(|row| row.iter().zip(vector).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>());
    let (mut error, mut length) = (0.0, 0.0);
    for (exact, &found) in exact.zip(product) {
        error += (exact - f64::from(found)).powi(2);
        length += exact.powi(2);
    }
    if error <= FAR * FAR * length {
        Ok(())
    } else {
        Err(Error::unsupported("expected ggml to multiply what it was given, its product is another"))
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

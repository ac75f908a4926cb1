//! How many bytes of packed weights a core goes through in a second, beside what it reads and copies.
//!
//! `cargo bench -p cptr-tests --bench expert`; the matrices are larger than any cache. Throughput counts packed bytes
//! (for `copy`, bytes copied, which are read once and written once).
#![forbid(unsafe_code)]

use std::hint::black_box;

use cptr_core::expert::{ActivationGroup, Activations, Layout, Matrix, matvec};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Columns of the gate matrix of Qwen3-30B-A3B, DeepSeek-V2-Lite and OLMoE.
const COLUMNS: u32 = 2048;
/// Bits and lengths of groups.
const FORMATS: [(u8, u8); 10] =
    [(4, 32), (4, 64), (4, 128), (3, 32), (3, 64), (3, 128), (2, 32), (2, 64), (2, 128), (1, 64)];
/// Bytes of a matrix: several times the last-level cache that a virtual core is likely to get; a small one where
/// criterion only tests that the benchmark runs.
fn matrix_bytes() -> u64 {
    if std::env::args().any(|argument| argument == "--test") { 1 << 20 } else { 768 << 20 }
}

fn packed(bits: u8, group: u8, bytes: u64) -> Vec<u8> {
    let row = Layout::new(bits, group, 0, 1, COLUMNS).expect("a layout").row_bytes() as u64;
    let layout = Layout::new(bits, group, -22, (bytes / row).min(1 << 20) as u32, COLUMNS).expect("a layout");
    let mut random = 1_u64;
    let mut matrix: Vec<u8> = Vec::new();
    matrix.resize_with(layout.byte_len() as usize, || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    });
    layout.write(&mut matrix).expect("the buffer has the length of the layout");
    matrix
}

fn bandwidth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memory");
    group.sample_size(10);
    let source = packed(4, 64, matrix_bytes());
    let mut target = source.clone();
    group.throughput(Throughput::Bytes(source.len() as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let words = black_box(&source).as_chunks::<8>().0.as_chunks::<4>().0;
            let add = |sums: [u64; 4], words: &[[u8; 8]; 4]| {
                std::array::from_fn(|i| sums[i].wrapping_add(u64::from_le_bytes(words[i])))
            };
            words.iter().fold([0; 4], add)
        });
    });
    group.bench_function("copy", |bencher| bencher.iter(|| target.copy_from_slice(black_box(&source))));
    group.finish();
}

fn kernels(criterion: &mut Criterion) {
    for (name, bytes) in [("matvec", matrix_bytes()), ("matvec in cache", 1 << 20)] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        for (bits, length) in FORMATS {
            let bytes = packed(bits, length, bytes);
            let matrix = Matrix::new(&bytes).expect("a packed matrix");
            let layout = *matrix.layout();
            let values: Vec<i32> = (0..COLUMNS as i32).map(|i| (i * 7919) % 65_536 - 32_768).collect();
            let mut codes = vec![0; layout.padded_columns()];
            let mut groups = vec![ActivationGroup::default(); layout.groups()];
            let vector = Activations::quantise(&values, -16, &layout, &mut codes, &mut groups).expect("it fits");
            let mut out = vec![0; layout.rows()];
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            let id = BenchmarkId::new(format!("{bits} bits"), format!("group {length}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| matvec(black_box(&matrix), black_box(&vector), &mut out).expect("it fits"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bandwidth, kernels);
criterion_main!(benches);

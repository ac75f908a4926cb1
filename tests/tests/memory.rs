//! What a reading takes of memory: at most twice what its arrays may become, and 64 MB. Mapped files are not counted:
//! the system drops their pages when it needs them.
//!
//! One test at a time, so that nothing else allocates meanwhile.

mod kept;

use std::path::Path;
use std::sync::Mutex;

use cptr_tests::fuzz::{READING_BYTES, TARGETS};
use cptr_trace::import::{self, Options, Recording};
use kept::{corpus, mutated};
use npyz::WriterBuilder;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

/// Inputs made of kept ones, for each target: 10^5 in all where all that takes long is asked for.
const MUTATIONS: usize = 1500;
const MANY_MUTATIONS: usize = 50_000;

/// What any reading may take beside its arrays.
const BESIDE_BYTES: u64 = 64 << 20;

/// The most that was allocated at a time while `run` ran, beyond what had been before.
fn peak_bytes(run: impl FnOnce()) -> u64 {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    run();
    // The thread that waits for the test may have let go of something in between.
    ALLOCATED.peak_usage().saturating_sub(before) as u64
}

/// An array `[T, 24, 8]` of 64-bit ids that becomes `bytes`, as NumPy writes it: an id takes 8 bytes, and 4 as it is
/// kept.
fn array(path: &Path, bytes: u64) {
    let tokens = bytes / (24 * 8 * 12);
    let file = std::io::BufWriter::new(std::fs::File::create(path).expect("a file"));
    let options = npyz::WriteOptions::new().default_dtype().shape(&[tokens, 24, 8]);
    let mut writer = options.writer(file).begin_nd().expect("a header");
    for token in 0..tokens {
        let ids = (0..24).flat_map(|layer| (0..8).map(move |rank| ((token + layer) % 8 * 8 + rank) as i64));
        writer.extend(ids).expect("rows");
    }
    writer.finish().expect("a file");
}

fn mutations(count: usize) {
    for name in ["recording", "native"] {
        let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
        let corpus = corpus(target);
        let mut random = fastrand::Rng::with_seed(11);
        let mut most = (0, String::new());
        for number in 0..corpus.len() + count {
            let (at, bytes) = match corpus.get(number) {
                Some((name, bytes)) => (name.clone(), bytes.clone()),
                None => {
                    let [(name, one), (_, other)] = [(); 2].map(|()| &corpus[random.usize(..corpus.len())]);
                    (format!("change {number} of {name}"), mutated(&mut random, one, other))
                }
            };
            most = most.max((peak_bytes(|| (target.run)(&bytes)), at));
        }
        println!("{name}: {} bytes at the most, {}", most.0, most.1);
        assert!(most.0 <= 2 * READING_BYTES + BESIDE_BYTES, "{name}: {} bytes, {}", most.0, most.1);
    }
}

#[test]
fn readings_take_what_their_arrays_may_become() {
    let _alone = ALONE.lock();
    mutations(MUTATIONS);
    // Recordings that become all that they may.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.npy");
    for allowed in [READING_BYTES, 256 << 20] {
        array(&path, allowed);
        let options = Options { experts: Some(64), memory: Some(allowed), ..Options::default() };
        let peak = peak_bytes(|| {
            let read = import::read(&path, &options);
            assert!(matches!(read, Ok(Recording::Tokens(_))), "{:?}", read.err().map(|error| error.to_string()));
        });
        println!("{allowed} bytes allowed: {peak} at the most");
        assert!(peak <= 2 * allowed + BESIDE_BYTES, "{peak} bytes, {allowed} allowed");
    }
}

#[test]
#[ignore = "a hundred thousand readings; cargo xtask test hostile runs it"]
fn a_hundred_thousand_readings_take_what_their_arrays_may_become() {
    let _alone = ALONE.lock();
    mutations(MANY_MUTATIONS);
}

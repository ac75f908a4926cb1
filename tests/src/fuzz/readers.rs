//! Files that others have made.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use cptr_sim::replay::{self, Budget, Plan};
use cptr_sim::strategy::Strategy;
use cptr_trace::import::{self, IMPORTERS, Layout, Options, Recording};
use cptr_trace::{BiasTable, LossTable, Trace, native};
use tempfile::TempDir;

/// Most bytes that the arrays of a reading may become here.
pub const READING_BYTES: u64 = 16 << 20;
/// Most characters of a refusal.
const MESSAGE: usize = 300;

thread_local! {
    /// In memory where that can be had: a file is written for each run.
    static FOLDER: RefCell<TempDir> = RefCell::new({
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
    });
}

/// A file of these bytes, until the next one of this name.
pub(super) fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.with_borrow(|folder| folder.path().join(name));
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// A refusal is a sentence of printable characters, as the command shows it.
pub(super) fn refusal(error: &impl std::fmt::Display) {
    let text = cptr_trace::Error::new(error.to_string()).to_string();
    assert!(!text.is_empty() && text.chars().count() <= MESSAGE, "{} characters: {text}", text.chars().count());
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
}

/// The first byte says what the caller knows, the second the name; the rest is the file.
pub(super) fn recording(data: &[u8]) {
    let [known, name, bytes @ ..] = data else { return };
    let names = ["a", "a.npy", "layer_0.json", "a.csv", "a.jsonl", "a.safetensors", "ffn_moe_logits-0.npy"];
    let options = Options {
        experts: (known & 1 != 0).then_some(8),
        top_k: (known & 2 != 0).then_some(2),
        layout: [None, Some(Layout::TokenLayer), None, Some(Layout::LayerToken)][usize::from(known >> 2 & 3)],
        chunk: (known & 16 != 0).then_some(3),
        keep_startup: known & 32 != 0,
        // Ambiguous formats are read by name alone.
        format: (known & 192 == 192).then(|| IMPORTERS[usize::from(*name) / 7 % IMPORTERS.len()].name().into()),
        memory: Some(READING_BYTES),
        ..Options::default()
    };
    check(import::read(&file(names[usize::from(*name) % 7], bytes), &options));
}

pub(super) fn native(data: &[u8]) {
    check(native::read(&file("a.safetensors", data)).map(Recording::Tokens));
}

fn check(read: cptr_trace::Result<Recording>) {
    match read {
        Err(error) => refusal(&error),
        Ok(Recording::Counts(counts)) => {
            let path = file("counts.safetensors", &[]);
            native::write_counts(&counts, &path).expect("what was read can be written");
            let again = native::read_counts(&path).expect("what was written can be read");
            assert_eq!(
                format!("{:?}{:?}", counts.tables, counts.pairs),
                format!("{:?}{:?}", again.tables, again.pairs)
            );
        }
        Ok(Recording::Tokens(trace)) => tokens(&trace),
    }
}

fn tokens(trace: &Trace) {
    trace.validate().expect("what was read is valid");
    let shape = trace.shape;
    let path = file("again.safetensors", &[]);
    native::write(trace, &path).expect("what was read can be written");
    let again = native::read(&path).expect("what was written can be read");
    assert_eq!((&again.shape, &again.ids), (&shape, &trace.ids));
    assert_eq!(
        (&again.sequence, &again.position, &again.phase, &again.domain),
        (&trace.sequence, &trace.position, &trace.phase, &trace.domain)
    );
    if shape.tokens * shape.layers * shape.k > 1 << 14 {
        return;
    }
    let plan = Plan::new(Budget::Experts(1 + shape.experts / 2));
    let served = replay::drive(trace, &plan, &Strategy::parse("lru").expect("a preset"), &mut []);
    let wanted: usize = (0..shape.tokens).flat_map(|t| (0..shape.layers).map(move |l| trace.chosen(t, l).len())).sum();
    if let Ok(served) = served {
        let stalls: u64 = served.layers.iter().map(|layer| layer.stalls).sum();
        assert!(stalls <= wanted as u64, "{stalls} stalls of {wanted} choices");
    }
}

/// The first byte says which table; the rest is the file.
pub(super) fn tables(data: &[u8]) {
    let [which, bytes @ ..] = data else { return };
    let path = file("table.csv", bytes);
    match which % 3 {
        0 => match LossTable::read(&path) {
            Err(error) => refusal(&error),
            Ok(table) => assert!(!table.bits().is_empty()),
        },
        1 => match BiasTable::read(&path) {
            Err(error) => refusal(&error),
            Ok(table) => assert_eq!(table.path(), path),
        },
        _ => match cptr_sim::serving::read(&path) {
            Err(error) => refusal(&error),
            Ok(requests) => assert!(!requests.is_empty()),
        },
    }
}

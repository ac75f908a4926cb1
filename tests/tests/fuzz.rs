//! Every input that fuzzers have kept, and some thousands made of them: no promise is broken. `cargo xtask fuzz` is the
//! long form.

mod kept;

use std::collections::BTreeSet;

use cptr_tests::fuzz::{TARGETS, Target};
use kept::{corpus, folder, mutated};

/// Inputs made of kept ones, for each target.
const MUTATIONS: usize = 1500;

/// Says which input it was.
struct Named<'a>(&'a Target, String, &'a [u8]);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("fuzz-{}", self.0.name));
            let kept = std::fs::write(&path, self.2).is_ok();
            let at = if kept { path.display().to_string() } else { "nowhere".into() };
            eprintln!("{}: {} breaks the promise that {} (kept in {at})", self.0.name, self.1, self.0.promise);
        }
    }
}

fn run(target: &Target, name: String, bytes: &[u8]) {
    let _named = Named(target, name, bytes);
    (target.run)(bytes);
}

#[test]
fn what_fuzzers_have_kept_and_what_is_made_of_it() {
    let queue = std::sync::Mutex::new(TARGETS.iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let next = || queue.lock().ok()?.next();
                while let Some(target) = next() {
                    let corpus = corpus(target);
                    assert!(!corpus.is_empty(), "{}", target.name);
                    corpus.iter().for_each(|(name, bytes)| run(target, name.clone(), bytes));
                    let mut random = fastrand::Rng::with_seed(7);
                    for number in 0..MUTATIONS {
                        let [(name, one), (_, other)] = [(); 2].map(|()| &corpus[random.usize(..corpus.len())]);
                        run(target, format!("change {number} of {name}"), &mutated(&mut random, one, other));
                    }
                }
            });
        }
    });
}

/// Each target has its fuzzer, its corpus and its line in the record.
#[test]
fn every_target_has_a_fuzzer_and_a_corpus() {
    let names = |kind: &str, end: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder().join(kind)).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter_map(|name| Some(name.strip_suffix(end)?.to_owned())).collect()
    };
    let mut expected: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    // Needs `unsafe`, and is a target of the fuzzers alone.
    expected.insert("c_interface".into());
    assert_eq!(names("fuzz_targets", ".rs"), expected);
    assert_eq!(names("corpus", ".tar.gz"), expected);
    let record = std::fs::read_to_string(folder().join("executions.tsv")).expect("a record");
    let recorded: BTreeSet<String> =
        record.lines().skip(1).filter_map(|line| Some(line.split('\t').next()?.to_owned())).collect();
    assert_eq!(recorded, expected);
    // And the chapter shows the record.
    let chapter = std::fs::read_to_string(folder().join("../../docs/robustness.md")).expect("the chapter");
    let counts = record.lines().skip(1).filter_map(|line| line.split_once('\t'));
    let counts: Vec<(&str, u64)> = counts.map(|(name, count)| (name, count.parse().expect("a count"))).collect();
    let comma = |count: u64| {
        let digits = count.to_string();
        let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
        groups.collect::<Vec<_>>().join(",")
    };
    for (name, count) in &counts {
        assert!(chapter.contains(&format!("| `{name}` | {} |", comma(*count))), "{name}: {count}");
    }
    assert!(chapter.contains(&comma(counts.iter().map(|(_, count)| count).sum())));
}

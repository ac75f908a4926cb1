//! The nine public data sets, where they are at hand: what is read of them does not change.

use std::path::PathBuf;

use cptr_trace::import::{Options, Recording, read};
use cptr_trace::statistics::{self, inspect};

fn set(name: &str) -> Recording {
    let folder = std::env::var_os("CPTR_TRACES").expect("CPTR_TRACES names the folder of the data sets");
    let path = PathBuf::from(folder).join(name);
    read(&path, &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
#[ignore = "needs the nine public data sets: CPTR_TRACES=FOLDER"]
fn traces_are_read_as_ever() {
    // Name, tokens, sequences, layers, experts, k, switch rate, the memoryless one.
    let sets = [
        ("gpt-oss-20b-decode", 18_768, 60, 24, 32, 4, 0.560, 0.813),
        ("qwen3-30b-a3b-domains", 24_000, 48, 48, 128, 8, 0.561, 0.803),
        ("deepseek-v2-lite-esft", 16_549, 160, 26, 64, 6, 0.724, 0.866),
        ("tiny-moe-8m", 17_280, 90, 4, 32, 4, 0.685, 0.855),
        ("switch-base-32-decode-logits", 135, 2, 6, 32, 1, 0.991, 0.857),
        ("sticky-moe-137m", 499_712, 488, 8, 16, 2, 0.594, 0.822),
    ];
    for (name, tokens, sequences, layers, experts, k, rate, memoryless) in sets {
        let Recording::Tokens(trace) = set(name) else { panic!("{name}: counts") };
        let start = std::time::Instant::now();
        let report = inspect(&trace, &statistics::Options { cache_sizes: vec![experts] });
        println!("{name}: {:?} {:?} {:?}\n{:#?}", report.evidence, report.notes, start.elapsed(), report.warnings);
        let found = (report.tokens, report.layers, report.experts, report.k);
        assert_eq!(found, (tokens, layers, experts, k), "{name}");
        assert_eq!(report.sequences, sequences, "{name}");
        let close = |found: f64, expected: f64| (found - expected).abs() < 0.0015;
        let found = (report.switching.switch_rate.unwrap_or(0.0), report.switching.switch_rate_memoryless);
        println!("{name}: {found:?}");
        assert!(close(found.0, rate), "{name}: {found:?}");
        assert!(name.contains("domains") || name.contains("esft") || close(found.1, memoryless), "{name}: {found:?}");
        assert!(trace.bound_promised(), "{name}: {:?}", trace.evidence);
    }
}

#[test]
#[ignore = "needs the nine public data sets: CPTR_TRACES=FOLDER"]
fn counts_are_read_as_ever() {
    let sets = [
        ("colibri-olmoe-usage", 1, 16, 64),
        ("mixtral-popularity-fiddler", 14, 32, 8),
        ("olmoe-mixtral-domain-counts", 0, 3, 64),
    ];
    for (name, tables, layers, experts) in sets {
        let Recording::Counts(counts) = set(name) else { panic!("{name}: a trace") };
        let first = &counts.tables[0];
        println!("{name}: {} tables, {} pairs, {:?}", counts.tables.len(), counts.pairs.len(), counts.notes);
        assert!(tables == 0 || counts.tables.len() == tables, "{name}: {}", counts.tables.len());
        assert!(first.counts.len() == layers, "{name}: {}", first.counts.len());
        assert!(experts == 64 && first.counts[0].len() <= 64 || first.counts[0].len() == experts, "{name}");
    }
}

//! `cptr drive`.

use crate::advise::data;
use crate::traces::{bundled, number};

/// What the system's cache gives: whether the file's own file system has direct reads is not for the command to say.
#[cfg(target_os = "linux")]
#[test]
fn reads_in_flight_give_a_drive_for_a_machine() {
    let folder = bundled();
    let weights = data("model");
    let line = format!("drive {weights} --cached --in-flight 4,1,2 --fit 1,4 --turns 3 --seconds 0.02");
    let page = folder.json(&format!("{line} --json"));
    let rows = page["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| number(&row["reads_in_flight"])).collect::<Vec<_>>(), [4.0, 1.0, 2.0]);
    assert_eq!(rows.iter().map(|row| row["fitted"].as_bool().unwrap()).collect::<Vec<_>>(), [true, true, false]);
    for row in rows {
        let [low, rate, high] = ["low_gb_s", "gb_s", "high_gb_s"].map(|key| number(&row[key]));
        assert!(0.0 < low && low <= rate && rate <= high, "{row}");
        let [from, here, to] = ["model_low_gb_s", "model_gb_s", "model_high_gb_s"].map(|key| number(&row[key]));
        assert!(0.0 < from && from <= here && here <= to, "{row}");
    }
    // The two that were fitted, by hand.
    let drive = &page["drive"];
    let (one, four) = (number(&rows[1]["gb_s"]), number(&rows[0]["gb_s"]));
    assert_eq!(number(&drive["gb_s"]), one.max(four));
    let latency = (131_072.0 / one - 131_072.0 / one.max(four)).max(0.0);
    assert!((number(&drive["latency_ns"]) - latency).abs() < 1e-6 * (1.0 + latency), "{drive}");
    assert!(drive["file"].as_str().unwrap().ends_with("model.safetensors"), "{drive}");
    // The machine that it names has the drive of the first line, read as deep as the bandwidth was taken from.
    let text = folder.run(&line).ok().stdout;
    let system = text.split("--system ").nth(1).unwrap_or_else(|| panic!("{text}")).split_whitespace().next().unwrap();
    let system = cptr_sim::machine::named(system).unwrap();
    let found = system.drive().unwrap();
    let fact = format!("{:.0} µs to the first byte of a read, {:.3} GB/s", found.latency_ns / 1e3, found.gb_s);
    assert!(text.lines().next().unwrap().ends_with(&fact), "{text} {found:?}");
    assert_eq!((found.reads_in_flight, found.read_kib), (4, 128.0));
}

#[test]
fn what_is_no_drive_is_refused() {
    let folder = bundled();
    folder.file("short", "12");
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    for (line, expected) in [
        ("drive", "<FILE|FOLDER>"),
        ("drive none", "none: "),
        ("drive empty", "expected a file of weights, found none in the folder"),
        ("drive short --in-flight 0,16", "0 is not in 1..=256"),
        ("drive short --in-flight 1,16,256 --read-kib 8192", "found 256 of 8192 KiB"),
        ("drive short --in-flight 1,2", "--fit: expected two of --in-flight, the lower one first, found 1,16"),
        ("drive short --fit 16,2", "found 16,2"),
        ("drive short --fit 2", "--fit: expected two numbers"),
        ("drive short --read-kib 129", "--read-kib: expected a multiple of 4, found 129"),
        ("drive short --seconds 0", "--seconds: expected 0.001 to 3600, found 0"),
        ("drive short --system ndp --seconds nan", "--seconds: expected"),
        ("drive short --system ndp", "--system: expected a machine with [store.drive], as laptop is, found ndp"),
        ("drive short --cached", "expected 131072 bytes at least, found 2"),
    ] {
        let found = folder.refusal(line);
        assert!(found.contains(expected), "cptr {line}: {found}");
    }
}

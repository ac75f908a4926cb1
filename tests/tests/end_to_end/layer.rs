//! `cptr layer`: one token in one layer of a machine.

use serde_json::Value;

use crate::command::Folder;
use crate::traces::number;

/// The published figure: 352.3 MB at 512 GB/s are 0.688 ms; the model says what comes on top.
#[test]
fn one_mixtral_expert_in_fp16() {
    let folder = Folder::new();
    let line = "layer --model mixtral-8x7b --system ndp --bits 16 --resident 0";
    let report = folder.row(line);
    let part = |name: &str| {
        let parts = report["cold_expert"].as_array().unwrap();
        number(&parts.iter().find(|part| part["name"] == name).unwrap()["us"])
    };
    assert_eq!(part("ideal"), 688.128);
    assert!((60.0..70.0).contains(&part("refresh")) && (0.0..1.0).contains(&part("rows")));
    let sum: f64 = report["cold_expert"].as_array().unwrap().iter().map(|part| number(&part["us"])).sum();
    let none = folder.row("layer --system ndp --bits 16 --resident 0 --cold 0");
    assert!((number(&report["total_us"]) - number(&none["total_us"]) - sum).abs() < 1e-6);
    assert!(number(&report["energy_uj"]) > number(&none["energy_uj"]));
    let text = folder.run(line).ok().stdout;
    for name in
        ["near-data device", "memory behind the link", "ideal", "688.128", "every tREFI", "device peak GB/s 512.00"]
    {
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn every_system_has_a_layer_and_a_picture() {
    let folder = Folder::new();
    for system in ["offload", "laptop", "ndp", "ndp-fixed", "ndp-lpddr5x", "monde", "m2ndp"] {
        let line =
            format!("layer --model olmoe --system {system} --resident 6 --cold 2 --loads 1 --scored 64 --tracked 64");
        let report = folder.row(&format!("{line} --timeline {system}.json --vcd {system}.vcd"));
        let busy = report["busy_us"].as_object().unwrap();
        assert!(busy.values().all(|time| number(time) <= number(&report["total_us"]) + 1e-6), "{system}: {busy:?}");
        let components = report["energy_by_component_uj"].as_object().unwrap().values().map(number).sum::<f64>();
        assert!((components - number(&report["energy_uj"])).abs() < 1e-6);
        let trace: Value = serde_json::from_slice(&folder.read(&format!("{system}.json"))).unwrap();
        let slices =
            trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X" && event["pid"] == 1);
        // One microsecond there is one nanosecond.
        let ends = slices.map(|slice| (number(&slice["ts"]) + number(&slice["dur"])) / 1e3);
        assert!((ends.fold(0.0, f64::max) - number(&report["total_us"])).abs() < 1e-6, "{system}");
        assert!(folder.read(&format!("{system}.vcd")).starts_with(b"$version"));
    }
}

/// The table of reads in flight in the chapter on the hardware is what the command says.
#[test]
fn a_drive_is_bound_by_its_latency_and_then_by_its_bandwidth() {
    let document = include_str!("../../../docs/hardware.md");
    let rows = document.lines().skip_while(|line| !line.starts_with("| reads of 128 KiB in flight |")).skip(2);
    let folder = Folder::new();
    let mut count = 0;
    for line in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<f64> = line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
        let [reads, gb_s, expert_us] = cells[..] else { panic!("{line}") };
        let system = format!("laptop:store.drive.reads_in_flight={reads}");
        let found = folder.row(&format!("layer --model qwen3-30b-a3b --system {system}"));
        let parts = found["cold_expert"].as_array().unwrap();
        let sum: f64 = parts.iter().map(|part| number(&part["us"])).sum();
        assert!((number(&found["rates"]["copies_gb_s"]) - gb_s).abs() < 0.006, "{line}: {found}");
        assert!((sum - expert_us).abs() < 0.06, "{line}: {sum}");
        count += 1;
    }
    assert!(count >= 4);
}

#[test]
fn wrong_layers_are_one_sentence() {
    let folder = Folder::new();
    for (arguments, expected) in [
        ("layer --model nonsense", "--model: expected one of "),
        ("layer --cold 65537", "65537"),
        ("layer --system ndp --bits 17", "--bits: expected 1 to 16, found 17"),
        ("layer --system nowhere", "expected a file ending in .toml, or one of"),
        ("layer --bits 2", "--bits: expected a system with a near-data device, found offload"),
        ("layer --system laptop:store.drive.reads_in_flight=0", "store.drive.reads_in_flight is 0"),
        ("layer --timeline no/such/folder.json", "no/such/folder.json"),
    ] {
        let output = folder.run(arguments);
        assert_eq!(output.code, 2, "{arguments}");
        assert!(
            output.stderr.contains(expected) && output.stderr.lines().count() == 1,
            "{arguments}: {}",
            output.stderr
        );
        assert!(output.stdout.is_empty());
    }
}

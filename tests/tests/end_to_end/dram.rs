//! `cptr dram`: figures of one memory channel.

use serde_json::{Value, json};

use crate::command::Folder;
use crate::traces::number;

const DEVICES: [&str; 11] = [
    "DDR4-3200",
    "DDR5-3200",
    "DDR5-4800",
    "DDR5-5600",
    "DDR5-6400",
    "LPDDR5-6400",
    "LPDDR5X-8533",
    "LPDDR6-10667",
    "HBM2-2000",
    "HBM3-6400",
    "HBM4-8000",
];
const MAPPINGS: [&str; 6] =
    ["robaracoch", "mop4clxor", "rochrababgco", "rochrabacobg", "row-contiguous", "bank-interleaved"];
const KEYS: [&str; 37] = [
    "device",
    "mapping",
    "stream",
    "refresh",
    "page",
    "queue",
    "path",
    "until",
    "requests",
    "bytes_per_request",
    "reads_served",
    "writes_served",
    "reads_forwarded",
    "writes_merged",
    "cycles",
    "time_us",
    "bandwidth_gb_s",
    "peak_gb_s",
    "share_of_peak",
    "mean_latency_clk",
    "p50_latency_clk",
    "p99_latency_clk",
    "max_latency_clk",
    "row_hits",
    "row_misses",
    "row_conflicts",
    "energy_uj",
    "activate_uj",
    "read_uj",
    "write_uj",
    "refresh_uj",
    "standby_uj",
    "pj_per_bit",
    "simulated_requests",
    "wall_time_s",
    "requests_per_s",
    "commands",
];
/// A device of one's own, as it comes with the program.
const DEVICE_FILE: &str = include_str!("../../../hw-model/data/devices/ddr5-4800.toml");

/// What must not depend on the path or on the computer.
fn figures(report: &Value) -> Value {
    let mut report = report.clone();
    for key in ["path", "simulated_requests", "wall_time_s", "requests_per_s"] {
        report.as_object_mut().unwrap().remove(key).unwrap();
    }
    report
}

#[test]
fn says_what_it_ran_and_what_came_out() {
    let folder = Folder::new();
    let report = folder.row("dram --requests 20000 --until served");
    let mut keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    let mut wanted = KEYS.to_vec();
    keys.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(keys, wanted);
    let at = |key: &str| number(&report[key]);
    assert_eq!(at("requests"), 20_000.0);
    assert_eq!(at("row_hits") + at("row_misses") + at("row_conflicts"), at("reads_served"));
    assert_eq!(number(&report["commands"]["rd"]), at("reads_served"));
    assert_eq!(number(&report["commands"]["refab"]), (at("cycles") / 9375.0).floor());
    let gb_s = at("reads_served") * 64.0 / at("time_us") / 1e3;
    assert!((gb_s - at("bandwidth_gb_s")).abs() < 1e-9 && (gb_s / at("peak_gb_s") - at("share_of_peak")).abs() < 1e-9);
    assert!(at("p50_latency_clk") <= at("p99_latency_clk") && at("p99_latency_clk") <= at("max_latency_clk"));
    assert!(at("wall_time_s") > 0.0 && at("requests_per_s") > 0.0);
    // The table has the same names.
    let table = folder.run("dram --requests 20000").ok().stdout;
    for name in [
        "bandwidth GB/s",
        "share of peak",
        "mean latency clk",
        "P99 latency clk",
        "row conflicts",
        "REFab",
        "requests per s",
    ] {
        assert!(table.contains(&format!("| {name} ")), "{name}: {table}");
    }
}

#[test]
fn every_device_mapping_and_refresh_runs_alike_on_both_paths() {
    let folder = Folder::new();
    for device in DEVICES {
        for (index, mapping) in MAPPINGS.into_iter().enumerate() {
            let stream = ["seq", "expert", "rand"][index % 3];
            let none_bank_wise = ["DDR4-3200", "LPDDR6-10667"].contains(&device);
            let refresh = if none_bank_wise { "ab" } else { ["none", "ab", "sb"][(index + index / 3) % 3] };
            let line = format!(
                "dram --device {device} --mapping {mapping} --stream {stream} --refresh {refresh} --requests 9001"
            );
            let exact = folder.row(&line);
            assert!(number(&exact["share_of_peak"]) <= 1.0001 && number(&exact["cycles"]) > 0.0, "{line}");
            assert_eq!(figures(&folder.row(&format!("{line} --path fast"))), figures(&exact), "{line}");
        }
    }
}

#[test]
fn the_fast_path_jumps_and_agrees_on_a_long_stream() {
    let folder = Folder::new();
    let line = "dram --device DDR4-3200 --stream seq --requests 2000000 --until served";
    let (exact, fast) = (folder.row(line), folder.row(&format!("{line} --path fast")));
    assert_eq!(figures(&exact), figures(&fast));
    assert!(number(&fast["simulated_requests"]) < 0.5 * number(&exact["simulated_requests"]));
}

/// Rows of the table that Ramulator 2.1 gave, a million requests each.
#[test]
fn rows_of_the_reference() {
    let folder = Folder::new();
    for (device, mapping, stream, refresh, cycles, hits, misses, conflicts) in [
        ("DDR4-3200", "mop4clxor", "expert", "ab", 4_220_030, 746_095, 5_019, 248_854),
        ("DDR5-4800", "robaracoch", "rand", "none", 11_997_338, 188, 32, 999_761),
        ("DDR5-4800", "mop4clxor", "seq", "ab", 8_739_100, 948_836, 29_560, 21_572),
        ("LPDDR5-6400", "mop4clxor", "expert", "ab", 2_154_038, 867_095, 9_870, 123_006),
    ] {
        let line = format!("dram --device {device} --mapping {mapping} --stream {stream} --refresh {refresh}");
        let report = folder.row(&line);
        let counts = ["cycles", "row_hits", "row_misses", "row_conflicts"].map(|key| report[key].as_u64().unwrap());
        assert_eq!(counts, [cycles, hits, misses, conflicts], "{line}");
    }
}

#[test]
fn a_file_of_requests_is_the_stream_that_it_lists() {
    let folder = Folder::new();
    let lines = 0u64..3000;
    folder.file("hex.txt", lines.clone().map(|line| format!("{:x}\n", 64 * line)).collect::<String>());
    folder.file("ramulator.ld", lines.clone().map(|line| format!("LD {:#x}\n", 64 * line)).collect::<String>());
    folder.file("dramsim.d3", lines.clone().map(|line| format!("{:#x} READ 0\r\n", 64 * line)).collect::<String>());
    folder.file("decimal.txt", lines.map(|line| format!("{} R # {line}\n\n", 64 * line)).collect::<String>());
    let mut wanted = figures(&folder.row("dram --stream seq --requests 3000"));
    for name in ["hex.txt", "ramulator.ld", "dramsim.d3", "decimal.txt"] {
        wanted["stream"] = name.into();
        for path in ["exact", "fast"] {
            assert_eq!(figures(&folder.row(&format!("dram --stream {name} --path {path}"))), wanted, "{name}");
        }
    }
    assert_eq!(folder.row("dram --stream hex.txt --requests 10")["requests"], 10);
    folder.file("mixed.txt", "0 W\n64 W\n64 R\n128 R\n0x1000 R 5000\n");
    let mixed = folder.row("dram --stream mixed.txt --until served");
    let counts = ["writes_served", "reads_served", "reads_forwarded"].map(|key| mixed[key].as_u64().unwrap());
    assert_eq!(counts, [2, 2, 1]);
    assert!(number(&mixed["cycles"]) > 5000.0);
}

#[test]
fn a_device_of_ones_own() {
    let folder = Folder::new();
    folder.file("device.toml", DEVICE_FILE);
    let line = "dram --requests 5000 --refresh sb";
    assert_eq!(figures(&folder.row(&format!("{line} --device device.toml"))), figures(&folder.row(line)));
    folder.file("slow.toml", DEVICE_FILE.replace("t_ck_ps = 416", "t_ck_ps = 832"));
    let [fast, slow] = ["device.toml", "slow.toml"].map(|name| folder.row(&format!("{line} --device {name}")));
    assert_eq!(fast["cycles"], slow["cycles"]);
    assert!((number(&fast["bandwidth_gb_s"]) / number(&slow["bandwidth_gb_s"]) - 2.0).abs() < 1e-9);
    // Too small for the generated streams, large enough for a file.
    let small = DEVICE_FILE.replace("rows = 65536", "rows = 16").replace("8589934592", "2097152");
    folder.file("small.toml", small);
    assert!(folder.refusal("dram --device small.toml").contains("give a file of addresses"));
    folder.file("few.txt", "0\n0x1fffc0\n");
    assert_eq!(folder.row("dram --device small.toml --stream few.txt --until served")["reads_served"], 2);
    folder.file("past.txt", "0\n0x200000\n");
    let sentence = folder.refusal("dram --device small.toml --stream past.txt");
    assert_eq!(sentence, "past.txt: line 2: address 0x200000 lies outside the memory of 0x200000 bytes");
    // Traces of other tools have addresses of bytes, beyond one channel.
    folder.file("bytes.txt", "W 140736775976056\nR 140189629292038\n");
    assert!(folder.refusal("dram --stream bytes.txt").contains("is not a multiple of the 64 bytes"));
    folder.file(
        "lines.txt",
        format!("W {}\nR {}\n", (140736775976056_u64 % (1 << 33)) & !63, (140189629292038_u64 % (1 << 33)) & !63),
    );
    let wrapped = |file: &str| {
        let mut figures = figures(&folder.row(&format!("dram --stream {file}.txt --wrap --until served")));
        figures.as_object_mut().unwrap().remove("stream");
        figures
    };
    assert_eq!(wrapped("bytes"), wrapped("lines"));
}

/// The documentation's own example of a device: a speed, a number of ranks and a capacity that are not built in.
#[test]
fn a_device_on_top_of_a_built_in_one() {
    const DOCUMENT: &str = include_str!("../../../docs/dram.md");
    let example = DOCUMENT.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = Folder::new();
    folder.file("device.toml", example);
    for refresh in ["ab", "sb"] {
        let report = folder.row(&format!("dram --device device.toml --refresh {refresh} --requests 20000"));
        let share = number(&report["share_of_peak"]);
        assert!(share > 0.7 && share < 1.0, "{share}");
        assert!((number(&report["peak_gb_s"]) - 64.0 / (8.0 * 0.384)).abs() < 0.01);
    }
    let rows = folder.json("dram --device device.toml --constraints --json");
    let rows = rows["rows"].as_array().unwrap();
    let find = |level: &str, first: &str, then: &str| {
        rows.iter().find(|row| row["level"] == level && row["first"] == first && row["then"] == then).unwrap()
    };
    assert_eq!(find("bank", "ACT", "ACT")["cycles"], 122);
    assert_eq!(find("other rank", "RD, RDA", "RD, RDA")["formula"], "nBL + nCS");
    assert_eq!(find("rank", "4 ACT", "ACT")["cycles"], 53);
    let table = folder.run("dram --device device.toml --constraints").ok().stdout;
    assert!(table.contains("three ranks of 24 Gb") && table.contains("tREFSBRD"), "{table}");
}

/// A distance of the table that a file gives itself.
#[test]
fn a_device_with_a_distance_of_its_own() {
    let folder = Folder::new();
    let device = |distances: &str| format!("base = \"DDR4-3200\"\n[distances]\n{distances}\n");
    folder.file("slow.toml", device("act_rd = 40"));
    let rows = folder.json("dram --device slow.toml --constraints --json");
    let row = rows["rows"].as_array().unwrap().iter().find(|row| row["name"] == "act_rd").unwrap();
    assert_eq!((&row["cycles"], &row["formula"]), (&json!(40), &json!("given")));
    // Each read opens a row, and then waits for 40 clocks instead of 22.
    let reads: String = (0u64..20).map(|read| format!("R {} {}\n", read << 20, 1000 * read)).collect();
    folder.file("reads.txt", reads);
    let latency = |device: &str| {
        let row = folder.row(&format!("dram --device {device} --stream reads.txt --refresh none --until served"));
        number(&row["mean_latency_clk"])
    };
    assert!((latency("slow.toml") - latency("DDR4-3200") - 18.0).abs() < 1e-9);
    folder.file("unknown.toml", device("act_act_act = 3"));
    let refused = folder.refusal("dram --device unknown.toml");
    assert!(refused.contains("act_act_act") && refused.contains("--constraints"), "{refused}");
}

/// The documentation's device with refresh management: random reads ask for it as often as the model in Rust says, on
/// both paths, and it costs energy and time.
#[test]
fn a_device_with_refresh_management() {
    const DOCUMENT: &str = include_str!("../../../docs/dram.md");
    let section = DOCUMENT.split("## Refresh management\n").nth(1).unwrap();
    let example = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = Folder::new();
    // Every eighth activate of a bank, so that a short run has some.
    folder.file(
        "managed.toml",
        example.replace("raaimt = 32", "raaimt = 8").replace("_decrement = 16", "_decrement = 4"),
    );
    let of = |device: &str, path: &str| {
        let line = format!("dram --device {device} --stream rand --refresh none --requests 4000 --path {path}");
        folder.row(&line)
    };
    let (managed, plain) = (of("managed.toml", "exact"), of("DDR5-4800", "exact"));
    let count = |row: &Value| number(&row["commands"]["rfmab"]);
    assert_eq!(figures(&managed)["commands"], figures(&of("managed.toml", "fast"))["commands"]);
    assert!(count(&managed) >= 10.0 && count(&plain) == 0.0, "{}", count(&managed));
    assert!(number(&managed["cycles"]) >= number(&plain["cycles"]) + count(&managed) * 700.0);
    assert!(number(&managed["refresh_uj"]) > 0.0 && number(&plain["refresh_uj"]) == 0.0);
    let table = folder.run("dram --device managed.toml --constraints").ok().stdout;
    assert!(table.contains("RFMab") && table.contains("tRFMab"), "{table}");
}

#[test]
fn streams_in_other_forms() {
    let folder = Folder::new();
    let lines = 0u64..2000;
    let wanted = figures(&folder.row("dram --stream seq --requests 2000"));
    let words: Vec<u8> =
        [0].into_iter().chain(lines.clone().map(|line| 64 * line)).flat_map(u64::to_le_bytes).collect();
    folder.file("trace.bin", [&b"cptr-req"[..], &words].concat());
    folder.file(
        "trace.csv",
        format!("op,address\n{}", lines.clone().map(|line| format!("R,{}\n", 64 * line)).collect::<String>()),
    );
    folder.file("gem5.csv", format!("r,0,{},0\n", 64 * 2000));
    for name in ["trace.bin", "trace.csv", "gem5.csv"] {
        let mut found = figures(&folder.row(&format!("dram --stream {name}")));
        found["stream"] = wanted["stream"].clone();
        assert_eq!(found, wanted, "{name}");
    }
    folder.file("kind.bin", [&b"cptr-req"[..], &7u64.to_le_bytes()].concat());
    assert!(folder.refusal("dram --stream kind.bin").starts_with("kind.bin: expected a binary trace of kind 0 or 1"));
}

#[test]
fn timelines_are_written_whole() {
    let folder = Folder::new();
    let line = "dram --requests 30000 --timeline trace.json --vcd waves.vcd --timeline-cycles 20000";
    let drawn = folder.row(line);
    assert_eq!(figures(&drawn), figures(&folder.row("dram --requests 30000")));
    let trace: Value = serde_json::from_slice(&folder.read("trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!(named("thread_name"), 34);
    assert_eq!(named("REFab"), 2);
    assert!(named("RD") > 1000 && events.iter().all(|event| event["ts"].as_u64().is_none_or(|ts| ts < 20_100)));
    let waves = String::from_utf8(folder.read("waves.vcd")).unwrap();
    assert!(
        waves.contains("$timescale 1 ps $end") && waves.contains("$enddefinitions $end") && waves.contains("sREFab !")
    );
    for arguments in ["--timeline no/such/trace.json", "--vcd no/such/waves.vcd"] {
        assert!(folder.refusal(&format!("dram --requests 10 {arguments}")).starts_with("no/such/"));
    }
    // Nothing is written for a stream that turns out to be bad.
    folder.file("bad.txt", "0\n64\n65\n");
    folder.refusal("dram --stream bad.txt --timeline other.json --vcd other.vcd");
}

#[test]
fn wrong_input_is_one_sentence() {
    let folder = Folder::new();
    folder.file("unaligned.txt", "0x0 R\n0x40 R\n0x41 R\n");
    folder.file("outside.txt", "# start\n0x200000000 R\n");
    folder.file("words.txt", "0x0 R\nhello\n");
    folder.file("binary.bin", vec![0xff_u8; 1000]);
    folder.file("zeros.bin", vec![0_u8; 1 << 20]);
    folder.file("empty.txt", "");
    folder.file("remarks.txt", "# nothing\n\n");
    folder.file("write.txt", "0 R\n64 W\n");
    folder.file("unknown.toml", DEVICE_FILE.replace("n_cl = 34", "n_cl = 34\nn_clx = 1"));
    folder.file("short.toml", DEVICE_FILE.replace("n_rrd_l = 12", "n_rrd_l = 7"));
    folder.file("capacity.toml", DEVICE_FILE.replace("rows = 65536", "rows = 32768"));
    folder.file("zero.toml", DEVICE_FILE.replace("groups = 8", "groups = 0"));
    folder.file("huge.toml", DEVICE_FILE.replace("n_wr = 72", "n_wr = 4294967295"));
    folder.file("never.toml", DEVICE_FILE.replace("n_ref_to_act = 73", "n_ref_to_act = 1172"));
    folder.file("missing.toml", "name = \"x\"\n");
    for (arguments, expected) in [
        (
            "--stream unaligned.txt",
            "unaligned.txt: line 3: address 0x41 is not a multiple of the 64 bytes of one access",
        ),
        ("--stream unaligned.txt --path fast", "unaligned.txt: line 3: "),
        ("--stream outside.txt", "outside.txt: line 2: address 0x200000000 lies outside the memory"),
        ("--stream words.txt", "words.txt: line 2: expected an address and R or W"),
        ("--stream binary.bin", "binary.bin: line 1: expected"),
        ("--stream zeros.bin", "zeros.bin: line 1: expected at most 256 bytes"),
        ("--stream empty.txt", "empty.txt: expected at least one request, found none"),
        ("--stream remarks.txt --path fast", "remarks.txt: expected at least one request, found none"),
        ("--stream write.txt --path fast", "write.txt: request 2: expected reads"),
        ("--stream none.txt", "--stream: expected one of seq, rand, expert, or a file, found \"none.txt\""),
        ("--stream .", ".: "),
        ("--device DDR3-1600", "--device: expected one of DDR4-3200"),
        ("--device unknown.toml", "unknown field `n_clx`"),
        ("--device short.toml", "short.toml: timing.n_rrd_l is 7, but it must be at least timing.n_rrd_s, which is 8"),
        (
            "--device capacity.toml",
            "organisation.capacity_bytes is 8589934592, but it must be the product of the levels, 4294967296",
        ),
        ("--device never.toml --refresh sb", "bank_refresh.n_refi is 1171, but it must leave time to open a row"),
        ("--device zero.toml", "organisation.groups is 0, but it must be a power of two"),
        ("--device huge.toml", "timing.n_wr is 4294967295, but it must be at most 1048576"),
        ("--device missing.toml", "missing field"),
        ("--device binary.bin", "binary.bin: "),
        ("--device DDR4-3200 --refresh sb", "needs a device with bank-wise refresh"),
        ("--refresh all", "expected one of none, ab, sb"),
        ("--mapping nonsense", "expected one of robaracoch, mop4clxor"),
        ("--page ajar", "expected one of open, closed"),
        ("--queue 0", "--queue"),
        ("--queue 5000", "--queue"),
        ("--requests 0", "--requests"),
        ("--requests -1", "-1"),
        ("--path slow", "slow"),
        ("--until never", "expected one of accepted, served"),
        ("--path fast --vcd waves.vcd", "--timeline and --vcd: expected --path exact"),
        ("--timeline-cycles 0", "--timeline-cycles"),
    ] {
        let sentence = folder.refusal(&format!("dram {arguments}"));
        assert!(sentence.contains(expected), "cptr dram {arguments}: {sentence}");
    }
}

#[test]
fn the_list_names_everything() {
    let folder = Folder::new();
    let (text, help) = (folder.run("dram --list").ok().stdout, folder.run("dram --help").ok().stdout);
    for name in DEVICES.iter().chain(&MAPPINGS).chain(&["seq", "rand", "expert"]) {
        assert!(text.contains(name) && help.contains(name), "{name}");
    }
    let list = folder.json("dram --list --json");
    let names: Vec<_> =
        list["rows"].as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!(names, DEVICES);
    assert_eq!(list["mappings"].as_array().unwrap().len(), MAPPINGS.len());
}

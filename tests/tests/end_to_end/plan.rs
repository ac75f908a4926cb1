//! `cptr plan`.

use cptr_hw_model::{ExpertRun, LayerTimes, Model, System};
use cptr_sim::plan::band::{Band, HOST_ARITHMETIC, HOST_SHARE, Spread};
use serde_json::Value;

use crate::command::Folder;
use crate::traces::{bundled, number};

const DOCUMENT: &str = include_str!("../../../docs/plan.md");

/// Runs every block of a chapter that begins with a command, and compares what it prints; how many there are. A block
/// of TOML that begins with `# NAME.toml` is that file.
#[track_caller]
pub(crate) fn compare_blocks(document: &str) -> usize {
    let folder = bundled();
    for text in document.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("toml\n# ")) {
        if let Some((name, text)) = text.split_once('\n').filter(|(name, _)| name.ends_with(".toml")) {
            folder.file(name, text);
        }
    }
    let block = |text: &str| {
        let (command, output) = text.strip_prefix("console\n")?.split_once('\n')?;
        Some((command.strip_prefix("$ cptr ")?.to_string(), output.to_string()))
    };
    let blocks: Vec<_> = document.split("```").skip(1).step_by(2).filter_map(block).collect();
    for (command, expected) in &blocks {
        assert_eq!(&folder.run(command).ok().stdout, expected, "cptr {command}");
    }
    blocks.len()
}

#[test]
fn what_the_chapter_shows_is_what_is_printed() {
    assert!(compare_blocks(DOCUMENT) >= 4);
}

/// Cells of a table, row by row, below its heading.
#[track_caller]
pub(crate) fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, rows) = document.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no table {heading}"));
    let rows = rows.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// Kernels of a host by what it reads and its arithmetic, taken from kernels that were measured, and a host's band.
#[test]
fn kernels_of_a_host_are_a_roofline() {
    const READ: f64 = 23.5;
    let heading = "| from memory | GiB/s | from, to | of reading (23.5) | from, to | met | before |";
    let measured = table(include_str!("../../../docs/low-bit.md"), heading);
    let at = |name: &str| {
        let row = measured.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}"));
        row[1].parse::<f64>().unwrap()
    };
    // Scales and zero points of a group are 3 bytes.
    let bits = |name: &str| {
        let number = |part: &str| part.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        let (bits, group) = name.split_once(" bit").unwrap();
        let (bits, group) = (bits.parse::<f64>().unwrap(), number(group));
        if bits > 1.0 { bits + 24.0 / group } else { bits + 16.0 / group }
    };
    let model = Model::new("kernel", 2048, 32_768);
    let gib = f64::from(1 << 30) / 1e9;
    // 3 bits are put together from two planes, and have an arithmetic of their own.
    let weights_per_ns = |name: &str| {
        let of = if name.starts_with('3') { "3 bits, groups of 64" } else { "1 bit, groups of 64" };
        at(of) * gib * 8.0 / bits(of)
    };
    let rate = |share: f64, arithmetic: f64, name: &str| {
        let change = |parts: &mut cptr_hw_model::Parts| {
            let host = parts.host.as_mut().expect("a host");
            (host.memory_gb_s, host.memory_share) = (READ * gib, share);
            host.tflop_s = 2.0 * weights_per_ns(name) * arithmetic / 1e3;
        };
        let host = System::find("workstation").unwrap().changed(change).unwrap();
        let time_ps = LayerTimes::new(&host, &model).near_run_ps(ExpertRun::at(bits(name)));
        model.expert_bytes(bits(name)) / time_ps * 1e3 / gib
    };
    let share = at("4 bits, groups of 64") / READ;
    let rows = table(DOCUMENT, "| kernel | measured | here | off by | from | to |");
    assert_eq!(rows.len(), measured.len() - 3, "all but those that three numbers are taken from");
    let (mut far, all) = (Vec::new(), rows.len());
    let mut held = 0;
    for row in rows {
        let name = row[0];
        let (found, here) = (at(name), rate(share, 1.0, name));
        let mut spread = Spread::default();
        for (share, arithmetic) in
            [(HOST_SHARE.0, 1.0), (HOST_SHARE.1, 1.0), (share, HOST_ARITHMETIC.0), (share, HOST_ARITHMETIC.1)]
        {
            spread.add(here / rate(share, arithmetic, name));
        }
        let Band { low, high } = spread.band();
        let off = here / found - 1.0;
        let cells = [format!("{found:.1}"), format!("{here:.1}"), format!("{:+.0} %", 100.0 * off)];
        let cells = cells.into_iter().chain([here * low, here * high].map(|end| format!("{end:.1}")));
        assert_eq!(row[1..], cells.collect::<Vec<_>>(), "{name}");
        far.extend((off.abs() >= 0.15).then_some(name));
        held += usize::from((here * low..=here * high).contains(&found));
    }
    assert_eq!((far, held), (vec!["2 bits, groups of 32"], all));
}

/// Three of four of the rates that the bands were not chosen on are inside, and there are eight at least.
#[test]
fn published_rates_are_held_by_their_bands() {
    let rows = Folder::new().rows("plan --published");
    let others: Vec<&Value> = rows.iter().filter(|row| row["chosen"] == false && row["own"] == false).collect();
    let held = others.iter().filter(|row| row["holds"] == true).count();
    assert!(others.len() >= 8 && held * 4 >= others.len() * 3, "{held} of {}", others.len());
    for row in &rows {
        let inside = number(&row["low_tokens_per_s"]) <= number(&row["published_tokens_per_s"])
            && number(&row["published_tokens_per_s"]) <= number(&row["high_tokens_per_s"]);
        assert_eq!(row["holds"], inside, "{row}");
    }
}

#[test]
fn a_config_and_a_trace_of_ones_own() {
    let folder = bundled();
    let config = r#"{"model_type": "gpt_oss", "hidden_size": 2880, "head_dim": 64, "intermediate_size": 2880,
        "num_attention_heads": 64, "num_key_value_heads": 8, "num_local_experts": 32, "num_experts_per_tok": 4,
        "num_hidden_layers": 24, "vocab_size": 201088}"#;
    folder.file("mine/config.json", config);
    let rows = |line: &str| folder.rows(&format!("plan {line} --system workstation --gpu-memory 8"));
    let (known, read) = (rows("gpt-oss-20b --context 100"), rows("mine/config.json --context 100"));
    // Windows are all that the file leaves out, and 100 tokens are within one.
    assert_eq!(known, read);
    let own = rows("gpt-oss-20b --context 100 --trace gpt-oss-20b.safetensors");
    let width = |row: &Value| number(&row["high_tokens_per_s"]) / number(&row["low_tokens_per_s"]);
    let copied = |rows: &[Value]| rows.iter().find(|row| row["place"] == "copied").unwrap().clone();
    assert!((number(&copied(&own)["miss_rate"]) - number(&copied(&known)["miss_rate"])).abs() < 0.001);
    assert!(width(&copied(&own)) < width(&copied(&known)));
    let page = folder.json("plan gpt-oss-20b --json");
    assert!(page["model"] == "gpt-oss-20b" && page["verdict"].as_array().unwrap().len() > 3);
    folder.run("plan gpt-oss-20b --system ndp --map --bits 2,4 --plot map.svg --report map.html").ok();
    let (plot, report) = (folder.read("map.svg"), folder.read("map.html"));
    assert!(String::from_utf8(plot).unwrap().matches("<rect").count() >= 80);
    assert_eq!(String::from_utf8(report).unwrap().matches("<figure>").count(), 2);
}

/// Over several devices: what is sent, in bytes and hops, and the two ways to split.
#[test]
fn several_devices_send_sums_or_tokens() {
    let rows = Folder::new().rows("plan qwen3-30b-a3b --system offload --devices 4");
    let of = |split: &str| rows.iter().find(|row| row["split"] == split).unwrap();
    // 96 sums of 4 KiB to three others in a hop each, and the head's candidates.
    let tensor = of("tensor");
    assert_eq!((number(&tensor["reduced_bytes"]), number(&tensor["hops"])), (96.0 * 3.0 * 4096.0, 97.0));
    let expert = of("expert");
    assert!(number(&expert["sent_bytes"]) < number(&tensor["sent_bytes"]) && number(&expert["imbalance"]) > 1.2);
    for row in &rows {
        let [low, found, high] = ["low_tokens_per_s", "tokens_per_s", "high_tokens_per_s"].map(|key| number(&row[key]));
        assert!(low < found && found < high, "{row}");
    }
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let folder = bundled();
    folder.file("dense/config.json", r#"{"hidden_size": 2048, "num_hidden_layers": 4}"#);
    folder.file("cut/config.json", "{");
    folder.file("bad.toml", "name = \"bad\"");
    for (line, expected) in [
        ("plan", "the following required arguments were not provided: <MODEL|config.json>"),
        ("plan my-model", "MODEL: expected a config.json, or one of Mixtral-8x22B"),
        ("plan dense/config.json", "dense/config.json: no routed experts"),
        ("plan cut/config.json", "cut/config.json: no JSON"),
        ("plan none/config.json", "none/config.json: "),
        ("plan olmoe --bits 0", "gpu_bits is 0, but it must lie between 1 and 32"),
        ("plan olmoe --bits 4 --dense-bits 99", "dense_bits is 99"),
        ("plan olmoe --gpu-memory=-1", "gpu.memory_gb is -1"),
        ("plan olmoe --system moon", "expected a file ending in .toml, or one of"),
        ("plan olmoe --system bad.toml", "missing field"),
        ("plan olmoe --map", "--map: expected one --system"),
        ("plan olmoe --map --system offload", "--map: expected a system with a near-data device, found offload"),
        ("plan olmoe --plot map.svg", "--map"),
        (
            "plan olmoe --trace gpt-oss-20b.safetensors",
            "expected 8 of 64 experts a token, as OLMoE-1B-7B has them, found 4 of 32",
        ),
        ("plan olmoe --devices 2", "--devices: expected one --system"),
        ("plan olmoe --devices 2 --system laptop", "--devices: expected a system with a switch, found laptop"),
        ("plan olmoe --devices 0 --system offload", "--devices: expected 1 to 64, found 0"),
        ("plan olmoe --sequences 4", "--devices"),
        ("plan --published olmoe", "cannot be used with"),
    ] {
        let found = folder.refusal(line);
        assert!(found.contains(expected), "cptr {line}: {found}");
    }
    assert!(!folder.path().join("map.svg").exists());
}

//! What can be said beside the trace, rightly and wrongly, and where results go.

use std::process::Stdio;

use crate::command::Folder;
use crate::files::npy;
use crate::samples;
use crate::traces::{bundled, number};

const TINY: &str = "tiny-moe-8m.safetensors";

/// Sizes of gpt-oss-20b, of few tokens.
const GPT_OSS: &str = "gpt-oss-20b.safetensors --domain-tokens 200";

#[test]
fn domains_and_beginnings_of_domains() {
    let folder = bundled();
    let whole = folder.row(&format!("inspect {TINY}"));
    let domains = whole["switch_rate_by_domain"].as_array().unwrap();
    assert_eq!(domains.len(), 9);
    for domain in domains.iter().filter(|domain| ["rust", "kjv"].contains(&domain["domain"].as_str().unwrap())) {
        let name = domain["domain"].as_str().unwrap();
        let alone = folder.row(&format!("inspect {TINY} --domain {name}"));
        assert_eq!((&alone["tokens"], &alone["switch_rate"]), (&domain["tokens"], &domain["switch_rate"]), "{name}");
    }
    let two = folder.row(&format!("inspect {TINY} --domain rust,kjv --domain-tokens 400"));
    // Windows of 192 tokens: two of each domain fit.
    assert_eq!((two["tokens"].as_u64(), two["sequences"].as_u64()), (Some(768), Some(4)));
    folder.run(&format!("convert {TINY} part.safetensors --domain rust,kjv --domain-tokens 400")).ok();
    assert_eq!(folder.row("inspect part.safetensors")["switch_rate"], two["switch_rate"]);
}

#[test]
fn memory_and_strategies() {
    let folder = bundled();
    let all = folder.row(&format!("run {TINY} --strategy raw --resident 32"));
    // With room for every expert each is loaded once.
    assert!(number(&all["loads_per_token"]) * 6912.0 <= 4.0 * 32.0 + 1e-6);
    assert!(number(&folder.row(&format!("run {TINY} --strategy raw --resident 1"))["miss_rate"]) > 0.7);
    let rows = folder
        .rows(&format!("run {TINY} --domain rust --strategy bounded:keep=2:eps=0.02+lfu,bounded:keep=2:eps=0.02"));
    let names: Vec<_> =
        rows.iter().map(|row| ["strategy", "select", "residency"].map(|key| row[key].as_str().unwrap())).collect();
    let select = "bounded:eps=0.02:keep=2";
    assert_eq!(names, [["bounded:keep=2:eps=0.02+lfu", select, "lfu"], ["bounded:keep=2:eps=0.02", select, "tracked"]]);
    // Ratios refer to the raw router with lru, whether it is asked for or not.
    let with_raw = folder.rows(&format!("run {TINY} --domain rust --hidden 256 --expert-inner 512 --strategy raw,lfu"));
    let without = folder.rows(&format!("run {TINY} --domain rust --hidden 256 --expert-inner 512 --strategy lfu"));
    assert_eq!((with_raw.len(), &with_raw[1..]), (2, &without[..]));
    let report = folder.row(&format!("inspect {TINY} --domain rust --cache 8,16"));
    let sizes: Vec<_> =
        report["cache"].as_array().unwrap().iter().map(|point| point["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [8, 16]);
    // The curve of `inspect` and the rows of `run` are of the same caches.
    let names = ["lru", "lfu", "belady"];
    let rows = folder.rows(&format!("run {TINY} --domain rust --strategy {} --resident 8", names.join(",")));
    for (row, name) in rows.iter().zip(names) {
        assert!((1.0 - number(&row["miss_rate"]) - number(&report["cache"][0][name])).abs() < 1e-12, "{name}");
    }
}

/// A vector that adds nothing is the raw router, a mask runs nothing that is masked, and the file must be the trace's.
#[test]
fn biases_out_of_a_file() {
    let folder = bundled();
    let head = "layer,expert,bias\n";
    let mask: String = (0..4).flat_map(|layer| (0..8).map(move |expert| format!("{layer},{expert},-inf\n"))).collect();
    folder.file("none.csv", format!("{head}3,31,0\n"));
    folder.file("mask.csv", format!("{head}{mask}"));
    folder.file("zeros.npy", npy(&[4, 32], &[0.0f32; 128]));
    let run = format!("run {TINY} --domain rust --strategy");
    let rows = folder.rows(&format!("{run} raw,bias:file=none.csv,bias:file=zeros.npy,bias:file=mask.csv"));
    for same in &rows[1..3] {
        assert_eq!((&same["stall_rate"], &same["mass_loss"]), (&rows[0]["stall_rate"], &0.0.into()));
    }
    assert_eq!(rows[3]["strategy"], "bias:file=mask.csv");
    assert!(number(&rows[3]["mass_loss"]) > 0.05 && number(&rows[3]["agreement"]) < 0.95, "{:?}", rows[3]);
    // Of 24 experts 16 fit a memory that is half of all: fewer stalls.
    assert!(number(&rows[3]["stall_rate"]) < number(&rows[0]["stall_rate"]));
    for (name, contents, expected) in [
        ("ids.csv", format!("{head}4,0,1\n"), "ids.csv: expected layers below 4 and experts below 32, found layer 4"),
        ("nan.csv", format!("{head}0,0,NaN\n"), "nan.csv: layer 0, expert 0: expected a bias, found NaN"),
        ("twice.csv", format!("{head}0,0,1\n0,0,1\n"), "twice.csv: layer 0, expert 0: expected one line, found two"),
    ] {
        folder.file(name, contents);
        let found = folder.refusal(&format!("{run} raw,bias:file={name}"));
        assert!(found.contains(expected), "{found}");
    }
    folder.file("other.npy", npy(&[4, 16], &[0.0f32; 64]));
    let found = folder.refusal(&format!("{run} bias:file=other.npy"));
    assert!(found.contains("other.npy: expected biases for 4 layers of 32 experts, found 4 of 16"), "{found}");
    assert!(folder.refusal(&format!("{run} bias:file=absent.csv")).contains("absent.csv: "));
    assert!(folder.refusal(&format!("{run} bias:file=")).contains("expected file as the name of a file, or none"));
}

#[test]
fn systems_bits_and_sizes() {
    let folder = bundled();
    let at =
        |strategy: &str, bits: &str| folder.row(&format!("run {GPT_OSS} --strategy {strategy} --system ndp {bits}"));
    let [two, four] = ["lru+in-place+uniform:bits=2", "lru+in-place+uniform:bits=4"].map(|strategy| at(strategy, ""));
    // First accesses and the last chunk do not grow with the bits.
    assert!((1.9..2.0).contains(&(number(&four["ndp_us"]) / number(&two["ndp_us"]))));
    assert_eq!((&four["link_us"], &four["miss_rate"]), (&two["link_us"], &two["miss_rate"]));
    // --bits is for strategies that do not say.
    let asked = at("near-only", "--bits 2");
    assert_eq!((&asked["strategy"], &asked["mean_near_bits"]), (&"near-only+uniform:bits=2".into(), &2.0.into()));
    assert_eq!(at("near-only:bits=2", "--bits 3")["mean_near_bits"], 2.0);
    let offload = folder.row(&format!("run {GPT_OSS} --strategy raw --system offload"));
    assert_eq!((number(&offload["ndp_us"]), &offload["miss_rate"]), (0.0, &two["miss_rate"]));
    // The same system from a file, with a slower link.
    let file = include_str!("../../../hw-model/data/systems/offload.toml");
    std::fs::write(folder.path().join("mine.toml"), file.replace("lanes = 16", "lanes = 8")).unwrap();
    let mine = folder.row(&format!("run {GPT_OSS} --strategy raw --system mine.toml"));
    assert!((1.99..2.0).contains(&(number(&mine["link_us"]) / number(&offload["link_us"]))));
    // Copies of twice the weights take twice as long, but for the launch of 1 us for each layer that misses.
    let sized = |inner: u32| {
        folder.row(&format!("run {TINY} --strategy raw --domain rust --hidden 4096 --expert-inner {inner}"))
    };
    let [once, twice] = [8192, 16384].map(|inner| number(&sized(inner)["link_us"]));
    assert!((1.999..=2.0).contains(&(twice / once)), "{}", twice / once);
}

/// The controller costs what it does: nothing for the router's own choice, an update for a tracked residency, both for
/// the filter.
#[test]
fn the_controller_is_charged_for_what_it_does() {
    let folder = bundled();
    let at = |strategy: &str| {
        folder.row(&format!("run {GPT_OSS} --system ndp --strategy {strategy}+in-place+uniform:bits=2"))
    };
    let (raw, tracked) = (at("lru"), at("tracked"));
    assert_eq!((number(&raw["controller_us"]), number(&raw["controller_share"])), (0.0, 0.0));
    let update = |experts: &str| {
        let layer =
            folder.row(&format!("layer --model gpt-oss-20b --system ndp --resident 3 --cold 1 --tracked {experts}"));
        number(&layer["busy_us"]["controller"])
    };
    let layers = tracked["by_layer"].as_array().unwrap().len() as f64;
    assert!(update("32") > update("16") && update("0") == 0.0);
    assert!((number(&tracked["controller_us"]) - layers * update("32")).abs() < 1e-6, "{tracked}");
    let share = number(&tracked["controller_us"]) / number(&tracked["token_time_us"]);
    assert!((number(&tracked["controller_share"]) - share).abs() < 1e-12);
    assert!(number(&raw["energy_uj"]) > 0.0);
}

#[test]
fn wrong_options_are_one_sentence() {
    let folder = bundled();
    samples::write(&folder);
    std::fs::write(folder.path().join("bad.toml"), "name = \n").unwrap();
    for (arguments, expected) in [
        (format!("run {TINY} --strategy nonsense"), "expected a strategy (raw, lru, "),
        (format!("run {TINY} --strategy raw+nonsense"), "expected a select (raw, "),
        (format!("run {TINY} --strategy lru+lfu"), "expected one residency, found lru and lfu"),
        (format!("run {TINY} --strategy bounded:lambda=1"), "bounded: expected eps, error, keep"),
        (format!("run {TINY} --strategy bounded:eps=2"), "bounded: expected eps as a share from 0 to 1, found \"2\""),
        (format!("run {TINY} --strategy bounded:keep=1.9"), "expected keep as a whole number from 0 to"),
        (format!("run {TINY} --strategy bounded:eps=NaN"), "found \"NaN\""),
        (format!("run {TINY} --strategy bounded:eps"), "expected eps as a share from 0 to 1"),
        (format!("run {TINY} --strategy raw:eps=0"), "raw: expected"),
        (format!("run {TINY} --strategy raw,,bounded"), "expected a strategy"),
        (format!("run {TINY} --strategy monde:hot=-0.5"), "or auto, found \"-0.5\""),
        (format!("run {TINY} --system nonsense"), "or one of offload"),
        (format!("run {TINY} --system nonsense.toml"), "No such file"),
        (format!("run {TINY} --system bad.toml"), "line 1"),
        (format!("run {TINY} --resident 0"), "expected 1 to 32 experts per layer, found 0"),
        (format!("run {TINY} --resident 33"), "expected 1 to 32 experts per layer, found 33"),
        (format!("run {TINY} --resident many"), "expected experts per layer (16), or bytes for all layers"),
        ("run native.safetensors --resident 8GB".into(), "as the model's sizes are not known, found bytes"),
        ("run profile.coli_usage --resident 17".into(), "expected 1 to 16 experts per layer"),
        ("run profile.coli_usage --resident 8GB".into(), "expected experts per layer for counts, found bytes"),
        // What there was before the one engine is there no more.
        (format!("run {TINY} --policy raw"), "--policy"),
        (format!("decode {TINY}"), "decode"),
        ("inspect ids.npy --json --csv -".into(), "cannot be used with"),
        (format!("run {TINY} --bits 0.5"), "--bits: expected 1 to 16, found 0.5"),
        (format!("run {TINY} --bits 17"), "--bits: expected 1 to 16, found 17"),
        (format!("run {TINY} --bits NaN"), "--bits: expected 1 to 16, found NaN"),
        (format!("run {TINY} --hidden 64"), "--expert-inner"),
        (format!("run {TINY} --hidden 0 --expert-inner 8"), "expected 1 to 1048576, found 0 and 8"),
        (format!("inspect {TINY} --format nonsense"), "expected one of native, sglang, numpy"),
        (format!("inspect {TINY} --router softmax"), "expected a router convention"),
        (format!("inspect {TINY} --layout sideways"), "expected layout token-layer or layer-token"),
        (format!("inspect {TINY} --domain nowhere"), "expected a domain (chead, "),
        (format!("inspect {TINY} --domain-tokens 0"), "expected a sequence of at most 0 tokens"),
        (format!("inspect {TINY} --experts 64"), "expected 64 experts as asked"),
        (format!("inspect {TINY} --top-k 2"), "expected 2 experts per token as asked"),
        (format!("inspect {TINY} --format numpy"), "expected"),
        ("inspect none.npz".into(), "none.npz: "),
        ("inspect".into(), "TRACE"),
        ("convert ids.npy".into(), "OUT"),
        ("observe ids.npy".into(), "observe"),
        ("inspect ids.npy --nonsense".into(), "--nonsense"),
    ] {
        let sentence = folder.refusal(&arguments);
        assert!(sentence.contains(expected), "cptr {arguments}: {sentence}");
    }
}

#[test]
fn results_go_nowhere_or_whole() {
    let folder = bundled();
    for arguments in [
        format!("convert {TINY} no/such/folder/out.safetensors"),
        format!("run {TINY} --domain rust --strategy raw --report no/such/report.html"),
        format!("run {TINY} --domain rust --strategy raw --csv no/such/rows.csv"),
        "demo --report no/such/report.html".into(),
    ] {
        assert!(folder.refusal(&arguments).starts_with("no/such/"), "{arguments}");
    }
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(folder.refusal(&format!("convert {TINY} folder")).starts_with("folder: "));
    // A trace may be replaced by its own part.
    folder.run(&format!("convert {TINY} {TINY} --domain rust")).ok();
    assert_eq!(folder.row(&format!("inspect {TINY}"))["tokens"], 768);
    folder.run(&format!("run {TINY} --strategy raw --report report.html")).ok();
    assert!(folder.read("report.html").starts_with(b"<!DOCTYPE html>"));
    assert_eq!(folder.contents().len(), 3);
}

#[test]
fn readers_may_go_away() {
    let folder = bundled();
    for arguments in [
        "--help".into(),
        format!("run {TINY} --help"),
        format!("inspect {TINY}"),
        format!("run {TINY} --domain rust --strategy raw --json"),
    ] {
        let mut child = folder.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments}: {said}");
        assert!(said.lines().all(|line| line.starts_with("Note: ")), "{arguments}: {said}");
    }
    // Nobody reads remarks and errors either.
    for (arguments, code) in
        [("run gpt-oss-20b.safetensors --json --domain-tokens 300", 0), ("inspect none", 2), ("observe", 2)]
    {
        let mut child = folder.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{arguments}");
    }
}

#[test]
fn help_and_version_are_results() {
    let folder = Folder::new();
    for arguments in ["--help", "--version", "help run", "run --help"] {
        let output = folder.run(arguments).ok();
        assert!(output.stdout.contains("cptr") && output.stderr.is_empty(), "{arguments}");
    }
    let output = folder.run("");
    assert!(output.code == 2 && output.stdout.is_empty() && output.stderr.contains("demo"), "{output:?}");
    let help = folder.run("run --help").stdout;
    for axis in ["Select:", "Residency:", "Prefetch:", "Division:", "Precision:", "Presets:", "Systems:", "Rows "] {
        assert!(help.contains(axis), "{axis}");
    }
    for kind in cptr_sim::strategy::kinds() {
        assert!(help.contains(kind.name) && help.contains(kind.summary), "{}", kind.name);
        assert!(kind.parameters.iter().all(|parameter| help.contains(parameter.summary)), "{}", kind.name);
    }
    for name in ["offload", "ndp", "stall_rate", "ratio_to_raw"] {
        assert!(help.contains(name), "{name}");
    }
}

/// A program without the libraries for language models has their commands, and says how to have them.
#[test]
#[cfg(not(feature = "model"))]
fn commands_for_models_say_how_to_build_them() {
    let folder = Folder::new();
    folder.file("model/config.json", "{}");
    for arguments in ["capture model --text a.txt", "quantize model", "run", "run model", "run model --text a.txt"] {
        let refusal = folder.refusal(arguments);
        assert!(refusal.contains("cargo run --release --features model -- "), "{arguments}: {refusal}");
    }
}

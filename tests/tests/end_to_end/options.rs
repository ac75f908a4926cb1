//! What can be said beside the trace, rightly and wrongly, and where results go.

use std::process::Stdio;

use serde_json::Value;

use crate::command::Folder;
use crate::samples;
use crate::traces::{bundled, number};

const TINY: &str = "tiny-moe-8m.safetensors";

fn row(folder: &Folder, arguments: &str) -> Value {
    folder.json(&format!("run {arguments} --json")).as_array().unwrap().last().unwrap().clone()
}

#[test]
fn domains_and_beginnings_of_domains() {
    let folder = bundled();
    let whole = folder.json(&format!("inspect {TINY} --json"));
    let domains = whole["switch_rate_by_domain"].as_array().unwrap();
    assert_eq!(domains.len(), 9);
    for domain in domains.iter().filter(|domain| ["rust", "kjv"].contains(&domain["domain"].as_str().unwrap())) {
        let name = domain["domain"].as_str().unwrap();
        let alone = folder.json(&format!("inspect {TINY} --json --domain {name}"));
        assert_eq!((&alone["tokens"], &alone["switch_rate"]), (&domain["tokens"], &domain["switch_rate"]), "{name}");
    }
    let two = folder.json(&format!("inspect {TINY} --json --domain rust,kjv --domain-tokens 400"));
    // Windows of 192 tokens: two of each domain fit.
    assert_eq!((two["tokens"].as_u64(), two["sequences"].as_u64()), (Some(768), Some(4)));
    folder.run(&format!("convert {TINY} part.safetensors --domain rust,kjv --domain-tokens 400")).ok();
    assert_eq!(folder.json("inspect part.safetensors --json")["switch_rate"], two["switch_rate"]);
}

#[test]
fn cache_policy_and_placement() {
    let folder = bundled();
    let all = row(&folder, &format!("{TINY} --policy raw --cache 32"));
    // With room for every expert each is loaded once.
    assert!(number(&all["loads_per_token"]) * 6912.0 <= 4.0 * 32.0 + 1e-6);
    let small = row(&folder, &format!("{TINY} --policy raw --cache 1"));
    assert!(number(&small["miss_rate"]) > 0.7 && small["cache"] == 1);
    let line = format!("run {TINY} --json --domain rust --policy cptr:keep=2:eps=0.02 --eviction lfu,tracked");
    let rows = folder.json(&line);
    let names: Vec<_> = rows.as_array().unwrap().iter().map(|row| (&row["policy"], &row["placement"])).collect();
    assert_eq!(names[0], (&"raw".into(), &"lru".into()), "ratios refer to the first row");
    assert_eq!(
        names[1..],
        ["lfu", "tracked"]
            .map(|name| ("cptr:eps=0.02:keep=2".into(), name.into()))
            .each_ref()
            .map(|(a, b): &(Value, Value)| (a, b))
    );
    let report = folder.json(&format!("inspect {TINY} --json --domain rust --cache 8,16"));
    let sizes: Vec<_> =
        report["cache"].as_array().unwrap().iter().map(|point| point["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [8, 16]);
    // The curve of `inspect` and the rows of `run` are of the same caches.
    let rows = folder.json(&format!("run {TINY} --json --domain rust --policy raw --placement lru,belady --cache 8"));
    for (row, name) in rows.as_array().unwrap().iter().zip(["lru", "belady"]) {
        assert!((1.0 - number(&row["miss_rate"]) - number(&report["cache"][0][name])).abs() < 1e-12, "{name}");
    }
}

#[test]
fn systems_bits_and_sizes() {
    let folder = bundled();
    let at = |bits: &str| {
        row(&folder, &format!("gpt-oss-20b.safetensors --policy raw --domain-tokens 200 --system ndp {bits}"))
    };
    let [default, two, four] = ["", "--bits 2", "--bits 4"].map(at);
    assert_eq!(default, two);
    // First accesses and the last chunk do not grow with the bits.
    assert!((1.9..2.0).contains(&(number(&four["ndp_us"]) / number(&two["ndp_us"]))));
    assert_eq!((&four["link_us"], &four["miss_rate"]), (&two["link_us"], &two["miss_rate"]));
    let offload = row(&folder, "gpt-oss-20b.safetensors --policy raw --domain-tokens 200 --system offload");
    assert_eq!((number(&offload["ndp_us"]), &offload["miss_rate"]), (0.0, &two["miss_rate"]));
    // The same system from a file, with a slower link.
    let file = include_str!("../../../hw-model/data/systems/offload.toml");
    std::fs::write(folder.path().join("mine.toml"), file.replace("lanes = 16", "lanes = 8")).unwrap();
    let mine = row(&folder, "gpt-oss-20b.safetensors --policy raw --domain-tokens 200 --system mine.toml");
    assert!((1.99..2.0).contains(&(number(&mine["link_us"]) / number(&offload["link_us"]))));
    // Copies of twice the weights take twice as long, but for the launch of 1 us for each layer that misses.
    let sized =
        |inner: u32| row(&folder, &format!("{TINY} --policy raw --domain rust --hidden 4096 --expert-inner {inner}"));
    let [once, twice] = [8192, 16384].map(|inner| number(&sized(inner)["link_us"]));
    assert!((1.999..=2.0).contains(&(twice / once)), "{}", twice / once);
}

/// The controller costs what it does: nothing for the router's own choice, an update for a tracked placement, both for the filter.
#[test]
fn the_controller_is_charged_for_what_it_does() {
    let folder = bundled();
    let at = |rest: &str| row(&folder, &format!("gpt-oss-20b.safetensors --domain-tokens 200 --system ndp {rest}"));
    let raw = at("--policy raw --placement lru");
    let tracked = at("--policy raw --placement tracked");
    assert_eq!((number(&raw["controller_us"]), number(&raw["controller_share"])), (0.0, 0.0));
    let update = |experts: &str| {
        let layer = folder
            .json(&format!("layer --model gpt-oss-20b --system ndp --resident 3 --cold 1 --tracked {experts} --json"));
        number(&layer["busy_us"]["controller"])
    };
    let layers = tracked["by_layer"].as_array().unwrap().len() as f64;
    assert!(update("32") > update("16") && update("0") == 0.0);
    assert!((number(&tracked["controller_us"]) - layers * update("32")).abs() < 1e-6, "{tracked}");
    let share = number(&tracked["controller_us"]) / number(&tracked["token_time_us"]);
    assert!((number(&tracked["controller_share"]) - share).abs() < 1e-12);
    assert!(number(&raw["energy_uj_per_token"]) > 0.0);
}

#[test]
fn wrong_options_are_one_sentence() {
    let folder = bundled();
    samples::write(&folder);
    std::fs::write(folder.path().join("bad.toml"), "name = \n").unwrap();
    for (arguments, expected) in [
        (format!("run {TINY} --policy nonsense"), "expected a policy (raw, "),
        (format!("run {TINY} --policy cptr:lambda=1"), "cptr: expected eps, error, keep, found \"lambda=1\""),
        (format!("run {TINY} --policy cptr:eps=2"), "cptr: expected eps from 0 to 1, found \"2\""),
        (format!("run {TINY} --policy cptr:eps=NaN"), "found \"NaN\""),
        (format!("run {TINY} --policy cptr:eps"), "expected eps from 0 to 1"),
        (format!("run {TINY} --policy raw:eps=0"), "raw: expected no parameters"),
        (format!("run {TINY} --policy raw,,cptr"), "expected a policy"),
        (format!("run {TINY} --placement nonsense"), "expected a placement (lru, "),
        (format!("run {TINY} --placement lru:x=1"), "lru: expected no parameters"),
        (format!("run {TINY} --system nonsense"), "or one of offload"),
        (format!("run {TINY} --system nonsense.toml"), "No such file"),
        (format!("run {TINY} --system bad.toml"), "line 1"),
        (format!("run {TINY} --cache 0"), "expected 1 to 32 experts per layer, found 0"),
        (format!("run {TINY} --cache 33"), "expected 1 to 32 experts per layer, found 33"),
        (format!("run {TINY} --cache many"), "many"),
        ("run profile.coli_usage --cache 17".into(), "expected 1 to 16 experts per layer"),
        (format!("run {TINY} --bits 0.5"), "--bits: expected 1 to 16, found 0.5"),
        (format!("run {TINY} --bits 17"), "--bits: expected 1 to 16, found 17"),
        (format!("run {TINY} --bits NaN"), "--bits: expected 1 to 16, found NaN"),
        (format!("run {TINY} --hidden 64"), "--expert-inner"),
        (format!("run {TINY} --hidden 0 --expert-inner 8"), "expected 1 to 1048576, found 0 and 8"),
        (format!("inspect {TINY} --format nonsense"), "expected one of native, numpy"),
        (format!("inspect {TINY} --router softmax"), "expected a router convention"),
        (format!("inspect {TINY} --layout sideways"), "expected layout token-layer or layer-token"),
        (format!("inspect {TINY} --domain nowhere"), "expected a domain (chead, "),
        (format!("inspect {TINY} --domain-tokens 0"), "expected a sequence of at most 0 tokens"),
        (format!("inspect {TINY} --experts 64"), "expected 64 experts as asked"),
        (format!("inspect {TINY} --top-k 2"), "expected 2 experts per token as asked"),
        ("inspect ids.npy --experts 8".into(), "expected expert ids below 8"),
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
        format!("run {TINY} --domain rust --policy raw --report no/such/report.html"),
        "demo --report no/such/report.html".into(),
    ] {
        assert!(folder.refusal(&arguments).starts_with("no/such/"), "{arguments}");
    }
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(folder.refusal(&format!("convert {TINY} folder")).starts_with("folder: "));
    // A trace may be replaced by its own part.
    folder.run(&format!("convert {TINY} {TINY} --domain rust")).ok();
    assert_eq!(folder.json(&format!("inspect {TINY} --json"))["tokens"], 768);
    folder.run(&format!("run {TINY} --policy raw --report report.html")).ok();
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
        format!("run {TINY} --domain rust --json"),
    ] {
        let mut child = folder.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(0), String::new()),
            "{arguments}"
        );
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
    for name in ["cache-prior", "cptr", "eps", "belady", "tracked", "offload", "ndp"] {
        assert!(help.contains(name), "{name}");
    }
}

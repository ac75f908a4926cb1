//! What engines read, written and read back; recordings that come compressed, through a pipe, or as a log of one's own.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::command::{Folder, finish};

fn bundled() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data/gpt-oss-20b.safetensors").to_string_lossy().into_owned()
}

/// Loads that LRU makes of a trace, which depend on every choice and its place.
fn loads(folder: &Folder, source: &str) -> serde_json::Value {
    let rows = folder.json(&format!("run {source} --json --strategy lru --resident 8"));
    rows["rows"][0]["load_rate"].clone()
}

#[test]
fn choices_as_csv_are_the_same_trace() {
    let folder = Folder::new();
    folder.run(&format!("convert {} first.safetensors --tokens 200 --domain gpqa_main", bundled())).ok();
    folder.run("convert first.safetensors first.csv --to llama-csv").ok();
    let text = String::from_utf8(folder.read("first.csv")).unwrap();
    assert_eq!(text.lines().count(), 1 + 200 * 24 * 4);
    assert_eq!(loads(&folder, "first.csv --experts 32 --chunk 0"), loads(&folder, "first.safetensors"));
}

#[test]
fn counts_for_servers_are_read_back() {
    let folder = Folder::new();
    folder.run(&format!("convert {} first.safetensors --tokens 200", bundled())).ok();
    for (name, file) in [("eplb", "a.json"), ("sglang", "a.pt"), ("flash-moe", "b.json")] {
        folder.run(&format!("convert first.safetensors {file} --to {name}")).ok();
        let page = folder.json(&format!("inspect {file} --json"));
        assert_eq!(page["rows"].as_array().unwrap().len(), 1, "{name}: {page}");
    }
    let mask = folder.run("convert first.safetensors mask.pt --to ktransformers");
    assert_eq!(mask.code, 2);
    assert!(mask.stderr.contains("expected --resident, 1 to 32 experts of a layer, found none"), "{}", mask.stderr);
    folder.run("convert first.safetensors mask.pt --to ktransformers --resident 8").ok();
    let said = folder.refusal("convert a.json out.csv --to llama-csv");
    assert!(said.contains("expected a trace of tokens"), "{said}");
    let said = folder.refusal("convert first.safetensors out.csv --to csv");
    assert!(said.contains("expected one of native, llama-csv, eplb, sglang, ktransformers, flash-moe"), "{said}");
    assert!(!folder.path().join("out.csv").exists());
}

#[test]
fn a_log_comes_compressed_through_a_pipe() {
    let folder = Folder::new();
    let text = "step,block,chosen\n0,3,7 6\n0,4,2 1\n1,3,5 6\n1,4,0 1\n";
    folder.file("mine.toml", "name = 'mine'\nlayer = 'block'\nexperts = 'chosen'\nposition = 'step'\n");
    folder.file("log.csv", text);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    folder.file("log.csv.gz", &packed);
    let expected = loads(&folder, "log.csv --columns mine.toml --experts 8");
    assert_eq!(loads(&folder, "log.csv.gz --columns mine.toml --experts 8"), expected);
    let mut command = folder.command("run - --columns mine.toml --experts 8 --json --strategy lru --resident 8");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&packed).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(page["rows"][0]["load_rate"], expected);
    // Nothing comes in.
    let nothing = finish(&mut folder.command("inspect -"));
    assert_eq!(
        (nothing.code, nothing.stderr.contains("standard input: expected a routing trace, found nothing")),
        (2, true)
    );
    // Half a file.
    folder.file("half.csv.gz", &packed[..packed.len() / 2]);
    assert!(folder.refusal("inspect half.csv.gz --columns mine.toml").contains("half.csv"));
    folder.file("none.toml", "name = 'mine'\n");
    let said = folder.refusal("inspect log.csv --columns none.toml");
    assert!(said.contains("none.toml: expected name, layer, experts"), "{said}");
}

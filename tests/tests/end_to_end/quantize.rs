//! `cptr quantize` on a tiny checkpoint with random weights.

use std::fs;
use std::path::PathBuf;

use crate::command::Folder;

const BITS: [u64; 4] = [1, 2, 3, 4];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/model/tests/golden")).join(name)
}

/// A folder with the checkpoint `model` and texts in the letters that its tokenizer knows.
fn folder_with(model: &str) -> Folder {
    let folder = Folder::new();
    for file in fs::read_dir(golden(model)).unwrap() {
        let file = file.unwrap();
        folder.file(&format!("model/{}", file.file_name().to_string_lossy()), fs::read(file.path()).unwrap());
    }
    let letters = (0..4000_u32).map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 26));
    folder.file("text/a.txt", letters.clone().collect::<String>());
    folder.file("text/below/b.txt", letters.rev().collect::<String>());
    folder
}

#[test]
fn writes_replicas_and_a_loss_table() {
    for model in ["olmoe", "gpt_oss", "qwen2_moe"] {
        let folder = folder_with(model);
        let printed = folder.json("quantize model --group 32 --calibration text --tokens 2000 --json");
        let rows = printed["rows"].as_array().unwrap();
        assert_eq!(rows.iter().map(|row| row["bits"].as_u64().unwrap()).collect::<Vec<_>>(), BITS);
        let relative: Vec<f64> = rows.iter().map(|row| row["relative_loss"].as_f64().unwrap()).collect();
        assert!(relative.windows(2).all(|pair| pair[1] < pair[0]) && relative[3] < 0.05, "{model}: {relative:?}");
        let change = |row: usize| rows[row]["perplexity_change"].as_f64().unwrap().abs();
        assert!(change(3) < 0.05, "{model}: {rows:?}");

        let table = cptr_trace::LossTable::read(&folder.path().join("model-low-bit/loss.csv")).unwrap();
        assert_eq!(table.bits(), [1, 2, 3, 4]);
        assert_eq!((table.layers() * table.experts()) as u64, printed["experts"].as_u64().unwrap());
    }
}

#[test]
fn goes_on_where_it_was_interrupted_and_gives_the_same() {
    let folder = folder_with("olmoe");
    let arguments = "quantize model --bits 2,4 --calibration text/a.txt --out replicas --tokens 1000";
    folder.run(arguments).ok();
    let (first, last) = (folder.read("replicas/layer-000.safetensors"), folder.read("replicas/layer-001.safetensors"));
    let text = |name: &str| String::from_utf8(folder.read(name)).unwrap();
    let table = text("replicas/loss.csv");
    fs::remove_file(folder.path().join("replicas/layer-001.safetensors")).unwrap();
    fs::remove_file(folder.path().join("replicas/loss.csv")).unwrap();
    let again = folder.run(arguments).ok();
    assert!(again.stderr.contains("1 of 2 layers were there from an earlier run"), "{}", again.stderr);
    assert!(folder.read("replicas/layer-000.safetensors") == first);
    assert!(folder.read("replicas/layer-001.safetensors") == last);
    assert_eq!(text("replicas/loss.csv"), table);
    // Nothing but these three files: no half ones.
    assert_eq!(fs::read_dir(folder.path().join("replicas")).unwrap().count(), 3);

    let refusal =
        folder.refusal("quantize model --bits 2,4 --group 32 --calibration text/a.txt --out replicas --tokens 1000");
    assert!(
        refusal.contains("replicas/layer-000.safetensors: ") && refusal.contains("groups of 64 instead of 32"),
        "{refusal}"
    );
    let refusal = folder.refusal("quantize model --bits 2,4 --calibration text/below --out replicas --tokens 1000");
    assert!(refusal.contains("calibration text"), "{refusal}");

    let mut half = first.clone();
    half.truncate(first.len() - 1);
    folder.file("replicas/layer-000.safetensors", half);
    let refusal = folder.refusal(arguments);
    assert!(refusal.starts_with("replicas/layer-000.safetensors: "), "{refusal}");
}

#[test]
fn refuses_bad_input() {
    let folder = folder_with("olmoe");
    folder.file("short.txt", "abc");
    folder.file("bytes.txt", b"abc\xff\xfe".as_slice());
    for (arguments, parts) in [
        ("quantize model", &["--calibration"][..]),
        ("quantize model --calibration no.txt", &["no.txt: "]),
        ("quantize model --calibration short.txt", &["at least 8 tokens, found 3"]),
        ("quantize model --calibration bytes.txt", &["bytes.txt: byte 3: expected text in UTF-8"]),
        ("quantize nothing --calibration text", &["nothing/config.json: "]),
        ("quantize model --calibration text --group 48", &["--group", "expected 32, 64 or 128"]),
        ("quantize model --calibration text --bits 2,5", &["'5' for '--bits", "1..=4"]),
        ("quantize model --calibration text --method best", &["--method", "gptq"]),
        ("quantize model --calibration text --out short.txt", &["short.txt: "]),
    ] {
        let refusal = folder.refusal(arguments);
        assert!(parts.iter().all(|part| refusal.contains(part)), "{arguments}: {refusal}");
    }

    let weights = folder.read("model/model.safetensors");
    folder.file("model/model.safetensors", &weights[..weights.len() - 4]);
    let refusal = folder.refusal("quantize model --calibration text");
    assert!(refusal.starts_with("model/model.safetensors: "), "{refusal}");
    let mut bad = weights.clone();
    let end = bad.len();
    bad[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    folder.file("model/model.safetensors", bad);
    let refusal = folder.refusal("quantize model --calibration text");
    assert!(refusal.contains("expected a finite number, found NaN"), "{refusal}");
}

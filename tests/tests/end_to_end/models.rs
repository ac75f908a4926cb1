//! `cptr capture` on the tiny checkpoints that the model runner is proved with.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::command::Folder;

const MODELS: [&str; 9] = [
    "olmoe",
    "olmoe_tied",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_moe_yarn",
    "deepseek_v2",
    "deepseek_v2_groups",
    "gpt_oss",
];

const PROSE: &str =
    "The quick brown fox jumps over the lazy dog, and (so it is said) the dog did not care:\nit slept on.";
const VERSE: &str = "O what a noble mind is here o'erthrown - The courtier's, soldier's, scholar's eye, tongue, sword;";

/// A folder with two texts and a copy of the checkpoint `name`.
fn folder(name: &str) -> Folder {
    let folder = Folder::new();
    folder.file("prose.txt", PROSE);
    folder.file("verse.txt", VERSE);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/model/tests/golden").join(name);
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("golden.safetensors") {
            folder.file(&format!("{name}/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
        }
    }
    folder
}

fn integers(bytes: &[u8], tensor: &str) -> Vec<u32> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let data = tensors.tensor(tensor).unwrap().data().to_vec();
    match tensor {
        "phase" | "domain" => data.into_iter().map(u32::from).collect(),
        _ => data.as_chunks().0.iter().map(|&value| u32::from_le_bytes(value)).collect(),
    }
}

#[test]
fn captures_can_be_inspected_and_run() {
    for name in MODELS {
        let folder = folder(name);
        let command = format!("capture {name} --text prose.txt verse.txt --context 40 --out t.safetensors --sketch 4");
        let told = folder.row(&command);
        assert_eq!((&told["tokens"], &told["sequences"]), (&(PROSE.len() + VERSE.len()).into(), &6.into()), "{name}");
        let bytes = folder.read("t.safetensors");
        assert_eq!(integers(&bytes, "domain").iter().filter(|&&domain| domain == 1).count(), VERSE.len());
        assert!(integers(&bytes, "phase").iter().all(|&phase| phase == 0));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["domains"], "prose,verse");
        assert_eq!(header.info("hidden").unwrap().shape[2], 4);
        let report = folder.row("inspect t.safetensors");
        assert!(!report.to_string().contains("contradict"), "{name}: {report}");
        assert!(folder.rows("run t.safetensors --hidden 16 --expert-inner 8").len() > 10, "{name}");
        assert!(!folder.path().join("t.safetensors.part").exists());
    }
}

#[test]
fn folders_are_domains() {
    let folder = folder("mixtral");
    for (file, text) in
        [("texts/a/2.txt", VERSE), ("texts/a/1.txt", PROSE), ("texts/b/1.txt", PROSE), ("texts/b/x.md", "#")]
    {
        folder.file(file, text);
    }
    let told = folder.row("capture mixtral --text texts");
    assert_eq!(told["sequences"], 3);
    let bytes = folder.read("trace.safetensors");
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["domains"], "a,b");
    let first = integers(&bytes, "token");
    assert_eq!(first[..PROSE.len()], first[PROSE.len() + VERSE.len()..], "sorted by name, hence prose, verse, prose");
    folder.file("none/x.md", "#");
    assert_eq!(folder.refusal("capture mixtral --text none"), "none: expected .txt files in the folder, found none");
}

#[test]
fn generated_tokens_are_decode() {
    let folder = folder("qwen3_moe");
    let capture = "capture qwen3_moe --text prose.txt --context 50 --generate 7 --f32 --out";
    folder.run(&format!("{capture} a.safetensors")).ok();
    folder.run(&format!("{capture} b.safetensors")).ok();
    let bytes = folder.read("a.safetensors");
    assert_eq!(bytes, folder.read("b.safetensors"), "greedy, hence the same every time");
    let (phase, position, sequence) =
        (integers(&bytes, "phase"), integers(&bytes, "position"), integers(&bytes, "sequence"));
    let prompt = |number: u32| if number == 0 { 50 } else { PROSE.len() as u32 - 50 };
    for ((phase, position), sequence) in phase.iter().zip(&position).zip(&sequence) {
        assert_eq!(*phase, u32::from(*position >= prompt(*sequence)));
    }
    assert!(phase.contains(&1));
    // The prompts' part is what a capture without generation sees.
    folder.run("capture qwen3_moe --text prose.txt --context 50 --f32 --out c.safetensors").ok();
    let tokens = |bytes: &[u8], phase: &[u32]| -> Vec<u32> {
        integers(bytes, "token").into_iter().zip(phase).filter(|(_, phase)| **phase == 0).map(|(id, _)| id).collect()
    };
    assert_eq!(tokens(&bytes, &phase), integers(&folder.read("c.safetensors"), "token"));
}

#[test]
fn an_interrupted_capture_goes_on() {
    let folder = folder("olmoe");
    let capture = "capture olmoe --text prose.txt verse.txt --context 30 --out";
    let whole = folder.row(&format!("{capture} whole.safetensors"));
    assert_eq!(whole["resumed_sequences"], 0);
    // A folder stands where the trace should go: everything runs, nothing can be written.
    let (out, parts) = (folder.path().join("t.safetensors"), folder.path().join("t.safetensors.part"));
    fs::create_dir(&out).unwrap();
    let failed = folder.run(&format!("{capture} t.safetensors"));
    assert_eq!((failed.code, failed.stdout.as_str()), (2, ""));
    assert!(failed.stderr.starts_with("cptr: t.safetensors: "), "{}", failed.stderr);
    fs::remove_dir(&out).unwrap();
    fs::remove_file(parts.join("2.safetensors")).unwrap();
    let resumed = folder.row(&format!("{capture} t.safetensors"));
    assert_eq!(resumed["resumed_sequences"].as_u64().unwrap() + 1, resumed["sequences"].as_u64().unwrap());
    assert_eq!(resumed["run_tokens"], 30);
    assert!(!parts.exists());
    assert_eq!(folder.read("t.safetensors"), folder.read("whole.safetensors"));
    // Parts of another capture are of no use, and files of others are left alone.
    folder.file("t.safetensors.part/capture.key", "another");
    folder.file("t.safetensors.part/0.safetensors", "another");
    let output = folder.run(&format!("{capture} t.safetensors")).ok();
    assert!(output.stderr.contains("thrown away"), "{}", output.stderr);
    assert_eq!(folder.read("t.safetensors"), folder.read("whole.safetensors"));
    folder.file("t.safetensors.part/mine.txt", "precious");
    let sentence = folder.refusal(&format!("{capture} t.safetensors"));
    assert!(sentence.contains("t.safetensors.part: expected the folder of an interrupted capture"), "{sentence}");
}

/// What a capture says of a checkpoint in which one file was changed.
#[track_caller]
fn refused(name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>, expected: &str) {
    let folder = folder(name);
    let path = format!("{name}/{file}");
    folder.file(&path, change(folder.read(&path)));
    let sentence = folder.refusal(&format!("capture {name} --text prose.txt --out t.safetensors"));
    assert!(sentence.contains(file) && sentence.contains(expected), "expected {expected}, found {sentence}");
}

fn replaced(from: &'static str, to: &'static str) -> impl Fn(Vec<u8>) -> Vec<u8> {
    assert!(!from.is_empty());
    move |bytes| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    }
}

#[test]
fn damaged_configurations() {
    let config = "config.json";
    refused("olmoe", config, |_| b"{".into(), "line 1");
    refused("olmoe", config, |_| b"[]".into(), "expected a JSON object");
    refused(
        "olmoe",
        config,
        replaced("\"olmoe\"", "\"llama\""),
        "expected a model_type of deepseek_v2, deepseek_v3, gpt_oss, mixtral, olmoe",
    );
    refused(
        "olmoe",
        config,
        replaced("\"num_experts\": 8", "\"num_experts\": -8"),
        "num_experts: expected a whole number",
    );
    refused(
        "olmoe",
        config,
        replaced("\"num_experts\": 8", "\"num_experts\": 2"),
        "expected at most 2 experts per token, found 3",
    );
    refused("olmoe", config, replaced("\"silu\"", "\"gelu\""), "hidden_act: expected silu");
    refused("olmoe", config, replaced("\"vocab_size\": 64", "\"vocab_siz\": 64"), "expected a field \"vocab_size\"");
    refused("mixtral", config, replaced("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3"), "heads");
    refused(
        "deepseek_v2_groups",
        config,
        replaced("\"n_group\": 4", "\"n_group\": 3"),
        "n_group: expected 8 experts in equal groups",
    );
    refused(
        "qwen3_moe_yarn",
        config,
        replaced("\"yarn\"", "\"warp\""),
        "rope_parameters: expected default, linear or yarn",
    );
    let quantised =
        replaced("\"rms_norm_eps\"", "\"quantization_config\": {\"quant_method\": \"mxfp4\"}, \"rms_norm_eps\"");
    refused("gpt_oss", config, quantised, "expected unquantised experts (bf16), found quantisation \"mxfp4\"");
    refused("olmoe", "tokenizer.json", |_| b"{}".into(), "");
    refused(
        "olmoe",
        "tokenizer.json",
        replaced("63", "64"),
        "expected token ids below 64, the vocab_size in config.json, found 64",
    );
}

#[test]
fn damaged_weights() {
    let file = "model.safetensors";
    refused("olmoe", file, |bytes| bytes[..bytes.len() - 100].into(), "expected the tensors to fill the file");
    refused("olmoe", file, |bytes| bytes[..5].into(), "expected a safetensors file, found 5 bytes");
    refused(
        "olmoe",
        file,
        replaced("model.norm.weight", "model.norm.weighs"),
        "expected a tensor \"model.norm.weight\", found none",
    );
    let name = "model.layers.1.mlp.experts.7.down_proj.weight";
    refused("olmoe", file, replaced(name, "model.layers.1.mlp.experts.9.down_proj.weight"), name);
    // f32: the last tensor of the file ends in a number that is none.
    let nan = |mut bytes: Vec<u8>| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    };
    refused("olmoe", file, nan, "expected a finite number, found NaN");
    let folder = folder("olmoe");
    let config = String::from_utf8(folder.read("olmoe/config.json")).unwrap();
    folder.file("olmoe/config.json", config.replace("\"intermediate_size\": 8", "\"intermediate_size\": 9"));
    let sentence = folder.refusal("capture olmoe --text prose.txt");
    assert_eq!(
        sentence,
        "olmoe/model.safetensors: tensor model.layers.0.mlp.experts.0.gate_proj.weight: expected shape [9, 16] as config.json says, \
         found [8, 16]"
    );
}

#[test]
fn damaged_shards() {
    let (index, second) = ("model.safetensors.index.json", "model-00002-of-00002.safetensors");
    refused("qwen2_moe", second, |bytes| bytes[..bytes.len() / 2].into(), "expected the tensors to fill the file");
    refused("qwen2_moe", index, |_| b"{\"weight_map\": {}}".into(), "weight_map: expected tensors");
    refused("qwen2_moe", index, replaced(second, "../elsewhere.safetensors"), "weight_map: expected names of files");
    refused(
        "qwen2_moe",
        index,
        replaced("\"model.norm.weight\"", "\"model.norm.wait\""),
        "expected a tensor \"model.norm.weight\"",
    );
    let folder = folder("qwen2_moe");
    fs::remove_file(folder.path().join("qwen2_moe").join(second)).unwrap();
    let sentence = folder.refusal("capture qwen2_moe --text prose.txt");
    assert!(sentence.starts_with(&format!("qwen2_moe/{second}: ")), "{sentence}");
    fs::remove_file(folder.path().join("qwen2_moe").join(index)).unwrap();
    let sentence = folder.refusal("capture qwen2_moe --text prose.txt");
    assert!(sentence.starts_with("qwen2_moe: expected model.safetensors or"), "{sentence}");
}

#[test]
fn impossible_texts_and_options() {
    let folder = folder("olmoe");
    folder.file("empty.txt", "");
    folder.file("latin.txt", b"caf\xe9");
    let refused = |options: &str, expected: &str| {
        let sentence = folder.refusal(&format!("capture olmoe {options}"));
        assert!(sentence.contains(expected), "expected {expected}, found {sentence}");
    };
    refused("--text empty.txt", "empty: expected text, found none");
    refused("--text latin.txt", "latin.txt: byte 3: expected text in UTF-8");
    refused("--text none.txt", "none.txt: ");
    refused("--text prose.txt --sketch 17", "--sketch: expected at most the model's 16 dimensions");
    refused("--text prose.txt --context 0", "--context: expected 1 to");
    refused("", "--text");
    assert!(folder.refusal("capture nowhere --text prose.txt").starts_with("nowhere/config.json: "));
}

#[test]
fn changed_anywhere() {
    for name in ["olmoe", "deepseek_v2_groups", "gpt_oss"] {
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            let folder = folder(name);
            let whole = folder.read(&format!("{name}/{file}"));
            for step in 0..10_usize {
                let mut bytes = whole.clone();
                let at = if step % 2 == 0 { step * 131 } else { bytes.len() * step / 11 };
                bytes[at % whole.len()] ^= 1 << (step % 8);
                folder.file(&format!("{name}/{file}"), bytes);
                let output = folder.run(&format!("capture {name} --text prose.txt --out t.safetensors"));
                match output.code {
                    0 => fs::remove_file(folder.path().join("t.safetensors")).unwrap(),
                    2 => assert!(
                        output.stderr.starts_with("cptr: ") && output.stderr.lines().count() == 1,
                        "{name}/{file}, step {step}: {output:?}"
                    ),
                    code => panic!("{name}/{file}, step {step}: {code}, {output:?}"),
                }
            }
        }
    }
}

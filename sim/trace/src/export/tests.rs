use super::*;
use crate::import::{self, read};
use crate::{Meta, Shape, Trace};

/// Two sequences of two tokens in layers 1 and 3 of a model.
fn trace() -> Trace {
    let ids = vec![3, 1, 0, 2, 3, 0, 1, 2, 3, 2, 0, 1, 1, 3, 2, 0];
    let meta = Meta { layer_ids: vec![1, 3], model: "m".into(), ..Meta::default() };
    let mut trace = Trace { meta, ..Trace::of_ids(Shape { tokens: 4, layers: 2, experts: 4, k: 2 }, ids) };
    trace.meta.domains = vec!["d".into()];
    (trace.sequence, trace.position) = (vec![0, 0, 1, 1], vec![0, 1, 0, 1]);
    trace
}

fn written(
    name: &str,
    file: &str,
    recording: &Recording,
    options: &Options,
) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    write(name, recording, options, &path).unwrap();
    (folder, path)
}

fn read_counts(path: &Path) -> (Vec<u32>, Vec<Vec<u64>>) {
    match read(path, &import::Options::default()).unwrap() {
        Recording::Counts(counts) => (counts.tables[0].layer_ids.clone(), counts.tables[0].counts.clone()),
        Recording::Tokens(_) => panic!("a trace"),
    }
}

const COUNTS: [[u64; 4]; 2] = [[1, 2, 1, 4], [3, 2, 3, 0]];

#[test]
fn choices_are_read_back() {
    let (_folder, path) = written("llama-csv", "a.csv", &Recording::Tokens(trace()), &Options::default());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("layer,expert\n1,3\n1,1\n3,0\n"), "{text}");
    let Recording::Tokens(again) = read(&path, &import::Options::default()).unwrap() else { panic!("counts") };
    assert_eq!((again.ids, again.meta.layer_ids), (trace().ids, vec![1, 3]));
}

#[test]
fn counts_are_read_back() {
    for (name, file) in [("eplb", "a.json"), ("sglang", "a.pt")] {
        let (_folder, path) = written(name, file, &Recording::Tokens(trace()), &Options::default());
        // Layers without experts are not read.
        assert_eq!(read_counts(&path), (vec![1, 3], COUNTS.map(Vec::from).to_vec()), "{name}");
        let again = read(&path, &import::Options::default()).unwrap();
        let (_folder, path) = written(name, file, &again, &Options::default());
        assert_eq!(read_counts(&path), (vec![1, 3], COUNTS.map(Vec::from).to_vec()), "{name}");
    }
}

#[test]
fn a_mask_holds_the_most_wanted() {
    let options = Options { resident: Some(2), ..Options::default() };
    let (_folder, path) = written("ktransformers", "a.pt", &Recording::Tokens(trace()), &options);
    let bytes = std::fs::read(&path).unwrap();
    let file = import::torch_tensor(&bytes, "gpu_experts_mask").unwrap();
    assert_eq!(file.0, [4, 4]);
    // Layers 0 and 2 have no experts; of equal counts the lower number stays.
    let expected = [[0.0; 4], [0.0, 1.0, 0.0, 1.0], [0.0; 4], [1.0, 0.0, 1.0, 0.0]];
    assert_eq!(file.1, expected.concat());
    for resident in [None, Some(0), Some(5)] {
        let options = Options { resident, ..Options::default() };
        let error = write("ktransformers", &Recording::Tokens(trace()), &options, &path).unwrap_err().to_string();
        assert!(error.contains("expected --resident, 1 to 4 experts of a layer"), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn profiles_say_what_all_sequences_want() {
    let options = Options { resident: Some(3), threshold: 1.0 };
    let (_folder, path) = written("flash-moe", "a.json", &Recording::Tokens(trace()), &options);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((json["num_prompts"].as_u64(), json["capacity"].as_u64()), (Some(2), Some(3)));
    assert_eq!(json["layers"]["1"]["universal"], serde_json::json!([1, 3]));
    assert_eq!(json["layers"]["1"]["activation_counts"], serde_json::json!({"0": 1, "1": 2, "2": 1, "3": 2}));
    // As it is read: in how many sequences, not how often.
    assert_eq!(read_counts(&path), (vec![1, 3], vec![vec![1, 2, 1, 2], vec![2, 2, 2, 0]]));
}

#[test]
fn what_a_format_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let counts = Recording::Counts(crate::counts::Counts::default());
    let refusal =
        |name: &str, recording: &Recording| write(name, recording, &Options::default(), &path).unwrap_err().to_string();
    assert!(refusal("llama-csv", &counts).contains("expected a trace of tokens"));
    assert!(refusal("flash-moe", &counts).contains("expected a trace of tokens"));
    assert!(refusal("eplb", &counts).contains("expected a table of counts, found none"));
    assert!(refusal("csv", &counts).contains("expected a format (native, llama-csv"));
    let mut far = trace();
    far.meta.layer_ids = vec![1, u32::MAX];
    assert!(refusal("eplb", &Recording::Tokens(far)).contains("expected layers below 4096"));
    assert!(!path.exists());
}

//! Tests of what all importers share: folders, archives, options, damage of any kind.

use proptest::prelude::*;

use super::testing::{Folder, ids, npy, npy_text, npz, tar, tokens, zstd};
use super::*;
use crate::native;

fn options() -> Options {
    Options::default()
}

/// One small valid file of every kind, by name.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let folder = Folder::new();
    let array = npy(&[9, 2, 2], &ids(9, 2, 8, 2));
    let path = folder.path().join("a.safetensors");
    native::write(&folder.trace("a.npy", &array, &options()), &path).unwrap();
    let meta = npy_text(r#"{"n_moe_layers": 2, "k": 2, "num_experts": 8}"#);
    let oss =
        r#"{"router_data": [{"token_3": {"layer_0": {"selected_experts": [1, 2], "selected_probs": [0.5, 0.5]}}}]}"#;
    let lab = "{\"record_type\":\"metadata\",\"format\":\"moe-cache-lab.routing-jsonl\",\"format_version\":1}\n\
        {\"record_type\":\"routing_selection\",\"phase\":\"prompt\",\"layer\":0,\"token_position\":0,\"selected_experts\":[1]}\n";
    vec![
        ("a.safetensors", std::fs::read(path).unwrap()),
        ("a.npz", npz(&[("experts", array.clone()), ("meta", meta)])),
        ("b.npz", npz(&[("seq0", npy(&[3, 2, 4], &[0.5_f32; 24]))])),
        ("a.tar.zst", zstd(&tar(&[("data/a.npy", &array), ("NOTE.md", b"hello")]))),
        ("a.tar", tar(&[("oss.json", oss.as_bytes())])),
        ("a.npy.zst", zstd(&array)),
        ("a.npy", array),
        ("oss.json", oss.into()),
        ("w_1.txt", b"1\t2\t3\t4\t5\t6\t\t0.1\t0.1\t0.1\t0.1\t0.1\t0.1\n".into()),
        ("a.coli_usage", b"-1 2 4\n0 1 5\n1 3 6\n".into()),
        ("pop.json", br#"{"total_input_tokens": 5, "expert_popularity": [[4, 6], [3, 7]]}"#.into()),
        ("counts.json", br#"{"m/expert_counts/d": [{"0": 1}], "m/expert_counts_crosslayer/d": [{"0,1": 1}]}"#.into()),
        (
            "sim.jsonl",
            br#"{"request_id":1,"phase":"decode","step_id":0,"token_position":0,"layer_id":0,"expert_ids":[1,2]}"#
                .into(),
        ),
        ("lab.jsonl", lab.into()),
        ("eplb.json", br#"{"logical_count": [[[4, 6], [3, 7]], [[1, 0], [0, 1]]]}"#.into()),
        ("a.csv", b"layer,expert\n0,1\n0,2\n3,4\n3,5\n".into()),
        ("b.csv", b"layer_id,expert_ids\n0,1 2\n3,4 5\n".into()),
        ("vllm.json", br#"{"choices": [{"routed_experts": [[[0, 1], [2, 3]], [[1, 2], [3, 4]]]}]}"#.into()),
        (
            "sglang.json",
            br#"{"meta_info": {"prompt_tokens": 2, "completion_tokens": 1, "routed_experts": "AQAAAAIAAAADAAAABAAAAA=="}}"#
                .into(),
        ),
        (
            "log.jsonl",
            br#"{"type":"route","req_id":"a","token_idx":0,"layer":0,"topk_ids":[1],"topk_weights":[1.0]}"#.into(),
        ),
    ]
}

#[test]
fn every_sample_is_read() {
    let folder = Folder::new();
    for (name, bytes) in samples() {
        if let Err(error) = folder.import(name, bytes, &options()) {
            panic!("{error}");
        }
    }
}

#[test]
fn every_cut_is_refused_or_read_and_never_panics() {
    let folder = Folder::new();
    for (name, bytes) in samples() {
        for end in 0..bytes.len() {
            // Text may end after any whole record; binary formats may not end early.
            let outcome = folder.import(name, &bytes[..end], &options());
            let binary = [".safetensors", ".npy", ".npz", ".zst"].iter().any(|ending| name.ends_with(ending));
            assert!(!binary || outcome.is_err(), "{name} cut at {end} of {}", bytes.len());
        }
    }
}

#[test]
fn refuses_what_is_no_trace() {
    let folder = Folder::new();
    assert_eq!(folder.refusal("a.npz", b"", &options()), "a.npz: expected a routing trace, found an empty file");
    assert!(
        folder
            .refusal("a.txt", b"Dear reader,", &options())
            .contains("expected a routing trace of a known format (native, sglang, numpy,")
    );
    assert!(folder.refusal("a.gz", b"\x1f\x8b\x08", &options()).contains("expected a whole gzip archive"));
    assert!(folder.refusal("a.tar", tar(&[("x/NOTE.md", b"hello")]), &options()).ends_with("found NOTE.md"));
    let refusal = |path: &Path| read(path, &options()).unwrap_err().to_string();
    assert!(refusal(&folder.path().join("none")).contains("none: "));
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(refusal(&empty).ends_with("found no file at all"));
    let odd = Options { format: Some("pickle".into()), ..options() };
    assert!(folder.refusal("a.txt", b"x", &odd).contains("expected a format (native, sglang, numpy"));
}

#[test]
fn refuses_bombs_while_they_inflate() {
    let folder = Folder::new();
    let trace = npy(&[9, 2, 2], &ids(9, 2, 8, 2));
    let bomb = folder.file("a.npy.zst", zstd(&npy(&[1 << 20, 1, 2], &vec![0_i16; 1 << 21])));
    let tarred = folder.file("b.tar.zst", zstd(&tar(&[("pad.bin", &vec![0; 1 << 22]), ("a.npy", &trace)])));
    for path in [bomb, tarred] {
        let message = read_limited(&path, &options(), 1 << 20).unwrap_err().to_string();
        assert!(message.contains("inflates to more than 1048576 bytes"), "{message}");
    }
    // The same archive is read where the limit allows it.
    assert!(read_limited(&folder.path().join("b.tar.zst"), &options(), 1 << 23).is_ok());
}

#[test]
fn folders_hold_one_format_and_one_shape() {
    let folder = Folder::new();
    let array = |layers: u64| npy(&[9, layers, 2], &ids(9, layers as usize, 8, 2));
    folder.file("x/a.npy", array(2));
    folder.file("x/b.npy", array(3));
    let refusal = |name: &str| read(&folder.path().join(name), &options()).unwrap_err().to_string();
    assert!(
        refusal("x").contains("expected traces of one shape, found a (2 layers x 8 experts, top-2), b (3 layers"),
        "{}",
        refusal("x")
    );
    folder.file("y/a.npy", array(2));
    folder.file("y/b.coli_usage", "0 0 1\n");
    assert!(refusal("y").contains("expected files of one format, found numpy"), "{}", refusal("y"));
    let asked = Options { format: Some("numpy".into()), ..options() };
    let trace = tokens(read(&folder.path().join("y"), &asked).unwrap());
    assert!(trace.notes.iter().any(|note| note.contains("b.coli_usage")));
    // Experts that no file states are those of the file with the highest id.
    folder.file("z/a.npy", npy(&[3, 2, 1], &[0_i16, 1, 2, 3, 4, 5]));
    folder.file("z/b.npy", npy(&[3, 2, 1], &[0_i16, 1, 2, 3, 4, 9]));
    let joined = tokens(read(&folder.path().join("z"), &options()).unwrap());
    assert_eq!((joined.shape.experts, joined.meta.domains), (10, vec!["a".to_owned(), "b".into()]));
    let told = |name: &str, model: &str| {
        let meta = format!(r#"{{"model": "{model}", "n_moe_layers": 2}}"#);
        folder.file(name, npz(&[("experts", npy(&[9, 2, 2], &ids(9, 2, 8, 2))), ("meta", npy_text(&meta))]));
    };
    told("m/a.npz", "Qwen");
    told("m/b.npz", "Mixtral");
    assert!(refusal("m").contains("expected traces of one model, found Qwen and Mixtral"));
}

#[test]
fn options_override_or_must_agree() {
    let folder = Folder::new();
    let array = npy(&[20, 2, 2], &ids(20, 2, 8, 2));
    let asked = Options {
        experts: Some(64),
        top_k: Some(2),
        chunk: Some(8),
        router: Some(Router::SOFTMAX_ALL),
        model: Some("mine".into()),
        phase: Some(Phase::Decode),
        ..options()
    };
    let trace = folder.trace("a.npy", &array, &asked);
    assert_eq!((trace.shape.experts, trace.meta.router, trace.meta.model.as_str()), (64, Router::SOFTMAX_ALL, "mine"));
    assert_eq!((trace.phase[0], trace.position[8], trace.sequence[19]), (Phase::Decode, 0, 2));
    assert!(
        folder
            .refusal("a.npy", &array, &Options { top_k: Some(4), ..options() })
            .contains("expected 4 experts per token as asked, found 2")
    );
    assert!(
        folder
            .refusal("a.npy", &array, &Options { experts: Some(4), ..options() })
            .contains("expected expert ids below 4")
    );
    assert_eq!("layer-token".parse(), Ok(Layout::LayerToken));
    assert!("x".parse::<Layout>().is_err());
}

#[test]
fn restarts_are_found_unless_the_caller_knows() {
    let folder = Folder::new();
    // Experts stay for a chunk of 128 tokens and are others in the next.
    let values: Vec<i16> =
        (0..1280).flat_map(|token: i16| [0, 1].map(|i| (token / 128 * 2 + token % 9 / 8 + i) % 16)).collect();
    let array = npy(&[1280, 1, 2], &values);
    let starts = |options: &Options| {
        let trace = folder.trace("a.npy", &array, options);
        (0..1280).filter(|&token| trace.starts_sequence(token)).count()
    };
    assert_eq!(starts(&options()), 10);
    assert_eq!(starts(&Options { chunk: Some(0), ..options() }), 1);
    assert_eq!(starts(&Options { chunk: Some(64), ..options() }), 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 1..400), name in prop::sample::select(vec!["a", "a.npz", "a.safetensors", "w_1.txt"])) {
        let folder = Folder::new();
        for importer in IMPORTERS {
            let _ = folder.import(name, &bytes, &Options { format: Some(importer.name().into()), ..options() });
        }
        let _ = folder.import(name, &bytes, &options());
    }

    #[test]
    fn damaged_samples_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let folder = Folder::new();
        for (name, mut bytes) in samples() {
            for (index, value) in &changes {
                let at = index.index(bytes.len());
                bytes[at] = *value;
            }
            let _ = folder.import(name, bytes, &options());
        }
    }
}

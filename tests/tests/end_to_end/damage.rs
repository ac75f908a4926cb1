//! Bad input: one sentence that names file and place, exit code 2, nothing written. [`Folder::refusal`] checks what all
//! refusals share.

use safetensors::Dtype;

use crate::command::{Folder, finish};
use crate::files::{Tensor, f32s, npy, npy_text, npz, safetensors, safetensors_of, tar, u16s, u32s, zstd};
use crate::samples::{self, SAMPLES};

/// A folder with a file that conversions try in vain to replace.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.file("kept.safetensors", "precious");
    folder
}

/// What every command must say of a file: the same sentence, beginning with the file and going on with `expected`.
#[track_caller]
fn assert_refused(folder: &Folder, name: &str, bytes: impl AsRef<[u8]>, options: &str, expected: &str) {
    let path = folder.file(name, bytes);
    let refusals = ["inspect {}", "run {} --json", "convert {} new.safetensors", "convert {} kept.safetensors"]
        .map(|command| folder.refusal(&format!("{} {options}", command.replace("{}", name))));
    for sentence in &refusals {
        // A format with a file for each layer names the folder once the layers are put together; what is packed may be
        // named unpacked.
        let named = name.split('/').next().unwrap_or(name).trim_end_matches(".zst");
        assert!(sentence.starts_with(named) && sentence.contains(expected), "expected {expected}, found {sentence}");
        assert_eq!(sentence, &refusals[0]);
    }
    std::fs::remove_file(path).unwrap();
}

/// Two tokens, one layer, two of four experts, and one more tensor.
fn native(more: &[Tensor<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
    let experts: Tensor<'_> = ("experts", Dtype::U16, &[2, 1, 2], u16s(&[0, 1, 2, 3]));
    safetensors(&[&[experts], more].concat(), metadata)
}

#[test]
fn no_trace_at_all() {
    let folder = folder();
    let known = "expected a routing trace of a known format (native, sglang, numpy, ";
    assert_refused(&folder, "empty.npz", "", "", "expected a routing trace, found an empty file");
    assert_refused(&folder, "letter.txt", "Dear reader,\nhow are you?\n", "", known);
    assert_refused(&folder, "noise.bin", [7_u8, 0, 255, 128].repeat(999), "", known);
    assert_refused(&folder, "page.json", "{\"model\": 1}", "", known);
    assert_refused(&folder, "a.npz.gz", b"\x1f\x8b\x08\x00", "", "expected a whole gzip archive");
    assert_refused(&folder, "a.tar", tar(&[("NOTE.md", "hello")]), "", "found NOTE.md");
    assert_refused(&folder, "a.zst", b"\x28\xB5\x2F\xFDnonsense", "", "zstd");
    for name in ["folder", "notes"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    folder.file("notes/README.md", "hello");
    assert!(folder.refusal("inspect folder").ends_with("found no file at all"));
    assert!(folder.refusal("convert notes new.safetensors").ends_with("found README.md"));
    assert!(folder.refusal("run /dev/null").starts_with("/dev/null: "));
}

#[test]
fn claims_beyond_the_file() {
    let folder = folder();
    let claim = [&10_000_000_000_u64.to_le_bytes()[..], b"{\"experts\":{}}"].concat();
    assert_refused(&folder, "a.safetensors", claim, "", "byte 0: expected a safetensors header within the 22 bytes");
    let tensor = |dtype: &str, shape: &str, end: usize| {
        format!(r#"{{"experts":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    let huge = safetensors_of(&tensor("U16", "[5000000000,1,1]", 10_000_000_000), &[0; 8]);
    assert_refused(&folder, "a.safetensors", huge, "", "bytes");
    let overflow = safetensors_of(&tensor("U16", "[4294967296,4294967296,4]", 8), &[0; 8]);
    assert_refused(&folder, "a.safetensors", overflow, "", "expected a safetensors header");
    let nothing = safetensors_of(&tensor("U16", "[0,1000000000000,4]", 0), b"");
    assert_refused(&folder, "a.safetensors", nothing, "", "at least one token");
    // Values of 20 GB and of 3 GB that numpy headers promise, and the first few of them.
    let claim = |tokens: u64| {
        let header = format!("{{'descr': '<i2', 'fortran_order': False, 'shape': ({tokens}, 4, 2), }}\n");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat()
    };
    for (tokens, expected) in [(1_250_000_000, "[1250000000, 4, 2]"), (187_500_000, "[187500000, 4, 2]")] {
        assert_refused(&folder, "a.npy", claim(tokens), "", expected);
        assert_refused(&folder, "a.npz", npz(&[("experts", claim(tokens))]), "", expected);
        assert_refused(&folder, "a.npy.zst", zstd(claim(tokens)), "", expected);
    }
    let mut cut_off = tar(&[("a.npy", &"x".repeat(5000))]);
    cut_off.truncate(1000);
    assert_refused(&folder, "a.tar", cut_off, "", "expected a whole tar archive");
    // A header of 4 GB in a small file.
    let claim = [b"\x93NUMPY\x02\x00", &u32::MAX.to_le_bytes()[..], &[b' '; 64]].concat();
    assert_refused(&folder, "a.npy", claim, "", "expected");
    let line = format!("-1 1024 1024\n{}", "1023 1023 9223372036854775807\n".repeat(3));
    assert_refused(&folder, "a.coli_usage", line, "", "line 4: expected counts below 2^64");
}

#[test]
fn wrong_shapes() {
    let folder = folder();
    let refused = |bytes: Vec<u8>, expected: &str| assert_refused(&folder, "a.safetensors", bytes, "", expected);
    let flat = safetensors(&[("experts", Dtype::U16, &[4], u16s(&[0, 1, 2, 3]))], &[]);
    refused(flat, "tensor experts: expected shape [tokens, layers, k], found [4]");
    for shape in [&[1, 2, 4][..], &[2, 4]] {
        let logits = ("logits", Dtype::F32, shape, f32s(&[0.0; 8]));
        refused(native(&[logits], &[]), "tensor logits: expected shape");
    }
    refused(native(&[("sequence", Dtype::U32, &[3], u32s(&[0; 3]))], &[]), "tensor sequence: expected shape [2]");
    refused(native(&[("sequence", Dtype::F32, &[2], f32s(&[0.0; 2]))], &[]), "tensor sequence: expected integers");
    refused(native(&[("phase", Dtype::U8, &[2], vec![0, 9])], &[]), "token 1: expected phase 0");
    refused(native(&[("domain", Dtype::U8, &[2], vec![0, 9])], &[]), "domain: expected indices below 1, found 9");
    refused(native(&[], &[("experts", "-4")]), "metadata experts: expected a whole number");
    refused(native(&[], &[("top_k", "3")]), "metadata top_k");
    refused(safetensors(&[("weight", Dtype::U8, &[1], vec![0])], &[]), "\"experts\" or \"logits\"");
    let split = safetensors(
        &[("experts", Dtype::U16, &[3, 1, 1], u16s(&[0, 1, 2])), ("sequence", Dtype::U32, &[3], u32s(&[7, 8, 7]))],
        &[],
    );
    refused(split, "token 2: expected the tokens of sequence 7 side by side");
    let ids = |shape: &[usize]| npy(shape, &vec![0_i16; shape.iter().product()]);
    assert_refused(&folder, "a.npy", ids(&[4]), "", "expected an array of three axes");
    assert_refused(&folder, "a.npy", ids(&[2, 2, 1]), "", "say it with --layout");
    assert_refused(&folder, "a.npy", ids(&[0, 2, 1]), "", "at least one");
    assert_refused(&folder, "a.npy", npy(&[4, 1, 65], &(0..260).collect::<Vec<i16>>()), "", "1 to 64, found 65");
    let told = npz(&[("experts", ids(&[5, 2, 1])), ("meta", npy_text("{\"n_moe_layers\": 3}"))]);
    assert_refused(&folder, "a.npz", told, "", "expected 3 layers as meta says");
    let unlike = npz(&[("seq0", npy(&[2, 2, 4], &[0.0_f32; 16])), ("seq1", npy(&[3, 1, 4], &[0.0_f32; 12]))]);
    assert_refused(&folder, "a.npz", unlike, "", "expected arrays that differ in their tokens only");
}

#[test]
fn scores_that_are_no_numbers() {
    let folder = folder();
    // A logit of minus infinity is that of a masked expert.
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut scores = [0.5_f32; 8];
        scores[6] = value;
        let bytes = native(&[("logits", Dtype::F32, &[2, 1, 4], f32s(&scores))], &[]);
        let expected = format!("token 1, layer 0: logit 2: expected finite, found {name}");
        assert_refused(&folder, "a.safetensors", bytes, "", &expected);
        assert_refused(&folder, "a.npy", npy(&[2, 1, 4], &scores), "--top-k 2", &expected);
        let bytes = npz(&[("seq0", npy(&[1, 1, 4], &[0.0_f32; 4])), ("seq1", npy(&[2, 1, 4], &scores))]);
        let expected = format!("token 2, layer 0: logit 2: expected finite, found {name}");
        assert_refused(&folder, "a.npz", bytes, "--top-k 2", &expected);
        let bytes = native(&[("weights", Dtype::F32, &[2, 1, 2], f32s(&scores[4..]))], &[]);
        assert_refused(&folder, "a.safetensors", bytes, "", "token 1, layer 0: weight 0: expected finite");
        let text = format!("1\t2\t\t0.1\t0.2\n2\t3\t\t{name}\t0.2\n");
        assert_refused(&folder, "s/w_1.txt", text, "--top-k 2", ": expected finite and not negative, found");
    }
    let text = oss("[1, 2]", "[1e99, 0.5]");
    assert_refused(&folder, "a.json", text, "", "");
    assert_refused(&folder, "a.json", oss("[1, 2]", "[0.5, -0.5]"), "", "weight 1: expected finite and not negative");
}

/// Two tokens of a generation in the layout of the gpt-oss set, the second one as told.
fn oss(experts: &str, probabilities: &str) -> String {
    let token = |position: u32, experts: &str, probabilities: &str| {
        format!(
            r#"{{"token_{position}": {{"layer_0": {{"selected_experts": {experts}, "selected_probs": {probabilities}}}}}}}"#
        )
    };
    let tokens = [token(4, "[0, 3]", "[0.5, 0.5]"), token(5, experts, probabilities)];
    format!(r#"{{"dataset": "d", "router_data": [{}]}}"#, tokens.join(","))
}

#[test]
fn ids_out_of_range_or_repeated() {
    let folder = folder();
    let ids =
        |a: u16, b: u16| safetensors(&[("experts", Dtype::U16, &[2, 1, 2], u16s(&[0, 1, a, b]))], &[("experts", "4")]);
    assert_refused(&folder, "a.safetensors", ids(2, 4), "", "token 1, layer 0: expected expert ids below 4, found 4");
    assert_refused(
        &folder,
        "a.safetensors",
        ids(3, 3),
        "",
        "token 1, layer 0: expected 2 different experts, found 3 twice",
    );
    let array = |a: i32, b: i32| npy(&[3, 1, 2], &[0, 1, 2, 3, a, b]);
    assert_refused(&folder, "a.npy", array(1, 1), "", "token 2, layer 0: expected 2 different experts, found 1 twice");
    assert_refused(&folder, "a.npy", array(1, -5), "", "token 2, layer 0: expected expert ids of 0 to 1023, found -5");
    assert_refused(&folder, "a.npy", array(1, 5000), "", "expected");
    let twice = "token 1, layer 0: expected 2 different experts, found 1 twice";
    assert_refused(&folder, "a.json", oss("[1, 1]", "[0.5, 0.5]"), "", twice);
    assert_refused(&folder, "a.json", oss("[1, 70000]", "[0.5, 0.5]"), "", "line 1 column");
    let archive = zstd(tar(&[("x/a.json", &oss("[1, 1]", "[0.5, 0.5]"))]));
    assert_refused(&folder, "a.tar.zst", archive, "", &format!("a.json: {twice}"));
    let sample = |ids: &str| format!("0\t1\t\t0.5\t0.5\n{ids}\t\t0.5\t0.5\n");
    assert_refused(&folder, "s/w_1.txt", sample("1\t1"), "--top-k 2", twice);
    assert_refused(&folder, "s/w_1.txt", sample("1\t-1"), "--top-k 2", "line 2, entry 1: expected an expert id");
    assert_refused(&folder, "a.coli_usage", "0 0 5\n0 5000 5\n", "", "line 2");
    let tables = r#"{"m/expert_counts/d": [{"5000": 1}]}"#;
    assert_refused(&folder, "a.json.zst", zstd(tables), "", "m/expert_counts/d: expected an expert below 1024");
}

#[test]
fn layers_of_different_length() {
    let folder = folder();
    let popularity = r#"{"total_input_tokens": 5, "expert_popularity": [[1, 2], [3]]}"#;
    assert_refused(&folder, "a.json", popularity, "", "layer 1: expected 2 counts, found 1");
    folder.file("esft/law/w_1.txt", "1\t2\t3\t4\t\t0.1\t0.2\t0.3\t0.4\n");
    folder.file("esft/law/w_2.txt", "1\t2\t\t0.1\t0.2\n");
    for command in ["inspect esft --top-k 2", "convert esft new.safetensors --top-k 2"] {
        let sentence = folder.refusal(command);
        assert!(sentence.starts_with("esft/law/w_2.txt: expected samples of the same lengths"), "{sentence}");
    }
    let missing = oss("[1, 2]", "[0.5, 0.5]").replacen("layer_0", "layer_7", 1);
    assert_refused(&folder, "a.json", missing, "", "token_5: expected the 1 layers of the first token");
    let line = |position: u32, layer: u32| {
        format!(
            "{{\"request_id\":1,\"phase\":\"decode\",\"step_id\":0,\"token_position\":{position},\"layer_id\":{layer},\"expert_ids\":[1]}}\n"
        )
    };
    let text = [line(0, 0), line(0, 1), line(1, 0)].concat();
    assert_refused(&folder, "a.jsonl", text, "", "position 1");
}

#[test]
fn cut_off_anywhere() {
    let folder = folder();
    samples::write(&folder);
    for sample in SAMPLES {
        let (name, options) = sample.source.split_once(' ').unwrap_or((sample.source, ""));
        if folder.path().join(name).is_dir() {
            continue;
        }
        let whole = folder.read(name);
        let ends = (1..8).map(|eighth| whole.len() * eighth / 8).chain([1, 7, 9, whole.len() - 2]);
        for end in ends {
            // Lines and records may end after any whole one, and counts in text are complete without their last digit.
            let lines = ["jsonl", "coli_usage", "bin"].iter().any(|ending| name.ends_with(ending));
            folder.file(&format!("cut/{name}"), &whole[..end]);
            let command = format!("convert cut/{name} cut/out.safetensors {options}");
            if lines {
                let output = folder.run(&command);
                assert!(output.code == 0 || output.code == 2 && output.stderr.starts_with("cptr: "), "{output:?}");
                let _ = std::fs::remove_file(folder.path().join("cut/out.safetensors"));
            } else {
                let sentence = folder.refusal(&command);
                assert!(sentence.starts_with(&format!("cut/{name}")), "{end} of {}: {sentence}", whole.len());
            }
        }
    }
}

#[test]
fn changed_anywhere() {
    let folder = folder();
    samples::write(&folder);
    for sample in SAMPLES {
        let (name, options) = sample.source.split_once(' ').unwrap_or((sample.source, ""));
        let name = match name {
            "esft" => "esft/toy/expert_weights_2.txt",
            "nde" => "nde/layer_1.csv",
            name => name,
        };
        let whole = folder.read(name);
        for step in 0..12_usize {
            let mut bytes = whole.clone();
            // The beginning, where headers are, and all over.
            let at = if step % 2 == 0 { step * 13 } else { bytes.len() * step / 13 };
            bytes[at % whole.len()] ^= 1 << (step % 8);
            folder.file(&format!("bad/{name}"), bytes);
            // Some changes are not to be seen, others are: never a panic, a signal, or half a file.
            let output = finish(&mut folder.command(&format!("convert bad/{name} bad/out.safetensors {options}")));
            let out = folder.path().join("bad/out.safetensors");
            match output.code {
                0 => std::fs::remove_file(out).unwrap(),
                2 => assert!(
                    !out.exists() && output.stderr.starts_with("cptr: ") && output.stderr.lines().count() == 1,
                    "{name}, step {step}: {output:?}"
                ),
                code => panic!("{name}, step {step}: {code}, {output:?}"),
            }
        }
        std::fs::remove_dir_all(folder.path().join("bad")).unwrap();
    }
}

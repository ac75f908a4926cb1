//! Tests of the numpy importer.

use super::super::testing::{Folder, ids, npy, npy_text, npz, tokens};
use super::super::{Options, read};
use super::*;
use crate::Knowledge;

fn options() -> Options {
    Options::default()
}

/// `[T, L, k]` as `[L, T, k]`.
fn layer_major(ids: &[i16], shape: [usize; 3]) -> Vec<i16> {
    let [t, l, k] = shape;
    (0..l)
        .flat_map(|layer| (0..t).flat_map(move |token| (0..k).map(move |i| ids[(token * l + layer) * k + i])))
        .collect()
}

#[test]
fn reads_llama_moe_trace() {
    let folder = Folder::new();
    let all = ids(40, 3, 16, 2);
    let meta = r#"{"model": "Qwen", "top_k": 2, "k": 2, "num_experts": 20, "n_moe_layers": 3, "source": "s"}"#;
    let file = npz(&[("experts", npy(&[3, 40, 2], &layer_major(&all, [40, 3, 2]))), ("meta", npy_text(meta))]);
    let trace = folder.trace("code.npz", &file, &options());
    assert_eq!(trace.shape, Shape { tokens: 40, layers: 3, experts: 20, k: 2 });
    assert!(trace.ids.iter().map(|&id| id as i16).eq(all));
    assert_eq!((trace.meta.model.as_str(), &trace.meta.domains[..]), ("Qwen", &["code".to_owned()][..]));
    assert_eq!((trace.notes.len(), trace.knowledge()), (0, Knowledge::Ids));
    // Two files of a folder are two domains.
    folder.file("math.npz", &file);
    folder.file("config.json", "{}");
    let joined = tokens(read(folder.path(), &options()).unwrap());
    assert_eq!((&joined.meta.domains[..], joined.shape.tokens), (&["code".to_owned(), "math".into()][..], 80));
    assert_eq!((joined.sequence[39], joined.sequence[40], joined.domain[79]), (0, 1, 1));
    assert_eq!(joined.notes, ["Passed over, not of a known format: config.json."]);
    let asked = Options { experts: Some(16), ..options() };
    assert!(
        folder.refusal("code.npz", &file, &asked).contains("expected 16 experts as asked, found that the file says 20")
    );
}

#[test]
fn meta_must_agree_with_the_array() {
    let folder = Folder::new();
    let refusal = |meta: &str| {
        let file = npz(&[("experts", npy(&[3, 40, 2], &ids(3, 40, 16, 2))), ("meta", npy_text(meta))]);
        folder.refusal("a.npz", file, &options())
    };
    assert!(
        refusal(r#"{"n_moe_layers": 4}"#)
            .contains("array experts: expected 4 layers as meta says, found an array [3, 40, 2]")
    );
    assert!(refusal(r#"{"k": 4}"#).contains("expected 4 experts per token as meta says, found 2"));
    assert!(refusal(r#"{"num_experts": 4, "n_moe_layers": 3}"#).contains("expected expert ids below 4"));
    assert!(refusal("{").contains("array meta: expected JSON text"));
    let layout = Options { layout: Some(Layout::TokenLayer), ..options() };
    let file = npz(&[("experts", npy(&[3, 40, 2], &ids(3, 40, 16, 2))), ("meta", npy_text(r#"{"n_moe_layers": 3}"#))]);
    assert!(folder.refusal("a.npz", file, &layout).contains("expected layout LayerToken as the file says"));
}

#[test]
fn axes_are_told_apart() {
    let folder = Folder::new();
    let all = ids(12, 3, 8, 2);
    let by_token = folder.trace("a.npy", npy(&[12, 3, 2], &all), &options());
    let by_layer = folder.trace("b.npy", npy(&[3, 12, 2], &layer_major(&all, [12, 3, 2])), &options());
    assert_eq!(by_token.ids, by_layer.ids);
    assert!(by_token.notes[0].contains("12 tokens, 3 layers"));
    assert!(by_token.notes[1].contains("taken as 8"));
    let asked = Options { layout: Some(Layout::LayerToken), ..options() };
    assert_eq!(folder.trace("a.npy", npy(&[12, 3, 2], &all), &asked).shape.layers, 12);
    let square = npy(&[3, 3, 2], &ids(3, 3, 8, 2));
    assert!(folder.refusal("c.npy", &square, &options()).contains("say it with --layout"));
    assert_eq!(folder.trace("c.npy", &square, &asked).shape.tokens, 3);
    // Of several arrays the axis that all share is the layers, whatever is longer.
    let several = npz(&[("seq0", npy(&[2, 5, 2], &ids(2, 5, 8, 2))), ("seq1", npy(&[3, 5, 2], &ids(3, 5, 8, 2)))]);
    let trace = folder.trace("d.npz", several, &options());
    assert_eq!((trace.shape.layers, trace.sequence), (5, vec![0, 0, 1, 1, 1]));
}

#[test]
fn reads_logits_of_several_sequences_in_natural_order() {
    let folder = Folder::new();
    let seq = |first: f32, tokens: u64| {
        let values: Vec<f32> = (0..tokens * 8).map(|i| first + ((i * 5) % 7) as f32).collect();
        npy(&[tokens, 2, 4], &values)
    };
    let file = npz(&[("seq10", seq(100.0, 1)), ("seq9", seq(50.0, 2)), ("seq0", seq(0.0, 3))]);
    let trace = folder.trace("a.npz", &file, &Options { top_k: Some(2), ..options() });
    assert_eq!(trace.shape, Shape { tokens: 6, layers: 2, experts: 4, k: 2 });
    assert_eq!(trace.sequence, [0, 0, 0, 1, 1, 2]);
    assert_eq!(trace.position, [0, 1, 2, 0, 1, 0]);
    let mut row = [0.0; 4];
    trace.logits.as_ref().unwrap().read_row(5, 0, &mut row);
    assert_eq!(row, [100.0, 105.0, 103.0, 101.0]);
    assert_eq!(trace.chosen(5, 0), [1, 2]);
    let guessed = folder.trace("a.npz", &file, &options());
    assert_eq!((guessed.shape.k, guessed.knowledge()), (1, Knowledge::Logits));
    assert!(guessed.notes[0].contains("taken as 1 (--top-k"));
    let wrong = Options { top_k: Some(5), ..options() };
    assert!(folder.refusal("a.npz", &file, &wrong).contains("found 4 and 5"));
    let uneven = npz(&[("a", seq(0.0, 1)), ("b", npy(&[1, 2, 3], &[0.0_f32; 6]))]);
    assert!(
        folder
            .refusal("b.npz", uneven, &options())
            .contains("differ in their tokens only, found a [1, 2, 4] and b [1, 2, 3]")
    );
}

#[test]
fn reads_ids_logits_and_weights_together() {
    let folder = Folder::new();
    let (t, l, e) = (6, 2, 4);
    let logits: Vec<half::f16> = (0..t * l * e).map(|i| half::f16::from_f32((i % 5) as f32)).collect();
    let file = npz(&[
        ("experts", npy(&[6, 2, 2], &ids(t, l, e, 2))),
        ("logits", npy(&[6, 2, 4], &logits)),
        ("topk_weights", npy(&[6, 2, 2], &[0.5_f32; 24])),
        ("domain", npy(&[6], &[0_u8, 0, 0, 1, 1, 1])),
        ("sequence", npy(&[6], &[4_u32, 4, 4, 4, 9, 9])),
        ("phase", npy(&[6], &[0_u8, 0, 1, 1, 0, 1])),
        ("strange", npy(&[1, 1, 1, 1], &[1.0_f32])),
    ]);
    let trace = folder.trace("a.npz", file, &options());
    assert_eq!((trace.shape.k, trace.shape.experts, trace.weights.is_some()), (2, 4, true));
    assert_eq!(trace.position, [0, 1, 2, 3, 0, 1]);
    assert_eq!(trace.meta.domains, ["0", "1"]);
    assert!(trace.notes.iter().any(|note| note.contains("strange [1, 1, 1, 1]")));
}

#[test]
fn routed_experts_lose_dense_layers_and_padding() {
    let folder = Folder::new();
    let all = ids(5, 3, 16, 2);
    // Layer 0 dense (zeros), two columns of padding.
    let row = |t: usize, l: usize| {
        if l == 0 {
            [0, 0, -1, -1].map(|id: i32| id.max(0))
        } else {
            let at = (t * 3 + l) * 2;
            [all[at].into(), all[at + 1].into(), -1, -1]
        }
    };
    let values: Vec<i32> = (0..5).flat_map(|t| (0..3).flat_map(move |l| row(t, l))).collect();
    let file = npz(&[
        ("routed_experts", npy(&[5, 3, 4], &values)),
        ("prompt_token_ids", npy(&[4], &[11_i64, 12, 13, 14])),
        ("output_token_ids", npy(&[2], &[15_i64, 16])),
    ]);
    let trace = folder.trace("a.npz", file, &options());
    assert_eq!((trace.shape.tokens, trace.shape.layers, trace.shape.k), (5, 2, 2));
    assert_eq!(trace.meta.layer_ids, [1, 2]);
    assert_eq!(trace.phase[3..], [Phase::Prefill, Phase::Decode]);
    assert_eq!(trace.token, Some(vec![11, 12, 13, 14, 15]));
    assert!(
        trace.notes[0].contains("dropped: 0.") && trace.notes[1].contains("Of 4 columns of ids 2"),
        "{:?}",
        trace.notes
    );
}

#[test]
fn refuses_what_cannot_be() {
    let folder = Folder::new();
    let refusal = |bytes: Vec<u8>| folder.refusal("a.npy", bytes, &options());
    let mut bad = ids(5, 2, 8, 2);
    bad[9] = -3;
    assert!(
        refusal(npy(&[5, 2, 2], &bad)).contains("a.npy: token 2, layer 0: expected expert ids of 0 to 1023, found -3")
    );
    bad[9] = bad[8];
    assert!(refusal(npy(&[5, 2, 2], &bad)).contains("token 2, layer 0: expected 2 different experts"));
    bad[9] = 1024;
    assert!(refusal(npy(&[5, 2, 2], &bad)).contains("experts: expected 1 to 1024, found 1025"));
    let mut logits = [0.0_f32; 24];
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        logits[13] = value;
        let message = refusal(npy(&[3, 2, 4], &logits));
        assert_eq!(message, format!("a.npy: token 1, layer 1: logit 1: expected finite, found {name}"));
    }
    assert!(refusal(npy(&[4], &[1_i16; 4])).contains("expected an array of three axes"));
    assert!(refusal(npy(&[3, 2, 65], &ids(3, 2, 70, 65))).contains("experts per token: expected 1 to 64"));
    assert!(refusal(npy::<i16>(&[0, 2, 2], &[])).contains("at least one value along every axis"));
    assert!(refusal(npy::<f32>(&[3, 2, 0], &[])).contains("at least one value along every axis"));
    let whole = npy(&[5, 2, 2], &ids(5, 2, 8, 2));
    assert!(
        refusal(whole[..whole.len() - 1].to_vec()).contains("expected 40 bytes of values [5, 2, 2] of <i2, found 39")
    );
    let zipped = npz(&[("experts", whole)]);
    assert!(folder.refusal("a.npz", &zipped[..zipped.len() - 30], &options()).contains("expected a whole zip archive"));
    assert!(folder.refusal("a.npz", npz(&[]), &options()).starts_with("a.npz: expected a"));
}

//! Tests of the native format.

use proptest::prelude::*;
use safetensors::tensor::{TensorView, serialize};

use super::*;
use crate::array::{Float, FloatArray};
use crate::counts::{CountTable, PairTable};
use crate::{Meta, Phase, Router};

/// A tensor by name, type, shape and bytes.
type Tensor<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

/// A safetensors file as the library writes it.
fn file(tensors: &[Tensor<'_>], info: &[(&str, &str)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    let info = info.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    serialize(views, Some(info)).unwrap()
}

fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn read_bytes(bytes: &[u8]) -> Result<Trace> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("name.safetensors");
    fs::write(&path, bytes).unwrap();
    read(&path)
}

fn refusal(bytes: &[u8]) -> String {
    let message = read_bytes(bytes).unwrap_err().to_string();
    message.split_once("name.safetensors: ").expect("the file is named").1.into()
}

#[test]
fn absent_tensors_have_defaults() {
    let trace = read_bytes(&file(&[("experts", Dtype::U16, &[3, 2, 1], u16s(&[1, 2, 3, 4, 5, 6]))], &[])).unwrap();
    assert_eq!(trace.shape, Shape { tokens: 3, layers: 2, experts: 7, k: 1 });
    assert_eq!((trace.sequence, trace.position, trace.domain), (vec![0; 3], vec![0, 1, 2], vec![0; 3]));
    assert_eq!((trace.phase, trace.meta.layer_ids), (vec![Phase::Prefill; 3], vec![0, 1]));
    assert_eq!((trace.meta.router, trace.meta.domains), (Router::UNKNOWN, vec!["name".to_owned()]));
}

#[test]
fn signed_ids_are_read_and_choices_derived_from_logits() {
    let signed: Vec<u8> = [1_i64, 2, 3].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(read_bytes(&file(&[("experts", Dtype::I64, &[3, 1, 1], signed)], &[])).unwrap().ids, [1, 2, 3]);
    let logits = ("logits", Dtype::F32, &[1, 2, 3][..], f32s(&[0.0, 2.0, 1.0, 5.0, 5.0, 7.0]));
    let trace = read_bytes(&file(std::slice::from_ref(&logits), &[("top_k", "2")])).unwrap();
    assert_eq!((trace.ids, trace.shape.experts), (vec![1, 2, 2, 0], 3));
    assert!(refusal(&file(std::slice::from_ref(&logits), &[])).contains("metadata top_k"));
    assert!(refusal(&file(std::slice::from_ref(&logits), &[("top_k", "4")])).contains("found 3 and 4"));
    let bias = ("bias", Dtype::F32, &[2, 3][..], f32s(&[0.9, 0.0, 0.0, 0.0, 0.0, 0.0]));
    let trace = read_bytes(&file(&[logits, bias], &[("top_k", "2"), ("router", "sigmoid:1:1")])).unwrap();
    assert_eq!(trace.ids, [0, 1, 2, 0]);
    assert_eq!(
        trace.evidence.unwrap().to_string(),
        "The choice is not recorded: it was made from the logits by sigmoid:1:1."
    );
}

#[test]
fn refuses_statements_that_disagree() {
    let experts = ("experts", Dtype::U16, &[2, 1, 2][..], u16s(&[0, 1, 2, 3]));
    let with = |tensor: Tensor<'_>| refusal(&file(&[experts.clone(), tensor], &[]));
    let told = |key: &str, value: &str| refusal(&file(std::slice::from_ref(&experts), &[(key, value)]));
    assert!(
        with(("logits", Dtype::F32, &[3, 1, 1], f32s(&[0.0; 3])))
            .contains("tensor logits: expected shape [2, 1, …], found [3, 1, 1]")
    );
    assert!(
        with(("logits", Dtype::F32, &[2, 4], f32s(&[0.0; 8])))
            .contains("tensor logits: expected shape three dimensions, found [2, 4]")
    );
    assert!(
        with(("logits", Dtype::U8, &[2, 1, 4], vec![0; 8]))
            .contains("tensor logits: expected f16, bf16 or f32, found type U8")
    );
    assert!(
        with(("weights", Dtype::F32, &[2, 1, 3], f32s(&[0.0; 6]))).contains("tensor weights: expected shape [2, 1, 2]")
    );
    assert!(with(("hidden", Dtype::F32, &[2, 3, 2], f32s(&[0.0; 12]))).contains("tensor hidden"));
    assert!(with(("sequence", Dtype::U8, &[3], vec![0; 3])).contains("tensor sequence: expected shape [2]"));
    assert!(
        with(("sequence", Dtype::F32, &[2], f32s(&[0.0; 2])))
            .contains("tensor sequence: expected integers, found type F32")
    );
    assert!(
        with(("phase", Dtype::U8, &[2], vec![0, 2]))
            .contains("token 1: expected phase 0 (prefill) or 1 (decode), found 2")
    );
    assert!(with(("domain", Dtype::U8, &[2], vec![0, 9])).contains("domain: expected indices below 1, found 9"));
    assert!(with(("bias", Dtype::F32, &[1, 5], f32s(&[0.0; 5]))).contains("tensor bias: expected F32 [1, 4]"));
    assert!(
        with(("weights", Dtype::F32, &[2, 1, 2], f32s(&[0.5, 0.5, -1.0, 0.5]))).contains("token 1, layer 0: weight 0")
    );
    assert!(
        with(("logits", Dtype::F32, &[2, 1, 4], f32s(&[0.0, 1.0, f32::INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0])))
            .contains("token 0, layer 0: logit 2")
    );
    assert!(told("experts", "3").contains("token 1, layer 0: expected expert ids below 3, found 3"));
    assert!(told("experts", "many").contains("metadata experts: expected a whole number, found \"many\""));
    assert!(told("experts", "99999").contains("1 to 1024"));
    assert!(told("top_k", "3").contains("metadata top_k: expected 2 as in the tensors, found 3"));
    assert!(told("layers", "3").contains("metadata layers"));
    assert!(told("layer_ids", "1,2").contains("metadata layer_ids: expected 1 numbers"));
    assert!(told("router", "softmax").contains("metadata router: expected a router convention"));
    assert!(refusal(&file(&[("experts", Dtype::U16, &[1, 1, 2], u16s(&[7, 7]))], &[])).contains("found 7 twice"));
    assert!(
        refusal(&file(&[("weight", Dtype::U8, &[1], vec![0])], &[]))
            .contains("\"experts\" or \"logits\", found weight")
    );
}

#[test]
fn refuses_hostile_headers() {
    let raw = |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    let tensor = |shape: &str, from: usize, to: usize| {
        format!(r#"{{"dtype":"U16","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    assert!(refusal(b"").contains("found 0 bytes"));
    assert!(refusal(b"abc").contains("found 3 bytes"));
    assert!(
        refusal(&[&10_000_000_000_u64.to_le_bytes()[..], b"{}"].concat())
            .contains("byte 0: expected a safetensors header within the 10 bytes")
    );
    assert!(refusal(&[0xFF; 64]).contains("claims 18446744073709551615 bytes"));
    assert!(refusal(&raw("{", b"")).contains("expected a safetensors header"));
    let overlap = format!(r#"{{"experts":{},"token":{}}}"#, tensor("[2,1,1]", 0, 4), tensor("[2]", 2, 6));
    assert!(refusal(&raw(&overlap, &[0; 6])).contains("a gap or an overlap"));
    let huge = format!(r#"{{"experts":{}}}"#, tensor("[5000000000,1,1]", 0, 10_000_000_000));
    assert!(refusal(&raw(&huge, &[0; 8])).contains("too few or too many bytes"));
    let overflow = format!(r#"{{"experts":{}}}"#, tensor("[4294967296,4294967296,4]", 0, 8));
    assert!(refusal(&raw(&overflow, &[0; 8])).contains("expected a safetensors header"));
    let nothing = format!(r#"{{"experts":{}}}"#, tensor("[0,1000000000000,4]", 0, 0));
    assert!(refusal(&raw(&nothing, b"")).contains("tensor experts: expected shape at least one token"));
    let short = format!(r#"{{"experts":{}}}"#, tensor("[2,1,2]", 0, 8));
    assert!(refusal(&raw(&short, &[0; 7])).contains("too few or too many bytes"));
    assert!(read(Path::new("/no/such/file")).unwrap_err().to_string().starts_with("/no/such/file: "));
}

#[test]
fn counts_survive_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts.safetensors");
    let counts = Counts {
        source: "here".into(),
        tables: vec![CountTable {
            name: "a/b, c".into(),
            model: "m".into(),
            k: 2,
            layer_ids: vec![0, 7],
            counts: vec![vec![1, 1 << 52, 0], vec![4, 5, 6]],
        }],
        pairs: vec![PairTable { name: "a".into(), layers: (0, 7), counts: vec![vec![1, 2], vec![3, 4]] }],
        notes: vec!["One.".into()],
    };
    write_counts(&counts, &path).unwrap();
    assert_eq!(read_counts(&path).unwrap(), counts);
    let huge = CountTable { counts: vec![vec![u64::MAX; 3]; 2], ..counts.tables[0].clone() };
    write_counts(&Counts { tables: vec![huge], ..counts.clone() }, &path).unwrap();
    assert!(
        read_counts(&path).unwrap_err().to_string().contains("expected counts that sum to at most 9007199254740992")
    );
    write_counts(&counts, &path).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("\"experts\" or \"logits\""));
    let ragged =
        Counts { pairs: vec![PairTable { counts: vec![vec![1], vec![]], ..counts.pairs[0].clone() }], ..counts };
    assert!(write_counts(&ragged, &path).unwrap_err().to_string().contains("expected 1 counts in every row"));
}

#[test]
fn nothing_is_left_behind_where_writing_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut trace = read_bytes(&file(&[("experts", Dtype::U16, &[1, 1, 1], u16s(&[1]))], &[])).unwrap();
    assert!(write(&trace, &folder.path().join("no/such/folder/a")).is_err());
    trace.ids[0] = 9;
    assert!(write(&trace, &folder.path().join("a")).unwrap_err().to_string().contains("below 2"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

prop_compose! {
    /// Any valid trace with every optional part there or not.
    fn traces()(tokens in 1_usize..7, layers in 1_usize..4, experts in 2_usize..9)(
        shape in (1..=experts.min(4)).prop_map(move |k| Shape { tokens, layers, experts, k }),
        rows in prop::collection::vec(Just((0..experts as u16).collect::<Vec<_>>()).prop_shuffle(), tokens * layers),
        scores in prop::collection::vec(-1e6_f32..1e6, tokens * layers * experts),
        bias in prop::option::of(prop::collection::vec(-1.0_f32..1.0, layers * experts)),
        cuts in prop::collection::vec(any::<bool>(), tokens),
        phase in prop::collection::vec(prop::bool::ANY.prop_map(|decode| if decode { Phase::Decode } else { Phase::Prefill }), tokens),
        token in prop::option::of(prop::collection::vec(any::<u32>(), tokens)),
        domain in prop::collection::vec(0_u8..2, tokens),
        position in prop::collection::vec(any::<u32>(), tokens),
        layer_ids in prop::collection::vec(any::<u32>(), layers),
        present in any::<[bool; 3]>(),
        model in "[ -~äß]{0,9}",
        notes in prop::collection::vec("[ -~]{1,9}", 0..3),
    ) -> Trace {
        let Shape { tokens, layers, experts, k } = shape;
        let floats = |on: bool, n: usize, positive: bool| on.then(|| {
            let values = scores.iter().map(|&score| if positive { score.abs() } else { score });
            FloatArray::owned([tokens, layers, n], values.take(tokens * layers * n).collect())
        });
        let sequence = cuts.iter().scan(7, |number, &cut| { *number += u32::from(cut); Some(*number) }).collect();
        Trace {
            shape,
            meta: Meta { model, router: if experts % 4 == 0 { Router::SIGMOID.grouped(4, 2) } else { Router::SIGMOID }, source: "s".into(),
                domains: vec!["a".into(), "b c".into()], layer_ids },
            ids: rows.iter().flat_map(|row| row[..k].to_vec()).collect(),
            weights: floats(present[0], k, true),
            logits: floats(present[1], experts, false),
            hidden: floats(present[2], experts, false),
            bias, expert_scale: None, evidence: None, sequence, position, phase, token, domain, notes,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn traces_survive_a_round_trip(trace in traces()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write(&trace, &path).unwrap();
        let back = read(&path).unwrap();
        prop_assert_eq!(back.shape, trace.shape);
        prop_assert_eq!(&back.meta, &trace.meta);
        prop_assert_eq!(&back.ids, &trace.ids);
        prop_assert_eq!((&back.sequence, &back.position), (&trace.sequence, &trace.position));
        prop_assert_eq!((&back.phase, &back.token, &back.domain), (&trace.phase, &trace.token, &trace.domain));
        prop_assert_eq!(&back.bias, &trace.bias);
        // Random choices are explained by nothing, which a note says.
        prop_assert!(back.notes.starts_with(&trace.notes) && back.notes.len() <= trace.notes.len() + 1);
        for (a, b) in [(&back.logits, &trace.logits), (&back.weights, &trace.weights), (&back.hidden, &trace.hidden)] {
            prop_assert_eq!(a.as_ref().map(|a| a.le_bytes()), b.as_ref().map(|b| b.le_bytes()));
        }
        // Writing what was read gives the same bytes.
        write(&back, &path).unwrap();
        let again = folder.path().join("b.safetensors");
        write(&read(&path).unwrap(), &again).unwrap();
        prop_assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn half_floats_keep_their_width() {
    let half = u16s(&[0x3C00, 0x4000]);
    for (dtype, float) in [(Dtype::F16, Float::F16), (Dtype::BF16, Float::Bf16)] {
        let bytes = file(&[("logits", dtype, &[1, 1, 2], half.clone())], &[("top_k", "1")]);
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, bytes).unwrap();
        write(&read(&a).unwrap(), &b).unwrap();
        assert_eq!(read(&b).unwrap().logits.unwrap().float(), float);
    }
}

#[test]
fn traces_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Trace>();
}

use super::*;

#[test]
fn the_shipped_papers_are_right() {
    for name in Paper::names() {
        let paper = Paper::find(name).unwrap();
        assert_eq!(paper.name, name);
        assert!(paper.figures.iter().all(|figure| !figure.source.is_empty()));
        assert!(paper.parameters.iter().all(|parameter| !parameter.why.is_empty()));
    }
    assert!(Paper::find("nothing").is_none());
}

/// A file that is right but for one change.
fn refusal(from: &str, to: &str) -> String {
    let (_, right) = PAPERS[0];
    assert!(right.contains(from), "{from}");
    Paper::from_toml(&right.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn wrong_files_are_refused_in_one_sentence() {
    for (from, to, expected) in [
        ("name = \"layer_us\"", "name = \"magic\"", "free magic: expected batch, scale_bits"),
        ("name = \"ndp.memory.mapping\"", "name = \"ndp.memory.magic\"", "machine ndp has no number ndp.memory.magic"),
        ("\"bank-interleaved\"", "\"best\"", "must be one of robaracoch"),
        ("from = 0.0\nto = 1000.0", "from = 10.0\nto = 5.0", "expected from below to, found 10 and 5"),
        ("from = 0.0\nto = 1.0", "from = 0.0\nto = 1.5", "within 0 to 1"),
        ("from = 0.0", "from = -1.0", "within 0 to 1000000"),
        ("values = [1, 2, 4]", "values = [1, 2, 1]", "\"1\" is there twice"),
        ("values = [1, 2, 4]", "values = [0]", "expected 1 to 16 sequences, found 0"),
        ("values = [1, 2, 4]", "values = []", "expected 1 to 64 values, found 0"),
        ("values = [1, 2, 4]", "from = 1.0\nto = 4.0", "expected values, and neither from nor to"),
        ("low = 6.6", "low = 9.9", "a range above 0 that rises, found 9.9 to 8.3"),
        ("low = 6.6", "value = 6.6", "expected value, or low and high"),
        ("error = 0.01", "error = 0.0", "error: expected 0.0001 to 1"),
        ("of = \"ours\"", "of = \"theirs\"", "of: expected a strategy of the file"),
        ("bits = 3", "bits = 7", "bits: expected 1 to 4, or 16"),
        ("system = \"ndp\"", "system = \"none\"", "system: expected one of offload"),
        ("name = \"Mixtral-8x7B\"", "name = \"Mixture\"", "expected a model whose sizes are known"),
        ("text = \"hobbit\"", "text = \"hobby\"", "strategy hobbit"),
        ("holds = 1.0\nplaces", "places", "expected holds, or a free parameter ours.holds"),
        ("value = \"row-contiguous\"", "value = \"best\"", "hypothesis on ndp.memory.mapping"),
        ("repeats = \"8x22B, 3 bits: decode\"", "repeats = \"nothing\"", "repeats: expected a figure"),
        ("title = ", "subtitle = ", "unknown field `subtitle`"),
        ("answer = 2048", "answer = 0", "prompt and answer: expected both"),
    ] {
        let sentence = refusal(from, to);
        assert!(sentence.contains(expected) && !sentence.contains('\n'), "{to}: {sentence}");
    }
}

#[test]
fn a_machine_is_changed_where_the_path_leads() {
    let paper = Paper::find("ctx-aware").unwrap();
    let value = toml::Value::from(0.9);
    let machine = paper.machine(&[("link.copy_efficiency", &value)]).unwrap();
    assert!((machine.link().copy_gb_s() / paper.machine(&[]).unwrap().link().copy_gb_s() - 0.9 / 0.787).abs() < 1e-12);
    assert_eq!(paper.machine(&[]).unwrap().gpu().kernels_per_layer, 0);
    let paper = Paper { set: BTreeMap::new(), ..paper };
    assert_eq!(paper.machine(&[]).unwrap(), *System::find("ndp").unwrap());
}

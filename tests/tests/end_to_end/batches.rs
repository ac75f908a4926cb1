//! `cptr inspect --batches`: tokens that run together.

use serde_json::Value;

use crate::traces::{bundled, number};

const TINY: &str = "tiny-moe-8m.safetensors";

#[test]
fn batches_by_tokens_and_choice() {
    let folder = bundled();
    let found = folder.json(&format!("inspect {TINY} --tokens 1920 --batches --eps 0.08 --resident 8 --json"));
    assert_eq!((&found["schema"], &found["resident"]), (&"cptr.inspect/1".into(), &8.into()));
    let rows = found["rows"].as_array().unwrap();
    let row = |tokens: u64, choice: &str| -> &Value {
        rows.iter().find(|row| row["tokens"] == tokens && row["choice"] == choice).unwrap()
    };
    assert_eq!(rows.len(), 12);
    for tokens in [2, 4, 8, 16] {
        let [raw, in_turn, joint] = ["raw", "in turn", "joint"].map(|choice| row(tokens, choice));
        assert_eq!(number(&raw["batches"]), 1920.0 / tokens as f64);
        let of = |key: &str| [raw, in_turn, joint].map(|row| number(&row[key]));
        for key in ["distinct", "loads"] {
            assert!(of(key).is_sorted_by(|more, less| more > less), "{tokens} tokens, {key}: {:?}", of(key));
        }
        assert!(of("waves")[2] <= of("waves")[0]);
        assert_eq!((number(&raw["mass_loss"]), &raw["loads_saved"]), (0.0, &Value::Null));
        assert!(number(&joint["mass_loss"]) > 0.0 && number(&joint["worst_mass_loss"]) <= 0.08 + 1e-6);
        assert!(number(&joint["distinct_saved"]) > 0.2, "{joint:#}");
    }
    let text = folder.run(&format!("inspect {TINY} --tokens 480 --batches=3")).ok().stdout;
    for part in ["| in turn ", "| joint ", "fewer loads", "mass loss"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Ids only: what the model wants is all that can be asked.
    let ids = folder.json("inspect gpt-oss-20b.safetensors --tokens 600 --batches --json");
    assert!(ids["rows"].as_array().unwrap().iter().all(|row| row["choice"] == "raw"));
    assert!(ids["notes"].to_string().contains("bounded choices are left out: the trace has no logits"), "{ids:#}");
}

#[test]
fn refusals_of_batches() {
    let folder = bundled();
    for (arguments, part) in [
        (format!("inspect {TINY} --batches=0"), "--batches: expected 1 to 4096 tokens, found 0"),
        (format!("inspect {TINY} --batches --eps 1.5"), "--eps: expected a share from 0 to 1, found 1.5"),
        (format!("inspect {TINY} --batches --resident 40"), "--resident: expected 1 to 32 experts per layer, found 40"),
        (format!("inspect {TINY} --batches --recall"), "--recall"),
        (format!("inspect {TINY} --batches=two"), "invalid value 'two'"),
    ] {
        let sentence = folder.refusal(&arguments);
        assert!(sentence.contains(part), "cptr {arguments}: {sentence}");
    }
}

//! Recordings that mislead whoever takes them for what they look like (`sim/trace/tests/cases`), through the command.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{Folder, finish};
use crate::traces::number;

pub(crate) fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/trace/tests/cases").join(name)
}

fn rows(folder: &Folder, arguments: &str, name: &str) -> Vec<Value> {
    finish(folder.command(arguments).arg(case(name))).json()["rows"].as_array().unwrap().clone()
}

/// Stand-ins keep to the groups of DeepSeek-V2, which the file does not mention.
#[test]
fn groups_are_kept_and_so_is_the_bound() {
    let folder = Folder::new();
    let names = "raw,bounded:eps=0.04,bounded:eps=0.04:keep=0+lru,bounded:eps=0.3";
    let rows = rows(&folder, &format!("run --json --resident 8 --strategy {names}"), "deepseek_v2_grouped.safetensors");
    for (row, eps) in rows.iter().zip([0.0, 0.04, 0.04, 0.3]) {
        for loss in [number(&row["mass_loss"]), number(&row["worst_mass_loss"])] {
            assert!((0.0..=eps + 1e-6).contains(&loss), "{eps}: {loss}");
        }
    }
    assert!(number(&rows[3]["mass_loss"]) > 0.0);
}

/// A recorded choice that is not what its logits say: no bound is promised on it.
#[test]
fn no_bound_where_logits_do_not_explain_the_choice() {
    let folder = Folder::new();
    let path = case("choice_not_top.safetensors");
    let said = folder.refusal(&format!("run {} --strategy bounded:eps=0.04", path.display()));
    assert!(said.contains("select bounded cannot keep its bound here"), "{said}");
    assert!(!rows(&folder, "run --json --strategy lru,tracked", "choice_not_top.safetensors").is_empty());
}

/// A server's warm-up is not what it serves.
#[test]
fn start_up_rows_are_left_out() {
    let folder = Folder::new();
    let misses = |options: &str, name: &str| {
        number(&rows(&folder, &format!("run --json --resident 16 --strategy lru {options}"), name)[0]["stall_rate"])
    };
    let without = misses("", "vllm_without_profiling.jsonl");
    assert!((without - 0.745).abs() < 0.0005, "{without}");
    assert_eq!(misses("", "vllm_profiling.jsonl"), without);
    assert!(misses("--keep-startup", "vllm_profiling.jsonl") < 0.2);
}

/// Null experts are nothing to load, and rows of fewer experts count what they have.
#[test]
fn null_experts_and_short_rows_run() {
    let folder = Folder::new();
    let all = rows(&folder, "run --json --resident 8 --strategy lru,belady --experts 32", "zero_experts.npz");
    assert!(all.iter().all(|row| (0.0..=1.0).contains(&number(&row["stall_rate"]))));
    assert!(number(&all[1]["stall_rate"]) <= number(&all[0]["stall_rate"]));
    let wide = rows(&folder, "run --json --strategy lru", "nemotron_super_ids.npz");
    assert_eq!(wide.len(), 1);
}

//! `cptr serve`.

use crate::command::Folder;
use crate::plan::compare_blocks;
use crate::traces::number;

const DOCUMENT: &str = include_str!("../../../docs/serving.md");

#[test]
fn what_the_chapter_shows_is_what_is_printed() {
    assert!(compare_blocks(DOCUMENT) >= 3);
}

/// The table of batches that were measured: the row "here" is what the command says.
#[test]
fn batches_of_the_chapter_are_those_of_the_command() {
    let folder = Folder::new();
    let row = |name: &str| -> Vec<f64> {
        let line = DOCUMENT.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
        line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect()
    };
    let (batches, measured, here) = (row("requests at once"), row("measured"), row("here"));
    for ((batch, measured), here) in batches.iter().zip(&measured).zip(&here) {
        let rows = folder.rows(&format!(
            "serve gpt-oss-120b --system spark --bits 4.25 --dense-bits 4.25 --at-once --requests {batch} \
             --batch {batch} --prompt 1024 --step-tokens 4096"
        ));
        let found = batch / number(&rows[0]["served"]["per_token_us"]["p50"]) * 1e6;
        assert!((found - here).abs() < 0.06, "{batch}: {found} {here}");
        assert!((0.5..1.5).contains(&(found / measured)), "{batch}: {found} {measured}");
    }
}

#[test]
fn more_requests_wait_longer_and_arrivals_may_be_a_file() {
    let folder = Folder::new();
    let rows = folder.rows("serve qwen3-30b-a3b --rate 1,10,30 --requests 300");
    for pair in rows.windows(2) {
        let p99 = |row: &serde_json::Value| number(&row["served"]["first_token_us"]["p99"]);
        assert!(p99(&pair[0]) < p99(&pair[1]));
    }
    folder.file("arrivals.csv", "arrival_s,prompt,output\n0,100,10\n0,100,10\n2.5,50,5\n");
    let served = &folder.rows("serve olmoe --arrivals arrivals.csv")[0]["served"];
    assert_eq!((served["requests"].as_u64(), served["output_tokens"].as_u64()), (Some(3), Some(25)));
    let at = |line: &str| number(&folder.rows(line)[0]["served"]["tokens_per_s"]);
    let near = at("serve deepseek-v3 --system ndp --at-once --requests 4 --prompt 32 --experts near-data");
    let copied = at("serve deepseek-v3 --system ndp --at-once --requests 4 --prompt 32 --experts copied");
    assert!(near > copied, "{near} {copied}");
}

/// Less memory for keys and values: requests lose theirs, and users wait for it.
#[test]
fn a_full_memory_is_counted_and_waited_for() {
    let folder = Folder::new();
    let line = "serve qwen3-30b-a3b --rate 10 --requests 100 --output 256 --kv-memory";
    let at = |rest: &str| folder.rows(&format!("{line} {rest}"))[0]["served"].clone();
    let [roomy, again, swap, never] = ["2", "0.4", "0.4 --preempt swap", "0.4 --preempt never"].map(at);
    let count = |served: &serde_json::Value, key: &str| served[key].as_u64().unwrap();
    assert_eq!((count(&roomy, "preemptions"), count(&never, "preemptions")), (0, 0));
    assert!(count(&again, "preemptions") > 0 && count(&again, "recomputed_tokens") > 512);
    assert!(count(&swap, "preemptions") > 0 && number(&swap["swap_s"]) > 0.0);
    let p99 = |served: &serde_json::Value| number(&served["request_us"]["p99"]);
    assert!(p99(&again) > p99(&roomy), "{again} {roomy}");
}

/// Each wait is in its band, and the band is the plan's where nothing queues.
#[test]
fn waits_have_bands() {
    let folder = Folder::new();
    for line in [
        "serve qwen3-30b-a3b --rate 1,8 --requests 200",
        "serve gpt-oss-120b --system workstation --rate 0.2 --requests 40",
    ] {
        for row in folder.rows(line) {
            let at = |pace: &str, key: [&str; 2]| number(&row[pace][key[0]][key[1]]);
            for time in ["first_token_us", "per_token_us", "request_us"] {
                for part in ["mean", "p50", "p95", "p99"] {
                    let [low, found, high] = ["fastest", "served", "slowest"].map(|pace| at(pace, [time, part]));
                    assert!(low < found && found < high, "{line}: {time} {part} {low} {found} {high}");
                }
            }
        }
    }
    let (alone, one) =
        ("serve qwen3-30b-a3b --at-once --requests 1 --prompt 1 --output 100", "--system offload --context 51");
    let served = &folder.rows(alone)[0];
    let way = &folder.rows(&format!("plan qwen3-30b-a3b {one}"))[0];
    let width = |low: f64, high: f64| high / low;
    let of_serving =
        width(number(&served["fastest"]["per_token_us"]["p50"]), number(&served["slowest"]["per_token_us"]["p50"]));
    let of_plan = width(number(&way["low_tokens_per_s"]), number(&way["high_tokens_per_s"]));
    assert!((of_serving / of_plan - 1.0).abs() < 0.01, "{of_serving} {of_plan}");
}

/// Texts of one kind share experts, and are served faster than independent tokens would be.
#[test]
fn a_batch_has_as_much_in_common_as_in_the_trace() {
    let folder = crate::traces::bundled();
    let line = "serve gpt-oss-20b --at-once --requests 16 --trace gpt-oss-20b.safetensors";
    let page = |texts: &str| folder.json(&format!("{line} --texts {texts} --json"));
    let (one, all) = (page("one-kind"), page("all-kinds"));
    let p50 = |page: &serde_json::Value| number(&page["rows"][0]["served"]["per_token_us"]["p50"]);
    assert!(p50(&one) < p50(&all), "{} {}", p50(&one), p50(&all));
    let row = one["together"].as_array().unwrap().iter().find(|row| row["tokens"] == 16).unwrap();
    let counted = ["one_text", "one_kind", "all_kinds"].map(|key| number(&row[key]));
    assert!(counted.is_sorted() && number(&row["one_kind_off"]) > 0.1, "{row}");
    assert!((number(&row["independent"]) / counted[1] - 1.0 - number(&row["one_kind_off"])).abs() < 1e-9);
}

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = crate::traces::bundled();
    folder.file("late.csv", "1,1,1\n0,1,1\n");
    for (line, expected) in [
        ("serve", "<MODEL|config.json>"),
        ("serve olmoe --rate 0", "--rate: expected"),
        ("serve olmoe --rate nan", "--rate: expected"),
        ("serve olmoe --requests 0", "--requests"),
        ("serve olmoe --batch 100 --step-tokens 10", "a step of 10 tokens"),
        ("serve olmoe --arrivals late.csv", "late.csv: line 2: expected no earlier"),
        ("serve olmoe --arrivals none.csv", "none.csv"),
        ("serve olmoe --trace gpt-oss-20b.safetensors", "expected 8 of 64 experts a token"),
        ("serve olmoe --kv-memory 1000", "--kv-memory: expected at most"),
        ("serve olmoe --kv-memory nan", "--kv-memory: expected at most"),
        ("serve olmoe --texts one-kind", "--trace"),
        ("serve olmoe --preempt ask", "never, recompute, swap"),
        ("serve olmoe --experts near-data", "--experts: expected what offload can do"),
        ("serve deepseek-v3 --system workstation", "RTX 4090 has 24 GB"),
        ("serve deepseek-v3 --system ndp --prompt 1000000", "GB"),
    ] {
        let found = folder.refusal(line);
        assert!(found.contains(expected), "cptr {line}: {found}");
    }
}

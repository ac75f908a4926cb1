//! `cptr run` on a model: a tiny checkpoint with random weights, whose vocabulary is letters.

use std::fs;
use std::path::Path;

use cptr_hw_model::{ExpertRun, LayerTimes, Model, System};

use crate::command::Folder;

fn folder() -> Folder {
    let folder = Folder::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/model/tests/golden/olmoe");
    for file in fs::read_dir(golden).unwrap() {
        let file = file.unwrap();
        folder.file(&format!("model/{}", file.file_name().to_string_lossy()), fs::read(file.path()).unwrap());
    }
    for (domain, step) in [("prose", 7), ("verse", 11)] {
        for part in 0..3_u32 {
            let letters = (0..200).map(|i: u32| char::from(b'a' + ((i * i + part) * step % 26) as u8));
            folder.file(&format!("text/{domain}/{part}.txt"), letters.collect::<String>());
        }
    }
    folder
}

fn number(row: &serde_json::Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"))
}

#[test]
fn what_changes_nothing_costs_nothing_to_the_last_bit() {
    let folder = folder();
    let rows = folder.rows("run model --text text --strategy raw,tracked,bounded:eps=0+lru,bounded:eps=0");
    assert_eq!(rows.len(), 4);
    let perplexity = number(&rows[0], "perplexity");
    for row in &rows {
        assert_eq!((number(row, "perplexity"), number(row, "perplexity_change")), (perplexity, 0.0), "{row}");
        assert_eq!((number(row, "divergence"), number(row, "mass_loss")), (0.0, 0.0));
        assert_eq!(row["by_domain"].as_array().unwrap().len(), 2);
        assert!(row["perplexity_change_low"].is_number());
    }
    // With all experts resident any bound leaves the choice as it is, once they are loaded.
    let experts = folder.row("capture model --text text/prose/0.txt --out t.safetensors")["experts"].clone();
    let all = folder.row(&format!("run model --text text --strategy bounded:eps=0.5 --resident {experts}"));
    assert!(number(&all, "miss_rate") < 0.1);
}

#[test]
fn a_wider_bound_misses_less_and_changes_more() {
    let folder = folder();
    let rows = folder.rows("run model --text text --strategy bounded:eps=0.05,bounded:eps=0.2,bounded:eps=0.5");
    for pair in rows.windows(2) {
        assert!(number(&pair[0], "miss_rate") >= number(&pair[1], "miss_rate"), "{pair:?}");
        assert!(number(&pair[0], "divergence") <= number(&pair[1], "divergence"), "{pair:?}");
    }
    assert!(number(&rows[2], "divergence") > 0.0 && number(&rows[2], "mass_loss") <= 0.5);
}

/// The band of times is that of the trace of the same text.
#[test]
fn times_have_the_band_of_the_trace() {
    let folder = folder();
    let text = "--text text/prose/0.txt";
    folder.row(&format!("capture model {text} --out t.safetensors"));
    let config: serde_json::Value = serde_json::from_slice(&folder.read("model/config.json")).unwrap();
    let sizes = format!("--hidden {} --expert-inner {}", config["hidden_size"], config["intermediate_size"]);
    let of_trace = folder.row(&format!("run t.safetensors --strategy lru --resident 4 {sizes}"));
    let of_model = folder.row(&format!("run model {text} --strategy lru --resident 4"));
    for (end, middle) in [
        ("low_token_time_us", "token_time_us"),
        ("high_token_time_us", "token_time_us"),
        ("low_tokens_per_s", "tokens_per_s"),
        ("high_tokens_per_s", "tokens_per_s"),
    ] {
        let [of_trace, of_model] = [&of_trace, &of_model].map(|row| number(row, end) / number(row, middle));
        assert!((of_trace / of_model - 1.0).abs() < 0.02, "{end}: {of_trace} {of_model}");
        assert_eq!(of_model < 1.0, end.starts_with("low"), "{end}: {of_model}");
    }
}

/// A strategy that looks from one layer into the next goes token by token, through the documents in the same order.
#[test]
fn layer_by_layer_and_token_by_token_read_the_same() {
    let folder = folder();
    let one = "text/prose/0.txt";
    let rows =
        folder.rows(&format!("run model --text {one} --strategy raw,lru+transition,bounded:eps=0+lru+transition"));
    for row in &rows[1..] {
        assert!(number(row, "perplexity_change").abs() < 1e-5 && number(row, "divergence").abs() < 1e-5, "{row}");
        assert!(number(row, "stall_rate") <= number(&rows[0], "stall_rate"), "{row}");
        assert!(
            number(row, "fetch_rate") > 0.0
                && (number(row, "switch_rate") - number(&rows[0], "switch_rate")).abs() < 1e-12
        );
    }
    // One that fetches nothing finds what it would find layer by layer, from document to document.
    let rows = folder.rows("run model --text text --strategy bounded:eps=0,bounded:eps=0+transition:most=0");
    assert!((number(&rows[0], "miss_rate") - number(&rows[1], "miss_rate")).abs() < 1e-3, "{rows:?}");
    // The next layer's router is asked, and changes no choice.
    let row = folder.row("run model --text text --strategy lru+gate-ahead");
    assert!(number(&row, "fetch_rate") > 0.0 && number(&row, "divergence").abs() < 1e-5, "{row}");
    // With a prompt all go token by token.
    let prompted = folder.row("run model --text text --prefill 20 --strategy bounded:eps=0");
    assert!(number(&prompted, "divergence").abs() < 1e-5, "{prompted}");
}

#[test]
fn one_document_has_no_interval() {
    let folder = folder();
    let output = folder.run("run model --text text/prose/0.txt --strategy bounded:eps=0.2 --json").ok();
    assert!(output.stderr.contains("One document: the interval"), "{}", output.stderr);
    let row = &output.json()["rows"][0];
    assert!(row["perplexity_change"].is_number() && row["perplexity_change_low"].is_null(), "{row}");
}

#[test]
fn the_frontier_goes_to_table_csv_and_plot() {
    let folder = folder();
    let strategies = "raw,cache-prior:lambda=0.1,cache-prior:lambda=0.4,bounded:eps=0.1,bounded:eps=0.3";
    let ran = folder.run(&format!("run model --text text --strategy {strategies} --csv f.csv --plot f.svg"));
    let table = ran.ok().stdout.clone();
    assert!(table.contains("bounded:eps=0.3") && table.contains("6 documents"), "{table}");
    let csv = String::from_utf8(folder.read("f.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 5);
    assert!(csv.starts_with("strategy,select,residency,prefetch,division,precision,perplexity,"), "{csv}");
    let svg = String::from_utf8(folder.read("f.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("bounded:eps=0.3") && svg.trim_end().ends_with("</svg>"));
}

#[test]
fn fewer_bits_cost_more() {
    let folder = folder();
    folder.run("quantize model --group 32 --calibration text --tokens 1000").ok();
    let run = |strategies: &str| {
        folder.rows(&format!("run model --text text --replicas model-low-bit --system ndp --strategy {strategies}"))
    };
    let everywhere = [4, 3, 2, 1].map(|bits| format!("lru+uniform:bits={bits}:everywhere=on")).join(",");
    let divergences: Vec<f64> = run(&everywhere).iter().map(|row| number(row, "divergence")).collect();
    assert!(divergences.windows(2).all(|pair| pair[0] < pair[1]) && divergences[0] > 0.0, "{divergences:?}");
    let rows = run("lru+in-place+uniform:bits=2,near-only+mean:bits=3,near-only:bits=3");
    // Experts in fast memory run the model's own weights.
    assert!(number(&rows[0], "divergence") < divergences[2], "{divergences:?} {rows:?}");
    // Three bits on average over the experts; those that are wanted most get more.
    assert_eq!(number(&rows[1], "full_precision"), 0.0);
    assert!((3.0..=4.0).contains(&number(&rows[1], "mean_near_bits")), "{rows:?}");
    assert!((number(&rows[2], "divergence") - divergences[1]).abs() < 1e-9, "{divergences:?} {rows:?}");
}

/// The engine in the command's process runs what is not in fast memory; the command compares each result.
#[test]
fn cold_experts_run_on_a_controller() {
    let folder = folder();
    folder.run("quantize model --group 32 --method rtn --calibration text --tokens 500").ok();
    let run = "run model --text text/prose --length 40 --resident 2 --replicas model-low-bit";
    let text = folder.run(&format!("{run} --controller host")).ok().stdout.clone();
    assert!(text.contains("every decision the strategy's"), "{text}");
    assert!(text.contains("every result of an expert is that of the kernels in this process, bit for bit"), "{text}");
    let found = |bits: u8| {
        let strategy = format!("bounded:eps=0+in-place+uniform:bits={bits}");
        let whole = folder.json(&format!("{run} --json --controller host --strategy {strategy}"));
        let (row, controller) = (&whole["rows"][0], &whole["controller"]);
        let tokens = number(controller, "tokens");
        // Two layers, three experts a token, of which some are in fast memory.
        let jobs = number(controller, "jobs");
        assert!(jobs > tokens && jobs < 6.0 * tokens, "{whole}");
        // Each of them takes as long as the model of the device says, to the nanosecond.
        let (system, model) = (System::find("ndp").unwrap(), Model::new("olmoe", 16, 8));
        let near_ps = LayerTimes::new(system, &model).near_run_ps(ExpertRun::at(bits.into()));
        let near_ns = number(controller, "near_us") * 1e3 * tokens / jobs;
        assert!((near_ns - (near_ps / 1e3).round()).abs() < 1e-6 && near_ns > 0.0, "{near_ps}: {controller}");
        // The same decisions as without a controller; its experts round activations to 8 bits, which costs little.
        let rows = folder.rows(&format!("{run} --system ndp --strategy {strategy}"));
        let without = rows.iter().find(|row| row["select"] == "bounded:eps=0").unwrap_or(&rows[0]);
        assert!((number(row, "divergence") / number(without, "divergence") - 1.0).abs() < 0.3, "{row} {without}");
        number(row, "divergence")
    };
    assert!(found(1) > found(4));
    for (arguments, part) in [
        (
            "--controller host --strategy bounded",
            "--controller: expected experts that run near the data at 1 to 4 bits",
        ),
        ("--controller host --strategy bounded,raw", "--controller host: expected one strategy, found 2"),
        ("--controller host --prefill 4", "--controller: expected no prompt (--prefill 0) for a model, found 4"),
    ] {
        let refusal = folder.refusal(&format!("{run} {arguments}"));
        assert!(refusal.contains(part), "{arguments}: {refusal}");
    }
}

#[test]
fn refuses_with_one_sentence() {
    let folder = folder();
    for (arguments, part) in [
        ("run model", "--text: expected files or folders"),
        ("run model --text nowhere.txt", "nowhere.txt: "),
        ("run model --text text --resident 0", "--resident: expected 1 to"),
        ("run model --text text --strategy lru+uniform:bits=3:everywhere=on", "--replicas: expected the folder"),
        ("run model --text text --strategy magic", "expected a strategy"),
        ("run model --text text --strategy raw+foresight", "residency foresight needs"),
        ("run model --text text --prefill 199", "two tokens longer than their prompt"),
        ("run nowhere --text text", "nowhere/config.json: "),
    ] {
        let refusal = folder.refusal(arguments);
        assert!(refusal.contains(part), "{arguments}: {refusal}");
    }
}

/// What the README says of the bundled model is what the command finds.
#[test]
#[ignore = "reads 55,000 tokens once for each of 22 strategies: minutes; cargo test -p cptr-tests -- --ignored readme"]
fn readme_says_what_the_model_loses() {
    let folder = Folder::new();
    let errors = [0.02, 0.025, 0.03, 0.035, 0.04, 0.05].map(|error| format!("bounded:eps=0.3:error={error}"));
    let bounds = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06].map(|eps| format!("bounded:eps={eps}"));
    let rivals = [0.02, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3].map(|lambda| format!("cache-prior:lambda={lambda}"));
    let strategies = [&errors[..], &bounds, &rivals].concat().join(",");
    let whole = folder.json(&format!("run --strategy raw,tracked,{strategies} --json"));
    let verdict = whole["verdicts"].as_array().unwrap().iter().find(|verdict| {
        let of = ["select", "residency", "price"].map(|key| verdict[key].as_str().unwrap());
        of == ["bounded", "tracked", "perplexity_change"] && verdict["paid"] == 0.005
    });
    let verdict = verdict.unwrap_or_else(|| panic!("{}", whole["verdicts"]));
    let found = ["fewer_than_raw", "fewer_than_cache_prior"].map(|key| (number(verdict, key) * 100.0).round());
    let readme = include_str!("../../../README.md").replace('\n', " ");
    let sentence = readme.split("At half a per cent of perplexity").nth(1).unwrap();
    let said: Vec<f64> =
        sentence.split(" % less").take(2).map(|part| part.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(said, found);
}

//! Reports: every command writes one, machines read the same, and two runs are compared.

use serde_json::Value;

use crate::command::Folder;
use crate::traces::{BUNDLED, bundled};

const TINY: &str = BUNDLED[0];
const GPT_OSS: &str = BUNDLED[1];

/// A command line for every command that needs no language model, but for `demo`, which has tests of its own.
fn every_command() -> Vec<String> {
    vec![
        format!("inspect {TINY} --tokens 400"),
        format!("inspect {TINY} --tokens 400 --changes"),
        format!("inspect {TINY} --tokens 400 --forecast --prefill 100"),
        format!("inspect {TINY} --tokens 400 --recall"),
        format!("inspect {TINY} --tokens 400 --batches"),
        format!("run {TINY} --tokens 400 --strategy raw,bounded"),
        format!("run {TINY} --tokens 400 --strategy bounded --ablate"),
        format!("devices {GPT_OSS} --tokens 600"),
        format!("advise {GPT_OSS} --tokens 600"),
        "attack tracked --tries 2 --tokens 64".into(),
        "plan gpt-oss-20b".into(),
        "plan gpt-oss-20b --system ndp --map".into(),
        "plan --published".into(),
        "serve gpt-oss-20b --requests 20".into(),
        format!("convert {TINY} out.safetensors"),
        "gen --piecewise --tokens 100 out.safetensors".into(),
        "gen --like mixtral-8x7b --tokens 100 out.safetensors".into(),
        "layer".into(),
        "dram --requests 1000".into(),
        "dram --list".into(),
        "dram --constraints".into(),
        "budget".into(),
        "reproduce ctx-aware --fit".into(),
    ]
}

#[test]
fn every_command_says_what_was_run_and_what_came_out() {
    let folder = bundled();
    for line in every_command() {
        let whole = folder.json(&format!("{line} --json --report page.html"));
        let command = line.split(' ').next().unwrap();
        assert_eq!(whole["schema"], format!("cptr.{command}/1"), "{line}");
        assert_eq!(whole["command_line"], format!("cptr {line} --json --report page.html"));
        let answer = whole["answer"].as_str().unwrap_or_else(|| panic!("{line}: no answer"));
        assert!((20..500).contains(&answer.chars().count()) && answer.ends_with('.'), "{line}: {answer}");
        assert!(!answer.contains("NaN") && !answer.contains('\n') && !answer.contains('–'), "{line}: {answer}");
        let columns = whole["columns"].as_array().unwrap();
        assert!(columns.iter().all(|column| column["key"].is_string() && column["shown"].is_boolean()), "{line}");
        let page = String::from_utf8(folder.read("page.html")).unwrap();
        let start: String = answer.chars().take_while(|c| c.is_alphanumeric() || " .,:%".contains(*c)).collect();
        assert!(page.contains(&format!("<p class=\"answer\">{start}")), "{line}: {answer}");
        assert!(!page.contains("could not be drawn"), "{line}");
        let reads = line.contains(TINY) || line.contains(GPT_OSS);
        assert_eq!(whole["files"].as_array().unwrap().len(), usize::from(reads), "{line}");
        assert_eq!(page.contains("SHA-256"), reads, "{line}");
    }
}

/// The plots that each kind of run has.
#[test]
fn plots_are_there_where_their_numbers_are() {
    let folder = bundled();
    let titles = |line: &str| -> Vec<String> {
        folder.run(&format!("{line} --report page.html")).ok();
        let page = String::from_utf8(folder.read("page.html")).unwrap();
        page.split("<h3>").skip(1).map(|part| part.split("</h3>").next().unwrap().to_owned()).collect()
    };
    let run = titles(&format!("run {TINY} --tokens 2000 --strategy raw,recall-fetch,bounded"));
    for title in [
        "Price against gain",
        "Price against time",
        "Stalls over loads",
        "Time of a token",
        "Token times: median and tail",
        "Energy of a token by component",
        "Miss rate along the trace",
        "Phase track along the trace",
        "Misses and switches by layer",
        "Experts by layer",
    ] {
        assert!(run.iter().any(|found| found == title), "{title}: {run:?}");
    }
    // Misses that run near the data are no stalls.
    let near = titles(&format!("run {GPT_OSS} --tokens 1000 --system ndp --strategy raw,migrate"));
    assert!(near.iter().any(|title| title == "Stall rate along the trace"), "{near:?}");
    let inspect = titles(&format!("inspect {TINY} --tokens 2000"));
    for title in
        ["Hits over memory", "Phase track along the trace", "Experts by layer", "How soon experts are wanted again"]
    {
        assert!(inspect.iter().any(|found| found == title), "{title}: {inspect:?}");
    }
    assert_eq!(titles("dram --requests 1000 --device DDR4-3200"), ["Mix of commands", "Energy by commands"]);
    assert_eq!(titles("layer"), ["Busy times of a layer", "Energy of a layer by component"]);
    let ablation = titles(&format!("run {TINY} --tokens 400 --strategy recall-fetch --ablate"));
    assert!(ablation.iter().any(|title| title.starts_with("What the parts of recall-fetch change")), "{ablation:?}");
}

#[test]
fn energy_by_component_adds_up() {
    let folder = bundled();
    for row in folder.rows(&format!("run {GPT_OSS} --tokens 600 --system ndp --strategy raw,migrate")) {
        let parts: f64 = row["energy_by_component_uj"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
        assert!((parts / row["energy_uj"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{row:#}");
    }
    // What is waited for along the run comes to what is waited for in all.
    let row = folder.row(&format!("run {TINY} --tokens 1200 --strategy recall-fetch"));
    let series = row["stall_rate_timeline"].as_array().unwrap();
    let mean = series.iter().filter_map(Value::as_f64).sum::<f64>() / series.len() as f64;
    assert!((mean - row["stall_rate"].as_f64().unwrap()).abs() < 1e-9 && series.len() == 120, "{row:#}");
}

fn saved(folder: &Folder, name: &str, line: &str) {
    let output = folder.run(&format!("{line} --json")).ok();
    folder.file(name, output.stdout);
}

#[test]
fn two_runs_are_compared() {
    let folder = bundled();
    saved(&folder, "a.json", &format!("run {TINY} --tokens 400 --strategy raw,tracked,bounded --resident 8"));
    saved(&folder, "b.json", &format!("run {TINY} --tokens 400 --strategy raw,recall,bounded --resident 12"));
    let whole = folder.json("report a.json b.json --json --out page.html");
    assert_eq!((&whole["schema"], &whole["compared"]), (&"cptr.report/1".into(), &"run".into()));
    let rows = whole["rows"].as_array().unwrap();
    let of = |row: &str, key: &str| rows.iter().find(|found| found["row"] == row && found["key"] == key).unwrap();
    let misses = of("raw", "miss_rate");
    let (a, b) = (misses["a"].as_f64().unwrap(), misses["b"].as_f64().unwrap());
    assert!(b < a && misses["difference"] == b - a && misses["change"] == b / a - 1.0, "{misses}");
    let only: Vec<&str> = whole["only"].as_array().unwrap().iter().filter_map(|row| row["only"].as_str()).collect();
    assert_eq!(only, ["A", "B"]);
    let asked: Vec<&str> = whole["asked"].as_array().unwrap().iter().filter_map(|row| row["what"].as_str()).collect();
    assert_eq!(asked, ["--strategy", "--resident"]);
    assert!(whole["answer"].as_str().unwrap().starts_with("2 of 2 rows that both have differ"), "{}", whole["answer"]);
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    for part in ["token: A beside B", "Values that differ", "What was asked, or read, differently", "--resident"] {
        assert!(page.contains(part), "{part}");
    }
    // The same run does not differ from itself, whatever the command.
    for line in ["dram --requests 1000 --path fast", "plan gpt-oss-20b", "budget"] {
        saved(&folder, "c.json", line);
        let same = folder.run("report c.json c.json").ok();
        assert!(same.stdout.contains("No value differs"), "{line}: {}", same.stdout);
    }
    // A comparison can be compared.
    saved(&folder, "d.json", "report a.json b.json");
    assert!(folder.run("report d.json d.json").ok().stdout.contains("No value differs"));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = bundled();
    saved(&folder, "run.json", &format!("run {TINY} --tokens 100 --strategy raw"));
    saved(&folder, "budget.json", "budget");
    let text = String::from_utf8(folder.read("run.json")).unwrap();
    folder.file("later.json", text.replace("cptr.run/1", "cptr.run/2"));
    folder.file("half.json", &text[..text.len() / 2]);
    folder.file("deep.json", "[".repeat(100_000));
    folder.file("text.json", "no JSON at all");
    folder.file("bytes.json", [0xff, 0xfe, 0x00]);
    folder.file("empty.json", "");
    folder.file("other.json", "{\"schema\": 1, \"command\": \"run\", \"rows\": []}");
    for (line, part) in [
        ("report run.json", "the following required arguments were not provided: <B.json>"),
        ("report run.json no.json", "no.json: "),
        (
            "report run.json budget.json",
            "budget.json: expected schema cptr.run/1, as of the other run, found cptr.budget/1",
        ),
        (
            "report run.json later.json",
            "later.json: expected what --json prints, of schema cptr.COMMAND/1, found schema cptr.run/2",
        ),
        ("report half.json run.json", "half.json: expected what --json prints"),
        ("report deep.json run.json", "found no JSON object"),
        ("report text.json run.json", "found no JSON object"),
        ("report bytes.json run.json", "bytes.json: "),
        ("report empty.json run.json", "found no JSON object"),
        ("report other.json run.json --out page.html", "found none"),
        ("report run.json . --out page.html", "expected a file of at most"),
        ("report run.json run.json --out no/such/page.html", "no/such"),
    ] {
        let sentence = folder.refusal(line);
        assert!(sentence.contains(part) && sentence.chars().count() <= 300, "{line}: {sentence}");
    }
}

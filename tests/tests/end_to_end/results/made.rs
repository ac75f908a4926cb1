//! Made traces, whose contexts share no experts: what the detector is worth, and that what claims to do no harm does
//! none. Then the same of placement on recorded traces.

use std::path::PathBuf;

use cptr_trace::{Shape, Trace, native};

use super::context::{DEEPSEEK, QWEN3, pair, three_in_turn};
use super::{RESULTS, by_row, loads, mended, none_differs, run, sentence, stalls};
use crate::command::Folder;
use crate::plan::table;
use crate::shared;
use crate::traces::number;

const EXPERTS: u16 = 64;
const K: usize = 8;
/// As many experts as a context has, and as many as fit.
const FIT: u16 = 16;
/// Sizes for times, and as many experts in GPU memory as a context has.
const PLACED: &str = "--chunk 0 --resident 16 --system ndp --model Qwen3-30B-A3B";

/// What the tokens of a made trace choose.
#[derive(Clone, Copy)]
enum Order {
    /// Eight of the sixteen experts of as many contexts, each for so many tokens in turn.
    Contexts(usize, usize),
    /// The same with two contexts, every second layer ahead by 64 tokens.
    Apart(usize),
    /// Eight consecutive experts that move on by two every 12 tokens.
    Walk,
    /// Any eight experts.
    None,
    /// Always the same.
    Same,
}

impl Order {
    /// As a row of a table names it, but for the lengths.
    fn of(row: &str, tokens: usize) -> Self {
        match row {
            "a walk" | "moving on by two" => Self::Walk,
            "no order" => Self::None,
            "no change" => Self::Same,
            _ if row.starts_with("layers out of step") => Self::Apart(tokens),
            _ if row.starts_with("two") => Self::Contexts(2, tokens),
            _ if row.starts_with("four") => Self::Contexts(4, tokens),
            _ => panic!("no such trace: {row}"),
        }
    }

    /// As sim/src/replay/tests/safe.rs draws it.
    fn choose(self, random: &mut fastrand::Rng, token: usize, layer: usize) -> Vec<u16> {
        let mut of_context = |context: usize| {
            let first = FIT * context as u16;
            random.choose_multiple(first..first + FIT, K)
        };
        match self {
            Self::Contexts(contexts, length) => of_context(token / length % contexts),
            Self::Apart(length) => of_context((token + 64 * layer) / length % 2),
            Self::Walk => (0..K).map(|i| ((token / 12 * 2 + i) % usize::from(EXPERTS)) as u16).collect(),
            Self::None => random.choose_multiple(0..EXPERTS, K),
            Self::Same => (0..K as u16).collect(),
        }
    }

    /// Tokens of it as a native trace.
    fn write(self, folder: &Folder, tokens: usize, layers: usize) -> PathBuf {
        let mut random = fastrand::Rng::with_seed(7);
        let shape = Shape { tokens, layers, experts: EXPERTS.into(), k: K };
        let places = (0..tokens).flat_map(|token| (0..layers).map(move |layer| (token, layer)));
        let ids = places.flat_map(|(token, layer)| self.choose(&mut random, token, layer)).collect();
        let path = folder.path().join("made.safetensors");
        native::write(&Trace::of_ids(shape, ids), &path).expect("a trace is written");
        path
    }
}

/// The first number of a text, 1 where there is none.
fn length(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_digit()).find_map(|part| part.parse().ok()).unwrap_or(1)
}

/// As the document writes a number below a million.
fn count(number: f64) -> String {
    let whole = number.round() as u64;
    if whole < 1000 { whole.to_string() } else { format!("{},{:03}", whole / 1000, whole % 1000) }
}

/// Placements that move, and the one that does not; and what evictions miss.
#[test]
#[ignore = "made traces run for ten seconds"]
fn what_the_detector_is_worth() {
    const HEADING: &str =
        "| trace | single migration | `periodic:interval=64` | `migrate` | without the detector | `foresight` |";
    const STRATEGIES: [&str; 5] =
        ["ctx-aware", "periodic:interval=64", "migrate", "migrate:reopened=0.0078125", "foresight"];
    let folder = Folder::new();
    let trace = |row: &str| Order::of(row, length(row)).write(&folder, 6000, 8);
    let placed = by_row(HEADING, &table(RESULTS, HEADING), |_, row| {
        let rows = run(&trace(row[0]), PLACED, &STRATEGIES);
        rows.iter().map(|row| vec![number(&row["tokens_per_s"])]).collect()
    });
    let [second, third] = ["four contexts, 128 tokens each", "four contexts, 64 tokens each"].map(|row| {
        let rows = run(&trace(row), "--chunk 0 --resident 16", &["tracked", "lru", "belady"]);
        assert_eq!(stalls(&rows[1]).to_bits(), stalls(&rows[2]).to_bits(), "LRU is as good as Belady's choice");
        [0, 1].map(|at| 100.0 * stalls(&rows[at]))
    });
    let misses = format!(
        "misses {:.2} % on the second of them and {:.1} % on the third, where LRU, as good as Belady's choice, misses \
         {:.2} and {:.2} %",
        second[0], third[0], second[1], third[1]
    );
    none_differs([placed, sentence(misses)]);
}

#[test]
#[ignore = "made traces run for ten seconds"]
fn loads_on_made_traces() {
    const HEADING: &str = "| contexts | LRU | tracked | recall | safe | LRU, prompt | tracked | recall | safe |";
    const LAYERS: usize = 2;
    const TOKENS: usize = 3000;
    let folder = Folder::new();
    let said = table(RESULTS, HEADING);
    let row = |said: &Vec<&str>| {
        let trace = Order::of(said[0], length(said[0])).write(&folder, TOKENS, LAYERS);
        let after = |prompt: usize| {
            let options = format!("--chunk 0 --resident {FIT} --prefill {prompt}");
            let rows = run(&trace, &options, &["lru", "tracked", "recall", "safe"]);
            let choices = ((TOKENS - prompt) * LAYERS * K) as f64;
            rows.iter().map(|row| count(choices * loads(row))).collect::<Vec<_>>()
        };
        [vec![said[0].to_owned()], after(0), after(512)].concat()
    };
    let found: Vec<Vec<String>> = said.iter().map(row).collect();
    none_differs([mended(HEADING, &said, &found)]);
}

/// Times of placements that move to those of the one that does not.
#[test]
#[ignore = "made traces run for ten seconds"]
fn placement_on_made_traces() {
    const HEADING: &str = "| contexts | migrate | safe-migrate |";
    const STRATEGIES: [&str; 3] = ["raw+once:alpha=0.5+slack+uniform", "migrate", "safe-migrate"];
    let folder = Folder::new();
    none_differs([by_row(HEADING, &table(RESULTS, HEADING), |_, row| {
        let numbers = |part: &str, lengths: &str| {
            let of = |text: &str| {
                let trace = Order::of(part, length(text)).write(&folder, 6000, 2);
                let rows = run(&trace, &format!("{PLACED} --prefill 512"), &STRATEGIES);
                let [placed, moving, safe] = [0, 1, 2].map(|at| number(&rows[at]["token_time_us"]));
                [moving / placed, safe / placed]
            };
            lengths.split(" / ").map(of).collect::<Vec<_>>()
        };
        // Lengths of one kind of trace, or two kinds.
        let found = match row[0].split_once(", ") {
            Some((part, lengths)) => numbers(part, lengths),
            None => row[0].split(" / ").flat_map(|part| numbers(part, "")).collect(),
        };
        [0, 1].map(|at| found.iter().map(|ratios| ratios[at]).collect::<Vec<_>>()).into()
    })]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn placement_on_recorded_traces() {
    const HEADING: &str = "| trace | placed once | migrate | safe-migrate | given up |";
    const STRATEGIES: [&str; 3] = ["raw+once:alpha=0.5+slack+uniform", "migrate", "safe-migrate"];
    let folder = Folder::new();
    none_differs([by_row(HEADING, &table(RESULTS, HEADING), |_, row| {
        let (trace, options) = match row[0] {
            "Qwen3, three domains in turn" => (three_in_turn(&folder), "--resident 32"),
            "Qwen3 code to general" => (pair(&folder, QWEN3, "code", "general"), "--resident 32"),
            "Qwen3 math to code" => (pair(&folder, QWEN3, "math", "code"), "--resident 32"),
            "Qwen3 code" => (shared::sets().join(QWEN3), "--resident 32 --domain code"),
            "gpt-oss-20b" => (shared::sets().join("gpt-oss-20b-decode"), "--resident 8"),
            "DeepSeek-V2-Lite, intent to law" => {
                (pair(&folder, DEEPSEEK, "intent", "law"), "--resident 16 --model DeepSeek-V2-Lite")
            }
            other => panic!("no such trace: {other}"),
        };
        let rows = run(&trace, &format!("--system ndp --prefill 512 {options}"), &STRATEGIES);
        let times = [0, 1, 2].map(|at| number(&rows[at]["token_time_us"]) / 1e3);
        let best = times[0].min(times[1]);
        // Of what the better of the two saves; what is faster than both gives up nothing.
        let given_up = ((times[2] - best) / (times[0].max(times[1]) - best)).max(0.0);
        println!("{}: {given_up}", row[0]);
        times.iter().map(|&time| vec![time]).chain([vec![given_up]]).collect()
    })]);
}

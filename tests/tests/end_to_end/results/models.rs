//! Tables of docs/compare.md: what strategies cost three models that read.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{again, mended, none_differs, stalls};
use crate::command::{Folder, finish};
use crate::plan::table;
use crate::traces::number;

const COMPARE: &str = include_str!("../../../../docs/compare.md");
/// The bundled model, one of a quarter of its parameters, and one of as many with another router: names, folders, and a
/// quarter of their experts.
const MODELS: [(&str, &str, u32); 3] =
    [("olmoe-2m", "models/olmoe-2m", 8), ("olmoe-8m", "model", 8), ("deepseek-8m", "models/deepseek-8m", 16)];
const RUNS: &str = "| strategy | olmoe-2m | change | divergence | olmoe-8m | change | divergence | deepseek-8m \
                    | change | divergence |";
const SAME_PRICE: &str =
    "| model | divergence | cache-prior, LRU | cache-prior | `eps` alone | `error` | `error` to cache-prior |";
/// Settings beside those of the first table, for what lies between.
const MORE: [&str; 5] = [
    "cache-prior:lambda=0.03",
    "cache-prior:lambda=0.05",
    "cache-prior:lambda=0.03+tracked",
    "bounded:eps=0.01",
    "bounded:eps=0.3:error=0.04",
];

/// A family of strategies: what it is with nothing given up, and whether a name is one of it.
type Family = (&'static str, fn(&str) -> bool);

/// In the order of the second table.
const FAMILIES: [Family; 4] = [
    ("lru", |name| name.starts_with("cache-prior") && !name.ends_with("+tracked")),
    ("tracked", |name| name.starts_with("cache-prior") && name.ends_with("+tracked")),
    ("tracked", |name| name.starts_with("bounded") && !name.contains("error")),
    ("tracked", |name| name.starts_with("bounded") && name.contains("error")),
];

/// What a family misses at a divergence, on straight lines between its settings.
fn at(divergence: f64, (nothing, is_of): &Family, rows: &BTreeMap<String, Value>) -> f64 {
    let of = rows.iter().filter(|(name, _)| *name == nothing || is_of(name));
    let mut points: Vec<[f64; 2]> = of.map(|(_, row)| [number(&row["divergence"]), stalls(row)]).collect();
    points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let after = points.iter().position(|point| point[0] > divergence).expect("a setting of a greater divergence");
    let [[low, more], [high, fewer]] = [points[after - 1], points[after]];
    more + (fewer - more) * (divergence - low) / (high - low)
}

#[test]
#[ignore = "three models read for minutes"]
fn the_same_on_other_models() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data");
    let said = table(COMPARE, RUNS);
    let names: Vec<&str> = said.iter().map(|row| row[0].split(' ').next().expect("a name")).collect();
    let mut found = BTreeMap::new();
    for (name, folder_of_model, resident) in MODELS {
        let strategies = [&names[..], &MORE].concat().join(",");
        let arguments = format!("run --json --resident {resident} --strategy {strategies}");
        let folder = Folder::new();
        let mut command = folder.command(&arguments);
        let all = finish(command.arg(data.join(folder_of_model)).arg("--text").arg(data.join("held-out"))).json();
        println!("{name}: perplexity {:.3}", number(&all["perplexity"]));
        let of = |row: &Value| (row["strategy"].as_str().expect("a name").to_owned(), row.clone());
        let rows: BTreeMap<String, Value> = all["rows"].as_array().expect("rows").iter().map(of).collect();
        found.insert(name, rows);
    }
    let runs = |(said, name): (&Vec<&str>, &&str)| {
        let keys = ["stall_rate", "perplexity_change", "divergence"];
        let numbers = MODELS.iter().flat_map(|(model, ..)| keys.map(|key| number(&found[model][*name][key])));
        let cells = said[1..].iter().zip(numbers).map(|(cell, number)| again(cell, &[number]));
        [said[0].to_owned()].into_iter().chain(cells).collect()
    };
    let runs: Vec<Vec<String>> = said.iter().zip(&names).map(runs).collect();
    let price = |said: &Vec<&str>| {
        let divergence = said[1].parse().expect("a divergence");
        let rates = FAMILIES.map(|family| at(divergence, &family, &found[said[0]]));
        let fewer = 1.0 - rates[3] / rates[1];
        let cells = said[2..6].iter().zip(rates).map(|(cell, rate)| again(cell, &[rate]));
        let last = format!("{:.0} % {}", 100.0 * fewer.abs(), if fewer < 0.0 { "more" } else { "fewer" });
        said[..2].iter().map(|&cell| cell.to_owned()).chain(cells).chain([last]).collect()
    };
    let priced = table(COMPARE, SAME_PRICE);
    let prices: Vec<Vec<String>> = priced.iter().map(price).collect();
    none_differs([mended(RUNS, &said, &runs), mended(SAME_PRICE, &priced, &prices)]);
}

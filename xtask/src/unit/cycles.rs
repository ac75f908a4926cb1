//! Cycles of requests, as the testbench counts them, against the table in docs/unit.md.

use std::collections::BTreeMap;

use crate::firmware::{Done, firmware_folder};

/// Rows of the table, from lines `cycles KIND EXPERTS K CHOICE WEIGHTS BEFORE COMMAND`; kinds are 0 bounded by mass, 1
/// by mass and error, 2 a softmax over all, 3 with learning, 4 a sigmoid, 5 scores in groups.
fn rows(text: &str) -> Done<Vec<String>> {
    let mut counts = BTreeMap::<(u64, u64), [[u64; 3]; 6]>::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("cycles ")) {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let Ok([kind @ 0..6, experts, k, choice, weights, _, command]) = numbers.as_deref() else {
            return Err(format!("no count of cycles: {line}"));
        };
        counts.entry((*experts, *k)).or_default()[*kind as usize] = [*choice, *weights, *command];
    }
    let row = |((experts, k), [mass, error, all, learn, sigmoid, scores]): (&(u64, u64), &[[u64; 3]; 6])| {
        let learning = learn[2].saturating_sub(mass[2]);
        let cells = [mass, error, all, sigmoid, scores]
            .map(|kind| kind[..2].iter().map(|&n| grouped(n)).collect::<Vec<_>>().join(" | "));
        format!("| {} | {k} | {} | {} |", grouped(*experts), cells.join(" | "), grouped(learning))
    };
    Ok(counts.iter().map(row).collect())
}

/// A number with commas.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|b| std::str::from_utf8(b).ok()).collect();
    groups.join(",")
}

/// Whether the table has what was counted.
pub(super) fn check(text: &str) -> Done {
    let path = firmware_folder().join("../docs/unit.md");
    let document = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let rows = rows(text)?;
    let missing: Vec<&String> = rows.iter().filter(|row| !document.lines().any(|line| line == *row)).collect();
    if rows.is_empty() {
        return Err("no cycles were counted".into());
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("docs/unit.md has not\n{}", rows.join("\n"))) }
}

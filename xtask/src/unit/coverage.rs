//! Which lines of the unit have run and which bits have toggled, as Verilator counts them.

use std::fs;
use std::path::Path;

use crate::firmware::{Done, firmware_folder};

/// Least share of the points that must be reached, in percent.
const LEAST: usize = 95;

/// A kind of points: how many there are, and how many were reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Points {
    all: usize,
    reached: usize,
}

/// Adds up the files of a folder; prints both kinds, and what was not reached of each file.
pub(super) fn report(folder: &Path) -> Done {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    for file in fs::read_dir(folder).map_err(failed)?.flatten() {
        if file.path().extension().is_some_and(|extension| extension == "dat") {
            add(&fs::read_to_string(file.path()).map_err(failed)?, &mut counts);
        }
    }
    let mut kinds = std::collections::BTreeMap::<&str, Points>::new();
    let mut left = std::collections::BTreeMap::<(String, &str), usize>::new();
    for (point, &count) in &counts {
        let Some((kind, place)) = described(point) else { continue };
        let points = kinds.entry(kind).or_default();
        points.all += 1;
        points.reached += usize::from(count > 0);
        if count == 0 {
            *left.entry((place, kind)).or_default() += 1;
        }
    }
    let mut missing: Vec<_> = left.into_iter().collect();
    missing.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for ((place, kind), count) in missing.iter().take(12) {
        println!("not reached: {count} {kind} at {place}");
    }
    if kinds.len() < 2 {
        return Err(format!("{}: no points of lines and toggles", folder.display()));
    }
    let low: Vec<_> = kinds.iter().filter(|(_, points)| points.reached * 100 < points.all * LEAST).collect();
    for (kind, Points { all, reached }) in &kinds {
        println!("coverage {kind}: {reached} of {all} points, {:.1} %", *reached as f64 * 100.0 / *all as f64);
    }
    if low.is_empty() { Ok(()) } else { Err(format!("less than {LEAST} % covered: {low:?}")) }
}

/// Adds the counts of a file: lines `C 'KEY' COUNT`. Points of the same place in several instances count once.
fn add(text: &str, counts: &mut std::collections::BTreeMap<String, u64>) {
    for line in text.lines() {
        let Some((key, count)) = line.strip_prefix("C '").and_then(|line| line.rsplit_once("' ")) else { continue };
        // The instance is the last of a point's fields.
        let key = key.split('\u{1}').filter(|field| !field.starts_with("h\u{2}")).collect::<Vec<_>>().join("\u{1}");
        *counts.entry(key).or_default() += count.parse::<u64>().unwrap_or(0);
    }
}

/// Kind and place of a point: fields of a name of a letter or more and a value.
fn described(point: &str) -> Option<(&'static str, String)> {
    let field = |name: &str| {
        point.split('\u{1}').find_map(|field| field.split_once('\u{2}').filter(|(found, _)| *found == name))
    };
    let (_, file) = field("f")?;
    let (_, page) = field("page")?;
    let (_, line) = field("l")?;
    let kind = if page.starts_with("v_toggle") { "toggles" } else { "lines" };
    let sources = firmware_folder().join("rtl/unit");
    let name = file.rsplit('/').next().unwrap_or(file);
    sources.join(name).exists().then(|| (kind, format!("{name}:{line}")))
}

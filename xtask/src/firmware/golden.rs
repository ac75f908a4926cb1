//! Committed output that a run must repeat.

use std::fs;

use super::command::{Done, folder};

/// Compares with `firmware/golden/FILE`, or writes it.
pub(super) fn golden(file: &str, found: &str, bless: bool) -> Done {
    golden_lines(file, found, |_| true, bless)
}

/// Compares with the lines of `firmware/golden/FILE` that `of` says are due, or writes it.
pub(super) fn golden_lines(file: &str, found: &str, of: impl Fn(&str) -> bool, bless: bool) -> Done {
    let file = folder().join("golden").join(file);
    if bless {
        fs::write(&file, found).map_err(|error| format!("{}: {error}", file.display()))
    } else if fs::read_to_string(&file).is_ok_and(|text| text.lines().filter(|line| of(line)).eq(found.lines())) {
        Ok(())
    } else {
        Err(format!("{} differs from\n{found}--bless takes it over", file.display()))
    }
}

/// The lines that begin with one of `starts`.
pub(super) fn lines(text: &str, starts: &[&str]) -> String {
    let wanted = text.lines().filter(|line| starts.iter().any(|start| line.starts_with(start)));
    wanted.map(|line| format!("{line}\n")).collect()
}

//! What is checked in: no line of a document or of a comment is longer than [`COLUMNS`] (code is the formatter's
//! business, which leaves strings alone), and no file larger than [`BYTES`] but for the few that are meant to be.

use std::path::Path;
use std::process::Command;

/// Most characters in a line.
const COLUMNS: usize = 120;
/// Most bytes of a file.
const BYTES: u64 = 1 << 20;
/// Files that are larger: three models and two recordings.
const LARGE: [&str; 5] = [
    "sim/data/gpt-oss-20b.safetensors",
    "sim/data/model/model.safetensors",
    "sim/data/models/deepseek-8m/model.safetensors",
    "sim/data/models/olmoe-2m/model.safetensors",
    "sim/data/tiny-moe-8m.safetensors",
];
/// Endings of files whose every line is prose, and of those in which only comments are, with what starts one.
const DOCUMENTS: [&str; 1] = ["md"];
const CODE: [(&str, &[&str]); 10] = [
    ("rs", &["//"]),
    ("py", &["#"]),
    ("toml", &["#"]),
    ("c", &["//", "/*", "*"]),
    ("h", &["//", "/*", "*"]),
    ("cpp", &["//", "/*", "*"]),
    ("sv", &["//"]),
    ("js", &["//"]),
    ("css", &["/*", "*"]),
    ("x", &["/*", "*"]),
];
/// Texts that are data, not documents: what the bundled model reads.
const NOT_OURS: [&str; 2] = ["sim/data/held-out/", "sim/data/calibration/"];

/// Whether all of the repository's lines are short and its files small enough; says which are not.
pub(crate) fn check(root: &Path) -> bool {
    let files = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let Some(files) = files.ok().filter(|out| out.status.success()).and_then(|out| String::from_utf8(out.stdout).ok())
    else {
        eprintln!("xtask: git ls-files failed: lines and sizes are checked in a checkout");
        return false;
    };
    let mut fine = true;
    for file in files.split('\0').filter(|file| !NOT_OURS.iter().any(|start| file.starts_with(start))) {
        let bytes = std::fs::symlink_metadata(root.join(file)).map_or(0, |of| of.len());
        if bytes > BYTES && !LARGE.contains(&file) {
            eprintln!("{file}: {bytes} bytes, more than {BYTES}: is it meant to be here?");
            fine = false;
        }
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        for number in long_lines(file, &text) {
            eprintln!("{file}:{number}: longer than {COLUMNS} columns");
            fine = false;
        }
    }
    fine
}

/// Numbers, from 1, of the lines of a file that are too long.
fn long_lines(file: &str, text: &str) -> Vec<usize> {
    let ending = file.rsplit('.').next().unwrap_or_default();
    let starts = CODE.iter().find(|(of, _)| *of == ending).map(|(_, starts)| *starts);
    if starts.is_none() && !DOCUMENTS.contains(&ending) {
        return Vec::new();
    }
    let prose =
        |line: &str| starts.is_none_or(|starts| starts.iter().any(|start| line.trim_start().starts_with(start)));
    let long = |line: &str| line.chars().count() > COLUMNS && prose(line);
    (1..).zip(text.lines()).filter(|(_, line)| long(line)).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_comments_are_looked_at() {
        let (long, wide) = ("x".repeat(121), "ü".repeat(120));
        let text = format!("{wide}\n{long}\n// {long}\n    /// {long}\nlet s = \"{long}\"; // {long}\n");
        assert_eq!(long_lines("a.md", &text), [2, 3, 4, 5]);
        assert_eq!(long_lines("b/a.rs", &text), [3, 4]);
        assert_eq!(long_lines("a.py", &text.replace("//", "#")), [3, 4]);
        assert!(long_lines("a.safetensors", &text).is_empty() && long_lines("Makefile", &text).is_empty());
    }
}

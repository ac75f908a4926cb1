//! `cargo xtask supply [STEP]…`: what this project is made of beside its own code, and whether an image is made of it
//! and nothing else (docs/supply.md).

mod advisories;
mod bill;
mod deny;
#[cfg(test)]
mod direct;
mod hidden;
mod images;
mod tree;

use std::path::PathBuf;

use crate::firmware::Done;

/// The workspaces, each with a lock file of its own.
const WORKSPACES: [&str; 4] = [".", "firmware", "sim/llama", "sim/python"];

/// How a step ended that did not fail.
pub(crate) enum Outcome {
    Passed,
    /// It could not be run, and why: nothing is known.
    NotRun(String),
}

/// A name, what is checked, and the check.
type Step = (&'static str, &'static str, fn() -> Done<Outcome>);

/// What is done, in this order.
pub(crate) const STEPS: [Step; 5] = [
    ("deny", "licences, versions that are there twice, sources", deny::check),
    ("advisories", "no locked crate has a known vulnerability", advisories::check),
    ("unsafe", "docs/supply.md names every linked crate with `unsafe`", hidden::check),
    ("sbom", "bills of materials of the command, an image and the C library", bill::check),
    ("reproducible", "two builds of the images in two folders are one", images::check),
];

/// The steps named, or all; whether none failed. A step that is named and could not be run has failed.
pub(crate) fn supply(names: &[String]) -> bool {
    let mut fine = true;
    let mut lines = Vec::new();
    for (name, about, step) in STEPS.iter().filter(|(name, ..)| names.is_empty() || names.iter().any(|n| n == name)) {
        eprintln!("-- {name}: {about}");
        lines.push(match step() {
            Ok(Outcome::Passed) => format!("{name:<12} passed"),
            Ok(Outcome::NotRun(why)) => {
                fine &= names.is_empty();
                format!("{name:<12} NOT RUN: {why}")
            }
            Err(error) => {
                fine = false;
                format!("{name:<12} FAILED: {error}")
            }
        });
    }
    lines.iter().for_each(|line| println!("{line}"));
    fine
}

/// Where this module writes.
fn folder() -> Done<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("supply");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn root() -> PathBuf {
    PathBuf::from(crate::ROOT)
}

fn read(path: &std::path::Path) -> Done<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What a program prints, if it succeeds.
fn output(command: &mut std::process::Command) -> Done<Vec<u8>> {
    let line = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{line}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

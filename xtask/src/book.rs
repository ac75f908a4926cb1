//! The book: `docs` by mdBook, below the build folder.

use std::process::{Command, Stdio};

use super::{ROOT, run};

/// What builds it.
const MDBOOK: &str = "0.5.4";

/// Whether it is built, every chapter of it.
pub(crate) fn build() -> bool {
    let known = Command::new("mdbook").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if known.is_err() && !run("cargo", &["install", "mdbook", "--locked", "--version", MDBOOK], &[]) {
        return false;
    }
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{ROOT}/target"));
    let folder = format!("{target}/book");
    run("mdbook", &["build", "--dest-dir", &folder, ROOT], &[])
        && ["index.html", "tutorial.html", "filter.html"].iter().all(|page| {
            let there = std::fs::metadata(format!("{folder}/{page}")).is_ok_and(|page| page.len() > 10_000);
            if !there {
                eprintln!("xtask: {folder}/{page}: missing or empty");
            }
            there
        })
}

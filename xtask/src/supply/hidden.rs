//! Crates that are linked and have `unsafe` in them: `docs/supply.md` has a row for each, and none for others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::tree::{edges, packages};
use super::{Outcome, read, root};
use crate::firmware::Done;

/// Libraries that forbid `unsafe` themselves, each with what its row in the table is called.
const LIBRARIES: [&str; 5] = ["cptr-core", "cptr-protocol", "cptr-hw-model", "cptr-trace", "cptr-sim"];
/// The line before the table.
const BEGIN: &str = "<!-- crates with unsafe -->";

pub(super) fn check() -> Done<Outcome> {
    let found = found()?;
    let document = read(&root().join("docs/supply.md"))?;
    let told = told(&document)?;
    let missing: Vec<&str> = found.keys().map(String::as_str).filter(|name| !told.contains(*name)).collect();
    let stale: Vec<&str> = told.iter().copied().filter(|name| !found.contains_key(*name)).collect();
    for (name, count) in &found {
        println!("{name:<20} {count:>6}");
    }
    match (&missing[..], &stale[..]) {
        ([], []) => Ok(Outcome::Passed),
        _ => {
            Err(format!("docs/supply.md lacks {missing:?}; has {stale:?}, which none of the libraries links any more"))
        }
    }
}

/// Crates that a library links, and how often the word stands in their code.
fn found() -> Done<BTreeMap<String, usize>> {
    let packages = packages(".")?;
    let mut linked = BTreeSet::new();
    for library in LIBRARIES {
        linked.extend(edges(".", library, None, "", "normal,no-proc-macro")?.into_keys());
    }
    let mut found = BTreeMap::new();
    for key in linked {
        let package = packages.get(&key).ok_or_else(|| format!("cargo metadata has no {}", key.0))?;
        let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
        let count = package.source.as_ref().map_or(Ok(0), |_| in_folder(&folder.join("src")))?;
        if count > 0 {
            *found.entry(key.0).or_default() += count;
        }
    }
    Ok(found)
}

fn in_folder(folder: &Path) -> Done<usize> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut count = 0;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            count += in_folder(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            count += words(&String::from_utf8_lossy(&text));
        }
    }
    Ok(count)
}

/// How often `unsafe` opens a block, a function, an implementation or a trait. Line comments do not count; a word in a
/// text may, which only makes the list longer.
fn words(code: &str) -> usize {
    let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join(" ");
    code.split(|c: char| c.is_whitespace() || "({[,;=|".contains(c)).filter(|word| *word == "unsafe").count()
}

/// Names in the first column of the table.
fn told(document: &str) -> Done<BTreeSet<&str>> {
    let (_, rest) = document.split_once(BEGIN).ok_or_else(|| format!("docs/supply.md has no {BEGIN}"))?;
    let rows = rest.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    Ok(rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split(','))
        .map(|name| name.trim().trim_matches('`'))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_counted_and_comments_are_not() {
        let code = "// unsafe {\nfn f() { unsafe { g() } }\npub unsafe fn h() {} // unsafe\n#![forbid(unsafe_code)]\n";
        assert_eq!(words(code), 2);
    }

    #[test]
    fn names_are_those_of_the_first_column() {
        let document = format!("x\n{BEGIN}\n\n| crate | for |\n|---|---|\n| `a`, `b` | c, d |\n| `e` | f |\n\n| `g` |");
        assert_eq!(told(&document).unwrap(), BTreeSet::from(["a", "b", "e"]));
    }
}

//! Crates that a manifest names: `docs/supply.md` says what each is for and why it was chosen.

use std::collections::BTreeSet;
use std::process::Command;

use super::{read, root};

/// The line before the table.
const BEGIN: &str = "<!-- direct dependencies -->";

#[test]
fn the_table_names_every_direct_dependency() {
    let files = Command::new("git").args(["ls-files", "-z", "*Cargo.toml"]).current_dir(root()).output().expect("git");
    let files = String::from_utf8(files.stdout).expect("paths");
    let mut named = BTreeSet::new();
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let manifest: toml::Table = toml::from_str(&read(&root().join(file)).expect(file)).expect(file);
        let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
        let targets = targets.filter_map(|(_, target)| target.as_table());
        for table in std::iter::once(&manifest).chain(targets) {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let names = table.get(kind).and_then(toml::Value::as_table).into_iter().flatten();
                named.extend(names.map(|(name, _)| name.clone()).filter(|name| !name.starts_with("cptr")));
            }
        }
    }
    assert!(named.len() > 50, "{named:?}");
    let document = read(&root().join("docs/supply.md")).expect("docs/supply.md");
    let table = document.split_once(BEGIN).expect(BEGIN).1.trim_start();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let first = rows.filter_map(|row| row.trim_start_matches('|').split('|').next());
    let told: BTreeSet<String> =
        first.flat_map(|cell| cell.split(',')).map(|name| name.trim().trim_matches('`').to_owned()).collect();
    let missing: Vec<_> = named.difference(&told).collect();
    let stale: Vec<_> = told.difference(&named).collect();
    assert!(missing.is_empty() && stale.is_empty(), "docs/supply.md lacks {missing:?}, and has {stale:?} too many");
}

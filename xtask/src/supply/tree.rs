//! What cargo resolves for one package, one target and its default features: `cargo tree` for what is linked, `cargo
//! metadata` for what each crate says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use super::{output, root};
use crate::firmware::Done;

/// What a crate says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: Option<String>,
    pub(super) description: Option<String>,
    /// Where it comes from; none for those of this project.
    pub(super) source: Option<String>,
    pub(super) manifest_path: PathBuf,
    /// A library outside of Rust that it links.
    pub(super) links: Option<String>,
}

impl Package {
    /// Name and version, as a purl.
    pub(super) fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// A crate by name and version.
pub(super) type Key = (String, String);

/// All crates of a workspace.
pub(super) fn packages(workspace: &str) -> Done<BTreeMap<Key, Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--locked", "--all-features", "--format-version", "1"]);
    let text = output(command.current_dir(root().join(workspace)))?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let keyed = metadata.packages.into_iter().map(|package| ((package.name.clone(), package.version.clone()), package));
    Ok(keyed.collect())
}

/// What each crate of a package's tree depends on, by `edges` as `cargo tree` has them.
pub(super) fn edges(
    workspace: &str,
    package: &str,
    target: Option<&str>,
    features: &str,
    edges: &str,
) -> Done<BTreeMap<Key, BTreeSet<Key>>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--locked", "--prefix", "depth", "--format", " {p}", "--package", package, "--edges", edges]);
    command.args(["--features", features]);
    if let Some(target) = target {
        command.args(["--target", target]);
    }
    let text = output(command.current_dir(root().join(workspace)))?;
    parse(&String::from_utf8_lossy(&text)).ok_or_else(|| format!("cargo tree of {package}: not as expected"))
}

/// Lines of a depth, a name and a version; what stands deeper is what the line before depends on.
fn parse(text: &str) -> Option<BTreeMap<Key, BTreeSet<Key>>> {
    let mut found: BTreeMap<Key, BTreeSet<Key>> = BTreeMap::new();
    let mut path: Vec<Key> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let depth: usize = words.next()?.parse().ok()?;
        let key = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
        path.truncate(depth);
        if let Some(parent) = path.last() {
            found.get_mut(parent)?.insert(key.clone());
        }
        found.entry(key.clone()).or_default();
        path.push(key);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_by_its_depths() {
        let text = "0 a v0.1.0 (/x y)\n1 b v1.0.0\n2 c v2.0.0+x (proc-macro)\n1 c v2.0.0+x (proc-macro) (*)\n";
        let found = parse(text).unwrap();
        let key = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        let [a, b, c] = [key("a", "0.1.0"), key("b", "1.0.0"), key("c", "2.0.0+x")];
        assert_eq!(found[&a], BTreeSet::from([b.clone(), c.clone()]));
        assert_eq!((&found[&b], &found[&c]), (&BTreeSet::from([c.clone()]), &BTreeSet::new()));
        assert!(parse("0 a\n").is_none() && parse("1 a v1\n").is_some());
    }
}

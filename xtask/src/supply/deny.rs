//! cargo-deny over all workspaces, by the one `deny.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::{Outcome, WORKSPACES, folder, output, root};
use crate::firmware::Done;

/// The version whose settings `deny.toml` has.
const VERSION: &str = "0.20.2";

/// What it says of a tolerated version that is not there twice, before the version's name.
const NEEDLESS: [&str; 2] = ["[unnecessary-skip]: skip '", "[unmatched-skip]: skipped crate '"];

pub(super) fn check() -> Done<Outcome> {
    let program = program()?;
    let mut needless: BTreeMap<String, usize> = BTreeMap::new();
    for workspace in WORKSPACES {
        let mut command = Command::new(&program);
        command.arg("--manifest-path").arg(root().join(workspace).join("Cargo.toml"));
        command.arg("--config").arg(root().join("deny.toml"));
        command.args(["check", "--hide-inclusion-graph", "--allow", "license-exception-not-encountered"]);
        command.args(["licenses", "bans", "sources"]);
        let output = command.output().map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("cargo deny in {workspace}: {}\n{text}", output.status));
        }
        println!("{workspace}: {}", String::from_utf8_lossy(&output.stdout).trim());
        for name in text.lines().filter_map(needless_skip) {
            *needless.entry(name.to_owned()).or_default() += 1;
        }
    }
    let stale: Vec<_> = needless.into_iter().filter(|(_, count)| *count == WORKSPACES.len()).collect();
    if stale.is_empty() { Ok(Outcome::Passed) } else { Err(format!("deny.toml tolerates in vain: {stale:?}")) }
}

/// The version that a line calls tolerated in vain.
fn needless_skip(line: &str) -> Option<&str> {
    let rest = NEEDLESS.iter().find_map(|begin| line.split_once(begin)).map(|(_, rest)| rest)?;
    rest.split_once('\'').map(|(name, _)| name)
}

/// cargo-deny in this version: the one on the path, or one that is built below the build folder.
fn program() -> Done<PathBuf> {
    let wanted = format!("cargo-deny {VERSION}");
    let is_it = |program: &PathBuf| {
        output(Command::new(program).arg("--version")).is_ok_and(|text| String::from_utf8_lossy(&text).trim() == wanted)
    };
    let tools = folder()?.join("tools");
    let own = tools.join("bin/cargo-deny");
    if let Some(found) = [PathBuf::from("cargo-deny"), own.clone()].into_iter().find(is_it) {
        return Ok(found);
    }
    let mut install = Command::new(env!("CARGO"));
    install.args(["install", "--quiet", "--locked", "--version", VERSION, "cargo-deny", "--root"]).arg(&tools);
    match install.current_dir(folder()?).status() {
        Ok(status) if status.success() => Ok(own),
        Ok(status) => Err(format!("cargo install cargo-deny: {status}")),
        Err(error) => Err(format!("cargo install cargo-deny: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_tolerated_in_vain_is_seen() {
        let line = "warning[unnecessary-skip]: skip 'syn = =2' applied to a crate with only one version";
        assert_eq!(needless_skip(line), Some("syn = =2"));
        assert_eq!(
            needless_skip("warning[unmatched-skip]: skipped crate 'x = =1' was not encountered"),
            Some("x = =1")
        );
        assert_eq!(needless_skip("error[duplicate]: found 2 duplicate entries for crate 'x'"), None);
    }
}

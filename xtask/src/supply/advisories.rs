//! Locked versions against a copy of the RustSec advisory database.
//!
//! The copy is a git repository, bare or not, that `CPTR_ADVISORIES` names; else it is cloned, where the network lets
//! it. Without one nothing is known, and that is what is said. Read here and not by cargo-deny, which wants a copy that
//! it has fetched itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use semver::{Version, VersionReq};
use serde::Deserialize;

use super::{Outcome, WORKSPACES, folder, output, read, root};
use crate::firmware::Done;

/// Names the copy.
const VARIABLE: &str = "CPTR_ADVISORIES";
const URL: &str = "https://github.com/rustsec/advisory-db";

/// The beginning of an advisory's file, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Advisory {
    advisory: About,
    #[serde(default)]
    versions: Versions,
}

#[derive(Debug, Deserialize)]
struct About {
    id: String,
    package: String,
    withdrawn: Option<String>,
    /// Why it is none of a vulnerability: unmaintained, unsound, notice.
    informational: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Versions {
    #[serde(default)]
    patched: Vec<VersionReq>,
    #[serde(default)]
    unaffected: Vec<VersionReq>,
}

impl Advisory {
    /// Reads the block of TOML that a file begins with.
    fn parse(text: &str) -> Done<Self> {
        let block = text.split_once("```toml").and_then(|(_, rest)| rest.split_once("\n```")).map(|(block, _)| block);
        toml::from_str(block.ok_or("no TOML")?).map_err(|error| error.message().to_owned())
    }

    fn concerns(&self, version: &Version) -> bool {
        let fine = |ranges: &[VersionReq]| ranges.iter().any(|range| range.matches(version));
        self.advisory.withdrawn.is_none() && !fine(&self.versions.patched) && !fine(&self.versions.unaffected)
    }
}

pub(super) fn check() -> Done<Outcome> {
    let Some(database) = database()? else {
        return Ok(Outcome::NotRun(format!("no copy of {URL}: name one with {VARIABLE}=FOLDER")));
    };
    let (commit, advisories) = all(&database)?;
    let by_crate = advisories.iter().fold(BTreeMap::<&str, Vec<&Advisory>>::new(), |mut found, advisory| {
        found.entry(&advisory.advisory.package).or_default().push(advisory);
        found
    });
    let ignored = ignored(&read(&root().join("deny.toml"))?)?;
    let (mut locked, mut vulnerable) = (0, Vec::new());
    for workspace in WORKSPACES {
        for (name, version) in packages(&read(&root().join(workspace).join("Cargo.lock"))?)? {
            locked += 1;
            let concerning = by_crate.get(&*name).into_iter().flatten().filter(|advisory| advisory.concerns(&version));
            for About { id, informational, .. } in concerning.map(|advisory| &advisory.advisory) {
                let kind = informational.as_deref().unwrap_or("vulnerable");
                let reason = ignored.get(id);
                println!(
                    "{workspace}: {name} {version}: {id}, {kind}{}",
                    reason.map_or("", |_| ", ignored by deny.toml")
                );
                if informational.is_none() && reason.is_none() {
                    vulnerable.push(format!("{name} {version} ({id})"));
                }
            }
        }
    }
    println!("{locked} locked crates against {} advisories of {commit}", advisories.len());
    if vulnerable.is_empty() { Ok(Outcome::Passed) } else { Err(vulnerable.join(", ")) }
}

/// The copy of the database, if there is one.
fn database() -> Done<Option<PathBuf>> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Ok(Some(named.into()));
    }
    let copy = folder()?.join("advisories.git");
    let mut git = Command::new("git");
    let git = git.env("GIT_TERMINAL_PROMPT", "0");
    let fetched = if copy.exists() {
        output(git.arg("-C").arg(&copy).args(["fetch", "--quiet", "--depth", "1", "origin", "+HEAD:HEAD"]))
    } else {
        output(git.args(["clone", "--quiet", "--bare", "--depth", "1", URL]).arg(&copy))
    };
    // An old copy would pass for knowledge of today.
    Ok(fetched.is_ok().then_some(copy))
}

/// The newest commit with its date, and its advisories about crates.
fn all(database: &Path) -> Done<(String, Vec<Advisory>)> {
    let git = |arguments: &[&str]| output(Command::new("git").arg("-C").arg(database).args(arguments));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    let commit = text(git(&["log", "-1", "--format=%h of %cs"])?);
    let files = text(git(&["ls-tree", "-r", "--name-only", "HEAD", "crates"])?);
    let files: Vec<&str> = files.lines().filter(|file| file.ends_with(".md")).collect();
    if files.is_empty() {
        return Err(format!("{}: no advisories in it", database.display()));
    }
    let list = folder()?.join("advisories.txt");
    let objects: String = files.iter().map(|file| format!("HEAD:{file}\n")).collect();
    let written = std::fs::write(&list, objects).and_then(|()| std::fs::File::open(&list));
    let input = written.map_err(|error| format!("{}: {error}", list.display()))?;
    let all = output(Command::new("git").arg("-C").arg(database).args(["cat-file", "--batch"]).stdin(input))?;
    let texts = objects_of(&all).ok_or("git cat-file: not as expected")?;
    let parsed = files.iter().zip(&texts).map(|(file, text)| {
        Advisory::parse(&String::from_utf8_lossy(text)).map_err(|error| format!("{file}: {error}"))
    });
    let advisories = parsed.collect::<Done<Vec<_>>>()?;
    if texts.len() != files.len() {
        return Err(format!("expected {} advisories, found {}", files.len(), texts.len()));
    }
    Ok((commit, advisories))
}

/// What `git cat-file --batch` prints: for each object a line that ends with its length, its bytes, and a line feed.
fn objects_of(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut objects = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let length: usize = std::str::from_utf8(&bytes[..end]).ok()?.rsplit(' ').next()?.parse().ok()?;
        let rest = bytes.get(end + 1..)?;
        objects.push(rest.get(..length)?);
        bytes = rest.get(length + 1..)?;
    }
    Some(objects)
}

/// Names and versions of the crates of a registry in a lock file.
fn packages(lock: &str) -> Done<Vec<(String, Version)>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: Version,
        source: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).map_err(|error| format!("Cargo.lock: {error}"))?;
    Ok(lock.package.into_iter().filter(|p| p.source.is_some()).map(|p| (p.name, p.version)).collect())
}

/// Ids that `deny.toml` ignores, and why.
fn ignored(text: &str) -> Done<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Deny {
        advisories: Ignore,
    }
    #[derive(Deserialize)]
    struct Ignore {
        ignore: Vec<Reason>,
    }
    #[derive(Deserialize)]
    struct Reason {
        id: String,
        reason: String,
    }
    let deny: Deny = toml::from_str(text).map_err(|error| format!("deny.toml: {error}"))?;
    Ok(deny.advisories.ignore.into_iter().map(|Reason { id, reason }| (id, reason)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advisory_concerns_what_is_neither_patched_nor_unaffected() {
        let text = "```toml\n[advisory]\nid = \"RUSTSEC-2020-0001\"\npackage = \"x\"\nMORE\n[versions]\n\
                    patched = [\">= 1.2.3\", \"^0.9.5\"]\nunaffected = [\"< 0.5\"]\n```\n\n# Title\n```toml\n```";
        let advisory = Advisory::parse(&text.replace("MORE", "date = \"2020-01-01\"")).unwrap();
        let concerns = |version: &str| advisory.concerns(&version.parse().unwrap());
        assert_eq!(
            ["1.2.2", "0.9.4", "0.5.0", "0.9.6", "1.2.3", "0.4.9"].map(concerns),
            [true, true, true, false, false, false]
        );
        assert!(
            !Advisory::parse(&text.replace("MORE", "withdrawn = \"2021-01-01\""))
                .unwrap()
                .concerns(&Version::new(1, 0, 0))
        );
        assert!(Advisory::parse("# no block").is_err());
    }

    #[test]
    fn objects_are_as_long_as_said() {
        assert_eq!(objects_of(b"a blob 3\nx\ny\nb blob 0\n\n"), Some(vec![&b"x\ny"[..], b""]));
        assert_eq!(objects_of(b"HEAD:x missing\n"), None);
        assert_eq!(objects_of(b"a blob 9\nx\n"), None);
    }

    #[test]
    fn the_locks_and_the_reasons_are_read() {
        for workspace in WORKSPACES {
            let lock = read(&root().join(workspace).join("Cargo.lock")).unwrap();
            assert!(packages(&lock).unwrap().iter().any(|(name, _)| name == "zerocopy"));
        }
        assert!(ignored(&read(&root().join("deny.toml")).unwrap()).unwrap().values().all(|reason| !reason.is_empty()));
    }
}

//! Every link of a document leads somewhere: to a file of the repository, and to a heading of it where one is named.
//! Every chapter is in the book's table of contents, once.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// The book's table of contents.
const CONTENTS: &str = "docs/SUMMARY.md";

/// Whether all of the repository's documents are linked well; says which are not.
pub(crate) fn check(root: &Path) -> bool {
    let files = Command::new("git").args(["ls-files", "-z", "*.md"]).current_dir(root).output();
    let Some(files) = files.ok().filter(|out| out.status.success()).and_then(|out| String::from_utf8(out.stdout).ok())
    else {
        eprintln!("xtask: git ls-files failed: links are checked in a checkout");
        return false;
    };
    let read = |file: &str| Some((PathBuf::from(file), std::fs::read_to_string(root.join(file)).ok()?));
    // What is a link itself is looked at where it leads.
    let own = |file: &&str| !root.join(file).is_symlink();
    let documents: BTreeMap<PathBuf, String> = files.split('\0').filter(own).filter_map(read).collect();
    let mut wrong = Vec::new();
    for (file, text) in &documents {
        for (line, link) in links(text) {
            if let Some(reason) = broken(root, &documents, file, &link) {
                wrong.push(format!("{}:{line}: {link}: {reason}", file.display()));
            }
        }
    }
    wrong.extend(missing(&documents));
    wrong.iter().for_each(|wrong| eprintln!("{wrong}"));
    wrong.is_empty()
}

/// Why a link leads nowhere.
fn broken(root: &Path, documents: &BTreeMap<PathBuf, String>, file: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
    let target = if path.is_empty() { file.to_owned() } else { joined(file.parent()?, path) };
    if !root.join(&target).exists() {
        return Some("there is no such file".into());
    }
    let text = heading.and(documents.get(&target))?;
    let known = headings(text);
    (!known.iter().any(|known| Some(&**known) == heading)).then(|| "there is no such heading".into())
}

/// `path` from a folder, without steps up and down.
fn joined(folder: &Path, path: &str) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => _ = whole.pop(),
            Component::CurDir => {}
            part => whole.push(part),
        }
    }
    whole
}

/// Chapters that are not in the table of contents, or more than once.
fn missing(documents: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let Some(contents) = documents.get(Path::new(CONTENTS)) else { return vec![format!("{CONTENTS}: missing")] };
    let chapters =
        documents.keys().filter(|file| file.parent() == Some(Path::new("docs")) && !file.ends_with("SUMMARY.md"));
    let listed: Vec<PathBuf> = links(contents).into_iter().map(|(_, link)| joined(Path::new("docs"), &link)).collect();
    let times = |chapter: &Path| listed.iter().filter(|other| *other == chapter).count();
    let wrong = chapters.filter(|chapter| times(chapter) != 1);
    wrong.map(|chapter| format!("{CONTENTS}: {} is listed {} times", chapter.display(), times(chapter))).collect()
}

/// Lines outside of blocks of code, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// Targets of inline links and pictures.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // What stands in backquotes is code.
        let shown: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        let targets = shown.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
        found.extend(targets.map(|target| (number, target)));
    }
    found
}

/// What headings are linked by: lower case, spaces as hyphens, without marks; of equal ones the second has `-1`.
fn headings(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let titles = prose(text).filter_map(|(_, line)| line.strip_prefix('#')).map(|line| line.trim_start_matches('#'));
    let mut seen = BTreeMap::<String, usize>::new();
    for title in titles.filter(|title| title.starts_with(' ')) {
        let kept = title.trim().to_lowercase();
        let kept: String = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let times = seen.entry(kept.clone()).or_default();
        found.push(if *times == 0 { kept } else { format!("{kept}-{times}") });
        *times += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_headings_are_found() {
        let text =
            "# A *title*, two\n[a](b.md#c) and ![d](e.svg) `[no](f)`\n```\n[no](g)\n# no\n```\n## Again\n## Again\n";
        assert_eq!(links(text), [(2, "b.md#c".into()), (2, "e.svg".into())]);
        assert_eq!(headings(text), ["a-title-two", "again", "again-1"]);
    }

    #[test]
    fn what_leads_nowhere_is_said() {
        let root = Path::new(crate::ROOT);
        let documents = BTreeMap::from([(PathBuf::from("docs/README.md"), "# One\n".to_owned())]);
        let reason = |link| broken(root, &documents, "docs/README.md".as_ref(), link);
        assert_eq!(reason("README.md#one"), None);
        assert_eq!(reason("../README.md"), None);
        assert_eq!(reason("https://example.org"), None);
        assert_eq!(reason("#two").as_deref(), Some("there is no such heading"));
        assert_eq!(reason("nowhere.md").as_deref(), Some("there is no such file"));
        assert_eq!(missing(&documents), ["docs/SUMMARY.md: missing"]);
    }
}

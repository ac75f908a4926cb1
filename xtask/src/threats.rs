//! `docs/threats.md`: every claim names what checks it, and all that is named is there.

use std::fs;
use std::path::Path;

use crate::{GROUPS, ROOT, firmware, supply};

/// The claims: a bullet each, between these headings.
const BEGIN: &str = "## Promised";
const END: &str = "## Not promised";

/// What a claim is checked by: text in backquotes that is a test (`FILE::NAME`) or one of our commands.
fn checks(claim: &str) -> Vec<&str> {
    let quoted = claim.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.contains("::") || text.starts_with("cargo xtask ")).collect()
}

fn is_there(check: &str) -> bool {
    if let Some((file, name)) = check.split_once("::") {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default();
        return ["fn", "def"].iter().any(|keyword| text.contains(&format!("{keyword} {name}(")));
    }
    let words: Vec<&str> = check.split(' ').skip(2).collect();
    match words[..] {
        ["firmware", ref steps @ ..] => steps.iter().all(|step| firmware::STEPS.iter().any(|(name, _)| name == step)),
        ["supply", ref steps @ ..] => steps.iter().all(|step| supply::STEPS.iter().any(|(name, ..)| name == step)),
        ["test", ref groups @ ..] => groups.iter().all(|group| GROUPS.iter().any(|known| known.name == *group)),
        ["miri"] => true,
        _ => false,
    }
}

#[test]
fn every_claim_is_checked_by_something_that_is_there() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/threats.md")).unwrap();
    let promised = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).unwrap().0;
    let claims: Vec<&str> = promised.split("\n- ").skip(1).map(|claim| claim.split("\n###").next().unwrap()).collect();
    assert!(claims.len() > 20, "{}", claims.len());
    let unchecked: Vec<&&str> = claims.iter().filter(|claim| checks(claim).is_empty()).collect();
    let absent: Vec<&str> = claims.iter().flat_map(|claim| checks(claim)).filter(|check| !is_there(check)).collect();
    assert!(unchecked.is_empty() && absent.is_empty(), "nothing checks {unchecked:?}; not there: {absent:?}");
    assert!(!is_there("xtask/src/threats.rs::no_such_test") && !is_there("cargo xtask firmware nothing"));
}

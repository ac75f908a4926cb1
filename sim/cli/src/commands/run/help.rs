//! What `cptr run --help` says of strategies.

use super::super::machine::systems_help;
use cptr_sim::strategy::{KindRow, PRESETS, kinds};

const INTRODUCTION: &str = "\
A strategy is five choices, one of each axis: name[:parameter=value]… joined by +, a comma between strategies. A preset
may come first; parts after it take the place of its own. What is not named is raw+lru+none+gpu+full.
";

pub(super) fn text() -> String {
    let mut text = String::from(INTRODUCTION);
    let mut axis = "";
    for kind in kinds() {
        if kind.axis != axis {
            axis = kind.axis;
            text += &format!("\n{}{}:\n", axis[..1].to_uppercase(), &axis[1..]);
        }
        text += &line(&kind);
    }
    text += "\nPresets:\n";
    for preset in PRESETS {
        text += &format!("  {:<16} {}: {}\n", preset.name, preset.summary, preset.text);
    }
    format!("{text}\nSystems:\n{}", systems_help())
}

fn line(kind: &KindRow) -> String {
    let needs = (kind.needs > cptr_trace::Knowledge::Ids).then(|| format!("needs {}", kind.needs));
    let future = kind.sees_future.then(|| "sees the future".to_owned());
    let slow = kind.slow.then(|| "slow: runs only when it is named".to_owned());
    let marks: Vec<String> = [needs, future, slow].into_iter().flatten().collect();
    let marks = if marks.is_empty() { String::new() } else { format!(" [{}]", marks.join("; ")) };
    let mut text = format!("  {:<12} {}{marks}\n", kind.name, kind.summary);
    for p in kind.parameters {
        let off = p.neutral_text().map_or_else(String::new, |off| format!("; {off} is off"));
        text += &format!("      {} = {} ({}{off}): {}\n", p.name, p.default_text(), p.unit, p.summary);
    }
    text
}

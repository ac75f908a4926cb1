//! Tokens that run together: what a layer of a batch runs and loads.

use serde_json::Value;

use super::{RECORDINGS, RESULTS, Recording, again, by_row, mended, none_differs};
use crate::command::Folder;
use crate::plan::table;
use crate::shared;
use crate::traces::number;

/// Rows of `cptr inspect --batches`.
fn batches(recording: &Recording, options: &str) -> Vec<Value> {
    let arguments = format!("inspect --json --batches {} {options}", recording.domain);
    shared::rows(&Folder::new(), &arguments, &shared::sets().join(recording.set))
}

/// What a row says of batches of so many tokens with a choice.
fn of(rows: &[Value], tokens: u64, choice: &str, key: &str) -> f64 {
    let row = rows.iter().find(|row| row["tokens"] == tokens && row["choice"] == choice);
    number(&row.unwrap_or_else(|| panic!("{tokens} tokens, {choice}"))[key])
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn choices_in_turn_and_joint() {
    const HEADING: &str = "| T | eps | distinct: raw | in turn | joint | loads: raw | in turn | joint | waves \
                           | mass loss: in turn | joint |";
    const CHOICES: [&str; 3] = ["raw", "in turn", "joint"];
    let said = table(RESULTS, HEADING);
    let bounds = ["0.04", "0.08"].map(|eps| (eps, batches(&RECORDINGS[1], &format!("--eps {eps}"))));
    let row = |said: &Vec<&str>| {
        let (_, rows) = bounds.iter().find(|(eps, _)| *eps == said[1]).expect("a bound");
        let tokens = said[0].parse().expect("tokens");
        let [raw, in_turn, joint] = CHOICES.map(|choice| move |key| of(rows, tokens, choice, key));
        let numbers = [
            vec![raw("distinct")],
            vec![-in_turn("distinct_saved")],
            vec![-joint("distinct_saved")],
            vec![raw("loads")],
            vec![-in_turn("loads_saved")],
            vec![-joint("loads_saved")],
            vec![raw("waves"), in_turn("waves"), joint("waves")],
            vec![in_turn("mass_loss")],
            vec![joint("mass_loss")],
        ];
        let cells = said[2..].iter().zip(&numbers).map(|(cell, numbers)| again(cell, numbers));
        said[..2].iter().map(|&cell| cell.to_owned()).chain(cells).collect()
    };
    let found: Vec<Vec<String>> = said.iter().map(row).collect();
    none_differs([mended(HEADING, &said, &found)]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn what_batches_want() {
    const HEADING: &str = "| trace | distinct at T = 2, 4, 8, 16 | loads | waves |";
    let said = table(RESULTS, HEADING);
    none_differs([by_row(HEADING, &said, |_, row| {
        let recording = RECORDINGS.iter().find(|recording| recording.is_of(row)).expect("a recording");
        let rows = batches(recording, "--tokens 6000");
        let numbers = |key| [2, 4, 8, 16].map(|tokens| of(&rows, tokens, "raw", key)).into();
        ["distinct", "loads", "waves"].map(numbers).into()
    })]);
}

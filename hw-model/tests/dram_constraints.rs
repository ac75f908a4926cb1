//! The table of constraints in `docs/dram.md` is the table of the model. `CPTR_BLESS=1` writes it there.
use cptr_hw_model::dram::constraints::{Constraint, Level, constraints};
use cptr_hw_model::dram::{CommandKind, Device, ManagementCommand, RefreshManagement, presets};
use std::fmt::Write;
use std::fs;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/dram.md");
const BEGIN: &str =
    "<!-- constraints: written by CPTR_BLESS=1 cargo test -p cptr-hw-model --test dram_constraints -->\n";
const END: &str = "<!-- end of constraints -->";

/// A device that every row concerns but those of the other command of management; no such memory exists.
fn everything(command: ManagementCommand) -> Device {
    let mut device = presets::ddr5_4800();
    device.organisation.ranks = 2;
    device.organisation.stacks = 2;
    device.refresh_management =
        Some(RefreshManagement { command, raaimt: 1, raammt: 1, refresh_decrement: 0, n_rfm: 1 });
    device
}

/// Whether two rows are the same but for commands of management.
fn same_row(a: &Constraint, b: &Constraint) -> bool {
    let without = |kinds: &[CommandKind]| {
        let managing = |kind: &CommandKind| matches!(kind, CommandKind::RfmAll | CommandKind::RfmBank);
        kinds.iter().copied().filter(|kind| !managing(kind)).collect::<Vec<_>>()
    };
    let key = |row: &Constraint| {
        (row.level, row.window, row.formula.clone(), row.source, without(&row.before), without(&row.after))
    };
    key(a) == key(b)
}

/// Every row with all its commands.
fn every_row() -> Vec<Constraint> {
    let mut rows = constraints(&everything(ManagementCommand::AllBank));
    let mut at = 0;
    for row in constraints(&everything(ManagementCommand::BankWise)) {
        if let Some(found) = rows.iter().position(|other| same_row(other, &row)) {
            let more = |mine: &mut Vec<CommandKind>, theirs: &[CommandKind]| {
                theirs.iter().for_each(|kind| {
                    if !mine.contains(kind) {
                        mine.push(*kind);
                    }
                });
            };
            more(&mut rows[found].before, &row.before);
            more(&mut rows[found].after, &row.after);
            at = found + 1;
        } else {
            rows.insert(at, row);
            at += 1;
        }
    }
    rows
}

fn names(kinds: &[CommandKind]) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

fn table() -> String {
    let devices = ["DDR4-3200", "DDR5-4800", "LPDDR5-6400", "HBM3-6400"].map(|name| presets::by_name(name).unwrap());
    let mut text = format!(
        "{BEGIN}| level | first | then | cycles | D4 | D5 | L5 | H3 | source |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    let columns = devices.map(|device| constraints(&device));
    for row in every_row() {
        let cycles = columns.each_ref().map(|column| {
            column.iter().find(|other| same_row(other, &row)).map_or("–".into(), |row| row.cycles.to_string())
        });
        let first = if row.window > 1 { format!("{} {}", row.window, names(&row.before)) } else { names(&row.before) };
        let then = names(&row.after);
        let (formula, cycles) = (&row.formula, cycles.join(" | "));
        let _ = writeln!(text, "| {} | {first} | {then} | {formula} | {cycles} | {} |", row.level, row.source);
    }
    text + END
}

#[test]
fn the_document_has_the_table() {
    let document = fs::read_to_string(DOCUMENT).unwrap();
    let (begin, end) = (document.find(BEGIN).expect("the table's begin"), document.find(END).expect("its end"));
    let found = &document[begin..end + END.len()];
    let table = table();
    if std::env::var_os("CPTR_BLESS").is_some() {
        fs::write(DOCUMENT, document.replace(found, &table)).unwrap();
    } else {
        assert!(found == table, "docs/dram.md has another table of constraints; CPTR_BLESS=1 writes it");
    }
}

/// What the resolved distances of the reference are (two-cycle commands counted from their first cycle).
#[test]
fn rows_resolve_as_in_the_reference() {
    let find = |device: &Device, level, before, after| {
        let rows = constraints(device);
        let row = rows.iter().find(|row| {
            row.level == level && row.window == 1 && row.before.contains(&before) && row.after.contains(&after)
        });
        row.map(|row| row.cycles)
    };
    use CommandKind::{Act, Pre, Rd, RefAll, RefBank};
    let ddr5 = presets::ddr5_4800();
    for (level, before, after, cycles) in [
        (Level::Bank, Pre, Act, 33),
        (Level::Bank, Act, Pre, 78),
        (Level::Bank, Act, Rd, 34),
        (Level::Bank, Rd, Pre, 19),
        (Level::Rank, RefAll, Act, 709),
        (Level::Bank, RefBank, Act, 312),
    ] {
        assert_eq!(find(&ddr5, level, before, after), Some(cycles), "{before} {after}");
    }
    assert_eq!(find(&ddr5, Level::OtherRank, Rd, Rd), None);
    assert_eq!(find(&presets::ddr4_3200(), Level::Rank, RefBank, Act), None);
    assert_eq!(find(&presets::hbm3_6400(), Level::OtherStack, Rd, Rd), Some(6));
    let window = constraints(&ddr5).into_iter().find(|row| row.window == 4).unwrap();
    assert_eq!((window.cycles, window.formula.as_str()), (48, "nFAW"));
}

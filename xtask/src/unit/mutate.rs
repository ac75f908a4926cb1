//! `cargo xtask rtl unit --mutate`: seeded faults, each of which the checks must find.
//!
//! All faults of a list go into one copy of the sources, in which an argument of the program says which of them is
//! there: a fault takes a run then, not a compiler.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Done, Program, Sizes, USUAL, build_from, check_usual, golden_file, sources};
use crate::firmware::{Turns, firmware_folder, target_folder};

/// A fault: an expression of a file that another takes the place of.
struct Fault<'a> {
    file: &'a str,
    /// What stands before the expression; together they are in the file once.
    before: String,
    expression: &'a str,
    instead: &'a str,
    meaning: &'a str,
}

fn parse(line: &str) -> Option<Fault<'_>> {
    let [file, before, expression, instead, meaning] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
    Some(Fault { file, before: before.replace("\\n", "\n"), expression, instead, meaning })
}

/// Seeds every fault of the two lists in turn: those of the unit, held to the library; those of what carries requests
/// and answers, beside a core, held to a controller without a unit.
pub(super) fn all() -> Done {
    let golden = golden_file()?;
    seed("unit", "cptr_unit.sv", &sources()?, |files| {
        let program = build_from(Sizes { name: "faults", ..USUAL }, files, "-Wno-WIDTH -Wno-fatal", "OPT_FAST=-O2")?;
        Ok(move |argument: &str| {
            check_usual(&Program { arguments: vec![argument.into()], ..program.clone() }, &golden, 1000)
        })
    })?;
    seed("turn", "turn.sv", &[firmware_folder().join("rtl/turn/turn.sv")], |files| {
        let turns = Turns::build("turn-faults", files)?;
        let right = turns.run("+fault=0")?;
        Ok(move |argument: &str| {
            // Also what is right, but takes longer.
            if turns.run(argument)? == right { Ok(()) } else { Err("other cycles or jobs".into()) }
        })
    })
}

/// Seeds the faults of `rtl/FOLDER/faults.tsv` into these sources, the module of `top` first, and holds each to a check
/// of what is built of them.
fn seed<C: Fn(&str) -> Done>(
    folder: &str,
    top: &str,
    sources: &[PathBuf],
    build: impl FnOnce(&[PathBuf]) -> Done<C>,
) -> Done {
    let path = firmware_folder().join("rtl").join(folder).join("faults.tsv");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let faults: Option<Vec<Fault<'_>>> = lines.iter().map(|line| parse(line)).collect();
    let faults = faults.ok_or_else(|| format!("{}: a line has not five columns", path.display()))?;
    let check = build(&seeded(&faults, sources, top, &target_folder().join("rtl").join(format!("{folder}-seeded")))?)?;
    // Without a fault the copy is what it is of.
    check("+fault=0")?;
    let mut missed = Vec::new();
    for (number, fault) in faults.iter().enumerate() {
        match check(&format!("+fault={}", number + 1)) {
            Err(found) => {
                let found = found.trim().lines().next_back().unwrap_or_default();
                println!("{folder} fault {}: {} — found: {found}", number + 1, fault.meaning);
            }
            Ok(()) => missed.push(format!("{} ({})", fault.meaning, fault.file)),
        }
    }
    println!("{folder}: {} of {} faults found", faults.len() - missed.len(), faults.len());
    if missed.is_empty() { Ok(()) } else { Err(format!("not found: {}", missed.join("; "))) }
}

/// Copies of the sources with all faults in them.
fn seeded(faults: &[Fault<'_>], sources: &[PathBuf], top: &str, folder: &Path) -> Done<Vec<PathBuf>> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display())).map(|()| path)
    };
    let mut files = vec![write("unit_faults.sv", "package unit_faults;\n  int seeded;\nendpackage\n")?];
    for source in sources {
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut text = fs::read_to_string(source).map_err(|error| format!("{}: {error}", source.display()))?;
        for (number, fault) in faults.iter().enumerate().filter(|(_, fault)| fault.file == name) {
            let Fault { before, expression, instead, .. } = fault;
            let found = format!("{before}{expression}");
            if text.matches(&found).count() != 1 {
                return Err(format!("{name} has not once: {found}"));
            }
            let number = number + 1;
            let seeded = format!("{before}(unit_faults::seeded == {number} ? ({instead}) : ({expression}))");
            text = text.replacen(&found, &seeded, 1);
        }
        if name == top {
            let first = "  localparam int unsigned ID = $clog2(E);\n";
            let which = "  initial if (!$value$plusargs(\"fault=%d\", unit_faults::seeded)) unit_faults::seeded = 0;\n";
            text = text.replacen(first, &format!("{first}{which}"), 1);
        }
        files.push(write(&name, &text)?);
    }
    Ok(files)
}

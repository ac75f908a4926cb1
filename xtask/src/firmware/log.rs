//! The controller's log: an image with it holds a conversation with everything in it that is logged.
//!
//! The answers must be those of the engine without one, so that a log disturbs neither the decisions nor the serial
//! line; the decoded log must be `firmware/golden/log.out`.

use std::fs::File;

use super::build::build_with_log;
use super::command::{Done, cargo, output};
use super::conversation::converse;
use super::emulator::Emulator;
use super::golden::golden;
use super::linked::{Linked, Memory};
use super::machines::{Machine, Scope};

/// What must be in the log at least once.
const KINDS: [&str; 4] = ["configured", "placed", "refused", "lost lock"];

/// Runs the conversation on each machine with a log: all must log the same.
pub(super) fn check(bless: bool) -> Done {
    let mut found: Option<String> = None;
    for machine in Scope::Short.machines() {
        let (text, memory) = logged(machine).map_err(|error| format!("{}: with a log: {error}", machine.core))?;
        let lines = text.lines().count();
        println!(
            "{:<12} answers as without a log, which has {lines} lines; with it flash {}, RAM {} bytes",
            machine.core, memory.flash, memory.ram
        );
        if found.get_or_insert_with(|| text.clone()) != &text {
            return Err(format!("{}: logs\n{text}", machine.core));
        }
    }
    let found = found.unwrap_or_default();
    match KINDS.iter().find(|kind| !found.contains(**kind)) {
        Some(kind) => Err(format!("there is no \"{kind}\" in\n{found}")),
        None => golden("log.out", &found, bless),
    }
}

/// The decoded log of the conversation, and what the image takes.
fn logged(machine: &Machine) -> Done<(String, Memory)> {
    let image = build_with_log("cptr-controller", &machine.target)?;
    let linked = Linked::read(&image)?;
    let panics = linked.panics().join(", ");
    if !panics.is_empty() {
        return Err(format!("the image can panic: {panics}"));
    }
    let log = image.with_extension("log");
    let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    converse(&mut Emulator::start(machine, &image, file.into())?)?;
    let decode = ["run", "--quiet", "--release", "--package", "cptr-log", "--"];
    Ok((output(cargo(&decode).arg(&image).arg(&log))?, linked.memory))
}

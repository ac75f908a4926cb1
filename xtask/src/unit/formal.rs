//! `cargo xtask rtl unit --formal`: what is asserted in the sources under `FORMAL`, by induction on small parameters
//! with the solver of yosys; and that faults break the proofs.

use std::fs;
use std::process::{Command, Stdio};

use super::{Done, sources};
use crate::firmware::target_folder;

/// Modules with what their parameters are set to: choices are distinct and in order; stand-ins cost no more than the
/// bound; an answer's words wait unchanged; no step of a division overflows.
const PROOFS: [(&str, &str); 4] = [
    ("unit_rank_chain", "-set K 3 -set KEY 5"),
    ("unit_select", "-set E 32 -set K 2 -set DIVIDERS 2"),
    ("unit_answer", "-set E 32 -set K 2"),
    ("unit_quotient", ""),
];
/// Parts of `unit_select` that its proof needs nothing of: whatever they say, the bound holds.
const FREE: &str = "*unit_multiply* *unit_mass* *unit_quotient* *unit_ram* *unit_rank_chain*";
/// Faults that the first two proofs must not survive.
const FAULTS: [[&str; 2]; 2] = [
    ["greater = in_key > key", "greater = in_key < key"],
    ["mass_left >= 42'(mass_spent) &", "mass_left >= 42'(mass_spent >> 1) &"],
];

pub(super) fn prove() -> Done {
    let folder = target_folder().join("rtl/unit-formal");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut text = String::new();
    for source in sources()? {
        text += &fs::read_to_string(&source).map_err(|error| format!("{}: {error}", source.display()))?;
    }
    for (module, parameters) in PROOFS {
        if !proves(&folder, &text, module, parameters)? {
            return Err(format!("{module}: an assertion does not hold"));
        }
        println!("unit formal: {module} holds by induction");
    }
    for ((module, parameters), [right, wrong]) in PROOFS.into_iter().zip(FAULTS) {
        let broken = text.replacen(right, wrong, 1);
        if broken == text || proves(&folder, &broken, module, parameters)? {
            return Err(format!("{module}: a fault does not break the proof"));
        }
    }
    Ok(())
}

/// Whether all assertions of a module hold, at any time after a reset of two cycles.
fn proves(folder: &std::path::Path, text: &str, module: &str, parameters: &str) -> Done<bool> {
    let source = folder.join("unit.sv");
    fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
    let set = if parameters.is_empty() { String::new() } else { format!("chparam {parameters} {module};") };
    // A division is proved without a reset, which it has not.
    let reset = if module == "unit_quotient" { "-seq 1" } else { "-set-at 1 rst_n 0 -set-at 2 rst_n 0 -seq 2" };
    let free = if module == "unit_select" { format!("blackbox {FREE};") } else { String::new() };
    let script = format!(
        "read_verilog -sv -formal -defer unit.sv; {set} hierarchy -check -top {module}; {free} prep -flatten; \
         async2sync; sat -tempinduct -prove-asserts -set-assumes -ignore_unknown_cells {reset} -maxsteps 12 \
         -verify {module}"
    );
    let mut yosys = Command::new("yosys");
    let yosys = yosys.args(["-q", "-p", &script]).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    yosys.status().map(|status| status.success()).map_err(|error| format!("yosys: {error}"))
}

//! `cargo xtask rtl unit --formal`: what is asserted in the sources under `FORMAL`, by induction on small parameters
//! with
//! the solver of yosys; and that a fault breaks the proof.

use std::fs;
use std::process::{Command, Stdio};

use super::{Done, sources};
use crate::firmware::target_folder;

/// Modules with what their parameters are set to: choices are distinct and in order; an answer's words wait
/// unchanged; no
/// step of a division overflows.
const PROOFS: [(&str, &str); 3] =
    [("unit_rank_chain", "-set K 3 -set KEY 5"), ("unit_answer", "-set E 32 -set K 2"), ("unit_quotient", "")];
/// A fault that the first proof must not survive.
const FAULT: [&str; 2] = ["(in_key > key)", "(in_key < key)"];

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
    let broken = text.replacen(FAULT[0], FAULT[1], 1);
    if broken == text || proves(&folder, &broken, PROOFS[0].0, PROOFS[0].1)? {
        return Err("a fault does not break the proof".into());
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
    let script = format!(
        "read_verilog -sv -formal -defer unit.sv; {set} hierarchy -check -top {module}; prep -flatten; async2sync; \
         sat -tempinduct -prove-asserts -set-assumes {reset} -maxsteps 12 -verify {module}"
    );
    let mut yosys = Command::new("yosys");
    let yosys = yosys.args(["-q", "-p", &script]).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    yosys.status().map(|status| status.success()).map_err(|error| format!("yosys: {error}"))
}

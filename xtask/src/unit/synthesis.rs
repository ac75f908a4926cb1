//! `cargo xtask rtl unit --synthesis`: what parts of the unit take in the cells of osu018 (0.18 µm), by yosys and
//! OpenSTA, without wires and with ideal clocks, from flip-flop to flip-flop; the table in docs/unit.md is compared.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::cycles::grouped;
use super::{Done, sources};
use crate::firmware::{firmware_folder, target_folder};

const LIBRARY: &str = "/usr/share/qflow/tech/osu018/osu018_stdcells.lib";
/// What an input is driven with and an output has to drive, fF.
const CONSTRAINTS: &str = "set_driving_cell BUFX4\nset_load 20.0 [all_outputs]\n";
/// The clock that is aimed at, ns.
const PERIOD: f64 = 2.5;
/// Parts: a module, its parameters, and what it is.
const PARTS: [(&str, &str, &str); 3] = [
    ("unit_rank_chain", "-set K 8 -set KEY 40", "chain of 8 of 256"),
    ("unit_quotient", "", "divider"),
    ("unit_exponential", "-set TAG 5", "exponential"),
];

pub(super) fn synthesise() -> Done {
    let folder = target_folder().join("rtl/unit-synthesis");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::write(folder.join("constraints"), CONSTRAINTS).map_err(|error| format!("constraints: {error}"))?;
    let rows = PARTS.iter().map(|&part| row(&folder, part)).collect::<Done<Vec<String>>>()?;
    println!("{}", rows.join("\n"));
    let path = firmware_folder().join("../docs/unit.md");
    let document = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let missing = rows.iter().any(|row| !document.lines().any(|line| line == row));
    if missing { Err(format!("docs/unit.md has not\n{}", rows.join("\n"))) } else { Ok(()) }
}

/// A part's row of the table: cells, flip-flops, area in mm², and the longest path in ns.
fn row(folder: &Path, (module, parameters, meaning): (&str, &str, &str)) -> Done<String> {
    let files: Vec<String> = sources()?.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let set = if parameters.is_empty() { String::new() } else { format!("chparam {parameters} {module}\n") };
    let script = format!(
        "read_verilog -sv -defer {}\n{set}hierarchy -check -top {module}\nsynth -top {module} -noabc -flatten\n\
         dfflibmap -liberty {LIBRARY}\nabc -liberty {LIBRARY} -constr constraints -D 2000\nopt_clean -purge\n\
         tee -o cells.txt stat -liberty {LIBRARY}\nwrite_verilog -noattr -noexpr netlist.v\n",
        files.join(" ")
    );
    let timing = format!(
        "read_liberty {LIBRARY}\nread_verilog netlist.v\nlink_design {module}\n\
         create_clock -name clk -period {PERIOD} [get_ports clk]\nset_false_path -from [all_inputs]\n\
         report_checks -path_delay max\nexit\n"
    );
    for (name, text) in [("script.ys", script), ("timing.tcl", timing)] {
        fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))?;
    }
    run(folder, "yosys", &["-q", "script.ys"])?;
    let timing = run(folder, "sta", &["-exit", "timing.tcl"])?;
    let cells = fs::read_to_string(folder.join("cells.txt")).map_err(|error| format!("cells.txt: {error}"))?;
    let count = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let lines = cells.lines().filter_map(|line| line.trim().rsplit_once(' '));
        lines.filter(|(name, _)| wanted(name.trim())).filter_map(|(_, number)| number.parse::<u64>().ok()).sum()
    };
    let (gates, flops) = (count(&|name| name == "Number of cells:"), count(&|name| name.starts_with("DFF")));
    let area =
        cells.lines().find_map(|line| line.split_once("Chip area").and_then(|(_, rest)| rest.rsplit(' ').next()));
    let area: f64 = area.and_then(|area| area.parse().ok()).ok_or("yosys prints no area")?;
    let slack = timing.lines().find(|line| line.contains("slack")).and_then(|line| line.split_whitespace().next());
    let slack: f64 = slack.and_then(|slack| slack.parse().ok()).ok_or("OpenSTA prints no slack")?;
    let (gates, flops, area) = (grouped(gates), grouped(flops), area / 1e6);
    Ok(format!("| {meaning} | {gates} | {flops} | {area:.3} | {:.2} |", PERIOD - slack))
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Done<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{program}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

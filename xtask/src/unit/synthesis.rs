//! `cargo xtask rtl unit --synthesis`: what the unit takes in the cells of osu018 (0.18 µm), by yosys and OpenSTA, without
//! wires and with ideal clocks; the table in docs/unit.md is compared, or printed with `--bless`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::cycles::grouped;
use super::{Done, Sizes, sources};
use crate::firmware::{firmware_folder, target_folder};

const LIBRARY: &str = "/usr/share/qflow/tech/osu018/osu018_stdcells.lib";
/// What an input is driven with and an output has to drive, fF.
const CONSTRAINTS: &str = "set_driving_cell BUFX4\nset_load 20.0 [all_outputs]\n";

const fn size(name: &'static str, experts: usize, k: usize) -> Sizes {
    Sizes { name, experts, k, layers: 1, dividers: k, words: 4, choices: 512, tokens: 1024, places: 64 }
}

const SIZES: [Sizes; 3] = [size("Mixtral", 32, 2), size("gpt-oss-120b", 128, 4), size("Qwen3, k = 8", 256, 8)];

pub(super) fn synthesise() -> Done {
    let folder = target_folder().join("rtl/unit-synthesis");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    // Memories are counted in bits: macros of another hand.
    let ram = firmware_folder().join("rtl/unit/ram.sv");
    let ram = fs::read_to_string(&ram).map_err(|error| format!("{}: {error}", ram.display()))?;
    let (ports, _) = ram.split_once(");").ok_or("ram.sv has no ports")?;
    write("ram.sv", &format!("{ports});\nendmodule\n"))?;
    write("constraints", CONSTRAINTS)?;
    let rows = SIZES.iter().map(|&sizes| row(&folder, sizes)).collect::<Done<Vec<String>>>()?;
    let path = firmware_folder().join("../docs/unit.md");
    let document = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}", rows.join("\n"));
    let missing = rows.iter().any(|row| !document.lines().any(|line| line == row));
    if missing { Err(format!("docs/unit.md has not\n{}", rows.join("\n"))) } else { Ok(()) }
}

fn row(folder: &Path, sizes: Sizes) -> Done<String> {
    let files = sources()?;
    let files: Vec<_> =
        files.iter().filter(|path| !path.ends_with("ram.sv")).map(|path| path.to_string_lossy()).collect();
    let parameters: Vec<String> =
        sizes.parameters().iter().map(|(name, value)| format!("-set {name} {value}")).collect();
    let script = format!(
        "read_verilog -sv -lib ram.sv\nread_verilog -sv -defer {}\nchparam {} cptr_unit\n\
         hierarchy -check -top cptr_unit\nsynth -top cptr_unit -noabc\ndfflibmap -liberty {LIBRARY}\n\
         abc -liberty {LIBRARY} -constr constraints -D 2000\nopt_clean -purge\n\
         tee -o cells.txt stat -top cptr_unit -liberty {LIBRARY}\nwrite_verilog -noattr -noexpr netlist.v\n",
        files.join(" "),
        parameters.join(" ")
    );
    run(folder, "yosys", &["-q", "-p", &script])?;
    let timing = format!(
        "read_liberty {LIBRARY}\nread_verilog netlist.v\nlink_design cptr_unit\n\
         create_clock -name clk -period 2.5 [get_ports clk]\nset_false_path -from [get_ports rst_n]\n\
         report_checks -path_delay max\nexit\n"
    );
    fs::write(folder.join("timing.tcl"), timing).map_err(|error| format!("timing.tcl: {error}"))?;
    let timing = run(folder, "sta", &["-exit", "timing.tcl"])?;
    let read = |name: &str| fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let (cells, netlist) = (read("cells.txt")?, read("netlist.v")?);
    let (_, total) = cells.rsplit_once("design hierarchy").ok_or("yosys prints no hierarchy")?;
    let count = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let lines = total.lines().filter_map(|line| line.trim().rsplit_once(' '));
        lines.filter(|(name, _)| wanted(name.trim())).filter_map(|(_, number)| number.parse::<u64>().ok()).sum()
    };
    let flops = count(&|name| name.starts_with("DFF"));
    let gates = count(&|name| name == "Number of cells:");
    let area =
        total.lines().find_map(|line| line.split_once("Chip area").and_then(|(_, rest)| rest.rsplit(' ').next()));
    let area: f64 = area.and_then(|area| area.parse().ok()).ok_or("yosys prints no area")?;
    let slack = timing.lines().find(|line| line.contains("slack")).and_then(|line| line.split_whitespace().next());
    let slack: f64 = slack.and_then(|slack| slack.parse().ok()).ok_or("OpenSTA prints no slack")?;
    Ok(format!(
        "| {} | {} | {} | {} | {} | {:.2} | {} | {:.1} |",
        sizes.name,
        sizes.experts,
        sizes.k,
        grouped(gates),
        grouped(flops),
        area / 1e6,
        grouped(memory_bits(&netlist)),
        2.5 - slack
    ))
}

/// Bits of the memories of a netlist, from the parameters of their instances.
fn memory_bits(netlist: &str) -> u64 {
    let parameter = |text: &str, name: &str| -> u64 {
        let value = text.split_once(name).and_then(|(_, rest)| rest.split_once(')')).map_or("", |(value, _)| value);
        let digits = value.rsplit(['d', 'b', 'h', '(']).next().unwrap_or("");
        u64::from_str_radix(digits.trim(), if value.contains("'h") { 16 } else { 10 }).unwrap_or(0)
    };
    let instances = netlist.split("unit_ram #(").skip(1).filter_map(|text| text.split_once(';').map(|(text, _)| text));
    instances.map(|text| parameter(text, ".DEPTH(") * parameter(text, ".WIDTH(")).sum()
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

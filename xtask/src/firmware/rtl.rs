//! `cargo xtask rtl`: the image `cptr-bench` on the RTL of open RISC-V cores under Verilator, for true cycles; and with
//! the hardware unit on the bus of one, turns that the unit answers.
//!
//! The sources come from the Python package index into the build folder, pinned with their hashes in
//! `firmware/rtl/requirements.txt`.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSegment};

use super::build::building;
use super::command::{Done, execute, folder, install, target_folder};
use super::controller;
use super::golden::lines;
use super::machines::Scope;
use super::table::{self, Count};
use super::toolchain;

const TARGET: &str = "riscv32imc-unknown-none-elf";
const RAM: u64 = 0x8000_0000;
/// Where the table lies, which the hardware model reads: relative to the firmware workspace.
const TABLE: &str = "../hw-model/data/controller_cycles.tsv";
/// The golden step at which a core stops unless another is asked for: the model takes a second for a million cycles,
/// which are some 250 steps, so that the last step takes an hour and more.
pub(crate) const fn golden_steps(scope: Scope) -> &'static str {
    match scope {
        Scope::Short => "10000",
        Scope::Full => "1000000",
    }
}

const PACKAGES: [(&str, &str); 4] =
    [("verilator", "verilator"), ("make", "make"), ("g++", "g++"), ("pip3", "python3-pip")];
const FLAGS: &str = "--cc --exe -O3 --x-assign fast --x-initial fast --noassert -DSYNTHESIS -Wno-fatal -Wno-lint -Wno-style \
                     -Wno-BLKANDNBLK -Wno-COMBDLY -Wno-UNOPTFLAT --top-module top";

/// A core with its set-up.
struct Core {
    /// Name in the table.
    name: &'static str,
    /// Verilator's arguments; `{ibex}`, `{prim}`, `{renamed}` and `{cv}` are folders of sources.
    sources: &'static str,
    /// The file of the top level, which has the parameters.
    top: &'static str,
    parameters: &'static str,
    /// Flags for the compiler beyond the target's: extensions of the instruction set, alignment.
    flags: &'static str,
    /// Whether the hardware unit is on its bus: then the image runs turns, and nothing else.
    unit: bool,
}

const IBEX: &str = "-y {renamed} -y {ibex}/rtl -y {prim}/rtl +incdir+{prim}/rtl +incdir+{ibex}/vendor/lowrisc_ip/dv/sv/dv_utils \
                    {ibex}/rtl/ibex_pkg.sv {prim}/rtl/prim_ram_1p_pkg.sv {prim}/rtl/prim_secded_pkg.sv {prim}/rtl/prim_count_pkg.sv \
                    {prim}/rtl/prim_util_pkg.sv {prim}/rtl/prim_cipher_pkg.sv {prim}/rtl/prim_mubi_pkg.sv \
                    memory.sv ibex.sv";
const CV32E40P: &str = "-y {cv}/rtl +incdir+{cv}/rtl/include {cv}/rtl/include/cv32e40p_apu_core_pkg.sv {cv}/rtl/include/cv32e40p_fpu_pkg.sv \
                        {cv}/rtl/include/cv32e40p_pkg.sv {cv}/bhv/cv32e40p_sim_clock_gate.sv {cv}/rtl/cv32e40p_register_file_ff.sv \
                        memory.sv";
/// The core fetches words: jumps to the second half of one cost a cycle more.
const BIT_MANIPULATION: &str = "-C target-feature=+zba,+zbb,+zbs -C llvm-args=-align-all-nofallthru-blocks=2";

/// Ibex as it comes; Ibex with all that makes it fast (its own configuration "maxperf-pmp-bmbalanced", without memory
/// protection); CV32E40P; and the fast Ibex with the hardware unit.
const CORES: [Core; 4] = [
    Core { name: "ibex", sources: IBEX, top: "top_ibex.sv", parameters: "-GFAST=0", flags: "", unit: false },
    Core {
        name: "ibex-fast",
        sources: IBEX,
        top: "top_ibex.sv",
        parameters: "-GFAST=1",
        flags: BIT_MANIPULATION,
        unit: false,
    },
    Core { name: "cv32e40p", sources: CV32E40P, top: "top_cv32e40p.sv", parameters: "", flags: "", unit: false },
    Core {
        name: "ibex-fast+unit",
        sources: IBEX,
        top: "top_unit.sv",
        parameters: "-GFAST=1",
        flags: BIT_MANIPULATION,
        unit: true,
    },
];

/// Everything, as far as one of the golden steps that the image prints; whether it went well.
pub(crate) fn rtl(bless: bool, golden_steps: &str) -> bool {
    let done = measure(bless, golden_steps);
    if let Err(error) = &done {
        eprintln!("xtask rtl: {error}");
    }
    done.is_ok()
}

fn measure(bless: bool, golden_steps: &str) -> Done {
    install(&PACKAGES)?;
    toolchain::prepare(&[TARGET])?;
    let work = target_folder().join("rtl");
    let sources = fetch_cores(&work)?;
    let golden =
        fs::read_to_string(folder().join("golden/bench.out")).map_err(|error| format!("golden/bench.out: {error}"))?;
    let last = format!("golden {golden_steps} ");
    if !golden.lines().any(|line| line.starts_with(&last)) {
        return Err(format!("the image prints no golden step {golden_steps}"));
    }
    let measured: Vec<Done<Vec<Count>>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            CORES.iter().map(|core| scope.spawn(|| measure_on(core, &sources, &work, &golden, &last))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    let counts: Vec<Count> = measured.into_iter().collect::<Done<Vec<_>>>()?.concat();
    print(&counts);
    let cores: Vec<&str> = CORES.iter().map(|core| core.name).collect();
    table::compare(TABLE, &counts, &cores, bless)?;
    CORES.iter().filter(|core| core.unit).try_for_each(|core| controller::with_unit(core.name))
}

/// Writes what every signal of the core with the hardware unit does in its first turn, for a viewer of waves (VCD).
pub(crate) fn waves(file: &Path) -> bool {
    let done = (|| {
        install(&PACKAGES)?;
        toolchain::prepare(&[TARGET])?;
        let work = target_folder().join("rtl");
        let core = CORES.iter().find(|core| core.unit).ok_or("no core has the unit")?;
        let image = image(core, &work, "cptr-bench", core.name)?;
        let model = verilate(core, &fetch_cores(&work)?, &work, "waves", "--trace", &[turn_source()])?;
        let file = std::path::absolute(file).map_err(|error| error.to_string())?;
        let arguments = [format!("+image={}", image.display()), format!("+waves={}", file.display())];
        execute(Command::new(model).args(arguments))
    })();
    if let Err(error) = &done {
        eprintln!("xtask rtl: {error}");
    }
    done.is_ok()
}

fn write(path: &Path, text: &str) -> Done {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Builds a core and its image, runs it as far as the line that starts with `last`, and compares its results with the
/// host's.
fn measure_on(core: &Core, sources: &[(&str, PathBuf)], work: &Path, golden: &str, last: &str) -> Done<Vec<Count>> {
    let image = image(core, work, "cptr-bench", core.name)?;
    if core.unit {
        // What `cptr run --controller rtl:…` starts.
        self::image(core, work, "cptr-unit", &format!("{}-controller", core.name))?;
    }
    let model = verilate(core, sources, work, core.name, "", &[turn_source()])?;
    if core.unit {
        let text = Turns { model, image }.run("")?;
        println!(
            "{}: requests, answered by the unit, jobs, cycles until it had handed over, wrong: {}",
            core.name,
            seen(&text)
        );
        return table::parse(core.name, &text);
    }
    let text = run(&model, &image, |line| line.starts_with(last), "")?;
    let found = lines(&text, &["corner ", "golden "]);
    if !golden.starts_with(&found) || !found.contains(last) {
        return Err(format!("{}: other results than on the host:\n{found}instead of\n{golden}", core.name));
    }
    table::parse(core.name, &text)
}

/// What carries requests and answers around the hardware unit.
fn turn_source() -> PathBuf {
    folder().join("rtl/turn/turn.sv")
}

/// What the image of turns with the unit says in the end.
fn seen(text: &str) -> &str {
    text.lines().rev().find_map(|line| line.strip_prefix("unit ")).unwrap_or_default()
}

/// Turns with the hardware unit: the model of its core, and the image that asks for them.
pub(crate) struct Turns {
    model: PathBuf,
    image: PathBuf,
}

impl Turns {
    /// With these sources in the place of what carries requests and answers; in a folder of that name.
    pub(crate) fn build(name: &str, sources: &[PathBuf]) -> Done<Self> {
        toolchain::prepare(&[TARGET])?;
        let work = target_folder().join("rtl");
        let core = CORES.iter().find(|core| core.unit).ok_or("no core has the unit")?;
        let image = image(core, &work, "cptr-bench", core.name)?;
        Ok(Self { model: verilate(core, &fetch_cores(&work)?, &work, name, "", sources)?, image })
    }

    /// What the image prints; an error where an answer or a job was another one than without the unit, or none comes.
    pub(crate) fn run(&self, argument: &str) -> Done<String> {
        // The image goes on when something was wrong; here it is enough.
        let ended = |line: &str| line.starts_with("unit ") || line.contains(" is wrong");
        let text = run(&self.model, &self.image, ended, argument)?;
        let numbers: Vec<u64> = seen(&text).split(' ').map_while(|number| number.parse().ok()).collect();
        match numbers[..] {
            [_, answered, jobs, _, 0] if answered > 0 && jobs > 0 => Ok(text),
            _ => Err(format!("not what it is without the unit:\n{text}")),
        }
    }
}

/// Fetches and unpacks the packages.
pub(crate) fn fetch_cores(work: &Path) -> Done<Vec<(&'static str, PathBuf)>> {
    let wheels = work.join("wheels");
    fs::create_dir_all(&wheels).map_err(|error| format!("{}: {error}", wheels.display()))?;
    let there = fs::read_dir(&wheels).map_or(0, Iterator::count);
    if there < 2 {
        let options = ["download", "--quiet", "--no-deps", "--require-hashes", "-r", "rtl/requirements.txt", "-d"];
        execute(Command::new("pip3").args(options).arg(&wheels))?;
    }
    let files = fs::read_dir(&wheels).map_err(|error| format!("{}: {error}", wheels.display()))?;
    for file in files.flatten() {
        execute(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(file.path()).arg(work))?;
    }
    let ibex = work.join("pythondata_cpu_ibex/system_verilog");
    let cv = work.join("pythondata_cpu_cv32e40p/system_verilog");
    let prim = ibex.join("vendor/lowrisc_ip/ip/prim");
    let renamed = work.join("prim");
    fs::create_dir_all(&renamed).map_err(|error| format!("{}: {error}", renamed.display()))?;
    // Ibex names primitives that its own build generates; the generic ones are their stand-ins.
    for name in ["and2", "buf", "clock_gating", "clock_mux2", "flop", "ram_1p"] {
        let generic = ibex.join(format!("vendor/lowrisc_ip/ip/prim_generic/rtl/prim_generic_{name}.sv"));
        let text = fs::read_to_string(&generic).map_err(|error| format!("{}: {error}", generic.display()))?;
        write(&renamed.join(format!("prim_{name}.sv")), &text.replace("prim_generic_", "prim_"))?;
    }
    Ok(vec![("{ibex}", ibex), ("{cv}", cv), ("{prim}", prim), ("{renamed}", renamed)])
}

/// An image for a core's instruction set, as words of memory in a file of that name.
fn image(core: &Core, work: &Path, program: &str, name: &str) -> Done<PathBuf> {
    let folder = work.join("images").join(if core.flags.is_empty() { "plain" } else { core.name });
    let package = if program == "cptr-bench" { program } else { "cptr-controller" };
    let mut command = building(package, TARGET);
    if core.unit {
        command.args(["--features", "unit", "--bin", program]);
    }
    if !core.flags.is_empty() {
        // Added to the flags of firmware/.cargo/config.toml.
        command.env("CARGO_TARGET_RISCV32IMC_UNKNOWN_NONE_ELF_RUSTFLAGS", core.flags);
    }
    execute(command.env("CARGO_TARGET_DIR", &folder))?;
    let image = work.join(format!("{name}.hex"));
    write(&image, &hex(&folder.join(TARGET).join("release").join(program))?)?;
    Ok(image)
}

/// Turns a core into a program, in a folder of that name, with more options; with the unit, and what carries for it.
fn verilate(
    core: &Core,
    sources: &[(&str, PathBuf)],
    work: &Path,
    name: &str,
    options: &str,
    turn: &[PathBuf],
) -> Done<PathBuf> {
    let folder = work.join(name);
    let place = |word: &str| {
        let placed =
            sources.iter().fold(word.to_owned(), |word, (name, path)| word.replace(name, &path.to_string_lossy()));
        // Our own files.
        if placed.contains('/') || placed.starts_with('-') { placed } else { format!("rtl/{placed}") }
    };
    let mut verilator = Command::new("verilator");
    verilator
        .args(options.split_whitespace())
        .args(FLAGS.split_whitespace())
        .args(core.parameters.split_whitespace())
        .arg("-Mdir")
        .arg(&folder);
    let rtl = super::command::folder().join("rtl");
    for word in core.sources.split_whitespace() {
        verilator.arg(place(word));
    }
    if core.unit {
        verilator.args(crate::unit::sources()?).args(turn);
    }
    // Behind the packages that it names. The compiler runs in its own folder.
    verilator.arg(rtl.join(core.top)).arg(rtl.join(if core.unit { "main_unit.cpp" } else { "main.cpp" }));
    execute(&mut verilator)?;
    execute(Command::new("make").arg("-s").arg("-C").arg(&folder).args(["-f", "Vtop.mk", "OPT_FAST=-O3", "Vtop"]))?;
    Ok(folder.join("Vtop"))
}

/// Runs the image until a line that is its last, with another argument if there is one.
fn run(model: &Path, image: &Path, is_last: impl Fn(&str) -> bool, argument: &str) -> Done<String> {
    let failed = |error: std::io::Error| format!("{}: {error}", model.display());
    let of_image = format!("+image={}", image.display());
    let arguments = [of_image.as_str(), argument].into_iter().filter(|argument| !argument.is_empty());
    let mut child = Command::new(model).args(arguments).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut text = String::new();
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let line = line.map_err(failed)?;
        let ended = is_last(&line);
        text.push_str(&line);
        text.push('\n');
        if ended {
            break;
        }
    }
    child.kill().and_then(|()| child.wait()).map_err(failed)?;
    Ok(text)
}

/// The image as words for the model's memory.
fn hex(elf: &Path) -> Done<String> {
    let failed = |error: String| format!("{}: {error}", elf.display());
    let data = fs::read(elf).map_err(|error| failed(error.to_string()))?;
    let file = object::File::parse(&*data).map_err(|error| failed(error.to_string()))?;
    let mut memory = Vec::new();
    for segment in file.segments() {
        let bytes = segment.data().map_err(|error| failed(error.to_string()))?;
        let start =
            segment.address().checked_sub(RAM).ok_or_else(|| failed("a segment outside of the RAM".into()))? as usize;
        memory.resize(memory.len().max(start + bytes.len()).next_multiple_of(4), 0u8);
        memory[start..start + bytes.len()].copy_from_slice(bytes);
    }
    let mut text = String::new();
    for word in memory.as_chunks::<4>().0 {
        let _ = writeln!(text, "{:08x}", u32::from_le_bytes(*word));
    }
    Ok(text)
}

/// The part of the counts that fits a screen: k = 8, and what a further expert costs; and all turns of the unit.
fn print(counts: &[Count]) {
    for core in CORES.iter().filter(|core| core.unit) {
        for Count { kernel, experts, k, cycles, .. } in counts.iter().filter(|count| count.core == core.name) {
            println!("{} {kernel:<12} E={experts:<4} k={k:<3} {cycles:>6} cycles", core.name);
        }
    }
    println!("cycles of a call, k = 8; last column: cycles per expert, from 256 to 512");
    for core in CORES.iter().filter(|core| !core.unit) {
        for kernel in ["top_k", "select", "select_cold", "select_sigmoid", "victim", "update", "update_worst"] {
            let of: Vec<&Count> =
                counts.iter().filter(|c| c.core == core.name && c.kernel == kernel && c.k == 8).collect();
            let cells: String =
                of.iter().fold(String::new(), |text, c| format!("{text} {:>5}:{:>6}", c.experts, c.cycles));
            let slope = match of[..] {
                [.., a, b] => (b.cycles as f64 - a.cycles as f64) / (b.experts - a.experts) as f64,
                _ => 0.0,
            };
            println!("{:<9} {kernel:<14}{cells} {slope:>6.1}", core.name);
        }
    }
}

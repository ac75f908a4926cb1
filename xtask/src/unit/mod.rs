//! `cargo xtask rtl unit`: the hardware unit of `firmware/rtl/unit` against `cptr-core`.
//!
//! The unit becomes a program by Verilator, which follows a script: this side goes through the same steps with the
//! library, and writes what it is asked and what it must answer, bit for bit.

mod cases;
mod coverage;
mod cycles;
mod energy;
mod formal;
mod golden;
mod hostile;
mod model;
mod mutate;
mod netlist;
mod recall;
mod script;
mod synthesis;

#[path = "../../../firmware/bench/src/random.rs"]
#[expect(dead_code, reason = "the image's benchmarks use the rest")]
mod random;

use std::fs;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::firmware::{Done, execute, firmware_folder, install, target_folder};
use model::Unit;
use recall::Text;
use script::Script;

const PACKAGES: [(&str, &str); 3] = [("verilator", "verilator"), ("make", "make"), ("g++", "g++")];
/// The library of cells is a file and no program; OpenSTA is called `sta`, and says no version.
const YOSYS: [(&str, &str); 2] = [("yosys", "yosys"), ("sta", "opensta")];
const FLAGS: &str = "--cc --exe -O3 --x-assign unique --x-initial unique -Wall -Wno-DECLFILENAME -Wno-UNUSED \
                     -Wno-PINCONNECTEMPTY --top-module cptr_unit";

/// A size of the unit: its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    name: &'static str,
    pub(super) experts: usize,
    pub(super) k: usize,
    pub(super) layers: usize,
    dividers: usize,
    pub(super) words: usize,
    pub(super) choices: usize,
    pub(super) tokens: usize,
    pub(super) places: usize,
    /// Whether it does routers by sigmoid, too.
    sigmoid: bool,
}

impl Sizes {
    /// The parameters of the unit.
    fn parameters(&self) -> [(&'static str, usize); 9] {
        [
            ("E", self.experts),
            ("K", self.k),
            ("LAYERS", self.layers),
            ("DIVIDERS", self.dividers),
            ("WORDS", self.words),
            ("CHOICES", self.choices),
            ("TOKENS", self.tokens),
            ("PLACES", self.places),
            ("SIGMOID", self.sigmoid.into()),
        ]
    }
}

/// The unit for most models, with a small memory for recall, and the largest.
const USUAL: Sizes = Sizes {
    name: "usual",
    experts: 256,
    k: 8,
    layers: 2,
    dividers: 8,
    words: 4,
    choices: 256,
    tokens: 64,
    places: 32,
    sigmoid: true,
};
const LARGE: Sizes = Sizes {
    name: "large",
    experts: 1024,
    k: 64,
    layers: 1,
    dividers: 8,
    words: 8,
    choices: 4096,
    tokens: 256,
    places: 64,
    sigmoid: true,
};

/// The least unit that the golden chain's layer fits, as a million of its steps take the usual one hours.
const LEAST: Sizes = Sizes {
    name: "least",
    experts: 32,
    k: 4,
    layers: 1,
    dividers: 4,
    words: 2,
    choices: 64,
    tokens: 64,
    places: 2,
    sigmoid: false,
};
/// Steps of the golden chain that the usual unit goes.
const STEPS: u32 = 10_000;

/// What is checked of a size.
type Check<'a> = &'a (dyn Fn(&mut Unit<BufWriter<std::process::ChildStdin>>) -> Done + Sync);

/// What `cargo xtask rtl unit` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// The unit against the library, the golden chain as far as step 10,000.
    Check,
    /// As far as its last step, and everything below.
    Full,
    /// What these checks reach.
    Coverage,
    /// Whether every seeded fault is found.
    Mutate,
    /// Assertions by induction.
    Formal,
    /// Area and critical path.
    Synthesis,
}

/// The tasks' options.
pub(crate) const OPTIONS: [(&str, Task); 5] = [
    ("--full", Task::Full),
    ("--coverage", Task::Coverage),
    ("--mutate", Task::Mutate),
    ("--formal", Task::Formal),
    ("--synthesis", Task::Synthesis),
];

/// Does a task; whether it went well.
pub(crate) fn unit(task: Task) -> bool {
    let done = install(&PACKAGES).and_then(|()| match task {
        Task::Check => check(),
        Task::Coverage => coverage(),
        Task::Mutate => mutate::all(),
        Task::Formal => install(&YOSYS).and_then(|()| formal::prove()),
        Task::Synthesis => install(&YOSYS).and_then(|()| synthesis::synthesise()),
        Task::Full => {
            install(&YOSYS)?;
            check()?;
            let program = build(LEAST, "", "OPT_FAST=-O3")?;
            let golden = golden_file()?;
            run(&program, "golden chain", &|unit| golden::chain(unit, &golden, 1_000_000))?;
            formal::prove()?;
            coverage()?;
            mutate::all()?;
            synthesis::synthesise()
        }
    });
    if let Err(error) = &done {
        eprintln!("xtask rtl unit: {error}");
    }
    done.is_ok()
}

/// The usual unit and the largest.
fn check() -> Done {
    let golden = golden_file()?;
    cases::constants()?;
    std::thread::scope(|scope| {
        let large = scope.spawn(check_large);
        let usual = build(USUAL, "", "OPT_FAST=-O2").and_then(|program| check_usual(&program, &golden, STEPS));
        let large = large.join().unwrap_or_else(|_| Err("a thread panicked".into()));
        match (usual, large) {
            (Err(usual), Err(large)) => Err(format!("{usual}\n{large}")),
            (usual, large) => usual.and(large),
        }
    })
}

/// The largest unit: the same in fewer requests, as it is slow.
fn check_large() -> Done {
    let program = build(LARGE, "", "OPT_FAST=-O0")?;
    run(&program, "requests", &|unit| cases::requests(unit, 11, 8, 4))?;
    cycles::check(&run(&program, "cycles", &|unit| cases::cycles(unit, &[(1024, 64)]))?)?;
    run(&program, "recall", &|unit| {
        let text = Text { layers: 40, experts: 1024, k: 64, remembered: 256, places: 64, tokens: 3 };
        recall::text::<_, 8, 64>(unit, 6, text, 3)?;
        let text = Text { layers: 4, experts: 300, k: 8, remembered: 200, places: 64, tokens: 450 };
        recall::text::<_, 8, 64>(unit, 7, text, 450)
    })
    .map(drop)
}

/// Everything, with the golden chain as far as a step; the order is that in which most faults are found soonest.
fn check_usual(program: &Program, golden: &str, steps: u32) -> Done {
    run(program, "corners", &|unit| {
        golden::selections(unit, golden)?;
        golden::updates(unit, golden)
    })?;
    run(program, "requests", &|unit| cases::requests(unit, 1, 40, 20))?;
    run(program, "hostile", &|unit| hostile::all(unit, 2, 4))?;
    run(program, "resets", &|unit| hostile::resets(unit, 3, (0..1200).step_by(17)))?;
    run(program, "recall", &|unit| {
        for (seed, layers, experts, k, places) in
            [(1, 3, 64, 8, 32), (2, 20, 32, 4, 5), (3, 1, 2, 1, 1), (4, 9, 64, 3, 32)]
        {
            let text = Text { layers, experts, k, remembered: 64, places, tokens: 150 };
            recall::text::<_, 4, 32>(unit, seed, text, 50)?;
        }
        recall::refusals(unit, 5)
    })?;
    let sizes = [(8, 2), (32, 4), (64, 8), (128, 4), (128, 8), (256, 8)];
    cycles::check(&run(program, "cycles", &|unit| cases::cycles(unit, &sizes))?)?;
    run(program, "golden chain", &|unit| golden::chain(unit, golden, steps)).map(drop)
}

/// The short form on a unit that counts what it reaches.
fn coverage() -> Done {
    let counted = Sizes { name: "coverage", ..USUAL };
    let program = build(counted, "--coverage-line --coverage-toggle", "OPT_FAST=-O1")?;
    check_usual(&program, &golden_file()?, 1000)?;
    coverage::report(program.path.parent().unwrap_or(&program.path))
}

fn golden_file() -> Done<String> {
    let path = firmware_folder().join("golden/bench.out");
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The unit's sources.
pub(crate) fn sources() -> Done<Vec<PathBuf>> {
    let folder = firmware_folder().join("rtl/unit");
    let files = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sv"));
    files.sort();
    Ok(files)
}

/// The unit as a program.
#[derive(Debug, Clone)]
struct Program {
    sizes: Sizes,
    path: PathBuf,
    arguments: Vec<String>,
}

/// Makes a program of a size of the unit.
fn build(sizes: Sizes, options: &str, level: &str) -> Done<Program> {
    build_from(sizes, &sources()?, options, level)
}

/// Makes a program of a size of the unit from these sources.
fn build_from(sizes: Sizes, sources: &[PathBuf], options: &str, level: &str) -> Done<Program> {
    let folder = target_folder().join("rtl").join(format!("unit-{}", sizes.name));
    // What was made from another checkout names files that may be gone.
    let (origin, ours) = (folder.join("checkout"), firmware_folder().to_string_lossy().into_owned());
    if fs::read_to_string(&origin).is_ok_and(|theirs| theirs != ours) {
        fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::write(&origin, ours).map_err(|error| format!("{}: {error}", origin.display()))?;
    let mut verilator = Command::new("verilator");
    verilator.args(FLAGS.split_whitespace()).args(options.split_whitespace());
    verilator.args(sizes.parameters().map(|(name, value)| format!("-G{name}={value}")));
    verilator.arg("-Mdir").arg(&folder).args(sources);
    verilator.arg(firmware_folder().join("rtl/unit/testbench.cpp"));
    execute(&mut verilator)?;
    let make = ["-s", "-j", "2", "-f", "Vcptr_unit.mk", level, "Vcptr_unit"];
    execute(Command::new("make").arg("-C").arg(&folder).args(make).stdout(Stdio::null()))?;
    Ok(Program { sizes, path: folder.join("Vcptr_unit"), arguments: Vec::new() })
}

/// Runs a program by the script that a check writes; returns what it prints.
fn run(program: &Program, what: &str, check: Check<'_>) -> Done<String> {
    let Program { sizes, path, arguments } = program;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut child = Command::new(path);
    child.args(arguments).env("COVERAGE", format!("{}.dat", what.replace(' ', "-")));
    child.current_dir(path.parent().unwrap_or(path));
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let input = child.stdin.take().ok_or("no standard input")?;
    let mut unit = Unit::new(Script::new(BufWriter::new(input)), *sizes);
    let checked = check(&mut unit);
    // A testbench that has ended says why itself.
    let written = unit.script.end();
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{what} ({}): {}", sizes.name, text.trim()));
    }
    checked.map_err(|error| format!("{what} ({}): {error}", sizes.name))?;
    written.map_err(failed)?;
    println!("unit {:<6} {what}: {}", sizes.name, text.lines().last().unwrap_or(""));
    Ok(text.into_owned())
}

//! `cargo xtask firmware`: the library and the images for every target, checked, and run in emulators.
//!
//! With `--bless` the header, the golden output, the table of counts and nothing else are written anew.

mod controller;
mod conversation;
mod emulator;
mod instructions;
mod library;
mod linked;
mod log;
mod machines;
mod rtl;
mod stack;
mod table;
mod toolchain;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use linked::Memory;
use machines::{MACHINES, Machine};
pub(crate) use rtl::{GOLDEN_STEPS, rtl};
use table::Count;

/// What each of these provides comes from Debian, if it is not there.
const PACKAGES: [(&str, &str); 5] = [
    ("qemu-system-arm", "qemu-system-arm"),
    ("qemu-system-riscv32", "qemu-system-misc"),
    ("arm-none-eabi-gcc", "gcc-arm-none-eabi"),
    ("gcc", "gcc"),
    ("g++", "g++"),
];

/// Most bytes of a target.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// The library with everything in it.
    library: Memory,
    /// Stack of the function of the library that needs most.
    library_stack: u64,
    /// The controller's image, where there is one.
    controller: Option<Memory>,
    /// Stack of that image after a conversation of the largest sizes.
    controller_stack: Option<u64>,
    /// Stack of the image `cptr-bench`, which calls every kernel with its largest arguments.
    bench_stack: u64,
}

/// A step's failure, as a sentence.
pub(crate) type Done<T = ()> = Result<T, String>;

/// The folder of the firmware workspace.
pub(crate) fn folder() -> PathBuf {
    root().join("firmware")
}

pub(crate) fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_path_buf()
}

/// Where the firmware workspace builds, but for [`build_folder`].
pub(crate) fn target_folder() -> PathBuf {
    let shared = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    shared.join("firmware")
}

/// Where packages for a target are built: apart where that needs `RUSTC_BOOTSTRAP`, because after each change of it cargo builds everything anew.
fn build_folder(target: &str) -> PathBuf {
    if toolchain::builds_core(target) { target_folder().join("core") } else { target_folder() }
}

/// A name, and what is done; the argument is whether to bless.
type Step = (&'static str, fn(bool) -> Done);

/// What is done, in this order.
pub(crate) const STEPS: [Step; 7] = [
    ("lint", |_| lint()),
    ("header", header),
    ("library", |_| libraries()),
    ("bench", images),
    ("controller", |_| controller::check()),
    ("log", log::check),
    ("loop", controller::in_the_loop),
];

/// The steps named, or all; whether they went well. Goes on after a failure.
pub(crate) fn firmware(bless: bool, names: &[String]) -> bool {
    let result = toolchain::prepare().and_then(|()| install(&PACKAGES)).and_then(|()| {
        let steps = STEPS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name));
        let failed: Vec<String> =
            steps.filter_map(|(name, step)| step(bless).err().map(|error| format!("{name}: {error}"))).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
    });
    if let Err(error) = &result {
        eprintln!("xtask firmware: {error}");
    }
    result.is_ok()
}

/// Installs what provides the missing programs, as root; says what to install otherwise.
pub(crate) fn install(packages: &[(&str, &str)]) -> Done {
    let present = |program: &str| {
        let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let missing: Vec<&str> = packages.iter().filter(|(program, _)| !present(program)).map(|&(_, name)| name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        execute(Command::new("apt-get").args(["-qq", "-y", "--no-install-recommends"]).args(arguments))
    };
    let install: Vec<&str> = ["install"].into_iter().chain(missing.iter().copied()).collect();
    apt(&["update"])
        .and_then(|()| apt(&install))
        .map_err(|error| format!("needs the packages {} (apt-get install as root): {error}", missing.join(", ")))
}

/// Runs a command in the firmware workspace; its output goes to the terminal.
pub(crate) fn execute(command: &mut Command) -> Done {
    let line = line(command);
    let status = command.current_dir(folder()).status().map_err(|error| format!("{line}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}

/// Runs a command in the firmware workspace and returns its standard output.
fn output(command: &mut Command) -> Done<String> {
    let line = line(command);
    let output = command.current_dir(folder()).stdin(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{line}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).env("CARGO_TARGET_DIR", target_folder());
    command
}

/// Builds a package for a target, in release.
pub(crate) fn build(package: &str, target: &str) -> Done {
    build_with(package, target, &[])
}

/// The same with arguments of cargo's.
fn build_with(package: &str, target: &str, arguments: &[&str]) -> Done {
    let mut command = cargo(&["build", "--quiet", "--release", "--package", package, "--target", target]);
    command.args(arguments).env("CARGO_TARGET_DIR", build_folder(target));
    if toolchain::builds_core(target) {
        // A stable compiler takes -Z options only so.
        command.arg("-Zbuild-std=core").env("RUSTC_BOOTSTRAP", "1");
    }
    execute(&mut command)
}

/// Builds an image with its log, in a folder of its own: the image without stays where it is. Returns the file.
fn build_with_log(package: &str, target: &str) -> Done<PathBuf> {
    let folder = target_folder().join("log");
    build_with(package, target, &["--features", "defmt", "--target-dir", &folder.to_string_lossy()])?;
    Ok(folder.join(target).join("release").join(package))
}

/// What a build leaves for a target.
pub(crate) fn built(target: &str, file: &str) -> PathBuf {
    build_folder(target).join(target).join("release").join(file)
}

fn lint() -> Done {
    // Not `--all`, which formats the core as well.
    let members = ["cptr-rt", "cptr-bench", "cptr-controller", "cptr-ffi", "cptr-header", "cptr-log"];
    execute(cargo(&["fmt", "--check"]).args(members.iter().flat_map(|member| ["--package", member])))?;
    execute(&mut cargo(&["clippy", "--quiet", "--workspace", "--", "-D", "warnings"]))?;
    for target in ["thumbv7em-none-eabihf", "riscv32imac-unknown-none-elf"] {
        let packages =
            ["cptr-rt", "cptr-bench", "cptr-controller", "cptr-ffi"].iter().flat_map(|name| ["--package", name]);
        let lint = ["clippy", "--quiet", "--features", "cptr-controller/defmt", "--target", target];
        execute(cargo(&lint).args(packages).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn header(bless: bool) -> Done {
    let action = if bless { "--bless" } else { "--check" };
    execute(&mut cargo(&["run", "--quiet", "--package", "cptr-header", "--", action]))
}

/// The budget of a target.
fn budget(target: &str) -> Done<Budget> {
    let file = folder().join("budgets.toml");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut budgets: BTreeMap<String, Budget> =
        toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    budgets.remove(target).ok_or_else(|| format!("{} has no [{target}]", file.display()))
}

/// Builds the library for every target, looks for panics, compares sizes and stack, and runs the programs in C.
fn libraries() -> Done {
    println!("{:<30} {:>8} {:>8} {:>8} {:>8} {:>8}", "library, bytes", "flash", "of", "RAM", "stack", "of");
    for target in machines::targets() {
        library::check(target, &budget(target)?)?;
    }
    library::c_programs()
}

/// Builds and runs the images; golden lines must be the host's, counts those of the table.
fn images(bless: bool) -> Done {
    let host = output(&mut cargo(&["run", "--quiet", "--release", "--package", "cptr-bench"]))?;
    let golden = lines(&host, &["corner ", "golden "]);
    self::golden("bench.out", &golden, bless)?;
    for target in machines::targets() {
        build("cptr-bench", target)?;
    }
    let runs: Vec<Done<Run>> = std::thread::scope(|scope| {
        let threads: Vec<_> = MACHINES.iter().map(|machine| scope.spawn(|| run(machine, &golden))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    let mut counts = Vec::new();
    for (machine, run) in MACHINES.iter().zip(runs) {
        let run = run.map_err(|error| format!("{}: {error}", machine.core))?;
        let budget = budget(machine.target)?.bench_stack;
        println!("{:<12} golden steps equal the host's; stack {} of {budget} bytes", machine.core, run.stack);
        if run.stack > budget {
            return Err(format!("{}: more stack than firmware/budgets.toml allows", machine.core));
        }
        counts.extend(run.counts);
    }
    table::compare("instructions.tsv", &counts, bless)?;
    if bless {
        return Ok(());
    }
    // Cycles take minutes to count; that they are of this code can be told from the instructions beside them.
    counts.retain(|count| count.core == rtl::IMAGE);
    table::check_instructions(rtl::TABLE, rtl::SAME_IMAGE, &counts)
        .map_err(|error| format!("{error}; cargo xtask rtl --bless counts cycles anew"))
}

/// Compares with `firmware/golden/FILE`, or writes it.
fn golden(file: &str, found: &str, bless: bool) -> Done {
    let file = folder().join("golden").join(file);
    if bless {
        fs::write(&file, found).map_err(|error| format!("{}: {error}", file.display()))
    } else if fs::read_to_string(&file).ok().as_deref() == Some(found) {
        Ok(())
    } else {
        Err(format!("{} differs from\n{found}--bless takes it over", file.display()))
    }
}

/// What an emulated image printed.
struct Run {
    counts: Vec<Count>,
    stack: u64,
}

fn run(machine: &Machine, golden: &str) -> Done<Run> {
    let image = built(machine.target, "cptr-bench");
    // No sound card is asked for.
    let text = output(Command::new(machine.qemu).args(machine.command_line(&image)).env("QEMU_AUDIO_DRV", "none"))?;
    let found = lines(&text, &["corner ", "golden "]);
    if found != golden {
        return Err(format!("other results than on the host:\n{found}instead of\n{golden}"));
    }
    let counts = table::parse(machine.core, &text)?;
    // 1,000 turns of two instructions, and the call.
    let loops = counts.iter().find(|count| count.kernel == "two_a_turn").map_or(0, |count| count.instructions);
    if !(2000..2020).contains(&loops) {
        return Err(format!("the instruction counter is wrong: {loops} for a loop of 2,000"));
    }
    let stack = text.lines().find_map(|line| line.strip_prefix("stack ")?.parse().ok());
    Ok(Run { counts, stack: stack.ok_or("no stack line")? })
}

/// The lines that begin with one of `starts`.
fn lines(text: &str, starts: &[&str]) -> String {
    let wanted = text.lines().filter(|line| starts.iter().any(|start| line.starts_with(start)));
    wanted.map(|line| format!("{line}\n")).collect()
}

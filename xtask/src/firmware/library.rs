//! The static library as a linker sees it: which code its functions reach, how long that is, that none of it panics,
//! and the stack that it needs.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::budget::{Budget, budget};
use super::build::{build, build_folder, built};
use super::command::{Done, cargo, execute, folder, output, target_folder};
use super::instructions::Encoding;
use super::linked::{Linked, Memory};
use super::machines::Scope;
use super::stack::Graph;
use super::toolchain::{builds_core, rustlib};

pub(super) const M4F: &str = "thumbv7em-none-eabihf";

/// Parts of the library that a device may do without, by the names of their functions: `[features]` of its package.
pub(super) const FEATURES: [(&str, &[&str]); 9] = [
    ("select", &["cptr_router_", "cptr_select"]),
    ("tracker", &["cptr_config_", "cptr_tracker_", "cptr_half_life"]),
    ("placement", &["cptr_demand_", "cptr_place_"]),
    ("dispatch", &["cptr_dispatch", "cptr_queue_"]),
    ("cache", &["cptr_cache_"]),
    ("expert", &["cptr_expert_"]),
    ("bits", &["cptr_bits_"]),
    ("change", &["cptr_change_"]),
    ("migration", &["cptr_migration_"]),
];
/// Those of the smallest budget.
pub(super) const SMALL: [&str; 4] = ["select", "tracker", "placement", "dispatch"];
/// Functions of no feature.
const ALWAYS: [&str; 2] = ["cptr_version", "cptr_features"];

/// Functions printed with the stack that they need.
const DEEPEST: usize = 3;

/// Calls every function from Rust, builds the library for every target, looks for panics, compares sizes and stack, and
/// runs the programs in C.
pub(super) fn check(scope: Scope) -> Done {
    execute(&mut cargo(&["test", "--quiet", "--package", "cptr-ffi"]))?;
    println!("{:<45} {:>8} {:>8} {:>8} {:>8} {:>8}", "bytes", "flash", "of", "RAM", "stack", "of");
    for target in scope.targets() {
        check_target(target, &budget(target)?)?;
    }
    c_programs()
}

/// Builds the library for a target, links its functions and nothing else, the smallest part of them, all but those for
/// engines, and all, and looks at the results: no panics, no more memory or stack than `budget`.
fn check_target(target: &str, budget: &Budget) -> Done {
    build_library(target)?;
    let header = header()?;
    let all = functions(&header);
    if let Some(stray) = all.iter().find(|name| feature(name).is_none() && !ALWAYS.contains(name)) {
        return Err(format!("{stray} is of no feature"));
    }
    let small = functions_of(&header, &SMALL);
    let device = FEATURES.map(|(name, _)| name).into_iter().filter(|&name| name != "cache").collect::<Vec<_>>();
    let device = functions_of(&header, &device);
    if target == M4F {
        // That the names are still the ones looked for: an image that formats text does hold them.
        build("cptr-bench", target)?;
        if Linked::read(&built(target, "cptr-bench"))?.panics().is_empty() {
            return Err(
                "the check for panics finds none in an image that has some: the compiler's names have changed".into()
            );
        }
    }
    check_linked(target, "library", &small, budget.library, budget.library_stack)?;
    check_linked(target, "for a device", &device, budget.device, budget.device_stack)?;
    check_linked(target, "with cptr_cache", &all, budget.engine, budget.engine_stack)?;
    if target == M4F { features(target, &all) } else { Ok(()) }
}

/// The feature that a function is of.
fn feature(function: &str) -> Option<&'static str> {
    let of = FEATURES.iter().find(|(_, starts)| starts.iter().any(|start| function.starts_with(start)));
    of.map(|(feature, _)| *feature)
}

/// Prints what each feature takes: linked alone, and beside all others.
fn features(target: &str, all: &[&str]) -> Done {
    let flash = |kept: &dyn Fn(&str) -> bool| -> Done<u64> {
        let functions: Vec<&str> = all.iter().copied().filter(|name| ALWAYS.contains(name) || kept(name)).collect();
        Ok(link(&archive(target), target, &functions)?.memory.flash)
    };
    let (none, whole) = (flash(&|_| false)?, flash(&|_| true)?);
    println!("{target}, bytes of flash of a feature: alone, and beside all others");
    for (feature, _) in FEATURES {
        let own = |name: &str| self::feature(name) == Some(feature);
        let (alone, others) = (flash(&own)?, flash(&|name| !own(name))?);
        println!("  {feature:<12} {:>8} {:>8}", alone - none, whole - others);
    }
    let core = flash(&|name| !matches!(feature(name), Some("cache" | "expert")))?;
    println!("  all but `cache` and `expert` together {core}");
    Ok(())
}

/// Links functions of the library, and nothing else.
fn check_linked(target: &str, name: &str, functions: &[&str], most: Memory, most_stack: u64) -> Done {
    let library = link(&archive(target), target, functions)?;
    let stacks = stacks(target, functions)?;
    let (stack, Memory { flash, ram }) = (stacks.first().map_or(0, |&(bytes, _)| bytes), library.memory);
    println!("{target:<28} {name:<16} {flash:>8} {:>8} {ram:>8} {stack:>8} {most_stack:>8}", most.flash);
    let deepest: Vec<String> = stacks.iter().take(DEEPEST).map(|(bytes, name)| format!("{name} {bytes}")).collect();
    println!("{:<28} most stack: {}", "", deepest.join(", "));
    if stack > most_stack {
        return Err(format!("{target}: {name} needs more stack than firmware/budgets.toml allows"));
    }
    library.check(&format!("{target}: {name}"), most)
}

/// Builds the library with a record of each function's frame. The code is the same without: the compiler takes the
/// option only with `RUSTC_BOOTSTRAP`, after which it would name symbols in another way.
fn build_library(target: &str) -> Done {
    let mut command = cargo(&["rustc", "--quiet", "--release", "--package", "cptr-ffi", "--target", target]);
    command.env("CARGO_TARGET_DIR", library_folder(target));
    if builds_core(target) {
        command.args(["-Zbuild-std=core", "--"]).env("RUSTC_BOOTSTRAP", "1");
    } else {
        command.args(["--", "-Zunstable-options", "-Csymbol-mangling-version=legacy"]).env("RUSTC_BOOTSTRAP", "cptr");
    }
    execute(command.arg("-Zemit-stack-sizes"))
}

/// A folder for each value of `RUSTC_BOOTSTRAP`.
fn library_folder(target: &str) -> PathBuf {
    build_folder(target).join("library")
}

fn archive(target: &str) -> PathBuf {
    library_folder(target).join(target).join("release").join("libcptr.a")
}

/// The stack that each function needs, in bytes, and its name; the one that needs most is first.
fn stacks<'a>(target: &str, functions: &[&'a str]) -> Done<Vec<(u64, &'a str)>> {
    let archive = archive(target);
    let failed = |error: &dyn Display| format!("{}: {error}", archive.display());
    let data = fs::read(&archive).map_err(|error| failed(&error))?;
    let graph = Graph::read(&data, Encoding::of(target)).map_err(|error| failed(&error))?;
    let needs = functions.iter().map(|&name| graph.need(name).map(|bytes| (bytes, name)));
    let mut stacks = needs.collect::<Done<Vec<_>>>().map_err(|error| failed(&error))?;
    stacks.sort_unstable_by(|a, b| b.cmp(a));
    stacks.dedup();
    Ok(stacks)
}

/// Links functions of a library, and what they reach.
pub(super) fn link(archive: &Path, target: &str, functions: &[&str]) -> Done<Linked> {
    let linked = target_folder().join(format!("{target}.elf"));
    let mut lld = Command::new(rust_lld()?);
    lld.args(["-flavor", "gnu", "--gc-sections", "--entry=cptr_version"]);
    functions.iter().for_each(|name| _ = lld.args(["-u", name]));
    execute(lld.arg(archive).arg("-o").arg(&linked))?;
    let library = Linked::read(&linked)?;
    match functions.iter().find(|name| library.address(name).is_none()) {
        Some(name) => Err(format!("{target}: cptr.h declares {name}, the library has none")),
        None => Ok(library),
    }
}

/// The header of the library.
pub(super) fn header() -> Done<String> {
    fs::read_to_string(folder().join("ffi/include/cptr.h")).map_err(|error| format!("cptr.h: {error}"))
}

/// Names of the functions of these features that a header declares, and those of none.
pub(super) fn functions_of<'a>(header: &'a str, features: &[&str]) -> Vec<&'a str> {
    let kept = |name: &&str| ALWAYS.contains(name) || feature(name).is_some_and(|of| features.contains(&of));
    functions(header).into_iter().filter(kept).collect()
}

/// Names of the functions that a header declares.
fn functions(header: &str) -> Vec<&str> {
    let comment = |line: &str| ["//", "/*", "*"].iter().any(|start| line.trim_start().starts_with(start));
    let code = header.lines().filter(|line| !comment(line));
    code.filter_map(|line| line.split_once('(').map(|(before, _)| before.rsplit([' ', '*']).next().unwrap_or("")))
        .filter(|name| name.starts_with("cptr_"))
        .collect()
}

/// The linker that comes with the compiler.
fn rust_lld() -> Done<PathBuf> {
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    Ok(rustlib()?.join(host.trim()).join("bin/rust-lld"))
}

/// The host's program under sanitizers, the C++ check, and the Cortex-M4F program in QEMU, which must print what the
/// host's prints.
fn c_programs() -> Done {
    execute(&mut cargo(&["build", "--quiet", "--release", "--package", "cptr-ffi"]))?;
    let folder = target_folder();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (host, cpp, m4) = (file("c-host"), file("c-header"), file("c-cortex-m4.elf"));
    let common = "-std=c99 -O1 -g -Wall -Wextra -Wpedantic -Werror -Iffi/include";
    let sanitizers = "-fsanitize=address,undefined -fno-sanitize-recover=all";
    let library = file("release/libcptr.a");
    let system = "-lpthread -ldl -lm";
    compile("gcc", &[common, sanitizers, "ffi/tests/host.c"], &[&library, "-o", &host], system)?;
    compile(
        "g++",
        &["-std=c++11 -Wall -Wextra -Wpedantic -Werror -Iffi/include ffi/tests/header.cpp"],
        &[&library, "-o", &cpp],
        system,
    )?;
    execute(&mut Command::new(&cpp))?;
    let from_host = output(&mut Command::new(&host))?;
    print!("C on the host, sanitized: {from_host}");
    let cpu = "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -nostdlib -ffreestanding -Wl,-z,noexecstack";
    let archive = archive(M4F).to_string_lossy().into_owned();
    let script = "-Tffi/tests/cortex_m4.ld";
    compile("arm-none-eabi-gcc", &[common, cpu, script, "ffi/tests/cortex_m4.c"], &[&archive, "-o", &m4], "")?;
    let arguments = "-machine mps2-an386 -nographic -monitor none -serial stdio -semihosting-config enable=on,target=native -kernel";
    let from_m4 = output(Command::new("qemu-system-arm").args(arguments.split(' ')).arg(&m4))?;
    if from_m4 == from_host {
        Ok(())
    } else {
        Err(format!("C on the Cortex-M4F prints {from_m4}instead of {from_host}"))
    }
}

pub(super) fn compile(compiler: &str, words: &[&str], files: &[&str], libraries: &str) -> Done {
    let mut command = Command::new(compiler);
    command
        .args(words.iter().flat_map(|words| words.split_whitespace()))
        .args(files)
        .args(libraries.split_whitespace());
    execute(&mut command)
}

#[cfg(test)]
mod tests {
    use super::functions;

    #[test]
    fn functions_of_a_header() {
        let header = "// cptr_no(\nuint32_t cptr_version(void);\ncptr_status cptr_select(const int *x,\n#define CPTR_SIZE(x) (x)\n";
        assert_eq!(functions(header), ["cptr_version", "cptr_select"]);
    }
}

//! What a person repeats: `cargo xtask test [--full] [GROUP]…` runs all checks, or the groups named, and reports every
//! failure at the end; `cargo xtask firmware [--bless] [STEP]…` builds, checks and runs the firmware;
//! `cargo xtask rtl [--bless]` counts its cycles; `cargo xtask fuzz` looks for inputs that break promises, `cargo xtask
//! supply` at what all this is made of, `cargo xtask miri` at its `unsafe`; `cargo xtask install --prefix FOLDER`
//! installs the command, with completions and manual pages, and the C libraries.
//!
//! Without `--full` the firmware runs on one emulated machine of each instruction set and the cores on RTL as far as
//! golden step 10,000; with it on all machines, and as far as the last golden step, a million faults are injected
//! between host and device and as many in state, fuzzers run, llama.cpp is built and tested with a strategy in its
//! loop, the Python package is built and tested with models attached, a sweep goes through a Slurm of its own, reports
//! are looked at in a browser, and the packages of all crates are built.
#![forbid(unsafe_code)]

mod book;
mod checkout;
mod firmware;
mod fuzz;
mod links;
mod llama;
mod memory;
mod miri;
mod packages;
mod publish;
mod python;
mod report;
mod slurm;
mod supply;
#[cfg(test)]
mod threats;
mod unit;

use std::process::{Command, ExitCode};
use std::time::Instant;

use firmware::Scope;

/// The repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Run with `--full`, or when they are named: they build llama.cpp, install PyTorch or a browser, or take minutes.
const LONG: &[&str] =
    &["llama", "contract", "hostile", "supply", "miri", "book", "python", "slurm", "report", "package"];

/// A set of commands with one purpose.
struct Group {
    name: &'static str,
    purpose: &'static str,
    run: fn(Scope) -> bool,
}

const GROUPS: &[Group] = &[
    Group {
        name: "format",
        purpose: "the code is formatted, no line of prose too long",
        run: |_| {
            let fuzzers = ["fmt", "--check", "--manifest-path", "tests/fuzz/Cargo.toml"];
            cargo(&["fmt", "--all", "--check"], &[]) & cargo(&fuzzers, &[]) & checkout::check(ROOT.as_ref())
        },
    },
    Group {
        name: "lint",
        purpose: "clippy has nothing to say",
        run: |_| cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]),
    },
    Group {
        name: "test",
        purpose: "unit, property, differential and end-to-end tests",
        run: |_| cargo(&["test", "--workspace"], &[]),
    },
    Group {
        name: "bench",
        purpose: "every benchmark runs, once",
        // In the profile of the tests: whether they run is the question here, not how fast.
        run: |_| cargo(&["bench", "--workspace", "--benches", "--profile", "test", "--", "--test"], &[]),
    },
    Group {
        name: "doc",
        purpose: "the documentation builds without warnings, and every link leads somewhere",
        run: |_| {
            links::check(ROOT.as_ref())
                & cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
        },
    },
    Group {
        name: "firmware",
        purpose: "the firmware and the C library on emulated machines",
        run: |scope| firmware::firmware(scope, false, &[]),
    },
    Group {
        name: "rtl",
        purpose: "cycles on the RTL of open cores; the memory engine, and the hardware unit, behind testbenches",
        run: |scope| {
            let task = if scope == Scope::Full { unit::Task::Full } else { unit::Task::Check };
            firmware::rtl(false, firmware::golden_steps(scope)) & memory::verilog() & unit::unit(task)
        },
    },
    Group { name: "demo", purpose: "the main job runs", run: |_| demo() },
    Group {
        name: "contract",
        purpose: "a million faults between host and device; every order of two ends of a ring",
        run: |_| contract(),
    },
    Group {
        name: "hostile",
        purpose: "a million faults in state, a thousand attacks, 10^9 steps of the filter; fuzzers",
        run: |_| hostile(),
    },
    Group { name: "llama", purpose: "llama.cpp with a strategy in the loop", run: |_| llama::check() },
    Group { name: "book", purpose: "the book, by mdBook", run: |_| book::build() },
    Group { name: "supply", purpose: "what all this is made of", run: |_| supply::supply(&[]) },
    Group {
        name: "miri",
        purpose: "`unsafe` and atomics in an interpreter that sees what is undefined",
        run: |_| miri::miri(),
    },
    Group { name: "python", purpose: "the Python package, and models attached to it", run: |_| python::check() },
    Group {
        name: "report",
        purpose: "reports in a browser: seen, read, used by keyboard",
        run: |_| report::check(false),
    },
    Group {
        name: "package",
        purpose: "the packages of all crates, and the command as it is installed",
        run: |_| publish::check(),
    },
    Group {
        name: "slurm",
        purpose: "a sweep as an array of Slurm, and what reads its results",
        run: |_| slurm::check(),
    },
];

fn main() -> ExitCode {
    if let Some(exit) = packages::with_programs() {
        return exit;
    }
    let mut arguments = std::env::args().skip(1);
    let (scope, names): (Scope, Vec<String>) = match arguments.next().as_deref() {
        Some("test") => {
            let (full, names): (Vec<String>, Vec<String>) = arguments.partition(|word| word == "--full");
            (if full.is_empty() { Scope::Short } else { Scope::Full }, names)
        }
        Some(task @ ("firmware" | "rtl")) => {
            let (options, words): (Vec<String>, Vec<String>) = arguments.partition(|word| word.starts_with('-'));
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let steps = words.iter().all(|word| firmware::STEPS.iter().any(|(name, _)| name == word));
            return exit(match (task, &options[..], &words[..]) {
                ("firmware", [], _) if steps => firmware::firmware(Scope::Full, false, &words),
                ("firmware", ["--bless"], _) if steps => firmware::firmware(Scope::Full, true, &words),
                ("rtl", [], []) => firmware::rtl(false, firmware::golden_steps(Scope::Short)),
                ("rtl", ["--bless"], []) => firmware::rtl(true, firmware::golden_steps(Scope::Short)),
                ("rtl", [], [step]) if step == "unit" => unit::unit(unit::Task::Check),
                ("rtl", [option], [step]) if step == "unit" => {
                    match unit::OPTIONS.iter().find(|(name, _)| name == option) {
                        Some((_, task)) => unit::unit(*task),
                        None => return usage(),
                    }
                }
                ("rtl", ["--waves"], [file]) => firmware::waves(file.as_ref()),
                ("rtl", ["--golden"], [steps]) => firmware::rtl(false, steps),
                _ => return usage(),
            });
        }
        Some("fuzz") => {
            return match fuzz::Options::parse(arguments) {
                Some(options) => exit(fuzz::fuzz(&options)),
                None => usage(),
            };
        }
        Some("supply") => {
            let steps: Vec<String> = arguments.collect();
            let known = |step: &String| supply::STEPS.iter().any(|(name, ..)| name == step);
            return if steps.iter().all(known) { exit(supply::supply(&steps)) } else { usage() };
        }
        Some("report") => {
            return match &arguments.collect::<Vec<String>>()[..] {
                [] => exit(report::check(false)),
                [option] if option == "--bless" => exit(report::check(true)),
                _ => usage(),
            };
        }
        Some("miri") if arguments.len() == 0 => return exit(miri::miri()),
        Some("install") => {
            return exit(match &arguments.collect::<Vec<String>>()[..] {
                [option, prefix] if option == "--prefix" => {
                    let prefix = prefix.as_ref();
                    publish::install(prefix) && firmware::install_library(prefix) && memory::install(prefix)
                }
                _ => return usage(),
            });
        }
        _ => return usage(),
    };
    if names.iter().any(|name| GROUPS.iter().all(|group| group.name != name)) {
        return usage();
    }
    let usual = |group: &Group| !LONG.contains(&group.name) || scope == Scope::Full;
    let named = |group: &Group| names.iter().any(|name| name == group.name);
    let chosen = GROUPS.iter().filter(|group| if names.is_empty() { usual(group) } else { named(group) });
    let mut results = Vec::new();
    for group in chosen {
        eprintln!("\n== {}: {}", group.name, group.purpose);
        let start = Instant::now();
        results.push((group.name, (group.run)(scope), start.elapsed()));
    }
    eprintln!();
    for (name, passed, time) in &results {
        println!("{name:<8} {} {:>6.1} s", if *passed { "passed" } else { "FAILED" }, time.as_secs_f64());
    }
    let failed = results.iter().filter(|(_, passed, _)| !passed).count();
    println!("{} passed, {failed} failed", results.len() - failed);
    exit(failed == 0)
}

fn exit(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: cargo xtask test [--full] [GROUP]…\n       cargo xtask firmware [--bless] [STEP]…\n       \
         cargo xtask rtl [--bless | --golden STEPS | --waves FILE]\n       \
         cargo xtask rtl unit [--full | --coverage | --mutate | --formal | --synthesis]\n       \
         cargo xtask fuzz [--seconds N] [--record] [--bless] [TARGET]…\n       \
         cargo xtask report [--bless]\n       cargo xtask supply [STEP]…\n       cargo xtask miri\n       \
         cargo xtask install --prefix FOLDER\n"
    );
    for group in GROUPS {
        eprintln!("  {:<8} {}", group.name, group.purpose);
    }
    eprintln!("\nsteps of firmware: {}", firmware::STEPS.map(|(name, _)| name).join(" "));
    eprintln!("steps of supply: {}", supply::STEPS.map(|(name, ..)| name).join(" "));
    ExitCode::from(2)
}

fn demo() -> bool {
    let report = std::env::temp_dir().join(format!("cptr-demo-{}.html", std::process::id()));
    // In the profile of the tests: most of it is built already, and whether it runs is the question here.
    let done = cargo(&["run", "--profile", "test", "--", "demo", "--report", &report.to_string_lossy()], &[]);
    done && std::fs::remove_file(report).is_ok()
}

/// What the device contract promises (docs/device.md), as far as it takes long to see.
fn contract() -> bool {
    let faults = ["test", "--package", "cptr-protocol", "--test", "faults", "--", "--ignored", "--nocapture"];
    // A folder of its own: every crate is built with the flag.
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{ROOT}/target"));
    let loom = [("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", &*format!("{target}/loom"))];
    let rings = ["test", "--package", "cptr-protocol", "--lib", "ring::ordering"];
    cargo(&faults, &[]) & cargo(&rings, &loom)
}

/// What docs/robustness.md promises, as far as it takes long to see.
fn hostile() -> bool {
    let test = |arguments: &[&str]| {
        cargo(&[&["test", "--package"], arguments, &["--", "--ignored", "--nocapture"]].concat(), &[])
    };
    test(&["cptr-tests", "--test", "faults", "--test", "long", "--test", "memory"])
        & test(&["cptr-model", "--test", "storage"])
        & test(&["cptr-sim", "--lib", "attack"])
        & fuzz::fuzz(&fuzz::Options::usual())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> bool {
    run(env!("CARGO"), arguments, environment)
}

/// Whether a program ran and succeeded; says which did not.
fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> bool {
    let status = Command::new(program).args(arguments).envs(environment.iter().copied()).current_dir(ROOT).status();
    let line = format!("{program} {}", arguments.join(" "));
    match status {
        Ok(status) if status.success() => true,
        Ok(status) => {
            eprintln!("xtask: {line}: {status}");
            false
        }
        Err(error) => {
            eprintln!("xtask: {line}: {error}");
            false
        }
    }
}

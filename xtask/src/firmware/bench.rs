//! The image of kernels, corner vectors and golden steps, `cptr-bench`: on every machine.

use std::path::Path;

use super::budget::budget;
use super::build::{build, build_for, built};
use super::command::{Done, cargo, output};
use super::golden::{self, lines};
use super::linked::Linked;
use super::machines::{Machine, Scope};
use super::table::{self, Count};

/// Builds and runs the images; golden lines must be the host's, counts those of the table.
pub(super) fn check(scope: Scope, bless: bool) -> Done {
    let host = output(&mut cargo(&["run", "--quiet", "--release", "--package", "cptr-bench"]))?;
    let golden = lines(&host, &["corner ", "golden "]);
    golden::golden("bench.out", &golden, bless)?;
    for target in scope.targets() {
        build("cptr-bench", target)?;
        // What the library for C has not, or not all of: linked with nothing that formats text.
        let image = Linked::read(&built(target, "cptr-without-panics"))?;
        if !image.panics().is_empty() {
            return Err(format!("{target}: core can panic: {}", image.panics().join(", ")));
        }
    }
    let machines: Vec<&Machine> = scope.machines().collect();
    let runs: Vec<Done<Run>> = std::thread::scope(|threads| {
        let threads: Vec<_> = machines
            .iter()
            .map(|machine| threads.spawn(|| run(machine, &built(&machine.target, "cptr-bench"), &golden)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    let mut counts = Vec::new();
    for (machine, run) in machines.iter().zip(runs) {
        let run = run.map_err(|error| format!("{}: {error}", machine.core))?;
        let budget = budget(&machine.target)?.bench_stack;
        println!("{:<12} golden steps equal the host's; stack {} of {budget} bytes", machine.core, run.stack);
        if run.stack > budget {
            return Err(format!("{}: more stack than firmware/budgets.toml allows", machine.core));
        }
        counts.extend(run.counts);
    }
    let mut cores: Vec<&str> = machines.iter().map(|machine| &*machine.core).collect();
    if let Some(machine) = machines.iter().find(|machine| machine.core == BASE) {
        counts.extend(with_bits(machine, &golden)?);
        cores.push(WITH_BITS);
    }
    table::compare("instructions.tsv", &counts, &cores, bless)
}

/// A core, and its name in tables with instructions for bits, among them a population count: the emulator has them.
const BASE: &str = "rv32imac";
const WITH_BITS: &str = "rv32imac-zbb";
const BITS: &str = "+zba,+zbb";

/// What recall takes with these instructions, which count most there.
fn with_bits(machine: &Machine, golden: &str) -> Done<Vec<Count>> {
    let image = build_for("cptr-bench", &machine.target, BITS)?;
    let mut counts = run(machine, &image, golden)?.counts;
    counts.retain(|count| count.kernel.starts_with("recall"));
    counts.iter_mut().for_each(|count| WITH_BITS.clone_into(&mut count.core));
    println!("{WITH_BITS:<12} golden steps equal the host's");
    Ok(counts)
}

/// What an emulated image printed.
struct Run {
    counts: Vec<Count>,
    stack: u64,
}

fn run(machine: &Machine, image: &Path, golden: &str) -> Done<Run> {
    let text = output(&mut machine.emulator(image))?;
    let found = lines(&text, &["corner ", "golden "]);
    if found != golden {
        return Err(format!("other results than on the host:\n{found}instead of\n{golden}"));
    }
    let counts = table::parse(&machine.core, &text)?;
    // 1,000 turns of two instructions, and the call.
    let loops = counts.iter().find(|count| count.kernel == "two_a_turn").map_or(0, |count| count.instructions);
    if !(2000..2020).contains(&loops) {
        return Err(format!("the instruction counter is wrong: {loops} for a loop of 2,000"));
    }
    let stack = text.lines().find_map(|line| line.strip_prefix("stack ")?.parse().ok());
    Ok(Run { counts, stack: stack.ok_or("no stack line")? })
}

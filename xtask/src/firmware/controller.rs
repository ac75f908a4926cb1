//! The controller's image: built for every machine, and run there with a real trace.

use std::fs;
use std::process::{Command, Stdio};

use super::budget::budget;
use super::build::{build, built};
use super::command::{Done, folder, output, root};
use super::conversation::converse;
use super::emulator::Emulator;
use super::golden::{golden_lines, lines};
use super::linked::Linked;
use super::machines::{Machine, Scope};
use super::table::{self, Count};

/// What the unused stack is painted with, in `firmware/rt/src/stack.rs`.
const PAINT: u32 = 0x5AFE_57AC;
/// The image that serves rings in shared memory.
pub(super) const RINGS: &str = "cptr-rings";
/// What `cptr-watchdog` prints.
const BITTEN: &str = "the main loop ran for three times the watchdog's time, and hangs\nthe watchdog was not fed\n";
/// The trace, its experts per layer and per token, and how many of its tokens are decided.
const TRACE: (&str, u64, u64) = ("sim/data/tiny-moe-8m.safetensors", 32, 4);
const TOKENS: &str = "200";
/// How experts are held: what to add to a kernel's name, and the strategy.
const STRATEGIES: [(&str, &str); 2] = [("", "bounded"), ("_placed", "bounded+once:tokens=60")];

/// Builds and checks the images, and lets the watchdog bite.
pub(super) fn check(scope: Scope) -> Done {
    images(scope)?;
    barriers(scope)?;
    stack(scope)?;
    watchdog(scope)
}

/// The image with rings has, before its doorbell, the instruction that orders memory and devices.
fn barriers(scope: Scope) -> Done {
    for target in scope.targets() {
        let image = Linked::read(&built(target, RINGS))?;
        let (name, expected): (_, [u8; 4]) = match target {
            target if target.starts_with("thumb") => ("dsb sy", [0xBF, 0xF3, 0x4F, 0x8F]),
            target if target.starts_with("arm") => ("dsb sy", 0xF57F_F04F_u32.to_le_bytes()),
            _ => ("fence iorw, iorw", 0x0FF0_000F_u32.to_le_bytes()),
        };
        // After a frame pointer, where the target has one.
        let barrier = |code: &&[u8]| {
            code.chunks_exact(2).zip(code.chunks_exact(2).skip(1)).any(|(a, b)| [a, b].concat() == expected)
        };
        match image.code("cptr_rt_publish", 12) {
            Some(code) if barrier(&code) => println!("{target:<30} {name} before the doorbell"),
            found => return Err(format!("{target}: {name} is expected in the image with rings, found {found:x?}")),
        }
    }
    Ok(())
}

/// Stack that each image uses for a conversation of the largest sizes, in which its answers must be the host's.
fn stack(scope: Scope) -> Done {
    for machine in scope.machines() {
        let used = stack_of(machine).map_err(|error| format!("{}: {error}", machine.core))?;
        let budget = budget(&machine.target)?.controller_stack;
        println!("{:<12} answers equal the host's; stack {used} of {budget} bytes", machine.core);
        if used > budget {
            return Err(format!("{}: more stack than firmware/budgets.toml allows", machine.core));
        }
    }
    Ok(())
}

/// Bytes above what has kept its paint: `cptr_rt` paints the unused stack at the start.
fn stack_of(machine: &Machine) -> Done<u64> {
    let image = built(&machine.target, "cptr-controller");
    let linked = Linked::read(&image)?;
    let symbol = |name: &str| linked.address(name).ok_or_else(|| format!("the image has no {name}"));
    let (low, high) = (symbol("_stack_end")?.next_multiple_of(4), symbol("_stack_start")?);
    let mut emulator = Emulator::start(machine, &image, Stdio::inherit())?;
    converse(&mut emulator)?;
    let memory = emulator.memory(low, high)?;
    let painted = memory.chunks_exact(4).take_while(|word| **word == PAINT.to_le_bytes()).count() as u64;
    if painted == 0 { Err("the stack is not painted, or full".into()) } else { Ok(high - low - 4 * painted) }
}

/// An image whose main loop hangs must end as a failure, and not before it does.
fn watchdog(scope: Scope) -> Done {
    for machine in scope.machines().filter(|machine| machine.watchdog) {
        let image = built(&machine.target, "cptr-watchdog");
        let ended = Emulator::start(machine, &image, Stdio::inherit())?.finish();
        match ended.map_err(|error| format!("{}: the watchdog: {error}", machine.core))? {
            (text, false) if text == BITTEN => {
                println!("{:<12} the watchdog ends a main loop that hangs", machine.core);
            }
            (text, success) => {
                let end = if success { "success" } else { "failure" };
                return Err(format!(
                    "{}: the watchdog: {end} after\n{text}instead of failure after\n{BITTEN}",
                    machine.core
                ));
            }
        }
    }
    Ok(())
}

/// Every decision of a real trace must be the policy's. What each core says of itself must be
/// `firmware/golden/controller.out`, and its counts of instructions those of `firmware/controller.tsv`.
pub(super) fn in_the_loop(scope: Scope, bless: bool) -> Done {
    scope.targets().into_iter().try_for_each(|target| build("cptr-controller", target))?;
    let (mut found, mut counts) = (String::new(), Vec::new());
    for Machine { core, .. } in scope.machines() {
        for (suffix, strategy) in STRATEGIES {
            let text = run(&format!("qemu:{core}"), strategy)?;
            found += &lines(&text, &["controller "]);
            counts.extend(self::counts(core, suffix, &text).ok_or_else(|| format!("{core}: no counts in\n{text}"))?);
        }
    }
    print!("{found}");
    let cores: Vec<&str> = scope.machines().map(|machine| &*machine.core).collect();
    let of_cores = |line: &str| cores.iter().any(|core| line.starts_with(&format!("controller qemu:{core}:")));
    golden_lines("controller.out", &found, of_cores, bless)?;
    table::compare("controller.tsv", &counts, &cores, bless)
}

/// Builds the images; none may panic, or take more memory than its budget.
fn images(scope: Scope) -> Done {
    println!("{:<30} {:>8} {:>8} {:>8} {:>8}", "controller, bytes", "flash", "of", "RAM", "of");
    for target in scope.targets() {
        build("cptr-controller", target)?;
        let budget = budget(target)?.controller;
        for file in ["cptr-controller", RINGS] {
            let image = Linked::read(&built(target, file))?;
            let memory = image.memory;
            println!("{target:<30} {:>8} {:>8} {:>8} {:>8}", memory.flash, budget.flash, memory.ram, budget.ram);
            image.check(&format!("{target}: the image {file}"), budget)?;
        }
    }
    Ok(())
}

/// Lets the image for a core with the hardware unit decide on its RTL, as built, what the others have decided: the same
/// is counted, and all but a few of the decisions are the unit's.
pub(super) fn with_unit(core: &str) -> Done {
    let (.., strategy) = STRATEGIES[1];
    let text = run(&format!("rtl:{core}"), strategy)?;
    let golden = fs::read_to_string(folder().join("golden/controller.out")).map_err(|error| error.to_string())?;
    let decided = |text: &str| {
        let line = text.lines().find(|line| line.contains(" after a prompt of "))?;
        line.split_once(": ").map(|(_, decided)| decided.to_owned())
    };
    let by_unit = text.lines().find_map(|line| {
        let number = line.strip_prefix("the hardware unit has made ")?.split(' ').next()?;
        number.replace(',', "").parse::<u64>().ok()
    });
    println!("rtl:{core}: {}; by the unit {}", decided(&text).unwrap_or_default(), by_unit.unwrap_or(0));
    if decided(&text).is_some() && decided(&text) == decided(&golden) && by_unit.is_some_and(|count| count >= 500) {
        return Ok(());
    }
    Err(format!("{core} with the unit decides otherwise than the other machines:\n{text}"))
}

fn run(controller: &str, strategy: &str) -> Done<String> {
    let mut command = Command::new(env!("CARGO"));
    // In the profile of the tests, as in `cargo xtask test` most of it is built already.
    command.args(["run", "--quiet", "--profile", "test", "--package", "cptr-cli", "--manifest-path"]);
    command.arg(root().join("Cargo.toml")).args(["--", "run"]).arg(root().join(TRACE.0));
    output(command.args(["--tokens", TOKENS, "--strategy", strategy, "--controller", controller]))
}

/// The counts in `instructions per token and layer: select 1,726, request to answer 7,455, update 980`.
fn counts(core: &str, suffix: &str, text: &str) -> Option<[Count; 3]> {
    let line = text.lines().find_map(|line| line.strip_prefix("instructions per token and layer: "))?;
    let number = |name: &str| {
        let digits = line.split(", ").find_map(|part| part.strip_prefix(name))?;
        digits.trim().replace(',', "").parse::<u64>().ok()
    };
    let count = |kernel: &str, instructions| Count {
        core: core.to_owned(),
        kernel: format!("{kernel}{suffix}"),
        experts: TRACE.1,
        k: TRACE.2,
        instructions,
        cycles: 0,
    };
    Some([
        count("select", number("select ")?),
        count("request_to_answer", number("request to answer ")?),
        count("update", number("update ")?),
    ])
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn counts_are_read_from_the_last_line() {
        let text =
            "controller qemu:z\ninstructions per token and layer: select 1,726, request to answer 7,455, update 980\n";
        let found = counts("z", "_x", text).unwrap();
        assert_eq!(found.each_ref().map(|count| count.instructions), [1726, 7455, 980]);
        assert_eq!(found[0].kernel, "select_x");
        assert_eq!(counts("z", "", "instructions per token and layer: select 1,726"), None);
    }
}

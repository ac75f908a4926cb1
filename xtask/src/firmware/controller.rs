//! The controller's image: built for every machine that `cptr run --controller` knows, and run there with a real trace.

use std::fs;
use std::process::Command;

use super::machines::MACHINES;
use super::{Done, build, folder, output, root};

/// Machines with an image of the controller, as `cptr run --controller` names them.
const CORES: [&str; 5] = ["cortex-m4f", "cortex-m7", "cortex-m33", "rv32imac", "rv64gc"];
const TRACE: &str = "sim/data/tiny-moe-8m.safetensors";
const TOKENS: &str = "200";

/// Builds the images and runs each in the loop: every decision must be the policy's, and what is printed, counts of instructions with it, that
/// of `firmware/golden/controller-CORE.out`.
pub(super) fn in_the_loop(bless: bool) -> Done {
    for machine in MACHINES.iter().filter(|machine| CORES.contains(&machine.core)) {
        build("cptr-controller", machine.target)?;
    }
    for core in CORES {
        let controller = format!("qemu:{core}");
        let mut command = Command::new(env!("CARGO"));
        command.args(["run", "--quiet", "--release", "--package", "cptr-sim", "--manifest-path"]);
        command.arg(root().join("Cargo.toml")).args(["--", "run"]).arg(root().join(TRACE));
        let found = output(command.args(["--tokens", TOKENS, "--controller", &controller]))?;
        let file = folder().join(format!("golden/controller-{core}.out"));
        if bless {
            fs::write(&file, &found).map_err(|error| format!("{}: {error}", file.display()))?;
        } else if fs::read_to_string(&file).ok().as_deref() != Some(&found) {
            return Err(format!("{} differs from\n{found}--bless takes it over", file.display()));
        }
        println!("{core:<12} {TOKENS} tokens decided by the firmware as by the policy");
    }
    Ok(())
}

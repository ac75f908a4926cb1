//! `cargo xtask miri`: the tests of what has `unsafe`, and of what orders memory by atomics, in the interpreter that
//! sees undefined behaviour: accesses out of bounds, of what is not initialised, by pointers that may not, and data
//! races.

use std::path::Path;
use std::process::Command;

use crate::ROOT;

/// The compiler that Miri comes with; any of its nights will do.
const TOOLCHAIN: &str = "nightly";

/// Tests read files of the repository, and none needs a clock.
const FLAGS: &str = "-Zmiri-disable-isolation";

/// What runs: a workspace, a package, flags of Miri besides, and which of its tests.
const RUNS: [(&str, &str, &str, &[&str]); 3] = [
    ("firmware", "cptr-ffi", "", &["--lib"]),
    // What options mean is safe code, and takes the interpreter long.
    (".", "cptr-memory", "", &["--lib", "--", "--skip", "options::"]),
    // Forbids `unsafe`, and shares memory between two ends by atomics: the rings, the region and their lines. Its
    // tests leak what is to live as long as they do.
    (".", "cptr-protocol", "-Zmiri-ignore-leaks", &["--lib", "--", "region::", "ring::", "rings::"]),
];

/// Installs Miri where it is missing, and runs everything; whether nothing was found.
pub(crate) fn miri() -> bool {
    let components = ["--quiet", "component", "add", "miri", "rust-src", "--toolchain", TOOLCHAIN];
    if !run(Command::new("rustup").args(components).current_dir(ROOT)) {
        return false;
    }
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{ROOT}/target"));
    RUNS.iter().fold(true, |fine, (workspace, package, flags, tests)| {
        let mut command = Command::new("rustup");
        command.args(["run", TOOLCHAIN, "cargo", "miri", "test", "--package", package]).args(*tests);
        command.current_dir(Path::new(ROOT).join(workspace)).env("CARGO_TARGET_DIR", format!("{target}/miri"));
        command.env("MIRIFLAGS", format!("{FLAGS} {flags}"));
        // Interpreted, cases take long.
        command.env("PROPTEST_CASES", "8");
        // What cargo has set for this program would choose its compiler.
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
        fine & run(&mut command)
    })
}

fn run(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) if status.success() => true,
        Ok(status) => {
            eprintln!("xtask miri: {command:?}: {status}");
            false
        }
        Err(error) => {
            eprintln!("xtask miri: {command:?}: {error}");
            false
        }
    }
}

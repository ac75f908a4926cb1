//! The compiler's own libraries: ready-made for a target, or built from their source where there are none.

use std::path::PathBuf;
use std::process::Command;

use super::command::{Done, execute, output};

/// Has no ready-made core library in this release of the compiler.
const NEVER_READY: &str = "armv7r-none-eabihf";

/// Asks rustup for what is missing. A compiler that rustup does not know may have its source (Debian's `rust-web-src`),
/// which suffices.
pub(super) fn prepare(targets: &[&str]) -> Done {
    let missing = |target: &&str| builds_core(target) && *target != NEVER_READY;
    let targets: Vec<&str> = targets.iter().copied().filter(missing).collect();
    if !targets.is_empty() {
        let added = execute(Command::new("rustup").args(["--quiet", "target", "add"]).args(targets));
        added.unwrap_or_else(|error| eprintln!("xtask firmware: {error}: the core library is built from source"));
    }
    if rustlib()?.join("src/rust/library/core").is_dir() {
        return Ok(());
    }
    execute(Command::new("rustup").args(["--quiet", "component", "add", "rust-src"]))
        .map_err(|error| format!("needs the source of the core library: {error}"))
}

/// Whether the target's core library must be built from source.
pub(super) fn builds_core(target: &str) -> bool {
    rustlib().is_ok_and(|rustlib| !rustlib.join(target).join("lib").is_dir())
}

/// The compiler's folder of targets.
pub(super) fn rustlib() -> Done<PathBuf> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()).join("lib/rustlib"))
}

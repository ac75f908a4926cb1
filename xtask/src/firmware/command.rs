//! Commands in the firmware workspace, and where it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::packages;

/// A step's failure, as a sentence.
pub(crate) type Done<T = ()> = Result<T, String>;

/// The folder of the firmware workspace.
pub(crate) fn folder() -> PathBuf {
    root().join("firmware")
}

pub(super) fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_path_buf()
}

/// Where the firmware workspace builds, but for what needs a folder of its own ([`super::build`]).
pub(crate) fn target_folder() -> PathBuf {
    let shared = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    shared.join("firmware")
}

/// Runs a command in the firmware workspace; its output goes to the terminal.
pub(crate) fn execute(command: &mut Command) -> Done {
    let line = line(command);
    let status = command.current_dir(folder()).status().map_err(|error| format!("{line}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}

/// Runs a command in the firmware workspace and returns its standard output.
pub(super) fn output(command: &mut Command) -> Done<String> {
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

pub(super) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).env("CARGO_TARGET_DIR", target_folder());
    command
}

/// Installs the packages of missing programs.
pub(crate) fn install(programs: &[(&str, &str)]) -> Done {
    let missing = programs.iter().filter(|(program, _)| !packages::present(program)).map(|&(_, package)| package);
    packages::install(&missing.collect::<Vec<_>>())
}

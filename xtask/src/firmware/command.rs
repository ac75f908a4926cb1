//! Commands in the firmware workspace, and where it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A step's failure, as a sentence.
pub(super) type Done<T = ()> = Result<T, String>;

/// The folder of the firmware workspace.
pub(super) fn folder() -> PathBuf {
    root().join("firmware")
}

pub(super) fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_path_buf()
}

/// Where the firmware workspace builds, but for what needs a folder of its own ([`super::build`]).
pub(super) fn target_folder() -> PathBuf {
    let shared = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    shared.join("firmware")
}

/// Runs a command in the firmware workspace; its output goes to the terminal.
pub(super) fn execute(command: &mut Command) -> Done {
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

/// Installs what provides the missing programs, as root, and removes nothing for it; says what to install otherwise.
pub(super) fn install(packages: &[(&str, &str)]) -> Done {
    let present = |program: &str| {
        let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let missing: Vec<&str> = packages.iter().filter(|(program, _)| !present(program)).map(|&(_, name)| name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        execute(Command::new("apt-get").args(["-qq", "-y", "--no-remove", "--no-install-recommends"]).args(arguments))
    };
    let install: Vec<&str> = ["install"].into_iter().chain(missing.iter().copied()).collect();
    apt(&["update"])
        .and_then(|()| apt(&install))
        .map_err(|error| format!("needs the packages {} (apt-get install as root): {error}", missing.join(", ")))
}

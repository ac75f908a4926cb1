//! Debian's packages that the checks need. They are installed where that takes nothing away; where it would, as beside
//! a newer qemu-utils, or where nobody is root, they are unpacked below the build folder, and found there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

/// Where packages are unpacked.
fn unpacked() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(crate::ROOT).join("target"), PathBuf::from);
    target.join("packages")
}

/// Starts this program once more, with the programs of unpacked packages behind all others; `None` if it has been.
pub(crate) fn with_programs() -> Option<ExitCode> {
    let folder = unpacked().join("usr/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|known| known == folder) {
        return None;
    }
    let all: OsString = env::join_paths(env::split_paths(&path).chain([folder])).ok()?;
    let status = Command::new(env::current_exe().ok()?).args(env::args_os().skip(1)).env("PATH", all).status().ok()?;
    Some(crate::exit(status.success()))
}

/// Whether a program runs.
pub(crate) fn present(program: &str) -> bool {
    let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Installs packages, or unpacks them.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    if packages.is_empty() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        let status = Command::new("apt-get").args(["-qq", "-y"]).args(arguments).args(packages).status();
        status.is_ok_and(|status| status.success())
    };
    let updated = Command::new("apt-get").args(["-qq", "update"]).status().is_ok_and(|status| status.success());
    if updated && apt(&["--no-remove", "--no-install-recommends", "install"]) {
        return Ok(());
    }
    unpack(packages).map_err(|error| {
        format!("needs the packages {} (apt-get install as root); unpacking them: {error}", packages.join(", "))
    })
}

/// Unpacks packages and all that comes with them.
fn unpack(packages: &[&str]) -> Result<(), String> {
    let folder = unpacked();
    let archives = folder.join("archives");
    fs::create_dir_all(&archives).map_err(|error| format!("{}: {error}", archives.display()))?;
    let output = Command::new("apt-get")
        .args(["-qq", "--no-install-recommends", "--print-uris", "install"])
        .args(packages)
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    // 'http://…' NAME_VERSION_MACHINE.deb SIZE SHA256:…
    let list = String::from_utf8_lossy(&output.stdout);
    let names = list.lines().filter_map(|line| line.split(' ').nth(1)?.split_once('_').map(|(name, _)| name));
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return Err(format!("apt-get finds none: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let run = |command: &mut Command| match command.current_dir(&archives).stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} {status}", command.get_program().display())),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    };
    run(Command::new("apt-get").args(["-qq", "-o", "APT::Sandbox::User=root", "download"]).args(&names))?;
    for archive in fs::read_dir(&archives).map_err(|error| error.to_string())?.flatten() {
        run(Command::new("dpkg-deb").arg("-x").arg(archive.path()).arg(&folder))?;
    }
    Ok(())
}

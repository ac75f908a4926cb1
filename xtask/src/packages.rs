//! Debian's packages that the checks need. They are installed where that takes nothing away; where it would, as beside
//! a newer qemu-utils, or where nobody is root, they are unpacked below the build folder, and found there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

/// Debian's name of this machine, where it has its libraries.
const MACHINE: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };

/// Where packages are unpacked.
fn unpacked() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(crate::ROOT).join("target"), PathBuf::from);
    target.join("packages")
}

/// Starts this program once more, with the programs and libraries of unpacked packages behind all others; `None` if it
/// has been.
pub(crate) fn with_programs() -> Option<ExitCode> {
    let (programs, libraries) = (unpacked().join("usr/bin"), unpacked().join("usr/lib").join(MACHINE));
    let paths = |name: &str| env::var_os(name).unwrap_or_default();
    let path = paths("PATH");
    if env::split_paths(&path).any(|known| known == programs) {
        return None;
    }
    // An empty entry would be the current folder.
    let known =
        |paths: &OsString| env::split_paths(paths).filter(|known| !known.as_os_str().is_empty()).collect::<Vec<_>>();
    let behind = |paths: &OsString, folder| env::join_paths(known(paths).into_iter().chain([folder])).ok();
    let (path, libraries) = (behind(&path, programs)?, behind(&paths("LD_LIBRARY_PATH"), libraries)?);
    let mut again = Command::new(env::current_exe().ok()?);
    again.args(env::args_os().skip(1)).env("PATH", path).env("LD_LIBRARY_PATH", libraries);
    Some(crate::exit(again.status().ok()?.success()))
}

/// Whether a program runs.
pub(crate) fn present(program: &str) -> bool {
    let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Installs packages; those that cannot be are unpacked, and what they need is installed.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    if packages.is_empty() {
        return Ok(());
    }
    // Without a network what is known of packages has to do.
    let _ = Command::new("apt-get").args(["-qq", "update"]).status();
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let done = with_dependencies(&missing).and_then(|all| {
        let rest: Vec<&str> = all.iter().map(String::as_str).filter(|package| !installed(package)).collect();
        unpack(&rest)
    });
    done.map_err(|error| format!("needs the packages {} (apt-get install as root): {error}", missing.join(", ")))
}

/// Installs a package where that takes nothing away; whether it has been.
fn installed(package: &str) -> bool {
    let mut apt = Command::new("apt-get");
    let apt = apt.args(["-qq", "-y", "--no-remove", "--no-install-recommends", "install", package]);
    apt.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The packages, and what they need that is not installed.
fn with_dependencies(packages: &[&str]) -> Result<Vec<String>, String> {
    let output = Command::new("apt-get")
        .args(["-qq", "--no-install-recommends", "--print-uris", "install"])
        .args(packages)
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    // 'http://…' NAME_VERSION_MACHINE.deb SIZE SHA256:…
    let list = String::from_utf8_lossy(&output.stdout);
    let names =
        list.lines().filter_map(|line| line.split(' ').nth(1)?.split_once('_').map(|(name, _)| name.to_owned()));
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return Err(format!("apt-get finds none: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(names)
}

/// Unpacks packages.
fn unpack(packages: &[&str]) -> Result<(), String> {
    let folder = unpacked();
    let archives = folder.join("archives");
    fs::create_dir_all(&archives).map_err(|error| format!("{}: {error}", archives.display()))?;
    let run = |command: &mut Command| match command.current_dir(&archives).stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} {status}", command.get_program().display())),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    };
    run(Command::new("apt-get").args(["-qq", "-o", "APT::Sandbox::User=root", "download"]).args(packages))?;
    for archive in fs::read_dir(&archives).map_err(|error| error.to_string())?.flatten() {
        run(Command::new("dpkg-deb").arg("-x").arg(archive.path()).arg(&folder))?;
    }
    Ok(())
}

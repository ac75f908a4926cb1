//! Packages of the firmware workspace built for a target, and where that leaves them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::command::{Done, cargo, execute, target_folder};
use super::toolchain::builds_core;

/// Where packages for a target are built: apart where that needs `RUSTC_BOOTSTRAP`, because after each change of it
/// cargo builds everything anew.
pub(super) fn build_folder(target: &str) -> PathBuf {
    if builds_core(target) { target_folder().join("core") } else { target_folder() }
}

/// Builds a package for a target, in release.
pub(super) fn build(package: &str, target: &str) -> Done {
    build_with(package, target, "")
}

/// [`build`] with features of the package.
pub(super) fn build_with(package: &str, target: &str, features: &str) -> Done {
    execute(building(package, target).args(["--features", features]).env("CARGO_TARGET_DIR", build_folder(target)))
}

/// Where [`build_for`] builds for a target.
fn features_folder() -> PathBuf {
    target_folder().join("features")
}

/// Builds a package for a target with more features of its processor, apart. Returns the file.
pub(super) fn build_for(package: &str, target: &str, features: &str) -> Done<PathBuf> {
    let flags = format!(r#"target.{target}.rustflags=["-C", "target-feature={features}"]"#);
    execute(building(package, target).args(["--config", &flags]).env("CARGO_TARGET_DIR", features_folder()))?;
    Ok(features_folder().join(target).join("release").join(package))
}

/// The command that builds a package for a target, with the core library where there is none.
pub(super) fn building(package: &str, target: &str) -> Command {
    let mut command = cargo(&["build", "--quiet", "--release", "--package", package, "--target", target]);
    if builds_core(target) {
        // A stable compiler takes -Z options only so.
        command.arg("-Zbuild-std=core").env("RUSTC_BOOTSTRAP", "1");
    }
    command
}

/// Builds an image with its log, and puts the one without back in its place. Returns the file.
pub(super) fn build_with_log(package: &str, target: &str) -> Done<PathBuf> {
    build_with(package, target, "defmt")?;
    let image = built(target, package);
    let logged = image.with_file_name(format!("{package}-with-log"));
    fs::copy(&image, &logged).map_err(|error| format!("{}: {error}", logged.display()))?;
    build(package, target)?;
    Ok(logged)
}

/// What a build leaves for a target.
pub(super) fn built(target: &str, file: &str) -> PathBuf {
    build_folder(target).join(target).join("release").join(file)
}

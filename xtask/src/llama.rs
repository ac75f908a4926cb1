//! `cptr-llama`, which has a workspace of its own: llama.cpp takes minutes to build, and needs cmake and libclang.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ROOT, cargo, packages};

/// Formats, lints and tests; installs what is missing, as root, and removes nothing.
pub(crate) fn check() -> bool {
    if let Err(error) = install() {
        eprintln!("xtask llama: {error}");
        return false;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from);
    // Tests hold the figures of `cptr` to those of llama.cpp.
    let model = ["build", "--release", "--package", "cptr-cli", "--features", "model"];
    let built = cargo(&model, &[]);
    let (cptr, own) = (target.join("release/cptr"), target.join("llama"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(arguments).current_dir(Path::new(ROOT).join("sim/llama"));
        command.env("CARGO_TARGET_DIR", &own).env("CPTR", &cptr);
        match command.status() {
            Ok(status) if status.success() => true,
            Ok(status) => {
                eprintln!("xtask llama: cargo {}: {status}", arguments.join(" "));
                false
            }
            Err(error) => {
                eprintln!("xtask llama: cargo {}: {error}", arguments.join(" "));
                false
            }
        }
    };
    // One profile, so that llama.cpp is built once.
    built
        & run(&["fmt", "--check"])
        & run(&["clippy", "--release", "--all-targets", "--", "-D", "warnings"])
        & run(&["test", "--release"])
}

/// Installs cmake and libclang, where they are missing.
fn install() -> Result<(), String> {
    let cmake = (!packages::present("cmake")).then_some("cmake");
    let libclang = (!has_libclang()).then_some("libclang-dev");
    packages::install(&cmake.into_iter().chain(libclang).collect::<Vec<_>>())
}

/// Whether bindgen finds the library: where it is told to look, or in a folder that Debian, or LLVM's package, uses.
fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let holds = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-") || name == "libclang.dylib"
        })
    };
    let inside = |folder: &str| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = inside("/usr/lib").flat_map(|path| [path.join("lib"), path]);
    folders.chain([PathBuf::from("/usr/lib64"), PathBuf::from("/usr/local/lib")]).any(|folder| holds(&folder))
}

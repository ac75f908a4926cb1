//! The memory engine for C, C++ and SystemVerilog: its test in Verilator, and its installation.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};

/// A testbench in Verilator, which `firmware::rtl` has installed.
pub(crate) fn verilog() -> bool {
    crate::cargo(&["test", "--package", "cptr-memory", "--test", "languages", "--", "--ignored"], &[])
}

/// Builds the libraries and writes them below a prefix, with the header, the SystemVerilog package and a file for
/// pkg-config.
pub(crate) fn install(prefix: &Path) -> bool {
    let built = crate::cargo(&["build", "--quiet", "--release", "--package", "cptr-memory"], &[]);
    built && copy(prefix).map_err(|error| eprintln!("xtask install: {error}")).is_ok()
}

fn copy(prefix: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let source = Path::new(crate::ROOT).join("hw-model/ffi");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(crate::ROOT).join("target"), PathBuf::from);
    let shared = format!("{DLL_PREFIX}cptr_memory{DLL_SUFFIX}");
    for part in ["include", "lib/pkgconfig", "share/cptr"] {
        let part = prefix.join(part);
        fs::create_dir_all(&part).map_err(|error| failed(&part, error))?;
    }
    let prefix = prefix.canonicalize().map_err(|error| failed(prefix, error))?;
    for (from, to) in [
        (source.join("include/cptr_memory.h"), prefix.join("include/cptr_memory.h")),
        (source.join("verilog/cptr_memory.sv"), prefix.join("share/cptr/cptr_memory.sv")),
        (target.join("release/libcptr_memory.a"), prefix.join("lib/libcptr_memory.a")),
        (target.join("release").join(&shared), prefix.join("lib").join(&shared)),
    ] {
        fs::copy(&from, &to).map_err(|error| failed(&from, error))?;
    }
    let text = format!(
        "prefix={}\nName: cptr_memory\nDescription: Cycle-exact DRAM channels for other simulators\nVersion: {}\n\
         Cflags: -I${{prefix}}/include\nLibs: -L${{prefix}}/lib -lcptr_memory\nLibs.private: -lpthread -ldl -lm\n",
        prefix.display(),
        env!("CARGO_PKG_VERSION")
    );
    let file = prefix.join("lib/pkgconfig/cptr_memory.pc");
    fs::write(&file, text).map_err(|error| failed(&file, error))
}

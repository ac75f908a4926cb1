//! Chooses the machine for the target and puts its linker script where the linker finds it.
use std::path::PathBuf;
use std::{env, fs};

/// Memory of the mps2 boards with a Cortex-M4 or M7: code and data in separate SRAMs of 4 MiB.
const MPS2: &str = "MEMORY { FLASH : ORIGIN = 0x00000000, LENGTH = 1M RAM : ORIGIN = 0x20000000, LENGTH = 2M }\n";
/// The same of the AN505 with a Cortex-M33, through the secure aliases, as it starts in the secure state.
const AN505: &str = "MEMORY { FLASH : ORIGIN = 0x10000000, LENGTH = 1M RAM : ORIGIN = 0x38000000, LENGTH = 2M }\n";

fn main() {
    let target = env::var("TARGET").expect("cargo sets it");
    let riscv = include_str!("riscv.x");
    let (machine, file, script) = match target.as_str() {
        "thumbv7em-none-eabihf" => ("cortex-m", "memory.x", MPS2),
        "thumbv8m.main-none-eabihf" => ("cortex-m", "memory.x", AN505),
        "armv7r-none-eabihf" => ("cortex-r", "cptr.x", include_str!("cortex-r.x")),
        other if other.starts_with("riscv") => ("riscv", "cptr.x", riscv),
        _ => ("host", "", ""),
    };
    println!("cargo:rustc-check-cfg=cfg(machine, values(\"cortex-m\", \"cortex-r\", \"riscv\", \"host\"))");
    println!("cargo:rustc-cfg=machine=\"{machine}\"");
    println!("cargo:rustc-check-cfg=cfg(secure)");
    if script == AN505 {
        println!("cargo:rustc-cfg=secure");
    }
    println!("cargo:rerun-if-changed=riscv.x");
    println!("cargo:rerun-if-changed=cortex-r.x");
    if !file.is_empty() {
        let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        fs::write(folder.join(file), script).expect("the output folder is writable");
        println!("cargo:rustc-link-search={}", folder.display());
    }
}

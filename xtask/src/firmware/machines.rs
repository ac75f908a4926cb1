//! Where the images run: emulated boards, their targets, and how QEMU is started. The order is the one of tables.

use std::ffi::OsString;
use std::path::Path;

/// An emulated machine.
pub(super) struct Machine {
    /// Name in tables.
    pub(super) core: &'static str,
    pub(super) target: &'static str,
    pub(super) qemu: &'static str,
    pub(super) arguments: &'static str,
}

const ARM: &str = "qemu-system-arm";

/// Every image runs on each of them. Under `-icount` counters are exact (docs/firmware.md).
pub(super) const MACHINES: [Machine; 7] = [
    Machine {
        core: "cortex-m4f",
        target: "thumbv7em-none-eabihf",
        qemu: ARM,
        arguments: "-machine mps2-an386 -icount shift=6",
    },
    Machine {
        core: "cortex-m7",
        target: "thumbv7em-none-eabihf",
        qemu: ARM,
        arguments: "-machine mps2-an500 -icount shift=6",
    },
    Machine {
        core: "cortex-m33",
        target: "thumbv8m.main-none-eabihf",
        qemu: ARM,
        arguments: "-machine mps2-an505 -icount shift=6",
    },
    Machine {
        core: "cortex-r5f",
        target: "armv7r-none-eabihf",
        qemu: ARM,
        arguments: "-machine versatileab -cpu cortex-r5f -icount shift=0",
    },
    Machine {
        core: "rv32imc",
        target: "riscv32imc-unknown-none-elf",
        qemu: "qemu-system-riscv32",
        arguments: "-machine virt -bios none -icount shift=0",
    },
    Machine {
        core: "rv32imac",
        target: "riscv32imac-unknown-none-elf",
        qemu: "qemu-system-riscv32",
        arguments: "-machine virt -bios none -icount shift=0",
    },
    Machine {
        core: "rv64gc",
        target: "riscv64gc-unknown-none-elf",
        qemu: "qemu-system-riscv64",
        arguments: "-machine virt -bios none -icount shift=0",
    },
];

impl Machine {
    /// QEMU's arguments to run `image` with its UART on standard input and output. Semihosting: Arm's images end by it, and logs go to standard
    /// error.
    pub(super) fn command_line(&self, image: &Path) -> Vec<OsString> {
        let common = "-nographic -monitor none -serial stdio -semihosting-config enable=on,target=native -kernel";
        let words = [self.arguments, common].into_iter().flat_map(|words| words.split(' ')).map(OsString::from);
        words.chain([image.into()]).collect()
    }
}

/// The targets, each once.
pub(super) fn targets() -> Vec<&'static str> {
    let mut targets: Vec<&str> = MACHINES.iter().map(|machine| machine.target).collect();
    targets.dedup();
    targets
}

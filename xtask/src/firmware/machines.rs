//! Where the images run: emulated boards, their targets, and how QEMU is started (`sim/data/machines.toml`). The order
//! is the one of tables.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde::Deserialize;

/// An emulated machine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    /// Name in tables.
    pub(super) core: String,
    pub(super) target: String,
    emulator: String,
    /// Debian's package with the emulator.
    package: String,
    arguments: String,
    /// MiB of its memory, and MiB before those that it shares with a host.
    memory: [u64; 2],
    /// Whether it has a watchdog.
    #[serde(default)]
    pub(super) watchdog: bool,
    /// Whether the short form of the checks runs there: one machine of each instruction set. The log is checked on
    /// these alone.
    #[serde(default)]
    pub(super) short: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Machines {
    /// Arguments for all of them.
    common: String,
    machine: Vec<Machine>,
}

static MACHINES: LazyLock<Machines> = LazyLock::new(|| {
    toml::from_str(include_str!("../../../sim/data/machines.toml")).expect("the table parses: a unit test reads it")
});

/// How many machines the images are built for and run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One of each instruction set.
    Short,
    /// All of them.
    Full,
}

impl Scope {
    /// The machines, in the order of tables.
    pub(super) fn machines(self) -> impl Iterator<Item = &'static Machine> + Clone {
        MACHINES.machine.iter().filter(move |machine| self == Self::Full || machine.short)
    }

    /// Their emulators with Debian's packages that have them.
    pub(super) fn emulators(self) -> Vec<(&'static str, &'static str)> {
        let mut emulators: Vec<_> = self.machines().map(|machine| (&*machine.emulator, &*machine.package)).collect();
        emulators.dedup();
        emulators
    }

    /// Their targets, each once.
    pub(super) fn targets(self) -> Vec<&'static str> {
        let mut targets: Vec<&str> = self.machines().map(|machine| &*machine.target).collect();
        targets.dedup();
        targets
    }
}

impl Machine {
    /// QEMU, to run `image` with its UART on standard input and output.
    pub(super) fn emulator(&self, image: &Path) -> Command {
        let mut command = Command::new(&self.emulator);
        command.args(self.arguments.split(' ')).args(MACHINES.common.split(' ')).arg("-kernel").arg(image);
        command
    }
}

impl Machine {
    /// Bytes of its memory.
    pub(super) const fn memory_bytes(&self) -> u64 {
        self.memory[0] << 20
    }

    /// The same with its memory in a file of that size; returns also where in it the shared memory begins.
    pub(super) fn emulator_with_memory(&self, image: &Path, file: &Path) -> (Command, u64) {
        let [size, before] = self.memory;
        let mut command = self.emulator(image);
        let object = format!("memory-backend-file,id=shared,share=on,size={size}M,mem-path={}", file.display());
        command.args(["-machine", "memory-backend=shared", "-object", &object]);
        (command, before << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_stand_together() {
        let once = |mut names: Vec<&str>| {
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
        };
        once(Scope::Full.machines().map(|machine| &*machine.core).collect());
        once(Scope::Full.targets());
        once(Scope::Full.emulators().into_iter().map(|(emulator, _)| emulator).collect());
        assert_eq!(Scope::Short.targets().len(), 2);
    }
}

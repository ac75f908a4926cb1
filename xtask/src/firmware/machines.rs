//! Where the images run: emulated boards, their targets, and how QEMU is started (`sim/data/machines.toml`). The order is the one of tables.

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
    /// Whether it has a watchdog.
    #[serde(default)]
    pub(super) watchdog: bool,
    /// Whether the controller runs with a log there: one machine of each instruction set.
    #[serde(default)]
    pub(super) log: bool,
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

/// Every image runs on each of them.
pub(super) fn machines() -> &'static [Machine] {
    &MACHINES.machine
}

impl Machine {
    /// QEMU, to run `image` with its UART on standard input and output.
    pub(super) fn emulator(&self, image: &Path) -> Command {
        let mut command = Command::new(&self.emulator);
        command.args(self.arguments.split(' ')).args(MACHINES.common.split(' ')).arg("-kernel").arg(image);
        command
    }
}

/// The emulators with Debian's packages that have them.
pub(super) fn emulators() -> Vec<(&'static str, &'static str)> {
    let mut emulators: Vec<_> = machines().iter().map(|machine| (&*machine.emulator, &*machine.package)).collect();
    emulators.dedup();
    emulators
}

/// The targets, each once.
pub(super) fn targets() -> Vec<&'static str> {
    let mut targets: Vec<&str> = machines().iter().map(|machine| &*machine.target).collect();
    targets.dedup();
    targets
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
        once(machines().iter().map(|machine| &*machine.core).collect());
        once(targets());
        once(emulators().into_iter().map(|(emulator, _)| emulator).collect());
    }
}

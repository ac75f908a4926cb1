//! `cargo xtask firmware`: the library and the images for every target, checked, and run in emulators.
//!
//! With `--bless` the headers, the golden output, the table of counts and nothing else are written anew.

mod bench;
mod budget;
mod build;
mod command;
mod controller;
mod conversation;
mod emulator;
mod faults;
mod golden;
mod install;
mod instructions;
mod library;
mod linked;
mod log;
mod machines;
mod overflow;
mod rings;
mod rtl;
mod soak;
mod stack;
mod table;
mod toolchain;

use std::process::Command;

use command::cargo;
pub(crate) use command::{Done, execute, folder as firmware_folder, install, target_folder};
pub(crate) use install::install as install_library;
pub(crate) use machines::Scope;
pub(crate) use rtl::{Turns, fetch_cores, golden_steps, rtl, waves};

/// Compilers for the C programs, with Debian's packages that have them.
const COMPILERS: [(&str, &str); 3] = [("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("gcc", "gcc"), ("g++", "g++")];

/// A name, and what is done on how many machines; the second argument is whether to bless.
type Step = (&'static str, fn(Scope, bool) -> Done);

/// What is done, in this order.
pub(crate) const STEPS: [Step; 12] = [
    ("lint", |_, _| lint()),
    ("header", |_, bless| header(bless)),
    ("library", |scope, _| library::check(scope)),
    ("overflow", |scope, _| overflow::check(scope)),
    ("engine", |_, _| install::example()),
    ("bench", bench::check),
    ("controller", |scope, _| controller::check(scope)),
    ("rings", |scope, _| rings::check(scope)),
    ("faults", |scope, _| faults::check(scope)),
    ("log", |_, bless| log::check(bless)),
    ("loop", controller::in_the_loop),
    ("soak", |scope, bless| if scope == Scope::Full { soak::check(bless) } else { Ok(()) }),
];

/// The steps named, or all; whether they went well. Goes on after a failure.
pub(crate) fn firmware(scope: Scope, bless: bool, names: &[String]) -> bool {
    let result = toolchain::prepare(&scope.targets())
        .and_then(|()| install(&[&scope.emulators(), &COMPILERS[..]].concat()))
        .and_then(|()| {
            let steps = STEPS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name));
            let failed: Vec<String> = steps
                .filter_map(|(name, step)| step(scope, bless).err().map(|error| format!("{name}: {error}")))
                .collect();
            if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
        });
    if let Err(error) = &result {
        eprintln!("xtask firmware: {error}");
    }
    result.is_ok()
}

fn lint() -> Done {
    // Not `--all`, which formats the core as well.
    let members = ["cptr-rt", "cptr-bench", "cptr-controller", "cptr-ffi", "cptr-header", "cptr-log"];
    execute(cargo(&["fmt", "--check"]).args(members.iter().flat_map(|member| ["--package", member])))?;
    execute(&mut cargo(&["clippy", "--quiet", "--workspace", "--", "-D", "warnings"]))?;
    for target in ["thumbv7em-none-eabihf", "riscv32imac-unknown-none-elf"] {
        let packages =
            ["cptr-rt", "cptr-bench", "cptr-controller", "cptr-ffi"].iter().flat_map(|name| ["--package", name]);
        let lint = ["clippy", "--quiet", "--features", "cptr-controller/defmt", "--target", target];
        execute(cargo(&lint).args(packages).args(["--", "-D", "warnings"]))?;
    }
    // Each part of the library builds without the others.
    library::FEATURES.iter().try_for_each(|(feature, _)| {
        execute(&mut cargo(&[
            "check",
            "--quiet",
            "--package",
            "cptr-ffi",
            "--no-default-features",
            "--features",
            feature,
        ]))
    })
}

fn header(bless: bool) -> Done {
    let action = if bless { "--bless" } else { "--check" };
    execute(&mut cargo(&["run", "--quiet", "--package", "cptr-header", "--", action]))?;
    // The header for drivers, as C and as C++, against the protocol's numbers.
    let program = target_folder().join("c-device");
    let warnings = "-Wall -Wextra -Wpedantic -Werror -Iffi/include";
    for (compiler, language) in [("gcc", "-std=c99"), ("g++", "-x c++ -std=c++11")] {
        let options = format!("{language} {warnings} ffi/tests/device.c -o");
        execute(Command::new(compiler).args(options.split(' ')).arg(&program))?;
        execute(&mut Command::new(&program))?;
    }
    Ok(())
}

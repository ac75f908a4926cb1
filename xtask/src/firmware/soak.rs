//! 10^7 turns of a controller in the emulators, one of each instruction set: every decision as on the host, none lost.

use std::fs;

use super::build::{build, build_with, built};
use super::command::{Done, cargo, output};
use super::golden::{golden, lines};
use super::machines::Scope;

/// Builds and runs the image; minutes.
pub(super) fn check(bless: bool) -> Done {
    let expected =
        output(&mut cargo(&["run", "--quiet", "--release", "--package", "cptr-bench", "--features", "soak"]))?;
    if lines(&expected, &["lost "]) != "lost 0\n" {
        return Err(format!("turns are lost on the host:\n{expected}"));
    }
    golden("soak.out", &expected, bless)?;
    std::thread::scope(|threads| {
        let machines = Scope::Short.machines().map(|machine| {
            // The image without the feature is put back, as others use it.
            let image = build_with("cptr-bench", &machine.target, "soak").and_then(|()| {
                let (image, kept) = (built(&machine.target, "cptr-bench"), built(&machine.target, "cptr-soak"));
                fs::copy(&image, &kept).map_err(|error| format!("{}: {error}", kept.display()))?;
                build("cptr-bench", &machine.target).map(|()| kept)
            });
            let expected = &expected;
            threads.spawn(move || -> Done {
                let found = output(&mut machine.emulator(&image?))?;
                if found != *expected {
                    return Err(format!(
                        "{}: other turns than on the host:\n{found}instead of\n{expected}",
                        machine.core
                    ));
                }
                println!("{:<12} 10^7 turns equal the host's, none lost", machine.core);
                Ok(())
            })
        });
        let machines: Vec<_> = machines.collect();
        machines.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })
}

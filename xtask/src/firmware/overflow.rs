//! The same without panics where the compiler is told to check for overflow: sums that cannot overflow say so, as
//! wrapping or saturating ones.

use std::path::PathBuf;

use super::build::building;
use super::command::{Done, execute, target_folder};
use super::library::{self, SMALL};
use super::linked::Linked;
use super::machines::Scope;

/// Packages that are checked; others that are linked with them are not this project's.
const PACKAGES: [&str; 3] = ["cptr-core", "cptr-protocol", "cptr-ffi"];
/// Images that are looked through.
const IMAGES: [&str; 2] = ["cptr-controller", "cptr-rings"];
/// Parts of the library that are looked through, beside the smallest ones.
const MORE: [&str; 5] = ["bits", "change", "migration", "expert", "cache"];

/// Builds images and library with checks, and looks for panics: for one target in the short form.
pub(super) fn check(scope: Scope) -> Done {
    let targets = match scope {
        Scope::Short => vec![library::M4F],
        Scope::Full => scope.targets(),
    };
    targets.into_iter().try_for_each(check_target)
}

fn check_target(target: &str) -> Done {
    for package in ["cptr-controller", "cptr-ffi"] {
        let mut command = building(package, target);
        for checked in PACKAGES {
            command.args(["--config", &format!("profile.release.package.{checked}.overflow-checks=true")]);
        }
        execute(command.env("CARGO_TARGET_DIR", folder()))?;
    }
    let parts = [&SMALL[..], &MORE[..]].concat();
    let library =
        library::link(&built(target, "libcptr.a"), target, &library::functions_of(&library::header()?, &parts))?;
    none("library", target, &library)?;
    IMAGES.iter().try_for_each(|image| none(image, target, &Linked::read(&built(target, image))?))?;
    println!("{target:<30} no panic is linked with checks for overflow");
    Ok(())
}

fn none(name: &str, target: &str, linked: &Linked) -> Done {
    match linked.panics() {
        panics if panics.is_empty() => Ok(()),
        panics => Err(format!("{target}: {name} can panic with checks for overflow: {}", panics.join(", "))),
    }
}

/// Apart from what is built without checks.
fn folder() -> PathBuf {
    target_folder().join("overflow")
}

fn built(target: &str, file: &str) -> PathBuf {
    folder().join(target).join("release").join(file)
}

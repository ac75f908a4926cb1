//! The firmware's images are made of their sources and nothing else: two builds in two folders, one hash of what a
//! board is given. The names of symbols, which no board sees, tell where the sources lay.

use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSegment};
use sha2::{Digest, Sha256};

use super::{Outcome, folder, output, root};
use crate::firmware::Done;

/// Where the two builds lie; their lengths differ, so that a path that is written into an image moves what follows.
const PLACES: [&str; 2] = ["a", "another/place"];
const TARGET: &str = "thumbv7em-none-eabihf";
const IMAGES: [&str; 2] = ["cptr-controller", "cptr-rings"];

pub(super) fn check() -> Done<Outcome> {
    let added = output(Command::new("rustup").args(["--quiet", "target", "add", TARGET]).current_dir(root()));
    if let Err(error) = added {
        return Ok(Outcome::NotRun(format!("no core library for {TARGET}: {error}")));
    }
    let builds = folder()?.join("builds");
    if builds.exists() {
        std::fs::remove_dir_all(&builds).map_err(|error| format!("{}: {error}", builds.display()))?;
    }
    let [first, second] = PLACES.map(|place| build(&builds.join(place)));
    let (first, second) = (first?, second?);
    for ((image, first), second) in IMAGES.iter().zip(&first).zip(&second) {
        println!("{image:<16} {first}");
        if first != second {
            return Err(format!("{image} is {first} in one folder and {second} in another"));
        }
    }
    Ok(Outcome::Passed)
}

/// Copies the sources to a folder and builds the images there; their digests.
fn build(place: &Path) -> Done<Vec<String>> {
    let sources = place.join("sources");
    for file in output(Command::new("git").args(["ls-files", "-z"]).current_dir(root()))?.split(|&byte| byte == 0) {
        let file = PathBuf::from(String::from_utf8_lossy(file).into_owned());
        let (from, to) = (root().join(&file), sources.join(&file));
        if from.is_file() {
            let copied =
                std::fs::create_dir_all(to.parent().unwrap_or(&sources)).and_then(|()| std::fs::copy(&from, &to));
            copied.map_err(|error| format!("{}: {error}", to.display()))?;
        }
    }
    let target = place.join("target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--release", "--package", "cptr-controller", "--target", TARGET]);
    cargo.current_dir(sources.join("firmware")).env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS");
    let status = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err(format!("cargo build in {}: {status}", sources.display()));
    }
    let digest = |image: &&str| {
        let file = target.join(TARGET).join("release").join(image);
        let bytes = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        loaded(&bytes).map_err(|error| format!("{}: {error}", file.display()))
    };
    IMAGES.iter().map(digest).collect()
}

/// The digest of what is loaded: each segment's address, length and bytes.
fn loaded(image: &[u8]) -> Result<String, object::Error> {
    let mut digest = Sha256::new();
    for segment in object::File::parse(image)?.segments() {
        digest.update(segment.address().to_le_bytes());
        digest.update(segment.size().to_le_bytes());
        digest.update(segment.data()?);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

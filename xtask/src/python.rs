//! The Python package, which has a workspace of its own: built by maturin, installed into clean environments, tested
//! without and with `torch`. What comes from PyPI goes below the build folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::ROOT;

/// What builds the package.
const BUILD: [&str; 1] = ["maturin==1.16.0"];
/// What tests of the engine need: numpy comes with the package.
const ENGINE: [&str; 1] = ["pytest==9.2.0"];

/// Lints, builds and tests.
pub(crate) fn check() -> bool {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from);
    let python = Python { package: Path::new(ROOT).join("sim/python"), own: target.join("python") };
    match python.check() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("xtask python: {error}");
            false
        }
    }
}

struct Python {
    package: PathBuf,
    /// Where it is built.
    own: PathBuf,
}

impl Python {
    fn check(&self) -> Result<(), String> {
        let cargo = |arguments: &[&str]| self.run(env!("CARGO").as_ref(), arguments);
        cargo(&["fmt", "--check"])?;
        cargo(&["clippy", "--release", "--all-targets", "--", "-D", "warnings"])?;
        // Tests hold the figures of the package to those of the command, of the same build.
        cargo(&["build", "--release", "--package", "cptr-cli", "--bin", "cptr"])?;
        let build = self.environment("build", &BUILD)?;
        let wheels = self.own.join("wheels");
        let _ = std::fs::remove_dir_all(&wheels);
        self.run(&build.join("maturin"), &["build", "--release", "--locked", "--out", &wheels.to_string_lossy()])?;
        let wheel = std::fs::read_dir(&wheels).ok().and_then(|mut files| files.next()).and_then(Result::ok);
        let wheel = wheel.ok_or("maturin left no wheel")?.path();
        // Alone first: nothing of the engine may need torch.
        let engine = self.environment("engine", &ENGINE)?;
        self.install(&engine, &wheel)?;
        self.run(&engine.join("python"), &["-m", "pytest", "-q", "tests/test_engine.py", "tests/test_memory.py"])?;
        let whole = self.environment("whole", &["-r", "requirements.txt"])?;
        self.install(&whole, &wheel)?;
        // Types, and whether the stubs are those of the compiled part.
        self.run(&whole.join("python"), &["-m", "mypy"])?;
        self.run(&whole.join("python"), &["-m", "mypy.stubtest", "cptr._cptr"])?;
        self.run(&whole.join("python"), &["-m", "pytest", "-q"])?;
        self.run(&whole.join("python"), &["compat/table.py", "--check", "../../docs/python.md"])
    }

    /// The programs of an environment with packages of PyPI; it is kept for the next time.
    fn environment(&self, name: &str, packages: &[&str]) -> Result<PathBuf, String> {
        let folder = self.own.join("environments").join(name);
        let programs = folder.join("bin");
        if !programs.join("python").exists() {
            self.run("python3".as_ref(), &["-m", "venv", &folder.to_string_lossy()])?;
        }
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        self.run(&programs.join("python"), &[&install[..], packages].concat())?;
        Ok(programs)
    }

    /// Puts the wheel that was built into an environment, in the place of an older one.
    fn install(&self, programs: &Path, wheel: &Path) -> Result<(), String> {
        let python = programs.join("python");
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        let wheel = wheel.to_string_lossy();
        self.run(&python, &[&pip[..], &[&wheel]].concat())?;
        self.run(&python, &[&pip[..], &["--no-deps", "--force-reinstall", &wheel]].concat())
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.package).env("CARGO_TARGET_DIR", &self.own);
        command.env("CPTR", self.own.join("release/cptr"));
        let line = format!("{} {}", program.display(), arguments.join(" "));
        let start = Instant::now();
        match command.status() {
            Ok(status) if status.success() => {
                println!("xtask python: {:.0} s: {line}", start.elapsed().as_secs_f64());
                Ok(())
            }
            Ok(status) => Err(format!("{line}: {status}")),
            Err(error) => Err(format!("{line}: {error}")),
        }
    }
}

//! What users install: the packages of all crates, built from nothing but themselves, and the command with its
//! completions and manual pages below a prefix.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes that crates.io takes.
const LARGEST_PACKAGE: u64 = 10 << 20;

/// A result, or why there is none.
type Done = Result<(), String>;

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(crate::ROOT).join("target"), PathBuf::from)
}

/// Packages every crate that is published as if it were to be uploaded, builds each out of its package, with language
/// models too, and installs the command.
pub(crate) fn check() -> bool {
    let _ = fs::remove_dir_all(packages());
    // What is built is what is there, committed or not.
    let dry = ["publish", "--workspace", "--dry-run", "--allow-dirty", "--features", "cptr-cli/model"];
    let packaged = crate::cargo(&dry, &[]);
    let checked = packaged && said(sizes());
    checked & said(installed()) & said(from_nothing())
}

/// README's commands from nothing to an answer, word for word but for what stands for a reader's own: in an empty
/// folder, with a clone of what is committed, on a recording under another name.
fn from_nothing() -> Done {
    let readme = fs::read_to_string(Path::new(crate::ROOT).join("README.md")).map_err(|error| error.to_string())?;
    let block = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines: Vec<&str> = block.flat_map(str::lines).collect();
    let [clone, install, answer] = lines[..] else { return Err(format!("README: three commands, found {lines:?}")) };
    let folder = target().join("from-nothing");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    let (recording, trace) = (Path::new(crate::ROOT).join("sim/data/gpt-oss-20b.safetensors"), folder.join("mine"));
    fs::copy(&recording, &trace).map_err(|error| format!("{}: {error}", recording.display()))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.join("bin").display());
    for line in [clone, install, answer] {
        let words = line.split(' ').map(|word| match word {
            "REPOSITORY" => crate::ROOT,
            "TRACE" => "mine",
            word => word,
        });
        let line = words.collect::<Vec<_>>().join(" ");
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(&folder).env("PATH", &path).env("CARGO_INSTALL_ROOT", &folder);
        let said = output(&mut shell).map_err(|error| format!("{line}: {error}"))?;
        if line == answer.replace("TRACE", "mine") && !String::from_utf8_lossy(&said).contains("\nSure: ") {
            return Err(format!("{line}: expected advice, found {}", String::from_utf8_lossy(&said)));
        }
    }
    println!("from nothing to an answer: {}", lines.join("; "));
    Ok(())
}

fn said(done: Done) -> bool {
    done.map_err(|error| eprintln!("xtask: {error}")).is_ok()
}

/// Where a dry run leaves packages.
fn packages() -> PathBuf {
    target().join("package/tmp-crate")
}

/// Every package is small enough.
fn sizes() -> Done {
    let folder = packages();
    let mut count = 0;
    for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "crate") {
            let bytes = entry.metadata().map_err(|error| format!("{}: {error}", path.display()))?.len();
            println!("{:<28} {bytes:>9} bytes", entry.file_name().display());
            count += 1;
            if bytes > LARGEST_PACKAGE {
                return Err(format!("{}: more than the {LARGEST_PACKAGE} bytes that crates.io takes", path.display()));
            }
        }
    }
    if count == 0 { Err(format!("{}: no package", folder.display())) } else { Ok(()) }
}

/// Builds the command and writes it below a prefix, with what shells complete by and manual pages.
pub(crate) fn install(prefix: &Path) -> bool {
    let built = crate::cargo(&["build", "--quiet", "--release", "--package", "cptr-cli"], &[]);
    built && said(write(prefix))
}

fn write(prefix: &Path) -> Done {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let shells = [
        ("bash", "share/bash-completion/completions", "cptr"),
        ("zsh", "share/zsh/site-functions", "_cptr"),
        ("fish", "share/fish/vendor_completions.d", "cptr.fish"),
    ];
    for part in shells.iter().map(|(_, folder, _)| *folder).chain(["bin", "share/man/man1"]) {
        let part = prefix.join(part);
        fs::create_dir_all(&part).map_err(|error| failed(&part, error))?;
    }
    let name = format!("cptr{}", std::env::consts::EXE_SUFFIX);
    let (from, program) = (target().join("release").join(&name), prefix.join("bin").join(&name));
    fs::copy(&from, &program).map_err(|error| failed(&from, error))?;
    for (shell, folder, name) in shells {
        let file = prefix.join(folder).join(name);
        fs::write(&file, output(Command::new(&program).args(["completions", shell]))?)
            .map_err(|error| failed(&file, error))?;
    }
    output(Command::new(&program).args(["man", "--out"]).arg(prefix.join("share/man/man1"))).map(|_| ())
}

/// The command below a prefix of its own: it runs, bash completes it without being told where, and its pages are such
/// that the formatter of manual pages has nothing to say.
fn installed() -> Done {
    crate::packages::install(&["groff-base", "bash-completion"])?;
    let prefix = target().join("installed-command");
    let _ = fs::remove_dir_all(&prefix);
    if !install(&prefix) {
        return Err("the command cannot be installed".into());
    }
    let version = output(Command::new(prefix.join("bin/cptr")).arg("--version"))?;
    let expected = format!("cptr {}\n", env!("CARGO_PKG_VERSION"));
    if version != expected.as_bytes() {
        return Err(format!("cptr --version: expected {expected:?}, found {:?}", String::from_utf8_lossy(&version)));
    }
    // As an interactive shell does it: the completion is found by the command's name, and loaded when it is wanted.
    let script = ". /usr/share/bash-completion/bash_completion; \
                  _comp_load cptr 2> /dev/null || __load_completion cptr; \
                  COMP_WORDS=(cptr run --resi); COMP_CWORD=2; _cptr cptr --resi run; echo \"${COMPREPLY[@]}\"";
    let completed = output(Command::new("bash").args(["-c", script]).env("XDG_DATA_DIRS", prefix.join("share")))?;
    if completed != b"--resident\n" {
        return Err(format!("bash completes --resi to {:?}", String::from_utf8_lossy(&completed)));
    }
    let pages = prefix.join("share/man/man1");
    let mut count = 0;
    for page in fs::read_dir(&pages).map_err(|error| format!("{}: {error}", pages.display()))?.flatten() {
        let mut groff = Command::new("groff");
        let formatted = groff.args(["-man", "-Kutf8", "-Tutf8", "-ww"]).arg(page.path()).stdin(Stdio::null()).output();
        let formatted = formatted.map_err(|error| format!("groff: {error}"))?;
        if !formatted.status.success() || !formatted.stderr.is_empty() || formatted.stdout.is_empty() {
            let said = String::from_utf8_lossy(&formatted.stderr).into_owned();
            return Err(format!("{}: groff says {said:?}", page.path().display()));
        }
        count += 1;
    }
    println!("installed: cptr, completions of three shells, {count} manual pages");
    Ok(())
}

/// Standard output of what succeeds.
fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let program = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

#[cfg(test)]
mod tests {
    /// What is promised to users of older compilers is what is tested: the pinned one, in every workspace.
    #[test]
    fn the_promised_compiler_is_the_tested_one() {
        let read = |file: &str| std::fs::read_to_string(format!("{}/{file}", crate::ROOT)).expect(file);
        let pinned: toml::Table = toml::from_str(&read("rust-toolchain.toml")).expect("a table");
        let pinned = pinned["toolchain"]["channel"].as_str().expect("a version").to_owned();
        for workspace in ["Cargo.toml", "firmware/Cargo.toml", "sim/llama/Cargo.toml", "sim/python/Cargo.toml"] {
            let manifest: toml::Table = toml::from_str(&read(workspace)).expect("a table");
            let package = manifest.get("workspace").and_then(|all| all.get("package")).or(manifest.get("package"));
            let stated = package.expect("a package")["rust-version"].as_str().expect("a version");
            assert!(pinned == stated || pinned.starts_with(&format!("{stated}.")), "{workspace}: {stated}");
        }
    }
}

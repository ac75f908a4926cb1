//! `cargo xtask fuzz [--seconds N] [--record] [--bless] [TARGET]…`: libFuzzer on the targets of `tests/fuzz`, each from
//! its corpus, with assertions and overflow checks on; the C interface, where there is `unsafe`, with the address
//! sanitizer.
//!
//! A run that crashes, takes longer than 20 s or more memory than its share leaves the input below the build folder,
//! and the command that repeats it is printed. `--record` adds the executions to `tests/fuzz/executions.tsv`; `--bless`
//! keeps what reaches most, and puts it in the place of the corpus.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{ROOT, run};

/// What builds the fuzzers.
const CARGO_FUZZ: &str = "0.13.2";
/// Longest input in bytes: of targets that read a file, and of the others.
const LONGEST: [u32; 2] = [1 << 16, 1 << 12];
/// Targets that read a file.
const FILES: [&str; 7] = ["recording", "native", "tables", "machine", "config", "columns", "device"];
/// Longest run, in seconds.
const SECONDS: u32 = 20;
/// Most memory of a fuzzer, in MB: twice what a recording's arrays may become, 64 MB, and what the sanitizer takes.
const MEMORY: u32 = 1024;
/// Most inputs that are kept of a target, the smallest ones.
const KEPT: usize = 400;

/// How the fuzzers run.
pub(crate) struct Options {
    /// Of each target.
    pub(crate) seconds: u32,
    pub(crate) record: bool,
    pub(crate) bless: bool,
    /// None: all.
    pub(crate) targets: Vec<String>,
}

impl Options {
    /// Half a minute for each target, nothing written.
    pub(crate) const fn usual() -> Self {
        Self { seconds: 30, record: false, bless: false, targets: Vec::new() }
    }

    /// From what is typed behind `fuzz`.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut options = Self::usual();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--record" => options.record = true,
                "--bless" => options.bless = true,
                "--seconds" => options.seconds = arguments.next()?.parse().ok().filter(|&seconds| seconds > 0)?,
                name if names().iter().any(|known| known == name) => options.targets.push(argument),
                _ => return None,
            }
        }
        Some(options)
    }
}

fn folder() -> PathBuf {
    Path::new(ROOT).join("tests/fuzz")
}

fn build_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from).join("fuzz")
}

/// The targets, by their programs.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(folder().join("fuzz_targets")).into_iter().flatten().filter_map(Result::ok);
    let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned());
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort();
    names
}

/// Whether no promise was broken.
pub(crate) fn fuzz(options: &Options) -> bool {
    match all(options) {
        Ok(passed) => passed,
        Err(error) => {
            eprintln!("xtask fuzz: {error}");
            false
        }
    }
}

/// What came of a target.
struct Outcome {
    name: String,
    executions: u64,
    seconds: f64,
    failed: bool,
}

fn all(options: &Options) -> Result<bool, String> {
    let targets = if options.targets.is_empty() { names() } else { options.targets.clone() };
    build(&targets)?;
    let mut outcomes = Vec::new();
    for name in targets {
        let outcome = one(&name, options)?;
        eprintln!(
            "{name}: {} executions in {:.0} s{}",
            outcome.executions,
            outcome.seconds,
            if outcome.failed { ", FAILED" } else { "" }
        );
        // After each: what a run of hours has counted stays if it is ended.
        if options.record {
            record(&outcome)?;
        }
        outcomes.push(outcome);
    }
    println!("| target | executions | a second | failed |\n|---|---|---|---|");
    for Outcome { name, executions, seconds, failed } in &outcomes {
        println!(
            "| {name} | {executions} | {:.0} | {} |",
            *executions as f64 / seconds,
            if *failed { "yes" } else { "no" }
        );
    }
    Ok(outcomes.iter().all(|outcome| !outcome.failed))
}

fn build(targets: &[String]) -> Result<(), String> {
    let known = Command::new("cargo-fuzz").arg("--version").stderr(Stdio::null()).output();
    if known.is_err() {
        let install = ["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ];
        run("cargo", &install, &[]).then_some(()).ok_or("cannot install cargo-fuzz")?;
    }
    ["none", "address"].into_iter().try_for_each(|sanitizer| build_with(sanitizer, targets))
}

/// The sanitizer of a target. It makes runs three times as long, and finds nothing where `unsafe` is forbidden.
fn sanitizer(name: &str) -> &'static str {
    if name == "c_interface" { "address" } else { "none" }
}

fn longest(name: &str) -> String {
    let [file, other] = LONGEST;
    format!("-max_len={}", if FILES.contains(&name) { file } else { other })
}

/// One call builds what all targets share once: a name is given where there is one target alone.
fn build_with(sanitizer: &str, targets: &[String]) -> Result<(), String> {
    let targets: Vec<&String> = targets.iter().filter(|name| self::sanitizer(name) == sanitizer).collect();
    if targets.is_empty() {
        return Ok(());
    }
    let (folder, target) = (folder(), build_folder().join(sanitizer));
    // Of cargo's own environment nothing may stay: another toolchain builds.
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo", "fuzz", "build", "--sanitizer", sanitizer, "--fuzz-dir"]);
    cargo.arg(&folder).arg("--target-dir").arg(target);
    if let [name] = targets[..] {
        cargo.arg(name);
    }
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_MANIFEST_DIR"] {
        cargo.env_remove(variable);
    }
    let status = cargo.current_dir(&folder).status().map_err(|error| format!("rustup: {error}"))?;
    status.success().then_some(()).ok_or_else(|| "the fuzzers do not build (rustup toolchain install nightly)".into())
}

fn corpus(name: &str) -> PathBuf {
    folder().join("corpus").join(format!("{name}.tar.gz"))
}

fn one(name: &str, options: &Options) -> Result<Outcome, String> {
    let own = build_folder();
    let (inputs, crashes) = (own.join("corpus").join(name), own.join("crashes").join(name));
    for folder in [&inputs, &crashes] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    if corpus(name).exists() {
        unpack(&corpus(name), &inputs)?;
    }
    let program = own.join(sanitizer(name)).join(format!("{}/release/{name}", machine()?));
    let prefix = format!("-artifact_prefix={}/", crashes.display());
    let limits = [
        format!("-max_total_time={}", options.seconds),
        format!("-timeout={SECONDS}"),
        format!("-rss_limit_mb={MEMORY}"),
        longest(name),
        "-print_final_stats=1".into(),
        "-verbosity=0".into(),
        // Folders and corpora that stay are no leaks.
        "-detect_leaks=0".into(),
        prefix,
    ];
    let start = Instant::now();
    let output = Command::new(&program).args(&limits).arg(&inputs).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let seconds = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stderr);
    let counted =
        text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok());
    let failed = !output.status.success();
    if failed {
        eprintln!("{text}");
        eprintln!("{name}: repeat it with {} {}/FILE", program.display(), crashes.display());
    }
    if options.bless && !failed {
        bless(name, &program, &inputs)?;
    }
    Ok(Outcome { name: name.into(), executions: counted.unwrap_or(0), seconds, failed })
}

/// The machine that programs are built for, as cargo names it.
fn machine() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned)).ok_or("rustc names no host".into())
}

fn unpack(archive: &Path, to: &Path) -> Result<(), String> {
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(to).status();
    let done = status.map_err(|error| format!("tar: {error}"))?.success();
    done.then_some(()).ok_or_else(|| format!("{}: not unpacked", archive.display()))
}

/// Keeps, of all inputs, the smallest that reach what all of them reach.
fn bless(name: &str, program: &Path, inputs: &Path) -> Result<(), String> {
    let merged = build_folder().join("merged").join(name);
    let _ = fs::remove_dir_all(&merged);
    let io = |error: std::io::Error| format!("{name}: {error}");
    fs::create_dir_all(&merged).map_err(io)?;
    let merge = ["-merge=1", "-verbosity=0", &format!("-timeout={SECONDS}"), &longest(name)].map(String::from);
    let status =
        Command::new(program).args(merge).arg(&merged).arg(inputs).stderr(Stdio::null()).status().map_err(io)?;
    status.success().then_some(()).ok_or_else(|| format!("{name}: inputs are not merged"))?;
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(&merged).map_err(io)? {
        let entry = entry.map_err(io)?;
        files.push((entry.metadata().map_err(io)?.len(), entry.path()));
    }
    files.sort();
    for (_, path) in files.iter().skip(KEPT) {
        fs::remove_file(path).map_err(io)?;
    }
    fs::create_dir_all(folder().join("corpus")).map_err(io)?;
    // The same inputs give the same archive.
    let archive =
        ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=0644", "-cf", "-", "."];
    let script = format!("tar {} | gzip -9n > \"$0\"", archive.join(" "));
    let status =
        Command::new("sh").arg("-c").arg(script).arg(corpus(name)).current_dir(&merged).status().map_err(io)?;
    status.success().then_some(()).ok_or_else(|| format!("{name}: not packed"))
}

/// Adds to the executions on record.
fn record(outcome: &Outcome) -> Result<(), String> {
    let path = folder().join("executions.tsv");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let mut all: BTreeMap<String, u64> = names().into_iter().map(|name| (name, 0)).collect();
    for line in text.lines().skip(1) {
        if let Some((name, count)) = line.split_once('\t')
            && let (Some(sum), Ok(count)) = (all.get_mut(name), count.parse::<u64>())
        {
            *sum += count;
        }
    }
    if !outcome.failed {
        *all.entry(outcome.name.clone()).or_default() += outcome.executions;
    }
    let lines: String = all.iter().map(|(name, count)| format!("{name}\t{count}\n")).collect();
    fs::write(&path, format!("target\texecutions\n{lines}")).map_err(|error| format!("{}: {error}", path.display()))
}

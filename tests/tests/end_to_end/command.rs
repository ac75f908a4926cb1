//! The program as a child process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Address space of a process that is expected to refuse its input, in KiB: a program that believes a 10 GB claim dies
/// of it.
const REFUSAL_MEMORY_KIB: usize = 2 << 20;

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code; -1 where a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The same, but for success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Standard output of a success as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let output = self.ok();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"))
    }
}

/// A folder, gone after the test, in which the program runs: files are named relative to it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }

    /// The program with arguments that are separated by spaces, not started yet.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cptr-under-test"));
        command.args(arguments.split_whitespace()).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        finish(&mut self.command(arguments))
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &str) -> Value {
        self.run(arguments).json()
    }

    /// The rows that a command prints as JSON.
    #[track_caller]
    pub(crate) fn rows(&self, arguments: &str) -> Vec<Value> {
        self.json(&format!("{arguments} --json"))["rows"].as_array().unwrap().clone()
    }

    /// Its only row, or its first.
    #[track_caller]
    pub(crate) fn row(&self, arguments: &str) -> Value {
        self.rows(arguments).swap_remove(0)
    }

    /// Runs what must be refused, and returns the sentence after `cptr: `. Checks all that holds for every refusal:
    /// exit code 2, one line on standard error, nothing on standard output, no file made or changed, not much memory
    /// used.
    #[track_caller]
    pub(crate) fn refusal(&self, arguments: &str) -> String {
        let before = self.contents();
        let output = finish(&mut with_little_memory(self.command(arguments)));
        assert_eq!(output.code, 2, "cptr {arguments}: {output:#?}");
        assert_eq!(output.stdout, "", "cptr {arguments}: {output:#?}");
        assert!(!output.stderr.contains("panicked"), "cptr {arguments}: {output:#?}");
        let sentence = output.stderr.strip_prefix("cptr: ").and_then(|rest| rest.strip_suffix('\n'));
        let sentence = sentence.filter(|sentence| !sentence.contains('\n') && !sentence.trim().is_empty());
        let sentence = sentence.unwrap_or_else(|| panic!("cptr {arguments}: {output:#?}"));
        assert!(self.contents() == before, "cptr {arguments} changed files: now {:?}", self.contents().keys());
        sentence.into()
    }

    /// Every file below the folder with its contents.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn add(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    add(&path, found);
                } else {
                    found.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        add(self.path(), &mut found);
        found
    }
}

/// Runs to the end.
pub(crate) fn finish(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The same command with a limited address space, where the system has a way to say so.
fn with_little_memory(command: Command) -> Command {
    if !cfg!(target_os = "linux") {
        return command;
    }
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("ulimit -v {REFUSAL_MEMORY_KIB} && exec \"$0\" \"$@\""));
    limited.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited
}

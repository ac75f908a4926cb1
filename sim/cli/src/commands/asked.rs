//! What was asked for: what a reader of the results needs to run it again, and to see whether two runs were of the
//! same.

use std::any::TypeId;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, CommandFactory};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Cli;
use crate::columns::format;
use cptr_trace::error::printable;

/// Larger files are named without a hash: it would take longer than many a command.
const MOST_HASHED: u64 = 64 << 20;
/// Options whose files are written.
const WRITTEN: [&str; 6] = ["csv", "keep", "out", "plot", "timeline", "vcd"];
/// In the names of values that may be files, beside those that are paths by type.
const FILES: [&str; 3] = ["FILE", "TRACE", "config.json"];

/// A command with all that it was given.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Asked {
    /// Its name.
    pub(crate) command: String,
    /// The command line as typed, quoted for a shell.
    pub(crate) line: String,
    /// All arguments, given or by default.
    pub(crate) inputs: Map<String, Value>,
    /// Files that were read.
    pub(crate) files: Vec<InputFile>,
}

/// A file among the arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct InputFile {
    /// Argument that names it.
    pub(crate) argument: String,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// Of its contents, where they are at most [`MOST_HASHED`] bytes.
    pub(crate) sha256: Option<String>,
}

impl InputFile {
    /// `None` where there is no regular file of this name.
    fn read(argument: &str, name: &str) -> Option<Self> {
        let path = Path::new(name);
        let bytes = path.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
        let sha256 = if bytes <= MOST_HASHED { hash(path) } else { None };
        Some(Self { argument: argument.into(), name: name.into(), bytes, sha256 })
    }

    /// For people.
    pub(super) fn said(&self) -> String {
        let hash = self.sha256.as_ref().map(|hash| format!(", SHA-256 {hash}")).unwrap_or_default();
        format!("read {}, {} bytes{hash}", printable(&self.name), format::count(self.bytes as usize))
    }
}

/// SHA-256 of a file; `None` where it cannot be read, which is for the command to say.
fn hash(path: &Path) -> Option<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path).ok()?.take(MOST_HASHED);
    std::io::copy(&mut file, &mut hash).ok()?;
    Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Asked {
    /// Of the command line of a process; files are read if `with_files`, before the command runs.
    pub(super) fn of(matches: &ArgMatches, line: &[OsString], with_files: bool) -> Self {
        let Some((name, matches)) = matches.subcommand() else { return Self::default() };
        let cli = Cli::command();
        let arguments: Vec<&Arg> =
            cli.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments).collect();
        let values = |argument: &Arg| -> Option<Vec<String>> {
            let values = matches.try_get_raw(argument.get_id().as_str()).ok()??;
            Some(values.map(|value| value.to_string_lossy().into_owned()).collect())
        };
        let input = |argument: &&Arg| {
            let mut values: Vec<Value> = values(argument)?.iter().map(|value| one(value)).collect();
            let single = matches!(argument.get_action(), ArgAction::Set | ArgAction::SetTrue);
            let value = if single && values.len() == 1 { values.remove(0) } else { values.into() };
            Some((argument.get_id().to_string(), value))
        };
        let files = arguments.iter().filter(|argument| with_files && may_be_read(argument)).flat_map(|argument| {
            let values = values(argument).unwrap_or_default();
            values.into_iter().filter_map(|value| InputFile::read(argument.get_id().as_str(), &value))
        });
        let line =
            std::iter::once("cptr".into()).chain(line.iter().skip(1).map(|word| quoted(&word.to_string_lossy())));
        Self {
            command: name.into(),
            line: line.collect::<Vec<String>>().join(" "),
            inputs: arguments.iter().filter_map(input).collect(),
            files: files.collect(),
        }
    }
}

/// A value as JSON: numbers and flags as such.
fn one(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        text => serde_json::from_str::<serde_json::Number>(text).map_or_else(|_| text.into(), Value::Number),
    }
}

/// Whether an argument may name a file that the command reads.
fn may_be_read(argument: &Arg) -> bool {
    let names = argument.get_value_names().unwrap_or_default();
    let path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    let named = names.iter().any(|name| FILES.iter().any(|file| name.contains(file)));
    (path || named) && !WRITTEN.contains(&argument.get_id().as_str())
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%#".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Asked {
        let matches = Cli::command().try_get_matches_from(words).unwrap();
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Asked::of(&matches, &words, true)
    }

    #[test]
    fn inputs_are_all_arguments() {
        let asked = asked(&["cptr", "budget", "--bits", "2,3.5", "--json"]);
        assert_eq!((&*asked.command, &*asked.line), ("budget", "cptr budget --bits 2,3.5 --json"));
        let expected = serde_json::json!({"controller": "ibex-fast", "clock_mhz": 1000.0, "bits": [2, 3.5]});
        // The default is written as a whole number.
        assert_eq!(asked.inputs["clock_mhz"].as_f64(), expected["clock_mhz"].as_f64());
        assert_eq!((&asked.inputs["controller"], &asked.inputs["bits"]), (&expected["controller"], &expected["bits"]));
        assert!(!asked.inputs.contains_key("json") && asked.files.is_empty(), "{asked:?}");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, text) in [("a-b_c/d.e:f=g,h+i#j", "a-b_c/d.e:f=g,h+i#j"), ("", "''"), ("a b", "'a b'")] {
            assert_eq!(quoted(word), text);
        }
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
    }

    #[test]
    fn files_that_are_read_have_a_hash_and_those_that_are_written_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let [read, written] = ["read", "written"].map(|name| folder.path().join(name).to_string_lossy().into_owned());
        std::fs::write(&read, "abc").unwrap();
        std::fs::write(&written, "abc").unwrap();
        let asked = asked(&["cptr", "convert", &read, &written]);
        let [file] = &asked.files[..] else { panic!("{asked:?}") };
        assert_eq!((&*file.argument, &file.name, file.bytes), ("source", &read, 3));
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(file.sha256.as_deref(), Some(expected));
    }

    /// A new argument that is a file is either read, or known to be written.
    #[test]
    fn what_is_written_is_no_input() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments().filter(|argument| may_be_read(argument)) {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let writes = ["Write ", "Keep ", "File to write", "Trace to write"];
                assert!(!writes.iter().any(|word| help.starts_with(word)), "{argument:?}");
            }
        }
    }
}

//! The command line: one file per command. Results go to standard output, remarks to standard error; bad input ends
//! with one sentence and exit code 2.

mod about;
mod advise;
pub(crate) mod asked;
mod attack;
mod budget;
#[cfg(all(feature = "model", bundled_model))]
mod bundled;
#[cfg(all(feature = "model", not(bundled_model)))]
#[path = "without_bundled.rs"]
mod bundled;
#[cfg(feature = "model")]
mod capture;
mod convert;
mod demo;
mod devices;
mod dram;
mod drive;
mod generate;
mod inspect;
mod layer;
mod machine;
mod plan;
#[cfg(feature = "model")]
mod quantize;
mod report;
mod reproduce;
mod run;
mod serve;
mod setup;
mod source;
mod sweep;
#[cfg(not(feature = "model"))]
mod without_models;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::Value;
#[cfg(not(feature = "model"))]
use without_models as capture;
#[cfg(not(feature = "model"))]
use without_models as quantize;

use crate::columns::{Output, Page};
use crate::terminal;
use about::About;
use asked::{Asked, InputFile};
use cptr_trace::error::{Error, Result};
use cptr_trace::import::Recording;
use source::Reading;

#[derive(Debug, Parser)]
#[command(name = "cptr", version, about, long_about = LONG_ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
}

const LONG_ABOUT: &str = "Runs the routing traces of mixture-of-experts models through the Contextual Phase-Tracking Filter, its rivals \
and a near-data system, and shows what is gained and what it costs in routing mass.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run strategies on two bundled real traces and write an HTML report
    Demo(demo::Args),
    /// Show what a trace says about itself: switching, reuse, cache curves, changes of context, warnings
    Inspect(inspect::Args),
    /// Run a trace, counts or a model through strategies: what they load, wait for, lose, and how long it takes
    Run(Box<run::Args>),
    /// Many points of `cptr run` from one file, on all cores or by Slurm: Parquet, CSV, a Pareto front
    Sweep(sweep::Args),
    /// Join the parts of a sweep
    Merge(sweep::merge::Args),
    /// Several near-data devices: where the experts should lie so that none waits for another
    Devices(Box<devices::Args>),
    /// What to do with experts that do not fit: pin, cache, forecast, fetch ahead, stand-ins, near data; how sure
    Advise(Box<advise::Args>),
    /// The routing on which a strategy does worst beside others: a search
    Attack(Box<attack::Args>),
    /// Which machine runs a model how fast, and how: what fits at which bits, tokens per second with a band
    Plan(Box<plan::Args>),
    /// Requests that arrive over time: what users wait for the first token, and for each one after it
    Serve(Box<serve::Args>),
    /// Convert a trace of any known format to the native one
    Convert(convert::Args),
    /// Make a trace: join traces of different domains, or imitate a model whose traces are not public
    Gen(generate::Args),
    /// Run a model over text and record its routing as a trace
    Capture(capture::Args),
    /// Make low-bit replicas of a model's experts, and the table of what they lose
    Quantize(quantize::Args),
    /// Time one token in one layer on a system: total, busy times, energy, and what an expert near the data costs and
    /// why
    Layer(layer::Args),
    /// Run a stream of requests through one memory channel, command by command
    Dram(dram::Args),
    /// Measure a drive by reads in flight: its latency, its bandwidth, and what a machine with it would copy
    Drive(drive::Args),
    /// What share of the device's time the controller's processor takes, model by model
    Budget(budget::Args),
    /// Published figures on this model of the hardware, each marked in or out of its range
    Reproduce(reproduce::Args),
    /// Two runs side by side, from what their --json printed
    Report(report::Args),
    /// What completes commands and options in a shell, for the shell to read
    Completions(setup::Completions),
    /// Manual pages of all commands
    Man(setup::Man),
    /// The JSON Schema of what --json prints, of all commands
    Schema(setup::Schema),
}

/// What the commands say of themselves, in their order.
static ABOUT: [(&str, &About); 23] = [
    ("demo", &demo::ABOUT),
    ("inspect", &inspect::ABOUT),
    ("run", &run::ABOUT),
    ("sweep", &sweep::ABOUT),
    ("merge", &sweep::merge::ABOUT),
    ("devices", &devices::ABOUT),
    ("advise", &advise::ABOUT),
    ("attack", &attack::ABOUT),
    ("plan", &plan::ABOUT),
    ("serve", &serve::ABOUT),
    ("convert", &convert::ABOUT),
    ("gen", &generate::ABOUT),
    ("capture", &capture::ABOUT),
    ("quantize", &quantize::ABOUT),
    ("layer", &layer::ABOUT),
    ("dram", &dram::ABOUT),
    ("drive", &drive::ABOUT),
    ("budget", &budget::ABOUT),
    ("reproduce", &reproduce::ABOUT),
    ("report", &report::ABOUT),
    ("completions", &setup::COMPLETIONS),
    ("man", &setup::MAN),
    ("schema", &setup::SCHEMA),
];

/// Of the whole.
const EXAMPLES: [(&str, &str); 3] = [
    ("cptr demo", "what it is for, on two bundled recordings: tables, and report.html with plots"),
    ("cptr inspect tiny-moe-8m.safetensors", "what a recording says of itself"),
    ("cptr advise gpt-oss-20b.safetensors --resident 8", "what to do with experts of which 8 a layer fit"),
];

/// The command line, as it is parsed and as its help shows it.
fn command_line() -> clap::Command {
    about::with_ends(Cli::command())
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let matches = match command_line().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return without_command(&error),
    };
    let Cli { command, output } = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return without_command(&error),
    };
    let line: Vec<OsString> = std::env::args_os().collect();
    let writes_a_page = matches!(command, Command::Report(_));
    let asked = Asked::of(&matches, &line, output.names_files() || writes_a_page);
    if output.quiet {
        cptr_trace::progress::hide();
    }
    let start = Instant::now();
    match page(command).and_then(|page| page.show(&asked, &output)) {
        Ok(()) => {
            if output.verbose {
                terminal::remark(&asked.files.iter().map(InputFile::said).collect::<Vec<_>>());
                terminal::remark(&[format!("{:.3} s", start.elapsed().as_secs_f64())]);
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn page(command: Command) -> Result<Page> {
    match command {
        Command::Demo(_) => demo::main(),
        Command::Inspect(args) => inspect::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Sweep(args) => sweep::main(&args),
        Command::Merge(args) => sweep::merge::main(&args),
        Command::Devices(args) => devices::main(&args),
        Command::Convert(args) => convert::main(&args),
        Command::Gen(args) => generate::main(&args),
        Command::Capture(args) => capture::main(&args),
        Command::Quantize(args) => quantize::main(&args),
        Command::Layer(args) => layer::main(&args),
        Command::Dram(args) => dram::main(&args),
        Command::Drive(args) => drive::main(&args),
        Command::Budget(args) => budget::main(&args),
        Command::Advise(args) => advise::main(&args),
        Command::Attack(args) => attack::main(&args),
        Command::Plan(args) => plan::main(&args),
        Command::Serve(args) => serve::main(&args),
        Command::Reproduce(args) => reproduce::main(&args),
        Command::Report(args) => report::main(&args),
        Command::Completions(args) => Ok(setup::completions(&args)),
        Command::Man(args) => setup::man(&args),
        Command::Schema(_) => Ok(setup::schema()),
    }
}

/// What a command says, for programs that link this crate.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What `--json` prints.
    pub json: Value,
    /// What people read: facts, tables, remarks.
    pub text: String,
}

/// Runs a command and gives its answer instead of printing it. `arguments` are those of the command line, from the
/// command's name on; where `given` is a recording, the command works on it and its source is a name that nobody opens.
/// Nothing is written but files that an option of the command names; options of output are refused.
///
/// ```
/// use cptr_trace::import::Recording;
/// use cptr_trace::{Shape, Trace};
///
/// let ids = (0..300).map(|token| token % 3).collect();
/// let trace = Trace::of_ids(Shape { tokens: 300, layers: 1, experts: 4, k: 1 }, ids);
/// let arguments = ["run", "-", "--strategy", "lru", "--resident", "2"].map(str::to_owned);
/// let answer = cptr_cli::answer(&arguments, Some(Recording::Tokens(trace)))?;
/// assert_eq!(answer.json["rows"][0]["stall_rate"], 1.0);
/// # Ok::<(), cptr_trace::Error>(())
/// ```
///
/// # Errors
/// Arguments that the command does not take ([`cptr_trace::error::Kind::Usage`]), and whatever the command refuses.
pub fn answer(arguments: &[String], given: Option<Recording>) -> Result<Answer> {
    answer_on(arguments, given.map(Arc::new))
}

/// As [`answer`], on a recording that others work on too.
fn answer_on(arguments: &[String], given: Option<Arc<Recording>>) -> Result<Answer> {
    let line = std::iter::once("cptr").chain(arguments.iter().map(String::as_str));
    let wrong = |error: clap::Error| Error::usage(sentence(&error.to_string()));
    let matches = Cli::command().try_get_matches_from(line.clone()).map_err(wrong)?;
    let Cli { mut command, output } = Cli::from_arg_matches(&matches).map_err(wrong)?;
    if output.is_asked_for() {
        return Err(Error::usage("expected no --json, --csv or --report: the answer is returned"));
    }
    let line: Vec<OsString> = line.map(OsString::from).collect();
    let asked = Asked::of(&matches, &line, true);
    if given.is_some() {
        let reading = reading(&mut command);
        let reading = reading.ok_or_else(|| Error::usage(format!("cptr {} takes no recording", asked.command)))?;
        reading.give(given);
    }
    Ok(page(command)?.answer(&asked))
}

/// How a command reads its recording, of those that do.
fn reading(command: &mut Command) -> Option<&mut Reading> {
    match command {
        Command::Inspect(args) => Some(&mut args.reading),
        Command::Run(args) => Some(&mut args.reading),
        Command::Devices(args) => Some(&mut args.reading),
        Command::Advise(args) => Some(&mut args.reading),
        Command::Plan(args) => Some(&mut args.reading),
        _ => None,
    }
}

/// A parser of what commands that read recordings have in common.
#[derive(Debug, Parser)]
#[command(name = "read")]
struct Read {
    source: PathBuf,
    #[command(flatten)]
    reading: Reading,
}

/// Reads a recording as the commands do. `arguments` are its path, and the options of reading.
///
/// # Errors
/// Arguments that are none of reading ([`cptr_trace::error::Kind::Usage`]), and whatever cannot be read.
///
/// ```
/// let error = cptr_cli::read(&["no/such/file".into(), "--tokens".into(), "5".into()]).unwrap_err();
/// assert!(error.to_string().starts_with("no/such/file: "));
/// ```
pub fn read(arguments: &[String]) -> Result<Recording> {
    let line = std::iter::once("read").chain(arguments.iter().map(String::as_str));
    let read = Read::try_parse_from(line).map_err(|error| Error::usage(sentence(&error.to_string())))?;
    read.reading.read(&read.source)
}

fn fail(reason: &Error) -> ExitCode {
    terminal::refuse(reason);
    ExitCode::from(2)
}

/// Help and version as asked for; the whole help where nothing is asked; else one sentence on what is wrong with the
/// arguments.
fn without_command(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        // As an error of ours: as short, and as printable.
        _ => fail(&Error::usage(format!("{}; {}", sentence(&error.to_string()), next()))),
    }
}

/// Where whoever has typed what cannot be parsed sees how it is done.
fn next() -> String {
    let typed = std::env::args_os().nth(1).unwrap_or_default();
    let command =
        ABOUT.iter().find(|(name, _)| typed == *name).map_or_else(String::new, |(name, _)| format!(" {name}"));
    format!("cptr{command} --help has examples")
}

/// The message and the tips of a clap error in one line, without its usage.
fn sentence(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let kept = paragraphs.filter(|paragraph| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more"));
    let joined = kept.collect::<Vec<_>>().join("; ");
    joined.strip_prefix("error: ").unwrap_or(&joined).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        sentence(&Cli::try_parse_from(arguments).unwrap_err().to_string())
    }

    #[test]
    fn wrong_arguments_are_one_sentence() {
        assert_eq!(
            refusal(&["cptr", "devices", "a", "--batch", "many"]),
            "invalid value 'many' for '--batch <N>': invalid digit found in string"
        );
        assert_eq!(refusal(&["cptr", "inspect"]), "the following required arguments were not provided: <TRACE>");
        let tip = refusal(&["cptr", "inspect", "a", "--jsn"]);
        assert!(tip.starts_with("unexpected argument '--jsn' found; tip: ") && !tip.contains("Usage"), "{tip}");
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn programs_get_what_the_command_prints() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/tiny-moe-8m.safetensors");
        let options = "--strategy lru,bounded --resident 8 --tokens 60";
        let of_file = answer(&words(&format!("run {file} {options}")), None).unwrap();
        let recording = read(&words(file)).unwrap();
        let of_memory = answer(&words(&format!("run - {options}")), Some(recording.clone())).unwrap();
        assert_eq!((&of_file.json["rows"], &of_file.text), (&of_memory.json["rows"], &of_memory.text));
        assert!(of_file.text.contains("| bounded") && of_file.json["schema"] == "cptr.run/1");
        for (line, given, sentence) in [
            ("run - --experts 4", true, "expected no option of reading but"),
            ("budget", true, "cptr budget takes no recording"),
            ("budget --json", false, "the answer is returned"),
            ("inspect", false, "<TRACE>"),
            ("nothing", false, "unrecognized subcommand"),
        ] {
            let error = answer(&words(line), given.then(|| recording.clone())).unwrap_err();
            assert!(error.to_string().contains(sentence), "{line}: {error}");
            assert_eq!(error.kind(), cptr_trace::error::Kind::Usage, "{line}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! The command line: one file per command. Results go to standard output, remarks to standard error; bad input ends with one sentence
//! and exit code 2.

mod budget;
mod bundled;
mod capture;
mod convert;
mod decode;
mod demo;
mod detect;
mod devices;
mod dram;
mod eval;
mod generate;
mod inspect;
mod layer;
mod predict;
mod quantize;
mod reproduce;
mod run;
mod source;
mod table;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use cptr_trace::error::{Error, Result};

#[derive(Debug, Parser)]
#[command(name = "cptr", version, about, long_about = LONG_ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "Runs the routing traces of mixture-of-experts models through the Contextual Phase-Tracking Filter, its rivals \
and a near-data system, and shows what is gained and what it costs in routing mass.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all policies on two bundled real traces and write an HTML report
    Demo(demo::Args),
    /// Show what a trace says about itself: switching, reuse, cache curves, locality, warnings
    Inspect(inspect::Args),
    /// Run a model over text and record its routing as a trace
    Capture(capture::Args),
    /// Convert a trace of any known format to the native one
    Convert(convert::Args),
    /// Run a trace through policies, placements and a system
    Run(Box<run::Args>),
    /// Have a model read text while policies alter its choice of experts: misses against perplexity
    Eval(Box<eval::Args>),
    /// Make low-bit replicas of a model's experts, and the table of what they lose
    Quantize(quantize::Args),
    /// Decode a trace on whole systems: what is in GPU memory, what runs near the data, what moves
    Decode(Box<decode::Args>),
    /// Several near-data devices: where the experts should lie so that none waits for another
    Devices(Box<devices::Args>),
    /// Make a trace: join traces of different domains, or imitate a model whose traces are not public
    Gen(generate::Args),
    /// Time one token in one layer on a system: total, busy times, energy, and what a cold expert costs and why
    Layer(layer::Args),
    /// How soon changes of context are seen, and how often one is seen where there is none
    Detect(detect::Args),
    /// Whether the prompt predicts the answer: cosine of expert counts, coverage of a placement
    Predict(predict::Args),
    /// Published figures on this model of the hardware, each marked in or out of its range
    Reproduce(reproduce::Args),
    /// Run a stream of requests through one memory channel, command by command
    Dram(dram::Args),
    /// What share of the device's time the controller's processor takes, model by model
    Budget(budget::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return without_command(&error),
    };
    let result = match command {
        Command::Demo(args) => demo::main(&args),
        Command::Inspect(args) => inspect::main(&args),
        Command::Capture(args) => capture::main(&args),
        Command::Convert(args) => convert::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Eval(args) => eval::main(&args),
        Command::Decode(args) => decode::main(&args),
        Command::Devices(args) => devices::main(&args),
        Command::Gen(args) => generate::main(&args),
        Command::Layer(args) => layer::main(&args),
        Command::Detect(args) => detect::main(&args),
        Command::Predict(args) => predict::main(&args),
        Command::Reproduce(args) => reproduce::main(&args),
        Command::Dram(args) => dram::main(&args),
        Command::Budget(args) => budget::main(&args),
        Command::Quantize(args) => quantize::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(reason: &impl std::fmt::Display) -> ExitCode {
    complain(&format!("cptr: {reason}"));
    ExitCode::from(2)
}

/// Help and version as asked for; the whole help where nothing is asked; else one sentence on what is wrong with the arguments.
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
        _ => fail(&sentence(&error.to_string())),
    }
}

/// The message and the tips of a clap error in one line, without its usage.
fn sentence(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let kept = paragraphs.filter(|paragraph| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more"));
    let joined = kept.collect::<Vec<_>>().join("; ");
    joined.strip_prefix("error: ").unwrap_or(&joined).into()
}

/// Writes a line to standard error; where nobody reads it, there is nobody to tell.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes to standard output; a reader that has gone away, as `head` does, is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes JSON for machines to standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::new(format!("JSON: {error}")))?;
    text.push('\n');
    print(&text)
}

/// Writes remarks for people to standard error.
fn remark(sentences: &[String]) {
    for sentence in sentences {
        complain(&format!("Note: {sentence}"));
    }
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
            refusal(&["cptr", "run", "a", "--cache", "many"]),
            "invalid value 'many' for '--cache <N>': invalid digit found in string"
        );
        assert_eq!(refusal(&["cptr", "inspect"]), "the following required arguments were not provided: <TRACE>");
        let tip = refusal(&["cptr", "inspect", "a", "--jsn"]);
        assert!(tip.starts_with("unexpected argument '--jsn' found; tip: ") && !tip.contains("Usage"), "{tip}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

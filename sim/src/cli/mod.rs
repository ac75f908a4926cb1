//! The command line: one file per command. Results go to standard output, remarks to standard error; bad input ends with one sentence
//! and exit code 2.

mod convert;
mod demo;
mod inspect;
mod run;
mod source;
mod table;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

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
    /// Convert a trace of any known format to the native one
    Convert(convert::Args),
    /// Run a trace through policies, placements and a system
    Run(Box<run::Args>),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::main(&args),
        Command::Inspect(args) => inspect::main(&args),
        Command::Convert(args) => convert::main(&args),
        Command::Run(args) => run::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cptr: {error}");
            ExitCode::from(2)
        }
    }
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
        eprintln!("Note: {sentence}");
    }
}

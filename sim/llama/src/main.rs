//! The `cptr-llama` command: llama.cpp with a strategy of cptr in the loop.
//!
//! It needs no change of llama.cpp: through its public evaluation callback the chosen experts of a layer are replaced
//! before weights are gathered and experts run.

#[cfg(target_os = "linux")]
mod advise;
mod capture;
mod common;
mod convert;
mod cost;
mod eval;
mod ffi;
mod generate;
mod kernels;
mod make;
mod moe;
#[cfg(target_os = "linux")]
mod offload;
#[cfg(target_os = "linux")]
mod passes;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod run_batch;
mod show;
mod stats;
mod steer;
mod text;
mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cptr-llama", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Results as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Convert the bundled model, or another OLMoE checkpoint, to a GGUF file in f32
    Convert(convert::Args),
    /// Perplexity, divergence, stalls and misses of strategies while the model reads text
    Eval(eval::Args),
    /// Record the routing of a model that reads text, and goes on from it, as a trace
    Capture(capture::Args),
    /// Which experts a text uses in which layer, how few cover most of it, and how much comes again
    Stats(stats::Args),
    /// Tokens per second with experts in bounded memory, read from the drive for real (Linux)
    #[cfg(target_os = "linux")]
    Run(run::Args),
    /// What to do with experts that do not fit, by the model's own routing and this machine's measured times (Linux)
    #[cfg(target_os = "linux")]
    Advise(advise::Args),
    /// What a strategy in the loop adds to the processor time of a token
    Cost(cost::Args),
    /// Matrix-vector products of cptr's low-bit experts beside llama.cpp's q4_0, on one thread
    Kernels(kernels::Args),
    /// Make a model of the sizes of a known one, with random weights
    Make(make::Args),
    /// Text with strategies in the loop, and its drift from the unaltered model's
    Generate(generate::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return fail(&cptr_trace::Error::usage(sentence(&error.to_string()))),
        Err(error) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    let (name, page) = match &cli.command {
        Command::Convert(args) => ("convert", convert::main(args)),
        Command::Eval(args) => ("eval", eval::main(args)),
        Command::Capture(args) => ("capture", capture::main(args)),
        Command::Stats(args) => ("stats", stats::main(args)),
        #[cfg(target_os = "linux")]
        Command::Run(args) => ("run", run::main(args)),
        #[cfg(target_os = "linux")]
        Command::Advise(args) => ("advise", advise::main(args)),
        Command::Cost(args) => ("cost", cost::main(args)),
        Command::Kernels(args) => ("kernels", kernels::main(args)),
        Command::Make(args) => ("make", make::main(args)),
        Command::Generate(args) => ("generate", generate::main(args)),
    };
    match page {
        Ok(page) => {
            print!("{}", page.text(name, cli.json));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn fail(reason: &cptr_trace::Error) -> ExitCode {
    eprintln!("cptr-llama: {reason}");
    ExitCode::from(2)
}

/// The message of a clap error in one line, without its usage.
fn sentence(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let kept = paragraphs.filter(|paragraph| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more"));
    let joined = kept.collect::<Vec<_>>().join("; ");
    joined.strip_prefix("error: ").unwrap_or(&joined).into()
}

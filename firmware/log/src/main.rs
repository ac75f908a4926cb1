//! Prints the log of an image: `cptr-log IMAGE [LOG]`, one line each, as they come; without a file from standard input.
//! The texts are in the image, the log has their numbers and values.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::process::ExitCode;

use defmt_decoder::{DecodeError, Table};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [image] => print(image, &mut io::stdin().lock()),
        [image, log] => {
            File::open(log).map_err(|error| format!("{log}: {error}")).and_then(|mut log| print(image, &mut log))
        }
        _ => Err("usage: cptr-log IMAGE [LOG]".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cptr-log: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(image: &str, log: &mut dyn Read) -> Result<(), String> {
    let elf = fs::read(image).map_err(|error| format!("{image}: {error}"))?;
    let table = Table::parse(&elf).map_err(|error| format!("{image}: {error}"))?;
    let table = table.ok_or_else(|| format!("{image}: built without the feature defmt: it has no texts"))?;
    let (mut decoder, mut bytes, mut output) = (table.new_stream_decoder(), [0; 1024], io::stdout().lock());
    loop {
        let count = log.read(&mut bytes).map_err(|error| format!("the log: {error}"))?;
        if count == 0 {
            return Ok(());
        }
        decoder.received(&bytes[..count]);
        loop {
            match decoder.decode() {
                Ok(frame) => {
                    let level = frame.level().map_or("", |level| level.as_str());
                    writeln!(output, "{level:<5} {}", frame.display_message()).map_err(|error| error.to_string())?;
                }
                Err(DecodeError::UnexpectedEof) => break,
                // The next zero byte begins a new line.
                Err(DecodeError::Malformed) if table.encoding().can_recover() => {
                    writeln!(output, "      (what is not a line of this image's log was skipped)")
                        .map_err(|error| error.to_string())?;
                }
                Err(DecodeError::Malformed) => return Err("the log is damaged, or another image's".to_owned()),
            }
        }
    }
}

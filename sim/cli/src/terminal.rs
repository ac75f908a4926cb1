//! Standard output and standard error. A reader that has gone away, as `head` does, is no error. Colours are for
//! terminals, and by the environment: `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE`.

use std::fmt::Display;
use std::io::Write;

use clap::builder::Styles;
use clap::builder::styling::Style;
use cptr_trace::error::{Error, Result};

/// Writes a line to standard error; where nobody reads it, there is nobody to tell.
fn complain(style: &Style, who: &str, line: impl Display) {
    let _ = writeln!(anstream::stderr(), "{style}{who}:{style:#} {line}");
}

/// Says why there is no result.
pub(crate) fn refuse(reason: &Error) {
    complain(Styles::styled().get_error(), "cptr", reason);
}

/// Writes remarks for people to standard error.
pub(crate) fn remark(sentences: &[String]) {
    for sentence in sentences {
        complain(Styles::styled().get_literal(), "Note", sentence);
    }
}

/// Writes to standard output.
pub(crate) fn print(text: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes JSON for machines to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::new(format!("JSON: {error}")))?;
    text.push('\n');
    print(text.as_bytes())
}

//! `cptr completions`, `cptr man` and `cptr schema`: what shells, manuals and programs want to know of the command
//! line.

use std::path::PathBuf;

use clap_complete::Shell;
use clap_mangen::Man as Manual;

use super::about::{About, json_schema};
use super::command_line;
use crate::columns::{Page, Section};
use cptr_trace::error::{Error, Result};
use cptr_trace::file::Written;

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Shell that reads it
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) static COMPLETIONS: About = About {
    rows: &[],
    examples: &[
        ("cptr completions bash > cptr.bash", "for this shell: source cptr.bash"),
        ("cptr completions fish > cptr.fish", "for all: move it into ~/.config/fish/completions"),
        ("cptr completions zsh > _cptr", "for all: move it into a folder of $fpath"),
    ],
};

#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Folder for cptr.1, cptr-run.1 and the others, which must be there (default: print cptr.1)
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(super) static MAN: About = About {
    rows: &[],
    examples: &[
        ("cptr man > cptr.1", "the page of the whole: man -l cptr.1"),
        ("cptr man --out .", "that, and one for each command: man -l cptr-run.1"),
    ],
};

#[derive(Debug, clap::Args)]
pub(super) struct Schema {}

pub(super) static SCHEMA: About = About {
    rows: &[],
    examples: &[("cptr schema > cptr.schema.json", "for programs that check, or make types of it")],
};

pub(super) fn completions(args: &Completions) -> Page {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command_line(), "cptr", &mut text);
    text_page(&String::from_utf8_lossy(&text))
}

pub(super) fn man(args: &Man) -> Result<Page> {
    // There is no page on the list of pages.
    let mut all = command_line().disable_help_subcommand(true);
    all.build();
    let Some(folder) = &args.out else {
        return Ok(text_page(&String::from_utf8_lossy(&rendered(&all)?)));
    };
    let names = std::iter::once("cptr".to_owned())
        .chain(all.get_subcommands().map(|command| format!("cptr-{}", command.get_name())));
    let commands = std::iter::once(&all).chain(all.get_subcommands());
    let written = names.zip(commands).map(|(name, command)| {
        let text = rendered(&command.clone().display_name(&name))?;
        Written::new(&folder.join(format!("{name}.1")), |out| out.write_all(&text))
    });
    let written = written.collect::<Result<Vec<_>>>()?;
    let pages = written.len();
    written.into_iter().try_for_each(Written::publish)?;
    Ok(text_page(&format!("{pages} pages in {}", folder.display())))
}

fn rendered(command: &clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let without_end = command.clone().after_help(None).after_long_help(None);
    Manual::new(without_end).render(&mut text).map_err(|error| Error::new(format!("manual: {error}")))?;
    let end = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string).unwrap_or_default();
    text.extend_from_slice(b".SH NOTES\n.nf\n");
    // Line by line as in the help; nothing in a line is an order to the formatter.
    for line in end.lines() {
        text.extend_from_slice(format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-")).as_bytes());
    }
    Ok(text)
}

pub(super) fn schema() -> Page {
    text_page(&format!("{:#}", json_schema()))
}

fn text_page(text: &str) -> Page {
    Page::default().section(Section { facts: text.lines().map(str::to_owned).collect(), ..Section::default() })
}

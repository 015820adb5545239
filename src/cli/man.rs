//! `quern man`: manual pages, written from the definition of the command line.

use super::{Cli, output};
use crate::error::{Error, Result};
use crate::file::atomic::AtomicFile;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `quern man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quern man | man -l -
  quern man bench model | man -l -
  quern man -o ~/.local/share/man/man1")]
pub struct Args {
    /// The subcommand whose page to print; without one, the page of the program
    #[arg(value_name = "SUBCOMMAND", conflicts_with = "output")]
    pub subcommand: Vec<String>,
    /// Write all pages into this folder (quern.1, quern-run.1, ...), which is made if it is not there
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// Prints a page in roff, or writes all of them.
///
/// # Errors
/// An unknown subcommand (2), I/O (4).
pub fn run(args: &Args) -> Result<()> {
    let mut root = Cli::command();
    // Subcommands get their full names here.
    root.build();
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
        return write_all(&root, folder);
    }
    let mut command = &root;
    for name in &args.subcommand {
        command = command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            Error::usage(match known.is_empty() {
                true => format!("{} has no subcommand {name:?}", full_name(command)),
                false => format!(
                    "{} has no subcommand {name:?}, expected one of {}",
                    full_name(command),
                    known.join(", ")
                ),
            })
        })?;
    }
    output::stdout().put(&page(command)?)
}

/// `quern-bench-model`.
fn full_name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    Man::new(command.clone())
        .render(&mut out)
        .map_err(|e| Error::io("render", Path::new(full_name(command)), &e))?;
    Ok(out)
}

fn write_all(command: &Command, folder: &Path) -> Result<()> {
    let path = folder.join(format!("{}.1", full_name(command)));
    let mut file = AtomicFile::create(&path)?;
    file.write_all(&page(command)?)
        .map_err(|e| Error::io("write", &path, &e))?;
    file.commit()?;
    for subcommand in command.get_subcommands() {
        write_all(subcommand, folder)?;
    }
    Ok(())
}

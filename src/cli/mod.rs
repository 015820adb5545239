//! The command line: one file per subcommand, exit codes, signals, terminals.
//!
//! # Adding a subcommand
//! 1. `src/cli/NAME.rs` with `#[derive(clap::Args)] pub struct Args` (a doc comment per flag is its help text) and
//!    `pub fn run(args: Args) -> Result<()>`. Data goes to [`output::stdout`], never through `println!` (which panics on a closed
//!    pipe); statistics and progress go to stderr, progress only where stderr is a terminal. An error is returned, not printed.
//! 2. Here: `pub mod NAME;`, a variant of [`Command`], an arm in its `run`.
//!
//! [`main`] turns the result into the exit code: 0, the code of the [`Error`], or 128 + n after signal n.

pub mod batch;
pub mod bench;
pub mod chat;
pub mod completions;
pub mod embed;
pub mod ending;
pub mod import;
pub mod inspect;
pub mod load;
pub mod logprobs;
pub mod man;
pub mod memory;
pub mod memory_limit;
pub mod messages;
pub mod output;
pub mod profile;
pub mod prompt_cache;
pub mod report;
pub mod run;
pub mod sampling;
pub mod score;
pub mod screen;
pub mod signals;
pub mod speculation;
pub mod structure;
pub mod template;
pub mod text;
pub mod thinking;
pub mod tokenize;
pub mod verify;

use crate::error::{Error, Result};
use clap::error::ErrorKind as ClapKind;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "quern",
    version = version(),
    about = "Runs language models on the CPU: prompts, batches, scores and kernel benchmarks, with the same bits on every machine",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Examples:\n  quern run \"What is the capital of France?\"\n  quern run -m model.quern \"Once upon a time\"\n  quern import path/to/folder -o model.quern --quant q4\n  \
                  quern inspect model.quern\n\nExit codes: 0 ok, 1 some records failed, 2 usage, 3 invalid file, 4 input or output, 5 a limit, \
                  6 the model changed while it ran, 130/143 stopped by a signal."
)]
pub struct Cli {
    /// When to use colour (also: NO_COLOR, TERM=dumb)
    #[arg(long, global = true, value_enum, default_value_t = output::Color::Auto, value_name = "WHEN")]
    pub color: output::Color,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a prompt
    Run(Box<run::Args>),
    /// Talk with a model
    Chat(Box<chat::Args>),
    /// Answer many records, unattended
    Batch(Box<batch::Args>),
    /// Print how probable each token of a text is
    Score(Box<score::Args>),
    /// Turn texts into vectors
    Embed(Box<embed::Args>),
    /// Measure what this machine can do, and what kernels and models make of it
    Bench(bench::Args),
    /// Turn a foreign model into a weight file
    Import(import::Args),
    /// Show what a weight file is
    Inspect(inspect::Args),
    /// Check every byte of a weight file
    Verify(verify::Args),
    /// Turn text into tokens and back
    Tokenize(tokenize::Args),
    /// Show what a chat template makes of a conversation
    Template(Box<template::Args>),
    /// Print what makes a shell complete this program's arguments
    Completions(completions::Args),
    /// Print or write manual pages
    Man(man::Args),
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Command::Run(args) => run::run(*args),
            Command::Chat(args) => chat::run(*args),
            Command::Batch(args) => batch::run(*args),
            Command::Score(args) => score::run(*args),
            Command::Embed(args) => embed::run(*args),
            Command::Bench(args) => bench::run(args),
            Command::Import(args) => import::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Verify(args) => verify::run(args),
            Command::Tokenize(args) => tokenize::run(args),
            Command::Template(args) => template::run(*args),
            Command::Completions(args) => completions::run(args),
            Command::Man(args) => man::run(&args),
        }
    }
}

/// `0.1.0 (x86_64; avx512 of scalar avx2 avx512)` for `--version`: the instruction set in use, of those that can run here.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let supported: Vec<&str> = quern_kernels::supported().map(|k| k.name()).collect();
        format!(
            "{} ({}; {} of {})",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
            quern_kernels::best().name(),
            supported.join(" ")
        )
    });
    &VERSION
}

static START: OnceLock<Instant> = OnceLock::new();

/// Time since the program started.
pub fn since_start() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Parses the arguments, runs the subcommand, reports its error on stderr and returns the exit code of the process.
pub fn main() -> ExitCode {
    since_start();
    signals::install();
    memory_limit::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return command_line_error(&e),
    };
    output::set_color(cli.color);
    let result = cli.command.run().and_then(|()| output::stdout().finish());
    if let Some(signal) = signals::caught() {
        return ExitCode::from(128 + signal);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has what it wanted (`| head`): not a failure of ours.
        Err(_) if output::pipe_closed() => ExitCode::SUCCESS,
        Err(e) => report(&e),
    }
}

/// Prints one line `quern: ...` on stderr and returns the error's exit code.
fn report(e: &Error) -> ExitCode {
    let line = one_line(&e.to_string());
    output::note(format_args!("quern: {line}"));
    ExitCode::from(e.exit_code())
}

/// Line breaks and runs of white space become single spaces, other control characters are escaped.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    output::visible(&words.join(" "))
}

/// Help and version go to stdout with exit 0; anything else is one line on stderr with exit 2.
fn command_line_error(e: &clap::Error) -> ExitCode {
    let nothing_given = std::env::args_os().len() <= 1;
    let help_asked = matches!(e.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion);
    if help_asked || nothing_given {
        let mut out = output::stdout();
        let colored = output::Color::Auto.enabled(output::Stream::Stdout);
        let text = e.render();
        let text = if colored {
            text.ansi().to_string()
        } else {
            text.to_string()
        };
        return match out.put(text.as_bytes()).and_then(|()| out.finish()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) if output::pipe_closed() => ExitCode::SUCCESS,
            Err(e) => report(&e),
        };
    }
    let message = e.render().to_string();
    report(&Error::usage(match e.kind() {
        ClapKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("an argument is missing{}", see_help(&message))
        }
        _ => usage_line(&message),
    }))
}

/// The first paragraph of a clap message on one line, with its tip and where to look for more.
fn usage_line(message: &str) -> String {
    let mut paragraphs = message.split("\n\n");
    let first = paragraphs.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let mut line = one_line(first);
    for paragraph in paragraphs {
        if let Some(tip) = paragraph.trim().strip_prefix("tip: ") {
            line.push_str("; ");
            line.push_str(&one_line(tip.lines().next().unwrap_or_default()));
        }
    }
    line.push_str(&see_help(message));
    line
}

/// `; see quern bench --help`, from the usage line of a clap message.
fn see_help(message: &str) -> String {
    let usage = message.split_once("Usage: ").map_or("", |(_, usage)| usage);
    let mut words = usage
        .split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
    let mut see = String::from("; see");
    for word in words.by_ref() {
        see.push(' ');
        see.push_str(word);
    }
    if see == "; see" {
        see.push_str(" quern");
    }
    see + " --help"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn clap_messages_become_one_line() {
        let e = Cli::try_parse_from(["quern", "bench", "--nonsense"]).unwrap_err();
        let line = usage_line(&e.render().to_string());
        assert!(!line.contains('\n'), "{line}");
        assert!(line.contains("unexpected argument '--nonsense'"), "{line}");
        assert!(line.ends_with("see quern bench --help"), "{line}");
        let e = Cli::try_parse_from(["quern", "benhc"]).unwrap_err();
        let line = usage_line(&e.render().to_string());
        assert!(line.contains("unrecognized subcommand 'benhc'"), "{line}");
        assert!(line.contains("'bench'"), "{line}");
    }
}

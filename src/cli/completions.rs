//! `quern completions`: a script that makes a shell complete subcommands, flags and their values.

use super::{Cli, output};
use crate::error::Result;
use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments of `quern completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quern completions bash > ~/.local/share/bash-completion/completions/quern
  quern completions zsh > ~/.zfunc/_quern        (with ~/.zfunc in $fpath)
  quern completions fish > ~/.config/fish/completions/quern.fish
  quern completions powershell | Out-String | Invoke-Expression")]
pub struct Args {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// I/O (4).
pub fn run(args: Args) -> Result<()> {
    // Into memory first: what generates it panics where a write fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quern", &mut script);
    output::stdout().put(&script)
}

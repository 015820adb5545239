//! When a text ends: the arguments of every command that generates one, and of those that have a context only.

use crate::error::{Error, Result};
use quern_models::Spec;

/// How many positions may be used.
#[derive(Debug, clap::Args)]
pub struct ContextArgs {
    /// Use less context than the model has (0: all of it); more only where no position is out of its reach
    #[arg(
        short,
        long,
        visible_alias = "ctx-size",
        value_name = "N",
        default_value_t = 0
    )]
    pub context: u32,
}

/// What ends a text besides the model.
#[derive(Debug, clap::Args)]
pub struct EndingArgs {
    /// Most tokens to generate (-1: until the model or the context ends)
    #[arg(short = 'n', long, visible_alias = "n-predict", alias = "predict", value_name = "N", allow_hyphen_values = true,
          default_value = "-1", value_parser = parse_count)]
    pub max_tokens: Count,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub context: ContextArgs,
    /// Stop before this text; may be given several times
    #[arg(
        long,
        visible_alias = "reverse-prompt",
        short_alias = 'r',
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    pub stop: Vec<String>,
}

/// `-n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Until another rule stops.
    Unlimited,
    /// At most so many.
    AtMost(usize),
}

fn parse_count(text: &str) -> Result<Count, String> {
    match text {
        "-1" => Ok(Count::Unlimited),
        _ => text
            .parse()
            .map(Count::AtMost)
            .map_err(|_| "expected a number, or -1 for no limit".to_owned()),
    }
}

impl ContextArgs {
    /// Positions that may be used: the model's, or fewer; or more, where the model can tell any positions apart.
    ///
    /// # Errors
    /// A usage error if more are asked for than the model has.
    pub fn positions(&self, spec: &Spec) -> Result<usize> {
        let model = spec.context_length;
        match self.context {
            0 => Ok(model as usize),
            n if n > model && !spec.any_length() => Err(Error::usage(format_args!(
                "--context is {n}, but the model was made for {model}"
            ))),
            n => Ok(n as usize),
        }
    }
}

impl EndingArgs {
    /// Everything that is wrong without looking at the model.
    ///
    /// # Errors
    /// A usage error.
    pub fn check(&self) -> Result<()> {
        match self.stop.iter().any(String::is_empty) {
            true => Err(Error::usage("--stop is empty, expected some text")),
            false => Ok(()),
        }
    }

    /// Most tokens to generate, if there is a limit.
    pub fn max_new(&self) -> Option<usize> {
        match self.max_tokens {
            Count::Unlimited => None,
            Count::AtMost(n) => Some(n),
        }
    }
}

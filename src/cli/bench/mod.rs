//! `quern bench`: this machine's limits, and kernels and models measured against them.
//!
//! Every subcommand makes rows; [`output`] shows, compares and draws them, the same way for all.

pub mod batch;
pub mod kernels;
pub mod load;
pub mod machine;
pub mod model;
pub mod output;
pub mod reports;
pub mod shapes;

use crate::error::Result;
use quern_models::shapes::EXAMPLE;

/// Arguments of `quern bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "machine",
    "kernels --op matmul,attention --isa all",
    "model -m model.quern -p 512 -n 64",
    "model --shape NAME --quant q4 -d 0,4096 -b 1,8,32 --report page.html",
    "load -m model.quern",
]))]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,
}

/// What can be measured, and what can be done with figures.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// What this machine can do at most: read bandwidth by level and threads, arithmetic, clock
    #[command(visible_alias = "bw")]
    Machine(machine::Args),
    /// Speed of single operations, beside what the machine allows
    Kernels(kernels::Args),
    /// Speed of a model, or of the shape of one: prompts, decoding, depth, batches
    Model(Box<model::Args>),
    /// Speed of a batch of records, with more and more of them side by side
    Batch(Box<batch::Args>),
    /// How long a model takes to open and to its first token, and the memory it needs
    Load(load::Args),
    /// List the shapes of known models that can be measured without their weights
    Shapes(shapes::Args),
    /// Compare the figures of earlier runs
    Compare(reports::CompareArgs),
    /// Make a page of the figures of earlier runs
    Report(reports::PageArgs),
}

/// Runs the measurement.
///
/// # Errors
/// A figure that got worse (1), wrong arguments (2), a bad model or file of figures (3), input or output (4), not enough memory or context (5), a model
/// that changes (6).
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Machine(args) => machine::run(&args),
        What::Kernels(args) => kernels::run(&args),
        What::Model(args) => model::run(&args),
        What::Batch(args) => batch::run(&args),
        What::Load(args) => load::run(&args),
        What::Shapes(args) => shapes::run(&args),
        What::Compare(args) => reports::compare(&args),
        What::Report(args) => reports::page(&args),
    }
}

/// Examples for a help text; NAME stands for the shape of a known model.
fn examples(lines: &[&str]) -> String {
    let mut text = String::from("Examples:");
    for line in lines {
        text.push_str("\n  quern bench ");
        text.push_str(&line.replace("NAME", EXAMPLE));
    }
    text
}

/// Numbers of threads as they are asked for, or the usual number.
fn threads(asked: &[u16]) -> Vec<usize> {
    match asked.is_empty() {
        true => vec![crate::par::default_threads().threads],
        false => asked.iter().map(|n| usize::from(*n)).collect(),
    }
}

//! `quern score`: how probable each token of a text is, for an encoder-decoder given the source.

use super::ending::ContextArgs;
use super::load::{Ids, Loaded, ModelArgs};
use super::output::{self, Stdout};
use super::text::TextArgs;
use crate::error::{Error, Result};
use crate::generate::score::{Position, Summary, score};
use serde::Serialize;
use std::ffi::OsString;

/// Arguments of `quern score`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --json: one line per position, {\"pos\",\"id\",\"logprob\",\"top\",\"logits\"}, where logprob is that of this \
token given the ones before (null at the first; natural logarithm) and top and logits are about the next token; then \
{\"tokens\",\"nll\",\"perplexity\"}, the number of tokens with a logprob, the mean of -logprob, and e^nll.

Examples:
  quern score -m model.quern \"Once upon a time\"
  quern score -m model.quern --ids 1,403,407 --top 5 --logits last --kv f32 --json
  quern score -m translator.quern --encoder \"Good morning\" \"Guten Morgen\"
  quern score -m translator.quern --encoder-ids 37,1 --ids 0,584,1"
)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: TextArgs,
    /// What the encoder of an encoder-decoder reads; the text is then what its decoder writes
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "encoder_ids",
        allow_hyphen_values = true
    )]
    pub encoder: Option<OsString>,
    /// The same as exactly these token ids
    #[arg(long, value_name = "1,2,3")]
    pub encoder_ids: Option<Ids>,
    /// Score exactly these token ids (nothing is added in front, not even what a decoder begins with)
    #[arg(long, value_name = "1,2,3", conflicts_with_all = ["text", "prompt", "file"])]
    pub ids: Option<Ids>,
    /// Read special tokens in the text as such, and not as text
    #[arg(long)]
    pub parse_special: bool,
    /// Add the N most probable next tokens of every position
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top: usize,
    /// Add all logits (only with --json)
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Logits::None)]
    pub logits: Logits,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub context: ContextArgs,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// For which positions all logits are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Logits {
    /// For none.
    None,
    /// For the last.
    Last,
    /// For all.
    All,
}

#[derive(Serialize)]
struct JsonPosition<'a> {
    pos: usize,
    id: u32,
    logprob: Option<f64>,
    top: Vec<(u32, f64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct JsonSummary {
    tokens: usize,
    nll: Option<f64>,
    perplexity: Option<f64>,
}

/// Scores the text.
///
/// # Errors
/// Wrong arguments (2), a bad model or text (3), I/O (4), a text longer than the context (5), a model that changes (6).
pub fn run(args: Args) -> Result<()> {
    if args.logits != Logits::None && !args.json {
        return Err(Error::usage("--logits needs --json"));
    }
    let text = match &args.ids {
        Some(_) => None,
        None => Some(args.text.read()?),
    };
    let mut loaded = args.model.load()?;
    let context = args.context.positions(loaded.engine.model().spec())?;
    let source = args.source(&loaded)?;
    let ids = match (&args.ids, text) {
        (Some(Ids(ids)), _) => ids.clone(),
        (None, text) => {
            // A decoder begins with an id of its own.
            let mut ids: Vec<u32> = loaded.reader.decoder_start()?.into_iter().collect();
            ids.extend(
                loaded
                    .reader
                    .encode(&text.unwrap_or_default(), args.parse_special)?,
            );
            ids
        }
    };
    let mut out = output::stdout();
    let last = ids.len().saturating_sub(1);
    let tokenizer = loaded.reader.tokenizer.clone();
    let summary = score(
        &mut loaded.engine,
        source.as_deref(),
        &ids,
        context,
        args.model.kv.into(),
        args.model.chunk as usize,
        |position| {
            if args.json {
                json_position(&mut out, &args, position, last)
            } else {
                let piece = |id| {
                    let bytes = tokenizer.as_deref().and_then(|t| t.token_bytes(id));
                    let bytes = bytes.unwrap_or_default();
                    String::from_utf8_lossy(&bytes).escape_debug().to_string()
                };
                row(&mut out, &args, position, piece)
            }
        },
    )?;
    if args.json {
        return out.json(&JsonSummary {
            tokens: summary.tokens,
            nll: summary.nll,
            perplexity: summary.perplexity(),
        });
    }
    total(&mut out, summary)
}

impl Args {
    /// The ids that the encoder reads, if the model has one.
    fn source(&self, loaded: &Loaded) -> Result<Option<Vec<u32>>> {
        let given = self.encoder.is_some() || self.encoder_ids.is_some();
        match (loaded.engine.model().spec().encoder.is_some(), given) {
            (false, false) => return Ok(None),
            (true, false) => {
                return Err(Error::usage(
                    "this model has an encoder: say what it reads with --encoder TEXT or --encoder-ids 1,2,3",
                ));
            }
            (false, true) => {
                return Err(Error::usage(
                    "--encoder and --encoder-ids are for models with an encoder; this one has none",
                ));
            }
            (true, true) => {}
        }
        match (&self.encoder_ids, &self.encoder) {
            (Some(Ids(ids)), _) => Ok(Some(ids.clone())),
            (None, text) => {
                let text = text.clone().unwrap_or_default().into_string();
                let text = text.map_err(|_| Error::usage("--encoder is not UTF-8"))?;
                loaded.reader.encode(&text, self.parse_special).map(Some)
            }
        }
    }
}

/// Numbers are printed with as many digits as reading them back takes.
fn json_position(out: &mut Stdout, args: &Args, position: Position<'_>, last: usize) -> Result<()> {
    let all = match args.logits {
        Logits::None => false,
        Logits::Last => position.pos == last,
        Logits::All => true,
    };
    out.json(&JsonPosition {
        pos: position.pos,
        id: position.id,
        logprob: position.logprob,
        top: position.top(args.top),
        logits: all.then_some(position.logits),
    })
}

/// One line of the table for a person.
fn row(
    out: &mut Stdout,
    args: &Args,
    position: Position<'_>,
    piece: impl Fn(u32) -> String,
) -> Result<()> {
    let logprob = match position.logprob {
        Some(p) => format!("{p:10.4}"),
        None => format!("{:>10}", "-"),
    };
    let mut line = format!(
        "{:>6} {:>7} {logprob}  \"{}\"",
        position.pos,
        position.id,
        piece(position.id)
    );
    for (id, p) in position.top(args.top) {
        line.push_str(&format!("  {id} \"{}\" {p:.4}", piece(id)));
    }
    out.line(line)
}

fn total(out: &mut Stdout, summary: Summary) -> Result<()> {
    match (summary.nll, summary.perplexity()) {
        (Some(nll), Some(perplexity)) => out.line(format_args!(
            "{} tokens, mean negative log-likelihood {nll:.6}, perplexity {perplexity:.4}",
            summary.tokens
        )),
        _ => out.line("1 token: nothing before it, so nothing to score"),
    }
}

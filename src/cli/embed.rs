//! `quern embed`: texts as vectors.

use super::load::{Ids, Loaded, ModelArgs};
use super::output::{self, Stdout};
use super::text::{TextArgs, stdin_is_piped};
use crate::error::{Error, ErrorKind, Result};
use crate::generate::embed::{Embedded, Options, embed};
use quern_models::spec;
use serde::Serialize;
use serde_json::Value as Json;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Longest line of a file of texts.
const MAX_LINE: usize = 64 << 20;

/// Arguments of `quern embed`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --json: the values of one vector on a line, separated by spaces. With --json: {\"tokens\",\"embedding\"}, and \
\"pooler\" where the model has one; with --pooling none {\"tokens\",\"hidden\"} with a vector per token.

-f FILE reads JSON lines, each a string, {\"text\": ...} or {\"ids\": [...]} with an optional \"id\", and writes a JSON line for \
each: {\"id\",\"tokens\",\"embedding\"}, or {\"id\",\"error\"} (the exit code is then 1).

Keys and values are always f32 here.

Examples:
  quern embed -m model.quern --normalize \"Once upon a time\"
  quern embed -m model.quern -f texts.jsonl --pooling mean"
)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// The text (also through a pipe)
    #[arg(value_name = "TEXT")]
    pub text: Option<OsString>,
    /// Read texts from a file of JSON lines (- is standard input)
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["text", "ids"])]
    pub file: Option<PathBuf>,
    /// Embed exactly these token ids (nothing is added around them)
    #[arg(long, value_name = "1,2,3", conflicts_with = "text")]
    pub ids: Option<Ids>,
    /// Which hidden vectors count: as the model says, all of them one by one, their mean, the first, the last
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Pooling::Auto)]
    pub pooling: Pooling,
    /// Divide each vector by its Euclidean length
    #[arg(long)]
    pub normalize: bool,
    /// Read special tokens in a text as such, and not as text
    #[arg(long)]
    pub parse_special: bool,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `--pooling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pooling {
    /// As the model says.
    Auto,
    /// The hidden vectors themselves.
    None,
    /// Their mean.
    Mean,
    /// The first.
    Cls,
    /// The last.
    Last,
}

impl Pooling {
    /// Which hidden vectors count; none: as the model says.
    pub fn spec(self) -> Option<spec::Pooling> {
        match self {
            Pooling::Auto | Pooling::None => None,
            Pooling::Mean => Some(spec::Pooling::Mean),
            Pooling::Cls => Some(spec::Pooling::Cls),
            Pooling::Last => Some(spec::Pooling::Last),
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Json>,
    tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden: Option<Vec<&'a [f32]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pooler: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct Failure {
    id: Json,
    error: String,
}

/// Embeds the texts.
///
/// # Errors
/// Wrong arguments (2), a bad model or text (3), I/O (4), a text longer than the context (5), a model that changes (6); lines of a file
/// that failed (1).
pub fn run(args: Args) -> Result<()> {
    if args.normalize && args.pooling == Pooling::None {
        return Err(Error::usage(
            "--normalize needs a pooling, but --pooling is none",
        ));
    }
    let text = match (&args.ids, &args.file) {
        (None, None) => Some(args.one_text()?),
        _ => None,
    };
    let mut loaded = args.model.load()?;
    let mut out = output::stdout();
    if let Some(path) = &args.file {
        return lines(&args, &mut loaded, path, &mut out);
    }
    let ids = match (&args.ids, text) {
        (Some(Ids(ids)), _) => ids.clone(),
        (None, text) => loaded
            .reader
            .encode(&text.unwrap_or_default(), args.parse_special)?,
    };
    let embedded = args.embed(&mut loaded, &ids)?;
    if args.json {
        return out.json(&args.line(None, ids.len(), &embedded));
    }
    let vectors = match args.pooling {
        Pooling::None => embedded.hidden.chunks(embedded.width).collect(),
        _ => vec![&embedded.embedding[..]],
    };
    for vector in vectors {
        let words: Vec<String> = vector.iter().map(f32::to_string).collect();
        out.line(words.join(" "))?;
    }
    Ok(())
}

impl Args {
    fn one_text(&self) -> Result<String> {
        let text = TextArgs {
            text: self.text.clone(),
            prompt: None,
            file: None,
        };
        if self.text.is_none() && !stdin_is_piped() {
            return Err(Error::usage(
                "no text: give one as an argument, with -f FILE, --ids or through a pipe",
            ));
        }
        text.read()
    }

    fn embed(&self, loaded: &mut Loaded, ids: &[u32]) -> Result<Embedded> {
        let options = Options {
            pooling: self.pooling.spec(),
            normalize: self.normalize,
            context: loaded.engine.model().spec().context_length as usize,
            chunk: self.model.chunk as usize,
        };
        embed(&mut loaded.engine, ids, &options)
    }

    fn line<'a>(&self, id: Option<&'a Json>, tokens: usize, e: &'a Embedded) -> Line<'a> {
        let all = self.pooling == Pooling::None;
        Line {
            id,
            tokens,
            embedding: (!all).then_some(&e.embedding[..]),
            hidden: all.then(|| e.hidden.chunks(e.width).collect()),
            pooler: e.pooler.as_deref(),
        }
    }
}

/// Every line of a file; those that fail are reported in their place.
fn lines(args: &Args, loaded: &mut Loaded, path: &Path, out: &mut Stdout) -> Result<()> {
    let input: Box<dyn std::io::Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(|e| Error::io("open", path, &e))?)
    };
    let mut input = BufReader::new(input);
    let (mut number, mut failed) = (0_usize, 0_usize);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut input, MAX_LINE as u64);
        let n = limited
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io("read", path, &e))?;
        if n == 0 {
            break;
        }
        number += 1;
        if n == MAX_LINE {
            return Err(Error::limit(format_args!(
                "{path:?}: line {number} is longer than {MAX_LINE} bytes"
            )));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record = serde_json::from_slice::<Json>(&line)
            .map_err(|e| Error::invalid(format_args!("not JSON: {e}")));
        let id = record.as_ref().ok().and_then(|r| r.get("id").cloned());
        let result = record.and_then(|record| {
            let ids = ids_of(args, loaded, &record)?;
            let embedded = args.embed(loaded, &ids)?;
            Ok((ids.len(), embedded))
        });
        match result {
            Ok((tokens, embedded)) => out.json(&args.line(id.as_ref(), tokens, &embedded))?,
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Changed) => return Err(e),
            Err(e) => {
                failed += 1;
                out.json(&Failure {
                    id: id.unwrap_or(Json::Null),
                    error: format!("line {number}: {e}"),
                })?;
            }
        }
    }
    if failed > 0 {
        return Err(Error::new(
            ErrorKind::Partial,
            format_args!("{path:?}: {failed} of {number} lines failed"),
        ));
    }
    Ok(())
}

/// The ids of a line's text, or the ids that it gives.
fn ids_of(args: &Args, loaded: &Loaded, record: &Json) -> Result<Vec<u32>> {
    let text = record.as_str().or(record["text"].as_str());
    match (text, &record["ids"]) {
        (Some(text), Json::Null) => loaded.reader.encode(text, args.parse_special),
        (None, Json::Array(list)) => {
            let id = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
            let ids: Option<Vec<u32>> = list.iter().map(id).collect();
            ids.ok_or_else(|| Error::invalid("ids: expected a list of token ids"))
        }
        _ => Err(Error::invalid(
            "expected a JSON string, or an object with either text or ids",
        )),
    }
}

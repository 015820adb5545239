//! `quern tokenize`: text to tokens and back, with the tokenizer of a model or of a file.

use super::load;
use super::output::{self, Stdout};
use crate::convert;
use crate::error::{Error, Result};
use crate::file::ModelFile;
use crate::tokenizer::{Bytes, DecodeOptions, EncodeOptions, Tokenizer};
use quern_models::pocket;
use serde_json::json;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longest input file or line: what a 4 GiB text limit leaves room for on a small machine.
const MAX_INPUT: u64 = 1 << 30;

/// Arguments of `quern tokenize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  quern tokenize -m model.quern 'Hello world'          one token per line: id and piece
  quern tokenize --tokenizer tokenizer.json --ids -f a.txt   ids on one line
  quern tokenize -m model.quern --decode 1 15043 3186  ids back to text
  echo 'piped text' | quern tokenize -m model.quern --json
  quern tokenize --tokenizer vocab.gguf --jsonl --parse-special < texts.jsonl

With --jsonl every input line is {\"text\": ..., \"add_special\": ...} or, with --decode, {\"ids\": [...]}; every output line is
{\"ids\": [...], \"decoded\": ...}. add_special is true where a line leaves it out, unless --no-special is given.")]
pub struct Args {
    /// Model whose tokenizer to use: a .quern file, a .gguf, or a Hugging Face folder (default: pocket, the built-in model)
    #[arg(short, long, value_name = "FILE", conflicts_with = "tokenizer")]
    pub model: Option<PathBuf>,
    /// Tokenizer: tokenizer.json or a folder with one, SentencePiece .model, tiktoken ranks with their .json beside them, .gguf, tok.bin
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Print only the ids, separated by spaces, on one line
    #[arg(long, conflicts_with_all = ["json", "jsonl", "decode"])]
    pub ids: bool,
    /// Print one JSON object: ids, pieces, decoded text and the tokenizer
    #[arg(long, conflicts_with = "jsonl")]
    pub json: bool,
    /// Read JSON lines and write JSON lines
    #[arg(long)]
    pub jsonl: bool,
    /// Text that looks like a special token becomes that token
    #[arg(long)]
    pub parse_special: bool,
    /// Do not add the special tokens of the model (beginning of sequence and the like)
    #[arg(long)]
    pub no_special: bool,
    /// Turn ids, separated by spaces or commas, into text
    #[arg(short, long)]
    pub decode: bool,
    /// The text, or with --decode the ids; standard input if there is neither this nor -f
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    pub text: Vec<OsString>,
    /// Read the text, the ids or the JSON lines from this file, every byte of it (- is standard input)
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Runs `quern tokenize`.
///
/// # Errors
/// Usage (2), an invalid tokenizer, id or line (3), I/O (4), a split pattern that gives up (5).
pub fn run(args: Args) -> Result<()> {
    let tokenizer = match (&args.tokenizer, &args.model) {
        (Some(path), _) => foreign(path)?,
        (None, Some(path)) if path.as_os_str() != pocket::NAME => of_model(path)?,
        (None, _) => of_file(&load::open_own(None, true)?)?,
    };
    let mut out = output::stdout();
    if args.jsonl {
        lines(&args, &tokenizer, &mut out)?;
        return out.finish();
    }
    let input = input(&args)?;
    if args.decode {
        let ids = parse_ids(&input)?;
        let text = tokenizer.decode(&ids, DecodeOptions::default())?;
        if args.json {
            out.json(&report(&tokenizer, &ids, &text))?;
        } else {
            out.line(text)?;
        }
        return out.finish();
    }
    let ids = tokenizer.encode(
        &input,
        EncodeOptions {
            add_special: !args.no_special,
            parse_special: args.parse_special,
        },
    )?;
    if args.json {
        let text = tokenizer.decode(&ids, DecodeOptions::default())?;
        out.json(&report(&tokenizer, &ids, &text))?;
    } else if args.ids {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        out.line(list.join(" "))?;
    } else {
        let width = ids.iter().max().map_or(1, |id| id.to_string().len());
        for id in ids {
            // Quoted: a piece may hold anything, line ends and terminal controls included.
            let piece = tokenizer.piece(id).unwrap_or_default();
            out.line(format_args!("{id:>width$}  {piece:?}"))?;
        }
    }
    out.finish()
}

/// The tokenizer in a foreign file or folder.
pub(super) fn foreign(path: &Path) -> Result<Tokenizer> {
    let definition = convert::tokenizer::load(path)?;
    definition
        .to_prepared()
        .and_then(|bytes| Tokenizer::from_prepared(Bytes::from(bytes)))
        .map_err(|e| e.at(format_args!("{path:?}")))
}

/// The tokenizer of a model: of a weight file in place, of anything else as its importer reads it.
fn of_model(path: &Path) -> Result<Tokenizer> {
    let mut magic = [0u8; 8];
    let is_file = std::fs::metadata(path)
        .map_err(|e| Error::io("open", path, &e))?
        .is_file();
    let ours = is_file
        && std::fs::File::open(path)
            .map_err(|e| Error::io("open", path, &e))?
            .read_exact(&mut magic)
            .is_ok()
        && magic == crate::file::header::MAGIC;
    if !ours {
        return foreign(path);
    }
    of_file(&load::open_own(Some(path), true)?)
}

/// The tokenizer of a weight file, in place.
fn of_file(file: &ModelFile) -> Result<Tokenizer> {
    let path = file.path();
    let bytes = file
        .tokenizer()?
        .ok_or_else(|| Error::invalid(format_args!("{path:?}: the model has no tokenizer")))?;
    Tokenizer::from_prepared(bytes).map_err(|e| e.at(format_args!("{path:?}")))
}

fn report(tokenizer: &Tokenizer, ids: &[u32], text: &str) -> serde_json::Value {
    let pieces: Vec<String> = ids
        .iter()
        .map(|&id| tokenizer.piece(id).unwrap_or_default())
        .collect();
    json!({
        "ids": ids,
        "pieces": pieces,
        "decoded": text,
        "tokenizer": {
            "kind": tokenizer.kind(),
            "source": tokenizer.pipeline().source,
            "vocab_size": tokenizer.vocab_size(),
            "bos": tokenizer.bos(),
            "eos": tokenizer.eos(),
        },
    })
}

/// All of the input: the arguments joined by spaces, a file, or standard input.
fn input(args: &Args) -> Result<String> {
    if !args.text.is_empty() {
        let parts: Option<Vec<&str>> = args.text.iter().map(|t| t.to_str()).collect();
        return parts
            .map(|p| p.join(" "))
            .ok_or_else(|| Error::usage("the text is not UTF-8"));
    }
    let (name, reader) = source(args)?;
    let mut bytes = Vec::new();
    let read = reader.take(MAX_INPUT + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read", &name, &e))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Error::limit(format_args!(
            "{name:?} is longer than {MAX_INPUT} bytes"
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        Error::invalid(format_args!(
            "{name:?}: byte {}: not UTF-8",
            e.utf8_error().valid_up_to()
        ))
    })
}

/// The file or standard input, and its name.
fn source(args: &Args) -> Result<(PathBuf, Box<dyn Read>)> {
    match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, &e))?;
            Ok((path.clone(), Box::new(file)))
        }
        _ => Ok((PathBuf::from("standard input"), Box::new(std::io::stdin()))),
    }
}

fn parse_ids(text: &str) -> Result<Vec<u32>> {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']'))
        .filter(|s| !s.is_empty())
        .map(|s| {
            s.parse()
                .map_err(|_| Error::usage(format_args!("{s:?} is not a token id")))
        })
        .collect()
}

fn lines(args: &Args, tokenizer: &Tokenizer, out: &mut Stdout) -> Result<()> {
    if !args.text.is_empty() {
        return Err(Error::usage(
            "--jsonl reads its lines from -f FILE or standard input, not from an argument",
        ));
    }
    let (name, reader) = source(args)?;
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = reader.by_ref().take(MAX_INPUT).read_until(b'\n', &mut line);
        if read.map_err(|e| Error::io("read", &name, &e))? == 0 {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        one_line(args, tokenizer, text)
            .and_then(|v| out.json(&v))
            .map_err(|e| e.at(format_args!("{name:?}: line {number}")))?;
    }
    Ok(())
}

fn one_line(args: &Args, tokenizer: &Tokenizer, line: &[u8]) -> Result<serde_json::Value> {
    let value: serde_json::Value = serde_json::from_slice(line).map_err(Error::invalid)?;
    let ids = if args.decode {
        value
            .get("ids")
            .and_then(serde_json::Value::as_array)
            .and_then(|a| {
                a.iter()
                    .map(|v| v.as_u64().and_then(|v| u32::try_from(v).ok()))
                    .collect::<Option<Vec<u32>>>()
            })
            .ok_or_else(|| Error::invalid("\"ids\" is not an array of token ids"))?
    } else {
        let text = value
            .get("text")
            .and_then(serde_json::Value::as_str)
            .ok_or_else(|| Error::invalid("\"text\" is not a string"))?;
        let add = match value.get("add_special") {
            None => true,
            Some(v) => v
                .as_bool()
                .ok_or_else(|| Error::invalid("\"add_special\" is not true or false"))?,
        };
        tokenizer.encode(
            text,
            EncodeOptions {
                add_special: add && !args.no_special,
                parse_special: args.parse_special,
            },
        )?
    };
    let decoded = tokenizer.decode(&ids, DecodeOptions::default())?;
    Ok(json!({"ids": ids, "decoded": decoded}))
}

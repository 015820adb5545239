//! `quern template`: what a chat template makes of a conversation.

use super::load;
use super::messages::{self, TemplateArgs};
use super::output;
use super::tokenize;
use crate::error::{Error, Result};
use crate::file::Meta;
use crate::tokenizer::Tokenizer;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `quern template`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  quern template -m model.quern --messages chat.json              the text, and its tokens one per line
  quern template -m model.quern --messages chat.json --json       the same for programs
  quern template --template chat_template.jinja --bos '<s>' --messages chat.json    the text alone, byte for byte
  echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | quern template -m model.quern --messages - --ids
  quern template -m model.quern --messages chat.json --template-arg enable_thinking=false --now 2026-01-15

A file of messages is {\"messages\": [{\"role\": ..., \"content\": ...}, ...], \"tools\": [...]} or the bare list. A template that refuses the
conversation ends with exit code 3 and its message, one that does too much with 5.")]
pub struct Args {
    /// Model whose template and tokenizer to use: a .quern file, a .gguf, or a Hugging Face folder (without --template and --tokenizer, the
    /// default is pocket, the built-in model)
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Tokenizer to show the ids of, as for quern tokenize
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub tokenizer: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: TemplateArgs,
    /// The messages, as JSON (- is standard input)
    #[arg(long, value_name = "FILE")]
    pub messages: PathBuf,
    /// Text of bos_token (default: the model's)
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub bos: Option<String>,
    /// Text of eos_token (default: the model's)
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub eos: Option<String>,
    /// End after the last message, and not where an answer would begin
    #[arg(long)]
    pub no_generation_prompt: bool,
    /// Read special tokens in the messages as such, and not as text
    #[arg(long)]
    pub parse_special: bool,
    /// Print the text alone, byte for byte (as without a model)
    #[arg(long, conflicts_with_all = ["ids", "json"])]
    pub text: bool,
    /// Print only the ids, separated by spaces, on one line
    #[arg(long, conflicts_with = "json")]
    pub ids: bool,
    /// Print one JSON object: the text, which bytes of it came from the messages, and with a tokenizer ids, pieces and which are control tokens
    #[arg(long)]
    pub json: bool,
}

/// Runs `quern template`.
///
/// # Errors
/// Usage (2); an invalid template, model or conversation, and what a template raises (3); I/O (4); a limit of the template (5).
pub fn run(args: Args) -> Result<()> {
    let mut meta = Meta::new();
    let mut tokenizer = None;
    let mut place = None;
    let nothing_given = args.tokenizer.is_none() && args.template.template.is_none();
    if args.model.is_some() || nothing_given {
        let file = load::open(args.model.as_deref(), true)?;
        let path = file.path().to_path_buf();
        meta = file.meta().clone();
        if let Some(bytes) = file.tokenizer()? {
            let opened = Tokenizer::from_prepared(bytes);
            tokenizer = Some(opened.map_err(|e| e.at(format_args!("{path:?}")))?);
        }
        place = Some(path);
    } else if let Some(path) = &args.tokenizer {
        tokenizer = Some(tokenize::foreign(path)?);
    }
    let mut special = messages::special_tokens(&meta, tokenizer.as_ref());
    for (name, given) in [("bos_token", &args.bos), ("eos_token", &args.eos)] {
        if let Some(text) = given {
            special.0.retain(|(n, _)| n != name);
            special.0.push((name.to_owned(), text.clone()));
        }
    }
    let at_model = |e: Error| match (&place, &args.template.template) {
        (Some(path), None) => e.at(format_args!("{path:?}")),
        _ => e,
    };
    let template = args.template.load(&meta, &special).map_err(at_model)?;
    let template = template.ok_or_else(|| match &place {
        Some(path) => Error::invalid(format_args!(
            "{path:?} has no chat template: give one with --template FILE"
        )),
        None => Error::usage("no chat template: give one with --template FILE or -m FILE"),
    })?;
    let conversation = messages::read_conversation(&args.messages)?;
    let mut options = args.template.options();
    options.add_generation_prompt = !args.no_generation_prompt;
    let rendered = template.render(&conversation, &options)?;
    let ids = match &tokenizer {
        Some(tokenizer) if !args.text => Some(rendered.encode(tokenizer, args.parse_special)?),
        _ => None,
    };
    let mut out = output::stdout();
    let (Some(ids), Some(tokenizer)) = (ids, &tokenizer) else {
        if args.ids {
            return Err(Error::usage(
                "there is no tokenizer: give one with -m or --tokenizer",
            ));
        }
        match args.json {
            true => out.json(&json!({"text": rendered.text(), "input": rendered.input()}))?,
            false => out.put(rendered.text().as_bytes())?,
        }
        return out.finish();
    };
    let piece = |&id: &u32| tokenizer.piece(id).unwrap_or_default();
    let control = |&id: &u32| tokenizer.is_control(id);
    if args.json {
        out.json(&json!({
            "text": rendered.text(),
            "input": rendered.input(),
            "ids": ids,
            "pieces": ids.iter().map(piece).collect::<Vec<_>>(),
            "control": ids.iter().map(control).collect::<Vec<_>>(),
        }))?;
    } else if args.ids {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        out.line(list.join(" "))?;
    } else {
        let text = match output::Stream::Stdout.is_terminal() {
            true => output::visible(rendered.text()),
            false => rendered.text().to_owned(),
        };
        out.put(text.as_bytes())?;
        out.put(b"\n\n")?;
        let width = ids.iter().max().map_or(1, |id| id.to_string().len());
        for id in &ids {
            let kind = if control(id) { "control" } else { "" };
            out.line(format_args!("{id:>width$}  {kind:7}  {:?}", piece(id)))?;
        }
    }
    out.finish()
}

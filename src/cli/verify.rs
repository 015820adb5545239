//! `quern verify`: every byte of a weight file, checked.

use super::load;
use super::messages;
use super::output;
use crate::convert::chat::SAMPLE_TIME;
use crate::error::{Error, Result};
use crate::file::meta::key;
use crate::file::verify::verify;
use crate::file::{Golden, ModelFile};
use crate::template::{Conversation, DateTime, Options, SpecialTokens};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;

/// Below this many bytes checking takes less time than a person needs to read a progress bar.
const PROGRESS_FROM: u64 = 256 << 20;

/// Arguments of `quern verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Checks the structure, the checksum of every tensor, that all weights and scales are finite, that padding is zero, \
and that the tokenizer and the chat template still give the ids and texts recorded at import.\n\nExamples:\n  quern verify\n  quern verify model.quern\n  quern verify model.quern --json\n\n\
Exit code 3 names the first tensor and element that is wrong."
)]
pub struct Args {
    /// The weight file to check (default: pocket, the built-in model)
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Read the file into memory instead of mapping it
    #[arg(long)]
    pub no_mmap: bool,
}

/// Checks a file.
///
/// # Errors
/// Invalid (3) with the place of the first fault; io (4); changed (6) if the file changed meanwhile.
pub fn run(args: Args) -> Result<()> {
    let file = load::open_own(args.file.as_deref(), !args.no_mmap)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let bar = progress(file.header().data.length);
    let result = verify(&file, threads, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    result?;
    let place = |e: Error| e.at(format_args!("{:?}", file.path()));
    let samples = replay(&file).map_err(place)?;
    let conversations = replay_template(&file).map_err(place)?;
    let tensors = file.entries().len();
    let mut out = output::stdout();
    if args.json {
        return out.json(&json!({
            "ok": true,
            "path": file.path().to_string_lossy(),
            "id": file.id_hex(),
            "bytes": file.len(),
            "tensors": tensors,
            "tokenizer_samples": samples,
            "template_samples": conversations,
        }));
    }
    out.line(format_args!(
        "{:?}: ok: {tensors} tensors, {} bytes, {samples} tokenizer samples, {conversations} chat template samples, id {}",
        file.path(),
        file.len(),
        file.id_hex(),
    ))
}

/// Opens the tokenizer and encodes the texts recorded at import again; returns how many there are.
fn replay(file: &ModelFile) -> Result<usize> {
    let samples = file.meta().golden()?;
    let Some(prepared) = file.tokenizer()? else {
        if samples.is_empty() {
            return Ok(0);
        }
        return Err(Error::invalid(format_args!(
            "{} tokenizer samples are recorded, but there is no tokenizer",
            samples.len()
        )));
    };
    let tokenizer = Tokenizer::from_prepared(prepared).map_err(|e| e.at("tokenizer"))?;
    let options = EncodeOptions {
        add_special: file.meta().bool(key::GOLDEN_SPECIAL).unwrap_or(false),
        parse_special: false,
    };
    for (i, Golden { text, ids }) in samples.iter().enumerate() {
        let place = || {
            format!(
                "tokenizer sample {i} {:?}",
                text.chars().take(40).collect::<String>()
            )
        };
        let found = tokenizer.encode(text, options).map_err(|e| e.at(place()))?;
        if found != *ids {
            let same = found.iter().zip(ids).take_while(|(a, b)| a == b).count();
            let shown = |ids: &[u32]| ids.get(same).map_or("nothing".to_string(), u32::to_string);
            return Err(Error::invalid(format_args!(
                "{}: id {same} is {}, expected {} as recorded at import",
                place(),
                shown(&found),
                shown(ids)
            )));
        }
    }
    Ok(samples.len())
}

/// Renders the conversations recorded at import again; returns how many there are.
fn replay_template(file: &ModelFile) -> Result<usize> {
    let samples = file.meta().template_samples()?;
    if samples.is_empty() {
        return Ok(0);
    }
    let special = SpecialTokens(pairs(file.meta().strings(key::CHAT_TEMPLATE_SPECIAL)));
    let template = messages::template_of(file.meta(), &special)?;
    let template = template.ok_or_else(|| {
        Error::invalid(format_args!(
            "{} chat template samples are recorded, but there is no chat template",
            samples.len()
        ))
    })?;
    let tokenizer = file
        .tokenizer()?
        .map(Tokenizer::from_prepared)
        .transpose()?;
    let now = DateTime::parse(SAMPLE_TIME).ok_or_else(|| Error::invalid(SAMPLE_TIME))?;
    for (i, sample) in samples.iter().enumerate() {
        let place = |e: Error| e.at(format_args!("chat template sample {i}"));
        let conversation =
            Conversation::from_json(sample.conversation.as_bytes()).map_err(place)?;
        let rendered = template.render(&conversation, &Options::new(now));
        let rendered = rendered.map_err(place)?;
        if rendered.text() != sample.text {
            let same = rendered.text().chars().zip(sample.text.chars());
            let same = same.take_while(|(a, b)| a == b).count();
            let rest = |text: &str| text.chars().skip(same).take(40).collect::<String>();
            return Err(place(Error::invalid(format_args!(
                "the text goes on with {:?} at character {same}, expected {:?} as recorded at import",
                rest(rendered.text()),
                rest(&sample.text)
            ))));
        }
        let ids = match &tokenizer {
            Some(tokenizer) => rendered.encode(tokenizer, false).map_err(place)?,
            None => Vec::new(),
        };
        if ids != sample.ids {
            return Err(place(Error::invalid(format_args!(
                "the text has {} ids that are not the {} recorded at import",
                ids.len(),
                sample.ids.len()
            ))));
        }
    }
    Ok(samples.len())
}

fn pairs(list: &[String]) -> Vec<(String, String)> {
    let pairs = list.chunks_exact(2);
    pairs.map(|p| (p[0].clone(), p[1].clone())).collect()
}

/// A progress bar on stderr for a large file, if that is a terminal.
fn progress(bytes: u64) -> ProgressBar {
    if bytes < PROGRESS_FROM || !output::Stream::Stderr.is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    if let Ok(style) =
        ProgressStyle::with_template("verify {bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar
}

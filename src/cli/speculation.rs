//! Guessing ahead: its arguments, and from them who guesses.

use super::load::{Loaded, ModelArgs};
use crate::error::{Error, Result};
use crate::generate::pace::MOST_GUESSES;
use crate::generate::{DraftModel, Limits, Pace, Request, Speculation};
use crate::tokenizer::Tokenizer;
use std::path::PathBuf;

/// Who guesses the tokens that come next, for several to be checked in one pass. The text stays the same.
#[derive(Debug, clap::Args)]
pub struct SpeculationArgs {
    /// Guess the next tokens from what the text said before, and check several in one pass; the text stays the same to the last bit
    #[arg(long)]
    pub lookup: bool,
    /// Let a smaller model with the same tokenizer guess the next tokens; the text stays the same to the last bit
    #[arg(long, visible_alias = "model-draft", value_name = "FILE")]
    pub draft: Option<PathBuf>,
    /// Most guesses of one pass; how many there are is measured
    #[arg(long, visible_alias = "draft-n", value_name = "N", default_value_t = Limits::default().most as u32,
          value_parser = clap::value_parser!(u32).range(1..=MOST_GUESSES as i64))]
    pub draft_max: u32,
    /// Fewer guesses of --draft than this are not worth a pass
    #[arg(long, visible_alias = "draft-n-min", value_name = "N", default_value_t = Limits::default().least as u32)]
    pub draft_min: u32,
    /// --draft guesses on while its guess has at least this probability
    #[arg(long, value_name = "P", default_value_t = Limits::default().sure)]
    pub draft_p_min: f32,
}

impl SpeculationArgs {
    /// Whether anybody guesses.
    pub fn asked(&self) -> bool {
        self.lookup || self.draft.is_some()
    }

    /// Everything that is wrong without looking at a model.
    ///
    /// # Errors
    /// A usage error.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.draft_p_min) {
            return Err(Error::usage(format_args!(
                "--draft-p-min is {}, expected 0 to 1",
                self.draft_p_min
            )));
        }
        if self.draft_min > self.draft_max {
            return Err(Error::usage(format_args!(
                "--draft-min is {}, expected at most --draft-max, which is {}",
                self.draft_min, self.draft_max
            )));
        }
        Ok(())
    }

    /// Who guesses for this request, if anybody was asked to.
    ///
    /// # Errors
    /// A model of --draft that cannot be loaded, or that has other tokens than the model that it is to guess for (usage).
    pub fn build(
        &self,
        model: &ModelArgs,
        loaded: &Loaded,
        request: &Request,
    ) -> Result<Option<Speculation>> {
        if !self.asked() {
            return Ok(None);
        }
        let limits = Limits {
            most: self.draft_max as usize,
            least: self.draft_min as usize,
            sure: self.draft_p_min,
        };
        let draft = match &self.draft {
            None => None,
            Some(path) => {
                let at = |e: Error| e.at(format_args!("--draft {path:?}"));
                let own = ModelArgs {
                    model: Some(path.clone()),
                    ..model.clone()
                };
                let guesser = own.load()?;
                same_tokens(loaded, &guesser).map_err(at)?;
                let spec = guesser.engine.model().spec();
                let context = match spec.any_length() {
                    true => request.context,
                    false => request.context.min(spec.context_length as usize),
                };
                let vocab = loaded.engine.model().spec().vocab_size;
                let (source, kv) = (request.source.clone(), request.kv);
                let engine = guesser.engine;
                let draft =
                    DraftModel::new(engine, source, vocab, context, kv, request.chunk, limits);
                Some(draft.map_err(at)?)
            }
        };
        let pace = Pace::measured();
        Ok(Some(Speculation::new(pace, limits, self.lookup, draft)))
    }
}

/// Checks that both models mean the same by an id.
fn same_tokens(a: &Loaded, b: &Loaded) -> Result<()> {
    let (first, second) = match (&a.reader.tokenizer, &b.reader.tokenizer) {
        (Some(a), Some(b)) => (a, b),
        (None, None) => {
            let [a, b] = [a, b].map(|l| l.engine.model().spec().vocab_size);
            if a == b {
                return Ok(());
            }
            return Err(Error::usage(format_args!(
                "it has {b} token ids, expected the {a} of the model that it is to guess for"
            )));
        }
        _ => {
            return Err(Error::usage(
                "one of the two models has a tokenizer and the other has none",
            ));
        }
    };
    // Files of one family have equal bytes, and a large vocabulary need not be looked through.
    let [a, b] = [a, b].map(|l| l.engine.model().file().tokenizer());
    if let (Some(a), Some(b)) = (a?, b?)
        && a[..] == b[..]
    {
        return Ok(());
    }
    compare(first, second)
}

/// The first id that the two tokenizers do not agree on is an error.
fn compare(first: &Tokenizer, second: &Tokenizer) -> Result<()> {
    for id in 0..first.vocab_size().max(second.vocab_size()) as u32 {
        let (a, b) = (first.piece(id), second.piece(id));
        if a != b {
            let shown = |piece: Option<String>| match piece {
                Some(piece) => format!("{piece:?}"),
                None => "no token".to_owned(),
            };
            return Err(Error::usage(format_args!(
                "token {id} is {}, expected {}: it can guess only for a model with the same tokenizer",
                shown(b),
                shown(a)
            )));
        }
    }
    Ok(())
}

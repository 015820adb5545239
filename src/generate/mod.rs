//! From a prompt to text: what is asked for, who takes part, what comes of it. The loop itself is [`decode`], what outlives it [`Session`].

pub mod course;
pub mod decode;
pub mod draft;
pub mod embed;
pub mod lookup;
pub mod pace;
pub mod score;
pub mod session;
pub mod stops;
pub mod stored;
pub mod structure;

pub use course::{Course, Parts};
pub use decode::Generation;
pub use draft::{DraftModel, Limits, Speculation};
pub use pace::Pace;
pub use session::Session;

use crate::cache::Sequence;
use crate::error::{Error, Result};
use crate::model::{Engine, Source};
use crate::sample::Params;
use quern_kernels::KvType;
use std::time::Duration;

/// Tokens of a prompt that go through the model in one pass unless the caller says otherwise: enough that weights are read rarely
/// compared with the arithmetic on them, and few enough that the workspace stays small.
pub const DEFAULT_CHUNK: usize = 512;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Ids that the encoder reads, if the model has one.
    pub source: Option<Vec<u32>>,
    /// Ids that the text continues; at least one.
    pub prompt: Vec<u32>,
    /// Most ids to generate; none: until another rule stops.
    pub max_new: Option<usize>,
    /// Most positions, prompt and text together; of a source as many.
    pub context: usize,
    /// Texts that end the generation; they are not part of the text.
    pub stop: Vec<String>,
    /// Ids that end the generation.
    pub end_ids: Vec<u32>,
    /// Element type of the cache.
    pub kv: KvType,
    /// Prompt tokens per pass.
    pub chunk: usize,
    /// How ids are chosen.
    pub sampling: Params,
    /// Whether to hash all logits that were sampled from.
    pub fingerprint: bool,
}

/// Why the generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end id or a stop string.
    Stop,
    /// As many ids as were asked for.
    Length,
    /// The context is full.
    Context,
    /// [`Watch::stop_asked`].
    Interrupted,
}

impl Finish {
    /// The name in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Interrupted => "interrupted",
        }
    }
}

/// From ids to text, piece by piece; a piece is never part of a character.
pub trait Decode {
    /// Appends the text that this id completes; may be none.
    ///
    /// # Errors
    /// Ends the generation.
    fn push(&mut self, id: u32, out: &mut String) -> Result<()>;
    /// Appends what is left at the end; called once.
    ///
    /// # Errors
    /// As for [`Decode::push`].
    fn finish(&mut self, out: &mut String) -> Result<()>;
}

/// Who follows the generation.
pub trait Watch {
    /// So many tokens of the prompt have gone through the model; called after every pass but the prompt's last.
    fn prompt_progress(&mut self, _done: usize, _all: usize) {}
    /// The prompt has gone through the model: from now on there may be text to save when a stop is asked for.
    fn prompt_done(&mut self) {}
    /// This id comes next, drawn from these logits, or forced by a constraint. Called before its text.
    fn chosen(&mut self, _id: u32, _logits: Option<&[f32]>) {}
    /// The next piece of text, after every token (it may be empty).
    ///
    /// # Errors
    /// Ends the generation with this error.
    fn text(&mut self, piece: &str) -> Result<()>;
    /// Whether [`Watch::prompt_held`] is wanted. The prompt's last id then goes through the model in a pass of its own.
    fn keeps_prompt(&self) -> bool {
        false
    }
    /// All of the prompt but its last id has gone through the model, and nothing else is in the session.
    ///
    /// # Errors
    /// Ends the generation.
    fn prompt_held(&mut self, session: &Session) -> Result<()> {
        let _ = session;
        Ok(())
    }
    /// Whether to stop now; asked between passes.
    fn stop_asked(&mut self) -> bool {
        false
    }
}

/// Who guesses the ids that come next, so that one pass can check several of them. A guess never changes what is generated: a pass computes the
/// same logits however many tokens it takes, and what is drawn from them is what counts.
pub trait Draft {
    /// At most `most` ids that may follow `ids` (the prompt and all that was generated, which only grows from call to call); none where there is
    /// nothing to go by.
    ///
    /// # Errors
    /// Ends the generation.
    fn propose(&mut self, ids: &[u32], most: usize) -> Result<Vec<u32>>;
    /// What became of the pass after the prompt's that was last, whether anything was proposed for it or not.
    fn checked(&mut self, pass: &Checked);
}

/// A pass that may have checked guesses.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// Ids in front of the guesses.
    pub certain: usize,
    /// How many of those had to go through the model a second time, because an earlier guess was wrong.
    pub again: usize,
    /// Ids that were proposed.
    pub proposed: usize,
    /// How many of them, from the first on, came true.
    pub right: usize,
    /// How long the pass took, and going back behind what was wrong.
    pub time: Duration,
}

/// What the text must look like. Of each id that is generated it is told once, in order.
pub trait Constraint {
    /// Gives every id that may not come next the logit minus infinity.
    ///
    /// # Errors
    /// Ends the generation.
    fn exclude(&mut self, logits: &mut [f32]) -> Result<()>;
    /// This id came next.
    ///
    /// # Errors
    /// It could not; or what follows cannot be told within the limits.
    fn accept(&mut self, id: u32) -> Result<()>;
    /// The ids that come next whatever the model says: they are not sampled, and go through the model together.
    ///
    /// # Errors
    /// Ends the generation.
    fn forced(&mut self) -> Result<Vec<u32>>;
    /// Whether the text is complete and nothing can follow.
    fn is_complete(&mut self) -> bool;
}

/// What came of a [`Request`].
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The generated ids; an end id is the last of them.
    pub ids: Vec<u32>,
    /// All text that the caller was given.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Hash over the bits of all logits that were sampled from, in order, 32 hexadecimal digits.
    pub fingerprint: Option<String>,
    /// How long it took and what it needed.
    pub stats: Stats,
}

/// Measurements of one generation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Tokens of the source, or else of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the session held already.
    pub reused_tokens: usize,
    /// Generated tokens.
    pub new_tokens: usize,
    /// Those of them that a [`Constraint`] forced.
    pub forced_tokens: usize,
    /// Tokens that a [`Draft`] proposed, and how many of them came true.
    pub drafted_tokens: usize,
    /// See [`Stats::drafted_tokens`].
    pub right_tokens: usize,
    /// From the call to the end of the prompt's last pass.
    pub prompt_time: Duration,
    /// From the call to the first id.
    pub first_token: Duration,
    /// All passes after the prompt's.
    pub decode_time: Duration,
    /// How many passes those were.
    pub decode_passes: usize,
    /// Tokens that they gave.
    pub decode_tokens: usize,
    /// Bytes of weights that they read.
    pub decode_bytes: u64,
    /// Bytes of the cache in use at the end.
    pub kv_bytes: usize,
    /// Bytes of the engine's buffers.
    pub workspace_bytes: usize,
}

impl Stats {
    /// Prompt tokens per second, of those that were computed.
    pub fn prompt_rate(&self) -> f64 {
        let computed = self.prompt_tokens - self.reused_tokens;
        rate(computed as f64, self.prompt_time)
    }

    /// Generated tokens per second, after the first.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens as f64, self.decode_time)
    }

    /// 10^9 bytes of weights per second while generating.
    pub fn decode_gb_per_s(&self) -> f64 {
        rate(self.decode_bytes as f64 / 1e9, self.decode_time)
    }
}

/// Zero where nothing was done, so that it is always a number.
fn rate(amount: f64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// Hash of logits: the first half of BLAKE3 over their little-endian bits.
struct Fingerprint {
    hasher: blake3::Hasher,
    bytes: Vec<u8>,
}

impl Fingerprint {
    fn new() -> Self {
        Fingerprint {
            hasher: blake3::Hasher::new(),
            bytes: Vec::new(),
        }
    }

    fn add(&mut self, logits: &[f32]) {
        self.bytes.clear();
        self.bytes
            .extend(logits.iter().flat_map(|x| x.to_le_bytes()));
        self.hasher.update(&self.bytes);
    }

    fn hex(&self) -> String {
        let hex = self.hasher.finalize().to_hex();
        hex[..32].to_owned()
    }
}

/// Checks that so many tokens fit.
///
/// # Errors
/// A limit error (exit 5) that names both numbers.
pub fn check_context(what: &str, tokens: usize, context: usize) -> Result<()> {
    if tokens > context {
        return Err(Error::limit(format_args!(
            "{what} has {tokens} tokens, but the context holds {context}"
        )));
    }
    Ok(())
}

/// Readies a new sequence for `prompt` tokens: its source, where the model has an encoder, has been encoded.
///
/// # Errors
/// A source that is missing, or one for a model without an encoder (usage), or longer than the context (limit), or with an id beyond the
/// vocabulary; a model file that changed.
pub fn begin(
    engine: &mut Engine,
    mut sequence: Sequence,
    source: Option<&[u32]>,
    prompt: usize,
    context: usize,
) -> Result<Sequence> {
    sequence.set_prompt_len(prompt);
    match (source, sequence.source()) {
        (Some(ids), _) => {
            check_context("the source", ids.len(), context)?;
            let seq = &mut sequence;
            engine.encode(&mut [Source { seq, ids }])?;
            engine.model().file().check_unchanged()?;
        }
        (None, Some(_)) => return Err(Error::usage("this model's encoder needs a source")),
        (None, None) => {}
    }
    Ok(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_sees_every_bit_and_the_order() {
        let hash = |rows: &[&[f32]]| {
            let mut f = Fingerprint::new();
            rows.iter().for_each(|row| f.add(row));
            f.hex()
        };
        let base = hash(&[&[1.0, 2.0], &[3.0]]);
        assert_eq!(base.len(), 32);
        assert_eq!(base, hash(&[&[1.0, 2.0], &[3.0]]));
        assert_ne!(
            base,
            hash(&[&[1.0, f32::from_bits(2.0f32.to_bits() ^ 1)], &[3.0]])
        );
        assert_ne!(base, hash(&[&[3.0], &[1.0, 2.0]]));
        assert_ne!(hash(&[&[0.0]]), hash(&[&[-0.0]]));
    }

    #[test]
    fn rates_are_numbers_even_for_nothing() {
        let stats = Stats::default();
        assert_eq!(stats.prompt_rate(), 0.0);
        assert_eq!(stats.decode_rate(), 0.0);
        assert_eq!(stats.decode_gb_per_s(), 0.0);
    }

    #[test]
    fn a_prompt_beyond_the_context_names_both_numbers() {
        assert!(check_context("the prompt", 8, 8).is_ok());
        let e = check_context("the prompt", 1_000_000, 512).unwrap_err();
        assert_eq!(e.exit_code(), 5);
        assert_eq!(
            e.to_string(),
            "the prompt has 1000000 tokens, but the context holds 512"
        );
    }
}

//! The decode loop: prefill in chunks, sample, decode to text, stop rules, statistics.
//!
//! ```text
//! prompt ids -> forward (chunks, no logits but for the last) -> sampler -> id -> text -> stop strings -> caller
//!                  ^                                              |
//!                  +----------------------------------------------+
//! ```
//! Nothing is emitted from a pass before the model file is known to be unchanged after it.

pub mod embed;
pub mod score;
pub mod stops;

use crate::cache::Sequence;
use crate::error::{Error, Result};
use crate::model::{Engine, Source, Step, Wanted};
use crate::sample::{Params, Sampler};
use quern_kernels::KvType;
use std::time::{Duration, Instant};
use stops::Stops;

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
    /// Text that this id completes; may be empty.
    ///
    /// # Errors
    /// Ends the generation.
    fn push(&mut self, id: u32) -> Result<String>;
    /// What is left at the end; called once.
    ///
    /// # Errors
    /// As for [`Decode::push`].
    fn finish(&mut self) -> Result<String>;
}

/// Who follows the generation.
pub trait Watch {
    /// The prompt has gone through the model: from now on there may be text to save when a stop is asked for.
    fn prompt_done(&mut self) {}
    /// The next piece of text, after every token (it may be empty).
    ///
    /// # Errors
    /// Ends the generation with this error.
    fn text(&mut self, piece: &str) -> Result<()>;
    /// Whether to stop now; asked between passes.
    fn stop_asked(&mut self) -> bool {
        false
    }
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
    /// Generated tokens.
    pub new_tokens: usize,
    /// From the call to the end of the prompt's last pass.
    pub prompt_time: Duration,
    /// From the call to the first id.
    pub first_token: Duration,
    /// All passes after the prompt's.
    pub decode_time: Duration,
    /// How many passes those were.
    pub decode_passes: usize,
    /// Bytes of weights that they read.
    pub decode_bytes: u64,
    /// Bytes of the cache in use at the end.
    pub kv_bytes: usize,
    /// Bytes of the engine's buffers.
    pub workspace_bytes: usize,
}

impl Stats {
    /// Prompt tokens per second.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens as f64, self.prompt_time)
    }

    /// Generated tokens per second, after the first.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_passes as f64, self.decode_time)
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

/// A new sequence for `prompt` tokens; its source, where the model has an encoder, has been encoded.
///
/// # Errors
/// A source that is missing, or one for a model without an encoder (usage), or longer than the context (limit), or with an id beyond the
/// vocabulary; a model file that changed.
fn begin(
    engine: &mut Engine,
    source: Option<&[u32]>,
    prompt: usize,
    context: usize,
    kv: KvType,
) -> Result<Sequence> {
    let model = engine.model().clone();
    let mut sequence = model.new_sequence(kv);
    sequence.set_prompt_len(prompt);
    match (source, sequence.source()) {
        (Some(ids), _) => {
            check_context("the source", ids.len(), context)?;
            let seq = &mut sequence;
            engine.encode(&mut [Source { seq, ids }])?;
            model.file().check_unchanged()?;
        }
        (None, Some(_)) => return Err(Error::usage("this model's encoder needs a source")),
        (None, None) => {}
    }
    Ok(sequence)
}

/// Runs one request to its end. The engine's model is the one that the ids belong to.
///
/// # Errors
/// A prompt that is empty, a source that is missing or that the model has no encoder for (usage); a prompt or source longer than the context
/// (limit, before anything is run); an id beyond the vocabulary; logits that
/// cannot be sampled from (invalid: names position and id); a model file that changed; what `watch` returns. Text that was given out
/// before stays given out.
pub fn generate(
    engine: &mut Engine,
    request: &Request,
    decode: &mut dyn Decode,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let start = Instant::now();
    if request.prompt.is_empty() {
        return Err(Error::usage(
            "the prompt has no tokens: there is nothing to continue",
        ));
    }
    check_context("the prompt", request.prompt.len(), request.context)?;
    let mut sampler = Sampler::new(request.sampling.clone(), engine.kernels())?;
    for &id in &request.prompt {
        sampler.accept(id);
    }
    let model = engine.model().clone();
    let room = request.context - request.prompt.len();
    let most = request.max_new.unwrap_or(usize::MAX);
    let source = request.source.as_deref();
    let prompt = request.prompt.len();
    let mut sequence = begin(engine, source, prompt, request.context, request.kv)?;
    let mut stats = Stats {
        prompt_tokens: source.map_or(prompt, <[u32]>::len),
        ..Stats::default()
    };
    let mut fingerprint = request.fingerprint.then(Fingerprint::new);
    let mut stops = Stops::new(&request.stop);
    let mut ids = Vec::new();
    let mut text = String::new();
    let mut emit = |piece: String, watch: &mut dyn Watch| -> Result<()> {
        text.push_str(&piece);
        watch.text(&piece)
    };

    let chunk = request.chunk.max(1);
    let (head, tail) = request
        .prompt
        .split_at((request.prompt.len() - 1) / chunk * chunk);
    let mut finish = None;
    for tokens in head.chunks(chunk) {
        engine.forward(&mut [Step {
            seq: &mut sequence,
            tokens,
            wanted: Wanted::None,
        }])?;
        model.file().check_unchanged()?;
        if watch.stop_asked() {
            finish = Some(Finish::Interrupted);
            break;
        }
    }
    let mut next = tail.to_vec();
    let mut passes = 0;
    let mut stopped_by_text = false;
    let mut finish = loop {
        if let Some(finish) = finish {
            break finish;
        }
        let since = Instant::now();
        let logits = engine.forward(&mut [Step {
            seq: &mut sequence,
            tokens: &next,
            wanted: Wanted::Last,
        }])?;
        model.file().check_unchanged()?;
        passes += 1;
        if passes == 1 {
            stats.prompt_time = start.elapsed();
            watch.prompt_done();
        }
        if ids.len() >= most {
            break Finish::Length;
        }
        if ids.len() >= room {
            break Finish::Context;
        }
        let row = logits.row(0);
        let id = sampler.sample(row).map_err(|e| {
            let position = request.prompt.len() + ids.len() - 1;
            Error::invalid(format_args!("after the token at position {position}: {e}"))
        })?;
        if let Some(fingerprint) = &mut fingerprint {
            fingerprint.add(row);
        }
        sampler.accept(id);
        ids.push(id);
        if passes == 1 {
            stats.first_token = start.elapsed();
        } else {
            stats.decode_passes += 1;
        }
        if request.end_ids.contains(&id) {
            finish = Some(Finish::Stop);
        } else {
            let (piece, stopped) = stops.push(&decode.push(id)?);
            emit(piece, watch)?;
            if stopped {
                finish = Some(Finish::Stop);
                stopped_by_text = true;
            } else if ids.len() >= most {
                finish = Some(Finish::Length);
            } else if ids.len() >= room {
                finish = Some(Finish::Context);
            } else if watch.stop_asked() {
                finish = Some(Finish::Interrupted);
            }
        }
        if passes > 1 {
            stats.decode_time += since.elapsed();
        }
        next.clear();
        next.push(id);
    };
    // After a stop string nothing may follow, not even what the decoder still holds.
    if !stopped_by_text {
        let (mut rest, stopped) = stops.push(&decode.finish()?);
        if stopped {
            finish = Finish::Stop;
        } else {
            rest.push_str(&stops.finish());
        }
        if !rest.is_empty() {
            emit(rest, watch)?;
        }
    }
    stats.new_tokens = ids.len();
    stats.decode_bytes = model.weight_bytes_per_pass() * stats.decode_passes as u64;
    stats.kv_bytes = sequence.bytes();
    stats.workspace_bytes = engine.workspace_bytes();
    Ok(Outcome {
        ids,
        text,
        finish,
        fingerprint: fingerprint.map(|f| f.hex()),
        stats,
    })
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

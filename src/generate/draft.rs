//! Who guesses: the text itself, a smaller model, or the one where the other has nothing to say.
//!
//! A smaller model takes its most probable id every time, for as long as it is sure enough. Its session follows the text: what it holds of wrong guesses
//! is forgotten, and what it has not seen goes through it at the next question, at most one chunk each, so that a long prompt does not hold up
//! the text.

use super::lookup::Lookup;
use super::pace::{Chance, Pace};
use super::{Checked, Draft, Session};
use crate::error::{Error, Result};
use crate::model::{Engine, Wanted};
use crate::sample;
use quern_kernels::{Kernels, KvType};
use std::time::Instant;

/// What a guessing model may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most guesses of one pass.
    pub most: usize,
    /// Fewer than so many guesses of the model are not worth a pass.
    pub least: usize,
    /// The model guesses on while its guess has at least this probability.
    pub sure: f32,
}

impl Default for Limits {
    /// llama.cpp's defaults.
    fn default() -> Self {
        Limits {
            most: 16,
            least: 0,
            sure: 0.75,
        }
    }
}

/// A smaller model with the same vocabulary.
pub struct DraftModel {
    engine: Engine,
    session: Session,
    source: Option<Vec<u32>>,
    context: usize,
    kv: KvType,
    chunk: usize,
    limits: Limits,
    /// Ids that the model which is guessed for has.
    vocab: u32,
    /// How long the text was when it was asked last: what the session holds of that is right.
    asked: usize,
    /// Where the session can come back to if it has a recurrent state.
    marked: usize,
    weights: Vec<f32>,
    /// Seconds of one guess, smoothed.
    each: f64,
    chance: Chance,
}

impl DraftModel {
    /// A model that guesses for one of `vocab` ids whose text is about `source`. It keeps up to `context` positions in `kv`, and reads a prompt in
    /// passes of `chunk`.
    ///
    /// # Errors
    /// Usage if only one of the two has an encoder, or if the model has no head.
    pub fn new(
        engine: Engine,
        source: Option<Vec<u32>>,
        vocab: u32,
        context: usize,
        kv: KvType,
        chunk: usize,
        limits: Limits,
    ) -> Result<DraftModel> {
        let spec = engine.model().spec();
        if spec.encoder.is_some() != source.is_some() {
            return Err(Error::usage(
                "one of the two models has an encoder: only two of a kind can guess for each other",
            ));
        }
        if spec.head.is_none() || spec.one_pass() {
            return Err(Error::usage(
                "the model that is to guess has hidden vectors only, expected one that continues a text",
            ));
        }
        Ok(DraftModel {
            engine,
            session: Session::new(),
            source,
            context,
            kv,
            chunk: chunk.max(1),
            limits,
            vocab,
            asked: 0,
            marked: 0,
            weights: Vec::new(),
            each: 0.0,
            chance: Chance::new(0.7),
        })
    }

    /// Lets what is new of the text go through the model; says whether all of it has, but for a rest for the next pass.
    fn follow(&mut self, ids: &[u32]) -> Result<bool> {
        if self.asked == 0 {
            let source = self.source.as_deref();
            self.session
                .turn_to(&mut self.engine, source, ids, self.context, self.kv)?;
        }
        let guessed = self.session.ids().iter().skip(self.asked);
        let right = guessed.zip(ids.iter().skip(self.asked));
        let agreed = self.asked + right.take_while(|(a, b)| a == b).count();
        // Logits are wanted after the last id, so it goes through the model in any case.
        self.session.back_to(agreed.min(ids.len() - 1))?;
        self.asked = ids.len();
        let waiting = ids.len() - self.session.ids().len();
        if waiting > self.chunk {
            let from = self.session.ids().len();
            let head = &ids[from..from + self.chunk];
            self.session.forward(&mut self.engine, head, Wanted::None)?;
            self.asked = from + self.chunk;
        }
        Ok(waiting <= self.chunk)
    }

    /// At most `most` ids that may follow.
    fn guesses(&mut self, ids: &[u32], most: usize) -> Result<Vec<u32>> {
        let own_vocab = self.engine.model().spec().vocab_size;
        let most = most.min(self.context.saturating_sub(ids.len()));
        let unknown = |id: &u32| *id >= own_vocab;
        if most == 0 || ids[self.asked.min(ids.len())..].iter().any(unknown) {
            return Ok(Vec::new());
        }
        if !self.follow(ids)? {
            return Ok(Vec::new());
        }
        let kernels = self.engine.kernels();
        let mut next = ids[self.session.ids().len()..].to_vec();
        let mut guesses = Vec::new();
        while guesses.len() < most {
            let start = Instant::now();
            let logits = self
                .session
                .forward(&mut self.engine, &next, Wanted::Last)?;
            let (id, sure) = top(kernels, logits.row(0), &mut self.weights)?;
            if next.len() == 1 {
                let seconds = start.elapsed().as_secs_f64();
                self.each = match self.each > 0.0 {
                    true => self.each + 0.25 * (seconds - self.each),
                    false => seconds,
                };
            }
            if sure < self.limits.sure || id >= self.vocab {
                break;
            }
            if guesses.is_empty() {
                self.session.unmark(self.marked);
                self.marked = ids.len();
                self.session.mark()?;
            }
            guesses.push(id);
            next = vec![id];
        }
        if guesses.len() < self.limits.least {
            guesses.clear();
        }
        Ok(guesses)
    }
}

/// The most probable id and its probability.
fn top(kernels: &Kernels, logits: &[f32], weights: &mut Vec<f32>) -> Result<(u32, f32)> {
    sample::check(kernels, logits).map_err(|e| Error::invalid(e).at("the model of --draft"))?;
    weights.clear();
    weights.extend_from_slice(logits);
    let id = kernels.argmax(logits);
    // Weights are relative to the greatest.
    let (_, sum) = kernels.softmax_exp(weights);
    Ok((id as u32, 1.0 / sum))
}

/// Past of a place in the text from which on its guesses are a kind of their own, and what to expect of them before anything is known.
const KINDS: [(usize, f64); 5] = [(2, 0.3), (3, 0.45), (4, 0.6), (6, 0.75), (10, 0.85)];

/// The last question's answer came from here.
#[derive(Clone, Copy)]
enum From {
    Nobody,
    Text(usize),
    Model,
}

/// Guesses of the text itself, and where that has none those of a model.
pub struct Speculation {
    pace: Pace,
    limits: Limits,
    lookup: Option<Lookup>,
    kinds: [Chance; KINDS.len()],
    model: Option<DraftModel>,
    from: From,
    /// Seconds that the last guesses took to make.
    making: f64,
}

impl Speculation {
    /// Guesses of the text itself if `lookup`, and of a model if there is one.
    pub fn new(pace: Pace, limits: Limits, lookup: bool, model: Option<DraftModel>) -> Speculation {
        Speculation {
            pace,
            limits,
            lookup: lookup.then(Lookup::new),
            kinds: KINDS.map(|(_, prior)| Chance::new(prior)),
            model,
            from: From::Nobody,
            making: 0.0,
        }
    }
}

impl Draft for Speculation {
    fn propose(&mut self, ids: &[u32], most: usize) -> Result<Vec<u32>> {
        (self.from, self.making) = (From::Nobody, 0.0);
        let most = most.min(self.limits.most);
        if let Some(lookup) = &mut self.lookup
            && let Some(place) = lookup.find(ids)?
        {
            let longer = KINDS.iter().filter(|(past, _)| place.past >= *past);
            let kind = longer.count().saturating_sub(1);
            let n = self.pace.guesses(most, self.kinds[kind].value(), 0.0);
            if n > 0 {
                self.from = From::Text(kind);
                return Ok(place.guesses(ids, n));
            }
        }
        if let Some(model) = &mut self.model {
            let n = self.pace.guesses(most, model.chance.value(), model.each);
            if n > 0 {
                let start = Instant::now();
                let behind = ids.len() - model.asked;
                let guesses = model.guesses(ids, n)?;
                // Reading a prompt, or what was written while it was not asked, is paid once.
                if behind <= self.limits.most + 1 {
                    self.making = start.elapsed().as_secs_f64();
                }
                if !guesses.is_empty() {
                    self.from = From::Model;
                }
                return Ok(guesses);
            }
        }
        Ok(Vec::new())
    }

    fn checked(&mut self, pass: &Checked) {
        self.pace.checked(pass, self.making);
        match self.from {
            From::Text(kind) => self.kinds[kind].learn(pass.proposed, pass.right),
            From::Model => {
                if let Some(model) = &mut self.model {
                    model.chance.learn(pass.proposed, pass.right);
                }
            }
            From::Nobody => {}
        }
        self.kinds.iter_mut().for_each(Chance::fade);
        if let Some(model) = &mut self.model {
            model.chance.fade();
        }
    }
}

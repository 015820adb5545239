//! The course of one generation between passes: which ids are certain, what is drawn from rows of logits, what text comes of it, how it ends.
//!
//! Who runs the passes does not matter: a loop of its own (`decode`) or a scheduler that puts the next ids of many generations into one pass. A row of
//! logits has the same bits in either, and one number is drawn per sampled id, so the result is the same.

use super::stops::{PIECE, Stops};
use super::{Constraint, Decode, Fingerprint, Finish, Request, Watch, check_context};
use crate::error::{Error, Result};
use crate::sample::Sampler;
use quern_kernels::Kernels;

/// Ids that memory is set aside for at the start.
const ROOM: usize = 4096;
/// Bytes of text that memory is set aside for per id: what most vocabularies need for most texts.
const BYTES: usize = 5;

/// Who takes part in a generation between its passes.
pub struct Parts<'p> {
    /// What is generated.
    pub request: &'p Request,
    /// Says what may come next.
    pub constraint: Option<&'p mut (dyn Constraint + 'p)>,
    /// From ids to text.
    pub decode: &'p mut (dyn Decode + 'p),
    /// Takes the text.
    pub watch: &'p mut (dyn Watch + 'p),
}

/// What has come of a request so far.
pub struct Course {
    sampler: Sampler,
    fingerprint: Option<Fingerprint>,
    stops: Stops,
    /// The prompt, then what is generated.
    all: Vec<u32>,
    prompt: usize,
    text: String,
    /// What the decoder says of an id, and what of it may leave: memory that is used again.
    pieces: (String, String),
    stopped_by_text: bool,
    /// Ids that a constraint forced.
    forced: usize,
    finish: Option<Finish>,
}

impl Course {
    /// The course of a request before its first pass.
    ///
    /// # Errors
    /// A prompt that is empty (usage) or longer than the context (limit); sampling parameters that mean nothing.
    pub fn new(request: &Request, kernels: &'static Kernels) -> Result<Course> {
        let prompt = &request.prompt;
        if prompt.is_empty() {
            return Err(Error::usage(
                "the prompt has no tokens: there is nothing to continue",
            ));
        }
        check_context("the prompt", prompt.len(), request.context)?;
        let mut sampler = Sampler::new(request.sampling.clone(), kernels)?;
        for &id in prompt {
            sampler.accept(id);
        }
        let mut all = prompt.clone();
        // What comes finds its place without growing, unless it is long.
        let room = request.context - prompt.len();
        let room = room.min(request.max_new.unwrap_or(room)).min(ROOM);
        all.reserve_exact(room);
        Ok(Course {
            sampler,
            fingerprint: request.fingerprint.then(Fingerprint::new),
            stops: Stops::new(&request.stop),
            all,
            prompt: prompt.len(),
            text: String::with_capacity(room * BYTES),
            pieces: (String::with_capacity(PIECE), String::with_capacity(PIECE)),
            stopped_by_text: false,
            forced: 0,
            finish: None,
        })
    }

    /// The prompt and all that was generated. A pass takes those of them that have not gone through the model; behind the last one logits are wanted.
    pub fn all(&self) -> &[u32] {
        &self.all
    }

    /// How many ids there is memory for.
    pub fn room(&self) -> usize {
        self.all.capacity()
    }

    /// The generated ids.
    pub fn ids(&self) -> &[u32] {
        &self.all[self.prompt..]
    }

    /// How many of the generated ids a constraint forced.
    pub fn forced(&self) -> usize {
        self.forced
    }

    /// How many more ids fit.
    pub fn left(&self, request: &Request) -> usize {
        let most = request.max_new.unwrap_or(usize::MAX);
        let room = request.context.saturating_sub(self.all.len());
        room.min(most.saturating_sub(self.ids().len()))
    }

    /// Why nothing more comes; none while it goes on.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Ends it for a reason from outside.
    pub fn stop(&mut self, why: Finish) {
        self.finish.get_or_insert(why);
    }

    /// Ends it if no further id fits.
    pub fn stop_if_full(&mut self, request: &Request) {
        if self.finish.is_some() || self.left(request) > 0 {
            return;
        }
        let length = request.max_new.is_some_and(|n| self.ids().len() >= n);
        self.finish = Some(match length {
            true => Finish::Length,
            false => Finish::Context,
        });
    }

    /// Draws the id behind the last certain one from row 0, and as long as it is the guess that went through the model behind it, the next one from the
    /// next row. Returns how many guesses came true.
    ///
    /// # Errors
    /// Logits that cannot be sampled from (invalid: names position and id); those of who takes part.
    pub fn draw<'r>(
        &mut self,
        row: impl Fn(usize) -> &'r [f32],
        guesses: &[u32],
        parts: &mut Parts<'_>,
    ) -> Result<usize> {
        let known = self.all.len();
        let mut right = 0;
        // Every id that comes, sampled or forced, has its guess beside it, and the row behind the guess if it was right.
        while self.finish.is_none() && known + right == self.all.len() {
            self.draw_one(row(right), parts)?;
            let came = self.all[known..].iter().skip(right);
            let guessed = guesses.iter().skip(right);
            right += came.zip(guessed).take_while(|(a, b)| a == b).count();
        }
        Ok(right)
    }

    /// One sampled id, and those that a constraint forces behind it.
    fn draw_one(&mut self, row: &[f32], parts: &mut Parts<'_>) -> Result<()> {
        let mut excluded = Ok(());
        let sampled = self.sampler.sample_among(row, |logits| {
            if let Some(constraint) = &mut parts.constraint {
                excluded = constraint.exclude(logits);
            }
        });
        excluded?;
        let id = sampled.map_err(|e| {
            let position = self.all.len() - 1;
            Error::invalid(format_args!("after the token at position {position}: {e}"))
        })?;
        if let Some(fingerprint) = &mut self.fingerprint {
            fingerprint.add(row);
        }
        self.take(id, Some(row), parts)?;
        if self.finish.is_some() {
            return Ok(());
        }
        let forced = match &mut parts.constraint {
            Some(constraint) => constraint.forced()?,
            None => return Ok(()),
        };
        for id in forced {
            self.forced += 1;
            self.take(id, None, parts)?;
            if self.finish.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Takes the next id; sets the reason if it is the last one.
    fn take(&mut self, id: u32, row: Option<&[f32]>, parts: &mut Parts<'_>) -> Result<()> {
        self.sampler.accept(id);
        parts.watch.chosen(id, row);
        self.all.push(id);
        if parts.request.end_ids.contains(&id) {
            self.finish = Some(Finish::Stop);
            return Ok(());
        }
        let stopped = self.say(parts, |decode, text| decode.push(id, text))?;
        if stopped {
            self.stopped_by_text = true;
            self.finish = Some(Finish::Stop);
            return Ok(());
        }
        self.stop_if_full(parts.request);
        if self.finish.is_none() && parts.watch.stop_asked() {
            self.finish = Some(Finish::Interrupted);
        }
        if self.finish.is_none()
            && let Some(constraint) = &mut parts.constraint
        {
            constraint.accept(id)?;
            self.finish = constraint.is_complete().then_some(Finish::Stop);
        }
        Ok(())
    }

    /// Passes on what the decoder says, as far as it may leave; whether a stop string was completed.
    fn say(
        &mut self,
        parts: &mut Parts<'_>,
        decode: impl FnOnce(&mut dyn Decode, &mut String) -> Result<()>,
    ) -> Result<bool> {
        let (said, leaving) = &mut self.pieces;
        said.clear();
        leaving.clear();
        decode(parts.decode, said)?;
        let stopped = self.stops.push(said, leaving);
        self.text.push_str(leaving);
        parts.watch.text(leaving)?;
        Ok(stopped)
    }

    /// Lets out what the decoder and the stop strings still hold, and says what came of it all. After a stop string nothing may follow.
    ///
    /// # Errors
    /// Those of who takes part.
    pub fn end(mut self, parts: &mut Parts<'_>) -> Result<Ended> {
        // Nobody ends it without a reason; stopping is the one that needs none.
        let mut finish = self.finish.unwrap_or(Finish::Stop);
        if !self.stopped_by_text {
            let (mut said, mut rest) = (String::new(), String::new());
            parts.decode.finish(&mut said)?;
            let stopped = self.stops.push(&said, &mut rest);
            if !stopped {
                self.stops.finish(&mut rest);
            }
            if !rest.is_empty() {
                self.text.push_str(&rest);
                parts.watch.text(&rest)?;
            }
            if stopped {
                finish = Finish::Stop;
            }
        }
        Ok(Ended {
            ids: self.all.split_off(self.prompt),
            text: self.text,
            finish,
            fingerprint: self.fingerprint.map(|f| f.hex()),
        })
    }
}

/// What came of a [`Course`].
pub struct Ended {
    /// The generated ids; an end id is the last of them.
    pub ids: Vec<u32>,
    /// All text that the caller was given.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Hash over the bits of all logits that were sampled from.
    pub fingerprint: Option<String>,
}

//! The decode loop: prefill in chunks, sample, decode to text, stop rules, statistics.
//!
//! ```text
//! prompt ids -> forward (chunks, no logits but for the last) -> sampler -> id -> text -> stop strings -> caller
//!                  ^   ^                                          |
//!                  |   +-- forced ids, guessed ids <--------------+
//!                  +----------------------------------------------+
//! ```
//! Nothing is emitted from a pass before the model file is known to be unchanged after it.
//!
//! A pass may carry guesses behind the ids that are certain. From each row of logits one id is drawn as if there were no guesses; the first one that differs from the guess
//! takes its place, and the session goes back to there. Since rows of logits have the same bits however tokens are cut into passes, and one number is drawn per sampled
//! id, text and fingerprint are those of the loop without guesses.

use super::stops::Stops;
use super::{
    Constraint, Decode, Draft, Fingerprint, Finish, Outcome, Request, Session, Stats, Watch,
    check_context,
};
use crate::error::{Error, Result};
use crate::model::{Engine, Wanted};
use crate::sample::Sampler;
use std::time::Instant;

/// A request and everybody who takes part in it.
pub struct Generation<'a> {
    /// What to generate.
    pub request: &'a Request,
    /// What is known from before, and is left for later.
    pub session: &'a mut Session,
    /// Guesses the next ids.
    pub draft: Option<&'a mut dyn Draft>,
    /// Says what may come next.
    pub constraint: Option<&'a mut dyn Constraint>,
    /// From ids to text.
    pub decode: &'a mut dyn Decode,
    /// Takes the text.
    pub watch: &'a mut dyn Watch,
}

/// What grows while ids come.
struct Text<'a> {
    request: &'a Request,
    stops: Stops,
    ids: Vec<u32>,
    text: String,
    /// Ids that fit.
    most: usize,
    room: usize,
    stopped_by_text: bool,
}

impl Text<'_> {
    /// Whether no further id fits, and why.
    fn is_full(&self) -> Option<Finish> {
        if self.ids.len() >= self.most {
            Some(Finish::Length)
        } else if self.ids.len() >= self.room {
            Some(Finish::Context)
        } else {
            None
        }
    }

    fn emit(&mut self, piece: &str, watch: &mut dyn Watch) -> Result<()> {
        self.text.push_str(piece);
        watch.text(piece)
    }

    /// Takes the next id; says whether it is the last one, and why.
    fn push(
        &mut self,
        id: u32,
        decode: &mut dyn Decode,
        watch: &mut dyn Watch,
    ) -> Result<Option<Finish>> {
        self.ids.push(id);
        if self.request.end_ids.contains(&id) {
            return Ok(Some(Finish::Stop));
        }
        let (piece, stopped) = self.stops.push(&decode.push(id)?);
        self.emit(&piece, watch)?;
        if stopped {
            self.stopped_by_text = true;
            return Ok(Some(Finish::Stop));
        }
        let full = self.is_full();
        Ok(full.or_else(|| watch.stop_asked().then_some(Finish::Interrupted)))
    }

    /// What the decoder and the stop strings still hold. After a stop string nothing may follow.
    fn end(
        &mut self,
        finish: Finish,
        decode: &mut dyn Decode,
        watch: &mut dyn Watch,
    ) -> Result<Finish> {
        if self.stopped_by_text {
            return Ok(finish);
        }
        let (mut rest, stopped) = self.stops.push(&decode.finish()?);
        if !stopped {
            rest.push_str(&self.stops.finish());
        }
        if !rest.is_empty() {
            self.emit(&rest, watch)?;
        }
        Ok(if stopped { Finish::Stop } else { finish })
    }
}

impl Generation<'_> {
    /// Runs the request to its end. The engine's model is the one that the ids and the session belong to.
    ///
    /// # Errors
    /// A prompt that is empty, a source that is missing or that the model has no encoder for (usage); a prompt or source longer than the
    /// context (limit, before anything is run); an id beyond the vocabulary; logits that cannot be sampled from (invalid: names position and
    /// id); a model file that changed; what those who take part return. Text that was given out before stays given out.
    pub fn run(mut self, engine: &mut Engine) -> Result<Outcome> {
        let start = Instant::now();
        let request = self.request;
        let (prompt, source) = (&request.prompt[..], request.source.as_deref());
        if prompt.is_empty() {
            return Err(Error::usage(
                "the prompt has no tokens: there is nothing to continue",
            ));
        }
        check_context("the prompt", prompt.len(), request.context)?;
        let mut sampler = Sampler::new(request.sampling.clone(), engine.kernels())?;
        for &id in prompt {
            sampler.accept(id);
        }
        let kv = request.kv;
        let reused = self
            .session
            .turn_to(engine, source, prompt, request.context, kv)?;
        let mut stats = Stats {
            prompt_tokens: source.map_or(prompt.len(), <[u32]>::len),
            reused_tokens: reused,
            ..Stats::default()
        };
        let mut fingerprint = request.fingerprint.then(Fingerprint::new);
        let mut text = Text {
            request,
            stops: Stops::new(&request.stop),
            ids: Vec::new(),
            text: String::new(),
            most: request.max_new.unwrap_or(usize::MAX),
            room: request.context - prompt.len(),
            stopped_by_text: false,
        };

        let chunk = request.chunk.max(1);
        let rest = &prompt[reused..];
        let (head, tail) = rest.split_at((rest.len() - 1) / chunk * chunk);
        let mut finish = None;
        for tokens in head.chunks(chunk) {
            self.session.forward(engine, tokens, Wanted::None)?;
            let done = self.session.ids().len();
            self.watch.prompt_progress(done, prompt.len());
            if self.watch.stop_asked() {
                finish = Some(Finish::Interrupted);
                break;
            }
        }
        // Ids that are certain and have not gone through the model, then guesses.
        let mut next = tail.to_vec();
        let mut passes = 0;
        while finish.is_none() {
            let since = Instant::now();
            let certain = next.len();
            // The prompt's last chunk and forced ids are a pass worth having without guesses.
            if let (Some(draft), true, 1) = (&mut self.draft, passes > 0, certain) {
                let left = text.most.min(text.room) - text.ids.len();
                let all = [prompt, &text.ids].concat();
                next.extend(draft.propose(&all, left - 1)?.into_iter().take(left - 1));
            }
            let guesses = next.split_off(certain);
            let before = self.session.ids().len();
            let wanted = match guesses.is_empty() {
                true => Wanted::Last,
                false => Wanted::All,
            };
            let tokens = [&next[..], &guesses].concat();
            let pass = Instant::now();
            let logits = self.session.forward(engine, &tokens, wanted)?;
            let pass = pass.elapsed();
            passes += 1;
            if passes == 1 {
                stats.prompt_time = start.elapsed();
                self.watch.prompt_done();
                finish = text.is_full();
                if finish.is_some() {
                    break;
                }
            }
            let known = text.ids.len();
            let mut right = 0;
            let last = loop {
                let row = logits.row(right);
                let mut excluded = Ok(());
                let sampled = sampler.sample_among(row, |logits| {
                    if let Some(constraint) = &mut self.constraint {
                        excluded = constraint.exclude(logits);
                    }
                });
                excluded?;
                let id = sampled.map_err(|e| {
                    let position = prompt.len() + text.ids.len() - 1;
                    Error::invalid(format_args!("after the token at position {position}: {e}"))
                })?;
                if let Some(fingerprint) = &mut fingerprint {
                    fingerprint.add(row);
                }
                sampler.accept(id);
                finish = text.push(id, self.decode, self.watch)?;
                if finish.is_none()
                    && let Some(constraint) = &mut self.constraint
                {
                    constraint.accept(id)?;
                    finish = constraint.is_complete().then_some(Finish::Stop);
                }
                if finish.is_some() || guesses.get(right) != Some(&id) {
                    break id;
                }
                right += 1;
            };
            self.session.keep(before + certain + right)?;
            if let (Some(draft), true) = (&mut self.draft, passes > 1) {
                draft.checked(guesses.len(), right, pass);
            }
            stats.drafted_tokens += guesses.len();
            stats.right_tokens += right;
            next.clear();
            next.push(last);
            if finish.is_none()
                && let Some(constraint) = &mut self.constraint
            {
                for id in constraint.forced()? {
                    sampler.accept(id);
                    finish = text.push(id, self.decode, self.watch)?;
                    next.push(id);
                    stats.forced_tokens += 1;
                    if finish.is_none() {
                        constraint.accept(id)?;
                        finish = constraint.is_complete().then_some(Finish::Stop);
                    }
                    if finish.is_some() {
                        break;
                    }
                }
            }
            if passes == 1 {
                stats.first_token = start.elapsed();
            } else {
                stats.decode_passes += 1;
                stats.decode_tokens += text.ids.len() - known;
                stats.decode_time += since.elapsed();
            }
        }
        // The loop ends with a reason only.
        let finish = finish.unwrap_or(Finish::Stop);
        let finish = text.end(finish, self.decode, self.watch)?;
        stats.new_tokens = text.ids.len();
        stats.decode_bytes = engine.model().weight_bytes_per_pass() * stats.decode_passes as u64;
        stats.kv_bytes = self.session.bytes();
        stats.workspace_bytes = engine.workspace_bytes();
        Ok(Outcome {
            ids: text.ids,
            text: text.text,
            finish,
            fingerprint: fingerprint.map(|f| f.hex()),
            stats,
        })
    }
}

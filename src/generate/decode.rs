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
//! takes its place, and the session goes back to there (one with a recurrent state to before the pass: what was right of it goes through
//! the model again with the next one). Since rows of logits have the same bits however tokens are cut into passes, and one number is drawn per sampled
//! id, text and fingerprint are those of the loop without guesses.

use super::stops::Stops;
use super::{
    Checked, Constraint, Decode, Draft, Fingerprint, Finish, Outcome, Request, Session, Stats,
    Watch, check_context,
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

/// Ids that may wait for a pass which also carries guesses: what a pass may cost beside those is then still that of a few tokens.
const MOST_CERTAIN: usize = 8;

/// What grows while ids come.
struct Text<'a> {
    request: &'a Request,
    stops: Stops,
    /// The prompt, then what is generated.
    all: Vec<u32>,
    text: String,
    stopped_by_text: bool,
}

impl Text<'_> {
    /// The generated ids.
    fn ids(&self) -> &[u32] {
        &self.all[self.request.prompt.len()..]
    }

    /// How many more ids fit.
    fn left(&self) -> usize {
        let most = self.request.max_new.unwrap_or(usize::MAX);
        let room = self.request.context.saturating_sub(self.all.len());
        room.min(most.saturating_sub(self.ids().len()))
    }

    /// Whether no further id fits, and why.
    fn is_full(&self) -> Option<Finish> {
        if self.left() > 0 {
            None
        } else if self
            .request
            .max_new
            .is_some_and(|most| self.ids().len() >= most)
        {
            Some(Finish::Length)
        } else {
            Some(Finish::Context)
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
        self.all.push(id);
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
            reused_tokens: match source {
                Some(source) if reused.source => source.len(),
                Some(_) => 0,
                None => reused.ids,
            },
            ..Stats::default()
        };
        let mut fingerprint = request.fingerprint.then(Fingerprint::new);
        let mut text = Text {
            request,
            stops: Stops::new(&request.stop),
            all: prompt.to_vec(),
            text: String::new(),
            stopped_by_text: false,
        };
        let chunk = request.chunk.max(1);
        let mut finish = None;
        if self.watch.keeps_prompt() {
            // A session that ends before the prompt's last id is of use to the same prompt, whose last logits are wanted, and to longer ones.
            let head = &prompt[reused.ids..prompt.len() - 1];
            finish = self.pass_over(engine, head, chunk)?;
            if finish.is_none() {
                self.session.mark()?;
                self.watch.prompt_held(self.session)?;
            }
        }
        let mut passes = 0;
        // Ids at the end of the session that went through the model before, and had to be forgotten with wrong guesses.
        let mut again = 0;
        while finish.is_none() {
            let since = Instant::now();
            // Ids that are certain and have not gone through the model, then guesses.
            let waiting = &text.all[self.session.ids().len()..];
            let (head, tail) = waiting.split_at((waiting.len() - 1) / chunk * chunk);
            finish = self.pass_over(engine, head, chunk)?;
            if finish.is_some() {
                break;
            }
            let (before, certain) = (self.session.ids().len(), tail.len());
            let mut tokens = tail.to_vec();
            // The prompt's last chunk is a pass worth having without guesses.
            if let (Some(draft), true) = (&mut self.draft, passes > 0 && certain <= MOST_CERTAIN) {
                let most = text.left() - 1;
                tokens.extend(draft.propose(&text.all, most)?.into_iter().take(most));
            }
            let proposed = tokens.len() - certain;
            let pass = Instant::now();
            if proposed > 0 {
                self.session.mark()?;
            }
            let wanted = Wanted::Tail(1 + proposed);
            let logits = self.session.forward(engine, &tokens, wanted)?;
            let mut time = pass.elapsed();
            passes += 1;
            if passes == 1 {
                stats.prompt_time = start.elapsed();
                self.watch.prompt_done();
                finish = text.is_full();
                if finish.is_some() {
                    break;
                }
            }
            let known = text.all.len();
            let mut right = 0;
            // Every id that comes, sampled or forced, has its guess beside it, and the row behind the guess if it was right.
            while finish.is_none() && known + right == text.all.len() {
                let row = logits.row(right);
                let mut excluded = Ok(());
                let sampled = sampler.sample_among(row, |logits| {
                    if let Some(constraint) = &mut self.constraint {
                        excluded = constraint.exclude(logits);
                    }
                });
                excluded?;
                let id = sampled.map_err(|e| {
                    let position = text.all.len() - 1;
                    Error::invalid(format_args!("after the token at position {position}: {e}"))
                })?;
                if let Some(fingerprint) = &mut fingerprint {
                    fingerprint.add(row);
                }
                sampler.accept(id);
                self.watch.chosen(id, Some(row));
                finish = text.push(id, self.decode, self.watch)?;
                if finish.is_none()
                    && let Some(constraint) = &mut self.constraint
                {
                    constraint.accept(id)?;
                    finish = constraint.is_complete().then_some(Finish::Stop);
                }
                if finish.is_none()
                    && let Some(constraint) = &mut self.constraint
                {
                    for id in constraint.forced()? {
                        sampler.accept(id);
                        self.watch.chosen(id, None);
                        finish = text.push(id, self.decode, self.watch)?;
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
                let came = text.all[known..].iter().skip(right);
                let guessed = tokens[certain..].iter().skip(right);
                right += came.zip(guessed).take_while(|(a, b)| a == b).count();
            }
            let keep = before + certain + right;
            let back = Instant::now();
            self.session.back_to(keep)?;
            if proposed > 0 {
                self.session.unmark(before);
            }
            time += back.elapsed();
            if let (Some(draft), true) = (&mut self.draft, passes > 1) {
                draft.checked(&Checked {
                    certain,
                    again,
                    proposed,
                    right,
                    time,
                });
            }
            again = keep - self.session.ids().len();
            stats.drafted_tokens += proposed;
            stats.right_tokens += right;
            if passes == 1 {
                stats.first_token = start.elapsed();
            } else {
                stats.decode_passes += 1;
                stats.decode_tokens += text.all.len() - known;
                stats.decode_time += since.elapsed();
            }
        }
        // The loop ends with a reason only.
        let finish = finish.unwrap_or(Finish::Stop);
        let finish = text.end(finish, self.decode, self.watch)?;
        stats.new_tokens = text.ids().len();
        stats.decode_bytes = engine.model().weight_bytes_per_pass() * stats.decode_passes as u64;
        stats.kv_bytes = self.session.bytes();
        stats.workspace_bytes = engine.workspace_bytes();
        Ok(Outcome {
            ids: text.all.split_off(prompt.len()),
            text: text.text,
            finish,
            fingerprint: fingerprint.map(|f| f.hex()),
            stats,
        })
    }

    /// Runs ids that are not the last ones through the model; says whether a stop was asked for.
    fn pass_over(
        &mut self,
        engine: &mut Engine,
        ids: &[u32],
        chunk: usize,
    ) -> Result<Option<Finish>> {
        for tokens in ids.chunks(chunk) {
            self.session.forward(engine, tokens, Wanted::None)?;
            let (done, all) = (self.session.ids().len(), self.request.prompt.len());
            if done < all {
                self.watch.prompt_progress(done, all);
            }
            if self.watch.stop_asked() {
                return Ok(Some(Finish::Interrupted));
            }
        }
        Ok(None)
    }
}

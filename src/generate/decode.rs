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

use super::{
    Checked, Constraint, Course, Decode, Draft, Finish, Outcome, Parts, Request, Session, Stats,
    Watch,
};
use crate::error::Result;
use crate::model::{Engine, Wanted};
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
        let mut course = Course::new(request, engine.kernels())?;
        let kv = request.kv;
        let reused = self
            .session
            .turn_to(engine, source, prompt, request.context, kv)?;
        self.session.expect(course.room());
        let mut stats = Stats {
            prompt_tokens: source.map_or(prompt.len(), <[u32]>::len),
            reused_tokens: match source {
                Some(source) if reused.source => source.len(),
                Some(_) => 0,
                None => reused.ids,
            },
            ..Stats::default()
        };
        let chunk = request.chunk.max(1);
        if self.watch.keeps_prompt() {
            // A session that ends before the prompt's last id is of use to the same prompt, whose last logits are wanted, and to longer ones.
            let head = &prompt[reused.ids..prompt.len() - 1];
            match self.pass_over(engine, head, chunk)? {
                Some(why) => course.stop(why),
                None => {
                    self.session.mark()?;
                    self.watch.prompt_held(self.session)?;
                }
            }
        }
        let mut passes = 0;
        let mut tokens = Vec::new();
        // Ids at the end of the session that went through the model before, and had to be forgotten with wrong guesses.
        let mut again = 0;
        while course.finish().is_none() {
            let since = Instant::now();
            // Ids that are certain and have not gone through the model, then guesses.
            let waiting = &course.all()[self.session.ids().len()..];
            let (head, tail) = waiting.split_at((waiting.len() - 1) / chunk * chunk);
            if let Some(why) = self.pass_over(engine, head, chunk)? {
                course.stop(why);
                break;
            }
            let (before, certain) = (self.session.ids().len(), tail.len());
            tokens.clear();
            tokens.extend_from_slice(tail);
            // The prompt's last chunk is a pass worth having without guesses.
            if let (Some(draft), true) = (&mut self.draft, passes > 0 && certain <= MOST_CERTAIN) {
                let most = course.left(request) - 1;
                tokens.extend(draft.propose(course.all(), most)?.into_iter().take(most));
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
                course.stop_if_full(request);
                if course.finish().is_some() {
                    break;
                }
            }
            let known = course.all().len();
            let mut parts = Parts {
                request,
                constraint: match &mut self.constraint {
                    Some(constraint) => Some(&mut **constraint),
                    None => None,
                },
                decode: self.decode,
                watch: self.watch,
            };
            let right = course.draw(|i| logits.row(i), &tokens[certain..], &mut parts)?;
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
                stats.decode_tokens += course.all().len() - known;
                stats.decode_time += since.elapsed();
            }
        }
        stats.forced_tokens = course.forced();
        let ended = course.end(&mut Parts {
            request,
            constraint: None,
            decode: self.decode,
            watch: self.watch,
        })?;
        stats.new_tokens = ended.ids.len();
        stats.decode_bytes = engine.model().weight_bytes_per_pass() * stats.decode_passes as u64;
        stats.kv_bytes = self.session.bytes();
        stats.workspace_bytes = engine.workspace_bytes();
        Ok(Outcome {
            ids: ended.ids,
            text: ended.text,
            finish: ended.finish,
            fingerprint: ended.fingerprint,
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

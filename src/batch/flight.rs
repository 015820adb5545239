//! One text in flight: its course, the sequence that holds what went through the model, and how far it is.

use super::job::{Answer, Generate};
use crate::cache::Sequence;
use crate::error::Result;
use crate::generate::{Constraint, Course, Outcome, Parts, Stats};
use crate::model::Engine;

/// Ids beyond those that there are which memory is set aside for when a text is let in: about what comes until others end.
const AHEAD: usize = 64;

/// A text that is being written, or waits for its turn.
pub struct Flight<'a> {
    /// The feed's name for it.
    pub ticket: u64,
    /// What to write, and who takes part.
    pub job: Generate<'a>,
    /// What has come of it.
    pub course: Course,
    /// What went through the model; none while it waits.
    pub sequence: Option<Sequence>,
    /// Another text in flight that is about to compute what this one begins with: whose, and how many ids.
    pub behind: Option<(u64, usize)>,
    /// Numbers of ids after which a copy of the sequence is to be left for others, ascending.
    pub cuts: Vec<usize>,
    /// Ids of the prompt that another text's sequence already had.
    pub shared: usize,
}

impl<'a> Flight<'a> {
    /// A text before its first pass.
    ///
    /// # Errors
    /// As [`Course::new`]; an id that is not in the vocabulary.
    pub fn new(ticket: u64, job: Generate<'a>, engine: &Engine) -> Result<Flight<'a>> {
        for ids in [Some(&job.request.prompt), job.request.source.as_ref()]
            .into_iter()
            .flatten()
        {
            engine.check_ids(ids, 0)?;
        }
        Ok(Flight {
            ticket,
            course: Course::new(&job.request, engine.kernels())?,
            job,
            sequence: None,
            behind: None,
            cuts: Vec::new(),
            shared: 0,
        })
    }

    /// Ids that have gone through the model.
    pub fn held(&self) -> usize {
        self.sequence.as_ref().map_or(0, Sequence::len)
    }

    /// Ids that have not.
    pub fn remaining(&self) -> usize {
        self.course.all().len() - self.held()
    }

    /// Whether all of the prompt has gone through the model, and what was written before the text had to wait.
    pub fn decodes(&self) -> bool {
        self.remaining() == 1 && !self.course.ids().is_empty()
    }

    /// How many ids it will have some time from now.
    pub fn soon(&self) -> usize {
        let ahead = self.course.left(&self.job.request).min(AHEAD);
        self.course.all().len() + ahead
    }

    /// Whether its beginning may be that of another text: what the ids of one source mean says nothing of another's.
    pub fn can_share(&self) -> bool {
        self.job.request.source.is_none()
    }

    /// Draws the next id.
    ///
    /// # Errors
    /// The record's failure.
    pub fn draw(&mut self, row: &[f32]) -> Result<()> {
        let Generate {
            request,
            constraint,
            decode,
            watch,
        } = &mut self.job;
        if self.course.ids().is_empty() {
            watch.prompt_done();
            self.course.stop_if_full(request);
        }
        let mut parts = Parts {
            request,
            constraint: constraint.as_mut().map(|c| &mut **c as &mut dyn Constraint),
            decode: &mut **decode,
            watch: &mut **watch,
        };
        self.course.draw(|_| row, &[], &mut parts)?;
        Ok(())
    }

    /// What came of it.
    ///
    /// # Errors
    /// The record's failure.
    pub fn end(self) -> Result<Answer> {
        let Generate {
            request,
            mut decode,
            mut watch,
            ..
        } = self.job;
        let forced_tokens = self.course.forced();
        let ended = self.course.end(&mut Parts {
            request: &request,
            constraint: None,
            decode: &mut *decode,
            watch: &mut *watch,
        })?;
        let prompt = request.source.as_ref().unwrap_or(&request.prompt);
        let stats = Stats {
            prompt_tokens: prompt.len(),
            reused_tokens: self.shared,
            new_tokens: ended.ids.len(),
            forced_tokens,
            ..Stats::default()
        };
        Ok(Answer::Generated(Box::new(Outcome {
            ids: ended.ids,
            text: ended.text,
            finish: ended.finish,
            fingerprint: ended.fingerprint,
            stats,
        })))
    }
}

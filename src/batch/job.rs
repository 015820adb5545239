//! What the scheduler and the rest of a batch know of each other: jobs in one direction, answers in the other.
//!
//! The scheduler pulls jobs from a [`Feed`] ahead of need and finishes them in any order. What comes of a job has the same bits whatever ran beside
//! it, so the feed may put answers in any order it likes.

use crate::error::Result;
use crate::generate::{Constraint, Decode, Outcome, Request, Watch};
use crate::model::Engine;

/// What has to be done for one record, or for one of its choices.
pub struct Job<'a> {
    /// The feed's name for it; each is greater than those before.
    pub ticket: u64,
    /// What to do.
    pub task: Task<'a>,
}

/// What to do.
pub enum Task<'a> {
    /// Write a text.
    Generate(Box<Generate<'a>>),
    /// Something that runs alone, between passes: scores, embeddings.
    Whole(Box<Whole<'a>>),
}

/// Something that needs the engine for itself.
pub type Whole<'a> = dyn FnOnce(&mut Engine) -> Result<Answer> + 'a;

/// A text to write, and who takes part in it.
pub struct Generate<'a> {
    /// What to generate.
    pub request: Request,
    /// Says what may come next.
    pub constraint: Option<Box<dyn Constraint + 'a>>,
    /// From ids to text.
    pub decode: Box<dyn Decode + 'a>,
    /// Told of every id as it is chosen; the text as a whole is in the answer. Whether to stop is asked of the feed and not of this.
    pub watch: Box<dyn Watch + 'a>,
}

/// What came of a job.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A text.
    Generated(Box<Outcome>),
    /// How probable a text is.
    Scored(Scored),
    /// Vectors.
    Embedded(Embedded),
}

/// How probable the ids of a text are after those of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Ids that stand before it.
    pub prompt_tokens: usize,
    /// Each id of the text with the natural logarithm of its probability; none for one that nothing stands before.
    pub logprobs: Vec<(u32, Option<f64>)>,
}

/// The vectors of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Ids of all texts together.
    pub tokens: usize,
    /// One vector per text.
    pub vectors: Vec<Vec<f32>>,
}

/// What a feed has to say about the next job.
pub enum Next<'a> {
    /// Here it is.
    Job(Job<'a>),
    /// There is none yet.
    Pending,
    /// The input has ended.
    End,
}

/// Where jobs come from and answers go.
pub trait Feed<'a> {
    /// The next job. With `wait` nothing is in flight, so waiting for the input is right, but not for ever: [`Next::Pending`] then means that it is time
    /// to ask [`Feed::stop_asked`]. Without it the answer is [`Next::Pending`] at once where no line is there yet, or where the feed has handed out all that
    /// it can keep answers of.
    ///
    /// # Errors
    /// Ends the run.
    fn next(&mut self, wait: bool) -> Result<Next<'a>>;
    /// What came of a job; an error in `answer` is its record's failure and not the run's.
    ///
    /// # Errors
    /// Ends the run.
    fn done(&mut self, ticket: u64, answer: Result<Answer>) -> Result<()>;
    /// Whether to stop now, with what is in flight unfinished; asked between passes.
    fn stop_asked(&mut self) -> bool;
    /// How it goes; called after every pass.
    fn progress(&mut self, now: &Load);
}

/// What the machine may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most texts that are written side by side; none: as many as are of use.
    pub max_inflight: Option<usize>,
    /// Most bytes of keys, values and states; none: what memory there is.
    pub kv_memory: Option<u64>,
    /// Most new tokens of one pass.
    pub chunk: usize,
}

/// How it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Texts being written.
    pub in_flight: usize,
    /// Jobs that were pulled and wait for memory.
    pub waiting: usize,
    /// Bytes of keys, values and states at the moment.
    pub kv_bytes: usize,
    /// So far.
    pub totals: Totals,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Prompt tokens that went through the model.
    pub prompt_tokens: u64,
    /// Prompt tokens that did not have to, since another text begins with them.
    pub shared_tokens: u64,
    /// Tokens that were generated.
    pub new_tokens: u64,
    /// Passes of the model.
    pub passes: u64,
    /// Most texts that were written side by side.
    pub most_in_flight: usize,
    /// Most bytes of keys, values and states.
    pub most_kv_bytes: usize,
}

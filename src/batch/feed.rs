//! From lines to jobs, and from answers to lines: what a batch keeps while work is under way.
//!
//! Every record that was begun has a slot, in input order. Its jobs (one per choice) go to the scheduler, their answers come back in any order, and when
//! all of them are there they become its line. Lines leave from the front, or at once where the order of the input is not wanted. How far the feed runs ahead of
//! the oldest record that has no line is bounded, in records and in bytes of lines that wait.

use super::Failure;
use super::answer::{self, Body, Choice, Place, Style};
use super::ask::{Ask, Prompt};
use super::identity::{choice_seed, record_seed, short_hash};
use super::job::{Answer, Feed, Generate, Job, Load, Next, Task, Whole};
use super::journal::Journal;
use super::lines::{Found, Input};
use super::notes::Notes;
use super::record::{self, Score, Shape, Work};
use super::resume::{ErrorLines, Resumed};
use super::shard::Shard;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::{Constraint, Decode, Request};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Most records that are begun and not written.
const MAX_AHEAD: usize = 16 << 10;
/// Most bytes of lines that wait for an earlier one.
const MAX_WAITING: usize = 64 << 20;
/// How long to wait for a line before looking whether a stop was asked for.
const PATIENCE: Duration = Duration::from_millis(50);

/// A text to write, but for who notes its ids.
pub struct Text<'a> {
    /// What to generate.
    pub request: Request,
    /// Says what may come next.
    pub constraint: Option<Box<dyn Constraint + 'a>>,
    /// From ids to text.
    pub decode: Box<dyn Decode + 'a>,
    /// What is shown of the text.
    pub show: Box<dyn FnOnce(String) -> String + 'a>,
}

/// Who makes jobs of what records ask for.
pub trait Prepare<'a> {
    /// A text after one of the prompts of `ask`.
    ///
    /// # Errors
    /// The record's failure.
    fn text(&mut self, ask: &Ask, prompt: &Prompt, seed: u64) -> Result<Text<'a>>;
    /// How probable a text is.
    ///
    /// # Errors
    /// The record's failure.
    fn score(&mut self, score: &Score) -> Result<Box<Whole<'a>>>;
    /// Vectors of these; of unit length or as the run says.
    ///
    /// # Errors
    /// The record's failure.
    fn embed(&mut self, inputs: &[Prompt], unit: bool) -> Result<Box<Whole<'a>>>;
    /// The bytes of an id.
    fn bytes(&self, id: u32) -> Vec<u8>;
}

/// Who follows a batch.
pub trait Observe {
    /// Whether to stop.
    fn stop_asked(&mut self) -> bool;
    /// How it goes.
    fn show(&mut self, status: &Status);
}

/// How a batch goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Records that this run is to have written at its end, if that is known.
    pub total: Option<u64>,
    /// Records of an earlier run that this one goes on with.
    pub found: u64,
    /// Records that this run wrote.
    pub done: u64,
    /// How many of both failed, by code.
    pub failures: BTreeMap<String, u64>,
    /// What the scheduler says.
    pub load: Load,
}

impl Status {
    /// How many records failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// What a batch is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lines are prompts and not JSON.
    pub as_text: bool,
    /// Fields that are not known are passed over.
    pub lenient: bool,
    /// Lines are written in the order of the input.
    pub in_order: bool,
    /// The first failure ends the run.
    pub fail_fast: bool,
    /// Which records are this run's.
    pub shard: Shard,
    /// How many records of the input count.
    pub limit: Option<u64>,
    /// Seed of the run.
    pub seed: u64,
    /// How answers look.
    pub style: Style,
    /// Whether names have to be compared here, since nobody did so before.
    pub compare_names: bool,
}

/// A batch on its way.
pub struct Batch<'a, 'e> {
    settings: Settings,
    input: Input,
    prepare: &'e mut dyn Prepare<'a>,
    observe: &'e mut dyn Observe,
    journal: Journal,
    errors: Option<ErrorLines>,
    resumed: Resumed,
    status: Status,
    /// Records read so far.
    read: u64,
    /// This run's records so far.
    own: u64,
    ended: bool,
    names: HashSet<u128>,
    slots: VecDeque<Slot<'a>>,
    /// The number of the first slot.
    first: u64,
    /// Bytes of lines in slots.
    waiting: usize,
    /// Jobs in the hands of the scheduler: the slot and the part of it.
    jobs: HashMap<u64, (u64, usize)>,
    next_ticket: u64,
    /// The record in the last slot, as long as some of its jobs have not been handed out.
    current: Option<Box<Ask>>,
    /// What went wrong where nobody could be told.
    late: Option<Error>,
}

struct Slot<'a> {
    place: Place,
    state: State<'a>,
}

enum State<'a> {
    /// Work is under way.
    Working(Working<'a>),
    /// This is to be written.
    Ready(Line),
    /// It has been written.
    Written,
}

struct Line {
    text: String,
    /// The code and message of what failed.
    failure: Option<Failure>,
}

struct Working<'a> {
    /// What is known of each part before its answer comes.
    parts: Vec<Part<'a>>,
    /// Parts whose answers have not come.
    missing: usize,
    per_prompt: usize,
    /// The failure of the part that is first in order.
    failure: Option<(usize, Failure)>,
}

enum Part<'a> {
    /// Not handed out yet.
    Later,
    /// A text on its way.
    Text(Expected<'a>),
    /// Something else on its way.
    Whole,
    /// A text.
    Done(Box<Choice>),
    /// Scores or vectors.
    Answered(Body),
    /// A failure.
    Failed,
}

struct Expected<'a> {
    show: Box<dyn FnOnce(String) -> String + 'a>,
    notes: Option<Notes>,
    prompt_ids: Option<Vec<u32>>,
    seed: u64,
}

impl<'a, 'e> Batch<'a, 'e> {
    /// A batch that has written nothing yet but what `resumed` says.
    pub fn new(
        settings: Settings,
        input: Input,
        prepare: &'e mut dyn Prepare<'a>,
        observe: &'e mut dyn Observe,
        journal: Journal,
        errors: Option<ErrorLines>,
        resumed: Resumed,
        total: Option<u64>,
    ) -> Batch<'a, 'e> {
        let status = Status {
            total,
            found: journal.saved(),
            failures: resumed.failures.clone(),
            ..Status::default()
        };
        Batch {
            settings,
            input,
            prepare,
            observe,
            journal,
            errors,
            resumed,
            status,
            read: 0,
            own: 0,
            ended: false,
            names: HashSet::new(),
            slots: VecDeque::new(),
            first: 0,
            waiting: 0,
            jobs: HashMap::new(),
            next_ticket: 0,
            current: None,
            late: None,
        }
    }

    /// How it goes.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Where lines go.
    pub fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Whether every record of the input has its line.
    pub fn is_complete(&self) -> bool {
        self.ended && self.slots.is_empty()
    }

    fn is_far_ahead(&self) -> bool {
        self.slots.len() >= MAX_AHEAD || self.waiting >= MAX_WAITING
    }

    /// The next job of the record that is being handed out; none if there is no such record.
    fn next_of_current(&mut self) -> Result<Option<Job<'a>>> {
        while let Some(ask) = self.current.take() {
            let slot = self.first + self.slots.len() as u64 - 1;
            let Some(Slot {
                place,
                state: State::Working(working),
            }) = self.slots.back_mut()
            else {
                return Ok(None);
            };
            let Some(part) = working.parts.iter().position(|p| matches!(p, Part::Later)) else {
                continue;
            };
            let per_prompt = working.per_prompt;
            let prompt = &ask.prompts[part / per_prompt];
            let given = ask.sampling.seed;
            let seed = given.unwrap_or_else(|| {
                record_seed(self.settings.seed, place.index, place.head.id.as_deref())
            });
            let seed = choice_seed(seed, part as u32);
            let text = match self.prepare.text(&ask, prompt, seed) {
                Ok(text) => text,
                Err(e) => {
                    // What one choice cannot be, no other can.
                    let missing = working.parts.iter().filter(|p| matches!(p, Part::Later));
                    working.missing -= missing.count();
                    for later in working.parts.iter_mut() {
                        if matches!(later, Part::Later) {
                            *later = Part::Failed;
                        }
                    }
                    working.fail(part, Failure::of_request(e)?);
                    self.settle(slot)?;
                    return Ok(None);
                }
            };
            let notes = ask.top.map(|_| Notes::default());
            let request = &text.request;
            let prompt_ids = request.source.as_ref().unwrap_or(&request.prompt);
            working.parts[part] = Part::Text(Expected {
                show: text.show,
                notes: notes.clone(),
                prompt_ids: self.settings.style.token_ids.then(|| prompt_ids.clone()),
                seed,
            });
            let watch = notes.unwrap_or_default().watch(ask.top);
            let task = Task::Generate(Box::new(Generate {
                request: text.request,
                constraint: text.constraint,
                decode: text.decode,
                watch: Box::new(watch),
            }));
            self.current = Some(ask);
            return Ok(Some(self.hand_out(slot, part, task)));
        }
        Ok(None)
    }

    fn hand_out(&mut self, slot: u64, part: usize, task: Task<'a>) -> Job<'a> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.jobs.insert(ticket, (slot, part));
        Job { ticket, task }
    }

    /// Makes a slot for a record and the first job of it, if it has one.
    fn begin(&mut self, place: Place, work: Result<Work, Failure>) -> Result<Option<Job<'a>>> {
        let slot = self.first + self.slots.len() as u64;
        let unit = place.head.shape == Shape::Embedding;
        let work = match place.twice {
            true => Err(Failure::new(
                "duplicate_id",
                "the record has the name of an earlier one, expected another",
            )),
            false => work,
        };
        let (parts, per_prompt) = match &work {
            Ok(Work::Generate(ask)) => {
                let per_prompt = ask.choices as usize;
                (ask.prompts.len() * per_prompt, per_prompt)
            }
            _ => (1, 1),
        };
        let later = std::iter::repeat_with(|| Part::Later);
        self.slots.push_back(Slot {
            place,
            state: State::Working(Working {
                parts: later.take(parts).collect(),
                missing: parts,
                per_prompt,
                failure: None,
            }),
        });
        let whole = match work {
            Ok(Work::Generate(ask)) => {
                self.current = Some(ask);
                return self.next_of_current();
            }
            Ok(Work::Score(score)) => self.prepare.score(&score).map_err(Failure::of_request),
            Ok(Work::Embed(inputs)) => {
                let whole = self.prepare.embed(&inputs, unit);
                whole.map_err(Failure::of_request)
            }
            Err(failure) => Err(Ok(failure)),
        };
        let Some(State::Working(working)) = self.slots.back_mut().map(|s| &mut s.state) else {
            return Ok(None);
        };
        match whole {
            Ok(whole) => {
                working.parts[0] = Part::Whole;
                Ok(Some(self.hand_out(slot, 0, Task::Whole(whole))))
            }
            Err(failure) => {
                working.parts[0] = Part::Failed;
                working.missing = 0;
                working.fail(0, failure?);
                self.settle(slot)?;
                Ok(None)
            }
        }
    }

    /// Makes the line of a record all of whose answers are there, and writes what can be written.
    fn settle(&mut self, slot: u64) -> Result<()> {
        let at = (slot - self.first) as usize;
        let Some(Slot { place, state }) = self.slots.get_mut(at) else {
            return Ok(());
        };
        let State::Working(working) = state else {
            return Ok(());
        };
        if working.missing > 0 {
            return Ok(());
        }
        let prepare = &*self.prepare;
        let text = match &working.failure {
            Some((_, failure)) => answer::failure_line(place, failure)?,
            None => {
                let parts = std::mem::take(&mut working.parts);
                let body = body(parts, working.per_prompt);
                answer::line(place, &body, &self.settings.style, &|id| prepare.bytes(id))?
            }
        };
        let failure = working.failure.take().map(|(_, failure)| failure);
        self.waiting += text.len();
        *state = State::Ready(Line { text, failure });
        if !self.settings.in_order {
            self.write(at)?;
        }
        while let Some(slot) = self.slots.front() {
            match slot.state {
                State::Working(_) => break,
                State::Ready(_) => self.write(0)?,
                State::Written => {
                    self.slots.pop_front();
                    self.first += 1;
                }
            }
        }
        Ok(())
    }

    /// Writes the line of a slot that has one.
    fn write(&mut self, at: usize) -> Result<()> {
        let Some(slot) = self.slots.get_mut(at) else {
            return Ok(());
        };
        let State::Ready(line) = std::mem::replace(&mut slot.state, State::Written) else {
            return Ok(());
        };
        self.waiting -= line.text.len();
        let number = slot.place.line;
        self.journal.write(&line.text)?;
        self.status.done += 1;
        if let Some(failure) = line.failure {
            let count = self.status.failures.entry(failure.code.to_owned());
            *count.or_default() += 1;
            if let Some(errors) = &mut self.errors {
                errors.write(line.text.as_bytes())?;
            }
            if self.settings.fail_fast {
                return Err(Error::new(
                    ErrorKind::Partial,
                    format_args!("stopped at line {number}: {}", failure.message),
                ));
            }
        }
        self.observe.show(&self.status);
        Ok(())
    }
}

impl Working<'_> {
    fn fail(&mut self, part: usize, failure: Failure) {
        if self.failure.as_ref().is_none_or(|(first, _)| part < *first) {
            self.failure = Some((part, failure));
        }
    }
}

/// What all parts of a record are together; none of them failed.
fn body(parts: Vec<Part>, per_prompt: usize) -> Body {
    let mut choices = Vec::new();
    for part in parts {
        match part {
            Part::Answered(body) => return body,
            Part::Done(choice) => choices.push(*choice),
            Part::Later | Part::Text(_) | Part::Whole | Part::Failed => {}
        }
    }
    Body::Texts {
        choices,
        per_prompt,
    }
}

impl<'a> Feed<'a> for Batch<'a, '_> {
    fn next(&mut self, wait: bool) -> Result<Next<'a>> {
        loop {
            if let Some(job) = self.next_of_current()? {
                return Ok(Next::Job(job));
            }
            if let Some(e) = self.late.take() {
                return Err(e);
            }
            if self.ended {
                return Ok(Next::End);
            }
            if self.observe.stop_asked() || (!wait && self.is_far_ahead()) {
                return Ok(Next::Pending);
            }
            if self.settings.limit.is_some_and(|limit| self.read >= limit) {
                self.ended = true;
                continue;
            }
            let patience = if wait { PATIENCE } else { Duration::ZERO };
            let line = match self.input.next(patience)? {
                Found::Line(line) => line,
                Found::Pending => {
                    self.journal.tick()?;
                    return Ok(Next::Pending);
                }
                Found::End => {
                    self.ended = true;
                    continue;
                }
            };
            let index = self.read;
            self.read += 1;
            let compare = self.settings.compare_names;
            if !self.settings.shard.has(index) && !compare {
                continue;
            }
            let (head, work) = record::parse(&line, self.settings.as_text, self.settings.lenient);
            let name = head.id.as_deref().filter(|_| compare).map(short_hash);
            let twice = name.is_some_and(|name| !self.names.insert(name));
            if !self.settings.shard.has(index) {
                continue;
            }
            let place = Place {
                index,
                line: line.number,
                head,
                twice,
            };
            let own = self.own;
            self.own += 1;
            if self.resumed.has(own, &place)? {
                continue;
            }
            if let Some(job) = self.begin(place, work)? {
                return Ok(Next::Job(job));
            }
        }
    }

    fn done(&mut self, ticket: u64, answer: Result<Answer>) -> Result<()> {
        if let Some(e) = self.late.take() {
            return Err(e);
        }
        let Some((slot, part)) = self.jobs.remove(&ticket) else {
            return Ok(());
        };
        let at = (slot - self.first) as usize;
        let Some(State::Working(working)) = self.slots.get_mut(at).map(|s| &mut s.state) else {
            return Ok(());
        };
        working.missing -= 1;
        let before = std::mem::replace(&mut working.parts[part], Part::Failed);
        working.parts[part] = match (before, answer) {
            (Part::Text(expected), Ok(Answer::Generated(mut outcome))) => {
                let text = (expected.show)(std::mem::take(&mut outcome.text));
                Part::Done(Box::new(Choice {
                    outcome: *outcome,
                    text,
                    prompt_ids: expected.prompt_ids,
                    seed: expected.seed,
                    notes: expected.notes.map(|notes| notes.take()),
                }))
            }
            (_, Ok(Answer::Scored(scored))) => Part::Answered(Body::Scored(scored)),
            (_, Ok(Answer::Embedded(vectors))) => Part::Answered(Body::Embedded(vectors)),
            (_, Ok(Answer::Generated(_))) => Part::Failed,
            (_, Err(e)) => {
                working.fail(part, Failure::of_run(e)?);
                Part::Failed
            }
        };
        self.settle(slot)
    }

    fn stop_asked(&mut self) -> bool {
        self.observe.stop_asked()
    }

    fn progress(&mut self, now: &Load) {
        self.status.load = *now;
        self.observe.show(&self.status);
        // A long text must not keep the lines before it from the disk.
        if let Err(e) = self.journal.tick() {
            self.late = Some(e);
        }
    }
}

#[cfg(test)]
mod tests;

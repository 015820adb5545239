//! Who works when: many texts at once, each as if it were alone.
//!
//! ```text
//! feed -> queue -> (memory, place, beginning) -> active -> one ragged pass -> rows -> courses -> feed
//!           ^                                      |
//!           +------- memory was needed ------------+
//! ```
//! A pass takes the next id of every text that is being written, and prompt ids up to a limit: half of them for the oldest prompt, the rest for
//! those that need the fewest, so that a long prompt neither holds up short ones nor starves. Texts join and leave between any two passes. Since a
//! row of logits has the same bits whatever is in the pass, who shared it cannot be seen in the result.
//!
//! A text that begins like another one takes over the pages of its caches (copy on write); one whose beginning is being computed waits for it.
//! Memory is bounded: a text is let in when there is room for its prompt and some ids, in order. Where texts grow beyond the bound, beginnings
//! kept for later go first, then the text that was let in last, whose ids are kept and go through the model again later: the same ids in other passes leave
//! the same bits. The oldest one always stays, so that there is progress.

use super::flight::Flight;
use super::job::{Feed, Job, Limits, Load, Next, Task, Totals};
use super::prefix::{self, Kept, Store, common};
use crate::cache::{Meter, PAGE, Sequence};
use crate::error::{Error, ErrorKind, Result};
use crate::generate::begin;
use crate::model::{Engine, Step, Wanted};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Texts side by side unless the caller says otherwise: the products of a pass are as fast as they get from 32 rows or so on, and some texts are always
/// at their prompt or their end.
const IN_FLIGHT: usize = 64;

/// Fewest texts to know of ahead, so that a text leaves copies of its beginning for those that come behind it.
const KNOWN: usize = 16;

/// Copies that one prompt leaves for others on its way.
const CUTS: usize = 4;

/// Runs the jobs of a feed until its input has ended, it asks to stop or something fails that is more than one record's failure.
///
/// # Errors
/// What the feed returns; a model file that changed.
pub fn run<'a>(engine: &mut Engine, limits: &Limits, feed: &mut dyn Feed<'a>) -> Result<Totals> {
    let most = limits.max_inflight.unwrap_or(IN_FLIGHT).max(1);
    let mut schedule = Schedule {
        most,
        memory: limits
            .kv_memory
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        chunk: limits.chunk.max(1),
        meter: Meter::default(),
        queue: VecDeque::new(),
        active: Vec::new(),
        store: Store::default(),
        side_by_side: most,
        ended: false,
        load: Load::default(),
    };
    while !feed.stop_asked() {
        schedule.pull(engine, feed)?;
        schedule.let_in(engine, feed)?;
        if !schedule.active.is_empty() {
            schedule.pass(engine, feed)?;
        } else if schedule.ended && schedule.queue.is_empty() {
            break;
        }
        feed.progress(&schedule.load());
    }
    Ok(schedule.load.totals)
}

/// Whether an error is the whole run's and not one record's.
fn is_fatal(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Changed | ErrorKind::Io)
}

struct Schedule<'a> {
    /// Most texts side by side.
    most: usize,
    /// Most bytes of caches and states.
    memory: usize,
    /// Most prompt ids of a pass.
    chunk: usize,
    meter: Meter,
    /// Texts that wait, the next one first.
    queue: VecDeque<Flight<'a>>,
    /// Texts that are being written, the oldest one first.
    active: Vec<Flight<'a>>,
    store: Store,
    /// Less than `most` while it is found out which of them a pass fails for.
    side_by_side: usize,
    ended: bool,
    load: Load,
}

impl<'a> Schedule<'a> {
    fn load(&mut self) -> Load {
        self.load.in_flight = self.active.len();
        self.load.waiting = self.queue.len();
        self.load.kv_bytes = self.bytes();
        let totals = &mut self.load.totals;
        totals.most_in_flight = totals.most_in_flight.max(self.load.in_flight);
        totals.most_kv_bytes = totals.most_kv_bytes.max(self.load.kv_bytes);
        self.load
    }

    /// Bytes of all caches and states, but for copies of states that sequences keep of their past.
    fn bytes(&self) -> usize {
        let states = self.active.iter().filter_map(|f| f.sequence.as_ref());
        let states: usize = states.map(|s| s.bytes_for(0)).sum();
        self.meter.bytes() + states + self.store.state_bytes()
    }

    /// Fills the queue, with as many as could be let in at once.
    fn pull(&mut self, engine: &mut Engine, feed: &mut dyn Feed<'a>) -> Result<()> {
        while !self.ended && self.queue.len() < self.most.max(KNOWN) {
            let idle = self.queue.is_empty() && self.active.is_empty();
            let Job { ticket, task } = match feed.next(idle)? {
                Next::Job(job) => job,
                Next::Pending => return Ok(()),
                Next::End => {
                    self.ended = true;
                    return Ok(());
                }
            };
            match task {
                Task::Whole(work) => {
                    let answer = work(engine);
                    self.load.totals.passes += 1;
                    self.finish(feed, ticket, answer)?;
                    // Texts in flight come next, and whoever asks to stop.
                    return Ok(());
                }
                Task::Generate(job) => match Flight::new(ticket, *job, engine) {
                    Ok(flight) => self.queue.push_back(flight),
                    Err(e) => self.finish(feed, ticket, Err(e))?,
                },
            }
        }
        Ok(())
    }

    fn finish(
        &mut self,
        feed: &mut dyn Feed<'a>,
        ticket: u64,
        answer: Result<super::Answer>,
    ) -> Result<()> {
        match answer {
            Err(e) if is_fatal(&e) => Err(e),
            answer => feed.done(ticket, answer),
        }
    }

    /// Lets texts in, in order, but for those that wait for their beginning.
    fn let_in(&mut self, engine: &mut Engine, feed: &mut dyn Feed<'a>) -> Result<()> {
        let mut at = 0;
        while at < self.queue.len() && self.active.len() < self.side_by_side {
            if self.is_behind(at) {
                at += 1;
                continue;
            }
            let Some(mut flight) = self.queue.remove(at) else {
                return Ok(());
            };
            match self.begin(engine, &mut flight) {
                Ok(ControlFlow::Continue(())) if flight.behind.is_none() => {
                    self.active.push(flight)
                }
                Ok(ControlFlow::Continue(())) => {
                    self.queue.insert(at, flight);
                    at += 1;
                }
                Ok(ControlFlow::Break(())) => {
                    self.queue.insert(at, flight);
                    return Ok(());
                }
                Err(e) => self.finish(feed, flight.ticket, Err(e))?,
            }
        }
        Ok(())
    }

    /// Whether a waiting text's beginning is still being computed.
    fn is_behind(&self, at: usize) -> bool {
        self.queue[at].behind.is_some_and(|(ticket, n)| {
            let ahead = self.active.iter().find(|f| f.ticket == ticket);
            ahead.is_some_and(|f| f.held() < n)
        })
    }

    /// Gives a waiting text its sequence; breaks off where there is no room for it. It may come out that it has to wait for another one.
    fn begin(&mut self, engine: &mut Engine, flight: &mut Flight<'a>) -> Result<ControlFlow<()>> {
        flight.behind = None;
        let model = engine.model().clone();
        let (request, prompt) = (&flight.job.request, flight.job.request.prompt.len());
        // Logits are wanted after the last id.
        let ids = &flight.course.all()[..flight.course.all().len() - 1];
        let alike = |s: &Sequence| model.turns_alike(s.prompt_len(), prompt);
        let mut shared = 0;
        // Whose sequence: that of an active text, or the last one of the store.
        let mut whose = None;
        if flight.can_share() {
            shared = self.store.find(ids, request.kv, alike);
            let mut ahead = (0, 0);
            for (i, other) in self.active.iter_mut().enumerate() {
                let same = other.can_share() && other.job.request.kv == request.kv;
                let Some(sequence) = other.sequence.as_mut().filter(|s| same && alike(s)) else {
                    continue;
                };
                let n = common(ids, other.course.all());
                let now = sequence.nearest(n.min(sequence.len()));
                if now > shared {
                    (shared, whose) = (now, Some(i));
                }
                if sequence.len() < n {
                    ahead = ahead.max((n, i));
                }
            }
            let (mut n, i) = ahead;
            if n >= shared + prefix::FEWEST {
                let other = &mut self.active[i];
                if other.sequence.as_ref().is_some_and(Sequence::moves_on) {
                    n = cut(
                        &mut other.cuts,
                        other.sequence.as_ref().map_or(0, Sequence::len),
                        n,
                    );
                }
                if n >= shared + prefix::FEWEST {
                    flight.behind = Some((self.active[i].ticket, n));
                    return Ok(ControlFlow::Continue(()));
                }
            }
        }
        if shared < prefix::FEWEST {
            (shared, whose) = (0, None);
        }
        let meter = self.meter.clone();
        let fresh = || {
            let mut sequence = model.new_sequence(request.kv);
            sequence.meter_with(&meter);
            sequence
        };
        let (soon, source) = (flight.soon(), request.source.as_deref());
        let needs = {
            let sequence = fresh();
            // A page that is shared in part is copied before it is written.
            let whole = shared / PAGE * PAGE;
            let (all, had) = (sequence.bytes_for(soon), sequence.bytes_for(whole));
            let source = sequence.source().zip(source);
            let source = source.map_or(0, |(sequence, ids)| sequence.bytes_for(ids.len()));
            all - had + sequence.bytes_for(0) + source
        };
        let from_store = shared > 0 && whose.is_none();
        if !self.has_room(needs, usize::from(from_store)) {
            if !self.active.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            if from_store {
                self.store = Store::default();
                return self.begin(engine, flight);
            }
            return Err(self.no_room(needs, soon));
        }
        let from = match whose {
            Some(i) => self.active[i].sequence.as_mut(),
            None => self.store.last(),
        };
        let sequence = match from.filter(|_| shared > 0) {
            Some(from) => {
                let mut sequence = from.fork(shared)?;
                sequence.set_prompt_len(prompt);
                sequence
            }
            None => begin(engine, fresh(), source, prompt, request.context)?,
        };
        if sequence.moves_on() && flight.can_share() {
            // What later texts share with this one is lost unless it is kept in time.
            for other in self.queue.iter().filter(|other| other.can_share()) {
                let n = common(
                    ids,
                    &other.job.request.prompt[..other.job.request.prompt.len() - 1],
                );
                if n >= prefix::FEWEST {
                    cut(&mut flight.cuts, shared, n);
                }
            }
        }
        if flight.course.ids().is_empty() {
            flight.shared = shared;
            self.load.totals.shared_tokens += shared as u64;
        }
        flight.sequence = Some(sequence);
        Ok(ControlFlow::Continue(()))
    }

    fn no_room(&self, bytes: usize, tokens: usize) -> Error {
        Error::limit(format_args!(
            "its keys and values need {bytes} bytes for {tokens} tokens, but all texts together may have {}",
            self.memory
        ))
    }

    /// Whether so many bytes more fit, beside what the active texts will need soon; beginnings that are kept go for them, but for the `spared` ones that
    /// were used last.
    fn has_room(&mut self, bytes: usize, spared: usize) -> bool {
        let grows = |f: &Flight<'_>| {
            let sequence = f.sequence.as_ref()?;
            Some(
                sequence
                    .bytes_for(f.soon())
                    .saturating_sub(sequence.bytes_for(f.held())),
            )
        };
        let others: usize = self.active.iter().filter_map(grows).sum();
        loop {
            if self.bytes().saturating_add(others).saturating_add(bytes) <= self.memory {
                return true;
            }
            if !self.store.forget(spared) {
                return false;
            }
        }
    }

    /// The ids of every active text that go into the next pass.
    fn plan(&self) -> Vec<usize> {
        let mut plan = vec![0; self.active.len()];
        let mut prompts = Vec::new();
        for (i, flight) in self.active.iter().enumerate() {
            match flight.decodes() {
                true => plan[i] = 1,
                false => prompts.push(i),
            }
        }
        let Some(&oldest) = prompts.first() else {
            return plan;
        };
        let mut left = self.chunk;
        let mut take = |i: usize, most: usize, left: &mut usize| {
            let flight = &self.active[i];
            let (held, done) = (flight.held(), plan[i]);
            let cut = flight.cuts.iter().find(|cut| **cut > held);
            let end = cut.map_or(flight.remaining(), |cut| flight.remaining().min(cut - held));
            let n = (end - done).min(most);
            plan[i] += n;
            *left -= n;
        };
        take(oldest, self.chunk.div_ceil(2), &mut left);
        prompts[1..].sort_by_key(|i| self.active[*i].remaining());
        for &i in &prompts[1..] {
            take(i, left, &mut left);
        }
        take(oldest, left, &mut left);
        plan
    }

    /// Makes room for what a pass adds; texts may have to leave for that.
    ///
    /// # Errors
    /// One text alone has grown beyond the bound.
    fn make_room(&mut self, plan: &mut Vec<usize>) -> Result<()> {
        loop {
            let grows =
                |(flight, n): (&Flight<'_>, &usize)| flight.sequence.as_ref().map(|s| s.growth(*n));
            let more: usize = self.active.iter().zip(&*plan).filter_map(grows).sum();
            let needs = self.bytes().saturating_add(more);
            if needs <= self.memory {
                return Ok(());
            }
            if self.store.forget(0) {
                continue;
            }
            if let [flight] = &self.active[..] {
                return Err(self.no_room(needs, flight.held() + plan[0]));
            }
            self.put_back_last();
            plan.pop();
        }
    }

    /// The text that was let in last waits again.
    fn put_back_last(&mut self) {
        if let Some(mut flight) = self.active.pop() {
            flight.sequence = None;
            flight.cuts.clear();
            self.queue.push_front(flight);
        }
    }

    /// One pass, and what comes of it.
    fn pass(&mut self, engine: &mut Engine, feed: &mut dyn Feed<'a>) -> Result<()> {
        let mut plan = self.plan();
        if let Err(e) = self.make_room(&mut plan) {
            return self.failed(e, feed);
        }
        let model = engine.model().clone();
        let mut steps = Vec::with_capacity(plan.len());
        for (flight, &n) in self.active.iter_mut().zip(&plan) {
            let (held, last) = (flight.held(), n == flight.remaining());
            let Some(seq) = flight.sequence.as_mut().filter(|_| n > 0) else {
                continue;
            };
            steps.push(Step {
                seq,
                tokens: &flight.course.all()[held..held + n],
                wanted: if last { Wanted::Last } else { Wanted::None },
            });
        }
        let logits = match engine.forward(&mut steps) {
            Ok(logits) => logits,
            Err(e) if is_fatal(&e) => return Err(e),
            Err(e) => return self.failed(e, feed),
        };
        model.file().check_unchanged()?;
        self.load.totals.passes += 1;
        let mut row = 0;
        let (mut failures, mut copies) = (Vec::new(), Vec::new());
        for (i, (flight, &n)) in self.active.iter_mut().zip(&plan).enumerate() {
            if n == 0 {
                continue;
            }
            let before = flight.course.ids().len();
            if before == 0 {
                self.load.totals.prompt_tokens += n as u64;
            }
            let held = flight.held();
            // Where there is no memory for a copy, the others compute it themselves.
            if flight.cuts.contains(&held)
                && let Some(Ok(sequence)) = flight.sequence.as_mut().map(|s| s.fork(held))
            {
                copies.push(Kept {
                    ids: flight.course.all()[..held].to_vec(),
                    kv: flight.job.request.kv,
                    sequence,
                });
            }
            if flight.remaining() > 0 {
                continue;
            }
            let drawn = flight.draw(logits.row(row));
            row += 1;
            self.load.totals.new_tokens += (flight.course.ids().len() - before) as u64;
            if let Err(e) = drawn {
                failures.push((i, e));
            }
        }
        for copy in copies {
            self.store.keep(copy);
            while self.bytes() > self.memory && self.store.forget(0) {}
        }
        for (i, e) in failures.into_iter().rev() {
            let flight = self.active.remove(i);
            self.finish(feed, flight.ticket, Err(e))?;
        }
        let mut i = 0;
        while i < self.active.len() {
            if self.active[i].course.finish().is_none() {
                i += 1;
                continue;
            }
            let mut flight = self.active.remove(i);
            self.leave_behind(&mut flight);
            let ticket = flight.ticket;
            let answer = flight.end();
            self.finish(feed, ticket, answer)?;
            self.side_by_side = self.most;
        }
        Ok(())
    }

    /// A pass failed and nothing has happened: if it was that of one text alone, it is that one's failure; else the oldest one goes on alone until it
    /// is done.
    fn failed(&mut self, e: Error, feed: &mut dyn Feed<'a>) -> Result<()> {
        self.store = Store::default();
        if self.active.len() == 1 {
            let flight = self.active.remove(0);
            self.side_by_side = self.most;
            return self.finish(feed, flight.ticket, Err(e));
        }
        // Sequences that had to be computed anew may be empty: all of them begin again.
        while !self.active.is_empty() {
            self.put_back_last();
        }
        self.side_by_side = 1;
        Ok(())
    }

    /// Keeps a prompt that is done for texts to come which begin like it.
    fn leave_behind(&mut self, flight: &mut Flight<'a>) {
        if self.ended && self.queue.is_empty() || !flight.can_share() {
            return;
        }
        let prompt = flight.job.request.prompt.len();
        if let Some(mut sequence) = flight.sequence.take()
            && !sequence.moves_on()
            && prompt >= prefix::FEWEST
            && sequence.truncate(prompt).is_ok()
        {
            self.store.keep(Kept {
                ids: flight.job.request.prompt.clone(),
                kv: flight.job.request.kv,
                sequence,
            });
        }
    }
}

/// Arranges for a copy after about `n` ids, at most that many, of a sequence that has `len`; returns after how many, 0 if there can be none.
fn cut(cuts: &mut Vec<usize>, len: usize, n: usize) -> usize {
    let n = n / prefix::CUT * prefix::CUT;
    cuts.retain(|cut| *cut > len);
    if !cuts.contains(&n) && n > len && cuts.len() < CUTS {
        cuts.push(n);
        cuts.sort_unstable();
    }
    cuts.iter()
        .rev()
        .copied()
        .find(|cut| *cut <= n)
        .unwrap_or(0)
}

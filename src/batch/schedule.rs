//! Who works when: jobs one after another, each as if it were alone.

use super::job::{Answer, Feed, Generate, Limits, Load, Next, Task, Totals};
use crate::error::{ErrorKind, Result};
use crate::generate::{Constraint, Finish, Generation, Session, Watch};
use crate::model::Engine;

/// Runs the jobs of a feed until its input has ended, it asks to stop or something fails that is more than one record's failure.
///
/// # Errors
/// What the feed returns; a model file that changed.
pub fn run<'a>(engine: &mut Engine, limits: &Limits, feed: &mut dyn Feed<'a>) -> Result<Totals> {
    let mut load = Load::default();
    while !feed.stop_asked() {
        let job = match feed.next(true)? {
            Next::Job(job) => job,
            // Nothing is in flight, so there is nothing to come back to.
            Next::Pending => continue,
            Next::End => break,
        };
        let answer = match job.task {
            Task::Whole(work) => Some(work(engine)),
            Task::Generate(mut generate) => {
                generate.request.chunk = generate.request.chunk.min(limits.chunk);
                alone(engine, *generate, &mut load, feed).transpose()
            }
        };
        let Some(answer) = answer else { break };
        load.in_flight = 0;
        load.kv_bytes = 0;
        load.totals.passes += 1;
        match answer {
            Err(e) if matches!(e.kind(), ErrorKind::Changed | ErrorKind::Io) => return Err(e),
            answer => feed.done(job.ticket, answer)?,
        }
        feed.progress(&load);
    }
    Ok(load.totals)
}

/// One text; none if it was to stop before its end.
fn alone<'a>(
    engine: &mut Engine,
    generate: Generate<'a>,
    load: &mut Load,
    feed: &mut dyn Feed<'a>,
) -> Result<Option<Answer>> {
    let Generate {
        request,
        mut constraint,
        mut decode,
        mut watch,
    } = generate;
    load.in_flight = 1;
    load.totals.most_in_flight = 1;
    let mut session = Session::new();
    let mut following = Following {
        watch: &mut *watch,
        feed,
        load,
    };
    let constraint = constraint.as_mut().map(|c| &mut **c as &mut dyn Constraint);
    let outcome = Generation {
        request: &request,
        session: &mut session,
        draft: None,
        constraint,
        decode: &mut *decode,
        watch: &mut following,
    }
    .run(engine)?;
    if outcome.finish == Finish::Interrupted {
        return Ok(None);
    }
    load.totals.prompt_tokens += outcome.stats.prompt_tokens as u64;
    load.totals.most_kv_bytes = load.totals.most_kv_bytes.max(session.bytes());
    Ok(Some(Answer::Generated(Box::new(outcome))))
}

/// Tells both the record's watcher and the feed.
struct Following<'w, 'a> {
    watch: &'w mut dyn Watch,
    feed: &'w mut dyn Feed<'a>,
    load: &'w mut Load,
}

impl Watch for Following<'_, '_> {
    fn chosen(&mut self, id: u32, logits: Option<&[f32]>) {
        self.load.totals.new_tokens += 1;
        self.load.totals.passes += u64::from(logits.is_some());
        self.watch.chosen(id, logits);
        self.feed.progress(self.load);
    }

    fn text(&mut self, piece: &str) -> Result<()> {
        self.watch.text(piece)
    }

    fn stop_asked(&mut self) -> bool {
        self.feed.stop_asked()
    }
}

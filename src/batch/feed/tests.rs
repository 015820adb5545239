use super::*;
use crate::batch::journal::{Left, Output};
use crate::batch::manifest::Manifest;
use crate::generate::{Finish, Outcome, Stats};
use std::fmt::Write as _;
use std::path::Path;

/// Ids as they come, one per byte of the prompt.
struct Plain;

impl Decode for Plain {
    fn push(&mut self, _: u32, _: &mut String) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &mut String) -> Result<()> {
        Ok(())
    }
}

struct Desk;

impl<'a> Prepare<'a> for Desk {
    fn text(&mut self, _: &Ask, prompt: &Prompt, seed: u64) -> Result<Text<'a>> {
        let Prompt::Text(text) = prompt else {
            return Err(Error::usage("no text"));
        };
        Ok(Text {
            request: Request {
                source: None,
                prompt: text.bytes().map(u32::from).collect(),
                max_new: None,
                context: 100,
                stop: Vec::new(),
                end_ids: Vec::new(),
                kv: quern_kernels::KvType::F16,
                chunk: 1,
                sampling: crate::sample::Params {
                    seed,
                    ..Default::default()
                },
                fingerprint: false,
            },
            constraint: None,
            decode: Box::new(Plain),
            show: Box::new(|text| text),
        })
    }

    fn score(&mut self, _: &Score) -> Result<Box<Whole<'a>>> {
        Err(Error::usage("no scores"))
    }

    fn embed(&mut self, _: &[Prompt], _: bool) -> Result<Box<Whole<'a>>> {
        Err(Error::usage("no vectors"))
    }

    fn bytes(&self, _: u32) -> Vec<u8> {
        Vec::new()
    }
}

struct Quiet;

impl Observe for Quiet {
    fn stop_asked(&mut self) -> bool {
        false
    }

    fn show(&mut self, _: &Status) {}
}

impl Left for Quiet {
    fn line(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

fn settings(in_order: bool) -> Settings {
    Settings {
        as_text: true,
        lenient: false,
        in_order,
        fail_fast: false,
        shard: Shard { number: 1, of: 1 },
        limit: None,
        seed: 0,
        style: Style::default(),
        compare_names: false,
    }
}

fn answer(text: &str) -> Result<Answer> {
    Ok(Answer::Generated(Box::new(Outcome {
        ids: Vec::new(),
        text: text.to_owned(),
        finish: Finish::Stop,
        fingerprint: None,
        stats: Stats::default(),
    })))
}

/// Takes jobs as long as there are some without waiting.
fn take(feed: &mut Batch, jobs: &mut Vec<u64>) {
    while let Next::Job(job) = feed.next(false).unwrap() {
        jobs.push(job.ticket);
    }
}

/// A batch of so many lines; `work` is done with it, and what it wrote comes back as the indices of its lines.
fn with_feed(in_order: bool, lines: usize, work: impl FnOnce(&mut Batch, &Path)) -> Vec<u64> {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let mut text = String::new();
    (0..lines).for_each(|i| writeln!(text, "x{i}").unwrap());
    std::fs::write(&input, text).unwrap();
    let journal = Output::open(&output, false).unwrap();
    let journal = journal.begin(&Manifest::default(), &mut Quiet).unwrap();
    let (mut desk, mut quiet) = (Desk, Quiet);
    let mut feed = Batch::new(
        settings(in_order),
        Input::open(&input).unwrap(),
        &mut desk,
        &mut quiet,
        journal,
        None,
        Resumed::default(),
        None,
    );
    work(&mut feed, &output);
    let text = std::fs::read_to_string(&output).unwrap();
    let index = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["index"].as_u64().unwrap()
    };
    text.lines().map(index).collect()
}

#[test]
fn it_runs_ahead_of_the_oldest_record_only_so_far() {
    let lines = MAX_AHEAD + 10;
    let order = with_feed(true, lines, |feed, output| {
        let mut jobs = Vec::new();
        take(feed, &mut jobs);
        assert_eq!(jobs.len(), MAX_AHEAD);
        // All but the oldest, from the last one on: nothing can be written.
        for ticket in jobs.drain(1..).rev() {
            feed.done(ticket, answer("t")).unwrap();
        }
        assert_eq!(std::fs::metadata(output).unwrap().len(), 0);
        take(feed, &mut jobs);
        assert_eq!(jobs.len(), 1);
        feed.done(jobs.remove(0), answer("t")).unwrap();
        assert_eq!(feed.status().done as usize, MAX_AHEAD);
        assert_eq!(feed.waiting, 0);
        take(feed, &mut jobs);
        assert_eq!(jobs.len(), 10);
        assert!(!feed.is_complete());
        jobs.drain(..)
            .for_each(|t| feed.done(t, answer("t")).unwrap());
        assert!(feed.is_complete());
    });
    assert_eq!(order, (0..lines as u64).collect::<Vec<_>>());
}

#[test]
fn lines_that_wait_are_bounded_in_bytes() {
    let long = "y".repeat(MAX_WAITING / 8);
    with_feed(true, 100, |feed, _| {
        let mut jobs = Vec::new();
        for _ in 0..20 {
            let Next::Job(job) = feed.next(false).unwrap() else {
                break;
            };
            jobs.push(job.ticket);
            if jobs.len() > 1 {
                feed.done(jobs.pop().unwrap(), answer(&long)).unwrap();
            }
        }
        assert!(matches!(feed.next(false), Ok(Next::Pending)));
        assert!(feed.waiting >= MAX_WAITING && feed.waiting < MAX_WAITING / 8 * 9 + 10_000);
    });
}

#[test]
fn where_order_does_not_matter_nothing_waits() {
    let order = with_feed(false, 5, |feed, _| {
        let mut jobs = Vec::new();
        take(feed, &mut jobs);
        for at in [3, 0, 2, 1, 0] {
            let at = at.min(jobs.len() - 1);
            feed.done(jobs.remove(at), answer("t")).unwrap();
            assert_eq!(feed.waiting, 0);
        }
    });
    assert_eq!(order, [3, 0, 4, 2, 1]);
}

#[test]
fn what_is_of_the_whole_run_is_no_failure_of_a_record() {
    with_feed(true, 2, |feed, output| {
        let mut jobs = Vec::new();
        take(feed, &mut jobs);
        let e = feed
            .done(jobs[0], Err(Error::changed("the model")))
            .unwrap_err();
        assert_eq!(e.exit_code(), 6);
        feed.done(jobs[1], Err(Error::limit("memory"))).unwrap();
        assert_eq!(std::fs::metadata(output).unwrap().len(), 0);
    });
}

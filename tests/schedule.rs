//! Many texts at once: each is bit for bit what it is alone, whatever is beside it, what it shares and how often it had to wait.

use crate::generation::{Nobody, Numbers, request, run as alone, same};
use crate::golden::{engine, golden_file};
use quern::batch::{Answer, Feed, Generate, Job, Limits, Load, Next, Task, Totals, run};
use quern::error::{Error, Result};
use quern::generate::*;
use quern::model::Engine;
use std::collections::BTreeMap;

/// Families whose caches differ: plain, windowed, both, latent, frequencies that depend on the length, recurrent, mixed.
const FAMILIES: [&str; 8] = [
    "llama_gqa_tied",
    "mistral_swa",
    "gemma2",
    "deepseek_v2",
    "phi3_longrope",
    "llama_rope_dynamic",
    "mamba2",
    "lfm2",
];

/// Hands out requests, now and then none, and keeps what comes of them.
struct Desk {
    requests: Vec<Request>,
    next: usize,
    /// Every so manieth call brings none; 0: never.
    pause: usize,
    calls: usize,
    /// After so many answers it asks to stop.
    patience: usize,
    answers: BTreeMap<u64, Result<Outcome>>,
    most: Load,
}

impl Desk {
    fn new(requests: &[Request]) -> Desk {
        Desk {
            requests: requests.to_vec(),
            next: 0,
            pause: 0,
            calls: 0,
            patience: usize::MAX,
            answers: BTreeMap::new(),
            most: Load::default(),
        }
    }

    fn run(&mut self, engine: &mut Engine, limits: Limits) -> Totals {
        run(engine, &limits, self).unwrap()
    }
}

impl<'a> Feed<'a> for Desk {
    fn next(&mut self, wait: bool) -> Result<Next<'a>> {
        self.calls += 1;
        if !wait && self.pause > 0 && self.calls.is_multiple_of(self.pause) {
            return Ok(Next::Pending);
        }
        let Some(request) = self.requests.get(self.next) else {
            return Ok(Next::End);
        };
        let generate = Generate {
            request: request.clone(),
            constraint: None,
            decode: Box::new(Numbers),
            watch: Box::new(Nobody),
        };
        self.next += 1;
        Ok(Next::Job(Job {
            ticket: self.next as u64 - 1,
            task: Task::Generate(Box::new(generate)),
        }))
    }

    fn done(&mut self, ticket: u64, answer: Result<Answer>) -> Result<()> {
        let outcome = answer.map(|answer| match answer {
            Answer::Generated(outcome) => *outcome,
            other => panic!("a text was asked for, not {other:?}"),
        });
        let before = self.answers.insert(ticket, outcome);
        assert!(before.is_none(), "two answers for {ticket}");
        Ok(())
    }

    fn stop_asked(&mut self) -> bool {
        self.answers.len() >= self.patience
    }

    fn progress(&mut self, now: &Load) {
        self.most.in_flight = self.most.in_flight.max(now.in_flight);
        self.most.kv_bytes = self.most.kv_bytes.max(now.kv_bytes);
    }
}

fn limits(max_inflight: usize, chunk: usize) -> Limits {
    Limits {
        max_inflight: Some(max_inflight),
        kv_memory: None,
        chunk,
    }
}

/// Prompts that begin alike in several ways, and some that do not.
fn requests(count: usize) -> Vec<Request> {
    let start: Vec<u32> = (0..50).map(|i| (i * 7 + 3) % 60).collect();
    let texts = (0..count).map(|i| {
        let own = (0..1 + i * 5 % 23).map(|j| ((i * 31 + j * 11) % 60) as u32);
        let shared = match i % 4 {
            0 => 0,
            1 => 33,
            2 => 48,
            _ => 50,
        };
        let prompt: Vec<u32> = start[..shared].iter().copied().chain(own).collect();
        let mut request = request(&prompt, 1 + i * 13 % 40);
        request.sampling.seed = i as u64;
        request
    });
    texts.collect()
}

fn expected(engine: &mut Engine, requests: &[Request]) -> Vec<Outcome> {
    let run = |r| alone(engine, r, &mut Session::new(), None, None);
    requests.iter().map(run).collect()
}

#[track_caller]
fn check(desk: &Desk, expected: &[Outcome], what: &str) {
    assert_eq!(desk.answers.len(), expected.len(), "{what}");
    for (i, expected) in expected.iter().enumerate() {
        let found = desk.answers[&(i as u64)].as_ref();
        let found = found.unwrap_or_else(|e| panic!("{what}, text {i}: {e}"));
        assert_eq!(found.ids, expected.ids, "{what}, text {i}");
        same(found, expected);
    }
}

#[test]
fn every_text_is_what_it_is_alone() {
    for name in FAMILIES {
        let mut engine = engine(golden_file(name), 2);
        let requests = requests(24);
        let expected = expected(&mut engine, &requests);
        for (side_by_side, chunk, pause) in [(1, 512, 0), (3, 5, 2), (8, 64, 3), (64, 512, 0)] {
            let mut desk = Desk::new(&requests);
            desk.pause = pause;
            let totals = desk.run(&mut engine, limits(side_by_side, chunk));
            let what = format!("{name}, {side_by_side} side by side, chunks of {chunk}");
            check(&desk, &expected, &what);
            assert!(desk.most.in_flight <= side_by_side, "{what}");
            let prompts: usize = requests.iter().map(|r| r.prompt.len()).sum();
            assert_eq!(
                totals.prompt_tokens + totals.shared_tokens,
                prompts as u64,
                "{what}: a token was computed twice or not at all"
            );
            let new: usize = expected.iter().map(|o| o.ids.len()).sum();
            assert_eq!(totals.new_tokens, new as u64, "{what}");
            assert!(totals.shared_tokens >= 33, "{what}: {totals:?}");
        }
    }
}

#[test]
fn what_texts_begin_with_is_computed_once() {
    for name in ["llama_gqa_tied", "mistral_swa", "mamba2"] {
        let mut engine = engine(golden_file(name), 2);
        let start: Vec<u32> = (0..64).map(|i| (i * 7 + 3) % 60).collect();
        let request_of = |i: usize| {
            let prompt = [&start[..], &[i as u32, 9, 5]].concat();
            Request {
                max_new: Some(9),
                ..request(&prompt, 9)
            }
        };
        let requests: Vec<Request> = (0..40).map(request_of).collect();
        let expected = expected(&mut engine, &requests);
        for side_by_side in [2, 16, 64] {
            let mut desk = Desk::new(&requests);
            let totals = desk.run(&mut engine, limits(side_by_side, 512));
            check(&desk, &expected, name);
            assert_eq!(
                totals.shared_tokens,
                39 * 64,
                "{name}, {side_by_side} side by side"
            );
        }
    }
}

#[test]
fn a_text_that_others_wait_for_may_end_or_fail() {
    let mut engine = engine(golden_file("llama_gqa_tied"), 2);
    let start: Vec<u32> = (0..60).collect();
    let mut first = request(&[&start[..], &[1, 2, 3]].concat(), 1);
    first.max_new = Some(0);
    let second = request(&[&start[..], &[4, 5]].concat(), 12);
    let mut too_long = second.clone();
    too_long.context = 20;
    let mut unknown = second.clone();
    unknown.prompt.push(60_000);
    let requests = [first.clone(), too_long, unknown, second.clone()];
    let mut desk = Desk::new(&requests);
    // The first prompt takes several passes.
    desk.run(&mut engine, limits(4, 16));
    let run = |engine: &mut Engine, r| alone(engine, r, &mut Session::new(), None, None);
    same(
        desk.answers[&0].as_ref().unwrap(),
        &run(&mut engine, &first),
    );
    same(
        desk.answers[&3].as_ref().unwrap(),
        &run(&mut engine, &second),
    );
    let message = |i: u64| desk.answers[&i].as_ref().unwrap_err().to_string();
    assert_eq!(
        message(1),
        "the prompt has 62 tokens, but the context holds 20"
    );
    assert!(message(2).contains("60000"), "{}", message(2));
}

#[test]
fn memory_is_bounded_by_waiting() {
    for name in ["llama_gqa_tied", "mistral_swa", "mamba2", "lfm2"] {
        let mut engine = engine(golden_file(name), 2);
        let requests = requests(20);
        let expected = expected(&mut engine, &requests);
        let sequence = engine.model().new_sequence(requests[0].kv);
        let largest = requests.iter().map(|r| r.prompt.len() + 40).max().unwrap();
        // Room for two of the largest and a little: texts have to leave as they grow.
        let room = sequence.bytes_for(largest) * 2 + sequence.bytes_for(1);
        let mut desk = Desk::new(&requests);
        let mut limits = limits(16, 64);
        limits.kv_memory = Some(room as u64);
        let totals = desk.run(&mut engine, limits);
        check(&desk, &expected, name);
        assert!(desk.most.kv_bytes <= room, "{name}, {room}: {totals:?}");
        assert!(totals.most_in_flight > 1, "{name}: {totals:?}");

        let mut desk = Desk::new(&requests);
        limits.kv_memory = Some(1);
        desk.run(&mut engine, limits);
        let errors = desk.answers.values().map(|a| a.as_ref().unwrap_err());
        assert!(errors.into_iter().all(|e| e.exit_code() == 5));
    }
}

#[test]
fn texts_about_sources_share_nothing_and_come_out_alike() {
    let mut engine = engine(golden_file("t5_v1_0"), 2);
    let start = vec![0u32];
    let request_of = |i: usize| Request {
        source: Some(
            (0..40 + i as u32 % 3)
                .map(|j| (j * 3 + i as u32) % 60)
                .collect(),
        ),
        ..request(&start, 20)
    };
    let requests: Vec<Request> = (0..9).map(request_of).collect();
    let expected = expected(&mut engine, &requests);
    let mut desk = Desk::new(&requests);
    desk.run(&mut engine, limits(4, 64));
    check(&desk, &expected, "t5");
}

#[test]
fn it_stops_when_it_is_asked_to() {
    let mut engine = engine(golden_file("llama_gqa_tied"), 2);
    let requests = requests(24);
    let mut desk = Desk::new(&requests);
    desk.patience = 3;
    desk.run(&mut engine, limits(4, 64));
    assert!((3..8).contains(&desk.answers.len()));
    assert!(desk.next < 24);
}

/// A feed whose answers have nowhere to go.
struct Full(Desk);

impl<'a> Feed<'a> for Full {
    fn next(&mut self, wait: bool) -> Result<Next<'a>> {
        self.0.next(wait)
    }

    fn done(&mut self, _: u64, _: Result<Answer>) -> Result<()> {
        Err(Error::limit("no place"))
    }

    fn stop_asked(&mut self) -> bool {
        false
    }

    fn progress(&mut self, _: &Load) {}
}

#[test]
fn a_feed_that_fails_ends_the_run() {
    let mut engine = engine(golden_file("llama_gqa_tied"), 2);
    let mut feed = Full(Desk::new(&requests(8)));
    let e = run(&mut engine, &limits(4, 64), &mut feed).unwrap_err();
    assert_eq!(e.to_string(), "no place");
}

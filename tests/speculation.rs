//! Guessing ahead, by the text itself and by a smaller model: for every kind of model, at any temperature, with stop strings, constraints and
//! interruptions, what comes out is what comes out without. How many passes it takes is another matter; these tests let guesses cost nothing,
//! so that it does not depend on time.

use crate::common::program::run as program;
use crate::common::tiny::{Tiny, TinyFile};
use crate::generation::{Numbers, Oracle, Pattern, request, run, same};
use crate::golden::{engine, golden_file};
use proptest::prelude::*;
use quern::error::Result;
use quern::generate::*;
use quern::model::Engine;
use quern::sample::Params;
use quern_kernels::KvType;
use std::cell::RefCell;

/// One golden per kind of state and of position.
const KINDS: [&str; 17] = [
    "llama_gqa_tied",
    "llama_rope_dynamic",
    "phi3_longrope",
    "mistral_swa",
    "llama4_text",
    "gemma3n_text",
    "gpt_oss",
    "deepseek_v2",
    "bloom",
    "lfm2",
    "mamba",
    "mamba2",
    "falcon_h1",
    "granitemoehybrid",
    "qwen3_next",
    "t5_v1_0",
    "umt5",
];
/// Those of them whose sequences have recurrent states.
const RECURRENT: [&str; 6] = [
    "lfm2",
    "mamba",
    "mamba2",
    "falcon_h1",
    "granitemoehybrid",
    "qwen3_next",
];

/// A request that the model can have: with a source where there is an encoder.
fn asked(engine: &Engine, prompt: &[u32], new: usize, temperature: f32, seed: u64) -> Request {
    let encoder = engine.model().spec().encoder.is_some();
    Request {
        source: encoder.then(|| vec![9, 4, 11, 30, 1]),
        sampling: Params {
            temperature,
            seed,
            ..Params::default()
        },
        ..request(prompt, new)
    }
}

fn lookup() -> Speculation {
    Speculation::new(Pace::eager(), Limits::default(), true, None)
}

fn plain(engine: &mut Engine, request: &Request) -> Outcome {
    run(engine, request, &mut Session::new(), None, None)
}

const REPEATING: [u32; 14] = [5, 9, 2, 60, 7, 31, 5, 9, 2, 60, 7, 31, 5, 9];

#[test]
fn a_text_that_is_looked_up_is_the_same_text() {
    let mut drafted = 0;
    for name in KINDS {
        let mut engine = engine(golden_file(name), 2);
        // Greedy texts of such small models soon repeat themselves; hot ones hardly do.
        for (temperature, seed) in [(0.0, 0), (0.7, 1), (0.7, 2), (1.5, 3)] {
            let request = asked(&engine, &REPEATING, 60, temperature, seed);
            let expected = plain(&mut engine, &request);
            let draft = &mut lookup();
            let session = &mut Session::new();
            let guessed = run(&mut engine, &request, session, Some(draft), None);
            same(&expected, &guessed);
            let stats = guessed.stats;
            drafted += stats.drafted_tokens;
            if !RECURRENT.contains(&name) {
                // Every guess that is right saves a pass.
                let saved = 59 - stats.decode_passes;
                assert_eq!(saved, stats.right_tokens, "{name} {temperature}");
            }
            let all = [&request.prompt[..], &guessed.ids].concat();
            assert!(all.starts_with(session.ids()), "{name} {temperature}");
        }
    }
    assert!(drafted > 100 * KINDS.len(), "only {drafted} guesses");
}

/// The same ids over and over again, whatever the model says.
struct Cycle {
    ids: Vec<u32>,
    at: usize,
}

impl Constraint for Cycle {
    fn exclude(&mut self, logits: &mut [f32]) -> Result<()> {
        let next = self.ids[self.at % self.ids.len()];
        let others = logits.iter_mut().enumerate();
        let others = others.filter(|(id, _)| *id as u32 != next);
        others.for_each(|(_, x)| *x = f32::NEG_INFINITY);
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        assert_eq!(id, self.ids[self.at % self.ids.len()]);
        self.at += 1;
        Ok(())
    }

    fn forced(&mut self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn is_complete(&mut self) -> bool {
        false
    }
}

#[test]
fn a_text_that_repeats_itself_takes_few_passes() {
    for name in ["llama_gqa_tied", "mistral_swa", "phi3_longrope", "mamba2"] {
        let mut engine = engine(golden_file(name), 2);
        let request = asked(&engine, &[7], 100, 0.8, 0);
        let cycle = || Cycle {
            ids: vec![40, 41, 50, 60, 7, 80, 90],
            at: 0,
        };
        let session = &mut Session::new();
        let expected = run(&mut engine, &request, session, None, Some(&mut cycle()));
        assert_eq!(expected.stats.decode_passes, 99);
        let (draft, session) = (&mut lookup(), &mut Session::new());
        let guessed = run(
            &mut engine,
            &request,
            session,
            Some(draft),
            Some(&mut cycle()),
        );
        same(&expected, &guessed);
        // One time around and the first pair again, then 16 guesses and one id for each pass.
        let passes = guessed.stats.decode_passes;
        assert_eq!(passes, 8 + 91usize.div_ceil(17), "{name}");
        assert_eq!(guessed.stats.drafted_tokens, guessed.stats.right_tokens);
    }
}

/// As the one of the tests of generations, for sequences that cannot go back by themselves.
#[test]
fn recurrent_states_go_back_to_where_they_were() {
    for name in RECURRENT {
        let mut engine = engine(golden_file(name), 2);
        let request = asked(&engine, &[5, 9, 2, 60, 7, 7, 1, 30, 12], 70, 1.5, 3);
        let expected = plain(&mut engine, &request);
        for (wrong, passes) in [(usize::MAX, 12), (4, 45), (3, 60), (2, 69), (1, 69)] {
            let mut oracle = Oracle {
                all: [&request.prompt[..], &expected.ids].concat(),
                wrong,
                checked: (0, 0),
            };
            let session = &mut Session::new();
            let guessed = run(&mut engine, &request, session, Some(&mut oracle), None);
            same(&expected, &guessed);
            let stats = guessed.stats;
            assert!(
                stats.decode_passes <= passes,
                "{name} {wrong}: {}",
                stats.decode_passes
            );
            assert!(oracle.all.starts_with(session.ids()));
            // What is left in the session is as good as what a fresh one computes.
            let longer = [&oracle.all[..], &[33, 34]].concat();
            let request = asked(&engine, &longer, 5, 1.5, 4);
            let again = run(&mut engine, &request, session, None, None);
            assert!(again.stats.reused_tokens > 0, "{name} {wrong}");
            same(&again, &plain(&mut engine, &request));
        }
    }
}

fn model(name: &str, of: &Request, limits: Limits) -> DraftModel {
    let engine = engine(golden_file(name), 1);
    let source = of.source.clone();
    DraftModel::new(engine, source, 288, of.context, of.kv, 5, limits).unwrap()
}

#[test]
fn a_text_that_a_model_guessed_is_the_same_text() {
    for (name, guesser) in [
        ("llama_gqa_tied", "llama_gqa_tied"),
        ("llama_gqa_tied", "mamba2"),
        ("mamba2", "mamba2"),
        ("falcon_h1", "lfm2"),
        ("mistral_swa", "phi3_longrope"),
        ("phi3_longrope", "phi3_longrope"),
        ("t5_v1_0", "t5_v1_0"),
        ("umt5", "t5_v1_0"),
    ] {
        let mut engine = engine(golden_file(name), 2);
        for (temperature, lookup) in [(0.0, false), (1.2, false), (0.0, true), (1.2, true)] {
            let prompt = [5, 9, 2, 60, 7, 31, 8, 9, 100, 7, 3, 4, 5, 9];
            let request = asked(&engine, &prompt, 60, temperature, 5);
            let expected = plain(&mut engine, &request);
            let limits = Limits {
                most: 6,
                sure: 0.0,
                ..Limits::default()
            };
            let draft = Some(model(guesser, &request, limits));
            let draft = &mut Speculation::new(Pace::eager(), limits, lookup, draft);
            let guessed = run(
                &mut engine,
                &request,
                &mut Session::new(),
                Some(draft),
                None,
            );
            same(&expected, &guessed);
            let stats = guessed.stats;
            assert!(stats.drafted_tokens > 0, "{name} {guesser} {temperature}");
            if name == guesser && temperature == 0.0 && !lookup {
                // The same model is always right. Its prompt takes three chunks, during which it says nothing.
                assert_eq!(stats.drafted_tokens, stats.right_tokens, "{name}");
                assert!(stats.decode_passes <= 12, "{name}: {}", stats.decode_passes);
            }
        }
    }
}

#[test]
fn a_guesser_that_is_not_sure_says_nothing() {
    let mut engine = engine(golden_file("llama_gqa_tied"), 2);
    let request = asked(&engine, &[5, 9, 2], 40, 0.0, 0);
    let expected = plain(&mut engine, &request);
    let unsure = Limits {
        sure: 1.0,
        ..Limits::default()
    };
    // At least more than one pass ever carries.
    let few = Limits {
        most: 4,
        least: 5,
        sure: 0.0,
    };
    for limits in [unsure, few] {
        let draft = Some(model("llama_gqa_tied", &request, limits));
        let draft = &mut Speculation::new(Pace::eager(), limits, false, draft);
        let guessed = run(
            &mut engine,
            &request,
            &mut Session::new(),
            Some(draft),
            None,
        );
        same(&expected, &guessed);
        assert_eq!(guessed.stats.drafted_tokens, 0);
    }
    // A context that is too short for the text, and an id that the guesser does not have.
    let mut short = request.clone();
    short.context = 20;
    let draft = Some(model("llama_gqa_tied", &short, Limits { sure: 0.0, ..few }));
    let draft = &mut Speculation::new(Pace::eager(), Limits::default(), false, draft);
    same(
        &expected,
        &run(
            &mut engine,
            &request,
            &mut Session::new(),
            Some(draft),
            None,
        ),
    );
}

#[test]
fn a_guesser_of_another_kind_is_refused() {
    let limits = Limits::default();
    let new = |name, source| {
        let engine = engine(golden_file(name), 1);
        DraftModel::new(engine, source, 288, 64, KvType::F16, 5, limits)
    };
    for (name, source) in [("t5_v1_0", None), ("llama_gqa_tied", Some(vec![1]))] {
        let e = new(name, source).err().unwrap();
        assert_eq!(e.exit_code(), 2);
        assert!(e.to_string().contains("encoder"), "{e}");
    }
}

/// Stops when it has seen so many pieces.
struct Impatient {
    left: RefCell<usize>,
}

impl Watch for Impatient {
    fn text(&mut self, _: &str) -> Result<()> {
        let left = self.left.get_mut();
        *left = left.saturating_sub(1);
        Ok(())
    }

    fn stop_asked(&mut self) -> bool {
        *self.left.get_mut() == 0
    }
}

#[test]
fn stops_constraints_and_interruptions_end_at_the_same_place() {
    for name in ["llama_gqa_tied", "mamba2"] {
        let mut engine = engine(golden_file(name), 2);
        let base = asked(&engine, &REPEATING, 60, 0.0, 0);
        let text = plain(&mut engine, &base);
        let (mut stop, mut end, mut room) = (base.clone(), base.clone(), base.clone());
        let words: Vec<&str> = text.text.split(' ').collect();
        stop.stop = vec![format!("{} {}", words[40], words[41])];
        end.end_ids = vec![text.ids[45]];
        room.context = REPEATING.len() + 33;
        for request in [&stop, &end, &room] {
            let expected = plain(&mut engine, request);
            assert!(expected.ids.len() < 60);
            let draft = &mut lookup();
            let session = &mut Session::new();
            same(
                &expected,
                &run(&mut engine, request, session, Some(draft), None),
            );
        }
        let pattern = || Pattern {
            seen: Vec::new(),
            left: 50,
        };
        let expected = run(
            &mut engine,
            &base,
            &mut Session::new(),
            None,
            Some(&mut pattern()),
        );
        let (draft, constraint) = (&mut lookup(), &mut pattern());
        let session = &mut Session::new();
        let guessed = run(&mut engine, &base, session, Some(draft), Some(constraint));
        same(&expected, &guessed);
        assert!(guessed.stats.right_tokens > 0);
        assert_eq!(constraint.seen, guessed.ids);

        let interrupted = |engine: &mut Engine, draft: Option<&mut dyn Draft>| {
            let mut watch = Impatient {
                left: RefCell::new(23),
            };
            let generation = Generation {
                request: &base,
                session: &mut Session::new(),
                draft: draft.map(|d| d as &mut dyn Draft),
                constraint: None,
                decode: &mut Numbers,
                watch: &mut watch,
            };
            generation.run(engine).unwrap()
        };
        let expected = interrupted(&mut engine, None);
        assert_eq!(expected.finish, Finish::Interrupted);
        same(&expected, &interrupted(&mut engine, Some(&mut lookup())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Texts over few ids repeat in all ways.
    #[test]
    fn whatever_the_prompt_is(
        prompt in prop::collection::vec(3u32..6, 1..40),
        seed in 0u64..1000,
        temperature in prop::sample::select(vec![0.0f32, 0.3, 1.0, 3.0]),
        name in prop::sample::select(vec!["llama_gqa_tied", "mistral_swa", "phi3_longrope", "mamba2", "lfm2"]),
        most in 1usize..20,
    ) {
        thread_local! {
            static ENGINES: RefCell<std::collections::HashMap<&'static str, Engine>> = RefCell::default();
        }
        ENGINES.with_borrow_mut(|engines| {
            let engine = engines.entry(name).or_insert_with(|| engine(golden_file(name), 1));
            let request = asked(engine, &prompt, 40, temperature, seed);
            let expected = plain(engine, &request);
            let limits = Limits { most, ..Limits::default() };
            let draft = &mut Speculation::new(Pace::eager(), limits, true, None);
            same(&expected, &run(engine, &request, &mut Session::new(), Some(draft), None));
            // And with the pace that users have, whatever the times are today.
            let draft = &mut Speculation::new(Pace::measured(), limits, true, None);
            same(&expected, &run(engine, &request, &mut Session::new(), Some(draft), None));
        });
    }
}

#[test]
fn on_the_command_line() {
    let file = TinyFile::new(Tiny::default());
    let other = TinyFile::new(Tiny {
        loudness: 3.0,
        ..Tiny::default()
    });
    let base = [
        "run",
        "-m",
        file.arg(),
        "--json",
        "--ignore-eos",
        "-n",
        "80",
    ];
    let prompt = "the the the a the the the a the";
    for sampling in [["--temp", "0"], ["--seed", "7"]] {
        let ask = |more: &[&str]| program(&[&base[..], &sampling, more, &[prompt]].concat()).json();
        let expected = ask(&[]);
        assert!(expected.get("speculation").is_none());
        for more in [
            &["--lookup"][..],
            &["--draft", other.arg()],
            &["--lookup", "--model-draft", other.arg(), "--draft-max", "5"],
            &[
                "--draft",
                file.arg(),
                "--draft-min",
                "2",
                "--draft-p-min",
                "0",
            ],
        ] {
            let found = ask(more);
            for key in ["ids", "text", "fingerprint", "finish_reason"] {
                assert_eq!(found[key], expected[key], "{key} {more:?}");
            }
            let count = |key: &str| found["speculation"][key].as_u64().unwrap();
            assert_eq!(
                count("passes") + count("accepted_tokens"),
                79,
                "{more:?} {found}"
            );
            assert!(count("accepted_tokens") <= count("drafted_tokens"));
        }
    }
    let done = program(&[
        "run",
        "-m",
        file.arg(),
        "--lookup",
        "--stats",
        "-n",
        "9",
        "ab",
    ]);
    assert!(done.err.contains("\nguessed:     "), "{}", done.err);
}

#[test]
fn wrong_guessers_on_the_command_line() {
    let file = TinyFile::new(Tiny::default());
    let numbers = TinyFile::new(Tiny {
        tokenizer: false,
        ..Tiny::default()
    });
    let run = |more: &[&str]| program(&[&["run", "-m", file.arg()], more, &["ab"]].concat());
    run(&["--draft", numbers.arg()]).fails(2, &["--draft", "tokenizer"]);
    run(&["--draft", "/nowhere.quern"]).fails(4, &["/nowhere.quern"]);
    run(&["--lookup", "--draft-p-min", "1.5"]).fails(2, &["--draft-p-min is 1.5"]);
    run(&["--lookup", "--draft-max", "0"]).fails(2, &["--draft-max"]);
    run(&["--draft-max", "3", "--draft-min", "4"]).fails(2, &["--draft-min is 4"]);
}

//! The decode loop with guesses, constraints and sessions: what takes part changes how much is computed, never what comes out, but for a
//! constraint, which is obeyed.

use crate::golden::{engine, golden_file};
use quern::error::Result;
use quern::generate::*;
use quern::model::Engine;
use quern::sample::Params;
use quern_kernels::KvType;

/// Ids as numbers.
pub struct Numbers;

impl Decode for Numbers {
    fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        out.push_str(&format!("{id} "));
        Ok(())
    }

    fn finish(&mut self, _: &mut String) -> Result<()> {
        Ok(())
    }
}

/// Looks away.
pub struct Nobody;

impl Watch for Nobody {
    fn text(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// A sampled continuation with a fingerprint.
pub fn request(prompt: &[u32], new: usize) -> Request {
    Request {
        source: None,
        prompt: prompt.to_vec(),
        max_new: Some(new),
        context: 128,
        stop: Vec::new(),
        end_ids: Vec::new(),
        kv: KvType::F16,
        chunk: 7,
        sampling: Params {
            temperature: 1.5,
            seed: 3,
            ..Params::default()
        },
        fingerprint: true,
    }
}

/// Runs a request to its end.
pub fn run(
    engine: &mut Engine,
    request: &Request,
    session: &mut Session,
    draft: Option<&mut dyn Draft>,
    constraint: Option<&mut dyn Constraint>,
) -> Outcome {
    let (mut numbers, mut nobody) = (Numbers, Nobody);
    let generation = Generation {
        request,
        session,
        draft: draft.map(|d| d as &mut dyn Draft),
        constraint: constraint.map(|c| c as &mut dyn Constraint),
        decode: &mut numbers,
        watch: &mut nobody,
    };
    generation.run(engine).unwrap()
}

/// Checks that two runs gave the same in every bit.
#[track_caller]
pub fn same(a: &Outcome, b: &Outcome) {
    assert_eq!(a.ids, b.ids);
    assert_eq!(a.text, b.text);
    assert_eq!(a.finish, b.finish);
    assert_eq!(a.fingerprint, b.fingerprint);
}

/// Knows what comes, and is wrong at every `wrong`th place.
pub struct Oracle {
    /// Prompt and text.
    pub all: Vec<u32>,
    /// See above.
    pub wrong: usize,
    /// Guesses, and those that were right.
    pub checked: (usize, usize),
}

impl Draft for Oracle {
    fn propose(&mut self, ids: &[u32], most: usize) -> Result<Vec<u32>> {
        assert_eq!(ids, &self.all[..ids.len()], "told of what was generated");
        let end = self.all.len().min(ids.len() + most.min(5));
        let guess = |i: usize| self.all[i] ^ u32::from(i.is_multiple_of(self.wrong));
        Ok((ids.len()..end).map(guess).collect())
    }

    fn checked(&mut self, pass: &Checked) {
        assert!(pass.right <= pass.proposed);
        self.checked.0 += pass.proposed;
        self.checked.1 += pass.right;
    }
}

#[test]
fn guesses_save_passes_and_change_nothing() {
    for name in [
        "llama_gqa_tied",
        "mistral_swa",
        "deepseek_v2",
        "phi3_longrope",
    ] {
        let mut engine = engine(golden_file(name), 2);
        let request = request(&[5, 9, 2, 60, 7, 7, 1, 30, 12], 70);
        let plain = run(&mut engine, &request, &mut Session::new(), None, None);
        assert_eq!(plain.stats.decode_passes, 69);
        for (wrong, passes) in [(usize::MAX, 12), (3, 35), (1, 69)] {
            let mut oracle = Oracle {
                all: [&request.prompt[..], &plain.ids].concat(),
                wrong,
                checked: (0, 0),
            };
            let session = &mut Session::new();
            let guessed = run(&mut engine, &request, session, Some(&mut oracle), None);
            same(&plain, &guessed);
            let stats = guessed.stats;
            assert!(
                stats.decode_passes <= passes,
                "{name}: {}",
                stats.decode_passes
            );
            assert_eq!((stats.drafted_tokens, stats.right_tokens), oracle.checked);
            assert_eq!(stats.decode_tokens, 69);
            // The last id has not gone through the model; everything before has, and nothing else.
            assert_eq!(session.ids(), &oracle.all[..oracle.all.len() - 1]);
        }
    }
}

#[test]
fn a_session_computes_what_is_new_and_gives_the_same() {
    for (name, goes_back) in [
        ("llama_gqa_tied", true),
        ("mamba2", false),
        ("mistral_swa", true),
    ] {
        let mut engine = engine(golden_file(name), 2);
        let session = &mut Session::new();
        let first = run(
            &mut engine,
            &request(&[5, 9, 2, 60, 7], 20),
            session,
            None,
            None,
        );
        let held = session.ids().to_vec();
        assert_eq!(held.len(), 24);
        // One that goes on, and one that turns off half way.
        let longer = [&held[..], &first.ids[19..], &[33, 34]].concat();
        let other = [&held[..20], &[61, 62, 63]].concat();
        for (prompt, reused) in [(longer, 24), (other, if goes_back { 20 } else { 0 })] {
            let request = request(&prompt, 10);
            let again = run(&mut engine, &request, session, None, None);
            assert_eq!(again.stats.reused_tokens, reused, "{name}");
            same(
                &again,
                &run(&mut engine, &request, &mut Session::new(), None, None),
            );
        }
        // The same prompt once more: its last id is computed for its logits.
        let prompt = session.ids().to_vec();
        let again = run(&mut engine, &request(&prompt, 1), session, None, None);
        let expected = if goes_back { prompt.len() - 1 } else { 0 };
        assert_eq!(again.stats.reused_tokens, expected, "{name}");
    }
}

/// Even ids only, and after each sampled one the ids 11 and 13; complete after `left`.
pub struct Pattern {
    /// What came.
    pub seen: Vec<u32>,
    /// See above.
    pub left: usize,
}

impl Constraint for Pattern {
    fn exclude(&mut self, logits: &mut [f32]) -> Result<()> {
        let odd = logits.iter_mut().skip(1).step_by(2);
        odd.for_each(|x| *x = f32::NEG_INFINITY);
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        self.seen.push(id);
        Ok(())
    }

    fn forced(&mut self) -> Result<Vec<u32>> {
        Ok(vec![11, 13])
    }

    fn is_complete(&mut self) -> bool {
        self.seen.len() >= self.left
    }
}

#[test]
fn a_constraint_is_obeyed_and_what_it_forces_costs_no_pass_of_its_own() {
    let mut engine = engine(golden_file("llama_gqa_tied"), 2);
    let request = request(&[5, 9, 2], 90);
    let mut pattern = Pattern {
        seen: Vec::new(),
        left: 30,
    };
    let session = &mut Session::new();
    let outcome = run(&mut engine, &request, session, None, Some(&mut pattern));
    assert_eq!(outcome.finish, Finish::Stop);
    assert_eq!(pattern.seen, outcome.ids);
    assert_eq!(outcome.ids.len(), 30);
    for three in outcome.ids.chunks(3) {
        assert!(
            three[0].is_multiple_of(2) && three[1..] == [11, 13],
            "{three:?}"
        );
    }
    assert_eq!(outcome.stats.forced_tokens, 20);
    assert_eq!(outcome.stats.decode_passes, 9);
    assert_eq!(
        session.ids()[3..],
        outcome.ids[..27],
        "the last forced ids wait for a next pass"
    );
}

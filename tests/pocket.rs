//! The model in `models/pocket`: its file is whole and of the modern kind, and it answers prompts that it never saw in training.

use crate::common::program::run;
use quern::file::{ModelFile, OpenOptions};
use quern::model::{Engine, Model, Step, Wanted};
use quern::par::Team;
use quern::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
use quern_kernels::KvType;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest reply of the recipe has less than 150 tokens.
const LONGEST: usize = 300;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/pocket")
}

fn file() -> String {
    let path = folder().join("pocket.quern");
    path.to_str().expect("a UTF-8 path").to_owned()
}

#[test]
fn the_file_is_whole_small_and_of_the_modern_kind() {
    let file = file();
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size <= 8_000_000, "{size} bytes");
    let done = run(&["verify", &file]);
    assert_eq!(done.code, 0, "{}", done.err);
    let done = run(&["inspect", &file]);
    let text = done.text();
    let features = text.lines().find(|l| l.starts_with("features")).unwrap();
    for feature in ["GQA", "RoPE", "sliding window", "RMSNorm", "QK-norm"] {
        assert!(features.contains(feature), "{feature}: {features}");
    }
}

/// A question of the evaluation set.
struct Question {
    prompt: String,
    answer: String,
}

fn questions() -> BTreeMap<String, Vec<Question>> {
    let mut skills: BTreeMap<String, Vec<Question>> = BTreeMap::new();
    let lines = std::fs::read_to_string(folder().join("eval.jsonl")).unwrap();
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        let system = match text("system") {
            s if s.is_empty() => s,
            s => format!("<|system|>{s}<|end|>"),
        };
        let question = Question {
            prompt: format!("{system}<|user|>{}<|end|><|assistant|>", text("prompt")),
            answer: text("answer"),
        };
        skills.entry(text("skill")).or_default().push(question);
    }
    skills
}

/// Greedy replies to many prompts, all in one ragged batch.
fn replies(engine: &mut Engine, prompts: Vec<Vec<u32>>, end: &[u32]) -> Vec<Vec<u32>> {
    let model = engine.model().clone();
    let mut sequences: Vec<_> = prompts
        .iter()
        .map(|_| model.new_sequence(KvType::F16))
        .collect();
    let mut replies = vec![Vec::new(); prompts.len()];
    let mut next = prompts;
    for _ in 0..LONGEST {
        let mut who = Vec::new();
        let mut steps = Vec::new();
        for (i, (seq, tokens)) in sequences.iter_mut().zip(&next).enumerate() {
            if !tokens.is_empty() {
                who.push(i);
                steps.push(Step {
                    seq,
                    tokens,
                    wanted: Wanted::Last,
                });
            }
        }
        if steps.is_empty() {
            break;
        }
        let logits = engine.forward(&mut steps).unwrap();
        let best: Vec<u32> = (0..who.len())
            .map(|row| {
                let row = logits.row(row);
                let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
                (0..row.len()).fold(0, better) as u32
            })
            .collect();
        for (i, id) in who.into_iter().zip(best) {
            next[i].clear();
            if !end.contains(&id) {
                replies[i].push(id);
                next[i].push(id);
            }
        }
    }
    replies
}

#[test]
fn nineteen_of_twenty_held_out_prompts_are_answered_exactly() {
    let file = ModelFile::open(Path::new(&file()), OpenOptions::default()).unwrap();
    let tokenizer = Tokenizer::from_prepared(file.tokenizer().unwrap().unwrap()).unwrap();
    let end = file.meta().eos().to_vec();
    let model = Arc::new(Model::bind(Arc::new(file)).unwrap());
    let mut engine = Engine::new(model, quern_kernels::best(), Team::new(2).unwrap());
    let skills = questions();
    assert!(skills.len() >= 10, "{} skills", skills.len());
    for (skill, questions) in &skills {
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        let prompts = questions
            .iter()
            .map(|q| tokenizer.encode(&q.prompt, options).unwrap())
            .collect();
        let mut wrong = Vec::new();
        for (q, ids) in questions.iter().zip(replies(&mut engine, prompts, &end)) {
            let said = tokenizer.decode(&ids, DecodeOptions::default()).unwrap();
            let answer = said.rsplit("</think>").next().unwrap_or_default();
            if answer != q.answer {
                wrong.push(format!("{} {said:?} {:?}", q.prompt, q.answer));
            }
        }
        assert!(
            wrong.len() * 20 <= questions.len(),
            "{skill}: {} of {} are wrong: {wrong:#?}",
            wrong.len(),
            questions.len()
        );
    }
}

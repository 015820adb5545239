//! Structured output: whatever the model wants, the text is what the grammar describes; what the grammar forces costs nothing; and a hostile grammar is
//! refused in time.

use crate::common::program::run;
use crate::common::shared;
use crate::common::tiny::{self, BOS, EOS, Tiny, TinyFile};
use quern::bytes::{AlignedBytes, Bytes};
use quern::error::Result;
use quern::file::ModelFile;
use quern::generate::structure::{Grammar, Structure, Vocabulary};
use quern::generate::*;
use quern::model::{Engine, Model};
use quern::par::Team;
use quern::sample::Params;
use quern::tokenizer::{DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer};
use quern_kernels::KvType;
use serde_json::{Value, json};
use std::sync::Arc;

struct Text<'t>(Option<StreamDecoder<'t>>);

impl Decode for Text<'_> {
    fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), |d| d.push(id, out))
    }

    fn finish(&mut self, out: &mut String) -> Result<()> {
        self.0.take().map_or(Ok(()), |d| d.finish(out))
    }
}

struct Nobody;

impl Watch for Nobody {
    fn text(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// A model with formula weights that has no idea of JSON.
struct Parrot {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    vocabulary: Arc<Vocabulary>,
}

impl Parrot {
    fn new() -> Parrot {
        let bytes = tiny::bytes(Tiny::default());
        let bytes = Arc::new(AlignedBytes::copy_of(&bytes).unwrap());
        let file = Arc::new(ModelFile::from_bytes(bytes).unwrap());
        let prepared = file.tokenizer().unwrap().unwrap();
        let tokenizer = Arc::new(Tokenizer::from_prepared(prepared).unwrap());
        let model = Arc::new(Model::bind(file).unwrap());
        let team = Team::new(2).unwrap();
        Parrot {
            engine: Engine::new(model, quern_kernels::best(), team),
            vocabulary: Arc::new(Vocabulary::new(&tokenizer).unwrap()),
            tokenizer,
        }
    }

    fn structure(&self, grammar: &Grammar) -> Structure {
        Structure::new(&self.vocabulary, grammar, &[EOS]).unwrap()
    }

    fn run(
        &mut self,
        sampling: Params,
        constraint: &mut dyn Constraint,
        draft: Option<&mut dyn Draft>,
    ) -> Outcome {
        let request = Request {
            source: None,
            prompt: vec![BOS, 84, 104, 101],
            max_new: Some(200),
            context: 256,
            stop: Vec::new(),
            end_ids: vec![EOS],
            kv: KvType::F16,
            chunk: 64,
            sampling,
            fingerprint: true,
        };
        let options = DecodeOptions { skip_special: true };
        let generation = Generation {
            request: &request,
            session: &mut Session::new(),
            draft: draft.map(|d| d as &mut dyn Draft),
            constraint: Some(constraint),
            decode: &mut Text(Some(self.tokenizer.decoder(options))),
            watch: &mut Nobody,
        };
        generation.run(&mut self.engine).unwrap()
    }
}

fn at(temperature: f32, seed: u64) -> Params {
    Params {
        temperature,
        seed,
        ..Params::default()
    }
}

type Check = fn(&Value) -> bool;

/// Schemas with all their values bounded, so that a model without a plan comes to an end, and what must hold of the values.
fn schemas() -> Vec<(Value, Check)> {
    vec![
        (
            json!({"type": "object", "properties": {
                "name": {"type": "string", "maxLength": 12},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "married": {"type": "boolean"}},
                "required": ["name", "age", "married"], "additionalProperties": false}),
            |v| {
                let o = v.as_object().unwrap();
                let keys: Vec<&str> = o.keys().map(String::as_str).collect();
                keys == ["name", "age", "married"]
                    && v["name"].as_str().unwrap().chars().count() <= 12
                    && v["age"].as_u64().unwrap() <= 150
                    && v["married"].is_boolean()
            },
        ),
        (
            json!({"type": "array", "minItems": 2, "maxItems": 4,
                "items": {"enum": ["red", "green", "blue", 7, null, {"deep": [true]}]}}),
            |v| {
                let known = json!(["red", "green", "blue", 7, null, {"deep": [true]}]);
                let (a, known) = (v.as_array().unwrap(), known.as_array().unwrap());
                (2..=4).contains(&a.len()) && a.iter().all(|x| known.contains(x))
            },
        ),
        (
            json!({"$defs": {"tree": {"type": "object", "properties": {
                    "value": {"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.25},
                    "children": {"type": "array", "maxItems": 0, "items": {"$ref": "#/$defs/tree"}}},
                    "required": ["value", "children"], "additionalProperties": false}},
                "anyOf": [{"$ref": "#/$defs/tree"}, {"const": "nothing"}]}),
            |v| {
                let tree = || v["value"].as_f64().unwrap().abs() <= 1.0;
                v == "nothing" || (tree() && v["children"] == json!([]))
            },
        ),
        (
            json!({"type": "string", "pattern": "^[a-z]{2,5}-[0-9]{3}$"}),
            |v| {
                let (a, b) = v.as_str().unwrap().split_once('-').unwrap();
                (2..=5).contains(&a.len()) && b.len() == 3 && b.parse::<u32>().is_ok()
            },
        ),
    ]
}

#[test]
fn json_is_what_its_schema_describes_at_every_temperature() {
    let mut parrot = Parrot::new();
    let mut texts = std::collections::BTreeSet::new();
    for (schema, check) in schemas() {
        let grammar = Grammar::JsonSchema(schema.to_string());
        for temperature in [0.0, 0.8, 2.0] {
            for seed in 0..4 {
                let mut structure = parrot.structure(&grammar);
                let outcome = parrot.run(at(temperature, seed), &mut structure, None);
                let text = &outcome.text;
                assert_eq!(outcome.finish, Finish::Stop, "{schema}: {text}");
                let value: Value = serde_json::from_str(text).expect(text);
                assert!(check(&value), "{schema}: {text}");
                let written = outcome.ids.iter().filter(|&&id| id != EOS);
                assert!(
                    written.clone().all(|&id| id != BOS),
                    "a control token within the text"
                );
                texts.insert(text.clone());
            }
        }
    }
    assert!(texts.len() >= 15, "the model has its say: {texts:?}");
}

#[test]
fn expressions_and_grammars_are_obeyed() {
    let mut parrot = Parrot::new();
    let lark = "start: pair (\";\" pair){1,2}\npair: WORD \"=\" /[0-9]{1,3}/\nWORD: /[a-f]{1,4}/";
    let gbnf =
        "root ::= pair (\";\" pair){1,2}\npair ::= word \"=\" [0-9]{1,3}\nword ::= [a-f]{1,4}";
    let pairs = |text: &str| {
        let pairs: Vec<&str> = text.split(';').collect();
        (2..=3).contains(&pairs.len())
            && pairs.iter().all(|pair| {
                let (word, number) = pair.split_once('=').unwrap();
                word.bytes().all(|b| (b'a'..=b'f').contains(&b))
                    && (1..=4).contains(&word.len())
                    && (1..=3).contains(&number.len())
                    && number.bytes().all(|b| b.is_ascii_digit())
            })
    };
    for seed in 0..6 {
        for grammar in [lark, gbnf] {
            let grammar = Grammar::of_text(grammar.to_owned());
            let mut structure = parrot.structure(&grammar);
            let outcome = parrot.run(at(1.5, seed), &mut structure, None);
            assert!(
                outcome.finish == Finish::Stop && pairs(&outcome.text),
                "{grammar:?}: {}",
                outcome.text
            );
        }
        let regex = Grammar::Regex("(да|нет|日本){2,3}!".to_owned());
        let mut structure = parrot.structure(&regex);
        let outcome = parrot.run(at(1.5, seed), &mut structure, None);
        let rest = outcome.text.replace("да", "").replace("нет", "");
        let rest = rest.replace("日本", "");
        assert_eq!(
            (outcome.finish, &rest[..]),
            (Finish::Stop, "!"),
            "{}",
            outcome.text
        );
    }
}

#[test]
fn a_grammar_that_comes_back_to_itself_in_gbnf() {
    let mut parrot = Parrot::new();
    let gbnf = "root ::= list\nlist ::= \"[\" ws (item (\",\" ws item)?)? \"]\"\nitem ::= list | num\nnum ::= \"-\"? [0-9]\nws ::= \" \"?\n";
    for seed in 0..10 {
        let mut structure = parrot.structure(&Grammar::of_text(gbnf.to_owned()));
        let outcome = parrot.run(at(1.0, seed), &mut structure, None);
        if outcome.finish == Finish::Stop {
            let value: Value = serde_json::from_str(&outcome.text).expect(&outcome.text);
            assert!(value.is_array());
        } else {
            assert_eq!(outcome.finish, Finish::Length, "{}", outcome.text);
        }
    }
}

/// The same without what is forced.
struct Unforced(Structure);

impl Constraint for Unforced {
    fn exclude(&mut self, logits: &mut [f32]) -> Result<()> {
        self.0.exclude(logits)
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        self.0.accept(id)
    }

    fn forced(&mut self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn is_complete(&mut self) -> bool {
        self.0.is_complete()
    }
}

#[test]
fn what_is_forced_saves_passes_and_changes_no_text() {
    let mut parrot = Parrot::new();
    let (schema, _) = schemas().remove(0);
    let grammar = Grammar::JsonSchema(schema.to_string());
    let mut structure = parrot.structure(&grammar);
    let forced = parrot.run(at(0.0, 0), &mut structure, None);
    let mut unforced = Unforced(parrot.structure(&grammar));
    let sampled = parrot.run(at(0.0, 0), &mut unforced, None);
    assert_eq!(forced.ids, sampled.ids);
    assert_eq!(forced.text, sampled.text);
    assert_eq!(sampled.stats.forced_tokens, 0);
    // At least the names and what stands between them: `name": "`, `age": `, `married": `.
    let stats = forced.stats;
    assert!(stats.forced_tokens >= 24, "{stats:?}");
    assert!(
        stats.decode_passes + stats.forced_tokens <= sampled.stats.decode_passes + 1,
        "{stats:?}"
    );
}

/// Guesses what came without it, and every third id wrong.
struct Oracle(Vec<u32>);

impl Draft for Oracle {
    fn propose(&mut self, ids: &[u32], most: usize) -> Result<Vec<u32>> {
        let known = ids.len() - 4;
        let ahead = self.0[known..].iter().take(most.min(4)).enumerate();
        let guess = |(i, id): (usize, &u32)| {
            if (known + i).is_multiple_of(3) {
                65
            } else {
                *id
            }
        };
        Ok(ahead.map(guess).collect())
    }

    fn checked(&mut self, _: &Checked) {}
}

#[test]
fn guesses_change_nothing_under_a_grammar() {
    let mut parrot = Parrot::new();
    for (schema, _) in schemas() {
        let grammar = Grammar::JsonSchema(schema.to_string());
        let mut structure = parrot.structure(&grammar);
        let plain = parrot.run(at(1.5, 3), &mut structure, None);
        let mut oracle = Oracle(plain.ids.clone());
        let mut structure = parrot.structure(&grammar);
        let guessed = parrot.run(at(1.5, 3), &mut structure, Some(&mut oracle));
        assert_eq!(plain.text, guessed.text);
        assert_eq!(plain.ids, guessed.ids);
        assert_eq!(plain.fingerprint, guessed.fingerprint);
    }
}

/// With the tokenizers of real models and logits of a hash in place of a model: the ids that a schema forces are those that the tokenizer writes the text with.
#[test]
fn real_tokenizers_write_what_a_schema_describes() {
    let Some(data) = shared("data/tokenizers") else {
        return;
    };
    for (i, name) in [
        "hf/gpt2/tokenizer.json",
        "hf/llama2/tokenizer.json",
        "hf/mistral03/tokenizer.json",
        "ggml-vocab/ggml-vocab-llama-bpe.gguf",
        "ggml-vocab/ggml-vocab-llama-spm.gguf",
        "ggml-vocab/ggml-vocab-qwen2.gguf",
        "ggml-vocab/ggml-vocab-phi-3.gguf",
    ]
    .into_iter()
    .enumerate()
    {
        let definition = quern::convert::tokenizer::load(&data.join(name)).unwrap();
        let prepared = Arc::new(definition.to_prepared().unwrap());
        let tokenizer = Arc::new(Tokenizer::from_prepared(Bytes::new(prepared)).unwrap());
        let vocabulary = match i % 2 {
            0 => Vocabulary::new(&tokenizer),
            _ => Vocabulary::for_many(&tokenizer),
        };
        let vocabulary = Arc::new(vocabulary.unwrap());
        let (schema, check) = schemas().remove(0);
        let grammar = Grammar::JsonSchema(schema.to_string());
        let mut forced = 0;
        for seed in 0..5u32 {
            let mut structure = Structure::new(&vocabulary, &grammar, &[]).unwrap();
            let mut ids: Vec<u32> = Vec::new();
            while !structure.is_complete() {
                let hash = |i: usize| {
                    (i as u32 ^ ids.len() as u32 ^ seed << 20).wrapping_mul(2_654_435_761)
                };
                let mut logits: Vec<f32> = (0..tokenizer.vocab_size() + 64)
                    .map(|i| hash(i) as f32)
                    .collect();
                structure.exclude(&mut logits).unwrap();
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                let id = best.unwrap() as u32;
                assert!(!tokenizer.is_control(id) && (id as usize) < tokenizer.vocab_size());
                structure.accept(id).unwrap();
                ids.push(id);
                for id in structure.forced().unwrap() {
                    structure.accept(id).unwrap();
                    ids.push(id);
                    forced += 1;
                }
                assert!(ids.len() < 500, "{name}");
            }
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id).unwrap())
                .collect();
            let text = String::from_utf8(bytes).unwrap();
            let value: Value = serde_json::from_str(&text).expect(&text);
            assert!(check(&value), "{name}: {text}");
            // `married` stands between signs, so that the ids around it are those of any context.
            let known = tokenizer
                .encode(" \"married\":", EncodeOptions::default())
                .unwrap();
            let known = &known[known.len() - 2..];
            assert!(
                ids.windows(known.len()).any(|w| w == known),
                "{name}: {known:?} in {ids:?}"
            );
        }
        assert!(forced >= 20, "{name}: {forced}");
    }
}

#[test]
fn the_program_writes_json_and_says_when_it_was_cut() {
    let model = TinyFile::new(Tiny::default());
    let schema = r#"{"type":"object","properties":{"a":{"enum":["x","yy"]},"b":{"type":"boolean"}},"required":["a","b"]}"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.json");
    std::fs::write(&file, schema).unwrap();
    let path = file.to_str().unwrap();
    for given in [schema, path] {
        let args = [
            "run",
            "-m",
            model.arg(),
            "-s",
            "1",
            "--temp",
            "1",
            "--json-schema",
            given,
            "hello",
        ];
        let done = run(&args);
        assert_eq!(done.code, 0, "{}", done.err);
        let value: Value = serde_json::from_str(done.text()).unwrap();
        assert!(value["b"].is_boolean(), "{value}");
    }
    let cut = [
        "run",
        "-m",
        model.arg(),
        "-n",
        "6",
        "--json",
        "--logprobs",
        "2",
        "-j",
        path,
        "hello",
    ];
    let report = run(&cut).json();
    assert_eq!(report["finish_reason"], "length");
    assert!(serde_json::from_str::<Value>(report["text"].as_str().unwrap()).is_err());
    // Every id has its entry, and only those that were forced have no number.
    let logprobs = report["logprobs"].as_array().unwrap();
    let ids: Vec<Value> = logprobs.iter().map(|l| l["id"].clone()).collect();
    assert_eq!(report["ids"], Value::from(ids));
    let forced = logprobs.iter().filter(|l| l["logprob"].is_null()).count();
    assert_eq!(report["usage"]["forced_tokens"], forced);
    assert!(forced > 0 && logprobs[0]["logprob"].as_f64().unwrap() < 0.0);
    assert_eq!(logprobs[0]["top"].as_array().unwrap().len(), 2);
    assert!(
        logprobs
            .iter()
            .all(|l| l["logprob"].is_null() == (l["top"] == json!([])))
    );
}

#[test]
fn log_probabilities_are_those_of_score() {
    let model = TinyFile::new(Tiny::default());
    let ids = "256,84,104,101";
    let report = run(&[
        "run",
        "-m",
        model.arg(),
        "--ids",
        ids,
        "-n",
        "9",
        "--json",
        "--logprobs",
        "3",
        "--temp",
        "1.5",
        "-s",
        "5",
        "--ignore-eos",
        "--top-k",
        "7",
    ])
    .json();
    let new: Vec<String> = report["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    assert_eq!(new.len(), 9);
    let all = format!("{ids},{}", new.join(","));
    let scored = run(&[
        "score",
        "-m",
        model.arg(),
        "--ids",
        &all,
        "--json",
        "--top",
        "3",
    ]);
    let scored: Vec<Value> = scored
        .text()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    for (i, noted) in report["logprobs"].as_array().unwrap().iter().enumerate() {
        assert_eq!(noted["logprob"], scored[4 + i]["logprob"]);
        let top = scored[3 + i]["top"].as_array().unwrap();
        for (a, b) in noted["top"].as_array().unwrap().iter().zip(top) {
            assert_eq!((&a["id"], &a["logprob"]), (&b[0], &b[1]));
        }
    }
    run(&["run", "-m", model.arg(), "--logprobs", "2", "x"]).fails(2, &["--json"]);
}

/// The exit code of a grammar, from the program, with what must be in its line.
fn refused(model: &TinyFile, flag: &str, grammar: &str, code: i32, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grammar");
    std::fs::write(&file, grammar).unwrap();
    let given = match flag {
        "--regex" => grammar,
        _ => file.to_str().unwrap(),
    };
    let done = run(&["run", "-m", model.arg(), "-n", "4", flag, given, "hello"]);
    done.fails(code, parts);
}

#[test]
fn what_is_no_grammar_is_named_with_its_place() {
    let model = TinyFile::new(Tiny::default());
    refused(
        &model,
        "--json-schema",
        "{\"type\": \"object\"",
        3,
        &["not JSON", "line 1"],
    );
    refused(&model, "--json-schema", "[1]", 3, &["not an object"]);
    refused(
        &model,
        "--json-schema",
        "{\"type\": \"thing\"}",
        3,
        &["thing"],
    );
    refused(
        &model,
        "--json-schema",
        "{\"$ref\": \"#/nowhere\"}",
        3,
        &["nowhere"],
    );
    refused(
        &model,
        "--json-schema",
        "{\"$ref\": \"https://example.invalid/x.json\"}",
        3,
        &["example.invalid"],
    );
    refused(
        &model,
        "--json-schema",
        "{\"type\": \"string\", \"pattern\": \"(\"}",
        3,
        &["not understood"],
    );
    refused(
        &model,
        "--grammar",
        "start: x\n",
        3,
        &["\"x\"", "--grammar"],
    );
    refused(&model, "--grammar", "start: \"a\n", 3, &["line 1"]);
    refused(
        &model,
        "--grammar",
        "root ::= x\n",
        3,
        &["line 1", "\"x\" is not defined"],
    );
    refused(
        &model,
        "--grammar",
        "start: <|end|>\n",
        3,
        &["special token"],
    );
    refused(&model, "--regex", "a(", 3, &["--regex"]);
    run(&["run", "-m", model.arg(), "--grammar", "nowhere.lark", "x"]).fails(4, &["nowhere.lark"]);
    run(&[
        "run",
        "-m",
        model.arg(),
        "--grammar",
        "a",
        "--regex",
        "a",
        "x",
    ])
    .fails(2, &["--regex"]);
    let mute = TinyFile::new(Tiny {
        tokenizer: false,
        ..Tiny::default()
    });
    run(&["run", "-m", mute.arg(), "--ids", "1", "--regex", "a"]).fails(2, &["no tokenizer"]);
}

/// Each is refused or works; nothing hangs, overflows the stack or takes the memory.
#[test]
fn hostile_grammars_end_in_time() {
    let parrot = Parrot::new();
    let deep = |open: &str, close: &str, n| format!("{}{}", open.repeat(n), close.repeat(n));
    let nested = |n| {
        let open = "{\"type\":\"array\",\"items\":".repeat(n);
        format!("{open}{{}}{}", "}".repeat(n))
    };
    let alternatives: Vec<String> = (0..30)
        .map(|i| {
            format!(
                "{{\"properties\":{{\"p{i}\":{{\"type\":\"integer\"}},\"q\":{{\"minimum\":{i}}}}}}}"
            )
        })
        .collect();
    let any = format!("{{\"anyOf\":[{}]}}", alternatives.join(","));
    let all = vec![any; 12].join(",");
    let cases = [
        (Grammar::JsonSchema(deep("[", "]", 100_000)), Some(3)),
        (Grammar::JsonSchema(nested(60)), None),
        (Grammar::JsonSchema(nested(100_000)), Some(5)),
        (
            Grammar::JsonSchema("{\"type\":\"array\",\"minItems\":1000000000}".into()),
            None,
        ),
        (
            Grammar::JsonSchema("{\"type\":\"string\",\"minLength\":1000000000}".into()),
            None,
        ),
        (
            Grammar::JsonSchema(
                "{\"type\":\"string\",\"pattern\":\"^(a+)+(a|aa)*b{1000}$\"}".into(),
            ),
            None,
        ),
        (
            Grammar::JsonSchema(format!("{{\"allOf\":[{all}]}}")),
            Some(5),
        ),
        (Grammar::JsonSchema("{\"$ref\":\"#\"}".into()), Some(3)),
        (Grammar::Regex("((a{1000}){1000}){1000}".into()), Some(5)),
        (Grammar::Regex("(a{1,1000}b?){1,100000}".into()), None),
        (Grammar::Regex("(a|b)*a(a|b){40}c".into()), None),
        (Grammar::Regex("(a+)+".into()), None),
        (Grammar::Regex(deep("(", ")", 100_000)), Some(3)),
        (Grammar::Regex("a".repeat(2 << 20)), Some(5)),
        (
            Grammar::Lark(format!(
                "start: {}\"a\"{}",
                "(".repeat(100_000),
                ")".repeat(100_000)
            )),
            Some(5),
        ),
        (Grammar::Lark("start: start start | \"a\"".into()), None),
        (Grammar::Lark("start: start".into()), Some(3)),
        (Grammar::Gbnf("root ::= \"a\"{1000000000}".into()), Some(5)),
        (Grammar::Gbnf("root ::= root root | \"a\" | ".into()), None),
    ];
    let mut wrong = Vec::new();
    for (grammar, code) in cases {
        let made = Structure::new(&parrot.vocabulary, &grammar, &[EOS]);
        let short: String = format!("{grammar:?}").chars().take(90).collect();
        let found = match made {
            Ok(mut structure) => walk(&mut structure).err(),
            Err(e) => Some(e),
        };
        if found.as_ref().map(|e| i32::from(e.exit_code())) != code {
            wrong.push(format!("{short}: {found:?}, expected {code:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Writes the first id that may come, some times.
fn walk(structure: &mut Structure) -> Result<()> {
    for _ in 0..40 {
        let mut logits = vec![0.0; tiny::VOCAB as usize];
        structure.exclude(&mut logits)?;
        let id = logits.iter().position(|&x| x == 0.0).expect("an id") as u32;
        if id == EOS {
            return Ok(());
        }
        structure.accept(id)?;
        if structure.is_complete() {
            return Ok(());
        }
    }
    Ok(())
}

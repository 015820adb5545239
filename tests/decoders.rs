//! Decoder goldens through the program: `import`, `score` and `run` by ids give the recorded logits and greedy ids.
//!
//! One family per state shape, and one that reads beyond the positions of its training; `tests/golden.rs` compares all of them through the library.

use crate::common::program::run;
use crate::golden::{goldens, read_golden};
use crate::materialise::materialise;
use serde_json::Value;

const GOLDENS: [&str; 6] = [
    "deepseek_v3",
    "gemma3n_text",
    "gpt_oss_mxfp4",
    "llama_rope_dynamic",
    "mamba2",
    "qwen3_next",
];

fn list(ids: &Value) -> String {
    let ids: Vec<String> = ids
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    ids.join(",")
}

#[test]
fn the_program_gives_the_logits_and_ids_of_the_goldens() {
    let folder = tempfile::tempdir().unwrap();
    for name in GOLDENS {
        let (golden, source) = (goldens().join(name), folder.path().join(name));
        assert!(materialise(&golden, &source, false));
        let golden = read_golden(&golden);
        let atol = golden["suggested_atol"].as_f64().unwrap();
        let file = folder.path().join(format!("{name}.quern"));
        let (source, model) = (source.to_str().unwrap(), file.to_str().unwrap());
        let done = run(&["import", source, "-o", model]);
        assert_eq!(done.code, 0, "{name}: {}", done.err);
        for s in golden["sequences"].as_array().unwrap() {
            let at = format!("{name} {}", s["name"]);
            let ids = list(&s["input_ids"]);
            let given = ["-m", model, "--kv", "f32", "--json", "--ids", &ids];
            let score = [&["score", "--logits", "last"], &given[..]].concat();
            let done = run(&score);
            assert_eq!(done.code, 0, "{at}: {}", done.err);
            let lines: Vec<Value> = done
                .text()
                .lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect();
            let found = lines[lines.len() - 2]["logits"].as_array().unwrap();
            let expected = s["last_logits"].as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{at}");
            for (f, e) in found.iter().zip(expected) {
                let far = (f.as_f64().unwrap() - e.as_f64().unwrap()).abs();
                assert!(far <= atol, "{at}: {f}, expected {e}");
            }
            let count = s["greedy"].as_array().unwrap().len().to_string();
            let more = ["run", "--temp", "0", "--ignore-eos", "-n", &count];
            let done = run(&[&more[..], &given].concat());
            assert_eq!(done.json()["ids"], s["greedy"], "{at}");
        }
    }
}

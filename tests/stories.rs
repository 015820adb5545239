//! The real model of the reference folder, from its two source formats to its text, against a computation in f64.

use crate::common::program::run;
use crate::common::shared;
use serde_json::Value;
use std::path::PathBuf;

/// The reference data, if this machine has it.
fn data() -> Option<PathBuf> {
    shared("data")
}

/// The model as weight files: from the llama2.c checkpoint, from GGUF, and quantized.
struct Stories {
    _folder: tempfile::TempDir,
    from_checkpoint: String,
    from_gguf: String,
    quantized: Vec<String>,
    reference: Value,
    text: String,
}

fn stories() -> Option<Stories> {
    let data = data()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let models = data.join("models");
    let path = |p: PathBuf| p.to_str().expect("a UTF-8 path").to_owned();
    let import = |name: &str, args: &[&str]| {
        let out = path(folder.path().join(name));
        let done = run(&[&["import", "-o", &out], args].concat());
        assert_eq!(done.code, 0, "{}", done.err);
        out
    };
    let checkpoint = path(models.join("stories260K.bin"));
    let tokenizer = path(models.join("tok512.bin"));
    let base = [
        checkpoint.as_str(),
        "--tokenizer",
        tokenizer.as_str(),
        "--quant",
    ];
    let from_checkpoint = import("checkpoint.quern", &[&base[..], &["keep"]].concat());
    let quantized = ["bf16", "f16", "q8", "q4"]
        .map(|quant| import(&format!("{quant}.quern"), &[&base[..], &[quant]].concat()))
        .to_vec();
    let gguf = path(models.join("stories260K-f32.gguf"));
    let from_gguf = import("gguf.quern", &[gguf.as_str(), "--quant", "keep"]);
    let read = |name: &str| std::fs::read_to_string(data.join(name)).expect("reference data");
    Some(Stories {
        _folder: folder,
        from_checkpoint,
        from_gguf,
        quantized,
        reference: serde_json::from_str(&read("references/stories260K.json")).expect("JSON"),
        text: read("text/tinystories_val.txt"),
    })
}

/// A greedy run on a prompt of the reference.
fn greedy(model: &str, prompt: &Value, tokens: &str, more: &[&str]) -> Value {
    let prompt = prompt["prompt"].as_str().expect("a prompt");
    let base = [
        "run",
        "-m",
        model,
        "--temp",
        "0",
        "-n",
        tokens,
        "--ignore-eos",
        "--json",
    ];
    run(&[&base[..], more, &[prompt]].concat()).json()
}

#[test]
fn ids_and_text_are_those_of_the_reference() {
    let Some(stories) = stories() else { return };
    for model in [&stories.from_checkpoint, &stories.from_gguf] {
        for prompt in stories.reference["prompts"].as_array().expect("prompts") {
            let value = greedy(model, prompt, "100", &[]);
            assert_eq!(value["prompt_ids"], prompt["prompt_ids"]);
            assert_eq!(value["ids"], prompt["greedy_ids"]);
            let whole = format!(
                "{}{}",
                prompt["prompt"].as_str().expect("text"),
                value["text"].as_str().expect("text")
            );
            assert_eq!(whole, prompt["text"].as_str().expect("text"));
        }
    }
}

#[test]
fn the_mean_log_likelihood_is_that_of_the_reference() {
    let Some(stories) = stories() else { return };
    let nll = &stories.reference["nll"];
    let ids: Vec<String> = nll["token_ids"]
        .as_array()
        .expect("ids")
        .iter()
        .map(Value::to_string)
        .collect();
    let chunk = nll["chunk"].as_u64().expect("a number") as usize;
    for model in [&stories.from_checkpoint, &stories.from_gguf] {
        let mut sum = 0.0;
        for (i, part) in ids.chunks(chunk).enumerate() {
            let list = format!("1,{}", part.join(","));
            let done = run(&[
                "score", "-m", model, "--ids", &list, "--kv", "f32", "--json",
            ]);
            assert_eq!(done.code, 0, "{}", done.err);
            let last = done.text().lines().last().expect("a summary");
            let summary: Value = serde_json::from_str(last).expect("JSON");
            assert_eq!(summary["tokens"], chunk);
            let found = summary["nll"].as_f64().expect("a number") * chunk as f64;
            let expected = nll["per_chunk_sum"][i].as_f64().expect("a number");
            // The reference is rounded to 1e-6; single precision moves a logit by about 1e-5, and the sum by much less than 500 of those.
            assert!((found - expected).abs() < 5e-3, "{found} {expected}");
            sum += found;
        }
        let mean = sum / ids.len() as f64;
        let expected = nll["mean"].as_f64().expect("a number");
        assert!((mean - expected).abs() < 1e-5, "{mean} {expected}");
    }
    // The text gives the same ids: the tokenizer is the reference's too.
    let text: String = stories.text.chars().take(300).collect();
    let done = run(&["score", "-m", &stories.from_gguf, "--json", &text]);
    let found: Vec<String> = done
        .text()
        .lines()
        .filter_map(|line| {
            Some(
                serde_json::from_str::<Value>(line).ok()?["id"]
                    .as_u64()?
                    .to_string(),
            )
        })
        .collect();
    // The last ids depend on where the text was cut.
    let sure = found.len() - 5;
    assert_eq!(found[0], "1");
    assert_eq!(found[1..sure], ids[..sure - 1]);
}

#[test]
fn the_fingerprint_is_the_same_however_the_model_is_run() {
    let Some(stories) = stories() else { return };
    let prompt = &stories.reference["prompts"][2];
    for model in stories.quantized.iter().chain([&stories.from_checkpoint]) {
        let expected = &greedy(model, prompt, "20", &["--isa", "scalar", "-t", "1"])["fingerprint"];
        assert_eq!(expected.as_str().map(str::len), Some(32));
        for kernels in quern_kernels::supported() {
            for (threads, chunk) in [("1", "1"), ("2", "7"), ("7", "512")] {
                let more = ["--isa", kernels.name(), "-t", threads, "--chunk", chunk];
                let value = greedy(model, prompt, "20", &more);
                assert_eq!(&value["fingerprint"], expected, "{model} {more:?}");
            }
        }
    }
}

//! What comes of single records: the bits of `quern run`, OpenAI's shapes, seeds, choices, scores.

use super::{Bench, alone, values};
use crate::common::program::{run, run_with_input};
use crate::common::tiny::{TEMPLATE, Tiny};
use serde_json::{Value, json};

fn open_ai(id: &str, url: &str, body: Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string() + "\n"
}

#[test]
fn a_record_has_the_bits_of_a_run_of_it_alone() {
    for template in [None, Some(TEMPLATE)] {
        let bench = Bench::with(Tiny {
            template,
            ..Tiny::default()
        });
        let input = [
            json!({"prompt": "Once upon", "seed": 7, "max_tokens": 30}),
            json!({"prompt": "Once upon", "seed": 7, "max_tokens": 30, "temperature": 2.5, "top_k": 0, "top_p": 1, "min_p": 0}),
            json!({"prompt": "жж", "max_tokens": 9, "temperature": 0}),
            json!({"ids": [1, 2, 3], "max_tokens": 5, "seed": 3, "repeat_penalty": 1.5, "presence_penalty": 0.5}),
            json!({"prompt": "x", "raw": true, "max_tokens": 12, "seed": 1, "stop": ["a", "e"], "logit_bias": {"5": 2.5}}),
            json!({"prompt": "y", "max_tokens": 20, "seed": 2, "regex": "(ab|cd)+e"}),
        ];
        let text: String = input.iter().map(|r| r.to_string() + "\n").collect();
        let lines = bench.lines(&text, 0, &["--fingerprint", "--token-ids"]);
        let model = &bench.model;
        let common = ["-n", "30", "-s", "7", "Once upon"];
        let hot = [
            "--temp", "2.5", "--top-k", "0", "--top-p", "1", "--min-p", "0",
        ];
        let alone = [
            alone(model, &common),
            alone(model, &[&hot[..], &common].concat()),
            alone(model, &["-n", "9", "--temp", "0", "жж"]),
            alone(
                model,
                &[
                    "-n",
                    "5",
                    "-s",
                    "3",
                    "--repeat-penalty",
                    "1.5",
                    "--presence-penalty",
                    "0.5",
                    "--ids",
                    "1,2,3",
                ],
            ),
            alone(
                model,
                &[
                    "-n", "12", "-s", "1", "-r", "a", "-r", "e", "-l", "5+2.5", "--raw", "x",
                ],
            ),
            alone(model, &["-n", "20", "-s", "2", "--regex", "(ab|cd)+e", "y"]),
        ];
        assert_eq!(lines.len(), alone.len());
        for (i, (line, alone)) in lines.iter().zip(&alone).enumerate() {
            for key in ["text", "ids", "prompt_ids", "fingerprint", "finish_reason"] {
                assert_eq!(line[key], alone[key], "record {i}: {key}");
            }
            for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
                assert_eq!(line["usage"][key], alone["usage"][key], "record {i}: {key}");
            }
            assert_eq!(line["index"], i);
        }
        assert!(lines[0]["fingerprint"].is_string());
    }
}

#[test]
fn seeds_follow_from_the_run_and_the_record_and_not_from_its_place() {
    let bench = Bench::new();
    let record = |id: &str| format!("{{\"id\":\"{id}\",\"prompt\":\"x\",\"max_tokens\":20}}\n");
    let (a, b) = (record("a"), record("b"));
    let with = |text: &str, more: &[&str]| {
        let lines = bench.lines(text, 0, &[&["--fingerprint", "--temp", "3"], more].concat());
        let text = |id: &str| {
            let line = lines.iter().find(|line| line["id"] == id);
            line.expect("the record").clone()
        };
        (text("a"), text("b"))
    };
    let (first, second) = with(&format!("{a}{b}"), &[]);
    assert_ne!(first["seed"], second["seed"]);
    assert_ne!(first["text"], second["text"]);
    let (again, other) = with(&format!("{b}{a}"), &[]);
    for key in ["seed", "text", "fingerprint"] {
        assert_eq!(first[key], again[key], "{key}");
        assert_eq!(second[key], other[key], "{key}");
    }
    let (other, _) = with(&format!("{a}{b}"), &["-s", "1"]);
    assert_ne!(first["seed"], other["seed"]);
    // The seed that is told is the one that makes `quern run` say the same.
    let seed = first["seed"].to_string();
    let run = alone(&bench.model, &["-n", "20", "--temp", "3", "-s", &seed, "x"]);
    assert_eq!(run["text"], first["text"]);
    assert_eq!(run["fingerprint"], first["fingerprint"]);
}

#[test]
fn chats_and_completions_in_the_shapes_of_open_ai() {
    let bench = Bench::with(Tiny {
        template: Some(TEMPLATE),
        ..Tiny::default()
    });
    let messages = json!([{"role": "user", "content": "hi"}]);
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]);
    let chat = |body: Value| open_ai("c", "/v1/chat/completions", body);
    let lines = |body: Value| {
        let lines = bench.lines(&chat(body), 0, &["--token-ids"]);
        let [line] = &lines[..] else {
            panic!("one line")
        };
        line.clone()
    };
    let line = lines(json!({
        "model": "gpt-4o", "messages": messages, "max_tokens": 6, "temperature": 0,
        "logprobs": true, "top_logprobs": 2,
    }));
    assert_eq!(line["custom_id"], "c");
    assert_eq!(line["error"], Value::Null);
    let id = line["id"].as_str().unwrap();
    let hash = id.strip_prefix("batch_req_").expect("a name");
    assert_eq!(line["response"]["status_code"], 200);
    assert_eq!(line["response"]["request_id"], format!("req_{hash}"));
    let body = &line["response"]["body"];
    assert_eq!(body["id"], format!("chatcmpl-{hash}"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["created"], 0);
    assert_eq!(body["model"], "tiny");
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["index"], 0);
    let conversation = bench.arg("conversation.json");
    std::fs::write(&conversation, messages.to_string()).unwrap();
    let base = ["--temp", "0", "-n", "6", "--messages", &conversation];
    let run = alone(&bench.model, &[&base[..], &["--logprobs", "2"]].concat());
    assert_eq!(choice["message"]["content"], run["text"]);
    assert_eq!(choice["token_ids"], run["ids"]);
    assert_eq!(body["prompt_token_ids"], run["prompt_ids"]);
    assert_eq!(body["usage"], run["usage"]);
    let content = choice["logprobs"]["content"].as_array().unwrap();
    let noted = run["logprobs"].as_array().unwrap();
    assert_eq!(content.len(), noted.len());
    for (ours, theirs) in content.iter().zip(noted) {
        assert_eq!(ours["logprob"], theirs["logprob"]);
        assert_eq!(ours["token"], theirs["text"]);
        assert_eq!(
            ours["top_logprobs"][1]["logprob"],
            theirs["top"][1]["logprob"]
        );
        assert!(ours["bytes"].is_array());
    }
    // Parts of text are one text.
    let joined = lines(
        json!({"messages": parts, "max_completion_tokens": 6, "max_tokens": 1, "temperature": 0}),
    );
    let joined = &joined["response"]["body"];
    assert_eq!(joined["choices"][0]["message"]["content"], run["text"]);
    assert_eq!(joined["choices"][0]["logprobs"], Value::Null);
    // A schema, and a context that is full is a length.
    let line = lines(json!({
        "messages": messages, "seed": 5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": {
            "type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}}},
    }));
    let choice = &line["response"]["body"]["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(["{\"n\": 1}", "{\"n\": 22}"].contains(&text), "{text}");
    assert_eq!(choice["finish_reason"], "stop");
    let lines = bench.lines(
        &chat(json!({"messages": messages})),
        0,
        &["--context", "40", "--ignore-eos"],
    );
    let body = &lines[0]["response"]["body"];
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["total_tokens"], 40);

    // Completions continue prompts as they are, several at a time.
    let text = open_ai(
        "d",
        "/v1/completions",
        json!({"prompt": ["ab", [1, 2]], "n": 2, "max_tokens": 4, "seed": 9, "logprobs": 1, "temperature": 3}),
    );
    let lines = bench.lines(&text, 0, &["--fingerprint"]);
    let body = &lines[0]["response"]["body"];
    assert_eq!(body["object"], "text_completion");
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (i, (choice, prompt)) in choices
        .iter()
        .zip([
            ["--raw", "ab"],
            ["--raw", "ab"],
            ["--ids", "1,2"],
            ["--ids", "1,2"],
        ])
        .enumerate()
    {
        assert_eq!(choice["index"], i);
        let seed = choice["seed"].to_string();
        let more = ["-n", "4", "--temp", "3", "-s", &seed];
        let run = alone(&bench.model, &[&more[..], &prompt].concat());
        assert_eq!(choice["text"], run["text"]);
        assert_eq!(choice["fingerprint"], run["fingerprint"]);
        let logprobs = &choice["logprobs"];
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(logprobs[key].as_array().unwrap().len(), 4, "{key}");
        }
    }
    assert_eq!(choices[0]["seed"], 9);
    assert_ne!(choices[1]["seed"], 9);
    assert_eq!(body["usage"]["prompt_tokens"], 3 + 2);
    assert_eq!(body["usage"]["completion_tokens"], 16);
}

#[test]
fn a_result_of_the_shape_of_open_ai_does_not_depend_on_its_place() {
    let bench = Bench::new();
    let line = |id: &str| {
        open_ai(
            id,
            "/v1/completions",
            json!({"prompt": "x", "max_tokens": 9}),
        )
    };
    let both = bench.lines(&(line("a") + &line("b")), 0, &["--temp", "3"]);
    let turned = bench.lines(&(line("b") + &line("a")), 0, &["--temp", "3"]);
    assert_eq!((&both[0], &both[1]), (&turned[1], &turned[0]));
    assert_ne!(both[0]["id"], both[1]["id"]);
}

#[test]
fn several_choices_of_a_plain_record_are_a_list() {
    let bench = Bench::new();
    let lines = bench.lines(
        "{\"prompt\":\"ab\",\"n\":3,\"max_tokens\":8,\"temperature\":3,\"logprobs\":1}\n",
        0,
        &[],
    );
    let choices = lines[0]["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert_ne!(choices[0]["text"], choices[1]["text"]);
    assert_ne!(choices[1]["text"], choices[2]["text"]);
    assert_eq!(lines[0]["usage"]["prompt_tokens"], 3);
    assert_eq!(lines[0]["usage"]["completion_tokens"], 24);
    assert_eq!(choices[2]["logprobs"].as_array().unwrap().len(), 8);
}

#[test]
fn scores_are_those_of_the_same_text() {
    let bench = Bench::new();
    let text = "{\"id\":\"s\",\"prompt\":\"ab\",\"completion\":\"cde\"}\n{\"ids\":[256,97],\"completion_ids\":[98,99]}\n{\"ids\":[256,97],\"completion\":\"bc\"}\n";
    let lines = bench.lines(text, 0, &[]);
    let scored = |args: &[&str], from: usize| -> Vec<f64> {
        let done = run(&[&["score", "-m", bench.model.arg(), "--json"], args].concat());
        let all = values(&done.out);
        let known = all.iter().filter_map(|v| v["logprob"].as_f64());
        // The first id has no logprob.
        known.skip(from - 1).collect()
    };
    let all = |line: &Value| -> Vec<f64> {
        let list = line["logprobs"].as_array().unwrap();
        list.iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let expected = scored(&["abcde"], 3);
    assert_eq!(all(&lines[0]), expected);
    assert_eq!(
        lines[0]["logprob"].as_f64().unwrap(),
        expected.iter().sum::<f64>()
    );
    assert_eq!(lines[0]["ids"], json!([99, 100, 101]));
    assert_eq!(lines[0]["usage"]["prompt_tokens"], 3);
    assert_eq!(all(&lines[1]), scored(&["--ids", "256,97,98,99"], 2));
    assert_eq!(all(&lines[2]), all(&lines[1]));
    let lines = bench.lines("{\"prompt\":\"ab\",\"completion\":\"\"}\n", 1, &[]);
    assert!(
        lines[0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no tokens")
    );
}

#[test]
fn options_of_the_command_line_are_for_records_that_say_nothing() {
    let bench = Bench::with(Tiny {
        template: Some(TEMPLATE),
        ..Tiny::default()
    });
    let text = "{\"prompt\":\"a\"}\n{\"prompt\":\"a\",\"max_tokens\":3,\"temperature\":0}\n{\"prompt\":\"a\",\"system\":\"t\"}\n";
    let more = [
        "-n",
        "7",
        "-s",
        "4",
        "--system",
        "s",
        "--temp",
        "2",
        "--token-ids",
        "--fingerprint",
    ];
    let lines = bench.lines(text, 0, &more);
    let run = |system: &str, seed: &Value, more: &[&str]| {
        let seed = seed.to_string();
        let args = ["--system", system, "-s", &seed, "a"];
        alone(&bench.model, &[more, &args].concat())
    };
    let seven = ["-n", "7", "--temp", "2"];
    let three = ["-n", "3", "--temp", "0"];
    for (line, run) in lines.iter().zip([
        run("s", &lines[0]["seed"], &seven),
        run("s", &lines[1]["seed"], &three),
        run("t", &lines[2]["seed"], &seven),
    ]) {
        assert_eq!(line["prompt_ids"], run["prompt_ids"]);
        assert_eq!(line["text"], run["text"]);
    }
    // A grammar for all, and one of a record's own.
    let text = "{\"prompt\":\"a\"}\n{\"prompt\":\"a\",\"regex\":\"[xy]{3}\"}\n";
    let lines = bench.lines(text, 0, &["--regex", "(p|q)", "--temp", "2"]);
    let first = lines[0]["text"].as_str().unwrap();
    assert!(["p", "q"].contains(&first), "{first}");
    let second = lines[1]["text"].as_str().unwrap();
    assert!(
        second.len() == 3 && second.chars().all(|c| "xy".contains(c)),
        "{second}"
    );
}

#[test]
fn the_date_of_templates_is_fixed_and_reasoning_can_be_left_out() {
    let bench = Bench::with(Tiny {
        template: Some("{{ strftime_now('%Y') }}{{ messages[0].content }}"),
        ..Tiny::default()
    });
    let text = "{\"prompt\":\"a\",\"max_tokens\":2}\n";
    let lines = bench.lines(text, 0, &["--token-ids", "--now", "2031-05-06"]);
    let ids = lines[0]["prompt_ids"].as_array().unwrap();
    let year: Vec<u8> = ids
        .iter()
        .map(|v| v.as_u64().unwrap())
        .filter(|id| *id < 256)
        .map(|id| id as u8)
        .collect();
    assert_eq!(year, b"2031a");
    let manifest = bench.read("out.jsonl.manifest.json");
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["now"], "2031-05-06T12:00:00");

    let script =
        crate::common::script::Script::new(&["<think>", "hm", "</think>", "yes"], &[], false);
    let args = ["batch", "-m", script.arg(), "-i", "-", "-o", "-", "-q"];
    let shown = |more: &[&str]| {
        let done = run_with_input(&[&args[..], more].concat(), b"{\"ids\":[259]}\n");
        values(&done.out)[0]["text"].clone()
    };
    assert_eq!(shown(&[]), "<think>hm</think>yes");
    assert_eq!(shown(&["--hide-thinking"]), "yes");
}

#[test]
fn a_model_without_a_tokenizer_takes_ids() {
    let bench = Bench::with(Tiny {
        tokenizer: false,
        ..Tiny::default()
    });
    let text = "{\"ids\":[1,2],\"max_tokens\":4,\"temperature\":0}\n{\"prompt\":\"x\"}\n{\"ids\":[99999]}\n";
    let lines = bench.lines(text, 1, &["--token-ids"]);
    let run = alone(&bench.model, &["--temp", "0", "-n", "4", "--ids", "1,2"]);
    assert_eq!(lines[0]["ids"], run["ids"]);
    assert_eq!(lines[0]["text"], "");
    let message = |i: usize| lines[i]["error"]["message"].as_str().unwrap();
    assert!(message(1).contains("no tokenizer"), "{}", message(1));
    assert!(message(2).contains("id 99999"), "{}", message(2));
}

//! Inputs of strangers: every line has its answer at its place, whatever it is.

use super::{Bench, values};
use crate::common::program::{quern, run_with_input};
use serde_json::{Value, json};

/// What a record that is right looks like, and what becomes of a wrong one.
const GOOD: &str = "{\"prompt\":\"ab\",\"max_tokens\":3,\"temperature\":0}";

fn code(line: &Value) -> &str {
    line["error"]["code"].as_str().unwrap_or("none")
}

fn message(line: &Value) -> &str {
    line["error"]["message"].as_str().unwrap_or_default()
}

#[test]
fn a_bad_line_is_one_error_record_at_its_place() {
    let bench = Bench::new();
    let deep = "[".repeat(100_000);
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (
            b"{\"prompt\":\"\xff\"}".to_vec(),
            "invalid_utf8",
            "byte 11 is 0xff",
        ),
        (
            b"{\"prompt\":\"\\ud800\"}".to_vec(),
            "invalid_json",
            "hex escape",
        ),
        (deep.into_bytes(), "invalid_json", "recursion limit"),
        (b"{\"prompt\":\"a\"".to_vec(), "invalid_json", "EOF"),
        (
            b"{\"prompt\":\"a\"} x".to_vec(),
            "invalid_json",
            "trailing characters at byte 16",
        ),
        (
            b"{\"prompt\":\"a\",\"temperature\":1e999}".to_vec(),
            "invalid_json",
            "out of range",
        ),
        (
            b"[1]".to_vec(),
            "invalid_request",
            "the line is a list, expected an object",
        ),
        (b"{}".to_vec(), "invalid_request", "exactly one of"),
        (
            b"{\"prompt\":7}".to_vec(),
            "invalid_request",
            "\"prompt\" is 7, expected a string",
        ),
        (
            b"{\"prompt\":\"a\",\"ids\":[1]}".to_vec(),
            "invalid_request",
            "exactly one of",
        ),
        (b"{\"ids\":[]}".to_vec(), "invalid_request", "no tokens"),
        (b"{\"ids\":[-1]}".to_vec(), "invalid_request", "token ids"),
        (
            b"{\"ids\":[99999999]}".to_vec(),
            "invalid_request",
            "99999999",
        ),
        (
            b"{\"prompt\":\"a\",\"max_token\":3}".to_vec(),
            "unknown_field",
            "\"max_token\"",
        ),
        (
            b"{\"prompt\":\"a\",\"max_tokens\":-3}".to_vec(),
            "invalid_request",
            "\"max_tokens\" is -3",
        ),
        (
            b"{\"prompt\":\"a\",\"n\":0}".to_vec(),
            "invalid_request",
            "\"n\" is 0",
        ),
        (
            b"{\"prompt\":\"a\",\"n\":1000000000}".to_vec(),
            "invalid_request",
            "\"n\"",
        ),
        (
            b"{\"prompt\":\"a\",\"temperature\":-1}".to_vec(),
            "invalid_request",
            "temperature is -1",
        ),
        (
            b"{\"prompt\":\"a\",\"top_p\":2}".to_vec(),
            "invalid_request",
            "top-p is 2",
        ),
        (
            b"{\"prompt\":\"a\",\"stop\":[\"\"]}".to_vec(),
            "invalid_request",
            "\"stop\" is empty",
        ),
        (
            b"{\"prompt\":\"a\",\"stop\":[1]}".to_vec(),
            "invalid_request",
            "\"stop\"",
        ),
        (
            b"{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}".to_vec(),
            "invalid_request",
            "logit_bias.x",
        ),
        (
            b"{\"prompt\":\"a\",\"logit_bias\":{\"99999\":1}}".to_vec(),
            "invalid_request",
            "id 99999",
        ),
        (
            b"{\"prompt\":\"a\",\"seed\":-1}".to_vec(),
            "invalid_request",
            "\"seed\" is -1",
        ),
        (
            b"{\"prompt\":\"a\",\"regex\":\"(\"}".to_vec(),
            "invalid_request",
            "the grammar is not understood",
        ),
        (
            b"{\"prompt\":\"a\",\"regex\":\"a\",\"grammar\":\"x\"}".to_vec(),
            "invalid_request",
            "two forms",
        ),
        (
            b"{\"prompt\":\"a\",\"json_schema\":{\"type\":\"nonsense\"}}".to_vec(),
            "invalid_request",
            "grammar",
        ),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}".to_vec(),
            "invalid_request",
            "no chat template",
        ),
        (
            b"{\"messages\":[{\"content\":\"x\"}]}".to_vec(),
            "invalid_request",
            "message 0 has no role",
        ),
        (
            b"{\"prompt\":\"a\",\"completion\":5}".to_vec(),
            "invalid_request",
            "\"completion\" is 5",
        ),
        (
            b"{\"embed\":\"a\",\"completion\":\"b\"}".to_vec(),
            "invalid_request",
            "\"completion\"",
        ),
        (
            format!("{{\"prompt\":\"{}\"}}", "x".repeat(300)).into_bytes(),
            "limit_exceeded",
            "the prompt has 301 tokens, but the context holds 256",
        ),
        (
            b"{\"prompt\":\"a\",\"id\":\"\"}".to_vec(),
            "invalid_request",
            "\"id\" has 0 bytes",
        ),
    ];
    let mut input = Vec::new();
    for (line, ..) in &cases {
        input.extend_from_slice(line);
        input.extend_from_slice(format!("\n{GOOD}\n").as_bytes());
    }
    bench.write("in.jsonl", &input);
    let done = bench.run("out.jsonl", &[]);
    assert_eq!(done.code, 1, "{}", done.err);
    let lines = values(&bench.read("out.jsonl"));
    assert_eq!(lines.len(), 2 * cases.len());
    for (i, (line, expected, part)) in cases.iter().enumerate() {
        let shown = String::from_utf8_lossy(&line[..line.len().min(60)]);
        let bad = &lines[2 * i];
        assert_eq!(code(bad), *expected, "{shown}: {bad}");
        assert!(message(bad).contains(part), "{shown}: {bad}");
        assert_eq!(bad["index"], 2 * i);
        assert_eq!(lines[2 * i + 1]["text"], lines[1]["text"]);
    }
    let summary = format!("{} of {} records failed", cases.len(), 2 * cases.len());
    assert!(done.err.contains(&summary), "{}", done.err);
}

#[test]
fn bad_lines_of_the_shape_of_open_ai() {
    let bench = Bench::new();
    let chat = |body: Value| json!({"custom_id": "x", "url": "/v1/chat/completions", "body": body});
    let hi = json!([{"role": "user", "content": "hi"}]);
    let cases = [
        (json!({"custom_id": "x", "body": {}}), "\"url\" is missing"),
        (
            json!({"custom_id": "x", "url": "/v1/images"}),
            "\"/v1/images\"",
        ),
        (
            json!({"url": "/v1/completions", "body": {}}),
            "\"custom_id\" is missing",
        ),
        (
            json!({"custom_id": "x", "url": "/v1/completions"}),
            "\"body\" is missing",
        ),
        (
            json!({"custom_id": "x", "url": "/v1/completions", "body": {}}),
            "\"body.prompt\" is missing",
        ),
        (
            json!({"custom_id": "x", "url": "/v1/completions", "body": {"prompt": []}}),
            "\"body.prompt\" has 0 entries",
        ),
        (
            json!({"custom_id": "x", "url": "/v1/completions", "body": {"prompt": "a"}, "extra": 1}),
            "\"extra\" is not known",
        ),
        (
            json!({"custom_id": "x", "method": "GET", "url": "/v1/completions", "body": {}}),
            "\"GET\"",
        ),
        (
            json!({"custom_id": 5, "url": "/v1/completions", "body": {}}),
            "\"custom_id\" is 5",
        ),
        (
            json!({"custom_id": "x", "url": "/v1/completions", "body": {"n": 100, "prompt": vec!["a"; 99]}}),
            "9900 texts",
        ),
        (chat(json!({})), "\"body.messages\" is missing"),
        (
            chat(json!({"messages": hi, "stream": true})),
            "does not stream",
        ),
        (
            chat(json!({"messages": hi, "functions": []})),
            "\"body.functions\" is not known",
        ),
        (
            chat(json!({"messages": hi, "top_logprobs": 3})),
            "needs \"logprobs\": true",
        ),
        (
            chat(json!({"messages": hi, "response_format": {"type": "x"}})),
            "\"response_format.type\" is \"x\"",
        ),
        (
            chat(json!({"messages": hi, "response_format": {"type": "json_schema"}})),
            "json_schema\" is missing",
        ),
        (
            chat(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
            "image_url",
        ),
        (
            json!({"custom_id": "x", "url": "/v1/embeddings", "body": {"input": 5}}),
            "\"body.input\"",
        ),
        (
            json!({"custom_id": "x", "url": "/v1/embeddings", "body": {"input": "a", "encoding_format": "base64"}}),
            "base64",
        ),
    ];
    for (i, (record, part)) in cases.iter().enumerate() {
        let lines = bench.lines(&(record.to_string() + "\n"), 1, &[]);
        let line = &lines[0];
        assert!(message(line).contains(part), "{record}: {line}");
        assert_eq!(line["response"], Value::Null);
        let id = line["custom_id"].as_str();
        assert!(id == Some("x") || [2, 8].contains(&i), "{line}");
        assert!(line["id"].as_str().unwrap().starts_with("batch_req_"));
    }
    // What cannot be read is answered in the shape that it seems to have.
    let lines = bench.lines("{\"custom_id\": \"x\",\n{\"prompt\": \n", 1, &[]);
    assert_eq!(lines[0]["custom_id"], Value::Null);
    assert!(lines[0]["id"].is_string());
    assert_eq!(lines[1]["index"], 1);
    // Names of fields that do no harm are passed over, and all are if asked for.
    let text = json!({"custom_id": "x", "url": "/v1/completions", "extra": 1,
        "body": {"model": "m", "user": "u", "prompt": "a", "max_tokens": 1, "functions": []}});
    bench.lines(&(text.to_string() + "\n"), 0, &["--lenient"]);
}

#[test]
fn benign_forms_of_text_files_are_taken_as_they_are_meant() {
    let bench = Bench::new();
    let plain = bench.lines(&format!("{GOOD}\n{GOOD}\n"), 0, &[]);
    let other = bench.lines(&format!("\u{feff}\n\n{GOOD}\r\n  \r\n{GOOD}"), 0, &[]);
    for (i, (a, b)) in plain.iter().zip(&other).enumerate() {
        assert_eq!(a, b);
        assert_eq!(a["index"], i);
    }
    assert_eq!(plain.len(), other.len());
    assert_eq!(bench.lines("", 0, &[]).len(), 0);
    // Lines of text are prompts, whatever they look like.
    let lines = bench.lines(
        "ab\n\n{\"prompt\":\r\n",
        0,
        &["--text", "-n", "3", "--token-ids"],
    );
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["prompt_ids"], json!([256, 97, 98]));
    assert_eq!(lines[1]["prompt_ids"].as_array().unwrap().len(), 11);
    let lines = bench.lines("a\n", 0, &["--text", "-n", "0"]);
    assert_eq!(lines[0]["text"], "");
    assert_eq!(lines[0]["finish_reason"], "length");
}

#[test]
fn a_line_of_64_mib_is_one_error() {
    let bench = Bench::new();
    let mut input = format!("{GOOD}\n{{\"custom_id\":\"a\",\"x\":\"").into_bytes();
    input.resize(input.len() + (64 << 20), b'x');
    input.extend_from_slice(format!("\"}}\n{GOOD}\n").as_bytes());
    bench.write("in.jsonl", &input);
    let done = bench.run("out.jsonl", &[]);
    assert_eq!(done.code, 1, "{}", done.err);
    let lines = values(&bench.read("out.jsonl"));
    assert_eq!(lines.len(), 3);
    assert_eq!(code(&lines[1]), "line_too_long");
    assert!(
        message(&lines[1]).contains("67108888 bytes"),
        "{}",
        lines[1]
    );
    assert_eq!(lines[1]["custom_id"], Value::Null);
    assert_eq!(lines[0]["text"], lines[2]["text"]);
}

#[test]
fn two_records_of_one_name_are_refused_before_work_begins_or_where_they_come() {
    let bench = Bench::new();
    let record = |id: &str| format!("{{\"id\":\"{id}\",\"prompt\":\"a\",\"max_tokens\":1}}\n");
    let text = [record("a"), record("b"), record("a"), record("c")].concat();
    bench.write("in.jsonl", &text);
    bench
        .run("out.jsonl", &[])
        .fails(3, &["lines 1 and 3 are both called \"a\""]);
    assert!(!bench.path("out.jsonl").exists());
    let args = ["batch", "-m", bench.model.arg(), "-i", "-", "-o", "-", "-q"];
    let done = run_with_input(&args, text.as_bytes());
    assert_eq!(done.code, 1);
    let lines = values(&done.out);
    assert_eq!(lines.len(), 4);
    assert_eq!(code(&lines[2]), "duplicate_id");
    assert_eq!([&lines[0], &lines[1], &lines[3]].map(code), ["none"; 3]);
    // They may be wanted, as where an engine sends lines again.
    let done = run_with_input(
        &[&args[..], &["--allow-duplicates"]].concat(),
        text.as_bytes(),
    );
    assert_eq!(done.code, 0, "{}", done.err);
    let lines = values(&done.out);
    assert_eq!(lines[0]["text"], lines[2]["text"]);
    let done = bench.run("out.jsonl", &["-q", "--allow-duplicates"]);
    assert_eq!(
        (done.code, bench.read("out.jsonl")),
        (
            0,
            run_with_input(
                &[&args[..], &["--allow-duplicates"]].concat(),
                text.as_bytes()
            )
            .out
        )
    );
    bench
        .run(
            "other.jsonl",
            &["--allow-duplicates", "--order", "completion"],
        )
        .fails(2, &["--allow-duplicates needs --order input"]);
}

#[test]
fn a_dry_run_says_what_is_wrong_and_writes_nothing() {
    let bench = Bench::new();
    let text = format!(
        "{GOOD}\nnonsense\n{{\"prompt\":\"abc\",\"n\":2,\"max_tokens\":5}}\n{{\"prompt\":\"a\",\"regex\":\"(\"}}\n"
    );
    bench.write("in.jsonl", text);
    let summary = bench.arg("summary.json");
    let done = bench.run("out.jsonl", &["--dry-run", "--summary", &summary]);
    assert_eq!(done.code, 1);
    assert_eq!(done.text(), "");
    for part in [
        "line 2: invalid_json: ",
        "line 4: invalid_request: ",
        "4 records, 2 of them wrong; 9 prompt tokens; 4 texts",
        "2 of 4 records failed",
    ] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
    assert!(!bench.path("out.jsonl").exists());
    assert!(!bench.path("out.jsonl.manifest.json").exists());
    let summary: Value = serde_json::from_slice(&bench.read("summary.json")).unwrap();
    assert_eq!(summary["prompt_tokens"], 9);
    assert_eq!(summary["errors"]["invalid_json"], 1);
    // It needs no output, and takes standard input.
    let args = [
        "batch",
        "-m",
        bench.model.arg(),
        "-i",
        "-",
        "--dry-run",
        "-n",
        "10",
    ];
    let done = run_with_input(&args, b"{\"prompt\":\"a\"}\n{\"ids\":[1]}\n");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.err.contains("at most 20 tokens altogether"),
        "{}",
        done.err
    );
}

#[test]
fn what_is_wrong_with_the_command_line() {
    let bench = Bench::new();
    bench.write("in.jsonl", GOOD);
    let wrong = |more: &[&str], code: i32, parts: &[&str]| {
        bench.run("out.jsonl", more).fails(code, parts);
        assert!(!bench.path("out.jsonl").exists(), "{more:?}");
    };
    wrong(&["--shard", "3/2"], 2, &["K/N"]);
    wrong(&["--kv-memory", "x"], 2, &["512M"]);
    wrong(&["--max-inflight", "0"], 2, &["at least 1"]);
    wrong(&["--temp", "-1"], 2, &["temperature is -1"]);
    wrong(
        &["-m", "/nonexistent.quern"],
        2,
        &["cannot be used multiple times"],
    );
    let done = |args: &[&str]| crate::common::program::run(args);
    done(&["batch", "-o", "x"]).fails(2, &["--input"]);
    done(&["batch", "-i", "x"]).fails(2, &["--output"]);
    let input = bench.arg("in.jsonl");
    done(&["batch", "-i", &input, "-o", "-", "--resume"]).fails(2, &["--resume needs an output"]);
    done(&["batch", "-i", "/nonexistent", "-o", "-"]).fails(4, &["/nonexistent"]);
    let shard = ["batch", "-i", &input, "-o", "-", "--shard", "auto"];
    let plain: crate::common::program::Done = quern(&shard)
        .env_remove("SLURM_ARRAY_TASK_ID")
        .env_remove("AWS_BATCH_JOB_ARRAY_INDEX")
        .env_remove("JOB_COMPLETION_INDEX")
        .output()
        .unwrap()
        .into();
    plain.fails(2, &["give --shard K/N"]);
    // An output that cannot be written is told before the model is looked at.
    let args = ["batch", "-m", "/nonexistent.quern", "-i", &input, "-o"];
    done(&[&args[..], &["/nonexistent/out.jsonl"]].concat()).fails(4, &["/nonexistent/out.jsonl"]);
    let folder = bench.arg("");
    done(&[&args[..], &[&folder]].concat()).fails(4, &[&folder[..folder.len() - 1]]);
    let out = bench.arg("out.jsonl");
    done(&[&args[..], &[&out, "--errors", "/nonexistent/e"]].concat())
        .fails(4, &["/nonexistent/e"]);
    done(&[&args[..], &[&out]].concat()).fails(4, &["/nonexistent.quern"]);
    assert!(!bench.path("out.jsonl").exists());
}

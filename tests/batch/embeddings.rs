//! Vectors in batches are those of `quern embed`.

use super::Bench;
use crate::common::program::run;
use serde_json::{Value, json};

fn embedded(bench: &Bench, more: &[&str]) -> Value {
    let base = ["embed", "-m", bench.model.arg(), "--json"];
    run(&[&base, more].concat()).json()
}

#[test]
fn embeddings_of_both_shapes() {
    let bench = Bench::new();
    let body = json!({"input": ["ab", "жcd"], "model": "text-embedding-3-small", "encoding_format": "float"});
    let ids = json!({"input": [256, 97, 98]});
    let line = |id: &str, body: &Value| {
        json!({"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body})
            .to_string()
            + "\n"
    };
    let text = line("a", &body) + "{\"embed\":\"ab\"}\n" + &line("b", &ids);
    let lines = bench.lines(&text, 0, &["--pooling", "mean"]);
    let body = &lines[0]["response"]["body"];
    assert_eq!(body["object"], "list");
    let data = body["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    let unit = ["--pooling", "mean", "--normalize"];
    for (i, text) in ["ab", "жcd"].iter().enumerate() {
        let alone = embedded(&bench, &[&unit[..], &[text]].concat());
        assert_eq!(data[i]["embedding"], alone["embedding"]);
        assert_eq!(data[i]["index"], i);
        assert_eq!(data[i]["object"], "embedding");
    }
    assert_eq!(body["usage"]["prompt_tokens"], 3 + 5);
    let alone = embedded(&bench, &["--pooling", "mean", "ab"]);
    assert_eq!(lines[1]["embedding"], alone["embedding"]);
    assert_eq!(lines[1]["usage"]["total_tokens"], alone["tokens"]);
    let data = &lines[2]["response"]["body"]["data"];
    let alone = embedded(&bench, &[&unit[..], &["ab"]].concat());
    assert_eq!(data[0]["embedding"], alone["embedding"]);

    let long = "x".repeat(300);
    let text = line("a", &json!({"input": ""})) + &line("b", &json!({"input": long}));
    let lines = bench.lines(&text, 1, &[]);
    assert_eq!(lines[0]["response"]["status_code"], 200);
    assert_eq!(lines[1]["error"]["code"], "limit_exceeded");
    let message = lines[1]["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("301 tokens") && message.contains("256"),
        "{message}"
    );
    let done = bench.run("x.jsonl", &["--pooling", "none"]);
    done.fails(2, &["--pooling is none"]);
}

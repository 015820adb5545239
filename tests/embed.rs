//! `quern embed` from outside: the values of the embedding goldens, every way in and out, and what is wrong with a text.

use crate::common::program::{Done, run, run_with_input};
use crate::common::tiny::{BOS, Tiny, TinyFile};
use crate::golden::{goldens, read_golden};
use crate::materialise::materialise;
use serde_json::{Value, json};

const GOLDENS: [&str; 6] = [
    "bert_embed",
    "gemma3_embed_bidir",
    "modernbert_embed",
    "nomic_bert_embed",
    "qwen3_embed",
    "xlm_roberta_embed",
];

/// `quern embed` on a model with more arguments.
fn embed(model: &str, more: &[&str]) -> Done {
    run(&[&["embed", "-m", model], more].concat())
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("a list: {value}"));
    list.iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[track_caller]
fn close(what: &str, found: &Value, expected: &Value, atol: f64) {
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    let far = found.iter().zip(&expected).map(|(f, e)| (f - e).abs());
    let worst = far.fold(0.0, f64::max);
    assert!(worst <= atol, "{what} differs by {worst:.2e}");
}

/// The lines of standard output as JSON.
fn json_lines(done: &Done) -> Vec<Value> {
    let lines = done.text().lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn the_program_gives_the_values_of_the_goldens() {
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
        let (mut lines, mut singles) = (String::new(), Vec::new());
        for s in golden["sequences"].as_array().unwrap() {
            let at = |what: &str| format!("{name} {}: {what}", s["name"]);
            let ids: Vec<String> = numbers(&s["input_ids"])
                .iter()
                .map(f64::to_string)
                .collect();
            let ids = ids.join(",");
            let one =
                |more: &[&str]| embed(model, &[&["--json", "--ids", &ids], more].concat()).json();
            let plain = one(&[]);
            assert_eq!(
                plain["tokens"].as_u64().unwrap() as usize,
                s["input_ids"].as_array().unwrap().len()
            );
            close(
                &at("embedding"),
                &plain["embedding"],
                &s["embedding_raw"],
                atol,
            );
            let unit = one(&["--normalize"]);
            let expected = &s["embedding_normalized"];
            close(&at("unit vector"), &unit["embedding"], expected, atol);
            match s.get("pooler_output") {
                Some(expected) => close(&at("pooler"), &plain["pooler"], expected, atol),
                None => assert!(plain.get("pooler").is_none(), "{}", at("pooler")),
            }
            let hidden = one(&["--pooling", "none"]);
            assert!(hidden.get("embedding").is_none());
            let rows = hidden["hidden"].as_array().unwrap();
            assert_eq!(rows.len() as u64, hidden["tokens"].as_u64().unwrap());
            close(&at("first"), &rows[0], &s["hidden_first"], atol);
            close(&at("last"), &rows[rows.len() - 1], &s["hidden_last"], atol);
            // What the model says itself is one of these; projections come after all of them.
            let own = golden["pooling"].as_str().unwrap();
            let mut same = 0;
            for (how, expected) in [
                ("cls", "hidden_first"),
                ("last", "hidden_last"),
                ("mean", "hidden_mean"),
            ] {
                let pooled = one(&["--pooling", how]);
                if name != "gemma3_embed_bidir" {
                    close(&at(how), &pooled["embedding"], &s[expected], atol);
                }
                if own == how {
                    assert_eq!(pooled, plain, "{}", at(how));
                    same += 1;
                }
            }
            assert_eq!(same, 1, "{name}: pooling {own}");
            lines += &format!("{}\n", json!({"id": s["name"], "ids": s["input_ids"]}));
            singles.push((s["name"].clone(), plain));
        }
        // All of them as a file, in one process: the same values to the last digit.
        let done = run_with_input(&["embed", "-m", model, "-f", "-"], lines.as_bytes());
        assert_eq!(done.code, 0, "{}", done.err);
        let found = json_lines(&done);
        assert_eq!(found.len(), singles.len());
        for (found, (id, mut single)) in found.into_iter().zip(singles) {
            single["id"] = id;
            assert_eq!(found, single, "{name}");
        }
    }
}

#[test]
fn a_text_comes_as_an_argument_or_through_a_pipe() {
    let model = TinyFile::new(Tiny::default());
    let done = embed(model.arg(), &["ab"]);
    assert_eq!(done.code, 0, "{}", done.err);
    // One vector on one line; the digits say every f32 exactly.
    let values: Vec<f32> = done
        .text()
        .trim_end()
        .split(' ')
        .map(|w| w.parse().unwrap())
        .collect();
    assert_eq!((values.len(), done.text().matches('\n').count()), (36, 1));
    let json = embed(model.arg(), &["--json", "ab"]).json();
    let same: Vec<f32> = numbers(&json["embedding"])
        .iter()
        .map(|x| *x as f32)
        .collect();
    assert_eq!((&json["tokens"], &same), (&json!(3), &values));
    let ids = format!("{BOS},97,98");
    assert_eq!(embed(model.arg(), &["--json", "--ids", &ids]).json(), json);
    let piped = run_with_input(&["embed", "-m", model.arg(), "--json"], b"ab\n");
    assert_eq!(piped.json(), json);
    // This model says nothing about pooling and its tokens see no later ones: the last counts.
    assert_eq!(
        embed(model.arg(), &["--json", "--pooling", "last", "ab"]).json(),
        json
    );
    // A vector per token, the last of them the same, and their mean.
    let all = embed(model.arg(), &["--pooling", "none", "ab"]);
    let rows: Vec<&str> = all.text().lines().collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2], done.text().trim_end());
    let row = |i: usize| -> Vec<f64> { rows[i].split(' ').map(|w| w.parse().unwrap()).collect() };
    let mean: Vec<f64> = (0..36)
        .map(|d| (row(0)[d] + row(1)[d] + row(2)[d]) / 3.0)
        .collect();
    let found = embed(model.arg(), &["--json", "--pooling", "mean", "ab"]).json();
    close("mean", &found["embedding"], &json!(mean), 1e-6);
    let unit = embed(model.arg(), &["--json", "--normalize", "ab"]).json();
    let length: f64 = numbers(&unit["embedding"]).iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-6, "{length}");
    // Threads, kernels and chunks are matters of speed.
    for more in [["-t", "3"], ["--isa", "scalar"], ["--chunk", "1"]] {
        let args = [&more[..], &["--json", "ab"]].concat();
        assert_eq!(embed(model.arg(), &args).json(), json, "{more:?}");
    }
}

#[test]
fn lines_of_a_file_succeed_and_fail_one_by_one() {
    let model = TinyFile::new(Tiny {
        context: 12,
        ..Tiny::default()
    });
    let single = embed(model.arg(), &["--json", "ab"]).json();
    let file = model.path().with_extension("jsonl");
    let lines = [
        r#""ab""#,
        r#"{"id": 7, "text": "ab", "title": "not looked at"}"#,
        "",
        r#"{"id": "x", "ids": [256, 97, 98]}"#,
        r#"{"id": [1], "text": "ab""#,
        r#"{"id": {"a": 1}, "text": 5}"#,
        r#"{"id": "both", "text": "ab", "ids": [1]}"#,
        r#"{"id": "none"}"#,
        r#"{"id": "no ids", "ids": []}"#,
        r#"{"id": "half", "ids": [1.5]}"#,
        r#"{"id": "far", "ids": [1, 100000]}"#,
        r#"{"id": "long", "text": "much too long a text"}"#,
        r#"{"id": "empty", "text": ""}"#,
        "\"no line end\"",
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let path = file.to_str().unwrap();
    let done = embed(model.arg(), &["-f", path]);
    done.fails(1, &["tiny.jsonl", "8 of 14 lines failed"]);
    let found = json_lines(&done);
    assert_eq!(found.len(), 13, "one for every line that is not empty");
    let with_id = |id: Value| {
        let mut value = single.clone();
        value["id"] = id;
        value
    };
    assert_eq!(found[0], single);
    assert_eq!(found[1], with_id(json!(7)));
    assert_eq!(found[2], with_id(json!("x")));
    for (i, id, parts) in [
        (3, json!(null), &["line 5", "not JSON", "column"][..]),
        (4, json!({"a": 1}), &["line 6", "either text or ids"]),
        (5, json!("both"), &["line 7", "either text or ids"]),
        (6, json!("none"), &["line 8", "either text or ids"]),
        (7, json!("no ids"), &["line 9", "no tokens"]),
        (8, json!("half"), &["line 10", "a list of token ids"]),
        (9, json!("far"), &["line 11", "100000"]),
        (10, json!("long"), &["line 12", "21 tokens", "12"]),
    ] {
        assert_eq!(found[i]["id"], id, "{}", found[i]);
        assert!(found[i].get("embedding").is_none());
        let error = found[i]["error"].as_str().unwrap();
        for part in parts {
            assert!(error.contains(part), "{part:?} in {error:?}");
        }
    }
    // Nothing but what the tokenizer puts before a text.
    assert_eq!(
        (&found[11]["id"], &found[11]["tokens"]),
        (&json!("empty"), &json!(1))
    );
    assert_eq!(found[12]["tokens"], 12);

    // A file without failures, through a pipe and with other options.
    let input = b"\"ab\"\n{\"text\": \"cd\"}\n";
    let args = ["embed", "-m", model.arg(), "--pooling", "none", "-f", "-"];
    let done = run_with_input(&args, input);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let hidden = json_lines(&done);
    assert_eq!(hidden[1]["hidden"].as_array().unwrap().len(), 3);
    let done = run_with_input(&["embed", "-m", model.arg(), "-f", "-"], b"\"a\xff\"\n");
    assert_eq!(done.code, 1);
    assert!(done.text().contains("not JSON"), "{}", done.text());
    assert_eq!(
        run_with_input(&["embed", "-m", model.arg(), "-f", "-"], b"").code,
        0
    );
}

#[test]
fn wrong_arguments_texts_and_models() {
    let model = TinyFile::new(Tiny {
        context: 12,
        ..Tiny::default()
    });
    let m = model.arg();
    embed(m, &[]).fails(2, &["no text", "-f FILE", "--ids"]);
    embed(m, &["--pooling", "max", "ab"]).fails(2, &["'max'", "--pooling"]);
    embed(m, &["--pooling", "none", "--normalize", "ab"]).fails(2, &["--normalize", "none"]);
    embed(m, &["--ids", "1", "ab"]).fails(2, &["cannot be used with"]);
    embed(m, &["-f", "x", "ab"]).fails(2, &["cannot be used with"]);
    embed(m, &["-f", "x", "--ids", "1"]).fails(2, &["cannot be used with"]);
    embed(m, &["--ids", "1,x"]).fails(2, &["\"x\" is not a token id"]);
    embed(m, &["--ids", "1,100000"]).fails(3, &["100000", "position 1"]);
    embed(m, &["much too long a text"]).fails(5, &["21 tokens", "12"]);
    embed(m, &["-f", "/nonexistent/texts.jsonl"]).fails(4, &["/nonexistent/texts.jsonl"]);
    run_with_input(&["embed", "-m", m], b"a\xffb").fails(3, &["not UTF-8", "offset 1"]);
    run_with_input(&["embed", "-m", m], b"").fails(2, &["empty"]);
    let bare = TinyFile::new(Tiny {
        tokenizer: false,
        ..Tiny::default()
    });
    embed(bare.arg(), &["ab"]).fails(2, &["no tokenizer", "--ids"]);
    assert_eq!(embed(bare.arg(), &["--ids", "1,2"]).code, 0);
}

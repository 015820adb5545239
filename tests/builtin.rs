//! The built-in model: every command runs it where no other one is named.

use crate::common::program::{run, run_with_input};
use crate::common::terminal::Terminal;

const PROMPT: &str = "What is the capital of France?";

#[test]
fn without_a_model_the_built_in_one_answers() {
    let done = run(&["run", "--temp", "0", "-n", "20", PROMPT]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (0, ""),
        "no word about it in a pipe"
    );
    assert!(!done.out.is_empty());
    let named = run(&["run", "-m", "pocket", "--temp", "0", "-n", "20", PROMPT]);
    assert_eq!(named.out, done.out);
    // The same from memory of this process, which the report tells apart.
    let copied = run(&[
        "run",
        "--no-mmap",
        "--temp",
        "0",
        "-n",
        "20",
        "--stats",
        PROMPT,
    ]);
    assert_eq!(copied.out, done.out);
    assert!(
        copied.err.contains("mapped of a file of 0.0 MiB"),
        "{}",
        copied.err
    );
    let chat = run_with_input(&["chat", "--temp", "0", "-n", "20"], PROMPT.as_bytes());
    assert_eq!(chat.code, 0, "{}", chat.err);
    assert_eq!(chat.text().trim_end(), done.text().trim_end());
}

#[test]
fn a_terminal_is_told_which_model_runs_if_none_was_named() {
    let shown = |args: &[&str]| {
        let (code, text) = Terminal::start(args, |_| {}).end();
        assert_eq!(code, 0, "{text}");
        text
    };
    let text = shown(&["run", "-n", "1", PROMPT]);
    assert!(
        text.starts_with("quern: this is pocket, the built-in model ("),
        "{text:?}"
    );
    assert_eq!(text.matches("quern: ").count(), 1, "{text:?}");
    let text = shown(&["run", "-m", "pocket", "-n", "1", PROMPT]);
    assert!(!text.contains("quern: "), "{text:?}");
}

#[test]
fn commands_about_models_know_the_built_in_one() {
    let value = run(&["inspect", "--json"]).json();
    assert_eq!(value["path"], "pocket");
    let id = value["id"].clone();
    assert_eq!(run(&["inspect", "pocket", "--json"]).json()["id"], id);
    let value = run(&["verify", "--json"]).json();
    assert_eq!(
        (&value["ok"], &value["path"]),
        (&serde_json::json!(true), &serde_json::json!("pocket"))
    );
    assert_eq!(value["id"], id);
    let value = run(&["tokenize", "--json", "cat"]).json();
    assert_eq!(value["decoded"], "cat");
    assert_eq!(
        run(&["tokenize", "-m", "pocket", "--json", "cat"]).json(),
        value
    );
    for args in [
        &["score", "--json", "a cat"][..],
        &["embed", "--pooling", "mean", "--json", "a cat"],
        &[
            "bench", "model", "-p", "2", "-n", "2", "-r", "1", "--buffer", "4", "--json",
        ],
    ] {
        let done = run(args);
        // What else runs on this machine is not the model's business.
        let mut said = done.err.lines();
        assert!(said.all(|l| l.starts_with("quern: warning: this machine was busy")));
        assert_eq!(done.code, 0, "{args:?}: {}", done.err);
        assert!(!done.out.is_empty());
    }
    // A file of that name is another thing.
    run(&["run", "-m", "./pocket", "x"]).fails(4, &["./pocket"]);
}

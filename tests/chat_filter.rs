//! `quern chat` without a terminal: lines in, answers out.

use crate::common::program::{Done, quern, run, run_with_input};
use crate::common::script::Script;
use crate::common::tiny::{Tiny, TinyFile};
use std::io::{Read, Write};
use std::process::Stdio;

fn counting() -> Script {
    Script::new(&["one", " two", "\n", "three"], &[], false)
}

#[test]
fn every_line_is_a_message_and_only_answers_are_on_standard_output() {
    let model = counting();
    let base = ["chat", "-m", model.arg()];
    let done = run_with_input(&base, b"hello\n\nagain\\\nand more\n");
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(done.text(), "one two\nthree\none two\nthree\n");
    // The last line may lack its end, and a first message may be an argument.
    let done = run_with_input(&[&base[..], &["first"]].concat(), b"second");
    assert_eq!(done.text(), "one two\nthree\none two\nthree\n");
    let done = run(&[&base[..], &["only"]].concat());
    assert_eq!((done.code, done.text()), (0, "one two\nthree\n"));
    let done = run_with_input(&base, b"hello\n/quit\nunread\n");
    assert_eq!((done.code, done.text()), (0, "one two\nthree\n"));
    let done = run_with_input(&base, b"");
    assert_eq!((done.code, done.out.len(), done.err.as_str()), (0, 0, ""));
}

#[test]
fn json_lines_tell_what_was_reused() {
    let model = counting();
    let input = b"hello\nagain\n/regen\n";
    let done = run_with_input(&["chat", "-m", model.arg(), "--json"], input);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let lines: Vec<serde_json::Value> = done
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    let usage = |line: usize, what: &str| lines[line]["usage"][what].as_u64().unwrap();
    for line in &lines {
        assert_eq!(line["text"], "one two\nthree");
        assert_eq!(line["finish_reason"], "stop");
        assert_eq!(line["usage"]["completion_tokens"], 5);
    }
    // <user>hello<end><assistant>
    assert_eq!(usage(0, "prompt_tokens"), 8);
    assert_eq!(usage(0, "reused_tokens"), 0);
    // The first prompt and the four words of its answer are in the cache; then come <end><user>again<end><assistant>.
    assert_eq!(usage(1, "reused_tokens"), 8 + 4);
    assert_eq!(usage(1, "prompt_tokens"), 8 + 4 + 9);
    // The same prompt again: only its last token has to be computed.
    assert_eq!(usage(2, "prompt_tokens"), 21);
    assert_eq!(usage(2, "reused_tokens"), 20);
}

#[test]
fn what_ends_a_chat_without_a_terminal() {
    let model = counting();
    let base = ["chat", "-m", model.arg()];
    run(&base).fails(2, &["no message"]);
    let wrong = run_with_input(&base, b"/nonsense\nhello\n");
    wrong.fails(2, &["\"/nonsense\"", "/help"]);
    let done = run_with_input(&base, b"hello\n\xff\n");
    done.fails(3, &["standard input: line 2 is not UTF-8"]);
    assert_eq!(done.text(), "one two\nthree\n");
    let long = "x".repeat(60);
    let short = [&base[..], &["-c", "50"]].concat();
    run_with_input(&short, long.as_bytes())
        .fails(5, &["63 tokens", "the context of 50 tokens is full"]);
    run(&[&base[..], &["--load", "/nonexistent/x", "y"]].concat()).fails(4, &["/nonexistent/x"]);
    run(&[&base[..], &["--stop", "", "y"]].concat()).fails(2, &["--stop is empty"]);
    // A model that nobody taught to talk.
    let plain = TinyFile::new(Tiny::default());
    run(&["chat", "-m", plain.arg(), "x"])
        .fails(2, &["no chat template", "--template", "quern run"]);
}

#[test]
fn conversations_that_are_none_are_refused_and_name_the_file() {
    let model = counting();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let deep = "[".repeat(100_000);
    for text in [
        "",
        "{}",
        "[1]",
        "{\"messages\": 3}",
        "[{\"content\": \"x\"}]",
        &deep,
    ] {
        std::fs::write(&path, text).unwrap();
        let args = [
            "chat",
            "-m",
            model.arg(),
            "--load",
            path.to_str().unwrap(),
            "x",
        ];
        run(&args).fails(3, &["talk.json"]);
    }
}

#[test]
fn a_reader_that_leaves_ends_a_chat_quietly_and_an_interrupt_is_130() {
    let model = Script::new(&[" tick", " tock"], &[], true);
    for signal in [None, Some((libc::SIGINT, 130)), Some((libc::SIGTERM, 143))] {
        let mut child = quern(&["chat", "-m", model.arg()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // Standard input stays open: there might be more messages.
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"hello\n").unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut text = vec![0; 100];
        out.read_exact(&mut text).expect("some text");
        let mut expected = 0;
        if let Some((number, code)) = signal {
            // SAFETY: the child was not waited for, so the number is still its own.
            unsafe { libc::kill(child.id() as libc::pid_t, number) };
            expected = code;
            out.read_to_end(&mut text).expect("the rest");
            assert!(text.ends_with(b"\n"), "whole lines");
        }
        drop(out);
        let done: Done = child.wait_with_output().unwrap().into();
        assert_eq!((done.code, done.err.as_str()), (expected, ""));
        drop(stdin);
    }
}

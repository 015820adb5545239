//! `quern chat`, as a person at a terminal has it.

use crate::common::program::run;
use crate::common::script::Script;
use crate::common::terminal::Terminal;
use crate::common::tiny::{TEMPLATE, Tiny, TinyFile};
use std::path::Path;

const NUMBERS: [&str; 4] = [" one", " two", " three", " four"];

fn chat(model: &str, more: &[&str]) -> Terminal {
    let args = ["chat", "-m", model];
    Terminal::start(&[&args, more].concat(), |_| {})
}

/// A model that never ends by itself.
fn endless() -> Script {
    Script::new(&[" tick", " tock"], &[], true)
}

/// A number after a label, as `/stats` prints it.
fn number(text: &str, after: &str) -> usize {
    let (_, rest) = text
        .split_once(after)
        .unwrap_or_else(|| panic!("{after:?} in {text:?}"));
    let digits: String = rest
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().expect("a number")
}

/// What `/stats` shows.
fn stats(chat: &mut Terminal) -> String {
    chat.send("/stats\r");
    let mut text = chat.wait_for("stopped by:");
    text.push_str("stopped by:");
    text + &chat.prompt()
}

fn messages(path: &Path) -> Vec<(String, String)> {
    let bytes = std::fs::read(path).expect("a file");
    let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let text = |m: &serde_json::Value, key: &str| m[key].as_str().expect("a text").to_owned();
    let messages = value["messages"].as_array().expect("messages");
    messages
        .iter()
        .map(|m| (text(m, "role"), text(m, "content")))
        .collect()
}

fn said(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(role, text)| ((*role).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn an_answer_is_shown_while_it_is_written_and_ctrl_c_ends_it_but_not_the_session() {
    let model = endless();
    let mut chat = chat(model.arg(), &[]);
    chat.wait_for("/help lists the commands");
    chat.prompt();
    chat.send("hello\r");
    // It would never end: what is seen is seen before the end.
    for _ in 0..20 {
        chat.wait_for(" tick");
        chat.wait_for(" tock");
    }
    chat.send("\u{3}");
    chat.prompt();
    let first = stats(&mut chat);
    assert!(first.contains("interrupted"), "{first}");
    assert_eq!(number(&first, "tokens, "), 0, "nothing to reuse: {first}");
    let (prompt, new) = (number(&first, "prompt:"), number(&first, "generated:"));
    assert!(new >= 40, "{first}");

    // The tokenizer would write the answer in bytes. What the model wrote is in the cache, but for its last token.
    chat.send("again\r");
    chat.wait_for(" tock");
    chat.send("\u{3}");
    chat.prompt();
    let second = stats(&mut chat);
    assert_eq!(number(&second, "tokens, "), prompt + new - 1, "{second}");
    // <end><user>again<end><assistant>
    assert_eq!(number(&second, "prompt:"), prompt + new + 9, "{second}");
    chat.send("\u{4}");
    assert_eq!(chat.end().0, 0);
}

#[test]
fn what_an_interrupted_answer_said_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let model = endless();
    let mut chat = chat(model.arg(), &["first"]);
    chat.wait_for(" tock");
    chat.send("\u{3}");
    chat.prompt();
    chat.send(&format!("/save {}\r", path.display()));
    chat.wait_for("2 messages are in");
    let saved = messages(&path);
    assert_eq!(saved[0], ("user".to_owned(), "first".to_owned()));
    assert_eq!(saved[1].0, "assistant");
    assert!(saved[1].1.starts_with(" tick tock"), "{saved:?}");
    chat.prompt();
    chat.send("/quit\r");
    assert_eq!(chat.end().0, 0);
}

#[test]
fn a_conversation_is_saved_and_another_process_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let file = path.to_str().unwrap();
    let model = Script::new(&NUMBERS, &[], false);
    let mut first = chat(model.arg(), &["--system", "count"]);
    first.prompt();
    first.send("begin\r");
    first.wait_for(" one two three four");
    first.prompt();
    first.send(&format!("/save {file}\r"));
    first.prompt();
    let expected = [
        ("system", "count"),
        ("user", "begin"),
        ("assistant", " one two three four"),
    ];
    assert_eq!(messages(&path), said(&expected));
    // What is there is not replaced unless one says so.
    first.send("/system other\r");
    first.wait_for("another from here on");
    first.prompt();
    first.send(&format!("/save {file}\r"));
    first.wait_for("/save! replaces it");
    first.prompt();
    assert_eq!(messages(&path), said(&expected));
    first.send("/quit\r");
    assert_eq!(first.end().0, 0);

    let mut second = chat(model.arg(), &[]);
    second.prompt();
    second.send("/load /nonexistent/talk.json\r");
    second.wait_for("/nonexistent/talk.json");
    second.prompt();
    second.send(&format!("/load {file}\r"));
    second.wait_for("2 messages came from");
    second.prompt();
    second.send("/system\r");
    second.wait_for("system prompt: count");
    second.prompt();
    second.send("more\r");
    second.wait_for(" four");
    second.prompt();
    second.send(&format!("/save! {file}\r"));
    second.wait_for("4 messages are in");
    let mut expected = expected.to_vec();
    expected.extend([("user", "more"), ("assistant", " one two three four")]);
    assert_eq!(messages(&path), said(&expected));
    second.send("/quit\r");
    assert_eq!(second.end().0, 0);

    let mut third = chat(model.arg(), &["--load", file, "and on"]);
    third.wait_for("(4 messages so far)");
    third.wait_for(" four");
    third.prompt();
    third.send("/reset\r");
    third.wait_for("forgotten");
    third.prompt();
    third.send("/system\r");
    third.wait_for("system prompt: count");
    third.prompt();
    third.send("/regen\r");
    third.wait_for("no message to answer again");
    third.prompt();
    third.send("\u{4}");
    assert_eq!(third.end().0, 0);
}

#[test]
fn several_lines_make_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let model = Script::new(&["ok"], &[], false);
    let mut chat = chat(model.arg(), &[]);
    for (typed, message) in [
        ("one \\\rtwo\\\rthree\r", "one \ntwo\nthree"),
        ("\"\"\"\r a \\\r/quit\r\"\"\"\r", " a \\\n/quit"),
        // A terminal marks what is pasted; its line ends are not those of the keyboard.
        (
            "\u{1b}[200~pasted\nlines\u{1b}[201~ here\r",
            "pasted\nlines here",
        ),
        ("//help\r", "/help"),
        ("жук \u{1f600}\r", "жук \u{1f600}"),
    ] {
        chat.prompt();
        chat.send(typed);
        chat.wait_for("ok");
        chat.prompt();
        chat.send(&format!("/save! {}\r", path.display()));
        chat.wait_for("messages are in");
        let saved = messages(&path);
        assert_eq!(
            saved[saved.len() - 2],
            ("user".to_owned(), message.to_owned())
        );
    }
    chat.prompt();
    chat.send("\u{4}");
    assert_eq!(chat.end().0, 0);
}

#[test]
fn a_full_context_is_said_and_truncation_goes_on() {
    let model = Script::new(&NUMBERS, &[], false);
    let mut plain = chat(model.arg(), &["-c", "40"]);
    plain.prompt();
    plain.send("the first message of them all\r");
    plain.wait_for(" four");
    plain.prompt();
    plain.send("second\r");
    let said = plain.prompt();
    for part in [
        "quern: the conversation has ",
        "the context of 40 tokens is full",
        "/reset",
        "--context",
        "--truncate",
    ] {
        assert!(said.contains(part), "{part:?} in {said:?}");
    }
    assert!(!said.contains(" one"), "{said:?}");
    plain.send("/reset\r");
    plain.prompt();
    plain.send("second\r");
    plain.wait_for(" four");
    plain.prompt();
    plain.send("\u{4}");
    assert_eq!(plain.end().0, 0);

    let mut cut = chat(model.arg(), &["-c", "40", "--truncate", "--system", "abc"]);
    for turn in 0..6 {
        cut.prompt();
        cut.send("ten tokens\r");
        if turn == 1 {
            cut.wait_for("2 oldest messages are out of the model's sight");
        }
        cut.wait_for(" four");
    }
    cut.prompt();
    let text = stats(&mut cut);
    // The system prompt and one message: 3 + 2 control tokens, 10 + 2, and what begins the answer.
    assert_eq!(number(&text, "prompt:"), 18, "{text}");
    cut.send("\u{4}");
    assert_eq!(cut.end().0, 0);
}

#[test]
fn answering_again_gives_another_answer_in_the_place_of_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = TinyFile::new(Tiny {
        template: Some(TEMPLATE),
        ..Tiny::default()
    });
    let answers = |temperature: &str| {
        let path = folder.path().join("talk.json");
        let args = ["-n", "12", "-s", "5", "--temp", temperature, "--top-k", "0"];
        let mut chat = chat(model.arg(), &[&args[..], &["hello"]].concat());
        let mut answers = Vec::new();
        for _ in 0..2 {
            chat.prompt();
            chat.send(&format!("/save! {}\r", path.display()));
            chat.wait_for("2 messages are in");
            answers.push(messages(&path)[1].1.clone());
            chat.prompt();
            chat.send("/regen\r");
        }
        chat.prompt();
        chat.send("\u{4}");
        assert_eq!(chat.end().0, 0);
        answers
    };
    let sampled = answers("3");
    assert_ne!(sampled[0], sampled[1]);
    assert_eq!(answers("3"), sampled, "the same seed, the same answers");
    let greedy = answers("0");
    assert_eq!(greedy[0], greedy[1]);
}

#[test]
fn reasoning_is_dimmed_or_hidden() {
    let words = ["<think>", " hm", "</think>", "\n\n", "Yes", "."];
    let tags = ["<think>", "</think>"];
    for control in [&tags[..], &[]] {
        let model = Script::new(&words, control, false);
        let mut shown = chat(model.arg(), &["hello"]);
        shown.wait_for("\u{1b}[2m<think> hm</think>");
        shown.wait_for("\u{1b}[22mYes.");
        shown.prompt();
        shown.send("\u{4}");
        assert_eq!(shown.end().0, 0);

        let mut hidden = chat(model.arg(), &["--hide-thinking", "hello"]);
        let before = hidden.wait_for("Yes.");
        assert!(
            !before.contains("hm") && !before.contains('<'),
            "{before:?}"
        );
        assert!(before.ends_with("leaves\r\n"), "{before:?}");
        hidden.prompt();
        hidden.send("\u{4}");
        assert_eq!(hidden.end().0, 0);

        // In a pipe there is the text as it is.
        let args = ["run", "-m", model.arg(), "--ids", "259"];
        assert_eq!(run(&args).text(), "<think> hm</think>\n\nYes.");
        let hide = [&args[..], &["--hide-thinking"]].concat();
        assert_eq!(run(&hide).text(), "Yes.");
        let value = run(&[&hide[..], &["--json"]].concat()).json();
        assert_eq!(value["text"], "Yes.");
        let cut = run(&[&hide[..], &["-n", "2"]].concat());
        assert_eq!((cut.code, cut.text()), (0, ""));
        assert!(
            cut.err.contains("ended within its reasoning"),
            "{}",
            cut.err
        );
    }
}

#[test]
fn a_terminal_without_colours_gets_none() {
    let words = ["<think>", " hm", "</think>", "Yes", "\u{1b}]52;c;x\u{7}"];
    let model = Script::new(&words, &[], false);
    let args = ["chat", "-m", model.arg(), "hello"];
    let mut plain = Terminal::start(&args, |c| {
        c.env("NO_COLOR", "1");
    });
    plain.wait_for("<think> hm</think>Yes\\u{1b}]52;c;x\\u{7}");
    assert!(!plain.transcript().contains("\u{1b}[2m"));
    plain.prompt();
    plain.send("\u{4}");
    assert_eq!(plain.end().0, 0);
    let mut dumb = Terminal::start(&args, |c| {
        c.env("TERM", "dumb");
    });
    dumb.wait_for("Yes");
    dumb.wait_for("> ");
    // Here the terminal driver edits the line, and its interrupt clears it.
    dumb.send("nonsense\u{3}");
    dumb.send("again\n");
    dumb.wait_for("Yes");
    dumb.wait_for("> ");
    dumb.send("\u{4}");
    assert!(
        !dumb.transcript().contains('\u{1b}'),
        "{:?}",
        dumb.transcript()
    );
    assert_eq!(dumb.end().0, 0);
}

#[test]
fn ctrl_c_clears_the_line_and_wrong_commands_say_what_there_is() {
    let model = Script::new(&["ok"], &[], false);
    let mut chat = chat(model.arg(), &[]);
    chat.prompt();
    chat.send("something wrong\u{3}");
    chat.prompt();
    chat.send("/nonsense\r");
    chat.wait_for("there is no command \"/nonsense\": /help lists them");
    chat.prompt();
    chat.send("/save\r");
    chat.wait_for("/save needs the name of a file");
    chat.prompt();
    chat.send("/help\r");
    chat.wait_for("/regen");
    chat.prompt();
    chat.send("/stats\r");
    chat.wait_for("there was no answer yet");
    chat.prompt();
    // Names of commands complete.
    chat.send("/qu\t\r");
    assert_eq!(chat.end().0, 0);
}

#[test]
fn what_was_typed_is_there_the_next_time() {
    use std::os::unix::fs::PermissionsExt;
    let model = Script::new(&["ok"], &[], false);
    let state = tempfile::tempdir().unwrap();
    let session = |more: &[&str]| {
        let args = [&["chat", "-m", model.arg()], more].concat();
        Terminal::start(&args, |c| {
            c.env("XDG_STATE_HOME", state.path());
        })
    };
    let file = state.path().join("quern/history");
    let mut secret = session(&["--no-history"]);
    secret.prompt();
    secret.send("unseen\r");
    secret.wait_for("ok");
    secret.prompt();
    secret.send("\u{4}");
    assert_eq!(secret.end().0, 0);
    assert!(!file.exists());

    let mut first = session(&[]);
    first.prompt();
    first.send("remember this\r");
    first.wait_for("ok");
    first.prompt();
    first.send("\u{4}");
    assert_eq!(first.end().0, 0);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut second = session(&[]);
    second.prompt();
    second.send("\u{1b}[A");
    second.wait_for("remember this");
    second.send("\r");
    second.wait_for("ok");
    second.prompt();
    second.send("\u{4}");
    assert_eq!(second.end().0, 0);
}

#[test]
fn sigterm_ends_a_chat_with_143_and_gives_the_terminal_back() {
    let model = endless();
    let mut answering = chat(model.arg(), &["hello"]);
    answering.wait_for(" tock");
    answering.kill(libc::SIGTERM);
    assert_eq!(answering.end().0, 143);

    let mut typing = chat(model.arg(), &[]);
    typing.prompt();
    // It is in raw mode once it shows what is typed.
    typing.send("x");
    typing.wait_for("x");
    assert!(!typing.is_line_mode());
    typing.kill(libc::SIGTERM);
    typing.wait_for("\u{1b}[?2004l");
    let line_mode = typing.wait_for_line_mode();
    assert!(line_mode, "the terminal is as it was");
    assert_eq!(typing.end().0, 143);
}

//! `quern run` among other programs: what goes to standard output, in which pieces, and who is told of what.

use crate::common::program::{Done, quern, run, run_with_input};
use crate::common::script::Script;
use crate::common::terminal::Terminal;
use crate::common::tiny::{Tiny, TinyFile};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The id after which a [`Script`] says its words.
const BEGIN: &str = "259";

/// A socket on which every write stays a piece of its own: our end and the program's.
fn packets() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: socketpair writes two descriptors, which belong to nobody else.
    unsafe {
        assert_eq!(
            libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()),
            0
        );
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// Every write of a run to standard output.
fn writes(args: &[&str]) -> Vec<Vec<u8>> {
    let (ours, theirs) = packets();
    let mut command = quern(args);
    command.stdout(theirs);
    let child = command.spawn().expect("the program starts");
    drop(command);
    let mut pieces = Vec::new();
    loop {
        let mut bytes = [0u8; 65536];
        // SAFETY: the buffer is as long as is said.
        let n = unsafe { libc::recv(ours.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => pieces.push(bytes[..n].to_vec()),
            _ => break,
        }
    }
    let done: Done = child.wait_with_output().expect("the program ends").into();
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    pieces
}

#[test]
fn text_is_passed_on_after_every_token_and_never_within_a_character() {
    // A model of noise whose tokens are mostly single bytes of characters.
    let model = TinyFile::new(Tiny::default());
    let args = [
        "run",
        "-m",
        model.arg(),
        "-n",
        "200",
        "--ignore-eos",
        "-s",
        "3",
        "--temp",
        "5",
        "--top-k",
        "0",
        "--top-p",
        "1",
        "--min-p",
        "0",
        "x",
    ];
    let pieces = writes(&args);
    for piece in &pieces {
        assert!(std::str::from_utf8(piece).is_ok(), "{piece:?}");
    }
    let text = run(&args);
    assert_eq!(pieces.concat(), text.out);
    assert!(text.text().chars().any(|c| c.len_utf8() > 1));
    // Where every token is a text of its own, every token is a piece of its own.
    let words = [" a", " b", "ж", "\n", "e"];
    let model = Script::new(&words, &[], false);
    let pieces = writes(&["run", "-m", model.arg(), "--ids", BEGIN]);
    let expected: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
    assert_eq!(pieces, expected);
}

#[test]
fn colours_are_for_terminals_and_for_who_asks() {
    let model = Script::new(&["<think>", "hm", "</think>", "yes"], &[], false);
    let base = ["run", "-m", model.arg(), "--ids", BEGIN];
    let plain = "<think>hm</think>yes";
    let dimmed = "\u{1b}[2m<think>hm</think>\u{1b}[22myes";
    let with = |more: &[&'static str]| [&base[..], more].concat();
    // In a pipe, and in one for which colours are asked for.
    assert_eq!(run(&base).text(), plain);
    assert_eq!(run(&with(&["--color", "always"])).text(), dimmed);
    let on_terminal = |args: &[&str], variable: Option<(&str, &str)>| {
        let terminal = Terminal::start(args, |command| {
            command.envs(variable);
        });
        let (code, text) = terminal.end();
        assert_eq!(code, 0);
        text
    };
    assert_eq!(on_terminal(&base, None), format!("{dimmed}\r\n"));
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = on_terminal(&base, Some(variable));
        assert_eq!(text, format!("{plain}\r\n"), "{variable:?}");
        let asked = on_terminal(&with(&["--color", "always"]), Some(variable));
        assert_eq!(asked, format!("{dimmed}\r\n"), "{variable:?}");
    }
    // An empty NO_COLOR says nothing.
    let text = on_terminal(&base, Some(("NO_COLOR", "")));
    assert_eq!(text, format!("{dimmed}\r\n"));
    let never = on_terminal(&with(&["--color", "never"]), None);
    assert_eq!(never, format!("{plain}\r\n"));
}

#[test]
fn a_dash_is_standard_input_and_progress_is_for_terminals() {
    let model = TinyFile::new(Tiny::default());
    // A prompt of many passes has progress to report, and nobody to report it to.
    let args = [
        "run",
        "-m",
        model.arg(),
        "--raw",
        "-n",
        "1",
        "--chunk",
        "1",
        "--json",
        "-f",
        "-",
    ];
    let done = run_with_input(&args, "x".repeat(200).as_bytes());
    assert_eq!(done.json()["usage"]["prompt_tokens"], 201);
    assert_eq!(done.err, "");
    let verified = run(&["verify", model.arg()]);
    assert_eq!((verified.code, verified.err.as_str()), (0, ""));
    let file = model.path().with_file_name("again.quern");
    let done = run(&["import", model.arg(), "-o", file.to_str().unwrap()]);
    assert!(
        !done.err.contains('\r') && !done.err.contains('\u{1b}'),
        "{:?}",
        done.err
    );
}

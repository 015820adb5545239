//! The command line from outside: exit codes, streams, signals, and what `run` and `score` print.

use crate::common::program::{Done, quern, run, run_with_input};
use crate::common::terminal::pseudo_terminal;
use crate::common::tiny::{BOS, EOS, Tiny, TinyFile, VOCAB};
use quern_kernels::Format;
use std::io::Read;
use std::process::{Child, Stdio};

/// `quern run` on a model, greedy, as JSON, with more arguments.
fn json(model: &TinyFile, more: &[&str]) -> serde_json::Value {
    let base = ["run", "-m", model.arg(), "--temp", "0", "--json"];
    run(&[&base, more].concat()).json()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    let list = value.as_array().expect("a list of ids");
    list.iter()
        .map(|v| v.as_u64().expect("an id") as u32)
        .collect()
}

#[test]
fn help_is_on_stdout_and_wrong_usage_is_one_line_and_2() {
    for args in [&[][..], &["--help"], &["-h"]] {
        let done = run(args);
        assert_eq!(done.code, 0);
        assert!(done.text().contains("Usage: quern"), "{}", done.text());
        assert!(done.err.is_empty(), "{}", done.err);
    }
    for command in ["run", "score", "bench"] {
        let done = run(&[command, "--help"]);
        assert_eq!(done.code, 0);
        assert!(done.text().contains("Usage: quern"), "{}", done.text());
    }
    let done = run(&["--version"]);
    let version = format!("quern {} (", env!("CARGO_PKG_VERSION"));
    assert!(done.text().starts_with(&version), "{}", done.text());
    assert!(done.text().contains(quern_kernels::best().name()));

    run(&["--nonsense"]).fails(2, &["'--nonsense'", "see quern --help"]);
    run(&["scor"]).fails(2, &["'scor'", "'score'"]);
    run(&["bench"]).fails(2, &["see quern bench --help"]);
    run(&["run", "--temp", "hot", "x"]).fails(2, &["'hot'", "--temp"]);
    run(&["run", "--seed", "1.5", "x"]).fails(2, &["'1.5'"]);
    run(&["run", "--ids", "1,x"]).fails(2, &["\"x\" is not a token id"]);
    run(&["run", "--ids", "1", "text"]).fails(2, &["cannot be used with"]);
    run(&["run", "-m", "x", "--temp", "-1", "x"]).fails(2, &["temperature is -1"]);
    run(&["run", "-m", "x", "--top-p", "1.5", "x"]).fails(2, &["top-p is 1.5"]);
    run(&["run", "-m", "x", "--stop", "", "x"]).fails(2, &["--stop is empty"]);
    run(&["score", "-m", "x", "--logits", "all", "x"]).fails(2, &["--logits needs --json"]);
}

#[test]
fn a_model_that_is_missing_absent_or_garbage() {
    run(&["run", "-m", "/nonexistent/model.quern", "hello"])
        .fails(4, &["/nonexistent/model.quern"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a\u{1b}[31mb.quern");
    std::fs::write(&path, b"this is not a model").unwrap();
    let done = run(&["run", "-m", path.to_str().unwrap(), "hello"]);
    done.fails(3, &["a\\u{1b}[31mb.quern"]);
    assert!(!done.err.contains('\u{1b}'));
}

#[test]
fn instruction_sets_by_name() {
    let model = TinyFile::new(Tiny::default());
    let args = ["run", "-m", model.arg(), "-n", "1", "x"];
    let done = run(&[&args[..], &["--isa", "sse9"]].concat());
    done.fails(2, &["--isa", "unknown instruction set \"sse9\"", "scalar"]);
    let done: Done = quern(&args)
        .env("QUERN_ISA", "sse9")
        .output()
        .unwrap()
        .into();
    done.fails(2, &["QUERN_ISA", "\"sse9\""]);
    for isa in quern_kernels::Isa::ALL {
        let done = run(&[&args[..], &["--json", "--isa", isa.name()]].concat());
        match isa.missing() {
            // The one that was named is the one that ran.
            None => assert_eq!(done.json()["timings"]["isa"], isa.name()),
            Some(missing) => done.fails(2, &["--isa", isa.name(), "cannot run here", missing]),
        }
    }
    // The argument wins over the variable.
    let done: Done = quern(&[&args[..], &["--json", "--isa", "scalar"]].concat())
        .env("QUERN_ISA", "sse9")
        .output()
        .unwrap()
        .into();
    assert_eq!(done.json()["timings"]["isa"], "scalar");
}

#[test]
fn the_json_of_a_run() {
    let model = TinyFile::new(Tiny::default());
    let value = json(&model, &["-n", "12", "--ignore-eos", "ab"]);
    assert_eq!(ids(&value["prompt_ids"]), [BOS, 97, 98]);
    assert_eq!(ids(&value["ids"]).len(), 12);
    assert_eq!(value["finish_reason"], "length");
    assert_eq!(value["usage"]["prompt_tokens"], 3);
    assert_eq!(value["usage"]["completion_tokens"], 12);
    assert_eq!(value["usage"]["total_tokens"], 15);
    assert_eq!(value["fingerprint"].as_str().unwrap().len(), 32);
    assert!(value["timings"]["first_token_ms"].as_f64().unwrap() > 0.0);
    // The streamed text is the same text, and nothing else is on stdout.
    let args = [
        "run",
        "-m",
        model.arg(),
        "--temp",
        "0",
        "-n",
        "12",
        "--ignore-eos",
        "ab",
    ];
    let done = run(&args);
    assert_eq!(done.code, 0);
    assert_eq!(done.text(), value["text"].as_str().unwrap());
    assert_eq!(done.err, "");
    // Statistics go to stderr.
    let done = run(&[&args[..], &["--stats"]].concat());
    assert_eq!(done.text(), value["text"].as_str().unwrap());
    let fingerprint = format!("fingerprint: {}", value["fingerprint"].as_str().unwrap());
    assert!(done.err.contains(&fingerprint), "{}", done.err);
    assert!(done.err.contains("MiB private"), "{}", done.err);
    // -n 0 runs the prompt and nothing else.
    let value = json(&model, &["-n", "0", "ab"]);
    assert_eq!(value["text"], "");
    assert_eq!(value["finish_reason"], "length");
}

#[test]
fn text_from_arguments_files_and_pipes() {
    let model = TinyFile::new(Tiny::default());
    let base = ["run", "-m", model.arg(), "--temp", "0", "--json", "-n", "1"];
    let prompt = |more: &[&str], input: &[u8]| {
        let value = run_with_input(&[&base, more].concat(), input).json();
        let ids = ids(&value["prompt_ids"]);
        assert_eq!(ids[0], BOS);
        let bytes: Vec<u8> = ids[1..].iter().map(|&id| id as u8).collect();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(prompt(&["cd"], b"ab"), "abcd");
    assert_eq!(prompt(&["-p", "cd"], b"ab"), "abcd");
    assert_eq!(prompt(&["cd"], b"ab\n"), "ab\ncd");
    assert_eq!(prompt(&[], b"ab\n"), "ab");
    assert_eq!(prompt(&[], b"ab\r\n"), "ab");
    assert_eq!(prompt(&[], b"ab\n\n"), "ab\n");
    assert_eq!(prompt(&["-f", "-", "cd"], b"ab"), "abcd");
    assert_eq!(prompt(&["cd\n"], b""), "cd\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt");
    std::fs::write(&path, "жук\n").unwrap();
    let file = path.to_str().unwrap();
    // A file that is named is the text; standard input is then left alone.
    assert_eq!(prompt(&["-f", file], b"unread"), "жук");
    assert_eq!(prompt(&["-f", file, "!"], b""), "жук\n!");
    // What looks like a control token is text.
    assert_eq!(prompt(&["<s>"], b""), "<s>");

    run_with_input(&base, b"").fails(2, &["no prompt: standard input is empty"]);
    run(&base).fails(2, &["no prompt: give one"]);
    run(&[&base[..], &["-f", "/nonexistent/p"]].concat()).fails(4, &["/nonexistent/p"]);
    run_with_input(&base, b"ab\xff").fails(3, &["standard input is not UTF-8", "0xff at offset 2"]);
    std::fs::write(&path, b"\xd0\xb6\xd0").unwrap();
    run(&[&base[..], &["-f", file]].concat()).fails(3, &["prompt\"", "offset 2"]);
    let argument = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\x80");
    let done: Done = quern(&base).arg(argument).output().unwrap().into();
    done.fails(3, &["the prompt argument is not UTF-8", "offset 1"]);
}

#[test]
fn a_file_without_a_tokenizer_runs_on_ids() {
    let tokenizer = false;
    let model = TinyFile::new(Tiny {
        tokenizer,
        ..Tiny::default()
    });
    run(&["run", "-m", model.arg(), "x"]).fails(2, &["no tokenizer", "--ids"]);
    let with = TinyFile::new(Tiny::default());
    let args = ["-n", "5", "--ignore-eos", "--ids", "97,98"];
    let expected = ids(&json(&with, &args)["ids"]);
    let done = run(&[&["run", "-m", model.arg(), "--temp", "0"], &args[..]].concat());
    let numbers: Vec<String> = expected.iter().map(u32::to_string).collect();
    assert_eq!(done.text(), numbers.join(" "));
    let value = json(&model, &args);
    assert_eq!(
        (value["text"].as_str(), ids(&value["ids"])),
        (Some(""), expected)
    );
    let beyond = VOCAB.to_string();
    let done = run(&["run", "-m", model.arg(), "--ids", &beyond]);
    done.fails(3, &[&beyond, "position 0"]);
}

#[test]
fn what_ends_a_text() {
    let model = TinyFile::new(Tiny::default());
    let free = json(&model, &["-n", "40", "--ignore-eos", "once"]);
    let text = free["text"].as_str().unwrap();
    let all = ids(&free["ids"]);
    // A stop string of several tokens: it and what follows is cut off.
    let from = text.char_indices().nth(4).unwrap().0;
    let to = text.char_indices().nth(8).unwrap().0;
    let stop = &text[from..to];
    let stopped = json(
        &model,
        &[
            "-n",
            "40",
            "--ignore-eos",
            "--stop",
            "never",
            "--stop",
            stop,
            "once",
        ],
    );
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(
        stopped["text"].as_str().unwrap(),
        &text[..text.find(stop).unwrap()]
    );
    assert!(ids(&stopped["ids"]).len() < 40);
    // A text that ends within a stop string is complete.
    let mut half = text.chars().last().unwrap().to_string();
    half.push_str("never");
    let whole = json(
        &model,
        &["-n", "40", "--ignore-eos", "--stop", &half, "once"],
    );
    assert_eq!(whole["text"], free["text"]);
    assert_eq!(whole["finish_reason"], "length");
    // An end id: the same model, which ends where it first says the tenth id.
    let end = all[9];
    let ending = TinyFile::new(Tiny {
        eos: end,
        ..Tiny::default()
    });
    let ended = json(&ending, &["-n", "40", "once"]);
    let expected: Vec<u32> = match all.iter().position(|&id| id == end) {
        Some(at) => all[..=at].to_vec(),
        None => unreachable!("it is one of them"),
    };
    assert_eq!(ids(&ended["ids"]), expected);
    assert_eq!(ended["finish_reason"], "stop");
    let on = json(&ending, &["-n", "40", "--ignore-eos", "once"]);
    assert_eq!(ids(&on["ids"]), all);
    // The context: prompt and text fill it together.
    let full = json(&model, &["-c", "20", "--ignore-eos", "once"]);
    assert_eq!(full["finish_reason"], "context");
    assert_eq!(ids(&full["ids"]), all[..15]);
    let done = run(&["run", "-m", model.arg(), "-c", "20", "--ignore-eos", "once"]);
    assert_eq!(done.code, 0);
    assert!(
        done.err.contains("the context of 20 tokens is full"),
        "{}",
        done.err
    );
}

#[test]
fn a_prompt_beyond_the_context_is_5_and_names_both_numbers() {
    let model = TinyFile::new(Tiny::default());
    let long = "x".repeat(1_000_000);
    let done = run_with_input(&["run", "-m", model.arg()], long.as_bytes());
    done.fails(5, &["1000001 tokens", "holds 256"]);
    assert!(done.out.is_empty());
    run(&["run", "-m", model.arg(), "-c", "3", "abc"]).fails(5, &["4 tokens", "holds 3"]);
    run(&["run", "-m", model.arg(), "-c", "257", "abc"]).fails(2, &["--context is 257", "256"]);
    run_with_input(&["score", "-m", model.arg()], &long.as_bytes()[..300])
        .fails(5, &["301 tokens", "holds 256"]);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let model = TinyFile::new(Tiny::default());
    let sampled = |seed: &str, more: &[&str]| {
        let base = [
            "run",
            "-m",
            model.arg(),
            "-n",
            "30",
            "--ignore-eos",
            "--json",
            "-s",
            seed,
            "--temp",
            "2",
            "once",
        ];
        run(&[&base, more].concat()).json()
    };
    let first = sampled("7", &[]);
    for more in [
        &[][..],
        &["--isa", "scalar"],
        &["-t", "3"],
        &["--chunk", "1"],
        &["--no-mmap"],
    ] {
        let again = sampled("7", more);
        assert_eq!(again["ids"], first["ids"], "{more:?}");
        assert_eq!(again["fingerprint"], first["fingerprint"], "{more:?}");
    }
    assert_ne!(sampled("8", &[])["ids"], first["ids"]);
    // A random seed is told, and repeats the run.
    let random = sampled("-1", &[]);
    let seed = random["seed"].as_u64().unwrap().to_string();
    assert_eq!(sampled(&seed, &[])["ids"], random["ids"]);
}

#[test]
fn the_fingerprint_does_not_depend_on_how_it_was_computed() {
    // Every kind of product; tests/forward.rs has all formats.
    for format in [
        Format::F32,
        Format::F16,
        Format::Bf16,
        Format::Q8,
        Format::Q4,
        Format::Q4k,
        Format::Q6k,
        Format::Mxfp4,
    ] {
        let model = TinyFile::new(Tiny {
            format,
            ..Tiny::default()
        });
        let prompt = "the quick brown fox jumps over the lazy dog; ".repeat(3);
        let fingerprint = |more: &[&str]| {
            let value = json(
                &model,
                &[&["-n", "20", "--ignore-eos"], more, &[&prompt]].concat(),
            );
            value["fingerprint"].as_str().unwrap().to_owned()
        };
        let expected = fingerprint(&["--isa", "scalar", "-t", "1"]);
        for kernels in quern_kernels::supported() {
            for (threads, chunk) in [("1", "512"), ("2", "7"), ("3", "64"), ("7", "1")] {
                let more = ["--isa", kernels.name(), "-t", threads, "--chunk", chunk];
                assert_eq!(fingerprint(&more), expected, "{} {more:?}", format.name());
            }
        }
        assert_ne!(fingerprint(&["--kv", "f32"]), expected);
    }
}

#[test]
fn logits_that_are_not_numbers_are_reported_and_nothing_is_emitted() {
    // Weights are finite; their product is not.
    let model = TinyFile::new(Tiny {
        loudness: 3e38,
        ..Tiny::default()
    });
    for more in [&[][..], &["--temp", "0"], &["--json"]] {
        let done = run(&[&["run", "-m", model.arg(), "ab"], more].concat());
        done.fails(3, &["after the token at position 2", "the logit of id"]);
        assert!(done.out.is_empty());
    }
    let done = run(&["score", "-m", model.arg(), "--json", "ab"]);
    done.fails(3, &["after the token at position 0", "the logit of id"]);
}

#[test]
fn score_agrees_with_run_and_with_itself() {
    let model = TinyFile::new(Tiny::default());
    let greedy = ids(&json(&model, &["-n", "6", "--ignore-eos", "--kv", "f32", "once"])["ids"]);
    let mut all = vec![BOS, 111, 110, 99, 101];
    let prompt = all.len();
    all.extend(&greedy);
    let list: Vec<String> = all.iter().map(u32::to_string).collect();
    let list = list.join(",");
    let base = [
        "score",
        "-m",
        model.arg(),
        "--ids",
        &list,
        "--kv",
        "f32",
        "--json",
    ];
    let done = run(&[&base[..], &["--top", "3", "--logits", "all"]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    let lines: Vec<serde_json::Value> = done
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), all.len() + 1);
    let mut sum = 0.0;
    for (pos, line) in lines[..all.len()].iter().enumerate() {
        assert_eq!(line["pos"], pos);
        assert_eq!(line["id"], all[pos]);
        // Printed so that reading them as f32 gives the same bits.
        let logits: Vec<f64> = line["logits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| f64::from(v.as_f64().unwrap() as f32))
            .collect();
        assert_eq!(logits.len(), VOCAB as usize);
        let max = logits.iter().copied().fold(f64::MIN, f64::max);
        let log_sum = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        let top = line["top"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(logits[top[0][0].as_u64().unwrap() as usize], max);
        // Rounding of two f64 logarithms and sums of 272 terms: far below 1e-9.
        assert!((top[0][1].as_f64().unwrap() - (max - log_sum)).abs() < 1e-9);
        if pos == 0 {
            assert!(line["logprob"].is_null());
        } else {
            sum -= line["logprob"].as_f64().unwrap();
        }
        if let Some(&next) = all.get(pos + 1) {
            let expected = logits[next as usize] - log_sum;
            let found = lines[pos + 1]["logprob"].as_f64().unwrap();
            assert!((expected - found).abs() < 1e-9, "{expected} {found}");
            if pos + 1 >= prompt {
                assert_eq!(top[0][0], next, "run took the most probable id");
            }
        }
    }
    let summary = &lines[all.len()];
    assert_eq!(summary["tokens"], all.len() - 1);
    let nll = summary["nll"].as_f64().unwrap();
    assert!((nll - sum / (all.len() - 1) as f64).abs() < 1e-12);
    assert!((summary["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-9 * nll.exp());
    // Chunks do not matter; logits appear where they are asked for.
    let chunked = run(&[
        &base[..],
        &["--top", "3", "--logits", "all", "--chunk", "2"],
    ]
    .concat());
    assert_eq!(chunked.out, done.out);
    let last = run(&[&base[..], &["--logits", "last"]].concat());
    assert_eq!(last.text().matches("\"logits\"").count(), 1);
    assert_eq!(run(&base).text().matches("\"logits\"").count(), 0);
    // For a person: a table and a total; one token has nothing to score.
    let table = run(&["score", "-m", model.arg(), "once"]);
    assert_eq!(table.text().lines().count(), 6);
    assert!(table.text().contains("perplexity"), "{}", table.text());
    let one = run(&["score", "-m", model.arg(), "--ids", "5", "--json"]);
    assert!(
        one.text()
            .ends_with("{\"tokens\":0,\"nll\":null,\"perplexity\":null}\n"),
        "{}",
        one.text()
    );
}

#[test]
fn standard_output_that_cannot_be_written_is_4() {
    let model = TinyFile::new(Tiny::default());
    let commands: [&[&str]; 4] = [
        &["--version"],
        &["run", "-m", model.arg(), "-n", "5", "x"],
        &["run", "-m", model.arg(), "-n", "5", "--json", "x"],
        &["score", "-m", model.arg(), "xy"],
    ];
    for args in commands {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let done: Done = quern(args).stdout(full).output().unwrap().into();
        done.fails(4, &["cannot write standard output", "No space left"]);
    }
}

/// A run that goes on for a long time, and its standard output.
fn endless(model: &TinyFile) -> (Child, std::process::ChildStdout) {
    let mut child = quern(&[
        "run",
        "-m",
        model.arg(),
        "--temp",
        "0",
        "--ignore-eos",
        "-t",
        "1",
        "once",
    ])
    .stdin(Stdio::null())
    .spawn()
    .expect("the program starts");
    let out = child.stdout.take().expect("a pipe");
    (child, out)
}

/// A model whose context nobody fills in a test.
fn endless_model() -> TinyFile {
    TinyFile::new(Tiny {
        context: 1 << 20,
        ..Tiny::default()
    })
}

fn finish(child: Child) -> Done {
    child.wait_with_output().expect("the program ends").into()
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the child was not waited for, so the number is still its own.
    let failed = unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    assert_eq!(failed, 0);
}

#[test]
fn a_reader_that_leaves_ends_the_run_quietly() {
    let model = endless_model();
    let (child, mut out) = endless(&model);
    let mut first = [0; 1];
    out.read_exact(&mut first).expect("some text");
    drop(out);
    let done = finish(child);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
}

#[test]
fn signals_end_a_run_after_whole_characters() {
    let model = endless_model();
    let value = json(&model, &["--ignore-eos", "-n", "300", "once"]);
    let expected = value["text"].as_str().unwrap();
    for (signal, code) in [(2, 130), (15, 143)] {
        for read in [1, 7, 50, 200] {
            let (child, mut out) = endless(&model);
            let mut text = vec![0; read];
            out.read_exact(&mut text).expect("some text");
            send(&child, signal);
            out.read_to_end(&mut text).expect("the rest");
            let done = finish(child);
            assert_eq!((done.code, done.err.as_str()), (code, ""));
            let text = String::from_utf8(text).expect("whole characters");
            let common = text.len().min(expected.len());
            assert_eq!(&text.as_bytes()[..common], &expected.as_bytes()[..common]);
        }
    }
}

/// Bytes in a pipe that nobody has read.
fn waiting_bytes(pipe: &std::process::ChildStdout) -> usize {
    use std::os::fd::AsRawFd;
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and the descriptor is open.
    unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut n) };
    n as usize
}

/// Makes the pipe as small as the system allows and returns how many bytes it holds.
fn shrink_pipe(pipe: &std::process::ChildStdout) -> usize {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open; the call takes and returns numbers.
    let size = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    size as usize
}

/// Whether every thread of a process waits for something.
fn all_threads_sleep(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.starts_with('S')
    })
}

#[test]
fn a_second_signal_ends_a_run_that_cannot_end_by_itself() {
    let model = endless_model();
    let (mut child, out) = endless(&model);
    // Nobody reads: the pipe fills up and the program waits in a write, where the first signal changes nothing.
    let room = shrink_pipe(&out);
    while !(waiting_bytes(&out) + 64 > room && all_threads_sleep(child.id())) {
        assert!(child.try_wait().unwrap().is_none(), "it goes on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    send(&child, 2);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(
        child.try_wait().unwrap().is_none(),
        "one signal is only noted"
    );
    send(&child, 2);
    let done = finish(child);
    assert_eq!(done.code, 130);
    drop(out);
}

#[test]
fn a_model_that_changes_under_a_run_is_6() {
    for truncate in [false, true] {
        let model = endless_model();
        let (child, mut out) = endless(&model);
        let mut text = vec![0; 64];
        out.read_exact(&mut text).expect("some text");
        if truncate {
            let file = std::fs::File::options()
                .write(true)
                .open(model.path())
                .unwrap();
            file.set_len(4096).unwrap();
        } else {
            let bytes = std::fs::read(model.path()).unwrap();
            std::fs::write(model.path(), &bytes[..bytes.len() / 2]).unwrap();
        }
        out.read_to_end(&mut text).expect("the rest");
        let done = finish(child);
        assert_eq!(done.code, 6, "{}", done.err);
        assert!(done.err.starts_with("quern: "), "{}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    }
    // A rename puts another file in its place and leaves the mapped one alone.
    let model = endless_model();
    let (child, mut out) = endless(&model);
    let mut text = vec![0; 64];
    out.read_exact(&mut text).expect("some text");
    let other = model.path().with_extension("other");
    std::fs::write(&other, b"another file").unwrap();
    std::fs::rename(&other, model.path()).unwrap();
    out.read_exact(&mut text).expect("more text");
    drop(out);
    assert_eq!(finish(child).code, 0);
}

#[test]
fn special_tokens_only_on_request_and_out_of_sight() {
    let model = TinyFile::new(Tiny::default());
    let value = json(&model, &["-n", "1", "--ids", &format!("{BOS},{EOS},97")]);
    assert_eq!(ids(&value["prompt_ids"]), [BOS, EOS, 97]);
    let value = json(&model, &["-n", "1", "</s>"]);
    assert_eq!(ids(&value["prompt_ids"]), [BOS, 60, 47, 115, 62]);
}

/// What a run writes to a terminal.
fn on_a_terminal(args: &[&str]) -> String {
    let (ours, theirs) = pseudo_terminal();
    let mut command = quern(args);
    command.stdout(theirs);
    let mut child = command.spawn().expect("the program starts");
    // The command holds the other end too; while it is open there is no end of file here.
    drop(command);
    let mut text = Vec::new();
    // At its end a terminal without writers reports an error instead of zero bytes.
    let _ = std::fs::File::from(ours).read_to_end(&mut text);
    assert_eq!(child.wait().expect("the program ends").code(), Some(0));
    String::from_utf8(text).expect("whole characters")
}

#[test]
fn a_terminal_sees_control_characters_and_ends_on_a_new_line() {
    let model = TinyFile::new(Tiny::default());
    let args = [
        "run",
        "-m",
        model.arg(),
        "-n",
        "150",
        "--ignore-eos",
        "-s",
        "3",
        "--temp",
        "5",
        "--top-k",
        "0",
        "x",
    ];
    let args = [&args[..], &["--top-p", "1", "--min-p", "0"]].concat();
    let piped = run(&args);
    let hidden = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(
        piped.text().contains(hidden),
        "verbatim in a pipe: {:?}",
        piped.text()
    );
    // The terminal driver writes line feeds as carriage return and line feed.
    let shown = on_a_terminal(&args).replace("\r\n", "\n");
    assert!(!shown.contains(hidden), "{shown:?}");
    let mut expected = quern::cli::output::visible(piped.text());
    if !expected.ends_with('\n') {
        expected.push('\n');
    }
    assert_eq!(shown, expected);
}

#[test]
fn a_memory_limit_is_5_and_never_a_crash() {
    let model = TinyFile::new(Tiny::default());
    let limited = |kib: usize, args: &str| {
        let script = format!(
            "ulimit -v {kib} && exec {} {args}",
            env!("CARGO_BIN_EXE_quern")
        );
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &script])
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        Done::from(shell.output().expect("a shell"))
    };
    // Below this the system cannot even start the program.
    let least = (1..)
        .map(|i| i * 1024)
        .find(|&kib| limited(kib, "--version").code == 0)
        .unwrap();
    let args = format!(
        "run -m {} -t 3 -n 20 --ids {}",
        model.arg(),
        "97,".repeat(200)
    );
    let mut codes = Vec::new();
    for step in 0..64 {
        let done = limited(least + 128 * step, &args);
        assert!(
            [0, 5].contains(&done.code),
            "step {step}: {} {}",
            done.code,
            done.err
        );
        assert!(
            done.code == 0 || done.err.contains("memory") || done.err.contains("threads"),
            "{}",
            done.err
        );
        codes.push(done.code);
    }
    assert!(
        codes.contains(&5),
        "the first limits are too small: {codes:?}"
    );
}

#[test]
fn a_run_needs_no_home_and_no_folder_to_stand_in() {
    let model = TinyFile::new(Tiny::default());
    let gone = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {0} && rmdir {0} && exec {1} run -m {2} -n 2 x",
        gone.path().display(),
        env!("CARGO_BIN_EXE_quern"),
        model.arg()
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).env_clear().stdin(Stdio::null());
    let done = Done::from(shell.output().expect("a shell"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
}

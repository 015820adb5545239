//! The commit protocol: complete lines only, one run at a time, and whatever interrupts it, the same bytes in the end.

use super::{Bench, Moments, points, records, values};
use crate::common::program::{Done, quern, run};
use crate::common::script::Script;
use crate::common::tiny::Tiny;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take: far more than it does on any machine, so that it only ends what hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The output of an uninterrupted run.
#[track_caller]
fn whole(bench: &Bench, more: &[&str]) -> Vec<u8> {
    let done = bench.run("whole.jsonl", more);
    assert!(done.code <= 1, "{}", done.err);
    bench.read("whole.jsonl")
}

/// Waits until the file has so many complete lines.
fn wait_for_lines(path: &Path, count: usize) {
    let since = Instant::now();
    loop {
        let bytes = std::fs::read(path).unwrap_or_default();
        if bytes.iter().filter(|&&b| b == b'\n').count() >= count {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{count} lines did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the child was not waited for, so the number is still its own.
    let failed = unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    assert_eq!(failed, 0);
}

fn end(child: Child) -> Done {
    child.wait_with_output().expect("the program ends").into()
}

#[test]
fn an_output_is_begun_gone_on_with_and_never_overwritten() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(10));
    let expected = whole(&bench, &[]);
    assert_eq!(values(&expected).len(), 10);
    let manifest = bench.read("whole.jsonl.manifest.json");
    bench
        .run("whole.jsonl", &[])
        .fails(2, &["whole.jsonl", "--resume"]);
    // Going on with what is finished changes nothing.
    let done = bench.run("whole.jsonl", &["--resume"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.err.contains("after 10 of an earlier run"),
        "{}",
        done.err
    );
    assert_eq!(bench.read("whole.jsonl"), expected);
    assert_eq!(bench.read("whole.jsonl.manifest.json"), manifest);
    // Going on with what has not begun begins it; so does an empty file.
    bench.write("out.jsonl", "");
    for _ in 0..2 {
        let done = bench.run("out.jsonl", &["--resume"]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(bench.read("out.jsonl"), expected);
        std::fs::remove_file(bench.path("out.jsonl")).unwrap();
    }
    bench.write("foreign.jsonl", "something else\n");
    bench
        .run("foreign.jsonl", &["--resume"])
        .fails(2, &["foreign.jsonl", "has no manifest"]);
    assert_eq!(bench.read("foreign.jsonl"), b"something else\n");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_written_again() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(5).replace("\"number 3 is\"", "7"));
    let expected = whole(&bench, &[]);
    let manifest = bench.read("whole.jsonl.manifest.json");
    let third = expected.split_inclusive(|&b| b == b'\n').take(3);
    let from: usize = third.map(<[u8]>::len).sum();
    let cuts = (from..=expected.len()).chain([0, 1, 50]);
    let mut tails: Vec<Vec<u8>> = cuts.step_by(5).map(|at| expected[..at].to_vec()).collect();
    // What a file system that lost power may have kept: the length of a line and none of its bytes.
    tails.push([&expected[..from], &[0; 99], b"\n"].concat());
    for tail in tails {
        bench.write("out.jsonl", &tail);
        bench.write("out.jsonl.manifest.json", &manifest);
        let errors = bench.arg("errors.jsonl");
        let done = bench.run("out.jsonl", &["--resume", "--errors", &errors]);
        assert_eq!(done.code, 1, "{}", done.err);
        assert_eq!(bench.read("out.jsonl"), expected, "{} bytes", tail.len());
        let failed = expected.split_inclusive(|&b| b == b'\n').nth(3).unwrap();
        assert_eq!(bench.read("errors.jsonl"), failed);
    }
}

#[test]
fn an_output_of_another_run_is_left_alone() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(3));
    let expected = whole(&bench, &[]);
    let refused = |more: &[&str], parts: &[&str]| {
        let more = [&["--resume"], more].concat();
        let parts = [&["belongs to another run"], parts].concat();
        bench.run("whole.jsonl", &more).fails(2, &parts);
        assert_eq!(bench.read("whole.jsonl"), expected);
    };
    refused(&["-s", "5"], &["its seed is 0, now 5"]);
    refused(&["-n", "5"], &["max_tokens is null, now 5"]);
    refused(&["--temp", "0"], &["sampling", "\"temperature\":0.8"]);
    refused(&["--limit", "2"], &["limit"]);
    refused(&["--kv", "f32"], &["kv"]);
    refused(&["--regex", "a"], &["form"]);
    refused(&["--shard", "1/1"], &["shard is nothing, now \"1/1\""]);
    // What cannot matter may differ.
    let more = [
        "--resume",
        "-t",
        "1",
        "--isa",
        "scalar",
        "--chunk",
        "1",
        "--max-inflight",
        "2",
    ];
    let done = bench.run("whole.jsonl", &more);
    assert_eq!(done.code, 0, "{}", done.err);
    bench.write("in.jsonl", records(4));
    refused(&[], &["input"]);
    let bench = Bench {
        model: crate::common::tiny::TinyFile::new(Tiny {
            loudness: 3.0,
            ..Tiny::default()
        }),
        ..bench
    };
    bench.write("in.jsonl", records(3));
    bench
        .run("whole.jsonl", &["--resume"])
        .fails(2, &["its model is"]);
}

#[test]
fn a_random_seed_is_kept_for_the_rest_of_the_run() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(6));
    let more = ["-s", "-1", "--temp", "3"];
    let expected = whole(&bench, &more);
    let cut = expected.len() / 2;
    bench.write("whole.jsonl", &expected[..cut]);
    let done = bench.run("whole.jsonl", &[&more[..], &["--resume"]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(bench.read("whole.jsonl"), expected);
}

#[test]
fn lines_as_they_come_are_the_same_lines() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(12));
    let sorted = |bytes: &[u8]| {
        let lines = bytes.split_inclusive(|&b| b == b'\n');
        let mut lines: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    let expected = sorted(&whole(&bench, &[]));
    let more = ["--order", "completion"];
    let done = bench.run("out.jsonl", &more);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(sorted(&bench.read("out.jsonl")), expected);
    // Any of them may be there when it is gone on with.
    let kept = expected.iter().step_by(3);
    bench.write("out.jsonl", kept.flatten().copied().collect::<Vec<u8>>());
    let done = bench.run("out.jsonl", &[&more[..], &["--resume"]].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(sorted(&bench.read("out.jsonl")), expected);
}

#[test]
fn standard_input_is_gone_on_with_if_it_is_the_same() {
    let bench = Bench::new();
    let input = records(6);
    let args = |more: &[&str]| {
        let own = ["batch", "-m", bench.model.arg(), "-i", "-", "-q", "-o"];
        let own = own
            .map(str::to_owned)
            .into_iter()
            .chain([bench.arg("out.jsonl")]);
        own.chain(more.iter().map(|m| (*m).to_owned()))
            .collect::<Vec<_>>()
    };
    let feed = |input: &str, more: &[&str]| {
        let args = args(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        crate::common::program::run_with_input(&args, input.as_bytes())
    };
    assert_eq!(feed(&input, &[]).code, 0);
    let expected = bench.read("out.jsonl");
    bench.write("out.jsonl", &expected[..expected.len() / 2]);
    let other = input.replace("\"r1\"", "\"q1\"");
    feed(&other, &["--resume"]).fails(2, &["line 2 of the input is not the record"]);
    assert_eq!(feed(&input, &["--resume"]).code, 0);
    assert_eq!(bench.read("out.jsonl"), expected);
}

#[test]
fn a_record_whose_name_was_taken_is_gone_on_with_as_any_other() {
    let bench = Bench::new();
    let record = |id: &str| {
        format!(
            "{{\"custom_id\":\"{id}\",\"url\":\"/v1/completions\",\"body\":{{\"prompt\":\"x\",\"max_tokens\":2}}}}\n"
        )
    };
    let input = ["a", "b", "a", "c", "a"].map(record).concat();
    for order in ["input", "completion"] {
        let out = bench.arg("out.jsonl");
        let own = [
            "batch",
            "-m",
            bench.model.arg(),
            "-i",
            "-",
            "-q",
            "-o",
            &out,
            "--order",
            order,
        ];
        let feed = |more: &[&str]| {
            let args = [&own[..], more].concat();
            crate::common::program::run_with_input(&args, input.as_bytes())
        };
        let _ = std::fs::remove_file(bench.path("out.jsonl"));
        feed(&[]).fails(1, &["2 of 5 records failed: 2 duplicate_id"]);
        let expected = bench.read("out.jsonl");
        for lines in 0..5 {
            let kept = expected.split_inclusive(|&b| b == b'\n').take(lines);
            bench.write("out.jsonl", kept.collect::<Vec<_>>().concat());
            feed(&["--resume"]).fails(1, &["2 of 5 records failed"]);
            let found = bench.read("out.jsonl");
            assert_eq!(values(&found).len(), 5);
            assert!(order == "completion" || found == expected);
        }
    }
}

#[test]
fn failing_fast_stops_at_the_first_failure_and_can_be_gone_on_with() {
    let bench = Bench::new();
    let input = records(9)
        .replace("\"number 3 is\"", "7")
        .replace("\"number 6 is\"", "7");
    bench.write("in.jsonl", input);
    let expected = whole(&bench, &[]);
    let done = bench.run("out.jsonl", &["--fail-fast", "-q"]);
    done.fails(
        1,
        &["stopped at line 4: \"prompt\" is 7", "4 records saved"],
    );
    let four = expected.split_inclusive(|&b| b == b'\n').take(4);
    assert_eq!(bench.read("out.jsonl"), four.collect::<Vec<_>>().concat());
    let done = bench.run("out.jsonl", &["--fail-fast", "-q", "--resume"]);
    done.fails(1, &["stopped at line 7"]);
    let done = bench.run("out.jsonl", &["-q", "--resume"]);
    done.fails(1, &["2 of 9 records failed: 2 invalid_request"]);
    assert_eq!(bench.read("out.jsonl"), expected);
}

/// A batch that has begun to write and waits for more input, and its input.
fn waiting(bench: &Bench, more: &[&str]) -> (Child, std::process::ChildStdin) {
    let out = bench.arg("out.jsonl");
    let own = [
        "batch",
        "-m",
        bench.model.arg(),
        "-i",
        "-",
        "-q",
        "-o",
        &out,
    ];
    let mut child = quern(&[&own[..], more].concat())
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(records(2).as_bytes()).unwrap();
    wait_for_lines(&bench.path("out.jsonl"), 2);
    (child, stdin)
}

#[test]
fn the_second_of_two_runs_on_one_output_is_refused() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(2));
    let (child, stdin) = waiting(&bench, &[]);
    for more in [&[][..], &["--resume"]] {
        bench
            .run("out.jsonl", more)
            .fails(2, &["out.jsonl", "is being written by another run"]);
    }
    let out = bench.arg("out.jsonl");
    run(&["batch", "merge", "-o", "-", &out]).fails(2, &["is being written"]);
    drop(stdin);
    assert_eq!(end(child).code, 0);
    assert_eq!(values(&bench.read("out.jsonl")).len(), 2);
}

#[test]
fn of_runs_that_start_together_one_writes() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(3));
    let expected = whole(&bench, &["-q"]);
    for _ in 0..10 {
        let _ = std::fs::remove_file(bench.path("out.jsonl"));
        let start = || bench.command("out.jsonl", &["-q"]).spawn().unwrap();
        let mut codes = [start(), start(), start()].map(|child| end(child).code);
        codes.sort();
        assert_eq!(codes, [0, 2, 2]);
        assert_eq!(bench.read("out.jsonl"), expected);
    }
}

#[test]
fn a_signal_ends_it_between_two_passes_with_complete_lines() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(400));
    let expected = whole(&bench, &["-q"]);
    let mut stopped = 0;
    for (i, (number, code)) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)]
        .into_iter()
        .cycle()
        .take(8)
        .enumerate()
    {
        let _ = std::fs::remove_file(bench.path("out.jsonl"));
        let child = bench.command("out.jsonl", &["-q"]).spawn().unwrap();
        wait_for_lines(&bench.path("out.jsonl"), 1 + 6 * i);
        signal(&child, number);
        let done = end(child);
        let bytes = bench.read("out.jsonl");
        // On a busy machine it may have ended before.
        let ended = done.code == 0 && bytes == expected;
        assert!(done.code == code || ended, "{} {}", done.code, done.err);
        stopped += u32::from(!ended);
        values(&bytes);
        assert!(expected.starts_with(&bytes));
        let done = bench.run("out.jsonl", &["-q", "--resume"]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(bench.read("out.jsonl"), expected);
    }
    assert!(stopped > 0);
    // Nothing to do is no reason not to listen.
    std::fs::remove_file(bench.path("out.jsonl")).unwrap();
    let (child, _stdin) = waiting(&bench, &[]);
    signal(&child, libc::SIGTERM);
    let done = end(child);
    assert_eq!((done.code, done.err.as_str()), (143, ""));
    // Nor is a text without an end.
    let script = Script::new(&["a", "b"], &[], true);
    let args = [
        "batch",
        "-m",
        script.arg(),
        "-i",
        "-",
        "-o",
        "-",
        "-q",
        "--progress",
        "json",
    ];
    let mut child = quern(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"ids\":[259]}\n").unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"in_flight\":1") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0, "it is under way");
    }
    signal(&child, libc::SIGINT);
    let done = end(child);
    assert_eq!((done.code, done.out.len()), (130, 0));
}

#[test]
fn a_full_disk_is_an_error_that_says_how_far_it_came() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(30));
    let expected = whole(&bench, &["-q"]);
    let args = bench.args("out.jsonl", &["-q"]);
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -f 8 && exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_quern"),
        ])
        .args(&args)
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let done = Done::from(output);
    let bytes = bench.read("out.jsonl");
    let count = values(&bytes).len();
    assert!(count > 5 && count < 30, "{count}");
    assert!(expected.starts_with(&bytes));
    let saved = format!("{count} records saved, --resume");
    done.fails(4, &["out.jsonl", "File too large", &saved]);
    let done = bench.run("out.jsonl", &["-q", "--resume"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(bench.read("out.jsonl"), expected);
    // A device has no past.
    let input = bench.arg("in.jsonl");
    let full = [
        "batch",
        "-m",
        bench.model.arg(),
        "-i",
        &input,
        "-o",
        "/dev/full",
        "-q",
    ];
    let done = run(&full);
    done.fails(4, &["/dev/full", "No space left", "0 records saved"]);
    assert!(!done.err.contains("--resume"));
}

#[test]
fn a_model_that_changes_ends_it_and_one_that_is_replaced_does_not() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(400));
    let model = bench.read_model();
    let expected = whole(&bench, &["-q"]);
    type Change = fn(&Path);
    let cut: Change = |path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(4096).unwrap();
    };
    let overwrite: Change = |path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes.reverse();
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all(&bytes).unwrap();
    };
    let mut moments = Moments::new();
    let times = points().div_ceil(10) as usize;
    for change in [cut, overwrite].into_iter().cycle().take(2 * times) {
        let _ = std::fs::remove_file(bench.path("out.jsonl"));
        let child = bench.command("out.jsonl", &["-q"]).spawn().unwrap();
        wait_for_lines(&bench.path("out.jsonl"), 1 + moments.next(100) as usize);
        change(bench.model.path());
        let done = end(child);
        std::fs::write(bench.model.path(), &model).unwrap();
        assert_eq!(done.code, 6, "{}", done.err);
        let bytes = bench.read("out.jsonl");
        assert!(values(&bytes).len() < 400);
        assert!(expected.starts_with(&bytes), "no line of the changed model");
        let done = bench.run("out.jsonl", &["-q", "--resume"]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(bench.read("out.jsonl"), expected);
    }
    std::fs::remove_file(bench.path("out.jsonl")).unwrap();
    let child = bench.command("out.jsonl", &["-q"]).spawn().unwrap();
    wait_for_lines(&bench.path("out.jsonl"), 5);
    let other = bench.path("other.quern");
    std::fs::write(&other, b"not a model").unwrap();
    std::fs::rename(&other, bench.model.path()).unwrap();
    assert_eq!(end(child).code, 0);
    assert_eq!(bench.read("out.jsonl"), expected);
}

#[test]
fn an_input_that_changes_is_3_and_once_put_back_loses_nothing() {
    let bench = Bench::new();
    let input = records(400);
    bench.write("in.jsonl", &input);
    let expected = whole(&bench, &["-q"]);
    let child = bench.command("out.jsonl", &["-q"]).spawn().unwrap();
    wait_for_lines(&bench.path("out.jsonl"), 5);
    let mut more = std::fs::File::options()
        .append(true)
        .open(bench.path("in.jsonl"))
        .unwrap();
    more.write_all(b"{\"prompt\":\"one more\"}\n").unwrap();
    let done = end(child);
    done.fails(3, &["in.jsonl", "changed while it was read"]);
    assert!(
        bench.read("out.jsonl") == expected,
        "what was appended has no answer"
    );
    // What was saved belongs to another input now.
    let done = bench.run("out.jsonl", &["-q", "--resume"]);
    assert_ne!(done.code, 0);
    assert!(done.err.contains("input"), "{}", done.err);
    bench.write("in.jsonl", &input);
    let done = bench.run("out.jsonl", &["-q", "--resume"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(bench.read("out.jsonl") == expected);
}

impl Bench {
    fn read_model(&self) -> Vec<u8> {
        std::fs::read(self.model.path()).expect("the model")
    }
}

#[test]
fn a_file_in_a_folder_that_cannot_be_written_is_4() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(1));
    // Root may write anywhere but in a file system that has no files.
    let input = bench.arg("in.jsonl");
    let args = [
        "batch",
        "-m",
        bench.model.arg(),
        "-i",
        &input,
        "-o",
        "/proc/out.jsonl",
    ];
    run(&args).fails(4, &["/proc/out.jsonl"]);
    // A pipe is written as it is.
    let pipe = bench.arg("pipe");
    let name = std::ffi::CString::new(pipe.as_str()).unwrap();
    // SAFETY: a path that ends in zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let mut args = args;
    args[6] = &pipe;
    let child = quern(&args).spawn().unwrap();
    let mut text = String::new();
    std::fs::File::open(&pipe)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let done = end(child);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(values(text.as_bytes()).len(), 1);
    assert!(!bench.path("pipe.manifest.json").exists());
}

//! kill -9 at any moment, again and again, and the output is in the end what it would have been.

use super::{Bench, Moments, points, records, values};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// How often a run is killed and gone on with at most before it may finish.
const LONGEST_CHAIN: u32 = 20;

#[test]
fn killed_at_any_moment_nothing_is_lost_and_nothing_is_double() {
    let points = points();
    let bench = Bench::new();
    let input = records(120).replace("\"number 40 is\"", "7");
    bench.write("in.jsonl", input);
    let since = std::time::Instant::now();
    let done = bench.run("whole.jsonl", &["-q"]);
    let length = since.elapsed().as_micros() as u64;
    assert_eq!(done.code, 1, "{}", done.err);
    let expected = bench.read("whole.jsonl");
    assert_eq!(values(&expected).len(), 120);
    let errors = bench.arg("errors.jsonl");
    let mut moments = Moments::new();
    let (mut killed, mut finished) = (0, 0);
    while killed < points {
        for name in ["out.jsonl", "out.jsonl.manifest.json", "errors.jsonl"] {
            let _ = std::fs::remove_file(bench.path(name));
        }
        let chain = 1 + moments.next(u64::from(LONGEST_CHAIN - 1)) as u32;
        let mut in_chain = 0;
        loop {
            let more = ["-q", "--resume", "--errors", &errors];
            let mut child = bench
                .command("out.jsonl", &more)
                .spawn()
                .expect("the program");
            if in_chain < chain {
                // Longer chains are killed sooner, so that there is something left to kill.
                let most = 1 + 2 * length / u64::from(chain).max(2);
                std::thread::sleep(Duration::from_micros(moments.next(most)));
                child.kill().expect("a process");
            }
            let status = child.wait().expect("the program ends");
            if status.signal() == Some(libc::SIGKILL) {
                in_chain += 1;
                let bytes = std::fs::read(bench.path("out.jsonl")).unwrap_or_default();
                let whole = bytes
                    .iter()
                    .rposition(|&b| b == b'\n')
                    .map_or(0, |at| at + 1);
                assert!(expected.starts_with(&bytes[..whole]));
                continue;
            }
            assert_eq!(status.code(), Some(1));
            break;
        }
        killed += in_chain;
        finished += 1;
        assert_eq!(bench.read("out.jsonl"), expected, "after {in_chain} kills");
        let failed = values(&bench.read("errors.jsonl"));
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0]["id"], "r40");
    }
    println!("killed {killed} times in {finished} runs");
}

#[test]
fn interrupted_at_any_moment_it_ends_with_complete_lines() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(120));
    let since = std::time::Instant::now();
    let done = bench.run("whole.jsonl", &["-q"]);
    let length = since.elapsed().as_micros() as u64;
    assert_eq!(done.code, 0, "{}", done.err);
    let expected = bench.read("whole.jsonl");
    let mut moments = Moments::new();
    let mut interrupted = 0;
    for i in 0..points() / 5 {
        for name in ["out.jsonl", "out.jsonl.manifest.json"] {
            let _ = std::fs::remove_file(bench.path(name));
        }
        let (signal, code) = match i % 2 {
            0 => (libc::SIGINT, 130),
            _ => (libc::SIGTERM, 143),
        };
        let child = bench
            .command("out.jsonl", &["-q"])
            .spawn()
            .expect("the program");
        std::thread::sleep(Duration::from_micros(moments.next(length)));
        // SAFETY: the child was not waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
        let status = child.wait_with_output().expect("the program ends").status;
        // Before its first instructions nothing is there that a signal would have to wait for, and after its last record there is nothing to stop.
        let early = status.signal() == Some(signal);
        assert!(
            early || [0, code].contains(&status.code().expect("a code")),
            "{status}"
        );
        interrupted += u32::from(status.code() == Some(code));
        let bytes = std::fs::read(bench.path("out.jsonl")).unwrap_or_default();
        assert!(expected.starts_with(&bytes) && (bytes.is_empty() || bytes.ends_with(b"\n")));
        let done = bench.run("out.jsonl", &["-q", "--resume"]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(bench.read("out.jsonl"), expected);
    }
    println!("interrupted {interrupted} times");
}

//! A batch between other programs: one line in, one line out; and what it shows on the way.

use super::{Bench, records, values};
use crate::common::program::{Done, quern, run_with_input};
use crate::common::terminal::Terminal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// A batch that reads and writes pipes.
struct Filter {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Filter {
    fn start(bench: &Bench, more: &[&str]) -> Filter {
        let own = ["batch", "-m", bench.model.arg(), "-i", "-", "-o", "-"];
        let mut child = quern(&[&own[..], more].concat())
            .stdin(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Filter {
            stdin: child.stdin.take().expect("a pipe"),
            stdout: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    fn send(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).expect("a pipe");
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a pipe");
        serde_json::from_str(&line).expect("a line of JSON")
    }

    fn end(self) -> Done {
        drop(self.stdin);
        drop(self.stdout);
        self.child
            .wait_with_output()
            .expect("the program ends")
            .into()
    }
}

#[test]
fn who_waits_for_every_answer_gets_it() {
    let bench = Bench::new();
    let mut filter = Filter::start(&bench, &["-q"]);
    for i in 0..20 {
        // A line that is wrong is answered as soon.
        match i % 5 {
            4 => filter.send("nonsense\n"),
            _ => filter.send(&format!("{{\"prompt\":\"{i}\",\"max_tokens\":4}}\n")),
        }
        let line = filter.answer();
        assert_eq!(line["index"], i);
        assert_eq!(line["error"].is_null(), i % 5 != 4);
    }
    let done = filter.end();
    done.fails(1, &["4 of 20 records failed: 4 invalid_json"]);
}

#[test]
fn a_reader_that_leaves_is_4() {
    let bench = Bench::new();
    let mut filter = Filter::start(&bench, &["-q"]);
    filter.send("{\"prompt\":\"a\",\"max_tokens\":2}\n");
    filter.answer();
    let Filter {
        child,
        mut stdin,
        stdout,
    } = filter;
    drop(stdout);
    stdin.write_all(records(3).as_bytes()).unwrap();
    let done: Done = child.wait_with_output().unwrap().into();
    done.fails(4, &["standard output", "1 records saved"]);
}

#[test]
fn progress_and_summaries_for_programs() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(20).replace("\"number 3 is\"", "7"));
    let summary = bench.arg("summary.json");
    let done = bench.run(
        "out.jsonl",
        &["-q", "--progress", "json", "--summary", &summary],
    );
    assert_eq!(done.code, 1);
    let lines: Vec<&str> = done.err.lines().collect();
    let (error, progress) = lines.split_last().unwrap();
    assert!(
        error.starts_with("quern: 1 of 20 records failed"),
        "{error}"
    );
    let progress: Vec<Value> = progress
        .iter()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let last = progress.last().unwrap();
    assert_eq!(last["records"], 20);
    assert_eq!(last["total"], 20);
    assert_eq!(last["failed"], 1);
    let tokens: u64 = values(&bench.read("out.jsonl"))
        .iter()
        .filter_map(|line| line["usage"]["completion_tokens"].as_u64())
        .sum();
    assert_eq!(last["new_tokens"], tokens);
    let summary: Value = serde_json::from_slice(&bench.read("summary.json")).unwrap();
    assert_eq!(summary["complete"], true);
    assert_eq!(summary["new_tokens"], tokens);
    assert_eq!(summary["errors"]["invalid_request"], 1);
    assert!(summary["tokens_per_second"].as_f64().unwrap() > 0.0);
    // Without anything it is a line or two for a person.
    let done = bench.run("other.jsonl", &[]);
    assert!(done.err.contains("20 records in "), "{}", done.err);
    assert!(
        done.err.contains("1 failed (1 invalid_request)"),
        "{}",
        done.err
    );
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(30));
    let args = bench.args("out.jsonl", &[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut terminal = Terminal::start(&args, |_| {});
    terminal.wait_for(" of 30 records, ");
    terminal.wait_for("quern: 30 records in ");
    assert_eq!(terminal.end().0, 0);
    assert_eq!(values(&bench.read("out.jsonl")).len(), 30);
}

/// Bytes of a process that are in memory, and how many descriptors are open.
fn taken(child: &Child) -> (u64, usize) {
    let folder = format!("/proc/{}", child.id());
    let mut status = String::new();
    let mut file = std::fs::File::open(format!("{folder}/status")).unwrap();
    file.read_to_string(&mut status).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    let open = std::fs::read_dir(format!("{folder}/fd")).unwrap().count();
    (kib * 1024, open)
}

/// 2,000 records, or as many as QUERN_BATCH_RECORDS says.
#[test]
fn memory_and_descriptors_stay_what_they_are() {
    let count = std::env::var("QUERN_BATCH_RECORDS");
    let count: usize = count.map_or(2_000, |n| n.parse().expect("a number"));
    let bench = Bench::new();
    let Filter {
        child,
        mut stdin,
        mut stdout,
    } = Filter::start(&bench, &["-q", "--temp", "0", "--max-inflight", "8"]);
    let writer = std::thread::spawn(move || {
        for i in 0..count {
            let length = 1 + i % 4;
            let line = format!("{{\"prompt\":\"{}\",\"max_tokens\":{length}}}\n", i % 10);
            stdin.write_all(line.as_bytes()).expect("a pipe");
        }
        // The end of the input stays open until memory was looked at.
        stdin
    });
    let mut line = String::new();
    let mut early = None;
    for i in 0..count {
        line.clear();
        stdout.read_line(&mut line).expect("a pipe");
        assert!(
            line.starts_with(&format!("{{\"index\":{i},\"text\"")),
            "{line}"
        );
        if i + 1 == 1_000 {
            early = Some(taken(&child));
        }
    }
    let stdin = writer.join().unwrap();
    let (memory, open) = taken(&child);
    let (early_memory, early_open) = early.expect("at least 1,000 records");
    assert!(
        memory as f64 <= early_memory as f64 * 1.01,
        "{early_memory} bytes after 1,000 records, {memory} after {count}"
    );
    assert_eq!(open, early_open);
    drop(stdin);
    let done: Done = child.wait_with_output().unwrap().into();
    assert_eq!((done.code, done.err.as_str()), (0, ""));
}

#[test]
fn an_input_of_many_lines_at_once_keeps_its_order() {
    let bench = Bench::new();
    let args = ["batch", "-m", bench.model.arg(), "-i", "-", "-o", "-", "-q"];
    let done = run_with_input(&args, records(50).as_bytes());
    assert_eq!(done.code, 0, "{}", done.err);
    bench.write("in.jsonl", records(50));
    bench.run("out.jsonl", &["-q"]);
    assert_eq!(done.out, bench.read("out.jsonl"));
}

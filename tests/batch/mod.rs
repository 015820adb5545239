//! `quern batch` from outside: what lines become, and what survives.

mod crash;
mod embeddings;
mod filter;
mod input;
mod journal;
mod records;
mod shards;

use crate::common::program::{Done, quern, run};
use crate::common::tiny::{Tiny, TinyFile};
use serde_json::Value;
use std::path::PathBuf;

/// A folder with a model, an input and outputs; all go when the value goes.
struct Bench {
    folder: tempfile::TempDir,
    model: TinyFile,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Tiny::default())
    }

    fn with(tiny: Tiny) -> Bench {
        Bench {
            folder: tempfile::tempdir().expect("a temporary folder"),
            model: TinyFile::new(tiny),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).to_str().expect("a UTF-8 path").to_owned()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("a file")
    }

    /// The arguments of a batch from `in.jsonl` to `output`.
    fn args(&self, output: &str, more: &[&str]) -> Vec<String> {
        let own = [
            "batch",
            "-m",
            self.model.arg(),
            "-i",
            &self.arg("in.jsonl"),
            "-o",
            &self.arg(output),
        ];
        let all = own.iter().chain(more);
        all.map(|text| (*text).to_owned()).collect()
    }

    fn command(&self, output: &str, more: &[&str]) -> std::process::Command {
        let args = self.args(output, more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        quern(&args)
    }

    /// Runs it to its end.
    fn run(&self, output: &str, more: &[&str]) -> Done {
        self.command(output, more)
            .output()
            .expect("the program starts")
            .into()
    }

    /// Runs these lines and returns those that come of them.
    #[track_caller]
    fn lines(&self, input: &str, code: i32, more: &[&str]) -> Vec<Value> {
        self.write("in.jsonl", input);
        let _ = std::fs::remove_file(self.path("out.jsonl"));
        let done = self.run("out.jsonl", more);
        assert_eq!(done.code, code, "{}", done.err);
        values(&self.read("out.jsonl"))
    }
}

/// How many moments the tests of interruptions try: 20, or as many as QUERN_CRASH_POINTS says.
fn points() -> u32 {
    let points = std::env::var("QUERN_CRASH_POINTS");
    points.map_or(20, |n| n.parse().expect("a number"))
}

/// Moments that differ from run to run of a test: each is as good as any other.
struct Moments(u64);

impl Moments {
    fn new() -> Moments {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Moments(now.map_or(1, |d| d.as_nanos() as u64) | 1)
    }

    /// A number from 0 to `most`.
    fn next(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (most + 1)
    }
}

/// The lines of an output.
fn values(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    let value = |line| serde_json::from_str(line).expect("a line of JSON");
    text.lines().map(value).collect()
}

/// What `quern run` says with these arguments, as JSON.
fn alone(model: &TinyFile, more: &[&str]) -> Value {
    run(&[&["run", "-m", model.arg(), "--json"], more].concat()).json()
}

/// Plain records whose texts have different lengths.
fn records(count: usize) -> String {
    let record = |i: usize| {
        let length = 1 + i * 7 % 23;
        format!("{{\"id\":\"r{i}\",\"prompt\":\"number {i} is\",\"max_tokens\":{length}}}\n")
    };
    (0..count).map(record).collect()
}

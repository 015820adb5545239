//! Running the program and looking at what it did.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// The program with a clean environment: no input, no variables that change what it does.
pub fn quern(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("QUERN_ISA")
        .env_remove("NO_COLOR");
    command
}

/// What a run left.
#[derive(Debug)]
pub struct Done {
    /// Exit code; -n if signal n killed it.
    pub code: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Done {
    /// Standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("UTF-8 on standard output")
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(self.text()).expect("one JSON value on standard output")
    }

    /// Checks that it failed with this code and one line that contains all of these.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "stderr: {}", self.err);
        assert!(self.err.starts_with("quern: "), "{:?}", self.err);
        assert_eq!(
            self.err.matches('\n').count(),
            1,
            "one line: {:?}",
            self.err
        );
        for part in parts {
            assert!(self.err.contains(part), "{part:?} in {:?}", self.err);
        }
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code();
        Done {
            code: code.unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
            out: output.stdout,
            err: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
        }
    }
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Done {
    quern(args).output().expect("the program starts").into()
}

/// Runs it with this on its standard input.
pub fn run_with_input(args: &[&str], input: &[u8]) -> Done {
    let mut child = quern(args)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // The program may end without reading all of it.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the program ends");
    feeder.join().expect("the feeder ends");
    output.into()
}

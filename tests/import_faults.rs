//! Imports that are interrupted: the disk is full, the process is killed. Nothing half-written ever has the final name.

use crate::foreign_files::*;
use crate::golden_folders;
use crate::import::{file_of, options};
use quern::convert::import::import_to;
use quern::convert::quantize::Quant;
use quern::file::verify::verify;
use quern::file::{ModelFile, OpenOptions};
use std::io::{Cursor, Error, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn quern() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quern"))
}

/// A sink whose n-th write or seek fails, and all after it.
struct Failing {
    inner: Cursor<Vec<u8>>,
    left: usize,
}

impl Failing {
    fn tick(&mut self) -> std::io::Result<()> {
        if self.left == 0 {
            return Err(Error::from_raw_os_error(28)); // ENOSPC
        }
        self.left -= 1;
        Ok(())
    }
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.tick()?;
        // Short writes are ordinary.
        self.inner.write(&bytes[..bytes.len().min(1000)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.tick()
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.tick()?;
        self.inner.seek(to)
    }
}

#[test]
fn a_write_that_fails_is_exit_4_wherever_it_happens() {
    let (_keep, path) = file_of(
        "m.gguf",
        &llama_gguf(llama_metadata(TINY), TINY, Kind::Q4_0).build(),
    );
    let mut left = 0;
    loop {
        let sink = Failing {
            inner: Cursor::new(Vec::new()),
            left,
        };
        match import_to(&path, sink, &options(Quant::Keep)) {
            Ok(sink) => {
                assert_eq!(sink.left, 0, "the last fault came after the end");
                break;
            }
            Err(e) => assert_eq!(e.exit_code(), 4, "{e}"),
        }
        left += 1;
        assert!(left < 10_000);
    }
    assert!(left > 50, "only {left} writes");
}

/// Files in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_size_limit_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    golden_folders::materialise("llama_mha", false, &source);
    for blocks in [1, 20, 100, 200] {
        let out = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "ulimit -f {blocks}; exec \"$0\" import source -o out.quern"
            ))
            .arg(env!("CARGO_BIN_EXE_quern"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let message = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(4), "{blocks}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(names(folder.path()), ["source"], "{blocks}: {message}");
    }
}

#[test]
fn killed_imports_leave_nothing_under_the_final_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    golden_folders::materialise("llama_mqa_bias_hd", false, &source);
    let out = folder.path().join("out.quern");
    let import = || {
        let mut c = quern();
        c.arg("import").arg(&source).arg("-o").arg(&out);
        c.stderr(Stdio::null());
        c
    };
    let points = if std::env::var_os("QUERN_FULL").is_some() {
        200
    } else {
        16
    };
    let mut absent = 0;
    for i in 0..points {
        let _ = std::fs::remove_file(&out);
        let mut child = import().spawn().unwrap();
        std::thread::sleep(Duration::from_micros(i * 20_000 / points));
        child.kill().unwrap();
        child.wait().unwrap();
        if out.exists() {
            let file = ModelFile::open(&out, OpenOptions::default()).unwrap();
            verify(&file, 1, &|_| {}).unwrap();
        } else {
            absent += 1;
        }
        let left = names(folder.path());
        let stale = left.iter().filter(|n| n.starts_with('.')).count();
        assert!(stale <= 1, "{left:?}");
    }
    assert!(absent > 0, "no import was killed early enough to matter");
    assert!(import().status().unwrap().success());
    assert_eq!(names(folder.path()), ["out.quern", "source"]);
}

#[test]
fn the_command_line() {
    let gguf = llama_gguf(llama_metadata(TINY), TINY, Kind::F32).build();
    let (folder, path) = file_of("m.gguf", &gguf);
    let run = |args: &[&str]| {
        let out = quern()
            .arg("import")
            .args(args)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(out.stdout.is_empty());
        let message = String::from_utf8(out.stderr).unwrap();
        (out.status.code().unwrap(), message)
    };
    let (code, message) = run(&["m.gguf", "-o", "m.quern", "--quant", "q8"]);
    assert_eq!(code, 0, "{message}");
    assert!(message.contains("imported \"tiny\""), "{message}");
    let (code, message) = run(&["m.gguf", "-o", "m.quern"]);
    assert_eq!(code, 0, "a weight file is replaced: {message}");
    let (code, message) = run(&["m.gguf", "-o", "x.quern", "--quant", "q5"]);
    assert_eq!(code, 2);
    assert!(
        message.contains("keep, f32, f16, bf16, q8, q4"),
        "{message}"
    );
    assert_eq!(run(&["missing.gguf", "-o", "x.quern"]).0, 4);
    assert_eq!(run(&["m.gguf", "-o", "missing/x.quern"]).0, 4);
    std::fs::write(folder.path().join("diary.txt"), "dear diary").unwrap();
    let (code, message) = run(&["m.gguf", "-o", "diary.txt"]);
    assert_eq!((code, message.contains("--force")), (2, true), "{message}");
    assert_eq!(run(&["m.gguf", "-o", "m.gguf", "--force"]).0, 2);
    assert_eq!(std::fs::read(&path).unwrap(), gguf);
    assert_eq!(run(&["m.gguf", "-o", "diary.txt", "--force"]).0, 0);
    std::fs::write(folder.path().join("bad.gguf"), &gguf[..1000]).unwrap();
    let (code, message) = run(&["bad.gguf", "-o", "x.quern"]);
    assert_eq!((code, message.lines().count()), (3, 1), "{message}");
    assert!(
        message.starts_with("quern: \"bad.gguf\": byte "),
        "{message}"
    );
    assert!(!folder.path().join("x.quern").exists());
}

#[test]
fn hostile_counts_need_no_memory() {
    let mut many = GgufWriter::new();
    many.n_kv = Some(500_000_000);
    let (folder, _path) = file_of("m.gguf", &many.build());
    let array = llama_metadata(TINY).array("general.x", 10, 1 << 40, &[0; 64]);
    std::fs::write(folder.path().join("a.gguf"), array.build()).unwrap();
    for name in ["m.gguf", "a.gguf"] {
        let out = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "ulimit -v 200000; exec \"$0\" import {name} -o out.quern"
            ))
            .arg(env!("CARGO_BIN_EXE_quern"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let message = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(3), "{message}");
    }
}

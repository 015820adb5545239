//! The comparison with llama.cpp: the GGUF that it makes is one, and the table has what both programs measured. The other program is a stand-in here.

use crate::common::program::{Done, run};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const CONFIG: &str = r#"{"model_type": "mixtral", "vocab_size": 320, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": false}"#;

fn program(folder: &Path, name: &str, says: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{says}\nEND\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the script; none, with a note, where there is no Python.
fn peers(folder: &Path, more: &[&str]) -> Option<Done> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/peers/bench_peers.py");
    let mut command = Command::new("python3");
    command.arg(script).arg("--dir").arg(folder.join("made"));
    command.args(["--quern", env!("CARGO_BIN_EXE_quern"), "-r", "1", "-t", "1"]);
    match command.args(more).output() {
        Ok(output) => Some(output.into()),
        Err(e) => {
            println!("skipped: python3: {e}");
            None
        }
    }
}

#[test]
fn both_programs_are_measured_on_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    program(
        &bin,
        "llama-bench",
        r#"[{"n_prompt": 8, "n_gen": 0, "n_depth": 0, "avg_ts": 10.0}, {"n_prompt": 0, "n_gen": 2, "n_depth": 0, "avg_ts": 0.001}]"#,
    );
    program(
        &bin,
        "llama-batched-bench",
        "a log\n{\"pp\": 4, \"tg\": 2, \"pl\": 3, \"speed_tg\": 7.5}",
    );
    let config = folder.path().join("small.json");
    std::fs::write(&config, CONFIG).unwrap();
    let (bin, config) = (bin.to_str().unwrap(), config.to_str().unwrap());
    let args = [
        "--llama-bin",
        bin,
        "--shape",
        config,
        "--types",
        "q4_0,q4_k_m,q8_0,f16",
        "-p",
        "8",
        "-n",
        "2",
        "-b",
        "3",
        "--batch-prompt",
        "4",
        "--batch-decode",
        "2",
    ];
    let Some(done) = peers(folder.path(), &args) else {
        return;
    };
    assert_eq!(done.code, 0, "{}", done.err);
    for kind in ["q4_0", "q4_k_m", "q8_0", "f16"] {
        for test in ["pp8", "tg2", "tg2 x3 @ d4"] {
            let start = format!("| {kind} | {test} | 1 | ");
            let row = done.text().lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("{start} in {}", done.text()));
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let number = |c: usize| cells[c].parse::<f64>().unwrap();
            assert!(number(4) > 0.0, "{row}");
            if test == "tg2 x3 @ d4" {
                assert_eq!(number(5), 7.5);
                // One round: its ratio is the median, the lowest and the highest.
                assert_eq!(cells[7], format!("{0} to {0}", cells[6]));
            }
        }
        // What it was measured on is a model like any other.
        let model = folder.path().join(format!("made/small-{kind}.quern"));
        let verified = run(&["verify", model.to_str().unwrap()]);
        assert_eq!(verified.code, 0, "{}", verified.err);
    }
    assert!(
        done.text().contains("llama-batched-bench -m"),
        "{}",
        done.text()
    );
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().to_str().unwrap();
    let Some(done) = peers(folder.path(), &["--llama-bin", bin]) else {
        return;
    };
    assert_eq!(done.code, 1);
    assert!(done.err.contains("has no llama-bench"), "{}", done.err);
    program(folder.path(), "llama-bench", "[]");
    let more = ["--llama-bin", bin, "-b", "", "--shape", "warp-9b"];
    let done = peers(folder.path(), &more).unwrap();
    assert!(
        done.err.contains("warp-9b.json does not exist"),
        "{}",
        done.err
    );
    let more = ["--llama-bin", bin, "-b", "", "--types", "q9_0"];
    let done = peers(folder.path(), &more).unwrap();
    assert!(done.err.contains("type q9_0"), "{}", done.err);
}

//! `quern bench`: what is measured, under which names, and what is refused. Never how fast.

use crate::common::program::{Done, run};
use serde_json::Value;
use std::collections::BTreeSet;

/// Runs a measurement with a small buffer, once.
fn bench(args: &[&str]) -> Done {
    run(&[&["bench"], args, &["-r", "1", "--buffer", "4"]].concat())
}

/// The figures of one line of JSON: group, name, isa, threads.
fn rows(report: &Value) -> Vec<(String, String, String, u64)> {
    assert_eq!(report["schema"], "quern-bench-1");
    assert!(report["busy"].is_boolean());
    assert!(report["machine"]["processors"].as_u64().unwrap() > 0);
    let rows = report["rows"].as_array().unwrap().iter().map(|row| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        let samples = row["samples"].as_array().unwrap();
        assert!(samples.iter().all(|s| s.as_f64().unwrap() >= 0.0), "{row}");
        let threads = row["threads"].as_u64().unwrap();
        (text("group"), text("name"), text("isa"), threads)
    });
    rows.collect()
}

fn names(report: &Value, group: &str) -> Vec<String> {
    let of_group = rows(report).into_iter().filter(|row| row.0 == group);
    of_group.map(|row| row.1).collect()
}

#[test]
fn the_machine_is_measured_by_level_threads_and_arithmetic() {
    let report = bench(&["machine", "-t", "2", "--json"]).json();
    let found = rows(&report);
    let has = |name: &str, threads| found.iter().any(|r| r.1 == name && r.3 == threads);
    for threads in [1, 2] {
        for name in ["read memory, near streams", "read memory, far streams"] {
            assert!(has(name, threads), "{name}: {found:?}");
        }
        // Every kind of arithmetic that the kernels have a loop for.
        let best = quern_kernels::best();
        for kind in quern_kernels::Peak::ALL {
            let name = format!("{} peak", kind.name());
            let expected = best.peak(kind, 1).is_some();
            let of_kind = |r: &&(String, String, String, u64)| {
                r.1 == name && r.3 == threads && r.2 == best.name()
            };
            assert_eq!(
                found.iter().any(|r| of_kind(&r)),
                expected,
                "{name}: {found:?}"
            );
        }
    }
    assert!(has("clock", 1));
    // The name of before.
    let alias = bench(&["bw", "-t", "1"]);
    assert_eq!(alias.code, 0, "{}", alias.err);
    assert!(alias.text().contains("read memory"), "{}", alias.text());
    let scalar = bench(&["machine", "-t", "1", "--isa", "scalar", "--json"]).json();
    assert!(rows(&scalar).iter().any(|r| r.2 == "scalar"));
}

#[test]
fn every_operation_is_measured_on_every_instruction_set() {
    let report = bench(&[
        "kernels",
        "--op",
        "rope,rmsnorm,softmax,quantize,activation,vector,recurrent",
        "--isa",
        "all",
        "--json",
    ])
    .json();
    let isas: BTreeSet<String> = quern_kernels::supported()
        .map(|k| k.name().to_owned())
        .collect();
    for part in [
        "rope",
        "rms_norm",
        "softmax",
        "quantize",
        "silu",
        "dot",
        "delta_rule",
    ] {
        let found = rows(&report).into_iter().filter(|r| r.1.starts_with(part));
        let on: BTreeSet<String> = found.map(|r| r.2).collect();
        assert_eq!(on, isas, "{part}");
    }
    let report = bench(&[
        "kernels",
        "--op",
        "sample,barrier",
        "-t",
        "2",
        "--vocabulary",
        "500",
        "--json",
    ])
    .json();
    let found = names(&report, "kernels");
    for part in [
        "sample greedy, 500 ids",
        "phase",
        "phase, oversubscribed",
        "start of a pass",
    ] {
        assert!(found.iter().any(|name| name == part), "{part}: {found:?}");
    }
    let row = report["rows"].as_array().unwrap();
    let phase = row
        .iter()
        .find(|r| r["name"] == "phase, oversubscribed")
        .unwrap();
    assert_eq!(
        (phase["threads"].as_u64(), &phase["isa"]),
        (Some(4), &"".into())
    );
    // Every figure that moves bytes has a limit.
    for row in row
        .iter()
        .filter(|r| r["name"].as_str().unwrap().starts_with("sample"))
    {
        assert!(row["limit"]["value"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn products_are_of_the_formats_shapes_tokens_and_threads_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = folder.path().join("shapes.txt");
    std::fs::write(&shapes, "# outputs tokens inputs\n48 3 128\n").unwrap();
    let shapes = shapes.to_str().unwrap();
    let report = bench(&[
        "kernels",
        "--op",
        "matmul",
        "--type",
        "q8,f16",
        "--shape",
        shapes,
        "-t",
        "1,2",
        "--weights",
        "cache",
        "--json",
    ])
    .json();
    let mut found = rows(&report);
    found.retain(|r| r.0 == "kernels");
    let best = quern_kernels::best().name().to_owned();
    let row = |name: &str, threads| ("kernels".to_owned(), name.to_owned(), best.clone(), threads);
    let expected = [
        row("matmul q8 48 x 128 n=3", 1),
        row("matmul q8 48 x 128 n=3", 2),
        row("matmul f16 48 x 128 n=3", 1),
        row("matmul f16 48 x 128 n=3", 2),
    ];
    assert_eq!(found, expected);
    let first = &report["rows"][0];
    assert!(
        first["gb_per_s"].as_f64().unwrap() > 0.0 && first["gmac_per_s"].as_f64().unwrap() > 0.0
    );
    // The matrices of a model, from its configuration; every format by itself.
    let config = folder.path().join("config.json");
    std::fs::write(&config, CONFIG).unwrap();
    let report = bench(&[
        "kernels",
        "--op",
        "matmul",
        "--shape",
        config.to_str().unwrap(),
        "--tokens",
        "2",
        "--weights",
        "cache",
        "--json",
    ])
    .json();
    let found = names(&report, "kernels");
    assert_eq!(found.len() % quern_kernels::Format::ALL.len(), 0);
    for format in quern_kernels::Format::ALL {
        let name = format!("matmul {} 320 x 64 n=2", format.name());
        assert!(found.contains(&name), "{name}: {found:?}");
    }
}

/// A small model.
const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": true}"#;

#[test]
fn a_model_is_measured_in_every_combination_of_the_lists() {
    let report = bench(&[
        "model", "-p", "4,0", "-n", "2", "-d", "0,16", "-b", "1,3", "-t", "1,2", "--kv", "f32",
        "--chunk", "3", "--json",
    ])
    .json();
    let found: Vec<(String, u64)> = rows(&report)
        .into_iter()
        .filter(|r| r.0 == "model")
        .map(|r| (r.1, r.3))
        .collect();
    let tests = [
        "pp4",
        "tg2",
        "tg2 x3",
        "pp4 @ d16",
        "tg2 @ d16",
        "tg2 x3 @ d16",
    ];
    let expected: Vec<(String, u64)> = [1, 2]
        .into_iter()
        .flat_map(|t| tests.map(|name| (name.to_owned(), t)))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(report["rows"][0]["model"], "pocket q8");
    assert!(report["rows"][1]["limit"]["value"].as_f64().unwrap() > 0.0);
    assert!(
        names(&report, "machine")
            .iter()
            .any(|n| n.starts_with("read memory"))
    );
}

#[test]
fn the_shape_of_a_model_is_measured_without_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, CONFIG).unwrap();
    let config = config.to_str().unwrap();
    for format in quern_kernels::Format::ALL {
        let quant = format.name();
        let report = bench(&[
            "model", "--shape", config, "--quant", quant, "-p", "3", "-n", "1", "--json",
        ])
        .json();
        assert_eq!(names(&report, "model"), ["pp3", "tg1"]);
        let model = report["rows"][0]["model"].as_str().unwrap();
        assert!(model.ends_with(quant), "{model}");
    }
    let listed = run(&["bench", "shapes", "--json"]).json();
    let listed = listed.as_array().unwrap();
    assert!(listed.len() >= 20);
    let one = listed.iter().find(|s| s["name"] == "llama-1b").unwrap();
    assert_eq!(one["weights"], 1_235_814_400);
    assert!(run(&["bench", "shapes"]).text().contains("llama-1b"));
    // More than any machine has.
    let huge = CONFIG.replace(
        "\"hidden_size\": 64",
        "\"hidden_size\": 262144, \"head_dim\": 64",
    );
    let huge = huge.replace("\"vocab_size\": 320", "\"vocab_size\": 16777216");
    std::fs::write(folder.path().join("huge.json"), huge).unwrap();
    let path = folder.path().join("huge.json");
    bench(&["model", "--shape", path.to_str().unwrap(), "--quant", "f32"])
        .fails(5, &["huge in f32", "are needed", "available"]);
}

#[test]
fn loading_is_measured_in_processes_of_their_own() {
    let report = run(&["bench", "load", "-r", "2", "-t", "1", "--json"]).json();
    let found = names(&report, "load");
    for part in [
        "open",
        "tokenizer",
        "start to first token",
        "private memory",
        "mapped memory, shared",
    ] {
        assert!(found.iter().any(|name| name == part), "{part}: {found:?}");
    }
    assert_eq!(report["rows"][0]["samples"].as_array().unwrap().len(), 2);
    run(&["bench", "load", "-m", "/nonexistent.quern", "-r", "1"])
        .fails(4, &["/nonexistent.quern"]);
    run(&["bench", "load", "--isa", "sse9", "-r", "1"]).fails(2, &["\"sse9\""]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, code, parts) in [
        (
            &["kernels", "--op", "warp"][..],
            2,
            &["'warp'", "matmul"][..],
        ),
        (&["kernels", "--type", "q9"], 2, &["'q9'", "q8"]),
        (&["kernels", "--isa", "avx9"], 2, &["\"avx9\""]),
        (&["kernels", "--tokens", "0"], 2, &["'0'"]),
        (
            &["kernels", "--shape", "warp-9b"],
            2,
            &["\"warp-9b\"", "llama-1b"],
        ),
        (
            &["model", "--shape", "warp-9b"],
            2,
            &["\"warp-9b\"", "llama-1b"],
        ),
        (
            &["model", "--shape", "llama-1b", "-m", "x"],
            2,
            &["cannot be used with"],
        ),
        (
            &["model", "--quant", "q9", "--shape", "llama-1b"],
            2,
            &["'q9'"],
        ),
        (&["model", "-p", "0", "-n", "0"], 2, &["nothing to measure"]),
        (
            &["model", "-d", "99999999"],
            5,
            &["100000511 tokens", "context"],
        ),
        (&["model", "-b", "0"], 2, &["'0'"]),
        (
            &["model", "-m", "/nonexistent.quern"],
            4,
            &["/nonexistent.quern"],
        ),
        (&["machine", "--json", "--csv"], 2, &["cannot be used with"]),
        (&["machine", "--isa", "avx9"], 2, &["\"avx9\""]),
        (
            &["machine", "--compare", "/nonexistent.json"],
            4,
            &["/nonexistent.json"],
        ),
        (
            &["machine", "--report", "/nonexistent/page.html"],
            4,
            &["/nonexistent/page.html"],
        ),
        (&["machine", "--tolerance", "100"], 2, &["'100'"]),
    ] {
        bench(args).fails(code, parts);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shapes.txt");
    std::fs::write(&path, "1 2\n").unwrap();
    bench(&["kernels", "--shape", path.to_str().unwrap()]).fails(3, &["line 1", "M N K"]);
    std::fs::write(&path, "1 2 3\n").unwrap();
    bench(&["model", "--shape", path.to_str().unwrap()]).fails(2, &["list of matrices"]);
    let path = folder.path().join("config.json");
    std::fs::write(&path, "{\"model_type\": \"warp\"}").unwrap();
    bench(&["model", "--shape", path.to_str().unwrap()]).fails(3, &["\"warp\""]);
    std::fs::write(&path, "{").unwrap();
    bench(&["model", "--shape", path.to_str().unwrap()]).fails(3, &["config.json"]);
}

/// The shapes in the kernels crate are those of the models that they are named after.
#[test]
fn lists_of_matrices_are_those_of_their_models() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/shapes"));
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let known = quern_models::shapes::Known::by_name(name).unwrap();
        let of_model = quern::bench::kernels::matrices_of(&known.spec().unwrap());
        let listed = quern::bench::kernels::matrices_in(&path).unwrap();
        let sizes: BTreeSet<_> = listed.iter().map(|s| (s.rows, s.cols)).collect();
        assert_eq!(
            sizes,
            of_model.iter().map(|s| (s.rows, s.cols)).collect(),
            "{name}"
        );
        files += 1;
    }
    assert!(files > 0);
}

//! GGUF files of every architecture against the folders that they were made of.

use crate::gguf_cases::CASES;
use crate::gguf_cases_more::MORE;
use crate::gguf_writer::Case;
use crate::golden::{
    check_causal, check_encoder, check_seq2seq, engine, goldens, ids, import_folder,
    logits_and_greedy, read_golden, subfolders,
};
use crate::materialise::{copy_beside, materialise};
use quern::convert::quantize::Quant;
use quern::file::ModelFile;
use quern::generate::embed::{Options, embed};
use quern_kernels::Format;
use quern_models::spec::Role;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Compares a model with the values of its golden.
fn check(file: Arc<ModelFile>, golden: &Value) -> Result<(), String> {
    match golden["kind"].as_str().unwrap() {
        "causal" => check_causal(&mut engine(file, 2), golden),
        "encoder" => {
            // No file has a pooler.
            let mut golden = golden.clone();
            for s in golden["sequences"].as_array_mut().unwrap() {
                s.as_object_mut().unwrap().remove("pooler_output");
            }
            check_encoder(&mut engine(file, 2), &golden)
        }
        "seq2seq" => check_seq2seq(&mut engine(file, 2), golden),
        kind => Err(format!("no comparison for {kind} goldens")),
    }
}

/// What differs between what the model of a folder computes and what that of its file does. Rotary factors, which files round to f32, are the
/// reason for a tolerance: the golden's.
fn compare(folder: Arc<ModelFile>, file: Arc<ModelFile>, golden: &Value) -> Result<(), String> {
    if golden["kind"] == "seq2seq" {
        return check(file, golden);
    }
    let atol = golden["suggested_atol"].as_f64().unwrap();
    let [a, b] = [folder, file].map(|f| {
        let mut engine = engine(f, 2);
        let sequences = golden["sequences"].as_array().unwrap();
        let input = ids(&sequences[sequences.len() - 1]["input_ids"]);
        if golden["kind"] == "causal" {
            let (rows, greedy) = logits_and_greedy(&mut engine, &input, 8);
            return (rows.concat(), greedy);
        }
        let options = Options {
            pooling: None,
            normalize: false,
            context: 4096,
            chunk: 4096,
        };
        let text = embed(&mut engine, &input, &options).unwrap();
        ([text.hidden, text.embedding].concat(), Vec::new())
    });
    let far = |(x, y): (&f32, &f32)| f64::from((x - y).abs());
    let worst = a.0.iter().zip(&b.0).map(far).fold(0.0, f64::max);
    if a.0.len() != b.0.len() || worst.is_nan() || worst > atol {
        return Err(format!(
            "values differ by {worst:.2e}, tolerance {atol:.2e}"
        ));
    }
    match a.1 == b.1 {
        true => Ok(()),
        false => Err(format!("greedy ids {:?}, expected {:?}", b.1, a.1)),
    }
}

#[test]
fn a_file_of_every_architecture_is_the_model_of_its_folder() {
    let scratch = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let cases: Vec<&Case> = CASES.iter().chain(MORE).collect();
    for case in &cases {
        let out = scratch.path().join(case.golden);
        let golden = goldens().join(case.golden);
        assert!(materialise(&golden, &out, false), "{}", case.golden);
        std::fs::write(out.join("config.json"), case.config().to_string()).unwrap();
        let path = scratch.path().join(format!("{}.gguf", case.golden));
        std::fs::write(&path, case.write()).unwrap();
        let import = |path: &Path| import_folder(path, Quant::Keep).map_err(|e| e.to_string());
        let result = import(&out)
            .and_then(|a| Ok((a, import(&path)?)))
            .and_then(|(a, b)| {
                if !case.reordered {
                    same_tensors(&a, &b)?;
                }
                compare(a, b, &read_golden(&golden))
            });
        if let Err(e) = result {
            wrong.push(format!("{} ({}): {e}", case.golden, case.architecture));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    let covered: BTreeSet<&str> = cases.iter().map(|c| c.architecture).collect();
    let known: BTreeSet<&str> = quern_models::gguf::architectures()
        .map(|a| a.name)
        .collect();
    assert_eq!(covered, known, "every architecture needs a case");
}

/// What differs between the stored tensors of a folder's model and those of its file. A pooler, which no file has, may be missing.
fn same_tensors(folder: &ModelFile, file: &ModelFile) -> Result<(), String> {
    let poolers = [Role::Pooler, Role::PoolerBias];
    let wanted = folder.entries().iter().enumerate();
    let wanted: Vec<_> = wanted
        .filter(|(_, e)| !poolers.contains(&e.key.role))
        .collect();
    if wanted.len() != file.entries().len() {
        let (a, b) = (wanted.len(), file.entries().len());
        return Err(format!("{b} tensors, expected {a}"));
    }
    for ((i, a), (k, b)) in wanted.into_iter().zip(file.entries().iter().enumerate()) {
        if (a.key, a.shape, a.format) != (b.key, b.shape, b.format) {
            return Err(format!("{b:?}, expected {a:?}"));
        }
        if folder.checksum(i) != file.checksum(k) {
            return Err(format!("{a:?} has other values"));
        }
    }
    Ok(())
}

/// The folder of a golden, with another configuration if there is one beside the file.
fn folder_of(golden: &Path, config: &Path, scratch: &Path) -> PathBuf {
    let out = scratch.join(golden.file_name().unwrap());
    if config.exists() {
        std::fs::create_dir_all(&out).unwrap();
        std::fs::copy(config, out.join("config.json")).unwrap();
    }
    if golden.join("weights.json").exists() {
        assert!(materialise(golden, &out, false));
    } else {
        std::fs::create_dir_all(&out).unwrap();
        copy_beside(golden, &out);
    }
    if config.exists() {
        std::fs::copy(config, out.join("config.json")).unwrap();
    }
    out
}

/// Files that the converter of llama.cpp made of goldens: `NAME.gguf` in the folder that the variable names. Where a converter lost something of the
/// model, `NAME.json` is the configuration that is left, and the file is compared with the folder in that configuration. QUERN_GGUF_ONLY may name
/// some of them, with commas between.
#[test]
fn files_made_by_the_converter_give_the_golden_values() {
    let Some(folder) = std::env::var_os("QUERN_GGUF_GOLDEN") else {
        println!("skipped: QUERN_GGUF_GOLDEN names no folder of converted goldens");
        return;
    };
    let shared = std::env::var_os("QUERN_SHARED").map(PathBuf::from);
    let mut roots = vec![goldens()];
    roots.extend(shared.map(|s| s.join("golden")));
    let only = std::env::var("QUERN_GGUF_ONLY").ok();
    let scratch = tempfile::tempdir().unwrap();
    let (mut agree, mut wrong) = (Vec::new(), Vec::new());
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if only
            .as_ref()
            .is_some_and(|o| !o.split(',').any(|o| o == name))
        {
            continue;
        }
        let all: Vec<PathBuf> = roots.iter().flat_map(|r| subfolders(r)).collect();
        let golden = all
            .iter()
            .rev()
            .find(|p| p.file_name().is_some_and(|n| *n == *name));
        let Some(golden) = golden else {
            wrong.push(format!("{name}: there is no such golden"));
            continue;
        };
        // Converters widen what they were told to.
        let quant = Quant::To(Format::F32);
        let result = import_folder(&file, quant)
            .map_err(|e| format!("import: {e}"))
            .and_then(|model| {
                let config = file.with_extension("json");
                if !config.exists() {
                    return check(model, &read_golden(golden));
                }
                let folder = folder_of(golden, &config, scratch.path());
                let expected = import_folder(&folder, quant).map_err(|e| format!("folder: {e}"))?;
                same_tensors(&expected, &model)?;
                compare(expected, model, &read_golden(golden))
            });
        match result {
            Ok(()) => agree.push(name),
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    println!("{} files agree: {}", agree.len(), agree.join(" "));
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

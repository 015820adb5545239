//! Families against values from an independent implementation: tests/golden/README.md says where they come from.
//!
//! Each golden is made into a Hugging Face folder, imported by the real importer in full precision, and compared with f32 keys and
//! values: every recorded logit within the golden's tolerance (20 x the measured difference of f32 and f64), the five best ids at every recorded
//! position, all greedy ids; from the configuration in both styles.

use crate::common::shared;
use crate::materialise::{copy_beside, materialise};
use quern::bytes::AlignedBytes;
use quern::cache::Sequence;
use quern::convert::import::{self, import_to};
use quern::convert::quantize::Quant;
use quern::file::ModelFile;
use quern::generate::embed::{Options, embed};
use quern::model::{Engine, Model, Source, Step, Wanted};
use quern::par::Team;
use quern_kernels::KvType;
use quern_models::spec::Pooling;
use serde_json::Value;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the goldens are.
pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Imports a folder into memory and opens the result.
pub fn import_folder(folder: &Path, quant: Quant) -> quern::error::Result<Arc<ModelFile>> {
    let options = import::Options {
        tokenizer: None,
        quant,
        tensors: &[],
        threads: 2,
        hashes: None,
    };
    let bytes = import_to(folder, Cursor::new(Vec::new()), &options)?.into_inner();
    Ok(Arc::new(ModelFile::from_bytes(Arc::new(
        AlignedBytes::copy_of(&bytes)?,
    ))?))
}

/// The imported model of a compact golden.
pub fn golden_file(name: &str) -> Arc<ModelFile> {
    golden_file_as(&goldens().join(name), Quant::Keep)
}

/// The imported model of a compact golden's folder, its matrices in some format.
pub fn golden_file_as(folder: &Path, quant: Quant) -> Arc<ModelFile> {
    let scratch = tempfile::tempdir().unwrap();
    assert!(materialise(folder, scratch.path(), false));
    import_folder(scratch.path(), quant).unwrap()
}

/// An engine on the best kernels.
pub fn engine(file: Arc<ModelFile>, threads: usize) -> Engine {
    let model = Arc::new(Model::bind(file).unwrap());
    Engine::new(model, quern_kernels::best(), Team::new(threads).unwrap())
}

/// A list of ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap() as u32)
        .collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

/// Logits of every position of `input`, then the `count` ids that follow greedily.
pub fn logits_and_greedy(
    engine: &mut Engine,
    input: &[u32],
    count: usize,
) -> (Vec<Vec<f32>>, Vec<u32>) {
    let seq = engine.model().new_sequence(KvType::F32);
    continue_greedily(engine, seq, input, count)
}

/// The same for a sequence that has a source already, where the model needs one.
fn continue_greedily(
    engine: &mut Engine,
    mut seq: Sequence,
    input: &[u32],
    count: usize,
) -> (Vec<Vec<f32>>, Vec<u32>) {
    seq.set_prompt_len(input.len());
    let all = engine
        .forward(&mut [Step {
            seq: &mut seq,
            tokens: input,
            wanted: Wanted::All,
        }])
        .unwrap();
    let rows: Vec<Vec<f32>> = (0..all.rows()).map(|i| all.row(i).to_vec()).collect();
    let kernels = quern_kernels::best();
    let mut greedy = vec![kernels.argmax(rows.last().unwrap()) as u32];
    while greedy.len() < count {
        let next = [*greedy.last().unwrap()];
        let step = Step {
            seq: &mut seq,
            tokens: &next,
            wanted: Wanted::Last,
        };
        greedy.push(kernels.argmax(engine.forward(&mut [step]).unwrap().row(0)) as u32);
    }
    (rows, greedy)
}

/// The `n` best ids, best first.
fn best_ids(logits: &[f32], n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    order.truncate(n);
    order
}

/// Compares a causal golden; returns what differs.
pub fn check_causal(engine: &mut Engine, golden: &Value) -> Result<(), String> {
    let atol = golden["suggested_atol"].as_f64().unwrap();
    for sequence in golden["sequences"].as_array().unwrap() {
        let name = &sequence["name"];
        let input = ids(&sequence["input_ids"]);
        let expected_greedy = ids(&sequence["greedy"]);
        let (rows, greedy) = logits_and_greedy(engine, &input, expected_greedy.len());
        check_logits(sequence, &rows, atol)?;
        if greedy != expected_greedy {
            return Err(format!(
                "{name}: greedy ids are {greedy:?}, expected {expected_greedy:?}"
            ));
        }
    }
    Ok(())
}

/// Compares the recorded logits of a sequence with those of all its positions.
fn check_logits(sequence: &Value, rows: &[Vec<f32>], atol: f64) -> Result<(), String> {
    let name = &sequence["name"];
    let last = rows.last().unwrap();
    let worst = numbers(&sequence["last_logits"])
        .iter()
        .zip(last)
        .map(|(e, g)| (e - f64::from(*g)).abs())
        .fold(0.0, f64::max);
    if worst.is_nan() || worst > atol {
        return Err(format!(
            "{name}: last logits differ by {worst:.2e}, tolerance {atol:.2e}"
        ));
    }
    for (i, top) in sequence["top5"].as_array().unwrap().iter().enumerate() {
        let position = top.get("pos").map_or(i, |p| p.as_u64().unwrap() as usize);
        let expected = ids(&top["ids"]);
        let found = best_ids(&rows[position], expected.len());
        if found != expected {
            return Err(format!(
                "{name}: best ids at position {position} are {found:?}, expected {expected:?}"
            ));
        }
        for (id, value) in expected.iter().zip(numbers(&top["vals"])) {
            let got = f64::from(rows[position][*id as usize]);
            if (got - value).abs() > atol {
                return Err(format!(
                    "{name}: logit of {id} at position {position} is {got}, expected {value}"
                ));
            }
        }
    }
    Ok(())
}

/// A sequence with this source, keys and values in f32, and the encoder's hidden vectors.
fn encoded(engine: &mut Engine, ids: &[u32]) -> (Sequence, Vec<Vec<f32>>) {
    let mut sequence = engine.model().new_sequence(KvType::F32);
    let seq = &mut sequence;
    let hidden = engine.encode(&mut [Source { seq, ids }]).unwrap();
    let rows = (0..hidden.rows()).map(|i| hidden.row(i).to_vec()).collect();
    (sequence, rows)
}

/// Compares a golden of an encoder-decoder; returns what differs.
pub fn check_seq2seq(engine: &mut Engine, golden: &Value) -> Result<(), String> {
    let atol = golden["suggested_atol"].as_f64().unwrap();
    for sequence in golden["sequences"].as_array().unwrap() {
        let name = sequence["name"].as_str().unwrap();
        let source = ids(&sequence["encoder_input_ids"]);
        let input = ids(&sequence["decoder_input_ids"]);
        let expected_greedy = ids(&sequence["greedy"]);
        let (seq, hidden) = encoded(engine, &source);
        let mean = column_means(&hidden);
        for (key, found) in [
            ("encoder_hidden_first", &hidden[0]),
            ("encoder_hidden_last", &hidden[hidden.len() - 1]),
            ("encoder_hidden_mean", &mean),
        ] {
            close(&format!("{name}: {key}"), found, &sequence[key], atol)?;
        }
        let (rows, _) = continue_greedily(engine, seq, &input, 1);
        check_logits(sequence, &rows, atol)?;
        // The recorded continuation begins with nothing but the start.
        let (seq, _) = encoded(engine, &source);
        let (_, greedy) = continue_greedily(engine, seq, &input[..1], expected_greedy.len());
        if greedy != expected_greedy {
            return Err(format!(
                "{name}: greedy ids are {greedy:?}, expected {expected_greedy:?}"
            ));
        }
    }
    Ok(())
}

fn column_means(rows: &[impl AsRef<[f32]>]) -> Vec<f32> {
    let mean = |d: usize| {
        let sum: f64 = rows.iter().map(|r| f64::from(r.as_ref()[d])).sum();
        (sum / rows.len() as f64) as f32
    };
    (0..rows[0].as_ref().len()).map(mean).collect()
}

/// Whether `found` is what the golden says.
fn close(what: &str, found: &[f32], expected: &Value, atol: f64) -> Result<(), String> {
    let expected = numbers(expected);
    if found.len() != expected.len() {
        return Err(format!(
            "{what}: {} values, expected {}",
            found.len(),
            expected.len()
        ));
    }
    let far = |(f, e): (&f32, &f64)| (f64::from(*f) - e).abs();
    let worst = found.iter().zip(&expected).map(far).fold(0.0, f64::max);
    if worst.is_nan() || worst > atol {
        return Err(format!(
            "{what} differs by {worst:.2e}, tolerance {atol:.2e}"
        ));
    }
    Ok(())
}

/// Compares a golden of hidden vectors; returns what differs.
pub fn check_encoder(engine: &mut Engine, golden: &Value) -> Result<(), String> {
    let atol = golden["suggested_atol"].as_f64().unwrap();
    let pooling = match golden["pooling"].as_str().unwrap() {
        "cls" => Pooling::Cls,
        "mean" => Pooling::Mean,
        "last" => Pooling::Last,
        other => panic!("pooling {other}"),
    };
    let known = engine.model().spec().embedding.as_ref();
    if known.and_then(|e| e.pooling) != Some(pooling) {
        return Err(format!("pooling is {known:?}, expected {pooling:?}"));
    }
    for sequence in golden["sequences"].as_array().unwrap() {
        let name = sequence["name"].as_str().unwrap();
        let options = Options {
            pooling: None,
            normalize: false,
            context: 4096,
            chunk: 16,
        };
        let input = ids(&sequence["input_ids"]);
        let text = embed(engine, &input, &options).unwrap();
        let rows: Vec<&[f32]> = text.hidden.chunks(text.width).collect();
        let mean = column_means(&rows);
        let at = |what: &str| format!("{name}: {what}");
        close(
            &at("hidden_first"),
            rows[0],
            &sequence["hidden_first"],
            atol,
        )?;
        let last = rows[rows.len() - 1];
        close(&at("hidden_last"), last, &sequence["hidden_last"], atol)?;
        close(&at("hidden_mean"), &mean, &sequence["hidden_mean"], atol)?;
        for head in sequence["head4"].as_array().into_iter().flatten() {
            let pos = head["pos"].as_u64().unwrap() as usize;
            let values = head.get("values").or(head.get("vals")).unwrap();
            close(
                &at(&format!("position {pos}")),
                &rows[pos][..4],
                values,
                atol,
            )?;
        }
        for (key, n) in [("hidden_all", text.width), ("hidden_all_head4", 4)] {
            let all = sequence[key].as_array().into_iter().flatten();
            for (pos, expected) in all.enumerate() {
                let what = at(&format!("{key} at position {pos}"));
                close(&what, &rows[pos][..n], expected, atol)?;
            }
        }
        let raw = &sequence["embedding_raw"];
        close(&at("embedding_raw"), &text.embedding, raw, atol)?;
        let options = Options {
            normalize: true,
            chunk: 4096,
            ..options
        };
        let again = embed(engine, &input, &options).unwrap();
        let unit = &sequence["embedding_normalized"];
        close(&at("embedding_normalized"), &again.embedding, unit, atol)?;
        if again.hidden != text.hidden {
            return Err(at("the bits depend on the chunks"));
        }
        if let Some(expected) = sequence.get("pooler_output") {
            let found = text.pooler.unwrap_or_default();
            close(&at("pooler_output"), &found, expected, atol)?;
        }
    }
    Ok(())
}

/// The model type of a configuration, if the importer knows it.
pub fn known(config: &Path) -> Option<String> {
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let model_type = config["model_type"].as_str().unwrap().to_owned();
    let families = quern_models::FAMILIES.iter().flat_map(|f| f.model_types);
    families
        .into_iter()
        .any(|t| *t == model_type)
        .then_some(model_type)
}

fn check_folder(folder: &Path, golden: &Value) -> Result<(), String> {
    let file = import_folder(folder, Quant::Keep).map_err(|e| format!("import: {e}"))?;
    match golden["kind"].as_str().unwrap() {
        "causal" => check_causal(&mut engine(file, 2), golden),
        "encoder" => check_encoder(&mut engine(file, 2), golden),
        "seq2seq" => check_seq2seq(&mut engine(file, 2), golden),
        kind => Err(format!("no comparison for {kind} goldens")),
    }
}

/// The values of a golden.
pub fn read_golden(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap()
}

/// The folders of goldens in a folder, by name.
pub fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|p| p.join("golden.json").exists()).collect();
    found.sort();
    found
}

#[test]
fn every_known_family_gives_the_golden_values_in_both_configuration_styles() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut compared, mut unknown, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for folder in subfolders(&goldens()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if known(&folder.join("config.json")).is_none() {
            unknown.push(name);
            continue;
        }
        let golden = read_golden(&folder);
        for legacy in [false, true] {
            let out = scratch.path().join(format!("{name}-{legacy}"));
            if materialise(&folder, &out, legacy)
                && let Err(e) = check_folder(&out, &golden)
            {
                wrong.push(format!(
                    "{name}{}: {e}",
                    if legacy { " (older style)" } else { "" }
                ));
            }
        }
        compared.push(name);
    }
    println!(
        "{} goldens compared; {} of families that are not known yet: {}",
        compared.len(),
        unknown.len(),
        unknown.join(" ")
    );
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    for must in [
        "llama_mha",
        "llama_gqa_tied",
        "llama_mqa_bias_hd",
        "llama_rope_dynamic",
        "llama_rope_yarn",
        "mistral_swa",
    ] {
        assert!(
            compared.iter().any(|name| name == must),
            "{must} was not compared"
        );
    }
}

/// The larger goldens with real tokenizers, where the shared folder is there.
#[test]
fn the_large_goldens_agree_too() {
    let Some(folder) = shared("golden") else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for from in subfolders(&folder) {
        if known(&from.join("config.json")).is_none() {
            continue;
        }
        let golden = read_golden(&from);
        let name = from.file_name().unwrap().to_string_lossy().into_owned();
        for config in ["config.json", "config_legacy.json"] {
            if !from.join(config).exists() {
                continue;
            }
            let out = scratch.path().join(&name).join(config);
            std::fs::create_dir_all(&out).unwrap();
            std::fs::copy(from.join(config), out.join("config.json")).unwrap();
            copy_beside(&from, &out);
            compared += 1;
            if let Err(e) = check_folder(&out, &golden) {
                wrong.push(format!("{name} ({config}): {e}"));
            }
        }
    }
    println!("{compared} large goldens compared");
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(compared > 0);
}

/// A text model inside a checkpoint of a model that also sees and hears, in the form in which such checkpoints are published: other names,
/// the configuration one level down, widths of full layers by keys of their own, tensors of layers that do not use them.
#[test]
fn the_text_part_of_a_larger_checkpoint_is_the_same_model() {
    for (name, outer) in [
        ("gemma3n_text", "gemma3n"),
        ("gemma4_text_moe", "gemma4"),
        ("gemma4_text_ple", "gemma4"),
    ] {
        let (from, scratch) = (goldens().join(name), tempfile::tempdir().unwrap());
        let json = |file: &str| -> Value {
            serde_json::from_slice(&std::fs::read(from.join(file)).unwrap()).unwrap()
        };
        let mut text = json("config.json");
        if let Some(layers) = text.as_object_mut().unwrap().remove("per_layer_config") {
            text["global_head_dim"] = layers["1"]["head_dim"].clone();
            let kv_heads = layers["1"].get("num_key_value_heads");
            text["num_global_key_value_heads"] = kv_heads.cloned().unwrap_or(Value::Null);
        }
        let config = serde_json::json!({
            "model_type": outer, "text_config": text, "vision_config": {"hidden_size": 8},
            "audio_config": {"hidden_size": 8}, "image_token_id": 7, "audio_token_id": 8
        });
        let mut weights = json("weights.json");
        let tensors = weights["tensors"].as_array_mut().unwrap();
        for tensor in tensors.iter_mut() {
            let own = tensor["name"].as_str().unwrap().to_owned();
            let below = own.strip_prefix("model.").unwrap();
            tensor["name"] = format!("model.language_model.{below}").into();
            tensor["key"] = own.into();
        }
        let mut others = vec!["vision_tower.patch", "embed_audio.norm"];
        if name != "gemma4_text_moe" {
            others.push("language_model.layers.5.self_attn.k_proj");
        }
        for other in others {
            tensors.push(
                serde_json::json!({"name": format!("model.{other}.weight"), "shape": [4],
                "dtype": "F32", "recipe": {"kind": "constant", "value": 1.0}}),
            );
        }
        let folder = scratch.path().join("compact");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::write(folder.join("weights.json"), weights.to_string()).unwrap();
        let out = scratch.path().join("folder");
        assert!(materialise(&folder, &out, false));
        if let Err(e) = check_folder(&out, &read_golden(&from)) {
            panic!("{name}: {e}");
        }
    }
}

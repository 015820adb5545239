//! A model of made-up weights in memory, so that the speed of its shape can be measured without downloading it.
//!
//! Every matrix is filled with panels of random numbers in the asked format, vectors with values that keep what is computed ordinary (finite, not
//! subnormal): speed does not depend on the values, but for experts, which must be chosen about equally often. A few different panels repeat; a matrix of
//! several megabytes is read from memory all the same.

use crate::bytes::{AlignedBytes, Bytes};
use crate::error::{Result, out_of_memory};
use crate::file::meta::key;
use crate::file::{Meta, ModelFile, Value, Writer, WriterPlan};
use crate::tensor::Matrix;
use quern_kernels::{Format, PANEL_ROWS};
use quern_models::Spec;
use quern_models::spec::{Role, Shape, TensorKey};
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

/// Random values that are made per matrix shape, at most: making all of them would take longer than measuring.
const POOL: usize = 1 << 20;

/// Numbers in -1..1, from a linear congruential generator.
pub struct Noise(u64);

impl Noise {
    /// A stream of its own for every seed.
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

impl Iterator for Noise {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        Some((self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    }
}

/// Bytes of the weight file that the Spec has with all matrices in that format.
///
/// # Errors
/// Invalid if there is no such file: it would be too large.
pub fn file_bytes(spec: &Spec, format: Format) -> Result<u64> {
    Ok(Writer::new(
        Cursor::new(Vec::new()),
        Path::new("memory"),
        plan("", spec, format),
    )?
    .file_length())
}

fn plan(name: &str, spec: &Spec, format: Format) -> WriterPlan {
    let mut meta = Meta::new();
    meta.set(key::NAME, Value::String(name.to_owned()));
    WriterPlan::new(spec.clone(), meta, |_| format)
}

/// The file, in private memory; `progress` is told how many tensors are done, of how many.
///
/// # Errors
/// Limit if memory does not suffice (known before anything is made); Invalid for a Spec that is none.
pub fn model(
    name: &str,
    spec: &Spec,
    format: Format,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ModelFile> {
    let length = file_bytes(spec, format)?;
    let what = format!("{name} in {}", format.name());
    let size = usize::try_from(length).map_err(|_| out_of_memory(&what, usize::MAX))?;
    super::require_memory(&what, size)?;
    let mut bytes = AlignedBytes::zeroed(size, &what)?;
    let sink = Cursor::new(bytes.as_mut());
    let mut writer = Writer::new(sink, Path::new("memory"), plan(name, spec, format))?;
    let tensors = spec.tensors();
    let mut done = 0;
    let mut pools: Vec<((Format, u32), Vec<u8>)> = Vec::new();
    for tensor in &tensors {
        match tensor.shape {
            Shape::Vector(n) => writer.write_vector(&vector(tensor.key, n as usize))?,
            Shape::Matrix { count, rows, cols } => {
                let known = pools.iter().position(|(of, _)| *of == (format, cols));
                let at = known.unwrap_or_else(|| {
                    pools.push(((format, cols), pool(format, cols as usize)));
                    pools.len() - 1
                });
                let panels = u64::from(count) * u64::from(rows.div_ceil(PANEL_ROWS as u32));
                write_panels(&mut writer, &pools[at].1, format, (rows, cols), panels)?;
            }
        }
        done += 1;
        progress(done, tensors.len());
    }
    writer.seal()?;
    ModelFile::from_bytes(Arc::new(bytes))
}

/// `copies` matrices of random values one after another in memory, each for itself.
///
/// # Errors
/// Limit if memory does not suffice.
pub fn matrices(format: Format, rows: usize, cols: usize, copies: usize) -> Result<Vec<Matrix>> {
    let what = format!("{copies} matrices of {rows} x {cols} in {}", format.name());
    let sizes = format.matrix_bytes(rows, cols);
    let sizes = sizes.and_then(|one| Some((one, one.checked_mul(copies)?)));
    let (one, all) = sizes.ok_or_else(|| out_of_memory(&what, usize::MAX))?;
    super::require_memory(&what, all)?;
    let mut bytes = AlignedBytes::zeroed(all, &what)?;
    let pool = pool(format, cols);
    for part in bytes.as_mut().chunks_mut(pool.len().max(1)) {
        part.copy_from_slice(&pool[..part.len()]);
    }
    let bytes = Bytes::new(Arc::new(bytes));
    let part = |i: usize| bytes.slice(i * one..(i + 1) * one);
    let parts = (0..copies).map(|i| part(i).ok_or_else(|| out_of_memory(&what, all)));
    parts
        .map(|part| Matrix::new(format, 1, rows, cols, part?))
        .collect()
}

/// Panels of random values, one after another.
fn pool(format: Format, cols: usize) -> Vec<u8> {
    let panels = (POOL / (PANEL_ROWS * cols.max(1))).clamp(4, 64);
    let panel_bytes = format.panel_bytes(cols).unwrap_or(0);
    let mut pool = vec![0; panels * panel_bytes];
    // Variance 1 / columns: a product has the size of what goes into it.
    let scale = (3.0 / cols.max(1) as f32).sqrt();
    let mut noise = Noise::new(cols as u64).map(|x| x * scale);
    let mut values = Vec::with_capacity(PANEL_ROWS * cols);
    for panel in pool.chunks_exact_mut(panel_bytes.max(1)) {
        values.clear();
        values.extend(noise.by_ref().take(PANEL_ROWS * cols));
        format.pack_panel(&values, PANEL_ROWS, cols, panel);
    }
    pool
}

/// Writes a matrix of so many panels from the pool; the last panel of a matrix that is no multiple of a panel high has fewer rows.
fn write_panels<W: Write + std::io::Seek>(
    writer: &mut Writer<W>,
    pool: &[u8],
    format: Format,
    (rows, cols): (u32, u32),
    panels: u64,
) -> Result<()> {
    let cols = cols as usize;
    let panel_bytes = format.panel_bytes(cols).unwrap_or(0).max(1);
    let last_rows = rows as usize % PANEL_ROWS;
    let mut cut = vec![0; panel_bytes];
    if last_rows > 0 {
        let values: Vec<f32> = Noise::new(rows.into()).take(last_rows * cols).collect();
        format.pack_panel(&values, last_rows, cols, &mut cut);
    }
    let per_matrix = u64::from(rows.div_ceil(PANEL_ROWS as u32));
    let in_pool = (pool.len() / panel_bytes) as u64;
    let mut at = 0;
    while at < panels {
        // As many whole panels as the pool and the matrix have in a row.
        let whole = per_matrix - u64::from(last_rows > 0);
        let in_matrix = at % per_matrix;
        if in_matrix >= whole {
            writer.write_tensor_chunk(&cut)?;
            at += 1;
            continue;
        }
        let first = at % in_pool;
        let n = (in_pool - first).min(whole - in_matrix);
        let range = first as usize * panel_bytes..(first + n) as usize * panel_bytes;
        writer.write_tensor_chunk(&pool[range])?;
        at += n;
    }
    writer.finish_tensor()
}

/// Values of a vector that keep activations ordinary.
fn vector(key: TensorKey, n: usize) -> Vec<f32> {
    let noise = Noise::new(u64::from(key.layer) << 16 | u64::from(key.role.code()));
    match key.role {
        // Weights of norms, and gains.
        Role::PreNorm
        | Role::PostNorm
        | Role::FinalNorm
        | Role::EmbedNorm
        | Role::AttnQNorm
        | Role::AttnKNorm
        | Role::StreamNorm
        | Role::LatentQueryNorm
        | Role::LatentKvNorm
        | Role::GateNorm
        | Role::RouterNorm
        | Role::PerLayerNorm
        | Role::StreamRouterNorm
        | Role::RouterExpertScales
        | Role::Skip => vec![1.0; n],
        // States decay.
        Role::Rate => vec![-1.0; n],
        Role::StepBias => vec![-3.0; n],
        // What experts are chosen by is as wide as what a norm lets through.
        _ => noise.map(|x| 0.05 * x).take(n).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Engine, Model, Step, Wanted};
    use crate::par::Team;
    use quern_kernels::KvType;

    fn small(model_type: &str, more: serde_json::Value) -> Spec {
        let mut config = serde_json::json!({"model_type": model_type, "vocab_size": 300, "hidden_size": 72, "intermediate_size": 100,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 18, "max_position_embeddings": 64,
            "tie_word_embeddings": true});
        let config = config.as_object_mut().unwrap();
        config.extend(more.as_object().unwrap().clone());
        quern_models::shapes::spec("test", config).unwrap()
    }

    #[test]
    fn made_up_models_of_every_format_are_valid_files_and_run() {
        let dense = small("llama", serde_json::json!({}));
        let experts = small(
            "mixtral",
            serde_json::json!({"num_local_experts": 4, "num_experts_per_tok": 2}),
        );
        for spec in [dense, experts] {
            for format in Format::ALL {
                let mut told = 0;
                let file = model("made", &spec, format, &mut |done, all| {
                    assert!(done <= all);
                    told = done;
                })
                .unwrap();
                assert!(told > 0);
                assert_eq!(file.len(), file_bytes(&spec, format).unwrap());
                crate::file::verify::verify(&file, 1, &|_| ()).unwrap();
                let model = Arc::new(Model::bind(Arc::new(file)).unwrap());
                let mut seq = model.new_sequence(KvType::F16);
                let team = Team::new(1).unwrap();
                let mut engine = Engine::new(model, quern_kernels::best(), team);
                let step = Step {
                    seq: &mut seq,
                    tokens: &[1, 7, 299],
                    wanted: Wanted::Last,
                };
                let mut steps = [step];
                let logits = engine.forward(&mut steps).unwrap();
                let row = logits.row(0);
                assert!(row.iter().all(|x| x.is_finite() && x.abs() < 1e4));
                assert!(row.iter().any(|x| x.abs() > 1e-3));
            }
        }
    }

    #[test]
    fn a_model_that_does_not_fit_is_refused_before_it_is_made() {
        let mut spec = small("llama", serde_json::json!({}));
        spec.vocab_size = 1 << 24;
        spec.hidden = 1 << 18;
        let Err(e) = model("huge", &spec, Format::F32, &mut |_, _| ()) else {
            panic!("no machine has that much memory");
        };
        assert_eq!(e.exit_code(), 5, "{e}");
        assert!(e.to_string().contains("huge in f32"), "{e}");
    }
}

//! What several test modules need: small models made from a formula (`tiny` is one with a tokenizer, in a file; `script` one that says
//! what it is told), and running the program, also on a terminal.

pub mod program;
pub mod script;
pub mod terminal;
pub mod tiny;

use quern::bytes::AlignedBytes;
use quern::file::{Meta, ModelFile, Writer, WriterPlan};
use quern::tokenizer::ModelOptions;
use quern_kernels::{Format, PANEL_ROWS};
use quern_models::rope::{Rope, default_inv_freq};
use quern_models::spec::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A part of the reference data, if this machine has it.
pub fn shared(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("QUERN_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {path:?} does not exist (set QUERN_SHARED)");
    None
}

/// Pairs of bytes, as GPT-2 has them.
pub fn byte_level() -> ModelOptions {
    ModelOptions::Bpe {
        byte_level: true,
        ignore_merges: false,
        byte_fallback: false,
        fuse_unk: false,
        unk: None,
        prefix: String::new(),
        suffix: String::new(),
        late_unk: false,
    }
}

/// Sizes of a small llama-shaped model.
#[derive(Clone, Copy)]
pub struct Small {
    /// Rows of the embedding.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the feed-forward network.
    pub inner: u32,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Sliding window of every second layer.
    pub window: Option<u32>,
    /// Positions.
    pub context: u32,
}

impl Default for Small {
    fn default() -> Self {
        Small {
            vocab: 300,
            hidden: 72,
            inner: 100,
            layers: 3,
            heads: 6,
            kv_heads: 2,
            head_dim: 24,
            window: None,
            context: 4096,
        }
    }
}

/// The Spec of those sizes.
pub fn small_spec(s: Small) -> Spec {
    let norm = Norm {
        kind: NormKind::Rms,
        eps: 1e-5,
        weight: true,
        bias: false,
    };
    let block = |op| Block::pre_norm(norm.clone(), op);
    let layer = |i: usize| Layer {
        blocks: vec![
            block(Op::Attention(Attention {
                q_bias: true,
                kv_bias: true,
                o_bias: true,
                rope: Some(0),
                mask: s
                    .window
                    .filter(|_| i.is_multiple_of(2))
                    .map_or(Mask::Causal, Mask::Sliding),
                ..Attention::new(s.heads, s.kv_heads, s.head_dim)
            })),
            block(Op::Dense(Dense::gated(s.inner, Activation::Silu))),
        ],
    };
    Spec {
        vocab_size: s.vocab,
        hidden: s.hidden,
        context_length: s.context,
        embed: Embed::scaled(1.0),
        ropes: vec![Rope::Fixed {
            inv_freq: default_inv_freq(s.head_dim as usize, 1e4),
            factor: 1.0,
        }],
        encoder: None,
        decoder: Stack {
            layers: (0..s.layers).map(layer).collect(),
            streams: None,
            final_norm: Some(norm.clone()),
        },
        head: Some(Head {
            tied: false,
            bias: false,
            scale: 1.0,
            softcap: None,
            width: None,
        }),
        embedding: None,
    }
}

/// Value i of a tensor: uniform in -1..1 from a hash of the tensor's name and i.
fn noise(name: &str, i: u64) -> f32 {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z >> 40) as f32) / (1 << 23) as f32 - 1.0
}

/// The bytes of a `.quern` file with that Spec, formula weights, matrices in `format`, and a prepared tokenizer (may be empty).
pub fn model_bytes(spec: &Spec, format: Format, meta: Meta, tokenizer: Vec<u8>) -> Vec<u8> {
    let mut plan = WriterPlan::new(spec.clone(), meta, |_| format);
    plan.tokenizer = tokenizer;
    let mut writer = Writer::in_memory(plan).unwrap();
    for tensor in spec.tensors() {
        let name = tensor.key.to_string();
        match tensor.shape {
            Shape::Vector(n) => {
                let weight = matches!(
                    tensor.key.role,
                    Role::PreNorm | Role::PostNorm | Role::FinalNorm
                );
                let value = |i| {
                    if weight {
                        1.0 + 0.2 * noise(&name, i)
                    } else {
                        0.1 * noise(&name, i)
                    }
                };
                let values: Vec<f32> = (0..u64::from(n)).map(value).collect();
                writer.write_vector(&values).unwrap();
            }
            Shape::Matrix { count, rows, cols } => {
                let (rows, cols) = (rows as usize, cols as usize);
                let scale = 1.7 / (cols as f32).sqrt();
                let mut panel = vec![0; format.panel_bytes(cols).unwrap()];
                for m in 0..count as usize {
                    for first in (0..rows).step_by(PANEL_ROWS) {
                        let n = PANEL_ROWS.min(rows - first);
                        let start = ((m * rows + first) * cols) as u64;
                        let values: Vec<f32> = (0..(n * cols) as u64)
                            .map(|i| scale * noise(&name, start + i))
                            .collect();
                        format.pack_panel(&values, n, cols, &mut panel);
                        writer.write_tensor_chunk(&panel).unwrap();
                    }
                }
                writer.finish_tensor().unwrap();
            }
        }
    }
    writer.finish().unwrap()
}

/// The same, open.
pub fn small_model(s: Small, format: Format) -> Arc<ModelFile> {
    let bytes = model_bytes(&small_spec(s), format, Meta::new(), Vec::new());
    Arc::new(ModelFile::from_bytes(Arc::new(AlignedBytes::copy_of(&bytes).unwrap())).unwrap())
}

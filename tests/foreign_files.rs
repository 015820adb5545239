//! Writers of foreign formats for tests: GGUF and llama2.c files, valid or broken on purpose.

use crate::ggml;
use half::f16;
use quern_kernels::Format;

/// A GGUF file in the making; nothing is checked.
#[derive(Clone, Default)]
pub struct GgufWriter {
    /// Header fields that are written instead of the right ones.
    pub version: Option<u32>,
    /// Replaces the number of records.
    pub n_kv: Option<u64>,
    /// Replaces the number of tensors.
    pub n_tensors: Option<u64>,
    kv: Vec<u8>,
    kv_count: u64,
    infos: Vec<u8>,
    info_count: u64,
    data: Vec<u8>,
    alignment: usize,
}

pub fn gguf_string(s: &[u8]) -> Vec<u8> {
    let mut out = (s.len() as u64).to_le_bytes().to_vec();
    out.extend(s);
    out
}

impl GgufWriter {
    /// No records, no tensors.
    pub fn new() -> Self {
        GgufWriter {
            alignment: 32,
            ..GgufWriter::default()
        }
    }

    /// A record from its type and the bytes of its value.
    pub fn raw(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
        self.kv.extend(gguf_string(key));
        self.kv.extend(kind.to_le_bytes());
        self.kv.extend(value);
        self.kv_count += 1;
        self
    }

    /// A string.
    pub fn str(self, key: &str, value: &str) -> Self {
        self.raw(key.as_bytes(), 8, &gguf_string(value.as_bytes()))
    }

    /// A u32.
    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key.as_bytes(), 4, &value.to_le_bytes())
    }

    /// An f32.
    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key.as_bytes(), 6, &value.to_le_bytes())
    }

    /// An array from the type of its elements.
    pub fn array(self, key: &str, kind: u32, count: u64, values: &[u8]) -> Self {
        let mut v = kind.to_le_bytes().to_vec();
        v.extend(count.to_le_bytes());
        v.extend(values);
        self.raw(key.as_bytes(), 9, &v)
    }

    /// An entry of the tensor table and nothing else; `dims` innermost first.
    pub fn info(mut self, name: &[u8], dims: &[u64], kind: u32, offset: u64) -> Self {
        self.infos.extend(gguf_string(name));
        self.infos.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.infos.extend(d.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self.info_count += 1;
        self
    }

    /// A tensor with its data.
    pub fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Self {
        let offset = self.data.len().next_multiple_of(self.alignment);
        self.data.resize(offset, 0);
        self.data.extend(data);
        self.info(name.as_bytes(), dims, kind, offset as u64)
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.info_count).to_le_bytes());
        out.extend(self.n_kv.unwrap_or(self.kv_count).to_le_bytes());
        out.extend(&self.kv);
        out.extend(&self.infos);
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

/// Sizes of the llama that [`llama_gguf`] and [`llama2c`] write.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub dim: u32,
    /// Width of the feed-forward network.
    pub inner: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Rows of the embedding.
    pub vocab: u32,
}

/// Two heads of 16 on one key head: the smallest that has everything.
pub const TINY: Sizes = Sizes {
    dim: 32,
    inner: 64,
    layers: 1,
    heads: 2,
    kv_heads: 1,
    vocab: 40,
};

/// The records of a llama.
pub fn llama_metadata(s: Sizes) -> GgufWriter {
    GgufWriter::new()
        .str("general.architecture", "llama")
        .str("general.name", "tiny")
        .u32("llama.block_count", s.layers)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", s.dim)
        .u32("llama.feed_forward_length", s.inner)
        .u32("llama.attention.head_count", s.heads)
        .u32("llama.attention.head_count_kv", s.kv_heads)
        .u32("llama.rope.dimension_count", s.dim / s.heads)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
}

/// Names, rows and columns of a llama in GGUF terms; one column: a vector.
pub fn llama_shapes(s: Sizes) -> Vec<(String, u32, u32)> {
    let kv = s.dim / s.heads * s.kv_heads;
    let mut out = vec![("token_embd.weight".to_owned(), s.vocab, s.dim)];
    for l in 0..s.layers {
        for (part, rows, cols) in [
            ("attn_norm", s.dim, 1),
            ("attn_q", s.dim, s.dim),
            ("attn_k", kv, s.dim),
            ("attn_v", kv, s.dim),
            ("attn_output", s.dim, s.dim),
            ("ffn_norm", s.dim, 1),
            ("ffn_gate", s.inner, s.dim),
            ("ffn_up", s.inner, s.dim),
            ("ffn_down", s.dim, s.inner),
        ] {
            out.push((format!("blk.{l}.{part}.weight"), rows, cols));
        }
    }
    out.push(("output_norm.weight".to_owned(), s.dim, 1));
    out.push(("output.weight".to_owned(), s.vocab, s.dim));
    out
}

/// Value i of a tensor: between -1 and 1, from a hash of name and i.
pub fn value(name: &str, i: u64) -> f32 {
    let mut z = name.bytes().fold(i ^ 0x51_7cc1_b727_220a, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    z ^= z >> 29;
    z = z.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((z >> 40) as f32) / (1u32 << 23) as f32 - 1.0
}

/// A GGUF element type and the bytes of values in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    /// The type that this format holds.
    Blocks(Format),
}

impl Kind {
    /// The number in the file.
    pub fn code(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Q4_0 => 2,
            Kind::Q8_0 => 8,
            Kind::Bf16 => 30,
            Kind::Blocks(format) => ggml::code(format),
        }
    }

    /// A row in this type. For the block types codes are taken from the values' bits and scales from their magnitude: any valid
    /// block will do, what counts is that it survives.
    pub fn encode(self, row: &[f32]) -> Vec<u8> {
        let bf16 = |v: f32| (v.to_bits() >> 16) as u16;
        let scale = |b: &[f32]| f16::from_f32(b[0] * 0.01).to_le_bytes();
        match self {
            Kind::F32 => row.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Kind::F16 => row
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
            Kind::Bf16 => row.iter().flat_map(|v| bf16(*v).to_le_bytes()).collect(),
            Kind::Q8_0 => row
                .chunks(32)
                .flat_map(|b| {
                    let codes = b.iter().map(|v| v.to_bits() as u8);
                    scale(b).into_iter().chain(codes).collect::<Vec<u8>>()
                })
                .collect(),
            Kind::Q4_0 => row
                .chunks(32)
                .flat_map(|b| {
                    let codes = b[..16].iter().map(|v| v.to_bits() as u8);
                    scale(b).into_iter().chain(codes).collect::<Vec<u8>>()
                })
                .collect(),
            Kind::Blocks(format) => {
                let (cols, bytes) = ggml::size(format);
                assert!(row.len().is_multiple_of(cols), "{} columns", row.len());
                let block = |b: &[f32]| {
                    let mut block: Vec<u8> = (0..bytes)
                        .map(|i| (b[i % cols].to_bits() >> (3 + i / cols)) as u8)
                        .collect();
                    for &at in ggml::halves(format) {
                        let small = f16::from_f32(b[at % cols] * 0.002);
                        block[at..at + 2].copy_from_slice(&small.to_le_bytes());
                    }
                    if format == Format::Mxfp4 {
                        block[0] = 120 + block[0] % 4;
                    }
                    block
                };
                row.chunks(cols).flat_map(block).collect()
            }
        }
    }

    /// The values of such a row, from the definition of the type.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        match self {
            Kind::F32 => bytes
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            Kind::F16 => bytes.chunks(2).map(half).collect(),
            Kind::Bf16 => bytes
                .chunks(2)
                .map(|b| f32::from_le_bytes([0, 0, b[0], b[1]]))
                .collect(),
            Kind::Q8_0 => bytes
                .chunks(34)
                .flat_map(|b| {
                    let d = half(b);
                    b[2..].iter().map(move |&c| d * f32::from(c as i8))
                })
                .collect(),
            Kind::Q4_0 => bytes
                .chunks(18)
                .flat_map(|b| {
                    let d = half(b);
                    let codes = (0..32).map(move |i| (b[2 + i % 16] >> (4 * (i / 16))) & 15);
                    codes
                        .map(move |c| d * (f32::from(c) - 8.0))
                        .collect::<Vec<f32>>()
                })
                .collect(),
            Kind::Blocks(format) => bytes
                .chunks(ggml::size(format).1)
                .flat_map(|b| ggml::decode(format, b))
                .flat_map(|sub| sub.values(format))
                .collect(),
        }
    }
}

/// The values of a tensor of [`llama_gguf`]; norms are near one.
pub fn llama_values(name: &str, rows: u32, cols: u32) -> Vec<f32> {
    let n = u64::from(rows) * u64::from(cols);
    let shift = if cols == 1 { 1.0 } else { 0.0 };
    (0..n).map(|i| shift + 0.25 * value(name, i)).collect()
}

/// Adds all tensors of a llama, matrices in `kind`, to its records.
pub fn llama_gguf(records: GgufWriter, s: Sizes, kind: Kind) -> GgufWriter {
    llama_shapes(s)
        .iter()
        .fold(records, |w, (name, rows, cols)| {
            let values = llama_values(name, *rows, *cols);
            if *cols == 1 {
                return w.tensor(name, &[u64::from(*rows)], 0, &Kind::F32.encode(&values));
            }
            let bytes: Vec<u8> = values
                .chunks(*cols as usize)
                .flat_map(|row| kind.encode(row))
                .collect();
            w.tensor(name, &[(*cols).into(), (*rows).into()], kind.code(), &bytes)
        })
}

/// A llama2.c file of the given version with the values of [`llama_values`]; version 2 in groups of `group`, with scales that are a power of
/// two if `exact`.
pub fn llama2c(s: Sizes, version: u32, shared: bool, group: u32, exact: bool) -> Vec<u8> {
    let vocab = if version == 0 && !shared {
        -(s.vocab as i32)
    } else {
        s.vocab as i32
    };
    let numbers = [s.dim, s.inner, s.layers, s.heads, s.kv_heads].map(|v| v as i32);
    let words = numbers.into_iter().chain([vocab, 64]);
    let mut out = Vec::new();
    if version > 0 {
        out.extend(0x616b_3432u32.to_le_bytes());
        out.extend(version.to_le_bytes());
    }
    words.for_each(|w| out.extend(w.to_le_bytes()));
    if version > 0 {
        out.push(u8::from(shared));
        if version == 2 {
            out.extend(group.to_le_bytes());
        }
        out.resize(256, 0);
    }
    let shapes = llama_shapes(s);
    let all = |part: &str| -> Vec<(String, u32, u32)> {
        let suffix = format!("{part}.weight");
        let mine =
            |n: &str| n == suffix || (n.starts_with("blk.") && n.ends_with(&format!(".{suffix}")));
        shapes.iter().filter(|(n, ..)| mine(n)).cloned().collect()
    };
    let order: &[&str] = match version {
        0 => &[
            "token_embd",
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_down",
            "ffn_up",
            "output_norm",
            "tables",
            "output",
        ],
        _ => &[
            "attn_norm",
            "ffn_norm",
            "output_norm",
            "token_embd",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_down",
            "ffn_up",
            "output",
        ],
    };
    for part in order {
        if *part == "tables" {
            out.extend(vec![0x55; 64 * (s.dim / s.heads) as usize * 4]);
            continue;
        }
        if *part == "output" && shared {
            continue;
        }
        for (name, rows, cols) in all(part) {
            let values = llama_values(&name, rows, cols);
            if version < 2 || cols == 1 {
                values.iter().for_each(|v| out.extend(v.to_le_bytes()));
                continue;
            }
            let (codes, scales): (Vec<_>, Vec<_>) = values
                .chunks(group as usize)
                .map(|g| group_codes(g, exact))
                .unzip();
            codes.iter().for_each(|c| out.extend(c));
            scales.iter().for_each(|s| out.extend(s.to_le_bytes()));
        }
    }
    out
}

/// The bytes and the scale of one group.
pub fn group_codes(group: &[f32], exact: bool) -> (Vec<u8>, f32) {
    let most = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = if exact { 2.0f32.powi(-8) } else { most / 127.0 };
    let code = |v: &f32| (v / scale).round().clamp(-127.0, 127.0) as i8 as u8;
    (group.iter().map(code).collect(), scale)
}

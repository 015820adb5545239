//! Checkpoints of llama2.c: three headers, and tensors without names in a fixed order.
//!
//! ```text
//! v0:    i32 dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative: own classifier), seq_len; then f32 tensors
//! v1/v2: u32 "ak42", i32 version, the seven numbers (vocab_size positive), u8 shared classifier, v2: i32 group size;
//!        zeros up to byte 256; v1: f32 tensors; v2: f32 norms, then each matrix as i8 values and f32 scales per group
//! ```

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

/// How a tensor of a checkpoint is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// f32 values.
    F32,
    /// i8 values, then one f32 scale for every group of so many values.
    Q8(u32),
}

/// One tensor of a checkpoint, or a stretch of bytes that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name in a Hugging Face folder; none for the rotary tables of version 0.
    pub name: Option<String>,
    /// The shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// How it is stored.
    pub encoding: Encoding,
}

impl Part {
    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        let n: u64 = self.shape.iter().product();
        match self.encoding {
            Encoding::F32 => 4 * n,
            Encoding::Q8(group) => n + 4 * (n / u64::from(group)),
        }
    }
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 0, 1 or 2.
    pub version: u32,
    /// Bytes before the first tensor.
    pub len: u64,
    dim: u64,
    hidden_dim: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    vocab: u64,
    seq_len: u64,
    shared: bool,
    group: u32,
}

/// Receives the parts one by one: name, shape, encoding.
type Visit<'a> = dyn FnMut(Option<&str>, &[u64], Encoding) + 'a;

/// "ak42", little-endian.
pub const MAGIC: u32 = 0x616b_3432;
/// Bytes that [`Header::parse`] wants to see, or the whole file where it is shorter.
pub const HEADER_BYTES: usize = 256;

impl Header {
    /// Reads and bounds the header at the start of a file.
    ///
    /// # Errors
    /// Names the field, its value and what was expected.
    pub fn parse(bytes: &[u8]) -> Result<Header> {
        let word = |i: usize| -> Result<i32> {
            bytes
                .get(4 * i..4 * i + 4)
                .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .ok_or_else(|| {
                    Error::new(format_args!(
                        "the header ends at byte {}, expected at least 28 bytes",
                        bytes.len()
                    ))
                })
        };
        let (version, first) = if word(0)? as u32 == MAGIC {
            match word(1)? {
                v @ (1 | 2) => (v as u32, 2),
                v => {
                    return Err(Error::new(format_args!(
                        "byte 4: version is {v}, expected 1 or 2"
                    )));
                }
            }
        } else {
            (0, 0)
        };
        let field = |i: usize, name: &str, max: u32| -> Result<u64> {
            let v = word(first + i)?;
            if v < 1 || v as u32 > max {
                return Err(Error::new(format_args!(
                    "byte {}: {name} is {v}, expected 1 to {max}",
                    4 * (first + i)
                )));
            }
            Ok(v as u64)
        };
        // The bounds of the Spec, so that no product below can wrap.
        let dim = field(0, "dim", 1 << 18)?;
        let hidden_dim = field(1, "hidden_dim", 1 << 20)?;
        let layers = field(2, "n_layers", 2048)?;
        let heads = field(3, "n_heads", 4096)?;
        let kv_heads = field(4, "n_kv_heads", heads as u32)?;
        let vocab = word(first + 5)?;
        let seq_len = field(6, "seq_len", 1 << 28)?;
        if vocab == 0 || vocab.unsigned_abs() > 1 << 24 || (version > 0 && vocab < 0) {
            return Err(Error::new(format_args!(
                "byte {}: vocab_size is {vocab}, expected 1 to {}",
                4 * (first + 5),
                1 << 24
            )));
        }
        if dim % heads != 0 || heads % kv_heads != 0 {
            return Err(Error::new(format_args!(
                "byte {}: n_heads is {heads}, expected a divisor of dim {dim} and a multiple of n_kv_heads {kv_heads}",
                4 * (first + 3)
            )));
        }
        let mut header = Header {
            version,
            len: 28,
            dim,
            hidden_dim,
            layers,
            heads,
            kv_heads,
            vocab: vocab.unsigned_abs().into(),
            seq_len,
            shared: vocab > 0,
            group: 0,
        };
        if version > 0 {
            let rest = bytes.get(36..HEADER_BYTES).ok_or_else(|| {
                Error::new(format_args!(
                    "the header ends at byte {}, expected {HEADER_BYTES} bytes",
                    bytes.len()
                ))
            })?;
            header.len = HEADER_BYTES as u64;
            header.shared = match rest[0] {
                0 => false,
                1 => true,
                v => {
                    return Err(Error::new(format_args!(
                        "byte 36: shared classifier is {v}, expected 0 or 1"
                    )));
                }
            };
            if version == 2 {
                let group = i32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]]);
                // Every matrix is a whole number of rows of dim or hidden_dim values.
                if group < 1 || dim % group as u64 != 0 || hidden_dim % group as u64 != 0 {
                    return Err(Error::new(format_args!(
                        "byte 37: group size is {group}, expected a divisor of dim {dim} and hidden_dim {hidden_dim}"
                    )));
                }
                header.group = group as u32;
            }
        }
        Ok(header)
    }

    /// The configuration in the keys of transformers. llama2.c fixes what the header does not say.
    pub fn config(&self) -> Map<String, Value> {
        let Value::Object(map) = json!({
            "model_type": "llama",
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.seq_len,
            // The f32 nearest to 1e-5, as a float in C.
            "rms_norm_eps": f64::from(1e-5f32),
            "rope_theta": 10000.0,
        }) else {
            unreachable!("an object literal")
        };
        map
    }

    /// Bytes of the whole file. No product can wrap: the header is bounded.
    pub fn file_len(&self) -> u128 {
        let (d, h, kv) = (self.dim, self.hidden_dim, self.kv_width());
        let per_layer = 2 * u128::from(d) * u128::from(d + kv) + 3 * u128::from(d) * u128::from(h);
        let classifiers = if self.shared { 1 } else { 2 };
        let matrices = u128::from(self.layers) * per_layer
            + classifiers * u128::from(self.vocab) * u128::from(d);
        let norms = (2 * u128::from(self.layers) + 1) * u128::from(d);
        let tables = u128::from(self.seq_len) * u128::from(d / self.heads / 2) * 2;
        let body = match self.version {
            0 => 4 * (matrices + norms + tables),
            1 => 4 * (matrices + norms),
            _ => 4 * norms + matrices + 4 * (matrices / u128::from(self.group)),
        };
        u128::from(self.len) + body
    }

    fn kv_width(&self) -> u64 {
        self.dim / self.heads * self.kv_heads
    }

    /// What follows the header, in file order. Call it once the file is known to be [`Header::file_len`] bytes long.
    pub fn parts(&self) -> Vec<Part> {
        let (d, h, kv) = (self.dim, self.hidden_dim, self.kv_width());
        let mut out = Vec::new();
        let mut one = |name: Option<&str>, shape: &[u64], encoding| {
            out.push(Part {
                name: name.map(str::to_owned),
                shape: shape.to_vec(),
                encoding,
            });
        };
        let layer = |part: &str, shape: &[u64], encoding, one: &mut Visit| {
            for l in 0..self.layers {
                one(
                    Some(&format!("model.layers.{l}.{part}.weight")),
                    shape,
                    encoding,
                );
            }
        };
        let f32 = Encoding::F32;
        let matrix = match self.version {
            2 => Encoding::Q8(self.group),
            _ => Encoding::F32,
        };
        const EMBED: &str = "model.embed_tokens.weight";
        if self.version > 0 {
            layer("input_layernorm", &[d], f32, &mut one);
            layer("post_attention_layernorm", &[d], f32, &mut one);
            one(Some("model.norm.weight"), &[d], f32);
        }
        one(Some(EMBED), &[self.vocab, d], matrix);
        if self.version == 0 {
            layer("input_layernorm", &[d], f32, &mut one);
        }
        layer("self_attn.q_proj", &[d, d], matrix, &mut one);
        layer("self_attn.k_proj", &[kv, d], matrix, &mut one);
        layer("self_attn.v_proj", &[kv, d], matrix, &mut one);
        layer("self_attn.o_proj", &[d, d], matrix, &mut one);
        if self.version == 0 {
            layer("post_attention_layernorm", &[d], f32, &mut one);
        }
        layer("mlp.gate_proj", &[h, d], matrix, &mut one);
        layer("mlp.down_proj", &[d, h], matrix, &mut one);
        layer("mlp.up_proj", &[h, d], matrix, &mut one);
        if self.version == 0 {
            one(Some("model.norm.weight"), &[d], f32);
            let table = [self.seq_len, d / self.heads / 2];
            one(None, &table, f32);
            one(None, &table, f32);
        }
        if !self.shared {
            one(Some("lm_head.weight"), &[self.vocab, d], matrix);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(words: [i32; 7]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn ak42(version: i32, words: [i32; 7], shared: u8, group: i32) -> Vec<u8> {
        let mut b = MAGIC.to_le_bytes().to_vec();
        b.extend(version.to_le_bytes());
        b.extend(header(words));
        b.push(shared);
        b.extend(group.to_le_bytes());
        b.resize(256, 0);
        b
    }

    const SMALL: [i32; 7] = [64, 172, 5, 8, 4, 512, 512];

    #[test]
    fn parts_add_up_to_the_file_length() {
        let mut own = SMALL;
        own[5] = -512;
        for bytes in [
            header(SMALL),
            header(own),
            ak42(1, SMALL, 1, 0),
            ak42(1, SMALL, 0, 0),
            ak42(2, SMALL, 0, 4),
        ] {
            let h = Header::parse(&bytes).unwrap();
            let sum: u64 = h.parts().iter().map(Part::bytes).sum();
            assert_eq!(u128::from(h.len + sum), h.file_len());
        }
        // The published stories260K.bin.
        assert_eq!(Header::parse(&header(SMALL)).unwrap().file_len(), 1_056_540);
    }

    #[test]
    fn hostile_headers() {
        for (i, v, word) in [
            (3, 0, "n_heads is 0"),
            (3, 7, "n_heads is 7"),
            (4, 0, "n_kv_heads is 0"),
            (4, 9, "n_kv_heads is 9"),
            (5, i32::MIN, "vocab_size is -2147483648"),
            (5, 0, "vocab_size is 0"),
            (2, i32::MAX, "n_layers is 2147483647"),
            (0, -64, "dim is -64"),
            (6, 0, "seq_len is 0"),
        ] {
            let mut words = SMALL;
            words[i] = v;
            let m = Header::parse(&header(words)).unwrap_err().to_string();
            assert!(m.contains(word), "{m}");
        }
        for len in 0..28 {
            Header::parse(&header(SMALL)[..len]).unwrap_err();
        }
        for (bytes, word) in [
            (ak42(3, SMALL, 1, 0), "version is 3"),
            (ak42(1, SMALL, 2, 0), "classifier is 2"),
            (ak42(2, SMALL, 1, 0), "group size is 0"),
            (ak42(2, SMALL, 1, 64), "group size is 64"),
            (ak42(1, SMALL, 1, 0)[..255].to_vec(), "255"),
        ] {
            let m = Header::parse(&bytes).unwrap_err().to_string();
            assert!(m.contains(word), "{m}");
        }
    }
}

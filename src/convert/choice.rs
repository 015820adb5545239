//! Which format a matrix is stored in: what `--quant` and `--quant-tensor` ask for, and what a format needs.
//!
//! A single format is asked for as itself, but q4k and q5k are mixes, as llama.cpp's Q4_K_M and Q5_K_M are: the embedding and the head are q6k, and so
//! are the values of attention and the last products of feed-forward networks of the first and last eighth of the layers and of every third
//! between; errors there do the most harm. mxfp4 keeps embedding and head in q8.

use crate::error::{Error, Result};
use quern_kernels::Format;
use quern_models::Spec;
use quern_models::spec::{Role, TensorKey};

/// What `--quant` asks for. Only matrices are quantized: every matrix of the model (also the embedding and the head); vectors, that
/// is norms and biases, are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// The format of the source where there is one of the same values, else f32.
    Keep,
    /// This format, or the mix that is called after it.
    To(Format),
}

impl Quant {
    /// All spellings.
    pub const NAMES: [&str; 10] = [
        "keep", "f32", "f16", "bf16", "q8", "q4", "q4k", "q5k", "q6k", "mxfp4",
    ];

    /// From the spelling on the command line.
    pub fn by_name(name: &str) -> Option<Quant> {
        match name {
            "keep" => Some(Quant::Keep),
            _ if !Quant::NAMES.contains(&name) => None,
            _ => Format::by_name(name).map(Quant::To),
        }
    }

    /// The spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quant::Keep => "keep",
            Quant::To(format) => format.name(),
        }
    }

    /// The format for a tensor, before `--quant-tensor`; none keeps it.
    pub fn format(self, spec: &Spec, key: TensorKey) -> Option<Format> {
        let Quant::To(format) = self else {
            return None;
        };
        let ends = matches!(
            key.role,
            Role::TokenEmbedding | Role::PerLayerEmbedding | Role::Head
        );
        let sensitive = matches!(key.role, Role::AttnV | Role::MlpDown | Role::ExpertDown);
        Some(match format {
            Format::Mxfp4 if ends => Format::Q8,
            Format::Q4k | Format::Q5k if ends => Format::Q6k,
            Format::Q4k | Format::Q5k if sensitive && more_bits(spec, key) => Format::Q6k,
            format => format,
        })
    }
}

/// The layers that get more bits.
fn more_bits(spec: &Spec, key: TensorKey) -> bool {
    let stack = match (&spec.encoder, key.stack) {
        (Some(encoder), 1) => encoder,
        _ => &spec.decoder,
    };
    let (n, layer) = (stack.layers.len() as u32, key.layer);
    let eighth = n / 8;
    layer < eighth || layer >= 7 * n / 8 || layer.saturating_sub(eighth) % 3 == 2
}

/// One `--quant-tensor PATTERN=TYPE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorQuant {
    pattern: String,
    format: Option<Format>,
}

impl TensorQuant {
    /// From the command line. The pattern is compared with the whole of a tensor's name here (`layers.3.blocks.1.branches.0.mlp_down`), with the last part of it
    /// (`mlp_down`), and with the names of the source (`blk.3.ffn_down.weight`); `*` stands for any characters, `?` for one.
    ///
    /// # Errors
    /// Usage: there is no `=`, no pattern before it, or no type behind it.
    pub fn parse(text: &str) -> Result<TensorQuant> {
        let Some((pattern, name)) = text.rsplit_once('=').filter(|(p, _)| !p.is_empty()) else {
            return Err(Error::usage(format_args!(
                "{text:?}: expected PATTERN=TYPE, such as mlp_down=q6k"
            )));
        };
        let format = match name {
            "keep" => None,
            _ => Some(Format::by_name(name).ok_or_else(|| {
                let known = Format::ALL.map(Format::name).join(", ");
                Error::usage(format_args!(
                    "{text:?}: {name:?} is no type, expected keep, {known}"
                ))
            })?),
        };
        Ok(TensorQuant {
            pattern: pattern.to_owned(),
            format,
        })
    }

    /// As it was given.
    pub fn text(&self) -> String {
        let format = self.format.map_or("keep", Format::name);
        format!("{}={format}", self.pattern)
    }

    /// The format; none keeps the source's.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Whether it is about a tensor of this key that is made of sources of these names.
    pub fn matches<'a>(&self, key: &str, mut sources: impl Iterator<Item = &'a str>) -> bool {
        let role = key.rsplit('.').next().unwrap_or(key);
        let glob = |name: &str| glob(self.pattern.as_bytes(), name.as_bytes());
        glob(key) || glob(role) || sources.any(glob)
    }
}

/// Whether a name matches a pattern with `*` and `?`. Takes time proportional to the product of the lengths.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on after a mismatch: behind the last star, with one more character under it.
    let mut back = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                back = Some((p, n));
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match back {
                Some((star, under)) => {
                    (p, n) = (star, under + 1);
                    back = Some((star, under + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The format that is nearly as exact and takes fewer bytes for rows of so many columns, where a format pads them much: formats with blocks of 256 columns
/// are padded to that, and a block of 32 may be cheaper. What ggml takes in its place decides.
pub fn fitting(format: Format, cols: usize) -> Format {
    let other = match format {
        Format::Q2k | Format::Q3k | Format::Iq4xs => Format::Iq4nl,
        Format::Q4k => Format::Q5,
        Format::Q5k => Format::Q5m,
        Format::Q6k => Format::Q8,
        format => return format,
    };
    match (format.panel_bytes(cols), other.panel_bytes(cols)) {
        (Some(padded), Some(small)) if small < padded && !cols.is_multiple_of(256) => other,
        _ => format,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("mlp_down", "mlp_down", true),
            ("mlp_*", "mlp_down", true),
            ("*down", "mlp_down", true),
            ("m?p*n", "mlp_down", true),
            ("*", "", true),
            ("", "a", false),
            ("mlp", "mlp_down", false),
            ("?", "", false),
            ("*a*b", "xaybzb", true),
            ("*a*b", "xaybz", false),
            ("layers.1.*", "layers.10.x", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
        // A pattern made to be slow.
        let name = "a".repeat(60_000);
        assert!(!glob("*a*a*a*a*a*a*a*b".as_bytes(), name.as_bytes()));
    }

    #[test]
    fn overrides_are_read_and_compared_with_all_names() {
        let down = TensorQuant::parse("mlp_down=q6k").unwrap();
        assert_eq!(down.format(), Some(Format::Q6k));
        assert_eq!(down.text(), "mlp_down=q6k");
        let key = "layers.0.blocks.1.branches.0.mlp_down";
        assert!(down.matches(key, std::iter::empty()));
        let foreign = TensorQuant::parse("blk.*.ffn_down.weight=keep").unwrap();
        assert_eq!(foreign.format(), None);
        assert!(foreign.matches(key, ["blk.7.ffn_down.weight"].into_iter()));
        assert!(!foreign.matches(key, ["blk.7.ffn_up.weight"].into_iter()));
        for bad in ["mlp_down", "=q8", "mlp_down=q7", "mlp_down="] {
            let e = TensorQuant::parse(bad).unwrap_err().to_string();
            assert!(e.contains(&format!("{bad:?}")), "{e}");
        }
    }

    #[test]
    fn narrow_rows_take_small_blocks() {
        assert_eq!(fitting(Format::Q4k, 512), Format::Q4k);
        assert_eq!(fitting(Format::Q4k, 64), Format::Q5);
        // A seventh more columns cost less than a bit more per weight.
        assert_eq!(fitting(Format::Q4k, 896), Format::Q4k);
        assert_eq!(fitting(Format::Q6k, 288), Format::Q8);
        assert_eq!(fitting(Format::Q8, 40), Format::Q8);
    }
}

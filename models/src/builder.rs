//! What the family files share: the sizes every configuration has, and a plan that grows tensor by tensor.
//!
//! [`Builder`] compares the exact shape of each foreign tensor at the moment it is planned, before anything is computed from the
//! numbers of the configuration; a family therefore reads as a list of names and shapes.

use crate::error::{Error, Result};
use crate::plan::{Plan, Rows, Skip, Source, TensorPlan, interleaved_to_half_split};
use crate::rope::Rope;
use crate::rope_config::{self, RopeOptions};
use crate::source::{Config, Origin, Tensors};
use crate::spec::{Activation, Head, Norm, NormKind, Role, Spec, TensorKey, bound};

/// The sizes that every transformer's configuration has.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// `vocab_size`.
    pub vocab: u32,
    /// `hidden_size`.
    pub hidden: u32,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `num_attention_heads`.
    pub heads: u32,
    /// `num_key_value_heads`, else as many as query heads.
    pub kv_heads: u32,
    /// `head_dim`, else hidden / heads.
    pub head_dim: u32,
    /// `max_position_embeddings`.
    pub context: u32,
}

impl Sizes {
    /// Reads and bounds them.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn read(config: &Config) -> Result<Sizes> {
        let within = |key: &str, value: u32, max: u32| {
            if (1..=max).contains(&value) {
                Ok(value)
            } else {
                Err(Error::new(format_args!(
                    "{}: {key} is {value}, expected 1 to {max}",
                    config.place()
                )))
            }
        };
        let required = |key: &str, max: u32| within(key, config.u32(key)?, max);
        let hidden = required("hidden_size", bound::HIDDEN)?;
        let heads = required("num_attention_heads", bound::HEADS)?;
        let kv_heads = config.opt_u32("num_key_value_heads")?.unwrap_or(heads);
        within("num_key_value_heads", kv_heads, heads)?;
        if heads % kv_heads != 0 {
            return Err(config.unsupported(
                "num_key_value_heads",
                &format!("a divisor of num_attention_heads {heads}"),
            ));
        }
        let head_dim = match config.opt_u32("head_dim")? {
            Some(d) => d,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(config.unsupported(
                    "num_attention_heads",
                    &format!("a divisor of hidden_size {hidden}, or head_dim beside it"),
                ));
            }
        };
        Ok(Sizes {
            vocab: required("vocab_size", bound::VOCAB)?,
            hidden,
            layers: required("num_hidden_layers", bound::LAYERS as u32)? as usize,
            heads,
            kv_heads,
            head_dim: within("head_dim", head_dim, bound::HEAD_DIM)?,
            context: required("max_position_embeddings", bound::CONTEXT)?,
        })
    }
}

/// The non-linearity that `key` names, `default` where it is absent.
///
/// # Errors
/// An unknown name.
pub fn activation(config: &Config, key: &str, default: Activation) -> Result<Activation> {
    Ok(match config.opt_str(key)? {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu") => Activation::Gelu,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some("relu2") => Activation::Relu2,
        Some("quick_gelu") => Activation::QuickGelu,
        Some(_) => {
            return Err(config.unsupported(
                key,
                "silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2 or quick_gelu",
            ));
        }
    })
}

/// A root-mean-square norm with a weight.
pub fn rms(eps: f32) -> Norm {
    Norm {
        kind: NormKind::Rms,
        eps,
        weight: true,
        bias: false,
    }
}

/// A plan in the making.
pub struct Builder<'a> {
    origin: Origin,
    foreign: &'a dyn Tensors,
    tensors: Vec<TensorPlan>,
    skipped: Vec<Skip>,
}

impl<'a> Builder<'a> {
    /// An empty plan over these foreign tensors.
    pub fn new(config: &Config, foreign: &'a dyn Tensors) -> Self {
        Builder {
            origin: config.origin(),
            foreign,
            tensors: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Whether the foreign tensor exists.
    pub fn has(&self, name: &str) -> bool {
        self.foreign.shape(name).is_some()
    }

    /// Checks that a foreign tensor is there with exactly this shape.
    ///
    /// # Errors
    /// Names the tensor, its shape and the expected one.
    pub fn expect(&self, name: &str, shape: &[u64]) -> Result<()> {
        match self.foreign.shape(name) {
            None => Err(Error::new(format_args!(
                "tensor {name:?} is missing, expected one of shape {shape:?}"
            ))),
            Some(found) if found != shape => Err(Error::new(format_args!(
                "tensor {name:?} has shape {found:?}, expected {shape:?}"
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Plans a stored tensor that is made of these sources.
    pub fn put(&mut self, key: TensorKey, sources: Vec<Source>) {
        self.tensors.push(TensorPlan { key, sources });
    }

    /// Plans a whole foreign tensor of the given shape as it is.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn take(&mut self, key: TensorKey, name: &str, shape: &[u32]) -> Result<()> {
        let shape: Vec<u64> = shape.iter().map(|&d| d.into()).collect();
        self.expect(name, &shape)?;
        self.put(key, vec![Source::all(name)]);
        Ok(())
    }

    /// Plans a query or key projection or its bias: `shape[0]` is heads * head_dim, and the first `rotated` rows of every head are
    /// stored as half-split pairs, whatever order they are in (`interleaved`).
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn take_rotary(
        &mut self,
        key: TensorKey,
        name: &str,
        shape: &[u32],
        head_dim: u32,
        rotated: u32,
        interleaved: bool,
    ) -> Result<()> {
        let start = self.tensors.len();
        self.take(key, name, shape)?;
        if interleaved {
            let rows = interleaved_to_half_split(shape[0] / head_dim, head_dim, rotated);
            self.tensors[start].sources[0].rows = Rows::List(rows);
        }
        Ok(())
    }

    /// Whether the rotary rows of a format's llama tensors are interleaved pairs: GGUF converters and llama2.c store them so.
    pub fn interleaved_by_origin(&self) -> bool {
        self.origin != Origin::HuggingFace
    }

    /// Leaves a foreign tensor out; `pattern` is a name, or a prefix with `*` at the end.
    pub fn skip(&mut self, pattern: impl Into<String>, reason: &'static str) {
        self.skipped.push(Skip {
            pattern: pattern.into(),
            reason,
        });
    }

    /// The rotary embedding of the configuration; in a GGUF also the per-pair divisors of `rope_freqs.weight`.
    ///
    /// # Errors
    /// As [`rope_config::read`]; divisors of a wrong number or value.
    pub fn rope(&mut self, config: &Config, options: &RopeOptions) -> Result<Rope> {
        const DIVISORS: &str = "rope_freqs.weight";
        let mut rope = rope_config::read(config, options)?;
        if self.origin != Origin::Gguf || !self.has(DIVISORS) {
            return Ok(rope);
        }
        let Rope::Fixed { inv_freq, .. } = &mut rope else {
            return Err(Error::new(format_args!(
                "tensor {DIVISORS:?} beside dynamic rope scaling, expected static scaling"
            )));
        };
        self.expect(DIVISORS, &[inv_freq.len() as u64])?;
        for (k, (f, d)) in inv_freq
            .iter_mut()
            .zip(self.foreign.values(DIVISORS)?)
            .enumerate()
        {
            if !(d.is_finite() && d > 0.0) {
                return Err(Error::new(format_args!(
                    "tensor {DIVISORS:?}: value {k} is {d}, expected a finite number > 0"
                )));
            }
            *f /= f64::from(d);
        }
        self.skip(DIVISORS, "folded into the rotary frequencies");
        Ok(rope)
    }

    /// Plans the head: `name` where it is there and differs from the embedding `embed`, else the embedding itself (what
    /// transformers does, whatever `tie_word_embeddings` says).
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn head(&mut self, name: &str, embed: &str, vocab: u32, hidden: u32) -> Result<Head> {
        let tied = if !self.has(name) {
            true
        } else {
            self.expect(name, &[vocab.into(), hidden.into()])?;
            self.foreign.same(name, embed)?
        };
        if !tied {
            self.take(TensorKey::model(Role::Head), name, &[vocab, hidden])?;
        } else if self.has(name) {
            self.skip(name, "the same values as the embedding");
        }
        Ok(Head {
            tied,
            bias: false,
            scale: 1.0,
            softcap: None,
        })
    }

    /// The plan of a finished Spec.
    pub fn finish(self, spec: Spec) -> Plan {
        Plan {
            spec,
            tensors: self.tensors,
            skipped: self.skipped,
        }
    }
}

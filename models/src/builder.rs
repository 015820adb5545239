//! What the family files share: the sizes every configuration has, and a plan that grows tensor by tensor.
//!
//! [`Builder`] compares the exact shape of each foreign tensor at the moment it is planned, before anything is computed from the
//! numbers of the configuration; a family therefore reads as a list of names and shapes. What is within a layer is [`LayerBuilder`]'s.

use crate::error::{Error, Result};
use crate::layer_builder::LayerBuilder;
use crate::plan::{Layout, Plan, Rows, Skip, Source, TensorPlan};
use crate::rope::Rope;
use crate::rope_config::{self, RopeOptions};
use crate::source::{Config, Origin, Tensors};
use crate::spec::{
    Activation, Attention, Embed, Embedding, Head, Layer, Norm, Role, Spec, Stack, Streams,
    TensorKey, bound,
};

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

/// What a family's configurations may leave out.
#[derive(Clone, Copy, Debug, Default)]
pub struct SizeDefaults {
    /// `vocab_size`.
    pub vocab: Option<u32>,
    /// `num_attention_heads`.
    pub heads: Option<u32>,
    /// `num_key_value_heads`; else as many as query heads.
    pub kv_heads: Option<u32>,
    /// `head_dim`; else hidden / heads.
    pub head_dim: Option<u32>,
    /// `max_position_embeddings`.
    pub context: Option<u32>,
}

impl Sizes {
    /// Reads and bounds them.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn read(config: &Config) -> Result<Sizes> {
        Self::read_with(config, SizeDefaults::default())
    }

    /// The same with defaults.
    ///
    /// # Errors
    /// As [`Sizes::read`].
    pub fn read_with(config: &Config, defaults: SizeDefaults) -> Result<Sizes> {
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
        // Older families have names of their own for the same numbers; transformers understands both.
        let number = |keys: &[&'static str], default: Option<u32>, max: u32| {
            for key in keys {
                if let Some(n) = config.opt_u32(key)? {
                    config.ignore(keys);
                    return within(key, n, max);
                }
            }
            default.ok_or_else(|| config.missing(keys[0]))
        };
        let hidden = number(&["hidden_size", "n_embd", "n_embed"], None, bound::HIDDEN)?;
        let heads = number(
            &["num_attention_heads", "n_head"],
            defaults.heads,
            bound::HEADS,
        )?;
        let kv_heads = config
            .opt_u32("num_key_value_heads")?
            .or(defaults.kv_heads)
            .unwrap_or(heads);
        within("num_key_value_heads", kv_heads, heads)?;
        if heads % kv_heads != 0 {
            return Err(config.unsupported(
                "num_key_value_heads",
                &format!("a divisor of num_attention_heads {heads}"),
            ));
        }
        let head_dim = match config.opt_u32("head_dim")?.or(defaults.head_dim) {
            Some(d) => d,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(config.unsupported(
                    "num_attention_heads",
                    &format!("a divisor of hidden_size {hidden}, or head_dim beside it"),
                ));
            }
        };
        let layers = ["num_hidden_layers", "n_layer"];
        let context = [
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "seq_length",
        ];
        Ok(Sizes {
            vocab: number(&["vocab_size"], defaults.vocab, bound::VOCAB)?,
            hidden,
            layers: number(&layers, None, bound::LAYERS as u32)? as usize,
            heads,
            kv_heads,
            head_dim: within("head_dim", head_dim, bound::HEAD_DIM)?,
            context: number(&context, defaults.context, bound::CONTEXT)?,
        })
    }

    /// Attention of these heads.
    pub fn attention(&self) -> Attention {
        Attention::new(self.heads, self.kv_heads, self.head_dim)
    }
}

/// The number of a norm's `key`, rounded as the arithmetic uses it.
///
/// # Errors
/// It is no number.
pub fn eps(config: &Config, key: &str, default: f64) -> Result<f32> {
    Ok(config.opt_f64(key)?.unwrap_or(default) as f32)
}

/// Checks that a key is absent, null or has the one value that is implemented.
///
/// # Errors
/// It has another value.
pub fn only(config: &Config, key: &str, value: impl Into<serde_json::Value>) -> Result<()> {
    let value = value.into();
    match config.get(key) {
        Some(found) if *found != value => Err(config.unsupported(key, &value.to_string())),
        _ => Ok(()),
    }
}

/// A layer whose queries see all earlier keys, as configurations call it.
pub const FULL: &str = "full_attention";
/// A layer with a window.
pub const SLIDING: &str = "sliding_attention";

/// The kinds of the layers: `layer_types` of the configuration, each one of `known`, or `default(layer)`.
///
/// # Errors
/// Another number of layers, an unknown kind.
pub fn layer_types(
    config: &Config,
    layers: usize,
    known: &[&'static str],
    default: impl Fn(usize) -> &'static str,
) -> Result<Vec<&'static str>> {
    let Some(list) = config.opt_array("layer_types")? else {
        return Ok((0..layers).map(default).collect());
    };
    let wrong = || {
        let known = known.join(" or ");
        config.unsupported("layer_types", &format!("{layers} times {known}"))
    };
    if list.len() != layers {
        return Err(wrong());
    }
    list.iter()
        .map(|v| known.iter().copied().find(|k| v.as_str() == Some(k)))
        .map(|kind| kind.ok_or_else(wrong))
        .collect()
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

/// Names of the tensors outside the layers, without `.weight`.
#[derive(Clone, Copy, Debug)]
pub struct DecoderNames<'n> {
    /// Before all names but that of the head.
    pub root: &'n str,
    /// The embedding.
    pub embed: &'n str,
    /// Before the index of a layer.
    pub layers: &'n str,
    /// The norm after the last layer.
    pub final_norm: &'n str,
    /// The head, without the root.
    pub head: &'n str,
    /// Learned positions.
    pub positions: &'n str,
    /// The norm of the embedding.
    pub embed_norm: &'n str,
    /// The projections from and to the width of the embedding.
    pub projections: [&'n str; 2],
}

/// The names of llama and of most that came after.
pub const LLAMA: DecoderNames<'static> = DecoderNames {
    root: "model.",
    embed: "embed_tokens",
    layers: "layers",
    final_norm: "norm",
    head: "lm_head",
    positions: "",
    embed_norm: "",
    projections: ["", ""],
};

/// What is outside the layers of a decoder: the parts of its Spec that are no layers.
#[derive(Clone, Debug)]
pub struct Frame {
    /// How ids become vectors.
    pub embed: Embed,
    /// Several streams beside each other, whose tensors the family plans.
    pub streams: Option<Streams>,
    /// The norm after the last layer.
    pub final_norm: Option<Norm>,
    /// The head; whether it is tied is seen from the tensors.
    pub head: Head,
    /// Whether there is a head at all.
    pub logits: bool,
    /// The tensor whose first row is added to every embedding.
    pub embed_bias: Option<String>,
    /// The layer of a pooler, if there is one.
    pub pooler: Option<String>,
}

impl Frame {
    /// An embedding and a head without anything around them, and this norm.
    pub fn new(final_norm: Norm) -> Frame {
        Frame {
            embed: Embed::scaled(1.0),
            streams: None,
            final_norm: Some(final_norm),
            head: Head {
                tied: true,
                bias: false,
                scale: 1.0,
                softcap: None,
                width: None,
            },
            logits: true,
            embed_bias: None,
            pooler: None,
        }
    }
}

/// A plan in the making.
pub struct Builder<'a> {
    /// Rotated rows of q and k come as pairs (2k, 2k+1); they are stored as halves.
    pub interleaved: bool,
    /// Matrices come with inputs as rows.
    pub transposed: bool,
    /// What is added to every weight of a norm: 1 where `w` is stored for `1 + w`.
    pub norm_offset: f32,
    pub(crate) origin: Origin,
    pub(crate) foreign: &'a dyn Tensors,
    ropes: Vec<Rope>,
    pub(crate) encoder: Option<Stack>,
    tensors: Vec<TensorPlan>,
    skipped: Vec<Skip>,
}

impl<'a> Builder<'a> {
    /// An empty plan over these foreign tensors.
    pub fn new(config: &Config, foreign: &'a dyn Tensors) -> Self {
        Builder {
            interleaved: false,
            transposed: false,
            norm_offset: 0.0,
            origin: config.origin(),
            foreign,
            ropes: Vec::new(),
            encoder: None,
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
        self.foreign.expect(name, shape)
    }

    /// How many rows the matrix `name` has.
    ///
    /// # Errors
    /// It is missing, no matrix, or higher than any model's.
    pub fn rows(&self, name: &str) -> Result<u32> {
        match self.foreign.shape(name) {
            Some(&[rows, _]) if (1..=u64::from(bound::INNER)).contains(&rows) => Ok(rows as u32),
            Some(found) => Err(Error::new(format_args!(
                "tensor {name:?} has shape {found:?}, expected a matrix of 1 to {} rows",
                bound::INNER
            ))),
            None => Err(Error::new(format_args!("tensor {name:?} is missing"))),
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

    /// Plans some rows (or all) of a matrix of `shape` rows (outputs) and columns (inputs), and its bias.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn linear(
        &mut self,
        (key, bias_role): (TensorKey, Option<Role>),
        name: &str,
        shape: [u32; 2],
        rows: Option<Vec<u32>>,
    ) -> Result<()> {
        self.expect_linear(name, shape)?;
        let rows = rows.map_or(Rows::All, Rows::List);
        let source = |name, rows, layout| Source {
            layout,
            rows,
            ..Source::all(name)
        };
        if let Some(role) = bias_role {
            let bias = format!("{name}.bias");
            self.expect(&bias, &[shape[0].into()])?;
            let key = TensorKey { role, ..key };
            self.put(key, vec![source(bias, rows.clone(), Layout::Rows)]);
        }
        let weight = format!("{name}.weight");
        let layout = match self.transposed {
            true => Layout::Transposed,
            false => Layout::Rows,
        };
        self.put(key, vec![source(weight, rows, layout)]);
        Ok(())
    }

    /// Checks the shape of a linear layer's matrix, outputs and inputs.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn expect_linear(&self, name: &str, shape: [u32; 2]) -> Result<()> {
        let mut shape = shape.map(u64::from);
        if self.transposed {
            shape.reverse();
        }
        self.expect(&format!("{name}.weight"), &shape)
    }

    /// Plans weight and bias of a norm of `width` values, as far as it has them.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn norm(
        &mut self,
        (key, bias_role): (TensorKey, Role),
        name: &str,
        norm: &Norm,
        width: u32,
    ) -> Result<()> {
        if norm.weight {
            let name = format!("{name}.weight");
            self.expect(&name, &[width.into()])?;
            let source = Source {
                add: self.norm_offset,
                ..Source::all(name)
            };
            self.put(key, vec![source]);
        }
        if norm.bias {
            let key = TensorKey {
                role: bias_role,
                ..key
            };
            self.take(key, &format!("{name}.bias"), &[width])?;
        }
        Ok(())
    }

    /// All values of a small foreign tensor.
    ///
    /// # Errors
    /// It is missing or cannot be read.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        self.foreign.values(name)
    }

    /// All values of a small foreign tensor, which is then left out.
    ///
    /// # Errors
    /// It is missing, has another number of values, or cannot be read.
    pub fn fold(&mut self, name: &str, count: usize, reason: &'static str) -> Result<Vec<f32>> {
        if !self.has(name) {
            return Err(Error::new(format_args!("tensor {name:?} is missing")));
        }
        let values = self.foreign.values(name)?;
        if values.len() != count {
            return Err(Error::new(format_args!(
                "tensor {name:?} has {} values, expected {count}",
                values.len()
            )));
        }
        self.skip(name, reason);
        Ok(values)
    }

    /// These names without the root, where the file has none: one that was saved from the model below the head.
    pub fn base_names<'n>(&self, names: &DecoderNames<'n>) -> DecoderNames<'n> {
        let root = match self.has(&format!("{}.weight", names.embed)) {
            true => "",
            false => names.root,
        };
        DecoderNames { root, ..*names }
    }

    /// Leaves a foreign tensor out; `pattern` is a name, or a prefix with `*` at the end.
    pub fn skip(&mut self, pattern: impl Into<String>, reason: &'static str) {
        self.skipped.push(Skip {
            pattern: pattern.into(),
            reason,
        });
    }

    /// Leaves out the layers behind the last one that predict further tokens (`num_nextn_predict_layers`, also `num_mtp_layers`).
    ///
    /// # Errors
    /// The key is no small integer.
    pub fn skip_predictors(
        &mut self,
        config: &Config,
        s: &Sizes,
        names: &DecoderNames,
    ) -> Result<()> {
        let more = config.opt_u32("num_nextn_predict_layers")?;
        let more = more.or(config.opt_u32("num_mtp_layers")?).unwrap_or(0) as usize;
        if more > bound::LAYERS {
            let expected = format!("at most {}", bound::LAYERS);
            return Err(config.unsupported("num_nextn_predict_layers", &expected));
        }
        for layer in s.layers..s.layers + more {
            let pattern = format!("{}{}.{layer}.*", names.root, names.layers);
            self.skip(pattern, "predicts further tokens");
        }
        Ok(())
    }

    /// Adds the rotary embedding of the configuration and returns its index; in a GGUF also the per-pair divisors of `rope_freqs.weight`.
    ///
    /// # Errors
    /// As [`rope_config::read`]; divisors of a wrong number or value.
    pub fn rope(&mut self, config: &Config, options: &RopeOptions) -> Result<u32> {
        const DIVISORS: &str = "rope_freqs.weight";
        let mut rope = rope_config::read(config, options)?;
        if self.origin != Origin::Gguf || !self.has(DIVISORS) {
            return Ok(self.add_rope(rope));
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
        Ok(self.add_rope(rope))
    }

    /// Adds a rotary embedding and returns its index.
    pub fn add_rope(&mut self, rope: Rope) -> u32 {
        self.ropes.push(rope);
        self.ropes.len() as u32 - 1
    }

    /// Rotated dimensions of the rotary embedding with this index; 0 for none.
    pub fn rotated(&self, rope: Option<u32>) -> u32 {
        rope.map_or(0, |r| self.ropes[r as usize].dim() as u32)
    }

    /// Whether the head `name` has to be stored: it is there and differs from the embedding `embed` (what transformers does, whatever
    /// `tie_word_embeddings` says). One with the same values is skipped.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn own_head(&mut self, name: &str, embed: &str, shape: [u32; 2]) -> Result<bool> {
        if !self.has(name) {
            return Ok(false);
        }
        self.expect(name, &shape.map(u64::from))?;
        if self.foreign.same(name, embed)? {
            self.skip(name, "the same values as the embedding");
            return Ok(false);
        }
        Ok(true)
    }

    /// The layer `index`, whose tensors are named `{root}{layers}.{index}.`.
    pub fn layer(
        &mut self,
        names: &DecoderNames,
        hidden: u32,
        index: usize,
    ) -> LayerBuilder<'_, 'a> {
        let prefix = format!("{}{}.{index}.", names.root, names.layers);
        LayerBuilder::new(self, prefix, hidden, index)
    }

    /// The head of a decoder.
    fn head(
        &mut self,
        s: &Sizes,
        names: &DecoderNames,
        embed: &str,
        mut head: Head,
    ) -> Result<Head> {
        let model = TensorKey::model;
        let name = format!("{}.weight", names.head);
        let width = head.width.unwrap_or(s.hidden);
        head.tied = !self.own_head(&name, embed, [s.vocab, width])?;
        if !head.tied {
            self.take(model(Role::Head), &name, &[s.vocab, width])?;
        }
        if head.bias {
            let name = format!("{}.bias", names.head);
            self.take(model(Role::HeadBias), &name, &[s.vocab])?;
        }
        Ok(head)
    }

    /// The whole plan of a decoder: what is outside the layers as `frame` says, and every layer by a call of `layer`.
    ///
    /// # Errors
    /// As [`Builder::expect`], and whatever `layer` returns.
    pub fn decoder(
        mut self,
        s: &Sizes,
        names: &DecoderNames,
        mut frame: Frame,
        mut layer: impl FnMut(&mut LayerBuilder, usize) -> Result<()>,
    ) -> Result<Plan> {
        let rooted = |name: &str| format!("{}{name}", names.root);
        let weight = |name: &str| format!("{}{name}.weight", names.root);
        let model = TensorKey::model;
        let embed = weight(names.embed);
        let width = frame.embed.width.unwrap_or(s.hidden);
        self.take(model(Role::TokenEmbedding), &embed, &[s.vocab, width])?;
        if frame.embed.width.is_some() {
            let name = weight(names.projections[0]);
            self.take(model(Role::EmbedProjection), &name, &[s.hidden, width])?;
        }
        if let Some(name) = &frame.embed_bias {
            let rows = match self.foreign.shape(name) {
                Some([rows, cols]) if *rows > 0 && *cols == u64::from(s.hidden) => *rows,
                _ => {
                    self.expect(name, &[1, s.hidden.into()])?;
                    1
                }
            };
            if rows > 1 {
                self.skip(name, "its rows for other segments than the first");
            }
            let source = Source::rows(name, (0..s.hidden).collect());
            self.put(model(Role::EmbedBias), vec![source]);
            frame.embed.bias = true;
        }
        if let Some(p) = frame.embed.positions {
            let name = weight(names.positions);
            self.take(model(Role::PositionEmbedding), &name, &[p.rows, s.hidden])?;
        }
        if let Some(norm) = &frame.embed.norm {
            let key = (model(Role::EmbedNorm), Role::EmbedNormBias);
            self.norm(key, &rooted(names.embed_norm), norm, s.hidden)?;
        }
        let mut layers = Vec::new();
        for l in 0..s.layers {
            let mut one = self.layer(names, s.hidden, l);
            layer(&mut one, l)?;
            layers.push(Layer {
                blocks: one.finish(),
            });
        }
        if let Some(norm) = &frame.final_norm {
            let key = (model(Role::FinalNorm), Role::FinalNormBias);
            self.norm(key, &rooted(names.final_norm), norm, s.hidden)?;
        }
        if let Some(width) = frame.head.width {
            let name = weight(names.projections[1]);
            self.take(model(Role::HeadProjection), &name, &[width, s.hidden])?;
        }
        let head = match frame.logits {
            true => Some(self.head(s, names, &embed, frame.head)?),
            false => None,
        };
        let pooler = frame.pooler.is_some();
        if let Some(name) = &frame.pooler {
            let key = (model(Role::Pooler), Some(Role::PoolerBias));
            self.linear(key, name, [s.hidden, s.hidden], None)?;
        }
        let reach = self.ropes.iter().filter_map(Rope::reach).max();
        let context_length = s.context.max(reach.unwrap_or(0)).min(bound::CONTEXT);
        Ok(Plan {
            spec: Spec {
                vocab_size: s.vocab,
                hidden: s.hidden,
                context_length,
                embed: frame.embed,
                ropes: self.ropes,
                encoder: self.encoder,
                decoder: Stack {
                    layers,
                    streams: frame.streams,
                    final_norm: frame.final_norm,
                },
                head,
                embedding: pooler.then(|| Embedding {
                    pooler,
                    ..Embedding::default()
                }),
            },
            tensors: self.tensors,
            skipped: self.skipped,
        })
    }
}

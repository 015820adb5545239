//! The description of a model as data: what is in a weight file and how its forward pass goes. No family names here.
//!
//! A model is an embedding, one or more stacks of layers, a head. A layer is a sequence of **blocks** on the residual stream; a block
//! runs one or more **branches** on the same (normed) input, adds their outputs up, and adds the sum to the stream:
//!
//! ```text
//! h = pre(x);  y = sum over branches of op(branch.pre(h));  x = x + scale * post(y)
//! ```
//!
//! Llama is two blocks of one branch (attention; dense). A parallel residual is one block of two branches. Experts with a
//! shared expert are two branches of one block; a hybrid layer has attention and a recurrent mixer as two branches; a decoder
//! layer of an encoder-decoder has three blocks. A new *state shape* is a new variant of [`Op`] and a file under `blocks/`.
//!
//! The struct is stored in the weight file as JSON; [`Spec::validate`] bounds every number before anything is computed from it, and
//! [`Spec::tensors`] lists every tensor that the file must hold, with its shape.

use crate::error::{Error, Result};
use crate::rope::Rope;
use serde::{Deserialize, Serialize};

/// Bounds that keep every product of two dimensions far below 2^63 and every allocation proportional to real models.
pub(crate) mod bound {
    pub const VOCAB: u32 = 1 << 24;
    pub const HIDDEN: u32 = 1 << 18;
    pub const LAYERS: usize = 2048;
    /// Blocks and branches of all layers together.
    pub const PARTS: usize = 1 << 15;
    pub const BLOCKS: usize = 8;
    pub const BRANCHES: usize = 8;
    pub const HEADS: u32 = 4096;
    pub const HEAD_DIM: u32 = 4096;
    pub const INNER: u32 = 1 << 20;
    pub const CONTEXT: u32 = 1 << 28;
    pub const ROPES: usize = 64;
}

/// A whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Rows of the embedding and of the head.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Positions that the model was made for (`max_position_embeddings`).
    pub context_length: u32,
    /// How ids become vectors.
    pub embed: Embed,
    /// The rotary embeddings that layers refer to by index.
    pub ropes: Vec<Rope>,
    /// The stack of layers that produces the output.
    pub decoder: Stack,
    /// How the last hidden vector becomes logits.
    pub head: Head,
}

/// From ids to the residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embed {
    /// Multiplier of the embedding row (1 for most).
    pub scale: f32,
}

/// Layers and the norm after them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The layers, first to last; stored as kinds of layers and their order.
    #[serde(with = "crate::layers")]
    pub layers: Vec<Layer>,
    /// The norm after the last layer.
    pub final_norm: Option<Norm>,
}

/// One layer: blocks in the order in which they change the residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// One step of the residual stream: `x += scale * post(sum of branches(pre(x)))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Norm of the input, shared by all branches.
    pub pre: Option<Norm>,
    /// What runs on it; the outputs are added up in this order.
    pub branches: Vec<Branch>,
    /// Norm of the sum before it joins the stream.
    pub post: Option<Norm>,
    /// Residual multiplier.
    pub scale: f32,
}

/// One operation of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// A norm of this branch alone, after the block's.
    pub pre: Option<Norm>,
    /// The operation.
    pub op: Op,
}

/// What a branch computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Attention over a cache of keys and values.
    Attention(Attention),
    /// A feed-forward network.
    Dense(Dense),
}

/// A normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// Added to the mean square (or variance) before the root.
    pub eps: f32,
    /// Whether a weight vector is stored.
    pub weight: bool,
    /// Whether a bias vector is stored.
    pub bias: bool,
}

/// The two normalisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)` (Zhang and Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(var + eps)`, biased variance (Ba et al. 2016).
    Layer,
}

/// Grouped-query attention (Ainslie et al. 2023); `n_kv_heads == n_heads` is multi-head, 1 is multi-query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; query head h reads head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: u32,
    /// Width of one head of q, k and v.
    pub head_dim: u32,
    /// Multiplier of `q . k` (usually `head_dim^-0.5`).
    pub scale: f32,
    /// Whether q has a bias.
    pub q_bias: bool,
    /// Whether k and v have a bias.
    pub kv_bias: bool,
    /// Whether the output projection has a bias.
    pub o_bias: bool,
    /// Index into [`Spec::ropes`]; none: no rotation.
    pub rope: Option<u32>,
    /// Which keys a query sees.
    pub mask: Mask,
}

/// Which keys a query at position i sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Keys j <= i.
    Causal,
    /// Keys i - window < j <= i: the window counts the query itself.
    Sliding(u32),
}

/// A feed-forward network: `down(act(gate(x)) * up(x))`, or `down(act(up(x)))` without a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Width of the inner vector.
    pub inner: u32,
    /// The non-linearity.
    pub activation: Activation,
    /// Whether there is a gate.
    pub gated: bool,
    /// Whether gate and up have a bias.
    pub up_bias: bool,
    /// Whether down has a bias.
    pub down_bias: bool,
}

/// Non-linearities of feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)` with the error function.
    Gelu,
    /// The tanh approximation of gelu.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

/// From the last hidden vector to logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Whether the embedding matrix is the head.
    pub tied: bool,
    /// Whether the head has a bias.
    pub bias: bool,
    /// Multiplier of the logits.
    pub scale: f32,
    /// `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
}

/// What a stored tensor is for. The numbers are part of the file format: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[allow(missing_docs)] // the names are the documentation
pub enum Role {
    TokenEmbedding = 1,
    Head = 2,
    HeadBias = 3,
    FinalNorm = 4,
    FinalNormBias = 5,
    PreNorm = 16,
    PreNormBias = 17,
    PostNorm = 18,
    PostNormBias = 19,
    AttnQ = 32,
    AttnK = 33,
    AttnV = 34,
    AttnO = 35,
    AttnQBias = 36,
    AttnKBias = 37,
    AttnVBias = 38,
    AttnOBias = 39,
    MlpGate = 64,
    MlpUp = 65,
    MlpDown = 66,
    MlpGateBias = 67,
    MlpUpBias = 68,
    MlpDownBias = 69,
}

impl Role {
    /// Every role, for look-ups by number and for printing.
    pub const ALL: &'static [Role] = &[
        Role::TokenEmbedding,
        Role::Head,
        Role::HeadBias,
        Role::FinalNorm,
        Role::FinalNormBias,
        Role::PreNorm,
        Role::PreNormBias,
        Role::PostNorm,
        Role::PostNormBias,
        Role::AttnQ,
        Role::AttnK,
        Role::AttnV,
        Role::AttnO,
        Role::AttnQBias,
        Role::AttnKBias,
        Role::AttnVBias,
        Role::AttnOBias,
        Role::MlpGate,
        Role::MlpUp,
        Role::MlpDown,
        Role::MlpGateBias,
        Role::MlpUpBias,
        Role::MlpDownBias,
    ];

    /// The number in the file.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The role of a number in a file.
    pub fn from_code(code: u16) -> Option<Role> {
        Self::ALL.iter().copied().find(|r| r.code() == code)
    }
}

/// Marks a key that belongs to a whole block, layer or stack and not to one part of it.
pub const WHOLE: u8 = 0xff;
/// Marks a key that belongs to a whole stack.
pub const WHOLE_STACK: u32 = u32::MAX;

/// The identity of a stored tensor: where in the [`Spec`] it belongs, and its role there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorKey {
    /// 0 is the decoder (or only) stack.
    pub stack: u8,
    /// Layer index, or [`WHOLE_STACK`].
    pub layer: u32,
    /// Block index within the layer, or [`WHOLE`].
    pub block: u8,
    /// Branch index within the block, or [`WHOLE`].
    pub branch: u8,
    /// The role.
    pub role: Role,
}

impl TensorKey {
    /// A tensor of the whole model.
    pub fn model(role: Role) -> Self {
        TensorKey {
            stack: 0,
            layer: WHOLE_STACK,
            block: WHOLE,
            branch: WHOLE,
            role,
        }
    }

    /// A tensor of one branch of the decoder stack.
    pub fn branch(layer: usize, block: usize, branch: usize, role: Role) -> Self {
        TensorKey {
            stack: 0,
            layer: layer as u32,
            block: block as u8,
            branch: branch as u8,
            role,
        }
    }

    /// A tensor of one block of the decoder stack.
    pub fn block(layer: usize, block: usize, role: Role) -> Self {
        TensorKey {
            stack: 0,
            layer: layer as u32,
            block: block as u8,
            branch: WHOLE,
            role,
        }
    }
}

impl std::fmt::Display for TensorKey {
    /// `layers.3.blocks.0.branches.0.attn_q` in the terms of the Spec.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.stack != 0 {
            write!(f, "stacks.{}.", self.stack)?;
        }
        if self.layer != WHOLE_STACK {
            write!(f, "layers.{}.", self.layer)?;
        }
        if self.block != WHOLE {
            write!(f, "blocks.{}.", self.block)?;
        }
        if self.branch != WHOLE {
            write!(f, "branches.{}.", self.branch)?;
        }
        let camel = format!("{:?}", self.role);
        for (i, c) in camel.chars().enumerate() {
            if c.is_uppercase() && i > 0 {
                write!(f, "_")?;
            }
            write!(f, "{}", c.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// The shape of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A vector of f32 values: norm weights, biases.
    Vector(u32),
    /// `count` matrices of `rows` x `cols` one after another (count is 1 but for experts); `rows` outputs, `cols` inputs.
    Matrix {
        /// Matrices one after another.
        count: u32,
        /// Outputs.
        rows: u32,
        /// Inputs.
        cols: u32,
    },
}

impl Shape {
    fn matrix(rows: u32, cols: u32) -> Shape {
        Shape::Matrix {
            count: 1,
            rows,
            cols,
        }
    }
}

/// One tensor that the file of a [`Spec`] must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is.
    pub key: TensorKey,
    /// Its exact shape.
    pub shape: Shape,
}

impl Norm {
    fn validate(&self, place: &str) -> Result<()> {
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(Error::new(format_args!(
                "{place}: eps is {}, expected a finite number >= 0",
                self.eps
            )));
        }
        Ok(())
    }

    fn tensors(&self, key: TensorKey, bias: Role, width: u32, out: &mut Vec<TensorSpec>) {
        if self.weight {
            out.push(TensorSpec {
                key,
                shape: Shape::Vector(width),
            });
        }
        if self.bias {
            out.push(TensorSpec {
                key: TensorKey { role: bias, ..key },
                shape: Shape::Vector(width),
            });
        }
    }
}

fn within(place: &str, field: &str, value: u32, max: u32) -> Result<()> {
    if value == 0 || value > max {
        return Err(Error::new(format_args!(
            "{place}: {field} is {value}, expected 1 to {max}"
        )));
    }
    Ok(())
}

fn finite(place: &str, field: &str, value: f32) -> Result<()> {
    if !value.is_finite() {
        return Err(Error::new(format_args!(
            "{place}: {field} is {value}, expected a finite number"
        )));
    }
    Ok(())
}

impl Attention {
    /// Width of all query heads together.
    pub fn q_width(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn kv_width(&self) -> u32 {
        self.n_kv_heads * self.head_dim
    }

    fn validate(&self, place: &str, ropes: &[Rope]) -> Result<()> {
        within(place, "n_heads", self.n_heads, bound::HEADS)?;
        within(place, "n_kv_heads", self.n_kv_heads, self.n_heads)?;
        within(place, "head_dim", self.head_dim, bound::HEAD_DIM)?;
        finite(place, "scale", self.scale)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(Error::new(format_args!(
                "{place}: n_heads is {}, expected a multiple of n_kv_heads {}",
                self.n_heads, self.n_kv_heads
            )));
        }
        if let Mask::Sliding(window) = self.mask {
            within(place, "sliding window", window, u32::MAX)?;
        }
        if let Some(index) = self.rope {
            let Some(rope) = ropes.get(index as usize) else {
                return Err(Error::new(format_args!(
                    "{place}: rope is {index}, but there are {} ropes",
                    ropes.len()
                )));
            };
            if rope.dim() > self.head_dim as usize {
                return Err(Error::new(format_args!(
                    "{place}: rope {index} rotates {} dimensions of a head of {}",
                    rope.dim(),
                    self.head_dim
                )));
            }
        }
        Ok(())
    }

    fn tensors(&self, at: impl Fn(Role) -> TensorKey, hidden: u32, out: &mut Vec<TensorSpec>) {
        let (q, kv) = (self.q_width(), self.kv_width());
        let mut push = |role, shape| {
            out.push(TensorSpec {
                key: at(role),
                shape,
            })
        };
        push(Role::AttnQ, Shape::matrix(q, hidden));
        push(Role::AttnK, Shape::matrix(kv, hidden));
        push(Role::AttnV, Shape::matrix(kv, hidden));
        push(Role::AttnO, Shape::matrix(hidden, q));
        if self.q_bias {
            push(Role::AttnQBias, Shape::Vector(q));
        }
        if self.kv_bias {
            push(Role::AttnKBias, Shape::Vector(kv));
            push(Role::AttnVBias, Shape::Vector(kv));
        }
        if self.o_bias {
            push(Role::AttnOBias, Shape::Vector(hidden));
        }
    }
}

impl Dense {
    fn tensors(&self, at: impl Fn(Role) -> TensorKey, hidden: u32, out: &mut Vec<TensorSpec>) {
        let mut push = |role, shape| {
            out.push(TensorSpec {
                key: at(role),
                shape,
            })
        };
        if self.gated {
            push(Role::MlpGate, Shape::matrix(self.inner, hidden));
        }
        push(Role::MlpUp, Shape::matrix(self.inner, hidden));
        push(Role::MlpDown, Shape::matrix(hidden, self.inner));
        if self.up_bias {
            if self.gated {
                push(Role::MlpGateBias, Shape::Vector(self.inner));
            }
            push(Role::MlpUpBias, Shape::Vector(self.inner));
        }
        if self.down_bias {
            push(Role::MlpDownBias, Shape::Vector(hidden));
        }
    }
}

impl Spec {
    /// Checks every number against its bound and every reference against what it refers to.
    ///
    /// # Errors
    /// Names the field, its value and what was expected.
    pub fn validate(&self) -> Result<()> {
        within("spec", "vocab_size", self.vocab_size, bound::VOCAB)?;
        within("spec", "hidden", self.hidden, bound::HIDDEN)?;
        within(
            "spec",
            "context_length",
            self.context_length,
            bound::CONTEXT,
        )?;
        finite("spec", "embed.scale", self.embed.scale)?;
        finite("spec", "head.scale", self.head.scale)?;
        if let Some(cap) = self.head.softcap
            && !(cap.is_finite() && cap > 0.0)
        {
            return Err(Error::new(format_args!(
                "spec: head.softcap is {cap}, expected a number > 0"
            )));
        }
        if self.ropes.len() > bound::ROPES {
            return Err(Error::new(format_args!(
                "spec: {} ropes, expected at most {}",
                self.ropes.len(),
                bound::ROPES
            )));
        }
        for (i, rope) in self.ropes.iter().enumerate() {
            rope.validate()
                .map_err(|e| Error::new(format_args!("ropes.{i}: {e}")))?;
        }
        self.decoder.validate(self)
    }

    /// Every tensor of the model's file, in file order.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut out = Vec::new();
        let hidden = self.hidden;
        out.push(TensorSpec {
            key: TensorKey::model(Role::TokenEmbedding),
            shape: Shape::matrix(self.vocab_size, hidden),
        });
        for (l, layer) in self.decoder.layers.iter().enumerate() {
            for (b, block) in layer.blocks.iter().enumerate() {
                if let Some(norm) = &block.pre {
                    norm.tensors(
                        TensorKey::block(l, b, Role::PreNorm),
                        Role::PreNormBias,
                        hidden,
                        &mut out,
                    );
                }
                for (r, branch) in block.branches.iter().enumerate() {
                    let at = |role| TensorKey::branch(l, b, r, role);
                    if let Some(norm) = &branch.pre {
                        norm.tensors(at(Role::PreNorm), Role::PreNormBias, hidden, &mut out);
                    }
                    match &branch.op {
                        Op::Attention(a) => a.tensors(at, hidden, &mut out),
                        Op::Dense(d) => d.tensors(at, hidden, &mut out),
                    }
                }
                if let Some(norm) = &block.post {
                    norm.tensors(
                        TensorKey::block(l, b, Role::PostNorm),
                        Role::PostNormBias,
                        hidden,
                        &mut out,
                    );
                }
            }
        }
        if let Some(norm) = &self.decoder.final_norm {
            norm.tensors(
                TensorKey::model(Role::FinalNorm),
                Role::FinalNormBias,
                hidden,
                &mut out,
            );
        }
        if !self.head.tied {
            out.push(TensorSpec {
                key: TensorKey::model(Role::Head),
                shape: Shape::matrix(self.vocab_size, hidden),
            });
        }
        if self.head.bias {
            out.push(TensorSpec {
                key: TensorKey::model(Role::HeadBias),
                shape: Shape::Vector(self.vocab_size),
            });
        }
        out
    }

    /// Reads a stored Spec and validates it.
    ///
    /// # Errors
    /// Invalid JSON, an unknown field, a number out of bounds.
    pub fn from_json(bytes: &[u8]) -> Result<Spec> {
        let spec: Spec =
            serde_json::from_slice(bytes).map_err(|e| Error::new(format_args!("spec: {e}")))?;
        spec.validate()?;
        Ok(spec)
    }

    /// The stored form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a Spec has only string keys")
    }
}

impl Stack {
    fn validate(&self, spec: &Spec) -> Result<()> {
        if self.layers.is_empty() || self.layers.len() > bound::LAYERS {
            return Err(Error::new(format_args!(
                "spec: {} layers, expected 1 to {}",
                self.layers.len(),
                bound::LAYERS
            )));
        }
        if let Some(norm) = &self.final_norm {
            norm.validate("final_norm")?;
        }
        for (l, layer) in self.layers.iter().enumerate() {
            if layer.blocks.is_empty() || layer.blocks.len() > bound::BLOCKS {
                return Err(Error::new(format_args!(
                    "layers.{l}: {} blocks, expected 1 to {}",
                    layer.blocks.len(),
                    bound::BLOCKS
                )));
            }
            for (b, block) in layer.blocks.iter().enumerate() {
                let place = format!("layers.{l}.blocks.{b}");
                finite(&place, "scale", block.scale)?;
                for norm in [&block.pre, &block.post].into_iter().flatten() {
                    norm.validate(&place)?;
                }
                if block.branches.is_empty() || block.branches.len() > bound::BRANCHES {
                    return Err(Error::new(format_args!(
                        "{place}: {} branches, expected 1 to {}",
                        block.branches.len(),
                        bound::BRANCHES
                    )));
                }
                for (r, branch) in block.branches.iter().enumerate() {
                    let place = format!("{place}.branches.{r}");
                    if let Some(norm) = &branch.pre {
                        norm.validate(&place)?;
                    }
                    match &branch.op {
                        Op::Attention(a) => a.validate(&place, &spec.ropes)?,
                        Op::Dense(d) => within(&place, "inner", d.inner, bound::INNER)?,
                    }
                }
            }
        }
        Ok(())
    }
}

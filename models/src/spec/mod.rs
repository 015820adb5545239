//! The description of a model as data: what is in a weight file and how its forward pass goes. No family names here.
//!
//! A model is an embedding, one or more stacks of layers, a head. A layer is a sequence of **blocks** on the residual stream; a block
//! runs one or more **branches** on the same (normed) input, adds their outputs up, and adds the sum to the stream:
//!
//! ```text
//! h = pre(x);  y = sum over branches of scale * branch.post(op(branch.pre(h)));  x = stream_scale * out(x + scale * post(y))
//! ```
//!
//! Llama is two blocks of one branch (attention; dense). A parallel residual is one block of two branches. Experts with a
//! shared expert are two branches of one block; a hybrid layer has attention and a recurrent mixer as two branches; a decoder
//! layer of an encoder-decoder has three blocks, one of them cross attention to what the encoder's stack made of the source. A new
//! *state shape* is a new variant of [`Op`] and a file under `blocks/`.
//!
//! The struct is stored in the weight file as JSON; [`Spec::validate`] bounds every number before anything is computed from it, and
//! [`Spec::tensors`] lists every tensor that the file must hold, with its shape.

mod attention;
mod conv;
mod cross;
mod delta_rule;
mod dense;
mod embedding;
mod experts;
mod features;
mod latent;
mod norm;
mod per_layer;
mod relative;
mod scan;
mod streams;
mod tensor;
#[cfg(test)]
mod tests;

pub use attention::{Alibi, Attention, Mask, NormSpan, PositionScale, QkNorm};
pub use conv::{Convolution, ShortConv};
pub use cross::Cross;
pub use delta_rule::DeltaRule;
pub use dense::{Activation, Dense};
pub use embedding::{Embedding, Pooling, Projection, ProjectionActivation};
pub use experts::{Experts, Groups, Router, RouterScores};
pub use latent::{Latent, LowRank};
pub use norm::{Norm, NormKind};
pub use per_layer::{PerLayer, PerLayerInputs};
pub use relative::RelativeBias;
pub use scan::{Gate, SelectiveScan, StateSpace};
pub use streams::{Injection, Streams};
pub use tensor::{Role, Shape, TensorKey, TensorSpec, WHOLE, WHOLE_STACK};

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
    /// Taps of a convolution.
    pub const KERNEL: u32 = 64;
    /// Elements of the recurrent state of one channel: a sequence's memory stays proportional to the file.
    pub const STATE: u32 = 1024;
    /// With the bound of INNER or HIDDEN, a number of rows still fits 32 bits.
    pub const EXPERTS: u32 = 1 << 12;
    pub const CONTEXT: u32 = 1 << 28;
    pub const ROPES: usize = 64;
    /// Of distances. With the bound of HEADS, a table has fewer than 2^25 values.
    pub const BUCKETS: u32 = 1 << 12;
    pub const STREAMS: u32 = 16;
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
    /// The stack of layers that reads a source, through the same embedding, for the decoder to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<Stack>,
    /// The stack of layers that produces the output.
    pub decoder: Stack,
    /// How the last hidden vector becomes logits; none: the hidden vectors are all there is.
    pub head: Option<Head>,
    /// How the hidden vectors of a text become one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
}

/// From ids to the residual stream: `norm(project(scale * row(id)) + bias + positions(t))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embed {
    /// Multiplier of the embedding row (1 for most).
    pub scale: f32,
    /// Width of an embedding row where it is not that of the stream: a projection without bias follows it.
    pub width: Option<u32>,
    /// Whether a vector is added to every row (the embedding of the only segment of a text).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
    /// A table of learned positions that is added.
    pub positions: Option<Positions>,
    /// A norm of the sum.
    pub norm: Option<Norm>,
    /// Vectors of single layers beside the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_layer: Option<PerLayerInputs>,
}

/// Learned positions: position t adds row `t + offset` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Positions {
    /// Rows of the table.
    pub rows: u32,
    /// The row of position 0.
    pub offset: u32,
    /// An id that has no position of its own: it gets the row before that of position 0, and ids after it count as if it were not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<u32>,
}

impl Embed {
    /// The row of the id, multiplied by `scale`, and nothing else.
    pub fn scaled(scale: f32) -> Embed {
        Embed {
            scale,
            width: None,
            bias: false,
            positions: None,
            norm: None,
            per_layer: None,
        }
    }

    fn validate(&self) -> Result<()> {
        finite("spec", "embed.scale", self.scale)?;
        if let Some(width) = self.width {
            within("spec", "embed.width", width, bound::HIDDEN)?;
        }
        if let Some(Positions {
            rows,
            offset,
            padding,
        }) = self.positions
        {
            within("spec", "embed.positions.rows", rows, bound::CONTEXT)?;
            if offset >= rows {
                return Err(Error::new(format_args!(
                    "spec: embed.positions.offset is {offset}, expected less than the {rows} rows"
                )));
            }
            if padding.is_some() && offset == 0 {
                return Err(Error::new(
                    "spec: embed.positions.offset is 0, expected a row before it for the padding",
                ));
            }
        }
        if let Some(per_layer) = &self.per_layer {
            per_layer.validate()?;
        }
        self.norm.iter().try_for_each(|n| n.validate("embed.norm"))
    }

    fn tensors(&self, vocab: u32, hidden: u32, layers: usize, out: &mut Vec<TensorSpec>) {
        let mut push = |role, shape| {
            out.push(TensorSpec {
                key: TensorKey::model(role),
                shape,
            })
        };
        let width = self.width.unwrap_or(hidden);
        push(Role::TokenEmbedding, Shape::matrix(vocab, width));
        if self.width.is_some() {
            push(Role::EmbedProjection, Shape::matrix(hidden, width));
        }
        if self.bias {
            push(Role::EmbedBias, Shape::Vector(hidden));
        }
        if let Some(p) = self.positions {
            push(Role::PositionEmbedding, Shape::matrix(p.rows, hidden));
        }
        if let Some(norm) = &self.norm {
            let key = TensorKey::model(Role::EmbedNorm);
            norm.tensors(key, Role::EmbedNormBias, hidden, out);
        }
        if let Some(per_layer) = &self.per_layer {
            per_layer.tensors(hidden, layers, out);
        }
    }
}

/// Layers and the norm after them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The layers, first to last; stored as kinds of layers and their order.
    #[serde(with = "crate::layers")]
    pub layers: Vec<Layer>,
    /// Several residual streams beside each other; none: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Streams>,
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

impl Layer {
    /// Every operation of the layer that has a cache, in order.
    fn caching(&self) -> impl Iterator<Item = &Op> {
        let branches = self.blocks.iter().flat_map(|b| &b.branches);
        let ops = branches.map(|b| &b.op);
        ops.filter(|op| matches!(op, Op::Attention(_) | Op::Latent(_)))
    }
}

/// One step of the residual stream: `x = stream_scale * out(x + scale * post(sum of branches(pre(x))))`.
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
    /// Norm of the stream itself after the sum has joined it (Vaswani et al. 2017).
    pub out: Option<Norm>,
    /// Multiplier of the stream itself, at the end.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub stream_scale: f32,
}

impl Block {
    /// One branch behind a norm, the usual half of a layer.
    pub fn pre_norm(pre: Norm, op: Op) -> Block {
        Block {
            pre: Some(pre),
            branches: vec![Branch::new(op)],
            post: None,
            scale: 1.0,
            out: None,
            stream_scale: 1.0,
        }
    }
}

/// One operation of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// A norm of this branch alone, after the block's.
    pub pre: Option<Norm>,
    /// The operation.
    pub op: Op,
    /// A norm of its output alone, before it joins the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post: Option<Norm>,
    /// Multiplier of what joins the sum.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub scale: f32,
}

impl Branch {
    /// The operation and nothing around it.
    pub fn new(op: Op) -> Branch {
        Branch {
            pre: None,
            op,
            post: None,
            scale: 1.0,
        }
    }
}

/// The multiplier that changes nothing, which is left out of the stored form.
fn one() -> f32 {
    1.0
}

fn is_one(x: &f32) -> bool {
    *x == 1.0
}

/// What a branch computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Attention over a cache of keys and values.
    Attention(Attention),
    /// Attention over a cache of narrow vectors.
    Latent(Latent),
    /// Attention to the encoder's hidden vectors.
    Cross(Cross),
    /// A feed-forward network.
    Dense(Dense),
    /// A mixture of feed-forward networks.
    Experts(Experts),
    /// A gated convolution over a few tokens.
    ShortConv(ShortConv),
    /// A recurrence of channels with a rate of decay for every element of the state.
    SelectiveScan(SelectiveScan),
    /// A recurrence of heads with one rate of decay each.
    StateSpace(StateSpace),
    /// Linear attention whose state corrects what it holds under a key.
    DeltaRule(DeltaRule),
    /// What a layer makes of its own vector of [`Embed::per_layer`].
    PerLayer(PerLayer),
    /// What the branch reads, unchanged.
    Pass,
}

/// From the last hidden vector to logits: `softcap(scale * (head(project(x)) + bias))`.
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
    /// Width of a row of the head where it is not that of the stream: a projection without bias comes before it.
    pub width: Option<u32>,
}

impl Head {
    fn validate(&self, embed: &Embed) -> Result<()> {
        finite("spec", "head.scale", self.scale)?;
        if let Some(cap) = self.softcap {
            positive("spec", "head.softcap", cap)?;
        }
        if let Some(width) = self.width {
            within("spec", "head.width", width, bound::HIDDEN)?;
        }
        if self.tied && self.width != embed.width {
            return Err(Error::new(format_args!(
                "spec: head.width is {:?}, expected {:?} like the embedding that it is tied to",
                self.width, embed.width
            )));
        }
        Ok(())
    }

    fn tensors(&self, vocab: u32, hidden: u32, out: &mut Vec<TensorSpec>) {
        let mut push = |role, shape| {
            out.push(TensorSpec {
                key: TensorKey::model(role),
                shape,
            })
        };
        let width = self.width.unwrap_or(hidden);
        if self.width.is_some() {
            push(Role::HeadProjection, Shape::matrix(width, hidden));
        }
        if !self.tied {
            push(Role::Head, Shape::matrix(vocab, width));
        }
        if self.bias {
            push(Role::HeadBias, Shape::Vector(vocab));
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
        self.embed.validate()?;
        if let Some(head) = &self.head {
            head.validate(&self.embed)?;
        }
        if let Some(embedding) = &self.embedding {
            embedding.validate()?;
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
        self.validate_encoder()?;
        self.decoder.validate(self)
    }

    /// Checks that cross attention and an encoder come together.
    fn validate_encoder(&self) -> Result<()> {
        let crosses = self.decoder.crosses().next();
        let Some(encoder) = &self.encoder else {
            return crosses.map_or(Ok(()), |place| {
                Err(Error::new(format_args!(
                    "{place}: cross attention, but there is no encoder"
                )))
            });
        };
        if crosses.is_none() {
            return Err(Error::new(
                "spec: an encoder, but the decoder has no cross attention to it",
            ));
        }
        if let Some(place) = encoder.crosses().next() {
            return Err(Error::new(format_args!(
                "encoder: {place}: cross attention, expected it in the decoder only"
            )));
        }
        if self.embed.per_layer.is_some() {
            return Err(Error::new(
                "spec: embed.per_layer beside an encoder, whose layers would have no vectors",
            ));
        }
        encoder
            .validate(self)
            .map_err(|e| Error::new(format_args!("encoder: {e}")))
    }

    /// Every tensor of the model's file, in file order.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut out = Vec::new();
        let hidden = self.hidden;
        let layers = self.decoder.layers.len();
        self.embed
            .tensors(self.vocab_size, hidden, layers, &mut out);
        let width = self.embed.per_layer.as_ref().map_or(0, |p| p.width);
        if let Some(encoder) = &self.encoder {
            let first = out.len();
            encoder.tensors(hidden, width, &mut out);
            for tensor in &mut out[first..] {
                tensor.key = tensor.key.in_encoder();
            }
        }
        self.decoder.tensors(hidden, width, &mut out);
        if let Some(head) = &self.head {
            head.tensors(self.vocab_size, hidden, &mut out);
        }
        if let Some(embedding) = &self.embedding {
            embedding.tensors(hidden, &mut out);
        }
        out
    }

    /// Whether a sequence has to go through the model in one pass, because a token depends on what comes after it (or, for its position,
    /// on the ids before it).
    pub fn one_pass(&self) -> bool {
        let branches = self.decoder.layers.iter().flat_map(|l| &l.blocks);
        let mut ops = branches.flat_map(|b| &b.branches).map(|b| &b.op);
        ops.any(|op| matches!(op, Op::Attention(a) if a.mask.looks_ahead()))
            || self.embed.positions.is_some_and(|p| p.padding.is_some())
    }

    /// Whether the model knows positions by nothing that ends or was scaled for a length: it has no table of positions, and rotations only if
    /// they are scaled to whatever length a sequence has.
    pub fn any_length(&self) -> bool {
        let grows = |rope: &Rope| matches!(rope, Rope::DynamicNtk { .. });
        self.embed.positions.is_none() && self.ropes.iter().all(grows)
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
    /// The places of cross attention.
    fn crosses(&self) -> impl Iterator<Item = String> {
        let blocks = self.layers.iter().enumerate().flat_map(|(l, layer)| {
            let blocks = layer.blocks.iter().enumerate();
            blocks.map(move |(b, block)| (l, b, block))
        });
        blocks
            .filter(|(_, _, block)| block.branches.iter().any(|r| matches!(r.op, Op::Cross(_))))
            .map(|(l, b, _)| format!("layers.{l}.blocks.{b}"))
    }

    /// Every tensor of the stack, with keys of the decoder; `width` is that of the vectors of single layers.
    fn tensors(&self, hidden: u32, width: u32, out: &mut Vec<TensorSpec>) {
        for (l, layer) in self.layers.iter().enumerate() {
            for (b, block) in layer.blocks.iter().enumerate() {
                if let Some(norm) = &block.pre {
                    norm.tensors(
                        TensorKey::block(l, b, Role::PreNorm),
                        Role::PreNormBias,
                        hidden,
                        out,
                    );
                }
                for (r, branch) in block.branches.iter().enumerate() {
                    let at = |role| TensorKey::branch(l, b, r, role);
                    if let Some(norm) = &branch.pre {
                        norm.tensors(at(Role::PreNorm), Role::PreNormBias, hidden, out);
                    }
                    match &branch.op {
                        Op::Attention(a) => a.tensors(at, hidden, out),
                        Op::Latent(l) => l.tensors(at, hidden, out),
                        Op::Cross(c) => c.tensors(at, hidden, out),
                        Op::Dense(d) => d.tensors(at, hidden, out),
                        Op::Experts(e) => e.tensors(at, hidden, out),
                        Op::ShortConv(c) => c.tensors(at, hidden, out),
                        Op::SelectiveScan(s) => s.tensors(at, hidden, out),
                        Op::StateSpace(s) => s.tensors(at, hidden, out),
                        Op::DeltaRule(d) => d.tensors(at, hidden, out),
                        Op::PerLayer(p) => p.tensors(at, hidden, width, out),
                        Op::Pass => {}
                    }
                    if let Some(norm) = &branch.post {
                        norm.tensors(at(Role::PostNorm), Role::PostNormBias, hidden, out);
                    }
                }
                if let Some(norm) = &block.post {
                    norm.tensors(
                        TensorKey::block(l, b, Role::PostNorm),
                        Role::PostNormBias,
                        hidden,
                        out,
                    );
                }
                if let Some(norm) = &block.out {
                    norm.tensors(
                        TensorKey::block(l, b, Role::StreamNorm),
                        Role::StreamNormBias,
                        hidden,
                        out,
                    );
                }
            }
        }
        if let Some(streams) = &self.streams {
            streams.tensors(hidden, self.layers.len(), width, out);
        }
        if let Some(norm) = &self.final_norm {
            norm.tensors(
                TensorKey::model(Role::FinalNorm),
                Role::FinalNormBias,
                hidden,
                out,
            );
        }
    }

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
        if let Some(streams) = &self.streams {
            streams.validate(spec.embed.per_layer.is_some())?;
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
                finite(&place, "stream_scale", block.stream_scale)?;
                for norm in [&block.pre, &block.post, &block.out].into_iter().flatten() {
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
                    finite(&place, "scale", branch.scale)?;
                    for norm in [&branch.pre, &branch.post].into_iter().flatten() {
                        norm.validate(&place)?;
                    }
                    match &branch.op {
                        Op::Attention(a) => {
                            a.validate(&place, &spec.ropes)?;
                            self.check_shared(&place, l, a)?;
                        }
                        Op::Latent(l) => l.validate(&place, &spec.ropes)?,
                        Op::Cross(c) => c.validate(&place)?,
                        Op::Dense(d) => d.validate(&place)?,
                        Op::Experts(e) => e.validate(&place)?,
                        Op::ShortConv(c) => c.validate(&place)?,
                        Op::SelectiveScan(s) => s.validate(&place)?,
                        Op::StateSpace(s) => s.validate(&place)?,
                        Op::DeltaRule(d) => d.validate(&place)?,
                        Op::PerLayer(p) if spec.embed.per_layer.is_some() => p.validate(&place)?,
                        Op::Pass => {}
                        Op::PerLayer(_) => {
                            return Err(Error::new(format_args!(
                                "{place}: per_layer, but the embedding makes no vectors of layers"
                            )));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks that the keys and values that an attention of layer `l` shares are there and fit.
    fn check_shared(&self, place: &str, l: usize, a: &Attention) -> Result<()> {
        let Some(from) = a.shared.map(|from| from as usize) else {
            return Ok(());
        };
        let earlier = self.layers[..l].get(from);
        match earlier
            .map(|layer| layer.caching().collect::<Vec<_>>())
            .as_deref()
        {
            Some([Op::Attention(other)]) if a.reads(other) => Ok(()),
            _ => Err(Error::new(format_args!(
                "{place}: shared is {from}, expected an earlier layer whose only attention has keys and values of its own in the same shape and with the same mask"
            ))),
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

fn positive(place: &str, field: &str, value: f32) -> Result<()> {
    if !(value.is_finite() && value > 0.0) {
        return Err(Error::new(format_args!(
            "{place}: {field} is {value}, expected a number > 0"
        )));
    }
    Ok(())
}

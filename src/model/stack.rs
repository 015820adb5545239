//! The layers of a stack bound to their tensors.

use super::{Binder, Block, BoundOp, Branch, Slots};
use crate::blocks::cross::Cross;
use crate::blocks::streams::Streams;
use crate::cache::{Sequence, StateShape};
use crate::error::Result;
use crate::file::ModelFile;
use crate::ops::BoundNorm;
use quern_kernels::KvType;
use quern_models::spec::{self, Role, TensorKey};

/// Layers, the norm after them, and what a sequence holds for them.
pub(super) struct Stack {
    /// The blocks of every layer.
    pub layers: Vec<Vec<Block>>,
    /// Several residual streams, if there are more than one.
    pub streams: Option<Streams>,
    /// The norm after the last layer.
    pub final_norm: Option<BoundNorm>,
    /// The recurrent states of a sequence.
    states: Vec<StateShape>,
}

impl Stack {
    /// Binds every tensor of a stack, which is the encoder or the decoder.
    pub fn bind(file: &ModelFile, spec: &spec::Stack, encoder: bool) -> Result<Stack> {
        let at = |key: TensorKey| Binder {
            file,
            key: if encoder { key.in_encoder() } else { key },
        };
        let mut slots = Slots::default();
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (l, layer) in spec.layers.iter().enumerate() {
            let mut blocks = Vec::with_capacity(layer.blocks.len());
            for (b, block) in layer.blocks.iter().enumerate() {
                let mut branches = Vec::with_capacity(block.branches.len());
                let mut posts = Vec::with_capacity(block.branches.len());
                for (r, branch) in block.branches.iter().enumerate() {
                    let at = at(TensorKey::branch(l, b, r, Role::PreNorm));
                    branches.push(Branch {
                        pre: at.norm(&branch.pre, Role::PreNorm, Role::PreNormBias)?,
                        op: at.op(&branch.op, &mut slots)?,
                    });
                    posts.push(at.norm(&branch.post, Role::PostNorm, Role::PostNormBias)?);
                }
                let at = at(TensorKey::block(l, b, Role::PreNorm));
                blocks.push(Block {
                    pre: at.norm(&block.pre, Role::PreNorm, Role::PreNormBias)?,
                    branches,
                    scales: block.branches.iter().map(|b| b.scale).collect(),
                    posts,
                    post: at.norm(&block.post, Role::PostNorm, Role::PostNormBias)?,
                    scale: block.scale,
                    out: at.norm(&block.out, Role::StreamNorm, Role::StreamNormBias)?,
                    stream_scale: block.stream_scale,
                });
            }
            layers.push(blocks);
        }
        let whole = at(TensorKey::model(Role::FinalNorm));
        let (norm, bias) = (Role::FinalNorm, Role::FinalNormBias);
        let streams = |streams| whole.streams(streams, spec.layers.len());
        Ok(Stack {
            layers,
            streams: spec.streams.as_ref().map(streams).transpose()?,
            final_norm: whole.norm(&spec.final_norm, norm, bias)?,
            states: slots.states,
        })
    }

    /// All blocks in order, each with its layer and whether it is the first there.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, bool, &Block)> {
        let layers = self.layers.iter().enumerate();
        layers.flat_map(|(l, blocks)| {
            blocks
                .iter()
                .enumerate()
                .map(move |(b, block)| (l, b == 0, block))
        })
    }

    /// What all branches compute, in the order of the caches that they have.
    fn ops(&self) -> impl Iterator<Item = &BoundOp> {
        let blocks = self.layers.iter().flatten();
        blocks.flat_map(|block| &block.branches).map(|b| &b.op)
    }

    /// Attention to a source, in the order of the source's caches.
    pub fn crosses(&self) -> impl Iterator<Item = &Cross> {
        self.ops().filter_map(|op| match op {
            BoundOp::Cross(c) => Some(c),
            _ => None,
        })
    }

    /// An empty sequence that goes through these layers; `kv` is the element type of its keys and values.
    pub fn sequence(&self, kv: KvType, keep_ids: bool) -> Sequence {
        let shapes = self.ops().filter_map(|op| match op {
            BoundOp::Attention(a, _) => a.kv.is_some().then(|| a.shape(kv)),
            BoundOp::Latent(l) => Some(l.shape(kv)),
            _ => None,
        });
        Sequence::new(shapes, &self.states, keep_ids)
    }
}

//! A Spec bound to the tensors of an open file, and the one forward pass over a ragged batch.
//!
//! Decoding is a batch of one token, prefill of a chunk, batch generation of many sequences: there is no other path. What a token's
//! logits are does not depend on its neighbours in the batch.
//!
//! `ends` is what comes before and after the layers, `stack` the layers, `engine` runs the pass, `source` the one of an encoder.

mod ends;
mod engine;
mod hidden;
mod source;
mod stack;

pub use engine::{Engine, Logits, Step, Wanted};
pub use hidden::Hidden;
pub use source::Source;

use crate::blocks::scores::{HeadNorm, Scores};
use crate::blocks::{
    attention, conv, cross, delta_rule, dense, experts, latent, per_layer, selective_scan,
    state_space, streams,
};
use crate::cache::{Sequence, StateShape};
use crate::error::Result;
use crate::file::ModelFile;
use crate::ops::{BoundNorm, Pending, wants_quantized};
use crate::tensor::{Matrix, Vector};
use ends::{Embedding, Head, Projection};
use quern_kernels::KvType;
use quern_models::Spec;
use quern_models::rope::Rope;
use quern_models::spec::{self, Op, Role, TensorKey};
use stack::Stack;
use std::sync::Arc;

/// A model whose weights are ready to be read: views into the open file, nothing copied.
pub struct Model {
    file: Arc<ModelFile>,
    embedding: Embedding,
    encoder: Option<Stack>,
    decoder: Stack,
    head: Option<Head>,
    projections: Vec<Projection>,
    pooler: Option<Projection>,
}

struct Block {
    pre: Option<BoundNorm>,
    branches: Vec<Branch>,
    /// Multipliers of the branches.
    scales: Vec<f32>,
    /// Norms of the branches' outputs, one each.
    posts: Vec<Option<BoundNorm>>,
    post: Option<BoundNorm>,
    scale: f32,
    out: Option<BoundNorm>,
    stream_scale: f32,
}

impl Block {
    /// What `block` returned, ready to be added to the stream.
    fn pending<'a>(block: Option<&'a Block>, outputs: &'a mut [Vec<f32>]) -> Option<Pending<'a>> {
        block.map(|block| Pending {
            outputs: &mut outputs[..block.branches.len()],
            scales: &block.scales,
            posts: &block.posts,
            post: block.post.as_ref(),
            scale: block.scale,
            out: block.out.as_ref(),
            stream_scale: block.stream_scale,
        })
    }
}

struct Branch {
    pre: Option<BoundNorm>,
    op: BoundOp,
}

// A few hundred per model, made once: a box would save nothing and cost a jump per access.
#[allow(clippy::large_enum_variant)]
enum BoundOp {
    Attention(attention::Attention, Option<usize>),
    Latent(latent::Latent),
    Cross(cross::Cross),
    Dense(dense::Dense),
    Experts(experts::Experts),
    ShortConv(conv::ShortConv),
    SelectiveScan(selective_scan::SelectiveScan),
    StateSpace(state_space::StateSpace),
    DeltaRule(delta_rule::DeltaRule),
    PerLayer(per_layer::PerLayer),
    Pass,
}

impl BoundOp {
    /// What a profile calls it.
    fn name(&self) -> &'static str {
        match self {
            BoundOp::Attention(..) => "attention",
            BoundOp::Latent(_) => "latent attention",
            BoundOp::Cross(_) => "cross attention",
            BoundOp::Dense(_) => "dense network",
            BoundOp::Experts(_) => "experts",
            BoundOp::ShortConv(_) => "short convolution",
            BoundOp::SelectiveScan(_) => "selective scan",
            BoundOp::StateSpace(_) => "state space",
            BoundOp::DeltaRule(_) => "delta rule",
            BoundOp::PerLayer(_) => "vectors of layers",
            BoundOp::Pass => "pass",
        }
    }

    /// Whether a matrix that reads the branch's input has an integer format.
    fn wants_quantized(&self) -> bool {
        match self {
            BoundOp::Attention(a, _) => a.readers().any(wants_quantized),
            BoundOp::Latent(l) => l.readers().any(wants_quantized),
            BoundOp::Cross(c) => wants_quantized(&c.q),
            BoundOp::Dense(d) => d.readers().any(wants_quantized),
            BoundOp::Experts(_) | BoundOp::Pass => false,
            BoundOp::ShortConv(c) => wants_quantized(&c.input),
            BoundOp::SelectiveScan(s) => wants_quantized(&s.input),
            BoundOp::StateSpace(s) => wants_quantized(&s.input),
            BoundOp::DeltaRule(d) => d.readers().any(wants_quantized),
            BoundOp::PerLayer(p) => wants_quantized(&p.gate),
        }
    }
}

/// What a sequence has to hold for the operations bound so far.
#[derive(Default)]
struct Slots {
    /// The layer of each cache.
    caches: Vec<u32>,
    /// How many caches of the source there are.
    sources: usize,
    states: Vec<StateShape>,
}

impl Slots {
    /// The index of a cache of this layer.
    fn cache(&mut self, layer: u32) -> usize {
        self.caches.push(layer);
        self.caches.len() - 1
    }

    /// The index of a layer's only cache, which the Spec's validation has found.
    fn cache_of(&self, layer: u32) -> usize {
        let found = self.caches.iter().position(|l| *l == layer);
        found.expect("a shared cache belongs to an earlier layer")
    }

    /// The index of the source's next cache.
    fn source_cache(&mut self) -> usize {
        self.sources += 1;
        self.sources - 1
    }

    /// The index of a state of this shape.
    fn state(&mut self, shape: StateShape) -> usize {
        self.states.push(shape);
        self.states.len() - 1
    }
}

/// Finds the tensors of one part of the Spec.
struct Binder<'a> {
    file: &'a ModelFile,
    key: TensorKey,
}

impl Binder<'_> {
    fn matrix(&self, role: Role) -> Result<Matrix> {
        self.file.matrix(TensorKey { role, ..self.key })
    }

    fn matrix_if(&self, there: bool, role: Role) -> Result<Option<Matrix>> {
        there.then(|| self.matrix(role)).transpose()
    }

    fn vector(&self, role: Role) -> Result<Vector> {
        self.file.vector(TensorKey { role, ..self.key })
    }

    fn vector_if(&self, there: bool, role: Role) -> Result<Option<Vector>> {
        there.then(|| self.vector(role)).transpose()
    }

    fn norm(
        &self,
        norm: &Option<spec::Norm>,
        weight: Role,
        bias: Role,
    ) -> Result<Option<BoundNorm>> {
        let bind = |norm| self.bound_norm(norm, weight, bias);
        norm.as_ref().map(bind).transpose()
    }

    fn bound_norm(&self, norm: &spec::Norm, weight: Role, bias: Role) -> Result<BoundNorm> {
        Ok(BoundNorm {
            spec: norm.clone(),
            weight: self.vector_if(norm.weight, weight)?,
            bias: self.vector_if(norm.bias, bias)?,
        })
    }

    fn head_norm(
        &self,
        norm: &Option<spec::QkNorm>,
        weight: Role,
        bias: Role,
    ) -> Result<Option<HeadNorm>> {
        let Some(spec::QkNorm { norm, span, .. }) = norm else {
            return Ok(None);
        };
        let norm = self.norm(&Some(norm.clone()), weight, bias)?;
        Ok(norm.map(|norm| HeadNorm { norm, span: *span }))
    }

    fn convolution(
        &self,
        c: &spec::Convolution,
        channels: u32,
        slots: &mut Slots,
    ) -> Result<conv::Convolution> {
        Ok(conv::Convolution {
            spec: *c,
            weight: self.vector(Role::ConvWeight)?,
            bias: self.vector_if(c.bias, Role::ConvBias)?,
            state: slots.state(conv::Convolution::state_shape(c, channels as usize)),
        })
    }

    fn latent(&self, l: &spec::Latent, cache: usize) -> Result<latent::Latent> {
        let norm = |low: &spec::LowRank, weight, bias| {
            Ok(BoundNorm {
                spec: low.norm.clone(),
                weight: self.vector_if(low.norm.weight, weight)?,
                bias: self.vector_if(low.norm.bias, bias)?,
            })
        };
        let query = match &l.query {
            None => latent::Query::Direct(self.matrix(Role::LatentQuery)?),
            Some(low) => latent::Query::LowRank {
                down: self.matrix(Role::LatentQueryDown)?,
                bias: self.vector_if(l.down_bias, Role::LatentQueryDownBias)?,
                norm: norm(low, Role::LatentQueryNorm, Role::LatentQueryNormBias)?,
                up: self.matrix(Role::LatentQuery)?,
            },
        };
        Ok(latent::Latent {
            spec: l.clone(),
            query,
            kv_down: self.matrix(Role::LatentKvDown)?,
            kv_bias: self.vector_if(l.down_bias, Role::LatentKvDownBias)?,
            kv_norm: norm(&l.kv, Role::LatentKvNorm, Role::LatentKvNormBias)?,
            key: self.matrix(Role::LatentKey)?,
            value: self.matrix(Role::LatentValue)?,
            o: self.matrix(Role::AttnO)?,
            o_bias: self.vector_if(l.o_bias, Role::AttnOBias)?,
            scores: Scores::default(),
            cache,
        })
    }

    fn keys_values(&self, a: &spec::Attention) -> Result<attention::KeysValues> {
        Ok(attention::KeysValues {
            k: self.matrix(Role::AttnK)?,
            v: self.matrix(Role::AttnV)?,
            k_bias: self.vector_if(a.kv_bias, Role::AttnKBias)?,
            v_bias: self.vector_if(a.kv_bias, Role::AttnVBias)?,
            k_norm: self.head_norm(&a.qk_norm, Role::AttnKNorm, Role::AttnKNormBias)?,
        })
    }

    fn per_layer(&self, spec: &spec::PerLayer) -> Result<per_layer::PerLayer> {
        Ok(per_layer::PerLayer {
            spec: spec.clone(),
            gate: self.matrix(Role::PerLayerGate)?,
            output: self.matrix(Role::PerLayerOutput)?,
            layer: self.key.layer as usize,
        })
    }

    /// The streams of a stack of so many layers.
    fn streams(&self, spec: &spec::Streams, layers: usize) -> Result<streams::Streams> {
        let layer = |l: usize| {
            let at = Binder {
                file: self.file,
                key: TensorKey {
                    stack: self.key.stack,
                    ..TensorKey::layer(l, Role::StreamRouter)
                },
            };
            let injection = |i: &spec::Injection| {
                Ok(streams::Injection {
                    weight: at.vector_if(i.weight, Role::StreamWeight)?,
                    branch: at.per_layer(&i.per_layer)?,
                    post: at.bound_norm(&i.post, Role::PostNorm, Role::PostNormBias)?,
                })
            };
            let (norm, norm_bias) = (Role::StreamRouterNorm, Role::StreamRouterNormBias);
            Ok(streams::Layer {
                norm: at.bound_norm(&spec.norm, norm, norm_bias)?,
                router: at.vector(Role::StreamRouter)?,
                prediction: at.vector(Role::StreamPrediction)?,
                correction: at.vector(Role::StreamCorrection)?,
                injection: spec.injection.as_ref().map(injection).transpose()?,
            })
        };
        Ok(streams::Streams {
            spec: spec.clone(),
            projection: self.matrix(Role::StreamProjection)?,
            unprojection: self.matrix(Role::StreamUnprojection)?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
        })
    }

    fn op(&self, op: &Op, slots: &mut Slots) -> Result<BoundOp> {
        Ok(match op {
            Op::Attention(a) => {
                let (kv, cache) = match a.shared {
                    Some(layer) => (None, slots.cache_of(layer)),
                    None => (Some(self.keys_values(a)?), slots.cache(self.key.layer)),
                };
                let table = self.vector_if(a.relative.is_some(), Role::AttnRelativeBias)?;
                let bound = attention::Attention {
                    spec: a.clone(),
                    q: self.matrix(Role::AttnQ)?,
                    kv,
                    o: self.matrix(Role::AttnO)?,
                    gate: self.matrix_if(a.output_gate, Role::AttnGate)?,
                    q_bias: self.vector_if(a.q_bias, Role::AttnQBias)?,
                    o_bias: self.vector_if(a.o_bias, Role::AttnOBias)?,
                    q_norm: self.head_norm(&a.qk_norm, Role::AttnQNorm, Role::AttnQNormBias)?,
                    scores: Scores::new(a, table),
                    sinks: self.vector_if(a.sinks, Role::AttnSinks)?,
                    cache,
                };
                BoundOp::Attention(bound, a.rope.map(|r| r as usize))
            }
            Op::Latent(l) => BoundOp::Latent(self.latent(l, slots.cache(self.key.layer))?),
            Op::Cross(c) => BoundOp::Cross(cross::Cross {
                spec: *c,
                q: self.matrix(Role::AttnQ)?,
                k: self.matrix(Role::AttnK)?,
                v: self.matrix(Role::AttnV)?,
                o: self.matrix(Role::AttnO)?,
                scores: Scores::default(),
                cache: slots.source_cache(),
            }),
            Op::Dense(d) => BoundOp::Dense(dense::Dense {
                spec: d.clone(),
                gate: d.gated.then(|| self.matrix(Role::MlpGate)).transpose()?,
                up: self.matrix(Role::MlpUp)?,
                down: self.matrix(Role::MlpDown)?,
                gate_bias: self.vector_if(d.up_bias && d.gated, Role::MlpGateBias)?,
                up_bias: self.vector_if(d.up_bias, Role::MlpUpBias)?,
                down_bias: self.vector_if(d.down_bias, Role::MlpDownBias)?,
                output_gate: self.vector_if(d.output_gate, Role::MlpOutputGate)?,
            }),
            Op::Experts(e) => BoundOp::Experts(experts::Experts {
                spec: e.clone(),
                router: self.vector(Role::Router)?,
                router_bias: self.vector_if(e.router.bias, Role::RouterBias)?,
                correction: self.vector_if(e.router.correction, Role::RouterCorrection)?,
                router_norm: self.norm(&e.router.norm, Role::RouterNorm, Role::RouterNormBias)?,
                expert_scales: self.vector_if(e.router.expert_scales, Role::RouterExpertScales)?,
                gate: self.matrix(Role::ExpertGate)?,
                up: self.matrix(Role::ExpertUp)?,
                down: self.matrix(Role::ExpertDown)?,
                gate_bias: self.vector_if(e.up_bias, Role::ExpertGateBias)?,
                up_bias: self.vector_if(e.up_bias, Role::ExpertUpBias)?,
                down_bias: self.vector_if(e.down_bias, Role::ExpertDownBias)?,
            }),
            Op::ShortConv(c) => BoundOp::ShortConv(conv::ShortConv {
                input: self.matrix(Role::MixerIn)?,
                input_bias: self.vector_if(c.bias, Role::MixerInBias)?,
                conv: self.convolution(&c.conv, self.file.spec().hidden, slots)?,
                output: self.matrix(Role::MixerOut)?,
                output_bias: self.vector_if(c.bias, Role::MixerOutBias)?,
            }),
            Op::SelectiveScan(s) => {
                let conv = self.convolution(&s.conv, s.inner, slots)?;
                BoundOp::SelectiveScan(selective_scan::SelectiveScan {
                    spec: s.clone(),
                    input: self.matrix(Role::MixerIn)?,
                    input_bias: self.vector_if(s.bias, Role::MixerInBias)?,
                    conv,
                    scan_in: self.matrix(Role::ScanIn)?,
                    step: self.matrix(Role::StepProjection)?,
                    step_bias: self.vector(Role::StepBias)?,
                    rate: self.vector(Role::Rate)?,
                    skip: self.vector(Role::Skip)?,
                    output: self.matrix(Role::MixerOut)?,
                    output_bias: self.vector_if(s.bias, Role::MixerOutBias)?,
                    state: slots.state(selective_scan::state_shape(s)),
                })
            }
            Op::StateSpace(s) => {
                let conv = self.convolution(&s.conv, s.conv_channels(), slots)?;
                let norm = s.gate.norm().cloned();
                BoundOp::StateSpace(state_space::StateSpace {
                    spec: s.clone(),
                    input: self.matrix(Role::MixerIn)?,
                    input_bias: self.vector_if(s.in_bias, Role::MixerInBias)?,
                    conv,
                    step_bias: self.vector(Role::StepBias)?,
                    rate: self.vector(Role::Rate)?,
                    skip: self.vector(Role::Skip)?,
                    norm: self.norm(&norm, Role::GateNorm, Role::GateNormBias)?,
                    output: self.matrix(Role::MixerOut)?,
                    output_bias: self.vector_if(s.out_bias, Role::MixerOutBias)?,
                    state: slots.state(state_space::state_shape(s)),
                })
            }
            Op::DeltaRule(d) => BoundOp::DeltaRule(delta_rule::DeltaRule {
                spec: d.clone(),
                qkv: self.matrix(Role::DeltaQkv)?,
                gate: self.matrix(Role::DeltaGate)?,
                beta: self.vector(Role::DeltaBeta)?,
                decay: self.vector(Role::DeltaDecay)?,
                decay_bias: self.vector(Role::DeltaDecayBias)?,
                rate: self.vector(Role::Rate)?,
                conv: self.convolution(&d.conv, d.channels(), slots)?,
                norm: BoundNorm {
                    spec: d.norm.clone(),
                    weight: self.vector_if(d.norm.weight, Role::GateNorm)?,
                    bias: self.vector_if(d.norm.bias, Role::GateNormBias)?,
                },
                output: self.matrix(Role::MixerOut)?,
                state: slots.state(delta_rule::state_shape(d)),
            }),
            Op::PerLayer(p) => BoundOp::PerLayer(self.per_layer(p)?),
            Op::Pass => BoundOp::Pass,
        })
    }
}

impl Model {
    /// Binds every tensor that the file's Spec names.
    ///
    /// # Errors
    /// A tensor is not there or has another shape (an open file has been checked, so that is a bug in the caller).
    pub fn bind(file: Arc<ModelFile>) -> Result<Model> {
        let spec = file.spec();
        let whole = Binder {
            file: &file,
            key: TensorKey::model(Role::TokenEmbedding),
        };
        let encoder = spec.encoder.as_ref();
        let encoder = encoder.map(|s| Stack::bind(&file, s, true)).transpose()?;
        let decoder = Stack::bind(&file, &spec.decoder, false)?;
        let per_layer = |inputs: &spec::PerLayerInputs| {
            let (norm, norm_bias) = (Role::PerLayerNorm, Role::PerLayerNormBias);
            Ok(per_layer::Inputs {
                spec: inputs.clone(),
                table: whole.matrix(Role::PerLayerEmbedding)?,
                projection: whole.matrix(Role::PerLayerProjection)?,
                norm: whole.bound_norm(&inputs.norm, norm, norm_bias)?,
            })
        };
        let embedding = Embedding {
            matrix: whole.matrix(Role::TokenEmbedding)?,
            scale: spec.embed.scale,
            projection: whole.matrix_if(spec.embed.width.is_some(), Role::EmbedProjection)?,
            positions: whole.matrix_if(spec.embed.positions.is_some(), Role::PositionEmbedding)?,
            bias: whole.vector_if(spec.embed.bias, Role::EmbedBias)?,
            offset: spec.embed.positions.map_or(0, |p| p.offset as usize),
            padding: spec.embed.positions.and_then(|p| p.padding),
            norm: whole.norm(&spec.embed.norm, Role::EmbedNorm, Role::EmbedNormBias)?,
            per_layer: spec.embed.per_layer.as_ref().map(per_layer).transpose()?,
        };
        let head = |head: &spec::Head| {
            Ok(Head {
                projection: whole.matrix_if(head.width.is_some(), Role::HeadProjection)?,
                matrix: if head.tied {
                    embedding.matrix.clone()
                } else {
                    whole.matrix(Role::Head)?
                },
                bias: whole.vector_if(head.bias, Role::HeadBias)?,
                scale: head.scale,
                softcap: head.softcap,
            })
        };
        let head = spec.head.as_ref().map(head).transpose()?;
        let pooled = spec.embedding.clone().unwrap_or_default();
        let projections = pooled.projections.iter().enumerate().map(|(i, p)| {
            let at = Binder {
                file: &file,
                key: TensorKey::projection(i, Role::Projection),
            };
            Ok(Projection {
                matrix: at.matrix(Role::Projection)?,
                bias: at.vector_if(p.bias, Role::ProjectionBias)?,
                activation: p.activation,
            })
        });
        let projections = projections.collect::<Result<_>>()?;
        let pooler = match pooled.pooler {
            false => None,
            true => Some(Projection {
                matrix: whole.matrix(Role::Pooler)?,
                bias: Some(whole.vector(Role::PoolerBias)?),
                activation: Some(spec::ProjectionActivation::Tanh),
            }),
        };
        Ok(Model {
            embedding,
            encoder,
            decoder,
            head,
            projections,
            pooler,
            file,
        })
    }

    /// The model as data.
    pub fn spec(&self) -> &Spec {
        self.file.spec()
    }

    /// The file that the weights lie in.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// A new sequence; `kv` is the element type of its keys and values.
    pub fn new_sequence(&self, kv: KvType) -> Sequence {
        let sequence = self.decoder.sequence(kv, self.lengths().next().is_some());
        match self.encoder {
            None => sequence,
            Some(_) => sequence.with_source(self.decoder.crosses().map(|c| c.shape(kv))),
        }
    }

    /// Lengths beyond which a sequence has to be computed anew, because its rotary frequencies change for all positions.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        let ropes = self.spec().ropes.iter();
        ropes.filter_map(|rope| match rope {
            Rope::LongRope { original, .. } => Some(*original as usize),
            _ => None,
        })
    }

    /// Whether a prompt of `a` tokens and one of `b` that begin alike turn their first positions by the same angles: dynamic scaling counts the whole
    /// prompt for each of them.
    pub(crate) fn turns_alike(&self, a: usize, b: usize) -> bool {
        let dynamic = |rope: &&Rope| matches!(rope, Rope::DynamicNtk { .. });
        let mut ropes = self.spec().ropes.iter().filter(dynamic);
        ropes.all(|rope| rope.inv_freq(a) == rope.inv_freq(b))
    }

    /// Bytes of weights that one pass reads: every matrix and vector once, of an embedding that is not the head one row; nothing that only
    /// encoding a source reads.
    pub fn weight_bytes_per_pass(&self) -> u64 {
        let entries = self.file.entries().iter().filter(|e| e.key.stack == 0);
        let mut bytes: u64 = entries.map(|e| e.length).sum();
        let of_sources = self.decoder.crosses().flat_map(|c| c.source_readers());
        bytes -= of_sources.map(|m| m.bytes().len() as u64).sum::<u64>();
        if !self.spec().head.as_ref().is_some_and(|h| h.tied) {
            bytes -= self.embedding.matrix.bytes().len() as u64;
        }
        if let Some(per_layer) = &self.embedding.per_layer {
            bytes -= per_layer.table.bytes().len() as u64;
        }
        bytes
    }
}

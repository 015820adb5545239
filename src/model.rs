//! A Spec bound to the tensors of an open file, and the one forward pass over a ragged batch.
//!
//! Decoding is a batch of one token, prefill of a chunk, batch generation of many sequences: there is no other path. What a token's
//! logits are does not depend on its neighbours in the batch.

use crate::blocks::{Angles, Span, attention, dense};
use crate::cache::Sequence;
use crate::error::{Error, Result};
use crate::file::ModelFile;
use crate::ops::{
    ActBuffer, BoundNorm, Context, Pending, Product, grow, matmul, settle, wants_quantized,
};
use crate::par::{Crew, Team};
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Kernels, KvType, PANEL_ROWS, Scratch};
use quern_models::Spec;
use quern_models::spec::{self, Op, Role, TensorKey};
use std::sync::{Arc, Mutex};

/// A model whose weights are ready to be read: views into the open file, nothing copied.
pub struct Model {
    file: Arc<ModelFile>,
    embedding: Matrix,
    layers: Vec<Vec<Block>>,
    final_norm: Option<BoundNorm>,
    head: Matrix,
    head_bias: Option<Vector>,
    caches: usize,
}

struct Block {
    pre: Option<BoundNorm>,
    branches: Vec<Branch>,
    post: Option<BoundNorm>,
    scale: f32,
}

impl Block {
    /// What `block` returned, ready to be added to the stream.
    fn pending<'a>(block: Option<&'a Block>, outputs: &'a mut [Vec<f32>]) -> Option<Pending<'a>> {
        block.map(|block| Pending {
            outputs: &mut outputs[..block.branches.len()],
            post: block.post.as_ref(),
            scale: block.scale,
        })
    }
}

struct Branch {
    pre: Option<BoundNorm>,
    op: BoundOp,
}

enum BoundOp {
    Attention(attention::Attention, Option<usize>),
    Dense(dense::Dense),
}

impl BoundOp {
    /// Whether a matrix that reads the branch's input has an integer format.
    fn wants_quantized(&self) -> bool {
        match self {
            BoundOp::Attention(a, _) => a.readers().any(wants_quantized),
            BoundOp::Dense(d) => d.readers().any(wants_quantized),
        }
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
        let bind = |norm: &spec::Norm| {
            Ok(BoundNorm {
                spec: norm.clone(),
                weight: self.vector_if(norm.weight, weight)?,
                bias: self.vector_if(norm.bias, bias)?,
            })
        };
        norm.as_ref().map(bind).transpose()
    }

    fn op(&self, op: &Op, caches: &mut usize) -> Result<BoundOp> {
        Ok(match op {
            Op::Attention(a) => {
                let cache = *caches;
                *caches += 1;
                let bound = attention::Attention {
                    spec: a.clone(),
                    q: self.matrix(Role::AttnQ)?,
                    k: self.matrix(Role::AttnK)?,
                    v: self.matrix(Role::AttnV)?,
                    o: self.matrix(Role::AttnO)?,
                    q_bias: self.vector_if(a.q_bias, Role::AttnQBias)?,
                    k_bias: self.vector_if(a.kv_bias, Role::AttnKBias)?,
                    v_bias: self.vector_if(a.kv_bias, Role::AttnVBias)?,
                    o_bias: self.vector_if(a.o_bias, Role::AttnOBias)?,
                    cache,
                };
                BoundOp::Attention(bound, a.rope.map(|r| r as usize))
            }
            Op::Dense(d) => BoundOp::Dense(dense::Dense {
                spec: d.clone(),
                gate: d.gated.then(|| self.matrix(Role::MlpGate)).transpose()?,
                up: self.matrix(Role::MlpUp)?,
                down: self.matrix(Role::MlpDown)?,
                gate_bias: self.vector_if(d.up_bias && d.gated, Role::MlpGateBias)?,
                up_bias: self.vector_if(d.up_bias, Role::MlpUpBias)?,
                down_bias: self.vector_if(d.down_bias, Role::MlpDownBias)?,
            }),
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
        let mut caches = 0;
        let mut layers = Vec::with_capacity(spec.decoder.layers.len());
        for (l, layer) in spec.decoder.layers.iter().enumerate() {
            let mut blocks = Vec::with_capacity(layer.blocks.len());
            for (b, block) in layer.blocks.iter().enumerate() {
                let at = Binder {
                    file: &file,
                    key: TensorKey::block(l, b, Role::PreNorm),
                };
                let mut branches = Vec::with_capacity(block.branches.len());
                for (r, branch) in block.branches.iter().enumerate() {
                    let at = Binder {
                        file: &file,
                        key: TensorKey::branch(l, b, r, Role::PreNorm),
                    };
                    branches.push(Branch {
                        pre: at.norm(&branch.pre, Role::PreNorm, Role::PreNormBias)?,
                        op: at.op(&branch.op, &mut caches)?,
                    });
                }
                blocks.push(Block {
                    pre: at.norm(&block.pre, Role::PreNorm, Role::PreNormBias)?,
                    branches,
                    post: at.norm(&block.post, Role::PostNorm, Role::PostNormBias)?,
                    scale: block.scale,
                });
            }
            layers.push(blocks);
        }
        let embedding = whole.matrix(Role::TokenEmbedding)?;
        Ok(Model {
            final_norm: whole.norm(
                &spec.decoder.final_norm,
                Role::FinalNorm,
                Role::FinalNormBias,
            )?,
            head: if spec.head.tied {
                embedding.clone()
            } else {
                whole.matrix(Role::Head)?
            },
            head_bias: whole.vector_if(spec.head.bias, Role::HeadBias)?,
            embedding,
            layers,
            caches,
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
        let ops = self
            .layers
            .iter()
            .flatten()
            .flat_map(|block| &block.branches);
        let shapes = ops.filter_map(|branch| match &branch.op {
            BoundOp::Attention(a, _) => Some(a.shape(kv)),
            BoundOp::Dense(_) => None,
        });
        let sequence = Sequence::new(shapes);
        debug_assert_eq!(sequence.caches.len(), self.caches);
        sequence
    }

    /// Bytes of weights that one pass reads: every matrix and vector once, of an embedding that is not the head one row.
    pub fn weight_bytes_per_pass(&self) -> u64 {
        let file: u64 = self.file.entries().iter().map(|e| e.length).sum();
        if self.spec().head.tied {
            file
        } else {
            file - self.embedding.bytes().len() as u64
        }
    }
}

/// For which new positions of a step logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// For none: a chunk of a prompt before the last.
    None,
    /// For the last one.
    Last,
    /// For all of them.
    All,
}

/// New tokens of one sequence.
pub struct Step<'a> {
    /// The sequence that they join.
    pub seq: &'a mut Sequence,
    /// At least one token.
    pub tokens: &'a [u32],
    /// Where logits are wanted.
    pub wanted: Wanted,
}

/// Logits of the wanted positions: in the order of the steps, then of the positions.
pub struct Logits<'a> {
    data: &'a [f32],
    stride: usize,
    vocab: usize,
    rows: usize,
}

impl Logits<'_> {
    /// How many positions were wanted.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The `vocab_size` logits of one position.
    pub fn row(&self, i: usize) -> &[f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        &self.data[i * self.stride..][..self.vocab]
    }
}

/// A model, its kernels, threads and workspace; runs passes one after another.
pub struct Engine {
    model: Arc<Model>,
    kernels: &'static Kernels,
    team: Team,
    work: Workspace,
}

/// Buffers of a pass; they grow to the largest pass and are then reused.
#[derive(Default)]
struct Workspace {
    /// The residual stream, `[tokens][hidden]`.
    x: Vec<f32>,
    /// What the branches of a block read.
    input: ActBuffer,
    /// What a branch with a norm of its own reads.
    own_input: ActBuffer,
    /// What branches return, `[tokens][hidden padded to a panel]`.
    outputs: Vec<Vec<f32>>,
    angles: Vec<Angles>,
    attention: attention::Buffers,
    dense: dense::Buffers,
    logits: Vec<f32>,
    scratch: Vec<Mutex<Scratch>>,
}

impl Engine {
    /// An engine that runs `model` with `kernels` on `team`.
    pub fn new(model: Arc<Model>, kernels: &'static Kernels, team: Team) -> Engine {
        let scratch = (0..team.threads())
            .map(|_| Mutex::new(Scratch::new()))
            .collect();
        Engine {
            model,
            kernels,
            team,
            work: Workspace {
                scratch,
                ..Workspace::default()
            },
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The kernels.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Bytes of workspace in use.
    pub fn workspace_bytes(&self) -> usize {
        let w = &self.work;
        let floats = w.x.len() + w.logits.len() + w.outputs.iter().map(Vec::len).sum::<usize>();
        floats * 4 + w.input.bytes() + w.own_input.bytes() + w.attention.bytes() + w.dense.bytes()
    }

    /// Runs one ragged batch and returns the wanted logits.
    ///
    /// # Errors
    /// An id that is not in the vocabulary, a step without tokens, not enough memory for the cache; nothing has happened then.
    pub fn forward(&mut self, steps: &mut [Step<'_>]) -> Result<Logits<'_>> {
        let model = &*self.model;
        let vocab = model.spec().vocab_size;
        for step in steps.iter() {
            if step.tokens.is_empty() {
                return Err(Error::usage("a step without tokens"));
            }
            if let Some((i, id)) = step.tokens.iter().enumerate().find(|(_, id)| **id >= vocab) {
                let position = step.seq.len() + i;
                return Err(Error::invalid(format_args!(
                    "token id {id} at position {position}: expected less than the vocabulary's {vocab}"
                )));
            }
        }
        for step in steps.iter_mut() {
            step.seq.reserve(step.tokens.len())?;
        }
        let mut spans = Vec::with_capacity(steps.len());
        let mut ids = Vec::new();
        let mut wanted = Vec::new();
        for step in steps.iter() {
            let rows = ids.len()..ids.len() + step.tokens.len();
            ids.extend_from_slice(step.tokens);
            match step.wanted {
                Wanted::None => {}
                Wanted::Last => wanted.push(rows.end - 1),
                Wanted::All => wanted.extend(rows.clone()),
            }
            spans.push(Span {
                seq: step.seq,
                rows,
                start: step.seq.len(),
            });
        }
        let (kernels, work) = (self.kernels, &mut self.work);
        self.team
            .run(|crew| model.pass(crew, kernels, work, &spans, &ids, &wanted));
        for step in steps.iter_mut() {
            step.seq.advance(step.tokens.len());
        }
        Ok(Logits {
            data: &self.work.logits,
            stride: (vocab as usize).next_multiple_of(PANEL_ROWS),
            vocab: vocab as usize,
            rows: wanted.len(),
        })
    }
}

impl Model {
    fn pass(
        &self,
        crew: &Crew<'_>,
        kernels: &'static Kernels,
        work: &mut Workspace,
        spans: &[Span<'_>],
        ids: &[u32],
        wanted: &[usize],
    ) {
        let spec = self.spec();
        let (n, hidden) = (ids.len(), spec.hidden as usize);
        let Workspace {
            x,
            input,
            own_input,
            outputs,
            angles,
            attention,
            dense,
            logits,
            scratch,
        } = work;
        let ctx = Context {
            crew,
            kernels,
            scratch,
        };
        if angles.len() < spec.ropes.len() {
            angles.resize_with(spec.ropes.len(), Angles::default);
        }
        for (angles, rope) in angles.iter_mut().zip(&spec.ropes) {
            angles.fill(rope, spans);
        }
        grow(x, n * hidden);
        let x = &mut x[..n * hidden];
        ctx.crew.for_chunks(x, hidden, |token, row| {
            self.embedding.row(0, ids[token] as usize, row);
            if spec.embed.scale != 1.0 {
                kernels.scale(row, spec.embed.scale);
            }
        });

        // The previous block, whose results have not been added to the stream yet.
        let mut before: Option<&Block> = None;
        for block in self.layers.iter().flatten() {
            let shared = block
                .branches
                .iter()
                .any(|b| b.pre.is_none() && b.op.wants_quantized());
            input.shape(n, hidden, shared);
            settle(
                &ctx,
                x,
                hidden,
                Block::pending(before, outputs),
                block.pre.as_ref(),
                input,
            );
            if outputs.len() < block.branches.len() {
                outputs.resize_with(block.branches.len(), Vec::new);
            }
            for (branch, out) in block.branches.iter().zip(outputs.iter_mut()) {
                let h = match &branch.pre {
                    None => &*input,
                    Some(norm) => {
                        own_input.shape(n, hidden, branch.op.wants_quantized());
                        let input = &*input;
                        own_input.fill(&ctx, n, true, |t, _, out| {
                            norm.apply(kernels, input.row(t), out)
                        });
                        &*own_input
                    }
                };
                match &branch.op {
                    BoundOp::Attention(a, rope) => {
                        a.forward(&ctx, h, spans, rope.map(|r| &angles[r]), attention, out);
                    }
                    BoundOp::Dense(d) => d.forward(&ctx, h, n, dense, out),
                }
            }
            before = Some(block);
        }
        input.shape(n, hidden, false);
        settle(
            &ctx,
            x,
            hidden,
            Block::pending(before, outputs),
            None,
            input,
        );
        self.logits(&ctx, x, input, wanted, logits);
    }

    /// Final norm, head and what follows it, for the wanted tokens.
    fn logits(
        &self,
        ctx: &Context<'_>,
        x: &[f32],
        input: &mut ActBuffer,
        wanted: &[usize],
        logits: &mut Vec<f32>,
    ) {
        if wanted.is_empty() {
            return;
        }
        let (spec, n) = (self.spec(), wanted.len());
        let (hidden, vocab, kernels) =
            (spec.hidden as usize, spec.vocab_size as usize, ctx.kernels);
        input.shape(n, hidden, wants_quantized(&self.head));
        input.fill(ctx, n, true, |i, _, out| {
            let x = &x[wanted[i] * hidden..][..hidden];
            match &self.final_norm {
                Some(norm) => norm.apply(kernels, x, out),
                None => out.copy_from_slice(x),
            }
        });
        matmul(ctx, input, n, &[Product::new(&self.head, logits, n)]);
        let stride = vocab.next_multiple_of(PANEL_ROWS);
        for row in logits.chunks_exact_mut(stride).take(n) {
            let row = &mut row[..vocab];
            if let Some(bias) = &self.head_bias {
                kernels.add(row, bias);
            }
            if spec.head.scale != 1.0 {
                kernels.scale(row, spec.head.scale);
            }
            if let Some(cap) = spec.head.softcap {
                kernels.softcap(row, cap);
            }
        }
    }
}

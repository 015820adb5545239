//! The forward pass over a ragged batch.

use super::ends::states;
use super::{Block, BoundOp, Model, Stack};
use crate::blocks::{
    Angles, Span, attention, conv, delta_rule, dense, emptied, experts, latent, per_layer,
    selective_scan, state_space, streams,
};
use crate::cache::Sequence;
use crate::error::{Error, Result};
use crate::ops::{ActBuffer, Context, Pending, grow, settle};
use crate::par::profile::Profile;
use crate::par::{Crew, Team};
use quern_kernels::{Kernels, PANEL_ROWS, Scratch};
use std::sync::{Arc, Mutex};

/// For which new positions of a step logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// For none: a chunk of a prompt before the last.
    None,
    /// For the last one.
    Last,
    /// For all of them.
    All,
    /// For so many at the end.
    Tail(usize),
}

impl Wanted {
    /// Of so many new positions, how many at their end.
    fn rows(self, positions: usize) -> usize {
        match self {
            Wanted::None => 0,
            Wanted::Last => 1,
            Wanted::All => positions,
            Wanted::Tail(n) => n.min(positions),
        }
    }
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

/// What a pass computes of the wanted tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// The last hidden vectors, behind the final norm.
    Hidden,
    /// Logits.
    Logits,
}

/// Tokens of one pass when a sequence is computed anew.
const RENEW_CHUNK: usize = 512;

/// A model, its kernels, threads and workspace; runs passes one after another.
pub struct Engine {
    pub(super) model: Arc<Model>,
    pub(super) kernels: &'static Kernels,
    pub(super) team: Team,
    pub(super) work: Workspace,
    lists: Lists,
}

/// Lists of a pass, kept for their memory.
#[derive(Default)]
struct Lists {
    spans: Vec<Span<'static>>,
    ids: Vec<u32>,
    wanted: Vec<usize>,
}

/// Buffers of a pass; they grow to the largest pass and are then reused.
#[derive(Default)]
pub(super) struct Workspace {
    /// The residual stream, `[tokens][hidden]`.
    x: Vec<f32>,
    /// What the branches of a block read.
    pub(super) input: ActBuffer,
    /// What a branch with a norm of its own reads.
    own_input: ActBuffer,
    /// What branches return, `[tokens][hidden padded to a panel]`.
    outputs: Vec<Vec<f32>>,
    angles: Vec<Angles>,
    pub(super) attention: attention::Buffers,
    latent: latent::Buffers,
    dense: dense::Buffers,
    experts: experts::Buffers,
    conv: conv::Buffers,
    selective_scan: selective_scan::Buffers,
    state_space: state_space::Buffers,
    delta_rule: delta_rule::Buffers,
    per_layer: per_layer::Buffers,
    /// Vectors of single layers.
    per_layer_inputs: ActBuffer,
    streams: streams::Buffers,
    /// What a projection before or after the layers returns.
    wide: Vec<f32>,
    /// Logits, or hidden vectors, of the wanted tokens.
    pub(super) logits: Vec<f32>,
    pub(super) scratch: Vec<Mutex<Scratch>>,
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
            lists: Lists::default(),
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

    /// Writes down in this profile where the time of passes goes, from now on; the first call counts.
    pub fn set_profile(&self, profile: Arc<Profile>) {
        self.team.set_profile(profile);
    }

    /// Bytes of workspace in use.
    pub fn workspace_bytes(&self) -> usize {
        let w = &self.work;
        let floats = w.x.len()
            + w.wide.len()
            + w.logits.len()
            + w.outputs.iter().map(Vec::len).sum::<usize>();
        floats * 4
            + w.input.bytes()
            + w.own_input.bytes()
            + w.attention.bytes()
            + w.latent.bytes()
            + w.dense.bytes()
            + w.experts.bytes()
            + w.conv.bytes()
            + w.selective_scan.bytes()
            + w.state_space.bytes()
            + w.delta_rule.bytes()
            + w.per_layer.bytes()
            + w.per_layer_inputs.bytes()
            + w.streams.bytes()
    }

    /// Runs one ragged batch and returns the wanted logits.
    ///
    /// # Errors
    /// A model without a head, a step without tokens or without the source that the decoder looks at, an id that is not in the vocabulary, a later
    /// part of a sequence that needs one pass, more positions than the model has a table for, not enough memory for the cache. Nothing
    /// has happened then, but that a sequence that had to be computed anew may be empty.
    pub fn forward(&mut self, steps: &mut [Step<'_>]) -> Result<Logits<'_>> {
        if self.model.head.is_none() {
            return Err(Error::usage(
                "this model has no head for logits, only hidden vectors: see quern embed --help",
            ));
        }
        let rows = self.output(steps, Output::Logits)?;
        let vocab = self.model.spec().vocab_size as usize;
        Ok(Logits {
            data: &self.work.logits,
            stride: vocab.next_multiple_of(PANEL_ROWS),
            vocab,
            rows,
        })
    }

    /// Runs one ragged batch; the wanted rows are then in the workspace. Returns how many they are.
    pub(super) fn output(&mut self, steps: &mut [Step<'_>], output: Output) -> Result<usize> {
        self.check(steps)?;
        if self.model.lengths().next().is_none() {
            self.run(steps, output)
        } else {
            self.run_in_regimes(steps, output)
        }
    }

    fn check(&self, steps: &[Step<'_>]) -> Result<()> {
        let spec = self.model.spec();
        let one_pass = spec.one_pass();
        for step in steps {
            self.check_ids(step.tokens, step.seq.len())?;
            let source = step.seq.source();
            if self.model.encoder.is_some() && source.is_none_or(Sequence::is_empty) {
                return Err(Error::usage(
                    "a step without a source: this model's decoder looks at one, which has to be encoded first",
                ));
            }
            if one_pass && !step.seq.is_empty() {
                return Err(Error::usage(
                    "more tokens for a sequence, but this model reads one as a whole",
                ));
            }
        }
        Ok(())
    }

    /// Checks ids that are to join a sequence of `start` tokens.
    ///
    /// # Errors
    /// Usage: there are none. Invalid: one is not in the vocabulary. Limit: the model has not learned so many positions.
    pub fn check_ids(&self, ids: &[u32], start: usize) -> Result<()> {
        let spec = self.model.spec();
        let vocab = spec.vocab_size;
        if ids.is_empty() {
            return Err(Error::usage("a step without tokens"));
        }
        if let Some((i, id)) = ids.iter().enumerate().find(|(_, id)| **id >= vocab) {
            let position = start + i;
            return Err(Error::invalid(format_args!(
                "token id {id} at position {position}: expected less than the vocabulary's {vocab}"
            )));
        }
        let len = start + ids.len();
        if let Some(p) = spec.embed.positions
            && len > (p.rows - p.offset) as usize
        {
            return Err(Error::limit(format_args!(
                "{len} tokens, expected at most {}: the model has learned no more positions",
                p.rows - p.offset
            )));
        }
        Ok(())
    }

    /// One pass; returns how many rows of logits there are.
    fn run(&mut self, steps: &mut [Step<'_>], output: Output) -> Result<usize> {
        for step in steps.iter_mut() {
            step.seq.reserve(step.tokens.len())?;
        }
        // The memory of the last pass, without what was in it.
        let Lists {
            spans,
            mut ids,
            mut wanted,
        } = std::mem::take(&mut self.lists);
        let mut spans = emptied(spans);
        ids.clear();
        wanted.clear();
        for step in steps.iter() {
            let rows = ids.len()..ids.len() + step.tokens.len();
            ids.extend_from_slice(step.tokens);
            wanted.extend(rows.end - step.wanted.rows(rows.len())..rows.end);
            spans.push(Span {
                seq: step.seq,
                start: step.seq.len(),
                keys: step.seq.len() + rows.len(),
                rows,
            });
        }
        let (model, kernels, work) = (&*self.model, self.kernels, &mut self.work);
        let stack = &model.decoder;
        self.team
            .run(|crew| model.pass(crew, kernels, work, stack, &spans, &ids, &wanted, output));
        let spans = emptied(spans);
        for step in steps.iter_mut() {
            step.seq.advance(step.tokens);
        }
        let rows = wanted.len();
        self.lists = Lists { spans, ids, wanted };
        Ok(rows)
    }

    /// As [`Engine::run`] for models whose rotary frequencies change for all positions once a sequence is longer than some length: a
    /// sequence that gets there is computed anew, and a step that goes beyond it is cut there.
    fn run_in_regimes(&mut self, steps: &mut [Step<'_>], output: Output) -> Result<usize> {
        let model = self.model.clone();
        let regime = |counted: usize| model.lengths().filter(|n| counted > *n).count();
        let stride = match output {
            Output::Hidden => model.spec().hidden as usize,
            Output::Logits => (model.spec().vocab_size as usize).next_multiple_of(PANEL_ROWS),
        };
        // Logits of the pieces of each step, once a step has more than one.
        let mut kept: Vec<Vec<f32>> = vec![Vec::new(); steps.len()];
        let mut done = vec![0; steps.len()];
        loop {
            let mut pieces = Vec::new();
            let mut owners = Vec::new();
            let mut whole = true;
            for (i, step) in steps.iter_mut().enumerate() {
                let rest = &step.tokens[done[i]..];
                if rest.is_empty() {
                    continue;
                }
                let start = step.seq.len();
                let counted = step.seq.needs(start);
                if start > 0 && regime(step.seq.counts()) != regime(counted) {
                    self.renew(step.seq, counted)?;
                }
                step.seq.count_from(counted);
                let same = |k: &usize| regime(step.seq.needs(start + k)) == regime(counted);
                let n = (0..rest.len()).take_while(same).count();
                whole &= done[i] == 0 && n == rest.len();
                done[i] += n;
                let wanted = step.wanted.rows(step.tokens.len());
                let after = step.tokens.len() - done[i];
                owners.push(i);
                pieces.push(Step {
                    seq: &mut *step.seq,
                    tokens: &rest[..n],
                    wanted: Wanted::Tail(wanted.saturating_sub(after)),
                });
            }
            if pieces.is_empty() {
                break;
            }
            if whole {
                return self.run(&mut pieces, output);
            }
            self.run(&mut pieces, output)?;
            let mut at = 0;
            for (piece, owner) in pieces.iter().zip(owners) {
                let n = stride * piece.wanted.rows(piece.tokens.len());
                kept[owner].extend_from_slice(&self.work.logits[at..at + n]);
                at += n;
            }
        }
        let all = kept.concat();
        let logits = &mut self.work.logits;
        grow(logits, all.len());
        logits[..all.len()].copy_from_slice(&all);
        Ok(all.len() / stride)
    }

    /// Computes all tokens of a sequence again, as part of one that counts `counted` positions.
    fn renew(&mut self, seq: &mut Sequence, counted: usize) -> Result<()> {
        let ids = seq.restart();
        seq.count_from(counted);
        for tokens in ids.chunks(RENEW_CHUNK) {
            let step = Step {
                seq,
                tokens,
                wanted: Wanted::None,
            };
            self.run(&mut [step], Output::Hidden)?;
        }
        Ok(())
    }
}

/// Lets what a block returned join the stream `x`; `input` is a workspace.
fn settle_alone(
    ctx: &Context<'_>,
    x: &mut [f32],
    hidden: usize,
    pending: Option<Pending<'_>>,
    input: &mut ActBuffer,
) {
    input.shape(x.len() / hidden, hidden, false);
    settle(ctx, x, hidden, pending, None, input);
}

/// A branch that returns what it reads.
fn unchanged(ctx: &Context<'_>, h: &ActBuffer, n: usize, hidden: usize, out: &mut Vec<f32>) {
    let stride = hidden.next_multiple_of(PANEL_ROWS);
    grow(out, n * stride);
    ctx.crew
        .for_chunks(&mut out[..n * stride], stride, |token, out| {
            out[..hidden].copy_from_slice(h.row(token));
        });
}

impl Model {
    /// The tokens of all spans through one of the model's stacks.
    pub(super) fn pass(
        &self,
        crew: &Crew<'_>,
        kernels: &'static Kernels,
        work: &mut Workspace,
        stack: &Stack,
        spans: &[Span<'_>],
        ids: &[u32],
        wanted: &[usize],
        output: Output,
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
            latent,
            dense,
            experts,
            conv,
            selective_scan,
            state_space,
            delta_rule,
            per_layer,
            per_layer_inputs,
            streams,
            wide,
            logits,
            scratch,
        } = work;
        let ctx = Context {
            crew,
            kernels,
            scratch,
        };
        crew.operation("embedding");
        if angles.len() < spec.ropes.len() {
            angles.resize_with(spec.ropes.len(), Angles::default);
        }
        for (angles, rope) in angles.iter_mut().zip(&spec.ropes) {
            angles.fill(rope, spans);
        }
        grow(x, n * hidden);
        let x = &mut x[..n * hidden];
        self.embedding.forward(&ctx, spans, ids, input, wide, x);
        if let Some(p) = &self.embedding.per_layer {
            p.forward(&ctx, ids, x, input, wide, per_layer_inputs);
        }
        if let Some(s) = &stack.streams {
            s.begin(&ctx, x, hidden, streams);
        }

        // The previous block, whose results have not been added to the stream yet.
        let mut before: Option<&Block> = None;
        for (l, first, block) in stack.blocks() {
            if let (Some(s), true) = (&stack.streams, first) {
                if l > 0 {
                    let done = Block::pending(before.take(), outputs);
                    settle_alone(&ctx, x, hidden, done, input);
                    s.correct(&ctx, l - 1, x, hidden, per_layer_inputs, per_layer, streams);
                }
                s.predict(&ctx, l, x, hidden, streams);
            }
            crew.operation("residual stream");
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
                crew.operation(branch.op.name());
                match &branch.op {
                    BoundOp::Attention(a, rope) => {
                        a.forward(&ctx, h, spans, rope.map(|r| &angles[r]), attention, out);
                    }
                    BoundOp::Latent(l) => {
                        let angles = &angles[l.spec.rope as usize];
                        l.forward(&ctx, h, spans, angles, latent, out);
                    }
                    BoundOp::Cross(c) => c.forward(&ctx, h, spans, attention, out),
                    BoundOp::Dense(d) => d.forward(&ctx, h, n, dense, out),
                    BoundOp::Experts(e) => e.forward(&ctx, h, input, n, experts, out),
                    BoundOp::ShortConv(c) => c.forward(&ctx, h, spans, conv, out),
                    BoundOp::SelectiveScan(s) => {
                        s.forward(&ctx, h, spans, selective_scan, out);
                    }
                    BoundOp::StateSpace(s) => s.forward(&ctx, h, spans, state_space, out),
                    BoundOp::DeltaRule(d) => d.forward(&ctx, h, spans, delta_rule, out),
                    BoundOp::PerLayer(p) => {
                        p.forward(&ctx, h, per_layer_inputs, n, per_layer, out);
                    }
                    BoundOp::Pass => unchanged(&ctx, h, n, hidden, out),
                }
            }
            before = Some(block);
        }
        crew.operation("residual stream");
        settle_alone(&ctx, x, hidden, Block::pending(before, outputs), input);
        if let Some(s) = &stack.streams {
            let last = stack.layers.len() - 1;
            s.correct(&ctx, last, x, hidden, per_layer_inputs, per_layer, streams);
            s.end(&ctx, wanted, x, hidden, streams);
        }
        crew.operation("head");
        let norm = stack.final_norm.as_ref();
        match (&self.head, output) {
            (Some(head), Output::Logits) => {
                head.forward(
                    &ctx, norm, x, hidden, wanted, input, own_input, wide, logits,
                );
            }
            _ => states(&ctx, norm, x, hidden, wanted, logits),
        }
    }
}

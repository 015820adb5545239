//! A scan of heads whose state decays as one (Dao and Gu 2024): per head a matrix of channels x elements, one step and one rate of decay.
//!
//! Tokens pass one after another; a head is one job. A channel's sums run over the elements of its state in their order, so neither chunks
//! nor threads nor neighbours can be seen.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::Span;
use super::conv::Convolution;
use crate::cache::StateShape;
use crate::ops::{ActBuffer, BoundNorm, Context, Product, add_bias, grow, matmul, wants_quantized};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, Kernels, PANEL_ROWS};
use quern_models::spec::{self, Gate};
use std::ops::Range;

/// Tokens whose steps a job computes at once, on its stack.
const STEPS: usize = 64;

/// A scan of heads bound to its weights.
pub struct StateSpace {
    /// What the Spec says of it.
    pub spec: spec::StateSpace,
    /// Rows for the gates, then for channels, B and C, then for the steps.
    pub input: Matrix,
    /// Bias of `input`, if there is one.
    pub input_bias: Option<Vector>,
    /// The convolution of channels, B and C.
    pub conv: Convolution,
    /// One per head.
    pub step_bias: Vector,
    /// Rate of decay of each head.
    pub rate: Vector,
    /// How much of itself a channel adds to its result, per head.
    pub skip: Vector,
    /// The norm beside the gate, if there is one.
    pub norm: Option<BoundNorm>,
    /// `hidden x inner`.
    pub output: Matrix,
    /// Bias of `output`, if there is one.
    pub output_bias: Option<Vector>,
    /// Which of a sequence's states is that of the scan.
    pub state: usize,
}

/// The state of the scan.
pub fn state_shape(spec: &spec::StateSpace) -> StateShape {
    StateShape {
        units: spec.heads as usize,
        unit_len: spec.head_dim as usize * spec.state as usize,
    }
}

/// Buffers of all tokens, reused by every layer.
#[derive(Default)]
pub struct Buffers {
    parts: Vec<f32>,
    convolved: Vec<f32>,
    mixed: Vec<f32>,
    gated: ActBuffer,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        (self.parts.len() + self.convolved.len() + self.mixed.len()) * 4 + self.gated.bytes()
    }
}

impl StateSpace {
    /// `out[token] = output(gated(y, z))`; the states of the spans move on.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let (inner, stride) = (self.spec.inner() as usize, self.stride());
        matmul(ctx, h, n, &[Product::new(&self.input, &mut b.parts, n)]);
        if let Some(bias) = &self.input_bias {
            add_bias(ctx, &mut b.parts, n, bias);
        }
        let parts = &b.parts;
        self.conv.forward(
            ctx,
            spans,
            |token, cols, x| {
                let at = token * stride + inner;
                x.copy_from_slice(&parts[at + cols.start..at + cols.end]);
            },
            &mut b.convolved,
        );
        self.scan(ctx, spans, b);

        let (parts, mixed) = (&b.parts, Disjoint::new(&mut b.mixed));
        b.gated.shape(n, inner, wants_quantized(&self.output));
        let whole = self.norm.is_some();
        b.gated.fill(ctx, n, whole, |token, cols, x| {
            let at = token * stride;
            let gate = &parts[at + cols.start..at + cols.end];
            // SAFETY: one job per token and range of channels.
            let y = unsafe { mixed.part(token * inner + cols.start..token * inner + cols.end) };
            self.gate(ctx.kernels, gate, y, x);
        });
        matmul(ctx, &b.gated, n, &[Product::new(&self.output, out, n)]);
        if let Some(bias) = &self.output_bias {
            add_bias(ctx, out, n, bias);
        }
    }

    /// Distance of two tokens in the results of `input`.
    fn stride(&self) -> usize {
        self.input.rows().next_multiple_of(PANEL_ROWS)
    }

    /// Steps and decays of one head for some tokens.
    fn steps(
        &self,
        kernels: &Kernels,
        parts: &[f32],
        head: usize,
        tokens: Range<usize>,
        step: &mut [f32],
        decay: &mut [f32],
    ) {
        let (spec, stride) = (&self.spec, self.stride());
        let column = (spec.inner() + spec.conv_channels()) as usize + head;
        for (step, token) in step.iter_mut().zip(tokens) {
            let raw = parts[token * stride + column];
            *step = raw.mul_add(spec.step_scale, self.step_bias[head]);
        }
        kernels.activation(Activation::Softplus, step);
        let max = spec.step_max.unwrap_or(f32::INFINITY);
        kernels.clamp(step, spec.step_min, max);
        decay.copy_from_slice(step);
        kernels.scale(decay, self.rate[head]);
        kernels.exp(decay);
    }

    /// One phase: states move on, results go to `b.mixed`.
    fn scan(&self, ctx: &Context<'_>, spans: &[Span<'_>], b: &mut Buffers) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let (kernels, spec) = (ctx.kernels, &self.spec);
        let (inner, width) = (spec.inner() as usize, spec.conv_channels() as usize);
        let (heads, head_dim) = (spec.heads as usize, spec.head_dim as usize);
        let (groups, count) = (spec.groups as usize, spec.state as usize);
        grow(&mut b.mixed, n * inner);
        let (parts, convolved) = (&b.parts, &b.convolved);
        let mixed = Disjoint::new(&mut b.mixed);
        ctx.crew.for_each(spans.len() * heads, |job, _| {
            let (span, head) = (&spans[job / heads], job % heads);
            let group = head / (heads / groups);
            let (mut step, mut decay) = ([0.0; STEPS], [0.0; STEPS]);
            span.seq.states[self.state].write(head, |state| {
                for first in span.rows.clone().step_by(STEPS) {
                    let tokens = first..(first + STEPS).min(span.rows.end);
                    let (step, decay) = (&mut step[..tokens.len()], &mut decay[..tokens.len()]);
                    self.steps(kernels, parts, head, tokens.clone(), step, decay);
                    for (i, token) in tokens.enumerate() {
                        let row = &convolved[token * width..(token + 1) * width];
                        let shared = &row[inner + group * count..];
                        let at = token * inner + head * head_dim;
                        // SAFETY: one job per span and head.
                        let y = unsafe { mixed.part(at..at + head_dim) };
                        kernels.head_scan(
                            state,
                            (step[i], decay[i], self.skip[head]),
                            &row[head * head_dim..][..head_dim],
                            (&shared[..count], &shared[groups * count..][..count]),
                            y,
                        );
                    }
                }
            });
        });
    }

    /// `x = gated(y, z)` for one token; with a norm all of it, without one some columns. `y` is used up.
    fn gate(&self, kernels: &Kernels, z: &[f32], y: &mut [f32], x: &mut [f32]) {
        let silu = |x: &mut [f32]| {
            x.copy_from_slice(z);
            if self.spec.gate_scale != 1.0 {
                kernels.scale(x, self.spec.gate_scale);
            }
            kernels.activation(Activation::Silu, x);
        };
        let size = y.len() / self.spec.groups as usize;
        let norm = |y: &[f32], x: &mut [f32]| {
            let Some(norm) = &self.norm else { return };
            for (g, (y, x)) in y.chunks(size).zip(x.chunks_mut(size)).enumerate() {
                norm.apply_part(kernels, g * size, y, x);
            }
        };
        match &self.spec.gate {
            Gate::Plain => {
                silu(x);
                kernels.mul(x, y);
            }
            Gate::NormAfter(_) => {
                silu(x);
                kernels.mul(y, x);
                norm(y, x);
            }
            Gate::NormBefore(_) => {
                norm(y, x);
                silu(y);
                kernels.mul(x, y);
            }
        }
    }
}

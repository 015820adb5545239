//! The gated delta rule: a state per value head, a matrix from keys to values, which one step per token changes.
//!
//! A head of a span is one job that takes the tokens in order: gates, unit vectors, steps of the state, norm and output gate. All sums are of one
//! token, so the bits do not depend on what passes a sequence was cut into.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::Span;
use super::conv::Convolution;
use crate::cache::StateShape;
use crate::ops::{ActBuffer, BoundNorm, Context, Product, grow, matmul};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, Kernels};
use quern_models::spec;
use std::sync::Mutex;

/// Tokens that a job takes at a time: their vectors stay in the nearest caches beside some columns of the state.
const TOKENS: usize = 32;

/// The gated delta rule bound to its weights.
pub struct DeltaRule {
    /// What the Spec says of it.
    pub spec: spec::DeltaRule,
    /// `channels x hidden`: q, k, v.
    pub qkv: Matrix,
    /// `value_width x hidden`: the gate z of the output.
    pub gate: Matrix,
    /// One row of `hidden` per value head: how much of a value is taken in.
    pub beta: Vector,
    /// One row of `hidden` per value head: how much of the state is kept.
    pub decay: Vector,
    /// Added to the product with `decay`.
    pub decay_bias: Vector,
    /// The logarithm of what is kept, per unit of the softplus of that.
    pub rate: Vector,
    /// The convolution of q, k and v.
    pub conv: Convolution,
    /// Norm of each head's output.
    pub norm: BoundNorm,
    /// `hidden x value_width`.
    pub output: Matrix,
    /// Which of a sequence's states holds the heads' matrices.
    pub state: usize,
}

/// Buffers of all tokens, reused by every layer, and one workspace per thread.
#[derive(Default)]
pub struct Buffers {
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    z: Vec<f32>,
    heads: Vec<f32>,
    gated: ActBuffer,
    work: Vec<Mutex<Work>>,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let floats = self.qkv.len() + self.mixed.len() + self.z.len() + self.heads.len();
        let work: usize = self
            .work
            .iter()
            .map(|w| w.lock().unwrap_or_else(|e| e.into_inner()).len())
            .sum();
        (floats + work) * 4 + self.gated.bytes()
    }
}

/// What one thread needs for some tokens of a head.
#[derive(Default)]
struct Work {
    q: Vec<f32>,
    k: Vec<f32>,
    out: Vec<f32>,
    row: Vec<f32>,
}

impl Work {
    fn len(&self) -> usize {
        self.q.len() + self.k.len() + self.out.len() + self.row.len()
    }

    fn grow(&mut self, spec: &spec::DeltaRule) {
        let (keys, values) = (spec.key_dim as usize, spec.value_dim as usize);
        grow(&mut self.q, TOKENS * keys);
        grow(&mut self.k, TOKENS * keys);
        grow(&mut self.out, TOKENS * values);
        grow(&mut self.row, values);
    }
}

/// The state: one unit per value head.
pub fn state_shape(spec: &spec::DeltaRule) -> StateShape {
    StateShape {
        units: spec.n_value_heads as usize,
        unit_len: spec.key_dim as usize * spec.value_dim as usize,
    }
}

/// `to = from / sqrt(sum of squares + eps) * scale`.
fn unit(kernels: &Kernels, from: &[f32], eps: f32, scale: f32, to: &mut [f32]) {
    to.copy_from_slice(from);
    let inverse = 1.0 / (kernels.dot(from, from) + eps).sqrt();
    kernels.scale(to, inverse * scale);
}

impl DeltaRule {
    /// The matrices that read the branch's input.
    pub fn readers(&self) -> impl Iterator<Item = &Matrix> {
        [&self.qkv, &self.gate].into_iter()
    }

    /// `out[token] = output(norm(heads) * silu(z))` for all tokens of all spans, whose states move on.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let products = [
            Product::new(&self.qkv, &mut b.qkv, n),
            Product::new(&self.gate, &mut b.z, n),
        ];
        let strides = [products[0].stride, products[1].stride];
        matmul(ctx, h, n, &products);
        let qkv = &b.qkv;
        self.conv.forward(
            ctx,
            spans,
            |token, channels, x| {
                let at = token * strides[0];
                x.copy_from_slice(&qkv[at + channels.start..at + channels.end]);
            },
            &mut b.mixed,
        );
        self.steps(ctx, h, spans, b, strides[1]);
        let (heads, width) = (&b.heads, self.spec.value_width() as usize);
        b.gated.shape_for(n, &self.output);
        b.gated.fill(ctx, n, false, |token, cols, x| {
            x.copy_from_slice(&heads[token * width + cols.start..token * width + cols.end]);
        });
        matmul(ctx, &b.gated, n, &[Product::new(&self.output, out, n)]);
    }

    /// One phase: everything of a value head between the convolution and the output projection, into `b.heads` (`[token][value_width]`).
    fn steps(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        b: &mut Buffers,
        z_stride: usize,
    ) {
        let (kernels, s) = (ctx.kernels, &self.spec);
        let n = spans.last().map_or(0, |s| s.rows.end);
        let (keys, values) = (s.key_dim as usize, s.value_dim as usize);
        let (key_width, value_width) = (s.key_width() as usize, s.value_width() as usize);
        let (heads, channels) = (s.n_value_heads as usize, s.channels() as usize);
        let q_scale = (1.0 / f64::from(s.key_dim).sqrt()) as f32;
        grow(&mut b.heads, n * value_width);
        let threads = ctx.crew.threads();
        if b.work.len() < threads {
            b.work.resize_with(threads, Mutex::default);
        }
        let (mixed, z, work) = (&b.mixed, &b.z, &b.work);
        let results = Disjoint::new(&mut b.heads);
        ctx.crew.for_each(spans.len() * heads, |job, me| {
            let (span, head) = (&spans[job / heads], job % heads);
            let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
            work.grow(s);
            let key_at = s.key_head(head as u32) as usize * keys;
            span.seq.states[self.state].write(head, |state| {
                for first in span.rows.clone().step_by(TOKENS) {
                    let tokens = first..span.rows.end.min(first + TOKENS);
                    let count = tokens.len();
                    let (mut decay, mut beta) = ([0.0; TOKENS], [0.0; TOKENS]);
                    let (decay, beta) = (&mut decay[..count], &mut beta[..count]);
                    for (i, token) in tokens.clone().enumerate() {
                        let x = h.row(token);
                        let row = head * x.len()..(head + 1) * x.len();
                        beta[i] = kernels.dot(x, &self.beta[row.clone()]);
                        decay[i] = kernels.dot(x, &self.decay[row]) + self.decay_bias[head];
                        let qkv = &mixed[token * channels..(token + 1) * channels];
                        let (q, k) = (&qkv[key_at..], &qkv[key_width + key_at..]);
                        let to = i * keys..(i + 1) * keys;
                        let eps = s.unit_eps;
                        unit(kernels, &q[..keys], eps, q_scale, &mut work.q[to.clone()]);
                        unit(kernels, &k[..keys], eps, 1.0, &mut work.k[to]);
                    }
                    kernels.activation(Activation::Sigmoid, beta);
                    kernels.activation(Activation::Softplus, decay);
                    kernels.scale(decay, self.rate[head]);
                    kernels.exp(decay);
                    let v = first * channels + 2 * key_width + head * values;
                    kernels.delta_rule(
                        state,
                        (keys, values),
                        &work.q,
                        &work.k,
                        (&mixed[v..], channels),
                        decay,
                        beta,
                        &mut work.out,
                    );
                    for (i, token) in tokens.enumerate() {
                        let o = &work.out[i * values..(i + 1) * values];
                        let row = &mut work.row[..values];
                        self.norm.apply(kernels, o, row);
                        let at = token * z_stride + head * values;
                        let z = &z[at..at + values];
                        let at = token * value_width + head * values;
                        // SAFETY: one job per token and head.
                        let to = unsafe { results.part(at..at + values) };
                        kernels.glu(Activation::Silu, z, row, to);
                    }
                }
            });
        });
    }
}

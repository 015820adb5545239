//! Several residual streams beside each other: before a layer all are predicted, the layer computes one of them, and what it adds to
//! its prediction corrects the others. The formulas stand in `quern_models::spec::Streams`.
//!
//! Coefficients are f32 from f32 weights whatever the format of the matrices; streams are added up in ascending order.

use super::per_layer;
use crate::ops::{
    ActBuffer, BoundNorm, Context, Group, Product, grow, matmul_groups, wants_quantized,
};
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, Kernels, PANEL_ROWS};
use quern_models::spec;

/// Smallest mean square that a projected stream is divided by the root of.
const LEAST_SQUARE: f32 = 1e-5;

/// Most streams: the Spec's bound.
const MOST: usize = 16;

/// The streams of a stack, bound to their weights.
pub struct Streams {
    /// What the Spec says of it.
    pub spec: spec::Streams,
    /// For every stream but the first `hidden x hidden`, from the embedding.
    pub projection: Matrix,
    /// The same from the stream at the end.
    pub unprojection: Matrix,
    /// What each layer has of its own.
    pub layers: Vec<Layer>,
}

/// The coefficients of one layer.
pub struct Layer {
    /// Norm of what the router reads.
    pub norm: BoundNorm,
    /// `count x hidden`.
    pub router: Vector,
    /// `count x count` rows of `count`.
    pub prediction: Vector,
    /// `count x count`.
    pub correction: Vector,
    /// What joins all streams but the first.
    pub injection: Option<Injection>,
}

/// What joins all streams but the first after a layer.
pub struct Injection {
    /// Multiplies what it reads.
    pub weight: Option<Vector>,
    /// What it computes.
    pub branch: per_layer::PerLayer,
    /// Norm of the result.
    pub post: BoundNorm,
}

/// Buffers of all tokens, reused by every layer.
#[derive(Default)]
pub struct Buffers {
    /// `[token][stream][hidden]`.
    streams: Vec<f32>,
    /// The same, predicted.
    predicted: Vec<f32>,
    input: ActBuffer,
    wide: Vec<f32>,
    groups: Vec<Group>,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let floats = self.streams.len() + self.predicted.len() + self.wide.len();
        floats * 4 + self.input.bytes()
    }
}

/// The root of the mean square.
fn magnitude(kernels: &Kernels, x: &[f32], least: f32) -> f32 {
    (kernels.dot(x, x) / x.len() as f32).max(least).sqrt()
}

impl Layer {
    /// `m(v)` from the normed v.
    fn modes(&self, kernels: &Kernels, scale: f32, normed: &[f32], modes: &mut [f32]) {
        for (mode, row) in modes.iter_mut().zip(self.router.chunks_exact(normed.len())) {
            *mode = kernels.dot(normed, row);
        }
        kernels.scale(modes, scale);
        kernels.activation(Activation::Tanh, modes);
    }
}

impl Streams {
    fn count(&self) -> usize {
        self.spec.count as usize
    }

    /// Row `token` of stream `stream` in a buffer of all.
    fn row<'a>(&self, all: &'a [f32], token: usize, stream: usize, hidden: usize) -> &'a [f32] {
        &all[(token * self.count() + stream) * hidden..][..hidden]
    }

    /// `wide[(stream - 1) * n + i] = matrix_stream(source(i, stream))` for the streams but the first; returns the stride.
    fn project<'s>(
        &self,
        ctx: &Context<'_>,
        matrix: &Matrix,
        n: usize,
        source: impl Fn(usize, usize) -> &'s [f32] + Sync,
        (input, wide, groups): (&mut ActBuffer, &mut Vec<f32>, &mut Vec<Group>),
    ) -> usize {
        let others = self.count() - 1;
        input.shape(others * n, matrix.cols(), wants_quantized(matrix));
        input.fill(ctx, others * n, false, |row, cols, out| {
            out.copy_from_slice(&source(row % n, row / n + 1)[cols]);
        });
        groups.clear();
        groups.extend((0..others).map(|matrix| Group {
            matrix,
            rows: matrix * n..(matrix + 1) * n,
        }));
        let product = Product::new(matrix, wide, others * n);
        let stride = product.stride;
        matmul_groups(ctx, input, groups, &[product]);
        stride
    }

    /// Makes all streams from the embedding `x`, `[tokens][hidden]`.
    pub fn begin(&self, ctx: &Context<'_>, x: &[f32], hidden: usize, b: &mut Buffers) {
        let (kernels, n, count) = (ctx.kernels, x.len() / hidden, self.count());
        let e = |token: usize| &x[token * hidden..][..hidden];
        let work = (&mut b.input, &mut b.wide, &mut b.groups);
        let stride = self.project(ctx, &self.projection, n, |token, _| e(token), work);
        let wide = &b.wide;
        grow(&mut b.streams, n * count * hidden);
        grow(&mut b.predicted, n * count * hidden);
        let streams = &mut b.streams[..n * count * hidden];
        ctx.crew.for_chunks(streams, count * hidden, |token, rows| {
            let (first, others) = rows.split_at_mut(hidden);
            first.copy_from_slice(e(token));
            let target = magnitude(kernels, first, 0.0);
            for (i, row) in others.chunks_exact_mut(hidden).enumerate() {
                row.copy_from_slice(&wide[(i * n + token) * stride..][..hidden]);
                kernels.scale(row, target / magnitude(kernels, row, LEAST_SQUARE));
            }
        });
    }

    /// Predicts all streams and puts the active one into `x`.
    pub fn predict(
        &self,
        ctx: &Context<'_>,
        layer: usize,
        x: &mut [f32],
        hidden: usize,
        b: &mut Buffers,
    ) {
        let (kernels, n, count) = (ctx.kernels, x.len() / hidden, self.count());
        let (own, active) = (&self.layers[layer], self.spec.active as usize);
        let (input, streams) = (&mut b.input, &b.streams);
        input.shape(n, hidden, false);
        input.fill(ctx, n, true, |token, _, out| {
            let h = self.row(streams, token, active, hidden);
            own.norm.apply(kernels, h, out);
        });
        let predicted = &mut b.predicted[..n * count * hidden];
        ctx.crew
            .for_chunks(predicted, count * hidden, |token, rows| {
                let mut modes = [0.0; MOST];
                let modes = &mut modes[..count];
                own.modes(kernels, self.spec.router_scale, input.row(token), modes);
                let coefficients = own.prediction.chunks_exact(count * count);
                for ((i, row), coefficients) in
                    rows.chunks_exact_mut(hidden).enumerate().zip(coefficients)
                {
                    row.copy_from_slice(self.row(streams, token, i, hidden));
                    for (j, c) in coefficients.chunks_exact(count).enumerate() {
                        let h = self.row(streams, token, j, hidden);
                        kernels.add_scaled(row, h, kernels.dot(c, modes));
                    }
                }
            });
        let predicted = &b.predicted;
        ctx.crew.for_chunks(x, hidden, |token, x| {
            x.copy_from_slice(self.row(predicted, token, active, hidden));
        });
    }

    /// Corrects all streams by what the layer made of the active one, `x`; `inputs` are the vectors of single layers.
    pub fn correct(
        &self,
        ctx: &Context<'_>,
        layer: usize,
        x: &mut [f32],
        hidden: usize,
        inputs: &ActBuffer,
        per_layer: &mut per_layer::Buffers,
        b: &mut Buffers,
    ) {
        let (kernels, n, count) = (ctx.kernels, x.len() / hidden, self.count());
        let (own, active) = (&self.layers[layer], self.spec.active as usize);
        let (input, predicted) = (&mut b.input, &b.predicted);
        input.shape(n, hidden, false);
        let y = &*x;
        input.fill(ctx, n, true, |token, _, out| {
            own.norm.apply(kernels, &y[token * hidden..][..hidden], out);
        });
        ctx.crew.for_chunks(x, hidden, |token, x| {
            kernels.add_scaled(x, self.row(predicted, token, active, hidden), -1.0);
        });
        let added = &*x;
        let streams = &mut b.streams[..n * count * hidden];
        ctx.crew.for_chunks(streams, count * hidden, |token, rows| {
            let mut modes = [0.0; MOST];
            let modes = &mut modes[..count];
            own.modes(kernels, self.spec.router_scale, input.row(token), modes);
            let coefficients = own.correction.chunks_exact(count);
            for ((j, row), c) in rows.chunks_exact_mut(hidden).enumerate().zip(coefficients) {
                row.copy_from_slice(self.row(predicted, token, j, hidden));
                let c = kernels.dot(c, modes) + 1.0;
                kernels.add_scaled(row, &added[token * hidden..][..hidden], c);
            }
        });
        let Some(Injection {
            weight,
            branch,
            post,
        }) = &own.injection
        else {
            return;
        };
        let all = &b.streams;
        input.shape(n, hidden, wants_quantized(&branch.gate));
        input.fill(ctx, n, false, |token, cols, out| {
            out.copy_from_slice(&self.row(all, token, active, hidden)[cols.clone()]);
            if let Some(weight) = weight {
                kernels.mul(out, &weight[cols]);
            }
        });
        branch.forward(ctx, input, inputs, n, per_layer, &mut b.wide);
        let (wide, stride) = (&b.wide, hidden.next_multiple_of(PANEL_ROWS));
        input.shape(n, hidden, false);
        input.fill(ctx, n, true, |token, _, out| {
            post.apply(kernels, &wide[token * stride..][..hidden], out);
        });
        let streams = &mut b.streams[..n * count * hidden];
        ctx.crew.for_chunks(streams, count * hidden, |token, rows| {
            for row in rows.chunks_exact_mut(hidden).skip(1) {
                kernels.add(row, input.row(token));
            }
        });
    }

    /// Puts the mean of all streams into the `wanted` rows of `x`, which ascend.
    pub fn end(
        &self,
        ctx: &Context<'_>,
        wanted: &[usize],
        x: &mut [f32],
        hidden: usize,
        b: &mut Buffers,
    ) {
        if wanted.is_empty() {
            return;
        }
        let (kernels, n) = (ctx.kernels, wanted.len());
        let all = &b.streams;
        let source = |i: usize, stream| self.row(all, wanted[i], stream, hidden);
        let work = (&mut b.input, &mut b.wide, &mut b.groups);
        let stride = self.project(ctx, &self.unprojection, n, source, work);
        let wide = &b.wide;
        ctx.crew.for_chunks(x, hidden, |token, x| {
            let Ok(i) = wanted.binary_search(&token) else {
                return;
            };
            let first = self.row(all, token, 0, hidden);
            x.copy_from_slice(first);
            let target = magnitude(kernels, first, 0.0);
            for j in 0..self.count() - 1 {
                let y = &wide[(j * n + i) * stride..][..hidden];
                kernels.add_scaled(x, y, target / magnitude(kernels, y, LEAST_SQUARE));
            }
            kernels.scale(x, 1.0 / self.count() as f32);
        });
    }
}

//! Inputs of single layers: for every token a small vector per layer, made once per pass, and the branch that gates it into the stream.

use crate::ops::{ActBuffer, BoundNorm, Context, Product, activation, matmul, wants_quantized};
use crate::tensor::Matrix;
use quern_models::spec;

/// What makes the vectors of all layers, bound to its weights.
pub struct Inputs {
    /// What the Spec says of it.
    pub spec: spec::PerLayerInputs,
    /// One row per id: the vectors of all layers one after another.
    pub table: Matrix,
    /// From the stream to the vectors of all layers.
    pub projection: Matrix,
    /// Norm of the projection, the same for each layer.
    pub norm: BoundNorm,
}

impl Inputs {
    /// Fills `inputs`, `[token][layer][width]`, from the stream `x` before the first layer; `input` and `wide` are workspaces.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        ids: &[u32],
        x: &[f32],
        input: &mut ActBuffer,
        wide: &mut Vec<f32>,
        inputs: &mut ActBuffer,
    ) {
        let (kernels, n) = (ctx.kernels, ids.len());
        let (hidden, all) = (x.len() / n, self.table.cols());
        let width = self.spec.width as usize;
        input.shape(n, hidden, wants_quantized(&self.projection));
        input.fill(ctx, n, false, |token, cols, out| {
            out.copy_from_slice(&x[token * hidden + cols.start..token * hidden + cols.end]);
        });
        let product = Product::new(&self.projection, wide, n);
        let stride = product.stride;
        matmul(ctx, input, n, &[product]);
        // The table is large: a token reads its own row and nothing else.
        input.shape(n, all, false);
        input.fill(ctx, n, true, |token, _, row| {
            let id = ids[token] as usize;
            let id = if id < self.table.rows() { id } else { 0 };
            self.table.row(0, id, row);
        });
        inputs.shape(n, all, false);
        inputs.fill(ctx, n, true, |token, _, out| {
            let projected = wide[token * stride..][..all].chunks_exact(width);
            for (projected, out) in projected.zip(out.chunks_exact_mut(width)) {
                self.norm.apply(kernels, projected, out);
            }
            kernels.add_scaled(out, input.row(token), self.spec.row_scale);
            kernels.scale(out, self.spec.scale);
        });
    }
}

/// The branch of one layer bound to its weights.
pub struct PerLayer {
    /// What the Spec says of it.
    pub spec: spec::PerLayer,
    /// `width x hidden`.
    pub gate: Matrix,
    /// `hidden x width`.
    pub output: Matrix,
    /// Which layer's vector it reads.
    pub layer: usize,
}

/// Buffers of all tokens, reused by every layer.
#[derive(Default)]
pub struct Buffers {
    gate: Vec<f32>,
    inner: ActBuffer,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.gate.len() * 4 + self.inner.bytes()
    }
}

impl PerLayer {
    /// `out[token] = output(act(gate(h)) * inputs[token][layer])`.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        inputs: &ActBuffer,
        n: usize,
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let product = Product::new(&self.gate, &mut b.gate, n);
        let stride = product.stride;
        matmul(ctx, h, n, &[product]);
        let width = self.gate.rows();
        let (act, first) = (activation(self.spec.activation), self.layer * width);
        b.inner.shape(n, width, wants_quantized(&self.output));
        b.inner.fill(ctx, n, false, |token, cols, x| {
            let gate = &b.gate[token * stride + cols.start..token * stride + cols.end];
            let own = &inputs.row(token)[first + cols.start..first + cols.end];
            ctx.kernels.glu(act, gate, own, x);
        });
        matmul(ctx, &b.inner, n, &[Product::new(&self.output, out, n)]);
    }
}

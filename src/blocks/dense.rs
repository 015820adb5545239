//! The feed-forward network: gate and up in one phase, activation and quantization in the next, down in the third.

use crate::ops::{ActBuffer, Context, Product, activation, grow, matmul};
use crate::tensor::{Matrix, Vector};
use quern_kernels::Kernels;
use quern_models::spec;

/// A feed-forward network bound to its weights.
pub struct Dense {
    /// What the Spec says of it.
    pub spec: spec::Dense,
    /// `inner x hidden`, if gated.
    pub gate: Option<Matrix>,
    /// `inner x hidden`.
    pub up: Matrix,
    /// `hidden x inner`.
    pub down: Matrix,
    /// Biases of gate, up and down, if there are any.
    pub gate_bias: Option<Vector>,
    /// See `gate_bias`.
    pub up_bias: Option<Vector>,
    /// See `gate_bias`.
    pub down_bias: Option<Vector>,
    /// Gate of the output, if there is one.
    pub output_gate: Option<Vector>,
}

/// Buffers of all tokens, reused by every layer.
#[derive(Default)]
pub struct Buffers {
    gate: Vec<f32>,
    up: Vec<f32>,
    ones: Vec<f32>,
    inner: ActBuffer,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        (self.gate.len() + self.up.len() + self.ones.len()) * 4 + self.inner.bytes()
    }
}

/// `z = max(z - (mean + cutoff * deviation), 0)`: first the mean is subtracted, then the rest.
fn cut_off(kernels: &Kernels, cutoff: f32, ones: &[f32], z: &mut [f32]) {
    let n = z.len() as f32;
    let mean = kernels.dot(z, ones) / n;
    kernels.add_scaled(z, ones, -mean);
    let deviation = (kernels.dot(z, z) / n).sqrt();
    kernels.add_scaled(z, ones, -(cutoff * deviation));
    kernels.activation(quern_kernels::Activation::Relu, z);
}

impl Dense {
    /// The matrices that read the branch's input.
    pub fn readers(&self) -> impl Iterator<Item = &Matrix> {
        self.gate.iter().chain([&self.up])
    }

    /// `out[token] = down(act(scale * gate(h)) * up(h))`, `stride` apart.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        n: usize,
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let stride;
        match &self.gate {
            Some(gate) => {
                let products = [
                    Product::new(gate, &mut b.gate, n),
                    Product::new(&self.up, &mut b.up, n),
                ];
                stride = products[1].stride;
                matmul(ctx, h, n, &products);
            }
            None => {
                let products = [Product::new(&self.up, &mut b.up, n)];
                stride = products[0].stride;
                matmul(ctx, h, n, &products);
            }
        }
        let kernels = ctx.kernels;
        if let Some(cutoff) = self.spec.cutoff {
            let inner = self.spec.inner as usize;
            grow(&mut b.ones, inner);
            b.ones.fill(1.0);
            let (gate, ones) = (&mut b.gate[..n * stride], &b.ones[..inner]);
            ctx.crew.for_chunks(gate, stride, |_, z| {
                cut_off(kernels, cutoff, ones, &mut z[..inner]);
            });
        }
        let (act, scale) = (activation(self.spec.activation), self.spec.gate_scale);
        // In the common case the activation is part of the product with `up`.
        let apart = self.gate_bias.is_some() || self.up_bias.is_some() || scale != 1.0;
        if self.gate.is_some() && apart {
            let inner = self.spec.inner as usize;
            let gate = &mut b.gate[..n * stride];
            ctx.crew.for_chunks(gate, stride, |_, z| {
                let z = &mut z[..inner];
                if let Some(bias) = &self.gate_bias {
                    kernels.add(z, bias);
                }
                if scale != 1.0 {
                    kernels.scale(z, scale);
                }
                kernels.activation(act, z);
            });
        }
        let (gate, up) = (&b.gate, &b.up);
        b.inner.shape_for(n, &self.down);
        b.inner.fill(ctx, n, false, |token, cols, x| {
            let at = token * stride;
            let part = at + cols.start..at + cols.end;
            if self.gate.is_some() && !apart {
                return kernels.glu(act, &gate[part.clone()], &up[part], x);
            }
            x.copy_from_slice(&up[part.clone()]);
            if let Some(bias) = &self.up_bias {
                kernels.add(x, &bias[cols]);
            }
            match &self.gate {
                None => kernels.activation(act, x),
                Some(_) => kernels.mul(x, &gate[part]),
            }
        });
        matmul(ctx, &b.inner, n, &[Product::new(&self.down, out, n)]);
        if let Some(bias) = &self.down_bias {
            let stride = self.down.rows().next_multiple_of(quern_kernels::PANEL_ROWS);
            for token in 0..n {
                kernels.add(&mut out[token * stride..][..self.down.rows()], bias);
            }
        }
        if let Some(gate) = &self.output_gate {
            let stride = self.down.rows().next_multiple_of(quern_kernels::PANEL_ROWS);
            for token in 0..n {
                let mut factor = [kernels.dot(h.row(token), gate)];
                kernels.activation(quern_kernels::Activation::Sigmoid, &mut factor);
                kernels.scale(&mut out[token * stride..][..self.down.rows()], factor[0]);
            }
        }
    }
}

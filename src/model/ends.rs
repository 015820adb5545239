//! The two ends of a model: from ids to the residual stream, and from there to logits.

use crate::blocks::{Span, per_layer};
use crate::ops::{ActBuffer, BoundNorm, Context, Product, grow, matmul, wants_quantized};
use crate::tensor::{Matrix, Vector};
use quern_kernels::PANEL_ROWS;
use quern_models::spec::ProjectionActivation;

/// From ids to the stream: `norm(project(scale * row(id)) + bias + positions(t))`.
pub(super) struct Embedding {
    /// One row per id.
    pub matrix: Matrix,
    /// Multiplier of the row.
    pub scale: f32,
    /// From the width of a row to that of the stream, if they differ.
    pub projection: Option<Matrix>,
    /// Added to every row.
    pub bias: Option<Vector>,
    /// One row per position, from row `offset` on.
    pub positions: Option<Matrix>,
    /// The row of position 0.
    pub offset: usize,
    /// The id that has no position and gets the row before `offset`.
    pub padding: Option<u32>,
    /// Norm of the sum.
    pub norm: Option<BoundNorm>,
    /// Vectors of single layers.
    pub per_layer: Option<per_layer::Inputs>,
}

impl Embedding {
    /// Fills the stream `x`, `[tokens][hidden]`; `input` and `wide` are workspaces.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        spans: &[Span<'_>],
        ids: &[u32],
        input: &mut ActBuffer,
        wide: &mut Vec<f32>,
        x: &mut [f32],
    ) {
        let (kernels, n) = (ctx.kernels, ids.len());
        let hidden = x.len() / n;
        let look_up = |token: usize, row: &mut [f32]| {
            self.matrix.row(0, ids[token] as usize, row);
            if self.scale != 1.0 {
                kernels.scale(row, self.scale);
            }
        };
        match &self.projection {
            None => ctx.crew.for_chunks(x, hidden, look_up),
            Some(projection) => {
                input.shape(n, self.matrix.cols(), wants_quantized(projection));
                input.fill(ctx, n, true, |token, _, row| look_up(token, row));
                let product = Product::new(projection, wide, n);
                let stride = product.stride;
                matmul(ctx, input, n, &[product]);
                ctx.crew.for_chunks(x, hidden, |token, row| {
                    row.copy_from_slice(&wide[token * stride..][..hidden]);
                });
            }
        }
        if let Some(bias) = &self.bias {
            ctx.crew
                .for_chunks(x, hidden, |_, row| kernels.add(row, bias));
        }
        if let Some(table) = &self.positions {
            let place = |token: usize| {
                let span = spans.iter().find(|s| s.rows.contains(&token));
                let span = span.expect("every token belongs to a span");
                let padding = |id: &&u32| self.padding == Some(**id);
                if padding(&&ids[token]) {
                    return self.offset - 1;
                }
                // Padding takes no position.
                let before = &ids[span.rows.start..token];
                let skipped = before.iter().filter(padding).count();
                self.offset + span.start + before.len() - skipped
            };
            input.shape(n, hidden, false);
            input.fill(ctx, n, true, |token, _, row| {
                table.row(0, place(token), row);
            });
            ctx.crew.for_chunks(x, hidden, |token, row| {
                kernels.add(row, input.row(token));
            });
        }
        if let Some(norm) = &self.norm {
            input.shape(n, hidden, false);
            let before = &*x;
            input.fill(ctx, n, true, |token, _, row| {
                norm.apply(kernels, &before[token * hidden..][..hidden], row);
            });
            ctx.crew.for_chunks(x, hidden, |token, row| {
                row.copy_from_slice(input.row(token));
            });
        }
    }
}

/// The `wanted` tokens of the stream `x` behind the norm after the last layer: `[wanted][hidden]`.
pub(super) fn states(
    ctx: &Context<'_>,
    norm: Option<&BoundNorm>,
    x: &[f32],
    hidden: usize,
    wanted: &[usize],
    out: &mut Vec<f32>,
) {
    grow(out, wanted.len() * hidden);
    let out = &mut out[..wanted.len() * hidden];
    ctx.crew.for_chunks(out, hidden, |i, out| {
        let x = &x[wanted[i] * hidden..][..hidden];
        match norm {
            Some(norm) => norm.apply(ctx.kernels, x, out),
            None => out.copy_from_slice(x),
        }
    });
}

/// A layer that a pooled vector goes through.
pub(super) struct Projection {
    /// Outputs x inputs.
    pub matrix: Matrix,
    /// One value per output.
    pub bias: Option<Vector>,
    /// The non-linearity.
    pub activation: Option<ProjectionActivation>,
}

impl Projection {
    /// `act(matrix(x) + bias)` of one vector; `input` is a workspace.
    pub fn forward(&self, ctx: &Context<'_>, x: &[f32], input: &mut ActBuffer) -> Vec<f32> {
        input.shape(1, x.len(), wants_quantized(&self.matrix));
        input.fill(ctx, 1, true, |_, _, out| out.copy_from_slice(x));
        let mut out = Vec::new();
        matmul(ctx, input, 1, &[Product::new(&self.matrix, &mut out, 1)]);
        out.truncate(self.matrix.rows());
        if let Some(bias) = &self.bias {
            ctx.kernels.add(&mut out, bias);
        }
        match self.activation {
            None => {}
            // 1 * tanh(x / 1).
            Some(ProjectionActivation::Tanh) => ctx.kernels.softcap(&mut out, 1.0),
        }
        out
    }
}

/// From the stream to logits: `softcap(scale * (matrix(project(norm(x))) + bias))`.
pub(super) struct Head {
    /// From the width of the stream to that of the head's rows, if they differ.
    pub projection: Option<Matrix>,
    /// One row per id.
    pub matrix: Matrix,
    /// One value per id.
    pub bias: Option<Vector>,
    /// Multiplier of the logits.
    pub scale: f32,
    /// `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
}

impl Head {
    /// Logits of the `wanted` tokens of the stream `x`, `[wanted][ids padded to a panel]`; `input`, `projected` and `wide` are workspaces.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        norm: Option<&BoundNorm>,
        x: &[f32],
        hidden: usize,
        wanted: &[usize],
        input: &mut ActBuffer,
        projected: &mut ActBuffer,
        wide: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) {
        if wanted.is_empty() {
            return;
        }
        let (kernels, n, vocab) = (ctx.kernels, wanted.len(), self.matrix.rows());
        let first = self.projection.as_ref().unwrap_or(&self.matrix);
        input.shape(n, hidden, wants_quantized(first));
        input.fill(ctx, n, true, |i, _, out| {
            let x = &x[wanted[i] * hidden..][..hidden];
            match norm {
                Some(norm) => norm.apply(kernels, x, out),
                None => out.copy_from_slice(x),
            }
        });
        let mut h = &*input;
        if let Some(projection) = &self.projection {
            let product = Product::new(projection, wide, n);
            let stride = product.stride;
            matmul(ctx, h, n, &[product]);
            projected.shape(n, projection.rows(), wants_quantized(&self.matrix));
            projected.fill(ctx, n, true, |i, _, out| {
                out.copy_from_slice(&wide[i * stride..][..out.len()]);
            });
            h = projected;
        }
        matmul(ctx, h, n, &[Product::new(&self.matrix, logits, n)]);
        let stride = vocab.next_multiple_of(PANEL_ROWS);
        for row in logits.chunks_exact_mut(stride).take(n) {
            let row = &mut row[..vocab];
            if let Some(bias) = &self.bias {
                kernels.add(row, bias);
            }
            if self.scale != 1.0 {
                kernels.scale(row, self.scale);
            }
            if let Some(cap) = self.softcap {
                kernels.softcap(row, cap);
            }
        }
    }
}

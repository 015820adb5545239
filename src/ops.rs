//! Operations of a forward pass on all its tokens: kernels spread over the threads of a crew. Safe; the bits do not depend on the threads.
//!
//! Everything here is one phase (or none): who calls may rely on all results being there on return.

// Threads write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use crate::par::{Crew, Disjoint};
use crate::tensor::{Matrix, Vector};
use quern_kernels::{ActKind, Activation, Acts, BLOCK, K_ALIGN, Kernels, Out, PANEL_ROWS, Scratch};
use quern_models::spec::{self, NormKind};
use std::ops::Range;
use std::sync::Mutex;

/// Tokens up to which a product counts as decoding: the weights stream from memory and are cut finely.
const FEW_TOKENS: usize = 16;

/// Panels of one job of a decoding product are a multiple of this: matmul runs fastest so.
const PANEL_GROUP: usize = 8;

/// Bytes of int8 activations that a job keeps in the second-level cache beside its strip of weights.
const ACTS_IN_CACHE: usize = 512 << 10;

/// Columns of one job of an element-wise phase: about a microsecond of work.
const COLUMNS: usize = 1024;

/// What every operation needs: the threads, the kernels, a workspace per thread.
pub struct Context<'a> {
    /// The threads.
    pub crew: &'a Crew<'a>,
    /// The kernels.
    pub kernels: &'static Kernels,
    /// One workspace per thread; a thread locks its own only.
    pub scratch: &'a [Mutex<Scratch>],
}

/// A norm and its weights.
pub struct BoundNorm {
    /// Kind and eps.
    pub spec: spec::Norm,
    /// Weight, if the norm has one.
    pub weight: Option<Vector>,
    /// Bias, if the norm has one.
    pub bias: Option<Vector>,
}

impl BoundNorm {
    /// `out = norm(x)` for one token.
    pub fn apply(&self, kernels: &Kernels, x: &[f32], out: &mut [f32]) {
        self.apply_part(kernels, 0, x, out);
    }

    /// The same with the weights from `first` on: norms of heads may have weights for all heads one after another.
    pub fn apply_part(&self, kernels: &Kernels, first: usize, x: &[f32], out: &mut [f32]) {
        let weight = self.weight.as_deref().map(|w| &w[first..first + x.len()]);
        let bias = self.bias.as_deref().map(|b| &b[first..first + x.len()]);
        match self.spec.kind {
            NormKind::Rms => kernels.rms_norm(x, weight, self.spec.eps, out),
            NormKind::Layer => kernels.layer_norm(x, weight, bias, self.spec.eps, out),
        }
    }
}

/// Activations of all tokens as products read them: f32, and int8 beside it or instead where an integer format needs that.
#[derive(Default)]
pub struct ActBuffer {
    /// Not written where nobody reads f32.
    x: Vec<f32>,
    q: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    cols: usize,
    stride: usize,
    quantized: bool,
    /// Whether there is f32.
    plain: bool,
}

/// Makes a buffer at least `len` long; new elements are zero. Never shrinks, so that a steady loop does not allocate.
pub fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

impl ActBuffer {
    /// Sets the shape for the next operation. `quantized` says whether an integer format will read it beside others.
    pub fn shape(&mut self, n: usize, cols: usize, quantized: bool) {
        self.set(n, cols, true, quantized);
    }

    /// Sets the shape for a product with this matrix, which nobody else reads the activations of. With an integer format there is only int8 then:
    /// f32 would be written to memory for nothing.
    pub fn shape_for(&mut self, n: usize, matrix: &Matrix) {
        let quantized = wants_quantized(matrix);
        self.set(n, matrix.cols(), !quantized, quantized);
    }

    fn set(&mut self, n: usize, cols: usize, plain: bool, quantized: bool) {
        self.cols = cols;
        self.stride = cols.next_multiple_of(K_ALIGN);
        self.quantized = quantized;
        self.plain = plain;
        if plain {
            grow(&mut self.x, n * self.stride);
        }
        if quantized {
            grow(&mut self.q, n * self.stride);
            grow(&mut self.scales, n * self.stride / BLOCK);
            grow(&mut self.sums, n * self.stride / BLOCK);
        }
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.x.len() * 4 + self.q.len() + self.scales.len() * 4 + self.sums.len() * 4
    }

    /// The f32 values of one token.
    pub fn row(&self, token: usize) -> &[f32] {
        assert!(self.plain, "there is only int8");
        &self.x[token * self.stride..][..self.cols]
    }

    fn acts(&self, kind: ActKind, tokens: Range<usize>) -> Acts<'_> {
        let (s, b) = (self.stride, self.stride / BLOCK);
        match kind {
            ActKind::F32 => {
                assert!(
                    self.plain,
                    "a float format reads activations of which there is only int8"
                );
                Acts::F32 {
                    x: &self.x[tokens.start * s..tokens.end * s],
                    stride: s,
                }
            }
            ActKind::Q8 => {
                assert!(
                    self.quantized,
                    "an integer format reads activations that were not quantized"
                );
                Acts::Q8 {
                    q: &self.q[tokens.start * s..tokens.end * s],
                    scales: &self.scales[tokens.start * b..tokens.end * b],
                    sums: &self.sums[tokens.start * b..tokens.end * b],
                    stride: s,
                }
            }
        }
    }

    /// One phase over all tokens and ranges of columns: `fill(token, columns, out)` writes the values, then they are padded and quantized.
    /// With `whole` a job takes all columns of a token.
    pub fn fill(
        &mut self,
        ctx: &Context<'_>,
        n: usize,
        whole: bool,
        fill: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
    ) {
        let (cols, stride, quantized, plain) = (self.cols, self.stride, self.quantized, self.plain);
        assert!(plain || !whole, "whole rows are kept as f32");
        let chunk = if whole { stride } else { COLUMNS.min(stride) };
        let chunks = stride.div_ceil(chunk);
        let (x, q) = (Disjoint::new(&mut self.x), Disjoint::new(&mut self.q));
        let (scales, sums) = (
            Disjoint::new(&mut self.scales),
            Disjoint::new(&mut self.sums),
        );
        ctx.crew.next("activations", || 0);
        ctx.crew.for_each(n * chunks, |job, _| {
            let (token, part) = (job / chunks, job % chunks);
            let (from, to) = (part * chunk, ((part + 1) * chunk).min(stride));
            let end = to.min(cols);
            let at = token * stride;
            let mut own;
            let values = match plain {
                // SAFETY: one job per token and range of columns.
                true => unsafe { x.part(at + from..at + to) },
                false => {
                    own = [0.0; COLUMNS];
                    &mut own[..to - from]
                }
            };
            let (live, padding) = values.split_at_mut(end.saturating_sub(from));
            fill(token, from..end.max(from), live);
            padding.fill(0.0);
            if quantized {
                let blocks = (at + from) / BLOCK..(at + to) / BLOCK;
                // SAFETY: as above; ranges of columns are multiples of a block.
                let (q, scales, sums) = unsafe {
                    (
                        q.part(at + from..at + to),
                        scales.part(blocks.clone()),
                        sums.part(blocks),
                    )
                };
                ctx.kernels.quantize_acts(values, q, scales, sums);
            }
        });
    }
}

/// One weight matrix and where its results go: row r of token t at `t * stride + r`.
pub struct Product<'a> {
    /// The weights.
    pub matrix: &'a Matrix,
    /// The results of all tokens.
    pub out: Disjoint<'a, f32>,
    /// Distance of two tokens in `out`, at least the rows of the matrix.
    pub stride: usize,
}

impl<'a> Product<'a> {
    /// A product into a buffer, which is grown to hold `n` tokens of `matrix.rows()` results, padded to a panel.
    pub fn new(matrix: &'a Matrix, out: &'a mut Vec<f32>, n: usize) -> Self {
        let stride = matrix.rows().next_multiple_of(PANEL_ROWS);
        grow(out, n * stride);
        Product {
            matrix,
            out: Disjoint::new(out),
            stride,
        }
    }

    fn panels(&self) -> usize {
        self.matrix.panels()
    }
}

/// Bytes of the weights of products, of which so many matrices are read.
fn bytes(products: &[Product<'_>], matrices: usize) -> u64 {
    let of = |p: &Product<'_>| (p.panels() * p.matrix.panel_bytes() * matrices) as u64;
    products.iter().map(of).sum()
}

/// All products of the same activations in one phase.
pub fn matmul(ctx: &Context<'_>, acts: &ActBuffer, n: usize, products: &[Product<'_>]) {
    let threads = ctx.crew.threads();
    let all: usize = products.iter().map(Product::panels).sum();
    // A few jobs per thread let a fast thread help a slow one.
    let even = all.div_ceil(threads * 4).max(1);
    let (group, tokens) = if n <= FEW_TOKENS {
        (even.next_multiple_of(PANEL_GROUP), n)
    } else {
        (
            even.clamp(2, PANEL_GROUP),
            (ACTS_IN_CACHE / acts.stride.max(1)).clamp(32, 512).min(n),
        )
    };
    let token_chunks = n.div_ceil(tokens);
    let panel_chunks: usize = products.iter().map(|p| p.panels().div_ceil(group)).sum();
    ctx.crew.next("products", || bytes(products, 1));
    ctx.crew.for_each(token_chunks * panel_chunks, |job, me| {
        let (t0, mut chunk) = (job / panel_chunks * tokens, job % panel_chunks);
        let mut chosen = &products[0];
        for product in products {
            chosen = product;
            let count = product.panels().div_ceil(group);
            if chunk < count {
                break;
            }
            chunk -= count;
        }
        let matrix = chosen.matrix;
        let (p0, p1) = (chunk * group, ((chunk + 1) * group).min(chosen.panels()));
        let (r0, r1) = (p0 * PANEL_ROWS, (p1 * PANEL_ROWS).min(matrix.rows()));
        let count = tokens.min(n - t0);
        let format = matrix.format();
        let panels = &matrix.matrix(0)[p0 * matrix.panel_bytes()..p1 * matrix.panel_bytes()];
        // The whole region must lie in the buffer: its last element does.
        let start = chosen.out.address(t0 * chosen.stride + r0);
        chosen.out.address((t0 + count - 1) * chosen.stride + r1);
        // SAFETY: jobs differ in their rows of the matrix or in their tokens, so the elements that they write differ; the region lies within the
        // buffer (checked above), which is borrowed for the phase.
        let out = unsafe { Out::from_raw(start, chosen.stride, r1 - r0, count) };
        let mut scratch = ctx.scratch[me].lock().unwrap_or_else(|e| e.into_inner());
        let acts = acts.acts(format.act_kind(), t0..t0 + count);
        ctx.kernels.matmul(
            format,
            panels,
            matrix.cols(),
            acts,
            count,
            out,
            &mut scratch,
        );
    });
}

/// Consecutive rows of the activations that multiply with one matrix of a stack.
#[derive(Clone, Debug)]
pub struct Group {
    /// Which matrix.
    pub matrix: usize,
    /// Which rows.
    pub rows: Range<usize>,
}

/// As [`matmul`] for stacks of matrices: every group of rows with its matrix, all in one phase.
pub fn matmul_groups(
    ctx: &Context<'_>,
    acts: &ActBuffer,
    groups: &[Group],
    products: &[Product<'_>],
) {
    let all: usize = products.iter().map(Product::panels).sum::<usize>() * groups.len();
    let group = all.div_ceil(ctx.crew.threads() * 4).clamp(2, PANEL_GROUP);
    let chunks: usize = products.iter().map(|p| p.panels().div_ceil(group)).sum();
    let most = (ACTS_IN_CACHE / acts.stride.max(1)).clamp(32, 512);
    ctx.crew.next("products", || bytes(products, groups.len()));
    ctx.crew.for_each(groups.len() * chunks, |job, me| {
        let (at, mut chunk) = (&groups[job / chunks], job % chunks);
        let mut chosen = &products[0];
        for product in products {
            chosen = product;
            let count = product.panels().div_ceil(group);
            if chunk < count {
                break;
            }
            chunk -= count;
        }
        let matrix = chosen.matrix;
        let (p0, p1) = (chunk * group, ((chunk + 1) * group).min(chosen.panels()));
        let (r0, r1) = (p0 * PANEL_ROWS, (p1 * PANEL_ROWS).min(matrix.rows()));
        let format = matrix.format();
        let panel_bytes = matrix.panel_bytes();
        let panels = &matrix.matrix(at.matrix)[p0 * panel_bytes..p1 * panel_bytes];
        let mut scratch = ctx.scratch[me].lock().unwrap_or_else(|e| e.into_inner());
        for t0 in at.rows.clone().step_by(most) {
            let count = most.min(at.rows.end - t0);
            // The whole region must lie in the buffer: its last element does.
            let start = chosen.out.address(t0 * chosen.stride + r0);
            chosen.out.address((t0 + count - 1) * chosen.stride + r1);
            // SAFETY: jobs differ in their rows of the matrix or in their rows of activations (groups do not overlap), so the elements that
            // they write differ; the region lies within the buffer (checked above), which is borrowed for the phase.
            let out = unsafe { Out::from_raw(start, chosen.stride, r1 - r0, count) };
            let acts = acts.acts(format.act_kind(), t0..t0 + count);
            let cols = matrix.cols();
            ctx.kernels
                .matmul(format, panels, cols, acts, count, out, &mut scratch);
        }
    });
}

/// One phase: adds a bias to the results that a product left in `out`, for all `n` tokens.
pub fn add_bias(ctx: &Context<'_>, out: &mut [f32], n: usize, bias: &[f32]) {
    let stride = bias.len().next_multiple_of(PANEL_ROWS);
    ctx.crew
        .for_chunks(&mut out[..n * stride], stride, |_, row| {
            ctx.kernels.add(&mut row[..bias.len()], bias);
        });
}

/// The kernel's name of an activation of the Spec.
pub fn activation(a: spec::Activation) -> Activation {
    match a {
        spec::Activation::Identity => Activation::Identity,
        spec::Activation::Silu => Activation::Silu,
        spec::Activation::Gelu => Activation::Gelu,
        spec::Activation::GeluTanh => Activation::GeluTanh,
        spec::Activation::Relu => Activation::Relu,
        spec::Activation::Relu2 => Activation::Relu2,
        spec::Activation::QuickGelu => Activation::QuickGelu,
        spec::Activation::XIelu {
            positive,
            negative,
            beta,
            eps,
        } => Activation::XIelu {
            positive,
            negative,
            beta,
            eps,
        },
    }
}

/// Whether a matrix multiplies with int8 activations.
pub fn wants_quantized(matrix: &Matrix) -> bool {
    matrix.format().act_kind() == ActKind::Q8
}

/// What the branches of a block returned and has not joined the residual stream yet: `[branch][token][hidden padded to a panel]`.
pub struct Pending<'a> {
    /// One buffer per branch.
    pub outputs: &'a mut [Vec<f32>],
    /// Multipliers of the branches.
    pub scales: &'a [f32],
    /// Norms of single outputs, as many as there are branches.
    pub posts: &'a [Option<BoundNorm>],
    /// Norm of their sum.
    pub post: Option<&'a BoundNorm>,
    /// Residual multiplier.
    pub scale: f32,
    /// Norm of the stream once the sum has joined it.
    pub out: Option<&'a BoundNorm>,
    /// Multiplier of the stream at the end.
    pub stream_scale: f32,
}

/// `x += scale * y`.
fn add_times(kernels: &Kernels, x: &mut [f32], y: &[f32], scale: f32) {
    if scale == 1.0 {
        kernels.add(x, y);
    } else {
        kernels.add_scaled(x, y, scale);
    }
}

/// One phase over all tokens of the stream `x`: `x = stream_scale * out(x + scale * post(sum of scaled outputs))`, then `input = norm(x)` (or x itself without a norm).
pub fn settle(
    ctx: &Context<'_>,
    x: &mut [f32],
    hidden: usize,
    pending: Option<Pending<'_>>,
    norm: Option<&BoundNorm>,
    input: &mut ActBuffer,
) {
    let n = x.len() / hidden;
    let kernels = ctx.kernels;
    let stride = hidden.next_multiple_of(PANEL_ROWS);
    let stream = Disjoint::new(x);
    ctx.crew.next("sum, norm, quantization", || 0);
    // The first output becomes the sum.
    let joining = pending.and_then(|mut p| {
        let (first, others) = std::mem::take(&mut p.outputs).split_first_mut()?;
        Some((Disjoint::new(first), &*others, p))
    });
    input.fill(ctx, n, true, |token, _, out| {
        // SAFETY: one job per token.
        let x = unsafe { stream.part(token * hidden..(token + 1) * hidden) };
        if let Some((first, others, p)) = &joining {
            let at = token * stride..token * stride + hidden;
            // SAFETY: one job per token.
            let sum = unsafe { first.part(at.clone()) };
            if let Some(norm) = &p.posts[0] {
                norm.apply(kernels, sum, out);
                sum.copy_from_slice(out);
            }
            if p.scales[0] != 1.0 {
                kernels.scale(sum, p.scales[0]);
            }
            for (i, other) in others.iter().enumerate() {
                let (mut other, scale) = (&other[at.clone()], p.scales[i + 1]);
                if let Some(norm) = &p.posts[i + 1] {
                    norm.apply(kernels, other, out);
                    other = out;
                }
                add_times(kernels, sum, other, scale);
            }
            if let Some(norm) = p.post {
                norm.apply(kernels, sum, out);
                sum.copy_from_slice(out);
            }
            add_times(kernels, x, sum, p.scale);
            if let Some(norm) = p.out {
                norm.apply(kernels, x, out);
                x.copy_from_slice(out);
            }
            if p.stream_scale != 1.0 {
                kernels.scale(x, p.stream_scale);
            }
        }
        match norm {
            Some(norm) => norm.apply(kernels, x, out),
            None => out.copy_from_slice(x),
        }
    });
}

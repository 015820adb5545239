//! Grouped-query attention over the paged cache: causal, within a sliding window, or over a whole sequence that came in one pass.
//!
//! The order of the arithmetic is fixed by absolute positions alone. Keys are taken in *ranges* of [`RANGE`] positions. Within a range:
//! scores, their maximum m, `p = exp(s - m)`, their sum l (16 strided lanes) and `o = sum of p * v`, positions ascending.
//! Ranges are merged in ascending order: with `M' = max(M, m)`, `L' = L exp(M - M') + l exp(m - M')`, and o alike. At the end `o / L`. A masked
//! key counts as `p = 0`, which changes no bit but the sign of a zero, and the last step adds +0 to fix that. So neither the chunks of a
//! prompt, nor the neighbours in a batch, nor the split of a long context over threads can be seen in the result.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::scores::{HeadNorm, Scores};
use super::{Angles, Span};
use crate::cache::{HeadCache, KvShape, TILE};
use crate::ops::{ActBuffer, Context, Product, grow, matmul, wants_quantized};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, Kernels, PANEL_ROWS};
use quern_models::spec::{self, Mask, NormSpan};
use std::sync::Mutex;

/// Positions whose softmax is computed at once. Scores of a block of queries over one range stay in the second-level cache.
pub const RANGE: usize = 512;

/// Query rows (tokens x heads of a group) that one job takes together, so that each key and value is read once for all of them.
const QUERY_ROWS: usize = 32;

/// Distance of two rows of scores: not a power of two, which would map all rows to the same cache sets.
const SCORE_STRIDE: usize = RANGE + 2 * TILE;

/// Attention bound to its weights.
pub struct Attention {
    /// What the Spec says of it.
    pub spec: spec::Attention,
    /// `q_width x hidden`.
    pub q: Matrix,
    /// `kv_width x hidden`.
    pub k: Matrix,
    /// `kv_width x hidden`.
    pub v: Matrix,
    /// `hidden x q_width`.
    pub o: Matrix,
    /// `q_width x hidden`, if the heads are gated.
    pub gate: Option<Matrix>,
    /// Biases, if there are any.
    pub q_bias: Option<Vector>,
    /// See `q_bias`.
    pub k_bias: Option<Vector>,
    /// See `q_bias`.
    pub v_bias: Option<Vector>,
    /// See `q_bias`.
    pub o_bias: Option<Vector>,
    /// Norm of q, if there is one.
    pub q_norm: Option<HeadNorm>,
    /// Norm of k, if there is one.
    pub k_norm: Option<HeadNorm>,
    /// What happens to scores.
    pub scores: Scores,
    /// One more score per query head, if there are any.
    pub sinks: Option<Vector>,
    /// Which of a sequence's caches is this branch's.
    pub cache: usize,
}

/// Buffers of all tokens, reused by every layer, and one workspace per thread.
#[derive(Default)]
pub struct Buffers {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    gate: Vec<f32>,
    mixed: ActBuffer,
    heads: Vec<f32>,
    partial: Vec<f32>,
    work: Vec<Mutex<Work>>,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let floats = self.q.len()
            + self.k.len()
            + self.v.len()
            + self.gate.len()
            + self.heads.len()
            + self.partial.len();
        let work: usize = self
            .work
            .iter()
            .map(|w| w.lock().unwrap_or_else(|e| e.into_inner()).len())
            .sum();
        (floats + work) * 4 + self.mixed.bytes()
    }
}

/// What one thread needs for a block of queries.
#[derive(Default)]
struct Work {
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// One row of a bias of scores, or one normed head.
    row: Vec<f32>,
    range: Running,
    total: Running,
}

impl Work {
    fn len(&self) -> usize {
        self.queries.len()
            + self.scores.len()
            + self.row.len()
            + self.range.len()
            + self.total.len()
    }
}

/// Maximum, sum and weighted values of some query rows.
#[derive(Default)]
struct Running {
    max: Vec<f32>,
    sum: Vec<f32>,
    values: Vec<f32>,
}

impl Running {
    fn len(&self) -> usize {
        self.max.len() + self.sum.len() + self.values.len()
    }

    fn reset(&mut self, rows: usize, width: usize) {
        for (buffer, len, value) in [
            (&mut self.max, rows, f32::NEG_INFINITY),
            (&mut self.sum, rows, 0.0),
            (&mut self.values, rows * width, 0.0),
        ] {
            grow(buffer, len);
            buffer[..len].fill(value);
        }
    }
}

/// Takes one range into the running total of one query row.
fn merge(
    kernels: &Kernels,
    total: (&mut f32, &mut f32, &mut [f32]),
    max: f32,
    sum: f32,
    values: &[f32],
) {
    if max == f32::NEG_INFINITY {
        return;
    }
    let (total_max, total_sum, total_values) = total;
    let new_max = if max > *total_max { max } else { *total_max };
    let mut factors = [*total_max - new_max, max - new_max];
    kernels.exp(&mut factors);
    let [old, new] = factors;
    *total_max = new_max;
    *total_sum = sum.mul_add(new, *total_sum * old);
    kernels.scale(total_values, old);
    kernels.add_scaled(total_values, values, new);
}

/// `values / sum`, with the sign of zero fixed.
fn finish(kernels: &Kernels, sum: f32, values: &[f32], out: &mut [f32]) {
    out.copy_from_slice(&values[..out.len()]);
    kernels.scale(out, 1.0 / sum);
    out.iter_mut().for_each(|x| *x += 0.0);
}

/// Some queries of one kv head's group: tokens `first .. first + tokens` of a span.
struct QueryBlock<'a> {
    kernels: &'static Kernels,
    shape: KvShape,
    group: usize,
    /// Position of the first token.
    position: usize,
    tokens: usize,
    /// Positions in the cache.
    len: usize,
    mask: Mask,
    head: &'a HeadCache,
    /// The first query head of the group.
    first_head: usize,
    transform: &'a Scores,
    sinks: Option<&'a [f32]>,
}

impl QueryBlock<'_> {
    fn rows(&self) -> usize {
        self.tokens * self.group
    }

    /// Width of a value row in buffers.
    fn width(&self) -> usize {
        self.shape.head_dim.next_multiple_of(TILE)
    }

    /// First position that the token at `position` sees.
    fn oldest(&self, position: usize) -> usize {
        match self.mask {
            Mask::Causal | Mask::Bidirectional => 0,
            Mask::Sliding(window) => (position + 1).saturating_sub(window as usize),
            Mask::Chunked(chunk) => position / chunk as usize * chunk as usize,
            Mask::Symmetric(radius) => position.saturating_sub(radius as usize),
        }
    }

    /// First position that the token at `position` does not see any more.
    fn end(&self, position: usize) -> usize {
        match self.mask {
            Mask::Causal | Mask::Sliding(_) | Mask::Chunked(_) => position + 1,
            Mask::Bidirectional => self.len,
            Mask::Symmetric(radius) => self.len.min(position + 1 + radius as usize),
        }
    }

    /// Sets the total of all rows to what it is before the first range.
    fn begin(&self, total: &mut Running) {
        total.reset(self.rows(), self.width());
        if let Some(sinks) = self.sinks {
            for row in 0..self.rows() {
                total.max[row] = sinks[self.first_head + row % self.group];
                total.sum[row] = 1.0;
            }
        }
    }

    /// Ranges that any query of the block sees.
    fn ranges(&self) -> std::ops::Range<usize> {
        let end = self.end(self.position + self.tokens - 1);
        self.oldest(self.position) / RANGE..end.div_ceil(RANGE)
    }

    /// Softmax and weighted values within one range.
    fn range(&self, index: usize, work: &mut Work) {
        let Work {
            queries,
            scores,
            row: bias,
            range: out,
            ..
        } = work;
        let (kernels, shape, rows, width) = (self.kernels, &self.shape, self.rows(), self.width());
        let end = self.end(self.position + self.tokens - 1);
        let from = (index * RANGE).max(self.oldest(self.position) / TILE * TILE);
        let to = ((index + 1) * RANGE).min(end.next_multiple_of(TILE));
        grow(scores, rows * SCORE_STRIDE);
        out.reset(rows, width);
        let mut at = from;
        while at < to {
            let (k, _, count) = self.head.span(at, to);
            let tiles = count / TILE;
            kernels.attn_scores(
                shape.kv,
                queries,
                shape.head_dim,
                rows,
                shape.head_dim,
                k,
                tiles,
                &mut scores[at - from..],
                SCORE_STRIDE,
            );
            at += count;
        }
        for row in 0..rows {
            let position = self.position + row / self.group;
            let s = &mut scores[row * SCORE_STRIDE..][..to - from];
            let hidden_before = self.oldest(position).clamp(from, to) - from;
            let hidden_from = self.end(position).clamp(from, to) - from;
            s[..hidden_before].fill(f32::NEG_INFINITY);
            s[hidden_from..].fill(f32::NEG_INFINITY);
            if hidden_before < hidden_from {
                let head = self.first_head + row % self.group;
                let (visible, first) = (&mut s[hidden_before..hidden_from], from + hidden_before);
                self.transform
                    .apply(kernels, head, position, first, visible, bias);
            }
            (out.max[row], out.sum[row]) = kernels.softmax_exp(s);
        }
        let mut at = from;
        while at < to {
            let (_, v, count) = self.head.span(at, to);
            kernels.attn_values(
                shape.kv,
                &scores[at - from..],
                SCORE_STRIDE,
                rows,
                v,
                count,
                shape.head_dim,
                &mut out.values,
                width,
            );
            at += count;
        }
    }
}

impl Attention {
    /// Shape of the cache for the element type that the user chose.
    pub fn shape(&self, kv: quern_kernels::KvType) -> KvShape {
        KvShape {
            kv,
            n_kv_heads: self.spec.n_kv_heads as usize,
            head_dim: self.spec.head_dim as usize,
            window: match self.spec.mask {
                Mask::Causal | Mask::Bidirectional | Mask::Symmetric(_) => None,
                Mask::Sliding(window) | Mask::Chunked(window) => Some(window as usize),
            },
        }
    }

    /// The matrices that read the branch's input.
    pub fn readers(&self) -> impl Iterator<Item = &Matrix> {
        [&self.q, &self.k, &self.v].into_iter().chain(&self.gate)
    }

    /// `out[token] = o(attention(h))` for all tokens of all spans; keys and values of the new tokens join the caches.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        angles: Option<&Angles>,
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let qkv = [
            Product::new(&self.q, &mut b.q, n),
            Product::new(&self.k, &mut b.k, n),
            Product::new(&self.v, &mut b.v, n),
        ];
        let (q_stride, kv_stride) = (qkv[0].stride, qkv[1].stride);
        match &self.gate {
            None => matmul(ctx, h, n, &qkv),
            Some(gate) => {
                let [q, k, v] = qkv;
                matmul(ctx, h, n, &[q, k, v, Product::new(gate, &mut b.gate, n)]);
            }
        }
        let threads = ctx.crew.threads();
        if b.work.len() < threads {
            b.work.resize_with(threads, Mutex::default);
        }
        self.norm_whole(ctx, n, b, q_stride, kv_stride);
        self.append(ctx, spans, angles, b, q_stride, kv_stride);
        self.attend(ctx, spans, b, q_stride);
        let (heads, gate, q_width) = (&b.heads, &b.gate, self.spec.q_width() as usize);
        let gated = self.gate.is_some();
        b.mixed.shape(n, q_width, wants_quantized(&self.o));
        b.mixed.fill(ctx, n, false, |token, cols, x| {
            let heads = &heads[token * q_width + cols.start..token * q_width + cols.end];
            if gated {
                let gate = &gate[token * q_stride + cols.start..token * q_stride + cols.end];
                ctx.kernels.glu(Activation::Sigmoid, gate, heads, x);
            } else {
                x.copy_from_slice(heads);
            }
        });
        matmul(ctx, &b.mixed, n, &[Product::new(&self.o, out, n)]);
        if let Some(bias) = &self.o_bias {
            let (rows, stride) = (self.o.rows(), self.o.rows().next_multiple_of(PANEL_ROWS));
            for token in 0..n {
                ctx.kernels.add(&mut out[token * stride..][..rows], bias);
            }
        }
    }

    /// Whether q and k are normed as whole vectors, which has to happen before the work is divided by heads.
    fn norms_whole(&self) -> bool {
        let span = self.spec.qk_norm.as_ref().map(|n| n.span);
        span == Some(NormSpan::Whole)
    }

    /// Biases and norms of q and k where the norm runs over all heads.
    fn norm_whole(
        &self,
        ctx: &Context<'_>,
        n: usize,
        b: &mut Buffers,
        q_stride: usize,
        kv_stride: usize,
    ) {
        let (kernels, work) = (ctx.kernels, &b.work);
        let (Some(q_norm), Some(k_norm), true) = (&self.q_norm, &self.k_norm, self.norms_whole())
        else {
            return;
        };
        let (q, k) = (Disjoint::new(&mut b.q), Disjoint::new(&mut b.k));
        ctx.crew.for_each(n, |token, me| {
            let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
            for (x, stride, width, bias, norm) in [
                (&q, q_stride, self.q.rows(), &self.q_bias, q_norm),
                (&k, kv_stride, self.k.rows(), &self.k_bias, k_norm),
            ] {
                // SAFETY: one job per token.
                let x = unsafe { x.part(token * stride..token * stride + width) };
                if let Some(bias) = bias {
                    kernels.add(x, bias);
                }
                norm.apply(kernels, 0, x, &mut work.row);
            }
        });
    }

    /// Everything between the products and the scores, on one head of q or k.
    fn prepare(
        &self,
        kernels: &Kernels,
        norm: Option<&HeadNorm>,
        head: usize,
        angles: Option<(&[f32], &[f32])>,
        x: &mut [f32],
        row: &mut Vec<f32>,
    ) {
        let norm = norm.filter(|_| !self.norms_whole());
        let after = self.spec.qk_norm.as_ref().is_some_and(|n| n.after_rope);
        if let (Some(norm), false) = (norm, after) {
            norm.apply(kernels, head, x, row);
        }
        if let Some(clip) = self.spec.clip {
            kernels.clamp(x, -clip, clip);
        }
        if let Some((cos, sin)) = angles {
            kernels.rope(x, cos, sin);
        }
        if let (Some(norm), true) = (norm, after) {
            norm.apply(kernels, head, x, row);
        }
    }

    /// Biases, norms, rotation and scaling of q and k in place; k and v join the caches. One job per span and kv head.
    fn append(
        &self,
        ctx: &Context<'_>,
        spans: &[Span<'_>],
        angles: Option<&Angles>,
        b: &mut Buffers,
        q_stride: usize,
        kv_stride: usize,
    ) {
        let (kernels, work) = (ctx.kernels, &b.work);
        let n_kv = self.spec.n_kv_heads as usize;
        let hd = self.spec.head_dim as usize;
        let group = self.spec.n_heads as usize / n_kv;
        let whole = self.norms_whole();
        let (q_bias, k_bias) = (
            self.q_bias.as_ref().filter(|_| !whole),
            self.k_bias.as_ref().filter(|_| !whole),
        );
        let (q, k, v) = (
            Disjoint::new(&mut b.q),
            Disjoint::new(&mut b.k),
            Disjoint::new(&mut b.v),
        );
        ctx.crew.for_each(spans.len() * n_kv, |job, me| {
            let row = &mut work[me].lock().unwrap_or_else(|e| e.into_inner()).row;
            let (span, head) = (&spans[job / n_kv], job % n_kv);
            let cache = &span.seq.caches[self.cache];
            cache.write(head, |cache| {
                for (i, token) in span.rows.clone().enumerate() {
                    let position = span.start + i;
                    let kv_cols = head * hd..(head + 1) * hd;
                    let kv_at = token * kv_stride;
                    let q_cols = head * group * hd..(head + 1) * group * hd;
                    let q_at = token * q_stride;
                    // SAFETY: one job per token and kv head; heads have columns of their own.
                    let (q, k, v) = unsafe {
                        (
                            q.part(q_at + q_cols.start..q_at + q_cols.end),
                            k.part(kv_at + kv_cols.start..kv_at + kv_cols.end),
                            v.part(kv_at + kv_cols.start..kv_at + kv_cols.end),
                        )
                    };
                    if let Some(bias) = q_bias {
                        kernels.add(q, &bias[q_cols]);
                    }
                    if let Some(bias) = k_bias {
                        kernels.add(k, &bias[kv_cols.clone()]);
                    }
                    if let Some(bias) = &self.v_bias {
                        kernels.add(v, &bias[kv_cols]);
                    }
                    let angles = angles.map(|a| a.of(token));
                    for (h, q) in q.chunks_exact_mut(hd).enumerate() {
                        let (norm, h) = (self.q_norm.as_ref(), head * group + h);
                        self.prepare(kernels, norm, h, angles, q, row);
                    }
                    self.prepare(kernels, self.k_norm.as_ref(), head, angles, k, row);
                    if let Some(clip) = self.spec.clip {
                        kernels.clamp(v, -clip, clip);
                    }
                    let scale = match &self.spec.position_scale {
                        None => self.spec.scale,
                        Some(p) => (f64::from(self.spec.scale) * p.at(position)) as f32,
                    };
                    kernels.scale(q, scale);
                    cache.store(kernels, position, k, v);
                }
            });
        });
    }

    /// Attention of every head into `b.heads` (`[token][q_width]`).
    fn attend(&self, ctx: &Context<'_>, spans: &[Span<'_>], b: &mut Buffers, q_stride: usize) {
        let kernels = ctx.kernels;
        let n = spans.last().map_or(0, |s| s.rows.end);
        let n_kv = self.spec.n_kv_heads as usize;
        let hd = self.spec.head_dim as usize;
        let q_width = self.spec.q_width() as usize;
        let group = self.spec.n_heads as usize / n_kv;
        let per_block = (QUERY_ROWS / group).max(1);
        let threads = ctx.crew.threads();
        grow(&mut b.heads, n * q_width);
        let (q, work) = (&b.q, &b.work);
        let heads = Disjoint::new(&mut b.heads);
        let blocks_of = |span: &Span<'_>| span.rows.len().div_ceil(per_block);
        let blocks: usize = spans.iter().map(blocks_of).sum();

        // Calls `f` with the block of queries, its first row of the buffers and its kv head.
        let with_block = |job: usize, f: &mut dyn FnMut(&QueryBlock<'_>, usize, usize)| {
            // The last blocks of a prompt see the most keys: they start first.
            let (mut block, kv_head) = (blocks - 1 - job / n_kv, job % n_kv);
            for span in spans {
                if block >= blocks_of(span) {
                    block -= blocks_of(span);
                    continue;
                }
                let cache = &span.seq.caches[self.cache];
                let first = block * per_block;
                let queries = QueryBlock {
                    kernels,
                    shape: cache.shape,
                    group,
                    position: span.start + first,
                    tokens: per_block.min(span.rows.len() - first),
                    len: span.start + span.rows.len(),
                    mask: self.spec.mask,
                    head: &cache.read(kv_head),
                    first_head: kv_head * group,
                    transform: &self.scores,
                    sinks: self.sinks.as_deref(),
                };
                return f(&queries, span.rows.start + first, kv_head);
            }
        };
        let gather =
            |block: &QueryBlock<'_>, row: usize, kv_head: usize, queries: &mut Vec<f32>| {
                grow(queries, block.rows() * hd);
                for t in 0..block.tokens {
                    let from = (row + t) * q_stride + kv_head * group * hd;
                    queries[t * group * hd..][..group * hd]
                        .copy_from_slice(&q[from..from + group * hd]);
                }
            };
        let scatter = |block: &QueryBlock<'_>, row: usize, kv_head: usize, total: &Running| {
            for r in 0..block.rows() {
                let at = (row + r / group) * q_width + (kv_head * group + r % group) * hd;
                // SAFETY: one job per token and head.
                let out = unsafe { heads.part(at..at + hd) };
                finish(
                    kernels,
                    total.sum[r],
                    &total.values[r * block.width()..],
                    out,
                );
            }
        };
        let take = |block: &QueryBlock<'_>,
                    total: &mut Running,
                    max: &[f32],
                    sum: &[f32],
                    values: &[f32]| {
            let width = block.width();
            for r in 0..block.rows() {
                let into = (
                    &mut total.max[r],
                    &mut total.sum[r],
                    &mut total.values[r * width..(r + 1) * width],
                );
                merge(
                    kernels,
                    into,
                    max[r],
                    sum[r],
                    &values[r * width..(r + 1) * width],
                );
            }
        };

        let jobs = blocks * n_kv;
        let most_ranges = spans
            .iter()
            .map(|s| (s.start + s.rows.len() - 1) / RANGE + 1)
            .max()
            .unwrap_or(1);
        if jobs >= 2 * threads || most_ranges == 1 {
            ctx.crew.for_each(jobs, |job, me| {
                let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
                with_block(job, &mut |block, row, kv_head| {
                    gather(block, row, kv_head, &mut work.queries);
                    block.begin(&mut work.total);
                    for index in block.ranges() {
                        block.range(index, work);
                        let r = &work.range;
                        take(block, &mut work.total, &r.max, &r.sum, &r.values);
                    }
                    scatter(block, row, kv_head, &work.total);
                });
            });
            return;
        }

        // Few queries and many keys: ranges become jobs, their results are merged in the same order afterwards.
        let rows = per_block * group;
        let width = hd.next_multiple_of(TILE);
        let slot = rows * (width + 2);
        grow(&mut b.partial, jobs * most_ranges * slot);
        let partial = Disjoint::new(&mut b.partial);
        ctx.crew.for_each(jobs * most_ranges, |part, me| {
            let (job, index) = (part / most_ranges, part % most_ranges);
            let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
            with_block(job, &mut |block, row, kv_head| {
                if !block.ranges().contains(&index) {
                    return;
                }
                gather(block, row, kv_head, &mut work.queries);
                block.range(index, work);
                // SAFETY: one slot per part.
                let out = unsafe { partial.part(part * slot..(part + 1) * slot) };
                let (max, rest) = out.split_at_mut(rows);
                let (sum, values) = rest.split_at_mut(rows);
                let r = block.rows();
                max[..r].copy_from_slice(&work.range.max[..r]);
                sum[..r].copy_from_slice(&work.range.sum[..r]);
                values[..r * width].copy_from_slice(&work.range.values[..r * width]);
            });
        });
        let partial = &b.partial;
        ctx.crew.for_each(jobs, |job, me| {
            let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
            with_block(job, &mut |block, row, kv_head| {
                block.begin(&mut work.total);
                for index in block.ranges() {
                    let slot = &partial[(job * most_ranges + index) * slot..][..slot];
                    take(
                        block,
                        &mut work.total,
                        &slot[..rows],
                        &slot[rows..2 * rows],
                        &slot[2 * rows..],
                    );
                }
                scatter(block, row, kv_head, &work.total);
            });
        });
    }
}

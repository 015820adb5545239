//! The core of attention: queries over the paged cache, causal, within a sliding window, or over a whole sequence that came in one pass.
//!
//! The order of the arithmetic is fixed by absolute positions alone. Keys are taken in *ranges* of [`RANGE`] positions. Within a range:
//! scores, their maximum m, `p = exp(s - m)`, their sum l (16 strided lanes) and `o = sum of p * v`, positions ascending.
//! Ranges are merged in ascending order: with `M' = max(M, m)`, `L' = L exp(M - M') + l exp(m - M')`, and o alike. At the end `o / L`. A masked
//! key counts as `p = 0`, which changes no bit but the sign of a zero, and the last step adds +0 to fix that. So neither the chunks of a
//! prompt, nor the neighbours in a batch, nor the split of heads and of a long context over threads can be seen in the result.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::Span;
use super::scores::Scores;
use crate::cache::{HeadCache, KvShape, TILE};
use crate::ops::{Context, grow};
use crate::par::Disjoint;
use quern_kernels::Kernels;
use quern_models::spec::Mask;
use std::sync::Mutex;

/// Positions whose softmax is computed at once. Scores of a block of queries over one range stay in the second-level cache.
pub const RANGE: usize = 512;

/// Query rows (tokens x heads of a group) that one job takes together, so that each key and value is read once for all of them.
const QUERY_ROWS: usize = 32;

/// Fewest heads of a group that are worth a job of their own where there are more threads than groups.
const FEW_HEADS: usize = 8;

/// Distance of two rows of scores: not a power of two, which would map all rows to the same cache sets.
const SCORE_STRIDE: usize = RANGE + 2 * TILE;

/// What an attention branch does with its queries, keys and values.
pub struct Core<'a> {
    /// Which of a sequence's caches it reads.
    pub cache: usize,
    /// Query heads; head h reads the cache's head `h / (n_heads / n_kv_heads)`.
    pub n_heads: usize,
    /// Heads of the cache.
    pub n_kv_heads: usize,
    /// Width of a query and of a key.
    pub key_dim: usize,
    /// Width of a value and of a result.
    pub value_dim: usize,
    /// Which keys a query sees.
    pub mask: Mask,
    /// What happens to scores.
    pub scores: &'a Scores,
    /// One more score per query head, if there are any.
    pub sinks: Option<&'a [f32]>,
}

impl Core<'_> {
    /// Bytes of keys and values that the tokens of these spans see, each counted once.
    fn bytes(&self, spans: &[Span<'_>]) -> u64 {
        let of = |span: &Span<'_>| {
            let shape = &span.seq.caches[self.cache].shape;
            let seen = shape.window.map_or(span.keys, |w| w + span.rows.len());
            let keys = shape.kv.k_tile_bytes(self.key_dim) / TILE;
            let one = keys + shape.kv.v_row_bytes(self.value_dim);
            (seen.min(span.keys) * self.n_kv_heads * one) as u64
        };
        spans.iter().map(of).sum()
    }
}

/// Buffers of all tokens, reused by every layer, and one workspace per thread.
#[derive(Default)]
pub struct Buffers {
    /// The results, `[token][head][value_dim]`.
    pub heads: Vec<f32>,
    partial: Vec<f32>,
    work: Vec<Mutex<Work>>,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let work: usize = self
            .work
            .iter()
            .map(|w| w.lock().unwrap_or_else(|e| e.into_inner()).len())
            .sum();
        (self.heads.len() + self.partial.len() + work) * 4
    }
}

/// Keys that a query sees at most under a mask, itself included; none: all.
pub fn window(mask: Mask) -> Option<usize> {
    match mask {
        Mask::Causal | Mask::Bidirectional | Mask::Symmetric(_) => None,
        Mask::Sliding(window) | Mask::Chunked(window) => Some(window as usize),
    }
}

/// What one thread needs for a block of queries.
#[derive(Default)]
struct Work {
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// One row of a bias of scores.
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

/// Some queries of one kv head's group: some tokens of a span, and some or all heads of the group.
struct QueryBlock<'a> {
    kernels: &'static Kernels,
    core: &'a Core<'a>,
    shape: KvShape,
    /// Position of the first token.
    position: usize,
    tokens: usize,
    /// Positions in the cache.
    len: usize,
    head: &'a HeadCache,
    /// The first query head.
    first_head: usize,
    heads: usize,
}

impl QueryBlock<'_> {
    fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    /// Width of a value row in buffers.
    fn width(&self) -> usize {
        self.shape.value_dim.next_multiple_of(TILE)
    }

    /// First position that the token at `position` sees.
    fn oldest(&self, position: usize) -> usize {
        match self.core.mask {
            Mask::Causal | Mask::Bidirectional => 0,
            Mask::Sliding(window) => (position + 1).saturating_sub(window as usize),
            Mask::Chunked(chunk) => position / chunk as usize * chunk as usize,
            Mask::Symmetric(radius) => position.saturating_sub(radius as usize),
        }
    }

    /// First position that the token at `position` does not see any more.
    fn end(&self, position: usize) -> usize {
        match self.core.mask {
            Mask::Causal | Mask::Sliding(_) | Mask::Chunked(_) => position + 1,
            Mask::Bidirectional => self.len,
            Mask::Symmetric(radius) => self.len.min(position + 1 + radius as usize),
        }
    }

    /// Sets the total of all rows to what it is before the first range.
    fn begin(&self, total: &mut Running) {
        total.reset(self.rows(), self.width());
        if let Some(sinks) = self.core.sinks {
            for row in 0..self.rows() {
                total.max[row] = sinks[self.first_head + row % self.heads];
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
        // What is read next: the keys of the next page, then the values of the first one, and at last the keys of the next range.
        let next = |at: usize| (at < to).then(|| self.head.span(at, to));
        let first_values = next(from).map_or(&[][..], |(_, v, _)| v);
        let later = (to < end).then(|| self.head.span(to, end.next_multiple_of(TILE)));
        let mut at = from;
        while at < to {
            let (k, _, count) = self.head.span(at, to);
            let next = next(at + count).map_or(first_values, |(k, _, _)| k);
            let tiles = count / TILE;
            kernels.attn_scores(
                shape.kv,
                queries,
                shape.key_dim,
                rows,
                shape.key_dim,
                k,
                next,
                tiles,
                &mut scores[at - from..],
                SCORE_STRIDE,
            );
            at += count;
        }
        for row in 0..rows {
            let position = self.position + row / self.heads;
            let s = &mut scores[row * SCORE_STRIDE..][..to - from];
            let hidden_before = self.oldest(position).clamp(from, to) - from;
            let hidden_from = self.end(position).clamp(from, to) - from;
            s[..hidden_before].fill(f32::NEG_INFINITY);
            s[hidden_from..].fill(f32::NEG_INFINITY);
            if hidden_before < hidden_from {
                let head = self.first_head + row % self.heads;
                let (visible, first) = (&mut s[hidden_before..hidden_from], from + hidden_before);
                self.core
                    .scores
                    .apply(kernels, head, position, first, visible, bias);
            }
            (out.max[row], out.sum[row]) = kernels.softmax_exp(s);
        }
        let mut at = from;
        while at < to {
            let (_, v, count) = self.head.span(at, to);
            let next = match next(at + count) {
                Some((_, v, _)) => v,
                None => later.map_or(&[][..], |(k, _, _)| k),
            };
            kernels.attn_values(
                shape.kv,
                &scores[at - from..],
                SCORE_STRIDE,
                rows,
                v,
                next,
                count,
                shape.value_dim,
                &mut out.values,
                width,
            );
            at += count;
        }
    }
}

/// Attention of every head of all tokens into [`Buffers::heads`]. Queries are normed, rotated and scaled: head h of token t is
/// `q[t * q_stride + h * key_dim ..][.. key_dim]`; keys and values of the tokens are in the caches.
pub fn attend(
    ctx: &Context<'_>,
    spans: &[Span<'_>],
    core: &Core<'_>,
    q: &[f32],
    q_stride: usize,
    b: &mut Buffers,
) {
    let kernels = ctx.kernels;
    let n = spans.last().map_or(0, |s| s.rows.end);
    let (n_kv, group) = (core.n_kv_heads, core.n_heads / core.n_kv_heads);
    let (kd, vd) = (core.key_dim, core.value_dim);
    let out_stride = core.n_heads * vd;
    let per_block = (QUERY_ROWS / group).max(1);
    let threads = ctx.crew.threads();
    if b.work.len() < threads {
        b.work.resize_with(threads, Mutex::default);
    }
    grow(&mut b.heads, n * out_stride);
    let work = &b.work;
    let results = Disjoint::new(&mut b.heads);
    let blocks_of = |span: &Span<'_>| span.rows.len().div_ceil(per_block);
    let blocks: usize = spans.iter().map(blocks_of).sum();
    // A large group is several jobs, and more of them where threads would have nothing to do. Rows do not see each other.
    let idle = threads
        .div_ceil(blocks * n_kv)
        .min(group.div_ceil(FEW_HEADS));
    let piece = group.div_ceil(group.div_ceil(QUERY_ROWS).max(idle));
    let pieces = group.div_ceil(piece);

    // Calls `f` with the block of queries and its first row of the buffers.
    let with_block = |job: usize, f: &mut dyn FnMut(&QueryBlock<'_>, usize)| {
        // The last blocks of a prompt see the most keys: they start first.
        let mut block = blocks - 1 - job / (n_kv * pieces);
        let (kv_head, part) = (job / pieces % n_kv, job % pieces * piece);
        for span in spans {
            if block >= blocks_of(span) {
                block -= blocks_of(span);
                continue;
            }
            let cache = &span.seq.caches[core.cache];
            let first = block * per_block;
            let queries = QueryBlock {
                kernels,
                core,
                shape: cache.shape,
                position: span.start + first,
                tokens: per_block.min(span.rows.len() - first),
                len: span.keys,
                head: &cache.read(kv_head),
                first_head: kv_head * group + part,
                heads: piece.min(group - part),
            };
            return f(&queries, span.rows.start + first);
        }
    };
    let gather = |block: &QueryBlock<'_>, row: usize, queries: &mut Vec<f32>| {
        let width = block.heads * kd;
        grow(queries, block.tokens * width);
        for t in 0..block.tokens {
            let from = (row + t) * q_stride + block.first_head * kd;
            queries[t * width..][..width].copy_from_slice(&q[from..from + width]);
        }
    };
    let scatter = |block: &QueryBlock<'_>, row: usize, total: &Running| {
        for r in 0..block.rows() {
            let head = block.first_head + r % block.heads;
            let at = (row + r / block.heads) * out_stride + head * vd;
            // SAFETY: one job per token and head.
            let out = unsafe { results.part(at..at + vd) };
            finish(
                kernels,
                total.sum[r],
                &total.values[r * block.width()..],
                out,
            );
        }
    };
    let take =
        |block: &QueryBlock<'_>, total: &mut Running, max: &[f32], sum: &[f32], values: &[f32]| {
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

    let jobs = blocks * n_kv * pieces;
    let read = || core.bytes(spans);
    let most_ranges = spans
        .iter()
        .map(|s| (s.keys - 1) / RANGE + 1)
        .max()
        .unwrap_or(1);
    if jobs >= 2 * threads || most_ranges == 1 {
        ctx.crew.next("scores and values", read);
        ctx.crew.for_each(jobs, |job, me| {
            let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
            with_block(job, &mut |block, row| {
                gather(block, row, &mut work.queries);
                block.begin(&mut work.total);
                for index in block.ranges() {
                    block.range(index, work);
                    let r = &work.range;
                    take(block, &mut work.total, &r.max, &r.sum, &r.values);
                }
                scatter(block, row, &work.total);
            });
        });
        return;
    }

    // Few queries and many keys: ranges become jobs, their results are merged in the same order afterwards.
    let rows = per_block * piece;
    let width = vd.next_multiple_of(TILE);
    let slot = rows * (width + 2);
    grow(&mut b.partial, jobs * most_ranges * slot);
    let partial = Disjoint::new(&mut b.partial);
    ctx.crew.next("scores and values", read);
    ctx.crew.for_each(jobs * most_ranges, |part, me| {
        let (job, index) = (part / most_ranges, part % most_ranges);
        let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
        with_block(job, &mut |block, row| {
            if !block.ranges().contains(&index) {
                return;
            }
            gather(block, row, &mut work.queries);
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
    ctx.crew.next("merge", || 0);
    ctx.crew.for_each(jobs, |job, me| {
        let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
        with_block(job, &mut |block, row| {
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
            scatter(block, row, &work.total);
        });
    });
}

//! Latent attention in its absorbed form: one narrow vector per token is key and value of all heads (see [`spec::Latent`]).
//!
//! ```text
//! q = up(norm(down(h))) or q(h), per head [plain | rotary]      [c | r] = kv_down(h);  c = norm(c)
//! query_h = [key_h plain_h | rope(rotary_h)] * scale              key = [c | rope(r)],  value = c
//! out = o(concatenation of value_h (attention of query_h))
//! ```
//!
//! Prefill and decoding take the same way, so that a token's bits do not depend on how it came. The matrices of the heads are stacks: the rows of
//! all tokens of one head lie together, and each product reads a head's weights once.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::attend::{self, Core, attend};
use super::scores::Scores;
use super::{Angles, Span};
use crate::cache::KvShape;
use crate::ops::{
    ActBuffer, BoundNorm, Context, Group, Product, grow, matmul, matmul_groups, wants_quantized,
};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{KvType, PANEL_ROWS};
use quern_models::spec::{self, Mask};
use std::sync::Mutex;

/// Latent attention bound to its weights.
pub struct Latent {
    /// What the Spec says of it.
    pub spec: spec::Latent,
    /// From the token to the queries.
    pub query: Query,
    /// `(rank + rotary) x hidden`.
    pub kv_down: Matrix,
    /// Its bias.
    pub kv_bias: Option<Vector>,
    /// Norm of what is kept.
    pub kv_norm: BoundNorm,
    /// Per head `rank x plain`.
    pub key: Matrix,
    /// Per head `value x rank`.
    pub value: Matrix,
    /// `hidden x (heads * value)`.
    pub o: Matrix,
    /// Its bias.
    pub o_bias: Option<Vector>,
    /// Nothing happens to scores.
    pub scores: Scores,
    /// Which of a sequence's caches is this branch's.
    pub cache: usize,
}

/// Where queries come from.
pub enum Query {
    /// `(heads * (plain + rotary)) x hidden`.
    Direct(Matrix),
    /// By way of a narrow vector.
    LowRank {
        /// `rank x hidden`.
        down: Matrix,
        /// Its bias.
        bias: Option<Vector>,
        /// Norm of the narrow vector.
        norm: BoundNorm,
        /// `(heads * (plain + rotary)) x rank`.
        up: Matrix,
    },
}

/// Buffers of all tokens, reused by every layer, and one workspace per thread.
#[derive(Default)]
pub struct Buffers {
    low: Vec<f32>,
    low_input: ActBuffer,
    q: Vec<f32>,
    kv: Vec<f32>,
    groups: Vec<Group>,
    /// Rows of head h are `h * tokens ..`, as in all buffers of heads here.
    plain: ActBuffer,
    absorbed: Vec<f32>,
    /// `[token][head][rank + rotary]`.
    queries: Vec<f32>,
    core: attend::Buffers,
    values: ActBuffer,
    heads: Vec<f32>,
    mixed: ActBuffer,
    /// One key.
    keys: Vec<Mutex<Vec<f32>>>,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let keys = self.keys.iter();
        let keys = keys.map(|k| k.lock().unwrap_or_else(|e| e.into_inner()).len());
        let floats = self.low.len()
            + self.q.len()
            + self.kv.len()
            + self.absorbed.len()
            + self.queries.len()
            + self.heads.len()
            + keys.sum::<usize>();
        let inputs = [&self.low_input, &self.plain, &self.values, &self.mixed];
        floats * 4 + inputs.map(ActBuffer::bytes).iter().sum::<usize>() + self.core.bytes()
    }
}

/// Adds a bias to the results of all tokens.
fn add_bias(ctx: &Context<'_>, n: usize, x: &mut [f32], bias: Option<&Vector>) {
    if let Some(bias) = bias {
        let stride = bias.len().next_multiple_of(PANEL_ROWS);
        ctx.crew.for_chunks(&mut x[..n * stride], stride, |_, x| {
            ctx.kernels.add(&mut x[..bias.len()], bias);
        });
    }
}

impl Latent {
    /// Shape of the cache for the element type that the user chose.
    pub fn shape(&self, kv: KvType) -> KvShape {
        KvShape {
            kv,
            n_kv_heads: 1,
            key_dim: self.spec.key_dim() as usize,
            value_dim: self.spec.kv.rank as usize,
            window: None,
        }
    }

    /// The matrices that read the branch's input.
    pub fn readers(&self) -> impl Iterator<Item = &Matrix> {
        let query = match &self.query {
            Query::Direct(q) => q,
            Query::LowRank { down, .. } => down,
        };
        [query, &self.kv_down].into_iter()
    }

    /// `out[token] = o(attention(h))` for all tokens of all spans; what is kept of the new tokens joins the caches.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        angles: &Angles,
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let threads = ctx.crew.threads();
        if b.keys.len() < threads {
            b.keys.resize_with(threads, Mutex::default);
        }
        self.project(ctx, h, n, b);

        let heads = self.spec.n_heads as usize;
        b.groups.clear();
        b.groups.extend((0..heads).map(|matrix| Group {
            matrix,
            rows: matrix * n..(matrix + 1) * n,
        }));
        let (plain, head_dim) = (self.spec.plain_dim as usize, self.spec.head_dim() as usize);
        let (q, q_stride) = (&b.q, (heads * head_dim).next_multiple_of(PANEL_ROWS));
        b.plain.shape(heads * n, plain, wants_quantized(&self.key));
        b.plain.fill(ctx, heads * n, false, |row, cols, x| {
            let at = row % n * q_stride + row / n * head_dim;
            x.copy_from_slice(&q[at + cols.start..at + cols.end]);
        });
        let products = [Product::new(&self.key, &mut b.absorbed, heads * n)];
        matmul_groups(ctx, &b.plain, &b.groups, &products);
        self.join(ctx, spans, angles, b, q_stride);

        let (kd, rank) = (self.spec.key_dim() as usize, self.spec.kv.rank as usize);
        let core = Core {
            cache: self.cache,
            n_heads: heads,
            n_kv_heads: 1,
            key_dim: kd,
            value_dim: rank,
            mask: Mask::Causal,
            scores: &self.scores,
            sinks: None,
        };
        attend(ctx, spans, &core, &b.queries, heads * kd, &mut b.core);

        let found = &b.core.heads;
        b.values
            .shape(heads * n, rank, wants_quantized(&self.value));
        b.values.fill(ctx, heads * n, false, |row, cols, x| {
            let at = (row % n * heads + row / n) * rank;
            x.copy_from_slice(&found[at + cols.start..at + cols.end]);
        });
        let products = [Product::new(&self.value, &mut b.heads, heads * n)];
        let stride = products[0].stride;
        matmul_groups(ctx, &b.values, &b.groups, &products);

        let (results, width) = (&b.heads, self.spec.value_dim as usize);
        b.mixed.shape_for(n, &self.o);
        b.mixed.fill(ctx, n, false, |token, cols, x| {
            let (mut rest, mut column) = (x, cols.start);
            while !rest.is_empty() {
                let (head, i) = (column / width, column % width);
                let (part, after) = rest.split_at_mut((width - i).min(rest.len()));
                let at = (head * n + token) * stride + i;
                part.copy_from_slice(&results[at..at + part.len()]);
                column += part.len();
                rest = after;
            }
        });
        matmul(ctx, &b.mixed, n, &[Product::new(&self.o, out, n)]);
        add_bias(ctx, n, out, self.o_bias.as_ref());
    }

    /// Queries of all tokens into `b.q`, and what is kept of them, not normed yet, into `b.kv`.
    fn project(&self, ctx: &Context<'_>, h: &ActBuffer, n: usize, b: &mut Buffers) {
        match &self.query {
            Query::Direct(q) => {
                let products = [
                    Product::new(q, &mut b.q, n),
                    Product::new(&self.kv_down, &mut b.kv, n),
                ];
                matmul(ctx, h, n, &products);
            }
            Query::LowRank {
                down,
                bias,
                norm,
                up,
            } => {
                let products = [
                    Product::new(down, &mut b.low, n),
                    Product::new(&self.kv_down, &mut b.kv, n),
                ];
                let stride = products[0].stride;
                matmul(ctx, h, n, &products);
                add_bias(ctx, n, &mut b.low, bias.as_ref());
                let (low, rank) = (&b.low, down.rows());
                b.low_input.shape(n, rank, wants_quantized(up));
                b.low_input.fill(ctx, n, true, |token, _, x| {
                    norm.apply(ctx.kernels, &low[token * stride..][..rank], x);
                });
                matmul(ctx, &b.low_input, n, &[Product::new(up, &mut b.q, n)]);
            }
        }
        add_bias(ctx, n, &mut b.kv, self.kv_bias.as_ref());
    }

    /// Norms and rotates what is kept and puts it into the caches, one job per span; assembles the queries, one job per token.
    fn join(
        &self,
        ctx: &Context<'_>,
        spans: &[Span<'_>],
        angles: &Angles,
        b: &mut Buffers,
        q_stride: usize,
    ) {
        let (kernels, s) = (ctx.kernels, &self.spec);
        let n = spans.last().map_or(0, |s| s.rows.end);
        let (heads, rank, kd) = (s.n_heads as usize, s.kv.rank as usize, s.key_dim() as usize);
        let (plain, head_dim) = (s.plain_dim as usize, s.head_dim() as usize);
        let kv_stride = kd.next_multiple_of(PANEL_ROWS);
        let absorbed_stride = rank.next_multiple_of(PANEL_ROWS);
        grow(&mut b.queries, n * heads * kd);
        let (q, kv, absorbed, keys) = (&b.q, &b.kv, &b.absorbed, &b.keys);
        let queries = Disjoint::new(&mut b.queries);
        ctx.crew.for_each(spans.len() + n, |job, me| {
            if let Some(span) = spans.get(job) {
                let key = &mut *keys[me].lock().unwrap_or_else(|e| e.into_inner());
                grow(key, kd);
                let key = &mut key[..kd];
                span.seq.caches[self.cache].write(0, |cache| {
                    for (i, token) in span.rows.clone().enumerate() {
                        let kept = &kv[token * kv_stride..][..kd];
                        let (c, rotary) = key.split_at_mut(rank);
                        self.kv_norm.apply(kernels, &kept[..rank], c);
                        rotary.copy_from_slice(&kept[rank..]);
                        let (cos, sin) = angles.of(token);
                        kernels.rope(rotary, cos, sin);
                        cache.store(kernels, span.start + i, key, &key[..rank]);
                    }
                });
                return;
            }
            let token = job - spans.len();
            let Some(span) = spans.iter().find(|s| s.rows.contains(&token)) else {
                return;
            };
            let position = span.start + token - span.rows.start;
            let scale = match &s.position_scale {
                None => s.scale,
                Some(p) => (f64::from(s.scale) * p.at(position)) as f32,
            };
            let (cos, sin) = angles.of(token);
            // SAFETY: one job per token.
            let out = unsafe { queries.part(token * heads * kd..(token + 1) * heads * kd) };
            for (head, query) in out.chunks_exact_mut(kd).enumerate() {
                let (c, rotary) = query.split_at_mut(rank);
                c.copy_from_slice(&absorbed[(head * n + token) * absorbed_stride..][..rank]);
                let at = token * q_stride + head * head_dim;
                rotary.copy_from_slice(&q[at + plain..at + head_dim]);
                kernels.rope(rotary, cos, sin);
                kernels.scale(query, scale);
            }
        });
    }
}

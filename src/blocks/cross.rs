//! Attention to a source: queries of the decoder, keys and values of the encoder's hidden vectors.
//!
//! Keys and values are computed once, when the source has been encoded, and lie in the caches of the sequence's source; every query
//! sees all of them. The core is that of attention to the sequence itself.

use super::attend::{Core, attend};
use super::attention::Buffers;
use super::scores::Scores;
use super::{Span, emptied};
use crate::cache::KvShape;
use crate::ops::{ActBuffer, Context, Product, matmul};
use crate::tensor::Matrix;
use quern_kernels::KvType;
use quern_models::spec::{self, Mask};

/// Cross attention bound to its weights.
pub struct Cross {
    /// What the Spec says of it.
    pub spec: spec::Cross,
    /// `q_width x hidden`.
    pub q: Matrix,
    /// `kv_width x hidden`.
    pub k: Matrix,
    /// `kv_width x hidden`.
    pub v: Matrix,
    /// `hidden x q_width`.
    pub o: Matrix,
    /// What happens to scores: nothing.
    pub scores: Scores,
    /// Which of a source's caches is this branch's.
    pub cache: usize,
}

impl Cross {
    /// Shape of the cache for the element type that the user chose.
    pub fn shape(&self, kv: KvType) -> KvShape {
        let width = self.spec.head_dim as usize;
        KvShape {
            kv,
            n_kv_heads: self.spec.n_kv_heads as usize,
            key_dim: width,
            value_dim: width,
            window: None,
        }
    }

    /// The matrices that read the encoder's hidden vectors.
    pub fn source_readers(&self) -> [&Matrix; 2] {
        [&self.k, &self.v]
    }

    /// Keys and values of the encoder's hidden vectors `h` join the caches; the spans are those of the sources.
    pub fn remember(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        sources: &[Span<'_>],
        b: &mut Buffers,
    ) {
        let n = sources.last().map_or(0, |s| s.rows.end);
        let products = [
            Product::new(&self.k, &mut b.k, n),
            Product::new(&self.v, &mut b.v, n),
        ];
        let stride = products[0].stride;
        matmul(ctx, h, n, &products);
        let (k, v) = (&b.k, &b.v);
        let heads = self.spec.n_kv_heads as usize;
        let width = self.spec.head_dim as usize;
        ctx.crew.for_each(sources.len() * heads, |job, _| {
            let (source, head) = (&sources[job / heads], job % heads);
            source.seq.caches[self.cache].write(head, |cache| {
                for (position, token) in source.rows.clone().enumerate() {
                    let at = token * stride + head * width;
                    let (k, v) = (&k[at..at + width], &v[at..at + width]);
                    cache.store(ctx.kernels, position, k, v);
                }
            });
        });
    }

    /// `out[token] = o(attention(q(h)))` for all tokens of all spans, each of which sees its sequence's source.
    ///
    /// # Panics
    /// If a sequence has no source.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let product = Product::new(&self.q, &mut b.q, n);
        let stride = product.stride;
        matmul(ctx, h, n, &[product]);
        if self.spec.scale != 1.0 {
            let q = &mut b.q[..n * stride];
            ctx.crew
                .for_chunks(q, stride, |_, q| ctx.kernels.scale(q, self.spec.scale));
        }
        let sources = spans.iter().map(|span| {
            let seq = span.seq.source().expect("a source was checked for");
            Span {
                seq,
                rows: span.rows.clone(),
                start: 0,
                keys: seq.len(),
            }
        });
        let mut list = emptied(std::mem::take(&mut b.sources));
        list.extend(sources);
        let width = self.spec.head_dim as usize;
        let core = Core {
            cache: self.cache,
            n_heads: self.spec.n_heads as usize,
            n_kv_heads: self.spec.n_kv_heads as usize,
            key_dim: width,
            value_dim: width,
            mask: Mask::Bidirectional,
            scores: &self.scores,
            sinks: None,
        };
        attend(ctx, &list, &core, &b.q, stride, &mut b.core);
        b.sources = emptied(list);
        let (heads, q_width) = (&b.core.heads, self.q.rows());
        b.mixed.shape_for(n, &self.o);
        b.mixed.fill(ctx, n, false, |token, cols, x| {
            x.copy_from_slice(&heads[token * q_width + cols.start..token * q_width + cols.end]);
        });
        matmul(ctx, &b.mixed, n, &[Product::new(&self.o, out, n)]);
    }
}

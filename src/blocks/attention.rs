//! Grouped-query attention: products, biases, norms, rotation and scaling around the core of `attend`.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::attend::{self, Core, attend, window};
use super::scores::{HeadNorm, Scores};
use super::{Angles, Span};
use crate::cache::KvShape;
use crate::ops::{ActBuffer, Context, Product, grow, matmul};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, Kernels, PANEL_ROWS};
use quern_models::spec::{self, NormSpan};
use std::sync::Mutex;

/// Attention bound to its weights.
pub struct Attention {
    /// What the Spec says of it.
    pub spec: spec::Attention,
    /// `q_width x hidden`.
    pub q: Matrix,
    /// Keys and values; none: an earlier branch has put them into the cache.
    pub kv: Option<KeysValues>,
    /// `hidden x q_width`.
    pub o: Matrix,
    /// `q_width x hidden`, if the heads are gated.
    pub gate: Option<Matrix>,
    /// Biases, if there are any.
    pub q_bias: Option<Vector>,
    /// See `q_bias`.
    pub o_bias: Option<Vector>,
    /// Norm of q, if there is one.
    pub q_norm: Option<HeadNorm>,
    /// What happens to scores.
    pub scores: Scores,
    /// One more score per query head, if there are any.
    pub sinks: Option<Vector>,
    /// Which of a sequence's caches it reads.
    pub cache: usize,
}

/// What makes keys and values.
pub struct KeysValues {
    /// `kv_width x hidden`.
    pub k: Matrix,
    /// `kv_width x hidden`.
    pub v: Matrix,
    /// Biases, if there are any.
    pub k_bias: Option<Vector>,
    /// See `k_bias`.
    pub v_bias: Option<Vector>,
    /// Norm of k, if there is one.
    pub k_norm: Option<HeadNorm>,
}

/// Buffers of all tokens, reused by every layer, and one workspace per thread.
#[derive(Default)]
pub struct Buffers {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    gate: Vec<f32>,
    pub(super) mixed: ActBuffer,
    pub(super) core: attend::Buffers,
    /// Kept for its memory.
    pub(super) sources: Vec<Span<'static>>,
    /// One normed head, or all of them.
    rows: Vec<Mutex<Vec<f32>>>,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter();
        let rows = rows.map(|r| r.lock().unwrap_or_else(|e| e.into_inner()).len());
        let floats = [&self.q, &self.k, &self.v, &self.gate];
        let floats = floats.map(Vec::len).iter().sum::<usize>() + rows.sum::<usize>();
        floats * 4 + self.mixed.bytes() + self.core.bytes()
    }
}

impl Attention {
    /// Shape of the cache for the element type that the user chose.
    pub fn shape(&self, kv: quern_kernels::KvType) -> KvShape {
        KvShape {
            kv,
            n_kv_heads: self.spec.n_kv_heads as usize,
            key_dim: self.spec.head_dim as usize,
            value_dim: self.spec.head_dim as usize,
            window: window(self.spec.mask),
        }
    }

    /// The matrices that read the branch's input.
    pub fn readers(&self) -> impl Iterator<Item = &Matrix> {
        let kv = self.kv.iter().flat_map(|kv| [&kv.k, &kv.v]);
        [&self.q].into_iter().chain(kv).chain(&self.gate)
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
        let q = Product::new(&self.q, &mut b.q, n);
        let q_stride = q.stride;
        let kv = self.kv.as_ref().map(|kv| {
            let k = Product::new(&kv.k, &mut b.k, n);
            (k, Product::new(&kv.v, &mut b.v, n))
        });
        let gate = self.gate.as_ref();
        let gate = gate.map(|gate| Product::new(gate, &mut b.gate, n));
        match (kv, gate) {
            (Some((k, v)), None) => matmul(ctx, h, n, &[q, k, v]),
            (Some((k, v)), Some(gate)) => matmul(ctx, h, n, &[q, k, v, gate]),
            (None, None) => matmul(ctx, h, n, &[q]),
            (None, Some(gate)) => matmul(ctx, h, n, &[q, gate]),
        }
        let threads = ctx.crew.threads();
        if b.rows.len() < threads {
            b.rows.resize_with(threads, Mutex::default);
        }
        self.norm_whole(ctx, n, b, q_stride);
        self.append(ctx, spans, angles, b, q_stride);
        let hd = self.spec.head_dim as usize;
        let core = Core {
            cache: self.cache,
            n_heads: self.spec.n_heads as usize,
            n_kv_heads: self.spec.n_kv_heads as usize,
            key_dim: hd,
            value_dim: hd,
            mask: self.spec.mask,
            scores: &self.scores,
            sinks: self.sinks.as_deref(),
        };
        attend(ctx, spans, &core, &b.q, q_stride, &mut b.core);
        let (heads, gate, q_width) = (&b.core.heads, &b.gate, self.spec.q_width() as usize);
        let gated = self.gate.is_some();
        b.mixed.shape_for(n, &self.o);
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

    /// Distance of two tokens in the buffers of keys and values.
    fn kv_stride(&self) -> usize {
        (self.spec.kv_width() as usize).next_multiple_of(PANEL_ROWS)
    }

    /// Whether q and k are normed as whole vectors, which has to happen before the work is divided by heads.
    fn norms_whole(&self) -> bool {
        let span = self.spec.qk_norm.as_ref().map(|n| n.span);
        span == Some(NormSpan::Whole)
    }

    /// Biases and norms of q and k where the norm runs over all heads.
    fn norm_whole(&self, ctx: &Context<'_>, n: usize, b: &mut Buffers, q_stride: usize) {
        let (kernels, rows) = (ctx.kernels, &b.rows);
        let (Some(q_norm), true) = (&self.q_norm, self.norms_whole()) else {
            return;
        };
        let kv_stride = self.kv_stride();
        let (q, k) = (Disjoint::new(&mut b.q), Disjoint::new(&mut b.k));
        let q_part = Some((&q, q_stride, self.q.rows(), &self.q_bias, q_norm));
        let k_part = self.kv.as_ref().and_then(|kv| {
            let norm = kv.k_norm.as_ref()?;
            Some((&k, kv_stride, kv.k.rows(), &kv.k_bias, norm))
        });
        ctx.crew.for_each(n, |token, me| {
            let row = &mut *rows[me].lock().unwrap_or_else(|e| e.into_inner());
            for (x, stride, width, bias, norm) in [q_part, k_part].into_iter().flatten() {
                // SAFETY: one job per token.
                let x = unsafe { x.part(token * stride..token * stride + width) };
                if let Some(bias) = bias {
                    kernels.add(x, bias);
                }
                norm.apply(kernels, 0, x, row);
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
    ) {
        let (kernels, rows) = (ctx.kernels, &b.rows);
        let n_kv = self.spec.n_kv_heads as usize;
        let hd = self.spec.head_dim as usize;
        let group = self.spec.n_heads as usize / n_kv;
        let kv_stride = self.kv_stride();
        let whole = self.norms_whole();
        let q_bias = self.q_bias.as_ref().filter(|_| !whole);
        let (q, k, v) = (
            Disjoint::new(&mut b.q),
            Disjoint::new(&mut b.k),
            Disjoint::new(&mut b.v),
        );
        ctx.crew.next("keys, values, rotation", || 0);
        ctx.crew.for_each(spans.len() * n_kv, |job, me| {
            let row = &mut *rows[me].lock().unwrap_or_else(|e| e.into_inner());
            let (span, head) = (&spans[job / n_kv], job % n_kv);
            for (i, token) in span.rows.clone().enumerate() {
                let position = span.start + i;
                let q_cols = head * group * hd..(head + 1) * group * hd;
                let q_at = token * q_stride;
                // SAFETY: one job per token and kv head; heads have columns of their own.
                let q = unsafe { q.part(q_at + q_cols.start..q_at + q_cols.end) };
                if let Some(bias) = q_bias {
                    kernels.add(q, &bias[q_cols]);
                }
                let angles = angles.map(|a| a.of(token));
                for (h, q) in q.chunks_exact_mut(hd).enumerate() {
                    let (norm, h) = (self.q_norm.as_ref(), head * group + h);
                    self.prepare(kernels, norm, h, angles, q, row);
                }
                let scale = match &self.spec.position_scale {
                    None => self.spec.scale,
                    Some(p) => (f64::from(self.spec.scale) * p.at(position)) as f32,
                };
                kernels.scale(q, scale);
            }
            let Some(kv) = &self.kv else { return };
            let k_bias = kv.k_bias.as_ref().filter(|_| !whole);
            span.seq.caches[self.cache].write(head, |cache| {
                for (i, token) in span.rows.clone().enumerate() {
                    let cols = head * hd..(head + 1) * hd;
                    let at = token * kv_stride + cols.start..token * kv_stride + cols.end;
                    // SAFETY: as above.
                    let (k, v) = unsafe { (k.part(at.clone()), v.part(at)) };
                    if let Some(bias) = k_bias {
                        kernels.add(k, &bias[cols.clone()]);
                    }
                    if let Some(bias) = &kv.v_bias {
                        kernels.add(v, &bias[cols]);
                    }
                    let angles = angles.map(|a| a.of(token));
                    self.prepare(kernels, kv.k_norm.as_ref(), head, angles, k, row);
                    if let Some(eps) = self.spec.v_norm {
                        grow(row, hd);
                        kernels.rms_norm(v, None, eps, &mut row[..hd]);
                        v.copy_from_slice(&row[..hd]);
                    }
                    if let Some(clip) = self.spec.clip {
                        kernels.clamp(v, -clip, clip);
                    }
                    cache.store(kernels, span.start + i, k, v);
                }
            });
        });
    }
}

//! The safe face of the kernels along vectors: lengths are checked here, once per call, and a wrong
//! one panics.

use super::attention::{Scores, Values};
use super::delta_rule::Steps;
use super::recurrent::HeadStep;
use super::{Activation, KV_TILE, KvType};
use crate::Kernels;

/// Bytes from what is read to what is read next; 0 if that is nothing.
fn distance(now: &[u8], next: &[u8]) -> isize {
    match next {
        [] => 0,
        _ => next.as_ptr().addr().wrapping_sub(now.as_ptr().addr()) as isize,
    }
}

/// Floats that `rows` rows of `len`, `stride` apart, span; panics where that is not a number.
fn span(rows: usize, stride: usize, len: usize) -> usize {
    match rows.checked_sub(1) {
        None => 0,
        Some(last) => last
            .checked_mul(stride)
            .and_then(|n| n.checked_add(len))
            .expect("rows beyond the address space"),
    }
}

/// `a * b * c`; panics where that is not a number.
fn product(a: usize, b: usize, c: usize) -> usize {
    a.checked_mul(b)
        .and_then(|n| n.checked_mul(c))
        .expect("a size beyond the address space")
}

// SAFETY (of every unsafe block here): a table is reachable only through detection, so the CPU has
// its features, and the assertions before each call establish the lengths that the kernel relies
// on.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Kernels {
    /// RMSNorm: `out[i] = (x[i] * (1 / sqrt(mean(x^2) + eps))) * weight[i]`; all slices of equal
    /// length.
    pub fn rms_norm(&self, x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        assert!(weight.is_none_or(|w| w.len() == x.len()));
        unsafe { (self.vector.rms_norm)(x, weight, eps, out) }
    }

    /// LayerNorm with biased variance: `out[i] = ((x[i] - mean) * (1 / sqrt(var + eps))) *
    /// weight[i] + bias[i]`, weight and bias fused where both are given; all slices of equal
    /// length.
    pub fn layer_norm(
        &self,
        x: &[f32],
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
        eps: f32,
        out: &mut [f32],
    ) {
        assert_eq!(x.len(), out.len());
        assert!(weight.is_none_or(|w| w.len() == x.len()));
        assert!(bias.is_none_or(|b| b.len() == x.len()));
        unsafe { (self.vector.layer_norm)(x, weight, bias, eps, out) }
    }

    /// Rotates one head in place: with n = `cos.len()` the pairs `(x[k], x[k + n])` become
    /// `(x[k] cos[k] - x[k + n] sin[k], x[k + n] cos[k] + x[k] sin[k])`; elements from 2 n on stay.
    /// Angles, and a factor on them, are the tables' matter.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert_eq!(cos.len(), sin.len());
        assert!(x.len() / 2 >= cos.len());
        unsafe { (self.vector.rope)(x, cos, sin) }
    }

    /// `x[i] = a(x[i])`.
    pub fn activation(&self, a: Activation, x: &mut [f32]) {
        unsafe { (self.vector.activation)(a, x) }
    }

    /// Gated linear unit: `out[i] = a(gate[i]) * up[i]`; all slices of equal length.
    pub fn glu(&self, a: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == out.len() && up.len() == out.len());
        unsafe { (self.vector.glu)(a, gate, up, out) }
    }

    /// Gated linear unit as in gpt-oss: `out[i] = a(min(gate[i], limit)) * (clip(up[i], -limit,
    /// limit) + 1)`; all slices of equal length.
    pub fn glu_clamped(
        &self,
        a: Activation,
        limit: f32,
        gate: &[f32],
        up: &[f32],
        out: &mut [f32],
    ) {
        assert!(gate.len() == out.len() && up.len() == out.len());
        unsafe { (self.vector.glu_clamped)(a, limit, gate, up, out) }
    }

    /// `x[i] = cap * tanh(x[i] / cap)`.
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        unsafe { (self.vector.softcap)(x, cap) }
    }

    /// `x[i] = e^x[i]`.
    pub fn exp(&self, x: &mut [f32]) {
        unsafe { (self.vector.exp)(x) }
    }

    /// `x[i] = ln x[i]`; minus infinity at zero, NaN below.
    pub fn log(&self, x: &mut [f32]) {
        unsafe { (self.vector.log)(x) }
    }

    /// `x[i] += y[i]`; equal lengths.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        unsafe { (self.vector.add)(x, y) }
    }

    /// `x[i] += s * y[i]`, fused; equal lengths.
    pub fn add_scaled(&self, x: &mut [f32], y: &[f32], s: f32) {
        assert_eq!(x.len(), y.len());
        unsafe { (self.vector.add_scaled)(x, y, s) }
    }

    /// `x[i] *= s`.
    pub fn scale(&self, x: &mut [f32], s: f32) {
        unsafe { (self.vector.scale)(x, s) }
    }

    /// `x[i] *= y[i]`; equal lengths.
    pub fn mul(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        unsafe { (self.vector.mul)(x, y) }
    }

    /// `x[i] = min(max(x[i], lo), hi)`; NaN stays.
    pub fn clamp(&self, x: &mut [f32], lo: f32, hi: f32) {
        unsafe { (self.vector.clamp)(x, lo, hi) }
    }

    /// The sum of `a[i] * b[i]` by 16 strided fused sums and the fixed tree; equal lengths.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        unsafe { (self.vector.dot)(a, b) }
    }

    /// The greatest element; NaN is ignored, minus infinity where nothing is left.
    pub fn max(&self, x: &[f32]) -> f32 {
        unsafe { (self.vector.max)(x) }
    }

    /// The index of the greatest element, the lowest of equals; NaN is ignored, 0 where nothing is
    /// left.
    pub fn argmax(&self, x: &[f32]) -> usize {
        unsafe { (self.vector.argmax)(x) }
    }

    /// Whether there is neither a NaN nor an infinity.
    pub fn all_finite(&self, x: &[f32]) -> bool {
        unsafe { (self.vector.all_finite)(x) }
    }

    /// `s[i] = e^(s[i] - m)`, m being the greatest element; returns m and the sum of the results by
    /// 16 strided sums and the fixed tree. If every element is minus infinity: zeros and (-inf, 0).
    /// A NaN among the elements makes the sum a NaN.
    pub fn softmax_exp(&self, s: &mut [f32]) -> (f32, f32) {
        unsafe { (self.vector.softmax_exp)(s) }
    }

    /// Softmax: [`softmax_exp`](Self::softmax_exp), then `s[i] *= 1 / sum`; zeros if every element
    /// is minus infinity.
    pub fn softmax(&self, s: &mut [f32]) {
        unsafe { (self.vector.softmax)(s) }
    }

    /// One token of a causal convolution of every channel with itself: `out[c] = bias[c] + sum over k, ascending, of weight(k, c) * input(k, c)`,
    /// fused, from +0 without a bias. `weight(k, c)` is `weight[k * stride + c]`; `window` holds the last K inputs, rows of `out.len()`, of
    /// which row `(first + k) % K` is `input(k, ..)`.
    pub fn convolve(
        &self,
        window: &[f32],
        first: usize,
        weight: &[f32],
        stride: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let taps = window.len() / out.len().max(1);
        assert_eq!(window.len(), taps * out.len());
        assert!(first < taps.max(1));
        assert!(weight.len() >= span(taps, stride, out.len()));
        assert!(bias.is_none_or(|b| b.len() == out.len()));
        unsafe { (self.vector.convolve)(window, first, weight, stride, bias, out) }
    }

    /// One token of a selective scan (Gu and Dao 2023) over some channels; step, skip, x and out have one value per channel, b and c one per
    /// element n of a channel's state. For every channel: `y = skip * x; g = step * x`, then for n ascending `s[n] = fma(g, b[n], s[n] *
    /// exp(step * rate[n])); y = fma(s[n], c[n], y)`; `out = y`. `state` and `rate` hold for every group of 16 channels `b.len()` rows
    /// of that many values; the last group may be narrower.
    pub fn selective_scan(
        &self,
        state: &mut [f32],
        rate: &[f32],
        (step, skip): (&[f32], &[f32]),
        x: &[f32],
        (b, c): (&[f32], &[f32]),
        out: &mut [f32],
    ) {
        let n = out.len();
        assert!(x.len() == n && step.len() == n && skip.len() == n);
        assert!(b.len() == c.len() && state.len() == rate.len());
        assert_eq!(state.len(), product(n, b.len(), 1));
        unsafe { (self.vector.selective_scan)(state, rate, (step, skip), x, (b, c), out) }
    }

    /// One token of a scan whose state decays as one (Dao and Gu 2024): for every channel of a head `y = skip * x; g = step * x`, then for n
    /// ascending `s[n] = fma(g, b[n], s[n] * decay); y = fma(s[n], c[n], y)`; `out = y`. `state` is laid out as in
    /// [`selective_scan`](Self::selective_scan).
    pub fn head_scan(
        &self,
        state: &mut [f32],
        (step, decay, skip): (f32, f32, f32),
        x: &[f32],
        (b, c): (&[f32], &[f32]),
        out: &mut [f32],
    ) {
        assert!(x.len() == out.len() && b.len() == c.len());
        assert_eq!(state.len(), product(out.len(), b.len(), 1));
        let h = HeadStep { step, decay, skip };
        unsafe { (self.vector.head_scan)(state, h, x, (b, c), out) }
    }

    /// Scores of `n_q` queries against `n_tiles` tiles of keys of one KV head: `scores[i *
    /// score_stride + 16 t + lane] = sum over d, ascending, of q[i * q_stride + d] *
    /// k[t][d][lane]`, fused, unscaled. `k` holds tiles of `kv.k_tile_bytes(head_dim)` bytes. `next` is what the
    /// caller reads next (or nothing): it comes from memory meanwhile. The result of a query does not depend on the others.
    pub fn attn_scores(
        &self,
        kv: KvType,
        q: &[f32],
        q_stride: usize,
        n_q: usize,
        head_dim: usize,
        k: &[u8],
        next: &[u8],
        n_tiles: usize,
        scores: &mut [f32],
        score_stride: usize,
    ) {
        let width = product(n_tiles, KV_TILE, 1);
        assert!(n_q < 2 || score_stride >= width, "rows of scores overlap");
        assert!(q.len() >= span(n_q, q_stride, head_dim));
        assert!(k.len() >= product(n_tiles, kv.k_tile_bytes(head_dim), 1));
        assert!(scores.len() >= span(n_q, score_stride, width));
        let a = Scores {
            q: q.as_ptr(),
            q_stride,
            n_q,
            head_dim,
            k: k.as_ptr(),
            n_tiles,
            ahead: distance(k, next),
            out: scores.as_mut_ptr(),
            stride: score_stride,
        };
        unsafe { (self.vector.scores)(kv, a) }
    }

    /// Weighted sums of the values of one KV head, added to `out`: `out[i * out_stride + d] += sum
    /// over positions, ascending, of p[i * p_stride + pos] * v[pos][d]`, fused. `v` holds rows
    /// of `kv.v_row_bytes(v_dim)` bytes. `next` is as for scores. The result of a query does not depend on the others. A weight
    /// of zero adds a zero, which can turn -0 into +0 and shows nothing else while the value is
    /// finite.
    pub fn attn_values(
        &self,
        kv: KvType,
        p: &[f32],
        p_stride: usize,
        n_q: usize,
        v: &[u8],
        next: &[u8],
        n_pos: usize,
        v_dim: usize,
        out: &mut [f32],
        out_stride: usize,
    ) {
        assert!(n_q < 2 || out_stride >= v_dim, "rows of out overlap");
        assert!(p.len() >= span(n_q, p_stride, n_pos));
        assert!(v.len() >= product(n_pos, kv.v_row_bytes(v_dim), 1));
        assert!(out.len() >= span(n_q, out_stride, v_dim));
        let a = Values {
            p: p.as_ptr(),
            p_stride,
            n_q,
            v: v.as_ptr(),
            n_pos,
            v_dim,
            ahead: distance(v, next),
            out: out.as_mut_ptr(),
            stride: out_stride,
        };
        unsafe { (self.vector.values)(kv, a) }
    }

    /// Writes the key of one position, `k.len()` = head_dim, into lane `lane` of its tile
    /// (`kv.k_tile_bytes(head_dim)` bytes). As f16 it is rounded to nearest even; whether it
    /// overflowed is the caller's check.
    pub fn kv_store_k(&self, kv: KvType, k: &[f32], tile: &mut [u8], lane: usize) {
        assert!(lane < KV_TILE);
        assert_eq!(tile.len(), kv.k_tile_bytes(k.len()));
        unsafe { (self.vector.store_k)(kv, k, tile, lane) }
    }

    /// Writes the value of one position, `v.len()` = v_dim, into its row (`kv.v_row_bytes(v_dim)`
    /// bytes) and zeros into the padding. As f16 it is rounded to nearest even; whether it
    /// overflowed is the caller's check.
    pub fn kv_store_v(&self, kv: KvType, v: &[f32], row: &mut [u8]) {
        assert_eq!(row.len(), kv.v_row_bytes(v.len()));
        unsafe { (self.vector.store_v)(kv, v, row) }
    }

    /// Steps of the gated delta rule on the state of one head, `[key_dim][value_dim]`, as many as
    /// `decay` has elements: with row t of q and k (`[steps][key_dim]`) and of v (`v_stride`
    /// apart),
    ///
    /// ```text
    /// S <- decay[t] S;   d = beta[t] (v - S^T k);   S <- S + k d^T;   out[t] = S^T q
    /// ```
    ///
    /// Both sums run over ascending rows of S, fused; a product with the decay is rounded before
    /// it is used; `out` is `[steps][value_dim]`. Steps one by one give the same bits.
    pub fn delta_rule(
        &self,
        state: &mut [f32],
        (key_dim, value_dim): (usize, usize),
        q: &[f32],
        k: &[f32],
        (v, v_stride): (&[f32], usize),
        decay: &[f32],
        beta: &[f32],
        out: &mut [f32],
    ) {
        let n = decay.len();
        assert_eq!(beta.len(), n);
        assert_eq!(state.len(), product(key_dim, value_dim, 1));
        assert!(q.len() >= product(n, key_dim, 1) && k.len() >= product(n, key_dim, 1));
        assert!(v.len() >= span(n, v_stride, value_dim));
        assert!(out.len() >= product(n, value_dim, 1));
        let a = Steps {
            state: state.as_mut_ptr(),
            key_dim,
            value_dim,
            n,
            q: q.as_ptr(),
            k: k.as_ptr(),
            v: v.as_ptr(),
            v_stride,
            decay: decay.as_ptr(),
            beta: beta.as_ptr(),
            out: out.as_mut_ptr(),
        };
        unsafe { (self.vector.delta_rule)(a) }
    }
}

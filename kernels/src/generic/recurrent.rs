//! What recurrent branches do for one token: a causal convolution of every channel with itself, and one step of a state-space scan, with
//! a rate of decay for every element of the state or one for all. Channels are lanes, so every sum is one accumulator per channel and
//! nothing is summed across lanes.

use super::elementwise::groups;
use super::math;
use crate::vector::{LANES, Vector};

/// out[c] <- bias[c] + sum over k, ascending, of weight[k][c] window[(first + k) mod K][c], fused.
///
/// `window` is K rows as long as `out`; rows of `weight` are `stride` apart.
#[inline(always)]
pub(crate) unsafe fn convolve<V: Vector>(
    window: &[f32],
    first: usize,
    weight: &[f32],
    stride: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let n = out.len();
    if n == 0 {
        return;
    }
    let taps = window.len() / n;
    let (x, w, o) = (window.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
    // SAFETY: rows of the window have n elements, those of the weight and the bias at least as many; offsets stay below.
    unsafe {
        let zero = V::splat(0.0);
        groups!(
            n,
            |i| {
                let mut acc = match bias {
                    Some(b) => V::load(b.as_ptr().add(i)),
                    None => zero,
                };
                for k in 0..taps {
                    let row = if first + k < taps {
                        first + k
                    } else {
                        first + k - taps
                    };
                    acc = V::load(w.add(k * stride + i)).fma(V::load(x.add(row * n + i)), acc);
                }
                acc.store(o.add(i))
            },
            |i, m| {
                let mut acc = match bias {
                    Some(b) => V::load_partial(b.as_ptr().add(i), m, zero),
                    None => zero,
                };
                for k in 0..taps {
                    let row = if first + k < taps {
                        first + k
                    } else {
                        first + k - taps
                    };
                    let w = V::load_partial(w.add(k * stride + i), m, zero);
                    acc = w.fma(V::load_partial(x.add(row * n + i), m, zero), acc);
                }
                acc.store_partial(o.add(i), m)
            }
        );
    }
}

/// For every channel i, with N = b.len(): y <- skip[i] x[i]; g = step[i] x[i]; for n ascending: s[n] <- g b[n] + s[n] e^(step[i] rate[n]), y
/// <- s[n] c[n] + y, both sums fused; out[i] <- y.
///
/// `state` and `rate` hold, for every group of 16 channels, N rows of that many values; the last group may be narrower.
#[inline(always)]
pub(crate) unsafe fn selective_scan<V: Vector>(
    state: &mut [f32],
    rate: &[f32],
    (step, skip): (&[f32], &[f32]),
    x: &[f32],
    (b, c): (&[f32], &[f32]),
    out: &mut [f32],
) {
    let (p, r) = (state.as_mut_ptr(), rate.as_ptr());
    let (dt, d, x, o) = (step.as_ptr(), skip.as_ptr(), x.as_ptr(), out.as_mut_ptr());
    // SAFETY: step, skip, x and out have equal lengths; state and rate have b.len() values for each of their elements, and c is as long as b.
    unsafe {
        let zero = V::splat(0.0);
        groups!(
            out.len(),
            |i| {
                let (dt, x) = (V::load(dt.add(i)), V::load(x.add(i)));
                let (gain, mut y) = (dt.mul(x), V::load(d.add(i)).mul(x));
                for n in 0..b.len() {
                    let at = i * b.len() + n * LANES;
                    let decay = math::exp(dt.mul(V::load(r.add(at))));
                    let s = gain.fma(V::splat(b[n]), V::load(p.add(at)).mul(decay));
                    s.store(p.add(at));
                    y = s.fma(V::splat(c[n]), y);
                }
                y.store(o.add(i))
            },
            |i, k| {
                let (dt, x) = (
                    V::load_partial(dt.add(i), k, zero),
                    V::load_partial(x.add(i), k, zero),
                );
                let (gain, mut y) = (dt.mul(x), V::load_partial(d.add(i), k, zero).mul(x));
                for n in 0..b.len() {
                    let at = i * b.len() + n * k;
                    let decay = math::exp(dt.mul(V::load_partial(r.add(at), k, zero)));
                    let s = V::load_partial(p.add(at), k, zero).mul(decay);
                    let s = gain.fma(V::splat(b[n]), s);
                    s.store_partial(p.add(at), k);
                    y = s.fma(V::splat(c[n]), y);
                }
                y.store_partial(o.add(i), k)
            }
        );
    }
}

/// The numbers of one head for one token.
#[derive(Clone, Copy)]
pub(crate) struct HeadStep {
    pub(crate) step: f32,
    pub(crate) decay: f32,
    pub(crate) skip: f32,
}

/// For every channel i of a head, with N = b.len(): y <- skip x[i]; g = step x[i]; for n ascending: s[n] <- g b[n] + s[n] decay, y <-
/// s[n] c[n] + y, both sums fused; out[i] <- y. `state` is laid out as in [`selective_scan`].
#[inline(always)]
pub(crate) unsafe fn head_scan<V: Vector>(
    state: &mut [f32],
    h: HeadStep,
    x: &[f32],
    (b, c): (&[f32], &[f32]),
    out: &mut [f32],
) {
    let len = out.len();
    let (p, x, o) = (state.as_mut_ptr(), x.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    // SAFETY: x and out have equal lengths; state has b.len() values for each of their elements, and c is as long as b.
    unsafe {
        // Two groups at a time hide the latency of the sums.
        while i + 2 * LANES <= len {
            head_groups::<V, 2>(p.add(i * b.len()), h, x.add(i), (b, c), o.add(i));
            i += 2 * LANES;
        }
        if i + LANES <= len {
            head_groups::<V, 1>(p.add(i * b.len()), h, x.add(i), (b, c), o.add(i));
            i += LANES;
        }
        if i < len {
            let (k, zero) = (len - i, V::splat(0.0));
            let x = V::load_partial(x.add(i), k, zero);
            let (gain, mut y) = (x.mul(V::splat(h.step)), x.mul(V::splat(h.skip)));
            for n in 0..b.len() {
                let at = p.add(i * b.len() + n * k);
                let s = V::load_partial(at, k, zero).mul(V::splat(h.decay));
                let s = gain.fma(V::splat(b[n]), s);
                s.store_partial(at, k);
                y = s.fma(V::splat(c[n]), y);
            }
            y.store_partial(o.add(i), k);
        }
    }
}

/// [`head_scan`] for `G` whole groups one after another.
#[inline(always)]
unsafe fn head_groups<V: Vector, const G: usize>(
    state: *mut f32,
    h: HeadStep,
    x: *const f32,
    (b, c): (&[f32], &[f32]),
    out: *mut f32,
) {
    // SAFETY: the caller's contract: G groups of x and out, and b.len() rows of the state for each.
    unsafe {
        let decay = V::splat(h.decay);
        let mut gain = [V::splat(0.0); G];
        let mut y = gain;
        for g in 0..G {
            let x = V::load(x.add(g * LANES));
            (gain[g], y[g]) = (x.mul(V::splat(h.step)), x.mul(V::splat(h.skip)));
        }
        for n in 0..b.len() {
            let (b_n, c_n) = (V::splat(b[n]), V::splat(c[n]));
            for g in 0..G {
                let at = state.add((g * b.len() + n) * LANES);
                let s = gain[g].fma(b_n, V::load(at).mul(decay));
                s.store(at);
                y[g] = s.fma(c_n, y[g]);
            }
        }
        for g in 0..G {
            y[g].store(out.add(g * LANES));
        }
    }
}

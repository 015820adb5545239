//! Rotary position embedding of one head, half-split pairs.

use super::elementwise::groups;
use crate::vector::{LANES, Vector};

/// Rotates the pairs (x_k, x_{k+n}), n = cos.len(), by the given angles; each result is one product
/// and one fused multiply-add.
#[inline(always)]
pub(crate) unsafe fn rope<V: Vector>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let n = cos.len();
    let (a, c, s) = (x.as_mut_ptr(), cos.as_ptr(), sin.as_ptr());
    // SAFETY: x has 2 n elements, cos and sin n; offsets stay below n.
    unsafe {
        let b = a.add(n);
        let zero = V::splat(0.0);
        groups!(
            n,
            |i| {
                let (x, y) = (V::load(a.add(i)), V::load(b.add(i)));
                let (c, s) = (V::load(c.add(i)), V::load(s.add(i)));
                y.fnma(s, x.mul(c)).store(a.add(i));
                x.fma(s, y.mul(c)).store(b.add(i))
            },
            |i, k| {
                let (x, y) = (
                    V::load_partial(a.add(i), k, zero),
                    V::load_partial(b.add(i), k, zero),
                );
                let (c, s) = (
                    V::load_partial(c.add(i), k, zero),
                    V::load_partial(s.add(i), k, zero),
                );
                y.fnma(s, x.mul(c)).store_partial(a.add(i), k);
                x.fma(s, y.mul(c)).store_partial(b.add(i), k)
            }
        );
    }
}

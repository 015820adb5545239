//! Softmax over a slice: maximum, exponentials with their sum, scaling.

use super::elementwise::{groups, max, scale};
use super::math;
use crate::vector::{LANES, Vector};

/// s <- e^(s - m) with m the greatest element; returns m and the sum of the results.
#[inline(always)]
pub(crate) unsafe fn softmax_exp<V: Vector>(s: &mut [f32]) -> (f32, f32) {
    let p = s.as_mut_ptr();
    // SAFETY: offsets stay below the length.
    unsafe {
        let m = max::<V>(s);
        // Nothing visible: subtracting zero leaves e^-inf = 0, and a NaN shows.
        let shift = V::splat(if m == f32::NEG_INFINITY { 0.0 } else { m });
        let mut acc = V::splat(0.0);
        groups!(
            s.len(),
            |i| {
                let e = math::exp(V::load(p.add(i)).sub(shift));
                acc = acc.add(e);
                e.store(p.add(i))
            },
            |i, k| {
                // Lanes beyond the end hold minus infinity, whose exponential is zero for every
                // shift there is.
                let x = V::load_partial(p.add(i), k, V::splat(f32::NEG_INFINITY));
                let e = math::exp(x.sub(shift));
                acc = acc.add(e);
                e.store_partial(p.add(i), k)
            }
        );
        (m, acc.sum())
    }
}

/// s <- softmax(s); zeros if every element is minus infinity.
#[inline(always)]
pub(crate) unsafe fn softmax<V: Vector>(s: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe {
        let (m, sum) = softmax_exp::<V>(s);
        if m > f32::NEG_INFINITY {
            scale::<V>(s, 1.0 / sum);
        }
    }
}

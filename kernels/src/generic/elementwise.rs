//! Sums, products and searches over slices.

use crate::vector::{LANES, Vector};

/// Calls `$step` with the offset and the number of elements of every group, the last one partial.
macro_rules! groups {
    ($n:expr, |$i:ident| $full:expr, |$j:ident, $rest:ident| $tail:expr) => {
        let n = $n;
        let mut $i = 0;
        while $i + LANES <= n {
            $full;
            $i += LANES;
        }
        if $i < n {
            let ($j, $rest) = ($i, n - $i);
            $tail;
        }
    };
}
pub(super) use groups;

/// x <- x + y.
#[inline(always)]
pub(crate) unsafe fn add<V: Vector>(x: &mut [f32], y: &[f32]) {
    let (p, q) = (x.as_mut_ptr(), y.as_ptr());
    // SAFETY: offsets stay below the common length.
    unsafe {
        let zero = V::splat(0.0);
        groups!(
            x.len(),
            |i| V::load(p.add(i)).add(V::load(q.add(i))).store(p.add(i)),
            |i, k| {
                let v = V::load_partial(p.add(i), k, zero).add(V::load_partial(q.add(i), k, zero));
                v.store_partial(p.add(i), k)
            }
        );
    }
}

/// x <- x + s y, fused.
#[inline(always)]
pub(crate) unsafe fn add_scaled<V: Vector>(x: &mut [f32], y: &[f32], s: f32) {
    let (p, q) = (x.as_mut_ptr(), y.as_ptr());
    // SAFETY: offsets stay below the common length.
    unsafe {
        let (zero, s) = (V::splat(0.0), V::splat(s));
        groups!(
            x.len(),
            |i| V::load(q.add(i)).fma(s, V::load(p.add(i))).store(p.add(i)),
            |i, k| {
                let y = V::load_partial(q.add(i), k, zero);
                y.fma(s, V::load_partial(p.add(i), k, zero))
                    .store_partial(p.add(i), k)
            }
        );
    }
}

/// x <- s x.
#[inline(always)]
pub(crate) unsafe fn scale<V: Vector>(x: &mut [f32], s: f32) {
    let p = x.as_mut_ptr();
    // SAFETY: offsets stay below the length.
    unsafe {
        let (zero, s) = (V::splat(0.0), V::splat(s));
        groups!(
            x.len(),
            |i| V::load(p.add(i)).mul(s).store(p.add(i)),
            |i, k| {
                V::load_partial(p.add(i), k, zero)
                    .mul(s)
                    .store_partial(p.add(i), k)
            }
        );
    }
}

/// x <- x y.
#[inline(always)]
pub(crate) unsafe fn mul<V: Vector>(x: &mut [f32], y: &[f32]) {
    let (p, q) = (x.as_mut_ptr(), y.as_ptr());
    // SAFETY: offsets stay below the common length.
    unsafe {
        let zero = V::splat(0.0);
        groups!(
            x.len(),
            |i| V::load(p.add(i)).mul(V::load(q.add(i))).store(p.add(i)),
            |i, k| {
                let v = V::load_partial(p.add(i), k, zero).mul(V::load_partial(q.add(i), k, zero));
                v.store_partial(p.add(i), k)
            }
        );
    }
}

/// x <- min(max(x, lo), hi); NaN stays.
#[inline(always)]
pub(crate) unsafe fn clamp<V: Vector>(x: &mut [f32], lo: f32, hi: f32) {
    let p = x.as_mut_ptr();
    // SAFETY: offsets stay below the length.
    unsafe {
        let (zero, lo, hi) = (V::splat(0.0), V::splat(lo), V::splat(hi));
        groups!(
            x.len(),
            |i| hi.min(lo.max(V::load(p.add(i)))).store(p.add(i)),
            |i, k| {
                hi.min(lo.max(V::load_partial(p.add(i), k, zero)))
                    .store_partial(p.add(i), k)
            }
        );
    }
}

/// sum a b: 16 strided fused sums, then the tree.
#[inline(always)]
pub(crate) unsafe fn dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
    let (p, q) = (a.as_ptr(), b.as_ptr());
    // SAFETY: offsets stay below the common length.
    unsafe {
        let zero = V::splat(0.0);
        let mut acc = zero;
        groups!(
            a.len(),
            |i| acc = V::load(p.add(i)).fma(V::load(q.add(i)), acc),
            |i, k| {
                let x = V::load_partial(p.add(i), k, zero);
                acc = x.fma(V::load_partial(q.add(i), k, zero), acc)
            }
        );
        acc.sum()
    }
}

/// The greatest element, NaN ignored.
#[inline(always)]
pub(crate) unsafe fn max<V: Vector>(x: &[f32]) -> f32 {
    let p = x.as_ptr();
    // SAFETY: offsets stay below the length.
    unsafe {
        let least = V::splat(f32::NEG_INFINITY);
        // Four running maxima hide the latency; a maximum does not depend on the order, but for the
        // sign of a zero, which is why all ISAs share this one.
        let mut acc = [least; 4];
        let mut i = 0;
        while i + 4 * LANES <= x.len() {
            for k in 0..4 {
                acc[k] = V::load(p.add(i + k * LANES)).max(acc[k]);
            }
            i += 4 * LANES;
        }
        let (q, rest) = (p.add(i), x.len() - i);
        groups!(rest, |j| acc[0] = V::load(q.add(j)).max(acc[0]), |j, k| {
            acc[0] = V::load_partial(q.add(j), k, least).max(acc[0])
        });
        acc[0].max(acc[1]).max(acc[2].max(acc[3])).greatest()
    }
}

/// The lowest index of the greatest element, NaN ignored; 0 where there is none.
#[inline(always)]
pub(crate) unsafe fn argmax<V: Vector>(x: &[f32]) -> usize {
    let p = x.as_ptr();
    // SAFETY: offsets stay below the length.
    unsafe {
        let wanted = V::splat(max::<V>(x));
        let nan = V::splat(f32::NAN);
        groups!(
            x.len(),
            |i| {
                let hits = V::bits(V::load(p.add(i)).eq(wanted));
                if hits != 0 {
                    return i + hits.trailing_zeros() as usize;
                }
            },
            |i, k| {
                let hits = V::bits(V::load_partial(p.add(i), k, nan).eq(wanted));
                if hits != 0 {
                    return i + hits.trailing_zeros() as usize;
                }
            }
        );
        0
    }
}

/// Whether no element is a NaN or an infinity.
#[inline(always)]
pub(crate) unsafe fn all_finite<V: Vector>(x: &[f32]) -> bool {
    let p = x.as_ptr();
    // SAFETY: offsets stay below the length.
    unsafe {
        let zero = V::splat(0.0);
        // x * 0 is a NaN exactly for NaN and infinity, and a NaN in the sum stays.
        let mut acc = [zero; 4];
        let mut i = 0;
        while i + 4 * LANES <= x.len() {
            for k in 0..4 {
                acc[k] = V::load(p.add(i + k * LANES)).fma(zero, acc[k]);
            }
            i += 4 * LANES;
        }
        let (q, rest) = (p.add(i), x.len() - i);
        groups!(
            rest,
            |j| acc[0] = V::load(q.add(j)).fma(zero, acc[0]),
            |j, k| { acc[0] = V::load_partial(q.add(j), k, zero).fma(zero, acc[0]) }
        );
        let sum = acc[0].add(acc[1]).add(acc[2].add(acc[3]));
        V::bits(sum.eq(sum)) == (1 << LANES) - 1
    }
}

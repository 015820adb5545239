//! RMSNorm and LayerNorm: sums by 16 strided lanes and the fixed tree, the rest elementwise.

use super::elementwise::groups;
use crate::vector::{LANES, Vector};

/// out <- (x / sqrt(mean(x^2) + eps)) w.
#[inline(always)]
pub(crate) unsafe fn rms_norm<V: Vector>(
    x: &[f32],
    weight: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let (p, o) = (x.as_ptr(), out.as_mut_ptr());
    // SAFETY: offsets stay below the common length.
    unsafe {
        let zero = V::splat(0.0);
        let mut acc = zero;
        groups!(
            x.len(),
            |i| {
                let v = V::load(p.add(i));
                acc = v.fma(v, acc)
            },
            |i, k| {
                let v = V::load_partial(p.add(i), k, zero);
                acc = v.fma(v, acc)
            }
        );
        let inverse = V::splat(1.0 / (acc.sum() / x.len() as f32 + eps).sqrt());
        match weight {
            Some(w) => {
                let w = w.as_ptr();
                groups!(
                    x.len(),
                    |i| V::load(p.add(i))
                        .mul(inverse)
                        .mul(V::load(w.add(i)))
                        .store(o.add(i)),
                    |i, k| {
                        let y = V::load_partial(p.add(i), k, zero).mul(inverse);
                        y.mul(V::load_partial(w.add(i), k, zero))
                            .store_partial(o.add(i), k)
                    }
                );
            }
            None => {
                groups!(
                    x.len(),
                    |i| V::load(p.add(i)).mul(inverse).store(o.add(i)),
                    |i, k| {
                        V::load_partial(p.add(i), k, zero)
                            .mul(inverse)
                            .store_partial(o.add(i), k)
                    }
                );
            }
        }
    }
}

/// out <- ((x - mean) / sqrt(var + eps)) w + b, biased variance from the centred values; weight and
/// bias, where both are given, in one fused operation.
#[inline(always)]
pub(crate) unsafe fn layer_norm<V: Vector>(
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let (p, o) = (x.as_ptr(), out.as_mut_ptr());
    let n = x.len() as f32;
    // SAFETY: offsets stay below the common length.
    unsafe {
        let zero = V::splat(0.0);
        let mut acc = zero;
        groups!(x.len(), |i| acc = acc.add(V::load(p.add(i))), |i, k| {
            acc = acc.add(V::load_partial(p.add(i), k, zero))
        });
        let mean = V::splat(acc.sum() / n);
        let mut acc = zero;
        groups!(
            x.len(),
            |i| {
                let d = V::load(p.add(i)).sub(mean);
                acc = d.fma(d, acc)
            },
            |i, k| {
                // Lanes beyond the end hold the mean, so that their difference is zero.
                let d = V::load_partial(p.add(i), k, mean).sub(mean);
                acc = d.fma(d, acc)
            }
        );
        let inverse = V::splat(1.0 / (acc.sum() / n + eps).sqrt());
        let finish = Finish {
            mean,
            inverse,
            weight,
            bias,
        };
        groups!(
            x.len(),
            |i| finish.at(V::load(p.add(i)), i, LANES).store(o.add(i)),
            |i, k| finish
                .at(V::load_partial(p.add(i), k, zero), i, k)
                .store_partial(o.add(i), k)
        );
    }
}

/// The elementwise end of a LayerNorm.
struct Finish<'a, V> {
    mean: V,
    inverse: V,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
}

impl<V: Vector> Finish<'_, V> {
    /// The result of the `k` elements from `i` on.
    #[inline(always)]
    unsafe fn at(&self, x: V, i: usize, k: usize) -> V {
        // SAFETY: the caller keeps i + k within the length of weight and bias.
        unsafe {
            let y = x.sub(self.mean).mul(self.inverse);
            match (self.weight, self.bias) {
                (Some(w), Some(b)) => y.fma(read(w, i, k), read(b, i, k)),
                (Some(w), None) => y.mul(read(w, i, k)),
                (None, Some(b)) => y.add(read(b, i, k)),
                (None, None) => y,
            }
        }
    }
}

/// The `k` elements of `s` from `i` on, zeros beyond.
#[inline(always)]
unsafe fn read<V: Vector>(s: &[f32], i: usize, k: usize) -> V {
    // SAFETY: the caller keeps i + k within the length.
    unsafe {
        let p = s.as_ptr().add(i);
        if k == LANES {
            V::load(p)
        } else {
            V::load_partial(p, k, V::splat(0.0))
        }
    }
}

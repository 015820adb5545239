//! Steps of the gated delta rule (Yang et al. 2024) on the state of one head.
//!
//! ```text
//! S: one row per dimension of a key, one column per dimension of a value
//! S <- decay S;   d = beta (v - S^T k);   S <- S + k d^T;   out = S^T q
//! ```
//! Columns lie in the lanes and do not know of each other: both products are one accumulator per
//! column over ascending rows, fused. The decayed state is rounded once and never stored, so a step
//! reads the state twice and writes it once. All steps of some columns come before the next
//! columns, so that those stay in the nearest cache.

use crate::vector::{LANES, Vector};

/// The operands of [`delta_rule`]; lengths are the caller's contract.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    /// `[key_dim][value_dim]`.
    pub state: *mut f32,
    pub key_dim: usize,
    pub value_dim: usize,
    /// How many steps.
    pub n: usize,
    /// `[n][key_dim]`.
    pub q: *const f32,
    /// `[n][key_dim]`.
    pub k: *const f32,
    /// The values of step t are v[t * v_stride ..][..value_dim].
    pub v: *const f32,
    pub v_stride: usize,
    /// `[n]`.
    pub decay: *const f32,
    /// `[n]`.
    pub beta: *const f32,
    /// `[n][value_dim]`.
    pub out: *mut f32,
}

/// All steps, in order, for all columns.
#[inline(always)]
pub(crate) unsafe fn delta_rule<V: Vector>(a: Steps) {
    // SAFETY: the blocks cover columns 0 .. value_dim once.
    unsafe {
        let mut from = 0;
        // Independent accumulators hide the latency of the sums; more of them would not leave
        // registers for the rest.
        if V::WIDE_REGISTERS {
            while from + 4 * LANES <= a.value_dim {
                columns::<V, 4, true>(a, from, LANES);
                from += 4 * LANES;
            }
        }
        while from + 2 * LANES <= a.value_dim {
            columns::<V, 2, true>(a, from, LANES);
            from += 2 * LANES;
        }
        if from + LANES <= a.value_dim {
            columns::<V, 1, true>(a, from, LANES);
            from += LANES;
        }
        if from < a.value_dim {
            columns::<V, 1, false>(a, from, a.value_dim - from);
        }
    }
}

/// Reads a group of which `k` lanes are there.
#[inline(always)]
unsafe fn read<V: Vector, const WHOLE: bool>(p: *const f32, k: usize) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        if WHOLE {
            V::load(p)
        } else {
            V::load_partial(p, k, V::splat(0.0))
        }
    }
}

/// Writes the `k` lanes of a group that are there.
#[inline(always)]
unsafe fn write<V: Vector, const WHOLE: bool>(x: V, p: *mut f32, k: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if WHOLE {
            x.store(p)
        } else {
            x.store_partial(p, k)
        }
    }
}

/// All steps for the N groups of columns from `from` on, the last of which has `k` lanes.
#[inline(always)]
unsafe fn columns<V: Vector, const N: usize, const WHOLE: bool>(a: Steps, from: usize, k: usize) {
    // SAFETY: the caller keeps the groups within value_dim; rows and steps stay below their
    // numbers.
    unsafe {
        let zero = V::splat(0.0);
        let state = a.state.add(from);
        for t in 0..a.n {
            let (keys, queries) = (a.k.add(t * a.key_dim), a.q.add(t * a.key_dim));
            let decay = V::splat(*a.decay.add(t));
            let beta = V::splat(*a.beta.add(t));
            let mut sum = [zero; N];
            for i in 0..a.key_dim {
                let (row, key) = (state.add(i * a.value_dim), V::splat(*keys.add(i)));
                for (c, sum) in sum.iter_mut().enumerate() {
                    let s = read::<V, WHOLE>(row.add(c * LANES), k).mul(decay);
                    *sum = s.fma(key, *sum);
                }
            }
            let values = a.v.add(t * a.v_stride + from);
            let mut d = [zero; N];
            for (c, d) in d.iter_mut().enumerate() {
                let v = read::<V, WHOLE>(values.add(c * LANES), k);
                *d = v.sub(sum[c]).mul(beta);
            }
            let mut sum = [zero; N];
            for i in 0..a.key_dim {
                let (row, key) = (state.add(i * a.value_dim), V::splat(*keys.add(i)));
                let query = V::splat(*queries.add(i));
                for (c, sum) in sum.iter_mut().enumerate() {
                    let at = row.add(c * LANES);
                    let s = read::<V, WHOLE>(at, k).mul(decay);
                    let s = d[c].fma(key, s);
                    write::<V, WHOLE>(s, at, k);
                    *sum = s.fma(query, *sum);
                }
            }
            let out = a.out.add(t * a.value_dim + from);
            for (c, sum) in sum.iter().enumerate() {
                write::<V, WHOLE>(*sum, out.add(c * LANES), k);
            }
        }
    }
}

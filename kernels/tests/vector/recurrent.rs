//! Kernels of recurrent branches: the scalar table against their definition, operation by operation, and every table against the scalar
//! one.

use super::data::{KINDS, Random, vector};
use super::guard::Guarded;
use super::{assert_same, others, scalar};

/// The definition: one accumulator per channel, taps ascending from the oldest row.
fn convolved(
    window: &[f32],
    first: usize,
    weight: &[f32],
    stride: usize,
    bias: Option<&[f32]>,
    n: usize,
) -> Vec<f32> {
    let taps = window.len() / n.max(1);
    let one = |c: usize| {
        let start = bias.map_or(0.0, |b| b[c]);
        (0..taps).fold(start, |acc, k| {
            let x = window[(first + k) % taps * n + c];
            weight[k * stride + c].mul_add(x, acc)
        })
    };
    (0..n).map(one).collect()
}

#[test]
fn a_convolution_is_its_definition_on_every_table() {
    let mut tables = others();
    tables.push(scalar());
    let mut r = Random(21);
    let mut buffers: [Guarded; 4] = std::array::from_fn(|_| Guarded::new(4 * 6000));
    for n in (1..100).chain([255, 256, 257]) {
        for taps in [1, 2, 3, 4, 7] {
            for kind in KINDS {
                let (first, stride) = (r.below(taps), n + r.below(3));
                let window = vector(&mut r, taps * n, kind);
                let weight = vector(&mut r, (taps - 1) * stride + n, kind);
                let some_bias = vector(&mut r, n, kind);
                for bias in [None, Some(&some_bias[..])] {
                    let want = convolved(&window, first, &weight, stride, bias, n);
                    for k in &tables {
                        for place in 0..2 {
                            let [x, w, b, out] = &mut buffers;
                            let x = x.copy(&window, place);
                            let w = w.copy(&weight, place + 2);
                            let b = bias.map(|bias| &*b.copy(bias, place));
                            let got = out.floats(n, place);
                            k.convolve(x, first, w, stride, b, got);
                            let what =
                                || format!("convolve on {}: {n} channels, {taps} taps", k.name());
                            assert_same(&what, &want, got);
                        }
                    }
                }
            }
        }
    }
}

/// e^x as the tables compute it.
fn exp(x: f32) -> f32 {
    let mut x = [x];
    scalar().exp(&mut x);
    x[0]
}

/// Where element n of the state of channel i lies, of `len` channels with `count` elements each.
fn place_of(i: usize, n: usize, len: usize, count: usize) -> usize {
    let first = i / 16 * 16;
    first * count + n * (len - first).min(16) + i % 16
}

#[test]
fn scans_are_their_definition_on_every_table() {
    let mut tables = others();
    tables.push(scalar());
    let mut r = Random(22);
    let mut buffers: [Guarded; 8] = std::array::from_fn(|_| Guarded::new(4 * 8000));
    for len in (0..70).chain([96, 111]) {
        for count in [1, 3, 16, 37] {
            for kind in KINDS {
                let [state, rate] = std::array::from_fn(|_| vector(&mut r, len * count, kind));
                let [step, skip, x] = std::array::from_fn(|_| vector(&mut r, len, kind));
                let [b, c] = std::array::from_fn(|_| vector(&mut r, count, kind));
                let head = [(); 3].map(|()| vector(&mut r, 1, kind)[0]);
                for one_decay in [false, true] {
                    let (mut want_state, mut want) = (state.clone(), Vec::new());
                    for i in 0..len {
                        let (step, skip) = match one_decay {
                            true => (head[0], head[2]),
                            false => (step[i], skip[i]),
                        };
                        let (gain, mut y) = (step * x[i], skip * x[i]);
                        for n in 0..count {
                            let at = place_of(i, n, len, count);
                            let decay = match one_decay {
                                true => head[1],
                                false => exp(step * rate[at]),
                            };
                            let s = gain.mul_add(b[n], want_state[at] * decay);
                            want_state[at] = s;
                            y = s.mul_add(c[n], y);
                        }
                        want.push(y);
                    }
                    for k in &tables {
                        for place in 0..2 {
                            let [s, ra, st, sk, xx, bb, cc, out] = &mut buffers;
                            let s = s.copy(&state, place);
                            let xx = &*xx.copy(&x, place);
                            let bc = (&*bb.copy(&b, place), &*cc.copy(&c, place + 2));
                            let got = out.floats(len, place);
                            if one_decay {
                                k.head_scan(s, (head[0], head[1], head[2]), xx, bc, got);
                            } else {
                                let ra = ra.copy(&rate, place);
                                let per = (&*st.copy(&step, place), &*sk.copy(&skip, place));
                                k.selective_scan(s, ra, per, xx, bc, got);
                            }
                            let what =
                                || format!("scan ({one_decay}) on {}: {len} x {count}", k.name());
                            assert_same(&what, &want, got);
                            assert_same(&what, &want_state, s);
                        }
                    }
                }
            }
        }
    }
}

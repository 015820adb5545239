//! The gated delta rule: equality with the scalar table one step at a time, an f64 oracle.

use super::data::{Kind, Random, vector};
use super::guard::Guarded;
use super::{assert_same, others, scalar};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Shapes (steps, key_dim, value_dim): all tails of columns, then real ones.
fn shapes(r: &mut Random) -> Vec<(usize, usize, usize)> {
    let mut all = vec![
        (3, 128, 128),
        (2, 64, 128),
        (0, 5, 7),
        (2, 0, 20),
        (2, 5, 0),
    ];
    for columns in 1..=200 {
        all.push((1 + r.below(5), 1 + r.below(40), columns));
    }
    all
}

#[test]
fn steps_do_not_depend_on_the_table_or_on_how_many_there_are() {
    let tables = others();
    let mut r = Random(21);
    let mut places: [Guarded; 7] = std::array::from_fn(|_| Guarded::new(4 * 200 * 130 + 64));
    for (n, keys, values) in shapes(&mut r) {
        for kind in [Kind::Plain, Kind::Special] {
            let stride = values + r.below(3);
            let state = vector(&mut r, keys * values, kind);
            let [q, k] = std::array::from_fn(|_| vector(&mut r, n * keys, kind));
            let v = vector(&mut r, n.saturating_sub(1) * stride + values, kind);
            let [decay, beta] = std::array::from_fn(|_| vector(&mut r, n, kind));
            let (mut want_state, mut want) = (state.clone(), vec![7.0; n * values]);
            for t in 0..n {
                scalar().delta_rule(
                    &mut want_state,
                    (keys, values),
                    &q[t * keys..(t + 1) * keys],
                    &k[t * keys..(t + 1) * keys],
                    (&v[t * stride..t * stride + values], 0),
                    &decay[t..=t],
                    &beta[t..=t],
                    &mut want[t * values..(t + 1) * values],
                );
            }
            for table in tables.iter().copied().chain([scalar()]) {
                for place in [0, 1, r.below(16)] {
                    let [a, b, c, d, e, f, g] = &mut places;
                    let (state, out) = (a.copy(&state, place), b.floats(want.len(), place ^ 1));
                    table.delta_rule(
                        state,
                        (keys, values),
                        c.copy(&q, place),
                        d.copy(&k, place ^ 1),
                        (e.copy(&v, place), stride),
                        f.copy(&decay, place),
                        g.copy(&beta, place ^ 1),
                        out,
                    );
                    let what = |part: &str| {
                        let name = table.name();
                        format!("{part} on {name}: {n} x {keys} x {values} {kind:?} at {place}")
                    };
                    assert_same(&|| what("out"), &want, out);
                    assert_same(&|| what("state"), &want_state, state);
                }
            }
        }
    }
}

/// One step against f64. Roundings on the way, each at most u of its result: the decayed state (1); the first sum (key_dim, each at most
/// u times the sum of magnitudes); the difference and its product with beta (2); the new state (1); the second sum (key_dim). Errors of
/// earlier results pass through the later operations as they are; the factor 1.01 is for their products, which are of order u^2.
#[test]
fn a_step_is_close_to_exact() {
    let mut r = Random(22);
    for (_, keys, values) in shapes(&mut r) {
        let kind = Kind::Plain;
        let state = vector(&mut r, keys * values, kind);
        let [q, k] = std::array::from_fn(|_| vector(&mut r, keys, kind));
        let v = vector(&mut r, values, kind);
        let (decay, beta) = (0.5 + 0.5 * r.unit(), 0.5 + 0.5 * r.unit());
        let (mut got_state, mut got) = (state.clone(), vec![0.0; values]);
        scalar().delta_rule(
            &mut got_state,
            (keys, values),
            &q,
            &k,
            (&v, values),
            &[decay],
            &[beta],
            &mut got,
        );
        let wide = |x: &f32| f64::from(*x);
        let (decay, beta) = (wide(&decay), wide(&beta));
        for j in 0..values {
            let s: Vec<f64> = (0..keys)
                .map(|i| decay * wide(&state[i * values + j]))
                .collect();
            let [q, k]: [Vec<f64>; 2] = [&q, &k].map(|x| x.iter().map(wide).collect());
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let size =
                |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
            let (n, v) = (keys as f64, wide(&v[j]));
            let r = dot(&s, &k);
            let r_error = (n + 1.0) * U * size(&s, &k);
            let d = beta * (v - r);
            let d_error = beta.abs() * r_error + 2.0 * U * d.abs();
            let mut errors = Vec::new();
            let mut exact = Vec::new();
            for i in 0..keys {
                let new = s[i] + k[i] * d;
                let error = 1.01 * (U * s[i].abs() + k[i].abs() * d_error + U * new.abs());
                let found = wide(&got_state[i * values + j]);
                assert!(
                    (found - new).abs() <= error,
                    "state {i}, {j} of {keys} x {values}"
                );
                exact.push(new);
                errors.push(error);
            }
            let bound = 1.01 * (size(&errors, &q) + n * U * size(&exact, &q));
            let off = (wide(&got[j]) - dot(&exact, &q)).abs();
            assert!(off <= bound, "out {j} of {keys} x {values}: {off:e}");
        }
    }
}

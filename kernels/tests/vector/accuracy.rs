//! The scalar table against f64: functions over a sweep of all floats in ulp, kernels within
//! derived bounds.

use super::data::{Kind, Random, vector};
use super::{assert_same, others, scalar};
use quern_kernels::{Activation, Kernels};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;
/// The least subnormal, half of which is the rounding error where relative bounds end.
const TINY: f64 = 1.401298464324817e-45;

/// The distance of neighbouring floats at `y`.
fn ulp(y: f64) -> f64 {
    let exponent = ((y.abs().to_bits() >> 52) as i32 - 1023).max(-126);
    2f64.powi(exponent - 23)
}

/// Every `step`-th float in [lo, hi], both signs as given, the ends and their neighbours included.
fn sweep(lo: f32, hi: f32, step: u32) -> Vec<f32> {
    let mut x = vec![lo, hi];
    // Positive floats are ordered as their bits; negative ones in reverse.
    let mut push = |from: f32, to: f32, sign: f32| {
        let (from, to) = (from.to_bits(), to.to_bits());
        x.extend(
            (from..=to)
                .step_by(step as usize)
                .map(|b| sign * f32::from_bits(b)),
        );
        x.extend((to.saturating_sub(300).max(from)..=to).map(|b| sign * f32::from_bits(b)));
    };
    if hi > 0.0 {
        push(lo.max(0.0), hi, 1.0);
    }
    if lo < 0.0 {
        push((-hi).max(0.0), -lo, -1.0);
    }
    x
}

/// A function under test, in place.
type InPlace<'a> = &'a dyn Fn(&Kernels, &mut [f32]);

/// The greatest error in ulp of the exact result, and where; every table must agree with the scalar
/// one on the way.
fn worst(x: &[f32], run: InPlace, exact: fn(f64) -> f64, bound: impl Fn(f64) -> f64) -> (f64, f32) {
    let tables: Vec<&Kernels> = quern_kernels::supported().collect();
    let mut worst = (0.0, 0.0);
    for chunk in x.chunks(4000) {
        let mut y = chunk.to_vec();
        run(scalar(), &mut y);
        for k in &tables[1..] {
            let mut z = chunk.to_vec();
            run(k, &mut z);
            assert_same(&|| format!("{} from {:e}", k.name(), chunk[0]), &y, &z);
        }
        for (&x, &y) in chunk.iter().zip(&y) {
            let want = exact(x as f64);
            let error = if want.abs() > f32::MAX as f64 {
                // Beyond the greatest float by half an ulp everything rounds to infinity; closer,
                // either is right.
                if y.is_infinite() || want.abs() < f32::MAX as f64 * (1.0 + 2.0 * U) {
                    0.0
                } else {
                    f64::INFINITY
                }
            } else {
                (y as f64 - want).abs() / ulp(want)
            };
            assert!(
                error <= bound(x as f64),
                "f({x:e}) = {y:e}, exactly {want:e}: {error:.2} ulp off"
            );
            if error > worst.0 {
                worst = (error, x);
            }
        }
    }
    worst
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// What one ulp of a subnormal factor e^-u costs the product with x, in ulp of the product; nothing
/// while it is normal.
fn subnormal_factor(x: f64, u: f64) -> f64 {
    let factor = libm::exp(-u.abs());
    if factor < f32::MIN_POSITIVE as f64 {
        x.abs() * TINY / ulp(x * factor)
    } else {
        0.0
    }
}

fn gelu_tanh_argument(x: f64) -> f64 {
    2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// Bounds in ulp. The constant ones are the sums of the roundings in `generic/math.rs`, which the
/// sweep confirms. Where a rounded number enters an exponent, k roundings on its way are a relative
/// error of k u |argument| in the result, at most k |argument| ulp: quick_gelu has 2 (the constant,
/// the product), gelu_tanh 4 (the constants, the square, the fused sum, the product).
#[test]
fn functions_are_within_their_ulp_bounds() {
    others();
    let act = |a: Activation| move |k: &Kernels, x: &mut [f32]| k.activation(a, x);
    let all = |step| sweep(f32::MIN, f32::MAX, step);
    let report =
        |name: &str, (error, at): (f64, f32)| println!("{name}: at most {error:.3} ulp, at {at:e}");

    report(
        "exp",
        worst(
            &sweep(-110.0, 90.0, 997),
            &|k, x| k.exp(x),
            libm::exp,
            |_| 1.0,
        ),
    );
    report(
        "log",
        worst(
            &sweep(0.0, f32::MAX, 499)[1..],
            &|k, x| k.log(x),
            libm::log,
            |_| 2.0,
        ),
    );
    report(
        "tanh",
        worst(&all(1999), &act(Activation::Tanh), libm::tanh, |_| 3.0),
    );
    report(
        "sigmoid",
        worst(&all(1999), &act(Activation::Sigmoid), logistic, |_| 3.0),
    );
    report(
        "silu",
        worst(
            &all(1999),
            &act(Activation::Silu),
            |x| x * logistic(x),
            |x| 3.5 + subnormal_factor(x, x),
        ),
    );
    report(
        "softplus",
        worst(
            &all(1999),
            &act(Activation::Softplus),
            |x| x.max(0.0) + libm::log1p(libm::exp(-x.abs())),
            |_| 3.0,
        ),
    );
    report(
        "quick_gelu",
        worst(
            &all(1999),
            &act(Activation::QuickGelu),
            |x| x * logistic(1.702 * x),
            |x| 3.5 + 2.0 * 1.702 * x.abs() + subnormal_factor(x, 1.702 * x),
        ),
    );
    report(
        "gelu_tanh",
        worst(
            &all(1999),
            &act(Activation::GeluTanh),
            |x| x * logistic(gelu_tanh_argument(x)),
            |x| {
                let u = gelu_tanh_argument(x);
                3.5 + 4.0 * u.abs() + subnormal_factor(x, u)
            },
        ),
    );
    report(
        "gelu",
        worst(
            &all(1999),
            &act(Activation::Gelu),
            |x| 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
            |x| {
                if x >= -1.0 {
                    8.0
                } else {
                    8.0 + subnormal_factor(x, x * x / 2.0)
                }
            },
        ),
    );
}

#[test]
fn functions_have_the_right_limits() {
    let inf = f32::INFINITY;
    let mut tables = others();
    tables.push(scalar());
    for k in tables {
        let act = |a: Activation, x: f32| {
            let mut v = [x];
            k.activation(a, &mut v);
            v[0]
        };
        let exp = |x: f32| {
            let mut v = [x];
            k.exp(&mut v);
            v[0]
        };
        let log = |x: f32| {
            let mut v = [x];
            k.log(&mut v);
            v[0]
        };
        for (x, y) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (-inf, 0.0),
            (inf, inf),
            (f32::MIN, 0.0),
            (f32::MAX, inf),
        ] {
            assert_eq!(exp(x).to_bits(), f32::to_bits(y), "exp {x}");
        }
        for (x, y) in [(0.0, -inf), (-0.0, -inf), (1.0, 0.0), (inf, inf)] {
            assert_eq!(log(x).to_bits(), f32::to_bits(y), "log {x}");
        }
        assert!(
            log(-1.0).is_nan()
                && log(-inf).is_nan()
                && log(f32::NAN).is_nan()
                && exp(f32::NAN).is_nan()
        );
        for (a, low, high) in [
            (Activation::Silu, -0.0, inf),
            (Activation::Gelu, 0.0, inf),
            (Activation::GeluTanh, -0.0, inf),
            (Activation::QuickGelu, -0.0, inf),
            (Activation::Relu, 0.0, inf),
            (Activation::Relu2, 0.0, inf),
            (Activation::Sigmoid, 0.0, 1.0),
            (Activation::Tanh, -1.0, 1.0),
            (Activation::Softplus, 0.0, inf),
        ] {
            assert_eq!(act(a, -inf), low, "{a:?}");
            assert_eq!(act(a, inf), high, "{a:?}");
            assert_eq!(act(a, f32::MIN), low, "{a:?}");
            assert!(act(a, f32::NAN).is_nan(), "{a:?}");
        }
        for a in [
            Activation::Tanh,
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::QuickGelu,
        ] {
            assert_eq!(act(a, 0.0).to_bits(), 0.0f32.to_bits(), "{a:?}");
            assert_eq!(act(a, -0.0).to_bits(), (-0.0f32).to_bits(), "{a:?}");
        }
        assert_eq!(act(Activation::Tanh, 9.02), 1.0);
        assert!(act(Activation::Tanh, 8.9) < 1.0);
    }
}

/// xIELU with its constants in f64; for x <= 0 the result is a difference of nearly equal numbers,
/// so the bound is absolute: three roundings of terms no greater than (2 |x| + 1) (negative +
/// beta).
#[test]
fn xielu_is_close() {
    let (positive, negative, beta, eps) = (0.8f32, 1.1f32, 0.5f32, -1e-6f32);
    let mut r = Random(21);
    let x: Vec<f32> = (0..100_000)
        .map(|_| 30.0 * r.unit() * r.unit().abs())
        .collect();
    let mut y = x.clone();
    scalar().activation(
        Activation::XIelu {
            positive,
            negative,
            beta,
            eps,
        },
        &mut y,
    );
    let [p, n, b, e] = [positive, negative, beta, eps].map(f64::from);
    for (&x, &y) in x.iter().zip(&y) {
        let x = x as f64;
        let (want, bound) = if x > 0.0 {
            let want = p * x * x + b * x;
            (want, 3.0 * U * want)
        } else {
            (
                (libm::expm1(x.min(e)) - x) * n + b * x,
                5.0 * U * (2.0 * x.abs() + x.abs().min(1.0)) * (n + b),
            )
        };
        assert!(
            (y as f64 - want).abs() <= bound + TINY,
            "{x:e}: {y:e}, exactly {want:e}"
        );
    }
}

/// One rounding each, and f64 holds the exact sum of two floats of like size, the product, and
/// rounds a sum of a product so finely that only a tie could differ.
#[test]
fn elementwise_kernels_round_once() {
    let mut r = Random(22);
    for n in 1..300 {
        let a = vector(&mut r, n, Kind::Plain);
        let b = vector(&mut r, n, Kind::Plain);
        let apply = |f: &dyn Fn(&mut [f32])| {
            let mut x = a.clone();
            f(&mut x);
            x
        };
        let k = scalar();
        let sum = apply(&|x| k.add(x, &b));
        let scaled = apply(&|x| k.add_scaled(x, &b, 0.7));
        let product = apply(&|x| k.mul(x, &b));
        let multiple = apply(&|x| k.scale(x, 0.7));
        let clamped = apply(&|x| k.clamp(x, -0.5, 0.25));
        for i in 0..n {
            let (x, y) = (a[i] as f64, b[i] as f64);
            assert_eq!(sum[i], (x + y) as f32);
            assert_eq!(scaled[i], (x + y * 0.7f32 as f64) as f32);
            assert_eq!(product[i], (x * y) as f32);
            assert_eq!(multiple[i], (x * 0.7f32 as f64) as f32);
            assert_eq!(clamped[i], a[i].clamp(-0.5, 0.25));
        }
    }
}

/// Roundings of a strided sum of n terms: one per term of a lane, four in the tree.
fn sum_roundings(n: usize) -> f64 {
    n.div_ceil(16) as f64 + 4.0
}

#[test]
fn reductions_are_within_their_bounds() {
    let mut r = Random(23);
    for n in 1..=1024 {
        let a = vector(&mut r, n, Kind::Plain);
        let b = vector(&mut r, n, Kind::Plain);
        let k = scalar();
        // Every term passes through at most sum_roundings(n) roundings; 1.001 covers the second
        // order.
        let terms = || a.iter().zip(&b).map(|(&x, &y)| x as f64 * y as f64);
        let (want, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
        assert!(
            (k.dot(&a, &b) as f64 - want).abs() <= 1.001 * sum_roundings(n) * U * magnitude,
            "dot {n}"
        );

        // m is exact; the difference is rounded once, which the exponential turns into a relative
        // error of u |s - m|; exp itself is off by one ulp, at most 2 u; below the normal range by
        // TINY.
        let mut s = a.clone();
        let (m, sum) = k.softmax_exp(&mut s);
        assert_eq!(m, a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut want_sum = 0.0;
        for (&x, &e) in a.iter().zip(&s) {
            let d = x as f64 - m as f64;
            let want = libm::exp(d);
            want_sum += want;
            assert!(
                (e as f64 - want).abs() <= 1.001 * (d.abs() + 2.0) * U * want + TINY,
                "softmax_exp {n}"
            );
        }
        // No difference exceeds 6 here.
        let bound = 1.001 * (sum_roundings(n) + 8.0) * U * want_sum;
        assert!(
            (sum as f64 - want_sum).abs() <= bound,
            "softmax_exp sum {n}"
        );

        // The quotient: errors of numerator and sum, one rounding of 1 / sum and one of the
        // product.
        let mut p = a.clone();
        k.softmax(&mut p);
        for (&x, &p) in a.iter().zip(&p) {
            let want = libm::exp(x as f64 - m as f64) / want_sum;
            let bound = 1.001 * (8.0 + sum_roundings(n) + 8.0 + 2.0) * U * want;
            assert!((p as f64 - want).abs() <= bound, "softmax {n}");
        }
    }
}

#[test]
fn norms_are_within_their_bounds() {
    let mut r = Random(24);
    let (k, eps) = (scalar(), 1e-5f32);
    for n in 1..=1024 {
        let x: Vec<f64> = vector(&mut r, n, Kind::Plain)
            .into_iter()
            .map(f64::from)
            .collect();
        let w = vector(&mut r, n, Kind::Plain);
        let b = vector(&mut r, n, Kind::Plain);
        let xf: Vec<f32> = x.iter().map(|&v| v as f32).collect();
        let mut y = vec![0.0; n];

        // The mean square: sum_roundings + division + eps, halved by the root; root, reciprocal and
        // two products round once.
        k.rms_norm(&xf, Some(&w), eps, &mut y);
        let square = x.iter().map(|v| v * v).sum::<f64>() / n as f64;
        let bound = 1.001 * ((sum_roundings(n) + 2.0) / 2.0 + 4.0) * U;
        for i in 0..n {
            let want = x[i] / (square + eps as f64).sqrt() * w[i] as f64;
            assert!(
                (y[i] as f64 - want).abs() <= bound * want.abs() + TINY,
                "rms_norm {n}: {} {want}",
                y[i]
            );
        }

        // Let e bound the error of the mean (strided sum and division over the mean magnitude), d
        // the centred values. A computed d is off by e + u |d|, so the variance by 2 (e + u s) s +
        // (e + u s)^2 at first order (s: its root; mean |d| <= s) plus sum_roundings + division +
        // eps relatively; half of that, relatively, goes into the inverse, which adds three
        // roundings (root, reciprocal, product); one more for the fused weight and bias.
        k.layer_norm(&xf, Some(&w), Some(&b), eps, &mut y);
        let mean = x.iter().sum::<f64>() / n as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let e = (sum_roundings(n) + 1.0) * U * x.iter().map(|v| v.abs()).sum::<f64>() / n as f64;
        let s = variance.sqrt();
        let total = variance + eps as f64;
        let d_root = e + U * s;
        let inverse = (2.0 * d_root * s + d_root * d_root) / total / 2.0
            + (sum_roundings(n) + 2.0) * U / 2.0
            + 3.0 * U;
        for i in 0..n {
            let z = (x[i] - mean) / total.sqrt();
            let want = z * w[i] as f64 + b[i] as f64;
            let error = (e / total.sqrt() + U * z.abs() + z.abs() * inverse) * w[i].abs() as f64
                + U * want.abs();
            assert!(
                (y[i] as f64 - want).abs() <= 1.001 * error + TINY,
                "layer_norm {n}: {} {want}",
                y[i]
            );
        }
    }
}

/// Two roundings for each of the two terms' sum: the product u |x c|, then the fused sum.
#[test]
fn rotation_is_within_its_bound() {
    let mut r = Random(25);
    for n in 1..=200 {
        let x = vector(&mut r, 2 * n + 3, Kind::Plain);
        let angles: Vec<f64> = (0..n).map(|_| 100.0 * r.unit() as f64).collect();
        let cos: Vec<f32> = angles.iter().map(|&a| libm::cos(a) as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|&a| libm::sin(a) as f32).collect();
        let mut y = x.clone();
        scalar().rope(&mut y, &cos, &sin);
        assert_eq!(x[2 * n..], y[2 * n..]);
        for i in 0..n {
            let [a, b, c, s] = [x[i], x[i + n], cos[i], sin[i]].map(f64::from);
            for (got, first, second) in [(y[i], a * c, -b * s), (y[i + n], b * c, a * s)] {
                let bound = 1.001 * U * (first.abs() + (first + second).abs());
                assert!((got as f64 - first - second).abs() <= bound, "{n} {i}");
            }
        }
    }
}

//! exp, expm1, log, tanh, the logistic function and what is built from them, 16 lanes at a time.
//!
//! Everything is a polynomial over fused multiply-adds plus IEEE division, so all ISAs agree; no
//! function of the platform is used. The coefficients are minimax fits (Remez exchange in 40
//! digits, weighted for relative error, then rounded to f32); the error stated with each is that of
//! the polynomial alone. Errors of the finished functions, in units in the last place of the exact
//! result, are asserted by a dense sweep against f64 in `tests/vector.rs`.
//!
//! NaN in gives NaN out. The argument clamps rely on `max` and `min` returning their second operand
//! for a NaN.

use crate::vector::Vector;

/// ln 2 rounded to f32, and the rest. With a fused multiply-add `x - n * LN2_HI` is exact for every
/// n that occurs.
const LN2_HI: f32 = std::f32::consts::LN_2;
const LN2_LO: f32 = -1.904_654_3e-9;
/// 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the last bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// The polynomial with the given coefficients, highest power first, by Horner's rule.
#[inline(always)]
unsafe fn polynomial<V: Vector, const N: usize>(x: V, c: [f32; N]) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let mut p = V::splat(c[0]);
        for k in 1..N {
            p = p.fma(x, V::splat(c[k]));
        }
        p
    }
}

/// `(n, r)` with `x = n ln 2 + r`, n an integer and |r| <= ln(2)/2 (1 + 2^-20), for |x| <= 110.
#[inline(always)]
unsafe fn reduce<V: Vector>(x: V) -> (V, V) {
    // SAFETY: the caller's contract.
    unsafe {
        let magic = V::splat(ROUND);
        let n = x.fma(V::splat(std::f32::consts::LOG2_E), magic).sub(magic);
        let r = n.fnma(V::splat(LN2_LO), n.fnma(V::splat(LN2_HI), x));
        (n, r)
    }
}

/// e^x: at most 1 ulp off, including subnormal results; 0 below -103.98, infinity above 88.73.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        // e^-104 is less than half the least subnormal, and e^89 overflows.
        let x = V::splat(89.0).min(V::splat(-104.0).max(x));
        let (n, r) = reduce(x);
        // (e^r - 1 - r) / r^2; relative error of the resulting e^r below 2^-28.2.
        let q = polynomial(
            r,
            [
                0.001_381_454,
                0.008_368_745,
                0.041_668_39,
                0.166_665_21,
                0.499_999_94,
            ],
        );
        let p = q.fma(r.mul(r), r).add(V::splat(1.0));
        p.ldexp(n)
    }
}

/// e^x - 1 for x <= 88: at most 2 ulp off; -1 below -20.
#[inline(always)]
unsafe fn expm1<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        // e^-20 is far below half an ulp of 1.
        let x = V::splat(88.0).min(V::splat(-20.0).max(x));
        let (n, r) = reduce(x);
        // (e^r - 1 - r) / r^2; relative error of the resulting e^r - 1 below 2^-31.9.
        let q = polynomial(
            r,
            [
                1.991_422_9e-4,
                0.001_394_105,
                0.008_333_273,
                0.041_666_355,
                0.166_666_67,
                0.5,
            ],
        );
        let p = q.fma(r.mul(r), r);
        let scale = V::splat(1.0).ldexp(n);
        // 2^n - 1 is exact for 0 <= n <= 24 and rounds to 2^n or -1 elsewhere, where that is below
        // the error of p.
        p.fma(scale, scale.sub(V::splat(1.0)))
    }
}

/// tanh x: at most 3 ulp off; exactly +-1 from 9.02 on; the sign of zero is kept.
#[inline(always)]
pub(crate) unsafe fn tanh<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let a = V::splat(10.0).min(x.abs());
        let e = expm1(a.add(a));
        e.div(e.add(V::splat(2.0))).or_sign(x)
    }
}

/// x / (1 + e^-u) for u of the sign of x, computed from e^-|u| so that neither side loses digits or
/// overflows.
#[inline(always)]
unsafe fn gated<V: Vector>(x: V, u: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let zero = V::splat(0.0);
        let z = exp(zero.sub(u.abs()));
        // Minus infinity times zero would be a NaN where the limit is -0.
        let finite = V::splat(-f32::MAX).max(x);
        let top = V::select(zero.gt(x), finite.mul(z), x);
        top.div(z.add(V::splat(1.0)))
    }
}

/// 1 / (1 + e^-x): at most 3 ulp off.
#[inline(always)]
pub(crate) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let z = exp(zero.sub(x.abs()));
        V::select(zero.gt(x), z, one).div(z.add(one))
    }
}

/// x / (1 + e^-x): at most 3.5 ulp off; where e^x is subnormal, |x| ulp of that more (below 1e-43).
#[inline(always)]
pub(crate) unsafe fn silu<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe { gated(x, x) }
}

/// x / (1 + e^(-1.702 x)). The rounded product enters the exponent: at most 3.5 + 2 |1.702 x| ulp
/// off.
#[inline(always)]
pub(crate) unsafe fn quick_gelu<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe { gated(x, x.mul(V::splat(1.702))) }
}

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) as x / (1 + e^-u), u = 2 sqrt(2/pi) (x +
/// 0.044715 x^3), which keeps its digits for negative x. The rounding of u enters the exponent: at
/// most 3.5 + 4 |u| ulp off.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        // 2 sqrt(2/pi), and that times 0.044715.
        let u = x
            .mul(x)
            .fma(V::splat(0.071_354_814), V::splat(1.595_769))
            .mul(x);
        gated(x, u)
    }
}

/// x Phi(x) = 0.5 x (1 + erf(x / sqrt 2)): at most 8 ulp off while the result is normal.
///
/// With a = |x| and Q(a) = 0.5 erfc(a / sqrt 2) it is max(x, 0) - a Q(a). Q(a) = e^(-a^2/2) R(a),
/// and R is a polynomial in t = 1 / (1 + 0.26 a) with relative error below 2^-27.4 for a <= 14.5,
/// beyond which Q vanishes in f32.
#[inline(always)]
pub(crate) unsafe fn gelu<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let a = V::splat(14.5).min(x.abs());
        // a^2 in two parts: the rounding of the square alone would cost a^2 / 4 ulp.
        let square = a.mul(a);
        let rest = a.fma(a, zero.sub(square));
        let e = exp(square.mul(V::splat(-0.5)));
        let e = e.fma(rest.mul(V::splat(-0.5)), e);
        let t = one.div(a.fma(V::splat(0.26), one));
        let r = polynomial(
            t,
            [
                0.033_926_26,
                -0.170_519_23,
                0.290_983_45,
                -0.200_813_03,
                0.200_119_16,
                0.031_206_645,
                0.109_481_94,
                0.101_715_35,
                0.103_906_624,
                -7.167_304e-6,
            ],
        );
        a.fnma(e.mul(r), zero.max(x))
    }
}

/// ln(1 + z) from t = 2 z / (2 + z), that is 2 atanh(t / 2), for |t| <= 2/3; relative error of the
/// polynomial below 2^-33.
#[inline(always)]
unsafe fn two_atanh_half<V: Vector>(t: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let w = t.mul(t);
        let p = polynomial(
            w,
            [
                0.243_068_43 / 2048.0,
                0.214_262_14 / 512.0,
                0.286_170_07 / 128.0,
                0.399_988_74 / 32.0,
                0.666_666_75 / 8.0,
            ],
        );
        t.mul(w).fma(p, t)
    }
}

/// ln(1 + e^x) as max(x, 0) + ln(1 + e^-|x|): at most 3 ulp off while the result is normal.
#[inline(always)]
pub(crate) unsafe fn softplus<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let zero = V::splat(0.0);
        let z = exp(zero.sub(x.abs()));
        let t = z.add(z).div(z.add(V::splat(2.0)));
        zero.max(x).add(two_atanh_half(t))
    }
}

/// ln x: at most 2 ulp off, subnormal arguments included; -infinity at 0, NaN below.
#[inline(always)]
pub(crate) unsafe fn log<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let subnormal = V::splat(f32::MIN_POSITIVE).gt(x);
        let scaled = V::select(subnormal, x.mul(V::splat(16_777_216.0)), x);
        let (m, e) = scaled.frexp();
        let e = V::select(subnormal, e.sub(V::splat(24.0)), e);
        let f = m.sub(one);
        let y = two_atanh_half(f.add(f).div(m.add(one)));
        let y = e.fma(V::splat(LN2_HI), e.fma(V::splat(LN2_LO), y));
        let y = V::select(x.gt(V::splat(f32::MAX)), x, y);
        let y = V::select(x.eq(zero), V::splat(f32::NEG_INFINITY), y);
        let y = V::select(zero.gt(x), V::splat(f32::NAN), y);
        V::select(x.eq(x), y, x)
    }
}

/// max(x, 0); the sign of zero is kept.
#[inline(always)]
pub(crate) unsafe fn relu<V: Vector>(x: V) -> V {
    // SAFETY: the caller's contract.
    unsafe { V::splat(0.0).max(x) }
}

/// x > 0: positive x^2 + beta x; else (expm1(min(x, eps)) - x) negative + beta x.
#[inline(always)]
pub(crate) unsafe fn xielu<V: Vector>(
    x: V,
    positive: f32,
    negative: f32,
    beta: f32,
    eps: f32,
) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let linear = x.mul(V::splat(beta));
        let up = x.mul(x).fma(V::splat(positive), linear);
        let e = expm1(V::splat(eps).min(x));
        let down = e.sub(x).fma(V::splat(negative), linear);
        V::select(x.gt(V::splat(0.0)), up, down)
    }
}

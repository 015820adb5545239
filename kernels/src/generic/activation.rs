//! Activation functions over a slice, alone and as the gate of a gated linear unit.

use super::math;
use crate::vector::{LANES, Vector};

/// An activation function. Formulas and measured errors: `generic/math.rs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x.
    Identity,
    /// x / (1 + e^-x).
    Silu,
    /// x Phi(x), the exact form with the error function.
    Gelu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    GeluTanh,
    /// x / (1 + e^(-1.702 x)).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// max(x, 0)^2.
    Relu2,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// tanh x.
    Tanh,
    /// ln(1 + e^x).
    Softplus,
    /// x > 0: `positive` x^2 + `beta` x; else (expm1(min(x, `eps`)) - x) `negative` + `beta` x.
    XIelu {
        /// Quadratic coefficient: softplus of the stored alpha_p.
        positive: f32,
        /// Exponential coefficient: beta + softplus of the stored alpha_n.
        negative: f32,
        /// Slope at zero.
        beta: f32,
        /// Upper bound of the argument of expm1, a small negative number.
        eps: f32,
    },
}

/// A function of one group of lanes.
trait Map<V: Vector>: Copy {
    unsafe fn at(self, x: V) -> V;
}

/// A gated unit: a function of the gate and the linear part.
trait Combine<V: Vector>: Copy {
    unsafe fn at(self, gate: V, up: V) -> V;
}

/// x <- f(x).
#[inline(always)]
unsafe fn map<V: Vector, F: Map<V>>(f: F, x: &mut [f32]) {
    let n = x.len();
    let p = x.as_mut_ptr();
    let mut i = 0;
    // SAFETY: all accesses lie within the n elements.
    unsafe {
        while i + LANES <= n {
            f.at(V::load(p.add(i))).store(p.add(i));
            i += LANES;
        }
        if i < n {
            let v = V::load_partial(p.add(i), n - i, V::splat(0.0));
            f.at(v).store_partial(p.add(i), n - i);
        }
    }
}

/// out <- f(gate, up), elementwise; equal lengths.
#[inline(always)]
unsafe fn combine<V: Vector, F: Combine<V>>(f: F, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (g, u, o) = (gate.as_ptr(), up.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    // SAFETY: all accesses lie within the n elements that each of the three slices has.
    unsafe {
        while i + LANES <= n {
            f.at(V::load(g.add(i)), V::load(u.add(i))).store(o.add(i));
            i += LANES;
        }
        if i < n {
            let zero = V::splat(0.0);
            let a = V::load_partial(g.add(i), n - i, zero);
            let b = V::load_partial(u.add(i), n - i, zero);
            f.at(a, b).store_partial(o.add(i), n - i);
        }
    }
}

/// The product of an activated gate with the linear part.
#[derive(Clone, Copy)]
struct Product<F>(F);

impl<V: Vector, F: Map<V>> Combine<V> for Product<F> {
    #[inline(always)]
    unsafe fn at(self, gate: V, up: V) -> V {
        // SAFETY: the caller's contract.
        unsafe { self.0.at(gate).mul(up) }
    }
}

/// The clamped product of gpt-oss: act(min(gate, limit)) (clip(up, -limit, limit) + 1).
#[derive(Clone, Copy)]
struct ClampedProduct<F>(F, f32);

impl<V: Vector, F: Map<V>> Combine<V> for ClampedProduct<F> {
    #[inline(always)]
    unsafe fn at(self, gate: V, up: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let limit = V::splat(self.1);
            let up = limit.min(V::splat(-self.1).max(up)).add(V::splat(1.0));
            self.0.at(limit.min(gate)).mul(up)
        }
    }
}

/// Names the functions of `math` as types, so that each loop above is compiled for one function.
macro_rules! maps {
    ($($name:ident => |$x:ident| $value:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl<V: Vector> Map<V> for $name {
            #[inline(always)]
            unsafe fn at(self, $x: V) -> V {
                // SAFETY: the caller's contract.
                unsafe { $value }
            }
        }
    )*};
}

maps! {
    Silu => |x| math::silu(x);
    Gelu => |x| math::gelu(x);
    GeluTanh => |x| math::gelu_tanh(x);
    QuickGelu => |x| math::quick_gelu(x);
    Relu => |x| math::relu(x);
    Relu2 => |x| { let r = math::relu(x); r.mul(r) };
    Sigmoid => |x| math::sigmoid(x);
    Tanh => |x| math::tanh(x);
    Softplus => |x| math::softplus(x);
    Exp => |x| math::exp(x);
    Log => |x| math::log(x);
}

#[derive(Clone, Copy)]
struct Identity;

impl<V: Vector> Map<V> for Identity {
    #[inline(always)]
    unsafe fn at(self, x: V) -> V {
        x
    }
}

#[derive(Clone, Copy)]
struct XIelu {
    positive: f32,
    negative: f32,
    beta: f32,
    eps: f32,
}

impl<V: Vector> Map<V> for XIelu {
    #[inline(always)]
    unsafe fn at(self, x: V) -> V {
        // SAFETY: the caller's contract.
        unsafe { math::xielu(x, self.positive, self.negative, self.beta, self.eps) }
    }
}

#[derive(Clone, Copy)]
struct Softcap(f32);

impl<V: Vector> Map<V> for Softcap {
    #[inline(always)]
    unsafe fn at(self, x: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let cap = V::splat(self.0);
            math::tanh(x.div(cap)).mul(cap)
        }
    }
}

/// Runs `$body` with `$f` bound to the function type of `$a`.
macro_rules! dispatch {
    ($a:expr, $f:ident => $body:expr) => {
        match $a {
            Activation::Identity => {
                let $f = Identity;
                $body
            }
            Activation::Silu => {
                let $f = Silu;
                $body
            }
            Activation::Gelu => {
                let $f = Gelu;
                $body
            }
            Activation::GeluTanh => {
                let $f = GeluTanh;
                $body
            }
            Activation::QuickGelu => {
                let $f = QuickGelu;
                $body
            }
            Activation::Relu => {
                let $f = Relu;
                $body
            }
            Activation::Relu2 => {
                let $f = Relu2;
                $body
            }
            Activation::Sigmoid => {
                let $f = Sigmoid;
                $body
            }
            Activation::Tanh => {
                let $f = Tanh;
                $body
            }
            Activation::Softplus => {
                let $f = Softplus;
                $body
            }
            Activation::XIelu {
                positive,
                negative,
                beta,
                eps,
            } => {
                let $f = XIelu {
                    positive,
                    negative,
                    beta,
                    eps,
                };
                $body
            }
        }
    };
}

/// x <- a(x).
#[inline(always)]
pub(crate) unsafe fn activation<V: Vector>(a: Activation, x: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe { dispatch!(a, f => map::<V, _>(f, x)) }
}

/// out <- a(gate) * up.
#[inline(always)]
pub(crate) unsafe fn glu<V: Vector>(a: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe { dispatch!(a, f => combine::<V, _>(Product(f), gate, up, out)) }
}

/// out <- a(min(gate, limit)) * (clip(up, -limit, limit) + 1).
#[inline(always)]
pub(crate) unsafe fn glu_clamped<V: Vector>(
    a: Activation,
    limit: f32,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) {
    // SAFETY: the caller's contract.
    unsafe { dispatch!(a, f => combine::<V, _>(ClampedProduct(f, limit), gate, up, out)) }
}

/// x <- cap * tanh(x / cap).
#[inline(always)]
pub(crate) unsafe fn softcap<V: Vector>(x: &mut [f32], cap: f32) {
    // SAFETY: the caller's contract.
    unsafe { map::<V, _>(Softcap(cap), x) }
}

/// x <- e^x.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe { map::<V, _>(Exp, x) }
}

/// x <- ln x.
#[inline(always)]
pub(crate) unsafe fn log<V: Vector>(x: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe { map::<V, _>(Log, x) }
}

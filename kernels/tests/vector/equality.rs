//! Every table x kernel x length x placement against the scalar table.

use super::data::{KINDS, Random, vector};
use super::guard::Guarded;
use super::{assert_same, others, scalar};
use quern_kernels::{Activation, Kernels};

/// Three inputs.
type Inputs<'a> = [&'a [f32]; 3];
/// A kernel call: the inputs, a vector that is changed, up to two results.
type Run<'a> = &'a dyn Fn(&Kernels, Inputs<'_>, &mut [f32]) -> [f32; 2];

/// A kernel over vectors of one length.
struct Case {
    name: &'static str,
    run: fn(&Kernels, Inputs<'_>, &mut [f32]) -> [f32; 2],
}

const NOTHING: [f32; 2] = [0.0; 2];
const XIELU: Activation = Activation::XIelu {
    positive: 0.8,
    negative: 1.1,
    beta: 0.5,
    eps: -1e-6,
};
const ACTIVATIONS: [Activation; 11] = [
    Activation::Identity,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Relu2,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Softplus,
    XIELU,
];

macro_rules! case {
    ($name:literal, |$k:ident, $a:pat_param, $x:ident| $run:expr) => {
        Case {
            name: $name,
            run: |$k, $a, $x| {
                $run;
                NOTHING
            },
        }
    };
}

const CASES: &[Case] = &[
    case!("rms_norm", |k, [a, b, _], x| k.rms_norm(
        a,
        Some(b),
        1e-5,
        x
    )),
    case!("rms_norm without weight", |k, [a, _, _], x| k
        .rms_norm(a, None, 1e-6, x)),
    case!("layer_norm", |k, [a, b, c], x| k.layer_norm(
        a,
        Some(b),
        Some(c),
        1e-5,
        x
    )),
    case!("layer_norm without bias", |k, [a, b, _], x| k.layer_norm(
        a,
        Some(b),
        None,
        1e-5,
        x
    )),
    case!("layer_norm without weight", |k, [a, _, c], x| k.layer_norm(
        a,
        None,
        Some(c),
        1e-5,
        x
    )),
    case!("layer_norm alone", |k, [a, _, _], x| k
        .layer_norm(a, None, None, 1e-5, x)),
    case!("rope", |k, [a, b, _], x| k.rope(
        x,
        &a[..a.len() / 2],
        &b[..a.len() / 2]
    )),
    case!("rope, partial", |k, [a, b, _], x| k.rope(
        x,
        &a[..a.len() / 3],
        &b[..a.len() / 3]
    )),
    case!("glu silu", |k, [a, b, _], x| k.glu(
        Activation::Silu,
        a,
        b,
        x
    )),
    case!("glu gelu_tanh", |k, [a, b, _], x| k.glu(
        Activation::GeluTanh,
        a,
        b,
        x
    )),
    case!("glu_clamped", |k, [a, b, _], x| k.glu_clamped(
        Activation::QuickGelu,
        7.0,
        a,
        b,
        x
    )),
    case!("softcap", |k, _, x| k.softcap(x, 30.0)),
    case!("exp", |k, _, x| k.exp(x)),
    case!("log", |k, _, x| k.log(x)),
    case!("add", |k, [a, _, _], x| k.add(x, a)),
    case!("add_scaled", |k, [a, _, _], x| k.add_scaled(x, a, 0.7)),
    case!("scale", |k, _, x| k.scale(x, 1.3)),
    case!("mul", |k, [a, _, _], x| k.mul(x, a)),
    case!("clamp", |k, _, x| k.clamp(x, -0.5, 0.5)),
    case!("softmax", |k, _, x| k.softmax(x)),
    Case {
        name: "softmax_exp",
        run: |k, _, x| {
            let (m, sum) = k.softmax_exp(x);
            [m, sum]
        },
    },
    Case {
        name: "dot",
        run: |k, [a, b, _], _| [k.dot(a, b), 0.0],
    },
    Case {
        name: "max",
        run: |k, [a, _, _], _| [k.max(a), 0.0],
    },
    Case {
        name: "argmax",
        run: |k, [a, _, _], _| [k.argmax(a) as f32, 0.0],
    },
    Case {
        name: "all_finite",
        run: |k, [a, _, _], _| [k.all_finite(a) as u32 as f32, 0.0],
    },
];

/// Runs one kernel on guarded copies of the inputs and compares with what the scalar table made of
/// the originals.
struct Bench {
    buffers: [Guarded; 4],
}

impl Bench {
    fn new() -> Bench {
        Bench {
            buffers: std::array::from_fn(|_| Guarded::new(4 * 1024 + 64)),
        }
    }

    /// `place` numbers a placement; the four buffers get different ones.
    fn run(
        &mut self,
        k: &Kernels,
        run: Run<'_>,
        input: &[Vec<f32>; 4],
        place: usize,
    ) -> (Vec<f32>, [f32; 2]) {
        let [a, b, c, x] = &mut self.buffers;
        let args = [
            a.copy(&input[0], place) as &[f32],
            b.copy(&input[1], place ^ 1),
            c.copy(&input[2], place / 2),
        ];
        let x = x.copy(&input[3], place);
        let returned = run(k, args, x);
        (x.to_vec(), returned)
    }
}

/// The lengths: all up to a thousand, so all tails with every number of whole groups.
fn lengths() -> impl Iterator<Item = usize> {
    0..=1024
}

fn check(name: &str, run: Run<'_>, tables: &[&Kernels], seed: u64) {
    let mut bench = Bench::new();
    let mut r = Random(seed);
    for n in lengths() {
        for kind in KINDS {
            let input: [Vec<f32>; 4] = std::array::from_fn(|_| vector(&mut r, n, kind));
            let place = r.below(32);
            let (want, want_ret) = bench.run(scalar(), run, &input, place);
            for k in tables {
                for place in [0, 1, place] {
                    let what = || format!("{name} on {}, {n} x {kind:?}, place {place}", k.name());
                    let (got, got_ret) = bench.run(k, run, &input, place);
                    assert_same(&what, &want, &got);
                    assert_same(&what, &want_ret, &got_ret);
                }
            }
        }
    }
}

#[test]
fn every_kernel_equals_the_scalar_one() {
    let tables = others();
    for (i, case) in CASES.iter().enumerate() {
        check(case.name, &case.run, &tables, i as u64);
    }
}

#[test]
fn every_activation_equals_the_scalar_one() {
    let tables = others();
    for (i, a) in ACTIVATIONS.into_iter().enumerate() {
        let run = move |k: &Kernels, _: [&[f32]; 3], x: &mut [f32]| {
            k.activation(a, x);
            NOTHING
        };
        check(&format!("{a:?}"), &run, &tables, 100 + i as u64);
    }
}

#[test]
fn a_gated_unit_is_its_activation_times_the_other_half() {
    let mut r = Random(5);
    for a in ACTIVATIONS {
        let gate = vector(&mut r, 100, super::data::Kind::Special);
        let up = vector(&mut r, 100, super::data::Kind::Plain);
        let mut want = gate.clone();
        let mut out = vec![0.0; 100];
        scalar().activation(a, &mut want);
        scalar().mul(&mut want, &up);
        scalar().glu(a, &gate, &up, &mut out);
        assert_same(&|| format!("{a:?}"), &want, &out);
    }
}

#[test]
fn searches_follow_their_definition() {
    let mut r = Random(7);
    let mut tables = others();
    tables.push(scalar());
    for n in lengths() {
        for kind in KINDS {
            let x = vector(&mut r, n, kind);
            let greatest = x
                .iter()
                .copied()
                .filter(|v| !v.is_nan())
                .fold(f32::NEG_INFINITY, f32::max);
            let first = x.iter().position(|&v| v == greatest).unwrap_or(0);
            for k in &tables {
                assert!(k.max(&x) == greatest, "{} {n} {kind:?}", k.name());
                assert_eq!(k.argmax(&x), first, "{} {n} {kind:?}", k.name());
                assert_eq!(
                    k.all_finite(&x),
                    x.iter().all(|v| v.is_finite()),
                    "{} {n} {kind:?}",
                    k.name()
                );
            }
        }
        // A single bad value, wherever it is, is seen.
        if n > 0 {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![1.0; n];
                x[r.below(n)] = bad;
                assert!(tables.iter().all(|k| !k.all_finite(&x)), "{n} {bad}");
            }
        }
    }
    for k in &tables {
        assert_eq!(k.argmax(&[f32::NAN, f32::NAN]), 0);
        assert_eq!(k.argmax(&[f32::NAN, f32::NEG_INFINITY]), 1);
        assert_eq!(k.max(&[f32::NAN]), f32::NEG_INFINITY);
        assert_eq!(k.argmax(&[1.0, f32::NAN, 2.0, 2.0]), 2);
    }
}

#[test]
fn a_softmax_without_anything_visible_is_zero() {
    let mut tables = others();
    tables.push(scalar());
    for k in tables {
        for n in [0, 1, 15, 16, 17, 40] {
            let mut s = vec![f32::NEG_INFINITY; n];
            assert_eq!(k.softmax_exp(&mut s), (f32::NEG_INFINITY, 0.0));
            assert!(s.iter().all(|x| x.to_bits() == 0));
            let mut s = vec![f32::NEG_INFINITY; n];
            k.softmax(&mut s);
            assert!(s.iter().all(|x| x.to_bits() == 0));
        }
        // A NaN shows in the sum even where everything else is hidden.
        let mut s = vec![f32::NEG_INFINITY; 33];
        s[20] = f32::NAN;
        let (m, sum) = k.softmax_exp(&mut s);
        assert!(m == f32::NEG_INFINITY && sum.is_nan());
    }
}

//! One operation at a time, ready to be timed: its operands, and how much it moves and computes.
//!
//! Operands of a case along vectors stay in the nearest caches; those of a long attention and of products do not.

use super::synthetic::{self, Noise};
use crate::cache::PAGE;
use crate::error::Result;
use crate::ops::{self, ActBuffer, Context, Product};
use crate::par::Team;
use crate::sample::{Params, Sampler};
use crate::tensor::Matrix;
use quern_kernels::{ActKind, Activation, Format, KV_TILE, Kernels, KvType, Scratch};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Weights times activations.
    Matmul,
    /// Rotary embedding.
    Rope,
    /// RMSNorm and LayerNorm.
    RmsNorm,
    /// Exponentials and their sum.
    Softmax,
    /// Scores and weighted sums over a cache of keys and values.
    Attention,
    /// Activations to int8.
    Quantize,
    /// Non-linearities, with and without a gate.
    Activation,
    /// Sums, products and searches along vectors.
    Vector,
    /// Convolutions, scans, the delta rule.
    Recurrent,
    /// From logits to an id.
    Sample,
    /// Threads that wait for each other.
    Barrier,
}

impl Op {
    /// All of them, in the order of a report.
    pub const ALL: [Op; 11] = [
        Op::Matmul,
        Op::Attention,
        Op::RmsNorm,
        Op::Rope,
        Op::Softmax,
        Op::Activation,
        Op::Quantize,
        Op::Vector,
        Op::Recurrent,
        Op::Sample,
        Op::Barrier,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Op::Matmul => "matmul",
            Op::Rope => "rope",
            Op::RmsNorm => "rmsnorm",
            Op::Softmax => "softmax",
            Op::Attention => "attention",
            Op::Quantize => "quantize",
            Op::Activation => "activation",
            Op::Vector => "vector",
            Op::Recurrent => "recurrent",
            Op::Sample => "sample",
            Op::Barrier => "barrier",
        }
    }
}

/// Runs the operation so many times and says how long that took.
type Run = Box<dyn FnMut(&'static Kernels, usize) -> Duration>;

/// An operation with its operands.
pub struct Case {
    /// What it is, for a table.
    pub name: String,
    /// How many threads work on it.
    pub threads: usize,
    /// Whether kernels of an instruction set take part.
    pub kernels: bool,
    /// Bytes that one call reads and writes.
    pub bytes: usize,
    /// Bytes that repeated calls touch.
    pub working_set: usize,
    /// Multiply-adds of one call, and the format of weights whose arithmetic they have.
    pub macs: Option<(usize, Format)>,
    /// Runs it.
    pub run: Run,
}

/// Elements of the one-dimensional cases: the hidden vector of a large model.
const N: usize = 4096;

fn data(n: usize) -> Vec<f32> {
    Noise::new(7).map(|x| 3.0 * x).take(n).collect()
}

/// A case of one thread, from what one call does.
fn case(name: String, bytes: usize, mut call: impl FnMut(&Kernels) + 'static) -> Case {
    Case {
        name,
        threads: 1,
        kernels: true,
        bytes,
        working_set: bytes,
        macs: None,
        run: Box::new(move |kernels, calls| {
            let start = Instant::now();
            for _ in 0..calls {
                call(kernels);
            }
            start.elapsed()
        }),
    }
}

/// A kernel over two inputs and one vector that it changes; `streams` vectors are read or written.
fn vector(name: &str, streams: usize, f: fn(&Kernels, &[f32], &[f32], &mut [f32])) -> Case {
    let (a, b, start) = (data(N), data(N), data(N));
    let (mut x, mut calls) = (start.clone(), 0);
    case(format!("{name} {N}"), 4 * N * streams, move |k| {
        // Back to ordinary values now and then: repeated calls in place drift to subnormal numbers.
        calls += 1;
        if calls % 8 == 0 {
            x.copy_from_slice(&start);
        }
        f(k, &a, &b, &mut x);
        std::hint::black_box(&x);
    })
}

/// The cases of an operation along vectors; none for one that needs more than that.
pub fn along_vectors(op: Op) -> Vec<Case> {
    match op {
        Op::RmsNorm => vec![
            vector("rms_norm", 3, |k, a, b, x| k.rms_norm(a, Some(b), 1e-5, x)),
            vector("layer_norm", 4, |k, a, b, x| {
                k.layer_norm(a, Some(b), Some(b), 1e-5, x)
            }),
        ],
        Op::Rope => vec![vector("rope", 4, |k, a, b, x| {
            k.rope(x, &a[..N / 2], &b[..N / 2])
        })],
        Op::Softmax => vec![
            vector("softmax", 2, |k, _, _, x| k.softmax(x)),
            vector("softmax_exp", 2, |k, _, _, x| {
                k.softmax_exp(x);
            }),
        ],
        Op::Activation => vec![
            vector("silu gated", 3, |k, a, b, x| {
                k.glu(Activation::Silu, a, b, x)
            }),
            vector("gelu_tanh gated", 3, |k, a, b, x| {
                k.glu(Activation::GeluTanh, a, b, x)
            }),
            vector("gelu", 2, |k, _, _, x| k.activation(Activation::Gelu, x)),
            vector("softplus", 2, |k, _, _, x| {
                k.activation(Activation::Softplus, x)
            }),
            vector("tanh", 2, |k, _, _, x| k.activation(Activation::Tanh, x)),
            vector("exp", 2, |k, _, _, x| k.exp(x)),
            vector("log", 2, |k, _, _, x| k.log(x)),
        ],
        Op::Vector => vec![
            vector("add", 3, |k, a, _, x| k.add(x, a)),
            vector("dot", 2, |k, a, b, x| x[0] = k.dot(a, b)),
            vector("max", 1, |k, a, _, x| x[0] = k.max(a)),
            vector("argmax", 2, |k, a, _, x| x[0] = k.argmax(a) as f32),
            vector("all_finite", 1, |k, a, _, x| {
                x[0] = k.all_finite(a) as u32 as f32
            }),
        ],
        Op::Quantize => vec![quantize(N)],
        Op::Attention => {
            let mut cases = Vec::new();
            for kv in KvType::ALL {
                for scores in [true, false] {
                    for (queries, positions) in [(1, 1024), (4, 1024), (64, 512), (4, 65536)] {
                        cases.push(attention(scores, kv, queries, positions, 64));
                    }
                    cases.push(attention(scores, kv, 4, 1024, 128));
                }
            }
            cases
        }
        Op::Recurrent => vec![
            scan(true, 16),
            scan(false, 128),
            convolution(4),
            delta_rule(1),
            delta_rule(32),
        ],
        Op::Matmul | Op::Sample | Op::Barrier => Vec::new(),
    }
}

fn quantize(n: usize) -> Case {
    let x = data(n);
    let (mut q, mut scales, mut sums) = (vec![0; n], vec![0.0; n / 32], vec![0; n / 32]);
    case(format!("quantize int8 {n}"), 4 * n + n + n / 4, move |k| {
        k.quantize_acts(&x, &mut q, &mut scales, &mut sums);
        std::hint::black_box(&q);
    })
}

/// Scores or values of some queries over the positions of a cache with heads of `dim`, page by page, as the cache keeps them.
fn attention(scores: bool, kv: KvType, n: usize, positions: usize, dim: usize) -> Case {
    let page = match scores {
        true => PAGE / KV_TILE * kv.k_tile_bytes(dim),
        false => PAGE * kv.v_row_bytes(dim),
    };
    // Keys and values of the same size and of no matter: bytes of small numbers in every element type.
    let cache = vec![0x2c; positions / PAGE * page];
    let bytes = cache.len();
    let (q, p) = (data(n * dim), data(n * positions));
    let (mut s, mut o) = (vec![0.0; n * positions], vec![0.0; n * dim]);
    let what = if scores { "scores" } else { "values" };
    let name = format!("attention {what} {} {n} x {positions} x {dim}", kv.name());
    let mut case = case(name, bytes, move |k| {
        o.fill(0.0);
        for (i, now) in cache.chunks(page).enumerate() {
            let next = &cache[((i + 1) * page).min(bytes)..];
            if scores {
                let (tiles, s) = (PAGE / KV_TILE, &mut s[i * PAGE..]);
                k.attn_scores(kv, &q, dim, n, dim, now, next, tiles, s, positions);
            } else {
                let p = &p[i * PAGE..];
                k.attn_values(kv, p, positions, n, now, next, PAGE, dim, &mut o, dim);
            }
        }
        std::hint::black_box((&s, &o));
    });
    case.macs = Some((n * positions * dim, Format::F32));
    case
}

/// Steps of the delta rule on a state of 128 x 128.
fn delta_rule(steps: usize) -> Case {
    const DIM: usize = 128;
    // Unit keys, and less is kept than could grow.
    let unit: Vec<f32> = data(steps * DIM).iter().map(|x| x / 20.0).collect();
    let (v, gates) = (data(steps * DIM), vec![0.5; steps]);
    let (mut state, mut out) = (vec![0.0; DIM * DIM], vec![0.0; steps * DIM]);
    let name = format!("delta_rule {steps} x {DIM} x {DIM}");
    case(name, 4 * DIM * DIM * 3 * steps, move |k| {
        let (v, out) = ((&v[..], DIM), &mut out);
        k.delta_rule(&mut state, (DIM, DIM), &unit, &unit, v, &gates, &gates, out);
    })
}

/// One token of a scan of 64 channels with `state` elements each.
fn scan(selective: bool, state: usize) -> Case {
    const CHANNELS: usize = 64;
    let size = CHANNELS * state;
    // The state stays bounded: rates are below zero, and what is added is small.
    let rate: Vec<f32> = data(size).iter().map(|x| -x.abs() - 0.1).collect();
    let (x, step) = (data(CHANNELS), vec![0.5; CHANNELS]);
    let (b, c) = (data(state), data(state));
    let (mut s, mut y) = (vec![0.0; size], vec![0.0; CHANNELS]);
    match selective {
        true => case(
            format!("selective_scan {CHANNELS} x {state}"),
            4 * size * 3,
            move |k| k.selective_scan(&mut s, &rate, (&step, &step), &x, (&b, &c), &mut y),
        ),
        false => case(
            format!("head_scan {CHANNELS} x {state}"),
            4 * size * 2,
            move |k| k.head_scan(&mut s, (0.5, 0.9, 1.0), &x, (&b, &c), &mut y),
        ),
    }
}

/// One token of a convolution of 256 channels.
fn convolution(taps: usize) -> Case {
    const CHANNELS: usize = 256;
    let (window, weight) = (data(taps * CHANNELS), data(taps * CHANNELS));
    let (bias, mut out, mut first) = (data(CHANNELS), vec![0.0; CHANNELS], 0);
    let name = format!("convolve {CHANNELS} x {taps}");
    case(name, 4 * CHANNELS * (2 * taps + 2), move |k| {
        first = (first + 1) % taps;
        k.convolve(&window, first, &weight, CHANNELS, Some(&bias), &mut out);
    })
}

/// A sampler on made-up logits of so many ids, in the settings that most people use and in others.
///
/// # Errors
/// None: the settings are valid.
pub fn sampling(vocabulary: usize) -> Result<Vec<Case>> {
    let usual = Params {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        ..Params::default()
    };
    let settings = [
        ("top-k 40, top-p 0.95, min-p 0.05", usual.clone()),
        (
            "top-p 0.95",
            Params {
                top_k: 0,
                min_p: 0.0,
                ..usual.clone()
            },
        ),
        ("greedy", Params::greedy()),
    ];
    let mut cases = Vec::new();
    for (name, params) in settings {
        params.validate()?;
        let logits: Vec<f32> = {
            // A sum of uniform numbers is close to normal.
            let mut noise = Noise::new(11);
            let mut one = || noise.by_ref().take(4).sum::<f32>() * 2.0;
            (0..vocabulary).map(|_| one()).collect()
        };
        cases.push(Case {
            name: format!("sample {name}, {vocabulary} ids"),
            threads: 1,
            kernels: true,
            bytes: 4 * vocabulary,
            working_set: 4 * vocabulary,
            macs: None,
            run: Box::new(move |kernels, calls| {
                let Ok(mut sampler) = Sampler::new(params.clone(), kernels) else {
                    return Duration::ZERO;
                };
                // The first choice finds its memory.
                std::hint::black_box(sampler.sample(&logits).ok());
                let start = Instant::now();
                for _ in 0..calls {
                    std::hint::black_box(sampler.sample(std::hint::black_box(&logits)).ok());
                }
                start.elapsed()
            }),
        });
    }
    Ok(cases)
}

/// Threads that wait for each other: at once, after a pause, with twice as many threads as asked for, and the start of a pass.
///
/// # Errors
/// The threads cannot be started.
pub fn barriers(threads: usize) -> Result<Vec<Case>> {
    let bare = |name: &str, threads: usize, run: Run| Case {
        name: name.to_owned(),
        threads,
        kernels: false,
        bytes: 0,
        working_set: 0,
        macs: None,
        run,
    };
    let phases = |team: Arc<Team>, pause: Option<Duration>| -> Run {
        Box::new(move |_, calls| {
            let threads = team.threads();
            team.run(|crew| {
                let mut spent = Duration::ZERO;
                for _ in 0..calls {
                    if let Some(pause) = pause {
                        std::thread::sleep(pause);
                    }
                    let start = Instant::now();
                    crew.for_each(threads, |_, _| ());
                    spent += start.elapsed();
                }
                spent
            })
        })
    };
    let team = Arc::new(Team::new(threads)?);
    let many = Arc::new(Team::new(2 * threads)?);
    let start = team.clone();
    Ok(vec![
        bare("phase", threads, phases(team.clone(), None)),
        bare(
            "phase after 1 ms",
            threads,
            phases(team, Some(Duration::from_millis(1))),
        ),
        bare("phase, oversubscribed", 2 * threads, phases(many, None)),
        bare(
            "start of a pass",
            threads,
            Box::new(move |_, calls| {
                let begin = Instant::now();
                for _ in 0..calls {
                    start.run(|_| ());
                }
                begin.elapsed()
            }),
        ),
    ])
}

/// A matrix to multiply with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// How many tokens, where the list of shapes says it.
    pub tokens: Option<usize>,
}

/// The products of one matrix with each number of tokens, on so many threads. `beyond` is how many bytes the weights of successive calls cover, as
/// they do in a model whose weights come from memory; 0: every call reads the same.
///
/// # Errors
/// Not enough memory; the threads cannot be started.
pub fn products(
    format: Format,
    shape: &MatrixShape,
    tokens: &[usize],
    threads: usize,
    beyond: usize,
) -> Result<Vec<Case>> {
    let (rows, cols) = (shape.rows, shape.cols);
    let one = format.matrix_bytes(rows, cols).unwrap_or(usize::MAX).max(1);
    let copies = (beyond / one).max(1);
    let matrices: Arc<Vec<Matrix>> = Arc::new(synthetic::matrices(format, rows, cols, copies)?);
    let team = Arc::new(Team::new(threads)?);
    let mut cases = Vec::new();
    for &n in tokens {
        let scratch: Vec<Mutex<Scratch>> = (0..threads).map(|_| Mutex::default()).collect();
        let mut acts = ActBuffer::default();
        acts.shape(n, cols, format.act_kind() != ActKind::F32);
        team.run(|crew| {
            let ctx = Context {
                crew,
                kernels: quern_kernels::best(),
                scratch: &scratch,
            };
            acts.fill(&ctx, n, true, |token, _, out| {
                for (x, noise) in out.iter_mut().zip(Noise::new(token as u64)) {
                    *x = noise;
                }
            });
        });
        let (team, matrices) = (team.clone(), matrices.clone());
        let (mut out, mut next) = (Vec::new(), 0);
        cases.push(Case {
            name: format!("matmul {} {rows} x {cols} n={n}", format.name()),
            threads,
            kernels: true,
            bytes: one + n * (cols + 4 * rows),
            working_set: one * copies,
            macs: Some((rows * cols * n, format)),
            run: Box::new(move |kernels, calls| {
                team.run(|crew| {
                    let ctx = Context {
                        crew,
                        kernels,
                        scratch: &scratch,
                    };
                    let start = Instant::now();
                    for _ in 0..calls {
                        let matrix = &matrices[next % matrices.len()];
                        next += 1;
                        ops::matmul(&ctx, &acts, n, &[Product::new(matrix, &mut out, n)]);
                    }
                    start.elapsed()
                })
            }),
        });
    }
    Ok(cases)
}

//! Times the kernels along vectors on every table this CPU can run: one thread, operands in L1 or
//! L2 but for the long attention cases, the least of interleaved rounds.
//!
//! `cargo run --release -p quern-kernels --example vector [NAME]` prints per kernel and instruction
//! set the time of one call, the bytes read and written per nanosecond (GB/s) and the elements or
//! multiply-adds per nanosecond. Only kernels whose name contains NAME run.

use quern_kernels::{Activation, KV_TILE, Kernels, KvType, supported};
use std::time::Instant;

/// A kernel call, the bytes it touches, and its elements (attention: multiply-adds).
struct Case {
    name: String,
    bytes: usize,
    work: usize,
    run: Box<dyn FnMut(&Kernels)>,
}

/// Elements of the one-dimensional cases.
const N: usize = 4096;

fn data(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0)
        .collect()
}

/// A kernel over two inputs and one vector that it changes; `streams` vectors are read or written.
fn vector(name: &str, streams: usize, f: fn(&Kernels, &[f32], &[f32], &mut [f32])) -> Case {
    let (a, b, start) = (data(N), data(N), data(N));
    let mut x = start.clone();
    let mut calls = 0;
    let run = move |k: &Kernels| {
        // Back to ordinary values now and then: repeated in-place calls drift to subnormals.
        calls += 1;
        if calls % 8 == 0 {
            x.copy_from_slice(&start);
        }
        f(k, &a, &b, &mut x)
    };
    Case {
        name: name.to_owned(),
        bytes: 4 * N * streams,
        work: N,
        run: Box::new(run),
    }
}

/// Some steps of the delta rule on a state of 128 x 128; the work is elements of the state times steps.
fn delta_rule(steps: usize) -> Case {
    const DIM: usize = 128;
    // Unit keys, and less is kept than could grow.
    let unit: Vec<f32> = data(steps * DIM).iter().map(|x| x / 20.0).collect();
    let (v, gates) = (data(steps * DIM), vec![0.5; steps]);
    let (mut state, mut out) = (vec![0.0; DIM * DIM], vec![0.0; steps * DIM]);
    let run = move |k: &Kernels| {
        let (v, out) = ((&v[..], DIM), &mut out);
        k.delta_rule(&mut state, (DIM, DIM), &unit, &unit, v, &gates, &gates, out);
    };
    Case {
        name: format!("delta_rule {steps} x {DIM} x {DIM}"),
        bytes: 4 * DIM * DIM * 3 * steps,
        work: DIM * DIM * steps,
        run: Box::new(run),
    }
}

/// Scores or values of `n_q` queries over `positions` of a cache with heads of `dim`.
fn attention(scores: bool, kv: KvType, n_q: usize, positions: usize, dim: usize) -> Case {
    let tiles = positions / KV_TILE * kv.k_tile_bytes(dim);
    let cache = vec![0x2c; tiles.max(positions * kv.v_row_bytes(dim))];
    let (tiles, bytes) = (positions / KV_TILE, cache.len());
    let (q, p) = (data(n_q * dim), data(n_q * positions));
    let (mut s, mut o) = (vec![0.0; n_q * positions], vec![0.0; n_q * dim]);
    let run: Box<dyn FnMut(&Kernels)> = if scores {
        Box::new(move |k| k.attn_scores(kv, &q, dim, n_q, dim, &cache, tiles, &mut s, positions))
    } else {
        Box::new(move |k| {
            o.fill(0.0);
            k.attn_values(kv, &p, positions, n_q, &cache, positions, dim, &mut o, dim)
        })
    };
    let what = if scores { "scores" } else { "values" };
    let name = format!("{what} {} {n_q} x {positions} x {dim}", kv.name());
    Case {
        name,
        bytes,
        work: n_q * positions * dim,
        run,
    }
}

/// One token of a scan of 64 channels with `state` elements each; the work is elements of the state.
fn scan(selective: bool, state: usize) -> Case {
    const CHANNELS: usize = 64;
    let size = CHANNELS * state;
    // The state stays bounded: rates are below zero, and what is added is small.
    let rate: Vec<f32> = data(size).iter().map(|x| -x.abs() - 0.1).collect();
    let (x, step) = (data(CHANNELS), vec![0.5; CHANNELS]);
    let (b, c, mut s, mut y) = (
        data(state),
        data(state),
        vec![0.0; size],
        vec![0.0; CHANNELS],
    );
    let run: Box<dyn FnMut(&Kernels)> = match selective {
        true => Box::new(move |k| {
            k.selective_scan(&mut s, &rate, (&step, &step), &x, (&b, &c), &mut y);
        }),
        false => Box::new(move |k| k.head_scan(&mut s, (0.5, 0.9, 1.0), &x, (&b, &c), &mut y)),
    };
    let what = if selective {
        "selective_scan"
    } else {
        "head_scan"
    };
    Case {
        name: format!("{what} {CHANNELS} x {state}"),
        bytes: 4 * size * if selective { 3 } else { 2 },
        work: size,
        run,
    }
}

/// One token of a convolution of 256 channels; the work is multiply-adds.
fn convolution(taps: usize) -> Case {
    const CHANNELS: usize = 256;
    let (window, weight) = (data(taps * CHANNELS), data(taps * CHANNELS));
    let (bias, mut out, mut first) = (data(CHANNELS), vec![0.0; CHANNELS], 0);
    let run = move |k: &Kernels| {
        first = (first + 1) % taps;
        k.convolve(&window, first, &weight, CHANNELS, Some(&bias), &mut out);
    };
    Case {
        name: format!("convolve {CHANNELS} x {taps}"),
        bytes: 4 * CHANNELS * (2 * taps + 2),
        work: CHANNELS * taps,
        run: Box::new(run),
    }
}

fn cases() -> Vec<Case> {
    let mut all = vec![
        vector("rms_norm", 3, |k, a, b, x| k.rms_norm(a, Some(b), 1e-5, x)),
        vector("layer_norm", 4, |k, a, b, x| {
            k.layer_norm(a, Some(b), Some(b), 1e-5, x)
        }),
        vector("rope", 4, |k, a, b, x| k.rope(x, &a[..N / 2], &b[..N / 2])),
        vector("silu glu", 3, |k, a, b, x| k.glu(Activation::Silu, a, b, x)),
        vector("gelu_tanh glu", 3, |k, a, b, x| {
            k.glu(Activation::GeluTanh, a, b, x)
        }),
        vector("gelu", 2, |k, _, _, x| k.activation(Activation::Gelu, x)),
        vector("softplus", 2, |k, _, _, x| {
            k.activation(Activation::Softplus, x)
        }),
        vector("tanh", 2, |k, _, _, x| k.activation(Activation::Tanh, x)),
        vector("exp", 2, |k, _, _, x| k.exp(x)),
        vector("log", 2, |k, _, _, x| k.log(x)),
        vector("softmax_exp", 2, |k, _, _, x| {
            k.softmax_exp(x);
        }),
        vector("add", 3, |k, a, _, x| k.add(x, a)),
        vector("dot", 2, |k, a, b, x| x[0] = k.dot(a, b)),
        vector("max", 1, |k, a, _, x| x[0] = k.max(a)),
        vector("argmax", 2, |k, a, _, x| x[0] = k.argmax(a) as f32),
        vector("all_finite", 1, |k, a, _, x| {
            x[0] = k.all_finite(a) as u32 as f32
        }),
    ];
    all.extend([scan(true, 16), scan(false, 16), scan(false, 128)]);
    all.extend([convolution(3), convolution(4)]);
    all.extend([delta_rule(1), delta_rule(32)]);
    for scores in [true, false] {
        for kv in KvType::ALL {
            for (n_q, positions) in [(1, 1024), (4, 1024), (8, 512), (64, 512), (4, 65536)] {
                all.push(attention(scores, kv, n_q, positions, 64));
            }
            all.push(attention(scores, kv, 4, 512, 128));
        }
    }
    all
}

/// Nanoseconds of one call, over a batch of about 0.3 ms.
fn time(case: &mut Case, table: &Kernels) -> f64 {
    let start = Instant::now();
    (case.run)(table);
    let calls = (300_000 / (start.elapsed().as_nanos() as usize + 1)).clamp(1, 100_000);
    let start = Instant::now();
    for _ in 0..calls {
        (case.run)(table);
    }
    start.elapsed().as_nanos() as f64 / calls as f64
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let tables: Vec<_> = supported().collect();
    println!(
        "{:28} {:8} {:>12} {:>8} {:>8}",
        "kernel", "isa", "ns", "GB/s", "work/ns"
    );
    for mut case in cases() {
        if !case.name.contains(&wanted) {
            continue;
        }
        let mut best = vec![f64::INFINITY; tables.len()];
        for _ in 0..9 {
            for (best, table) in best.iter_mut().zip(&tables) {
                *best = best.min(time(&mut case, table));
            }
        }
        for (ns, table) in best.iter().zip(&tables) {
            let (gb, work) = (case.bytes as f64 / ns, case.work as f64 / ns);
            println!(
                "{:28} {:8} {ns:12.0} {gb:8.1} {work:8.2}",
                case.name,
                table.name()
            );
        }
    }
}

//! Speed of the products on one core: GB/s of weights and GMAC/s per format, tokens and instruction set.
//!
//! `cargo run --release -p quern-kernels --example gemm [ISA[,ISA]] [FORMAT[,FORMAT]] [ROWS COLS]`
//!
//! The default matrix is small enough for the second-level cache, so the figures show what the instructions
//! allow; give 16384 4096 for what the memory allows. A run is timed in parts of 8 panels, and the best time of
//! each part counts: on a busy machine short parts are the ones that are not interrupted.

use std::hint::black_box;
use std::time::Instant;

use quern_kernels::{ActKind, Acts, Format, K_ALIGN, Kernels, Out, Scratch, supported};

/// Deterministic values in -1..1.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 7u64;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// The sum of the shortest times of each part, in seconds.
fn best_of_parts(parts: usize, mut run: impl FnMut(usize)) -> f64 {
    let mut best = vec![f64::INFINITY; parts];
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 4 || begin.elapsed().as_secs_f64() < 0.3 {
        for (part, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            run(part);
            *best = best.min(start.elapsed().as_secs_f64());
        }
        runs += 1;
    }
    best.iter().sum()
}

/// The shortest of several runs, in seconds.
#[cfg(target_arch = "x86_64")]
fn best_of(mut run: impl FnMut()) -> f64 {
    best_of_parts(1, |_| run())
}

fn bench(kernels: &Kernels, format: Format, rows: usize, cols: usize, peaks: (f64, f64)) {
    let panel_bytes = format.panel_bytes(cols).expect("size");
    let mut weights = vec![0u8; format.matrix_bytes(rows, cols).expect("size") + 64];
    let shift = weights.as_ptr().align_offset(64);
    let values = noise(16 * cols);
    let (first, rest) = weights[shift..].split_at_mut(panel_bytes);
    format.pack_panel(&values, 16, cols, first);
    for panel in rest.chunks_exact_mut(panel_bytes) {
        panel.copy_from_slice(first);
    }
    let weights = &weights[shift..][..format.matrix_bytes(rows, cols).expect("size")];
    let stride = cols.next_multiple_of(K_ALIGN);
    let most = 512;
    let x = noise(most * stride);
    let (mut q, mut scales, mut sums) = (
        vec![0i8; most * stride],
        vec![0.0; most * stride / 32],
        vec![0; most * stride / 32],
    );
    kernels.quantize_acts(&x, &mut q, &mut scales, &mut sums);
    let mut out = vec![0.0f32; most * rows];
    let mut scratch = Scratch::new();
    let read = best_of_parts(rows.div_ceil(128), |part| {
        let part = weights
            .chunks(8 * panel_bytes)
            .nth(part)
            .unwrap_or_default();
        // Four sums, so that their latency does not show.
        let mut sums = [0u64; 32];
        for line in part.chunks_exact(256) {
            for (sum, word) in sums.iter_mut().zip(line.chunks_exact(8)) {
                *sum ^= u64::from_le_bytes(word.try_into().expect("eight bytes"));
            }
        }
        black_box(sums);
    });
    println!(
        "{:8} {:5} {rows:6} x {cols:<6} read   {:8.1} GB/s",
        "",
        format.name(),
        weights.len() as f64 / read / 1.0e9
    );
    for n in [1, 2, 3, 4, 8, 16, 64, 256, 512] {
        if kernels.name() == "scalar" && n > 2 {
            break;
        }
        let parts: Vec<(usize, &[u8])> = weights
            .chunks(8 * panel_bytes)
            .enumerate()
            .map(|(i, part)| (i * 128, part))
            .collect();
        let seconds = best_of_parts(parts.len(), |part| {
            let (row, weights) = parts[part];
            let part_rows = (rows - row).min(128);
            let acts = match format.act_kind() {
                ActKind::F32 => Acts::F32 { x: &x, stride },
                ActKind::Q8 => Acts::Q8 {
                    q: &q,
                    scales: &scales,
                    sums: &sums,
                    stride,
                },
            };
            kernels.matmul(
                format,
                black_box(weights),
                cols,
                acts,
                n,
                Out::new(&mut out[row..], rows, part_rows),
                &mut scratch,
            );
        });
        let (bytes, macs) = (weights.len() as f64, (rows * cols * n) as f64);
        let peak = if format.act_kind() == ActKind::Q8 {
            peaks.0
        } else {
            peaks.1
        };
        println!(
            "{:8} {:5} {rows:6} x {cols:<6} n {n:<4} {:8.1} GB/s {:8.1} GMAC/s {:5.0}% of peak",
            kernels.name(),
            format.name(),
            bytes / seconds / 1.0e9,
            macs / seconds / 1.0e9,
            macs / seconds / peak * 100.0
        );
    }
}

/// Peaks of one core in MAC/s: 8-bit dot products and f32 fma, with the widest vectors at hand.
#[cfg(target_arch = "x86_64")]
fn peaks() -> (f64, f64) {
    use std::arch::x86_64::*;
    const LOOPS: usize = 1 << 20;
    const CHAINS: usize = 12;
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn dots(a: __m512i, b: __m512i) -> i32 {
            let mut acc = [_mm512_setzero_si512(); CHAINS];
            for _ in 0..LOOPS {
                for acc in &mut acc {
                    *acc = _mm512_dpbusd_epi32(*acc, a, b);
                }
            }
            acc.iter()
                .map(|acc| _mm512_reduce_add_epi32(*acc))
                .fold(0, i32::wrapping_add)
        }
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn fmas(a: __m512, b: __m512) -> f32 {
            let mut acc = [_mm512_setzero_ps(); CHAINS];
            for _ in 0..LOOPS {
                for acc in &mut acc {
                    *acc = _mm512_fmadd_ps(a, b, *acc);
                }
            }
            acc.iter().map(|acc| _mm512_reduce_add_ps(*acc)).sum()
        }
        // SAFETY: the features are there.
        let (int, float) = unsafe {
            let (a, x) = (_mm512_set1_epi8(3), _mm512_set1_ps(0.5));
            (
                best_of(|| {
                    black_box(dots(black_box(a), black_box(a)));
                }),
                best_of(|| {
                    black_box(fmas(black_box(x), black_box(x)));
                }),
            )
        };
        let per = (LOOPS * CHAINS) as f64;
        return (per * 64.0 / int, per * 16.0 / float);
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx2,fma")]
        fn fmas(a: __m256, b: __m256) -> [f32; 8] {
            let mut acc = [_mm256_setzero_ps(); CHAINS];
            for _ in 0..LOOPS {
                for acc in &mut acc {
                    *acc = _mm256_fmadd_ps(a, b, *acc);
                }
            }
            let mut sum = [0.0; 8];
            for acc in acc {
                // SAFETY: eight lanes into eight elements.
                unsafe { _mm256_storeu_ps(sum.as_mut_ptr(), acc) };
                black_box(&mut sum);
            }
            sum
        }
        // SAFETY: the features are there.
        let float = unsafe {
            let x = _mm256_set1_ps(0.5);
            best_of(|| {
                black_box(fmas(black_box(x), black_box(x)));
            })
        };
        let fma = (LOOPS * CHAINS * 8) as f64 / float;
        // Without 8-bit dot products a multiply-add of bytes has four times the lanes of an fma.
        return (4.0 * fma, fma);
    }
    (f64::NAN, f64::NAN)
}

#[cfg(not(target_arch = "x86_64"))]
fn peaks() -> (f64, f64) {
    (f64::NAN, f64::NAN)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wants = |i: usize, name: &str| {
        args.get(i)
            .is_none_or(|list| list == "all" || list.split(',').any(|w| w == name))
    };
    let size = |i: usize, default: usize| {
        args.get(i)
            .map_or(default, |v| v.parse().expect("a number"))
    };
    let peaks = peaks();
    println!(
        "peak of this core: int8 {:.0} GMAC/s, f32 {:.0} GMAC/s",
        peaks.0 / 1.0e9,
        peaks.1 / 1.0e9
    );
    for kernels in supported().filter(|k| wants(0, k.name())) {
        for format in Format::ALL.into_iter().filter(|f| wants(1, f.name())) {
            bench(kernels, format, size(2, 256), size(3, 2048), peaks);
        }
    }
}

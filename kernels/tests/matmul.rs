//! Products: every table equals the scalar one bit for bit, and the scalar one is near the exact result.

#![cfg(unix)]

mod ggml;
mod sweep;

use std::sync::Once;

use half::{bf16, f16};
use quern_kernels::{Acts, BLOCK, Format, Isa, Kernels, Out, Scratch, by_name, supported};
use sweep::Noise;

/// The tables to compare; says once which they are, and which could not run.
fn tables() -> Vec<&'static Kernels> {
    static SAY: Once = Once::new();
    SAY.call_once(|| {
        for isa in Isa::ALL {
            match by_name(isa.name()) {
                Ok(_) => eprintln!("isa {}: covered", isa.name()),
                Err(error) => eprintln!("isa {}: NOT covered: {error}", isa.name()),
            }
        }
    });
    supported()
        .filter(|table| table.isa() != Isa::Scalar)
        .collect()
}

#[test]
fn f32_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::F32);
}

#[test]
fn f16_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::F16);
}

#[test]
fn bf16_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Bf16);
}

#[test]
fn q8_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q8);
}

#[test]
fn q4_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q4);
}

#[test]
fn q4m_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q4m);
}

#[test]
fn q5_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q5);
}

#[test]
fn q5m_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q5m);
}

#[test]
fn q2k_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q2k);
}

#[test]
fn q3k_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q3k);
}

#[test]
fn q4k_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q4k);
}

#[test]
fn q5k_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q5k);
}

#[test]
fn q6k_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Q6k);
}

#[test]
fn iq4nl_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Iq4nl);
}

#[test]
fn iq4xs_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Iq4xs);
}

#[test]
fn mxfp4_lengths() {
    sweep::lengths(sweep::scalar(), &tables(), Format::Mxfp4);
}

#[test]
fn tile_shapes() {
    for format in Format::ALL {
        sweep::shapes(sweep::scalar(), &tables(), format);
    }
}

#[test]
fn chunks_of_columns_and_tokens() {
    for format in Format::ALL {
        sweep::chunks(sweep::scalar(), &tables(), format);
    }
}

#[test]
fn quantized_activations() {
    sweep::quantization(&tables());
}

/// The scalar product of `n` tokens.
fn scalar(
    format: Format,
    panels: &[u8],
    shape: (usize, usize),
    acts: Acts<'_>,
    n: usize,
) -> Vec<f32> {
    product(sweep::scalar(), format, panels, shape, acts, n)
}

/// The product of `n` tokens.
fn product(
    table: &Kernels,
    format: Format,
    panels: &[u8],
    (rows, cols): (usize, usize),
    acts: Acts<'_>,
    n: usize,
) -> Vec<f32> {
    let mut out = vec![0.0; n * rows];
    table.matmul(
        format,
        panels,
        cols,
        acts,
        n,
        Out::new(&mut out, rows, rows),
        &mut Scratch::new(),
    );
    out
}

/// Packs all rows.
fn pack(format: Format, values: &[f32], rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = vec![0; format.matrix_bytes(rows, cols).unwrap()];
    let size = format.panel_bytes(cols).unwrap();
    for (panel, values) in bytes.chunks_exact_mut(size).zip(values.chunks(16 * cols)) {
        format.pack_panel(values, values.len() / cols, cols, panel);
    }
    bytes
}

const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Float formats against a sum in f64 over values that the format holds exactly.
///
/// The bound: `acc` after K fused steps is `sum w_k a_k (1 + d_k)`, each term having passed through at most K
/// roundings, so |1 + d_k| <= (1 + u)^K with u = 2^-24, and the error is at most ((1 + u)^K - 1) * sum |w_k a_k|
/// (Higham, Accuracy and Stability, lemma 3.1). The values here are far from underflow. The oracle's own error,
/// K * 2^-53 of the same sum, is 2^29 times smaller than the bound for K = 1 and covered by the 1e-6.
#[test]
fn scalar_float_products_are_near_the_exact_ones() {
    let mut noise = Noise(7);
    for format in [Format::F32, Format::F16, Format::Bf16] {
        for cols in (1..100usize).chain([128, 172, 1000, 1024]) {
            let (rows, n, stride) = (19, 3, cols.next_multiple_of(64));
            let values: Vec<f32> = (0..rows * cols)
                .map(|_| match format {
                    Format::F16 => f16::from_f32(noise.float()).to_f32(),
                    Format::Bf16 => bf16::from_f32(noise.float()).to_f32(),
                    _ => noise.float(),
                })
                .collect();
            let tokens = sweep::random_tokens(n, cols, stride, &mut noise);
            let panels = pack(format, &values, rows, cols);
            let out = scalar(
                format,
                &panels,
                (rows, cols),
                Acts::F32 {
                    x: &tokens.x,
                    stride,
                },
                n,
            );
            for t in 0..n {
                for r in 0..rows {
                    let terms = (0..cols).map(|k| {
                        f64::from(values[r * cols + k]) * f64::from(tokens.x[t * stride + k])
                    });
                    let (exact, magnitude) =
                        terms.fold((0.0, 0.0), |(s, m), v| (s + v, m + v.abs()));
                    let bound = ((1.0 + U).powi(cols as i32) - 1.0) * magnitude * (1.0 + 1.0e-6);
                    let error = (f64::from(out[t * rows + r]) - exact).abs();
                    assert!(
                        error <= bound,
                        "{} K {cols}: {error:e} beyond {bound:e}",
                        format.name()
                    );
                }
            }
        }
    }
}

/// The tables of `--fast-math` that this CPU has; says so if there is none.
fn fast_tables() -> Vec<&'static Kernels> {
    let fast: Vec<_> = supported()
        .map(Kernels::fast_math)
        .filter(|t| !t.exact())
        .collect();
    if fast.is_empty() {
        eprintln!("fast math: NOT covered: this CPU has no bfloat16 dot products");
    }
    fast
}

/// What is not exact is still the same for any number of tokens, and so for decoding and prompts.
#[test]
fn fast_math_does_not_depend_on_the_number_of_tokens() {
    for fast in fast_tables() {
        for format in [Format::Bf16, Format::F16, Format::Q4k] {
            sweep::shapes(fast, &[fast], format);
            sweep::chunks(fast, &[fast], format);
        }
        sweep::lengths(fast, &[fast], Format::Bf16);
    }
}

/// bf16 by dot products of pairs against a sum in f64.
///
/// The bound: rounding an activation to the 8 significant bits of bfloat16 is a factor of 1 + e with |e| <= 2^-8; each of the K products then passes
/// through at most its own rounding and those of K additions, u = 2^-24 each. So the error is at most
/// ((1 + 2^-8) (1 + u)^(K + 1) - 1) * sum |w_k a_k|. And it is not what the exact tables give, or there would be no reason for a table.
#[test]
fn fast_math_products_are_near_the_exact_ones() {
    let mut noise = Noise(9);
    for fast in fast_tables() {
        for cols in (1..100usize).chain([128, 172, 1000, 1024]) {
            let (rows, n, stride) = (19, 3, cols.next_multiple_of(64));
            let values = noise.floats(rows * cols);
            let values: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            let x = sweep::random_tokens(n, cols, stride, &mut noise).x;
            let panels = pack(Format::Bf16, &values, rows, cols);
            let acts = Acts::F32 { x: &x, stride };
            let out = product(fast, Format::Bf16, &panels, (rows, cols), acts, n);
            let mut worst = 0.0f64;
            for t in 0..n {
                for r in 0..rows {
                    let terms = (0..cols)
                        .map(|k| f64::from(values[r * cols + k]) * f64::from(x[t * stride + k]));
                    let (exact, magnitude) =
                        terms.fold((0.0, 0.0), |(s, m), v| (s + v, m + v.abs()));
                    let error = (f64::from(out[t * rows + r]) - exact).abs();
                    let factor = (1.0 + 1.0 / 256.0) * (1.0 + U).powi(cols as i32 + 1) - 1.0;
                    worst = worst.max(error / magnitude);
                    assert!(
                        error <= factor * magnitude * (1.0 + 1.0e-6),
                        "K {cols}: {error:e} of {magnitude:e}"
                    );
                }
            }
            assert!(worst > U * cols as f64, "K {cols}: rounded nothing");
        }
    }
}

/// A row of random blocks of GGUF.
fn random_row(format: Format, blocks: usize, noise: &mut Noise) -> Vec<u8> {
    let (_, bytes) = ggml::size(format);
    let mut row = vec![0; blocks * bytes];
    for block in row.chunks_exact_mut(bytes) {
        sweep::random_block(format, block, noise);
        for &at in ggml::halves(format) {
            block[at..at + 2].copy_from_slice(&f16::from_f32(noise.float() * 0.1).to_le_bytes());
        }
    }
    row
}

/// The panels of rows of blocks.
fn pack_rows(format: Format, rows: &[Vec<u8>], cols: usize) -> Vec<u8> {
    let mut panels = vec![0xaa; format.matrix_bytes(rows.len(), cols).unwrap()];
    let size = format.panel_bytes(cols).unwrap();
    for (panel, rows) in panels.chunks_exact_mut(size).zip(rows.chunks(16)) {
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        format.pack_panel_gguf(&rows, cols, panel);
        assert_eq!(format.check_panel(panel, rows.len(), cols), Ok(()));
    }
    panels
}

/// Integer formats against a sum in f64 over the blocks of GGUF, decoded by `ggml`.
///
/// The bound: a sub-block adds `S (w a)`, S being an exact integer below 2^24 and `w a` the product of its scales, which is
/// rounded once (w is exact); with minimums also `m (a s)`, where `a s` is rounded once. The sum of B such terms passes through at most B fused
/// roundings. So each term carries at most B + 1 factors of 1 + u, and the error is at most ((1 + u)^(B + 1) - 1) * sum of their magnitudes.
#[test]
fn scalar_integer_products_are_near_the_exact_ones() {
    let mut noise = Noise(8);
    for format in ggml::FORMATS {
        let (block_cols, block_bytes) = ggml::size(format);
        for blocks in 1..=1024 / block_cols {
            let (rows, n, cols) = (18, 3, blocks * block_cols);
            let stride = cols.next_multiple_of(64);
            let file: Vec<Vec<u8>> = (0..rows)
                .map(|_| random_row(format, blocks, &mut noise))
                .collect();
            let panels = pack_rows(format, &file, cols);
            let tokens = sweep::random_tokens(n, cols, stride, &mut noise);
            let acts = Acts::Q8 {
                q: &tokens.q,
                scales: &tokens.scales,
                sums: &tokens.sums,
                stride,
            };
            let out = scalar(format, &panels, (rows, cols), acts, n);
            for t in 0..n {
                for r in 0..rows {
                    let (mut exact, mut magnitude, mut terms) = (0.0, 0.0, 0);
                    let blocks = file[r].chunks_exact(block_bytes);
                    let mut col = 0;
                    for sub in blocks.flat_map(|block| ggml::decode(format, block)) {
                        let q = &tokens.q[t * stride + col..][..sub.codes.len()];
                        let a = f64::from(tokens.scales[(t * stride + col) / BLOCK]);
                        let products = sub.codes.iter().zip(q);
                        let sum: i64 = products.map(|(c, q)| i64::from(*c) * i64::from(*q)).sum();
                        let all: i64 = q.iter().map(|q| i64::from(*q)).sum();
                        let product = f64::from(sub.scale) * a * sum as f64;
                        let min = f64::from(sub.min) * a * all as f64;
                        exact += product - min;
                        magnitude += product.abs() + min.abs();
                        terms += 1 + i32::from(ggml::has_min(format));
                        col += sub.codes.len();
                    }
                    assert_eq!(col, cols);
                    let bound = ((1.0 + U).powi(terms + 1) - 1.0) * magnitude * (1.0 + 1.0e-6);
                    let error = (f64::from(out[t * rows + r]) - exact).abs();
                    assert!(
                        error <= bound,
                        "{} {cols} columns: {error:e} beyond {bound:e}",
                        format.name()
                    );
                }
            }
        }
    }
}

/// Nothing of a GGUF is lost: panels have its size, and give back its values bit for bit.
#[test]
fn blocks_of_gguf_come_back_exactly() {
    let mut noise = Noise(10);
    for format in ggml::FORMATS {
        let (block_cols, block_bytes) = ggml::size(format);
        assert_eq!(format.gguf_block(), Some((block_cols, block_bytes)));
        for blocks in 1..=5 {
            let (rows, cols) = (21, blocks * block_cols);
            let file: Vec<Vec<u8>> = (0..rows)
                .map(|_| random_row(format, blocks, &mut noise))
                .collect();
            let panels = pack_rows(format, &file, cols);
            let size = format.panel_bytes(cols).unwrap();
            if blocks % 4 == 0 {
                assert_eq!(size, 16 * blocks * block_bytes, "{}", format.name());
            }
            let (mut out, mut direct) = (vec![0.0; cols], vec![0.0; cols]);
            for (r, row) in file.iter().enumerate() {
                format.unpack_row(&panels[r / 16 * size..][..size], r % 16, cols, &mut out);
                format.gguf_values(row, &mut direct);
                assert_eq!(out, direct, "{}", format.name());
                let blocks = row.chunks_exact(block_bytes);
                let subs = blocks.flat_map(|block| ggml::decode(format, block));
                let want = subs.flat_map(|sub| sub.values(format));
                for (col, (got, want)) in out.iter().zip(want).enumerate() {
                    assert!(
                        got.to_bits() == want.to_bits(),
                        "{} row {r} column {col}: {got:e} and not {want:e}",
                        format.name()
                    );
                }
            }
        }
    }
}

/// Quantized activations against their definition: half a step from the value, plus the roundings of the
/// reciprocal, of the product and of the scale (each at most 127 * 2^-24 steps, three of them).
#[test]
fn quantized_activations_are_within_half_a_step() {
    let mut noise = Noise(9);
    let table = by_name("scalar").unwrap();
    for len in 1..200usize {
        let x = noise.floats(len);
        let blocks = len.div_ceil(BLOCK);
        let (mut q, mut scales, mut sums) =
            (vec![1; blocks * BLOCK], vec![1.0; blocks], vec![1; blocks]);
        table.quantize_acts(&x, &mut q, &mut scales, &mut sums);
        for (b, codes) in q.chunks(BLOCK).enumerate() {
            let step = f64::from(scales[b]);
            for (i, code) in codes.iter().enumerate() {
                let want = x.get(b * BLOCK + i).map_or(0.0, |v| f64::from(*v));
                let off = (f64::from(*code) * step - want).abs();
                assert!(
                    off <= step * (0.5 + 3.0 * 127.0 * U),
                    "{code} * {step} for {want}"
                );
            }
            assert_eq!(codes.iter().map(|c| i32::from(*c)).sum::<i32>(), sums[b]);
            assert_eq!(codes.iter().map(|c| c.unsigned_abs()).max(), Some(127));
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_every_product() {
    for table in supported() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.25f32; 256];
            x[40] = bad;
            let (mut q, mut scales, mut sums) = (vec![0; 256], vec![0.0; 8], vec![0; 8]);
            table.quantize_acts(&x, &mut q, &mut scales, &mut sums);
            for format in Format::ALL {
                let panel = pack(format, &vec![0.5; 20 * 256], 20, 256);
                let acts = match format.act_kind() {
                    quern_kernels::ActKind::F32 => Acts::F32 { x: &x, stride: 256 },
                    quern_kernels::ActKind::Q8 => Acts::Q8 {
                        q: &q,
                        scales: &scales,
                        sums: &sums,
                        stride: 256,
                    },
                };
                let mut out = vec![0.0; 20];
                table.matmul(
                    format,
                    &panel,
                    256,
                    acts,
                    1,
                    Out::new(&mut out, 20, 20),
                    &mut Scratch::new(),
                );
                assert!(
                    out.iter().all(|v| !v.is_finite()),
                    "{} {}",
                    table.name(),
                    format.name()
                );
            }
        }
    }
}

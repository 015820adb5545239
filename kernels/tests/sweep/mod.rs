//! Equality of tables with a reference, which is the scalar one but for tables that are not exact, over shapes and places in memory.
//!
//! Used by the integration tests for every table that the CPU supports, and by a unit test of the crate
//! for an instance of a kernel that no table holds.

pub mod guard;

use guard::{Guarded, Place};
use quern_kernels::{ActKind, Acts, Format, Kernels, Out, Scratch, by_name};

/// A small generator: equal numbers on every machine.
pub struct Noise(pub u64);

impl Noise {
    pub fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// In -1..1, with 24 significant bits.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }
}

/// Panels with any content that a file may hold: integer codes of every value (the extremes often, they
/// are where 16-bit sums saturate), scales of every magnitude; floats of every exponent that stays finite.
pub fn random_panels(format: Format, rows: usize, cols: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = vec![0u8; format.matrix_bytes(rows, cols).unwrap()];
    match format {
        Format::F32 => fill(&mut bytes, || {
            (noise.float() * 2.0f32.powi(noise.below(12) as i32 - 6)).to_le_bytes()
        }),
        // The signs and mantissas are random, the exponents within what the activations bear.
        Format::F16 => fill(&mut bytes, || {
            ((noise.bits() & 0x83ff) as u16 | (noise.below(30) as u16) << 10).to_le_bytes()
        }),
        Format::Bf16 => fill(&mut bytes, || {
            ((noise.bits() & 0x807f) as u16 | (115 + noise.below(20) as u16) << 7).to_le_bytes()
        }),
        Format::Q8 | Format::Q4 => {
            let tile = if format == Format::Q8 { 1088 } else { 576 };
            for tile in bytes.chunks_exact_mut(tile) {
                let (scales, codes) = tile.split_at_mut(64);
                fill(scales, || {
                    ((noise.bits() & 0x83ff) as u16 | (noise.below(20) as u16) << 10).to_le_bytes()
                });
                fill(codes, || match noise.bits() {
                    r if r & 0x300 == 0 => [0x00],
                    r if r & 0x300 == 0x100 => [0xff],
                    r => [r as u8],
                });
            }
        }
        _ => {
            // From GGUF, whose blocks fill the padded columns as well.
            let (block_cols, block_bytes) = format.gguf_block().unwrap();
            let padded = format.padded_cols(cols).unwrap();
            for panel in bytes.chunks_exact_mut(format.panel_bytes(cols).unwrap()) {
                let blocks = padded / block_cols * block_bytes;
                let rows: Vec<Vec<u8>> = (0..16)
                    .map(|_| {
                        let mut row = vec![0; blocks];
                        row.chunks_exact_mut(block_bytes)
                            .for_each(|block| random_block(format, block, noise));
                        row
                    })
                    .collect();
                let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
                format.pack_panel_gguf(&rows, padded, panel);
            }
        }
    }
    bytes
}

/// A block of GGUF with any codes and small scales, the extremes often, and f16 numbers of many magnitudes.
pub fn random_block(format: Format, block: &mut [u8], noise: &mut Noise) {
    let kind = noise.below(4);
    for byte in block.iter_mut() {
        *byte = match kind {
            0 => 0xff,
            1 => 0x00,
            _ => noise.bits() as u8,
        };
    }
    let halves: &[usize] = match format {
        Format::Q4m | Format::Q5m | Format::Q4k | Format::Q5k => &[0, 2],
        Format::Q2k => &[80, 82],
        Format::Q3k => &[108],
        Format::Q6k => &[208],
        Format::Mxfp4 => {
            block[0] = 100 + noise.below(40) as u8;
            &[]
        }
        _ => &[0],
    };
    for &at in halves {
        let bits = (noise.bits() & 0x83ff) as u16 | (noise.below(20) as u16) << 10;
        block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }
}

fn fill<const N: usize>(bytes: &mut [u8], mut next: impl FnMut() -> [u8; N]) {
    for chunk in bytes.chunks_exact_mut(N) {
        chunk.copy_from_slice(&next());
    }
}

/// Activations of some tokens, in both kinds.
pub struct Tokens {
    pub stride: usize,
    pub x: Vec<f32>,
    pub q: Vec<i8>,
    pub scales: Vec<f32>,
    pub sums: Vec<i32>,
}

/// `n` tokens of `cols` columns; some blocks hold nothing but the extreme codes.
pub fn random_tokens(n: usize, cols: usize, stride: usize, noise: &mut Noise) -> Tokens {
    let blocks = n * stride / 32;
    let mut tokens = Tokens {
        stride,
        x: vec![0.0; n * stride],
        q: vec![0; n * stride],
        scales: vec![0.0; blocks],
        sums: vec![0; blocks],
    };
    for (b, x) in tokens.x.chunks_exact_mut(32).enumerate() {
        let first = b * 32 % stride;
        let inside = cols.saturating_sub(first).min(32);
        let extreme = noise.below(8) == 0;
        for x in &mut x[..inside] {
            *x = noise.float();
            if extreme {
                *x = x.signum();
            }
        }
    }
    let scalar = scalar();
    scalar.quantize_acts(
        &tokens.x,
        &mut tokens.q,
        &mut tokens.scales,
        &mut tokens.sums,
    );
    tokens
}

/// What marks an output that must not be written.
const UNTOUCHED: u32 = 0x7fc0_dead;

/// Buffers between unmapped pages.
pub struct Arena {
    weights: Guarded<u8>,
    x: Guarded<f32>,
    q: Guarded<i8>,
    scales: Guarded<f32>,
    sums: Guarded<i32>,
    out: Guarded<f32>,
    scratch: Scratch,
}

impl Arena {
    /// For matrices of up to so many rows and columns, and so many tokens.
    pub fn new(rows: usize, cols: usize, n: usize) -> Self {
        let stride = cols.next_multiple_of(256) + 64;
        Arena {
            weights: Guarded::new(Format::F32.matrix_bytes(rows, stride).unwrap()),
            x: Guarded::new(n * stride),
            q: Guarded::new(n * stride),
            scales: Guarded::new(n * stride / 32),
            sums: Guarded::new(n * stride / 32),
            out: Guarded::new(n * (rows + 32)),
            scratch: Scratch::new(),
        }
    }

    /// The product by `table` of the first `n` tokens, every buffer in the place that `at` (0, 1, 2 ...) stands
    /// for, and outputs `gap` more than `rows` apart. Asserts that nothing beyond the rows was written.
    pub fn product(
        &mut self,
        table: &Kernels,
        case: &Case<'_>,
        n: usize,
        at: usize,
        gap: usize,
    ) -> Vec<f32> {
        let Case {
            format,
            rows,
            cols,
            weights,
            tokens,
        } = *case;
        let place = |shift: usize| match at % 3 {
            0 => Place::End,
            1 => Place::Start,
            _ => Place::Offset(shift),
        };
        let stride = tokens.stride;
        let blocks = n * stride / 32;
        let acts = match format.act_kind() {
            ActKind::F32 => Acts::F32 {
                x: self.x.copy(&tokens.x[..n * stride], place(4 * (at % 16))),
                stride,
            },
            ActKind::Q8 => Acts::Q8 {
                q: self.q.copy(&tokens.q[..n * stride], place(at % 64)),
                scales: self
                    .scales
                    .copy(&tokens.scales[..blocks], place(4 * (at % 16))),
                sums: self.sums.copy(&tokens.sums[..blocks], place(4 * (at % 16))),
                stride,
            },
        };
        // Panels are 64-byte aligned in a file, and so they are in each place.
        let weights = self.weights.copy(weights, place(64));
        let apart = rows + gap;
        let out = self
            .out
            .slice((n - 1) * apart + rows, place(4 * (at / 3 % 16)));
        out.fill(f32::from_bits(UNTOUCHED));
        table.matmul(
            format,
            weights,
            cols,
            acts,
            n,
            Out::new(out, apart, rows),
            &mut self.scratch,
        );
        let mut got = Vec::with_capacity(n * rows);
        for token in out.chunks(apart) {
            got.extend_from_slice(&token[..rows]);
            assert!(
                token[rows..].iter().all(|v| v.to_bits() == UNTOUCHED),
                "{} wrote beyond row {rows}",
                table.name()
            );
        }
        got
    }
}

/// One product.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub weights: &'a [u8],
    pub tokens: &'a Tokens,
}

/// What defines every result of an exact table.
pub fn scalar() -> &'static Kernels {
    by_name("scalar").unwrap()
}

/// Asserts that two results have the same bits.
pub fn assert_same(table: &Kernels, case: &Case<'_>, n: usize, want: &[f32], got: &[f32]) {
    assert_eq!(want.len(), got.len());
    for (i, (want, got)) in want.iter().zip(got).enumerate() {
        assert!(
            want.to_bits() == got.to_bits(),
            "{} {} {} x {}, {n} tokens: token {} row {}: {got:e} and not {want:e}",
            table.name(),
            case.format.name(),
            case.rows,
            case.cols,
            i / case.rows,
            i % case.rows,
        );
    }
}

/// The smallest distance between tokens.
fn stride(format: Format, cols: usize) -> usize {
    format.padded_cols(cols).unwrap().next_multiple_of(64)
}

/// Every length of K from 1 to 1024, with up to 40 rows and the numbers of tokens of decoding and small batches.
pub fn lengths(reference: &Kernels, tables: &[&Kernels], format: Format) {
    const COUNTS: [usize; 8] = [1, 2, 3, 4, 5, 7, 8, 16];
    let mut noise = Noise(1 + u64::from(format.code()));
    let mut arena = Arena::new(48, 1024, 16);
    for cols in 1..=1024usize {
        let rows = 1 + cols * 7 % 40;
        let stride = stride(format, cols) + cols % 2 * 64;
        let weights = random_panels(format, rows, cols, &mut noise);
        let tokens = random_tokens(16, cols, stride, &mut noise);
        let case = Case {
            format,
            rows,
            cols,
            weights: &weights,
            tokens: &tokens,
        };
        // What the reference gives for a token does not depend on the number of tokens.
        let want = arena.product(reference, &case, 16, 0, 0);
        for (i, n) in COUNTS.into_iter().enumerate() {
            for table in tables {
                let at = cols + i * 5;
                let got = arena.product(table, &case, n, at, cols % 3);
                assert_same(table, &case, n, &want[..n * rows], &got);
            }
        }
    }
}

/// Numbers of tokens and panels with every remainder of every tile shape.
pub fn shapes(reference: &Kernels, tables: &[&Kernels], format: Format) {
    let mut noise = Noise(100 + u64::from(format.code()));
    let mut arena = Arena::new(17 * 16, 200, 70);
    let mut at = 0;
    for (rows, cols) in [
        (1, 130),
        (16, 64),
        (31, 65),
        (48, 96),
        (100, 40),
        (112, 33),
        (250, 70),
        (272, 1),
    ] {
        let stride = stride(format, cols) + rows % 2 * 64;
        let weights = random_panels(format, rows, cols, &mut noise);
        let tokens = random_tokens(70, cols, stride, &mut noise);
        let case = Case {
            format,
            rows,
            cols,
            weights: &weights,
            tokens: &tokens,
        };
        let want = arena.product(reference, &case, 70, 0, 0);
        for n in (1..=37).chain([47, 48, 49, 63, 64, 65, 70]) {
            for table in tables {
                at += 1;
                let got = arena.product(table, &case, n, at, at % 2);
                assert_same(table, &case, n, &want[..n * rows], &got);
            }
        }
    }
}

/// Products so long and with so many tokens that K and the tokens are cut into chunks.
pub fn chunks(reference: &Kernels, tables: &[&Kernels], format: Format) {
    let mut noise = Noise(200 + u64::from(format.code()));
    let mut arena = Arena::new(50, 3000, 300);
    for (rows, cols, n) in [
        (35, 3000, 33),
        (50, 1024, 300),
        (18, 2047, 64),
        (40, 1500, 100),
    ] {
        let stride = stride(format, cols) + rows % 2 * 64;
        let weights = random_panels(format, rows, cols, &mut noise);
        let tokens = random_tokens(n, cols, stride, &mut noise);
        let case = Case {
            format,
            rows,
            cols,
            weights: &weights,
            tokens: &tokens,
        };
        let want = arena.product(reference, &case, n, 0, 0);
        for (at, table) in tables.iter().enumerate() {
            let got = arena.product(table, &case, n, at, at);
            assert_same(table, &case, n, &want, &got);
        }
    }
}

/// Quantized activations: lengths with every tail, misalignments, magnitudes from subnormal to infinite.
pub fn quantization(tables: &[&Kernels]) {
    let scalar = scalar();
    let mut noise = Noise(300);
    let mut arena = Arena::new(16, 1024, 1);
    for len in 0..=1024usize {
        let padded = len.next_multiple_of(32) + len % 3 * 32;
        let mut x = noise.floats(len);
        let magnitude = 2.0f32.powi(noise.below(276) as i32 - 149);
        x.iter_mut().for_each(|v| *v *= magnitude);
        if len > 0 {
            let special = [
                0.0,
                -0.0,
                f32::MAX,
                1.0e-40,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::NAN,
                2.0f32.powi(-100),
            ];
            let at = noise.below(len);
            match noise.below(12) {
                i if i < special.len() => x[at] = special[i],
                // Ties: with an amax of 127 the codes are the values themselves, half-way ones rounded to even.
                8 => x.iter_mut().enumerate().for_each(|(i, v)| {
                    *v = if i % 32 == 0 {
                        127.0
                    } else {
                        i as f32 % 64.0 - 31.5
                    }
                }),
                _ => {}
            }
        }
        let mut want = (
            vec![1i8; padded],
            vec![1.0f32; padded / 32],
            vec![1i32; padded / 32],
        );
        scalar.quantize_acts(&x, &mut want.0, &mut want.1, &mut want.2);
        for (i, table) in tables.iter().enumerate() {
            for place in [Place::Start, Place::End, Place::Offset(4 * (len % 16))] {
                let bytes = match place {
                    Place::Offset(_) => Place::Offset((len + i) % 64),
                    other => other,
                };
                let x = arena.x.copy(&x, place);
                let q = arena.q.slice(padded, bytes);
                q.fill(77);
                let scales = arena.scales.slice(padded / 32, place);
                let sums = arena.sums.slice(padded / 32, place);
                table.quantize_acts(x, q, scales, sums);
                assert_eq!(q, want.0, "{} codes of {len}", table.name());
                assert_eq!(sums, want.2, "{} sums of {len}", table.name());
                let bits = |scales: &[f32]| scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    bits(scales),
                    bits(&want.1),
                    "{} scales of {len}",
                    table.name()
                );
            }
        }
    }
}

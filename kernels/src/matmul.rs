//! The product of a packed weight matrix with the activations of some tokens, and the quantization
//! of those activations.
//!
//! `out[t][r] = sum over k of W[r][k] * a[t][k]`, one f32 accumulator per output, starting at +0,
//! ascending k, fused multiply-add, never split along K. For the integer formats the terms are blocks
//! of 32 columns: `acc = fma(w_scale * a_scale, (f32) integer_sum, acc)`, where the product of the scales is
//! rounded to f32 and the integer sum is exact (at most 32 * 128 * 127 < 2^24, so its conversion is, too).
//! The padding of K takes part in both: it adds `0 * 0`.

use std::marker::PhantomData;

#[allow(unused_imports)] // named in the documentation
use crate::K_ALIGN;
use crate::gemm::Parked;
use crate::{ActKind, BLOCK, Format, Kernels, PANEL_ROWS};

/// Activations of some tokens, row after row; each row is padded with zeros to `stride` columns.
#[derive(Clone, Copy, Debug)]
pub enum Acts<'a> {
    /// For the float formats.
    F32 {
        /// `tokens * stride` values.
        x: &'a [f32],
        /// Padded columns: a multiple of 64; [`K_ALIGN`] suits every format.
        stride: usize,
    },
    /// For the integer formats, as [`Kernels::quantize_acts`] writes them.
    Q8 {
        /// `tokens * stride` codes in -127..=127.
        q: &'a [i8],
        /// One scale per block of 32: `tokens * stride / 32`.
        scales: &'a [f32],
        /// The sum of the codes of each block: `tokens * stride / 32`.
        sums: &'a [i32],
        /// Padded columns: a multiple of 64; [`K_ALIGN`] suits every format.
        stride: usize,
    },
}

/// Where results go: row `r` of token `t` is at `t * stride + r`.
pub struct Out<'a> {
    data: *mut f32,
    stride: usize,
    rows: usize,
    tokens: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: an `Out` is an exclusive borrow of the elements it may write (`new` holds the slice,
// `from_raw` demands that they are disjoint from those of any other), so it may move to another thread.
unsafe impl Send for Out<'_> {}

impl<'a> Out<'a> {
    /// A view of `rows` results per token, `stride` apart.
    ///
    /// # Panics
    /// If `rows > stride`, or if `data` does not hold even one token.
    pub fn new(data: &'a mut [f32], stride: usize, rows: usize) -> Self {
        assert!(
            rows > 0 && rows <= stride && rows <= data.len(),
            "out: {rows} rows, stride {stride}, {} values",
            data.len()
        );
        let tokens = (data.len() - rows) / stride + 1;
        Out {
            data: data.as_mut_ptr(),
            stride,
            rows,
            tokens,
            life: PhantomData,
        }
    }

    /// The same over raw memory, for threads that write disjoint columns of one buffer.
    ///
    /// # Safety
    /// For `t < tokens` and `r < rows`, `data + t * stride + r` must be valid for writes for `'a`, and
    /// nothing else may read or write those elements while this view lives.
    pub unsafe fn from_raw(data: *mut f32, stride: usize, rows: usize, tokens: usize) -> Self {
        Out {
            data,
            stride,
            rows,
            tokens,
            life: PhantomData,
        }
    }

    /// Rows per token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements between tokens.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The address of one result; only those of `tokens` and `rows` may be written.
    pub(crate) fn at(&self, token: usize, row: usize) -> *mut f32 {
        self.data.wrapping_add(token * self.stride + row)
    }

    /// Writes one result.
    #[inline]
    pub(crate) fn set(&mut self, token: usize, row: usize, value: f32) {
        assert!(token < self.tokens && row < self.rows);
        // SAFETY: within the bounds just checked the constructor's promise covers the element.
        unsafe { *self.data.add(token * self.stride + row) = value }
    }
}

/// Reusable workspace of one thread. It grows on first use and is not allocated again.
#[derive(Default)]
pub struct Scratch {
    /// Sums of codes per token and 16 columns.
    half_sums: Vec<i32>,
    /// `-zero_point * sum` per token and sub-block of an integer product.
    offsets: Vec<i32>,
    /// `scale * sum`, the same.
    sums: Vec<f32>,
    /// Decoded panels, or activations in another type.
    strip: Vec<Parked>,
    /// Accumulators between chunks of K.
    parking: Vec<Parked>,
}

impl Scratch {
    /// Empty; the first product sizes it.
    pub fn new() -> Self {
        Self::default()
    }
}

/// One product with float weights; every slice is already checked against the counts.
pub(crate) struct FloatJob<'a> {
    /// `panels * panel_bytes` bytes.
    pub weights: &'a [u8],
    pub panel_bytes: usize,
    pub panels: usize,
    /// Columns, padded as in the panel.
    pub cols: usize,
    pub x: &'a [f32],
    pub stride: usize,
    pub n: usize,
    pub out: Out<'a>,
    pub parking: &'a mut Vec<Parked>,
    /// For activations as a kernel wants them.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub strip: &'a mut Vec<Parked>,
}

/// One product with integer weights; every slice is already checked against the counts.
pub(crate) struct IntJob<'a> {
    /// `panels * panel_bytes` bytes.
    pub weights: &'a [u8],
    pub panel_bytes: usize,
    pub panels: usize,
    /// Blocks of 32 columns, padding included: whole tiles of the format.
    pub blocks: usize,
    pub q: &'a [i8],
    pub scales: &'a [f32],
    /// `-zero_point * sum` of each sub-block of the activations, laid out as `scales`. Empty for formats with minimums.
    pub offsets: &'a [i32],
    /// For those, `scale * sum`, the sum converted exactly and the product rounded.
    pub sums: &'a [f32],
    pub stride: usize,
    pub n: usize,
    pub out: Out<'a>,
    pub parking: &'a mut Vec<Parked>,
    pub strip: &'a mut Vec<Parked>,
}

/// Values, codes, scales, sums: see [`Kernels::quantize_acts`].
pub(crate) type Quantize = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i32]);

/// Codes, sums of 16 of them each.
pub(crate) type HalfSums = unsafe fn(&[i8], &mut [i32]);

/// The matmul side of a table. The functions are unsafe because the CPU must have their features.
pub(crate) struct MatmulKernels {
    pub quantize: Quantize,
    pub half_sums: HalfSums,
    pub f32: unsafe fn(FloatJob<'_>),
    pub f16: unsafe fn(FloatJob<'_>),
    pub bf16: unsafe fn(FloatJob<'_>),
    pub q8: unsafe fn(IntJob<'_>),
    pub q4: unsafe fn(IntJob<'_>),
    pub q4m: unsafe fn(IntJob<'_>),
    pub q5: unsafe fn(IntJob<'_>),
    pub q5m: unsafe fn(IntJob<'_>),
    pub q2k: unsafe fn(IntJob<'_>),
    pub q3k: unsafe fn(IntJob<'_>),
    pub q4k: unsafe fn(IntJob<'_>),
    pub q5k: unsafe fn(IntJob<'_>),
    pub q6k: unsafe fn(IntJob<'_>),
    pub iq4nl: unsafe fn(IntJob<'_>),
    pub iq4xs: unsafe fn(IntJob<'_>),
    pub mxfp4: unsafe fn(IntJob<'_>),
}

impl Kernels {
    /// Quantizes one row of activations to int8, per block of 32.
    ///
    /// `x` may be shorter than `q`; what is missing counts as zero. Per block: `amax` is the largest
    /// magnitude, `scale = amax / 127`, `q = round_half_even(x * (127 / amax))` in -127..=127, and the sum of
    /// the codes. A block whose `amax` is below 2^-100 becomes zero (its reciprocal could overflow), and
    /// one with a NaN or an infinity gets zero codes and a NaN scale, so that every product shows it.
    ///
    /// # Panics
    /// If `q.len()` is no multiple of 32, `x` is longer than `q`, or `scales` and `sums` do not hold
    /// one entry per block.
    pub fn quantize_acts(&self, x: &[f32], q: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        assert!(
            q.len().is_multiple_of(BLOCK) && x.len() <= q.len(),
            "quantize: {} values into {} codes",
            x.len(),
            q.len()
        );
        assert!(
            scales.len() == q.len() / BLOCK && sums.len() == q.len() / BLOCK,
            "quantize: one scale and sum per block"
        );
        // SAFETY: detection handed this table out, so the CPU has its features; lengths are checked above.
        unsafe { (self.matmul.quantize)(x, q, scales, sums) }
    }

    /// `out[t][r] = sum over k of W[r][k] * a[t][k]` for the consecutive panels in `weights` and the
    /// first `n` tokens of `acts`. Row 0 of `out` is row 0 of the first panel; only rows below `out.rows()`
    /// are written. Ranges of a multiple of 8 panels run fastest.
    ///
    /// # Panics
    /// If `acts` are not of the kind that `format` takes ([`Format::act_kind`]) or a size does not
    /// fit: `weights` must be whole panels of `cols` columns, `out.rows()` must reach into the last of them
    /// and not beyond, `stride` must be a multiple of 64 and cover `cols` as padded by the format, and there must be `n` tokens.
    pub fn matmul(
        &self,
        format: Format,
        weights: &[u8],
        cols: usize,
        acts: Acts<'_>,
        n: usize,
        out: Out<'_>,
        scratch: &mut Scratch,
    ) {
        if n == 0 {
            return;
        }
        let panel_bytes = format
            .panel_bytes(cols)
            .filter(|&bytes| bytes > 0)
            .expect("matmul: columns");
        let padded = format.padded_cols(cols).expect("matmul: columns");
        assert!(
            weights.len().is_multiple_of(panel_bytes),
            "matmul: {} bytes are not whole panels of {panel_bytes}",
            weights.len()
        );
        let panels = weights.len() / panel_bytes;
        assert!(
            panels == out.rows.div_ceil(PANEL_ROWS)
                && out.tokens >= n
                && (n == 1 || out.rows <= out.stride),
            "matmul: {panels} panels and {n} tokens into {} rows of {} tokens",
            out.rows,
            out.tokens
        );
        match acts {
            Acts::F32 { x, stride } => {
                assert!(
                    format.act_kind() == ActKind::F32,
                    "matmul: {} weights do not take f32 activations",
                    format.name()
                );
                check_acts(stride, padded, n, x.len());
                let job = FloatJob {
                    weights,
                    panel_bytes,
                    panels,
                    cols: padded,
                    x,
                    stride,
                    n,
                    out,
                    parking: &mut scratch.parking,
                    strip: &mut scratch.strip,
                };
                let kernel = match format {
                    Format::F32 => self.matmul.f32,
                    Format::F16 => self.matmul.f16,
                    _ => self.matmul.bf16,
                };
                // SAFETY: detection handed this table out, so the CPU has its features; the job is checked above.
                unsafe { kernel(job) }
            }
            Acts::Q8 {
                q,
                scales,
                sums,
                stride,
            } => {
                assert!(
                    format.act_kind() == ActKind::Q8,
                    "matmul: {} weights do not take int8 activations",
                    format.name()
                );
                check_acts(stride, padded, n, q.len());
                let all = n * (stride / BLOCK);
                assert!(
                    scales.len() >= all && sums.len() >= all,
                    "matmul: one scale and sum per block"
                );
                let kind = format.int_kind();
                let sums = match kind.sub {
                    BLOCK => &sums[..all],
                    _ => {
                        let codes = &q[..n * stride];
                        grow(&mut scratch.half_sums, codes.len() / kind.sub);
                        let sums = &mut scratch.half_sums[..codes.len() / kind.sub];
                        // SAFETY: detection handed this table out; there is a sum for every 16 codes.
                        unsafe { (self.matmul.half_sums)(codes, sums) };
                        &*sums
                    }
                };
                scratch.offsets.clear();
                scratch.sums.clear();
                if kind.mins {
                    for (scale, sums) in scales[..all].iter().zip(sums.chunks(BLOCK / kind.sub)) {
                        scratch
                            .sums
                            .extend(sums.iter().map(|sum| scale * *sum as f32));
                    }
                } else {
                    let offset = |sum: &i32| sum.wrapping_mul(-kind.zero);
                    scratch.offsets.extend(sums.iter().map(offset));
                }
                let m = &self.matmul;
                let kernel = match format {
                    Format::Q4 => m.q4,
                    Format::Q4m => m.q4m,
                    Format::Q5 => m.q5,
                    Format::Q5m => m.q5m,
                    Format::Q2k => m.q2k,
                    Format::Q3k => m.q3k,
                    Format::Q4k => m.q4k,
                    Format::Q5k => m.q5k,
                    Format::Q6k => m.q6k,
                    Format::Iq4nl => m.iq4nl,
                    Format::Iq4xs => m.iq4xs,
                    Format::Mxfp4 => m.mxfp4,
                    Format::Q8 | Format::F32 | Format::F16 | Format::Bf16 => m.q8,
                };
                let job = IntJob {
                    weights,
                    panel_bytes,
                    panels,
                    blocks: padded / BLOCK,
                    q,
                    scales,
                    offsets: &scratch.offsets,
                    sums: &scratch.sums,
                    stride,
                    n,
                    out,
                    parking: &mut scratch.parking,
                    strip: &mut scratch.strip,
                };
                // SAFETY: detection handed this table out, so the CPU has its features; the job is checked above.
                unsafe { kernel(job) }
            }
        }
    }
}

fn check_acts(stride: usize, padded: usize, n: usize, len: usize) {
    assert!(
        stride.is_multiple_of(2 * BLOCK)
            && stride >= padded
            && n.checked_mul(stride).is_some_and(|all| all <= len),
        "matmul: {n} tokens of stride {stride} for {padded} columns, {len} values"
    );
}

/// Makes a buffer at least so long.
fn grow(buffer: &mut Vec<i32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}

/// Sums of 16 codes each; defines [`MatmulKernels::half_sums`].
pub(crate) fn half_sums_scalar(q: &[i8], sums: &mut [i32]) {
    for (sum, q) in sums.iter_mut().zip(q.chunks_exact(16)) {
        *sum = q.iter().map(|q| i32::from(*q)).sum();
    }
}

/// Blocks with a smaller largest magnitude become zero: `127 / amax` and `amax / 127` stay normal numbers.
pub(crate) const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// The scalar [`Kernels::quantize_acts`], which defines it.
pub(crate) fn quantize_scalar(x: &[f32], q: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    for (b, codes) in q.chunks_exact_mut(BLOCK).enumerate() {
        let start = (b * BLOCK).min(x.len());
        let x = &x[start..(start + BLOCK).min(x.len())];
        // Magnitudes order like their bits, with infinity and NaN on top.
        let amax = f32::from_bits(
            x.iter()
                .map(|v| v.to_bits() & 0x7fff_ffff)
                .max()
                .unwrap_or(0),
        );
        codes.fill(0);
        sums[b] = 0;
        scales[b] = match amax {
            _ if !amax.is_finite() => f32::NAN,
            _ if amax < TINY => 0.0,
            _ => {
                let inverse = 127.0 / amax;
                for (code, v) in codes.iter_mut().zip(x) {
                    *code = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
                    sums[b] += i32::from(*code);
                }
                amax / 127.0
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{Isa, supported};

    thread_local! {
        static RAN: Cell<&'static str> = const { Cell::new("") };
    }

    /// A table whose kernels do nothing but leave their name.
    static WITNESS: Kernels = Kernels {
        isa: Isa::Scalar,
        exact: true,
        matmul: MatmulKernels {
            quantize: |_, _, _, _| RAN.set("quantize"),
            half_sums: half_sums_scalar,
            f32: |_| RAN.set("f32"),
            f16: |_| RAN.set("f16"),
            bf16: |_| RAN.set("bf16"),
            q8: |_| RAN.set("q8"),
            q4: |_| RAN.set("q4"),
            q4m: |_| RAN.set("q4m"),
            q5: |_| RAN.set("q5"),
            q5m: |_| RAN.set("q5m"),
            q2k: |_| RAN.set("q2k"),
            q3k: |_| RAN.set("q3k"),
            q4k: |_| RAN.set("q4k"),
            q5k: |_| RAN.set("q5k"),
            q6k: |_| RAN.set("q6k"),
            iq4nl: |_| RAN.set("iq4nl"),
            iq4xs: |_| RAN.set("iq4xs"),
            mxfp4: |_| RAN.set("mxfp4"),
        },
        vector: crate::scalar::TABLE.vector,
    };

    #[test]
    fn each_format_runs_the_kernel_of_its_table() {
        let (x, q, scales, sums) = ([0.0; 64], [0i8; 256], [0.0; 8], [0; 8]);
        for format in Format::ALL {
            let weights = vec![0; format.panel_bytes(64).unwrap()];
            let acts = match format.act_kind() {
                ActKind::F32 => Acts::F32 { x: &x, stride: 64 },
                ActKind::Q8 => Acts::Q8 {
                    q: &q,
                    scales: &scales,
                    sums: &sums,
                    stride: 256,
                },
            };
            let mut out = [0.0; 16];
            WITNESS.matmul(
                format,
                &weights,
                64,
                acts,
                1,
                Out::new(&mut out, 16, 16),
                &mut Scratch::new(),
            );
            assert_eq!(RAN.get(), format.name());
        }
        WITNESS.quantize_acts(&[0.0; 32], &mut [0; 32], &mut [0.0], &mut [0]);
        assert_eq!(RAN.get(), "quantize");
    }

    /// With the test above and the names that tables are found by: what is chosen is what runs.
    #[test]
    fn tables_hold_kernels_of_their_own() {
        let kernels = |table: &Kernels| {
            let m = &table.matmul;
            [
                m.f32 as usize,
                m.f16 as usize,
                m.bf16 as usize,
                m.q8 as usize,
                m.q4 as usize,
                m.quantize as usize,
                m.half_sums as usize,
                m.q4m as usize,
                m.q5 as usize,
                m.q5m as usize,
                m.q2k as usize,
                m.q3k as usize,
                m.q4k as usize,
                m.q5k as usize,
                m.q6k as usize,
                m.iq4nl as usize,
                m.iq4xs as usize,
                m.mxfp4 as usize,
            ]
        };
        for table in supported() {
            let (own, fast) = (kernels(table), kernels(table.fast_math()));
            let other: Vec<usize> = (0..own.len()).filter(|i| own[*i] != fast[*i]).collect();
            // bf16 alone.
            let expected: &[usize] = if table.fast_math().exact() { &[] } else { &[2] };
            assert_eq!(other, expected, "{table:?}");
        }
        let family = |isa: Isa| match isa {
            Isa::AvxVnni => Isa::Avx2,
            Isa::NeonDot | Isa::NeonI8mm => Isa::Neon,
            isa => isa,
        };
        let tables: Vec<&Kernels> = supported().collect();
        for (i, a) in tables.iter().enumerate() {
            for b in &tables[..i] {
                for (slot, (a_fn, b_fn)) in kernels(a).into_iter().zip(kernels(b)).enumerate() {
                    // What adds integer dot products shares the rest with the table that it builds on.
                    let shared =
                        family(a.isa()) == family(b.isa()) && [0, 1, 2, 5, 6].contains(&slot);
                    assert_eq!(a_fn == b_fn, shared, "slot {slot} of {a:?} and {b:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "q4 weights do not take f32 activations")]
    fn the_wrong_kind_of_activations_is_refused() {
        let weights = vec![0; Format::Q4.panel_bytes(64).unwrap()];
        let acts = Acts::F32 {
            x: &[0.0; 64],
            stride: 64,
        };
        crate::best().matmul(
            Format::Q4,
            &weights,
            64,
            acts,
            1,
            Out::new(&mut [0.0; 16], 16, 16),
            &mut Scratch::new(),
        );
    }

    #[test]
    #[should_panic(expected = "3 tokens of stride 64")]
    fn missing_tokens_are_refused() {
        let weights = vec![0; Format::F32.panel_bytes(64).unwrap()];
        let acts = Acts::F32 {
            x: &[0.0; 128],
            stride: 64,
        };
        crate::best().matmul(
            Format::F32,
            &weights,
            64,
            acts,
            3,
            Out::new(&mut [0.0; 48], 16, 16),
            &mut Scratch::new(),
        );
    }

    #[test]
    #[should_panic(expected = "2 panels and 1 tokens into 16 rows")]
    fn an_output_that_is_too_small_is_refused() {
        let weights = vec![0; 2 * Format::F32.panel_bytes(64).unwrap()];
        let acts = Acts::F32 {
            x: &[0.0; 64],
            stride: 64,
        };
        crate::best().matmul(
            Format::F32,
            &weights,
            64,
            acts,
            1,
            Out::new(&mut [0.0; 16], 16, 16),
            &mut Scratch::new(),
        );
    }
}

//! Loops that do nothing but one thing: the rates that all other kernels are measured against.
//!
//! Arithmetic stays in registers: independent chains, more than the latency of an instruction times how many begin per cycle, so that only the
//! execution units bound it. Reading uses the widest loads, in four streams, and combines what it reads by xor, which no multiplication competes with.

use crate::{ActKind, Format, Isa, Kernels};

/// A kind of arithmetic whose peak can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peak {
    /// Products of 8-bit integers, summed exactly in 32 bits, by the instructions that the integer kernels use.
    Int8,
    /// Products of bfloat16, summed in f32 by an instruction for that: faster than what keeps the same bits everywhere, which is f32. See
    /// [`Kernels::fast_math`].
    Bf16,
    /// Fused multiply-adds of f32.
    F32,
}

impl Peak {
    /// All kinds.
    pub const ALL: [Peak; 3] = [Peak::Int8, Peak::Bf16, Peak::F32];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Peak::Int8 => "int8",
            Peak::Bf16 => "bf16",
            Peak::F32 => "f32",
        }
    }
}

/// Independent accumulators: two instructions a cycle of six cycles each.
const CHAINS: usize = 12;

/// Bytes that [`Kernels::read`] takes at a time.
pub const READ_LINE: usize = 64;

impl Kernels {
    /// The arithmetic of products with weights of this format.
    pub fn arithmetic(&self, format: Format) -> Peak {
        match format.act_kind() {
            ActKind::Q8 => Peak::Int8,
            ActKind::F32 if format == Format::Bf16 && !self.exact() => Peak::Bf16,
            ActKind::F32 => Peak::F32,
        }
    }

    /// Runs a loop of `rounds` rounds and returns how many multiply-adds that were; none where the instruction set has nothing of that kind (the
    /// scalar table has no peak worth measuring), or none is written.
    pub fn peak(&self, kind: Peak, rounds: usize) -> Option<usize> {
        let lanes = match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::avx512(kind, rounds)?,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if kind == Peak::Int8 => {
                // SAFETY: detection handed this table out, so the CPU has AVX2 and AVX-VNNI.
                unsafe { x86::int8_vnni(rounds) };
                32
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => x86::avx2(kind, rounds)?,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => arm::neon(self.isa, kind, rounds)?,
            _ => return None,
        };
        Some(lanes * CHAINS * rounds)
    }

    /// Reads all bytes and returns the xor of their little-endian 64-bit words: the same for every table.
    ///
    /// # Panics
    /// If there is not a whole number of lines of [`READ_LINE`] bytes.
    pub fn read(&self, bytes: &[u8]) -> u64 {
        assert!(
            bytes.len().is_multiple_of(READ_LINE),
            "read: {} bytes are no whole number of lines",
            bytes.len()
        );
        let lines = bytes.as_chunks::<READ_LINE>().0;
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: detection handed this table out, so the CPU has AVX-512 F.
            Isa::Avx512 => unsafe { x86::read_avx512(lines) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the same of AVX2.
            Isa::Avx2 | Isa::AvxVnni => unsafe { x86::read_avx2(lines) },
            _ => read_scalar(lines),
        }
    }
}

/// A line of bytes.
type Line = [u8; READ_LINE];

/// The lines in four equal streams, and those that are left over.
fn streams(lines: &[Line]) -> ([&[Line]; 4], &[Line]) {
    let part = lines.len() / 4;
    let (ab, rest) = lines.split_at(2 * part);
    let (cd, tail) = rest.split_at(2 * part);
    let ((a, b), (c, d)) = (ab.split_at(part), cd.split_at(part));
    ([a, b, c, d], tail)
}

/// The xor of the words of a line.
fn fold(line: &Line) -> u64 {
    let words = line.as_chunks::<8>().0.iter();
    words.fold(0, |x, word| x ^ u64::from_le_bytes(*word))
}

fn read_scalar(lines: &[Line]) -> u64 {
    let ([a, b, c, d], tail) = streams(lines);
    let mut lanes = [0u64; 8];
    for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            let word = |line: &Line| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&line[8 * i..8 * i + 8]);
                u64::from_le_bytes(bytes)
            };
            *lane ^= (word(a) ^ word(b)) ^ (word(c) ^ word(d));
        }
    }
    let rest = tail.iter().fold(0, |x, line| x ^ fold(line));
    lanes.iter().fold(rest, |x, lane| x ^ lane)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, Line, Peak, fold, streams};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Multiply-adds per instruction of the kind, after running its loop; the caller has an AVX-512 table.
    pub(super) fn avx512(kind: Peak, rounds: usize) -> Option<usize> {
        match kind {
            Peak::Int8 => {
                // SAFETY: an AVX-512 table means F and VNNI.
                unsafe { int8_512(rounds) };
                Some(64)
            }
            Peak::F32 => {
                // SAFETY: an AVX-512 table means F.
                unsafe { f32_512(rounds) };
                Some(16)
            }
            Peak::Bf16 => {
                if !is_x86_feature_detected!("avx512bf16") {
                    return None;
                }
                // SAFETY: just asked.
                unsafe { bf16_512(rounds) };
                Some(32)
            }
        }
    }

    /// The same for a table of AVX2.
    pub(super) fn avx2(kind: Peak, rounds: usize) -> Option<usize> {
        match kind {
            Peak::Int8 => {
                // SAFETY: an AVX2 table means AVX2 and FMA.
                unsafe { int8_256(rounds) };
                Some(32)
            }
            Peak::F32 => {
                // SAFETY: the same.
                unsafe { f32_256(rounds) };
                Some(8)
            }
            Peak::Bf16 => None,
        }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_512(rounds: usize) {
        let (a, b) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(-2)));
        let mut acc = [a; CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f")]
    fn f32_512(rounds: usize) {
        let (a, b) = black_box((_mm512_set1_ps(0.5), _mm512_set1_ps(0.25)));
        let mut acc = [a; CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(a, b, *acc);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_512(rounds: usize) {
        let ones = _mm512_set1_ps(1.0);
        let (a, b) = black_box((
            _mm512_cvtne2ps_pbh(ones, ones),
            _mm512_cvtne2ps_pbh(ones, ones),
        ));
        let mut acc = [ones; CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm512_dpbf16_ps(*acc, a, b);
            }
        }
        black_box(acc);
    }

    /// Without an instruction for dot products: pairs into 16 bits, pairs of those into 32, a sum.
    #[target_feature(enable = "avx2")]
    fn int8_256(rounds: usize) {
        let (a, b) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(-2)));
        let ones = black_box(_mm256_set1_epi16(1));
        let mut acc = [a; CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                // The products must not be the same every time, or a compiler computes them once.
                let pairs = _mm256_maddubs_epi16(a, _mm256_xor_si256(*acc, b));
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn int8_vnni(rounds: usize) {
        let (a, b) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(-2)));
        let mut acc = [a; CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm256_dpbusd_avx_epi32(*acc, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx2,fma")]
    fn f32_256(rounds: usize) {
        let (a, b) = black_box((_mm256_set1_ps(0.5), _mm256_set1_ps(0.25)));
        let mut acc = [a; CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(a, b, *acc);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_avx512(lines: &[Line]) -> u64 {
        let ([a, b, c, d], tail) = streams(lines);
        // SAFETY: 64 readable bytes; no alignment is needed.
        let load = |line: &Line| unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
        let mut acc = [_mm512_setzero_si512(); 4];
        for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
            for (acc, line) in acc.iter_mut().zip([a, b, c, d]) {
                *acc = _mm512_xor_si512(*acc, load(line));
            }
        }
        let all = _mm512_xor_si512(
            _mm512_xor_si512(acc[0], acc[1]),
            _mm512_xor_si512(acc[2], acc[3]),
        );
        let mut line = [0; 64];
        // SAFETY: 64 writable bytes; no alignment is needed.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), all) };
        tail.iter().fold(fold(&line), |x, line| x ^ fold(line))
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(lines: &[Line]) -> u64 {
        let ([a, b, c, d], tail) = streams(lines);
        let mut acc = [_mm256_setzero_si256(); 8];
        for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
            for (acc, line) in acc.as_chunks_mut::<2>().0.iter_mut().zip([a, b, c, d]) {
                for (half, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: each half of a line is 32 readable bytes; no alignment is needed.
                    let bytes = unsafe { _mm256_loadu_si256(line.as_ptr().add(32 * half).cast()) };
                    *acc = _mm256_xor_si256(*acc, bytes);
                }
            }
        }
        let all = acc
            .into_iter()
            .fold(_mm256_setzero_si256(), |x, y| _mm256_xor_si256(x, y));
        let mut line = [0; 64];
        // SAFETY: 32 writable bytes of 64; no alignment is needed.
        unsafe { _mm256_storeu_si256(line.as_mut_ptr().cast(), all) };
        tail.iter().fold(fold(&line), |x, line| x ^ fold(line))
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{CHAINS, Peak};
    use crate::Isa;
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::hint::black_box;

    /// Multiply-adds per step of a chain of the kind, after running its loop; the caller has that table, one of NEON's.
    pub(super) fn neon(isa: Isa, kind: Peak, rounds: usize) -> Option<usize> {
        let (run, macs): (unsafe fn(usize), usize) = match (kind, isa) {
            (Peak::Int8, Isa::NeonI8mm) => (int8_i8mm, 32),
            (Peak::Int8, Isa::NeonDot) => (int8_dot, 16),
            (Peak::Int8, _) => (int8, 16),
            (Peak::F32, _) => (f32, 4),
            (Peak::Bf16, _) => return None,
        };
        // SAFETY: detection handed the table out, so the CPU has its features.
        unsafe { run(rounds) };
        Some(macs)
    }

    #[target_feature(enable = "neon")]
    fn f32(rounds: usize) {
        let (a, b) = black_box((vdupq_n_f32(0.5), vdupq_n_f32(0.25)));
        let mut acc = [a; CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = vfmaq_f32(*acc, a, b);
            }
        }
        black_box(acc);
    }

    /// Without an instruction for dot products: products of 16 bits, pairs of them added into 32.
    #[target_feature(enable = "neon")]
    fn int8(rounds: usize) {
        let (a, b) = black_box((vdupq_n_s8(3), vdupq_n_s8(-2)));
        let mut acc = [vdupq_n_s32(0); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                // The products must not be the same every time, or a compiler computes them once.
                let b = veorq_s8(b, vreinterpretq_s8_s32(*acc));
                let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
                *acc = vpadalq_s16(vpadalq_s16(*acc, low), vmull_high_s8(a, b));
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "neon,dotprod")]
    fn int8_dot(rounds: usize) {
        let (a, b) = black_box((vdupq_n_s8(3), vdupq_n_s8(-2)));
        let mut acc = [vdupq_n_s32(0); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: registers only; the CPU has the instruction.
                unsafe {
                    asm!(
                        "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
                        acc = inout(vreg) *acc,
                        a = in(vreg) a,
                        b = in(vreg) b,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "neon,i8mm")]
    fn int8_i8mm(rounds: usize) {
        let (a, b) = black_box((vdupq_n_u8(3), vdupq_n_s8(-2)));
        let mut acc = [vdupq_n_s32(0); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: registers only; the CPU has the instruction.
                unsafe {
                    asm!(
                        "usmmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
                        acc = inout(vreg) *acc,
                        a = in(vreg) a,
                        b = in(vreg) b,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        black_box(acc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supported;

    #[test]
    fn every_table_reads_every_word_once() {
        for lines in [0, 1, 2, 3, 4, 5, 7, 8, 33, 100] {
            let mut state = 1u64;
            let bytes: Vec<u8> = (0..lines * READ_LINE + 1)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            // From an odd address too.
            for start in [0, 1] {
                let bytes = &bytes[start..][..lines * READ_LINE];
                let words = bytes.as_chunks::<8>().0.iter();
                let expected = words.fold(0, |x, word| x ^ u64::from_le_bytes(*word));
                for kernels in supported() {
                    assert_eq!(kernels.read(bytes), expected, "{} {lines}", kernels.name());
                }
            }
        }
    }

    #[test]
    fn peaks_count_what_they_do() {
        for kernels in supported() {
            for kind in Peak::ALL {
                let Some(macs) = kernels.peak(kind, 10) else {
                    let may = kernels.isa() == Isa::Scalar || kind == Peak::Bf16;
                    assert!(may, "{} has no {}", kernels.name(), kind.name());
                    continue;
                };
                assert!(macs > 0 && macs.is_multiple_of(10 * CHAINS), "{macs}");
                assert_eq!(kernels.peak(kind, 0), Some(0));
            }
        }
    }
}

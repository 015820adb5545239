//! The block types of GGUF decoded straight from their description, sharing nothing with the crate: for every sub-block
//! `value = scale * code - min`, with integer codes.

use half::f16;
use quern_kernels::Format;

/// Columns with the same scale.
pub struct Sub {
    /// Exact: a product of an f16 and a small integer.
    pub scale: f32,
    /// The same; zero in formats without.
    pub min: f32,
    /// What the codes stand for.
    pub codes: Vec<i32>,
}

impl Sub {
    /// The values that ggml gives: every operation rounded to f32.
    pub fn values(&self, format: Format) -> Vec<f32> {
        let one = |c: &i32| match has_min(format) {
            true => self.scale * *c as f32 - self.min,
            false => self.scale * *c as f32,
        };
        self.codes.iter().map(one).collect()
    }
}

/// The formats of blocks.
pub const FORMATS: [Format; 13] = [
    Format::Q8,
    Format::Q4,
    Format::Q4m,
    Format::Q5,
    Format::Q5m,
    Format::Q2k,
    Format::Q3k,
    Format::Q4k,
    Format::Q5k,
    Format::Q6k,
    Format::Iq4nl,
    Format::Iq4xs,
    Format::Mxfp4,
];

/// Columns and bytes of a block.
pub fn size(format: Format) -> (usize, usize) {
    match format {
        Format::Q8 => (32, 34),
        Format::Q4 => (32, 18),
        Format::Q4m => (32, 20),
        Format::Q5 => (32, 22),
        Format::Q5m => (32, 24),
        Format::Q2k => (256, 84),
        Format::Q3k => (256, 110),
        Format::Q4k => (256, 144),
        Format::Q5k => (256, 176),
        Format::Q6k => (256, 210),
        Format::Iq4nl => (32, 18),
        Format::Iq4xs => (256, 136),
        Format::Mxfp4 => (32, 17),
        _ => panic!("{} has no blocks", format.name()),
    }
}

/// The number of the type in a file.
#[allow(dead_code, reason = "some tests write files, others do not")]
pub fn code(format: Format) -> u32 {
    match format {
        Format::Q4 => 2,
        Format::Q4m => 3,
        Format::Q5 => 6,
        Format::Q5m => 7,
        Format::Q8 => 8,
        Format::Q2k => 10,
        Format::Q3k => 11,
        Format::Q4k => 12,
        Format::Q5k => 13,
        Format::Q6k => 14,
        Format::Iq4nl => 20,
        Format::Iq4xs => 23,
        Format::Mxfp4 => 39,
        _ => panic!("{} has no blocks", format.name()),
    }
}

/// Whether values have a minimum.
pub fn has_min(format: Format) -> bool {
    use Format::*;
    matches!(format, Q4m | Q5m | Q2k | Q4k | Q5k)
}

/// Where the f16 numbers of a block lie.
pub fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::Q4m | Format::Q5m | Format::Q4k | Format::Q5k => &[0, 2],
        Format::Q2k => &[80, 82],
        Format::Q3k => &[108],
        Format::Q6k => &[208],
        Format::Mxfp4 => &[],
        _ => &[0],
    }
}

const NON_LINEAR: [i32; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

const FP4: [f64; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

fn float(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Low nibbles of 16 bytes, then the high ones.
fn low_then_high(b: &[u8]) -> Vec<i32> {
    let low = b[..16].iter().map(|x| i32::from(x % 16));
    low.chain(b[..16].iter().map(|x| i32::from(x / 16)))
        .collect()
}

/// Bit `i` of a string of bytes.
fn bit(b: &[u8], i: usize) -> i32 {
    i32::from(b[i / 8]) >> (i % 8) & 1
}

/// Scale and minimum `j` of the 12 bytes of Q4_K and Q5_K.
fn twelve(b: &[u8], j: usize) -> (f32, f32) {
    let b: Vec<u32> = b.iter().map(|x| u32::from(*x)).collect();
    let (scale, min) = if j < 4 {
        (b[j] & 63, b[j + 4] & 63)
    } else {
        (
            (b[j + 4] & 0xf) | (b[j - 4] >> 6) << 4,
            (b[j + 4] >> 4) | (b[j] >> 6) << 4,
        )
    };
    (scale as f32, min as f32)
}

/// The sub-blocks of a block.
pub fn decode(format: Format, b: &[u8]) -> Vec<Sub> {
    let sub = |scale, min, codes| Sub { scale, min, codes };
    let shifted = |codes: Vec<i32>, by: i32| codes.into_iter().map(|c| c - by).collect();
    let fifth = |mut codes: Vec<i32>, bits: &[u8]| -> Vec<i32> {
        for (i, code) in codes.iter_mut().enumerate() {
            *code += 16 * bit(bits, i);
        }
        codes
    };
    match format {
        Format::Q8 => vec![sub(
            float(b, 0),
            0.0,
            b[2..].iter().map(|x| i32::from(*x as i8)).collect(),
        )],
        Format::Q4 => vec![sub(float(b, 0), 0.0, shifted(low_then_high(&b[2..]), 8))],
        Format::Q4m => vec![sub(float(b, 0), -float(b, 2), low_then_high(&b[4..]))],
        Format::Q5 => vec![sub(
            float(b, 0),
            0.0,
            shifted(fifth(low_then_high(&b[6..]), &b[2..6]), 16),
        )],
        Format::Q5m => vec![sub(
            float(b, 0),
            -float(b, 2),
            fifth(low_then_high(&b[8..]), &b[4..8]),
        )],
        Format::Iq4nl => {
            let codes = low_then_high(&b[2..]);
            let codes = codes.iter().map(|c| NON_LINEAR[*c as usize]).collect();
            vec![sub(float(b, 0), 0.0, codes)]
        }
        Format::Mxfp4 => {
            // Half of the power of two, and twice the float.
            let scale = 2f64.powi(i32::from(b[0]) - 128) as f32;
            let codes = low_then_high(&b[1..]);
            let codes = codes.iter().map(|c| (2.0 * FP4[*c as usize]) as i32);
            vec![sub(scale, 0.0, codes.collect())]
        }
        Format::Q4k | Format::Q5k => {
            let (d, dmin) = (float(b, 0), float(b, 2));
            let five = format == Format::Q5k;
            let codes = &b[if five { 48 } else { 16 }..];
            (0..8)
                .map(|j| {
                    let (scale, min) = twelve(&b[4..16], j);
                    let code = |l: usize| {
                        let byte = i32::from(codes[j / 2 * 32 + l]);
                        let low = if j % 2 == 0 { byte % 16 } else { byte / 16 };
                        let high = i32::from(five) * (i32::from(b[16 + l]) >> j & 1);
                        low + 16 * high
                    };
                    sub(d * scale, dmin * min, (0..32).map(code).collect())
                })
                .collect()
        }
        Format::Q6k => {
            let (low, high, d) = (&b[..128], &b[128..192], float(b, 208));
            let mut codes = [0i32; 256];
            for half in 0..2 {
                for l in 0..32 {
                    let (a, c) = (low[64 * half + l], low[64 * half + 32 + l]);
                    let h = high[32 * half + l];
                    let four = [a & 15, c & 15, a >> 4, c >> 4];
                    for (k, four) in four.into_iter().enumerate() {
                        let two = h >> (2 * k) & 3;
                        codes[128 * half + 32 * k + l] = i32::from(four) + 16 * i32::from(two) - 32;
                    }
                }
            }
            (0..16)
                .map(|s| {
                    let scale = f32::from(b[192 + s] as i8);
                    sub(d * scale, 0.0, codes[16 * s..16 * s + 16].to_vec())
                })
                .collect()
        }
        Format::Q3k => {
            let (mask, twos, packed, d) = (&b[..32], &b[32..96], &b[96..108], float(b, 108));
            let mut codes = Vec::new();
            for half in 0..2 {
                for j in 0..4 {
                    for l in 0..32 {
                        let two = i32::from(twos[32 * half + l]) >> (2 * j) & 3;
                        let set = mask[l] & 1 << (4 * half + j) != 0;
                        codes.push(two - if set { 0 } else { 4 });
                    }
                }
            }
            (0..16)
                .map(|s| {
                    let low = if s < 8 {
                        packed[s] & 15
                    } else {
                        packed[s - 8] >> 4
                    };
                    let high = packed[8 + s % 4] >> (2 * (s / 4)) & 3;
                    let scale = f32::from(low | high << 4) - 32.0;
                    sub(d * scale, 0.0, codes[16 * s..16 * s + 16].to_vec())
                })
                .collect()
        }
        Format::Q2k => {
            let (packed, twos) = (&b[..16], &b[16..80]);
            let (d, dmin) = (float(b, 80), float(b, 82));
            (0..16)
                .map(|s| {
                    let code = |i: usize| {
                        let col = 16 * s + i;
                        let byte = twos[col / 128 * 32 + col % 32];
                        i32::from(byte >> (2 * (col / 32 % 4)) & 3)
                    };
                    sub(
                        d * f32::from(packed[s] & 15),
                        dmin * f32::from(packed[s] >> 4),
                        (0..16).map(code).collect(),
                    )
                })
                .collect()
        }
        Format::Iq4xs => {
            let d = float(b, 0);
            let high = u32::from(b[2]) + 256 * u32::from(b[3]);
            (0..8)
                .map(|s| {
                    let low = u32::from(b[4 + s / 2]) >> (4 * (s % 2)) & 15;
                    let scale = (low + 16 * (high >> (2 * s) & 3)) as f32 - 32.0;
                    let codes = low_then_high(&b[8 + 16 * s..]);
                    let codes = codes.iter().map(|c| NON_LINEAR[*c as usize]).collect();
                    sub(d * scale, 0.0, codes)
                })
                .collect()
        }
        _ => panic!("{} has no blocks", format.name()),
    }
}

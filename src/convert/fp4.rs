//! Floats of four bits in blocks with a common exponent (OCP Microscaling Formats 1.0, MXFP4).
//!
//! ```text
//! nibble: sign | two bits of exponent, one of mantissa: 0 0.5 1 1.5 2 3 4 6
//! scale:  e stands for 2^(e - 127); 255 is no number
//! ```
//!
//! Every value that f32 can hold is a bf16 too: it has two significant bits, and the smallest magnitude, 2^-128, is a subnormal of both.

/// What a nibble stands for.
pub const VALUES: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// `2^(e - 127)`.
pub fn scale(e: u8) -> f32 {
    match e {
        // Half of the smallest normal number.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn scales_are_powers_of_two() {
        for e in 0..255u8 {
            assert_eq!(f64::from(scale(e)), 2f64.powi(i32::from(e) - 127));
        }
        assert!(scale(255).is_nan());
    }

    #[test]
    fn every_value_is_a_bf16() {
        for e in 0..255u8 {
            for v in VALUES {
                let x = v * scale(e);
                assert_eq!(bf16::from_f32(x).to_f32().to_bits(), x.to_bits(), "{v} {e}");
            }
        }
    }
}

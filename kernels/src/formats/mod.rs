//! Weight formats: how a matrix lies in memory, and the conversions to and from f32.
//!
//! A matrix of `rows x cols` is `ceil(rows / 16)` panels. A panel holds 16 rows times all columns,
//! columns padded to the tile of the format, as a stream of 64-byte lines that each hold the same columns of
//! all rows. Padding is canonical, so that equal matrices have equal bytes: float 0, scale +0, code = zero point.
//! Sizes of panels are multiples of 64 bytes.
//!
//! | format | tile of K | bytes per tile (16 rows) | bits per weight |
//! |--------|-----------|--------------------------|-----------------|
//! | f32    | 1         | 64                       | 32              |
//! | f16    | 2         | 64                       | 16              |
//! | bf16   | 2         | 64                       | 16              |
//! | q8     | 64        | 1088                     | 8.5             |
//! | q4     | 64        | 576                      | 4.5             |
//! | q4m    | 64        | 640                      | 5               |
//! | q5     | 64        | 704                      | 5.5             |
//! | q5m    | 64        | 768                      | 6               |
//! | iq4nl  | 64        | 576                      | 4.5             |
//! | mxfp4  | 64        | 544                      | 4.25            |
//! | q2k    | 256       | 1344                     | 2.625           |
//! | q3k    | 256       | 1760                     | 3.4375          |
//! | q4k    | 256       | 2304                     | 4.5             |
//! | q5k    | 256       | 2816                     | 5.5             |
//! | q6k    | 256       | 3360                     | 6.5625          |
//! | iq4xs  | 256       | 2176                     | 4.25            |
//!
//! Those from q4m on are described together in `blocks.rs`. Panels of q3k, q6k and mxfp4 begin with a header of 32 bytes per tile, padded to
//! a multiple of 64 in all; their padding is zeros throughout.

pub(crate) mod bf16;
pub(crate) mod blocks;
pub(crate) mod f16;
pub(crate) mod f32;
pub(crate) mod iq4nl;
pub(crate) mod iq4xs;
pub(crate) mod mxfp4;
pub(crate) mod q2k;
pub(crate) mod q3k;
pub(crate) mod q4;
pub(crate) mod q4k;
pub(crate) mod q4m;
pub(crate) mod q5;
pub(crate) mod q5k;
pub(crate) mod q5m;
pub(crate) mod q6k;
pub(crate) mod q8;
mod search;

use crate::{BLOCK, PANEL_ROWS};
use blocks::Blocks;

/// `$blocks` with `$b` the type of a format of blocks, or else the arms.
macro_rules! by_format {
    ($format:expr, $b:ident => $blocks:expr, $($arms:tt)*) => {
        match $format {
            $($arms)*
            Format::Q4m => {
                type $b = q4m::Q4m;
                $blocks
            }
            Format::Q5 => {
                type $b = q5::Q5;
                $blocks
            }
            Format::Q5m => {
                type $b = q5m::Q5m;
                $blocks
            }
            Format::Q2k => {
                type $b = q2k::Q2k;
                $blocks
            }
            Format::Q3k => {
                type $b = q3k::Q3k;
                $blocks
            }
            Format::Q4k => {
                type $b = q4k::Q4k;
                $blocks
            }
            Format::Q5k => {
                type $b = q5k::Q5k;
                $blocks
            }
            Format::Q6k => {
                type $b = q6k::Q6k;
                $blocks
            }
            Format::Iq4nl => {
                type $b = iq4nl::Iq4nl;
                $blocks
            }
            Format::Iq4xs => {
                type $b = iq4xs::Iq4xs;
                $blocks
            }
            Format::Mxfp4 => {
                type $b = mxfp4::Mxfp4;
                $blocks
            }
        }
    };
}

/// How the numbers of a weight matrix are stored. Codes 6, 7, 9, 11 and 12 stood for other layouts and are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Format {
    /// IEEE single precision.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// The upper half of an f32.
    Bf16 = 2,
    /// 8-bit codes, one f16 scale per row and 32 columns.
    Q8 = 3,
    /// 4-bit codes around 8, one f16 scale per row and 32 columns.
    Q4 = 4,
    /// 4-bit codes, one f16 scale and minimum per row and 32 columns (GGUF: Q4_1).
    Q4m = 5,
    /// 5-bit codes around 16, one f16 scale per row and 32 columns (GGUF: Q5_0).
    Q5 = 16,
    /// 5-bit codes, one f16 scale and minimum per row and 32 columns (GGUF: Q5_1).
    Q5m = 17,
    /// 2-bit codes, 4-bit scales and minimums per row and 16 columns (GGUF: Q2_K).
    Q2k = 8,
    /// 3-bit codes, 6-bit scales per row and 16 columns (GGUF: Q3_K).
    Q3k = 18,
    /// 4-bit codes, 6-bit scales and minimums per row and 32 columns (GGUF: Q4_K).
    Q4k = 10,
    /// 5-bit codes, 6-bit scales and minimums per row and 32 columns (GGUF: Q5_K).
    Q5k = 19,
    /// 6-bit codes, 8-bit scales per row and 16 columns (GGUF: Q6_K).
    Q6k = 20,
    /// 4-bit codes into a table, one f16 scale per row and 32 columns (GGUF: IQ4_NL).
    Iq4nl = 13,
    /// 4-bit codes into a table, 6-bit scales per row and 32 columns (GGUF: IQ4_XS).
    Iq4xs = 14,
    /// 4-bit floats, a power of two per row and 32 columns (GGUF: MXFP4).
    Mxfp4 = 15,
}

/// The activations that a format multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActKind {
    /// Plain f32.
    F32,
    /// int8 with a scale and a sum per block of 32.
    Q8,
}

/// Sub-blocks of an integer format.
pub(crate) struct IntKind {
    /// Columns of one.
    pub sub: usize,
    /// What is subtracted from codes.
    pub zero: i32,
    /// Whether it has minimums.
    pub mins: bool,
}

/// The first thing wrong in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPanel {
    /// Row within the panel, 0..16.
    pub row: usize,
    /// Column; for a scale the first column that it covers. At or beyond the matrix for padding.
    pub col: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl std::fmt::Display for BadPanel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "row {} of the panel, column {}: {}",
            self.row, self.col, self.what
        )
    }
}

impl std::error::Error for BadPanel {}

const NOT_FINITE: &str = "value is not finite";
const SCALE_NOT_FINITE: &str = "scale is not finite";
const PADDING: &str = "padding is not zero";

impl Format {
    /// All formats.
    pub const ALL: [Format; 16] = [
        Format::F32,
        Format::F16,
        Format::Bf16,
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

    /// The number that stands for it in files.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The format with that number.
    pub fn from_code(code: u8) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.code() == code)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Q8 => "q8",
            Format::Q4 => "q4",
            Format::Q4m => "q4m",
            Format::Q5 => "q5",
            Format::Q5m => "q5m",
            Format::Q2k => "q2k",
            Format::Q3k => "q3k",
            Format::Q4k => "q4k",
            Format::Q5k => "q5k",
            Format::Q6k => "q6k",
            Format::Iq4nl => "iq4nl",
            Format::Iq4xs => "iq4xs",
            Format::Mxfp4 => "mxfp4",
        }
    }

    /// The format with that name.
    pub fn by_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// K is padded to a multiple of this many columns.
    pub fn k_tile(self) -> usize {
        by_format!(self, B => B::STEP,
            Format::F32 => 1,
            Format::F16 | Format::Bf16 => 2,
            Format::Q8 | Format::Q4 => 64,
        )
    }

    /// `cols` rounded up to the tile; `None` if that overflows.
    pub fn padded_cols(self, cols: usize) -> Option<usize> {
        cols.checked_next_multiple_of(self.k_tile())
    }

    /// Bytes of a panel of `cols` columns, a multiple of 64; `None` if that overflows.
    pub fn panel_bytes(self, cols: usize) -> Option<usize> {
        let tiles = self.padded_cols(cols)? / self.k_tile();
        by_format!(self, B => blocks::panel_bytes::<B>(tiles),
            Format::F32 | Format::F16 | Format::Bf16 => tiles.checked_mul(64),
            Format::Q8 => tiles.checked_mul(q8::TILE),
            Format::Q4 => tiles.checked_mul(q4::TILE),
        )
    }

    /// Bytes of a matrix; `None` if that overflows.
    pub fn matrix_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        self.panel_bytes(cols)?
            .checked_mul(rows.div_ceil(PANEL_ROWS))
    }

    /// The activations it multiplies with.
    pub fn act_kind(self) -> ActKind {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => ActKind::F32,
            _ => ActKind::Q8,
        }
    }

    /// Rounds or quantizes up to 16 rows of f32 (row after row) into one panel, padding included.
    ///
    /// The values must be finite. Values beyond the range of f16 become infinite in that format;
    /// [`Format::check_panel`] finds them.
    ///
    /// # Panics
    /// If `rows` is not `n_rows * cols` values, `n_rows > 16`, or `out` is not one panel.
    pub fn pack_panel(self, rows: &[f32], n_rows: usize, cols: usize, out: &mut [u8]) {
        assert!(
            n_rows <= PANEL_ROWS && Some(rows.len()) == n_rows.checked_mul(cols),
            "pack: {n_rows} rows of {cols} columns"
        );
        assert_eq!(
            Some(out.len()),
            self.panel_bytes(cols),
            "pack: size of a panel"
        );
        by_format!(self, B => blocks::pack::<B>(rows, cols, out),
            Format::F32 => f32::pack(rows, cols, out),
            Format::F16 => f16::pack(rows, cols, out),
            Format::Bf16 => bf16::pack(rows, cols, out),
            Format::Q8 => q8::pack(rows, cols, out),
            Format::Q4 => q4::pack(rows, cols, out),
        )
    }

    /// The blocks of GGUF that it holds without loss: columns and bytes of one. The float formats have none.
    pub fn gguf_block(self) -> Option<(usize, usize)> {
        by_format!(self, B => Some((B::COLS, B::FOREIGN)),
            Format::Q8 => Some((32, 34)),
            Format::Q4 => Some((32, 18)),
            Format::F32 | Format::F16 | Format::Bf16 => None,
        )
    }

    /// What products of an integer format need of the activations.
    pub(crate) fn int_kind(self) -> IntKind {
        let plain = |zero| IntKind {
            sub: BLOCK,
            zero,
            mins: false,
        };
        by_format!(self,
            B => IntKind {
                sub: B::SUB,
                zero: B::ZERO,
                mins: B::MINS,
            },
            Format::F32 | Format::F16 | Format::Bf16 => plain(0),
            Format::Q8 => plain(q8::ZERO.into()),
            Format::Q4 => plain(q4::ZERO.into()),
        )
    }

    /// Packs up to 16 rows of GGUF blocks ([`Format::gguf_block`]) without loss.
    ///
    /// # Panics
    /// For the float formats, if `cols` is no whole number of blocks, a row has the wrong size, or `out` is
    /// not one panel.
    pub fn pack_panel_gguf(self, rows: &[&[u8]], cols: usize, out: &mut [u8]) {
        assert!(
            rows.len() <= PANEL_ROWS && cols.is_multiple_of(crate::BLOCK),
            "pack: {} rows of {cols} columns",
            rows.len()
        );
        assert_eq!(
            Some(out.len()),
            self.panel_bytes(cols),
            "pack: size of a panel"
        );
        by_format!(self, B => blocks::pack_gguf::<B>(rows, cols, out),
            Format::Q8 => q8::pack_gguf(rows, cols, out),
            Format::Q4 => q4::pack_gguf(rows, cols, out),
            Format::F32 | Format::F16 | Format::Bf16 => panic!("pack: {} has no blocks", self.name()),
        )
    }

    /// The values of blocks of GGUF ([`Format::gguf_block`]), exactly as [`Format::unpack_row`] gives them.
    ///
    /// # Panics
    /// For the float formats, or if `out` is not as long as the blocks' columns.
    pub fn gguf_values(self, blocks: &[u8], out: &mut [f32]) {
        let fits = |(cols, bytes): (usize, usize)| {
            blocks.len().is_multiple_of(bytes) && out.len() == blocks.len() / bytes * cols
        };
        assert!(
            self.gguf_block().is_some_and(fits),
            "{} bytes of {} blocks into {} values",
            blocks.len(),
            self.name(),
            out.len()
        );
        by_format!(self, B => blocks::values::<B>(blocks, out),
            Format::Q8 => q8::gguf_values(blocks, out),
            Format::Q4 => q4::gguf_values(blocks, out),
            Format::F32 | Format::F16 | Format::Bf16 => {}
        )
    }

    /// Dequantizes one row of a panel, exactly.
    ///
    /// # Panics
    /// If `row >= 16`, `panel` is not one panel of `cols` columns, or `out` is not `cols` long.
    pub fn unpack_row(self, panel: &[u8], row: usize, cols: usize, out: &mut [f32]) {
        assert!(
            row < PANEL_ROWS && out.len() == cols,
            "unpack: row {row}, {} of {cols} columns",
            out.len()
        );
        assert_eq!(
            Some(panel.len()),
            self.panel_bytes(cols),
            "unpack: size of a panel"
        );
        by_format!(self, B => blocks::unpack_row::<B>(panel, row, out),
            Format::F32 => f32::unpack_row(panel, row, out),
            Format::F16 => f16::unpack_row(panel, row, out),
            Format::Bf16 => bf16::unpack_row(panel, row, out),
            Format::Q8 => q8::unpack_row(panel, row, out),
            Format::Q4 => q4::unpack_row(panel, row, out),
        )
    }

    /// Checks that every value or scale is finite and that padding is canonical.
    ///
    /// # Errors
    /// The first offender, with its row and column.
    ///
    /// # Panics
    /// If `n_rows > 16` or `panel` is not one panel of `cols` columns.
    pub fn check_panel(self, panel: &[u8], n_rows: usize, cols: usize) -> Result<(), BadPanel> {
        assert!(n_rows <= PANEL_ROWS, "check: {n_rows} rows");
        assert_eq!(
            Some(panel.len()),
            self.panel_bytes(cols),
            "check: size of a panel"
        );
        by_format!(self, B => blocks::check::<B>(panel, n_rows, cols),
            Format::F32 => f32::check(panel, n_rows, cols),
            Format::F16 => f16::check(panel, n_rows, cols),
            Format::Bf16 => bf16::check(panel, n_rows, cols),
            Format::Q8 => q8::check(panel, n_rows, cols),
            Format::Q4 => q4::check(panel, n_rows, cols),
        )
    }
}

/// The verdict on one stored number: inside the matrix it must be finite, outside all its bits must be zero.
#[inline(always)]
fn verdict(
    (zero, finite): (bool, bool),
    inside: bool,
    (row, col): (usize, usize),
    not_finite: &'static str,
) -> Result<(), BadPanel> {
    let what = match inside {
        true if finite => return Ok(()),
        true => not_finite,
        false if zero => return Ok(()),
        false => PADDING,
    };
    Err(BadPanel { row, col, what })
}

/// The verdict on one f16 scale that covers 32 columns from `col`.
fn check_scale(bits: u16, row: usize, col: usize, inside: bool) -> Result<(), BadPanel> {
    let state = (bits == 0, bits & 0x7c00 != 0x7c00);
    verdict(state, inside, (row, col), SCALE_NOT_FINITE)
}

/// Two little-endian bytes.
#[inline(always)]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        let codes = Format::ALL.map(Format::code);
        // Files hold these: they stay what they are.
        assert_eq!(
            codes,
            [0, 1, 2, 3, 4, 5, 16, 17, 8, 18, 10, 19, 20, 13, 14, 15]
        );
        for format in Format::ALL {
            assert_eq!(Format::from_code(format.code()), Some(format));
            assert_eq!(Format::by_name(format.name()), Some(format));
        }
        for retired in [6, 7, 9, 11, 12, 21] {
            assert_eq!(Format::from_code(retired), None);
        }
        assert_eq!(Format::by_name("Q8"), None);
    }

    #[test]
    fn sizes_are_checked_and_multiples_of_a_line() {
        for format in Format::ALL {
            for cols in 1..200 {
                assert_eq!(format.panel_bytes(cols).unwrap() % 64, 0);
            }
            assert_eq!(format.matrix_bytes(usize::MAX, usize::MAX / 2), None);
            assert_eq!(format.panel_bytes(usize::MAX - 70), None);
            assert_eq!(format.matrix_bytes(0, 100), Some(0));
        }
        assert_eq!(Format::Q8.panel_bytes(65), Some(2 * 1088));
        assert_eq!(Format::Q4.panel_bytes(64), Some(576));
        assert_eq!(Format::F16.panel_bytes(3), Some(128));
        assert_eq!(Format::Bf16.matrix_bytes(17, 4), Some(2 * 128));
    }

    /// Deterministic values in -1..1 with 24 significant bits.
    pub(super) fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn packed_panels_pass_their_check_at_every_shape() {
        for format in Format::ALL {
            for (n_rows, cols) in [
                (16, 64),
                (1, 1),
                (5, 33),
                (16, 65),
                (15, 31),
                (3, 128),
                (0, 7),
            ] {
                let rows = noise(n_rows * cols, 3);
                let mut panel = vec![0xaa; format.panel_bytes(cols).unwrap()];
                format.pack_panel(&rows, n_rows, cols, &mut panel);
                assert_eq!(
                    format.check_panel(&panel, n_rows, cols),
                    Ok(()),
                    "{} {n_rows} x {cols}",
                    format.name()
                );
            }
        }
    }

    #[test]
    fn dirty_padding_is_found_where_it_is() {
        for format in Format::ALL {
            let (n_rows, cols) = (5, 33);
            let rows = noise(n_rows * cols, 4);
            let mut panel = vec![0; format.panel_bytes(cols).unwrap()];
            format.pack_panel(&rows, n_rows, cols, &mut panel);
            // Every bit flip outside the matrix is dirt; those inside are other, valid weights at worst.
            let mut found = 0;
            for bit in 0..panel.len() * 8 {
                panel[bit / 8] ^= 1 << (bit % 8);
                if let Err(bad) = format.check_panel(&panel, n_rows, cols) {
                    let outside = bad.row >= n_rows
                        || bad.col >= cols
                        || (bad.col == 32 && bad.what == PADDING);
                    assert_eq!(bad.what == PADDING, outside, "{} {bad}", format.name());
                    found += 1;
                }
                panel[bit / 8] ^= 1 << (bit % 8);
            }
            let padded = format.padded_cols(cols).unwrap();
            let width = match format {
                Format::F32 => 32,
                Format::F16 | Format::Bf16 => 16,
                Format::Q8 => 8,
                Format::Q6k => 6,
                Format::Q5 | Format::Q5m | Format::Q5k => 5,
                Format::Q3k => 3,
                Format::Q2k => 2,
                _ => 4,
            };
            // Whole rows, and columns of the others; scales of columns beyond come on top.
            let all = panel.len() * 8;
            let dirt = all / 16 * (16 - n_rows) + (padded - cols) * n_rows * width;
            assert!(found >= dirt, "{}: {found} of {dirt}", format.name());
        }
    }
}

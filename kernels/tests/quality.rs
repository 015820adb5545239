//! Quantization against ggml's own: the mean squared error over the same values is no larger in any type.

use quern_kernels::Format;

const ROWS: usize = 256;
const COLS: usize = 1024;

/// Uniform in 0..1, never 0.
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// A normal deviate (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (u, v) = (self.next(), self.next());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Student's t with four degrees of freedom: heavy tails, as the weights of trained models have them.
    fn heavy(&mut self) -> f64 {
        let squares: f64 = (0..4).map(|_| self.normal().powi(2)).sum();
        self.normal() / (squares / 4.0).sqrt()
    }
}

fn values(heavy: bool) -> Vec<f32> {
    let mut u = Uniform(42);
    (0..ROWS * COLS)
        .map(|_| 0.02 * if heavy { u.heavy() } else { u.normal() } as f32)
        .collect()
}

/// Squared error over the sum of squares.
fn relative_error(format: Format, values: &[f32]) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    let mut panel = vec![0; format.panel_bytes(COLS).unwrap()];
    let mut row = vec![0.0; COLS];
    for rows in values.chunks(16 * COLS) {
        format.pack_panel(rows, 16, COLS, &mut panel);
        assert_eq!(format.check_panel(&panel, 16, COLS), Ok(()));
        for (r, values) in rows.chunks(COLS).enumerate() {
            format.unpack_row(&panel, r, COLS, &mut row);
            for (v, got) in values.iter().zip(&row) {
                off += (f64::from(*v) - f64::from(*got)).powi(2);
                all += f64::from(*v).powi(2);
            }
        }
    }
    off / all
}

/// What `quantize_q4_K` and its like of llama.cpp (llama-cpp-python 0.3.36) leave of the values above, without an importance matrix: normal and
/// heavy-tailed ones. It weighs errors by magnitude in some types, which these figures do not.
const REFERENCE: [(Format, f64, f64); 13] = [
    (Format::Q8, 2.8510e-5, 5.3361e-5),
    (Format::Q4, 7.3771e-3, 1.3018e-2),
    (Format::Q4m, 6.0914e-3, 8.6428e-3),
    (Format::Q5, 1.8107e-3, 3.2975e-3),
    (Format::Q5m, 1.4238e-3, 2.0371e-3),
    (Format::Q2k, 8.7225e-2, 1.1630e-1),
    (Format::Q3k, 2.2671e-2, 3.2850e-2),
    (Format::Q4k, 5.0709e-3, 7.3617e-3),
    (Format::Q5k, 1.2951e-3, 1.9078e-3),
    (Format::Q6k, 3.1412e-4, 5.1659e-4),
    (Format::Iq4nl, 5.7727e-3, 8.5141e-3),
    (Format::Iq4xs, 5.8658e-3, 8.6897e-3),
    (Format::Mxfp4, 1.2960e-2, 1.7032e-2),
];

#[test]
fn no_type_is_worse_than_ggml() {
    for heavy in [false, true] {
        let values = values(heavy);
        for (format, normal, tails) in REFERENCE {
            let ours = relative_error(format, &values);
            let theirs = if heavy { tails } else { normal };
            eprintln!("{}: {:.4} of ggml's error", format.name(), ours / theirs);
            // The reference has five digits.
            assert!(
                ours <= theirs * 1.0001,
                "{} {heavy}: {ours:e} and {theirs:e}",
                format.name()
            );
        }
    }
}

//! Quantization: scales and minimums with the least squared error, for the formats of [`super::blocks`].
//!
//! Errors are compared in f32 sums over strided lanes, so that a compiler may use vectors and yet every machine writes the same file. Values are
//! first brought near 1 by a power of two, which is exact, so that squares neither overflow nor vanish.

use half::f16;

use super::blocks::{Fields, half};

/// Partial sums of a loop over a sub-block.
const LANES: usize = 8;

/// The integers that codes stand for.
pub(super) trait Grid {
    /// The least and the greatest, and the distance of each to its neighbour.
    fn ends(&self) -> [(f32, f32); 2];
    /// The nearest one.
    fn snap(&self, v: f32) -> f32;
    /// The code of the nearest one.
    fn code(&self, v: f32) -> u8;
}

/// All integers from `least` to `most`, coded from 0 on.
pub(super) struct Uniform {
    pub least: i32,
    pub most: i32,
}

/// Rounds to an integer, half to even, below 2^22.
#[inline(always)]
fn round(v: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    v + ROUND - ROUND
}

impl Grid for Uniform {
    fn ends(&self) -> [(f32, f32); 2] {
        [(self.least as f32, 1.0), (self.most as f32, 1.0)]
    }

    #[inline(always)]
    fn snap(&self, v: f32) -> f32 {
        round(v.clamp(self.least as f32, self.most as f32))
    }

    #[inline(always)]
    fn code(&self, v: f32) -> u8 {
        (self.snap(v) as i32 - self.least) as u8
    }
}

/// The integers of a table, each stored plus `zero`.
pub(super) struct Book {
    /// The least code of each integer, integers ascending; the last may be there several times.
    codes: [u8; 16],
    values: [f32; 16],
    /// Half-way to the next one.
    middles: [f32; 15],
    /// Distinct integers.
    n: usize,
}

impl Book {
    pub(super) const fn new(table: &[u8; 16], zero: i32) -> Book {
        let mut book = Book {
            codes: [0; 16],
            values: [0.0; 16],
            middles: [f32::INFINITY; 15],
            n: 0,
        };
        let mut value = 0;
        while value < 256 {
            let (mut code, mut found) = (16, false);
            while code > 0 {
                code -= 1;
                if table[code] as i32 == value {
                    book.codes[book.n] = code as u8;
                    book.values[book.n] = (value - zero) as f32;
                    found = true;
                }
            }
            if found {
                if book.n > 0 {
                    let both = book.values[book.n - 1] + book.values[book.n];
                    book.middles[book.n - 1] = both / 2.0;
                }
                book.n += 1;
            }
            value += 1;
        }
        book
    }

    #[inline(always)]
    fn place(&self, v: f32) -> usize {
        self.middles.iter().map(|m| usize::from(v > *m)).sum()
    }
}

impl Grid for Book {
    fn ends(&self) -> [(f32, f32); 2] {
        let (v, n) = (&self.values, self.n);
        [(v[0], v[1] - v[0]), (v[n - 1], v[n - 1] - v[n - 2])]
    }

    #[inline(always)]
    fn snap(&self, v: f32) -> f32 {
        let mut value = self.values[0];
        for i in 0..15 {
            value = if v > self.middles[i] {
                self.values[i + 1]
            } else {
                value
            };
        }
        value
    }

    #[inline(always)]
    fn code(&self, v: f32) -> u8 {
        self.codes[self.place(v)]
    }
}

/// The nearest f16, finite, and zero only for zero.
pub(super) fn f16_bits(scale: f32) -> u16 {
    if scale == 0.0 || scale.is_nan() {
        return 0;
    }
    let bits = f16::from_f32(scale).to_bits();
    (bits & 0x7fff).clamp(1, f16::MAX.to_bits()) | bits & 0x8000
}

/// Up to N values times a power of two, padded with zeros that do not count.
struct Samples<const N: usize> {
    x: [f32; N],
    /// 1, or 0 for padding.
    weights: [f32; N],
    /// What they must be multiplied with to get the values.
    unit: f32,
}

/// Magnitudes below are zero to every f16 scale: the smallest is 2^-24.
const NOTHING: f32 = f32::from_bits((127 - 60) << 23);

impl<const N: usize> Samples<N> {
    fn new(values: &[f32]) -> Samples<N> {
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // A power of two up to the largest magnitude, and its reciprocal.
        let exponent = (largest.to_bits() >> 23).clamp(127 - 60, 127 + 100);
        let unit = f32::from_bits(exponent << 23);
        let inverse = f32::from_bits((254 - exponent) << 23);
        let mut samples = Samples {
            x: [0.0; N],
            weights: [0.0; N],
            unit,
        };
        for (i, v) in values.iter().enumerate() {
            samples.x[i] = v * inverse;
            samples.weights[i] = 1.0;
        }
        samples
    }

    /// The sum over all values of what `term` gives for each: K sums at once.
    #[inline(always)]
    fn sums<const K: usize>(&self, term: impl Fn(f32, f32) -> [f32; K]) -> [f32; K] {
        let mut lanes = [[0.0f32; LANES]; K];
        for i in (0..N).step_by(LANES) {
            for lane in 0..LANES {
                let terms = term(self.x[i + lane], self.weights[i + lane]);
                for k in 0..K {
                    lanes[k][lane] += terms[k];
                }
            }
        }
        lanes.map(|lanes| lanes.iter().sum())
    }

    /// Squared error, sum of code times value and sum of code squared, rounded to the nearest of a grid.
    #[inline(always)]
    fn rounded(&self, scale: f32, grid: &impl Grid) -> [f32; 3] {
        let inverse = 1.0 / scale;
        self.sums(|x, w| {
            let code = grid.snap(x * inverse) * w;
            let off = x - scale * code;
            [off * off, code * x, code * code]
        })
    }

    /// The scale of the least error: for the extreme value at several places around both ends of the grid, moved twice to the
    /// least-squares scale of the codes.
    fn symmetric(&self, grid: &impl Grid) -> f32 {
        let largest = self.x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if largest == 0.0 {
            return 0.0;
        }
        let extreme = self.x.iter().copied().find(|v| v.abs() == largest);
        let extreme = extreme.unwrap_or(largest);
        let mut best = (f32::INFINITY, 0.0);
        for (end, gap) in grid.ends() {
            for out in [0.0, -0.5, -1.0, 0.4, 0.8] {
                let mut scale = extreme / (end + end.signum() * gap * out);
                for _ in 0..3 {
                    let [off, values, squares] = self.rounded(scale, grid);
                    if off < best.0 {
                        best = (off, scale);
                    }
                    if squares == 0.0 || values == 0.0 {
                        break;
                    }
                    scale = values / squares;
                }
            }
        }
        best.1
    }

    /// Sums over the values and their codes under a fit.
    #[inline(always)]
    fn moments(&self, fit: Fit, most: f32) -> Moments {
        let inverse = if fit.scale > 0.0 {
            1.0 / fit.scale
        } else {
            0.0
        };
        let [off, n, c, cc, x, cx] = self.sums(|x, w| {
            let code = round(((x + fit.min) * inverse).clamp(0.0, most)) * w;
            let off = (x - (fit.scale * code - fit.min)) * w;
            [off * off, w, code, code * code, x, code * x]
        });
        Moments {
            off,
            n,
            c,
            cc,
            x,
            cx,
        }
    }

    /// Squared error of a fit, and the fit of the least error for its codes.
    #[inline(always)]
    fn refit(&self, fit: Fit, most: f32, positive: bool) -> (f32, Fit) {
        let m = self.moments(fit, most);
        // Normal equations of x = scale * code - min.
        let determinant = m.n * m.cc - m.c * m.c;
        let next = if determinant > 0.0 {
            let scale = (m.n * m.cx - m.c * m.x) / determinant;
            let min = (m.c * m.cx - m.cc * m.x) / determinant;
            match positive && min < 0.0 {
                true => Fit::at(m.cx / m.cc, 0.0),
                false => Fit::at(scale, min),
            }
        } else {
            fit
        };
        (m.off, next)
    }

    /// The fit of the least error: for several numbers of steps between the least and the greatest value, moved twice to the least-squares fit
    /// of the codes.
    fn affine(&self, most: f32, positive: bool) -> Fit {
        let inside = || self.x.iter().zip(&self.weights).filter(|(_, w)| **w > 0.0);
        let mut low = inside().fold(f32::INFINITY, |m, (x, _)| m.min(*x));
        let high = inside().fold(f32::NEG_INFINITY, |m, (x, _)| m.max(*x));
        if positive {
            low = low.min(0.0);
        }
        // Also where there is nothing inside.
        if high <= low {
            return Fit::at(0.0, if low.is_finite() { -low } else { 0.0 });
        }
        let mut best = (f32::INFINITY, Fit::at((high - low) / most, -low));
        for step in 0..STEPS {
            let more = -1.2 + 0.2 * step as f32;
            let mut fit = Fit::at((high - low) / (most + more).max(0.5), -low);
            for _ in 0..4 {
                let (off, next) = self.refit(fit, most, positive);
                if off < best.0 {
                    best = (off, fit);
                }
                fit = next;
            }
        }
        best.1
    }

    /// Squared error with this scale and minimum.
    #[inline(always)]
    fn off(&self, fit: Fit, most: f32) -> f32 {
        let inverse = if fit.scale != 0.0 {
            1.0 / fit.scale
        } else {
            0.0
        };
        let [off] = self.sums(|x, w| {
            let code = round(((x + fit.min) * inverse).clamp(0.0, most));
            let off = (x - (fit.scale * code - fit.min)) * w;
            [off * off]
        });
        off
    }
}

/// Numbers of steps that the search for a scale and minimum begins at.
const STEPS: usize = 14;

/// Squared error; number of values; sums of codes, their squares, values, products of both.
struct Moments {
    off: f32,
    n: f32,
    c: f32,
    cc: f32,
    x: f32,
    cx: f32,
}

/// `value = scale * code - min`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub scale: f32,
    pub min: f32,
}

impl Fit {
    pub(super) fn at(scale: f32, min: f32) -> Fit {
        Fit { scale, min }
    }

    /// The nearest codes.
    pub(super) fn codes(self, values: &[f32], most: u8, codes: &mut [u8]) {
        let inverse = if self.scale != 0.0 {
            1.0 / self.scale
        } else {
            0.0
        };
        for (code, v) in codes.iter_mut().zip(values) {
            *code = round(((v + self.min) * inverse).clamp(0.0, f32::from(most))) as u8;
        }
    }
}

/// The best scale of up to 32 values.
pub(super) fn symmetric(values: &[f32], grid: &impl Grid) -> f32 {
    let samples = Samples::<32>::new(values);
    samples.symmetric(grid) * samples.unit
}

/// The best scale and minimum of up to 32 values; with `positive` the minimum is not negative.
pub(super) fn affine(values: &[f32], most: u8, positive: bool) -> Fit {
    let samples = Samples::<32>::new(values);
    let fit = samples.affine(most.into(), positive);
    Fit::at(fit.scale * samples.unit, fit.min * samples.unit)
}

/// The nearest codes under a scale.
pub(super) fn linear(values: &[f32], scale: f32, grid: &impl Grid, codes: &mut [u8]) {
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    for (code, v) in codes.iter_mut().zip(values) {
        // Beyond the range of f32 only for scales far below the values: then the code is an end of the grid.
        *code = grid.code((v * inverse).clamp(-1.0e6, 1.0e6));
    }
}

/// The squared error of the nearest codes under a scale.
pub(super) fn error(values: &[f32], scale: f32, grid: &impl Grid) -> f64 {
    let inverse = 1.0 / scale;
    let off = values.iter().map(|v| {
        let code = grid.snap((v * inverse).clamp(-1.0e6, 1.0e6));
        f64::from(*v) - f64::from(scale) * f64::from(code)
    });
    off.map(|off| off * off).sum()
}

/// The values of sub-blocks of N columns.
fn sub_blocks<const N: usize>(values: &[f32]) -> [Samples<N>; 16] {
    std::array::from_fn(|i| Samples::new(values.chunks(N).nth(i).unwrap_or_default()))
}

/// A choice for the numbers of a block of 256 columns.
#[derive(Clone, Copy)]
struct Choice {
    error: f32,
    d: u16,
    dmin: u16,
    scales: [i32; 16],
    mins: [i32; 16],
    /// The least-squares `d` and `dmin` for the other numbers and the codes.
    ideal: (f32, f32),
}

/// Fields for integer scales in `range` of sub-blocks of N columns: the best scales are rounded to multiples of one f16, for several f16; then
/// that is moved to the least-squares one of all codes. Stored scales are `bias` larger.
pub(super) fn two_level<const N: usize>(
    values: &[f32],
    grid: &impl Grid,
    range: (i32, i32),
    bias: i32,
) -> Fields {
    let subs = sub_blocks::<N>(values);
    let ideal: [f32; 16] = std::array::from_fn(|i| subs[i].symmetric(grid) * subs[i].unit);
    let extreme = ideal
        .iter()
        .fold(0.0f32, |m, s| if s.abs() > m.abs() { *s } else { m });
    let unit = subs.iter().fold(0.0f32, |m, s| m.max(s.unit));
    let choose = |d: f32| {
        let d = f16_bits(d);
        let mut choice = Choice {
            error: 0.0,
            d,
            dmin: 0,
            scales: [0; 16],
            mins: [0; 16],
            ideal: (0.0, 0.0),
        };
        let (mut products, mut squares) = (0.0, 0.0);
        for (i, sub) in subs.iter().enumerate() {
            let near = ideal[i] / half(d);
            let near = round(near.clamp(range.0 as f32, range.1 as f32)) as i32;
            let mut best = [f32::INFINITY, 0.0, 0.0];
            for scale in (near - 1).max(range.0)..=(near + 1).min(range.1) {
                let one = half(d) * scale as f32 / sub.unit;
                let sums = match one == 0.0 {
                    true => sub.sums(|x, _| [x * x, 0.0, 0.0]),
                    false => sub.rounded(one, grid),
                };
                if sums[0] < best[0] {
                    best = sums;
                    choice.scales[i] = scale;
                }
            }
            let (weight, scale) = (sub.unit / unit, choice.scales[i] as f32);
            choice.error += best[0] * weight * weight;
            products += best[1] * scale * weight;
            squares += best[2] * scale * scale;
        }
        choice.ideal.0 = products / squares * unit;
        choice
    };
    let mut best = choose(extreme / range.0 as f32);
    if extreme.abs() < NOTHING {
        // No f16 is small enough: all scales are zero.
        best.d = 0;
        best.scales = [0; 16];
    } else {
        for end in [range.1 as f32, range.0 as f32 + 0.7] {
            best = better(best, choose(extreme / end));
        }
        for _ in 0..2 {
            best = better(best, choose(best.ideal.0));
        }
    }
    let mut fields = Fields::ZERO;
    fields.d = best.d;
    for (i, values) in values.chunks(N).enumerate() {
        fields.scales[i] = (best.scales[i] + bias) as u8;
        let scale = half(best.d) * best.scales[i] as f32;
        linear(values, scale, grid, &mut fields.codes[i * N..]);
    }
    fields
}

/// The first, if the second is no better.
fn better(a: Choice, b: Choice) -> Choice {
    if b.error < a.error { b } else { a }
}

/// The same for integer scales and minimums up to `top`, and codes up to `most`.
pub(super) fn two_level_affine<const N: usize>(values: &[f32], most: u8, top: u8) -> Fields {
    let subs = sub_blocks::<N>(values);
    let steps = f32::from(most);
    let ideal: [Fit; 16] = std::array::from_fn(|i| {
        let fit = subs[i].affine(steps, true);
        Fit::at(fit.scale * subs[i].unit, fit.min * subs[i].unit)
    });
    let largest = |of: fn(&Fit) -> f32| ideal.iter().map(of).fold(0.0f32, f32::max);
    let unit = subs.iter().fold(0.0f32, |m, s| m.max(s.unit));
    let choose = |d: f32, dmin: f32| {
        let (d, dmin) = (f16_bits(d.max(0.0)), f16_bits(dmin.max(0.0)));
        let mut choice = Choice {
            error: 0.0,
            d,
            dmin,
            scales: [0; 16],
            mins: [0; 16],
            ideal: (0.0, 0.0),
        };
        let near = |ideal: f32, step: u16| match step {
            0 => 0..=0,
            step => {
                let near = round((ideal / half(step)).clamp(0.0, top.into())) as i32;
                (near - 1).max(0)..=(near + 1).min(top.into())
            }
        };
        // Sums over all values of A^2, A x, A B, B^2, B x where x = d A - dmin B.
        let [mut aa, mut ax, mut ab, mut bb, mut bx] = [0.0f32; 5];
        for (i, sub) in subs.iter().enumerate() {
            let mut best = f32::INFINITY;
            let mut fit = Fit::at(0.0, 0.0);
            for scale in near(ideal[i].scale, d) {
                for min in near(ideal[i].min, dmin) {
                    let tried = Fit::at(
                        half(d) * scale as f32 / sub.unit,
                        half(dmin) * min as f32 / sub.unit,
                    );
                    let off = sub.off(tried, steps);
                    if off < best {
                        (best, fit) = (off, tried);
                        (choice.scales[i], choice.mins[i]) = (scale, min);
                    }
                }
            }
            let weight = sub.unit / unit;
            choice.error += best * weight * weight;
            let m = sub.moments(fit, steps);
            let (scale, min) = (choice.scales[i] as f32, choice.mins[i] as f32);
            aa += scale * scale * m.cc;
            ax += scale * m.cx * weight;
            ab += scale * min * m.c;
            bb += min * min * m.n;
            bx += min * m.x * weight;
        }
        let determinant = aa * bb - ab * ab;
        choice.ideal = match determinant > 0.0 {
            true => (
                (ax * bb - bx * ab) / determinant * unit,
                (ax * ab - bx * aa) / determinant * unit,
            ),
            false => (ax / aa * unit, 0.0),
        };
        choice
    };
    let (scale, min) = (largest(|f| f.scale), largest(|f| f.min));
    let top = f32::from(top);
    let mut best = choose(scale / top, min / top);
    for (a, b) in [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)] {
        best = better(best, choose(scale / (top - a), min / (top - b)));
    }
    for _ in 0..2 {
        best = better(best, choose(best.ideal.0, best.ideal.1));
    }
    let mut fields = Fields::ZERO;
    (fields.d, fields.dmin) = (best.d, best.dmin);
    for (i, values) in values.chunks(N).enumerate() {
        fields.scales[i] = best.scales[i] as u8;
        fields.mins[i] = best.mins[i] as u8;
        let scale = half(best.d) * best.scales[i] as f32;
        let min = half(best.dmin) * best.mins[i] as f32;
        Fit::at(scale, min).codes(values, most, &mut fields.codes[i * N..]);
    }
    fields
}

//! Quantiles of the standard normal distribution.

/// The x below which a part `p` of a standard normal distribution lies; infinite for 0 and 1.
///
/// Newton's method on the upper tail, which is convex there, from x = 0: it climbs to the root without passing it, and the step at the end is
/// as small as the error of `erfc`. In f64 through `libm`, so that every machine gets the same bits.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    if p < 0.5 {
        return -normal_quantile(1.0 - p);
    }
    let upper = 1.0 - p;
    if upper <= 0.0 {
        return f64::INFINITY;
    }
    let mut x = 0.0;
    // A tail of 2^-53 takes about 80 steps.
    for _ in 0..200 {
        let tail = 0.5 * libm::erfc(x / std::f64::consts::SQRT_2);
        let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
        let step = (tail - upper) / density;
        x += step;
        if step.abs() <= 1e-15 * x.abs() {
            break;
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_quantiles() {
        // Published to 16 digits (Wichura 1988 and tables).
        for (p, x) in [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_081_7),
            (0.8, 0.841_621_233_572_914_2),
            (0.9, 1.281_551_565_544_600_4),
            (0.95, 1.644_853_626_951_472_2),
            (0.975, 1.959_963_984_540_054),
            (0.999, 3.090_232_306_167_813_5),
        ] {
            let found = normal_quantile(p);
            // f32 keeps 2^-24 of it.
            assert!((found - x).abs() < 1e-14, "{p}: {found}, expected {x}");
            assert!((normal_quantile(1.0 - p) + x).abs() < 1e-13);
        }
        assert_eq!(normal_quantile(1.0), f64::INFINITY);
        assert!(normal_quantile(1.0 - f64::EPSILON / 2.0).is_finite());
    }
}

//! What repeated measurements say: medians, spreads, and whether two sets of them differ.
//!
//! Times on a shared machine have outliers on one side and drift; so everything here is about ranks. Ratios are compared through logarithms: a ratio
//! and its inverse are then equally far from 1.
//!
//! * Two samples that have nothing to do with each other: the Hodges-Lehmann estimate, the median of all ratios of one from each, with the
//!   confidence interval that inverts the Mann-Whitney test (its exact distribution).
//! * Pairs that were measured side by side: the median of the geometric means of any two of the pairs' ratios (Walsh averages), with the interval
//!   that inverts the Wilcoxon signed-rank test. What changed for both of a pair cancels out.
//!
//! An interval of 95 % needs enough values: four against four, or six pairs. With fewer there is none, and nothing is claimed.

/// The median; the mean of the two middle ones if their number is even; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this share of the values lies, interpolated between neighbours; NaN of nothing.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    match (sorted.get(low), sorted.get(low + 1)) {
        (Some(a), Some(b)) => a + part * (b - a),
        (Some(a), None) => *a,
        _ => f64::NAN,
    }
}

/// How far the middle half of the values is apart, as a share of the median; 0 of fewer than two.
pub fn spread(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    (quantile(values, 0.75) - quantile(values, 0.25)) / median(values).abs()
}

/// How one set of measurements relates to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The estimate.
    pub ratio: f64,
    /// The interval that contains the ratio in 95 of 100 such comparisons; none where there are too few values.
    pub interval: Option<(f64, f64)>,
    /// Whether the values were compared in pairs.
    pub paired: bool,
}

/// The probability that an interval misses the truth.
const ALPHA: f64 = 0.05;

/// Values beyond this number add cost and no insight: only so many, evenly taken, are compared.
const MOST: usize = 200;

/// `new` as a multiple of `old`; none if there is nothing to compare, or a value that is no positive number.
pub fn ratio(new: &[f64], old: &[f64]) -> Option<Ratio> {
    let (new, old) = (logarithms(new)?, logarithms(old)?);
    let mut shifts = Vec::with_capacity(new.len() * old.len());
    for a in &new {
        shifts.extend(old.iter().map(|b| a - b));
    }
    let counts = mann_whitney(new.len(), old.len());
    Some(inverted(shifts, &counts, false))
}

/// The same where value i of one was measured right beside value i of the other.
pub fn paired_ratio(new: &[f64], old: &[f64]) -> Option<Ratio> {
    if new.len() != old.len() {
        return None;
    }
    let (new, old) = (logarithms(new)?, logarithms(old)?);
    let differences: Vec<f64> = new.iter().zip(&old).map(|(a, b)| a - b).collect();
    let mut averages = Vec::with_capacity(differences.len() * (differences.len() + 1) / 2);
    for (i, a) in differences.iter().enumerate() {
        averages.extend(differences[..=i].iter().map(|b| (a + b) / 2.0));
    }
    let counts = signed_rank(differences.len());
    Some(inverted(averages, &counts, true))
}

fn logarithms(values: &[f64]) -> Option<Vec<f64>> {
    let positive = values.iter().all(|v| v.is_finite() && *v > 0.0);
    if values.is_empty() || !positive {
        return None;
    }
    let step = values.len().div_ceil(MOST);
    Some(values.iter().step_by(step).map(|v| v.ln()).collect())
}

/// The median of the differences of logarithms, and the two that a test of the distribution `counts` (how many of all cases have each value of
/// the statistic) does not yet reject.
fn inverted(mut shifts: Vec<f64>, counts: &[f64], paired: bool) -> Ratio {
    shifts.sort_by(f64::total_cmp);
    let all: f64 = counts.iter().sum();
    // The largest k so that a statistic below k has at most half of alpha.
    let mut below = 0.0;
    let mut k = 0;
    while k < counts.len() && (below + counts[k]) / all <= ALPHA / 2.0 {
        below += counts[k];
        k += 1;
    }
    let bounds = (k > 0).then(|| (shifts.get(k - 1), shifts.get(shifts.len().wrapping_sub(k))));
    let interval = match bounds {
        Some((Some(low), Some(high))) => Some((low.exp(), high.exp())),
        _ => None,
    };
    Ratio {
        ratio: median(&shifts).exp(),
        interval,
        paired,
    }
}

/// In how many arrangements of n and m values the Mann-Whitney statistic is 0, 1, ..., n m: the coefficients of the Gaussian binomial.
fn mann_whitney(n: usize, m: usize) -> Vec<f64> {
    // The product of (1 - q^(m + i)) / (1 - q^i) over i = 1 ..= n, factor by factor.
    let mut counts = vec![0.0; n * m + 1];
    counts[0] = 1.0;
    for i in 1..=n {
        for at in (m + i..counts.len()).rev() {
            counts[at] -= counts[at - m - i];
        }
        for at in i..counts.len() {
            counts[at] += counts[at - i];
        }
    }
    counts
}

/// In how many choices of signs of n values the sum of the ranks of those above zero is 0, 1, ..., n (n + 1) / 2.
fn signed_rank(n: usize) -> Vec<f64> {
    let mut counts = vec![0.0; n * (n + 1) / 2 + 1];
    counts[0] = 1.0;
    for rank in 1..=n {
        for at in (rank..counts.len()).rev() {
            counts[at] += counts[at - rank];
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs()
    }

    #[test]
    fn medians_and_spreads_of_known_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(quantile(&[0.0, 10.0], 0.25), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 1.0), 3.0);
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), 2.0 / 3.0);
        assert_eq!(spread(&[7.0]), 0.0);
    }

    /// Numbers of arrangements from counting them all.
    #[test]
    fn distributions_are_those_of_all_arrangements() {
        for (n, m) in [(1, 1), (2, 3), (4, 4), (5, 2)] {
            let mut counts = vec![0.0; n * m + 1];
            for chosen in 0..1u32 << (n + m) {
                if chosen.count_ones() as usize != n {
                    continue;
                }
                let mut seen = 0;
                let mut statistic = 0;
                for place in 0..n + m {
                    match chosen >> place & 1 {
                        0 => seen += 1,
                        _ => statistic += seen,
                    }
                }
                counts[statistic] += 1.0;
            }
            assert_eq!(mann_whitney(n, m), counts, "{n} {m}");
        }
        for n in [1, 3, 6] {
            let mut counts = vec![0.0; n * (n + 1) / 2 + 1];
            for signs in 0..1usize << n {
                let sum: usize = (1..=n).filter(|r| signs >> (r - 1) & 1 == 1).sum();
                counts[sum] += 1.0;
            }
            assert_eq!(signed_rank(n), counts, "{n}");
        }
    }

    #[test]
    fn a_ratio_that_is_there_is_found() {
        let old = [10.0, 11.0, 12.0, 13.0, 14.0];
        let new = old.map(|v| 2.0 * v);
        let found = ratio(&new, &old).unwrap();
        assert!(near(found.ratio, 2.0));
        let (low, high) = found.interval.unwrap();
        assert!(1.0 < low && low < 2.0 && 2.0 < high, "{low} {high}");
        // Of 252 arrangements 1 + 1 + 2 have a statistic of at most 2: the third ratio from either end bounds the interval.
        let mut all: Vec<f64> = new
            .iter()
            .flat_map(|a| old.map(|b| (a.ln() - b.ln()).exp()))
            .collect();
        all.sort_by(f64::total_cmp);
        assert!(near(low, all[2]) && near(high, all[22]), "{low} {high}");
        // Side by side the drift cancels out.
        let old = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0];
        let new = old.map(|v| 0.9 * v);
        let found = paired_ratio(&new, &old).unwrap();
        assert!(found.paired && near(found.ratio, 0.9));
        let (low, high) = found.interval.unwrap();
        assert!((low - 0.9).abs() < 1e-9 && (high - 0.9).abs() < 1e-9);
    }

    #[test]
    fn few_values_claim_nothing_and_bad_ones_are_not_compared() {
        let few = ratio(&[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0]).unwrap();
        assert_eq!(few.interval, None);
        assert!(
            ratio(&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0, 30.0, 40.0])
                .unwrap()
                .interval
                .is_some()
        );
        assert_eq!(paired_ratio(&[1.0; 5], &[1.0; 5]).unwrap().interval, None);
        assert_eq!(
            paired_ratio(&[1.0; 6], &[1.0; 6]).unwrap().interval,
            Some((1.0, 1.0))
        );
        assert_eq!(ratio(&[], &[1.0]), None);
        assert_eq!(ratio(&[0.0], &[1.0]), None);
        assert_eq!(ratio(&[f64::NAN], &[1.0]), None);
        assert_eq!(paired_ratio(&[1.0], &[1.0, 2.0]), None);
        // Many values cost no more than some.
        let many: Vec<f64> = (1..100_000).map(f64::from).collect();
        assert!(near(ratio(&many, &many).unwrap().ratio, 1.0));
    }

    /// Of two sets that are alike the interval covers 1 about 95 times of 100; checked loosely, on a fixed stream.
    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            1.0 + (state >> 40) as f64 / (1u64 << 24) as f64
        };
        let mut covered = [0; 2];
        for _ in 0..2000 {
            let a: Vec<f64> = (0..8).map(|_| next()).collect();
            let b: Vec<f64> = (0..8).map(|_| next()).collect();
            for (count, found) in covered
                .iter_mut()
                .zip([ratio(&a, &b), paired_ratio(&a, &b)])
            {
                let (low, high) = found.unwrap().interval.unwrap();
                *count += usize::from(low <= 1.0 && 1.0 <= high);
            }
        }
        // Exact levels for 8 and 8 are 0.950 and 0.961; four standard deviations of 2000 draws are 0.02.
        for count in covered {
            assert!((1855..=1965).contains(&count), "{covered:?}");
        }
    }
}

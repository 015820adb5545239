//! Steps that leave candidates out, and the temperature that follows the entropy. Formulas: docs/SAMPLING.md.
//!
//! Probabilities are f32 weights of the kernels over their f64 sum, logarithms and powers those of the `libm` crate: the same on every machine.

use super::candidates::{Candidates, Spare, empty};
use quern_kernels::Kernels;

/// Nguyen et al. 2024, "Min-p": candidates with at least this share of the greatest weight, which is 1.
pub(super) fn min_p(c: &mut Candidates, kernels: &Kernels, share: f32) {
    // The bound leaves one percent of room, far more than any rounding of exponential and logarithm; the weights then decide.
    let bound = f64::from(c.top()) + libm::log(f64::from(share)) - 0.01;
    c.keep_from(bound as f32);
    c.keep_weights(kernels, share);
}

/// Tang et al. 2024, "Top-n-sigma": logits at least the greatest less `n` standard deviations.
pub(super) fn top_n_sigma(c: &mut Candidates, n: f32) {
    let logits = || c.logits().map(f64::from);
    let count = logits().count() as f64;
    let mean = logits().sum::<f64>() / count;
    let variance = logits().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    let least = f64::from(c.top()) - f64::from(n) * libm::sqrt(variance);
    c.keep_where(|_, c| f64::from(c.logit) >= least);
}

/// Writes surprises of what is left, in nats and in its order, and the probabilities into `spare`; returns the entropy.
fn surprise(c: &mut Candidates, kernels: &Kernels, spare: &mut Spare) -> f64 {
    let top = f64::from(c.top());
    let most = c.row.len();
    let of = empty(&mut spare.surprise, most);
    let probability = empty(&mut spare.probability, most);
    of.extend(c.list().iter().map(|c| f64::from(c.logit) - top));
    let weights = c.weights(kernels).0;
    let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    probability.extend(weights.iter().map(|&w| f64::from(w) / sum));
    let log = libm::log(sum);
    of.iter_mut().for_each(|x| *x = log - *x);
    of.iter().zip(probability).map(|(s, p)| *s * *p).sum()
}

/// Meister et al. 2022, "Locally typical sampling": those whose surprise is nearest to the entropy, until their probabilities exceed `p`.
pub(super) fn typical(c: &mut Candidates, kernels: &Kernels, p: f32) {
    c.ranked();
    let mut spare = std::mem::take(&mut c.spare);
    let entropy = surprise(c, kernels, &mut spare);
    let Spare {
        surprise,
        probability,
        number: distance,
        order,
        keep,
    } = &mut spare;
    let most = c.row.len();
    let distance = empty(distance, most);
    distance.extend(surprise.iter().map(|x| (x - entropy).abs()));
    let order = empty(order, most);
    order.extend(0..distance.len());
    // Ties by rank.
    order.sort_unstable_by(|a, b| distance[*a].total_cmp(&distance[*b]).then(a.cmp(b)));
    let keep = empty(keep, most);
    keep.resize(order.len(), false);
    let mut reached = 0.0;
    for &at in &*order {
        keep[at] = true;
        reached += probability[at];
        if reached > f64::from(p) {
            break;
        }
    }
    c.keep_where(|at, _| keep[at]);
    c.spare = spare;
}

/// "Exclude top choices" (p-e-w 2024): of the candidates with at least this probability only the least probable stays.
pub(super) fn xtc(c: &mut Candidates, kernels: &Kernels, threshold: f32) {
    c.ranked();
    let mut spare = std::mem::take(&mut c.spare);
    surprise(c, kernels, &mut spare);
    let high = |p: &&f64| **p >= f64::from(threshold);
    let choices = spare.probability.iter().take_while(high).count();
    c.drop_best(choices.saturating_sub(1));
    c.spare = spare;
}

/// The temperature that goes with the entropy: from `t - range` (not below 0) for one certain candidate to `t + range` for equal ones.
pub(super) fn dynamic_temperature(
    c: &mut Candidates,
    kernels: &Kernels,
    t: f32,
    range: f32,
    exponent: f32,
) -> f32 {
    let n = c.list().len();
    // One candidate is what it is at any temperature.
    if n < 2 {
        return 1.0;
    }
    let (low, high) = ((t - range).max(0.0), t + range);
    let mut spare = std::mem::take(&mut c.spare);
    let entropy = surprise(c, kernels, &mut spare);
    c.spare = spare;
    let normalized = (entropy / libm::log(n as f64)).clamp(0.0, 1.0);
    let power = libm::pow(normalized, f64::from(exponent));
    (f64::from(low) + (f64::from(high) - f64::from(low)) * power) as f32
}

/// Basu et al. 2021, "Mirostat", version 2: the bound of the surprise moves with how far the surprise of what was drawn is from the target.
pub(super) struct Bound {
    target: f64,
    rate: f64,
    bits: f64,
}

impl Bound {
    pub fn new(target: f32, rate: f32) -> Bound {
        let target = f64::from(target);
        Bound {
            target,
            rate: f64::from(rate),
            bits: 2.0 * target,
        }
    }

    /// Keeps what is at most as surprising as the bound, draws, and moves the bound.
    pub fn draw(&mut self, c: &mut Candidates, kernels: &Kernels, temperature: f32, u: f64) -> u32 {
        c.divide(temperature);
        let mut spare = std::mem::take(&mut c.spare);
        surprise(c, kernels, &mut spare);
        c.keep_where(|at, _| in_bits(spare.surprise[at]) <= self.bits);
        surprise(c, kernels, &mut spare);
        // The list is in order of ids before and after.
        let id = c.draw(kernels, 1.0, u);
        let at = c.list().iter().position(|c| c.id == id).unwrap_or(0);
        self.bits -= self.rate * (in_bits(spare.surprise[at]) - self.target);
        c.spare = spare;
        id
    }
}

fn in_bits(nats: f64) -> f64 {
    nats * std::f64::consts::LOG2_E
}

#[cfg(test)]
mod tests {
    use super::super::tests::logits;
    use super::*;

    fn start(row: &[f32]) -> Candidates {
        let mut c = Candidates::new();
        c.start(row);
        c
    }

    fn ids(c: &mut Candidates) -> Vec<u32> {
        let mut ids: Vec<u32> = c.list().iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    fn of_logs(weights: &[f64]) -> Vec<f32> {
        weights.iter().map(|w| libm::log(*w) as f32).collect()
    }

    /// Probabilities of a row in f64, straight from the definition.
    fn softmax(row: &[f32]) -> Vec<f64> {
        let e: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|x| x / sum).collect()
    }

    #[test]
    fn min_p_by_hand() {
        // Shares of the greatest: 1, 0.5, 0.25, 0.1.
        let row = of_logs(&[0.1, 1.0, 0.5, 0.25]);
        for (share, expected) in [
            (0.6, vec![1]),
            (0.3, vec![1, 2]),
            (0.2, vec![1, 2, 3]),
            (0.05, vec![0, 1, 2, 3]),
            (1.0, vec![1]),
        ] {
            let mut c = start(&row);
            min_p(&mut c, quern_kernels::best(), share);
            assert_eq!(ids(&mut c), expected, "{share}");
        }
    }

    #[test]
    fn top_n_sigma_by_hand_and_against_f64() {
        // Mean 2, variance (4 + 1 + 0 + 1 + 4) / 5 = 2.
        let row = [0.0, 1.0, 2.0, 3.0, 4.0, f32::NEG_INFINITY];
        for (n, expected) in [(0.5, vec![4]), (1.0, vec![3, 4]), (2.0, vec![2, 3, 4])] {
            let mut c = start(&row);
            top_n_sigma(&mut c, n);
            assert_eq!(ids(&mut c), expected, "{n}");
        }
        let row = logits(3000, 5);
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / 3000.0;
        let var = row
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / 3000.0;
        let max = row.iter().fold(f32::MIN, |m, &x| m.max(x));
        let least = f64::from(max) - 1.5 * var.sqrt();
        let all = 0..3000u32;
        let expected: Vec<u32> = all
            .filter(|&i| f64::from(row[i as usize]) >= least)
            .collect();
        let mut c = start(&row);
        top_n_sigma(&mut c, 1.5);
        assert_eq!(ids(&mut c), expected);
    }

    #[test]
    fn typical_by_hand() {
        // Entropy of 0.5, 0.25, 0.125, 0.125 is 1.75 bits; surprises 1, 2, 3, 3: nearest is the second, then the first.
        let row = of_logs(&[0.5, 0.25, 0.125, 0.125]);
        for (p, expected) in [
            (0.2, vec![1]),
            (0.3, vec![0, 1]),
            (0.8, vec![0, 1, 2]),
            (0.9, vec![0, 1, 2, 3]),
        ] {
            let mut c = start(&row);
            typical(&mut c, quern_kernels::best(), p);
            assert_eq!(ids(&mut c), expected, "{p}");
        }
    }

    #[test]
    fn typical_against_f64() {
        for salt in 0..5 {
            let row = logits(400, salt);
            let p = softmax(&row);
            let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
            let mut order: Vec<usize> = (0..400).collect();
            order.sort_by(|&a, &b| {
                let d = |i: usize| (-p[i].ln() - entropy).abs();
                d(a).partial_cmp(&d(b)).unwrap()
            });
            let mut sum = 0.0;
            let n = order.iter().position(|&i| {
                sum += p[i];
                sum > 0.7
            });
            let mut expected: Vec<u32> = order[..=n.unwrap()].iter().map(|&i| i as u32).collect();
            expected.sort_unstable();
            let mut c = start(&row);
            typical(&mut c, quern_kernels::best(), 0.7);
            assert_eq!(ids(&mut c), expected, "salt {salt}");
        }
    }

    #[test]
    fn xtc_by_hand() {
        // Probabilities 0.4, 0.3, 0.2, 0.1: the last one that reaches the threshold stays, and all below it.
        let row = of_logs(&[0.2, 0.4, 0.1, 0.3]);
        for (threshold, expected) in [
            (0.45, vec![0, 1, 2, 3]),
            (0.35, vec![0, 1, 2, 3]),
            (0.25, vec![0, 2, 3]),
            (0.15, vec![0, 2]),
            (0.05, vec![2]),
        ] {
            let mut c = start(&row);
            xtc(&mut c, quern_kernels::best(), threshold);
            assert_eq!(ids(&mut c), expected, "{threshold}");
        }
    }

    #[test]
    fn dynamic_temperature_goes_with_the_entropy() {
        let k = quern_kernels::best();
        // Equal candidates: the high end; one that is certain: the low end.
        let high = dynamic_temperature(&mut start(&[1.0; 8]), k, 1.0, 0.5, 1.0);
        assert!((high - 1.5).abs() < 1e-6, "{high}");
        let low = dynamic_temperature(&mut start(&[100.0, 0.0, 0.0]), k, 0.3, 0.5, 1.0);
        assert!(low.abs() < 1e-6, "{low}");
        // Entropy 1.75 bits of at most 2, squared.
        let row = of_logs(&[0.5, 0.25, 0.125, 0.125]);
        let t = dynamic_temperature(&mut start(&row), k, 1.0, 0.4, 2.0);
        let expected = 0.6 + 0.8 * (1.75f64 / 2.0).powi(2);
        // Both sides are f64 but for the f32 logarithms and weights: some units of 2^-24.
        assert!((f64::from(t) - expected).abs() < 1e-6, "{t} {expected}");
        assert_eq!(
            dynamic_temperature(&mut start(&[3.0]), k, 0.7, 0.5, 1.0),
            1.0
        );
    }

    #[test]
    fn mirostat_keeps_to_its_bound_and_moves_it() {
        let k = quern_kernels::best();
        let row = of_logs(&[0.5, 0.3, 0.1, 0.1]);
        // The bound begins at 2 * 1 bits, and the surprises are 1, 1.74, 3.3, 3.3: the first two stay, with probabilities 5/8 and 3/8.
        let mut bound = Bound::new(1.0, 0.8);
        assert_eq!(bound.draw(&mut start(&row), k, 1.0, 0.99), 1);
        let expected = 2.0 - 0.8 * ((8f64 / 3.0).log2() - 1.0);
        assert!((bound.bits - expected).abs() < 1e-6);
        // Now 1.74 bits are too many, and what is left is no surprise.
        assert_eq!(bound.draw(&mut start(&row), k, 1.0, 0.99), 0);
        let expected = expected + 0.8;
        assert!((bound.bits - expected).abs() < 1e-6, "{}", bound.bits);
        // Nothing is below a bound of nothing, and the best still comes.
        let mut none = Bound::new(0.0, 0.5);
        assert_eq!(none.draw(&mut start(&row), k, 1.0, 0.99), 0);
    }
}

//! From logits to the next id.
//!
//! The steps and their order are llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, draw. At temperature 0 the id with
//! the greatest logit (after the penalty) is taken, the lowest one on a tie. A filter never leaves fewer than one candidate.
//!
//! Same seed, same text, on every machine: exponentials are the kernels' own (equal bits on every instruction set), sums run over a
//! fixed order (ascending ids, or candidates in descending logits with ties by ascending id), and the generator is PCG XSL RR 128/64
//! (`rand_pcg`, a stable stream) with the 32 bytes `blake3::derive_key("quern sampler seed v1", seed as 8 little-endian bytes)` as its
//! seed. One draw per token: the upper 53 bits of one 64-bit output, as a fraction u in [0, 1); the id drawn is the first one, in
//! ascending order of candidates' ids, at which the running f64 sum of weights exceeds u times the whole sum.

use crate::error::{Error, Result};
use quern_kernels::Kernels;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// How the next id is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Divides the logits; 0 takes the greatest.
    pub temperature: f32,
    /// How many of the greatest logits stay; 0 keeps all.
    pub top_k: usize,
    /// The fewest candidates whose probabilities reach this sum stay; 1 keeps all.
    pub top_p: f32,
    /// Candidates with less than this share of the greatest probability go; 0 keeps all.
    pub min_p: f32,
    /// Positive logits of recent ids are divided by this, negative ones multiplied; 1 changes nothing.
    pub repeat_penalty: f32,
    /// How many ids count as recent, prompt included.
    pub repeat_last_n: usize,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for Params {
    /// llama.cpp's defaults, with seed 0.
    fn default() -> Self {
        Params {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl Params {
    /// The greatest logit, always.
    pub fn greedy() -> Self {
        Params {
            temperature: 0.0,
            ..Params::default()
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// A usage error that names the value and what was expected.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f32, ok: bool, expected: &str| {
            if ok {
                Ok(())
            } else {
                Err(Error::usage(format_args!(
                    "{name} is {value}, expected {expected}"
                )))
            }
        };
        let t = self.temperature;
        check(
            "temperature",
            t,
            t.is_finite() && t >= 0.0,
            "a number of at least 0",
        )?;
        let p = self.top_p;
        check("top-p", p, (0.0..=1.0).contains(&p), "0 to 1")?;
        let p = self.min_p;
        check("min-p", p, (0.0..=1.0).contains(&p), "0 to 1")?;
        let r = self.repeat_penalty;
        check(
            "repeat-penalty",
            r,
            r.is_finite() && r > 0.0,
            "a number above 0",
        )
    }
}

/// A logit that cannot be sampled from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BadLogits {
    /// Not a number, or plus infinity, at this id.
    At {
        /// The id.
        id: usize,
        /// The value.
        value: f32,
    },
    /// Minus infinity everywhere (or no logits at all).
    Nothing,
}

impl std::fmt::Display for BadLogits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadLogits::At { id, value } => write!(
                f,
                "the logit of id {id} is {value}, expected a number below infinity"
            ),
            BadLogits::Nothing => {
                write!(
                    f,
                    "the logits of all ids are -inf, expected at least one number"
                )
            }
        }
    }
}

/// Whether these logits can be sampled from; -inf for some ids is fine (they are never drawn).
///
/// # Errors
/// The first NaN or plus infinity, or that there is nothing but -inf.
pub fn check(kernels: &Kernels, logits: &[f32]) -> Result<(), BadLogits> {
    if !logits.is_empty() && kernels.all_finite(logits) {
        return Ok(());
    }
    let bad = |x: f32| x.is_nan() || x == f32::INFINITY;
    if let Some(id) = logits.iter().position(|&x| bad(x)) {
        let value = logits[id];
        return Err(BadLogits::At { id, value });
    }
    if logits.iter().all(|&x| x == f32::NEG_INFINITY) {
        return Err(BadLogits::Nothing);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Greater logits first, ties by lower id: a total order, since logits are checked.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    let logits = b.logit.partial_cmp(&a.logit);
    logits.unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// The sampler of one request: its parameters, its generator, the ids it has seen.
pub struct Sampler {
    params: Params,
    kernels: &'static Kernels,
    generator: Pcg64,
    recent: VecDeque<u32>,
    logits: Vec<f32>,
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler at the start of its stream.
    ///
    /// # Errors
    /// As [`Params::validate`].
    pub fn new(params: Params, kernels: &'static Kernels) -> Result<Sampler> {
        params.validate()?;
        let seed = blake3::derive_key("quern sampler seed v1", &params.seed.to_le_bytes());
        Ok(Sampler {
            generator: Pcg64::from_seed(seed),
            params,
            kernels,
            recent: VecDeque::new(),
            logits: Vec::new(),
            weights: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// Takes note of an id of the prompt or of the text, for the repetition penalty.
    pub fn accept(&mut self, id: u32) {
        if self.params.repeat_penalty == 1.0 || self.params.repeat_last_n == 0 {
            return;
        }
        if self.recent.len() == self.params.repeat_last_n {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// The next id; logits are indexed by id.
    ///
    /// # Errors
    /// As [`check`]: nothing is drawn.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, BadLogits> {
        self.sample_among(logits, |_| {})
    }

    /// The next id among those that `exclude` leaves: it sets the logits of the others to minus infinity, before anything else is done.
    ///
    /// # Errors
    /// As [`check`], or if nothing is left: nothing is drawn.
    pub fn sample_among(
        &mut self,
        logits: &[f32],
        exclude: impl FnOnce(&mut [f32]),
    ) -> Result<u32, BadLogits> {
        check(self.kernels, logits)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        exclude(&mut self.logits);
        if self.logits.iter().all(|&x| x == f32::NEG_INFINITY) {
            return Err(BadLogits::Nothing);
        }
        self.penalize();
        if self.params.temperature == 0.0 {
            return Ok(self.kernels.argmax(&self.logits) as u32);
        }
        self.select();
        Ok(self.draw())
    }

    /// The penalty of Keskar et al. 2019 (CTRL), once per distinct recent id.
    fn penalize(&mut self) {
        let r = self.params.repeat_penalty;
        if r == 1.0 {
            return;
        }
        let mut ids: Vec<u32> = self.recent.iter().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            if let Some(x) = self.logits.get_mut(id as usize)
                && x.is_finite()
            {
                let penalized = if *x > 0.0 { *x / r } else { *x * r };
                // An extreme penalty may overflow, and infinities cannot be compared with each other.
                *x = penalized.clamp(f32::MIN, f32::MAX);
            }
        }
    }

    /// Fills `candidates` with what top-k, top-p and min-p leave.
    fn select(&mut self) {
        self.candidates.clear();
        self.candidates.extend(
            self.logits
                .iter()
                .enumerate()
                .map(|(id, &logit)| Candidate {
                    id: id as u32,
                    logit,
                }),
        );
        let k = self.params.top_k;
        let cut = k > 0 && k < self.candidates.len();
        if cut {
            self.candidates.select_nth_unstable_by(k - 1, by_rank);
            self.candidates.truncate(k);
            self.candidates.sort_unstable_by(by_rank);
        }
        if self.params.top_p < 1.0 || self.params.min_p > 0.0 {
            // Weights relative to the greatest, in the order of the candidates: by rank after a cut, else by id.
            self.weights.clear();
            self.weights.extend(self.candidates.iter().map(|c| c.logit));
            let (_, sum) = self.kernels.softmax_exp(&mut self.weights);
            if self.params.top_p < 1.0 {
                self.top_p(cut, sum);
            }
            if self.params.min_p > 0.0 {
                self.min_p();
            }
        }
    }

    /// Keeps the first candidates by rank whose weights reach `top_p` of the sum. After a cut candidates and weights are in order
    /// of rank; without one both are indexed by id, and only as many as needed are put in order.
    fn top_p(&mut self, cut: bool, sum: f32) {
        let goal = f64::from(self.params.top_p) * f64::from(sum);
        let total = self.candidates.len();
        let mut ranked = if cut { total } else { 0 };
        let mut reached = 0.0f64;
        let mut kept = Vec::new();
        while kept.len() < total {
            let next = kept.len();
            if next == ranked {
                ranked = total.min(64.max(4 * ranked));
                let rest = &mut self.candidates[next..];
                let within = ranked - next;
                if within < rest.len() {
                    rest.select_nth_unstable_by(within - 1, by_rank);
                }
                rest[..within].sort_unstable_by(by_rank);
            }
            let at = if cut {
                next
            } else {
                self.candidates[next].id as usize
            };
            kept.push(self.weights[at]);
            reached += f64::from(self.weights[at]);
            if reached >= goal {
                break;
            }
        }
        self.candidates.truncate(kept.len());
        self.weights = kept;
    }

    /// Keeps candidates with at least `min_p` of the greatest weight, which is 1.
    fn min_p(&mut self) {
        let least = self.params.min_p;
        let mut weights = self.weights.iter();
        self.candidates
            .retain(|_| weights.next().is_some_and(|&w| w >= least));
    }

    /// Divides by the temperature and draws one of the candidates.
    fn draw(&mut self) -> u32 {
        self.candidates.sort_unstable_by_key(|c| c.id);
        let top = self
            .candidates
            .iter()
            .fold(f32::NEG_INFINITY, |m, c| m.max(c.logit));
        self.weights.clear();
        // The greatest is subtracted first, so that a tiny temperature cannot make infinity minus infinity.
        let t = self.params.temperature;
        self.weights
            .extend(self.candidates.iter().map(|c| (c.logit - top) / t));
        self.kernels.softmax_exp(&mut self.weights);
        let sum: f64 = self.weights.iter().map(|&w| f64::from(w)).sum();
        let u = (self.generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let goal = u * sum;
        let mut reached = 0.0f64;
        let mut drawn = None;
        for (candidate, &weight) in self.candidates.iter().zip(&self.weights) {
            if weight > 0.0 {
                drawn = Some(candidate.id);
                reached += f64::from(weight);
                if reached > goal {
                    break;
                }
            }
        }
        // The greatest logit has weight 1, so something was drawn.
        drawn.unwrap_or_else(|| self.candidates.first().map_or(0, |c| c.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(params: Params) -> Sampler {
        Sampler::new(params, quern_kernels::best()).unwrap()
    }

    /// Logits that look like a model's: a few large ones, many small ones.
    fn logits(n: usize, salt: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| {
                let h = (i ^ salt).wrapping_mul(2_654_435_761) >> 8;
                let u = h as f32 / (1 << 24) as f32;
                u * u * u * 20.0 - 5.0
            })
            .collect()
    }

    #[test]
    fn greedy_takes_the_greatest_and_the_lowest_id_on_a_tie() {
        let mut s = sampler(Params::greedy());
        assert_eq!(s.sample(&[1.0, 3.0, 2.0, 3.0]).unwrap(), 1);
        assert_eq!(s.sample(&[f32::NEG_INFINITY, -3.0]).unwrap(), 1);
    }

    #[test]
    fn bad_logits_are_named_and_nothing_is_drawn() {
        for params in [Params::greedy(), Params::default()] {
            let mut s = sampler(params);
            assert_eq!(s.sample(&[f32::NEG_INFINITY; 40]), Err(BadLogits::Nothing));
            assert_eq!(s.sample(&[]), Err(BadLogits::Nothing));
            let mut x = logits(100, 1);
            x[77] = f32::INFINITY;
            let e = s.sample(&x).unwrap_err();
            assert!(
                e.to_string().starts_with("the logit of id 77 is inf"),
                "{e}"
            );
            x[33] = f32::NAN;
            let e = s.sample(&x).unwrap_err();
            assert!(
                e.to_string().starts_with("the logit of id 33 is NaN"),
                "{e}"
            );
        }
    }

    #[test]
    fn same_seed_same_ids_on_every_instruction_set() {
        let ids = |kernels| {
            let mut s = Sampler::new(
                Params {
                    top_k: 0,
                    repeat_penalty: 1.1,
                    seed: 42,
                    ..Params::default()
                },
                kernels,
            )
            .unwrap();
            (0..200)
                .map(|i| {
                    let id = s.sample(&logits(1000, i)).unwrap();
                    s.accept(id);
                    id
                })
                .collect::<Vec<u32>>()
        };
        let expected = ids(quern_kernels::best());
        for kernels in quern_kernels::supported() {
            assert_eq!(ids(kernels), expected, "{}", kernels.name());
        }
    }

    /// The numbers are what this program printed when the stream was fixed; they may never change.
    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut s = sampler(Params {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 7,
            ..Params::default()
        });
        let uniform = [0.0f32; 1000];
        let ids: Vec<u32> = (0..8).map(|_| s.sample(&uniform).unwrap()).collect();
        assert_eq!(ids, [894, 40, 780, 114, 773, 242, 449, 362]);
    }

    /// A plain version of the three filters: sort everything, accumulate in f64.
    fn filtered(x: &[f32], k: usize, p: f64, min: f64) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..x.len() as u32).collect();
        ids.sort_by(|&a, &b| {
            x[b as usize]
                .partial_cmp(&x[a as usize])
                .unwrap()
                .then(a.cmp(&b))
        });
        if k > 0 {
            ids.truncate(k);
        }
        let top = f64::from(x[ids[0] as usize]);
        let weight = |id: u32| (f64::from(x[id as usize]) - top).exp();
        let sum: f64 = ids.iter().map(|&i| weight(i)).sum();
        if p < 1.0 {
            let mut reached = 0.0;
            let keep = ids.iter().position(|&i| {
                reached += weight(i);
                reached >= p * sum
            });
            ids.truncate(keep.map_or(ids.len(), |k| k + 1));
        }
        ids.retain(|&i| weight(i) >= min);
        ids.sort_unstable();
        ids
    }

    #[test]
    fn filters_equal_a_plain_version() {
        for (n, k, p, min) in [
            (1000, 40, 0.95, 0.05),
            (1000, 0, 0.9, 0.0),
            (5000, 0, 0.9999, 0.0),
            (5000, 0, 1.0, 0.1),
            (37, 100, 0.5, 0.0),
            (1000, 1, 0.5, 0.5),
            (1000, 0, 0.0, 1.0),
            (1000, 7, 1.0, 0.0),
        ] {
            for salt in 0..5 {
                let x = logits(n, salt);
                let mut s = sampler(Params {
                    top_k: k,
                    top_p: p,
                    min_p: min,
                    ..Params::default()
                });
                s.logits = x.clone();
                s.select();
                let mut ids: Vec<u32> = s.candidates.iter().map(|c| c.id).collect();
                ids.sort_unstable();
                let expected = filtered(&x, k, f64::from(p), f64::from(min));
                assert_eq!(ids, expected, "n {n} k {k} p {p} min {min} salt {salt}");
            }
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut s = sampler(Params {
            temperature: 2.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..Params::default()
        });
        // At temperature 2 these are the weights 1, 2, 4, 0.
        let ln2 = std::f32::consts::LN_2;
        let x = [0.0, 2.0 * ln2, 4.0 * ln2, f32::NEG_INFINITY];
        let mut counts = [0f64; 4];
        for _ in 0..7000 {
            counts[s.sample(&x).unwrap() as usize] += 1.0;
        }
        // Five standard deviations of a binomial count of 7000 are at most 5 * sqrt(7000 / 4) = 210.
        for (count, expected) in counts.iter().zip([1000.0, 2000.0, 4000.0, 0.0]) {
            assert!((count - expected).abs() <= 210.0, "{counts:?}");
        }
        assert_eq!(counts[3], 0.0);
    }

    #[test]
    fn extreme_parameters_still_draw() {
        let x = logits(500, 3);
        let greatest = sampler(Params::greedy()).sample(&x).unwrap();
        let mut s = sampler(Params {
            temperature: f32::MIN_POSITIVE,
            top_k: 0,
            ..Params::default()
        });
        assert_eq!(s.sample(&x).unwrap(), greatest);
        let mut s = sampler(Params {
            temperature: f32::MAX,
            repeat_penalty: f32::MAX,
            ..Params::default()
        });
        for id in 0..500 {
            s.accept(id);
        }
        assert!(s.sample(&x).unwrap() < 500);
    }

    #[test]
    fn repetition_penalty_is_that_of_llama_cpp() {
        let mut s = sampler(Params {
            repeat_penalty: 2.0,
            repeat_last_n: 2,
            ..Params::greedy()
        });
        // 4 / 2 = 2 < 3; an id that was seen twice is penalized once; negative logits grow.
        s.accept(0);
        s.accept(0);
        assert_eq!(s.sample(&[4.0, 3.0, -1.0]).unwrap(), 1);
        assert_eq!(s.sample(&[8.0, 3.0, -1.0]).unwrap(), 0);
        assert_eq!(s.sample(&[-2.0, -3.0, -5.0]).unwrap(), 1);
        // Two more ids push it out of the window.
        s.accept(2);
        s.accept(2);
        assert_eq!(s.sample(&[4.0, 3.0, -1.0]).unwrap(), 0);
    }

    #[test]
    fn parameters_out_of_range_are_usage_errors() {
        for (params, name) in [
            (
                Params {
                    temperature: -1.0,
                    ..Params::default()
                },
                "temperature",
            ),
            (
                Params {
                    temperature: f32::NAN,
                    ..Params::default()
                },
                "temperature",
            ),
            (
                Params {
                    top_p: 1.5,
                    ..Params::default()
                },
                "top-p",
            ),
            (
                Params {
                    min_p: -0.1,
                    ..Params::default()
                },
                "min-p",
            ),
            (
                Params {
                    repeat_penalty: 0.0,
                    ..Params::default()
                },
                "repeat-penalty",
            ),
        ] {
            let e = params.validate().unwrap_err();
            assert_eq!(e.exit_code(), 2);
            assert!(e.to_string().starts_with(name), "{e}");
        }
    }
}

//! From logits to the next id.
//!
//! The steps, their formulas and their order are llama.cpp's; docs/SAMPLING.md has them all. At temperature 0 the id with the greatest
//! logit (after penalties) is taken, the lowest one on a tie. A filter never leaves fewer than one candidate.
//!
//! Same seed, same text, on every machine: exponentials are the kernels' own (equal bits on every instruction set) or the `libm` crate's, sums
//! run over a fixed order (ascending ids, or candidates in descending logits with ties by ascending id), and the generator is PCG XSL RR 128/64
//! (`rand_pcg`, a stable stream) with the 32 bytes `blake3::derive_key("quern sampler seed v1", seed as 8 little-endian bytes)` as its
//! seed. One draw per token: the upper 53 bits of one 64-bit output, as a fraction u in [0, 1); the id drawn is the first one, in
//! ascending order of candidates' ids, at which the running f64 sum of weights exceeds u times the whole sum. XTC draws from a second generator
//! (`"quern sampler xtc seed v1"`), one number for each time that it is asked.
//!
//! What [`Sampler::sample`] returns depends on the parameters, the logits, the ids that were accepted and how many were sampled before, and on nothing
//! else: whoever samples each position once, in order, gets the same ids, however the logits were computed.

mod candidates;
mod dry;
mod filters;
mod params;
mod penalties;

pub use dry::{Breakers, LONGEST_BREAKER};
pub use params::{Mirostat, Params, Step};

use crate::error::Result;
use candidates::Candidates;
use filters::Bound;
use penalties::{History, penalized};
use quern_kernels::Kernels;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use std::collections::BTreeMap;

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

/// A generator of its own stream.
fn generator(context: &str, seed: u64) -> Pcg64 {
    Pcg64::from_seed(blake3::derive_key(context, &seed.to_le_bytes()))
}

/// The next fraction in [0, 1), of 53 bits.
fn fraction(generator: &mut Pcg64) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The sampler of one request: its parameters, its generators, the ids it has seen.
pub struct Sampler {
    params: Params,
    kernels: &'static Kernels,
    generator: Pcg64,
    xtc: Pcg64,
    history: Option<History>,
    bound: Option<Bound>,
    bias: BTreeMap<u32, f32>,
    /// Steps that change something.
    steps: Vec<Step>,
    /// How many of the steps decide what is taken, if it is the greatest after these.
    greedy: Option<usize>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler at the start of its stream.
    ///
    /// # Errors
    /// As [`Params::validate`].
    pub fn new(params: Params, kernels: &'static Kernels) -> Result<Sampler> {
        params.validate()?;
        let steps = params.order.iter().copied();
        let steps: Vec<Step> = steps.filter(|&s| params.is_active(s)).collect();
        let mut bias = BTreeMap::new();
        for &(id, by) in &params.logit_bias {
            *bias.entry(id).or_insert(0.0) += by;
        }
        let remembers = params.penalizes() || params.dries();
        Ok(Sampler {
            generator: generator("quern sampler seed v1", params.seed),
            xtc: generator("quern sampler xtc seed v1", params.seed),
            history: remembers.then(|| History::new(params.repeat_last_n)),
            bound: params.mirostat.map(|m| Bound::new(m.target, m.rate)),
            greedy: greedy(&params, &steps),
            kernels,
            bias,
            steps,
            params,
            candidates: Candidates::new(),
        })
    }

    /// Takes note of an id of the prompt or of the text, for the penalties.
    pub fn accept(&mut self, id: u32) {
        if let Some(history) = &mut self.history {
            history.push(id);
        }
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
        let c = &mut self.candidates;
        c.start(logits);
        exclude(&mut c.row);
        for (&id, &by) in &self.bias {
            if let Some(x) = c.row.get_mut(id as usize)
                && *x > f32::NEG_INFINITY
            {
                // Infinities cannot be compared with each other: only what is forbidden becomes one.
                let moved = (*x + by).clamp(f32::MIN, f32::MAX);
                *x = if by > f32::NEG_INFINITY { moved } else { by };
            }
        }
        if c.row.iter().all(|&x| x == f32::NEG_INFINITY) {
            return Err(BadLogits::Nothing);
        }
        let t = self.params.temperature;
        if let Some(bound) = &mut self.bound {
            if t == 0.0 {
                return Ok(c.best(self.kernels));
            }
            let u = fraction(&mut self.generator);
            return Ok(bound.draw(c, self.kernels, t, u));
        }
        if let Some(n) = self.greedy {
            self.walk(n);
            return Ok(self.candidates.best(self.kernels));
        }
        let temperature = self.walk(self.steps.len());
        let u = fraction(&mut self.generator);
        Ok(self.candidates.draw(self.kernels, temperature, u))
    }

    /// Takes the first `n` steps; returns the temperature that is left for the draw.
    fn walk(&mut self, n: usize) -> f32 {
        let (c, p, kernels) = (&mut self.candidates, &self.params, self.kernels);
        for (i, step) in self.steps[..n].iter().enumerate() {
            match step {
                Step::Penalties => {
                    if let Some(history) = &self.history {
                        let (repeat, presence) = (p.repeat_penalty, p.presence_penalty);
                        c.change(history.counts(), |x, &count| {
                            penalized(x, count, repeat, presence, p.frequency_penalty)
                        });
                    }
                }
                Step::Dry => {
                    if let Some(history) = &self.history {
                        let allowed = p.dry_allowed_length;
                        let last = history.last(p.dry_last_n);
                        let longest = dry::repetitions(last, allowed, &p.dry_breakers);
                        c.change(&longest, |x, &n| {
                            x - dry::penalty(n, allowed, p.dry_multiplier, p.dry_base)
                        });
                    }
                }
                Step::TopNSigma => filters::top_n_sigma(c, p.top_n_sigma),
                Step::TopK => c.keep_best(p.top_k),
                Step::Typical => filters::typical(c, kernels, p.typical),
                Step::TopP => c.keep_share(kernels, p.top_p),
                Step::MinP => filters::min_p(c, kernels, p.min_p),
                Step::Xtc => {
                    if fraction(&mut self.xtc) < f64::from(p.xtc_probability) {
                        filters::xtc(c, kernels, p.xtc_threshold);
                    }
                }
                Step::Temperature => {
                    let (range, exponent) = (p.dynatemp_range, p.dynatemp_exponent);
                    let t = match range > 0.0 {
                        true => {
                            filters::dynamic_temperature(c, kernels, p.temperature, range, exponent)
                        }
                        false => p.temperature,
                    };
                    if t == 0.0 {
                        c.keep_only(c.best(kernels));
                    } else if i + 1 == self.steps.len() {
                        // The draw divides differences from the greatest logit, which loses less.
                        return t;
                    } else {
                        c.divide(t);
                    }
                }
            }
        }
        1.0
    }
}

/// At temperature 0 the greatest is taken; where only penalties come first, and then only filters that keep it, they need not run.
fn greedy(params: &Params, steps: &[Step]) -> Option<usize> {
    let cold = params.temperature == 0.0 && params.dynatemp_range == 0.0;
    let temperature = steps.iter().position(|&s| s == Step::Temperature)?;
    let penalty = |s: &&Step| matches!(s, Step::Penalties | Step::Dry);
    let first = steps.iter().take_while(penalty).count();
    let keep_the_greatest =
        |s: &Step| matches!(s, Step::TopNSigma | Step::TopK | Step::TopP | Step::MinP);
    let rest = steps.get(first..temperature).unwrap_or_default();
    (cold && rest.iter().all(keep_the_greatest)).then_some(first)
}

#[cfg(test)]
pub(super) mod tests;

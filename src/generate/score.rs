//! How probable a text is under a model: the log-probability of every id given those before it.
//!
//! The log-softmax is computed in f64 over ascending ids, with the `libm` crate's `exp` and `log`, so that scores have equal bits on
//! every machine, as the logits have.

use super::{begin, check_context};
use crate::error::{Error, Result};
use crate::model::{Engine, Step, Wanted};
use crate::sample;
use quern_kernels::KvType;

/// Bytes of logits that one pass may produce: every position of a chunk has a row as wide as the vocabulary.
const LOGITS_BYTES: usize = 64 << 20;

/// One id of the text.
pub struct Position<'a> {
    /// Its index.
    pub pos: usize,
    /// The id.
    pub id: u32,
    /// Natural logarithm of its probability given the ids before it; none for the first.
    pub logprob: Option<f64>,
    /// The logits after it: what the model expects next.
    pub logits: &'a [f32],
    /// The logarithm of the sum of their exponentials.
    pub log_sum: f64,
}

impl Position<'_> {
    /// The `n` most probable next ids with their log-probabilities, ties by lower id.
    pub fn top(&self, n: usize) -> Vec<(u32, f64)> {
        top(self.logits, self.log_sum, n)
    }
}

/// The `n` most probable ids of a row with their log-probabilities, ties by lower id; `log_sum` is its [`log_sum_exp`].
pub fn top(logits: &[f32], log_sum: f64, n: usize) -> Vec<(u32, f64)> {
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    let rank = |a: &u32, b: &u32| {
        let (x, y) = (logits[*a as usize], logits[*b as usize]);
        y.partial_cmp(&x)
            .unwrap_or(std::cmp::Ordering::Equal)
            .then(a.cmp(b))
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if n < ids.len() {
        ids.select_nth_unstable_by(n - 1, rank);
        ids.truncate(n);
    }
    ids.sort_unstable_by(rank);
    ids.into_iter()
        .map(|id| (id, f64::from(logits[id as usize]) - log_sum))
        .collect()
}

/// The whole text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Ids that have a log-probability: all but the first.
    pub tokens: usize,
    /// Mean of their negative log-probabilities; none if there are none.
    pub nll: Option<f64>,
}

impl Summary {
    /// `e^nll`.
    pub fn perplexity(&self) -> Option<f64> {
        self.nll.map(libm::exp)
    }
}

/// The logarithm of the sum of exponentials, over ascending ids. At least one logit is a number.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits
        .iter()
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&x| libm::exp(f64::from(x) - max)).sum();
    max + libm::log(sum)
}

/// Scores the ids in one sequence (about this source, where the model has an encoder), in passes of at most `chunk` tokens, and hands every position to `visit` in order.
///
/// # Errors
/// No ids, a source that is missing or that the model has no encoder for (usage), more than the context holds (limit, before anything is run), an id beyond the vocabulary, logits with NaN or
/// infinity (invalid), a model file that changed, what `visit` returns.
pub fn score(
    engine: &mut Engine,
    source: Option<&[u32]>,
    ids: &[u32],
    context: usize,
    kv: KvType,
    chunk: usize,
    mut visit: impl FnMut(Position<'_>) -> Result<()>,
) -> Result<Summary> {
    if ids.is_empty() {
        return Err(Error::usage("there is nothing to score: no tokens"));
    }
    check_context("the text", ids.len(), context)?;
    let model = engine.model().clone();
    let kernels = engine.kernels();
    let rows = LOGITS_BYTES / (4 * model.spec().vocab_size as usize);
    let chunk = chunk.min(rows).max(1);
    let sequence = engine.model().new_sequence(kv);
    let mut sequence = begin(engine, sequence, source, ids.len(), context)?;
    let mut expected: Option<f64> = None;
    let mut sum = 0.0;
    let mut pos = 0;
    for tokens in ids.chunks(chunk) {
        let logits = engine.forward(&mut [Step {
            seq: &mut sequence,
            tokens,
            wanted: Wanted::All,
        }])?;
        model.file().check_unchanged()?;
        for (i, &id) in tokens.iter().enumerate() {
            let row = logits.row(i);
            sample::check(kernels, row).map_err(|e| {
                Error::invalid(format_args!("after the token at position {pos}: {e}"))
            })?;
            let log_sum = log_sum_exp(row);
            if let Some(logprob) = expected {
                sum -= logprob;
            }
            visit(Position {
                pos,
                id,
                logprob: expected,
                logits: row,
                log_sum,
            })?;
            pos += 1;
            expected = ids
                .get(pos)
                .and_then(|&next| row.get(next as usize))
                .map(|&x| f64::from(x) - log_sum);
        }
    }
    let tokens = ids.len() - 1;
    Ok(Summary {
        tokens,
        nll: (tokens > 0).then(|| sum / tokens as f64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_of_known_values() {
        // e^0 + e^(ln 3) = 4; the bound is a few roundings of f64 and of the f32 logarithm.
        let x = [0.0, 3f32.ln(), f32::NEG_INFINITY];
        assert!((log_sum_exp(&x) - 4f64.ln()).abs() < 1e-7);
        // Far beyond what exp could take without the maximum.
        assert!((log_sum_exp(&[1e30, 1e30]) - f64::from(1e30f32)).abs() <= 1e15);
        assert_eq!(log_sum_exp(&[5.0]), 5.0);
    }

    #[test]
    fn top_is_in_order_and_ties_go_to_the_lower_id() {
        let logits = [1.0, 4.0, 2.0, 4.0, 3.0];
        let position = Position {
            pos: 0,
            id: 0,
            logprob: None,
            logits: &logits,
            log_sum: 1.0,
        };
        assert_eq!(position.top(3), [(1, 3.0), (3, 3.0), (4, 2.0)]);
        assert_eq!(position.top(0), []);
        assert_eq!(position.top(99).len(), 5);
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean() {
        let summary = Summary {
            tokens: 2,
            nll: Some(4f64.ln()),
        };
        assert!((summary.perplexity().unwrap() - 4.0).abs() < 1e-12);
        let nothing = Summary {
            tokens: 0,
            nll: None,
        };
        assert_eq!(nothing.perplexity(), None);
    }
}

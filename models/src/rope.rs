//! Rotary position embeddings (Su et al. 2021) and their long-context variants, reduced to what a forward pass needs:
//! one frequency per pair of dimensions. All in f64 through `libm`, so that every machine gets the same bits.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One rotary embedding. Pair k of a head, `(x[k], x[k + dim/2])`, turns by `position * inv_freq[k]`; cos and sin are multiplied by
/// `factor` (1 but for YaRN and LongRoPE).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rope {
    /// Frequencies that do not depend on the sequence: default, linear, llama3, YaRN.
    Fixed {
        /// Radians per position, one per pair.
        inv_freq: Vec<f64>,
        /// Multiplier of cos and sin.
        factor: f64,
    },
    /// Dynamic NTK scaling: the base grows once a sequence of n positions is longer than `max_positions`:
    /// `theta * (factor * s / max - (factor - 1))^(dim / (dim - 2))` with `s = max(n, max)`.
    DynamicNtk {
        /// Rotated dimensions of a head.
        dim: u32,
        /// The base.
        theta: f64,
        /// The scaling factor.
        factor: f64,
        /// `max_position_embeddings` of the configuration.
        max_positions: u32,
    },
    /// LongRoPE (Ding et al. 2024): one set of frequencies for sequences of up to `original` positions, another for longer ones. All
    /// positions of a sequence use the same set, so a sequence that outgrows `original` is computed anew.
    LongRope {
        /// Radians per position up to `original` positions.
        short: Vec<f64>,
        /// Radians per position beyond.
        long: Vec<f64>,
        /// Multiplier of cos and sin in both cases.
        factor: f64,
        /// The length that the model was trained for first.
        original: u32,
    },
}

/// `theta^(-2k/dim)` for k in 0..dim/2.
pub fn default_inv_freq(dim: usize, theta: f64) -> Vec<f64> {
    (0..dim / 2)
        .map(|k| libm::pow(theta, -((2 * k) as f64) / dim as f64))
        .collect()
}

impl Rope {
    /// Rotated dimensions of a head (even).
    pub fn dim(&self) -> usize {
        match self {
            Rope::Fixed { inv_freq, .. } => inv_freq.len() * 2,
            Rope::DynamicNtk { dim, .. } => *dim as usize,
            Rope::LongRope { short, .. } => short.len() * 2,
        }
    }

    /// Multiplier of cos and sin.
    pub fn factor(&self) -> f64 {
        match self {
            Rope::Fixed { factor, .. } | Rope::LongRope { factor, .. } => *factor,
            Rope::DynamicNtk { .. } => 1.0,
        }
    }

    /// Positions for which the rotation was made, where it says so itself: dynamic scaling stretches those of the training by its factor.
    pub fn reach(&self) -> Option<u32> {
        match self {
            Rope::DynamicNtk {
                factor,
                max_positions,
                ..
            } => Some((f64::from(*max_positions) * factor) as u32),
            Rope::Fixed { .. } | Rope::LongRope { .. } => None,
        }
    }

    /// Whether the frequencies depend on the length of the sequence.
    pub fn depends_on_length(&self) -> bool {
        !matches!(self, Rope::Fixed { .. })
    }

    /// Radians per position for a pass that counts `n` positions, one per pair.
    pub fn inv_freq(&self, n: usize) -> Cow<'_, [f64]> {
        match self {
            Rope::Fixed { inv_freq, .. } => Cow::Borrowed(inv_freq),
            Rope::DynamicNtk {
                dim,
                theta,
                factor,
                max_positions,
            } => {
                let (max, d) = (f64::from(*max_positions), f64::from(*dim));
                let s = (n as f64).max(max);
                let base = theta * libm::pow(factor * s / max - (factor - 1.0), d / (d - 2.0));
                Cow::Owned(default_inv_freq(*dim as usize, base))
            }
            Rope::LongRope {
                short,
                long,
                original,
                ..
            } => Cow::Borrowed(if n > *original as usize { long } else { short }),
        }
    }

    /// Checks the stored numbers.
    ///
    /// # Errors
    /// Names the value and what was expected.
    pub fn validate(&self) -> Result<()> {
        let finite = |name: &str, v: f64| {
            if v.is_finite() {
                Ok(())
            } else {
                Err(Error::new(format_args!(
                    "{name} is {v}, expected a finite number"
                )))
            }
        };
        let frequencies = |inv_freq: &[f64]| {
            if inv_freq.is_empty() || inv_freq.len() > 4096 {
                return Err(Error::new(format_args!(
                    "{} frequencies, expected 1 to 4096",
                    inv_freq.len()
                )));
            }
            inv_freq.iter().try_for_each(|&f| finite("a frequency", f))
        };
        match self {
            Rope::Fixed { inv_freq, factor } => {
                frequencies(inv_freq)?;
                finite("factor", *factor)
            }
            Rope::LongRope {
                short,
                long,
                factor,
                original,
            } => {
                frequencies(short)?;
                frequencies(long)?;
                if short.len() != long.len() || *original == 0 {
                    return Err(Error::new(format_args!(
                        "{} short and {} long frequencies up to {original} positions, expected as many of both and a length > 0",
                        short.len(),
                        long.len()
                    )));
                }
                finite("factor", *factor)
            }
            Rope::DynamicNtk {
                dim,
                theta,
                factor,
                max_positions,
            } => {
                if *dim < 4 || dim % 2 != 0 || *dim > 8192 {
                    return Err(Error::new(format_args!(
                        "dim is {dim}, expected an even number from 4 to 8192"
                    )));
                }
                finite("factor", *factor)?;
                if !(theta.is_finite() && *theta > 0.0 && *factor >= 1.0 && *max_positions > 0) {
                    return Err(Error::new(format_args!(
                        "theta {theta}, factor {factor}, max_positions {max_positions}: expected theta > 0, factor >= 1, max_positions > 0"
                    )));
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_ntk_is_the_default_up_to_its_length() {
        let rope = Rope::DynamicNtk {
            dim: 16,
            theta: 1e4,
            factor: 4.0,
            max_positions: 64,
        };
        assert_eq!(*rope.inv_freq(10), default_inv_freq(16, 1e4));
        assert_eq!(*rope.inv_freq(64), default_inv_freq(16, 1e4));
        assert!(rope.inv_freq(65)[7] < rope.inv_freq(64)[7]);
    }
}

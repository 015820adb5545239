//! The gated delta rule: linear attention whose state forgets and corrects what it holds under a key.

use super::conv::Convolution;
use super::norm::Norm;
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, positive, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The gated delta rule (Yang et al. 2024). q, k and v are `silu(conv(qkv x))`; each head of q and k is divided by
/// `sqrt(sum of squares + unit_eps)`, q also by `sqrt(key_dim)`. A value head keeps a matrix S of `key_dim` rows and `value_dim` columns, zero
/// at first, and makes of every token
///
/// ```text
/// S = exp(rate * softplus(w_decay . x + b)) S;   d = sigmoid(w_beta . x) (v - S^T k);   S = S + k d^T;   o = S^T q
/// ```
///
/// The result is `out(norm(o) * silu(z x))` of all value heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaRule {
    /// Heads of q and k.
    pub n_key_heads: u32,
    /// Heads of v, a multiple of `n_key_heads`.
    pub n_value_heads: u32,
    /// Width of a head of q and k.
    pub key_dim: u32,
    /// Width of a head of v.
    pub value_dim: u32,
    /// Whether value head h reads key head `h % n_key_heads`; else `h / (n_value_heads / n_key_heads)`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tiled: bool,
    /// The convolution of q, k and v, whose channels are theirs in this order.
    pub conv: Convolution,
    /// Added to the sum of squares of a head of q or k.
    pub unit_eps: f32,
    /// Norm of each head of o; all heads share `value_dim` weights.
    pub norm: Norm,
}

impl DeltaRule {
    /// Width of all heads of q, or of k.
    pub fn key_width(&self) -> u32 {
        self.n_key_heads * self.key_dim
    }

    /// Width of all heads of v.
    pub fn value_width(&self) -> u32 {
        self.n_value_heads * self.value_dim
    }

    /// Channels of the convolution: q, k and v.
    pub fn channels(&self) -> u32 {
        2 * self.key_width() + self.value_width()
    }

    /// The key head that a value head reads.
    pub fn key_head(&self, value_head: u32) -> u32 {
        if self.tiled {
            value_head % self.n_key_heads
        } else {
            value_head / (self.n_value_heads / self.n_key_heads)
        }
    }

    pub(crate) fn validate(&self, place: &str) -> Result<()> {
        within(place, "n_value_heads", self.n_value_heads, bound::HEADS)?;
        within(place, "n_key_heads", self.n_key_heads, self.n_value_heads)?;
        within(place, "key_dim", self.key_dim, bound::STATE)?;
        within(place, "value_dim", self.value_dim, bound::STATE)?;
        if !self.n_value_heads.is_multiple_of(self.n_key_heads) {
            return Err(Error::new(format_args!(
                "{place}: n_value_heads is {}, expected a multiple of n_key_heads {}",
                self.n_value_heads, self.n_key_heads
            )));
        }
        self.conv.validate(place)?;
        positive(place, "unit_eps", self.unit_eps)?;
        self.norm.validate(&format!("{place}: norm"))
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let (heads, width) = (self.n_value_heads, self.value_width());
        for (role, shape) in [
            (Role::DeltaQkv, Shape::matrix(self.channels(), hidden)),
            (Role::DeltaGate, Shape::matrix(width, hidden)),
            (Role::MixerOut, Shape::matrix(hidden, width)),
            // Small, and an error of a decay grows with every token: kept in f32 as vectors are.
            (Role::DeltaBeta, Shape::Vector(heads * hidden)),
            (Role::DeltaDecay, Shape::Vector(heads * hidden)),
            (Role::DeltaDecayBias, Shape::Vector(heads)),
            (Role::Rate, Shape::Vector(heads)),
        ] {
            let key = at(role);
            out.push(TensorSpec { key, shape });
        }
        let norm = at(Role::GateNorm);
        self.norm
            .tensors(norm, Role::GateNormBias, self.value_dim, out);
        self.conv.tensors(at, self.channels(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_heads_share_key_heads() {
        let mut d = DeltaRule {
            n_key_heads: 2,
            n_value_heads: 6,
            key_dim: 4,
            value_dim: 8,
            tiled: false,
            conv: Convolution {
                kernel: 4,
                bias: false,
                silu: true,
            },
            unit_eps: 1e-6,
            norm: Norm::rms(1e-6),
        };
        d.validate("here").unwrap();
        assert_eq!(d.channels(), 2 * 8 + 48);
        let heads = |d: &DeltaRule| (0..6).map(|h| d.key_head(h)).collect::<Vec<_>>();
        assert_eq!(heads(&d), [0, 0, 0, 1, 1, 1]);
        d.tiled = true;
        assert_eq!(heads(&d), [0, 1, 0, 1, 0, 1]);
        d.n_key_heads = 4;
        let e = d.validate("here").unwrap_err().to_string();
        assert_eq!(
            e,
            "here: n_value_heads is 6, expected a multiple of n_key_heads 4"
        );
    }
}

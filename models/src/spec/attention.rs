//! Attention over a cache of keys and values, with everything that families put around it.

use super::norm::Norm;
use super::relative::RelativeBias;
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, finite, positive, within};
use crate::error::{Error, Result};
use crate::rope::Rope;
use serde::{Deserialize, Serialize};

/// Grouped-query attention (Ainslie et al. 2023); `n_kv_heads == n_heads` is multi-head, 1 is multi-query.
///
/// Order: products and biases, norms (before), clip, rotation, norms (after), scale, `q . k`, soft cap, ALiBi, relative bias, mask,
/// softmax, output gate.
///
/// Where keys and values are those of an earlier layer (`shared`), only q and the output are computed here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; query head h reads head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: u32,
    /// Width of one head of q, k and v.
    pub head_dim: u32,
    /// Multiplier of `q . k` (usually `head_dim^-0.5`).
    pub scale: f32,
    /// Whether q has a bias.
    pub q_bias: bool,
    /// Whether k and v have a bias.
    pub kv_bias: bool,
    /// Whether the output projection has a bias.
    pub o_bias: bool,
    /// Index into [`super::Spec::ropes`]; none: no rotation.
    pub rope: Option<u32>,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Norms of q and k.
    pub qk_norm: Option<QkNorm>,
    /// eps of a root-mean-square norm without weights of every head of v.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v_norm: Option<f32>,
    /// The layer whose only attention made the keys and values that this one reads: there are none of its own (Brandon et al. 2024).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<u32>,
    /// q, k and v are clamped to this magnitude.
    pub clip: Option<f32>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// A bias that grows with the distance of a key.
    pub alibi: Option<Alibi>,
    /// A learned bias that depends on the distance of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<RelativeBias>,
    /// A multiplier of q that grows with its position.
    pub position_scale: Option<PositionScale>,
    /// Whether every head has one more score, a stored constant that is neither scaled nor masked, whose value is zero.
    pub sinks: bool,
    /// Whether the heads are multiplied by `sigmoid(gate x)`, as wide as they are, before the output projection (Qiu et al. 2025).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_gate: bool,
}

/// Which keys a query at position i sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Keys j <= i.
    Causal,
    /// Keys i - window < j <= i: the window counts the query itself.
    Sliding(u32),
    /// Keys j <= i with `j / chunk == i / chunk`, rounded down.
    Chunked(u32),
    /// All keys of the sequence.
    Bidirectional,
    /// Keys |i - j| <= radius.
    Symmetric(u32),
}

impl Mask {
    /// Whether a query sees keys after it: a sequence then goes through the model in one pass.
    pub fn looks_ahead(self) -> bool {
        matches!(self, Mask::Bidirectional | Mask::Symmetric(_))
    }
}

/// Norms of q and k (Henry et al. 2020), one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QkNorm {
    /// Kind, eps, and what is stored.
    pub norm: Norm,
    /// What is normed together, and how many weights there are.
    pub span: NormSpan,
    /// Whether it comes after the rotation.
    pub after_rope: bool,
}

/// What a norm of q or k runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormSpan {
    /// Each head; all heads share `head_dim` weights.
    Head,
    /// Each head; every head has weights of its own.
    EachHead,
    /// All heads together.
    Whole,
}

/// A linear bias per head (Press et al. 2021): `scale * slope_h * j` is added to the score of the key at position j. (A constant per query
/// does not change a softmax, so the distance j - i serves as well.) The slopes follow from the number of heads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alibi {
    /// Multiplier of the bias.
    pub scale: f32,
    /// Slope, position and product are each rounded to bf16, whatever the type of the weights.
    pub bf16: bool,
}

impl Alibi {
    /// Slopes of `n` heads: with n2 the largest power of two up to n, powers 1, 2, 3, ... of `2^(-8 / n2)`, and for the heads beyond
    /// n2 the odd powers of `2^(-8 / (2 n2))`.
    pub fn slopes(n: u32) -> Vec<f64> {
        let n2 = 1u32 << n.max(1).ilog2();
        (0..n)
            .map(|h| {
                let (power, heads) = if h < n2 {
                    (h + 1, n2)
                } else {
                    (2 * (h - n2) + 1, 2 * n2)
                };
                libm::exp2(-8.0 * f64::from(power) / f64::from(heads))
            })
            .collect()
    }
}

/// q at position t is multiplied by `1 + beta * ln(1 + floor((t + offset) / period))`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionScale {
    /// Strength.
    pub beta: f64,
    /// Positions per step.
    pub period: f64,
    /// Added to the position.
    pub offset: u32,
}

impl PositionScale {
    /// The multiplier at a position.
    pub fn at(&self, position: usize) -> f64 {
        let steps = ((position as f64 + f64::from(self.offset)) / self.period).floor();
        1.0 + self.beta * libm::log(1.0 + steps)
    }

    pub(super) fn validate(&self, place: &str) -> Result<()> {
        if self.beta.is_finite() && self.period.is_finite() && self.period > 0.0 {
            return Ok(());
        }
        Err(Error::new(format_args!(
            "{place}: position_scale has beta {} and period {}, expected finite numbers and a period > 0",
            self.beta, self.period
        )))
    }
}

impl Attention {
    /// Causal attention without anything around it: scale `head_dim^-0.5`, no bias, no rotation.
    pub fn new(n_heads: u32, n_kv_heads: u32, head_dim: u32) -> Attention {
        Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: (1.0 / f64::from(head_dim).sqrt()) as f32,
            q_bias: false,
            kv_bias: false,
            o_bias: false,
            rope: None,
            mask: Mask::Causal,
            qk_norm: None,
            v_norm: None,
            shared: None,
            clip: None,
            softcap: None,
            alibi: None,
            relative: None,
            position_scale: None,
            sinks: false,
            output_gate: false,
        }
    }

    /// Width of all query heads together.
    pub fn q_width(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn kv_width(&self) -> u32 {
        self.n_kv_heads * self.head_dim
    }

    pub(super) fn validate(&self, place: &str, ropes: &[Rope]) -> Result<()> {
        within(place, "n_heads", self.n_heads, bound::HEADS)?;
        within(place, "n_kv_heads", self.n_kv_heads, self.n_heads)?;
        within(place, "head_dim", self.head_dim, bound::HEAD_DIM)?;
        finite(place, "scale", self.scale)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(Error::new(format_args!(
                "{place}: n_heads is {}, expected a multiple of n_kv_heads {}",
                self.n_heads, self.n_kv_heads
            )));
        }
        if let Mask::Sliding(window) | Mask::Chunked(window) = self.mask {
            within(place, "window", window, u32::MAX)?;
        }
        if let Some(index) = self.rope {
            let Some(rope) = ropes.get(index as usize) else {
                return Err(Error::new(format_args!(
                    "{place}: rope is {index}, but there are {} ropes",
                    ropes.len()
                )));
            };
            if rope.dim() > self.head_dim as usize {
                return Err(Error::new(format_args!(
                    "{place}: rope {index} rotates {} dimensions of a head of {}",
                    rope.dim(),
                    self.head_dim
                )));
            }
        }
        if let Some(qk) = &self.qk_norm {
            qk.norm.validate(&format!("{place}: qk_norm"))?;
            if qk.span == NormSpan::Whole && qk.after_rope {
                return Err(Error::new(format_args!(
                    "{place}: qk_norm over the whole vector comes after the rotation, expected before"
                )));
            }
        }
        if let Some(eps) = self.v_norm
            && !(eps.is_finite() && eps >= 0.0)
        {
            return Err(Error::new(format_args!(
                "{place}: v_norm is {eps}, expected a finite number >= 0"
            )));
        }
        if let Some(clip) = self.clip {
            positive(place, "clip", clip)?;
        }
        if let Some(cap) = self.softcap {
            positive(place, "softcap", cap)?;
        }
        if let Some(alibi) = &self.alibi {
            finite(place, "alibi.scale", alibi.scale)?;
        }
        if let Some(relative) = &self.relative {
            relative.validate(place)?;
        }
        if let Some(p) = &self.position_scale {
            p.validate(place)?;
        }
        Ok(())
    }

    /// Whether this one can read the keys and values that `other` made.
    pub(super) fn reads(&self, other: &Attention) -> bool {
        let shape = |a: &Attention| (a.n_kv_heads, a.head_dim, a.mask);
        other.shared.is_none() && shape(self) == shape(other)
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let (q, kv) = (self.q_width(), self.kv_width());
        let mut push = |role, shape| {
            out.push(TensorSpec {
                key: at(role),
                shape,
            })
        };
        let own = self.shared.is_none();
        push(Role::AttnQ, Shape::matrix(q, hidden));
        if own {
            push(Role::AttnK, Shape::matrix(kv, hidden));
            push(Role::AttnV, Shape::matrix(kv, hidden));
        }
        push(Role::AttnO, Shape::matrix(hidden, q));
        if self.q_bias {
            push(Role::AttnQBias, Shape::Vector(q));
        }
        if self.kv_bias && own {
            push(Role::AttnKBias, Shape::Vector(kv));
            push(Role::AttnVBias, Shape::Vector(kv));
        }
        if self.o_bias {
            push(Role::AttnOBias, Shape::Vector(hidden));
        }
        if self.sinks {
            push(Role::AttnSinks, Shape::Vector(self.n_heads));
        }
        if let Some(relative) = &self.relative {
            let values = self.n_heads * relative.buckets;
            push(Role::AttnRelativeBias, Shape::Vector(values));
        }
        if self.output_gate {
            push(Role::AttnGate, Shape::matrix(q, hidden));
        }
        if let Some(QkNorm { norm, span, .. }) = &self.qk_norm {
            let both = [
                (Role::AttnQNorm, Role::AttnQNormBias, q),
                (Role::AttnKNorm, Role::AttnKNormBias, kv),
            ];
            for (weight, bias, width) in both.into_iter().take(1 + usize::from(own)) {
                let width = match span {
                    NormSpan::Head => self.head_dim,
                    NormSpan::EachHead | NormSpan::Whole => width,
                };
                norm.tensors(at(weight), bias, width, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_powers_of_two_and_others() {
        assert_eq!(
            Alibi::slopes(8),
            (1..=8).map(|k| 0.5f64.powi(k)).collect::<Vec<_>>()
        );
        let twelve = Alibi::slopes(12);
        assert_eq!(twelve[..8], Alibi::slopes(8)[..]);
        // Heads 9 to 12: odd powers of 2^-0.5.
        let root = 0.5f64.sqrt();
        for (s, power) in twelve[8..].iter().zip([1, 3, 5, 7]) {
            assert!((s - root.powi(power)).abs() < 1e-15);
        }
    }

    #[test]
    fn position_scale_steps() {
        let scale = PositionScale {
            beta: 0.5,
            period: 32.0,
            offset: 0,
        };
        assert_eq!(scale.at(31), 1.0);
        assert_eq!(scale.at(32), 1.0 + 0.5 * libm::log(2.0));
        assert_eq!(scale.at(95), 1.0 + 0.5 * libm::log(3.0));
        let next = PositionScale { offset: 1, ..scale };
        assert_eq!(next.at(30), 1.0);
        assert_eq!(next.at(31), scale.at(32));
    }
}

//! Mixtures of experts: a router chooses a few of many feed-forward networks for every token (Shazeer et al. 2017).

use super::dense::Activation;
use super::norm::Norm;
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, finite, is_one, one, positive, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Gated networks of the same shape, of which every token runs `used`: `sum over the chosen of weight * expert(x)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// How many there are.
    pub count: u32,
    /// How many a token runs.
    pub used: u32,
    /// Width of the inner vector of one.
    pub inner: u32,
    /// The non-linearity of the gate.
    pub activation: Activation,
    /// With a limit, `down(act(min(gate, limit)) * (clip(up, -limit, limit) + 1))`.
    pub limit: Option<f32>,
    /// Whether gate and up have a bias.
    pub up_bias: bool,
    /// Whether down has a bias.
    pub down_bias: bool,
    /// How they are chosen and weighted.
    pub router: Router,
}

/// From `logits = logit_scale * (matrix norm(x)) (+ bias)` to the chosen experts and their weights. Of equal scores the expert with the lower index wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// The router reads the block's input behind this norm instead of what the experts read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// Multiplier of the products, before the bias.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub logit_scale: f32,
    /// From logits to scores.
    pub scores: RouterScores,
    /// Whether the logits have a bias.
    pub bias: bool,
    /// Whether a stored value per expert is added to the scores for the choice, and only for it (Wang et al. 2024).
    pub correction: bool,
    /// Experts are chosen from the best groups only.
    pub groups: Option<Groups>,
    /// Whether the weights are divided by their sum.
    pub normalize: bool,
    /// Added to the sum that they are divided by.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub floor: f32,
    /// Multiplier of the weights.
    pub scale: f32,
    /// Whether the weight of an expert is multiplied by a stored value of its own as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expert_scales: bool,
    /// Whether the weights multiply the inputs of the experts in place of their outputs.
    pub scales_input: bool,
}

/// From logits to scores, which order the experts and weight the chosen ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScores {
    /// Softmax over all experts.
    Softmax,
    /// The logits order; the weights are a softmax over the chosen.
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
    /// The logits order; the weights are the sigmoids of the chosen.
    SigmoidOfChosen,
    /// The experts are chosen one after another; each weight is a softmax over those not chosen yet whose logit l is near the best m of them:
    /// `m - l <= 2 jitter * max(|l|, m)` (Liu et al. 2023).
    SparseMixer {
        /// Half the relative distance within which experts count.
        jitter: f32,
    },
}

/// Consecutive groups of experts of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// How many there are.
    pub count: u32,
    /// How many may be chosen from.
    pub used: u32,
    /// What orders them: the sum of so many of their largest scores, 1 or 2.
    pub best: u32,
}

fn is_zero(x: &f32) -> bool {
    *x == 0.0
}

impl Router {
    /// A router without biases and groups.
    pub fn new(scores: RouterScores, normalize: bool) -> Router {
        Router {
            norm: None,
            logit_scale: 1.0,
            scores,
            bias: false,
            correction: false,
            groups: None,
            normalize,
            floor: 0.0,
            scale: 1.0,
            expert_scales: false,
            scales_input: false,
        }
    }
}

impl Experts {
    /// Networks without biases.
    pub fn new(
        count: u32,
        used: u32,
        inner: u32,
        activation: Activation,
        router: Router,
    ) -> Experts {
        Experts {
            count,
            used,
            inner,
            activation,
            limit: None,
            up_bias: false,
            down_bias: false,
            router,
        }
    }

    pub(super) fn validate(&self, place: &str) -> Result<()> {
        within(place, "experts", self.count, bound::EXPERTS)?;
        within(place, "used experts", self.used, self.count)?;
        within(place, "inner", self.inner, bound::INNER)?;
        self.activation.validate(place)?;
        if let Some(limit) = self.limit {
            positive(place, "limit", limit)?;
        }
        let router = &self.router;
        finite(place, "router.scale", router.scale)?;
        finite(place, "router.floor", router.floor)?;
        finite(place, "router.logit_scale", router.logit_scale)?;
        if let Some(norm) = &router.norm {
            norm.validate(&format!("{place}: router.norm"))?;
        }
        if let RouterScores::SparseMixer { jitter } = router.scores {
            finite(place, "router.jitter", jitter)?;
        }
        if let Some(g) = &router.groups {
            within(place, "router.groups.count", g.count, self.count)?;
            within(place, "router.groups.used", g.used, g.count)?;
            let size = self.count / g.count;
            within(place, "router.groups.best", g.best, size.min(2))?;
            if !self.count.is_multiple_of(g.count) || g.used * size < self.used {
                return Err(Error::new(format_args!(
                    "{place}: {} of {} groups for {} of {} experts, expected groups of one size with enough experts in those used",
                    g.used, g.count, self.used, self.count
                )));
            }
        }
        Ok(())
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let (count, inner) = (self.count, self.inner);
        let stack = |rows, cols| Shape::Matrix { count, rows, cols };
        let shapes = [
            // Small and decisive: kept in f32 as vectors are.
            (Role::Router, true, Shape::Vector(count * hidden)),
            (Role::RouterBias, self.router.bias, Shape::Vector(count)),
            (
                Role::RouterCorrection,
                self.router.correction,
                Shape::Vector(count),
            ),
            (
                Role::RouterExpertScales,
                self.router.expert_scales,
                Shape::Vector(count),
            ),
            (Role::ExpertGate, true, stack(inner, hidden)),
            (Role::ExpertUp, true, stack(inner, hidden)),
            (Role::ExpertDown, true, stack(hidden, inner)),
            (
                Role::ExpertGateBias,
                self.up_bias,
                Shape::Vector(count * inner),
            ),
            (
                Role::ExpertUpBias,
                self.up_bias,
                Shape::Vector(count * inner),
            ),
            (
                Role::ExpertDownBias,
                self.down_bias,
                Shape::Vector(count * hidden),
            ),
        ];
        for (role, there, shape) in shapes {
            if there {
                let key = at(role);
                out.push(TensorSpec { key, shape });
            }
        }
        if let Some(norm) = &self.router.norm {
            norm.tensors(at(Role::RouterNorm), Role::RouterNormBias, hidden, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_must_hold_the_experts_that_are_used() {
        let mut e = Experts::new(
            8,
            3,
            16,
            Activation::Silu,
            Router::new(RouterScores::Sigmoid, true),
        );
        let mut with = |count, used, best| {
            e.router.groups = Some(Groups { count, used, best });
            e.validate("here")
        };
        assert!(with(4, 2, 2).is_ok());
        assert!(with(8, 8, 1).is_ok());
        for (count, used, best) in [(4, 1, 1), (3, 3, 1), (8, 8, 2), (0, 0, 1), (4, 5, 1)] {
            assert!(with(count, used, best).is_err(), "{count} {used} {best}");
        }
    }
}

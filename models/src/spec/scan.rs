//! Recurrent mixers that sweep a state space over the tokens.

use super::conv::Convolution;
use super::norm::Norm;
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, finite, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A selective scan (Gu and Dao 2023). With rows u, z of `in x`:
///
/// ```text
/// v = conv(u);   r, B, C = scan_in v;   d = softplus(step r + step_bias)
/// S[c][n] = exp(d[c] rate[c][n]) S[c][n] + d[c] v[c] B[n]
/// y[c] = skip[c] v[c] + sum over n of S[c][n] C[n];   out(y * silu(z))
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectiveScan {
    /// Channels c.
    pub inner: u32,
    /// Elements n of the state of a channel.
    pub state: u32,
    /// Width of r.
    pub step_rank: u32,
    /// The convolution of the channels.
    pub conv: Convolution,
    /// Whether `in` and `out` have biases.
    pub bias: bool,
}

/// A scan of heads whose state decays as one (Dao and Gu 2024). With rows z, w, e of `in x`:
///
/// ```text
/// v, B, C = conv(w);   d = clamp(softplus(step_scale e + step_bias), step_min, step_max)
/// S[c][n] = exp(d rate) S[c][n] + d v[c] B[n]                  per head; B and C per group of heads
/// y[c] = skip v[c] + sum over n of S[c][n] C[n];   out(gated(y, gate_scale z))
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSpace {
    /// How many heads there are; each has one step, rate of decay and skip.
    pub heads: u32,
    /// Channels c of a head.
    pub head_dim: u32,
    /// Elements n of the state of a channel.
    pub state: u32,
    /// Consecutive heads that share B and C, as many groups of them.
    pub groups: u32,
    /// The convolution of all channels, B and C.
    pub conv: Convolution,
    /// Whether `in` has a bias.
    pub in_bias: bool,
    /// Whether `out` has a bias.
    pub out_bias: bool,
    /// Multiplier of the gate.
    pub gate_scale: f32,
    /// Multiplier of the step before its bias.
    pub step_scale: f32,
    /// Least step.
    pub step_min: f32,
    /// Greatest step; none: unbounded.
    pub step_max: Option<f32>,
    /// What surrounds the gate.
    pub gate: Gate,
}

/// The end of a [`StateSpace`] before its output projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// `y * silu(z)`.
    Plain,
    /// `norm(y * silu(z))`, over the channels of each group of heads.
    NormAfter(Norm),
    /// `norm(y) * silu(z)`, over the channels of each group of heads.
    NormBefore(Norm),
}

impl Gate {
    /// Its norm.
    pub fn norm(&self) -> Option<&Norm> {
        match self {
            Gate::Plain => None,
            Gate::NormAfter(norm) | Gate::NormBefore(norm) => Some(norm),
        }
    }
}

impl SelectiveScan {
    pub(crate) fn validate(&self, place: &str) -> Result<()> {
        within(place, "inner", self.inner, bound::INNER)?;
        within(place, "state", self.state, bound::STATE)?;
        within(place, "step_rank", self.step_rank, bound::INNER)?;
        self.conv.validate(place)
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let (inner, low) = (self.inner, self.step_rank + 2 * self.state);
        let shapes = [
            (Role::MixerIn, true, Shape::matrix(2 * inner, hidden)),
            (Role::MixerInBias, self.bias, Shape::Vector(2 * inner)),
            (Role::ScanIn, true, Shape::matrix(low, inner)),
            (
                Role::StepProjection,
                true,
                Shape::matrix(inner, self.step_rank),
            ),
            (Role::StepBias, true, Shape::Vector(inner)),
            (Role::Rate, true, Shape::Vector(inner * self.state)),
            (Role::Skip, true, Shape::Vector(inner)),
            (Role::MixerOut, true, Shape::matrix(hidden, inner)),
            (Role::MixerOutBias, self.bias, Shape::Vector(hidden)),
        ];
        for (role, there, shape) in shapes {
            if there {
                let key = at(role);
                out.push(TensorSpec { key, shape });
            }
        }
        self.conv.tensors(at, inner, out);
    }
}

impl StateSpace {
    /// One head of one channel with these limits of the step, without biases, multipliers and norm: sizes are filled in from here.
    pub fn new(conv: Convolution, (step_min, step_max): (f32, Option<f32>)) -> StateSpace {
        StateSpace {
            heads: 1,
            head_dim: 1,
            state: 1,
            groups: 1,
            conv,
            in_bias: false,
            out_bias: false,
            gate_scale: 1.0,
            step_scale: 1.0,
            step_min,
            step_max,
            gate: Gate::Plain,
        }
    }

    /// Channels of all heads.
    pub fn inner(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Channels of the convolution: those of all heads, then B and C of all groups.
    pub fn conv_channels(&self) -> u32 {
        self.inner() + 2 * self.groups * self.state
    }

    pub(crate) fn validate(&self, place: &str) -> Result<()> {
        within(place, "heads", self.heads, bound::HEADS)?;
        within(place, "head_dim", self.head_dim, bound::HEAD_DIM)?;
        within(place, "inner", self.inner(), bound::INNER)?;
        within(place, "state", self.state, bound::STATE)?;
        within(place, "groups", self.groups, self.heads)?;
        within(
            place,
            "groups * state",
            self.groups * self.state,
            bound::INNER,
        )?;
        if !self.heads.is_multiple_of(self.groups) {
            return Err(Error::new(format_args!(
                "{place}: heads is {}, expected a multiple of groups {}",
                self.heads, self.groups
            )));
        }
        self.conv.validate(place)?;
        finite(place, "gate_scale", self.gate_scale)?;
        finite(place, "step_scale", self.step_scale)?;
        finite(place, "step_min", self.step_min)?;
        if let Some(max) = self.step_max
            && !(max.is_finite() && max >= self.step_min)
        {
            return Err(Error::new(format_args!(
                "{place}: step_max is {max}, expected a number >= step_min {}",
                self.step_min
            )));
        }
        let mut norms = self.gate.norm().into_iter();
        norms.try_for_each(|norm| norm.validate(&format!("{place}: gate")))
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let (inner, heads) = (self.inner(), self.heads);
        let rows = inner + self.conv_channels() + heads;
        let shapes = [
            (Role::MixerIn, true, Shape::matrix(rows, hidden)),
            (Role::MixerInBias, self.in_bias, Shape::Vector(rows)),
            (Role::StepBias, true, Shape::Vector(heads)),
            (Role::Rate, true, Shape::Vector(heads)),
            (Role::Skip, true, Shape::Vector(heads)),
            (Role::MixerOut, true, Shape::matrix(hidden, inner)),
            (Role::MixerOutBias, self.out_bias, Shape::Vector(hidden)),
        ];
        for (role, there, shape) in shapes {
            if there {
                let key = at(role);
                out.push(TensorSpec { key, shape });
            }
        }
        if let Some(norm) = self.gate.norm() {
            norm.tensors(at(Role::GateNorm), Role::GateNormBias, inner, out);
        }
        self.conv.tensors(at, self.conv_channels(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_heads_are_bounded() {
        let conv = Convolution {
            kernel: 4,
            bias: true,
            silu: true,
        };
        let good = StateSpace {
            heads: 8,
            head_dim: 16,
            state: 16,
            groups: 2,
            ..StateSpace::new(conv, (0.0, None))
        };
        good.validate("here").unwrap();
        let refused = |edit: &dyn Fn(&mut StateSpace)| {
            let mut bad = good.clone();
            edit(&mut bad);
            bad.validate("here").unwrap_err().to_string()
        };
        assert!(refused(&|s| s.groups = 3).contains("expected a multiple of groups 3"));
        assert!(refused(&|s| s.state = 1 << 20).contains("state is 1048576"));
        assert!(refused(&|s| (s.heads, s.head_dim) = (4096, 4096)).contains("inner is 16777216"));
        assert!(refused(&|s| s.conv.kernel = 0).contains("conv.kernel is 0"));
        assert!(refused(&|s| s.step_max = Some(-1.0)).contains("step_max is -1"));
        assert!(refused(&|s| s.gate_scale = f32::NAN).contains("gate_scale"));
        let norm = Norm::rms(-1.0);
        assert!(refused(&|s| s.gate = Gate::NormAfter(norm.clone())).contains("eps is -1"));
    }
}

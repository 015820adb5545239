//! Causal convolutions over tokens, alone and as part of other operations.

use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, within};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// A causal convolution of every channel with itself: `y[t][c] = act(bias[c] + sum over k of weight[k][c] * x[t - K + 1 + k][c])` with
/// zeros before the first token. The state is the last K - 1 inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convolution {
    /// K: how many tokens an output depends on.
    pub kernel: u32,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether silu follows.
    pub silu: bool,
}

impl Convolution {
    /// Checks the numbers of a convolution of so many channels.
    pub(crate) fn validate(&self, place: &str) -> Result<()> {
        within(place, "conv.kernel", self.kernel, bound::KERNEL)
    }

    /// Its tensors; taps are rows.
    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        channels: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let mut push = |role, shape| {
            out.push(TensorSpec {
                key: at(role),
                shape,
            })
        };
        push(Role::ConvWeight, Shape::Vector(self.kernel * channels));
        if self.bias {
            push(Role::ConvBias, Shape::Vector(channels));
        }
    }
}

/// A gated short convolution: with rows b, c, u of `in x`, each as wide as the stream, `out(c * conv(b * u))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortConv {
    /// The convolution, without silu.
    pub conv: Convolution,
    /// Whether the projections have biases.
    pub bias: bool,
}

impl ShortConv {
    pub(crate) fn validate(&self, place: &str) -> Result<()> {
        self.conv.validate(place)
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let shapes = [
            (Role::MixerIn, true, Shape::matrix(3 * hidden, hidden)),
            (Role::MixerInBias, self.bias, Shape::Vector(3 * hidden)),
            (Role::MixerOut, true, Shape::matrix(hidden, hidden)),
            (Role::MixerOutBias, self.bias, Shape::Vector(hidden)),
        ];
        for (role, there, shape) in shapes {
            if there {
                let key = at(role);
                out.push(TensorSpec { key, shape });
            }
        }
        self.conv.tensors(at, hidden, out);
    }
}

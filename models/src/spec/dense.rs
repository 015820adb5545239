//! Feed-forward networks.

use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, finite, is_one, one, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A feed-forward network: `down(act(scale * gate(x)) * up(x))`, or `down(act(up(x)))` without a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Width of the inner vector.
    pub inner: u32,
    /// The non-linearity.
    pub activation: Activation,
    /// Whether there is a gate.
    pub gated: bool,
    /// Before the non-linearity a value z of the gate becomes `max(z - (mean + cutoff * deviation), 0)`, with the mean and the standard
    /// deviation of all its values: it makes the inner vector sparse. Only without biases of gate and up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<f32>,
    /// Whether gate and up have a bias.
    pub up_bias: bool,
    /// Whether down has a bias.
    pub down_bias: bool,
    /// Whether the output is multiplied by `sigmoid(w . x)` with a stored vector w.
    pub output_gate: bool,
    /// Multiplier of the gate before its non-linearity.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub gate_scale: f32,
}

/// Non-linearities of feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x itself.
    Identity,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)` with the error function.
    Gelu,
    /// The tanh approximation of gelu.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `positive x^2 + beta x` for x > 0, else `negative (expm1(min(x, eps)) - x) + beta x` (Huang and Schlag 2025).
    #[serde(rename = "xielu")]
    XIelu {
        /// Softplus of the stored alpha_p.
        positive: f32,
        /// beta + softplus of the stored alpha_n.
        negative: f32,
        /// Slope at zero.
        beta: f32,
        /// A small negative number.
        eps: f32,
    },
}

impl Activation {
    pub(super) fn validate(&self, place: &str) -> Result<()> {
        if let Activation::XIelu {
            positive,
            negative,
            beta,
            eps,
        } = *self
        {
            for (field, value) in [
                ("activation.positive", positive),
                ("activation.negative", negative),
                ("activation.beta", beta),
                ("activation.eps", eps),
            ] {
                finite(place, field, value)?;
            }
        }
        Ok(())
    }
}

impl Dense {
    /// `down(act(gate(x)) * up(x))` without biases.
    pub fn gated(inner: u32, activation: Activation) -> Dense {
        Dense {
            inner,
            activation,
            gated: true,
            cutoff: None,
            up_bias: false,
            down_bias: false,
            output_gate: false,
            gate_scale: 1.0,
        }
    }

    /// `down(act(up(x)))`, all biased or none.
    pub fn plain(inner: u32, activation: Activation, bias: bool) -> Dense {
        Dense {
            inner,
            activation,
            gated: false,
            cutoff: None,
            up_bias: bias,
            down_bias: bias,
            output_gate: false,
            gate_scale: 1.0,
        }
    }

    pub(super) fn validate(&self, place: &str) -> Result<()> {
        within(place, "inner", self.inner, bound::INNER)?;
        finite(place, "gate_scale", self.gate_scale)?;
        if let Some(cutoff) = self.cutoff {
            finite(place, "cutoff", cutoff)?;
            if !self.gated || self.up_bias {
                return Err(Error::new(format_args!(
                    "{place}: cutoff is {cutoff}, expected none without a gate or with a bias of it"
                )));
            }
        }
        self.activation.validate(place)
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let mut push = |role, shape| {
            out.push(TensorSpec {
                key: at(role),
                shape,
            })
        };
        if self.gated {
            push(Role::MlpGate, Shape::matrix(self.inner, hidden));
        }
        push(Role::MlpUp, Shape::matrix(self.inner, hidden));
        push(Role::MlpDown, Shape::matrix(hidden, self.inner));
        if self.up_bias {
            if self.gated {
                push(Role::MlpGateBias, Shape::Vector(self.inner));
            }
            push(Role::MlpUpBias, Shape::Vector(self.inner));
        }
        if self.down_bias {
            push(Role::MlpDownBias, Shape::Vector(hidden));
        }
        if self.output_gate {
            push(Role::MlpOutputGate, Shape::Vector(hidden));
        }
    }
}

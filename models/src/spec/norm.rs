//! Normalisations.

use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// Added to the mean square (or variance) before the root.
    pub eps: f32,
    /// Whether a weight vector is stored.
    pub weight: bool,
    /// Whether a bias vector is stored.
    pub bias: bool,
}

/// The two normalisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)` (Zhang and Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(var + eps)`, biased variance (Ba et al. 2016).
    Layer,
}

impl Norm {
    /// Root mean square with a weight.
    pub fn rms(eps: f32) -> Norm {
        Norm {
            kind: NormKind::Rms,
            eps,
            weight: true,
            bias: false,
        }
    }

    /// Mean and variance, with a weight and perhaps a bias.
    pub fn layer(eps: f32, bias: bool) -> Norm {
        Norm {
            kind: NormKind::Layer,
            eps,
            weight: true,
            bias,
        }
    }

    /// The same without weight and bias.
    pub fn bare(self) -> Norm {
        Norm {
            weight: false,
            bias: false,
            ..self
        }
    }

    pub(super) fn validate(&self, place: &str) -> Result<()> {
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(Error::new(format_args!(
                "{place}: eps is {}, expected a finite number >= 0",
                self.eps
            )));
        }
        Ok(())
    }

    pub(super) fn tensors(
        &self,
        key: TensorKey,
        bias: Role,
        width: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        if self.weight {
            out.push(TensorSpec {
                key,
                shape: Shape::Vector(width),
            });
        }
        if self.bias {
            out.push(TensorSpec {
                key: TensorKey { role: bias, ..key },
                shape: Shape::Vector(width),
            });
        }
    }
}

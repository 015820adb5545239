//! From the hidden vectors of a text to one vector: pooling, then projections.

use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the hidden vectors of a text become one (Reimers and Gurevych 2019).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    /// What is taken of the hidden vectors, where the model says.
    pub pooling: Option<Pooling>,
    /// What the pooled vector goes through, in this order.
    pub projections: Vec<Projection>,
    /// Whether there is a pooler: `tanh(dense(x_0))`, which stands beside all that (Devlin et al. 2019).
    pub pooler: bool,
}

/// What is taken of the hidden vectors of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first.
    Cls,
    /// Their mean.
    Mean,
    /// The last.
    Last,
}

/// `act(matrix(x) + bias)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// Width of the result.
    pub width: u32,
    /// Whether there is a bias.
    pub bias: bool,
    /// The non-linearity, if there is one.
    pub activation: Option<ProjectionActivation>,
}

/// Non-linearities after a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionActivation {
    /// Hyperbolic tangent.
    Tanh,
}

impl Embedding {
    /// Width of an embedding.
    pub fn width(&self, hidden: u32) -> u32 {
        self.projections.last().map_or(hidden, |p| p.width)
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.projections.len() > bound::BLOCKS {
            return Err(Error::new(format_args!(
                "spec: {} projections of the embedding, expected at most {}",
                self.projections.len(),
                bound::BLOCKS
            )));
        }
        for (i, projection) in self.projections.iter().enumerate() {
            let place = format!("embedding.projections.{i}");
            within(&place, "width", projection.width, bound::HIDDEN)?;
        }
        Ok(())
    }

    pub(super) fn tensors(&self, hidden: u32, out: &mut Vec<TensorSpec>) {
        let mut push = |key, shape| out.push(TensorSpec { key, shape });
        if self.pooler {
            push(
                TensorKey::model(Role::Pooler),
                Shape::matrix(hidden, hidden),
            );
            push(TensorKey::model(Role::PoolerBias), Shape::Vector(hidden));
        }
        let mut width = hidden;
        for (i, projection) in self.projections.iter().enumerate() {
            let key = |role| TensorKey::projection(i, role);
            let shape = Shape::matrix(projection.width, width);
            push(key(Role::Projection), shape);
            if projection.bias {
                push(key(Role::ProjectionBias), Shape::Vector(projection.width));
            }
            width = projection.width;
        }
    }
}

//! Inputs of single layers: besides the stream, every layer may see a small vector of its own for every token (Gemma Team 2025).
//!
//! ```text
//! inputs = scale * (norm(projection(x)) + row_scale * table[id])     once per token, x being the stream before the first layer
//! branch = output(act(gate(h)) * inputs[layer])                      in a layer
//! ```
//!
//! `inputs` is as many vectors of `width` as there are layers, one after another; each is normed alone, by the same weights.

use super::dense::Activation;
use super::norm::Norm;
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, finite, within};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// How the inputs of all layers are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerLayerInputs {
    /// Width of the vector of one layer.
    pub width: u32,
    /// Rows of the table; ids beyond get row 0.
    pub rows: u32,
    /// Norm of the projection, layer by layer.
    pub norm: Norm,
    /// Multiplier of a row of the table.
    pub row_scale: f32,
    /// Multiplier of the sum.
    pub scale: f32,
}

/// How a layer uses its own vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerLayer {
    /// The non-linearity of the gate.
    pub activation: Activation,
}

impl PerLayerInputs {
    /// Width of the vectors of all layers together.
    fn all(&self, layers: usize) -> u32 {
        // Both are bounded: 2^11 layers of at most 2^18.
        self.width * layers as u32
    }

    pub(super) fn validate(&self) -> Result<()> {
        let place = "spec: embed.per_layer";
        within(place, "width", self.width, bound::HIDDEN)?;
        within(place, "rows", self.rows, bound::VOCAB)?;
        finite(place, "row_scale", self.row_scale)?;
        finite(place, "scale", self.scale)?;
        self.norm.validate(place)
    }

    pub(super) fn tensors(&self, hidden: u32, layers: usize, out: &mut Vec<TensorSpec>) {
        let all = self.all(layers);
        for (role, rows, cols) in [
            (Role::PerLayerEmbedding, self.rows, all),
            (Role::PerLayerProjection, all, hidden),
        ] {
            out.push(TensorSpec {
                key: TensorKey::model(role),
                shape: Shape::matrix(rows, cols),
            });
        }
        let key = TensorKey::model(Role::PerLayerNorm);
        self.norm
            .tensors(key, Role::PerLayerNormBias, self.width, out);
    }
}

impl PerLayer {
    pub(super) fn validate(&self, place: &str) -> Result<()> {
        self.activation.validate(place)
    }

    /// `width` is that of [`PerLayerInputs`].
    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        width: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        for (role, shape) in [
            (Role::PerLayerGate, Shape::matrix(width, hidden)),
            (Role::PerLayerOutput, Shape::matrix(hidden, width)),
        ] {
            let key = at(role);
            out.push(TensorSpec { key, shape });
        }
    }
}

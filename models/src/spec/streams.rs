//! Several residual streams beside each other, of which a layer computes one and predicts the others (Baykal et al. 2023).
//!
//! ```text
//! before the first layer, from the embedding e:  h_0 = e;  h_j = like(projection_j e, e)
//! a layer:  p_i = h_i + sum over j of C[i][j] h_j           C = prediction m(h_active), count x count
//!           y = the blocks of the layer on p_active
//!           h_j = p_j + c_j (y - p_active)                  c = 1 + correction m(y)
//!           h_j = h_j + post(per_layer(weight * h_active))  for j > 0
//! after the last layer:  x = mean of h_0 and like(unprojection_j h_j, h_0)
//!
//! m(v) = tanh(router_scale * (router norm(v)))              count values
//! like(y, e) = y * sqrt(mean(e^2)) / sqrt(max(mean(y^2), 1e-5))
//! ```

use super::norm::Norm;
use super::per_layer::PerLayer;
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, finite, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a stack does with its streams; every layer has coefficients of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Streams {
    /// How many there are.
    pub count: u32,
    /// The one that the layers compute.
    pub active: u32,
    /// Norm of what the router reads.
    pub norm: Norm,
    /// Multiplier of the router's products.
    pub router_scale: f32,
    /// What joins all streams but the first after a layer.
    pub injection: Option<Injection>,
}

/// `post(per_layer(weight * h_active))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injection {
    /// Whether what it reads is multiplied by a stored vector.
    pub weight: bool,
    /// What it computes.
    pub per_layer: PerLayer,
    /// Norm of the result.
    pub post: Norm,
}

impl Streams {
    /// `per_layer` says whether there are vectors of single layers.
    pub(super) fn validate(&self, per_layer: bool) -> Result<()> {
        let place = "spec: decoder.streams";
        within(place, "count", self.count, bound::STREAMS)?;
        if self.count < 2 || self.active >= self.count {
            return Err(Error::new(format_args!(
                "{place}: stream {} of {} is active, expected one of at least 2",
                self.active, self.count
            )));
        }
        self.norm.validate(place)?;
        finite(place, "router_scale", self.router_scale)?;
        let Some(injection) = &self.injection else {
            return Ok(());
        };
        if !per_layer {
            return Err(Error::new(format_args!(
                "{place}: injection, but the embedding makes no vectors of layers"
            )));
        }
        injection.post.validate(place)?;
        injection.per_layer.validate(place)
    }

    /// `width` is that of the vectors of single layers.
    pub(super) fn tensors(
        &self,
        hidden: u32,
        layers: usize,
        width: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let n = self.count;
        for role in [Role::StreamProjection, Role::StreamUnprojection] {
            out.push(TensorSpec {
                key: TensorKey::model(role),
                shape: Shape::Matrix {
                    count: n - 1,
                    rows: hidden,
                    cols: hidden,
                },
            });
        }
        for l in 0..layers {
            let at = |role| TensorKey::layer(l, role);
            let (norm, bias) = (at(Role::StreamRouterNorm), Role::StreamRouterNormBias);
            self.norm.tensors(norm, bias, hidden, out);
            for (role, len) in [
                (Role::StreamRouter, n * hidden),
                (Role::StreamPrediction, n * n * n),
                (Role::StreamCorrection, n * n),
            ] {
                // Small and read by every token: kept in f32.
                out.push(TensorSpec {
                    key: at(role),
                    shape: Shape::Vector(len),
                });
            }
            let Some(injection) = &self.injection else {
                continue;
            };
            if injection.weight {
                out.push(TensorSpec {
                    key: at(Role::StreamWeight),
                    shape: Shape::Vector(hidden),
                });
            }
            injection.per_layer.tensors(at, hidden, width, out);
            let (post, bias) = (at(Role::PostNorm), Role::PostNormBias);
            injection.post.tensors(post, bias, hidden, out);
        }
    }
}

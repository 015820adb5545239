//! Attention of a decoder to what an encoder made of the source.

use super::attention::{Attention, Mask};
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Attention whose queries come from the branch's input, and whose keys and values from the encoder's hidden vectors, all of which every query
/// sees (Vaswani et al. 2017). Keys and values are computed once per source.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cross {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; query head h reads head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: u32,
    /// Width of one head of q, k and v.
    pub head_dim: u32,
    /// Multiplier of `q . k`.
    pub scale: f32,
}

impl Cross {
    /// The same heads as an attention without masks.
    pub fn attention(&self) -> Attention {
        Attention {
            scale: self.scale,
            mask: Mask::Bidirectional,
            ..Attention::new(self.n_heads, self.n_kv_heads, self.head_dim)
        }
    }

    pub(super) fn validate(&self, place: &str) -> Result<()> {
        self.attention().validate(place, &[])
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let a = self.attention();
        let (q, kv) = (a.q_width(), a.kv_width());
        for (role, rows, cols) in [
            (Role::AttnQ, q, hidden),
            (Role::AttnK, kv, hidden),
            (Role::AttnV, kv, hidden),
            (Role::AttnO, hidden, q),
        ] {
            out.push(TensorSpec {
                key: at(role),
                shape: Shape::matrix(rows, cols),
            });
        }
    }
}

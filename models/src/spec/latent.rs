//! Latent attention (DeepSeek-AI 2024): keys and values of all heads are made from one narrow vector per token, and only that is kept.

use super::attention::PositionScale;
use super::norm::Norm;
use super::tensor::{Role, Shape, TensorKey, TensorSpec};
use super::{bound, finite, within};
use crate::error::{Error, Result};
use crate::rope::Rope;
use serde::{Deserialize, Serialize};

/// Attention whose keys and values are `K_h c` and `V_h c`, with `c` a normed projection of the token, and one rotated key beside `K_h c` that all
/// heads share.
///
/// It runs in the absorbed form: `q . (K c) = (K^T q) . c` and `sum of p * (V c) = V (sum of p * c)`. So `K^T` and `V` are stored per head,
/// and over the cache it is attention with one key head `[c | rotated]` and the value `c`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Query heads.
    pub n_heads: u32,
    /// Width of the part of a query head that is not rotated.
    pub plain_dim: u32,
    /// Width of the part that is.
    pub rotary_dim: u32,
    /// Width of a head's value.
    pub value_dim: u32,
    /// The vector that is kept.
    pub kv: LowRank,
    /// The vector that queries are made from; none: the token itself.
    pub query: Option<LowRank>,
    /// Whether the projections to the narrow vectors have a bias.
    pub down_bias: bool,
    /// Whether the output projection has a bias.
    pub o_bias: bool,
    /// Index into [`super::Spec::ropes`].
    pub rope: u32,
    /// Multiplier of `q . k`.
    pub scale: f32,
    /// A multiplier of q that grows with its position.
    pub position_scale: Option<PositionScale>,
}

/// A narrow vector between two projections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowRank {
    /// Its width.
    pub rank: u32,
    /// Its norm.
    pub norm: Norm,
}

impl Latent {
    /// Width of a query head before the absorbed projection.
    pub fn head_dim(&self) -> u32 {
        self.plain_dim + self.rotary_dim
    }

    /// Width of a key in the cache.
    pub fn key_dim(&self) -> u32 {
        self.kv.rank + self.rotary_dim
    }

    pub(super) fn validate(&self, place: &str, ropes: &[Rope]) -> Result<()> {
        within(place, "n_heads", self.n_heads, bound::HEADS)?;
        for (name, width) in [
            ("plain_dim", self.plain_dim),
            ("rotary_dim", self.rotary_dim),
            ("value_dim", self.value_dim),
            ("kv.rank", self.kv.rank),
        ] {
            within(place, name, width, bound::HEAD_DIM)?;
        }
        self.kv.norm.validate(&format!("{place}: kv.norm"))?;
        if let Some(query) = &self.query {
            within(place, "query.rank", query.rank, bound::INNER)?;
            query.norm.validate(&format!("{place}: query.norm"))?;
        }
        finite(place, "scale", self.scale)?;
        if let Some(p) = &self.position_scale {
            p.validate(place)?;
        }
        let Some(rope) = ropes.get(self.rope as usize) else {
            return Err(Error::new(format_args!(
                "{place}: rope is {}, but there are {} ropes",
                self.rope,
                ropes.len()
            )));
        };
        if rope.dim() > self.rotary_dim as usize {
            return Err(Error::new(format_args!(
                "{place}: rope {} rotates {} dimensions of {}",
                self.rope,
                rope.dim(),
                self.rotary_dim
            )));
        }
        Ok(())
    }

    pub(super) fn tensors(
        &self,
        at: impl Fn(Role) -> TensorKey,
        hidden: u32,
        out: &mut Vec<TensorSpec>,
    ) {
        let heads = self.n_heads;
        let (rank, values) = (self.kv.rank, heads * self.value_dim);
        let mut push = |there: bool, role, shape| {
            if there {
                out.push(TensorSpec {
                    key: at(role),
                    shape,
                });
            }
        };
        let stack = |rows, cols| Shape::Matrix {
            count: heads,
            rows,
            cols,
        };
        let narrow = self.query.as_ref().map_or(hidden, |q| q.rank);
        if self.query.is_some() {
            push(true, Role::LatentQueryDown, Shape::matrix(narrow, hidden));
            let bias = Shape::Vector(narrow);
            push(self.down_bias, Role::LatentQueryDownBias, bias);
        }
        let q = Shape::matrix(heads * self.head_dim(), narrow);
        push(true, Role::LatentQuery, q);
        let kv = self.key_dim();
        push(true, Role::LatentKvDown, Shape::matrix(kv, hidden));
        push(self.down_bias, Role::LatentKvDownBias, Shape::Vector(kv));
        push(true, Role::LatentKey, stack(rank, self.plain_dim));
        push(true, Role::LatentValue, stack(self.value_dim, rank));
        push(true, Role::AttnO, Shape::matrix(hidden, values));
        push(self.o_bias, Role::AttnOBias, Shape::Vector(hidden));
        if let Some(LowRank { rank, norm }) = &self.query {
            let key = at(Role::LatentQueryNorm);
            norm.tensors(key, Role::LatentQueryNormBias, *rank, out);
        }
        let key = at(Role::LatentKvNorm);
        self.kv.norm.tensors(key, Role::LatentKvNormBias, rank, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latent() -> Latent {
        let low = |rank| LowRank {
            rank,
            norm: Norm::rms(1e-6),
        };
        Latent {
            n_heads: 4,
            plain_dim: 16,
            rotary_dim: 8,
            value_dim: 12,
            kv: low(32),
            query: Some(low(40)),
            down_bias: true,
            o_bias: false,
            rope: 0,
            scale: 0.2,
            position_scale: None,
        }
    }

    #[test]
    fn every_number_is_bounded() {
        let rope = |pairs| Rope::Fixed {
            inv_freq: vec![1.0; pairs],
            factor: 1.0,
        };
        let check = |l: &Latent, pairs| l.validate("here", &[rope(pairs)]);
        check(&latent(), 4).unwrap();
        assert!(
            check(&latent(), 5).is_err(),
            "more is rotated than there is"
        );
        let wrong: [&dyn Fn(&mut Latent); 8] = [
            &|l| l.n_heads = 0,
            &|l| l.plain_dim = u32::MAX,
            &|l| l.rotary_dim = 0,
            &|l| l.value_dim = 1 << 20,
            &|l| l.kv.rank = 1 << 20,
            &|l| l.query.as_mut().unwrap().rank = 0,
            &|l| l.rope = 1,
            &|l| l.scale = f32::NAN,
        ];
        for (i, change) in wrong.iter().enumerate() {
            let mut l = latent();
            change(&mut l);
            assert!(check(&l, 4).is_err(), "change {i}");
        }
    }

    #[test]
    fn tensors_are_stacks_of_heads() {
        let mut out = Vec::new();
        latent().tensors(|role| TensorKey::branch(0, 0, 0, role), 64, &mut out);
        let shape = |role| out.iter().find(|t| t.key.role == role).map(|t| t.shape);
        let stack = |count, rows, cols| Some(Shape::Matrix { count, rows, cols });
        assert_eq!(shape(Role::LatentKey), stack(4, 32, 16));
        assert_eq!(shape(Role::LatentValue), stack(4, 12, 32));
        assert_eq!(shape(Role::LatentQuery), stack(1, 96, 40));
        assert_eq!(shape(Role::LatentKvDown), stack(1, 40, 64));
        assert_eq!(shape(Role::LatentKvDownBias), Some(Shape::Vector(40)));
        assert_eq!(shape(Role::AttnO), stack(1, 64, 48));
    }
}

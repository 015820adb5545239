//! The part of a layer in the making that plans latent attention.

use crate::error::Result;
use crate::layer_builder::LayerBuilder;
use crate::plan::{Layout, Source, interleaved_to_half_split};
use crate::spec::{Latent, Op, Role};

/// Names of the tensors of a latent attention.
#[derive(Clone, Copy, Debug)]
pub struct LatentNames<'n> {
    /// From the token to queries, where nothing is between them.
    pub q: &'n str,
    /// Else from the token to a narrow vector, its norm, and from there to queries.
    pub low_q: [&'n str; 3],
    /// From the token to what is kept and the rotated key, and the norm of the former.
    pub kv: [&'n str; 2],
    /// From what is kept to keys and values: per head first the rows of the key, then of the value.
    pub kv_up: &'n str,
    /// The output projection.
    pub o: &'n str,
}

/// The names that all families use.
pub const LATENT: LatentNames<'static> = LatentNames {
    q: "self_attn.q_proj",
    low_q: [
        "self_attn.q_a_proj",
        "self_attn.q_a_layernorm",
        "self_attn.q_b_proj",
    ],
    kv: ["self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm"],
    kv_up: "self_attn.kv_b_proj",
    o: "self_attn.o_proj",
};

impl LayerBuilder<'_, '_> {
    /// Adds a latent attention.
    ///
    /// # Errors
    /// As [`crate::builder::Builder::expect`].
    pub fn latent(&mut self, l: Latent, names: &LatentNames) -> Result<()> {
        let (heads, plain, rotary) = (l.n_heads, l.plain_dim, l.rotary_dim);
        let (rank, hidden) = (l.kv.rank, self.hidden());
        let rotated = match self.plan.interleaved {
            true => self.plan.rotated(Some(l.rope)).min(rotary),
            false => 0,
        };
        // Rows that end in rotated ones: `before` plain rows, then the others in stored order.
        let turn = |count: u32, before: u32| -> Option<Vec<u32>> {
            let order = interleaved_to_half_split(1, rotary, rotated);
            let one = |first: u32| {
                let plain = (0..before).map(move |r| first + r);
                plain.chain(order.iter().map(move |r| first + before + r))
            };
            let all = (0..count).flat_map(|i| one(i * (before + rotary)));
            (rotated > 0).then(|| all.collect())
        };
        let (mut name, mut inputs) = (names.q, hidden);
        if let Some(query) = &l.query {
            let [down, norm, up] = names.low_q;
            let roles = [Role::LatentQueryDown, Role::LatentQueryDownBias];
            self.linear(roles, down, [query.rank, hidden], l.down_bias, None)?;
            let key = self.branch_key(Role::LatentQueryNorm);
            let full = self.name(norm);
            let key = (key, Role::LatentQueryNormBias);
            self.plan.norm(key, &full, &query.norm, query.rank)?;
            (name, inputs) = (up, query.rank);
        }
        // Shapes are checked before lists of that length are made.
        let shape = [heads * l.head_dim(), inputs];
        self.plan.expect_linear(&self.name(name), shape)?;
        let roles = [Role::LatentQuery; 2];
        self.linear(roles, name, shape, false, turn(heads, plain))?;

        let [down, norm] = names.kv;
        let shape = [l.key_dim(), hidden];
        self.plan.expect_linear(&self.name(down), shape)?;
        let roles = [Role::LatentKvDown, Role::LatentKvDownBias];
        self.linear(roles, down, shape, l.down_bias, turn(1, rank))?;
        let key = (self.branch_key(Role::LatentKvNorm), Role::LatentKvNormBias);
        let full = self.name(norm);
        self.plan.norm(key, &full, &l.kv.norm, rank)?;

        let (period, value) = (plain + l.value_dim, l.value_dim);
        self.plan
            .expect_linear(&self.name(names.kv_up), [heads * period, rank])?;
        let up = format!("{}.weight", self.name(names.kv_up));
        let keys = Source {
            layout: Layout::TransposedPart {
                period,
                first: 0,
                count: plain,
            },
            ..Source::all(&up)
        };
        let rows = |h: u32| (0..value).map(move |r| h * period + plain + r);
        let values = Source::rows(&up, (0..heads).flat_map(rows).collect());
        for (role, source) in [(Role::LatentKey, keys), (Role::LatentValue, values)] {
            self.plan.put(self.branch_key(role), vec![source]);
        }
        let roles = [Role::AttnO, Role::AttnOBias];
        self.linear(roles, names.o, [hidden, heads * value], l.o_bias, None)?;
        self.branch(Op::Latent(l))
    }
}

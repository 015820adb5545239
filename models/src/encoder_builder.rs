//! The parts of a plan in the making that encoder-decoders have: the encoder's stack, relative biases, attention to the source.

use crate::builder::{Builder, DecoderNames};
use crate::error::Result;
use crate::layer_builder::LayerBuilder;
use crate::plan::Source;
use crate::spec::{Attention, Cross, Layer, Norm, Op, Role, Stack, TensorKey};

impl Builder<'_> {
    /// Plans the encoder's stack: `layers` layers, each by a call of `layer`, and the norm after them; of `names` the root, the layers and that
    /// norm count.
    ///
    /// # Errors
    /// As [`Builder::expect`], and whatever `layer` returns.
    pub fn encoder(
        &mut self,
        layers: usize,
        names: &DecoderNames,
        hidden: u32,
        final_norm: &Norm,
        mut layer: impl FnMut(&mut LayerBuilder, usize) -> Result<()>,
    ) -> Result<()> {
        let mut stack = Stack {
            layers: Vec::new(),
            streams: None,
            final_norm: Some(final_norm.clone()),
        };
        for l in 0..layers {
            let mut one = self.layer(names, hidden, l);
            one.encoder = true;
            layer(&mut one, l)?;
            stack.layers.push(Layer {
                blocks: one.finish(),
            });
        }
        let key = TensorKey::model(Role::FinalNorm).in_encoder();
        let name = format!("{}{}", names.root, names.final_norm);
        self.norm((key, Role::FinalNormBias), &name, final_norm, hidden)?;
        self.encoder = Some(stack);
        Ok(())
    }
}

impl LayerBuilder<'_, '_> {
    /// Plans the table of the relative bias of the attention that comes next: the foreign tensor with this full name has the buckets as
    /// rows and the heads as columns.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn relative_bias(&mut self, a: &Attention, name: &str) -> Result<()> {
        let Some(relative) = a.relative else {
            return Ok(());
        };
        let (heads, buckets) = (a.n_heads, relative.buckets);
        self.plan.expect(name, &[buckets.into(), heads.into()])?;
        let values = |h| (0..buckets).map(move |b| b * heads + h);
        let rows = (0..heads).flat_map(values).collect();
        let key = self.branch_key(Role::AttnRelativeBias);
        self.plan.put(key, vec![Source::rows(name, rows)]);
        Ok(())
    }

    /// Adds attention to the encoder's hidden vectors.
    ///
    /// # Errors
    /// As [`Builder::expect`].
    pub fn cross(&mut self, c: Cross, qkv: [&str; 3], o: &str) -> Result<()> {
        let a = c.attention();
        let (q, kv, hidden) = (a.q_width(), a.kv_width(), self.hidden());
        for (role, name, shape) in [
            (Role::AttnQ, qkv[0], [q, hidden]),
            (Role::AttnK, qkv[1], [kv, hidden]),
            (Role::AttnV, qkv[2], [kv, hidden]),
            (Role::AttnO, o, [hidden, q]),
        ] {
            let key = (self.branch_key(role), None);
            let name = self.name(name);
            self.plan.linear(key, &name, shape, None)?;
        }
        self.branch(Op::Cross(c))
    }
}

//! Nemotron and Minitron: LayerNorm that stores w for 1 + w, squared relu without a gate, half of each head rotated (Parmar et al. 2024).

use crate::prelude::*;

/// Nemotron 4, Minitron.
pub const FAMILY: Family = Family {
    model_types: &["nemotron"],
    plan,
    doc: "Nemotron 4 and Minitron: LayerNorm around 1, squared relu, partial rotation",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::layer(eps(config, "norm_eps", 1e-5)?, true);
    let bias = config.bool_or("attention_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Relu2)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let dense = Dense::plain(config.u32("intermediate_size")?, act, mlp_bias);
    let mlp = DenseNames::Plain(["mlp.up_proj", "mlp.down_proj"]);
    let mut b = Builder::new(config, tensors);
    b.norm_offset = 1.0;
    let options = RopeOptions {
        partial: 0.5,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &mlp)
    })
}

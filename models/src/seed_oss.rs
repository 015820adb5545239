//! Seed-OSS: llama with separate switches for the biases.

use crate::prelude::*;

/// Seed-OSS.
pub const FAMILY: Family = Family {
    model_types: &["seed_oss"],
    plan,
    doc: "Seed-OSS: biases on q, k, v",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            head_dim: Some(128),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let bias = config.bool_or("attention_bias", true)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense {
        up_bias: mlp_bias,
        down_bias: mlp_bias,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    config.ignore(&["residual_dropout"]);
    let mut b = Builder::new(config, tensors);
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: config.bool_or("attention_out_bias", false)?,
        rope: Some(b.rope(config, &RopeOptions::new(s.head_dim, s.context))?),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &LLAMA_MLP)
    })
}

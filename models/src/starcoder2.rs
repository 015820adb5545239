//! StarCoder 2: LayerNorm, biases, a window on every layer, a network without a gate (Lozhkov et al. 2024).

use crate::prelude::*;

/// StarCoder 2.
pub const FAMILY: Family = Family {
    model_types: &["starcoder2"],
    plan,
    doc: "StarCoder 2: LayerNorm, biases, windows, tanh-gelu without a gate",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::layer(eps(config, "norm_epsilon", 1e-5)?, true);
    let bias = config.bool_or("use_bias", true)?;
    let act = activation(config, "hidden_act", Activation::GeluTanh)?;
    let dense = Dense::plain(config.u32("intermediate_size")?, act, bias);
    let window = config.opt_u32("sliding_window")?;
    only(config, "mlp_type", "default")?;
    only(config, "norm_type", "layer_norm")?;
    config.ignore(&[
        "attention_softmax_in_fp32",
        "embedding_dropout",
        "residual_dropout",
        "scale_attention_softmax_in_fp32",
        "scale_attn_weights",
    ]);
    let mut b = Builder::new(config, tensors);
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &RopeOptions::new(s.head_dim, s.context))?),
        mask: window.map_or(Mask::Causal, Mask::Sliding),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(
            dense.clone(),
            &DenseNames::Plain(["mlp.c_fc", "mlp.c_proj"]),
        )
    })
}

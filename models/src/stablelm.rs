//! StableLM: LayerNorm, a quarter of each head rotated, blocks one after the other or beside each other.

use crate::prelude::*;

/// StableLM 2 and 3B.
pub const FAMILY: Family = Family {
    model_types: &["stablelm"],
    plan,
    doc: "StableLM: LayerNorm with a gated network, partial rotation, parallel blocks with norms per head",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    norms: [
        "self_attn.q_layernorm.norms.{h}",
        "self_attn.k_layernorm.norms.{h}",
    ],
    ..LLAMA_ATTENTION
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let eps = eps(config, "layer_norm_eps", 1e-5)?;
    let norm = Norm::layer(eps, true);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let bias = config.bool_or("use_qkv_bias", false)?;
    let parallel = config.bool_or("use_parallel_residual", false)?;
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        partial: 0.25,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        rope: Some(b.rope(config, &options)?),
        qk_norm: config.bool_or("qk_layernorm", false)?.then(|| QkNorm {
            norm: Norm::layer(eps, false),
            span: NormSpan::EachHead,
            after_rope: false,
        }),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &ATTENTION)?;
        if !parallel {
            layer.block(&norm, "post_attention_layernorm")?;
        }
        layer.dense(dense.clone(), &LLAMA_MLP)
    })
}

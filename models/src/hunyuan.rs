//! Hunyuan, dense: llama with norms of q and k after the rotation, and a rotary base that is scaled once and for all.

use crate::prelude::*;

/// Hunyuan, dense.
pub const FAMILY: Family = Family {
    model_types: &["hunyuan_v1_dense"],
    plan,
    doc: "Hunyuan, dense: norms of q and k after the rotation, static NTK scaling",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    norms: ["self_attn.query_layernorm", "self_attn.key_layernorm"],
    ..LLAMA_ATTENTION
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let bias = config.bool_or("attention_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    config.ignore(&["eod_token_id"]);
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        alpha: true,
        // Beside alpha these mean nothing.
        family_keys: &["beta_fast", "beta_slow", "mscale", "mscale_all_dim"],
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        qk_norm: Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: true,
        }),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &LLAMA_MLP)
    })
}

//! Phi 3 to 4: llama with fused projections, a window on every layer, LongRoPE (Abdin et al. 2024).

use crate::prelude::*;

/// Phi 3, 3.5, 4 and their mini versions.
pub const FAMILY: Family = Family {
    model_types: &["phi3"],
    plan,
    doc: "Phi 3 to 4, with mini: fused projections, windows, LongRoPE, partial rotation",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Fused("self_attn.qkv_proj"),
    ..LLAMA_ATTENTION
};

const MLP: DenseNames<'static> = DenseNames::Fused(["mlp.gate_up_proj", "mlp.down_proj"]);

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let window = config.opt_u32("sliding_window")?;
    // The first releases carry these keys of their own code.
    for key in ["attention_bias", "mlp_bias", "lm_head_bias"] {
        only(config, key, false)?;
    }
    for key in ["full_attn_mod", "interpolate_factor"] {
        only(config, key, 1)?;
    }
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        yarn_is_longrope: true,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        rope: Some(b.rope(config, &options)?),
        mask: window.map_or(Mask::Causal, Mask::Sliding),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &MLP)
    })
}

//! Llama: pre-norm RMS, rotary grouped-query attention, a gated SiLU network (Touvron et al. 2023).

use crate::prelude::*;

/// Llama.
pub const FAMILY: Family = Family {
    model_types: &["llama"],
    plan,
    doc: "Llama 1-3 and everything converted to their form: biases, all static rotary scalings, dynamic NTK",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense {
        up_bias: mlp_bias,
        down_bias: mlp_bias,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    // Old configurations carry these two; transformers ignores them.
    config.ignore(&["rope_interleaved", "is_llama_config"]);

    let mut b = Builder::new(config, tensors);
    // A llama2.c checkpoint has rotated rows in pairs.
    b.interleaved = config.origin() == Origin::Llama2c;
    let rope = b.rope(config, &RopeOptions::new(s.head_dim, s.context))?;
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(rope),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &LLAMA_MLP)?;
        layer.skip("self_attn.rotary_emb.inv_freq", "recomputed");
        Ok(())
    })
}

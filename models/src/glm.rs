//! GLM 4, dense: interleaved rotation of half a head, a fused gate; the 0414 models also norm after each branch.

use crate::prelude::*;

/// GLM 4 9B and 32B.
pub const FAMILY: Family = Family {
    model_types: &["glm", "glm4"],
    plan,
    doc: "GLM 4, dense: interleaved partial rotation, norms before and after",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let post = config.opt_str("model_type")? == Some("glm4");
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            head_dim: Some(128),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1.5625e-7)?);
    let bias = config.bool_or("attention_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let mlp = DenseNames::Fused(["mlp.gate_up_proj", "mlp.down_proj"]);
    let mut b = Builder::new(config, tensors);
    b.interleaved = true;
    let options = RopeOptions {
        partial: 0.5,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        rope: Some(b.rope(config, &options)?),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        if post {
            layer.post(&norm, "post_self_attn_layernorm")?;
        }
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &mlp)?;
        if post {
            layer.post(&norm, "post_mlp_layernorm")?;
        }
        Ok(())
    })
}

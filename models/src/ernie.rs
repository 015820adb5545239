//! ERNIE 4.5, dense: llama with interleaved rotation, all biases or none.

use crate::prelude::*;

/// ERNIE 4.5, dense.
pub const FAMILY: Family = Family {
    model_types: &["ernie4_5"],
    plan,
    doc: "ERNIE 4.5, dense: interleaved rotation",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            head_dim: Some(128),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let bias = config.bool_or("use_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense {
        up_bias: bias,
        down_bias: bias,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    let mut b = Builder::new(config, tensors);
    b.interleaved = true;
    let options = RopeOptions {
        theta: 5e5,
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
        layer.dense(dense.clone(), &LLAMA_MLP)
    })
}

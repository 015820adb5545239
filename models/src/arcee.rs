//! Arcee: llama with a squared-relu network without a gate.

use crate::prelude::*;

/// Arcee AFM.
pub const FAMILY: Family = Family {
    model_types: &["arcee"],
    plan,
    doc: "Arcee AFM: squared relu without a gate, YaRN",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let bias = config.bool_or("attention_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Relu2)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let dense = Dense::plain(config.u32("intermediate_size")?, act, mlp_bias);
    let mlp = DenseNames::Plain(["mlp.up_proj", "mlp.down_proj"]);
    let mut b = Builder::new(config, tensors);
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &RopeOptions::new(s.head_dim, s.context))?),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &mlp)
    })
}

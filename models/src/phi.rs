//! Phi 1 and 2: one LayerNorm per layer, attention and network beside each other, half of each head rotated, biases everywhere.

use crate::prelude::*;

/// Phi 1 and 2.
pub const FAMILY: Family = Family {
    model_types: &["phi"],
    plan,
    doc: "Phi 1, 1.5 and 2: parallel blocks, partial rotation, a head with a bias",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    o: "self_attn.dense",
    norms: ["self_attn.q_layernorm", "self_attn.k_layernorm"],
    ..LLAMA_ATTENTION
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::layer(eps(config, "layer_norm_eps", 1e-5)?, true);
    let act = activation(config, "hidden_act", Activation::GeluTanh)?;
    let dense = Dense::plain(config.u32("intermediate_size")?, act, true);
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        partial: 0.5,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: true,
        kv_bias: true,
        o_bias: true,
        rope: Some(b.rope(config, &options)?),
        qk_norm: config.bool_or("qk_layernorm", false)?.then(|| QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        }),
        ..s.attention()
    };
    let names = DecoderNames {
        final_norm: "final_layernorm",
        ..LLAMA
    };
    let mut frame = Frame::new(norm.clone());
    frame.head.bias = true;
    b.decoder(&s, &names, frame, |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &ATTENTION)?;
        layer.dense(dense.clone(), &DenseNames::Plain(["mlp.fc1", "mlp.fc2"]))
    })
}

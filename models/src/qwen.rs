//! Qwen 2 and 3: llama with biases on q, k and v (2) or with norms of q and k (3), and a window on some layers.

use crate::prelude::*;

/// Qwen 2 and 3.
pub const FAMILY: Family = Family {
    model_types: &["qwen2", "qwen3"],
    plan,
    doc: "Qwen 1.5 to 3, dense: biases on q, k, v or norms of q and k per head, windows on the upper layers",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let third = config.opt_str("model_type")? == Some("qwen3");
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            head_dim: third.then_some(128),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let o_bias = third && config.bool_or("attention_bias", false)?;
    only(config, "use_mrope", false)?;
    let windowed = config.bool_or("use_sliding_window", false)?;
    let window = config
        .opt_u32("sliding_window")?
        .or((!config.has("sliding_window")).then_some(4096))
        .filter(|_| windowed);
    let first = config.opt_u32("max_window_layers")?.unwrap_or(28) as usize;
    let types = layer_types(config, s.layers, &[FULL, SLIDING], |l| {
        if windowed && l >= first {
            SLIDING
        } else {
            FULL
        }
    })?;

    let mut b = Builder::new(config, tensors);
    let attention = Attention {
        q_bias: o_bias || !third,
        kv_bias: o_bias || !third,
        o_bias,
        rope: Some(b.rope(config, &RopeOptions::new(s.head_dim, s.context))?),
        qk_norm: third.then(|| QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        }),
        ..s.attention()
    };
    let names = b.base_names(&LLAMA);
    b.decoder(&s, &names, Frame::new(norm.clone()), |layer, l| {
        let mask = window.filter(|_| types[l] == SLIDING);
        let attention = Attention {
            mask: mask.map_or(Mask::Causal, Mask::Sliding),
            ..attention.clone()
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &LLAMA_MLP)
    })
}

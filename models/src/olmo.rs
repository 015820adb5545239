//! OLMo 1 to 3: norms without weights and clamped q, k, v (1); norms after the branches and of the whole q and k (2); windows (3)
//! (Groeneveld et al. 2024, OLMo Team 2024).

use crate::prelude::*;

/// OLMo 1 to 3.
pub const FAMILY: Family = Family {
    model_types: &["olmo", "olmo2", "olmo3"],
    plan,
    doc: "OLMo 1, 2 and 3: bare norms and clamps, post-norms and norms of the whole q and k, windows",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let kind = config.opt_str("model_type")?.unwrap_or("olmo");
    let s = Sizes::read(config)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let bias = config.bool_or("attention_bias", false)?;
    let mut attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        ..s.attention()
    };
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        theta: if kind == "olmo3" { 5e5 } else { 1e4 },
        ..RopeOptions::new(s.head_dim, s.context)
    };
    if kind == "olmo" {
        attention.rope = Some(b.rope(config, &options)?);
        attention.clip = config.opt_f64("clip_qkv")?.map(|c| c as f32);
        let norm = Norm::layer(1e-5, false).bare();
        return b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
            layer.block(&norm, "")?;
            layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
            layer.block(&norm, "")?;
            layer.dense(dense.clone(), &LLAMA_MLP)
        });
    }
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    attention.qk_norm = Some(QkNorm {
        norm: norm.clone(),
        span: NormSpan::Whole,
        after_rope: false,
    });
    let (mut types, mut window) = (vec![FULL; s.layers], None);
    if kind == "olmo3" {
        window = Some(config.opt_u32("sliding_window")?.unwrap_or(4096));
        types = layer_types(config, s.layers, &[FULL, SLIDING], |l| {
            if (l + 1) % 4 == 0 { FULL } else { SLIDING }
        })?;
    }
    let full = b.rope(
        config,
        &RopeOptions {
            layer_type: (kind == "olmo3").then_some(FULL),
            ..options
        },
    )?;
    let sliding = match window {
        None => full,
        Some(_) => {
            let options = RopeOptions {
                layer_type: Some(SLIDING),
                scaled: false,
                ..options
            };
            b.rope(config, &options)?
        }
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, l| {
        let slides = types[l] == SLIDING;
        layer.bare_block();
        let attention = Attention {
            rope: Some(if slides { sliding } else { full }),
            mask: match window {
                Some(w) if slides => Mask::Sliding(w),
                _ => Mask::Causal,
            },
            ..attention.clone()
        };
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.post(&norm, "post_attention_layernorm")?;
        layer.bare_block();
        layer.dense(dense.clone(), &LLAMA_MLP)?;
        layer.post(&norm, "post_feedforward_layernorm")
    })
}

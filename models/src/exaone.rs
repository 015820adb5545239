//! EXAONE 4: norms after the branches, norms of q and k, windows; rotation only on windowed layers if there are any.

use crate::prelude::*;

/// EXAONE 4.
pub const FAMILY: Family = Family {
    model_types: &["exaone4"],
    plan,
    doc: "EXAONE 4: post-norms, norms of q and k per head, windows, full layers without rotation",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let window = match config.opt_u32("sliding_window")? {
        None if !config.has("sliding_window") => Some(4096),
        window => window,
    };
    // "LLLG" stands for three local layers and a global one.
    let pattern = match config
        .get("sliding_window_pattern")
        .and_then(|v| v.as_str())
    {
        Some(text) => text.len() as u32,
        None => config.opt_u32("sliding_window_pattern")?.unwrap_or(4),
    };
    let types = layer_types(config, s.layers, &[FULL, SLIDING], |l| {
        if window.is_some() && pattern > 0 && !(l as u32 + 1).is_multiple_of(pattern) {
            SLIDING
        } else {
            FULL
        }
    })?;
    config.ignore(&["cache_implementation"]);
    let mut b = Builder::new(config, tensors);
    let rope = b.rope(config, &RopeOptions::new(s.head_dim, s.context))?;
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, l| {
        let mask = window.filter(|_| types[l] == SLIDING);
        let attention = Attention {
            rope: (window.is_none() || mask.is_some()).then_some(rope),
            mask: mask.map_or(Mask::Causal, Mask::Sliding),
            qk_norm: Some(QkNorm {
                norm: norm.clone(),
                span: NormSpan::Head,
                after_rope: false,
            }),
            ..s.attention()
        };
        layer.bare_block();
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.post(&norm, "post_attention_layernorm")?;
        layer.bare_block();
        layer.dense(dense.clone(), &LLAMA_MLP)?;
        layer.post(&norm, "post_feedforward_layernorm")
    })
}

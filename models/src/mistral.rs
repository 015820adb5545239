//! Mistral, Ministral and Mistral Small: llama without biases, with windows (Jiang et al. 2023) or with queries that grow with
//! their position.

use crate::deepseek;
use crate::nested;
use crate::prelude::*;
use crate::rope_config::position_scale;

/// Mistral and what came after it under that name.
pub const FAMILY: Family = Family {
    model_types: &["ministral", "ministral3", "mistral", "mistral3"],
    plan,
    doc: "Mistral 7B to Mistral Small 3 (its text part), Ministral: sliding windows, YaRN, position-scaled queries",
};

/// `sliding_window` of a configuration that has no such key (transformers' default; null means none).
const DEFAULT_WINDOW: u32 = 4096;

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    if config.opt_str("model_type")? == Some("mistral3") {
        let keys = [
            "image_token_index",
            "multimodal_projector_bias",
            "projector_hidden_act",
            "spatial_merge_size",
            "vision_feature_layer",
        ];
        return nested::plan(config, &keys, tensors, |text, b, names| {
            match text.opt_str("model_type")? {
                Some("mistral4") => deepseek::decoder(text, b, names),
                _ => decoder(text, b, names),
            }
        });
    }
    decoder(config, Builder::new(config, tensors), &LLAMA)
}

fn decoder(config: &Config, mut b: Builder, names: &DecoderNames) -> Result<Plan> {
    let kind = config.opt_str("model_type")?.unwrap_or("mistral");
    let s = Sizes::read(config)?;
    let default_eps = if kind == "ministral3" { 1e-5 } else { 1e-6 };
    let norm = Norm::rms(eps(config, "rms_norm_eps", default_eps)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let window = match config.opt_u32("sliding_window")? {
        None if kind != "ministral3" && !config.has("sliding_window") => Some(DEFAULT_WINDOW),
        window => window,
    };
    let types = match kind {
        "ministral" => layer_types(config, s.layers, &[FULL, SLIDING], |_| SLIDING)?,
        _ => vec![SLIDING; s.layers],
    };

    let options = RopeOptions {
        // The context is in the parameters a second time.
        family_keys: &["llama_4_scaling_beta", "max_position_embeddings"],
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        rope: Some(b.rope(config, &options)?),
        position_scale: match kind {
            "ministral3" => position_scale(config, s.context)?,
            _ => None,
        },
        ..s.attention()
    };
    b.decoder(&s, names, Frame::new(norm.clone()), |layer, l| {
        let mask = window.filter(|_| types[l] == SLIDING);
        let attention = Attention {
            mask: mask.map_or(Mask::Causal, Mask::Sliding),
            ..attention.clone()
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &LLAMA_MLP)?;
        layer.skip("self_attn.rotary_emb.inv_freq", "recomputed");
        Ok(())
    })
}

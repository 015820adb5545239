//! Gemma 1 to 3: scaled embeddings, norms that store w for 1 + w, from 2 on norms after each branch, soft caps and windows, from 3 on norms of
//! q and k and a rotary embedding per kind of layer (Gemma Team 2024, 2025).

use crate::nested;
use crate::prelude::*;

/// Gemma 1 to 3.
pub const FAMILY: Family = Family {
    model_types: &["gemma", "gemma2", "gemma3", "gemma3_text"],
    plan,
    doc: "Gemma 1, 2 and 3 (its text part): norms before and after, soft caps, windows, two rotary embeddings",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    if config.opt_str("model_type")? == Some("gemma3") {
        let keys = [
            "boi_token_index",
            "eoi_token_index",
            "image_token_index",
            "mm_tokens_per_image",
        ];
        return nested::plan(config, &keys, tensors, decoder);
    }
    decoder(config, Builder::new(config, tensors), &LLAMA)
}

/// A soft cap whose absence means the family's default and whose null means none.
fn cap(config: &Config, key: &str, default: f64) -> Result<Option<f32>> {
    Ok(match config.opt_f64(key)? {
        None if !config.has(key) => Some(default as f32),
        cap => cap.map(|c| c as f32),
    })
}

fn decoder(config: &Config, mut b: Builder, names: &DecoderNames) -> Result<Plan> {
    let generation = match config.opt_str("model_type")? {
        Some("gemma") => 1,
        Some("gemma2") => 2,
        _ => 3,
    };
    // Published configurations of gemma 3 leave these out.
    let third = |n| (generation == 3).then_some(n);
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            vocab: third(262_208),
            heads: third(8),
            kv_heads: third(4),
            head_dim: Some(256),
            context: third(131_072),
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    // The first models say "gelu" and were trained with its approximation.
    let hidden_act = activation(config, "hidden_act", Activation::GeluTanh)?;
    let act = match activation(config, "hidden_activation", hidden_act)? {
        Activation::Gelu => Activation::GeluTanh,
        act => act,
    };
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let bias = config.bool_or("attention_bias", false)?;
    let both_ways = generation == 3 && config.bool_or("use_bidirectional_attention", false)?;
    if !both_ways {
        only(config, "use_bidirectional_attention", false)?;
    }
    config.ignore(&["cache_implementation"]);

    let mut frame = Frame::new(norm.clone());
    frame.embed = Embed::scaled(f64::from(s.hidden).sqrt() as f32);
    let mut attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        ..s.attention()
    };
    let mut types = vec![FULL; s.layers];
    let mut window = None;
    if generation > 1 {
        let pattern = match generation {
            2 => 2,
            _ => {
                config.ignore(&["_sliding_window_pattern"]);
                config.opt_u32("sliding_window_pattern")?.unwrap_or(6) as usize
            }
        };
        let kind = |l: usize| {
            if pattern > 0 && (l + 1).is_multiple_of(pattern) {
                FULL
            } else {
                SLIDING
            }
        };
        types = layer_types(config, s.layers, &[FULL, SLIDING], kind)?;
        window = Some(config.opt_u32("sliding_window")?.unwrap_or(4096));
        let scalar = config.opt_f64("query_pre_attn_scalar")?.unwrap_or(256.0);
        attention.scale = (1.0 / scalar.sqrt()) as f32;
        if generation == 2 {
            attention.softcap = cap(config, "attn_logit_softcapping", 50.0)?;
            frame.head.softcap = cap(config, "final_logit_softcapping", 30.0)?;
        } else {
            config.ignore(&["attn_logit_softcapping"]);
            frame.head.softcap = config.opt_f64("final_logit_softcapping")?.map(|c| c as f32);
        }
    }
    let options = RopeOptions::new(s.head_dim, s.context);
    let (full, sliding) = if generation == 3 {
        attention.qk_norm = Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        });
        let full = RopeOptions {
            theta: 1e6,
            layer_type: Some(FULL),
            ..options
        };
        let sliding = RopeOptions {
            layer_type: Some(SLIDING),
            theta_key: "rope_local_base_freq",
            scaled: false,
            ..options
        };
        (b.rope(config, &full)?, b.rope(config, &sliding)?)
    } else {
        let rope = b.rope(config, &options)?;
        (rope, rope)
    };
    b.norm_offset = 1.0;
    frame.logits = !both_ways;
    let names = b.base_names(names);
    b.decoder(&s, &names, frame, |layer, l| {
        let slides = types[l] == SLIDING;
        let attention = Attention {
            rope: Some(if slides { sliding } else { full }),
            mask: match window.filter(|_| slides) {
                Some(w) if both_ways => Mask::Symmetric(w / 2),
                Some(w) => Mask::Sliding(w),
                None if both_ways => Mask::Bidirectional,
                None => Mask::Causal,
            },
            ..attention.clone()
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        if generation == 1 {
            layer.block(&norm, "post_attention_layernorm")?;
            return layer.dense(dense.clone(), &LLAMA_MLP);
        }
        layer.post(&norm, "post_attention_layernorm")?;
        layer.block(&norm, "pre_feedforward_layernorm")?;
        layer.dense(dense.clone(), &LLAMA_MLP)?;
        layer.post(&norm, "post_feedforward_layernorm")
    })
}

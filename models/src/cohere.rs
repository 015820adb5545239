//! Command R and R7B: one LayerNorm without bias per layer, attention and network beside each other, interleaved rotation, scaled logits;
//! R7B has windows, and rotates only where it has them.

use crate::prelude::*;

/// Command R, R+, R7B, A and Aya.
pub const FAMILY: Family = Family {
    model_types: &["cohere", "cohere2"],
    plan,
    doc: "Command R, R+ and R7B, Aya: parallel blocks, interleaved rotation, scaled logits, layers without rotation",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let second = config.opt_str("model_type")? == Some("cohere2");
    let s = Sizes::read(config)?;
    let eps = eps(config, "layer_norm_eps", 1e-5)?;
    let norm = Norm::layer(eps, false);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let bias = config.bool_or("attention_bias", false)?;
    let (mut types, mut window) = (vec![FULL; s.layers], None);
    let mut qk_norm = None;
    if second {
        let pattern = config.opt_u32("sliding_window_pattern")?.unwrap_or(4) as usize;
        let kind = |l: usize| {
            if pattern > 0 && (l + 1).is_multiple_of(pattern) {
                FULL
            } else {
                SLIDING
            }
        };
        types = layer_types(config, s.layers, &[FULL, SLIDING], kind)?;
        window = Some(config.opt_u32("sliding_window")?.unwrap_or(4096));
        // Keys of the first release's own code, all of which say what this family does anyway.
        only(config, "position_embedding_type", "rope_gptj")?;
        only(config, "use_parallel_block", true)?;
        only(config, "use_gated_activation", true)?;
        only(config, "rotary_pct", 1.0)?;
        config.ignore(&[
            "cache_implementation",
            "order_of_interleaved_layers",
            "use_embedding_sharing",
            "use_parallel_embedding",
        ]);
    } else if config.bool_or("use_qk_norm", false)? {
        qk_norm = Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::EachHead,
            after_rope: false,
        });
    }
    let mut frame = Frame::new(norm.clone());
    frame.head.scale = config.opt_f64("logit_scale")?.unwrap_or(0.0625) as f32;
    let mut b = Builder::new(config, tensors);
    b.interleaved = true;
    let options = RopeOptions {
        theta: if second { 1e4 } else { 5e5 },
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let rope = b.rope(config, &options)?;
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(rope),
        qk_norm,
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, frame, |layer, l| {
        let attention = match window {
            None => attention.clone(),
            Some(w) if types[l] == SLIDING => Attention {
                mask: Mask::Sliding(w),
                ..attention.clone()
            },
            Some(_) => Attention {
                rope: None,
                ..attention.clone()
            },
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.dense(dense.clone(), &LLAMA_MLP)
    })
}

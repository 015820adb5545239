//! SmolLM 3: llama whose every fourth layer has no rotation (Yang et al. 2025).

use crate::prelude::*;

/// SmolLM 3.
pub const FAMILY: Family = Family {
    model_types: &["smollm3"],
    plan,
    doc: "SmolLM 3: every fourth layer without rotation",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense {
        up_bias: mlp_bias,
        down_bias: mlp_bias,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    let interval = config.opt_u32("no_rope_layer_interval")?.unwrap_or(4) as usize;
    let rotates: Vec<bool> = match config.opt_array("no_rope_layers")? {
        // 1 means that the layer does rotate.
        Some(list) if list.len() == s.layers => list.iter().map(|v| *v != 0).collect(),
        Some(_) => {
            let expected = format!("{} numbers", s.layers);
            return Err(config.unsupported("no_rope_layers", &expected));
        }
        None => (0..s.layers)
            .map(|l| interval == 0 || !(l + 1).is_multiple_of(interval))
            .collect(),
    };
    let windowed = config.bool_or("use_sliding_window", false)?;
    let window = config.opt_u32("sliding_window")?.filter(|_| windowed);
    let types = layer_types(config, s.layers, &[FULL, SLIDING], |l| {
        if window.is_some() && !rotates[l] {
            SLIDING
        } else {
            FULL
        }
    })?;
    config.ignore(&["max_window_layers"]);
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        theta: 2e6,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let rope = b.rope(config, &options)?;
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, l| {
        let mask = window.filter(|_| types[l] == SLIDING);
        let attention = Attention {
            q_bias: bias,
            kv_bias: bias,
            o_bias: bias,
            rope: rotates[l].then_some(rope),
            mask: mask.map_or(Mask::Causal, Mask::Sliding),
            ..s.attention()
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &LLAMA_MLP)
    })
}

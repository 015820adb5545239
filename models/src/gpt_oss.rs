//! gpt-oss: alternating windows, attention sinks, experts with clamped gates and biases, in bf16 or in blocks of 4-bit floats.

use crate::prelude::*;

/// gpt-oss.
pub const FAMILY: Family = Family {
    model_types: &["gpt_oss"],
    plan,
    doc: "gpt-oss (also in MXFP4): attention sinks, alternating windows, experts with clamped gates",
};

/// Keys of the experts' tensors.
const STACKS: [&str; 2] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"];
const BIASES: [&str; 2] = [
    "mlp.experts.gate_up_proj_bias",
    "mlp.experts.down_proj_bias",
];

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    // The gate is x * sigmoid(1.702 x), whatever the activation is called.
    only(config, "hidden_act", "silu")?;
    only(config, "swiglu_alpha", 1.702)?;
    let experts = Experts {
        limit: Some(config.opt_f64("swiglu_limit")?.unwrap_or(7.0) as f32),
        up_bias: true,
        down_bias: true,
        ..Experts::new(
            config.u32("num_local_experts")?,
            config.u32("num_experts_per_tok")?,
            config.u32("intermediate_size")?,
            Activation::QuickGelu,
            Router {
                bias: true,
                ..Router::new(RouterScores::SoftmaxOfChosen, false)
            },
        )
    };
    let names = ExpertNames {
        router: "mlp.router",
        correction: "",
        experts: match in_blocks(config)? {
            true => ExpertMatrices::Mxfp4 {
                names: STACKS,
                alternating: true,
                biases: BIASES,
            },
            false => ExpertMatrices::Fused {
                names: STACKS,
                transposed: true,
                alternating: true,
                biases: BIASES,
            },
        },
    };
    let types = layer_types(config, s.layers, &[FULL, SLIDING], |l| {
        [SLIDING, FULL][l % 2]
    })?;
    let window = config.opt_u32("sliding_window")?;
    let bias = config.bool_or("attention_bias", true)?;
    // Other words for the experts of a token, and for the context before it was extended.
    config.ignore(&["experts_per_token", "initial_context_length"]);
    // transformers fills in YaRN for configurations without any scaling; no published one is like that.
    if config.get("rope_parameters").is_none() && config.get("rope_scaling").is_none() {
        return Err(config.missing("rope_scaling"));
    }
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        theta: 1.5e5,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        sinks: true,
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, l| {
        let mask = window.filter(|_| types[l] == SLIDING);
        let attention = Attention {
            mask: mask.map_or(Mask::Causal, Mask::Sliding),
            ..attention.clone()
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.experts(experts.clone(), &names)
    })
}

/// Whether the experts are blocks of 4-bit floats.
fn in_blocks(config: &Config) -> Result<bool> {
    let Some(quantization) = config.opt_object("quantization_config")? else {
        return Ok(false);
    };
    if quantization.opt_str("quant_method")? != Some("mxfp4") {
        return Err(quantization.unsupported("quant_method", "\"mxfp4\""));
    }
    // Which tensors are blocks is seen from the tensors; the second asks transformers to widen them.
    quantization.ignore(&["modules_to_not_convert", "dequantize"]);
    quantization.finish()?;
    Ok(true)
}

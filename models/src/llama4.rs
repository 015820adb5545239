//! Llama 4: chunked layers with rotation and normed heads, full layers without, and experts whose inputs are scaled.

use crate::nested;
use crate::prelude::*;

/// Llama 4.
pub const FAMILY: Family = Family {
    model_types: &["llama4", "llama4_text"],
    plan,
    doc: "Llama 4 (its text part): chunked attention, layers without rotation, experts with scaled inputs",
};

/// A layer whose queries see their own chunk only, as configurations call it.
const CHUNKED: &str = "chunked_attention";

const DENSE: DenseNames<'static> = DenseNames::Gated([
    "feed_forward.gate_proj",
    "feed_forward.up_proj",
    "feed_forward.down_proj",
]);

const SHARED: DenseNames<'static> = DenseNames::Gated([
    "feed_forward.shared_expert.gate_proj",
    "feed_forward.shared_expert.up_proj",
    "feed_forward.shared_expert.down_proj",
]);

const EXPERTS: ExpertNames<'static> = ExpertNames {
    router: "feed_forward.router",
    correction: "",
    experts: ExpertMatrices::Fused {
        names: [
            "feed_forward.experts.gate_up_proj",
            "feed_forward.experts.down_proj",
        ],
        transposed: true,
        alternating: false,
        biases: ["", ""],
    },
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    if config.opt_str("model_type")? == Some("llama4") {
        let keys = ["boi_token_index", "eoi_token_index", "image_token_index"];
        return nested::plan(config, &keys, tensors, decoder);
    }
    decoder(config, Builder::new(config, tensors), &LLAMA)
}

fn decoder(config: &Config, mut b: Builder, names: &DecoderNames) -> Result<Plan> {
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            kv_heads: Some(8),
            head_dim: Some(128),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let inner = config.u32("intermediate_size")?;
    let wide = config.opt_u32("intermediate_size_mlp")?.unwrap_or(16384);
    let (dense, shared) = (Dense::gated(wide, act), Dense::gated(inner, act));
    let experts = Experts::new(
        config.u32("num_local_experts")?,
        config.opt_u32("num_experts_per_tok")?.unwrap_or(1),
        inner,
        act,
        Router {
            scales_input: true,
            ..Router::new(RouterScores::SigmoidOfChosen, false)
        },
    );
    let turning = flags(config, "no_rope_layers", s.layers)?;
    let interval = config
        .opt_u32("no_rope_layer_interval")?
        .unwrap_or(4)
        .max(1) as usize;
    let turning = turning.unwrap_or_else(|| {
        let turns = |l: usize| !(l + 1).is_multiple_of(interval);
        (0..s.layers).map(turns).collect()
    });
    let types = layer_types(config, s.layers, &[CHUNKED, FULL], |l| match turning[l] {
        true => CHUNKED,
        false => FULL,
    })?;
    let step = config
        .opt_u32("interleave_moe_layer_step")?
        .unwrap_or(1)
        .max(1) as usize;
    let sparse = match config.opt_array("moe_layers")? {
        None => (0..s.layers)
            .map(|l| (l + 1).is_multiple_of(step))
            .collect(),
        Some(list) => {
            let mut sparse = vec![false; s.layers];
            for l in list {
                let layer = l.as_u64().and_then(|l| sparse.get_mut(l as usize));
                match layer {
                    Some(s) => *s = true,
                    None => return Err(config.unsupported("moe_layers", "indices of layers")),
                }
            }
            sparse
        }
    };
    let chunk = config.opt_u32("attention_chunk_size")?;
    let chunk = match config.has("attention_chunk_size") {
        true => chunk,
        false => Some(8192),
    };
    let bias = config.bool_or("attention_bias", false)?;
    let growth = PositionScale {
        beta: config.opt_f64("attn_scale")?.unwrap_or(0.1),
        period: config.opt_f64("floor_scale")?.unwrap_or(8192.0),
        offset: 1,
    };
    let growth = truthy(config, "attn_temperature_tuning")?.then_some(growth);
    let qk_norm = config.bool_or("use_qk_norm", true)?.then(|| QkNorm {
        norm: norm.clone().bare(),
        span: NormSpan::Head,
        after_rope: true,
    });
    // Training only, and a switch of a tool that makes checkpoints.
    config.ignore(&["router_jitter_noise", "for_llm_compressor"]);

    b.interleaved = true;
    let options = RopeOptions {
        theta: 5e5,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let rope = b.rope(config, &options)?;
    b.decoder(&s, names, Frame::new(norm.clone()), |layer, l| {
        let turns = turning[l];
        let attention = Attention {
            q_bias: bias,
            kv_bias: bias,
            o_bias: bias,
            rope: turns.then_some(rope),
            mask: match chunk.filter(|_| types[l] == CHUNKED) {
                None => Mask::Causal,
                Some(chunk) => Mask::Chunked(chunk),
            },
            qk_norm: qk_norm.clone().filter(|_| turns),
            position_scale: growth.filter(|_| !turns),
            ..s.attention()
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        if !sparse[l] {
            return layer.dense(dense.clone(), &DENSE);
        }
        layer.experts(experts.clone(), &EXPERTS)?;
        layer.dense(shared.clone(), &SHARED)
    })
}

/// A list of zeros and ones, one per layer; an empty list counts as none.
fn flags(config: &Config, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
    let list = config.opt_array(key)?.unwrap_or_default();
    if list.is_empty() {
        return Ok(None);
    }
    let flag = |v: &serde_json::Value| match v.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => v.as_bool(),
    };
    let flags: Option<Vec<bool>> = list.iter().map(flag).collect();
    match flags.filter(|f| f.len() == layers) {
        Some(flags) => Ok(Some(flags)),
        None => Err(config.unsupported(key, &format!("{layers} times 0 or 1"))),
    }
}

/// A switch that some configurations write as a number; on where it is absent.
fn truthy(config: &Config, key: &str) -> Result<bool> {
    match config.get(key).map(|v| (v.as_bool(), v.as_f64())) {
        None => Ok(true),
        Some((Some(on), _)) => Ok(on),
        Some((None, Some(number))) => Ok(number != 0.0),
        Some((None, None)) => Err(config.unsupported(key, "true, false or a number")),
    }
}

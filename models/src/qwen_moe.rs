//! Qwen 2 and 3 with experts, and OLMoE: a softmax over all experts chooses; Qwen 2 adds a gated expert that always runs.

use crate::prelude::*;

/// Qwen MoE and OLMoE.
pub const FAMILY: Family = Family {
    model_types: &["olmoe", "qwen2_moe", "qwen3_moe"],
    plan,
    doc: "Qwen 1.5 to 3 MoE, OLMoE: experts chosen by softmax, dense layers between, a gated shared expert",
};

const SHARED: DenseNames<'static> = DenseNames::Gated([
    "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.up_proj",
    "mlp.shared_expert.down_proj",
]);

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let kind = config.opt_str("model_type")?.unwrap_or("qwen3_moe");
    let (second, olmoe) = (kind == "qwen2_moe", kind == "olmoe");
    let s = Sizes::read(config)?;
    let default_eps = if olmoe { 1e-5 } else { 1e-6 };
    let norm = Norm::rms(eps(config, "rms_norm_eps", default_eps)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let width = config.u32("intermediate_size")?;
    let dense = Dense::gated(width, act);
    let normalize = config.bool_or("norm_topk_prob", false)?;
    let count = match config.opt_u32("num_experts")? {
        None => config.u32("num_local_experts")?,
        Some(n) => n,
    };
    let experts = Experts::new(
        count,
        config.u32("num_experts_per_tok")?,
        if olmoe {
            width
        } else {
            config.u32("moe_intermediate_size")?
        },
        act,
        Router::new(RouterScores::Softmax, normalize),
    );
    let shared = match second {
        false => None,
        true => Some(Dense {
            output_gate: true,
            ..Dense::gated(config.u32("shared_expert_intermediate_size")?, act)
        }),
    };
    let step = config.opt_u32("decoder_sparse_step")?.unwrap_or(1).max(1) as usize;
    let only_dense: Vec<u64> = config
        .opt_array("mlp_only_layers")?
        .unwrap_or_default()
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .collect();
    let sparse = |l: usize| !only_dense.contains(&(l as u64)) && (l + 1).is_multiple_of(step);
    let windowed = config.bool_or("use_sliding_window", false)?;
    let window = config.opt_u32("sliding_window")?.filter(|_| windowed);
    let first = config.opt_u32("max_window_layers")?.unwrap_or(28) as usize;
    let types = layer_types(config, s.layers, &[FULL, SLIDING], |l| {
        if !second || (l % 2 == 0 && l < first) {
            SLIDING
        } else {
            FULL
        }
    })?;
    let all_bias = !second && config.bool_or("attention_bias", false)?;
    let qkv_bias = all_bias || second && config.bool_or("qkv_bias", true)?;
    let clip = config.opt_f64("clip_qkv")?.filter(|_| olmoe);
    let mut b = Builder::new(config, tensors);
    let attention = Attention {
        q_bias: qkv_bias,
        kv_bias: qkv_bias,
        o_bias: all_bias,
        rope: Some(b.rope(config, &RopeOptions::new(s.head_dim, s.context))?),
        clip: clip.map(|c| c as f32),
        qk_norm: (!second).then(|| QkNorm {
            norm: norm.clone(),
            span: if olmoe {
                NormSpan::Whole
            } else {
                NormSpan::Head
            },
            after_rope: false,
        }),
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
        if !olmoe && !sparse(l) {
            return layer.dense(dense.clone(), &LLAMA_MLP);
        }
        layer.experts(experts.clone(), &MLP_EXPERTS)?;
        match &shared {
            None => Ok(()),
            Some(d) => layer.dense_gated_by(d.clone(), &SHARED, "mlp.shared_expert_gate"),
        }
    })
}

//! Latent attention, and experts whose matrices a folder keeps with inputs as rows.

use super::Architecture;
use super::keys::{Keys, Pattern};
use super::rules::{How, Piece, Rule, Tables, exact, half, rule, same};
use super::tables::*;
use crate::error::Result;
use serde_json::json;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "deepseek2",
        config: deepseek2,
        tables: |_| &LATENT,
    },
    Architecture {
        name: "mistral4",
        config: mistral4,
        tables: |_| &MISTRAL4,
    },
    Architecture {
        name: "gpt-oss",
        config: gpt_oss,
        tables: |_| &GPT_OSS,
    },
    Architecture {
        name: "llama4",
        config: llama4,
        tables: |_| &LLAMA4,
    },
];

const LATENT_ATTENTION: &[Rule] = &[
    same("attn_q_a", "self_attn.q_a_proj"),
    same("attn_q_a_norm", "self_attn.q_a_layernorm"),
    same("attn_q_b", "self_attn.q_b_proj"),
    same("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    same("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    same("attn_kv_b", "self_attn.kv_b_proj"),
    // Each head's matrix of keys was transposed, and those of keys and values taken apart.
    rule("attn_k_b", "self_attn.kv_b_proj", How::LatentKeys),
    rule("attn_v_b", "self_attn.kv_b_proj", How::LatentValues),
];

const LATENT: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[NORMS, LATENT_ATTENTION, ATTENTION, MLP, EXPERTS, SHARED],
    )],
};

const MISTRAL4: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            LATENT_ATTENTION,
            ATTENTION,
            MLP,
            &[
                exact(
                    "ffn_gate_up_exps.weight",
                    "mlp.experts.gate_up_proj",
                    How::Same,
                ),
                exact("ffn_gate_exps.weight", "mlp.experts.gate_up_proj", half(0)),
                exact("ffn_up_exps.weight", "mlp.experts.gate_up_proj", half(1)),
                exact("ffn_down_exps.weight", "mlp.experts.down_proj", How::Same),
            ],
            EXPERTS,
            SHARED,
        ],
    )],
};

/// A half of the outputs of a stack that has inputs as rows.
const fn turned(index: usize, alternating: bool) -> How {
    How::Piece(Piece {
        index,
        of: 2,
        alternating,
        turned: true,
    })
}

/// Every other value of a stack's biases.
const fn every_other(index: usize) -> How {
    How::Piece(Piece {
        index,
        of: 2,
        alternating: true,
        turned: false,
    })
}

const GPT_OSS: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            &[
                same("post_attention_norm", "post_attention_layernorm"),
                exact("attn_sinks.weight", "self_attn.sinks", How::Same),
                same("ffn_gate_inp", "mlp.router"),
                exact(
                    "ffn_gate_exps.weight",
                    "mlp.experts.gate_up_proj",
                    turned(0, true),
                ),
                exact(
                    "ffn_up_exps.weight",
                    "mlp.experts.gate_up_proj",
                    turned(1, true),
                ),
                exact(
                    "ffn_gate_exps.bias",
                    "mlp.experts.gate_up_proj_bias",
                    every_other(0),
                ),
                exact(
                    "ffn_up_exps.bias",
                    "mlp.experts.gate_up_proj_bias",
                    every_other(1),
                ),
                exact("ffn_down_exps.weight", "mlp.experts.down_proj", How::Turned),
                exact(
                    "ffn_down_exps.bias",
                    "mlp.experts.down_proj_bias",
                    How::Same,
                ),
            ],
            ATTENTION,
        ],
    )],
};

const LLAMA4: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            ATTENTION,
            &[
                same("ffn_gate", "feed_forward.gate_proj"),
                same("ffn_up", "feed_forward.up_proj"),
                same("ffn_down", "feed_forward.down_proj"),
                same("ffn_gate_inp", "feed_forward.router"),
                exact(
                    "ffn_gate_exps.weight",
                    "feed_forward.experts.gate_up_proj",
                    turned(0, false),
                ),
                exact(
                    "ffn_up_exps.weight",
                    "feed_forward.experts.gate_up_proj",
                    turned(1, false),
                ),
                exact(
                    "ffn_down_exps.weight",
                    "feed_forward.experts.down_proj",
                    How::Turned,
                ),
                same("ffn_gate_shexp", "feed_forward.shared_expert.gate_proj"),
                same("ffn_up_shexp", "feed_forward.shared_expert.up_proj"),
                same("ffn_down_shexp", "feed_forward.shared_expert.down_proj"),
            ],
        ],
    )],
};

fn gpt_oss(k: &mut Keys) -> Result<()> {
    k.decoder("gpt_oss", "rms_norm_eps")?;
    k.numbers(&[
        ("expert_feed_forward_length", "intermediate_size"),
        ("expert_count", "num_local_experts"),
        ("expert_used_count", "num_experts_per_tok"),
    ])?;
    k.windows(&Pattern {
        default: 2,
        dense_first: false,
    })?;
    k.rope()?;
    // No key says so.
    k.out["rope_parameters"]["truncate"] = json!(false);
    Ok(())
}

fn llama4(k: &mut Keys) -> Result<()> {
    k.shape("llama4_text")?;
    k.eps("rms_norm_eps")?;
    k.numbers(&[
        ("feed_forward_length", "intermediate_size_mlp"),
        ("expert_feed_forward_length", "intermediate_size"),
        ("expert_count", "num_local_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("interleave_moe_layer_step", "interleave_moe_layer_step"),
    ])?;
    // What llama.cpp knows of these models: the largest does not norm its heads.
    let experts = k.c.opt_u32("expert_count")?.unwrap_or(0);
    k.set("use_qk_norm", experts != 128);
    if k.c.opt_u32("attention.sliding_window")? == Some(0) {
        let layers = k.layers.min(1 << 12) as usize;
        k.set("no_rope_layers", vec![1; layers]);
        k.set("layer_types", vec!["full_attention"; layers]);
    }
    k.rope()
}

/// The parts of a head with latent attention.
///
/// The rotary embedding is one of `whole` heads, or of their rotated part alone.
fn latent(k: &mut Keys, model_type: &str, whole: bool) -> Result<()> {
    k.stream(model_type)?;
    k.eps("rms_norm_eps")?;
    k.numbers(&[
        ("feed_forward_length", "intermediate_size"),
        ("attention.kv_lora_rank", "kv_lora_rank"),
        ("rope.dimension_count", "qk_rope_head_dim"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count", "num_key_value_heads"),
    ])?;
    let rank = k.c.opt_u32("attention.q_lora_rank")?.filter(|&r| r > 0);
    k.set("q_lora_rank", rank);
    // Newer files have attention of one key-value head, and the widths of before under other keys.
    k.c.ignore(&["attention.head_count_kv"]);
    let width = |new: &str, old: &str| -> Result<u32> {
        let old = k.c.u32(old)?;
        Ok(k.c.opt_u32(new)?.unwrap_or(old))
    };
    let head = width("attention.key_length_mla", "attention.key_length")?;
    let value = width("attention.value_length_mla", "attention.value_length")?;
    let rotated = k.c.u32("rope.dimension_count")?;
    if rotated > head {
        return Err(k
            .c
            .unsupported("rope.dimension_count", &format!("at most {head}")));
    }
    k.set("qk_nope_head_dim", head - rotated);
    k.set("v_head_dim", value);
    k.sizes.head_dim = if whole { head } else { rotated };
    k.rope()?;
    // A tenth of it is stored; both magnitudes are the same.
    if let Some(m) = k.c.opt_f64("rope.scaling.yarn_log_multiplier")? {
        let m = f64::from(m as f32 / 0.1);
        k.out["rope_parameters"]["mscale"] = json!(m);
        k.out["rope_parameters"]["mscale_all_dim"] = json!(m);
    }
    Ok(())
}

/// Experts in groups, behind some layers without a router.
fn groups(k: &mut Keys) -> Result<()> {
    k.numbers(&[
        ("expert_count", "n_routed_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_count", "n_shared_experts"),
    ])?;
    for (from, to) in [
        ("expert_group_count", "n_group"),
        ("expert_group_used_count", "topk_group"),
    ] {
        let n = k.c.opt_u32(from)?.filter(|&n| n > 0);
        k.set(to, n.unwrap_or(1));
    }
    let scale = k.c.opt_f64("expert_weights_scale")?.filter(|&x| x != 0.0);
    k.set("routed_scaling_factor", scale.unwrap_or(1.0));
    // The routers say it better.
    k.c.ignore(&["leading_dense_block_count"]);
    let kind = |l: u32| match k.has(&format!("blk.{l}.ffn_gate_inp.weight")) {
        true => "sparse",
        false => "dense",
    };
    let types: Vec<&str> = (0..k.layers.min(1 << 12)).map(kind).collect();
    k.set("mlp_layer_types", json!(types));
    Ok(())
}

fn deepseek2(k: &mut Keys) -> Result<()> {
    latent(k, "deepseek_v2", false)?;
    groups(k)?;
    let normalized = k.c.bool_or("expert_weights_norm", false)?;
    k.set("norm_topk_prob", normalized);
    // Corrections come with sigmoids; some files do not say more.
    let corrected = (0..k.layers.min(1 << 12)).any(|l| k.has(&format!("blk.{l}.exp_probs_b.bias")));
    let func = k.c.opt_u32("expert_gating_func")?;
    match (func, corrected) {
        (None | Some(0 | 2), true) => k.set("model_type", "deepseek_v3"),
        (None | Some(0 | 1), false) => {
            let grouped = k.c.opt_u32("expert_group_count")?.unwrap_or(0) > 1;
            let method = if grouped {
                "group_limited_greedy"
            } else {
                "greedy"
            };
            k.set("topk_method", method);
        }
        _ => {
            let expected = "1 (softmax), or 2 (sigmoid) beside corrections";
            return Err(k.c.unsupported("expert_gating_func", expected));
        }
    }
    Ok(())
}

fn mistral4(k: &mut Keys) -> Result<()> {
    latent(k, "mistral4", true)?;
    groups(k)?;
    let normalized = k.c.bool_or("expert_weights_norm", false)?;
    k.set("norm_topk_prob", normalized);
    k.only("expert_gating_func", 1)?;
    if let Some(beta) = k.c.opt_f64("attention.temperature_scale")? {
        k.out["rope_parameters"]["llama_4_scaling_beta"] = json!(beta);
    }
    k.c.ignore(&["attention.temperature_length"]);
    Ok(())
}

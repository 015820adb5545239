//! Decoders with experts.

use super::Architecture;
use super::dense::HUNYUAN_NORMS;
use super::keys::Keys;
use super::rules::{How, Rule, Tables, exact, rule, same};
use super::tables::*;
use crate::error::Result;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "qwen2moe",
        config: qwen2moe,
        tables: |_| &QWEN2_MOE,
    },
    Architecture {
        name: "qwen3moe",
        config: qwen3moe,
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "olmoe",
        config: olmoe,
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "phimoe",
        config: phimoe,
        tables: |_| &NAMED_FIRST,
    },
    Architecture {
        name: "minimax-m2",
        config: minimax,
        tables: |_| &NAMED_FIRST,
    },
    Architecture {
        name: "dots1",
        config: |k| routed(k, "dots1"),
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "glm4moe",
        config: glm4moe,
        tables: |_| &GLM4_MOE,
    },
    Architecture {
        name: "ernie4_5-moe",
        config: ernie,
        tables: |_| &ERNIE,
    },
    Architecture {
        name: "hunyuan-moe",
        config: hunyuan,
        tables: |_| &HUNYUAN,
    },
];

const PRE_NORM: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[NORMS, ATTENTION, QK_NORMS, MLP, EXPERTS, SHARED],
    )],
};

const NAMED_FIRST: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[NORMS, ATTENTION, QK_NORMS, BLOCK_SPARSE],
    )],
};

/// One shared expert with a gate of its own.
pub(super) const SHARED_WITH_GATE: &[Rule] = &[
    same("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    same("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    same("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    rule(
        "ffn_gate_inp_shexp",
        "mlp.shared_expert_gate",
        How::Shaped(&[1, 0]),
    ),
];

const QWEN2_MOE: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[NORMS, ATTENTION, MLP, EXPERTS, SHARED_WITH_GATE],
    )],
};

const GLM4_MOE: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            &[same("post_attention_norm", "post_attention_layernorm")],
            ATTENTION,
            QK_NORMS,
            MLP,
            EXPERTS,
            SHARED,
        ],
    )],
};

const ERNIE: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            ATTENTION,
            MLP,
            &[exact(
                "exp_probs_b.bias",
                "mlp.moe_statics.e_score_correction_bias",
                How::Same,
            )],
            EXPERTS,
            SHARED,
        ],
    )],
};

const HUNYUAN: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            ATTENTION,
            HUNYUAN_NORMS,
            &[
                same("ffn_gate_inp", "mlp.gate.wg"),
                same("ffn_gate_shexp", "mlp.shared_mlp.gate_proj"),
                same("ffn_up_shexp", "mlp.shared_mlp.up_proj"),
                same("ffn_down_shexp", "mlp.shared_mlp.down_proj"),
            ],
            EXPERTS,
        ],
    )],
};

/// How many experts, and their width.
fn counts(k: &mut Keys, count: &str) -> Result<()> {
    k.numbers(&[
        ("expert_count", count),
        ("expert_used_count", "num_experts_per_tok"),
    ])?;
    k.only("expert_weights_scale", 1.0)
}

/// The width of an expert, else an even share of the width of the networks.
fn width(k: &mut Keys) -> Result<()> {
    let all = k.c.u32("feed_forward_length")?;
    let used = k.c.opt_u32("expert_used_count")?.unwrap_or(1).max(1);
    let width = k.c.opt_u32("expert_feed_forward_length")?;
    k.set("moe_intermediate_size", width.unwrap_or(all / used));
    Ok(())
}

/// Layers without a router have no experts.
pub(super) fn dense_layers(k: &mut Keys) {
    let dense: Vec<u32> = (0..k.layers.min(1 << 12))
        .filter(|l| !k.has(&format!("blk.{l}.ffn_gate_inp.weight")))
        .collect();
    k.set("mlp_only_layers", dense);
}

fn qwen2moe(k: &mut Keys) -> Result<()> {
    k.decoder("qwen2_moe", "rms_norm_eps")?;
    counts(k, "num_experts")?;
    width(k)?;
    let all = k.c.u32("feed_forward_length")?;
    let shared = k.c.opt_u32("expert_shared_feed_forward_length")?;
    k.set("shared_expert_intermediate_size", shared.unwrap_or(all));
    dense_layers(k);
    k.rope()
}

fn qwen3moe(k: &mut Keys) -> Result<()> {
    k.decoder("qwen3_moe", "rms_norm_eps")?;
    counts(k, "num_experts")?;
    width(k)?;
    k.set("norm_topk_prob", true);
    dense_layers(k);
    k.rope()
}

fn olmoe(k: &mut Keys) -> Result<()> {
    k.decoder("olmoe", "rms_norm_eps")?;
    counts(k, "num_experts")?;
    k.floats(&[("attention.clamp_kqv", "clip_qkv")])?;
    k.rope()
}

fn phimoe(k: &mut Keys) -> Result<()> {
    k.decoder("phimoe", "rms_norm_eps")?;
    counts(k, "num_local_experts")?;
    let bias = k.has("output.bias");
    k.set("lm_head_bias", bias);
    let window = k.c.opt_u32("attention.sliding_window")?.filter(|&w| w > 0);
    k.set("sliding_window", window);
    k.rope()
}

/// Checks that experts are chosen by a sigmoid of their scores, where the file says how.
fn sigmoid(k: &Keys) -> Result<()> {
    k.only("expert_gating_func", 2)
}

fn minimax(k: &mut Keys) -> Result<()> {
    k.decoder("minimax_m2", "rms_norm_eps")?;
    counts(k, "num_local_experts")?;
    let width = k.c.u32("expert_feed_forward_length")?;
    k.set("intermediate_size", width);
    sigmoid(k)?;
    k.rope()
}

/// Experts in groups with corrections, behind some layers without experts.
fn routed(k: &mut Keys, model_type: &str) -> Result<()> {
    k.decoder(model_type, "rms_norm_eps")?;
    k.numbers(&[
        ("expert_count", "n_routed_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_count", "n_shared_experts"),
    ])?;
    let dense = k.c.opt_u32("leading_dense_block_count")?.unwrap_or(0);
    k.set("first_k_dense_replace", dense);
    let normalized = k.c.bool_or("expert_weights_norm", false)?;
    k.set("norm_topk_prob", normalized);
    k.floats(&[("expert_weights_scale", "routed_scaling_factor")])?;
    for (from, to) in [
        ("expert_group_count", "n_group"),
        ("expert_group_used_count", "topk_group"),
    ] {
        if let Some(n) = k.c.opt_u32(from)?.filter(|&n| n > 0) {
            k.set(to, n);
        }
    }
    sigmoid(k)?;
    k.rope()
}

fn glm4moe(k: &mut Keys) -> Result<()> {
    routed(k, "glm4_moe")?;
    let normed = k.has("blk.0.attn_q_norm.weight");
    k.set("use_qk_norm", normed);
    Ok(())
}

fn ernie(k: &mut Keys) -> Result<()> {
    k.decoder("ernie4_5_moe", "rms_norm_eps")?;
    k.numbers(&[
        ("expert_count", "moe_num_experts"),
        ("expert_used_count", "moe_k"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_count", "moe_num_shared_experts"),
        ("interleave_moe_layer_step", "moe_layer_interval"),
        ("leading_dense_block_count", "moe_layer_start_index"),
    ])?;
    // The width of the shared experts together; converters computed it from another number.
    k.c.ignore(&["expert_shared_feed_forward_length"]);
    k.rope()
}

fn hunyuan(k: &mut Keys) -> Result<()> {
    k.decoder("hunyuan_v1_moe", "rms_norm_eps")?;
    k.numbers(&[
        ("expert_count", "num_experts"),
        ("expert_used_count", "moe_topk"),
    ])?;
    let width = k.c.u32("feed_forward_length")?;
    k.only("expert_feed_forward_length", width)?;
    k.only("expert_shared_feed_forward_length", width)?;
    k.only("expert_shared_count", 1)?;
    k.rope()
}

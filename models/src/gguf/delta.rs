//! Models with delta rules: one was added to the weight of every norm but that of the rule itself.

use super::Architecture;
use super::experts::{SHARED_WITH_GATE, dense_layers};
use super::keys::Keys;
use super::rules::{How, Rule, Tables, exact, rule, same};
use super::tables::*;
use crate::error::Result;
use serde_json::{Value, json};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "qwen3next",
        config: next,
        tables: |_| &DELTA,
    },
    Architecture {
        name: "qwen35",
        config: dense,
        tables: |_| &DELTA,
    },
    Architecture {
        name: "qwen35moe",
        config: sparse,
        tables: |_| &DELTA,
    },
];

const DELTA: Tables<'static> = Tables {
    model: &[&[rule("output_norm", "model.norm", How::PlusOne)], MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS_OF_DELTA,
            RULE,
            ATTENTION,
            MLP,
            EXPERTS,
            SHARED_WITH_GATE,
        ],
    )],
};

const NORMS_OF_DELTA: &[Rule] = &[
    rule("attn_norm", "input_layernorm", How::PlusOne),
    rule(
        "post_attention_norm",
        "post_attention_layernorm",
        How::PlusOne,
    ),
    rule("attn_q_norm", "self_attn.q_norm", How::PlusOne),
    rule("attn_k_norm", "self_attn.k_norm", How::PlusOne),
];

const RULE: &[Rule] = &[
    same("attn_qkv", "linear_attn.in_proj_qkv"),
    same("attn_gate", "linear_attn.in_proj_z"),
    same("ssm_ba", "linear_attn.in_proj_ba"),
    same("ssm_alpha", "linear_attn.in_proj_a"),
    same("ssm_beta", "linear_attn.in_proj_b"),
    same("ssm_conv1d", "linear_attn.conv1d"),
    exact("ssm_dt.bias", "linear_attn.dt_bias", How::Same),
    exact("ssm_a", "linear_attn.A_log", How::Same),
    same("ssm_norm", "linear_attn.norm"),
    same("ssm_out", "linear_attn.out_proj"),
];

/// Which layers have which mixer, and the sizes of the rule.
fn mixers(k: &mut Keys) -> Result<()> {
    k.eps("rms_norm_eps")?;
    k.numbers(&[
        ("ssm.conv_kernel", "linear_conv_kernel_dim"),
        ("ssm.state_size", "linear_key_head_dim"),
        ("ssm.group_count", "linear_num_key_heads"),
        ("ssm.time_step_rank", "linear_num_value_heads"),
    ])?;
    let inner = k.c.u32("ssm.inner_size")?;
    let heads = k.c.u32("ssm.time_step_rank")?;
    let width = inner.checked_div(heads).unwrap_or(0);
    k.set("linear_value_head_dim", width);
    let interval = k.c.opt_u32("full_attention_interval")?.unwrap_or(4);
    let layers = k.layers.min(1 << 12);
    let recurrent: Vec<bool> = match k.c.opt_array("attention.recurrent_layers")? {
        None => (1..=layers)
            .map(|l| interval == 0 || l % interval != 0)
            .collect(),
        // Blocks behind the last layer are in it.
        Some(list) => list
            .iter()
            .take(layers as usize)
            .map(|v| *v == Value::Bool(true))
            .collect(),
    };
    let kind = |r: &bool| match r {
        true => "linear_attention",
        false => "full_attention",
    };
    let types: Vec<&str> = recurrent.iter().map(kind).collect();
    k.set("layer_types", json!(types));
    // Axes of places in images, which are all the same in a text.
    k.c.ignore(&["rope.dimension_sections"]);
    k.rope()
}

fn dense(k: &mut Keys) -> Result<()> {
    k.shape("qwen3_5_text")?;
    k.numbers(&[("feed_forward_length", "intermediate_size")])?;
    mixers(k)
}

/// Experts with a gated one that always runs.
fn sparse(k: &mut Keys) -> Result<()> {
    k.shape("qwen3_5_moe_text")?;
    k.numbers(&[
        ("expert_count", "num_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        (
            "expert_shared_feed_forward_length",
            "shared_expert_intermediate_size",
        ),
    ])?;
    if let Some(n) = k.c.opt_u32("feed_forward_length")? {
        k.set("intermediate_size", n);
    }
    mixers(k)
}

fn next(k: &mut Keys) -> Result<()> {
    sparse(k)?;
    k.set("model_type", "qwen3_next");
    k.set("norm_topk_prob", true);
    dense_layers(k);
    Ok(())
}

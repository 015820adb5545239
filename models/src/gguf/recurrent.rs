//! Models with recurrent states: state spaces, gated convolutions.

use super::Architecture;
use super::keys::Keys;
use super::llama::{GRANITE_EXPERTS, multipliers};
use super::rules::{How, Rule, Tables, exact, half, rule, same};
use super::tables::*;
use crate::error::Result;
use serde_json::{Value, json};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "mamba",
        config: mamba,
        tables: |_| &MAMBA,
    },
    Architecture {
        name: "mamba2",
        config: mamba2,
        tables: |_| &MAMBA2,
    },
    Architecture {
        name: "falcon-h1",
        config: falcon_h1,
        tables: |_| &FALCON_H1,
    },
    Architecture {
        name: "granitehybrid",
        config: granitehybrid,
        tables: |_| &GRANITE_HYBRID,
    },
    Architecture {
        name: "lfm2",
        config: lfm2,
        tables: |_| &LFM2,
    },
    Architecture {
        name: "lfm2moe",
        config: lfm2moe,
        tables: |_| &LFM2,
    },
];

const BACKBONE: &[Rule] = &[
    same("token_embd", "backbone.embeddings"),
    same("output_norm", "backbone.norm_f"),
    same("output", "lm_head"),
];

const MAMBA: Tables<'static> = Tables {
    model: &[BACKBONE],
    stacks: &[(
        "blk.",
        "backbone.layers.",
        &[&[
            same("attn_norm", "norm"),
            same("ssm_in", "mixer.in_proj"),
            same("ssm_conv1d", "mixer.conv1d"),
            same("ssm_x", "mixer.x_proj"),
            same("ssm_dt", "mixer.dt_proj"),
            exact("ssm_a", "mixer.A_log", How::Same),
            exact("ssm_d", "mixer.D", How::Same),
            same("ssm_out", "mixer.out_proj"),
        ]],
    )],
};

const MAMBA2: Tables<'static> = Tables {
    model: &[BACKBONE],
    stacks: &[(
        "blk.",
        "backbone.layers.",
        &[&[
            same("attn_norm", "norm"),
            same("ssm_in", "mixer.in_proj"),
            same("ssm_conv1d", "mixer.conv1d"),
            exact("ssm_dt.bias", "mixer.dt_bias", How::Same),
            exact("ssm_a", "mixer.A_log", How::Flat),
            exact("ssm_d", "mixer.D", How::Flat),
            rule("ssm_norm", "mixer.norm", How::Flat),
            same("ssm_out", "mixer.out_proj"),
        ]],
    )],
};

/// A state space beside or in place of attention.
const STATE_SPACE: &[Rule] = &[
    same("ssm_in", "mamba.in_proj"),
    same("ssm_conv1d", "mamba.conv1d"),
    exact("ssm_dt.bias", "mamba.dt_bias", How::Same),
    exact("ssm_a", "mamba.A_log", How::Flat),
    exact("ssm_d", "mamba.D", How::Flat),
    rule("ssm_norm", "mamba.norm", How::Flat),
    same("ssm_out", "mamba.out_proj"),
];

const FALCON_H1: Tables<'static> = Tables {
    model: &[&[same("output_norm", "model.final_layernorm")], MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            &[
                same("attn_norm", "input_layernorm"),
                // Converters leave the end of this name out.
                exact("ffn_norm", "pre_ff_layernorm.weight", How::Same),
                same("ffn_norm", "pre_ff_layernorm"),
                same("ffn_gate", "feed_forward.gate_proj"),
                same("ffn_up", "feed_forward.up_proj"),
                same("ffn_down", "feed_forward.down_proj"),
            ],
            ATTENTION,
            STATE_SPACE,
        ],
    )],
};

const GRANITE_HYBRID: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            PAIRED_ATTENTION,
            STATE_SPACE,
            GRANITE_EXPERTS,
            &[
                rule("ffn_gate_shexp", "shared_mlp.input_linear", half(0)),
                rule("ffn_up_shexp", "shared_mlp.input_linear", half(1)),
                same("ffn_down_shexp", "shared_mlp.output_linear"),
                // Without experts the shared network is the only one.
                rule("ffn_gate", "shared_mlp.input_linear", half(0)),
                rule("ffn_up", "shared_mlp.input_linear", half(1)),
                same("ffn_down", "shared_mlp.output_linear"),
            ],
        ],
    )],
};

const LFM2: Tables<'static> = Tables {
    model: &[
        &[
            // The norm behind the last layer, whatever it is called.
            same("token_embd_norm", "model.embedding_norm"),
            same("output_norm", "model.embedding_norm"),
        ],
        MODEL,
    ],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            &[
                same("attn_norm", "operator_norm"),
                same("ffn_norm", "ffn_norm"),
                same("attn_output", "self_attn.out_proj"),
                same("attn_q_norm", "self_attn.q_layernorm"),
                same("attn_k_norm", "self_attn.k_layernorm"),
                same("shortconv.conv", "conv.conv"),
                same("shortconv.in_proj", "conv.in_proj"),
                same("shortconv.out_proj", "conv.out_proj"),
                same("ffn_gate", "feed_forward.w1"),
                same("ffn_up", "feed_forward.w3"),
                same("ffn_down", "feed_forward.w2"),
                same("ffn_gate_inp", "feed_forward.gate"),
                exact("exp_probs_b.bias", "feed_forward.expert_bias", How::Same),
                same("ffn_gate_exps", "feed_forward.experts.{e}.w1"),
                same("ffn_up_exps", "feed_forward.experts.{e}.w3"),
                same("ffn_down_exps", "feed_forward.experts.{e}.w2"),
            ],
            ATTENTION,
        ],
    )],
};

/// `inner / outer` of two numbers that were read before; 0 where they make no sense.
fn ratio(inner: u32, outer: u64) -> f64 {
    f64::from(inner) / outer.max(1) as f64
}

/// What models without attention have.
fn backbone(k: &mut Keys, model_type: &str) -> Result<()> {
    k.stream(model_type)?;
    k.eps("layer_norm_epsilon")?;
    k.numbers(&[
        ("ssm.conv_kernel", "conv_kernel"),
        ("ssm.state_size", "state_size"),
    ])?;
    let inner = k.c.u32("ssm.inner_size")?;
    let hidden = k.out["hidden_size"].as_u64().unwrap_or(0);
    k.set("expand", ratio(inner, hidden));
    let bias = k.has("blk.0.ssm_in.bias");
    k.set("use_bias", bias);
    let bias = k.has("blk.0.ssm_conv1d.bias");
    k.set("use_conv_bias", bias);
    // Zeros that llama.cpp wants to see.
    k.c.ignore(&["feed_forward_length", "attention.head_count"]);
    Ok(())
}

fn mamba(k: &mut Keys) -> Result<()> {
    backbone(k, "mamba")?;
    k.numbers(&[
        ("ssm.inner_size", "intermediate_size"),
        ("ssm.time_step_rank", "time_step_rank"),
    ])?;
    k.only("ssm.dt_b_c_rms", false)
}

fn mamba2(k: &mut Keys) -> Result<()> {
    backbone(k, "mamba2")?;
    k.numbers(&[
        ("ssm.time_step_rank", "num_heads"),
        ("ssm.group_count", "n_groups"),
    ])?;
    let heads = k.c.u32("ssm.time_step_rank")?;
    let inner = k.c.u32("ssm.inner_size")?;
    k.set("head_dim", inner.checked_div(heads).unwrap_or(0));
    Ok(())
}

/// A state space beside attention; `layer` is one that has it.
fn state_space(k: &mut Keys, layer: usize) -> Result<()> {
    k.numbers(&[
        ("ssm.conv_kernel", "mamba_d_conv"),
        ("ssm.state_size", "mamba_d_state"),
        ("ssm.time_step_rank", "mamba_n_heads"),
        ("ssm.group_count", "mamba_n_groups"),
    ])?;
    let heads = k.c.u32("ssm.time_step_rank")?;
    let inner = k.c.u32("ssm.inner_size")?;
    let hidden = k.out["hidden_size"].as_u64().unwrap_or(0);
    k.set("mamba_d_head", inner.checked_div(heads).unwrap_or(0));
    k.set("mamba_expand", ratio(inner, hidden));
    let there = |name: &str| k.has(&format!("blk.{layer}.{name}.bias"));
    let (conv, proj) = (there("ssm_conv1d"), there("ssm_in"));
    k.set("mamba_conv_bias", conv);
    k.set("mamba_proj_bias", proj);
    Ok(())
}

fn falcon_h1(k: &mut Keys) -> Result<()> {
    // All multipliers are in the weights already.
    k.decoder("falcon_h1", "rms_norm_eps")?;
    state_space(k, 0)?;
    k.numbers(&[("ssm.inner_size", "mamba_d_ssm")])?;
    let normed = k.has("blk.0.ssm_norm.weight");
    k.set("mamba_rms_norm", normed);
    k.set("mamba_norm_before_gate", false);
    k.rope()
}

/// The kinds of the layers: those without key-value heads are recurrent.
fn kinds(k: &mut Keys, recurrent: &str) -> Result<Vec<bool>> {
    let key = "attention.head_count_kv";
    let layers = k.layers as usize;
    let wrong = || {
        k.c.unsupported(
            key,
            &format!("{layers} numbers, 0 in layers without attention"),
        )
    };
    let flags: Vec<bool> = match k.c.get(key) {
        Some(Value::Array(list)) => list.iter().map(|v| v.as_u64() == Some(0)).collect(),
        _ => vec![false; layers.min(1 << 12)],
    };
    if flags.len() != layers {
        return Err(wrong());
    }
    let kind = |recurs: &bool| if *recurs { recurrent } else { "full_attention" };
    let types: Vec<&str> = flags.iter().map(kind).collect();
    k.set("layer_types", json!(types));
    Ok(flags)
}

fn granitehybrid(k: &mut Keys) -> Result<()> {
    k.decoder("granitemoehybrid", "rms_norm_eps")?;
    multipliers(k)?;
    let recurrent = kinds(k, "linear_attention")?;
    let first = recurrent.iter().position(|&r| r).unwrap_or(0);
    state_space(k, first)?;
    let experts = k.c.opt_u32("expert_count")?.unwrap_or(0);
    k.set("num_local_experts", experts);
    if let Some(used) = k.c.opt_u32("expert_used_count")? {
        k.set("num_experts_per_tok", used);
    }
    let all = k.c.u32("feed_forward_length")?;
    let shared = k.c.opt_u32("expert_shared_feed_forward_length")?;
    let shared = shared.filter(|_| experts > 0).unwrap_or(all);
    k.set("shared_intermediate_size", shared);
    // The key of another thing says whether there is any rotation.
    let rotated = k.c.bool_or("rope.scaling.finetuned", true)?;
    k.set(
        "position_embedding_type",
        if rotated { "rope" } else { "nope" },
    );
    k.rope()
}

fn lfm2(k: &mut Keys) -> Result<()> {
    k.shape("lfm2")?;
    k.eps("norm_eps")?;
    k.numbers(&[("shortconv.l_cache", "conv_L_cache")])?;
    let recurrent = kinds(k, "conv")?;
    let first = recurrent.iter().position(|&r| r).unwrap_or(0);
    let bias = k.has(&format!("blk.{first}.shortconv.conv.bias"));
    k.set("conv_bias", bias);
    // The matrices say it.
    k.c.ignore(&["feed_forward_length"]);
    k.rope()
}

fn lfm2moe(k: &mut Keys) -> Result<()> {
    lfm2(k)?;
    k.set("model_type", "lfm2_moe");
    k.numbers(&[
        ("expert_count", "num_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
    ])?;
    let dense = k.c.opt_u32("leading_dense_block_count")?.unwrap_or(0);
    k.set("num_dense_layers", dense);
    k.only("expert_gating_func", 2)
}

//! Llama and the architectures whose converters turn halves of rotated rows into interleaved pairs.

use super::Architecture;
use super::keys::Keys;
use super::rules::{Rule, Tables, half, rule, same};
use super::tables::*;
use crate::error::Result;
use serde_json::json;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        config: llama,
        tables: |_| &LLAMA,
    },
    Architecture {
        name: "mistral3",
        config: mistral3,
        tables: |_| &LLAMA,
    },
    Architecture {
        name: "arcee",
        config: arcee,
        tables: |_| &LLAMA,
    },
    Architecture {
        name: "smollm3",
        config: smollm3,
        tables: |_| &LLAMA,
    },
    Architecture {
        name: "granite",
        config: granite,
        tables: |_| &LLAMA,
    },
    Architecture {
        name: "granitemoe",
        config: granitemoe,
        tables: |_| &GRANITE_MOE,
    },
];

const LLAMA: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[NORMS, PAIRED_ATTENTION, MLP, BLOCK_SPARSE],
    )],
};

const GRANITE_MOE: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[NORMS, PAIRED_ATTENTION, GRANITE_EXPERTS],
    )],
};

pub(super) const GRANITE_EXPERTS: &[Rule] = &[
    same("ffn_gate_inp", "block_sparse_moe.router.layer"),
    rule("ffn_gate_exps", "block_sparse_moe.input_linear", half(0)),
    rule("ffn_up_exps", "block_sparse_moe.input_linear", half(1)),
    same("ffn_down_exps", "block_sparse_moe.output_linear"),
];

fn llama(k: &mut Keys) -> Result<()> {
    k.decoder("llama", "rms_norm_eps")?;
    k.causal()?;
    if let Some(window) = k.c.opt_u32("attention.sliding_window")?.filter(|&w| w > 0) {
        k.set("model_type", "mistral");
        k.set("sliding_window", window);
    }
    let experts = k.c.opt_u32("expert_count")?.unwrap_or(0);
    let used = k.c.opt_u32("expert_used_count")?.unwrap_or(0);
    if experts > 0 {
        k.set("model_type", "mixtral");
        k.set("num_local_experts", experts);
        k.set("num_experts_per_tok", used);
    }
    k.rope()
}

fn mistral3(k: &mut Keys) -> Result<()> {
    k.decoder("ministral3", "rms_norm_eps")?;
    k.rope()?;
    if let Some(beta) = k.c.opt_f64("attention.temperature_scale")? {
        k.out["rope_parameters"]["llama_4_scaling_beta"] = json!(beta);
    }
    Ok(())
}

fn arcee(k: &mut Keys) -> Result<()> {
    k.decoder("arcee", "rms_norm_eps")?;
    k.rope()
}

fn smollm3(k: &mut Keys) -> Result<()> {
    k.decoder("smollm3", "rms_norm_eps")?;
    // No file says which layers rotate: llama.cpp knows it.
    k.set("no_rope_layer_interval", 4);
    k.rope()
}

/// The multipliers, where a scale of the scores that is not there is the usual one.
pub(super) fn multipliers(k: &mut Keys) -> Result<()> {
    let usual = 1.0 / f64::from(k.sizes.head_dim.max(1)).sqrt();
    let scale = k.c.opt_f64("attention.scale")?.unwrap_or(usual);
    k.set("attention_multiplier", scale);
    k.floats(&[
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ])
}

fn granite(k: &mut Keys) -> Result<()> {
    k.decoder("granite", "rms_norm_eps")?;
    k.only("rope.scaling.finetuned", true)?;
    multipliers(k)?;
    k.rope()
}

fn granitemoe(k: &mut Keys) -> Result<()> {
    granite(k)?;
    k.set("model_type", "granitemoe");
    k.numbers(&[
        ("expert_count", "num_local_experts"),
        ("expert_used_count", "num_experts_per_tok"),
    ])
}

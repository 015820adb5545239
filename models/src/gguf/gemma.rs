//! Gemma: in the first three generations one was added to the weight of every norm.

use super::Architecture;
use super::keys::{Keys, Pattern, share};
use super::rules::{How, Rule, Tables, exact, half, rule, same};
use super::tables::*;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "gemma",
        config: gemma,
        tables: |_| &GEMMA,
    },
    Architecture {
        name: "gemma2",
        config: gemma2,
        tables: |_| &GEMMA2,
    },
    Architecture {
        name: "gemma3",
        config: |k| gemma3(k, 62),
        tables: |_| &GEMMA2,
    },
    Architecture {
        name: "gemma3n",
        config: gemma3n,
        tables: |_| &GEMMA3N,
    },
    Architecture {
        name: "gemma4",
        config: gemma4,
        tables: |_| &GEMMA4,
    },
    Architecture {
        name: "gemma-embedding",
        config: embedding,
        tables: |_| &GEMMA2,
    },
];

const OUTER: &[Rule] = &[rule("output_norm", "model.norm", How::PlusOne)];

const GEMMA: Tables<'static> = Tables {
    model: &[OUTER, MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            &[
                rule("attn_norm", "input_layernorm", How::PlusOne),
                rule("ffn_norm", "post_attention_layernorm", How::PlusOne),
            ],
            ATTENTION,
            MLP,
        ],
    )],
};

const GEMMA2: Tables<'static> = Tables {
    model: &[OUTER, MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            &[
                rule("attn_norm", "input_layernorm", How::PlusOne),
                rule(
                    "post_attention_norm",
                    "post_attention_layernorm",
                    How::PlusOne,
                ),
                rule("ffn_norm", "pre_feedforward_layernorm", How::PlusOne),
                rule("post_ffw_norm", "post_feedforward_layernorm", How::PlusOne),
                rule("attn_q_norm", "self_attn.q_norm", How::PlusOne),
                rule("attn_k_norm", "self_attn.k_norm", How::PlusOne),
            ],
            ATTENTION,
            MLP,
        ],
    )],
};

fn gemma(k: &mut Keys) -> Result<()> {
    k.decoder("gemma", "rms_norm_eps")?;
    k.rope()
}

/// The number under the root of the scale, which no file has: the width of a head, but in the largest model, which its layers give away.
fn scalar(k: &mut Keys, largest: u32) {
    let s = k.sizes;
    let hidden = k.out["hidden_size"].as_u64().unwrap_or(0);
    let scalar = match k.layers == largest && s.heads > 0 {
        true => hidden / u64::from(s.heads),
        false => s.head_dim.into(),
    };
    k.set("query_pre_attn_scalar", scalar);
}

fn gemma2(k: &mut Keys) -> Result<()> {
    k.decoder("gemma2", "rms_norm_eps")?;
    scalar(k, 46);
    k.floats(&[
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ])?;
    if k.c.opt_u32("attention.sliding_window")?.is_some() {
        k.windows(&Pattern {
            default: 2,
            dense_first: false,
        })?;
    }
    k.rope()
}

fn gemma3(k: &mut Keys, largest: u32) -> Result<()> {
    k.decoder("gemma3_text", "rms_norm_eps")?;
    scalar(k, largest);
    k.floats(&[("final_logit_softcapping", "final_logit_softcapping")])?;
    k.windows(&Pattern {
        default: 6,
        dense_first: false,
    })?;
    k.rope_by_layer(Some(1e4))
}

fn embedding(k: &mut Keys) -> Result<()> {
    // No size of this one has another scale.
    gemma3(k, 0)?;
    k.only("attention.causal", false)?;
    k.set("use_bidirectional_attention", true);
    Ok(())
}

/// What the layers of the later models have, whose norms are stored as they are.
const LATER: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    same("post_attention_norm", "post_attention_layernorm"),
    same("ffn_norm", "pre_feedforward_layernorm"),
    same("post_ffw_norm", "post_feedforward_layernorm"),
    same("inp_gate", "per_layer_input_gate"),
    same("proj", "per_layer_projection"),
    same("post_norm", "post_per_layer_input_norm"),
];

const PER_LAYER: &[Rule] = &[
    same("per_layer_token_embd", "model.embed_tokens_per_layer"),
    same("per_layer_model_proj", "model.per_layer_model_projection"),
    same("per_layer_proj_norm", "model.per_layer_projection_norm"),
];

const GEMMA3N: Tables<'static> = Tables {
    model: &[
        MODEL,
        PER_LAYER,
        &[
            same("altup_proj", "model.altup_projections.{e}"),
            same("altup_unembd_proj", "model.altup_unembed_projections.{e}"),
        ],
    ],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            LATER,
            ATTENTION,
            QK_NORMS,
            MLP,
            &[
                exact(
                    "altup_correct_scale.weight",
                    "altup.correct_output_scale",
                    How::Same,
                ),
                same("altup_correct_coef", "altup.correction_coefs"),
                same("altup_router", "altup.modality_router"),
                same("altup_predict_coef", "altup.prediction_coefs"),
                same("altup_router_norm", "altup.router_norm"),
                same("laurel_l", "laurel.linear_left"),
                same("laurel_r", "laurel.linear_right"),
                same("laurel_post_norm", "laurel.post_laurel_norm"),
            ],
        ],
    )],
};

const GEMMA4: Tables<'static> = Tables {
    model: &[MODEL, PER_LAYER],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            LATER,
            ATTENTION,
            QK_NORMS,
            MLP,
            &[
                exact("layer_output_scale.weight", "layer_scalar", How::Same),
                same("post_ffw_norm_1", "post_feedforward_layernorm_1"),
                same("pre_ffw_norm_2", "pre_feedforward_layernorm_2"),
                same("post_ffw_norm_2", "post_feedforward_layernorm_2"),
                same("ffn_gate_inp", "router.proj"),
                exact("ffn_gate_inp.scale", "router.scale", How::Same),
                exact("ffn_down_exps.scale", "router.per_expert_scale", How::Same),
                exact("ffn_gate_up_exps.weight", "experts.gate_up_proj", How::Same),
                exact("ffn_gate_exps.weight", "experts.gate_up_proj", half(0)),
                exact("ffn_up_exps.weight", "experts.gate_up_proj", half(1)),
                exact("ffn_down_exps.weight", "experts.down_proj", How::Same),
            ],
        ],
    )],
};

/// The vectors of single layers.
fn per_layer(k: &mut Keys) -> Result<()> {
    let width = k.c.opt_u32("embedding_length_per_layer_input")?;
    k.set("hidden_size_per_layer_input", width.unwrap_or(0));
    if let Some(&[rows, _]) = k.file.shape("per_layer_token_embd.weight") {
        k.set("vocab_size_per_layer_input", rows);
    }
    let shared = k.c.opt_u32("attention.shared_kv_layers")?.unwrap_or(0);
    k.set("num_kv_shared_layers", shared);
    k.floats(&[("final_logit_softcapping", "final_logit_softcapping")])
}

fn gemma3n(k: &mut Keys) -> Result<()> {
    k.shape("gemma3n_text")?;
    k.eps("rms_norm_eps")?;
    if let Some(width) = k.c.get("feed_forward_length") {
        k.set("intermediate_size", width.clone());
    }
    per_layer(k)?;
    k.numbers(&[
        ("altup.num_inputs", "altup_num_inputs"),
        ("altup.active_idx", "altup_active_idx"),
    ])?;
    if let Some(&[rank, _]) = k.file.shape("blk.0.laurel_l.weight") {
        k.set("laurel_rank", rank);
    }
    // Deviations above the mean; infinitely many below it in layers without a cut-off.
    let scales = k.c.opt_array("activation_sparsity_scale")?;
    let scales: Vec<Value> = scales
        .unwrap_or_default()
        .iter()
        .map(|v| v.as_f64().map_or(Value::Null, Value::from))
        .collect();
    k.set("activation_sparsity_scale", scales);
    k.windows(&Pattern {
        default: 5,
        dense_first: false,
    })?;
    k.rope_by_layer(Some(1e4))
}

fn gemma4(k: &mut Keys) -> Result<()> {
    k.stream("gemma4_text")?;
    k.eps("rms_norm_eps")?;
    per_layer(k)?;
    k.windows(&Pattern {
        default: 6,
        dense_first: false,
    })?;
    k.numbers(&[
        ("attention.head_count", "num_attention_heads"),
        ("attention.key_length_swa", "head_dim"),
    ])?;
    let wide = k.c.u32("attention.key_length")?;
    let narrow = k.c.u32("attention.key_length_swa")?;
    k.only("attention.value_length", wide)?;
    k.only("attention.value_length_swa", narrow)?;
    k.only("rope.dimension_count", wide)?;
    k.only("rope.dimension_count_swa", narrow)?;
    let types = k.out["layer_types"].clone();
    let types = types.as_array().map_or(&[][..], Vec::as_slice);
    let full = |l: usize| types.get(l).is_some_and(|t| t == "full_attention");
    // One number, or one per layer.
    let key = "attention.head_count_kv";
    let kv_heads: Vec<Value> = match k.c.get(key) {
        Some(Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone(); types.len()],
        None => return Err(k.c.missing(key)),
    };
    if kv_heads.len() != types.len() {
        return Err(k.c.unsupported(key, &format!("{} numbers", types.len())));
    }
    let mut own = Map::new();
    for (l, n) in kv_heads.iter().enumerate() {
        match full(l) {
            true => {
                let layer = json!({"head_dim": wide, "num_key_value_heads": n});
                own.insert(l.to_string(), layer);
            }
            false => k.set("num_key_value_heads", n.clone()),
        }
    }
    k.set("per_layer_config", own);
    let first = (0..types.len()).find(|&l| full(l)).unwrap_or(0);
    let same = !k.has(&format!("blk.{first}.attn_v.weight"));
    k.set("attention_k_eq_v", same);
    let width = match k.c.get("feed_forward_length") {
        Some(Value::Array(list)) => {
            // Layers that share keys and values are twice as wide.
            let first = list.first().and_then(Value::as_u64).unwrap_or(0);
            let last = list.last().and_then(Value::as_u64);
            k.set("use_double_wide_mlp", last == first.checked_mul(2));
            json!(first)
        }
        _ => json!(k.c.u32("feed_forward_length")?),
    };
    k.set("intermediate_size", width);
    let experts = k.c.opt_u32("expert_count")?.filter(|&n| n > 0);
    k.set("enable_moe_block", experts.is_some());
    if experts.is_some() {
        k.numbers(&[
            ("expert_count", "num_experts"),
            ("expert_used_count", "top_k_experts"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
        ])?;
    }
    // Pairs of full layers turn up to some place; the others' frequencies are divided to nothing.
    let divisors = k.file.values("rope_freqs.weight")?;
    let turning = divisors.iter().take_while(|&&d| d == 1.0).count();
    if divisors[turning..].iter().any(|&d| d < 1e20) {
        return Err(Error::new(
            "tensor \"rope_freqs.weight\" holds other divisors than 1 and then 1e30",
        ));
    }
    k.folded.push("rope_freqs.weight");
    let part = share(2 * turning as u32, wide);
    let full_base = k.c.opt_f64("rope.freq_base")?.unwrap_or(1e6);
    let base = k.c.opt_f64("rope.freq_base_swa")?.unwrap_or(1e4);
    k.set(
        "rope_parameters",
        json!({"full_attention": {"rope_type": "proportional", "rope_theta": full_base,
            "partial_rotary_factor": part},
            "sliding_attention": {"rope_type": "default", "rope_theta": base}}),
    );
    Ok(())
}

//! Decoders with LayerNorm, most of them with fused projections.

use super::Architecture;
use super::keys::Keys;
use super::rules::{How, Rule, Tables, rule, same};
use super::tables::{ATTENTION, MLP, MODEL, NORMS};
use crate::error::Result;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "gpt2",
        config: |k| gpt2(k, "gpt2"),
        tables: |_| &GPT2,
    },
    Architecture {
        name: "starcoder",
        config: starcoder,
        tables: |_| &STARCODER,
    },
    Architecture {
        name: "gptneox",
        config: gptneox,
        tables: |_| &GPTNEOX,
    },
    Architecture {
        name: "bloom",
        config: bloom,
        tables: |_| &BLOOM,
    },
    Architecture {
        name: "falcon",
        config: falcon,
        tables: |k| match k.has("blk.0.attn_norm_2.weight") {
            true => &FALCON_TWO_NORMS,
            false => &FALCON,
        },
    },
    Architecture {
        name: "phi2",
        config: phi2,
        tables: |_| &PHI2,
    },
    Architecture {
        name: "stablelm",
        config: stablelm,
        tables: |_| &STABLELM,
    },
    Architecture {
        name: "starcoder2",
        config: starcoder2,
        tables: |_| &STARCODER2,
    },
];

const GPT2_MODEL: &[Rule] = &[
    same("token_embd", "transformer.wte"),
    same("position_embd", "transformer.wpe"),
    same("output_norm", "transformer.ln_f"),
    same("output", "lm_head"),
];

const GPT2: Tables<'static> = Tables {
    model: &[GPT2_MODEL],
    stacks: &[(
        "blk.",
        "transformer.h.",
        &[
            &[
                rule("attn_qkv", "attn.c_attn", How::Turned),
                rule("attn_output", "attn.c_proj", How::Turned),
                rule("ffn_up", "mlp.c_fc", How::Turned),
                rule("ffn_down", "mlp.c_proj", How::Turned),
            ],
            GPT2_NORMS,
        ],
    )],
};

const GPT2_NORMS: &[Rule] = &[same("attn_norm", "ln_1"), same("ffn_norm", "ln_2")];

const STARCODER: Tables<'static> = Tables {
    model: &[GPT2_MODEL],
    stacks: &[(
        "blk.",
        "transformer.h.",
        &[
            &[
                // With one key-value head both orders are the same.
                same("attn_qkv", "attn.c_attn"),
                same("attn_output", "attn.c_proj"),
                same("ffn_up", "mlp.c_fc"),
                same("ffn_down", "mlp.c_proj"),
            ],
            GPT2_NORMS,
        ],
    )],
};

const GPTNEOX: Tables<'static> = Tables {
    model: &[&[
        same("token_embd", "gpt_neox.embed_in"),
        same("output_norm", "gpt_neox.final_layer_norm"),
        same("output", "embed_out"),
    ]],
    stacks: &[(
        "blk.",
        "gpt_neox.layers.",
        &[
            NORMS,
            &[
                rule("attn_qkv", "attention.query_key_value", How::Sorted),
                same("attn_output", "attention.dense"),
            ],
            FOUR_H,
        ],
    )],
};

const FOUR_H: &[Rule] = &[
    same("ffn_up", "mlp.dense_h_to_4h"),
    same("ffn_down", "mlp.dense_4h_to_h"),
];

const SELF_ATTENTION: &[Rule] = &[
    rule("attn_qkv", "self_attention.query_key_value", How::Sorted),
    same("attn_output", "self_attention.dense"),
];

const WORD_EMBEDDINGS: &[Rule] = &[
    same("token_embd", "transformer.word_embeddings"),
    same("token_embd_norm", "transformer.word_embeddings_layernorm"),
    same("output_norm", "transformer.ln_f"),
    same("output", "lm_head"),
];

const BLOOM: Tables<'static> = Tables {
    model: &[WORD_EMBEDDINGS],
    stacks: &[("blk.", "transformer.h.", &[NORMS, SELF_ATTENTION, FOUR_H])],
};

const FALCON: Tables<'static> = BLOOM;

const FALCON_TWO_NORMS: Tables<'static> = Tables {
    model: &[WORD_EMBEDDINGS],
    stacks: &[(
        "blk.",
        "transformer.h.",
        &[
            &[
                // The first is the network's: it came first.
                same("attn_norm", "ln_mlp"),
                same("attn_norm_2", "ln_attn"),
            ],
            SELF_ATTENTION,
            FOUR_H,
        ],
    )],
};

const PHI2: Tables<'static> = Tables {
    model: &[&[same("output_norm", "model.final_layernorm")], MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            &[
                same("attn_output", "self_attn.dense"),
                same("ffn_up", "mlp.fc1"),
                same("ffn_down", "mlp.fc2"),
            ],
            ATTENTION,
        ],
    )],
};

const STABLELM: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            ATTENTION,
            &[
                same("attn_q_norm", "self_attn.q_layernorm.norms.{h}"),
                same("attn_k_norm", "self_attn.k_layernorm.norms.{h}"),
            ],
            MLP,
        ],
    )],
};

const STARCODER2: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            ATTENTION,
            &[same("ffn_up", "mlp.c_fc"), same("ffn_down", "mlp.c_proj")],
        ],
    )],
};

/// As many positions as the table has.
pub(super) fn positions(k: &mut Keys) {
    if let Some(&[rows, _]) = k.file.shape("position_embd.weight") {
        k.set("max_position_embeddings", rows);
    }
}

fn gpt2(k: &mut Keys, model_type: &str) -> Result<()> {
    k.shape(model_type)?;
    k.eps("layer_norm_epsilon")?;
    k.numbers(&[("feed_forward_length", "n_inner")])?;
    positions(k);
    Ok(())
}

fn starcoder(k: &mut Keys) -> Result<()> {
    gpt2(k, "gpt_bigcode")?;
    k.only("attention.head_count_kv", 1)
}

fn gptneox(k: &mut Keys) -> Result<()> {
    k.decoder("gpt_neox", "layer_norm_eps")?;
    let parallel = k.c.bool_or("use_parallel_residual", true)?;
    k.set("use_parallel_residual", parallel);
    k.rope()
}

fn bloom(k: &mut Keys) -> Result<()> {
    k.shape("bloom")?;
    k.eps("layer_norm_epsilon")?;
    let hidden = k.out["hidden_size"].as_u64().unwrap_or(0);
    k.only("feed_forward_length", 4 * hidden)
}

fn falcon(k: &mut Keys) -> Result<()> {
    k.shape("falcon")?;
    k.eps("layer_norm_epsilon")?;
    k.numbers(&[("feed_forward_length", "ffn_hidden_size")])?;
    // The first models are the later ones with one key-value head.
    let kv_heads = k.sizes.kv_heads;
    let norms = 1 + u32::from(k.has("blk.0.attn_norm_2.weight"));
    k.set("new_decoder_architecture", true);
    k.set("num_kv_heads", kv_heads);
    k.set("num_ln_in_parallel_attn", norms);
    k.rope()
}

fn phi2(k: &mut Keys) -> Result<()> {
    k.decoder("phi", "layer_norm_eps")?;
    k.rope()
}

fn stablelm(k: &mut Keys) -> Result<()> {
    k.decoder("stablelm", "layer_norm_eps")?;
    // Converters wrote this key without looking; the norm that parallel blocks lack is the better witness.
    k.c.ignore(&["use_parallel_residual"]);
    let parallel = !k.has("blk.0.ffn_norm.weight");
    let normed = k.has("blk.0.attn_q_norm.weight");
    k.set("use_parallel_residual", parallel);
    k.set("qk_layernorm", normed);
    k.rope()
}

fn starcoder2(k: &mut Keys) -> Result<()> {
    k.decoder("starcoder2", "norm_epsilon")?;
    k.rope()
}

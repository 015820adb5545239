//! Gemma: one was added to the weight of every norm.

use super::Architecture;
use super::keys::{Keys, Pattern};
use super::names::{How, Rule, Tables, rule};
use super::tables::*;
use crate::error::Result;

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

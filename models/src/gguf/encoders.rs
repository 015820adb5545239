//! Encoders.

use super::Architecture;
use super::keys::Keys;
use super::older::positions;
use super::rules::{Rule, Tables, same};
use crate::error::Result;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "bert",
        config: bert,
        tables: |_| &BERT,
    },
    Architecture {
        name: "nomic-bert",
        config: nomic,
        tables: |_| &NOMIC,
    },
    Architecture {
        name: "modern-bert",
        config: modern,
        tables: |_| &MODERN,
    },
];

const EMBEDDINGS: &[Rule] = &[
    same("token_embd", "embeddings.word_embeddings"),
    same("token_types", "embeddings.token_type_embeddings"),
    same("position_embd", "embeddings.position_embeddings"),
];

const BERT: Tables<'static> = Tables {
    model: &[
        EMBEDDINGS,
        &[same("token_embd_norm", "embeddings.LayerNorm")],
    ],
    stacks: &[(
        "blk.",
        "encoder.layer.",
        &[&[
            same("attn_q", "attention.self.query"),
            same("attn_k", "attention.self.key"),
            same("attn_v", "attention.self.value"),
            same("attn_output", "attention.output.dense"),
            same("attn_output_norm", "attention.output.LayerNorm"),
            same("ffn_up", "intermediate.dense"),
            same("ffn_down", "output.dense"),
            same("layer_output_norm", "output.LayerNorm"),
        ]],
    )],
};

const NOMIC: Tables<'static> = Tables {
    model: &[EMBEDDINGS, &[same("token_embd_norm", "emb_ln")]],
    stacks: &[(
        "blk.",
        "encoder.layers.",
        &[&[
            same("attn_qkv", "attn.Wqkv"),
            same("attn_output", "attn.out_proj"),
            same("attn_output_norm", "norm1"),
            same("ffn_up", "mlp.fc11"),
            same("ffn_gate", "mlp.fc12"),
            same("ffn_down", "mlp.fc2"),
            same("layer_output_norm", "norm2"),
        ]],
    )],
};

const MODERN: Tables<'static> = Tables {
    model: &[&[
        same("token_embd", "embeddings.tok_embeddings"),
        same("token_embd_norm", "embeddings.norm"),
        same("output_norm", "final_norm"),
    ]],
    stacks: &[(
        "blk.",
        "layers.",
        &[&[
            same("attn_qkv", "attn.Wqkv"),
            same("attn_output", "attn.Wo"),
            same("attn_norm", "attn_norm"),
            same("ffn_norm", "mlp_norm"),
            same("ffn_up", "mlp.Wi"),
            same("ffn_down", "mlp.Wo"),
        ]],
    )],
};

/// What all of them have.
fn encoder(k: &mut Keys, model_type: &str, eps: &str) -> Result<()> {
    k.decoder(model_type, eps)?;
    k.only("attention.causal", false)?;
    // About a head for another task, whose tensors would be named.
    k.c.ignore(&["classifier.pooling_type", "classifier.output_labels"]);
    Ok(())
}

fn bert(k: &mut Keys) -> Result<()> {
    encoder(k, "bert", "layer_norm_eps")?;
    // The rows of padding were cut off, so positions are the same in all of its family.
    positions(k);
    Ok(())
}

fn nomic(k: &mut Keys) -> Result<()> {
    encoder(k, "nomic_bert", "layer_norm_eps")?;
    k.rope()
}

fn modern(k: &mut Keys) -> Result<()> {
    encoder(k, "modernbert", "norm_eps")?;
    if let Some(act) = k.c.opt_str("hidden_activation")? {
        k.set("hidden_activation", act);
    }
    let window = k.c.u32("attention.sliding_window")?;
    k.set("local_attention", window);
    let every = k.c.opt_u32("attention.sliding_window_pattern")?;
    k.set("global_attn_every_n_layers", every.unwrap_or(3));
    k.rope_by_layer(Some(1e4))
}

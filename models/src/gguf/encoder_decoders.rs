//! Encoder-decoders.

use super::Architecture;
use super::keys::Keys;
use super::rules::{Rule, Tables, same};
use crate::error::Result;

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    name: "t5",
    config: t5,
    tables: |k| match gated(k) {
        true => &GATED,
        false => &PLAIN,
    },
}];

fn gated(k: &Keys) -> bool {
    k.has("enc.blk.0.ffn_gate.weight")
}

const MODEL: &[Rule] = &[
    same("token_embd", "shared"),
    same("enc.output_norm", "encoder.final_layer_norm"),
    same("dec.output_norm", "decoder.final_layer_norm"),
    same("output", "lm_head"),
];

const SELF: &[Rule] = &[
    same("attn_norm", "layer.0.layer_norm"),
    same("attn_q", "layer.0.SelfAttention.q"),
    same("attn_k", "layer.0.SelfAttention.k"),
    same("attn_v", "layer.0.SelfAttention.v"),
    same("attn_o", "layer.0.SelfAttention.o"),
    same(
        "attn_rel_b",
        "layer.0.SelfAttention.relative_attention_bias",
    ),
];

const CROSS: &[Rule] = &[
    same("cross_attn_norm", "layer.1.layer_norm"),
    same("cross_attn_q", "layer.1.EncDecAttention.q"),
    same("cross_attn_k", "layer.1.EncDecAttention.k"),
    same("cross_attn_v", "layer.1.EncDecAttention.v"),
    same("cross_attn_o", "layer.1.EncDecAttention.o"),
];

const ENCODER_END: &[Rule] = &[
    same("ffn_norm", "layer.1.layer_norm"),
    same("ffn_down", "layer.1.DenseReluDense.wo"),
];

const DECODER_END: &[Rule] = &[
    same("ffn_norm", "layer.2.layer_norm"),
    same("ffn_down", "layer.2.DenseReluDense.wo"),
];

const PLAIN: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[
        (
            "enc.blk.",
            "encoder.block.",
            &[
                SELF,
                ENCODER_END,
                &[same("ffn_up", "layer.1.DenseReluDense.wi")],
            ],
        ),
        (
            "dec.blk.",
            "decoder.block.",
            &[
                SELF,
                CROSS,
                DECODER_END,
                &[same("ffn_up", "layer.2.DenseReluDense.wi")],
            ],
        ),
    ],
};

const GATED: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[
        (
            "enc.blk.",
            "encoder.block.",
            &[
                SELF,
                ENCODER_END,
                &[
                    same("ffn_gate", "layer.1.DenseReluDense.wi_0"),
                    same("ffn_up", "layer.1.DenseReluDense.wi_1"),
                ],
            ],
        ),
        (
            "dec.blk.",
            "decoder.block.",
            &[
                SELF,
                CROSS,
                DECODER_END,
                &[
                    same("ffn_gate", "layer.2.DenseReluDense.wi_0"),
                    same("ffn_up", "layer.2.DenseReluDense.wi_1"),
                ],
            ],
        ),
    ],
};

fn t5(k: &mut Keys) -> Result<()> {
    // A table of distances in every layer is what sets one of the families apart.
    let own_tables = k.has("enc.blk.1.attn_rel_b.weight");
    k.set("model_type", if own_tables { "umt5" } else { "t5" });
    k.numbers(&[
        ("embedding_length", "d_model"),
        ("feed_forward_length", "d_ff"),
        ("block_count", "num_layers"),
        ("attention.head_count", "num_heads"),
        ("attention.key_length", "d_kv"),
        (
            "attention.relative_buckets_count",
            "relative_attention_num_buckets",
        ),
        ("vocab_size", "vocab_size"),
        ("context_length", "n_positions"),
    ])?;
    let decoder = k.c.opt_u32("decoder_block_count")?;
    if let Some(n) = decoder {
        k.set("num_decoder_layers", n);
    }
    let width = k.c.u32("attention.key_length")?;
    k.only("attention.value_length", width)?;
    // The same number under both keys.
    k.eps("layer_norm_epsilon")?;
    let tied = !k.has("output.weight");
    k.set("tie_word_embeddings", tied);
    let gated = gated(k);
    k.set(
        "feed_forward_proj",
        if gated { "gated-gelu" } else { "relu" },
    );
    // Read by those who run the model.
    k.c.ignore(&["decoder_start_token_id"]);
    Ok(())
}

//! BLOOM: a norm of the embedding, ALiBi instead of positions, projections grouped by head (BigScience 2022).

use crate::prelude::*;

/// BLOOM.
pub const FAMILY: Family = Family {
    model_types: &["bloom"],
    plan,
    doc: "BLOOM and BLOOMZ: ALiBi, a norm of the embedding",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    root: "transformer.",
    embed: "word_embeddings",
    layers: "h",
    final_norm: "ln_f",
    embed_norm: "word_embeddings_layernorm",
    ..LLAMA
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Grouped("self_attention.query_key_value"),
    o: "self_attention.dense",
    norms: ["", ""],
};

const MLP: DenseNames<'static> = DenseNames::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]);

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            // ALiBi has no table that ends; the models were trained so far.
            context: Some(2048),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::layer(eps(config, "layer_norm_epsilon", 1e-5)?, true);
    only(config, "apply_residual_connection_post_layernorm", false)?;
    config.ignore(&[
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "n_inner",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "slow_but_exact",
    ]);
    let dense = Dense::plain(s.hidden.saturating_mul(4), Activation::GeluTanh, true);
    let attention = Attention {
        q_bias: true,
        kv_bias: true,
        o_bias: true,
        alibi: Some(Alibi {
            scale: 1.0,
            bf16: false,
        }),
        ..s.attention()
    };
    let b = Builder::new(config, tensors);
    let names = DecoderNames {
        // Files of the bare model have no root.
        root: if b.has("word_embeddings.weight") {
            ""
        } else {
            NAMES.root
        },
        ..NAMES
    };
    let mut frame = Frame::new(norm.clone());
    frame.embed.norm = Some(norm.clone());
    b.decoder(&s, &names, frame, |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.dense(dense.clone(), &MLP)
    })
}

//! ModernBERT: an encoder with norms before each branch, rotary positions, and a symmetric window on two layers of three (Warner et al. 2024).

use crate::prelude::*;

/// ModernBERT.
pub const FAMILY: Family = Family {
    model_types: &["modernbert"],
    plan,
    doc: "ModernBERT: an encoder with symmetric windows, two rotary embeddings, fused projections",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::layer(
        eps(config, "norm_eps", 1e-5)?,
        config.bool_or("norm_bias", false)?,
    );
    let act = activation(config, "hidden_activation", Activation::Gelu)?;
    let bias = config.bool_or("mlp_bias", false)?;
    let dense = Dense {
        up_bias: bias,
        down_bias: bias,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    let every = config
        .opt_u32("global_attn_every_n_layers")?
        .unwrap_or(3)
        .max(1) as usize;
    let types = layer_types(config, s.layers, &[FULL, SLIDING], |l| {
        if l.is_multiple_of(every) {
            FULL
        } else {
            SLIDING
        }
    })?;
    let radius = config.opt_u32("local_attention")?.unwrap_or(128) / 2;
    only(config, "position_embedding_type", "absolute")?;
    config.ignore(&[
        "classifier_activation",
        "classifier_bias",
        "classifier_dropout",
        "classifier_pooling",
        "cls_token_id",
        "decoder_bias",
        "deterministic_flash_attn",
        "embedding_dropout",
        "gradient_checkpointing",
        "initializer_cutoff_factor",
        "layer_norm_eps",
        "mlp_dropout",
        "reference_compile",
        "repad_logits_with_grad",
        "sparse_pred_ignore_index",
        "sparse_prediction",
    ]);
    let bias = config.bool_or("attention_bias", false)?;
    let mut b = Builder::new(config, tensors);
    let root = if b.has("embeddings.tok_embeddings.weight") {
        ""
    } else {
        "model."
    };
    let names = DecoderNames {
        root,
        embed: "embeddings.tok_embeddings",
        embed_norm: "embeddings.norm",
        final_norm: "final_norm",
        ..LLAMA
    };
    for part in ["head.*", "decoder.*", "classifier.*"] {
        b.skip(part, "a head for another task");
    }
    let options = |layer_type, theta_key, theta| RopeOptions {
        theta,
        theta_key,
        layer_type: Some(layer_type),
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let full = b.rope(config, &options(FULL, "global_rope_theta", 1.6e5))?;
    let sliding = b.rope(config, &options(SLIDING, "local_rope_theta", 1e4))?;
    let attention_names = AttentionNames {
        qkv: Qkv::Fused("attn.Wqkv"),
        o: "attn.Wo",
        norms: ["", ""],
    };
    let mut frame = Frame::new(norm.clone());
    frame.logits = false;
    frame.embed.norm = Some(norm.clone());
    b.decoder(&s, &names, frame, |layer, l| {
        let slides = types[l] == SLIDING;
        let attention = Attention {
            q_bias: bias,
            kv_bias: bias,
            o_bias: bias,
            rope: Some(if slides { sliding } else { full }),
            mask: if slides {
                Mask::Symmetric(radius)
            } else {
                Mask::Bidirectional
            },
            ..s.attention()
        };
        // The norm of the embedding stands for the first.
        if l == 0 {
            layer.bare_block();
        } else {
            layer.block(&norm, "attn_norm")?;
        }
        layer.attention(attention, &attention_names)?;
        layer.block(&norm, "mlp_norm")?;
        layer.dense(dense.clone(), &DenseNames::Fused(["mlp.Wi", "mlp.Wo"]))
    })
}

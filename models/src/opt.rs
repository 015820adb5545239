//! OPT: learned positions from row 2 on, LayerNorm before (or, in the 350M model, after) each branch, relu (Zhang et al. 2022). The embedding may
//! be narrower than the stream.

use crate::prelude::*;

/// OPT.
pub const FAMILY: Family = Family {
    model_types: &["opt"],
    plan,
    doc: "OPT, Galactica: learned positions with an offset, norms before or after, a projected embedding",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    root: "model.decoder.",
    final_norm: "final_layer_norm",
    positions: "embed_positions",
    projections: ["project_in", "project_out"],
    ..LLAMA
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    o: "self_attn.out_proj",
    ..LLAMA_ATTENTION
};

/// Rows of the table of positions that no position uses.
const OFFSET: u32 = 2;

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let bias = config.bool_or("enable_bias", true)?;
    let mut norm = Norm::layer(1e-5, true);
    if !config.bool_or("layer_norm_elementwise_affine", true)? {
        norm = norm.bare();
    }
    let before = config.bool_or("do_layer_norm_before", true)?;
    let removed = config.bool_or("_remove_final_layer_norm", false)?;
    let act = activation(config, "activation_function", Activation::Relu)?;
    let dense = Dense::plain(config.u32("ffn_dim")?, act, bias);
    let mlp = DenseNames::Plain(["fc1", "fc2"]);
    config.ignore(&["dropout", "init_std", "layerdrop"]);
    let width = config
        .opt_u32("word_embed_proj_dim")?
        .filter(|&w| w != s.hidden);
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        ..s.attention()
    };
    let b = Builder::new(config, tensors);
    let names = DecoderNames {
        root: if b.has("decoder.embed_tokens.weight") {
            "decoder."
        } else {
            NAMES.root
        },
        ..NAMES
    };
    let mut frame = Frame::new(norm.clone());
    if !before || removed {
        frame.final_norm = None;
    }
    frame.embed.width = width;
    frame.head.width = width;
    frame.embed.positions = Some(Positions {
        rows: s.context.saturating_add(OFFSET),
        offset: OFFSET,
        padding: None,
    });
    b.decoder(&s, &names, frame, |layer, _| {
        if before {
            layer.block(&norm, "self_attn_layer_norm")?;
            layer.attention(attention.clone(), &ATTENTION)?;
            layer.block(&norm, "final_layer_norm")?;
            layer.dense(dense.clone(), &mlp)
        } else {
            layer.bare_block();
            layer.attention(attention.clone(), &ATTENTION)?;
            layer.out(&norm, "self_attn_layer_norm")?;
            layer.bare_block();
            layer.dense(dense.clone(), &mlp)?;
            layer.out(&norm, "final_layer_norm")
        }
    })
}

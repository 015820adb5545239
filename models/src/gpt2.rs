//! GPT-2 and StarCoder 1 (gpt_bigcode): learned positions, LayerNorm, fused projections, a tanh-gelu network (Radford et al. 2019).
//! StarCoder has one key-value head.

use crate::prelude::*;

/// GPT-2 and gpt_bigcode.
pub const FAMILY: Family = Family {
    model_types: &["gpt2", "gpt_bigcode"],
    plan,
    doc: "GPT-2, StarCoder and SantaCoder: learned positions, fused projections, one key-value head",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    root: "transformer.",
    embed: "wte",
    layers: "h",
    final_norm: "ln_f",
    positions: "wpe",
    ..LLAMA
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let bigcode = config.opt_str("model_type")? == Some("gpt_bigcode");
    let mut s = Sizes::read(config)?;
    if bigcode && config.bool_or("multi_query", true)? {
        s.kv_heads = 1;
    }
    let norm = Norm::layer(eps(config, "layer_norm_epsilon", 1e-5)?, true);
    let act = activation(config, "activation_function", Activation::GeluTanh)?;
    let inner = config
        .opt_u32("n_inner")?
        .unwrap_or(s.hidden.saturating_mul(4));
    let dense = Dense::plain(inner, act, true);
    let scaled = config.bool_or("scale_attn_weights", true)?;
    let by_layer = !bigcode && config.bool_or("scale_attn_by_inverse_layer_idx", false)?;
    config.ignore(&[
        "attention_softmax_in_fp32",
        "attn_pdrop",
        "reorder_and_upcast_attn",
        "scale_attention_softmax_in_fp32",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ]);
    let mut b = Builder::new(config, tensors);
    // Its own "convolutions" have inputs as rows.
    b.transposed = !bigcode;
    let names = DecoderNames {
        // The first files were saved without the part that has the head.
        root: if b.has("wte.weight") { "" } else { NAMES.root },
        ..NAMES
    };
    let attention_names = AttentionNames {
        qkv: if bigcode {
            Qkv::Grouped("attn.c_attn")
        } else {
            Qkv::Fused("attn.c_attn")
        },
        o: "attn.c_proj",
        norms: ["", ""],
    };
    let mut frame = Frame::new(norm.clone());
    frame.embed.positions = Some(Positions {
        rows: s.context,
        offset: 0,
        padding: None,
    });
    b.decoder(&s, &names, frame, |layer, l| {
        let mut attention = Attention {
            q_bias: true,
            kv_bias: true,
            o_bias: true,
            ..s.attention()
        };
        if !scaled {
            attention.scale = 1.0;
        }
        if by_layer {
            attention.scale /= (l + 1) as f32;
        }
        layer.block(&norm, "ln_1")?;
        layer.attention(attention, &attention_names)?;
        layer.block(&norm, "ln_2")?;
        layer.dense(
            dense.clone(),
            &DenseNames::Plain(["mlp.c_fc", "mlp.c_proj"]),
        )?;
        layer.skip("attn.bias", "the causal mask");
        layer.skip("attn.masked_bias", "the causal mask");
        Ok(())
    })
}

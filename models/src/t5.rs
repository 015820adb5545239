//! T5 and its multilingual relatives: encoder-decoders whose attention knows positions by a learned bias per distance (Raffel et al. 2020).

use crate::error::Error;
use crate::prelude::*;

/// T5, Flan-T5, mT5, UMT5.
pub const FAMILY: Family = Family {
    model_types: &["mt5", "t5", "umt5"],
    plan,
    doc: "T5, mT5, UMT5: encoder-decoders, relative position bias",
};

const ENCODER: DecoderNames<'static> = DecoderNames {
    root: "",
    layers: "encoder.block",
    final_norm: "encoder.final_layer_norm",
    ..LLAMA
};

const SELF: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Split([
        "layer.0.SelfAttention.q",
        "layer.0.SelfAttention.k",
        "layer.0.SelfAttention.v",
    ]),
    o: "layer.0.SelfAttention.o",
    norms: ["", ""],
};

const CROSS: [&str; 3] = [
    "layer.1.EncDecAttention.q",
    "layer.1.EncDecAttention.k",
    "layer.1.EncDecAttention.v",
];

/// The embedding, and names under which files repeat it.
const EMBEDDINGS: [&str; 3] = [
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
];

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let model_type = config.opt_str("model_type")?.unwrap_or_default();
    let layers = config.bounded("num_layers", None, bound::LAYERS as u32)?;
    let decoder_layers =
        config.bounded("num_decoder_layers", Some(layers), bound::LAYERS as u32)?;
    let heads = config.bounded("num_heads", None, bound::HEADS)?;
    let s = Sizes {
        vocab: config.bounded("vocab_size", None, bound::VOCAB)?,
        hidden: config.bounded("d_model", None, bound::HIDDEN)?,
        layers: decoder_layers as usize,
        heads,
        kv_heads: heads,
        head_dim: config.bounded("d_kv", Some(64), bound::HEAD_DIM)?,
        // Nothing in the model ends there; it is the length of the texts that the first of these models were trained on.
        context: config.bounded("n_positions", Some(512), bound::CONTEXT)?,
    };
    let norm = Norm::rms(eps(config, "layer_norm_epsilon", 1e-6)?);
    let (gated, act) = projection(config, model_type)?;
    let inner = config.bounded("d_ff", None, bound::INNER)?;
    let dense = Dense {
        gated,
        ..Dense::plain(inner, act, false)
    };
    let bias = RelativeBias {
        buckets: config.bounded("relative_attention_num_buckets", Some(32), bound::BUCKETS)?,
        max_distance: config.bounded(
            "relative_attention_max_distance",
            Some(128),
            bound::CONTEXT,
        )?,
        both_ways: false,
    };
    let scaled = scales_outputs(config, model_type)?;
    config.ignore(&[
        "classifier_dropout",
        "dropout_rate",
        "initializer_factor",
        "output_past",
        // Of the framework in which these models were trained.
        "scalable_attention",
    ]);
    let decoder = Attention {
        scale: 1.0,
        relative: Some(bias),
        ..s.attention()
    };
    let encoder = Attention {
        mask: Mask::Bidirectional,
        relative: Some(RelativeBias {
            both_ways: true,
            ..bias
        }),
        ..decoder.clone()
    };
    let cross = Cross {
        n_heads: heads,
        n_kv_heads: heads,
        head_dim: s.head_dim,
        scale: 1.0,
    };
    // One table in the first layer serves all layers, but in the last of these families.
    let own_tables = model_type == "umt5";
    let table = |layers: &str, layer: usize| {
        let layer = if own_tables { layer } else { 0 };
        format!("{layers}.{layer}.layer.0.SelfAttention.relative_attention_bias.weight")
    };
    let embed = embedding(tensors)?;
    let mut b = Builder::new(config, tensors);
    for name in EMBEDDINGS {
        if name != embed && b.has(name) {
            b.skip(name, "the same values as the embedding");
        }
    }
    b.skip(
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "a table that no version of the model reads",
    );
    b.encoder(layers as usize, &ENCODER, s.hidden, &norm, |layer, l| {
        layer.block(&norm, "layer.0.layer_norm")?;
        layer.relative_bias(&encoder, &table(ENCODER.layers, l))?;
        layer.attention(encoder.clone(), &SELF)?;
        layer.block(&norm, "layer.1.layer_norm")?;
        feed_forward(layer, &dense, 1)
    })?;
    let names = DecoderNames {
        root: "",
        embed: embed.trim_end_matches(".weight"),
        layers: "decoder.block",
        final_norm: "decoder.final_layer_norm",
        ..LLAMA
    };
    let mut frame = Frame::new(norm.clone());
    if scaled {
        frame.head.scale = (1.0 / f64::from(s.hidden).sqrt()) as f32;
    }
    b.decoder(&s, &names, frame, |layer, l| {
        layer.block(&norm, "layer.0.layer_norm")?;
        layer.relative_bias(&decoder, &table(names.layers, l))?;
        layer.attention(decoder.clone(), &SELF)?;
        layer.block(&norm, "layer.1.layer_norm")?;
        layer.cross(cross, CROSS, "layer.1.EncDecAttention.o")?;
        layer.block(&norm, "layer.2.layer_norm")?;
        feed_forward(layer, &dense, 2)
    })
}

fn feed_forward(layer: &mut LayerBuilder, dense: &Dense, index: usize) -> Result<()> {
    let name = |part: &str| format!("layer.{index}.DenseReluDense.{part}");
    let (wi, gate, up, down) = (name("wi"), name("wi_0"), name("wi_1"), name("wo"));
    let names = match dense.gated {
        true => DenseNames::Gated([&gate, &up, &down]),
        false => DenseNames::Plain([&wi, &down]),
    };
    layer.dense(dense.clone(), &names)
}

/// Whether there is a gate, and the non-linearity. Later versions write what follows from the name beside it.
fn projection(config: &Config, model_type: &str) -> Result<(bool, Activation)> {
    let usual = match model_type {
        "t5" => "relu",
        _ => "gated-gelu",
    };
    let name = config.opt_str("feed_forward_proj")?.unwrap_or(usual);
    let (gated, act) = match name.strip_prefix("gated-") {
        Some(act) => (true, act),
        None => (false, name),
    };
    let (activation, act) = match (act, gated) {
        ("relu", _) => (Activation::Relu, "relu"),
        ("silu", _) => (Activation::Silu, "silu"),
        // With a gate the name means the tanh form.
        ("gelu", true) | ("gelu_new", _) => (Activation::GeluTanh, "gelu_new"),
        ("gelu", false) => (Activation::Gelu, "gelu"),
        _ => {
            return Err(config.unsupported(
                "feed_forward_proj",
                "relu, gelu, gelu_new or silu, with or without \"gated-\" before it",
            ));
        }
    };
    only(config, "is_gated_act", gated)?;
    only(config, "dense_act_fn", act)?;
    Ok((gated, activation))
}

/// Whether the decoder's output is divided by the root of its width. Older configurations say so by tying the head to the embedding.
fn scales_outputs(config: &Config, model_type: &str) -> Result<bool> {
    let tied = config.bool_or("tie_word_embeddings", true)?;
    let says = config.bool_or("scale_decoder_outputs", tied)?;
    Ok(match model_type {
        "mt5" => false,
        "umt5" => true,
        _ => says,
    })
}

/// The name of the embedding; files that have it more than once must have it with the same values.
fn embedding(tensors: &dyn Tensors) -> Result<&'static str> {
    let mut there = EMBEDDINGS
        .into_iter()
        .filter(|name| tensors.shape(name).is_some());
    let first = there.next().unwrap_or(EMBEDDINGS[0]);
    for other in there {
        if !tensors.same(first, other)? {
            return Err(Error::new(format_args!(
                "tensor {other:?} differs from {first:?}, expected the same values: encoder and decoder share one embedding"
            )));
        }
    }
    Ok(first)
}

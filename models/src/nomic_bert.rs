//! Nomic BERT: BERT with rotary positions, a gated network and no biases but those of the norms (Nussbaum et al. 2024).

use crate::prelude::*;

/// Nomic BERT.
pub const FAMILY: Family = Family {
    model_types: &["nomic_bert"],
    plan,
    doc: "Nomic BERT: an encoder with rotary positions, norms after the residual sum, a gated network",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    root: "",
    embed: "embeddings.word_embeddings",
    layers: "encoder.layers",
    embed_norm: "emb_ln",
    ..LLAMA
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::layer(eps(config, "layer_norm_eps", 1e-12)?, true);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    config.ignore(&[
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "hidden_dropout_prob",
        "type_vocab_size",
    ]);
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        theta: 1000.0,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        rope: Some(b.rope(config, &options)?),
        mask: Mask::Bidirectional,
        ..s.attention()
    };
    let names = AttentionNames {
        qkv: Qkv::Fused("attn.Wqkv"),
        o: "attn.out_proj",
        norms: ["", ""],
    };
    let mut frame = Frame::new(norm.clone());
    frame.final_norm = None;
    frame.logits = false;
    frame.embed.norm = Some(norm.clone());
    frame.embed_bias = Some("embeddings.token_type_embeddings.weight".to_owned());
    b.decoder(&s, &NAMES, frame, |layer, _| {
        layer.bare_block();
        layer.attention(attention.clone(), &names)?;
        layer.out(&norm, "norm1")?;
        layer.bare_block();
        layer.dense(
            dense.clone(),
            &DenseNames::Gated(["mlp.fc12", "mlp.fc11", "mlp.fc2"]),
        )?;
        layer.out(&norm, "norm2")
    })
}

//! BERT and XLM-RoBERTa: encoders with learned positions and a norm after each residual sum (Devlin et al. 2019, Conneau et al. 2020).

use crate::prelude::*;

/// BERT, RoBERTa, XLM-RoBERTa.
pub const FAMILY: Family = Family {
    model_types: &["bert", "camembert", "roberta", "xlm-roberta"],
    plan,
    doc: "BERT, RoBERTa, XLM-RoBERTa: encoders, norms after the residual sum, learned positions",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Split([
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ]),
    o: "attention.output.dense",
    norms: ["", ""],
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let counted = config.opt_str("model_type")? != Some("bert");
    let mut s = Sizes::read(config)?;
    let norm = Norm::layer(eps(config, "layer_norm_eps", 1e-12)?, true);
    let act = activation(config, "hidden_act", Activation::Gelu)?;
    let dense = Dense::plain(config.u32("intermediate_size")?, act, true);
    only(config, "position_embedding_type", "absolute")?;
    only(config, "is_decoder", false)?;
    config.ignore(&[
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "directionality",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "output_past",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "type_vocab_size",
    ]);
    let attention = Attention {
        q_bias: true,
        kv_bias: true,
        o_bias: true,
        mask: Mask::Bidirectional,
        ..s.attention()
    };
    let mut b = Builder::new(config, tensors);
    let roots = ["", "bert.", "roberta."];
    let found = |r: &&&str| b.has(&format!("{r}embeddings.word_embeddings.weight"));
    let root = roots.iter().find(found).copied().unwrap_or("");
    let names = DecoderNames {
        root,
        embed: "embeddings.word_embeddings",
        layers: "encoder.layer",
        positions: "embeddings.position_embeddings",
        embed_norm: "embeddings.LayerNorm",
        ..LLAMA
    };
    for part in ["cls.*", "lm_head.*", "classifier.*"] {
        b.skip(part, "a head for another task");
    }
    b.skip(
        format!("{root}embeddings.position_ids"),
        "the numbers 0, 1, ...",
    );
    let mut frame = Frame::new(norm.clone());
    frame.final_norm = None;
    frame.logits = false;
    frame.embed.norm = Some(norm.clone());
    frame.embed_bias = Some(format!("{root}embeddings.token_type_embeddings.weight"));
    // Positions are counted from behind the number of the padding token, and without such tokens.
    let padding = match counted {
        true => Some(config.opt_u32("pad_token_id")?.unwrap_or(1)),
        false => None,
    };
    let (rows, offset) = (s.context, padding.map_or(0, |p| p.saturating_add(1)));
    frame.embed.positions = Some(Positions {
        rows,
        offset,
        padding,
    });
    s.context = rows.saturating_sub(offset);
    let pooler = format!("{root}pooler.dense");
    frame.pooler = b.has(&format!("{pooler}.weight")).then_some(pooler);
    b.decoder(&s, &names, frame, |layer, _| {
        layer.bare_block();
        layer.attention(attention.clone(), &ATTENTION)?;
        layer.out(&norm, "attention.output.LayerNorm")?;
        layer.bare_block();
        layer.dense(
            dense.clone(),
            &DenseNames::Plain(["intermediate.dense", "output.dense"]),
        )?;
        layer.out(&norm, "output.LayerNorm")
    })
}

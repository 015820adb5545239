//! GPT-NeoX and Pythia: two LayerNorms of the same stream, attention and network beside each other or one after the other (Black et al. 2022).

use crate::prelude::*;

/// GPT-NeoX and Pythia.
pub const FAMILY: Family = Family {
    model_types: &["gpt_neox"],
    plan,
    doc: "GPT-NeoX, Pythia, Dolly: parallel or sequential blocks, partial rotation, projections grouped by head",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    root: "gpt_neox.",
    embed: "embed_in",
    final_norm: "final_layer_norm",
    head: "embed_out",
    ..LLAMA
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Grouped("attention.query_key_value"),
    o: "attention.dense",
    norms: ["", ""],
};

const MLP: DenseNames<'static> = DenseNames::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]);

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::layer(eps(config, "layer_norm_eps", 1e-5)?, true);
    let bias = config.bool_or("attention_bias", true)?;
    let act = activation(config, "hidden_act", Activation::Gelu)?;
    let dense = Dense::plain(config.u32("intermediate_size")?, act, true);
    let parallel = config.bool_or("use_parallel_residual", true)?;
    config.ignore(&["classifier_dropout"]);
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        partial: 0.25,
        theta_key: "rotary_emb_base",
        partial_key: "rotary_pct",
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        ..s.attention()
    };
    b.decoder(&s, &NAMES, Frame::new(norm.clone()), |layer, _| {
        if parallel {
            layer.bare_block();
            layer.branch_norm(&norm, "input_layernorm");
            layer.attention(attention.clone(), &ATTENTION)?;
            layer.branch_norm(&norm, "post_attention_layernorm");
        } else {
            layer.block(&norm, "input_layernorm")?;
            layer.attention(attention.clone(), &ATTENTION)?;
            layer.block(&norm, "post_attention_layernorm")?;
        }
        layer.dense(dense.clone(), &MLP)?;
        layer.skip("attention.bias", "the causal mask");
        layer.skip("attention.masked_bias", "the causal mask");
        layer.skip("attention.rotary_emb.inv_freq", "recomputed");
        Ok(())
    })
}

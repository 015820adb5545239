//! GPT-J: one LayerNorm per layer, attention and network beside each other, interleaved rotation of the first dimensions (Wang and
//! Komatsuzaki 2021).

use crate::prelude::*;
use crate::rope::{Rope, default_inv_freq};

/// GPT-J.
pub const FAMILY: Family = Family {
    model_types: &["gptj"],
    plan,
    doc: "GPT-J: parallel blocks, interleaved partial rotation, a head with a bias",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Split(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
    o: "attn.out_proj",
    norms: ["", ""],
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::layer(eps(config, "layer_norm_epsilon", 1e-5)?, true);
    let act = activation(config, "activation_function", Activation::GeluTanh)?;
    let inner = config
        .opt_u32("n_inner")?
        .unwrap_or(s.hidden.saturating_mul(4));
    let dense = Dense::plain(inner, act, true);
    only(config, "rotary", true)?;
    config.ignore(&["attn_pdrop", "scale_attn_weights"]);
    let dim = match config.opt_u32("rotary_dim")? {
        None if !config.has("rotary_dim") => 64,
        None => s.head_dim,
        Some(dim) => dim,
    };
    if dim == 0 || dim % 2 != 0 || dim > s.head_dim {
        let expected = format!("an even number from 2 to the head width {}", s.head_dim);
        return Err(config.unsupported("rotary_dim", &expected));
    }
    let mut b = Builder::new(config, tensors);
    b.interleaved = true;
    let rope = b.add_rope(Rope::Fixed {
        inv_freq: default_inv_freq(dim as usize, 1e4),
        factor: 1.0,
    });
    let attention = Attention {
        rope: Some(rope),
        ..s.attention()
    };
    let names = DecoderNames {
        root: "transformer.",
        embed: "wte",
        layers: "h",
        final_norm: "ln_f",
        ..LLAMA
    };
    let mut frame = Frame::new(norm.clone());
    frame.head.bias = true;
    b.decoder(&s, &names, frame, |layer, _| {
        layer.block(&norm, "ln_1")?;
        layer.attention(attention.clone(), &ATTENTION)?;
        layer.dense(
            dense.clone(),
            &DenseNames::Plain(["mlp.fc_in", "mlp.fc_out"]),
        )?;
        layer.skip("attn.bias", "the causal mask");
        layer.skip("attn.masked_bias", "the causal mask");
        Ok(())
    })
}

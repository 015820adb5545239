//! Falcon 1 and 2 in three shapes: 7B (one key-value head, parallel blocks), 40B (grouped heads, a norm per branch), RW (ALiBi, sequential)
//! (Almazrouei et al. 2023).

use crate::prelude::*;

/// Falcon 1 and 2.
pub const FAMILY: Family = Family {
    model_types: &["falcon"],
    plan,
    doc: "Falcon 7B, 40B, 180B, 11B and RW: one or grouped key-value heads, parallel blocks, rounded ALiBi",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    root: "transformer.",
    embed: "word_embeddings",
    layers: "h",
    final_norm: "ln_f",
    ..LLAMA
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    qkv: Qkv::Grouped("self_attention.query_key_value"),
    o: "self_attention.dense",
    norms: ["", ""],
};

const MLP: DenseNames<'static> = DenseNames::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]);

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let mut s = Sizes::read_with(
        config,
        SizeDefaults {
            context: Some(2048),
            ..SizeDefaults::default()
        },
    )?;
    let grouped = config.bool_or("new_decoder_architecture", false)?;
    let multi_query = config.bool_or("multi_query", true)?;
    let parallel = config.bool_or("parallel_attn", true)?;
    let kv_heads = config.opt_u32("num_kv_heads")?.unwrap_or(s.heads);
    s.kv_heads = match (grouped, multi_query) {
        (true, _) => kv_heads,
        (false, true) => 1,
        (false, false) => s.heads,
    };
    if s.kv_heads == 0 || s.heads % s.kv_heads != 0 {
        let expected = format!("a divisor of num_attention_heads {}", s.heads);
        return Err(config.unsupported("num_kv_heads", &expected));
    }
    let norms = match config.opt_u32("num_ln_in_parallel_attn")? {
        None => 1 + u32::from(grouped),
        Some(n @ 1..=2) => n,
        Some(_) => return Err(config.unsupported("num_ln_in_parallel_attn", "1 or 2")),
    };
    let norm = Norm::layer(eps(config, "layer_norm_epsilon", 1e-5)?, true);
    let bias = config.bool_or("bias", false)?;
    let act = activation(config, "activation", Activation::Gelu)?;
    let inner = config.opt_u32("ffn_hidden_size")?;
    let dense = Dense::plain(inner.unwrap_or(s.hidden.saturating_mul(4)), act, bias);
    only(config, "apply_residual_connection_post_layernorm", false)?;
    let mut b = Builder::new(config, tensors);
    let rope = b.rope(config, &RopeOptions::new(s.head_dim, s.context))?;
    let mut attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(rope),
        ..s.attention()
    };
    if config.bool_or("alibi", false)? {
        attention.rope = None;
        attention.alibi = Some(Alibi {
            scale: attention.scale,
            bf16: true,
        });
    }
    b.decoder(&s, &NAMES, Frame::new(norm.clone()), |layer, _| {
        if grouped && norms == 2 {
            layer.bare_block();
            layer.branch_norm(&norm, "ln_attn");
            layer.attention(attention.clone(), &ATTENTION)?;
            layer.branch_norm(&norm, "ln_mlp");
        } else {
            layer.block(&norm, "input_layernorm")?;
            layer.attention(attention.clone(), &ATTENTION)?;
            if !parallel && !grouped {
                layer.block(&norm, "post_attention_layernorm")?;
            }
        }
        layer.dense(dense.clone(), &MLP)
    })
}

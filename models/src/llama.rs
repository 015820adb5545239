//! Llama and Mistral: pre-norm RMS, rotary grouped-query attention, a gated SiLU network (Touvron et al. 2023, Jiang et al. 2023).
//!
//! Llama may have biases (`attention_bias` on q, k, v and o; `mlp_bias` on gate, up and down); Mistral has none and may have
//! a sliding window on every layer.

use crate::builder::{Builder, Sizes, activation, rms};
use crate::error::Result;
use crate::family::Family;
use crate::plan::Plan;
use crate::rope_config::RopeOptions;
use crate::source::{Config, Origin, Tensors};
use crate::spec::{
    Activation, Attention, Block, Branch, Dense, Embed, Layer, Mask, Op, Role, Spec, Stack,
    TensorKey,
};

/// Llama and Mistral.
pub const FAMILY: Family = Family {
    model_types: &["llama", "mistral"],
    plan,
    doc: "Llama 1-3, Mistral, and everything converted to their form",
};

/// `sliding_window` of a Mistral configuration that has no such key (transformers' default; null means none).
const MISTRAL_WINDOW: u32 = 4096;

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let mistral = config.opt_str("model_type")? == Some("mistral");
    let s = Sizes::read(config)?;
    let inner = config.u32("intermediate_size")?;
    let eps = config.opt_f64("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    let activation = activation(config, "hidden_act", Activation::Silu)?;
    let (attention_bias, mlp_bias) = if mistral {
        (false, false)
    } else {
        // Old configurations carry these two; transformers ignores them.
        config.ignore(&["rope_interleaved", "is_llama_config"]);
        (
            config.bool_or("attention_bias", false)?,
            config.bool_or("mlp_bias", false)?,
        )
    };
    let mask = match mistral {
        true if !config.has("sliding_window") => Mask::Sliding(MISTRAL_WINDOW),
        true => config
            .opt_u32("sliding_window")?
            .map_or(Mask::Causal, Mask::Sliding),
        false => Mask::Causal,
    };

    let mut b = Builder::new(config, tensors);
    let rope = b.rope(config, &RopeOptions::new(s.head_dim, s.context))?;
    let rotated = rope.dim() as u32;
    let interleaved = b.interleaved_by_origin();
    const EMBED: &str = "model.embed_tokens.weight";
    b.take(
        TensorKey::model(Role::TokenEmbedding),
        EMBED,
        &[s.vocab, s.hidden],
    )?;

    let mut layers = Vec::new();
    for l in 0..s.layers {
        let p = format!("model.layers.{l}");
        // A GGUF says by the tensor's presence what a configuration says by a key.
        let bias = |b: &Builder, key: bool, name: &str| match config.origin() {
            Origin::Gguf => b.has(&format!("{p}.{name}.bias")),
            _ => key,
        };
        let attention = Attention {
            n_heads: s.heads,
            n_kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            scale: (1.0 / f64::from(s.head_dim).sqrt()) as f32,
            q_bias: bias(&b, attention_bias, "self_attn.q_proj"),
            kv_bias: bias(&b, attention_bias, "self_attn.k_proj"),
            o_bias: bias(&b, attention_bias, "self_attn.o_proj"),
            rope: Some(0),
            mask,
        };
        let dense = Dense {
            inner,
            activation,
            gated: true,
            up_bias: bias(&b, mlp_bias, "mlp.up_proj"),
            down_bias: bias(&b, mlp_bias, "mlp.down_proj"),
        };
        let (q, kv, h) = (attention.q_width(), attention.kv_width(), s.hidden);

        let norm = |block| TensorKey::block(l, block, Role::PreNorm);
        b.take(norm(0), &format!("{p}.input_layernorm.weight"), &[h])?;
        let at = |role| TensorKey::branch(l, 0, 0, role);
        for (role, bias_role, name, width, bias) in [
            (Role::AttnQ, Role::AttnQBias, "q_proj", q, attention.q_bias),
            (
                Role::AttnK,
                Role::AttnKBias,
                "k_proj",
                kv,
                attention.kv_bias,
            ),
        ] {
            let name = format!("{p}.self_attn.{name}");
            let (hd, w) = (s.head_dim, format!("{name}.weight"));
            b.take_rotary(at(role), &w, &[width, h], hd, rotated, interleaved)?;
            if bias {
                let w = format!("{name}.bias");
                b.take_rotary(at(bias_role), &w, &[width], hd, rotated, interleaved)?;
            }
        }
        let mut linear =
            |key: TensorKey, bias_role, name: &str, out: u32, width: u32, bias: bool| {
                b.take(key, &format!("{p}.{name}.weight"), &[out, width])?;
                if bias {
                    let key = TensorKey {
                        role: bias_role,
                        ..key
                    };
                    b.take(key, &format!("{p}.{name}.bias"), &[out])?;
                }
                Ok(())
            };
        linear(
            at(Role::AttnV),
            Role::AttnVBias,
            "self_attn.v_proj",
            kv,
            h,
            attention.kv_bias,
        )?;
        linear(
            at(Role::AttnO),
            Role::AttnOBias,
            "self_attn.o_proj",
            h,
            q,
            attention.o_bias,
        )?;
        let at = |role| TensorKey::branch(l, 1, 0, role);
        linear(
            at(Role::MlpGate),
            Role::MlpGateBias,
            "mlp.gate_proj",
            inner,
            h,
            dense.up_bias,
        )?;
        linear(
            at(Role::MlpUp),
            Role::MlpUpBias,
            "mlp.up_proj",
            inner,
            h,
            dense.up_bias,
        )?;
        linear(
            at(Role::MlpDown),
            Role::MlpDownBias,
            "mlp.down_proj",
            h,
            inner,
            dense.down_bias,
        )?;
        b.take(
            norm(1),
            &format!("{p}.post_attention_layernorm.weight"),
            &[h],
        )?;
        b.skip(
            format!("{p}.self_attn.rotary_emb.inv_freq"),
            "recomputed from the configuration",
        );

        let block = |op| Block {
            pre: Some(rms(eps)),
            branches: vec![Branch { pre: None, op }],
            post: None,
            scale: 1.0,
        };
        layers.push(Layer {
            blocks: vec![block(Op::Attention(attention)), block(Op::Dense(dense))],
        });
    }
    b.take(
        TensorKey::model(Role::FinalNorm),
        "model.norm.weight",
        &[s.hidden],
    )?;
    let head = b.head("lm_head.weight", EMBED, s.vocab, s.hidden)?;
    Ok(b.finish(Spec {
        vocab_size: s.vocab,
        hidden: s.hidden,
        context_length: s.context,
        embed: Embed { scale: 1.0 },
        ropes: vec![rope],
        decoder: Stack {
            layers,
            final_norm: Some(rms(eps)),
        },
        head,
    }))
}

//! LFM2, dense and with experts: layers of gated short convolutions, and some of attention.

use crate::prelude::*;

/// Liquid LFM2.
pub const FAMILY: Family = Family {
    model_types: &["lfm2", "lfm2_moe"],
    plan,
    doc: "LFM2, dense and MoE: gated short convolutions with some layers of attention",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    o: "self_attn.out_proj",
    norms: ["self_attn.q_layernorm", "self_attn.k_layernorm"],
    ..LLAMA_ATTENTION
};

const DENSE: DenseNames<'static> =
    DenseNames::Gated(["feed_forward.w1", "feed_forward.w3", "feed_forward.w2"]);

const EXPERTS: ExpertNames<'static> = ExpertNames {
    router: "feed_forward.gate",
    correction: "feed_forward.expert_bias",
    experts: ExpertMatrices::Split([
        "feed_forward.experts.{e}.w1",
        "feed_forward.experts.{e}.w3",
        "feed_forward.experts.{e}.w2",
    ]),
};

const CONV: &str = "conv";

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let moe = config.opt_str("model_type")? == Some("lfm2_moe");
    let defaults = SizeDefaults {
        context: Some(128_000),
        ..SizeDefaults::default()
    };
    let s = Sizes::read_with(config, defaults)?;
    let norm = Norm::rms(eps(config, "norm_eps", 1e-5)?);
    let bias = config.bool_or("conv_bias", false)?;
    let conv = Convolution {
        kernel: config.opt_u32("conv_L_cache")?.unwrap_or(3),
        bias,
        silu: false,
    };
    // Files of before `layer_types` list the layers of attention.
    let attention_at = config.opt_array("full_attn_idxs")?;
    let listed = |l: usize| {
        attention_at.is_none_or(|list| list.iter().any(|v| v.as_u64() == Some(l as u64)))
    };
    let types = layer_types(config, s.layers, &[CONV, FULL], |l| match listed(l) {
        true => FULL,
        false => CONV,
    })?;
    only(config, "block_use_swiglu", true)?;
    only(config, "use_pos_enc", true)?;
    // The width of the networks is that of their matrices: the numbers that it is computed from changed their names and meaning. Sizes that are
    // said twice, and how weights were initialised.
    config.ignore(&[
        "intermediate_size",
        "block_auto_adjust_ff_dim",
        "block_dim",
        "block_ff_dim",
        "block_ffn_dim_multiplier",
        "block_mlp_init_scale",
        "block_multiple_of",
        "block_norm_eps",
        "block_out_init_scale",
        "block_use_xavier_init",
        "conv_dim",
        "conv_dim_out",
        "conv_use_xavier_init",
        "num_heads",
        "theta",
        "tie_embedding",
    ]);
    let mut b = Builder::new(config, tensors);
    let dense_layers = match moe {
        true => config.opt_u32("num_dense_layers")?.unwrap_or(2) as usize,
        false => s.layers,
    };
    let experts = match moe {
        false => None,
        true => {
            let mut router = Router::new(
                RouterScores::Sigmoid,
                config.bool_or("norm_topk_prob", true)?,
            );
            router.correction = config.bool_or("use_expert_bias", true)?;
            router.floor = 1e-6;
            router.scale = config.opt_f64("routed_scaling_factor")?.unwrap_or(1.0) as f32;
            Some(Experts::new(
                config.u32("num_experts")?,
                config.u32("num_experts_per_tok")?,
                config.u32("moe_intermediate_size")?,
                Activation::Silu,
                router,
            ))
        }
    };
    let options = RopeOptions {
        theta: 1e6,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        rope: Some(b.rope(config, &options)?),
        qk_norm: Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        }),
        ..s.attention()
    };
    let names = DecoderNames {
        final_norm: "embedding_norm",
        ..LLAMA
    };
    b.decoder(&s, &names, Frame::new(norm.clone()), |layer, l| {
        layer.block(&norm, "operator_norm")?;
        if types[l] == CONV {
            layer.short_conv(ShortConv { conv, bias }, "conv")?;
        } else {
            layer.attention(attention.clone(), &ATTENTION)?;
        }
        layer.block(&norm, "ffn_norm")?;
        match &experts {
            Some(experts) if l >= dense_layers => layer.experts(experts.clone(), &EXPERTS),
            _ => {
                let inner = layer.rows("feed_forward.w1")?;
                layer.dense(Dense::gated(inner, Activation::Silu), &DENSE)
            }
        }
    })
}

//! Hunyuan, dense or with experts: llama with norms of q and k after the rotation, and a rotary base that is scaled once and for all.

use crate::prelude::*;

/// Hunyuan.
pub const FAMILY: Family = Family {
    model_types: &["hunyuan_v1_dense", "hunyuan_v1_moe"],
    plan,
    doc: "Hunyuan, dense and MoE: norms of q and k after the rotation, static NTK scaling",
};

const ATTENTION: AttentionNames<'static> = AttentionNames {
    norms: ["self_attn.query_layernorm", "self_attn.key_layernorm"],
    ..LLAMA_ATTENTION
};

const EXPERTS: ExpertNames<'static> = ExpertNames {
    router: "mlp.gate.wg",
    ..MLP_EXPERTS
};

const SHARED: DenseNames<'static> = DenseNames::Gated([
    "mlp.shared_mlp.gate_proj",
    "mlp.shared_mlp.up_proj",
    "mlp.shared_mlp.down_proj",
]);

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let bias = config.bool_or("attention_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    config.ignore(&["eod_token_id"]);
    let used = match config.get("moe_topk").and_then(|v| v.as_array()) {
        None => vec![config.opt_u32("moe_topk")?.unwrap_or(1); s.layers],
        Some(list) => list
            .iter()
            .map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
            .collect(),
    };
    if used.len() != s.layers {
        return Err(config.unsupported("moe_topk", "a number, or one for every layer"));
    }
    let experts = match config.opt_str("model_type")? {
        Some("hunyuan_v1_moe") => Some(Experts::new(
            config.u32("num_experts")?,
            1,
            dense.inner,
            act,
            Router::new(RouterScores::Softmax, true),
        )),
        _ => None,
    };
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        alpha: true,
        // Beside alpha these mean nothing.
        family_keys: &["beta_fast", "beta_slow", "mscale", "mscale_all_dim"],
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        qk_norm: Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: true,
        }),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, l| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        let Some(experts) = &experts else {
            return layer.dense(dense.clone(), &LLAMA_MLP);
        };
        let experts = Experts {
            used: used[l],
            ..experts.clone()
        };
        layer.experts(experts, &EXPERTS)?;
        layer.dense(dense.clone(), &SHARED)
    })
}

//! GLM 4.5 and dots.llm1: grouped-query attention with the experts of DeepSeek V3 (DeepSeek-AI 2024).

use crate::prelude::*;

/// GLM 4.5 and dots.llm1.
pub const FAMILY: Family = Family {
    model_types: &["dots1", "glm4_moe"],
    plan,
    doc: "GLM 4.5, dots.llm1: experts of sigmoid scores with corrections and groups, shared experts",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let dots = config.opt_str("model_type")? == Some("dots1");
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", if dots { 1e-6 } else { 1e-5 })?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let width = config.u32("moe_intermediate_size")?;
    let count = config.u32("n_routed_experts")?;
    let mut router = Router::new(
        RouterScores::Sigmoid,
        config.bool_or("norm_topk_prob", true)?,
    );
    router.correction = true;
    router.scale = config.opt_f64("routed_scaling_factor")?.unwrap_or(1.0) as f32;
    let groups = config.opt_u32("n_group")?.unwrap_or(1);
    let used = config.opt_u32("topk_group")?.unwrap_or(1);
    router.groups = (groups > 1).then_some(Groups {
        count: groups,
        used,
        best: 2,
    });
    let experts = Experts::new(
        count,
        config.u32("num_experts_per_tok")?,
        width,
        act,
        router,
    );
    let shared = config.opt_u32("n_shared_experts")?.unwrap_or(0);
    let shared = (shared > 0).then(|| Dense::gated(width.saturating_mul(shared), act));
    let first = config.opt_u32("first_k_dense_replace")?.unwrap_or(0) as usize;
    let bias = config.bool_or("attention_bias", false)?;
    let normed = dots || config.bool_or("use_qk_norm", false)?;
    let types = layer_types(config, s.layers, &[FULL, SLIDING], |_| FULL)?;
    let window = config.opt_u32("sliding_window")?;
    // Which layers slide is said by their types.
    config.ignore(&["max_window_layers"]);
    let mut b = Builder::new(config, tensors);
    b.skip_predictors(config, &s, &LLAMA)?;
    let options = RopeOptions {
        partial: if dots { 1.0 } else { 0.5 },
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias && dots,
        rope: Some(b.rope(config, &options)?),
        qk_norm: normed.then(|| QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        }),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, l| {
        let mask = window.filter(|_| types[l] == SLIDING);
        let attention = Attention {
            mask: mask.map_or(Mask::Causal, Mask::Sliding),
            ..attention.clone()
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        if l < first {
            return layer.dense(dense.clone(), &LLAMA_MLP);
        }
        layer.experts(experts.clone(), &MLP_EXPERTS)?;
        match &shared {
            None => Ok(()),
            Some(d) => layer.dense(d.clone(), &SHARED_EXPERTS),
        }
    })
}

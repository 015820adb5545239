//! Mixtral, Phi 3.5 MoE and MiniMax M2: experts in every layer, under the names that Mixtral gave them (Jiang et al. 2024).

use crate::prelude::*;

/// Mixtral and the families that took over its names.
pub const FAMILY: Family = Family {
    model_types: &["minimax_m2", "mixtral", "phimoe"],
    plan,
    doc: "Mixtral, Phi 3.5 MoE, MiniMax M2: experts in every layer",
};

const EXPERTS: ExpertNames<'static> = ExpertNames {
    router: "block_sparse_moe.gate",
    correction: "block_sparse_moe.e_score_correction_bias",
    experts: ExpertMatrices::Split([
        "block_sparse_moe.experts.{e}.w1",
        "block_sparse_moe.experts.{e}.w3",
        "block_sparse_moe.experts.{e}.w2",
    ]),
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let kind = config.opt_str("model_type")?.unwrap_or("mixtral");
    let (phi, minimax) = (kind == "phimoe", kind == "minimax_m2");
    let s = Sizes::read(config)?;
    let eps = eps(config, "rms_norm_eps", if minimax { 1e-6 } else { 1e-5 })?;
    let norm = if phi {
        Norm::layer(eps, true)
    } else {
        Norm::rms(eps)
    };
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let jitter = config.opt_f64("router_jitter_noise")?;
    let mut router = Router::new(RouterScores::Softmax, true);
    if phi {
        let jitter = jitter.unwrap_or(0.01) as f32;
        router = Router::new(RouterScores::SparseMixer { jitter }, false);
    }
    if minimax {
        router.scores = RouterScores::Sigmoid;
        router.correction = true;
        only(config, "scoring_func", "sigmoid")?;
    }
    let experts = Experts::new(
        config.u32("num_local_experts")?,
        config.opt_u32("num_experts_per_tok")?.unwrap_or(2),
        config.u32("intermediate_size")?,
        act,
        router,
    );
    let bias = phi && config.bool_or("attention_bias", false)?;
    let window = config.opt_u32("sliding_window")?;
    // Noise of training, and sizes that are said twice.
    config.ignore(&["input_jitter_noise", "rotary_dim"]);
    let mut frame = Frame::new(norm.clone());
    frame.head.bias = phi && config.bool_or("lm_head_bias", false)?;
    let mut b = Builder::new(config, tensors);
    let partial = match config.opt_u32("rotary_dim")? {
        Some(dim) if minimax => f64::from(dim) / f64::from(s.head_dim),
        _ => 1.0,
    };
    let options = RopeOptions {
        theta: if minimax { 5e6 } else { 1e6 },
        partial,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        mask: window.map_or(Mask::Causal, Mask::Sliding),
        qk_norm: minimax.then(|| QkNorm {
            norm: norm.clone(),
            span: NormSpan::Whole,
            after_rope: false,
        }),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, frame, |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        layer.experts(experts.clone(), &EXPERTS)
    })
}

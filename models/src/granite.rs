//! Granite 3, dense or with experts: llama with multipliers of the embedding, the scores, the branches and the logits.

use crate::prelude::*;

/// Granite 3.
pub const FAMILY: Family = Family {
    model_types: &["granite", "granitemoe"],
    plan,
    doc: "Granite 3, dense and MoE: multipliers of embedding, scores, branches and logits",
};

const EXPERTS: ExpertNames<'static> = ExpertNames {
    router: "block_sparse_moe.router.layer",
    correction: "",
    experts: ExpertMatrices::Fused {
        names: [
            "block_sparse_moe.input_linear.weight",
            "block_sparse_moe.output_linear.weight",
        ],
        transposed: false,
        alternating: false,
        biases: ["", ""],
    },
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense {
        up_bias: mlp_bias,
        down_bias: mlp_bias,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    let experts = match config.opt_str("model_type")? {
        Some("granitemoe") => Some(Experts::new(
            config.u32("num_local_experts")?,
            config.u32("num_experts_per_tok")?,
            config.u32("intermediate_size")?,
            act,
            Router::new(RouterScores::SoftmaxOfChosen, false),
        )),
        _ => None,
    };
    let multiplier = |key| -> Result<f64> { Ok(config.opt_f64(key)?.unwrap_or(1.0)) };
    let residual = multiplier("residual_multiplier")? as f32;
    let mut frame = Frame::new(norm.clone());
    frame.embed = Embed::scaled(multiplier("embedding_multiplier")? as f32);
    frame.head.scale = (1.0 / multiplier("logits_scaling")?) as f32;
    let mut b = Builder::new(config, tensors);
    let attention = Attention {
        scale: multiplier("attention_multiplier")? as f32,
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &RopeOptions::new(s.head_dim, s.context))?),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, frame, |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.last().scale = residual;
        layer.block(&norm, "post_attention_layernorm")?;
        match &experts {
            None => layer.dense(dense.clone(), &LLAMA_MLP)?,
            Some(experts) => layer.experts(experts.clone(), &EXPERTS)?,
        }
        layer.last().scale = residual;
        Ok(())
    })
}

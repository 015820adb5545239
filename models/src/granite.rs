//! Granite 3, dense or with experts: llama with multipliers of the embedding, the scores, the branches and the logits.

use crate::prelude::*;

/// Granite 3.
pub const FAMILY: Family = Family {
    model_types: &["granite", "granitemoe"],
    plan,
    doc: "Granite 3, dense and MoE: multipliers of embedding, scores, branches and logits",
};

/// Names of the experts.
pub const EXPERTS: ExpertNames<'static> = ExpertNames {
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

/// The multipliers of a Granite.
pub struct Multipliers {
    embedding: f32,
    /// Of the products of queries and keys.
    pub scores: f32,
    /// Of what joins the stream.
    pub residual: f32,
    logits: f32,
}

impl Multipliers {
    /// Reads them; absent ones are 1.
    ///
    /// # Errors
    /// One is no number.
    pub fn read(config: &Config) -> Result<Multipliers> {
        let multiplier = |key| -> Result<f64> { Ok(config.opt_f64(key)?.unwrap_or(1.0)) };
        Ok(Multipliers {
            embedding: multiplier("embedding_multiplier")? as f32,
            scores: multiplier("attention_multiplier")? as f32,
            residual: multiplier("residual_multiplier")? as f32,
            logits: (1.0 / multiplier("logits_scaling")?) as f32,
        })
    }

    /// Those of embedding and logits.
    pub fn frame(&self, frame: &mut Frame) {
        frame.embed = Embed::scaled(self.embedding);
        frame.head.scale = self.logits;
    }
}

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
    let multipliers = Multipliers::read(config)?;
    let mut frame = Frame::new(norm.clone());
    multipliers.frame(&mut frame);
    let mut b = Builder::new(config, tensors);
    let attention = Attention {
        scale: multipliers.scores,
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &RopeOptions::new(s.head_dim, s.context))?),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, frame, |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.last().scale = multipliers.residual;
        layer.block(&norm, "post_attention_layernorm")?;
        match &experts {
            None => layer.dense(dense.clone(), &LLAMA_MLP)?,
            Some(experts) => layer.experts(experts.clone(), &EXPERTS)?,
        }
        layer.last().scale = multipliers.residual;
        Ok(())
    })
}

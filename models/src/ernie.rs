//! ERNIE 4.5, dense or with experts: llama with interleaved rotation, all biases or none.

use crate::prelude::*;

/// ERNIE 4.5.
pub const FAMILY: Family = Family {
    model_types: &["ernie4_5", "ernie4_5_moe"],
    plan,
    doc: "ERNIE 4.5, dense and MoE: interleaved rotation, experts with corrections",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let moe = config.opt_str("model_type")? == Some("ernie4_5_moe");
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            head_dim: (!moe).then_some(128),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let bias = config.bool_or("use_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let dense = Dense {
        up_bias: bias,
        down_bias: bias,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    let sparse = if moe {
        Some(Sparse::read(config, act, bias, s.layers)?)
    } else {
        None
    };
    let mut b = Builder::new(config, tensors);
    b.interleaved = true;
    let options = RopeOptions {
        theta: 5e5,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, l| {
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "post_attention_layernorm")?;
        match &sparse {
            Some(sparse) if sparse.layers.contains(&l) => {
                layer.experts(sparse.experts.clone(), &EXPERTS)?;
                match &sparse.shared {
                    None => Ok(()),
                    Some(d) => layer.dense(d.clone(), &SHARED_EXPERTS),
                }
            }
            _ => layer.dense(dense.clone(), &LLAMA_MLP),
        }
    })
}

const EXPERTS: ExpertNames<'static> = ExpertNames {
    correction: "mlp.moe_statics.e_score_correction_bias",
    ..MLP_EXPERTS
};

/// What layers with experts have in place of the network, and which they are.
struct Sparse {
    experts: Experts,
    shared: Option<Dense>,
    layers: Vec<usize>,
}

impl Sparse {
    fn read(config: &Config, act: Activation, bias: bool, layers: usize) -> Result<Sparse> {
        if bias {
            return Err(config.unsupported("use_bias", "false beside experts"));
        }
        let mut router = Router::new(RouterScores::Softmax, true);
        router.correction = true;
        // A lower bound of the sum of weights, which a softmax stays far above.
        config.ignore(&["moe_norm_min", "moe_capacity", "moe_use_aux_free"]);
        let width = config.u32("moe_intermediate_size")?;
        let experts = Experts::new(
            config.u32("moe_num_experts")?,
            config.u32("moe_k")?,
            width,
            act,
            router,
        );
        let shared = config.opt_u32("moe_num_shared_experts")?.unwrap_or(0);
        let first = config.opt_u32("moe_layer_start_index")?.unwrap_or(1) as usize;
        let end = match config.get("moe_layer_end_index").and_then(|v| v.as_i64()) {
            Some(end) if end >= 0 => end as usize,
            _ => layers - 1,
        };
        let interval = config.opt_u32("moe_layer_interval")?.unwrap_or(1).max(1) as usize;
        Ok(Sparse {
            experts,
            shared: (shared > 0).then(|| Dense::gated(width.saturating_mul(shared), act)),
            layers: (first..=end.min(layers - 1))
                .filter(|l| (l + 1) % interval == 0)
                .collect(),
        })
    }
}

//! Granite 4: state-space mixers with a few layers of attention, mostly without rotation; experts beside a shared network, or the latter alone.

use crate::granite::{EXPERTS, Multipliers};
use crate::prelude::*;

/// Granite 4.
pub const FAMILY: Family = Family {
    model_types: &["granitemoehybrid"],
    plan,
    doc: "Granite 4: state-space mixers with some attention, experts and a shared network",
};

const SHARED: DenseNames<'static> =
    DenseNames::Fused(["shared_mlp.input_linear", "shared_mlp.output_linear"]);

/// The kinds of layers, as the two styles of configurations call them.
const KINDS: [&str; 4] = ["linear_attention", "mamba", FULL, "attention"];

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let bias = config.bool_or("attention_bias", false)?;
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let multipliers = Multipliers::read(config)?;
    let types = layer_types(config, s.layers, &KINDS, |_| KINDS[0])?;
    let conv = Convolution {
        kernel: config.opt_u32("mamba_d_conv")?.unwrap_or(4),
        bias: config.bool_or("mamba_conv_bias", true)?,
        silu: true,
    };
    let proj_bias = config.bool_or("mamba_proj_bias", false)?;
    let inner = mixer_width(config, "mamba_expand", s.hidden)?;
    let heads = config.opt_u32("mamba_n_heads")?.unwrap_or(128);
    let head_dim = match config.get("mamba_d_head") {
        Some(v) if v != "auto" => config.u32("mamba_d_head")?,
        _ => inner / heads.max(1),
    };
    let scan = StateSpace {
        heads,
        head_dim,
        state: config.opt_u32("mamba_d_state")?.unwrap_or(256),
        groups: config.opt_u32("mamba_n_groups")?.unwrap_or(1),
        in_bias: proj_bias,
        out_bias: proj_bias,
        gate: Gate::NormAfter(norm.clone()),
        ..StateSpace::new(conv, step_limit(config)?)
    };
    let attends = |l: usize| KINDS[2..].contains(&types[l]);
    if !(0..s.layers).all(attends) {
        check_heads(config, &scan, "mamba_n_heads", inner)?;
    }
    let experts = match config.opt_u32("num_local_experts")?.unwrap_or(0) {
        0 => {
            config.ignore(&["num_experts_per_tok", "intermediate_size"]);
            None
        }
        count => Some(Experts::new(
            count,
            config.u32("num_experts_per_tok")?,
            config.u32("intermediate_size")?,
            act,
            Router::new(RouterScores::SoftmaxOfChosen, false),
        )),
    };
    let shared = config.opt_u32("shared_intermediate_size")?.unwrap_or(1024);
    let shared = Dense::gated(shared, act);
    only(config, "normalization_function", "rmsnorm")?;
    // Which kernels compute the scan, how weights were initialised.
    config.ignore(&["mamba_chunk_size", "init_method"]);
    let mut frame = Frame::new(norm.clone());
    multipliers.frame(&mut frame);
    let mut b = Builder::new(config, tensors);
    let rotated = match config.opt_str("position_embedding_type")? {
        Some("rope") => true,
        None | Some("nope") => false,
        Some(_) => return Err(config.unsupported("position_embedding_type", "nope or rope")),
    };
    if !rotated {
        config.ignore(&["rope_parameters", "rope_scaling", "rope_theta"]);
    }
    let options = RopeOptions::new(s.head_dim, s.context);
    let attention = Attention {
        scale: multipliers.scores,
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: match rotated {
            true => Some(b.rope(config, &options)?),
            false => None,
        },
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, frame, |layer, l| {
        layer.block(&norm, "input_layernorm")?;
        match attends(l) {
            true => layer.attention(attention.clone(), &LLAMA_ATTENTION)?,
            false => layer.state_space(scan.clone(), "mamba", [1.0; 3])?,
        }
        layer.last().scale = multipliers.residual;
        layer.block(&norm, "post_attention_layernorm")?;
        if let Some(experts) = &experts {
            layer.experts(experts.clone(), &EXPERTS)?;
        }
        layer.dense(shared.clone(), &SHARED)?;
        layer.last().scale = multipliers.residual;
        Ok(())
    })
}

//! Mamba and Mamba 2: layers of one recurrent mixer each, no attention and no feed-forward networks (Gu and Dao 2023, Dao and Gu 2024).

use crate::prelude::*;

/// Mamba.
pub const FAMILY: Family = Family {
    model_types: &["mamba", "mamba2"],
    plan,
    doc: "Mamba and Mamba 2: state-space mixers without attention",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    root: "backbone.",
    embed: "embeddings",
    final_norm: "norm_f",
    ..LLAMA
};

/// Positions for which the numbers of a configuration say nothing: a recurrent state has no limit, and 2^20 is what llama.cpp takes.
const CONTEXT: u32 = 1 << 20;

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let defaults = SizeDefaults {
        heads: Some(1),
        head_dim: Some(1),
        context: Some(CONTEXT),
        ..SizeDefaults::default()
    };
    let s = Sizes::read_with(config, defaults)?;
    let norm = Norm::rms(eps(config, "layer_norm_epsilon", 1e-5)?);
    only(config, "hidden_act", "silu")?;
    only(config, "rms_norm", true)?;
    let conv = Convolution {
        kernel: config.opt_u32("conv_kernel")?.unwrap_or(4),
        bias: config.bool_or("use_conv_bias", true)?,
        silu: true,
    };
    let bias = config.bool_or("use_bias", false)?;
    let expanded = mixer_width(config, "expand", s.hidden)?;
    // How weights were initialised, which kernels compute the scan, the precision of the stream, sizes that are said twice.
    config.ignore(&[
        "chunk_size",
        "d_inner",
        "d_model",
        "num_logits_to_keep",
        "fused_add_norm",
        "pad_vocab_size_multiple",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "ssm_cfg",
        "time_step_floor",
        "time_step_init_scheme",
        "time_step_max",
        "time_step_min",
        "time_step_scale",
        "use_associative_scan",
        "use_mambapy",
        "use_mamba_kernels",
    ]);
    let b = Builder::new(config, tensors);
    let frame = Frame::new(norm.clone());
    if config.opt_str("model_type")? == Some("mamba2") {
        // The rank of the steps of the older kind; the gate comes before the norm whatever is said, as transformers computes it.
        config.ignore(&["time_step_rank", "norm_before_gate"]);
        if config
            .opt_u32("intermediate_size")?
            .is_some_and(|n| n != expanded)
        {
            return Err(config.unsupported("intermediate_size", &expanded.to_string()));
        }
        let scan = StateSpace {
            heads: config.u32("num_heads")?,
            head_dim: config.u32("head_dim")?,
            state: config.u32("state_size")?,
            groups: config.opt_u32("n_groups")?.unwrap_or(8),
            in_bias: bias,
            out_bias: bias,
            gate: Gate::NormAfter(norm.clone()),
            ..StateSpace::new(conv, step_limit(config)?)
        };
        check_heads(config, &scan, "num_heads", expanded)?;
        return b.decoder(&s, &NAMES, frame, |layer, _| {
            layer.block(&norm, "norm")?;
            layer.state_space(scan.clone(), "mixer", [1.0; 3])
        });
    }
    let rank = match config.get("time_step_rank") {
        Some(v) if v != "auto" => config.u32("time_step_rank")?,
        _ => s.hidden.div_ceil(16),
    };
    let scan = SelectiveScan {
        inner: config.opt_u32("intermediate_size")?.unwrap_or(expanded),
        state: config.opt_u32("state_size")?.unwrap_or(16),
        step_rank: rank,
        conv,
        bias,
    };
    b.decoder(&s, &NAMES, frame, |layer, _| {
        layer.block(&norm, "norm")?;
        layer.selective_scan(scan.clone(), "mixer")
    })
}

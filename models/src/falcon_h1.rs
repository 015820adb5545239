//! Falcon H1: attention and a state-space mixer side by side in every layer, with multipliers everywhere.

use crate::prelude::*;

/// Falcon H1.
pub const FAMILY: Family = Family {
    model_types: &["falcon_h1"],
    plan,
    doc: "Falcon H1: attention and a state-space mixer side by side, multipliers",
};

const NAMES: DecoderNames<'static> = DecoderNames {
    final_norm: "final_layernorm",
    ..LLAMA
};

const DENSE: DenseNames<'static> = DenseNames::Gated([
    "feed_forward.gate_proj",
    "feed_forward.up_proj",
    "feed_forward.down_proj",
]);

/// `N` numbers, ones where the key is absent.
fn numbers<const N: usize>(config: &Config, key: &str) -> Result<[f64; N]> {
    let Some(list) = config.opt_array(key)? else {
        return Ok([1.0; N]);
    };
    let values: Option<Vec<f64>> = list.iter().map(|v| v.as_f64()).collect();
    values
        .and_then(|v| v.try_into().ok())
        .ok_or_else(|| config.unsupported(key, &format!("{N} numbers")))
}

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read_with(
        config,
        SizeDefaults {
            kv_heads: Some(8),
            context: Some(8192),
            ..SizeDefaults::default()
        },
    )?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    let multiplier = |key| -> Result<f64> { Ok(config.opt_f64(key)?.unwrap_or(1.0)) };
    let attention_in = multiplier("attention_in_multiplier")?;
    let ssm_in = multiplier("ssm_in_multiplier")?;
    let [z, x, b_scale, c_scale, step] = numbers(config, "ssm_multipliers")?;
    let [mlp_gate, mlp_down] = numbers(config, "mlp_multipliers")?;
    let attention_bias = config.bool_or("attention_bias", false)?;
    let in_bias = config.bool_or("mamba_proj_bias", false)?;
    // A multiplier of the input becomes one of the results, which a bias would not survive.
    if attention_bias && attention_in != 1.0 {
        return Err(config.unsupported("attention_bias", "false beside attention_in_multiplier"));
    }
    if in_bias && ssm_in != 1.0 {
        return Err(config.unsupported("mamba_proj_bias", "false beside ssm_in_multiplier"));
    }
    let expanded = mixer_width(config, "mamba_expand", s.hidden)?;
    let inner = config.opt_u32("mamba_d_ssm")?.unwrap_or(expanded);
    let heads = config.opt_u32("mamba_n_heads")?.unwrap_or(128);
    let head_dim = match config.get("mamba_d_head") {
        Some(v) if v != "auto" => config.u32("mamba_d_head")?,
        _ => inner / heads.max(1),
    };
    let gate = match (
        config.bool_or("mamba_rms_norm", false)?,
        config.bool_or("mamba_norm_before_gate", true)?,
    ) {
        (false, _) => Gate::Plain,
        (true, false) => Gate::NormAfter(norm.clone()),
        (true, true) => Gate::NormBefore(norm.clone()),
    };
    let conv = Convolution {
        kernel: config.opt_u32("mamba_d_conv")?.unwrap_or(4),
        bias: config.bool_or("mamba_conv_bias", true)?,
        silu: true,
    };
    let scan = StateSpace {
        heads,
        head_dim,
        state: config.opt_u32("mamba_d_state")?.unwrap_or(256),
        groups: config.opt_u32("mamba_n_groups")?.unwrap_or(1),
        in_bias,
        out_bias: config.bool_or("projectors_bias", false)?,
        gate_scale: (ssm_in * z) as f32,
        step_scale: (ssm_in * step) as f32,
        gate,
        ..StateSpace::new(conv, step_limit(config)?)
    };
    check_heads(config, &scan, "mamba_n_heads", inner)?;
    let conv_scales = [x, b_scale, c_scale].map(|m| (ssm_in * m) as f32);
    let ssm_out = multiplier("ssm_out_multiplier")? as f32;
    // q and k are linear in their input, v and what becomes of it as well.
    let scores = attention_in * attention_in * multiplier("key_multiplier")?;
    let attention_out = (attention_in * multiplier("attention_out_multiplier")?) as f32;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let dense = Dense {
        up_bias: mlp_bias,
        down_bias: mlp_bias,
        gate_scale: mlp_gate as f32,
        ..Dense::gated(config.u32("intermediate_size")?, act)
    };
    if config.get("sliding_window").is_some() {
        return Err(config.unsupported("sliding_window", "null"));
    }
    // Which kernels compute the scan, of how many positions logits are computed, a factor that became intermediate_size.
    config.ignore(&[
        "mamba_chunk_size",
        "mamba_use_mlp",
        "mlp_expansion_factor",
        "num_logits_to_keep",
    ]);
    let mut frame = Frame::new(norm.clone());
    frame.embed = Embed::scaled(multiplier("embedding_multiplier")? as f32);
    frame.head.scale = multiplier("lm_head_multiplier")? as f32;
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions::new(s.head_dim, s.context);
    let attention = Attention {
        scale: (scores / f64::from(s.head_dim).sqrt()) as f32,
        q_bias: attention_bias,
        kv_bias: attention_bias,
        o_bias: attention_bias,
        rope: Some(b.rope(config, &options)?),
        ..s.attention()
    };
    b.decoder(&s, &NAMES, frame, |layer, _| {
        layer.block(&norm, "input_layernorm")?;
        layer.state_space(scan.clone(), "mamba", conv_scales)?;
        layer.scale_branch(ssm_out);
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.scale_branch(attention_out);
        layer.block(&norm, "pre_ff_layernorm")?;
        layer.dense(dense.clone(), &DENSE)?;
        layer.last().scale = mlp_down as f32;
        Ok(())
    })
}

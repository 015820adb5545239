//! Qwen3-Next and Qwen 3.5: three layers of the gated delta rule to one of attention whose output is gated, norms that store w for 1 + w,
//! dense or with experts of which one gated one always runs.

use crate::error::Error;
use crate::nested;
use crate::plan::Source;
use crate::prelude::*;
use crate::spec::{DeltaRule, Op, Role};

/// Qwen3-Next and Qwen 3.5.
pub const FAMILY: Family = Family {
    model_types: &[
        "qwen3_next",
        "qwen3_5",
        "qwen3_5_text",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
    ],
    plan,
    doc: "Qwen3-Next and Qwen 3.5 (its text part): gated delta rule, gated attention, dense or with experts",
};

/// A layer of the delta rule, as configurations call it.
const LINEAR: &str = "linear_attention";

const SHARED: DenseNames<'static> = DenseNames::Gated([
    "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.up_proj",
    "mlp.shared_expert.down_proj",
]);

/// Experts as the newer files have them: all in one tensor.
const FUSED_EXPERTS: ExpertNames<'static> = ExpertNames {
    experts: ExpertMatrices::Fused {
        names: ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        transposed: false,
        alternating: false,
        biases: ["", ""],
    },
    ..MLP_EXPERTS
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    if !config.has("text_config") {
        return decoder(config, Builder::new(config, tensors), &LLAMA);
    }
    let keys = [
        "image_token_id",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
        // Whether a server loads the other parts at all.
        "language_model_only",
    ];
    nested::plan(config, &keys, tensors, decoder)
}

fn decoder(config: &Config, mut b: Builder, names: &DecoderNames) -> Result<Plan> {
    let kind = config.opt_str("model_type")?.unwrap_or("qwen3_next");
    let next = kind == "qwen3_next";
    let moe = next || kind.starts_with("qwen3_5_moe");
    let defaults = SizeDefaults {
        head_dim: Some(256),
        context: Some(32_768),
        ..SizeDefaults::default()
    };
    let s = Sizes::read_with(config, defaults)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    only(config, "attention_bias", false)?;
    only(config, "attn_output_gate", true)?;
    only(config, "output_gate_type", "swish")?;
    only(config, "use_sliding_window", false)?;
    // A type of other programs' states (here f32 always), and the part that predicts tokens beyond the next.
    config.ignore(&[
        "mamba_ssm_dtype",
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
        "unsloth_fixed_mtp",
    ]);
    let interval = config.opt_u32("full_attention_interval")?.unwrap_or(4) as usize;
    let types = layer_types(config, s.layers, &[FULL, LINEAR], |l| {
        if interval > 0 && (l + 1).is_multiple_of(interval) {
            FULL
        } else {
            LINEAR
        }
    })?;
    let number = |key, default| Ok(config.opt_u32(key)?.unwrap_or(default));
    let delta = DeltaRule {
        n_key_heads: number("linear_num_key_heads", 16)?,
        n_value_heads: number("linear_num_value_heads", 32)?,
        key_dim: number("linear_key_head_dim", 128)?,
        value_dim: number("linear_value_head_dim", 128)?,
        // The converter to GGUF puts the value heads of the later models into this order.
        tiled: !next && config.origin() == Origin::Gguf,
        conv: Convolution {
            kernel: number("linear_conv_kernel_dim", 4)?,
            bias: false,
            silu: true,
        },
        unit_eps: 1e-6,
        norm: norm.clone(),
    };
    let feed_forward = FeedForward::read(config, act, next, moe)?;

    let options = RopeOptions {
        partial: 0.25,
        // Sections of the rotation for places in images; all axes are equal in a text.
        family_keys: &["mrope_section", "mrope_interleaved"],
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        rope: Some(b.rope(config, &options)?),
        qk_norm: Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        }),
        output_gate: true,
        ..s.attention()
    };
    b.norm_offset = 1.0;
    for root in ["", "model."] {
        b.skip(
            format!("{root}mtp.*"),
            "predicts tokens beyond the next, which this program does not use",
        );
    }
    b.decoder(&s, names, Frame::new(norm.clone()), |layer, l| {
        layer.block(&norm, "input_layernorm")?;
        if types[l] == FULL {
            layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        } else {
            delta_rule(layer, delta.clone(), s.hidden)?;
        }
        layer.block(&norm, "post_attention_layernorm")?;
        feed_forward.add(layer, l)
    })
}

/// What follows the mixer of a layer.
struct FeedForward {
    dense: Option<Dense>,
    experts: Option<(Experts, Dense)>,
    /// Layers that are dense all the same.
    only_dense: Vec<u64>,
    /// Every so many layers have experts.
    step: usize,
}

impl FeedForward {
    fn read(config: &Config, act: Activation, next: bool, moe: bool) -> Result<FeedForward> {
        let width = config.opt_u32("intermediate_size")?;
        let mut read = FeedForward {
            dense: width.map(|width| Dense::gated(width, act)),
            experts: None,
            only_dense: Vec::new(),
            step: 1,
        };
        if !moe {
            config.u32("intermediate_size")?;
            return Ok(read);
        }
        // The later models renormalise always, and have experts in every layer.
        let mut normalize = true;
        if next {
            normalize = config.bool_or("norm_topk_prob", true)?;
            read.step = config.opt_u32("decoder_sparse_step")?.unwrap_or(1).max(1) as usize;
            let listed = config.opt_array("mlp_only_layers")?.unwrap_or_default();
            read.only_dense = listed
                .iter()
                .filter_map(serde_json::Value::as_u64)
                .collect();
        } else {
            only(config, "norm_topk_prob", true)?;
            only(config, "mlp_only_layers", serde_json::json!([]))?;
        }
        let experts = Experts::new(
            config.u32("num_experts")?,
            config.u32("num_experts_per_tok")?,
            config.u32("moe_intermediate_size")?,
            act,
            Router::new(RouterScores::Softmax, normalize),
        );
        let shared = Dense {
            output_gate: true,
            ..Dense::gated(config.u32("shared_expert_intermediate_size")?, act)
        };
        read.experts = Some((experts, shared));
        Ok(read)
    }

    fn add(&self, layer: &mut LayerBuilder, l: usize) -> Result<()> {
        let sparse = !self.only_dense.contains(&(l as u64)) && (l + 1).is_multiple_of(self.step);
        match (&self.experts, &self.dense) {
            (Some((experts, shared)), _) if sparse => {
                let fused = layer.name("mlp.experts.gate_up_proj");
                let names = match layer.plan.has(&fused) {
                    true => FUSED_EXPERTS,
                    false => MLP_EXPERTS,
                };
                layer.experts(experts.clone(), &names)?;
                layer.dense_gated_by(shared.clone(), &SHARED, "mlp.shared_expert_gate")
            }
            (_, Some(dense)) => layer.dense(dense.clone(), &LLAMA_MLP),
            (_, None) => Err(Error::new(format_args!(
                "layer {l} has no experts, and intermediate_size is missing"
            ))),
        }
    }
}

/// Adds a gated delta rule. Files have the rows of q, k, v and z, and those of beta and the decay, in one matrix ordered by key heads, or in
/// matrices of their own.
fn delta_rule(layer: &mut LayerBuilder, d: DeltaRule, hidden: u32) -> Result<()> {
    // Bounded before anything is multiplied.
    d.validate(&layer.name("linear_attn"))?;
    let (keys, values) = (d.n_key_heads, d.n_value_heads);
    let (key_width, value_width) = (keys * d.key_dim, values * d.value_dim);
    let per_key = values / keys;
    let (group_k, group_v) = (d.key_dim, per_key * d.value_dim);
    let name = |part: &str| format!("linear_attn.{part}");
    let fused = name("in_proj_qkvz");
    if layer.plan.has(&layer.name(&format!("{fused}.weight"))) {
        // For every key head: q, k, and v and z of its value heads.
        let shape = [2 * key_width + 2 * value_width, hidden];
        layer.plan.expect_linear(&layer.name(&fused), shape)?;
        let size = 2 * group_k + 2 * group_v;
        let part = |at: u32, width: u32| {
            (0..keys).flat_map(move |h| (0..width).map(move |i| h * size + at + i))
        };
        let q_and_k = part(0, group_k).chain(part(group_k, group_k));
        let qkv = q_and_k.chain(part(2 * group_k, group_v)).collect();
        let z = part(2 * group_k + group_v, group_v).collect();
        for (role, rows) in [(Role::DeltaQkv, qkv), (Role::DeltaGate, z)] {
            let key = (layer.branch_key(role), None);
            let name = layer.name(&fused);
            layer.plan.linear(key, &name, shape, Some(rows))?;
        }
    } else {
        for (role, part, rows) in [
            (Role::DeltaQkv, "in_proj_qkv", d.channels()),
            (Role::DeltaGate, "in_proj_z", value_width),
        ] {
            let key = (layer.branch_key(role), None);
            let name = layer.name(&name(part));
            layer.plan.linear(key, &name, [rows, hidden], None)?;
        }
    }
    let fused = layer.name(&name("in_proj_ba.weight"));
    if layer.plan.has(&fused) {
        layer
            .plan
            .expect(&fused, &[2 * u64::from(values), hidden.into()])?;
        for (role, first) in [(Role::DeltaBeta, 0), (Role::DeltaDecay, per_key)] {
            let row = |h: u32| (h / per_key) * 2 * per_key + first + h % per_key;
            let of_head = |h| row(h) * hidden..(row(h) + 1) * hidden;
            let list = (0..values).flat_map(of_head).collect();
            let key = layer.branch_key(role);
            layer.plan.put(key, vec![Source::rows(&fused, list)]);
        }
    } else {
        for (role, part) in [
            (Role::DeltaBeta, "in_proj_b.weight"),
            (Role::DeltaDecay, "in_proj_a.weight"),
        ] {
            let (key, name) = (layer.branch_key(role), layer.name(&name(part)));
            layer.plan.take(key, &name, &[values, hidden])?;
        }
    }
    let (key, bias) = (layer.branch_key(Role::DeltaDecayBias), name("dt_bias"));
    let bias = layer.name(&bias);
    layer.plan.take(key, &bias, &[values])?;
    let log = layer.name(&name("A_log"));
    layer.plan.expect(&log, &[values.into()])?;
    let rate = Source {
        function: layer.rate_function(),
        ..Source::all(log)
    };
    let key = layer.branch_key(Role::Rate);
    layer.plan.put(key, vec![rate]);
    let channels = d.channels();
    layer.convolution(&d.conv, channels, &name("conv1d"), &[(channels, 1.0)])?;
    // This norm alone stores its weight itself.
    let weight = layer.name(&name("norm.weight"));
    let key = layer.branch_key(Role::GateNorm);
    layer.plan.take(key, &weight, &[d.value_dim])?;
    let key = (layer.branch_key(Role::MixerOut), None);
    let out = layer.name(&name("out_proj"));
    layer.plan.linear(key, &out, [hidden, value_width], None)?;
    layer.branch(Op::DeltaRule(d))
}

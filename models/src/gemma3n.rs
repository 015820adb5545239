//! Gemma 3n (its text part): several streams of which the layers compute one, a low-rank path beside attention, vectors of single layers,
//! sparse feed-forward networks in the first layers, the last layers without keys and values of their own (Gemma Team 2025).

use crate::error::Error;
use crate::gemma4::{per_layer_inputs, shared_layers, skip_shared};
use crate::nested;
use crate::plan::Source;
use crate::prelude::*;
use crate::quantile::normal_quantile;
use crate::spec::{Injection, Op, PerLayer, Role, Streams, TensorKey, bound};

/// Gemma 3n.
pub const FAMILY: Family = Family {
    model_types: &["gemma3n", "gemma3n_text"],
    plan,
    doc: "Gemma 3n (its text part): streams beside each other, low-rank paths, vectors of single layers",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    if config.opt_str("model_type")? == Some("gemma3n") {
        let keys = [
            "audio_soft_tokens_per_image",
            "audio_token_id",
            "boa_token_id",
            "boi_token_id",
            "eoa_token_id",
            "eoi_token_id",
            "image_token_id",
            "vision_soft_tokens_per_image",
        ];
        return nested::plan(config, &keys, tensors, decoder);
    }
    decoder(config, Builder::new(config, tensors), &LLAMA)
}

/// Low-rank matrices one after another beside attention.
const LOW_RANK: DenseNames<'static> =
    DenseNames::Plain(["laurel.linear_left", "laurel.linear_right"]);

/// How many standard deviations above their mean the gate's values must be to count, per layer; from the part that does not.
fn cutoffs(config: &Config, layers: usize) -> Result<Vec<Option<f32>>> {
    // A GGUF has the cut-offs themselves.
    let key = "activation_sparsity_scale";
    if let Some(list) = config.opt_array(key)? {
        let cutoff = |x: &serde_json::Value| x.as_f64().map(|x| x as f32);
        return match list.len() == layers {
            true => Ok(list.iter().map(cutoff).collect()),
            false => Err(config.unsupported(key, &format!("{layers} numbers"))),
        };
    }
    let key = "activation_sparsity_pattern";
    let wrong = || config.unsupported(key, &format!("{layers} numbers from 0 to below 1"));
    let Some(list) = config.opt_array(key)? else {
        // The first ten layers of models with more.
        let sparse = if layers > 10 { 10 } else { 0 };
        let cutoff = |l| (l < sparse).then(|| normal_quantile(f64::from(0.95_f32)) as f32);
        return Ok((0..layers).map(cutoff).collect());
    };
    if list.len() != layers {
        return Err(wrong());
    }
    let cutoff = |part: &serde_json::Value| match part.as_f64() {
        Some(0.0) => Ok(None),
        // The original takes the quantile of the number in f32.
        Some(p) if (p as f32) > 0.0 && (p as f32) < 1.0 => {
            Ok(Some(normal_quantile(f64::from(p as f32)) as f32))
        }
        _ => Err(wrong()),
    };
    list.iter().map(cutoff).collect()
}

/// Widths of the feed-forward networks: one number, or one per layer.
fn inner_widths(config: &Config, layers: usize) -> Result<Vec<u32>> {
    let key = "intermediate_size";
    let Some(list) = config.get(key).and_then(|v| v.as_array()) else {
        return Ok(vec![config.u32(key)?; layers]);
    };
    let wrong = || config.unsupported(key, &format!("a number, or {layers} numbers"));
    let number = |v: &serde_json::Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let widths: Option<Vec<u32>> = list.iter().map(number).collect();
    widths.filter(|w| w.len() == layers).ok_or_else(wrong)
}

fn decoder(config: &Config, mut b: Builder, names: &DecoderNames) -> Result<Plan> {
    let defaults = SizeDefaults {
        vocab: Some(262_400),
        heads: Some(8),
        kv_heads: Some(2),
        head_dim: Some(256),
        context: Some(32_768),
    };
    let s = Sizes::read_with(config, defaults)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let act = activation(config, "hidden_activation", Activation::GeluTanh)?;
    let bias = config.bool_or("attention_bias", false)?;
    // The scale of attention is 1 whatever this says; the other is a matter of training.
    config.ignore(&["query_pre_attn_scalar", "altup_lr_multiplier"]);
    let kind = |l: usize| match (l + 1).is_multiple_of(5) {
        true => FULL,
        false => SLIDING,
    };
    let types = layer_types(config, s.layers, &[FULL, SLIDING], kind)?;
    let window = config.opt_u32("sliding_window")?.unwrap_or(512);
    let shared = shared_layers(config, &types, 15)?;
    let options = RopeOptions::new(s.head_dim, s.context);
    let full = RopeOptions {
        theta: 1e6,
        layer_type: Some(FULL),
        ..options
    };
    let sliding = RopeOptions {
        layer_type: Some(SLIDING),
        theta_key: "rope_local_base_freq",
        scaled: false,
        ..options
    };
    let ropes = [b.rope(config, &full)?, b.rope(config, &sliding)?];
    let attention = Attention {
        scale: 1.0,
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        qk_norm: Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        }),
        v_norm: Some(norm.eps),
        ..s.attention()
    };
    let inner = inner_widths(config, s.layers)?;
    let cutoffs = cutoffs(config, s.layers)?;
    let rank = config.opt_u32("laurel_rank")?.unwrap_or(64);

    let mut frame = Frame::new(norm.clone());
    frame.embed = Embed::scaled(f64::from(s.hidden).sqrt() as f32);
    frame.head.softcap = match config.opt_f64("final_logit_softcapping")? {
        None if !config.has("final_logit_softcapping") => Some(30.0),
        cap => cap.map(|c| c as f32),
    };
    let names = b.base_names(names);
    frame.embed.per_layer = per_layer_inputs(config, &mut b, &s, &names, &norm)?;
    let Some(width) = frame.embed.per_layer.as_ref().map(|p| p.width) else {
        return Err(config.unsupported("hidden_size_per_layer_input", "a number > 0"));
    };

    let key = "altup_num_inputs";
    let count = config.opt_u32(key)?.unwrap_or(4);
    if !(2..=bound::STREAMS).contains(&count) {
        return Err(config.unsupported(key, &format!("2 to {}", bound::STREAMS)));
    }
    let weight = config.bool_or("altup_correct_scale", true)?;
    frame.streams = Some(Streams {
        count,
        active: config.opt_u32("altup_active_idx")?.unwrap_or(0),
        norm: norm.clone(),
        router_scale: (1.0 / f64::from(s.hidden)) as f32,
        injection: Some(Injection {
            weight,
            per_layer: PerLayer { activation: act },
            post: norm.clone(),
        }),
    });
    for (role, name) in [
        (Role::StreamProjection, "altup_projections"),
        (Role::StreamUnprojection, "altup_unembed_projections"),
    ] {
        let mut sources = Vec::new();
        // Some files keep one stack under the name that stands for all.
        let stack = format!("{}{name}.{{e}}.weight", names.root);
        if b.has(&stack) {
            b.expect(&stack, &[count - 1, s.hidden, s.hidden].map(u64::from))?;
            b.put(TensorKey::model(role), vec![Source::all(stack)]);
            continue;
        }
        for j in 0..count - 1 {
            let name = format!("{}{name}.{j}.weight", names.root);
            b.expect(&name, &[s.hidden.into(); 2])?;
            sources.push(Source::all(name));
        }
        b.put(TensorKey::model(role), sources);
    }
    // Corrections are clamped when they are used; predictions only in training.
    let clip = match config.opt_f64("altup_coef_clip")? {
        None if !config.has("altup_coef_clip") => Some(120.0),
        clip => clip,
    };

    b.decoder(&s, &names, frame, |layer, l| {
        let at = |role| TensorKey::layer(l, role);
        let hidden = s.hidden;
        for (role, name, shape) in [
            (Role::StreamRouterNorm, "router_norm.weight", &[hidden][..]),
            (
                Role::StreamRouter,
                "modality_router.weight",
                &[count, hidden],
            ),
            (
                Role::StreamPrediction,
                "prediction_coefs.weight",
                &[count * count, count],
            ),
            (
                Role::StreamCorrection,
                "correction_coefs.weight",
                &[count, count],
            ),
        ] {
            let name = layer.name(&format!("altup.{name}"));
            layer.plan.take(at(role), &name, shape)?;
        }
        if let Some(clip) = clip {
            let name = layer.name("altup.correction_coefs.weight");
            let values = layer.plan.values(&name)?;
            if let Some(far) = values.iter().find(|v| f64::from(v.abs()) > clip) {
                return Err(Error::new(format_args!(
                    "tensor {name:?} holds {far}, expected at most altup_coef_clip {clip}"
                )));
            }
        }
        let name = layer.name("altup.correct_output_scale");
        if weight {
            layer.plan.take(at(Role::StreamWeight), &name, &[hidden])?;
        } else {
            layer.plan.skip(name, "altup_correct_scale is off");
        }
        for (role, name, shape) in [
            (Role::PerLayerGate, "per_layer_input_gate", [width, hidden]),
            (
                Role::PerLayerOutput,
                "per_layer_projection",
                [hidden, width],
            ),
        ] {
            let name = layer.name(name);
            layer.plan.linear((at(role), None), &name, shape, None)?;
        }
        let name = layer.name("post_per_layer_input_norm");
        let key = (at(Role::PostNorm), Role::PostNormBias);
        layer.plan.norm(key, &name, &norm, hidden)?;

        let slides = types[l] == SLIDING;
        layer.block(&norm, "input_layernorm")?;
        layer.branch_post(&norm, "post_attention_layernorm");
        let attention = Attention {
            rope: Some(ropes[usize::from(slides)]),
            mask: if slides {
                Mask::Sliding(window)
            } else {
                Mask::Causal
            },
            shared: shared[l],
            ..attention.clone()
        };
        layer.attention(attention, &LLAMA_ATTENTION)?;
        if shared[l].is_some() {
            skip_shared(layer);
        }
        layer.branch_post(&norm, "laurel.post_laurel_norm");
        layer.dense(Dense::plain(rank, Activation::Identity, false), &LOW_RANK)?;
        layer.branch(Op::Pass)?;
        layer.last().stream_scale = std::f32::consts::FRAC_1_SQRT_2;

        layer.block(&norm, "pre_feedforward_layernorm")?;
        let dense = Dense {
            cutoff: cutoffs[l],
            ..Dense::gated(inner[l], act)
        };
        layer.dense(dense, &LLAMA_MLP)?;
        layer.post(&norm, "post_feedforward_layernorm")
    })
}

//! Gemma 4 (its text part): norms before and after, layers with heads of their own width, the last layers without keys and values of their
//! own, vectors of single layers, and in some models experts beside the feed-forward network (Gemma Team 2026).

use crate::error::Error;
use crate::nested;
use crate::prelude::*;
use crate::spec::{PerLayerInputs, Role, TensorKey, bound};

/// Gemma 4.
pub const FAMILY: Family = Family {
    model_types: &["gemma4", "gemma4_text"],
    plan,
    doc: "Gemma 4 (its text part): shared keys and values, vectors of single layers, experts beside a network",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    if config.opt_str("model_type")? == Some("gemma4") {
        let keys = [
            "audio_token_id",
            "boa_token_id",
            "boi_token_id",
            "eoa_token_id",
            "eoa_token_index",
            "eoi_token_id",
            "image_token_id",
            "video_token_id",
            "vision_soft_tokens_per_image",
        ];
        return nested::plan(config, &keys, tensors, decoder);
    }
    decoder(config, Builder::new(config, tensors), &LLAMA)
}

const EXPERTS: ExpertNames<'static> = ExpertNames {
    router: "router.proj",
    correction: "",
    experts: ExpertMatrices::Fused {
        names: ["experts.gate_up_proj", "experts.down_proj"],
        transposed: false,
        alternating: false,
        biases: ["", ""],
    },
};

/// For every layer the one whose keys and values it reads, if it has none of its own: the last layers take those of the last layer of
/// their kind before them.
///
/// # Errors
/// There is no such layer.
pub(crate) fn shared_layers(
    config: &Config,
    types: &[&'static str],
    default: u32,
) -> Result<Vec<Option<u32>>> {
    let key = "num_kv_shared_layers";
    let n = config.opt_u32(key)?.unwrap_or(default) as usize;
    let own = types.len().checked_sub(n);
    let source = |l: usize| -> Result<Option<u32>> {
        let wrong = || config.unsupported(key, "an earlier layer of the kind of each of them");
        let own = own.ok_or_else(wrong)?;
        if l < own {
            return Ok(None);
        }
        let last = types[..own].iter().rposition(|kind| *kind == types[l]);
        last.map(|l| Some(l as u32)).ok_or_else(wrong)
    };
    (0..types.len()).map(source).collect()
}

/// Names what a layer that shares keys and values may store all the same.
pub(crate) fn skip_shared(layer: &mut LayerBuilder) {
    for name in ["k_proj.*", "v_proj.*", "k_norm.*"] {
        let name = format!("self_attn.{name}");
        layer.skip(
            &name,
            "this layer reads the keys and values of an earlier one",
        );
    }
}

/// The vectors of single layers, where the model has them, and their tensors.
///
/// # Errors
/// A tensor is missing or has another shape.
pub(crate) fn per_layer_inputs(
    config: &Config,
    b: &mut Builder,
    s: &Sizes,
    names: &DecoderNames,
    norm: &Norm,
) -> Result<Option<PerLayerInputs>> {
    let width = config
        .opt_u32("hidden_size_per_layer_input")?
        .unwrap_or(256);
    let rows = config.opt_u32("vocab_size_per_layer_input")?;
    if width == 0 {
        return Ok(None);
    }
    if width > bound::HIDDEN {
        let expected = format!("0 to {}", bound::HIDDEN);
        return Err(config.unsupported("hidden_size_per_layer_input", &expected));
    }
    let (rows, all) = (rows.unwrap_or(262_144), width * s.layers as u32);
    let name = |name: &str| format!("{}{name}", names.root);
    let table = name("embed_tokens_per_layer.weight");
    b.take(
        TensorKey::model(Role::PerLayerEmbedding),
        &table,
        &[rows, all],
    )?;
    let key = (TensorKey::model(Role::PerLayerProjection), None);
    let projection = name("per_layer_model_projection");
    b.linear(key, &projection, [all, s.hidden], None)?;
    // The projection is multiplied by hidden^-0.5 before the norm, which only changes what eps is compared with.
    let norm = Norm {
        eps: (f64::from(norm.eps) * f64::from(s.hidden)) as f32,
        ..norm.clone()
    };
    let key = TensorKey::model(Role::PerLayerNorm);
    let norm_name = name("per_layer_projection_norm");
    b.norm((key, Role::PerLayerNormBias), &norm_name, &norm, width)?;
    Ok(Some(PerLayerInputs {
        width,
        rows,
        norm,
        row_scale: f64::from(width).sqrt() as f32,
        scale: std::f32::consts::FRAC_1_SQRT_2,
    }))
}

/// The widths that single layers have instead of the usual ones: head and number of key and value heads.
fn widths(
    config: &Config,
    s: &Sizes,
    types: &[&'static str],
    k_eq_v: bool,
) -> Result<Vec<(u32, u32)>> {
    let mut widths = vec![(s.head_dim, s.kv_heads); s.layers];
    let full = config.opt_u32("global_head_dim")?.unwrap_or(512);
    let full_kv = config.opt_u32("num_global_key_value_heads")?;
    match config.opt_object("per_layer_config")? {
        Some(layers) => {
            for (l, (head_dim, kv_heads)) in widths.iter_mut().enumerate() {
                let Some(own) = layers.opt_object(&l.to_string())? else {
                    continue;
                };
                *head_dim = own.opt_u32("head_dim")?.unwrap_or(*head_dim);
                *kv_heads = own.opt_u32("num_key_value_heads")?.unwrap_or(*kv_heads);
                own.finish()?;
            }
            layers.finish()?;
        }
        None => {
            for ((head_dim, kv_heads), _) in
                widths.iter_mut().zip(types).filter(|(_, t)| **t == FULL)
            {
                *head_dim = full;
                *kv_heads = full_kv.filter(|_| k_eq_v).unwrap_or(*kv_heads);
            }
        }
    }
    for (l, (head_dim, kv_heads)) in widths.iter().enumerate() {
        let heads = 1..=s.heads;
        if !(1..=bound::HEAD_DIM).contains(head_dim)
            || !heads.contains(kv_heads)
            || !s.heads.is_multiple_of(*kv_heads)
        {
            return Err(Error::new(format_args!(
                "{}: layer {l} has {kv_heads} key and value heads of {head_dim}, expected a divisor of {} and 1 to {}",
                config.place(),
                s.heads,
                bound::HEAD_DIM
            )));
        }
    }
    Ok(widths)
}

fn decoder(config: &Config, mut b: Builder, names: &DecoderNames) -> Result<Plan> {
    let defaults = SizeDefaults {
        vocab: Some(262_144),
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        context: Some(131_072),
    };
    let s = Sizes::read_with(config, defaults)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-6)?);
    let act = activation(config, "hidden_activation", Activation::GeluTanh)?;
    let bias = config.bool_or("attention_bias", false)?;
    let k_eq_v = config.bool_or("attention_k_eq_v", false)?;
    // "vision": only the positions of an image see each other.
    if !matches!(
        config.opt_str("use_bidirectional_attention")?,
        None | Some("vision")
    ) {
        return Err(config.unsupported("use_bidirectional_attention", "null or vision"));
    }
    let kind = |l: usize| match (l + 1).is_multiple_of(6) {
        true => FULL,
        false => SLIDING,
    };
    let mut types = layer_types(config, s.layers, &[FULL, SLIDING], kind)?;
    // The last layer sees everything whatever the list says.
    types[s.layers - 1] = FULL;
    let window = config.opt_u32("sliding_window")?.unwrap_or(512);
    let widths = widths(config, &s, &types, k_eq_v)?;
    let shared = shared_layers(config, &types, 0)?;

    // A rotary embedding for each kind of layer and width of a head.
    if !config.has("rope_parameters") {
        return Err(config.missing("rope_parameters"));
    }
    let mut ropes: Vec<(&str, u32, u32)> = Vec::new();
    let mut rope_of = Vec::new();
    for (kind, (head_dim, _)) in types.iter().zip(&widths) {
        let known = ropes.iter().find(|r| (r.0, r.1) == (*kind, *head_dim));
        let index = match known {
            Some(rope) => rope.2,
            None => {
                let options = RopeOptions {
                    theta: if *kind == FULL { 1e6 } else { 1e4 },
                    layer_type: Some(kind),
                    ..RopeOptions::new(*head_dim, s.context)
                };
                let index = b.rope(config, &options)?;
                ropes.push((kind, *head_dim, index));
                index
            }
        };
        rope_of.push(index);
    }

    let inner = config.u32("intermediate_size")?;
    let double = config.bool_or("use_double_wide_mlp", false)?;
    let mut router = Router::new(RouterScores::Softmax, true);
    router.norm = Some(norm.clone());
    router.logit_scale = (1.0 / f64::from(s.hidden).sqrt()) as f32;
    router.expert_scales = true;
    let sizes = ["num_experts", "top_k_experts", "moe_intermediate_size"];
    config.ignore(&sizes);
    let experts = match config.bool_or("enable_moe_block", false)? {
        false => None,
        true => {
            let [count, used, inner] = sizes.map(|key| config.u32(key));
            Some(Experts::new(count?, used?, inner?, act, router))
        }
    };

    let mut frame = Frame::new(norm.clone());
    frame.embed = Embed::scaled(f64::from(s.hidden).sqrt() as f32);
    frame.head.softcap = config.opt_f64("final_logit_softcapping")?.map(|c| c as f32);
    let names = b.base_names(names);
    frame.embed.per_layer = per_layer_inputs(config, &mut b, &s, &names, &norm)?;
    let per_layer = frame.embed.per_layer.as_ref().map(|p| p.width);

    b.decoder(&s, &names, frame, |layer, l| {
        let (head_dim, kv_heads) = widths[l];
        let full = types[l] == FULL;
        let attention = Attention {
            scale: 1.0,
            q_bias: bias,
            kv_bias: bias,
            o_bias: bias,
            rope: Some(rope_of[l]),
            mask: if full {
                Mask::Causal
            } else {
                Mask::Sliding(window)
            },
            qk_norm: Some(QkNorm {
                norm: norm.clone(),
                span: NormSpan::Head,
                after_rope: false,
            }),
            v_norm: Some(norm.eps),
            shared: shared[l],
            ..Attention::new(s.heads, kv_heads, head_dim)
        };
        let v = if k_eq_v && full { "k" } else { "v" };
        let v = format!("self_attn.{v}_proj");
        let attention_names = AttentionNames {
            qkv: Qkv::Split(["self_attn.q_proj", "self_attn.k_proj", &v]),
            ..LLAMA_ATTENTION
        };
        layer.block(&norm, "input_layernorm")?;
        layer.attention(attention, &attention_names)?;
        layer.post(&norm, "post_attention_layernorm")?;
        if shared[l].is_some() {
            skip_shared(layer);
        }
        let wide = double && shared[l].is_some();
        let inner = inner.saturating_mul(1 + u32::from(wide));
        let dense = Dense::gated(inner, act);
        match &experts {
            None => {
                layer.block(&norm, "pre_feedforward_layernorm")?;
                layer.dense(dense, &LLAMA_MLP)?;
            }
            Some(experts) => {
                layer.bare_block();
                layer.branch_norm(&norm, "pre_feedforward_layernorm");
                layer.branch_post(&norm, "post_feedforward_layernorm_1");
                layer.dense(dense, &LLAMA_MLP)?;
                layer.branch_norm(&norm, "pre_feedforward_layernorm_2");
                layer.branch_post(&norm, "post_feedforward_layernorm_2");
                for (role, name, n) in [
                    (Role::RouterNorm, "router.scale", s.hidden),
                    (
                        Role::RouterExpertScales,
                        "router.per_expert_scale",
                        experts.count,
                    ),
                ] {
                    let (key, name) = (layer.branch_key(role), layer.name(name));
                    layer.plan.take(key, &name, &[n])?;
                }
                layer.experts(experts.clone(), &EXPERTS)?;
            }
        }
        layer.post(&norm, "post_feedforward_layernorm")?;
        if let Some(width) = per_layer {
            layer.bare_block();
            layer.per_layer(width, act)?;
            layer.post(&norm, "post_per_layer_input_norm")?;
        }
        let name = layer.name("layer_scalar");
        let scalar = layer.plan.fold(&name, 1, "folded into the description")?;
        layer.last().stream_scale = scalar[0];
        Ok(())
    })
}

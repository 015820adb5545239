//! DeepSeek V2 and V3, and the models of others that are built like them: latent attention, experts in groups with shared ones beside them
//! (DeepSeek-AI 2024).

use crate::prelude::*;
use crate::rope_config::{position_scale, yarn_mscale};

/// DeepSeek V2 and V3, GLM 4.7 Flash, Mistral 4.
pub const FAMILY: Family = Family {
    model_types: &["deepseek_v2", "deepseek_v3", "glm4_moe_lite", "mistral4"],
    plan,
    doc: "DeepSeek V2 and V3, GLM 4.7 Flash, Mistral 4: latent attention, experts in groups, shared experts",
};

/// Both norms of narrow vectors, whatever `rms_norm_eps` says.
const INNER_EPS: f32 = 1e-6;

/// All gates and ups in one stack, all downs in another.
const STACKS: ExpertNames<'static> = ExpertNames {
    experts: ExpertMatrices::Fused {
        names: ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        transposed: false,
        alternating: false,
        biases: ["", ""],
    },
    ..MLP_EXPERTS
};

/// What `mlp_layer_types` calls a layer with experts.
const SPARSE: &str = "sparse";

/// How the model types differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    V2,
    V3,
    Lite,
    Mistral,
}

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    decoder(config, Builder::new(config, tensors), &LLAMA)
}

/// The plan of the decoder whose tensors have these names.
pub(crate) fn decoder(config: &Config, mut b: Builder, names: &DecoderNames) -> Result<Plan> {
    let kind = match config.opt_str("model_type")? {
        Some("deepseek_v2") => Kind::V2,
        Some("glm4_moe_lite") => Kind::Lite,
        Some("mistral4") => Kind::Mistral,
        _ => Kind::V3,
    };
    let rotary = config.u32("qk_rope_head_dim")?;
    let defaults = SizeDefaults {
        head_dim: Some(rotary),
        ..SizeDefaults::default()
    };
    let s = Sizes::read_with(config, defaults)?;
    let default_eps = if kind == Kind::Lite { 1e-5 } else { 1e-6 };
    let norm = Norm::rms(eps(config, "rms_norm_eps", default_eps)?);
    let act = activation(config, "hidden_act", Activation::Silu)?;
    only(config, "mlp_bias", false)?;
    let dense = Dense::gated(config.u32("intermediate_size")?, act);
    let width = config.u32("moe_intermediate_size")?;
    let experts = Experts::new(
        config.u32("n_routed_experts")?,
        config.u32("num_experts_per_tok")?,
        width,
        act,
        router(config, kind)?,
    );
    let shared = config.opt_u32("n_shared_experts")?.unwrap_or(0);
    let shared = (shared > 0).then(|| Dense::gated(width.saturating_mul(shared), act));
    let sparse = sparse_layers(config, kind, s.layers)?;
    // Training, placement, and sums of other keys.
    config.ignore(&[
        "aux_loss_alpha",
        "seq_aux",
        "ep_size",
        "router_jitter_noise",
    ]);
    only(config, "moe_layer_freq", 1)?;

    b.interleaved = kind == Kind::V2 || config.bool_or("rope_interleave", true)?;
    b.skip_predictors(config, &s, names)?;
    let mut latent = latent(config, &s, kind, rotary)?;
    latent.rope = rope(config, &mut b, &s, &latent, kind)?;
    let stacks = match kind {
        Kind::Mistral => &STACKS,
        _ => &MLP_EXPERTS,
    };
    b.decoder(&s, names, Frame::new(norm.clone()), |layer, l| {
        layer.block(&norm, "input_layernorm")?;
        layer.latent(latent.clone(), &LATENT)?;
        layer.skip("self_attn.rotary_emb.inv_freq", "recomputed");
        layer.block(&norm, "post_attention_layernorm")?;
        if !sparse[l] {
            return layer.dense(dense.clone(), &LLAMA_MLP);
        }
        layer.experts(experts.clone(), stacks)?;
        match &shared {
            None => Ok(()),
            Some(d) => layer.dense(d.clone(), &SHARED_EXPERTS),
        }
    })
}

/// The rotary embedding, which must turn exactly the dimensions that are set apart for it.
fn rope(config: &Config, b: &mut Builder, s: &Sizes, latent: &Latent, kind: Kind) -> Result<u32> {
    let rotary = latent.rotary_dim;
    // Whose part is a number of the configuration, if there is one.
    let head_dim = match kind {
        Kind::Mistral => latent.head_dim(),
        _ => rotary,
    };
    let options = RopeOptions {
        family_keys: &[
            "mscale",
            "mscale_all_dim",
            "llama_4_scaling_beta",
            "max_position_embeddings",
        ],
        partial: f64::from(rotary) / f64::from(head_dim),
        ..RopeOptions::new(head_dim, s.context)
    };
    let rope = b.rope(config, &options)?;
    if b.rotated(Some(rope)) != rotary {
        let turned = b.rotated(Some(rope));
        let expected = format!("{turned}, the dimensions that the rotary embedding turns");
        return Err(config.unsupported("qk_rope_head_dim", &expected));
    }
    Ok(rope)
}

/// All of the attention but its rotary embedding.
fn latent(config: &Config, s: &Sizes, kind: Kind, rotary: u32) -> Result<Latent> {
    let within = |key: &'static str| {
        let n = config.u32(key)?;
        match (1..=4096).contains(&n) {
            true => Ok(n),
            false => Err(config.unsupported(key, "1 to 4096")),
        }
    };
    let low = |rank| LowRank {
        rank,
        norm: Norm::rms(INNER_EPS),
    };
    let plain = within("qk_nope_head_dim")?;
    within("qk_rope_head_dim")?;
    if s.kv_heads != s.heads {
        let expected = format!("num_attention_heads, {}", s.heads);
        return Err(config.unsupported("num_key_value_heads", &expected));
    }
    if config
        .opt_u32("qk_head_dim")?
        .is_some_and(|d| d != plain + rotary)
    {
        let expected = format!("qk_nope_head_dim + qk_rope_head_dim, {}", plain + rotary);
        return Err(config.unsupported("qk_head_dim", &expected));
    }
    let bias = config.bool_or("attention_bias", false)?;
    let scale = 1.0 / f64::from(plain + rotary).sqrt();
    Ok(Latent {
        n_heads: s.heads,
        plain_dim: plain,
        rotary_dim: rotary,
        value_dim: within("v_head_dim")?,
        kv: low(within("kv_lora_rank")?),
        query: config.opt_u32("q_lora_rank")?.map(low),
        down_bias: bias,
        o_bias: bias,
        rope: 0,
        scale: (scale * score_factor(config, s)?) as f32,
        position_scale: match kind {
            Kind::Mistral => position_scale(config, s.context)?,
            _ => None,
        },
    })
}

/// With scaled rotation scores are multiplied by the square of YaRN's magnitude correction for `mscale_all_dim`.
fn score_factor(config: &Config, s: &Sizes) -> Result<f64> {
    let parameters = match config.opt_object("rope_parameters")? {
        None => config.opt_object("rope_scaling")?,
        some => some,
    };
    let Some(p) = parameters else { return Ok(1.0) };
    let kind = p.opt_str("rope_type")?.or(p.opt_str("type")?);
    let all_dim = p.opt_f64("mscale_all_dim")?.unwrap_or(0.0);
    if kind.is_none_or(|k| k == "default") || all_dim == 0.0 {
        return Ok(1.0);
    }
    let factor = match p.opt_f64("factor")? {
        Some(factor) => factor,
        None => {
            let original = p.opt_u32("original_max_position_embeddings")?;
            f64::from(s.context) / f64::from(original.unwrap_or(s.context).max(1))
        }
    };
    let m = yarn_mscale(factor, all_dim);
    Ok(m * m)
}

fn router(config: &Config, kind: Kind) -> Result<Router> {
    let (scores, scale) = match kind {
        Kind::V2 => (RouterScores::Softmax, 1.0),
        Kind::V3 => (RouterScores::Sigmoid, 2.5),
        Kind::Lite => (RouterScores::Sigmoid, 1.8),
        Kind::Mistral => (RouterScores::Softmax, 1.0),
    };
    let mut router = Router::new(scores, false);
    router.correction = scores == RouterScores::Sigmoid;
    router.scale = config.opt_f64("routed_scaling_factor")?.unwrap_or(scale) as f32;
    let method = config.opt_str("topk_method")?;
    let best = match kind {
        Kind::V2 => {
            // Weights are not divided by their sum; the first implementation divided them in place of scaling them.
            only(config, "norm_topk_prob", false)?;
            only(config, "scoring_func", "softmax")?;
            match method {
                None | Some("greedy") => None,
                Some("group_limited_greedy") => Some(1),
                Some(_) => {
                    let known = "greedy or group_limited_greedy";
                    return Err(config.unsupported("topk_method", known));
                }
            }
        }
        Kind::V3 | Kind::Lite => {
            only(config, "topk_method", "noaux_tc")?;
            only(config, "scoring_func", "sigmoid")?;
            Some(2)
        }
        Kind::Mistral => Some(2),
    };
    if kind != Kind::V2 {
        router.normalize = config.bool_or("norm_topk_prob", true)?;
    }
    let (count, used) = match kind {
        Kind::V3 => (8, 4),
        _ => (1, 1),
    };
    let count = config.opt_u32("n_group")?.unwrap_or(count);
    let used = config.opt_u32("topk_group")?.unwrap_or(used);
    router.groups = best
        .filter(|_| count > 1)
        .map(|best| Groups { count, used, best });
    Ok(router)
}

/// Which layers have experts.
fn sparse_layers(config: &Config, kind: Kind, layers: usize) -> Result<Vec<bool>> {
    let default = match kind {
        Kind::V2 | Kind::Mistral => 0,
        Kind::V3 => 3,
        Kind::Lite => 1,
    };
    let first = config.opt_u32("first_k_dense_replace")?.unwrap_or(default) as usize;
    let Some(types) = config.opt_array("mlp_layer_types")? else {
        return Ok((0..layers).map(|l| l >= first).collect());
    };
    let sparse = |v: &serde_json::Value| match v.as_str() {
        Some(SPARSE) => Some(true),
        Some("dense") => Some(false),
        _ => None,
    };
    let found: Option<Vec<bool>> = types.iter().map(sparse).collect();
    found.filter(|f| f.len() == layers).ok_or_else(|| {
        let expected = format!("{layers} times dense or {SPARSE}");
        config.unsupported("mlp_layer_types", &expected)
    })
}

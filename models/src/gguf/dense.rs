//! Decoders of the last years, most of whose rows keep their order.

use super::Architecture;
use super::keys::{Keys, Pattern};
use super::rules::{How, Rule, Tables, rule, same};
use super::tables::*;
use crate::error::Result;
use serde_json::Value;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "qwen2",
        config: |k| plain(k, "qwen2"),
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "qwen3",
        config: |k| plain(k, "qwen3"),
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "seed_oss",
        config: |k| plain(k, "seed_oss"),
        tables: |_| &SEED_OSS,
    },
    Architecture {
        name: "ernie4_5",
        config: |k| plain(k, "ernie4_5"),
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "hunyuan-dense",
        config: |k| plain(k, "hunyuan_v1_dense"),
        tables: |_| &HUNYUAN,
    },
    Architecture {
        name: "nemotron",
        config: nemotron,
        tables: |_| &NEMOTRON,
    },
    Architecture {
        name: "olmo",
        config: olmo,
        tables: |_| &OLMO,
    },
    Architecture {
        name: "olmo2",
        config: olmo2,
        tables: |_| &POST_NORM,
    },
    Architecture {
        name: "exaone4",
        config: exaone4,
        tables: |_| &POST_NORM,
    },
    Architecture {
        name: "command-r",
        config: |k| cohere(k, "cohere"),
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "cohere2",
        config: cohere2,
        tables: |_| &PRE_NORM,
    },
    Architecture {
        name: "chatglm",
        config: |k| plain(k, "glm"),
        tables: |_| &GLM,
    },
    Architecture {
        name: "glm4",
        config: |k| plain(k, "glm4"),
        tables: |_| &GLM4,
    },
    Architecture {
        name: "phi3",
        config: phi3,
        tables: |_| &PHI3,
    },
    Architecture {
        name: "apertus",
        config: apertus,
        tables: |_| &APERTUS,
    },
];

const PRE_NORM: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[("blk.", "model.layers.", &[NORMS, ATTENTION, QK_NORMS, MLP])],
};

const OLMO: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[("blk.", "model.layers.", &[PAIRED_ATTENTION, MLP])],
};

const POST_NORM: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[("blk.", "model.layers.", &[POST, ATTENTION, QK_NORMS, MLP])],
};

const POST: &[Rule] = &[
    same("post_attention_norm", "post_attention_layernorm"),
    same("post_ffw_norm", "post_feedforward_layernorm"),
];

const SEED_OSS: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            &[same("post_attention_norm", "post_attention_layernorm")],
            ATTENTION,
            MLP,
        ],
    )],
};

const HUNYUAN: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[NORMS, ATTENTION, HUNYUAN_NORMS, MLP],
    )],
};

pub(super) const HUNYUAN_NORMS: &[Rule] = &[
    same("attn_q_norm", "self_attn.query_layernorm"),
    same("attn_k_norm", "self_attn.key_layernorm"),
];

const NEMOTRON: Tables<'static> = Tables {
    model: &[&[rule("output_norm", "model.norm", How::PlusOne)], MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            &[
                rule("attn_norm", "input_layernorm", How::PlusOne),
                rule("ffn_norm", "post_attention_layernorm", How::PlusOne),
            ],
            ATTENTION,
            MLP,
        ],
    )],
};

const GLM: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[("blk.", "model.layers.", &[NORMS, ATTENTION, FUSED_MLP])],
};

const GLM4: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            &[
                same("post_attention_norm", "post_self_attn_layernorm"),
                same("post_ffw_norm", "post_mlp_layernorm"),
            ],
            ATTENTION,
            FUSED_MLP,
        ],
    )],
};

const PHI3: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            NORMS,
            &[same("attn_qkv", "self_attn.qkv_proj")],
            ATTENTION,
            FUSED_MLP,
        ],
    )],
};

const APERTUS: Tables<'static> = Tables {
    model: &[MODEL],
    stacks: &[(
        "blk.",
        "model.layers.",
        &[
            &[
                same("attn_norm", "attention_layernorm"),
                same("ffn_norm", "feedforward_layernorm"),
            ],
            ATTENTION,
            QK_NORMS,
            MLP,
        ],
    )],
};

/// Nothing but the usual keys and RMSNorms.
fn plain(k: &mut Keys, model_type: &str) -> Result<()> {
    k.decoder(model_type, "rms_norm_eps")?;
    k.causal()?;
    k.rope()
}

fn nemotron(k: &mut Keys) -> Result<()> {
    k.decoder("nemotron", "norm_eps")?;
    // The same number under both keys.
    k.c.ignore(&["attention.layer_norm_rms_epsilon"]);
    k.rope()
}

fn olmo(k: &mut Keys) -> Result<()> {
    k.decoder("olmo", "eps")?;
    // A constant of the family.
    k.out.remove("eps");
    k.only("attention.layer_norm_epsilon", f64::from(1e-5_f32))?;
    k.floats(&[("attention.clamp_kqv", "clip_qkv")])?;
    k.rope()
}

fn olmo2(k: &mut Keys) -> Result<()> {
    k.decoder("olmo2", "rms_norm_eps")?;
    if !k.c.has("attention.sliding_window") {
        return k.rope();
    }
    k.set("model_type", "olmo3");
    k.windows(&Pattern {
        default: 4,
        dense_first: false,
    })?;
    k.rope_by_layer(None)
}

fn exaone4(k: &mut Keys) -> Result<()> {
    k.decoder("exaone4", "rms_norm_eps")?;
    k.windows(&Pattern {
        default: 4,
        dense_first: false,
    })?;
    k.rope()
}

fn cohere(k: &mut Keys, model_type: &str) -> Result<()> {
    k.decoder(model_type, "layer_norm_eps")?;
    k.floats(&[("logit_scale", "logit_scale")])?;
    if model_type == "cohere" {
        let normed = k.has("blk.0.attn_q_norm.weight");
        k.set("use_qk_norm", normed);
    }
    k.rope()
}

fn cohere2(k: &mut Keys) -> Result<()> {
    cohere(k, "cohere2")?;
    k.windows(&Pattern {
        default: 4,
        dense_first: false,
    })
}

fn phi3(k: &mut Keys) -> Result<()> {
    k.decoder("phi3", "rms_norm_eps")?;
    let window = k.c.opt_u32("attention.sliding_window")?.filter(|&w| w > 0);
    k.set("sliding_window", window);
    k.rope()
}

fn apertus(k: &mut Keys) -> Result<()> {
    k.decoder("apertus", "rms_norm_eps")?;
    for name in ["alpha_n", "alpha_p", "beta", "eps"] {
        let key = format!("xielu.{name}");
        let value = k.c.get(&key).ok_or_else(|| k.c.missing(&key))?;
        let layers = k.layers as usize;
        let values: Option<Vec<f64>> = match value {
            Value::Array(list) => list.iter().map(Value::as_f64).collect(),
            one => one.as_f64().map(|x| vec![x; layers.min(1 << 12)]),
        };
        let Some(values) = values.filter(|v| v.len() == layers) else {
            return Err(k.c.unsupported(&key, &format!("{layers} numbers")));
        };
        for (l, x) in values.into_iter().enumerate() {
            let name = format!("model.layers.{l}.mlp.act_fn.{name}");
            k.constants.push((name, vec![x as f32]));
        }
    }
    k.rope()
}

//! Every GGUF architecture with a golden of its family: names and records as llama.cpp's converter writes them.

use crate::gguf_tables::*;
use crate::gguf_writer::{Case, Record::*};

/// A decoder under the usual names.
pub const fn usual(
    golden: &'static str,
    architecture: &'static str,
    names: &'static [&'static str],
) -> Case {
    Case {
        golden,
        architecture,
        layers: "model.layers.",
        names,
        records: &[],
        lost: "{}",
        reordered: false,
        extra: &[],
    }
}

/// Those with dense networks.
pub const CASES: &[Case] = &[
    usual("llama_mha", "llama", PAIRED_LLAMA),
    usual("llama_gqa_tied", "llama", PAIRED_LLAMA),
    usual("llama_mqa_bias_hd", "llama", PAIRED_LLAMA),
    usual("llama_rope_linear", "llama", PAIRED_LLAMA),
    usual("llama_rope_yarn", "llama", PAIRED_LLAMA),
    usual("mistral_swa", "llama", PAIRED_LLAMA),
    usual("mixtral", "llama", &[MODEL, NORMS, PAIRED, BLOCK_SPARSE]),
    Case {
        records: &[(
            "attention.temperature_scale",
            FloatOf("llama_4_scaling_beta"),
        )],
        ..usual("ministral3", "mistral3", PAIRED_LLAMA)
    },
    usual("arcee", "arcee", PAIRED_LLAMA),
    usual("smollm3", "smollm3", PAIRED_LLAMA),
    usual("granite", "granite", PAIRED_LLAMA),
    usual(
        "granitemoe",
        "granitemoe",
        &[
            MODEL,
            NORMS,
            PAIRED,
            "
    block_sparse_moe.router.layer > ffn_gate_inp
    block_sparse_moe.input_linear > ffn_gate_exps, ffn_up_exps : cut
    block_sparse_moe.output_linear > ffn_down_exps",
        ],
    ),
    usual("qwen2", "qwen2", PLAIN),
    usual("qwen3", "qwen3", PLAIN),
    Case {
        records: &[("pooling_type", U(3))],
        layers: "layers.",
        ..usual(
            "qwen3_embed",
            "qwen3",
            &[
                "
    embed_tokens > token_embd
    norm > output_norm",
                NORMS,
                ATTENTION,
                MLP,
            ],
        )
    },
    usual(
        "seed_oss",
        "seed_oss",
        &[
            MODEL,
            ATTENTION,
            MLP,
            "
    input_layernorm > attn_norm
    post_attention_layernorm > post_attention_norm",
        ],
    ),
    usual("ernie4_5", "ernie4_5", PLAIN),
    Case {
        records: &[
            // What the converter makes of theta and alpha.
            ("rope.freq_base", F(26_826_958.0)),
            ("rope.scaling.type", S("none")),
            ("rope.scaling.factor", F(1.0)),
        ],
        ..usual(
            "hunyuan_dense",
            "hunyuan-dense",
            &[
                MODEL,
                NORMS,
                ATTENTION,
                MLP,
                "
    self_attn.query_layernorm > attn_q_norm
    self_attn.key_layernorm > attn_k_norm",
            ],
        )
    },
    Case {
        records: &[("rope.scaling.type", S("none"))],
        ..usual("nemotron", "nemotron", &[PLUS_ONE, MODEL, ATTENTION, MLP])
    },
    Case {
        records: &[
            ("attention.layer_norm_rms_epsilon", No),
            ("attention.layer_norm_epsilon", F(1e-5)),
            ("attention.clamp_kqv", FloatOf("clip_qkv")),
        ],
        ..usual("olmo", "olmo", PAIRED_LLAMA)
    },
    usual("olmo2", "olmo2", &[MODEL, POST, ATTENTION, MLP]),
    Case {
        records: &[(
            "attention.sliding_window_pattern",
            Flags(&[true, true, true, false]),
        )],
        ..usual("olmo3", "olmo2", &[MODEL, POST, ATTENTION, MLP])
    },
    Case {
        lost: r#"{"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}"#,
        records: &[(
            "attention.sliding_window_pattern",
            Flags(&[true, true, true, false]),
        )],
        ..usual("exaone4", "exaone4", &[MODEL, POST, ATTENTION, MLP])
    },
    Case {
        lost: r#"{"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}"#,
        records: &[
            ("xielu.alpha_p", Each("mlp.act_fn.alpha_p")),
            ("xielu.alpha_n", Each("mlp.act_fn.alpha_n")),
            ("xielu.beta", Each("mlp.act_fn.beta")),
            ("xielu.eps", Each("mlp.act_fn.eps")),
        ],
        ..usual(
            "apertus",
            "apertus",
            &[
                MODEL,
                ATTENTION,
                MLP,
                "
    attention_layernorm > attn_norm
    feedforward_layernorm > ffn_norm
    mlp.act_fn.alpha_p! > -
    mlp.act_fn.alpha_n! > -
    mlp.act_fn.beta! > -
    mlp.act_fn.eps! > -",
            ],
        )
    },
    usual("cohere", "command-r", PLAIN),
    usual("cohere2", "cohere2", PLAIN),
    usual("glm", "chatglm", &[MODEL, NORMS, ATTENTION, FUSED_MLP]),
    usual(
        "glm4",
        "glm4",
        &[
            MODEL,
            NORMS,
            "
    post_self_attn_layernorm > post_attention_norm
    post_mlp_layernorm > post_ffw_norm",
            ATTENTION,
            FUSED_MLP,
        ],
    ),
    usual(
        "phi3_swa",
        "phi3",
        &[
            MODEL,
            NORMS,
            "
    self_attn.qkv_proj > attn_qkv
    self_attn.o_proj > attn_output",
            FUSED_MLP,
        ],
    ),
    usual("gemma", "gemma", &[PLUS_ONE, MODEL, ATTENTION, MLP]),
    Case {
        lost: r#"{"query_pre_attn_scalar": 24}"#,
        records: &[
            ("attn_logit_softcapping", FloatOf("attn_logit_softcapping")),
            (
                "final_logit_softcapping",
                FloatOf("final_logit_softcapping"),
            ),
        ],
        ..usual("gemma2", "gemma2", &[GEMMA2, MODEL, ATTENTION, MLP])
    },
    Case {
        lost: r#"{"query_pre_attn_scalar": 24}"#,
        ..usual("gemma3_text", "gemma3", &[GEMMA2, MODEL, ATTENTION, MLP])
    },
    Case {
        lost: r#"{"query_pre_attn_scalar": 16}"#,
        layers: "layers.",
        records: &[("attention.causal", B(false)), ("pooling_type", U(1))],
        ..usual(
            "gemma3_embed_bidir",
            "gemma-embedding",
            &[
                "
    embed_tokens > token_embd
    norm > output_norm : +1
    2_Dense/linear > dense_2
    3_Dense/linear > dense_3",
                GEMMA2,
                ATTENTION,
                MLP,
            ],
        )
    },
    Case {
        lost: r#"{"sliding_window": null}"#,
        records: &[("attention.sliding_window", No)],
        ..usual(
            "starcoder2",
            "starcoder2",
            &[
                MODEL,
                NORMS,
                ATTENTION,
                "
    mlp.c_fc > ffn_up
    mlp.c_proj > ffn_down",
            ],
        )
    },
    Case {
        layers: "transformer.h.",
        records: &[("feed_forward_length", U(256))],
        ..usual(
            "gpt2",
            "gpt2",
            &[
                GPT2,
                "
    attn.c_attn > attn_qkv : turn
    attn.c_proj > attn_output : turn
    mlp.c_fc > ffn_up : turn
    mlp.c_proj > ffn_down : turn",
            ],
        )
    },
    Case {
        layers: "transformer.h.",
        records: &[
            ("attention.head_count_kv", U(1)),
            ("feed_forward_length", U(256)),
        ],
        ..usual(
            "gpt_bigcode",
            "starcoder",
            &[
                GPT2,
                "
    attn.c_attn > attn_qkv
    attn.c_proj > attn_output
    mlp.c_fc > ffn_up
    mlp.c_proj > ffn_down",
            ],
        )
    },
    Case {
        layers: "gpt_neox.layers.",
        records: &[("use_parallel_residual", B(true))],
        ..usual("gpt_neox", "gptneox", &[GPT_NEOX, NORMS])
    },
    Case {
        layers: "gpt_neox.layers.",
        lost: r#"{"hidden_act": "gelu"}"#,
        records: &[("use_parallel_residual", B(false))],
        ..usual("gpt_neox_sequential", "gptneox", &[GPT_NEOX, NORMS])
    },
    Case {
        layers: "transformer.h.",
        records: &[("context_length", U(2048)), ("feed_forward_length", U(256))],
        ..usual("bloom", "bloom", &[WORDS, NORMS])
    },
    Case {
        layers: "transformer.h.",
        records: &[
            ("context_length", U(2048)),
            ("feed_forward_length", U(256)),
            ("attention.head_count_kv", U(1)),
            ("tensor_data_layout", S("jploski")),
        ],
        ..usual("falcon_7b_style", "falcon", &[WORDS, NORMS])
    },
    Case {
        layers: "transformer.h.",
        records: &[
            ("context_length", U(2048)),
            ("feed_forward_length", U(256)),
            ("attention.head_count_kv", Of("num_kv_heads")),
        ],
        ..usual(
            "falcon_40b_style",
            "falcon",
            &[
                WORDS,
                "
    ln_mlp > attn_norm
    ln_attn > attn_norm_2",
            ],
        )
    },
    usual(
        "phi",
        "phi2",
        &[
            "
    model.final_layernorm > output_norm
    self_attn.dense > attn_output
    mlp.fc1 > ffn_up
    mlp.fc2 > ffn_down",
            MODEL,
            NORMS,
            ATTENTION,
        ],
    ),
    usual("stablelm", "stablelm", PLAIN),
    usual(
        "stablelm_parallel_qknorm",
        "stablelm",
        &[
            MODEL,
            NORMS,
            ATTENTION,
            MLP,
            "
    self_attn.q_layernorm.norms.# > attn_q_norm : stack
    self_attn.k_layernorm.norms.# > attn_k_norm : stack",
        ],
    ),
    Case {
        layers: "encoder.layer.",
        records: &[("attention.causal", B(false)), ("pooling_type", U(2))],
        ..usual("bert_embed", "bert", &[BERT])
    },
    Case {
        layers: "encoder.layers.",
        records: &[("attention.causal", B(false)), ("pooling_type", U(1))],
        ..usual(
            "nomic_bert_embed",
            "nomic-bert",
            &["
    embeddings.word_embeddings > token_embd
    embeddings.token_type_embeddings > token_types
    emb_ln > token_embd_norm
    attn.Wqkv > attn_qkv
    attn.out_proj > attn_output
    norm1 > attn_output_norm
    mlp.fc11 > ffn_up
    mlp.fc12 > ffn_gate
    mlp.fc2 > ffn_down
    norm2 > layer_output_norm"],
        )
    },
    Case {
        layers: "layers.",
        records: &[
            ("attention.causal", B(false)),
            ("pooling_type", U(1)),
            ("attention.sliding_window", Of("local_attention")),
            ("attention.sliding_window_pattern", U(3)),
            ("rope.scaling.type", S("none")),
            ("hidden_activation", S("gelu")),
        ],
        ..usual(
            "modernbert_embed",
            "modern-bert",
            &["
    embeddings.tok_embeddings > token_embd
    embeddings.norm > token_embd_norm
    final_norm > output_norm
    attn.Wqkv > attn_qkv
    attn.Wo > attn_output
    attn_norm > attn_norm
    mlp_norm > ffn_norm
    mlp.Wi > ffn_up
    mlp.Wo > ffn_down"],
        )
    },
];

//! Every GGUF architecture with a golden of its family: names and records as llama.cpp's converter writes them.

use crate::gguf_tables::*;
use crate::gguf_writer::{Case, Record::*};

/// A decoder under the usual names.
const fn usual(
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
    }
}

/// All of them.
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
        records: &[
            (
                "expert_shared_feed_forward_length",
                Of("shared_expert_intermediate_size"),
            ),
            ("attention.sliding_window", No),
        ],
        ..usual(
            "qwen2_moe",
            "qwen2moe",
            &[
                "
    mlp.shared_expert.gate_proj > ffn_gate_shexp
    mlp.shared_expert.up_proj > ffn_up_shexp
    mlp.shared_expert.down_proj > ffn_down_shexp
    mlp.shared_expert_gate > ffn_gate_inp_shexp",
                MODEL,
                NORMS,
                ATTENTION,
                MLP,
                EXPERTS,
            ],
        )
    },
    usual("qwen3_moe", "qwen3moe", WITH_EXPERTS),
    usual("olmoe", "olmoe", WITH_EXPERTS),
    Case {
        lost: r#"{"router_jitter_noise": 0.01}"#,
        ..usual("phimoe", "phimoe", &[MODEL, NORMS, ATTENTION, BLOCK_SPARSE])
    },
    Case {
        records: &[
            ("leading_dense_block_count", Of("first_k_dense_replace")),
            ("expert_shared_count", Of("n_shared_experts")),
            ("expert_weights_scale", FloatOf("routed_scaling_factor")),
            ("expert_weights_norm", B(true)),
        ],
        ..usual("dots1", "dots1", WITH_EXPERTS)
    },
    Case {
        records: &[
            ("leading_dense_block_count", Of("first_k_dense_replace")),
            ("expert_shared_count", Of("n_shared_experts")),
            ("expert_weights_scale", FloatOf("routed_scaling_factor")),
            ("expert_weights_norm", B(true)),
            ("expert_gating_func", U(2)),
        ],
        ..usual(
            "glm4_moe",
            "glm4moe",
            &[
                MODEL,
                "
    input_layernorm > attn_norm
    post_attention_layernorm > post_attention_norm",
                ATTENTION,
                MLP,
                EXPERTS,
            ],
        )
    },
    Case {
        records: &[
            ("leading_dense_block_count", Of("moe_layer_start_index")),
            ("interleave_moe_layer_step", U(1)),
            ("expert_shared_count", Of("moe_num_shared_experts")),
            ("expert_shared_feed_forward_length", U(56)),
        ],
        ..usual(
            "ernie4_5_moe",
            "ernie4_5-moe",
            &[
                "
    mlp.moe_statics.e_score_correction_bias! > exp_probs_b.bias!",
                MODEL,
                NORMS,
                ATTENTION,
                MLP,
                EXPERTS,
            ],
        )
    },
    Case {
        records: &[
            ("expert_feed_forward_length", Of("intermediate_size")),
            ("expert_shared_feed_forward_length", Of("intermediate_size")),
            ("expert_shared_count", U(1)),
        ],
        ..usual(
            "hunyuan_moe",
            "hunyuan-moe",
            &[
                "
    mlp.gate.wg > ffn_gate_inp
    mlp.shared_mlp.gate_proj > ffn_gate_shexp
    mlp.shared_mlp.up_proj > ffn_up_shexp
    mlp.shared_mlp.down_proj > ffn_down_shexp
    self_attn.query_layernorm > attn_q_norm
    self_attn.key_layernorm > attn_k_norm",
                MODEL,
                NORMS,
                ATTENTION,
                EXPERTS,
            ],
        )
    },
    Case {
        records: &[("expert_feed_forward_length", Of("intermediate_size"))],
        ..usual(
            "minimax_m2",
            "minimax-m2",
            &[MODEL, NORMS, ATTENTION, BLOCK_SPARSE],
        )
    },
    Case {
        layers: "backbone.layers.",
        records: &[
            ("context_length", U(1 << 20)),
            ("feed_forward_length", U(0)),
            ("attention.head_count", U(0)),
            ("attention.layer_norm_epsilon", No),
            (
                "attention.layer_norm_rms_epsilon",
                FloatOf("layer_norm_epsilon"),
            ),
            ("ssm.conv_kernel", Of("conv_kernel")),
            ("ssm.inner_size", U(128)),
            ("ssm.state_size", Of("state_size")),
            ("ssm.time_step_rank", U(4)),
            ("ssm.dt_b_c_rms", B(false)),
        ],
        ..usual(
            "mamba",
            "mamba",
            &[
                MAMBA,
                "
    mixer.A_log! > ssm_a! : -exp
    mixer.D! > ssm_d!
    mixer.x_proj > ssm_x
    mixer.dt_proj > ssm_dt",
            ],
        )
    },
    Case {
        layers: "backbone.layers.",
        records: &[
            ("context_length", U(1 << 20)),
            ("feed_forward_length", U(0)),
            ("attention.head_count", U(0)),
            ("attention.key_length", No),
            ("attention.value_length", No),
            ("attention.layer_norm_epsilon", No),
            (
                "attention.layer_norm_rms_epsilon",
                FloatOf("layer_norm_epsilon"),
            ),
            ("ssm.conv_kernel", Of("conv_kernel")),
            ("ssm.inner_size", U(128)),
            ("ssm.state_size", Of("state_size")),
            ("ssm.time_step_rank", Of("num_heads")),
            ("ssm.group_count", Of("n_groups")),
        ],
        ..usual(
            "mamba2",
            "mamba2",
            &[
                MAMBA,
                "
    mixer.A_log! > ssm_a! : -exp column
    mixer.D! > ssm_d! : column
    mixer.dt_bias! > ssm_dt.bias!
    mixer.norm > ssm_norm : rows 2",
            ],
        )
    },
    Case {
        // The converter multiplies the weights.
        lost: r#"{"attention_in_multiplier": 1, "attention_out_multiplier": 1, "embedding_multiplier": 1, "key_multiplier": 1,
            "lm_head_multiplier": 1, "mlp_multipliers": [1, 1], "ssm_in_multiplier": 1, "ssm_multipliers": [1, 1, 1, 1, 1],
            "ssm_out_multiplier": 1}"#,
        records: &[
            ("embedding_scale", No),
            ("ssm.conv_kernel", Of("mamba_d_conv")),
            ("ssm.inner_size", Of("mamba_d_ssm")),
            ("ssm.state_size", Of("mamba_d_state")),
            ("ssm.time_step_rank", Of("mamba_n_heads")),
            ("ssm.group_count", Of("mamba_n_groups")),
        ],
        ..usual(
            "falcon_h1",
            "falcon-h1",
            &[
                "
    model.final_layernorm > output_norm
    input_layernorm > attn_norm
    pre_ff_layernorm.weight! > ffn_norm!
    feed_forward.gate_proj > ffn_gate
    feed_forward.up_proj > ffn_up
    feed_forward.down_proj > ffn_down",
                MODEL,
                ATTENTION,
                STATE_SPACE,
            ],
        )
    },
    Case {
        records: &[
            ("context_length", U(1 << 20)),
            ("attention.head_count_kv", Numbers(&[0, 0, 2, 0])),
            (
                "expert_shared_feed_forward_length",
                Of("shared_intermediate_size"),
            ),
            ("ssm.conv_kernel", Of("mamba_d_conv")),
            ("ssm.inner_size", U(128)),
            ("ssm.state_size", Of("mamba_d_state")),
            ("ssm.time_step_rank", Of("mamba_n_heads")),
            ("ssm.group_count", Of("mamba_n_groups")),
            ("rope.scaling.finetuned", B(false)),
        ],
        ..usual(
            "granitemoehybrid",
            "granitehybrid",
            &[
                MODEL,
                NORMS,
                PAIRED,
                STATE_SPACE,
                "
    mamba.norm > ssm_norm : rows 1
    block_sparse_moe.router.layer > ffn_gate_inp
    block_sparse_moe.input_linear > ffn_gate_exps, ffn_up_exps : cut
    block_sparse_moe.output_linear > ffn_down_exps
    shared_mlp.input_linear > ffn_gate_shexp, ffn_up_shexp : cut
    shared_mlp.output_linear > ffn_down_shexp",
            ],
        )
    },
    Case {
        records: &[
            ("attention.head_count_kv", Numbers(&[0, 2, 0, 2])),
            ("shortconv.l_cache", Of("conv_L_cache")),
        ],
        ..usual("lfm2", "lfm2", &[LFM2, MODEL])
    },
    Case {
        records: &[
            ("attention.head_count_kv", Numbers(&[0, 2, 0, 2])),
            ("shortconv.l_cache", Of("conv_L_cache")),
            ("leading_dense_block_count", Of("num_dense_layers")),
            ("expert_gating_func", U(2)),
        ],
        ..usual("lfm2_moe", "lfm2moe", &[LFM2, MODEL])
    },
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

//! GGUF architectures with experts, latent attention or recurrent states: as `gguf_cases`.

use crate::gguf_cases::usual;
use crate::gguf_tables::*;
use crate::gguf_writer::{Case, Record, Record::*};

/// All of them.
pub const MORE: &[Case] = &[
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
        records: &[
            ("attention.head_count_kv", U(1)),
            ("attention.key_length", U(40)),
            ("attention.value_length", Of("kv_lora_rank")),
            ("attention.key_length_mla", U(24)),
            ("attention.value_length_mla", Of("v_head_dim")),
            ("attention.kv_lora_rank", Of("kv_lora_rank")),
            ("attention.q_lora_rank", Of("q_lora_rank")),
            ("expert_group_count", Of("n_group")),
            ("expert_group_used_count", Of("topk_group")),
            ("rope.dimension_count", Of("qk_rope_head_dim")),
            ("leading_dense_block_count", U(1)),
            ("expert_shared_count", Of("n_shared_experts")),
            ("expert_weights_scale", FloatOf("routed_scaling_factor")),
        ],
        ..usual(
            "deepseek_v2",
            "deepseek2",
            &[LATENT, MODEL, NORMS, ATTENTION, MLP, EXPERTS],
        )
    },
    Case {
        lost: r#"{"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 48,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.9, "mscale_all_dim": 0.9}}"#,
        records: &[
            ("attention.head_count_kv", U(1)),
            ("attention.key_length", U(40)),
            ("attention.value_length", Of("kv_lora_rank")),
            ("attention.key_length_mla", U(24)),
            ("attention.value_length_mla", Of("v_head_dim")),
            ("attention.kv_lora_rank", Of("kv_lora_rank")),
            ("rope.dimension_count", Of("qk_rope_head_dim")),
            ("leading_dense_block_count", U(1)),
            ("expert_shared_count", Of("n_shared_experts")),
            ("expert_weights_scale", FloatOf("routed_scaling_factor")),
            ("rope.scaling.yarn_log_multiplier", F(0.09)),
        ],
        ..usual(
            "deepseek_v2_lite",
            "deepseek2",
            &[LATENT, MODEL, NORMS, ATTENTION, MLP, EXPERTS],
        )
    },
    Case {
        lost: r#"{"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 48,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.9, "mscale_all_dim": 0.9}}"#,
        records: &[
            ("attention.head_count_kv", U(1)),
            ("attention.key_length", U(40)),
            ("attention.value_length", Of("kv_lora_rank")),
            ("attention.key_length_mla", U(24)),
            ("attention.value_length_mla", Of("v_head_dim")),
            ("attention.kv_lora_rank", Of("kv_lora_rank")),
            ("attention.q_lora_rank", Of("q_lora_rank")),
            ("expert_group_count", Of("n_group")),
            ("expert_group_used_count", Of("topk_group")),
            ("rope.dimension_count", Of("qk_rope_head_dim")),
            ("leading_dense_block_count", U(1)),
            ("expert_shared_count", Of("n_shared_experts")),
            ("expert_weights_scale", FloatOf("routed_scaling_factor")),
            ("expert_weights_norm", B(true)),
            ("expert_gating_func", U(2)),
            ("rope.scaling.yarn_log_multiplier", F(0.09)),
        ],
        ..usual(
            "deepseek_v3",
            "deepseek2",
            &[LATENT, MODEL, NORMS, ATTENTION, MLP, EXPERTS],
        )
    },
    Case {
        records: &[
            ("attention.head_count_kv", U(1)),
            ("attention.key_length", U(40)),
            ("attention.value_length", Of("kv_lora_rank")),
            ("attention.key_length_mla", U(24)),
            ("attention.value_length_mla", Of("v_head_dim")),
            ("attention.kv_lora_rank", Of("kv_lora_rank")),
            ("attention.q_lora_rank", Of("q_lora_rank")),
            ("expert_group_count", Of("n_group")),
            ("expert_group_used_count", Of("topk_group")),
            ("rope.dimension_count", Of("qk_rope_head_dim")),
            ("leading_dense_block_count", U(1)),
            ("expert_shared_count", Of("n_shared_experts")),
            ("expert_weights_scale", FloatOf("routed_scaling_factor")),
            ("expert_weights_norm", B(true)),
        ],
        ..usual(
            "glm4_moe_lite",
            "deepseek2",
            &[LATENT, MODEL, NORMS, ATTENTION, MLP, EXPERTS],
        )
    },
    Case {
        records: &[
            ("attention.head_count_kv", U(1)),
            ("attention.key_length", U(48)),
            ("attention.value_length", Of("kv_lora_rank")),
            ("attention.key_length_mla", U(32)),
            ("attention.value_length_mla", Of("v_head_dim")),
            ("attention.kv_lora_rank", Of("kv_lora_rank")),
            ("attention.q_lora_rank", Of("q_lora_rank")),
            ("expert_group_count", Of("n_group")),
            ("expert_group_used_count", Of("topk_group")),
            ("rope.dimension_count", Of("qk_rope_head_dim")),
            ("leading_dense_block_count", U(1)),
            ("expert_shared_count", Of("n_shared_experts")),
            ("expert_weights_scale", FloatOf("routed_scaling_factor")),
            ("expert_weights_norm", B(true)),
            ("rope.scaling.yarn_log_multiplier", F(0.1)),
            (
                "attention.temperature_scale",
                FloatOf("llama_4_scaling_beta"),
            ),
        ],
        ..usual(
            "mistral4",
            "mistral4",
            &[
                LATENT,
                MODEL,
                NORMS,
                ATTENTION,
                MLP,
                "
    mlp.experts.gate_up_proj! > ffn_gate_up_exps.weight!
    mlp.experts.down_proj! > ffn_down_exps.weight!",
                EXPERTS,
            ],
        )
    },
    Case {
        lost: r#"{"swiglu_limit": 7.0}"#,
        records: &[("expert_feed_forward_length", Of("intermediate_size"))],
        ..usual(
            "gpt_oss",
            "gpt-oss",
            &[
                MODEL,
                "
    input_layernorm > attn_norm
    post_attention_layernorm > post_attention_norm
    self_attn.sinks! > attn_sinks.weight!
    mlp.router > ffn_gate_inp
    mlp.experts.gate_up_proj! > ffn_gate_exps.weight!, ffn_up_exps.weight! : cut columns even
    mlp.experts.gate_up_proj_bias! > ffn_gate_exps.bias!, ffn_up_exps.bias! : cut even
    mlp.experts.down_proj! > ffn_down_exps.weight! : turn
    mlp.experts.down_proj_bias! > ffn_down_exps.bias!",
                ATTENTION,
            ],
        )
    },
    Case {
        lost: r#"{"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}"#,
        records: &[
            ("feed_forward_length", Of("intermediate_size_mlp")),
            ("expert_feed_forward_length", Of("intermediate_size")),
            ("interleave_moe_layer_step", Of("interleave_moe_layer_step")),
        ],
        ..usual(
            "llama4_text",
            "llama4",
            &[
                MODEL,
                NORMS,
                ATTENTION,
                "
    feed_forward.gate_proj > ffn_gate
    feed_forward.up_proj > ffn_up
    feed_forward.down_proj > ffn_down
    feed_forward.router > ffn_gate_inp
    feed_forward.experts.gate_up_proj! > ffn_gate_exps.weight!, ffn_up_exps.weight! : cut columns
    feed_forward.experts.down_proj! > ffn_down_exps.weight! : turn
    feed_forward.shared_expert.gate_proj > ffn_gate_shexp
    feed_forward.shared_expert.up_proj > ffn_up_shexp
    feed_forward.shared_expert.down_proj > ffn_down_shexp",
            ],
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
        records: &[
            ("ssm.conv_kernel", Of("linear_conv_kernel_dim")),
            ("ssm.inner_size", U(64)),
            ("ssm.state_size", Of("linear_key_head_dim")),
            ("ssm.time_step_rank", Of("linear_num_value_heads")),
            ("ssm.group_count", Of("linear_num_key_heads")),
            ("full_attention_interval", U(4)),
            (
                "expert_shared_feed_forward_length",
                Of("shared_expert_intermediate_size"),
            ),
        ],
        ..usual(
            "qwen3_next",
            "qwen3next",
            &[
                "
    linear_attn.in_proj_qkvz > attn_qkv, attn_gate : cut by key heads
    linear_attn.in_proj_ba > ssm_ba
    linear_attn.conv1d > ssm_conv1d : squeeze
    linear_attn.A_log! > ssm_a! : -exp
    linear_attn.dt_bias! > ssm_dt.bias!
    linear_attn.out_proj > ssm_out",
                DELTA,
                EXPERTS,
            ],
        )
    },
    Case {
        reordered: true,
        records: &[
            ("ssm.conv_kernel", Of("linear_conv_kernel_dim")),
            ("ssm.inner_size", U(64)),
            ("ssm.state_size", Of("linear_key_head_dim")),
            ("ssm.time_step_rank", Of("linear_num_value_heads")),
            ("ssm.group_count", Of("linear_num_key_heads")),
            (
                "attention.recurrent_layers",
                Flags(&[true, true, true, false]),
            ),
            ("rope.dimension_sections", Numbers(&[3, 3, 2, 0])),
        ],
        ..usual("qwen3_5", "qwen35", &[TILED, DELTA, MLP])
    },
    Case {
        reordered: true,
        records: &[
            ("ssm.conv_kernel", Of("linear_conv_kernel_dim")),
            ("ssm.inner_size", U(64)),
            ("ssm.state_size", Of("linear_key_head_dim")),
            ("ssm.time_step_rank", Of("linear_num_value_heads")),
            ("ssm.group_count", Of("linear_num_key_heads")),
            ("full_attention_interval", U(4)),
            ("rope.dimension_sections", Numbers(&[3, 3, 2, 0])),
            (
                "expert_shared_feed_forward_length",
                Of("shared_expert_intermediate_size"),
            ),
        ],
        ..usual("qwen3_5_moe", "qwen35moe", &[TILED, DELTA, EXPERTS])
    },
    Case {
        records: &[
            ("altup.active_idx", Of("altup_active_idx")),
            ("altup.num_inputs", Of("altup_num_inputs")),
            (
                "embedding_length_per_layer_input",
                Of("hidden_size_per_layer_input"),
            ),
            ("attention.shared_kv_layers", Of("num_kv_shared_layers")),
            (
                "final_logit_softcapping",
                FloatOf("final_logit_softcapping"),
            ),
            ("feed_forward_length", Numbers(&[64; 6])),
            (
                "attention.sliding_window_pattern",
                Flags(&[true, false, true, false, true, false]),
            ),
            // 0.8 and 0.9 of a normal distribution.
            (
                "activation_sparsity_scale",
                Floats(&[
                    0.841_621_2,
                    1.281_551_6,
                    f32::NEG_INFINITY,
                    f32::NEG_INFINITY,
                    f32::NEG_INFINITY,
                    f32::NEG_INFINITY,
                ]),
            ),
        ],
        ..usual(
            "gemma3n_text",
            "gemma3n",
            &[
                LATER_GEMMA,
                ATTENTION,
                MLP,
                "
    model.altup_projections.# > altup_proj : stack
    model.altup_unembed_projections.# > altup_unembd_proj : stack
    altup.correct_output_scale! > altup_correct_scale.weight!
    altup.correction_coefs > altup_correct_coef
    altup.modality_router > altup_router
    altup.prediction_coefs > altup_predict_coef
    altup.router_norm > altup_router_norm
    laurel.linear_left > laurel_l
    laurel.linear_right > laurel_r
    laurel.post_laurel_norm > laurel_post_norm",
            ],
        )
    },
    Case {
        records: &[
            ("attention.key_length", U(32)),
            ("attention.value_length", U(32)),
            ("attention.key_length_swa", U(16)),
            ("attention.value_length_swa", U(16)),
            ("rope.dimension_count", U(32)),
            ("rope.dimension_count_swa", U(16)),
            ("embedding_length_per_layer_input", U(0)),
            ("attention.shared_kv_layers", U(0)),
            ("attention.head_count_kv", Numbers(&[2, 1, 2, 2, 2, 1])),
            (
                "final_logit_softcapping",
                FloatOf("final_logit_softcapping"),
            ),
            ("expert_used_count", Of("top_k_experts")),
            (
                "attention.sliding_window_pattern",
                Flags(&[true, false, true, true, true, false]),
            ),
        ],
        extra: &[("rope_freqs.weight", FULL_DIVISORS)],
        ..usual(
            "gemma4_text_moe",
            "gemma4",
            &[
                LATER_GEMMA,
                ATTENTION,
                MLP,
                "
    layer_scalar! > layer_output_scale.weight!
    post_feedforward_layernorm_1 > post_ffw_norm_1
    pre_feedforward_layernorm_2 > pre_ffw_norm_2
    post_feedforward_layernorm_2 > post_ffw_norm_2
    router.proj > ffn_gate_inp
    router.scale! > ffn_gate_inp.scale!
    router.per_expert_scale! > ffn_down_exps.scale!
    experts.gate_up_proj! > ffn_gate_up_exps.weight!
    experts.down_proj! > ffn_down_exps.weight!",
            ],
        )
    },
    Case {
        records: &[
            ("attention.key_length", U(32)),
            ("attention.value_length", U(32)),
            ("attention.key_length_swa", U(16)),
            ("attention.value_length_swa", U(16)),
            ("rope.dimension_count", U(32)),
            ("rope.dimension_count_swa", U(16)),
            (
                "embedding_length_per_layer_input",
                Of("hidden_size_per_layer_input"),
            ),
            ("attention.shared_kv_layers", Of("num_kv_shared_layers")),
            ("feed_forward_length", Numbers(&[64, 64, 64, 128, 128, 128])),
            (
                "final_logit_softcapping",
                FloatOf("final_logit_softcapping"),
            ),
            (
                "attention.sliding_window_pattern",
                Flags(&[true, false, true, true, true, false]),
            ),
        ],
        extra: &[("rope_freqs.weight", FULL_DIVISORS)],
        ..usual(
            "gemma4_text_ple",
            "gemma4",
            &[
                LATER_GEMMA,
                ATTENTION,
                MLP,
                "
    layer_scalar! > layer_output_scale.weight!",
            ],
        )
    },
    Case {
        layers: "encoder.block.=enc.blk. decoder.block.=dec.blk.",
        records: T5_RECORDS,
        ..usual("t5_v1_0", "t5", &[T5, T5_PLAIN])
    },
    Case {
        layers: "encoder.block.=enc.blk. decoder.block.=dec.blk.",
        records: T5_RECORDS,
        ..usual("t5_v1_1", "t5", &[T5, T5_GATED])
    },
    Case {
        layers: "encoder.block.=enc.blk. decoder.block.=dec.blk.",
        records: T5_RECORDS,
        ..usual("mt5", "t5", &[T5, T5_GATED])
    },
    Case {
        layers: "encoder.block.=enc.blk. decoder.block.=dec.blk.",
        records: T5_RECORDS,
        ..usual("umt5", "t5", &[T5, T5_GATED])
    },
];

/// Four pairs of sixteen turn.
const FULL_DIVISORS: &[f32] = &[
    1.0, 1.0, 1.0, 1.0, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30,
];

const T5_RECORDS: &[(&str, Record)] = &[
    ("context_length", U(512)),
    ("embedding_length", Of("d_model")),
    ("feed_forward_length", Of("d_ff")),
    ("block_count", Of("num_layers")),
    ("decoder_block_count", Of("num_decoder_layers")),
    ("attention.head_count", Of("num_heads")),
    ("attention.key_length", Of("d_kv")),
    ("attention.value_length", Of("d_kv")),
    (
        "attention.relative_buckets_count",
        Of("relative_attention_num_buckets"),
    ),
    (
        "attention.layer_norm_rms_epsilon",
        FloatOf("layer_norm_epsilon"),
    ),
    ("decoder_start_token_id", U(0)),
];

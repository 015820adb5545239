//! Names of tensors in folders and in GGUF files, line by line; `gguf_writer` says what a line means.

pub const MODEL: &str = "
    model.embed_tokens > token_embd
    model.norm > output_norm
    lm_head > output";

pub const NORMS: &str = "
    input_layernorm > attn_norm
    post_attention_layernorm > ffn_norm";

pub const ATTENTION: &str = "
    self_attn.q_proj > attn_q
    self_attn.k_proj > attn_k
    self_attn.v_proj > attn_v
    self_attn.o_proj > attn_output
    self_attn.q_norm > attn_q_norm
    self_attn.k_norm > attn_k_norm";

pub const PAIRED: &str = "
    self_attn.q_proj > attn_q : pairs
    self_attn.k_proj > attn_k : pairs/k
    self_attn.v_proj > attn_v
    self_attn.o_proj > attn_output";

pub const MLP: &str = "
    mlp.gate_proj > ffn_gate
    mlp.up_proj > ffn_up
    mlp.down_proj > ffn_down";

pub const FUSED_MLP: &str = "
    mlp.gate_up_proj > ffn_up
    mlp.down_proj > ffn_down";

pub const POST: &str = "
    post_attention_layernorm > post_attention_norm
    post_feedforward_layernorm > post_ffw_norm";

pub const EXPERTS: &str = "
    mlp.gate > ffn_gate_inp
    mlp.experts.#.gate_proj > ffn_gate_exps : stack
    mlp.experts.#.up_proj > ffn_up_exps : stack
    mlp.experts.#.down_proj > ffn_down_exps : stack
    mlp.gate.e_score_correction_bias! > exp_probs_b.bias!
    mlp.shared_experts.gate_proj > ffn_gate_shexp
    mlp.shared_experts.up_proj > ffn_up_shexp
    mlp.shared_experts.down_proj > ffn_down_shexp";

pub const BLOCK_SPARSE: &str = "
    block_sparse_moe.gate > ffn_gate_inp
    block_sparse_moe.experts.#.w1 > ffn_gate_exps : stack
    block_sparse_moe.experts.#.w3 > ffn_up_exps : stack
    block_sparse_moe.experts.#.w2 > ffn_down_exps : stack
    block_sparse_moe.e_score_correction_bias! > exp_probs_b.bias!";

pub const PLUS_ONE: &str = "
    model.norm > output_norm : +1
    input_layernorm > attn_norm : +1
    post_attention_layernorm > ffn_norm : +1";

pub const GEMMA2: &str = "
    model.norm > output_norm : +1
    input_layernorm > attn_norm : +1
    post_attention_layernorm > post_attention_norm : +1
    pre_feedforward_layernorm > ffn_norm : +1
    post_feedforward_layernorm > post_ffw_norm : +1
    self_attn.q_norm > attn_q_norm : +1
    self_attn.k_norm > attn_k_norm : +1";

pub const GPT2: &str = "
    transformer.wte > token_embd
    transformer.wpe > position_embd
    transformer.ln_f > output_norm
    ln_1 > attn_norm
    ln_2 > ffn_norm";

pub const WORDS: &str = "
    transformer.word_embeddings > token_embd
    transformer.word_embeddings_layernorm > token_embd_norm
    transformer.ln_f > output_norm
    self_attention.query_key_value > attn_qkv : sort
    self_attention.dense > attn_output
    mlp.dense_h_to_4h > ffn_up
    mlp.dense_4h_to_h > ffn_down";

pub const BERT: &str = "
    embeddings.word_embeddings > token_embd
    embeddings.position_embeddings > position_embd
    embeddings.token_type_embeddings > token_types
    embeddings.LayerNorm > token_embd_norm
    pooler.dense > -
    attention.self.query > attn_q
    attention.self.key > attn_k
    attention.self.value > attn_v
    attention.output.dense > attn_output
    attention.output.LayerNorm > attn_output_norm
    intermediate.dense > ffn_up
    output.dense > ffn_down
    output.LayerNorm > layer_output_norm";

pub const GPT_NEOX: &str = "
    gpt_neox.embed_in > token_embd
    gpt_neox.final_layer_norm > output_norm
    embed_out > output
    attention.query_key_value > attn_qkv : sort
    attention.dense > attn_output
    mlp.dense_h_to_4h > ffn_up
    mlp.dense_4h_to_h > ffn_down";

pub const MAMBA: &str = "
    backbone.embeddings > token_embd
    backbone.norm_f > output_norm
    lm_head > output
    norm > attn_norm
    mixer.in_proj > ssm_in
    mixer.out_proj > ssm_out
    mixer.conv1d > ssm_conv1d : squeeze";

pub const STATE_SPACE: &str = "
    mamba.in_proj > ssm_in
    mamba.out_proj > ssm_out
    mamba.conv1d > ssm_conv1d : squeeze
    mamba.A_log! > ssm_a! : -exp column
    mamba.D! > ssm_d! : column
    mamba.dt_bias! > ssm_dt.bias!";

pub const LFM2: &str = "
    model.embedding_norm > token_embd_norm
    operator_norm > attn_norm
    ffn_norm > ffn_norm
    conv.conv > shortconv.conv : squeeze
    conv.in_proj > shortconv.in_proj
    conv.out_proj > shortconv.out_proj
    self_attn.q_proj > attn_q
    self_attn.k_proj > attn_k
    self_attn.v_proj > attn_v
    self_attn.out_proj > attn_output
    self_attn.q_layernorm > attn_q_norm
    self_attn.k_layernorm > attn_k_norm
    feed_forward.w1 > ffn_gate
    feed_forward.w3 > ffn_up
    feed_forward.w2 > ffn_down
    feed_forward.gate > ffn_gate_inp
    feed_forward.expert_bias! > exp_probs_b.bias!
    feed_forward.experts.#.w1 > ffn_gate_exps : stack
    feed_forward.experts.#.w3 > ffn_up_exps : stack
    feed_forward.experts.#.w2 > ffn_down_exps : stack";

pub const PAIRED_LLAMA: &[&str] = &[MODEL, NORMS, PAIRED, MLP];

pub const PLAIN: &[&str] = &[MODEL, NORMS, ATTENTION, MLP];

pub const WITH_EXPERTS: &[&str] = &[MODEL, NORMS, ATTENTION, MLP, EXPERTS];

pub const LATENT: &str = "
    self_attn.q_a_proj > attn_q_a
    self_attn.q_a_layernorm > attn_q_a_norm
    self_attn.q_b_proj > attn_q_b
    self_attn.kv_a_proj_with_mqa > attn_kv_a_mqa
    self_attn.kv_a_layernorm > attn_kv_a_norm
    self_attn.kv_b_proj > attn_k_b, attn_v_b : latent";

pub const DELTA: &str = "
    model.embed_tokens > token_embd
    lm_head > output
    model.norm > output_norm : +1
    input_layernorm > attn_norm : +1
    post_attention_layernorm > post_attention_norm : +1
    self_attn.q_norm > attn_q_norm : +1
    self_attn.k_norm > attn_k_norm : +1
    self_attn.q_proj > attn_q
    self_attn.k_proj > attn_k
    self_attn.v_proj > attn_v
    self_attn.o_proj > attn_output
    linear_attn.norm > ssm_norm
    mlp.shared_expert.gate_proj > ffn_gate_shexp
    mlp.shared_expert.up_proj > ffn_up_shexp
    mlp.shared_expert.down_proj > ffn_down_shexp
    mlp.shared_expert_gate > ffn_gate_inp_shexp";
pub const TILED: &str = "
    linear_attn.in_proj_qkv > attn_qkv : tile behind q and k
    linear_attn.in_proj_z > attn_gate : tile
    linear_attn.in_proj_a > ssm_alpha : tile heads
    linear_attn.in_proj_b > ssm_beta : tile heads
    linear_attn.conv1d > ssm_conv1d : tile behind q and k squeeze
    linear_attn.A_log! > ssm_a! : tile heads -exp
    linear_attn.dt_bias! > ssm_dt.bias! : tile heads
    linear_attn.out_proj > ssm_out : tile columns";

pub const LATER_GEMMA: &str = "
    model.embed_tokens > token_embd
    model.embed_tokens_per_layer > per_layer_token_embd
    model.per_layer_model_projection > per_layer_model_proj
    model.per_layer_projection_norm > per_layer_proj_norm
    model.norm > output_norm
    input_layernorm > attn_norm
    post_attention_layernorm > post_attention_norm
    pre_feedforward_layernorm > ffn_norm
    post_feedforward_layernorm > post_ffw_norm
    per_layer_input_gate > inp_gate
    per_layer_projection > proj
    post_per_layer_input_norm > post_norm";

pub const T5: &str = "
    shared > token_embd
    encoder.final_layer_norm > enc.output_norm
    decoder.final_layer_norm > dec.output_norm
    lm_head > output
    layer.0.layer_norm > attn_norm
    layer.0.SelfAttention.q > attn_q
    layer.0.SelfAttention.k > attn_k
    layer.0.SelfAttention.v > attn_v
    layer.0.SelfAttention.o > attn_o
    layer.0.SelfAttention.relative_attention_bias > attn_rel_b
    encoder.block.layer.1.layer_norm > ffn_norm
    decoder.block.layer.1.layer_norm > cross_attn_norm
    layer.1.EncDecAttention.q > cross_attn_q
    layer.1.EncDecAttention.k > cross_attn_k
    layer.1.EncDecAttention.v > cross_attn_v
    layer.1.EncDecAttention.o > cross_attn_o
    layer.2.layer_norm > ffn_norm
    layer.1.DenseReluDense.wo > ffn_down
    layer.2.DenseReluDense.wo > ffn_down";
pub const T5_PLAIN: &str = "
    layer.1.DenseReluDense.wi > ffn_up
    layer.2.DenseReluDense.wi > ffn_up";
pub const T5_GATED: &str = "
    layer.1.DenseReluDense.wi_0 > ffn_gate
    layer.2.DenseReluDense.wi_0 > ffn_gate
    layer.1.DenseReluDense.wi_1 > ffn_up
    layer.2.DenseReluDense.wi_1 > ffn_up";

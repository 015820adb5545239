//! Names that many architectures share. Those of llama.cpp are the same for all of them; what differs is the folder's side.

use super::rules::{How, Rule, exact, rule, same};

/// Outside the layers.
pub(super) const MODEL: &[Rule] = &[
    same("token_embd", "model.embed_tokens"),
    same("output_norm", "model.norm"),
    same("output", "lm_head"),
];

/// Norms before the branches.
pub(super) const NORMS: &[Rule] = &[
    same("attn_norm", "input_layernorm"),
    same("ffn_norm", "post_attention_layernorm"),
];

/// Attention whose rows kept their order.
pub(super) const ATTENTION: &[Rule] = &[
    same("attn_q", "self_attn.q_proj"),
    same("attn_k", "self_attn.k_proj"),
    same("attn_v", "self_attn.v_proj"),
    same("attn_output", "self_attn.o_proj"),
];

/// Attention whose rotated rows became interleaved pairs.
pub(super) const PAIRED_ATTENTION: &[Rule] = &[
    rule("attn_q", "self_attn.q_proj", How::PairedQ),
    rule("attn_k", "self_attn.k_proj", How::PairedK),
    same("attn_v", "self_attn.v_proj"),
    same("attn_output", "self_attn.o_proj"),
];

/// Norms of q and k.
pub(super) const QK_NORMS: &[Rule] = &[
    same("attn_q_norm", "self_attn.q_norm"),
    same("attn_k_norm", "self_attn.k_norm"),
];

/// A network with or without a gate.
pub(super) const MLP: &[Rule] = &[
    same("ffn_gate", "mlp.gate_proj"),
    same("ffn_up", "mlp.up_proj"),
    same("ffn_down", "mlp.down_proj"),
];

/// A network whose gate stands in one matrix with the rest.
pub(super) const FUSED_MLP: &[Rule] = &[
    same("ffn_up", "mlp.gate_up_proj"),
    same("ffn_down", "mlp.down_proj"),
];

/// Experts, and the values that are added for the choice.
pub(super) const EXPERTS: &[Rule] = &[
    same("ffn_gate_inp", "mlp.gate"),
    exact(
        "exp_probs_b.bias",
        "mlp.gate.e_score_correction_bias",
        How::Same,
    ),
    same("ffn_gate_exps", "mlp.experts.{e}.gate_proj"),
    same("ffn_up_exps", "mlp.experts.{e}.up_proj"),
    same("ffn_down_exps", "mlp.experts.{e}.down_proj"),
];

/// Experts under the names that the first family with them gave.
pub(super) const BLOCK_SPARSE: &[Rule] = &[
    same("ffn_gate_inp", "block_sparse_moe.gate"),
    exact(
        "exp_probs_b.bias",
        "block_sparse_moe.e_score_correction_bias",
        How::Same,
    ),
    same("ffn_gate_exps", "block_sparse_moe.experts.{e}.w1"),
    same("ffn_up_exps", "block_sparse_moe.experts.{e}.w3"),
    same("ffn_down_exps", "block_sparse_moe.experts.{e}.w2"),
];

/// Experts that always run.
pub(super) const SHARED: &[Rule] = &[
    same("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    same("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    same("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

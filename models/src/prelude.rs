//! What nearly every family file needs.

pub(crate) use crate::builder::{
    Builder, DecoderNames, FULL, Frame, LLAMA, SLIDING, SizeDefaults, Sizes, activation, eps,
    layer_types, only,
};
pub(crate) use crate::error::Result;
pub(crate) use crate::family::Family;
pub(crate) use crate::latent_builder::LATENT;
pub(crate) use crate::layer_builder::{
    AttentionNames, DenseNames, ExpertMatrices, ExpertNames, LLAMA_ATTENTION, LLAMA_MLP,
    LayerBuilder, MLP_EXPERTS, Qkv, SHARED_EXPERTS,
};
pub(crate) use crate::plan::Plan;
pub(crate) use crate::recurrent_builder::{check_heads, mixer_width, step_limit};
pub(crate) use crate::rope_config::RopeOptions;
pub(crate) use crate::source::{Config, Origin, Tensors};
pub(crate) use crate::spec::{
    Activation, Alibi, Attention, Convolution, Cross, Dense, Embed, Experts, Gate, Groups, Latent,
    LowRank, Mask, Norm, NormSpan, PositionScale, Positions, QkNorm, RelativeBias, Router,
    RouterScores, SelectiveScan, ShortConv, StateSpace, bound,
};

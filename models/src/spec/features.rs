//! What a Spec makes use of, in the words of the field: for people who look at a file and for the list of families.

use super::{Attention, Block, Experts, Mask, NormKind, NormSpan, Op, RouterScores, Spec};
use crate::rope::Rope;
use std::collections::BTreeSet;

/// Words in the order in which they are shown, each once.
#[derive(Default)]
struct Words {
    found: BTreeSet<&'static str>,
    order: Vec<&'static str>,
}

impl Words {
    fn add(&mut self, there: bool, word: &'static str) {
        if there && self.found.insert(word) {
            self.order.push(word);
        }
    }
}

impl Spec {
    /// The names of everything that the forward pass of this model needs, from its attention outwards.
    pub fn features(&self) -> Vec<&'static str> {
        let mut words = Words::default();
        let stacks = || self.encoder.iter().chain([&self.decoder]);
        let blocks = || stacks().flat_map(|s| &s.layers).flat_map(|l| &l.blocks);
        words.add(self.encoder.is_some(), "encoder-decoder");
        for branch in blocks().flat_map(|b| &b.branches) {
            match &branch.op {
                Op::Attention(a) => self.attention_words(a, &mut words),
                Op::Latent(a) => {
                    words.add(true, "latent attention");
                    words.add(true, "RoPE");
                    words.add(a.position_scale.is_some(), "position-scaled queries");
                }
                Op::Cross(_) => words.add(true, "cross attention"),
                Op::ShortConv(_) => words.add(true, "short convolution"),
                Op::SelectiveScan(_) => words.add(true, "selective scan"),
                Op::StateSpace(_) => words.add(true, "state space"),
                Op::DeltaRule(_) => words.add(true, "gated delta rule"),
                Op::Dense(_) | Op::Experts(_) | Op::PerLayer(_) | Op::Pass => {}
            }
        }
        for rope in &self.ropes {
            words.add(matches!(rope, Rope::DynamicNtk { .. }), "dynamic NTK");
            words.add(matches!(rope, Rope::LongRope { .. }), "LongRoPE");
        }
        for block in blocks() {
            block_words(block, &mut words);
        }
        self.frame_words(&mut words);
        words.order
    }

    fn attention_words(&self, a: &Attention, words: &mut Words) {
        words.add(a.n_kv_heads == a.n_heads, "MHA");
        words.add(a.n_kv_heads == 1 && a.n_heads > 1, "MQA");
        words.add(a.n_kv_heads > 1 && a.n_kv_heads < a.n_heads, "GQA");
        let rotated = a.rope.map(|r| self.ropes[r as usize].dim());
        let head = a.head_dim as usize;
        words.add(rotated.is_some_and(|d| d == head), "RoPE");
        words.add(rotated.is_some_and(|d| d < head), "partial RoPE");
        words.add(
            rotated.is_none()
                && a.alibi.is_none()
                && a.relative.is_none()
                && self.embed.positions.is_none(),
            "NoPE",
        );
        words.add(a.alibi.is_some(), "ALiBi");
        words.add(a.relative.is_some(), "relative position bias");
        words.add(matches!(a.mask, Mask::Sliding(_)), "sliding window");
        words.add(matches!(a.mask, Mask::Chunked(_)), "chunked attention");
        words.add(matches!(a.mask, Mask::Bidirectional), "bidirectional");
        words.add(matches!(a.mask, Mask::Symmetric(_)), "bidirectional window");
        words.add(a.sinks, "sinks");
        words.add(a.output_gate, "gated attention");
        words.add(a.v_norm.is_some(), "V-norm");
        words.add(a.shared.is_some(), "shared keys and values");
        words.add(a.softcap.is_some(), "score soft cap");
        words.add(a.clip.is_some(), "clipped q, k, v");
        words.add(a.position_scale.is_some(), "position-scaled queries");
        words.add(a.q_bias || a.kv_bias || a.o_bias, "attention bias");
        if let Some(qk) = &a.qk_norm {
            words.add(!qk.after_rope && qk.span != NormSpan::Whole, "QK-norm");
            words.add(qk.span == NormSpan::Whole, "QK-norm over all heads");
            words.add(qk.after_rope, "QK-norm after RoPE");
        }
    }

    fn frame_words(&self, words: &mut Words) {
        let norms = self.decoder.final_norm.iter();
        let stacks = self.encoder.iter().chain([&self.decoder]);
        let inner = stacks.flat_map(|s| &s.layers).flat_map(|l| &l.blocks);
        let inner = inner.flat_map(|b| [&b.pre, &b.post, &b.out].into_iter().flatten());
        for norm in inner.chain(norms) {
            words.add(norm.kind == NormKind::Rms, "RMSNorm");
            words.add(norm.kind == NormKind::Layer, "LayerNorm");
        }
        words.add(self.decoder.streams.is_some(), "several streams");
        words.add(self.embed.positions.is_some(), "learned positions");
        words.add(self.embed.norm.is_some(), "embedding norm");
        words.add(self.embed.scale != 1.0, "scaled embedding");
        words.add(self.embed.width.is_some(), "projected embedding");
        if let Some(head) = &self.head {
            words.add(head.tied, "tied head");
            words.add(head.softcap.is_some(), "logit soft cap");
            words.add(head.scale != 1.0, "scaled logits");
        }
        if let Some(embedding) = &self.embedding {
            words.add(embedding.pooling.is_some(), "pooling");
            words.add(!embedding.projections.is_empty(), "projections");
            words.add(embedding.pooler, "pooler");
        }
    }
}

fn block_words(block: &Block, words: &mut Words) {
    let mixes = |op: &Op| {
        !matches!(
            op,
            Op::Dense(_) | Op::Experts(_) | Op::PerLayer(_) | Op::Pass
        )
    };
    let (mixers, others): (Vec<_>, Vec<_>) = block.branches.iter().partition(|b| mixes(&b.op));
    words.add(
        !mixers.is_empty() && !others.is_empty(),
        "parallel residual",
    );
    words.add(block.post.is_some(), "post-norm");
    words.add(block.out.is_some(), "norm of the stream");
    words.add(block.scale != 1.0, "residual multiplier");
    for branch in &block.branches {
        match &branch.op {
            Op::Dense(d) => {
                words.add(d.cutoff.is_some(), "sparse activations");
                words.add(d.gated, "gated MLP");
                words.add(!d.gated, "plain MLP");
                words.add(d.output_gate, "gated shared expert");
            }
            Op::Experts(e) => expert_words(e, others.len() > 1, words),
            Op::PerLayer(_) => words.add(true, "per-layer embeddings"),
            Op::Pass => {}
            _ => words.add(mixers.len() > 1, "parallel mixers"),
        }
    }
}

fn expert_words(e: &Experts, beside: bool, words: &mut Words) {
    words.add(true, "experts");
    words.add(beside, "shared expert");
    let router = &e.router;
    words.add(router.scores == RouterScores::Sigmoid, "sigmoid router");
    words.add(
        matches!(router.scores, RouterScores::SparseMixer { .. }),
        "sparse mixer",
    );
    words.add(router.correction, "router correction");
    words.add(router.groups.is_some(), "expert groups");
    words.add(e.limit.is_some(), "clamped GLU");
    words.add(router.scales_input, "scaled expert inputs");
}

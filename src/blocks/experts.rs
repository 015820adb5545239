//! Mixtures of experts: the router, then the chosen networks over all tokens that chose them, then the weighted sums.
//!
//! A token's row of inputs is copied once for every expert that it chose, ordered by expert, so that each product reads the weights of an expert once
//! for all its tokens. A row's results depend on that row alone, and a token adds them up in the order of its choice, so neither its
//! neighbours nor the threads can be seen in the sum. Routing is computed in f32 from f32 weights whatever the format of the experts.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use crate::ops::wants_quantized;
use crate::ops::{ActBuffer, BoundNorm, Context, Group, Product, activation, grow, matmul_groups};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, Kernels, PANEL_ROWS};
use quern_models::spec::{self, RouterScores};
use std::sync::Mutex;

/// A mixture of experts bound to its weights.
pub struct Experts {
    /// What the Spec says of it.
    pub spec: spec::Experts,
    /// `count x hidden`.
    pub router: Vector,
    /// Added to the logits.
    pub router_bias: Option<Vector>,
    /// Added to the scores for the choice.
    pub correction: Option<Vector>,
    /// The router reads the block's input behind it, where there is one.
    pub router_norm: Option<BoundNorm>,
    /// Multipliers of the weights of single experts.
    pub expert_scales: Option<Vector>,
    /// `count` times `inner x hidden`.
    pub gate: Matrix,
    /// `count` times `inner x hidden`.
    pub up: Matrix,
    /// `count` times `hidden x inner`.
    pub down: Matrix,
    /// Biases of gate, up and down, if there are any, one expert after another.
    pub gate_bias: Option<Vector>,
    /// See `gate_bias`.
    pub up_bias: Option<Vector>,
    /// See `gate_bias`.
    pub down_bias: Option<Vector>,
}

/// Buffers of all tokens, reused by every layer.
#[derive(Default)]
pub struct Buffers {
    /// Chosen experts and weights, `[token][used]`.
    chosen: Vec<(u32, f32)>,
    /// The row of each of them, `[token][used]`.
    rows: Vec<u32>,
    /// The choice (token * used + place) behind each row.
    owners: Vec<u32>,
    groups: Vec<Group>,
    /// The next free row of each expert.
    next: Vec<usize>,
    input: ActBuffer,
    gate: Vec<f32>,
    up: Vec<f32>,
    inner: ActBuffer,
    down: Vec<f32>,
    work: Vec<Mutex<Work>>,
}

/// What one thread needs to route a token.
#[derive(Default)]
struct Work {
    logits: Vec<f32>,
    scores: Vec<f32>,
    choice: Vec<f32>,
    groups: Vec<f32>,
    /// Which groups were chosen.
    kept: Vec<bool>,
    normed: Vec<f32>,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let words = 2 * self.chosen.len() + self.rows.len() + self.owners.len();
        let floats = self.gate.len() + self.up.len() + self.down.len();
        (words + floats) * 4 + self.input.bytes() + self.inner.bytes()
    }
}

/// The best expert that is left, the lowest of equals, which is then taken out.
fn take_best(kernels: &Kernels, scores: &mut [f32]) -> usize {
    let best = kernels.argmax(scores);
    scores[best] = f32::NEG_INFINITY;
    best
}

impl Experts {
    /// Chooses experts for one token.
    fn route(&self, kernels: &Kernels, x: &[f32], work: &mut Work, chosen: &mut [(u32, f32)]) {
        let router = &self.spec.router;
        let n = self.spec.count as usize;
        let Work {
            logits,
            scores,
            choice,
            groups,
            kept,
            normed,
        } = work;
        let x = match &self.router_norm {
            None => x,
            Some(norm) => {
                grow(normed, x.len());
                norm.apply(kernels, x, &mut normed[..x.len()]);
                &normed[..x.len()]
            }
        };
        for buffer in [&mut *logits, scores, choice, groups] {
            grow(buffer, n);
        }
        let (logits, scores, choice) = (&mut logits[..n], &mut scores[..n], &mut choice[..n]);
        for (logit, row) in logits.iter_mut().zip(self.router.chunks_exact(x.len())) {
            *logit = kernels.dot(x, row);
        }
        if router.logit_scale != 1.0 {
            kernels.scale(logits, router.logit_scale);
        }
        if let Some(bias) = &self.router_bias {
            kernels.add(logits, bias);
        }
        if let RouterScores::SparseMixer { jitter } = router.scores {
            return mix(kernels, logits, jitter, choice, chosen);
        }
        scores.copy_from_slice(logits);
        match router.scores {
            RouterScores::Softmax => kernels.softmax(scores),
            RouterScores::Sigmoid => kernels.activation(Activation::Sigmoid, scores),
            RouterScores::SoftmaxOfChosen
            | RouterScores::SigmoidOfChosen
            | RouterScores::SparseMixer { .. } => {}
        }
        choice.copy_from_slice(scores);
        if let Some(correction) = &self.correction {
            kernels.add(choice, correction);
        }
        if let Some(g) = &router.groups {
            let size = n / g.count as usize;
            let groups = &mut groups[..g.count as usize];
            for (sum, members) in groups.iter_mut().zip(choice.chunks_exact(size)) {
                let best = kernels.argmax(members);
                *sum = members[best];
                if g.best == 2 {
                    let (before, after) = (&members[..best], &members[best + 1..]);
                    *sum += kernels.max(before).max(kernels.max(after));
                }
            }
            kept.clear();
            kept.resize(groups.len(), false);
            for _ in 0..g.used {
                kept[take_best(kernels, groups)] = true;
            }
            for (members, keep) in choice.chunks_exact_mut(size).zip(&*kept) {
                if !keep {
                    members.fill(f32::NEG_INFINITY);
                }
            }
        }
        for slot in chosen.iter_mut() {
            let best = take_best(kernels, choice);
            *slot = (best as u32, scores[best]);
        }
        // The choice's buffer now holds the weights.
        let weights = &mut choice[..chosen.len()];
        for (w, (_, score)) in weights.iter_mut().zip(&*chosen) {
            *w = *score;
        }
        match router.scores {
            RouterScores::SoftmaxOfChosen => kernels.softmax(weights),
            RouterScores::SigmoidOfChosen => kernels.activation(Activation::Sigmoid, weights),
            _ => {}
        }
        if router.normalize {
            let sum = weights.iter().sum::<f32>() + router.floor;
            // Where all scores vanish the weights do, too.
            let sum = sum.max(1e-20);
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        for ((expert, slot), w) in chosen.iter_mut().zip(weights) {
            *slot = *w * router.scale;
            if let Some(scales) = &self.expert_scales {
                *slot *= scales[*expert as usize];
            }
        }
    }

    /// `out[token] = sum over the chosen experts of weight * expert(h)`; `block` is what the block's branches read before norms of their own.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        block: &ActBuffer,
        n: usize,
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let (kernels, used) = (ctx.kernels, self.spec.used as usize);
        let (hidden, inner) = (self.down.rows(), self.spec.inner as usize);
        let router = &self.spec.router;
        let total = n * used;
        grow(&mut b.chosen, total);
        let threads = ctx.crew.threads();
        if b.work.len() < threads {
            b.work.resize_with(threads, Mutex::default);
        }
        let read = if self.router_norm.is_some() { block } else { h };
        let (work, chosen) = (&b.work, Disjoint::new(&mut b.chosen));
        ctx.crew.for_each(n, |token, me| {
            let work = &mut *work[me].lock().unwrap_or_else(|e| e.into_inner());
            // SAFETY: one job per token.
            let chosen = unsafe { chosen.part(token * used..(token + 1) * used) };
            self.route(kernels, read.row(token), work, chosen);
        });
        let chosen = &b.chosen[..total];
        sort_by_expert(
            chosen,
            self.spec.count as usize,
            &mut b.rows,
            &mut b.owners,
            &mut b.groups,
            &mut b.next,
        );

        let owners = &b.owners;
        let quantized = wants_quantized(&self.gate) || wants_quantized(&self.up);
        b.input.shape(total, hidden, quantized);
        b.input.fill(ctx, total, false, |row, cols, x| {
            let owner = owners[row] as usize;
            x.copy_from_slice(&h.row(owner / used)[cols]);
            if router.scales_input {
                kernels.scale(x, chosen[owner].1);
            }
        });
        let products = [
            Product::new(&self.gate, &mut b.gate, total),
            Product::new(&self.up, &mut b.up, total),
        ];
        let stride = products[0].stride;
        matmul_groups(ctx, &b.input, &b.groups, &products);

        let act = activation(self.spec.activation);
        if let (Some(gate_bias), Some(up_bias)) = (&self.gate_bias, &self.up_bias) {
            for (values, bias) in [(&mut b.gate, gate_bias), (&mut b.up, up_bias)] {
                ctx.crew
                    .for_chunks(&mut values[..total * stride], stride, |row, x| {
                        let expert = chosen[owners[row] as usize].0 as usize;
                        kernels.add(&mut x[..inner], &bias[expert * inner..][..inner]);
                    });
            }
        }
        let (gate, up) = (&b.gate, &b.up);
        b.inner.shape_for(total, &self.down);
        b.inner.fill(ctx, total, false, |row, cols, x| {
            let part = row * stride + cols.start..row * stride + cols.end;
            let (gate, up) = (&gate[part.clone()], &up[part]);
            match self.spec.limit {
                None => kernels.glu(act, gate, up, x),
                Some(limit) => kernels.glu_clamped(act, limit, gate, up, x),
            }
        });
        let products = [Product::new(&self.down, &mut b.down, total)];
        let stride = products[0].stride;
        matmul_groups(ctx, &b.inner, &b.groups, &products);

        debug_assert_eq!(stride, hidden.next_multiple_of(PANEL_ROWS));
        grow(out, n * stride);
        let (down, rows) = (&b.down, &b.rows);
        ctx.crew
            .for_chunks(&mut out[..n * stride], stride, |token, sum| {
                let sum = &mut sum[..hidden];
                sum.fill(0.0);
                for place in token * used..(token + 1) * used {
                    let (expert, weight) = chosen[place];
                    let weight = if router.scales_input { 1.0 } else { weight };
                    let y = &down[rows[place] as usize * stride..][..hidden];
                    kernels.add_scaled(sum, y, weight);
                    if let Some(bias) = &self.down_bias {
                        let bias = &bias[expert as usize * hidden..][..hidden];
                        kernels.add_scaled(sum, bias, weight);
                    }
                }
            });
    }
}

/// The sparse mixer: experts one after another, each weighted among those near the best of what is left.
fn mix(
    kernels: &Kernels,
    logits: &[f32],
    jitter: f32,
    left: &mut [f32],
    chosen: &mut [(u32, f32)],
) {
    for i in 0..chosen.len() {
        let (before, slot) = chosen.split_at_mut(i);
        left.copy_from_slice(logits);
        // What was taken out stays out of all later softmaxes.
        for (e, _) in &*before {
            left[*e as usize] = f32::NEG_INFINITY;
        }
        let best = kernels.argmax(left);
        let most = left[best];
        for (e, l) in left.iter_mut().enumerate() {
            if (most - *l) / logits[e].abs().max(most) > 2.0 * jitter {
                *l = f32::NEG_INFINITY;
            }
        }
        kernels.softmax(left);
        slot[0] = (best as u32, left[best]);
    }
}

/// Orders the choices by expert, those of one expert by token: `rows[choice]` is its row, `owners[row]` its choice.
fn sort_by_expert(
    chosen: &[(u32, f32)],
    count: usize,
    rows: &mut Vec<u32>,
    owners: &mut Vec<u32>,
    groups: &mut Vec<Group>,
    next: &mut Vec<usize>,
) {
    grow(rows, chosen.len());
    grow(owners, chosen.len());
    groups.clear();
    next.clear();
    next.resize(count + 1, 0);
    chosen.iter().for_each(|(e, _)| next[*e as usize + 1] += 1);
    for e in 0..count {
        next[e + 1] += next[e];
        if next[e] < next[e + 1] {
            groups.push(Group {
                matrix: e,
                rows: next[e]..next[e + 1],
            });
        }
    }
    for (place, (e, _)) in chosen.iter().enumerate() {
        let row = &mut next[*e as usize];
        rows[place] = *row as u32;
        owners[*row] = place as u32;
        *row += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_ordered_by_expert_and_token() {
        let chosen = [(2, 0.5), (0, 0.5), (2, 0.1), (3, 0.9)];
        let (mut rows, mut owners, mut groups, mut next) = Default::default();
        sort_by_expert(&chosen, 5, &mut rows, &mut owners, &mut groups, &mut next);
        assert_eq!(rows, [1, 0, 2, 3]);
        assert_eq!(owners, [1, 0, 2, 3]);
        let found: Vec<_> = groups.iter().map(|g| (g.matrix, g.rows.clone())).collect();
        assert_eq!(found, [(0, 0..1), (2, 1..3), (3, 3..4)]);
    }

    #[test]
    fn ties_go_to_the_lower_index_on_every_instruction_set() {
        for kernels in quern_kernels::supported() {
            let mut scores = [0.25, 0.5, 0.5, 0.25, 0.5];
            let order: Vec<usize> = (0..5).map(|_| take_best(kernels, &mut scores)).collect();
            assert_eq!(order, [1, 2, 4, 0, 3]);
        }
    }

    #[test]
    fn the_sparse_mixer_weights_each_choice_among_its_near_rivals() {
        let kernels = quern_kernels::best();
        let (logits, mut left) = ([1.0f32, 2.0, 1.9, -3.0], [0.0; 4]);
        let mut chosen = [(0, 0.0); 2];
        mix(kernels, &logits, 0.05, &mut left, &mut chosen);
        // 2 and 1.9 are within a tenth; then 1.9 stands alone.
        let first = 1.0 / (1.0 + (-0.1f64).exp());
        assert_eq!((chosen[0].0, chosen[1]), (1, (2, 1.0)));
        assert!((f64::from(chosen[0].1) - first).abs() < 1e-6);
    }
}

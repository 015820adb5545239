//! The selective scan (Gu and Dao 2023): a small state per channel, every element of which decays at a rate of its own.
//!
//! Tokens pass one after another; the channels of one unit of the state are one job. A channel's sums run over the elements of its state in
//! their order, so neither chunks nor threads nor neighbours can be seen.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::Span;
use super::conv::Convolution;
use crate::cache::StateShape;
use crate::ops::{ActBuffer, Context, Product, add_bias, grow, matmul, wants_quantized};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, PANEL_ROWS};
use quern_models::spec;

/// Channels of one job, a multiple of the lanes: states of the usual 16 elements take 4 KiB.
const UNIT: usize = 64;

/// A selective scan bound to its weights.
pub struct SelectiveScan {
    /// What the Spec says of it.
    pub spec: spec::SelectiveScan,
    /// `2 inner x hidden`: the channels, their gates.
    pub input: Matrix,
    /// Bias of `input`, if there is one.
    pub input_bias: Option<Vector>,
    /// The convolution of the channels.
    pub conv: Convolution,
    /// `step_rank + 2 state x inner`: the step in short, B and C.
    pub scan_in: Matrix,
    /// `inner x step_rank`.
    pub step: Matrix,
    /// One per channel.
    pub step_bias: Vector,
    /// Rates of decay, `inner x state` in groups of 16 channels.
    pub rate: Vector,
    /// How much of itself a channel adds to its result.
    pub skip: Vector,
    /// `hidden x inner`.
    pub output: Matrix,
    /// Bias of `output`, if there is one.
    pub output_bias: Option<Vector>,
    /// Which of a sequence's states is that of the scan.
    pub state: usize,
}

/// The state of the scan.
pub fn state_shape(spec: &spec::SelectiveScan) -> StateShape {
    let inner = spec.inner as usize;
    StateShape {
        units: inner.div_ceil(UNIT),
        unit_len: UNIT.min(inner) * spec.state as usize,
    }
}

/// Buffers of all tokens, reused by every layer.
#[derive(Default)]
pub struct Buffers {
    parts: Vec<f32>,
    channels: Vec<f32>,
    channel_acts: ActBuffer,
    low: Vec<f32>,
    short_step: ActBuffer,
    step: Vec<f32>,
    mixed: Vec<f32>,
    gated: ActBuffer,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        let floats = [
            &self.parts,
            &self.channels,
            &self.low,
            &self.step,
            &self.mixed,
        ];
        let acts = [&self.channel_acts, &self.short_step, &self.gated];
        floats.map(|f| f.len() * 4).iter().sum::<usize>()
            + acts.map(ActBuffer::bytes).iter().sum::<usize>()
    }
}

impl SelectiveScan {
    /// `out[token] = output(y * silu(z))`; the states of the spans move on.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let kernels = ctx.kernels;
        let (inner, rank) = (self.spec.inner as usize, self.spec.step_rank as usize);
        let padded = |m: &Matrix| m.rows().next_multiple_of(PANEL_ROWS);
        let (parts_stride, low_stride) = (padded(&self.input), padded(&self.scan_in));
        matmul(ctx, h, n, &[Product::new(&self.input, &mut b.parts, n)]);
        if let Some(bias) = &self.input_bias {
            add_bias(ctx, &mut b.parts, n, bias);
        }
        let parts = &b.parts;
        self.conv.forward(
            ctx,
            spans,
            |token, cols, x| {
                let at = token * parts_stride;
                x.copy_from_slice(&parts[at + cols.start..at + cols.end]);
            },
            &mut b.channels,
        );
        let channels = &b.channels;
        b.channel_acts
            .shape(n, inner, wants_quantized(&self.scan_in));
        b.channel_acts.fill(ctx, n, false, |token, cols, x| {
            x.copy_from_slice(&channels[token * inner + cols.start..token * inner + cols.end]);
        });
        let products = [Product::new(&self.scan_in, &mut b.low, n)];
        matmul(ctx, &b.channel_acts, n, &products);
        let low = &b.low;
        b.short_step.shape(n, rank, wants_quantized(&self.step));
        b.short_step.fill(ctx, n, false, |token, cols, x| {
            let at = token * low_stride;
            x.copy_from_slice(&low[at + cols.start..at + cols.end]);
        });
        let products = [Product::new(&self.step, &mut b.step, n)];
        matmul(ctx, &b.short_step, n, &products);

        self.scan(ctx, spans, b);
        let (parts, mixed) = (&b.parts, &b.mixed);
        b.gated.shape_for(n, &self.output);
        b.gated.fill(ctx, n, false, |token, cols, x| {
            let at = token * parts_stride + inner;
            let gate = &parts[at + cols.start..at + cols.end];
            let y = &mixed[token * inner + cols.start..token * inner + cols.end];
            kernels.glu(Activation::Silu, gate, y, x);
        });
        matmul(ctx, &b.gated, n, &[Product::new(&self.output, out, n)]);
        if let Some(bias) = &self.output_bias {
            add_bias(ctx, out, n, bias);
        }
    }

    /// One phase: steps become what they are, states move on, results go to `b.mixed`.
    fn scan(&self, ctx: &Context<'_>, spans: &[Span<'_>], b: &mut Buffers) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let kernels = ctx.kernels;
        let (inner, count) = (self.spec.inner as usize, self.spec.state as usize);
        let rank = self.spec.step_rank as usize;
        let stride = self.step.rows().next_multiple_of(PANEL_ROWS);
        let low_stride = self.scan_in.rows().next_multiple_of(PANEL_ROWS);
        grow(&mut b.mixed, n * inner);
        let (channels, low) = (&b.channels, &b.low);
        let (steps, mixed) = (Disjoint::new(&mut b.step), Disjoint::new(&mut b.mixed));
        let units = inner.div_ceil(UNIT);
        ctx.crew.for_each(spans.len() * units, |job, _| {
            let (span, unit) = (&spans[job / units], job % units);
            let cols = unit * UNIT..((unit + 1) * UNIT).min(inner);
            let rate = &self.rate[cols.start * count..cols.end * count];
            span.seq.states[self.state].write(unit, |state| {
                let state = &mut state[..rate.len()];
                for token in span.rows.clone() {
                    let at = token * stride;
                    // SAFETY: one job per span and range of channels.
                    let step = unsafe { steps.part(at + cols.start..at + cols.end) };
                    kernels.add(step, &self.step_bias[cols.clone()]);
                    kernels.activation(Activation::Softplus, step);
                    let row = token * inner + cols.start..token * inner + cols.end;
                    // SAFETY: as above.
                    let y = unsafe { mixed.part(row.clone()) };
                    let bc = &low[token * low_stride + rank..][..2 * count];
                    kernels.selective_scan(
                        state,
                        rate,
                        (step, &self.skip[cols.clone()]),
                        &channels[row],
                        bc.split_at(count),
                        y,
                    );
                }
            });
        });
    }
}

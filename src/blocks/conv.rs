//! Causal convolutions over tokens: every channel with itself, alone between two gates or as part of a recurrent branch.
//!
//! A sequence's state is the last K inputs of every channel, in a ring: the input at position p is row `p mod K`. Rows that no token has
//! written are zeros, which is what stands before a sequence. An output is one sum over the K taps in their order, fused, whatever pass its
//! inputs came in.

// Jobs write disjoint parts of one buffer, which the compiler cannot see.
#![allow(unsafe_code)]

use super::Span;
use crate::cache::StateShape;
use crate::ops::{ActBuffer, Context, Product, add_bias, grow, matmul};
use crate::par::Disjoint;
use crate::tensor::{Matrix, Vector};
use quern_kernels::{Activation, PANEL_ROWS};
use quern_models::spec;
use std::ops::Range;

/// Channels of one job, and of one unit of the state: their window of inputs stays in the first-level cache.
const UNIT: usize = 256;

/// A convolution bound to its weights.
pub struct Convolution {
    /// What the Spec says of it.
    pub spec: spec::Convolution,
    /// `kernel x channels`.
    pub weight: Vector,
    /// One per channel.
    pub bias: Option<Vector>,
    /// Which of a sequence's states holds the inputs.
    pub state: usize,
}

impl Convolution {
    /// The state of a convolution of so many channels.
    pub fn state_shape(spec: &spec::Convolution, channels: usize) -> StateShape {
        StateShape {
            units: channels.div_ceil(UNIT),
            unit_len: spec.kernel as usize * UNIT.min(channels),
        }
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.weight.len() / self.spec.kernel as usize
    }

    /// One phase: `input(token, channels, x)` writes the inputs of some channels, whose outputs go to `out`, `[token][channels]`.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        spans: &[Span<'_>],
        input: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let (channels, taps) = (self.channels(), self.spec.kernel as usize);
        grow(out, n * channels);
        let out = Disjoint::new(out);
        let units = channels.div_ceil(UNIT);
        ctx.crew.for_each(spans.len() * units, |job, _| {
            let (span, unit) = (&spans[job / units], job % units);
            let cols = unit * UNIT..((unit + 1) * UNIT).min(channels);
            let bias = self.bias.as_deref().map(|b| &b[cols.clone()]);
            span.seq.states[self.state].write(unit, |ring| {
                let ring = &mut ring[..taps * cols.len()];
                for (i, token) in span.rows.clone().enumerate() {
                    let position = span.start + i;
                    let at = position % taps * cols.len();
                    input(token, cols.clone(), &mut ring[at..at + cols.len()]);
                    let at = token * channels;
                    // SAFETY: one job per span and range of channels.
                    let y = unsafe { out.part(at + cols.start..at + cols.end) };
                    ctx.kernels.convolve(
                        ring,
                        (position + 1) % taps,
                        &self.weight[cols.start..],
                        channels,
                        bias,
                        y,
                    );
                    if self.spec.silu {
                        ctx.kernels.activation(Activation::Silu, y);
                    }
                }
            });
        });
    }
}

/// A gated short convolution bound to its weights.
pub struct ShortConv {
    /// `3 hidden x hidden`: the gate of the inputs, the gate of the outputs, the inputs.
    pub input: Matrix,
    /// Bias of `input`, if there is one.
    pub input_bias: Option<Vector>,
    /// The convolution of `hidden` channels.
    pub conv: Convolution,
    /// `hidden x hidden`.
    pub output: Matrix,
    /// Bias of `output`, if there is one.
    pub output_bias: Option<Vector>,
}

/// Buffers of all tokens, reused by every layer.
#[derive(Default)]
pub struct Buffers {
    parts: Vec<f32>,
    mixed: Vec<f32>,
    gated: ActBuffer,
}

impl Buffers {
    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        (self.parts.len() + self.mixed.len()) * 4 + self.gated.bytes()
    }
}

impl ShortConv {
    /// `out[token] = output(c * conv(b * u))` with b, c and u the three parts of `input(h)`.
    pub fn forward(
        &self,
        ctx: &Context<'_>,
        h: &ActBuffer,
        spans: &[Span<'_>],
        b: &mut Buffers,
        out: &mut Vec<f32>,
    ) {
        let n = spans.last().map_or(0, |s| s.rows.end);
        let (kernels, width) = (ctx.kernels, self.conv.channels());
        let stride = self.input.rows().next_multiple_of(PANEL_ROWS);
        matmul(ctx, h, n, &[Product::new(&self.input, &mut b.parts, n)]);
        if let Some(bias) = &self.input_bias {
            add_bias(ctx, &mut b.parts, n, bias);
        }
        let parts = &b.parts;
        let part = |token: usize, which: usize, cols: &Range<usize>| {
            let at = token * stride + which * width;
            &parts[at + cols.start..at + cols.end]
        };
        let input = |token, cols: Range<usize>, x: &mut [f32]| {
            x.copy_from_slice(part(token, 2, &cols));
            kernels.mul(x, part(token, 0, &cols));
        };
        self.conv.forward(ctx, spans, input, &mut b.mixed);
        let mixed = &b.mixed;
        b.gated.shape_for(n, &self.output);
        b.gated.fill(ctx, n, false, |token, cols, x| {
            x.copy_from_slice(&mixed[token * width + cols.start..token * width + cols.end]);
            kernels.mul(x, part(token, 1, &cols));
        });
        matmul(ctx, &b.gated, n, &[Product::new(&self.output, out, n)]);
        if let Some(bias) = &self.output_bias {
            add_bias(ctx, out, n, bias);
        }
    }
}

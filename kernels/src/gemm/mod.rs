//! Tiled products: one body for every instruction set with vectors.
//!
//! A *tile* is P panels times T tokens whose f32 accumulators stay in registers while K runs. `int` (on x86-64), [`blocks`] and
//! [`float`] hold the bodies, generic over the lanes of an instruction set; each set instantiates them with its
//! features enabled and says which shapes fit its registers ([`Shapes`]). This file holds the walk over a product:
//!
//! ```text
//! for a chunk of tokens          their activations stay in the second-level cache
//!   for a group of P panels
//!     for a chunk of K           the weights of the group stay there, too
//!       for a tile of T tokens   accumulators are parked between chunks of K: the order of the sums is untouched
//! ```
//! With one tile of tokens K is not cut and weights stream through once.

pub(crate) mod blocks;
pub(crate) mod float;
#[cfg(target_arch = "x86_64")]
pub(crate) mod int;

/// The instance of a function generic over a kind, panels and tokens, among those listed.
macro_rules! pick_tile {
    ($panels:ident, $tokens:ident, $instance:ident::<$generic:ident>: $($p:literal x [$($t:literal),*]),*) => {
        match ($panels, $tokens) {
            $($(($p, $t) => $instance::<$generic, $p, $t>,)*)*
            _ => unreachable!("no tile of {} panels and {} tokens", $panels, $tokens),
        }
    };
}
pub(crate) use pick_tile;

use crate::PANEL_ROWS;
use crate::matmul::Out;
use crate::vector::Vector;

/// Bytes of activations that a chunk of tokens may occupy: half of a common second-level cache.
const TOKEN_CHUNK_BYTES: usize = 512 << 10;

/// Bytes of weights of one group of panels per chunk of K, beside the activations in the second-level cache. Chunks for
/// the first-level cache measure worse: tiles need so few bytes per product that parking costs more.
const K_CHUNK_BYTES: usize = 128 << 10;

/// The tile shapes of one kernel.
pub(crate) struct Shapes {
    /// The most tokens of a tile.
    pub max_tokens: usize,
    /// Panels of a tile with that many tokens.
    pub panels: fn(tokens: usize) -> usize,
}

/// A parked row of accumulators.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Parked(
    #[expect(dead_code, reason = "read and written through pointers")] [f32; PANEL_ROWS],
);

impl Parked {
    /// Sixteen zeros.
    pub(crate) const ZERO: Parked = Parked([0.0; PANEL_ROWS]);

    /// The words of some rows.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn values(rows: &[Parked]) -> &[f32] {
        // SAFETY: a row is 16 words without padding (its size is its alignment, 64).
        unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len() * PANEL_ROWS) }
    }
}

/// Puts the stack frames of what its holder calls at the start of a page.
///
/// A tile with more accumulators than registers keeps some in its frame. Where a page ends among them, their stores
/// cost a fifth of the speed (Zen 4), and where that is changes with the environment and from thread to thread.
#[repr(align(4096))]
struct PageStart(
    #[expect(dead_code, reason = "only its place counts")] [std::mem::MaybeUninit<u8>; 64],
);

impl PageStart {
    /// One that the compiler cannot remove.
    #[inline(always)]
    fn hold() {
        std::hint::black_box(&PageStart([std::mem::MaybeUninit::uninit(); 64]));
    }
}

/// What a product looks like to the walk.
pub(crate) struct Walk {
    pub panels: usize,
    /// Tokens.
    pub n: usize,
    /// Steps of K: tiles or lines of the format.
    pub steps: usize,
    /// Bytes of one panel and step.
    pub step_bytes: usize,
    /// Bytes of activations per token.
    pub token_bytes: usize,
}

/// One tile of the walk.
pub(crate) struct Step {
    /// First panel, and how many.
    pub panel: usize,
    pub panels: usize,
    /// First token, and how many.
    pub token: usize,
    pub tokens: usize,
    /// Steps of K.
    pub from: usize,
    pub to: usize,
    /// Which of how many tiles that read these weights.
    share: (usize, usize),
    /// Panel and step of the weights that come next.
    next: Option<(usize, usize)>,
    /// Accumulators start at zero (or else where they are parked).
    pub first: bool,
    /// Accumulators go to the output (or else are parked).
    pub last: bool,
    /// Where this tile parks: `tokens * panels` rows.
    pub parked: *mut f32,
}

/// Where the accumulators of a tile come from and go to.
pub(crate) struct Place {
    parked: *mut f32,
    first: bool,
    last: bool,
    out: *mut f32,
    out_stride: usize,
    /// Rows to write, of all panels.
    rows: usize,
}

/// What a tile asks for while it works: its share of the weights that come next, so that they are in the second-level cache by then.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// The next weights.
    weights: *const u8,
    panel_bytes: usize,
    step_bytes: usize,
    /// Bytes of each step.
    from: usize,
    to: usize,
}

impl Ahead {
    /// Nothing comes next, or it is there.
    pub(crate) const NOTHING: Ahead = Ahead {
        weights: std::ptr::null(),
        panel_bytes: 0,
        step_bytes: 0,
        from: 0,
        to: 0,
    };

    /// Asks for the share of a step of P panels.
    ///
    /// # Safety
    /// The CPU must have the features of `V`.
    #[inline(always)]
    unsafe fn fetch<V: Vector, const P: usize>(&self, step: usize) {
        if self.from < self.to {
            let from = self
                .weights
                .wrapping_add(step * self.step_bytes + self.from);
            // SAFETY: the caller's promise.
            unsafe { fetch::<V, P>(from, self.panel_bytes, self.to - self.from) }
        }
    }
}

/// Asks for `bytes` of each of P panels.
///
/// # Safety
/// The CPU must have the features of `V`.
#[inline(always)]
unsafe fn fetch<V: Vector, const P: usize>(from: *const u8, panel_bytes: usize, bytes: usize) {
    for p in 0..P {
        for line in (0..bytes).step_by(64) {
            // SAFETY: any address will do; features are the caller's promise.
            unsafe { V::prefetch(from.wrapping_add(p * panel_bytes + line)) }
        }
    }
}

impl Step {
    /// Whether this is the first tile of the chunk of tokens that reads these weights.
    pub(crate) fn fresh(&self) -> bool {
        self.share.0 == 0
    }

    /// What this tile asks for, of panels so long with steps so long, the first of which lie at `weights`.
    pub(crate) fn ahead(&self, weights: *const u8, panel_bytes: usize, step_bytes: usize) -> Ahead {
        let Some((panel, step)) = self.next else {
            return Ahead::NOTHING;
        };
        let (i, tiles) = self.share;
        let line = |i: usize| step_bytes / 64 * i / tiles * 64;
        Ahead {
            weights: weights.wrapping_add(panel * panel_bytes + step * step_bytes),
            panel_bytes,
            step_bytes,
            from: line(i),
            to: line(i + 1),
        }
    }

    pub(crate) fn place(&self, out: &Out<'_>) -> Place {
        let row = self.panel * PANEL_ROWS;
        Place {
            parked: self.parked,
            first: self.first,
            last: self.last,
            out: out.at(self.token, row),
            out_stride: out.stride(),
            rows: (out.rows() - row).min(self.panels * PANEL_ROWS),
        }
    }
}

impl Place {
    /// The accumulators at the start of a tile.
    ///
    /// # Safety
    /// The CPU must have the features of `V`, and unless this is the first tile along K, P x T rows must be parked.
    #[inline(always)]
    unsafe fn begin<V: Vector, const P: usize, const T: usize>(&self) -> [[V; T]; P] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; P];
            if !self.first {
                for t in 0..T {
                    for p in 0..P {
                        acc[p][t] = V::load(self.parked.add((t * P + p) * PANEL_ROWS));
                    }
                }
            }
            acc
        }
    }

    /// Parks the accumulators, or writes those of rows that exist to the output.
    ///
    /// # Safety
    /// The CPU must have the features of `V`; there must be parking for P x T rows, or `rows` of T tokens in the output.
    #[inline(always)]
    unsafe fn end<V: Vector, const P: usize, const T: usize>(&self, acc: &[[V; T]; P]) {
        // SAFETY: the caller's promise.
        unsafe {
            for t in 0..T {
                for p in 0..P {
                    let out = self.out.wrapping_add(t * self.out_stride + p * PANEL_ROWS);
                    if !self.last {
                        acc[p][t].store(self.parked.add((t * P + p) * PANEL_ROWS));
                    } else if self.rows >= (p + 1) * PANEL_ROWS {
                        acc[p][t].store(out);
                    } else {
                        acc[p][t].store_partial(out, self.rows.saturating_sub(p * PANEL_ROWS));
                    }
                }
            }
        }
    }
}

impl Walk {
    /// Calls `tile` for every step, in an order in which each accumulator sees K ascending.
    pub(crate) fn run(
        &self,
        shapes: &Shapes,
        parking: &mut Vec<Parked>,
        mut tile: impl FnMut(&Step),
    ) {
        PageStart::hold();
        let fit = TOKEN_CHUNK_BYTES / self.token_bytes.max(1);
        // Whole tiles only, and enough of them to make the cut of K worth its parking.
        let chunk_tiles = (fit / shapes.max_tokens).clamp(4, 64);
        let chunks = self.n.div_ceil(chunk_tiles * shapes.max_tokens);
        for i in 0..chunks {
            // Equal chunks, give or take one: none is left with less than half of the most.
            let (start, end) = (self.n * i / chunks, self.n * (i + 1) / chunks);
            self.chunk(shapes, parking, start, end - start, &mut tile);
        }
    }

    fn chunk(
        &self,
        shapes: &Shapes,
        parking: &mut Vec<Parked>,
        token: usize,
        tokens: usize,
        tile: &mut impl FnMut(&Step),
    ) {
        let tiles = tokens.div_ceil(shapes.max_tokens);
        let widest = tokens.div_ceil(tiles);
        let k_chunk = |panels: usize| match tiles {
            1 => self.steps,
            _ => {
                let most = (K_CHUNK_BYTES / (self.step_bytes * panels)).max(1);
                // Equal chunks: a short one at the end would park as much for little work.
                self.steps.div_ceil(self.steps.div_ceil(most).max(1))
            }
        };
        let mut panel = 0;
        while panel < self.panels {
            // Shapes have power-of-two panels; what is left over takes smaller ones.
            let mut panels = (shapes.panels)(widest);
            while panels > self.panels - panel {
                panels /= 2;
            }
            let k_chunk = k_chunk(panels);
            if k_chunk < self.steps && parking.len() < tokens * panels {
                parking.resize(tokens * panels, Parked::ZERO);
            }
            let mut from = 0;
            while from < self.steps {
                let to = (from + k_chunk).min(self.steps);
                let next = match to < self.steps {
                    true => Some((panel, to)),
                    false if panel + panels < self.panels => Some((panel + panels, 0)),
                    false => None,
                }
                .filter(|_| tiles > 1);
                for i in 0..tiles {
                    // Tiles of equal width, give or take one.
                    let (start, end) = (tokens * i / tiles, tokens * (i + 1) / tiles);
                    tile(&Step {
                        panel,
                        panels,
                        token: token + start,
                        tokens: end - start,
                        from,
                        to,
                        share: (i, tiles),
                        next,
                        first: from == 0,
                        last: to == self.steps,
                        parked: parking.as_mut_ptr().wrapping_add(start * panels).cast(),
                    });
                }
                from = to;
            }
            panel += panels;
        }
    }
}

//! The tile of the formats of blocks ([`crate::formats::blocks`]): one body, given how an instruction set works on
//! lines of bytes and on 16 integers ([`Lanes`]), and where codes and scales come from ([`Source`]).
//!
//! With few tokens a tile decodes codes and scales as it goes ([`Packed`]). With many, groups of panels are decoded once
//! into a strip that stays in the second-level cache, and every tile of tokens reads that ([`Strip`]): it is memory traffic against work that
//! would be repeated for every tile.

use super::{Ahead, Place, Shapes, Step, Walk, fetch};
use crate::formats::blocks::{Blocks, header_bytes, lines, subs};
use crate::matmul::IntJob;
use crate::vector::Vector;
use crate::{BLOCK, PANEL_ROWS};

/// Sums of products of unsigned codes and activations: how large the codes are decides how an instruction set without an exact
/// dot product of four bytes adds them.
pub(crate) mod range {
    /// Codes of at most 15, in blocks of at most 32 columns: 16 bits hold a lane's 16 products, 16 * 15 * 127 = 30480.
    pub const NIBBLE: u8 = 0;
    /// Codes of at most 63: 16 bits hold two lines, 4 * 63 * 127 = 32004.
    pub const SMALL: u8 = 1;
    /// Any code, 128 of which stand for zero: two products do not fit. Magnitudes of codes less 128 are multiplied with activations of their sign.
    pub const BYTE: u8 = 2;

    /// The least of them that holds codes up to `most`.
    pub const fn of(most: u8) -> u8 {
        match most {
            0..=15 => NIBBLE,
            16..=63 => SMALL,
            _ => BYTE,
        }
    }
}

/// What the body needs of an instruction set, for 16 output rows.
///
/// # Safety
/// Every function needs the features of its instruction set, and pointers that are valid for what it reads or writes.
pub(crate) trait Lanes {
    /// A line of 64 bytes.
    type Raw: Copy;
    /// A line of codes, ready to multiply.
    type Line: Copy;
    /// Two times four activations of [`Lanes::TOKENS`] tokens, for every row.
    type Acts: Copy;
    /// Running integer sums of 16 rows and so many tokens.
    type Sums: Copy;
    /// 16 integers.
    type Ints: Copy;
    /// 16 f32.
    type F: Vector;
    /// Whether the lines of a block are a loop at run time. Unrolled they run faster, unless registers are few: then a compiler sees all loads of
    /// the block at once and keeps more of them than there is room for.
    const ROLLED: bool;
    /// Tokens that are multiplied at once: 1 or 2. Of an odd number of tokens the last counts twice.
    const TOKENS: usize;

    /// A line.
    unsafe fn load(line: *const u8) -> Self::Raw;
    /// Writes a line.
    unsafe fn store(raw: Self::Raw, line: *mut u8);
    /// Every byte masked.
    unsafe fn and(raw: Self::Raw, mask: u8) -> Self::Raw;
    /// Bits of both.
    unsafe fn or(a: Self::Raw, b: Self::Raw) -> Self::Raw;
    /// Moves the bits of every byte up, or down for negative `by`, which is known when compiled, with bits of its neighbours coming in: mask them.
    unsafe fn shift(raw: Self::Raw, by: i32) -> Self::Raw;
    /// Moves them down by a variable.
    unsafe fn down(raw: Self::Raw, by: usize) -> Self::Raw;
    /// The bytes of a table at indices below 16.
    unsafe fn look_up(table: &[u8; 16], raw: Self::Raw) -> Self::Raw;

    /// Codes of a [`range`].
    unsafe fn line<const RANGE: u8>(raw: Self::Raw) -> Self::Line;
    /// Four activations at each of two places, of a token and where there are two of them the next.
    unsafe fn acts(q: *const i8, next: *const i8, at: (usize, usize)) -> Self::Acts;
    /// Sums at the start of a block. The offsets are `-ZERO * sum(activations)` of a token and the next; none stands for zero.
    unsafe fn start<const RANGE: u8>(offsets: Option<(*const i32, *const i32)>) -> Self::Sums;
    /// Adds two times four products per row.
    unsafe fn dot<const RANGE: u8>(
        sums: Self::Sums,
        lines: (Self::Line, Self::Line),
        acts: Self::Acts,
    ) -> Self::Sums;
    /// The sums of a token, 0 or 1, at the end of a block, with its offset if `start` left it out.
    unsafe fn finish<const RANGE: u8>(
        sums: Self::Sums,
        token: usize,
        offset: Option<*const i32>,
    ) -> Self::F;

    /// 16 bytes as integers.
    unsafe fn bytes(p: *const u8) -> Self::Ints;
    /// 16 signed bytes as integers.
    unsafe fn signed(p: *const u8) -> Self::Ints;
    /// Bits `from .. from + width` of every integer, which has no more than 31.
    unsafe fn field(ints: Self::Ints, from: usize, width: u32) -> Self::Ints;
    /// Every integer shifted up by less than 32.
    unsafe fn up(ints: Self::Ints, by: u32) -> Self::Ints;
    /// `a + b`.
    unsafe fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Every integer plus a constant.
    unsafe fn plus(ints: Self::Ints, constant: i32) -> Self::Ints;
    /// As f32; exact below 2^24.
    unsafe fn float(ints: Self::Ints) -> Self::F;
    /// The f32 of which the integers are the bits.
    unsafe fn as_float(ints: Self::Ints) -> Self::F;
}

/// Where a tile finds codes and scales.
///
/// # Safety
/// Pointers must be those of a step of the source, and the CPU must have the features of `L`.
pub(crate) trait Source<L: Lanes> {
    /// Blocks of 32 columns of a step.
    const BLOCKS: usize;
    /// Sub-blocks of a block.
    const SUBS: usize;
    /// Whether there are minimums; if not, there are offsets.
    const MINS: bool;
    /// The [`range`] of the codes.
    const RANGE: u8;
    /// Bytes of a step.
    const TILE: usize;
    /// Bytes of a step in the header.
    const HEADER: usize;

    /// The codes of four columns of a block, from column 16 * half + 4 * i on. `half` is a literal where this is called, `i` only
    /// where the instruction set wants no loops.
    unsafe fn codes(tile: *const u8, block: usize, half: usize, i: usize) -> L::Raw;
    /// Scales and minimums of a sub-block.
    unsafe fn scales(header: *const u8, tile: *const u8, block: usize, sub: usize) -> (L::F, L::F);
}

/// Panels as they are in the file.
pub(crate) struct Packed<B>(B);

impl<L: Lanes, B: Blocks> Source<L> for Packed<B> {
    const BLOCKS: usize = B::STEP / BLOCK;
    const SUBS: usize = subs::<B>();
    const MINS: bool = B::MINS;
    const RANGE: u8 = range::of(B::MOST);
    const TILE: usize = B::TILE;
    const HEADER: usize = B::HEADER;

    #[inline(always)]
    unsafe fn codes(tile: *const u8, block: usize, half: usize, i: usize) -> L::Raw {
        // SAFETY: the lines of that block are within the tile; features are the caller's promise.
        unsafe {
            // No closures here nor below where vectors pass: they would be compiled without the features, and not always inlined.
            let (nibbles, twos, ones) = lines::<B>(block);
            let nibbles = tile.wrapping_add(nibbles + i * 64);
            let twos = tile.wrapping_add(twos + half * 64);
            let ones = tile.wrapping_add(ones);
            let (two, one) = (2 * i, 4 * half + i);
            let codes = match (B::NIBBLES, B::TWOS, B::ONES) {
                (true, false, false) => nibble::<L>(nibbles, half),
                (true, true, _) => L::or(nibble::<L>(nibbles, half), field::<L>(twos, two, 2, 4)),
                (true, false, true) => {
                    L::or(nibble::<L>(nibbles, half), field::<L>(ones, one, 1, 4))
                }
                (false, _, false) => field::<L>(twos, two, 2, 0),
                (false, _, true) => L::or(field::<L>(twos, two, 2, 0), field::<L>(ones, one, 1, 2)),
            };
            match B::TABLE {
                Some(table) => L::look_up(table, codes),
                None => codes,
            }
        }
    }

    #[inline(always)]
    unsafe fn scales(header: *const u8, tile: *const u8, block: usize, sub: usize) -> (L::F, L::F) {
        // SAFETY: the caller's promise.
        unsafe { B::lanes::<L>(header, tile, block, sub) }
    }
}

/// The low or the high nibbles of a line.
///
/// # Safety
/// The CPU must have the features of `L`, and the line must be readable.
#[inline(always)]
unsafe fn nibble<L: Lanes>(line: *const u8, half: usize) -> L::Raw {
    // SAFETY: the caller's promise.
    unsafe { L::and(L::shift(L::load(line), -4 * half as i32), 15) }
}

/// Bits `at .. at + width` of every byte of a line, moved to bit `to`.
///
/// # Safety
/// The CPU must have the features of `L`, and the line must be readable.
#[inline(always)]
unsafe fn field<L: Lanes>(line: *const u8, at: usize, width: u32, to: i32) -> L::Raw {
    // SAFETY: the caller's promise.
    unsafe {
        let (raw, mask) = (L::load(line), ((1 << width) - 1) as u8);
        if L::ROLLED {
            // `at` is only known at run time: a shift by a variable, then one by a constant.
            return L::shift(L::and(L::down(raw, at), mask), to);
        }
        L::and(L::shift(raw, to - at as i32), mask << to)
    }
}

/// Decoded panels. A step is a block: 8 lines of codes, then for every sub-block a line of f32 scales and, where there are any, one of minimums.
pub(crate) struct Strip<const SUBS: usize, const MINS: bool, const RANGE: u8>;

/// Bytes of a step of a strip.
const fn strip_bytes(subs: usize, mins: bool) -> usize {
    8 * 64 + subs * 64 * (1 + mins as usize)
}

impl<L: Lanes, const SUBS: usize, const MINS: bool, const RANGE: u8> Source<L>
    for Strip<SUBS, MINS, RANGE>
{
    const BLOCKS: usize = 1;
    const SUBS: usize = SUBS;
    const MINS: bool = MINS;
    const RANGE: u8 = RANGE;
    const TILE: usize = strip_bytes(SUBS, MINS);
    const HEADER: usize = 0;

    #[inline(always)]
    unsafe fn codes(tile: *const u8, _: usize, half: usize, i: usize) -> L::Raw {
        // SAFETY: one of eight lines.
        unsafe { L::load(tile.add((4 * half + i) * 64)) }
    }

    #[inline(always)]
    unsafe fn scales(_: *const u8, tile: *const u8, _: usize, sub: usize) -> (L::F, L::F) {
        // SAFETY: lines behind the codes.
        unsafe {
            let scales = tile.add(512 + sub * 64 * (1 + MINS as usize)).cast();
            let scale = L::F::load(scales);
            let min = match MINS {
                true => L::F::load(scales.add(PANEL_ROWS)),
                false => L::F::splat(0.0),
            };
            (scale, min)
        }
    }
}

/// How far ahead of its work a tile asks for weights that come from memory. Decoding takes so many instructions that a processor sees few of the next lines
/// by itself; from the second-level cache they are fast enough.
const AHEAD: usize = 8 << 10;

/// One tile: all pointers are at its first token and step.
pub(crate) struct Tile {
    weights: *const u8,
    headers: *const u8,
    /// Bytes from a panel to the next, of weights and headers alike.
    panel_bytes: usize,
    steps: usize,
    /// Pairs of lines of a sub-block: 4 or 2. Where they are a loop, a number that only shows at run time keeps it one.
    pairs: usize,
    q: *const i8,
    stride: usize,
    scales: *const f32,
    /// Per sub-block: `-ZERO * sum`, and `a_scale * sum` where there are minimums.
    offsets: *const i32,
    sums: *const f32,
    /// Bytes to the end of a panel if its weights come from memory; zero if they do not.
    streamed: usize,
    ahead: Ahead,
    place: Place,
}

/// Picks the instance for P panels and T tokens.
pub(crate) type Pick = fn(panels: usize, tokens: usize) -> unsafe fn(&Tile);

/// Some steps of one panel, to decode.
pub(crate) struct Decode {
    weights: *const u8,
    headers: *const u8,
    steps: usize,
    out: *mut u8,
}

/// Decodes steps of one panel into a strip.
///
/// # Safety
/// The CPU must have the features of `L`; the pointers must be valid for the steps.
#[inline(always)]
pub(crate) unsafe fn decode<L: Lanes, B: Blocks>(a: &Decode) {
    // SAFETY: within what the caller promises; a strip has `strip_bytes` per block of 32 columns.
    unsafe {
        let mut out = a.out;
        for step in 0..a.steps {
            let tile = a.weights.add(step * B::TILE);
            let header = a.headers.wrapping_add(step * B::HEADER);
            for block in 0..B::STEP / BLOCK {
                macro_rules! half {
                    ($half:literal, $i:expr) => {
                        L::store(
                            <Packed<B> as Source<L>>::codes(tile, block, $half, $i),
                            out.add(($half * 4 + $i) * 64),
                        )
                    };
                }
                if L::ROLLED {
                    for i in 0..4 {
                        half!(0, i);
                        half!(1, i);
                    }
                } else {
                    (half!(0, 0), half!(0, 1), half!(0, 2), half!(0, 3));
                    (half!(1, 0), half!(1, 1), half!(1, 2), half!(1, 3));
                }
                out = out.add(512);
                for sub in 0..subs::<B>() {
                    let (scale, min) = B::lanes::<L>(header, tile, block, sub);
                    scale.store(out.cast());
                    out = out.add(64);
                    if B::MINS {
                        min.store(out.cast());
                        out = out.add(64);
                    }
                }
            }
        }
    }
}

/// A block of 32 columns in a tile.
struct Block<'a> {
    tile: &'a Tile,
    weights: *const u8,
    headers: *const u8,
    /// Its place in the step, and its number in the tile.
    in_step: usize,
    block: usize,
}

impl Block<'_> {
    /// Two lines of a panel.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline(always)]
    unsafe fn lines<L: Lanes, S: Source<L>>(
        &self,
        panel: usize,
        a: (usize, usize),
        b: (usize, usize),
    ) -> (L::Line, L::Line) {
        // SAFETY: the caller's promise.
        unsafe {
            let tile = self.weights.add(panel * self.tile.panel_bytes);
            (
                line::<L, S>(S::codes(tile, self.in_step, a.0, a.1)),
                line::<L, S>(S::codes(tile, self.in_step, b.0, b.1)),
            )
        }
    }

    /// Scales and minimums of a panel.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline(always)]
    unsafe fn scales<L: Lanes, S: Source<L>>(&self, panel: usize, sub: usize) -> (L::F, L::F) {
        let at = panel * self.tile.panel_bytes;
        let headers = self.headers.wrapping_add(at);
        // SAFETY: the caller's promise.
        unsafe { S::scales(headers, self.weights.add(at), self.in_step, sub) }
    }

    /// Adds the products of two lines, each given by half and number.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline(always)]
    unsafe fn pair<L: Lanes, S: Source<L>, const P: usize, const T: usize>(
        &self,
        (a, b): ((usize, usize), (usize, usize)),
        sums: &mut [[L::Sums; T]; P],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut lines = [self.lines::<L, S>(0, a, b); P];
            for p in 1..P {
                lines[p] = self.lines::<L, S>(p, a, b);
            }
            let q = self.tile.q.add(self.block * BLOCK);
            let at = (16 * a.0 + 4 * a.1, 16 * b.0 + 4 * b.1);
            for t in 0..T {
                if t % L::TOKENS == 0 {
                    let next = (t + 1).min(T - 1) * self.tile.stride;
                    let acts = L::acts(q.add(t * self.tile.stride), q.add(next), at);
                    for p in 0..P {
                        sums[p][t] = dot::<L, S>(sums[p][t], lines[p], acts);
                    }
                }
            }
        }
    }

    /// Adds a sub-block; `sub` is a literal where this is called.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline(always)]
    unsafe fn sub_block<L: Lanes, S: Source<L>, const P: usize, const T: usize>(
        &self,
        sub: usize,
        acc: &mut [[L::F; T]; P],
    ) {
        // SAFETY: the caller's promise: the numbers of blocks and sub-blocks are within the activations' scales and sums.
        unsafe {
            let a = self.tile;
            let blocks_stride = a.stride / BLOCK;
            let at = |t: usize| (t * blocks_stride + self.block) * S::SUBS + sub;
            let offset = |t: usize| match S::MINS {
                true => None,
                false => Some(a.offsets.add(at(t))),
            };
            // Of tokens that share sums, those of the first count.
            let both = |t: usize| offset(t).zip(offset((t + 1).min(T - 1)));
            let mut sums = [[start::<L, S>(both(0)); T]; P];
            for t in 1..T {
                if t % L::TOKENS == 0 {
                    for p in 0..P {
                        sums[p][t] = start::<L, S>(both(t));
                    }
                }
            }
            // Pairs whose codes lie in one line of nibbles, or follow each other in a sub-block.
            let pair = |i: usize| match S::SUBS {
                1 => ((0, i), (1, i)),
                _ => ((sub, 2 * i), (sub, 2 * i + 1)),
            };
            if L::ROLLED {
                for i in 0..a.pairs {
                    self.pair::<L, S, P, T>(pair(i), &mut sums);
                }
            } else {
                self.pair::<L, S, P, T>(pair(0), &mut sums);
                self.pair::<L, S, P, T>(pair(1), &mut sums);
                if S::SUBS == 1 {
                    self.pair::<L, S, P, T>(pair(2), &mut sums);
                    self.pair::<L, S, P, T>(pair(3), &mut sums);
                }
            }
            let mut w = [self.scales::<L, S>(0, sub); P];
            for p in 1..P {
                w[p] = self.scales::<L, S>(p, sub);
            }
            for t in 0..T {
                let scale = L::F::splat(*a.scales.add(t * blocks_stride + self.block));
                for p in 0..P {
                    let (first, token) = (t - t % L::TOKENS, t % L::TOKENS);
                    let sum = finish::<L, S>(sums[p][first], token, offset(t));
                    acc[p][t] = w[p].0.mul(scale).fma(sum, acc[p][t]);
                }
                if S::MINS {
                    let sum = L::F::splat(*a.sums.add(at(t)));
                    for p in 0..P {
                        acc[p][t] = w[p].1.fnma(sum, acc[p][t]);
                    }
                }
            }
        }
    }
}

/// Asks for what P panels of a streaming tile will need in a while, `bytes` of each: what is that far ahead of offset `at`,
/// and at the end of the panels the next ones.
///
/// # Safety
/// The CPU must have the features of `V`.
#[inline(always)]
unsafe fn stream<V: Vector, const P: usize>(a: &Tile, at: usize, bytes: usize) {
    let mut from = a.weights.wrapping_add(at + AHEAD);
    if at + AHEAD >= a.streamed {
        from = from.wrapping_add((P - 1) * a.panel_bytes);
    }
    // SAFETY: the caller's promise.
    unsafe { fetch::<V, P>(from, a.panel_bytes, bytes) }
}

/// The product of P panels and T tokens over the steps of a tile.
///
/// # Safety
/// The CPU must have the features of `L`; the pointers of `a` must be valid for P panels, T tokens and its steps.
#[inline(always)]
pub(crate) unsafe fn tile<L: Lanes, S: Source<L>, const P: usize, const T: usize>(a: &Tile) {
    // SAFETY: all of it is within what the caller promises: steps of a panel follow each other, tokens are `stride` apart.
    unsafe {
        let mut acc = a.place.begin::<L::F, P, T>();
        for step in 0..a.steps {
            a.ahead.fetch::<L::F, P>(step);
            for in_step in 0..S::BLOCKS {
                if a.streamed > 0 {
                    let line = |block| S::TILE / 64 * block / S::BLOCKS * 64;
                    let (from, to) = (line(in_step), line(in_step + 1));
                    stream::<L::F, P>(a, step * S::TILE + from, to - from);
                }
                let block = Block {
                    tile: a,
                    weights: a.weights.add(step * S::TILE),
                    headers: a.headers.wrapping_add(step * S::HEADER),
                    in_step,
                    block: step * S::BLOCKS + in_step,
                };
                block.sub_block::<L, S, P, T>(0, &mut acc);
                if S::SUBS == 2 {
                    block.sub_block::<L, S, P, T>(1, &mut acc);
                }
            }
        }
        a.place.end::<L::F, P, T>(&acc);
    }
}

// A constant of a generic source cannot be a const argument: these choose the instance.
macro_rules! by_range {
    ($source:ty, $function:ident($($argument:expr),*)) => {
        match <$source as Source<L>>::RANGE {
            range::NIBBLE => L::$function::<{ range::NIBBLE }>($($argument),*),
            range::SMALL => L::$function::<{ range::SMALL }>($($argument),*),
            _ => L::$function::<{ range::BYTE }>($($argument),*),
        }
    };
}

#[inline(always)]
unsafe fn start<L: Lanes, S: Source<L>>(offsets: Option<(*const i32, *const i32)>) -> L::Sums {
    // SAFETY: the caller's promise.
    unsafe { by_range!(S, start(offsets)) }
}

#[inline(always)]
unsafe fn line<L: Lanes, S: Source<L>>(raw: L::Raw) -> L::Line {
    // SAFETY: the caller's promise.
    unsafe { by_range!(S, line(raw)) }
}

#[inline(always)]
unsafe fn dot<L: Lanes, S: Source<L>>(
    sums: L::Sums,
    lines: (L::Line, L::Line),
    acts: L::Acts,
) -> L::Sums {
    // SAFETY: the caller's promise.
    unsafe { by_range!(S, dot(sums, lines, acts)) }
}

#[inline(always)]
unsafe fn finish<L: Lanes, S: Source<L>>(
    sums: L::Sums,
    token: usize,
    offset: Option<*const i32>,
) -> L::F {
    // SAFETY: the caller's promise.
    unsafe { by_range!(S, finish(sums, token, offset)) }
}

/// The numbers of a format.
pub(crate) struct Layout {
    /// Columns of a step.
    pub cols: usize,
    /// Bytes of a step in the header of a panel, and behind it.
    pub header: usize,
    pub tile: usize,
    /// Sub-blocks of a block of 32 columns.
    pub subs: usize,
    /// Whether there are minimums.
    pub mins: bool,
}

impl Layout {
    /// That of a format of blocks.
    pub(crate) const fn of<B: Blocks>() -> Layout {
        Layout {
            cols: B::STEP,
            header: B::HEADER,
            tile: B::TILE,
            subs: subs::<B>(),
            mins: B::MINS,
        }
    }
}

/// The instances of an instruction set for one format.
pub(crate) struct Instances {
    /// Tiles over packed panels, and their shapes.
    pub packed: Pick,
    pub shapes: &'static Shapes,
    /// What runs with many tokens, if that is something else.
    pub strips: Option<Strips>,
}

/// Instances that decode panels first.
pub(crate) struct Strips {
    /// Decodes a panel.
    pub decode: unsafe fn(&Decode),
    /// Tiles over strips, and their shapes: of three tokens and four, which is what the walk makes of 9 and more.
    pub pick: Pick,
    pub shapes: &'static Shapes,
    /// Tokens from which it pays.
    pub from: usize,
}

/// Walks a product.
///
/// # Safety
/// The CPU must have the features of the instances, which are those of the format of the job, as is the layout.
pub(crate) unsafe fn run(job: IntJob<'_>, layout: &Layout, instances: &Instances) {
    let IntJob { parking, strip, .. } = job;
    let steps = job.blocks * BLOCK / layout.cols;
    let header = header_bytes(steps, layout.header);
    let strips = instances.strips.as_ref().filter(|s| job.n >= s.from);
    let per_step = layout.cols / BLOCK;
    let strip_step = per_step * strip_bytes(layout.subs, layout.mins);
    let walk = Walk {
        panels: job.panels,
        n: job.n,
        steps,
        step_bytes: strips.map_or(layout.tile, |_| strip_step),
        token_bytes: job.stride,
    };
    let (shapes, pick) = match strips {
        Some(strips) => (strips.shapes, strips.pick),
        None => (instances.shapes, instances.packed),
    };
    walk.run(shapes, parking, |step: &Step| {
        let panel = &job.weights[step.panel * job.panel_bytes..];
        let headers = panel[step.from * layout.header..].as_ptr();
        let packed = panel[header + step.from * layout.tile..].as_ptr();
        let count = step.to - step.from;
        let strip_panel = count * strip_step;
        if let Some(strips) = strips
            && step.fresh()
        {
            let lines = step.panels * strip_panel / 64;
            if strip.len() < lines {
                strip.resize(lines, super::Parked::ZERO);
            }
            for p in 0..step.panels {
                let decode = Decode {
                    weights: packed.wrapping_add(p * job.panel_bytes),
                    headers: headers.wrapping_add(p * job.panel_bytes),
                    steps: count,
                    out: strip
                        .as_mut_ptr()
                        .cast::<u8>()
                        .wrapping_add(p * strip_panel),
                };
                // SAFETY: the panels of the step are within the weights, and the strip has room for them.
                unsafe { (strips.decode)(&decode) };
            }
        }
        let (block, blocks_stride) = (step.from * per_step, job.stride / BLOCK);
        let sub = (step.token * blocks_stride + block) * layout.subs;
        let (weights, panel_bytes, steps) = match strips {
            Some(_) => (strip.as_ptr().cast(), strip_panel, count * per_step),
            None => (packed, job.panel_bytes, count),
        };
        let tile = Tile {
            weights,
            headers,
            panel_bytes,
            steps,
            pairs: 4 / layout.subs,
            q: job.q[step.token * job.stride + block * BLOCK..].as_ptr(),
            stride: job.stride,
            scales: job.scales[step.token * blocks_stride + block..].as_ptr(),
            offsets: job.offsets[if layout.mins { 0 } else { sub }..].as_ptr(),
            sums: job.sums[if layout.mins { sub } else { 0 }..].as_ptr(),
            streamed: match strips {
                None if step.fresh() => (walk.steps - step.from) * layout.tile,
                _ => 0,
            },
            ahead: match strips {
                None => step.ahead(job.weights[header..].as_ptr(), job.panel_bytes, layout.tile),
                Some(_) => Ahead::NOTHING,
            },
            place: step.place(&job.out),
        };
        // SAFETY: features are the caller's promise. The job's sizes were checked where it was made: `panels` panels of `steps`
        // steps, `n` rows of activations of at least that many columns, offsets or sums of every sub-block of them, and an
        // output that holds `rows` of `n` tokens; the walk stays within these counts, and parks within the parking.
        unsafe { pick(step.panels, step.tokens)(&tile) }
    });
}

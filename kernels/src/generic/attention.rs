//! Scores and weighted sums over the key-value cache of one KV head.
//!
//! ```text
//! K: tile t = positions 16 t .. 16 t + 15:   [t][d in 0..head_dim][16 positions]
//! V: row per position:                       [position][v_dim padded to 16]
//!
//! q8, blocks of 32 d:
//! K: [t][block][16 f32 scales, one per position][d in 0..32 or what is left][16 codes]
//! V: [position][f32 scale of every block][codes of v_dim padded to 16]
//! ```
//! With positions (K) or dimensions (V) in the lanes, one result is one lane: a single accumulator
//! that takes its terms in ascending order of d (scores) or of the position (values), fused. How
//! many queries, tiles or columns are computed side by side is therefore invisible in the result;
//! blocks of them exist so that a byte of K or V is read once per block.
//!
//! q8 takes the codes of a block as floats, which is exact, and its scale once: `score = fma(sum of q * code, scale, score)`
//! for every block, ascending; a value's weight is `p * scale`, rounded, for every position and block.

use crate::vector::{LANES, Vector};

/// Positions of a tile of keys.
pub const KV_TILE: usize = LANES;

/// Element type of the key-value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes, rounded to nearest even.
    F16,
    /// 1 byte and an f32 scale for every [`KV_BLOCK`] of them.
    Q8,
}

/// Elements of a key or a value that share a scale in q8.
pub const KV_BLOCK: usize = 32;

impl KvType {
    /// Every type, in the order of the codes.
    pub const ALL: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];

    /// "f32", "f16" or "q8".
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8 => "q8",
        }
    }

    /// The type of that name.
    pub fn by_name(name: &str) -> Option<KvType> {
        KvType::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Bytes of one tile of keys, 16 positions of `head_dim` elements.
    pub fn k_tile_bytes(self, head_dim: usize) -> usize {
        match self {
            KvType::F32 => F32::tile_bytes(head_dim),
            KvType::F16 => F16::tile_bytes(head_dim),
            KvType::Q8 => Q8::tile_bytes(head_dim),
        }
    }

    /// Bytes of one row of values, `v_dim` elements padded to a multiple of 16.
    pub fn v_row_bytes(self, v_dim: usize) -> usize {
        match self {
            KvType::F32 => F32::row_bytes(v_dim),
            KvType::F16 => F16::row_bytes(v_dim),
            KvType::Q8 => Q8::row_bytes(v_dim),
        }
    }
}

/// An element type as the kernels read it.
trait Element {
    const BYTES: usize;
    /// Whether blocks of elements have scales.
    const SCALED: bool;
    /// Reads 16 elements from any address, without their scales.
    unsafe fn load<V: Vector>(p: *const u8) -> V;

    fn tile_bytes(head_dim: usize) -> usize {
        let scales = if Self::SCALED { scales(head_dim) } else { 0 };
        (scales + head_dim * Self::BYTES) * KV_TILE
    }

    fn row_bytes(v_dim: usize) -> usize {
        let scales = if Self::SCALED { scales(v_dim) } else { 0 };
        scales + v_dim.next_multiple_of(LANES) * Self::BYTES
    }
}

/// Bytes of the scales of so many elements.
fn scales(n: usize) -> usize {
    n.div_ceil(KV_BLOCK) * size_of::<f32>()
}

struct F32;
struct F16;
struct Q8;

impl Element for Q8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V {
        // SAFETY: the caller's contract.
        unsafe { V::load_i8(p.cast()) }
    }
}

impl Element for F32 {
    const BYTES: usize = 4;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V {
        // SAFETY: the caller's contract; no alignment is needed.
        unsafe { V::load(p.cast()) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V {
        // SAFETY: the caller's contract.
        unsafe { V::load_f16(p) }
    }
}

/// The operands of [`scores`]; lengths are the caller's contract.
#[derive(Clone, Copy)]
pub(crate) struct Scores {
    /// Query i is q[i * q_stride ..][..head_dim].
    pub q: *const f32,
    pub q_stride: usize,
    pub n_q: usize,
    pub head_dim: usize,
    /// `n_tiles` tiles of keys.
    pub k: *const u8,
    pub n_tiles: usize,
    /// Bytes from `k` to what is read next; its lines are asked for meanwhile.
    pub ahead: isize,
    /// Row i is out[i * stride ..][..16 * n_tiles].
    pub out: *mut f32,
    pub stride: usize,
}

/// The operands of [`values`]; lengths are the caller's contract.
#[derive(Clone, Copy)]
pub(crate) struct Values {
    /// Weights of query i are p[i * p_stride ..][..n_pos].
    pub p: *const f32,
    pub p_stride: usize,
    pub n_q: usize,
    /// `n_pos` rows of values.
    pub v: *const u8,
    pub n_pos: usize,
    pub v_dim: usize,
    /// Bytes from `v` to what is read next; its lines are asked for meanwhile.
    pub ahead: isize,
    /// Row i is out[i * stride ..][..v_dim]; terms are added to what it holds.
    pub out: *mut f32,
    pub stride: usize,
}

/// out[i][16 t + lane] = sum over d of q[i][d] k[t][d][lane].
#[inline(always)]
pub(crate) unsafe fn scores<V: Vector>(kv: KvType, a: Scores) {
    // SAFETY: the caller's contract.
    unsafe {
        match kv {
            KvType::F32 => scores_of::<V, F32>(a),
            KvType::F16 => scores_of::<V, F16>(a),
            KvType::Q8 => scores_of::<V, Q8>(a),
        }
    }
}

/// Tiles that all queries visit before the next ones: they stay in the nearest cache meanwhile.
const TILES: usize = 4;

#[inline(always)]
unsafe fn scores_of<V: Vector, E: Element>(a: Scores) {
    // SAFETY: the blocks cover tiles 0 .. n_tiles and queries 0 .. n_q once.
    unsafe {
        for from in (0..a.n_tiles).step_by(TILES) {
            let to = a.n_tiles.min(from + TILES);
            let mut i = 0;
            while i < a.n_q {
                let b = Scores {
                    q: a.q.add(i * a.q_stride),
                    out: a.out.add(i * a.stride),
                    ..a
                };
                i += if i == 0 {
                    score_queries::<V, E, true>(b, a.n_q, from, to)
                } else {
                    score_queries::<V, E, false>(b, a.n_q - i, from, to)
                };
            }
        }
    }
}

/// The tiles `from .. to` for as many of the first `left` queries as the registers hold; returns
/// how many.
#[inline(always)]
unsafe fn score_queries<V: Vector, E: Element, const FIRST: bool>(
    a: Scores,
    left: usize,
    from: usize,
    to: usize,
) -> usize {
    // SAFETY: the match keeps to the queries that are left.
    unsafe {
        // Eight accumulators and more hide the latency of the fused multiply-add; more queries save
        // loads of K.
        match left {
            8.. if V::WIDE_REGISTERS => score_block::<V, E, FIRST, 8, 2>(a, from, to),
            4.. if V::WIDE_REGISTERS => score_block::<V, E, FIRST, 4, 4>(a, from, to),
            4.. => score_block::<V, E, FIRST, 4, 1>(a, from, to),
            2.. if V::WIDE_REGISTERS => score_block::<V, E, FIRST, 2, 4>(a, from, to),
            2.. => score_block::<V, E, FIRST, 2, 2>(a, from, to),
            _ => score_block::<V, E, FIRST, 1, 4>(a, from, to),
        }
    }
}

/// `Q` queries against the tiles `from .. to`, `T` at a time; returns `Q`.
#[inline(always)]
unsafe fn score_block<V: Vector, E: Element, const FIRST: bool, const Q: usize, const T: usize>(
    a: Scores,
    from: usize,
    to: usize,
) -> usize {
    let mut t = from;
    // SAFETY: the blocks cover the tiles once.
    unsafe {
        while t + T <= to {
            score_tiles::<V, E, FIRST, Q, T>(a, t);
            t += T;
        }
        while t < to {
            score_tiles::<V, E, FIRST, Q, 1>(a, t);
            t += 1;
        }
    }
    Q
}

/// `Q` queries against the `T` tiles from `t` on. The first block of queries also asks for
/// what is read next: several tiles at a time are several short streams, and pages lie anywhere, which hardware does not
/// foresee.
#[inline(always)]
unsafe fn score_tiles<V: Vector, E: Element, const FIRST: bool, const Q: usize, const T: usize>(
    a: Scores,
    t: usize,
) {
    let line = LANES * E::BYTES;
    let tile = E::tile_bytes(a.head_dim);
    // SAFETY: Q queries, T tiles and head_dim bound every offset.
    unsafe {
        let k = a.k.add(t * tile);
        if E::SCALED {
            return scaled_tiles::<V, E, FIRST, Q, T>(a, k, t);
        }
        let mut acc = [[V::splat(0.0); T]; Q];
        for d in 0..a.head_dim {
            let mut keys = [V::splat(0.0); T];
            for j in 0..T {
                let p = k.add(j * tile + d * line);
                keys[j] = E::load::<V>(p);
                if FIRST && (E::BYTES == 4 || d % 2 == 0) {
                    V::prefetch(p.wrapping_offset(a.ahead));
                }
            }
            for i in 0..Q {
                let q = V::splat(*a.q.add(i * a.q_stride + d));
                for j in 0..T {
                    acc[i][j] = q.fma(keys[j], acc[i][j]);
                }
            }
        }
        for i in 0..Q {
            for j in 0..T {
                acc[i][j].store(a.out.add(i * a.stride + (t + j) * LANES));
            }
        }
    }
}

/// The same where elements have scales; `k` is tile `t`.
#[inline(always)]
unsafe fn scaled_tiles<V: Vector, E: Element, const FIRST: bool, const Q: usize, const T: usize>(
    a: Scores,
    k: *const u8,
    t: usize,
) {
    let (line, scale_line) = (LANES * E::BYTES, LANES * size_of::<f32>());
    let tile = E::tile_bytes(a.head_dim);
    // SAFETY: Q queries, T tiles and head_dim bound every offset.
    unsafe {
        let zero = V::splat(0.0);
        let mut acc = [[zero; T]; Q];
        for (b, from) in (0..a.head_dim).step_by(KV_BLOCK).enumerate() {
            let block = k.add(b * (scale_line + KV_BLOCK * line));
            let mut part = [[zero; T]; Q];
            for d in 0..KV_BLOCK.min(a.head_dim - from) {
                let mut keys = [zero; T];
                for j in 0..T {
                    let p = block.add(j * tile + scale_line + d * line);
                    keys[j] = E::load::<V>(p);
                    if FIRST && d % 4 == 0 {
                        V::prefetch(p.wrapping_offset(a.ahead));
                    }
                }
                for i in 0..Q {
                    let q = V::splat(*a.q.add(i * a.q_stride + from + d));
                    for j in 0..T {
                        part[i][j] = q.fma(keys[j], part[i][j]);
                    }
                }
            }
            for j in 0..T {
                let scales = V::load(block.add(j * tile).cast());
                for i in 0..Q {
                    acc[i][j] = part[i][j].fma(scales, acc[i][j]);
                }
            }
        }
        for i in 0..Q {
            for j in 0..T {
                acc[i][j].store(a.out.add(i * a.stride + (t + j) * LANES));
            }
        }
    }
}

/// out[i][d] += sum over positions of p[i][pos] v[pos][d].
#[inline(always)]
pub(crate) unsafe fn values<V: Vector>(kv: KvType, a: Values) {
    // SAFETY: the caller's contract.
    unsafe {
        match kv {
            KvType::F32 => values_of::<V, F32>(a),
            KvType::F16 => values_of::<V, F16>(a),
            KvType::Q8 => values_of::<V, Q8>(a),
        }
    }
}

/// Positions that all queries and columns visit before the next ones: their rows stay in the
/// nearest cache meanwhile.
const ROWS: usize = 32;

#[inline(always)]
unsafe fn values_of<V: Vector, E: Element>(a: Values) {
    let row = E::row_bytes(a.v_dim);
    // SAFETY: the blocks cover positions 0 .. n_pos and queries 0 .. n_q once.
    unsafe {
        for from in (0..a.n_pos).step_by(ROWS) {
            let n_pos = ROWS.min(a.n_pos - from);
            let mut i = 0;
            while i < a.n_q {
                let b = Values {
                    p: a.p.add(i * a.p_stride + from),
                    v: a.v.add(from * row),
                    n_pos,
                    out: a.out.add(i * a.stride),
                    ..a
                };
                i += if i == 0 {
                    value_queries::<V, E, true>(b, a.n_q)
                } else {
                    value_queries::<V, E, false>(b, a.n_q - i)
                };
            }
        }
    }
}

/// As many of the first `left` queries as the registers hold; returns how many.
#[inline(always)]
unsafe fn value_queries<V: Vector, E: Element, const FIRST: bool>(a: Values, left: usize) -> usize {
    // SAFETY: the match keeps to the queries that are left.
    unsafe {
        match left {
            8.. if V::WIDE_REGISTERS => value_block::<V, E, FIRST, 8, 2>(a),
            4.. if V::WIDE_REGISTERS => value_block::<V, E, FIRST, 4, 4>(a),
            4.. => value_block::<V, E, FIRST, 4, 1>(a),
            2.. if V::WIDE_REGISTERS => value_block::<V, E, FIRST, 2, 4>(a),
            2.. => value_block::<V, E, FIRST, 2, 2>(a),
            _ => value_block::<V, E, FIRST, 1, 4>(a),
        }
    }
}

/// `Q` queries over all columns, `C` groups of 16 columns at a time; returns `Q`.
#[inline(always)]
unsafe fn value_block<V: Vector, E: Element, const FIRST: bool, const Q: usize, const C: usize>(
    a: Values,
) -> usize {
    let mut d = 0;
    // SAFETY: the blocks cover columns 0 .. v_dim once.
    unsafe {
        while d + C * LANES <= a.v_dim {
            value_columns::<V, E, FIRST, Q, C>(a, d, LANES);
            d += C * LANES;
        }
        while d < a.v_dim {
            value_columns::<V, E, FIRST, Q, 1>(a, d, (a.v_dim - d).min(LANES));
            d += LANES;
        }
    }
    Q
}

/// `Q` queries over the `C` groups of columns from `d` on, the first block of queries asking for
/// what is read next; only `last` columns of the last group are written.
#[inline(always)]
unsafe fn value_columns<
    V: Vector,
    E: Element,
    const FIRST: bool,
    const Q: usize,
    const C: usize,
>(
    a: Values,
    d: usize,
    last: usize,
) {
    let line = LANES * E::BYTES;
    let row = E::row_bytes(a.v_dim);
    let first = if E::SCALED { scales(a.v_dim) } else { 0 };
    // SAFETY: Q queries, n_pos rows and v_dim columns (v: padded to 16) bound every offset.
    unsafe {
        let v = a.v.add(first + d * E::BYTES);
        let zero = V::splat(0.0);
        let mut acc = [[zero; C]; Q];
        for i in 0..Q {
            for j in 0..C {
                let o = a.out.add(i * a.stride + d + j * LANES);
                acc[i][j] = if last == LANES {
                    V::load(o)
                } else {
                    V::load_partial(o, last, zero)
                };
            }
        }
        for pos in 0..a.n_pos {
            let mut vals = [zero; C];
            for j in 0..C {
                let p = v.add(pos * row + j * line);
                vals[j] = E::load::<V>(p);
                if FIRST && (E::BYTES == 4 || C == 1 || j % 2 == 0) {
                    V::prefetch(p.wrapping_offset(a.ahead));
                }
            }
            for i in 0..Q {
                let weight = *a.p.add(i * a.p_stride + pos);
                let p = V::splat(weight);
                for j in 0..C {
                    let p = if E::SCALED {
                        let block = (d + j * LANES) / KV_BLOCK;
                        let scale = a.v.add(pos * row).cast::<f32>().add(block);
                        V::splat(weight * scale.read_unaligned())
                    } else {
                        p
                    };
                    acc[i][j] = p.fma(vals[j], acc[i][j]);
                }
            }
        }
        for i in 0..Q {
            for j in 0..C {
                let o = a.out.add(i * a.stride + d + j * LANES);
                if last == LANES {
                    acc[i][j].store(o)
                } else {
                    acc[i][j].store_partial(o, last)
                }
            }
        }
    }
}

/// The codes of a block, and their scale: the greatest magnitude is 127. Rounded half to even; a block that is all but zero becomes zero (its
/// reciprocal could overflow), one with a NaN or an infinity has a NaN for a scale, so that every result shows it.
fn quantize(x: &[f32]) -> ([i8; KV_BLOCK], f32) {
    let greatest = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    let mut codes = [0; KV_BLOCK];
    if !x.iter().all(|x| x.is_finite()) {
        return (codes, f32::NAN);
    }
    // 2^-100.
    if greatest < f32::from_bits((127 - 100) << 23) {
        return (codes, 0.0);
    }
    let factor = 127.0 / greatest;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * factor).round_ties_even() as i8;
    }
    (codes, greatest / 127.0)
}

/// Writes a key into one lane of a tile; `lane < 16`, the tile holds `k.len()` lines.
#[inline(always)]
pub(crate) unsafe fn store_k<V: Vector>(kv: KvType, k: &[f32], tile: &mut [u8], lane: usize) {
    let t = tile.as_mut_ptr();
    match kv {
        KvType::F32 => {
            for (d, &x) in k.iter().enumerate() {
                // SAFETY: line d lies within the tile.
                unsafe { t.cast::<f32>().add(d * LANES + lane).write_unaligned(x) };
            }
        }
        KvType::F16 => {
            let mut h = [0u16; LANES];
            for (g, chunk) in k.chunks(LANES).enumerate() {
                // SAFETY: the chunk has chunk.len() floats, h 32 bytes, and line 16 g + d lies
                // within the tile.
                unsafe {
                    V::load_partial(chunk.as_ptr(), chunk.len(), V::splat(0.0))
                        .store_f16(h.as_mut_ptr().cast());
                    for d in 0..chunk.len() {
                        t.cast::<u16>()
                            .add((g * LANES + d) * LANES + lane)
                            .write_unaligned(h[d]);
                    }
                }
            }
        }
        KvType::Q8 => {
            let whole = Q8::tile_bytes(KV_BLOCK);
            for (block, k) in tile.chunks_mut(whole).zip(k.chunks(KV_BLOCK)) {
                let (codes, scale) = quantize(k);
                let (scales, lines) = block.split_at_mut(LANES * size_of::<f32>());
                scales[4 * lane..][..4].copy_from_slice(&scale.to_le_bytes());
                for (line, code) in lines.chunks_exact_mut(LANES).zip(codes) {
                    line[lane] = code as u8;
                }
            }
        }
    }
}

/// Writes a row of values and zeros up to its padding.
#[inline(always)]
pub(crate) unsafe fn store_v<V: Vector>(kv: KvType, v: &[f32], row: &mut [u8]) {
    if kv == KvType::Q8 {
        let (scales, out) = row.split_at_mut(scales(v.len()));
        let (out, padding) = out.split_at_mut(v.len());
        padding.fill(0);
        for ((v, scale), out) in v
            .chunks(KV_BLOCK)
            .zip(scales.chunks_exact_mut(4))
            .zip(out.chunks_mut(KV_BLOCK))
        {
            let (codes, s) = quantize(v);
            scale.copy_from_slice(&s.to_le_bytes());
            for (out, code) in out.iter_mut().zip(codes) {
                *out = code as u8;
            }
        }
        return;
    }
    let r = row.as_mut_ptr();
    for (g, chunk) in v.chunks(LANES).enumerate() {
        // SAFETY: the chunk has chunk.len() floats, the row a whole group for it.
        unsafe {
            let x = V::load_partial(chunk.as_ptr(), chunk.len(), V::splat(0.0));
            match kv {
                KvType::F32 => x.store(r.cast::<f32>().add(g * LANES)),
                KvType::F16 => x.store_f16(r.add(g * LANES * 2)),
                KvType::Q8 => unreachable!("handled above"),
            }
        }
    }
}

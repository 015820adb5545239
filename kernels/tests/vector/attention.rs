//! Attention kernels: equality with the scalar table one query at a time, exact conversions, an f64
//! oracle.

use super::data::{Kind, Random, vector};
use super::guard::Guarded;
use super::{assert_same, others, same, scalar};
use half::f16;
use quern_kernels::{KV_TILE, Kernels, KvType};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// What the elements of a block of 32 are in q8: codes and their scale.
fn block_of(x: &[f32]) -> (Vec<i8>, f32) {
    let greatest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if x.iter().any(|x| !x.is_finite()) {
        return (vec![0; x.len()], f32::NAN);
    }
    if greatest < 2f32.powi(-100) {
        return (vec![0; x.len()], 0.0);
    }
    let code = |x: &f32| (x * (127.0 / greatest)).round_ties_even() as i8;
    (x.iter().map(code).collect(), greatest / 127.0)
}

/// The numbers that the cache has instead of the elements of one key or value.
fn rounded(kv: KvType, x: &[f32]) -> Vec<f64> {
    match kv {
        KvType::F32 => x.iter().map(|&x| x.into()).collect(),
        KvType::F16 => x.iter().map(|&x| f16::from_f32(x).to_f64()).collect(),
        KvType::Q8 => {
            let blocks = x.chunks(32).map(block_of);
            let number = |c: i8, s: f32| f64::from(c) * f64::from(s);
            let numbers = blocks.map(|(codes, s)| codes.into_iter().map(move |c| number(c, s)));
            numbers.flatten().collect()
        }
    }
}

/// Puts a key where the cache has it.
fn put_key(kv: KvType, tile: &mut [u8], position: usize, key: &[f32]) {
    match kv {
        KvType::F32 => {
            for (line, x) in tile.chunks_exact_mut(64).zip(key) {
                line[4 * position..][..4].copy_from_slice(&x.to_le_bytes());
            }
        }
        KvType::F16 => {
            for (line, x) in tile.chunks_exact_mut(32).zip(key) {
                line[2 * position..][..2].copy_from_slice(&f16::from_f32(*x).to_le_bytes());
            }
        }
        KvType::Q8 => {
            for (b, part) in key.chunks(32).enumerate() {
                let (codes, scale) = block_of(part);
                let block = &mut tile[b * (64 + 32 * 16)..];
                block[4 * position..][..4].copy_from_slice(&scale.to_le_bytes());
                for (d, code) in codes.into_iter().enumerate() {
                    block[64 + 16 * d + position] = code as u8;
                }
            }
        }
    }
}

/// The keys of a tile `[d][16 positions]`.
fn keys_of(tile: &[f32]) -> impl Iterator<Item = Vec<f32>> {
    (0..KV_TILE).map(|position| tile.chunks(KV_TILE).map(|d| d[position]).collect())
}

/// Tiles of keys as the cache holds them, from `[tile][d][16 positions]`.
fn encode_keys(kv: KvType, x: &[f32], dim: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for tile in x.chunks_exact(dim * KV_TILE) {
        let from = out.len();
        out.resize(from + kv.k_tile_bytes(dim), 0);
        for (position, key) in keys_of(tile).enumerate() {
            put_key(kv, &mut out[from..], position, &key);
        }
    }
    out
}

/// Rows of values as the cache holds them, from rows of `dim` elements padded to 16.
fn encode_values(kv: KvType, x: &[f32], dim: usize) -> Vec<u8> {
    let row = |x: &[f32]| match kv {
        KvType::F32 => x.iter().flat_map(|v| v.to_le_bytes()).collect(),
        KvType::F16 => halves(x),
        KvType::Q8 => {
            let blocks: Vec<(Vec<i8>, f32)> = x[..dim].chunks(32).map(block_of).collect();
            let scales = blocks.iter().flat_map(|(_, s)| s.to_le_bytes());
            let codes = blocks.iter().flat_map(|(c, _)| c.iter().map(|&c| c as u8));
            let mut row: Vec<u8> = scales.chain(codes).collect();
            row.resize(kv.v_row_bytes(dim), 0);
            row
        }
    };
    let rows = x.chunks_exact(dim.next_multiple_of(KV_TILE));
    rows.flat_map(row).collect()
}

fn halves(x: &[f32]) -> Vec<u8> {
    let halves = x.iter().map(|&v| f16::from_f32(v));
    halves.flat_map(f16::to_le_bytes).collect()
}

/// Shapes (queries, head_dim or positions, tiles or columns): all small ones, then long ones.
fn shapes(r: &mut Random) -> Vec<(usize, usize, usize)> {
    let mut all = Vec::new();
    for n_q in 1..=13 {
        for m in 1..=9 {
            all.push((n_q, 1 + r.below(70), m));
        }
    }
    for long in 1..=1024 {
        all.push((1 + r.below(5), long, 1 + r.below(3)));
    }
    all
}

#[test]
fn scores_do_not_depend_on_the_table_or_the_other_queries() {
    let tables = others();
    let mut r = Random(11);
    let mut keys = Guarded::new(4 * 16 * 1024 * 4);
    let mut queries = Guarded::new(4 * 20 * 1100);
    let mut out = Guarded::new(4 * 20 * 200);
    for (n_q, head_dim, n_tiles) in shapes(&mut r) {
        for (kv, kind) in [
            (KvType::F32, Kind::Plain),
            (KvType::F16, Kind::Plain),
            (KvType::F16, Kind::Special),
            (KvType::Q8, Kind::Plain),
            (KvType::Q8, Kind::Special),
        ] {
            let (q_stride, width) = (head_dim + r.below(3), n_tiles * KV_TILE);
            let stride = width + r.below(3);
            let q = vector(&mut r, (n_q - 1) * q_stride + head_dim, kind);
            let k = encode_keys(kv, &vector(&mut r, width * head_dim, kind), head_dim);
            let mut want = vec![7.0; (n_q - 1) * stride + width];
            for i in 0..n_q {
                let (q, want) = (&q[i * q_stride..], &mut want[i * stride..]);
                scalar().attn_scores(kv, q, q_stride, 1, head_dim, &k, &[], n_tiles, want, stride);
            }
            for table in &tables {
                for place in 0..2 {
                    // Odd addresses: the cache promises none to the kernels.
                    let gap = place * r.below(64);
                    let kk = if place == 0 {
                        keys.bytes_at_end(k.len(), gap)
                    } else {
                        keys.bytes_at_start(k.len(), gap)
                    };
                    kk.copy_from_slice(&k);
                    let qq = queries.copy(&q, place);
                    let got = out.floats(want.len(), place);
                    got.fill(7.0);
                    table.attn_scores(
                        kv,
                        qq,
                        q_stride,
                        n_q,
                        head_dim,
                        kk,
                        &[],
                        n_tiles,
                        got,
                        stride,
                    );
                    let what = || {
                        format!(
                            "scores on {}: {kv:?} {n_q} x {head_dim} x {n_tiles}",
                            table.name()
                        )
                    };
                    assert_same(&what, &want, got);
                }
            }
        }
    }
}

#[test]
fn values_do_not_depend_on_the_table_or_the_other_queries() {
    let tables = others();
    let mut r = Random(12);
    let mut rows = Guarded::new(4 * 1024 * 160 + 64);
    let mut weights = Guarded::new(4 * 20 * 1100);
    let mut out = Guarded::new(4 * 20 * 200);
    for (n_q, n_pos, columns) in shapes(&mut r) {
        for (kv, kind) in [
            (KvType::F32, Kind::Plain),
            (KvType::F16, Kind::Plain),
            (KvType::F16, Kind::Special),
            (KvType::Q8, Kind::Plain),
            (KvType::Q8, Kind::Special),
        ] {
            let v_dim = columns * KV_TILE - r.below(KV_TILE);
            let (p_stride, stride) = (n_pos + r.below(3), v_dim + r.below(3));
            let p = vector(&mut r, (n_q - 1) * p_stride + n_pos, kind);
            let mut values = vector(&mut r, n_pos * columns * KV_TILE, kind);
            for row in values.chunks_mut(columns * KV_TILE) {
                // Whatever lies in the padding stays there.
                row[v_dim..].fill(f32::NAN);
            }
            let v = encode_values(kv, &values, v_dim);
            let start = vector(&mut r, (n_q - 1) * stride + v_dim, Kind::Plain);
            let mut want = start.clone();
            for i in 0..n_q {
                let (p, want) = (&p[i * p_stride..], &mut want[i * stride..]);
                scalar().attn_values(kv, p, p_stride, 1, &v, &[], n_pos, v_dim, want, stride);
            }
            for table in &tables {
                for place in 0..2 {
                    let gap = place * r.below(64);
                    let vv = if place == 0 {
                        rows.bytes_at_end(v.len(), gap)
                    } else {
                        rows.bytes_at_start(v.len(), gap)
                    };
                    vv.copy_from_slice(&v);
                    let pp = weights.copy(&p, place);
                    let got = out.copy(&start, place);
                    table.attn_values(kv, pp, p_stride, n_q, vv, &[], n_pos, v_dim, got, stride);
                    let what = || {
                        format!(
                            "values on {}: {kv:?} {n_q} x {n_pos} x {v_dim}",
                            table.name()
                        )
                    };
                    assert_same(&what, &want, got);
                }
            }
        }
    }
}

#[test]
fn positions_may_come_in_any_number_of_calls() {
    let mut r = Random(13);
    for table in others().into_iter().chain([scalar()]) {
        let (n_q, n_pos, v_dim) = (5, 100, 40);
        let p = vector(&mut r, n_q * n_pos, Kind::Plain);
        let v = halves(&vector(&mut r, n_pos * 48, Kind::Plain));
        let mut whole = vec![0.0; n_q * v_dim];
        table.attn_values(
            KvType::F16,
            &p,
            n_pos,
            n_q,
            &v,
            &[],
            n_pos,
            v_dim,
            &mut whole,
            v_dim,
        );
        let mut parts = vec![0.0; n_q * v_dim];
        for (from, to) in [(0, 1), (1, 16), (16, 16), (16, 99), (99, 100)] {
            let v = &v[from * KvType::F16.v_row_bytes(v_dim)..];
            table.attn_values(
                KvType::F16,
                &p[from..],
                n_pos,
                n_q,
                v,
                &[],
                to - from,
                v_dim,
                &mut parts,
                v_dim,
            );
        }
        assert_same(&|| table.name().to_owned(), &whole, &parts);
    }
}

/// A sum of n fused terms from zero has an error of at most n u (1 + n u) times the sum of the
/// magnitudes (every partial result is rounded once); 1.001 covers the second order for n <= 1024. In q8 a
/// term of a score is also rounded with the blocks behind it, and one of a value once more in its weight.
#[test]
fn the_scalar_table_is_within_its_bound() {
    let mut r = Random(14);
    for (n_q, m, blocks) in shapes(&mut r) {
        for kv in KvType::ALL {
            let q = vector(&mut r, n_q * m, Kind::Plain);
            let width = blocks * KV_TILE;
            let x = vector(&mut r, m * width, Kind::Plain);
            let (c, v) = (encode_keys(kv, &x, m), encode_values(kv, &x, width));
            let tiles = x.chunks(m * KV_TILE);
            let keys: Vec<Vec<f64>> = tiles.flat_map(keys_of).map(|k| rounded(kv, &k)).collect();
            let rows: Vec<Vec<f64>> = x.chunks(width).map(|row| rounded(kv, row)).collect();
            let roundings = match kv {
                KvType::Q8 => m + m.div_ceil(32) + 1,
                _ => m,
            };
            let mut scores = vec![0.0; n_q * width];
            let mut values = vec![0.0; n_q * width];
            scalar().attn_scores(kv, &q, m, n_q, m, &c, &[], blocks, &mut scores, width);
            scalar().attn_values(kv, &q, m, n_q, &v, &[], m, width, &mut values, width);
            for i in 0..n_q {
                for j in 0..width {
                    let key = |k: usize| keys[j][k];
                    let value = |k: usize| rows[k][j];
                    let terms = |of: &dyn Fn(usize) -> f64| {
                        (0..m)
                            .map(|k| q[i * m + k] as f64 * of(k))
                            .fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()))
                    };
                    for (what, got, (want, sum)) in [
                        ("score", scores[i * width + j], terms(&key)),
                        ("value", values[i * width + j], terms(&value)),
                    ] {
                        let bound = 1.001 * roundings as f64 * U * sum;
                        assert!(
                            (got as f64 - want).abs() <= bound,
                            "{what} {kv:?} {n_q} x {m} x {blocks}: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}

/// f32 -> f16 through a row of values and back, and into the tiles of keys.
fn narrow(k: &Kernels, x: &[f32]) -> Vec<u8> {
    let mut row = vec![0xaa; KvType::F16.v_row_bytes(x.len())];
    k.kv_store_v(KvType::F16, x, &mut row);
    row
}

#[test]
fn narrowing_rounds_to_nearest_even_on_every_table() {
    // Every f16 value, the middle between it and the next, and the neighbours of both: all
    // decisions of the rounding; then a walk over all floats. The reference is the half crate.
    let mut x = Vec::new();
    for h in 0..=u16::MAX {
        let v = f16::from_bits(h).to_f32();
        let next = f16::from_bits(h.wrapping_add(1)).to_f32();
        let middle = ((v as f64 + next as f64) / 2.0) as f32;
        for c in [v, middle] {
            x.extend([
                c,
                f32::from_bits(c.to_bits().wrapping_sub(1)),
                f32::from_bits(c.to_bits().wrapping_add(1)),
            ]);
        }
    }
    x.extend((0..=u32::MAX).step_by(4099).map(f32::from_bits));
    for k in others().into_iter().chain([scalar()]) {
        for chunk in x.chunks(1000) {
            let got = narrow(k, chunk);
            let (want, padding) = (halves(chunk), got.len() - 2 * chunk.len());
            for i in 0..chunk.len() {
                assert_eq!(
                    got[2 * i..2 * i + 2],
                    want[2 * i..2 * i + 2],
                    "{}: {:e}",
                    k.name(),
                    chunk[i]
                );
            }
            assert!(
                got[want.len()..].iter().all(|&b| b == 0),
                "{padding} bytes of padding"
            );
        }
    }
}

#[test]
fn widening_is_exact_on_every_table() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for k in others().into_iter().chain([scalar()]) {
        // One position of 65536 dimensions with weight one: x * 1 + -0 is x, signs of zeros
        // included.
        let mut out = vec![-0.0; 1 << 16];
        k.attn_values(
            KvType::F16,
            &[1.0],
            1,
            1,
            &all,
            &[],
            1,
            1 << 16,
            &mut out,
            1 << 16,
        );
        for (h, &got) in (0..=u16::MAX).zip(&out) {
            let want = f16::from_bits(h).to_f32();
            assert!(same(want, got), "{}: {h:#06x} {want:e} {got:e}", k.name());
        }
    }
}

#[test]
fn keys_and_values_come_back_where_they_were_put() {
    let mut r = Random(15);
    let mut place = Guarded::new(16 * 1024 * 4);
    for k in others().into_iter().chain([scalar()]) {
        for kv in KvType::ALL {
            for n in (1..=70).chain([128, 256, 1000]) {
                let x = vector(&mut r, n, Kind::Plain);
                let lane = r.below(KV_TILE);
                let what = |part: &str| format!("{} {kv:?} {part} of {n}", k.name());
                let tile = place.bytes_at_end(kv.k_tile_bytes(n), 0);
                tile.fill(0x11);
                let mut want = tile.to_vec();
                put_key(kv, &mut want, lane, &x);
                k.kv_store_k(kv, &x, tile, lane);
                assert!(tile == want, "{}", what("key"));
                let row = place.bytes_at_start(kv.v_row_bytes(n), r.below(7));
                row.fill(0x11);
                k.kv_store_v(kv, &x, row);
                let mut padded = x;
                padded.resize(n.next_multiple_of(KV_TILE), 0.0);
                assert!(row == encode_values(kv, &padded, n), "{}", what("value"));
            }
        }
    }
}

#[test]
fn what_cannot_be_quantized_shows() {
    for k in others().into_iter().chain([scalar()]) {
        let mut x = vec![1.0f32; 70];
        (x[40], x[69]) = (f32::INFINITY, 2f32.powi(-120));
        x[64..69].fill(0.0);
        let (mut tile, mut row) = (
            vec![0; KvType::Q8.k_tile_bytes(70)],
            vec![0; KvType::Q8.v_row_bytes(70)],
        );
        k.kv_store_k(KvType::Q8, &x, &mut tile, 3);
        k.kv_store_v(KvType::Q8, &x, &mut row);
        let mut scores = [0.0; KV_TILE];
        let q = [1.0; 70];
        k.attn_scores(
            KvType::Q8,
            &q,
            70,
            1,
            70,
            &tile,
            &[],
            1,
            &mut scores,
            KV_TILE,
        );
        assert!(scores[3].is_nan() && scores[2] == 0.0, "{}", k.name());
        let mut out = [0.0; 70];
        k.attn_values(KvType::Q8, &[1.0], 1, 1, &row, &[], 1, 70, &mut out, 70);
        assert_eq!((out[0], out[69]), (1.0, 0.0), "{}", k.name());
        assert!(out[32..64].iter().all(|x| x.is_nan()), "{}", k.name());
    }
}

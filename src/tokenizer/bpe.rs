//! Byte-pair encoding by merge rank: of all neighbouring symbols that a rule joins, the pair with the lowest rank is joined
//! first, of equal ranks the leftmost.
//!
//! Short words use a plain scan. Long ones (a text without word boundaries can be megabytes of one word) use a list of
//! positions per rank and a heap of ranks: positions of one rank almost always arrive in ascending order, so the work is
//! linear in the text, and what is touched lies close together. Words of a few runs of equal
//! symbols are merged run by run. Before that, a word is cut where no rule can ever join
//! the two symbols (`Joins`), which leaves the result as it is.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::prepared::View;
use super::trie::NONE;

/// Words up to this many symbols are scanned.
pub const SCAN: usize = 40;

/// One symbol of a word.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    /// Its id; ids at or above the vocabulary size are characters that only occur inside tokens, [`NONE`] is unknown.
    pub id: u32,
    /// Where it begins in the text.
    pub start: u32,
}

/// Buffers that are reused from word to word.
#[derive(Default)]
pub struct Scratch {
    ranks: Vec<(u32, u32)>,
    long: Long,
}

/// Which results are allowed: control tokens never come from plain text.
pub trait Allowed: Copy {
    /// Whether a merge may produce `id`.
    fn allows(&self, id: u32) -> bool;
}

/// Merges `symbols` in place.
pub fn merge(view: &View, symbols: &mut Vec<Symbol>, allowed: impl Allowed, scratch: &mut Scratch) {
    if symbols.len() < 2 {
        return;
    }
    if symbols.len() <= SCAN {
        scan(view, symbols, 0, allowed, &mut scratch.ranks);
    } else {
        long(view, symbols, allowed, &mut scratch.long);
    }
}

/// A run of equal symbols.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Their id.
    pub id: u32,
    /// How many there are.
    pub count: u32,
    /// Where the first one begins in the text.
    pub start: u32,
    /// Bytes of each.
    pub width: u32,
}

/// Runs that [`merge_runs`] takes on.
pub const MAX_RUNS: usize = 8;

/// Merges a long word of few runs (white space, rulers, `AAAA`) run by run instead of symbol by symbol. Returns false, with
/// `runs` unchanged, if a rule would interrupt a run half way or if the runs do not stay few.
pub fn merge_runs(view: &View, runs: &mut Vec<Run>, allowed: impl Allowed) -> bool {
    let mut work = runs.clone();
    // Every round over a run halves it, so a word needs a few rounds per doubling of its length.
    for _ in 0..512 {
        // (rank, result, index of the left run, both in one run)
        let mut best = (NONE, NONE, 0, false);
        for (i, run) in work.iter().enumerate() {
            if run.count > 1 {
                let (rank, result) = lookup(view, run.id, run.id, allowed);
                if rank < best.0 {
                    best = (rank, result, i, true);
                }
            }
            if let Some(next) = work.get(i + 1) {
                let (rank, result) = lookup(view, run.id, next.id, allowed);
                if rank < best.0 {
                    best = (rank, result, i, false);
                }
            }
        }
        let (rank, result, i, inside) = best;
        if rank == NONE {
            *runs = work;
            return true;
        }
        if work.len() > 8 * MAX_RUNS {
            return false;
        }
        let run = work[i];
        if !inside {
            let next = work[i + 1];
            let last = run.start + run.width * (run.count - 1);
            let new = [
                Run {
                    count: run.count - 1,
                    ..run
                },
                Run {
                    id: result,
                    count: 1,
                    start: last,
                    width: run.width + next.width,
                },
                Run {
                    count: next.count - 1,
                    start: next.start + next.width,
                    ..next
                },
            ];
            work.splice(i..i + 2, new.into_iter().filter(|r| r.count > 0));
            continue;
        }
        // From the left, two by two, as long as nothing that comes into being goes first.
        let before = i.checked_sub(1).map(|b| work[b].id);
        let first = |l: u32, r: u32| lookup(view, l, r, allowed).0 <= rank;
        if first(result, result)
            || first(result, run.id)
            || before.is_some_and(|b| first(b, result))
        {
            return false;
        }
        let pairs = Run {
            id: result,
            count: run.count / 2,
            start: run.start,
            width: run.width * 2,
        };
        let rest = Run {
            count: run.count % 2,
            start: run.start + pairs.width * pairs.count,
            ..run
        };
        work.splice(i..=i, [pairs, rest].into_iter().filter(|r| r.count > 0));
    }
    false
}

#[inline]
fn lookup(view: &View, left: u32, right: u32, allowed: impl Allowed) -> (u32, u32) {
    if left == NONE || right == NONE {
        return (NONE, NONE);
    }
    match view.merge(left, right) {
        Some((rank, result)) if rank != NONE && allowed.allows(result) => (rank, result),
        _ => (NONE, NONE),
    }
}

/// Merges the symbols from `from` on.
fn scan(
    view: &View,
    symbols: &mut Vec<Symbol>,
    from: usize,
    allowed: impl Allowed,
    ranks: &mut Vec<(u32, u32)>,
) {
    ranks.clear();
    ranks.extend(
        symbols[from..]
            .windows(2)
            .map(|w| lookup(view, w[0].id, w[1].id, allowed)),
    );
    loop {
        let mut best = (NONE, 0);
        for (i, &(rank, _)) in ranks.iter().enumerate() {
            if rank < best.0 {
                best = (rank, i);
            }
        }
        if best.0 == NONE {
            return;
        }
        let i = best.1;
        symbols[from + i].id = ranks[i].1;
        symbols.remove(from + i + 1);
        ranks.remove(i);
        if i > 0 {
            ranks[i - 1] = lookup(
                view,
                symbols[from + i - 1].id,
                symbols[from + i].id,
                allowed,
            );
        }
        if i < ranks.len() {
            ranks[i] = lookup(
                view,
                symbols[from + i].id,
                symbols[from + i + 1].id,
                allowed,
            );
        }
    }
}

/// A hasher for ranks: one multiplication.
#[derive(Default)]
struct RankHasher(u64);

impl Hasher for RankHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u32(b as u32);
        }
    }
    fn write_u32(&mut self, v: u32) {
        let h = (self.0 ^ v as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = h ^ h >> 32;
    }
}

/// The pending positions of one rank: an ascending list, and a heap for the few that arrive out of order.
#[derive(Default)]
struct Bucket {
    list: Vec<u32>,
    next: usize,
    late: BinaryHeap<Reverse<u32>>,
    queued: bool,
}

impl Bucket {
    fn push(&mut self, position: u32) {
        if self.next == self.list.len() {
            self.list.clear();
            self.next = 0;
        }
        match self.list.last() {
            Some(&last) if last > position => self.late.push(Reverse(position)),
            _ => self.list.push(position),
        }
    }

    fn pop(&mut self) -> Option<u32> {
        let listed = self.list.get(self.next).copied();
        match (listed, self.late.peek().map(|r| r.0)) {
            (Some(a), Some(b)) if b < a => self.late.pop().map(|r| r.0),
            (None, Some(_)) => self.late.pop().map(|r| r.0),
            (Some(a), _) => {
                self.next += 1;
                Some(a)
            }
            (None, None) => None,
        }
    }
}

#[derive(Default)]
struct Long {
    /// Neighbours of each position; `u32::MAX` at the ends.
    prev: Vec<u32>,
    next: Vec<u32>,
    /// Rank of joining a position with its right neighbour; [`NONE`] if no rule does, or it is gone.
    rank: Vec<u32>,
    by_rank: HashMap<u32, u32, BuildHasherDefault<RankHasher>>,
    buckets: Vec<Bucket>,
    ranks: BinaryHeap<Reverse<u32>>,
}

impl Long {
    fn push(&mut self, rank: u32, position: u32) {
        let n = self.buckets.len() as u32;
        let b = *self.by_rank.entry(rank).or_insert(n);
        if b == n {
            self.buckets.push(Bucket::default());
        }
        let bucket = &mut self.buckets[b as usize];
        bucket.push(position);
        if !bucket.queued {
            bucket.queued = true;
            self.ranks.push(Reverse(rank));
        }
    }
}

fn long(view: &View, symbols: &mut Vec<Symbol>, allowed: impl Allowed, l: &mut Long) {
    let n = symbols.len();
    l.by_rank.clear();
    l.buckets.clear();
    l.ranks.clear();
    l.prev.clear();
    l.prev.extend((0..n as u32).map(|i| i.wrapping_sub(1)));
    l.next.clear();
    l.next.extend(1..n as u32);
    l.next.push(NONE);
    l.rank.clear();
    l.rank.resize(n, NONE);
    for i in 0..n - 1 {
        let (rank, _) = lookup(view, symbols[i].id, symbols[i + 1].id, allowed);
        l.rank[i] = rank;
        if rank != NONE {
            l.push(rank, i as u32);
        }
    }
    const GONE: u32 = NONE - 1;
    while let Some(&Reverse(rank)) = l.ranks.peek() {
        let bucket = match l.by_rank.get(&rank) {
            Some(&b) => &mut l.buckets[b as usize],
            None => break,
        };
        let Some(position) = bucket.pop() else {
            bucket.queued = false;
            l.ranks.pop();
            continue;
        };
        let at = position as usize;
        // Entries whose pair has changed since are stale.
        if l.rank[at] != rank {
            continue;
        }
        let right = l.next[at] as usize;
        symbols[at].id = lookup(view, symbols[at].id, symbols[right].id, allowed).1;
        symbols[right].start = GONE;
        l.rank[right] = NONE;
        let after = l.next[right];
        l.next[at] = after;
        if after != NONE {
            l.prev[after as usize] = position;
        }
        let before = l.prev[at];
        for left in [before, position] {
            if left == NONE || l.next[left as usize] == NONE {
                if left != NONE {
                    l.rank[left as usize] = NONE;
                }
                continue;
            }
            let r = l.next[left as usize] as usize;
            let (rank, _) = lookup(view, symbols[left as usize].id, symbols[r].id, allowed);
            l.rank[left as usize] = rank;
            if rank != NONE {
                l.push(rank, left);
            }
        }
    }
    symbols.retain(|s| s.start != GONE);
}

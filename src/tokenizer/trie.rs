//! A byte trie in three flat arrays, built once at import and walked in place.
//!
//! Nodes are numbered breadth first; node 0 is the root. `first[i]..first[i + 1]` are the children of node `i`, in ascending
//! order of their `labels`; `values[i]` is the value of a key that ends at node `i`, or [`NONE`]. Children always have higher
//! numbers than their parent, so a walk ends after as many steps as the key has bytes, whatever the arrays hold.

use crate::error::{Error, Result};

/// "No value here" and "no such id".
pub const NONE: u32 = u32::MAX;

/// The u32 at index `i`; [`NONE`] outside the bytes.
#[inline]
pub fn u32_at(bytes: &[u8], i: usize) -> u32 {
    match bytes.get(i.wrapping_mul(4)..).and_then(|b| b.first_chunk()) {
        Some(b) => u32::from_le_bytes(*b),
        None => NONE,
    }
}

/// A trie under construction, as little-endian arrays.
#[derive(Debug, Default)]
pub struct TrieBytes {
    /// One byte per node: the label of the edge that leads to it (0 for the root).
    pub labels: Vec<u8>,
    /// One u32 per node and one more.
    pub first: Vec<u8>,
    /// One u32 per node.
    pub values: Vec<u8>,
}

/// Builds a trie from (key, value) pairs; of equal keys the last one counts, and empty keys are left out.
pub fn build(entries: &[(&[u8], u32)]) -> Result<TrieBytes> {
    let mut order: Vec<usize> = (0..entries.len())
        .filter(|&i| !entries[i].0.is_empty())
        .collect();
    order.sort_by(|&a, &b| entries[a].0.cmp(entries[b].0).then(a.cmp(&b)));
    let mut out = TrieBytes::default();
    if order.is_empty() {
        return Ok(out);
    }
    // A queue of key ranges that share the prefix of one node; its position in the queue is the node's number.
    let mut queue: Vec<(usize, usize, usize)> = vec![(0, order.len(), 0)];
    let mut next_child: usize = 1;
    out.labels.push(0);
    let mut at = 0;
    while at < queue.len() {
        let (mut lo, hi, depth) = queue[at];
        at += 1;
        let mut value = NONE;
        while lo < hi && entries[order[lo]].0.len() == depth {
            value = entries[order[lo]].1;
            lo += 1;
        }
        out.values.extend_from_slice(&value.to_le_bytes());
        let first = u32::try_from(next_child)
            .map_err(|_| Error::invalid("the vocabulary is too large for a trie"))?;
        out.first.extend_from_slice(&first.to_le_bytes());
        while lo < hi {
            let label = entries[order[lo]].0[depth];
            let end = lo + order[lo..hi].partition_point(|&i| entries[i].0[depth] <= label);
            queue.push((lo, end, depth + 1));
            out.labels.push(label);
            next_child += 1;
            lo = end;
        }
    }
    let last = u32::try_from(next_child)
        .map_err(|_| Error::invalid("the vocabulary is too large for a trie"))?;
    out.first.extend_from_slice(&last.to_le_bytes());
    Ok(out)
}

/// A trie in place.
#[derive(Clone, Copy, Debug)]
pub struct Trie<'a> {
    labels: &'a [u8],
    first: &'a [u8],
    values: &'a [u8],
}

impl<'a> Trie<'a> {
    /// The trie without keys.
    pub const EMPTY: Trie<'static> = Trie {
        labels: &[],
        first: &[],
        values: &[],
    };

    /// A view of the three arrays; `None` if their lengths do not fit together.
    pub fn new(labels: &'a [u8], first: &'a [u8], values: &'a [u8]) -> Option<Self> {
        let n = labels.len();
        let fits = if n == 0 {
            first.is_empty() && values.is_empty()
        } else {
            first.len() == (n + 1) * 4 && values.len() == n * 4
        };
        fits.then_some(Trie {
            labels,
            first,
            values,
        })
    }

    /// The child of `node` along `label`.
    #[inline]
    pub fn child(&self, node: u32, label: u8) -> Option<u32> {
        let node = node as usize;
        if node >= self.labels.len() {
            return None;
        }
        let lo = u32_at(self.first, node) as usize;
        let hi = u32_at(self.first, node + 1) as usize;
        if lo <= node {
            return None;
        }
        let labels = self.labels.get(lo..hi)?;
        let at = if labels.len() <= 8 {
            labels.iter().position(|&l| l == label)?
        } else {
            labels.partition_point(|&l| l < label)
        };
        if labels.get(at) != Some(&label) {
            return None;
        }
        Some((lo + at) as u32)
    }

    /// The value at `node`, or [`NONE`].
    #[inline]
    pub fn value(&self, node: u32) -> u32 {
        if (node as usize) < self.labels.len() {
            u32_at(self.values, node as usize)
        } else {
            NONE
        }
    }

    /// The node that `key` leads to from `node`.
    pub fn walk(&self, node: u32, key: &[u8]) -> Option<u32> {
        key.iter().try_fold(node, |n, &b| self.child(n, b))
    }

    /// The value of `key`, or [`NONE`].
    pub fn get(&self, key: &[u8]) -> u32 {
        self.walk(0, key).map_or(NONE, |n| self.value(n))
    }

    /// The longest key that `text` begins with: its length and value.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut node = 0;
        let mut best = None;
        for (i, &b) in text.iter().enumerate() {
            match self.child(node, b) {
                Some(n) => node = n,
                None => break,
            }
            let v = self.value(node);
            if v != NONE {
                best = Some((i + 1, v));
            }
        }
        best
    }

    /// Which bytes keys begin with.
    pub fn first_bytes(&self) -> [bool; 256] {
        let mut out = [false; 256];
        if !self.labels.is_empty() {
            let hi = (u32_at(self.first, 1) as usize).min(self.labels.len());
            for &l in self.labels.get(1..hi).unwrap_or(&[]) {
                out[l as usize] = true;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trie_finds_exactly_its_keys() {
        let keys: Vec<(&[u8], u32)> = vec![
            (b"a", 1),
            (b"ab", 2),
            (b"abc", 3),
            (b"b\0c", 4),
            (b"\xff\xff", 5),
            (b"", 6),
            (b"a", 7),
        ];
        let t = build(&keys).unwrap();
        let t = Trie::new(&t.labels, &t.first, &t.values).unwrap();
        assert_eq!(t.get(b"a"), 7, "of equal keys the last one counts");
        assert_eq!(t.get(b"ab"), 2);
        assert_eq!(t.get(b"abc"), 3);
        assert_eq!(t.get(b"b\0c"), 4);
        assert_eq!(t.get(b"\xff\xff"), 5);
        assert_eq!(t.get(b""), NONE);
        assert_eq!(t.get(b"b"), NONE);
        assert_eq!(t.get(b"abcd"), NONE);
        assert_eq!(t.longest(b"abd"), Some((2, 2)));
        assert_eq!(t.longest(b"zz"), None);
        let first = t.first_bytes();
        assert!(
            first[b'a' as usize] && first[b'b' as usize] && first[255] && !first[b'c' as usize]
        );
    }

    #[test]
    fn hostile_arrays_end_every_walk() {
        // Every node claims the root's children: a cycle if numbers were trusted.
        let labels = [0u8, b'a', b'a'];
        let first: Vec<u8> = [1u32, 0, 1, u32::MAX]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let values = [0xffu8; 12];
        let t = Trie::new(&labels, &first, &values).unwrap();
        assert_eq!(t.longest(&[b'a'; 100]), None);
        assert!(Trie::new(&labels, &first[..8], &values).is_none());
    }
}

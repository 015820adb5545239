//! Added tokens: the leftmost, then longest, matches of their texts are cut out before anything else looks at the text.

use super::prepared::{View, added_flags as flags};
use super::trie::Trie;
use super::unicode::WORD;

/// A piece of a text: an added token, or the text between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An added token.
    Token(u32),
    /// A byte range of the text.
    Text(usize, usize),
}

/// Where special tokens count as such; elsewhere they are ordinary text.
#[derive(Clone, Copy, Debug)]
pub enum Special<'a> {
    /// In no place.
    Nowhere,
    /// In every place.
    Everywhere,
    /// Where they do not overlap any of these ranges of bytes, which ascend and do not overlap each other.
    Outside(&'a [(usize, usize)]),
}

impl Special<'_> {
    fn count(&self, start: usize, stop: usize) -> bool {
        match self {
            Special::Nowhere => false,
            Special::Everywhere => true,
            Special::Outside(ranges) => !overlap(ranges, start, stop),
        }
    }
}

/// Whether one of the ranges, which ascend and do not overlap, has a byte from `start` to `stop`.
pub fn overlap(ranges: &[(usize, usize)], start: usize, stop: usize) -> bool {
    let after = ranges.partition_point(|&(_, end)| end <= start);
    ranges.get(after).is_some_and(|&(from, _)| from < stop)
}

/// Cuts `text` at the added tokens of `trie`. Special tokens are ordinary text where they do not count; as in `tokenizers`, the
/// text of a match that does not count is not searched again, unless other places count: a match that reaches into a place where it
/// does not must not hide one behind it.
pub fn partition(
    view: &View,
    trie: Trie,
    first: &[bool; 256],
    text: &str,
    special: Special,
    out: &mut Vec<Part>,
) {
    let bytes = text.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        if !first[bytes[at] as usize] {
            at += 1;
            continue;
        }
        let Some((len, index)) = trie.longest(&bytes[at..]) else {
            at += 1;
            continue;
        };
        let (mut start, mut stop) = (at, at + len);
        at = stop;
        let Some((id, f)) = view.added(index) else {
            continue;
        };
        // Keys are whole strings, so a match begins and ends between characters unless the tables are damaged.
        if !text.is_char_boundary(start) || !text.is_char_boundary(stop) {
            continue;
        }
        if f & flags::SPECIAL != 0 && !special.count(start, stop) {
            if let Special::Outside(_) = special {
                at = start + 1;
            }
            continue;
        }
        if f & flags::SINGLE_WORD != 0 {
            let before = text[..start].chars().next_back();
            let after = text[stop..].chars().next();
            if [before, after]
                .into_iter()
                .flatten()
                .any(|c| WORD.contains(c))
            {
                continue;
            }
        }
        if f & flags::LSTRIP != 0 {
            start = text[..start]
                .trim_end_matches(char::is_whitespace)
                .len()
                .max(from);
        }
        if f & flags::RSTRIP != 0 {
            let rest = &text[stop..];
            stop += rest.len() - rest.trim_start_matches(char::is_whitespace).len();
        }
        if from < start {
            out.push(Part::Text(from, start));
        }
        out.push(Part::Token(id));
        from = stop;
    }
    if from < bytes.len() {
        out.push(Part::Text(from, bytes.len()));
    }
}

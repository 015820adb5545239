//! Unigram: the segmentation with the highest sum of scores (Viterbi), linear in the text.
//!
//! `tokenizers` adds f64 scores; SentencePiece adds f32 scores and gives user-defined pieces a bonus. Of equal sums the
//! one found first counts, that is, the one whose last piece begins earlier.

use super::definition::TokenKind;
use super::prepared::{View, kind_from_flags};
use super::trie::NONE;

/// The options of the model.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The unknown token.
    pub unk: Option<u32>,
    /// Score of an unknown character.
    pub unk_score: f64,
    /// SentencePiece's arithmetic.
    pub sentencepiece: bool,
    /// The best score, for the bonus of user-defined pieces.
    pub max_score: f64,
}

/// Bytes after which a position that every path goes through is looked for.
const WINDOW: usize = 1 << 14;

#[derive(Clone, Copy)]
struct Node {
    score: f64,
    id: u32,
    from: u32,
}

/// Buffers that are reused from word to word.
#[derive(Default)]
pub struct Scratch {
    nodes: Vec<Node>,
    /// The best path of a window, from right to left: (start, end, id), id [`NONE`] for unknown.
    path: Vec<(u32, u32, u32)>,
}

/// Segments `word` and calls `piece(start, end, id)` from left to right; the id is [`NONE`] for a run of unknown characters.
/// `word` is shorter than 4 GiB.
pub fn encode(
    view: &View,
    word: &str,
    options: &Options,
    allowed: impl Fn(u32) -> bool,
    scratch: &mut Scratch,
    mut piece: impl FnMut(usize, usize, u32),
) {
    let bytes = word.as_bytes();
    let Scratch { nodes, path } = scratch;
    let empty = Node {
        score: 0.0,
        id: NONE,
        from: NONE,
    };
    nodes.clear();
    nodes.push(empty);
    // SentencePiece keeps sums as f32; a candidate is computed in f64 only where it holds the bonus.
    let narrow = |x: f64| {
        if options.sentencepiece {
            x as f32 as f64
        } else {
            x
        }
    };
    // `nodes` are the positions from `base` on. Where no piece reaches across a position, every path goes through it: what
    // lies before is decided, and only its last run of unknown characters stays open.
    let mut base = 0;
    let mut reach = 0;
    let mut unknown: Option<(usize, usize)> = None;
    for (at, c) in word.char_indices() {
        if reach <= at && at - base >= WINDOW {
            let score = nodes[at - base].score;
            flush(nodes, path, base, options, &mut unknown, &mut piece);
            nodes.clear();
            nodes.push(Node { score, ..empty });
            base = at;
        }
        let here = nodes[at - base].score;
        let char_len = c.len_utf8();
        if nodes.len() <= at - base + char_len {
            nodes.resize(at - base + char_len + 1, empty);
        }
        let mut single = false;
        let mut node = 0;
        for (i, &b) in bytes[at..].iter().enumerate() {
            match view.trie.child(node, b) {
                Some(n) => node = n,
                None => break,
            }
            let id = view.trie.value(node);
            if id == NONE || !allowed(id) {
                continue;
            }
            let len = i + 1;
            let candidate = if options.sentencepiece {
                match kind_from_flags(view.flags(id)) {
                    TokenKind::Unused => continue,
                    TokenKind::UserDefined => {
                        (len as f32 * options.max_score as f32) as f64 - 0.1 + here
                    }
                    _ => narrow(view.score(id) + here),
                }
            } else {
                view.score(id) + here
            };
            if nodes.len() <= at - base + len {
                nodes.resize(at - base + len + 1, empty);
            }
            let target = &mut nodes[at - base + len];
            if target.from == NONE || candidate > target.score {
                *target = Node {
                    score: narrow(candidate),
                    id,
                    from: (at - base) as u32,
                };
            }
            reach = reach.max(at + len);
            single |= len == char_len;
        }
        if !single {
            let target = &mut nodes[at - base + char_len];
            let candidate = narrow(options.unk_score + here);
            if target.from == NONE || candidate > target.score {
                *target = Node {
                    score: candidate,
                    id: options.unk.unwrap_or(NONE),
                    from: (at - base) as u32,
                };
            }
            reach = reach.max(at + char_len);
        }
    }
    nodes.truncate(bytes.len() - base + 1);
    flush(nodes, path, base, options, &mut unknown, &mut piece);
    if let Some((from, to)) = unknown {
        piece(from, to, NONE);
    }
}

/// Follows the best path back from the last node and hands its pieces on; a run of unknown characters at its end stays open.
fn flush(
    nodes: &[Node],
    path: &mut Vec<(u32, u32, u32)>,
    base: usize,
    options: &Options,
    open: &mut Option<(usize, usize)>,
    piece: &mut impl FnMut(usize, usize, u32),
) {
    path.clear();
    let mut end = nodes.len() - 1;
    while end > 0 {
        let node = nodes[end];
        // A token that ends inside a character (damaged tables) leaves a gap: show it as unknown.
        let from = (node.from as usize).min(end - 1);
        let known = node.from != NONE && Some(node.id) != options.unk;
        path.push((from as u32, end as u32, if known { node.id } else { NONE }));
        end = from;
    }
    for &(from, to, id) in path.iter().rev() {
        let (from, to) = (base + from as usize, base + to as usize);
        if id == NONE {
            let start = open.map_or(from, |o| o.0);
            *open = Some((start, to));
            continue;
        }
        if let Some((a, b)) = open.take() {
            piece(a, b, NONE);
        }
        piece(from, to, id);
    }
}

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
    /// The best path, from right to left: (start, end, id), id [`NONE`] for unknown.
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
    let nodes = &mut scratch.nodes;
    nodes.clear();
    nodes.resize(
        bytes.len() + 1,
        Node {
            score: 0.0,
            id: NONE,
            from: NONE,
        },
    );
    // SentencePiece keeps sums as f32; a candidate is computed in f64 only where it holds the bonus.
    let narrow = |x: f64| {
        if options.sentencepiece {
            x as f32 as f64
        } else {
            x
        }
    };
    for (at, c) in word.char_indices() {
        let here = nodes[at].score;
        let char_len = c.len_utf8();
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
            let target = &mut nodes[at + len];
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
            if target.from == NONE || candidate > target.score {
                *target = Node {
                    score: narrow(candidate),
                    id,
                    from: at as u32,
                };
            }
            single |= len == char_len;
        }
        if !single {
            let target = &mut nodes[at + char_len];
            let candidate = narrow(options.unk_score + here);
            if target.from == NONE || candidate > target.score {
                *target = Node {
                    score: candidate,
                    id: options.unk.unwrap_or(NONE),
                    from: at as u32,
                };
            }
        }
    }
    let path = &mut scratch.path;
    path.clear();
    let mut end = bytes.len();
    while end > 0 {
        let node = nodes[end];
        let from = node.from as usize;
        if from >= end {
            // A token that ends inside a character (damaged tables) leaves a gap: show it as unknown.
            path.push((0, end as u32, NONE));
            break;
        }
        let unknown = node.id == NONE || Some(node.id) == options.unk;
        match path.last_mut() {
            Some(last) if unknown && last.2 == NONE => last.0 = from as u32,
            _ => path.push((
                from as u32,
                end as u32,
                if unknown { NONE } else { node.id },
            )),
        }
        end = from;
    }
    for &(from, to, id) in path.iter().rev() {
        piece(from as usize, to as usize, id);
    }
}

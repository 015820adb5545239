//! WordPiece: each word is the longest token it begins with, then the longest continuation, and so on; a word that cannot be
//! covered is unknown as a whole.

use super::prepared::View;

/// Encodes one word. `first` and `rest` are the trie nodes that the first piece and the following ones start from (`None`
/// when no token has that prefix).
pub fn encode(
    view: &View,
    word: &str,
    first: Option<u32>,
    rest: Option<u32>,
    unk: u32,
    max_chars: u32,
    allowed: impl Fn(u32) -> bool,
    out: &mut Vec<u32>,
) {
    if max_chars > 0 && word.chars().nth(max_chars as usize).is_some() {
        out.push(unk);
        return;
    }
    let from = out.len();
    let bytes = word.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let Some(mut node) = (if at == 0 { first } else { rest }) else {
            break;
        };
        let mut best = None;
        for (i, &b) in bytes[at..].iter().enumerate() {
            match view.trie.child(node, b) {
                Some(n) => node = n,
                None => break,
            }
            let id = view.trie.value(node);
            let end = at + i + 1;
            if view.token(id).is_some() && allowed(id) && word.is_char_boundary(end) {
                best = Some((end, id));
            }
        }
        let Some((end, id)) = best else { break };
        out.push(id);
        at = end;
    }
    if at < bytes.len() {
        out.truncate(from);
        out.push(unk);
    }
}

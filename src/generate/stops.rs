//! Stop strings in streamed text.
//!
//! Text that may be the beginning of a stop string is held back until it is clear that it is not. So nothing of a stop string ever
//! leaves, however the text is cut into pieces, and everything else leaves as early as it can.

/// Bytes of one id's text that memory is set aside for.
pub(super) const PIECE: usize = 64;

/// Watches streamed text for stop strings.
pub struct Stops {
    strings: Vec<String>,
    held: String,
}

impl Stops {
    /// Watches for these strings; empty ones are ignored.
    pub fn new(strings: &[String]) -> Stops {
        Stops {
            strings: strings.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::with_capacity(PIECE + strings.iter().map(String::len).max().unwrap_or(0)),
        }
    }

    /// Takes the next piece; appends what may leave now, and returns whether a stop string was completed (its text, and what follows it in
    /// the piece, never leaves). Of several stop strings the one that begins first counts.
    pub fn push(&mut self, piece: &str, out: &mut String) -> bool {
        if self.strings.is_empty() {
            out.push_str(piece);
            return false;
        }
        self.held.push_str(piece);
        let found = self.strings.iter().filter_map(|s| self.held.find(s)).min();
        if let Some(at) = found {
            self.held.truncate(at);
            self.finish(out);
            return true;
        }
        out.extend(self.held.drain(..self.held.len() - self.tail()));
        false
    }

    /// Appends what was held back, at the end of the text.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn tail(&self) -> usize {
        let longest = self.strings.iter().map(|s| s.len() - 1).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| {
                let end = &self.held[at..];
                self.strings.iter().any(|s| s.starts_with(end))
            })
            .map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let strings: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut watch = Stops::new(&strings);
        let mut out = Vec::new();
        for piece in pieces {
            let mut text = String::new();
            let stopped = watch.push(piece, &mut text);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        let mut text = String::new();
        watch.finish(&mut text);
        out.push(text);
        (out, false)
    }

    #[test]
    fn a_stop_string_across_pieces_never_leaves() {
        let (out, stopped) = feed(&["</end>"], &["one <", "/en", "d> two"]);
        assert_eq!(out, ["one ", "", ""]);
        assert!(stopped);
    }

    #[test]
    fn a_false_beginning_leaves_later() {
        let (out, stopped) = feed(&["</end>"], &["a</", "en", "b</e"]);
        assert_eq!(out, ["a", "", "</enb", "</e"]);
        assert!(!stopped);
    }

    #[test]
    fn a_beginning_within_a_false_beginning_is_kept() {
        // "aab" after "aaa": the last two letters may still begin it.
        let (out, stopped) = feed(&["aab"], &["a", "a", "a", "b", "c"]);
        assert_eq!(out, ["", "", "a", ""]);
        assert!(stopped);
    }

    #[test]
    fn the_first_of_several_counts_and_none_means_none() {
        let (out, stopped) = feed(&["Z", "YX"], &["abYXcZ"]);
        assert_eq!((out, stopped), (vec!["ab".to_string()], true));
        let (out, stopped) = feed(&["", "q"], &["ж", "жж"]);
        assert_eq!(out.concat(), "жжж");
        assert!(!stopped);
    }

    /// Every way to cut a text into pieces gives the same text before the stop.
    #[test]
    fn the_cut_does_not_matter() {
        let text = "xэabcabdabc-эcab";
        let stops = ["abd".to_string(), "-эc".to_string()];
        let expected = &text[..text.find("abd").unwrap()];
        let ends: Vec<usize> = text
            .char_indices()
            .map(|(i, _)| i)
            .chain([text.len()])
            .collect();
        for mask in 0u32..1 << (ends.len() - 2) {
            let mut watch = Stops::new(&stops);
            let mut out = String::new();
            let mut from = 0;
            for (i, &end) in ends[1..].iter().enumerate() {
                if end < text.len() && mask >> i & 1 == 0 {
                    continue;
                }
                let stopped = watch.push(&text[from..end], &mut out);
                from = end;
                if stopped {
                    break;
                }
            }
            assert_eq!(out, expected, "mask {mask:b}");
        }
    }
}

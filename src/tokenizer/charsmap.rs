//! SentencePiece's precompiled character map: a Darts double-array trie from byte strings to NUL-terminated replacements.
//!
//! ```text
//! 0  length of the trie in bytes   u32
//! 4  the trie                      u32 units
//! .. replacements, each ended by NUL
//! ```
//! A unit is `| leaf flag bit 31 or label bits 0-7 | value bits 0-30 | has_leaf bit 8 | offset bits 10-30, shifted left by 8 if
//! bit 9 is set |`. Every access is checked; a walk ends after as many steps as the key has bytes.

use super::trie::u32_at;
use crate::error::{Error, Result};

/// A character map in place.
#[derive(Clone, Copy, Debug)]
pub struct Charsmap<'a> {
    units: &'a [u8],
    texts: &'a [u8],
}

impl<'a> Charsmap<'a> {
    /// Checks the outer structure of a map.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let bad = |what: String| Error::invalid(format_args!("precompiled_charsmap: {what}"));
        if bytes.len() < 4 {
            return Err(bad(format!("{} bytes, expected at least 4", bytes.len())));
        }
        let size = u32_at(bytes, 0) as usize;
        let rest = &bytes[4..];
        if size > rest.len() || !size.is_multiple_of(4) || size < 4 {
            return Err(bad(format!(
                "a trie of {size} bytes does not fit {} bytes",
                rest.len()
            )));
        }
        let (units, texts) = rest.split_at(size);
        if std::str::from_utf8(texts).is_err() {
            return Err(bad("the replacements are not UTF-8".into()));
        }
        Ok(Charsmap { units, texts })
    }

    fn unit(&self, i: usize) -> Option<u32> {
        (i < self.units.len() / 4).then(|| u32_at(self.units, i))
    }

    /// All keys that `text` begins with, shortest first: their length and the position of their replacement.
    fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, usize) -> bool) {
        let offset = |u: u32| ((u >> 10) << ((u & 1 << 9) >> 6)) as usize;
        let Some(root) = self.unit(0) else { return };
        let mut node = offset(root);
        for (i, &b) in text.iter().enumerate() {
            if b == 0 {
                return;
            }
            node ^= b as usize;
            let Some(unit) = self.unit(node) else { return };
            if unit & (1 << 31 | 0xff) != b as u32 {
                return;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let Some(leaf) = self.unit(node) else { return };
                if !found(i + 1, (leaf & 0x7fff_ffff) as usize) {
                    return;
                }
            }
        }
    }

    fn text_at(&self, at: usize) -> Option<&'a str> {
        let rest = self.texts.get(at..)?;
        let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// The replacement of the shortest key that `text` begins with, as `tokenizers` uses the map.
    pub fn shortest(&self, text: &str) -> Option<&'a str> {
        let mut at = None;
        self.prefixes(text.as_bytes(), |_, v| {
            at = Some(v);
            false
        });
        self.text_at(at?)
    }

    /// Length and replacement of the longest key that `text` begins with, as SentencePiece uses the map (which looks at the
    /// first 32 keys only).
    pub fn longest(&self, text: &str) -> Option<(usize, &'a str)> {
        let mut best = None;
        let mut count = 0;
        self.prefixes(text.as_bytes(), |len, v| {
            best = Some((len, v));
            count += 1;
            count < 32
        });
        let (len, at) = best?;
        // A key that ends inside a character cannot come from an honest map.
        text.is_char_boundary(len).then_some(())?;
        Some((len, self.text_at(at)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map with the single key "a" -> "b": root at 0 with offset 1 ^ ..., laid out by hand.
    fn one_key() -> Vec<u8> {
        let mut units = vec![0u32; 256];
        units[0] = 1 << 10; // children of the root at 1 ^ label
        units[1 ^ b'a' as usize] = (2 << 10) | 1 << 8 | b'a' as u32; // has a leaf
        let leaf = (1 ^ b'a' as usize) ^ 2;
        units[leaf] = 1 << 31;
        let mut out = ((units.len() * 4) as u32).to_le_bytes().to_vec();
        out.extend(units.iter().flat_map(|u| u.to_le_bytes()));
        out.extend(b"b\0");
        out
    }

    #[test]
    fn a_key_is_found() {
        let bytes = one_key();
        let map = Charsmap::new(&bytes).unwrap();
        assert_eq!(map.shortest("ax"), Some("b"));
        assert_eq!(map.longest("ax"), Some((1, "b")));
        assert_eq!(map.longest("xa"), None);
    }

    #[test]
    fn a_charsmap_of_one_to_three_bytes_is_refused() {
        for n in 1..4 {
            assert!(Charsmap::new(&[1, 2, 3][..n]).is_err());
        }
        assert!(Charsmap::new(&[255, 255, 255, 255, 0]).is_err());
    }

    #[test]
    fn a_root_with_a_leaf_bit_and_a_huge_offset_finds_nothing() {
        let mut bytes = 4u32.to_le_bytes().to_vec();
        bytes.extend(u32::MAX.to_le_bytes());
        let map = Charsmap::new(&bytes).unwrap();
        assert_eq!(map.shortest("abc"), None);
        assert_eq!(map.longest("abc"), None);
    }

    #[test]
    fn more_than_32_prefixes_are_harmless() {
        // Every unit has label 'a', a leaf and an offset of zero onto itself ^ 'a': an endless chain of matches.
        let unit = 1u32 << 8 | b'a' as u32;
        let mut bytes = 1024u32.to_le_bytes().to_vec();
        bytes.extend(std::iter::repeat_n(unit.to_le_bytes(), 256).flatten());
        bytes.extend(b"q\0");
        let map = Charsmap::new(&bytes).unwrap();
        let text = "a".repeat(100);
        assert!(map.longest(&text).is_none_or(|(n, _)| n <= 32));
    }
}

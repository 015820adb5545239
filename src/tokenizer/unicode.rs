//! Character classes: sets of code points with constant-time membership, taken from the Unicode tables of `regex-syntax`.

use std::sync::OnceLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

use crate::error::{Error, Result};

/// A set of code points.
#[derive(Clone)]
pub struct CharSet {
    ascii: u128,
    /// One bit per code point below U+10000.
    bmp: Box<[u64]>,
    /// Ascending ranges at and above U+10000.
    astral: Box<[(u32, u32)]>,
}

impl std::fmt::Debug for CharSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "CharSet({} of the BMP)",
            self.bmp.iter().map(|w| w.count_ones()).sum::<u32>()
        )
    }
}

impl CharSet {
    /// The set that holds the given inclusive ranges.
    pub fn from_ranges(ranges: &[(u32, u32)]) -> Self {
        let mut bmp = vec![0u64; 1024].into_boxed_slice();
        let mut astral = Vec::new();
        for &(lo, hi) in ranges {
            let end = hi.min(0xffff);
            let mut c = lo;
            while c <= end {
                let (word, bit) = (c as usize / 64, c % 64);
                let last = (end - c).min(63 - bit);
                let ones = if last == 63 {
                    u64::MAX
                } else {
                    ((1u64 << (last + 1)) - 1) << bit
                };
                bmp[word] |= ones;
                c += last + 1;
            }
            if hi > 0xffff {
                astral.push((lo.max(0x1_0000), hi));
            }
        }
        astral.sort_unstable();
        CharSet {
            ascii: bmp[0] as u128 | (bmp[1] as u128) << 64,
            bmp,
            astral: astral.into_boxed_slice(),
        }
    }

    /// The set a regular expression for one character describes (`\p{L}`, `[^\s\p{N}]`, `(?i)s`).
    pub fn parse(class: &str) -> Result<Self> {
        let hir = regex_syntax::Parser::new()
            .parse(class)
            .map_err(|_| Error::invalid(format_args!("{class:?} is not a character class")))?;
        let ranges: Vec<(u32, u32)> = match hir.kind() {
            HirKind::Class(HirClass::Unicode(c)) => c
                .ranges()
                .iter()
                .map(|r| (r.start() as u32, r.end() as u32))
                .collect(),
            HirKind::Class(HirClass::Bytes(c)) => c
                .ranges()
                .iter()
                .map(|r| (r.start() as u32, r.end() as u32))
                .collect(),
            HirKind::Literal(l) => {
                let text = std::str::from_utf8(&l.0).unwrap_or("");
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => vec![(c as u32, c as u32)],
                    _ => {
                        return Err(Error::invalid(format_args!(
                            "{class:?} is not one character"
                        )));
                    }
                }
            }
            _ => {
                return Err(Error::invalid(format_args!(
                    "{class:?} is not one character"
                )));
            }
        };
        Ok(Self::from_ranges(&ranges))
    }

    /// Whether `c` belongs to the set.
    #[inline]
    pub fn contains(&self, c: char) -> bool {
        let c = c as u32;
        if c < 128 {
            self.ascii >> c & 1 == 1
        } else if c < 0x1_0000 {
            self.bmp[c as usize / 64] >> (c % 64) & 1 == 1
        } else {
            let i = self.astral.partition_point(|r| r.1 < c);
            self.astral.get(i).is_some_and(|r| r.0 <= c)
        }
    }

    /// Membership of the ASCII characters, one bit each.
    pub fn ascii(&self) -> u128 {
        self.ascii
    }

    /// Whether no character belongs to both sets.
    pub fn is_disjoint(&self, other: &CharSet) -> bool {
        self.bmp.iter().zip(&other.bmp).all(|(a, b)| a & b == 0)
            && self
                .astral
                .iter()
                .all(|a| other.astral.iter().all(|b| a.1 < b.0 || b.1 < a.0))
    }
}

/// A class whose set is computed once, at its first use.
pub struct Class {
    expression: &'static str,
    set: OnceLock<CharSet>,
}

impl Class {
    const fn new(expression: &'static str) -> Self {
        Class {
            expression,
            set: OnceLock::new(),
        }
    }

    /// Whether `c` belongs to the class.
    pub fn contains(&self, c: char) -> bool {
        // The expressions are the constants below, which the tests parse.
        self.set
            .get_or_init(|| {
                CharSet::parse(self.expression).unwrap_or_else(|_| CharSet::from_ranges(&[]))
            })
            .contains(c)
    }
}

/// General category M.
pub static MARK: Class = Class::new(r"\p{M}");
/// General category Mn.
pub static NONSPACING_MARK: Class = Class::new(r"\p{Mn}");
/// The `\w` of regular expressions.
pub static WORD: Class = Class::new(r"\w");
/// ASCII punctuation and symbols, and general category P.
pub static PUNCTUATION: Class = Class::new(r"[\p{P}!-/:-@\[-`{-~]");
/// Control, format and private-use characters.
pub static OTHER: Class = Class::new(r"[\p{Cc}\p{Cf}\p{Co}]");

/// A CJK ideograph as BERT counts them.
pub fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

/// The character that GPT-2's alphabet uses for `byte`: printable Latin-1 stands for itself, the rest follow from U+0100.
pub fn byte_to_char(byte: u8) -> char {
    let b = byte as u32;
    let code = match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => b,
        0x00..=0x20 => 0x100 + b,
        0x7F..=0xA0 => 0x100 + 33 + (b - 0x7F),
        0xAD => 0x100 + 33 + 34,
    };
    char::from_u32(code).unwrap_or('\u{FFFD}')
}

/// The byte that `c` stands for in GPT-2's alphabet.
pub fn char_to_byte(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes that a piece in GPT-2's alphabet stands for; `None` if a character is not of that alphabet.
pub fn alphabet_to_bytes(piece: &str) -> Option<Vec<u8>> {
    piece.chars().map(char_to_byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let mut seen = std::collections::HashSet::new();
        for b in 0..=255u8 {
            let c = byte_to_char(b);
            assert!(seen.insert(c));
            assert_eq!(char_to_byte(c), Some(b));
        }
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(char_to_byte(' '), None);
    }

    #[test]
    fn sets_hold_what_their_expressions_say() {
        let s = CharSet::parse(r"[^\s\p{L}\p{N}]").unwrap();
        for (c, want) in [
            ('!', true),
            ('\u{301}', true),
            ('\u{1f600}', true),
            ('a', false),
            ('\u{a0}', false),
            ('\u{85}', false),
            ('\u{3000}', false),
            ('\u{10428}', false),
            ('\u{b2}', false),
        ] {
            assert_eq!(s.contains(c), want, "{c:?}");
        }
        assert!(CharSet::parse("ab").is_err());
        assert!(CharSet::parse("(?i)s").unwrap().contains('\u{17f}'));
        let upper = CharSet::parse(r"\p{Lu}").unwrap();
        assert!(upper.contains('\u{10400}') && !upper.contains('\u{10428}'));
        assert!(upper.is_disjoint(&CharSet::parse(r"\p{Ll}").unwrap()));
        assert!(!upper.is_disjoint(&CharSet::parse(r"\p{L}").unwrap()));
    }

    #[test]
    fn every_class_parses() {
        for (class, c) in [
            (&MARK, '\u{903}'),
            (&NONSPACING_MARK, '\u{301}'),
            (&WORD, '_'),
            (&PUNCTUATION, '$'),
            (&OTHER, '\u{200d}'),
        ] {
            assert!(class.contains(c), "{:?}", class.expression);
            assert!(!class.contains(' '), "{:?}", class.expression);
        }
    }
}

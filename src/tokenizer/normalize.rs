//! Text normalisation, step by step, as `tokenizers` and SentencePiece do it.

use std::borrow::Cow;

use unicode_normalization::{
    IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick,
};
use unicode_segmentation::UnicodeSegmentation;

use super::charsmap::Charsmap;
use super::definition::Normalizer;
use super::pattern::Matcher;
use super::trie::Trie;
use super::unicode::{MARK, NONSPACING_MARK, OTHER, PUNCTUATION, byte_to_char, is_cjk};
use crate::error::Result;

/// U+2581, which SentencePiece writes for a space.
pub const SPACE: char = '\u{2581}';

/// A normaliser ready to run.
#[derive(Debug)]
pub struct Step {
    rule: Normalizer,
    matcher: Option<Matcher>,
}

impl Step {
    /// Compiles what the rule needs.
    pub fn new(rule: &Normalizer) -> Result<Self> {
        let matcher = match rule {
            Normalizer::Replace { pattern, .. } => Some(Matcher::new(pattern)?),
            _ => None,
        };
        Ok(Step {
            rule: rule.clone(),
            matcher,
        })
    }
}

/// Tables that some steps use.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// SentencePiece's character map, if there is one.
    pub charsmap: Option<Charsmap<'a>>,
    /// Pieces that SentencePiece does not normalise.
    pub user_defined: Trie<'a>,
}

/// Runs all steps. `at_start` is cleared when leading characters of the text were removed.
pub fn normalize<'t>(
    steps: &[Step],
    tables: Tables,
    text: Cow<'t, str>,
    at_start: &mut bool,
) -> Result<Cow<'t, str>> {
    let mut text = text;
    for step in steps {
        text = apply(step, tables, text, at_start)?;
    }
    Ok(text)
}

fn apply<'t>(
    step: &Step,
    tables: Tables,
    text: Cow<'t, str>,
    at_start: &mut bool,
) -> Result<Cow<'t, str>> {
    let changed = |yes: bool, new: &dyn Fn(&str) -> String| {
        if yes {
            Cow::Owned(new(&text))
        } else {
            text.clone()
        }
    };
    Ok(match &step.rule {
        Normalizer::Nfc => changed(is_nfc_quick(text.chars()) != IsNormalized::Yes, &|t| {
            t.nfc().collect()
        }),
        Normalizer::Nfd => changed(is_nfd_quick(text.chars()) != IsNormalized::Yes, &|t| {
            t.nfd().collect()
        }),
        Normalizer::Nfkc => changed(is_nfkc_quick(text.chars()) != IsNormalized::Yes, &|t| {
            t.nfkc().collect()
        }),
        Normalizer::Nfkd => changed(is_nfkd_quick(text.chars()) != IsNormalized::Yes, &|t| {
            t.nfkd().collect()
        }),
        Normalizer::Lowercase => Cow::Owned(lowercase(&text)),
        Normalizer::Strip { left, right } => {
            let mut t: &str = &text;
            if *left {
                let cut = t.trim_start_matches(char::is_whitespace);
                *at_start &= cut.len() == t.len();
                t = cut;
            }
            if *right {
                t = t.trim_end_matches(char::is_whitespace);
            }
            Cow::Owned(t.to_owned())
        }
        Normalizer::StripAccents => Cow::Owned(keep(text.chars(), at_start, |c| !MARK.contains(c))),
        Normalizer::Replace { content, .. } => match &step.matcher {
            Some(m) => {
                let new = replace(m, content, text.clone())?;
                *at_start &= !content.is_empty() || new.chars().next() == text.chars().next();
                new
            }
            None => text,
        },
        Normalizer::Prepend(prefix) if text.is_empty() || prefix.is_empty() => text,
        Normalizer::Prepend(prefix) => Cow::Owned(format!("{prefix}{text}")),
        Normalizer::Bert {
            clean_text,
            chinese,
            strip_accents,
            lowercase: lower,
        } => {
            let mut t = text.into_owned();
            if *clean_text {
                t = keep(t.chars(), at_start, |c| {
                    !(c == '\0' || c == '\u{fffd}' || is_bert_control(c))
                });
                if t.chars().any(|c| c != ' ' && c.is_whitespace()) {
                    t = t.replace(char::is_whitespace, " ");
                }
            }
            if *chinese && t.chars().any(is_cjk) {
                let mut out = String::with_capacity(t.len() * 2);
                for c in t.chars() {
                    if is_cjk(c) {
                        out.extend([' ', c, ' ']);
                    } else {
                        out.push(c);
                    }
                }
                t = out;
            }
            if *strip_accents {
                t = keep(t.nfd(), at_start, |c| !NONSPACING_MARK.contains(c));
            }
            if *lower {
                t = lowercase(&t);
            }
            Cow::Owned(t)
        }
        Normalizer::Precompiled => match tables.charsmap {
            Some(map) => precompiled(map, &text).map_or(text, Cow::Owned),
            None => text,
        },
        Normalizer::SentencePiece { .. } => Cow::Owned(sentencepiece(&step.rule, tables, &text)),
        Normalizer::Nmt => Cow::Owned(
            keep(
                text.chars(),
                at_start,
                |c| !matches!(c as u32, 0x1..=0x8 | 0xB | 0xE..=0x1F | 0x7F | 0x8F | 0x9F),
            )
            .chars()
            .map(|c| match c as u32 {
                0x9
                | 0xA
                | 0xC
                | 0xD
                | 0x1680
                | 0x200B..=0x200F
                | 0x2028
                | 0x2029
                | 0x2581
                | 0xFEFF
                | 0xFFFD => ' ',
                _ => c,
            })
            .collect(),
        ),
        Normalizer::ByteLevel => Cow::Owned(text.bytes().map(byte_to_char).collect()),
        Normalizer::LlamaBert {
            lowercase,
            strip_accents,
        } => Cow::Owned(llama_bert(&text, *lowercase, *strip_accents)),
    })
}

/// The characters for which `f` holds; `at_start` is cleared when the first one goes.
fn keep(
    chars: impl Iterator<Item = char>,
    at_start: &mut bool,
    f: impl Fn(char) -> bool,
) -> String {
    let mut first = true;
    chars
        .filter(|&c| {
            let kept = f(c);
            *at_start &= kept || !first;
            first = false;
            kept
        })
        .collect()
}

/// Lower case per character, without context.
fn lowercase(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.chars().flat_map(char::to_lowercase).collect()
}

fn is_bert_control(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && OTHER.contains(c)
}

/// Appends `text` with every match replaced.
pub fn replace_into(m: &Matcher, content: &str, text: &str, out: &mut String) -> Result<()> {
    let mut last = 0;
    m.find_all(text, |lo, hi| {
        out.push_str(&text[last..lo]);
        out.push_str(content);
        last = hi;
        Ok(())
    })?;
    out.push_str(&text[last..]);
    Ok(())
}

/// `text` with every match replaced.
pub fn replace<'t>(m: &Matcher, content: &str, text: Cow<'t, str>) -> Result<Cow<'t, str>> {
    let mut out = String::new();
    replace_into(m, content, &text, &mut out)?;
    Ok(if out == *text { text } else { Cow::Owned(out) })
}

/// The map per grapheme of at most 5 bytes, then per character; `None` if nothing changed.
fn precompiled(map: Charsmap, text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut changed = false;
    for grapheme in text.graphemes(true) {
        if grapheme.len() < 6
            && let Some(new) = map.shortest(grapheme)
        {
            changed = true;
            out.push_str(new);
            continue;
        }
        for (i, c) in grapheme.char_indices() {
            match map.shortest(&grapheme[i..i + c.len_utf8()]) {
                Some(new) => {
                    changed = true;
                    out.push_str(new);
                }
                None => out.push(c),
            }
        }
    }
    changed.then_some(out)
}

/// What `rest` (not empty) begins with: the normalised piece and the bytes of `rest` it stands for.
fn sentencepiece_prefix<'a>(
    rest: &'a str,
    map: Option<Charsmap<'a>>,
    user: Trie,
    user_first: &[bool; 256],
) -> (&'a str, usize) {
    if user_first[rest.as_bytes()[0] as usize]
        && let Some((n, _)) = user.longest(rest.as_bytes())
        && let Some(piece) = rest.get(..n)
    {
        return (piece, n);
    }
    match map.and_then(|m| m.longest(rest)) {
        Some((n, new)) => (new, n),
        None => {
            let n = rest.chars().next().map_or(1, char::len_utf8);
            (&rest[..n], n)
        }
    }
}

/// SentencePiece's normaliser. `rule` is [`Normalizer::SentencePiece`].
fn sentencepiece(rule: &Normalizer, tables: Tables, text: &str) -> String {
    let &Normalizer::SentencePiece {
        charsmap,
        add_dummy_prefix,
        remove_extra_whitespaces,
        escape_whitespaces,
        whitespace_suffix,
    } = rule
    else {
        return text.to_owned();
    };
    let map = tables.charsmap.filter(|_| charsmap);
    let user = tables.user_defined;
    let user_first = user.first_bytes();
    let prefix = |rest| sentencepiece_prefix(rest, map, user, &user_first);
    let mut rest = text;
    if remove_extra_whitespaces {
        while !rest.is_empty() {
            let (piece, n) = prefix(rest);
            if piece != " " {
                break;
            }
            rest = &rest[n..];
        }
    }
    let mut out = String::with_capacity(text.len() + text.len() / 4 + 3);
    if rest.is_empty() {
        return out;
    }
    let space = if escape_whitespaces { SPACE } else { ' ' };
    if add_dummy_prefix && !whitespace_suffix {
        out.push(space);
    }
    let mut after_space = remove_extra_whitespaces;
    while !rest.is_empty() {
        let (mut piece, n) = prefix(rest);
        if after_space {
            piece = piece.trim_start_matches(' ');
        }
        if !piece.is_empty() {
            out.extend(piece.chars().map(|c| if c == ' ' { space } else { c }));
            after_space = piece.ends_with(' ');
        }
        rest = &rest[n..];
        after_space &= remove_extra_whitespaces;
    }
    if remove_extra_whitespaces {
        out.truncate(out.trim_end_matches(space).len());
    }
    if add_dummy_prefix && whitespace_suffix {
        out.push(space);
    }
    out
}

/// llama.cpp's BERT words, separated by one space.
fn llama_bert(text: &str, lowercase: bool, strip_accents: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let end_word = |word: &mut String, out: &mut String| {
        if !word.is_empty() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
            word.clear();
        }
    };
    let decomposed: Box<dyn Iterator<Item = char>> = if strip_accents {
        Box::new(text.nfd())
    } else {
        Box::new(text.chars())
    };
    for c in decomposed {
        if c.is_whitespace() {
            end_word(&mut word, &mut out);
            continue;
        }
        if c == '\0' || c == '\u{fffd}' || OTHER.contains(c) || strip_accents && MARK.contains(c) {
            continue;
        }
        let mut mapped = c.to_lowercase();
        // Only mappings to one character.
        let lower = match (mapped.next(), mapped.next()) {
            (Some(l), None) if lowercase => l,
            _ => c,
        };
        if PUNCTUATION.contains(c) || is_cjk(c) {
            end_word(&mut word, &mut out);
            word.push(lower);
            end_word(&mut word, &mut out);
        } else {
            word.push(lower);
        }
    }
    end_word(&mut word, &mut out);
    out
}

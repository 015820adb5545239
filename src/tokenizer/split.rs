//! Pre-tokenizers: cutting a text into the words that the model encodes one by one.

use std::borrow::Cow;

use super::definition::{Behavior, Pattern, PreTokenizer, Prepend};
use super::pattern::Matcher;
use super::scripts::script_cuts;
use super::unicode::{PUNCTUATION, byte_to_char};
use crate::error::Result;

/// GPT-2's split.
pub const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A text and the words in it, as ascending byte ranges that do not overlap.
#[derive(Debug)]
pub struct Words<'t> {
    /// The text; some steps rewrite it.
    pub text: Cow<'t, str>,
    /// The words.
    pub ranges: Vec<(usize, usize)>,
    /// The text begins where the whole input begins.
    pub at_start: bool,
    /// The words are written in GPT-2's alphabet (a byte-level step that is not the last one).
    pub alphabet: bool,
}

impl<'t> Words<'t> {
    /// One word: the whole text.
    pub fn new(text: Cow<'t, str>, at_start: bool) -> Self {
        let ranges = if text.is_empty() {
            Vec::new()
        } else {
            vec![(0, text.len())]
        };
        Words {
            text,
            ranges,
            at_start,
            alphabet: false,
        }
    }
}

/// A pre-tokenizer ready to run.
#[derive(Debug)]
pub struct Step {
    rule: PreTokenizer,
    matcher: Option<Matcher>,
    last: bool,
}

/// Compiles all steps.
pub fn compile(rules: &[PreTokenizer]) -> Result<Vec<Step>> {
    let regex = |text: &str| Matcher::new(&Pattern::Regex(text.into())).map(Some);
    rules
        .iter()
        .enumerate()
        .map(|(i, rule)| {
            let matcher = match rule {
                PreTokenizer::ByteLevel {
                    use_regex: true, ..
                } => regex(GPT2)?,
                PreTokenizer::Split { pattern, .. } => Some(Matcher::new(pattern)?),
                PreTokenizer::Whitespace => regex(r"\w+|[^\w\s]+")?,
                _ => None,
            };
            Ok(Step {
                rule: rule.clone(),
                matcher,
                last: i + 1 == rules.len(),
            })
        })
        .collect()
}

/// Runs one step.
pub fn apply(step: &Step, words: &mut Words) -> Result<()> {
    match &step.rule {
        PreTokenizer::ByteLevel {
            add_prefix_space, ..
        } => {
            if *add_prefix_space {
                rewrite(words, |word, _, out| {
                    if !word.starts_with(' ') {
                        out.push(' ');
                    }
                    out.push_str(word);
                });
            }
            if let Some(m) = &step.matcher {
                split(words, m, Behavior::Isolated, false)?;
            }
            // The model takes the bytes of the words; the alphabet is only written out where a later step looks at it.
            if !step.last && !words.alphabet {
                rewrite(words, |word, _, out| {
                    out.extend(word.bytes().map(byte_to_char))
                });
                words.alphabet = true;
            }
        }
        PreTokenizer::Metaspace {
            replacement,
            prepend,
            split,
        } => {
            let at_start = words.at_start;
            rewrite(words, |word, first, out| {
                let front = match prepend {
                    Prepend::Always => true,
                    Prepend::First => first && at_start,
                    Prepend::Never => false,
                };
                if front && !word.starts_with([' ', *replacement]) {
                    out.push(*replacement);
                }
                out.extend(
                    word.chars()
                        .map(|c| if c == ' ' { *replacement } else { c }),
                );
            });
            if *split {
                split_chars(words, Behavior::MergedWithNext, |c| c == *replacement);
            }
        }
        PreTokenizer::Split {
            behavior, invert, ..
        } => {
            if let Some(m) = &step.matcher {
                split(words, m, *behavior, *invert)?;
            }
        }
        PreTokenizer::Digits { individual } => {
            let behavior = if *individual {
                Behavior::Isolated
            } else {
                Behavior::Contiguous
            };
            split_chars(words, behavior, char::is_numeric);
        }
        PreTokenizer::Whitespace => {
            if let Some(m) = &step.matcher {
                split(words, m, Behavior::Removed, true)?;
            }
        }
        PreTokenizer::WhitespaceSplit => {
            split_chars(words, Behavior::Removed, char::is_whitespace);
        }
        PreTokenizer::Bert => {
            split_chars(words, Behavior::Removed, char::is_whitespace);
            split_chars(words, Behavior::Isolated, |c| PUNCTUATION.contains(c));
        }
        PreTokenizer::Punctuation(behavior) => {
            split_chars(words, *behavior, |c| PUNCTUATION.contains(c));
        }
        PreTokenizer::CharDelimiter(delimiter) => {
            split_chars(words, Behavior::Removed, |c| c == *delimiter);
        }
        PreTokenizer::UnicodeScripts => cut(words, script_cuts),
        PreTokenizer::FixedLength(n) => {
            let n = (*n).max(1) as usize;
            cut(words, |word, cuts| {
                cuts.extend(word.char_indices().map(|(i, _)| i).step_by(n))
            });
        }
    }
    Ok(())
}

/// Rewrites every word; the function gets the word, whether it begins the text, and the output.
fn rewrite(words: &mut Words, mut f: impl FnMut(&str, bool, &mut String)) {
    let mut text = String::with_capacity(words.text.len() + words.text.len() / 2 + 8);
    for range in &mut words.ranges {
        let from = text.len();
        f(&words.text[range.0..range.1], range.0 == 0, &mut text);
        *range = (from, text.len());
    }
    words.text = Cow::Owned(text);
}

/// Cuts every word into parts that begin at the positions which the function appends (ascending, inside the word).
fn cut(words: &mut Words, f: impl Fn(&str, &mut Vec<usize>)) {
    let mut out = Vec::with_capacity(words.ranges.len());
    let mut starts = Vec::new();
    for &(lo, hi) in &words.ranges {
        starts.clear();
        f(&words.text[lo..hi], &mut starts);
        let ends = starts.iter().skip(1).map(|&e| lo + e).chain([hi]);
        out.extend(starts.iter().map(|&s| lo + s).zip(ends));
    }
    words.ranges = out;
}

fn split(words: &mut Words, m: &Matcher, behavior: Behavior, invert: bool) -> Result<()> {
    let mut out = Vec::with_capacity(words.ranges.len());
    let mut found = Vec::new();
    let mut parts = Vec::new();
    for &(lo, hi) in &words.ranges {
        found.clear();
        parts.clear();
        m.find_all(&words.text[lo..hi], &mut found)?;
        let mut last = 0;
        for &(a, b) in &found {
            if last < a {
                parts.push(((lo + last, lo + a), invert));
            }
            parts.push(((lo + a, lo + b), !invert));
            last = b;
        }
        if last < hi - lo {
            parts.push(((lo + last, hi), invert));
        }
        join(&parts, behavior, &mut out);
    }
    words.ranges = out;
    Ok(())
}

fn split_chars(words: &mut Words, behavior: Behavior, is_match: impl Fn(char) -> bool) {
    let mut out = Vec::with_capacity(words.ranges.len());
    let mut parts = Vec::new();
    for &(lo, hi) in &words.ranges {
        parts.clear();
        let mut last = lo;
        for (i, c) in words.text[lo..hi].char_indices() {
            if is_match(c) {
                let (a, b) = (lo + i, lo + i + c.len_utf8());
                if last < a {
                    parts.push(((last, a), false));
                }
                parts.push(((a, b), true));
                last = b;
            }
        }
        if last < hi {
            parts.push(((last, hi), false));
        }
        join(&parts, behavior, &mut out);
    }
    words.ranges = out;
}

type Part = ((usize, usize), bool);

/// Appends the words that neighbouring parts (range, is a match) form.
fn join(parts: &[Part], behavior: Behavior, out: &mut Vec<(usize, usize)>) {
    let from = out.len();
    let mut before = false;
    match behavior {
        Behavior::Removed => out.extend(parts.iter().filter(|p| !p.1).map(|p| p.0)),
        Behavior::Isolated => out.extend(parts.iter().map(|p| p.0)),
        Behavior::MergedWithPrevious => {
            for &(range, is_match) in parts {
                match out[from..].last_mut() {
                    Some(last) if is_match && !before => last.1 = range.1,
                    _ => out.push(range),
                }
                before = is_match;
            }
        }
        Behavior::Contiguous => {
            for &(range, is_match) in parts {
                match out[from..].last_mut() {
                    Some(last) if is_match == before => last.1 = range.1,
                    _ => out.push(range),
                }
                before = is_match;
            }
        }
        Behavior::MergedWithNext => {
            for &(range, is_match) in parts.iter().rev() {
                match out[from..].last_mut() {
                    Some(last) if is_match && !before => last.0 = range.0,
                    _ => out.push(range),
                }
                before = is_match;
            }
            out[from..].reverse();
        }
    }
}

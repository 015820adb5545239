//! Pre-tokenizers: cutting a text into the words that the model encodes one by one.

use std::borrow::Cow;

use super::definition::{Behavior, Pattern, PreTokenizer, Prepend};
use super::pattern::Matcher;
use super::scripts::script_cuts;
use super::unicode::{PUNCTUATION, byte_to_char};
use crate::error::{Error, Result};

/// GPT-2's split.
pub const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A byte range of a text, which is shorter than 4 GiB.
pub type Range = (u32, u32);

/// A text and the words in it, as ascending byte ranges that do not overlap.
#[derive(Debug)]
pub struct Words<'t> {
    /// The text; some steps rewrite it.
    pub text: Cow<'t, str>,
    /// The words.
    pub ranges: Vec<Range>,
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
            vec![(0, text.len() as u32)]
        };
        Words {
            text,
            ranges,
            at_start,
            alphabet: false,
        }
    }
}

impl<'t> Words<'t> {
    /// Some words of a text.
    pub fn of(text: &'t str, ranges: Vec<Range>, at_start: bool) -> Self {
        Words {
            text: Cow::Borrowed(text),
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

impl Step {
    /// Whether the step only cuts and leaves the text as it is.
    pub fn only_cuts(&self) -> bool {
        match &self.rule {
            PreTokenizer::ByteLevel {
                add_prefix_space, ..
            } => !add_prefix_space && self.last,
            PreTokenizer::Metaspace { .. } => false,
            _ => true,
        }
    }

    /// Calls `word` with every part that the step cuts the range `lo..hi` of `text` into, from left to right.
    pub fn cut(
        &self,
        text: &str,
        (lo, hi): Range,
        word: &mut dyn FnMut(Range) -> Result<()>,
    ) -> Result<()> {
        let part = &text[lo as usize..hi as usize];
        match &self.rule {
            PreTokenizer::Split {
                behavior, invert, ..
            } => self.at_matches(part, lo, *behavior, *invert, word),
            PreTokenizer::ByteLevel { .. } => {
                self.at_matches(part, lo, Behavior::Isolated, false, word)
            }
            PreTokenizer::Whitespace => self.at_matches(part, lo, Behavior::Removed, true, word),
            PreTokenizer::Digits { individual } => {
                let behavior = if *individual {
                    Behavior::Isolated
                } else {
                    Behavior::Contiguous
                };
                at_chars(part, lo, behavior, char::is_numeric, word)
            }
            PreTokenizer::WhitespaceSplit => {
                at_chars(part, lo, Behavior::Removed, char::is_whitespace, word)
            }
            PreTokenizer::Bert => {
                at_chars(part, lo, Behavior::Removed, char::is_whitespace, &mut |r| {
                    let inner = &text[r.0 as usize..r.1 as usize];
                    let punctuation = |c| PUNCTUATION.contains(c);
                    at_chars(inner, r.0, Behavior::Isolated, punctuation, word)
                })
            }
            PreTokenizer::Punctuation(behavior) => {
                at_chars(part, lo, *behavior, |c| PUNCTUATION.contains(c), word)
            }
            PreTokenizer::CharDelimiter(delimiter) => {
                at_chars(part, lo, Behavior::Removed, |c| c == *delimiter, word)
            }
            PreTokenizer::Metaspace {
                replacement,
                split: true,
                ..
            } => at_chars(
                part,
                lo,
                Behavior::MergedWithNext,
                |c| c == *replacement,
                word,
            ),
            PreTokenizer::Metaspace { .. } => word((lo, hi)),
            PreTokenizer::UnicodeScripts => {
                let mut starts = Vec::new();
                script_cuts(part, &mut starts);
                at_starts(starts.into_iter(), lo, hi, word)
            }
            PreTokenizer::FixedLength(n) => {
                let n = (*n).max(1) as usize;
                at_starts(part.char_indices().map(|(i, _)| i).step_by(n), lo, hi, word)
            }
        }
    }

    fn at_matches(
        &self,
        part: &str,
        base: u32,
        behavior: Behavior,
        invert: bool,
        word: &mut dyn FnMut(Range) -> Result<()>,
    ) -> Result<()> {
        let Some(matcher) = &self.matcher else {
            return word((base, base + part.len() as u32));
        };
        let mut join = Joiner::new(behavior, word);
        let mut last = 0;
        matcher.find_all(part, |lo, hi| {
            join.part((base + last, base + lo as u32), invert)?;
            join.part((base + lo as u32, base + hi as u32), !invert)?;
            last = hi as u32;
            Ok(())
        })?;
        join.part((base + last, base + part.len() as u32), invert)?;
        join.finish()
    }
}

/// Runs one step over all words.
pub fn apply(step: &Step, words: &mut Words) -> Result<()> {
    match &step.rule {
        PreTokenizer::ByteLevel {
            add_prefix_space: true,
            ..
        } => rewrite(words, |word, _, out| {
            if !word.starts_with(' ') {
                out.push(' ');
            }
            out.push_str(word);
        }),
        PreTokenizer::Metaspace {
            replacement,
            prepend,
            ..
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
        }
        _ => {}
    }
    if u32::try_from(words.text.len()).is_err() {
        return Err(Error::limit(
            "the text is longer than 4 GiB after normalisation",
        ));
    }
    let mut out = Vec::with_capacity(words.ranges.len());
    for &range in &words.ranges {
        step.cut(&words.text, range, &mut |r| {
            out.push(r);
            Ok(())
        })?;
    }
    words.ranges = out;
    // The model takes the bytes of the words; the alphabet is only written out where a later step looks at it.
    if matches!(step.rule, PreTokenizer::ByteLevel { .. }) && !step.last && !words.alphabet {
        rewrite(words, |word, _, out| {
            out.extend(word.bytes().map(byte_to_char))
        });
        words.alphabet = true;
    }
    Ok(())
}

/// Rewrites every word; the function gets the word, whether it begins the text, and the output.
fn rewrite(words: &mut Words, mut f: impl FnMut(&str, bool, &mut String)) {
    let mut text = String::with_capacity(words.text.len() + words.text.len() / 2 + 8);
    for range in &mut words.ranges {
        let from = text.len();
        f(
            &words.text[range.0 as usize..range.1 as usize],
            range.0 == 0,
            &mut text,
        );
        *range = (from as u32, text.len() as u32);
    }
    words.text = Cow::Owned(text);
}

/// Parts that begin at the given positions of the range; what is before the first one is left out.
fn at_starts(
    starts: impl Iterator<Item = usize>,
    lo: u32,
    hi: u32,
    word: &mut dyn FnMut(Range) -> Result<()>,
) -> Result<()> {
    let mut from = None;
    for s in starts {
        let s = lo + s as u32;
        if let Some(from) = from.replace(s) {
            word((from, s))?;
        }
    }
    match from {
        Some(from) => word((from, hi)),
        None => Ok(()),
    }
}

/// Every matching character is a match of its own.
fn at_chars(
    part: &str,
    base: u32,
    behavior: Behavior,
    is_match: impl Fn(char) -> bool,
    word: &mut dyn FnMut(Range) -> Result<()>,
) -> Result<()> {
    let mut join = Joiner::new(behavior, word);
    let mut last = base;
    for (i, c) in part.char_indices() {
        if is_match(c) {
            let (a, b) = (base + i as u32, base + (i + c.len_utf8()) as u32);
            join.part((last, a), false)?;
            join.part((a, b), true)?;
            last = b;
        }
    }
    join.part((last, base + part.len() as u32), false)?;
    join.finish()
}

/// Makes words of neighbouring parts (matches and what is between them).
struct Joiner<'a> {
    behavior: Behavior,
    word: &'a mut dyn FnMut(Range) -> Result<()>,
    /// A word that the next part may still extend.
    open: Option<Range>,
    /// The part before was a match.
    before: bool,
}

impl<'a> Joiner<'a> {
    fn new(behavior: Behavior, word: &'a mut dyn FnMut(Range) -> Result<()>) -> Self {
        Joiner {
            behavior,
            word,
            open: None,
            before: false,
        }
    }

    fn part(&mut self, range: Range, is_match: bool) -> Result<()> {
        if range.0 == range.1 {
            return Ok(());
        }
        let extends = match self.behavior {
            Behavior::Removed if is_match => return Ok(()),
            Behavior::Removed | Behavior::Isolated => return (self.word)(range),
            Behavior::MergedWithPrevious => is_match && !self.before,
            Behavior::MergedWithNext => !is_match && self.before,
            Behavior::Contiguous => is_match == self.before,
        };
        self.before = is_match;
        match &mut self.open {
            Some(open) if extends => open.1 = range.1,
            open => {
                if let Some(done) = open.replace(range) {
                    (self.word)(done)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self.open {
            Some(open) => (self.word)(open),
            None => Ok(()),
        }
    }
}

//! From ids back to text, piece by piece.
//!
//! Every decoder step is a small machine that takes pieces and passes pieces on to the next one; decoding a whole list is
//! feeding it through the machines and finishing. So what a stream emits is by construction the text of the whole list, and
//! because machines pass on `&str`, never part of a character. Until a step joins all pieces into one (`ByteLevel`,
//! `Fuse`), a machine gets whole pieces; behind it, it gets parts of the one joined piece.

use super::definition::{DecoderStep, TokenKind};
use super::normalize::replace_into;
use super::pattern::Matcher;
use super::unicode::{byte_to_char, char_to_byte};
use crate::error::Result;
use std::borrow::Cow;

const REPLACEMENT: &str = "\u{fffd}";
/// Bytes of most pieces: so many find their place without an allocation.
const PIECE: usize = 64;

/// A token as the first machine sees it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Its bytes: raw ones, or the text of the piece.
    pub bytes: &'a [u8],
    /// The bytes are raw; the piece is written in GPT-2's alphabet.
    pub raw: bool,
    /// Its kind.
    pub kind: TokenKind,
}

impl<'a> Piece<'a> {
    /// The text of the piece as its source writes it.
    pub fn text(&self) -> Cow<'a, str> {
        if self.raw {
            Cow::Owned(self.bytes.iter().map(|&b| byte_to_char(b)).collect())
        } else {
            String::from_utf8_lossy(self.bytes)
        }
    }

    /// The byte a piece `<0xNN>` stands for.
    pub fn byte(&self) -> Option<u8> {
        if self.raw {
            None
        } else {
            byte_piece(self.bytes)
        }
    }
}

/// The byte that `<0xNN>` stands for.
pub fn byte_piece(piece: &[u8]) -> Option<u8> {
    match piece {
        [b'<', b'0', b'x', hi, lo, b'>'] => {
            let digit = |d: u8| (d as char).to_digit(16);
            Some((digit(*hi)? << 4 | digit(*lo)?) as u8)
        }
        _ => None,
    }
}

/// The compiled decoder of a tokenizer: what is shared by all streams.
#[derive(Debug, Default)]
pub struct Decoder {
    steps: Vec<DecoderStep>,
    matchers: Vec<Option<Matcher>>,
}

impl Decoder {
    /// Compiles the steps.
    pub fn new(steps: &[DecoderStep]) -> Result<Self> {
        let matchers = steps
            .iter()
            .map(|s| match s {
                DecoderStep::Replace { pattern, .. } => Matcher::new(pattern).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        Ok(Decoder {
            steps: steps.to_vec(),
            matchers,
        })
    }

    /// Fresh machines, for one text.
    pub fn start(&self) -> Vec<Machine> {
        let mut joined = false;
        self.steps
            .iter()
            .enumerate()
            .filter_map(|(i, step)| {
                let state = match step {
                    DecoderStep::Fuse => {
                        joined = true;
                        return None;
                    }
                    DecoderStep::ByteLevel if !joined => {
                        joined = true;
                        State::Bytes
                    }
                    DecoderStep::Strip { stop: 0, start, .. } if joined => {
                        State::StripFront { left: *start }
                    }
                    DecoderStep::Metaspace { .. } if joined => State::Plain,
                    _ if joined => State::Hold,
                    _ => State::Plain,
                };
                Some(Machine {
                    step: i,
                    state,
                    count: 0,
                    pending: Vec::with_capacity(PIECE),
                    text: String::with_capacity(PIECE),
                    last: None,
                    space_allowed: true,
                    space_seen: false,
                })
            })
            .collect()
    }

    /// Feeds one token and appends what is complete to `out`.
    pub fn push(&self, machines: &mut [Machine], piece: Piece, out: &mut String) -> Result<()> {
        let Some((m, rest)) = machines.split_first_mut() else {
            out.push_str(&piece.text());
            return Ok(());
        };
        match &self.steps[m.step] {
            DecoderStep::ByteLevel if matches!(m.state, State::Bytes) => {
                m.pending.extend_from_slice(piece.bytes);
                self.flush_utf8(m, rest, false, out)
            }
            DecoderStep::SentencePiece {
                strip_first,
                strip_all,
                unk_surface,
            } => self.sentencepiece(m, rest, piece, (*strip_first, *strip_all, unk_surface), out),
            _ => self.feed(machines, &piece.text(), out),
        }
    }

    /// Ends the text: appends what was held back.
    pub fn finish(&self, machines: &mut [Machine], out: &mut String) -> Result<()> {
        for i in 0..machines.len() {
            let (m, rest) = machines[i..].split_first_mut().expect("i is an index");
            let step = &self.steps[m.step];
            match (step, &m.state) {
                (_, State::Hold) => {
                    let text =
                        String::from_utf8_lossy(&std::mem::take(&mut m.pending)).into_owned();
                    m.state = State::Plain;
                    if !text.is_empty() {
                        self.feed(&mut machines[i..], &text, out)?;
                    }
                    let (m, rest) = machines[i..].split_first_mut().expect("i is an index");
                    self.end(m, rest, out)?;
                }
                _ => self.end(m, rest, out)?,
            }
        }
        Ok(())
    }

    fn end(&self, m: &mut Machine, rest: &mut [Machine], out: &mut String) -> Result<()> {
        match &self.steps[m.step] {
            DecoderStep::ByteLevel => self.flush_utf8(m, rest, true, out),
            DecoderStep::ByteFallback => self.flush_fallback(m, rest, out),
            DecoderStep::SentencePiece { .. } => self.flush_sentencepiece(m, rest, true, out),
            DecoderStep::Bpe { suffix } => match m.last.take() {
                Some(last) => self.feed(rest, &last.replace(suffix.as_str(), ""), out),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// One piece (or part of the joined piece) through the machines.
    fn feed(&self, machines: &mut [Machine], text: &str, out: &mut String) -> Result<()> {
        let Some((m, rest)) = machines.split_first_mut() else {
            out.push_str(text);
            return Ok(());
        };
        if matches!(m.state, State::Hold) {
            m.pending.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        let first = m.count == 0;
        m.count = 1;
        match &self.steps[m.step] {
            DecoderStep::Fuse => self.feed(rest, text, out),
            DecoderStep::ByteLevel => {
                let bytes: Option<Vec<u8>> = text.chars().map(char_to_byte).collect();
                match bytes {
                    Some(b) => m.pending.extend(b),
                    None => m.pending.extend_from_slice(text.as_bytes()),
                }
                self.flush_utf8(m, rest, false, out)
            }
            DecoderStep::Metaspace {
                replacement,
                prepend,
            } => {
                // Behind a joining step all parts belong to the first piece.
                let joined = m.step > 0 && self.joins_before(m.step);
                let drop = (first || joined) && *prepend;
                m.text.clear();
                m.text
                    .extend(text.chars().filter_map(|c| match c == *replacement {
                        true if drop => None,
                        true => Some(' '),
                        false => Some(c),
                    }));
                self.feed(rest, &m.text, out)
            }
            DecoderStep::ByteFallback => match byte_piece(text.as_bytes()) {
                Some(b) => {
                    m.pending.push(b);
                    Ok(())
                }
                None => {
                    self.flush_fallback(m, rest, out)?;
                    self.feed(rest, text, out)
                }
            },
            DecoderStep::Strip {
                content,
                start,
                stop,
            } => {
                if let State::StripFront { left } = &mut m.state {
                    let mut text = text;
                    while *left > 0 && !text.is_empty() {
                        match text.strip_prefix(*content) {
                            Some(t) => {
                                text = t;
                                *left -= 1;
                            }
                            None => *left = 0,
                        }
                    }
                    return self.feed(rest, text, out);
                }
                let mut text = text;
                for _ in 0..*start {
                    match text.strip_prefix(*content) {
                        Some(t) => text = t,
                        None => break,
                    }
                }
                for _ in 0..*stop {
                    match text.strip_suffix(*content) {
                        Some(t) => text = t,
                        None => break,
                    }
                }
                self.feed(rest, text, out)
            }
            DecoderStep::Replace { content, .. } => match &self.matchers[m.step] {
                Some(matcher) => {
                    m.text.clear();
                    replace_into(matcher, content, text, &mut m.text)?;
                    self.feed(rest, &m.text, out)
                }
                None => self.feed(rest, text, out),
            },
            DecoderStep::WordPiece { prefix, cleanup } => {
                let new = match text.strip_prefix(prefix.as_str()) {
                    _ if first => text.to_owned(),
                    Some(inner) => inner.to_owned(),
                    None => format!(" {text}"),
                };
                if *cleanup {
                    self.feed(rest, &clean_up(&new), out)
                } else {
                    self.feed(rest, &new, out)
                }
            }
            DecoderStep::Bpe { suffix } => match m.last.replace(text.to_owned()) {
                Some(before) => self.feed(rest, &before.replace(suffix.as_str(), " "), out),
                None => Ok(()),
            },
            DecoderStep::Ctc {
                pad,
                delimiter,
                cleanup,
            } => {
                if m.last.as_deref() == Some(text) {
                    return Ok(());
                }
                m.last = Some(text.to_owned());
                let mut new = text.replace(pad.as_str(), "");
                if *cleanup {
                    new = clean_up(&new).replace(delimiter.as_str(), " ");
                }
                if new.is_empty() {
                    return Ok(());
                }
                self.feed(rest, &new, out)
            }
            // Only as the first step, where `push` handles it.
            DecoderStep::SentencePiece { .. } => self.feed(rest, text, out),
            DecoderStep::JoinSpace if first => self.feed(rest, text, out),
            DecoderStep::JoinSpace => {
                m.text.clear();
                m.text.extend([" ", text]);
                self.feed(rest, &m.text, out)
            }
        }
    }

    fn joins_before(&self, step: usize) -> bool {
        self.steps[..step]
            .iter()
            .any(|s| matches!(s, DecoderStep::Fuse | DecoderStep::ByteLevel))
    }

    /// Passes on what is complete of the pending bytes; invalid sequences become U+FFFD.
    fn flush_utf8(
        &self,
        m: &mut Machine,
        rest: &mut [Machine],
        end: bool,
        out: &mut String,
    ) -> Result<()> {
        m.text.clear();
        let mut used = 0;
        for chunk in m.pending.utf8_chunks() {
            m.text.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            if !end && is_beginning(&m.pending[used..]) {
                break;
            }
            used += invalid.len();
            if !invalid.is_empty() {
                m.text.push_str(REPLACEMENT);
            }
        }
        m.pending.drain(..used);
        if m.text.is_empty() {
            return Ok(());
        }
        self.feed(rest, &m.text, out)
    }

    /// A run of `<0xNN>` pieces: its text if it is UTF-8 as a whole, else one U+FFFD per byte.
    fn flush_fallback(
        &self,
        m: &mut Machine,
        rest: &mut [Machine],
        out: &mut String,
    ) -> Result<()> {
        if m.pending.is_empty() {
            return Ok(());
        }
        let fed = match std::str::from_utf8(&m.pending) {
            Ok(text) => self.feed(rest, text, out),
            Err(_) => {
                let mut each = m.pending.iter();
                each.try_for_each(|_| self.feed(rest, REPLACEMENT, out))
            }
        };
        m.pending.clear();
        fed
    }

    fn sentencepiece(
        &self,
        m: &mut Machine,
        rest: &mut [Machine],
        piece: Piece,
        (strip_first, strip_all, unk): (bool, bool, &str),
        out: &mut String,
    ) -> Result<()> {
        if piece.kind == TokenKind::Byte
            && let Some(b) = piece.byte()
        {
            m.pending.push(b);
            return self.flush_sentencepiece(m, rest, false, out);
        }
        self.flush_sentencepiece(m, rest, true, out)?;
        if m.space_seen || m.count > 0 {
            m.space_allowed = false;
        }
        m.space_seen = false;
        match piece.kind {
            TokenKind::Control => Ok(()),
            TokenKind::Unknown => {
                m.text.clear();
                m.text.push_str(unk);
                self.show(m, rest, out)
            }
            _ => {
                let text = piece.text();
                let mut text: &str = &text;
                if m.space_allowed
                    && (strip_first || strip_all)
                    && let Some(t) = text.strip_prefix('\u{2581}')
                {
                    text = t;
                    m.space_seen = !strip_all;
                }
                m.text.clear();
                let plain = text.chars().map(|c| if c == '\u{2581}' { ' ' } else { c });
                m.text.extend(plain);
                self.show(m, rest, out)
            }
        }
    }

    /// Passes on the text of a machine.
    fn show(&self, m: &mut Machine, rest: &mut [Machine], out: &mut String) -> Result<()> {
        if m.text.is_empty() {
            return Ok(());
        }
        m.count = 1;
        self.feed(rest, &m.text, out)
    }

    /// Passes on the complete characters of the pending bytes; every byte of an invalid sequence becomes U+FFFD.
    fn flush_sentencepiece(
        &self,
        m: &mut Machine,
        rest: &mut [Machine],
        end: bool,
        out: &mut String,
    ) -> Result<()> {
        let mut used = 0;
        while let Some(chunk) = m.pending[used..].utf8_chunks().next() {
            m.text.clear();
            if !chunk.valid().is_empty() {
                m.text.push_str(chunk.valid());
                used += chunk.valid().len();
            } else if end || !is_beginning(&m.pending[used..]) {
                let invalid = chunk.invalid();
                m.text.extend(invalid.iter().map(|_| REPLACEMENT));
                used += invalid.len();
            } else {
                break;
            }
            self.show(m, rest, out)?;
        }
        m.pending.drain(..used);
        Ok(())
    }
}

/// Whether these bytes are the beginning of a character and no more.
fn is_beginning(bytes: &[u8]) -> bool {
    let error = std::str::from_utf8(bytes).err();
    error.is_some_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}

#[derive(Debug, Clone)]
enum State {
    /// Works on whole pieces (or needs no more state than the other fields).
    Plain,
    /// Collects bytes.
    Bytes,
    /// Removes characters at the start of the joined piece.
    StripFront { left: u32 },
    /// Needs the whole joined piece: holds it until the end.
    Hold,
}

/// The state of one decoder step in one stream.
#[derive(Debug, Clone)]
pub struct Machine {
    step: usize,
    state: State,
    /// Whether a piece (SentencePiece: any text) has gone through.
    count: u32,
    pending: Vec<u8>,
    /// What it passes on: memory that is used again.
    text: String,
    last: Option<String>,
    space_allowed: bool,
    space_seen: bool,
}

/// The clean-up of `tokenizers`: spaces before punctuation and in English contractions removed, within one piece.
fn clean_up(text: &str) -> String {
    let mut t = text.to_owned();
    for (from, to) in [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ] {
        if t.contains(from) {
            t = t.replace(from, to);
        }
    }
    t
}

//! Text that knows which of its bytes came from the conversation.
//!
//! Whatever a template does with a message (cutting, joining, changing case, writing it as JSON), the bytes that came from the message stay
//! marked as input. When the result is tokenized, control tokens are looked for in the rest only, so that nothing in a message can pose as
//! the template's own markup.

use super::budget::{Budget, Hold};
use crate::error::{Result, out_of_memory};
use std::ops::Range;
use std::rc::Rc;

/// What a text takes besides its bytes.
const OVERHEAD: usize = 96;
/// What a marked range takes.
const PER_RANGE: usize = std::mem::size_of::<(usize, usize)>();

/// An immutable text with its marks.
#[derive(Clone, Debug)]
pub struct Text(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    text: Box<str>,
    /// Byte ranges that came from the conversation: ascending, not empty, neither touching nor overlapping.
    input: Box<[(usize, usize)]>,
    hold: Hold,
}

impl Text {
    /// Text of the template.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn plain(budget: &Rc<Budget>, text: &str) -> Result<Text> {
        Text::of(budget, text, false)
    }

    /// Text of the conversation if `input`, else of the template.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn of(budget: &Rc<Budget>, text: &str, input: bool) -> Result<Text> {
        let mut buffer = Buffer::new(budget);
        buffer.mark(text, input)?;
        buffer.finish()
    }

    /// The bytes.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.0.text.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.text.is_empty()
    }

    /// Whether the byte came from the conversation.
    pub fn is_input(&self, at: usize) -> bool {
        let input = &self.0.input;
        let after = input.partition_point(|&(_, end)| end <= at);
        input.get(after).is_some_and(|&(start, _)| start <= at)
    }

    /// The ranges that came from the conversation.
    pub fn input(&self) -> &[(usize, usize)] {
        &self.0.input
    }

    /// The budget that pays for it.
    pub fn budget(&self) -> &Rc<Budget> {
        self.0.hold.budget()
    }

    /// A part of it; the range lies on boundaries of characters.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn part(&self, range: Range<usize>) -> Result<Text> {
        if range == (0..self.len()) {
            return Ok(self.clone());
        }
        let mut buffer = Buffer::new(self.budget());
        buffer.part(self, range)?;
        buffer.finish()
    }

    /// Its characters in new texts.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn chars(&self) -> Result<Vec<Text>> {
        let text = self.as_str();
        // Each of them will hold at least this much: a list that cannot be is not begun.
        self.budget().room(text.len().div_ceil(4) * OVERHEAD)?;
        text.char_indices()
            .map(|(at, c)| self.part(at..at + c.len_utf8()))
            .collect()
    }

    /// Number of characters.
    ///
    /// # Errors
    /// Limit: work.
    pub fn count(&self) -> Result<usize> {
        self.budget().bytes(self.len())?;
        Ok(self.as_str().chars().count())
    }
}

/// A text that is being written.
#[derive(Debug)]
pub struct Buffer {
    text: String,
    input: Vec<(usize, usize)>,
    budget: Rc<Budget>,
    /// Its memory so far; there is none before the first byte.
    hold: Option<Hold>,
}

impl Buffer {
    /// An empty one.
    pub fn new(budget: &Rc<Budget>) -> Buffer {
        Buffer {
            text: String::new(),
            input: Vec::new(),
            budget: budget.clone(),
            hold: None,
        }
    }

    fn grow(&mut self, bytes: usize) -> Result<()> {
        match &mut self.hold {
            Some(hold) => hold.grow(bytes),
            None => {
                self.hold = Some(self.budget.hold(OVERHEAD + bytes)?);
                Ok(())
            }
        }
    }

    /// The budget that pays for it.
    pub fn budget(&self) -> &Rc<Budget> {
        &self.budget
    }

    /// Appends text of the template.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn plain(&mut self, text: &str) -> Result<()> {
        self.budget.bytes(text.len())?;
        self.grow(text.len())?;
        self.text
            .try_reserve(text.len())
            .map_err(|_| out_of_memory("a template's text", text.len()))?;
        self.text.push_str(text);
        Ok(())
    }

    /// Appends text of the conversation if `input`, else of the template.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn mark(&mut self, text: &str, input: bool) -> Result<()> {
        let start = self.text.len();
        self.plain(text)?;
        match input {
            true => self.note(start, self.text.len()),
            false => Ok(()),
        }
    }

    /// Appends a character.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn char(&mut self, c: char, input: bool) -> Result<()> {
        self.mark(c.encode_utf8(&mut [0; 4]), input)
    }

    /// Appends a text with its marks.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn text(&mut self, text: &Text) -> Result<()> {
        self.part(text, 0..text.len())
    }

    /// Appends a part of a text with its marks; the range lies on boundaries of characters.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn part(&mut self, text: &Text, range: Range<usize>) -> Result<()> {
        let base = self.text.len();
        self.plain(&text.as_str()[range.clone()])?;
        let input = text.input();
        let first = input.partition_point(|&(_, end)| end <= range.start);
        for &(start, end) in &input[first..] {
            if start >= range.end {
                break;
            }
            self.budget.work(1)?;
            let (start, end) = (start.max(range.start), end.min(range.end));
            self.note(base + start - range.start, base + end - range.start)?;
        }
        Ok(())
    }

    /// The same text several times.
    ///
    /// # Errors
    /// Limit: memory or work; nothing is written if the whole does not fit.
    pub fn repeat(&mut self, text: &Text, times: usize) -> Result<()> {
        let each = text.len() + text.input().len() * PER_RANGE;
        self.budget.room(each.saturating_mul(times))?;
        if each == 0 {
            return Ok(());
        }
        (0..times).try_for_each(|_| self.text(text))
    }

    fn note(&mut self, start: usize, end: usize) -> Result<()> {
        match self.input.last_mut() {
            _ if start == end => {}
            Some(last) if last.1 == start => last.1 = end,
            _ => {
                self.grow(PER_RANGE)?;
                self.input.push((start, end));
            }
        }
        Ok(())
    }

    /// What was written.
    ///
    /// # Errors
    /// Limit: memory.
    pub fn finish(mut self) -> Result<Text> {
        let hold = match self.hold.take() {
            Some(hold) => hold,
            None => self.budget.hold(OVERHEAD)?,
        };
        Ok(Text(Rc::new(Inner {
            hold,
            text: self.text.into_boxed_str(),
            input: self.input.into_boxed_slice(),
        })))
    }

    /// What was written, as a string and the ranges of it that came from the conversation.
    pub fn into_parts(self) -> (String, Vec<(usize, usize)>) {
        (self.text, self.input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_cutting_and_joining() {
        let budget = Budget::new(0);
        let mut b = Buffer::new(&budget);
        b.plain("<a>").unwrap();
        b.mark("user", true).unwrap();
        b.mark(" text", true).unwrap();
        b.plain("</a>").unwrap();
        let t = b.finish().unwrap();
        assert_eq!(t.input(), [(3, 12)]);
        let part = t.part(1..6).unwrap();
        assert_eq!((part.as_str(), part.input()), ("a>use", &[(2, 5)][..]));
        let mut b = Buffer::new(&budget);
        b.repeat(&part, 2).unwrap();
        b.part(&t, 12..16).unwrap();
        let t = b.finish().unwrap();
        assert_eq!(t.as_str(), "a>usea>use</a>");
        assert_eq!(t.input(), [(2, 5), (7, 10)]);
        assert!(t.is_input(4) && !t.is_input(5) && !t.is_input(13));
    }

    #[test]
    fn memory_comes_back_and_is_bounded() {
        let budget = Budget::new(0);
        let a = Text::plain(&budget, &"x".repeat(1 << 20)).unwrap();
        for _ in 0..1000 {
            a.part(1..a.len()).unwrap();
        }
        let e = Buffer::new(&budget).repeat(&a, 1 << 20).unwrap_err();
        assert_eq!(e.exit_code(), 5);
    }
}

//! Reasoning in streamed text: what a model writes between `<think>` and `</think>`, or a pair that means the same, before it answers.
//!
//! A block counts only where nothing but white space and other blocks stands before it: an answer may speak of the tags. Text that may
//! turn out to be a tag is held back until that is clear, so the cut of the text into pieces does not matter. White space around a
//! block belongs to the block.

use crate::error::Result;
use crate::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

/// What opens a block, and what ends it; a lead-in without an end stands for itself, between a block and the answer.
const TAGS: &[(&str, Option<&str>)] = &[
    ("<think>", Some("</think>")),
    ("<thinking>", Some("</thinking>")),
    ("<reasoning>", Some("</reasoning>")),
    ("<seed:think>", Some("</seed:think>")),
    ("[THINK]", Some("[/THINK]")),
    ("<|START_THINKING|>", Some("<|END_THINKING|>")),
    ("<|channel|>analysis<|message|>", Some("<|end|>")),
    ("<|start|>assistant", None),
    ("<|channel|>final<|message|>", None),
];

/// Of so many last tokens of a prompt it is asked whether they open a block.
const TAIL: usize = 16;

/// What a piece of text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reasoning, its tags and the white space around it.
    Reasoning,
    /// Everything else.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space and blocks so far; whether there was a block.
    Before(bool),
    /// In a block that ends with this.
    Inside(&'static str),
    /// The answer has begun.
    Answer,
}

/// Tells reasoning from answer in a text that comes in pieces.
#[derive(Debug)]
pub struct Thinking {
    state: State,
    held: String,
}

impl Default for Thinking {
    fn default() -> Self {
        Thinking {
            state: State::Before(false),
            held: String::new(),
        }
    }
}

impl Thinking {
    /// For the text that follows a prompt: some templates open the block themselves.
    ///
    /// # Errors
    /// Ids beyond the vocabulary.
    pub fn after(prompt: &[u32], tokenizer: &Tokenizer) -> Result<Thinking> {
        let tail = &prompt[prompt.len().saturating_sub(TAIL)..];
        let known: Vec<u32> = tail
            .iter()
            .copied()
            .filter(|&id| tokenizer.piece(id).is_some())
            .collect();
        let text = tokenizer.decode(&known, DecodeOptions::default())?;
        let open = TAGS
            .iter()
            .find_map(|(open, close)| close.filter(|_| text.trim_end().ends_with(open)));
        Ok(match open {
            Some(close) => Thinking {
                state: State::Inside(close),
                held: String::new(),
            },
            None => Thinking::default(),
        })
    }

    /// Whether the text so far ends within a block.
    pub fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside(_))
    }

    /// Takes the next piece; returns what is decided now, in order.
    pub fn push(&mut self, piece: &str) -> Vec<(Kind, String)> {
        self.held.push_str(piece);
        let mut out = Vec::new();
        loop {
            let taken = match self.state {
                State::Before(block) => self.before(block),
                State::Inside(close) => self.inside(close),
                State::Answer => Some((Kind::Answer, self.held.len(), State::Answer)),
            };
            let Some((kind, len, state)) = taken else {
                break;
            };
            if len == 0 && state == self.state {
                break;
            }
            let rest = self.held.split_off(len);
            let text = std::mem::replace(&mut self.held, rest);
            if !text.is_empty() {
                out.push((kind, text));
            }
            self.state = state;
        }
        out
    }

    /// What is held, at the end of the text.
    pub fn finish(&mut self) -> Option<(Kind, String)> {
        let text = std::mem::take(&mut self.held);
        let kind = match self.state {
            State::Inside(_) => Kind::Reasoning,
            _ => Kind::Answer,
        };
        (!text.is_empty()).then_some((kind, text))
    }

    /// What can be taken from the front of the held text: its kind, how many bytes, and what comes then.
    fn before(&self, block: bool) -> Option<(Kind, usize, State)> {
        let rest = self.held.trim_start();
        let space = self.held.len() - rest.len();
        if let Some((open, close)) = TAGS.iter().find(|(open, _)| rest.starts_with(open)) {
            let state = close.map_or(State::Before(true), State::Inside);
            return Some((Kind::Reasoning, space + open.len(), state));
        }
        if TAGS.iter().any(|(open, _)| open.starts_with(rest)) {
            return None;
        }
        match block && space > 0 {
            true => Some((Kind::Reasoning, space, State::Answer)),
            false => Some((Kind::Answer, 0, State::Answer)),
        }
    }

    fn inside(&self, close: &'static str) -> Option<(Kind, usize, State)> {
        if let Some(at) = self.held.find(close) {
            return Some((Kind::Reasoning, at + close.len(), State::Before(true)));
        }
        let from = self.held.len().saturating_sub(close.len() - 1);
        let end = (from..=self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| close.starts_with(&self.held[at..]))
            .unwrap_or(self.held.len());
        Some((Kind::Reasoning, end, State::Inside(close)))
    }
}

/// The text without its reasoning.
pub fn without(text: &str, mut thinking: Thinking) -> String {
    let mut pieces = thinking.push(text);
    pieces.extend(thinking.finish());
    pieces
        .into_iter()
        .filter(|(kind, _)| *kind == Kind::Answer)
        .map(|(_, text)| text)
        .collect()
}

/// The control tokens of which tags are made in this vocabulary: they must be seen although control tokens are not.
///
/// # Errors
/// What the tokenizer says.
pub fn marks(tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let options = EncodeOptions {
        add_special: false,
        parse_special: true,
    };
    let mut ids = Vec::new();
    for (open, close) in TAGS {
        let opening = tokenizer.encode(open, options)?;
        // The parts of a tag may mean other things to a model that does not have the tag.
        if !opening.first().is_some_and(|&id| tokenizer.is_control(id)) {
            continue;
        }
        let is_lead_in = close.is_none();
        if is_lead_in && ids.is_empty() {
            continue;
        }
        ids.extend(opening);
        if let Some(close) = close {
            ids.extend(tokenizer.encode(close, options)?);
        }
    }
    ids.retain(|&id| tokenizer.is_control(id));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reasoning and the answer, each as one text, of a text that comes in these pieces.
    fn split(pieces: &[&str]) -> (String, String) {
        let mut thinking = Thinking::default();
        let mut out = (String::new(), String::new());
        let mut all: Vec<(Kind, String)> = pieces.iter().flat_map(|p| thinking.push(p)).collect();
        all.extend(thinking.finish());
        for (kind, text) in all {
            match kind {
                Kind::Reasoning => out.0.push_str(&text),
                Kind::Answer => out.1.push_str(&text),
            }
        }
        out
    }

    #[test]
    fn reasoning_and_answer_wherever_the_text_is_cut() {
        let cases = [
            (
                "<think>a < b</think>\n\nyes",
                "<think>a < b</think>\n\n",
                "yes",
            ),
            (
                "\n<think>x</thin</think> <think>жy</think>z\n",
                "\n<think>x</thin</think> <think>жy</think>",
                "z\n",
            ),
            (" plain <think>no</think>", "", " plain <think>no</think>"),
            ("[THINK]q[/THINK]a", "[THINK]q[/THINK]", "a"),
            ("<thin air", "", "<thin air"),
            ("<think>no end", "<think>no end", ""),
            (
                "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>So: 1",
                "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>",
                "So: 1",
            ),
            ("  \n", "", "  \n"),
            ("", "", ""),
        ];
        for (text, reasoning, answer) in cases {
            let expected = (reasoning.to_owned(), answer.to_owned());
            assert_eq!(split(&[text]), expected, "{text:?}");
            for (at, _) in text.char_indices() {
                let (a, b) = text.split_at(at);
                assert_eq!(split(&[a, b]), expected, "{a:?} {b:?}");
            }
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            assert_eq!(split(&chars), expected, "{text:?} by characters");
            assert_eq!(without(text, Thinking::default()), answer);
        }
    }

    #[test]
    fn text_leaves_as_soon_as_it_is_clear_what_it_is() {
        let mut thinking = Thinking::default();
        assert_eq!(thinking.push("<thi"), []);
        let tag = (Kind::Reasoning, "<think>".to_owned());
        assert_eq!(thinking.push("nk>"), [tag]);
        assert!(thinking.is_inside());
        let some = (Kind::Reasoning, "some".to_owned());
        assert_eq!(thinking.push("some</"), [some]);
        let end = (Kind::Reasoning, "</think>".to_owned());
        assert_eq!(thinking.push("think>"), [end]);
        assert!(!thinking.is_inside());
        let answer = (Kind::Answer, "A".to_owned());
        assert_eq!(thinking.push("A"), [answer]);
        let more = (Kind::Answer, "<think>".to_owned());
        assert_eq!(thinking.push("<think>"), [more]);
    }
}

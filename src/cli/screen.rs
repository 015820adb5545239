//! Generated text on its way to standard output: from ids to text, reasoning dimmed or left out, control characters visible on a terminal.

use super::output::{self, Stdout, Stream};
use super::signals;
use super::thinking::{self, Kind, Thinking};
use crate::error::Result;
use crate::generate::{Decode, Watch};
use crate::tokenizer::{DecodeOptions, StreamDecoder, Tokenizer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Write;
use std::time::{Duration, Instant};

const DIM: &[u8] = b"\x1b[2m";
const NOT_DIM: &[u8] = b"\x1b[22m";

/// A prompt that is computed in less time than this needs no progress bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Text through the tokenizer. Control tokens leave no text, but for the tags of reasoning.
pub struct Text<'a> {
    tokenizer: &'a Tokenizer,
    decoder: Option<StreamDecoder<'a>>,
    marks: Vec<u32>,
}

impl<'a> Text<'a> {
    /// Text that continues the prompt: what a first token looks like depends on whether something stands before it.
    ///
    /// # Errors
    /// As [`Decode::push`].
    pub fn after(prompt: &[u32], tokenizer: &'a Tokenizer) -> Result<Self> {
        let skip_special = true;
        let decoder = tokenizer.decoder(DecodeOptions { skip_special });
        let mut text = Text {
            tokenizer,
            decoder: Some(decoder),
            marks: thinking::marks(tokenizer)?,
        };
        let mut said = String::new();
        for &id in prompt {
            text.push(id, &mut said)?;
            said.clear();
        }
        Ok(text)
    }
}

impl Decode for Text<'_> {
    /// An id that the model has and the tokenizer has not (vocabularies are padded) is shown as a replacement character.
    fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        let known = self.tokenizer.has(id);
        let Some(decoder) = self.decoder.as_mut().filter(|_| known) else {
            out.push(char::REPLACEMENT_CHARACTER);
            return Ok(());
        };
        decoder.push(id, out)?;
        if self.marks.contains(&id) {
            out.extend(self.tokenizer.piece(id));
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut String) -> Result<()> {
        match self.decoder.take() {
            Some(decoder) => decoder.finish(out),
            None => Ok(()),
        }
    }
}

/// For a file without a tokenizer: ids as numbers, or no text at all.
pub struct Numbers {
    show: bool,
    first: bool,
}

impl Numbers {
    /// Shows the numbers or not.
    pub fn new(show: bool) -> Numbers {
        Numbers { show, first: true }
    }
}

impl Decode for Numbers {
    fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        if self.show {
            let gap = if std::mem::take(&mut self.first) {
                ""
            } else {
                " "
            };
            let _ = write!(out, "{gap}{id}");
        }
        Ok(())
    }

    fn finish(&mut self, _: &mut String) -> Result<()> {
        Ok(())
    }
}

/// Shows text as it comes. It is passed on after every token, on a terminal and in a pipe alike: whoever reads it may be waiting.
pub struct Screen {
    out: Stdout,
    show: bool,
    terminal: bool,
    hide: bool,
    dim: bool,
    /// Where reasoning is shown as the answer is, nobody needs to tell them apart.
    thinking: Option<Thinking>,
    dimmed: bool,
    progress: Progress,
    /// The last byte shown.
    last: Option<u8>,
}

impl Screen {
    /// Shows text or not, and of it the reasoning or not.
    pub fn new(show: bool, hide_thinking: bool, thinking: Thinking) -> Self {
        let dim = output::color(Stream::Stdout);
        Screen {
            out: output::stdout(),
            show,
            terminal: Stream::Stdout.is_terminal(),
            hide: hide_thinking,
            dim,
            thinking: (hide_thinking || dim).then_some(thinking),
            dimmed: false,
            progress: Progress::new("prompt {bar:30} {pos} of {len} tokens, {eta} left"),
            last: None,
        }
    }

    /// Shows what was held back, and ends the line on a terminal, where the shell's prompt must not follow the text; in a pipe there is the
    /// text alone. Says whether the text ended within reasoning that is not shown.
    ///
    /// # Errors
    /// As [`Watch::text`].
    pub fn end(&mut self) -> Result<bool> {
        self.progress.clear();
        let held = self.thinking.as_mut().and_then(Thinking::finish);
        if let Some((kind, text)) = held {
            self.piece(kind, &text)?;
        }
        if self.dimmed {
            self.dimmed = false;
            self.out.put(NOT_DIM)?;
        }
        if self.terminal && self.last.is_some_and(|b| b != b'\n') {
            self.last = Some(b'\n');
            self.out.put(b"\n")?;
        }
        self.out.flush_now()?;
        let inside = self.thinking.as_ref().is_some_and(Thinking::is_inside);
        Ok(self.hide && inside)
    }

    /// Ends the line in a pipe as well, for text that others follow.
    ///
    /// # Errors
    /// As [`Watch::text`].
    pub fn end_line(&mut self) -> Result<()> {
        if self.show && self.last != Some(b'\n') {
            self.last = Some(b'\n');
            self.out.put(b"\n")?;
        }
        self.out.flush_now()
    }

    fn piece(&mut self, kind: Kind, text: &str) -> Result<()> {
        if !self.show || (self.hide && kind == Kind::Reasoning) {
            return Ok(());
        }
        let dim = self.dim && kind == Kind::Reasoning;
        if dim != self.dimmed {
            self.dimmed = dim;
            self.out.put(if dim { DIM } else { NOT_DIM })?;
        }
        self.last = text.bytes().last().or(self.last);
        match self.terminal {
            true => self.out.put(output::visible(text).as_bytes()),
            false => self.out.put(text.as_bytes()),
        }
    }
}

impl Watch for Screen {
    fn prompt_progress(&mut self, done: usize, all: usize) {
        self.progress.set(done, all);
    }

    fn prompt_done(&mut self) {
        self.progress.clear();
        // Until here there was nothing to save, and a signal ended the process at once.
        signals::poll();
    }

    fn text(&mut self, piece: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.thinking {
            None => self.piece(Kind::Answer, piece)?,
            Some(thinking) => {
                for (kind, text) in thinking.push(piece) {
                    self.piece(kind, &text)?;
                }
            }
        }
        self.out.flush_now()
    }

    fn stop_asked(&mut self) -> bool {
        signals::caught().is_some()
    }
}

/// How far something is that takes more than a moment; on stderr, and only where that is a terminal.
pub struct Progress {
    since: Instant,
    style: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar in this style, which begins to be shown when it is worth it.
    pub fn new(style: &'static str) -> Progress {
        Progress {
            since: Instant::now(),
            style,
            bar: None,
        }
    }

    /// So much is done.
    pub fn set(&mut self, done: usize, all: usize) {
        if !Stream::Stderr.is_terminal() || self.since.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(Some(all as u64), target);
            if let Ok(style) = ProgressStyle::with_template(self.style) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_position(done as u64);
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

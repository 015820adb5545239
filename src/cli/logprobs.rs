//! Log-probabilities of what is generated, for `--logprobs`.

use crate::error::Result;
use crate::generate::score::{log_sum_exp, top};
use crate::generate::{Session, Watch};
use crate::tokenizer::Tokenizer;
use serde::Serialize;
use std::sync::Arc;

/// One generated id.
#[derive(Debug, Serialize)]
pub struct Logprob {
    id: u32,
    text: String,
    /// Natural logarithm of its probability; null where a grammar forced it.
    logprob: Option<f64>,
    top: Vec<Alternative>,
}

/// One of the most probable ids of a place.
#[derive(Debug, Serialize)]
struct Alternative {
    id: u32,
    text: String,
    logprob: f64,
}

/// Passes everything on to another watcher, and takes note of the logits.
pub struct Logged<'w> {
    watch: &'w mut dyn Watch,
    tokenizer: Option<Arc<Tokenizer>>,
    /// How many alternatives; none: nothing is noted.
    most: Option<usize>,
    noted: Vec<Logprob>,
}

impl<'w> Logged<'w> {
    /// Notes each id with that many alternatives, or nothing.
    pub fn new(
        watch: &'w mut dyn Watch,
        tokenizer: Option<Arc<Tokenizer>>,
        most: Option<usize>,
    ) -> Self {
        Logged {
            watch,
            tokenizer,
            most,
            noted: Vec::new(),
        }
    }

    /// What was noted, if something was to be.
    pub fn finish(self) -> Option<Vec<Logprob>> {
        self.most.map(|_| self.noted)
    }

    /// The bytes of a token as text; parts of characters as replacement characters.
    fn piece(&self, id: u32) -> String {
        let tokenizer = self.tokenizer.as_deref();
        let bytes = tokenizer
            .and_then(|t| t.token_bytes(id))
            .unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Watch for Logged<'_> {
    fn prompt_progress(&mut self, done: usize, all: usize) {
        self.watch.prompt_progress(done, all);
    }

    fn prompt_done(&mut self) {
        self.watch.prompt_done();
    }

    fn chosen(&mut self, id: u32, logits: Option<&[f32]>) {
        self.watch.chosen(id, logits);
        let Some(most) = self.most else { return };
        let log_sum = logits.map(log_sum_exp);
        let known = logits.zip(log_sum);
        let logit = logits.and_then(|l| l.get(id as usize)).copied();
        let best = known.map_or(Vec::new(), |(logits, sum)| top(logits, sum, most));
        let alternative = |(id, logprob)| Alternative {
            id,
            text: self.piece(id),
            logprob,
        };
        let noted = Logprob {
            id,
            text: self.piece(id),
            logprob: logit.zip(log_sum).map(|(x, sum)| f64::from(x) - sum),
            top: best.into_iter().map(alternative).collect(),
        };
        self.noted.push(noted);
    }

    fn text(&mut self, piece: &str) -> Result<()> {
        self.watch.text(piece)
    }

    fn keeps_prompt(&self) -> bool {
        self.watch.keeps_prompt()
    }

    fn prompt_held(&mut self, session: &Session) -> Result<()> {
        self.watch.prompt_held(session)
    }

    fn stop_asked(&mut self) -> bool {
        self.watch.stop_asked()
    }
}

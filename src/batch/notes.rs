//! What the model thinks of the ids that are chosen, kept for the answer.

use crate::error::Result;
use crate::generate::Watch;
use crate::generate::score::{log_sum_exp, top};
use std::cell::RefCell;
use std::rc::Rc;

/// One chosen id.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The id.
    pub id: u32,
    /// Natural logarithm of its probability; none where a grammar forced it.
    pub logprob: Option<f64>,
    /// The most probable ids of its place with theirs.
    pub top: Vec<(u32, f64)>,
}

/// Notes that grow while a text is written; clones are the same notes.
#[derive(Clone, Debug, Default)]
pub struct Notes(Rc<RefCell<Vec<Note>>>);

impl Notes {
    /// What was noted so far; nothing is left.
    pub fn take(&self) -> Vec<Note> {
        self.0.take()
    }

    /// Who notes each id with this many alternatives; none: who notes nothing.
    pub fn watch(&self, alternatives: Option<usize>) -> Noting {
        Noting {
            notes: self.clone(),
            alternatives,
        }
    }
}

/// Watches one text.
pub struct Noting {
    notes: Notes,
    alternatives: Option<usize>,
}

impl Watch for Noting {
    fn chosen(&mut self, id: u32, logits: Option<&[f32]>) {
        let Some(n) = self.alternatives else { return };
        let log_sum = logits.map(log_sum_exp);
        let known = logits.zip(log_sum);
        let logit = logits.and_then(|l| l.get(id as usize)).copied();
        self.notes.0.borrow_mut().push(Note {
            id,
            logprob: logit.zip(log_sum).map(|(x, sum)| f64::from(x) - sum),
            top: known.map_or(Vec::new(), |(logits, sum)| top(logits, sum, n)),
        });
    }

    fn text(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

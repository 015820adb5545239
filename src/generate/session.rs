//! What stays between two generations: a sequence, and which ids it holds. A prompt that begins like them needs only its rest computed.

use super::begin;
use crate::cache::Sequence;
use crate::error::Result;
use crate::model::{Engine, Logits, Step, Wanted};
use quern_kernels::KvType;

/// A sequence of one model with its ids. Between two generations it may be given another prompt: what both begin with stays.
#[derive(Default)]
pub struct Session {
    held: Option<Held>,
}

struct Held {
    sequence: Sequence,
    source: Option<Vec<u32>>,
    kv: KvType,
    /// The ids in the sequence.
    ids: Vec<u32>,
}

impl Session {
    /// A session that holds nothing.
    pub fn new() -> Session {
        Session::default()
    }

    /// The ids that have gone through the model.
    pub fn ids(&self) -> &[u32] {
        self.held.as_ref().map_or(&[], |h| &h.ids)
    }

    /// Bytes of keys, values and states.
    pub fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |h| h.sequence.bytes())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.held = None;
    }

    /// Goes back to what the session and this prompt have in common, less than the whole prompt, since logits are wanted after its last id.
    /// Where the sequence cannot go back (a window or a recurrent state has moved on), it begins anew. Returns how many ids stay.
    ///
    /// # Errors
    /// As a new sequence: a source that is missing or too long, not enough memory, a model that changed. The session is empty then.
    pub(super) fn turn_to(
        &mut self,
        engine: &mut Engine,
        source: Option<&[u32]>,
        prompt: &[u32],
        context: usize,
        kv: KvType,
    ) -> Result<usize> {
        if let Some(mut held) = self.held.take()
            && held.kv == kv
            && held.source.as_deref() == source
        {
            let both = held.ids.iter().zip(&prompt[..prompt.len() - 1]);
            let common = both.take_while(|(a, b)| a == b).count();
            if common > 0 && held.sequence.truncate(common).is_ok() {
                held.ids.truncate(common);
                held.sequence.set_prompt_len(prompt.len());
                self.held = Some(held);
                return Ok(common);
            }
        }
        let sequence = begin(engine, source, prompt.len(), context, kv)?;
        self.held = Some(Held {
            sequence,
            source: source.map(<[u32]>::to_vec),
            kv,
            ids: Vec::new(),
        });
        Ok(0)
    }

    /// Runs tokens through the model; logits of the last one, or of all.
    ///
    /// # Errors
    /// As [`Engine::forward`]; a model file that changed. The session is empty then, since what a pass left is not known.
    pub(super) fn forward<'e>(
        &mut self,
        engine: &'e mut Engine,
        tokens: &[u32],
        wanted: Wanted,
    ) -> Result<Logits<'e>> {
        let Some(mut held) = self.held.take() else {
            unreachable!("a pass of a session that no prompt was given to")
        };
        let model = engine.model().clone();
        let logits = engine.forward(&mut [Step {
            seq: &mut held.sequence,
            tokens,
            wanted,
        }])?;
        model.file().check_unchanged()?;
        held.ids.extend_from_slice(tokens);
        self.held = Some(held);
        Ok(logits)
    }

    /// Forgets ids from `len` on.
    ///
    /// # Errors
    /// As [`Sequence::truncate`].
    pub(super) fn keep(&mut self, len: usize) -> Result<()> {
        if let Some(held) = &mut self.held {
            held.sequence.truncate(len)?;
            held.ids.truncate(len);
        }
        Ok(())
    }
}

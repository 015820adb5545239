//! What stays between two generations: a sequence, and which ids it holds. A prompt that begins like them needs only its rest computed.

use super::{begin, check_context};
use crate::cache::Sequence;
use crate::error::Result;
use crate::model::{Engine, Logits, Step, Wanted};
use quern_kernels::KvType;

/// A sequence of one model with its ids. Between two generations it may be given another prompt: what both begin with stays.
#[derive(Default)]
pub struct Session {
    pub(super) held: Option<Held>,
}

pub(super) struct Held {
    pub(super) sequence: Sequence,
    pub(super) source: Option<Vec<u32>>,
    pub(super) kv: KvType,
    /// Whether exact kernels computed them ([`quern_kernels::Kernels::exact`]).
    pub(super) exact: bool,
    /// The ids in the sequence.
    pub(super) ids: Vec<u32>,
}

/// What a session had of a request already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reused {
    /// Ids of the prompt.
    pub ids: usize,
    /// Whether it had the source.
    pub source: bool,
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

    /// What they are about, if the model has an encoder.
    pub fn source(&self) -> Option<&[u32]> {
        self.held.as_ref()?.source.as_deref()
    }

    /// The element type of keys and values; none if the session holds nothing.
    pub fn kv(&self) -> Option<KvType> {
        self.held.as_ref().map(|h| h.kv)
    }

    /// Whether keys and values have the bits that all exact kernels agree on; none if the session holds nothing.
    pub fn exact(&self) -> Option<bool> {
        self.held.as_ref().map(|h| h.exact)
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
    /// A sequence that cannot go back as far as that (a window or a recurrent state has moved on) goes back further or begins anew, as one does whose
    /// rotary angles would be others for a prompt of this length.
    ///
    /// # Errors
    /// As a new sequence: a source that is missing or too long, not enough memory, a model that changed. What the session holds is then as it was or
    /// nothing.
    pub(super) fn turn_to(
        &mut self,
        engine: &mut Engine,
        source: Option<&[u32]>,
        prompt: &[u32],
        context: usize,
        kv: KvType,
    ) -> Result<Reused> {
        if let Some(source) = source {
            check_context("the source", source.len(), context)?;
        }
        if let Some(mut held) = self.held.take()
            && held.kv == kv
            && held.exact == engine.kernels().exact()
            && held.source.as_deref() == source
        {
            let both = held.ids.iter().zip(&prompt[..prompt.len() - 1]);
            let mut common = both.take_while(|(a, b)| a == b).count();
            let sequence = &mut held.sequence;
            if !engine
                .model()
                .turns_alike(sequence.prompt_len(), prompt.len())
            {
                common = 0;
            }
            let ids = sequence.nearest(common);
            if ids > 0 || source.is_some() {
                sequence.truncate(ids)?;
                sequence.set_prompt_len(prompt.len());
                held.ids.truncate(ids);
                self.held = Some(held);
                let source = source.is_some();
                return Ok(Reused { ids, source });
            }
        }
        let sequence = engine.model().new_sequence(kv);
        let sequence = begin(engine, sequence, source, prompt.len(), context)?;
        self.held = Some(Held {
            sequence,
            source: source.map(<[u32]>::to_vec),
            kv,
            exact: engine.kernels().exact(),
            ids: Vec::new(),
        });
        Ok(Reused {
            ids: 0,
            source: false,
        })
    }

    /// Sets memory aside for so many ids in all.
    pub(super) fn expect(&mut self, ids: usize) {
        if let Some(held) = &mut self.held {
            held.ids.reserve(ids.saturating_sub(held.ids.len()));
        }
    }

    /// Runs tokens through the model; logits where they are wanted.
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

    /// Makes it possible to come back to here, as [`Sequence::mark`].
    ///
    /// # Errors
    /// There is not enough memory.
    pub(super) fn mark(&mut self) -> Result<()> {
        match &mut self.held {
            Some(held) => held.sequence.mark(),
            None => Ok(()),
        }
    }

    /// As [`Sequence::unmark`].
    pub(super) fn unmark(&mut self, len: usize) {
        if let Some(held) = &mut self.held {
            held.sequence.unmark(len);
        }
    }

    /// Forgets ids from `len` on, and those before which cannot be kept without them: see [`Sequence::nearest`]. What is left of the ids
    /// says how far it went.
    ///
    /// # Errors
    /// None that can be expected: it goes back to where the sequence says that it can.
    pub(super) fn back_to(&mut self, len: usize) -> Result<()> {
        if let Some(held) = &mut self.held
            && len < held.ids.len()
        {
            let near = held.sequence.nearest(len);
            held.sequence.truncate(near)?;
            held.ids.truncate(near);
        }
        Ok(())
    }
}

//! Encoding a source: a pass through the encoder's layers, whose hidden vectors every cross attention of the decoder turns into keys and
//! values once.

use super::Model;
use super::engine::{Engine, Output, Workspace};
use super::hidden::Hidden;
use crate::blocks::Span;
use crate::cache::Sequence;
use crate::error::{Error, Result};
use crate::ops::{Context, wants_quantized};
use crate::par::Crew;
use quern_kernels::{Kernels, KvType};

/// What a sequence is about: the ids that the encoder reads.
pub struct Source<'a> {
    /// The sequence; it has no tokens yet.
    pub seq: &'a mut Sequence,
    /// At least one id.
    pub ids: &'a [u32],
}

impl Engine {
    /// Runs one ragged batch of sources through the encoder, so that tokens of their sequences can go through the decoder; a sequence that had
    /// a source has this one then. Returns the encoder's hidden vectors of all ids, in the order of the sources. Keys and values within the encoder are always f32: they live
    /// no longer than the pass.
    ///
    /// # Errors
    /// A model without an encoder, a sequence that has begun, no ids, an id that is not in the vocabulary, more ids than the model
    /// has positions for, not enough memory. A sequence may have lost its source then.
    pub fn encode(&mut self, sources: &mut [Source<'_>]) -> Result<Hidden<'_>> {
        let model = self.model.clone();
        let Some(encoder) = &model.encoder else {
            return Err(Error::usage("this model has no encoder for a source"));
        };
        for source in sources.iter() {
            self.check_ids(source.ids, 0)?;
            if !source.seq.is_empty() {
                return Err(Error::usage("a source for a sequence that has begun"));
            }
        }
        let mut own = Vec::with_capacity(sources.len());
        for source in sources.iter_mut() {
            let mut seq = encoder.sequence(KvType::F32, false);
            seq.reserve(source.ids.len())?;
            own.push(seq);
            let kept = source.seq.source_mut();
            let kept = kept.ok_or_else(|| Error::usage("a sequence of another model"))?;
            kept.restart();
            kept.reserve(source.ids.len())?;
        }
        let (mut spans, mut kept) = (Vec::new(), Vec::new());
        let mut ids = Vec::new();
        for (source, seq) in sources.iter().zip(&own) {
            let rows = ids.len()..ids.len() + source.ids.len();
            ids.extend_from_slice(source.ids);
            let span = |seq| Span {
                seq,
                rows: rows.clone(),
                start: 0,
                keys: source.ids.len(),
            };
            spans.push(span(seq));
            kept.extend(source.seq.source().map(span));
        }
        let all: Vec<usize> = (0..ids.len()).collect();
        let (kernels, work) = (self.kernels, &mut self.work);
        self.team.run(|crew| {
            let output = Output::Hidden;
            model.pass(crew, kernels, work, encoder, &spans, &ids, &all, output);
            model.remember(crew, kernels, work, &kept);
        });
        drop(kept);
        for source in sources.iter_mut() {
            if let Some(kept) = source.seq.source_mut() {
                kept.advance(source.ids);
            }
        }
        Ok(self.all_hidden(all.len()))
    }
}

impl Model {
    /// Keys and values of the encoder's hidden vectors, which are where logits would be, join the caches of the sources.
    fn remember(
        &self,
        crew: &Crew<'_>,
        kernels: &'static Kernels,
        work: &mut Workspace,
        sources: &[Span<'_>],
    ) {
        let n = sources.last().map_or(0, |s| s.rows.end);
        let hidden = self.spec().hidden as usize;
        let ctx = Context {
            crew,
            kernels,
            scratch: &work.scratch,
        };
        let mut readers = self.decoder.crosses().flat_map(|c| c.source_readers());
        let (input, states) = (&mut work.input, &work.logits);
        input.shape(n, hidden, readers.any(wants_quantized));
        input.fill(&ctx, n, true, |row, _, out| {
            out.copy_from_slice(&states[row * hidden..][..hidden]);
        });
        for cross in self.decoder.crosses() {
            cross.remember(&ctx, input, sources, &mut work.attention);
        }
    }
}

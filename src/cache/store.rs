//! A sequence as bytes, for docs/PROMPT-CACHE.md: its caches one after another, its states, then the caches of its source.
//!
//! Pages are stored as they are in memory, from the first one that a next token can see, so that how many bytes there are follows from the
//! shapes and the two lengths alone. Whoever reads compares that with the length of the file before anything is allocated.

use super::{HeadCache, KvCache, KvShape, Meter, PAGE, Page, Sequence};
use crate::error::Result;
use std::io::{Read, Write};
use std::sync::Arc;

impl KvShape {
    /// The first page that a token at position `len` sees, and the page after the last.
    fn seen(&self, len: usize) -> (usize, usize) {
        let first = self.window.map_or(0, |w| (len + 1).saturating_sub(w)) / PAGE;
        (first, len.div_ceil(PAGE))
    }

    /// Bytes of a cache after `len` positions.
    fn stored_bytes(&self, len: usize) -> Option<u64> {
        let (first, end) = self.seen(len);
        let pages = (end.saturating_sub(first)).checked_mul(self.n_kv_heads)?;
        u64::try_from(pages.checked_mul(self.page_bytes())?).ok()
    }
}

impl KvCache {
    fn write_to(&self, len: usize, out: &mut dyn Write) -> std::io::Result<()> {
        let (first, end) = self.shape.seen(len);
        for head in 0..self.heads.len() {
            let head = self.read(head);
            let pages = head.pages.iter().skip(first - head.first_page);
            for page in pages.take(end.saturating_sub(first)) {
                out.write_all(page.bytes())?;
            }
        }
        Ok(())
    }

    fn read_from(
        &mut self,
        len: usize,
        meter: &Meter,
        input: &mut dyn Read,
    ) -> Result<std::io::Result<()>> {
        let (first, end) = self.shape.seen(len);
        for head in &mut self.heads {
            let head: &mut HeadCache = head.get_mut().unwrap_or_else(|e| e.into_inner());
            head.pages.clear();
            head.first_page = first;
            for _ in first..end {
                let mut page = Page::new(self.shape.page_bytes(), meter)?;
                if let Err(e) = input.read_exact(page.as_mut()) {
                    return Ok(Err(e));
                }
                head.pages.push_back(Arc::new(page));
            }
        }
        Ok(Ok(()))
    }
}

impl Sequence {
    /// Bytes of this sequence as [`Sequence::write_to`] would write it after `len` tokens about a source of `source` ids; none if there is
    /// no such number.
    pub(crate) fn stored_bytes(&self, len: usize, source: usize) -> Option<u64> {
        let mut caches = self.caches.iter();
        let caches = caches.try_fold(0u64, |sum, cache| {
            sum.checked_add(cache.shape.stored_bytes(len)?)
        })?;
        let states = match len {
            0 => 0,
            _ => self
                .states
                .iter()
                .try_fold(0u64, |sum, state| sum.checked_add(state.shape_bytes()?))?,
        };
        let source = match &self.source {
            Some(own) => own.stored_bytes(source, 0)?,
            None => 0,
        };
        caches.checked_add(states)?.checked_add(source)
    }

    /// Writes what the sequence holds, but for ids, lengths and marks.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for cache in &self.caches {
            cache.write_to(self.len, out)?;
        }
        for state in &self.states {
            state.write_to(out)?;
        }
        self.source.as_ref().map_or(Ok(()), |s| s.write_to(out))
    }

    /// Makes a new sequence what one was that [`Sequence::write_to`] wrote after these ids, about a source of `source` ids. The caller has made
    /// sure that as many bytes are there as [`Sequence::stored_bytes`] says. After an error of either kind the sequence is of no use.
    ///
    /// # Errors
    /// Limit if memory does not suffice; inside, those of `input`.
    pub(crate) fn read_from(
        &mut self,
        ids: &[u32],
        source: usize,
        input: &mut dyn Read,
    ) -> Result<std::io::Result<()>> {
        let read = self.read_parts(ids.len(), input)?;
        if read.is_err() {
            return Ok(read);
        }
        self.len = ids.len();
        if let Some(own) = &mut self.ids {
            *own = ids.to_vec();
        }
        if let Some(own) = &mut self.source {
            own.len = source;
            return own.read_parts(source, input);
        }
        Ok(Ok(()))
    }

    fn read_parts(&mut self, len: usize, input: &mut dyn Read) -> Result<std::io::Result<()>> {
        for cache in &mut self.caches {
            let read = cache.read_from(len, &self.meter, input)?;
            if read.is_err() {
                return Ok(read);
            }
        }
        if len > 0 {
            for state in &mut self.states {
                state.reserve()?;
                if let Err(e) = state.read_from(input) {
                    return Ok(Err(e));
                }
            }
        }
        Ok(Ok(()))
    }
}

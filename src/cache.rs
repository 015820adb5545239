//! What a sequence remembers between forward passes: keys and values of every attention layer, in pages that grow with use, and the
//! states of recurrent branches, whose size is fixed.
//!
//! ```text
//! Sequence -> one KvCache per attention branch -> one HeadCache per kv head -> pages of 64 positions
//!          -> the States of recurrent branches -> units of a fixed number of values
//! page: K  4 tiles of [key_dim][16 positions]      V  64 rows of value_dim (padded to 16)
//! ```
//!
//! Pages sit at absolute positions (page p holds 64p .. 64p+63), so that the order of the arithmetic does not depend on how a sequence was
//! cut into passes. A windowed layer drops pages that no later query can see. Every head has a lock of its own: in one phase each head is
//! written by one job, in the next read by many.
//!
//! Sequences that begin alike may share pages ([`Sequence::fork`]): one that is about to be written is copied first if another sequence has it too.

use crate::error::{Error, Result};
use quern_kernels::{Kernels, KvType};
use std::collections::VecDeque;
use std::sync::{Arc, RwLock, RwLockReadGuard};

mod page;
mod state;
mod store;
#[cfg(test)]
mod tests;

pub use page::Meter;
use page::Page;

use state::Mark;
pub use state::{State, StateShape};

/// Positions of a page: four tiles, 8 to 32 KiB of K and V for usual heads, so that short sequences stay small.
pub const PAGE: usize = 64;

/// Tokens of one pass that [`Sequence::bytes_for`] reckons with.
const PASS: usize = 512;

/// Positions of a K tile: the lanes of the score kernel.
pub const TILE: usize = 16;

/// Shape and element type of the cache of one attention branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Element type.
    pub kv: KvType,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Keys that a query sees at most, itself included; none: all.
    pub window: Option<usize>,
}

impl KvShape {
    fn k_tile_bytes(&self) -> usize {
        self.kv.k_tile_bytes(self.key_dim)
    }

    fn v_row_bytes(&self) -> usize {
        self.kv.v_row_bytes(self.value_dim)
    }

    fn k_bytes(&self) -> usize {
        PAGE / TILE * self.k_tile_bytes()
    }

    fn page_bytes(&self) -> usize {
        self.k_bytes() + PAGE * self.v_row_bytes()
    }
}

/// Keys and values of one kv head.
pub struct HeadCache {
    shape: KvShape,
    first_page: usize,
    /// 64 positions each: K tiles, then V rows.
    pages: VecDeque<Arc<Page>>,
}

impl HeadCache {
    /// Stores the key and value of one position, whose page must have been reserved.
    pub fn store(&mut self, kernels: &Kernels, position: usize, k: &[f32], v: &[f32]) {
        let shape = self.shape;
        let page = Arc::get_mut(&mut self.pages[position / PAGE - self.first_page]);
        let page = page.expect("a page that is written was made the sequence's own");
        let at = position % PAGE;
        let (keys, values) = page.as_mut().split_at_mut(shape.k_bytes());
        let tile = shape.k_tile_bytes();
        kernels.kv_store_k(
            shape.kv,
            k,
            &mut keys[at / TILE * tile..][..tile],
            at % TILE,
        );
        let row = shape.v_row_bytes();
        kernels.kv_store_v(shape.kv, v, &mut values[at * row..][..row]);
    }

    /// The part of the page of `position` from there (a multiple of [`TILE`]) to `end` or the end of the page: K tiles, V rows, positions.
    pub fn span(&self, position: usize, end: usize) -> (&[u8], &[u8], usize) {
        let shape = &self.shape;
        let at = position % PAGE;
        let count = (PAGE - at).min(end - position);
        let page = &self.pages[position / PAGE - self.first_page];
        let (keys, values) = page.bytes().split_at(shape.k_bytes());
        let tiles = count.div_ceil(TILE);
        let k = &keys[at / TILE * shape.k_tile_bytes()..][..tiles * shape.k_tile_bytes()];
        let v = &values[at * shape.v_row_bytes()..][..count * shape.v_row_bytes()];
        (k, v, count)
    }
}

/// Keys and values of one attention branch.
pub struct KvCache {
    /// Its shape.
    pub shape: KvShape,
    heads: Vec<RwLock<HeadCache>>,
}

impl KvCache {
    fn new(shape: KvShape) -> KvCache {
        let head = || {
            RwLock::new(HeadCache {
                shape,
                first_page: 0,
                pages: VecDeque::new(),
            })
        };
        KvCache {
            shape,
            heads: (0..shape.n_kv_heads).map(|_| head()).collect(),
        }
    }

    /// Runs `f` on one head for writing.
    pub fn write<R>(&self, head: usize, f: impl FnOnce(&mut HeadCache) -> R) -> R {
        f(&mut self.heads[head].write().unwrap_or_else(|e| e.into_inner()))
    }

    /// One head for reading.
    pub fn read(&self, head: usize) -> RwLockReadGuard<'_, HeadCache> {
        self.heads[head].read().unwrap_or_else(|e| e.into_inner())
    }

    /// Drops what nobody can see from position `len` on and makes room for positions `len .. len + more`, in pages that nobody else has.
    fn reserve(&mut self, len: usize, more: usize, meter: &Meter) -> Result<()> {
        let keep = self.shape.window.map_or(0, |w| (len + 1).saturating_sub(w)) / PAGE;
        let end = (len + more).div_ceil(PAGE);
        for head in &mut self.heads {
            let head = head.get_mut().unwrap_or_else(|e| e.into_inner());
            while head.first_page < keep && !head.pages.is_empty() {
                head.pages.pop_front();
                head.first_page += 1;
            }
            // The page that the next position goes to, if it has been begun.
            if more > 0
                && let Some(at) = (len / PAGE).checked_sub(head.first_page)
                && let Some(page) = head.pages.get_mut(at)
                && Arc::get_mut(page).is_none()
            {
                *page = Arc::new(page.copy(meter)?);
            }
            while head.first_page + head.pages.len() < end {
                let page = Page::new(self.shape.page_bytes(), meter)?;
                head.pages.push_back(Arc::new(page));
            }
        }
        Ok(())
    }

    /// Whether the keys that position `len` sees are still there.
    fn reaches(&mut self, len: usize) -> bool {
        let oldest = self.shape.window.map_or(0, |w| (len + 1).saturating_sub(w)) / PAGE;
        let mut heads = self.heads.iter_mut();
        heads.all(|head| head.get_mut().unwrap_or_else(|e| e.into_inner()).first_page <= oldest)
    }

    /// Forgets positions from `len` on.
    fn truncate(&mut self, len: usize) {
        for head in &mut self.heads {
            let head = head.get_mut().unwrap_or_else(|e| e.into_inner());
            head.pages
                .truncate(len.div_ceil(PAGE).saturating_sub(head.first_page));
        }
    }

    /// Bytes that [`KvCache::reserve`] takes.
    fn growth(&self, len: usize, more: usize) -> usize {
        let end = (len + more).div_ceil(PAGE);
        let pages = self.heads.iter().map(|head| {
            let head = head.read().unwrap_or_else(|e| e.into_inner());
            let new = end.saturating_sub(head.first_page + head.pages.len());
            let at = (len / PAGE).checked_sub(head.first_page);
            let begun = at.and_then(|at| head.pages.get(at));
            let shared = begun.is_some_and(|page| Arc::strong_count(page) > 1);
            new + usize::from(shared && more > 0)
        });
        pages.sum::<usize>() * self.shape.page_bytes()
    }

    /// A cache that has the first `len` positions, or those of them that later ones see.
    fn fork(&self, len: usize) -> KvCache {
        let fork = KvCache::new(self.shape);
        for (head, fork) in self.heads.iter().zip(&fork.heads) {
            let head = head.read().unwrap_or_else(|e| e.into_inner());
            let mut fork = fork.write().unwrap_or_else(|e| e.into_inner());
            let pages = len.div_ceil(PAGE).saturating_sub(head.first_page);
            fork.first_page = head.first_page;
            fork.pages.extend(head.pages.iter().take(pages).cloned());
        }
        fork
    }

    fn clear(&mut self) {
        for head in &mut self.heads {
            let head = head.get_mut().unwrap_or_else(|e| e.into_inner());
            head.pages.clear();
            head.first_page = 0;
        }
    }

    fn bytes(&self) -> usize {
        let pages: usize = self
            .heads
            .iter()
            .map(|h| h.read().unwrap_or_else(|e| e.into_inner()).pages.len())
            .sum();
        pages * self.shape.page_bytes()
    }
}

/// The state of one sequence of tokens in one model.
pub struct Sequence {
    /// Counts the memory of its caches.
    meter: Meter,
    len: usize,
    prompt_len: usize,
    /// Positions that the tokens so far were computed for, where that matters.
    counted: usize,
    /// The tokens so far, where they may have to be computed anew.
    ids: Option<Vec<u32>>,
    pub(crate) caches: Vec<KvCache>,
    pub(crate) states: Vec<State>,
    /// What the states were after fewer tokens, in ascending order of those.
    marks: Vec<Mark>,
    /// Memory of a mark that is no longer needed.
    spare: Vec<f32>,
    /// What the decoder looks at, where there is an encoder: its caches are those of the branches that look.
    source: Option<Box<Sequence>>,
}

impl Sequence {
    /// An empty sequence with one cache and one state per shape; `keep_ids` if it may have to be computed anew.
    pub(crate) fn new(
        caches: impl IntoIterator<Item = KvShape>,
        states: &[StateShape],
        keep_ids: bool,
    ) -> Sequence {
        Sequence {
            meter: Meter::default(),
            len: 0,
            prompt_len: 0,
            counted: 0,
            ids: keep_ids.then(Vec::new),
            caches: caches.into_iter().map(KvCache::new).collect(),
            states: states.iter().copied().map(State::new).collect(),
            marks: Vec::new(),
            spare: Vec::new(),
            source: None,
        }
    }

    /// The same with a source, whose keys and values have these shapes.
    pub(crate) fn with_source(self, shapes: impl IntoIterator<Item = KvShape>) -> Sequence {
        Sequence {
            source: Some(Box::new(Sequence::new(shapes, &[], false))),
            ..self
        }
    }

    /// The source that the tokens are about, if the model has an encoder; it is empty until it is encoded.
    pub fn source(&self) -> Option<&Sequence> {
        self.source.as_deref()
    }

    pub(crate) fn source_mut(&mut self) -> Option<&mut Sequence> {
        self.source.as_deref_mut()
    }

    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was run yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of keys, values and recurrent states in use, those of marks and of the source among them.
    pub fn bytes(&self) -> usize {
        let caches: usize = self.caches.iter().map(KvCache::bytes).sum();
        let states: usize = self.states.iter().map(State::bytes).sum();
        let marks: usize = self.marks.iter().map(|m| 4 * m.values.len()).sum();
        caches + states + marks + self.source.as_ref().map_or(0, |s| s.bytes())
    }

    /// Says how many positions the prompt has in all, before its first chunk runs: rotary embeddings that depend on the length of a pass
    /// (dynamic NTK) count the whole prompt however it is cut into chunks, and one position more for every later token.
    pub fn set_prompt_len(&mut self, n: usize) {
        self.prompt_len = n;
    }

    /// See [`Sequence::set_prompt_len`].
    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Positions that a pass counts for the token at `position`.
    pub(crate) fn counted(&self, position: usize) -> usize {
        self.needs(position).max(self.counted)
    }

    /// Positions that have to be counted for the token at `position`, whatever was counted so far.
    pub(crate) fn needs(&self, position: usize) -> usize {
        self.prompt_len.max(position + 1)
    }

    /// Positions that the tokens so far were computed for, if the model asks.
    pub(crate) fn counts(&self) -> usize {
        self.counted
    }

    /// Says for how many positions the next tokens are computed.
    pub(crate) fn count_from(&mut self, n: usize) {
        self.counted = n;
    }

    /// Forgets everything but the ids, which it returns, and the source.
    pub(crate) fn restart(&mut self) -> Vec<u32> {
        self.len = 0;
        self.caches.iter_mut().for_each(KvCache::clear);
        self.states.iter_mut().for_each(State::clear);
        self.marks.clear();
        self.ids.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Keeps what recurrent states are now, so that the sequence can come back to here; one without states always can.
    ///
    /// # Errors
    /// There is not enough memory. The sequence is unchanged.
    pub fn mark(&mut self) -> Result<()> {
        let marked = self.marks.last().is_some_and(|m| m.len == self.len);
        if self.states.is_empty() || self.len == 0 || marked {
            return Ok(());
        }
        let spare = std::mem::take(&mut self.spare);
        self.marks
            .push(Mark::of(&mut self.states, self.len, spare)?);
        Ok(())
    }

    /// Forgets the mark at `len`, if there is one.
    pub fn unmark(&mut self, len: usize) {
        if let Some(at) = self.marks.iter().position(|m| m.len == len) {
            self.spare = self.marks.remove(at).values;
        }
    }

    /// The greatest number of tokens, at most `len`, that [`Sequence::truncate`] can go back to.
    pub fn nearest(&mut self, len: usize) -> usize {
        if len >= self.len {
            return self.len;
        }
        let marks = self.marks.iter().rev();
        let near = match self.states.is_empty() {
            true => len,
            false => marks.map(|m| m.len).find(|m| *m <= len).unwrap_or(0),
        };
        match self.caches.iter_mut().all(|cache| cache.reaches(near)) {
            true => near,
            false => 0,
        }
    }

    /// Forgets all tokens from `len` on.
    ///
    /// # Errors
    /// A sliding window has already dropped keys that position `len` needs, or a recurrent state would have to be what it was then and was not
    /// marked. The beginning, 0, can always be gone back to. The sequence is unchanged after an error.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len >= self.len {
            return Ok(());
        }
        if len == 0 {
            self.restart();
            return Ok(());
        }
        let mut why = None;
        let mark = self.marks.iter().position(|m| m.len == len);
        if !self.states.is_empty() && mark.is_none() {
            why = Some("a recurrent state has taken in the later ones");
        } else if !self.caches.iter_mut().all(|cache| cache.reaches(len)) {
            why = Some("a sliding window has dropped earlier keys");
        }
        if let Some(why) = why {
            return Err(Error::limit(format_args!(
                "cannot go back to {len} of {} tokens: {why}",
                self.len
            )));
        }
        self.caches.iter_mut().for_each(|cache| cache.truncate(len));
        if let Some(mark) = mark {
            self.marks[mark].restore(&mut self.states);
            self.marks.truncate(mark + 1);
        }
        self.len = len;
        if let Some(ids) = &mut self.ids {
            ids.truncate(len);
        }
        Ok(())
    }

    /// Another sequence that begins with the first `len` tokens of this one, which is where [`Sequence::nearest`] can go back to. It shares the pages of
    /// caches, and has states of its own.
    ///
    /// # Errors
    /// As [`Sequence::truncate`]; not enough memory.
    pub fn fork(&mut self, len: usize) -> Result<Sequence> {
        if self.nearest(len) != len {
            return Err(Error::limit(format_args!(
                "cannot begin another sequence with {len} of {} tokens: what they left is not kept",
                self.len
            )));
        }
        let mut states: Vec<State> = self.states.iter().map(State::like).collect();
        if len > 0 && !states.is_empty() {
            states.iter_mut().try_for_each(State::reserve)?;
            match self.marks.iter().find(|m| m.len == len) {
                Some(mark) => mark.restore(&mut states),
                None => Mark::of(&mut self.states, len, Vec::new())?.restore(&mut states),
            }
        }
        let source = match &mut self.source {
            None => None,
            Some(source) => Some(Box::new(source.fork(source.len)?)),
        };
        Ok(Sequence {
            meter: self.meter.clone(),
            len,
            prompt_len: self.prompt_len,
            counted: if len > 0 { self.counted } else { 0 },
            ids: self.ids.as_ref().map(|ids| ids[..len].to_vec()),
            caches: self.caches.iter().map(|cache| cache.fork(len)).collect(),
            states,
            marks: Vec::new(),
            spare: Vec::new(),
            source,
        })
    }

    /// Whether what it was after fewer tokens can only be had where [`Sequence::mark`] or [`Sequence::fork`] kept it at the time.
    pub fn moves_on(&self) -> bool {
        !self.states.is_empty() || self.caches.iter().any(|c| c.shape.window.is_some())
    }

    /// Lets a meter count the memory of this sequence, which is empty, and of its source.
    pub fn meter_with(&mut self, meter: &Meter) {
        self.meter = meter.clone();
        if let Some(source) = &mut self.source {
            source.meter_with(meter);
        }
    }

    /// Bytes that a sequence like this needs at most for `len` tokens, if it shares nothing.
    pub fn bytes_for(&self, len: usize) -> usize {
        let caches = self.caches.iter().map(|cache| {
            let shape = &cache.shape;
            // A window that begins and ends within a page, beside what one pass adds at most.
            let seen = shape.window.map_or(len, |w| len.min(w + PASS + PAGE));
            seen.div_ceil(PAGE) * shape.n_kv_heads * shape.page_bytes()
        });
        let states = self.states.iter().filter_map(State::shape_bytes);
        caches.sum::<usize>() + states.sum::<u64>() as usize
    }

    /// Bytes of caches that a pass of so many tokens takes at most: new pages, and copies of shared ones.
    pub fn growth(&self, more: usize) -> usize {
        let caches = self.caches.iter();
        caches.map(|cache| cache.growth(self.len, more)).sum()
    }

    pub(crate) fn reserve(&mut self, more: usize) -> Result<()> {
        let (len, meter) = (self.len, &self.meter);
        self.states.iter_mut().try_for_each(State::reserve)?;
        self.caches
            .iter_mut()
            .try_for_each(|cache| cache.reserve(len, more, meter))
    }

    pub(crate) fn advance(&mut self, tokens: &[u32]) {
        self.len += tokens.len();
        if let Some(ids) = &mut self.ids {
            ids.extend_from_slice(tokens);
        }
    }
}

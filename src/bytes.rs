//! Shared memory that nobody copies: [`Bytes`] is a range of some owned memory, cheap to clone.
//!
//! The owner is usually the mapping of a model file, so that a tensor view or a tokenizer keeps the mapping alive by itself. An
//! owner must return the same slice every time it is asked; all owners in this crate do.

use crate::error::{Result, out_of_memory};
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Alignment of [`AlignedBytes`]: one cache line, which is also the alignment of a panel of weights.
pub const ALIGN: usize = 64;

/// A range of memory that its owner keeps alive for as long as a clone of this exists.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// All of an owner's memory.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Bytes {
        let len = (*owner).as_ref().len();
        Bytes {
            owner,
            start: 0,
            len,
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.len]
    }

    /// A part of these bytes, sharing their owner; `None` if the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        Some(Bytes {
            owner: Arc::clone(&self.owner),
            start: self.start + range.start,
            len: range.end - range.start,
        })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::new(Arc::new(bytes))
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

/// Private memory that starts at a multiple of [`ALIGN`].
pub struct AlignedBytes {
    /// Never grows after construction, so its address and with it `start` stay valid.
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes.
    ///
    /// # Errors
    /// A limit error that names `what` if the memory cannot be had.
    pub fn zeroed(len: usize, what: &str) -> Result<AlignedBytes> {
        let mut storage = Vec::new();
        let padded = len
            .checked_add(ALIGN)
            .ok_or_else(|| out_of_memory(what, len))?;
        storage
            .try_reserve_exact(padded)
            .map_err(|_| out_of_memory(what, len))?;
        storage.resize(padded, 0);
        let start = storage.as_ptr().align_offset(ALIGN).min(ALIGN);
        Ok(AlignedBytes {
            storage,
            start,
            len,
        })
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// A limit error if the memory cannot be had.
    pub fn copy_of(bytes: &[u8]) -> Result<AlignedBytes> {
        let mut out = AlignedBytes::zeroed(bytes.len(), "a copy in memory")?;
        out.as_mut().copy_from_slice(bytes);
        Ok(out)
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_its_owner_and_refuses_what_lies_outside() {
        let whole = Bytes::from(vec![1, 2, 3, 4, 5]);
        let part = whole.slice(1..4).unwrap();
        assert!(whole.slice(3..6).is_none());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = whole.slice(3..2);
        assert!(reversed.is_none());
        assert!(part.slice(0..4).is_none());
        drop(whole);
        assert_eq!(&part[..], [2, 3, 4]);
        assert_eq!(&part.slice(1..2).unwrap()[..], [3]);
        assert!(part.slice(3..3).unwrap().is_empty());
    }

    #[test]
    fn aligned_memory_is_aligned_and_a_failed_allocation_is_a_limit() {
        for len in [0, 1, 63, 64, 4097] {
            let mut bytes = AlignedBytes::zeroed(len, "test").unwrap();
            assert_eq!(bytes.as_ref().as_ptr() as usize % ALIGN, 0);
            assert_eq!(bytes.as_mut().len(), len);
        }
        let Err(e) = AlignedBytes::zeroed(usize::MAX / 2, "the model") else {
            panic!("no machine has that much memory");
        };
        assert_eq!(e.exit_code(), 5);
        assert!(e.to_string().contains("the model"), "{e}");
    }
}

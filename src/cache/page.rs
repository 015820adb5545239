//! One page of a cache, and the count of the memory of all of them.

use crate::bytes::AlignedBytes;
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes of the pages of some sequences. Its clones count together.
#[derive(Clone, Default)]
pub struct Meter(Arc<AtomicUsize>);

impl Meter {
    /// Bytes of all pages that live.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Keys and values of some positions of one head.
pub(super) struct Page {
    bytes: AlignedBytes,
    meter: Meter,
}

impl Page {
    /// A page of zeros.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn new(len: usize, meter: &Meter) -> Result<Page> {
        let bytes = AlignedBytes::zeroed(len, "the KV cache")?;
        meter.0.fetch_add(len, Ordering::Relaxed);
        let meter = meter.clone();
        Ok(Page { bytes, meter })
    }

    /// A page with the same contents.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn copy(&self, meter: &Meter) -> Result<Page> {
        let mut page = Page::new(self.bytes().len(), meter)?;
        page.as_mut().copy_from_slice(self.bytes());
        Ok(page)
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl AsMut<[u8]> for Page {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let bytes = self.bytes().len();
        self.meter.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

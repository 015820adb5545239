//! Memory between two unmapped pages.

/// A readable and writable region with an inaccessible page before and after it.
pub struct Guarded {
    base: *mut u8,
    page: usize,
    len: usize,
}

impl Guarded {
    /// A region of at least `bytes`.
    pub fn new(bytes: usize) -> Guarded {
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let len = bytes.max(1).next_multiple_of(page);
        // SAFETY: a fresh anonymous mapping, then the middle of it made accessible.
        let base = unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                len + 2 * page,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(base, libc::MAP_FAILED);
            let rc = libc::mprotect(
                base.cast::<u8>().add(page).cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
            );
            assert_eq!(rc, 0);
            base.cast()
        };
        Guarded { base, page, len }
    }

    /// `n` bytes that end `gap` bytes before the upper unmapped page.
    pub fn bytes_at_end(&mut self, n: usize, gap: usize) -> &mut [u8] {
        assert!(n + gap <= self.len);
        // SAFETY: within the accessible part; the borrow of self makes it unique.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.page + self.len - gap - n), n) }
    }

    /// `n` bytes that start `gap` bytes after the lower unmapped page.
    pub fn bytes_at_start(&mut self, n: usize, gap: usize) -> &mut [u8] {
        assert!(n + gap <= self.len);
        // SAFETY: within the accessible part; the borrow of self makes it unique.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.page + gap), n) }
    }

    /// The place for `n` floats number `i`: flush with the end, flush with the start, `i` floats
    /// off either.
    pub fn floats(&mut self, n: usize, i: usize) -> &mut [f32] {
        let (gap, at_end) = (i / 2 * 4, i.is_multiple_of(2));
        let bytes = if at_end {
            self.bytes_at_end(4 * n, gap)
        } else {
            self.bytes_at_start(4 * n, gap)
        };
        // SAFETY: the region is page aligned and gap a multiple of 4; any bits are a float.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), n) }
    }

    /// The same with the contents of `x`.
    pub fn copy(&mut self, x: &[f32], i: usize) -> &mut [f32] {
        let place = self.floats(x.len(), i);
        place.copy_from_slice(x);
        place
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping made in new, of which no borrow is left.
        unsafe { libc::munmap(self.base.cast(), self.len + 2 * self.page) };
    }
}

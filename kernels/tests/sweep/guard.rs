//! Memory between two unmapped pages: an access one byte outside a slice at either end is a crash.

use std::marker::PhantomData;

/// Where in the mapping a slice lies.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Its first byte follows an unmapped page.
    Start,
    /// Its last byte precedes an unmapped page.
    End,
    /// That many bytes after the first.
    Offset(usize),
}

/// A mapping for slices of `T`, of plain numbers.
pub struct Guarded<T> {
    base: *mut u8,
    page: usize,
    capacity: usize,
    of: PhantomData<T>,
}

impl<T: Copy> Guarded<T> {
    /// Room for `len` elements in every place.
    pub fn new(len: usize) -> Self {
        // SAFETY: a plain query.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let capacity = (len * size_of::<T>() + 128).next_multiple_of(page);
        // SAFETY: a fresh anonymous mapping, then access to its inner pages.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(
                std::ptr::null_mut(),
                capacity + 2 * page,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            );
            assert_ne!(base, libc::MAP_FAILED, "mmap");
            let inner = base.cast::<u8>().add(page);
            let rc = libc::mprotect(inner.cast(), capacity, libc::PROT_READ | libc::PROT_WRITE);
            assert_eq!(rc, 0, "mprotect");
            base.cast::<u8>()
        };
        Guarded {
            base,
            page,
            capacity,
            of: PhantomData,
        }
    }

    /// A slice of `len` elements in that place.
    pub fn slice(&mut self, len: usize, place: Place) -> &mut [T] {
        let bytes = len * size_of::<T>();
        let offset = match place {
            Place::Start => 0,
            Place::End => self.capacity - bytes,
            Place::Offset(offset) => offset,
        };
        assert!(offset + bytes <= self.capacity && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: within the inner pages and aligned; `T` is a plain number, for which any bytes will do.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.page + offset).cast(), len) }
    }

    /// The same, holding `values`.
    pub fn copy(&mut self, values: &[T], place: Place) -> &[T] {
        let slice = self.slice(values.len(), place);
        slice.copy_from_slice(values);
        slice
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`.
        unsafe { libc::munmap(self.base.cast(), self.capacity + 2 * self.page) };
    }
}

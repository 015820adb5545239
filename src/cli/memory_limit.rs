//! Running out of memory is exit 5 and not an abort.
//!
//! Where a size comes from input, code reserves memory fallibly and says what it was for. For every other allocation the standard
//! library prints `memory allocation of N bytes failed` and aborts; [`install`] turns that abort, and no other, into exit code 5.

#![allow(unsafe_code)] // an allocator and a signal handler cannot be had otherwise

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static REFUSED: AtomicBool = AtomicBool::new(false);

/// The system's allocator, which remembers that it could not help.
pub struct Allocator;

fn note<T>(memory: *mut T) -> *mut T {
    if memory.is_null() {
        REFUSED.store(true, Ordering::Relaxed);
    }
    memory
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        note(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        note(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        note(unsafe { System.realloc(memory, layout, size) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// When this returns, `abort` goes on as if there were no handler.
extern "C" fn on_abort(_: libc::c_int) {
    if REFUSED.load(Ordering::Relaxed) {
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(5) }
    }
}

/// Installs the handler; called once, before any other thread exists.
pub fn install() {
    // SAFETY: an all-zero `sigaction` is a valid value, and `on_abort` has the signature that it is called with.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_abort as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGABRT, &action, std::ptr::null_mut());
    }
}

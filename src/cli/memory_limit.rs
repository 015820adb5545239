//! Running out of memory is exit 5 and not an abort.
//!
//! Where a size comes from input, code reserves memory fallibly and says what it was for. For every other allocation the standard
//! library prints `memory allocation of N bytes failed` and aborts; where a new thread finds no memory for its signal stack it panics and
//! aborts. [`install`] turns these two aborts, and no others, into exit code 5 with one line.

#![allow(unsafe_code)] // an allocator and a signal handler cannot be had otherwise

use crate::par::STARTING;
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
    let starting = STARTING.load(Ordering::SeqCst);
    if starting {
        const LINE: &[u8] =
            b"quern: not enough memory to start the threads: use fewer (-t) or raise the limit\n";
        // SAFETY: `write` is async-signal-safe and reads a constant of that length.
        unsafe { libc::write(2, LINE.as_ptr().cast(), LINE.len()) };
    }
    if starting || REFUSED.load(Ordering::Relaxed) {
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(5) }
    }
}

/// Installs the handler; called once, before any other thread exists.
pub fn install() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A panic of a starting thread is about its stack, and `on_abort` says so.
        if !STARTING.load(Ordering::SeqCst) {
            report(panic);
        }
    }));
    // SAFETY: an all-zero `sigaction` is a valid value, and `on_abort` has the signature that it is called with.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_abort as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGABRT, &action, std::ptr::null_mut());
    }
}

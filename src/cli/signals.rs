//! Signals: SIGINT and SIGTERM end the process with 130 and 143; SIGXFSZ is ignored so that a file size limit is a write error.
//!
//! A command that has something to finish (text on the way, a file half written) calls [`poll`] and looks at [`caught`] after every
//! token: the first signal is then only noted. Without [`poll`], and at the second signal in any case, the process ends at once.
//! SIGPIPE is left as Rust sets it (ignored): a closed pipe is a write error that `output` notes.

#![allow(unsafe_code)] // signal handlers can only be installed through the C interface

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static POLLED: AtomicBool = AtomicBool::new(false);
static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// Only async-signal-safe calls: atomics and `_exit`.
extern "C" fn on_signal(signal: libc::c_int) {
    let first = CAUGHT.swap(signal, Ordering::SeqCst) == 0;
    if !(first && POLLED.load(Ordering::SeqCst)) {
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(128 + signal) }
    }
}

/// Installs the handlers; called once, before any other thread exists.
pub fn install() {
    // SAFETY: an all-zero `sigaction` is a valid value (empty mask, no flags); `on_signal` has the signature that `sa_sigaction`
    // without SA_SIGINFO expects and is async-signal-safe. The calls cannot fail for these signal numbers.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGTERM, &action, std::ptr::null_mut());
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// From now on the first signal is only noted, for [`caught`].
pub fn poll() {
    POLLED.store(true, Ordering::SeqCst);
}

/// The signal that came, if one did.
pub fn caught() -> Option<u8> {
    match CAUGHT.load(Ordering::SeqCst) {
        0 => None,
        signal => u8::try_from(signal).ok(),
    }
}

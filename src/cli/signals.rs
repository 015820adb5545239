//! Signals: SIGINT and SIGTERM end the process with 130 and 143; SIGXFSZ is ignored so that a file size limit is a write error.
//!
//! A command that has something to finish (text on the way, a file half written) calls [`poll`] and looks at [`caught`] after every
//! token: the first signal is then only noted. Without [`poll`], and at the second signal in any case, the process ends at once.
//! A conversation on a terminal goes on after an interrupt ([`keep_interrupts`], [`take_interrupt`]), since it would be lost otherwise. While
//! somebody types ([`at_prompt`]) SIGTERM ends the process at once and gives the terminal back as it was.
//! SIGPIPE is left as Rust sets it (ignored): a closed pipe is a write error that `output` notes.

#![allow(unsafe_code)] // signal handlers can only be installed through the C interface

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static POLLED: AtomicBool = AtomicBool::new(false);
static CAUGHT: AtomicI32 = AtomicI32::new(0);
static KEPT: AtomicBool = AtomicBool::new(false);
static AT_PROMPT: AtomicBool = AtomicBool::new(false);
/// How the terminal was before somebody typed.
static TERMINAL: OnceLock<libc::termios> = OnceLock::new();

/// Ends the bracketed paste that a line editor asked for.
const PASTE_OFF: &[u8] = b"\x1b[?2004l";

/// Only async-signal-safe calls: atomics (a set `OnceLock` is read through one), `tcsetattr`, `write` and `_exit`.
extern "C" fn on_signal(signal: libc::c_int) {
    let kept = KEPT.load(Ordering::SeqCst);
    if kept && signal == libc::SIGINT {
        let _ = CAUGHT.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        return;
    }
    let before = CAUGHT.swap(signal, Ordering::SeqCst);
    let first = before == 0 || (kept && before == libc::SIGINT);
    let at_prompt = AT_PROMPT.load(Ordering::SeqCst);
    if first && !at_prompt && POLLED.load(Ordering::SeqCst) {
        return;
    }
    if let (true, Some(terminal)) = (at_prompt, TERMINAL.get()) {
        // SAFETY: `terminal` was filled in by tcgetattr, the bytes are static; both calls are async-signal-safe. There is nobody to
        // tell of a failure.
        unsafe {
            libc::write(
                libc::STDOUT_FILENO,
                PASTE_OFF.as_ptr().cast(),
                PASTE_OFF.len(),
            );
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, terminal);
        }
    }
    // SAFETY: `_exit` is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
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

/// From now on the first signal ends the process again, as before [`poll`].
pub fn unpoll() {
    POLLED.store(false, Ordering::SeqCst);
}

/// From now on SIGINT never ends the process: it is noted, for [`take_interrupt`].
pub fn keep_interrupts() {
    POLLED.store(true, Ordering::SeqCst);
    KEPT.store(true, Ordering::SeqCst);
}

/// Whether SIGINT came; it is then as if it had not come.
pub fn take_interrupt() -> bool {
    let taken = CAUGHT.compare_exchange(libc::SIGINT, 0, Ordering::SeqCst, Ordering::SeqCst);
    taken.is_ok()
}

/// Reads from the terminal: meanwhile SIGTERM ends the process, with the terminal as it was at the first call of this function.
pub fn at_prompt<T>(read: impl FnOnce() -> T) -> T {
    if TERMINAL.get().is_none() {
        // SAFETY: an all-zero `termios` is a valid value, and tcgetattr fills it in or says that it did not.
        let terminal = unsafe {
            let mut terminal: libc::termios = std::mem::zeroed();
            (libc::tcgetattr(libc::STDIN_FILENO, &mut terminal) == 0).then_some(terminal)
        };
        if let Some(terminal) = terminal {
            let _ = TERMINAL.set(terminal);
        }
    }
    AT_PROMPT.store(true, Ordering::SeqCst);
    let out = read();
    AT_PROMPT.store(false, Ordering::SeqCst);
    out
}

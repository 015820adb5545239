//! SIGBUS: a mapped file was cut short.
//!
//! A page of a mapping that lies behind the end of the file raises SIGBUS on access, in whatever thread reads weights at that moment.
//! Nothing can be unwound there, so the handler writes one line and ends the process with exit code 6. It only does so for an
//! address inside a registered mapping; any other SIGBUS goes to the handler that was there before.
//!
//! The handler may run at any instruction, so it only reads atomics and calls functions that POSIX lists as async-signal-safe
//! (write, _exit, sigaction, raise). It runs on the thread's alternate stack; the standard library sets one up for every
//! thread that it starts, and for the main thread.
#![allow(unsafe_code)] // signal handlers are installed and run through the C library

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The exit code for a model that changed while it was in use.
const EXIT_CHANGED: libc::c_int = 6;

/// One registered mapping. Nodes are never freed, only used again, so the handler can walk the list at any time.
struct Node {
    /// First byte; 0 where the node is free.
    start: AtomicUsize,
    /// The byte after the last.
    end: AtomicUsize,
    text: AtomicPtr<u8>,
    text_len: AtomicUsize,
    next: Option<&'static Node>,
}

static HEAD: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());
/// Held by whoever changes the list; the handler does not take it.
static CHANGE: Mutex<()> = Mutex::new(());
/// What SIGBUS did before; set before our handler can run.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// The first node of the list.
fn first() -> Option<&'static Node> {
    // SAFETY: the pointer is null or comes from `Box::leak` in `watch`; nodes are never freed nor borrowed mutably after that.
    unsafe { HEAD.load(Ordering::Acquire).as_ref() }
}

/// Ends the watch over a mapping when dropped.
pub struct Registration {
    node: &'static Node,
    /// What the handler writes; it must outlive the node's use, so it is freed after.
    _text: Box<[u8]>,
}

/// Makes SIGBUS in `memory` write `message` and a line end to stderr and end the process with exit code 6.
///
/// The caller must keep the registration exactly as long as the mapping.
pub fn watch(memory: &[u8], message: &str) -> Registration {
    install();
    let text: Box<[u8]> = format!("{message}\n").into_bytes().into();
    let _guard = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut node = first();
    while let Some(candidate) = node {
        if candidate.start.load(Ordering::Acquire) == 0 {
            break;
        }
        node = candidate.next;
    }
    let node = node.unwrap_or_else(|| {
        let fresh: &'static mut Node = Box::leak(Box::new(Node {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            text: AtomicPtr::new(ptr::null_mut()),
            text_len: AtomicUsize::new(0),
            next: first(),
        }));
        HEAD.store(fresh, Ordering::Release);
        fresh
    });
    let start = memory.as_ptr() as usize;
    node.text.store(text.as_ptr().cast_mut(), Ordering::Release);
    node.text_len.store(text.len(), Ordering::Release);
    node.end.store(start + memory.len(), Ordering::Release);
    // Last: from here on the handler believes the node.
    node.start.store(start, Ordering::Release);
    Registration { node, _text: text }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _guard = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        self.node.start.store(0, Ordering::Release);
    }
}

/// Installs the SIGBUS handler once.
fn install() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: a zeroed sigaction is a valid value (default action, empty mask); the pointers are valid for the calls; the handler
        // has the signature that SA_SIGINFO asks for. A failure leaves the default action, which is the state without us.
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) != 0 {
                return;
            }
            let _ = PREVIOUS.set(previous);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        }
    });
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo; for a code above 0 (a fault, not a signal that somebody sent) its
    // address field is the one that was accessed.
    let (fault, address) = unsafe { ((*info).si_code > 0, (*info).si_addr() as usize) };
    if fault {
        let mut node = first();
        while let Some(n) = node {
            let start = n.start.load(Ordering::Acquire);
            if start != 0 && address >= start && address < n.end.load(Ordering::Acquire) {
                let text = n.text.load(Ordering::Acquire);
                let len = n.text_len.load(Ordering::Acquire);
                // SAFETY: the fault is in this node's mapping, so that mapping is alive, and with it the registration that owns
                // the text. write and _exit are async-signal-safe.
                unsafe {
                    let _ = libc::write(2, text.cast(), len);
                    libc::_exit(EXIT_CHANGED);
                }
            }
            node = n.next;
        }
    }
    // Not ours: put the previous handler back. A fault happens again when this one returns; a signal that was sent is sent again.
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: sigaction and raise are async-signal-safe; `previous` was filled in by sigaction.
        unsafe {
            libc::sigaction(signal, previous, ptr::null_mut());
            if !fault {
                libc::raise(signal);
            }
        }
    }
}

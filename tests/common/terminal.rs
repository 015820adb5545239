//! The program on a pseudo-terminal: what a person types, and what they see.

use super::program::quern;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long anything may take: far more than it does on any machine, so that it only ends what hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pseudo-terminal of 200 columns: our end and the program's. No other program that a test starts meanwhile inherits them: it would keep the
/// terminal open when ours has ended.
pub fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let size = libc::winsize {
        ws_row: 50,
        ws_col: 200,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let mut name = [0 as libc::c_char; 64];
    // SAFETY: calls on a descriptor that was just opened and belongs to nobody else; `name` is as long as is said, ends in zero when it was
    // filled in, and the ioctl reads a size.
    unsafe {
        let ours = libc::posix_openpt(flags);
        assert!(ours >= 0, "a pseudo-terminal");
        let ours = OwnedFd::from_raw_fd(ours);
        let fd = ours.as_raw_fd();
        assert_eq!(libc::grantpt(fd) | libc::unlockpt(fd), 0);
        assert_eq!(libc::ptsname_r(fd, name.as_mut_ptr(), name.len()), 0);
        let theirs = libc::open(name.as_ptr(), flags);
        assert!(theirs >= 0, "the other end of a pseudo-terminal");
        let theirs = OwnedFd::from_raw_fd(theirs);
        assert_eq!(libc::ioctl(theirs.as_raw_fd(), libc::TIOCSWINSZ, &size), 0);
        (ours, theirs)
    }
}

/// A program that runs on a terminal.
pub struct Terminal {
    child: Child,
    ours: File,
    /// Everything that was shown.
    seen: Vec<u8>,
    /// Up to where it was waited for.
    at: usize,
    /// How many reads brought something.
    pub pieces: usize,
}

impl Terminal {
    /// Starts it with these arguments. `prepare` may change the environment; TERM is xterm, and there is no home.
    pub fn start(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Terminal {
        let (ours, theirs) = pseudo_terminal();
        let copy = || theirs.try_clone().expect("a descriptor");
        let mut command = quern(args);
        command
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .env("TERM", "xterm")
            .env_remove("HOME")
            .env_remove("XDG_STATE_HOME");
        prepare(&mut command);
        // SAFETY: only async-signal-safe calls, on this process. The terminal becomes the one that Ctrl-C on it interrupts.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the program starts");
        Terminal {
            child,
            ours: File::from(ours),
            seen: Vec::new(),
            at: 0,
            pieces: 0,
        }
    }

    /// Types it.
    pub fn send(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Sends a signal to the program.
    pub fn kill(&self, signal: i32) {
        // SAFETY: the child was not waited for, so the number is still its own.
        let failed = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(failed, 0);
    }

    /// Reads once; false at the end.
    fn read(&mut self, deadline: Instant) -> bool {
        let mut poll = libc::pollfd {
            fd: self.ours.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // SAFETY: one descriptor is polled, and it is open.
        let ready = unsafe { libc::poll(&mut poll, 1, left.as_millis() as libc::c_int) };
        assert!(ready > 0, "nothing more came after {:?}", self.transcript());
        let mut bytes = [0; 4096];
        // At its end a terminal without writers reports an error instead of zero bytes.
        let n = self.ours.read(&mut bytes).unwrap_or(0);
        self.seen.extend_from_slice(&bytes[..n]);
        self.pieces += usize::from(n > 0);
        n > 0
    }

    /// Everything that was shown, as far as it is text.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until this is shown behind what was waited for before; returns what stood before it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let new = &self.seen[self.at..];
            let found = new
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let before = String::from_utf8_lossy(&new[..at]).into_owned();
                self.at += at + text.len();
                return before;
            }
            assert!(
                self.read(deadline),
                "{text:?} did not come: {:?}",
                self.transcript()
            );
        }
    }

    /// Waits until the line editor asks for the next line: it switches bracketed paste on and shows its prompt.
    #[track_caller]
    pub fn prompt(&mut self) -> String {
        let before = self.wait_for("\u{1b}[?2004h");
        self.wait_for("> ");
        before
    }

    /// Whether the terminal driver edits lines and shows what is typed, as it does before and after a line editor.
    pub fn is_line_mode(&self) -> bool {
        // SAFETY: an all-zero `termios` is a valid value that tcgetattr fills in; the descriptor is open.
        let flags = unsafe {
            let mut terminal: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.ours.as_raw_fd(), &mut terminal), 0);
            terminal.c_lflag
        };
        flags & libc::ICANON != 0 && flags & libc::ECHO != 0
    }

    /// Waits until it is so; false if the program ends before.
    pub fn wait_for_line_mode(&mut self) -> bool {
        loop {
            let ended = self.child.try_wait().expect("a child").is_some();
            if self.is_line_mode() || ended {
                return self.is_line_mode();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end; returns the exit code and what was still shown.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        let deadline = Instant::now() + PATIENCE;
        while self.read(deadline) {}
        let code = self.child.wait().expect("the program ends").code();
        let rest = String::from_utf8_lossy(&self.seen[self.at..]).into_owned();
        (code.unwrap_or(-1), rest)
    }
}

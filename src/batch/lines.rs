//! Lines of an input of any size, one at a time, each bounded.
//!
//! What editors and systems leave in files is taken as it is meant: a byte order mark at the very beginning and a carriage return before a
//! line feed are dropped, blank lines are no records, and the last line needs no line feed.
//!
//! An [`Input`] that is no regular file is read by a thread of its own: whoever writes it may wait for an answer before the next line comes, and
//! work that is under way must not wait for them.

use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Bytes of a line that is read; of a longer one it is only known how long it is. Ten times the text that a million tokens are, and what may become of it
/// in memory (a list of digits has 24 times its bytes) fits into half a gigabyte.
pub const MAX_LINE: usize = 16 << 20;
/// Of a line that is too long so much is kept, to tell what kind it is.
const KEPT: usize = 4096;
/// A thread reads so many bytes ahead, and so many lines: more than the scheduler takes at a time, and little beside a model.
const AHEAD: usize = 1 << 20;
const LINES_AHEAD: usize = 512;

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1; blank ones count.
    pub number: u64,
    /// Its bytes without its end, or the first of them.
    pub bytes: Vec<u8>,
    /// How many bytes it has if they are more than [`MAX_LINE`].
    pub too_long: Option<u64>,
}

/// Reads lines.
pub struct Lines<R> {
    input: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Lines of `input`.
    pub fn new(input: R) -> Self {
        Lines { input, number: 0 }
    }

    /// What they are read from.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// As the reader.
    pub fn read_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let Some(length) = self.read(&mut bytes)? else {
                return Ok(None);
            };
            self.number += 1;
            let number = self.number;
            if number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
                bytes.drain(..3);
            }
            if length > MAX_LINE as u64 {
                bytes.truncate(KEPT);
                bytes.shrink_to_fit();
                return Ok(Some(Line {
                    number,
                    bytes,
                    too_long: Some(length),
                }));
            }
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(Line {
                    number,
                    bytes,
                    too_long: None,
                }));
            }
        }
    }

    /// Reads up to the next line feed, at most [`MAX_LINE`] bytes of it into the buffer; returns how many bytes the line has without it.
    fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let mut length = 0;
        let mut any = false;
        loop {
            let part = match self.input.fill_buf() {
                Ok(part) => part,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if part.is_empty() {
                return Ok(any.then_some(length));
            }
            any = true;
            let end = part.iter().position(|&b| b == b'\n');
            let text = &part[..end.unwrap_or(part.len())];
            length += text.len() as u64;
            let room = text.len().min(MAX_LINE - buffer.len());
            buffer
                .try_reserve(room)
                .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            buffer.extend_from_slice(&text[..room]);
            let used = text.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                return Ok(Some(length));
            }
        }
    }
}

/// Where the lines of a batch come from.
pub struct Input {
    path: PathBuf,
    source: Source,
}

enum Source {
    /// A regular file never makes anybody wait.
    File(Lines<BufReader<io::Take<File>>>),
    /// Anything else.
    Thread(Arc<Queue>),
}

/// What [`Input::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A line.
    Line(Line),
    /// None yet.
    Pending,
    /// No more of them.
    End,
}

/// Lines between the thread that reads them and whoever wants them.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    ended: Option<io::Result<()>>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can be half done: every change is a single step.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn fill(&self, input: impl Read) {
        let mut lines = Lines::new(BufReader::with_capacity(1 << 16, input));
        loop {
            let next = lines.read_line();
            let mut state = self.lock();
            let ended = match next {
                Ok(Some(line)) => {
                    while state.bytes > AHEAD || state.lines.len() >= LINES_AHEAD {
                        state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
                    }
                    state.bytes += line.bytes.len();
                    state.lines.push_back(line);
                    None
                }
                Ok(None) => Some(Ok(())),
                Err(e) => Some(Err(e)),
            };
            let end = ended.is_some();
            state.ended = ended;
            drop(state);
            self.changed.notify_all();
            if end {
                return;
            }
        }
    }
}

impl Input {
    /// A file, whatever kind it is, or standard input if the path is `-`.
    ///
    /// # Errors
    /// Io: it cannot be read.
    pub fn open(path: &Path) -> Result<Input> {
        if path.as_os_str() == "-" {
            return Input::thread(Path::new("standard input"), io::stdin());
        }
        let failed = |e: io::Error| Error::io("read", path, &e);
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_file() {
            return Ok(Input::of_file(path, file, u64::MAX));
        }
        Input::thread(path, file)
    }

    /// A regular file that is open, of which so many bytes are read at most: what is appended later is not of this input.
    pub fn of_file(path: &Path, file: File, bytes: u64) -> Input {
        let reader = BufReader::with_capacity(1 << 16, file.take(bytes));
        Input {
            path: path.to_path_buf(),
            source: Source::File(Lines::new(reader)),
        }
    }

    fn thread(path: &Path, input: impl Read + Send + 'static) -> Result<Input> {
        let queue = Arc::new(Queue::default());
        let filled = queue.clone();
        let started = std::thread::Builder::new().spawn(move || filled.fill(input));
        started.map_err(|e| Error::limit(format_args!("cannot start a thread to read: {e}")))?;
        Ok(Input {
            path: path.to_path_buf(),
            source: Source::Thread(queue),
        })
    }

    /// The next line that is not blank; where none is there yet, after so long at most.
    ///
    /// # Errors
    /// Io, naming the input; a limit if memory does not suffice.
    pub fn next(&mut self, wait: Duration) -> Result<Found> {
        let failed = |e: &io::Error| Error::io("read", &self.path, e);
        let queue = match &mut self.source {
            Source::File(lines) => {
                let line = lines.read_line().map_err(|e| failed(&e))?;
                return Ok(line.map_or(Found::End, Found::Line));
            }
            Source::Thread(queue) => queue,
        };
        let mut state = queue.lock();
        if state.lines.is_empty() && state.ended.is_none() && !wait.is_zero() {
            let waited = queue.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        if let Some(line) = state.lines.pop_front() {
            state.bytes -= line.bytes.len();
            queue.changed.notify_all();
            return Ok(Found::Line(line));
        }
        match &state.ended {
            None => Ok(Found::Pending),
            Some(Ok(())) => Ok(Found::End),
            Some(Err(e)) => Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<(u64, Vec<u8>)> {
        // A reader of few bytes at a time.
        let mut lines = Lines::new(BufReader::with_capacity(3, text));
        let mut out = Vec::new();
        while let Some(line) = lines.read_line().unwrap() {
            assert_eq!(line.too_long, None);
            out.push((line.number, line.bytes));
        }
        out
    }

    #[test]
    fn ends_marks_and_blanks() {
        assert_eq!(all(b""), []);
        assert_eq!(all(b"\n \r\n\t\n"), []);
        let expected = vec![(1, b"a".to_vec()), (3, b"b c".to_vec()), (4, b"d".to_vec())];
        assert_eq!(all(b"\xef\xbb\xbfa\r\n\nb c\nd"), expected);
        assert_eq!(all(b"a\n\xef\xbb\xbfb\n")[1].1, b"\xef\xbb\xbfb");
    }

    #[test]
    fn a_line_too_long_is_measured_and_the_next_one_is_read() {
        let text = [
            vec![b'x'; MAX_LINE],
            b"\n".to_vec(),
            vec![b'y'; MAX_LINE + 1],
            b"\nz".to_vec(),
        ];
        let text = text.concat();
        let mut lines = Lines::new(&text[..]);
        let line = lines.read_line().unwrap().unwrap();
        assert_eq!((line.bytes.len(), line.too_long), (MAX_LINE, None));
        let line = lines.read_line().unwrap().unwrap();
        assert_eq!(line.too_long, Some(MAX_LINE as u64 + 1));
        assert_eq!((line.number, line.bytes.len()), (2, KEPT));
        assert_eq!(lines.read_line().unwrap().unwrap().bytes, b"z");
        assert_eq!(lines.read_line().unwrap(), None);
    }

    #[test]
    fn a_pipe_is_pending_until_a_line_is_there() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut input = Input::thread(Path::new("pipe"), reader).unwrap();
        assert_eq!(input.next(Duration::ZERO).unwrap(), Found::Pending);
        io::Write::write_all(&mut writer, b"one\ntwo").unwrap();
        let long = Duration::from_secs(60);
        let text = |found: Found| match found {
            Found::Line(line) => String::from_utf8(line.bytes).unwrap(),
            other => format!("{other:?}"),
        };
        assert_eq!(text(input.next(long).unwrap()), "one");
        assert_eq!(text(input.next(Duration::ZERO).unwrap()), "Pending");
        drop(writer);
        assert_eq!(text(input.next(long).unwrap()), "two");
        assert_eq!(text(input.next(long).unwrap()), "End");
        assert_eq!(text(input.next(long).unwrap()), "End");
    }

    #[test]
    fn the_thread_stops_reading_when_nobody_takes_lines() {
        let (reader, writer) = io::pipe().unwrap();
        let mut input = Input::thread(Path::new("pipe"), reader).unwrap();
        let count = 24 * AHEAD / (1 << 16);
        let feeder = std::thread::spawn(move || {
            let mut writer = writer;
            let line = [vec![b'x'; (1 << 16) - 1], b"\n".to_vec()].concat();
            (0..count).for_each(|_| io::Write::write_all(&mut writer, &line).unwrap());
        });
        let mut taken = 0;
        while let Found::Line(line) = input.next(Duration::from_secs(60)).unwrap() {
            taken += 1;
            assert_eq!(line.number, taken);
            let Source::Thread(queue) = &input.source else {
                unreachable!("a thread reads pipes")
            };
            assert!(queue.lock().bytes <= AHEAD + (1 << 16));
        }
        assert_eq!(taken, count as u64);
        feeder.join().unwrap();
    }
}

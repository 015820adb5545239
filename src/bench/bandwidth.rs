//! How fast this machine streams bytes: from memory, or from a cache that holds them.
//!
//! Each thread reads a contiguous part of one buffer with the kernels' widest loads, in several streams at once (one alone does not keep a core's
//! line buffers full), so that loads are the only limit: what a decode step does with weights. The buffer lies in huge pages where the system gives them, as a mapped file often
//! does, and is written once before (a page that was never written is one shared page of zeros, and would be read from the cache).

use crate::error::{Error, Result};
use memmap2::MmapMut;
use quern_kernels::{Kernels, READ_LINE};
use std::path::Path;
use std::sync::Barrier;
use std::time::Instant;

/// Bytes that a thread reads in one measurement of a cache, again and again the same ones: about a millisecond.
const PER_CACHE_RUN: usize = 64 << 20;

/// Where the streams of a thread are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Within some 100 KiB of each other, as the panels of a matrix that a kernel reads side by side.
    Near,
    /// In as many equal parts of what the thread reads.
    Far,
}

impl Pattern {
    /// A few words for a table.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::Near => "near streams",
            Pattern::Far => "far streams",
        }
    }
}

/// A buffer to read from.
pub struct Buffer(MmapMut);

impl Buffer {
    /// A buffer of that size, rounded up to a page of 2 MiB.
    ///
    /// # Errors
    /// Not enough memory (exit 5).
    pub fn new(bytes: usize) -> Result<Buffer> {
        let bytes = bytes.next_multiple_of(2 << 20);
        super::require_memory("the buffer that is read to measure the bandwidth", bytes)?;
        let mut map = MmapMut::map_anon(bytes)
            .map_err(|e| Error::io("map memory for", Path::new("the bandwidth"), &e))?;
        // Where there are none, small pages do.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let mut value = 0u64;
        for word in map.as_chunks_mut::<8>().0 {
            value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
            *word = value.to_le_bytes();
        }
        Ok(Buffer(map))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Bytes per second when so many threads read `bytes` each.
    pub fn rate(
        &self,
        kernels: &'static Kernels,
        threads: usize,
        bytes: usize,
        pattern: Pattern,
    ) -> f64 {
        let threads = threads.max(1);
        let whole = |n: usize| n / READ_LINE * READ_LINE;
        let own = whole(self.bytes() / threads);
        let bytes = whole(bytes.clamp(READ_LINE, own));
        let passes = (PER_CACHE_RUN / bytes).max(1);
        let part = |me: usize| &self.0[me * own..][..bytes];
        if passes > 1 {
            together(threads, |me| read(kernels, part(me), pattern));
        }
        let seconds = together(threads, |me| {
            for _ in 0..passes {
                read(kernels, part(me), pattern);
            }
        });
        (threads * passes * bytes) as f64 / seconds
    }
}

/// Runs `work(thread)` on so many threads at once; returns the seconds from the first one's start, which is when all are there, to the last one's end.
pub fn together(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let ready = Barrier::new(threads);
    let times = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|me| {
                let (ready, work) = (&ready, &work);
                scope.spawn(move || {
                    ready.wait();
                    let start = Instant::now();
                    work(me);
                    (start, Instant::now())
                })
            })
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        // A panic of the work is the caller's.
        let times = joined.map(|result| result.unwrap_or_else(|e| std::panic::resume_unwind(e)));
        times.collect::<Vec<_>>()
    });
    let first = times.iter().map(|(start, _)| *start).min();
    let last = times.iter().map(|(_, end)| *end).max();
    let span = first.zip(last).map(|(a, b)| b.duration_since(a));
    // A clock that stood still is no reason to divide by zero.
    span.map_or(0.0, |s| s.as_secs_f64()).max(1e-9)
}

/// Bytes of the neighbourhood of [`Pattern::Near`]: eight panels of a matrix of some 4000 columns in four bits.
const NEAR: usize = 128 << 10;

fn read(kernels: &Kernels, bytes: &[u8], pattern: Pattern) {
    let chunk = match pattern {
        Pattern::Near => NEAR,
        Pattern::Far => bytes.len(),
    };
    for part in std::hint::black_box(bytes).chunks(chunk.max(1)) {
        std::hint::black_box(kernels.read(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_works_and_its_time_counts() {
        for threads in [1, 2, 5] {
            let seen: Vec<_> = (0..threads)
                .map(|_| std::sync::atomic::AtomicUsize::new(0))
                .collect();
            let seconds = together(threads, |me| {
                seen[me].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
            assert!(seconds > 0.0);
            assert!(
                seen.iter()
                    .all(|n| n.load(std::sync::atomic::Ordering::Relaxed) == 1)
            );
        }
    }

    #[test]
    fn a_buffer_is_read_by_any_number_of_threads_and_a_huge_one_is_a_limit() {
        let buffer = Buffer::new(1).unwrap();
        assert_eq!(buffer.bytes(), 2 << 20);
        for threads in [1, 3] {
            for bytes in [0, 100, 1 << 20, usize::MAX] {
                let rate = buffer.rate(quern_kernels::best(), threads, bytes, Pattern::Far);
                assert!(rate.is_finite() && rate > 0.0);
            }
        }
        let Err(e) = Buffer::new(1 << 60) else {
            panic!("no machine has that much memory");
        };
        assert_eq!(e.exit_code(), 5);
    }
}

//! Read bandwidth of the memory: how fast this machine can stream bytes that are not in a cache.
//!
//! Each thread sums its own contiguous part of one buffer, far larger than the last cache, in a few streams with independent accumulators, so
//! that loads are the only limit: the access pattern of weights in a decode step. The buffer is written once before (a page that was
//! never written is one shared zero page, and would be read from the cache).

use super::median;
use crate::error::{Result, out_of_memory};
use std::sync::Barrier;
use std::time::Instant;

/// Bytes to read per run: many times a last-level cache of up to 32 MiB; larger caches get eight times their size.
const MIN_BYTES: usize = 512 << 20;

/// What was measured with one number of threads.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// Threads that read at the same time.
    pub threads: usize,
    /// 10^9 bytes per second, median of the runs.
    pub gb_per_s: f64,
}

/// A buffer to read from.
pub struct Buffer(Vec<u64>);

impl Buffer {
    /// A buffer large enough that no cache holds a useful part of it.
    ///
    /// # Errors
    /// Not enough memory (exit 5).
    pub fn new() -> Result<Buffer> {
        let words = MIN_BYTES.max(8 * last_cache_bytes()) / 8;
        let mut data = Vec::new();
        data.try_reserve_exact(words)
            .map_err(|_| out_of_memory("the bandwidth buffer", words * 8))?;
        data.extend((0..words as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Ok(Buffer(data))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.len() * 8
    }

    /// Reads the whole buffer `runs` times with so many threads and returns the median rate.
    pub fn measure(&self, threads: usize, runs: usize) -> Bandwidth {
        let threads = threads.max(1);
        let part = self.0.len().div_ceil(threads);
        let mut rates: Vec<f64> = (0..runs.max(1)).map(|_| self.run(threads, part)).collect();
        Bandwidth {
            threads,
            gb_per_s: median(&mut rates),
        }
    }

    /// One run; the clock starts when all threads are there and stops when the last is done.
    fn run(&self, threads: usize, part: usize) -> f64 {
        let ready = Barrier::new(threads + 1);
        let seconds = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .0
                .chunks(part)
                .map(Some)
                .chain(std::iter::repeat(None))
                .take(threads)
                .map(|words| {
                    let ready = &ready;
                    scope.spawn(move || {
                        ready.wait();
                        std::hint::black_box(words.map(sum));
                    })
                })
                .collect();
            ready.wait();
            let start = Instant::now();
            for worker in workers {
                // A worker only adds numbers up: it cannot panic.
                let _ = worker.join();
            }
            start.elapsed().as_secs_f64()
        });
        self.bytes() as f64 / seconds / 1e9
    }
}

/// Words of a cache line: one accumulator each, few enough to stay in registers on every processor.
const LINE: usize = 8;

/// Wrapping sum in four streams at once, as a decode step reads four panels: one stream alone does not keep a core's line buffers full.
fn sum(words: &[u64]) -> u64 {
    let part = words.len() / 4 / LINE * LINE;
    let (streams, tail) = words.split_at(part * 4);
    let (ab, cd) = streams.as_chunks::<LINE>().0.split_at(part * 2 / LINE);
    let ((a, b), (c, d)) = (ab.split_at(part / LINE), cd.split_at(part / LINE));
    let mut lanes = [0u64; LINE];
    for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            let two = a[i].wrapping_add(b[i]);
            *lane = lane.wrapping_add(two.wrapping_add(c[i].wrapping_add(d[i])));
        }
    }
    let words = lanes.iter().chain(tail);
    words.fold(0, |s: u64, w| s.wrapping_add(*w))
}

/// Size of the largest cache of the first core, 0 where the system does not tell.
fn last_cache_bytes() -> usize {
    let mut largest = 0;
    for index in 0..8 {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        let text = text.trim();
        let (digits, unit) = match text.strip_suffix('K') {
            Some(digits) => (digits, 1 << 10),
            None => match text.strip_suffix('M') {
                Some(digits) => (digits, 1 << 20),
                None => (text, 1),
            },
        };
        let bytes = digits.parse::<usize>().unwrap_or(0).saturating_mul(unit);
        // A machine that claims more than this has a virtual number in that file.
        largest = largest.max(bytes.min(512 << 20));
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_counts_every_word_once() {
        for n in [0, 1, 63, 64, 65, 1000] {
            let words: Vec<u64> = (1..=n).collect();
            assert_eq!(sum(&words), n * (n + 1) / 2);
        }
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }
}

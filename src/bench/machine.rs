//! What this machine can do at most: read bandwidth by level and threads, arithmetic, clock. The base of every share that is printed.

use super::bandwidth::{Buffer, Pattern};
use super::hardware::Machine;
use super::peaks::{self, Kind};
use super::rows::Row;
use super::stats;
use crate::error::Result;
use quern_kernels::Kernels;
use std::time::Instant;

/// The rates that bound other figures, with so many threads.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The number of threads.
    pub threads: usize,
    /// Per level of the memory, the nearest first and memory itself last: its name, the most bytes that all threads together read from it, 10^9
    /// bytes per second.
    pub read: Vec<(String, usize, f64)>,
    /// Per kind of arithmetic 10^9 multiply-adds per second.
    pub peaks: Vec<(Kind, f64)>,
}

impl Limits {
    /// The rate at which a working set of that size is read, and the level's name.
    pub fn read_of(&self, bytes: usize) -> Option<(&str, f64)> {
        let mut levels = self.read.iter();
        let found = levels.find(|(_, most, _)| bytes <= *most);
        let (name, _, rate) = found.or(self.read.last())?;
        Some((name, *rate))
    }

    /// The rate of memory itself.
    pub fn memory(&self) -> Option<f64> {
        self.read.last().map(|(_, _, rate)| *rate)
    }

    /// The rate of that kind of arithmetic.
    pub fn peak(&self, kind: Kind) -> Option<f64> {
        let found = self.peaks.iter().find(|(k, _)| *k == kind);
        found.map(|(_, rate)| *rate)
    }
}

/// Measures limits run by run, so that a caller can measure something else in between: what disturbs one disturbs the other.
pub struct Meter {
    machine: Machine,
    kernels: &'static Kernels,
    buffer: Buffer,
    rows: Vec<Row>,
    /// What each row measures.
    plan: Vec<(usize, Measured)>,
    levels: bool,
}

#[derive(Clone, Debug)]
enum Measured {
    Level {
        name: String,
        bytes: usize,
        pattern: Pattern,
    },
    Peak(Kind),
    Clock,
}

impl Meter {
    /// A meter for these numbers of threads; `levels` says whether caches are measured besides memory, which is read in a buffer of so many bytes
    /// (none: far more than the caches hold).
    ///
    /// # Errors
    /// Not enough memory (exit 5).
    pub fn new(
        machine: &Machine,
        kernels: &'static Kernels,
        threads: &[usize],
        levels: bool,
        buffer: Option<usize>,
    ) -> Result<Meter> {
        let bytes = buffer.unwrap_or_else(|| machine.beyond_caches());
        let buffer = Buffer::new(bytes.max(1))?;
        Ok(Meter::of(machine, kernels, threads, levels, buffer))
    }

    fn of(
        machine: &Machine,
        kernels: &'static Kernels,
        threads: &[usize],
        levels: bool,
        buffer: Buffer,
    ) -> Meter {
        let mut meter = Meter {
            machine: machine.clone(),
            kernels,
            buffer,
            rows: Vec::new(),
            plan: Vec::new(),
            levels,
        };
        meter.add(1, Measured::Clock, "clock".into(), "GHz");
        for &threads in threads {
            meter.plan_threads(threads);
        }
        meter
    }

    fn add(&mut self, threads: usize, what: Measured, name: String, unit: &str) {
        let isa = match what {
            Measured::Peak(_) | Measured::Level { .. } => self.kernels.name(),
            Measured::Clock => "",
        };
        self.rows.push(Row {
            group: "machine".into(),
            name,
            isa: isa.into(),
            threads,
            unit: unit.into(),
            ..Row::default()
        });
        self.plan.push((threads, what));
    }

    fn plan_threads(&mut self, threads: usize) {
        let levels = match self.levels {
            true => self.machine.levels(threads),
            false => Vec::new(),
        };
        for (name, bytes) in levels {
            let level = Measured::Level {
                name: name.clone(),
                bytes,
                pattern: Pattern::Near,
            };
            self.add(threads, level, format!("read {name}"), "GB/s");
        }
        let bytes = self.buffer.bytes() / threads.max(1);
        for pattern in [Pattern::Near, Pattern::Far] {
            let level = Measured::Level {
                name: "memory".into(),
                bytes,
                pattern,
            };
            let name = format!("read memory, {}", pattern.name());
            self.add(threads, level, name, "GB/s");
        }
        for kind in Kind::ALL {
            let name = format!("{} {}", kind.name(), peaks::NOUN);
            self.add(threads, Measured::Peak(kind), name, "GMAC/s");
        }
    }

    /// One run of everything.
    pub fn run(&mut self) {
        for (row, (threads, what)) in self.rows.iter_mut().zip(&self.plan) {
            let value = match what {
                Measured::Level { bytes, pattern, .. } => {
                    self.buffer.rate(self.kernels, *threads, *bytes, *pattern) / 1e9
                }
                Measured::Peak(kind) => match peaks::rate(self.kernels, *kind, *threads) {
                    Some(rate) => rate / 1e9,
                    None => continue,
                },
                Measured::Clock => clock() / 1e9,
            };
            row.samples.push(value);
        }
    }

    /// The limits by the runs so far: their upper quartile, since what disturbs a run only makes it slower.
    pub fn limits(&self, threads: usize) -> Limits {
        let mut read: Vec<(String, usize, f64)> = Vec::new();
        let mut peaks = Vec::new();
        for (row, (at, what)) in self.rows.iter().zip(&self.plan) {
            if *at != threads || row.samples.is_empty() {
                continue;
            }
            let rate = stats::quantile(&row.samples, 0.75);
            match what {
                Measured::Level { name, bytes, .. } => {
                    match read.iter_mut().find(|(known, _, _)| known == name) {
                        // The limit is what the better way of reading gets.
                        Some(known) => known.2 = known.2.max(rate),
                        None => read.push((name.clone(), 2 * bytes * threads, rate)),
                    }
                }
                Measured::Peak(kind) => peaks.push((*kind, rate)),
                Measured::Clock => {}
            }
        }
        Limits {
            threads,
            read,
            peaks,
        }
    }

    /// The figures of the runs so far.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        rows.retain(|row| !row.samples.is_empty());
        for row in &mut rows {
            match row.unit.as_str() {
                "GB/s" => row.gb_per_s = Some(row.median()),
                "GMAC/s" => row.gmac_per_s = Some(row.median()),
                _ => {}
            }
        }
        rows
    }
}

/// Clock cycles per second of the core that this runs on, from a chain of additions that each need the one before: one cycle each on every
/// processor that quern runs on.
fn clock() -> f64 {
    const STEPS: usize = 2_000_000;
    let (mut a, mut b) = std::hint::black_box((1u64, 2u64));
    let start = Instant::now();
    for _ in 0..STEPS / 8 {
        // Fibonacci numbers: no compiler finds a shorter way.
        for _ in 0..4 {
            a = a.wrapping_add(b);
            b = b.wrapping_add(a);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box((a, b));
    STEPS as f64 / seconds
}

/// The numbers of threads to measure with up to `most`: every one up to four, then doubling, and the last.
pub fn thread_counts(most: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (1..=most.clamp(1, 4)).collect();
    let mut n = 8;
    while n < most {
        counts.push(n);
        n *= 2;
    }
    if most > 4 {
        counts.push(most);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_threads_end_with_the_most() {
        assert_eq!(thread_counts(1), [1]);
        assert_eq!(thread_counts(3), [1, 2, 3]);
        assert_eq!(thread_counts(12), [1, 2, 3, 4, 8, 12]);
        assert_eq!(thread_counts(16), [1, 2, 3, 4, 8, 16]);
        assert_eq!(thread_counts(0), [1]);
    }

    #[test]
    fn a_working_set_is_bounded_by_the_level_that_holds_it() {
        let limits = Limits {
            threads: 1,
            read: vec![("L1".into(), 100, 90.0), ("memory".into(), 1000, 10.0)],
            peaks: vec![(Kind::Int8, 5.0)],
        };
        assert_eq!(limits.read_of(100), Some(("L1", 90.0)));
        assert_eq!(limits.read_of(101), Some(("memory", 10.0)));
        assert_eq!(limits.read_of(1 << 40), Some(("memory", 10.0)));
        assert_eq!(limits.peak(Kind::F32), None);
        assert_eq!(limits.memory(), Some(10.0));
    }
}

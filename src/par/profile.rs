//! Where the time of a run goes: a clock that is read at every change of what is done, so that the parts are the whole.
//!
//! Everything between two readings belongs to one operation and one phase; a phase also knows how long each thread worked in it, and what it is said
//! to read. Without a profile nobody reads a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is counted where nothing was said.
const UNNAMED: &str = "other";

/// What the leader does between phases.
pub const ALONE: &str = "between phases";

/// The recorder.
pub struct Profile {
    state: Mutex<State>,
    /// Nanoseconds that all threads worked in the phase that runs.
    worked: AtomicU64,
}

struct State {
    start: Instant,
    last: Instant,
    operation: &'static str,
    /// Name and bytes of the next phase.
    next: (&'static str, u64),
    parts: Vec<Part>,
}

/// One kind of work of one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The operation.
    pub operation: &'static str,
    /// The phase within it.
    pub phase: &'static str,
    /// How often.
    pub count: u64,
    /// Its time, as the clock on the wall goes.
    pub time: Duration,
    /// Time that all threads together could have worked in it and did not.
    pub waited: Duration,
    /// Threads there were, times the time.
    pub threads_time: Duration,
    /// Bytes that it is said to read.
    pub bytes: u64,
}

/// A finished profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profiled {
    /// From the start to the end.
    pub wall: Duration,
    /// The parts, the longest first.
    pub parts: Vec<Part>,
}

impl Profile {
    /// Begins now, with this operation.
    pub fn start(operation: &'static str) -> Arc<Profile> {
        let now = Instant::now();
        Arc::new(Profile {
            state: Mutex::new(State {
                start: now,
                last: now,
                operation,
                next: (UNNAMED, 0),
                parts: Vec::new(),
            }),
            worked: AtomicU64::new(0),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// From now on this is done; returns what was.
    pub fn operation(&self, operation: &'static str) -> &'static str {
        let mut state = self.state();
        state.charge(ALONE, 1, None, 0);
        std::mem::replace(&mut state.operation, operation)
    }

    /// Names the next phase and says how many bytes it reads.
    pub(super) fn next(&self, phase: &'static str, bytes: u64) {
        self.state().next = (phase, bytes);
    }

    /// A phase begins.
    pub(super) fn begin(&self) {
        self.worked.store(0, Ordering::Relaxed);
        self.state().charge(ALONE, 1, None, 0);
    }

    /// A thread has worked so long in the phase that runs.
    pub(super) fn worked(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.worked.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The phase is over for all of so many threads.
    pub(super) fn end(&self, threads: usize) {
        let worked = Duration::from_nanos(self.worked.load(Ordering::Relaxed));
        let mut state = self.state();
        let (phase, bytes) = std::mem::replace(&mut state.next, (UNNAMED, 0));
        state.charge(phase, threads, Some(worked), bytes);
    }

    /// What there is so far.
    pub fn finish(&self) -> Profiled {
        let mut state = self.state();
        state.charge(ALONE, 1, None, 0);
        let mut parts = state.parts.clone();
        parts.sort_by_key(|part| std::cmp::Reverse(part.time));
        Profiled {
            wall: state.last - state.start,
            parts,
        }
    }
}

impl State {
    /// Everything since the last reading of the clock belongs to this phase of the operation.
    fn charge(
        &mut self,
        phase: &'static str,
        threads: usize,
        worked: Option<Duration>,
        bytes: u64,
    ) {
        let now = Instant::now();
        let time = now - self.last;
        self.last = now;
        let operation = self.operation;
        let mut known = self.parts.iter_mut();
        let found = known.position(|p| p.operation == operation && p.phase == phase);
        let at = found.unwrap_or_else(|| {
            self.parts.push(Part {
                operation,
                phase,
                count: 0,
                time: Duration::ZERO,
                waited: Duration::ZERO,
                threads_time: Duration::ZERO,
                bytes: 0,
            });
            self.parts.len() - 1
        });
        let part = &mut self.parts[at];
        let all = time * u32::try_from(threads).unwrap_or(u32::MAX);
        part.count += 1;
        part.time += time;
        part.threads_time += all;
        part.waited += all.saturating_sub(worked.unwrap_or(all));
        part.bytes += bytes;
    }
}

impl Part {
    /// 10^9 bytes per second; none where no bytes are known.
    pub fn gb_per_s(&self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        (self.bytes > 0 && seconds > 0.0).then(|| self.bytes as f64 / seconds / 1e9)
    }

    /// The share of the threads' time in which they waited.
    pub fn waiting(&self) -> f64 {
        let all = self.threads_time.as_secs_f64();
        if all > 0.0 {
            self.waited.as_secs_f64() / all
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Team;
    use super::*;

    #[test]
    fn parts_are_the_whole_for_any_number_of_threads() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads).unwrap();
            let profile = Profile::start("outside");
            team.set_profile(profile.clone());
            for _ in 0..3 {
                team.run(|crew| {
                    crew.operation("first");
                    for _ in 0..10 {
                        crew.next("reading", || 1000);
                        crew.for_each(8, |_, _| std::hint::black_box(()));
                    }
                    crew.operation("second");
                    crew.for_each(1, |_, _| std::thread::sleep(Duration::from_millis(2)));
                });
            }
            let found = profile.finish();
            let sum: Duration = found.parts.iter().map(|p| p.time).sum();
            assert_eq!(sum, found.wall, "to the nanosecond");
            let part = |operation, phase| {
                let mut parts = found.parts.iter();
                parts.find(|p| p.operation == operation && p.phase == phase)
            };
            let reading = part("first", "reading").unwrap();
            assert_eq!((reading.count, reading.bytes), (30, 30_000));
            let slept = part("second", UNNAMED).unwrap();
            assert_eq!((slept.count, slept.bytes), (3, 0));
            assert!(slept.time >= Duration::from_millis(6));
            // One thread slept, the others waited for it: nearly all of their time.
            let others = slept.time * (threads as u32 - 1);
            assert!(slept.waited >= others);
            assert!(part("outside", ALONE).is_some());
            for p in &found.parts {
                assert!(p.waited <= p.threads_time && (0.0..=1.0).contains(&p.waiting()));
                assert_eq!(p.gb_per_s().is_some(), p.bytes > 0);
            }
        }
    }
}

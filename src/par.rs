//! Threads: one team that stays, a leader per forward pass, phases inside it. The only file that names rayon.
//!
//! A forward pass is hundreds of phases of 5 to 500 microseconds. Starting a parallel loop for each from outside the pool costs about 9
//! microseconds, an allocation and a nap in between; so the threads of the pool enter it once and stay. Whoever calls [`Team::run`] becomes the
//! leader, runs ordinary sequential code and calls [`Crew::for_each`] for every phase; the others wait for the next phase, spinning for a short time (a phase
//! follows the last one within microseconds), then parked. When there are more threads than processors nobody spins.
//!
//! What a phase computes never depends on which thread runs which job, so results do not depend on the number of threads.

// The lifetime of a phase's closure is hidden from the compiler: the waiting threads outlive it, the phase does not.
#![allow(unsafe_code)]

pub mod profile;

use crate::error::{Error, Result};
use profile::Profile;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::Instant;

/// Spins before a waiting thread parks: about 30 microseconds of PAUSE. Longer would burn the processor of a neighbour, shorter would
/// park between the phases of one pass.
const SPINS: u32 = 1200;

/// Whether a team's threads are being started. Until a thread runs, the standard library aborts the process where there is no memory for the
/// thread's signal stack; whoever decides about aborts can tell by this flag that memory was the reason.
pub static STARTING: AtomicBool = AtomicBool::new(false);

/// A fixed number of threads that work on one thing at a time: the caller and those of a pool.
pub struct Team {
    /// None for a team of one.
    pool: Option<rayon::ThreadPool>,
    shared: Arc<Shared>,
    threads: usize,
    /// Held while somebody leads.
    leading: Mutex<()>,
}

type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the threads of a team share.
struct Shared {
    /// Counts phases; a change tells the waiting threads that there is work (or that the team is dissolved).
    epoch: AtomicU32,
    over: AtomicBool,
    /// The closure of the phase; valid from the change of `epoch` until `busy` is back at zero.
    job: UnsafeCell<Option<&'static Job<'static>>>,
    jobs: AtomicUsize,
    next: AtomicUsize,
    /// Helpers that have not finished the phase.
    busy: AtomicUsize,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    parked: Vec<AtomicBool>,
    handles: Vec<OnceLock<Thread>>,
    /// Who leads; a thread that finishes a phase last may have to wake it.
    leader: Mutex<Option<Thread>>,
    spins: u32,
    /// Where the time is written down, if it is.
    profile: OnceLock<Arc<Profile>>,
}

// SAFETY: `job` is written by the leader (`leading` makes it one at a time) only while no helper is in a phase (busy is zero) and read by helpers only after the
// release-acquire on `epoch` that follows the write; everything else is atomic or locked.
unsafe impl Sync for Shared {}

impl Shared {
    /// Waits as thread `me` until `ready`; whoever makes it true calls `wake(me)` afterwards.
    fn wait(&self, me: usize, ready: impl Fn() -> bool) {
        for _ in 0..self.spins {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        while !ready() {
            self.parked[me].store(true, Ordering::SeqCst);
            if ready() {
                self.parked[me].store(false, Ordering::SeqCst);
                return;
            }
            std::thread::park();
            self.parked[me].store(false, Ordering::SeqCst);
        }
    }

    fn wake(&self, who: usize) {
        if !self.parked[who].load(Ordering::SeqCst) {
            return;
        }
        if who == 0 {
            let leader = self.leader.lock().unwrap_or_else(|e| e.into_inner());
            leader.iter().for_each(Thread::unpark);
        } else {
            self.handles[who].get().into_iter().for_each(Thread::unpark);
        }
    }

    /// Takes jobs until there are none left; a panic ends the phase for everybody.
    fn work(&self, me: usize, job: &Job<'_>) {
        let jobs = self.jobs.load(Ordering::Relaxed);
        let start = self.profile.get().map(|_| Instant::now());
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= jobs {
                    return;
                }
                job(i, me);
            }
        }));
        if let Err(panic) = result {
            self.next.store(jobs, Ordering::Relaxed);
            self.panic
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .get_or_insert(panic);
        }
        if let (Some(profile), Some(start)) = (self.profile.get(), start) {
            profile.worked(start.elapsed());
        }
    }

    fn help(&self, me: usize) {
        let mut seen = 0;
        loop {
            self.wait(me, || self.epoch.load(Ordering::SeqCst) != seen);
            seen = seen.wrapping_add(1);
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: the epoch has changed, so the leader has stored the closure and leaves it alone until busy is zero.
            if let Some(job) = unsafe { *self.job.get() } {
                self.work(me, job);
            }
            if self.busy.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.wake(0);
            }
        }
    }
}

/// The threads inside one [`Team::run`], as its leader sees them.
pub struct Crew<'t> {
    shared: &'t Shared,
    threads: usize,
    // A phase is started by the leader alone.
    _leader: PhantomData<*mut ()>,
}

impl Crew<'_> {
    /// How many threads there are; job functions get their index below this.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Tells the profile, if there is one, what is done from now on.
    pub fn operation(&self, name: &'static str) {
        if let Some(profile) = self.shared.profile.get() {
            profile.operation(name);
        }
    }

    /// Tells it what the next phase is and how many bytes that reads.
    pub fn next(&self, phase: &'static str, bytes: impl FnOnce() -> u64) {
        if let Some(profile) = self.shared.profile.get() {
            profile.next(phase, bytes());
        }
    }

    /// Runs `job(i, thread)` for every i in `0..jobs` and returns when all are done. Threads take the next job as they get free.
    ///
    /// # Panics
    /// If a job panics, after all threads have left the phase.
    pub fn for_each(&self, jobs: usize, job: impl Fn(usize, usize) + Sync) {
        let shared = self.shared;
        let profile = shared.profile.get();
        if let Some(profile) = profile {
            profile.begin();
        }
        if self.threads == 1 || jobs <= 1 {
            let start = profile.map(|_| Instant::now());
            for i in 0..jobs {
                job(i, 0);
            }
            if let (Some(profile), Some(start)) = (profile, start) {
                profile.worked(start.elapsed());
                profile.end(self.threads);
            }
            return;
        }
        let job: &Job<'_> = &job;
        // SAFETY: only the lifetime changes. Helpers use the reference between the change of `epoch` and their decrement of `busy`, and this
        // function does not return (nor unwind: `work` catches) before `busy` is zero.
        let hidden = unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) };
        // SAFETY: no helper is in a phase: the previous call waited for busy to reach zero.
        unsafe { *shared.job.get() = Some(hidden) };
        shared.jobs.store(jobs, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.threads - 1, Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for who in 1..self.threads {
            shared.wake(who);
        }
        shared.work(0, job);
        shared.wait(0, || shared.busy.load(Ordering::SeqCst) == 0);
        // SAFETY: busy is zero, so no helper looks at the closure any more.
        unsafe { *shared.job.get() = None };
        if let Some(profile) = profile {
            profile.end(self.threads);
        }
        let panic = shared
            .panic
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Crew<'_> {
    /// Runs `job(i, chunk)` for every chunk of `len` elements (the last may be shorter).
    pub fn for_chunks<T: Send>(
        &self,
        slice: &mut [T],
        len: usize,
        job: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let total = slice.len();
        let parts = Disjoint::new(slice);
        self.for_each(total.div_ceil(len.max(1)), |i, _| {
            // SAFETY: chunks do not overlap and each is one job.
            job(i, unsafe {
                parts.part(i * len..((i + 1) * len).min(total))
            });
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for who in 1..self.threads {
            self.shared.wake(who);
        }
    }
}

impl Team {
    /// A team of `threads` threads (at least one), the caller of [`Team::run`] among them.
    ///
    /// # Errors
    /// The system cannot start that many threads.
    pub fn new(threads: usize) -> Result<Team> {
        let threads = threads.max(1);
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            over: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            jobs: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panic: Mutex::new(None),
            parked: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            handles: (0..threads).map(|_| OnceLock::new()).collect(),
            leader: Mutex::new(None),
            spins: if threads <= processors { SPINS } else { 0 },
            profile: OnceLock::new(),
        });
        let pool = match threads {
            1 => None,
            _ => Some(Team::start(threads, &shared)?),
        };
        Ok(Team {
            pool,
            shared,
            threads,
            leading: Mutex::new(()),
        })
    }

    /// Starts all threads but the leader, each waiting for phases.
    fn start(threads: usize, shared: &Arc<Shared>) -> Result<rayon::ThreadPool> {
        STARTING.store(true, Ordering::SeqCst);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads - 1)
            .thread_name(|i| format!("quern-{}", i + 1))
            .build();
        if let Ok(pool) = &pool {
            // Every thread has to run for this to return.
            pool.broadcast(|_| ());
            let shared = shared.clone();
            pool.spawn_broadcast(move |context| {
                let me = context.index() + 1;
                // Set before the first wait of this thread, so that whoever sees it parked also sees its handle.
                let _ = shared.handles[me].set(std::thread::current());
                shared.help(me);
            });
        }
        STARTING.store(false, Ordering::SeqCst);
        pool.map_err(|e| Error::limit(format_args!("cannot start {threads} threads: {e}")))
    }

    /// How many threads the team has.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Writes down in this profile where the time goes, from now on; the first call counts.
    pub fn set_profile(&self, profile: Arc<Profile>) {
        let _ = self.shared.profile.set(profile);
    }

    /// Runs `leader` while the team serves its phases. One at a time: who comes while another leads waits.
    ///
    /// # Panics
    /// If `leader` panics, or a job of a phase; the team can be led again.
    pub fn run<R>(&self, leader: impl FnOnce(&Crew<'_>) -> R) -> R {
        let _leading = self.leading.lock().unwrap_or_else(|e| e.into_inner());
        if self.pool.is_some() {
            let me = std::thread::current();
            *self.shared.leader.lock().unwrap_or_else(|e| e.into_inner()) = Some(me);
        }
        let profile = self.shared.profile.get();
        let before = profile.map(|p| p.operation("start of a pass"));
        let outcome = leader(&Crew {
            shared: &self.shared,
            threads: self.threads,
            _leader: PhantomData,
        });
        if let (Some(profile), Some(before)) = (profile, before) {
            profile.operation(before);
        }
        outcome
    }

    /// Runs `job(i, thread)` for every i in `0..jobs` on the team: for work that is one phase long.
    pub fn for_each(&self, jobs: usize, job: impl Fn(usize, usize) + Sync) {
        self.run(|crew| crew.for_each(jobs, &job));
    }
}

/// A slice whose disjoint parts are written by different threads in one phase.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out parts of an exclusively borrowed slice, and `part` demands that they are disjoint.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Borrows the slice for one phase.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            _borrow: PhantomData,
        }
    }

    /// One part of it.
    ///
    /// # Safety
    /// While a part lives, no other part that overlaps it may live.
    ///
    /// # Panics
    /// If the range is not within the slice.
    #[allow(clippy::mut_from_ref)] // the contract above is what makes it sound
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of a slice of {}",
            self.len
        );
        // SAFETY: within the borrowed slice (checked), and exclusive by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The address of element `at`, for kernels that write a strided region.
    ///
    /// # Panics
    /// If `at` is beyond the slice.
    pub fn address(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "element {at} of a slice of {}", self.len);
        // SAFETY: within the borrowed slice or one past its end (checked).
        unsafe { self.start.add(at) }
    }
}

/// How many threads are used by default, and why.
#[derive(Clone, Debug)]
pub struct ThreadChoice {
    /// The number.
    pub threads: usize,
    /// The reason in a few words.
    pub reason: String,
}

/// One thread per physical core that this process may use, at most the quota of its control group.
pub fn default_threads() -> ThreadChoice {
    let allowed = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| {
            let list = s
                .lines()
                .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
            parse_cpu_list(list.trim())
        });
    let Some(allowed) = allowed.filter(|cpus| !cpus.is_empty()) else {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        return ThreadChoice {
            threads,
            reason: format!("{threads} available to this process"),
        };
    };
    // Threads of one core share its vector units: count each set of siblings once.
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!(
            "/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        ))
        .map_or_else(|_| cpu.to_string(), |s| s.trim().to_owned())
    };
    let cores = allowed
        .iter()
        .map(|&c| siblings(c))
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        .max(1);
    match cgroup_quota() {
        Some(quota) if (quota as usize) < cores => {
            let threads = (quota as usize).max(1);
            ThreadChoice {
                threads,
                reason: format!("control group quota of {quota:.1} of {cores} cores"),
            }
        }
        _ => ThreadChoice {
            threads: cores,
            reason: format!("{cores} physical cores in the affinity mask"),
        },
    }
}

/// `0-3,8` as numbers; none if it is not such a list.
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b): (usize, usize) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
        if b < a || b > 1 << 16 {
            return None;
        }
        cpus.extend(a..=b);
    }
    Some(cpus)
}

/// Processors' worth of time that the control group allows: version 2 `cpu.max`, version 1 `cpu.cfs_quota_us`.
fn cgroup_quota() -> Option<f64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<f64> = None;
    let mut consider = |quota: Option<f64>| {
        if let Some(q) = quota.filter(|q| *q > 0.0) {
            least = Some(least.map_or(q, |l| l.min(q)));
        }
    };
    let number = |s: &str| s.trim().parse::<f64>().ok();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let v2 = controllers.is_empty();
        if !v2 && !controllers.split(',').any(|c| c == "cpu") {
            continue;
        }
        // A quota of any ancestor binds too.
        let mut path = path.trim_end_matches('/').to_owned();
        loop {
            if v2 {
                if let Ok(s) = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/cpu.max")) {
                    let mut words = s.split_whitespace();
                    let quota = words.next().and_then(number);
                    let period = words.next().and_then(number);
                    consider(quota.zip(period).map(|(q, p)| q / p));
                }
            } else {
                let read = |name: &str| {
                    std::fs::read_to_string(format!("/sys/fs/cgroup/cpu{path}/{name}")).ok()
                };
                let quota = read("cpu.cfs_quota_us").as_deref().and_then(number);
                let period = read("cpu.cfs_period_us").as_deref().and_then(number);
                consider(quota.zip(period).map(|(q, p)| q / p));
            }
            match path.rfind('/') {
                Some(at) => path.truncate(at),
                None => break,
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_once_for_any_number_of_threads() {
        for threads in [1, 2, 3, 7, 16] {
            let team = Team::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            team.run(|crew| {
                for phase in 0..200 {
                    crew.for_each(phase % 101, |i, me| {
                        assert!(me < threads);
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            for (i, c) in counts.iter().enumerate() {
                let expected = (0..200).filter(|phase| phase % 101 > i).count();
                assert_eq!(
                    c.load(Ordering::Relaxed),
                    expected,
                    "job {i} with {threads} threads"
                );
            }
        }
    }

    #[test]
    fn a_phase_sees_what_the_phase_before_wrote() {
        let team = Team::new(4).unwrap();
        let mut data = vec![0u64; 64];
        team.run(|crew| {
            for _ in 0..1000 {
                let parts = Disjoint::new(&mut data);
                // SAFETY: job i takes element i alone.
                crew.for_each(64, |i, _| unsafe { parts.part(i..i + 1)[0] += 1 });
                let sum: u64 = data.iter().sum();
                assert_eq!(sum % 64, 0);
            }
        });
        assert!(data.iter().all(|&x| x == 1000));
    }

    #[test]
    fn a_panic_in_a_job_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(3).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.for_each(10, |i, _| assert!(i != 5, "job five"))
        }));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        team.for_each(10, |i, _| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn many_may_want_to_lead() {
        let team = Team::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        team.for_each(20, |i, _| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 190);
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("x"), None);
        assert_eq!(parse_cpu_list("4-1"), None);
    }
}

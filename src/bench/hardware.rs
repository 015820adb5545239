//! What this machine is: processor, caches, memory, as the system describes it.

use serde::{Deserialize, Serialize};

/// The machine as the system describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Data caches of a processor, the nearest first.
    pub caches: Vec<Cache>,
}

/// One data cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is the nearest.
    pub level: u8,
    /// Its size.
    pub bytes: u64,
    /// Processors that share it.
    pub shared_by: usize,
}

impl Machine {
    /// What Linux says; fields are empty where it says nothing.
    pub fn look() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let info = read("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find(|l| l.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let processor = field("model name").or_else(|| field("CPU part"));
        let memory = read("/proc/meminfo").and_then(|text| kib(&text, "MemTotal:"));
        let mut caches = Vec::new();
        for index in 0..8 {
            let folder = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
            let part = |name: &str| read(&format!("{folder}/{name}"));
            let found = (part("type"), part("level"), part("size"));
            let (Some(kind), Some(level), Some(size)) = found else {
                continue;
            };
            let shared = part("shared_cpu_list").unwrap_or_default();
            caches.extend(cache(&kind, &level, &size, &shared));
        }
        Machine {
            processor: processor.unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory: memory.unwrap_or(0),
            caches,
        }
    }

    /// Bytes of the last cache; 0 where the system does not tell.
    pub fn last_cache(&self) -> u64 {
        self.caches.iter().map(|c| c.bytes).max().unwrap_or(0)
    }

    /// What a thread reads in each level when so many run: half of the cache, of a shared one half of its part, so that nothing else that
    /// the thread touches pushes it out. A level that is no larger than the one before is left out.
    pub fn levels(&self, threads: usize) -> Vec<(String, usize)> {
        let mut levels = Vec::new();
        let mut before = 0;
        for cache in &self.caches {
            let sharing = threads.clamp(1, cache.shared_by.max(1));
            let bytes = cache.bytes as usize / 2 / sharing;
            if bytes > 2 * before {
                levels.push((format!("L{}", cache.level), bytes));
                before = bytes;
            }
        }
        levels
    }

    /// Bytes that are far more than all caches hold.
    pub fn beyond_caches(&self) -> usize {
        (512 << 20).max(8 * self.last_cache() as usize)
    }
}

/// Memory that a new process can have without pushing others out: what the system calls available, and what the control group leaves. None where
/// the system does not tell.
pub fn available_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let system = kib(&read("/proc/meminfo")?, "MemAvailable:")?;
    let number = |text: String| text.trim().parse::<u64>().ok();
    let mut least = system;
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    for path in groups.lines().filter_map(|l| l.strip_prefix("0::")) {
        let mut path = path.trim_end_matches('/').to_owned();
        loop {
            let file = |name: &str| read(&format!("/sys/fs/cgroup{path}/{name}")).and_then(number);
            if let (Some(most), Some(used)) = (file("memory.max"), file("memory.current")) {
                least = least.min(most.saturating_sub(used));
            }
            match path.rfind('/') {
                Some(at) => path.truncate(at),
                None => break,
            }
        }
    }
    Some(least)
}

/// A field of /proc/meminfo in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// A cache from the files that describe it; none for one of instructions, or a number that no cache has.
fn cache(kind: &str, level: &str, size: &str, shared: &str) -> Option<Cache> {
    if kind.trim() == "Instruction" {
        return None;
    }
    let size = size.trim();
    let (digits, unit) = match size.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => match size.strip_suffix('M') {
            Some(digits) => (digits, 1 << 20),
            None => (size, 1),
        },
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    let sharing = shared.trim().split(',').map(|part| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let ends = a.trim().parse::<usize>().ok().zip(b.trim().parse().ok());
        ends.map_or(0, |(a, b): (usize, usize)| {
            b.saturating_sub(a).min(1 << 16) + 1
        })
    });
    // A machine that claims more than this has a virtual number in that file.
    (1..=1 << 30).contains(&bytes).then_some(Cache {
        level: level.trim().parse().ok()?,
        bytes,
        shared_by: sharing.sum::<usize>().max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_as_the_system_writes_them() {
        let found = cache("Data\n", "1\n", "32K\n", "0\n");
        let expected = Cache {
            level: 1,
            bytes: 32 << 10,
            shared_by: 1,
        };
        assert_eq!(found, Some(expected));
        let l3 = cache("Unified", "3", "16M", "0-7,64-71").unwrap();
        assert_eq!((l3.bytes, l3.shared_by), (16 << 20, 16));
        assert_eq!(cache("Instruction", "1", "32K", "0"), None);
        for size in ["", "K", "-1K", "99999999999999999999M", "0K", "4096M"] {
            assert_eq!(cache("Data", "1", size, "0"), None, "{size}");
        }
    }

    #[test]
    fn levels_are_within_their_cache_and_each_is_larger() {
        let machine = Machine {
            caches: vec![
                cache("Data", "1", "32K", "0").unwrap(),
                cache("Unified", "2", "1024K", "0").unwrap(),
                cache("Unified", "3", "32M", "0-1").unwrap(),
            ],
            ..Machine::default()
        };
        let sizes = |threads| {
            let levels = machine.levels(threads).into_iter();
            levels.map(|(name, bytes)| format!("{name} {bytes}"))
        };
        let one: Vec<String> = sizes(1).collect();
        assert_eq!(one, ["L1 16384", "L2 524288", "L3 16777216"]);
        let two: Vec<String> = sizes(2).collect();
        assert_eq!(two, ["L1 16384", "L2 524288", "L3 8388608"]);
        assert!(machine.beyond_caches() >= 8 * (32 << 20));
        assert!(Machine::default().levels(4).is_empty());
    }
}

//! How much memory this process has, as the system counts it.

/// Memory of this process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Pages of its own (`RssAnon`).
    pub private: u64,
    /// Pages of mapped files that are in memory, shared with other processes that map them (`RssFile`).
    pub mapped: u64,
}

/// The memory now; none where the system does not tell.
pub fn now() -> Option<Memory> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes that may still be taken: what the system counts as free for use, or less where a container may have less. None where nobody tells.
pub fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| kib(&text, "MemAvailable:"));
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let container = groups.lines().filter_map(|line| group(line, &read)).min();
    machine.into_iter().chain(container).min()
}

/// What a control group and those that it is in leave: their limits, less what is not a copy of a file.
fn group(line: &str, read: &impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, mut path) = (parts.next()?, parts.next()?);
    // Version 2 names no controllers.
    let (root, limit, used) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "anon "),
        "memory" => (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "total_rss ",
        ),
        _ => return None,
    };
    let mut left: Option<u64> = None;
    loop {
        let folder = format!("{root}{}", path.trim_end_matches('/'));
        // Without a limit there is a word, or a number beyond any machine.
        let most = read(&format!("{folder}/{limit}")).and_then(|text| text.trim().parse().ok());
        let stat = read(&format!("{folder}/memory.stat")).unwrap_or_default();
        let taken = stat
            .lines()
            .find_map(|l| l.strip_prefix(used)?.trim().parse().ok());
        let here = most.map(|most: u64| most.saturating_sub(taken.unwrap_or(0)));
        left = left.into_iter().chain(here).min();
        match path.rsplit_once('/') {
            Some((above, name)) if !name.is_empty() => path = above,
            _ => return left,
        }
    }
}

/// A line of a file that counts in units of 1024 bytes, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn parse(status: &str) -> Option<Memory> {
    Some(Memory {
        private: kib(status, "RssAnon:")?,
        mapped: kib(status, "RssFile:")?,
    })
}

/// Bytes as a number of MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_status_file() {
        let status = "Name:\tquern\nVmRSS:\t  30 kB\nRssAnon:\t    12 kB\nRssFile:\t  18 kB\n";
        let expected = Memory {
            private: 12 << 10,
            mapped: 18 << 10,
        };
        assert_eq!(parse(status), Some(expected));
        assert_eq!(parse("Name:\tquern\n"), None);
    }

    #[test]
    fn a_group_leaves_what_the_narrowest_above_it_leaves() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "1000\n"),
            ("/sys/fs/cgroup/a/memory.stat", "file 900\nanon 300\n"),
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "500\n"),
            (
                "/sys/fs/cgroup/memory/x/memory.stat",
                "rss 1\ntotal_rss 600\n",
            ),
        ];
        let read = |path: &str| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(group("0::/a/b", &read), Some(700));
        assert_eq!(group("0::/", &read), None);
        assert_eq!(group("7:memory:/x", &read), Some(0));
        assert_eq!(group("7:cpu:/x", &read), None);
        assert_eq!(group("nonsense", &read), None);
        assert_eq!(kib("A: 1 kB\nB: 18446744073709551615 kB", "B:"), None);
    }
}

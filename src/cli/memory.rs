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

fn parse(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory {
        private: field("RssAnon:")?,
        mapped: field("RssFile:")?,
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
}

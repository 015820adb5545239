//! `--profile`: where the time of a run went.

use super::output;
use crate::error::{Error, Result};
use crate::json::one_line;
use crate::par::profile::{Profile, Profiled};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether to write down where the time goes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ProfileArgs {
    /// Print on stderr where the time went: per operation and phase, with what was read per second and how long threads waited; with =FILE,
    /// write it there as JSON
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub profile: Option<PathBuf>,
}

impl ProfileArgs {
    /// Starts the clock, if it is asked for.
    ///
    /// # Errors
    /// The file cannot be written (4).
    pub fn begin(&self) -> Result<Option<Arc<Profile>>> {
        let Some(path) = &self.profile else {
            return Ok(None);
        };
        if path != Path::new("-") {
            std::fs::write(path, "").map_err(|e| Error::io("write", path, &e))?;
        }
        Ok(Some(Profile::start("open the model")))
    }

    /// Shows what was written down.
    ///
    /// # Errors
    /// The file cannot be written (4).
    pub fn end(&self, profile: Option<&Arc<Profile>>) -> Result<()> {
        let (Some(profile), Some(path)) = (profile, &self.profile) else {
            return Ok(());
        };
        let found = profile.finish();
        if path == Path::new("-") {
            output::note(table(&found));
            return Ok(());
        }
        let line = one_line(&as_json(&found))? + "\n";
        std::fs::write(path, line).map_err(|e| Error::io("write", path, &e))
    }
}

fn as_json(found: &Profiled) -> serde_json::Value {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let parts = found.parts.iter().map(|p| {
        json!({
            "operation": p.operation,
            "phase": p.phase,
            "count": p.count,
            "ms": ms(p.time),
            "bytes": p.bytes,
            "gb_per_s": p.gb_per_s(),
            "thread_ms": ms(p.threads_time),
            "waited_ms": ms(p.waited),
        })
    });
    json!({"schema": "quern-profile-1", "wall_ms": ms(found.wall), "parts": parts.collect::<Vec<_>>()})
}

/// For a person: the operations, the longest first, and below each its phases.
fn table(found: &Profiled) -> String {
    let wall = found.wall.as_secs_f64();
    let mut operations: Vec<(&str, f64)> = Vec::new();
    for part in &found.parts {
        let seconds = part.time.as_secs_f64();
        match operations
            .iter_mut()
            .find(|(name, _)| *name == part.operation)
        {
            Some((_, sum)) => *sum += seconds,
            None => operations.push((part.operation, seconds)),
        }
    }
    operations.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut lines = vec![format!(
        "{:32} {:>9} {:>11} {:>7} {:>9} {:>9}",
        "profile", "count", "ms", "share", "GB/s", "waiting"
    )];
    let share = |seconds: f64| format!("{:.1} %", 100.0 * seconds / wall.max(f64::MIN_POSITIVE));
    for (name, seconds) in operations {
        let ms = 1e3 * seconds;
        lines.push(format!(
            "{name:32} {:>9} {ms:>11.2} {:>7}",
            "",
            share(seconds)
        ));
        for part in found.parts.iter().filter(|p| p.operation == name) {
            let seconds = part.time.as_secs_f64();
            let rate = part.gb_per_s().map_or(String::new(), |r| format!("{r:.2}"));
            lines.push(format!(
                "  {:30} {:>9} {:>11.2} {:>7} {rate:>9} {:>7.0} %",
                part.phase,
                part.count,
                1e3 * seconds,
                share(seconds),
                100.0 * part.waiting()
            ));
        }
    }
    lines.push(format!(
        "{:32} {:>9} {:>11.2} {:>7}",
        "all",
        "",
        1e3 * wall,
        share(wall)
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::par::profile::Part;
    use std::time::Duration;

    #[test]
    fn a_table_has_every_part_below_its_operation() {
        let part = |operation, phase, ms, bytes| Part {
            operation,
            phase,
            count: 2,
            time: Duration::from_millis(ms),
            waited: Duration::from_millis(ms / 2),
            threads_time: Duration::from_millis(2 * ms),
            bytes,
        };
        let found = Profiled {
            wall: Duration::from_millis(100),
            parts: vec![
                part("head", "products", 40, 400_000_000),
                part("attention", "products", 30, 0),
                part("attention", "scores", 30, 0),
            ],
        };
        let text = table(&found);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        assert!(lines[1].starts_with("attention") && lines[1].ends_with("60.0 %"));
        assert!(lines[4].starts_with("head") && lines[5].contains("10.00"));
        assert!(lines[5].ends_with("25 %"), "{text}");
        let value = as_json(&found);
        let sum: f64 = value["parts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["ms"].as_f64().unwrap())
            .sum();
        assert!((sum - value["wall_ms"].as_f64().unwrap()).abs() < 1e-9);
    }
}

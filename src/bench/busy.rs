//! Whether this machine was quiet enough for its figures to mean something.
//!
//! Linux tells, for the time between two looks: how much processor time went to others than this process, how much the hypervisor took
//! (steal), and how long something waited for a processor (pressure). What a system does not tell is not held against it; then only the
//! spread of the runs can show that something else was going on.

use super::rows::Row;
use super::stats;

/// Processor time of others, in processors, beyond which a figure is doubtful.
const OTHERS: f64 = 0.1;
/// Processor time that the hypervisor kept, as a share of what this machine has.
const STEAL: f64 = 0.02;
/// Share of the time in which something waited for a processor.
const PRESSURE: f64 = 0.1;
/// Distance of the quartiles of repeated runs from each other, as a share of their median.
const SPREAD: f64 = 0.1;

/// Clock ticks of /proc per second: the kernel's interface has this number on every processor that quern runs on.
const TICKS: f64 = 100.0;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// Ticks that all processors worked, for anybody.
    worked: Option<f64>,
    /// Ticks that the hypervisor kept.
    stolen: Option<f64>,
    /// Ticks of all processors, idle ones included.
    all: Option<f64>,
    /// Ticks of this process.
    own: Option<f64>,
    /// Seconds in which something waited for a processor.
    waited: Option<f64>,
    /// Seconds since this program looked first.
    at: f64,
}

/// Looks from time to time.
#[derive(Debug)]
pub struct Watch {
    start: std::time::Instant,
    first: Moment,
}

impl Watch {
    /// Begins to watch.
    pub fn new() -> Watch {
        let start = std::time::Instant::now();
        Watch {
            start,
            first: Moment::now(0.0),
        }
    }

    /// Why figures that were taken since then are doubtful; nothing if they are not.
    pub fn reasons(&self, rows: &[Row]) -> Vec<String> {
        let now = Moment::now(self.start.elapsed().as_secs_f64());
        let mut reasons = between(&self.first, &now);
        let wide = rows.iter().filter(|row| row.samples.len() > 2);
        let wide: Vec<f64> = wide.map(|row| stats::spread(&row.samples)).collect();
        let most = stats::median(&wide);
        if most > SPREAD {
            reasons.push(format!(
                "runs of the same work differ by {:.0} %",
                100.0 * most
            ));
        }
        reasons
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch::new()
    }
}

impl Moment {
    fn now(at: f64) -> Moment {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Moment {
            at,
            ..parse(
                &read("/proc/stat"),
                &read("/proc/self/stat"),
                &read("/proc/pressure/cpu"),
            )
        }
    }
}

fn parse(stat: &str, own: &str, pressure: &str) -> Moment {
    let numbers: Vec<f64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .unwrap_or_default()
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; what guests do is part of user.
    let of = |fields: &[usize]| {
        let found: Option<Vec<f64>> = fields.iter().map(|&i| numbers.get(i).copied()).collect();
        found.map(|list| list.iter().sum())
    };
    // The name, in parentheses, may contain anything; user and system time are fields 14 and 15.
    let fields = own.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|word| word.parse().ok())
        .collect();
    let waited = pressure
        .lines()
        .find(|line| line.starts_with("some "))
        .and_then(|line| line.rsplit_once("total="))
        .and_then(|(_, micros)| micros.trim().parse::<f64>().ok());
    Moment {
        worked: of(&[0, 1, 2, 5, 6]),
        stolen: of(&[7]),
        all: of(&[0, 1, 2, 3, 4, 5, 6, 7]),
        own: (times.len() == 2).then(|| times.iter().sum()),
        waited: waited.map(|micros| micros / 1e6),
        at: 0.0,
    }
}

/// What went on between two moments that spoils measurements.
fn between(first: &Moment, last: &Moment) -> Vec<String> {
    let mut reasons = Vec::new();
    let seconds = last.at - first.at;
    let since =
        |of: fn(&Moment) -> Option<f64>| of(last).zip(of(first)).map(|(b, a)| (b - a).max(0.0));
    // Ticks are too coarse for moments.
    if seconds < 0.1 {
        return reasons;
    }
    if let (Some(worked), Some(own)) = (since(|m| m.worked), since(|m| m.own)) {
        let others = (worked - own) / TICKS / seconds;
        if others > OTHERS {
            reasons.push(format!("other processes used {others:.1} processors"));
        }
    }
    if let (Some(stolen), Some(all)) = (since(|m| m.stolen), since(|m| m.all))
        && stolen > STEAL * all
    {
        let share = 100.0 * stolen / all;
        reasons.push(format!("the hypervisor kept {share:.0} % of the time"));
    }
    if let Some(waited) = since(|m| m.waited)
        && waited > PRESSURE * seconds
    {
        let share = 100.0 * waited / seconds;
        reasons.push(format!(
            "something waited for a processor in {share:.0} % of the time"
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  1000 10 200 5000 30 1 2 40 0 0\ncpu0 1 2 3\n";
    const OWN: &str = "77 (a )) b) R 1 77 77 0 -1 0 0 0 0 0 120 30 0 0 20 0 3 0 9 9 9\n";
    const PRESSURE: &str =
        "some avg10=1.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0 total=7\n";

    #[test]
    fn counters_are_found() {
        let found = parse(STAT, OWN, PRESSURE);
        assert_eq!(
            found,
            Moment {
                worked: Some(1213.0),
                stolen: Some(40.0),
                all: Some(6283.0),
                own: Some(150.0),
                waited: Some(2.5),
                at: 0.0
            }
        );
        assert_eq!(parse("", "", ""), Moment::default());
        assert_eq!(parse("cpu x", "1 (a) R", "some total=x"), Moment::default());
    }

    #[test]
    fn each_kind_of_disturbance_is_named_and_quiet_is_quiet() {
        let first = Moment {
            at: 0.0,
            ..parse(STAT, OWN, PRESSURE)
        };
        let later = |worked: f64, own: f64, stolen: f64, waited: f64| Moment {
            worked: Some(1213.0 + worked),
            own: Some(150.0 + own),
            stolen: Some(40.0 + stolen),
            all: Some(6283.0 + 2000.0),
            waited: Some(2.5 + waited),
            at: 10.0,
        };
        assert!(between(&first, &later(2000.0, 1950.0, 10.0, 0.5)).is_empty());
        for (moment, part) in [
            (later(1500.0, 1000.0, 0.0, 0.0), "used 0.5 processors"),
            (later(1000.0, 1000.0, 100.0, 0.0), "kept 5 %"),
            (later(1000.0, 1000.0, 0.0, 5.0), "in 50 % of the time"),
        ] {
            let reasons = between(&first, &moment);
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            assert!(reasons[0].contains(part), "{reasons:?}");
        }
        // A system that tells nothing is not accused.
        let silent = Moment {
            at: 10.0,
            ..Moment::default()
        };
        assert!(between(&Moment::default(), &silent).is_empty());
    }

    #[test]
    fn runs_that_differ_are_a_reason() {
        let row = |samples: &[f64]| Row {
            samples: samples.to_vec(),
            ..Row::default()
        };
        let watch = Watch::new();
        let spread = |rows: &[Row]| {
            let reasons = watch.reasons(rows);
            reasons.iter().any(|r| r.starts_with("runs of the same"))
        };
        assert!(!spread(&[]));
        assert!(!spread(&[row(&[1.0, 9.0])]));
        assert!(!spread(&[
            row(&[1.0, 1.01, 1.02]),
            row(&[1.0, 2.0, 9.0]),
            row(&[5.0, 5.1, 5.0])
        ]));
        assert!(spread(&[row(&[1.0, 1.5, 2.0])]));
    }
}

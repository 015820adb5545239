//! Two runs, or two series of runs, side by side: what changed, how surely, and whether something got worse.

use super::rows::{Report, Row};
use super::stats::{self, Ratio};

/// One figure in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The newer figure.
    pub new: Row,
    /// The older one's median.
    pub old: f64,
    /// How much faster the newer is: above 1 is better, whatever the unit. None where a value cannot be compared.
    pub speed: Option<Ratio>,
}

/// What a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval is above 1.
    Better,
    /// The whole interval is below 1, by more than what is tolerated.
    Worse,
    /// The interval contains 1, or the loss is tolerated.
    Same,
    /// Too few values.
    Unknown,
}

impl Verdict {
    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Same => "same",
            Verdict::Unknown => "too few runs",
        }
    }
}

impl Change {
    /// What it is; a loss of up to `tolerance` (0.02: two per cent) is none.
    pub fn verdict(&self, tolerance: f64) -> Verdict {
        match self.speed.and_then(|s| s.interval) {
            None => Verdict::Unknown,
            Some((_, high)) if high < 1.0 - tolerance => Verdict::Worse,
            Some((low, _)) if low > 1.0 => Verdict::Better,
            Some(_) => Verdict::Same,
        }
    }
}

/// What was compared, and what could not be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// In the order of the newer reports.
    pub changes: Vec<Change>,
    /// Names of figures that only one side has.
    pub alone: Vec<String>,
    /// Why the two sides can hardly be compared at all.
    pub doubts: Vec<String>,
}

/// Compares every figure that both have. Two series of the same number of runs, more than one, are taken to be interleaved (old, new, old, new, ...):
/// each run's median is one value and run i is compared with run i. Otherwise all samples of one side are compared with all of the other.
pub fn compare(new: &[Report], old: &[Report]) -> Comparison {
    let mut out = Comparison::default();
    let paired = new.len() == old.len() && new.len() > 1;
    let mut seen: Vec<&Row> = Vec::new();
    for row in new.iter().flat_map(|report| &report.rows) {
        if seen.iter().any(|known| known.key() == row.key()) {
            continue;
        }
        seen.push(row);
        let of = |reports: &'_ [Report]| -> Vec<Row> {
            let rows = reports.iter().flat_map(|report| &report.rows);
            let same = rows.filter(|r| r.key() == row.key() && r.unit == row.unit);
            same.cloned().collect()
        };
        let (news, olds) = (of(new), of(old));
        if olds.is_empty() {
            out.alone.push(format!("{} (only new)", label(row)));
            continue;
        }
        let samples = |rows: &[Row]| -> Vec<f64> {
            rows.iter()
                .flat_map(|row| row.samples.iter().copied())
                .collect()
        };
        let medians = |rows: &[Row]| -> Vec<f64> { rows.iter().map(Row::median).collect() };
        let in_pairs = paired && news.len() == new.len() && olds.len() == old.len();
        let ratio = match in_pairs {
            true => stats::paired_ratio(&medians(&news), &medians(&olds)),
            false => stats::ratio(&samples(&news), &samples(&olds)),
        };
        let speed = match row.more_is_better() {
            true => ratio,
            false => ratio.map(inverse),
        };
        let mut newer = row.clone();
        newer.samples = samples(&news);
        out.changes.push(Change {
            new: newer,
            old: stats::median(&samples(&olds)),
            speed,
        });
    }
    let missing = old.iter().flat_map(|report| &report.rows);
    for row in missing.filter(|row| !seen.iter().any(|known| known.key() == row.key())) {
        let name = format!("{} (only old)", label(row));
        if !out.alone.contains(&name) {
            out.alone.push(name);
        }
    }
    for (side, reports) in [("new", new), ("old", old)] {
        if reports.iter().any(|report| report.busy) {
            out.doubts
                .push(format!("the machine was busy ({side} runs)"));
        }
    }
    let machines: Vec<_> = new.iter().chain(old).map(|r| &r.machine).collect();
    if machines.windows(2).any(|two| two[0] != two[1]) {
        out.doubts
            .push("the runs are from different machines".into());
    }
    out
}

/// The ratio the other way round.
fn inverse(ratio: Ratio) -> Ratio {
    Ratio {
        ratio: 1.0 / ratio.ratio,
        interval: ratio.interval.map(|(low, high)| (1.0 / high, 1.0 / low)),
        ..ratio
    }
}

/// A figure in words.
pub fn label(row: &Row) -> String {
    let mut label = row.name.clone();
    for part in [&row.model, &row.isa] {
        if !part.is_empty() {
            label.push_str(", ");
            label.push_str(part);
        }
    }
    if row.threads > 0 {
        label.push_str(&format!(", {} threads", row.threads));
    }
    label
}

#[cfg(test)]
mod tests {
    use super::super::hardware::Machine;
    use super::*;

    fn report(rows: &[(&str, &str, &[f64])]) -> Report {
        let rows = rows.iter().map(|(name, unit, samples)| Row {
            group: "kernels".into(),
            name: (*name).into(),
            unit: (*unit).into(),
            threads: 1,
            samples: samples.to_vec(),
            ..Row::default()
        });
        Report::new("kernels", Machine::default(), rows.collect(), Vec::new())
    }

    #[test]
    fn a_loss_is_found_in_rates_and_in_times_and_noise_is_none() {
        let old = report(&[
            ("rate", "tok/s", &[100.0, 101.0, 99.0, 100.5, 99.5]),
            ("time", "us", &[10.0, 10.1, 9.9, 10.05, 9.95]),
            ("noise", "us", &[10.0, 12.0, 9.0, 11.0, 10.5]),
            ("gone", "us", &[1.0]),
        ]);
        let new = report(&[
            ("rate", "tok/s", &[90.0, 91.0, 89.0, 90.5, 89.5]),
            ("time", "us", &[5.0, 5.1, 4.9, 5.05, 4.95]),
            ("noise", "us", &[10.2, 11.5, 9.4, 10.9, 10.1]),
            ("few", "us", &[1.0]),
        ]);
        let found = compare(std::slice::from_ref(&new), std::slice::from_ref(&old));
        let verdicts: Vec<_> = found.changes.iter().map(|c| c.verdict(0.02)).collect();
        assert_eq!(verdicts, [Verdict::Worse, Verdict::Better, Verdict::Same]);
        assert_eq!(
            found.alone,
            ["few, 1 threads (only new)", "gone, 1 threads (only old)"]
        );
        assert!((found.changes[1].speed.unwrap().ratio - 2.0).abs() < 0.05);
        // A tolerance as large as the loss.
        assert_eq!(found.changes[0].verdict(0.2), Verdict::Same);
        assert!(found.doubts.is_empty());
        let one = compare(
            &[report(&[("few", "us", &[1.0])])],
            std::slice::from_ref(&new),
        );
        assert_eq!(one.changes[0].verdict(0.0), Verdict::Unknown);
    }

    #[test]
    fn interleaved_series_are_compared_in_pairs() {
        // The machine gets slower and slower, the newer program is 5 % faster all the time.
        let series = |factor: f64| -> Vec<Report> {
            (1..=8)
                .map(|i| {
                    let value = factor * 1000.0 / f64::from(i);
                    report(&[("rate", "tok/s", &[value, value, value])])
                })
                .collect()
        };
        let found = compare(&series(1.05), &series(1.0));
        let change = &found.changes[0];
        assert!(change.speed.unwrap().paired);
        assert_eq!(change.verdict(0.0), Verdict::Better);
        let mixed = compare(&series(1.05), &series(1.0)[..7]);
        assert!(!mixed.changes[0].speed.unwrap().paired);
        assert_eq!(mixed.changes[0].verdict(0.0), Verdict::Same);
    }

    #[test]
    fn what_makes_a_comparison_doubtful_is_said() {
        let quiet = report(&[("x", "us", &[1.0])]);
        let mut other = quiet.clone();
        other.busy = true;
        other.machine.processors = 99;
        let found = compare(&[other], &[quiet]);
        assert_eq!(found.doubts.len(), 2, "{:?}", found.doubts);
    }
}

//! What becomes of figures: tables, files for other programs, comparisons, pages.

use crate::common::program::run;
use serde_json::{Value, json};

/// A line of figures: of one operation in microseconds, and of one model in tokens per second.
fn line(time: &[f64], rate: &[f64]) -> String {
    let row = |name: &str, unit: &str, samples: &[f64]| {
        json!({"group": "model", "name": name, "model": "m q4", "isa": "avx2", "threads": 2, "unit": unit, "samples": samples,
            "gb_per_s": 10.0, "gmac_per_s": 50.0, "limit": {"what": "read memory", "value": 100.0}})
    };
    let report = json!({"schema": "quern-bench-1", "quern": "0", "time": 0, "command": "model",
        "machine": {"processor": "p", "processors": 2, "memory": 1, "caches": []}, "busy": false,
        "rows": [row("attention", "us", time), row("tg64", "tok/s", rate)]});
    format!("{report}\n")
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        Files { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

const STEADY: [f64; 6] = [100.0, 100.5, 99.5, 100.2, 99.8, 100.0];

fn times(by: f64) -> Vec<f64> {
    STEADY.iter().map(|s| s * by).collect()
}

#[test]
fn a_regression_is_exit_1_and_an_improvement_is_not() {
    let files = Files::new();
    let old = files.write("old", &line(&times(1.0), &times(1.0)));
    let same = run(&["bench", "compare", &old, &old]);
    assert_eq!(same.code, 0, "{}", same.err);
    assert_eq!(
        same.text().matches("  same\n").count(),
        2,
        "{}",
        same.text()
    );
    // Less time and more tokens: better both.
    let better = files.write("better", &line(&times(0.8), &times(1.2)));
    let done = run(&["bench", "compare", &old, &better]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(
        done.text().matches("better\n").count(),
        2,
        "{}",
        done.text()
    );
    let worse = files.write("worse", &line(&times(1.25), &times(1.0)));
    let done = run(&["bench", "compare", &old, &worse]);
    done.fails(
        1,
        &[
            "1 of 2 figures are worse",
            "attention, m q4, avx2, 2 threads",
        ],
    );
    assert!(done.text().contains("WORSE"), "{}", done.text());
    assert_eq!(
        run(&["bench", "compare", &old, &worse, "--tolerance", "30"]).code,
        0
    );
    let done = run(&["bench", "compare", &old, &worse, "--json"]);
    done.fails(1, &["worse"]);
    let found: Value = serde_json::from_str(done.text()).unwrap();
    assert_eq!(found["changes"][0]["verdict"], "worse");
    assert_eq!(found["changes"][1]["verdict"], "same");
    let speed = found["changes"][0]["speed"].as_f64().unwrap();
    assert!((speed - 0.8).abs() < 0.01, "{speed}");
}

#[test]
fn series_of_runs_are_compared_in_pairs() {
    let files = Files::new();
    // A machine that gets slower and slower.
    let series = |by: f64| -> String {
        let one = |i: i32| line(&times(by * f64::from(i)), &times(1.0));
        (1..=7).map(one).collect()
    };
    let old = files.write("old", &series(1.0));
    let new = files.write("new", &series(1.1));
    let done = run(&["bench", "compare", &old, &new, "--json"]);
    done.fails(1, &["1 of 2 figures"]);
    let found: Value = serde_json::from_str(done.text()).unwrap();
    assert_eq!(found["changes"][0]["paired"], true);
}

#[test]
fn a_measurement_compares_itself_with_an_earlier_one() {
    let files = Files::new();
    let measure = |more: &[&str]| {
        let args = [
            "bench", "kernels", "--op", "rope", "-r", "4", "--buffer", "4",
        ];
        run(&[&args, more].concat())
    };
    let before = measure(&["--json"]);
    // As if it had been so many times as slow before.
    let earlier = |name: &str, slower: f64| {
        let mut report = before.json();
        let rows = report["rows"].as_array_mut().unwrap();
        // The machine's own limits may differ from one run to the next by anything.
        rows.retain(|row| row["group"] == "kernels");
        for row in rows {
            for sample in row["samples"].as_array_mut().unwrap() {
                *sample = (sample.as_f64().unwrap() * slower).into();
            }
        }
        files.write(name, &report.to_string())
    };
    let (slow, fast) = (earlier("slow.json", 1e6), earlier("fast.json", 1e-6));
    let page = files.path("page.html");
    let done = measure(&["--compare", &slow, "--report", &page]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.text().contains("compared with"), "{}", done.text());
    assert!(done.text().contains("  better\n"), "{}", done.text());
    let done = measure(&["--compare", &fast, "--tolerance", "50", "--csv"]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(
        done.err.contains("figures are worse than in"),
        "{}",
        done.err
    );
    assert!(done.text().starts_with("group,name,"), "{}", done.text());
    assert!(!done.text().contains("WORSE"), "only the table on stdout");
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));
}

#[test]
fn a_page_is_made_of_several_runs_and_stands_alone() {
    let files = Files::new();
    let one = files.write("one", &line(&times(1.0), &times(1.0)));
    let machine = run(&[
        "bench", "machine", "-t", "1", "-r", "1", "--buffer", "4", "--json",
    ]);
    let two = files.write("two", machine.text());
    let page = files.path("page.html");
    let done = run(&["bench", "report", "-o", &page, &one, &two]);
    assert_eq!((done.code, done.out.len()), (0, 0), "{}", done.err);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.contains("</html>"));
    assert_eq!(text.matches("<section>").count(), 2);
    for outside in ["http:", "https:", "<script", "src=", "@import", "url("] {
        assert!(!text.contains(outside), "{outside}");
    }
    run(&["bench", "report", "-o", "/nonexistent/p.html", &one]).fails(4, &["/nonexistent/p.html"]);
    run(&["bench", "report", "-o", &page]).fails(2, &["FILE"]);
    let garbage = files.write("garbage", "{\"schema\": 1}\n");
    run(&["bench", "compare", &one, &garbage]).fails(3, &["line 1"]);
    run(&["bench", "compare", &one, &files.path("none")]).fails(4, &["none"]);
}

#[test]
fn tables_for_people_and_programs() {
    let measure = |how: &[&str]| {
        let args = [
            "bench",
            "kernels",
            "--op",
            "rope,rmsnorm",
            "-r",
            "2",
            "--buffer",
            "4",
        ];
        let done = run(&[&args, how].concat());
        assert_eq!(done.code, 0, "{}", done.err);
        done
    };
    let text = measure(&[]);
    assert!(text.text().contains("of limit") && text.text().contains("rope 4096"));
    let markdown = measure(&["--md"]);
    assert!(
        markdown.text().starts_with("| what |"),
        "{}",
        markdown.text()
    );
    let csv = measure(&["--csv"]);
    let columns = |line: &str| line.matches(',').count();
    let lines: Vec<&str> = csv.text().lines().filter(|l| !l.contains('"')).collect();
    assert!(lines.len() > 3 && lines.iter().all(|l| columns(l) == columns(lines[0])));
    // Not a colour, not a bar where there is no terminal; a warning at most.
    for done in [text, markdown, csv] {
        let warnings = done
            .err
            .lines()
            .filter(|l| !l.starts_with("quern: warning: this machine was busy"));
        assert_eq!(warnings.count(), 0, "{}", done.err);
    }
}

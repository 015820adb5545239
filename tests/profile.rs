//! `quern run --profile`: the parts are the whole, and nothing else changes.

use crate::common::program::run;
use serde_json::Value;

const RUN: [&str; 7] = [
    "run",
    "--json",
    "--temp",
    "0",
    "-n",
    "8",
    "What is the capital of France?",
];

#[test]
fn the_parts_of_a_profile_are_the_whole_and_the_text_is_the_same() {
    let plain = run(&RUN).json();
    let folder = tempfile::tempdir().unwrap();
    for threads in ["1", "2", "3"] {
        let path = folder.path().join("profile.json");
        let profile = format!("--profile={}", path.display());
        let done = run(&[&RUN[..], &["-t", threads, &profile]].concat());
        let with = done.json();
        assert!(done.err.is_empty(), "{}", done.err);
        for same in ["text", "ids", "fingerprint"] {
            assert_eq!(with[same], plain[same]);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["schema"], "quern-profile-1");
        let number = |value: &Value| value.as_f64().unwrap();
        let (wall, parts) = (
            number(&found["wall_ms"]),
            found["parts"].as_array().unwrap(),
        );
        let sum: f64 = parts.iter().map(|p| number(&p["ms"])).sum();
        assert!((sum - wall).abs() <= 0.02 * wall, "{sum} of {wall}");
        let part = |operation: &str, phase: &str| {
            let same = |p: &&Value| p["operation"] == operation && p["phase"] == phase;
            let found = parts.iter().find(same);
            found.unwrap_or_else(|| panic!("{operation}, {phase}: {text}"))
        };
        for operation in ["attention", "dense network", "head"] {
            let products = part(operation, "products");
            assert!(number(&products["bytes"]) > 0.0 && number(&products["gb_per_s"]) > 0.0);
        }
        assert!(number(&part("attention", "scores and values")["bytes"]) > 0.0);
        for operation in [
            "open the model",
            "prepare",
            "between passes",
            "start of a pass",
            "embedding",
            "report",
        ] {
            part(operation, "between phases");
        }
        for p in parts {
            assert!(
                number(&p["waited_ms"]) <= number(&p["thread_ms"]) + 1e-6,
                "{p}"
            );
        }
    }
    // As a table on stderr.
    let done = run(&[&RUN[..], &["--profile"]].concat());
    assert_eq!(done.json()["text"], plain["text"]);
    for part in [
        "profile",
        "attention",
        "  products",
        "  scores and values",
        "all",
    ] {
        assert!(
            done.err.lines().any(|l| l.starts_with(part)),
            "{part}: {}",
            done.err
        );
    }
    run(&[&RUN[..], &["--profile=/nonexistent/p.json"]].concat())
        .fails(4, &["/nonexistent/p.json"]);
}

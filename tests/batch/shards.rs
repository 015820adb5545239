//! Work that is shared out comes together as if it had not been.

use super::{Bench, records};
use crate::common::program::{Done, run};

fn merge(bench: &Bench, output: &str, parts: &[&str]) -> Done {
    let output = match output {
        "-" => "-".to_owned(),
        name => bench.arg(name),
    };
    let parts: Vec<String> = parts.iter().map(|name| bench.arg(name)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    run(&[&["batch", "merge", "-o", &output], &parts[..]].concat())
}

#[test]
fn shards_together_are_the_output_of_a_run_without_them() {
    let bench = Bench::new();
    let input = records(11).replace("\"number 4 is\"", "7");
    bench.write("in.jsonl", &input);
    let done = bench.run("whole.jsonl", &["-q", "--temp", "2"]);
    assert_eq!(done.code, 1);
    let expected = bench.read("whole.jsonl");
    let slurm = |i: usize| {
        [
            ("SLURM_ARRAY_TASK_ID", (i + 20).to_string()),
            ("SLURM_ARRAY_TASK_MIN", "21".to_owned()),
            ("SLURM_ARRAY_TASK_STEP", "1".to_owned()),
            ("SLURM_ARRAY_TASK_COUNT", "3".to_owned()),
        ]
    };
    for i in 1..=3 {
        let mut command = bench.command(
            &format!("part-{i}.jsonl"),
            &["-q", "--temp", "2", "--shard", "auto"],
        );
        let done: Done = command.envs(slurm(i)).output().unwrap().into();
        assert_eq!(done.code, i32::from(i == 2), "{}", done.err);
    }
    let parts = ["part-3.jsonl", "part-1.jsonl", "part-2.jsonl"];
    let done = merge(&bench, "merged.jsonl", &parts);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("11 records"), "{}", done.err);
    assert_eq!(bench.read("merged.jsonl"), expected);
    assert_eq!(
        bench.read("merged.jsonl.manifest.json"),
        bench.read("whole.jsonl.manifest.json")
    );
    assert_eq!(merge(&bench, "-", &parts).out, expected);
    merge(&bench, "merged.jsonl", &parts).fails(2, &["merged.jsonl", "is there already"]);

    // What does not belong together is told.
    let refused = |parts: &[&str], code: i32, text: &[&str]| {
        merge(&bench, "other.jsonl", parts).fails(code, text);
        assert!(!bench.path("other.jsonl").exists());
    };
    refused(&parts[..2], 2, &["shard 2/3 is missing"]);
    refused(&parts[1..], 2, &["shard 3/3 is missing"]);
    refused(&["whole.jsonl"], 2, &["whole.jsonl", "is no shard"]);
    refused(
        &["part-1.jsonl", "part-1.jsonl", "part-2.jsonl"],
        2,
        &["1/3 a second time"],
    );
    let more = ["-q", "--temp", "2", "--shard", "2/2"];
    bench.run("half.jsonl", &more);
    refused(
        &["part-1.jsonl", "half.jsonl", "part-3.jsonl"],
        2,
        &["shards of one number"],
    );
    let more = ["-q", "--temp", "1", "--shard", "2/3"];
    bench.run("cold.jsonl", &more);
    refused(
        &["part-1.jsonl", "cold.jsonl", "part-3.jsonl"],
        2,
        &["its sampling is"],
    );
    let part = bench.read("part-2.jsonl");
    let cut = part[..part.len() - 1]
        .iter()
        .rposition(|&b| b == b'\n')
        .unwrap()
        + 1;
    bench.write("part-2.jsonl", &part[..cut]);
    refused(&parts, 3, &["part-2.jsonl", "fewer lines than the 4"]);
    bench.write("part-2.jsonl", [&part[..], b"{}\n"].concat());
    refused(&parts, 3, &["part-2.jsonl", "more lines than the 4"]);
    bench.write("part-2.jsonl", &part);
    let fast = bench.run(
        "fast.jsonl",
        &["-q", "--temp", "2", "--shard", "2/3", "--fail-fast"],
    );
    assert_eq!(fast.code, 1);
    refused(
        &["part-1.jsonl", "fast.jsonl", "part-3.jsonl"],
        2,
        &["fast.jsonl", "is not finished"],
    );
}

#[test]
fn a_limit_is_one_of_the_whole_input() {
    let bench = Bench::new();
    bench.write("in.jsonl", records(9));
    bench.run("whole.jsonl", &["-q", "--limit", "5"]);
    for (name, shard) in [("a.jsonl", "1/2"), ("b.jsonl", "2/2")] {
        let done = bench.run(name, &["-q", "--limit", "5", "--shard", shard]);
        assert_eq!(done.code, 0, "{}", done.err);
    }
    let done = merge(&bench, "-", &["a.jsonl", "b.jsonl"]);
    assert_eq!(done.out, bench.read("whole.jsonl"));
    assert_eq!(super::values(&done.out).len(), 5);
}

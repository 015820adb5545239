//! `--fast-math`: other bits where the CPU can be faster, the same ones for any prompt cut, batch and threads, and nothing mixes the two.

use crate::common::program::{Done, run};
use crate::common::tiny::{Tiny, TinyFile};
use quern_kernels::Format;

const TEXT: &str = "A text that is long enough for tiles of tokens, and then some more of it.";

fn tiny(format: Format) -> TinyFile {
    TinyFile::new(Tiny {
        format,
        ..Tiny::default()
    })
}

/// Whether this CPU has kernels for it; says so if not.
fn covered() -> bool {
    let fast = !quern_kernels::best().fast_math().exact();
    if !fast {
        eprintln!("fast math: NOT covered: this CPU has no bfloat16 dot products");
    }
    fast
}

fn generate(model: &TinyFile, more: &[&str]) -> Done {
    let base = ["run", "-m", model.arg(), "--temp", "0", "-n", "8", "--json"];
    run(&[&base, more, &[TEXT]].concat())
}

fn fingerprint(model: &TinyFile, more: &[&str]) -> String {
    let value = generate(model, more).json();
    value["fingerprint"].as_str().expect("a string").to_owned()
}

#[test]
fn it_changes_bf16_and_says_what_ran() {
    let model = tiny(Format::Bf16);
    let exact = fingerprint(&model, &[]);
    let done = generate(&model, &["--fast-math"]);
    let ran = done.json()["timings"]["isa"].clone();
    assert_eq!(ran, quern_kernels::best().fast_math().name());
    if !covered() {
        assert_eq!(done.json()["fingerprint"], exact);
        assert!(done.err.contains("--fast-math changes nothing: this CPU"));
        return;
    }
    assert!(done.err.is_empty(), "{}", done.err);
    let fast = fingerprint(&model, &["--fast-math"]);
    assert_ne!(fast, exact);
    for same in [
        &["-t", "1"][..],
        &["-t", "3"],
        &["--chunk", "1"],
        &["--chunk", "7"],
    ] {
        let more = [&["--fast-math"], same].concat();
        assert_eq!(fingerprint(&model, &more), fast, "{same:?}");
    }
    // An instruction set that was named has its own, or none.
    let scalar = generate(&model, &["--fast-math", "--isa", "scalar"]);
    assert_eq!(scalar.json()["fingerprint"], exact);
    assert!(scalar.err.contains("--fast-math changes nothing"));
}

#[test]
fn it_leaves_other_formats_alone() {
    for format in [Format::F32, Format::F16, Format::Q4] {
        let model = tiny(format);
        let done = generate(&model, &["--fast-math"]);
        assert_eq!(done.json()["fingerprint"], fingerprint(&model, &[]));
        assert!(done.err.contains("--fast-math changes nothing"));
    }
}

#[test]
fn a_prompt_cache_of_one_is_not_used_by_the_other() {
    if !covered() {
        return;
    }
    let model = tiny(Format::Bf16);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept");
    let cache = ["--prompt-cache", path.to_str().unwrap()];
    let fast = [&cache[..], &["--fast-math"]].concat();
    let reused = |done: &Done| done.json()["prompt_cache"]["reused_tokens"].as_u64();
    let expected = fingerprint(&model, &["--fast-math"]);
    for (args, note) in [
        (&cache[..], None),
        (
            &fast,
            Some("made without --fast-math, this run is with it: not used"),
        ),
        (&fast, None),
        (
            &cache,
            Some("made with --fast-math, this run is without it: not used"),
        ),
    ] {
        let first = !path.exists();
        let done = generate(&model, args);
        match note {
            Some(note) => assert!(done.err.contains(note), "{}", done.err),
            None => assert!(done.err.is_empty(), "{}", done.err),
        }
        assert_eq!(reused(&done) > Some(0), !first && note.is_none());
        let is_fast = args.contains(&"--fast-math");
        assert_eq!(done.json()["fingerprint"] == expected, is_fast);
    }
}

#[test]
fn a_batch_is_not_resumed_with_the_other() {
    if !covered() {
        return;
    }
    let model = tiny(Format::Bf16);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(file("in"), format!("{{\"prompt\": \"{TEXT}\"}}\n")).unwrap();
    let batch = |output: &str, more: &[&str]| {
        let (input, output) = (file("in"), file(output));
        let base = ["batch", "-m", model.arg(), "-i", &input, "-o", &output];
        run(&[&base[..], &["-n", "4"], more].concat())
    };
    for (output, own, other) in [
        ("exact", &[][..], &["--resume", "--fast-math"][..]),
        ("fast", &["--fast-math"][..], &["--resume"][..]),
    ] {
        let done = batch(output, own);
        assert_eq!(done.code, 0, "{}", done.err);
        let parts = ["belongs to another run", "fast_math is"];
        batch(output, other).fails(2, &parts);
        let again = batch(output, &[own, &["--resume"]].concat());
        assert_eq!(again.code, 0, "{}", again.err);
    }
}

#[test]
fn benchmarks_tell_the_two_apart() {
    let model = tiny(Format::Bf16);
    let fast = quern_kernels::best().fast_math().name();
    let common = ["-r", "1", "--buffer", "1", "--json"];
    let own = ["bench", "model", "-m", model.arg(), "-p", "4", "-n", "2"];
    let value = run(&[&own[..], &common, &["--fast-math"]].concat()).json();
    let rows = value["rows"].as_array().unwrap();
    let of = |group: &'static str| rows.iter().filter(move |row| row["group"] == group);
    assert_eq!(of("model").count(), 2);
    assert!(of("model").all(|row| row["isa"] == fast));

    let own = ["bench", "kernels", "--op", "matmul", "--type", "bf16"];
    let shape = ["--tokens", "1", "--weights", "cache"];
    let value = run(&[&own[..], &shape, &common, &["--fast-math"]].concat()).json();
    let rows = value["rows"].as_array().unwrap();
    let on = |isa: &str| {
        let of = |row: &&serde_json::Value| row["group"] == "kernels" && row["isa"] == isa;
        rows.iter().filter(of).count()
    };
    assert_eq!(on(quern_kernels::best().name()), 3);
    assert_eq!(on(fast), 3);
}

//! The flags of sampling, through the program: each is taken, each that should changes the text, none breaks its being the same again.

use crate::common::program::run;
use crate::common::tiny::{Tiny, TinyFile};

fn text(model: &TinyFile, flags: &[&str]) -> String {
    let args = [
        "run",
        "-m",
        model.arg(),
        "--ignore-eos",
        "-n",
        "48",
        "-s",
        "5",
    ];
    let done = run(&[&args, flags, &["hello hello hello"]].concat());
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{flags:?}");
    done.text().to_owned()
}

#[test]
fn every_flag_of_sampling_is_taken_and_does_something() {
    let model = TinyFile::new(Tiny::default());
    let plain = text(&model, &[]);
    for flags in [
        &["--temp", "1.7"][..],
        &["--temp", "0"],
        &["--top-k", "2"],
        &["--top-p", "0.3"],
        &["--min-p", "0.7"],
        &["--typical", "0.3"],
        &["--top-n-sigma", "0.3"],
        &["--dynatemp-range", "0.8", "--dynatemp-exp", "0.5"],
        &["--repeat-penalty", "1.5", "--repeat-last-n", "-1"],
        &["--presence-penalty", "2"],
        &["--frequency-penalty", "2", "--repeat-last-n", "200"],
        &[
            "--dry-multiplier",
            "3",
            "--dry-allowed-length",
            "1",
            "--dry-base",
            "2",
            "--dry-penalty-last-n",
            "100",
        ],
        &[
            "--dry-multiplier",
            "3",
            "--dry-allowed-length",
            "0",
            "--dry-sequence-breaker",
            "none",
        ],
        &["--xtc-probability", "1", "--xtc-threshold", "0.05"],
        &[
            "--mirostat",
            "2",
            "--mirostat-ent",
            "1",
            "--mirostat-lr",
            "0.5",
        ],
        &["-l", "101+50"],
        &["--samplers", "temperature;top_k", "--temp", "1.7"],
        &["--sampling-seq", "t", "--temp", "1.7"],
    ] {
        let changed = text(&model, flags);
        assert_ne!(changed, plain, "{flags:?}");
        assert_eq!(changed, text(&model, flags), "{flags:?}");
    }
    for flags in [
        &[
            "--samplers",
            "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature",
        ][..],
        &["--sampling-seq", "edskypmxt"],
        &["--repeat-last-n", "0", "--repeat-penalty", "2"],
        &["--xtc-probability", "1", "--xtc-threshold", "0.6"],
        &["--mirostat", "0", "--dry-base", "3"],
        &["-l", "101+0"],
    ] {
        assert_eq!(text(&model, flags), plain, "{flags:?}");
    }
    let forbidden = text(&model, &["-l", "101-inf", "--temp", "2", "--top-k", "0"]);
    assert!(!forbidden.bytes().any(|b| b == 101), "{forbidden}");
}

#[test]
fn wrong_values_are_named() {
    let model = TinyFile::new(Tiny::default());
    let fails = |flags: &[&str], parts: &[&str]| {
        run(&[&["run", "-m", model.arg()], flags, &["x"]].concat()).fails(2, parts);
    };
    fails(&["--typical", "1.5"], &["typical is 1.5", "0 to 1"]);
    fails(&["--xtc-probability", "-1"], &["xtc-probability is -1"]);
    fails(&["--dry-multiplier", "-1"], &["dry-multiplier"]);
    fails(&["--mirostat", "1"], &["version 1"]);
    fails(&["--samplers", "top_k;x"], &["\"x\"", "top_n_sigma"]);
    fails(&["--sampling-seq", "kq"], &["'q'"]);
    fails(
        &["--sampling-seq", "k", "--samplers", "top_k"],
        &["--samplers"],
    );
    fails(&["-l", "12"], &["+ or -"]);
    fails(&["-l", "99999+1"], &["99999", "272"]);
    fails(&["--repeat-last-n", "-2"], &["-1 for all"]);
    let long = "x".repeat(41);
    fails(&["--dry-sequence-breaker", &long], &["41 bytes"]);
    let mute = TinyFile::new(Tiny {
        tokenizer: false,
        ..Tiny::default()
    });
    let dry = [
        "run",
        "-m",
        mute.arg(),
        "--ids",
        "1",
        "-n",
        "1",
        "--dry-multiplier",
        "1",
    ];
    run(&dry).fails(2, &["no tokenizer", "none"]);
    let none = run(&[&dry[..], &["--dry-sequence-breaker", "none"]].concat());
    assert_eq!(none.code, 0, "{}", none.err);
}

//! What the program says about itself: help with examples, completions, manual pages.

use crate::common::program::{Done, run};

/// Every subcommand, as the words that come after the program's name.
fn subcommands(command: &clap::Command, before: &[String], out: &mut Vec<Vec<String>>) {
    for subcommand in command.get_subcommands() {
        let words = [before, &[subcommand.get_name().to_owned()]].concat();
        subcommands(subcommand, &words, out);
        out.push(words);
    }
}

fn all_subcommands() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let command = <quern::cli::Cli as clap::CommandFactory>::command();
    subcommands(&command, &[], &mut all);
    assert!(all.len() > 10, "{all:?}");
    all
}

#[test]
fn the_help_of_every_subcommand_has_examples_that_name_it() {
    for words in all_subcommands() {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        let name = format!("quern {}", args.join(" "));
        args.push("--help");
        let done = run(&args);
        assert_eq!(done.code, 0, "{}", done.err);
        let (_, examples) = done
            .text()
            .split_once("Examples:\n")
            .unwrap_or_else(|| panic!("{name} --help has no examples"));
        assert!(examples.contains(&name), "{name}: {examples}");
    }
}

#[test]
fn completions_know_subcommands_and_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = run(&["completions", shell]);
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        for word in ["tokenize", "hide-thinking"] {
            assert!(done.text().contains(word), "{shell}: {word}");
        }
    }
    run(&["completions", "tcsh"]).fails(2, &["'tcsh'", "fish"]);
    // bash itself can read what is meant for it, and completes with it.
    let script = "eval \"$(\"$0\" completions bash)\"; COMP_WORDS=(quern tok); COMP_CWORD=1; _quern quern tok quern; echo \"${COMPREPLY[*]}\"";
    let bash = std::process::Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_quern")])
        .output();
    match bash {
        Ok(output) => assert_eq!(Done::from(output).text(), "tokenize\n"),
        Err(e) => eprintln!("skipped the part with bash: {e}"),
    }
}

#[test]
fn manual_pages_of_everything() {
    let page = run(&["man"]);
    assert_eq!((page.code, page.err.as_str()), (0, ""));
    assert!(page.text().contains(".TH quern 1"), "{}", page.text());
    let page = run(&["man", "bench", "model"]);
    assert!(
        page.text().contains("quern\\-bench\\-model"),
        "{}",
        page.text()
    );
    assert!(page.text().contains("Tokens decoded one by one"));
    run(&["man", "nonsense"]).fails(2, &["quern has no subcommand \"nonsense\"", "tokenize"]);
    run(&["man", "bench", "x"]).fails(
        2,
        &[
            "quern-bench has no subcommand \"x\"",
            "machine, kernels, model",
        ],
    );
    run(&["man", "run", "x"]).fails(2, &["quern-run has no subcommand \"x\""]);

    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("new/man1");
    let done = run(&["man", "-o", pages.to_str().unwrap()]);
    assert_eq!((done.code, done.err.as_str(), done.out.len()), (0, "", 0));
    let mut found: Vec<String> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut expected: Vec<String> = all_subcommands()
        .iter()
        .map(|words| format!("quern-{}.1", words.join("-")))
        .chain(["quern.1".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(found, expected);
    let file = std::fs::read(pages.join("quern-bench-model.1")).unwrap();
    assert_eq!(file, run(&["man", "bench", "model"]).out);
}

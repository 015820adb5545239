//! The README's table of families is what the code says: one row per file of `models/src`, with what its goldens make use of.
//!
//! `make readme` writes it anew.

use crate::golden::{golden_file, goldens, known, subfolders};
use quern_models::FAMILIES;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- families: written by `make readme` -->\n";
const END: &str = "<!-- end of families -->";

/// What the goldens of each family use: in the order of the first, what others add behind it.
fn features() -> BTreeMap<String, Vec<&'static str>> {
    let mut all: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for folder in subfolders(&goldens()) {
        let Some(model_type) = known(&folder.join("config.json")) else {
            continue;
        };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let of_type = all.entry(model_type).or_default();
        for word in golden_file(&name).spec().features() {
            if !of_type.contains(&word) {
                of_type.push(word);
            }
        }
    }
    all
}

fn table() -> String {
    let features = features();
    let mut out =
        String::from("| `model_type` | what it is | what its tests exercise |\n|---|---|---|\n");
    for family in FAMILIES {
        let mut words: Vec<&str> = Vec::new();
        for model_type in family.model_types {
            for word in features.get(*model_type).into_iter().flatten() {
                if !words.contains(word) {
                    words.push(word);
                }
            }
        }
        let types: Vec<String> = family
            .model_types
            .iter()
            .map(|t| format!("`{t}`"))
            .collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} |",
            types.join(" "),
            family.doc,
            words.join(", ")
        );
    }
    out
}

#[test]
fn the_table_of_families_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the mark before the table");
    let (found, after) = rest.split_once(END).expect("the mark after the table");
    let expected = table();
    if std::env::var_os("QUERN_WRITE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert!(
        found == expected,
        "README.md differs from the code: run `make readme`\n{expected}"
    );
}

/// The table of parts names models that have them.
#[test]
fn the_parts_of_a_modern_model_are_in_the_models_that_are_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (_, rest) = readme
        .split_once("<!-- parts: checked by the tests -->\n")
        .expect("the mark before the table");
    let (table, _) = rest
        .split_once("<!-- end of parts -->")
        .expect("the mark after the table");
    let mut rows = 0;
    for row in table.lines().skip(2) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let part = cells.next().expect("a part");
        let models = cells.next().expect("models");
        for name in models.split_whitespace().map(|m| m.trim_matches('`')) {
            let features = golden_file(name).spec().features();
            assert!(
                features.contains(&part),
                "{name} has no {part}: {features:?}"
            );
            rows += 1;
        }
    }
    assert!(rows > 20, "{rows}");
}

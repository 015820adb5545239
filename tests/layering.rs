//! The house rules that the compiler does not check: floors, circles, where unsafe code and threads may be, who may print.

use crate::rust_source::{Kind, Source, Token, files};
use quern_models::FAMILIES;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The modules of `src/`, from the ground up. A module uses only modules of floors below its own.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["bytes", "json"],
    &["par", "tensor", "tokenizer", "sample"],
    &["file", "template"],
    &["ops", "cache"],
    &["blocks"],
    &["model"],
    &["generate"],
    &["batch"],
    &["convert", "bench"],
    &["cli"],
    &["main"],
];

/// The only files with unsafe code, each with its reason.
const UNSAFE: &[(&str, &str)] = &[
    (
        "blocks/attend.rs",
        "jobs write disjoint parts of one buffer",
    ),
    (
        "blocks/attention.rs",
        "jobs write disjoint parts of one buffer",
    ),
    ("blocks/conv.rs", "jobs write disjoint parts of one buffer"),
    (
        "blocks/delta_rule.rs",
        "jobs write disjoint parts of one buffer",
    ),
    (
        "blocks/experts.rs",
        "jobs write disjoint parts of one buffer",
    ),
    (
        "blocks/latent.rs",
        "jobs write disjoint parts of one buffer",
    ),
    (
        "blocks/selective_scan.rs",
        "jobs write disjoint parts of one buffer",
    ),
    (
        "blocks/state_space.rs",
        "jobs write disjoint parts of one buffer",
    ),
    (
        "cli/memory_limit.rs",
        "an allocator that remembers what it refused",
    ),
    ("cli/signals.rs", "installs signal handlers"),
    ("file/map.rs", "maps the weight file"),
    ("file/signal.rs", "turns a lost page into exit 6"),
    ("ops.rs", "jobs write disjoint parts of one buffer"),
    ("par.rs", "threads write disjoint parts of one buffer"),
    ("tensor.rs", "reads the bytes of the mapping as f32"),
];

/// Folders that read tokenizer formats, in which splits, classes and normalizers are called after families (a GGUF file says `qwen2` and means a
/// pattern). What they know of a family is that name.
const TOKENIZER_FORMATS: &[&str] = &["tokenizer/", "convert/tokenizer/"];

/// Files that run another program beside this one, which is called after a family.
const PEERS: &[&str] = &["bench/batch.rs", "cli/bench/batch.rs"];

fn source_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// The modules of a file: `["blocks", "attention"]` for `blocks/attention.rs`, nothing for `lib.rs`.
fn module_path(name: &str) -> Vec<String> {
    let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
    name.split('/')
        .filter(|part| *part != "lib")
        .map(str::to_owned)
        .collect()
}

/// Every path that the file names from the root of the crate, as segments, with the line: `crate::a::{b, c}` gives `a::b` and
/// `a::c`; `super::x` counts from where it stands.
fn crate_paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let own = module_path(&source.name);
    let tokens = &source.tokens;
    let mut paths = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let start = &tokens[i];
        let follows = |from: usize| marks(tokens, from, "::");
        let first = i == 0 || !(i >= 2 && marks(tokens, i - 2, "::"));
        let mut base = match start.text.as_str() {
            _ if start.kind != Kind::Word || !first || !follows(i + 1) => None,
            "crate" => Some(Vec::new()),
            // The binary sees the library under its name.
            "quern" if own == ["main"] => Some(Vec::new()),
            "super" | "self" => Some(own.clone()),
            _ => None,
        };
        i += 1;
        let Some(base) = &mut base else { continue };
        if start.text == "super" || start.text == "self" {
            // Inline modules are inside this file: climbing out of them stays in it.
            let mut climbs = 0;
            i -= 1;
            while tokens[i].text == "super" || tokens[i].text == "self" {
                climbs += usize::from(tokens[i].text == "super");
                i += 1;
                if !marks(tokens, i, "::") {
                    break;
                }
                i += 2;
            }
            base.truncate(
                (own.len() + start.depth)
                    .saturating_sub(climbs)
                    .min(own.len()),
            );
        } else {
            i += 2;
        }
        tree(tokens, &mut i, base, start.line, &mut paths);
    }
    paths
}

fn marks(tokens: &[Token], from: usize, text: &str) -> bool {
    text.chars().enumerate().all(|(j, c)| {
        tokens
            .get(from + j)
            .is_some_and(|t| t.kind == Kind::Mark && t.text == c.to_string())
    })
}

/// The rest of a path from token `i` on, which may branch into `{a, b::c}`.
fn tree(
    tokens: &[Token],
    i: &mut usize,
    base: &[String],
    line: usize,
    paths: &mut Vec<(usize, Vec<String>)>,
) {
    let mut path = base.to_vec();
    loop {
        match tokens.get(*i) {
            Some(t) if t.kind == Kind::Word => {
                path.push(t.text.clone());
                *i += 1;
                if !marks(tokens, *i, "::") {
                    break;
                }
                *i += 2;
            }
            Some(t) if t.kind == Kind::Mark && t.text == "{" => {
                *i += 1;
                while *i < tokens.len() && !marks(tokens, *i, "}") {
                    let before = *i;
                    tree(tokens, i, &path, tokens[*i].line, paths);
                    while *i < tokens.len() && !marks(tokens, *i, ",") && !marks(tokens, *i, "}") {
                        *i += 1;
                    }
                    *i += usize::from(marks(tokens, *i, ","));
                    assert!(
                        *i > before,
                        "line {line}: a path that this test cannot read"
                    );
                }
                *i += 1;
                return;
            }
            _ => break,
        }
    }
    paths.push((line, path));
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

#[test]
fn files_use_only_floors_below_theirs() {
    let mut wrong = Vec::new();
    for source in files(source_folder()) {
        let Some(own) = module_path(&source.name).first().cloned() else {
            continue; // lib.rs lists the modules
        };
        let Some(own_floor) = floor_of(&own) else {
            wrong.push(format!("{}: module {own} has no floor", source.name));
            continue;
        };
        for (line, path) in crate_paths(&source) {
            let Some(module) = path.first().filter(|m| **m != own) else {
                continue;
            };
            match floor_of(module) {
                Some(floor) if floor < own_floor => {}
                Some(_) => wrong.push(format!(
                    "{}:{line}: {own} is not above {module}",
                    source.name
                )),
                None => wrong.push(format!(
                    "{}:{line}: {module} is no module with a floor",
                    source.name
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn modules_do_not_use_each_other_in_a_circle() {
    let sources = files(source_folder());
    let known: BTreeSet<Vec<String>> = sources.iter().map(|s| module_path(&s.name)).collect();
    let mut uses: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for source in &sources {
        let own = module_path(&source.name);
        for (_, path) in crate_paths(source) {
            let file = (1..=path.len()).rev().find(|n| known.contains(&path[..*n]));
            // A parent that re-exports or runs its children, and children that use what it defines, are one idea in several files.
            let target = file.map(|n| path[..n].to_vec());
            let related = |t: &Vec<String>| t.starts_with(&own) || own.starts_with(t);
            if let Some(target) = target.filter(|t| !related(t)) {
                uses.entry(own.clone()).or_default().insert(target);
            }
        }
    }
    // A file that uses nothing, or that nothing uses, is in no circle; what is left after taking those away again and again is.
    loop {
        let before = uses.len();
        let left: BTreeSet<Vec<String>> = uses.keys().cloned().collect();
        uses.values_mut()
            .for_each(|used| used.retain(|u| left.contains(u)));
        let used: BTreeSet<Vec<String>> = uses.values().flatten().cloned().collect();
        uses.retain(|own, uses| !uses.is_empty() && used.contains(own));
        if uses.len() == before {
            break;
        }
    }
    assert!(uses.is_empty(), "in a circle: {uses:?}");
}

#[test]
fn the_crates_below_know_nothing_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (krate, forbidden) in [
        ("kernels", ["quern", "quern-models", "rayon"]),
        ("models", ["quern", "quern-kernels", "rayon"]),
    ] {
        let manifest = std::fs::read_to_string(root.join(krate).join("Cargo.toml")).unwrap();
        let dependencies: Vec<&str> = manifest
            .split("\n[")
            .filter(|section| {
                section.starts_with("dependencies") || section.contains("dependencies]")
            })
            .flat_map(|section| section.lines().skip(1))
            .filter_map(|line| Some(line.split_once(['=', '.'])?.0.trim()))
            .collect();
        assert!(!dependencies.is_empty(), "{krate} depends on something");
        for name in forbidden {
            assert!(!dependencies.contains(&name), "{krate} depends on {name}");
        }
    }
    let models = std::fs::read_to_string(root.join("models/src/lib.rs")).unwrap();
    assert!(models.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn only_par_names_the_thread_library() {
    for source in files(source_folder()) {
        let named = source
            .tokens
            .iter()
            .find(|t| t.kind == Kind::Word && t.text == "rayon");
        let line = named.map(|t| t.line);
        assert!(
            source.name == "par.rs" || line.is_none(),
            "{}:{}: only par.rs may name rayon",
            source.name,
            line.unwrap_or(0)
        );
    }
}

#[test]
fn unsafe_code_is_only_where_it_has_a_reason() {
    let mut with_unsafe = BTreeSet::new();
    for source in files(source_folder()) {
        let is_unsafe = |t: &Token| t.kind == Kind::Word && t.text == "unsafe";
        if source.tokens.iter().any(is_unsafe) {
            with_unsafe.insert(source.name);
        }
    }
    let allowed: BTreeSet<String> = UNSAFE.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert!(UNSAFE.iter().all(|(_, reason)| !reason.is_empty()));
    assert_eq!(
        with_unsafe, allowed,
        "left: files with unsafe code, right: files that may have it (and must, or the list is stale)"
    );
}

#[test]
fn the_library_does_not_print() {
    let mut wrong = Vec::new();
    for source in files(source_folder()) {
        for pair in source.tokens.windows(2).filter(|pair| !pair[0].in_test) {
            let [name, bang] = pair else { continue };
            if name.kind != Kind::Word || bang.text != "!" {
                continue;
            }
            // print! panics when the reader has gone, so it is wrong in the command line too.
            let cli = source.name.starts_with("cli/");
            if ["print", "println", "dbg", "todo", "unimplemented"].contains(&&*name.text)
                || (!cli && ["eprint", "eprintln"].contains(&&*name.text))
            {
                wrong.push(format!("{}:{}: {}!", source.name, name.line, name.text));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The words of an identifier or text: `is_llama`, `LlamaBpe` and `"llama-bpe"` all contain `llama`; `llama2c` does not.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in text.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && !before.is_uppercase()) {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words
                .last_mut()
                .expect("never empty")
                .extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|w| !w.is_empty());
    words
}

#[test]
fn the_program_knows_no_family_by_name() {
    let families: BTreeSet<String> = FAMILIES
        .iter()
        .flat_map(|f| f.model_types)
        .flat_map(|t| [words(t).concat(), (*t).to_owned()])
        .collect();
    assert!(families.contains("llama"));
    let mut wrong = Vec::new();
    for source in files(source_folder()) {
        let exempt = TOKENIZER_FORMATS.iter().chain(PEERS);
        if exempt.into_iter().any(|f| source.name.starts_with(f)) {
            continue;
        }
        for token in source.tokens.iter().filter(|t| !t.in_test) {
            for word in words(&token.text) {
                if families.contains(&word) {
                    wrong.push(format!("{}:{}: {word}", source.name, token.line));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "family names belong to models/src:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn words_are_split_at_case_and_punctuation() {
    assert_eq!(words("is_llama"), ["is", "llama"]);
    assert_eq!(words("LlamaBpe"), ["llama", "bpe"]);
    assert_eq!(
        words("llama2c llama-bpe GGUF"),
        ["llama2c", "llama", "bpe", "gguf"]
    );
}

#[test]
fn paths_are_read_from_the_root_of_the_crate() {
    let source = Source {
        name: "blocks/attention.rs".to_owned(),
        tokens: crate::rust_source::tokens(
            "use crate::{error::Error, ops::{self, Context as C}};\n use super::Span; use super::super::cache::Sequence;\n
             fn f() { crate::par::go(); other::crate_::x(); }\n mod tests { use super::*; use super::super::dense; }",
        ),
    };
    let mut found: Vec<String> = crate_paths(&source)
        .iter()
        .map(|(_, p)| p.join("::"))
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "blocks::Span",
            "blocks::attention",
            "blocks::dense",
            "cache::Sequence",
            "error::Error",
            "ops::Context",
            "ops::self",
            "par::go",
        ]
    );
}

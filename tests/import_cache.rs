//! The cache behind `-m`: a model is found again by its content, and imported when that is new.

use crate::foreign_files::*;
use crate::golden_folders;
use quern::convert::cache::{Cached, folder, look_up};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

fn tiny(kind: Kind) -> Vec<u8> {
    llama_gguf(llama_metadata(TINY), TINY, kind).build()
}

/// The file in the cache if the model is there already.
fn hit(source: &Path, cache: &Path) -> Option<PathBuf> {
    match look_up(source, cache).unwrap() {
        Cached::Hit(path) => Some(path),
        Cached::Miss(_) => None,
    }
}

/// Puts a new model into the cache.
fn fill(source: &Path, cache: &Path) -> PathBuf {
    match look_up(source, cache).unwrap() {
        Cached::Hit(path) => panic!("{path:?} is there already"),
        Cached::Miss(pending) => {
            let target = pending.target().to_owned();
            let (path, _) = pending.import(2, &mut |_, _| Ok(())).unwrap();
            assert_eq!(path, target);
            path
        }
    }
}

#[test]
fn a_model_is_found_by_its_content() {
    let home = tempfile::tempdir().unwrap();
    let (cache, source) = (home.path().join("a/cache"), home.path().join("m.gguf"));
    std::fs::write(&source, tiny(Kind::Q8_0)).unwrap();
    let first = fill(&source, &cache);
    assert_eq!(hit(&source, &cache).as_deref(), Some(&*first));
    // Touched, copied, renamed: the same model.
    File::options()
        .append(true)
        .open(&source)
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_secs(1000))
        .unwrap();
    assert_eq!(hit(&source, &cache).as_deref(), Some(&*first));
    let copy = home.path().join("copy.gguf");
    std::fs::copy(&source, &copy).unwrap();
    assert_eq!(hit(&copy, &cache).as_deref(), Some(&*first));
    // A damaged stamp costs a hash and nothing else.
    for entry in std::fs::read_dir(cache.join("stamps")).unwrap() {
        std::fs::write(entry.unwrap().path(), "../../etc/passwd x").unwrap();
    }
    assert_eq!(hit(&source, &cache).as_deref(), Some(&*first));
    // One other byte at the end, the same length and time: another model.
    let time = std::fs::metadata(&source).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&source).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&source, &bytes).unwrap();
    File::options()
        .append(true)
        .open(&source)
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert_ne!(fill(&source, &cache), first);
    // A file that was deleted from the cache is made again.
    std::fs::remove_file(&first).unwrap();
    assert_eq!(fill(&copy, &cache), first);
}

#[test]
fn every_file_of_a_folder_counts() {
    let home = tempfile::tempdir().unwrap();
    let (cache, source) = (home.path().join("cache"), home.path().join("model"));
    std::fs::create_dir(&source).unwrap();
    golden_folders::materialise("llama_gqa_tied", false, &source);
    let first = fill(&source, &cache);
    for beside in ["notes.md", "consolidated.safetensors", "golden.json"] {
        std::fs::write(source.join(beside), "no part of the model").unwrap();
    }
    assert_eq!(hit(&source, &cache).as_deref(), Some(&*first));
    std::fs::write(source.join("chat_template.jinja"), "x").unwrap();
    let second = fill(&source, &cache);
    assert_ne!(second, first);
    std::fs::remove_file(source.join("chat_template.jinja")).unwrap();
    assert_eq!(hit(&source, &cache).as_deref(), Some(&*first));
}

#[test]
fn the_environment_names_the_folder() {
    let with = |pairs: &[(&str, &str)]| {
        let map: HashMap<_, _> = pairs.iter().copied().collect();
        folder(|name| map.get(name).map(|v| (*v).into()))
    };
    let all = [
        ("QUERN_CACHE", "/q"),
        ("XDG_CACHE_HOME", "/x"),
        ("HOME", "/h"),
    ];
    assert_eq!(with(&all).unwrap(), Path::new("/q"));
    assert_eq!(with(&all[1..]).unwrap(), Path::new("/x/quern"));
    assert_eq!(with(&all[2..]).unwrap(), Path::new("/h/.cache/quern"));
    let relative = [("QUERN_CACHE", ""), ("XDG_CACHE_HOME", "x"), ("HOME", "/h")];
    assert_eq!(with(&relative).unwrap(), Path::new("/h/.cache/quern"));
    let e = with(&[]).unwrap_err();
    assert_eq!(e.exit_code(), 2);
    assert!(e.to_string().contains("quern import"), "{e}");
}

#[test]
fn the_command_line_imports_once_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("m.gguf"), tiny(Kind::F32)).unwrap();
    let run = |cache: Option<&str>| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_quern"));
        c.args([
            "score", "-m", "m.gguf", "--ids", "1,2,3", "--json", "-t", "1",
        ])
        .current_dir(home.path())
        .env_remove("XDG_CACHE_HOME")
        .env_remove("HOME")
        .env_remove("QUERN_CACHE");
        if let Some(cache) = cache {
            c.env("QUERN_CACHE", cache);
        }
        let out = c.output().unwrap();
        let text = |b| String::from_utf8(b).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let (code, first, message) = run(Some("cache"));
    assert_eq!(code, Some(0), "{message}");
    assert!(message.contains("importing \"m.gguf\" once"), "{message}");
    let (code, second, message) = run(Some("cache"));
    assert_eq!((code, message.as_str()), (Some(0), ""));
    assert_eq!(first, second);
    let (code, _, message) = run(None);
    assert_eq!(code, Some(2));
    assert!(
        message.contains("HOME") && message.contains("quern import"),
        "{message}"
    );
    // A place that cannot be a folder.
    let (code, _, message) = run(Some("m.gguf"));
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains("QUERN_CACHE"), "{message}");
}

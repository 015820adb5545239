//! Sessions in files: what comes back computes the same bits as what was written, for every kind of state; a file of another model, or one that is
//! damaged in any place, is noticed; and the command makes of it what it says.

use crate::common::program::{Done, run as program};
use crate::common::tiny::{Tiny, TinyFile};
use crate::generation::{Nobody, Numbers, request, run, same};
use crate::golden::{engine, golden_file};
use quern::error::{ErrorKind, Result};
use quern::generate::*;
use quern::model::Engine;
use quern_kernels::KvType;
use std::path::{Path, PathBuf};

/// One golden per kind of state and of position, and whether its sequences can go back to anywhere.
const KINDS: [(&str, bool); 14] = [
    ("llama_gqa_tied", true),
    ("phi3_longrope", true),
    ("mistral_swa", true),
    ("llama4_text", true),
    ("gemma3n_text", true),
    ("deepseek_v2", true),
    ("bloom", true),
    ("lfm2", false),
    ("mamba", false),
    ("mamba2", false),
    ("falcon_h1", false),
    ("qwen3_next", false),
    ("t5_v1_0", true),
    ("umt5", true),
];

/// Those of them with layers that forget.
const WINDOWS: [&str; 3] = ["mistral_swa", "llama4_text", "gemma3n_text"];

fn asked(engine: &Engine, prompt: &[u32], new: usize) -> Request {
    let encoder = engine.model().spec().encoder.is_some();
    Request {
        source: encoder.then(|| (3..90).collect()),
        context: 400,
        ..request(prompt, new)
    }
}

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i + 7 * i + 3) % 288).collect()
}

/// A scratch folder and a file in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.cache");
    (folder, path)
}

/// Keeps the session when the prompt is through.
struct Keeper<'a> {
    path: &'a Path,
    model: std::sync::Arc<quern::model::Model>,
    bytes: u64,
}

impl Watch for Keeper<'_> {
    fn text(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    fn keeps_prompt(&self) -> bool {
        true
    }

    fn prompt_held(&mut self, session: &Session) -> Result<()> {
        self.bytes = session.write_to(self.path, &self.model)?;
        Ok(())
    }
}

fn keeping(engine: &mut Engine, request: &Request, path: &Path) -> (Outcome, u64) {
    let mut session = Session::new();
    let mut keeper = Keeper {
        path,
        model: engine.model().clone(),
        bytes: 0,
    };
    let generation = Generation {
        request,
        session: &mut session,
        draft: None,
        constraint: None,
        decode: &mut Numbers,
        watch: &mut keeper,
    };
    let outcome = generation.run(engine).unwrap();
    (outcome, keeper.bytes)
}

fn fresh(engine: &mut Engine, request: &Request) -> Outcome {
    run(engine, request, &mut Session::new(), None, None)
}

#[test]
fn a_prompt_that_was_kept_computes_the_same_bits() {
    for (name, goes_back) in KINDS {
        for n in [2, 64, 150] {
            let mut engine = engine(golden_file(name), 2);
            let model = engine.model().clone();
            let (_folder, path) = place();
            let prompt = ids(n);
            let first = asked(&engine, &prompt, 12);
            let expected = fresh(&mut engine, &first);
            let (outcome, bytes) = keeping(&mut engine, &first, &path);
            same(&expected, &outcome);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
            let read = || Session::read_from(&path, &model).unwrap();
            let kept = read();
            assert_eq!(kept.ids(), &prompt[..prompt.len() - 1]);
            assert_eq!(kept.source(), first.source.as_deref());

            // The same prompt, one that goes on, and one that turns off.
            let longer = [&prompt[..], &[9, 8, 7]].concat();
            let other = [&prompt[..prompt.len() / 2], &[200, 201, 202]].concat();
            // A window may have moved on; a state goes on from its end.
            let back = match (goes_back, n) {
                (_, 2) => Some(1),
                (true, _) => Some(n as usize / 2),
                (false, _) => Some(0),
            };
            let back = back.filter(|_| !WINDOWS.contains(&name));
            let all = Some(n as usize - 1);
            for (prompt, expected) in [(&prompt, all), (&longer, all), (&other, back)] {
                let request = asked(&engine, prompt, 12);
                let session = &mut read();
                let found = run(&mut engine, &request, session, None, None);
                same(&fresh(&mut engine, &request), &found);
                let reused = found.stats.reused_tokens;
                match (&request.source, expected) {
                    (Some(source), _) => assert_eq!(reused, source.len(), "{name} {n}"),
                    (None, Some(expected)) => assert_eq!(reused, expected, "{name} {n}"),
                    (None, None) => assert!(reused <= n as usize / 2, "{name} {n}"),
                }
            }
        }
    }
}

#[test]
fn a_text_that_was_kept_goes_on() {
    for (name, _) in KINDS {
        let mut engine = engine(golden_file(name), 2);
        let model = engine.model().clone();
        let (_folder, path) = place();
        let first = asked(&engine, &ids(40), 50);
        let session = &mut Session::new();
        let text = run(&mut engine, &first, session, None, None);
        session.write_to(&path, &model).unwrap();
        let mut session = Session::read_from(&path, &model).unwrap();
        assert_eq!(session.ids().len(), 40 + 49);
        let all = [&first.prompt[..], &text.ids, &[3, 4]].concat();
        let second = asked(&engine, &all, 20);
        let found = run(&mut engine, &second, &mut session, None, None);
        same(&fresh(&mut engine, &second), &found);
        match &second.source {
            None => assert_eq!(found.stats.reused_tokens, 89, "{name}"),
            // A source that is there already fits into the context, or is too long as ever.
            Some(_) => {
                let small = Request {
                    context: 80,
                    prompt: vec![0],
                    ..second.clone()
                };
                let generation = Generation {
                    request: &small,
                    session: &mut session,
                    draft: None,
                    constraint: None,
                    decode: &mut Numbers,
                    watch: &mut Nobody,
                };
                let e = generation.run(&mut engine).unwrap_err();
                assert_eq!(e.exit_code(), 5, "{e}");
            }
        }
        // And what it has become can be kept again.
        let bytes = session.write_to(&path, &model).unwrap();
        assert!(bytes > session.bytes() as u64 / 2);
    }
}

/// Dynamic scaling turns the first positions by angles that depend on how long the prompt is.
#[test]
fn a_prompt_whose_angles_would_be_others_begins_anew() {
    let mut engine = engine(golden_file("llama_rope_dynamic"), 2);
    let model = engine.model().clone();
    // The model was made for 48 positions.
    for (first, second, reused) in [
        (20, 40, 19),
        (40, 20, 19),
        (40, 48, 39),
        (40, 49, 0),
        (60, 40, 0),
        (60, 61, 0),
        (60, 60, 59),
    ] {
        let (_folder, path) = place();
        let one = asked(&engine, &ids(first), 20);
        keeping(&mut engine, &one, &path);
        let session = &mut Session::read_from(&path, &model).unwrap();
        let two = asked(&engine, &ids(second), 20);
        let found = run(&mut engine, &two, session, None, None);
        same(&fresh(&mut engine, &two), &found);
        assert_eq!(found.stats.reused_tokens, reused, "{first} {second}");
    }
}

#[test]
fn guesses_leave_a_session_that_can_be_kept() {
    for name in ["llama_gqa_tied", "mistral_swa", "mamba2"] {
        let mut engine = engine(golden_file(name), 2);
        let model = engine.model().clone();
        let (_folder, path) = place();
        let prompt: Vec<u32> = [5, 9, 2, 60, 7].repeat(5);
        let first = asked(&engine, &prompt, 50);
        let draft = &mut Speculation::new(Pace::eager(), Limits::default(), true, None);
        let session = &mut Session::new();
        let text = run(&mut engine, &first, session, Some(draft), None);
        session.write_to(&path, &model).unwrap();
        let session = &mut Session::read_from(&path, &model).unwrap();
        let all = [&prompt[..], &text.ids, &[3, 4]].concat();
        let second = asked(&engine, &all, 20);
        same(
            &fresh(&mut engine, &second),
            &run(&mut engine, &second, session, None, None),
        );
    }
}

/// Raised together with [`stored::ARITHMETIC`]: what this model of formula weights computes.
#[test]
fn arithmetic_that_changes_makes_old_files_useless() {
    let file = TinyFile::new(Tiny::default());
    let args = ["run", "-m", file.arg(), "--temp", "0", "-n", "20", "--json"];
    let found = program(&[&args[..], &["--ids", "1,2,3,70,80,90"]].concat()).json();
    assert_eq!(
        (stored::ARITHMETIC, found["fingerprint"].as_str().unwrap()),
        (1, "a549067c1a92ba71c8defe1f36241f40"),
        "the arithmetic has changed: raise generate::stored::ARITHMETIC"
    );
}

/// A small model's file: bytes, and where they came from.
fn small() -> (Engine, tempfile::TempDir, PathBuf, Vec<u8>) {
    let mut engine = engine(golden_file("lfm2"), 1);
    let (folder, path) = place();
    let request = asked(&engine, &ids(70), 0);
    keeping(&mut engine, &request, &path);
    let bytes = std::fs::read(&path).unwrap();
    (engine, folder, path, bytes)
}

/// Writes the bytes and reads them as a session; an error is one of an invalid file, in one line that names it.
fn read(engine: &Engine, path: &Path, bytes: &[u8]) -> Result<Session> {
    std::fs::write(path, bytes).unwrap();
    let result = Session::read_from(path, engine.model());
    if let Err(e) = &result {
        assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
        assert!(e.to_string().starts_with(&format!("{path:?}: ")), "{e}");
        assert!(!e.to_string().contains('\n'));
    }
    result
}

#[test]
fn a_file_that_was_cut_anywhere_is_noticed() {
    let (engine, _folder, path, bytes) = small();
    assert!(read(&engine, &path, &bytes).is_ok());
    let ends = (0..300).chain((300..bytes.len()).step_by(4096));
    for end in ends.chain(bytes.len() - 40..bytes.len()) {
        assert!(read(&engine, &path, &bytes[..end]).is_err(), "{end}");
        // The length as it was, the rest zeros.
        let mut zeros = bytes.clone();
        if zeros[end..].iter().any(|b| *b != 0) {
            zeros[end..].fill(0);
            assert!(read(&engine, &path, &zeros).is_err(), "zeros from {end}");
        }
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(read(&engine, &path, &longer).is_err());
}

#[test]
fn a_bit_that_flipped_anywhere_is_noticed() {
    let (engine, _folder, path, bytes) = small();
    let places = (0..bytes.len()).filter(|at| *at < 600 || at % 997 == 0);
    for at in places.chain(bytes.len() - 33..bytes.len()) {
        for bit in [0, 3, 7] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(read(&engine, &path, &damaged).is_err(), "{at} {bit}");
        }
    }
}

/// Both checksums as they should be.
fn repaired(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&bytes[..96]);
    bytes[96..128].copy_from_slice(hash.as_bytes());
    let end = bytes.len() - 32;
    let hash = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(hash.as_bytes());
    bytes
}

#[test]
fn numbers_that_lie_are_noticed_before_anything_is_allocated() {
    let (mut engine, _folder, path, bytes) = small();
    assert!(read(&engine, &path, &repaired(bytes.clone())).is_ok());
    let values = [
        0,
        1,
        (1 << 31) - 1,
        1 << 31,
        u64::from(u32::MAX),
        1 << 53,
        (1 << 61) + 18,
        1 << 62,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX,
    ];
    // Ids, ids of a source, the file's length.
    for at in [40, 48, 72] {
        for value in values {
            let mut lie = bytes.clone();
            lie[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            if lie == bytes {
                continue;
            }
            assert!(
                read(&engine, &path, &repaired(lie)).is_err(),
                "{at} {value}"
            );
        }
    }
    // How many positions were counted is no size: whatever it says, nothing breaks.
    for at in [56, 64] {
        for value in values {
            let mut lie = bytes.clone();
            lie[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            let mut session = read(&engine, &path, &repaired(lie)).unwrap();
            let request = asked(&engine, &ids(75), 3);
            run(&mut engine, &request, &mut session, None, None);
        }
    }
    // Other versions, element types, a source where there can be none, bytes that mean nothing.
    for (at, value, part) in [
        (8, 2, "version 2"),
        (12, 9, "arithmetic 9"),
        (16, bytes[16] ^ 1, "another model"),
        (32, 3, "element type 3"),
        (33, 1, "source"),
        (34, 2, "mean nothing"),
        (35, 1, "mean nothing"),
        (90, 1, "mean nothing"),
    ] {
        let mut lie = bytes.clone();
        lie[at] = value;
        let e = read(&engine, &path, &repaired(lie)).err().unwrap();
        assert!(e.to_string().contains(part), "{e}");
    }
    // An id beyond the vocabulary.
    let mut lie = bytes.clone();
    lie[128..132].copy_from_slice(&288u32.to_le_bytes());
    let e = read(&engine, &path, &repaired(lie)).err().unwrap();
    assert!(e.to_string().contains("token id 288"), "{e}");
    // The other element type has other sizes.
    let mut lie = bytes.clone();
    lie[32] ^= 1;
    let e = read(&engine, &path, &repaired(lie)).err().unwrap();
    assert!(e.to_string().contains("length"), "{e}");
    // Numbers that are none end a generation with an error.
    let mut lie = bytes.clone();
    let end = lie.len() - 32;
    lie[128 + 4 * 69..end].fill(0xff);
    let mut session = read(&engine, &path, &repaired(lie)).unwrap();
    let request = asked(&engine, &ids(70), 3);
    let generation = Generation {
        request: &request,
        session: &mut session,
        draft: None,
        constraint: None,
        decode: &mut Numbers,
        watch: &mut Nobody,
    };
    assert_eq!(generation.run(&mut engine).unwrap_err().exit_code(), 3);
}

#[test]
fn what_is_no_file_and_what_cannot_be_written() {
    let (engine, folder, path, _) = small();
    let model = engine.model();
    let e = |result: Result<Session>| result.err().unwrap();
    assert_eq!(e(Session::read_from(folder.path(), model)).exit_code(), 3);
    let missing = folder.path().join("missing");
    assert_eq!(e(Session::read_from(&missing, model)).exit_code(), 4);
    let session = Session::read_from(&path, model).unwrap();
    let nowhere = folder.path().join("no/such/folder");
    assert_eq!(
        session.write_to(&nowhere, model).unwrap_err().exit_code(),
        4
    );
    assert_eq!(
        session
            .write_to(folder.path(), model)
            .unwrap_err()
            .exit_code(),
        2
    );
    let e = Session::new().write_to(&missing, model).unwrap_err();
    assert_eq!(e.exit_code(), 2);
    assert!(!missing.exists());
    // One element type or the other, each comes back as it was.
    assert_eq!(session.kv(), Some(KvType::F16));
}

struct Cli {
    model: TinyFile,
    _folder: tempfile::TempDir,
    cache: PathBuf,
}

impl Cli {
    fn new() -> Cli {
        let (folder, cache) = place();
        Cli {
            model: TinyFile::new(Tiny::default()),
            _folder: folder,
            cache,
        }
    }

    fn run(&self, more: &[&str], prompt: &str) -> Done {
        let cache = self.cache.to_str().unwrap();
        let args = ["run", "-m", self.model.arg(), "--prompt-cache", cache];
        let rest = ["--temp", "0", "-n", "12", "--ignore-eos", "--json", prompt];
        program(&[&args[..], more, &rest].concat())
    }

    /// How many tokens were reused, and whether something was written.
    fn reused(&self, more: &[&str], prompt: &str) -> (u64, bool) {
        let before = std::fs::read(&self.cache).ok();
        let done = self.run(more, prompt);
        assert_eq!(done.err, "");
        let found = done.json();
        let args = ["run", "-m", self.model.arg(), "--temp", "0", "-n", "12"];
        let kv = more.iter().position(|a| *a == "--kv");
        let kv = kv.map_or(&[][..], |at| &more[at..at + 2]);
        let plain = program(&[&args[..], kv, &["--ignore-eos", "--json", prompt]].concat()).json();
        assert_eq!(found["text"], plain["text"]);
        assert_eq!(found["fingerprint"], plain["fingerprint"]);
        assert!(plain.get("prompt_cache").is_none());
        let written = before != std::fs::read(&self.cache).ok();
        let said = found["prompt_cache"]["bytes_written"].as_u64().unwrap() > 0;
        assert_eq!(said, written);
        (
            found["prompt_cache"]["reused_tokens"].as_u64().unwrap(),
            written,
        )
    }
}

#[test]
fn the_command_keeps_the_prompt() {
    let cli = Cli::new();
    // One token more than bytes: the beginning of the sequence. The last token is always computed.
    assert_eq!(cli.reused(&["--prompt-cache-ro"], "some text"), (0, false));
    assert!(!cli.cache.exists());
    assert_eq!(cli.reused(&[], "some text"), (0, true));
    assert_eq!(cli.reused(&[], "some text"), (9, false));
    assert_eq!(cli.reused(&["--prompt-cache-ro"], "some other"), (6, false));
    assert_eq!(cli.reused(&[], "some text, and more"), (9, true));
    assert_eq!(cli.reused(&[], "some text, and more"), (19, false));
    assert_eq!(cli.reused(&[], "some"), (4, true));
    assert_eq!(cli.reused(&[], "some text, and more"), (4, true));
    let done = cli.run(&["--stats"], "some text, and more");
    assert!(
        done.err
            .contains("\ncache:       19 prompt tokens reused; 0.0 MiB read in "),
        "{}",
        done.err
    );
    assert!(done.err.contains(", nothing written\n"), "{}", done.err);
}

#[test]
fn the_command_keeps_the_text() {
    let cli = Cli::new();
    let all = &["--prompt-cache-all"];
    assert_eq!(cli.reused(all, "some text"), (0, true));
    let text = cli.run(&["--prompt-cache-ro"], "some text").json();
    let generated: Vec<String> = [&text["prompt_ids"], &text["ids"]]
        .iter()
        .flat_map(|ids| ids.as_array().unwrap())
        .map(|id| id.to_string())
        .collect();
    assert_eq!(generated.len(), 22);
    let args = ["run", "-m", cli.model.arg(), "--json", "-n", "1"];
    let ids = generated.join(",");
    let cache = ["--prompt-cache", cli.cache.to_str().unwrap()];
    let more = program(&[&args[..], &cache, &["--ids", &ids]].concat()).json();
    // The last id has not gone through the model.
    assert_eq!(more["prompt_cache"]["reused_tokens"], 21);
}

#[test]
fn the_command_says_what_it_does_not_use() {
    let cli = Cli::new();
    assert_eq!(cli.reused(&[], "some text"), (0, true));
    let good = std::fs::read(&cli.cache).unwrap();
    let noted = |more: &[&str], part: &str| {
        let before = std::fs::read(&cli.cache).unwrap();
        let done = cli.run(more, "some text");
        assert_eq!(done.json()["prompt_cache"]["reused_tokens"], 0);
        assert!(done.err.starts_with("quern: note: "), "{}", done.err);
        assert!(done.err.ends_with(": not used\n"), "{}", done.err);
        assert_eq!(done.err.matches('\n').count(), 1, "{}", done.err);
        assert!(done.err.contains(part), "{part:?} in {}", done.err);
        let kept = more.contains(&"--prompt-cache-ro");
        assert_eq!(std::fs::read(&cli.cache).unwrap() == before, kept);
    };
    noted(&["--kv", "f32"], "--kv f16");
    std::fs::write(&cli.cache, &good).unwrap();
    let mut damaged = good.clone();
    damaged[300] ^= 4;
    for bytes in [&damaged[..], &good[..200], b"hello"] {
        std::fs::write(&cli.cache, bytes).unwrap();
        noted(&["--prompt-cache-ro"], "prompt.cache");
        noted(&[], "prompt.cache");
        assert!(
            std::fs::read(&cli.cache).unwrap() == good,
            "it is whole again"
        );
    }
    let other = TinyFile::new(Tiny {
        loudness: 3.0,
        ..Tiny::default()
    });
    let cache = cli.cache.to_str().unwrap();
    let args = ["run", "-m", other.arg(), "--prompt-cache", cache, "-n", "1"];
    let done = program(&[&args[..], &["some text"]].concat());
    assert_eq!(done.code, 0);
    assert!(
        done.err.contains("another model: not used\n"),
        "{}",
        done.err
    );
}

#[test]
fn wrong_places_on_the_command_line() {
    let cli = Cli::new();
    let run = |more: &[&str]| program(&[&["run", "-m", "/nowhere.quern"], more, &["x"]].concat());
    // Known before the model is loaded.
    run(&["--prompt-cache", "/no/such/folder/file"]).fails(4, &["/no/such/folder"]);
    run(&["--prompt-cache", "/tmp"]).fails(2, &["regular file"]);
    run(&["--prompt-cache-all"]).fails(2, &["--prompt-cache"]);
    let ro = ["--prompt-cache-ro", "--prompt-cache-all"];
    run(&[&["--prompt-cache", "x"][..], &ro].concat()).fails(2, &["cannot be used with"]);
    std::fs::create_dir(&cli.cache).unwrap();
    let args = ["run", "-m", cli.model.arg(), "--prompt-cache-ro"];
    let path = ["--prompt-cache", cli.cache.to_str().unwrap(), "x"];
    let done = program(&[&args[..], &path].concat());
    assert!(done.err.contains("not used"), "{}", done.err);
}

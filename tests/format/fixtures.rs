//! One test per way in which a weight file can be wrong: exit code and message, through the program where a path matters.

use super::hostile::{Parts, reseal};
use super::*;
use quern::file::Golden;
use std::io::Write;
use std::process::{Command, Output};

/// Runs `quern verify PATH`.
fn quern_verify(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quern"))
        .arg("verify")
        .arg(path)
        .output()
        .unwrap()
}

/// The program must end with that code and one line that contains the text; nothing on stdout.
fn refused(path: &Path, code: i32, expected: &str) {
    let output = quern_verify(path);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty());
}

/// The same for a file of these bytes.
fn refused_bytes(bytes: &[u8], expected: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    refused(file.path(), 3, expected);
}

fn changed(at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = tiny_file();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

fn changed_and_resealed(at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = changed(at, with);
    reseal(&mut bytes);
    bytes
}

/// The tiny file, without the bytes that only look like a tokenizer.
fn without_tokenizer() -> WriterPlan {
    let mut plan = tiny_plan(Format::Q4);
    plan.tokenizer.clear();
    plan
}

fn filled(plan: WriterPlan) -> Vec<u8> {
    let mut writer = Writer::in_memory(plan).unwrap();
    fill(&mut writer).unwrap();
    writer.finish().unwrap()
}

#[track_caller]
fn accepted_bytes(bytes: &[u8], expected: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let output = quern_verify(file.path());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains(expected), "{stdout}");
}

#[test]
fn the_valid_twin_is_accepted() {
    accepted_bytes(&filled(without_tokenizer()), ": ok: 5 tensors");
}

#[test]
fn a_tokenizer_that_is_none() {
    refused_bytes(&tiny_file(), ": tokenizer: ");
}

#[test]
fn recorded_tokenizer_samples() {
    use crate::common::tiny;
    // Bytes are tokens, so ASCII below the 18 rows of the embedding: control characters.
    let sample = |text: &str, ids: &[u32]| Golden {
        text: text.into(),
        ids: ids.to_vec(),
    };
    let with = |samples: &[Golden]| {
        let mut plan = without_tokenizer();
        plan.tokenizer = tiny::tokenizer(tiny::EOS);
        plan.meta.set_golden(samples, false);
        filled(plan)
    };
    let good = [sample("\n\t", &[10, 9]), sample("", &[])];
    accepted_bytes(&with(&good), "2 tokenizer samples");
    refused_bytes(
        &with(&[sample("\n\t", &[10, 11])]),
        "tokenizer sample 0 \"\\n\\t\": id 1 is 9, expected 11 as recorded at import",
    );
    refused_bytes(
        &with(&[sample("\n", &[10, 11])]),
        "id 1 is nothing, expected 11",
    );
    let mut plan = without_tokenizer();
    plan.meta.set_golden(&good, false);
    refused_bytes(
        &filled(plan),
        "2 tokenizer samples are recorded, but there is no tokenizer",
    );
}

#[test]
fn missing_file() {
    refused(Path::new("/nonexistent/x.quern"), 4, "cannot open");
}

#[test]
fn empty_file() {
    refused_bytes(b"", "the file is empty");
}

#[test]
fn wrong_magic() {
    refused_bytes(
        b"\x1b]52;c;evil\x07 and more",
        "it begins with \"\\x1b]52;c;e",
    );
    refused_bytes(&changed(1, b"X"), "not a model file of this program");
}

#[test]
fn gguf_is_named() {
    refused_bytes(b"GGUF\x03\0\0\0", "this is a GGUF file");
}

#[test]
fn text_mode_transfer() {
    // CR LF to LF, LF to CR LF, and the high bit gone.
    let bytes = tiny_file();
    let to_lf = [&bytes[..4], &bytes[5..]].concat();
    refused_bytes(&to_lf, "in text mode");
    let to_crlf = [&bytes[..5], b"\r", &bytes[5..]].concat();
    refused_bytes(&to_crlf, "in text mode");
    refused_bytes(&changed(0, b"\x09"), "in text mode");
}

#[test]
fn only_the_magic() {
    refused_bytes(&tiny_file()[..8], "ends after 8 bytes, inside its header");
}

#[test]
fn future_version() {
    refused_bytes(
        &changed_and_resealed(8, &[2, 0]),
        "format version 2.0, this program reads version 1: a newer program is needed",
    );
    refused_bytes(
        &changed_and_resealed(8, &[0, 0]),
        "format version 0.0, this program reads version 1: import the model again",
    );
}

#[test]
fn later_revision_and_optional_feature_are_accepted() {
    open_bytes(&changed_and_resealed(10, &[7, 0])).unwrap();
    open_bytes(&changed_and_resealed(24, &[0xff; 8])).unwrap();
}

#[test]
fn unknown_required_feature() {
    refused_bytes(
        &changed_and_resealed(18, &[4]),
        "required feature bit 18 is not known",
    );
}

#[test]
fn cut_short() {
    let bytes = tiny_file();
    refused_bytes(&bytes[..bytes.len() - 1], "it was cut short");
    refused_bytes(&bytes[..bytes.len() - 4096], "it was cut short");
}

#[test]
fn cut_within_the_last_page_reads_as_zeros() {
    let mut bytes = tiny_file();
    let last = bytes.len() - 4096;
    bytes[last..].fill(0);
    refused_bytes(&bytes, "the last page is empty");
    let mut bytes = tiny_file();
    bytes[last + 100..].fill(0);
    refused_bytes(&bytes, "footer: does not agree with the header");
}

#[test]
fn trailing_bytes() {
    let bytes = [&tiny_file()[..], &[0]].concat();
    refused_bytes(&bytes, "something was appended");
    let bytes = [&tiny_file()[..], &[0; 4096]].concat();
    refused_bytes(&bytes, "something was appended");
}

#[test]
fn mixture_of_two_files() {
    let mut plan = tiny_plan(Format::Q4);
    plan.meta.set(key::NAME, Value::String("tinz".into()));
    let other = filled(plan);
    let mut bytes = tiny_file();
    let last = bytes.len() - 4096;
    bytes[last..].copy_from_slice(&other[last..]);
    refused_bytes(&bytes, "footer: does not agree with the header");
    bytes = tiny_file();
    bytes[4096..8192].copy_from_slice(&other[4096..8192]);
    refused_bytes(&bytes, "metadata: checksum");
}

#[test]
fn folder_pipe_socket_and_device() {
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), 3, "is a folder, expected a model file");
    let pipe = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    refused(&pipe, 3, "is a pipe, expected a model file");
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    refused(&socket, 3, "is a socket, expected a model file");
    refused(Path::new("/dev/zero"), 3, "is a device");
}

#[test]
fn a_symbolic_link_to_a_file_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    write_tiny(&path).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("tiny.quern", &link).unwrap();
    check_contents(&open(&link).unwrap());
}

#[test]
fn sections_elsewhere() {
    refused_bytes(
        &changed_and_resealed(48, &8192u64.to_le_bytes()),
        "offset of the metadata (byte 48) is 8192, expected 4096",
    );
    refused_bytes(
        &changed_and_resealed(56, &u64::MAX.to_le_bytes()),
        "length of the metadata (byte 56) is 18446744073709551615, expected at most",
    );
    refused_bytes(
        &changed_and_resealed(72, &(1u64 << 29).to_le_bytes()),
        "does not fit into the file",
    );
    refused_bytes(
        &changed_and_resealed(40, &4u32.to_le_bytes()),
        "length of the tensor table (byte 88) is 640, expected 512 for 4 tensors",
    );
    refused_bytes(
        &changed_and_resealed(40, &u32::MAX.to_le_bytes()),
        "number of tensors (byte 40) is 4294967295",
    );
}

#[test]
fn padding_between_sections() {
    let bytes = changed(8191, &[1]);
    refused_bytes(&bytes, "metadata: byte 8191 of the padding after it is 1");
}

/// The table of the tiny file with a change, in a file that agrees with it otherwise.
fn with_table(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut parts = Parts::of(&tiny_file());
    change(&mut parts.table);
    parts.assemble()
}

#[test]
fn overlap_hole_and_order() {
    refused_bytes(
        &with_table(|t| {
            let first = t[24..32].to_vec();
            t[128 + 24..128 + 32].copy_from_slice(&first);
        }),
        "entry 1 (layers.0.blocks.0.pre_norm): offset is 16384, expected 20480",
    );
    refused_bytes(
        &with_table(|t| t[128 + 25] += 0x10),
        "offset is 24576, expected 20480",
    );
    refused_bytes(
        &with_table(|t| {
            let (a, b) = t.split_at_mut(3 * 128);
            a[2 * 128..].swap_with_slice(&mut b[..128]);
        }),
        "role is 65 (MlpUp), expected 64 (MlpGate)",
    );
    refused_bytes(
        &with_table(|t| {
            t.drain(..128);
        }),
        "4 tensors, expected 5 for this Spec",
    );
}

#[test]
fn more_tensors_or_data_than_the_spec_has() {
    let mut parts = Parts::of(&tiny_file());
    parts.data.extend([0; 4096]);
    let bytes = parts.assemble();
    let end = bytes.len() - 4096;
    let expected = format!(
        "data ends at byte {end}, but the tensors of the Spec end at {}",
        end - 4096
    );
    refused_bytes(&bytes, &expected);
    refused_bytes(
        &with_table(|t| t.extend_from_within(4 * 128..)),
        "6 tensors, expected 5 for this Spec",
    );
}

#[test]
fn shapes_other_than_the_specs() {
    refused_bytes(&with_table(|t| t[16] = 19), "rows is 19, expected 18");
    refused_bytes(&with_table(|t| t[20] = 13), "cols is 13, expected 12");
    refused_bytes(
        &with_table(|t| t[12..16].copy_from_slice(&u32::MAX.to_le_bytes())),
        "count is 4294967295, expected 1",
    );
    refused_bytes(&with_table(|t| t[3] = 99), "format 99 is not known");
}

#[test]
fn specs_that_do_not_fit_the_table() {
    let with_spec = |from: &str, to: &str| {
        let mut parts = Parts::of(&tiny_file());
        parts.change_spec(from, to);
        parts.assemble()
    };
    refused_bytes(
        &with_spec("\"vocab_size\":18", "\"vocab_size\":33"),
        "entry 0 (token_embedding): rows is 18, expected 33",
    );
    refused_bytes(
        &with_spec("\"vocab_size\":18", "\"vocab_size\":0"),
        "vocab_size is 0, expected 1 to",
    );
    refused_bytes(
        &with_spec("\"vocab_size\":18", "\"vocab_size\":-2147483648"),
        "spec: ",
    );
    refused_bytes(&with_spec("\"hidden\"", "\"hidden_\""), "unknown field");
    refused_bytes(&with_spec("[0]", "[0,0]"), "5 tensors, expected 9");
    let many = format!("[{}0]", "0,".repeat(100_000));
    refused_bytes(&with_spec("[0]", &many), "100001 layers");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused_bytes(&with_spec("[0]", &deep), "spec: ");
}

#[test]
fn metadata_without_spec() {
    let mut parts = Parts::of(&tiny_file());
    parts.metadata = Meta::new().encode().unwrap();
    refused_bytes(&parts.assemble(), "metadata: there is no spec");
}

#[test]
fn special_ids_beyond_the_vocabulary() {
    let mut parts = Parts::of(&tiny_file());
    let mut meta = Meta::decode(&parts.metadata).unwrap();
    meta.set(key::EOS, Value::U32s(vec![2, 18]));
    parts.metadata = meta.encode().unwrap();
    refused_bytes(
        &parts.assemble(),
        "token.eos is 18, expected an id below the vocabulary's 18",
    );
}

#[test]
fn damaged_weights_are_found_by_verify() {
    let bytes = tiny_file();
    let file = open_bytes(&bytes).unwrap();
    for (i, entry) in file.entries().iter().enumerate() {
        let mut bytes = bytes.clone();
        bytes[entry.offset as usize] ^= 0x10;
        open_bytes(&bytes).unwrap();
        refused_bytes(&bytes, &format!("tensor {i} ({}): checksum", entry.key));
    }
}

#[test]
fn padding_between_tensors() {
    let bytes = tiny_file();
    let entry = open_bytes(&bytes).unwrap().entries()[1];
    let at = (entry.offset + entry.length) as usize;
    refused_bytes(
        &changed(at, &[1]),
        &format!("tensor 1 (layers.0.blocks.0.pre_norm): byte {at} of the padding after it is 1"),
    );
}

/// A file whose gate matrix is in `format`, with its data changed and all checksums repaired.
fn with_gate(format: Format, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let bytes = filled(tiny_plan(format));
    let entry = open_bytes(&bytes).unwrap().entries()[2];
    let mut parts = Parts::of(&bytes);
    let at = (entry.offset - parts.data_offset) as usize;
    change(&mut parts.data[at..at + entry.length as usize]);
    let hash = blake3::hash(&parts.data[at..at + entry.length as usize]);
    parts.table[2 * 128 + 40..2 * 128 + 72].copy_from_slice(hash.as_bytes());
    parts.assemble()
}

#[test]
fn nan_and_inf_in_weights_and_scales() {
    let gate = "tensor 2 (layers.0.blocks.0.branches.0.mlp_gate): matrix 0, row ";
    // Row 18 of 20 is row 2 of the second panel. A line of f32 is one column of 16 rows; a line of a 16-bit format is two.
    let inf16 = [0x00, 0x7c];
    let nan32 = f32::NAN.to_le_bytes();
    let panel32 = 12 * 64;
    refused_bytes(
        &with_gate(Format::F32, |d| {
            d[panel32 + 5 * 64 + 2 * 4..][..4].copy_from_slice(&nan32);
        }),
        &format!("{gate}18, column 5: value is not finite"),
    );
    for (format, bits) in [(Format::F16, 0x7e00_u16), (Format::Bf16, 0xff80)] {
        // In the first line of the second panel rows 16 to 19 hold weights, the others padding.
        let panel = format.panel_bytes(12).unwrap();
        let found = |at: usize| {
            let bytes = with_gate(format, |d| {
                d[panel + at..][..2].copy_from_slice(&bits.to_le_bytes());
            });
            verify_bytes(&bytes).unwrap_err().to_string()
        };
        let all: Vec<String> = (0..64).step_by(2).map(found).collect();
        let not_finite = all.iter().filter(|e| e.contains("is not finite")).count();
        let padding = all.iter().filter(|e| e.contains("padding")).count();
        assert_eq!((not_finite, padding), (8, 24), "{all:?}");
        assert!(all.iter().all(|e| e.contains(gate)), "{all:?}");
    }
    for format in [Format::Q8, Format::Q4] {
        // A panel begins with the f16 scale of row 0, columns 0 to 31.
        let bytes = with_gate(format, |d| d[..2].copy_from_slice(&inf16));
        refused_bytes(&bytes, &format!("{gate}0, column 0: scale is not finite"));
    }
}

#[test]
fn nan_in_a_vector() {
    let bytes = tiny_file();
    let entry = open_bytes(&bytes).unwrap().entries()[1];
    let mut parts = Parts::of(&bytes);
    let at = (entry.offset - parts.data_offset) as usize;
    parts.data[at + 28..at + 32].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let hash = blake3::hash(&parts.data[at..at + entry.length as usize]);
    parts.table[128 + 40..128 + 72].copy_from_slice(hash.as_bytes());
    refused_bytes(
        &parts.assemble(),
        "tensor 1 (layers.0.blocks.0.pre_norm): value 7 is inf, expected a finite number",
    );
}

#[test]
fn padding_inside_a_panel() {
    for format in Format::ALL {
        let last = format.panel_bytes(12).unwrap() * 2 - 1;
        let bytes = with_gate(format, |d| d[last] ^= 1);
        let e = verify_bytes(&bytes).unwrap_err().to_string();
        assert!(e.contains("padding is not zero"), "{}: {e}", format.name());
    }
}

//! Every truncation, every bit flip, every integer set to every awkward value, as it is and with all checksums repaired: a file that is
//! not exactly right is an error of kind Invalid, found without a panic and within little memory.
//!
//! The layout is written down here a second time, from docs/FORMAT.md, so that reader and writer cannot be wrong together.

use super::*;
use quern::error::ErrorKind;
use std::process::Command;

const PAGE: usize = 4096;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// Repairs every checksum of a file, whatever its header says.
pub fn reseal(bytes: &mut [u8]) {
    for (section, at) in [112, 144, 176].into_iter().enumerate() {
        let offset = u64_at(bytes, 48 + 16 * section) as usize;
        let length = u64_at(bytes, 56 + 16 * section) as usize;
        // Where a section lies outside, there is nothing to hash.
        let end = offset.checked_add(length);
        if let Some(part) = end.and_then(|end| bytes.get(offset..end)) {
            let h = hash(part);
            put(bytes, at, &h);
        }
    }
    let root = hash(&bytes[..208]);
    put(bytes, 208, &root);
    put(bytes, 240, &root[..16]);
    let sum = hash(&bytes[..4064]);
    put(bytes, 4064, &sum);
    let length = bytes[32..40].to_vec();
    let last = bytes.len() - PAGE;
    let footer = &mut bytes[last..];
    footer.fill(0);
    put(footer, 0, b"\x89QEND\r\n\x1a");
    put(footer, 8, &length);
    put(footer, 16, &root[..16]);
    put(footer, 32, &root);
    let sum = hash(&footer[..4064]);
    put(footer, 4064, &sum);
}

/// The contents of a file, from which another one can be put together.
#[derive(Clone)]
pub struct Parts {
    pub metadata: Vec<u8>,
    pub tokenizer: Vec<u8>,
    pub table: Vec<u8>,
    pub data: Vec<u8>,
    /// Where the data was.
    pub data_offset: u64,
}

impl Parts {
    pub fn of(bytes: &[u8]) -> Parts {
        let section = |i: usize| {
            let offset = u64_at(bytes, 48 + 16 * i) as usize;
            bytes[offset..offset + u64_at(bytes, 56 + 16 * i) as usize].to_vec()
        };
        Parts {
            metadata: section(0),
            tokenizer: section(1),
            table: section(2),
            data: section(3),
            data_offset: u64_at(bytes, 96),
        }
    }

    /// Replaces text in the stored Spec.
    pub fn change_spec(&mut self, from: &str, to: &str) {
        let mut meta = Meta::decode(&self.metadata).unwrap();
        let spec = String::from_utf8(meta.bytes(key::SPEC).unwrap().to_vec()).unwrap();
        assert!(spec.contains(from), "{spec}");
        meta.set(
            key::SPEC,
            Value::Bytes(spec.replacen(from, to, 1).into_bytes()),
        );
        self.metadata = meta.encode().unwrap();
    }

    /// A file with these contents and correct header, offsets of the tensors and footer.
    pub fn assemble(&self) -> Vec<u8> {
        let mut out = vec![0; PAGE];
        put(&mut out, 0, b"\x89QRN\r\n\x1a\n");
        put(&mut out, 8, &[1, 0, 0, 0, 0, 16, 0, 0]);
        let n = (self.table.len() / 128) as u32;
        put(&mut out, 40, &n.to_le_bytes());
        // The data may move by whole pages, and the tensors with it.
        let before = [&self.metadata, &self.tokenizer, &self.table];
        let pages: usize = before.iter().map(|b| b.len().div_ceil(PAGE)).sum();
        let moved = ((1 + pages) * PAGE) as u64;
        let mut table = self.table.clone();
        for entry in table.as_chunks_mut::<128>().0 {
            let offset = u64_at(entry, 24) - self.data_offset + moved;
            put(entry, 24, &offset.to_le_bytes());
        }
        let sections = [&self.metadata, &self.tokenizer, &table, &self.data];
        for (i, part) in sections.iter().enumerate() {
            let place = [out.len() as u64, part.len() as u64].map(u64::to_le_bytes);
            put(&mut out, 48 + 16 * i, &place.concat());
            out.extend_from_slice(part);
            out.resize(out.len().next_multiple_of(PAGE), 0);
        }
        out.resize(out.len() + PAGE, 0);
        let length = (out.len() as u64).to_le_bytes();
        put(&mut out, 32, &length);
        reseal(&mut out);
        out
    }
}

/// The awkward values of every integer.
const VALUES: [u64; 12] = [
    0,
    1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    (1 << 32) - 1,
    1 << 53,
    (1 << 63) - 1,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 4095,
    u64::MAX,
];

/// Opens and reads everything; anything but success and Invalid is a failure of the test. Returns whether it was accepted.
fn accepted(bytes: &[u8], what: std::fmt::Arguments<'_>) -> bool {
    match verify_bytes(bytes) {
        Ok(()) => true,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Invalid, "{what}: {e}");
            let text = e.to_string();
            assert!(
                !text.contains(['\n', '\x1b']) && text.len() < 600,
                "{what}: {text}"
            );
            false
        }
    }
}

#[test]
fn the_assembled_file_is_the_written_one() {
    let bytes = tiny_file();
    assert!(bytes.len() <= 64 << 10, "{} bytes", bytes.len());
    assert_eq!(Parts::of(&bytes).assemble(), bytes);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = tiny_file();
    for n in 0..bytes.len() {
        assert!(!accepted(&bytes[..n], format_args!("{n} bytes")));
        // With a header that agrees about the length.
        if n % PAGE == 0 && n >= 2 * PAGE {
            let mut short = bytes[..n].to_vec();
            put(&mut short, 32, &(n as u64).to_le_bytes());
            reseal(&mut short);
            assert!(!accepted(&short, format_args!("{n} bytes, resealed")));
        }
    }
}

#[test]
fn every_bit_flip_is_refused() {
    let mut bytes = tiny_file();
    let data = u64_at(&bytes, 96) as usize..bytes.len() - PAGE;
    for at in 0..bytes.len() {
        // Data is only hashed by verify, which takes longer: one bit of each byte there.
        let bits = if data.contains(&at) {
            at % 8..at % 8 + 1
        } else {
            0..8
        };
        for bit in bits {
            bytes[at] ^= 1 << bit;
            let opened = open_bytes(&bytes);
            assert_eq!(
                opened.is_ok(),
                data.contains(&at),
                "bit {bit} of byte {at}: opening reads everything but the data"
            );
            let result = opened.and_then(|file| verify(&file, 1, &|_| {}));
            let e = result.expect_err("every bit counts");
            assert_eq!(e.kind(), ErrorKind::Invalid, "bit {bit} of byte {at}: {e}");
            bytes[at] ^= 1 << bit;
        }
    }
}

/// Fields of the header: byte, length, and whether a changed value can be right with repaired checksums.
const HEADER_FIELDS: [(usize, usize, bool); 17] = [
    (8, 2, false),
    (10, 2, true),
    (12, 4, false),
    (16, 8, false),
    (24, 8, true),
    (32, 8, false),
    (40, 4, false),
    (44, 4, false),
    (48, 8, false),
    (56, 8, false),
    (64, 8, false),
    (72, 8, false),
    (80, 8, false),
    (88, 8, false),
    (96, 8, false),
    (104, 8, false),
    (256, 8, false),
];

/// Fields of an entry of the table: byte, length.
const ENTRY_FIELDS: [(usize, usize); 14] = [
    (0, 1),
    (1, 1),
    (2, 1),
    (3, 1),
    (4, 2),
    (6, 1),
    (7, 1),
    (8, 4),
    (12, 4),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 8),
    (72, 8),
];

#[test]
fn every_integer_of_the_header() {
    let good = tiny_file();
    for (at, length, may_change) in HEADER_FIELDS {
        for value in VALUES {
            let mut bytes = good.clone();
            put(&mut bytes, at, &value.to_le_bytes()[..length]);
            if bytes == good {
                continue;
            }
            let what = format_args!("byte {at} of the header is {value}").to_string();
            assert!(!accepted(&bytes, format_args!("{what}")), "{what}");
            reseal(&mut bytes);
            // The metadata may have been shortened to nothing, and then hashes correctly: still an error.
            let ok = accepted(&bytes, format_args!("{what}, resealed"));
            assert!(!ok || may_change, "{what}, resealed");
        }
    }
}

#[test]
fn every_integer_of_the_table() {
    let good = tiny_file();
    let table = u64_at(&good, 80) as usize;
    for entry in 0..5 {
        for (field, length) in ENTRY_FIELDS {
            for value in VALUES {
                let at = table + entry * 128 + field;
                let mut bytes = good.clone();
                put(&mut bytes, at, &value.to_le_bytes()[..length]);
                if bytes == good {
                    continue;
                }
                let what = format!("byte {field} of entry {entry} is {value}");
                assert!(!accepted(&bytes, format_args!("{what}")), "{what}");
                reseal(&mut bytes);
                assert!(
                    !accepted(&bytes, format_args!("{what}")),
                    "{what}, resealed"
                );
            }
        }
    }
}

#[test]
fn every_integer_of_the_metadata() {
    let good = tiny_file();
    let length = u64_at(&good, 56) as usize;
    // Numbers can be anywhere in it: every place is taken for one of 1, 2, 4 and 8 bytes.
    for at in 0..length {
        for width in [1, 2, 4, 8] {
            for value in VALUES {
                if at + width > length || (width < 4 && value > u64::from(u32::MAX)) {
                    continue;
                }
                let mut bytes = good.clone();
                put(&mut bytes, PAGE + at, &value.to_le_bytes()[..width]);
                reseal(&mut bytes);
                accepted(&bytes, format_args!("byte {at} of the metadata is {value}"));
            }
        }
    }
}

#[test]
fn every_number_of_the_spec() {
    let parts = Parts::of(&tiny_file());
    let meta = Meta::decode(&parts.metadata).unwrap();
    let spec = String::from_utf8(meta.bytes(key::SPEC).unwrap().to_vec()).unwrap();
    let mut at = 0;
    let mut numbers = 0;
    while let Some(start) = spec[at..].find(|c: char| c.is_ascii_digit()) {
        let start = at + start;
        let rest = &spec[start..];
        let is_number = |c: char| c.is_ascii_digit() || "+-.e".contains(c);
        let end = start + rest.find(|c| !is_number(c)).unwrap_or(rest.len());
        at = end;
        numbers += 1;
        let texts = VALUES.iter().map(u64::to_string);
        let others = ["-1", "1e999", "0.5", "null", "[]", "{}", "\"\"", "1e-46"];
        for text in texts.chain(others.map(String::from)) {
            let changed = format!("{}{text}{}", &spec[..start], &spec[end..]);
            let mut meta = meta.clone();
            meta.set(key::SPEC, Value::Bytes(changed.clone().into_bytes()));
            let mut parts = parts.clone();
            parts.metadata = meta.encode().unwrap();
            accepted(&parts.assemble(), format_args!("{changed}"));
        }
    }
    assert!(numbers > 5, "{spec}");
}

/// Says to a child process that it is one.
const CHILD: &str = "QUERN_TEST_MUTATIONS_CHILD";

#[test]
fn mutations_take_little_memory() {
    if std::env::var_os(CHILD).is_some() {
        every_truncation_is_refused();
        every_integer_of_the_header();
        every_integer_of_the_table();
        every_integer_of_the_metadata();
        every_number_of_the_spec();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|l| l.trim().strip_suffix(" kB"));
        // 64 MiB for the program and its files of 36 KiB (absent where there is no /proc).
        if let Some(peak) = peak.and_then(|p| p.trim().parse::<u64>().ok()) {
            assert!(peak < 64 << 10, "peak resident memory {peak} KiB");
        }
        return;
    }
    // A reservation of more than a GiB aborts the child, even one that is never touched.
    let status = Command::new("sh")
        .args(["-c", "ulimit -v 1048576; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "format::hostile::mutations_take_little_memory"])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

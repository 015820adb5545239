//! Typed metadata: what a weight file says about itself besides its tensors.
//!
//! ```text
//! u32 number of records, then for each, in ascending order of keys and without duplicates:
//!     u8 length of the key, u8 type, key (a-z 0-9 _ .), value
//! types: 1 u32   2 u64   3 f32   4 f64   5 bool (u8, 0 or 1)
//!        6 string (u32 length, UTF-8)        7 bytes (u32 length)
//!        8 list of strings (u32 count, each as 6)   9 list of u32 (u32 count)
//! ```
//!
//! A key that is not known is kept and shown if its type is known; an unknown type is an error, since its length is not known.
//! [`Meta::check`] checks the keys that this program gives a meaning to (module [`key`]).

use crate::error::{Error, Result};
use byteorder::{ByteOrder, LittleEndian as LE};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The keys that this program writes and reads.
pub mod key {
    /// Bytes: the Spec as JSON. Written by the writer from its plan.
    pub const SPEC: &str = "spec";
    /// String: what to call the model.
    pub const NAME: &str = "name";
    /// String: the chat template (Jinja).
    pub const CHAT_TEMPLATE: &str = "chat_template";
    /// String: the chat template for conversations with tools, where the source has another one for them.
    pub const CHAT_TEMPLATE_TOOLS: &str = "chat_template.tools";
    /// List of strings: names of special tokens and their texts by turns, as the source gives them to its template.
    pub const CHAT_TEMPLATE_SPECIAL: &str = "chat_template.special";
    /// String: `gguf`, `safetensors`, `llama2c`, ...
    pub const SOURCE_KIND: &str = "source.kind";
    /// List of strings: names of the source files, without folders.
    pub const SOURCE_FILES: &str = "source.files";
    /// List of strings: BLAKE3 of each source file, hexadecimal.
    pub const SOURCE_HASHES: &str = "source.hashes";
    /// String: program and version that wrote the file.
    pub const IMPORTER: &str = "import.version";
    /// String: what was asked for as `--quant`.
    pub const QUANT: &str = "import.quant";
    /// Prefix of token ids, each a u32 or a list of u32: all below the size of the vocabulary.
    pub const TOKEN_PREFIX: &str = "token.";
    /// u32: the id that begins a sequence.
    pub const BOS: &str = "token.bos";
    /// List of u32: the ids that end a generation.
    pub const EOS: &str = "token.eos";
    /// u32: the id that the decoder of an encoder-decoder begins with.
    pub const DECODER_START: &str = "token.decoder_start";
    /// u32: padding.
    pub const PAD: &str = "token.pad";
    /// u32: unknown text.
    pub const UNK: &str = "token.unk";
    /// f32: default of `--temp`.
    pub const TEMPERATURE: &str = "generation.temperature";
    /// u32: default of `--top-k`.
    pub const TOP_K: &str = "generation.top_k";
    /// f32: default of `--top-p`.
    pub const TOP_P: &str = "generation.top_p";
    /// f32: default of `--min-p`.
    pub const MIN_P: &str = "generation.min_p";
    /// f32: default of `--repeat-penalty`.
    pub const REPEAT_PENALTY: &str = "generation.repeat_penalty";
    /// List of strings: texts that were tokenized at import.
    pub const GOLDEN_TEXTS: &str = "golden.texts";
    /// List of u32: how many ids each of them has.
    pub const GOLDEN_LENGTHS: &str = "golden.lengths";
    /// List of u32: the ids of all of them, one text after another.
    pub const GOLDEN_IDS: &str = "golden.ids";
    /// Bool: whether special tokens were added to them.
    pub const GOLDEN_SPECIAL: &str = "golden.add_special";
    /// List of strings: conversations as JSON and what the chat template made of them at import, by turns.
    pub const TEMPLATE_TEXTS: &str = "golden.template.texts";
    /// List of u32: how many ids each of them has.
    pub const TEMPLATE_LENGTHS: &str = "golden.template.lengths";
    /// List of u32: the ids of all of them, one after another.
    pub const TEMPLATE_IDS: &str = "golden.template.ids";
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Type 1.
    U32(u32),
    /// Type 2.
    U64(u64),
    /// Type 3.
    F32(f32),
    /// Type 4.
    F64(f64),
    /// Type 5.
    Bool(bool),
    /// Type 6.
    String(String),
    /// Type 7.
    Bytes(Vec<u8>),
    /// Type 8.
    Strings(Vec<String>),
    /// Type 9.
    U32s(Vec<u32>),
}

impl Value {
    fn code(&self) -> u8 {
        match self {
            Value::U32(_) => 1,
            Value::U64(_) => 2,
            Value::F32(_) => 3,
            Value::F64(_) => 4,
            Value::Bool(_) => 5,
            Value::String(_) => 6,
            Value::Bytes(_) => 7,
            Value::Strings(_) => 8,
            Value::U32s(_) => 9,
        }
    }

    /// The name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U32(_) => "u32",
            Value::U64(_) => "u64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Strings(_) => "list of strings",
            Value::U32s(_) => "list of u32",
        }
    }
}

/// All metadata of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    records: BTreeMap<String, Value>,
}

impl Meta {
    /// No records.
    pub fn new() -> Meta {
        Meta::default()
    }

    /// Sets a record, replacing one of the same key.
    ///
    /// # Panics
    /// If the key has characters other than `a-z 0-9 _ .`, is empty or longer than 255: keys are chosen by the program.
    pub fn set(&mut self, key: &str, value: Value) {
        assert!(is_key(key.as_bytes()), "not a metadata key: {key:?}");
        self.records.insert(key.to_string(), value);
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.records.get(key)
    }

    /// Removes a record.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.records.remove(key)
    }

    /// All records in ascending order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.records.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// A string, if the key is there and has that type.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::String(s)) => Some(s),
            _ => None,
        }
    }

    /// A u32, if the key is there and has that type.
    pub fn u32(&self, key: &str) -> Option<u32> {
        match self.get(key) {
            Some(Value::U32(v)) => Some(*v),
            _ => None,
        }
    }

    /// An f32, if the key is there and has that type.
    pub fn f32(&self, key: &str) -> Option<f32> {
        match self.get(key) {
            Some(Value::F32(v)) => Some(*v),
            _ => None,
        }
    }

    /// A bool, if the key is there and has that type.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(v)) => Some(*v),
            _ => None,
        }
    }

    /// A list of u32; empty if the key is not there.
    pub fn u32s(&self, key: &str) -> &[u32] {
        match self.get(key) {
            Some(Value::U32s(v)) => v,
            _ => &[],
        }
    }

    /// A list of strings; empty if the key is not there.
    pub fn strings(&self, key: &str) -> &[String] {
        match self.get(key) {
            Some(Value::Strings(v)) => v,
            _ => &[],
        }
    }

    /// Bytes, if the key is there and has that type.
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        match self.get(key) {
            Some(Value::Bytes(v)) => Some(v),
            _ => None,
        }
    }

    /// What to call the model.
    pub fn name(&self) -> Option<&str> {
        self.string(key::NAME)
    }

    /// The chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.string(key::CHAT_TEMPLATE)
    }

    /// The id that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.u32(key::BOS)
    }

    /// The id that the decoder of an encoder-decoder begins with.
    pub fn decoder_start(&self) -> Option<u32> {
        self.u32(key::DECODER_START)
    }

    /// The ids that end a generation.
    pub fn eos(&self) -> &[u32] {
        self.u32s(key::EOS)
    }

    /// Checks type and range of every known key; token ids against the size of the vocabulary.
    ///
    /// # Errors
    /// Invalid, naming the key, its value and what was expected.
    pub fn check(&self, vocab_size: u32) -> Result<()> {
        let id = |key: &str, id: u32| {
            if id >= vocab_size {
                return Err(invalid(format_args!(
                    "{key} is {id}, expected an id below the vocabulary's {vocab_size}"
                )));
            }
            Ok(())
        };
        for (key, value) in self.iter() {
            match (key, value) {
                (key::SPEC, Value::Bytes(_)) => {}
                (
                    key::NAME
                    | key::CHAT_TEMPLATE
                    | key::CHAT_TEMPLATE_TOOLS
                    | key::SOURCE_KIND
                    | key::IMPORTER
                    | key::QUANT,
                    Value::String(_),
                ) => {}
                (key::CHAT_TEMPLATE_SPECIAL, Value::Strings(v)) if v.len().is_multiple_of(2) => {}
                (
                    key::SOURCE_FILES
                    | key::SOURCE_HASHES
                    | key::GOLDEN_TEXTS
                    | key::TEMPLATE_TEXTS,
                    Value::Strings(_),
                ) => {}
                (key::BOS | key::DECODER_START | key::PAD | key::UNK, Value::U32(v)) => {
                    id(key, *v)?
                }
                (key::EOS | key::GOLDEN_IDS | key::TEMPLATE_IDS, Value::U32s(v)) => {
                    v.iter().try_for_each(|v| id(key, *v))?
                }
                (key::GOLDEN_LENGTHS | key::TEMPLATE_LENGTHS, Value::U32s(_)) => {}
                (key::GOLDEN_SPECIAL, Value::Bool(_)) => {}
                (key::TOP_K, Value::U32(_)) => {}
                (
                    key::TEMPERATURE | key::TOP_P | key::MIN_P | key::REPEAT_PENALTY,
                    Value::F32(v),
                ) if v.is_finite() && *v >= 0.0 => {}
                (
                    key::TEMPERATURE | key::TOP_P | key::MIN_P | key::REPEAT_PENALTY,
                    Value::F32(v),
                ) => {
                    return Err(invalid(format_args!(
                        "{key} is {v}, expected a finite number >= 0"
                    )));
                }
                (
                    key::SPEC
                    | key::NAME
                    | key::CHAT_TEMPLATE
                    | key::CHAT_TEMPLATE_TOOLS
                    | key::CHAT_TEMPLATE_SPECIAL
                    | key::SOURCE_KIND
                    | key::IMPORTER
                    | key::QUANT
                    | key::SOURCE_FILES
                    | key::SOURCE_HASHES
                    | key::GOLDEN_TEXTS
                    | key::BOS
                    | key::DECODER_START
                    | key::PAD
                    | key::UNK
                    | key::EOS
                    | key::GOLDEN_IDS
                    | key::GOLDEN_LENGTHS
                    | key::GOLDEN_SPECIAL
                    | key::TEMPLATE_TEXTS
                    | key::TEMPLATE_LENGTHS
                    | key::TEMPLATE_IDS
                    | key::TOP_K
                    | key::TEMPERATURE
                    | key::TOP_P
                    | key::MIN_P
                    | key::REPEAT_PENALTY,
                    other,
                ) => {
                    return Err(invalid(format_args!(
                        "{key} is a {}, expected another type",
                        other.type_name()
                    )));
                }
                (key, Value::U32(v)) if key.starts_with(key::TOKEN_PREFIX) => id(key, *v)?,
                (key, Value::U32s(v)) if key.starts_with(key::TOKEN_PREFIX) => {
                    v.iter().try_for_each(|v| id(key, *v))?
                }
                _ => {}
            }
        }
        let (files, hashes) = (
            self.strings(key::SOURCE_FILES),
            self.strings(key::SOURCE_HASHES),
        );
        if files.len() != hashes.len() {
            return Err(invalid(format_args!(
                "{} source files, but {} hashes of source files",
                files.len(),
                hashes.len()
            )));
        }
        self.golden()?;
        self.template_samples().map(|_| ())
    }

    /// The stored form.
    ///
    /// # Errors
    /// Limit if a string or a list is longer than the format can say.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        put_length(&mut out, "metadata", self.records.len())?;
        for (key, value) in &self.records {
            out.push(key.len() as u8);
            out.push(value.code());
            out.extend(key.as_bytes());
            match value {
                Value::U32(v) => out.extend(v.to_le_bytes()),
                Value::U64(v) => out.extend(v.to_le_bytes()),
                Value::F32(v) => out.extend(v.to_le_bytes()),
                Value::F64(v) => out.extend(v.to_le_bytes()),
                Value::Bool(v) => out.push(u8::from(*v)),
                Value::String(v) => {
                    put_length(&mut out, key, v.len())?;
                    out.extend(v.as_bytes());
                }
                Value::Bytes(v) => {
                    put_length(&mut out, key, v.len())?;
                    out.extend(v);
                }
                Value::Strings(v) => {
                    put_length(&mut out, key, v.len())?;
                    for s in v {
                        put_length(&mut out, key, s.len())?;
                        out.extend(s.as_bytes());
                    }
                }
                Value::U32s(v) => {
                    put_length(&mut out, key, v.len())?;
                    for v in v {
                        out.extend(v.to_le_bytes());
                    }
                }
            }
        }
        Ok(out)
    }

    /// Reads the stored form; allocates in proportion to `bytes` only.
    ///
    /// # Errors
    /// Invalid, with the byte offset within the section.
    pub fn decode(bytes: &[u8]) -> Result<Meta> {
        let mut reader = Reader { bytes, at: 0 };
        let mut records = BTreeMap::new();
        let mut last: &[u8] = &[];
        // The number is only a loop bound: a record takes at least three bytes, so a false number ends the loop early.
        for _ in 0..reader.u32()? {
            let start = reader.at;
            let key_length = usize::from(reader.take(1)?[0]);
            let code = reader.take(1)?[0];
            let key = reader.take(key_length)?;
            if !is_key(key) {
                return Err(invalid(format_args!(
                    "key \"{}\" at byte {start}, expected 1 to 255 of a-z 0-9 _ .",
                    key.escape_ascii()
                )));
            }
            let text = String::from_utf8_lossy(key).into_owned();
            if key <= last {
                return Err(invalid(format_args!(
                    "key {text:?} at byte {start} comes twice or out of order"
                )));
            }
            last = key;
            let value = reader
                .value(code)
                .map_err(|e| e.at(format_args!("metadata key {text:?}")))?;
            let Entry::Vacant(place) = records.entry(text) else {
                return Err(invalid(format_args!("a key at byte {start} comes twice")));
            };
            place.insert(value);
        }
        if reader.at != bytes.len() {
            return Err(invalid(format_args!(
                "the records end at byte {}, but the section has {}",
                reader.at,
                bytes.len()
            )));
        }
        Ok(Meta { records })
    }
}

fn invalid(message: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("metadata: {message}"))
}

fn is_key(key: &[u8]) -> bool {
    (1..=255).contains(&key.len())
        && key
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'))
}

fn put_length(out: &mut Vec<u8>, what: &str, length: usize) -> Result<()> {
    let length = u32::try_from(length)
        .map_err(|_| Error::limit(format_args!("{what}: {length} elements are too many")))?;
    out.extend(length.to_le_bytes());
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..n) else {
            return Err(invalid(format_args!(
                "{n} bytes are needed at byte {}, but {} are left",
                self.at,
                rest.len()
            )));
        };
        self.at += n;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(LE::read_u32(self.take(4)?))
    }

    fn string(&mut self) -> Result<String> {
        let length = self.u32()? as usize;
        let at = self.at;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s.to_string()),
            Err(e) => Err(Error::invalid(format_args!(
                "invalid UTF-8 at byte {} of the metadata",
                at + e.valid_up_to()
            ))),
        }
    }

    fn value(&mut self, code: u8) -> Result<Value> {
        Ok(match code {
            1 => Value::U32(self.u32()?),
            2 => Value::U64(LE::read_u64(self.take(8)?)),
            3 => Value::F32(LE::read_f32(self.take(4)?)),
            4 => Value::F64(LE::read_f64(self.take(8)?)),
            5 => match self.take(1)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => {
                    return Err(Error::invalid(format_args!(
                        "a bool is {other}, expected 0 or 1"
                    )));
                }
            },
            6 => Value::String(self.string()?),
            7 => {
                let length = self.u32()? as usize;
                Value::Bytes(self.take(length)?.to_vec())
            }
            8 => {
                // Grows as strings are read: each takes four bytes of the section at least.
                let count = self.u32()?;
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.string()?);
                }
                Value::Strings(list)
            }
            9 => {
                let count = self.u32()? as usize;
                let bytes = self.take(count.saturating_mul(4))?;
                Value::U32s(bytes.chunks_exact(4).map(LE::read_u32).collect())
            }
            other => {
                return Err(Error::invalid(format_args!(
                    "type {other} is not known, expected 1 to 9"
                )));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Golden;

    fn full() -> Meta {
        let mut meta = Meta::new();
        meta.set("a", Value::U32(7));
        meta.set("b.c", Value::U64(u64::MAX));
        meta.set("d", Value::F32(-0.5));
        meta.set("e", Value::F64(1e300));
        meta.set("f", Value::Bool(true));
        meta.set("g", Value::String("grün".into()));
        meta.set("h", Value::Bytes(vec![0, 255]));
        meta.set("i", Value::Strings(vec!["".into(), "x".into()]));
        meta.set("j", Value::U32s(vec![1, 2, 3]));
        meta
    }

    #[test]
    fn every_type_comes_back() {
        let meta = full();
        assert_eq!(Meta::decode(&meta.encode().unwrap()).unwrap(), meta);
        assert_eq!(Meta::decode(&[0; 4]).unwrap(), Meta::new());
    }

    #[test]
    fn every_truncation_and_trailing_bytes_are_errors() {
        let bytes = full().encode().unwrap();
        for n in 0..bytes.len() {
            assert_eq!(Meta::decode(&bytes[..n]).unwrap_err().exit_code(), 3);
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(
            Meta::decode(&longer)
                .unwrap_err()
                .to_string()
                .contains("the section has")
        );
    }

    #[test]
    fn order_duplicates_types_and_keys_are_checked() {
        let record = |key: &[u8], code: u8, value: &[u8]| {
            let mut r = vec![key.len() as u8, code];
            r.extend(key);
            r.extend(value);
            r
        };
        let section = |records: &[Vec<u8>]| {
            let mut s = (records.len() as u32).to_le_bytes().to_vec();
            s.extend(records.concat());
            s
        };
        let one = [1, 0, 0, 0];
        for (records, expected) in [
            (
                vec![record(b"b", 1, &one), record(b"a", 1, &one)],
                "out of order",
            ),
            (
                vec![record(b"a", 1, &one), record(b"a", 1, &one)],
                "comes twice",
            ),
            (vec![record(b"a", 10, &one)], "type 10 is not known"),
            (vec![record(b"a", 5, &[2])], "expected 0 or 1"),
            (vec![record(b"A", 1, &one)], "expected 1 to 255 of a-z"),
            (vec![record(b"", 1, &one)], "expected 1 to 255 of a-z"),
            (vec![record(b"a\x1b[31m", 1, &one)], "\\x1b[31m"),
            (vec![record(b"a", 6, &[1, 0, 0, 0, 0xff])], "invalid UTF-8"),
            (vec![record(b"a", 8, &[0xff; 4])], "are left"),
            (vec![record(b"a", 9, &[0xff; 4])], "are left"),
        ] {
            let e = Meta::decode(&section(&records)).unwrap_err().to_string();
            assert!(e.contains(expected), "{e}");
        }
        assert!(
            Meta::decode(&[0xff; 4])
                .unwrap_err()
                .to_string()
                .contains("are left")
        );
    }

    #[test]
    fn known_keys_have_a_type_and_ids_a_bound() {
        let check = |key: &str, value: Value| {
            let mut meta = Meta::new();
            meta.set(key, value);
            meta.check(100).map_err(|e| e.to_string())
        };
        assert!(check(key::BOS, Value::U32(99)).is_ok());
        assert!(
            check(key::BOS, Value::U32(100))
                .unwrap_err()
                .contains("token.bos is 100")
        );
        assert!(
            check(key::EOS, Value::U32s(vec![1, 200]))
                .unwrap_err()
                .contains("200")
        );
        assert!(
            check("token.image", Value::U32(100))
                .unwrap_err()
                .contains("token.image")
        );
        assert!(
            check(key::NAME, Value::U32(1))
                .unwrap_err()
                .contains("name is a u32")
        );
        assert!(
            check(key::TEMPERATURE, Value::F32(f32::NAN))
                .unwrap_err()
                .contains("finite")
        );
        assert!(
            check(key::GOLDEN_LENGTHS, Value::U32s(vec![u32::MAX; 3]))
                .unwrap_err()
                .contains("do not agree")
        );
        assert!(check("something.else", Value::U32(100)).is_ok());
    }

    #[test]
    fn golden_samples_come_back() {
        let samples = vec![
            Golden {
                text: "a b".into(),
                ids: vec![3, 4],
            },
            Golden {
                text: String::new(),
                ids: vec![],
            },
            Golden {
                text: "c".into(),
                ids: vec![5],
            },
        ];
        let mut meta = Meta::new();
        meta.set_golden(&samples, true);
        meta.check(6).unwrap();
        assert_eq!(meta.golden().unwrap(), samples);
        assert!(
            meta.check(5)
                .unwrap_err()
                .to_string()
                .contains("golden.ids")
        );
    }
}

//! Reading safetensors: `u64 header length, JSON header, data`, with stricter rules than the format's own library.
//!
//! The header's entries are parsed by that library's types; on top of them a repeated name is an error, tensors must cover the data
//! exactly (no hole, no overlap, nothing behind the last one), and every product is checked.

use super::source::{Dtype, SourceFile, Tensor, Tensors, zeroed};
use crate::error::{Error, Result};
use safetensors::Dtype as Stored;
use safetensors::tensor::TensorInfo;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use std::collections::{HashMap, HashSet};

/// The longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// Reads the header of `file` and adds its tensors, whose data lies in it, under their names behind `prefix`.
///
/// # Errors
/// Invalid, naming the byte or tensor; I/O.
pub fn read(file: SourceFile, prefix: &str, out: &mut Tensors) -> Result<()> {
    let place = format!("{:?}", file.path());
    let (entries, start) = header(&file).map_err(|e| e.at(&place))?;
    let index = out.files.len();
    out.files.push(file);
    for (name, info) in entries {
        let dtype = match info.dtype {
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::Bf16,
            Stored::U8 => Dtype::U8,
            other => Dtype::Other(other.to_string()),
        };
        let (from, to) = info.data_offsets;
        out.add(Tensor {
            name: format!("{prefix}{name}"),
            shown: name,
            dtype,
            shape: info.shape.iter().map(|&d| d as u64).collect(),
            file: index,
            offset: start + from as u64,
            len: (to - from) as u64,
        })
        .map_err(|e| e.at(&place))?;
    }
    Ok(())
}

type Entries = Vec<(String, TensorInfo)>;

/// The entries in the order of their data, and the first byte of the data.
fn header(file: &SourceFile) -> Result<(Entries, u64)> {
    if file.len() < 8 {
        return Err(Error::invalid(format_args!(
            "the file has {} bytes, expected at least the 8 of the header's length",
            file.len()
        )));
    }
    let mut word = [0u8; 8];
    file.read_at(0, &mut word)?;
    let len = u64::from_le_bytes(word);
    let room = (file.len() - 8).min(MAX_HEADER);
    if len > room {
        return Err(Error::invalid(format_args!(
            "byte 0: header length is {len}, expected at most {room}"
        )));
    }
    let mut bytes = zeroed(len as usize, "a header")?;
    file.read_at(8, &mut bytes)?;
    let mut entries = parse(&bytes)?;
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let data = file.len() - 8 - len;
    let mut at = 0;
    for (name, info) in &entries {
        let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let bytes = info
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d as u64))
            .and_then(|n| n.checked_mul(info.dtype.bitsize() as u64))
            .filter(|bits| bits % 8 == 0)
            .map(|bits| bits / 8);
        let Some(bytes) = bytes else {
            return Err(Error::invalid(format_args!(
                "tensor {name:?}: shape {:?} of {} is larger than a file can be",
                info.shape, info.dtype
            )));
        };
        if to.checked_sub(from) != Some(bytes) {
            return Err(Error::invalid(format_args!(
                "tensor {name:?}: data_offsets are [{from}, {to}], expected {bytes} bytes for shape {:?} of {}",
                info.shape, info.dtype
            )));
        }
        if from != at {
            let what = if from > at { "a hole" } else { "an overlap" };
            return Err(Error::invalid(format_args!(
                "tensor {name:?}: data_offsets begin at {from}, expected {at}: {what} in the data"
            )));
        }
        if to > data {
            return Err(Error::invalid(format_args!(
                "tensor {name:?}: data_offsets end at {to}, but the file has {data} bytes of data"
            )));
        }
        at = to;
    }
    if at != data {
        return Err(Error::invalid(format_args!(
            "{} bytes after the last tensor, expected none",
            data - at
        )));
    }
    Ok((entries, 8 + len))
}

fn parse(bytes: &[u8]) -> Result<Entries> {
    if bytes.first() != Some(&b'{') {
        return Err(Error::invalid(
            "byte 8: the header does not begin with a brace, expected a JSON object",
        ));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let bad = |e: serde_json::Error| Error::invalid(format_args!("header: {}", quoted(&e)));
    let entries = Header.deserialize(&mut json).map_err(bad)?;
    json.end().map_err(bad)?;
    Ok(entries)
}

/// A parser's message may quote text of the file: no control characters.
pub(super) fn quoted(e: &serde_json::Error) -> String {
    e.to_string()
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control();
            let plain = (!escaped).then_some(c);
            plain
                .into_iter()
                .chain(escaped.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}

/// The header's object, with repeated keys refused.
struct Header;

impl<'de> DeserializeSeed<'de> for Header {
    type Value = Entries;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Entries, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Header {
    type Value = Entries;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("{name:?} is there twice")));
            }
            if name == "__metadata__" {
                map.next_value::<HashMap<String, String>>()?;
                continue;
            }
            let info = map
                .next_value::<TensorInfo>()
                .map_err(|e| A::Error::custom(format_args!("tensor {name:?}: {e}")))?;
            entries.push((name, info));
        }
        Ok(entries)
    }
}

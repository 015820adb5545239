//! Reading GGUF versions 2 and 3: metadata, tensor table, and the place of every tensor. Little-endian only.
//!
//! ```text
//! "GGUF" u32 version u64 n_tensors u64 n_kv
//! n_kv    x { string key, u32 type, value }        string: u64 length, bytes; array: u32 type, u64 count, values
//! n_tensors x { string name, u32 n_dims, u64 dims (innermost first), u32 type, u64 offset }
//! padding to the alignment; data, offsets relative to its start
//! ```
//!
//! Every length is compared with what is left of the file before anything is allocated for it, so that memory is proportional
//! to the file. Names and keys must be printable: two keys that differ in invisible bytes are an attack, not a model.

use super::source::{BLOCK_TYPES, Dtype, SourceFile, Tensor, Tensors, readable_types, zeroed};
use crate::error::{Error, Result};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashSet};

/// "GGUF" as it lies in the file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32 and u64.
    Uint(u64),
    /// i8, i16, i32 and i64.
    Int(i64),
    /// f32 and f64.
    Float(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    String(String),
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of numbers or booleans: type and the bytes of the file.
    Numbers(Scalar, Vec<u8>),
}

/// Types of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the documentation
pub enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;
const UINT32: u32 = 4;

impl Scalar {
    fn from_code(code: u32) -> Option<Scalar> {
        use Scalar::*;
        Some(match code {
            0 => U8,
            1 => I8,
            2 => U16,
            3 => I16,
            4 => U32,
            5 => I32,
            6 => F32,
            7 => Bool,
            10 => U64,
            11 => I64,
            12 => F64,
            _ => return None,
        })
    }

    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Scalar::U8 | Scalar::I8 | Scalar::Bool => 1,
            Scalar::U16 | Scalar::I16 => 2,
            Scalar::U32 | Scalar::I32 | Scalar::F32 => 4,
            Scalar::U64 | Scalar::I64 | Scalar::F64 => 8,
        }
    }

    /// The value in `b`, which is [`Scalar::size`] long; none for a boolean that is neither 0 nor 1.
    fn read(self, b: &[u8]) -> Option<Value> {
        let mut wide = [0u8; 8];
        wide[..b.len()].copy_from_slice(b);
        let raw = u64::from_le_bytes(wide);
        Some(match self {
            Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 => Value::Uint(raw),
            Scalar::I8 => Value::Int((raw as i8).into()),
            Scalar::I16 => Value::Int((raw as i16).into()),
            Scalar::I32 => Value::Int((raw as i32).into()),
            Scalar::I64 => Value::Int(raw as i64),
            Scalar::F32 => Value::Float(f32::from_bits(raw as u32).into()),
            Scalar::F64 => Value::Float(f64::from_bits(raw)),
            Scalar::Bool => Value::Bool(match raw {
                0 => false,
                1 => true,
                _ => return None,
            }),
        })
    }
}

impl Value {
    /// What it is, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Uint(_) | Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a boolean",
            Value::String(_) => "a string",
            Value::Strings(_) => "an array of strings",
            Value::Numbers(..) => "an array of numbers",
        }
    }

    /// As JSON. What JSON does not have (infinity, long arrays) becomes a string that no look-up of a number accepts.
    fn json(&self) -> Json {
        match self {
            Value::Uint(v) => (*v).into(),
            Value::Int(v) => (*v).into(),
            Value::Float(v) if v.is_finite() => (*v).into(),
            Value::Float(v) => v.to_string().into(),
            Value::Bool(v) => (*v).into(),
            Value::String(v) => v.as_str().into(),
            Value::Numbers(kind, bytes) if bytes.len() <= 4096 * kind.size() => bytes
                .chunks_exact(kind.size())
                .map(|b| kind.read(b).map_or(Json::Null, |v| v.json()))
                .collect(),
            Value::Numbers(..) | Value::Strings(_) => self.type_name().into(),
        }
    }
}

/// A parsed file: metadata and tensors.
#[derive(Debug)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// All metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Every tensor; `file` is 0.
    pub list: Vec<Tensor>,
    /// The file.
    pub file: SourceFile,
}

impl Gguf {
    /// Reads and checks everything but the data.
    ///
    /// # Errors
    /// Invalid, naming the byte or the key or the tensor; I/O.
    pub fn read(file: SourceFile) -> Result<Gguf> {
        let place = format!("{:?}", file.path());
        parse(&file)
            .map_err(|e| e.at(place))
            .map(|(version, metadata, list)| Gguf {
                version,
                metadata,
                list,
                file,
            })
    }

    /// The metadata that may describe a model, as JSON; the tokenizer is left out.
    pub fn json(&self) -> serde_json::Map<String, Json> {
        self.metadata
            .iter()
            .filter(|(key, _)| !key.starts_with("tokenizer."))
            .map(|(key, value)| (key.clone(), value.json()))
            .collect()
    }

    /// A string.
    ///
    /// # Errors
    /// It has another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// An unsigned integer of 32 bits.
    ///
    /// # Errors
    /// It has another type or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let v = match value {
            Value::Uint(v) => u32::try_from(*v).ok(),
            Value::Int(v) => u32::try_from(*v).ok(),
            _ => None,
        };
        v.map(Some)
            .ok_or_else(|| self.wrong(key, value, "an integer from 0 to 4294967295"))
    }

    /// A boolean.
    ///
    /// # Errors
    /// It has another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.wrong(key, other, "a boolean")),
        }
    }

    /// An array of strings.
    ///
    /// # Errors
    /// It has another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Strings(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, other, "an array of strings")),
        }
    }

    /// An array of numbers of one type, as the bytes of the file.
    ///
    /// # Errors
    /// It has another type.
    pub fn numbers(&self, key: &str, kind: Scalar) -> Result<Option<&[u8]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Numbers(k, bytes)) if *k == kind => Ok(Some(bytes)),
            Some(other) => Err(self.wrong(key, other, &format!("an array of {kind:?}"))),
        }
    }

    /// An error about the value of a key.
    pub fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        let found = match value {
            Value::Strings(_) | Value::Numbers(..) => value.type_name().to_owned(),
            scalar => scalar.json().to_string(),
        };
        Error::invalid(format_args!(
            "{:?}: {key} is {found}, expected {expected}",
            self.file.path()
        ))
    }

    /// Gives up the file and its tensors.
    ///
    /// # Errors
    /// Two tensors have the same name.
    pub fn tensors(self) -> Result<Tensors> {
        let mut out = Tensors::default();
        let place = format!("{:?}", self.file.path());
        out.files.push(self.file);
        for t in self.list {
            out.add(t).map_err(|e| e.at(&place))?;
        }
        Ok(out)
    }
}

/// A window that moves over the file.
struct Cursor<'a> {
    file: &'a SourceFile,
    /// Position of the next byte.
    at: u64,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that have been handed out.
    used: usize,
}

impl Cursor<'_> {
    const WINDOW: usize = 1 << 16;

    fn left(&self) -> u64 {
        self.file.len() - self.at
    }

    fn need(&self, n: u64, what: &str) -> Result<()> {
        if n > self.left() {
            return Err(Error::invalid(format_args!(
                "byte {}: {what} takes {n} bytes, but only {} are left",
                self.at,
                self.left()
            )));
        }
        Ok(())
    }

    /// Fills `out`; the caller has called `need`.
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let buffered = self.buffer.len() - self.used;
        if out.len() > buffered && out.len() < Self::WINDOW {
            let n = (Self::WINDOW as u64).min(self.left()) as usize;
            self.buffer.resize(n, 0);
            self.file.read_at(self.at, &mut self.buffer)?;
            self.used = 0;
        }
        if out.len() <= self.buffer.len() - self.used {
            out.copy_from_slice(&self.buffer[self.used..self.used + out.len()]);
            self.used += out.len();
        } else {
            self.file.read_at(self.at, out)?;
            self.buffer.clear();
            self.used = 0;
        }
        self.at += out.len() as u64;
        Ok(())
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        let mut b = [0; 4];
        self.need(4, what)?;
        self.fill(&mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        let mut b = [0; 8];
        self.need(8, what)?;
        self.fill(&mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    fn bytes(&mut self, n: u64, what: &str) -> Result<Vec<u8>> {
        self.need(n, what)?;
        let mut b = zeroed(n as usize, what)?;
        self.fill(&mut b)?;
        Ok(b)
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let n = self.u64(what)?;
        let at = self.at;
        let bytes = self.bytes(n, what)?;
        String::from_utf8(bytes)
            .map_err(|_| Error::invalid(format_args!("byte {at}: {what} is not UTF-8")))
    }

    /// A key or a tensor name: short and printable.
    fn name(&mut self, what: &str) -> Result<String> {
        let at = self.at;
        let name = self.string(what)?;
        if name.is_empty() || name.len() > 65535 || !name.bytes().all(|b| (0x21..0x7f).contains(&b))
        {
            let start: String = name.chars().take(80).collect();
            return Err(Error::invalid(format_args!(
                "byte {at}: {what} is {start:?}, expected 1 to 65535 printable ASCII characters"
            )));
        }
        Ok(name)
    }

    /// A number of things of at least `least` bytes each.
    fn count(&mut self, what: &str, least: u64) -> Result<usize> {
        let at = self.at;
        let n = self.u64(what)?;
        let most = self.left() / least;
        if n > most {
            return Err(Error::invalid(format_args!(
                "byte {at}: {what} is {n}, but the rest of the file has room for at most {most}"
            )));
        }
        Ok(n as usize)
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let at = self.at;
        let kind = self.u32("a value's type")?;
        let wrong = |kind: u32, what: &str| {
            Error::invalid(format_args!(
                "byte {at}: {key}: {what} {kind}, expected a type from 0 to 12"
            ))
        };
        if key == "general.alignment" && kind != UINT32 {
            return Err(Error::invalid(format_args!(
                "byte {at}: general.alignment has type {kind}, expected {UINT32} (u32)"
            )));
        }
        match kind {
            STRING => Ok(Value::String(self.string("a string")?)),
            ARRAY => {
                let element = self.u32("an array's type")?;
                match element {
                    STRING => {
                        let n = self.count("an array's length", 8)?;
                        let mut list = Vec::new();
                        list.try_reserve_exact(n)
                            .map_err(|_| crate::error::out_of_memory("an array", n))?;
                        for _ in 0..n {
                            list.push(self.string("a string of an array")?);
                        }
                        Ok(Value::Strings(list))
                    }
                    ARRAY => Err(Error::invalid(format_args!(
                        "byte {at}: {key} is an array of arrays, expected an array of numbers or strings"
                    ))),
                    _ => {
                        let kind = Scalar::from_code(element)
                            .ok_or_else(|| wrong(element, "array of type"))?;
                        let n = self.count("an array's length", kind.size() as u64)?;
                        let bytes = self.bytes(n as u64 * kind.size() as u64, "an array")?;
                        if kind == Scalar::Bool && bytes.iter().any(|&b| b > 1) {
                            return Err(Error::invalid(format_args!(
                                "byte {at}: {key} has a boolean that is neither 0 nor 1"
                            )));
                        }
                        Ok(Value::Numbers(kind, bytes))
                    }
                }
            }
            _ => {
                let scalar = Scalar::from_code(kind).ok_or_else(|| wrong(kind, "type"))?;
                let bytes = self.bytes(scalar.size() as u64, "a value")?;
                scalar.read(&bytes).ok_or_else(|| {
                    Error::invalid(format_args!(
                        "byte {at}: {key} is the boolean {}, expected 0 or 1",
                        bytes[0]
                    ))
                })
            }
        }
    }
}

type Parsed = (u32, BTreeMap<String, Value>, Vec<Tensor>);

fn parse(file: &SourceFile) -> Result<Parsed> {
    let mut c = Cursor {
        file,
        at: 0,
        buffer: Vec::new(),
        used: 0,
    };
    let magic = c.u32("the magic")?.to_le_bytes();
    if magic != MAGIC {
        return Err(Error::invalid(format_args!(
            "byte 0: magic is {magic:?}, expected \"GGUF\""
        )));
    }
    let version = c.u32("the version")?;
    if !(2..=3).contains(&version) {
        let hint = if (2..=3).contains(&version.swap_bytes()) {
            " (a big-endian file)"
        } else {
            ""
        };
        return Err(Error::invalid(format_args!(
            "byte 4: version is {version}{hint}, expected 2 or 3"
        )));
    }
    // Smallest tensor: name of 1, one dimension. Smallest record: key of 1, one byte.
    let n_tensors = c.count("n_tensors", 8 + 1 + 4 + 8 + 4 + 8)?;
    let n_kv = c.count("n_kv", 8 + 1 + 4 + 1)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..n_kv {
        let at = c.at;
        let key = c.name("a key")?;
        let value = c.value(&key)?;
        if metadata.contains_key(&key) {
            return Err(Error::invalid(format_args!(
                "byte {at}: key {key:?} is there twice"
            )));
        }
        metadata.insert(key, value);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Uint(a)) if a.is_power_of_two() && (8..=65536).contains(a) => *a,
        Some(other) => {
            return Err(Error::invalid(format_args!(
                "general.alignment is {}, expected a power of two from 8 to 65536",
                other.json()
            )));
        }
    };
    let mut list: Vec<Tensor> = Vec::new();
    list.try_reserve_exact(n_tensors)
        .map_err(|_| crate::error::out_of_memory("the tensor table", n_tensors))?;
    let mut names = HashSet::new();
    for _ in 0..n_tensors {
        let at = c.at;
        let tensor = tensor(&mut c)?;
        if tensor.offset % alignment != 0 {
            return Err(Error::invalid(format_args!(
                "tensor {:?}: offset is {}, expected a multiple of the alignment {alignment}",
                tensor.shown, tensor.offset
            )));
        }
        if !names.insert(tensor.shown.clone()) {
            return Err(Error::invalid(format_args!(
                "byte {at}: tensor {:?} is there twice",
                tensor.shown
            )));
        }
        list.push(tensor);
    }
    place(&mut list, c.at.next_multiple_of(alignment), file.len())?;
    Ok((version, metadata, list))
}

/// One entry of the tensor table; its offset is still relative to the data.
fn tensor(c: &mut Cursor) -> Result<Tensor> {
    let name = c.name("a tensor's name")?;
    let at = c.at;
    let n_dims = c.u32("n_dims")?;
    if !(1..=4).contains(&n_dims) {
        return Err(Error::invalid(format_args!(
            "byte {at}: tensor {name:?}: n_dims is {n_dims}, expected 1 to 4"
        )));
    }
    let mut shape = Vec::with_capacity(4);
    for _ in 0..n_dims {
        let at = c.at;
        let dim = c.u64("a dimension")?;
        if dim == 0 || i64::try_from(dim).is_err() {
            return Err(Error::invalid(format_args!(
                "byte {at}: tensor {name:?}: a dimension is {}, expected 1 or more",
                dim as i64
            )));
        }
        shape.push(dim);
    }
    shape.reverse();
    let code = c.u32("a tensor's type")?;
    let offset = c.u64("a tensor's offset")?;
    let dtype = match code {
        0 => Dtype::F32,
        1 => Dtype::F16,
        30 => Dtype::Bf16,
        _ => match BLOCK_TYPES.iter().find(|(c, ..)| *c == code) {
            Some((_, _, format)) => Dtype::Blocks(*format),
            None => Dtype::Other(type_name(code)),
        },
    };
    let values = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if values.is_none_or(|n| i64::try_from(n).is_err()) {
        return Err(Error::invalid(format_args!(
            "tensor {name:?}: shape {shape:?} has more values than a file can hold"
        )));
    }
    if let Dtype::Other(kind) = &dtype {
        return Err(Error::invalid(format_args!(
            "tensor {name:?} has type {kind}, expected one of {}",
            readable_types()
        )));
    }
    let (inner, outer) = (shape[shape.len() - 1], &shape[..shape.len() - 1]);
    let len = dtype
        .row_bytes(inner)
        .and_then(|row| outer.iter().try_fold(row, |n, &d| n.checked_mul(d)))
        .filter(|&len| i64::try_from(len).is_ok());
    let Some(len) = len else {
        return Err(Error::invalid(format_args!(
            "tensor {name:?}: rows of {inner} values are no whole blocks of {}, or the shape {shape:?} is larger than a file can be",
            dtype.name()
        )));
    };
    Ok(Tensor {
        name: name.clone(),
        shown: name,
        dtype,
        shape,
        file: 0,
        offset,
        len,
    })
}

/// Makes offsets absolute, and checks that every tensor is within the file and none overlaps another.
fn place(list: &mut [Tensor], data: u64, file_len: u64) -> Result<()> {
    for t in list.iter_mut() {
        let end = data
            .checked_add(t.offset)
            .and_then(|at| at.checked_add(t.len));
        if end.is_none_or(|end| end > file_len) {
            return Err(Error::invalid(format_args!(
                "tensor {:?}: {} bytes at offset {} of the data at byte {data} end after the file's {file_len} bytes",
                t.shown, t.len, t.offset
            )));
        }
        t.offset += data;
    }
    let mut order: Vec<&Tensor> = list.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].len > pair[1].offset {
            return Err(Error::invalid(format_args!(
                "tensors {:?} and {:?} overlap at byte {}",
                pair[0].shown, pair[1].shown, pair[1].offset
            )));
        }
    }
    Ok(())
}

/// The name of a type that is not read, from the list in ggml.h.
fn type_name(code: u32) -> String {
    let name = match code {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        _ => return format!("number {code}"),
    };
    name.to_owned()
}

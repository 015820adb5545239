//! Foreign tensors, whatever file they lie in: names, shapes, types, and rows on demand.
//!
//! Files are read with positioned reads into small buffers, never mapped: a source that shrinks while it is imported is an error, not a
//! fault, and memory stays bounded by what one step of the importer asks for.

use crate::error::{Error, Result};
use half::{bf16, f16};
use quern_kernels::Format;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An open source file.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl SourceFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// I/O if it cannot be opened, Invalid if it is no regular file.
    pub fn open(path: &Path) -> Result<SourceFile> {
        let io = |e| Error::io("open", path, &e);
        // Before opening: opening a pipe would wait for its writer.
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(Error::invalid(format_args!(
                "{path:?} is not a regular file"
            )));
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Ok(SourceFile {
            path: path.to_owned(),
            file,
            len,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the operating system knows it by: device, inode, length, time of the last change in nanoseconds.
    ///
    /// # Errors
    /// I/O.
    pub fn identity(&self) -> Result<[u64; 4]> {
        let m = self
            .file
            .metadata()
            .map_err(|e| Error::io("read", &self.path, &e))?;
        let time = (m.mtime() as u64)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(m.mtime_nsec() as u64);
        Ok([m.dev(), m.ino(), m.len(), time])
    }

    /// Fills `out` from byte `offset`.
    ///
    /// # Errors
    /// I/O; Invalid if the file ends before.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                Error::invalid(format_args!(
                    "{:?} ends before byte {}",
                    self.path,
                    offset.saturating_add(out.len() as u64)
                ))
            } else {
                Error::io("read", &self.path, &e)
            }
        })
    }

    /// BLAKE3 of the whole file.
    ///
    /// # Errors
    /// I/O.
    pub fn hash(&self) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0u8; 1 << 20];
        let mut at = 0;
        while at < self.len {
            let n = (self.len - at).min(buffer.len() as u64) as usize;
            self.read_at(at, &mut buffer[..n])?;
            hasher.update(&buffer[..n]);
            at += n as u64;
        }
        Ok(hasher.finalize())
    }

    /// A whole small file.
    ///
    /// # Errors
    /// I/O; Limit if it is longer than `max` bytes or memory runs out.
    pub fn read_all(&self, max: u64) -> Result<Vec<u8>> {
        if self.len > max {
            return Err(Error::limit(format_args!(
                "{:?} has {} bytes, expected at most {max}",
                self.path, self.len
            )));
        }
        let mut bytes = zeroed(self.len as usize, "a file")?;
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A zeroed buffer whose size comes from input.
///
/// # Errors
/// Limit if there is not enough memory.
pub fn zeroed(len: usize, what: &str) -> Result<Vec<u8>> {
    let mut v = Vec::new();
    v.try_reserve_exact(len)
        .map_err(|_| crate::error::out_of_memory(what, len))?;
    v.resize(len, 0);
    Ok(v)
}

/// Types of blocks in GGUF: number, name, and the format that has the same codes and scales.
pub const BLOCK_TYPES: [(u32, &str, Format); 13] = [
    (2, "Q4_0", Format::Q4),
    (3, "Q4_1", Format::Q4m),
    (6, "Q5_0", Format::Q5),
    (7, "Q5_1", Format::Q5m),
    (8, "Q8_0", Format::Q8),
    (10, "Q2_K", Format::Q2k),
    (11, "Q3_K", Format::Q3k),
    (12, "Q4_K", Format::Q4k),
    (13, "Q5_K", Format::Q5k),
    (14, "Q6_K", Format::Q6k),
    (20, "IQ4_NL", Format::Iq4nl),
    (23, "IQ4_XS", Format::Iq4xs),
    (39, "MXFP4", Format::Mxfp4),
];

/// All types that are read, for messages.
pub fn readable_types() -> String {
    let blocks = BLOCK_TYPES.map(|(_, name, _)| name).join(", ");
    format!("F32, F16, BF16, {blocks}")
}

/// How a foreign tensor's values are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of GGUF that this format holds without loss.
    Blocks(Format),
    /// llama2.c version 2: all values as signed bytes, then one f32 scale per group of so many values.
    Groups(u32),
    /// Bytes that mean something only beside another tensor.
    U8,
    /// A type that no family reads, by name.
    Other(String),
}

impl Dtype {
    /// The name for messages.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Dtype::F32 => "F32".into(),
            Dtype::F16 => "F16".into(),
            Dtype::Bf16 => "BF16".into(),
            Dtype::Blocks(format) => {
                let mut types = BLOCK_TYPES.iter();
                let found = types.find(|(_, _, f)| f == format);
                found.map_or(format.name(), |(_, name, _)| name).into()
            }
            Dtype::Groups(n) => format!("Q8 in groups of {n}").into(),
            Dtype::U8 => "U8".into(),
            Dtype::Other(name) => name.into(),
        }
    }

    /// Values per block and bytes per block, for types whose rows are stored one after another.
    fn block(&self) -> Option<(u64, u64)> {
        Some(match self {
            Dtype::F32 => (1, 4),
            Dtype::F16 | Dtype::Bf16 => (1, 2),
            Dtype::Blocks(format) => {
                let (values, bytes) = format.gguf_block()?;
                (values as u64, bytes as u64)
            }
            Dtype::Groups(_) | Dtype::U8 | Dtype::Other(_) => return None,
        })
    }

    /// Bytes of a row of so many columns; none if the type has no rows, the blocks do not fit, or it overflows.
    pub fn row_bytes(&self, cols: u64) -> Option<u64> {
        let (values, bytes) = self.block()?;
        if !cols.is_multiple_of(values) {
            return None;
        }
        (cols / values).checked_mul(bytes)
    }
}

/// One foreign tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The name that families look for.
    pub name: String,
    /// The name in its file.
    pub shown: String,
    /// How its values are stored.
    pub dtype: Dtype,
    /// Outermost dimension first; a scalar has none.
    pub shape: Vec<u64>,
    /// Index into [`Tensors::files`].
    pub file: usize,
    /// First byte in that file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Tensor {
    /// Rows and columns: a vector has one column, and all outer dimensions are rows.
    pub fn matrix(&self) -> (u64, u64) {
        match self.shape.split_last() {
            None => (1, 1),
            Some((n, [])) => (*n, 1),
            Some((cols, outer)) => (outer.iter().product(), *cols),
        }
    }

    /// The columns that one stored row of blocks covers: a vector lies in its file as one row.
    fn stored_cols(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// All tensors of a model and the files they lie in. Offsets and lengths are within the files, and lengths agree with types and
/// shapes: whoever makes one has checked that.
#[derive(Debug, Default)]
pub struct Tensors {
    /// The open files.
    pub files: Vec<SourceFile>,
    list: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

/// More values than any tensor that a family looks into.
const MAX_VALUES: u64 = 1 << 20;

impl Tensors {
    /// Adds a tensor.
    ///
    /// # Errors
    /// There is one of that name already.
    pub fn add(&mut self, tensor: Tensor) -> Result<()> {
        if let Some(&other) = self.by_name.get(&tensor.name) {
            return Err(Error::invalid(format_args!(
                "tensor {:?} is there twice (also as {:?})",
                tensor.shown, self.list[other].shown
            )));
        }
        self.by_name.insert(tensor.name.clone(), self.list.len());
        self.list.push(tensor);
        Ok(())
    }

    /// The tensor that families know by this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&i| &self.list[i])
    }

    /// All of them, in the order of their files.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.list.iter()
    }

    /// Bytes of `count` rows from row `first`, as they are stored.
    ///
    /// # Errors
    /// I/O, memory; Invalid for a type without rows.
    ///
    /// # Panics
    /// If the rows are not within the tensor.
    pub fn read_raw(&self, t: &Tensor, first: u64, count: u64, out: &mut Vec<u8>) -> Result<()> {
        let (rows, cols) = t.matrix();
        assert!(first + count <= rows, "rows {first}+{count} of {rows}");
        let bytes = t.dtype.row_bytes(cols).ok_or_else(|| unreadable(t))?;
        let n = (count * bytes) as usize;
        out.clear();
        out.try_reserve_exact(n)
            .map_err(|_| crate::error::out_of_memory("rows of a tensor", n))?;
        out.resize(n, 0);
        self.files[t.file].read_at(t.offset + first * bytes, out)
    }

    /// `len` bytes of a tensor from its byte `from` on.
    ///
    /// # Errors
    /// I/O, memory.
    ///
    /// # Panics
    /// If they are not within the tensor.
    pub fn read_bytes(&self, t: &Tensor, from: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        assert!(
            from + len as u64 <= t.len,
            "bytes {from}+{len} of {}",
            t.len
        );
        out.clear();
        out.try_reserve_exact(len)
            .map_err(|_| crate::error::out_of_memory("rows of a tensor", len))?;
        out.resize(len, 0);
        self.files[t.file].read_at(t.offset + from, out)
    }

    /// Values of `count` rows from row `first`, widened to f32 and appended to `out`; `bytes` is a workspace.
    ///
    /// # Errors
    /// I/O, memory; Invalid for a type without values.
    ///
    /// # Panics
    /// If the rows are not within the tensor.
    pub fn read_f32(
        &self,
        t: &Tensor,
        first: u64,
        count: u64,
        bytes: &mut Vec<u8>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let n = (count * t.matrix().1) as usize;
        out.try_reserve(n)
            .map_err(|_| crate::error::out_of_memory("rows of a tensor", n.saturating_mul(4)))?;
        match &t.dtype {
            Dtype::Groups(group) => {
                self.read_groups(t, *group, first, count, bytes, |code, scale| {
                    out.push(f32::from(code) * scale);
                })
            }
            dtype => {
                self.read_raw(t, first, count, bytes)?;
                widen(dtype, bytes, out);
                Ok(())
            }
        }
    }

    /// As [`Tensors::read_raw`], with the groups of [`Dtype::Groups`] cut into the blocks of Q8_0, whose scales must fit
    /// ([`Tensors::groups_are_blocks`]).
    ///
    /// # Errors
    /// As [`Tensors::read_raw`].
    pub fn read_blocks(&self, t: &Tensor, first: u64, count: u64, out: &mut Vec<u8>) -> Result<()> {
        let Dtype::Groups(group) = t.dtype else {
            return self.read_raw(t, first, count, out);
        };
        out.clear();
        let (mut bytes, mut column) = (Vec::new(), 0u32);
        self.read_groups(t, group, first, count, &mut bytes, |code, scale| {
            if column.is_multiple_of(32) {
                out.extend(f16::from_f32(scale).to_le_bytes());
            }
            out.push(code as u8);
            column = column.wrapping_add(1);
        })
    }

    /// Whether a [`Dtype::Groups`] tensor is the same as blocks of Q8_0: groups are whole blocks and every scale is an f16.
    ///
    /// # Errors
    /// I/O.
    pub fn groups_are_blocks(&self, t: &Tensor) -> Result<bool> {
        let (rows, cols) = t.matrix();
        let Dtype::Groups(group) = t.dtype else {
            return Ok(false);
        };
        if !group.is_multiple_of(32) || !cols.is_multiple_of(32) {
            return Ok(false);
        }
        let (mut at, end) = (t.offset + rows * cols, t.offset + t.len);
        let mut buffer = vec![0u8; 1 << 16];
        while at < end {
            let n = (end - at).min(buffer.len() as u64) as usize;
            self.files[t.file].read_at(at, &mut buffer[..n])?;
            let fits = |b: &[u8]| {
                let scale = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                f16::from_f32(scale).to_f32().to_bits() == scale.to_bits()
            };
            if !buffer[..n].chunks_exact(4).all(fits) {
                return Ok(false);
            }
            at += n as u64;
        }
        Ok(true)
    }

    /// Columns `first..first + count` of one row, widened to f32 and appended to `out`.
    ///
    /// # Errors
    /// I/O, memory; Invalid for a type whose values are not stored one by one.
    ///
    /// # Panics
    /// If they are not within the tensor.
    pub fn read_columns(
        &self,
        t: &Tensor,
        row: u64,
        first: u64,
        count: u64,
        bytes: &mut Vec<u8>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (rows, cols) = t.matrix();
        assert!(
            row < rows && first + count <= cols,
            "columns {first}+{count} of row {row}"
        );
        let Some((1, size)) = t.dtype.block() else {
            return Err(unreadable(t));
        };
        bytes.clear();
        bytes.resize((count * size) as usize, 0);
        self.files[t.file].read_at(t.offset + (row * cols + first) * size, bytes)?;
        widen(&t.dtype, bytes, out);
        Ok(())
    }

    /// Rows of a [`Dtype::Groups`] tensor: every code with the scale of its group.
    ///
    /// # Errors
    /// I/O, memory.
    pub fn read_groups(
        &self,
        t: &Tensor,
        group: u32,
        first: u64,
        count: u64,
        bytes: &mut Vec<u8>,
        mut each: impl FnMut(i8, f32),
    ) -> Result<()> {
        let (rows, cols) = t.matrix();
        assert!(first + count <= rows, "rows {first}+{count} of {rows}");
        let group = u64::from(group);
        let (from, to) = (first * cols, (first + count) * cols);
        let groups = from / group..to.div_ceil(group);
        let codes = (to - from) as usize;
        let scales = (groups.end - groups.start) as usize * 4;
        bytes.clear();
        bytes
            .try_reserve_exact(codes + scales)
            .map_err(|_| crate::error::out_of_memory("rows of a tensor", codes + scales))?;
        bytes.resize(codes + scales, 0);
        let file = &self.files[t.file];
        let (code_bytes, scale_bytes) = bytes.split_at_mut(codes);
        file.read_at(t.offset + from, code_bytes)?;
        file.read_at(t.offset + rows * cols + 4 * groups.start, scale_bytes)?;
        for (i, &code) in code_bytes.iter().enumerate() {
            let g = ((from + i as u64) / group - groups.start) as usize * 4;
            let scale = &scale_bytes[g..g + 4];
            each(
                code as i8,
                f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]),
            );
        }
        Ok(())
    }

    fn small(&self, name: &str) -> Result<Vec<f32>> {
        let t = self.get(name).ok_or_else(|| missing(name))?;
        let (rows, cols) = t.matrix();
        if rows.saturating_mul(cols) > MAX_VALUES {
            return Err(Error::invalid(format_args!(
                "tensor {:?} has {} values, expected at most {MAX_VALUES}",
                t.shown,
                rows.saturating_mul(cols)
            )));
        }
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        self.read_f32(t, 0, rows, &mut bytes, &mut out)?;
        Ok(out)
    }

    fn equal(&self, a: &str, b: &str) -> Result<bool> {
        let (a, b) = (
            self.get(a).ok_or_else(|| missing(a))?,
            self.get(b).ok_or_else(|| missing(b))?,
        );
        if a.shape != b.shape || a.dtype != b.dtype || a.len != b.len {
            return Ok(false);
        }
        let (mut x, mut y) = (vec![0u8; 1 << 18], vec![0u8; 1 << 18]);
        let mut at = 0;
        while at < a.len {
            let n = (a.len - at).min(x.len() as u64) as usize;
            self.files[a.file].read_at(a.offset + at, &mut x[..n])?;
            self.files[b.file].read_at(b.offset + at, &mut y[..n])?;
            if x[..n] != y[..n] {
                return Ok(false);
            }
            at += n as u64;
        }
        Ok(true)
    }
}

impl quern_models::source::Tensors for Tensors {
    fn shape(&self, name: &str) -> Option<&[u64]> {
        self.get(name).map(|t| t.shape.as_slice())
    }

    fn values(&self, name: &str) -> quern_models::Result<Vec<f32>> {
        self.small(name).map_err(quern_models::Error::new)
    }

    fn same(&self, a: &str, b: &str) -> quern_models::Result<bool> {
        self.equal(a, b).map_err(quern_models::Error::new)
    }
}

fn missing(name: &str) -> Error {
    Error::invalid(format_args!("tensor {name:?} is missing"))
}

fn unreadable(t: &Tensor) -> Error {
    Error::invalid(format_args!(
        "tensor {:?} has type {} and {} columns, expected one of {} in whole blocks",
        t.shown,
        t.dtype.name(),
        t.stored_cols(),
        readable_types()
    ))
}

/// Widens stored values to f32, exactly.
fn widen(dtype: &Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    let two = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match dtype {
        Dtype::F32 => out.extend(
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        ),
        Dtype::F16 => out.extend(
            bytes
                .chunks_exact(2)
                .map(|b| f16::from_bits(two(b)).to_f32()),
        ),
        Dtype::Bf16 => out.extend(
            bytes
                .chunks_exact(2)
                .map(|b| bf16::from_bits(two(b)).to_f32()),
        ),
        Dtype::Blocks(format) => {
            let Some((values, size)) = format.gguf_block() else {
                unreachable!("{} has no blocks", format.name())
            };
            let at = out.len();
            out.resize(at + bytes.len() / size * values, 0.0);
            format.gguf_values(bytes, &mut out[at..]);
        }
        Dtype::Groups(_) | Dtype::U8 | Dtype::Other(_) => unreachable!("has no rows of its own"),
    }
}

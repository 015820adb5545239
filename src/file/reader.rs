//! Opening a weight file: everything is checked before anything is trusted.
//!
//! The order is the order of trust: the file is a regular one; its first page is a header that fits the file's length; the last page
//! agrees; the checksums of metadata and tensor table agree; the Spec is valid; and every entry of the table is what the Spec
//! requires. The tokenizer's checksum is compared when it is asked for. Data is not read: that is [`super::verify`]'s work, or the
//! forward pass's.

use super::header::{FileId, Header, PAGE_LEN, Section, hex};
use super::map::{Mapping, Source};
use super::meta::{Meta, key};
use super::table::{self, ENTRY_BYTES, Entry};
use crate::bytes::{AlignedBytes, Bytes};
use crate::error::{Error, Result};
use crate::tensor::{Matrix, Vector};
use quern_models::Spec;
use quern_models::spec::{Shape, TensorKey};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a file.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Map the file (the default) instead of reading it into private memory.
    pub mmap: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { mmap: true }
    }
}

/// Where the bytes of an open file are.
enum Memory {
    /// In a mapping of the file.
    Mapped(Arc<Mapping>),
    /// In the program's own file, which the system maps as well.
    Program,
    /// In memory of this process.
    Private,
}

/// An open, validated weight file.
pub struct ModelFile {
    path: PathBuf,
    bytes: Bytes,
    memory: Memory,
    header: Header,
    footer: Box<[u8; PAGE_LEN]>,
    spec: Spec,
    meta: Meta,
    entries: Vec<Entry>,
    /// Keys with their places in `entries`, in ascending order of keys.
    index: Vec<(TensorKey, u32)>,
}

impl ModelFile {
    /// Opens and validates a file.
    ///
    /// # Errors
    /// Io if it cannot be read, invalid if it is not a correct weight file, limit if memory does not suffice.
    pub fn open(path: &Path, options: OpenOptions) -> Result<ModelFile> {
        let source = Source::open(path)?;
        let mut start = [0; PAGE_LEN];
        let filled = source.read_start(&mut start)?;
        let header = Header::decode(&start[..filled], source.len())
            .map_err(|e| e.at(format_args!("{path:?}")))?;
        let (bytes, memory) = if options.mmap {
            let mapping = Arc::new(source.map()?);
            (Bytes::new(mapping.clone()), Memory::Mapped(mapping))
        } else {
            (Bytes::new(Arc::new(source.read()?)), Memory::Private)
        };
        Self::validate(path.to_path_buf(), bytes, memory, header)
    }

    /// Validates a file that is part of the program, without a copy; `name` takes the place of a path. The bytes begin at a multiple of
    /// [`crate::bytes::ALIGN`].
    ///
    /// # Errors
    /// Invalid if it is not a correct weight file.
    pub fn from_program(name: &str, bytes: &'static [u8]) -> Result<ModelFile> {
        Self::in_memory(name, Bytes::new(Arc::new(bytes)), Memory::Program)
    }

    /// Validates a file that is already in memory.
    ///
    /// # Errors
    /// Invalid if it is not a correct weight file.
    pub fn from_bytes(bytes: Arc<AlignedBytes>) -> Result<ModelFile> {
        Self::in_memory("memory", Bytes::new(bytes), Memory::Private)
    }

    fn in_memory(name: &str, bytes: Bytes, memory: Memory) -> Result<ModelFile> {
        let path = PathBuf::from(name);
        let start = &bytes[..bytes.len().min(PAGE_LEN)];
        let header = Header::decode(start, bytes.len() as u64)
            .map_err(|e| e.at(format_args!("{path:?}")))?;
        Self::validate(path, bytes, memory, header)
    }

    fn validate(path: PathBuf, bytes: Bytes, memory: Memory, header: Header) -> Result<ModelFile> {
        let place = format!("{path:?}");
        Self::validate_parts(path, bytes, memory, header).map_err(|e| e.at(place))
    }

    fn validate_parts(
        path: PathBuf,
        bytes: Bytes,
        memory: Memory,
        header: Header,
    ) -> Result<ModelFile> {
        let last_page = &bytes[bytes.len() - PAGE_LEN..];
        header.check_footer(last_page)?;
        let footer = Box::new(header.footer());
        for (section, hash, name) in [
            (header.metadata, &header.metadata_hash, "metadata"),
            (header.table, &header.table_hash, "tensor table"),
        ] {
            check_section(&bytes, section, hash, name)?;
        }
        let meta = Meta::decode(part(&bytes, header.metadata))?;
        let Some(json) = meta.bytes(key::SPEC) else {
            return Err(Error::invalid("metadata: there is no spec"));
        };
        let spec = Spec::from_json(json).map_err(Error::invalid)?;
        meta.check(spec.vocab_size)?;
        let tensors = spec.tensors();
        let (entries, end) =
            table::decode(part(&bytes, header.table), &tensors, header.data.offset)?;
        if end != header.data.end() {
            return Err(Error::invalid(format_args!(
                "header: data ends at byte {}, but the tensors of the Spec end at {end}",
                header.data.end()
            )));
        }
        let mut index: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(i, e)| (e.key, i as u32))
            .collect();
        index.sort_unstable();
        if let Some(twice) = index.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(Error::invalid(format_args!(
                "spec: tensor {} comes twice",
                twice[0].0
            )));
        }
        Ok(ModelFile {
            path,
            bytes,
            memory,
            header,
            footer,
            spec,
            meta,
            entries,
            index,
        })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model as data.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Everything that the file says about itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The first page.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The identity of the contents: equal files have equal ids.
    pub fn id(&self) -> FileId {
        self.header.id()
    }

    /// [`Self::id`] in hexadecimal digits.
    pub fn id_hex(&self) -> String {
        hex(&self.id())
    }

    /// Bytes of the whole file.
    pub fn len(&self) -> u64 {
        self.header.file_length
    }

    /// A weight file is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes that are mapped and shared with other processes; 0 if the file was read into private memory.
    pub fn mapped_bytes(&self) -> u64 {
        match self.memory {
            Memory::Mapped(_) | Memory::Program => self.len(),
            Memory::Private => 0,
        }
    }

    /// The prepared tokenizer, if the file has one. Its checksum is compared here and not at open: hashing the tables of a large vocabulary
    /// takes longer than everything that open does, and not everybody who opens a file needs them.
    ///
    /// # Errors
    /// Invalid if the section is damaged.
    pub fn tokenizer(&self) -> Result<Option<Bytes>> {
        let section = self.header.tokenizer;
        check_section(
            &self.bytes,
            section,
            &self.header.tokenizer_hash,
            "tokenizer",
        )
        .map_err(|e| e.at(format_args!("{:?}", self.path)))?;
        if section.length == 0 {
            return Ok(None);
        }
        Ok(self.bytes.slice(range(section)))
    }

    /// All tensors in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The recorded checksum of a tensor.
    ///
    /// # Panics
    /// If there is no entry of that index.
    pub fn checksum(&self, index: usize) -> &[u8] {
        let table = part(&self.bytes, self.header.table);
        table::checksum(&table[index * ENTRY_BYTES..][..ENTRY_BYTES])
    }

    /// The data of a tensor and the padding after it.
    ///
    /// # Panics
    /// If there is no entry of that index.
    pub fn data(&self, index: usize) -> (Bytes, &[u8]) {
        let entry = &self.entries[index];
        let range = range(Section {
            offset: entry.offset,
            length: entry.length,
        });
        let next = self
            .entries
            .get(index + 1)
            .map_or(self.header.data.end(), |e| e.offset);
        let padding = &self.bytes[range.end..next as usize];
        let data = self
            .bytes
            .slice(range)
            .expect("entries lie within the file since it was opened");
        (data, padding)
    }

    fn find(&self, key: TensorKey) -> Result<usize> {
        match self.index.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(place) => Ok(self.index[place].1 as usize),
            Err(_) => Err(Error::invalid(format_args!(
                "{:?}: there is no tensor {key}",
                self.path
            ))),
        }
    }

    /// A matrix.
    ///
    /// # Errors
    /// Invalid if the Spec has no such tensor, or if it is a vector.
    pub fn matrix(&self, key: TensorKey) -> Result<Matrix> {
        let index = self.find(key)?;
        let entry = &self.entries[index];
        let Shape::Matrix { count, rows, cols } = entry.shape else {
            return Err(Error::invalid(format_args!(
                "{:?}: tensor {key} is a vector, expected a matrix",
                self.path
            )));
        };
        let [count, rows, cols] = [count, rows, cols].map(|n| n as usize);
        Matrix::new(entry.format, count, rows, cols, self.data(index).0)
            .map_err(|e| e.at(format_args!("{:?}: tensor {key}", self.path)))
    }

    /// A vector that keeps the file's memory alive by itself.
    ///
    /// # Errors
    /// Invalid if the Spec has no such tensor, or if it is a matrix.
    pub fn vector(&self, key: TensorKey) -> Result<Vector> {
        let index = self.find(key)?;
        let entry = &self.entries[index];
        let Shape::Vector(len) = entry.shape else {
            return Err(Error::invalid(format_args!(
                "{:?}: tensor {key} is a matrix, expected a vector",
                self.path
            )));
        };
        Vector::new(len as usize, self.data(index).0)
            .map_err(|e| e.at(format_args!("{:?}: tensor {key}", self.path)))
    }

    /// Checks that nobody wrote into the mapped file or cut it since it was opened; cheap enough for every token.
    ///
    /// # Errors
    /// Changed.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.memory {
            Memory::Mapped(mapping) => mapping.check_unchanged(&self.footer[..]),
            // The system does not let anybody write into a program that runs.
            Memory::Program | Memory::Private => Ok(()),
        }
    }
}

impl std::fmt::Debug for ModelFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelFile({:?}, {})", self.path, self.id_hex())
    }
}

/// The range of a section that lies within memory.
fn range(section: Section) -> std::ops::Range<usize> {
    section.offset as usize..section.end() as usize
}

fn part(bytes: &Bytes, section: Section) -> &[u8] {
    &bytes[range(section)]
}

/// Checks the checksum of a section and the zeros between it and the next.
fn check_section(bytes: &Bytes, section: Section, hash: &[u8; 32], name: &str) -> Result<()> {
    if blake3::hash(part(bytes, section)).as_bytes() != hash {
        return Err(Error::invalid(format_args!(
            "{name}: checksum of the {} bytes at {} does not agree: the file is damaged",
            section.length, section.offset
        )));
    }
    let end = section.end() as usize;
    let gap = &bytes[end..end.next_multiple_of(PAGE_LEN)];
    if let Some(at) = gap.iter().position(|b| *b != 0) {
        return Err(Error::invalid(format_args!(
            "{name}: byte {} of the padding after it is {}, expected 0",
            end + at,
            gap[at]
        )));
    }
    Ok(())
}

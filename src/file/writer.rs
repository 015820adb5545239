//! Writing a weight file as a stream: tensors in the order of the Spec, each in chunks, nothing held but the tables.
//!
//! Where everything lies follows from the plan, so data is written first, straight to its place; then the footer, metadata, tokenizer and
//! table; the header last. A file without a header is not a weight file, whatever else it holds. [`Writer::create`] adds the rest of
//! what makes it atomic: a temporary name, a flush to the disk, opening it again with full validation, a rename.

use super::atomic::AtomicFile;
use super::header::{FileId, Hash, Header, PAGE_LEN, Section};
use super::meta::{Meta, Value, key};
use super::reader::{ModelFile, OpenOptions};
use super::table::Entry;
use crate::error::{Error, Result};
use quern_kernels::Format;
use quern_models::Spec;
use quern_models::spec::{Shape, TensorSpec};
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Everything about a file but its data.
pub struct WriterPlan {
    /// The model.
    pub spec: Spec,
    /// What the file says about itself; the writer adds the Spec.
    pub meta: Meta,
    /// The prepared tokenizer; may be empty.
    pub tokenizer: Vec<u8>,
    /// One format per tensor of the Spec, in its order; f32 for vectors.
    pub formats: Vec<Format>,
}

impl WriterPlan {
    /// A plan without tokenizer that stores every matrix in the format that `choose` gives it.
    pub fn new(spec: Spec, meta: Meta, choose: impl Fn(&TensorSpec) -> Format) -> WriterPlan {
        let format = |tensor: &TensorSpec| match tensor.shape {
            Shape::Vector(_) => Format::F32,
            Shape::Matrix { .. } => choose(tensor),
        };
        let formats = spec.tensors().iter().map(format).collect();
        WriterPlan {
            spec,
            meta,
            tokenizer: Vec::new(),
            formats,
        }
    }
}

/// A weight file being written to a sink.
pub struct Writer<W: Write + Seek> {
    sink: W,
    name: PathBuf,
    header: Header,
    spec: Spec,
    metadata: Vec<u8>,
    tokenizer: Vec<u8>,
    entries: Vec<Entry>,
    checksums: Vec<Hash>,
    /// Of the tensor that is being written.
    hasher: blake3::Hasher,
    written: u64,
}

impl Writer<AtomicFile> {
    /// Begins a file that appears at `path` when [`Writer::finish`] succeeds, and not before.
    ///
    /// # Errors
    /// As [`AtomicFile::create`] and [`Writer::new`].
    pub fn create(path: &Path, plan: WriterPlan) -> Result<Self> {
        Writer::new(AtomicFile::create(path)?, path, plan)
    }

    /// Writes the rest, flushes it to the disk, opens the result with full validation, and gives it its name.
    ///
    /// # Errors
    /// Invalid if tensors are missing; io. The target is then as it was, and nothing is left behind.
    pub fn finish(self) -> Result<FileId> {
        let (mut file, id) = self.seal()?;
        file.sync()?;
        let written = ModelFile::open(file.path(), OpenOptions::default())?;
        if written.id() != id {
            return Err(Error::new(
                crate::error::ErrorKind::Io,
                format_args!(
                    "{:?} reads back differently than it was written",
                    file.target()
                ),
            ));
        }
        drop(written);
        file.commit()?;
        Ok(id)
    }
}

impl Writer<Cursor<Vec<u8>>> {
    /// Begins a file in memory.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn in_memory(plan: WriterPlan) -> Result<Self> {
        Writer::new(Cursor::new(Vec::new()), Path::new("memory"), plan)
    }

    /// Writes the rest and returns the whole file.
    ///
    /// # Errors
    /// Invalid if tensors are missing.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.seal()?.0.into_inner())
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file on a sink that is empty; `name` is for messages.
    ///
    /// # Errors
    /// Invalid if the plan does not fit together; limit if the file would be too large; io.
    pub fn new(sink: W, name: &Path, plan: WriterPlan) -> Result<Self> {
        let WriterPlan {
            spec,
            meta,
            tokenizer,
            formats,
        } = plan;
        spec.validate().map_err(Error::invalid)?;
        let tensors = spec.tensors();
        if tensors.len() != formats.len() {
            return Err(Error::invalid(format_args!(
                "{} formats, expected one for each of {} tensors",
                formats.len(),
                tensors.len()
            )));
        }
        let metadata = encode_meta(meta, &spec)?;
        let mut entries = Vec::with_capacity(tensors.len());
        let mut misplaced = None;
        let header = Header::plan(
            metadata.len() as u64,
            tokenizer.len() as u64,
            tensors.len(),
            |start| {
                let mut offset = start;
                for (tensor, format) in tensors.iter().zip(&formats) {
                    match Entry::place(tensor, *format, offset) {
                        Ok((entry, next)) => {
                            entries.push(entry);
                            offset = next;
                        }
                        Err(e) => {
                            misplaced = Some(e);
                            return None;
                        }
                    }
                }
                Some(offset - start)
            },
        );
        if let Some(e) = misplaced {
            return Err(e);
        }
        let mut writer = Writer {
            sink,
            name: name.to_path_buf(),
            header: header?,
            spec,
            metadata,
            tokenizer,
            entries,
            checksums: Vec::new(),
            hasher: blake3::Hasher::new(),
            written: 0,
        };
        writer.seek(writer.header.data.offset)?;
        Ok(writer)
    }

    /// The tensor that comes next, or is being written; none when all are there.
    pub fn next(&self) -> Option<&Entry> {
        self.entries.get(self.checksums.len())
    }

    /// All tensors in the order in which they must be written.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes that the file will have.
    pub fn file_length(&self) -> u64 {
        self.header.file_length
    }

    /// Replaces the metadata by records of exactly the same stored length: for hashes of sources that are known only when everything was
    /// read, and are planned as a placeholder.
    ///
    /// # Errors
    /// Invalid if the length differs.
    pub fn replace_meta(&mut self, meta: Meta) -> Result<()> {
        let metadata = encode_meta(meta, &self.spec)?;
        if metadata.len() != self.metadata.len() {
            return Err(Error::invalid(format_args!(
                "metadata of {} bytes, expected the {} that were planned",
                metadata.len(),
                self.metadata.len()
            )));
        }
        self.metadata = metadata;
        Ok(())
    }

    /// Writes the next bytes of the current tensor.
    ///
    /// # Errors
    /// Invalid if the tensor would become longer than planned; io.
    pub fn write_tensor_chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(entry) = self.next() else {
            return Err(Error::invalid("data after the last tensor"));
        };
        let after = self.written + bytes.len() as u64;
        if after > entry.length {
            return Err(Error::invalid(format_args!(
                "tensor {}: {after} bytes, expected {}",
                entry.key, entry.length
            )));
        }
        self.hasher.update(bytes);
        self.written = after;
        self.write(bytes)
    }

    /// Ends the current tensor.
    ///
    /// # Errors
    /// Invalid if it is shorter than planned; io.
    pub fn finish_tensor(&mut self) -> Result<()> {
        let Some(entry) = self.next() else {
            return Err(Error::invalid("there is no tensor to finish"));
        };
        if self.written != entry.length {
            return Err(Error::invalid(format_args!(
                "tensor {}: {} bytes, expected {}",
                entry.key, self.written, entry.length
            )));
        }
        self.checksums.push(*self.hasher.finalize().as_bytes());
        self.hasher.reset();
        let written = std::mem::take(&mut self.written);
        self.pad(written)
    }

    /// Writes a whole vector.
    ///
    /// # Errors
    /// Invalid if the current tensor is not a vector of that length, or if a value is not finite; io.
    pub fn write_vector(&mut self, values: &[f32]) -> Result<()> {
        let planned = self.next().map(|e| (e.key, e.shape));
        let Some((key, Shape::Vector(len))) = planned else {
            return Err(Error::invalid(format_args!(
                "a vector, but the next tensor is {planned:?}"
            )));
        };
        if len as usize != values.len() {
            return Err(Error::invalid(format_args!(
                "tensor {key}: {} values, expected {len}",
                values.len()
            )));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::invalid(format_args!(
                "tensor {key}: value {at} is {}, expected a finite number",
                values[at]
            )));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.write_tensor_chunk(&bytes)?;
        self.finish_tensor()
    }

    /// Writes footer, metadata, tokenizer, table and header, and hands the sink back.
    ///
    /// # Errors
    /// Invalid if tensors are missing; io.
    pub fn seal(mut self) -> Result<(W, FileId)> {
        if let Some(missing) = self.next() {
            return Err(Error::invalid(format_args!(
                "tensor {} is missing: {} of {} tensors were written",
                missing.key,
                self.checksums.len(),
                self.entries.len()
            )));
        }
        let table: Vec<u8> = self
            .entries
            .iter()
            .zip(&self.checksums)
            .flat_map(|(entry, checksum)| entry.encode(checksum))
            .collect();
        let metadata = std::mem::take(&mut self.metadata);
        let tokenizer = std::mem::take(&mut self.tokenizer);
        self.header.metadata_hash = *blake3::hash(&metadata).as_bytes();
        self.header.tokenizer_hash = *blake3::hash(&tokenizer).as_bytes();
        self.header.table_hash = *blake3::hash(&table).as_bytes();
        let (header, id) = (self.header.clone(), self.header.id());
        self.write(&header.footer())?;
        self.write_section(header.metadata, &metadata)?;
        self.write_section(header.tokenizer, &tokenizer)?;
        self.write_section(header.table, &table)?;
        self.seek(0)?;
        self.write(&header.encode())?;
        self.sink
            .flush()
            .map_err(|e| Error::io("write", &self.name, &e))?;
        Ok((self.sink, id))
    }

    fn write_section(&mut self, section: Section, bytes: &[u8]) -> Result<()> {
        self.seek(section.offset)?;
        self.write(bytes)?;
        self.pad(section.length)
    }

    /// Zeros from `length` to the next page.
    fn pad(&mut self, length: u64) -> Result<()> {
        let over = (length % PAGE_LEN as u64) as usize;
        if over == 0 {
            return Ok(());
        }
        self.write(&[0; PAGE_LEN][over..])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.io(|sink| sink.write_all(bytes))
    }

    fn seek(&mut self, to: u64) -> Result<()> {
        self.io(|sink| sink.seek(SeekFrom::Start(to)).map(|_| ()))
    }

    fn io(&mut self, call: impl FnOnce(&mut W) -> io::Result<()>) -> Result<()> {
        call(&mut self.sink).map_err(|e| Error::io("write", &self.name, &e))
    }
}

/// The metadata of a file with the Spec in it.
fn encode_meta(mut meta: Meta, spec: &Spec) -> Result<Vec<u8>> {
    meta.set(key::SPEC, Value::Bytes(spec.to_json().into_bytes()));
    meta.check(spec.vocab_size)?;
    meta.encode()
}

//! A session in a file: docs/PROMPT-CACHE.md says what is in it. It is written as a stream, complete under its name or not at all, and read as one;
//! a session that was read is handed out only after the checksum over all of it agreed.

use super::Session;
use super::session::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::file::atomic::AtomicFile;
use crate::file::map::Source;
use crate::model::Model;
use byteorder::{ByteOrder, LittleEndian as LE};
use quern_kernels::KvType;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

/// First bytes of the file, for the reasons of the weight file's: a byte above 127 and both line ends.
pub const MAGIC: [u8; 8] = *b"\x89QKV\r\n\x1a\n";
/// Version of the format; another one is not read.
pub const VERSION: u32 = 1;
/// Version of the arithmetic that made the numbers: a change of the program that changes fingerprints raises it, since what it would compute of the rest
/// of a text does not fit to what an earlier one computed of its beginning.
pub const ARITHMETIC: u32 = 1;

const HEADER: usize = 128;
const CHECKSUM_AT: usize = HEADER - 32;
const HASH: usize = 32;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Header {
    arithmetic: u32,
    kv: KvType,
    exact: bool,
    model: [u8; 16],
    ids: u64,
    source: Option<u64>,
    prompt_len: u64,
    counted: u64,
    file_length: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[..8].copy_from_slice(&MAGIC);
        LE::write_u32(&mut b[8..], VERSION);
        LE::write_u32(&mut b[12..], self.arithmetic);
        b[16..32].copy_from_slice(&self.model);
        let kv = KvType::ALL.iter().position(|t| *t == self.kv);
        b[32] = kv.unwrap_or(0) as u8;
        b[33] = u8::from(self.source.is_some());
        b[34] = u8::from(!self.exact);
        LE::write_u64(&mut b[40..], self.ids);
        LE::write_u64(&mut b[48..], self.source.unwrap_or(0));
        LE::write_u64(&mut b[56..], self.prompt_len);
        LE::write_u64(&mut b[64..], self.counted);
        LE::write_u64(&mut b[72..], self.file_length);
        let hash = blake3::hash(&b[..CHECKSUM_AT]);
        b[CHECKSUM_AT..].copy_from_slice(hash.as_bytes());
        b
    }

    fn decode(b: &[u8; HEADER]) -> Result<Header> {
        if b[..8] != MAGIC {
            return Err(Error::invalid("this is no prompt cache"));
        }
        let version = LE::read_u32(&b[8..]);
        if version != VERSION {
            return Err(Error::invalid(format_args!(
                "version {version} of a prompt cache, expected {VERSION}"
            )));
        }
        if blake3::hash(&b[..CHECKSUM_AT]).as_bytes()[..] != b[CHECKSUM_AT..] {
            return Err(damaged("the header's checksum does not agree"));
        }
        let kv = KvType::ALL.get(usize::from(b[32])).copied();
        let kv = kv.ok_or_else(|| damaged(format_args!("element type {} is unknown", b[32])))?;
        let mut model = [0; 16];
        model.copy_from_slice(&b[16..32]);
        let header = Header {
            arithmetic: LE::read_u32(&b[12..]),
            kv,
            exact: b[34] == 0,
            model,
            ids: LE::read_u64(&b[40..]),
            source: (b[33] != 0).then(|| LE::read_u64(&b[48..])),
            prompt_len: LE::read_u64(&b[56..]),
            counted: LE::read_u64(&b[64..]),
            file_length: LE::read_u64(&b[72..]),
        };
        match header.encode() == *b {
            true => Ok(header),
            false => Err(damaged("the header has bytes that mean nothing")),
        }
    }

    /// Bytes of the ids of text and source.
    fn id_bytes(&self) -> Option<u64> {
        self.ids
            .checked_add(self.source.unwrap_or(0))?
            .checked_mul(4)
    }
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("{what}: the file is damaged"))
}

/// Hashes what passes.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        let hasher = blake3::Hasher::new();
        Hashed { inner, hasher }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(out)?;
        self.hasher.update(&out[..n]);
        Ok(n)
    }
}

/// Bytes that are hashed at once: enough that calls of the system do not count, and they stay in the second-level cache.
const BUFFER: usize = 256 << 10;

impl Session {
    /// Writes what the session holds to a file, which appears complete or not at all. Returns its length.
    ///
    /// # Errors
    /// Usage if the session is empty, or if `path` is there and is no regular file; io.
    pub fn write_to(&self, path: &Path, model: &Model) -> Result<u64> {
        let held = self.held.as_ref();
        let held =
            held.ok_or_else(|| Error::usage("the session is empty: there is nothing to save"))?;
        let sequence = &held.sequence;
        let source = held.source.as_ref().map(|s| s.len());
        let stored = sequence.stored_bytes(held.ids.len(), source.unwrap_or(0));
        let mut header = Header {
            arithmetic: ARITHMETIC,
            kv: held.kv,
            exact: held.exact,
            model: model.file().id(),
            ids: held.ids.len() as u64,
            source: source.map(|n| n as u64),
            prompt_len: sequence.prompt_len() as u64,
            counted: sequence.counts() as u64,
            file_length: 0,
        };
        let length = stored.and_then(|n| {
            let n = n.checked_add(header.id_bytes()?)?;
            n.checked_add((HEADER + HASH) as u64)
        });
        header.file_length =
            length.ok_or_else(|| Error::limit("the session is too large for a file"))?;
        let mut file = AtomicFile::create(path)?;
        let io = |e: std::io::Error| Error::io("write", path, &e);
        let mut out = BufWriter::with_capacity(BUFFER, Hashed::new(&mut file));
        let mut write = || {
            out.write_all(&header.encode())?;
            for id in held.ids.iter().chain(held.source.iter().flatten()) {
                out.write_all(&id.to_le_bytes())?;
            }
            sequence.write_to(&mut out)?;
            out.flush()?;
            let hash = out.get_ref().hasher.finalize();
            out.write_all(hash.as_bytes())?;
            out.flush()
        };
        write().map_err(io)?;
        drop(out);
        file.commit()?;
        Ok(header.file_length)
    }

    /// The session in a file that [`Session::write_to`] wrote for this model.
    ///
    /// # Errors
    /// Invalid if the file is damaged, is something else, or was made with another model or by other arithmetic; io; limit if memory does not
    /// suffice.
    pub fn read_from(path: &Path, model: &Model) -> Result<Session> {
        Self::read(path, model).map_err(|e| match e.kind() {
            ErrorKind::Invalid => e.at(format_args!("{path:?}")),
            _ => e,
        })
    }

    fn read(path: &Path, model: &Model) -> Result<Session> {
        let source = Source::open(path)?;
        let length = source.len();
        let io = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("it ends early"),
            _ => Error::io("read", path, &e),
        };
        if length < (HEADER + HASH) as u64 {
            return Err(Error::invalid(format_args!(
                "{length} bytes, expected at least {}: this is no prompt cache",
                HEADER + HASH
            )));
        }
        let hashed = Hashed::new(source.into_file().take(length - HASH as u64));
        let mut input = BufReader::with_capacity(BUFFER, hashed);
        let mut bytes = [0; HEADER];
        input.read_exact(&mut bytes).map_err(io)?;
        let header = Header::decode(&bytes)?;
        if header.file_length != length {
            return Err(damaged(format_args!(
                "{length} bytes, expected {}",
                header.file_length
            )));
        }
        if header.model != model.file().id() {
            return Err(Error::invalid("it was made with another model"));
        }
        if header.arithmetic != ARITHMETIC {
            return Err(Error::invalid(format_args!(
                "it was made by arithmetic {}, this program's is {ARITHMETIC}",
                header.arithmetic
            )));
        }
        let mut sequence = model.new_sequence(header.kv);
        let has_source = sequence.source().is_some();
        if has_source != header.source.is_some() {
            return Err(damaged("a source where there can be none, or none"));
        }
        // Everything that is allocated from here on is in the file, byte for byte.
        let counts = || {
            let [ids, source] = [header.ids, header.source.unwrap_or(0)].map(usize::try_from);
            let (ids, source) = (ids.ok()?, source.ok()?);
            let most = usize::try_from(length / 4).ok()?;
            if ids > most || source > most {
                return None;
            }
            let bytes = sequence.stored_bytes(ids, source)?;
            let all = bytes.checked_add(header.id_bytes()?)?;
            let all = all.checked_add((HEADER + HASH) as u64)?;
            (all == length).then_some((ids, source))
        };
        let (ids, source) =
            counts().ok_or_else(|| damaged("its length is not that of so many tokens"))?;
        let vocab = model.spec().vocab_size;
        let ids = read_ids(&mut input, ids, vocab)?.map_err(io)?;
        let source = read_ids(&mut input, source, vocab)?.map_err(io)?;
        sequence
            .read_from(&ids, source.len(), &mut input)?
            .map_err(io)?;
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        sequence.set_prompt_len(number(header.prompt_len));
        sequence.count_from(number(header.counted));
        // The buffer is empty: it was filled with what lies before the checksum, and all of that has been taken.
        let Hashed { inner, hasher } = input.into_inner();
        let mut expected = [0; HASH];
        inner.into_inner().read_exact(&mut expected).map_err(io)?;
        let hash = hasher.finalize();
        if hash.as_bytes() != &expected {
            return Err(damaged("the checksum of the whole does not agree"));
        }
        Ok(Session {
            held: Some(Held {
                sequence,
                source: has_source.then_some(source),
                kv: header.kv,
                exact: header.exact,
                ids,
            }),
        })
    }
}

fn read_ids(input: &mut impl Read, count: usize, vocab: u32) -> Result<std::io::Result<Vec<u32>>> {
    let mut ids = Vec::new();
    ids.try_reserve_exact(count)
        .map_err(|_| Error::limit("not enough memory for the ids of a prompt cache"))?;
    let mut bytes = [0; 4];
    for _ in 0..count {
        if let Err(e) = input.read_exact(&mut bytes) {
            return Ok(Err(e));
        }
        let id = u32::from_le_bytes(bytes);
        if id >= vocab {
            return Err(damaged(format_args!(
                "token id {id}, expected less than the vocabulary's {vocab}"
            )));
        }
        ids.push(id);
    }
    Ok(Ok(ids))
}

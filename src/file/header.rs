//! The first page and the last page of a weight file.
//!
//! ```text
//! byte   header (little-endian)                       byte  footer
//!    0   magic  89 'Q' 'R' 'N' 0d 0a 1a 0a               0  magic  89 'Q' 'E' 'N' 'D' 0d 0a 1a
//!    8   u16 major, u16 minor                            8  file length (u64)
//!   12   u32 header length (4096)                       16  file id (16 bytes)
//!   16   u64 required features                          32  root hash (32)
//!   24   u64 optional features                          64  zeros
//!   32   u64 file length                              4064  BLAKE3 of bytes 0..4064
//!   40   u32 number of tensors, u32 zero
//!   48   4 x (u64 offset, u64 length): metadata, tokenizer, tensor table, data
//!  112   BLAKE3 of metadata, of tokenizer, of tensor table (3 x 32)
//!  208   root hash: BLAKE3 of bytes 0..208
//!  240   file id: the first 16 bytes of the root hash
//!  256   zeros
//! 4064   BLAKE3 of bytes 0..4064
//! ```
//!
//! Sections follow each other in this order, each at the next multiple of 4096, so their lengths alone decide where they are; the
//! stored offsets must agree. The tensor table holds the checksum of every tensor, so the root hash covers the whole file, and equal
//! contents have equal ids.

use crate::error::{Error, Result};
use byteorder::{ByteOrder, LittleEndian as LE};

/// The unit of alignment of the file: sections, tensors and the file itself are whole pages.
pub const PAGE: u64 = 4096;
/// [`PAGE`] as a length in memory.
pub const PAGE_LEN: usize = PAGE as usize;
/// First bytes of a weight file: a byte above 127 and both line ends reveal a transfer in text mode, 1a ends a listing on DOS.
pub const MAGIC: [u8; 8] = *b"\x89QRN\r\n\x1a\n";
/// First bytes of the last page.
pub const FOOTER_MAGIC: [u8; 8] = *b"\x89QEND\r\n\x1a";
/// The version of the format that this program reads and writes.
pub const MAJOR: u16 = 1;
/// Its revision: a higher one only adds what a reader may ignore.
pub const MINOR: u16 = 0;
/// Required feature bits that this program knows: none yet.
pub const KNOWN_FEATURES: u64 = 0;
/// Bytes of one entry of the tensor table.
pub const ENTRY_LEN: u64 = 128;
/// Most bytes of metadata: a Spec of thousands of layers takes about one.
pub const MAX_METADATA: u64 = 64 << 20;
/// Most bytes of a prepared tokenizer: a million entries take about 50 MiB.
pub const MAX_TOKENIZER: u64 = 512 << 20;
/// Most tensors: far above layers x blocks x branches of anything known, and 128 MiB of table.
pub const MAX_TENSORS: u32 = 1 << 20;

const ROOT_AT: usize = 208;
const ID_AT: usize = 240;
const RESERVED_AT: usize = 256;
const CHECKSUM_AT: usize = PAGE_LEN - 32;
const FOOTER_RESERVED_AT: usize = 64;
const SECTION_NAMES: [&str; 4] = ["metadata", "tokenizer", "tensor table", "data"];

/// A BLAKE3 hash.
pub type Hash = [u8; 32];
/// The identity of a file's contents.
pub type FileId = [u8; 16];
/// One page.
pub type Page = [u8; PAGE_LEN];

/// Where a part of the file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Section {
    /// The byte after the last; sections of a decoded header are bounded, so this cannot overflow.
    pub fn end(self) -> u64 {
        self.offset + self.length
    }
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Revision of the format.
    pub minor: u16,
    /// Features that a reader must know.
    pub required: u64,
    /// Features that a reader may ignore.
    pub optional: u64,
    /// Bytes of the whole file.
    pub file_length: u64,
    /// Entries of the tensor table.
    pub n_tensors: u32,
    /// Typed key and value records.
    pub metadata: Section,
    /// The prepared tokenizer; may be empty.
    pub tokenizer: Section,
    /// The tensor table.
    pub table: Section,
    /// Tensor data, whole pages.
    pub data: Section,
    /// BLAKE3 of the metadata.
    pub metadata_hash: Hash,
    /// BLAKE3 of the tokenizer.
    pub tokenizer_hash: Hash,
    /// BLAKE3 of the tensor table.
    pub table_hash: Hash,
}

/// The next multiple of [`PAGE`]; `None` on overflow.
pub fn page_align(offset: u64) -> Option<u64> {
    Some(offset.checked_add(PAGE - 1)? & !(PAGE - 1))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Header {
    /// The header of a file with sections of these lengths.
    ///
    /// # Errors
    /// Limit if a section or the file is larger than the format allows.
    pub fn plan(
        metadata: u64,
        tokenizer: u64,
        n_tensors: usize,
        data_length: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<Header> {
        let too_large = |what: &str| Error::limit(format_args!("the {what} is too large"));
        if metadata > MAX_METADATA {
            return Err(too_large("metadata of the model file"));
        }
        if tokenizer > MAX_TOKENIZER {
            return Err(too_large("tokenizer of the model file"));
        }
        let n = u32::try_from(n_tensors).ok().filter(|n| *n <= MAX_TENSORS);
        let n_tensors = n.ok_or_else(|| too_large("number of tensors of the model file"))?;
        let place = || {
            let metadata = Section {
                offset: PAGE,
                length: metadata,
            };
            let tokenizer = Section {
                offset: page_align(metadata.end())?,
                length: tokenizer,
            };
            let table = Section {
                offset: page_align(tokenizer.end())?,
                length: u64::from(n_tensors) * ENTRY_LEN,
            };
            let offset = page_align(table.end())?;
            let length = data_length(offset)?;
            let data = Section { offset, length };
            let file_length = offset.checked_add(length)?.checked_add(PAGE)?;
            Some((metadata, tokenizer, table, data, file_length))
        };
        let (metadata, tokenizer, table, data, file_length) =
            place().ok_or_else(|| too_large("model file"))?;
        Ok(Header {
            minor: MINOR,
            required: 0,
            optional: 0,
            file_length,
            n_tensors,
            metadata,
            tokenizer,
            table,
            data,
            metadata_hash: [0; 32],
            tokenizer_hash: [0; 32],
            table_hash: [0; 32],
        })
    }

    fn sections(&self) -> [Section; 4] {
        [self.metadata, self.tokenizer, self.table, self.data]
    }

    /// The bytes that the root hash covers.
    fn rooted(&self) -> [u8; ROOT_AT] {
        let mut b = [0; ROOT_AT];
        b[..8].copy_from_slice(&MAGIC);
        LE::write_u16(&mut b[8..], MAJOR);
        LE::write_u16(&mut b[10..], self.minor);
        LE::write_u32(&mut b[12..], PAGE as u32);
        LE::write_u64(&mut b[16..], self.required);
        LE::write_u64(&mut b[24..], self.optional);
        LE::write_u64(&mut b[32..], self.file_length);
        LE::write_u32(&mut b[40..], self.n_tensors);
        for (i, section) in self.sections().iter().enumerate() {
            LE::write_u64(&mut b[48 + 16 * i..], section.offset);
            LE::write_u64(&mut b[56 + 16 * i..], section.length);
        }
        b[112..144].copy_from_slice(&self.metadata_hash);
        b[144..176].copy_from_slice(&self.tokenizer_hash);
        b[176..208].copy_from_slice(&self.table_hash);
        b
    }

    /// The hash over everything in the file.
    pub fn root(&self) -> Hash {
        *blake3::hash(&self.rooted()).as_bytes()
    }

    /// The identity of the file's contents.
    pub fn id(&self) -> FileId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.root()[..16]);
        id
    }

    /// The first page of the file.
    pub fn encode(&self) -> Page {
        let mut page = [0; PAGE_LEN];
        page[..ROOT_AT].copy_from_slice(&self.rooted());
        page[ROOT_AT..ID_AT].copy_from_slice(&self.root());
        page[ID_AT..RESERVED_AT].copy_from_slice(&self.id());
        seal(&mut page);
        page
    }

    /// The last page of the file.
    pub fn footer(&self) -> Page {
        let mut page = [0; PAGE_LEN];
        page[..8].copy_from_slice(&FOOTER_MAGIC);
        LE::write_u64(&mut page[8..], self.file_length);
        page[16..32].copy_from_slice(&self.id());
        page[32..FOOTER_RESERVED_AT].copy_from_slice(&self.root());
        seal(&mut page);
        page
    }

    /// Reads the first bytes of a file of `actual_length` bytes, and checks everything that a header alone can show.
    ///
    /// `start` is the first page, or less where the file is shorter.
    ///
    /// # Errors
    /// Invalid: not a weight file, a version or feature that is not known, a checksum, a length or an offset that does not agree.
    pub fn decode(start: &[u8], actual_length: u64) -> Result<Header> {
        check_magic(start)?;
        let Some(page) = start.first_chunk::<PAGE_LEN>() else {
            return Err(invalid(format_args!(
                "the file ends after {actual_length} bytes, inside its header of {PAGE}: it was cut short"
            )));
        };
        // Version and features come before the checksum: a later version may compute that differently.
        let major = LE::read_u16(&page[8..]);
        let minor = LE::read_u16(&page[10..]);
        if major != MAJOR {
            return Err(invalid(format_args!(
                "format version {major}.{minor}, this program reads version {MAJOR}: {}",
                if major > MAJOR {
                    "a newer program is needed"
                } else {
                    "import the model again"
                }
            )));
        }
        let required = LE::read_u64(&page[16..]);
        let unknown = required & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(invalid(format_args!(
                "required feature bit {} is not known to this program: a newer one is needed",
                unknown.trailing_zeros()
            )));
        }
        check_seal(page, "header")?;
        let length = LE::read_u32(&page[12..]);
        if u64::from(length) != PAGE {
            return Err(invalid(format_args!(
                "header length (byte 12) is {length}, expected {PAGE}"
            )));
        }
        let file_length = LE::read_u64(&page[32..]);
        if file_length != actual_length {
            return Err(invalid(format_args!(
                "the file has {actual_length} bytes, but its header says {file_length}: {}",
                if actual_length < file_length {
                    "it was cut short"
                } else {
                    "something was appended"
                }
            )));
        }
        let n_tensors = LE::read_u32(&page[40..]);
        if n_tensors > MAX_TENSORS {
            return Err(invalid(format_args!(
                "number of tensors (byte 40) is {n_tensors}, expected at most {MAX_TENSORS}"
            )));
        }
        let sections = read_sections(page, n_tensors, file_length)?;
        if page[44..48] != [0; 4] {
            return Err(invalid("bytes 44 to 48 are not zero"));
        }
        if minor == MINOR && page[RESERVED_AT..CHECKSUM_AT].iter().any(|b| *b != 0) {
            return Err(invalid(format_args!(
                "bytes {RESERVED_AT} to {CHECKSUM_AT} are not zero"
            )));
        }
        let hash = |at: usize| {
            let mut hash = [0; 32];
            hash.copy_from_slice(&page[at..at + 32]);
            hash
        };
        let header = Header {
            minor,
            required,
            optional: LE::read_u64(&page[24..]),
            file_length,
            n_tensors,
            metadata: sections[0],
            tokenizer: sections[1],
            table: sections[2],
            data: sections[3],
            metadata_hash: hash(112),
            tokenizer_hash: hash(144),
            table_hash: hash(176),
        };
        if hash(ROOT_AT) != header.root() {
            return Err(invalid("root hash (byte 208) does not agree"));
        }
        if page[ID_AT..RESERVED_AT] != header.id() {
            return Err(invalid("file id (byte 240) does not agree"));
        }
        Ok(header)
    }

    /// Compares the last page of the file with what it must be.
    ///
    /// # Errors
    /// Invalid; a page of zeros is named as a file cut short inside its last page.
    pub fn check_footer(&self, page: &[u8]) -> Result<()> {
        if page == self.footer() {
            return Ok(());
        }
        Err(Error::invalid(if page.iter().all(|b| *b == 0) {
            "footer: the last page is empty: the file was cut short or its copy is not complete"
                .to_string()
        } else if !page.starts_with(&FOOTER_MAGIC) {
            "footer: the last page is not a footer: the file was cut short, or something was appended".to_string()
        } else {
            "footer: does not agree with the header: this is a mixture of two files or damaged"
                .to_string()
        }))
    }
}

fn invalid(message: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("header: {message}"))
}

/// Stores the checksum of a page in its last 32 bytes.
fn seal(page: &mut Page) {
    let hash = blake3::hash(&page[..CHECKSUM_AT]);
    page[CHECKSUM_AT..].copy_from_slice(hash.as_bytes());
}

fn check_seal(page: &Page, what: &str) -> Result<()> {
    if *blake3::hash(&page[..CHECKSUM_AT]).as_bytes() != page[CHECKSUM_AT..] {
        return Err(Error::invalid(format_args!(
            "{what}: checksum (byte {CHECKSUM_AT}) does not agree: the file is damaged"
        )));
    }
    Ok(())
}

fn check_magic(start: &[u8]) -> Result<()> {
    if start.starts_with(&MAGIC) {
        return Ok(());
    }
    let begins = |prefix: &[u8]| start.starts_with(prefix);
    Err(Error::invalid(if start.is_empty() {
        "the file is empty, expected a model file".to_string()
    } else if begins(b"GGUF") {
        "this is a GGUF file: import it first (quern import)".to_string()
    } else if begins(b"\x89QRN\n") || begins(b"\x89QRN\r\r\n") || begins(b"\x09QRN") {
        "the magic was changed by a transfer in text mode: copy the file again in binary mode"
            .to_string()
    } else {
        format!(
            "not a model file of this program: it begins with \"{}\"",
            start[..start.len().min(8)].escape_ascii()
        )
    }))
}

/// Reads the four sections and checks that they lie where their lengths put them.
fn read_sections(page: &Page, n_tensors: u32, file_length: u64) -> Result<[Section; 4]> {
    let read = |i: usize| Section {
        offset: LE::read_u64(&page[48 + 16 * i..]),
        length: LE::read_u64(&page[56 + 16 * i..]),
    };
    let sections = [read(0), read(1), read(2), read(3)];
    let table_length = u64::from(n_tensors) * ENTRY_LEN;
    let mut next = PAGE;
    for (i, (section, name)) in sections.iter().zip(SECTION_NAMES).enumerate() {
        let Section { offset, length } = *section;
        if offset != next {
            return Err(invalid(format_args!(
                "offset of the {name} (byte {}) is {offset}, expected {next}",
                48 + 16 * i
            )));
        }
        let limit = [MAX_METADATA, MAX_TOKENIZER, table_length, u64::MAX][i];
        if length > limit || (i == 2 && length != limit) || (i == 3 && length % PAGE != 0) {
            let expected = match i {
                2 => format!("{limit} for {n_tensors} tensors"),
                3 => format!("a multiple of {PAGE}"),
                _ => format!("at most {limit}"),
            };
            return Err(invalid(format_args!(
                "length of the {name} (byte {}) is {length}, expected {expected}",
                56 + 16 * i
            )));
        }
        // The footer needs one page after the last section.
        next = offset
            .checked_add(length)
            .and_then(page_align)
            .filter(|end| *end <= file_length.saturating_sub(PAGE))
            .ok_or_else(|| {
                invalid(format_args!(
                    "the {name} of {length} bytes at {offset} does not fit into the file of {file_length}"
                ))
            })?;
    }
    if next.checked_add(PAGE) != Some(file_length) {
        return Err(invalid(format_args!(
            "file length (byte 32) is {file_length}, but data and footer end at {}",
            next.saturating_add(PAGE)
        )));
    }
    Ok(sections)
}

//! The tensor table: one entry of 128 bytes per tensor, in the order of [`Spec::tensors`].
//!
//! ```text
//! byte  0 stack u8   1 block u8   2 branch u8   3 format u8 (the kernels crate's code; 0, f32, for vectors)
//!       4 role u16   6 kind u8 (1 vector, 2 matrix)   7 zero   8 layer u32
//!      12 count u32  16 rows u32  20 cols u32  (a vector is one row)
//!      24 offset u64 32 length u64
//!      40 BLAKE3 of the data (32 bytes)
//!      72 zeros
//! ```
//!
//! Only the format is information: key, shape, offset and length follow from the Spec and the formats, and are recomputed and
//! compared when a file is opened. They are stored so that a file can be looked at without this program.

use super::header::{ENTRY_LEN, Hash, page_align};
use crate::error::{Error, Result};
use byteorder::{ByteOrder, LittleEndian as LE};
use quern_kernels::Format;
use quern_models::spec::{Role, Shape, TensorKey, TensorSpec};

#[allow(unused_imports)] // named in the documentation
use quern_models::Spec;

/// [`ENTRY_LEN`] as a length in memory.
pub const ENTRY_BYTES: usize = ENTRY_LEN as usize;
const CHECKSUM_AT: usize = 40;
const RESERVED_AT: usize = 72;

/// Where one tensor lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub key: TensorKey,
    /// Its shape.
    pub shape: Shape,
    /// How it is stored; f32 for vectors.
    pub format: Format,
    /// First byte in the file, a multiple of 4096.
    pub offset: u64,
    /// Bytes, without the padding after it.
    pub length: u64,
}

/// Bytes of a tensor in a format; `None` if they exceed the address space.
pub fn tensor_bytes(shape: Shape, format: Format) -> Option<u64> {
    match shape {
        Shape::Vector(len) => Some(u64::from(len) * 4),
        Shape::Matrix { count, rows, cols } => {
            let one = format.matrix_bytes(rows as usize, cols as usize)?;
            u64::try_from(one).ok()?.checked_mul(u64::from(count))
        }
    }
}

impl Entry {
    /// The entry of a tensor at an offset, and the offset of the next one.
    ///
    /// # Errors
    /// Invalid if the tensor is larger than a file can be, or a vector has a format other than f32.
    pub fn place(tensor: &TensorSpec, format: Format, offset: u64) -> Result<(Entry, u64)> {
        if matches!(tensor.shape, Shape::Vector(_)) && format != Format::F32 {
            return Err(Error::invalid(format_args!(
                "tensor {}: format is {}, expected f32 for a vector",
                tensor.key,
                format.name()
            )));
        }
        let placed = tensor_bytes(tensor.shape, format).and_then(|length| {
            let next = page_align(offset.checked_add(length)?)?;
            Some((length, next))
        });
        let Some((length, next)) = placed else {
            return Err(Error::invalid(format_args!(
                "tensor {}: {:?} in {} is larger than a file can be",
                tensor.key,
                tensor.shape,
                format.name()
            )));
        };
        let entry = Entry {
            key: tensor.key,
            shape: tensor.shape,
            format,
            offset,
            length,
        };
        Ok((entry, next))
    }

    /// The stored form.
    pub fn encode(&self, checksum: &Hash) -> [u8; ENTRY_BYTES] {
        let mut b = [0; ENTRY_BYTES];
        let (kind, count, rows, cols) = match self.shape {
            Shape::Vector(len) => (1, 1, 1, len),
            Shape::Matrix { count, rows, cols } => (2, count, rows, cols),
        };
        b[0] = self.key.stack;
        b[1] = self.key.block;
        b[2] = self.key.branch;
        b[3] = self.format.code();
        LE::write_u16(&mut b[4..], self.key.role.code());
        b[6] = kind;
        LE::write_u32(&mut b[8..], self.key.layer);
        LE::write_u32(&mut b[12..], count);
        LE::write_u32(&mut b[16..], rows);
        LE::write_u32(&mut b[20..], cols);
        LE::write_u64(&mut b[24..], self.offset);
        LE::write_u64(&mut b[32..], self.length);
        b[CHECKSUM_AT..RESERVED_AT].copy_from_slice(checksum);
        b
    }
}

/// The checksum in a stored entry.
///
/// # Panics
/// If `entry` is shorter than an entry.
pub fn checksum(entry: &[u8]) -> &[u8] {
    &entry[CHECKSUM_AT..RESERVED_AT]
}

/// Reads a table and compares every entry with what the tensors of the Spec require; data begins at `data_offset`.
///
/// Returns the entries and the end of the data.
///
/// # Errors
/// Invalid, naming the tensor, its index, the field, the value found and the one expected.
pub fn decode(bytes: &[u8], tensors: &[TensorSpec], data_offset: u64) -> Result<(Vec<Entry>, u64)> {
    let (stored, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if stored.len() != tensors.len() || !rest.is_empty() {
        return Err(Error::invalid(format_args!(
            "tensor table: {} tensors, expected {} for this Spec",
            stored.len(),
            tensors.len()
        )));
    }
    let mut entries = Vec::with_capacity(tensors.len());
    let mut offset = data_offset;
    for (i, (stored, tensor)) in stored.iter().zip(tensors).enumerate() {
        let Some(format) = Format::from_code(stored[3]) else {
            return Err(Error::invalid(format_args!(
                "tensor table: entry {i} ({}): format {} is not known, expected 0 to {}: a newer quern may have written this file",
                tensor.key,
                stored[3],
                Format::ALL.len() - 1
            )));
        };
        let (entry, next) = Entry::place(tensor, format, offset)
            .map_err(|e| e.at(format_args!("tensor table: entry {i}")))?;
        let mut hash = [0; 32];
        hash.copy_from_slice(checksum(stored));
        let expected = entry.encode(&hash);
        if *stored != expected {
            return Err(difference(i, tensor, stored, &expected));
        }
        entries.push(entry);
        offset = next;
    }
    Ok((entries, offset))
}

/// Names the first field in which a stored entry differs from the expected one.
fn difference(
    index: usize,
    tensor: &TensorSpec,
    found: &[u8; ENTRY_BYTES],
    expected: &[u8; ENTRY_BYTES],
) -> Error {
    // Name, first byte and length of each number of an entry.
    const FIELDS: [(&str, usize, usize); 13] = [
        ("stack", 0, 1),
        ("layer", 8, 4),
        ("block", 1, 1),
        ("branch", 2, 1),
        ("role", 4, 2),
        ("kind", 6, 1),
        ("byte 7", 7, 1),
        ("count", 12, 4),
        ("rows", 16, 4),
        ("cols", 20, 4),
        ("offset", 24, 8),
        ("length", 32, 8),
        ("format", 3, 1),
    ];
    let place = format!("tensor table: entry {index} ({})", tensor.key);
    for (name, at, length) in FIELDS {
        let number = |b: &[u8]| LE::read_uint(&b[at..], length);
        let (f, e) = (number(found), number(expected));
        if f != e {
            let role = |code: u64| {
                let role = u16::try_from(code).ok().and_then(Role::from_code);
                role.map_or(String::new(), |r| format!(" ({r:?})"))
            };
            let (fs, es) = if name == "role" {
                (role(f), role(e))
            } else {
                (String::new(), String::new())
            };
            return Error::invalid(format_args!("{place}: {name} is {f}{fs}, expected {e}{es}"));
        }
    }
    Error::invalid(format_args!(
        "{place}: bytes {RESERVED_AT} to {ENTRY_BYTES} are not zero"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<TensorSpec> {
        vec![
            TensorSpec {
                key: TensorKey::model(Role::TokenEmbedding),
                shape: Shape::Matrix {
                    count: 1,
                    rows: 17,
                    cols: 70,
                },
            },
            TensorSpec {
                key: TensorKey::block(3, 1, Role::PreNorm),
                shape: Shape::Vector(70),
            },
        ]
    }

    fn table() -> Vec<u8> {
        let tensors = tensors();
        let (a, next) = Entry::place(&tensors[0], Format::Q8, 8192).unwrap();
        let (b, _) = Entry::place(&tensors[1], Format::F32, next).unwrap();
        [a.encode(&[1; 32]), b.encode(&[2; 32])].concat()
    }

    #[test]
    fn entries_come_back_contiguous() {
        let (entries, end) = decode(&table(), &tensors(), 8192).unwrap();
        let bytes = Format::Q8.matrix_bytes(17, 70).unwrap() as u64;
        assert_eq!(entries[0].length, bytes);
        assert_eq!(entries[1].offset, page_align(8192 + bytes).unwrap());
        assert_eq!(entries[1].length, 280);
        assert_eq!(end, entries[1].offset + 4096);
    }

    #[test]
    fn every_field_is_compared_and_named() {
        let good = table();
        for (at, value, expected) in [
            (0, 1, "stack is 1, expected 0"),
            (1, 0, "block is 0, expected 255"),
            (2, 9, "branch is 9, expected 255"),
            (3, 200, "format 200 is not known"),
            (4, 2, "role is 2 (Head), expected 1 (TokenEmbedding)"),
            (6, 1, "kind is 1, expected 2"),
            (7, 1, "byte 7 is 1, expected 0"),
            (8, 0, "layer is 4294967040, expected 4294967295"),
            (12, 2, "count is 2, expected 1"),
            (16, 16, "rows is 16, expected 17"),
            (20, 71, "cols is 71, expected 70"),
            (25, 0x10, "offset is 4096, expected 8192"),
            (39, 0x80, "length is 92233720368547"),
            (127, 1, "bytes 72 to 128 are not zero"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            let e = decode(&bad, &tensors(), 8192).unwrap_err().to_string();
            assert!(e.contains(expected), "byte {at}: {e}");
            assert!(e.contains("entry 0 (token_embedding)"), "{e}");
        }
        let mut bad = good.clone();
        bad[ENTRY_BYTES + 3] = Format::F16.code();
        let e = decode(&bad, &tensors(), 8192).unwrap_err().to_string();
        assert!(
            e.contains("entry 1") && e.contains("expected f32 for a vector"),
            "{e}"
        );
        let e = decode(&good[..ENTRY_BYTES], &tensors(), 8192).unwrap_err();
        assert!(e.to_string().contains("1 tensors, expected 2"), "{e}");
    }

    #[test]
    fn sizes_that_overflow_are_errors() {
        let huge = TensorSpec {
            key: TensorKey::model(Role::Head),
            shape: Shape::Matrix {
                count: u32::MAX,
                rows: u32::MAX,
                cols: u32::MAX,
            },
        };
        let e = Entry::place(&huge, Format::F32, 0).unwrap_err();
        assert!(e.to_string().contains("larger than a file can be"), "{e}");
        let small = tensors()[1];
        assert!(Entry::place(&small, Format::F32, u64::MAX - 4095).is_err());
    }
}

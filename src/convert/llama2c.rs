//! Reading checkpoints of llama2.c; the headers are explained in `quern_models::llama2c`.

use super::source::{Dtype, SourceFile, Tensor, Tensors};
use crate::error::{Error, Result};
use quern_models::llama2c::{Encoding, HEADER_BYTES, Header};

/// Reads the header and says where every tensor lies.
///
/// # Errors
/// Invalid, naming the byte and field, or the lengths that do not agree; I/O.
pub fn read(file: SourceFile) -> Result<(Header, Tensors)> {
    let place = format!("{:?}", file.path());
    let invalid = |e: String| Error::invalid(e).at(&place);
    let mut bytes = vec![0u8; file.len().min(HEADER_BYTES as u64) as usize];
    file.read_at(0, &mut bytes)?;
    let header = Header::parse(&bytes).map_err(|e| invalid(e.to_string()))?;
    if header.file_len() != u128::from(file.len()) {
        return Err(invalid(format!(
            "the file has {} bytes, expected the {} that its header implies",
            file.len(),
            header.file_len()
        )));
    }
    let mut out = Tensors::default();
    let mut at = header.len;
    for part in header.parts() {
        let len = part.bytes();
        if let Some(name) = part.name {
            out.add(Tensor {
                shown: name.clone(),
                name,
                dtype: match part.encoding {
                    Encoding::F32 => Dtype::F32,
                    Encoding::Q8(group) => Dtype::Groups(group),
                },
                shape: part.shape,
                file: 0,
                offset: at,
                len,
            })?;
        }
        at += len;
    }
    out.files.push(file);
    Ok((header, out))
}

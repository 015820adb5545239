//! Reading all data of a weight file: checksums, finite values, canonical padding.
//!
//! Opening checks everything but the data, since that would mean to read it all. This does read it all, tensors spread over
//! threads; the failure of the first tensor in file order is reported, whichever thread finds one first.

use super::reader::ModelFile;
use crate::error::{Error, Result};
use crate::tensor::{Matrix, as_f32};
use quern_kernels::PANEL_ROWS;
use quern_models::spec::Shape;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Checks all data; `progress` is told how many bytes were read since it was last told, from any thread.
///
/// # Errors
/// Invalid, naming the tensor, its index and the element; changed if the file changed meanwhile.
pub fn verify(file: &ModelFile, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
    file.tokenizer()?;
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= file.entries().len() {
                return;
            }
            if let Err(e) = verify_tensor(file, index, progress) {
                // No tensor after this one matters any more, but all before it are already taken and will be finished.
                next.fetch_max(file.entries().len(), Ordering::Relaxed);
                let mut failed = failed.lock().expect("no thread panics while it holds this");
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, e));
                }
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(file.entries().len()) {
            scope.spawn(work);
        }
        work();
    });
    file.check_unchanged()?;
    match failed.into_inner().expect("all threads have ended") {
        Some((_, e)) => Err(e),
        None => Ok(()),
    }
}

/// Checks the data of one tensor and the zeros after it.
fn verify_tensor(file: &ModelFile, index: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let entry = &file.entries()[index];
    let fail = |what: std::fmt::Arguments<'_>| {
        Error::invalid(format_args!(
            "{:?}: tensor {index} ({}): {what}",
            file.path(),
            entry.key
        ))
    };
    let (data, padding) = file.data(index);
    let mut hasher = blake3::Hasher::new();
    for chunk in data.chunks(1 << 20) {
        hasher.update(chunk);
        progress(chunk.len() as u64);
    }
    if hasher.finalize().as_bytes() != file.checksum(index) {
        return Err(fail(format_args!(
            "checksum of the {} bytes at {} does not agree: the file is damaged",
            entry.length, entry.offset
        )));
    }
    if let Some(at) = padding.iter().position(|b| *b != 0) {
        return Err(fail(format_args!(
            "byte {} of the padding after it is {}, expected 0",
            entry.offset + entry.length + at as u64,
            padding[at]
        )));
    }
    match entry.shape {
        Shape::Vector(_) => {
            let values = as_f32(&data)?;
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                return Err(fail(format_args!(
                    "value {at} is {}, expected a finite number",
                    values[at]
                )));
            }
        }
        Shape::Matrix { count, rows, cols } => {
            let (rows, cols) = (rows as usize, cols as usize);
            let matrix = Matrix::new(entry.format, count as usize, rows, cols, data.clone())?;
            for m in 0..matrix.count() {
                for p in 0..matrix.panels() {
                    let n_rows = (rows - p * PANEL_ROWS).min(PANEL_ROWS);
                    let checked = entry.format.check_panel(matrix.panel(m, p), n_rows, cols);
                    if let Err(bad) = checked {
                        return Err(fail(format_args!(
                            "matrix {m}, row {}, column {}: {}",
                            p * PANEL_ROWS + bad.row,
                            bad.col,
                            bad.what
                        )));
                    }
                }
            }
        }
    }
    Ok(())
}

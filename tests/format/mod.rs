//! The weight file: what is written is what is read, and what is not exactly that is refused.

mod faults;
mod fixtures;
mod hostile;
mod shown;

use crate::common::{Small, small_spec};
use quern::bytes::AlignedBytes;
use quern::error::Error;
use quern::file::meta::key;
use quern::file::verify::verify;
use quern::file::{Meta, ModelFile, OpenOptions, Value, Writer, WriterPlan};
use quern_kernels::Format;
use quern_models::Spec;
use quern_models::spec::*;
use std::path::Path;
use std::sync::Arc;

/// One dense layer between a norm and a tied head: few pages, every kind of entry.
fn tiny_spec() -> Spec {
    let mut spec = small_spec(Small {
        vocab: 18,
        hidden: 12,
        inner: 20,
        layers: 1,
        ..Small::default()
    });
    spec.ropes.clear();
    spec.decoder.layers[0].blocks.remove(0);
    spec.decoder.final_norm = None;
    spec.head.as_mut().unwrap().tied = true;
    spec
}

/// The matrices of [`tiny_spec`] in q8 (embedding), `format` (gate and up) and f16 (down).
fn tiny_plan(format: Format) -> WriterPlan {
    let mut meta = Meta::new();
    meta.set(key::NAME, Value::String("tiny".into()));
    meta.set(key::BOS, Value::U32(1));
    meta.set(key::EOS, Value::U32s(vec![2]));
    meta.set("x.list", Value::Strings(vec!["a".into(), "b".into()]));
    let mut plan = WriterPlan::new(tiny_spec(), meta, |tensor| match tensor.key.role {
        Role::TokenEmbedding => Format::Q8,
        Role::MlpDown => Format::F16,
        _ => format,
    });
    plan.tokenizer = b"prepared tokenizer".to_vec();
    plan
}

/// Multiples of 1/64 below 1: exact in f16.
fn value(i: usize) -> f32 {
    ((i * 37 + 11) % 101) as f32 / 64.0 - 0.75
}

/// Writes every tensor of a plan.
fn fill<W: std::io::Write + std::io::Seek>(writer: &mut Writer<W>) -> Result<(), Error> {
    while let Some(entry) = writer.next().copied() {
        match entry.shape {
            Shape::Vector(len) => {
                let values: Vec<f32> = (0..len as usize).map(value).collect();
                writer.write_vector(&values)?;
            }
            Shape::Matrix { count, rows, cols } => {
                let (rows, cols) = (rows as usize, cols as usize);
                let values: Vec<f32> = (0..rows * cols).map(value).collect();
                for _ in 0..count {
                    for panel in values.chunks(16 * cols) {
                        let mut out = vec![0; entry.format.panel_bytes(cols).unwrap()];
                        let n_rows = panel.len() / cols;
                        entry.format.pack_panel(panel, n_rows, cols, &mut out);
                        writer.write_tensor_chunk(&out)?;
                    }
                }
                writer.finish_tensor()?;
            }
        }
    }
    Ok(())
}

fn tiny_file() -> Vec<u8> {
    let mut writer = Writer::in_memory(tiny_plan(Format::Q4)).unwrap();
    fill(&mut writer).unwrap();
    writer.finish().unwrap()
}

/// Writes [`tiny_file`] to a path the way an import does.
fn write_tiny(path: &Path) -> Result<(), Error> {
    let mut writer = Writer::create(path, tiny_plan(Format::Q4))?;
    fill(&mut writer)?;
    writer.finish().map(|_| ())
}

fn open_bytes(bytes: &[u8]) -> Result<ModelFile, Error> {
    let file = ModelFile::from_bytes(Arc::new(AlignedBytes::copy_of(bytes)?))?;
    file.tokenizer()?;
    Ok(file)
}

fn open(path: &Path) -> Result<ModelFile, Error> {
    ModelFile::open(path, OpenOptions::default())
}

/// Opens and reads everything.
fn verify_bytes(bytes: &[u8]) -> Result<(), Error> {
    verify(&open_bytes(bytes)?, 1, &|_| {})
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn check_contents(file: &ModelFile) {
    assert_eq!(*file.spec(), tiny_spec());
    assert_eq!(file.meta().name(), Some("tiny"));
    assert_eq!(file.meta().eos(), [2]);
    assert_eq!(
        &file.tokenizer().unwrap().unwrap()[..],
        b"prepared tokenizer"
    );
    let embedding = file.matrix(TensorKey::model(Role::TokenEmbedding)).unwrap();
    assert_eq!(
        (embedding.format(), embedding.rows(), embedding.cols()),
        (Format::Q8, 18, 12)
    );
    let down = TensorKey::branch(0, 0, 0, Role::MlpDown);
    let mut row = vec![0.0; 20];
    file.matrix(down).unwrap().row(0, 7, &mut row);
    let expected: Vec<f32> = (7 * 20..8 * 20).map(value).collect();
    assert_eq!(row, expected);
    let norm = TensorKey::block(0, 0, Role::PreNorm);
    let expected: Vec<f32> = (0..12).map(value).collect();
    assert_eq!(*file.vector(norm).unwrap(), expected[..]);
    for (e, expected) in [
        (file.matrix(norm).unwrap_err(), "is a vector"),
        (file.vector(down).unwrap_err(), "is a matrix"),
        (
            file.matrix(TensorKey::model(Role::Head)).unwrap_err(),
            "there is no tensor head",
        ),
    ] {
        assert!(e.to_string().contains(expected), "{e}");
    }
    verify(file, 2, &|_| {}).unwrap();
}

#[test]
fn a_file_within_the_program_is_used_in_place() {
    let bytes: &'static AlignedBytes =
        Box::leak(Box::new(AlignedBytes::copy_of(&tiny_file()).unwrap()));
    let bytes: &'static [u8] = bytes.as_ref();
    let file = ModelFile::from_program("built in", bytes).unwrap();
    assert_eq!(file.path(), Path::new("built in"));
    assert_eq!(file.mapped_bytes(), bytes.len() as u64);
    file.check_unchanged().unwrap();
    let inside = bytes.as_ptr_range();
    for index in 0..file.entries().len() {
        let (data, _) = file.data(index);
        assert!(inside.contains(&data.as_ptr()), "tensor {index} is a copy");
    }
    let tokenizer = file.tokenizer().unwrap().unwrap();
    assert!(inside.contains(&tokenizer.as_ptr()));
    let e = ModelFile::from_program("built in", &bytes[..8192]).unwrap_err();
    assert!(e.to_string().starts_with("\"built in\": "), "{e}");
}

#[test]
fn what_is_written_is_what_is_read() {
    let bytes = tiny_file();
    check_contents(&open_bytes(&bytes).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    write_tiny(&path).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        bytes,
        "equal imports are equal bytes"
    );
    for mmap in [true, false] {
        let file = ModelFile::open(&path, OpenOptions { mmap }).unwrap();
        check_contents(&file);
        assert_eq!(file.id(), open_bytes(&bytes).unwrap().id());
        assert_eq!(
            file.mapped_bytes(),
            if mmap { bytes.len() as u64 } else { 0 }
        );
        file.check_unchanged().unwrap();
    }
    assert_eq!(names(folder.path()), ["tiny.quern"]);
}

#[test]
fn a_file_without_tokenizer_has_none() {
    let mut plan = tiny_plan(Format::F32);
    plan.tokenizer.clear();
    let mut writer = Writer::in_memory(plan).unwrap();
    fill(&mut writer).unwrap();
    let file = open_bytes(&writer.finish().unwrap()).unwrap();
    assert!(file.tokenizer().unwrap().is_none());
    verify(&file, 1, &|_| {}).unwrap();
}

#[test]
fn views_outlive_the_file_that_made_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.quern");
    write_tiny(&path).unwrap();
    let file = open(&path).unwrap();
    let tokenizer = file.tokenizer().unwrap().unwrap();
    let norm = file.vector(TensorKey::block(0, 0, Role::PreNorm)).unwrap();
    drop(file);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(&tokenizer[..], b"prepared tokenizer");
    assert_eq!(norm[3], value(3));
}

#[test]
fn the_writer_refuses_what_the_plan_does_not_say() {
    let begin = || Writer::in_memory(tiny_plan(Format::Q4)).unwrap();
    let says = |e: Error, expected: &str| {
        assert_eq!(e.exit_code(), 3);
        assert!(e.to_string().contains(expected), "{e}");
    };
    let mut writer = begin();
    let length = writer.next().unwrap().length as usize;
    says(
        writer.write_tensor_chunk(&vec![0; length + 1]).unwrap_err(),
        "token_embedding: 2177 bytes, expected 2176",
    );
    says(
        writer.finish_tensor().unwrap_err(),
        "0 bytes, expected 2176",
    );
    says(writer.write_vector(&[0.0]).unwrap_err(), "a vector, but");
    writer.write_tensor_chunk(&vec![0; length]).unwrap();
    writer.finish_tensor().unwrap();
    let mut values = vec![0.0; 12];
    says(
        writer.write_vector(&values[1..]).unwrap_err(),
        "11 values, expected 12",
    );
    values[5] = f32::NAN;
    says(
        writer.write_vector(&values).unwrap_err(),
        "pre_norm: value 5 is NaN",
    );
    says(
        writer.finish().unwrap_err(),
        "pre_norm is missing: 1 of 5 tensors",
    );
    let mut writer = begin();
    fill(&mut writer).unwrap();
    says(
        writer.write_tensor_chunk(&[0]).unwrap_err(),
        "after the last tensor",
    );

    let mut plan = tiny_plan(Format::Q4);
    plan.formats.pop();
    let formats = Writer::in_memory(plan).map(|_| ()).unwrap_err();
    says(formats, "4 formats, expected one for each of 5");
    let mut plan = tiny_plan(Format::Q4);
    plan.formats[1] = Format::Q8;
    says(
        Writer::in_memory(plan).map(|_| ()).unwrap_err(),
        "expected f32 for a vector",
    );
    let mut plan = tiny_plan(Format::Q4);
    plan.meta.set(key::BOS, Value::U32(18));
    says(
        Writer::in_memory(plan).map(|_| ()).unwrap_err(),
        "token.bos is 18",
    );
}

#[test]
fn planned_metadata_can_be_replaced_by_the_same_length() {
    let mut plan = tiny_plan(Format::Q4);
    plan.meta.set(key::QUANT, Value::String("????".into()));
    let mut meta = plan.meta.clone();
    let mut writer = Writer::in_memory(plan).unwrap();
    fill(&mut writer).unwrap();
    meta.set(key::QUANT, Value::String("longer".into()));
    let e = writer.replace_meta(meta.clone()).unwrap_err();
    assert!(e.to_string().contains("that were planned"), "{e}");
    meta.set(key::QUANT, Value::String("keep".into()));
    writer.replace_meta(meta).unwrap();
    let file = open_bytes(&writer.finish().unwrap()).unwrap();
    assert_eq!(file.meta().string(key::QUANT), Some("keep"));
}

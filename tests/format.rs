//! The weight file: what is written is what is read, and what is not exactly that is refused.

use quern::bytes::AlignedBytes;
use quern::error::Error;
use quern::file::meta::key;
use quern::file::verify::verify;
use quern::file::{Meta, ModelFile, OpenOptions, Value, Writer, WriterPlan};
use quern_kernels::Format;
use quern_models::Spec;
use quern_models::spec::*;
use std::sync::Arc;

/// One dense layer with biases and norms: few pages, every kind of entry.
fn small_spec() -> Spec {
    let norm = Norm {
        kind: NormKind::Rms,
        eps: 1e-5,
        weight: true,
        bias: false,
    };
    let dense = Dense {
        inner: 20,
        activation: Activation::Silu,
        gated: false,
        up_bias: false,
        down_bias: false,
    };
    Spec {
        vocab_size: 18,
        hidden: 12,
        context_length: 64,
        embed: Embed { scale: 1.0 },
        ropes: Vec::new(),
        decoder: Stack {
            layers: vec![Layer {
                blocks: vec![Block {
                    pre: Some(norm),
                    branches: vec![Branch {
                        pre: None,
                        op: Op::Dense(dense),
                    }],
                    post: None,
                    scale: 1.0,
                }],
            }],
            final_norm: None,
        },
        head: Head {
            tied: true,
            bias: false,
            scale: 1.0,
            softcap: None,
        },
    }
}

fn small_plan() -> WriterPlan {
    let mut meta = Meta::new();
    meta.set(key::NAME, Value::String("small".into()));
    meta.set(key::BOS, Value::U32(1));
    meta.set(key::EOS, Value::U32s(vec![2]));
    let formats = [Format::Q8, Format::Q4, Format::F16];
    let matrices = std::cell::Cell::new(0);
    let mut plan = WriterPlan::new(small_spec(), meta, |_| {
        let n = matrices.get();
        matrices.set(n + 1);
        formats[n % formats.len()]
    });
    plan.tokenizer = b"prepared tokenizer".to_vec();
    plan
}

/// Numbers that are exact in every format's tests: small, different, finite.
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

fn small_file() -> Vec<u8> {
    let mut writer = Writer::in_memory(small_plan()).unwrap();
    fill(&mut writer).unwrap();
    writer.finish().unwrap()
}

fn open_bytes(bytes: &[u8]) -> Result<ModelFile, Error> {
    ModelFile::from_bytes(Arc::new(AlignedBytes::copy_of(bytes)?))
}

fn check_contents(file: &ModelFile) {
    assert_eq!(*file.spec(), small_spec());
    assert_eq!(file.meta().name(), Some("small"));
    assert_eq!(&file.tokenizer().unwrap()[..], b"prepared tokenizer");
    let embedding = file.matrix(TensorKey::model(Role::TokenEmbedding)).unwrap();
    assert_eq!(
        (embedding.format(), embedding.rows(), embedding.cols()),
        (Format::Q8, 18, 12)
    );
    let down = file
        .matrix(TensorKey::branch(0, 0, 0, Role::MlpDown))
        .unwrap();
    let mut row = vec![0.0; 20];
    down.row(0, 7, &mut row);
    // The values are multiples of 1/64 below 1, which f16 holds exactly.
    let expected: Vec<f32> = (7 * 20..8 * 20).map(value).collect();
    assert_eq!(row, expected);
    let norm = file.vector(TensorKey::block(0, 0, Role::PreNorm)).unwrap();
    let expected: Vec<f32> = (0..12).map(value).collect();
    assert_eq!(*norm, expected[..]);
    verify(file, 2, &|_| {}).unwrap();
}

#[test]
fn what_is_written_is_what_is_read() {
    let bytes = small_file();
    check_contents(&open_bytes(&bytes).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.quern");
    let mut writer = Writer::create(&path, small_plan()).unwrap();
    fill(&mut writer).unwrap();
    let id = writer.finish().unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        bytes,
        "equal imports are equal bytes"
    );
    for mmap in [true, false] {
        let file = ModelFile::open(&path, OpenOptions { mmap }).unwrap();
        check_contents(&file);
        assert_eq!(file.id(), id);
        assert_eq!(
            file.mapped_bytes(),
            if mmap { bytes.len() as u64 } else { 0 }
        );
        file.check_unchanged().unwrap();
    }
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["small.quern"], "no temporary file stays");
}

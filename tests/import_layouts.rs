//! How foreign tensors may lie: experts in blocks of 4-bit floats have the values of the format's definition, and files that break it are refused;
//! layers behind the last one are left out; a text model may be a part of another.

use crate::golden::{check_causal, engine, goldens, import_folder, read_golden};
use crate::import::options;
use crate::import_hazards::{check, refusal};
use crate::materialise::materialise;
use quern::convert::import::import;
use quern::convert::quantize::Quant;
use quern_kernels::{Format, PANEL_ROWS};
use quern_models::spec::{Role, Shape};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The header of a safetensors file.
type Header = Map<String, Value>;

const GATE_UP: &str = "model.layers.0.mlp.experts.gate_up_proj";

/// A folder of the golden with blocks whose header and data were changed.
fn edited(change: impl FnOnce(&mut Header, &mut Vec<u8>)) -> tempfile::TempDir {
    edited_golden("gpt_oss_mxfp4", change)
}

fn edited_golden(
    golden: &str,
    change: impl FnOnce(&mut Header, &mut Vec<u8>),
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    assert!(materialise(&goldens().join(golden), folder.path(), false));
    let path = folder.path().join("model.safetensors");
    let (mut header, mut data) = read(&path);
    change(&mut header, &mut data);
    let mut head = serde_json::to_vec(&header).unwrap();
    head.resize(head.len().next_multiple_of(8), b' ');
    let len = (head.len() as u64).to_le_bytes();
    std::fs::write(path, [&len[..], &head, &data].concat()).unwrap();
    folder
}

fn read(path: &Path) -> (Header, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    (header, bytes[8 + len..].to_vec())
}

/// Where the bytes of a tensor are.
fn place(header: &Header, name: &str) -> std::ops::Range<usize> {
    let offsets = &header[name]["data_offsets"];
    let at = |i: usize| offsets[i].as_u64().unwrap() as usize;
    at(0)..at(1)
}

/// Kept, they are numbers; asked for, blocks with the very codes and scales.
#[test]
fn values_are_those_of_the_format() {
    values_as(Quant::Keep, Format::Bf16);
    values_as(Quant::To(Format::Mxfp4), Format::Mxfp4);
}

fn values_as(quant: Quant, format: Format) {
    let folder = edited(|_, _| {});
    let (header, data) = read(&folder.path().join("model.safetensors"));
    let codes = &data[place(&header, &format!("{GATE_UP}_blocks"))];
    let scales = &data[place(&header, &format!("{GATE_UP}_scales"))];
    let file = import_folder(folder.path(), quant).unwrap();
    let mut compared = 0;
    // Rows of gate and up alternate; a row has two blocks.
    for (role, part) in [(Role::ExpertGate, 0), (Role::ExpertUp, 1)] {
        let mut entries = file.entries().iter();
        let at = entries
            .position(|e| e.key.layer == 0 && e.key.role == role)
            .unwrap();
        let entry = &file.entries()[at];
        assert_eq!(entry.format, format);
        let Shape::Matrix { count, rows, cols } = entry.shape else {
            panic!("a stack");
        };
        assert_eq!((count, rows, cols), (4, 32, 64));
        let size = entry.format.panel_bytes(64).unwrap();
        for expert in 0..4 {
            for row in 0..32 {
                let panel = (expert * 32 + row) / PANEL_ROWS;
                let panel = &file.data(at).0[panel * size..][..size];
                let mut found = vec![0.0; 64];
                entry
                    .format
                    .unpack_row(panel, row % PANEL_ROWS, 64, &mut found);
                let foreign = expert * 64 + 2 * row + part;
                for (col, found) in found.into_iter().enumerate() {
                    let byte = codes[foreign * 32 + col / 2];
                    let code = if col % 2 == 0 { byte & 15 } else { byte >> 4 };
                    let magnitude = match code & 7 {
                        0 => 0.0,
                        1 => 0.5,
                        c => (1.0 + 0.5 * f64::from(c & 1)) * f64::from(1 << (c / 2 - 1)),
                    };
                    let sign = if code < 8 { 1.0 } else { -1.0 };
                    let exponent = i32::from(scales[foreign * 2 + col / 32]) - 127;
                    let expected = sign * magnitude * 2f64.powi(exponent);
                    assert_eq!(f64::from(found), expected, "{role:?} {expert} {row} {col}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 2 * 4 * 32 * 64);
}

#[test]
fn files_that_break_the_format() {
    let scales = format!("{GATE_UP}_scales");
    let blocks = format!("{GATE_UP}_blocks");
    let refuse = |word: &str, change: &dyn Fn(&mut Header, &mut Vec<u8>)| {
        let folder = edited(change);
        check(&refusal(folder.path(), Quant::Keep), word);
    };
    refuse("has type I8, expected U8", &|h, _| {
        h[&scales]["dtype"] = json!("I8")
    });
    refuse("has type I8, expected U8", &|h, _| {
        h[&blocks]["dtype"] = json!("I8")
    });
    refuse("gate_up_proj_scales\" has shape [4, 2, 64]", &|h, _| {
        h[&scales]["shape"] = json!([4, 2, 64])
    });
    refuse("gate_up_proj_blocks\" has shape [4, 64, 1, 32]", &|h, _| {
        h[&blocks]["shape"] = json!([4, 64, 1, 32])
    });
    refuse("gate_up_proj_scales\" is missing", &|h, _| {
        let entry = h.remove(&scales).unwrap();
        h.insert("model.other".into(), entry);
    });
    refuse("no use for: \"model.other\"", &|h, data| {
        let end = data.len();
        data.push(0);
        let offsets = json!({"dtype": "U8", "shape": [1], "data_offsets": [end, end + 1]});
        h.insert("model.other".into(), offsets);
    });
    let no_number = |h: &mut Header, data: &mut Vec<u8>| data[place(h, &scales).start] = 255;
    let too_large = |h: &mut Header, data: &mut Vec<u8>| {
        data[place(h, &scales).start] = 254;
        data[place(h, &blocks).start] = 0x77;
    };
    refuse("NaN, expected a finite number", &no_number);
    refuse("inf, expected a finite number", &too_large);
    for change in [&no_number as &dyn Fn(&mut Header, &mut Vec<u8>), &too_large] {
        let refused = refusal(edited(change).path(), Quant::To(Format::Mxfp4));
        check(&refused, "scale is not finite");
    }
    // The largest exponent with the smallest value is a number.
    let folder = edited(|h, data| {
        data[place(h, &scales).start] = 254;
        let codes = place(h, &blocks).start;
        data[codes..codes + 16].fill(0x11);
    });
    for quant in [Quant::Keep, Quant::To(Format::Mxfp4)] {
        import_folder(folder.path(), quant).unwrap();
    }
}

#[test]
fn other_ways_to_quantize_are_refused_by_name() {
    for (golden, method, word) in [
        ("gpt_oss_mxfp4", "fp8", "quant_method is \"fp8\""),
        ("llama_mha", "gptq", "quantization_config"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        assert!(materialise(&goldens().join(golden), folder.path(), false));
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["quantization_config"] = json!({ "quant_method": method });
        std::fs::write(&path, config.to_string()).unwrap();
        check(&refusal(folder.path(), Quant::Keep), word);
    }
}

/// The checkpoints of models that were trained to predict further tokens have layers for that behind the last one.
#[test]
fn layers_that_predict_further_tokens_are_left_out_and_said_so() {
    let with = |name: &str| {
        edited_golden("deepseek_v3", |header, data| {
            let end = data.len();
            data.extend([0; 64]);
            let entry = json!({"dtype": "F32", "shape": [4, 4], "data_offsets": [end, end + 64]});
            header.insert(name.to_owned(), entry);
        })
    };
    let out = tempfile::tempdir().unwrap();
    let folder = with("model.layers.3.eh_proj.weight");
    let target = out.path().join("m.quern");
    let summary = import(
        folder.path(),
        &target,
        &options(Quant::Keep),
        &mut |_, _| Ok(()),
    )
    .unwrap();
    let skipped = [(
        "model.layers.3.eh_proj.weight".to_owned(),
        "predicts further tokens",
    )];
    assert_eq!(summary.skipped, skipped);
    let folder = with("model.layers.4.eh_proj.weight");
    let refused = refusal(folder.path(), Quant::Keep);
    check(&refused, "no use for: \"model.layers.4.eh_proj.weight\"");
}

/// Checkpoints that also see keep the text model under names and in a configuration of its own.
#[test]
fn text_models_inside_others() {
    for (golden, outer) in [("llama4_text", "llama4"), ("mistral4", "mistral3")] {
        let folder = edited_golden(golden, |header, data| {
            let names: Vec<String> = header.keys().cloned().collect();
            for name in names.iter().filter(|n| *n != "__metadata__") {
                let entry = header.remove(name).unwrap();
                header.insert(format!("language_model.{name}"), entry);
            }
            let end = data.len();
            data.extend([0; 4]);
            let entry = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
            header.insert("multi_modal_projector.linear_1.weight".into(), entry);
        });
        let path = folder.path().join("config.json");
        let text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let config = json!({"model_type": outer, "text_config": text, "vision_config": {}});
        std::fs::write(&path, config.to_string()).unwrap();
        let file = import_folder(folder.path(), Quant::Keep).unwrap();
        check_causal(&mut engine(file, 2), &read_golden(&goldens().join(golden))).unwrap();
    }
}

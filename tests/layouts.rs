//! One model in several layouts of its files gives one weight file.

use crate::golden::import_folder;
use crate::golden_folders::{Tensor, materialise, read_json, safetensors, tensors};
use quern::convert::quantize::Quant;
use quern::file::ModelFile;
use serde_json::{Value, json};
use std::sync::Arc;

/// Imports these tensors with this configuration.
fn import(config: &Value, tensors: &[Tensor]) -> Result<Arc<ModelFile>, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let all: Vec<&Tensor> = tensors.iter().collect();
    std::fs::write(folder.path().join("model.safetensors"), safetensors(&all)).unwrap();
    import_folder(folder.path(), Quant::Keep).map_err(|e| e.to_string())
}

fn config(family: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    materialise(family, false, folder.path());
    read_json(&folder.path().join("config.json"))
}

/// The same Spec and the same bytes of every tensor.
fn assert_same(a: &ModelFile, b: &ModelFile) {
    assert_eq!(a.spec(), b.spec());
    for (i, entry) in a.entries().iter().enumerate() {
        assert!(
            a.data(i).0.as_ref() == b.data(i).0.as_ref(),
            "{}",
            entry.key
        );
    }
}

fn take(tensors: &mut Vec<Tensor>, name: &str) -> Tensor {
    let at = tensors.iter().position(|t| t.name == name);
    tensors.remove(at.unwrap_or_else(|| panic!("{name}")))
}

/// These rows of a matrix, in this order.
fn rows(of: &Tensor, name: String, rows: &[usize]) -> Tensor {
    let size = of.bytes.len() / of.shape[0];
    Tensor {
        name,
        shape: vec![rows.len(), of.shape[1]],
        dtype: of.dtype.clone(),
        bytes: rows
            .iter()
            .flat_map(|r| of.bytes[r * size..(r + 1) * size].to_vec())
            .collect(),
    }
}

#[test]
fn experts_in_one_tensor_beside_parts_that_are_not_needed() {
    let family = "qwen3_5_moe";
    let (text, mut all) = (config(family), tensors(family));
    let plain = import(&text, &all).unwrap();
    let count = text["num_experts"].as_u64().unwrap() as usize;
    for layer in 0..text["num_hidden_layers"].as_u64().unwrap() {
        let experts = format!("model.layers.{layer}.mlp.experts");
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        let mut shape = Vec::new();
        for e in 0..count {
            for part in ["gate_proj", "up_proj"] {
                let t = take(&mut all, &format!("{experts}.{e}.{part}.weight"));
                shape = t.shape;
                gate_up.extend(t.bytes);
            }
            down.extend(take(&mut all, &format!("{experts}.{e}.down_proj.weight")).bytes);
        }
        let (inner, hidden) = (shape[0], shape[1]);
        for (name, shape, bytes) in [
            ("gate_up_proj", [count, 2 * inner, hidden], gate_up),
            ("down_proj", [count, hidden, inner], down),
        ] {
            all.push(Tensor {
                name: format!("{experts}.{name}"),
                shape: shape.to_vec(),
                dtype: "BF16".into(),
                bytes,
            });
        }
    }
    assert_same(&plain, &import(&text, &all).unwrap());

    // As the text part of a model that also sees, with a layer that predicts the token after the next.
    for t in &mut all {
        if let Some(rest) = t.name.strip_prefix("model.") {
            t.name = format!("model.language_model.{rest}");
        }
    }
    for name in [
        "model.visual.patch_embed.proj.weight",
        "mtp.fc.weight",
        "mtp.layers.0.mlp.gate.weight",
    ] {
        all.push(Tensor {
            name: name.into(),
            shape: vec![2, 2],
            dtype: "F32".into(),
            bytes: vec![0; 16],
        });
    }
    let mut text = text;
    text["attn_output_gate"] = json!(true);
    text["mtp_num_hidden_layers"] = json!(1);
    let outer = json!({"model_type": "qwen3_5_moe", "text_config": text, "vision_config": {"depth": 1}, "image_token_id": 9});
    assert_same(&plain, &import(&outer, &all).unwrap());

    // What is not known stays an error.
    all[0].name = "mtq.fc.weight".into();
    let e = import(&outer, &all).unwrap_err();
    assert!(e.contains("missing") || e.contains("mtq.fc.weight"), "{e}");
}

#[test]
fn projections_of_the_delta_rule_by_key_heads_or_one_by_one() {
    let family = "qwen3_next";
    let (config, mut all) = (config(family), tensors(family));
    let plain = import(&config, &all).unwrap();
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (keys, values) = (
        number("linear_num_key_heads"),
        number("linear_num_value_heads"),
    );
    let (key_dim, value_dim) = (
        number("linear_key_head_dim"),
        number("linear_value_head_dim"),
    );
    let each = values / keys;
    let group = 2 * key_dim + 2 * each * value_dim;
    let part = |from: usize, width: usize| -> Vec<usize> {
        let of = |h| (0..width).map(move |i| h * group + from + i);
        (0..keys).flat_map(of).collect()
    };
    let v_width = each * value_dim;
    let mut qkv = part(0, key_dim);
    qkv.extend(part(key_dim, key_dim));
    qkv.extend(part(2 * key_dim, v_width));
    let z = part(2 * key_dim + v_width, v_width);
    let ba = |first: usize| -> Vec<usize> {
        let of = |h| (0..each).map(move |i| h * 2 * each + first + i);
        (0..keys).flat_map(of).collect()
    };
    for (l, kind) in config["layer_types"].as_array().unwrap().iter().enumerate() {
        if kind != "linear_attention" {
            continue;
        }
        let name = |part: &str| format!("model.layers.{l}.linear_attn.in_proj_{part}.weight");
        let qkvz = take(&mut all, &name("qkvz"));
        all.push(rows(&qkvz, name("qkv"), &qkv));
        all.push(rows(&qkvz, name("z"), &z));
        let both = take(&mut all, &name("ba"));
        all.push(rows(&both, name("b"), &ba(0)));
        all.push(rows(&both, name("a"), &ba(each)));
    }
    assert_same(&plain, &import(&config, &all).unwrap());

    // Numbers that would be multiplied are bounded first, and named with the layer.
    for (key, value, expected) in [
        (
            "linear_num_value_heads",
            json!(3),
            "multiple of n_key_heads 2",
        ),
        ("linear_num_key_heads", json!(0), "n_key_heads is 0"),
        (
            "linear_num_value_heads",
            json!(4_000_000_000u32),
            "n_value_heads",
        ),
        ("linear_key_head_dim", json!(4_000_000_000u32), "key_dim"),
        ("linear_value_head_dim", json!(0), "value_dim is 0"),
        ("linear_conv_kernel_dim", json!(1_000_000), "kernel"),
        ("linear_key_head_dim", json!(32), "in_proj_qkv"),
        ("attention_bias", json!(true), "attention_bias"),
        ("attn_output_gate", json!(false), "attn_output_gate"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        let e = import(&config, &all).unwrap_err();
        assert!(e.contains(expected), "{key}: {e}");
    }
}

//! Weights from a formula: makes the Hugging Face folder of a compact golden (see tests/golden/README.md), bit for bit.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn bits(key: &str, seed: u64, i: u64) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let k = fnv1a64(key.as_bytes()) ^ seed.wrapping_mul(GAMMA);
    let mut z = k.wrapping_add(i).wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn normal_ish(key: &str, seed: u64, i: u64, mean: f64, std: f64) -> f32 {
    let r = bits(key, seed, i);
    let s = (r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48);
    let z = (s as i64 - 131_070) as f64 / 37_837.0;
    (mean + std * z) as f32
}

fn bf16(x: f32) -> u16 {
    let u = x.to_bits();
    (u.wrapping_add(0x7fff + (u >> 16 & 1)) >> 16) as u16
}

/// The bytes of one tensor of weights.json.
fn tensor_bytes(tensor: &Value, seed: u64) -> Vec<u8> {
    let shape: Vec<u64> = tensor["shape"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d.as_u64().unwrap())
        .collect();
    let count: u64 = shape.iter().product();
    let key = tensor
        .get("key")
        .unwrap_or(&tensor["name"])
        .as_str()
        .unwrap();
    let recipe = &tensor["recipe"];
    if recipe["kind"] == "bytes" {
        let (lo, n) = (
            recipe["lo"].as_u64().unwrap(),
            recipe["count"].as_u64().unwrap(),
        );
        return (0..count)
            .map(|i| (lo + (((bits(key, seed, i) >> 56) * n) >> 8)) as u8)
            .collect();
    }
    let value = |i| match recipe["kind"].as_str().unwrap() {
        "normal-ish" => normal_ish(
            key,
            seed,
            i,
            recipe["mean"].as_f64().unwrap(),
            recipe["std"].as_f64().unwrap(),
        ),
        "constant" => recipe["value"].as_f64().unwrap() as f32,
        other => panic!("recipe {other}"),
    };
    match tensor["dtype"].as_str().unwrap() {
        "F32" => (0..count).flat_map(|i| value(i).to_le_bytes()).collect(),
        "BF16" => (0..count)
            .flat_map(|i| bf16(value(i)).to_le_bytes())
            .collect(),
        other => panic!("dtype {other}"),
    }
}

/// Writes the folder of `family` to `out`; `legacy` takes the configuration in the older style. False if there is none.
pub fn materialise(golden: &Path, out: &Path, legacy: bool) -> bool {
    let config = golden.join(if legacy {
        "config_legacy.json"
    } else {
        "config.json"
    });
    if !config.exists() {
        return false;
    }
    std::fs::create_dir_all(out).unwrap();
    std::fs::copy(config, out.join("config.json")).unwrap();
    copy_beside(golden, out);
    let weights: Value =
        serde_json::from_slice(&std::fs::read(golden.join("weights.json")).unwrap()).unwrap();
    let seed = weights["seed"].as_u64().unwrap();
    let mut files: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for tensor in weights["tensors"].as_array().unwrap() {
        let file = tensor
            .get("file")
            .and_then(Value::as_str)
            .unwrap_or("model.safetensors");
        files.entry(file).or_default().push(tensor);
    }
    let mut index = serde_json::Map::new();
    for (file, tensors) in &files {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        for tensor in tensors {
            let start = data.len();
            data.extend(tensor_bytes(tensor, seed));
            let name = tensor["name"].as_str().unwrap().to_owned();
            index.insert(name.clone(), json!(file));
            header.insert(
                name,
                json!({"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [start, data.len()]}),
            );
        }
        let mut head = serde_json::to_vec(&header).unwrap();
        head.resize(head.len().next_multiple_of(8), b' ');
        let path = out.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(
            path,
            [&(head.len() as u64).to_le_bytes()[..], &head, &data].concat(),
        )
        .unwrap();
    }
    if files.keys().filter(|f| f.starts_with("model-")).count() > 1 {
        let index = json!({"metadata": {}, "weight_map": index});
        std::fs::write(out.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    true
}

/// The files of the sentence-transformers layout.
pub fn copy_beside(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let (path, text) = (entry.path(), name.to_string_lossy().into_owned());
        if path.is_dir() {
            std::fs::create_dir_all(to.join(&name)).unwrap();
            copy_beside(&path, &to.join(&name));
        } else if !["config_legacy.json", "golden.json", "weights.json"].contains(&text.as_str())
            && !to.join(&name).exists()
        {
            std::fs::copy(&path, to.join(&name)).unwrap();
        }
    }
}

#[test]
fn the_formula_gives_the_documented_vectors() {
    let key = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(fnv1a64(key.as_bytes()), 0x3a29_6639_dc11_febb);
    assert_eq!(bits(key, 3, 0), 0x49ae_c2e5_e42b_d529);
    let values: Vec<f32> = (0..4).map(|i| normal_ish(key, 3, i, 0.0, 0.2)).collect();
    assert_eq!(
        values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
        [0x3e89_1df4, 0xbc36_d1ae, 0x3e88_2c28, 0xbe15_cbd6]
    );
    assert_eq!(
        values.iter().map(|v| bf16(*v)).collect::<Vec<_>>(),
        [0x3e89, 0xbc37, 0x3e88, 0xbe16]
    );
}

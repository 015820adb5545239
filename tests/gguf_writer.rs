//! Goldens as GGUF files, the way llama.cpp's converter writes them: a table of its own, which shares nothing with the importer's.
//!
//! A line of a table is `folder's name > file's name`, then ` : ` and what the converter does:
//!
//! - `pairs`, `pairs/k`: halves of rotated rows (of key heads) become interleaved pairs;
//! - `+1`, `-exp`: one added to every value; minus its exponential;
//! - `turn`, `squeeze`, `column`, `-exp column`, `rows N`: transposed; without dimensions of 1; a vector as a column, or as a matrix of N rows;
//! - `stack`: stacked over the number that `#` stands for;
//! - `sort`: q, k, v grouped by key-value head become all q, all k, all v;
//! - `cut`: two halves by rows; `cut columns` of a stack whose columns are outputs; `cut even`, `cut columns even`: even and odd ones;
//! - `latent`: keys, transposed, and values of every head;
//! - `cut by key heads`: rows of q, k, v and z grouped by key heads become q, k, v and z;
//! - `tile`, `tile columns`, `tile heads`, `tile behind q and k`: value heads that are grouped by key heads take turns.
//!
//! Where one tensor becomes two, the second name stands behind a comma. A folder's name may have the layers' prefix, without the number, in front. A
//! name that ends with `!` is whole; others get `.weight` or `.bias`. `-` is for tensors that no file has.

use crate::foreign_files::GgufWriter;
use crate::golden_folders::{self, Tensor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A record that the configuration does not give.
#[derive(Clone, Copy)]
pub enum Record {
    /// u32.
    U(u32),
    /// f32.
    F(f32),
    /// bool.
    B(bool),
    /// string.
    S(&'static str),
    /// Array of bool.
    Flags(&'static [bool]),
    /// Array of f32.
    Floats(&'static [f32]),
    /// Array of u32.
    Numbers(&'static [u32]),
    /// The number under this key of the configuration, as u32.
    Of(&'static str),
    /// The same as f32.
    FloatOf(&'static str),
    /// The values of this tensor of every layer.
    Each(&'static str),
    /// Not written, though the configuration has it.
    No,
}

/// One golden as a GGUF.
pub struct Case {
    /// Its folder.
    pub golden: &'static str,
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Before the number of a layer; more than one with spaces between, each with `=` and what the file has there if it is not `blk.`.
    pub layers: &'static str,
    /// Tables of names.
    pub names: &'static [&'static str],
    /// Records beside those that every file has, or in their place.
    pub records: &'static [(&'static str, Record)],
    /// Keys of the folder's configuration, as JSON, with the values that are left where no record can hold the golden's.
    pub lost: &'static str,
    /// Whether the file keeps an order of its own, so that stored tensors differ though the model is the same.
    pub reordered: bool,
    /// Vectors that the folder does not have.
    pub extra: &'static [(&'static str, &'static [f32])],
}

/// Keys of configurations for records of integers.
const NUMBERS: &[(&str, &[&str])] = &[
    ("block_count", &["num_hidden_layers", "n_layer"]),
    (
        "context_length",
        &["max_position_embeddings", "n_positions"],
    ),
    ("embedding_length", &["hidden_size", "n_embd"]),
    ("feed_forward_length", &["intermediate_size"]),
    ("attention.head_count", &["num_attention_heads", "n_head"]),
    ("attention.head_count_kv", &["num_key_value_heads"]),
    ("attention.key_length", &["head_dim"]),
    ("attention.value_length", &["head_dim"]),
    ("attention.sliding_window", &["sliding_window"]),
    (
        "expert_count",
        &[
            "num_local_experts",
            "num_experts",
            "n_routed_experts",
            "moe_num_experts",
        ],
    ),
    (
        "expert_used_count",
        &["num_experts_per_tok", "moe_k", "moe_topk"],
    ),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
];

/// The same for numbers of other kinds.
const FLOATS: &[(&str, &[&str])] = &[
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
    (
        "attention.layer_norm_epsilon",
        &[
            "layer_norm_eps",
            "layer_norm_epsilon",
            "norm_epsilon",
            "norm_eps",
        ],
    ),
    ("logit_scale", &["logit_scale", "logits_scaling"]),
    ("embedding_scale", &["embedding_multiplier"]),
    ("residual_scale", &["residual_multiplier"]),
    ("attention.scale", &["attention_multiplier"]),
];

/// Keys of rotary parameters.
const ROPE: &[(&str, &str)] = &[
    ("freq_base", "rope_theta"),
    ("scaling.factor", "factor"),
    ("scaling.yarn_beta_fast", "beta_fast"),
    ("scaling.yarn_beta_slow", "beta_slow"),
    ("scaling.yarn_attn_factor", "attention_factor"),
    ("scaling.yarn_log_multiplier", "mscale_all_dim"),
];

impl Case {
    /// The configuration of the folder, less what the file cannot hold.
    pub fn config(&self) -> Value {
        let path = golden_folders::folder(self.golden).join("config.json");
        let mut config = golden_folders::read_json(&path);
        let lost: Map<String, Value> = serde_json::from_str(self.lost).unwrap();
        config.as_object_mut().unwrap().extend(lost);
        config
    }

    /// The file.
    pub fn write(&self) -> Vec<u8> {
        let config = self.config();
        let mut w = GgufWriter::new().str("general.architecture", self.architecture);
        for (key, value) in self.all_records(&config) {
            let key = match key.starts_with("xielu.") {
                true => key,
                false => format!("{}.{key}", self.architecture),
            };
            w = put(w, &key, &value);
        }
        for (name, tensor) in self.tensors(&config) {
            let dims: Vec<u64> = tensor.shape.iter().rev().map(|&d| d as u64).collect();
            let kind = if tensor.dtype == "F32" { 0 } else { 30 };
            w = w.tensor(&name, &dims, kind, &tensor.bytes);
        }
        for (name, values) in self.extra {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            w = w.tensor(name, &[values.len() as u64], 0, &bytes);
        }
        w.build()
    }

    fn all_records(&self, config: &Value) -> BTreeMap<String, Value> {
        let mut out = BTreeMap::new();
        let mut float = |key: String, x: f64| out.insert(key, Value::from(x));
        for (key, names) in FLOATS {
            if let Some(x) = names.iter().find_map(|n| config[n].as_f64()) {
                float((*key).to_owned(), x);
            }
        }
        let mut rope = &config["rope_parameters"];
        if let Some(full) = rope.get("full_attention") {
            if let Some(x) = rope["sliding_attention"]["rope_theta"].as_f64() {
                float("rope.freq_base_swa".to_owned(), x);
            }
            rope = full;
        }
        let kind = rope["rope_type"].as_str().unwrap_or("default");
        let scaled = ["linear", "yarn"].contains(&kind);
        for (key, name) in ROPE {
            let wanted = *name == "rope_theta" || scaled;
            if let Some(x) = rope[name].as_f64().filter(|_| wanted) {
                float(format!("rope.{key}"), x);
            }
        }
        if scaled {
            out.insert("rope.scaling.type".to_owned(), kind.into());
        }
        let original = "original_max_position_embeddings";
        if let Some(n) = rope[original].as_u64().filter(|_| kind != "llama3") {
            out.insert("rope.scaling.original_context_length".to_owned(), n.into());
        }
        for (key, names) in NUMBERS {
            if let Some(n) = names.iter().find_map(|n| config[n].as_u64()) {
                out.insert((*key).to_owned(), n.into());
            }
        }
        if let Some(part) = rope["partial_rotary_factor"].as_f64() {
            let head = self.head_dim(config) as f64;
            let n = (head * part) as u64;
            out.insert("rope.dimension_count".to_owned(), n.into());
        }
        for (key, record) in self.records {
            let value = match *record {
                Record::U(n) => n.into(),
                Record::F(x) => f64::from(x).into(),
                Record::B(b) => b.into(),
                Record::S(s) => s.into(),
                Record::Flags(list) => list.into(),
                Record::Numbers(list) => list.into(),
                // JSON has no infinity; what reads it back takes the word.
                Record::Floats(list) => list
                    .iter()
                    .map(|x| match x.is_finite() {
                        true => Value::from(f64::from(*x)),
                        false => Value::from(x.to_string()),
                    })
                    .collect(),
                Record::Of(name) => config[name].as_u64().unwrap().into(),
                Record::FloatOf(name) => {
                    let in_rope = rope[name].as_f64();
                    config[name].as_f64().or(in_rope).unwrap().into()
                }
                Record::Each(name) => self.each(name),
                Record::No => {
                    out.remove(*key);
                    continue;
                }
            };
            out.insert((*key).to_owned(), value);
        }
        out
    }

    /// The first value of a tensor, layer by layer.
    fn each(&self, name: &str) -> Value {
        let tensors = golden_folders::tensors(self.golden);
        let of = |l: usize| {
            let full = format!("{}{l}.{name}", self.layers);
            tensors.iter().find(|t| t.name == full)
        };
        (0..).map_while(of).map(|t| t.values()[0]).collect()
    }

    fn heads(&self, config: &Value) -> [usize; 2] {
        let number = |names: &[&str]| names.iter().find_map(|n| config[n].as_u64());
        let heads = number(&["num_attention_heads", "n_head"]).unwrap_or(1) as usize;
        let kv = number(&["num_key_value_heads", "num_kv_heads"]).map_or(heads, |n| n as usize);
        let given = self
            .records
            .iter()
            .find(|(k, _)| *k == "attention.head_count_kv");
        match given {
            Some((_, Record::U(n))) => [heads, *n as usize],
            _ => [heads, kv],
        }
    }

    fn head_dim(&self, config: &Value) -> usize {
        let names = ["hidden_size", "n_embd", "d_model"];
        let hidden = names.iter().find_map(|n| config[n].as_u64()).unwrap() as usize;
        let own = config.get("head_dim").and_then(Value::as_u64);
        own.map_or(hidden / self.heads(config)[0], |n| n as usize)
    }

    /// The line of the tables for a name without `.weight` or `.bias`, and the number in the place of `#`.
    fn line(&self, name: &str) -> Option<(&'static str, &'static str, usize)> {
        let lines = self.names.iter().flat_map(|t| t.lines());
        lines.filter(|l| !l.trim().is_empty()).find_map(|line| {
            let (from, rest) = line.trim().split_once(" > ").expect(line);
            let (to, how) = rest.split_once(" : ").unwrap_or((rest, ""));
            let index = match from.split_once('#') {
                None => (from == name).then_some(0)?,
                Some((before, after)) => name
                    .strip_prefix(before)?
                    .strip_suffix(after)?
                    .parse()
                    .ok()?,
            };
            Some((to, how, index))
        })
    }

    /// The tensors of the folder, and those of projections under the names of their folders.
    fn folder_tensors(&self) -> Vec<Tensor> {
        let mut out = golden_folders::tensors(self.golden);
        let folder = tempfile::tempdir().unwrap();
        golden_folders::materialise(self.golden, false, folder.path());
        for name in ["2_Dense", "3_Dense"] {
            let part = folder.path().join(name);
            for t in golden_folders::tensors_in(&part) {
                let name = format!("{name}/{}", t.name);
                out.push(Tensor { name, ..t });
            }
        }
        out
    }

    /// Every tensor under its name in the file.
    fn tensors(&self, config: &Value) -> BTreeMap<String, Tensor> {
        let mut out = BTreeMap::new();
        let mut stacks: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
        for t in self.folder_tensors() {
            let layer = self.layers.split(' ').find_map(|stack| {
                let (from, to) = stack.split_once('=').unwrap_or((stack, "blk."));
                let (number, rest) = t.name.strip_prefix(from)?.split_once('.')?;
                Some((from, to, number.parse::<usize>().ok()?, rest))
            });
            let (stack, prefix, rest) = match layer {
                Some((from, to, l, rest)) => (from, format!("{to}{l}."), rest.to_owned()),
                None => ("", String::new(), t.name.clone()),
            };
            let (part, kind) = rest.rsplit_once('.').unwrap_or((&rest, ""));
            let whole = self.line(&format!("{rest}!"));
            let (to, how, index) = match whole {
                Some(found) => found,
                None => self
                    .line(&format!("{stack}{part}"))
                    .or_else(|| self.line(part))
                    .unwrap_or_else(|| panic!("{}: no line for {:?}", self.golden, t.name)),
            };
            let named = |to: &str| match whole {
                Some(_) => format!("{prefix}{}", to.trim_end_matches('!')),
                None => format!("{prefix}{to}.{kind}"),
            };
            if to == "-" {
                continue;
            }
            if how == "stack" {
                stacks.entry(named(to)).or_default().insert(index, t);
                continue;
            }
            if to.contains(", ") {
                let (first, second) = to.split_once(", ").unwrap();
                let [a, b] = match how {
                    "cut by key heads" => by_key_heads(&t, config),
                    "cut" => cut(&t, false, false),
                    "cut even" => cut(&t, false, true),
                    "cut columns" => cut(&t, true, false),
                    "cut columns even" => cut(&t, true, true),
                    _ => latent(&t, config),
                };
                out.insert(named(first), a);
                out.insert(named(second), b);
                continue;
            }
            let [heads, kv_heads] = self.heads(config);
            let hd = self.head_dim(config);
            let t = match how {
                "" => t,
                "pairs" => by_rows(t, |row| paired(row, hd)),
                "pairs/k" => by_rows(t, |row| paired(row, hd)),
                "sort" => by_rows(t, |row| sorted(row, heads, kv_heads, hd)),
                "+1" if kind == "weight" => plus_one(&t),
                "+1" => t,
                "turn" => turn(t),
                "squeeze" => Tensor {
                    shape: t.shape.iter().copied().filter(|&d| d != 1).collect(),
                    ..t
                },
                "column" => column(t),
                "-exp" => minus_exp(&t),
                "tile" => tile(&t, config, "linear_value_head_dim", false),
                "tile behind q and k" => tile(&t, config, "linear_value_head_dim", true),
                "tile heads" => tile(&t, config, "", false),
                "tile heads -exp" => tile(&minus_exp(&t), config, "", false),
                "tile columns" => {
                    let t = tile(&turn(t), config, "linear_value_head_dim", false);
                    turn(t)
                }
                "tile behind q and k squeeze" => {
                    let shape = t.shape.iter().copied().filter(|&d| d != 1).collect();
                    let t = Tensor { shape, ..t };
                    tile(&t, config, "linear_value_head_dim", true)
                }
                "-exp column" => column(minus_exp(&t)),
                other => match other.strip_prefix("rows ") {
                    Some(n) => {
                        let n: usize = n.parse().unwrap();
                        let shape = vec![n, t.shape[0] / n];
                        Tensor { shape, ..t }
                    }
                    None => panic!("{other}"),
                },
            };
            out.insert(named(to), t);
        }
        for (name, parts) in stacks {
            let first = &parts[&0];
            let mut shape = vec![parts.len()];
            shape.extend(&first.shape);
            let dtype = first.dtype.clone();
            let bytes = parts.into_values().flat_map(|t| t.bytes).collect();
            out.insert(
                name.clone(),
                Tensor {
                    name,
                    shape,
                    dtype,
                    bytes,
                },
            );
        }
        out
    }
}

fn put(w: GgufWriter, key: &str, value: &Value) -> GgufWriter {
    match value {
        Value::String(s) => w.str(key, s),
        Value::Bool(b) => w.raw(key.as_bytes(), 7, &[u8::from(*b)]),
        Value::Number(n) if n.is_f64() => w.f32(key, n.as_f64().unwrap() as f32),
        Value::Number(n) => w.u32(key, n.as_u64().unwrap() as u32),
        Value::Array(list) if list[0].is_boolean() => {
            let bytes: Vec<u8> = list.iter().map(|b| u8::from(*b == true)).collect();
            w.array(key, 7, list.len() as u64, &bytes)
        }
        Value::Array(list) if list[0].is_u64() => {
            let wide = |x: &Value| (x.as_u64().unwrap() as u32).to_le_bytes();
            let bytes: Vec<u8> = list.iter().flat_map(wide).collect();
            w.array(key, 4, list.len() as u64, &bytes)
        }
        Value::Array(list) => {
            let wide = |x: &Value| {
                let word = || x.as_str().unwrap().parse().unwrap();
                x.as_f64().map_or_else(word, |x| x as f32).to_le_bytes()
            };
            let bytes: Vec<u8> = list.iter().flat_map(wide).collect();
            w.array(key, 6, list.len() as u64, &bytes)
        }
        other => panic!("{key}: {other}"),
    }
}

/// Where a row of the folder lies in the file: row 2k + s of a head is row s * half + k of the folder.
fn paired(row: usize, hd: usize) -> usize {
    let (head, d) = (row / hd, row % hd);
    head * hd + 2 * (d % (hd / 2)) + d / (hd / 2)
}

/// The same for rows that are grouped by key-value head.
fn sorted(row: usize, heads: usize, kv_heads: usize, hd: usize) -> usize {
    let group = heads / kv_heads;
    let (head, d) = (row / hd, row % hd);
    let (kv, member) = (head / (group + 2), head % (group + 2));
    let to = if member < group {
        kv * group + member
    } else if member == group {
        heads + kv
    } else {
        heads + kv_heads + kv
    };
    to * hd + d
}

fn by_rows(t: Tensor, to: impl Fn(usize) -> usize) -> Tensor {
    let size = t.bytes.len() / t.shape[0];
    let mut bytes = t.bytes.clone();
    for (i, row) in t.bytes.chunks(size).enumerate() {
        bytes[to(i) * size..][..size].copy_from_slice(row);
    }
    Tensor { bytes, ..t }
}

fn plus_one(t: &Tensor) -> Tensor {
    let values = t.values();
    Tensor {
        name: t.name.clone(),
        shape: t.shape.clone(),
        dtype: "F32".to_owned(),
        bytes: values
            .iter()
            .flat_map(|x| (x + 1.0).to_le_bytes())
            .collect(),
    }
}

fn minus_exp(t: &Tensor) -> Tensor {
    let rate = |x: &f32| (-f64::from(*x).exp() as f32).to_le_bytes();
    Tensor {
        name: t.name.clone(),
        shape: t.shape.clone(),
        dtype: "F32".to_owned(),
        bytes: t.values().iter().flat_map(rate).collect(),
    }
}

fn column(t: Tensor) -> Tensor {
    Tensor {
        shape: vec![t.shape[0], 1],
        ..t
    }
}

/// Bytes of one value.
fn size(t: &Tensor) -> usize {
    t.bytes.len() / t.shape.iter().product::<usize>()
}

/// A tensor of this shape whose values are those at the given places.
fn pick(t: &Tensor, shape: Vec<usize>, places: impl Iterator<Item = usize>) -> Tensor {
    let size = size(t);
    let bytes: Vec<u8> = places
        .flat_map(|i| t.bytes[i * size..][..size].iter().copied())
        .collect();
    assert_eq!(bytes.len(), size * shape.iter().product::<usize>());
    Tensor {
        name: t.name.clone(),
        shape,
        dtype: t.dtype.clone(),
        bytes,
    }
}

/// Every matrix of a stack transposed; a vector as it is.
fn turn(t: Tensor) -> Tensor {
    let n = t.shape.len();
    if n < 2 {
        return t;
    }
    let (rows, cols) = (t.shape[n - 2], t.shape[n - 1]);
    let matrices: usize = t.shape[..n - 2].iter().product();
    let mut shape = t.shape.clone();
    shape.swap(n - 2, n - 1);
    let of =
        |m: usize| (0..cols).flat_map(move |c| (0..rows).map(move |r| (m * rows + r) * cols + c));
    pick(&t, shape, (0..matrices).flat_map(of))
}

/// The halves of the outputs of every matrix of a stack (of a bias: of every row), or the even and the odd ones; `columns`: they are its columns.
fn cut(t: &Tensor, columns: bool, even: bool) -> [Tensor; 2] {
    let bias = t.name.ends_with("bias");
    let mut t = pick(t, t.shape.clone(), 0..t.shape.iter().product());
    if columns {
        t = turn(t);
    }
    if bias {
        t.shape.push(1);
    }
    let n = t.shape.len();
    let (rows, cols) = (t.shape[n - 2], t.shape[n - 1]);
    let matrices: usize = t.shape[..n - 2].iter().product();
    let mut shape = t.shape.clone();
    shape[n - 2] = rows / 2;
    if bias {
        shape.pop();
    }
    [0, 1].map(|half| {
        let row = move |i: usize| match even {
            true => 2 * i + half,
            false => half * rows / 2 + i,
        };
        let of = move |m: usize| {
            (0..rows / 2).flat_map(move |i| (0..cols).map(move |c| (m * rows + row(i)) * cols + c))
        };
        pick(&t, shape.clone(), (0..matrices).flat_map(of))
    })
}

/// From a latent vector to keys and values: the keys of every head transposed, and the values.
fn latent(t: &Tensor, config: &Value) -> [Tensor; 2] {
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (keys, values) = (number("qk_nope_head_dim"), number("v_head_dim"));
    let (heads, rank) = (t.shape[0] / (keys + values), t.shape[1]);
    let at = move |h: usize, row: usize, c: usize| (h * (keys + values) + row) * rank + c;
    let k =
        (0..heads).flat_map(|h| (0..rank).flat_map(move |c| (0..keys).map(move |d| at(h, d, c))));
    let v = (0..heads)
        .flat_map(|h| (0..values).flat_map(move |d| (0..rank).map(move |c| at(h, keys + d, c))));
    [
        pick(t, vec![heads, rank, keys], k),
        pick(t, vec![heads, values, rank], v),
    ]
}

/// Rows (of a vector: values) of a tensor.
fn pick_rows(t: &Tensor, rows: Vec<usize>) -> Tensor {
    let width: usize = t.shape[1..].iter().product();
    let mut shape = t.shape.clone();
    shape[0] = rows.len();
    let of = |r: usize| r * width..(r + 1) * width;
    pick(t, shape, rows.into_iter().flat_map(of))
}

/// Value heads, grouped by key heads in the folder, that take turns in the file: first the first of every group. `dim` is the key of a head's rows.
fn tile(t: &Tensor, config: &Value, dim: &str, behind: bool) -> Tensor {
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (keys, values) = (
        number("linear_num_key_heads"),
        number("linear_num_value_heads"),
    );
    let dim = if dim.is_empty() { 1 } else { number(dim) };
    let first = match behind {
        true => 2 * keys * number("linear_key_head_dim"),
        false => 0,
    };
    let group = values / keys;
    let tiled = (0..values).flat_map(|i| {
        let head = i % keys * group + i / keys;
        (0..dim).map(move |d| first + head * dim + d)
    });
    pick_rows(t, (0..first).chain(tiled).collect())
}

/// Rows that are grouped by key heads, each with q, k, and v and z of its value heads: all q, all k, all v; all z.
fn by_key_heads(t: &Tensor, config: &Value) -> [Tensor; 2] {
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let keys = number("linear_num_key_heads");
    let k = number("linear_key_head_dim");
    let v = number("linear_num_value_heads") / keys * number("linear_value_head_dim");
    let part = |at: usize, n: usize| {
        (0..keys).flat_map(move |h| (0..n).map(move |d| h * (2 * k + 2 * v) + at + d))
    };
    let qkv = part(0, k).chain(part(k, k)).chain(part(2 * k, v));
    [
        pick_rows(t, qkv.collect()),
        pick_rows(t, part(2 * k + v, v).collect()),
    ]
}

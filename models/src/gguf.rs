//! GGUF in the terms of transformers: metadata to the keys of a `config.json`, tensor names to those of a Hugging Face folder.
//!
//! The metadata arrives as JSON values with its tokenizer left out. Rows of q and k keep the interleaved order that the converters of
//! llama-like models give them; the family files reorder them, because they know the heads.

use crate::error::{Error, Result};
use crate::source::{Config, Origin};
use serde_json::{Map, Value, json};

/// From the keys of an architecture to those of transformers; the second argument is the raw map.
type Translate = fn(&Config, &Map<String, Value>) -> Result<Map<String, Value>>;

/// One GGUF architecture.
pub struct Architecture {
    /// Value of `general.architecture`.
    pub name: &'static str,
    /// From the keys below `{name}.` (without that prefix) to a configuration; what it does not read is an error.
    config: Translate,
    /// Tensor names of one block, GGUF to transformers, both without the block's prefix and `.weight` / `.bias`.
    block: &'static [(&'static str, &'static str)],
}

/// Every architecture that can be read.
pub const ARCHITECTURES: &[Architecture] = &[Architecture {
    name: "llama",
    config: llama,
    block: LLAMA_BLOCK,
}];

const LLAMA_BLOCK: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Prefixes of keys that never change what a model computes.
const HARMLESS: &[&str] = &["general.", "tokenizer.", "quantize.", "mradermacher."];

/// The architecture that the metadata names.
///
/// # Errors
/// None is named, or one that is not known, or the file is not a whole model.
pub fn architecture(place: &str, metadata: &Map<String, Value>) -> Result<&'static Architecture> {
    let config = Config::new(Origin::Gguf, place, metadata);
    match config.opt_str("general.type")? {
        None | Some("model") => {}
        Some(_) => return Err(config.unsupported("general.type", "model")),
    }
    if config.opt_u32("split.count")?.unwrap_or(1) > 1 {
        return Err(config.unsupported(
            "split.count",
            "1 (merge the parts of a split GGUF into one file first)",
        ));
    }
    let Some(name) = config.opt_str("general.architecture")? else {
        return Err(config.missing("general.architecture"));
    };
    ARCHITECTURES
        .iter()
        .find(|a| a.name == name)
        .ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
            config.unsupported(
                "general.architecture",
                &format!("one of {}", known.join(", ")),
            )
        })
}

impl Architecture {
    /// The configuration in the keys of transformers. `tokens` is the number of entries of the file's tokenizer, which is the size
    /// of the vocabulary where no key gives it.
    ///
    /// # Errors
    /// A missing, ill-typed or unknown key.
    pub fn config(
        &self,
        place: &str,
        metadata: &Map<String, Value>,
        tokens: Option<u32>,
    ) -> Result<Map<String, Value>> {
        let prefix = format!("{}.", self.name);
        let mut own = Map::new();
        for (key, value) in metadata {
            if let Some(short) = key.strip_prefix(&prefix) {
                own.insert(short.to_owned(), value.clone());
            } else if key.starts_with("split.") || HARMLESS.iter().any(|p| key.starts_with(p)) {
            } else {
                return Err(Error::new(format_args!(
                    "{place}: {key:?} = {value} is not understood; it may change what the model computes"
                )));
            }
        }
        if let (None, Some(tokens)) = (own.get("vocab_size"), tokens) {
            own.insert("vocab_size".to_owned(), json!(tokens));
        }
        let config = Config::new(Origin::Gguf, &format!("{place}: {}", self.name), &own);
        let out = (self.config)(&config, &own)?;
        config.finish()?;
        Ok(out)
    }

    /// The name of a tensor in a Hugging Face folder; one that is not known keeps its own.
    pub fn tensor_name(&self, gguf: &str) -> String {
        match gguf {
            "token_embd.weight" => return "model.embed_tokens.weight".to_owned(),
            "output_norm.weight" => return "model.norm.weight".to_owned(),
            "output.weight" => return "lm_head.weight".to_owned(),
            _ => {}
        }
        let translated = || {
            let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
            let index: u32 = layer.parse().ok()?;
            let (part, kind) = rest.rsplit_once('.')?;
            let (_, name) = self.block.iter().find(|(from, _)| *from == part)?;
            // "blk.007" is not the name of block 7.
            (index.to_string() == layer && matches!(kind, "weight" | "bias"))
                .then(|| format!("model.layers.{index}.{name}.{kind}"))
        };
        translated().unwrap_or_else(|| gguf.to_owned())
    }
}

/// The keys of llama.cpp's `llama` architecture.
fn llama(c: &Config, own: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    out.insert("model_type".to_owned(), json!("llama"));
    let mut set = |key: &str, value: Value| out.insert(key.to_owned(), value);
    let hidden = c.u32("embedding_length")?;
    let heads = c.u32("attention.head_count")?;
    if heads == 0 {
        return Err(c.unsupported("attention.head_count", "1 or more"));
    }
    set("hidden_size", json!(hidden));
    set("num_attention_heads", json!(heads));
    set("num_hidden_layers", json!(c.u32("block_count")?));
    set("intermediate_size", json!(c.u32("feed_forward_length")?));
    set("max_position_embeddings", json!(c.u32("context_length")?));
    set(
        "rms_norm_eps",
        json!(c.f64("attention.layer_norm_rms_epsilon")?),
    );
    if let Some(n) = c.opt_u32("vocab_size")? {
        set("vocab_size", json!(n));
    }
    if let Some(n) = c.opt_u32("attention.head_count_kv")? {
        set("num_key_value_heads", json!(n));
    }
    // llama.cpp derives the head width from these two and lets the lengths override it.
    let derived = hidden / heads;
    let head_dim = c.opt_u32("attention.key_length")?.unwrap_or(derived);
    if c.opt_u32("attention.value_length")?.unwrap_or(head_dim) != head_dim {
        return Err(c.unsupported(
            "attention.value_length",
            &format!("the key length {head_dim}"),
        ));
    }
    if own.contains_key("attention.key_length") {
        set("head_dim", json!(head_dim));
    }
    for key in ["expert_count", "expert_used_count"] {
        if c.opt_u32(key)?.unwrap_or(0) != 0 {
            return Err(c.unsupported(key, "0 (experts are not read from this architecture)"));
        }
    }
    // Notes of converters: how the tensors were laid out before, which is the layout this reader expects.
    c.ignore(&["tensor_data_layout"]);
    if let Some(window) = c.opt_u32("attention.sliding_window")?.filter(|&w| w > 0) {
        set("model_type", json!("mistral"));
        set("sliding_window", json!(window));
    }

    let mut rope = Map::new();
    rope.insert(
        "rope_theta".to_owned(),
        json!(c.opt_f64("rope.freq_base")?.unwrap_or(1e4)),
    );
    if let Some(n) = c.opt_u32("rope.dimension_count")? {
        if n == 0 || n > head_dim {
            return Err(c.unsupported(
                "rope.dimension_count",
                &format!("1 to the head width {head_dim}"),
            ));
        }
        rope.insert(
            "partial_rotary_factor".to_owned(),
            json!(f64::from(n) / f64::from(head_dim)),
        );
    }
    let old_linear = c.opt_f64("rope.scale_linear")?;
    let factor = c.opt_f64("rope.scaling.factor")?.or(old_linear);
    let kind = c
        .opt_str("rope.scaling.type")?
        .unwrap_or(if factor.is_some() { "linear" } else { "none" });
    c.ignore(&["rope.scaling.finetuned"]);
    let original = c.opt_u32("rope.scaling.original_context_length")?;
    match (kind, factor) {
        ("none", _) => {}
        ("linear", Some(f)) => {
            rope.insert("rope_type".to_owned(), json!("linear"));
            rope.insert("factor".to_owned(), json!(f));
        }
        ("yarn", Some(f)) => {
            rope.insert("rope_type".to_owned(), json!("yarn"));
            rope.insert("factor".to_owned(), json!(f));
            if let Some(n) = original.filter(|&n| n > 0) {
                rope.insert("original_max_position_embeddings".to_owned(), json!(n));
            }
            // llama.cpp multiplies the magnitude correction of YaRN by this number.
            if let Some(a) = c.opt_f64("rope.scaling.attn_factor")? {
                rope.insert(
                    "attention_factor".to_owned(),
                    json!(a * crate::rope_config::yarn_mscale(f, 1.0)),
                );
            }
            for (from, to) in [
                ("rope.scaling.yarn_beta_fast", "beta_fast"),
                ("rope.scaling.yarn_beta_slow", "beta_slow"),
            ] {
                if let Some(x) = c.opt_f64(from)? {
                    rope.insert(to.to_owned(), json!(x));
                }
            }
        }
        ("linear" | "yarn", None) => return Err(c.missing("rope.scaling.factor")),
        _ => return Err(c.unsupported("rope.scaling.type", "none, linear or yarn")),
    }
    out.insert("rope_parameters".to_owned(), Value::Object(rope));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(extra: Value) -> Map<String, Value> {
        let mut m = json!({"general.architecture": "llama", "general.name": "x", "llama.block_count": 2,
            "llama.context_length": 512, "llama.embedding_length": 64, "llama.feed_forward_length": 172,
            "llama.attention.head_count": 8, "llama.attention.head_count_kv": 4,
            "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.dimension_count": 8});
        m.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        m.as_object().unwrap().clone()
    }

    fn config(extra: Value) -> Result<Map<String, Value>> {
        let m = metadata(extra);
        architecture("m.gguf", &m)?.config("m.gguf", &m, Some(512))
    }

    #[test]
    fn keys_become_those_of_transformers() {
        let c = config(json!({})).unwrap();
        assert_eq!(c["hidden_size"], 64);
        assert_eq!(c["num_key_value_heads"], 4);
        assert_eq!(c["vocab_size"], 512);
        assert_eq!(c["rope_parameters"]["partial_rotary_factor"], 1.0);
        assert_eq!(c["rope_parameters"]["rope_theta"], 1e4);
    }

    #[test]
    fn scaling() {
        let yarn = json!({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.original_context_length": 128, "llama.rope.scaling.attn_factor": 2.0});
        let c = config(yarn).unwrap();
        assert_eq!(
            c["rope_parameters"]["original_max_position_embeddings"],
            128
        );
        assert_eq!(
            c["rope_parameters"]["attention_factor"].as_f64().unwrap(),
            2.0 * (0.1 * libm::log(4.0) + 1.0)
        );
        let c = config(json!({"llama.rope.scale_linear": 2.0})).unwrap();
        assert_eq!(c["rope_parameters"]["rope_type"], "linear");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (extra, word) in [
            (json!({"llama.mystery": 1}), "mystery"),
            (json!({"adapter.type": "lora"}), "adapter.type"),
            (json!({"general.architecture": "warp"}), "warp"),
            (json!({"general.type": "mmproj"}), "mmproj"),
            (json!({"split.count": 3}), "split.count"),
            (json!({"llama.expert_count": 8}), "expert_count"),
            (json!({"llama.block_count": "two"}), "block_count"),
            (json!({"llama.attention.value_length": 16}), "value_length"),
            (json!({"llama.rope.dimension_count": 16}), "dimension_count"),
            (json!({"llama.rope.scaling.type": "longrope"}), "longrope"),
        ] {
            let message = config(extra).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn names() {
        let a = &ARCHITECTURES[0];
        let name = |n| a.tensor_name(n);
        assert_eq!(
            name("blk.3.attn_q.bias"),
            "model.layers.3.self_attn.q_proj.bias"
        );
        assert_eq!(name("output.weight"), "lm_head.weight");
        for same in [
            "blk.03.attn_q.weight",
            "blk.3.attn_q.scale",
            "blk.x.attn_q.weight",
            "rope_freqs.weight",
        ] {
            assert_eq!(name(same), same);
        }
    }
}

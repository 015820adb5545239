//! The metadata of one architecture on its way to the keys of a `config.json`.
//!
//! Look-ups are remembered as in any configuration. What llama.cpp takes from its own code where a file says nothing (a width of heads, a rotary
//! base) is written out, so that no family's own default takes its place.

use super::rules::HeadSizes;
use crate::error::Result;
use crate::rope_config::yarn_mscale;
use crate::source::{Config, Tensors};
use serde_json::{Map, Value, json};

/// How many layers repeat in a pattern that is given as one number.
pub(super) struct Pattern {
    /// Where the file has no pattern.
    pub default: u32,
    /// Whether the first layer of a period is the one without a window; else the last.
    pub dense_first: bool,
}

/// Keys below the architecture's prefix, and the configuration that grows from them.
pub(super) struct Keys<'a> {
    /// The look-ups.
    pub c: Config<'a>,
    /// The tensors of the file under its names.
    pub file: &'a dyn Tensors,
    /// What has been translated so far.
    pub out: Map<String, Value>,
    /// Heads, for the tables of names.
    pub sizes: HeadSizes,
    /// Layers that make the model.
    pub layers: u32,
    /// Blocks behind them.
    pub further: u32,
    /// Tensors whose values went into the configuration.
    pub folded: Vec<&'static str>,
    /// Tensors that a folder has and the file keeps in its metadata.
    pub constants: Vec<(String, Vec<f32>)>,
}

impl Keys<'_> {
    /// Writes a key of the configuration.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.out.insert(key.to_owned(), value.into());
    }

    /// Whether the file has a tensor.
    pub fn has(&self, tensor: &str) -> bool {
        self.file.shape(tensor).is_some()
    }

    /// Translates integers that must be there.
    ///
    /// # Errors
    /// One is missing or no integer.
    pub fn numbers(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        for (from, to) in keys {
            let n = self.c.u32(from)?;
            self.set(to, n);
        }
        Ok(())
    }

    /// Translates numbers, as far as they are there.
    ///
    /// # Errors
    /// One is no number.
    pub fn floats(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        for (from, to) in keys {
            if let Some(x) = self.c.opt_f64(from)? {
                self.set(to, x);
            }
        }
        Ok(())
    }

    /// Sizes, heads and the norm's number under the configuration's key `eps`: what every architecture has.
    ///
    /// # Errors
    /// A key is missing or has no sense.
    pub fn decoder(&mut self, model_type: &str, eps: &str) -> Result<()> {
        self.shape(model_type)?;
        self.numbers(&[("feed_forward_length", "intermediate_size")])?;
        self.eps(eps)
    }

    /// The number of an RMSNorm or of a LayerNorm, whichever the configuration's key asks for.
    ///
    /// # Errors
    /// It is missing.
    pub fn eps(&mut self, key: &str) -> Result<()> {
        let rms = "attention.layer_norm_rms_epsilon";
        let layer = "attention.layer_norm_epsilon";
        // Some converters write both, or the number of one kind under the key of the other.
        let (first, second) = match key.contains("rms") {
            true => (rms, layer),
            false => (layer, rms),
        };
        let eps = match (self.c.opt_f64(first)?, self.c.opt_f64(second)?) {
            (Some(eps), _) | (None, Some(eps)) => eps,
            (None, None) => return Err(self.c.missing(first)),
        };
        self.set(key, eps);
        Ok(())
    }

    /// The sizes of a model without its feed-forward networks.
    ///
    /// # Errors
    /// A key is missing or has no sense.
    pub fn shape(&mut self, model_type: &str) -> Result<()> {
        self.stream(model_type)?;
        self.heads()
    }

    /// What every model has: layers on a stream of some width, a vocabulary, a length of texts.
    ///
    /// # Errors
    /// A key is missing or has no sense.
    pub fn stream(&mut self, model_type: &str) -> Result<()> {
        self.set("model_type", model_type);
        self.numbers(&[
            ("embedding_length", "hidden_size"),
            ("context_length", "max_position_embeddings"),
        ])?;
        let blocks = self.c.u32("block_count")?;
        // Blocks at the end that predict further tokens are no part of the model.
        let further = self.c.opt_u32("nextn_predict_layers")?.unwrap_or(0);
        if further >= blocks && further > 0 {
            return Err(self
                .c
                .unsupported("nextn_predict_layers", "fewer than block_count"));
        }
        (self.layers, self.further) = (blocks - further, further);
        self.set("num_hidden_layers", self.layers);
        if let Some(n) = self.c.opt_u32("vocab_size")? {
            self.set("vocab_size", n);
        }
        // How the tensors were laid out before, which is what the tables undo.
        self.c.ignore(&["tensor_data_layout"]);
        Ok(())
    }

    /// The heads of attention.
    fn heads(&mut self) -> Result<()> {
        let hidden = self.c.u32("embedding_length")?;
        let heads = self.c.u32("attention.head_count")?;
        if heads == 0 {
            return Err(self.c.unsupported("attention.head_count", "1 or more"));
        }
        let kv_heads = self.kv_heads()?.unwrap_or(heads);
        let derived = hidden / heads;
        let head_dim = self.c.opt_u32("attention.key_length")?.unwrap_or(derived);
        if self
            .c
            .opt_u32("attention.value_length")?
            .unwrap_or(head_dim)
            != head_dim
        {
            return Err(self.c.unsupported(
                "attention.value_length",
                &format!("the key length {head_dim}"),
            ));
        }
        self.sizes = HeadSizes {
            heads,
            kv_heads,
            head_dim,
            rotated: head_dim,
        };
        self.set("num_attention_heads", heads);
        self.set("num_key_value_heads", kv_heads);
        // Where the heads do not share the width evenly, the family says so.
        if hidden % heads == 0 || self.c.has("attention.key_length") {
            self.set("head_dim", head_dim);
        }
        Ok(())
    }

    /// Key-value heads: one number, or one for every layer, 0 in those without attention.
    fn kv_heads(&self) -> Result<Option<u32>> {
        let key = "attention.head_count_kv";
        let Some(Value::Array(list)) = self.c.get(key) else {
            return self.c.opt_u32(key);
        };
        let mut there = list.iter().filter_map(Value::as_u64).filter(|&n| n > 0);
        let first = there.next();
        if there.any(|n| Some(n) != first) {
            let expected = "the same number in all layers with attention";
            return Err(self.c.unsupported(key, expected));
        }
        let n = first.map(u32::try_from).transpose();
        n.map_err(|_| self.c.unsupported(key, "smaller numbers"))
    }

    /// Checks that a decoder's positions see no later ones.
    ///
    /// # Errors
    /// They do.
    pub fn causal(&self) -> Result<()> {
        match self.c.bool_or("attention.causal", true)? {
            true => Ok(()),
            false => Err(self.c.unsupported("attention.causal", "true")),
        }
    }

    /// The part of a head that is rotated, as a share of it.
    ///
    /// # Errors
    /// More than the whole head.
    fn partial(&mut self) -> Result<f64> {
        let head_dim = self.sizes.head_dim;
        let Some(n) = self.c.opt_u32("rope.dimension_count")? else {
            return Ok(1.0);
        };
        if n == 0 || n > head_dim {
            return Err(self.c.unsupported(
                "rope.dimension_count",
                &format!("1 to the head width {head_dim}"),
            ));
        }
        self.sizes.rotated = n;
        Ok(share(n, head_dim))
    }

    /// The rotary parameters of all layers.
    ///
    /// # Errors
    /// An unknown scaling, a missing or meaningless parameter.
    pub fn rope(&mut self) -> Result<()> {
        let rope = self.rope_parameters()?;
        self.set("rope_parameters", rope);
        Ok(())
    }

    /// The rotary parameters where layers with a window have a base of their own (`swa_base` where the file has none) and no scaling.
    ///
    /// # Errors
    /// As [`Keys::rope`].
    pub fn rope_by_layer(&mut self, swa_base: Option<f64>) -> Result<()> {
        let full = self.rope_parameters()?;
        let base = self.c.opt_f64("rope.freq_base_swa")?.or(swa_base);
        let base = base.map_or_else(|| full["rope_theta"].clone(), Value::from);
        self.set(
            "rope_parameters",
            json!({"full_attention": full,
                "sliding_attention": {"rope_type": "default", "rope_theta": base}}),
        );
        Ok(())
    }

    fn rope_parameters(&mut self) -> Result<Map<String, Value>> {
        let partial = self.partial()?;
        let c = &self.c;
        let mut rope = Map::new();
        let mut set = |key: &str, value: Value| rope.insert(key.to_owned(), value);
        set(
            "rope_theta",
            json!(c.opt_f64("rope.freq_base")?.unwrap_or(1e4)),
        );
        set("partial_rotary_factor", json!(partial));
        let old_linear = c.opt_f64("rope.scale_linear")?;
        let factor = c.opt_f64("rope.scaling.factor")?.or(old_linear);
        let lists = ["rope_factors_long.weight", "rope_factors_short.weight"];
        let default = match factor {
            // Lists of factors need no word beside them.
            _ if self.file.shape(lists[0]).is_some() => "longrope",
            Some(_) => "linear",
            None => "none",
        };
        let kind = c.opt_str("rope.scaling.type")?.unwrap_or(default);
        c.ignore(&["rope.scaling.finetuned"]);
        let original = c.opt_u32("rope.scaling.original_context_length")?;
        // llama.cpp multiplies the magnitude correction by this number.
        let magnitude = c.opt_f64("rope.scaling.attn_factor")?;
        match (kind, factor) {
            ("none", _) => {}
            ("linear", Some(f)) => {
                set("rope_type", json!("linear"));
                set("factor", json!(f));
            }
            ("yarn", Some(f)) => {
                set("rope_type", json!("yarn"));
                set("factor", json!(f));
                if let Some(n) = original.filter(|&n| n > 0) {
                    set("original_max_position_embeddings", json!(n));
                }
                // The second is the corrected magnitude itself.
                let given = c.opt_f64("rope.scaling.yarn_attn_factor")?;
                let factor = magnitude.map(|a| a * yarn_mscale(f, 1.0)).or(given);
                if let Some(a) = factor {
                    set("attention_factor", json!(a));
                }
                if let Some(m) = c.opt_f64("rope.scaling.yarn_log_multiplier")? {
                    set("mscale", json!(1.0));
                    set("mscale_all_dim", json!(m));
                }
                for (from, to) in [
                    ("rope.scaling.yarn_beta_fast", "beta_fast"),
                    ("rope.scaling.yarn_beta_slow", "beta_slow"),
                ] {
                    if let Some(x) = c.opt_f64(from)? {
                        set(to, json!(x));
                    }
                }
                if c.opt_f64("rope.scaling.yarn_ext_factor")?
                    .is_some_and(|x| x != 1.0)
                {
                    return Err(c.unsupported("rope.scaling.yarn_ext_factor", "1"));
                }
            }
            ("longrope", _) => {
                set("rope_type", json!("longrope"));
                if let Some(n) = original.filter(|&n| n > 0) {
                    set("original_max_position_embeddings", json!(n));
                }
                if let Some(a) = magnitude {
                    set("attention_factor", json!(a));
                }
                for (name, key) in lists.into_iter().zip(["long_factor", "short_factor"]) {
                    set(key, json!(self.file.values(name)?));
                    self.folded.push(name);
                }
            }
            ("linear" | "yarn", None) => return Err(c.missing("rope.scaling.factor")),
            _ => {
                return Err(c.unsupported("rope.scaling.type", "none, linear, yarn or longrope"));
            }
        }
        Ok(rope)
    }

    /// The window, and which layers have it: one flag per layer, or a number of layers in each of which one has none.
    ///
    /// # Errors
    /// A pattern of another form.
    pub fn windows(&mut self, pattern: &Pattern) -> Result<()> {
        let window = self.c.opt_u32("attention.sliding_window")?;
        self.set("sliding_window", window.filter(|&w| w > 0));
        let slides: Vec<bool> = match self.c.get("attention.sliding_window_pattern") {
            Some(Value::Array(list)) => {
                let flags: Option<Vec<bool>> = list
                    .iter()
                    .map(|v| v.as_bool().or_else(|| v.as_u64().map(|n| n != 0)))
                    .collect();
                let wrong = || {
                    let expected = format!("{} times true or false", self.layers);
                    self.c
                        .unsupported("attention.sliding_window_pattern", &expected)
                };
                let flags = flags.filter(|f| f.len() == self.layers as usize);
                flags.ok_or_else(wrong)?
            }
            _ => {
                let n = self.c.opt_u32("attention.sliding_window_pattern")?;
                let n = n.unwrap_or(pattern.default);
                let full = |l: u32| match pattern.dense_first {
                    _ if n == 0 => false,
                    true => l.is_multiple_of(n),
                    false => l % n == n - 1,
                };
                // A configuration of many layers is refused by the family; no list is made for it before.
                (0..self.layers.min(1 << 12)).map(|l| !full(l)).collect()
            }
        };
        let kind = |slides: bool| match slides && window.is_some_and(|w| w > 0) {
            true => "sliding_attention",
            false => "full_attention",
        };
        let types: Vec<&str> = slides.into_iter().map(kind).collect();
        self.set("layer_types", json!(types));
        Ok(())
    }

    /// Checks that a number is absent or has the one value that the architecture implements.
    ///
    /// # Errors
    /// It has another.
    pub fn only(&self, key: &str, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        match self.c.get(key) {
            // 1 and 1.0 are the same number.
            Some(found)
                if *found != value
                    && found
                        .as_f64()
                        .zip(value.as_f64())
                        .is_none_or(|(a, b)| a != b) =>
            {
                Err(self.c.unsupported(key, &value.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// `part / whole`, such that `whole` times it is not below `part`.
pub(super) fn share(part: u32, whole: u32) -> f64 {
    let share = f64::from(part) / f64::from(whole);
    match (f64::from(whole) * share) as u32 >= part {
        true => share,
        false => share.next_up(),
    }
}

//! Typed look-ups in a foreign configuration, and what tensors stand beside it.
//!
//! Every importer translates what it finds into one JSON object with the keys of a Hugging Face `config.json`; a family file reads
//! it through [`Config`], which remembers every key that was asked for. What is left over and not known to be harmless
//! is an error ([`Config::finish`]): a key that nobody reads may change the mathematics.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Which format a configuration and its tensors come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A Hugging Face folder: names and row order as in transformers.
    HuggingFace,
    /// A GGUF file whose keys, names and rows were translated to those of transformers; it has biases where it has their tensors.
    Gguf,
    /// A llama2.c checkpoint, translated likewise but for its rows.
    Llama2c,
}

/// A foreign configuration whose look-ups are remembered.
pub struct Config<'a> {
    origin: Origin,
    place: String,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

/// Keys of a `config.json` that never change what a text model computes at inference; the second half are defaults of generation, which old
/// configurations carry.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "sep_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "use_return_dict",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "unsloth_version",
    "unsloth_fixed",
    "_attn_implementation",
    "attn_implementation",
    "quantization_config_note",
    "id2label",
    "label2id",
    "problem_type",
    "torchscript",
    "is_encoder_decoder",
    "is_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "tokenizer_class",
    "task_specific_params",
    "prefix",
    "finetuning_task",
    "output_router_logits",
    "router_aux_loss_coef",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    "max_sequence_length",
    "tf_legacy_loss",
    "transformers.js_config",
    "use_bfloat16",
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

impl<'a> Config<'a> {
    /// A view of `map`; `place` names the file in errors.
    pub fn new(origin: Origin, place: &str, map: &'a Map<String, Value>) -> Self {
        Config {
            origin,
            place: place.to_owned(),
            map,
            read: RefCell::default(),
        }
    }

    /// Where the configuration comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The file or object that the keys belong to, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the key is there, be it with the value null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        Error::new(format_args!(
            "{}: {key} is {value}, expected {expected}",
            self.place
        ))
    }

    /// The raw value of a key that is present and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// An unsigned integer, if present.
    ///
    /// # Errors
    /// The value is not an integer from 0 to 2^32-1.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key)
            .map(|v| {
                v.as_u64()
                    .and_then(|n| u32::try_from(n).ok())
                    .ok_or_else(|| self.wrong(key, v, "an integer from 0 to 4294967295"))
            })
            .transpose()
    }

    /// A required unsigned integer.
    ///
    /// # Errors
    /// The key is missing or not an integer from 0 to 2^32-1.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.opt_u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number, if present.
    ///
    /// # Errors
    /// The value is not a finite number.
    pub fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| {
                v.as_f64()
                    .filter(|x| x.is_finite())
                    .ok_or_else(|| self.wrong(key, v, "a number"))
            })
            .transpose()
    }

    /// An integer from 1 to `max`, `default` where the key is absent.
    ///
    /// # Errors
    /// The key is missing and has no default, is no integer, or out of bounds.
    pub fn bounded(&self, key: &str, default: Option<u32>, max: u32) -> Result<u32> {
        match self.opt_u32(key)?.or(default) {
            None => Err(self.missing(key)),
            Some(n) if (1..=max).contains(&n) => Ok(n),
            Some(_) => Err(self.unsupported(key, &format!("1 to {max}"))),
        }
    }

    /// A required number.
    ///
    /// # Errors
    /// The key is missing or not a finite number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.opt_f64(key)?.ok_or_else(|| self.missing(key))
    }

    /// A boolean with a default.
    ///
    /// # Errors
    /// The value is not a boolean.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| {
            v.as_bool()
                .ok_or_else(|| self.wrong(key, v, "true or false"))
        })
    }

    /// A string, if present.
    ///
    /// # Errors
    /// The value is not a string.
    pub fn opt_str(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|v| v.as_str().ok_or_else(|| self.wrong(key, v, "a string")))
            .transpose()
    }

    /// An array, if present.
    ///
    /// # Errors
    /// The value is not an array.
    pub fn opt_array(&self, key: &str) -> Result<Option<&'a [Value]>> {
        self.get(key)
            .map(|v| {
                v.as_array()
                    .map(Vec::as_slice)
                    .ok_or_else(|| self.wrong(key, v, "an array"))
            })
            .transpose()
    }

    /// A nested object, if present, with look-ups of its own: call its [`Config::finish`] too.
    ///
    /// # Errors
    /// The value is not an object.
    pub fn opt_object(&self, key: &str) -> Result<Option<Config<'a>>> {
        self.get(key)
            .map(|v| {
                let map = v
                    .as_object()
                    .ok_or_else(|| self.wrong(key, v, "an object"))?;
                Ok(Config::new(
                    self.origin,
                    &format!("{}: {key}", self.place),
                    map,
                ))
            })
            .transpose()
    }

    /// The error for a key that must be there.
    pub fn missing(&self, key: &str) -> Error {
        Error::new(format_args!("{}: {key} is missing", self.place))
    }

    /// An error about a key's value.
    pub fn unsupported(&self, key: &str, expected: &str) -> Error {
        let value = self.map.get(key).unwrap_or(&Value::Null);
        self.wrong(key, value, expected)
    }

    /// Declares keys that this family's mathematics ignores on purpose.
    pub fn ignore(&self, keys: &[&str]) {
        self.read
            .borrow_mut()
            .extend(keys.iter().map(|k| (*k).to_owned()));
    }

    /// Checks that every key was read or is harmless.
    ///
    /// # Errors
    /// Names the first key that nobody read.
    pub fn finish(&self) -> Result<()> {
        let read = self.read.borrow();
        for (key, value) in self.map {
            if !read.contains(key) && !HARMLESS.contains(&key.as_str()) {
                return Err(Error::new(format_args!(
                    "{}: {key:?} = {value} is not understood; it may change what the model computes",
                    self.place
                )));
            }
        }
        Ok(())
    }
}

/// The foreign tensors, as far as a family has to look at them to make its plan.
pub trait Tensors {
    /// The shape of a tensor, outermost dimension first, or none if there is no such tensor.
    fn shape(&self, name: &str) -> Option<&[u64]>;

    /// Checks that a tensor is there with exactly this shape.
    ///
    /// # Errors
    /// Names the tensor, its shape and the expected one.
    fn expect(&self, name: &str, shape: &[u64]) -> Result<()> {
        match self.shape(name) {
            None => Err(Error::new(format_args!(
                "tensor {name:?} is missing, expected one of shape {shape:?}"
            ))),
            Some(found) if found != shape => Err(Error::new(format_args!(
                "tensor {name:?} has shape {found:?}, expected {shape:?}"
            ))),
            Some(_) => Ok(()),
        }
    }

    /// All values of a small tensor (at most 1 Mi values), widened to f32.
    ///
    /// # Errors
    /// The tensor is missing, too large, or cannot be read.
    fn values(&self, name: &str) -> Result<Vec<f32>>;

    /// Whether two tensors have the same shape, type and bytes.
    ///
    /// # Errors
    /// One of them is missing or cannot be read.
    fn same(&self, a: &str, b: &str) -> Result<bool>;
}

//! Shapes of well-known models: a `config.json` each, from which a Spec follows without any weights.
//!
//! With them speed can be measured on weights that are made up. The numbers are those of the published configurations; what only says how
//! texts are read or trained is left out.

use crate::error::{Error, Result};
use crate::family;
use crate::source::{Config, Origin, Tensors};
use crate::spec::Spec;
use serde_json::{Map, Value};

/// A model that is known by its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// What people call it.
    pub name: &'static str,
    /// Its `config.json`.
    pub config: &'static str,
}

/// For examples in help texts.
pub const EXAMPLE: &str = "llama-1b";

/// One entry of the list: the file beside the crate's sources is called as the shape.
macro_rules! known {
    ($($name:literal),* $(,)?) => {
        &[$(Known { name: $name, config: include_str!(concat!("../shapes/", $name, ".json")) }),*]
    };
}

/// All of them, by name.
pub const KNOWN: &[Known] = known![
    "deepseek-v2-lite",
    "gemma3-12b",
    "gemma3-1b",
    "gemma3-4b",
    "gpt-oss-20b",
    "llama-1b",
    "llama-300m",
    "llama-3b",
    "llama-70b",
    "llama-8b",
    "mamba2-1.3b",
    "mistral-7b",
    "mistral-small-24b",
    "mixtral-8x7b",
    "moe-64x4l",
    "olmoe-1b-7b",
    "phi3-mini",
    "phi4-14b",
    "qwen2.5-7b",
    "qwen3-0.6b",
    "qwen3-14b",
    "qwen3-30b-a3b",
    "qwen3-4b",
    "qwen3-8b",
    "smollm2-1.7b",
    "smollm2-135m",
    "tinyllama-1.1b",
];

impl Known {
    /// The shape of that name.
    pub fn by_name(name: &str) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// The model as data.
    ///
    /// # Errors
    /// None for a configuration that ships: the tests make every one.
    pub fn spec(&self) -> Result<Spec> {
        let config = serde_json::from_str(self.config).map_err(Error::new)?;
        spec(self.name, &config)
    }
}

/// The Spec of a `config.json` whose weights are not at hand: every tensor is taken to have the shape that the family expects. `place` names the
/// configuration in errors.
///
/// # Errors
/// What [`family::plan`] refuses; a family that looks into its weights.
pub fn spec(place: &str, config: &Map<String, Value>) -> Result<Spec> {
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool);
    let tensors = Assumed {
        head: !tied.unwrap_or(false),
    };
    let config = Config::new(Origin::HuggingFace, place, config);
    Ok(family::plan(&config, &tensors)?.spec)
}

/// Tensors that nobody has: each is as it is expected to be.
struct Assumed {
    /// Whether the head is one of its own.
    head: bool,
}

impl Tensors for Assumed {
    fn shape(&self, name: &str) -> Option<&[u64]> {
        // Where there is a choice, names are the usual ones of a published folder; the head alone is there or not.
        (self.head && name == "lm_head.weight").then_some(&[])
    }

    fn expect(&self, _: &str, _: &[u64]) -> Result<()> {
        Ok(())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        Err(Error::new(format_args!(
            "what this model is depends on the values of tensor {name:?}, and there are only shapes"
        )))
    }

    fn same(&self, _: &str, _: &str) -> Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Shape;

    fn weights(spec: &Spec) -> u64 {
        let count = |shape| match shape {
            Shape::Vector(n) => u64::from(n),
            Shape::Matrix { count, rows, cols } => {
                u64::from(count) * u64::from(rows) * u64::from(cols)
            }
        };
        spec.tensors().iter().map(|t| count(t.shape)).sum()
    }

    #[test]
    fn every_shape_is_a_valid_model_and_the_list_is_the_folder() {
        assert!(KNOWN.len() >= 20);
        assert!(KNOWN.is_sorted_by(|a, b| a.name < b.name));
        for known in KNOWN {
            let spec = known
                .spec()
                .unwrap_or_else(|e| panic!("{}: {e}", known.name));
            spec.validate().unwrap();
            assert!(spec.head.is_some(), "{}", known.name);
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shapes");
        let files = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(files, KNOWN.len());
        assert!(Known::by_name(EXAMPLE).is_some());
        assert!(Known::by_name("warp-9b").is_none());
    }

    /// Numbers of weights as their makers state them.
    #[test]
    fn shapes_have_as_many_weights_as_the_published_models() {
        let mut wrong = 0;
        for (name, millions) in [
            ("llama-1b", 1236),
            ("llama-8b", 8030),
            ("llama-70b", 70554),
            ("tinyllama-1.1b", 1100),
            ("smollm2-135m", 135),
            ("mistral-7b", 7248),
            ("mixtral-8x7b", 46703),
            ("qwen2.5-7b", 7616),
            ("qwen3-0.6b", 596),
            ("qwen3-8b", 8191),
            ("qwen3-30b-a3b", 30532),
            ("gemma3-1b", 1000),
            ("gpt-oss-20b", 20915),
            ("deepseek-v2-lite", 15706),
            ("olmoe-1b-7b", 6919),
            ("phi4-14b", 14660),
            ("mamba2-1.3b", 1344),
        ] {
            let spec = Known::by_name(name).unwrap().spec().unwrap();
            let found = (weights(&spec) + 500_000) / 1_000_000;
            println!("{name}: {found} of {millions}");
            wrong += usize::from(found != millions);
        }
        assert_eq!(wrong, 0);
    }

    #[test]
    fn a_configuration_that_needs_its_weights_or_is_unknown_is_refused() {
        let refused = |config: serde_json::Value| {
            spec("config.json", config.as_object().unwrap())
                .unwrap_err()
                .to_string()
        };
        let m = refused(serde_json::json!({"model_type": "warp"}));
        assert!(m.contains("\"warp\""), "{m}");
        let mut odd: Map<String, Value> =
            serde_json::from_str(Known::by_name("llama-1b").unwrap().config).unwrap();
        odd.insert("hidden_size".into(), 0.into());
        assert!(refused(odd.into()).contains("hidden_size is 0"));
    }
}

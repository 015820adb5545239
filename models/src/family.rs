//! The list of families and the way from a configuration to the plan of the right one.

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::source::{Config, Tensors};
use std::collections::BTreeSet;

/// One family: which configurations it reads, and how.
pub struct Family {
    /// Values of `model_type` that it understands.
    pub model_types: &'static [&'static str],
    /// From a configuration and the tensors beside it to a plan. It need not check for left-over keys or tensors.
    pub plan: fn(&Config, &dyn Tensors) -> Result<Plan>,
    /// One line for a person.
    pub doc: &'static str,
}

/// Every family that can be imported.
pub const FAMILIES: &[Family] = &[
    crate::apertus::FAMILY,
    crate::arcee::FAMILY,
    crate::bert::FAMILY,
    crate::bloom::FAMILY,
    crate::cohere::FAMILY,
    crate::deepseek::FAMILY,
    crate::ernie::FAMILY,
    crate::exaone::FAMILY,
    crate::falcon::FAMILY,
    crate::falcon_h1::FAMILY,
    crate::gemma::FAMILY,
    crate::gemma3n::FAMILY,
    crate::gemma4::FAMILY,
    crate::glm::FAMILY,
    crate::glm_moe::FAMILY,
    crate::gpt2::FAMILY,
    crate::gpt_neox::FAMILY,
    crate::gpt_oss::FAMILY,
    crate::gptj::FAMILY,
    crate::granite::FAMILY,
    crate::granite_hybrid::FAMILY,
    crate::helium::FAMILY,
    crate::hunyuan::FAMILY,
    crate::lfm2::FAMILY,
    crate::llama::FAMILY,
    crate::llama4::FAMILY,
    crate::mamba::FAMILY,
    crate::mistral::FAMILY,
    crate::modernbert::FAMILY,
    crate::mixtral::FAMILY,
    crate::nemotron::FAMILY,
    crate::nomic_bert::FAMILY,
    crate::olmo::FAMILY,
    crate::opt::FAMILY,
    crate::phi::FAMILY,
    crate::phi3::FAMILY,
    crate::qwen::FAMILY,
    crate::qwen3_next::FAMILY,
    crate::qwen_moe::FAMILY,
    crate::seed_oss::FAMILY,
    crate::smollm3::FAMILY,
    crate::stablelm::FAMILY,
    crate::starcoder2::FAMILY,
    crate::t5::FAMILY,
];

/// The plan of a model: finds the family by `model_type`, then checks that every key was understood and that the plan makes
/// exactly the tensors of its Spec.
///
/// # Errors
/// An unknown `model_type` (named, with those that are known), whatever the family refuses, a key that nobody read.
pub fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let Some(model_type) = config.opt_str("model_type")? else {
        return Err(config.missing("model_type"));
    };
    let Some(family) = FAMILIES
        .iter()
        .find(|f| f.model_types.contains(&model_type))
    else {
        let mut known: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|f| f.model_types)
            .copied()
            .collect();
        known.sort_unstable();
        return Err(config.unsupported("model_type", &format!("one of {}", known.join(", "))));
    };
    let plan = (family.plan)(config, tensors)?;
    config.finish()?;
    plan.spec.validate()?;
    let wanted: BTreeSet<_> = plan.spec.tensors().iter().map(|t| t.key).collect();
    let made: BTreeSet<_> = plan.tensors.iter().map(|t| t.key).collect();
    if wanted != made || made.len() != plan.tensors.len() {
        let odd = wanted.symmetric_difference(&made).next();
        return Err(Error::new(format_args!(
            "the plan of {model_type:?} does not match its own description at {}",
            odd.map_or("a repeated tensor".to_owned(), ToString::to_string)
        )));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Origin;
    use serde_json::json;

    struct Nothing;

    impl Tensors for Nothing {
        fn shape(&self, _: &str) -> Option<&[u64]> {
            None
        }
        fn values(&self, name: &str) -> Result<Vec<f32>> {
            Err(Error::new(name))
        }
        fn same(&self, name: &str, _: &str) -> Result<bool> {
            Err(Error::new(name))
        }
    }

    fn refusal(config: serde_json::Value) -> String {
        let config = Config::new(
            Origin::HuggingFace,
            "config.json",
            config.as_object().unwrap(),
        );
        plan(&config, &Nothing).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_family_is_named_beside_the_known_ones() {
        let m = refusal(json!({"model_type": "warp"}));
        assert!(m.contains("\"warp\""), "{m}");
        let known = m.rsplit_once("one of ").expect(&m).1;
        let listed: Vec<&str> = known.split(", ").collect();
        for t in FAMILIES.iter().flat_map(|f| f.model_types) {
            assert!(listed.contains(t), "{t} is not in {m}");
        }
        assert!(listed.is_sorted(), "{m}");
        assert!(refusal(json!({})).contains("model_type is missing"));
    }

    #[test]
    fn model_types_are_listed_once() {
        let mut seen = BTreeSet::new();
        for t in FAMILIES.iter().flat_map(|f| f.model_types) {
            assert!(seen.insert(t), "{t} is listed twice");
        }
    }

    #[test]
    fn sizes_are_bounded_before_anything_is_planned() {
        let with = |key: &str, value: serde_json::Value| {
            let mut c = json!({"model_type": "llama", "vocab_size": 288, "hidden_size": 64, "intermediate_size": 96,
                "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512});
            c[key] = value;
            refusal(c)
        };
        for (key, value) in [
            ("num_hidden_layers", json!(1_000_000)),
            ("num_hidden_layers", json!("2")),
            ("num_hidden_layers", json!(2.5)),
            ("num_attention_heads", json!(0)),
            ("num_attention_heads", json!(5)),
            ("num_key_value_heads", json!(3)),
            ("vocab_size", json!(-1)),
            ("hidden_size", json!(1u64 << 40)),
            ("head_dim", json!(0)),
            ("hidden_act", json!("mish")),
        ] {
            let m = with(key, value.clone());
            assert!(m.contains(key), "{key} = {value}: {m}");
        }
        assert!(with("head_dim", json!(16)).contains("model.embed_tokens.weight"));
    }
}

//! Everything that decides about the lines of an output, for its manifest.

use super::{Args, Order};
use crate::batch::manifest::Manifest;
use crate::batch::shard::Shard;
use crate::batch::survey::Survey;
use crate::error::{Error, Result};
use crate::generate::stored::ARITHMETIC;
use crate::generate::structure::Grammar;
use crate::model::Model;
use crate::sample::{Params, Step};
use quern_kernels::{Kernels, KvType};
use serde_json::{Value, json};

/// Raised when lines of the same records begin to look different.
const VERSION: u32 = 1;

/// What a run is.
pub struct About<'a> {
    /// As it was asked for.
    pub args: &'a Args,
    /// What it runs.
    pub model: &'a Model,
    /// With what.
    pub kernels: &'a Kernels,
    /// What is known of its input.
    pub survey: Option<&'a Survey>,
    /// Which records are its own.
    pub shard: Shard,
    /// Its seed.
    pub seed: u64,
    /// Positions that it uses.
    pub context: usize,
    /// How ids are chosen where records do not say it.
    pub sampling: &'a Params,
    /// The system message of records that have none.
    pub system: Option<&'a str>,
    /// The form of texts whose records say none.
    pub form: Option<&'a Grammar>,
    /// The source of the chat template.
    pub template: Option<&'a str>,
}

impl About<'_> {
    /// The manifest. Threads, how much runs side by side and, as long as they are exact, kernels are not in it: nothing depends on them.
    ///
    /// # Errors
    /// None that can be expected: everything in it can be written as JSON.
    pub fn manifest(&self) -> Result<Manifest> {
        let args = self.args;
        let mut m = Manifest::default();
        m.set("version", VERSION);
        m.set("arithmetic", ARITHMETIC);
        if !self.kernels.exact() {
            m.set("fast_math", self.kernels.name());
        }
        m.set("model", self.model.file().id_hex());
        m.set("input", self.survey.map(|s| s.hash.clone()));
        m.set("records", self.survey.map(|s| s.records));
        if self.args.shard.is_some() {
            m.set("shard", self.shard.to_string());
        }
        m.set("limit", args.limit);
        m.set(
            "order",
            match args.order {
                Order::Input => "input",
                Order::Completion => "completion",
            },
        );
        m.set("text", args.text);
        m.set("lenient", args.lenient);
        m.set("allow_duplicates", args.allow_duplicates);
        m.set("seed", self.seed);
        m.set("sampling", sampling(self.sampling)?);
        m.set("context", self.context as u64);
        m.set("max_tokens", args.ending.max_new().map(|n| n as u64));
        m.set("stop", json!(args.ending.stop));
        m.set("ignore_eos", args.ignore_eos);
        m.set("kv", KvType::from(args.model.kv).name());
        m.set("raw", args.raw);
        m.set("system", self.system);
        m.set("parse_special", args.parse_special);
        m.set("hide_thinking", args.hide_thinking);
        m.set("form", self.form.map(|form| hash(&format!("{form:?}"))));
        m.set("template", self.template.map(hash));
        let variables = json!(args.template.template_arg);
        m.set("template_args", variables);
        // Only a template that asks for the date depends on it.
        let dated = self.template.is_some_and(|t| t.contains("strftime_now"));
        let now = args.template.now.map(|now| now.to_string());
        m.set("now", now.filter(|_| dated));
        m.set("pooling", format!("{:?}", args.pooling).to_lowercase());
        m.set("normalize", args.normalize);
        m.set("token_ids", args.token_ids);
        m.set("fingerprint", args.fingerprint);
        Ok(m)
    }
}

fn hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// A number as people write it: 0.8 and not 0.800000011920929.
fn number(x: f32) -> Result<Value> {
    let text = x.to_string();
    match x.is_finite() {
        true => serde_json::from_str(&text).map_err(Error::invalid),
        false => Ok(Value::String(text)),
    }
}

fn sampling(params: &Params) -> Result<Value> {
    let Params {
        temperature,
        dynatemp_range,
        dynatemp_exponent,
        top_k,
        top_p,
        min_p,
        typical,
        top_n_sigma,
        repeat_penalty,
        presence_penalty,
        frequency_penalty,
        repeat_last_n,
        dry_multiplier,
        dry_base,
        dry_allowed_length,
        dry_last_n,
        dry_breakers,
        xtc_probability,
        xtc_threshold,
        mirostat,
        logit_bias,
        order,
        seed: _,
    } = params;
    let bias = logit_bias.iter();
    let bias = bias.map(|(id, x)| Ok(json!([id, number(*x)?])));
    let bias = bias.collect::<Result<Vec<Value>>>()?;
    let mirostat = mirostat.map(|m| Ok(json!([number(m.target)?, number(m.rate)?])));
    let names: Vec<&str> = order.iter().copied().map(Step::name).collect();
    Ok(json!({
        "temperature": number(*temperature)?,
        "dynatemp_range": number(*dynatemp_range)?,
        "dynatemp_exponent": number(*dynatemp_exponent)?,
        "top_k": top_k,
        "top_p": number(*top_p)?,
        "min_p": number(*min_p)?,
        "typical_p": number(*typical)?,
        "top_n_sigma": number(*top_n_sigma)?,
        "repeat_penalty": number(*repeat_penalty)?,
        "presence_penalty": number(*presence_penalty)?,
        "frequency_penalty": number(*frequency_penalty)?,
        "repeat_last_n": repeat_last_n,
        "dry_multiplier": number(*dry_multiplier)?,
        "dry_base": number(*dry_base)?,
        "dry_allowed_length": dry_allowed_length,
        "dry_last_n": dry_last_n,
        "dry_breakers": hash(&format!("{dry_breakers:?}")),
        "xtc_probability": number(*xtc_probability)?,
        "xtc_threshold": number(*xtc_threshold)?,
        "mirostat": mirostat.transpose()?,
        "logit_bias": bias,
        "order": names.join(";"),
    }))
}

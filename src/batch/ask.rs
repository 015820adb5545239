//! A request for text: what to continue, how, and what the text must look like.
//!
//! Options have the names of OpenAI's API, and those of llama.cpp's server where that has none.

use super::Failure;
use super::fields::Fields;
use crate::generate::structure::Grammar;
use crate::sample::Params;
use crate::template::Json;

/// Most stop strings.
const MAX_STOPS: usize = 64;
/// Most answers to one prompt.
const MAX_CHOICES: u64 = 128;
/// Most alternatives per token.
const MAX_TOP: u64 = 100;

/// What the model reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text: the user's message where there is a chat template, as with `quern run`.
    Text(String),
    /// A text to continue as it is.
    Raw(String),
    /// Exactly these ids.
    Ids(Vec<u32>),
    /// A conversation for the chat template: `{"messages","tools"}`.
    Messages(Json),
}

/// A request for text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ask {
    /// What to continue or to answer, each on its own.
    pub prompts: Vec<Prompt>,
    /// The system message before a text, if the record has one.
    pub system: Option<String>,
    /// How many answers to each prompt.
    pub choices: u32,
    /// Most tokens of each.
    pub max_new: Option<usize>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// How ids are chosen, where the record says so.
    pub sampling: Sampling,
    /// How many alternatives to report per token.
    pub top: Option<usize>,
    /// What the text must look like.
    pub form: Option<Grammar>,
}

/// Sampling as far as a record speaks of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Places in [`NUMBERS`] and their values.
    numbers: Vec<(usize, f32)>,
    top_k: Option<usize>,
    bias: Vec<(u32, f32)>,
    /// The seed.
    pub seed: Option<u64>,
}

/// A parameter that is a number.
type Number = fn(&mut Params) -> &mut f32;

/// Names in a record and what they set.
const NUMBERS: [(&str, Number); 14] = [
    ("temperature", |p| &mut p.temperature),
    ("top_p", |p| &mut p.top_p),
    ("min_p", |p| &mut p.min_p),
    ("typical_p", |p| &mut p.typical),
    ("top_n_sigma", |p| &mut p.top_n_sigma),
    ("dynatemp_range", |p| &mut p.dynatemp_range),
    ("dynatemp_exponent", |p| &mut p.dynatemp_exponent),
    ("repeat_penalty", |p| &mut p.repeat_penalty),
    ("presence_penalty", |p| &mut p.presence_penalty),
    ("frequency_penalty", |p| &mut p.frequency_penalty),
    ("dry_multiplier", |p| &mut p.dry_multiplier),
    ("dry_base", |p| &mut p.dry_base),
    ("xtc_probability", |p| &mut p.xtc_probability),
    ("xtc_threshold", |p| &mut p.xtc_threshold),
];

impl Sampling {
    fn take(fields: &mut Fields) -> Result<Sampling, Failure> {
        let mut numbers = Vec::new();
        for (place, (name, _)) in NUMBERS.iter().enumerate() {
            if let Some(x) = fields.number(name)? {
                numbers.push((place, x));
            }
        }
        let bias = match fields.object("logit_bias", "logit_bias")? {
            Some(object) => object.biases()?,
            None => Vec::new(),
        };
        let top_k = fields.whole("top_k", 0, u64::from(u32::MAX))?;
        Ok(Sampling {
            numbers,
            top_k: top_k.map(|k| k as usize),
            bias,
            seed: fields.whole("seed", 0, u64::MAX)?,
        })
    }

    /// Sets what the record speaks of.
    pub fn apply(&self, params: &mut Params) {
        for &(place, x) in &self.numbers {
            *NUMBERS[place].1(params) = x;
        }
        if let Some(k) = self.top_k {
            params.top_k = k;
        }
        params.logit_bias.extend_from_slice(&self.bias);
    }

    /// The greatest id that a bias is for.
    pub fn greatest_id(&self) -> Option<u32> {
        self.bias.iter().map(|(id, _)| *id).max()
    }
}

impl Ask {
    /// A request that says nothing but what to continue.
    pub fn plain(prompt: Prompt) -> Ask {
        Ask {
            prompts: vec![prompt],
            choices: 1,
            ..Ask::default()
        }
    }

    /// Takes the options of a request; `logprobs` is a flag beside `top_logprobs` in a chat, and a number elsewhere.
    ///
    /// # Errors
    /// An option with a value that it cannot have.
    pub fn take(fields: &mut Fields, prompts: Vec<Prompt>, chat: bool) -> Result<Ask, Failure> {
        let limit = |fields: &mut Fields, name| fields.whole(name, 0, u64::from(u32::MAX));
        // The newer name counts, as with OpenAI.
        let older = limit(fields, "max_tokens")?;
        let max_new = limit(fields, "max_completion_tokens")?.or(older);
        let top = match chat {
            true => {
                let wanted = fields.flag("logprobs")?.unwrap_or(false);
                let top = fields.whole("top_logprobs", 0, MAX_TOP)?;
                if let (false, Some(1..)) = (wanted, top) {
                    return Err(Failure::invalid(format_args!(
                        "{} needs \"logprobs\": true",
                        fields.name("top_logprobs")
                    )));
                }
                wanted.then_some(top.unwrap_or(0))
            }
            false => fields.whole("logprobs", 0, MAX_TOP)?,
        };
        let stop = fields.texts("stop", MAX_STOPS)?;
        if stop.iter().any(String::is_empty) {
            return Err(Failure::invalid(format_args!(
                "{} is empty, expected some text",
                fields.name("stop")
            )));
        }
        Ok(Ask {
            prompts,
            system: None,
            choices: fields.whole("n", 1, MAX_CHOICES)?.unwrap_or(1) as u32,
            max_new: max_new.map(|n| n as usize),
            stop,
            sampling: Sampling::take(fields)?,
            top: top.map(|n| n as usize),
            form: form(fields)?,
        })
    }
}

/// What the text must look like, in any of the ways to say it.
fn form(fields: &mut Fields) -> Result<Option<Grammar>, Failure> {
    let mut forms = Vec::new();
    if let Some(format) = fields.object("response_format", "response_format")? {
        forms.extend(response_format(format)?);
    }
    if let Some(schema) = fields.take("json_schema") {
        forms.push(Grammar::JsonSchema(schema_text(&schema)?));
    }
    forms.extend(fields.text("regex")?.map(Grammar::Regex));
    forms.extend(fields.text("grammar")?.map(Grammar::of_text));
    match forms.len() {
        0 | 1 => Ok(forms.pop()),
        _ => Err(Failure::invalid(
            "the text is to have two forms, expected one of response_format, json_schema, regex, grammar",
        )),
    }
}

fn response_format(mut format: Fields) -> Result<Option<Grammar>, Failure> {
    let kind = format.text("type")?;
    let form = match kind.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(Grammar::JsonSchema(r#"{"type":"object"}"#.to_owned())),
        Some("json_schema") => {
            let Some(mut schema) = format.object("json_schema", "response_format.json_schema")?
            else {
                return Err(format.missing("json_schema"));
            };
            schema.ignore(&["name", "strict", "description"]);
            let inner = schema.take("schema").ok_or(schema.missing("schema"))?;
            schema.end(false)?;
            Some(Grammar::JsonSchema(schema_text(&inner)?))
        }
        Some(other) => {
            return Err(Failure::invalid(format_args!(
                "{} is {other:?}, expected \"text\", \"json_object\" or \"json_schema\"",
                format.name("type")
            )));
        }
        None => return Err(format.missing("type")),
    };
    format.end(false)?;
    Ok(form)
}

/// A schema as text, its keys in the order in which they came: properties are written in that order.
fn schema_text(schema: &Json) -> Result<String, Failure> {
    serde_json::to_string(schema)
        .map_err(|e| Failure::invalid(format_args!("the schema cannot be written as JSON: {e}")))
}

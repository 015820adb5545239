//! From what a record asks for to a job: ids, sampling, grammar, decoder, each as `quern run` of that record alone has it.

use super::Args;
use crate::batch::ask::{Ask, Prompt};
use crate::batch::feed::{Prepare, Text as Prepared};
use crate::batch::job::{Answer, Embedded, Scored, Whole};
use crate::batch::record::Score;
use crate::cli::load::Reader;
use crate::cli::messages::{Asked, PromptArgs, Prompts};
use crate::cli::screen::{Numbers, Text};
use crate::cli::thinking::{self, Thinking};
use crate::error::{Error, Result};
use crate::generate::structure::{Grammar, Structure, Vocabulary};
use crate::generate::{Constraint, Decode, Request, check_context, embed, score};
use crate::model::Engine;
use crate::sample::Params;
use crate::template::Conversation;
use crate::tokenizer::EncodeOptions;
use quern_kernels::KvType;
use std::sync::Arc;

/// Makes jobs for one model.
pub struct Desk<'a> {
    args: &'a Args,
    reader: &'a Reader,
    prompts: &'a Prompts<'a>,
    /// The system message of records that have none.
    system: Option<String>,
    /// The form of texts whose records say none.
    form: Option<Grammar>,
    sampling: Params,
    context: usize,
    /// Made when the first grammar needs it.
    vocabulary: Option<Arc<Vocabulary>>,
    /// Tokens of all prompts so far.
    pub prompt_tokens: u64,
}

impl<'a> Desk<'a> {
    /// For records that say as little as these do.
    pub fn new(
        args: &'a Args,
        reader: &'a Reader,
        prompts: &'a Prompts<'a>,
        system: Option<String>,
        form: Option<Grammar>,
        sampling: Params,
        context: usize,
    ) -> Desk<'a> {
        Desk {
            args,
            reader,
            prompts,
            system,
            form,
            sampling,
            context,
            vocabulary: None,
            prompt_tokens: 0,
        }
    }

    fn kv(&self) -> KvType {
        self.args.model.kv.into()
    }

    /// The ids of a prompt and those that end what follows it.
    fn ids(&mut self, prompt: &Prompt, system: Option<&str>) -> Result<(Vec<u32>, Vec<u32>)> {
        let raw = self.args.raw || matches!(prompt, Prompt::Raw(_));
        let asked = match prompt {
            Prompt::Text(text) | Prompt::Raw(text) => Asked::Text(text.clone()),
            Prompt::Ids(ids) => Asked::Ids(ids.clone()),
            Prompt::Messages(value) => Asked::Messages(Conversation::from_value(value.clone())?),
        };
        // A message of the system's goes before a text that is the user's message.
        let own = system.or(self.system.as_deref());
        let args = PromptArgs {
            system: own.filter(|_| !raw && matches!(prompt, Prompt::Text(_))),
            raw: raw && !matches!(prompt, Prompt::Messages(_)),
            parse_special: self.args.parse_special,
        };
        let (ids, end_ids) = self.prompts.make(asked, args)?;
        let vocabulary = self.reader.model.spec().vocab_size;
        if let Some(id) = ids.iter().find(|id| **id >= vocabulary) {
            return Err(Error::invalid(format_args!(
                "the prompt has id {id}, but the model has {vocabulary} ids"
            )));
        }
        self.prompt_tokens += ids.len() as u64;
        Ok((ids, end_ids))
    }

    /// The ids of a text within another.
    fn middle(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        tokenizer.encode(
            text,
            EncodeOptions {
                add_special: false,
                parse_special: self.args.parse_special,
            },
        )
    }

    fn tokenizer(&self) -> Result<&'a crate::tokenizer::Tokenizer> {
        self.reader.tokenizer.as_deref().ok_or_else(|| {
            Error::usage("this model file has no tokenizer: give token ids and not text")
        })
    }

    fn constraint(&mut self, form: &Grammar, end_ids: &[u32]) -> Result<Box<dyn Constraint + 'a>> {
        let vocabulary = match &self.vocabulary {
            Some(vocabulary) => vocabulary.clone(),
            None => {
                let tokenizer = self.reader.tokenizer.as_ref().ok_or_else(|| {
                    Error::usage("this model file has no tokenizer, and a grammar is about text")
                })?;
                let made = Arc::new(Vocabulary::for_many(tokenizer)?);
                self.vocabulary.insert(made).clone()
            }
        };
        Ok(Box::new(Structure::new(&vocabulary, form, end_ids)?))
    }

    /// What is scored: the ids of the whole, and how many of them stand before it.
    fn scored(&mut self, asked: &Score) -> Result<(Vec<u32>, usize)> {
        let system = asked.system.as_deref();
        let text = match &asked.prompt {
            Prompt::Text(text) if !self.prompts.has_template(self.args.raw)? => Some(text),
            Prompt::Raw(text) => Some(text),
            _ => None,
        };
        let (mut ids, _) = self.ids(&asked.prompt, system)?;
        match (text, &asked.completion) {
            // As one text, so that its tokens are those that it has when it stands there by itself; one that is of both belongs to what is scored.
            (Some(text), Prompt::Raw(completion) | Prompt::Text(completion)) => {
                let whole = format!("{text}{completion}");
                let whole = self.reader.encode(&whole, self.args.parse_special)?;
                let before = ids.iter().zip(&whole).take_while(|(a, b)| a == b).count();
                Ok((whole, before))
            }
            (_, completion) => {
                let before = ids.len();
                match completion {
                    Prompt::Ids(more) => ids.extend_from_slice(more),
                    Prompt::Raw(text) | Prompt::Text(text) => ids.extend(self.middle(text)?),
                    Prompt::Messages(_) => {}
                }
                Ok((ids, before))
            }
        }
    }
}

impl<'a> Prepare<'a> for Desk<'a> {
    fn text(&mut self, ask: &Ask, prompt: &Prompt, seed: u64) -> Result<Prepared<'a>> {
        let (given, end_ids) = self.ids(prompt, ask.system.as_deref())?;
        let (source, prompt) = match self.reader.decoder_start()? {
            Some(start) => (Some(given), vec![start]),
            None => (None, given),
        };
        if let Some(source) = &source {
            check_context("the source", source.len(), self.context)?;
        }
        if prompt.is_empty() {
            return Err(Error::usage(
                "the prompt has no tokens: there is nothing to continue",
            ));
        }
        check_context("the prompt", prompt.len(), self.context)?;
        let end_ids = match self.args.ignore_eos {
            true => Vec::new(),
            false => end_ids,
        };
        let mut sampling = self.sampling.clone();
        ask.sampling.apply(&mut sampling);
        sampling.seed = seed;
        sampling.validate()?;
        let vocabulary = self.reader.model.spec().vocab_size;
        if let Some(id) = ask.sampling.greatest_id().filter(|id| *id >= vocabulary) {
            return Err(Error::usage(format_args!(
                "logit_bias is for id {id}, but the model has {vocabulary} ids"
            )));
        }
        let form = ask.form.clone().or_else(|| self.form.clone());
        let constraint = form.map(|form| self.constraint(&form, &end_ids));
        let constraint = constraint.transpose()?;
        let reader = self.reader;
        // What a decoder writes continues nothing.
        let continued = match &source {
            Some(_) => &[][..],
            None => &prompt,
        };
        let (decode, thinking): (Box<dyn Decode + 'a>, _) = match &reader.tokenizer {
            Some(tokenizer) => (
                Box::new(Text::after(continued, tokenizer)?),
                Thinking::after(continued, tokenizer)?,
            ),
            None => (Box::new(Numbers::new(false)), Thinking::default()),
        };
        let hide = self.args.hide_thinking;
        Ok(Prepared {
            request: Request {
                source,
                prompt,
                max_new: ask.max_new.or(self.args.ending.max_new()),
                context: self.context,
                stop: match ask.stop.is_empty() {
                    true => self.args.ending.stop.clone(),
                    false => ask.stop.clone(),
                },
                end_ids,
                kv: self.kv(),
                chunk: self.args.model.chunk as usize,
                sampling,
                fingerprint: self.args.fingerprint,
            },
            constraint,
            decode,
            show: Box::new(move |text| match hide {
                true => thinking::without(&text, thinking),
                false => text,
            }),
        })
    }

    fn score(&mut self, asked: &Score) -> Result<Box<Whole<'a>>> {
        let (source, ids, before) = match self.reader.decoder_start()? {
            Some(start) => {
                let (source, _) = self.ids(&asked.prompt, asked.system.as_deref())?;
                let mut ids = vec![start];
                match &asked.completion {
                    Prompt::Ids(more) => ids.extend_from_slice(more),
                    Prompt::Raw(text) | Prompt::Text(text) => {
                        ids.extend(self.reader.encode(text, self.args.parse_special)?);
                    }
                    Prompt::Messages(_) => {}
                }
                (Some(source), ids, 1)
            }
            None => {
                let (ids, before) = self.scored(asked)?;
                (None, ids, before)
            }
        };
        if ids.len() == before {
            return Err(Error::usage(
                "the completion has no tokens: there is nothing to score",
            ));
        }
        let vocabulary = self.reader.model.spec().vocab_size;
        if let Some(id) = ids.iter().find(|id| **id >= vocabulary) {
            return Err(Error::invalid(format_args!(
                "the completion has id {id}, but the model has {vocabulary} ids"
            )));
        }
        if let Some(source) = &source {
            check_context("the source", source.len(), self.context)?;
        }
        check_context("the text", ids.len(), self.context)?;
        let (context, kv) = (self.context, self.kv());
        let chunk = self.args.model.chunk as usize;
        let prompt_tokens = source.as_ref().map_or(before, Vec::len);
        Ok(Box::new(move |engine: &mut Engine| {
            let mut logprobs = Vec::new();
            score::score(
                engine,
                source.as_deref(),
                &ids,
                context,
                kv,
                chunk,
                |position| {
                    if position.pos >= before {
                        logprobs.push((position.id, position.logprob));
                    }
                    Ok(())
                },
            )?;
            Ok(Answer::Scored(Scored {
                prompt_tokens,
                logprobs,
            }))
        }))
    }

    fn embed(&mut self, inputs: &[Prompt], unit: bool) -> Result<Box<Whole<'a>>> {
        let options = embed::Options {
            pooling: self.args.pooling.spec(),
            normalize: unit || self.args.normalize,
            context: self.context,
            chunk: self.args.model.chunk as usize,
        };
        let mut texts = Vec::new();
        let vocabulary = self.reader.model.spec().vocab_size;
        for input in inputs {
            let ids = match input {
                Prompt::Text(text) | Prompt::Raw(text) => {
                    self.reader.encode(text, self.args.parse_special)?
                }
                Prompt::Ids(ids) => ids.clone(),
                Prompt::Messages(_) => Vec::new(),
            };
            if ids.is_empty() {
                return Err(Error::usage("there is nothing to embed: no tokens"));
            }
            if let Some(id) = ids.iter().find(|id| **id >= vocabulary) {
                return Err(Error::invalid(format_args!(
                    "the text has id {id}, but the model has {vocabulary} ids"
                )));
            }
            check_context("the text", ids.len(), options.context)?;
            self.prompt_tokens += ids.len() as u64;
            texts.push(ids);
        }
        Ok(Box::new(move |engine: &mut Engine| {
            let tokens = texts.iter().map(Vec::len).sum();
            let vector = |ids: &Vec<u32>| Ok(embed::embed(engine, ids, &options)?.embedding);
            let vectors = texts.iter().map(vector).collect::<Result<_>>()?;
            Ok(Answer::Embedded(Embedded { tokens, vectors }))
        }))
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        let tokenizer = self.reader.tokenizer.as_deref();
        let bytes = tokenizer.and_then(|t| t.token_bytes(id));
        bytes.unwrap_or_default()
    }
}

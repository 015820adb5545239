//! The flags that say what the text must look like; every command that generates text has them.

use crate::error::{Error, Result};
use crate::generate::structure::{Grammar, LONGEST, Structure, Vocabulary};
use crate::tokenizer::Tokenizer;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// What the text must look like.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Structured output")]
pub struct StructureArgs {
    /// Only JSON that this schema describes: a file, or the schema itself if it begins with {
    #[arg(
        short,
        long,
        visible_alias = "json-schema-file",
        value_name = "FILE|SCHEMA"
    )]
    pub json_schema: Option<String>,
    /// Only text that this grammar describes, in Lark or GBNF: a file, or the grammar itself if it has a rule start: or root ::=
    #[arg(
        long,
        visible_alias = "grammar-file",
        value_name = "FILE|GRAMMAR",
        conflicts_with = "json_schema"
    )]
    pub grammar: Option<String>,
    /// Only text that is this regular expression as a whole
    #[arg(long, value_name = "REGEX", conflicts_with_all = ["json_schema", "grammar"], allow_hyphen_values = true)]
    pub regex: Option<String>,
}

impl StructureArgs {
    /// The grammar that was asked for, if one was.
    ///
    /// # Errors
    /// A file that cannot be read (4), is no text (3) or is too long (5).
    pub fn grammar(&self) -> Result<Option<Grammar>> {
        if let Some(schema) = &self.json_schema {
            let text = match schema.trim_start().starts_with('{') {
                true => schema.clone(),
                false => read(schema)?,
            };
            return Ok(Some(Grammar::JsonSchema(text)));
        }
        if let Some(grammar) = &self.grammar {
            let inline = ["::=", "start:"].iter().any(|sign| grammar.contains(sign));
            let text = match inline {
                true => grammar.clone(),
                false => read(grammar)?,
            };
            return Ok(Some(Grammar::of_text(text)));
        }
        Ok(self.regex.clone().map(Grammar::Regex))
    }

    /// The constraint that was asked for, at the beginning of a text.
    ///
    /// # Errors
    /// A model without a tokenizer (2), or with one that grammars cannot be used with, a grammar that means nothing (3) or is too much (5).
    pub fn constraint(
        &self,
        grammar: Option<&Grammar>,
        tokenizer: Option<&Arc<Tokenizer>>,
        end_ids: &[u32],
    ) -> Result<Option<Structure>> {
        let Some(grammar) = grammar else {
            return Ok(None);
        };
        let Some(tokenizer) = tokenizer else {
            return Err(Error::usage(
                "this model file has no tokenizer, and a grammar is about text",
            ));
        };
        let vocabulary = Arc::new(Vocabulary::new(tokenizer)?);
        let structure = Structure::new(&vocabulary, grammar, end_ids);
        Ok(Some(structure.map_err(|e| e.at(self.place()))?))
    }

    /// Where the grammar comes from, for errors about it.
    fn place(&self) -> String {
        let named = |flag: &str, value: &String| match value.contains(['{', '\n', ':']) {
            true => flag.to_owned(),
            false => format!("{flag} {value:?}"),
        };
        match (&self.json_schema, &self.grammar) {
            (Some(schema), _) => named("--json-schema", schema),
            (None, Some(grammar)) => named("--grammar", grammar),
            (None, None) => "--regex".to_owned(),
        }
    }
}

fn read(path: &str) -> Result<String> {
    let path = Path::new(path);
    let io = |e: std::io::Error| Error::io("read", path, &e);
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    let most = LONGEST as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > LONGEST {
        return Err(Error::limit(format_args!(
            "{path:?} has more than {LONGEST} bytes, which a grammar has at most"
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::invalid(format_args!("{path:?} is not UTF-8 at offset {at}"))
    })
}

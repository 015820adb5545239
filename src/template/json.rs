//! JSON in and out: values that keep the order of their keys, and what Python's `json.dumps` writes.

use super::args::Args;
use super::budget::Budget;
use super::show;
use super::text::{Buffer, Text};
use super::value::Value;
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

/// A JSON value whose objects keep their order; of keys that come twice the last value counts, as in Python.
///
/// Reading it with serde_json bounds the depth to 128.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// A string.
    Str(String),
    /// An array.
    List(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value of a key of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Roughly its bytes, for budgets.
    pub fn size(&self) -> usize {
        match self {
            Json::Str(text) => 16 + text.len(),
            Json::List(list) => 16 + list.iter().map(Json::size).sum::<usize>(),
            Json::Object(entries) => {
                let each = entries.iter().map(|(k, v)| 16 + k.len() + v.size());
                16 + each.sum::<usize>()
            }
            _ => 16,
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Str(text.to_owned())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(b) => serializer.serialize_bool(*b),
            Json::Int(n) => serializer.serialize_i128(*n),
            Json::Float(x) => serializer.serialize_f64(*x),
            Json::Str(text) => serializer.serialize_str(text),
            Json::List(list) => serializer.collect_seq(list),
            Json::Object(entries) => serializer.collect_map(entries.iter().map(|(k, v)| (k, v))),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Str(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Str(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut entries: Vec<(String, Json)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((key, value)) = access.next_entry::<String, Json>()? {
            match places.get(&key) {
                Some(&at) => entries[at].1 = value,
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((key, value));
                }
            }
        }
        Ok(Json::Object(entries))
    }
}

/// How `tojson` writes.
#[derive(Debug)]
pub struct Style {
    ascii: bool,
    sort: bool,
    indent: Option<Text>,
    between: Text,
    colon: Text,
}

impl Style {
    /// From the arguments of the filter: `ensure_ascii, indent, separators, sort_keys`.
    ///
    /// # Errors
    /// Invalid for arguments of other types; Limit.
    pub fn new(budget: &Rc<Budget>, args: Args) -> Result<Style> {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        let [ascii, indent, separators, sort] = args.bind("tojson", names)?;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Str(text)) => Some(text),
            Some(other) => {
                let width = other.as_int().ok_or_else(|| {
                    Error::invalid(format_args!(
                        "the indent of tojson is {}, expected a number",
                        other.type_name()
                    ))
                })?;
                let mut out = Buffer::new(budget);
                let times = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                out.repeat(&Text::plain(budget, " ")?, times)?;
                Some(out.finish()?)
            }
        };
        let given = match &separators {
            Some(Value::List(seq) | Value::Tuple(seq)) => match &seq.items[..] {
                [Value::Str(between), Value::Str(colon)] => Some((between.clone(), colon.clone())),
                _ => None,
            },
            _ => None,
        };
        let (between, colon) = match (given, separators) {
            (Some(given), _) => given,
            (None, None | Some(Value::None)) => {
                let between = if indent.is_some() { "," } else { ", " };
                (Text::plain(budget, between)?, Text::plain(budget, ": ")?)
            }
            _ => {
                return Err(Error::invalid(
                    "the separators of tojson are expected to be two strings",
                ));
            }
        };
        Ok(Style {
            ascii: ascii.is_some_and(|v| v.truth()),
            sort: sort.is_some_and(|v| v.truth()),
            indent,
            between,
            colon,
        })
    }
}

/// Writes a value as JSON.
///
/// # Errors
/// Invalid for values that JSON does not have; Limit.
pub fn write(out: &mut Buffer, value: &Value, style: &Style) -> Result<()> {
    nested(out, value, style, 0)
}

fn line(out: &mut Buffer, style: &Style, depth: usize) -> Result<()> {
    match &style.indent {
        None => Ok(()),
        Some(indent) => {
            out.plain("\n")?;
            out.repeat(indent, depth)
        }
    }
}

fn nested(out: &mut Buffer, value: &Value, style: &Style, depth: usize) -> Result<()> {
    match value {
        Value::None => out.plain("null"),
        Value::Bool(b) => out.plain(if *b { "true" } else { "false" }),
        Value::Int(n) => out.plain(&n.to_string()),
        Value::Float(f) => out.plain(&float(*f)),
        Value::Str(text) => string(out, text, style.ascii),
        Value::List(seq) | Value::Tuple(seq) if seq.items.is_empty() => out.plain("[]"),
        Value::List(seq) | Value::Tuple(seq) => {
            out.plain("[")?;
            for (i, item) in seq.items.iter().enumerate() {
                if i > 0 {
                    out.text(&style.between)?;
                }
                line(out, style, depth + 1)?;
                nested(out, item, style, depth + 1)?;
            }
            line(out, style, depth)?;
            out.plain("]")
        }
        Value::Dict(dict) if dict.entries.is_empty() => out.plain("{}"),
        Value::Dict(dict) => {
            let mut entries: Vec<(Text, &Value)> = Vec::with_capacity(dict.entries.len());
            for (key, value) in &dict.entries {
                entries.push((key_text(out.budget(), key)?, value));
            }
            if style.sort {
                out.budget().work(8 * entries.len())?;
                entries.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
            }
            out.plain("{")?;
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.text(&style.between)?;
                }
                line(out, style, depth + 1)?;
                string(out, &key, style.ascii)?;
                out.text(&style.colon)?;
                nested(out, value, style, depth + 1)?;
            }
            line(out, style, depth)?;
            out.plain("}")
        }
        Value::Undefined(missing) => Err(Value::undefined_error(missing)),
        other => Err(Error::invalid(format_args!(
            "{} cannot be written as JSON",
            other.type_name()
        ))),
    }
}

fn float(f: f64) -> String {
    match f {
        _ if f.is_nan() => "NaN".to_owned(),
        _ if f.is_infinite() && f > 0.0 => "Infinity".to_owned(),
        _ if f.is_infinite() => "-Infinity".to_owned(),
        _ => show::float(f),
    }
}

fn key_text(budget: &Rc<Budget>, key: &Value) -> Result<Text> {
    let text = match key {
        Value::Str(text) => return Ok(text.clone()),
        Value::None => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(f) => float(*f),
        other => {
            return Err(Error::invalid(format_args!(
                "{} cannot be a key in JSON",
                other.type_name()
            )));
        }
    };
    Text::plain(budget, &text)
}

fn string(out: &mut Buffer, text: &Text, ascii: bool) -> Result<()> {
    let s = text.as_str();
    out.plain("\"")?;
    let mut from = 0;
    for (at, c) in s.char_indices() {
        let escape = match c {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\u{8}' => "\\b".to_owned(),
            '\u{c}' => "\\f".to_owned(),
            '\0'..='\u{1f}' => format!("\\u{:04x}", u32::from(c)),
            _ if ascii && !c.is_ascii() => {
                let mut units = [0; 2];
                let units = c.encode_utf16(&mut units).iter();
                units.map(|unit| format!("\\u{unit:04x}")).collect()
            }
            _ => continue,
        };
        out.part(text, from..at)?;
        out.mark(&escape, text.is_input(at))?;
        from = at + c.len_utf8();
    }
    out.part(text, from..s.len())?;
    out.plain("\"")
}

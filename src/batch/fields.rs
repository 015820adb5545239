//! The fields of a JSON object, each asked for by name; what nobody asked for is an error.

use super::Failure;
use crate::template::Json;

/// An object whose fields are taken out one by one.
pub struct Fields {
    /// What it is called in messages: `body` or nothing.
    place: &'static str,
    left: Vec<(String, Json)>,
}

impl Fields {
    /// The fields of `value`, which messages call `place`.
    ///
    /// # Errors
    /// It is no object.
    pub fn of(place: &'static str, value: Json) -> Result<Fields, Failure> {
        let Json::Object(left) = value else {
            let name = if place.is_empty() { "the line" } else { place };
            let found = kind(&value);
            return Err(Failure::invalid(format_args!(
                "{name} is {found}, expected an object"
            )));
        };
        Ok(Fields { place, left })
    }

    /// The fields as pairs of a token id and a bias.
    ///
    /// # Errors
    /// A name that is no id, a value that is no number.
    pub fn biases(self) -> Result<Vec<(u32, f32)>, Failure> {
        let bias = |(name, value): (String, Json)| {
            let Ok(id) = name.parse() else {
                return Err(Failure::invalid(format_args!(
                    "{} is no token id",
                    field_name(self.place, &name)
                )));
            };
            match value {
                Json::Int(n) => Ok((id, n as f32)),
                Json::Float(x) => Ok((id, x as f32)),
                other => Err(Failure::invalid(format_args!(
                    "{} is {}, expected a number",
                    field_name(self.place, &name),
                    kind(&other)
                ))),
            }
        };
        self.left.into_iter().map(bias).collect()
    }

    /// `"body.max_tokens"` for `max_tokens`.
    pub fn name(&self, field: &str) -> String {
        field_name(self.place, field)
    }

    /// The failure of a record that lacks a field.
    pub fn missing(&self, field: &str) -> Failure {
        Failure::invalid(format_args!("{} is missing", self.name(field)))
    }

    fn wrong(&self, field: &str, value: &Json, expected: &str) -> Failure {
        let found = match value {
            Json::Bool(b) => b.to_string(),
            Json::Int(n) => n.to_string(),
            Json::Float(x) => x.to_string(),
            Json::Str(text) if text.len() <= 40 => format!("{text:?}"),
            other => kind(other).to_owned(),
        };
        Failure::invalid(format_args!(
            "{} is {found}, expected {expected}",
            self.name(field)
        ))
    }

    /// Whether there is such a field.
    pub fn has(&self, field: &str) -> bool {
        self.left
            .iter()
            .any(|(name, value)| name == field && *value != Json::Null)
    }

    /// A field; `null` is as good as none.
    pub fn take(&mut self, field: &str) -> Option<Json> {
        let at = self.left.iter().position(|(name, _)| name == field)?;
        let (_, value) = self.left.swap_remove(at);
        (value != Json::Null).then_some(value)
    }

    /// A text.
    ///
    /// # Errors
    /// Anything else.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(Json::Str(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, &other, "a string")),
        }
    }

    /// A text, or a list of at most `most`.
    ///
    /// # Errors
    /// Anything else.
    pub fn texts(&mut self, field: &str, most: usize) -> Result<Vec<String>, Failure> {
        let expected = "a string or a list of strings";
        match self.take(field) {
            None => Ok(Vec::new()),
            Some(Json::Str(text)) => Ok(vec![text]),
            Some(Json::List(list)) if list.len() <= most => {
                let text = |v| match v {
                    Json::Str(text) => Ok(text),
                    other => Err(self.wrong(field, &other, expected)),
                };
                list.into_iter().map(text).collect()
            }
            Some(Json::List(list)) => Err(Failure::invalid(format_args!(
                "{} has {} entries, expected at most {most}",
                self.name(field),
                list.len()
            ))),
            Some(other) => Err(self.wrong(field, &other, expected)),
        }
    }

    /// Token ids.
    ///
    /// # Errors
    /// Anything but a list of them.
    pub fn ids(&mut self, field: &str) -> Result<Option<Vec<u32>>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(value) => match ids_of(&value) {
                Some(ids) => Ok(Some(ids)),
                None => Err(self.wrong(field, &value, "a list of token ids")),
            },
        }
    }

    /// A whole number from `least` to `most`.
    ///
    /// # Errors
    /// Anything else.
    pub fn whole(&mut self, field: &str, least: u64, most: u64) -> Result<Option<u64>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(Json::Int(n)) if (i128::from(least)..=i128::from(most)).contains(&n) => {
                Ok(u64::try_from(n).ok())
            }
            Some(other) => Err(self.wrong(
                field,
                &other,
                &format!("a whole number from {least} to {most}"),
            )),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// Anything else.
    pub fn number(&mut self, field: &str) -> Result<Option<f32>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(Json::Int(n)) => Ok(Some(n as f32)),
            Some(Json::Float(x)) => Ok(Some(x as f32)),
            Some(other) => Err(self.wrong(field, &other, "a number")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag(&mut self, field: &str) -> Result<Option<bool>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(Json::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(self.wrong(field, &other, "true or false")),
        }
    }

    /// An object, whose fields messages call `place`.
    ///
    /// # Errors
    /// Anything else.
    pub fn object(&mut self, field: &str, place: &'static str) -> Result<Option<Fields>, Failure> {
        self.take(field)
            .map(|value| Fields::of(place, value))
            .transpose()
    }

    /// Forgets these fields: they have no meaning here and do no harm.
    pub fn ignore(&mut self, fields: &[&str]) {
        self.left
            .retain(|(name, _)| !fields.contains(&name.as_str()));
    }

    /// The end: every field has been asked for.
    ///
    /// # Errors
    /// The first one that has not, unless `lenient`.
    pub fn end(self, lenient: bool) -> Result<(), Failure> {
        match self.left.first() {
            Some((name, _)) if !lenient => Err(Failure::new(
                "unknown_field",
                format_args!(
                    "{} is not known here; --lenient passes over such fields",
                    self.name(name)
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn field_name(place: &str, field: &str) -> String {
    match place {
        "" => format!("{field:?}"),
        place => format!("{:?}", format!("{place}.{field}")),
    }
}

/// A list of token ids.
pub fn ids_of(value: &Json) -> Option<Vec<u32>> {
    let Json::List(list) = value else {
        return None;
    };
    let id = |v: &Json| match v {
        Json::Int(n) => u32::try_from(*n).ok(),
        _ => None,
    };
    list.iter().map(id).collect()
}

/// `a list` and the like.
fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Int(_) | Json::Float(_) => "a number",
        Json::Str(_) => "a string",
        Json::List(_) => "a list",
        Json::Object(_) => "an object",
    }
}

//! Arguments of filters, methods, functions and macros.

use super::text::Text;
use super::value::Value;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Positional and named arguments of a call.
#[derive(Debug, Default)]
pub struct Args {
    /// Positional ones.
    pub positional: Vec<Value>,
    /// Named ones; a name may come twice only through a mistake of the template.
    pub named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// Takes a named argument.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(n, _)| &**n == name)?;
        Some(self.named.remove(at).1)
    }

    /// The arguments in the order of these parameters.
    ///
    /// # Errors
    /// Invalid for too many, unknown or repeated ones.
    pub fn bind<const N: usize>(self, of: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut out = [const { None }; N];
        if self.positional.len() > N {
            return Err(Error::invalid(format_args!(
                "{of} has {} arguments, expected at most {N}",
                self.positional.len()
            )));
        }
        for (place, value) in out.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|n| **n == *name) {
                Some(at) if out[at].is_none() => out[at] = Some(value),
                Some(_) => {
                    return Err(Error::invalid(format_args!(
                        "{of} has two values for {name:?}"
                    )));
                }
                None => {
                    return Err(Error::invalid(format_args!(
                        "{of} has an argument {name:?}, which it does not know"
                    )));
                }
            }
        }
        Ok(out)
    }

    /// That there are none.
    ///
    /// # Errors
    /// Invalid if there are.
    pub fn none(self, of: &str) -> Result<()> {
        self.bind::<0>(of, []).map(|_| ())
    }
}

/// A whole number, or `default` if there is none.
///
/// # Errors
/// Invalid for other types.
pub fn int(of: &str, value: Option<&Value>, default: i128) -> Result<i128> {
    match value {
        None => Ok(default),
        Some(value) => value.defined()?.as_int().ok_or_else(|| {
            Error::invalid(format_args!(
                "an argument of {of} is {}, expected a whole number",
                value.type_name()
            ))
        }),
    }
}

/// A text.
///
/// # Errors
/// Invalid for other types and for none.
pub fn text<'v>(of: &str, value: Option<&'v Value>) -> Result<&'v Text> {
    match value {
        Some(Value::Str(text)) => Ok(text),
        Some(Value::Undefined(missing)) => Err(Value::undefined_error(missing)),
        Some(other) => Err(Error::invalid(format_args!(
            "an argument of {of} is {}, expected str",
            other.type_name()
        ))),
        None => Err(Error::invalid(format_args!("{of} lacks an argument"))),
    }
}

/// A text, or nothing for no argument and `none`.
///
/// # Errors
/// Invalid for other types.
pub fn optional_text<'v>(of: &str, value: Option<&'v Value>) -> Result<Option<&'v Text>> {
    match value {
        None | Some(Value::None) => Ok(None),
        value => text(of, value).map(Some),
    }
}

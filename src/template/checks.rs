//! The tests of jinja2: `value is name`.

use super::args::Args;
use super::budget::Budget;
use super::ops;
use super::syntax::CompareOp;
use super::value::Value;
use crate::error::{Error, Result};
use std::rc::Rc;

/// Whether a test with such a name exists.
pub fn exists(name: &str) -> bool {
    comparison(name).is_some()
        || matches!(
            name,
            "defined"
                | "undefined"
                | "none"
                | "string"
                | "number"
                | "integer"
                | "float"
                | "boolean"
                | "true"
                | "false"
                | "mapping"
                | "sequence"
                | "iterable"
                | "callable"
                | "odd"
                | "even"
                | "divisibleby"
                | "sameas"
                | "lower"
                | "upper"
                | "escaped"
        )
}

fn comparison(name: &str) -> Option<CompareOp> {
    Some(match name {
        "eq" | "equalto" | "==" => CompareOp::Eq,
        "ne" | "!=" => CompareOp::Ne,
        "lt" | "lessthan" | "<" => CompareOp::Lt,
        "le" | "<=" => CompareOp::Le,
        "gt" | "greaterthan" | ">" => CompareOp::Gt,
        "ge" | ">=" => CompareOp::Ge,
        "in" => CompareOp::In,
        _ => return None,
    })
}

/// `value is name(args)`.
///
/// # Errors
/// Invalid for an unknown test or wrong arguments; Limit.
pub fn check(budget: &Rc<Budget>, value: &Value, name: &str, args: Args) -> Result<bool> {
    if let Some(op) = comparison(name) {
        let [other] = args.bind(name, ["other"])?;
        let other = other
            .ok_or_else(|| Error::invalid(format_args!("the test {name:?} lacks its argument")))?;
        return ops::compare(budget, op, value, &other);
    }
    if matches!(name, "divisibleby" | "sameas") {
        let [other] = args.bind(name, ["other"])?;
        let other = other
            .ok_or_else(|| Error::invalid(format_args!("the test {name:?} lacks its argument")))?;
        return match name {
            "sameas" => same(budget, value, &other),
            _ => {
                let rest = ops::binary(budget, super::syntax::BinaryOp::Rem, value, &other)?;
                ops::equal(budget, &rest, &Value::Int(0))
            }
        };
    }
    args.none(name)?;
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "string" => matches!(value, Value::Str(_)),
        "number" => value.as_float().is_some(),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_)
        ),
        "iterable" => matches!(
            value,
            Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Iter(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "callable" => matches!(
            value,
            Value::Macro(_) | Value::Method(_) | Value::Function(_) | Value::Loop(_)
        ),
        "odd" | "even" => {
            let two = Value::Int(2);
            let rest = ops::binary(budget, super::syntax::BinaryOp::Rem, value, &two)?;
            ops::equal(budget, &rest, &Value::Int(i128::from(name == "odd")))?
        }
        "lower" | "upper" => {
            let text = super::show::text_of(budget, value)?;
            budget.bytes(text.len())?;
            let s = text.as_str();
            let (has_lower, has_upper) = (
                s.chars().any(char::is_lowercase),
                s.chars().any(char::is_uppercase),
            );
            match name {
                "lower" => has_lower && !has_upper,
                _ => has_upper && !has_lower,
            }
        }
        "escaped" => false,
        _ => {
            return Err(Error::invalid(format_args!(
                "the test {name:?} is not known"
            )));
        }
    })
}

/// Python's `is`: constants, and values that are the same object.
fn same(budget: &Budget, a: &Value, b: &Value) -> Result<bool> {
    Ok(match (a, b) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Undefined(_), _) | (_, Value::Undefined(_)) => false,
        _ => a.type_name() == b.type_name() && ops::equal(budget, a, b)?,
    })
}

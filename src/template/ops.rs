//! Python's operators on values: arithmetic, comparison, membership, items.

use super::budget::Budget;
use super::syntax::{BinaryOp, CompareOp};
use super::text::{Buffer, Text};
use super::value::{Missing, Value};
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::rc::Rc;

/// `left op right`, but for texts as formats.
///
/// # Errors
/// Invalid for types that do not go together, undefined values, division by zero, numbers that become too large; Limit.
pub fn binary(budget: &Rc<Budget>, op: BinaryOp, left: &Value, right: &Value) -> Result<Value> {
    let (left, right) = (left.defined()?, right.defined()?);
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return whole(op, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return float(op, a, b).map(Value::Float);
    }
    match (op, left, right) {
        (BinaryOp::Add, Value::Str(a), Value::Str(b)) => {
            let mut out = Buffer::new(budget);
            out.text(a)?;
            out.text(b)?;
            Ok(Value::Str(out.finish()?))
        }
        (BinaryOp::Add, Value::List(a), Value::List(b)) => {
            Value::list(budget, joined(budget, &a.items, &b.items)?)
        }
        (BinaryOp::Add, Value::Tuple(a), Value::Tuple(b)) => {
            Value::tuple(budget, joined(budget, &a.items, &b.items)?)
        }
        (BinaryOp::Mul, Value::Str(_) | Value::List(_) | Value::Tuple(_), n) => {
            repeated(budget, left, n)
        }
        (BinaryOp::Mul, n, Value::Str(_) | Value::List(_) | Value::Tuple(_)) => {
            repeated(budget, right, n)
        }
        (BinaryOp::Add, Value::Str(_), other) => Err(Error::invalid(format_args!(
            "cannot add {} to str, expected str",
            other.type_name()
        ))),
        _ => Err(unsupported(op, left, right)),
    }
}

fn unsupported(op: BinaryOp, left: &Value, right: &Value) -> Error {
    let sign = match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::FloorDiv => "//",
        BinaryOp::Rem => "%",
        BinaryOp::Pow => "**",
    };
    Error::invalid(format_args!(
        "{} {sign} {} is not possible",
        left.type_name(),
        right.type_name()
    ))
}

fn joined(budget: &Rc<Budget>, a: &[Value], b: &[Value]) -> Result<Vec<Value>> {
    let n = a.len() + b.len();
    budget.work(n)?;
    budget.room(n * std::mem::size_of::<Value>())?;
    Ok(a.iter().chain(b).cloned().collect())
}

/// `of * n`.
fn repeated(budget: &Rc<Budget>, of: &Value, n: &Value) -> Result<Value> {
    let Some(n) = n.as_int() else {
        return Err(Error::invalid(format_args!(
            "{} * {} is not possible, expected a whole number",
            of.type_name(),
            n.type_name()
        )));
    };
    let times = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
    let items = |list: &[Value]| {
        let n = list.len().saturating_mul(times);
        budget.work(n)?;
        budget.room(n.saturating_mul(std::mem::size_of::<Value>()))?;
        Ok::<_, Error>(list.iter().cycle().take(n).cloned().collect())
    };
    match of {
        Value::Str(text) => {
            let mut out = Buffer::new(budget);
            out.repeat(text, times)?;
            Ok(Value::Str(out.finish()?))
        }
        Value::Tuple(seq) => Value::tuple(budget, items(&seq.items)?),
        Value::List(seq) => Value::list(budget, items(&seq.items)?),
        other => Err(unsupported(BinaryOp::Mul, other, &Value::Int(n))),
    }
}

fn too_large() -> Error {
    Error::invalid("a number is too large, expected at most 128 bits")
}

fn by_zero() -> Error {
    Error::invalid("division by zero")
}

fn whole(op: BinaryOp, a: i128, b: i128) -> Result<Value> {
    let result = match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Sub => a.checked_sub(b),
        BinaryOp::Mul => a.checked_mul(b),
        BinaryOp::Div => return float(op, a as f64, b as f64).map(Value::Float),
        BinaryOp::FloorDiv | BinaryOp::Rem if b == 0 => return Err(by_zero()),
        BinaryOp::FloorDiv => a.checked_div(b).map(|q| {
            let inexact = a.checked_rem(b) != Some(0);
            q - i128::from(inexact && (a < 0) != (b < 0))
        }),
        BinaryOp::Rem => a.checked_rem(b).map(|r| {
            let other_sign = r != 0 && (r < 0) != (b < 0);
            if other_sign { r + b } else { r }
        }),
        BinaryOp::Pow if b < 0 => return float(op, a as f64, b as f64).map(Value::Float),
        BinaryOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map(Value::Int).ok_or_else(too_large)
}

fn float(op: BinaryOp, a: f64, b: f64) -> Result<f64> {
    Ok(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div | BinaryOp::FloorDiv | BinaryOp::Rem if b == 0.0 => return Err(by_zero()),
        BinaryOp::Div => a / b,
        BinaryOp::FloorDiv => (a / b).floor(),
        BinaryOp::Rem => a - b * (a / b).floor(),
        BinaryOp::Pow => libm::pow(a, b),
    })
}

/// `-value` or `+value`.
///
/// # Errors
/// Invalid for what is no number.
pub fn sign(value: &Value, negative: bool) -> Result<Value> {
    match (value.defined()?.as_int(), value) {
        (Some(n), _) if negative => n.checked_neg().map(Value::Int).ok_or_else(too_large),
        (Some(n), _) => Ok(Value::Int(n)),
        (None, Value::Float(f)) => Ok(Value::Float(if negative { -f } else { *f })),
        (None, other) => Err(Error::invalid(format_args!(
            "{} has no sign, expected a number",
            other.type_name()
        ))),
    }
}

/// `left == right`.
///
/// # Errors
/// Limit: work.
pub fn equal(budget: &Budget, left: &Value, right: &Value) -> Result<bool> {
    budget.work(1)?;
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return Ok(a == b);
    }
    Ok(match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(a), Value::Str(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            a.as_str() == b.as_str()
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(budget, a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match find(budget, &b.entries, key)? {
                    Some(other) if equal(budget, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Object(a), Value::Object(b)) => a == b,
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::Iter(a), Value::Iter(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        _ => false,
    })
}

/// The value of a key.
///
/// # Errors
/// Limit: work.
pub fn find<'v>(
    budget: &Budget,
    entries: &'v [(Value, Value)],
    key: &Value,
) -> Result<Option<&'v Value>> {
    for (k, v) in entries {
        if equal(budget, k, key)? {
            return Ok(Some(v));
        }
    }
    Ok(None)
}

/// The order of two values.
///
/// # Errors
/// Invalid if there is none; Limit: work.
pub fn order(budget: &Budget, left: &Value, right: &Value) -> Result<Ordering> {
    budget.work(1)?;
    let (left, right) = (left.defined()?, right.defined()?);
    let none = || {
        Error::invalid(format_args!(
            "{} and {} have no order",
            left.type_name(),
            right.type_name()
        ))
    };
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(a.cmp(&b));
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return a.partial_cmp(&b).ok_or_else(none);
    }
    match (left, right) {
        (Value::Str(a), Value::Str(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            // UTF-8 keeps the order of code points.
            Ok(a.as_str().cmp(b.as_str()))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(budget, a, b)? {
                    return order(budget, a, b);
                }
            }
            Ok(a.items.len().cmp(&b.items.len()))
        }
        _ => Err(none()),
    }
}

/// `left op right` for comparisons.
///
/// # Errors
/// Invalid for types that do not go together; Limit.
pub fn compare(budget: &Rc<Budget>, op: CompareOp, left: &Value, right: &Value) -> Result<bool> {
    Ok(match op {
        CompareOp::Eq => equal(budget, left, right)?,
        CompareOp::Ne => !equal(budget, left, right)?,
        CompareOp::Lt => order(budget, left, right)?.is_lt(),
        CompareOp::Le => order(budget, left, right)?.is_le(),
        CompareOp::Gt => order(budget, left, right)?.is_gt(),
        CompareOp::Ge => order(budget, left, right)?.is_ge(),
        CompareOp::In => contains(budget, right, left)?,
        CompareOp::NotIn => !contains(budget, right, left)?,
    })
}

/// `item in of`.
///
/// # Errors
/// Invalid for values that contain nothing; Limit: work.
pub fn contains(budget: &Rc<Budget>, of: &Value, item: &Value) -> Result<bool> {
    let any = |items: &[Value]| -> Result<bool> {
        for each in items {
            if equal(budget, each, item)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match of {
        Value::Str(text) => match item {
            Value::Str(part) => {
                budget.bytes(text.len() + part.len())?;
                Ok(text.as_str().contains(part.as_str()))
            }
            Value::Undefined(missing) => Err(Value::undefined_error(missing)),
            other => Err(Error::invalid(format_args!(
                "{} in str is not possible, expected str",
                other.type_name()
            ))),
        },
        Value::Undefined(_) => Ok(false),
        Value::List(seq) | Value::Tuple(seq) => any(&seq.items),
        Value::Iter(iter) => any(iter.rest()),
        Value::Dict(dict) => Ok(find(budget, &dict.entries, item)?.is_some()),
        other => Err(Error::invalid(format_args!(
            "{} contains nothing, expected a list, dict or str",
            other.type_name()
        ))),
    }
}

/// Where an index of Python's points in `len` items.
pub fn index(len: usize, index: i128) -> Option<usize> {
    let len = len as i128;
    let at = if index < 0 { index + len } else { index };
    (0..len).contains(&at).then_some(at as usize)
}

/// `of[key]`, or undefined.
///
/// # Errors
/// Invalid for an item of an undefined value; Limit.
pub fn item(budget: &Rc<Budget>, of: &Value, key: &Value) -> Result<Value> {
    let found = match (of.defined()?, key) {
        (Value::Dict(dict), _) => find(budget, &dict.entries, key)?.cloned(),
        (Value::List(seq) | Value::Tuple(seq), _) => {
            let at = key.as_int().and_then(|i| index(seq.items.len(), i));
            at.and_then(|at| seq.items.get(at)).cloned()
        }
        (Value::Str(text), _) => match key.as_int() {
            Some(i) => character(text, i)?.map(Value::Str),
            None => None,
        },
        _ => None,
    };
    Ok(found.unwrap_or_else(|| {
        Value::Undefined(match key {
            Value::Str(key) => Missing::Item(key.clone()),
            _ => Missing::Other,
        })
    }))
}

fn character(text: &Text, i: i128) -> Result<Option<Text>> {
    let s = text.as_str();
    if s.is_ascii() {
        let at = index(s.len(), i);
        return at.map(|at| text.part(at..at + 1)).transpose();
    }
    let Some(n) = index(text.count()?, i) else {
        return Ok(None);
    };
    let found = s.char_indices().nth(n);
    found
        .map(|(at, c)| text.part(at..at + c.len_utf8()))
        .transpose()
}

/// Bounds of a slice, as Python makes them: start, stop, step.
fn bounds(len: usize, parts: [Option<i128>; 3]) -> Result<(i128, i128, i128)> {
    let len = len as i128;
    let step = parts[2].unwrap_or(1);
    if step == 0 {
        return Err(Error::invalid("the step of a slice is 0"));
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clip = |part: Option<i128>, default: i128| match part {
        None => default,
        Some(i) if i < 0 => i.saturating_add(len).max(low),
        Some(i) => i.min(high),
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    Ok((clip(parts[0], first), clip(parts[1], last), step))
}

/// `of[start:stop:step]`, or undefined.
///
/// # Errors
/// Invalid for a slice of an undefined value or a bound that is no number; Limit.
pub fn slice(budget: &Rc<Budget>, of: &Value, parts: [Value; 3]) -> Result<Value> {
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        *number = match part.defined()? {
            Value::None => None,
            other => Some(other.as_int().ok_or_else(|| {
                Error::invalid(format_args!(
                    "a bound of a slice is {}, expected a whole number",
                    other.type_name()
                ))
            })?),
        };
    }
    match of.defined()? {
        Value::List(seq) => Value::list(budget, picked(budget, &seq.items, numbers)?),
        Value::Tuple(seq) => Value::tuple(budget, picked(budget, &seq.items, numbers)?),
        Value::Str(text) => slice_text(text, numbers).map(Value::Str),
        _ => Ok(Value::Undefined(Missing::Other)),
    }
}

fn picked(budget: &Rc<Budget>, items: &[Value], parts: [Option<i128>; 3]) -> Result<Vec<Value>> {
    let (start, stop, step) = bounds(items.len(), parts)?;
    if step == 1 {
        let range = start.max(0) as usize..stop.max(start).max(0) as usize;
        let items = items.get(range).unwrap_or_default();
        budget.work(items.len())?;
        return Ok(items.to_vec());
    }
    budget.work(items.len())?;
    Ok(steps(start, stop, step)
        .filter_map(|at| items.get(at).cloned())
        .collect())
}

fn steps(start: i128, stop: i128, step: i128) -> impl Iterator<Item = usize> {
    let mut at = start;
    std::iter::from_fn(move || {
        let inside = if step > 0 { at < stop } else { at > stop };
        let here = usize::try_from(at).ok().filter(|_| inside)?;
        at = at.saturating_add(step);
        Some(here)
    })
}

fn slice_text(text: &Text, parts: [Option<i128>; 3]) -> Result<Text> {
    let s = text.as_str();
    let budget = text.budget();
    budget.bytes(s.len())?;
    let ascii = s.is_ascii();
    let count = if ascii { s.len() } else { text.count()? };
    let (start, stop, step) = bounds(count, parts)?;
    let place = |n: usize| match ascii {
        true => n.min(s.len()),
        false => s.char_indices().nth(n).map_or(s.len(), |(at, _)| at),
    };
    if step == 1 {
        let start = start.max(0) as usize;
        let stop = (stop.max(0) as usize).max(start);
        return text.part(place(start)..place(stop));
    }
    budget.work(count)?;
    let places: Vec<usize> = s.char_indices().map(|(at, _)| at).collect();
    let mut out = Buffer::new(budget);
    for n in steps(start, stop, step) {
        let Some(&at) = places.get(n) else { break };
        out.part(text, at..places.get(n + 1).copied().unwrap_or(s.len()))?;
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_as_python_has_them() {
        let budget = Budget::new(0);
        let text = Text::plain(&budget, "aéiou").unwrap();
        let cut = |parts: [Option<i128>; 3]| slice_text(&text, parts).unwrap().as_str().to_owned();
        assert_eq!(cut([None, None, Some(-1)]), "uoiéa");
        assert_eq!(cut([Some(1), Some(-1), None]), "éio");
        assert_eq!(cut([Some(-2), None, None]), "ou");
        assert_eq!(cut([Some(9), None, None]), "");
        assert_eq!(cut([Some(3), Some(1), None]), "");
        assert_eq!(cut([None, None, Some(2)]), "aiu");
        assert_eq!(cut([Some(9), Some(0), Some(-2)]), "ui");
        assert_eq!(cut([None, Some(-9), Some(-1)]), "uoiéa");
        assert!(bounds(3, [None, None, Some(0)]).is_err());
    }

    #[test]
    fn whole_numbers_round_down() {
        let int = |op, a, b| match whole(op, a, b) {
            Ok(Value::Int(n)) => n,
            other => panic!("{other:?}"),
        };
        assert_eq!(int(BinaryOp::FloorDiv, -7, 2), -4);
        assert_eq!(int(BinaryOp::Rem, -7, 3), 2);
        assert_eq!(int(BinaryOp::Rem, 7, -3), -2);
        assert_eq!(int(BinaryOp::Pow, 2, 10), 1024);
        assert!(whole(BinaryOp::Mul, i128::MAX, 2).is_err());
        assert!(whole(BinaryOp::FloorDiv, i128::MIN, -1).is_err());
        assert!(whole(BinaryOp::Rem, 1, 0).is_err());
    }
}

//! The filters of jinja2 that work on lists and dictionaries.

use super::args::{self, Args};
use super::budget::Budget;
use super::checks;
use super::ops;
use super::show::text_of;
use super::strings;
use super::syntax::BinaryOp;
use super::text::{Buffer, Text};
use super::value::{Method, Missing, Seq, Value};
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::rc::Rc;

/// The items of what can be gone through.
///
/// # Errors
/// Invalid for other values; Limit.
pub fn items(budget: &Rc<Budget>, value: &Value) -> Result<Rc<Seq>> {
    let items = match value {
        Value::List(seq) | Value::Tuple(seq) => return Ok(seq.clone()),
        Value::Iter(iter) => iter.rest().to_vec(),
        Value::Dict(dict) => {
            budget.work(dict.entries.len())?;
            dict.entries.iter().map(|(key, _)| key.clone()).collect()
        }
        Value::Str(text) => text.chars()?.into_iter().map(Value::Str).collect(),
        Value::Undefined(_) => Vec::new(),
        other => {
            return Err(Error::invalid(format_args!(
                "{} cannot be gone through, expected a list, dict or str",
                other.type_name()
            )));
        }
    };
    Value::seq(budget, items)
}

/// `environment.getitem`: an item, or undefined.
pub(super) fn attribute(budget: &Rc<Budget>, of: &Value, key: &Value) -> Result<Value> {
    match (ops::item(budget, of, key)?, key) {
        (Value::Undefined(missing), Value::Str(name)) => {
            if !strings::is_method(of, name.as_str()) {
                return Ok(Value::Undefined(missing));
            }
            Ok(Value::Method(Rc::new(Method {
                of: of.clone(),
                name: name.clone(),
            })))
        }
        (found, _) => Ok(found),
    }
}

/// The value behind a path such as `function.name` or `0`.
pub(super) fn path(
    budget: &Rc<Budget>,
    of: &Value,
    path: &Value,
    default: Option<&Value>,
) -> Result<Value> {
    let Value::Str(text) = path else {
        let found = ops::item(budget, of, path)?;
        return Ok(match (&found, default) {
            (Value::Undefined(_), Some(default)) => default.clone(),
            _ => found,
        });
    };
    let mut value = of.clone();
    for part in text.as_str().split('.') {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let key = match part.parse::<i128>() {
            Ok(index) if digits => Value::Int(index),
            _ => Value::plain(budget, part)?,
        };
        value = attribute(budget, &value, &key)?;
        if let (Value::Undefined(_), Some(default)) = (&value, default) {
            value = default.clone();
        }
    }
    Ok(value)
}

/// `value is test`, where the test and its arguments are arguments of a filter.
fn holds(budget: &Rc<Budget>, value: &Value, test: &Option<Text>, args: &[Value]) -> Result<bool> {
    match test {
        None => Ok(value.truth()),
        Some(name) => {
            let args = Args {
                positional: args.to_vec(),
                named: Vec::new(),
            };
            if !checks::exists(name.as_str()) {
                return Err(Error::invalid(format_args!(
                    "the test {:?} is not known",
                    name.as_str()
                )));
            }
            checks::check(budget, value, name.as_str(), args)
        }
    }
}

/// Sorts by keys; equal ones stay in order.
fn sort<T>(budget: &Budget, list: &mut [(Value, T)], reverse: bool) -> Result<()> {
    let mut failed = None;
    list.sort_by(|a, b| {
        if failed.is_some() {
            return Ordering::Equal;
        }
        match ops::order(budget, &a.0, &b.0) {
            Ok(order) if reverse => order.reverse(),
            Ok(order) => order,
            Err(e) => {
                failed = Some(e);
                Ordering::Equal
            }
        }
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// A key for comparisons: texts in lower case unless case counts.
fn folded(value: Value, case_sensitive: bool) -> Result<Value> {
    match value {
        Value::Str(text) if !case_sensitive => Ok(Value::Str(strings::cased(&text, "lower")?)),
        other => Ok(other),
    }
}

fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|v| v.truth())
}

/// A given attribute; `none` is none.
fn given(value: Option<Value>) -> Option<Value> {
    value.filter(|v| !matches!(v, Value::None))
}

/// The keys of items for sorting: by attributes (`"a,b"`), or the items themselves.
fn keys(
    budget: &Rc<Budget>,
    items: &[Value],
    attribute: Option<Value>,
    case_sensitive: bool,
) -> Result<Vec<Value>> {
    let paths = match &attribute {
        Some(Value::Str(text)) if text.as_str().contains(',') => text
            .as_str()
            .split(',')
            .map(|path| Value::plain(budget, path))
            .collect::<Result<Vec<_>>>()?,
        Some(path) => vec![path.clone()],
        None => Vec::new(),
    };
    let key = |item: &Value| match &paths[..] {
        [] => folded(item.clone(), case_sensitive),
        [one] => folded(path(budget, item, one, None)?, case_sensitive),
        all => {
            let parts = all
                .iter()
                .map(|p| folded(path(budget, item, p, None)?, case_sensitive));
            Value::tuple(budget, parts.collect::<Result<_>>()?)
        }
    };
    items.iter().map(key).collect()
}

/// `value|name(args)` for filters of lists.
///
/// # Errors
/// Invalid for an unknown filter, wrong arguments or a value that it does not take; Limit.
pub fn apply(budget: &Rc<Budget>, name: &str, value: Value, args: Args) -> Result<Value> {
    let all = || items(budget, &value);
    Ok(match name {
        "length" | "count" => {
            args.none(name)?;
            Value::Int(match &value {
                Value::Str(text) => text.count()?,
                Value::List(seq) | Value::Tuple(seq) => seq.items.len(),
                Value::Dict(dict) => dict.entries.len(),
                Value::Loop(state) => state.items.items.len(),
                Value::Undefined(_) => 0,
                other => {
                    return Err(Error::invalid(format_args!(
                        "{} has no length",
                        other.type_name()
                    )));
                }
            } as i128)
        }
        "first" => {
            args.none(name)?;
            let first = match &value {
                Value::Iter(iter) => iter.next(),
                _ => all()?.items.first().cloned(),
            };
            first.unwrap_or_else(|| Value::Undefined(Missing::Other))
        }
        "last" => {
            args.none(name)?;
            if let Value::Iter(_) = value {
                return Err(Error::invalid("a generator has no last item"));
            }
            all()?
                .items
                .last()
                .cloned()
                .unwrap_or_else(|| Value::Undefined(Missing::Other))
        }
        "list" => {
            args.none(name)?;
            Value::list(budget, all()?.items.clone())?
        }
        "reverse" => {
            args.none(name)?;
            if let Value::Str(_) = value {
                let step = [Value::None, Value::None, Value::Int(-1)];
                return ops::slice(budget, &value, step);
            }
            Value::iter(budget, all()?.items.iter().rev().cloned().collect())?
        }
        "join" => {
            let [between, attribute] = args.bind(name, ["d", "attribute"])?;
            let between = match &between {
                Some(value) => text_of(budget, value)?,
                None => Text::plain(budget, "")?,
            };
            let attribute = given(attribute);
            let mut out = Buffer::new(budget);
            for (i, item) in all()?.items.iter().enumerate() {
                if i > 0 {
                    out.text(&between)?;
                }
                match &attribute {
                    None => super::show::write_str(&mut out, item)?,
                    Some(p) => super::show::write_str(&mut out, &path(budget, item, p, None)?)?,
                }
            }
            Value::Str(out.finish()?)
        }
        "select" | "reject" | "selectattr" | "rejectattr" => select(budget, name, &value, args)?,
        "sort" => {
            let names = ["reverse", "case_sensitive", "attribute"];
            let [reverse, case, attribute] = args.bind(name, names)?;
            let all = all()?;
            let keys = keys(budget, &all.items, given(attribute), truth(case))?;
            let mut list: Vec<(Value, Value)> =
                keys.into_iter().zip(all.items.iter().cloned()).collect();
            sort(budget, &mut list, truth(reverse))?;
            Value::list(budget, list.into_iter().map(|(_, v)| v).collect())?
        }
        "unique" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let all = all()?;
            let keys = keys(budget, &all.items, given(attribute), truth(case))?;
            let mut seen: Vec<Value> = Vec::new();
            let mut out = Vec::new();
            'items: for (key, item) in keys.into_iter().zip(&all.items) {
                for other in &seen {
                    if ops::equal(budget, other, &key)? {
                        continue 'items;
                    }
                }
                seen.push(key);
                out.push(item.clone());
            }
            Value::iter(budget, out)?
        }
        "min" | "max" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let all = all()?;
            let keys = keys(budget, &all.items, given(attribute), truth(case))?;
            let mut best: Option<usize> = None;
            for (i, key) in keys.iter().enumerate() {
                let better = match best {
                    None => true,
                    Some(b) => match ops::order(budget, key, &keys[b])? {
                        Ordering::Less => name == "min",
                        Ordering::Greater => name == "max",
                        Ordering::Equal => false,
                    },
                };
                if better {
                    best = Some(i);
                }
            }
            best.map_or(Value::Undefined(Missing::Other), |i| all.items[i].clone())
        }
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let attribute = given(attribute);
            let mut sum = start.unwrap_or(Value::Int(0));
            for item in &all()?.items {
                let item = match &attribute {
                    None => item.clone(),
                    Some(p) => path(budget, item, p, None)?,
                };
                sum = ops::binary(budget, BinaryOp::Add, &sum, &item)?;
            }
            sum
        }
        "batch" | "slice" => chunks(budget, name, &all()?.items, args)?,
        "groupby" => {
            let names = ["attribute", "default", "case_sensitive"];
            let [attribute, default, case] = args.bind(name, names)?;
            let attribute =
                attribute.ok_or_else(|| Error::invalid("groupby lacks its attribute"))?;
            let case = truth(case);
            let mut list = Vec::new();
            for item in &all()?.items {
                let key = path(budget, item, &attribute, default.as_ref())?;
                list.push((folded(key.clone(), case)?, (key, item.clone())));
            }
            sort(budget, &mut list, false)?;
            let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
            for (folded, (key, item)) in list {
                match groups.last_mut() {
                    Some(group) if ops::equal(budget, &group.0, &folded)? => group.2.push(item),
                    _ => groups.push((folded, key, vec![item])),
                }
            }
            let groups = groups.into_iter().map(|(_, key, items)| {
                let items = Value::list(budget, items)?;
                Value::tuple(budget, vec![key, items])
            });
            Value::list(budget, groups.collect::<Result<_>>()?)?
        }
        "items" => {
            args.none(name)?;
            match &value {
                Value::Undefined(_) => Value::iter(budget, Vec::new())?,
                Value::Dict(_) => {
                    let pairs = strings::call_container(budget, &value, "items", Args::default())?;
                    Value::iter(budget, items(budget, &pairs)?.items.clone())?
                }
                other => {
                    return Err(Error::invalid(format_args!(
                        "items is given {}, expected a dict",
                        other.type_name()
                    )));
                }
            }
        }
        "dictsort" => {
            let names = ["case_sensitive", "by", "reverse"];
            let [case, by, reverse] = args.bind(name, names)?;
            let by = args::optional_text(name, by.as_ref())?.map_or("key", Text::as_str);
            let Value::Dict(dict) = value.defined()? else {
                return Err(Error::invalid(format_args!(
                    "dictsort is given {}, expected a dict",
                    value.type_name()
                )));
            };
            let case = truth(case);
            let mut list = Vec::new();
            for (key, value) in &dict.entries {
                let by = match by {
                    "key" => key,
                    "value" => value,
                    other => {
                        return Err(Error::invalid(format_args!(
                            "dictsort sorts by {other:?}, expected key or value"
                        )));
                    }
                };
                let pair = Value::tuple(budget, vec![key.clone(), value.clone()])?;
                list.push((folded(by.clone(), case)?, pair));
            }
            sort(budget, &mut list, truth(reverse))?;
            Value::list(budget, list.into_iter().map(|(_, v)| v).collect())?
        }
        _ => {
            return Err(Error::invalid(format_args!(
                "the filter {name:?} is not known"
            )));
        }
    })
}

fn select(budget: &Rc<Budget>, name: &str, value: &Value, args: Args) -> Result<Value> {
    let wanted = name.starts_with("select");
    let mut positional = args.positional.into_iter();
    let attribute = match name.ends_with("attr") {
        true => Some(positional.next().ok_or_else(|| {
            Error::invalid(format_args!("{name} lacks the name of an attribute"))
        })?),
        false => None,
    };
    let test = match positional.next() {
        Some(Value::Str(test)) => Some(test),
        Some(other) => {
            return Err(Error::invalid(format_args!(
                "the test of {name} is {}, expected a name",
                other.type_name()
            )));
        }
        None => None,
    };
    let rest: Vec<Value> = positional.collect();
    let mut out = Vec::new();
    for item in &items(budget, value)?.items {
        let looked_at = match &attribute {
            Some(attribute) => path(budget, item, attribute, None)?,
            None => item.clone(),
        };
        if holds(budget, &looked_at, &test, &rest)? == wanted {
            out.push(item.clone());
        }
    }
    Value::iter(budget, out)
}

/// `batch`: lists of n items; `slice`: n lists.
fn chunks(budget: &Rc<Budget>, name: &str, items: &[Value], args: Args) -> Result<Value> {
    let [count, fill] = args.bind(name, ["count", "fill_with"])?;
    let count = args::int(name, count.as_ref(), 0)?;
    let count = usize::try_from(count).ok().filter(|&n| n > 0);
    let count =
        count.ok_or_else(|| Error::invalid(format_args!("{name} lacks a count above 0")))?;
    let fill = given(fill);
    let mut out = Vec::new();
    let padded = |mut list: Vec<Value>, length: usize| {
        if let Some(fill) = &fill {
            let missing = length.saturating_sub(list.len());
            budget.work(missing)?;
            budget.room(missing.saturating_mul(std::mem::size_of::<Value>()))?;
            list.extend(std::iter::repeat_n(fill.clone(), missing));
        }
        Value::list(budget, list)
    };
    if name == "batch" {
        for chunk in items.chunks(count) {
            out.push(padded(chunk.to_vec(), count)?);
        }
    } else {
        // An empty list takes memory too: that many must be possible.
        budget.room(count.saturating_mul(std::mem::size_of::<Value>()))?;
        let (each, more) = (items.len() / count, items.len() % count);
        let mut at = 0;
        for i in 0..count {
            let length = each + usize::from(i < more);
            let list = items[at..at + length].to_vec();
            at += length;
            let longest = each + usize::from(more > 0 && i >= more);
            out.push(padded(list, longest)?);
        }
    }
    Value::iter(budget, out)
}

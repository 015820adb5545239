//! The filters of jinja2: `value|name(args)`.
//!
//! Left out are those that make no sense in a chat template (HTML links and attributes, random choice); using one is an error that names it.

use super::args::{self, Args};
use super::budget::Budget;
use super::json;
use super::lists;
use super::printf;
use super::show::{is_space, text_of, write_repr};
use super::strings;
use super::text::{Buffer, Text};
use super::value::Value;
use crate::error::{Error, Result};
use std::rc::Rc;

/// `value|name(args)`.
///
/// # Errors
/// Invalid for an unknown filter, wrong arguments or a value that it does not take; Limit.
pub fn apply(budget: &Rc<Budget>, name: &str, value: Value, args: Args) -> Result<Value> {
    let text = || text_of(budget, &value);
    Ok(match name {
        "upper" | "lower" | "capitalize" => {
            args.none(name)?;
            Value::Str(strings::cased(&text()?, name)?)
        }
        "title" => {
            args.none(name)?;
            Value::Str(title(&text()?)?)
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = args::optional_text(name, chars.as_ref())?;
            Value::Str(strings::strip(&text()?, chars, true, true)?)
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let part = |v: Option<Value>| text_of(budget, &v.unwrap_or(Value::None));
            let count = count.filter(|v| !matches!(v, Value::None));
            let count = args::int(name, count.as_ref(), -1)?;
            let most = usize::try_from(count).unwrap_or(usize::MAX);
            Value::Str(strings::replace(&text()?, &part(old)?, &part(new)?, most)?)
        }
        "string" | "safe" => {
            args.none(name)?;
            Value::Str(text()?)
        }
        "e" | "escape" | "forceescape" => {
            args.none(name)?;
            Value::Str(escaped(&text()?)?)
        }
        "indent" => {
            let [width, first, blank] = args.bind(name, ["width", "first", "blank"])?;
            let truth = |v: Option<Value>| v.is_some_and(|v| v.truth());
            let (first, blank) = (truth(first), truth(blank));
            Value::Str(indented(budget, &text()?, width.as_ref(), first, blank)?)
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let space = Text::plain(budget, " ")?;
            let width = args::int(name, width.as_ref(), 80)?;
            Value::Str(strings::justified(&text()?, "center", width, &space)?)
        }
        "truncate" => truncated(&text()?, args)?,
        "wordcount" => {
            args.none(name)?;
            let text = text()?;
            budget.bytes(text.len())?;
            let word = |c: char| !(c == '_' || c.is_alphanumeric());
            let words = text.as_str().split(word).filter(|w| !w.is_empty());
            Value::Int(words.count() as i128)
        }
        "urlencode" => {
            args.none(name)?;
            Value::Str(url_encoded(&text()?)?)
        }
        "format" => {
            let format = text()?;
            let values = match args.named.is_empty() {
                true => Value::tuple(budget, args.positional)?,
                false => {
                    let named = args.named.into_iter();
                    let entries = named.map(|(k, v)| Ok((Value::plain(budget, &k)?, v)));
                    Value::dict(budget, entries.collect::<Result<_>>()?)?
                }
            };
            Value::Str(printf::percent(budget, &format, &values)?)
        }
        "tojson" => {
            let style = json::Style::new(budget, args)?;
            let mut out = Buffer::new(budget);
            json::write(&mut out, &value, &style)?;
            Value::Str(out.finish()?)
        }
        "pprint" => {
            args.none(name)?;
            let mut out = Buffer::new(budget);
            write_repr(&mut out, &value)?;
            Value::Str(out.finish()?)
        }
        "default" | "d" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            let empty = match &value {
                Value::Undefined(_) => true,
                value => boolean.is_some_and(|b| b.truth()) && !value.truth(),
            };
            match (empty, default) {
                (false, _) => value,
                (true, Some(default)) => default,
                (true, None) => Value::plain(budget, "")?,
            }
        }
        "abs" => {
            args.none(name)?;
            match (value.defined()?.as_int(), &value) {
                (Some(n), _) => Value::Int(n.saturating_abs()),
                (None, Value::Float(f)) => Value::Float(f.abs()),
                _ => return Err(not_a_number(name, &value)),
            }
        }
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            whole(&value, default, args::int(name, base.as_ref(), 10)?)?
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            match (value.defined()?.as_float(), &value) {
                (Some(f), _) => Value::Float(f),
                (None, Value::Str(text)) => match parse_float(text.as_str()) {
                    Some(f) => Value::Float(f),
                    None => default.unwrap_or(Value::Float(0.0)),
                },
                _ => default.unwrap_or(Value::Float(0.0)),
            }
        }
        "round" => {
            let [precision, method] = args.bind(name, ["precision", "method"])?;
            let precision = args::int(name, precision.as_ref(), 0)?;
            let method = args::optional_text(name, method.as_ref())?;
            rounded(&value, precision, method.map_or("common", Text::as_str))?
        }
        "attr" => {
            let [key] = args.bind(name, ["name"])?;
            let key = args::text(name, key.as_ref())?;
            lists::attribute(budget, &value, &Value::Str(key.clone()))?
        }
        "map" => map(budget, &value, args)?,
        _ => return lists::apply(budget, name, value, args),
    })
}

fn not_a_number(of: &str, value: &Value) -> Error {
    Error::invalid(format_args!(
        "{of} is given {}, expected a number",
        value.type_name()
    ))
}

fn map(budget: &Rc<Budget>, value: &Value, mut args: Args) -> Result<Value> {
    let all = lists::items(budget, value)?;
    let mut out = Vec::new();
    if args.positional.is_empty()
        && let Some(attribute) = args.take("attribute")
    {
        let default = args.take("default");
        args.none("map")?;
        for item in &all.items {
            out.push(lists::path(budget, item, &attribute, default.as_ref())?);
        }
        return Value::iter(budget, out);
    }
    let mut positional = args.positional.into_iter();
    let filter = positional.next();
    let filter = args::text("map", filter.as_ref())?.clone();
    let positional: Vec<Value> = positional.collect();
    for item in &all.items {
        budget.work(4)?;
        let args = Args {
            positional: positional.clone(),
            named: args.named.clone(),
        };
        // A filter of filters of filters: each level is one of evaluation.
        budget.enter()?;
        let made = apply(budget, filter.as_str(), item.clone(), args);
        budget.leave();
        out.push(made?);
    }
    Value::iter(budget, out)
}

/// Words begin in upper case and go on in lower case; they begin after white space, `-` and opening brackets.
fn title(text: &Text) -> Result<Text> {
    let s = text.as_str();
    text.budget().work(s.len())?;
    let mut out = Buffer::new(text.budget());
    let mut first = true;
    for (at, c) in s.char_indices() {
        let input = text.is_input(at);
        match first {
            true => c.to_uppercase().try_for_each(|c| out.char(c, input))?,
            false => c.to_lowercase().try_for_each(|c| out.char(c, input))?,
        }
        first = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out.finish()
}

fn escaped(text: &Text) -> Result<Text> {
    let s = text.as_str();
    let mut out = Buffer::new(text.budget());
    let mut from = 0;
    for (at, c) in s.char_indices() {
        let shown = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\'' => "&#39;",
            '"' => "&#34;",
            _ => continue,
        };
        out.part(text, from..at)?;
        out.mark(shown, text.is_input(at))?;
        from = at + 1;
    }
    out.part(text, from..s.len())?;
    out.finish()
}

fn indented(
    budget: &Rc<Budget>,
    text: &Text,
    width: Option<&Value>,
    first: bool,
    blank: bool,
) -> Result<Text> {
    let indent = match width {
        Some(Value::Str(text)) => text.clone(),
        width => {
            let width = args::int("indent", width, 4)?.max(0);
            let mut out = Buffer::new(budget);
            let times = usize::try_from(width).unwrap_or(usize::MAX);
            out.repeat(&Text::plain(budget, " ")?, times)?;
            out.finish()?
        }
    };
    let mut lines = strings::lines(text, false);
    // jinja2 adds a line end before it cuts: a text that ends with one gets an empty last line.
    let ends = [
        "\n", "\r", "\u{b}", "\u{c}", "\u{1c}", "\u{1d}", "\u{1e}", "\u{85}", "\u{2028}",
        "\u{2029}",
    ];
    // `\r` and the added line end are one.
    let s = text.as_str();
    if s.is_empty() || (ends.iter().any(|end| s.ends_with(end)) && !s.ends_with('\r')) {
        lines.push(s.len()..s.len());
    }
    let mut out = Buffer::new(budget);
    for (i, line) in lines.into_iter().enumerate() {
        if i > 0 {
            out.plain("\n")?;
        }
        if if i == 0 {
            first
        } else {
            blank || !line.is_empty()
        } {
            out.text(&indent)?;
        }
        out.part(text, line)?;
    }
    out.finish()
}

fn truncated(text: &Text, args: Args) -> Result<Value> {
    let [length, kill, end, leeway] =
        args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let budget = text.budget();
    let length = args::int("truncate", length.as_ref(), 255)?;
    let leeway = args::int("truncate", leeway.as_ref(), 5)?;
    let end = match args::optional_text("truncate", end.as_ref())? {
        Some(end) => end.clone(),
        None => Text::plain(budget, "...")?,
    };
    let room = length - end.count()? as i128;
    if room < 0 || leeway < 0 {
        return Err(Error::invalid(format_args!(
            "truncate to {length} characters is not possible"
        )));
    }
    if text.count()? as i128 <= length.saturating_add(leeway) {
        return Ok(Value::Str(text.clone()));
    }
    let s = text.as_str();
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut stop = s.char_indices().nth(room).map_or(s.len(), |(at, _)| at);
    if !kill.is_some_and(|v| v.truth()) {
        stop = s[..stop].rfind(' ').unwrap_or(stop);
    }
    let mut out = Buffer::new(budget);
    out.part(text, 0..stop)?;
    out.text(&end)?;
    Ok(Value::Str(out.finish()?))
}

fn url_encoded(text: &Text) -> Result<Text> {
    let mut out = Buffer::new(text.budget());
    for (at, c) in text.as_str().char_indices() {
        let input = text.is_input(at);
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '~' | '/') {
            out.char(c, input)?;
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            out.mark(&format!("%{byte:02X}"), input)?;
        }
    }
    out.finish()
}

/// The float that Python reads from a text.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let digit = text.contains(|c: char| c.is_ascii_digit());
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let named = matches!(word.as_str(), "inf" | "infinity" | "nan");
    match digit || named {
        true => text.replace('_', "").parse().ok(),
        false => None,
    }
}

fn whole(value: &Value, default: Option<Value>, base: i128) -> Result<Value> {
    let default = default.unwrap_or(Value::Int(0));
    // A float has more range than a whole number here: what does not fit counts as unreadable.
    let from_float = |f: f64| match f.is_finite() && f.abs() < 1e38 {
        true => Value::Int(f as i128),
        false => default.clone(),
    };
    Ok(match (value.defined()?.as_int(), value) {
        (Some(n), _) => Value::Int(n),
        (None, Value::Float(f)) => from_float(*f),
        (None, Value::Str(text)) => {
            let text = text.as_str().trim_matches(is_space).to_ascii_lowercase();
            let (sign, digits) = match text.strip_prefix('-') {
                Some(digits) => (-1, digits),
                None => (1, text.strip_prefix('+').unwrap_or(&text)),
            };
            let digits = match base {
                2 => digits.strip_prefix("0b").unwrap_or(digits),
                8 => digits.strip_prefix("0o").unwrap_or(digits),
                16 => digits.strip_prefix("0x").unwrap_or(digits),
                _ => digits,
            };
            let radix = u32::try_from(base).ok().filter(|b| (2..=36).contains(b));
            let radix = radix.ok_or_else(|| {
                Error::invalid(format_args!("int has base {base}, expected 2 to 36"))
            })?;
            let plain = !digits.starts_with(['+', '-']);
            match i128::from_str_radix(&digits.replace('_', ""), radix) {
                Ok(n) if plain => Value::Int(sign * n),
                _ => match parse_float(&text) {
                    Some(f) => from_float(f),
                    None => default,
                },
            }
        }
        _ => default,
    })
}

fn rounded(value: &Value, precision: i128, method: &str) -> Result<Value> {
    if !(-300..=300).contains(&precision) {
        return Err(Error::invalid(format_args!(
            "round has a precision of {precision}, expected at most 300"
        )));
    }
    let f = value
        .defined()?
        .as_float()
        .ok_or_else(|| not_a_number("round", value))?;
    let scale = libm::pow(10.0, precision as f64);
    Ok(match method {
        "common" => match (value.as_int(), precision) {
            (Some(n), 0..) => Value::Int(n),
            (Some(n), _) => {
                let step = 10i128.checked_pow(precision.unsigned_abs() as u32);
                // Half goes to the even neighbour.
                Value::Int(step.map_or(0, |step| {
                    let (low, rest) = (n.div_euclid(step), n.rem_euclid(step));
                    let up = rest * 2 > step || (rest * 2 == step && low % 2 != 0);
                    (low + i128::from(up)).saturating_mul(step)
                }))
            }
            (None, 0..) if f.is_finite() => {
                let digits = precision as usize;
                Value::Float(format!("{f:.digits$}").parse().unwrap_or(f))
            }
            _ => Value::Float((f * scale).round_ties_even() / scale),
        },
        "ceil" => Value::Float((f * scale).ceil() / scale),
        "floor" => Value::Float((f * scale).floor() / scale),
        _ => {
            return Err(Error::invalid(format_args!(
                "round has the method {method:?}, expected common, ceil or floor"
            )));
        }
    })
}

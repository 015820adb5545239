//! Python's two kinds of formatted text: `"%s" % value` and `"{}".format(value)`.

use super::args::Args;
use super::budget::Budget;
use super::ops;
use super::show::{float, text_of, write_repr};
use super::strings;
use super::text::{Buffer, Text};
use super::value::Value;
use crate::error::{Error, Result};
use std::rc::Rc;

/// Most digits behind the point.
const MAX_PRECISION: usize = 400;

/// How one value is written.
#[derive(Clone, Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

fn bad(format: &str) -> Error {
    let shown: String = format.chars().take(80).collect();
    Error::invalid(format_args!("{shown:?} is not a format"))
}

fn number(chars: &mut std::iter::Peekable<std::str::CharIndices>) -> Option<usize> {
    let mut n = None;
    while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_digit()) {
        let digit = c.to_digit(10).unwrap_or(0) as usize;
        n = Some(n.unwrap_or(0usize).saturating_mul(10).saturating_add(digit));
    }
    n
}

/// `format % value`.
///
/// # Errors
/// Invalid for a wrong format or values that do not fit it; Limit.
pub fn percent(budget: &Rc<Budget>, format: &Text, value: &Value) -> Result<Text> {
    let s = format.as_str();
    budget.bytes(s.len())?;
    let single = [value.clone()];
    let list = match value {
        Value::Tuple(seq) => &seq.items[..],
        _ => &single[..],
    };
    let mut used = 0;
    let mut by_name = false;
    let mut out = Buffer::new(budget);
    let mut chars = s.char_indices().peekable();
    let mut from = 0;
    while let Some((at, c)) = chars.next() {
        if c != '%' {
            continue;
        }
        out.part(format, from..at)?;
        let mut named = None;
        if chars.next_if(|&(_, c)| c == '(').is_some() {
            let start = chars.peek().map_or(s.len(), |&(at, _)| at);
            let end = chars.find(|&(_, c)| c == ')').ok_or_else(|| bad(s))?.0;
            let Value::Dict(dict) = value else {
                return Err(Error::invalid("a format with names needs a dict"));
            };
            by_name = true;
            let found = dict.get(&s[start..end])?;
            named = Some(found.cloned().ok_or_else(|| bad(s))?);
        }
        let mut next = || {
            used += 1;
            list.get(used - 1)
                .cloned()
                .ok_or_else(|| Error::invalid("a format has too few values"))
        };
        let mut spec = Spec::default();
        while let Some((_, flag)) = chars.next_if(|(_, c)| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '0' => spec.zero = true,
                '#' => spec.alternate = true,
                sign => spec.sign = spec.sign.filter(|&s| s == '+').or(Some(sign)),
            }
        }
        let star = |value: Value| {
            let n = value.as_int().ok_or_else(|| bad(s))?;
            usize::try_from(n).map_err(|_| bad(s))
        };
        spec.width = match chars.next_if(|&(_, c)| c == '*') {
            Some(_) => star(next()?)?,
            None => number(&mut chars).unwrap_or(0),
        };
        if chars.next_if(|&(_, c)| c == '.').is_some() {
            spec.precision = Some(match chars.next_if(|&(_, c)| c == '*') {
                Some(_) => star(next()?)?,
                None => number(&mut chars).unwrap_or(0),
            });
        }
        while chars.next_if(|(_, c)| "hlL".contains(*c)).is_some() {}
        let (at, kind) = chars.next().ok_or_else(|| bad(s))?;
        from = at + kind.len_utf8();
        if kind == '%' {
            out.plain("%")?;
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        spec.kind = Some(kind);
        conversion(&mut out, &value, spec, s)?;
    }
    let all_used = used == list.len() || by_name || (used == 0 && matches!(value, Value::Dict(_)));
    if !all_used {
        return Err(Error::invalid("a format has too many values"));
    }
    out.part(format, from..s.len())?;
    out.finish()
}

/// One `%` conversion.
fn conversion(out: &mut Buffer, value: &Value, mut spec: Spec, format: &str) -> Result<()> {
    let kind = spec.kind.take().unwrap_or('s');
    // Numbers and texts stand at the right of their field.
    spec.align = spec.align.or(Some('>'));
    if spec.align == Some('<') {
        spec.zero = false;
    }
    match kind {
        's' => text_field(out, &text_of(out.budget(), value)?, &spec),
        'r' | 'a' => {
            let mut shown = Buffer::new(out.budget());
            write_repr(&mut shown, value)?;
            text_field(out, &shown.finish()?, &spec)
        }
        'c' => {
            let text = match (value, value.as_int()) {
                (Value::Str(text), _) if text.count()? == 1 => text.clone(),
                (_, Some(n)) => {
                    let c = u32::try_from(n).ok().and_then(char::from_u32);
                    let c = c.ok_or_else(|| bad(format))?;
                    Text::plain(out.budget(), c.encode_utf8(&mut [0; 4]))?
                }
                _ => return Err(bad(format)),
            };
            text_field(out, &text, &spec)
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let n = match (value.defined()?, value.as_int()) {
                (_, Some(n)) => n,
                (Value::Float(f), _) if f.is_finite() && !"oxX".contains(kind) => *f as i128,
                (other, _) => {
                    return Err(Error::invalid(format_args!(
                        "%{kind} needs a number, not {}",
                        other.type_name()
                    )));
                }
            };
            let kind = if matches!(kind, 'i' | 'u') { 'd' } else { kind };
            let digits = spec.precision.take().unwrap_or(0).min(MAX_PRECISION);
            spec.kind = Some(kind);
            whole_field(out, n, &spec, digits)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let f = value.defined()?.as_float().ok_or_else(|| {
                Error::invalid(format_args!(
                    "%{kind} needs a number, not {}",
                    value.type_name()
                ))
            })?;
            spec.kind = Some(kind);
            float_field(out, f, &spec)
        }
        _ => Err(bad(format)),
    }
}

/// `format.format(...)`.
///
/// # Errors
/// Invalid for a wrong format or values that do not fit it; Limit.
pub fn braces(budget: &Rc<Budget>, format: &Text, args: Args) -> Result<Text> {
    let s = format.as_str();
    let mut out = Buffer::new(budget);
    let mut automatic = 0usize;
    let (mut from, mut at) = (0, 0);
    while let Some(found) = s[at..].find(['{', '}']) {
        at += found;
        let rest = &s[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            out.part(format, from..at + 1)?;
            at += 2;
            from = at;
            continue;
        }
        let end = rest.find('}').filter(|_| rest.starts_with('{'));
        let end = end.ok_or_else(|| bad(s))?;
        out.part(format, from..at)?;
        let field = &rest[1..end];
        at += end + 1;
        from = at;
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (field, convert) = field.split_once('!').unwrap_or((field, ""));
        if field.contains('{') || spec.contains('{') {
            return Err(Error::invalid(
                "a format inside a format is not possible here",
            ));
        }
        let mut value = resolve(budget, field, &args, &mut automatic, s)?;
        value = match convert {
            "" => value,
            "s" => Value::Str(text_of(budget, &value)?),
            "r" | "a" => {
                let mut shown = Buffer::new(budget);
                write_repr(&mut shown, &value)?;
                Value::Str(shown.finish()?)
            }
            _ => return Err(bad(s)),
        };
        formatted(&mut out, &value, spec)?;
    }
    out.part(format, from..s.len())?;
    out.finish()
}

/// The value that a field such as `0.name[key]` names.
fn resolve(
    budget: &Rc<Budget>,
    field: &str,
    args: &Args,
    automatic: &mut usize,
    format: &str,
) -> Result<Value> {
    let end = field.find(['.', '[']).unwrap_or(field.len());
    let (first, mut rest) = field.split_at(end);
    let missing = || Error::invalid(format_args!("a format has no value for {first:?}"));
    let found = if first.is_empty() {
        *automatic += 1;
        args.positional.get(*automatic - 1)
    } else if let Ok(index) = first.parse::<usize>() {
        args.positional.get(index)
    } else {
        args.named
            .iter()
            .find(|(n, _)| **n == *first)
            .map(|(_, v)| v)
    };
    let mut value = found.cloned().ok_or_else(missing)?;
    while !rest.is_empty() {
        let (key, after) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or_else(|| bad(format))?,
            None => {
                let inner = rest.strip_prefix('.').ok_or_else(|| bad(format))?;
                inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()))
            }
        };
        let key = match key.parse::<i128>() {
            Ok(index) if rest.starts_with('[') => Value::Int(index),
            _ => Value::plain(budget, key)?,
        };
        value = ops::item(budget, &value, &key)?;
        value.defined()?;
        rest = after;
    }
    Ok(value)
}

fn parse_spec(spec: &str) -> Result<Spec> {
    let mut out = Spec::default();
    let mut chars = spec.char_indices().peekable();
    let is_align = |c: char| matches!(c, '<' | '>' | '^' | '=');
    let mut ahead = spec.chars();
    match (ahead.next(), ahead.next()) {
        (Some(fill), Some(align)) if is_align(align) => {
            (out.fill, out.align) = (Some(fill), Some(align));
            chars.nth(1);
        }
        (Some(align), _) if is_align(align) => {
            out.align = Some(align);
            chars.next();
        }
        _ => {}
    }
    let sign = chars.next_if(|&(_, c)| matches!(c, '+' | '-' | ' '));
    out.sign = sign.map(|(_, c)| c);
    out.alternate = chars.next_if(|&(_, c)| c == '#').is_some();
    out.zero = chars.next_if(|&(_, c)| c == '0').is_some();
    out.width = number(&mut chars).unwrap_or(0);
    out.grouping = chars
        .next_if(|&(_, c)| matches!(c, ',' | '_'))
        .map(|(_, c)| c);
    if chars.next_if(|&(_, c)| c == '.').is_some() {
        out.precision = Some(number(&mut chars).ok_or_else(|| bad(spec))?);
    }
    out.kind = chars.next().map(|(_, c)| c);
    match chars.next() {
        None => Ok(out),
        Some(_) => Err(bad(spec)),
    }
}

/// A value as `format(value, spec)` writes it.
fn formatted(out: &mut Buffer, value: &Value, spec_text: &str) -> Result<()> {
    let spec = parse_spec(spec_text)?;
    match value {
        Value::Undefined(missing) => Err(Value::undefined_error(missing)),
        Value::Bool(_) if spec.kind.is_none() => {
            text_field(out, &text_of(out.budget(), value)?, &spec)
        }
        Value::Bool(_) | Value::Int(_) => {
            let n = value.as_int().unwrap_or(0);
            match spec.kind {
                None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X') => whole_field(out, n, &spec, 0),
                _ => float_field(out, n as f64, &spec),
            }
        }
        Value::Float(f) => float_field(out, *f, &spec),
        Value::Str(text) if matches!(spec.kind, None | Some('s')) => text_field(out, text, &spec),
        other if spec_text.is_empty() => out.text(&text_of(out.budget(), other)?),
        _ => Err(bad(spec_text)),
    }
}

fn text_field(out: &mut Buffer, text: &Text, spec: &Spec) -> Result<()> {
    let s = text.as_str();
    let stop = match spec.precision {
        Some(most) => s.char_indices().nth(most).map_or(s.len(), |(at, _)| at),
        None => s.len(),
    };
    padded(out, &text.part(0..stop)?, spec, '<')
}

fn padded(out: &mut Buffer, text: &Text, spec: &Spec, usual: char) -> Result<()> {
    let how = match spec.align.unwrap_or(usual) {
        '<' => "ljust",
        '^' => "centered",
        _ => "rjust",
    };
    let fill = spec.fill.unwrap_or(' ');
    let fill = Text::plain(out.budget(), fill.encode_utf8(&mut [0; 4]))?;
    if how == "centered" {
        // Unlike `str.center`, a format rounds to the right.
        let missing = spec.width.saturating_sub(text.count()?);
        out.repeat(&fill, missing / 2)?;
        out.text(text)?;
        return out.repeat(&fill, missing - missing / 2);
    }
    let width = i128::try_from(spec.width).unwrap_or(i128::MAX);
    let field = strings::justified(text, how, width, &fill)?;
    out.text(&field)
}

/// Digits with a sign in front, filled with zeros or padded.
fn signed(out: &mut Buffer, negative: bool, prefix: &str, digits: &str, spec: &Spec) -> Result<()> {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let head = format!("{sign}{prefix}");
    let inside = spec.align == Some('=') || (spec.zero && matches!(spec.align, None | Some('>')));
    let width = if inside && spec.fill.is_none() {
        spec.width
    } else {
        0
    };
    let missing = width.saturating_sub(head.len() + digits.len());
    let mut field = Buffer::new(out.budget());
    field.plain(&head)?;
    let zero = if spec.zero { "0" } else { " " };
    field.repeat(&Text::plain(out.budget(), zero)?, missing)?;
    field.plain(digits)?;
    padded(out, &field.finish()?, spec, '>')
}

fn grouped(digits: &str, spec: &Spec, each: usize) -> String {
    let Some(mark) = spec.grouping else {
        return digits.to_owned();
    };
    let (whole, rest) = digits.split_at(digits.find(['.', 'e']).unwrap_or(digits.len()));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(each) {
            out.push(mark);
        }
        out.push(c);
    }
    out + rest
}

fn whole_field(out: &mut Buffer, n: i128, spec: &Spec, digits: usize) -> Result<()> {
    let size = n.unsigned_abs();
    let (shown, prefix, each) = match spec.kind {
        Some('b') => (format!("{size:b}"), "0b", 4),
        Some('o') => (format!("{size:o}"), "0o", 4),
        Some('x') => (format!("{size:x}"), "0x", 4),
        Some('X') => (format!("{size:X}"), "0X", 4),
        _ => (size.to_string(), "", 3),
    };
    let shown = format!("{}{shown}", "0".repeat(digits.saturating_sub(shown.len())));
    let prefix = if spec.alternate { prefix } else { "" };
    signed(out, n < 0, prefix, &grouped(&shown, spec, each), spec)
}

fn float_field(out: &mut Buffer, f: f64, spec: &Spec) -> Result<()> {
    let precision = spec.precision.unwrap_or(6);
    if precision > MAX_PRECISION {
        return Err(Error::limit(format_args!(
            "a format has a precision of {precision}, expected at most {MAX_PRECISION}"
        )));
    }
    let size = f.abs();
    let kind = spec.kind.unwrap_or(match spec.precision {
        Some(_) => 'g',
        None => 'r',
    });
    let mut shown = match kind {
        _ if f.is_nan() => "nan".to_owned(),
        _ if f.is_infinite() => "inf".to_owned(),
        'r' => float(size),
        'f' | 'F' => format!("{size:.precision$}"),
        '%' => format!("{:.precision$}%", size * 100.0),
        'e' | 'E' => scientific(size, precision),
        'g' | 'G' | 'n' => general(size, precision, spec),
        _ => return Err(bad(&kind.to_string())),
    };
    if matches!(kind, 'E' | 'G' | 'F') {
        shown = shown.to_uppercase();
    }
    let negative = f.is_sign_negative() && !f.is_nan();
    signed(out, negative, "", &grouped(&shown, spec, 3), spec)
}

fn scientific(size: f64, precision: usize) -> String {
    let shown = format!("{size:.precision$e}");
    let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn general(size: f64, precision: usize, spec: &Spec) -> String {
    let digits = precision.max(1);
    let shown = scientific(size, digits - 1);
    let (mantissa, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let power: i64 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') && !spec.alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..digits as i64).contains(&power) {
        let decimals = (digits as i64 - 1 - power).max(0) as usize;
        let plain = trim(&format!("{size:.decimals$}"));
        // A float without a kind never looks like a whole number.
        return match spec.kind.is_none() && !plain.contains('.') {
            true => plain + ".0",
            false => plain,
        };
    }
    format!("{}e{exponent}", trim(mantissa))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_as_python_has_it() {
        let b = Budget::new(0);
        let text = |s: &str| Value::plain(&b, s).unwrap();
        let show = |format: &str, value: &Value| {
            percent(&b, &Text::plain(&b, format).unwrap(), value)
                .map(|t| t.as_str().to_owned())
                .map_err(|e| e.to_string())
        };
        let pair = Value::tuple(&b, vec![text("a"), Value::Int(-3)]).unwrap();
        assert_eq!(show("%s:%05d", &pair).unwrap(), "a:-0003");
        assert_eq!(show("%-4s|%+d%%", &pair).unwrap(), "a   |-3%");
        assert_eq!(show("%.2f", &Value::Float(2.345)).unwrap(), "2.35");
        assert_eq!(
            show("%x %s", &pair).unwrap_err(),
            "%x needs a number, not str"
        );
        assert_eq!(show("%g", &Value::Float(1e-7)).unwrap(), "1e-07");
        assert_eq!(show("%g", &Value::Float(100000.0)).unwrap(), "100000");
        assert_eq!(show("%r", &text("x'")).unwrap(), "\"x'\"");
        assert!(show("%s", &pair).unwrap_err().contains("too many"));
        assert!(show("%s %s %s", &pair).unwrap_err().contains("too few"));
        assert!(show("%999999999999d", &Value::Int(1)).is_err());
        assert!(show("%", &Value::Int(1)).is_err());
    }

    #[test]
    fn braces_as_python_has_them() {
        let b = Budget::new(0);
        let show = |format: &str, values: Vec<Value>| {
            let args = Args {
                positional: values,
                named: vec![("k".into(), Value::plain(&b, "v").unwrap())],
            };
            braces(&b, &Text::plain(&b, format).unwrap(), args)
                .map(|t| t.as_str().to_owned())
                .map_err(|e| e.to_string())
        };
        let n = Value::Int;
        assert_eq!(show("{}-{}{{{k}}}", vec![n(1), n(2)]).unwrap(), "1-2{v}");
        assert_eq!(
            show("{0:>5}|{0:<5}|{0:^5}|{0:05}", vec![n(42)]).unwrap(),
            "   42|42   | 42  |00042"
        );
        assert_eq!(
            show("{:,} {:+} {:#x}", vec![n(1234567), n(3), n(255)]).unwrap(),
            "1,234,567 +3 0xff"
        );
        assert_eq!(
            show(
                "{:.1f} {:.3} {:e}",
                vec![Value::Float(2.25), Value::Float(1234.5), Value::Float(0.5)]
            )
            .unwrap(),
            "2.2 1.23e+03 5.000000e-01"
        );
        assert_eq!(show("{k!r:*^7}", vec![]).unwrap(), "**'v'**");
        assert!(show("{", vec![n(1)]).is_err());
        assert!(show("{}", vec![]).is_err());
    }
}

//! How Python writes values: `str()`, `repr()`, numbers.

use super::budget::Budget;
use super::text::{Buffer, Text};
use super::value::Value;
use crate::error::Result;
use crate::tokenizer::CharSet;
use std::rc::Rc;
use std::sync::LazyLock;

/// What Python takes as white space in text.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The value as text: itself if it is text, else as `str()` writes it.
///
/// # Errors
/// Limit: memory or work.
pub fn text_of(budget: &Rc<Budget>, value: &Value) -> Result<Text> {
    if let Value::Str(text) = value {
        return Ok(text.clone());
    }
    let mut out = Buffer::new(budget);
    write_str(&mut out, value)?;
    out.finish()
}

/// Writes a value as `str()` does.
///
/// # Errors
/// Limit: memory or work.
pub fn write_str(out: &mut Buffer, value: &Value) -> Result<()> {
    match value {
        Value::Str(text) => out.text(text),
        Value::Undefined(_) => Ok(()),
        other => write_repr(out, other),
    }
}

/// Writes a value as `repr()` does.
///
/// # Errors
/// Limit: memory or work.
pub fn write_repr(out: &mut Buffer, value: &Value) -> Result<()> {
    match value {
        Value::Undefined(_) => out.plain("Undefined"),
        Value::None => out.plain("None"),
        Value::Bool(true) => out.plain("True"),
        Value::Bool(false) => out.plain("False"),
        Value::Int(n) => out.plain(&n.to_string()),
        Value::Float(f) => out.plain(&float(*f)),
        Value::Str(text) => quoted(out, text),
        Value::List(seq) => {
            out.plain("[")?;
            items(out, &seq.items)?;
            out.plain("]")
        }
        Value::Tuple(seq) => {
            out.plain("(")?;
            items(out, &seq.items)?;
            out.plain(if seq.items.len() == 1 { ",)" } else { ")" })
        }
        Value::Dict(dict) => {
            out.plain("{")?;
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                if i > 0 {
                    out.plain(", ")?;
                }
                write_repr(out, key)?;
                out.plain(": ")?;
                write_repr(out, value)?;
            }
            out.plain("}")
        }
        other => {
            out.plain("<")?;
            out.plain(other.type_name())?;
            out.plain(" object>")
        }
    }
}

fn items(out: &mut Buffer, items: &[Value]) -> Result<()> {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.plain(", ")?;
        }
        write_repr(out, item)?;
    }
    Ok(())
}

/// A float as `repr()` writes it: the shortest digits that read back as the same number.
pub fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{f:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return match plain.contains('.') {
            true => plain,
            false => plain + ".0",
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Whether `repr()` shows a character as itself.
pub fn is_printable(c: char) -> bool {
    static HIDDEN: LazyLock<Option<CharSet>> =
        LazyLock::new(|| CharSet::parse(r"[\p{C}\p{Zl}\p{Zp}\p{Zs}]").ok());
    match c {
        ' '..='~' => true,
        _ => !HIDDEN.as_ref().is_some_and(|set| set.contains(c)),
    }
}

/// Whether a character is a decimal digit of some script.
pub fn is_decimal(c: char) -> bool {
    static DECIMAL: LazyLock<Option<CharSet>> = LazyLock::new(|| CharSet::parse(r"\p{Nd}").ok());
    match c {
        '0'..='9' => true,
        _ => DECIMAL.as_ref().is_some_and(|set| set.contains(c)),
    }
}

/// A text in quotes, with escapes.
fn quoted(out: &mut Buffer, text: &Text) -> Result<()> {
    let s = text.as_str();
    let quote = if s.contains('\'') && !s.contains('"') {
        '"'
    } else {
        '\''
    };
    out.char(quote, false)?;
    let mut from = 0;
    for (at, c) in s.char_indices() {
        let escape = match c {
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            _ if c == quote => format!("\\{c}"),
            _ if is_printable(c) => continue,
            _ => match u32::from(c) {
                n @ ..=0xff => format!("\\x{n:02x}"),
                n @ ..=0xffff => format!("\\u{n:04x}"),
                n => format!("\\U{n:08x}"),
            },
        };
        out.part(text, from..at)?;
        out.mark(&escape, text.is_input(at))?;
        from = at + c.len_utf8();
    }
    out.part(text, from..s.len())?;
    out.char(quote, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_writes_them() {
        for (f, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (18.5, "18.5"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.0 / 3.0, "0.3333333333333333"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(f), text);
        }
    }

    #[test]
    fn texts_in_quotes() {
        let budget = Budget::new(0);
        for (text, shown) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("'\"", "'\\'\"'"),
            (
                "\n\t\\\u{7f}\u{a0}\u{200b}\u{1f600}é",
                "'\\n\\t\\\\\\x7f\\xa0\\u200b\u{1f600}é'",
            ),
        ] {
            let mut out = Buffer::new(&budget);
            write_repr(&mut out, &Value::plain(&budget, text).unwrap()).unwrap();
            assert_eq!(out.finish().unwrap().as_str(), shown);
        }
    }
}

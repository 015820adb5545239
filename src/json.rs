//! JSON as one line of text.

use crate::error::{Error, Result};

/// A value as one line of JSON. The line ends that JSON allows in strings (U+0085, U+2028, U+2029) are escaped: a reader that splits its
/// input at every kind of line end would cut the record in two.
///
/// # Errors
/// The value cannot be written as JSON.
pub fn one_line(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(Error::invalid)?;
    let is_line_end = |c: char| matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}');
    if !text.contains(is_line_end) {
        return Ok(text);
    }
    // Outside of strings these characters cannot occur, so an escape is always right.
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_line_end(c) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_line_for_every_reader() {
        let value = serde_json::json!({"text": "a\u{2028}b\u{85}c\u{2029}\nd é"});
        let line = one_line(&value).unwrap();
        assert_eq!(line, r#"{"text":"a\u2028b\u0085c\u2029\nd é"}"#);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            value
        );
    }
}

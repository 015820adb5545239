//! The tokens of a template, with the white space rules of `trim_blocks` and `lstrip_blocks`, which chat templates are written for.
//!
//! - Line ends become `\n`; one at the very end of the source is left out.
//! - The line end after a block or comment is left out, and so is the white space before one that begins its line; `+` keeps either.
//! - `-` at a tag takes all white space on its side.

use super::show::is_space;
use crate::error::{Error, ErrorKind, Result};

/// Brackets inside each other.
const MAX_BRACKETS: usize = 200;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Text to be written as it is.
    Data(String),
    /// `{{`
    VariableBegin,
    /// `}}`
    VariableEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    /// A name or keyword.
    Name(String),
    /// A string without its quotes and escapes.
    Str(String),
    /// A whole number.
    Int(i128),
    /// A float.
    Float(f64),
    /// An operator or bracket.
    Op(&'static str),
    /// The end of the template.
    End,
}

/// A token and the line on which it begins.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Counted from 1.
    pub line: u32,
}

/// Longer ones first.
const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!",
];

/// The tokens of a source.
///
/// # Errors
/// Invalid with the line; Limit for brackets that are too deep.
pub fn tokens(source: &str) -> Result<Vec<Token>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        line_starting: true,
        out: Vec::new(),
    };
    lexer.root()?;
    lexer.push(Kind::End);
    Ok(lexer.out)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    /// Whether what was read last ended with a line end.
    line_starting: bool,
    out: Vec<Token>,
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: Kind) {
        let line = self.line;
        self.out.push(Token { kind, line });
    }

    fn fail<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Err(place(self.line, Error::invalid(message)))
    }

    /// Goes on behind `n` more bytes.
    fn skip(&mut self, n: usize) {
        let passed = &self.rest()[..n];
        self.line += passed.matches('\n').count() as u32;
        self.line_starting = passed.ends_with('\n');
        self.at += n;
    }

    fn root(&mut self) -> Result<()> {
        while !self.rest().is_empty() {
            let rest = self.rest();
            let begins = |at: &usize| {
                let tag = rest.as_bytes().get(at + 1);
                matches!(tag, Some(b'{' | b'%' | b'#'))
            };
            let Some(begin) = rest.match_indices('{').map(|(at, _)| at).find(begins) else {
                self.push(Kind::Data(rest.to_owned()));
                self.skip(rest.len());
                break;
            };
            let (data, tag) = rest.split_at(begin);
            let kind = tag.as_bytes()[1];
            let sign = tag.as_bytes().get(2).filter(|b| matches!(b, b'-' | b'+'));
            let sign = sign.copied();
            self.data(data, sign, kind != b'{');
            self.skip(begin);
            // A comment that begins its line stays at the beginning of it.
            let raw = match kind {
                b'%' => raw_begin(tag),
                _ => None,
            };
            match (kind, raw) {
                (b'%', Some(length)) => {
                    self.skip(length);
                    self.raw()?;
                }
                (b'#', _) => {
                    self.skip(2 + usize::from(sign.is_some()));
                    self.comment()?;
                }
                (b'%', None) => {
                    self.push(Kind::BlockBegin);
                    self.skip(2 + usize::from(sign.is_some()));
                    self.tag(b'%', Kind::BlockEnd)?;
                }
                _ => {
                    self.push(Kind::VariableBegin);
                    self.skip(2 + usize::from(sign.is_some()));
                    self.tag(b'}', Kind::VariableEnd)?;
                }
            }
        }
        Ok(())
    }

    /// Text before a tag, without the white space that the tag takes.
    fn data(&mut self, text: &str, sign: Option<u8>, block: bool) {
        let mut text = text;
        match sign {
            Some(b'-') => text = text.trim_end_matches(is_space),
            None if block => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                if (line > 0 || self.line_starting) && trim_start(&text[line..]).is_empty() {
                    text = &text[..line];
                }
            }
            _ => {}
        }
        if !text.is_empty() {
            self.push(Kind::Data(text.to_owned()));
        }
    }

    /// How long the end of a block or comment is that begins here: `mark` is `%` or `#`.
    fn block_end(rest: &str, mark: u8) -> Option<usize> {
        let bytes = rest.as_bytes();
        match *bytes {
            [b'+', m, b'}', ..] if m == mark => Some(3),
            [b'-', m, b'}', ..] if m == mark => Some(rest.len() - trim_start(&rest[3..]).len()),
            [m, b'}', b'\n', ..] if m == mark => Some(3),
            [m, b'}', ..] if m == mark => Some(2),
            _ => None,
        }
    }

    fn comment(&mut self) -> Result<()> {
        let rest = self.rest();
        // The sign before the end belongs to it, so the search begins at every place where one may be.
        for (at, _) in rest.match_indices("#}") {
            let signed = at > 0 && matches!(rest.as_bytes()[at - 1], b'-' | b'+');
            let from = at - usize::from(signed);
            if let Some(length) = Self::block_end(&rest[from..], b'#') {
                self.skip(from + length);
                return Ok(());
            }
        }
        self.fail("a comment has no end, expected #}")
    }

    fn raw(&mut self) -> Result<()> {
        let rest = self.rest();
        for (at, _) in rest.match_indices("{%") {
            let after = &rest[at + 2..];
            let sign = after.bytes().next().filter(|b| matches!(b, b'-' | b'+'));
            let inner = trim_start(&after[usize::from(sign.is_some())..]);
            let Some(inner) = inner.strip_prefix("endraw") else {
                continue;
            };
            let inner = trim_start(inner);
            let Some(length) = Self::block_end(inner, b'%') else {
                continue;
            };
            self.data(&rest[..at], sign, true);
            self.skip(rest.len() - inner.len() + length);
            return Ok(());
        }
        self.fail("a raw block has no end, expected {% endraw %}")
    }

    /// Tokens up to the end of a tag.
    fn tag(&mut self, mark: u8, end: Kind) -> Result<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            let rest = self.rest();
            if open.is_empty() {
                let length = match (mark, rest.as_bytes()) {
                    (b'}', [b'-', b'}', b'}', ..]) => {
                        Some(rest.len() - trim_start(&rest[3..]).len())
                    }
                    (b'}', [b'}', b'}', ..]) => Some(2),
                    (b'}', _) => None,
                    _ => Self::block_end(rest, mark),
                };
                if let Some(length) = length {
                    self.push(end);
                    self.skip(length);
                    return Ok(());
                }
            }
            let Some(c) = rest.chars().next() else {
                return self.fail("the template ends inside a tag");
            };
            if is_space(c) {
                self.skip(rest.len() - trim_start(rest).len());
            } else if c == '"' || c == '\'' {
                self.string(c)?;
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphanumeric() {
                let word = |c: char| c != '_' && !c.is_alphanumeric();
                let length = rest.find(word).unwrap_or(rest.len());
                self.push(Kind::Name(rest[..length].to_owned()));
                self.skip(length);
            } else {
                self.operator(&mut open)?;
            }
        }
    }

    fn operator(&mut self, open: &mut Vec<u8>) -> Result<()> {
        let rest = self.rest();
        let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) else {
            let c = rest.chars().next().unwrap_or_default();
            return self.fail(format_args!("{c:?} is not expected in a tag"));
        };
        match op {
            "(" => open.push(b')'),
            "[" => open.push(b']'),
            "{" => open.push(b'}'),
            ")" | "]" | "}" if open.pop() != Some(op.as_bytes()[0]) => {
                return self.fail(format_args!("{op:?} closes nothing"));
            }
            _ => {}
        }
        if open.len() > MAX_BRACKETS {
            return Err(place(
                self.line,
                Error::limit(format_args!(
                    "more than {MAX_BRACKETS} brackets are inside each other"
                )),
            ));
        }
        self.push(Kind::Op(op));
        self.skip(op.len());
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        // Digits with single underscores between them.
        let digits = |from: usize, ok: fn(&u8) -> bool| {
            let mut at = from;
            while at < bytes.len() {
                let joint = bytes[at] == b'_' && at > from && bytes.get(at + 1).is_some_and(ok);
                if !ok(&bytes[at]) && !joint {
                    break;
                }
                at += 1;
            }
            at
        };
        let decimal: fn(&u8) -> bool = u8::is_ascii_digit;
        let whole = digits(0, decimal);
        let after_dot = self.source[..self.at].ends_with('.');
        let mut stop = whole;
        if !after_dot {
            if bytes.get(stop) == Some(&b'.') && bytes.get(stop + 1).is_some_and(decimal) {
                stop = digits(stop + 1, decimal);
            }
            if matches!(bytes.get(stop), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(stop + 1), Some(b'+' | b'-')));
                if bytes.get(stop + 1 + sign).is_some_and(decimal) {
                    stop = digits(stop + 1 + sign, decimal);
                }
            }
        }
        if stop > whole {
            let value = rest[..stop].replace('_', "").parse::<f64>();
            self.push(Kind::Float(value.map_err(Error::invalid)?));
            self.skip(stop);
            return Ok(());
        }
        let (radix, ok): (u32, fn(&u8) -> bool) = match bytes {
            [b'0', b'x' | b'X', ..] => (16, u8::is_ascii_hexdigit),
            [b'0', b'o' | b'O', ..] => (8, |b| (b'0'..=b'7').contains(b)),
            [b'0', b'b' | b'B', ..] => (2, |b| matches!(b, b'0' | b'1')),
            _ => (10, decimal),
        };
        let from = if radix == 10 { 0 } else { 2 };
        let stop = digits(from, ok);
        let text = rest[from..stop].replace('_', "");
        match i128::from_str_radix(&text, radix) {
            Ok(n) => self.push(Kind::Int(n)),
            Err(_) => return self.fail(format_args!("{:?} is not a number", &rest[..stop])),
        }
        self.skip(stop);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = self.rest();
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.push(Kind::Str(text));
                self.skip(at + 1);
                return Ok(());
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some((at, c)) = chars.next() else { break };
            let simple = match c {
                '\n' => continue,
                '\\' | '\'' | '"' => Some(c),
                'a' => Some('\u{7}'),
                'b' => Some('\u{8}'),
                'f' => Some('\u{c}'),
                'n' => Some('\n'),
                'r' => Some('\r'),
                't' => Some('\t'),
                'v' => Some('\u{b}'),
                _ => None,
            };
            if let Some(c) = simple {
                text.push(c);
                continue;
            }
            let (from, most, radix, exact) = match c {
                'x' => (at + 1, 2, 16, true),
                'u' => (at + 1, 4, 16, true),
                'U' => (at + 1, 8, 16, true),
                '0'..='7' => (at, 3, 8, false),
                _ => {
                    text.push('\\');
                    text.push(c);
                    continue;
                }
            };
            let digits = rest[from..].chars().take(most);
            let digits: String = digits.take_while(|c| c.is_digit(radix)).collect();
            let code = u32::from_str_radix(&digits, radix).ok();
            match code.and_then(char::from_u32) {
                Some(c) if !exact || digits.len() == most => text.push(c),
                _ => return self.fail(format_args!("a string has a wrong escape: \\{c}{digits}")),
            }
            let passed = if exact {
                digits.len()
            } else {
                digits.len() - 1
            };
            if passed > 0 {
                chars.nth(passed - 1);
            }
        }
        self.fail("a string has no end")
    }
}

/// How long a `{% raw %}` tag is, if this is one.
fn raw_begin(tag: &str) -> Option<usize> {
    let inner = &tag[2..];
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let inner = trim_start(trim_start(inner).strip_prefix("raw")?);
    let after = match inner.strip_prefix("-%}") {
        Some(after) => trim_start(after),
        None => inner.strip_prefix("%}")?,
    };
    Some(tag.len() - after.len())
}

/// The error with a line of the template in front.
pub fn place(line: u32, e: Error) -> Error {
    match e.kind() {
        ErrorKind::Invalid | ErrorKind::Limit => e.at(format_args!("chat template: line {line}")),
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(source: &str) -> Vec<String> {
        let tokens = tokens(source).unwrap();
        let data = tokens.into_iter().filter_map(|t| match t.kind {
            Kind::Data(text) => Some(text),
            _ => None,
        });
        data.collect()
    }

    #[test]
    fn white_space_around_tags() {
        assert_eq!(data("a\n  {% x %}\n  b\n"), ["a\n", "  b"]);
        assert_eq!(data("a\n  {%+ x +%}\n  b"), ["a\n  ", "\n  b"]);
        assert_eq!(data("a \n {%- x -%}\n b"), ["a", "b"]);
        assert_eq!(data("  {{ x }}\n b"), ["  ", "\n b"]);
        assert_eq!(data("a {# c #}\n  {#- d -#} b"), ["a ", "b"]);
        assert_eq!(data("{% x %}\n {% y %}z"), ["z"]);
        assert_eq!(data("a{% x %} {% y %}z"), ["a", " ", "z"]);
        assert_eq!(
            data("{% raw %}{{ a }}\n {% endraw %}\nb\r\nc"),
            ["{{ a }}\n", "b\nc"]
        );
    }

    #[test]
    fn literals() {
        let kinds = |source: &str| -> Vec<Kind> {
            let all = tokens(&format!("{{{{{source}}}}}")).unwrap();
            all[1..all.len() - 2]
                .iter()
                .map(|t| t.kind.clone())
                .collect()
        };
        assert_eq!(
            kinds(r#" 'a\n\'\x41\u00e9\101\d' "#),
            [Kind::Str("a\n'Aé\u{41}\\d".into())]
        );
        assert_eq!(
            kinds("1_000 0x1f 1.5e3 2e1"),
            [
                Kind::Int(1000),
                Kind::Int(31),
                Kind::Float(1500.0),
                Kind::Float(20.0)
            ]
        );
        assert_eq!(kinds("{'a': {}}").len(), 6);
    }

    #[test]
    fn what_is_wrong_has_a_line() {
        for (source, part) in [
            ("a\n{{ 'b", "line 2: a string has no end"),
            ("{{ ] }}", "closes nothing"),
            ("\n\n{# x", "line 3: a comment has no end"),
            ("{% raw %}", "a raw block has no end"),
            ("{{ a", "ends inside a tag"),
            ("{{ '\\ud800' }}", "wrong escape"),
            ("{{ ? }}", "'?' is not expected"),
        ] {
            let e = tokens(source).unwrap_err();
            assert_eq!(e.exit_code(), 3);
            assert!(e.to_string().contains(part), "{e}");
        }
        assert_eq!(tokens(&"{{".repeat(5500)).unwrap_err().exit_code(), 5);
    }
}

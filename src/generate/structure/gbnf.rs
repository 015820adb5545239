//! GBNF, llama.cpp's language for grammars, written anew in Lark.
//!
//! ```text
//! rule     = name "::=" choices end-of-line
//! choices  = items { "|" items }        inside parentheses over several lines
//! item     = ( "literal" | [class] | [^class] | . | name | ( choices ) ) [ * | + | ? | {m} | {m,} | {m,n} ]
//! ```
//! Rules that do not come back to themselves become terminals, each one regular expression of its characters; the others become rules. As in Lark, where
//! two terminals may come next and one is the beginning of the other, the longer one is taken.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Parentheses inside parentheses; llguidance refuses more than 30 of its own.
const DEEPEST: usize = 24;
/// The rule that the whole text is.
const ROOT: &str = "root";

/// Whether a grammar is written in GBNF.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.contains("::=")
}

/// The same grammar in Lark.
///
/// # Errors
/// Invalid: what is no GBNF, with its line; a rule that is not defined or defined twice; no rule `root`. Limit: parentheses too deep.
pub(super) fn to_lark(text: &str) -> Result<String> {
    let rules = Parser::new(text).rules()?;
    if !rules.contains_key(ROOT) {
        return Err(Error::invalid(
            "the grammar has no rule root, expected root ::= ...",
        ));
    }
    let recursive = recursive(&rules);
    let numbers: BTreeMap<&str, usize> = rules.keys().map(String::as_str).zip(0..).collect();
    let name = |rule: &str| {
        let number = numbers.get(rule).copied().unwrap_or_default();
        match recursive.contains(&rule) {
            true => format!("r{number}"),
            false => format!("T{number}"),
        }
    };
    let mut out = format!("start: {}\n", name(ROOT));
    for (rule, (_, choices)) in &rules {
        let _ = write!(out, "{}: ", name(rule));
        write_choices(&mut out, choices, &name);
        out.push('\n');
    }
    Ok(out)
}

type Rules = BTreeMap<String, (usize, Choices)>;
type Choices = Vec<Vec<Item>>;

#[derive(Debug)]
struct Item {
    what: What,
    /// At least, at most.
    times: (u32, Option<u32>),
}

#[derive(Debug)]
enum What {
    Literal(String),
    /// A regular expression of one character.
    Class(String),
    Rule(String, usize),
    Group(Choices),
}

fn references<'r>(choices: &'r Choices, found: &mut Vec<(&'r str, usize)>) {
    for item in choices.iter().flatten() {
        match &item.what {
            What::Rule(name, line) => found.push((name, *line)),
            What::Group(choices) => references(choices, found),
            What::Literal(_) | What::Class(_) => {}
        }
    }
}

/// The rules that lead to themselves, or to one that does: what is left after taking away, again and again, all rules that use none of the rest.
fn recursive(rules: &Rules) -> Vec<&str> {
    let mut left: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, (_, choices)) in rules {
        let mut used = Vec::new();
        references(choices, &mut used);
        left.insert(name, used.into_iter().map(|(name, _)| name).collect());
    }
    loop {
        let known: Vec<&str> = left.keys().copied().collect();
        left.retain(|_, used| {
            used.retain(|name| known.binary_search(name).is_ok());
            !used.is_empty()
        });
        if left.len() == known.len() {
            return known;
        }
    }
}

fn write_choices(out: &mut String, choices: &Choices, name: &impl Fn(&str) -> String) {
    for (i, items) in choices.iter().enumerate() {
        out.push_str(if i > 0 { " | " } else { "" });
        if items.is_empty() {
            out.push_str("\"\"");
        }
        for (j, item) in items.iter().enumerate() {
            out.push_str(if j > 0 { " " } else { "" });
            match &item.what {
                What::Literal(text) => {
                    let _ = write!(out, "{}", serde_json::Value::from(text.as_str()));
                }
                What::Class(class) => {
                    let _ = write!(out, "/{class}/");
                }
                What::Rule(rule, _) => out.push_str(&name(rule)),
                What::Group(choices) => {
                    out.push('(');
                    write_choices(out, choices, name);
                    out.push(')');
                }
            }
            let _ = match item.times {
                (1, Some(1)) => Ok(()),
                (0, None) => write!(out, "*"),
                (1, None) => write!(out, "+"),
                (0, Some(1)) => write!(out, "?"),
                (m, None) => write!(out, "{{{m},}}"),
                (m, Some(n)) => write!(out, "{{{m},{n}}}"),
            };
        }
    }
}

struct Parser<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        Parser {
            rest: text.chars().peekable(),
            line: 1,
        }
    }

    fn wrong<T>(&mut self, expected: &str) -> Result<T> {
        let found = match self.peek() {
            Some(c) => format!("{c:?}"),
            None => "the end".to_owned(),
        };
        Err(Error::invalid(format_args!(
            "line {} of the grammar: {found}, expected {expected}",
            self.line
        )))
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    fn take(&mut self, c: char) -> bool {
        let is_next = self.peek() == Some(c);
        if is_next {
            self.next();
        }
        is_next
    }

    /// White space and comments; line ends only where they mean nothing.
    fn space(&mut self, lines: bool) {
        loop {
            match self.peek() {
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                Some(' ' | '\t' | '\r') => {
                    self.next();
                }
                Some('\n') if lines => {
                    self.next();
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<String> {
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|&c| is_name(c)) {
            name.push(c);
            self.next();
        }
        match name.is_empty() {
            true => self.wrong("the name of a rule"),
            false => Ok(name),
        }
    }

    fn rules(mut self) -> Result<Rules> {
        let mut rules = Rules::new();
        self.space(true);
        while self.peek().is_some() {
            let line = self.line;
            let name = self.name()?;
            self.space(false);
            if ![':', ':', '='].into_iter().all(|c| self.take(c)) {
                return self.wrong("::= behind the name of a rule");
            }
            self.space(true);
            let choices = self.choices(0)?;
            if !matches!(self.peek(), None | Some('\n')) {
                return self
                    .wrong("a literal, a class, a rule, parentheses, | or the end of the line");
            }
            self.space(true);
            if let Some((first, _)) = rules.insert(name.clone(), (line, choices)) {
                return Err(Error::invalid(format_args!(
                    "line {line} of the grammar: rule {name:?} is defined again, first in line {first}"
                )));
            }
        }
        for (_, choices) in rules.values() {
            let mut used = Vec::new();
            references(choices, &mut used);
            if let Some((name, line)) = used.iter().find(|(name, _)| !rules.contains_key(*name)) {
                return Err(Error::invalid(format_args!(
                    "line {line} of the grammar: rule {name:?} is not defined"
                )));
            }
        }
        Ok(rules)
    }

    fn choices(&mut self, depth: usize) -> Result<Choices> {
        if depth > DEEPEST {
            return Err(Error::limit(format_args!(
                "line {} of the grammar: more than {DEEPEST} parentheses inside each other",
                self.line
            )));
        }
        let nested = depth > 0;
        let mut choices = vec![self.items(depth)?];
        while self.take('|') {
            self.space(true);
            choices.push(self.items(depth)?);
        }
        self.space(nested);
        Ok(choices)
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        loop {
            self.space(depth > 0);
            let what = match self.peek() {
                Some('"') => What::Literal(self.literal()?),
                Some('[') => What::Class(self.class()?),
                Some('.') => {
                    self.next();
                    What::Class("[\\x{0}-\\x{10FFFF}]".to_owned())
                }
                Some('(') => {
                    self.next();
                    let choices = self.choices(depth + 1)?;
                    if !self.take(')') {
                        return self.wrong(")");
                    }
                    What::Group(choices)
                }
                Some(c) if is_name(c) => {
                    let line = self.line;
                    What::Rule(self.name()?, line)
                }
                _ => return Ok(items),
            };
            self.space(depth > 0);
            let times = self.times()?;
            items.push(Item { what, times });
        }
    }

    fn times(&mut self) -> Result<(u32, Option<u32>)> {
        let times = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.next();
                let least = self.number()?;
                let most = match self.take(',') {
                    true if self.peek() == Some('}') => None,
                    true => Some(self.number()?),
                    false => Some(least),
                };
                if self.peek() != Some('}') || most.is_some_and(|most| most < least) {
                    return self.wrong("{m}, {m,} or {m,n} with m at most n");
                }
                (least, most)
            }
            _ => return Ok((1, Some(1))),
        };
        self.next();
        Ok(times)
    }

    fn number(&mut self) -> Result<u32> {
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.next();
        }
        match digits.parse() {
            Ok(n) => Ok(n),
            Err(_) => self.wrong("a number of repetitions"),
        }
    }

    fn literal(&mut self) -> Result<String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return self.wrong("\" at the end of a literal"),
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some(_) => text.push(self.character()?),
            }
        }
    }

    fn class(&mut self) -> Result<String> {
        self.next();
        let mut class = String::from("[");
        if self.take('^') {
            class.push('^');
        }
        let empty = class.len();
        loop {
            match self.peek() {
                None | Some('\n') => return self.wrong("] at the end of a class"),
                Some(']') => break,
                Some(_) => {}
            }
            let from = self.character()?;
            let _ = write!(class, "\\x{{{:x}}}", u32::from(from));
            // A sign before the end of the class is itself.
            let mut ahead = self.rest.clone();
            let range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
            if range {
                self.next();
                let to = self.character()?;
                if to < from {
                    return self.wrong("a range of a class in ascending order");
                }
                let _ = write!(class, "-\\x{{{:x}}}", u32::from(to));
            }
        }
        if class.len() == empty {
            return self.wrong("something in a class");
        }
        self.next();
        class.push(']');
        Ok(class)
    }

    fn character(&mut self) -> Result<char> {
        if !self.take('\\') {
            return match self.next() {
                Some(c) => Ok(c),
                None => self.wrong("a character"),
            };
        }
        let plain = match self.peek() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => c,
            Some('x') => return self.hex(2),
            Some('u') => return self.hex(4),
            Some('U') => return self.hex(8),
            _ => return self.wrong("n, r, t, \\, \", [, ], x, u or U behind \\"),
        };
        self.next();
        Ok(plain)
    }

    fn hex(&mut self, digits: usize) -> Result<char> {
        self.next();
        let mut value = 0u32;
        for _ in 0..digits {
            match self.peek().and_then(|c| c.to_digit(16)) {
                Some(digit) => value = value << 4 | digit,
                None => return self.wrong("a hexadecimal digit"),
            }
            self.next();
        }
        match char::from_u32(value) {
            Some(c) => Ok(c),
            None => self.wrong("the number of a character"),
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_terminals_unless_they_come_back() {
        let lark = to_lark(
            "# a list\nroot ::= list ws\nlist ::= \"[\" ( item (\", \" item)* )? \"]\"\n\
             item ::= list | word{2,3} |\n  [^a-c\\]-]+\nword ::= \"a\\\"b\\x41\\u00e9\" .\nws ::= | \" \"\n",
        );
        let expected = concat!(
            "start: r2\n",
            "r0: r1 | T3{2,3} | /[^\\x{61}-\\x{63}\\x{5d}\\x{2d}]/+\n",
            "r1: \"[\" (r0 (\", \" r0)*)? \"]\"\n",
            "r2: r1 T4\n",
            "T3: \"a\\\"bA\u{e9}\" /[\\x{0}-\\x{10FFFF}]/\n",
            "T4: \"\" | \" \"\n",
        );
        assert_eq!(lark.unwrap(), expected);
        assert!(is_gbnf("root ::= x") && !is_gbnf("start: \"x\""));
    }

    #[test]
    fn what_is_no_gbnf_is_named_with_its_line() {
        for (text, parts) in [
            ("x ::= \"a\"", ["no rule root", ""]),
            ("root ::= y", ["line 1", "\"y\" is not defined"]),
            (
                "root ::= \"a\"\n\nroot ::= \"b\"",
                ["line 3", "first in line 1"],
            ),
            ("root ::= \"a", ["line 1", "end of a literal"]),
            ("root ::= [a", ["the end", "end of a class"]),
            ("root ::= []", ["']'", "something in a class"]),
            ("root ::= [b-a]", ["line 1", "ascending"]),
            ("root ::= (\"a\"", ["the end", "expected )"]),
            ("root ::= \"a\" )", ["')'", "the end of the line"]),
            ("root ::= \"a\"{3,2}", ["line 1", "m at most n"]),
            ("root ::= \"a\"{99999999999}", ["line 1", "repetitions"]),
            ("root = \"a\"", ["'='", "::="]),
            ("root ::= \"\\q\"", ["'q'", "behind \\"]),
            ("root ::= \"\\ud800\"", ["line 1", "number of a character"]),
        ] {
            let e = to_lark(text).unwrap_err();
            assert_eq!(e.exit_code(), 3, "{e}");
            for part in parts {
                assert!(e.to_string().contains(part), "{part:?} in {e}");
            }
        }
        let deep = format!(
            "root ::= {}\"a\"{}",
            "(".repeat(100_000),
            ")".repeat(100_000)
        );
        assert_eq!(to_lark(&deep).unwrap_err().exit_code(), 5);
    }
}

//! A Rust file as tokens, enough to check what it names: comments are dropped, literals are kept apart, tests are marked.
//!
//! This is not a parser. It knows nested comments, raw and byte strings, and a character from a lifetime; the rest is words and
//! single punctuation characters.

use std::path::{Path, PathBuf};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// One character of punctuation.
    Mark,
    /// The contents of a string literal.
    Text,
}

/// One token.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its characters; of a literal, what is between the quotes.
    pub text: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// How many inline modules it lies in (`mod tests {` adds one).
    pub depth: usize,
    /// Whether it lies in a `#[cfg(test)]` module.
    pub in_test: bool,
}

/// A file of a crate.
#[derive(Debug)]
pub struct Source {
    /// Path from the folder that was searched, with `/`.
    pub name: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
}

/// Every `.rs` file below `folder`, in order of name.
pub fn files(folder: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    collect(folder, &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file is readable text");
        let name = path.strip_prefix(folder).expect("found below the folder");
        Source {
            name: name.to_str().expect("a plain name").replace('\\', "/"),
            tokens: tokens(&text),
        }
    };
    found.into_iter().map(read).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("a folder entry is readable").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The tokens of a file.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = raw_tokens(text);
    mark_modules(&mut tokens);
    tokens
}

fn raw_tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        let c = at(i);
        let mut token = None;
        if c.is_whitespace() {
            i += 1;
        } else if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut open = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (open, i) = (open + 1, i + 2),
                    ('*', '/') => (open, i) = (open - 1, i + 2),
                    _ => i += 1,
                }
                if open == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if let Some((body, end)) = string(&chars, i) {
            i = end;
            token = Some((Kind::Text, chars[body].iter().collect()));
        } else if c == '\'' {
            // 'a' and '\n' are characters, 'a without a second quote is a lifetime.
            i += if at(i + 1) == '\\' {
                3
            } else if at(i + 2) == '\'' {
                2
            } else {
                1
            };
            while at(start + 1) == '\\' && i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += usize::from(at(i) == '\'');
        } else if c.is_alphanumeric() || c == '_' {
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            token = Some((Kind::Word, chars[start..i].iter().collect()));
        } else {
            i += 1;
            token = Some((Kind::Mark, c.to_string()));
        }
        if let Some((kind, text)) = token {
            tokens.push(Token {
                kind,
                text,
                line,
                depth: 0,
                in_test: false,
            });
        }
        line += chars[start..i.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    tokens
}

/// The string literal that starts at `i`: the range of its contents and where it ends.
fn string(chars: &[char], i: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut j = i;
    if at(j) == 'b' || at(j) == 'c' {
        j += 1;
    }
    let raw = at(j) == 'r' && (at(j + 1) == '"' || at(j + 1) == '#');
    let mut hashes = 0;
    if raw {
        j += 1;
        while at(j) == '#' {
            (hashes, j) = (hashes + 1, j + 1);
        }
    }
    if at(j) != '"' {
        return None;
    }
    let start = j + 1;
    j = start;
    while j < chars.len() {
        if at(j) == '\\' && !raw {
            j += 2;
        } else if at(j) == '"' && (1..=hashes).all(|h| at(j + h) == '#') {
            return Some((start..j, j + 1 + hashes));
        } else {
            j += 1;
        }
    }
    Some((start..chars.len(), chars.len()))
}

/// Fills in `depth` and `in_test`.
fn mark_modules(tokens: &mut [Token]) {
    /// An open brace, and what it opened.
    struct Open {
        module: bool,
        test: bool,
    }
    let mut open: Vec<Open> = Vec::new();
    for i in 0..tokens.len() {
        tokens[i].depth = open.iter().filter(|o| o.module).count();
        tokens[i].in_test = open.iter().any(|o| o.test);
        if tokens[i].kind != Kind::Mark {
            continue;
        }
        if tokens[i].text == "{" {
            let module = i >= 2 && tokens[i - 2].text == "mod" && tokens[i - 1].kind == Kind::Word;
            let ends = |t: &Token| t.kind == Kind::Mark && ["{", "}", ";"].contains(&&*t.text);
            let item = tokens[..i].iter().rposition(ends).map_or(0, |end| end + 1);
            let cfg_test: Vec<&str> = tokens[item..i].iter().map(|t| t.text.as_str()).collect();
            let test = module
                && cfg_test
                    .windows(7)
                    .any(|w| w == ["#", "[", "cfg", "(", "test", ")", "]"]);
            open.push(Open { module, test });
        } else if tokens[i].text == "}" {
            open.pop();
        }
    }
}

#[test]
fn tokens_skip_comments_and_keep_literals_apart() {
    let text = r####"
        // crate::a in a line comment
        /* crate::b /* nested */ still */
        use crate::error; fn f<'a>(c: char) -> &'a str { if c == '"' || c == '\'' { "crate::c \" x" } else { r#"y " z"# } }
        #[cfg(test)]
        mod tests { mod inner { fn g() {} } }
    "####;
    let tokens = tokens(text);
    let words = |kind: Kind| -> Vec<&str> {
        tokens
            .iter()
            .filter(|t| t.kind == kind)
            .map(|t| t.text.as_str())
            .collect()
    };
    assert_eq!(words(Kind::Text), ["crate::c \\\" x", "y \" z"]);
    assert_eq!(
        words(Kind::Word)[..4],
        ["use", "crate", "error", "fn"],
        "comments are not code"
    );
    let g = tokens.iter().find(|t| t.text == "g").unwrap();
    assert_eq!((g.depth, g.in_test, g.line), (2, true, 6));
    let f = tokens.iter().find(|t| t.text == "f").unwrap();
    assert_eq!((f.depth, f.in_test, f.line), (0, false, 4));
}

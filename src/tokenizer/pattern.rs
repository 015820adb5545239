//! The patterns that cut a text into words, and a small matcher for them.
//!
//! Split patterns of language models are alternations of short sequences of repeated character classes. Those are compiled
//! to classes with constant-time membership and matched by a backtracker that is linear on them: a class is not given back
//! to a following class that is disjoint from it, and a failed run is not tried again from inside itself. Every match has a
//! budget proportional to the text, so that a hostile pattern ends in a limit error. Patterns with other constructs run on
//! `fancy-regex` under its backtrack limit.

use super::definition::Pattern;
use super::unicode::CharSet;
use crate::error::{Error, Result};

/// Longest accepted expression in bytes: published ones stay below 4 KiB.
const MAX_PATTERN: usize = 32 << 10;
/// Deepest nesting of groups.
const MAX_DEPTH: usize = 16;
/// Steps of the own matcher per byte of text; published patterns need fewer than 10.
const STEPS_PER_BYTE: usize = 256;
/// Backtracks of `fancy-regex` for one search: a fraction of a second.
const BACKTRACK_LIMIT: usize = 4_000_000;

/// A compiled pattern.
#[derive(Debug)]
pub enum Matcher {
    /// The text itself.
    Literal(String),
    /// A pattern of repeated classes.
    Classes(Box<Program>),
    /// Any other expression.
    Fancy(Box<fancy_regex::Regex>),
}

impl Matcher {
    /// Compiles a pattern.
    pub fn new(pattern: &Pattern) -> Result<Self> {
        let text = match pattern {
            Pattern::String(s) => return Ok(Matcher::Literal(s.clone())),
            Pattern::Regex(text) => text,
        };
        if text.len() > MAX_PATTERN {
            return Err(Error::invalid(format_args!(
                "a split pattern of {} bytes is longer than {MAX_PATTERN}",
                text.len()
            )));
        }
        if let Some(p) = Program::compile(text) {
            return Ok(Matcher::Classes(Box::new(p)));
        }
        fancy_regex::RegexBuilder::new(text)
            .backtrack_limit(BACKTRACK_LIMIT)
            .build()
            .map(|r| Matcher::Fancy(Box::new(r)))
            .map_err(|e| {
                Error::invalid(format_args!(
                    "the split pattern {text:?} is not a regular expression: {}",
                    one_line(&e.to_string())
                ))
            })
    }

    /// Calls `found` with the byte range of every match in `text`, from left to right.
    pub fn find_all(
        &self,
        text: &str,
        mut found: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        match self {
            Matcher::Literal(s) if s.is_empty() => Ok(()),
            Matcher::Literal(s) => text
                .match_indices(s.as_str())
                .try_for_each(|(i, m)| found(i, i + m.len())),
            Matcher::Classes(p) => p.find_all(text, found),
            Matcher::Fancy(r) => r.find_iter(text).try_for_each(|m| {
                let m = m.map_err(|e| {
                    Error::limit(format_args!(
                        "the split pattern gave up on a text of {} bytes: {}",
                        text.len(),
                        one_line(&e.to_string())
                    ))
                })?;
                found(m.start(), m.end())
            }),
        }
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[derive(Debug)]
enum Node {
    /// Between `min` and `max` characters of a set, as many as possible.
    Set {
        set: usize,
        min: usize,
        max: usize,
        possessive: bool,
    },
    /// One of several sequences, or nothing if `optional`.
    Group {
        alternatives: Vec<Vec<Node>>,
        optional: bool,
    },
    /// The next character exists and is (not) in a set; `(?!x)` also holds at the end of the text.
    Ahead { set: usize, positive: bool },
    /// The end of the text, or also before a newline.
    End { multiline: bool },
}

/// A pattern of repeated classes.
#[derive(Debug)]
pub struct Program {
    sets: Vec<CharSet>,
    alternatives: Vec<Vec<Node>>,
    /// Per ASCII character: which alternatives can begin with it (bit 31: all from there on).
    first: [u32; 128],
}

/// What follows a sequence inside a group.
struct Next<'a> {
    nodes: &'a [Node],
    next: Option<&'a Next<'a>>,
}

struct OutOfSteps;

impl Program {
    /// Compiles `text`, or returns `None` when it holds a construct this matcher does not know.
    pub fn compile(text: &str) -> Option<Self> {
        let mut parser = Parser {
            chars: text.chars().collect(),
            at: 0,
            sets: Vec::new(),
            names: Vec::new(),
        };
        let mut alternatives = parser.alternation(false, 0)?;
        if parser.at != parser.chars.len() || alternatives.iter().any(|a| may_be_empty(a)) {
            return None;
        }
        for a in &mut alternatives {
            make_possessive(a, &parser.sets);
        }
        let mut first = [0u32; 128];
        for (i, a) in alternatives.iter().enumerate() {
            let mut set = 0u128;
            first_ascii(a, &parser.sets, &mut set);
            for (c, mask) in first.iter_mut().enumerate() {
                if set >> c & 1 == 1 {
                    *mask |= 1 << i.min(31);
                }
            }
        }
        Some(Program {
            sets: parser.sets,
            alternatives,
            first,
        })
    }

    fn find_all(
        &self,
        text: &str,
        mut found: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let mut steps = text.len().saturating_mul(STEPS_PER_BYTE) + 4096;
        // Per alternative: it fails at every start before this position.
        let mut dead = vec![0usize; self.alternatives.len()];
        let bytes = text.as_bytes();
        let mut at = 0;
        'next: while at < bytes.len() {
            let mask = match bytes[at] {
                b if b < 128 => self.first[b as usize],
                _ => u32::MAX,
            };
            for (i, nodes) in self.alternatives.iter().enumerate() {
                if mask >> i.min(31) & 1 == 0 || at < dead[i] {
                    continue;
                }
                match self.run(nodes, None, text, at, &mut steps) {
                    Ok(Some(end)) if end > at => {
                        found(at, end)?;
                        at = end;
                        continue 'next;
                    }
                    Ok(_) => {
                        if let Some(Node::Set {
                            set,
                            min: 0..=1,
                            max: usize::MAX,
                            ..
                        }) = nodes.first()
                        {
                            // Any start inside this run can only reach positions that have just failed.
                            dead[i] = self.end_of_run(*set, text, at);
                        }
                    }
                    Err(OutOfSteps) => {
                        return Err(Error::limit(format_args!(
                            "the split pattern gave up on a text of {} bytes",
                            text.len()
                        )));
                    }
                }
            }
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        Ok(())
    }

    fn end_of_run(&self, set: usize, text: &str, at: usize) -> usize {
        let set = &self.sets[set];
        text[at..]
            .char_indices()
            .find(|&(_, c)| !set.contains(c))
            .map_or(text.len(), |(i, _)| at + i)
    }

    /// The end of the first match of `nodes`, then `next`, at `at`. Recursion is as deep as the pattern is long.
    fn run(
        &self,
        nodes: &[Node],
        next: Option<&Next>,
        text: &str,
        at: usize,
        steps: &mut usize,
    ) -> Result<Option<usize>, OutOfSteps> {
        let Some((node, rest)) = nodes.split_first() else {
            return match next {
                None => Ok(Some(at)),
                Some(n) => self.run(n.nodes, n.next, text, at, steps),
            };
        };
        *steps = steps.checked_sub(1).ok_or(OutOfSteps)?;
        match node {
            Node::Set {
                set,
                min,
                max,
                possessive,
            } => {
                let set = &self.sets[*set];
                let mut count = 0;
                let mut end = at;
                for c in text[at..].chars() {
                    if count == *max || !set.contains(c) {
                        break;
                    }
                    count += 1;
                    end += c.len_utf8();
                }
                *steps = steps.checked_sub(count).ok_or(OutOfSteps)?;
                if count < *min {
                    return Ok(None);
                }
                if rest.is_empty() && next.is_none() {
                    return Ok(Some(end));
                }
                loop {
                    if let Some(m) = self.run(rest, next, text, end, steps)? {
                        return Ok(Some(m));
                    }
                    if *possessive || count == *min {
                        return Ok(None);
                    }
                    count -= 1;
                    end -= text[..end].chars().next_back().map_or(1, char::len_utf8);
                }
            }
            Node::Group {
                alternatives,
                optional,
            } => {
                let then = Next { nodes: rest, next };
                for a in alternatives {
                    if let Some(m) = self.run(a, Some(&then), text, at, steps)? {
                        return Ok(Some(m));
                    }
                }
                if *optional {
                    self.run(rest, next, text, at, steps)
                } else {
                    Ok(None)
                }
            }
            Node::Ahead { set, positive } => {
                let found = text[at..]
                    .chars()
                    .next()
                    .is_some_and(|c| self.sets[*set].contains(c));
                if found == *positive {
                    self.run(rest, next, text, at, steps)
                } else {
                    Ok(None)
                }
            }
            Node::End { multiline } => {
                if at == text.len() || *multiline && text.as_bytes()[at] == b'\n' {
                    self.run(rest, next, text, at, steps)
                } else {
                    Ok(None)
                }
            }
        }
    }
}

fn may_be_empty(nodes: &[Node]) -> bool {
    nodes.iter().all(|n| match n {
        Node::Set { min, .. } => *min == 0,
        Node::Group {
            alternatives,
            optional,
        } => *optional || alternatives.iter().any(|a| may_be_empty(a)),
        Node::Ahead { .. } | Node::End { .. } => true,
    })
}

/// A run that is followed by a character its set does not hold need not be given back.
fn make_possessive(nodes: &mut [Node], sets: &[CharSet]) {
    for i in 0..nodes.len() {
        let follower = match nodes.get(i + 1) {
            Some(Node::Set { set, min: 1.., .. }) => Some(*set),
            _ => None,
        };
        match &mut nodes[i] {
            Node::Set {
                set, possessive, ..
            } if follower.is_some_and(|f| sets[*set].is_disjoint(&sets[f])) => {
                *possessive = true;
            }
            Node::Group { alternatives, .. } => {
                for a in alternatives {
                    make_possessive(a, sets);
                }
            }
            _ => {}
        }
    }
}

/// Adds the ASCII characters `nodes` can begin with; true if it can go on without consuming any.
fn first_ascii(nodes: &[Node], sets: &[CharSet], out: &mut u128) -> bool {
    for n in nodes {
        match n {
            Node::Set { set, min, .. } => {
                *out |= sets[*set].ascii();
                if *min > 0 {
                    return false;
                }
            }
            Node::Group {
                alternatives,
                optional,
            } => {
                let mut through = *optional;
                for a in alternatives {
                    through |= first_ascii(a, sets, out);
                }
                if !through {
                    return false;
                }
            }
            Node::Ahead { .. } | Node::End { .. } => {}
        }
    }
    true
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    sets: Vec<CharSet>,
    names: Vec<String>,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn eat(&mut self, text: &str) -> bool {
        let n = text.chars().count();
        let found = self
            .chars
            .get(self.at..self.at + n)
            .is_some_and(|s| s.iter().copied().eq(text.chars()));
        if found {
            self.at += n;
        }
        found
    }

    fn alternation(&mut self, fold: bool, depth: usize) -> Option<Vec<Vec<Node>>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut out = vec![self.sequence(fold, depth)?];
        while self.eat("|") {
            out.push(self.sequence(fold, depth)?);
        }
        Some(out)
    }

    fn sequence(&mut self, fold: bool, depth: usize) -> Option<Vec<Node>> {
        let mut out = Vec::new();
        while let Some(c) = self.peek() {
            if c == '|' || c == ')' {
                break;
            }
            let node = self.item(fold, depth)?;
            out.push(node);
        }
        Some(out)
    }

    fn item(&mut self, fold: bool, depth: usize) -> Option<Node> {
        if self.eat("(?m:$)") {
            return Some(Node::End { multiline: true });
        }
        if self.eat("$") {
            return Some(Node::End { multiline: false });
        }
        for (open, positive) in [("(?!", false), ("(?=", true)] {
            if self.eat(open) {
                let set = self.set(fold)?;
                return self.eat(")").then_some(Node::Ahead { set, positive });
            }
        }
        if self.peek() == Some('(') {
            let fold = if self.eat("(?i:") {
                true
            } else if self.eat("(?:") {
                fold
            } else {
                self.at += 1;
                if self.peek() == Some('?') {
                    return None;
                }
                fold
            };
            let alternatives = self.alternation(fold, depth + 1)?;
            if !self.eat(")") {
                return None;
            }
            return match self.quantifier()? {
                (1, 1, _) => Some(Node::Group {
                    alternatives,
                    optional: false,
                }),
                (0, 1, false) => Some(Node::Group {
                    alternatives,
                    optional: true,
                }),
                _ => None,
            };
        }
        let set = self.set(fold)?;
        let (min, max, possessive) = self.quantifier()?;
        Some(Node::Set {
            set,
            min,
            max,
            possessive,
        })
    }

    /// One character, escape or bracket class, as an index into `sets`.
    fn set(&mut self, fold: bool) -> Option<usize> {
        let start = self.at;
        match self.peek()? {
            '[' => self.bracket(0)?,
            '\\' => {
                self.at += 1;
                let c = self.peek()?;
                self.at += 1;
                match c {
                    'p' | 'P' => {
                        if self.peek() == Some('{') {
                            while self.peek()? != '}' {
                                self.at += 1;
                            }
                        }
                        self.at += 1;
                    }
                    's' | 'S' | 'd' | 'D' | 'w' | 'W' | 'r' | 'n' | 't' | 'f' | 'v' => {}
                    c if c.is_ascii_alphanumeric() => return None,
                    _ => {}
                }
            }
            '.' | '^' | '*' | '+' | '?' | '{' | '}' | ')' | '|' => return None,
            _ => self.at += 1,
        }
        let mut name: String = self.chars.get(start..self.at)?.iter().collect();
        if fold {
            name = format!("(?i){name}");
        }
        if let Some(i) = self.names.iter().position(|n| *n == name) {
            return Some(i);
        }
        // A bound on memory: each set has a bitmap of 8 KiB.
        if self.sets.len() >= 256 {
            return None;
        }
        self.sets.push(CharSet::parse(&name).ok()?);
        self.names.push(name);
        Some(self.sets.len() - 1)
    }

    fn bracket(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.at += 1;
        if self.peek() == Some('^') {
            self.at += 1;
        }
        if self.peek() == Some(']') {
            self.at += 1;
        }
        loop {
            match self.peek()? {
                ']' => {
                    self.at += 1;
                    return Some(());
                }
                '[' => self.bracket(depth + 1)?,
                '\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    /// Minimum, maximum and whether it is possessive; lazy ones are not known here.
    fn quantifier(&mut self) -> Option<(usize, usize, bool)> {
        let (min, max) = if self.eat("?") {
            (0, 1)
        } else if self.eat("*") {
            (0, usize::MAX)
        } else if self.eat("+") {
            (1, usize::MAX)
        } else if self.peek() == Some('{') {
            self.at += 1;
            let min = self.number()?;
            let max = if self.eat(",") {
                if self.peek() == Some('}') {
                    usize::MAX
                } else {
                    self.number()?
                }
            } else {
                min
            };
            if !self.eat("}") || max < min {
                return None;
            }
            (min, max)
        } else {
            return Some((1, 1, false));
        };
        if self.peek() == Some('?') {
            return None;
        }
        Some((min, max, self.eat("+")))
    }

    fn number(&mut self) -> Option<usize> {
        let start = self.at;
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        let text: String = self.chars[start..self.at].iter().collect();
        text.parse::<usize>().ok().filter(|&n| n <= 1 << 20)
    }
}

/// Rewrites the parts of an Oniguruma expression (Ruby syntax) that mean something else to the matchers here: `^` and `$`
/// also match at line ends, and `{m,n}+` repeats the interval instead of being possessive.
pub fn from_oniguruma(text: &str) -> Result<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut class = 0usize;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        match c {
            '\\' => {
                out.push(c);
                i += 1;
                if let Some(&e) = chars.get(i) {
                    match e {
                        'h' | 'H' | 'R' | 'X' | 'K' | 'O' | 'N' | 'y' | 'Y' | 'Z' => {
                            return Err(Error::invalid(format_args!(
                                "the escape \\{e} in the split pattern {text:?} is not supported"
                            )));
                        }
                        _ => out.push(e),
                    }
                }
            }
            '[' => {
                class += 1;
                out.push(c);
            }
            ']' if class > 0 => {
                class -= 1;
                out.push(c);
            }
            '$' if class == 0 => out.push_str("(?m:$)"),
            '^' if class == 0 => out.push_str("(?m:^)"),
            '{' if class == 0 && !out.ends_with("\\p") && !out.ends_with("\\P") => {
                let close = chars[i..].iter().position(|&c| c == '}').map(|n| i + n);
                let body: String =
                    close.map_or(String::new(), |e| chars[i + 1..e].iter().collect());
                let again = close.is_some_and(|e| chars.get(e + 1) == Some(&'+'));
                let low = body.split(',').next().and_then(|n| n.parse::<u32>().ok());
                match (close, again, low) {
                    (Some(e), true, Some(low @ 0..=1)) => {
                        out.push_str(&format!("{{{low},}}"));
                        i = e + 1;
                    }
                    (Some(_), true, Some(_)) => {
                        return Err(Error::invalid(format_args!(
                            "the quantifier {{{body}}}+ in the split pattern {text:?} is not supported"
                        )));
                    }
                    _ => out.push(c),
                }
            }
            _ => out.push(c),
        }
        i += 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Split patterns of published tokenizers.
    const KNOWN: &[&str] = &[
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        "[一-龥\u{3040}-ゟ゠-ヿ]+",
        r"[\p{P}\$\+<=>\^~\|`]+",
        r" ?[^(\s|.,!?…。，、।۔،)]+",
        r"[^(\s|[.,!?…。，、।۔،])]+",
        r"\s?\p{L}+",
        r"\s+$",
        r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?|\p{N}{1,3}|\s+(?!\S)|\s+",
        r"(a|bc){1}d|x{2,4}y?",
    ];

    fn found(m: &Matcher, text: &str) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        m.find_all(text, |a, b| {
            out.push((a, b));
            Ok(())
        })
        .unwrap();
        out
    }

    /// A small generator: the same texts in every run.
    fn texts() -> Vec<String> {
        let alphabet: Vec<char> = "aAbcdxyzZsSſTtdD'’lLvVrReEmM019٣²  \t\n\r\u{85}\u{a0}\u{3000}.,!?…。()[]{}<>|$+^~`\"#/\\-_@éÉ\u{301}ßǅªかカ中文한ۃा\u{200d}😀𝔸\u{10400}"
            .chars()
            .collect();
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut next = move |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        };
        (0..400)
            .map(|_| {
                let mut text = String::new();
                for _ in 0..next(30) {
                    let c = alphabet[next(alphabet.len())];
                    for _ in 0..1 + next(4) * next(2) {
                        text.push(c);
                    }
                }
                text
            })
            .collect()
    }

    #[test]
    fn published_patterns_run_on_the_own_matcher_and_match_like_regular_expressions() {
        let texts = texts();
        for p in KNOWN {
            let m = Matcher::new(&Pattern::Regex((*p).into())).unwrap();
            assert!(matches!(m, Matcher::Classes(_)), "{p}");
            let reference = fancy_regex::Regex::new(p).unwrap();
            for t in &texts {
                let want: Vec<(usize, usize)> = reference
                    .find_iter(t)
                    .map(|m| m.map(|m| (m.start(), m.end())).unwrap())
                    .collect();
                assert_eq!(found(&m, t), want, "{p} on {t:?}");
            }
        }
    }

    #[test]
    fn other_patterns_go_to_the_general_engine() {
        for p in [
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r"\bx",
            "(ab)+",
            "a*?b",
            r"(?<!x)y",
            "x*",
        ] {
            let m = Matcher::new(&Pattern::Regex(p.into())).unwrap();
            assert!(matches!(m, Matcher::Fancy(_)), "{p}");
        }
        let m = Matcher::new(&Pattern::Regex(r"\d{1,3}(?=(?:\d{3})*\b)".into())).unwrap();
        assert_eq!(found(&m, "1234567"), [(0, 1), (1, 4), (4, 7)]);
        assert!(Matcher::new(&Pattern::Regex("(".into())).is_err());
        assert!(Matcher::new(&Pattern::Regex("a".repeat(MAX_PATTERN + 1))).is_err());
    }

    #[test]
    fn a_run_that_fails_is_not_tried_from_its_inside() {
        // Quadratic otherwise: the budget would run out.
        let m = Matcher::new(&Pattern::Regex(r"\s+$".into())).unwrap();
        let text = " ".repeat(1 << 20) + "x";
        assert_eq!(found(&m, &text), []);
    }

    #[test]
    fn a_pattern_that_explodes_runs_out_of_steps() {
        let p = r"a*a*a*a*a*b";
        let m = Matcher::new(&Pattern::Regex(p.into())).unwrap();
        assert!(matches!(m, Matcher::Classes(_)));
        let e = m.find_all(&"a".repeat(3000), |_, _| Ok(())).unwrap_err();
        assert_eq!(e.exit_code(), 5, "{e}");
    }

    #[test]
    fn oniguruma_is_rewritten_where_it_means_something_else() {
        let ok = |p: &str| from_oniguruma(p).unwrap();
        assert_eq!(ok(r"\s+$|^a"), r"\s+(?m:$)|(?m:^)a");
        assert_eq!(ok(r"[$^]\$\^"), r"[$^]\$\^");
        assert_eq!(ok(r"\p{N}{1,3}+x{2,3}"), r"\p{N}{1,}x{2,3}");
        assert!(from_oniguruma(r"a{2,3}+").is_err());
        assert!(from_oniguruma(r"\h+").is_err());
        let m = Matcher::new(&Pattern::Regex(ok(r"\s+$"))).unwrap();
        assert_eq!(found(&m, "a  \n b "), [(1, 3), (6, 7)]);
    }
}

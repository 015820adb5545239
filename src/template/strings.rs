//! The methods of Python's `str` that do not change state, on texts with marks.

use super::args::{self, Args};
use super::budget::Budget;
use super::ops;
use super::show::{is_decimal, is_printable, is_space};
use super::text::{Buffer, Text};
use super::value::Value;
use crate::error::{Error, Result};
use std::ops::Range;
use std::rc::Rc;

/// Whether `str` has a method of this name that templates may call.
pub fn has_method(name: &str) -> bool {
    matches!(
        name,
        "capitalize"
            | "casefold"
            | "center"
            | "count"
            | "endswith"
            | "expandtabs"
            | "find"
            | "format"
            | "index"
            | "isalnum"
            | "isalpha"
            | "isascii"
            | "isdecimal"
            | "isdigit"
            | "isidentifier"
            | "islower"
            | "isnumeric"
            | "isprintable"
            | "isspace"
            | "istitle"
            | "isupper"
            | "join"
            | "ljust"
            | "lower"
            | "lstrip"
            | "partition"
            | "removeprefix"
            | "removesuffix"
            | "replace"
            | "rfind"
            | "rindex"
            | "rjust"
            | "rpartition"
            | "rsplit"
            | "rstrip"
            | "split"
            | "splitlines"
            | "startswith"
            | "strip"
            | "swapcase"
            | "title"
            | "upper"
            | "zfill"
    )
}

/// Calls a method of a text, but for `format`.
///
/// # Errors
/// Invalid for wrong arguments and unknown methods; Limit.
pub fn call(budget: &Rc<Budget>, text: &Text, name: &str, args: Args) -> Result<Value> {
    // Most methods look at every character, which takes longer than copying it.
    budget.work(1 + text.len() / 16)?;
    let s = text.as_str();
    let all = |test: fn(char) -> bool| Value::Bool(!s.is_empty() && s.chars().all(test));
    let value = match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = args::optional_text(name, chars.as_ref())?;
            let (left, right) = (name != "rstrip", name != "lstrip");
            Value::Str(strip(text, chars, left, right)?)
        }
        "split" | "rsplit" => {
            let [sep, most] = args.bind(name, ["sep", "maxsplit"])?;
            let sep = args::optional_text(name, sep.as_ref())?;
            let most = args::int(name, most.as_ref(), -1)?;
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            parts(budget, text, split(text, sep, most, name == "rsplit")?)?
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            parts(budget, text, lines(text, keep.is_some_and(|v| v.truth())))?
        }
        "partition" | "rpartition" => {
            let [sep] = args.bind(name, ["sep"])?;
            partition(text, args::text(name, sep.as_ref())?, name == "rpartition")?
        }
        "startswith" | "endswith" => {
            let [what, start, stop] = args.bind(name, ["what", "start", "end"])?;
            let inside = within(text, start.as_ref(), stop.as_ref())?;
            let part = inside.and_then(|range| s.get(range));
            let at = |t: &Text| {
                part.is_some_and(|part| match name {
                    "startswith" => part.starts_with(t.as_str()),
                    _ => part.ends_with(t.as_str()),
                })
            };
            match what.as_ref() {
                Some(Value::Tuple(list)) => {
                    let mut found = false;
                    for item in &list.items {
                        found |= at(args::text(name, Some(item))?);
                    }
                    Value::Bool(found)
                }
                what => Value::Bool(at(args::text(name, what)?)),
            }
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let old = args::text(name, old.as_ref())?;
            let new = args::text(name, new.as_ref())?;
            let count = args::int(name, count.as_ref(), -1)?;
            let most = usize::try_from(count).unwrap_or(usize::MAX);
            Value::Str(replace(text, old, new, most)?)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [sub, start, stop] = args.bind(name, ["sub", "start", "end"])?;
            let sub = args::text(name, sub.as_ref())?;
            search(text, name, sub, start.as_ref(), stop.as_ref())?
        }
        "join" => {
            let [items] = args.bind(name, ["iterable"])?;
            join(budget, text, items)?
        }
        "upper" | "lower" | "casefold" | "title" | "capitalize" | "swapcase" => {
            args.none(name)?;
            Value::Str(cased(text, name)?)
        }
        "removeprefix" | "removesuffix" => {
            let [what] = args.bind(name, ["what"])?;
            let what = args::text(name, what.as_ref())?.as_str();
            let range = match name {
                "removeprefix" => s.len() - s.strip_prefix(what).unwrap_or(s).len()..s.len(),
                _ => 0..s.strip_suffix(what).unwrap_or(s).len(),
            };
            Value::Str(text.part(range)?)
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = args.bind(name, ["width", "fillchar"])?;
            let width = args::int(name, width.as_ref(), 0)?;
            let space = Text::plain(budget, " ")?;
            let fill = match &fill {
                None => &space,
                fill => args::text(name, fill.as_ref())?,
            };
            Value::Str(justified(text, name, width, fill)?)
        }
        "zfill" => {
            let [width] = args.bind(name, ["width"])?;
            Value::Str(zero_filled(text, args::int(name, width.as_ref(), 0)?)?)
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            Value::Str(expanded(text, args::int(name, size.as_ref(), 8)?)?)
        }
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdecimal" => all(is_decimal),
        // Small and circled digits count too.
        "isdigit" => all(|c| {
            is_decimal(c) || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨')
        }),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isascii" => Value::Bool(s.is_ascii()),
        "isprintable" => Value::Bool(s.chars().all(is_printable)),
        "islower" => {
            Value::Bool(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase))
        }
        "isupper" => {
            Value::Bool(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase))
        }
        "isidentifier" => {
            let mut chars = s.chars();
            let first = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
            Value::Bool(first && chars.all(|c| c == '_' || c.is_alphanumeric()))
        }
        "istitle" => Value::Bool(is_title(s)),
        _ => {
            return Err(Error::invalid(format_args!(
                "str has no method {name:?} that a template may call"
            )));
        }
    };
    Ok(value)
}

fn parts(budget: &Rc<Budget>, text: &Text, ranges: Vec<Range<usize>>) -> Result<Value> {
    budget.work(4 * ranges.len())?;
    let texts = ranges.into_iter().map(|r| text.part(r).map(Value::Str));
    Value::list(budget, texts.collect::<Result<_>>()?)
}

/// Without white space, or without any of `chars`, at its ends.
///
/// # Errors
/// Limit.
pub fn strip(text: &Text, chars: Option<&Text>, left: bool, right: bool) -> Result<Text> {
    let s = text.as_str();
    text.budget()
        .bytes(s.len() * (1 + chars.map_or(0, |c| c.len() / 4)))?;
    let goes = |c: char| match chars {
        None => is_space(c),
        Some(chars) => chars.as_str().contains(c),
    };
    let stop = if right {
        s.trim_end_matches(goes).len()
    } else {
        s.len()
    };
    let inner = &s[..stop];
    let start = if left {
        stop - inner.trim_start_matches(goes).len()
    } else {
        0
    };
    text.part(start..stop)
}

/// The ranges between separators; between runs of white space without one.
fn split(
    text: &Text,
    sep: Option<&Text>,
    most: usize,
    from_right: bool,
) -> Result<Vec<Range<usize>>> {
    let s = text.as_str();
    let mut out = Vec::new();
    let Some(sep) = sep else {
        words(s, most, from_right, &mut out);
        return Ok(out);
    };
    let sep = sep.as_str();
    if sep.is_empty() {
        return Err(Error::invalid("a text is split at an empty separator"));
    }
    if from_right {
        let mut stop = s.len();
        for (at, _) in s.rmatch_indices(sep).take(most) {
            out.push(at + sep.len()..stop);
            stop = at;
        }
        out.push(0..stop);
        out.reverse();
    } else {
        let mut start = 0;
        for (at, _) in s.match_indices(sep).take(most) {
            out.push(start..at);
            start = at + sep.len();
        }
        out.push(start..s.len());
    }
    Ok(out)
}

fn words(s: &str, most: usize, from_right: bool, out: &mut Vec<Range<usize>>) {
    let (mut start, mut stop) = (0, s.len());
    if from_right {
        loop {
            stop = s[..stop].trim_end_matches(is_space).len();
            if stop == 0 {
                break;
            }
            if out.len() == most {
                out.push(0..stop);
                break;
            }
            let word = s[..stop].rfind(is_space);
            let from = word.map_or(0, |at| {
                at + s[at..].chars().next().map_or(1, char::len_utf8)
            });
            out.push(from..stop);
            stop = from;
        }
        out.reverse();
        return;
    }
    loop {
        start = stop - s[start..].trim_start_matches(is_space).len();
        if start == stop {
            return;
        }
        if out.len() == most {
            out.push(start..stop);
            return;
        }
        let length = s[start..].find(is_space).unwrap_or(stop - start);
        out.push(start..start + length);
        start += length;
    }
}

/// The ranges of lines, as `splitlines` cuts.
pub fn lines(text: &Text, keep_ends: bool) -> Vec<Range<usize>> {
    let s = text.as_str();
    let mut out = Vec::new();
    let mut start = 0;
    let mut chars = s.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let is_end = matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !is_end {
            continue;
        }
        let mut stop = at + c.len_utf8();
        if c == '\r' && chars.next_if(|&(_, c)| c == '\n').is_some() {
            stop += 1;
        }
        out.push(start..if keep_ends { stop } else { at });
        start = stop;
    }
    if start < s.len() {
        out.push(start..s.len());
    }
    out
}

fn partition(text: &Text, sep: &Text, from_right: bool) -> Result<Value> {
    let (s, n) = (text.as_str(), sep.len());
    if n == 0 {
        return Err(Error::invalid("a text is split at an empty separator"));
    }
    let found = match from_right {
        true => s.rfind(sep.as_str()),
        false => s.find(sep.as_str()),
    };
    let ranges = match found {
        Some(at) => [0..at, at..at + n, at + n..s.len()],
        None if from_right => [0..0, 0..0, 0..s.len()],
        None => [0..s.len(), 0..0, 0..0],
    };
    let texts = ranges.into_iter().map(|r| text.part(r).map(Value::Str));
    Value::tuple(text.budget(), texts.collect::<Result<_>>()?)
}

/// Byte range of the characters from `start` to `stop`; none if it begins behind the end.
fn within(
    text: &Text,
    start: Option<&Value>,
    stop: Option<&Value>,
) -> Result<Option<Range<usize>>> {
    let s = text.as_str();
    let given = |v: Option<&Value>| v.is_some_and(|v| !matches!(v, Value::None));
    if !given(start) && !given(stop) {
        return Ok(Some(0..s.len()));
    }
    let count = text.count()? as i128;
    let place = |value: Option<&Value>, default: i128| -> Result<i128> {
        let value = value.filter(|v| !matches!(v, Value::None));
        let i = args::int("a method of str", value, default)?;
        Ok(if i < 0 {
            i.saturating_add(count).max(0)
        } else {
            i
        })
    };
    let (start, stop) = (place(start, 0)?, place(stop, count)?.min(count));
    if start > stop {
        return Ok(None);
    }
    let byte = |n: i128| {
        s.char_indices()
            .nth(n as usize)
            .map_or(s.len(), |(at, _)| at)
    };
    Ok(Some(byte(start)..byte(stop)))
}

fn search(
    text: &Text,
    name: &str,
    sub: &Text,
    start: Option<&Value>,
    stop: Option<&Value>,
) -> Result<Value> {
    let s = text.as_str();
    let range = within(text, start, stop)?;
    let (part, base) = match &range {
        Some(range) => (&s[range.clone()], range.start),
        None => ("", s.len()),
    };
    let sub = sub.as_str();
    if name == "count" {
        let found = match (range.is_some(), sub.is_empty()) {
            (false, _) => 0,
            (true, true) => part.chars().count() + 1,
            (true, false) => part.matches(sub).count(),
        };
        return Ok(Value::Int(found as i128));
    }
    let found = match (range.is_some(), name.starts_with('r')) {
        (false, _) => None,
        (true, true) => part.rfind(sub),
        (true, false) => part.find(sub),
    };
    match found {
        Some(at) => Ok(Value::Int(s[..base + at].chars().count() as i128)),
        None if name.ends_with("index") => Err(Error::invalid(format_args!(
            "a text does not contain what {name:?} looks for"
        ))),
        None => Ok(Value::Int(-1)),
    }
}

/// `text.replace(old, new, most)`.
///
/// # Errors
/// Limit.
pub fn replace(text: &Text, old: &Text, new: &Text, most: usize) -> Result<Text> {
    let s = text.as_str();
    let budget = text.budget();
    budget.bytes(s.len())?;
    let mut out = Buffer::new(budget);
    let mut from = 0;
    // An empty text is found before every character and at the end, by Python and here.
    for (at, found) in s.match_indices(old.as_str()).take(most) {
        out.part(text, from..at)?;
        out.text(new)?;
        from = at + found.len();
    }
    out.part(text, from..s.len())?;
    out.finish()
}

fn join(budget: &Rc<Budget>, between: &Text, items: Option<Value>) -> Result<Value> {
    let chars;
    let items = match &items {
        Some(Value::List(seq) | Value::Tuple(seq)) => &seq.items[..],
        Some(Value::Iter(iter)) => iter.rest(),
        Some(Value::Str(text)) => {
            chars = text
                .chars()?
                .into_iter()
                .map(Value::Str)
                .collect::<Vec<_>>();
            &chars
        }
        Some(Value::Dict(dict)) => {
            budget.work(dict.entries.len())?;
            chars = dict.entries.iter().map(|(k, _)| k.clone()).collect();
            &chars
        }
        Some(Value::Undefined(_)) => &[],
        _ => return Err(Error::invalid("join has no list of texts to join")),
    };
    let mut out = Buffer::new(budget);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.text(between)?;
        }
        out.text(args::text("join", Some(item))?)?;
    }
    Ok(Value::Str(out.finish()?))
}

/// `upper`, `lower`, `casefold`, `title`, `capitalize` or `swapcase`.
///
/// # Errors
/// Limit.
pub fn cased(text: &Text, how: &str) -> Result<Text> {
    let s = text.as_str();
    let budget = text.budget();
    // Character by character, so that marks stay where they are.
    budget.work(s.len())?;
    let mut out = Buffer::new(budget);
    let mut in_word = false;
    for (at, c) in s.char_indices() {
        let upper = match how {
            "upper" => true,
            "title" => !in_word,
            "capitalize" => at == 0,
            "swapcase" => c.is_lowercase(),
            _ => false,
        };
        let input = text.is_input(at);
        if upper && how != "upper" && how != "swapcase" {
            titled(c).try_for_each(|c| out.char(c, input))?;
        } else if upper {
            c.to_uppercase().try_for_each(|c| out.char(c, input))?;
        } else if c == 'Σ' && how != "casefold" && is_final(s, at) {
            out.char('ς', input)?;
        } else {
            let lower = if how == "casefold" && c == 'ß' {
                "ss"
            } else {
                ""
            };
            out.mark(lower, input)?;
            if lower.is_empty() {
                c.to_lowercase().try_for_each(|c| out.char(c, input))?;
            }
        }
        in_word = c.is_lowercase() || c.is_uppercase();
    }
    out.finish()
}

/// The character as it begins a word: in upper case, but of what becomes several letters only the first.
fn titled(c: char) -> impl Iterator<Item = char> {
    let whole = match c {
        'Ǆ'..='ǆ' => Some('ǅ'),
        'Ǉ'..='ǉ' => Some('ǈ'),
        'Ǌ'..='ǌ' => Some('ǋ'),
        'Ǳ'..='ǳ' => Some('ǲ'),
        // Georgian has upper case for whole texts only.
        'ა'..='ჿ' => Some(c),
        _ => None,
    };
    let upper = c.to_uppercase().enumerate().flat_map(|(i, c)| {
        let lower = c.to_lowercase().filter(move |_| i > 0);
        lower.chain((i == 0).then_some(c))
    });
    whole
        .into_iter()
        .chain(upper.filter(move |_| whole.is_none()))
}

/// Whether the sigma at this place ends a word.
fn is_final(s: &str, at: usize) -> bool {
    let before = s[..at].chars().next_back().is_some_and(char::is_alphabetic);
    let after = s[at..].chars().nth(1).is_some_and(char::is_alphabetic);
    before && !after
}

fn is_title(s: &str) -> bool {
    let (mut in_word, mut any) = (false, false);
    for c in s.chars() {
        let (upper, lower) = (c.is_uppercase(), c.is_lowercase());
        if (upper && in_word) || (lower && !in_word) {
            return false;
        }
        in_word = upper || lower;
        any |= in_word;
    }
    any
}

/// Filled up to a width with a character: at the right (`ljust`), at the left (`rjust`) or at both sides (`center`).
///
/// # Errors
/// Invalid for a fill that is not one character; Limit.
pub fn justified(text: &Text, how: &str, width: i128, fill: &Text) -> Result<Text> {
    if fill.count()? != 1 {
        return Err(Error::invalid(format_args!(
            "{how} fills with {} characters, expected one",
            fill.count()?
        )));
    }
    let count = text.count()?;
    let missing = width.saturating_sub(count as i128).max(0);
    let missing = usize::try_from(missing).unwrap_or(usize::MAX);
    let left = match how {
        "ljust" => 0,
        "rjust" => missing,
        // CPython rounds to the left where the width is odd.
        _ => missing / 2 + (missing & 1 & (width & 1) as usize),
    };
    let mut out = Buffer::new(text.budget());
    out.repeat(fill, left)?;
    out.text(text)?;
    out.repeat(fill, missing - left)?;
    out.finish()
}

fn zero_filled(text: &Text, width: i128) -> Result<Text> {
    let sign = usize::from(text.as_str().starts_with(['+', '-']));
    let missing = width.saturating_sub(text.count()? as i128).max(0);
    let missing = usize::try_from(missing).unwrap_or(usize::MAX);
    let mut out = Buffer::new(text.budget());
    out.part(text, 0..sign)?;
    out.repeat(&Text::plain(text.budget(), "0")?, missing)?;
    out.part(text, sign..text.len())?;
    out.finish()
}

fn expanded(text: &Text, size: i128) -> Result<Text> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let budget = text.budget();
    budget.work(text.len())?;
    let space = Text::plain(budget, " ")?;
    let mut out = Buffer::new(budget);
    let mut column = 0usize;
    for (at, c) in text.as_str().char_indices() {
        match c {
            '\t' if size > 0 => {
                let n = size - column % size;
                out.repeat(&space, n)?;
                column += n;
                continue;
            }
            '\t' => continue,
            '\n' | '\r' => column = 0,
            _ => column += 1,
        }
        out.part(text, at..at + c.len_utf8())?;
    }
    out.finish()
}

/// The methods of lists, tuples and dictionaries that do not change them.
///
/// # Errors
/// Invalid for wrong arguments and other methods; Limit.
pub fn call_container(budget: &Rc<Budget>, of: &Value, name: &str, args: Args) -> Result<Value> {
    match (of, name) {
        (Value::Dict(dict), "get") => {
            let [key, default] = args.bind(name, ["key", "default"])?;
            let key = key.ok_or_else(|| Error::invalid("get lacks an argument"))?;
            let found = ops::find(budget, &dict.entries, &key)?.cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        (Value::Dict(dict), "items" | "keys" | "values") => {
            args.none(name)?;
            budget.work(dict.entries.len())?;
            let items = dict.entries.iter().map(|(key, value)| match name {
                "keys" => Ok(key.clone()),
                "values" => Ok(value.clone()),
                _ => Value::tuple(budget, vec![key.clone(), value.clone()]),
            });
            Value::list(budget, items.collect::<Result<_>>()?)
        }
        (Value::Dict(_) | Value::List(_), "copy") => args.none(name).map(|()| of.clone()),
        (Value::List(seq) | Value::Tuple(seq), "count" | "index") => {
            let [item] = args.bind(name, ["value"])?;
            let item =
                item.ok_or_else(|| Error::invalid(format_args!("{name} lacks an argument")))?;
            let mut count = 0;
            for (i, each) in seq.items.iter().enumerate() {
                if ops::equal(budget, each, &item)? {
                    if name == "index" {
                        return Ok(Value::Int(i as i128));
                    }
                    count += 1;
                }
            }
            match name {
                "count" => Ok(Value::Int(count)),
                _ => Err(Error::invalid(
                    "a list does not contain what \"index\" looks for",
                )),
            }
        }
        _ => Err(Error::invalid(format_args!(
            "{} has no method {name:?} that a template may call",
            of.type_name()
        ))),
    }
}

/// Whether a value has a method of this name; those that would change it count, so that calling them is an error.
pub fn is_method(of: &Value, name: &str) -> bool {
    match of {
        Value::Str(_) => has_method(name),
        Value::List(_) => matches!(
            name,
            "append"
                | "clear"
                | "copy"
                | "count"
                | "extend"
                | "index"
                | "insert"
                | "pop"
                | "remove"
                | "reverse"
                | "sort"
        ),
        Value::Tuple(_) => matches!(name, "count" | "index"),
        Value::Dict(_) => matches!(
            name,
            "clear"
                | "copy"
                | "fromkeys"
                | "get"
                | "items"
                | "keys"
                | "pop"
                | "popitem"
                | "setdefault"
                | "update"
                | "values"
        ),
        _ => false,
    }
}

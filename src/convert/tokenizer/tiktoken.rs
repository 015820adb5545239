//! tiktoken rank files: a line per token, its bytes in base64 and its rank, which is also its id. The split pattern and the
//! special tokens stand in a JSON file beside it: `{"pattern": "...", "special_tokens": {"<|endoftext|>": 100257}}`.

use serde_json::Value;
use std::collections::HashSet;

use super::tokenizer_json::base64;
use crate::error::{Error, Result};
use crate::tokenizer::{
    AddedToken, Behavior, DecoderStep, Definition, Merges, ModelOptions, Pattern, PreTokenizer,
    Token, TokenKind,
};

/// Largest accepted id: ranks are dense, special tokens follow them.
const MAX_ID: usize = 1 << 24;

/// Whether the bytes look like a rank file.
pub fn is_rank_file(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or(&[]);
    std::str::from_utf8(line).is_ok_and(|l| parse_line(l.trim_end()).is_some())
}

fn parse_line(line: &str) -> Option<(Vec<u8>, usize)> {
    let (token, rank) = line.split_once(' ')?;
    Some((base64(token)?, rank.parse().ok()?))
}

/// Reads a rank file and the JSON beside it.
///
/// # Errors
/// Invalid (3) with the line or the field.
pub fn read(ranks: &[u8], json: &[u8]) -> Result<Definition> {
    let json: Value = serde_json::from_slice(json)
        .map_err(|e| Error::invalid(format_args!("tiktoken definition: {e}")))?;
    let pattern = ["pattern", "pat_str"]
        .iter()
        .find_map(|k| json.get(k))
        .and_then(Value::as_str)
        .ok_or_else(|| Error::invalid("tiktoken definition: pattern is missing"))?;
    let text = std::str::from_utf8(ranks).map_err(|e| {
        Error::invalid(format_args!(
            "tiktoken ranks: byte {}: not text",
            e.valid_up_to()
        ))
    })?;
    let mut d = Definition::default();
    let mut seen = HashSet::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.is_empty()) {
        let (piece, rank) = parse_line(line.trim_end()).ok_or_else(|| {
            Error::invalid(format_args!(
                "tiktoken ranks: line {}: expected base64, a space and a rank",
                i + 1
            ))
        })?;
        let bad =
            |what: &str| Error::invalid(format_args!("tiktoken ranks: line {}: {what}", i + 1));
        if piece.is_empty() || !seen.insert(piece.clone()) {
            return Err(bad("an empty or repeated token"));
        }
        put(&mut d, rank, piece, -(rank as f64))
            .map_err(|e| e.at(format_args!("tiktoken ranks: line {}: rank", i + 1)))?;
    }
    for t in &mut d.tokens {
        t.in_model = t.kind != TokenKind::Absent;
    }
    if let Some(specials) = json.get("special_tokens") {
        let map = specials.as_object().ok_or_else(|| {
            Error::invalid("tiktoken definition: special_tokens is not an object")
        })?;
        for (content, id) in map {
            let id = id
                .as_u64()
                .and_then(|v| usize::try_from(v).ok())
                .ok_or_else(|| {
                    Error::invalid(format_args!("tiktoken definition: {content:?} has no id"))
                })?;
            put(&mut d, id, content.clone().into_bytes(), 0.0)
                .map_err(|e| e.at(format_args!("tiktoken definition: {content:?}")))?;
            d.tokens[id].kind = TokenKind::Control;
            d.added.push(AddedToken {
                id: id as u32,
                content: content.clone(),
                special: true,
                ..AddedToken::default()
            });
        }
    }
    let p = &mut d.pipeline;
    p.source = match json.get("name").and_then(Value::as_str) {
        Some(name) => format!("tiktoken {name:?}"),
        None => "tiktoken".into(),
    };
    p.pre_tokenizers = vec![
        PreTokenizer::Split {
            pattern: Pattern::Regex(pattern.into()),
            // What the pattern does not match is dropped.
            behavior: Behavior::Removed,
            invert: true,
        },
        PreTokenizer::ByteLevel {
            add_prefix_space: false,
            use_regex: false,
        },
    ];
    p.decoder = vec![DecoderStep::ByteLevel];
    p.model = ModelOptions::Bpe {
        byte_level: true,
        ignore_merges: true,
        byte_fallback: false,
        fuse_unk: false,
        unk: None,
        prefix: String::new(),
        suffix: String::new(),
        late_unk: false,
    };
    d.merges = Merges::ByScore;
    p.eos = d
        .added
        .iter()
        .filter(|a| {
            matches!(
                a.content.as_str(),
                "<|endoftext|>" | "<|end_of_text|>" | "<|eot_id|>"
            )
        })
        .map(|a| a.id)
        .collect();
    p.bos = d
        .added
        .iter()
        .find(|a| a.content == "<|begin_of_text|>")
        .map(|a| a.id);
    Ok(d)
}

fn put(d: &mut Definition, id: usize, piece: Vec<u8>, score: f64) -> Result<()> {
    if id >= MAX_ID {
        return Err(Error::invalid(format_args!(
            "{id}, expected below {MAX_ID}"
        )));
    }
    if id >= d.tokens.len() {
        d.tokens.resize_with(id + 1, Token::default);
    }
    if d.tokens[id].kind != TokenKind::Absent {
        return Err(Error::invalid(format_args!("{id} is given twice")));
    }
    d.tokens[id] = Token {
        piece,
        kind: TokenKind::Normal,
        raw: true,
        in_model: false,
        score,
    };
    Ok(())
}

//! `tokenizer.json` of Hugging Face `tokenizers`, and the two small files that stand beside it.
//!
//! Every kind of normaliser, pre-tokenizer, model, post-processor and decoder that changes the result is either translated
//! or refused by name; padding and truncation are the caller's business and left out.

use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::tokenizer::{
    AddedToken, Behavior, DecoderStep, Definition, Merge, Merges, ModelOptions, Normalizer,
    Pattern, PreTokenizer, Prepend, TemplateItem, Token, TokenKind, alphabet_to_bytes,
    from_oniguruma,
};

/// Largest id in relation to the number of tokens: a vocabulary may have holes, but not be mostly holes.
const MAX_HOLES: usize = 1 << 20;

/// A JSON object with the path that led to it, for error messages.
#[derive(Clone, Copy)]
struct Obj<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Obj<'a> {
    fn new(path: &'a str, value: &'a Value) -> Result<Self> {
        value
            .as_object()
            .map(|map| Obj { path, map })
            .ok_or_else(|| wrong(path, value, "an object"))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn place(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn missing(&self, key: &str) -> Error {
        Error::invalid(format_args!("{}: missing", self.place(key)))
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|v| {
                v.as_str()
                    .ok_or_else(|| wrong(&self.place(key), v, "a string"))
            })
            .transpose()
    }

    fn need_str(&self, key: &str) -> Result<&'a str> {
        self.str(key)?.ok_or_else(|| self.missing(key))
    }

    fn bool(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| {
            v.as_bool()
                .ok_or_else(|| wrong(&self.place(key), v, "true or false"))
        })
    }

    fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key)
            .map(|v| as_u32(v).ok_or_else(|| wrong(&self.place(key), v, "an integer below 2^32")))
            .transpose()
    }

    fn char(&self, key: &str) -> Result<Option<char>> {
        let Some(text) = self.str(key)? else {
            return Ok(None);
        };
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(Some(c)),
            _ => Err(Error::invalid(format_args!(
                "{}: {text:?}, expected one character",
                self.place(key)
            ))),
        }
    }

    fn array(&self, key: &str) -> Result<&'a [Value]> {
        match self.get(key) {
            None => Ok(&[]),
            Some(v) => v
                .as_array()
                .map(Vec::as_slice)
                .ok_or_else(|| wrong(&self.place(key), v, "an array")),
        }
    }

    fn kind(&self) -> Result<&'a str> {
        self.need_str("type")
    }

    fn unknown(&self, kind: &str) -> Error {
        Error::invalid(format_args!("{}: unknown type {kind:?}", self.path))
    }

    fn pattern(&self, key: &str) -> Result<Pattern> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        if let Some(text) = value.as_str() {
            return Ok(Pattern::String(text.into()));
        }
        let place = self.place(key);
        let inner = Obj::new(&place, value)?;
        if let Some(text) = inner.str("String")? {
            return Ok(Pattern::String(text.into()));
        }
        let regex = inner.need_str("Regex")?;
        from_oniguruma(regex)
            .map(Pattern::Regex)
            .map_err(|e| e.at(&place))
    }
}

fn as_u32(v: &Value) -> Option<u32> {
    v.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn wrong(place: &str, value: &Value, expected: &str) -> Error {
    let mut found = value.to_string();
    if found.len() > 80 {
        found = format!("{}...", found.chars().take(80).collect::<String>());
    }
    Error::invalid(format_args!("{place}: {found}, expected {expected}"))
}

/// The files beside a `tokenizer.json`, where they exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct Companions<'a> {
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a Value>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a Value>,
}

/// Reads a `tokenizer.json`.
///
/// # Errors
/// Invalid (3) with the path of the field, for anything this program would treat differently from its source.
pub fn read(json: &[u8], beside: Companions) -> Result<Definition> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|e| Error::invalid(format_args!("tokenizer.json: {e}")))?;
    let root = Obj::new("tokenizer.json", &value)?;
    let mut d = Definition::default();
    d.pipeline.source = "tokenizer.json".into();
    if let Some(v) = root.get("normalizer") {
        normalizer("normalizer", v, &mut d, 0)?;
    }
    if let Some(v) = root.get("pre_tokenizer") {
        pre_tokenizer("pre_tokenizer", v, &mut d.pipeline.pre_tokenizers, 0)?;
    }
    match root.get("decoder") {
        Some(v) => decoder("decoder", v, &mut d.pipeline.decoder, 0)?,
        None => d.pipeline.decoder.push(DecoderStep::JoinSpace),
    }
    let model = root.get("model").ok_or_else(|| root.missing("model"))?;
    let vocab = read_model(Obj::new("model", model)?, &mut d)?;
    added_tokens(root.array("added_tokens")?, &vocab, &mut d)?;
    let mut template = vec![TemplateItem::Text];
    if let Some(v) = root.get("post_processor") {
        post_processor("post_processor", v, &mut template, 0)?;
    }
    if template != [TemplateItem::Text] {
        d.pipeline.template = template;
    }
    companions(beside, &mut d)?;
    mark_kinds(&mut d);
    Ok(d)
}

fn depth_check(path: &str, depth: usize) -> Result<()> {
    if depth > 8 {
        return Err(Error::invalid(format_args!(
            "{path}: sequences nested more than 8 deep"
        )));
    }
    Ok(())
}

fn normalizer(path: &str, value: &Value, d: &mut Definition, depth: usize) -> Result<()> {
    depth_check(path, depth)?;
    let o = Obj::new(path, value)?;
    let step = match o.kind()? {
        "Sequence" => {
            for (i, v) in o.array("normalizers")?.iter().enumerate() {
                normalizer(&format!("{path}.normalizers[{i}]"), v, d, depth + 1)?;
            }
            return Ok(());
        }
        "NFC" => Normalizer::Nfc,
        "NFD" => Normalizer::Nfd,
        "NFKC" => Normalizer::Nfkc,
        "NFKD" => Normalizer::Nfkd,
        "Lowercase" => Normalizer::Lowercase,
        "Strip" => Normalizer::Strip {
            left: o.bool("strip_left", true)?,
            right: o.bool("strip_right", true)?,
        },
        "StripAccents" => Normalizer::StripAccents,
        "Replace" => Normalizer::Replace {
            pattern: o.pattern("pattern")?,
            content: o.need_str("content")?.into(),
        },
        "Prepend" => Normalizer::Prepend(o.need_str("prepend")?.into()),
        "BertNormalizer" => {
            let lowercase = o.bool("lowercase", true)?;
            Normalizer::Bert {
                clean_text: o.bool("clean_text", true)?,
                chinese: o.bool("handle_chinese_chars", true)?,
                strip_accents: o.bool("strip_accents", lowercase)?,
                lowercase,
            }
        }
        "Precompiled" => {
            let text = o.str("precompiled_charsmap")?.unwrap_or("");
            let map = base64(text).ok_or_else(|| {
                Error::invalid(format_args!(
                    "{}: not base64",
                    o.place("precompiled_charsmap")
                ))
            })?;
            if map.is_empty() {
                return Ok(());
            }
            if !d.charsmap.is_empty() && d.charsmap != map {
                return Err(Error::invalid(format_args!(
                    "{path}: a second precompiled_charsmap"
                )));
            }
            d.charsmap = map;
            Normalizer::Precompiled
        }
        "Nmt" => Normalizer::Nmt,
        "ByteLevel" => Normalizer::ByteLevel,
        kind => return Err(o.unknown(kind)),
    };
    d.pipeline.normalizers.push(step);
    Ok(())
}

fn behavior(o: Obj, default: Option<Behavior>) -> Result<Behavior> {
    let place = o.place("behavior");
    match (o.str("behavior")?, default) {
        (None, Some(b)) => Ok(b),
        (None, None) => Err(o.missing("behavior")),
        (Some("Removed"), _) => Ok(Behavior::Removed),
        (Some("Isolated"), _) => Ok(Behavior::Isolated),
        (Some("MergedWithPrevious"), _) => Ok(Behavior::MergedWithPrevious),
        (Some("MergedWithNext"), _) => Ok(Behavior::MergedWithNext),
        (Some("Contiguous"), _) => Ok(Behavior::Contiguous),
        (Some(other), _) => Err(Error::invalid(format_args!("{place}: unknown {other:?}"))),
    }
}

/// `prepend_scheme`, or the older `add_prefix_space`.
fn prepend(o: Obj) -> Result<Prepend> {
    let scheme = match o.str("prepend_scheme")? {
        None => None,
        Some("always") => Some(Prepend::Always),
        Some("first") => Some(Prepend::First),
        Some("never") => Some(Prepend::Never),
        Some(other) => {
            return Err(Error::invalid(format_args!(
                "{}: unknown {other:?}",
                o.place("prepend_scheme")
            )));
        }
    };
    Ok(match (scheme, o.bool("add_prefix_space", true)?) {
        (Some(s), _) => s,
        (None, true) => Prepend::Always,
        (None, false) => Prepend::Never,
    })
}

fn pre_tokenizer(
    path: &str,
    value: &Value,
    out: &mut Vec<PreTokenizer>,
    depth: usize,
) -> Result<()> {
    depth_check(path, depth)?;
    let o = Obj::new(path, value)?;
    let step = match o.kind()? {
        "Sequence" => {
            for (i, v) in o.array("pretokenizers")?.iter().enumerate() {
                pre_tokenizer(&format!("{path}.pretokenizers[{i}]"), v, out, depth + 1)?;
            }
            return Ok(());
        }
        "ByteLevel" => PreTokenizer::ByteLevel {
            add_prefix_space: o.bool("add_prefix_space", true)?,
            use_regex: o.bool("use_regex", true)?,
        },
        "Metaspace" => PreTokenizer::Metaspace {
            replacement: o.char("replacement")?.unwrap_or('\u{2581}'),
            prepend: prepend(o)?,
            split: o.bool("split", true)?,
        },
        "Split" => PreTokenizer::Split {
            pattern: o.pattern("pattern")?,
            behavior: behavior(o, None)?,
            invert: o.bool("invert", false)?,
        },
        "Digits" => PreTokenizer::Digits {
            individual: o.bool("individual_digits", false)?,
        },
        "Whitespace" => PreTokenizer::Whitespace,
        "WhitespaceSplit" => PreTokenizer::WhitespaceSplit,
        "BertPreTokenizer" => PreTokenizer::Bert,
        "Punctuation" => PreTokenizer::Punctuation(behavior(o, Some(Behavior::Isolated))?),
        "CharDelimiterSplit" => {
            PreTokenizer::CharDelimiter(o.char("delimiter")?.ok_or_else(|| o.missing("delimiter"))?)
        }
        "UnicodeScripts" => PreTokenizer::UnicodeScripts,
        "FixedLength" => {
            let n = o.u32("length")?.unwrap_or(5);
            if n == 0 {
                return Err(Error::invalid(format_args!(
                    "{}: 0, expected at least 1",
                    o.place("length")
                )));
            }
            PreTokenizer::FixedLength(n)
        }
        kind => return Err(o.unknown(kind)),
    };
    out.push(step);
    Ok(())
}

fn decoder(path: &str, value: &Value, out: &mut Vec<DecoderStep>, depth: usize) -> Result<()> {
    depth_check(path, depth)?;
    let o = Obj::new(path, value)?;
    let step = match o.kind()? {
        "Sequence" => {
            for (i, v) in o.array("decoders")?.iter().enumerate() {
                decoder(&format!("{path}.decoders[{i}]"), v, out, depth + 1)?;
            }
            return Ok(());
        }
        "ByteLevel" => DecoderStep::ByteLevel,
        "Metaspace" => DecoderStep::Metaspace {
            replacement: o.char("replacement")?.unwrap_or('\u{2581}'),
            prepend: prepend(o)? != Prepend::Never,
        },
        "ByteFallback" => DecoderStep::ByteFallback,
        "Fuse" => DecoderStep::Fuse,
        "Strip" => DecoderStep::Strip {
            content: o.char("content")?.ok_or_else(|| o.missing("content"))?,
            start: o.u32("start")?.unwrap_or(0),
            stop: o.u32("stop")?.unwrap_or(0),
        },
        "Replace" => DecoderStep::Replace {
            pattern: o.pattern("pattern")?,
            content: o.need_str("content")?.into(),
        },
        "WordPiece" => DecoderStep::WordPiece {
            prefix: o.str("prefix")?.unwrap_or("##").into(),
            cleanup: o.bool("cleanup", true)?,
        },
        "BPEDecoder" => DecoderStep::Bpe {
            suffix: o.str("suffix")?.unwrap_or("</w>").into(),
        },
        "CTC" => DecoderStep::Ctc {
            pad: o.str("pad_token")?.unwrap_or("<pad>").into(),
            delimiter: o.str("word_delimiter_token")?.unwrap_or("|").into(),
            cleanup: o.bool("cleanup", true)?,
        },
        kind => return Err(o.unknown(kind)),
    };
    out.push(step);
    Ok(())
}

/// Replaces the text item of `template` by what the processor makes of it.
fn post_processor(
    path: &str,
    value: &Value,
    template: &mut Vec<TemplateItem>,
    depth: usize,
) -> Result<()> {
    depth_check(path, depth)?;
    let o = Obj::new(path, value)?;
    let pair = |key: &str| -> Result<u32> {
        let v = o.get(key).ok_or_else(|| o.missing(key))?;
        v.get(1)
            .and_then(as_u32)
            .ok_or_else(|| wrong(&o.place(key), v, "[text, id]"))
    };
    let inner = match o.kind()? {
        "Sequence" => {
            for (i, v) in o.array("processors")?.iter().enumerate() {
                post_processor(&format!("{path}.processors[{i}]"), v, template, depth + 1)?;
            }
            return Ok(());
        }
        "ByteLevel" => return Ok(()),
        "BertProcessing" | "RobertaProcessing" => vec![
            TemplateItem::Id(pair("cls")?),
            TemplateItem::Text,
            TemplateItem::Id(pair("sep")?),
        ],
        "TemplateProcessing" => {
            let place = o.place("special_tokens");
            let none = Value::Object(Map::new());
            let specials = Obj::new(&place, o.get("special_tokens").unwrap_or(&none))?;
            let mut items = Vec::new();
            for (i, v) in o.array("single")?.iter().enumerate() {
                let place = format!("{path}.single[{i}]");
                let item = Obj::new(&place, v)?;
                if let Some(v) = item.get("Sequence") {
                    match v.get("id").and_then(Value::as_str) {
                        Some("A") => items.push(TemplateItem::Text),
                        _ => return Err(wrong(&place, v, "the sequence \"A\"")),
                    }
                } else if let Some(v) = item.get("SpecialToken") {
                    let name = v
                        .get("id")
                        .and_then(Value::as_str)
                        .ok_or_else(|| wrong(&place, v, "a special token with an id"))?;
                    let ids = specials
                        .get(name)
                        .and_then(|v| v.get("ids"))
                        .and_then(Value::as_array)
                        .ok_or_else(|| {
                            Error::invalid(format_args!(
                                "{place}: {name:?} is not in special_tokens"
                            ))
                        })?;
                    for id in ids {
                        let id = as_u32(id).ok_or_else(|| wrong(&place, id, "a token id"))?;
                        items.push(TemplateItem::Id(id));
                    }
                } else {
                    return Err(wrong(&place, v, "Sequence or SpecialToken"));
                }
            }
            items
        }
        kind => return Err(o.unknown(kind)),
    };
    if template.len().saturating_mul(inner.len()) > 1 << 16 {
        return Err(Error::invalid(format_args!(
            "{path}: the template is too long"
        )));
    }
    *template = template
        .iter()
        .flat_map(|item| match item {
            TemplateItem::Text => inner.clone(),
            id => vec![*id],
        })
        .collect();
    Ok(())
}

/// Whether the pipeline hands the model bytes in GPT-2's alphabet.
fn byte_level(d: &Definition) -> bool {
    d.pipeline
        .pre_tokenizers
        .iter()
        .any(|p| matches!(p, PreTokenizer::ByteLevel { .. }))
        || d.pipeline
            .normalizers
            .iter()
            .any(|n| matches!(n, Normalizer::ByteLevel))
}

/// Fills tokens, merges and model options; returns the model's own vocabulary.
fn read_model(o: Obj, d: &mut Definition) -> Result<HashMap<String, u32>> {
    let kind = match o.str("type")? {
        Some(kind) => kind,
        // Old files leave the type out.
        None if o.get("merges").is_some() => "BPE",
        None if o.get("unk_id").is_some() || o.get("vocab").is_some_and(Value::is_array) => {
            "Unigram"
        }
        None if o.get("max_input_chars_per_word").is_some() => "WordPiece",
        None => return Err(o.missing("type")),
    };
    let alphabet = byte_level(d);
    // Where either side speaks the alphabet, the raw bytes are kept.
    let raw = alphabet || d.pipeline.decoder.contains(&DecoderStep::ByteLevel);
    match kind {
        "BPE" => {
            let vocab = read_vocab(o, d, raw)?;
            read_bpe(o, d, &vocab, alphabet)?;
            Ok(vocab)
        }
        "WordPiece" => {
            let vocab = read_vocab(o, d, false)?;
            let unk = o.str("unk_token")?.unwrap_or("[UNK]");
            let unk = *vocab.get(unk).ok_or_else(|| {
                Error::invalid(format_args!(
                    "{}: {unk:?} is not in the vocabulary",
                    o.place("unk_token")
                ))
            })?;
            d.pipeline.model = ModelOptions::WordPiece {
                unk,
                prefix: o.str("continuing_subword_prefix")?.unwrap_or("##").into(),
                // Stored as "0 means no limit", which the source does not have.
                max_chars: o.u32("max_input_chars_per_word")?.unwrap_or(100).max(1),
            };
            Ok(vocab)
        }
        "Unigram" => read_unigram(o, d),
        "WordLevel" => Err(Error::invalid("model: type \"WordLevel\" is not supported")),
        kind => Err(o.unknown(kind)),
    }
}

/// Puts a token at `id`, growing the vocabulary.
fn put(
    d: &mut Definition,
    id: u32,
    piece: &str,
    raw: bool,
    in_model: bool,
    score: f64,
    limit: usize,
) -> Result<()> {
    let at = id as usize;
    if at >= limit {
        return Err(Error::invalid(format_args!(
            "token {piece:?} has the id {id}, expected one below {limit}"
        )));
    }
    if at >= d.tokens.len() {
        d.tokens.resize_with(at + 1, Token::default);
    }
    if d.tokens[at].kind != TokenKind::Absent {
        return Err(Error::invalid(format_args!(
            "the tokens {:?} and {piece:?} have the same id {id}",
            String::from_utf8_lossy(&d.tokens[at].piece)
        )));
    }
    let bytes = raw.then(|| alphabet_to_bytes(piece)).flatten();
    d.tokens[at] = Token {
        raw: bytes.is_some(),
        piece: bytes.unwrap_or_else(|| piece.as_bytes().to_vec()),
        kind: TokenKind::Normal,
        in_model,
        score,
    };
    Ok(())
}

fn read_vocab(o: Obj, d: &mut Definition, raw: bool) -> Result<HashMap<String, u32>> {
    let place = o.place("vocab");
    let map = Obj::new(&place, o.get("vocab").ok_or_else(|| o.missing("vocab"))?)?.map;
    let limit = map.len() + MAX_HOLES;
    let mut vocab = HashMap::with_capacity(map.len());
    for (piece, id) in map {
        let id =
            as_u32(id).ok_or_else(|| wrong(&format!("{place}[{piece:?}]"), id, "a token id"))?;
        put(d, id, piece, raw, true, 0.0, limit)?;
        vocab.insert(piece.clone(), id);
    }
    Ok(vocab)
}

fn read_bpe(
    o: Obj,
    d: &mut Definition,
    vocab: &HashMap<String, u32>,
    byte_level: bool,
) -> Result<()> {
    if let Some(v) = o.get("dropout")
        && v.as_f64() != Some(0.0)
    {
        return Err(wrong(
            &o.place("dropout"),
            v,
            "null or 0: dropout would make encoding random",
        ));
    }
    let prefix = o.str("continuing_subword_prefix")?.unwrap_or("");
    let unk = match o.str("unk_token")? {
        // The source only fails once an unknown character turns up; a file that names a missing one is damaged.
        Some(t) => Some(*vocab.get(t).ok_or_else(|| {
            Error::invalid(format_args!(
                "{}: {t:?} is not in the vocabulary",
                o.place("unk_token")
            ))
        })?),
        None => None,
    };
    d.pipeline.model = ModelOptions::Bpe {
        byte_level,
        ignore_merges: o.bool("ignore_merges", false)?,
        byte_fallback: o.bool("byte_fallback", false)?,
        fuse_unk: o.bool("fuse_unk", false)?,
        unk,
        prefix: prefix.into(),
        suffix: o.str("end_of_word_suffix")?.unwrap_or("").into(),
        late_unk: false,
    };
    let list = o.array("merges")?;
    let mut merges = Vec::with_capacity(list.len());
    let mut joined = String::new();
    for (rank, v) in (0u32..).zip(list) {
        let place = || format!("{}[{rank}]", o.place("merges"));
        let pair = match v {
            Value::String(s) => s.split_once(' ').filter(|(_, b)| !b.contains(' ')),
            Value::Array(a) => match a.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (a, b) = pair.ok_or_else(|| wrong(&place(), v, "two tokens"))?;
        let id = |t: &str| {
            vocab.get(t).copied().ok_or_else(|| {
                Error::invalid(format_args!(
                    "{}: token {t:?} is not in the vocabulary",
                    place()
                ))
            })
        };
        joined.clear();
        joined.push_str(a);
        joined.push_str(b.get(prefix.len()..).ok_or_else(|| {
            Error::invalid(format_args!("{}: {b:?} has no prefix {prefix:?}", place()))
        })?);
        merges.push(Merge {
            left: id(a)?,
            right: id(b)?,
            rank,
            result: id(&joined)?,
        });
    }
    d.merges = Merges::Listed(merges);
    Ok(())
}

fn read_unigram(o: Obj, d: &mut Definition) -> Result<HashMap<String, u32>> {
    let list = o.array("vocab")?;
    if list.is_empty() {
        return Err(Error::invalid(format_args!("{}: empty", o.place("vocab"))));
    }
    let mut vocab = HashMap::with_capacity(list.len());
    let mut min = f64::INFINITY;
    let mut max = f64::NEG_INFINITY;
    for (id, v) in (0u32..).zip(list) {
        let entry = match v.as_array().map(Vec::as_slice) {
            Some([piece, score]) => piece.as_str().zip(score.as_f64()),
            _ => None,
        };
        let (piece, score) = entry
            .ok_or_else(|| wrong(&format!("{}[{id}]", o.place("vocab")), v, "[text, score]"))?;
        put(d, id, piece, false, true, score, list.len())?;
        vocab.insert(piece.to_owned(), id);
        min = min.min(score);
        max = max.max(score);
    }
    let unk = o.u32("unk_id")?;
    if let Some(unk) = unk
        && unk as usize >= list.len()
    {
        return Err(Error::invalid(format_args!(
            "{}: {unk}, but the vocabulary has {} tokens",
            o.place("unk_id"),
            list.len()
        )));
    }
    d.pipeline.model = ModelOptions::Unigram {
        unk,
        byte_fallback: o.bool("byte_fallback", false)?,
        // The penalty of the source.
        unk_score: min - 10.0,
        sentencepiece: false,
        max_score: max,
    };
    Ok(vocab)
}

fn added_token(o: Obj, id: u32) -> Result<AddedToken> {
    let special = o.bool("special", false)?;
    Ok(AddedToken {
        id,
        content: o.need_str("content")?.into(),
        special,
        single_word: o.bool("single_word", false)?,
        lstrip: o.bool("lstrip", false)?,
        rstrip: o.bool("rstrip", false)?,
        normalized: o.bool("normalized", !special)?,
    })
}

fn added_tokens(list: &[Value], vocab: &HashMap<String, u32>, d: &mut Definition) -> Result<()> {
    let mut seen = HashSet::new();
    for (i, v) in list.iter().enumerate() {
        let place = format!("added_tokens[{i}]");
        let o = Obj::new(&place, v)?;
        let id = o.u32("id")?.ok_or_else(|| o.missing("id"))?;
        let t = added_token(o, id)?;
        // Of two with the same text the first one counts.
        if !t.content.is_empty() && seen.insert(t.content.clone()) {
            add(d, t, vocab, list.len()).map_err(|e| e.at(&place))?;
        }
    }
    Ok(())
}

/// Adds a token; a text of the model's vocabulary keeps the model's id.
fn add(
    d: &mut Definition,
    mut t: AddedToken,
    vocab: &HashMap<String, u32>,
    more: usize,
) -> Result<()> {
    match vocab.get(&t.content) {
        Some(&id) => t.id = id,
        None => {
            let raw = d.pipeline.decoder.contains(&DecoderStep::ByteLevel) || byte_level(d);
            let limit = d.tokens.len().max(vocab.len() + more) + MAX_HOLES;
            put(d, t.id, &t.content, raw, false, 0.0, limit)?;
        }
    }
    d.added.push(t);
    Ok(())
}

/// Honours what the small files say beyond `tokenizer.json`: more added tokens, the names of the special ones, and whether a
/// Llama- or Gemma-style tokenizer adds BOS and EOS.
fn companions(beside: Companions, d: &mut Definition) -> Result<()> {
    let find = |d: &Definition, name: &str| {
        d.added
            .iter()
            .find(|a| a.content == name)
            .map(|a| a.id)
            .or_else(|| {
                let bytes = name.as_bytes();
                (0u32..)
                    .zip(&d.tokens)
                    .find(|(_, t)| t.kind != TokenKind::Absent && t.piece == bytes)
                    .map(|(id, _)| id)
            })
    };
    let config = match beside.tokenizer_config {
        Some(v) => Some(Obj::new("tokenizer_config.json", v)?),
        None => None,
    };
    if let Some(o) = config
        && let Some(v) = o.get("added_tokens_decoder")
    {
        let place = o.place("added_tokens_decoder");
        for (key, v) in Obj::new(&place, v)?.map {
            let place = format!("{place}[{key:?}]");
            let id = key
                .parse()
                .map_err(|_| Error::invalid(format_args!("{place}: the key is not a token id")))?;
            let t = added_token(Obj::new(&place, v)?, id)?;
            let free = d
                .tokens
                .get(id as usize)
                .is_none_or(|t| t.kind == TokenKind::Absent);
            if free && !t.content.is_empty() {
                add(d, t, &HashMap::new(), 0).map_err(|e| e.at(&place))?;
            }
        }
    }
    let name = |key: &str| -> Option<String> {
        let text = |v: &Value| {
            v.as_str()
                .or_else(|| v.get("content").and_then(Value::as_str))
                .map(str::to_owned)
        };
        [beside.tokenizer_config, beside.special_tokens_map]
            .into_iter()
            .flatten()
            .filter_map(|v| v.get(key))
            .find_map(text)
    };
    d.pipeline.bos = name("bos_token").and_then(|n| find(d, &n));
    d.pipeline.pad = name("pad_token").and_then(|n| find(d, &n));
    if let Some(eos) = name("eos_token").and_then(|n| find(d, &n)) {
        d.pipeline.eos = vec![eos];
    }
    let Some(o) = config else { return Ok(()) };
    let class = o.str("tokenizer_class")?.unwrap_or("");
    let class = class.strip_suffix("Fast").unwrap_or(class);
    // The classes that rebuild the template from these two switches.
    if !matches!(
        class,
        "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer" | "CohereTokenizer"
    ) {
        return Ok(());
    }
    let mut template = match d.pipeline.template.as_slice() {
        [] => vec![TemplateItem::Text],
        t => t.to_vec(),
    };
    if let (Some(add), Some(bos)) = (
        o.get("add_bos_token").and_then(Value::as_bool),
        d.pipeline.bos,
    ) {
        let has = template.first() == Some(&TemplateItem::Id(bos));
        if add && !has {
            template.insert(0, TemplateItem::Id(bos));
        } else if !add && has {
            template.remove(0);
        }
    }
    if let (Some(add), Some(&eos)) = (
        o.get("add_eos_token").and_then(Value::as_bool),
        d.pipeline.eos.first(),
    ) {
        let has = template.last() == Some(&TemplateItem::Id(eos));
        if add && !has {
            template.push(TemplateItem::Id(eos));
        } else if !add && has {
            template.pop();
        }
    }
    d.pipeline.template = if template == [TemplateItem::Text] {
        Vec::new()
    } else {
        template
    };
    Ok(())
}

/// Special tokens become control tokens, the model's unknown token the unknown one.
fn mark_kinds(d: &mut Definition) {
    for a in &d.added {
        if let Some(t) = d.tokens.get_mut(a.id as usize) {
            t.kind = if a.special {
                TokenKind::Control
            } else {
                TokenKind::UserDefined
            };
        }
    }
    let unk = match d.pipeline.model {
        ModelOptions::Bpe { unk, .. } | ModelOptions::Unigram { unk, .. } => unk,
        ModelOptions::WordPiece { unk, .. } => Some(unk),
    };
    if let Some(t) = unk.and_then(|id| d.tokens.get_mut(id as usize)) {
        t.kind = TokenKind::Unknown;
    }
}

/// Standard base64; `None` if `text` is not.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for &c in group {
            let v = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | v as u32;
        }
        if group.len() == 1 {
            return None;
        }
        bits <<= 6 * (4 - group.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(out)
}

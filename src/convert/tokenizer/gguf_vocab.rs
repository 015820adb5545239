//! The vocabulary in the metadata of a GGUF file, with the rules of llama.cpp.

use std::collections::{BTreeMap, HashMap};

use super::gguf_pre;
use crate::convert::gguf::{Scalar, Value};
use crate::error::{Error, Result};
use crate::tokenizer::{
    AddedToken, Behavior, DecoderStep, Definition, Merge, Merges, ModelOptions, Normalizer,
    Pattern, PreTokenizer, TemplateItem, Token, TokenKind, alphabet_to_bytes, byte_piece,
};

/// Texts that end a generation in whatever model has them; llama.cpp makes them control tokens.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Texts for fill-in-the-middle; llama.cpp makes them control tokens.
const FIM_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
];

/// Those of them that also end a generation.
const FIM_END_TEXTS: &[&str] = &[
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Channel marks that are shown as text.
const SHOWN_TEXTS: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// All metadata of a file by key.
pub type Metadata = BTreeMap<String, Value>;

struct Reader<'a> {
    meta: &'a Metadata,
}

impl<'a> Reader<'a> {
    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        Error::invalid(format_args!(
            "{key} is {}, expected {expected}",
            value.type_name()
        ))
    }

    fn string(&self, key: &str) -> Result<Option<&'a str>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => Err(self.wrong(key, v, "a string")),
        }
    }

    fn strings(&self, key: &str) -> Result<Option<&'a [String]>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Value::Strings(s)) => Ok(Some(s)),
            Some(v) => Err(self.wrong(key, v, "an array of strings")),
        }
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.wrong(key, v, "a boolean")),
        }
    }

    /// A special id, checked against the vocabulary.
    fn id(&self, key: &str, n_tokens: usize) -> Result<Option<u32>> {
        let Some(value) = self.meta.get(key) else {
            return Ok(None);
        };
        let id = match value {
            Value::Uint(v) => *v,
            // -1 stands for "none" in some files.
            Value::Int(-1) => return Ok(None),
            Value::Int(v) => u64::try_from(*v).map_err(|_| self.wrong(key, value, "a token id"))?,
            _ => return Err(self.wrong(key, value, "a token id")),
        };
        if id == u32::MAX as u64 {
            return Ok(None);
        }
        match u32::try_from(id) {
            Ok(v) if (v as usize) < n_tokens => Ok(Some(v)),
            _ => Err(Error::invalid(format_args!(
                "{key} is {id}, but the vocabulary has {n_tokens} tokens"
            ))),
        }
    }

    /// One number per token.
    fn numbers(&self, key: &str, kinds: &[Scalar], n_tokens: usize) -> Result<Option<Vec<f64>>> {
        let (kind, bytes) = match self.meta.get(key) {
            None => return Ok(None),
            Some(Value::Numbers(kind, bytes)) if kinds.contains(kind) => (*kind, bytes),
            Some(v) => {
                let expected = format!("an array of {kinds:?}");
                return Err(self.wrong(key, v, &expected));
            }
        };
        let out: Vec<f64> = bytes
            .chunks_exact(4)
            .map(|c| {
                let c = [c[0], c[1], c[2], c[3]];
                match kind {
                    Scalar::F32 => f32::from_le_bytes(c) as f64,
                    _ => i32::from_le_bytes(c) as f64,
                }
            })
            .collect();
        if out.len() < n_tokens {
            return Err(Error::invalid(format_args!(
                "{key} has {} entries, but the vocabulary has {n_tokens} tokens",
                out.len()
            )));
        }
        Ok(Some(out))
    }
}

/// The vocabulary before it is interpreted.
struct Vocab {
    texts: Vec<String>,
    ids: HashMap<String, u32>,
    kinds: Vec<TokenKind>,
    scores: Vec<f64>,
}

impl Vocab {
    fn read(r: &Reader) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let list = r
            .strings(key)?
            .ok_or_else(|| Error::invalid(format_args!("{key} is missing")))?;
        let n = list.len();
        if n == 0 {
            return Err(Error::invalid(format_args!("{key} is empty")));
        }
        let scores = r.numbers("tokenizer.ggml.scores", &[Scalar::F32, Scalar::I32], n)?;
        let types = r.numbers("tokenizer.ggml.token_type", &[Scalar::I32], n)?;
        let mut texts = Vec::with_capacity(n);
        let mut ids = HashMap::with_capacity(n);
        for (i, text) in (0u32..).zip(list) {
            let text = if text.is_empty() {
                format!("[EMPTY_{i}]")
            } else {
                text.clone()
            };
            if let Some(before) = ids.insert(text.clone(), i) {
                return Err(Error::invalid(format_args!(
                    "{key}: the tokens {before} and {i} are both {text:?}"
                )));
            }
            texts.push(text);
        }
        let kinds: Vec<TokenKind> = (0..n)
            .map(|i| match types.as_ref().map_or(1, |t| t[i] as i64) {
                2 => TokenKind::Unknown,
                3 => TokenKind::Control,
                4 => TokenKind::UserDefined,
                5 => TokenKind::Unused,
                6 => TokenKind::Byte,
                _ => TokenKind::Normal,
            })
            .collect();
        let byte = |i: &usize| kinds[*i] == TokenKind::Byte;
        if let Some(i) = (0..n)
            .filter(byte)
            .find(|&i| byte_piece(texts[i].as_bytes()).is_none())
        {
            return Err(Error::invalid(format_args!(
                "{key}: token {i} is the byte token {:?}, expected <0x00> to <0xFF>",
                texts[i]
            )));
        }
        Ok(Vocab {
            texts,
            ids,
            kinds,
            scores: scores.unwrap_or_else(|| vec![0.0; n]),
        })
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Finds the tokens that end a generation and corrects the kinds, as llama.cpp does.
    fn ends(&mut self, declared: &[Option<u32>]) -> Vec<u32> {
        let mut ends: Vec<u32> = declared.iter().flatten().copied().collect();
        for (texts, end) in [(END_TEXTS, true), (FIM_TEXTS, false), (FIM_END_TEXTS, true)] {
            for text in texts {
                if let Some(id) = self.id(text) {
                    self.kinds[id as usize] = TokenKind::Control;
                    if end {
                        ends.push(id);
                    }
                }
            }
        }
        for text in SHOWN_TEXTS {
            if let Some(id) = self.id(text) {
                self.kinds[id as usize] = TokenKind::UserDefined;
            }
        }
        let has = |ends: &[u32], t: &str| self.id(t).filter(|id| ends.contains(id));
        let calls = has(&ends, "<|call|>").or(has(&ends, "<|calls|>"));
        let returns = has(&ends, "<|return|>").or(has(&ends, "<|flush|>"));
        if let (Some(_), Some(_), Some(end)) = (calls, returns, has(&ends, "<|end|>")) {
            ends.retain(|&id| id != end);
            self.kinds[end as usize] = TokenKind::UserDefined;
        }
        let has = |ends: &[u32], t: &str| self.id(t).filter(|id| ends.contains(id));
        if let (Some(_), Some(s)) = (has(&ends, "<|tool_response>"), has(&ends, "</s>")) {
            ends.retain(|&id| id != s);
            self.kinds[s as usize] = TokenKind::Normal;
        }
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

/// Reads the vocabulary of a GGUF file.
///
/// # Errors
/// Invalid (3), naming the key: a missing or ill-typed entry, an id outside the vocabulary, an unknown model or pre-tokenizer.
pub fn read(meta: &Metadata) -> Result<Definition> {
    let r = Reader { meta };
    let model = r
        .string("tokenizer.ggml.model")?
        .ok_or_else(|| Error::invalid("tokenizer.ggml.model is missing"))?;
    if !matches!(model, "llama" | "gpt2" | "gemma4" | "bert" | "t5") {
        return Err(Error::invalid(format_args!(
            "tokenizer.ggml.model is {model:?}, expected llama, gpt2, gemma4, bert or t5"
        )));
    }
    let mut vocab = Vocab::read(&r)?;
    let n = vocab.texts.len();
    let id = |name: &str| r.id(&format!("tokenizer.ggml.{name}_token_id"), n);
    let default = |id: u32| Some(id).filter(|&id| (id as usize) < n);
    let (bos, eos, unk) = match model {
        "llama" => (default(1), default(2), default(0)),
        "bert" => (id("cls")?.or(default(101)), None, default(100)),
        "t5" => (None, default(1), default(2)),
        _ => (None, None, None),
    };
    let bos = id("bos")?.or(bos);
    let eos = id("eos")?.or(eos);
    let unk = id("unknown")?.or(unk);
    let pad = id("padding")?;
    let sep = id("seperator")?.or(id("separator")?);
    let sep = if model == "bert" {
        sep.or(default(102))
    } else {
        sep
    };
    let declared = [eos, id("eot")?, id("eom")?];
    let ends = vocab.ends(&declared);
    let mut d = Definition::default();
    d.pipeline.source = format!("GGUF ({model})");
    d.pipeline.bos = bos;
    d.pipeline.pad = pad;
    d.pipeline.eos = ends;
    let space = r.bool("tokenizer.ggml.add_space_prefix")?;
    let (add_bos, add_eos, add_sep) = match model {
        "llama" => {
            spm(&vocab, unk, space.unwrap_or(true), &mut d);
            (true, false, false)
        }
        "bert" => {
            bert(&r, &vocab, unk, &mut d)?;
            (true, false, true)
        }
        "t5" => {
            let space = space.unwrap_or(false);
            unigram(&r, &vocab, unk, space, &mut d)?;
            (false, true, false)
        }
        _ => {
            let pre = bpe(&r, model, &vocab, &mut d)?;
            (pre.add_bos, false, pre.add_sep)
        }
    };
    added(&r, &vocab, &mut d)?;
    let mut template = Vec::new();
    let on = |key: &str, default: bool| {
        r.bool(&format!("tokenizer.ggml.{key}"))
            .map(|b| b.unwrap_or(default))
    };
    let item = |on: bool, id: Option<u32>| id.filter(|_| on).map(TemplateItem::Id);
    template.extend(item(on("add_bos_token", add_bos)?, bos));
    template.push(TemplateItem::Text);
    template.extend(item(on("add_eos_token", add_eos)?, eos));
    template.extend(item(on("add_sep_token", add_sep)?, sep));
    if template != [TemplateItem::Text] {
        d.pipeline.template = template;
    }
    Ok(d)
}

fn metaspace_decoder(strip: bool, d: &mut Definition) {
    d.pipeline.decoder = vec![
        DecoderStep::Replace {
            pattern: Pattern::String("\u{2581}".into()),
            content: " ".into(),
        },
        DecoderStep::ByteFallback,
        DecoderStep::Fuse,
    ];
    if strip {
        d.pipeline.decoder.push(DecoderStep::Strip {
            content: ' ',
            start: 1,
            stop: 0,
        });
    }
}

fn escape_spaces(d: &mut Definition) {
    d.pipeline.normalizers.push(Normalizer::Replace {
        pattern: Pattern::String(" ".into()),
        content: "\u{2581}".into(),
    });
}

/// SentencePiece-style BPE by score.
fn spm(vocab: &Vocab, unk: Option<u32>, space: bool, d: &mut Definition) {
    if space {
        d.pipeline.normalizers.push(Normalizer::Prepend(" ".into()));
    }
    escape_spaces(d);
    metaspace_decoder(space, d);
    d.pipeline.model = ModelOptions::Bpe {
        byte_level: false,
        ignore_merges: false,
        byte_fallback: true,
        fuse_unk: true,
        unk,
        prefix: String::new(),
        suffix: String::new(),
        late_unk: true,
    };
    d.merges = Merges::ByScore;
    d.tokens = plain_tokens(vocab);
}

/// Tokens as the file writes them; unused ones are ordinary.
fn plain_tokens(vocab: &Vocab) -> Vec<Token> {
    (0..vocab.texts.len())
        .map(|i| Token {
            piece: vocab.texts[i].clone().into_bytes(),
            kind: match vocab.kinds[i] {
                TokenKind::Unused => TokenKind::Normal,
                kind => kind,
            },
            raw: false,
            in_model: true,
            score: vocab.scores[i],
        })
        .collect()
}

/// Byte-pair encoding by listed merges.
fn bpe(r: &Reader, model: &str, vocab: &Vocab, d: &mut Definition) -> Result<gguf_pre::Pre> {
    let key = "tokenizer.ggml.pre";
    let name = match r.string(key)? {
        _ if model == "gemma4" => "gemma4",
        Some("") | None => "default",
        Some(name) => name,
    };
    let pre = gguf_pre::lookup(name)
        .ok_or_else(|| Error::invalid(format_args!("{key}: unknown pre-tokenizer {name:?}")))?;
    for p in pre.patterns {
        d.pipeline.pre_tokenizers.push(PreTokenizer::Split {
            pattern: Pattern::Regex((*p).into()),
            behavior: Behavior::Isolated,
            invert: false,
        });
    }
    d.tokens = plain_tokens(vocab);
    if pre.metaspace {
        escape_spaces(d);
        metaspace_decoder(false, d);
    } else {
        d.pipeline.pre_tokenizers.push(PreTokenizer::ByteLevel {
            add_prefix_space: false,
            use_regex: false,
        });
        d.pipeline.decoder = vec![DecoderStep::ByteLevel];
        for t in d.tokens.iter_mut().filter(|t| t.kind == TokenKind::Normal) {
            let text = std::str::from_utf8(&t.piece).unwrap_or("");
            if let Some(bytes) = alphabet_to_bytes(text) {
                t.piece = bytes;
                t.raw = true;
            }
        }
    }
    d.pipeline.model = ModelOptions::Bpe {
        byte_level: !pre.metaspace,
        ignore_merges: pre.ignore_merges,
        byte_fallback: pre.metaspace,
        fuse_unk: false,
        unk: None,
        prefix: String::new(),
        suffix: String::new(),
        late_unk: false,
    };
    let key = "tokenizer.ggml.merges";
    let list = r
        .strings(key)?
        .ok_or_else(|| Error::invalid(format_args!("{key} is missing")))?;
    let mut merges = Vec::with_capacity(list.len());
    let mut joined = String::new();
    for (rank, text) in (0u32..).zip(list) {
        // The left side may begin with a space, but is not empty.
        let skip = text.chars().next().map_or(0, char::len_utf8);
        let cut = text[skip..].find(' ').map(|i| i + skip);
        let (a, b) = cut.map(|i| (&text[..i], &text[i + 1..])).ok_or_else(|| {
            Error::invalid(format_args!("{key}[{rank}]: {text:?}, expected two tokens"))
        })?;
        let id = |t: &str| {
            vocab.id(t).ok_or_else(|| {
                Error::invalid(format_args!(
                    "{key}[{rank}]: token {t:?} is not in the vocabulary"
                ))
            })
        };
        joined.clear();
        joined.push_str(a);
        joined.push_str(b);
        merges.push(Merge {
            left: id(a)?,
            right: id(b)?,
            rank,
            result: id(&joined)?,
        });
    }
    d.merges = Merges::Listed(merges);
    Ok(pre)
}

fn bert(r: &Reader, vocab: &Vocab, unk: Option<u32>, d: &mut Definition) -> Result<()> {
    let key = "tokenizer.ggml.unknown_token_id";
    let unk = unk.ok_or_else(|| Error::invalid(format_args!("{key} is missing")))?;
    let lowercase = r
        .bool("tokenizer.ggml.normalizer.lowercase")?
        .unwrap_or(true);
    let strip_accents = r
        .bool("tokenizer.ggml.normalizer.strip_accents")?
        .unwrap_or(lowercase);
    d.pipeline.normalizers.push(Normalizer::LlamaBert {
        lowercase,
        strip_accents,
    });
    d.pipeline
        .pre_tokenizers
        .push(PreTokenizer::CharDelimiter(' '));
    d.pipeline.decoder.push(DecoderStep::WordPiece {
        prefix: "##".into(),
        cleanup: true,
    });
    d.pipeline.model = ModelOptions::WordPiece {
        unk,
        prefix: "##".into(),
        max_chars: 0,
    };
    d.tokens = plain_tokens(vocab);
    // The file marks the beginning of words, the model the inside of words.
    for t in d.tokens.iter_mut().filter(|t| t.kind == TokenKind::Normal) {
        if let Some(word) = t.piece.strip_prefix("\u{2581}".as_bytes()) {
            t.piece = word.to_vec();
        } else if !(t.piece.starts_with(b"[") && t.piece.ends_with(b"]")) {
            t.piece.splice(0..0, *b"##");
        }
    }
    Ok(())
}

fn unigram(
    r: &Reader,
    vocab: &Vocab,
    unk: Option<u32>,
    space: bool,
    d: &mut Definition,
) -> Result<()> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    d.charsmap = match r.meta.get(key) {
        None => Vec::new(),
        Some(Value::Numbers(Scalar::U8 | Scalar::I8, bytes)) => bytes.clone(),
        Some(v) => return Err(r.wrong(key, v, "an array of bytes")),
    };
    d.pipeline.normalizers.push(Normalizer::SentencePiece {
        charsmap: !d.charsmap.is_empty(),
        add_dummy_prefix: space,
        remove_extra_whitespaces: r
            .bool("tokenizer.ggml.remove_extra_whitespaces")?
            .unwrap_or(false),
        escape_whitespaces: true,
        whitespace_suffix: false,
    });
    d.pipeline.decoder.push(DecoderStep::Metaspace {
        replacement: '\u{2581}',
        prepend: space,
    });
    d.tokens = plain_tokens(vocab);
    let mut min = f64::INFINITY;
    for (t, kind) in d.tokens.iter_mut().zip(&vocab.kinds) {
        t.in_model = matches!(
            kind,
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused
        );
        match kind {
            TokenKind::Normal => min = min.min(t.score),
            // As likely as can be, so that they win over what they are made of.
            TokenKind::UserDefined => t.score = 0.0,
            _ => {}
        }
    }
    d.pipeline.model = ModelOptions::Unigram {
        unk,
        byte_fallback: false,
        unk_score: if min.is_finite() { min - 10.0 } else { -10.0 },
        sentencepiece: false,
        max_score: 0.0,
    };
    Ok(())
}

/// Control and unknown tokens are found in the text on request, user-defined ones always.
fn added(r: &Reader, vocab: &Vocab, d: &mut Definition) -> Result<()> {
    let name = r.string("general.name")?.unwrap_or("").to_lowercase();
    let pre = r.string("tokenizer.ggml.pre")?.unwrap_or("");
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    let lstrip = if ["jina-v2-de", "jina-v2-es", "jina-v2-code"]
        .iter()
        .any(|p| pre.contains(p))
    {
        "<mask>"
    } else if name.contains("modern-bert") {
        "[MASK]"
    } else {
        ""
    };
    for ((id, text), kind) in (0u32..).zip(&vocab.texts).zip(&vocab.kinds) {
        let special = match kind {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined => false,
            _ => continue,
        };
        d.added.push(AddedToken {
            id,
            content: text.clone(),
            special,
            lstrip: text == lstrip,
            rstrip: phi3 && !matches!(text.as_str(), "<unk>" | "<s>" | "<|endoftext|>"),
            ..AddedToken::default()
        });
    }
    Ok(())
}

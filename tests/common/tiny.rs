//! A tiny model in a file, with a byte-level vocabulary.

use super::{Small, model_bytes, small_spec};
use quern::file::meta::key;
use quern::file::{Meta, Value};
use quern::tokenizer::{DecoderStep, Definition, Merges, Pipeline, TemplateItem, Token, TokenKind};
use quern_kernels::Format;
use std::path::{Path, PathBuf};

/// The beginning-of-sequence id: ids below it are the bytes.
pub const BOS: u32 = 256;
/// The usual end-of-sequence id.
pub const EOS: u32 = 257;
/// Ids from here on are pieces of several characters.
const PIECES: [&str; 14] = [
    " the", " a", "ing", " и", "жить", "…", "日本", "😀", "\n\n", "</", "end>", " of", "e\u{301}",
    " 42",
];
/// Rows of the embedding.
pub const VOCAB: u32 = 258 + PIECES.len() as u32;

/// What may differ between tiny models.
#[derive(Clone, Copy, Debug)]
pub struct Tiny {
    /// Format of all matrices.
    pub format: Format,
    /// Positions.
    pub context: u32,
    /// The id that ends a text.
    pub eos: u32,
    /// Whether there is a tokenizer.
    pub tokenizer: bool,
    /// Multiplier of the logits.
    pub loudness: f32,
    /// The chat template.
    pub template: Option<&'static str>,
}

/// A chat template in which `<s>` begins a message and `</s>` ends it.
pub const TEMPLATE: &str = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}\
{% if add_generation_prompt %}<s>assistant: {% endif %}";

impl Default for Tiny {
    fn default() -> Self {
        Tiny {
            format: Format::F32,
            context: 256,
            eos: EOS,
            tokenizer: true,
            // The most probable ids stand out, as in a real model.
            loudness: 4.0,
            template: None,
        }
    }
}

/// The prepared tokenizer: every byte is a token; no merges.
pub fn tokenizer(eos: u32) -> Vec<u8> {
    let control = |text: &str| Token {
        piece: text.into(),
        kind: TokenKind::Control,
        ..Token::default()
    };
    let plain = |piece: Vec<u8>| Token {
        piece,
        kind: TokenKind::Normal,
        raw: true,
        in_model: true,
        score: 0.0,
    };
    let bytes = (0..=255u8).map(|b| plain(vec![b]));
    let pieces = PIECES.iter().map(|p| plain(p.as_bytes().to_vec()));
    let definition = Definition {
        tokens: bytes
            .chain([control("<s>"), control("</s>")])
            .chain(pieces)
            .collect(),
        pipeline: Pipeline {
            decoder: vec![DecoderStep::ByteLevel],
            template: vec![TemplateItem::Id(BOS), TemplateItem::Text],
            bos: Some(BOS),
            eos: vec![eos],
            model: super::byte_level(),
            source: "tests".into(),
            ..Pipeline::default()
        },
        merges: Merges::Listed(Vec::new()),
        ..Definition::default()
    };
    definition.to_prepared().expect("a valid definition")
}

/// The bytes of the model's file.
pub fn bytes(tiny: Tiny) -> Vec<u8> {
    // Sizes that no tile divides.
    let mut spec = small_spec(Small {
        vocab: VOCAB,
        hidden: 36,
        inner: 44,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        window: None,
        context: tiny.context,
    });
    spec.head.as_mut().unwrap().scale = tiny.loudness;
    let mut meta = Meta::new();
    meta.set(key::NAME, Value::String("tiny".into()));
    meta.set(key::BOS, Value::U32(BOS));
    meta.set(key::EOS, Value::U32s(vec![tiny.eos]));
    if let Some(template) = tiny.template {
        meta.set(key::CHAT_TEMPLATE, Value::String(template.into()));
    }
    let tokenizer = match tiny.tokenizer {
        true => tokenizer(tiny.eos),
        false => Vec::new(),
    };
    model_bytes(&spec, tiny.format, meta, tokenizer)
}

/// A model file in a folder of its own; both go when the value goes.
pub struct TinyFile {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl TinyFile {
    /// Writes it.
    pub fn new(tiny: Tiny) -> TinyFile {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("tiny.quern");
        std::fs::write(&path, bytes(tiny)).expect("a file");
        TinyFile {
            _folder: folder,
            path,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same as an argument.
    pub fn arg(&self) -> &str {
        self.path.to_str().expect("a UTF-8 path")
    }
}

//! A model that says what it is told: every token is followed by one other, whatever came before.
//!
//! The residual stream has one place per token. The embedding puts a one there, a network of zeros adds nothing, and the row of the head for
//! token v looks at the place of the token that v follows.

use quern::file::meta::key;
use quern::file::{Meta, Value, Writer, WriterPlan};
use quern::tokenizer::{AddedToken, DecoderStep, Definition, Merges, Pipeline, Token, TokenKind};
use quern_kernels::{Format, PANEL_ROWS};
use quern_models::spec::*;
use std::path::PathBuf;

/// Ids below it are the bytes, `<end>` is it, `<user>`, `<system>` and `<assistant>` come then, and the words of the script.
const END: u32 = 256;
const ASSISTANT: u32 = END + 3;

/// What the model's chats look like.
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A model file in a folder of its own; both go when the value goes.
pub struct Script {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Script {
    /// A model whose every answer is these words, which must differ from each other; `control` are those of them that are control tokens.
    /// After the last word comes the end of the answer, or the first word again if `endless`.
    pub fn new(words: &[&str], control: &[&str], endless: bool) -> Script {
        let vocab = ASSISTANT + 1 + words.len() as u32;
        let first = ASSISTANT + 1;
        let mut follows = vec![END; vocab as usize];
        follows[ASSISTANT as usize] = first;
        for id in first..vocab {
            follows[id as usize] = match (id + 1 < vocab, endless) {
                (true, _) => id + 1,
                (false, true) => first,
                (false, false) => END,
            };
        }
        let spec = spec(vocab);
        let mut meta = Meta::new();
        meta.set(key::NAME, Value::String("script".into()));
        meta.set(key::EOS, Value::U32s(vec![END]));
        meta.set(key::CHAT_TEMPLATE, Value::String(TEMPLATE.into()));
        let mut plan = WriterPlan::new(spec.clone(), meta, |_| Format::F32);
        plan.tokenizer = tokenizer(words, control);
        let mut writer = Writer::in_memory(plan).expect("a plan");
        for tensor in spec.tensors() {
            match tensor.shape {
                Shape::Vector(len) => writer
                    .write_vector(&vec![1.0; len as usize])
                    .expect("a vector"),
                Shape::Matrix { rows, cols, .. } => {
                    let (rows, cols) = (rows as usize, cols as usize);
                    let mut values = vec![0.0; rows * cols];
                    for id in 0..vocab as usize {
                        match tensor.key.role {
                            Role::TokenEmbedding => values[id * cols + id] = 1.0,
                            Role::Head => values[follows[id] as usize * cols + id] = 30.0,
                            _ => {}
                        }
                    }
                    for rows in values.chunks(PANEL_ROWS * cols) {
                        let bytes = Format::F32.panel_bytes(cols).expect("a small model");
                        let mut panel = vec![0; bytes];
                        Format::F32.pack_panel(rows, rows.len() / cols, cols, &mut panel);
                        writer.write_tensor_chunk(&panel).expect("a panel");
                    }
                    writer.finish_tensor().expect("a matrix");
                }
            }
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("script.quern");
        std::fs::write(&path, writer.finish().expect("a file")).expect("a file");
        Script {
            _folder: folder,
            path,
        }
    }

    /// Where it is, as an argument.
    pub fn arg(&self) -> &str {
        self.path.to_str().expect("a UTF-8 path")
    }
}

fn spec(vocab: u32) -> Spec {
    let norm = Norm {
        kind: NormKind::Rms,
        eps: 1e-5,
        weight: true,
        bias: false,
    };
    let dense = Op::Dense(Dense::gated(8, Activation::Silu));
    Spec {
        vocab_size: vocab,
        hidden: vocab,
        context_length: 1 << 20,
        embed: Embed::scaled(1.0),
        ropes: Vec::new(),
        encoder: None,
        decoder: Stack {
            layers: vec![Layer {
                blocks: vec![Block::pre_norm(norm, dense)],
            }],
            streams: None,
            final_norm: None,
        },
        head: Some(Head {
            tied: false,
            bias: false,
            scale: 1.0,
            softcap: None,
            width: None,
        }),
        embedding: None,
    }
}

fn tokenizer(words: &[&str], control: &[&str]) -> Vec<u8> {
    let special = ["<end>", "<user>", "<system>", "<assistant>"];
    let is_control = |piece: &str| special.contains(&piece) || control.contains(&piece);
    let pieces: Vec<&str> = special.iter().chain(words).copied().collect();
    let token = |piece: &[u8], control: bool| Token {
        piece: piece.to_vec(),
        kind: match control {
            true => TokenKind::Control,
            false => TokenKind::Normal,
        },
        raw: !control,
        in_model: !control,
        score: 0.0,
    };
    let bytes = (0..=255u8).map(|b| token(&[b], false));
    let named = pieces.iter().map(|p| token(p.as_bytes(), is_control(p)));
    let added = pieces.iter().enumerate().filter(|(_, p)| is_control(p));
    let definition = Definition {
        tokens: bytes.chain(named).collect(),
        added: added
            .map(|(i, piece)| AddedToken {
                id: END + i as u32,
                content: (*piece).to_owned(),
                special: true,
                ..AddedToken::default()
            })
            .collect(),
        merges: Merges::Listed(Vec::new()),
        pipeline: Pipeline {
            decoder: vec![DecoderStep::ByteLevel],
            eos: vec![END],
            model: super::byte_level(),
            source: "tests".into(),
            ..Pipeline::default()
        },
        ..Definition::default()
    };
    definition.to_prepared().expect("a valid definition")
}

//! The tokenizer file of llama2.c: `i32 longest token`, then per token `f32 score, i32 length, bytes`, up to the end of the
//! file. It is a SentencePiece BPE vocabulary whose `▁` were written as spaces; ids 0, 1 and 2 are unknown, BOS and EOS.

use crate::error::{Error, Result};
use crate::tokenizer::{
    AddedToken, DecoderStep, Definition, Merges, ModelOptions, Normalizer, TemplateItem, Token,
    TokenKind, byte_piece,
};

/// Whether the bytes are a file of this kind: its records end exactly where the file does.
pub fn is_tok_bin(bytes: &[u8]) -> bool {
    matches!(records(bytes), Ok(r) if r.len() > 3)
}

fn records(bytes: &[u8]) -> Result<Vec<(f32, &[u8])>> {
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..)?.first_chunk().copied() };
    let bad = |at: usize, what: &str| {
        Err(Error::invalid(format_args!(
            "llama2.c tokenizer: byte {at}: {what}"
        )))
    };
    let Some(longest) = word(0).map(i32::from_le_bytes) else {
        return bad(0, "the file ends inside its header");
    };
    if longest <= 0 {
        return bad(
            0,
            &format!("longest token {longest}, expected a positive length"),
        );
    }
    let mut at = 4;
    let mut out = Vec::new();
    while at < bytes.len() {
        let (Some(score), Some(len)) = (word(at), word(at + 4)) else {
            return bad(at, "the file ends inside a token");
        };
        let len = i32::from_le_bytes(len);
        let piece = usize::try_from(len)
            .ok()
            .filter(|&n| n <= longest as usize)
            .and_then(|n| bytes.get(at + 8..)?.get(..n));
        let Some(piece) = piece else {
            return bad(
                at + 4,
                &format!("token length {len}, expected 0 to {longest} inside the file"),
            );
        };
        out.push((f32::from_le_bytes(score), piece));
        at += 8 + piece.len();
    }
    Ok(out)
}

/// Reads a file.
///
/// # Errors
/// Invalid (3) with the byte offset.
pub fn read(bytes: &[u8]) -> Result<Definition> {
    let records = records(bytes)?;
    if records.len() < 4 {
        return Err(Error::invalid(format_args!(
            "llama2.c tokenizer: {} tokens, expected more than 3",
            records.len()
        )));
    }
    let mut d = Definition::default();
    for (i, (score, piece)) in records.iter().enumerate() {
        let text = std::str::from_utf8(piece).map_err(|_| {
            Error::invalid(format_args!("llama2.c tokenizer: token {i} is not UTF-8"))
        })?;
        if score.is_nan() {
            return Err(Error::invalid(format_args!(
                "llama2.c tokenizer: the score of token {i} is not a number"
            )));
        }
        let (kind, text) = match i {
            0 => (TokenKind::Unknown, text.to_owned()),
            1 | 2 => (TokenKind::Control, text.trim().to_owned()),
            _ if byte_piece(piece).is_some() => (TokenKind::Byte, text.to_owned()),
            _ => (TokenKind::Normal, text.replace(' ', "\u{2581}")),
        };
        if i < 3 && !text.is_empty() {
            d.added.push(AddedToken {
                id: i as u32,
                content: text.clone(),
                special: true,
                ..AddedToken::default()
            });
        }
        d.tokens.push(Token {
            piece: text.into_bytes(),
            kind,
            raw: false,
            in_model: true,
            score: *score as f64,
        });
    }
    let p = &mut d.pipeline;
    p.source = "llama2.c".into();
    p.bos = Some(1);
    p.eos = vec![2];
    p.template = vec![TemplateItem::Id(1), TemplateItem::Text];
    p.normalizers = vec![Normalizer::SentencePiece {
        charsmap: false,
        add_dummy_prefix: true,
        remove_extra_whitespaces: false,
        escape_whitespaces: true,
        whitespace_suffix: false,
    }];
    p.decoder = vec![DecoderStep::SentencePiece {
        strip_first: true,
        strip_all: false,
        unk_surface: " \u{2047} ".into(),
    }];
    p.model = ModelOptions::Bpe {
        byte_level: false,
        ignore_merges: false,
        byte_fallback: true,
        fuse_unk: true,
        unk: Some(0),
        prefix: String::new(),
        suffix: String::new(),
        late_unk: true,
    };
    d.merges = Merges::ByScore;
    Ok(d)
}

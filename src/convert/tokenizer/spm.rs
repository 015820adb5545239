//! SentencePiece model files: a protocol buffer, decoded by hand within bounds.
//!
//! ```text
//! ModelProto      1 pieces*  2 trainer_spec  3 normalizer_spec
//! SentencePiece   1 piece (string)  2 score (float)  3 type (NORMAL 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE 6)
//! TrainerSpec     3 model_type (UNIGRAM 1, BPE 2)  24 treat_whitespace_as_suffix  35 byte_fallback
//!                 44 unk_surface  46 bos_piece  47 eos_piece  48 pad_piece
//! NormalizerSpec  2 precompiled_charsmap  3 add_dummy_prefix  4 remove_extra_whitespaces  5 escape_whitespaces
//! ```

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::tokenizer::{
    AddedToken, DecoderStep, Definition, Merges, ModelOptions, Normalizer, TemplateItem, Token,
    TokenKind, byte_piece,
};

/// One field of a message.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    /// 64-bit fields, which no field of ours uses.
    Other,
}

/// The fields of a message, one after the other.
struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where `bytes` begins in the file.
    base: usize,
}

impl<'a> Message<'a> {
    fn bad(&self, what: &str) -> Error {
        Error::invalid(format_args!(
            "sentencepiece model: byte {}: {what}",
            self.base + self.at
        ))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let b = *self
                .bytes
                .get(self.at)
                .ok_or_else(|| self.bad("the file ends inside a number"))?;
            self.at += 1;
            value |= ((b & 0x7f) as u64) << shift;
            if b < 0x80 {
                return Ok(value);
            }
        }
        Err(self.bad("a number is longer than 10 bytes"))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let part = usize::try_from(n).ok().and_then(|n| rest.get(..n));
        let part = part.ok_or_else(|| {
            self.bad(&format!(
                "a field of {n} bytes, but {} are left",
                rest.len()
            ))
        })?;
        self.at += part.len();
        Ok(part)
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>, usize)>> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(n)?)
            }
            5 => {
                let b = self.take(4)?;
                Field::Fixed32([b[0], b[1], b[2], b[3]])
            }
            kind => return Err(self.bad(&format!("field type {kind}, expected 0, 1, 2 or 5"))),
        };
        Ok(Some((tag >> 3, field, self.base + self.at)))
    }
}

/// What the specs say.
struct Spec<'a> {
    model_type: u64,
    whitespace_suffix: bool,
    byte_fallback: bool,
    unk_surface: &'a str,
    bos: &'a str,
    eos: &'a str,
    pad: &'a str,
    charsmap: &'a [u8],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::invalid(format_args!("sentencepiece model: {what} is not UTF-8")))
}

/// Reads a model file.
///
/// # Errors
/// Invalid (3) with the byte offset, for damage and for what SentencePiece itself refuses.
pub fn read(bytes: &[u8]) -> Result<Definition> {
    let mut spec = Spec {
        model_type: 1,
        whitespace_suffix: false,
        byte_fallback: false,
        unk_surface: " \u{2047} ",
        bos: "<s>",
        eos: "</s>",
        pad: "<pad>",
        charsmap: &[],
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
    };
    let mut tokens: Vec<Token> = Vec::new();
    let mut m = Message {
        bytes,
        at: 0,
        base: 0,
    };
    while let Some((number, field, end)) = m.next()? {
        let Field::Bytes(inner) = field else { continue };
        let inner = Message {
            bytes: inner,
            at: 0,
            base: end - inner.len(),
        };
        match number {
            1 => tokens.push(piece(inner, tokens.len())?),
            2 => trainer(inner, &mut spec)?,
            3 => normalizer(inner, &mut spec)?,
            _ => {}
        }
    }
    check(&tokens, &spec)?;
    definition(tokens, &spec)
}

fn piece(mut m: Message, index: usize) -> Result<Token> {
    let (mut piece, mut score, mut kind) = (&[][..], 0f32, 1);
    while let Some((number, field, _)) = m.next()? {
        match (number, field) {
            (1, Field::Bytes(b)) => piece = b,
            (2, Field::Fixed32(b)) => score = f32::from_le_bytes(b),
            (3, Field::Varint(v)) => kind = v,
            _ => {}
        }
    }
    if piece.is_empty() {
        return Err(m.bad(&format!("piece {index} is empty")));
    }
    text(piece, &format!("piece {index}"))?;
    if score.is_nan() {
        return Err(m.bad(&format!("the score of piece {index} is not a number")));
    }
    Ok(Token {
        piece: piece.to_vec(),
        kind: match kind {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return Err(m.bad(&format!("piece {index} has the unknown type {kind}"))),
        },
        raw: false,
        in_model: true,
        score: score as f64,
    })
}

fn trainer<'a>(mut m: Message<'a>, spec: &mut Spec<'a>) -> Result<()> {
    while let Some((number, field, _)) = m.next()? {
        match (number, field) {
            (3, Field::Varint(v)) => spec.model_type = v,
            (24, Field::Varint(v)) => spec.whitespace_suffix = v != 0,
            (35, Field::Varint(v)) => spec.byte_fallback = v != 0,
            (44, Field::Bytes(b)) => spec.unk_surface = text(b, "unk_surface")?,
            (46, Field::Bytes(b)) => spec.bos = text(b, "bos_piece")?,
            (47, Field::Bytes(b)) => spec.eos = text(b, "eos_piece")?,
            (48, Field::Bytes(b)) => spec.pad = text(b, "pad_piece")?,
            _ => {}
        }
    }
    Ok(())
}

fn normalizer<'a>(mut m: Message<'a>, spec: &mut Spec<'a>) -> Result<()> {
    while let Some((number, field, _)) = m.next()? {
        match (number, field) {
            (2, Field::Bytes(b)) => spec.charsmap = b,
            (3, Field::Varint(v)) => spec.add_dummy_prefix = v != 0,
            (4, Field::Varint(v)) => spec.remove_extra_whitespaces = v != 0,
            (5, Field::Varint(v)) => spec.escape_whitespaces = v != 0,
            _ => {}
        }
    }
    Ok(())
}

fn check(tokens: &[Token], spec: &Spec) -> Result<()> {
    let bad = |what: String| Err(Error::invalid(format_args!("sentencepiece model: {what}")));
    if tokens.is_empty() {
        return bad("no pieces".into());
    }
    if !matches!(spec.model_type, 1 | 2) {
        return bad(format!(
            "model_type {}, expected 1 (unigram) or 2 (bpe)",
            spec.model_type
        ));
    }
    let mut seen = HashSet::with_capacity(tokens.len());
    let mut unknown = 0;
    let mut bytes = [false; 256];
    for (i, t) in tokens.iter().enumerate() {
        let name = String::from_utf8_lossy(&t.piece);
        let plain = matches!(
            t.kind,
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused
        );
        if !seen.insert((plain, t.piece.as_slice())) {
            return bad(format!("piece {i}: {name:?} is already defined"));
        }
        match t.kind {
            TokenKind::Unknown => unknown += 1,
            TokenKind::Byte if !spec.byte_fallback => {
                return bad(format!("byte piece {name:?}, but byte_fallback is off"));
            }
            TokenKind::Byte => match byte_piece(&t.piece) {
                Some(b) => bytes[b as usize] = true,
                None => {
                    return bad(format!(
                        "piece {i}: {name:?} is not a byte piece, expected <0x00> to <0xFF>"
                    ));
                }
            },
            _ => {}
        }
    }
    if unknown != 1 {
        return bad(format!("{unknown} pieces of type UNKNOWN, expected 1"));
    }
    if spec.byte_fallback && bytes.contains(&false) {
        return bad("byte_fallback is on, but not all 256 byte pieces exist".into());
    }
    Ok(())
}

fn definition(tokens: Vec<Token>, spec: &Spec) -> Result<Definition> {
    let mut d = Definition::default();
    let id = |kind: TokenKind, name: &str| {
        (0u32..)
            .zip(&tokens)
            .find(|(_, t)| t.kind == kind && (name.is_empty() || t.piece == name.as_bytes()))
            .map(|(id, _)| id)
    };
    let unk = id(TokenKind::Unknown, "");
    let control = |name: &str| {
        (!name.is_empty())
            .then(|| id(TokenKind::Control, name))
            .flatten()
    };
    let p = &mut d.pipeline;
    p.source = "sentencepiece".into();
    p.bos = control(spec.bos);
    p.eos = control(spec.eos).into_iter().collect();
    p.pad = control(spec.pad);
    p.normalizers.push(Normalizer::SentencePiece {
        charsmap: !spec.charsmap.is_empty(),
        add_dummy_prefix: spec.add_dummy_prefix,
        remove_extra_whitespaces: spec.remove_extra_whitespaces,
        escape_whitespaces: spec.escape_whitespaces,
        whitespace_suffix: spec.whitespace_suffix,
    });
    p.decoder.push(DecoderStep::SentencePiece {
        strip_first: spec.add_dummy_prefix,
        strip_all: spec.remove_extra_whitespaces,
        unk_surface: spec.unk_surface.into(),
    });
    d.charsmap = spec.charsmap.to_vec();
    let bpe = spec.model_type == 2;
    // The file does not say which of these a model wants; Llama and Gemma take BOS, T5 takes EOS.
    match (bpe, p.bos, p.eos.first()) {
        (true, Some(bos), _) => p.template = vec![TemplateItem::Id(bos), TemplateItem::Text],
        (false, None, Some(&eos)) => p.template = vec![TemplateItem::Text, TemplateItem::Id(eos)],
        _ => {}
    }
    if bpe {
        p.model = ModelOptions::Bpe {
            byte_level: false,
            ignore_merges: false,
            byte_fallback: spec.byte_fallback,
            fuse_unk: true,
            unk,
            prefix: String::new(),
            suffix: String::new(),
            late_unk: true,
        };
        d.merges = Merges::ByScore;
    } else {
        let normal = tokens.iter().filter(|t| t.kind == TokenKind::Normal);
        let (min, max) = normal.fold((f32::MAX, f32::MIN_POSITIVE), |(lo, hi), t| {
            (lo.min(t.score as f32), hi.max(t.score as f32))
        });
        p.model = ModelOptions::Unigram {
            unk,
            byte_fallback: spec.byte_fallback,
            // The penalty of the source, in its precision.
            unk_score: (min - 10.0) as f64,
            sentencepiece: true,
            max_score: max as f64,
        };
    }
    for (id, t) in (0u32..).zip(&tokens) {
        let special = match t.kind {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined => false,
            _ => continue,
        };
        d.added.push(AddedToken {
            id,
            content: String::from_utf8_lossy(&t.piece).into_owned(),
            special,
            // Found after normalisation, which leaves them alone.
            normalized: !special,
            ..AddedToken::default()
        });
    }
    d.tokens = tokens;
    Ok(d)
}

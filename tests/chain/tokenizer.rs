//! A small byte-level tokenizer: 256 bytes, any words as whole tokens, two control tokens.

use quern::tokenizer::{
    AddedToken, DecoderStep, Definition, Merges, ModelOptions, Pipeline, PreTokenizer,
    TemplateItem, Token, TokenKind,
};

/// The id of the first word; the tokens before it are the bytes 0 to 255.
pub const FIRST_WORD: u32 = 256;

/// A tokenizer in which every one of `words` is one token ([`FIRST_WORD`] and on), any other text is bytes, and `<begin>` stands
/// before it. The words must be such as GPT-2's split makes them: letters or punctuation, with at most one space in front.
/// After the words come `<begin>` and `<end>`.
pub fn byte_level(words: &[&str]) -> Definition {
    let normal = |piece: &[u8]| Token {
        piece: piece.to_vec(),
        kind: TokenKind::Normal,
        raw: true,
        in_model: true,
        score: 0.0,
    };
    let control = |piece: &str| Token {
        piece: piece.as_bytes().to_vec(),
        kind: TokenKind::Control,
        ..Token::default()
    };
    let begin = FIRST_WORD + words.len() as u32;
    let end = begin + 1;
    let mut tokens: Vec<Token> = (0..=255u8).map(|b| normal(&[b])).collect();
    tokens.extend(words.iter().map(|w| normal(w.as_bytes())));
    tokens.extend(["<begin>", "<end>"].map(control));
    let special = |id, content: &str| AddedToken {
        id,
        content: content.to_owned(),
        special: true,
        ..AddedToken::default()
    };
    Definition {
        tokens,
        added: vec![special(begin, "<begin>"), special(end, "<end>")],
        merges: Merges::Listed(Vec::new()),
        charsmap: Vec::new(),
        pipeline: Pipeline {
            pre_tokenizers: vec![PreTokenizer::ByteLevel {
                add_prefix_space: false,
                use_regex: true,
            }],
            decoder: vec![DecoderStep::ByteLevel],
            template: vec![TemplateItem::Id(begin), TemplateItem::Text],
            bos: Some(begin),
            eos: vec![end],
            model: ModelOptions::Bpe {
                byte_level: true,
                // Whole words are looked up before anything is merged, so no merge is needed.
                ignore_merges: true,
                byte_fallback: false,
                fuse_unk: false,
                unk: None,
                prefix: String::new(),
                suffix: String::new(),
                late_unk: false,
            },
            source: "constructed".to_owned(),
            ..Pipeline::default()
        },
    }
}

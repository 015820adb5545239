//! Tests of whole small tokenizers: against a plain implementation of byte-pair encoding, of streams, of damaged tables.

use super::*;
use crate::bytes::Bytes;

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

fn open(d: &Definition) -> Tokenizer {
    Tokenizer::from_prepared(Bytes::from(d.to_prepared().unwrap())).unwrap()
}

fn bpe(late_unk: bool, byte_level: bool) -> ModelOptions {
    ModelOptions::Bpe {
        byte_level,
        ignore_merges: false,
        byte_fallback: false,
        fuse_unk: true,
        unk: None,
        prefix: String::new(),
        suffix: String::new(),
        late_unk,
    }
}

fn token(piece: &str, score: f64) -> Token {
    Token {
        piece: piece.into(),
        kind: TokenKind::Normal,
        raw: false,
        in_model: true,
        score,
    }
}

/// The definition itself: join the best-scored neighbours, the leftmost of equals, until no join is a token.
fn plain_bpe(vocab: &[(String, f64)], text: &str) -> Vec<String> {
    let score = |s: &str| vocab.iter().find(|(p, _)| p == s).map(|(_, score)| *score);
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f64, usize)> = None;
        for i in 0..parts.len().saturating_sub(1) {
            if let Some(s) = score(&format!("{}{}", parts[i], parts[i + 1]))
                && best.is_none_or(|b| s > b.0)
            {
                best = Some((s, i));
            }
        }
        let Some((_, i)) = best else { return parts };
        let right = parts.remove(i + 1);
        parts[i].push_str(&right);
    }
}

#[test]
fn merging_by_score_is_what_the_definition_says() {
    let mut r = Random(1);
    for round in 0..60 {
        let letters = ["a", "b", "é"];
        let mut vocab: Vec<(String, f64)> = Vec::new();
        // Not every letter is a token by itself.
        for l in &letters[..2 + round % 2] {
            vocab.push(((*l).into(), -100.0));
        }
        for _ in 0..30 {
            let len = 2 + r.below(7);
            let piece: String = (0..len).map(|_| letters[r.below(3)]).collect();
            if !vocab.iter().any(|(p, _)| *p == piece) {
                // Few different scores, so that there are ties.
                vocab.push((piece, -(r.below(12) as f64)));
            }
        }
        for n in 2..6 {
            let piece = "a".repeat(1 << n);
            if !vocab.iter().any(|(p, _)| *p == piece) && r.below(3) > 0 {
                vocab.push((piece, -(r.below(12) as f64)));
            }
        }
        let mut d = Definition {
            tokens: vocab.iter().map(|(p, s)| token(p, *s)).collect(),
            merges: Merges::ByScore,
            ..Definition::default()
        };
        d.pipeline.model = bpe(true, false);
        let t = open(&d);
        for _ in 0..25 {
            let n = [3, 20, 60, 300][r.below(4)];
            let text: String = match r.below(3) {
                0 => "a".repeat(n),
                1 => "a".repeat(n) + &"b".repeat(r.below(50)) + &"a".repeat(r.below(90)),
                _ => (0..n).map(|_| letters[r.below(3)]).collect(),
            };
            let want: Vec<u32> = plain_bpe(&vocab, &text)
                .iter()
                .filter_map(|p| vocab.iter().position(|(v, _)| v == p))
                .map(|i| i as u32)
                .collect();
            let got = t.encode(&text, EncodeOptions::default()).unwrap();
            assert_eq!(got, want, "{vocab:?} on {text:?}");
        }
    }
}

/// A tokenizer with every kind of table: added tokens, merges, byte fallback, a template.
fn rich() -> Definition {
    let mut d = Definition::default();
    for p in [
        "<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab", "abab", "é", "中",
    ] {
        d.tokens.push(token(p, -(d.tokens.len() as f64)));
    }
    d.tokens[0].kind = TokenKind::Unknown;
    d.tokens[1].kind = TokenKind::Control;
    d.tokens[2].kind = TokenKind::Control;
    for b in 0..=255u8 {
        let mut t = token(&format!("<0x{b:02X}>"), 0.0);
        t.kind = TokenKind::Byte;
        d.tokens.push(t);
    }
    d.merges = Merges::ByScore;
    d.pipeline.model = ModelOptions::Bpe {
        byte_level: false,
        ignore_merges: false,
        byte_fallback: true,
        fuse_unk: true,
        unk: Some(0),
        prefix: String::new(),
        suffix: String::new(),
        late_unk: true,
    };
    d.pipeline.normalizers = vec![
        Normalizer::Nfc,
        Normalizer::Replace {
            pattern: Pattern::String(" ".into()),
            content: "▁".into(),
        },
    ];
    d.pipeline.pre_tokenizers = vec![PreTokenizer::Split {
        pattern: Pattern::Regex(r"\p{L}+|\s+(?!\S)".into()),
        behavior: Behavior::Isolated,
        invert: false,
    }];
    d.pipeline.decoder = vec![
        DecoderStep::Replace {
            pattern: Pattern::String("▁".into()),
            content: " ".into(),
        },
        DecoderStep::ByteFallback,
        DecoderStep::Fuse,
        DecoderStep::Strip {
            content: ' ',
            start: 1,
            stop: 0,
        },
    ];
    d.pipeline.template = vec![TemplateItem::Id(1), TemplateItem::Text];
    d.pipeline.bos = Some(1);
    d.pipeline.eos = vec![2];
    for (id, content) in [(1, "<s>"), (2, "</s>")] {
        d.added.push(AddedToken {
            id,
            content: content.into(),
            special: true,
            ..AddedToken::default()
        });
    }
    d
}

#[test]
fn control_tokens_come_from_plain_text_only_on_request() {
    let t = open(&rich());
    let encode = |parse_special| {
        let options = EncodeOptions {
            add_special: false,
            parse_special,
        };
        t.encode("a</s>b", options).unwrap()
    };
    assert!(encode(true).contains(&2));
    assert!(!encode(false).iter().any(|&id| t.is_control(id)));
    assert_eq!(
        t.decode(&encode(false), DecodeOptions::default()).unwrap(),
        "a</s>b"
    );
    let skip = DecodeOptions { skip_special: true };
    assert_eq!(t.decode(&[1, 4, 2], skip).unwrap(), "a");
    assert!(t.decode(&[u32::MAX], skip).is_err());
    assert_eq!(t.id_of("▁ab"), Some(7));
    assert_eq!(t.id_of("</s>"), Some(2));
    assert_eq!(t.id_of("nothing"), None);
    assert_eq!(t.token_bytes(7).unwrap(), b" ab");
    assert_eq!(t.token_bytes(11 + 0xc3).unwrap(), [0xc3]);
}

/// Decoders that hold text back in different ways.
fn decoders() -> Vec<Vec<DecoderStep>> {
    let replace = || DecoderStep::Replace {
        pattern: Pattern::String("▁".into()),
        content: " ".into(),
    };
    let strip = |start, stop| DecoderStep::Strip {
        content: ' ',
        start,
        stop,
    };
    vec![
        vec![],
        vec![DecoderStep::ByteLevel],
        vec![
            replace(),
            DecoderStep::ByteFallback,
            DecoderStep::Fuse,
            strip(1, 0),
        ],
        vec![DecoderStep::Fuse, replace(), strip(1, 1)],
        vec![DecoderStep::ByteFallback, strip(1, 1)],
        vec![DecoderStep::Bpe { suffix: "b".into() }],
        vec![DecoderStep::JoinSpace],
        vec![DecoderStep::Metaspace {
            replacement: '▁',
            prepend: true,
        }],
        vec![DecoderStep::SentencePiece {
            strip_first: true,
            strip_all: false,
            unk_surface: " ⁇ ".into(),
        }],
        vec![DecoderStep::WordPiece {
            prefix: "▁".into(),
            cleanup: true,
        }],
    ]
}

#[test]
fn a_stream_says_what_the_whole_says_in_whole_characters() {
    let mut r = Random(7);
    for decoder in decoders() {
        let mut d = rich();
        d.pipeline.decoder = decoder.clone();
        let t = open(&d);
        for _ in 0..300 {
            let ids: Vec<u32> = (0..r.below(12))
                .map(|_| match r.below(3) {
                    // Pieces, lead bytes and continuation bytes, so that characters are often complete.
                    0 => r.below(11),
                    1 => 11 + [0xc3, 0xe4, 0xf0, 0x41][r.below(4)],
                    _ => 11 + 0x80 + r.below(64),
                } as u32)
                .collect();
            let whole = t.decode(&ids, DecodeOptions::default()).unwrap();
            let mut stream = t.decoder(DecodeOptions::default());
            let mut parts = String::new();
            for &id in &ids {
                stream.push(id, &mut parts).unwrap();
            }
            stream.finish(&mut parts).unwrap();
            assert_eq!(parts, whole, "{decoder:?} {ids:?}");
        }
    }
    // A character whose bytes come one by one appears with its last byte.
    let mut d = rich();
    d.pipeline.decoder = vec![DecoderStep::SentencePiece {
        strip_first: true,
        strip_all: false,
        unk_surface: String::new(),
    }];
    let t = open(&d);
    let mut stream = t.decoder(DecodeOptions::default());
    let mut said = |id: u32| {
        let mut text = String::new();
        stream.push(id, &mut text).unwrap();
        text
    };
    assert_eq!(said(11 + 0xc3), "");
    assert_eq!(said(11 + 0xa9), "é");
    assert_eq!(said(11 + 0xc3), "");
    let mut rest = String::new();
    stream.finish(&mut rest).unwrap();
    assert_eq!(rest, "\u{fffd}");
}

/// Whatever the bytes hold: an error, or a tokenizer that neither panics nor hangs.
fn survives(bytes: Vec<u8>) {
    let Ok(t) = Tokenizer::from_prepared(Bytes::from(bytes)) else {
        return;
    };
    for parse_special in [false, true] {
        let options = EncodeOptions {
            add_special: true,
            parse_special,
        };
        if let Ok(ids) = t.encode(
            " abab</s>éa中中\u{1f600} ababababababababababababababababababababababab",
            options,
        ) {
            let _ = t.decode(&ids, DecodeOptions::default());
        }
    }
    let all: Vec<u32> = (0..t.vocab_size().min(300) as u32).collect();
    for id in all {
        let _ = t.decode(&[id], DecodeOptions::default());
        let _ = (t.piece(id), t.token_bytes(id), t.is_control(id));
    }
}

#[test]
fn damaged_tables_never_panic() {
    let good = rich().to_prepared().unwrap();
    survives(good.clone());
    for n in (0..good.len()).step_by(97) {
        survives(good[..n].to_vec());
    }
    let mut r = Random(3);
    for at in (0..good.len()).filter(|at| *at < 400 || at % 5 == 0) {
        let mut bad = good.clone();
        bad[at] ^= [0x01, 0x80, 0xff, 0x10][r.below(4)];
        survives(bad);
    }
    // Fields of four bytes.
    for at in (0..good.len() - 4).step_by(20) {
        for value in [0u32, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
            survives(bad);
        }
    }
}

#[test]
fn a_definition_that_does_not_fit_is_refused() {
    let check = |change: &dyn Fn(&mut Definition), message: &str| {
        let mut d = rich();
        change(&mut d);
        let e = d.to_prepared().unwrap_err();
        assert_eq!(e.exit_code(), 3);
        assert!(e.to_string().contains(message), "{e}");
    };
    check(&|d| d.tokens.clear(), "0 tokens");
    check(&|d| d.pipeline.bos = Some(1000), "bos_token_id is 1000");
    check(&|d| d.pipeline.eos = vec![2, 267], "eos_token_id is 267");
    check(
        &|d| d.pipeline.template.push(TemplateItem::Id(9999)),
        "9999",
    );
    check(&|d| d.added[0].id = 5000, "5000");
    check(&|d| d.tokens[4].score = f64::NAN, "score");
    check(&|d| d.charsmap = vec![1, 2, 3], "precompiled_charsmap");
}

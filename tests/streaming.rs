//! Text that comes token by token is the text that comes at once, wherever the tokens cut it.

use crate::common::tiny::{self, EOS};
use quern::bytes::Bytes;
use quern::generate::stops::Stops;
use quern::tokenizer::{DecodeOptions, Tokenizer};
use std::sync::Arc;

const TEXT: &str = "the жить… 日本語 😀e\u{301}\n\n</end></en 42 of a ing\u{0}\u{7f}ÿ\u{10ffff}";

/// Ids whose pieces concatenate to the text: at every place a byte, or a longer piece if one fits and the coin says so.
fn split(tokenizer: &Tokenizer, mut coins: u64) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = TEXT.as_bytes();
    while let [byte, ..] = rest {
        coins = coins
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let fits = |id: &u32| {
            let piece = tokenizer.token_bytes(*id).unwrap_or_default();
            !piece.is_empty() && rest.starts_with(&piece)
        };
        let longer = (EOS + 1..tokenizer.vocab_size() as u32).find(fits);
        let id = match longer {
            Some(id) if coins >> 63 == 1 => id,
            _ => u32::from(*byte),
        };
        rest = &rest[tokenizer.token_bytes(id).expect("a piece").len()..];
        ids.push(id);
    }
    ids
}

#[test]
fn ten_thousand_random_splits_of_a_text_stream_to_the_whole() {
    let prepared: Arc<Vec<u8>> = Arc::new(tiny::tokenizer(EOS));
    let tokenizer = Tokenizer::from_prepared(Bytes::new(prepared)).expect("a tokenizer");
    let skip_special = true;
    for case in 0..10_000u64 {
        let ids = split(&tokenizer, case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert_eq!(
            tokenizer
                .decode(&ids, DecodeOptions { skip_special })
                .expect("text"),
            TEXT
        );
        // A stop string that never comes, but whose beginnings do.
        let mut stops = Stops::new(&["</end>!".to_owned(), "日本人".to_owned()]);
        let mut decoder = tokenizer.decoder(DecodeOptions { skip_special });
        let mut text = String::new();
        for id in ids {
            let mut piece = String::new();
            decoder.push(id, &mut piece).expect("text");
            assert!(!stops.push(&piece, &mut text));
        }
        let mut rest = String::new();
        decoder.finish(&mut rest).expect("text");
        stops.push(&rest, &mut text);
        stops.finish(&mut text);
        assert_eq!(text, TEXT, "case {case}");
    }
}

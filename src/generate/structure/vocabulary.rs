//! What a grammar needs to know of a vocabulary: the bytes of each id in a trie, and how the tokenizer writes bytes in the middle of a text.

use crate::error::{Error, Result};
use crate::tokenizer::{EncodeOptions, TokenKind, Tokenizer};
use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use std::sync::Arc;

/// The trie holds nothing longer (a parent is 10 bits away at most). Longer ids are not written under a grammar.
const LONGEST_TOKEN: usize = 1000;
/// Nodes of the trie have 22 bits, and no more than one is made of a byte.
const MOST_BYTES: usize = (1 << 22) - 1;
/// Ids are written in 24 bits, of which the last is taken.
const MOST_IDS: usize = (1 << 24) - 2;
/// Stands before a text that is in the middle of another, for tokenizers that put something at the beginning of every text.
const BEFORE: &str = "\u{2}";

/// The vocabulary of a model for grammars; made once, used for any number of them.
pub struct Vocabulary {
    pub(super) factory: ParserFactory,
    /// One bit per id: whether it is text.
    pub(super) text: Vec<u32>,
    /// How many ids the tokenizer has. The one behind the last stands for the end of the text.
    pub(super) ids: usize,
}

struct Env {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
    middle: Middle,
}

/// How a text in the middle of another is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Middle {
    /// As any text.
    Plain,
    /// Behind [`BEFORE`], which is this many ids.
    Behind(usize),
    /// It cannot be told apart from its beginning; the longest ids of the trie are taken, and nothing is forced.
    Unknown,
}

impl Vocabulary {
    /// Reads the bytes of all ids, for one text: a fifth of a second for 128,256 ids.
    ///
    /// # Errors
    /// As [`Vocabulary::for_many`].
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Result<Vocabulary> {
        Self::build(tokenizer, &[])
    }

    /// Reads the bytes of all ids, for many texts: what may stand in JSON strings is found out beforehand, which takes as long again and is worth
    /// it after some two thousand tokens.
    ///
    /// # Errors
    /// Invalid: a tokenizer whose ids are not parts of a text. Limit: a vocabulary that is too large.
    pub fn for_many(tokenizer: &Arc<Tokenizer>) -> Result<Vocabulary> {
        Self::build(tokenizer, &SlicedBiasComputer::general_slices())
    }

    fn build(tokenizer: &Arc<Tokenizer>, slices: &[String]) -> Result<Vocabulary> {
        if tokenizer.kind() == "WordPiece" {
            return Err(Error::invalid(
                "the tokenizer is WordPiece, whose words do not tell what is between them; a grammar needs another one",
            ));
        }
        let ids = tokenizer.vocab_size();
        let mut words: Vec<Vec<u8>> = Vec::new();
        let mut text = vec![0u32; ids / 32 + 1];
        let mut bytes = 0;
        for id in 0..ids as u32 {
            let word = writable(tokenizer, id).unwrap_or_default();
            if !word.is_empty() {
                text[id as usize / 32] |= 1 << (id % 32);
            }
            bytes += word.len();
            words.push(word);
        }
        if ids > MOST_IDS || bytes > MOST_BYTES {
            return Err(Error::limit(format_args!(
                "the vocabulary has {ids} ids of {bytes} bytes, and a grammar can be used with {MOST_IDS} of {MOST_BYTES} at most"
            )));
        }
        // A special token by its first byte, as llguidance has them.
        words.push(b"\xff<end>".to_vec());
        let end = ids as u32;
        let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
        let mut env = Env {
            tokenizer: tokenizer.clone(),
            trie,
            middle: Middle::Unknown,
        };
        env.middle = env.find_middle();
        let env: TokEnv = Arc::new(env);
        let factory = ParserFactory::new(
            &env,
            InferenceCapabilities {
                ff_tokens: env.tokenize_is_canonical(),
                ..InferenceCapabilities::default()
            },
            slices,
        );
        let mut factory =
            factory.map_err(|e| Error::invalid(format_args!("the vocabulary: {e}")))?;
        factory.quiet();
        *factory.limits_mut() = super::limits();
        Ok(Vocabulary { factory, text, ids })
    }
}

/// The bytes of an id that may be written: text, and no part of what cannot be UTF-8.
fn writable(tokenizer: &Tokenizer, id: u32) -> Option<Vec<u8>> {
    let is_text = matches!(
        tokenizer.token_kind(id),
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte
    );
    if !is_text || tokenizer.is_control(id) {
        return None;
    }
    let bytes = tokenizer.token_bytes(id)?;
    let fits = bytes.len() <= LONGEST_TOKEN && !bytes.contains(&0xff);
    fits.then_some(bytes)
}

impl Env {
    /// The ids of a text as the tokenizer has them; none if they are not ids of exactly this text.
    fn encode(&self, text: &str, middle: Middle) -> Option<Vec<u32>> {
        let options = EncodeOptions::default();
        let ids = match middle {
            Middle::Plain => self.tokenizer.encode(text, options).ok()?,
            Middle::Behind(n) => {
                let longer = [BEFORE, text].concat();
                let mut ids = self.tokenizer.encode(&longer, options).ok()?;
                ids.drain(..n.min(ids.len()));
                ids
            }
            Middle::Unknown => return None,
        };
        (self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
    }

    /// The first way that gives back every one of some texts.
    fn find_middle(&self) -> Middle {
        let before = self.tokenizer.encode(BEFORE, EncodeOptions::default());
        let ways = [
            Middle::Plain,
            Middle::Behind(before.map_or(0, |ids| ids.len())),
        ];
        let probes = ["a", " a", "\": \"", "{\"", "Name", "1", "\n", "é"];
        let works = |way: &Middle| probes.iter().all(|p| self.encode(p, *way).is_some());
        ways.into_iter().find(works).unwrap_or(Middle::Unknown)
    }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let ids = self.encode(text, self.middle);
            ids.unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.middle != Middle::Unknown
    }
}

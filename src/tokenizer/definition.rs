//! What a tokenizer is, independent of the file it came from: the builder that importers fill and that
//! [`Definition::to_prepared`] turns into the flat form the runtime uses.
//!
//! The pipeline is that of Hugging Face `tokenizers`: added tokens are cut out of the text, the rest is normalised, split into
//! words (pre-tokenizers), each word is encoded by the model, a template adds the special tokens; decoding runs the pieces
//! through the decoder steps. SentencePiece, tiktoken, llama.cpp and llama2.c tokenizers are expressed in the same terms.

use serde::{Deserialize, Serialize};

/// Text or regular expression that a step looks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Pattern {
    /// The text itself.
    String(String),
    /// A regular expression in the syntax of Oniguruma or `fancy-regex`.
    Regex(String),
}

/// One step of text normalisation, applied to each piece of text between added tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Normalizer {
    /// Canonical composition.
    Nfc,
    /// Canonical decomposition.
    Nfd,
    /// Compatibility composition.
    Nfkc,
    /// Compatibility decomposition.
    Nfkd,
    /// Every character replaced by its lower-case mapping, without context (final sigma stays `σ`).
    Lowercase,
    /// White space removed at the start and the end of the text.
    Strip {
        /// At the start.
        left: bool,
        /// At the end.
        right: bool,
    },
    /// Characters of general category M removed.
    StripAccents,
    /// Every match replaced.
    Replace {
        /// What is looked for.
        pattern: Pattern,
        /// What stands in its place.
        content: String,
    },
    /// Text put before a non-empty text.
    Prepend(String),
    /// The cleaning of BERT.
    Bert {
        /// Control characters removed, white space turned into spaces.
        clean_text: bool,
        /// Spaces put around CJK ideographs.
        chinese: bool,
        /// Canonical decomposition, then non-spacing marks removed.
        strip_accents: bool,
        /// Lower case.
        lowercase: bool,
    },
    /// A SentencePiece character map (section `charsmap`) as `tokenizers` applies it: per grapheme, then per character.
    Precompiled,
    /// SentencePiece's own normaliser: character map by longest prefix, then the handling of white space.
    SentencePiece {
        /// The section `charsmap` holds a map.
        charsmap: bool,
        /// A space is put before the text.
        add_dummy_prefix: bool,
        /// Leading, trailing and repeated spaces are removed.
        remove_extra_whitespaces: bool,
        /// Spaces become U+2581.
        escape_whitespaces: bool,
        /// The dummy space stands at the end instead.
        whitespace_suffix: bool,
    },
    /// The cleaning rules of the NMT models.
    Nmt,
    /// Bytes written in the printable alphabet of GPT-2.
    ByteLevel,
    /// llama.cpp's BERT rules: control characters dropped, words cut at white space, punctuation, ASCII symbols and CJK
    /// ideographs (each a word of its own). The result has one space between words.
    LlamaBert {
        /// Lower case.
        lowercase: bool,
        /// Canonical decomposition, then marks removed.
        strip_accents: bool,
    },
}

/// What happens to the matches of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// They are dropped.
    Removed,
    /// They are words of their own.
    Isolated,
    /// They end the word before.
    MergedWithPrevious,
    /// They begin the word after.
    MergedWithNext,
    /// Neighbouring matches form one word.
    Contiguous,
}

/// When a leading space is supplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prepend {
    /// Before every piece of text.
    Always,
    /// Before the piece at the start of the whole text.
    First,
    /// Never.
    Never,
}

/// One step of cutting a text into words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum PreTokenizer {
    /// The bytes of the text in GPT-2's alphabet, after GPT-2's split.
    ByteLevel {
        /// A space is put before a text that has none.
        add_prefix_space: bool,
        /// The split of GPT-2 is applied.
        use_regex: bool,
    },
    /// Spaces become `replacement`; words begin at it.
    Metaspace {
        /// The character for a space (U+2581).
        replacement: char,
        /// When one is put in front.
        prepend: Prepend,
        /// Whether to cut at all.
        split: bool,
    },
    /// A split at matches of a pattern.
    Split {
        /// The pattern.
        pattern: Pattern,
        /// What becomes of the matches.
        behavior: Behavior,
        /// Matches and the text between them change places.
        invert: bool,
    },
    /// Numeric characters apart from the rest.
    Digits {
        /// Each on its own.
        individual: bool,
    },
    /// `\w+|[^\w\s]+`.
    Whitespace,
    /// Words between white space.
    WhitespaceSplit,
    /// White space removed, punctuation isolated.
    Bert,
    /// Punctuation.
    Punctuation(Behavior),
    /// A cut at one character, which is removed.
    CharDelimiter(char),
    /// A cut where the script changes.
    UnicodeScripts,
    /// Words of so many characters.
    FixedLength(u32),
}

/// One step of turning pieces back into text. A text is the concatenation of the last step's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum DecoderStep {
    /// GPT-2's alphabet back to bytes; invalid UTF-8 becomes U+FFFD.
    ByteLevel,
    /// `replacement` back to spaces; those of the first piece are dropped if one was put in front.
    Metaspace {
        /// The character for a space (U+2581).
        replacement: char,
        /// Whether encoding puts one in front.
        prepend: bool,
    },
    /// Runs of `<0xNN>` pieces back to text.
    ByteFallback,
    /// All pieces become one.
    Fuse,
    /// Characters removed at the ends of each piece.
    Strip {
        /// The character.
        content: char,
        /// At most so many at the start.
        start: u32,
        /// At most so many at the end.
        stop: u32,
    },
    /// Every match replaced.
    Replace {
        /// What is looked for.
        pattern: Pattern,
        /// What stands in its place.
        content: String,
    },
    /// Pieces joined by spaces unless they begin with the prefix.
    WordPiece {
        /// The prefix of a piece inside a word.
        prefix: String,
        /// Spaces before punctuation and English contractions removed.
        cleanup: bool,
    },
    /// A word-end suffix turned into spaces.
    Bpe {
        /// The suffix.
        suffix: String,
    },
    /// Repeated pieces collapsed, padding removed.
    Ctc {
        /// The padding piece.
        pad: String,
        /// The piece between words.
        delimiter: String,
        /// As for WordPiece.
        cleanup: bool,
    },
    /// SentencePiece's own rules: control pieces vanish, U+2581 becomes a space, a leading one is dropped.
    SentencePiece {
        /// A leading space is dropped.
        strip_first: bool,
        /// All leading spaces are dropped.
        strip_all: bool,
        /// What the unknown piece shows as.
        unk_surface: String,
    },
    /// Pieces joined by one space.
    JoinSpace,
}

/// One item of the template that adds special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TemplateItem {
    /// A token.
    Id(u32),
    /// The ids of the text.
    Text,
}

/// The small parts of a tokenizer, stored as JSON inside the prepared form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Normalisers, in order.
    pub normalizers: Vec<Normalizer>,
    /// Pre-tokenizers, in order.
    pub pre_tokenizers: Vec<PreTokenizer>,
    /// Decoder steps, in order; none at all means plain concatenation.
    pub decoder: Vec<DecoderStep>,
    /// The template; empty means the text alone.
    pub template: Vec<TemplateItem>,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// Tokens that end a generation.
    pub eos: Vec<u32>,
    /// Padding token.
    pub pad: Option<u32>,
    /// The model's options.
    pub model: ModelOptions,
    /// Where it came from, for people ("tokenizer.json", "sentencepiece", ...).
    pub source: String,
}

/// Which algorithm encodes a word, and its options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ModelOptions {
    /// Byte-pair encoding by merge rank.
    Bpe {
        /// The symbols are bytes (GPT-2's alphabet in the source), not characters.
        byte_level: bool,
        /// A word that is a token as a whole is not merged.
        ignore_merges: bool,
        /// An unknown character becomes its `<0xNN>` tokens.
        byte_fallback: bool,
        /// Neighbouring unknown characters become one unknown token.
        fuse_unk: bool,
        /// The unknown token.
        unk: Option<u32>,
        /// Put before every character but the first of a word.
        prefix: String,
        /// Put behind the last character of a word.
        suffix: String,
        /// SentencePiece rules: unknown characters may be merged and are replaced after merging, not before.
        late_unk: bool,
    },
    /// The most probable segmentation.
    Unigram {
        /// The unknown token.
        unk: Option<u32>,
        /// An unknown character becomes its `<0xNN>` tokens.
        byte_fallback: bool,
        /// Score of an unknown character.
        unk_score: f64,
        /// SentencePiece's arithmetic (f32 sums) and its bonus for user-defined pieces; `f64` otherwise.
        sentencepiece: bool,
        /// The best score, for that bonus.
        max_score: f64,
    },
    /// Greedy longest match.
    WordPiece {
        /// The unknown token.
        unk: u32,
        /// Put before every piece but the first of a word.
        prefix: String,
        /// A longer word (in characters) is unknown; 0 means no limit.
        max_chars: u32,
    },
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions::WordPiece {
            unk: 0,
            prefix: String::new(),
            max_chars: 0,
        }
    }
}

/// What a token is, as far as encoding and decoding differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// No token has this id.
    #[default]
    Absent,
    /// Ordinary text.
    Normal,
    /// The unknown token.
    Unknown,
    /// A control token: never made from plain text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Never produced; taken apart again after a merge.
    Unused,
    /// One byte, written `<0xNN>`.
    Byte,
}

/// One entry of the vocabulary; its id is its index.
#[derive(Clone, Debug, Default)]
pub struct Token {
    /// The piece as text, or its raw bytes if `raw`.
    pub piece: Vec<u8>,
    /// What it is.
    pub kind: TokenKind,
    /// `piece` holds the bytes themselves; the source wrote them in GPT-2's alphabet.
    pub raw: bool,
    /// The model can produce it; false for tokens that exist only as added tokens.
    pub in_model: bool,
    /// Log-probability (Unigram) or merge priority (SentencePiece BPE).
    pub score: f64,
}

/// A token that is looked for in the text before anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// A control token: found in the text only on request.
    pub special: bool,
    /// Only between non-word characters.
    pub single_word: bool,
    /// White space on the left belongs to it.
    pub lstrip: bool,
    /// White space on the right belongs to it.
    pub rstrip: bool,
    /// Looked for after normalisation.
    pub normalized: bool,
}

/// One rule of byte-pair encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The left token.
    pub left: u32,
    /// The right token.
    pub right: u32,
    /// Lower ranks are applied first; equal ranks from left to right.
    pub rank: u32,
    /// What the two become.
    pub result: u32,
}

/// The merge rules of a byte-pair encoding.
#[derive(Clone, Debug, Default)]
pub enum Merges {
    /// Not a byte-pair encoding.
    #[default]
    None,
    /// As listed in the source.
    Listed(Vec<Merge>),
    /// Any two neighbours whose concatenation is a token merge, higher `score` first (SentencePiece, tiktoken, llama2.c).
    ByScore,
}

/// A whole tokenizer as an importer describes it.
#[derive(Clone, Debug, Default)]
pub struct Definition {
    /// The vocabulary.
    pub tokens: Vec<Token>,
    /// Added tokens.
    pub added: Vec<AddedToken>,
    /// The merge rules.
    pub merges: Merges,
    /// SentencePiece's precompiled character map; empty if there is none.
    pub charsmap: Vec<u8>,
    /// Everything small.
    pub pipeline: Pipeline,
}

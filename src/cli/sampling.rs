//! The flags that say how ids are chosen; every command that generates text has them. Names and defaults are llama.cpp's.

use crate::error::{Error, Result};
use crate::file::Meta;
use crate::file::meta::key;
use crate::sample::{Breakers, LONGEST_BREAKER, Mirostat, Params, Step};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use std::hash::{BuildHasher, Hasher};

/// What DRY does not reach across unless told otherwise.
const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// How ids are chosen.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the sampler: the same seed gives the same text on every machine (-1: a new one every time, which is the default but for a
    /// batch, where it is 0)
    #[arg(short, long, value_name = "SEED", allow_hyphen_values = true, value_parser = parse_seed)]
    pub seed: Option<Seed>,
    /// Temperature; 0 takes the most probable token every time (default here and for the next three: what the model file says, else 0.8)
    #[arg(
        long,
        visible_alias = "temperature",
        value_name = "T",
        allow_negative_numbers = true
    )]
    pub temp: Option<f32>,
    /// Sample from the K most probable tokens; 0: from all (default: 40)
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Sample from the fewest tokens whose probabilities sum up to P; 1: from all (default: 0.95)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Leave out tokens with less than P of the greatest probability; 0: none (default: 0.05)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Sample from the tokens whose surprise is nearest to what is expected, up to a probability of P; 1: from all
    #[arg(long, visible_alias = "typical-p", value_name = "P", allow_negative_numbers = true, default_value_t = Params::default().typical)]
    pub typical: f32,
    /// Sample from logits within N standard deviations of the greatest; -1: from all
    #[arg(long, visible_alias = "top-nsigma", value_name = "N", allow_negative_numbers = true, default_value_t = Params::default().top_n_sigma)]
    pub top_n_sigma: f32,
    /// Let the temperature go with the entropy, from T-R to T+R; 0: do not
    #[arg(
        long,
        value_name = "R",
        allow_negative_numbers = true,
        default_value_t = 0.0
    )]
    pub dynatemp_range: f32,
    /// Power of the entropy in that
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = Params::default().dynatemp_exponent)]
    pub dynatemp_exp: f32,
    /// Make recent tokens less probable; 1: do not (default: what the model file says, else 1)
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Take this from the logits of recent tokens
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.0
    )]
    pub presence_penalty: f32,
    /// Take this from the logits of recent tokens for each time they occur
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.0
    )]
    pub frequency_penalty: f32,
    /// How many tokens are recent for these penalties; -1: all, 0: none
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value = "64", value_parser = parse_last)]
    pub repeat_last_n: Last,
    /// DRY: penalize tokens that go on with a repetition, with this strength; 0: do not
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.0
    )]
    pub dry_multiplier: f32,
    /// DRY: the penalty grows by this factor with each token of the repetition
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = Params::default().dry_base)]
    pub dry_base: f32,
    /// DRY: repetitions up to this length are free
    #[arg(long, value_name = "N", default_value_t = Params::default().dry_allowed_length)]
    pub dry_allowed_length: usize,
    /// DRY: how many tokens are looked at; -1: all, 0: none
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value = "-1", value_parser = parse_last)]
    pub dry_penalty_last_n: Last,
    /// DRY: a repetition does not reach across this text; may be given several times; none: no such text (default: \n : " *)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub dry_sequence_breaker: Vec<String>,
    /// XTC: how likely it is, for each token, that the most probable ones are left out; 0: never
    #[arg(
        long,
        value_name = "P",
        allow_negative_numbers = true,
        default_value_t = 0.0
    )]
    pub xtc_probability: f32,
    /// XTC: of the tokens with at least this probability only the least probable stays; above 0.5: all stay
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = Params::default().xtc_threshold)]
    pub xtc_threshold: f32,
    /// Mirostat in place of all steps but the temperature: 0 (off) or 2 (version 2)
    #[arg(long, value_name = "0|2", default_value = "0", action = clap::ArgAction::Set, value_parser = parse_mirostat)]
    pub mirostat: bool,
    /// Mirostat: how fast its bound moves
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 0.1
    )]
    pub mirostat_lr: f32,
    /// Mirostat: the surprise to keep to, in bits
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 5.0
    )]
    pub mirostat_ent: f32,
    /// Add X to the logit of a token, -inf forbids it: 1234+1.5, 1234-2, 1234-inf; may be given several times
    #[arg(short, long, value_name = "ID+X|ID-X", value_parser = parse_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Which steps, in which order (default: penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature)
    #[arg(long, value_name = "A;B;C", value_parser = parse_names)]
    pub samplers: Option<Order>,
    /// The same as letters: e penalties, d DRY, s top-n-sigma, k top-k, y typical, p top-p, m min-p, x XTC, t temperature
    #[arg(long, visible_alias = "sampler-seq", value_name = "LETTERS", conflicts_with = "samplers", value_parser = parse_letters)]
    pub sampling_seq: Option<Order>,
}

/// `--samplers`.
#[derive(Clone, Debug, PartialEq)]
pub struct Order(pub Vec<Step>);

/// `--seed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// A new one for this run.
    Random,
    /// This one.
    Fixed(u64),
}

/// How many of the last tokens; none: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last(pub Option<usize>);

fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed::Random),
        _ => text
            .parse()
            .map(Seed::Fixed)
            .map_err(|_| "expected 0 to 18446744073709551615, or -1 for a random seed".to_owned()),
    }
}

fn parse_last(text: &str) -> Result<Last, String> {
    match text {
        "-1" => Ok(Last(None)),
        _ => text
            .parse()
            .map(|n| Last(Some(n)))
            .map_err(|_| "expected a number of tokens, or -1 for all".to_owned()),
    }
}

fn parse_mirostat(text: &str) -> Result<bool, String> {
    match text {
        "0" => Ok(false),
        "2" => Ok(true),
        "1" => Err("version 1 is not there, expected 0 or 2".to_owned()),
        _ => Err("expected 0 or 2".to_owned()),
    }
}

fn parse_names(text: &str) -> Result<Order, String> {
    let order = Step::order_of_names(text).map_err(|e| e.to_string())?;
    Ok(Order(order))
}

fn parse_letters(text: &str) -> Result<Order, String> {
    let order = Step::order_of_letters(text).map_err(|e| e.to_string())?;
    Ok(Order(order))
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || "expected a token id, + or -, and a number, or -inf".to_owned();
    let sign = text.find(['+', '-']).ok_or_else(wrong)?;
    let (id, by) = text.split_at(sign);
    let id = id.parse().map_err(|_| wrong())?;
    let by: f32 = match by {
        "-inf" => f32::NEG_INFINITY,
        // Digits come first, so that neither a second sign nor a name of infinity is taken for a number.
        _ if by[1..].starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            by.parse().map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    };
    match by.is_finite() || by == f32::NEG_INFINITY {
        true => Ok((id, by)),
        false => Err(wrong()),
    }
}

impl Seed {
    /// The seed; a random one has 32 bits, so that a person can type it again.
    pub fn value(self) -> u64 {
        match self {
            Seed::Fixed(seed) => seed,
            // The hasher's keys come from the system's source of randomness.
            Seed::Random => {
                std::collections::hash_map::RandomState::new()
                    .build_hasher()
                    .finish()
                    & 0xffff_ffff
            }
        }
    }
}

impl SamplingArgs {
    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// A usage error that names the value and what was expected.
    pub fn check(&self) -> Result<()> {
        for text in &self.dry_sequence_breaker {
            let n = unescaped(text).len();
            if n == 0 || n > LONGEST_BREAKER {
                return Err(Error::usage(format_args!(
                    "--dry-sequence-breaker {text:?} has {n} bytes, expected 1 to {LONGEST_BREAKER}"
                )));
            }
        }
        self.without_text(&Meta::new()).validate()
    }

    /// Sampling as asked for, then as the file says, then the general defaults.
    ///
    /// # Errors
    /// A usage error: a bias for an id that the vocabulary has not; DRY with breakers, but nothing to find them with.
    pub fn params(
        &self,
        meta: &Meta,
        vocabulary: u32,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Params> {
        let mut params = self.without_text(meta);
        if let Some((id, _)) = self.logit_bias.iter().find(|(id, _)| *id >= vocabulary) {
            return Err(Error::usage(format_args!(
                "--logit-bias is for id {id}, but the model has {vocabulary} ids"
            )));
        }
        if self.dry_multiplier > 0.0 {
            params.dry_breakers = self.breakers(tokenizer)?;
        }
        Ok(params)
    }

    fn without_text(&self, meta: &Meta) -> Params {
        let d = Params::default();
        let or_file = |asked: Option<f32>, key, default| asked.or(meta.f32(key)).unwrap_or(default);
        let file_top_k = || meta.u32(key::TOP_K).map(|k| k as usize);
        let order = self.samplers.as_ref().or(self.sampling_seq.as_ref());
        Params {
            temperature: or_file(self.temp, key::TEMPERATURE, d.temperature),
            dynatemp_range: self.dynatemp_range,
            dynatemp_exponent: self.dynatemp_exp,
            top_k: self.top_k.or_else(file_top_k).unwrap_or(d.top_k),
            top_p: or_file(self.top_p, key::TOP_P, d.top_p),
            min_p: or_file(self.min_p, key::MIN_P, d.min_p),
            typical: self.typical,
            top_n_sigma: self.top_n_sigma,
            repeat_penalty: or_file(self.repeat_penalty, key::REPEAT_PENALTY, d.repeat_penalty),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repeat_last_n: self.repeat_last_n.0,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_last_n: self.dry_penalty_last_n.0,
            dry_breakers: Breakers::default(),
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            mirostat: self.mirostat.then_some(Mirostat {
                target: self.mirostat_ent,
                rate: self.mirostat_lr,
            }),
            logit_bias: self.logit_bias.clone(),
            order: order.map_or(d.order, |o| o.0.clone()),
            seed: self.seed.unwrap_or(Seed::Random).value(),
        }
    }

    fn breakers(&self, tokenizer: Option<&Tokenizer>) -> Result<Breakers> {
        let given = &self.dry_sequence_breaker;
        let texts: Vec<String> = match &given[..] {
            [] => BREAKERS.map(str::to_owned).to_vec(),
            _ => given
                .iter()
                .filter(|t| *t != "none")
                .map(|t| unescaped(t))
                .collect(),
        };
        if texts.is_empty() {
            return Ok(Breakers::default());
        }
        let Some(tokenizer) = tokenizer else {
            return Err(Error::usage(
                "this model file has no tokenizer to find sequence breakers with: give --dry-sequence-breaker none",
            ));
        };
        let encode = |text: &str| tokenizer.encode(text, EncodeOptions::default());
        // A text of a few bytes that cannot be encoded is in no token either.
        Ok(Breakers::new(
            &texts,
            tokenizer.vocab_size() as u32,
            |id| tokenizer.token_bytes(id),
            |text| encode(text).unwrap_or_default(),
        ))
    }
}

/// `\n`, `\r`, `\t` and `\\` as the characters that they stand for.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let after = rest.clone().next();
        let meant = match (c, after) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some('t')) => Some('\t'),
            ('\\', Some('\\')) => Some('\\'),
            _ => None,
        };
        if meant.is_some() {
            rest.next();
        }
        out.push(meant.unwrap_or(c));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_spelled_as_in_llama_cpp() {
        assert_eq!(parse_bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(parse_bias("15043-1.5"), Ok((15043, -1.5)));
        assert_eq!(parse_bias("0-inf"), Ok((0, f32::NEG_INFINITY)));
        assert_eq!(parse_bias("7+.5"), Ok((7, 0.5)));
        assert_eq!(parse_bias("7+2e-1"), Ok((7, 0.2)));
        for wrong in [
            "", "7", "+1", "-1", "7+", "7+inf", "7-nan", "7--1", "7+1e99", "x+1",
        ] {
            assert!(parse_bias(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn escapes_and_windows() {
        assert_eq!(unescaped(r"a\nb\\n\x\"), "a\nb\\n\\x\\");
        assert_eq!(parse_last("-1"), Ok(Last(None)));
        assert_eq!(parse_last("12"), Ok(Last(Some(12))));
        assert!(parse_last("-2").is_err());
    }
}

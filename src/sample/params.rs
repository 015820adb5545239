//! What a user may say about sampling: plain values, each checked by [`Params::validate`].

use super::Breakers;
use crate::error::{Error, Result};

/// A step of the sampler, under llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Repetition, presence and frequency penalties.
    Penalties,
    /// Penalties for what would go on with a repetition.
    Dry,
    /// Logits within so many standard deviations of the greatest.
    TopNSigma,
    /// The greatest logits.
    TopK,
    /// What is about as surprising as the distribution is on average.
    Typical,
    /// The fewest candidates that reach a probability.
    TopP,
    /// A share of the greatest probability.
    MinP,
    /// Leaves out all of the greatest but the last.
    Xtc,
    /// Divides the logits.
    Temperature,
}

/// Step, name, letter, other names.
const STEPS: [(Step, &str, char, &[&str]); 9] = [
    (Step::Penalties, "penalties", 'e', &[]),
    (Step::Dry, "dry", 'd', &[]),
    (
        Step::TopNSigma,
        "top_n_sigma",
        's',
        &["top-n-sigma", "top_nsigma"],
    ),
    (Step::TopK, "top_k", 'k', &["top-k"]),
    (
        Step::Typical,
        "typ_p",
        'y',
        &["typ-p", "typ", "typical", "typical-p", "typical_p"],
    ),
    (Step::TopP, "top_p", 'p', &["top-p", "nucleus"]),
    (Step::MinP, "min_p", 'm', &["min-p"]),
    (Step::Xtc, "xtc", 'x', &[]),
    (Step::Temperature, "temperature", 't', &["temp"]),
];

/// More steps than this in one order are a mistake.
const MOST_STEPS: usize = 64;

impl Step {
    /// llama.cpp's order.
    pub const DEFAULT: [Step; 9] = [
        Step::Penalties,
        Step::Dry,
        Step::TopNSigma,
        Step::TopK,
        Step::Typical,
        Step::TopP,
        Step::MinP,
        Step::Xtc,
        Step::Temperature,
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        STEPS
            .iter()
            .find(|s| s.0 == self)
            .map_or("", |&(_, name, ..)| name)
    }

    /// An order as names with `;` between them. Nothing at all is the order without steps.
    ///
    /// # Errors
    /// A usage error that quotes what is no name, or counts what is too many.
    pub fn order_of_names(text: &str) -> Result<Vec<Step>> {
        let names = text.split(';').map(str::trim).filter(|n| !n.is_empty());
        let step = |name: &str| {
            let known = STEPS
                .iter()
                .find(|(_, n, _, more)| *n == name || more.contains(&name));
            known.map(|s| s.0).ok_or_else(|| {
                let all: Vec<&str> = STEPS.iter().map(|s| s.1).collect();
                Error::usage(format_args!(
                    "sampler {name:?} is not known, expected some of {} with ; between them",
                    all.join(", ")
                ))
            })
        };
        bounded(names.map(step).collect::<Result<_>>()?)
    }

    /// An order as letters.
    ///
    /// # Errors
    /// As for [`Step::order_of_names`].
    pub fn order_of_letters(text: &str) -> Result<Vec<Step>> {
        let step = |letter: char| {
            let known = STEPS.iter().find(|s| s.2 == letter);
            known.map(|s| s.0).ok_or_else(|| {
                let all: Vec<String> = STEPS.iter().map(|s| format!("{} {}", s.2, s.1)).collect();
                Error::usage(format_args!(
                    "sampler letter {letter:?} is not known, expected some of {}",
                    all.join(", ")
                ))
            })
        };
        bounded(text.chars().map(step).collect::<Result<_>>()?)
    }
}

fn bounded(order: Vec<Step>) -> Result<Vec<Step>> {
    if order.len() > MOST_STEPS {
        return Err(Error::usage(format_args!(
            "the order has {} samplers, expected at most {MOST_STEPS}",
            order.len()
        )));
    }
    Ok(order)
}

/// Mirostat, version 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// The surprise to keep to, in bits.
    pub target: f32,
    /// How fast the bound follows.
    pub rate: f32,
}

/// How the next id is chosen. The formulas are in docs/SAMPLING.md.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Divides the logits; 0 takes the greatest.
    pub temperature: f32,
    /// The temperature moves by this in both directions with the entropy; 0: it does not.
    pub dynatemp_range: f32,
    /// Power of the normalized entropy in that.
    pub dynatemp_exponent: f32,
    /// How many of the greatest logits stay; 0 keeps all.
    pub top_k: usize,
    /// The fewest candidates whose probabilities reach this sum stay; 1 keeps all.
    pub top_p: f32,
    /// Candidates with less than this share of the greatest probability go; 0 keeps all.
    pub min_p: f32,
    /// The most typical candidates whose probabilities exceed this sum stay; 1 keeps all.
    pub typical: f32,
    /// Logits that are more than so many standard deviations below the greatest go; 0 and less keep all.
    pub top_n_sigma: f32,
    /// Positive logits of recent ids are divided by this, others multiplied; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Taken from the logits of recent ids; 0 changes nothing.
    pub presence_penalty: f32,
    /// Taken from the logits of recent ids for each time they occurred; 0 changes nothing.
    pub frequency_penalty: f32,
    /// How many ids count as recent for the three penalties, prompt included; none: all.
    pub repeat_last_n: Option<usize>,
    /// Strength of the DRY penalty; 0 changes nothing.
    pub dry_multiplier: f32,
    /// Base of the DRY penalty; below 1 there is none.
    pub dry_base: f32,
    /// Repetitions up to this length are free.
    pub dry_allowed_length: usize,
    /// How many ids DRY looks at; none: all; 0: no penalty.
    pub dry_last_n: Option<usize>,
    /// What a repetition does not reach across.
    pub dry_breakers: Breakers,
    /// How likely XTC is used for an id; 0: never.
    pub xtc_probability: f32,
    /// Which probability makes a candidate one of the top choices that XTC leaves out; above 0.5 nothing can be.
    pub xtc_threshold: f32,
    /// In place of all steps but the temperature.
    pub mirostat: Option<Mirostat>,
    /// Added to logits before anything else; minus infinity forbids an id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Which steps, in which order.
    pub order: Vec<Step>,
    /// Seed of the generators.
    pub seed: u64,
}

impl Default for Params {
    /// llama.cpp's defaults, with seed 0.
    fn default() -> Self {
        Params {
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical: 1.0,
            top_n_sigma: -1.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: Some(64),
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: None,
            dry_breakers: Breakers::default(),
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat: None,
            logit_bias: Vec::new(),
            order: Step::DEFAULT.to_vec(),
            seed: 0,
        }
    }
}

impl Params {
    /// The greatest logit, always.
    pub fn greedy() -> Self {
        Params {
            temperature: 0.0,
            ..Params::default()
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// A usage error that names the value and what was expected.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f32, ok: bool, expected: &str| match ok {
            true => Ok(()),
            false => Err(Error::usage(format_args!(
                "{name} is {value}, expected {expected}"
            ))),
        };
        let not_negative = |name: &str, value: f32| {
            let ok = value.is_finite() && value >= 0.0;
            check(name, value, ok, "a number of at least 0")
        };
        let share = |name: &str, value: f32| {
            let ok = (0.0..=1.0).contains(&value);
            check(name, value, ok, "0 to 1")
        };
        let number = |name: &str, value: f32| check(name, value, value.is_finite(), "a number");
        not_negative("temperature", self.temperature)?;
        not_negative("dynatemp-range", self.dynatemp_range)?;
        not_negative("dynatemp-exp", self.dynatemp_exponent)?;
        share("top-p", self.top_p)?;
        share("min-p", self.min_p)?;
        share("typical", self.typical)?;
        number("top-n-sigma", self.top_n_sigma)?;
        let r = self.repeat_penalty;
        let positive = r.is_finite() && r > 0.0;
        check("repeat-penalty", r, positive, "a number above 0")?;
        number("presence-penalty", self.presence_penalty)?;
        number("frequency-penalty", self.frequency_penalty)?;
        not_negative("dry-multiplier", self.dry_multiplier)?;
        not_negative("dry-base", self.dry_base)?;
        share("xtc-probability", self.xtc_probability)?;
        share("xtc-threshold", self.xtc_threshold)?;
        if let Some(mirostat) = self.mirostat {
            not_negative("mirostat-ent", mirostat.target)?;
            not_negative("mirostat-lr", mirostat.rate)?;
        }
        for &(id, bias) in &self.logit_bias {
            let ok = bias.is_finite() || bias == f32::NEG_INFINITY;
            let name = format!("logit-bias of id {id}");
            check(&name, bias, ok, "a number or -inf")?;
        }
        bounded(self.order.clone()).map(|_| ())
    }

    /// Whether the penalties change anything.
    pub(super) fn penalizes(&self) -> bool {
        let neutral = self.repeat_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0;
        !neutral && self.repeat_last_n != Some(0)
    }

    /// Whether DRY can change anything.
    pub(super) fn dries(&self) -> bool {
        self.dry_multiplier > 0.0 && self.dry_base >= 1.0 && self.dry_last_n != Some(0)
    }

    /// Whether a step can change anything.
    pub(super) fn is_active(&self, step: Step) -> bool {
        match step {
            Step::Penalties => self.penalizes(),
            Step::Dry => self.dries(),
            Step::TopNSigma => self.top_n_sigma > 0.0,
            Step::TopK => self.top_k > 0,
            Step::Typical => self.typical < 1.0,
            Step::TopP => self.top_p < 1.0,
            Step::MinP => self.min_p > 0.0,
            Step::Xtc => self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5,
            Step::Temperature => self.temperature != 1.0 || self.dynatemp_range > 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_by_name_and_by_letter() {
        let named = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature";
        assert_eq!(Step::order_of_names(named).unwrap(), Step::DEFAULT);
        assert_eq!(Step::order_of_letters("edskypmxt").unwrap(), Step::DEFAULT);
        let names: Vec<&str> = Step::DEFAULT.map(Step::name).to_vec();
        assert_eq!(names.join(";"), named);
        assert_eq!(
            Step::order_of_names(" temp ; nucleus;top-k;").unwrap(),
            [Step::Temperature, Step::TopP, Step::TopK]
        );
        assert_eq!(Step::order_of_names("").unwrap(), []);
        let e = Step::order_of_names("top_k;magic").unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("\"magic\""));
        let e = Step::order_of_letters("kz").unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("'z'"), "{e}");
        let e = Step::order_of_letters(&"k".repeat(65)).unwrap_err();
        assert!(e.to_string().contains("65"), "{e}");
    }

    #[test]
    fn parameters_out_of_range_are_usage_errors() {
        let with = |change: fn(&mut Params)| {
            let mut params = Params::default();
            change(&mut params);
            params
        };
        for (params, name) in [
            (with(|p| p.temperature = -1.0), "temperature"),
            (with(|p| p.temperature = f32::NAN), "temperature"),
            (with(|p| p.dynatemp_range = -0.1), "dynatemp-range"),
            (
                with(|p| p.dynatemp_exponent = f32::INFINITY),
                "dynatemp-exp",
            ),
            (with(|p| p.top_p = 1.5), "top-p"),
            (with(|p| p.min_p = -0.1), "min-p"),
            (with(|p| p.typical = 2.0), "typical"),
            (with(|p| p.top_n_sigma = f32::NAN), "top-n-sigma"),
            (with(|p| p.repeat_penalty = 0.0), "repeat-penalty"),
            (with(|p| p.presence_penalty = f32::NAN), "presence-penalty"),
            (
                with(|p| p.frequency_penalty = f32::INFINITY),
                "frequency-penalty",
            ),
            (with(|p| p.dry_multiplier = -1.0), "dry-multiplier"),
            (with(|p| p.dry_base = f32::NAN), "dry-base"),
            (with(|p| p.xtc_probability = 1.1), "xtc-probability"),
            (with(|p| p.xtc_threshold = -0.1), "xtc-threshold"),
            (
                with(|p| {
                    p.mirostat = Some(Mirostat {
                        target: -5.0,
                        rate: 0.1,
                    })
                }),
                "mirostat-ent",
            ),
            (
                with(|p| p.logit_bias = vec![(7, f32::INFINITY)]),
                "logit-bias of id 7",
            ),
        ] {
            let e = params.validate().unwrap_err();
            assert_eq!(e.exit_code(), 2);
            assert!(e.to_string().starts_with(name), "{e}");
        }
        assert!(Params::default().validate().is_ok());
        assert!(
            with(|p| p.logit_bias = vec![(7, f32::NEG_INFINITY)])
                .validate()
                .is_ok()
        );
    }
}

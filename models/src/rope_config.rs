//! Reading rotary parameters from a configuration: both styles of transformers and every static scaling type.
//!
//! Style 5 has `rope_parameters` = {rope_type, rope_theta, partial_rotary_factor, ...}, possibly nested per layer type; style 4 has
//! `rope_theta`, `partial_rotary_factor` and `rope_scaling` (null or {rope_type or type, ...}). The formulas are those of
//! transformers' `modeling_rope_utils`; their sources stand beside them.

use crate::error::{Error, Result};
use crate::rope::{Rope, default_inv_freq};
use crate::source::Config;
use crate::spec::PositionScale;

/// What a family adds to its configuration's rotary parameters.
#[derive(Clone, Copy, Debug)]
pub struct RopeOptions<'o> {
    /// Width of a head.
    pub head_dim: u32,
    /// `max_position_embeddings`.
    pub context: u32,
    /// `rope_theta` where the configuration has none.
    pub theta: f64,
    /// `partial_rotary_factor` where the configuration has none.
    pub partial: f64,
    /// Which entry of nested parameters (`full_attention`, `sliding_attention`).
    pub layer_type: Option<&'o str>,
    /// Keys of the parameters that the family itself reads or that mean nothing to it.
    pub family_keys: &'o [&'o str],
    /// The key that holds theta in style 4.
    pub theta_key: &'o str,
    /// The key that holds the rotated part of a head in style 4.
    pub partial_key: &'o str,
    /// Whether `rope_scaling` of style 4 applies to these layers.
    pub scaled: bool,
    /// Whether the type names `su` and `yarn` mean LongRoPE (phi3).
    pub yarn_is_longrope: bool,
    /// Whether a non-zero `alpha` makes dynamic scaling static: `theta * alpha^(dim / (dim - 2))` (hunyuan).
    pub alpha: bool,
}

impl RopeOptions<'_> {
    /// The usual defaults: theta 10000, the whole head rotated, one set of parameters for all layers.
    pub fn new(head_dim: u32, context: u32) -> Self {
        RopeOptions {
            head_dim,
            context,
            theta: 1e4,
            partial: 1.0,
            layer_type: None,
            family_keys: &[],
            theta_key: "rope_theta",
            partial_key: "partial_rotary_factor",
            scaled: true,
            yarn_is_longrope: false,
            alpha: false,
        }
    }
}

/// The rotary embedding that a configuration describes.
///
/// # Errors
/// An unknown scaling type, a missing or meaningless parameter, a parameter that nobody reads.
pub fn read(config: &Config, options: &RopeOptions) -> Result<Rope> {
    let mut nested = false;
    let mut parameters = config.opt_object("rope_parameters")?;
    if let (Some(outer), Some(layer_type)) = (&parameters, options.layer_type)
        && let Some(inner) = outer.opt_object(layer_type)?
    {
        parameters = Some(inner);
        nested = true;
    }
    let scaling = config.opt_object("rope_scaling")?;
    if parameters.is_some() && scaling.is_some() {
        return Err(config.unsupported(
            "rope_scaling",
            "no rope_scaling beside rope_parameters (one of them would be ignored)",
        ));
    }
    let scaling = scaling.filter(|_| options.scaled);
    let outer_theta = config.opt_f64(options.theta_key)?;
    let outer_partial = config.opt_f64(options.partial_key)?;
    let outer_original = config.opt_u32("original_max_position_embeddings")?;
    let dict = parameters.or(scaling);
    let inner = |key| dict.as_ref().map_or(Ok(None), |d| d.opt_f64(key));
    let theta = inner("rope_theta")?
        .or(outer_theta)
        .unwrap_or(options.theta);
    let partial = inner("partial_rotary_factor")?
        .or(outer_partial)
        .unwrap_or(options.partial);
    if theta <= 0.0 {
        return Err(config.unsupported(options.theta_key, "a number > 0"));
    }
    let kind = match &dict {
        None => "default",
        Some(dict) => match dict.opt_str("rope_type")? {
            Some(kind) => {
                dict.ignore(&["type"]);
                kind
            }
            None => dict.opt_str("type")?.unwrap_or("default"),
        },
    };
    if let (Some(dict), "proportional") = (&dict, kind) {
        return proportional(dict, options, theta, partial);
    }
    let dim = (f64::from(options.head_dim) * partial) as u32;
    if !(0.0..=1.0).contains(&partial) || dim == 0 || !dim.is_multiple_of(2) {
        return Err(Error::new(format_args!(
            "rope: {partial} of a head of {} rotates {dim} dimensions, expected an even number from 2 to the whole head",
            options.head_dim
        )));
    }
    let default = default_inv_freq(dim as usize, theta);
    let Some(dict) = dict else {
        return Ok(Rope::Fixed {
            inv_freq: default,
            factor: 1.0,
        });
    };
    dict.ignore(options.family_keys);
    let original = f64::from(
        outer_original
            .or(dict.opt_u32("original_max_position_embeddings")?)
            .unwrap_or(options.context),
    );
    let factor = |low: f64| -> Result<f64> {
        let f = dict.f64("factor")?;
        if f < low || f <= 0.0 {
            return Err(dict.unsupported("factor", &format!("a number from {low}")));
        }
        Ok(f)
    };
    let rope = match kind {
        "default" => Rope::Fixed {
            inv_freq: default,
            factor: 1.0,
        },
        // Positions are divided (Chen et al. 2023).
        "linear" => {
            let f = factor(0.0)?;
            Rope::Fixed {
                inv_freq: default.iter().map(|x| x / f).collect(),
                factor: 1.0,
            }
        }
        "dynamic" if options.alpha && dict.opt_f64("alpha")?.is_some_and(|a| a != 0.0) => {
            dict.ignore(&["factor"]);
            let (alpha, d) = (dict.f64("alpha")?, f64::from(dim));
            if alpha < 0.0 || dim < 4 {
                return Err(
                    dict.unsupported("alpha", "a number > 0, and at least 4 rotated dimensions")
                );
            }
            let theta = theta * libm::pow(alpha, d / (d - 2.0));
            Rope::Fixed {
                inv_freq: default_inv_freq(dim as usize, theta),
                factor: 1.0,
            }
        }
        "dynamic" => Rope::DynamicNtk {
            dim,
            theta,
            factor: factor(1.0)?,
            max_positions: options.context,
        },
        "llama3" => Rope::Fixed {
            inv_freq: llama3(&dict, default, factor(1.0)?, original)?,
            factor: 1.0,
        },
        "longrope" => longrope(&dict, &default, original, options)?,
        "su" | "yarn" if options.yarn_is_longrope => longrope(&dict, &default, original, options)?,
        "yarn" => yarn(&dict, default, dim, theta, original, options, nested)?,
        other => {
            return Err(dict.unsupported(
                if dict.has("rope_type") {
                    "rope_type"
                } else {
                    "type"
                },
                &format!("default, linear, dynamic, llama3, yarn, longrope or proportional, not {other:?}"),
            ));
        }
    };
    dict.finish()?;
    rope.validate()?;
    Ok(rope)
}

/// The wavelength bands of Llama 3.1: long waves are divided by the factor, short ones kept, those between are blended.
fn llama3(dict: &Config, default: Vec<f64>, factor: f64, original: f64) -> Result<Vec<f64>> {
    let low = dict.f64("low_freq_factor")?;
    let high = dict.f64("high_freq_factor")?;
    if !(low > 0.0 && high >= low) {
        return Err(dict.unsupported(
            "high_freq_factor",
            "low_freq_factor > 0 and no smaller number here",
        ));
    }
    Ok(default
        .into_iter()
        .map(|f| {
            let wavelength = 2.0 * std::f64::consts::PI / f;
            if wavelength < original / high {
                f
            } else if wavelength > original / low || low == high {
                f / factor
            } else {
                let s = (original / wavelength - low) / (high - low);
                (1.0 - s) * f / factor + s * f
            }
        })
        .collect())
}

/// LongRoPE (Ding et al. 2024): every frequency divided by a factor of its own, one list for short and one for long sequences.
fn longrope(dict: &Config, default: &[f64], original: f64, options: &RopeOptions) -> Result<Rope> {
    let list = |key: &str| -> Result<Vec<f64>> {
        let wrong = || dict.unsupported(key, &format!("{} numbers > 0", default.len()));
        let values = dict.opt_array(key)?.ok_or_else(|| dict.missing(key))?;
        if values.len() != default.len() {
            return Err(wrong());
        }
        let divide = |(v, f): (&serde_json::Value, &f64)| {
            let v = v.as_f64().filter(|v| v.is_finite() && *v > 0.0);
            Ok(f / v.ok_or_else(wrong)?)
        };
        values.iter().zip(default).map(divide).collect()
    };
    let extension = match dict.opt_f64("factor")? {
        Some(f) => f,
        None => f64::from(options.context) / original,
    };
    let factor = match dict.opt_f64("attention_factor")? {
        Some(a) => a,
        None if extension <= 1.0 => 1.0,
        None => (1.0 + libm::log(extension) / libm::log(original)).sqrt(),
    };
    Ok(Rope::LongRope {
        short: list("short_factor")?,
        long: list("long_factor")?,
        factor,
        original: original as u32,
    })
}

/// Pairs over the whole head, of which only the first part turns; the frequencies are those of the whole head.
fn proportional(dict: &Config, options: &RopeOptions, theta: f64, partial: f64) -> Result<Rope> {
    dict.ignore(options.family_keys);
    let factor = dict.opt_f64("factor")?.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&partial) || factor <= 0.0 {
        return Err(dict.unsupported("factor", "a number > 0, and a rotated part from 0 to 1"));
    }
    let turning = (partial * f64::from(options.head_dim) / 2.0) as usize;
    let mut inv_freq = default_inv_freq(options.head_dim as usize, theta);
    for (k, f) in inv_freq.iter_mut().enumerate() {
        *f = if k < turning { *f / factor } else { 0.0 };
    }
    dict.finish()?;
    let rope = Rope::Fixed {
        inv_freq,
        factor: 1.0,
    };
    rope.validate()?;
    Ok(rope)
}

/// `llama_4_scaling_beta` of the rotary parameters, one step per original context.
///
/// # Errors
/// A value that is no number.
pub(crate) fn position_scale(config: &Config, context: u32) -> Result<Option<PositionScale>> {
    let parameters = match config.opt_object("rope_parameters")? {
        None => config.opt_object("rope_scaling")?,
        some => some,
    };
    let Some(parameters) = parameters else {
        return Ok(None);
    };
    let Some(beta) = parameters.opt_f64("llama_4_scaling_beta")? else {
        return Ok(None);
    };
    let period = parameters.opt_u32("original_max_position_embeddings")?;
    Ok(Some(PositionScale {
        beta,
        period: period.unwrap_or(context).into(),
        offset: 0,
    }))
}

/// The magnitude correction of YaRN: 1 up to a scale of 1, then `0.1 c ln(s) + 1` (Peng et al. 2023, section 3.4).
pub fn yarn_mscale(scale: f64, c: f64) -> f64 {
    if scale <= 1.0 {
        1.0
    } else {
        0.1 * c * libm::log(scale) + 1.0
    }
}

/// YaRN (Peng et al. 2023): a ramp over the dimensions between kept and interpolated frequencies, and a factor on cos and sin.
fn yarn(
    dict: &Config,
    default: Vec<f64>,
    dim: u32,
    theta: f64,
    original: f64,
    options: &RopeOptions,
    nested: bool,
) -> Result<Rope> {
    // Written by some converters beside the parameters; says how the model was trained.
    dict.ignore(&["finetuned"]);
    let factor = match dict.opt_f64("factor")? {
        Some(f) if f >= 1.0 => f,
        Some(_) => return Err(dict.unsupported("factor", "a number from 1")),
        None => f64::from(options.context) / original,
    };
    let nonzero = |key| -> Result<Option<f64>> { Ok(dict.opt_f64(key)?.filter(|&x| x != 0.0)) };
    let (mscale, all_dim) = (nonzero("mscale")?, nonzero("mscale_all_dim")?);
    let attention_factor = match (dict.opt_f64("attention_factor")?, mscale, all_dim) {
        (Some(a), _, _) => a,
        (None, Some(m), Some(d)) => yarn_mscale(factor, m) / yarn_mscale(factor, d),
        _ => yarn_mscale(factor, 1.0),
    };
    let fast = dict.opt_f64("beta_fast")?.unwrap_or(32.0);
    let slow = dict.opt_f64("beta_slow")?.unwrap_or(1.0);
    // transformers reads `truncate` from flat parameters only.
    let truncate = dict.bool_or("truncate", true)? || nested;
    let d = f64::from(dim);
    // The dimension that makes `r` turns within the original context.
    let turns = |r: f64| {
        d * libm::log(original / (r * 2.0 * std::f64::consts::PI)) / (2.0 * libm::log(theta))
    };
    let (mut low, mut high) = (turns(fast), turns(slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    low = low.max(0.0);
    high = high.min(d - 1.0);
    if low == high {
        high += 0.001; // transformers' guard against a division by zero
    }
    let inv_freq = default
        .into_iter()
        .enumerate()
        .map(|(k, f)| {
            let ramp = ((k as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f * (1.0 - ramp) + f / factor * ramp
        })
        .collect();
    Ok(Rope::Fixed {
        inv_freq,
        factor: attention_factor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Origin;
    use serde_json::{Value, json};

    fn rope(config: Value) -> Result<Rope> {
        let map = config.as_object().unwrap();
        let config = Config::new(Origin::HuggingFace, "config.json", map);
        let rope = read(&config, &RopeOptions::new(32, 192))?;
        config.finish()?;
        Ok(rope)
    }

    #[test]
    fn both_styles_give_the_same() {
        let yarn =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48});
        let mut v5 = yarn.clone();
        v5["rope_theta"] = json!(10000.0);
        let five = rope(json!({"rope_parameters": v5})).unwrap();
        let four = rope(json!({"rope_theta": 10000.0, "rope_scaling": yarn})).unwrap();
        assert_eq!(five, four);
        let mut old = yarn;
        old["type"] = json!("yarn");
        old.as_object_mut().unwrap().remove("rope_type");
        assert_eq!(rope(json!({"rope_scaling": old})).unwrap(), four);
    }

    #[test]
    fn yarn_by_hand() {
        // dim 32, theta 1e4, O 48: d(32) = 32 ln(48/(64 pi)) / (2 ln 1e4) < 0 -> 0; d(1) = 3.53 -> 4.
        let Rope::Fixed { inv_freq, factor } = rope(json!({"rope_scaling":
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}}))
        .unwrap() else {
            panic!("yarn is static");
        };
        assert_eq!(factor, 0.1 * libm::log(4.0) + 1.0);
        let f = default_inv_freq(32, 1e4);
        assert_eq!(inv_freq[0], f[0]);
        assert!((inv_freq[1] - (0.75 * f[1] + 0.25 * f[1] / 4.0)).abs() < 1e-15);
        assert_eq!(inv_freq[4], f[4] / 4.0);
        assert_eq!(inv_freq[15], f[15] / 4.0);
        // Without truncation the ramp ends at 3.53, so the second dimension is further along it.
        let Rope::Fixed {
            inv_freq: exact, ..
        } = rope(json!({"rope_scaling": {"type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 48, "truncate": false}}))
        .unwrap()
        else {
            panic!("yarn is static");
        };
        assert!(exact[1] < inv_freq[1]);
    }

    #[test]
    fn yarn_attention_factor_order() {
        let af = |extra: Value| {
            let mut d = json!({"type": "yarn", "factor": 8.0});
            d.as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            rope(json!({"rope_scaling": d})).unwrap().factor()
        };
        assert_eq!(
            af(json!({"attention_factor": 1.5, "mscale": 1.0, "mscale_all_dim": 0.5})),
            1.5
        );
        let m = |c| yarn_mscale(8.0, c);
        assert_eq!(
            af(json!({"mscale": 0.707, "mscale_all_dim": 0.9})),
            m(0.707) / m(0.9)
        );
        assert_eq!(af(json!({"mscale": 0.707})), m(1.0));
        assert_eq!(af(json!({"mscale": 0.707, "mscale_all_dim": 0.0})), m(1.0));
    }

    #[test]
    fn llama3_bands() {
        let Rope::Fixed { inv_freq, .. } = rope(json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 48}}))
        .unwrap() else {
            panic!("llama3 is static");
        };
        let f = default_inv_freq(32, 1e4);
        assert_eq!(inv_freq[0], f[0]); // wavelength 6.3 < 48/4
        assert_eq!(inv_freq[15], f[15] / 8.0);
        assert!(inv_freq[2] < f[2] && inv_freq[2] > f[2] / 8.0); // wavelength 19.9, between
    }

    #[test]
    fn longrope_lists() {
        let config = |long: usize| {
            json!({"rope_scaling": {"type": "longrope", "short_factor": vec![1.0; 16], "long_factor": vec![2.0; long],
                "original_max_position_embeddings": 48}})
        };
        let r = rope(config(16)).unwrap();
        assert_eq!(*r.inv_freq(48), default_inv_freq(32, 1e4));
        assert_eq!(r.inv_freq(49)[3], default_inv_freq(32, 1e4)[3] / 2.0);
        assert_eq!(r.factor(), (1.0 + libm::log(4.0) / libm::log(48.0)).sqrt());
        let m = rope(config(15)).unwrap_err().to_string();
        assert!(m.contains("long_factor") && m.contains("16 numbers"), "{m}");
    }

    #[test]
    fn proportional_turns_a_part_of_the_pairs() {
        let r = rope(
            json!({"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4,
            "partial_rotary_factor": 0.25, "factor": 2.0}}),
        )
        .unwrap();
        assert_eq!(r.dim(), 32);
        assert_eq!(r.inv_freq(1)[3], default_inv_freq(32, 1e4)[3] / 2.0);
        assert_eq!(r.inv_freq(1)[4..], [0.0; 12]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let message = |c| rope(c).unwrap_err().to_string();
        let m = message(json!({"rope_scaling": {"type": "warp", "factor": 2.0}}));
        assert!(m.contains("warp") && m.contains("yarn"), "{m}");
        let m = message(json!({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3.0}}));
        assert!(m.contains("alpha"), "{m}");
        let m = message(json!({"rope_scaling": {"type": "linear"}}));
        assert!(m.contains("factor is missing"), "{m}");
        let m = message(json!({"rope_scaling": {"type": "linear", "factor": 0.0}}));
        assert!(m.contains("factor"), "{m}");
        let m = message(
            json!({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        );
        assert!(m.contains("rope_scaling"), "{m}");
        let m = message(json!({"rope_theta": -1.0}));
        assert!(m.contains("rope_theta"), "{m}");
        let m = message(json!({"partial_rotary_factor": 0.1}));
        assert!(m.contains("rotates 3"), "{m}");
    }

    #[test]
    fn nested_parameters() {
        let config = json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}});
        let config = Config::new(
            Origin::HuggingFace,
            "config.json",
            config.as_object().unwrap(),
        );
        let of = |t| {
            read(
                &config,
                &RopeOptions {
                    layer_type: Some(t),
                    ..RopeOptions::new(32, 192)
                },
            )
            .unwrap()
            .inv_freq(1)
            .to_vec()
        };
        assert_eq!(of("sliding_attention"), default_inv_freq(32, 1e4));
        assert_eq!(of("full_attention")[3], default_inv_freq(32, 1e6)[3] / 8.0);
    }
}

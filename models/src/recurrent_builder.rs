//! Recurrent operations of a layer in the making.

use crate::error::Result;
use crate::layer_builder::LayerBuilder;
use crate::plan::{Function, Rows, Source};
use crate::source::{Config, Origin};
use crate::spec::{Convolution, Op, Role, SelectiveScan, ShortConv, StateSpace, bound};

impl LayerBuilder<'_, '_> {
    /// Plans the tensors of a convolution of so many channels, whose weight is called `{name}.weight`; `parts` are consecutive channels and
    /// multipliers of their inputs, which the weights take over.
    ///
    /// # Errors
    /// As [`crate::builder::Builder::expect`].
    pub fn convolution(
        &mut self,
        conv: &Convolution,
        channels: u32,
        name: &str,
        parts: &[(u32, f32)],
    ) -> Result<()> {
        let name = self.name(name);
        conv.validate(&name)?;
        let (weight, kernel) = (format!("{name}.weight"), conv.kernel);
        let [c, k] = [channels, kernel].map(u64::from);
        // The dimension of the one input that a channel has may be left out.
        if self.plan.expect(&weight, &[c, k]).is_err() {
            self.plan.expect(&weight, &[c, 1, k])?;
        }
        let mut sources = Vec::new();
        for tap in 0..kernel {
            let mut from = 0;
            for &(count, scale) in parts {
                let rows = (from..from + count).map(|c| c * kernel + tap).collect();
                sources.push(Source {
                    scale,
                    ..Source::rows(&weight, rows)
                });
                from += count;
            }
        }
        let key = self.branch_key(Role::ConvWeight);
        self.plan.put(key, sources);
        if conv.bias {
            let key = self.branch_key(Role::ConvBias);
            self.plan.take(key, &format!("{name}.bias"), &[channels])?;
        }
        Ok(())
    }

    /// Adds a gated short convolution: `{name}.in_proj`, `{name}.conv`, `{name}.out_proj`.
    ///
    /// # Errors
    /// As [`crate::builder::Builder::expect`].
    pub fn short_conv(&mut self, c: ShortConv, name: &str) -> Result<()> {
        c.validate(&self.name(name))?;
        let hidden = self.hidden;
        let part = |part: &str| format!("{name}.{part}");
        let roles = [Role::MixerIn, Role::MixerInBias];
        let shape = [3 * hidden, hidden];
        self.linear(roles, &part("in_proj"), shape, c.bias, None)?;
        self.convolution(&c.conv, hidden, &part("conv"), &[(hidden, 1.0)])?;
        let roles = [Role::MixerOut, Role::MixerOutBias];
        let shape = [hidden, hidden];
        self.linear(roles, &part("out_proj"), shape, c.bias, None)?;
        self.branch(Op::ShortConv(c))
    }

    /// Adds a selective scan; `name` stands before the usual names of its tensors.
    ///
    /// # Errors
    /// As [`crate::builder::Builder::expect`].
    pub fn selective_scan(&mut self, s: SelectiveScan, name: &str) -> Result<()> {
        s.validate(&self.name(name))?;
        let (hidden, inner, state) = (self.hidden, s.inner, s.state);
        let part = |part: &str| format!("{name}.{part}");
        let roles = [Role::MixerIn, Role::MixerInBias];
        let shape = [2 * inner, hidden];
        self.linear(roles, &part("in_proj"), shape, s.bias, None)?;
        self.convolution(&s.conv, inner, &part("conv1d"), &[(inner, 1.0)])?;
        let roles = [Role::ScanIn, Role::StepBias];
        let shape = [s.step_rank + 2 * state, inner];
        self.linear(roles, &part("x_proj"), shape, false, None)?;
        let roles = [Role::StepProjection, Role::StepBias];
        let shape = [inner, s.step_rank];
        self.linear(roles, &part("dt_proj"), shape, true, None)?;
        let rate = self.name(&part("A_log"));
        self.plan.expect(&rate, &[inner, state].map(u64::from))?;
        let source = Source {
            rows: Rows::List(by_groups(inner, state)),
            function: self.rate_function(),
            ..Source::all(rate)
        };
        self.plan.put(self.branch_key(Role::Rate), vec![source]);
        let skip = self.name(&part("D"));
        self.plan
            .take(self.branch_key(Role::Skip), &skip, &[inner])?;
        let roles = [Role::MixerOut, Role::MixerOutBias];
        let shape = [hidden, inner];
        self.linear(roles, &part("out_proj"), shape, s.bias, None)?;
        self.branch(Op::SelectiveScan(s))
    }

    /// Adds a scan of heads; `name` stands before the usual names of its tensors, and `scales` are multipliers of the channels, of B and of C
    /// before the convolution.
    ///
    /// # Errors
    /// As [`crate::builder::Builder::expect`].
    pub fn state_space(&mut self, s: StateSpace, name: &str, scales: [f32; 3]) -> Result<()> {
        s.validate(&self.name(name))?;
        let (hidden, inner, heads) = (self.hidden, s.inner(), s.heads);
        let part = |part: &str| format!("{name}.{part}");
        let roles = [Role::MixerIn, Role::MixerInBias];
        let shape = [inner + s.conv_channels() + heads, hidden];
        self.linear(roles, &part("in_proj"), shape, s.in_bias, None)?;
        let shared = s.groups * s.state;
        let parts = [(inner, scales[0]), (shared, scales[1]), (shared, scales[2])];
        self.convolution(&s.conv, s.conv_channels(), &part("conv1d"), &parts)?;
        for (role, tensor, function) in [
            (Role::StepBias, "dt_bias", Function::Identity),
            (Role::Rate, "A_log", self.rate_function()),
            (Role::Skip, "D", Function::Identity),
        ] {
            let tensor = self.name(&part(tensor));
            self.plan.expect(&tensor, &[heads.into()])?;
            let source = Source {
                function,
                ..Source::all(tensor)
            };
            self.plan.put(self.branch_key(role), vec![source]);
        }
        if let Some(norm) = s.gate.norm() {
            let key = (self.branch_key(Role::GateNorm), Role::GateNormBias);
            let norm_name = self.name(&part("norm"));
            self.plan.norm(key, &norm_name, norm, inner)?;
        }
        let roles = [Role::MixerOut, Role::MixerOutBias];
        let shape = [hidden, inner];
        self.linear(roles, &part("out_proj"), shape, s.out_bias, None)?;
        self.branch(Op::StateSpace(s))
    }

    /// Multiplies the output of the operation that was added last.
    pub fn scale_branch(&mut self, scale: f32) {
        if let Some(branch) = self.last().branches.last_mut() {
            branch.scale = scale;
        }
    }

    /// What makes a rate of decay of what is stored for it: GGUF files hold the rate itself.
    pub(crate) fn rate_function(&self) -> Function {
        match self.plan.origin {
            Origin::Gguf => Function::Identity,
            _ => Function::MinusExp,
        }
    }
}

/// The channels of a mixer that is `key` times (2 where absent) as wide as the stream.
///
/// # Errors
/// No number, or not a whole number of channels.
pub fn mixer_width(config: &Config, key: &str, hidden: u32) -> Result<u32> {
    let expand = config.opt_f64(key)?.unwrap_or(2.0);
    let inner = expand * f64::from(hidden);
    if inner.fract() != 0.0 || !(1.0..=f64::from(bound::INNER)).contains(&inner) {
        let expected = format!("a number that makes 1 to {} whole channels", bound::INNER);
        return Err(config.unsupported(key, &expected));
    }
    Ok(inner as u32)
}

/// Least and greatest step of a scan: `time_step_limit`, whose end may be infinite.
///
/// # Errors
/// Not two numbers.
pub fn step_limit(config: &Config) -> Result<(f32, Option<f32>)> {
    const KEY: &str = "time_step_limit";
    let wrong = || config.unsupported(KEY, "two numbers, the second may be infinite");
    match config.opt_array(KEY)? {
        None => Ok((0.0, None)),
        Some([min, max]) => {
            let min = min.as_f64().ok_or_else(wrong)? as f32;
            let infinite = max.get("__float__").is_some_and(|v| v == "Infinity");
            let max = max.as_f64().map(|m| m as f32);
            if max.is_none() && !infinite {
                return Err(wrong());
            }
            Ok((min, max))
        }
        Some(_) => Err(wrong()),
    }
}

/// Checks that the heads of a scan make `inner` channels; `key` is that of their number.
///
/// # Errors
/// They make others.
pub fn check_heads(config: &Config, s: &StateSpace, key: &str, inner: u32) -> Result<()> {
    if u64::from(s.heads) * u64::from(s.head_dim) == u64::from(inner) {
        return Ok(());
    }
    let expected = format!("heads of {} that make {inner} channels", s.head_dim);
    Err(config.unsupported(key, &expected))
}

/// The order in which values `[channel][state]` are stored for the scan: for every group of 16 channels (the last may be narrower), all its
/// channels' values of element 0, then of element 1, and so on.
fn by_groups(channels: u32, state: u32) -> Vec<u32> {
    let mut order = Vec::with_capacity((channels * state) as usize);
    for first in (0..channels).step_by(16) {
        let last = channels.min(first + 16);
        for n in 0..state {
            order.extend((first..last).map(|c| c * state + n));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with<R>(config: serde_json::Value, f: impl Fn(&Config) -> Result<R>) -> Result<R> {
        let map = config.as_object().unwrap();
        f(&Config::new(Origin::HuggingFace, "config.json", map))
    }

    #[test]
    fn limits_of_the_step() {
        let read = |value| with(json!({"time_step_limit": value}), step_limit);
        let infinity = json!({"__float__": "Infinity"});
        assert_eq!(read(json!(null)).unwrap(), (0.0, None));
        assert_eq!(read(json!([0.5, infinity])).unwrap(), (0.5, None));
        assert_eq!(read(json!([0, 0.25])).unwrap(), (0.0, Some(0.25)));
        let nan = json!({"__float__": "NaN"});
        for bad in [
            json!([]),
            json!([0.0]),
            json!([0.0, nan]),
            json!([infinity, 1.0]),
        ] {
            let e = read(bad).unwrap_err().to_string();
            assert!(e.contains("time_step_limit is ["), "{e}");
        }
    }

    #[test]
    fn widths_of_mixers() {
        let read = |value| with(json!({"expand": value}), |c| mixer_width(c, "expand", 6));
        assert_eq!(read(json!(null)).unwrap(), 12);
        assert_eq!(read(json!(1.5)).unwrap(), 9);
        for bad in [json!(0), json!(-2), json!(1.3), json!(1e300), json!("2")] {
            let e = read(bad).unwrap_err().to_string();
            assert!(e.contains("expand is "), "{e}");
        }
        let conv = Convolution {
            kernel: 4,
            bias: true,
            silu: true,
        };
        let heads = |n| {
            let scan = StateSpace {
                heads: n,
                head_dim: 1 << 20,
                ..StateSpace::new(conv, (0.0, None))
            };
            let config = json!({"num_heads": n});
            with(config, |c| check_heads(c, &scan, "num_heads", 1 << 21))
        };
        heads(2).unwrap();
        // 2^32 times more channels than 2^21 are not as many.
        let e = heads((1 << 12) + 2).unwrap_err().to_string();
        assert!(
            e.contains("num_heads is 4098, expected heads of 1048576"),
            "{e}"
        );
    }

    #[test]
    fn groups_of_sixteen_channels() {
        let order = by_groups(18, 2);
        assert_eq!(order[..3], [0, 2, 4]);
        assert_eq!(order[16..18], [1, 3]);
        assert_eq!(order[32..], [32, 34, 33, 35]);
    }
}

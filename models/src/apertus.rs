//! Apertus: llama with norms of q and k and a network without a gate whose activation has learned coefficients (xIELU, Huang and Schlag 2025).

use crate::prelude::*;

/// Apertus.
pub const FAMILY: Family = Family {
    model_types: &["apertus"],
    plan,
    doc: "Apertus: xIELU without a gate, norms of q and k per head",
};

fn plan(config: &Config, tensors: &dyn Tensors) -> Result<Plan> {
    let s = Sizes::read(config)?;
    let norm = Norm::rms(eps(config, "rms_norm_eps", 1e-5)?);
    let bias = config.bool_or("attention_bias", false)?;
    let inner = config.u32("intermediate_size")?;
    only(config, "hidden_act", "xielu")?;
    only(config, "mlp_bias", false)?;
    only(config, "post_norm", false)?;
    only(config, "qk_norm", true)?;
    let mlp = DenseNames::Plain(["mlp.up_proj", "mlp.down_proj"]);
    let mut b = Builder::new(config, tensors);
    let options = RopeOptions {
        theta: 1.2e7,
        ..RopeOptions::new(s.head_dim, s.context)
    };
    let attention = Attention {
        q_bias: bias,
        kv_bias: bias,
        o_bias: bias,
        rope: Some(b.rope(config, &options)?),
        qk_norm: Some(QkNorm {
            norm: norm.clone(),
            span: NormSpan::Head,
            after_rope: false,
        }),
        ..s.attention()
    };
    b.decoder(&s, &LLAMA, Frame::new(norm.clone()), |layer, _| {
        layer.block(&norm, "attention_layernorm")?;
        layer.attention(attention.clone(), &LLAMA_ATTENTION)?;
        layer.block(&norm, "feedforward_layernorm")?;
        let activation = xielu(layer)?;
        layer.dense(Dense::plain(inner, activation, false), &mlp)
    })
}

/// The layer's activation: softplus keeps the stored numbers' effect positive, and the negative side is at least as steep as the slope at zero.
fn xielu(layer: &mut LayerBuilder) -> Result<Activation> {
    let mut number = |name: &str| -> Result<f64> {
        let name = layer.name(&format!("mlp.act_fn.{name}"));
        let values = layer
            .plan
            .fold(&name, 1, "folded into the activation's coefficients")?;
        Ok(values[0].into())
    };
    let softplus = |x: f64| x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
    let beta = number("beta")?;
    Ok(Activation::XIelu {
        positive: softplus(number("alpha_p")?) as f32,
        negative: (beta + softplus(number("alpha_n")?)) as f32,
        beta: beta as f32,
        eps: number("eps")? as f32,
    })
}

//! What a Spec must not refer to.

use super::*;

/// A model whose layers are these operations, one each.
fn spec(ops: Vec<Op>) -> Spec {
    let layer = |op| Layer {
        blocks: vec![Block::pre_norm(Norm::rms(1e-6), op)],
    };
    Spec {
        vocab_size: 32,
        hidden: 16,
        context_length: 64,
        embed: Embed::scaled(1.0),
        ropes: Vec::new(),
        encoder: None,
        decoder: Stack {
            layers: ops.into_iter().map(layer).collect(),
            streams: None,
            final_norm: None,
        },
        head: None,
        embedding: None,
    }
}

#[test]
fn shared_keys_belong_to_an_earlier_attention_of_the_same_shape() {
    let attention = |shared, mask| {
        Op::Attention(Attention {
            shared,
            mask,
            ..Attention::new(4, 2, 8)
        })
    };
    let dense = Op::Dense(Dense::gated(16, Activation::Silu));
    let check = |last: Op| {
        spec(vec![
            attention(None, Mask::Causal),
            attention(Some(0), Mask::Causal),
            attention(None, Mask::Sliding(8)),
            dense.clone(),
            last,
        ])
        .validate()
    };
    assert!(check(attention(Some(0), Mask::Causal)).is_ok());
    assert!(check(attention(Some(2), Mask::Sliding(8))).is_ok());
    for (from, mask) in [
        (1, Mask::Causal),     // shares itself
        (2, Mask::Causal),     // another mask
        (2, Mask::Sliding(9)), // another window
        (3, Mask::Causal),     // no attention
        (4, Mask::Causal),     // itself
        (u32::MAX, Mask::Causal),
    ] {
        let e = check(attention(Some(from), mask)).unwrap_err().to_string();
        assert!(
            e.contains(&format!("layers.4.blocks.0.branches.0: shared is {from}")),
            "{e}"
        );
    }
    let narrow = Attention {
        shared: Some(0),
        ..Attention::new(4, 1, 8)
    };
    assert!(check(Op::Attention(narrow)).is_err());
}

#[test]
fn streams_are_bounded() {
    let activation = Activation::Silu;
    let mut spec = spec(vec![Op::Pass]);
    spec.decoder.streams = Some(Streams {
        count: 4,
        active: 3,
        norm: Norm::rms(1e-6),
        router_scale: 0.5,
        injection: None,
    });
    spec.validate().unwrap();
    assert_eq!(Spec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
    for break_it in [
        |s: &mut Streams| s.count = 1,
        |s: &mut Streams| s.count = 17,
        |s: &mut Streams| s.active = 4,
        |s: &mut Streams| s.norm.eps = f32::NAN,
        |s: &mut Streams| s.router_scale = f32::INFINITY,
    ] {
        let mut bad = spec.clone();
        break_it(bad.decoder.streams.as_mut().unwrap());
        let e = bad.validate().unwrap_err().to_string();
        assert!(e.contains("decoder.streams"), "{e}");
    }
    let streams = spec.decoder.streams.as_mut().unwrap();
    streams.injection = Some(Injection {
        weight: true,
        per_layer: PerLayer { activation },
        post: Norm::rms(1e-6),
    });
    let e = spec.validate().unwrap_err().to_string();
    assert!(e.contains("makes no vectors of layers"), "{e}");
}

#[test]
fn a_cut_needs_a_gate_without_bias() {
    let check = |dense: Dense| spec(vec![Op::Dense(dense)]).validate();
    let cut = Dense {
        cutoff: Some(1.5),
        ..Dense::gated(16, Activation::Silu)
    };
    assert!(check(cut.clone()).is_ok());
    for bad in [
        Dense {
            cutoff: Some(f32::NAN),
            ..cut.clone()
        },
        Dense {
            up_bias: true,
            ..cut.clone()
        },
        Dense {
            gated: false,
            ..cut.clone()
        },
    ] {
        assert!(check(bad).unwrap_err().to_string().contains("cutoff"));
    }
}

#[test]
fn vectors_of_layers_must_be_made_before_they_are_read() {
    let activation = Activation::Silu;
    let mut spec = spec(vec![Op::PerLayer(PerLayer { activation })]);
    let e = spec.validate().unwrap_err().to_string();
    assert!(e.contains("makes no vectors of layers"), "{e}");
    spec.embed.per_layer = Some(PerLayerInputs {
        width: 8,
        rows: 16,
        norm: Norm::rms(1e-6),
        row_scale: 1.0,
        scale: 1.0,
    });
    spec.validate().unwrap();
    assert_eq!(Spec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
    for break_it in [
        |p: &mut PerLayerInputs| p.width = 0,
        |p: &mut PerLayerInputs| p.rows = u32::MAX,
        |p: &mut PerLayerInputs| p.scale = f32::NAN,
        |p: &mut PerLayerInputs| p.row_scale = f32::INFINITY,
        |p: &mut PerLayerInputs| p.norm.eps = -1.0,
    ] {
        let mut bad = spec.clone();
        break_it(bad.embed.per_layer.as_mut().unwrap());
        let e = bad.validate().unwrap_err().to_string();
        assert!(e.contains("embed.per_layer"), "{e}");
    }
}

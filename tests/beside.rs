//! As in `features`, of what stands beside the stream and its branches: shared keys, vectors of single layers, several streams, norms and
//! multipliers of single branches.

use crate::features::{each_attention, each_block, each_dense, sees};
use quern_models::Spec;
use quern_models::spec::*;

fn each_branch(spec: &mut Spec, mut f: impl FnMut(&mut Branch)) {
    each_block(spec, |block| block.branches.iter_mut().for_each(&mut f));
}

#[test]
fn keys_and_values_of_earlier_layers() {
    let shape = |a: &Attention| (a.n_kv_heads, a.head_dim, a.mask);
    // The first layer of the same kind in place of the last one before.
    let first: &dyn Fn(&mut Spec) = &|s| {
        let mut kinds = Vec::new();
        each_attention(s, |a| {
            kinds.push(shape(a));
            if a.shared.is_some() {
                let first = kinds.iter().position(|k| *k == shape(a));
                a.shared = first.map(|layer| layer as u32);
            }
        });
    };
    let norm: &dyn Fn(&mut Spec) = &|s| each_attention(s, |a| a.v_norm = None);
    let scale: &dyn Fn(&mut Spec) = &|s| each_attention(s, |a| a.scale = 0.25);
    sees(
        "gemma4_text_ple",
        &[
            ("which layer made the keys", first),
            ("the norm of values", norm),
            ("the scale of scores", scale),
        ],
    );
}

#[test]
fn multipliers_of_the_stream() {
    for name in ["gemma4_text_ple", "gemma4_text_moe"] {
        sees(
            name,
            &[("multipliers of the stream", &|s| {
                each_block(s, |b| b.stream_scale = 1.0)
            })],
        );
    }
}

#[test]
fn vectors_of_single_layers() {
    fn inputs(s: &mut Spec) -> &mut PerLayerInputs {
        s.embed.per_layer.as_mut().unwrap()
    }
    sees(
        "gemma4_text_ple",
        &[
            ("the table", &|s| inputs(s).row_scale = 0.0),
            ("the multiplier of the sum", &|s| inputs(s).scale *= 2.0),
            ("eps of the projection", &|s| inputs(s).norm.eps /= 64.0),
            ("the activation of the gate", &|s| {
                each_branch(s, |b| {
                    if let Op::PerLayer(p) = &mut b.op {
                        p.activation = Activation::Relu;
                    }
                })
            }),
        ],
    );
}

#[test]
fn experts_beside_a_network() {
    fn each_router(s: &mut Spec, f: impl Fn(&mut Router)) {
        each_branch(s, |b| {
            if let Op::Experts(e) = &mut b.op {
                f(&mut e.router);
            }
        });
    }
    sees(
        "gemma4_text_moe",
        &[
            ("what the router reads", &|s| {
                each_router(s, |r| r.norm = None)
            }),
            ("the weight of its norm", &|s| {
                each_router(s, |r| r.norm.as_mut().unwrap().weight = false)
            }),
            ("the scale of its logits", &|s| {
                each_router(s, |r| r.logit_scale = 1.0)
            }),
            ("the scales of experts", &|s| {
                each_router(s, |r| r.expert_scales = false)
            }),
            ("norms after single branches", &|s| {
                each_branch(s, |b| b.post = None)
            }),
        ],
    );
}

#[test]
fn streams_beside_each_other() {
    fn streams(s: &mut Spec) -> &mut Streams {
        s.decoder.streams.as_mut().unwrap()
    }
    sees(
        "gemma3n_text",
        &[
            ("which stream is computed", &|s| streams(s).active = 1),
            ("the scale of their router", &|s| {
                streams(s).router_scale *= 4.0
            }),
            ("eps of their router", &|s| streams(s).norm.eps = 1e-6),
            ("what joins the other streams", &|s| {
                streams(s).injection = None
            }),
            ("the weight of what joins them", &|s| {
                streams(s).injection.as_mut().unwrap().weight = false
            }),
            ("that a layer is one of several", &|s| {
                s.decoder.streams = None
            }),
        ],
    );
}

#[test]
fn paths_beside_attention() {
    sees(
        "gemma3n_text",
        &[
            ("what passes unchanged", &|s| {
                each_block(s, |b| b.branches.truncate(2))
            }),
            ("that low-rank paths are linear", &|s| {
                each_dense(s, |d| {
                    if d.activation == Activation::Identity {
                        d.activation = Activation::Relu;
                    }
                })
            }),
            ("norms after single branches", &|s| {
                each_branch(s, |b| b.post = None)
            }),
            ("the multiplier of the stream", &|s| {
                each_block(s, |b| b.stream_scale = 1.0)
            }),
        ],
    );
}

#[test]
fn sparse_networks() {
    sees(
        "gemma3n_text",
        &[
            ("the cut", &|s| each_dense(s, |d| d.cutoff = None)),
            ("how much is cut", &|s| {
                each_dense(s, |d| d.cutoff = d.cutoff.map(|c| c + 0.01))
            }),
        ],
    );
}

//! Every feature of the Spec does something: its golden passes as it is, and fails once the feature is switched off in the imported model.
//!
//! This is what keeps the goldens sharp: a feature that its golden cannot see could be broken without anybody noticing.

use crate::golden::{check_causal, check_seq2seq, engine, golden_file, goldens, read_golden};
use quern::bytes::AlignedBytes;
use quern::file::{Entry, ModelFile, Writer, WriterPlan};
use quern_models::Spec;
use quern_models::rope::{Rope, default_inv_freq};
use quern_models::spec::*;
use std::sync::Arc;

/// The file again with another Spec, and with tensors changed by `change`; those that the new Spec has no use for are left out.
pub fn edited(
    file: &ModelFile,
    spec: Spec,
    mut change: impl FnMut(&Entry, &mut Vec<u8>),
) -> Arc<ModelFile> {
    spec.validate().unwrap();
    let place = |key: TensorKey| {
        let mut entries = file.entries().iter();
        entries.position(|e| e.key == key).unwrap()
    };
    let tensors = spec.tensors();
    let plan = WriterPlan {
        formats: tensors
            .iter()
            .map(|t| file.entries()[place(t.key)].format)
            .collect(),
        spec,
        meta: file.meta().clone(),
        tokenizer: Vec::new(),
    };
    let mut writer = Writer::in_memory(plan).unwrap();
    for tensor in tensors {
        let at = place(tensor.key);
        let mut data = file.data(at).0.to_vec();
        change(&file.entries()[at], &mut data);
        writer.write_tensor_chunk(&data).unwrap();
        writer.finish_tensor().unwrap();
    }
    let bytes = writer.finish().unwrap();
    let bytes = Arc::new(AlignedBytes::copy_of(&bytes).unwrap());
    Arc::new(ModelFile::from_bytes(bytes).unwrap())
}

fn with_spec(file: &ModelFile, spec: Spec) -> Arc<ModelFile> {
    edited(file, spec, |_, _| {})
}

/// What it switches off, and how.
pub type Edit<'a> = (&'a str, &'a dyn Fn(&mut Spec));

/// The golden holds for the imported model, and for none of its edited versions.
pub fn sees(name: &str, edits: &[Edit]) {
    let file = golden_file(name);
    let golden = read_golden(&goldens().join(name));
    let same = with_spec(&file, file.spec().clone());
    let check = match golden["kind"].as_str().unwrap() {
        "seq2seq" => check_seq2seq,
        _ => check_causal,
    };
    check(&mut engine(same, 2), &golden).unwrap();
    for (what, edit) in edits {
        let mut spec = file.spec().clone();
        edit(&mut spec);
        assert_ne!(&spec, file.spec(), "{name}: {what} changes nothing");
        let edited = with_spec(&file, spec);
        let passed = check(&mut engine(edited, 2), &golden).is_ok();
        assert!(!passed, "{name} does not see {what}");
    }
}

/// Changes every block.
pub fn each_block(spec: &mut Spec, mut f: impl FnMut(&mut Block)) {
    for layer in &mut spec.decoder.layers {
        layer.blocks.iter_mut().for_each(&mut f);
    }
}

/// Changes every attention.
pub fn each_attention(spec: &mut Spec, mut f: impl FnMut(&mut Attention)) {
    each_block(spec, |block| {
        for branch in &mut block.branches {
            if let Op::Attention(a) = &mut branch.op {
                f(a);
            }
        }
    });
}

/// Changes every feed-forward network.
pub fn each_dense(spec: &mut Spec, mut f: impl FnMut(&mut Dense)) {
    each_block(spec, |block| {
        for branch in &mut block.branches {
            if let Op::Dense(d) = &mut branch.op {
                f(d);
            }
        }
    });
}

fn each_latent(spec: &mut Spec, mut f: impl FnMut(&mut Latent)) {
    each_block(spec, |block| {
        for branch in &mut block.branches {
            if let Op::Latent(l) = &mut branch.op {
                f(l);
            }
        }
    });
}

fn each_experts(spec: &mut Spec, mut f: impl FnMut(&mut Experts)) {
    each_block(spec, |block| {
        for branch in &mut block.branches {
            if let Op::Experts(e) = &mut branch.op {
                f(e);
            }
        }
    });
}

fn each_delta_rule(spec: &mut Spec, mut f: impl FnMut(&mut DeltaRule)) {
    each_block(spec, |block| {
        for branch in &mut block.branches {
            if let Op::DeltaRule(d) = &mut branch.op {
                f(d);
            }
        }
    });
}

/// Plain rotation of the same number of dimensions.
fn unscaled(spec: &mut Spec, theta: f64) {
    for rope in &mut spec.ropes {
        *rope = Rope::Fixed {
            inv_freq: default_inv_freq(rope.dim(), theta),
            factor: 1.0,
        };
    }
}

#[test]
fn windows() {
    sees(
        "mistral_swa",
        &[
            ("the window", &|s| {
                each_attention(s, |a| a.mask = Mask::Causal)
            }),
            ("one key more", &|s| {
                each_attention(s, |a| {
                    if let Mask::Sliding(w) = &mut a.mask {
                        *w += 1;
                    }
                })
            }),
        ],
    );
    sees(
        "qwen2_swa",
        &[("windows on every layer", &|s| {
            each_attention(s, |a| a.mask = Mask::Sliding(16))
        })],
    );
}

#[test]
fn static_rope_scaling() {
    sees(
        "llama_rope_linear",
        &[("linear scaling", &|s| unscaled(s, 1e4))],
    );
    sees("llama_rope_llama3", &[("llama3", &|s| unscaled(s, 1e4))]);
    sees(
        "llama_rope_yarn",
        &[
            ("yarn", &|s| unscaled(s, 1e4)),
            ("the factor of yarn", &|s| {
                if let Rope::Fixed { factor, .. } = &mut s.ropes[0] {
                    *factor = 1.0;
                }
            }),
        ],
    );
    sees("hunyuan_dense", &[("static NTK", &|s| unscaled(s, 1e4))]);
}

#[test]
fn rope_scaling_that_depends_on_the_length() {
    sees(
        "llama_rope_dynamic",
        &[("dynamic NTK", &|s| unscaled(s, 1e4))],
    );
    for name in ["phi3_longrope", "phi4mini_partial_longrope"] {
        sees(
            name,
            &[
                ("the long frequencies", &|s| {
                    if let Rope::LongRope { short, long, .. } = &mut s.ropes[0] {
                        *long = short.clone();
                    }
                }),
                ("the short frequencies", &|s| {
                    if let Rope::LongRope { short, long, .. } = &mut s.ropes[0] {
                        *short = long.clone();
                    }
                }),
                ("the factor of LongRoPE", &|s| {
                    if let Rope::LongRope { factor, .. } = &mut s.ropes[0] {
                        *factor = 1.0;
                    }
                }),
                ("where LongRoPE changes", &|s| {
                    if let Rope::LongRope { original, .. } = &mut s.ropes[0] {
                        *original += 16;
                    }
                }),
            ],
        );
    }
}

#[test]
fn partial_rotation() {
    for name in ["phi", "glm", "nemotron", "gptj"] {
        sees(
            name,
            &[("how much of a head turns", &|s| {
                s.ropes[0] = Rope::Fixed {
                    inv_freq: default_inv_freq(16, 1e4),
                    factor: 1.0,
                }
            })],
        );
    }
}

#[test]
fn layers_without_rotation() {
    for name in ["smollm3", "cohere2", "exaone4"] {
        sees(
            name,
            &[("the layers without rotation", &|s| {
                each_attention(s, |a| a.rope = Some(0))
            })],
        );
    }
}

#[test]
fn a_rotation_for_each_kind_of_layer() {
    for name in ["gemma3_text", "olmo3"] {
        sees(
            name,
            &[
                ("the rotation of full layers", &|s| {
                    each_attention(s, |a| a.rope = Some(1))
                }),
                ("the rotation of windowed layers", &|s| {
                    each_attention(s, |a| a.rope = Some(0))
                }),
            ],
        );
    }
}

#[test]
fn norms_of_q_and_k() {
    for name in [
        "qwen3",
        "stablelm_parallel_qknorm",
        "olmo2",
        "hunyuan_dense",
    ] {
        sees(
            name,
            &[("the norm of q and k", &|s| {
                each_attention(s, |a| a.qk_norm = None)
            })],
        );
    }
    let flip: &dyn Fn(&mut Spec) = &|s| {
        each_attention(s, |a| {
            let norm = a.qk_norm.as_mut().unwrap();
            norm.after_rope = !norm.after_rope;
        })
    };
    sees("hunyuan_dense", &[("norms after the rotation", flip)]);
    sees("qwen3", &[("norms before the rotation", flip)]);
    sees(
        "olmo2",
        &[("that all heads are normed together", &|s| {
            each_attention(s, |a| a.qk_norm.as_mut().unwrap().span = NormSpan::EachHead)
        })],
    );
    sees(
        "stablelm_parallel_qknorm",
        &[("that each head is normed alone", &|s| {
            each_attention(s, |a| a.qk_norm.as_mut().unwrap().span = NormSpan::Whole)
        })],
    );
}

#[test]
fn clamped_projections() {
    sees(
        "olmo",
        &[("the clamp", &|s| each_attention(s, |a| a.clip = None))],
    );
}

#[test]
fn soft_caps() {
    sees(
        "gemma2",
        &[
            ("the soft cap of scores", &|s| {
                each_attention(s, |a| a.softcap = None)
            }),
            ("the soft cap of logits", &|s| {
                s.head.as_mut().unwrap().softcap = None
            }),
        ],
    );
}

#[test]
fn linear_biases() {
    for name in ["bloom", "falcon_rw_alibi"] {
        sees(
            name,
            &[
                ("the linear bias", &|s| {
                    each_attention(s, |a| a.alibi = None)
                }),
                ("its multiplier", &|s| {
                    each_attention(s, |a| a.alibi.as_mut().unwrap().scale *= 2.0)
                }),
            ],
        );
    }
}

#[test]
fn rounded_linear_biases() {
    sees(
        "falcon_rw_alibi",
        &[("the rounding", &|s| {
            each_attention(s, |a| a.alibi.as_mut().unwrap().bf16 = false)
        })],
    );
}

#[test]
fn queries_that_grow() {
    sees(
        "ministral3",
        &[
            ("the growth of queries", &|s| {
                each_attention(s, |a| a.position_scale = None)
            }),
            ("where queries grow", &|s| {
                each_attention(s, |a| a.position_scale.as_mut().unwrap().offset += 1)
            }),
        ],
    );
}

#[test]
fn learned_positions() {
    sees(
        "gpt2",
        &[("learned positions", &|s| s.embed.positions = None)],
    );
    sees(
        "opt",
        &[("the offset of positions", &|s| {
            s.embed.positions.as_mut().unwrap().offset = 0
        })],
    );
}

#[test]
fn what_surrounds_the_embedding_and_the_head() {
    sees(
        "bloom",
        &[("the norm of the embedding", &|s| s.embed.norm = None)],
    );
    sees(
        "gemma",
        &[("the scale of the embedding", &|s| s.embed.scale = 1.0)],
    );
    sees(
        "cohere",
        &[("the scale of the logits", &|s| {
            s.head.as_mut().unwrap().scale = 1.0
        })],
    );
    sees(
        "phi",
        &[("the bias of the head", &|s| {
            s.head.as_mut().unwrap().bias = false
        })],
    );
    sees(
        "llama_mha",
        &[("the final norm", &|s| s.decoder.final_norm = None)],
    );
}

#[test]
fn multipliers() {
    sees(
        "granite",
        &[
            ("the multiplier of scores", &|s| {
                each_attention(s, |a| a.scale = 0.25)
            }),
            ("the multiplier of branches", &|s| {
                each_block(s, |b| b.scale = 1.0)
            }),
        ],
    );
}

#[test]
fn norms() {
    sees(
        "gemma2",
        &[
            ("norms after the branches", &|s| {
                each_block(s, |b| b.post = None)
            }),
            ("norms before the branches", &|s| {
                each_block(s, |b| b.pre = None)
            }),
        ],
    );
    sees(
        "starcoder2",
        &[
            ("that norms subtract the mean", &|s| {
                each_block(s, |b| b.pre.as_mut().unwrap().kind = NormKind::Rms)
            }),
            ("biases of norms", &|s| {
                each_block(s, |b| b.pre.as_mut().unwrap().bias = false)
            }),
        ],
    );
    sees(
        "llama_mha",
        &[("eps", &|s| {
            each_block(s, |b| b.pre.as_mut().unwrap().eps = 1e-6)
        })],
    );
}

#[test]
fn parallel_branches() {
    let shared: &dyn Fn(&mut Spec) = &|s| {
        each_block(s, |block| {
            block.branches.iter_mut().for_each(|b| b.pre = None)
        })
    };
    sees("falcon_40b_style", &[("norms of single branches", shared)]);
}

#[test]
fn activations() {
    let becomes = |activation| move |s: &mut Spec| each_dense(s, |d| d.activation = activation);
    sees("apertus", &[("xIELU", &becomes(Activation::Relu2))]);
    sees("gpt2", &[("the tanh form", &becomes(Activation::Gelu))]);
    sees(
        "gpt_neox",
        &[("the exact form", &becomes(Activation::GeluTanh))],
    );
    sees("arcee", &[("the square", &becomes(Activation::Relu))]);
    sees("opt", &[("relu", &becomes(Activation::Silu))]);
}

#[test]
fn biases() {
    sees(
        "qwen2",
        &[
            ("the bias of q", &|s| {
                each_attention(s, |a| a.q_bias = false)
            }),
            ("the biases of k and v", &|s| {
                each_attention(s, |a| a.kv_bias = false)
            }),
        ],
    );
    sees(
        "starcoder2",
        &[
            ("the bias of the output", &|s| {
                each_attention(s, |a| a.o_bias = false)
            }),
            ("the bias of up", &|s| each_dense(s, |d| d.up_bias = false)),
            ("the bias of down", &|s| {
                each_dense(s, |d| d.down_bias = false)
            }),
        ],
    );
}

#[test]
fn sinks_and_clamped_gates() {
    for name in ["gpt_oss", "gpt_oss_mxfp4"] {
        sees(
            name,
            &[
                ("the sinks", &|s| each_attention(s, |a| a.sinks = false)),
                ("the limit of gates", &|s| {
                    each_experts(s, |e| e.limit = None)
                }),
                ("how large a gate may be", &|s| {
                    each_experts(s, |e| e.limit = Some(7.0))
                }),
                ("the slope of the gate's sigmoid", &|s| {
                    each_experts(s, |e| e.activation = Activation::Silu)
                }),
                ("biases of gates", &|s| {
                    each_experts(s, |e| e.up_bias = false)
                }),
                ("biases of the results", &|s| {
                    each_experts(s, |e| e.down_bias = false)
                }),
                ("the bias of the router", &|s| {
                    each_experts(s, |e| e.router.bias = false)
                }),
                ("that only chosen experts are weighted", &|s| {
                    each_experts(s, |e| e.router.scores = RouterScores::Softmax)
                }),
                ("the window", &|s| {
                    each_attention(s, |a| a.mask = Mask::Causal)
                }),
            ],
        );
    }
}

#[test]
fn chunks_and_experts_with_scaled_inputs() {
    sees(
        "llama4_text",
        &[
            ("the chunks", &|s| {
                each_attention(s, |a| a.mask = Mask::Causal)
            }),
            ("that chunks do not slide", &|s| {
                each_attention(s, |a| {
                    if let Mask::Chunked(n) = a.mask {
                        a.mask = Mask::Sliding(n);
                    }
                })
            }),
            ("which layers turn", &|s| {
                each_attention(s, |a| a.rope = Some(0))
            }),
            ("norms without weights", &|s| {
                each_attention(s, |a| a.qk_norm = None)
            }),
            ("the eps of norms without weights", &|s| {
                each_attention(s, |a| {
                    if let Some(n) = &mut a.qk_norm {
                        n.norm.eps *= 2.0;
                    }
                })
            }),
            ("the growth of queries", &|s| {
                each_attention(s, |a| a.position_scale = None)
            }),
            ("where queries grow", &|s| {
                each_attention(s, |a| {
                    if let Some(p) = &mut a.position_scale {
                        p.offset += 8;
                    }
                })
            }),
            ("that weights scale the inputs", &|s| {
                each_experts(s, |e| e.router.scales_input = false)
            }),
            ("the sigmoid of the router", &|s| {
                each_experts(s, |e| e.router.scores = RouterScores::SoftmaxOfChosen)
            }),
        ],
    );
}

#[test]
fn latent_attention() {
    sees(
        "deepseek_v2_lite",
        &[
            ("the factor of scores", &|s| {
                each_latent(s, |l| l.scale = (1.0 / 24f64.sqrt()) as f32)
            }),
            ("the factor of the rotation", &|s| {
                if let Rope::Fixed { factor, .. } = &mut s.ropes[0] {
                    *factor = 1.0;
                }
            }),
            ("the eps of the narrow vector", &|s| {
                each_latent(s, |l| l.kv.norm.eps = 0.01)
            }),
            ("the multiplier of experts", &|s| {
                each_experts(s, |e| e.router.scale = 1.0)
            }),
        ],
    );
    sees(
        "mistral4",
        &[
            ("the growth of queries", &|s| {
                each_latent(s, |l| l.position_scale = None)
            }),
            ("where queries grow", &|s| {
                each_latent(s, |l| l.position_scale.as_mut().unwrap().offset += 1)
            }),
            ("the eps of the narrow query", &|s| {
                each_latent(s, |l| l.query.as_mut().unwrap().norm.eps = 0.01)
            }),
            ("that weights are divided by their sum", &|s| {
                each_experts(s, |e| e.router.normalize = false)
            }),
        ],
    );
}

#[test]
fn groups_of_experts() {
    sees(
        "deepseek_v2",
        &[
            ("the groups", &|s| {
                each_experts(s, |e| e.router.groups = None)
            }),
            ("that one expert speaks for its group", &|s| {
                each_experts(s, |e| e.router.groups.as_mut().unwrap().best = 2)
            }),
            ("that weights are not divided by their sum", &|s| {
                each_experts(s, |e| e.router.normalize = true)
            }),
        ],
    );
    sees(
        "deepseek_v3",
        &[
            ("the groups", &|s| {
                each_experts(s, |e| e.router.groups = None)
            }),
            ("that two experts speak for their group", &|s| {
                each_experts(s, |e| e.router.groups.as_mut().unwrap().best = 1)
            }),
            ("the corrections", &|s| {
                each_experts(s, |e| e.router.correction = false)
            }),
            ("the sigmoid", &|s| {
                each_experts(s, |e| e.router.scores = RouterScores::Softmax)
            }),
        ],
    );
}

#[test]
fn gated_attention() {
    for name in ["qwen3_next", "qwen3_5"] {
        sees(
            name,
            &[("the gate of attention", &|s| {
                each_attention(s, |a| a.output_gate = false)
            })],
        );
    }
}

#[test]
fn the_gated_delta_rule() {
    for name in ["qwen3_next", "qwen3_5", "qwen3_5_moe"] {
        sees(
            name,
            &[
                ("which keys a value head reads", &|s| {
                    each_delta_rule(s, |d| d.tiled = true)
                }),
                ("the floor of unit vectors", &|s| {
                    each_delta_rule(s, |d| d.unit_eps = 0.01)
                }),
                ("the eps of the norm of heads", &|s| {
                    each_delta_rule(s, |d| d.norm.eps = 1e-6)
                }),
                ("the weight of the norm of heads", &|s| {
                    each_delta_rule(s, |d| d.norm.weight = false)
                }),
                ("the activation of the convolution", &|s| {
                    each_delta_rule(s, |d| d.conv.silu = false)
                }),
            ],
        );
    }
}

#[test]
fn experts_beside_one_that_always_runs() {
    for name in ["qwen3_next", "qwen3_5_moe"] {
        sees(
            name,
            &[
                ("the gate of the shared expert", &|s| {
                    each_dense(s, |d| d.output_gate = false)
                }),
                ("that weights are divided by their sum", &|s| {
                    each_experts(s, |e| e.router.normalize = false)
                }),
            ],
        );
    }
}

//! Every feature of encoder-decoders does something, as tests/features.rs has it for the others.

use crate::features::{each_attention, each_block, edited, sees};
use crate::golden::{check_seq2seq, engine, golden_file, goldens, read_golden};
use quern::file::Entry;
use quern_models::Spec;
use quern_models::spec::*;

/// The relative biases of a stack.
fn each_relative(stack: &mut Stack, f: impl Fn(&mut RelativeBias)) {
    for block in stack.layers.iter_mut().flat_map(|l| &mut l.blocks) {
        for branch in &mut block.branches {
            if let Op::Attention(a) = &mut branch.op {
                f(a.relative.as_mut().unwrap());
            }
        }
    }
}

fn each_cross(spec: &mut Spec, f: impl Fn(&mut Cross)) {
    each_block(spec, |block| {
        for branch in &mut block.branches {
            if let Op::Cross(c) = &mut branch.op {
                f(c);
            }
        }
    });
}

/// Every family of encoder-decoders has these, though one of them alone scales its output and another keeps a table in every layer.
#[test]
fn encoders_and_what_decoders_see_of_them() {
    for name in ["t5_v1_0", "t5_v1_1", "mt5", "umt5"] {
        sees(
            name,
            &[
                ("the bias of the encoder's distances", &|s| {
                    for layer in &mut s.encoder.as_mut().unwrap().layers {
                        if let Op::Attention(a) = &mut layer.blocks[0].branches[0].op {
                            a.relative = None;
                        }
                    }
                }),
                ("the bias of the decoder's distances", &|s| {
                    each_attention(s, |a| a.relative = None)
                }),
                ("where the encoder's distances are alike", &|s| {
                    each_relative(s.encoder.as_mut().unwrap(), |r| r.max_distance = 112)
                }),
                ("where the decoder's distances are alike", &|s| {
                    each_relative(&mut s.decoder, |r| r.max_distance = 112)
                }),
                ("which way a key lies from its query", &|s| {
                    each_relative(s.encoder.as_mut().unwrap(), |r| r.both_ways = false)
                }),
                ("that the decoder looks one way", &|s| {
                    each_relative(&mut s.decoder, |r| r.both_ways = true)
                }),
                ("that the encoder looks ahead", &|s| {
                    for layer in &mut s.encoder.as_mut().unwrap().layers {
                        if let Op::Attention(a) = &mut layer.blocks[0].branches[0].op {
                            a.mask = Mask::Causal;
                        }
                    }
                }),
                ("the scale of scores", &|s| {
                    each_attention(s, |a| a.scale = 0.25)
                }),
                ("the scale of scores of the source", &|s| {
                    each_cross(s, |c| c.scale = 0.25)
                }),
                ("one attention to the source", &|s| {
                    s.decoder.layers[1].blocks[1].scale = 0.0
                }),
                ("the norm after the encoder", &|s| {
                    s.encoder.as_mut().unwrap().final_norm = None
                }),
                ("the last layer of the encoder", &|s| {
                    for block in &mut s.encoder.as_mut().unwrap().layers[2].blocks {
                        block.scale = 0.0;
                    }
                }),
            ],
        );
    }
    for name in ["t5_v1_0", "umt5"] {
        sees(
            name,
            &[("the scale of the decoder's output", &|s| {
                s.head.as_mut().unwrap().scale = 1.0
            })],
        );
    }
}

/// A table may be one for each layer, and the one for the encoder is not that for the decoder.
#[test]
fn tables_of_distances_are_told_apart() {
    for (name, shared) in [("t5_v1_0", true), ("umt5", false)] {
        let file = golden_file(name);
        let golden = read_golden(&goldens().join(name));
        let table = |stack: u8, layer: u32| {
            let mut entries = file.entries().iter();
            let of = |e: &Entry| e.key.role == Role::AttnRelativeBias;
            let at = entries
                .position(|e| of(e) && e.key.stack == stack && e.key.layer == layer)
                .unwrap();
            file.data(at).0.to_vec()
        };
        assert_eq!(table(0, 0) == table(0, 1), shared, "{name}");
        assert_eq!(table(1, 0) == table(1, 2), shared, "{name}");
        assert_ne!(table(0, 0), table(1, 0), "{name}");
        let changed = edited(&file, file.spec().clone(), |entry, data| {
            if entry.key.role == Role::AttnRelativeBias && entry.key.layer == 1 {
                data.copy_from_slice(&table(1 - entry.key.stack, 1));
            }
        });
        let passed = check_seq2seq(&mut engine(changed, 2), &golden).is_ok();
        assert!(!passed, "{name} does not see which table is whose");
    }
}

//! Recurrent branches: every part of them is seen by a golden, and a sequence with a state goes forward or back to its beginning.

use crate::features::{Edit, edited, sees};
use crate::golden::{check_causal, engine, golden_file, goldens, read_golden};
use quern::model::{Engine, Step, Wanted};
use quern_kernels::KvType;
use quern_models::Spec;
use quern_models::spec::*;

fn each_op(spec: &mut Spec, mut f: impl FnMut(&mut Op)) {
    let blocks = spec.decoder.layers.iter_mut().flat_map(|l| &mut l.blocks);
    blocks
        .flat_map(|b| &mut b.branches)
        .for_each(|b| f(&mut b.op));
}

fn each_conv(spec: &mut Spec, mut f: impl FnMut(&mut Convolution)) {
    each_op(spec, |op| match op {
        Op::ShortConv(c) => f(&mut c.conv),
        Op::SelectiveScan(s) => f(&mut s.conv),
        Op::StateSpace(s) => f(&mut s.conv),
        _ => {}
    });
}

fn each_state_space(spec: &mut Spec, mut f: impl FnMut(&mut StateSpace)) {
    each_op(spec, |op| {
        if let Op::StateSpace(s) = op {
            f(s);
        }
    });
}

/// The golden does not hold once the values of some tensors are changed.
fn sees_values(name: &str, role: Role, change: impl Fn(&mut [f32])) {
    let file = golden_file(name);
    let changed = edited(&file, file.spec().clone(), |entry, data| {
        if entry.key.role == role {
            let values = data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            let mut values: Vec<f32> = values.collect();
            change(&mut values);
            *data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        }
    });
    let golden = read_golden(&goldens().join(name));
    let passed = check_causal(&mut engine(changed, 2), &golden).is_ok();
    assert!(!passed, "{name} does not see {role:?}");
}

#[test]
fn convolutions() {
    let silu: Edit = ("whether silu follows", &|s| {
        each_conv(s, |c| c.silu = !c.silu)
    });
    let bias: Edit = ("the bias", &|s| each_conv(s, |c| c.bias = false));
    sees("lfm2", &[silu]);
    sees("mamba", &[silu, bias]);
    sees("mamba2", &[silu, bias]);
    // The oldest tap is the first row.
    sees_values("lfm2", Role::ConvWeight, |w| w[..64].fill(0.0));
    sees_values("mamba2", Role::ConvWeight, |w| w[..192].fill(0.0));
    sees_values("mamba", Role::ConvWeight, |w| w.reverse());
}

#[test]
fn scans() {
    for name in ["mamba", "mamba2", "granitemoehybrid", "falcon_h1"] {
        // Rates that are a little off, and in another order.
        sees_values(name, Role::Rate, |a| a.iter_mut().for_each(|a| *a *= 1.01));
        sees_values(name, Role::Rate, |a| a.reverse());
        sees_values(name, Role::Skip, |d| d.fill(0.0));
        sees_values(name, Role::StepBias, |b| b.fill(0.0));
    }
}

#[test]
fn steps_of_heads() {
    for name in ["mamba2", "falcon_h1"] {
        sees(
            name,
            &[
                ("the least step", &|s| {
                    each_state_space(s, |s| s.step_min = 0.5)
                }),
                ("the greatest step", &|s| {
                    each_state_space(s, |s| s.step_max = Some(1.0))
                }),
            ],
        );
    }
    sees(
        "falcon_h1",
        &[("the multiplier of the step", &|s| {
            each_state_space(s, |s| s.step_scale = 1.25)
        })],
    );
}

#[test]
fn gates_of_heads() {
    let norm = |s: &StateSpace| s.gate.norm().unwrap().clone();
    for name in ["mamba2", "granitemoehybrid"] {
        sees(
            name,
            &[
                ("the norm of the gate", &|s| {
                    each_state_space(s, |s| s.gate = Gate::Plain)
                }),
                ("that the norm comes after the gate", &|s| {
                    each_state_space(s, |s| s.gate = Gate::NormBefore(norm(s)))
                }),
            ],
        );
    }
    sees(
        "falcon_h1",
        &[("the multiplier of the gate", &|s| {
            each_state_space(s, |s| s.gate_scale = 1.0)
        })],
    );
}

#[test]
fn groups_of_heads() {
    // One group of twice the state's width has the same tensors.
    sees(
        "mamba2",
        &[("that groups have states of their own", &|s| {
            each_state_space(s, |s| (s.groups, s.state) = (1, 2 * s.state))
        })],
    );
}

#[test]
fn multipliers_of_branches_and_gates() {
    for branch in 0..2 {
        sees(
            "falcon_h1",
            &[("the multiplier of a branch", &|s| {
                for layer in &mut s.decoder.layers {
                    layer.blocks[0].branches[branch].scale = 1.0;
                }
            })],
        );
    }
    sees(
        "falcon_h1",
        &[("the multiplier of the network's gate", &|s| {
            each_op(s, |op| {
                if let Op::Dense(d) = op {
                    d.gate_scale = 1.0;
                }
            })
        })],
    );
}

#[test]
fn the_floor_of_router_weights() {
    let floor: Edit = ("what is added to the sum of the weights", &|s| {
        each_op(s, |op| {
            if let Op::Experts(e) = op {
                e.router.floor = 0.01;
            }
        });
    });
    sees("lfm2_moe", &[floor]);
}

/// A golden for each kind of recurrent operation, alone and beside attention.
const RECURRENT: [&str; 4] = ["lfm2", "mamba", "mamba2", "falcon_h1"];

fn bits(engine: &mut Engine, seq: &mut quern::cache::Sequence, tokens: &[u32]) -> Vec<u32> {
    let step = Step {
        seq,
        tokens,
        wanted: Wanted::Last,
    };
    let logits = engine.forward(&mut [step]).unwrap();
    logits.row(0).iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_sequence_with_a_state_goes_back_to_its_beginning_only() {
    for name in RECURRENT {
        let mut engine = engine(golden_file(name), 2);
        let ids: Vec<u32> = (0..40).map(|i| i * 7 % 288).collect();
        let mut seq = engine.model().new_sequence(KvType::F16);
        let expected = bits(&mut engine, &mut seq, &ids);
        let bytes = seq.bytes();
        let e = seq.truncate(39).unwrap_err();
        assert_eq!(e.exit_code(), 5);
        assert_eq!(
            e.to_string(),
            "cannot go back to 39 of 40 tokens: a recurrent state has taken in the later ones"
        );
        assert_eq!((seq.len(), seq.bytes()), (40, bytes));
        let after = bits(&mut engine, &mut seq, &[3]);
        seq.truncate(0).unwrap();
        assert_eq!((seq.len(), seq.bytes()), (0, 0));
        assert!(bits(&mut engine, &mut seq, &ids) == expected, "{name}");
        assert!(bits(&mut engine, &mut seq, &[3]) == after, "{name}");
    }
}

/// Several sequences that move at different speeds, one of which begins again in between.
#[test]
fn states_of_neighbours_do_not_mix() {
    for name in RECURRENT {
        let mut engine = engine(golden_file(name), 3);
        let prompts: Vec<Vec<u32>> = (1..6u32)
            .map(|s| (0..12 * s).map(|i| (i * i + 31 * s) % 288).collect())
            .collect();
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|p| {
                let mut seq = engine.model().new_sequence(KvType::F32);
                bits(&mut engine, &mut seq, p)
            })
            .collect();
        let mut seqs: Vec<_> = prompts
            .iter()
            .map(|_| engine.model().new_sequence(KvType::F32))
            .collect();
        let mut last = vec![Vec::new(); prompts.len()];
        let mut turns = 0;
        while seqs.iter().zip(&prompts).any(|(s, p)| s.len() < p.len()) {
            turns += 1;
            if turns == 5 {
                seqs[4].truncate(0).unwrap();
            }
            let (mut who, mut steps) = (Vec::new(), Vec::new());
            for (i, (seq, prompt)) in seqs.iter_mut().zip(&prompts).enumerate() {
                let from = seq.len();
                let to = (from + 2 * i + 1).min(prompt.len());
                if from < to {
                    who.push(i);
                    steps.push(Step {
                        seq,
                        tokens: &prompt[from..to],
                        wanted: Wanted::Last,
                    });
                }
            }
            let logits = engine.forward(&mut steps).unwrap();
            for (row, i) in who.into_iter().enumerate() {
                last[i] = logits.row(row).iter().map(|x| x.to_bits()).collect();
            }
        }
        assert!(last == alone, "{name}");
    }
}

//! One promise: the bits of the logits depend on the weights and the tokens of the sequence, and on nothing else.

use crate::common::{Small, small_model};
use quern::model::{Engine, Model, Step, Wanted};
use quern::par::Team;
use quern_kernels::{Format, Kernels, KvType};
use std::sync::Arc;

fn tokens(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(7919).wrapping_add(seed * 104_729) >> 3) % 300)
        .collect()
}

fn engine(model: &Arc<Model>, kernels: &'static Kernels, threads: usize) -> Engine {
    Engine::new(model.clone(), kernels, Team::new(threads).unwrap())
}

/// Bits of the logits at every position of `ids`, run in chunks.
fn run(engine: &mut Engine, ids: &[u32], chunk: usize, kv: KvType) -> Vec<u32> {
    let mut seq = engine.model().new_sequence(kv);
    seq.set_prompt_len(ids.len());
    let mut bits = Vec::new();
    for part in ids.chunks(chunk) {
        let logits = engine
            .forward(&mut [Step {
                seq: &mut seq,
                tokens: part,
                wanted: Wanted::All,
            }])
            .unwrap();
        assert_eq!(logits.rows(), part.len());
        (0..logits.rows()).for_each(|i| bits.extend(logits.row(i).iter().map(|x| x.to_bits())));
    }
    bits
}

fn bind(small: Small, format: Format) -> Arc<Model> {
    Arc::new(Model::bind(small_model(small, format)).unwrap())
}

#[test]
fn instruction_sets_threads_and_chunks_leave_no_trace() {
    let small = Small {
        window: Some(40),
        ..Small::default()
    };
    for format in Format::ALL {
        let model = bind(small, format);
        let ids = tokens(1, 150);
        let scalar = quern_kernels::by_name("scalar").unwrap();
        let expected = run(&mut engine(&model, scalar, 1), &ids, 64, KvType::F16);
        assert!(expected.iter().all(|b| f32::from_bits(*b).is_finite()));
        for kernels in quern_kernels::supported() {
            for threads in [1, 2, 3, 7] {
                let chunks: &[usize] = if kernels.name() == "scalar" {
                    &[7]
                } else {
                    &[1, 7, 64, 512]
                };
                for &chunk in chunks {
                    let got = run(
                        &mut engine(&model, kernels, threads),
                        &ids,
                        chunk,
                        KvType::F16,
                    );
                    assert!(
                        got == expected,
                        "{format:?} {} {threads} threads, chunks of {chunk}",
                        kernels.name()
                    );
                }
            }
        }
    }
}

#[test]
fn a_long_context_split_over_threads_equals_one_thread() {
    // Longer than a range of positions, so that partial results are merged; with and without a window.
    let small = Small {
        layers: 2,
        vocab: 64,
        window: Some(700),
        context: 8192,
        ..Small::default()
    };
    let model = bind(small, Format::Q8);
    let ids: Vec<u32> = tokens(3, 1300).iter().map(|t| t % 64).collect();
    for kv in KvType::ALL {
        let expected = run(
            &mut engine(&model, quern_kernels::best(), 1),
            &ids,
            1300,
            kv,
        );
        for (threads, chunk) in [(1, 100), (2, 1299), (7, 333), (16, 64)] {
            let got = run(
                &mut engine(&model, quern_kernels::best(), threads),
                &ids,
                chunk,
                kv,
            );
            assert!(
                got == expected,
                "{kv:?} {threads} threads, chunks of {chunk}"
            );
        }
        // Token by token with many threads takes the path that splits one query's keys.
        let mut many = engine(&model, quern_kernels::best(), 8);
        let mut seq = model.new_sequence(kv);
        let vocab = 64;
        let prompt = 1290;
        many.forward(&mut [Step {
            seq: &mut seq,
            tokens: &ids[..prompt],
            wanted: Wanted::None,
        }])
        .unwrap();
        for (i, id) in ids.iter().enumerate().skip(prompt) {
            let logits = many
                .forward(&mut [Step {
                    seq: &mut seq,
                    tokens: &[*id],
                    wanted: Wanted::Last,
                }])
                .unwrap();
            let bits: Vec<u32> = logits.row(0).iter().map(|x| x.to_bits()).collect();
            assert!(
                bits == expected[i * vocab..(i + 1) * vocab],
                "{kv:?} position {i}"
            );
        }
    }
}

#[test]
fn neighbours_in_a_batch_leave_no_trace() {
    let small = Small {
        window: Some(30),
        ..Small::default()
    };
    for format in [Format::F32, Format::Q4] {
        let model = bind(small, format);
        let mut engine = engine(&model, quern_kernels::best(), 2);
        let prompts: Vec<Vec<u32>> = (0..5).map(|s| tokens(s, 20 + 13 * s as usize)).collect();
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|p| run(&mut engine, p, 512, KvType::F16))
            .collect();
        // Ragged: sequence s moves s + 1 tokens a step, so decode and prefill mix.
        let mut seqs: Vec<_> = prompts
            .iter()
            .map(|_| model.new_sequence(KvType::F16))
            .collect();
        let mut got: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
        while seqs.iter().zip(&prompts).any(|(s, p)| s.len() < p.len()) {
            let mut who = Vec::new();
            let mut steps = Vec::new();
            for (i, (seq, prompt)) in seqs.iter_mut().zip(&prompts).enumerate() {
                let from = seq.len();
                let to = (from + i + 1).min(prompt.len());
                if from < to {
                    who.extend(std::iter::repeat_n(i, to - from));
                    steps.push(Step {
                        seq,
                        tokens: &prompt[from..to],
                        wanted: Wanted::All,
                    });
                }
            }
            let logits = engine.forward(&mut steps).unwrap();
            for (row, i) in who.iter().enumerate() {
                got[*i].extend(logits.row(row).iter().map(|x| x.to_bits()));
            }
        }
        for (i, (got, alone)) in got.iter().zip(&alone).enumerate() {
            assert!(got == alone, "{format:?}: sequence {i}");
        }
    }
}

#[test]
fn a_truncated_sequence_goes_on_as_if_the_rest_had_never_been() {
    let model = bind(Small::default(), Format::Bf16);
    let mut engine = engine(&model, quern_kernels::best(), 2);
    let ids = tokens(9, 90);
    let expected = run(&mut engine, &ids, 512, KvType::F16);
    let mut seq = model.new_sequence(KvType::F16);
    let wrong: Vec<u32> = ids[..70].iter().chain(&tokens(8, 30)).copied().collect();
    engine
        .forward(&mut [Step {
            seq: &mut seq,
            tokens: &wrong,
            wanted: Wanted::None,
        }])
        .unwrap();
    seq.truncate(70).unwrap();
    let logits = engine
        .forward(&mut [Step {
            seq: &mut seq,
            tokens: &ids[70..],
            wanted: Wanted::Last,
        }])
        .unwrap();
    let bits: Vec<u32> = logits.row(0).iter().map(|x| x.to_bits()).collect();
    assert!(bits == expected[89 * 300..]);
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error_that_names_it() {
    let model = bind(Small::default(), Format::Q8);
    let mut engine = engine(&model, quern_kernels::best(), 1);
    let mut seq = model.new_sequence(KvType::F32);
    let mut steps = [Step {
        seq: &mut seq,
        tokens: &[1, 300],
        wanted: Wanted::Last,
    }];
    let e = engine.forward(&mut steps).err().unwrap();
    assert_eq!(e.exit_code(), 3);
    assert_eq!(
        e.to_string(),
        "token id 300 at position 1: expected less than the vocabulary's 300"
    );
    assert_eq!(seq.len(), 0);
}

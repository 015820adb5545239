//! The sampler as a whole: streams that never change, and every step in any order.

use super::*;

fn sampler(params: Params) -> Sampler {
    Sampler::new(params, quern_kernels::best()).unwrap()
}

/// Logits that look like a model's: a few large ones, many small ones.
pub(super) fn logits(n: usize, salt: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let h = (i ^ salt).wrapping_mul(2_654_435_761) >> 8;
            let u = h as f32 / (1 << 24) as f32;
            u * u * u * 20.0 - 5.0
        })
        .collect()
}

#[test]
fn greedy_takes_the_greatest_and_the_lowest_id_on_a_tie() {
    let mut s = sampler(Params::greedy());
    assert_eq!(s.sample(&[1.0, 3.0, 2.0, 3.0]).unwrap(), 1);
    assert_eq!(s.sample(&[f32::NEG_INFINITY, -3.0]).unwrap(), 1);
}

#[test]
fn bad_logits_are_named_and_nothing_is_drawn() {
    for params in [Params::greedy(), Params::default()] {
        let mut s = sampler(params);
        assert_eq!(s.sample(&[f32::NEG_INFINITY; 40]), Err(BadLogits::Nothing));
        assert_eq!(s.sample(&[]), Err(BadLogits::Nothing));
        let mut x = logits(100, 1);
        x[77] = f32::INFINITY;
        let e = s.sample(&x).unwrap_err();
        assert!(
            e.to_string().starts_with("the logit of id 77 is inf"),
            "{e}"
        );
        x[33] = f32::NAN;
        let e = s.sample(&x).unwrap_err();
        assert!(
            e.to_string().starts_with("the logit of id 33 is NaN"),
            "{e}"
        );
    }
}

#[test]
fn same_seed_same_ids_on_every_instruction_set() {
    let ids = |kernels| {
        let mut s = Sampler::new(
            Params {
                top_k: 0,
                repeat_penalty: 1.1,
                seed: 42,
                ..Params::default()
            },
            kernels,
        )
        .unwrap();
        (0..200)
            .map(|i| {
                let id = s.sample(&logits(1000, i)).unwrap();
                s.accept(id);
                id
            })
            .collect::<Vec<u32>>()
    };
    let expected = ids(quern_kernels::best());
    for kernels in quern_kernels::supported() {
        assert_eq!(ids(kernels), expected, "{}", kernels.name());
    }
}

/// The numbers are what this program printed when the stream was fixed; they may never change.
#[test]
fn the_stream_of_a_seed_never_changes() {
    let mut s = sampler(Params {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 7,
        ..Params::default()
    });
    let uniform = [0.0f32; 1000];
    let ids: Vec<u32> = (0..8).map(|_| s.sample(&uniform).unwrap()).collect();
    assert_eq!(ids, [894, 40, 780, 114, 773, 242, 449, 362]);
}

/// A plain version of the three filters: sort everything, accumulate in f64.
fn filtered(x: &[f32], k: usize, p: f64, min: f64) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..x.len() as u32).collect();
    ids.sort_by(|&a, &b| {
        x[b as usize]
            .partial_cmp(&x[a as usize])
            .unwrap()
            .then(a.cmp(&b))
    });
    if k > 0 {
        ids.truncate(k);
    }
    let top = f64::from(x[ids[0] as usize]);
    let weight = |id: u32| (f64::from(x[id as usize]) - top).exp();
    let sum: f64 = ids.iter().map(|&i| weight(i)).sum();
    if p < 1.0 {
        let mut reached = 0.0;
        let keep = ids.iter().position(|&i| {
            reached += weight(i);
            reached >= p * sum
        });
        ids.truncate(keep.map_or(ids.len(), |k| k + 1));
    }
    ids.retain(|&i| weight(i) >= min);
    ids.sort_unstable();
    ids
}

#[test]
fn filters_equal_a_plain_version() {
    for (n, k, p, min) in [
        (1000, 40, 0.95, 0.05),
        (1000, 0, 0.9, 0.0),
        (5000, 0, 0.9999, 0.0),
        (5000, 0, 1.0, 0.1),
        (50_000, 0, 0.97, 0.0),
        (37, 100, 0.5, 0.0),
        (1000, 1, 0.5, 0.5),
        (1000, 0, 0.0, 1.0),
        (1000, 7, 1.0, 0.0),
    ] {
        for salt in 0..5 {
            let x = logits(n, salt);
            let mut s = sampler(Params {
                top_k: k,
                top_p: p,
                min_p: min,
                ..Params::default()
            });
            s.candidates.start(&x);
            s.walk(s.steps.len());
            let mut ids: Vec<u32> = s.candidates.list().iter().map(|c| c.id).collect();
            ids.sort_unstable();
            let expected = filtered(&x, k, f64::from(p), f64::from(min));
            assert_eq!(ids, expected, "n {n} k {k} p {p} min {min} salt {salt}");
        }
    }
}

#[test]
fn draws_follow_the_probabilities() {
    let mut s = sampler(Params {
        temperature: 2.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        ..Params::default()
    });
    // At temperature 2 these are the weights 1, 2, 4, 0.
    let ln2 = std::f32::consts::LN_2;
    let x = [0.0, 2.0 * ln2, 4.0 * ln2, f32::NEG_INFINITY];
    let mut counts = [0f64; 4];
    for _ in 0..7000 {
        counts[s.sample(&x).unwrap() as usize] += 1.0;
    }
    // Five standard deviations of a binomial count of 7000 are at most 5 * sqrt(7000 / 4) = 210.
    for (count, expected) in counts.iter().zip([1000.0, 2000.0, 4000.0, 0.0]) {
        assert!((count - expected).abs() <= 210.0, "{counts:?}");
    }
    assert_eq!(counts[3], 0.0);
}

#[test]
fn extreme_parameters_still_draw() {
    let x = logits(500, 3);
    let greatest = sampler(Params::greedy()).sample(&x).unwrap();
    let mut s = sampler(Params {
        temperature: f32::MIN_POSITIVE,
        top_k: 0,
        ..Params::default()
    });
    assert_eq!(s.sample(&x).unwrap(), greatest);
    let mut s = sampler(Params {
        temperature: f32::MAX,
        repeat_penalty: f32::MAX,
        ..Params::default()
    });
    for id in 0..500 {
        s.accept(id);
    }
    assert!(s.sample(&x).unwrap() < 500);
}

#[test]
fn repetition_penalty_divides_what_is_above_zero_and_multiplies_the_rest() {
    let mut s = sampler(Params {
        repeat_penalty: 2.0,
        repeat_last_n: Some(2),
        ..Params::greedy()
    });
    // 4 / 2 = 2 < 3; an id that was seen twice is penalized once; negative logits grow.
    s.accept(0);
    s.accept(0);
    assert_eq!(s.sample(&[4.0, 3.0, -1.0]).unwrap(), 1);
    assert_eq!(s.sample(&[8.0, 3.0, -1.0]).unwrap(), 0);
    assert_eq!(s.sample(&[-2.0, -3.0, -5.0]).unwrap(), 1);
    // Two more ids push it out of the window.
    s.accept(2);
    s.accept(2);
    assert_eq!(s.sample(&[4.0, 3.0, -1.0]).unwrap(), 0);
}

/// Draws of a sampler on rows that change, each accepted.
fn run(params: &Params, rows: usize, n: usize) -> Vec<u32> {
    let mut s = sampler(params.clone());
    (0..rows as u32)
        .map(|i| {
            let id = s.sample(&logits(n, i)).unwrap();
            s.accept(id);
            id
        })
        .collect()
}

/// Parameters with every step at work, some of them mildly.
fn everything() -> Params {
    let mut breakers = Breakers::default();
    breakers.add(3, Vec::new());
    Params {
        temperature: 0.9,
        dynatemp_range: 0.3,
        top_k: 50,
        typical: 0.9,
        top_n_sigma: 2.0,
        repeat_penalty: 1.1,
        presence_penalty: 0.2,
        frequency_penalty: 0.1,
        repeat_last_n: None,
        dry_multiplier: 0.8,
        dry_allowed_length: 1,
        dry_breakers: breakers,
        xtc_probability: 0.5,
        logit_bias: vec![(5, 3.0), (6, f32::NEG_INFINITY), (99_999, 1.0)],
        seed: 11,
        ..Params::default()
    }
}

#[test]
fn every_order_draws_something_that_is_there_on_every_instruction_set() {
    let mut state = 5u32;
    let mut random = move |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % n
    };
    for round in 0..300 {
        let order: Vec<Step> = (0..random(12))
            .map(|_| Step::DEFAULT[random(9) as usize])
            .collect();
        let pick = |values: [f32; 3], r: u32| values[r as usize % 3];
        let params = Params {
            temperature: pick([0.0, 0.7, 2.0], random(3)),
            dynatemp_range: pick([0.0, 0.5, 3.0], random(3)),
            top_k: [0, 1, 20][random(3) as usize],
            top_p: pick([0.0, 0.5, 1.0], random(3)),
            min_p: pick([0.0, 0.1, 1.0], random(3)),
            typical: pick([0.0, 0.5, 1.0], random(3)),
            top_n_sigma: pick([-1.0, 0.1, 2.0], random(3)),
            xtc_threshold: pick([0.0, 0.1, 0.5], random(3)),
            mirostat: (random(5) == 0).then_some(Mirostat {
                target: 3.0,
                rate: 0.2,
            }),
            order,
            seed: u64::from(round),
            ..everything()
        };
        let mut samplers: Vec<Sampler> = quern_kernels::supported()
            .map(|k| Sampler::new(params.clone(), k).unwrap())
            .collect();
        for i in 0..12 {
            let mut row = logits(40 + 30 * i as usize, i + round);
            for at in 0..row.len() {
                if random(4) == 0 && at != 5 {
                    row[at] = f32::NEG_INFINITY;
                }
            }
            let ids: Vec<u32> = samplers
                .iter_mut()
                .map(|s| s.sample(&row).unwrap())
                .collect();
            assert!(ids.iter().all(|&id| id == ids[0]), "{params:?}: {ids:?}");
            assert!(row[ids[0] as usize] > f32::NEG_INFINITY && ids[0] != 6);
            samplers.iter_mut().for_each(|s| s.accept(ids[0]));
        }
    }
}

#[test]
fn what_is_switched_off_changes_nothing_and_what_is_on_does() {
    let plain = Params {
        temperature: 1.3,
        seed: 4,
        ..Params::default()
    };
    let expected = run(&plain, 60, 300);
    let no_steps_more = Params {
        order: vec![Step::TopK, Step::TopP, Step::MinP, Step::Temperature],
        dry_multiplier: 0.0,
        dry_base: 9.0,
        xtc_probability: 0.0,
        xtc_threshold: 0.0,
        repeat_last_n: Some(0),
        repeat_penalty: 3.0,
        ..plain.clone()
    };
    assert_eq!(run(&no_steps_more, 60, 300), expected);
    let mut changes: Vec<(&str, Params)> = Vec::new();
    let mut change = |name, f: fn(&mut Params)| {
        let mut params = plain.clone();
        f(&mut params);
        changes.push((name, params));
    };
    change("dynatemp", |p| p.dynatemp_range = 1.0);
    change("typical", |p| p.typical = 0.5);
    change("sigma", |p| p.top_n_sigma = 0.5);
    change("presence", |p| p.presence_penalty = 5.0);
    change("frequency", |p| p.frequency_penalty = 5.0);
    change("dry", |p| {
        p.dry_multiplier = 9.0;
        p.dry_allowed_length = 0;
    });
    change("xtc", |p| p.xtc_probability = 1.0);
    change("bias", |p| p.logit_bias = vec![(17, 30.0)]);
    change("order", |p| {
        p.order.reverse();
        p.temperature = 5.0;
    });
    change("mirostat", |p| {
        p.mirostat = Some(Mirostat {
            target: 1.0,
            rate: 0.5,
        })
    });
    change("seed", |p| p.seed = 5);
    for (name, params) in changes {
        assert_ne!(run(&params, 60, 300), expected, "{name}");
    }
}

#[test]
fn the_greedy_way_is_the_long_way() {
    for order in [
        Step::DEFAULT.to_vec(),
        vec![Step::TopK, Step::Penalties, Step::Temperature],
        vec![Step::Temperature, Step::Typical, Step::Xtc],
        vec![
            Step::Dry,
            Step::Penalties,
            Step::Temperature,
            Step::Penalties,
        ],
    ] {
        let params = Params {
            temperature: 0.0,
            dynatemp_range: 0.0,
            order,
            ..everything()
        };
        let mut long = sampler(params.clone());
        long.greedy = None;
        let mut short = sampler(params);
        for i in 0..40 {
            let row = logits(200, i);
            let id = short.sample(&row).unwrap();
            assert_eq!(id, long.sample(&row).unwrap());
            short.accept(id);
            long.accept(id);
        }
    }
}

#[test]
fn xtc_asks_a_generator_of_its_own() {
    // Of two equal choices XTC leaves the second; the draws of the others are as if it were not there.
    let ln2 = std::f32::consts::LN_2;
    let row = [ln2, ln2, 0.0];
    let params = |probability| Params {
        temperature: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        xtc_probability: probability,
        ..Params::default()
    };
    let draws = |probability| {
        let mut s = sampler(params(probability));
        (0..300)
            .map(|_| s.sample(&row).unwrap())
            .collect::<Vec<u32>>()
    };
    let (without, always, half) = (draws(0.0), draws(1.0), draws(0.5));
    assert!(without.contains(&0) && !always.contains(&0) && half.contains(&0));
    for ((w, a), h) in without.iter().zip(&always).zip(&half) {
        assert!(h == w || h == a, "one number per id, whatever XTC does");
    }
}

#[test]
fn a_bias_moves_and_forbids() {
    let params = |bias: Vec<(u32, f32)>| Params {
        logit_bias: bias,
        ..Params::greedy()
    };
    let row = [1.0, 2.0, 3.0];
    let greedy = |bias| sampler(params(bias)).sample(&row);
    assert_eq!(greedy(vec![(0, 1.5)]), Ok(2));
    assert_eq!(greedy(vec![(0, 1.5), (0, 1.5)]), Ok(0));
    assert_eq!(greedy(vec![(2, f32::NEG_INFINITY)]), Ok(1));
    let none = (0..3).map(|id| (id, f32::NEG_INFINITY)).collect();
    assert_eq!(greedy(none), Err(BadLogits::Nothing));
    // A bias does not bring back what is excluded.
    let mut s = sampler(params(vec![(2, 9.0)]));
    let id = s.sample_among(&row, |row| row[2] = f32::NEG_INFINITY);
    assert_eq!(id, Ok(1));
}

#[test]
fn the_order_decides() {
    // Weights 8, 4, 2, 1. Top-k 3 then top-p 0.55: 8 of 14 is enough. Top-p first: 8 of 15 is not, and two stay.
    let row: Vec<f32> = [8f32, 4.0, 2.0, 1.0].iter().map(|w| w.ln()).collect();
    let left = |order: Vec<Step>| {
        let mut s = sampler(Params {
            top_k: 3,
            top_p: 0.55,
            order,
            ..Params::default()
        });
        s.candidates.start(&row);
        s.walk(s.steps.len());
        s.candidates.list().len()
    };
    assert_eq!(left(vec![Step::TopK, Step::TopP]), 1);
    assert_eq!(left(vec![Step::TopP, Step::TopK]), 2);
}

//! Every golden family keeps the program's promises: the same bits however a sequence is cut into passes, whoever computes it, beside
//! whatever neighbours, in every weight format; and int8 weights change little.

use crate::features::edited;
use crate::golden::{engine, golden_file_as, goldens, known, read_golden, subfolders};
use quern::cache::Sequence;
use quern::convert::quantize::Quant;
use quern::file::ModelFile;
use quern::model::{Engine, Model, Source, Step, Wanted};
use quern::par::Team;
use quern_kernels::{Format, Kernels, KvType, PANEL_ROWS};
use quern_models::spec::{Role, Shape};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

/// The goldens with logits of known families: name and folder.
fn with_logits() -> Vec<(String, PathBuf, Value)> {
    let mut found = Vec::new();
    for folder in subfolders(&goldens()) {
        let golden = read_golden(&folder);
        let logits = golden["kind"] == "causal" || golden["kind"] == "seq2seq";
        if logits && known(&folder.join("config.json")).is_some() {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, folder, golden));
        }
    }
    found
}

/// What a model reads.
struct Text {
    /// What an encoder reads, if there is one.
    source: Option<Vec<u32>>,
    ids: Vec<u32>,
}

impl Text {
    /// A golden's sequence.
    fn of(golden: &Value, name: &str) -> Text {
        let mut all = golden["sequences"].as_array().unwrap().iter();
        let found = all.find(|s| s["name"] == name).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            let ids = found[key].as_array().unwrap().iter();
            ids.map(|v| v.as_u64().unwrap() as u32).collect()
        };
        if golden["kind"] == "seq2seq" {
            return Text {
                source: Some(ids("encoder_input_ids")),
                ids: ids("decoder_input_ids"),
            };
        }
        Text {
            source: None,
            ids: ids("input_ids"),
        }
    }

    /// One of about forty ids; what decoders read is shorter than what encoders read.
    fn middle(golden: &Value) -> Text {
        match golden["kind"] == "seq2seq" {
            true => Text::of(golden, "long"),
            false => Text::of(golden, "mid"),
        }
    }

    /// A sequence for so many ids of it, its source encoded.
    fn begin(&self, engine: &mut Engine, kv: KvType, len: usize) -> Sequence {
        let mut sequence = engine.model().new_sequence(kv);
        sequence.set_prompt_len(len);
        if let Some(ids) = &self.source {
            let seq = &mut sequence;
            engine.encode(&mut [Source { seq, ids }]).unwrap();
        }
        sequence
    }
}

fn sequence(golden: &Value, name: &str) -> Vec<u32> {
    Text::of(golden, name).ids
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

/// Logits of the first `len` positions, run in chunks of one declared prompt.
fn run(engine: &mut Engine, text: &Text, len: usize, chunk: usize) -> Vec<Vec<u32>> {
    let ids = &text.ids[..len];
    let mut seq = text.begin(engine, KvType::F16, len);
    let mut rows = Vec::new();
    for tokens in ids.chunks(chunk) {
        let step = Step {
            seq: &mut seq,
            tokens,
            wanted: Wanted::All,
        };
        let logits = engine.forward(&mut [step]).unwrap();
        rows.extend((0..logits.rows()).map(|i| bits(logits.row(i))));
    }
    rows
}

fn with(model: &Arc<Model>, kernels: &'static Kernels, threads: usize) -> Engine {
    Engine::new(model.clone(), kernels, Team::new(threads).unwrap())
}

#[test]
fn bits_do_not_depend_on_chunks_threads_instructions_or_neighbours() {
    for (name, folder, golden) in with_logits() {
        let text = Text::middle(&golden);
        let other = Text::of(&golden, "short");
        let n = text.ids.len();
        for format in [Format::F32, Format::Q8, Format::Q4] {
            let file = golden_file_as(&folder, Quant::To(format));
            let model = Arc::new(Model::bind(file).unwrap());
            let best = quern_kernels::best();
            let expected = run(&mut with(&model, best, 1), &text, n, n);
            for (threads, chunk) in [(2, 1), (3, 7)] {
                let got = run(&mut with(&model, best, threads), &text, n, chunk);
                assert!(got == expected, "{name} {format:?}: chunks of {chunk}");
            }
            let scalar = quern_kernels::by_name("scalar").unwrap();
            let got = run(&mut with(&model, scalar, 2), &text, 9, 9);
            let expected_short = run(&mut with(&model, best, 2), &text, 9, 9);
            assert!(got == expected_short, "{name} {format:?}: scalar kernels");

            // Beside a shorter sequence that is a few tokens ahead.
            let mut engine = with(&model, best, 2);
            let mut a = text.begin(&mut engine, KvType::F16, n);
            let mut b = other.begin(&mut engine, KvType::F16, other.ids.len());
            let mut at = 0;
            for (i, tokens) in text.ids.chunks(10).enumerate() {
                let mut steps = vec![Step {
                    seq: &mut a,
                    tokens,
                    wanted: Wanted::All,
                }];
                if let Some(tokens) = other.ids.chunks(2).nth(i) {
                    steps.push(Step {
                        seq: &mut b,
                        tokens,
                        wanted: Wanted::Last,
                    });
                }
                let logits = engine.forward(&mut steps).unwrap();
                for row in 0..tokens.len() {
                    let same = bits(logits.row(row)) == expected[at + row];
                    assert!(same, "{name} {format:?}: position {} in a batch", at + row);
                }
                at += tokens.len();
            }
        }
    }
}

fn hidden_bits(engine: &mut Engine, sources: &mut [Source<'_>]) -> Vec<Vec<u32>> {
    let hidden = engine.encode(sources).unwrap();
    (0..hidden.rows()).map(|i| bits(hidden.row(i))).collect()
}

/// Sources of several lengths in one batch, and sequences about them in one batch, give what each gives alone; so do a source that replaces
/// another, other threads and other instructions.
#[test]
fn sources_do_not_see_each_other() {
    let seq2seq = |(_, _, golden): &(String, PathBuf, Value)| golden["kind"] == "seq2seq";
    let mut compared = 0;
    for (name, folder, golden) in with_logits().into_iter().filter(seq2seq) {
        for format in [Format::F32, Format::Q8, Format::Q4] {
            let file = golden_file_as(&folder, Quant::To(format));
            let model = Arc::new(Model::bind(file).unwrap());
            let texts = ["short", "long", "mid"].map(|n| Text::of(&golden, n));
            let best = quern_kernels::best();
            let scalar = quern_kernels::by_name("scalar").unwrap();
            let alone = texts.each_ref().map(|text| {
                let mut engine = with(&model, best, 1);
                let mut seq = model.new_sequence(KvType::F16);
                let ids = text.source.as_deref().unwrap();
                let seq = &mut seq;
                let hidden = hidden_bits(&mut engine, &mut [Source { seq, ids }]);
                (hidden, run(&mut engine, text, 5, 5))
            });
            for (kernels, threads) in [(best, 2), (best, 3), (scalar, 2)] {
                let mut engine = with(&model, kernels, threads);
                let mut seqs = [(); 3].map(|()| model.new_sequence(KvType::F16));
                // What the first of them had before does not matter.
                let (seq, ids) = (&mut seqs[0], &[7, 8, 9][..]);
                engine.encode(&mut [Source { seq, ids }]).unwrap();
                let pairs = seqs.iter_mut().zip(&texts);
                let mut sources: Vec<Source> = pairs
                    .map(|(seq, text)| Source {
                        seq,
                        ids: text.source.as_deref().unwrap(),
                    })
                    .collect();
                let hidden = hidden_bits(&mut engine, &mut sources);
                let expected = alone.each_ref().map(|(hidden, _)| hidden.clone()).concat();
                assert!(hidden == expected, "{name} {format:?}: hidden vectors");
                let pairs = seqs.iter_mut().zip(&texts);
                let mut steps: Vec<Step> = pairs
                    .map(|(seq, text)| Step {
                        seq,
                        tokens: &text.ids[..5],
                        wanted: Wanted::All,
                    })
                    .collect();
                let logits = engine.forward(&mut steps).unwrap();
                let rows: Vec<_> = (0..logits.rows()).map(|i| bits(logits.row(i))).collect();
                let expected = alone.each_ref().map(|(_, rows)| rows.clone()).concat();
                assert!(rows == expected, "{name} {format:?}: logits");
                compared += 1;
            }
        }
    }
    assert!(compared >= 4 * 9, "{compared}");
}

/// What a caller can do wrong is an error, and the sequences still work after it.
#[test]
fn steps_and_sources_that_do_not_fit() {
    let file = golden_file_as(&goldens().join("t5_v1_0"), Quant::Keep);
    let mut engine = engine(file, 2);
    let mut seq = engine.model().new_sequence(KvType::F16);
    let step = |engine: &mut Engine, seq: &mut Sequence, tokens: &[u32]| {
        let step = Step {
            seq,
            tokens,
            wanted: Wanted::Last,
        };
        engine
            .forward(&mut [step])
            .map(|logits| bits(logits.row(0)))
    };
    let fails = |result: quern::error::Result<Vec<u32>>, code: u8, part: &str| {
        let e = result.unwrap_err();
        assert_eq!(i32::from(code), i32::from(e.exit_code()), "{e}");
        assert!(e.to_string().contains(part), "{e}");
    };
    let encode = |engine: &mut Engine, seq: &mut Sequence, ids: &[u32]| {
        let hidden = engine.encode(&mut [Source { seq, ids }])?;
        Ok(bits(hidden.row(0)))
    };
    fails(step(&mut engine, &mut seq, &[0]), 2, "without a source");
    fails(encode(&mut engine, &mut seq, &[]), 2, "without tokens");
    fails(
        encode(&mut engine, &mut seq, &[1, 288]),
        3,
        "id 288 at position 1",
    );
    fails(step(&mut engine, &mut seq, &[0]), 2, "without a source");
    encode(&mut engine, &mut seq, &[5, 6, 1]).unwrap();
    assert!(seq.bytes() > 0);
    let first = step(&mut engine, &mut seq, &[0, 9]).unwrap();
    fails(encode(&mut engine, &mut seq, &[5]), 2, "has begun");
    // Going back keeps the source.
    seq.truncate(0).unwrap();
    assert_eq!(step(&mut engine, &mut seq, &[0, 9]).unwrap(), first);

    let file = golden_file_as(&goldens().join("llama_mha"), Quant::Keep);
    let mut engine = crate::golden::engine(file, 2);
    let mut seq = engine.model().new_sequence(KvType::F16);
    fails(encode(&mut engine, &mut seq, &[1]), 2, "no encoder");
}

/// Mean over positions of the divergence of the second model's next-token distribution from the first one's, and the mean variance of
/// the first one's logits.
fn divergence(p: &[Vec<f32>], q: &[Vec<f32>]) -> (f64, f64) {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let exp = |x: &f32| f64::from(x - max).exp();
        let sum: f64 = row.iter().map(exp).sum();
        row.iter().map(|x| f64::from(x - max) - sum.ln()).collect()
    };
    let (mut kl, mut variance) = (0.0, 0.0);
    for (p, q) in p.iter().zip(q) {
        let n = p.len() as f64;
        let mean = p.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        variance += p
            .iter()
            .map(|x| (f64::from(*x) - mean).powi(2))
            .sum::<f64>()
            / n;
        let (lp, lq) = (log_softmax(p), log_softmax(q));
        kl += lp
            .iter()
            .zip(&lq)
            .map(|(p, q)| p.exp() * (p - q))
            .sum::<f64>();
    }
    (kl / p.len() as f64, variance / p.len() as f64)
}

fn floats(engine: &mut Engine, text: &Text) -> Vec<Vec<f32>> {
    let ids = &text.ids;
    let mut seq = text.begin(engine, KvType::F32, ids.len());
    let step = Step {
        seq: &mut seq,
        tokens: ids,
        wanted: Wanted::All,
    };
    let logits = engine.forward(&mut [step]).unwrap();
    (0..logits.rows()).map(|i| logits.row(i).to_vec()).collect()
}

/// The file with noise on every matrix: as large as the rounding of q8, but not its rounding. A q8 value is at most half a step from the exact
/// one, and a step is the largest magnitude of its 32 columns / 127.
fn with_rounding_noise(file: &ModelFile, seed: u64) -> Arc<ModelFile> {
    let mut state = seed;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    edited(file, file.spec().clone(), |entry, data| {
        let Shape::Matrix { rows, cols, .. } = entry.shape else {
            return;
        };
        let (cols, rows) = (cols as usize, rows as usize);
        let size = entry.format.panel_bytes(cols).unwrap();
        let panels = rows.div_ceil(PANEL_ROWS);
        for (p, panel) in data.chunks_exact_mut(size).enumerate() {
            let n = PANEL_ROWS.min(rows - p % panels * PANEL_ROWS);
            let mut values = vec![0.0; n * cols];
            for (r, row) in values.chunks_exact_mut(cols).enumerate() {
                entry.format.unpack_row(panel, r, cols, row);
                for block in row.chunks_mut(32) {
                    let largest = block.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                    block
                        .iter_mut()
                        .for_each(|x| *x += noise() * largest / 127.0);
                }
            }
            entry.format.pack_panel(&values, n, cols, panel);
        }
    })
}

fn has(file: &ModelFile, role: Role) -> bool {
    file.spec().tensors().iter().any(|t| t.key.role == role)
}

/// The divergence of q8 from f32 stays below a thousandth of the variance of the logits. Where a golden is so narrow or so sharp that it does not,
/// the golden itself says what to expect: noise on the weights of the size of their rounding. q8 rounds activations as well, which doubles the
/// variance of the noise and so the divergence; another factor of two is for the luck of one draw over 41 positions. With experts the worst of 16
/// draws counts. What a scan or the delta rule returns is a product of several activations with few great values: the square of the greatest of
/// 32 is 18 to 24 times their mean square (measured over the eight goldens that have such a branch), against 5.7 for normal values. The variance of its rounding, which
/// goes with that square, is 3.2 to 4.2 times that of the weights: four in place of one.
#[test]
fn int8_weights_change_little() {
    let mut wrong = Vec::new();
    for (name, folder, golden) in with_logits() {
        let text = Text::middle(&golden);
        let file = golden_file_as(&folder, Quant::To(Format::F32));
        let exact = floats(&mut engine(file.clone(), 2), &text);
        let q8 = golden_file_as(&folder, Quant::To(Format::Q8));
        let (kl, variance) = divergence(&exact, &floats(&mut engine(q8, 2), &text));
        let mut bound = 1e-3 * variance;
        if kl.is_nan() || kl > bound {
            let draw = |seed| {
                let noisy = floats(&mut engine(with_rounding_noise(&file, seed), 2), &text);
                divergence(&exact, &noisy).0
            };
            // Which experts a token goes to is a step function of the noise: what one flip costs shows only in some draws.
            let draws = if has(&file, Role::ExpertDown) {
                1..=16
            } else {
                1..=1
            };
            let roundings = if has(&file, Role::Rate) { 5.0 } else { 2.0 };
            bound = 2.0 * roundings * draws.map(draw).fold(0.0, f64::max);
            println!("{name}: {kl:.2e}; noise of that size allows {bound:.2e}");
        }
        if kl.is_nan() || kl > bound {
            wrong.push(format!("{name}: {kl:.2e}, expected at most {bound:.2e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A model with LongRoPE whose first length the sequence outgrows: at every step the logits are those of a fresh computation of the
/// whole sequence, also where a step crosses that length without saying so, and after going back.
#[test]
fn a_sequence_that_outgrows_its_first_length_is_computed_anew() {
    let folder = goldens().join("phi3_longrope");
    let golden = read_golden(&folder);
    let ids = sequence(&golden, "long");
    let mut engine = engine(golden_file_as(&folder, Quant::Keep), 2);
    let mut step = |seq: &mut _, tokens: &[u32], wanted| -> Vec<Vec<u32>> {
        let step = Step {
            seq,
            tokens,
            wanted,
        };
        let logits = engine.forward(&mut [step]).unwrap();
        (0..logits.rows()).map(|i| bits(logits.row(i))).collect()
    };
    let model = Arc::new(Model::bind(golden_file_as(&folder, Quant::Keep)).unwrap());
    let new = || model.new_sequence(KvType::F32);
    // Last logits of the first n tokens as one pass.
    let expected: Vec<Vec<u32>> = (1..=60)
        .map(|n| {
            let mut seq = new();
            seq.set_prompt_len(n);
            step(&mut seq, &ids[..n], Wanted::Last).remove(0)
        })
        .collect();
    let mut seq = new();
    for (i, expected) in expected.iter().enumerate() {
        let got = step(&mut seq, &ids[i..=i], Wanted::Last).remove(0);
        assert!(got == *expected, "token {i} alone");
    }
    let mut seq = new();
    let got = step(&mut seq, &ids[..60], Wanted::All);
    assert_eq!(got.len(), 60);
    for (i, expected) in expected.iter().enumerate() {
        assert!(got[i] == *expected, "position {i} of one undeclared step");
    }
    seq.truncate(40).unwrap();
    let got = step(&mut seq, &ids[40..55], Wanted::All);
    for (i, got) in got.iter().enumerate() {
        assert!(
            *got == expected[40 + i],
            "position {} after going back",
            40 + i
        );
    }
}

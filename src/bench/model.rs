//! Speed of a whole model: prompts, and decoding after them, for lists of lengths, depths, batches and threads.
//!
//! Tokens are made up (speed does not depend on which) and nothing is sampled. All tests of a round run one after another, then the next round begins,
//! with the machine's limits measured in between: a shared machine changes its mind from minute to minute, and what disturbs one disturbs
//! all. What a test at some depth finds in the cache is computed once and copied for every run; copying does not count.
//!
//! Of an encoder-decoder the prompt goes through the encoder, and its decoder decodes about one as long.

use super::machine::{Limits, Meter};
use super::peaks::{self, Kind};
use super::rows::{Limit, Row};
use crate::cache::Sequence;
use crate::error::{Error, Result, out_of_memory};
use crate::model::{Engine, Model, Source, Step, Wanted};
use quern_kernels::{Kernels, KvType};
use quern_models::Spec;
use quern_models::spec::{Op, Role, Shape, TensorKey};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Lengths of prompts; 0 is none.
    pub prompts: Vec<usize>,
    /// Numbers of tokens decoded one by one; 0 is none.
    pub decodes: Vec<usize>,
    /// Tokens that are in the cache before a test begins.
    pub depths: Vec<usize>,
    /// Sequences that decode side by side.
    pub batches: Vec<usize>,
    /// How often; the median counts.
    pub runs: usize,
    /// Prompt tokens per pass.
    pub chunk: usize,
    /// Element type of the cache.
    pub kv: KvType,
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Whether tokens are decoded, or a prompt read.
    pub decode: bool,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sequences.
    pub batch: usize,
}

impl Test {
    /// As llama-bench writes it, with the number of sequences where there are several: `tg64 x8 @ d4096`.
    pub fn name(&self) -> String {
        let mut name = format!("{}{}", if self.decode { "tg" } else { "pp" }, self.tokens);
        if self.batch > 1 {
            name.push_str(&format!(" x{}", self.batch));
        }
        if self.depth > 0 {
            name.push_str(&format!(" @ d{}", self.depth));
        }
        name
    }
}

impl Workload {
    /// Every combination: prompts at every depth, decoding at every depth with every batch.
    pub fn tests(&self) -> Vec<Test> {
        let mut tests = Vec::new();
        for &depth in &self.depths {
            let prompts = self.prompts.iter().filter(|n| **n > 0);
            tests.extend(prompts.map(|&tokens| Test {
                decode: false,
                tokens,
                depth,
                batch: 1,
            }));
            for &tokens in self.decodes.iter().filter(|n| **n > 0) {
                tests.extend(self.batches.iter().map(|&batch| Test {
                    decode: true,
                    tokens,
                    depth,
                    batch,
                }));
            }
        }
        tests
    }

    /// Ids of the source of an encoder-decoder.
    fn source(&self) -> usize {
        self.prompts.iter().copied().max().unwrap_or(0).max(1)
    }

    /// Bytes of caches that the tests need at most, as far as every position of every sequence has the same; and the longest sequence.
    fn longest(&self) -> (usize, usize) {
        let tests = self.tests();
        let positions = |t: &Test| t.batch * (t.depth + t.tokens);
        let all = tests.iter().map(positions).max().unwrap_or(0);
        let longest = tests.iter().map(|t| t.depth + t.tokens).max().unwrap_or(0);
        (all, longest)
    }
}

/// What one pass reads and computes, from the tensors of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Bytes of weights that every pass reads.
    pub bytes: f64,
    /// Stacks of experts: bytes of all, how many there are, how many a token uses.
    pub experts: Vec<(f64, f64, f64)>,
    /// Multiply-adds with weights per token, the head's left out.
    pub macs: f64,
    /// Multiply-adds of the head.
    pub head: f64,
    /// The arithmetic of most of them.
    pub kind: Option<Kind>,
}

impl Traffic {
    /// What the model's passes do with these kernels.
    pub fn of(model: &Model, kernels: &Kernels) -> Traffic {
        let spec = model.spec();
        let tied = spec.head.as_ref().is_some_and(|head| head.tied);
        let mut traffic = Traffic {
            bytes: model.weight_bytes_per_pass() as f64,
            ..Traffic::default()
        };
        let mut of_kind = Kind::ALL.map(|kind| (kind, 0.0));
        for entry in model.file().entries().iter().filter(|e| e.key.stack == 0) {
            let Shape::Matrix { count, rows, cols } = entry.shape else {
                continue;
            };
            let values = f64::from(count) * f64::from(rows) * f64::from(cols);
            let macs = match entry.key.role {
                Role::TokenEmbedding if tied => {
                    traffic.head = values;
                    continue;
                }
                Role::Head => {
                    traffic.head = values;
                    continue;
                }
                Role::TokenEmbedding | Role::PositionEmbedding | Role::PerLayerEmbedding => {
                    continue;
                }
                Role::ExpertGate | Role::ExpertUp | Role::ExpertDown => {
                    let used = used_experts(spec, entry.key).unwrap_or(f64::from(count));
                    let stack = (entry.length as f64, f64::from(count), used);
                    traffic.bytes -= stack.0;
                    traffic.experts.push(stack);
                    values * used / f64::from(count)
                }
                _ => values,
            };
            traffic.macs += macs;
            let kind = kernels.arithmetic(entry.format);
            for (_, all) in of_kind.iter_mut().filter(|(k, _)| *k == kind) {
                *all += macs;
            }
        }
        let most = of_kind.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        traffic.kind = most.map(|(kind, _)| kind);
        traffic
    }

    /// Bytes of weights that a pass of so many tokens reads, if every expert is as likely as any other.
    pub fn bytes(&self, tokens: usize) -> f64 {
        let read = |(bytes, count, used): &(f64, f64, f64)| {
            bytes * (1.0 - (1.0 - used / count).powf(tokens as f64))
        };
        self.bytes + self.experts.iter().map(read).sum::<f64>()
    }

    /// The most tokens per second of a test of that many tokens, of which a pass takes `pass` and reads `cache` bytes besides the weights; and
    /// what bounds it.
    fn limit(
        &self,
        pass: usize,
        heads: usize,
        cache: f64,
        limits: &Limits,
        size: usize,
    ) -> Option<Limit> {
        let (level, rate) = limits.read_of(size)?;
        let read = (self.bytes(pass) + cache) / rate / 1e9;
        let mut bound = (format!("read {level}"), read);
        if let Some(kind) = self.kind
            && let Some(peak) = limits.peak(kind)
        {
            let seconds = (self.macs * pass as f64 + self.head * heads as f64) / peak / 1e9;
            if seconds > read {
                bound = (format!("{} {}", kind.name(), peaks::NOUN), seconds);
            }
        }
        Some(Limit {
            what: bound.0,
            value: pass as f64 / bound.1,
        })
    }
}

fn used_experts(spec: &Spec, key: TensorKey) -> Option<f64> {
    let layer = spec.decoder.layers.get(key.layer as usize)?;
    let block = layer.blocks.get(usize::from(key.block))?;
    match &block.branches.get(usize::from(key.branch))?.op {
        Op::Experts(experts) => Some(f64::from(experts.used)),
        _ => None,
    }
}

/// A sequence as it is before a test, to be made again and again.
struct Prefix {
    ids: Vec<u32>,
    source: usize,
    stored: Vec<u8>,
}

impl Prefix {
    fn sequence(&self, model: &Model, kv: KvType) -> Result<Sequence> {
        let mut seq = model.new_sequence(kv);
        if self.ids.is_empty() && self.source == 0 {
            return Ok(seq);
        }
        seq.read_from(&self.ids, self.source, &mut &self.stored[..])?
            .map_err(|e| Error::limit(format_args!("a copy of a cache ends early: {e}")))?;
        Ok(seq)
    }
}

/// Made-up ids, spread over the vocabulary so that embedding rows do not come from a cache.
fn ids(model: &Model, n: usize, from: usize) -> Vec<u32> {
    let vocabulary = u64::from(model.spec().vocab_size);
    let id = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9) % vocabulary;
    (from..from + n).map(|i| id(i) as u32).collect()
}

fn prefix(engine: &mut Engine, work: &Workload, depth: usize) -> Result<Prefix> {
    let model = engine.model().clone();
    let mut seq = model.new_sequence(work.kv);
    let source = match model.spec().encoder {
        Some(_) => work.source(),
        None => 0,
    };
    if source > 0 {
        let ids = &ids(&model, source, 0);
        let seq = &mut seq;
        engine.encode(&mut [Source { seq, ids }])?;
    }
    let tokens = ids(&model, depth, 0);
    for chunk in tokens.chunks(work.chunk.max(1)) {
        forward(engine, std::slice::from_mut(&mut seq), chunk, Wanted::None)?;
    }
    let bytes = seq.stored_bytes(depth, source).unwrap_or(u64::MAX);
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut stored = Vec::new();
    let no_memory = |_| out_of_memory("a copy of the cache", size);
    if depth > 0 || source > 0 {
        stored.try_reserve_exact(size).map_err(no_memory)?;
        // Writing into memory that is reserved cannot fail.
        let _ = seq.write_to(&mut stored);
    }
    Ok(Prefix {
        ids: tokens,
        source,
        stored,
    })
}

/// One pass in which every sequence gets these tokens.
fn forward(
    engine: &mut Engine,
    seqs: &mut [Sequence],
    tokens: &[u32],
    wanted: Wanted,
) -> Result<()> {
    let mut steps: Vec<Step<'_>> = seqs
        .iter_mut()
        .map(|seq| Step {
            seq,
            tokens,
            wanted,
        })
        .collect();
    engine.forward(&mut steps).map(drop)
}

/// Runs a test once; returns its seconds and the bytes of one sequence's cache at its end.
fn run(engine: &mut Engine, work: &Workload, test: Test, prefix: &Prefix) -> Result<(f64, usize)> {
    let model = engine.model().clone();
    let tokens = ids(&model, test.tokens, test.depth);
    let encodes = model.spec().encoder.is_some() && !test.decode;
    let mut seqs = Vec::new();
    for _ in 0..test.batch {
        seqs.push(match encodes {
            true => model.new_sequence(work.kv),
            false => prefix.sequence(&model, work.kv)?,
        });
    }
    let start = Instant::now();
    if encodes {
        let seq = &mut seqs[0];
        let ids = &tokens[..];
        engine.encode(&mut [Source { seq, ids }])?;
    } else if test.decode {
        for token in &tokens {
            forward(engine, &mut seqs, std::slice::from_ref(token), Wanted::Last)?;
        }
    } else {
        let chunks = tokens.chunks(work.chunk.max(1));
        let last = chunks.len().saturating_sub(1);
        for (i, chunk) in chunks.enumerate() {
            let wanted = if i == last {
                Wanted::Last
            } else {
                Wanted::None
            };
            forward(engine, &mut seqs, chunk, wanted)?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    model.file().check_unchanged()?;
    Ok((seconds, seqs[0].bytes()))
}

/// Measures all tests with every engine; `name` is what the rows call the model; `progress` is told how many runs are done, of how many.
///
/// # Errors
/// More tokens than the model's context holds (limit), not enough memory, a model file that changes, a model without a head.
pub fn measure(
    name: &str,
    engines: &mut [Engine],
    work: &Workload,
    meter: &mut Meter,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Row>> {
    let tests = work.tests();
    let (Some(first), false) = (engines.last_mut(), tests.is_empty()) else {
        return Err(Error::usage(
            "nothing to measure: -p, -n, -d and -b leave no test",
        ));
    };
    let (model, kernels) = (first.model().clone(), first.kernels());
    let spec = model.spec();
    let (_, longest) = work.longest();
    if longest > spec.context_length as usize {
        return Err(Error::limit(format_args!(
            "{longest} tokens, but the model's context holds {}",
            spec.context_length
        )));
    }
    let rounds = work.runs.max(1) + 1;
    let all = rounds * tests.len() * engines.len();
    progress(0, all);
    let mut prefixes = BTreeMap::new();
    for test in &tests {
        if let Entry::Vacant(place) = prefixes.entry(test.depth) {
            let last = engines.len() - 1;
            place.insert(prefix(&mut engines[last], work, test.depth)?);
        }
    }
    check_memory(&model, work, &prefixes)?;
    let mut samples = vec![(Vec::new(), 0); tests.len() * engines.len()];
    let mut done = 0;
    // One round more than asked for: the first touches the pages of the file and of the buffers, and does not count.
    for round in 0..rounds {
        meter.run();
        let mut slots = samples.iter_mut();
        for engine in engines.iter_mut() {
            for (test, slot) in tests.iter().zip(slots.by_ref()) {
                let (seconds, bytes) = run(engine, work, *test, &prefixes[&test.depth])?;
                slot.1 = bytes;
                if round > 0 {
                    slot.0.push((test.tokens * test.batch) as f64 / seconds);
                }
                done += 1;
                progress(done, all);
            }
        }
    }
    let traffic = Traffic::of(&model, kernels);
    let size = usize::try_from(model.file().len()).unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    let mut samples = samples.into_iter();
    for engine in engines.iter() {
        let limits = meter.limits(engine.threads());
        for test in &tests {
            let (rates, cache) = samples.next().unwrap_or_default();
            let rate = super::stats::median(&rates);
            // A pass of a decoding batch has a token of every sequence; every sequence reads its own cache.
            let (pass, heads, cache) = match test.decode {
                true => (test.batch, test.batch, (cache * test.batch) as f64),
                false => (test.tokens.min(work.chunk.max(1)), 1, 0.0),
            };
            let macs = traffic.macs + traffic.head * heads as f64 / pass as f64;
            rows.push(Row {
                group: "model".into(),
                name: test.name(),
                model: name.into(),
                isa: engine.kernels().name().into(),
                threads: engine.threads(),
                unit: "tok/s".into(),
                samples: rates,
                gb_per_s: Some(rate / pass as f64 * (traffic.bytes(pass) + cache) / 1e9),
                gmac_per_s: Some(rate * macs / 1e9),
                limit: traffic.limit(pass, heads, cache, &limits, size),
            });
        }
    }
    Ok(rows)
}

/// Whether the caches of the largest test fit, by what one of its sequences takes already.
fn check_memory(model: &Model, work: &Workload, prefixes: &BTreeMap<usize, Prefix>) -> Result<()> {
    let Some((depth, prefix)) = prefixes.last_key_value() else {
        return Ok(());
    };
    if *depth == 0 {
        return Ok(());
    }
    let one = prefix.sequence(model, work.kv)?.bytes();
    let (positions, _) = work.longest();
    let bytes = (one as f64 / *depth as f64 * positions as f64) as usize;
    super::require_memory("the caches of all sequences", bytes)
}

#[cfg(test)]
mod tests {
    use super::super::hardware::Machine;
    use super::super::synthetic;
    use super::*;
    use crate::par::Team;
    use quern_kernels::Format;
    use quern_models::shapes;
    use std::sync::Arc;

    fn work() -> Workload {
        Workload {
            prompts: vec![7, 0],
            decodes: vec![3],
            depths: vec![0, 20],
            batches: vec![1, 2],
            runs: 2,
            chunk: 4,
            kv: KvType::F16,
        }
    }

    #[test]
    fn tests_are_all_combinations() {
        let names: Vec<String> = work().tests().iter().map(Test::name).collect();
        let expected = [
            "pp7",
            "tg3",
            "tg3 x2",
            "pp7 @ d20",
            "tg3 @ d20",
            "tg3 x2 @ d20",
        ];
        assert_eq!(names, expected);
        assert_eq!(work().longest(), (46, 27));
    }

    fn small(model_type: &str, more: serde_json::Value) -> Arc<Model> {
        let mut config = serde_json::json!({"model_type": model_type, "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "sliding_window": 16, "tie_word_embeddings": true});
        let config = config.as_object_mut().unwrap();
        config.extend(more.as_object().unwrap().clone());
        let spec = shapes::spec("test", config).unwrap();
        let file = synthetic::model("made", &spec, Format::Q8, &mut |_, _| ()).unwrap();
        Arc::new(Model::bind(Arc::new(file)).unwrap())
    }

    fn meter(threads: &[usize]) -> Meter {
        let kernels = quern_kernels::best();
        Meter::new(&Machine::default(), kernels, threads, true, Some(1)).unwrap()
    }

    fn engines(model: &Arc<Model>) -> Vec<Engine> {
        let kernels = quern_kernels::best();
        let engine = |t| Engine::new(model.clone(), kernels, Team::new(t).unwrap());
        [1, 2].map(engine).into()
    }

    #[test]
    fn what_a_pass_reads_and_computes() {
        let dense = small("mistral", serde_json::json!({}));
        let traffic = Traffic::of(&dense, quern_kernels::best());
        let layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 96;
        assert_eq!(traffic.macs, f64::from(2 * layer));
        assert_eq!(traffic.head, 320.0 * 64.0);
        assert_eq!(traffic.kind, Some(Kind::Int8));
        assert_eq!(traffic.bytes(1), dense.weight_bytes_per_pass() as f64);
        let more = serde_json::json!({"num_local_experts": 4, "num_experts_per_tok": 1});
        let traffic = Traffic::of(&small("mixtral", more), quern_kernels::best());
        assert_eq!(traffic.macs, f64::from(2 * layer));
        assert_eq!(traffic.experts.len(), 6);
        let all = traffic.bytes(usize::MAX) - traffic.bytes;
        assert!((traffic.bytes(1) - traffic.bytes - all / 4.0).abs() < 1.0);
        assert!(traffic.bytes(2) > traffic.bytes(1));
    }

    #[test]
    fn every_test_gets_its_figures_at_every_number_of_threads() {
        // A window that is shorter than the depth, and none.
        for window in [serde_json::json!(16), serde_json::Value::Null] {
            let model = small("mistral", serde_json::json!({"sliding_window": window}));
            let mut engines = engines(&model);
            let mut meter = meter(&[1, 2]);
            let mut last = (0, 0);
            let rows = measure(
                "made q8",
                &mut engines,
                &work(),
                &mut meter,
                &mut |done, all| {
                    last = (done, all);
                },
            )
            .unwrap();
            assert_eq!(rows.len(), 12);
            assert_eq!(last, (36, 36));
            for row in &rows {
                assert_eq!(row.samples.len(), 2);
                assert!(row.median() > 0.0 && row.limit.is_some(), "{row:?}");
            }
            assert_eq!(rows[6].threads, 2);
        }
    }

    #[test]
    fn too_long_and_nothing_are_refused() {
        let model = small("mistral", serde_json::json!({}));
        let refused = |work: Workload| {
            let mut meter = meter(&[1]);
            measure("m", &mut engines(&model), &work, &mut meter, &mut |_, _| ()).unwrap_err()
        };
        let long = Workload {
            depths: vec![60],
            ..work()
        };
        let e = refused(long);
        assert_eq!(e.exit_code(), 5);
        assert!(e.to_string().contains("67 tokens"), "{e}");
        let none = Workload {
            prompts: vec![],
            decodes: vec![0],
            ..work()
        };
        assert_eq!(refused(none).exit_code(), 2);
    }

    /// A copy of a prefix goes on as the sequence itself would.
    #[test]
    fn a_copied_cache_is_the_cache() {
        let model = small("mistral", serde_json::json!({}));
        let mut engine = engines(&model).remove(0);
        let made = prefix(&mut engine, &work(), 20).unwrap();
        let mut copy = made.sequence(&model, KvType::F16).unwrap();
        let mut own = model.new_sequence(KvType::F16);
        let seqs = std::slice::from_mut(&mut own);
        forward(&mut engine, seqs, &ids(&model, 20, 0), Wanted::None).unwrap();
        let mut logits = Vec::new();
        for seq in [&mut own, &mut copy] {
            let mut steps = [Step {
                seq,
                tokens: &[5],
                wanted: Wanted::Last,
            }];
            logits.push(engine.forward(&mut steps).unwrap().row(0).to_vec());
        }
        assert_eq!(logits[0], logits[1]);
    }
}

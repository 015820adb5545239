//! Speed of a batch: made-up records through the scheduler of `quern batch`, with more and more of them side by side.
//!
//! Prompts are made up and may begin alike; nothing ends a text but its length. Everything counts: prompts, decoding, sampling, waiting. Side by side is
//! the only thing that differs between the rows, and what comes of the records is the same in all of them.

use super::rows::Row;
use crate::batch::{self, Answer, Feed, Generate, Job, Limits, Load, Next, Task};
use crate::error::{Error, Result};
use crate::generate::{Decode, Request, Watch};
use crate::model::{Engine, Model};
use crate::sample::Params;
use quern_kernels::KvType;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Records of a run.
    pub records: usize,
    /// Ids that all prompts begin with.
    pub shared: usize,
    /// Ids of each prompt behind those.
    pub prompt: usize,
    /// Fewest and most ids of a text; lengths are spread evenly between them.
    pub decode: (usize, usize),
    /// How many records may be in flight.
    pub in_flight: Vec<usize>,
    /// How often; the median counts.
    pub runs: usize,
    /// Prompt tokens per pass.
    pub chunk: usize,
    /// Element type of the cache.
    pub kv: KvType,
}

impl Workload {
    /// Ids of the text of record `i`.
    fn length(&self, i: usize) -> usize {
        let (from, to) = self.decode;
        // A step that has no factor in common with common numbers of records: long and short ones come mixed.
        let places = self.records.max(1);
        from + (to - from) * (i * 37 % places) / (places - 1).max(1)
    }

    /// Ids of all texts together.
    pub fn generated(&self) -> usize {
        (0..self.records).map(|i| self.length(i)).sum()
    }

    /// Ids of all prompts together.
    pub fn read(&self) -> usize {
        self.records * (self.shared + self.prompt)
    }

    /// As `128+32-256`: what a prompt and a text have.
    pub fn name(&self) -> String {
        let shared = match self.shared {
            0 => String::new(),
            n => format!("{n} shared + "),
        };
        let (from, to) = self.decode;
        let decode = match from == to {
            true => from.to_string(),
            false => format!("{from}-{to}"),
        };
        format!(
            "{} x ({shared}pp{} + tg{decode})",
            self.records, self.prompt
        )
    }

    fn requests(&self, model: &Model) -> Vec<Request> {
        let vocabulary = u64::from(model.spec().vocab_size);
        let id = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9) % vocabulary) as u32;
        let encodes = model.spec().encoder.is_some();
        let request = |i: usize| {
            let own = 1 + self.shared + i * self.prompt;
            let ids: Vec<u32> = (0..self.shared)
                .chain(own..own + self.prompt)
                .map(id)
                .collect();
            let most = self.length(i);
            Request {
                context: ids.len() + most,
                source: encodes.then(|| ids.clone()),
                prompt: if encodes { vec![0] } else { ids },
                max_new: Some(most),
                stop: Vec::new(),
                end_ids: Vec::new(),
                kv: self.kv,
                chunk: self.chunk,
                sampling: Params {
                    temperature: 0.0,
                    ..Params::default()
                },
                fingerprint: false,
            }
        };
        (0..self.records).map(request).collect()
    }
}

/// Texts of ids that nobody reads.
struct Unread;

impl Decode for Unread {
    fn push(&mut self, _: u32, _: &mut String) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &mut String) -> Result<()> {
        Ok(())
    }
}

impl Watch for Unread {
    fn text(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// Hands out requests one after another.
struct Records {
    requests: std::vec::IntoIter<Request>,
    next: u64,
}

impl<'a> Feed<'a> for Records {
    fn next(&mut self, _: bool) -> Result<Next<'a>> {
        let Some(request) = self.requests.next() else {
            return Ok(Next::End);
        };
        self.next += 1;
        Ok(Next::Job(Job {
            ticket: self.next,
            task: Task::Generate(Box::new(Generate {
                request,
                constraint: None,
                decode: Box::new(Unread),
                watch: Box::new(Unread),
            })),
        }))
    }

    fn done(&mut self, _: u64, answer: Result<Answer>) -> Result<()> {
        answer.map(drop)
    }

    fn stop_asked(&mut self) -> bool {
        false
    }

    fn progress(&mut self, _: &Load) {}
}

/// One run; returns its seconds.
fn run(engine: &mut Engine, work: &Workload, in_flight: usize) -> Result<f64> {
    let limits = Limits {
        max_inflight: Some(in_flight),
        kv_memory: None,
        chunk: work.chunk,
    };
    let mut feed = Records {
        requests: work.requests(engine.model()).into_iter(),
        next: 0,
    };
    let start = Instant::now();
    batch::run(engine, &limits, &mut feed)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Measures every number of records side by side with one engine; `name` is what the rows call the model; `progress` is told how many runs are done, of
/// how many. There are two rows for each: all tokens per second, and those of texts.
///
/// # Errors
/// More tokens than the model's context holds (limit), no records or texts (usage), not enough memory, a model file that changes.
pub fn measure(
    name: &str,
    engine: &mut Engine,
    work: &Workload,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Row>> {
    let model = engine.model().clone();
    let context = model.spec().context_length as usize;
    let longest = work.shared + work.prompt + work.decode.1;
    if longest > context {
        return Err(Error::limit(format_args!(
            "{longest} tokens, but the model's context holds {context}"
        )));
    }
    if work.records == 0 || work.shared + work.prompt == 0 || work.decode.0 == 0 {
        return Err(Error::usage(
            "nothing to measure: there must be records, prompts and texts",
        ));
    }
    let rounds = work.runs.max(1) + 1;
    let all = rounds * work.in_flight.len();
    let mut seconds = vec![Vec::new(); work.in_flight.len()];
    let mut done = 0;
    progress(0, all);
    // All numbers in every round; the first round touches the pages of the file and of the buffers, and does not count.
    for round in 0..rounds {
        for (in_flight, seconds) in work.in_flight.iter().zip(&mut seconds) {
            let taken = run(engine, work, *in_flight)?;
            if round > 0 {
                seconds.push(taken);
            }
            done += 1;
            progress(done, all);
        }
    }
    let mut rows = Vec::new();
    for (in_flight, seconds) in work.in_flight.iter().zip(&seconds) {
        for (what, tokens) in [
            ("all", work.read() + work.generated()),
            ("text", work.generated()),
        ] {
            rows.push(Row {
                group: "batch".into(),
                name: row_name(work, *in_flight, what),
                model: name.into(),
                isa: engine.kernels().name().into(),
                threads: engine.threads(),
                unit: "tok/s".into(),
                samples: seconds.iter().map(|s| tokens as f64 / s).collect(),
                ..Row::default()
            });
        }
    }
    Ok(rows)
}

/// What a figure is called: `what` is `all` or `text`.
fn row_name(work: &Workload, in_flight: usize, what: &str) -> String {
    format!("{} by {in_flight}, {what}", work.name())
}

/// The figures of llama.cpp's `llama-batched-bench` in its lines of JSON, as rows beside those of [`measure`]; one that is not as expected is an error.
///
/// # Errors
/// Invalid: a line has no figures.
pub fn of_peer(lines: &str, work: &Workload, name: &str, threads: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for line in lines.lines().filter(|l| l.trim_start().starts_with('{')) {
        let figures: serde_json::Value = serde_json::from_str(line)
            .map_err(|e| Error::invalid(format_args!("llama-batched-bench: {e}: {line:?}")))?;
        let number = |key: &str| figures.get(key).and_then(serde_json::Value::as_f64);
        let all = (number("pl"), number("speed"), number("tg"), number("t"));
        let (Some(side), Some(speed), Some(decode), Some(seconds)) = all else {
            return Err(Error::invalid(format_args!(
                "llama-batched-bench: expected pl, speed, tg and t in {line:?}"
            )));
        };
        for (what, rate) in [("all", speed), ("text", side * decode / seconds)] {
            rows.push(Row {
                group: "batch".into(),
                name: row_name(work, side as usize, what),
                model: name.into(),
                threads,
                unit: "tok/s".into(),
                samples: vec![rate],
                ..Row::default()
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
    use super::*;
    use crate::par::Team;
    use quern_kernels::Format;
    use quern_models::shapes;
    use std::sync::Arc;

    fn work() -> Workload {
        Workload {
            records: 6,
            shared: 40,
            prompt: 5,
            decode: (2, 7),
            in_flight: vec![1, 4],
            runs: 2,
            chunk: 16,
            kv: KvType::F16,
        }
    }

    #[test]
    fn lengths_are_spread_from_the_fewest_to_the_most() {
        let work = work();
        let mut lengths: Vec<usize> = (0..6).map(|i| work.length(i)).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [2, 3, 4, 5, 6, 7]);
        assert_eq!((work.generated(), work.read()), (27, 270));
        assert_eq!(work.name(), "6 x (40 shared + pp5 + tg2-7)");
        let one = Workload {
            records: 1,
            decode: (9, 9),
            shared: 0,
            ..work
        };
        assert_eq!((one.length(0), &one.name()[..]), (9, "1 x (pp5 + tg9)"));
    }

    #[test]
    fn every_number_side_by_side_has_its_figures() {
        let config = serde_json::json!({"model_type": "llama", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "tie_word_embeddings": true});
        let spec = shapes::spec("test", config.as_object().unwrap()).unwrap();
        let file = synthetic::model("made", &spec, Format::Q8, &mut |_, _| ()).unwrap();
        let model = Arc::new(Model::bind(Arc::new(file)).unwrap());
        let mut engine = Engine::new(model, quern_kernels::best(), Team::new(2).unwrap());
        let mut last = (0, 0);
        let mut measure = |work: &Workload| {
            measure("made q8", &mut engine, work, &mut |done, all| {
                last = (done, all)
            })
        };
        let rows = measure(&work()).unwrap();
        let names: Vec<String> = rows
            .iter()
            .map(|r| r.name.replace(&work().name(), ""))
            .collect();
        assert_eq!(
            names,
            [" by 1, all", " by 1, text", " by 4, all", " by 4, text"]
        );
        assert!(
            rows.iter()
                .all(|r| r.samples.len() == 2 && r.median() > 0.0)
        );
        let (all, text) = (rows[0].median(), rows[1].median());
        assert!((all / text - 297.0 / 27.0).abs() < 1e-9);
        let long = Workload {
            prompt: 30,
            ..work()
        };
        let e = measure(&long).unwrap_err();
        assert!(e.to_string().starts_with("77 tokens"), "{e}");
        let nothing = Workload {
            records: 0,
            ..work()
        };
        assert_eq!(measure(&nothing).unwrap_err().exit_code(), 2);
        assert_eq!(last, (6, 6));
    }

    #[test]
    fn figures_of_the_peer() {
        let line = r#"{"n_kv_max": 4096, "pp": 128, "tg": 10, "pl": 8, "n_kv": 1104, "t_pp": 1.0, "speed_pp": 1.0, "t_tg": 1.0, "speed_tg": 80.0, "t": 2.0, "speed": 552.0}"#;
        let rows = of_peer(&format!("main: noise\n{line}\n\n"), &work(), "peer", 2).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].samples, [552.0]);
        assert_eq!(rows[1].samples, [40.0]);
        assert!(rows[1].name.ends_with("by 8, text"));
        let e = of_peer("{\"pl\": 8}", &work(), "peer", 2).unwrap_err();
        assert_eq!(e.exit_code(), 3);
    }
}

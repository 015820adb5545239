//! Speed of a whole model: prefill of a prompt and decoding after it, beside the read bandwidth of the same minutes.
//!
//! An encoder reads the prompt as a whole; its decoder then decodes about one as long.
//!
//! Tokens are made up (speed does not depend on which). Bandwidth is measured between the runs, because a shared machine changes its
//! mind from minute to minute; the medians are compared.

use super::bandwidth::Buffer;
use super::median;
use crate::error::{Error, Result};
use crate::model::{Engine, Source, Step, Wanted};
use quern_kernels::KvType;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Tokens of the prompt; 0 leaves prefill out.
    pub prompt: usize,
    /// Tokens decoded one by one; 0 leaves decoding out.
    pub decode: usize,
    /// How often; the median counts.
    pub runs: usize,
    /// Prompt tokens per pass.
    pub chunk: usize,
    /// Element type of the cache.
    pub kv: KvType,
}

/// Medians of the runs.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Prompt tokens per second.
    pub prompt_rate: f64,
    /// Decoded tokens per second.
    pub decode_rate: f64,
    /// 10^9 bytes of weights per second while decoding.
    pub decode_gb_per_s: f64,
    /// 10^9 bytes per second that as many threads read from memory when they do nothing else.
    pub read_gb_per_s: f64,
}

impl Speed {
    /// Decoding as a share of the read bandwidth.
    pub fn share(&self) -> f64 {
        self.decode_gb_per_s / self.read_gb_per_s
    }
}

/// Runs the workload; `progress` is told how many runs are done, of how many.
///
/// # Errors
/// More tokens than the model's context holds (limit), not enough memory, a model file that changes.
pub fn measure(
    engine: &mut Engine,
    work: Workload,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Speed> {
    let model = engine.model().clone();
    let context = model.spec().context_length as usize;
    let longest = work.prompt.max(work.decode);
    if longest > context {
        return Err(Error::limit(format_args!(
            "{longest} tokens, but the model's context holds {context}"
        )));
    }
    // Spread over the vocabulary, so that embedding rows do not come from a cache.
    let vocab = u64::from(model.spec().vocab_size);
    let tokens: Vec<u32> = (0..longest as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) % vocab) as u32)
        .collect();
    let buffer = Buffer::new()?;
    let (mut prompt, mut decode, mut read) = (Vec::new(), Vec::new(), Vec::new());
    // One more than asked for: the first touches the pages of the file and of the buffers, and does not count.
    let runs = work.runs.max(1) + 1;
    for run in 0..runs {
        progress(run, runs);
        let mut rates = [0.0; 2];
        let kinds = [
            (work.prompt, work.chunk.max(1), false),
            (work.decode, 1, true),
        ];
        for (rate, (count, chunk, decoding)) in rates.iter_mut().zip(kinds) {
            let mut sequence = model.new_sequence(work.kv);
            let source = model.spec().encoder.is_some() && count > 0;
            if source && decoding {
                let ids = &tokens[..work.prompt.max(1)];
                let seq = &mut sequence;
                engine.encode(&mut [Source { seq, ids }])?;
            }
            let start = Instant::now();
            if source && !decoding {
                let (seq, ids) = (&mut sequence, &tokens[..count]);
                engine.encode(&mut [Source { seq, ids }])?;
            } else {
                for chunk in tokens[..count].chunks(chunk) {
                    let wanted = Wanted::Last;
                    engine.forward(&mut [Step {
                        seq: &mut sequence,
                        tokens: chunk,
                        wanted,
                    }])?;
                }
            }
            *rate = count as f64 / start.elapsed().as_secs_f64();
            model.file().check_unchanged()?;
        }
        let bandwidth = buffer.measure(engine.threads(), 1).gb_per_s;
        if run > 0 {
            prompt.push(rates[0]);
            decode.push(rates[1]);
            read.push(bandwidth);
        }
    }
    let decode_rate = median(&mut decode);
    Ok(Speed {
        prompt_rate: median(&mut prompt),
        decode_rate,
        decode_gb_per_s: decode_rate * model.weight_bytes_per_pass() as f64 / 1e9,
        read_gb_per_s: median(&mut read),
    })
}

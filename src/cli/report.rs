//! What `run` tells about itself: one JSON object on stdout, or a few lines on stderr.

use super::load::Loaded;
use super::logprobs::Logprob;
use super::memory::{self, mib};
use super::prompt_cache::Used;
use crate::error::Result;
use crate::generate::{Outcome, Request};
use crate::json;
use serde::Serialize;
use std::time::Duration;

/// A finished run.
pub struct Report<'a> {
    /// What was asked for.
    pub request: &'a Request,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// What it ran on.
    pub loaded: &'a Loaded,
    /// From the start of the program to the beginning of the prompt's first pass.
    pub before: Duration,
    /// Whether somebody guessed.
    pub guessed: bool,
    /// What the file for the prompt did, if there was one.
    pub cache: Option<Used>,
    /// Log-probabilities of the generated ids, if they were asked for.
    pub logprobs: Option<&'a [Logprob]>,
}

#[derive(Serialize)]
struct Json<'a> {
    text: &'a str,
    ids: &'a [u32],
    prompt_ids: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder_prompt_ids: Option<&'a [u32]>,
    finish_reason: &'static str,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [Logprob]>,
    fingerprint: Option<&'a str>,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    speculation: Option<Speculation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache: Option<PromptCache>,
    timings: Timings,
}

#[derive(Serialize)]
struct Speculation {
    drafted_tokens: usize,
    accepted_tokens: usize,
    passes: usize,
}

#[derive(Serialize)]
struct PromptCache {
    reused_tokens: usize,
    bytes_read: u64,
    read_ms: f64,
    bytes_written: u64,
    write_ms: f64,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    #[serde(skip_serializing_if = "is_zero")]
    forced_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct Timings {
    open_ms: f64,
    tokenizer_ms: f64,
    prompt_ms: f64,
    prompt_per_second: f64,
    first_token_ms: f64,
    decode_ms: f64,
    decode_per_second: f64,
    decode_gb_per_second: f64,
    threads: usize,
    isa: &'static str,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Milliseconds, with microseconds as the fraction.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

impl Report<'_> {
    fn timings(&self) -> Timings {
        let stats = &self.outcome.stats;
        Timings {
            open_ms: ms(self.loaded.open_time),
            tokenizer_ms: ms(self.loaded.tokenizer_time),
            prompt_ms: ms(stats.prompt_time),
            prompt_per_second: stats.prompt_rate(),
            first_token_ms: ms(self.before + stats.first_token),
            decode_ms: ms(stats.decode_time),
            decode_per_second: stats.decode_rate(),
            decode_gb_per_second: stats.decode_gb_per_s(),
            threads: self.loaded.engine.threads(),
            isa: self.loaded.engine.kernels().name(),
        }
    }

    /// One line of JSON. Times are in milliseconds; `first_token_ms` counts from the start of the program.
    ///
    /// # Errors
    /// None that can be expected: everything in it can be written as JSON.
    pub fn json(&self) -> Result<String> {
        let (stats, request) = (&self.outcome.stats, self.request);
        let source = request.source.as_deref();
        json::one_line(&Json {
            text: &self.outcome.text,
            ids: &self.outcome.ids,
            prompt_ids: source.unwrap_or(&request.prompt),
            decoder_prompt_ids: source.map(|_| &request.prompt[..]),
            finish_reason: self.outcome.finish.name(),
            usage: Usage {
                prompt_tokens: stats.prompt_tokens,
                completion_tokens: stats.new_tokens,
                forced_tokens: stats.forced_tokens,
                total_tokens: stats.prompt_tokens + stats.new_tokens,
            },
            logprobs: self.logprobs,
            fingerprint: self.outcome.fingerprint.as_deref(),
            seed: request.sampling.seed,
            speculation: self.guessed.then_some(Speculation {
                drafted_tokens: stats.drafted_tokens,
                accepted_tokens: stats.right_tokens,
                passes: stats.decode_passes,
            }),
            prompt_cache: self.cache.map(|used| {
                let (read, written) = (
                    used.read.unwrap_or_default(),
                    used.written.unwrap_or_default(),
                );
                PromptCache {
                    reused_tokens: stats.reused_tokens,
                    bytes_read: read.0,
                    read_ms: ms(read.1),
                    bytes_written: written.0,
                    write_ms: ms(written.1),
                }
            }),
            timings: self.timings(),
        })
    }

    /// Lines for a person.
    pub fn stats(&self) -> String {
        let stats = &self.outcome.stats;
        let t = self.timings();
        let mut lines = vec![
            format!(
                "prompt:      {} tokens in {:.1} ms, {:.2} tok/s",
                stats.prompt_tokens, t.prompt_ms, t.prompt_per_second
            ),
            format!(
                "generated:   {} tokens, {:.2} tok/s after the first, reading {:.2} GB/s of weights",
                stats.new_tokens, t.decode_per_second, t.decode_gb_per_second
            ),
            format!(
                "first token: {:.1} ms after the start (opening {:.1} ms, tokenizer {:.1} ms, prompt {:.1} ms)",
                t.first_token_ms, t.open_ms, t.tokenizer_ms, t.prompt_ms
            ),
        ];
        if self.guessed {
            let (all, right) = (stats.drafted_tokens, stats.right_tokens);
            lines.push(format!(
                "guessed:     {all} tokens ahead, {right} of them right; {} passes after the first",
                stats.decode_passes
            ));
        }
        if let Some(used) = &self.cache {
            lines.push(format!(
                "cache:       {} prompt tokens reused; {}",
                stats.reused_tokens,
                used.text()
            ));
        }
        if stats.forced_tokens > 0 {
            lines.push(format!(
                "grammar:     forced {} of the tokens; {} passes after the first",
                stats.forced_tokens, stats.decode_passes
            ));
        }
        let kv = mib(stats.kv_bytes as u64);
        let buffers = mib(stats.workspace_bytes as u64);
        let file = mib(self.loaded.engine.model().file().mapped_bytes());
        lines.push(match memory::now() {
            Some(now) => format!(
                "memory:      {:.1} MiB private (cache {kv:.1}, buffers {buffers:.1}), {:.1} MiB mapped of a file of {file:.1} MiB",
                mib(now.private),
                mib(now.mapped)
            ),
            None => format!("memory:      cache {kv:.1} MiB, buffers {buffers:.1} MiB, mapped file {file:.1} MiB"),
        });
        lines.push(format!(
            "run on:      {}, {} threads ({})",
            t.isa, t.threads, self.loaded.threads_reason
        ));
        lines.push(format!("seed:        {}", self.request.sampling.seed));
        lines.push(format!("stopped by:  {}", self.outcome.finish.name()));
        if let Some(fingerprint) = &self.outcome.fingerprint {
            lines.push(format!("fingerprint: {fingerprint}"));
        }
        lines.join("\n")
    }
}

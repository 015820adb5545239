//! How a batch goes: a line on a terminal, lines of JSON for programs, a summary at the end.

use crate::batch::feed::{Observe, Status};
use crate::cli::memory::mib;
use crate::cli::output::{self, Stream};
use crate::cli::signals;
use crate::error::Result;
use crate::json;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A line, if stderr is a terminal.
    Auto,
    /// A line of JSON every second.
    Json,
    /// None.
    None,
}

/// The line on a terminal is renewed so often.
const LINE_EVERY: Duration = Duration::from_millis(200);
/// Lines of JSON come so often.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// The speed that is shown is that of the last so many moments, one per renewal.
const MOMENTS: usize = 25;

/// Shows how it goes, and knows whether a signal came.
pub struct Display {
    mode: Mode,
    since: Instant,
    shown: Option<Instant>,
    bar: Option<ProgressBar>,
    moments: VecDeque<(Instant, u64)>,
}

/// What programs are told while it goes on.
#[derive(Serialize)]
struct Now<'a> {
    records: u64,
    total: Option<u64>,
    resumed: u64,
    failed: u64,
    in_flight: usize,
    waiting: usize,
    kv_bytes: usize,
    prompt_tokens: u64,
    shared_tokens: u64,
    new_tokens: u64,
    tokens_per_second: f64,
    seconds: f64,
    eta_seconds: Option<f64>,
    errors: &'a BTreeMap<String, u64>,
}

/// What programs are told at the end.
#[derive(Serialize)]
struct Summary<'a> {
    records: u64,
    resumed: u64,
    failed: u64,
    complete: bool,
    seconds: f64,
    records_per_second: f64,
    prompt_tokens: u64,
    shared_tokens: u64,
    new_tokens: u64,
    tokens_per_second: f64,
    passes: u64,
    most_in_flight: usize,
    most_kv_bytes: usize,
    errors: &'a BTreeMap<String, u64>,
}

/// Zero where there was no time, so that it is always a number.
fn rate(amount: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        amount as f64 / seconds
    } else {
        0.0
    }
}

/// `1:02:03`.
fn clock(time: Duration) -> String {
    let s = time.as_secs();
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

/// `2 invalid_json, 1 limit_exceeded`.
pub fn by_code(failures: &BTreeMap<String, u64>) -> String {
    let each = failures.iter().map(|(code, n)| format!("{n} {code}"));
    each.collect::<Vec<_>>().join(", ")
}

impl Display {
    /// Begins to count time.
    pub fn new(mode: Mode) -> Display {
        let terminal = Stream::Stderr.is_terminal();
        let bar = (mode == Mode::Auto && terminal).then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(None, target);
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Display {
            mode,
            since: Instant::now(),
            shown: None,
            bar,
            moments: VecDeque::new(),
        }
    }

    /// Generated tokens per second, lately.
    fn speed(&mut self, tokens: u64) -> f64 {
        let now = Instant::now();
        self.moments.push_back((now, tokens));
        if self.moments.len() > MOMENTS {
            self.moments.pop_front();
        }
        let first = self.moments.front().copied().unwrap_or((self.since, 0));
        let first = match self.moments.len() {
            1 => (self.since, 0),
            _ => first,
        };
        rate(tokens.saturating_sub(first.1), now - first.0)
    }

    /// How long the rest takes if records go on as they did.
    fn left(&self, status: &Status) -> Option<Duration> {
        let rest = status.total?.checked_sub(status.found + status.done)?;
        let each = self.since.elapsed().as_secs_f64() / status.done.max(1) as f64;
        let known = status.done > 0;
        known.then(|| Duration::try_from_secs_f64(each * rest as f64).ok())?
    }

    fn line(&mut self, status: &Status) -> String {
        let mut line = format!("{}", status.found + status.done);
        if let Some(total) = status.total {
            line.push_str(&format!(" of {total}"));
        }
        let load = &status.load;
        let speed = self.speed(load.totals.new_tokens);
        line.push_str(&format!(
            " records, {} in flight, {speed:.1} tok/s",
            load.in_flight
        ));
        if status.failed() > 0 {
            line.push_str(&format!(", {} failed", status.failed()));
        }
        match self.left(status) {
            Some(left) => line.push_str(&format!(", {} left", clock(left))),
            None => line.push_str(&format!(", {}", clock(self.since.elapsed()))),
        }
        line
    }

    fn json(&mut self, status: &Status) {
        let load = &status.load;
        let speed = self.speed(load.totals.new_tokens);
        let text = json::one_line(&Now {
            records: status.found + status.done,
            total: status.total,
            resumed: status.found,
            failed: status.failed(),
            in_flight: load.in_flight,
            waiting: load.waiting,
            kv_bytes: load.kv_bytes,
            prompt_tokens: load.totals.prompt_tokens,
            shared_tokens: load.totals.shared_tokens,
            new_tokens: load.totals.new_tokens,
            tokens_per_second: speed,
            seconds: self.since.elapsed().as_secs_f64(),
            eta_seconds: self.left(status).map(|left| left.as_secs_f64()),
            errors: &status.failures,
        });
        if let Ok(text) = text {
            output::note(text);
        }
    }

    /// The last line of JSON, and no line on the terminal any more.
    pub fn end(&mut self, status: &Status) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.mode == Mode::Json {
            self.json(status);
        }
    }

    /// The summary for programs.
    ///
    /// # Errors
    /// None that can be expected.
    pub fn summary(&self, status: &Status, complete: bool) -> Result<String> {
        let (time, totals) = (self.since.elapsed(), &status.load.totals);
        json::one_line(&Summary {
            records: status.found + status.done,
            resumed: status.found,
            failed: status.failed(),
            complete,
            seconds: time.as_secs_f64(),
            records_per_second: rate(status.done, time),
            prompt_tokens: totals.prompt_tokens,
            shared_tokens: totals.shared_tokens,
            new_tokens: totals.new_tokens,
            tokens_per_second: rate(totals.new_tokens, time),
            passes: totals.passes,
            most_in_flight: totals.most_in_flight,
            most_kv_bytes: totals.most_kv_bytes,
            errors: &status.failures,
        })
    }

    /// The summary for a person.
    pub fn text(&self, status: &Status) -> String {
        let (time, totals) = (self.since.elapsed(), &status.load.totals);
        let mut line = format!(
            "quern: {} records in {:.1} s ({:.2}/s)",
            status.done,
            time.as_secs_f64(),
            rate(status.done, time)
        );
        if status.found > 0 {
            line.push_str(&format!(" after {} of an earlier run", status.found));
        }
        if status.failed() > 0 {
            line.push_str(&format!(
                ", {} failed ({})",
                status.failed(),
                by_code(&status.failures)
            ));
        }
        line.push_str(&format!(
            "\nquern: {} prompt tokens computed, {} shared, {} generated ({:.1} tok/s) in {} passes, up to {} side by side in {:.1} MiB of cache",
            totals.prompt_tokens,
            totals.shared_tokens,
            totals.new_tokens,
            rate(totals.new_tokens, time),
            totals.passes,
            totals.most_in_flight,
            mib(totals.most_kv_bytes as u64)
        ));
        line
    }
}

impl Observe for Display {
    fn stop_asked(&mut self) -> bool {
        signals::caught().is_some()
    }

    fn show(&mut self, status: &Status) {
        let every = match (self.mode, &self.bar) {
            (Mode::Json, _) => JSON_EVERY,
            (Mode::Auto, Some(_)) => LINE_EVERY,
            _ => return,
        };
        if self.shown.is_some_and(|shown| shown.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        if self.mode == Mode::Json {
            return self.json(status);
        }
        let line = self.line(status);
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            bar.tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_codes_for_people() {
        assert_eq!(clock(Duration::from_secs(59)), "0:59");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        let failures = [("a".to_owned(), 2), ("b".to_owned(), 1)].into();
        assert_eq!(by_code(&failures), "2 a, 1 b");
    }

    #[test]
    fn what_is_left_follows_from_what_was_done() {
        let mut display = Display::new(Mode::None);
        display.since = Instant::now() - Duration::from_secs(10);
        let mut status = Status {
            total: Some(300),
            found: 100,
            ..Status::default()
        };
        assert_eq!(display.left(&status), None);
        status.done = 100;
        let left = display.left(&status).unwrap().as_secs_f64();
        assert!(left >= 10.0, "{left}");
        status.total = None;
        assert_eq!(display.left(&status), None);
    }
}

//! The decode loop allocates nothing once its buffers have grown: what a token costs does not depend on an allocator's mood.

use crate::common::tiny::{Tiny, TinyFile};
use crate::generation::request;
use crate::golden::{engine, golden_file};
use quern::error::Result;
use quern::file::{ModelFile, OpenOptions};
use quern::generate::*;
use quern::model::Engine;
use quern::sample::{Mirostat, Params};
use quern::tokenizer::{DecodeOptions, StreamDecoder, Tokenizer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator; counts what each thread asks for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // A thread that ends has no counter any more.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Says nothing of ids.
struct Silent;

impl Decode for Silent {
    fn push(&mut self, _: u32, _: &mut String) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &mut String) -> Result<()> {
        Ok(())
    }
}

/// Notes how many allocations there were before each token.
struct Counts(Vec<usize>);

impl Watch for Counts {
    fn text(&mut self, _: &str) -> Result<()> {
        self.0.push(COUNT.with(Cell::get));
        Ok(())
    }
}

/// Text of ids.
struct Text<'t>(StreamDecoder<'t>);

impl Decode for Text<'_> {
    fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        self.0.push(id, out)
    }

    fn finish(&mut self, _: &mut String) -> Result<()> {
        Ok(())
    }
}

/// Allocations of each token after the first.
fn per_token(engine: &mut Engine, sampling: Params, decode: &mut dyn Decode) -> Vec<usize> {
    // The cache takes new pages at multiples of 64 positions: these tokens stay between two of those.
    let prompt: Vec<u32> = (0..66).map(|i| (i * 7 + 3) % 60).collect();
    let mut request = request(&prompt, 50);
    request.fingerprint = false;
    request.sampling = sampling;
    request.stop = vec!["a text that never comes".to_owned()];
    let mut counts = Counts(Vec::with_capacity(100));
    let generation = Generation {
        request: &request,
        session: &mut Session::new(),
        draft: None,
        constraint: None,
        decode,
        watch: &mut counts,
    };
    generation.run(engine).unwrap();
    counts.0.windows(2).map(|w| w[1] - w[0]).collect()
}

#[test]
fn a_token_allocates_nothing() {
    for name in [
        "llama_gqa_tied",
        "gpt2",
        "mixtral",
        "phimoe",
        "deepseek_v3",
        "gemma2",
        "gemma3n_text",
        "mamba",
        "mamba2",
        "qwen3_next",
        "lfm2",
    ] {
        // With two threads the leader is counted, which does all that is not a kernel.
        for threads in [1, 2] {
            let mut engine = engine(golden_file(name), threads);
            let tokens = per_token(&mut engine, Params::default(), &mut Silent);
            assert_eq!(tokens.len(), 49);
            let late: usize = tokens[4..].iter().sum();
            assert_eq!(late, 0, "{name}, {threads} threads: {tokens:?}");
        }
    }
}

/// With text, and with every step of the sampler but the two that keep lists of ids which grow with the text (penalties and DRY).
#[test]
fn neither_text_nor_sampling_allocates() {
    let file = TinyFile::new(Tiny::default());
    let opened = ModelFile::open(file.path(), OpenOptions { mmap: true }).unwrap();
    let mut engine = engine(Arc::new(opened), 1);
    let prepared = engine.model().file().tokenizer().unwrap().unwrap();
    let tokenizer = Tokenizer::from_prepared(prepared).unwrap();
    let plain = || Params {
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 5,
        ..Params::default()
    };
    let mirostat = Mirostat {
        target: 5.0,
        rate: 0.1,
    };
    for (name, sampling) in [
        ("usual", Params::default()),
        (
            "greedy",
            Params {
                temperature: 0.0,
                ..plain()
            },
        ),
        ("plain", plain()),
        (
            "top-k",
            Params {
                top_k: 5,
                ..plain()
            },
        ),
        (
            "top-p",
            Params {
                top_p: 0.7,
                ..plain()
            },
        ),
        (
            "min-p",
            Params {
                min_p: 0.01,
                ..plain()
            },
        ),
        (
            "typical",
            Params {
                typical: 0.7,
                ..plain()
            },
        ),
        (
            "top-n-sigma",
            Params {
                top_n_sigma: 1.0,
                ..plain()
            },
        ),
        (
            "dynamic",
            Params {
                dynatemp_range: 0.5,
                ..plain()
            },
        ),
        (
            "xtc",
            Params {
                xtc_probability: 1.0,
                xtc_threshold: 0.001,
                ..plain()
            },
        ),
        (
            "mirostat",
            Params {
                mirostat: Some(mirostat),
                ..plain()
            },
        ),
    ] {
        let options = DecodeOptions { skip_special: true };
        let mut text = Text(tokenizer.decoder(options));
        let tokens = per_token(&mut engine, sampling, &mut text);
        let late: usize = tokens[12..].iter().sum();
        assert_eq!(late, 0, "{name}: {tokens:?}");
    }
}

#[test]
fn what_allocates_is_counted() {
    let before = COUNT.with(Cell::get);
    let text = std::hint::black_box(String::from("some text"));
    assert_eq!(COUNT.with(Cell::get), before + 1, "{text}");
}

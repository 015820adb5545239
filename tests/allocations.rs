//! The decode loop allocates nothing once its buffers have grown: what a token costs does not depend on an allocator's mood.

use crate::generation::request;
use crate::golden::{engine, golden_file};
use quern::error::Result;
use quern::generate::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

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
    fn push(&mut self, _: u32) -> Result<String> {
        Ok(String::new())
    }

    fn finish(&mut self) -> Result<String> {
        Ok(String::new())
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

/// Allocations of each token after the first.
fn per_token(name: &str, threads: usize) -> Vec<usize> {
    let mut engine = engine(golden_file(name), threads);
    // The cache takes new pages at multiples of 64 positions: these tokens stay between two of those.
    let prompt: Vec<u32> = (0..66).map(|i| (i * 7 + 3) % 60).collect();
    let mut request = request(&prompt, 50);
    request.fingerprint = false;
    let mut counts = Counts(Vec::with_capacity(100));
    let generation = Generation {
        request: &request,
        session: &mut Session::new(),
        draft: None,
        constraint: None,
        decode: &mut Silent,
        watch: &mut counts,
    };
    generation.run(&mut engine).unwrap();
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
            let tokens = per_token(name, threads);
            assert_eq!(tokens.len(), 49);
            let late: usize = tokens[4..].iter().sum();
            assert_eq!(late, 0, "{name}, {threads} threads: {tokens:?}");
        }
    }
}

#[test]
fn what_allocates_is_counted() {
    let before = COUNT.with(Cell::get);
    let text = std::hint::black_box(String::from("some text"));
    assert_eq!(COUNT.with(Cell::get), before + 1, "{text}");
}

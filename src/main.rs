//! The `quern` program: everything is in the library's `cli` module.

#[global_allocator]
static ALLOCATOR: quern::cli::memory_limit::Allocator = quern::cli::memory_limit::Allocator;

fn main() -> std::process::ExitCode {
    quern::cli::main()
}

//! The `quern` program: everything is in the library's `cli` module.

fn main() -> std::process::ExitCode {
    quern::cli::main()
}

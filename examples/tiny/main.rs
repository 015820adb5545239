//! Writes the toy model that `make run` runs: `cargo run --example tiny -- target/tiny.quern`.

mod chain;

use quern::file::Writer;
use quern_kernels::Format;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: tiny OUT.quern");
        return ExitCode::from(2);
    };
    let written = chain::Chain::new()
        .write(Format::Q8, |plan| Writer::create(&path, plan))
        .and_then(|writer| writer.finish());
    match written {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tiny: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

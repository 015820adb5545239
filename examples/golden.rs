//! Makes one of the small models of `tests/golden` as a Hugging Face folder, which `quern import` can read, and says how to run it:
//! `cargo run --example golden -- mistral_swa target/mistral_swa`.

#[path = "../tests/materialise.rs"]
mod materialise;

use serde_json::Value;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(out), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: golden NAME FOLDER   (NAME is a folder of tests/golden)");
        return ExitCode::from(2);
    };
    match write(&name, Path::new(&out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("golden: {name:?}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn write(name: &str, out: &Path) -> Result<(), Box<dyn Error>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = std::fs::read(golden.join("golden.json"))?;
    let values: Value = serde_json::from_slice(&text)?;
    materialise::materialise(&golden, out, false);
    let sequences = values["sequences"].as_array().map_or(&[][..], |s| s);
    let short = sequences.iter().find(|s| s["name"] == "short");
    let short = short.unwrap_or(&Value::Null);
    let (Some(prompt), Some(answer)) = (short["input_ids"].as_array(), short["greedy"].as_array())
    else {
        println!(
            "quern import {0} -o {0}.quern && quern inspect {0}.quern",
            out.display()
        );
        return Ok(());
    };
    let list = |ids: &[Value], between: &str| {
        let ids: Vec<String> = ids.iter().map(Value::to_string).collect();
        ids.join(between)
    };
    println!(
        "quern import {0} -o {0}.quern && quern inspect {0}.quern",
        out.display()
    );
    println!(
        "quern run -m {}.quern --ids {} -n {} --temp 0 --ignore-eos --kv f32",
        out.display(),
        list(prompt, ","),
        answer.len()
    );
    println!("transformers: {}", list(answer, " "));
    Ok(())
}

//! `quern bench shapes`, and what `--shape` names.

use super::examples;
use crate::bench::operations::MatrixShape;
use crate::bench::{kernels, synthetic};
use crate::cli::output;
use crate::error::{Error, Result};
use quern_kernels::Format;
use quern_models::Spec;
use quern_models::shapes::{self, KNOWN, Known};
use quern_models::spec::Shape as Dimensions;
use serde_json::json;
use std::path::Path;

/// Arguments of `quern bench shapes`.
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&["shapes", "shapes --json", "model --shape NAME --quant q4"]))]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a name after `--shape` is.
pub enum Shape {
    /// A model.
    Model {
        /// What to call it.
        name: String,
        /// The model as data.
        spec: Box<Spec>,
    },
    /// Matrices.
    Matrices(Vec<MatrixShape>),
}

/// Longest configuration that is read.
const MOST: u64 = 4 << 20;

/// A known name, a configuration (a file that ends in `.json`), or a file of matrices.
///
/// # Errors
/// Usage for a name that is neither known nor a file; Io; Invalid, from the file.
pub fn named(name: &str) -> Result<Shape> {
    if let Some(known) = Known::by_name(name) {
        return Ok(Shape::Model {
            name: name.to_owned(),
            spec: Box::new(known.spec().map_err(Error::invalid)?),
        });
    }
    let path = Path::new(name);
    if !path.exists() {
        let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
        return Err(Error::usage(format_args!(
            "--shape {name:?} is no file, expected one or a name: {}",
            names.join(", ")
        )));
    }
    if path.extension().is_none_or(|e| e != "json") {
        return Ok(Shape::Matrices(kernels::matrices_in(path)?));
    }
    let io = |e: &std::io::Error| Error::io("read", path, e);
    let length = std::fs::metadata(path).map_err(|e| io(&e))?.len();
    if length > MOST {
        return Err(Error::limit(format_args!(
            "{path:?} has {length} bytes, expected a config.json of at most {MOST}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| io(&e))?;
    let wrong = |e: &dyn std::fmt::Display| Error::invalid(format_args!("{path:?}: {e}"));
    let config = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
    let spec = shapes::spec(&format!("{path:?}"), &config).map_err(Error::invalid)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Many are called config.json; their folder says more.
    let folder = path.parent().and_then(Path::file_name);
    let name = match (stem.as_ref(), folder) {
        ("config", Some(folder)) => folder.to_string_lossy().into_owned(),
        _ => stem.into_owned(),
    };
    Ok(Shape::Model {
        name,
        spec: Box::new(spec),
    })
}

/// Numbers in matrices and vectors.
fn weights(spec: &Spec) -> u64 {
    let count = |shape| match shape {
        Dimensions::Vector(n) => u64::from(n),
        Dimensions::Matrix { count, rows, cols } => {
            u64::from(count) * u64::from(rows) * u64::from(cols)
        }
    };
    spec.tensors().iter().map(|t| count(t.shape)).sum()
}

/// Lists the known shapes.
///
/// # Errors
/// Standard output (4).
pub fn run(args: &Args) -> Result<()> {
    let mut out = output::stdout();
    let mut all = Vec::new();
    let gb = |bytes: u64| bytes as f64 / 1e9;
    if !args.json {
        out.line(format_args!(
            "{:20} {:>12} {:>10} {:>10} {:>10}",
            "name", "weights", "bf16 GB", "q8 GB", "q4 GB"
        ))?;
    }
    for known in KNOWN {
        let spec = known.spec().map_err(Error::invalid)?;
        let bytes = |format| synthetic::file_bytes(&spec, format);
        let [bf16, q8, q4] = [Format::Bf16, Format::Q8, Format::Q4].map(bytes);
        let (bf16, q8, q4, weights) = (bf16?, q8?, q4?, weights(&spec));
        if args.json {
            all.push(json!({"name": known.name, "weights": weights, "bf16_bytes": bf16, "q8_bytes": q8, "q4_bytes": q4}));
        } else {
            let millions = weights as f64 / 1e6;
            out.line(format_args!(
                "{:20} {millions:>10.0} M {:>10.2} {:>10.2} {:>10.2}",
                known.name,
                gb(bf16),
                gb(q8),
                gb(q4)
            ))?;
        }
    }
    match args.json {
        true => out.json(&all),
        false => Ok(()),
    }
}

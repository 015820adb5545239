//! `quern batch merge`: shards as one output.

use crate::batch::manifest;
use crate::batch::merge::{Shards, to_file};
use crate::cli::output;
use crate::error::{Error, Result};
use crate::file::atomic::AtomicFile;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Arguments of `quern batch merge`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The outputs may be named in any order. Their manifests say which shards they are; all of them have to be there, finished and of one run.

Examples:
  quern batch merge -o results.jsonl part-1.jsonl part-2.jsonl part-3.jsonl
  quern batch merge -o - part-*.jsonl | jq .custom_id"
)]
pub struct Args {
    /// Where the whole goes (- is standard output)
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The outputs of all shards
    #[arg(value_name = "SHARD", required = true)]
    pub shards: Vec<PathBuf>,
}

/// Merges.
///
/// # Errors
/// Shards that do not belong together, or an output that is there already (2); a shard that is not what it says (3); I/O (4).
pub fn run(args: Args) -> Result<()> {
    let path = &args.output;
    let shards = Shards::open(&args.shards)?;
    if path.as_os_str() == "-" {
        let mut out = output::stdout();
        shards.write(&mut |line| out.put(line))?;
        return out.flush_now();
    }
    if path.exists() || manifest::path(path).exists() {
        return Err(Error::usage(format_args!(
            "{path:?} is there already, or its manifest: expected another name"
        )));
    }
    let manifest = shards.manifest();
    let mut file = AtomicFile::create(path)?;
    let mut out = BufWriter::with_capacity(1 << 16, &mut file);
    let merged = shards.write(&mut to_file(&mut out, path))?;
    out.flush().map_err(|e| Error::io("write", path, &e))?;
    drop(out);
    file.commit()?;
    manifest.write(path)?;
    output::note(format_args!(
        "quern: {} records in {path:?}, {} of them failed",
        merged.records, merged.failed
    ));
    Ok(())
}

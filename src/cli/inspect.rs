//! `quern inspect`: what a weight file is, for people and as JSON.
//!
//! Layers are printed from the stored form of the Spec, field by field, so that nothing in it is left out: a field that is false or absent
//! is not printed, one that is true by its name, a number with its name.

use super::load;
use super::output::{self, visible};
use crate::error::Result;
use crate::file::header::{MAJOR, hex};
use crate::file::meta::key;
use crate::file::{Entry, Meta, ModelFile, Value};
use crate::tokenizer::Tokenizer;
use quern_kernels::Format;
use quern_models::spec::{Layer, Norm, Shape, Stack};
use serde_json::{Map, Number, Value as Json, json};
use std::fmt::Write;
use std::path::PathBuf;

/// Arguments of `quern inspect`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quern inspect\n  quern inspect model.quern\n  quern inspect model.quern --tensors\n  \
quern inspect model.quern --json | jq .formats\n\nOnly the structure is checked; `quern verify` checks the weights."
)]
pub struct Args {
    /// The weight file to look at (default: pocket, the built-in model)
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
}

/// Prints what a file is.
///
/// # Errors
/// Invalid (3), io (4).
pub fn run(args: Args) -> Result<()> {
    let file = load::open_own(args.file.as_deref(), true)?;
    let tokenizer = file.tokenizer()?.map(Tokenizer::from_prepared).transpose();
    let tokenizer = tokenizer.map_err(|e| e.at(format_args!("{:?}: tokenizer", file.path())))?;
    let mut out = output::stdout();
    if args.json {
        return out.json(&describe_json(&file, tokenizer.as_ref(), args.tensors));
    }
    out.put(describe(&file, tokenizer.as_ref(), args.tensors).as_bytes())
}

/// Weights of a tensor, without padding.
fn parameters(entry: &Entry) -> u64 {
    match entry.shape {
        Shape::Vector(len) => u64::from(len),
        Shape::Matrix { count, rows, cols } => u64::from(count) * u64::from(rows) * u64::from(cols),
    }
}

/// What the tensors of one format amount to.
#[derive(Default)]
struct Share {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

impl Share {
    fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Share {
        let mut share = Share::default();
        for entry in entries {
            share.tensors += 1;
            share.parameters += parameters(entry);
            share.bytes += entry.length;
        }
        share
    }

    fn bits_per_weight(&self) -> f64 {
        let bits = self.bytes as f64 * 8.0 / self.parameters.max(1) as f64;
        (bits * 100.0).round() / 100.0
    }
}

/// Vectors, then every format that a matrix of the file has.
fn shares(file: &ModelFile) -> Vec<(&'static str, Share)> {
    let is_vector = |e: &&Entry| matches!(e.shape, Shape::Vector(_));
    let vectors = Share::of(file.entries().iter().filter(is_vector));
    let matrices = Format::ALL.iter().map(|format| {
        let of = |e: &&Entry| !is_vector(e) && e.format == *format;
        (format.name(), Share::of(file.entries().iter().filter(of)))
    });
    matrices
        .chain([("vectors", vectors)])
        .filter(|(_, share)| share.tensors > 0)
        .collect()
}

/// Layers of one kind, with their places.
fn kinds(layers: &[Layer]) -> Vec<(&Layer, Vec<usize>)> {
    let mut kinds: Vec<(&Layer, Vec<usize>)> = Vec::new();
    for (l, layer) in layers.iter().enumerate() {
        match kinds.iter_mut().find(|(kind, _)| *kind == layer) {
            Some((_, places)) => places.push(l),
            None => kinds.push((layer, vec![l])),
        }
    }
    kinds
}

/// `0-4, 6, 8-9` for ascending numbers.
fn ranges(numbers: &[usize]) -> String {
    let mut out = String::new();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        let comma = if out.is_empty() { "" } else { ", " };
        let _ = match run {
            [one] => write!(out, "{comma}{one}"),
            _ => write!(out, "{comma}{}-{}", run[0], run[run.len() - 1]),
        };
    }
    out
}

/// `1 234 567` with commas.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with a unit of a thousand times the last, three significant digits.
fn rounded(n: u64, units: [&str; 5], base: f64) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let decimals = match (unit, value) {
        (0, _) => 0,
        (_, v) if v < 10.0 => 2,
        (_, v) if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit])
}

fn bytes(n: u64) -> String {
    rounded(n, [" B", " KiB", " MiB", " GiB", " TiB"], 1024.0)
}

fn count(n: u64) -> String {
    rounded(n, ["", " K", " M", " B", " T"], 1000.0)
}

/// The fields of a stored object in words: counts first, as `8 heads` for `n_heads: 8`.
fn words(value: &Json) -> String {
    let Json::Object(fields) = value else {
        return match value {
            Json::String(text) => text.replace('_', " "),
            other => other.to_string(),
        };
    };
    let (mut counts, mut others) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        let spaced = name.replace('_', " ");
        match (spaced.strip_prefix("n "), value) {
            (_, Json::Null | Json::Bool(false)) => {}
            (Some(what), Json::Number(n)) => counts.push(format!("{n} {what}")),
            (_, Json::Bool(true)) => others.push(spaced),
            (_, Json::Array(list)) => others.push(format!("{} values of {spaced}", list.len())),
            (_, value) => others.push(format!("{spaced} {}", words(value))),
        }
    }
    counts.append(&mut others);
    counts.join(", ")
}

/// A variant of a sum type with fields: its name, then the fields.
fn variant(value: &Json) -> String {
    match value.as_object().and_then(|o| o.iter().next()) {
        Some((name, fields)) => format!("{}: {}", name.replace('_', " "), words(fields)),
        None => words(value),
    }
}

/// A value in its stored form. By way of text, which writes an f32 with the digits that it has and no more.
fn stored(value: &impl serde::Serialize) -> Json {
    let text = serde_json::to_string(value).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or(Json::Null)
}

fn norm(norm: &Norm) -> String {
    let kind = words(&stored(&norm.kind));
    let bias = if norm.bias { " with bias" } else { "" };
    let weight = if norm.weight { "" } else { " without weight" };
    format!("{kind} norm{weight}{bias}, eps {:?}", norm.eps)
}

/// One line per step of a layer.
fn steps(layer: &Layer) -> Vec<String> {
    let mut lines = Vec::new();
    for block in &layer.blocks {
        lines.extend(block.pre.as_ref().map(norm));
        for (r, branch) in block.branches.iter().enumerate() {
            let plus = if r > 0 { "+ " } else { "" };
            let own = branch.pre.as_ref().map(|n| format!("({}) ", norm(n)));
            let own = own.unwrap_or_default();
            lines.push(format!("{plus}{own}{}", variant(&stored(&branch.op))));
        }
        lines.extend(block.post.as_ref().map(|n| format!("then {}", norm(n))));
        if block.scale != 1.0 {
            lines.push(format!("times {}", block.scale));
        }
    }
    lines
}

/// A metadata value for people, shortened.
fn shown(value: &Value) -> String {
    let list = |items: Vec<String>| {
        let more = items.len().saturating_sub(8);
        let mut text = items[..items.len() - more].join(", ");
        if more > 0 {
            let _ = write!(text, ", ... ({} in all)", items.len());
        }
        text
    };
    match value {
        Value::U32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => {
            let short: String = v.chars().take(100).collect();
            let dots = if short.len() < v.len() { " ..." } else { "" };
            format!("{short:?}{dots}")
        }
        Value::Bytes(v) => format!("{} bytes", v.len()),
        Value::Strings(v) => list(v.iter().map(|s| format!("{s:?}")).collect()),
        Value::U32s(v) => list(v.iter().map(u32::to_string).collect()),
    }
}

/// Appends a line with a name in the left column.
fn row(out: &mut String, name: &str, text: impl std::fmt::Display) {
    let _ = writeln!(out, "{name:<15} {text}");
}

/// The page for people.
fn describe(file: &ModelFile, tokenizer: Option<&Tokenizer>, tensors: bool) -> String {
    let (spec, meta) = (file.spec(), file.meta());
    let all = Share::of(file.entries().iter());
    let mut out = String::new();
    row(
        &mut out,
        "name",
        visible(meta.name().unwrap_or("(none)")).replace('\n', " "),
    );
    row(&mut out, "file", format_args!("{:?}", file.path()));
    row(&mut out, "id", file.id_hex());
    row(
        &mut out,
        "size",
        format_args!("{} ({} bytes)", bytes(file.len()), grouped(file.len())),
    );
    row(
        &mut out,
        "parameters",
        format_args!(
            "{} ({}), {} bits each",
            count(all.parameters),
            grouped(all.parameters),
            all.bits_per_weight()
        ),
    );
    for (i, (name, share)) in shares(file).iter().enumerate() {
        row(
            &mut out,
            if i == 0 { "formats" } else { "" },
            format_args!(
                "{name:<8} {:>4} tensors, {:>8} weights, {:>8}",
                share.tensors,
                count(share.parameters),
                bytes(share.bytes)
            ),
        );
    }
    row(&mut out, "vocabulary", spec.vocab_size);
    row(
        &mut out,
        "context",
        format_args!("{} positions", spec.context_length),
    );
    row(&mut out, "width", spec.hidden);
    if spec.embed.scale != 1.0 {
        row(
            &mut out,
            "embedding",
            format_args!("times {}", spec.embed.scale),
        );
    }
    row(&mut out, "features", spec.features().join(", "));
    if let Some(encoder) = &spec.encoder {
        row(&mut out, "encoder", layer_count(encoder));
        describe_layers(&encoder.layers, &mut out);
        let last = encoder.final_norm.as_ref();
        row(&mut out, "  end", last.map_or("no norm".to_string(), norm));
        row(&mut out, "decoder", layer_count(&spec.decoder));
    } else {
        row(&mut out, "layers", spec.decoder.layers.len());
    }
    describe_layers(&spec.decoder.layers, &mut out);
    for (i, rope) in spec.ropes.iter().enumerate() {
        row(
            &mut out,
            &format!("rope {i}"),
            format_args!(
                "rotates {} dimensions, {}",
                rope.dim(),
                variant(&stored(rope))
            ),
        );
    }
    let last = spec.decoder.final_norm.as_ref();
    let last = last.map_or("no norm".to_string(), norm);
    row(
        &mut out,
        "head",
        format_args!(
            "{last}; {}",
            match &spec.head {
                Some(head) => words(&stored(head)),
                None => "no logits".to_string(),
            }
        ),
    );
    describe_text(file, tokenizer, &mut out);
    row(
        &mut out,
        "source",
        meta.string(key::SOURCE_KIND)
            .map_or("(not recorded)".to_string(), visible),
    );
    let hashes = meta.strings(key::SOURCE_HASHES);
    for (name, hash) in meta.strings(key::SOURCE_FILES).iter().zip(hashes) {
        row(
            &mut out,
            "",
            format_args!("{name:?} blake3 {}", visible(hash)),
        );
    }
    if let Some(importer) = meta.string(key::IMPORTER) {
        let quant = meta.string(key::QUANT);
        let quant = quant.map_or(String::new(), |q| format!(", quant {}", visible(q)));
        row(
            &mut out,
            "imported by",
            format_args!("{}{quant}", visible(importer)),
        );
    }
    for (name, value) in meta.iter().filter(|(name, _)| !is_shown(name)) {
        row(&mut out, name, shown(value));
    }
    if tensors {
        out.push_str("\n   offset        bytes  format  shape               tensor\n");
        for entry in file.entries() {
            let shape = match entry.shape {
                Shape::Vector(len) => len.to_string(),
                Shape::Matrix {
                    count: 1,
                    rows,
                    cols,
                } => format!("{rows} x {cols}"),
                Shape::Matrix { count, rows, cols } => format!("{count} x {rows} x {cols}"),
            };
            let _ = writeln!(
                out,
                "{:>9} {:>12}  {:<6}  {shape:<18}  {}",
                entry.offset,
                entry.length,
                entry.format.name(),
                entry.key
            );
        }
    }
    out
}

fn layer_count(stack: &Stack) -> String {
    format!("{} layers", stack.layers.len())
}

/// The steps of every kind of layer, beside the places of that kind.
fn describe_layers(layers: &[Layer], out: &mut String) {
    for (kind, places) in kinds(layers) {
        for (i, step) in steps(kind).iter().enumerate() {
            let name = if i == 0 {
                format!("  {}", ranges(&places))
            } else {
                String::new()
            };
            if name.len() > 15 {
                let _ = writeln!(out, "{name}");
                row(out, "", step);
            } else {
                row(out, &name, step);
            }
        }
    }
}

/// Tokenizer, special ids, template, defaults, samples.
fn describe_text(file: &ModelFile, tokenizer: Option<&Tokenizer>, out: &mut String) {
    let meta = file.meta();
    match tokenizer {
        Some(tokenizer) => {
            let size = file.header().tokenizer.length;
            let what = visible(&tokenizer.describe());
            row(out, "tokenizer", format_args!("{what}, {}", bytes(size)));
        }
        None => row(
            out,
            "tokenizer",
            "none: only ids can be given and are printed",
        ),
    }
    let ids: Vec<String> = special_ids(meta)
        .map(|(name, value)| format!("{name} {}", shown(value)))
        .collect();
    if !ids.is_empty() {
        row(out, "special ids", ids.join(", "));
    }
    row(
        out,
        "template",
        match meta.chat_template() {
            Some(template) => format!("chat template of {} bytes", template.len()),
            None => "none".to_string(),
        },
    );
    let defaults: Vec<String> = generation(meta)
        .map(|(name, value)| format!("{} {}", name.replace('_', " "), shown(value)))
        .collect();
    if !defaults.is_empty() {
        row(out, "defaults", defaults.join(", "));
    }
    let samples = meta.strings(key::GOLDEN_TEXTS).len();
    if samples > 0 {
        row(
            out,
            "samples",
            format_args!("{samples} texts with their ids, recorded at import"),
        );
    }
}

fn with_prefix<'a>(meta: &'a Meta, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    meta.iter()
        .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
}

fn special_ids(meta: &Meta) -> impl Iterator<Item = (&str, &Value)> {
    with_prefix(meta, key::TOKEN_PREFIX)
}

fn generation(meta: &Meta) -> impl Iterator<Item = (&str, &Value)> {
    with_prefix(meta, "generation.")
}

/// Whether the page for people has a line of its own for this key.
fn is_shown(name: &str) -> bool {
    let own = [
        key::SPEC,
        key::NAME,
        key::CHAT_TEMPLATE,
        key::SOURCE_KIND,
        key::SOURCE_FILES,
        key::SOURCE_HASHES,
        key::IMPORTER,
        key::QUANT,
    ];
    own.contains(&name)
        || ["golden.", "generation.", key::TOKEN_PREFIX]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// A number as it would be written by hand: 0.9, not the f64 nearest to the f32 nearest to it. What is not finite becomes null.
fn short(v: f32) -> Json {
    let number = v.to_string().parse().ok().and_then(Number::from_f64);
    number.map_or(Json::Null, Json::Number)
}

/// A metadata value as JSON; bytes in hexadecimal digits.
fn value_json(value: &Value) -> Json {
    match value {
        Value::U32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::F32(v) => short(*v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Bytes(v) => json!(hex(v)),
        Value::Strings(v) => json!(v),
        Value::U32s(v) => json!(v),
    }
}

/// Everything, for programs. Fields are only ever added.
fn describe_json(file: &ModelFile, tokenizer: Option<&Tokenizer>, tensors: bool) -> Json {
    let spec = file.spec();
    let all = Share::of(file.entries().iter());
    let share = |share: &Share| {
        json!({
            "tensors": share.tensors,
            "parameters": share.parameters,
            "bytes": share.bytes,
            "bits_per_weight": share.bits_per_weight(),
        })
    };
    let formats: Map<String, Json> = shares(file)
        .iter()
        .map(|(name, s)| ((*name).to_string(), share(s)))
        .collect();
    let metadata: Map<String, Json> = file
        .meta()
        .iter()
        .filter(|(name, _)| *name != key::SPEC)
        .map(|(name, value)| (name.to_string(), value_json(value)))
        .collect();
    let header = file.header();
    let section = |s: crate::file::header::Section| json!({"offset": s.offset, "bytes": s.length});
    let mut out = json!({
        "path": file.path().to_string_lossy(),
        "id": file.id_hex(),
        "bytes": file.len(),
        "format_version": format!("{MAJOR}.{}", header.minor),
        "required_features": header.required,
        "optional_features": header.optional,
        "name": file.meta().name(),
        "parameters": all.parameters,
        "bits_per_weight": all.bits_per_weight(),
        "formats": formats,
        "vocab_size": spec.vocab_size,
        "context_length": spec.context_length,
        "hidden": spec.hidden,
        "n_layers": spec.decoder.layers.len(),
        "n_encoder_layers": spec.encoder.as_ref().map_or(0, |e| e.layers.len()),
        "features": spec.features(),
        "spec": stored(spec),
        "metadata": metadata,
        "tokenizer": tokenizer.map(|t| json!({
            "kind": t.kind(),
            "tokens": t.vocab_size(),
            "source": t.pipeline().source,
            "bytes": header.tokenizer.length,
        })),
        "sections": {
            "metadata": section(header.metadata),
            "tokenizer": section(header.tokenizer),
            "table": section(header.table),
            "data": section(header.data),
        },
        "n_tensors": file.entries().len(),
    });
    if tensors {
        out["tensors"] = file
            .entries()
            .iter()
            .enumerate()
            .map(|(i, e)| tensor_json(file, i, e))
            .collect();
    }
    out
}

fn tensor_json(file: &ModelFile, index: usize, entry: &Entry) -> Json {
    let shape = match entry.shape {
        Shape::Vector(len) => vec![len],
        Shape::Matrix { count, rows, cols } => vec![count, rows, cols],
    };
    json!({
        "name": entry.key.to_string(),
        "format": entry.format.name(),
        "shape": shape,
        "offset": entry.offset,
        "bytes": entry.length,
        "blake3": hex(file.checksum(index)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(count(260_032), "260 K");
        assert_eq!(count(1_235_814_400), "1.24 B");
        assert_eq!(bytes(4096), "4.00 KiB");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(703_803_392), "671 MiB");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(short(0.9), json!(0.9));
        assert_eq!(short(f32::NAN), Json::Null);
    }

    #[test]
    fn a_stored_object_in_words() {
        let op = json!({"attention": {"n_heads": 8, "q_bias": false, "o_bias": true, "rope": null, "mask": {"sliding": 128}}});
        assert_eq!(variant(&op), "attention: 8 heads, o bias, mask sliding 128");
        let op = json!({"dense": {"inner": 4, "activation": "gelu_tanh"}});
        assert_eq!(variant(&op), "dense: inner 4, activation gelu tanh");
    }
}

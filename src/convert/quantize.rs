//! From foreign rows to panels: binds a plan to tensors, and makes the bytes of the weight file chunk by chunk, on several threads, in order.
//!
//! A chunk is a run of panels of one matrix, or a whole vector. Every worker makes every n-th chunk and hands it over through a channel of
//! its own with room for one, so the chunks arrive in file order and at most three per worker are in memory.

use super::choice::fitting;
pub use super::choice::{Quant, TensorQuant};
use super::mxfp4::Mxfp4;
use super::parts::{Columns, Form, Part, Picked, inputs, part_of, runs};
use super::source::{Dtype, Tensor, Tensors};
use crate::error::{Error, Result};
use quern_kernels::{Format, PANEL_ROWS};
use quern_models::plan::{Layout, Plan, Rows};
use quern_models::spec::{Shape, TensorSpec};
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::sync_channel;

/// One stored tensor and what it is made of.
pub struct Item<'a> {
    /// Which tensor, and its shape.
    pub tensor: TensorSpec,
    /// How it is stored.
    pub format: Format,
    parts: Vec<Part<'a>>,
    /// The codes and scales of the source are taken over as they are.
    verbatim: bool,
}

/// What [`bind`] found.
pub struct Bound<'a> {
    /// One item per tensor of the Spec, in its order.
    pub items: Vec<Item<'a>>,
    /// Foreign tensors that are left out, with the reason.
    pub skipped: Vec<(String, &'static str)>,
    /// Where the formats are not those that were asked for, and why.
    pub notes: Vec<String>,
}

/// Joins the plan with the tensors and chooses formats.
///
/// # Errors
/// A foreign tensor is missing, has another shape, is used in part, or is neither used nor skipped; all of them are named. Usage: an override is about no
/// matrix.
pub fn bind<'a>(
    plan: &'a Plan,
    tensors: &'a Tensors,
    quant: Quant,
    overrides: &[TensorQuant],
) -> Result<Bound<'a>> {
    let mut matched = vec![false; overrides.len()];
    // Formats asked for and taken, and columns, with how many tensors.
    let mut changed: BTreeMap<(&str, &str, usize), usize> = BTreeMap::new();
    let sources: HashMap<_, _> = plan.tensors.iter().map(|t| (t.key, &t.sources)).collect();
    let mut used: HashMap<&str, Vec<bool>> = HashMap::new();
    let mut items = Vec::new();
    let mut missing = Vec::new();
    for tensor in plan.spec.tensors() {
        let (rows, cols) = match tensor.shape {
            Shape::Vector(n) => (u64::from(n), 1),
            Shape::Matrix { count, rows, cols } => {
                (u64::from(count) * u64::from(rows), u64::from(cols))
            }
        };
        let mut parts = Vec::new();
        let mut first = 0;
        for source in sources.get(&tensor.key).into_iter().copied().flatten() {
            let Some(t) = tensors.get(&source.name) else {
                missing.push(format!("{:?}", source.name));
                continue;
            };
            let form = match &source.layout {
                Layout::Rows => Form::Rows,
                Layout::Transposed => Form::Columns(Columns {
                    period: inputs(t),
                    first: 0,
                    count: inputs(t),
                }),
                Layout::TransposedPart {
                    period,
                    first,
                    count,
                } => Form::Columns(Columns {
                    period: u64::from(*period).max(1),
                    first: (*first).into(),
                    count: (*count).into(),
                }),
                Layout::Mxfp4 { scales } => {
                    let Some(found) = tensors.get(scales) else {
                        missing.push(format!("{scales:?}"));
                        continue;
                    };
                    used.insert(scales, vec![true]);
                    Form::Mxfp4(Mxfp4::new(t, found)?)
                }
            };
            let (t_rows, t_cols) = shape_as(t, tensor.shape, form)?;
            // A row has at least one byte, so the marks below are bounded by the file.
            if t_cols != cols || t_rows > t.len {
                return Err(shape_error(t, rows, cols));
            }
            let list = match &source.rows {
                Rows::All => None,
                Rows::List(list) => Some(list.as_slice()),
            };
            // Part of each column is part of the tensor's rows.
            let cut = match form {
                Form::Columns(c) if c.count < c.period => Some(c),
                _ => None,
            };
            let marks = cut.map_or(t_rows, |_| t.matrix().0);
            let seen = used
                .entry(&source.name)
                .or_insert_with(|| vec![false; marks as usize]);
            match (list, cut) {
                (None, None) => seen.fill(true),
                (None, Some(c)) => {
                    for matrix in seen.chunks_mut(c.period as usize) {
                        let inputs = matrix.iter_mut().skip(c.first as usize);
                        inputs.take(c.count as usize).for_each(|s| *s = true);
                    }
                }
                (Some(_), Some(_)) => return Err(shape_error(t, rows, cols)),
                (Some(list), None) => {
                    for &r in list {
                        match seen.get_mut(r as usize) {
                            Some(s) => *s = true,
                            None => return Err(shape_error(t, rows, cols)),
                        }
                    }
                }
            }
            let count = list.map_or(t_rows, |l| l.len() as u64);
            parts.push(Part {
                tensor: t,
                list,
                first,
                count,
                source,
                form,
            });
            first += count;
        }
        if first != rows && missing.is_empty() {
            return Err(match &parts[..] {
                [only] => shape_error(only.tensor, rows, cols),
                _ => Error::invalid(format_args!(
                    "{}: its sources have {first} rows in all, expected {rows}",
                    tensor.key
                )),
            });
        }
        let same = same_format(&parts, tensors)?;
        // Of two tensors of 4-bit floats, products with f32 activations are kept; asked for, the blocks are as well.
        let blocks = match same {
            Format::Bf16 if parts.iter().all(|p| matches!(p.form, Form::Mxfp4(_))) => Format::Mxfp4,
            same => same,
        };
        let (format, verbatim) = match tensor.shape {
            Shape::Vector(_) => (Format::F32, false),
            Shape::Matrix { cols, .. } => {
                let key = tensor.key.to_string();
                let names = || parts.iter().map(|p| p.tensor.shown.as_str());
                let mut wanted = quant.format(&plan.spec, tensor.key);
                for (one, matched) in overrides.iter().zip(&mut matched) {
                    if one.matches(&key, names()) {
                        wanted = one.format();
                        *matched = true;
                    }
                }
                let wanted = wanted.unwrap_or(same);
                let fit = match wanted == blocks {
                    true => blocks,
                    false => fitting(wanted, cols as usize),
                };
                if fit != wanted {
                    *changed
                        .entry((wanted.name(), fit.name(), cols as usize))
                        .or_default() += 1;
                }
                (fit, fit == blocks && fit.gguf_block().is_some())
            }
        };
        items.push(Item {
            tensor,
            format,
            verbatim,
            parts,
        });
    }
    if !missing.is_empty() {
        return Err(Error::invalid(format_args!(
            "tensors are missing: {}",
            list_of(missing)
        )));
    }
    let mut skipped = Vec::new();
    let mut unknown = Vec::new();
    for t in tensors.iter() {
        match used.get(t.name.as_str()) {
            Some(rows) => {
                if let Some(row) = rows.iter().position(|used| !used) {
                    if let Some(skip) = plan.skipped.iter().find(|s| s.covers(&t.name)) {
                        skipped.push((t.shown.clone(), skip.reason));
                        continue;
                    }
                    return Err(Error::invalid(format_args!(
                        "tensor {:?}: row {row} of {} is not used by this model",
                        t.shown,
                        rows.len()
                    )));
                }
            }
            None => match plan.skipped.iter().find(|s| s.covers(&t.name)) {
                Some(skip) => skipped.push((t.shown.clone(), skip.reason)),
                None => unknown.push(format!("{:?}", t.shown)),
            },
        }
    }
    if !unknown.is_empty() {
        return Err(Error::invalid(format_args!(
            "tensors that this model has no use for: {}",
            list_of(unknown)
        )));
    }
    if let Some((one, _)) = overrides.iter().zip(matched).find(|(_, matched)| !matched) {
        return Err(Error::usage(format_args!(
            "--quant-tensor {:?} is about no matrix of this model; `quern inspect --tensors` lists their names",
            one.text()
        )));
    }
    let notes = changed.into_iter().map(|((wanted, fit, cols), n)| {
        format!("{n} matrices are {fit} instead of {wanted}, which would pad their {cols} columns to a multiple of 256")
    });
    Ok(Bound {
        items,
        skipped,
        notes: notes.collect(),
    })
}

/// At most eight names, then how many more.
fn list_of(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(8);
    names.truncate(8);
    let list = names.join(", ");
    if more > 0 {
        format!("{list} and {more} more")
    } else {
        list
    }
}

/// Rows and columns of a foreign tensor as the stored shape wants them: a vector has one column, whatever the tensor's shape; dimensions of
/// 1 do not count; more than two are rows of a stack, and a transposed stack is one of transposed matrices.
fn shape_as(t: &Tensor, shape: Shape, form: Form) -> Result<(u64, u64)> {
    let wide = t.shape.iter().filter(|&&d| d != 1).count();
    let (rows, cols) = t.matrix();
    match (shape, form) {
        (Shape::Vector(_), _) => Ok((rows * cols, 1)),
        (_, Form::Mxfp4(blocks)) => Ok(blocks.matrix()),
        (
            Shape::Matrix {
                count: 1,
                rows,
                cols,
            },
            _,
        ) if wide > 2 => Err(shape_error(t, rows.into(), cols.into())),
        (_, Form::Columns(c)) if !rows.is_multiple_of(c.period) || c.first + c.count > c.period => {
            Err(shape_error(t, c.period, cols))
        }
        (_, Form::Columns(c)) => Ok((rows / c.period * cols, c.count)),
        (_, Form::Rows) => Ok((rows, cols)),
    }
}

fn shape_error(t: &Tensor, rows: u64, cols: u64) -> Error {
    let expected = if cols == 1 {
        format!("{rows} values")
    } else {
        format!("{rows} rows of {cols}")
    };
    Error::invalid(format_args!(
        "tensor {:?} has shape {:?}, expected {expected}",
        t.shown, t.shape
    ))
}

/// The format that holds the values of all parts without change.
fn same_format(parts: &[Part], tensors: &Tensors) -> Result<Format> {
    let mut same = None;
    for part in parts {
        let own = match part.tensor.dtype {
            Dtype::F16 => Format::F16,
            Dtype::Bf16 => Format::Bf16,
            Dtype::Blocks(format) => format,
            Dtype::Groups(_) if tensors.groups_are_blocks(part.tensor)? => Format::Q8,
            Dtype::U8 if matches!(part.form, Form::Mxfp4(_)) => Format::Bf16,
            Dtype::F32 | Dtype::Groups(_) | Dtype::U8 | Dtype::Other(_) => Format::F32,
        };
        let turned = matches!(part.form, Form::Columns(_)) && own.gguf_block().is_some();
        let changed = !part.source.unchanged() || turned || same.is_some_and(|f| f != own);
        same = Some(if changed { Format::F32 } else { own });
    }
    Ok(same.unwrap_or(Format::F32))
}

/// A run of panels of one matrix, or a whole vector.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    item: usize,
    /// Which matrix of a stack.
    matrix: u64,
    /// First row within the matrix.
    row: u64,
    rows: u64,
}

/// Values per chunk: about a megabyte of f32, enough to hide the cost of a hand-over.
const CHUNK_VALUES: u64 = 1 << 18;

/// Every chunk of the file, in order.
fn chunks<'a>(items: &'a [Item<'a>]) -> impl Iterator<Item = Chunk> + 'a {
    items.iter().enumerate().flat_map(|(item, it)| {
        let (count, rows, cols) = match it.tensor.shape {
            Shape::Vector(n) => (1, u64::from(n), 0),
            Shape::Matrix { count, rows, cols } => (u64::from(count), rows.into(), cols.into()),
        };
        let step = match it.tensor.shape {
            Shape::Vector(_) => rows,
            Shape::Matrix { .. } => (CHUNK_VALUES / std::cmp::max(cols, 1))
                .next_multiple_of(PANEL_ROWS as u64)
                .max(PANEL_ROWS as u64),
        };
        (0..count).flat_map(move |matrix| {
            (0..rows.div_ceil(step)).map(move |i| Chunk {
                item,
                matrix,
                row: i * step,
                rows: step.min(rows - i * step),
            })
        })
    })
}

/// Makes all bytes of all items and hands them to `write` in file order, with `true` behind the last chunk of a tensor.
///
/// # Errors
/// I/O; Invalid for a value that is not finite or too large for its format, naming tensor and index; whatever `write` returns.
pub fn run(
    items: &[Item],
    tensors: &Tensors,
    threads: usize,
    mut write: impl FnMut(&[u8], bool) -> Result<()>,
) -> Result<()> {
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        let mut lanes = Vec::new();
        for worker in 0..threads {
            let (send, receive) = sync_channel::<Result<Vec<u8>>>(1);
            lanes.push(receive);
            let work = move || {
                let mut scratch = Scratch::default();
                for chunk in chunks(items).skip(worker).step_by(threads) {
                    let made = scratch.make(&items[chunk.item], tensors, chunk);
                    let failed = made.is_err();
                    // The receiver leaves when another chunk has failed.
                    if send.send(made).is_err() || failed {
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .name(format!("import-{worker}"))
                .spawn_scoped(scope, work)
                .map_err(|e| Error::limit(format_args!("cannot start {threads} threads: {e}")))?;
        }
        let mut order = chunks(items).enumerate().peekable();
        while let Some((i, chunk)) = order.next() {
            let last = order.peek().is_none_or(|(_, next)| next.item != chunk.item);
            let bytes = lanes[i % threads]
                .recv()
                .map_err(|_| Error::limit("an import thread ended early"))??;
            write(&bytes, last)?;
        }
        Ok(())
    })
}

/// Workspace of one worker.
#[derive(Default)]
struct Scratch {
    /// Stored bytes of one read.
    raw: Vec<u8>,
    /// Rows of blocks in stored order.
    blocks: Vec<u8>,
    /// Values of one read.
    read: Vec<f32>,
    /// Values in stored order.
    values: Vec<f32>,
}

impl Scratch {
    fn make(&mut self, item: &Item, tensors: &Tensors, chunk: Chunk) -> Result<Vec<u8>> {
        let Shape::Matrix { rows, cols, .. } = item.tensor.shape else {
            self.gather(item, tensors, 0, chunk.rows)?;
            check_values(item, 0, 1, &self.values, f32::MAX)?;
            return Ok(self.values.iter().flat_map(|v| v.to_le_bytes()).collect());
        };
        let (first, cols) = (chunk.matrix * u64::from(rows) + chunk.row, cols as usize);
        let too_large = || Error::limit(format_args!("{}: a panel is too large", item.tensor.key));
        let panel_bytes = item.format.panel_bytes(cols).ok_or_else(too_large)?;
        let panels = (chunk.rows as usize).div_ceil(PANEL_ROWS);
        let total = panel_bytes.checked_mul(panels).ok_or_else(too_large)?;
        let mut out = super::source::zeroed(total, "panels")?;
        if item.verbatim {
            let row_bytes = self.gather_blocks(item, tensors, first, chunk.rows)?;
            let all: Vec<&[u8]> = self.blocks.chunks_exact(row_bytes).collect();
            for (panel, rows) in out
                .chunks_exact_mut(panel_bytes)
                .zip(all.chunks(PANEL_ROWS))
            {
                item.format.pack_panel_gguf(rows, cols, panel);
            }
        } else {
            self.gather(item, tensors, first, chunk.rows)?;
            check_values(item, first, cols, &self.values, largest(item.format))?;
            let panels = out.chunks_exact_mut(panel_bytes);
            for (panel, rows) in panels.zip(self.values.chunks(PANEL_ROWS * cols)) {
                item.format.pack_panel(rows, rows.len() / cols, cols, panel);
            }
        }
        // Only blocks taken over verbatim can still be wrong: their scales were not looked at.
        if item.verbatim {
            for (p, panel) in out.chunks_exact(panel_bytes).enumerate() {
                let before = p * PANEL_ROWS;
                let n = PANEL_ROWS.min(chunk.rows as usize - before);
                if let Err(bad) = item.format.check_panel(panel, n, cols) {
                    let (part, row) = part_of(&item.parts, first + (before + bad.row) as u64);
                    let t = part.tensor;
                    return Err(Error::invalid(format_args!(
                        "tensor {:?}: {} in row {row} at column {}",
                        t.shown, bad.what, bad.col
                    )));
                }
            }
        }
        Ok(out)
    }

    /// Stored rows `first..first + count` as f32 into `values`.
    fn gather(&mut self, item: &Item, tensors: &Tensors, first: u64, count: u64) -> Result<()> {
        self.values.clear();
        let (raw, read, values) = (&mut self.raw, &mut self.read, &mut self.values);
        let vector = matches!(item.tensor.shape, Shape::Vector(_));
        // The tensor whose values `read` holds as a whole: a permuted vector has many runs.
        let mut held: Option<&Tensor> = None;
        for run in runs(&item.parts, first, count) {
            let (part, t) = (run.part, run.part.tensor);
            let at = values.len();
            if vector && t.matrix().1 != 1 {
                // Every value counts as a row, but the file has rows of more than one.
                if !held.is_some_and(|h| std::ptr::eq(h, t)) {
                    read.clear();
                    tensors.read_f32(t, 0, t.matrix().0, raw, read)?;
                    held = Some(t);
                }
                run.rows.each(|r| values.push(read[r as usize]));
            } else {
                held = None;
                run.read(tensors, raw, read, values)?;
            }
            if !part.source.unchanged() {
                let change = |v: &mut f32| *v = part.source.value(*v);
                values[at..].iter_mut().for_each(change);
            }
        }
        Ok(())
    }

    /// Stored rows as blocks into `blocks`; returns the bytes of a row.
    fn gather_blocks(
        &mut self,
        item: &Item,
        tensors: &Tensors,
        first: u64,
        count: u64,
    ) -> Result<usize> {
        self.blocks.clear();
        let mut row_bytes = 0;
        for run in runs(&item.parts, first, count) {
            let part = run.part;
            match run.rows {
                Picked::Span(from, n) => {
                    part.read_blocks(tensors, from, n, &mut self.raw)?;
                    row_bytes = self.raw.len() / n as usize;
                    self.blocks.extend_from_slice(&self.raw);
                }
                Picked::List(list, low, high) => {
                    let n = high - low + 1;
                    part.read_blocks(tensors, low, n, &mut self.raw)?;
                    row_bytes = self.raw.len() / n as usize;
                    for &r in list {
                        let at = (u64::from(r) - low) as usize * row_bytes;
                        self.blocks.extend_from_slice(&self.raw[at..at + row_bytes]);
                    }
                }
            }
        }
        Ok(row_bytes)
    }
}

/// The largest magnitude that a format can hold without becoming infinite or being cut off.
fn largest(format: Format) -> f32 {
    match format {
        Format::F32 => f32::MAX,
        // Larger values round to infinity.
        Format::F16 => 65519.996,
        Format::Bf16 => f32::from_bits(0x7f7f_7fff),
        Format::Q8 => 65504.0 * 127.0,
        Format::Q4 => 65504.0 * 8.0,
        // Its largest power of two times 6 is beyond f32.
        Format::Mxfp4 => f32::MAX,
        // The greatest f16: a minimum cannot be larger.
        _ => 65504.0,
    }
}

/// Checks that values are finite and fit, `cols` to a stored row from row `first`.
fn check_values(item: &Item, first: u64, cols: usize, values: &[f32], most: f32) -> Result<()> {
    // NaN fails every comparison.
    if values.iter().all(|v| v.abs() <= most) {
        return Ok(());
    }
    let at = values
        .iter()
        .position(|v| !matches!(v.abs().partial_cmp(&most), Some(o) if o.is_le()))
        .unwrap_or(0);
    let (part, row) = part_of(&item.parts, first + (at / cols) as u64);
    let t = part.tensor;
    let (row, col) = if t.matrix().0 == 1 && cols == 1 {
        (0, at as u64)
    } else {
        (row, (at % cols) as u64)
    };
    let expected = if values[at].is_finite() {
        format!("at most {most} for {}", item.format.name())
    } else {
        "a finite number".to_owned()
    };
    Err(Error::invalid(format_args!(
        "tensor {:?}: value {} (row {row}, column {col}) is {}, expected {expected}",
        t.shown,
        row * part.cols() + col,
        values[at]
    )))
}

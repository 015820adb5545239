//! Parts of a stored tensor: rows of a foreign one, in stored order, however they lie there.

use super::mxfp4::Mxfp4;
use super::source::{Tensor, Tensors};
use crate::error::Result;
use quern_kernels::PANEL_ROWS;
use quern_models::plan::Source;

/// Some rows of a foreign tensor.
pub struct Part<'a> {
    /// The tensor.
    pub tensor: &'a Tensor,
    /// In this order; none: all.
    pub list: Option<&'a [u32]>,
    /// The stored row that the first of them becomes.
    pub first: u64,
    /// How many they are.
    pub count: u64,
    /// How values change.
    pub source: &'a Source,
    /// How they lie.
    pub form: Form<'a>,
}

/// How the rows of a part lie in its tensor.
#[derive(Clone, Copy)]
pub enum Form<'a> {
    /// As rows.
    Rows,
    /// As columns.
    Columns(Columns),
    /// As rows of blocks whose scales are in another tensor.
    Mxfp4(Mxfp4<'a>),
}

/// Matrices of `period` rows one below the other; the wanted rows are their columns, cut to `count` values from `first` on.
#[derive(Clone, Copy)]
pub struct Columns {
    /// Rows of a matrix.
    pub period: u64,
    /// The first value of a column.
    pub first: u64,
    /// Values of a column.
    pub count: u64,
}

impl Part<'_> {
    /// Columns of the foreign tensor.
    pub fn cols(&self) -> u64 {
        match &self.form {
            Form::Mxfp4(blocks) => blocks.matrix().1,
            Form::Rows | Form::Columns(_) => self.tensor.matrix().1,
        }
    }

    /// Appends rows of the foreign tensor to `out`; `bytes` is a workspace.
    fn read(
        &self,
        tensors: &Tensors,
        first: u64,
        count: u64,
        bytes: &mut Vec<u8>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        match &self.form {
            Form::Mxfp4(blocks) => blocks.read(tensors, first, count, bytes, out),
            Form::Rows | Form::Columns(_) => {
                tensors.read_f32(self.tensor, first, count, bytes, out)
            }
        }
    }
}

impl Part<'_> {
    /// Rows of the foreign tensor as blocks of GGUF into `out`; the tensor has such blocks.
    ///
    /// # Errors
    /// I/O, memory.
    pub fn read_blocks(
        &self,
        tensors: &Tensors,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match &self.form {
            Form::Mxfp4(blocks) => blocks.read_blocks(tensors, first, count, out),
            Form::Rows | Form::Columns(_) => tensors.read_blocks(self.tensor, first, count, out),
        }
    }
}

/// The last dimension but one of a matrix or a stack, which are its inputs where it is transposed.
pub fn inputs(t: &Tensor) -> u64 {
    match t.shape[..] {
        [.., rows, _] => rows.max(1),
        _ => 1,
    }
}

/// Rows that are read in one go.
pub struct Run<'a> {
    /// What they are rows of.
    pub part: &'a Part<'a>,
    /// The rows.
    pub rows: Picked<'a>,
}

impl Run<'_> {
    /// Appends the values of the rows to `out`; `bytes` and `read` are workspaces.
    ///
    /// # Errors
    /// I/O, memory; Invalid for a type without values.
    pub fn read(
        &self,
        tensors: &Tensors,
        bytes: &mut Vec<u8>,
        read: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let part = self.part;
        if let Form::Columns(c) = part.form {
            return columns(tensors, part.tensor, c, &self.rows, bytes, read, out);
        }
        match self.rows {
            Picked::Span(from, n) => part.read(tensors, from, n, bytes, out),
            Picked::List(list, low, high) => {
                let cols = part.cols() as usize;
                read.clear();
                part.read(tensors, low, high - low + 1, bytes, read)?;
                for &r in list {
                    let row = (u64::from(r) - low) as usize * cols;
                    out.extend_from_slice(&read[row..row + cols]);
                }
                Ok(())
            }
        }
    }
}

/// Which rows.
pub enum Picked<'a> {
    /// First row and number of rows.
    Span(u64, u64),
    /// These rows, all between the two.
    List(&'a [u32], u64, u64),
}

impl Picked<'_> {
    /// Calls `f` with every row, in order.
    pub fn each(&self, mut f: impl FnMut(u64)) {
        match self {
            Picked::Span(from, n) => (*from..from + n).for_each(f),
            Picked::List(list, ..) => list.iter().for_each(|&r| f(r.into())),
        }
    }
}

/// Appends rows of a transposed tensor, that is columns, to `out`; `read` and `bytes` are workspaces.
fn columns(
    tensors: &Tensors,
    t: &Tensor,
    c: Columns,
    rows: &Picked,
    bytes: &mut Vec<u8>,
    read: &mut Vec<f32>,
    out: &mut Vec<f32>,
) -> Result<()> {
    let cols = t.matrix().1;
    let (low, high) = match *rows {
        Picked::Span(from, n) => (from, from + n),
        Picked::List(_, low, high) => (low, high + 1),
    };
    let (base, width) = (out.len(), c.count as usize);
    let mut count = 0;
    rows.each(|_| count += 1);
    out.resize(base + count * width, 0.0);
    for stack in low / cols..high.div_ceil(cols) {
        // The columns of this matrix that lie between the first and the last wanted one.
        let from = low.max(stack * cols);
        let to = high.min((stack + 1) * cols);
        for i in 0..c.count {
            read.clear();
            let row = stack * c.period + c.first + i;
            tensors.read_columns(t, row, from - stack * cols, to - from, bytes, read)?;
            let mut place = base + i as usize;
            rows.each(|r| {
                if (from..to).contains(&r) {
                    out[place] = read[(r - from) as usize];
                }
                place += width;
            });
        }
    }
    Ok(())
}

/// The reads that make stored rows `first..first + count`. Listed rows are read as one span where that span is not much larger than
/// the list: permutations stay within a head.
pub fn runs<'a>(parts: &'a [Part<'a>], first: u64, count: u64) -> impl Iterator<Item = Run<'a>> {
    let last = first + count;
    parts.iter().flat_map(move |part| {
        let from = first.max(part.first);
        let to = last.min(part.first + part.count);
        let mut out = Vec::new();
        if from < to {
            let (a, b) = (from - part.first, to - part.first);
            match part.list {
                None => out.push(Run {
                    part,
                    rows: Picked::Span(a, b - a),
                }),
                Some(list) => {
                    let list = &list[a as usize..b as usize];
                    // Parts of a fused matrix.
                    if list.windows(2).all(|w| w[1].checked_sub(w[0]) == Some(1)) {
                        out.push(Run {
                            part,
                            rows: Picked::Span(list[0].into(), list.len() as u64),
                        });
                        return out;
                    }
                    let bounds = |l: &[u32]| {
                        let low = l.iter().min().copied().unwrap_or(0);
                        (
                            u64::from(low),
                            u64::from(l.iter().max().copied().unwrap_or(low)),
                        )
                    };
                    // Pieces of a panel at least, so that a span is never much more than what is needed. Columns cost a read for every
                    // value of one, however many are read together.
                    let dense = |l: &[u32]| {
                        let (low, high) = bounds(l);
                        high - low < 4 * l.len() as u64
                    };
                    let length = match part.form {
                        Form::Columns(_) if dense(list) => list.len(),
                        _ => PANEL_ROWS,
                    };
                    for piece in list.chunks(length) {
                        let (low, high) = bounds(piece);
                        if dense(piece) {
                            out.push(Run {
                                part,
                                rows: Picked::List(piece, low, high),
                            });
                        } else {
                            out.extend(piece.iter().map(|&r| Run {
                                part,
                                rows: Picked::Span(r.into(), 1),
                            }));
                        }
                    }
                }
            }
        }
        out
    })
}

/// The part and its foreign row that a stored row comes from.
///
/// # Panics
/// If there are no parts.
pub fn part_of<'a>(parts: &'a [Part<'a>], row: u64) -> (&'a Part<'a>, u64) {
    let part = parts
        .iter()
        .find(|p| (p.first..p.first + p.count).contains(&row))
        .unwrap_or(&parts[0]);
    let local = row.saturating_sub(part.first);
    let foreign = part
        .list
        .and_then(|l| l.get(local as usize))
        .map_or(local, |&r| r.into());
    (part, foreign)
}

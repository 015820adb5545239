//! What becomes of the foreign tensors: for every stored tensor, which foreign rows it is made of and how they are changed.
//!
//! A stored tensor is a concatenation of [`Source`]s along its rows. A stored vector counts as a matrix with one column, so that one row
//! map serves a weight and its bias; its sources are all values of the foreign tensor in order, whatever its shape.

use crate::spec::{Spec, TensorKey};

/// Everything the importer needs to know about a model.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model.
    pub spec: Spec,
    /// One entry for every tensor of [`Spec::tensors`], in any order.
    pub tensors: Vec<TensorPlan>,
    /// Foreign tensors that are known and not needed; the importer names them once.
    pub skipped: Vec<Skip>,
}

/// How one stored tensor is made.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// Which stored tensor.
    pub key: TensorKey,
    /// Its parts, one after another along the rows.
    pub sources: Vec<Source>,
}

/// Some rows of one foreign tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Name of the foreign tensor.
    pub name: String,
    /// How outputs and inputs lie in it.
    pub layout: Layout,
    /// Which of its outputs, in the order in which they are stored.
    pub rows: Rows,
    /// What every value goes through.
    pub function: Function,
    /// Multiplier of every value after that.
    pub scale: f32,
    /// Added to every value (1 where a norm stores w for 1 + w).
    pub add: f32,
}

/// A function of one value, computed in f64 and rounded once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Function {
    /// The value itself.
    #[default]
    Identity,
    /// `-exp(x)`: where the logarithm of a rate of decay is stored.
    MinusExp,
}

impl Function {
    /// Its value.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Function::Identity => x,
            Function::MinusExp => -libm::exp(f64::from(x)) as f32,
        }
    }
}

/// How the outputs and inputs of a matrix, or of every matrix of a stack, lie in a foreign tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// Outputs are rows, inputs are columns.
    Rows,
    /// Inputs are rows, outputs are columns.
    Transposed,
    /// As [`Layout::Transposed`], for matrices of `period` rows one below the other, of which only the rows from `first` on, `count` of them, are
    /// inputs; goes with all rows.
    TransposedPart {
        /// Rows of one matrix.
        period: u32,
        /// The first input.
        first: u32,
        /// Inputs.
        count: u32,
    },
    /// Outputs are rows of 4-bit floats in blocks of 32, 16 bytes each (the last dimension); the tensor of this name has an exponent for
    /// every block (OCP Microscaling Formats 1.0, MXFP4).
    Mxfp4 {
        /// The tensor of the exponents.
        scales: String,
    },
}

/// A selection of rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// All of them in order.
    All,
    /// Those with these indices, in this order.
    List(Vec<u32>),
}

/// Foreign tensors that are left out on purpose.
#[derive(Clone, Debug, PartialEq)]
pub struct Skip {
    /// Exact name, or a prefix where it ends with `*`.
    pub pattern: String,
    /// Why, for the person who imports.
    pub reason: &'static str,
}

impl Source {
    /// All rows of a tensor, unchanged.
    pub fn all(name: impl Into<String>) -> Source {
        Source {
            name: name.into(),
            layout: Layout::Rows,
            rows: Rows::All,
            function: Function::Identity,
            scale: 1.0,
            add: 0.0,
        }
    }

    /// The given rows of a tensor.
    pub fn rows(name: impl Into<String>, rows: Vec<u32>) -> Source {
        Source {
            rows: Rows::List(rows),
            ..Source::all(name)
        }
    }

    /// Whether values are stored as they are.
    pub fn unchanged(&self) -> bool {
        self.function == Function::Identity && self.scale == 1.0 && self.add == 0.0
    }

    /// The stored value of a foreign one.
    pub fn value(&self, x: f32) -> f32 {
        self.function.of(x) * self.scale + self.add
    }
}

impl Skip {
    /// Whether this entry covers the tensor.
    pub fn covers(&self, name: &str) -> bool {
        match self.pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == self.pattern,
        }
    }
}

/// The order in which rows of `heads` heads of `head_dim`, whose first `dim` rows are interleaved pairs (2k, 2k+1), become half-split
/// pairs (k, k + dim/2): entry i is the foreign row that is stored as row i.
pub fn interleaved_to_half_split(heads: u32, head_dim: u32, dim: u32) -> Vec<u32> {
    let mut rows = Vec::with_capacity((heads * head_dim) as usize);
    for h in 0..heads {
        let base = h * head_dim;
        rows.extend((0..dim / 2).map(|k| base + 2 * k));
        rows.extend((0..dim / 2).map(|k| base + 2 * k + 1));
        rows.extend((dim..head_dim).map(|d| base + d));
    }
    rows
}

//! Hidden vectors instead of logits, and what becomes of a pooled one.

use super::ends::Projection;
use super::engine::{Engine, Output, Step};
use crate::error::Result;
use crate::ops::Context;

/// Hidden vectors of the wanted positions, behind the norm after the last layer: in the order of the steps, then of the positions.
pub struct Hidden<'a> {
    data: &'a [f32],
    width: usize,
    rows: usize,
}

impl Hidden<'_> {
    /// How many positions were wanted.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The `hidden` values of one position.
    pub fn row(&self, i: usize) -> &[f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        &self.data[i * self.width..][..self.width]
    }
}

impl Engine {
    /// Runs one ragged batch and returns the wanted hidden vectors.
    ///
    /// # Errors
    /// As [`Engine::forward`], but for the head.
    pub fn hidden(&mut self, steps: &mut [Step<'_>]) -> Result<Hidden<'_>> {
        let rows = self.output(steps, Output::Hidden)?;
        Ok(self.all_hidden(rows))
    }

    /// The rows that a pass has left in the workspace.
    pub(super) fn all_hidden(&self, rows: usize) -> Hidden<'_> {
        Hidden {
            data: &self.work.logits,
            width: self.model.spec().hidden as usize,
            rows,
        }
    }

    /// A pooled vector behind the model's projections.
    ///
    /// # Panics
    /// If it is not as wide as the stream.
    pub fn project(&mut self, pooled: &[f32]) -> Vec<f32> {
        let model = self.model.clone();
        let mut x = pooled.to_vec();
        for projection in &model.projections {
            x = self.apply(projection, &x);
        }
        x
    }

    /// What the pooler makes of the first hidden vector, if the model has one.
    ///
    /// # Panics
    /// If it is not as wide as the stream.
    pub fn pool(&mut self, first: &[f32]) -> Option<Vec<f32>> {
        let model = self.model.clone();
        let pooler = model.pooler.as_ref()?;
        Some(self.apply(pooler, first))
    }

    fn apply(&mut self, projection: &Projection, x: &[f32]) -> Vec<f32> {
        let (kernels, work) = (self.kernels, &mut self.work);
        assert_eq!(x.len(), projection.matrix.cols(), "width of the vector");
        let mut out = Vec::new();
        self.team.run(|crew| {
            let ctx = Context {
                crew,
                kernels,
                scratch: &work.scratch,
            };
            out = projection.forward(&ctx, x, &mut work.input);
        });
        out
    }
}

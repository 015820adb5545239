//! Recurrent state: what a branch remembers of all earlier tokens in a fixed number of f32 values.
//!
//! A state is cut into units of the same length, each behind a lock of its own: in a phase one job works on one unit. It starts as zeros,
//! is allocated when the first token comes, and never grows. What it was a few tokens ago is not kept, so a sequence with a
//! state goes back to its beginning or not at all.

use crate::error::{Error, Result, out_of_memory};
use std::sync::Mutex;

/// Size of one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateShape {
    /// Parts that jobs work on independently.
    pub units: usize,
    /// Values of one unit.
    pub unit_len: usize,
}

/// One state of a sequence.
pub struct State {
    shape: StateShape,
    /// Empty until the first token.
    units: Vec<Mutex<Vec<f32>>>,
}

impl State {
    pub(super) fn new(shape: StateShape) -> State {
        State {
            shape,
            units: Vec::new(),
        }
    }

    /// Runs `f` on the values of one unit, which must have been reserved.
    pub fn write<R>(&self, unit: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        f(&mut self.units[unit].lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Makes sure that the memory is there.
    ///
    /// # Errors
    /// There is not enough of it.
    pub(super) fn reserve(&mut self) -> Result<()> {
        let StateShape { units, unit_len } = self.shape;
        if self.units.len() == units {
            return Ok(());
        }
        let no_memory = |_| match units.checked_mul(unit_len).and_then(|n| n.checked_mul(4)) {
            Some(bytes) => out_of_memory("the recurrent state", bytes),
            None => Error::limit("a recurrent state is larger than the address space"),
        };
        let mut made = Vec::new();
        made.try_reserve_exact(units).map_err(no_memory)?;
        for _ in 0..units {
            let mut unit = Vec::new();
            unit.try_reserve_exact(unit_len).map_err(no_memory)?;
            unit.resize(unit_len, 0.0);
            made.push(Mutex::new(unit));
        }
        self.units = made;
        Ok(())
    }

    /// Back to the beginning.
    pub(super) fn clear(&mut self) {
        self.units = Vec::new();
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.units.len() * self.shape.unit_len * size_of::<f32>()
    }
}

//! Recurrent state: what a branch remembers of all earlier tokens in a fixed number of f32 values.
//!
//! A state is cut into units of the same length, each behind a lock of its own: in a phase one job works on one unit. It starts as zeros,
//! is allocated when the first token comes, and never grows. What it was a few tokens ago is kept only where the sequence was told to: it goes
//! back to such a [`Mark`], to its beginning, or not at all.

use crate::error::{Error, Result, out_of_memory};
use std::io::{Read, Write};
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

    /// A state of the same shape at its beginning.
    pub(super) fn like(&self) -> State {
        State::new(self.shape)
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

    /// All values, unit by unit, behind those that are in `out`.
    pub(super) fn copy_to(&mut self, out: &mut Vec<f32>) {
        for unit in &mut self.units {
            out.extend_from_slice(unit.get_mut().unwrap_or_else(|e| e.into_inner()));
        }
    }

    /// Takes its values, as [`State::copy_to`] gives them, from the front of `values`. There are as many.
    pub(super) fn copy_from(&mut self, values: &mut &[f32]) {
        for unit in &mut self.units {
            let unit = unit.get_mut().unwrap_or_else(|e| e.into_inner());
            let (own, rest) = values.split_at(unit.len());
            unit.copy_from_slice(own);
            *values = rest;
        }
    }

    /// Bytes of all values once there are some; none if there is no such number.
    pub(super) fn shape_bytes(&self) -> Option<u64> {
        let values = self.shape.units.checked_mul(self.shape.unit_len)?;
        u64::try_from(values.checked_mul(size_of::<f32>())?).ok()
    }

    /// Writes all values, unit by unit, little-endian.
    pub(super) fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for unit in &self.units {
            let unit = unit.lock().unwrap_or_else(|e| e.into_inner());
            bytes.clear();
            bytes.extend(unit.iter().flat_map(|x| x.to_le_bytes()));
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Reads what [`State::write_to`] wrote; the memory has been reserved.
    pub(super) fn read_from(&mut self, input: &mut dyn Read) -> std::io::Result<()> {
        let mut bytes = [0; 4];
        for unit in &mut self.units {
            for x in unit.get_mut().unwrap_or_else(|e| e.into_inner()) {
                input.read_exact(&mut bytes)?;
                *x = f32::from_le_bytes(bytes);
            }
        }
        Ok(())
    }

    /// Values in use.
    pub(super) fn values(&self) -> usize {
        self.units.len() * self.shape.unit_len
    }

    /// Back to the beginning.
    pub(super) fn clear(&mut self) {
        self.units = Vec::new();
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.values() * size_of::<f32>()
    }
}

/// What all states of a sequence were after some tokens.
pub(super) struct Mark {
    /// How many tokens.
    pub len: usize,
    /// The values of all states, one after another.
    pub values: Vec<f32>,
}

impl Mark {
    /// The states as they are now, after `len` tokens, in memory that may have been used before.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn of(states: &mut [State], len: usize, mut values: Vec<f32>) -> Result<Mark> {
        let count: usize = states.iter().map(State::values).sum();
        values.clear();
        let no_memory = |_| out_of_memory("a copy of the recurrent state", 4 * count);
        values.try_reserve_exact(count).map_err(no_memory)?;
        for state in states {
            state.copy_to(&mut values);
        }
        Ok(Mark { len, values })
    }

    /// Makes the states what they were.
    pub fn restore(&self, states: &mut [State]) {
        let mut values = &self.values[..];
        for state in states {
            state.copy_from(&mut values);
        }
    }
}

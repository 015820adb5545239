//! What a template may use up: work, memory, depth.
//!
//! Work is counted in units of roughly ten nanoseconds (see [`Budget::work`]). Memory is what the values of a rendering hold at a time:
//! every text, list and dictionary takes a [`Hold`] when it is made, which gives back when it goes. Both limits grow with the size of
//! the conversation, so that a long one is not refused and a small one cannot take long.

use crate::error::{Error, Result};
use std::cell::Cell;
use std::rc::Rc;

/// Units of work for any conversation. Measured with 18 hostile templates (optimized, on a 2-core x86-64 virtual machine of which ten other processes
/// had their share): one that uses them up ends after 0.3 to 2 s.
const WORK: u64 = 40_000_000;
/// Further units for each byte of the conversation: a template may look at it as often as it has messages.
const WORK_PER_BYTE: u64 = 256;
/// Bytes that values may hold for any conversation.
const MEMORY: usize = 128 << 20;
/// Further bytes for each byte of the conversation.
const MEMORY_PER_BYTE: usize = 16;
/// Depth of evaluation, counted by expressions, blocks and macros that are inside each other. One level takes less than 2 KiB of stack in
/// any profile (a test renders to this depth in a thread of 2 MiB).
const DEPTH: u32 = 600;
/// Containers inside each other; JSON that is read has at most 128 levels. Dropping and printing recurse.
pub const MAX_NESTING: u32 = 200;

/// The counters of one rendering.
#[derive(Debug)]
pub struct Budget {
    work: Cell<u64>,
    memory: Cell<usize>,
    depth: Cell<u32>,
}

impl Budget {
    /// For a conversation of so many bytes.
    pub fn new(input: usize) -> Rc<Self> {
        let more = WORK_PER_BYTE.saturating_mul(input as u64);
        Rc::new(Budget {
            work: Cell::new(WORK.saturating_add(more)),
            memory: Cell::new(MEMORY.saturating_add(MEMORY_PER_BYTE.saturating_mul(input))),
            depth: Cell::new(DEPTH),
        })
    }

    /// Uses up units: 4 for each node of the program, 1 for each element of a container that is looked at, 1 for 64 bytes of text.
    ///
    /// # Errors
    /// Limit when nothing is left.
    #[inline]
    pub fn work(&self, units: usize) -> Result<()> {
        match self.work.get().checked_sub(units as u64) {
            Some(left) => {
                self.work.set(left);
                Ok(())
            }
            None => {
                self.work.set(0);
                Err(Error::limit(
                    "the template does more work than a conversation of this size needs",
                ))
            }
        }
    }

    /// Work on so many bytes of text.
    ///
    /// # Errors
    /// As [`Budget::work`].
    #[inline]
    pub fn bytes(&self, n: usize) -> Result<()> {
        self.work(1 + n / 64)
    }

    /// Whether a value of so many bytes may be made.
    ///
    /// # Errors
    /// Limit if not.
    #[inline]
    pub fn room(&self, bytes: usize) -> Result<()> {
        match bytes <= self.memory.get() {
            true => Ok(()),
            false => Err(Error::limit(
                "the template holds more text than a conversation of this size needs",
            )),
        }
    }

    /// Takes memory for a value.
    ///
    /// # Errors
    /// Limit if there is not so much.
    pub fn hold(self: &Rc<Self>, bytes: usize) -> Result<Hold> {
        self.room(bytes)?;
        self.memory.set(self.memory.get() - bytes);
        Ok(Hold {
            budget: self.clone(),
            bytes,
        })
    }

    /// One level deeper; every `enter` that succeeds has its [`Budget::leave`].
    ///
    /// # Errors
    /// Limit at the greatest depth.
    #[inline]
    pub fn enter(&self) -> Result<()> {
        match self.depth.get().checked_sub(1) {
            Some(left) => {
                self.depth.set(left);
                Ok(())
            }
            None => Err(Error::limit(format_args!(
                "the template is more than {DEPTH} levels deep in macros, blocks and expressions"
            ))),
        }
    }

    /// Back one level.
    #[inline]
    pub fn leave(&self) {
        self.depth.set(self.depth.get() + 1);
    }
}

/// Memory of a value; dropping it gives the memory back.
#[derive(Debug)]
pub struct Hold {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Hold {
    /// Takes more.
    ///
    /// # Errors
    /// Limit if there is not so much.
    #[inline]
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        self.budget.room(bytes)?;
        self.budget.memory.set(self.budget.memory.get() - bytes);
        self.bytes += bytes;
        Ok(())
    }

    /// Whose memory it is.
    pub fn budget(&self) -> &Rc<Budget> {
        &self.budget
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let memory = &self.budget.memory;
        memory.set(memory.get() + self.bytes);
    }
}

//! Guesses from the text itself: what followed the last time that it said the same.
//!
//! ```text
//! ids     ... the mill stream | runs past ... the mill stream | ?
//!                             ^ at             guesses: runs past ...
//! ```
//! An index maps every pair of ids to where it ended last, and each such place to the one before it, so an id costs one entry and a question some
//! comparisons, however long the text is. Of the places with the same last pair the one with the longest common past is taken, the latest of
//! equals. A guess may read what was guessed before it: a text that repeats itself goes on doing so.

use crate::error::{Error, Result};
use std::collections::HashMap;

/// Places that are compared: those further back rarely say more.
const PLACES: usize = 32;
/// Ids of the past that are compared.
const PAST: usize = 32;
/// No earlier place.
const NONE: u32 = u32::MAX;

/// Where the text said the same before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The position of what followed.
    pub at: usize,
    /// How many ids before it are equal to the last ones of the text; at least 2, at most 32.
    pub past: usize,
}

impl Place {
    /// What followed, `n` ids of it.
    pub fn guesses(self, ids: &[u32], n: usize) -> Vec<u32> {
        let mut guesses: Vec<u32> = Vec::with_capacity(n);
        for i in self.at..self.at + n {
            let id = match ids.get(i) {
                Some(id) => *id,
                None => guesses[i - ids.len()],
            };
            guesses.push(id);
        }
        guesses
    }
}

/// The index of one text.
#[derive(Default)]
pub struct Lookup {
    /// Pairs of ids, and the latest position after each.
    last: HashMap<(u32, u32), u32>,
    /// For every position, the one before it that follows the same pair.
    earlier: Vec<u32>,
}

impl Lookup {
    /// An index of nothing.
    pub fn new() -> Lookup {
        Lookup::default()
    }

    /// Where these ids said before what they say at their end. They begin with those of the last call.
    ///
    /// # Errors
    /// There is not enough memory for the index.
    pub fn find(&mut self, ids: &[u32]) -> Result<Option<Place>> {
        self.index(ids)?;
        let Some(&[a, b]) = ids.last_chunk() else {
            return Ok(None);
        };
        let mut place = self.last.get(&(a, b)).copied().unwrap_or(NONE);
        let mut best: Option<Place> = None;
        for _ in 0..PLACES {
            if place == NONE {
                break;
            }
            let at = place as usize;
            let pairs = ids[..at].iter().rev().zip(ids.iter().rev());
            let past = pairs.take(PAST).take_while(|(a, b)| a == b).count();
            if best.is_none_or(|best| past > best.past) {
                best = Some(Place { at, past });
            }
            if past == PAST {
                break;
            }
            place = self.earlier[at];
        }
        Ok(best)
    }

    /// Adds all positions but the end, which nothing follows yet.
    fn index(&mut self, ids: &[u32]) -> Result<()> {
        let (from, to) = (self.earlier.len(), ids.len());
        let new = to.saturating_sub(from);
        let no_memory = |_| Error::limit("not enough memory for the index of --lookup");
        self.earlier.try_reserve(new).map_err(no_memory)?;
        self.last.try_reserve(new).map_err(no_memory)?;
        for at in from..to {
            let earlier = match at {
                0 | 1 => None,
                _ => self.last.insert((ids[at - 2], ids[at - 1]), at as u32),
            };
            self.earlier.push(earlier.unwrap_or(NONE));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_past_wins_then_the_latest() {
        let mut lookup = Lookup::new();
        assert_eq!(lookup.find(&[]).unwrap(), None);
        assert_eq!(lookup.find(&[1]).unwrap(), None);
        //         0  1  2  3  4  5  6  7  8  9 10 11
        let ids = [9, 1, 2, 7, 8, 1, 2, 6, 9, 1, 2];
        let place = lookup.find(&ids).unwrap().unwrap();
        assert_eq!((place.at, place.past), (3, 3));
        assert_eq!(place.guesses(&ids, 3), [7, 8, 1]);
        let ids = [&ids[..], &[4, 1, 2]].concat();
        let place = lookup.find(&ids).unwrap().unwrap();
        assert_eq!((place.at, place.past), (11, 2));
        let ids = [&ids[..], &[55]].concat();
        assert_eq!(lookup.find(&ids).unwrap(), None);
    }

    #[test]
    fn a_loop_goes_on_as_long_as_it_is_asked_to() {
        let ids = [5, 1, 2, 3, 1, 2, 3, 1, 2];
        let place = Lookup::new().find(&ids).unwrap().unwrap();
        assert_eq!(place, Place { at: 6, past: 5 });
        assert_eq!(place.guesses(&ids, 7), [3, 1, 2, 3, 1, 2, 3]);
        let same = [4; 10];
        let place = Lookup::new().find(&same).unwrap().unwrap();
        assert_eq!(place.guesses(&same, 3), [4, 4, 4]);
    }

    proptest! {
        /// Asked after every id or only at the end, the index says what a search of the whole text says.
        #[test]
        fn the_index_finds_what_a_search_finds(ids in prop::collection::vec(0u32..3, 0..60)) {
            let mut lookup = Lookup::new();
            let mut step = Lookup::new();
            for n in 0..ids.len() {
                step.find(&ids[..n]).unwrap();
            }
            let found = lookup.find(&ids).unwrap();
            prop_assert_eq!(step.find(&ids).unwrap(), found);
            let past = |at: &usize| {
                let pairs = ids[..*at].iter().rev().zip(ids.iter().rev());
                pairs.take_while(|(a, b)| a == b).count().min(PAST)
            };
            let places = (2..ids.len()).filter(|at| past(at) >= 2);
            let latest: Vec<usize> = places.rev().take(PLACES).collect();
            // Of equals max_by_key takes the last one, here the latest.
            let best = latest.iter().rev().max_by_key(|at| past(at));
            prop_assert_eq!(found, best.map(|at| Place { at: *at, past: past(at) }));
        }
    }
}

//! What was there before: the ids of prompt and text, and penalties for those among the last ones.

use std::collections::BTreeMap;

/// All ids so far, and how often each occurs among the last.
pub(super) struct History {
    ids: Vec<u32>,
    window: Option<usize>,
    counts: BTreeMap<u32, u32>,
}

impl History {
    /// Nothing yet; counts are kept of the last `window`, or of all.
    pub fn new(window: Option<usize>) -> History {
        History {
            ids: Vec::new(),
            window,
            counts: BTreeMap::new(),
        }
    }

    /// One more.
    pub fn push(&mut self, id: u32) {
        self.ids.push(id);
        *self.counts.entry(id).or_default() += 1;
        let Some(window) = self.window else { return };
        let out = self.ids.len().checked_sub(window + 1);
        if let Some(old) = out.and_then(|at| self.ids.get(at))
            && let Some(count) = self.counts.get_mut(old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(old);
            }
        }
    }

    /// Ids among the last with their counts.
    pub fn counts(&self) -> &BTreeMap<u32, u32> {
        &self.counts
    }

    /// The last `n` ids, or all.
    pub fn last(&self, n: Option<usize>) -> &[u32] {
        let from = n.map_or(0, |n| self.ids.len().saturating_sub(n));
        &self.ids[from..]
    }
}

/// The repetition penalty of Keskar et al. 2019 (CTRL) as everybody has it, then presence and frequency.
pub(super) fn penalized(x: f32, count: u32, repeat: f32, presence: f32, frequency: f32) -> f32 {
    let repeated = if x > 0.0 { x / repeat } else { x * repeat };
    repeated - (count as f32 * frequency + presence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_last() {
        let ids = [3, 5, 3, 3, 9, 5, 1, 1, 3];
        for window in [Some(0), Some(1), Some(2), Some(4), Some(100), None] {
            let mut history = History::new(window);
            for n in 0..ids.len() {
                history.push(ids[n]);
                let from = window.map_or(0, |w| (n + 1).saturating_sub(w));
                let mut expected = BTreeMap::new();
                for &id in &ids[from..=n] {
                    *expected.entry(id).or_insert(0) += 1;
                }
                assert_eq!(history.counts(), &expected, "{window:?} at {n}");
                assert_eq!(history.last(window), &ids[from..=n]);
            }
        }
    }

    #[test]
    fn penalties_by_hand() {
        assert_eq!(penalized(4.0, 1, 2.0, 0.0, 0.0), 2.0);
        assert_eq!(penalized(-4.0, 3, 2.0, 0.0, 0.0), -8.0);
        assert_eq!(penalized(4.0, 3, 1.0, 0.5, 0.25), 4.0 - 0.75 - 0.5);
        assert_eq!(penalized(-1.0, 2, 2.0, -0.5, 0.0), -1.5);
    }
}

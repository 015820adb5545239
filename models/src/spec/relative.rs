//! A learned bias of scores that depends on the distance of a key.

use super::{bound, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A learned bias per head and bucket of distances (Raffel et al. 2020) that is added to the score of a key at position j for the query at
/// position i. With n buckets for one direction and m = n / 2: a distance d < m has a bucket of its own, a longer one the bucket
/// `min(n - 1, m + floor(ln(d / m) / ln(max_distance / m) * (n - m)))`.
///
/// The table is stored head by head, the buckets of a head in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelativeBias {
    /// Buckets of all distances together.
    pub buckets: u32,
    /// The distance from which on all distances are alike.
    pub max_distance: u32,
    /// Whether keys after the query have the second half of the buckets; else they all count as distance 0.
    pub both_ways: bool,
}

impl RelativeBias {
    /// Buckets of one direction.
    pub fn one_way(&self) -> u32 {
        if self.both_ways {
            self.buckets / 2
        } else {
            self.buckets
        }
    }

    /// The bucket of a distance within its direction.
    pub fn bucket(&self, distance: u32) -> u32 {
        let n = self.one_way();
        let m = n / 2;
        if distance < m {
            return distance;
        }
        let ratio = |d: u32| libm::log(f64::from(d) / f64::from(m));
        let steps = ratio(distance) / ratio(self.max_distance) * f64::from(n - m);
        // What is too large for a u32 becomes the largest one.
        (n - 1).min(m.saturating_add(steps as u32))
    }

    /// The first distance of every bucket of one direction, ascending; that of a bucket without distances is the one of the next.
    pub fn starts(&self) -> Vec<u32> {
        let first = |bucket| {
            // No bucket begins beyond the longest distance that differs from the next.
            let (mut low, mut high) = (0, self.max_distance);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.bucket(middle) < bucket {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            low
        };
        (0..self.one_way()).map(first).collect()
    }

    pub(super) fn validate(&self, place: &str) -> Result<()> {
        let place = format!("{place}: relative");
        within(&place, "buckets", self.buckets, bound::BUCKETS)?;
        within(&place, "max_distance", self.max_distance, bound::CONTEXT)?;
        let half = self.one_way() / 2;
        if half == 0 || (self.both_ways && !self.buckets.is_multiple_of(2)) {
            return Err(Error::new(format_args!(
                "{place}: buckets is {}, expected at least two per direction, and an even number for both",
                self.buckets
            )));
        }
        if self.max_distance <= half {
            return Err(Error::new(format_args!(
                "{place}: max_distance is {}, expected more than the {half} distances with a bucket of their own",
                self.max_distance
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_the_usual_table() {
        let both = RelativeBias {
            buckets: 32,
            max_distance: 128,
            both_ways: true,
        };
        // 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5: the powers of the root of 2; 16, 32 and 64 are exact.
        let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        assert_eq!(both.starts(), expected);
        for (bucket, &start) in expected.iter().enumerate() {
            assert_eq!(both.bucket(start), bucket as u32);
            assert_eq!(
                both.bucket(start.saturating_sub(1)),
                (bucket as u32).saturating_sub(1)
            );
        }
        assert_eq!(both.bucket(u32::MAX), 15);
        let one = RelativeBias {
            both_ways: false,
            ..both
        };
        assert_eq!(one.starts()[..17], (0..17).collect::<Vec<u32>>()[..]);
        assert_eq!(one.bucket(127), 31);
        assert_eq!(one.starts()[31], 113);
    }

    #[test]
    fn starts_ascend_for_odd_tables() {
        for (buckets, max_distance) in [(2, 2), (3, 7), (64, 33), (5, 1 << 28), (4096, 1 << 20)] {
            let bias = RelativeBias {
                buckets,
                max_distance,
                both_ways: false,
            };
            bias.validate("here").unwrap();
            let starts = bias.starts();
            assert!(starts.is_sorted(), "{bias:?}");
            assert!(starts.iter().all(|d| *d <= max_distance), "{bias:?}");
        }
    }
}

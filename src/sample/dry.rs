//! DRY ("don't repeat yourself", p-e-w 2024): an id that would go on with a repetition is penalized the more, the longer the repetition is.
//!
//! Of the last ids, let `n` be the length of the longest run that ends just before an earlier occurrence of id `x` and is also the end of
//! all ids. If `n` is at least the allowed length, the logit of `x` loses `multiplier * base^(n - allowed)`. Runs do not reach across a sequence
//! breaker, and ids that are one by themselves are never penalized.

use std::collections::BTreeMap;

/// A breaker is cut up into at most so many ids behind its first.
const MOST_TAIL: usize = 20;
/// The longest text of a breaker, in bytes.
pub const LONGEST_BREAKER: usize = 40;
/// `base^x` stays below the greatest f32 up to `x = LOG_GREATEST / ln(base)`.
const LOG_GREATEST: f64 = 88.722_839_1;

/// Sequence breakers as ids: for each id that one may begin with, what follows it in each of the ways to write it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breakers {
    tails: BTreeMap<u32, Vec<Vec<u32>>>,
}

impl Breakers {
    /// Finds the ways in which these texts occur in a vocabulary of `n` ids: inside one token, or beginning at the end of one and going on
    /// with the ids of the rest. Empty texts, and what is beyond [`LONGEST_BREAKER`] bytes, break nothing.
    pub fn new(
        texts: &[String],
        n: u32,
        token_bytes: impl Fn(u32) -> Option<Vec<u8>>,
        encode: impl Fn(&str) -> Vec<u32>,
    ) -> Breakers {
        let mut breakers = Breakers::default();
        let usable = |t: &&String| !t.is_empty() && t.len() <= LONGEST_BREAKER;
        let texts: Vec<&String> = texts.iter().filter(usable).collect();
        for id in 0..n {
            let Some(token) = token_bytes(id) else {
                continue;
            };
            for text in &texts {
                let bytes = text.as_bytes();
                if token.windows(bytes.len()).any(|w| w == bytes) {
                    breakers.add(id, Vec::new());
                    continue;
                }
                for cut in (1..bytes.len()).filter(|&cut| token.ends_with(&bytes[..cut])) {
                    // A token that ends within a character has no text behind it.
                    if let Some(rest) = text.get(cut..) {
                        let mut tail = encode(rest);
                        tail.truncate(MOST_TAIL);
                        breakers.add(id, tail);
                    }
                }
            }
        }
        breakers
    }

    /// One more way: this id, then these.
    pub fn add(&mut self, head: u32, tail: Vec<u32>) {
        let tails = self.tails.entry(head).or_default();
        if !tails.contains(&tail) {
            tails.push(tail);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }

    fn is_one(&self, id: u32) -> bool {
        self.tails
            .get(&id)
            .is_some_and(|tails| tails.iter().any(Vec::is_empty))
    }

    /// How many of the last ids stand behind the last breaker.
    fn behind_last(&self, ids: &[u32]) -> usize {
        for (back, id) in ids.iter().rev().enumerate() {
            let Some(tails) = self.tails.get(id) else {
                continue;
            };
            let after = &ids[ids.len() - back..];
            let whole = tails.iter().filter(|tail| after.starts_with(tail));
            if let Some(longest) = whole.map(Vec::len).max() {
                return back - longest;
            }
        }
        ids.len()
    }
}

/// For each id that would go on with a repetition of at least `allowed` ids: the length of the longest.
pub(super) fn repetitions(
    ids: &[u32],
    allowed: usize,
    breakers: &Breakers,
) -> BTreeMap<u32, usize> {
    let mut longest = BTreeMap::new();
    let limit = breakers.behind_last(ids);
    if ids.len() <= allowed || limit < allowed {
        return longest;
    }
    let back: Vec<u32> = ids.iter().rev().copied().collect();
    for (k, n) in prefix_lengths(&back).into_iter().enumerate().skip(1) {
        let (n, id) = (n.min(limit), back[k - 1]);
        if n >= allowed && !breakers.is_one(id) {
            let known = longest.entry(id).or_insert(n);
            *known = n.max(*known);
        }
    }
    longest
}

/// For each position how long the text from there agrees with its beginning: the Z-function, in linear time.
fn prefix_lengths(text: &[u32]) -> Vec<usize> {
    let mut z = vec![0; text.len()];
    // text[from..to] agrees with the beginning, and no known agreement reaches further.
    let (mut from, mut to) = (0, 0);
    for i in 1..text.len() {
        let mut n = match i < to {
            true => z[i - from].min(to - i),
            false => 0,
        };
        while text.get(i + n).is_some_and(|x| *x == text[n]) {
            n += 1;
        }
        z[i] = n;
        if i + n > to {
            (from, to) = (i, i + n);
        }
    }
    z
}

/// What the logit loses.
pub(super) fn penalty(n: usize, allowed: usize, multiplier: f32, base: f32) -> f32 {
    let (base, exponent) = (f64::from(base), n.saturating_sub(allowed) as f64);
    let most = match base > 1.000_001 {
        true => libm::floor(LOG_GREATEST / libm::log(base)),
        false => f64::INFINITY,
    };
    let power = libm::pow(base, exponent.min(most));
    (f64::from(multiplier) * power).min(f64::from(f32::MAX)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Straight from the definition.
    fn naive(ids: &[u32], allowed: usize, breakers: &Breakers) -> BTreeMap<u32, usize> {
        let mut longest = BTreeMap::new();
        let limit = breakers.behind_last(ids);
        for at in 1..ids.len() {
            let mut n = 0;
            while n < at && ids[at - 1 - n] == ids[ids.len() - 1 - n] {
                n += 1;
            }
            let n = n.min(limit);
            if n >= allowed && ids.len() > allowed && !breakers.is_one(ids[at]) {
                let known = longest.entry(ids[at]).or_insert(0);
                *known = n.max(*known);
            }
        }
        longest
    }

    #[test]
    fn repetitions_by_hand() {
        // a b c d a b c: d would go on with three.
        let none = Breakers::default();
        assert_eq!(
            repetitions(&[1, 2, 3, 4, 1, 2, 3], 2, &none),
            BTreeMap::from([(4, 3)])
        );
        assert_eq!(
            repetitions(&[1, 2, 3, 4, 1, 2, 3], 4, &none),
            BTreeMap::new()
        );
        // a a a: a third a would go on with two.
        assert_eq!(repetitions(&[1, 1, 1], 2, &none), BTreeMap::from([(1, 2)]));
        // Behind a breaker there are only two ids, and of these is the repetition.
        let mut breakers = Breakers::default();
        breakers.add(1, Vec::new());
        let ids = [1, 2, 3, 4, 1, 2, 3];
        assert_eq!(repetitions(&ids, 2, &breakers), BTreeMap::from([(4, 2)]));
        assert_eq!(repetitions(&ids, 3, &breakers), BTreeMap::new());
        // A breaker itself is not penalized.
        assert_eq!(
            repetitions(&[2, 3, 1, 9, 2, 3], 2, &breakers),
            BTreeMap::new()
        );
        // A breaker of two ids counts only as a whole.
        let mut two = Breakers::default();
        two.add(1, vec![2]);
        assert_eq!(two.behind_last(&[1, 2, 3]), 1);
        assert_eq!(two.behind_last(&[1, 3, 3]), 3);
        assert_eq!(two.behind_last(&[1]), 1);
    }

    #[test]
    fn repetitions_equal_the_definition() {
        let mut state = 1u32;
        let mut random = move |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        for _ in 0..2000 {
            let kinds = 1 + random(4);
            let ids: Vec<u32> = (0..random(40)).map(|_| random(kinds)).collect();
            let mut breakers = Breakers::default();
            for _ in 0..random(3) {
                let tail = (0..random(3)).map(|_| random(5)).collect();
                breakers.add(random(6), tail);
            }
            let allowed = random(4) as usize;
            let expected = naive(&ids, allowed, &breakers);
            assert_eq!(
                repetitions(&ids, allowed, &breakers),
                expected,
                "{ids:?} {allowed} {breakers:?}"
            );
        }
    }

    #[test]
    fn the_penalty_grows_and_stays_a_number() {
        assert_eq!(penalty(2, 2, 0.8, 1.75), 0.8);
        assert_eq!(penalty(4, 2, 0.5, 2.0), 2.0);
        assert_eq!(penalty(1_000_000, 2, 0.8, 1.0), 0.8);
        let most = penalty(1_000_000, 2, 1.0, 1.75);
        assert!(most.is_finite() && most > 1e38);
        assert!(penalty(1_000_000, 2, f32::MAX, 1.75).is_finite());
    }

    #[test]
    fn breakers_are_found_inside_tokens_and_across_them() {
        let words = ["a", "b", "ab", "xa", "cab", "abc", "é"];
        let token = |id: u32| words.get(id as usize).map(|w| w.as_bytes().to_vec());
        let letters = |text: &str| text.bytes().map(u32::from).collect();
        let texts = ["abc".to_owned(), String::new(), "x".repeat(41)];
        let found = Breakers::new(&texts, 9, token, letters);
        let mut expected = Breakers::default();
        expected.add(0, vec![98, 99]);
        expected.add(2, vec![99]);
        expected.add(3, vec![98, 99]);
        expected.add(4, vec![99]);
        expected.add(5, vec![]);
        assert_eq!(found, expected);
        assert!(!found.is_empty() && Breakers::default().is_empty());
    }
}

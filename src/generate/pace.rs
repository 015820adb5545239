//! How many guesses a pass should carry, from what passes took and how often guesses came true.
//!
//! A pass over a few ids reads the weights once, as a pass over one does, so guesses are cheap where memory is what a pass waits for, and not where
//! arithmetic is. Nothing is assumed about that: the time of a pass of every size is measured, and the number of guesses is the one that
//! promises most ids per second.
//!
//! An account sees to it that guessing cannot cost much where it does not pay: what passes with guesses took longer than the same ids would
//! have taken without is drawn from it, a fixed share of all time is paid in, and without credit nothing is guessed.

use super::Checked;

/// Most guesses of one pass that can be asked for.
pub const MOST_GUESSES: usize = 64;

/// Sizes of passes that are told apart: some certain ids and guesses.
const SIZES: usize = MOST_GUESSES + 16;
/// Passes of one id that are measured before anything is guessed: the first ones after a prompt are not yet like those that follow.
const WARM_UP: usize = 2;
/// Share of all time that guesses may waste: with what is there at the beginning, and the one pass that finds out what guesses cost, it stays below 3%
/// of any text of a hundred ids.
const INCOME: f64 = 0.015;
/// Credit at the beginning, in passes of one id.
const ADVANCE: f64 = 0.25;
/// Most credit, in passes of one id: what was won is won, but a text that stops repeating shall not waste all of it.
const MOST_CREDIT: f64 = 8.0;
/// Most debt, likewise: one unlucky pass shall not end guessing for ever.
const MOST_DEBT: f64 = 2.0;
/// What an id more adds to a pass, in passes of one id, until something was measured: the weights are read once in any case.
const GUESS_COST: f64 = 0.1;
/// How much faster than without guesses a pass must promise to be: estimates are noisy.
const WORTH: f64 = 1.03;
/// Weight of a new measurement that is less than the estimate, and of one that is more: what disturbs a pass makes it longer.
const LESS: f64 = 0.3;
const MORE: f64 = 0.1;

/// Decides how many guesses a pass carries.
pub struct Pace {
    /// Seconds of a pass of so many ids; 0 where none was seen.
    times: [f64; SIZES + 1],
    plain: usize,
    /// In seconds.
    credit: f64,
    /// Whether all guesses of the last pass were wrong: the next one then carries none, and measures what a pass of one id takes now.
    wrong: bool,
    eager: bool,
}

impl Pace {
    /// One that has measured nothing yet.
    pub fn measured() -> Pace {
        Pace {
            times: [0.0; SIZES + 1],
            plain: 0,
            credit: 0.0,
            wrong: false,
            eager: false,
        }
    }

    /// One that takes guesses to cost nothing, so that the number of passes is the same in every run: to find out how much there is to guess.
    pub fn eager() -> Pace {
        Pace {
            eager: true,
            ..Pace::measured()
        }
    }

    /// How many guesses, at most `most`, the next pass should carry, if each comes true with probability `chance` where those before it did, and takes
    /// `each` seconds to make.
    pub fn guesses(&self, most: usize, chance: f64, each: f64) -> usize {
        let most = most.min(MOST_GUESSES);
        if self.eager {
            return most;
        }
        if self.wrong || self.plain < WARM_UP || self.credit <= 0.0 {
            return 0;
        }
        // Sizes that nobody has seen may be dear: the first pass with a guess has one, later ones at most twice as many as any before and one.
        let seen = (1..=SIZES).rev().find(|n| self.times[*n] > 0.0);
        let most = most.min(2 * seen.unwrap_or(1) - 1);
        let (mut best, mut fastest) = (0, WORTH / self.time(1));
        let (mut term, mut ids) = (1.0, 1.0);
        for n in 1..=most {
            term *= chance;
            ids += term;
            let rate = ids / (self.time(1 + n) + n as f64 * each);
            if rate > fastest {
                (best, fastest) = (n, rate);
            }
        }
        best
    }

    /// Takes note of a pass, and of the seconds that its guesses took to make.
    pub fn checked(&mut self, pass: &Checked, making: f64) {
        let size = (pass.certain + pass.proposed).min(SIZES);
        let mut seconds = pass.time.as_secs_f64();
        if size == 1 {
            self.plain += 1;
            if self.plain == WARM_UP {
                self.credit = ADVANCE * seconds;
            }
        }
        // A pass that was interrupted by something else says nothing about its size.
        let known = self.times[size];
        if known > 0.0 {
            seconds = seconds.min(1.5 * known);
            let weight = if seconds < known { LESS } else { MORE };
            self.times[size] += weight * (seconds - known);
        } else {
            if self.times[2..].iter().any(|t| *t > 0.0) {
                seconds = seconds.min(2.0 * self.time(size));
            }
            self.times[size] = seconds;
        }
        self.wrong = pass.proposed > 0 && pass.right == 0;
        if self.plain < WARM_UP {
            return;
        }
        let one = self.time(1);
        self.credit += INCOME * seconds;
        if pass.proposed > 0 || pass.again > 0 {
            let without = self.time(pass.certain - pass.again.min(pass.certain - 1));
            self.credit -= seconds + making - without - pass.right as f64 * one;
        }
        self.credit = self.credit.clamp(-MOST_DEBT * one, MOST_CREDIT * one);
    }

    /// Seconds that a pass of `size` ids takes: measured, or between or beyond what was.
    fn time(&self, size: usize) -> f64 {
        let size = size.min(SIZES);
        let known = |n: &usize| self.times[*n] > 0.0;
        if known(&size) {
            return self.times[size];
        }
        let one = self.times[1];
        let below = (1..size).rev().find(known);
        let above = (size + 1..=SIZES).find(known);
        match (below, above) {
            (Some(a), Some(b)) => {
                let share = (size - a) as f64 / (b - a) as f64;
                self.times[a] + share * (self.times[b] - self.times[a])
            }
            (Some(a), None) => {
                let slope = match a {
                    1 => GUESS_COST * one,
                    _ => ((self.times[a] - one) / (a - 1) as f64).max(0.0),
                };
                self.times[a] + slope * (size - a) as f64
            }
            (None, Some(b)) => self.times[b],
            (None, None) => 0.0,
        }
    }
}

/// How often guesses of one kind came true, lately.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    right: f64,
    all: f64,
    /// What is expected where nothing is known.
    prior: f64,
}

/// How many guesses the prior counts for.
const PRIOR_WEIGHT: f64 = 2.0;
/// What is left of the experience of earlier guesses after each pass that carried some.
const MEMORY: f64 = 0.9;

impl Chance {
    /// A kind of guesses of which this share is expected to come true.
    pub fn new(prior: f64) -> Chance {
        let (right, all) = (0.0, 0.0);
        Chance { right, all, prior }
    }

    /// The probability that a guess comes true if those before it did.
    pub fn value(&self) -> f64 {
        (self.right + PRIOR_WEIGHT * self.prior) / (self.all + PRIOR_WEIGHT)
    }

    /// Of so many guesses so many came true; the first that did not says nothing about those after it.
    pub fn learn(&mut self, proposed: usize, right: usize) {
        let tried = right + usize::from(right < proposed);
        self.right = MEMORY * self.right + right as f64;
        self.all = MEMORY * self.all + tried as f64;
    }

    /// Forgets a little: what was wrong some time ago may be right now.
    pub fn fade(&mut self) {
        self.right *= 0.99;
        self.all *= 0.99;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Lets a pace decide over `n` ids, where a pass over k ids takes `cost(k)` and guess number i of a pass comes true if `right(position)`;
    /// returns the time without guesses over that with them.
    fn simulate(n: usize, cost: impl Fn(usize) -> f64, right: impl Fn(usize) -> bool) -> f64 {
        let mut pace = Pace::measured();
        let mut chance = Chance::new(0.8);
        let (mut at, mut time) = (0, 0.0);
        while at < n {
            let proposed = pace.guesses(16.min(n - at - 1), chance.value(), 0.0);
            let good = (0..proposed).take_while(|i| right(at + i)).count();
            // Every third pass is disturbed a little, one in fifty a lot.
            let noise = 1.0 + 0.05 * (at % 3) as f64 + 2.0 * f64::from(u8::from(at % 50 == 49));
            let seconds = cost(1 + proposed) * 1e-3;
            time += seconds;
            pace.checked(
                &Checked {
                    certain: 1,
                    again: 0,
                    proposed,
                    right: good,
                    time: Duration::from_secs_f64(seconds * noise),
                },
                0.0,
            );
            match proposed {
                0 => chance.fade(),
                _ => chance.learn(proposed, good),
            }
            at += 1 + good;
        }
        n as f64 * cost(1) * 1e-3 / time
    }

    /// Bound by memory: an id more costs 5%. And bound by arithmetic: as much as a pass.
    fn cheap(n: usize) -> f64 {
        1.0 + 0.05 * (n - 1) as f64
    }

    fn dear(n: usize) -> f64 {
        n as f64
    }

    #[test]
    fn guesses_that_are_never_right_cost_less_than_three_percent() {
        for (n, floor) in [(40, 0.96), (100, 0.97), (300, 0.97), (3000, 0.97)] {
            for cost in [cheap, dear] {
                let speed = simulate(n, cost, |_| false);
                assert!(speed > floor, "{n} ids: {speed:.4}");
            }
        }
    }

    #[test]
    fn a_text_that_stops_repeating_loses_nothing_of_what_was_won() {
        for n in [200, 2000] {
            for cost in [cheap, dear] {
                let speed = simulate(n, cost, |at| at < n / 2);
                let floor = if cost(2) < 2.0 { 1.5 } else { 0.97 };
                assert!(speed > floor, "{n} ids: {speed:.4}");
                let speed = simulate(n, cost, |at| at % 3 == 0);
                assert!(speed > 0.97, "{n} ids, one of three: {speed:.4}");
            }
        }
    }

    #[test]
    fn guesses_that_are_right_are_many_where_they_are_cheap() {
        let speed = simulate(400, cheap, |_| true);
        assert!(speed > 6.0, "{speed:.2}");
        let speed = simulate(400, cheap, |at| at % 10 != 9);
        assert!(speed > 3.0, "{speed:.2}");
        let speed = simulate(400, dear, |_| true);
        assert!(speed > 0.97, "{speed:.2}");
        // An id more for a third of a pass, as without vector instructions for it.
        let third = |n: usize| 1.0 + (n - 1) as f64 / 3.0;
        let speed = simulate(400, third, |at| at % 20 != 19);
        assert!(speed > 1.7, "{speed:.2}");
    }

    #[test]
    fn times_between_and_beyond_what_was_measured() {
        let mut pace = Pace::measured();
        pace.times[1] = 1.0;
        assert!((pace.time(3) - 1.2).abs() < 1e-12);
        pace.times[5] = 2.0;
        assert_eq!(pace.time(3), 1.5);
        assert_eq!(pace.time(9), 3.0);
        assert_eq!(pace.time(SIZES + 50), pace.time(SIZES));
    }

    #[test]
    fn eager_guesses_do_not_depend_on_time() {
        assert_eq!(Pace::eager().guesses(7, 0.0, 1.0), 7);
        assert_eq!(Pace::eager().guesses(1000, 0.0, 1.0), MOST_GUESSES);
        assert_eq!(Pace::measured().guesses(7, 1.0, 0.0), 0);
    }
}

//! The ids that are left, with their logits: all of the vocabulary as a plain row, or a list once something was left out.
//!
//! A list is in order of ids, or of rank: greater logits first, ties by lower id. It is never empty and holds no logit of minus infinity.

use quern_kernels::Kernels;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Logits of a row are looked at in blocks of so many: a block whose greatest is below the bound is passed over.
const BLOCK: usize = 64;
/// Lanes in which a block's greatest is found.
const LANES: usize = 16;

/// An id with its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// The id.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

/// Greater logits first, ties by lower id: a total order, since logits are checked.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    let logits = b.logit.partial_cmp(&a.logit);
    logits.unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// `row`.
    All,
    /// `list` in order of ids.
    ById,
    /// `list` in order of rank.
    Ranked,
}

/// See the top of the file.
pub(super) struct Candidates {
    /// Logits of all ids.
    pub row: Vec<f32>,
    form: Form,
    list: Vec<Candidate>,
    /// Weights of what is left, in its order.
    weights: Vec<f32>,
    maxima: Vec<f32>,
    /// The same in order, as far as that is needed.
    sorted: Vec<f32>,
    /// Memory of filters, used again.
    pub spare: Spare,
}

/// What filters compute of candidates, in their order.
#[derive(Default)]
pub(super) struct Spare {
    /// Surprises in nats.
    pub surprise: Vec<f64>,
    /// Probabilities.
    pub probability: Vec<f64>,
    /// Some other number.
    pub number: Vec<f64>,
    /// Places.
    pub order: Vec<usize>,
    /// Whether it stays.
    pub keep: Vec<bool>,
}

/// An empty list that takes so many without growing.
pub(super) fn empty<T>(list: &mut Vec<T>, most: usize) -> &mut Vec<T> {
    list.clear();
    list.reserve(most);
    list
}

/// The greatest of a block; minus infinity of nothing.
fn greatest(block: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (m, &x) in lanes.iter_mut().zip(chunk) {
            *m = if x > *m { x } else { *m };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

impl Candidates {
    pub fn new() -> Candidates {
        Candidates {
            row: Vec::new(),
            form: Form::All,
            list: Vec::new(),
            weights: Vec::new(),
            maxima: Vec::new(),
            sorted: Vec::new(),
            spare: Spare::default(),
        }
    }

    /// Begins with all ids; at least one logit will be a number.
    pub fn start(&mut self, logits: &[f32]) {
        self.row.clear();
        self.row.extend_from_slice(logits);
        self.list.clear();
        self.form = Form::All;
    }

    /// What is left: the list, which is made if everything is.
    pub fn list(&mut self) -> &[Candidate] {
        self.by_id_or_rank();
        &self.list
    }

    /// The logits of what is left, in its order.
    pub fn logits(&self) -> impl Iterator<Item = f32> + '_ {
        let (row, list) = match self.form {
            Form::All => (&self.row[..], &[][..]),
            _ => (&[][..], &self.list[..]),
        };
        let numbers = row.iter().filter(|&&x| x > f32::NEG_INFINITY);
        numbers.copied().chain(list.iter().map(|c| c.logit))
    }

    /// What is left, best first.
    pub fn ranked(&mut self) -> &[Candidate] {
        self.by_id_or_rank();
        if self.form != Form::Ranked {
            self.list.sort_unstable_by(by_rank);
            self.form = Form::Ranked;
        }
        &self.list
    }

    fn by_id_or_rank(&mut self) {
        if self.form == Form::All {
            self.take_row(|x| x > f32::NEG_INFINITY);
        }
    }

    /// The list of those of the row that pass.
    fn take_row(&mut self, passes: impl Fn(f32) -> bool) {
        let ids = self.row.iter().enumerate();
        let passing = ids.filter(|&(_, &logit)| passes(logit));
        // However many pass the next time, memory is set aside once.
        empty(&mut self.list, self.row.len()).extend(passing.map(|(id, &logit)| Candidate {
            id: id as u32,
            logit,
        }));
        self.form = Form::ById;
    }

    /// The greatest logit.
    pub fn top(&self) -> f32 {
        match self.form {
            Form::All => greatest(&self.row),
            Form::Ranked => self.list.first().map_or(f32::NEG_INFINITY, |c| c.logit),
            Form::ById => self
                .list
                .iter()
                .fold(f32::NEG_INFINITY, |m, c| m.max(c.logit)),
        }
    }

    /// The id with the greatest logit, the lowest on a tie.
    pub fn best(&self, kernels: &Kernels) -> u32 {
        match self.form {
            Form::All => kernels.argmax(&self.row) as u32,
            _ => self
                .list
                .iter()
                .min_by(|a, b| by_rank(a, b))
                .map_or(0, |c| c.id),
        }
    }

    /// Changes the logits of the ids in `of` by what stands there. Infinities cannot be compared with each other, so what overflows
    /// becomes the greatest number or the least.
    pub fn change<T>(&mut self, of: &BTreeMap<u32, T>, change: impl Fn(f32, &T) -> f32) {
        let finite = |x: f32, by: &T| change(x, by).clamp(f32::MIN, f32::MAX);
        if self.form == Form::All {
            for (&id, by) in of {
                if let Some(x) = self.row.get_mut(id as usize)
                    && *x > f32::NEG_INFINITY
                {
                    *x = finite(*x, by);
                }
            }
            return;
        }
        for c in &mut self.list {
            if let Some(by) = of.get(&c.id) {
                c.logit = finite(c.logit, by);
            }
        }
        if self.form == Form::Ranked {
            self.list.sort_unstable_by(by_rank);
        }
    }

    /// Divides all logits; see [`Candidates::change`] about overflow.
    pub fn divide(&mut self, by: f32) {
        let divided = |x: &mut f32| {
            if *x > f32::NEG_INFINITY {
                *x = (*x / by).clamp(f32::MIN, f32::MAX);
            }
        };
        match self.form {
            Form::All => self.row.iter_mut().for_each(divided),
            _ => self.list.iter_mut().map(|c| &mut c.logit).for_each(divided),
        }
        // Different logits may have become equal.
        if self.form == Form::Ranked {
            self.list.sort_unstable_by(by_rank);
        }
    }

    /// Keeps one id.
    pub fn keep_only(&mut self, id: u32) {
        let logit = self.top();
        self.list.clear();
        self.list.push(Candidate { id, logit });
        self.form = Form::Ranked;
    }

    /// Keeps the `k` best, at least one.
    pub fn keep_best(&mut self, k: usize) {
        let k = k.max(1);
        match self.form {
            Form::All => self.take_best(k),
            Form::ById if k < self.list.len() => {
                self.list.select_nth_unstable_by(k - 1, by_rank);
                self.list.truncate(k);
                self.list.sort_unstable_by(by_rank);
                self.form = Form::Ranked;
            }
            _ => {
                self.ranked();
                self.list.truncate(k);
            }
        }
    }

    /// Keeps those of which `passes` says so of their place in the list; the best of all stays in any case.
    pub fn keep_where(&mut self, passes: impl Fn(usize, &Candidate) -> bool) {
        self.by_id_or_rank();
        let best = self.list.iter().copied().min_by(by_rank);
        let mut at = 0;
        self.list.retain(|c| {
            at += 1;
            passes(at - 1, c)
        });
        if self.list.is_empty() {
            self.list.extend(best);
        }
    }

    /// Leaves out the `n` best, of more than `n`.
    pub fn drop_best(&mut self, n: usize) {
        self.ranked();
        self.list.drain(..n.min(self.list.len().saturating_sub(1)));
    }

    /// Keeps those whose logit is at least this, and the best.
    pub fn keep_from(&mut self, least: f32) {
        match self.form {
            Form::All => {
                let least = least.min(self.top());
                self.take_row(|x| x >= least && x > f32::NEG_INFINITY);
            }
            _ => self.keep_where(|_, c| c.logit >= least),
        }
    }

    /// The `k` best of the row as a list by rank. The `k`-th greatest of the blocks' maxima is a lower bound of the `k`-th greatest logit: no block
    /// below it needs to be looked into.
    fn take_best(&mut self, k: usize) {
        let blocks = self.row.chunks(BLOCK);
        self.maxima.clear();
        self.maxima.extend(blocks.clone().map(greatest));
        let mut bound = f32::NEG_INFINITY;
        if k < self.maxima.len() {
            self.sorted.clone_from(&self.maxima);
            let (_, &mut kth, _) = self
                .sorted
                .select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            bound = kth;
        }
        empty(&mut self.list, self.row.len());
        for (i, (block, &max)) in blocks.zip(&self.maxima).enumerate() {
            if max < bound {
                continue;
            }
            for (j, &logit) in block.iter().enumerate() {
                if logit >= bound && logit > f32::NEG_INFINITY {
                    let id = (i * BLOCK + j) as u32;
                    self.list.push(Candidate { id, logit });
                }
            }
        }
        if k < self.list.len() {
            self.list.select_nth_unstable_by(k - 1, by_rank);
            self.list.truncate(k);
        }
        self.list.sort_unstable_by(by_rank);
        self.form = Form::Ranked;
    }

    /// Weights of what is left in its order, relative to the greatest, and their sum in the kernels' order.
    pub fn weights(&mut self, kernels: &Kernels) -> (&[f32], f32) {
        empty(&mut self.weights, self.row.len());
        match self.form {
            Form::All => self.weights.extend_from_slice(&self.row),
            _ => self.weights.extend(self.list.iter().map(|c| c.logit)),
        }
        let (_, sum) = kernels.softmax_exp(&mut self.weights);
        (&self.weights, sum)
    }

    /// Keeps those of at least this weight, the greatest being 1.
    pub fn keep_weights(&mut self, kernels: &Kernels, least: f32) {
        self.weights(kernels);
        let weights = std::mem::take(&mut self.weights);
        self.keep_where(|at, _| weights[at] >= least);
        self.weights = weights;
    }

    /// Keeps the fewest best whose weights reach this share of all.
    pub fn keep_share(&mut self, kernels: &Kernels, share: f32) {
        let all = self.form == Form::All;
        if self.form == Form::ById {
            self.ranked();
        }
        let (_, sum) = self.weights(kernels);
        let goal = f64::from(share) * f64::from(sum);
        let weights = std::mem::take(&mut self.weights);
        let total = match all {
            true => self.row.len(),
            false => self.list.len(),
        };
        // Of a whole row only as many are put in order as it takes.
        let mut ranked = if all { BLOCK.min(total) } else { total };
        loop {
            if all {
                self.take_best(ranked);
            }
            let mut reached = 0.0f64;
            let enough = self.list.iter().enumerate().position(|(i, c)| {
                let at = if all { c.id as usize } else { i };
                reached += f64::from(weights[at]);
                reached >= goal
            });
            if let Some(at) = enough {
                self.list.truncate(at + 1);
                break;
            }
            if ranked == total {
                break;
            }
            let about = self.about(&weights, goal);
            ranked = about.max(4 * ranked).min(total);
        }
        self.weights = weights;
    }

    /// About how many of the row, best first, have weights that add up to `goal`: those of all steps of the logit down to where they do.
    fn about(&self, weights: &[f32], goal: f64) -> usize {
        const STEPS_PER_NAT: f32 = 16.0;
        const STEPS: usize = 512;
        let mut steps = [(0usize, 0.0f64); STEPS];
        let top = self.top();
        for (&logit, &weight) in self.row.iter().zip(weights) {
            let step = ((top - logit) * STEPS_PER_NAT) as usize;
            let (count, sum) = &mut steps[step.min(STEPS - 1)];
            *count += 1;
            *sum += f64::from(weight);
        }
        let mut so_far = (0, 0.0);
        for (count, sum) in steps {
            so_far = (so_far.0 + count, so_far.1 + sum);
            if so_far.1 >= goal {
                break;
            }
        }
        so_far.0
    }

    /// Draws one with weights `exp((logit - greatest) / temperature)`: the first in order of ids at which the running f64 sum exceeds `u` times the whole.
    pub fn draw(&mut self, kernels: &Kernels, temperature: f32, u: f64) -> u32 {
        if self.form == Form::Ranked {
            self.list.sort_unstable_by_key(|c| c.id);
            self.form = Form::ById;
        }
        // The greatest is subtracted first, so that a tiny temperature cannot make infinity minus infinity.
        let top = self.top();
        let scaled = |x: f32| (x - top) / temperature;
        empty(&mut self.weights, self.row.len());
        match self.form {
            Form::All => self.weights.extend(self.row.iter().map(|&x| scaled(x))),
            _ => self
                .weights
                .extend(self.list.iter().map(|c| scaled(c.logit))),
        }
        kernels.softmax_exp(&mut self.weights);
        let sum: f64 = self.weights.iter().map(|&w| f64::from(w)).sum();
        let goal = u * sum;
        let mut reached = 0.0f64;
        let mut drawn = 0;
        for (at, &weight) in self.weights.iter().enumerate() {
            if weight > 0.0 {
                drawn = at;
                reached += f64::from(weight);
                if reached > goal {
                    break;
                }
            }
        }
        // The greatest logit has weight 1, so something was drawn.
        match self.form {
            Form::All => drawn as u32,
            _ => self.list.get(drawn).map_or(0, |c| c.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::logits;
    use super::*;

    fn sorted(row: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = row
            .iter()
            .enumerate()
            .filter(|&(_, &x)| x > f32::NEG_INFINITY)
            .map(|(id, &logit)| Candidate {
                id: id as u32,
                logit,
            })
            .collect();
        all.sort_by(by_rank);
        all
    }

    #[test]
    fn the_best_of_a_row_are_those_of_a_sorted_one() {
        let mut rows: Vec<Vec<f32>> = [1usize, 63, 64, 65, 500, 5000]
            .iter()
            .map(|&n| logits(n, n as u32))
            .collect();
        // Many equal ones, and a row with little left.
        rows.push((0..3000).map(|i| (i % 7) as f32).collect());
        rows.push(vec![0.0; 1000]);
        let mut few = vec![f32::NEG_INFINITY; 2000];
        for at in [3, 700, 701, 1999] {
            few[at] = at as f32 / 700.0;
        }
        rows.push(few);
        for row in rows {
            let expected = sorted(&row);
            for k in [1, 2, 3, 7, 40, 100, 1000, 6000] {
                let mut c = Candidates::new();
                c.start(&row);
                c.keep_best(k);
                let n = k.min(expected.len());
                assert_eq!(c.ranked(), &expected[..n], "{} of {}", k, row.len());
                assert_eq!(c.top(), expected[0].logit);
                // The same of a list.
                let mut c = Candidates::new();
                c.start(&row);
                c.list();
                c.keep_best(k);
                assert_eq!(c.list(), &expected[..n]);
            }
        }
    }

    #[test]
    fn something_always_stays() {
        let row = [0.0, 3.0, f32::NEG_INFINITY, 3.0];
        let mut c = Candidates::new();
        c.start(&row);
        c.keep_where(|_, _| false);
        assert_eq!(c.list(), [Candidate { id: 1, logit: 3.0 }]);
        c.start(&row);
        c.drop_best(9);
        assert_eq!(c.list(), [Candidate { id: 0, logit: 0.0 }]);
        c.start(&row);
        c.keep_from(9.0);
        assert_eq!(c.list().len(), 2);
    }
}
